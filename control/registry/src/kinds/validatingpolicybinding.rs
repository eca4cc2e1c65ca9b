//! ValidatingAdmissionPolicyBindings: where a policy holds, and with which parameters.
//!
//! Source: `pkg/registry/admissionregistration/validatingadmissionpolicybinding`.

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;

use super::{created, generation, name};
use crate::admission::{policy, rules};
use crate::checks;
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct ValidatingPolicyBindings;

const ACTIONS: &[&str] = &["Audit", "Deny", "Warn"];

impl Strategy for ValidatingPolicyBindings {
    type Object = ValidatingAdmissionPolicyBinding;

    fn default(&self, binding: &mut ValidatingAdmissionPolicyBinding) {
        binding.spec.match_resources.iter_mut().for_each(rules::default_match);
    }

    fn prepare_for_create(&self, binding: &mut ValidatingAdmissionPolicyBinding) {
        binding.metadata.generation = Some(1);
    }

    fn prepare_for_update(
        &self,
        binding: &mut ValidatingAdmissionPolicyBinding,
        old: &ValidatingAdmissionPolicyBinding,
    ) {
        let changed = binding.spec != old.spec;
        generation(&mut binding.metadata, &old.metadata, changed);
    }

    fn validate(&self, binding: &ValidatingAdmissionPolicyBinding) -> Errors {
        let (spec, path) = (&binding.spec, Path::new("spec"));
        let (params, resources) = (spec.param_ref.as_ref(), spec.match_resources.as_ref());
        let mut errors = policy::validate_binding(&spec.policy_name, params, resources, &path);
        errors.extend(validate_actions(&spec.validation_actions, &path.child("validationActions")));
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, binding: &ValidatingAdmissionPolicyBinding, now: Timestamp) -> Vec<Value> {
        let (spec, meta) = (&binding.spec, &binding.metadata);
        let params = policy::param_ref_cell(spec.param_ref.as_ref());
        vec![name(meta), spec.policy_name.clone().into(), params.into(), created(meta, now)]
    }
}

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    Column::new(
        "PolicyName",
        "string",
        "PolicyName indicates the policy definition which the policy binding binded to",
    ),
    Column::new("ParamRef", "string", "ParamRef indicates the param resource which sets the configration param"),
    AGE,
];

fn validate_actions(actions: &[String], path: &Path) -> Errors {
    let (mut errors, mut seen) = (Vec::new(), std::collections::BTreeSet::new());
    for (index, action) in actions.iter().enumerate() {
        let path = path.index(index);
        errors.extend(checks::one_of(action, ACTIONS, &path));
        if !seen.insert(action.as_str()) {
            errors.push(Error::duplicate(&path, action));
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.push(Error::invalid(path, checks::json(actions), why));
    }
    if seen.is_empty() {
        errors.push(Error::required(path, "at least one validation action is required"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells};

    #[test]
    fn a_binding_names_its_policy_and_what_to_do() {
        check(&ValidatingPolicyBindings, "{spec: {policyName: p, validationActions: [Deny, Audit]}}", &[]);
        check(
            &ValidatingPolicyBindings,
            "{spec: {}}",
            &[
                "spec.policyName: Required value",
                "spec.validationActions: Required value: at least one validation action is required",
            ],
        );
        check(
            &ValidatingPolicyBindings,
            "{spec: {policyName: p, validationActions: [Deny, Warn, Warn, Shout]}}",
            &[
                "spec.validationActions[2]: Duplicate value: \"Warn\"",
                "spec.validationActions[3]: Unsupported value: \"Shout\": supported values: \"Audit\", \"Deny\", \"Warn\"",
                "spec.validationActions: Invalid value: [\"Deny\",\"Warn\",\"Warn\",\"Shout\"]: must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)",
            ],
        );
    }

    #[test]
    fn parameters_are_named_or_selected() {
        check(
            &ValidatingPolicyBindings,
            "{spec: {policyName: p, validationActions: [Deny], paramRef: {name: a/b, selector: {}}}}",
            &[
                "spec.paramRef.name: Invalid value: \"a/b\": may not contain '/'",
                "spec.paramRef.name: Forbidden: name and selector are mutually exclusive",
                "spec.paramRef.selector: Forbidden: name and selector are mutually exclusive",
                "spec.paramRef.parameterNotFoundAction: Required value",
            ],
        );
        check(
            &ValidatingPolicyBindings,
            "{spec: {policyName: p, validationActions: [Deny], paramRef: {parameterNotFoundAction: Maybe}}}",
            &[
                "spec.paramRef: Required value: one of name or selector must be specified",
                "spec.paramRef.parameterNotFoundAction: Unsupported value: \"Maybe\": supported values: \"Deny\", \"Allow\"",
            ],
        );
    }

    #[test]
    fn policy_and_parameters_are_shown() {
        let meta = "{name: b, creationTimestamp: '2024-05-01T10:00:00Z'}";
        let cells = |params: &str, expected: &str| {
            let body = format!("{{metadata: {meta}, spec: {{policyName: p, paramRef: {params}}}}}");
            check_cells(&ValidatingPolicyBindings, &body, expected);
        };
        cells("{name: x, namespace: n}", "b | p | n/x | 120m");
        cells("{name: x}", "b | p | */x | 120m");
        cells("{}", "b | p | <unset> | 120m");
    }
}
