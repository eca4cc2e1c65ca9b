//! PodDisruptionBudgets: how many pods of an application may be taken away on purpose.
//!
//! Source: `pkg/apis/policy/validation`, `pkg/registry/policy/poddisruptionbudget`. Who asks them is `pods/eviction`.

use jiff::Timestamp;
use serde_json::Value;
use wharf_machinery::selector;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use wharf_types::k8s::apimachinery::pkg::util::intstr::IntOrString;

use super::{created, name, spec_status};
use crate::checks;
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct PodDisruptionBudgets;

const UNHEALTHY_POLICIES: &[&str] = &["AlwaysAllow", "IfHealthyBudget"];

impl Strategy for PodDisruptionBudgets {
    type Object = PodDisruptionBudget;

    fn default(&self, budget: &mut PodDisruptionBudget) {
        budget.spec.get_or_insert_default();
        if let Some(status) = &mut budget.status {
            fill(status);
        }
    }

    fn prepare_for_create(&self, budget: &mut PodDisruptionBudget) {
        spec_status::created(budget);
        fill(budget.status.get_or_insert_default());
    }

    fn prepare_for_update(&self, budget: &mut PodDisruptionBudget, old: &PodDisruptionBudget) {
        spec_status::updated(budget, old);
    }

    fn prepare_for_status_update(&self, budget: &mut PodDisruptionBudget, old: &PodDisruptionBudget) {
        spec_status::status_updated(budget, old);
    }

    fn validate(&self, budget: &PodDisruptionBudget) -> Errors {
        budget.spec.as_ref().map_or_else(Vec::new, |spec| validate_spec(spec, &Path::new("spec")))
    }

    fn validate_status_update(&self, new: &PodDisruptionBudget, _old: &PodDisruptionBudget) -> Errors {
        let Some(status) = &new.status else { return Vec::new() };
        let path = Path::new("status");
        let conditions = status.conditions.as_deref().unwrap_or_default();
        let mut errors = checks::conditions(conditions, &path.child("conditions"));
        for (field, count) in [
            ("disruptionsAllowed", status.disruptions_allowed),
            ("currentHealthy", status.current_healthy),
            ("desiredHealthy", status.desired_healthy),
            ("expectedPods", status.expected_pods),
        ] {
            errors.extend(checks::non_negative(count.unwrap_or_default(), &path.child(field)));
        }
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new("Min Available", "string", "The minimum number of pods that must be available."),
            Column::new("Max Unavailable", "string", "The maximum number of pods that may be unavailable."),
            Column::new(
                "Allowed Disruptions",
                "integer",
                "Calculated number of pods that may be disrupted at this time.",
            ),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, budget: &PodDisruptionBudget, now: Timestamp) -> Vec<Value> {
        let spec = budget.spec.clone().unwrap_or_default();
        let allowed = budget.status.as_ref().and_then(|status| status.disruptions_allowed).unwrap_or_default();
        vec![
            name(&budget.metadata),
            shown(spec.min_available).into(),
            shown(spec.max_unavailable).into(),
            allowed.into(),
            created(&budget.metadata, now),
        ]
    }
}

fn shown(value: Option<IntOrString>) -> String {
    match value {
        None => "N/A".to_owned(),
        Some(IntOrString::Int(count)) => count.to_string(),
        Some(IntOrString::String(text)) => text,
    }
}

/// Counts that upstream writes even where they are zero.
fn fill(status: &mut PodDisruptionBudgetStatus) {
    for count in [
        &mut status.disruptions_allowed,
        &mut status.current_healthy,
        &mut status.desired_healthy,
        &mut status.expected_pods,
    ] {
        count.get_or_insert(0);
    }
}

fn validate_spec(spec: &PodDisruptionBudgetSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if spec.min_available.is_some() && spec.max_unavailable.is_some() {
        let why = "minAvailable and maxUnavailable cannot be both set";
        errors.push(Error::invalid(path, checks::json(spec), why));
    }
    for (field, value) in [("minAvailable", &spec.min_available), ("maxUnavailable", &spec.max_unavailable)] {
        let path = path.child(field);
        errors.extend(value.iter().flat_map(|value| checks::count_or_percent(value, &path)));
        errors.extend(value.iter().flat_map(|value| checks::at_most_all(value, &path)));
    }
    if let Some(labels) = &spec.selector {
        errors.extend(selector::validate(labels, &path.child("selector")));
    }
    if let Some(policy) = &spec.unhealthy_pod_eviction_policy {
        errors.extend(checks::one_of(policy, UNHEALTHY_POLICIES, &path.child("unhealthyPodEvictionPolicy")));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, created, object};

    #[test]
    fn a_budget_counts_in_one_way() {
        check(&PodDisruptionBudgets, "{spec: {minAvailable: 1, selector: {}}}", &[]);
        check(&PodDisruptionBudgets, "{spec: {maxUnavailable: 30%, unhealthyPodEvictionPolicy: AlwaysAllow}}", &[]);
        check(
            &PodDisruptionBudgets,
            "{spec: {minAvailable: -1, maxUnavailable: 101%, unhealthyPodEvictionPolicy: Sometimes}}",
            &[
                "spec: Invalid value: {\"maxUnavailable\":\"101%\",\"minAvailable\":-1,\"unhealthyPodEvictionPolicy\":\"Sometimes\"}: minAvailable and maxUnavailable cannot be both set",
                "spec.minAvailable: Invalid value: -1: must be greater than or equal to 0",
                "spec.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
                "spec.unhealthyPodEvictionPolicy: Unsupported value: \"Sometimes\": supported values: \"AlwaysAllow\", \"IfHealthyBudget\"",
            ],
        );
    }

    #[test]
    fn a_new_budget_allows_nothing() {
        created(
            &PodDisruptionBudgets,
            "{metadata: {name: b}, spec: {minAvailable: 1}, status: {disruptionsAllowed: 5}}",
            r#"{"metadata":{"name":"b","generation":1},"spec":{"minAvailable":1},
                "status":{"currentHealthy":0,"desiredHealthy":0,"disruptionsAllowed":0,"expectedPods":0}}"#,
        );
        check_cells(
            &PodDisruptionBudgets,
            "{metadata: {name: b}, spec: {maxUnavailable: 30%}, status: {disruptionsAllowed: 2}}",
            "b | N/A | 30% | 2 | <unknown>",
        );
    }

    #[test]
    fn a_status_has_good_conditions() {
        let with = |status: &str| object(&PodDisruptionBudgets, &format!("{{status: {status}}}"));
        let old = with("{}");
        let new = with(
            "{expectedPods: -1, conditions: [{type: 'a b', status: Maybe, reason: '-', message: '', lastTransitionTime: '2024-05-01T12:00:00Z'}]}",
        );
        let errors: Vec<String> =
            PodDisruptionBudgets.validate_status_update(&new, &old).iter().map(ToString::to_string).collect();
        let starts = [
            "status.conditions[0].type: Invalid value: \"a b\": name part must consist of",
            "status.conditions[0].status: Unsupported value: \"Maybe\": supported values: \"False\", \"True\", \"Unknown\"",
            "status.conditions[0].reason: Invalid value: \"-\": a condition reason must start with",
            "status.expectedPods: Invalid value: -1: must be greater than or equal to 0",
        ];
        assert_eq!(errors.len(), starts.len(), "{errors:#?}");
        assert!(errors.iter().zip(starts).all(|(error, start)| error.starts_with(start)), "{errors:#?}");
    }
}
