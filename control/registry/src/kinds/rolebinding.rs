//! RoleBindings: who has a role in one namespace.

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::Errors;
use wharf_types::k8s::api::rbac::v1::RoleBinding;

use super::rbac;
use crate::strategy::{Column, Strategy};

#[derive(Debug)]
pub struct RoleBindings;

impl Strategy for RoleBindings {
    type Object = RoleBinding;

    fn default(&self, binding: &mut RoleBinding) {
        rbac::default_binding(&mut binding.role_ref, binding.subjects.as_mut());
    }

    fn validate(&self, binding: &RoleBinding) -> Errors {
        rbac::validate_binding(&binding.role_ref, binding.subjects.as_ref(), true)
    }

    fn validate_update(&self, new: &RoleBinding, old: &RoleBinding) -> Errors {
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
            "RoleRef can reference a Role in the current namespace or a ClusterRole in the global namespace. If the RoleRef cannot be resolved, the Authorizer must return an error. This field is immutable.",
            ["Users in the roleBinding", "Groups in the roleBinding", "ServiceAccounts in the roleBinding"],
        );
        COLUMNS
    }

    fn cells(&self, binding: &RoleBinding, now: Timestamp) -> Vec<Value> {
        rbac::binding_cells(&binding.metadata, &binding.role_ref, binding.subjects.as_ref(), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, check_update, created};

    #[test]
    fn groups_are_filled_in() {
        created(
            &RoleBindings,
            "{metadata: {name: a}, roleRef: {kind: Role, name: r}, subjects: [{kind: User, name: u}, {kind: ServiceAccount, name: s, apiGroup: ''}]}",
            r#"{"metadata":{"name":"a"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"r"},
               "subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"u"},{"kind":"ServiceAccount","name":"s"}]}"#,
        );
    }

    #[test]
    fn roles_and_subjects_are_of_known_kinds() {
        check(
            &RoleBindings,
            "{roleRef: {kind: Thing, name: '', apiGroup: x}, subjects: [{kind: User, name: ''}, {kind: Robot, name: r}, {kind: ServiceAccount, name: A, apiGroup: x}]}",
            &[
                "roleRef.apiGroup: Unsupported value: \"x\": supported values: \"rbac.authorization.k8s.io\"",
                "roleRef.kind: Unsupported value: \"Thing\": supported values: \"ClusterRole\", \"Role\"",
                "roleRef.name: Required value",
                "subjects[0].name: Required value",
                "subjects[0].name: Invalid value: \"\": user name cannot be empty",
                "subjects[1].kind: Unsupported value: \"Robot\": supported values: \"Group\", \"ServiceAccount\", \"User\"",
                "subjects[2].name: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                "subjects[2].apiGroup: Unsupported value: \"x\": supported values: \"\"",
            ],
        );
    }

    #[test]
    fn the_role_never_changes() {
        check_update(
            &RoleBindings,
            "{roleRef: {kind: Role, name: a}}",
            "{roleRef: {kind: ClusterRole, name: a}}",
            &[
                "roleRef: Invalid value: {\"APIGroup\":\"rbac.authorization.k8s.io\",\"Kind\":\"ClusterRole\",\"Name\":\"a\"}: cannot change roleRef",
            ],
        );
    }

    #[test]
    fn subjects_are_shown_by_kind() {
        check_cells(
            &RoleBindings,
            "{metadata: {name: b, creationTimestamp: '2024-05-01T11:59:00Z'}, roleRef: {kind: Role, name: r}, subjects: [{kind: User, name: u}, {kind: User, name: v}, {kind: ServiceAccount, name: s, namespace: n}]}",
            "b | Role/r | 60s | u, v |  | n/s",
        );
    }
}
