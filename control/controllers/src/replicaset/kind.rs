//! What the kinds that keep a number of pods have in common.
//!
//! A ReplicationController is a ReplicaSet whose selector is a map and whose status does not tell of pods that leave. Its
//! status and conditions are read and written in the ReplicaSet's words, as upstream's controller does by conversion.
//! Source: `k8s.io/kubernetes/pkg/controller/replication/conversion.go`.

use kube::core::NamespaceResourceScope;
use serde::Serialize;
use wharf_client::Informed;
use wharf_machinery::selector::LabelSelector;
use wharf_types::k8s::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use wharf_types::k8s::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};

/// An object that wants so many pods of one template.
pub trait Set: Informed + kube::Resource<Scope = NamespaceResourceScope> + PartialEq + Serialize {
    /// The name of the loop that looks after this kind.
    const LOOP: &'static str;

    /// None selects nothing.
    fn selector(&self) -> Option<LabelSelector>;

    fn template(&self) -> Option<&PodTemplateSpec>;

    fn replicas(&self) -> i32;

    fn min_ready_s(&self) -> i32;

    fn conditions(&self) -> Vec<ReplicaSetCondition>;

    /// The same object with this status, as far as its kind tells of it.
    fn with_status(&self, status: ReplicaSetStatus) -> Self;
}

impl Set for ReplicaSet {
    const LOOP: &'static str = "replicaset";

    fn selector(&self) -> Option<LabelSelector> {
        self.spec.as_ref().map(|spec| LabelSelector::from_meta(&spec.selector))
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn min_ready_s(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn conditions(&self) -> Vec<ReplicaSetCondition> {
        self.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default()
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        Self { status: Some(status), ..self.clone() }
    }
}

impl Set for ReplicationController {
    const LOOP: &'static str = "replicationcontroller";

    fn selector(&self) -> Option<LabelSelector> {
        self.spec.as_ref()?.selector.as_ref().map(LabelSelector::from_map)
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn min_ready_s(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn conditions(&self) -> Vec<ReplicaSetCondition> {
        let conditions = self.status.iter().flat_map(|status| status.conditions.iter().flatten().cloned());
        let of_set = |of: ReplicationControllerCondition| ReplicaSetCondition {
            last_transition_time: of.last_transition_time,
            message: of.message,
            reason: of.reason,
            status: of.status,
            type_: of.type_,
        };
        conditions.map(of_set).collect()
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        let of_controller = |of: ReplicaSetCondition| ReplicationControllerCondition {
            last_transition_time: of.last_transition_time,
            message: of.message,
            reason: of.reason,
            status: of.status,
            type_: of.type_,
        };
        let status = ReplicationControllerStatus {
            available_replicas: status.available_replicas,
            conditions: status.conditions.map(|conditions| conditions.into_iter().map(of_controller).collect()),
            fully_labeled_replicas: status.fully_labeled_replicas,
            observed_generation: status.observed_generation,
            ready_replicas: status.ready_replicas,
            replicas: status.replicas,
        };
        Self { status: Some(status), ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controllers_status_is_a_sets_without_pods_that_leave() {
        let condition = ReplicaSetCondition {
            type_: "ReplicaFailure".to_owned(),
            status: "True".to_owned(),
            reason: Some("FailedCreate".to_owned()),
            ..ReplicaSetCondition::default()
        };
        let status = ReplicaSetStatus {
            replicas: 3,
            ready_replicas: Some(2),
            terminating_replicas: Some(1),
            observed_generation: Some(4),
            conditions: Some(vec![condition.clone()]),
            ..ReplicaSetStatus::default()
        };
        let controller = ReplicationController::default().with_status(status.clone());
        assert_eq!(controller.conditions(), [condition]);
        let written = serde_json::to_value(&controller.status).expect("JSON");
        let expected = serde_json::json!({"replicas": 3, "readyReplicas": 2, "observedGeneration": 4, "conditions": [
            {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate"}]});
        assert_eq!(written, expected);
        let leaving = ReplicaSetStatus { terminating_replicas: Some(9), ..status };
        assert_eq!(controller.with_status(leaving), controller, "nothing to write");
    }

    #[test]
    fn a_controller_without_a_selector_selects_nothing() {
        assert!(ReplicationController::default().selector().is_none());
    }
}
