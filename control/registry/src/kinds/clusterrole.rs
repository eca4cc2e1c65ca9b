//! ClusterRoles: what may be done anywhere, on paths that are no resources too. One with an aggregation rule is the sum of
//! the ClusterRoles that the rule selects; a controller keeps it so.

use jiff::Timestamp;
use serde_json::Value;
use wharf_machinery::selector;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::rbac::v1::ClusterRole;

use super::rbac;
use crate::strategy::{Column, Strategy};

#[derive(Debug)]
pub struct ClusterRoles;

impl Strategy for ClusterRoles {
    type Object = ClusterRole;

    fn validate(&self, role: &ClusterRole) -> Errors {
        let mut errors = rbac::validate_rules(role.rules.as_ref(), false);
        let Some(aggregation) = &role.aggregation_rule else { return errors };
        let path = Path::new("aggregationRule").child("clusterRoleSelectors");
        let selectors = aggregation.cluster_role_selectors.as_deref().unwrap_or_default();
        if selectors.is_empty() {
            let why = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            errors.push(Error::required(&path, why));
        }
        for (index, selector) in selectors.iter().enumerate() {
            errors.extend(selector::validate(selector, &path.index(index)));
        }
        errors
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

    fn cells(&self, role: &ClusterRole, _: Timestamp) -> Vec<Value> {
        rbac::role_cells(&role.metadata)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::check;

    #[test]
    fn paths_are_allowed_here() {
        check(&ClusterRoles, "{rules: [{nonResourceURLs: ['/a/*'], verbs: [get]}]}", &[]);
    }

    #[test]
    fn an_aggregation_selects_something() {
        check(&ClusterRoles, "{aggregationRule: {clusterRoleSelectors: [{matchLabels: {a: b}}]}}", &[]);
        check(
            &ClusterRoles,
            "{aggregationRule: {}}",
            &[
                "aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil",
            ],
        );
    }
}
