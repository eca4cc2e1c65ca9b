//! What a PodDisruptionBudget says to an eviction. Source: `checkAndDecrement` of `pkg/registry/core/pod/storage/eviction.go`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use wharf_machinery::disruption;
use wharf_machinery::selector::LabelSelector;
use wharf_types::k8s::api::core::v1::{Pod, PodStatus};
use wharf_types::k8s::api::policy::v1::PodDisruptionBudget;
use wharf_types::meta::{StatusCause, Time};
use wharf_types::{ApiError, Gvr};

use crate::verbs::write::whole_seconds;

/// Evictions that a budget's controller may not have seen yet.
const DISRUPTED_PODS_MAX: usize = 2000;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
const RETRY_AFTER_S: i32 = 10;

/// How a pod may be evicted, as far as the pod itself tells.
#[derive(Debug, PartialEq, Eq)]
pub enum Ask {
    /// It disrupts nothing; if it could still become ready, it must be the very version that was looked at.
    Nobody {
        same_version: bool,
    },
    Budget,
}

pub fn ask(pod: &Pod) -> Ask {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    match phase {
        _ if pod.metadata.deletion_timestamp.is_some() => Ask::Nobody { same_version: false },
        "Succeeded" | "Failed" => Ask::Nobody { same_version: false },
        "Pending" => Ask::Nobody { same_version: true },
        _ => Ask::Budget,
    }
}

/// True where the budget covers the pod; one without a selector covers none.
pub fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let Some(selector) = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()) else { return false };
    let none = BTreeMap::new();
    LabelSelector::from_meta(selector).matches(pod.metadata.labels.as_ref().unwrap_or(&none))
}

/// True where evicting the pod costs nothing of the budget: it is unhealthy, and others keep the application going or the
/// budget lets such pods go always.
pub fn is_free(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    if pod.status.as_ref().is_some_and(is_ready) {
        return false;
    }
    let policy = budget.spec.as_ref().and_then(|spec| spec.unhealthy_pod_eviction_policy.as_deref());
    let status = budget.status.clone().unwrap_or_default();
    let (healthy, desired) = (status.current_healthy.unwrap_or_default(), status.desired_healthy.unwrap_or_default());
    policy == Some("AlwaysAllow") || healthy >= desired && desired > 0
}

