//! MutatingAdmissionPolicyBindings: where a policy holds, and with which parameters.
//!
//! Source: `pkg/registry/admissionregistration/mutatingadmissionpolicybinding`.

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::{Errors, Path};
use wharf_types::k8s::api::admissionregistration::v1::MutatingAdmissionPolicyBinding;

use super::{created, generation, name};
use crate::admission::{policy, rules};

use super::validatingpolicybinding::COLUMNS;
use crate::strategy::{Column, Strategy};

#[derive(Debug)]
pub struct MutatingPolicyBindings;

impl Strategy for MutatingPolicyBindings {
    type Object = MutatingAdmissionPolicyBinding;

    fn default(&self, binding: &mut MutatingAdmissionPolicyBinding) {
        let spec = binding.spec.get_or_insert_default();
        spec.match_resources.iter_mut().for_each(rules::default_match);
    }

    fn prepare_for_create(&self, binding: &mut MutatingAdmissionPolicyBinding) {
        binding.metadata.generation = Some(1);
    }

    fn prepare_for_update(&self, binding: &mut MutatingAdmissionPolicyBinding, old: &MutatingAdmissionPolicyBinding) {
        let changed = binding.spec != old.spec;
        generation(&mut binding.metadata, &old.metadata, changed);
    }

    fn validate(&self, binding: &MutatingAdmissionPolicyBinding) -> Errors {
        let Some(spec) = &binding.spec else { return Vec::new() };
        let (path, policy) = (Path::new("spec"), spec.policy_name.as_deref().unwrap_or_default());
        let (params, resources) = (spec.param_ref.as_ref(), spec.match_resources.as_ref());
        let mut errors = policy::validate_binding(policy, params, resources, &path);
        let matched = path.child("matchResources");
        errors.extend(resources.map(|resources| rules::validate_mutable(resources, &matched)).unwrap_or_default());
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, binding: &MutatingAdmissionPolicyBinding, now: Timestamp) -> Vec<Value> {
        let (spec, meta) = (binding.spec.as_ref(), &binding.metadata);
        let policy = spec.and_then(|spec| spec.policy_name.clone()).unwrap_or_default();
        let params = policy::param_ref_cell(spec.and_then(|spec| spec.param_ref.as_ref()));
        vec![name(meta), policy.into(), params.into(), created(meta, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::check;

    #[test]
    fn a_binding_names_its_policy() {
        check(&MutatingPolicyBindings, "{spec: {policyName: p}}", &[]);
        check(&MutatingPolicyBindings, "{spec: {}}", &["spec.policyName: Required value"]);
        let rule = "{apiGroups: [''], apiVersions: [v1], operations: [DELETE], resources: [pods]}";
        check(
            &MutatingPolicyBindings,
            &format!("{{spec: {{policyName: p, matchResources: {{resourceRules: [{rule}]}}}}}}"),
            &[
                "spec.matchResources.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\"",
            ],
        );
    }
}
