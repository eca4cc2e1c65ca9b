//! Roles: what may be done in one namespace.

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::Errors;
use wharf_types::k8s::api::rbac::v1::Role;

use super::rbac;
use crate::strategy::{Column, Strategy};

#[derive(Debug)]
pub struct Roles;

impl Strategy for Roles {
    type Object = Role;

    fn validate(&self, role: &Role) -> Errors {
        rbac::validate_rules(role.rules.as_ref(), true)
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        rbac::validate_name(name)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        rbac::ROLE_COLUMNS
    }

    fn cells(&self, role: &Role, _: Timestamp) -> Vec<Value> {
        rbac::role_cells(&role.metadata)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells};

    #[test]
    fn a_rule_is_of_resources_and_whole() {
        check(&Roles, "{rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]}", &[]);
        check(&Roles, "{}", &[]);
        check(
            &Roles,
            "{rules: [{}, {apiGroups: [''], resources: [a, b], resourceNames: [x], verbs: ['*']}]}",
            &[
                "rules[0].verbs: Required value: verbs must contain at least one value",
                "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
                "rules[0].resources: Required value: resource rules must supply at least one resource",
                "rules[1].resourceNames: Required value: resource names cannot apply to multiple resources",
            ],
        );
        check(
            &Roles,
            "{rules: [{nonResourceURLs: [/a], resources: [pods], verbs: [get]}]}",
            &[
                "rules[0].nonResourceURLs: Invalid value: [\"/a\"]: namespaced rules cannot apply to non-resource URLs",
                "rules[0].nonResourceURLs: Invalid value: [\"/a\"]: rules cannot apply to both regular resources and non-resource URLs",
            ],
        );
    }

    #[test]
    fn names_are_segments_of_a_path() {
        assert!(Roles.validate_name("system:a/b").contains(&"may not contain '/'".to_owned()));
        assert!(Roles.validate_name("extension-apiserver:Reader").is_empty());
    }

    #[test]
    fn the_day_of_its_making_is_shown() {
        check_cells(
            &Roles,
            "{metadata: {name: a, creationTimestamp: '2024-05-01T10:00:00Z'}}",
            "a | 2024-05-01T10:00:00Z",
        );
    }
}
