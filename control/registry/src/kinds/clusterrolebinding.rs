//! ClusterRoleBindings: who has a role everywhere.

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::Errors;
use wharf_types::k8s::api::rbac::v1::ClusterRoleBinding;

use super::rbac;
use crate::strategy::{Column, Strategy};

#[derive(Debug)]
pub struct ClusterRoleBindings;

impl Strategy for ClusterRoleBindings {
    type Object = ClusterRoleBinding;

    fn default(&self, binding: &mut ClusterRoleBinding) {
        rbac::default_binding(&mut binding.role_ref, binding.subjects.as_mut());
    }

    fn validate(&self, binding: &ClusterRoleBinding) -> Errors {
        rbac::validate_binding(&binding.role_ref, binding.subjects.as_ref(), false)
    }

    fn validate_update(&self, new: &ClusterRoleBinding, old: &ClusterRoleBinding) -> Errors {
        rbac::validate_role_ref_update(&new.role_ref, &old.role_ref)
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        rbac::validate_name(name)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &rbac::binding_columns(
            "RoleRef can only reference a ClusterRole in the global namespace. If the RoleRef cannot be resolved, the Authorizer must return an error. This field is immutable.",
            [
                "Users in the clusterRoleBinding",
                "Groups in the clusterRoleBinding",
                "ServiceAccounts in the clusterRoleBinding",
            ],
        );
        COLUMNS
    }

    fn cells(&self, binding: &ClusterRoleBinding, now: Timestamp) -> Vec<Value> {
        rbac::binding_cells(&binding.metadata, &binding.role_ref, binding.subjects.as_ref(), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::check;

    #[test]
    fn a_role_of_a_namespace_cannot_be_bound_everywhere() {
        check(
            &ClusterRoleBindings,
            "{roleRef: {kind: Role, name: a}, subjects: [{kind: ServiceAccount, name: s}]}",
            &[
                "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
                "subjects[0].namespace: Required value",
            ],
        );
        check(&ClusterRoleBindings, "{roleRef: {kind: ClusterRole, name: 'system:a'}}", &[]);
    }
}
