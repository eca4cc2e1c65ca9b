//! Refuses pods that keep others off more than a node. Off by default.
//!
//! Source: `plugin/pkg/admission/antiaffinity`.

use async_trait::async_trait;
use wharf_types::ApiError;
use wharf_types::k8s::api::core::v1::Pod;

use crate::{Attributes, Notes, Operation, Plugin, Reader};

const HOSTNAME: &str = "kubernetes.io/hostname";

pub struct LimitPodHardAntiAffinityTopology;

#[async_trait]
impl Plugin for LimitPodHardAntiAffinityTopology {
    fn name(&self) -> &'static str {
        "LimitPodHardAntiAffinityTopology"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, write: &Attributes, _cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        let Some(pod) = write.new_as::<Pod>().filter(|_| write.is("", "pods")) else { return Ok(()) };
        let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()?.pod_anti_affinity.as_ref());
        let terms = affinity.and_then(|it| it.required_during_scheduling_ignored_during_execution.as_deref());
        match terms.unwrap_or_default().iter().find(|term| term.topology_key != HOSTNAME) {
            None => Ok(()),
            Some(term) => Err(write.forbidden(format_args!(
                "affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {} but only key {HOSTNAME} is allowed",
                term.topology_key
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Cluster, json, run, write};
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn only_nodes_are_kept_apart() {
        for (key, allowed) in [(HOSTNAME, true), ("topology.kubernetes.io/zone", false)] {
            let terms = json!([{"topologyKey": key}]);
            let affinity = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}});
            let pod: Pod = json(json!({"metadata": {"name": "web"}, "spec": {"containers": [], "affinity": affinity}}));
            let mut write = write(Operation::Create, "pods", pod);
            let verdict = run(&LimitPodHardAntiAffinityTopology, &mut write, &Cluster::default()).await;
            assert_eq!(verdict.is_ok(), allowed, "{key}");
        }
    }
}