fn is_ready(status: &PodStatus) -> bool {
    status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Takes one disruption from the budget, or says why there is none.
pub fn take(budget: &mut PodDisruptionBudget, pod: &str, now: Timestamp) -> Result<(), ApiError> {
    let name = budget.metadata.name.clone().unwrap_or_default();
    let generation = budget.metadata.generation.unwrap_or_default();
    let status = budget.status.get_or_insert_default();
    let allowed = status.disruptions_allowed.unwrap_or_default();
    let disrupted = status.disrupted_pods.get_or_insert_default();
    if status.observed_generation.unwrap_or_default() < generation {
        return Err(not_counted(&name));
    }
    if allowed < 0 {
        return Err(forbidden(&name, "pdb disruptions allowed is negative"));
    }
    if disrupted.len() > DISRUPTED_PODS_MAX {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(forbidden(&name, why));
    }
    if allowed == 0 {
        let mut conditions = status.conditions.iter().flatten();
        let condition = conditions.find(|condition| condition.type_ == disruption::DISRUPTION_ALLOWED);
        let why = match condition.filter(|condition| condition.reason == disruption::SYNC_FAILED) {
            Some(failed) => format!(
                "The disruption budget {name} does not allow evicting pods currently because it failed sync: {}",
                failed.message
            ),
            None => format!(
                "The disruption budget {name} needs {} healthy pods and has {} currently",
                status.desired_healthy.unwrap_or_default(),
                status.current_healthy.unwrap_or_default()
            ),
        };
        return Err(refused(0, why));
    }
    // The controller is told of the pod, so that it does not count it as available any more.
    disrupted.insert(pod.to_owned(), Time(whole_seconds(now)));
    status.disruptions_allowed = Some(allowed - 1);
    if allowed == 1 {
        disruption::update_condition(status, whole_seconds(now));
    }
    Ok(())
}

/// The controller has not caught up with the budget, or with the pod.
pub fn not_counted(budget: &str) -> ApiError {
    refused(RETRY_AFTER_S, format!("The disruption budget {budget} is still being processed by the server."))
}

fn refused(retry_after_s: i32, why: String) -> ApiError {
    let mut error = ApiError::too_many_requests(REFUSED, retry_after_s);
    let cause = StatusCause { reason: Some("DisruptionBudget".to_owned()), message: Some(why), field: None };
    error.details.get_or_insert_default().causes = Some(vec![cause]);
    error
}

fn forbidden(name: &str, why: &str) -> ApiError {
    // Upstream names the resource in the singular.
    let subject = Gvr { group: "policy".into(), version: "v1".into(), resource: "poddisruptionbudget".into() };
    ApiError::forbidden(&subject, name, why)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn budget(status: Value) -> PodDisruptionBudget {
        let object = json!({"metadata": {"name": "b", "generation": 2}, "spec": {}, "status": status});
        serde_json::from_value(object).expect("a budget")
    }

    /// What is left of the budget, or the cause that the refusal names.
    #[track_caller]
    fn check(status: Value, expected: Result<i32, &str>) {
        let mut budget = budget(status);
        let taken = take(&mut budget, "p", Timestamp::UNIX_EPOCH);
        let left = budget.status.and_then(|status| status.disruptions_allowed);
        let told = taken.map(|()| left.unwrap_or_default()).map_err(|error| match &error.details {
            Some(details) if error.code == 429 => {
                details.causes.clone().and_then(|causes| causes[0].message.clone()).unwrap_or_default()
            }
            _ => error.message,
        });
        assert_eq!(told, expected.map_err(str::to_owned));
    }

    #[test]
    fn a_budget_is_spent_one_by_one() {
        check(json!({"observedGeneration": 2, "disruptionsAllowed": 2}), Ok(1));
        check(json!({"observedGeneration": 2, "disruptionsAllowed": 1}), Ok(0));
        check(
            json!({"observedGeneration": 2, "disruptionsAllowed": 0, "desiredHealthy": 3, "currentHealthy": 2}),
            Err("The disruption budget b needs 3 healthy pods and has 2 currently"),
        );
        check(
            json!({"observedGeneration": 1, "disruptionsAllowed": 5}),
            Err("The disruption budget b is still being processed by the server."),
        );
        check(
            json!({"observedGeneration": 2, "disruptionsAllowed": -1}),
            Err(r#"poddisruptionbudget.policy "b" is forbidden: pdb disruptions allowed is negative"#),
        );
        let failed = json!([{"type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed", "message": "so", "lastTransitionTime": "2024-01-01T00:00:00Z"}]);
        check(
            json!({"observedGeneration": 2, "disruptionsAllowed": 0, "conditions": failed}),
            Err("The disruption budget b does not allow evicting pods currently because it failed sync: so"),
        );
    }

    #[test]
    fn the_last_disruption_is_written_down() {
        let mut budget = budget(json!({"observedGeneration": 2, "disruptionsAllowed": 1}));
        take(&mut budget, "p", Timestamp::UNIX_EPOCH).expect("one is left");
        let status = budget.status.expect("status");
        assert!(status.disrupted_pods.expect("a map").contains_key("p"));
        assert_eq!(status.conditions.expect("conditions")[0].reason, "InsufficientPods");
    }

    #[test]
    fn an_unhealthy_pod_goes_where_the_policy_lets_it() {
        let pod = |ready: &str| -> Pod {
            let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]});
            serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).expect("a pod")
        };
        let mut held = budget(json!({"currentHealthy": 1, "desiredHealthy": 2}));
        assert!(!is_free(&held, &pod("False")) && !is_free(&held, &pod("True")));
        held.spec.get_or_insert_default().unhealthy_pod_eviction_policy = Some("AlwaysAllow".to_owned());
        assert!(is_free(&held, &pod("False")) && !is_free(&held, &pod("True")));
        let kept = budget(json!({"currentHealthy": 2, "desiredHealthy": 2}));
        assert!(is_free(&kept, &pod("False")));
        assert!(!is_free(&budget(json!({})), &pod("False")), "a budget that was never counted");
    }

    #[test]
    fn pods_that_do_not_run_ask_nobody() {
        let pod = |phase: &str| serde_json::from_value::<Pod>(json!({"status": {"phase": phase}})).expect("a pod");
        assert_eq!(ask(&pod("Pending")), Ask::Nobody { same_version: true });
        assert_eq!(ask(&pod("Failed")), Ask::Nobody { same_version: false });
        assert_eq!(ask(&pod("Running")), Ask::Budget);
    }
}
