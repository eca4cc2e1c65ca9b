//! Conditions that the server itself writes on pods.

use wharf_types::k8s::api::core::v1::{PodCondition, PodStatus};

/// Sets the condition of its type; the time of the last transition stays where the status does.
/// Source: `pkg/api/v1/pod.UpdatePodCondition`.
pub fn set(status: &mut PodStatus, mut condition: PodCondition) {
    let conditions = status.conditions.get_or_insert_default();
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
