//! MutatingAdmissionPolicies: CEL expressions that change what is written.
//!
//! Source: `pkg/registry/admissionregistration/mutatingadmissionpolicy`, `validateMutatingAdmissionPolicySpec`.

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::admissionregistration::v1::{
    MutatingAdmissionPolicy, MutatingAdmissionPolicySpec, Mutation,
};

use super::{created, generation, name};
use crate::admission::expression::{self, Returns, Scope};
use crate::admission::{REINVOCATION_POLICIES, policy, required, rules};
use crate::strategy::{AGE, Column, NAME, Strategy};

const PATCH_TYPES: &[&str] = &["ApplyConfiguration", "JSONPatch"];

#[derive(Debug)]
pub struct MutatingPolicies;

impl Strategy for MutatingPolicies {
    type Object = MutatingAdmissionPolicy;

    fn default(&self, policy: &mut MutatingAdmissionPolicy) {
        let spec = policy.spec.get_or_insert_default();
        policy::default(&mut spec.failure_policy, spec.match_constraints.as_mut());
    }

    fn prepare_for_create(&self, policy: &mut MutatingAdmissionPolicy) {
        policy.metadata.generation = Some(1);
    }

    fn prepare_for_update(&self, policy: &mut MutatingAdmissionPolicy, old: &MutatingAdmissionPolicy) {
        let changed = policy.spec != old.spec;
        generation(&mut policy.metadata, &old.metadata, changed);
    }

    fn validate(&self, policy: &MutatingAdmissionPolicy) -> Errors {
        policy.spec.as_ref().map_or_else(Vec::new, |spec| validate_spec(spec, &Path::new("spec")))
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new(
                "Mutations",
                "integer",
                "Mutation indicates the number of mutations rules defined in this configuration",
            ),
            Column::new(
                "ParamKind",
                "string",
                "ParamKind specifies the kind of resources used to parameterize this policy",
            ),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, policy: &MutatingAdmissionPolicy, now: Timestamp) -> Vec<Value> {
        let spec = policy.spec.as_ref();
        let count = spec.and_then(|spec| spec.mutations.as_ref()).map_or(0, Vec::len);
        let params = policy::param_kind_cell(spec.and_then(|spec| spec.param_kind.as_ref()));
        vec![name(&policy.metadata), count.into(), params.into(), created(&policy.metadata, now)]
    }
}

fn validate_spec(spec: &MutatingAdmissionPolicySpec, path: &Path) -> Errors {
    let (params, constraints) = (spec.param_kind.as_ref(), spec.match_constraints.as_ref());
    let mut errors = policy::validate_head(spec.failure_policy.as_deref(), params, constraints, path);
    let matched = path.child("matchConstraints");
    errors.extend(constraints.map(|constraints| rules::validate_mutable(constraints, &matched)).unwrap_or_default());
    let mut scope = Scope { params: params.is_some(), ..Scope::default() };
    let conditions = spec.match_conditions.as_deref().unwrap_or_default();
    errors.extend(expression::validate_conditions(conditions, &scope, &path.child("matchConditions")));
    scope.composes = true;
    let variables = spec.variables.as_deref().unwrap_or_default();
    errors.extend(policy::validate_variables(variables, &mut scope, &path.child("variables")));
    scope.patches = true;
    let mutations = spec.mutations.as_deref().unwrap_or_default();
    if mutations.is_empty() {
        errors.push(Error::required(&path.child("mutations"), "mutations must contain at least one item"));
    }
    for (index, mutation) in mutations.iter().enumerate() {
        errors.extend(validate_mutation(mutation, &scope, &path.child("mutations").index(index)));
    }
    let reinvocation = spec.reinvocation_policy.as_deref().filter(|policy| !policy.is_empty());
    errors.extend(required(reinvocation, REINVOCATION_POLICIES, &path.child("reinvocationPolicy")));
    errors
}

