//! What the status of a budget should say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use wharf_machinery::disruption;
use wharf_types::k8s::api::core::v1::Pod;
use wharf_types::k8s::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use wharf_types::k8s::apimachinery::pkg::util::intstr::IntOrString;
use wharf_types::meta::{Condition, Time};

use super::scale::Owned;
use crate::{owners, pods};

/// How long an evicted pod may take until its deletion is seen. Source: `DeletionTimeout`.
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);

/// What one step does.
#[derive(Debug)]
pub(super) struct Plan {
    pub status: PodDisruptionBudgetStatus,
    pub no_pods: bool,
    pub failed: Option<String>,
    /// When a pod that should have been deleted counts again.
    pub again: Option<Duration>,
}

/// Pure: same budget, pods, scales and time, same plan.
pub(super) fn plan(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    scale: &dyn Fn(&Pod) -> Owned,
    now: Timestamp,
) -> Plan {
    let held = budget.status.clone().unwrap_or_default();
    let (expected, desired) = match wanted(budget, pods, scale) {
        Ok(wanted) => wanted,
        Err(why) => {
            let status = failed(held, &why, now);
            return Plan { status, no_pods: pods.is_empty(), failed: Some(why), again: None };
        }
    };
    let (disrupted, again) = disrupted(&held, pods, now);
    let healthy = pods.iter().filter(|pod| is_healthy(pod, &disrupted)).count();
    let healthy = i32::try_from(healthy).unwrap_or(i32::MAX);
    // A budget without pods allows nothing, so that it is safe when its first pods come.
    let allowed = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
    let mut status = PodDisruptionBudgetStatus {
        conditions: held.conditions,
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disrupted_pods: Some(disrupted).filter(|pods| !pods.is_empty()),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        observed_generation: budget.metadata.generation,
    };
    disruption::update_condition(&mut status, pods::time(now).0);
    Plan { status, no_pods: pods.is_empty(), failed: None, again }
}

/// How many pods there should be, and how many of them must be healthy.
fn wanted(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    scale: &dyn Fn(&Pod) -> Owned,
) -> Result<(i32, i32), String> {
    let empty = Default::default();
    let spec = budget.spec.as_ref().unwrap_or(&empty);
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(unavailable), _) => {
            let expected = expected(pods, scale)?;
            Ok((expected, (expected - scaled(unavailable, expected)?).max(0)))
        }
        (None, Some(IntOrString::Int(count))) => Ok((i32::try_from(pods.len()).unwrap_or(i32::MAX), *count)),
        (None, Some(share)) => {
            let expected = expected(pods, scale)?;
            Ok((expected, scaled(share, expected)?))
        }
        (None, None) => Ok((0, 0)),
    }
}

/// What the controllers of these pods want, all together.
fn expected(pods: &[Arc<Pod>], scale: &dyn Fn(&Pod) -> Owned) -> Result<i32, String> {
    let (mut seen, mut sum) = (BTreeSet::new(), 0_i32);
    for pod in pods {
        match scale(pod) {
            Owned::By(scale) if seen.insert(scale.uid.clone()) => sum = sum.saturating_add(scale.replicas),
            Owned::By(_) | Owned::ByNobody => {}
            Owned::ByUnknown(why) => return Err(why),
        }
    }
    Ok(sum)
}

/// A count, or a share of `total` rounded up.
fn scaled(value: &IntOrString, total: i32) -> Result<i32, String> {
    match value {
        IntOrString::Int(count) => Ok(*count),
        IntOrString::String(text) => {
            let percent = text.strip_suffix('%').and_then(|digits| digits.parse::<i64>().ok());
            let percent = percent.ok_or_else(|| format!("invalid value for IntOrString: {text:?}"))?;
            Ok(i32::try_from((percent * i64::from(total) + 99) / 100).unwrap_or(i32::MAX))
        }
    }
}

