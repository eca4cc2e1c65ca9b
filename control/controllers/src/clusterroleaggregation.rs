//! Keeps each ClusterRole with an aggregation rule the sum of the ClusterRoles that it selects.
//!
//! Source of the behaviour: `k8s.io/kubernetes/pkg/controller/clusterroleaggregation`. Rules stand in the order of the roles'
//! names, each once; those of a sum may be summed in turn, so a change travels as far as it must.

use std::sync::Arc;

use async_trait::async_trait;
use kube::api::PostParams;
use kube::{Api, Client};
use wharf_client::{Action, Changed, Error, Informers, Lister, ObjectKey, Reconcile, Trigger};
use wharf_machinery::selector::LabelSelector;
use wharf_types::k8s::api::rbac::v1::{ClusterRole, PolicyRule};

use crate::call::{self, During as _};

pub struct ClusterRoleAggregation {
    client: Client,
    roles: Lister<ClusterRole>,
}

impl ClusterRoleAggregation {
    pub fn new(informers: &Informers) -> Self {
        Self { client: informers.client().clone(), roles: informers.of() }
    }
}

#[async_trait]
impl Reconcile for ClusterRoleAggregation {
    fn name(&self) -> &'static str {
        "clusterrole-aggregation-controller"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let roles = self.roles.clone();
        let sums = move |changed: &Changed<ClusterRole>| {
            let selects =
                |role: &ClusterRole| [&changed.old, &changed.new].into_iter().flatten().any(|of| selects(role, of));
            let mut keys: Vec<ObjectKey> = roles
                .list()
                .iter()
                .filter(|role| selects(role))
                .filter_map(|role| role.metadata.name.as_deref().map(ObjectKey::cluster))
                .collect();
            keys.push(changed.key.clone());
            keys
        };
        vec![Trigger::mapped(&self.roles, sums)]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(role) = self.roles.get(key).filter(|role| role.aggregation_rule.is_some()) else {
            return Ok(Action::done());
        };
        let rules = sum(&role, &self.roles.list());
        if same(role.rules.as_deref().unwrap_or_default(), &rules) {
            return Ok(Action::done());
        }
        let next = ClusterRole { rules: Some(rules), ..ClusterRole::clone(&role) };
        match Api::<ClusterRole>::all(self.client.clone()).replace(&key.name, &PostParams::default(), &next).await {
            // The change that came first wakes us again.
            Err(error) if call::is_conflict(&error) || call::is_not_found(&error) => {}
            result => drop(result.during("sum up cluster role", key)?),
        }
        Ok(Action::done())
    }
}

fn selects(role: &ClusterRole, of: &ClusterRole) -> bool {
    let selectors = role.aggregation_rule.iter().flat_map(|rule| rule.cluster_role_selectors.iter().flatten());
    let labels = of.metadata.labels.clone().unwrap_or_default();
    role.metadata.name != of.metadata.name
        && selectors.into_iter().any(|selector| LabelSelector::from_meta(selector).matches(&labels))
}

/// Pure: the rules of all that the role selects, each once.
fn sum(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Vec<PolicyRule> {
    let mut parts: Vec<&Arc<ClusterRole>> = all.iter().filter(|of| selects(role, of)).collect();
    parts.sort_unstable_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut rules: Vec<PolicyRule> = Vec::new();
    for rule in parts.into_iter().flat_map(|part| part.rules.iter().flatten()) {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    rules
}

/// Order says nothing.
fn same(a: &[PolicyRule], b: &[PolicyRule]) -> bool {
    a.len() == b.len() && a.iter().all(|rule| b.contains(rule))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn role(name: &str, label: &str, verb: &str) -> Arc<ClusterRole> {
        let rules = json!([{"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}]);
        let role = json!({"metadata": {"name": name, "labels": {label: "true"}}, "rules": rules});
        Arc::new(serde_json::from_value(role).expect("a role"))
    }

    #[test]
    fn a_sum_has_the_rules_of_its_parts_each_once() {
        let summed: ClusterRole = serde_json::from_value::<ClusterRole>(json!({
            "metadata": {"name": "sum", "labels": {"part": "true"}},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"part": "true"}}, {"matchLabels": {"more": "true"}}]},
        }))
        .expect("a role");
        let all = [
            role("b", "part", "list"),
            role("a", "more", "get"),
            role("c", "part", "list"),
            role("d", "other", "delete"),
            Arc::new(summed.clone()),
        ];
        let verbs: Vec<Value> = sum(&summed, &all).iter().map(|rule| json!(rule.verbs)).collect();
        assert_eq!(verbs, [json!(["get"]), json!(["list"])]);
    }
}
