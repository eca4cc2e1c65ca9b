//! The condition of a PodDisruptionBudget, which the eviction of a pod and the disruption controller both write.
//!
//! Source: `k8s.io/component-helpers/apps/poddisruptionbudget` and `meta.SetStatusCondition`.

use jiff::Timestamp;
use wharf_types::k8s::api::policy::v1::PodDisruptionBudgetStatus;
use wharf_types::meta::{Condition, Time};

pub const DISRUPTION_ALLOWED: &str = "DisruptionAllowed";
pub const SYNC_FAILED: &str = "SyncFailed";

/// Says whether the budget allows a disruption.
pub fn update_condition(status: &mut PodDisruptionBudgetStatus, now: Timestamp) {
    let allowed = status.disruptions_allowed.unwrap_or_default() > 0;
    let (value, reason) = if allowed { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let condition = Condition {
        type_: DISRUPTION_ALLOWED.to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message: String::new(),
        observed_generation: status.observed_generation,
        last_transition_time: Time(now),
    };
    set_condition(status.conditions.get_or_insert_default(), condition);
}

/// Sets a condition; its time is kept where its status stays.
pub fn set_condition(conditions: &mut Vec<Condition>, mut condition: Condition) {
    match conditions.iter_mut().find(|held| held.type_ == condition.type_) {
        Some(held) => {
            if held.status == condition.status {
                condition.last_transition_time = held.last_transition_time.clone();
            }
            *held = condition;
        }
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_that_of_the_last_change() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut status = PodDisruptionBudgetStatus { disruptions_allowed: Some(2), ..Default::default() };
        let mut check = |allowed, now, expected: &str| {
            status.disruptions_allowed = Some(allowed);
            update_condition(&mut status, at(now));
            let [condition] = &status.conditions.as_ref().unwrap()[..] else { panic!("one condition") };
            let since = condition.last_transition_time.0.as_second();
            assert_eq!(format!("{} {} {since}", condition.status, condition.reason), expected);
        };
        check(2, 10, "True SufficientPods 10");
        check(1, 20, "True SufficientPods 10");
        check(0, 30, "False InsufficientPods 30");
    }
}
