//! A pod as the scheduler sees it: what filters and scores need, computed once.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Toleration};
use wharf_client::ObjectKey;
use wharf_machinery::placement;

use crate::resources::{Resources, pod_requests, pod_requests_for_score};

/// A port of the host: (address, protocol, port).
pub type HostPort = (String, String, i32);

pub struct PodInfo {
    pub key: ObjectKey,
    pub uid: String,
    pub pod: Arc<Pod>,
    pub priority: i32,
    pub requests: Resources,
    pub score_requests: Resources,
    pub host_ports: Vec<HostPort>,
}

impl PodInfo {
    pub fn new(pod: Arc<Pod>) -> Self {
        Self {
            key: ObjectKey::of(&*pod),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            priority: pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or_default(),
            requests: pod_requests(&pod),
            score_requests: pod_requests_for_score(&pod),
            host_ports: host_ports(&pod),
            pod,
        }
    }

    pub fn tolerations(&self) -> &[Toleration] {
        self.pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
    }

    /// `spec.nodeName`, empty while unbound.
    pub fn node_name(&self) -> &str {
        self.pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
    }

    pub fn scheduler_name(&self) -> &str {
        self.pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or_default()
    }

    /// The nodes that the pod names itself, if no other can be meant.
    pub fn named_nodes(&self) -> Option<BTreeSet<&str>> {
        self.pod.spec.as_ref().and_then(placement::named_nodes)
    }

    /// True for a pod that has ended or is going: it needs no node and takes nothing from one.
    pub fn finished(&self) -> bool {
        let phase = self.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    }

    pub fn deleting(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let containers =
        pod.spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    containers
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            let ip = port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".to_owned());
            Some((ip, port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), number))
        })
        .collect()
}
