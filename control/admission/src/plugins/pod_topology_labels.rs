//! Copies the zone and the region of a pod's node to the pod's labels, as it is bound.
//!
//! Source: `plugin/pkg/admission/podtopologylabels` (KEP-4742).

use std::collections::BTreeMap;

use async_trait::async_trait;
use wharf_registry::Subresource;
use wharf_types::k8s::api::core::v1::{Binding, Pod};
use wharf_types::{ApiError, Gvr};

use crate::{Attributes, Notes, Operation, Plugin, Reader};

const NODES: Gvr = super::core_v1("nodes");
const LABELS: &[&str] = &["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

pub struct PodTopologyLabels;

#[async_trait]
impl Plugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, write: &mut Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        if !write.about("", "pods") || !matches!(write.subresource, None | Some(Subresource::Binding)) {
            return Ok(());
        }
        let (meta, node) = if let Some(binding) = write.object.as_mut().and_then(|it| it.downcast_mut::<Binding>()) {
            (&mut binding.metadata, binding.target.name.clone().filter(|_| is_node(binding.target.kind.as_deref())))
        } else if let Some(pod) = write.object.as_mut().and_then(|it| it.downcast_mut::<Pod>()) {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
            (&mut pod.metadata, node)
        } else {
            return Ok(());
        };
        // A node that is not there is not this plugin's to refuse.
        let node = node.filter(|name| !name.is_empty()).and_then(|name| cluster.get(&NODES, None, &name));
        let Some(labels) = node.as_ref().and_then(|node| node.meta().labels.as_ref()) else { return Ok(()) };
        let place: BTreeMap<String, String> = LABELS
            .iter()
            .filter_map(|label| labels.get_key_value(*label))
            .map(|(label, value)| (label.clone(), value.clone()))
            .collect();
        if !place.is_empty() {
            meta.labels.get_or_insert_default().extend(place);
        }
        Ok(())
    }
}

fn is_node(kind: Option<&str>) -> bool {
    matches!(kind, None | Some("" | "Node"))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Cluster, json, run, write};
    use super::*;
    use serde_json::json;
    use wharf_types::k8s::api::core::v1::Node;

    #[tokio::test]
    async fn a_pod_learns_its_zone_as_it_is_bound() {
        let labels = json!({"topology.kubernetes.io/zone": "z", "kubernetes.io/os": "linux"});
        let cluster =
            Cluster::default().with("nodes", json::<Node>(json!({"metadata": {"name": "n1", "labels": labels}})));
        for (node, expected) in [("n1", Some("z")), ("n2", None)] {
            let pod: Pod = json(json!({"metadata": {"name": "web", "namespace": "default"}}));
            let mut write = write(Operation::Create, "pods", pod).through(Subresource::Binding);
            let binding: Binding = json(json!({"metadata": {"name": "web"}, "target": {"kind": "Node", "name": node}}));
            write.object = Some(Box::new(binding));
            run(&PodTopologyLabels, &mut write, &cluster).await.expect("admitted");
            let labels = write.object.expect("the binding").meta().labels.clone().unwrap_or_default();
            assert_eq!(labels.get("topology.kubernetes.io/zone").map(String::as_str), expected);
            assert!(!labels.contains_key("kubernetes.io/os"));
        }
    }
}