/// Pods that were evicted and are still there, and when the first of them counts again.
fn disrupted(
    held: &PodDisruptionBudgetStatus,
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> (BTreeMap<String, Time>, Option<Duration>) {
    let (mut still, mut again) = (BTreeMap::new(), None::<Duration>);
    for pod in pods.iter().filter(|pod| !pods::is_terminating(pod)) {
        let name = owners::name(&**pod);
        let Some(since) = held.disrupted_pods.as_ref().and_then(|pods| pods.get(name)) else { continue };
        let left = DELETION_TIMEOUT - now.duration_since(since.0);
        if left.is_negative() {
            tracing::warn!(pod = name, "an evicted pod was not deleted");
            continue;
        }
        still.insert(name.to_owned(), since.clone());
        let left = left.unsigned_abs();
        again = Some(again.map_or(left, |other| other.min(left)));
    }
    (still, again)
}

fn is_healthy(pod: &Pod, disrupted: &BTreeMap<String, Time>) -> bool {
    !pods::is_terminating(pod) && !disrupted.contains_key(owners::name(pod)) && pods::is_ready(pod)
}

/// The status of a budget that could not be counted.
fn failed(held: PodDisruptionBudgetStatus, why: &str, now: Timestamp) -> PodDisruptionBudgetStatus {
    let mut status = PodDisruptionBudgetStatus { disruptions_allowed: Some(0), ..held };
    let condition = Condition {
        type_: disruption::DISRUPTION_ALLOWED.to_owned(),
        status: "False".to_owned(),
        reason: disruption::SYNC_FAILED.to_owned(),
        message: why.to_owned(),
        observed_generation: status.observed_generation,
        last_transition_time: pods::time(now),
    };
    disruption::set_condition(status.conditions.get_or_insert_default(), condition);
    status
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::scale::Scale;
    use super::*;
    use crate::pods::fixtures as testing;

    fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
        let object = json!({"metadata": {"name": "b", "generation": 3}, "spec": spec, "status": status});
        serde_json::from_value(object).expect("a budget")
    }

    /// Three pods of a set of four, of which one is not ready.
    fn pods() -> Vec<Arc<Pod>> {
        vec![testing::ready("a", 60).arc(), testing::ready("b", 60).arc(), testing::ready("c", 60).unready().arc()]
    }

    fn of_one_set(_: &Pod) -> Owned {
        Owned::By(Scale { uid: "s".to_owned(), replicas: 4 })
    }

    #[track_caller]
    fn check(budget: &PodDisruptionBudget, scale: &dyn Fn(&Pod) -> Owned, expected: &str) {
        let plan = plan(budget, &pods(), scale, testing::now());
        let status = plan.status;
        let number = |count: Option<i32>| count.unwrap_or_default();
        let condition = status.conditions.and_then(|conditions| conditions.into_iter().next()).expect("a condition");
        let shown = format!(
            "expected={} desired={} healthy={} allowed={} disrupted={:?} {}",
            number(status.expected_pods),
            number(status.desired_healthy),
            number(status.current_healthy),
            number(status.disruptions_allowed),
            status.disrupted_pods.unwrap_or_default().keys().collect::<Vec<_>>(),
            condition.reason,
        );
        assert_eq!(shown, expected);
    }

    #[test]
    fn healthy_pods_beyond_what_is_desired_may_go() {
        check(
            &budget(json!({"minAvailable": 1}), json!({})),
            &of_one_set,
            "expected=3 desired=1 healthy=2 allowed=1 disrupted=[] SufficientPods",
        );
        check(
            &budget(json!({"minAvailable": "30%"}), json!({})),
            &of_one_set,
            "expected=4 desired=2 healthy=2 allowed=0 disrupted=[] InsufficientPods",
        );
        check(
            &budget(json!({"maxUnavailable": 3}), json!({})),
            &of_one_set,
            "expected=4 desired=1 healthy=2 allowed=1 disrupted=[] SufficientPods",
        );
    }

    #[test]
    fn an_evicted_pod_does_not_count_until_its_time_is_up() {
        let at = |ago_s: i64| (testing::now() - SignedDuration::from_secs(ago_s)).to_string();
        let recent = budget(json!({"minAvailable": 1}), json!({"disruptedPods": {"a": at(30), "gone": at(30)}}));
        check(&recent, &of_one_set, "expected=3 desired=1 healthy=1 allowed=0 disrupted=[\"a\"] InsufficientPods");
        let again = plan(&recent, &pods(), &of_one_set, testing::now()).again;
        assert_eq!(again, Some(Duration::from_secs(90)));
        let stale = budget(json!({"minAvailable": 1}), json!({"disruptedPods": {"a": at(121)}}));
        check(&stale, &of_one_set, "expected=3 desired=1 healthy=2 allowed=1 disrupted=[] SufficientPods");
    }

    #[test]
    fn a_budget_that_cannot_be_counted_allows_nothing() {
        let unknown = |_: &Pod| Owned::ByUnknown("jobs.batch does not implement the scale subresource".to_owned());
        check(
            &budget(json!({"maxUnavailable": 1}), json!({"disruptionsAllowed": 2, "expectedPods": 3})),
            &unknown,
            "expected=3 desired=0 healthy=0 allowed=0 disrupted=[] SyncFailed",
        );
        check(
            &budget(json!({"maxUnavailable": 1}), json!({})),
            &|_| Owned::ByNobody,
            "expected=0 desired=0 healthy=2 allowed=0 disrupted=[] InsufficientPods",
        );
    }
}