fn validate_mutation(mutation: &Mutation, scope: &Scope, path: &Path) -> Errors {
    let kind = mutation.patch_type.as_str();
    let text = |expression: &Option<String>| expression.clone().unwrap_or_default();
    let apply = mutation.apply_configuration.as_ref().map(|apply| text(&apply.expression));
    let json = mutation.json_patch.as_ref().map(|patch| text(&patch.expression));
    // The member that the type asks for, and the one that it rules out.
    let (field, given, returns, other, unwanted) = match kind {
        "ApplyConfiguration" => ("applyConfiguration", apply, Returns::Object, "jsonPatch", json.is_some()),
        "JSONPatch" => ("jsonPatch", json, Returns::Patch, "applyConfiguration", apply.is_some()),
        "" => return vec![Error::required(&path.child("patchType"), "")],
        other => return vec![Error::not_supported(&path.child("patchType"), other, PATCH_TYPES)],
    };
    let mut errors = Vec::new();
    let expression_path = path.child(field).child("expression");
    match given.as_deref().map(str::trim) {
        None => {
            let why = format!("must be specified when patchType is {kind}");
            errors.push(Error::required(&path.child(field), why));
        }
        Some("") => errors.push(Error::required(&expression_path, "")),
        Some(text) => errors.extend(expression::check(text, scope, returns, &expression_path)),
    }
    if unwanted {
        let why = format!("must not be specified when patchType is {kind}");
        errors.push(Error::invalid(&path.child(other), format!("{{{other}}}"), why));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells};

    fn spec(mutation: &str) -> String {
        format!(
            "{{spec: {{reinvocationPolicy: Never, matchConstraints: {{resourceRules: [{{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [pods]}}]}}, mutations: [{mutation}]}}}}"
        )
    }

    #[test]
    fn a_policy_says_how_it_changes_what() {
        let apply = "{patchType: ApplyConfiguration, applyConfiguration: {expression: 'Object{metadata: Object.metadata{labels: {\"a\": \"b\"}}}'}}";
        check(&MutatingPolicies, &spec(apply), &[]);
        let patch = "{patchType: JSONPatch, jsonPatch: {expression: '[JSONPatch{op: \"add\", path: \"/metadata/labels\", value: {}}]'}}";
        check(&MutatingPolicies, &spec(patch), &[]);
        check(
            &MutatingPolicies,
            "{spec: {}}",
            &[
                "spec.matchConstraints: Required value",
                "spec.mutations: Required value: mutations must contain at least one item",
                "spec.reinvocationPolicy: Required value",
            ],
        );
    }

    #[test]
    fn the_patch_is_of_its_type() {
        check(
            &MutatingPolicies,
            &spec("{patchType: JSONPatch, applyConfiguration: {expression: 'Object{}'}}"),
            &[
                "spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch",
                "spec.mutations[0].applyConfiguration: Invalid value: \"{applyConfiguration}\": must not be specified when patchType is JSONPatch",
            ],
        );
        check(&MutatingPolicies, &spec("{}"), &["spec.mutations[0].patchType: Required value"]);
        check(
            &MutatingPolicies,
            &spec("{patchType: Odd}"),
            &[
                "spec.mutations[0].patchType: Unsupported value: \"Odd\": supported values: \"ApplyConfiguration\", \"JSONPatch\"",
            ],
        );
        check(
            &MutatingPolicies,
            &spec("{patchType: ApplyConfiguration, applyConfiguration: {expression: '[]'}}"),
            &[
                "spec.mutations[0].applyConfiguration.expression: Invalid value: \"[]\": must evaluate to Object but got list(dyn)",
            ],
        );
    }

    #[test]
    fn a_delete_changes_nothing() {
        let deleting = spec("{patchType: JSONPatch, jsonPatch: {expression: '[]'}}").replace("CREATE", "DELETE");
        check(
            &MutatingPolicies,
            &deleting,
            &[
                "spec.matchConstraints.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\"",
            ],
        );
    }

    #[test]
    fn mutations_are_counted() {
        let body = "{metadata: {name: p, creationTimestamp: '2024-05-01T10:00:00Z'}, spec: {mutations: [{patchType: JSONPatch}]}}";
        check_cells(&MutatingPolicies, body, "p | 1 | <unset> | 120m");
    }
}
