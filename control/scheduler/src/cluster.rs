//! Nodes, and what the pods on them take: the scheduler's picture of the cluster.
//!
//! Changes cost O(1) each; nothing is recomputed from all pods. Bound and assumed pods count alike: an assumed pod is confirmed by
//! the watch, or taken back when its bind fails.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use indexmap::IndexMap;
use k8s_openapi::api::core::v1::{Node, Taint};

use crate::pod::{HostPort, PodInfo};
use crate::resources::Resources;

pub struct NodeInfo {
    pub name: Arc<str>,
    /// None while only pods of the node are known.
    pub node: Option<Arc<Node>>,
    pub allocatable: Resources,
    pub max_pods: i64,
    pub requested: Resources,
    /// With defaults for containers that ask for nothing.
    pub score_requested: Resources,
    pub host_ports: HashMap<HostPort, u32>,
    /// By UID.
    pub pods: HashSet<String>,
}

impl NodeInfo {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            node: None,
            allocatable: Resources::default(),
            max_pods: 0,
            requested: Resources::default(),
            score_requested: Resources::default(),
            host_ports: HashMap::new(),
            pods: HashSet::new(),
        }
    }

    pub fn taints(&self) -> &[Taint] {
        self.node
            .as_ref()
            .and_then(|node| node.spec.as_ref())
            .and_then(|spec| spec.taints.as_deref())
            .unwrap_or_default()
    }

    pub fn unschedulable(&self) -> bool {
        self.node.as_ref().and_then(|node| node.spec.as_ref()).and_then(|spec| spec.unschedulable).unwrap_or(false)
    }

    pub fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.node.as_ref()?.metadata.labels.as_ref()
    }

    fn set(&mut self, node: Arc<Node>) {
        let list = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
        self.allocatable = Resources::parse(list);
        let pods = list
            .and_then(|list| list.get("pods"))
            .and_then(|wire| wire.0.parse::<wharf_machinery::quantity::Quantity>().ok());
        self.max_pods = pods.map_or(0, |quantity| quantity.value());
        self.node = Some(node);
    }

    fn add(&mut self, pod: &PodInfo) {
        if self.pods.insert(pod.uid.clone()) {
            self.requested.add(&pod.requests);
            self.score_requested.add(&pod.score_requests);
            pod.host_ports.iter().for_each(|port| *self.host_ports.entry(port.clone()).or_default() += 1);
        }
    }

    fn remove(&mut self, pod: &PodInfo) {
        if self.pods.remove(&pod.uid) {
            self.requested.subtract(&pod.requests);
            self.score_requested.subtract(&pod.score_requests);
            for port in &pod.host_ports {
                if let Some(count) = self.host_ports.get_mut(port) {
                    *count -= 1;
                    if *count == 0 {
                        self.host_ports.remove(port);
                    }
                }
            }
        }
    }
}

#[derive(Default)]
pub struct Cluster {
    nodes: IndexMap<Arc<str>, NodeInfo>,
    /// Where each bound or assumed pod counts, by UID.
    placed: HashMap<String, (Arc<str>, Arc<PodInfo>)>,
    /// Where the next cycle begins to look, so that load spreads over nodes that are not all looked at.
    pub cursor: usize,
}

impl Cluster {
    pub fn nodes(&self) -> &IndexMap<Arc<str>, NodeInfo> {
        &self.nodes
    }

    pub fn node_count(&self) -> usize {
        self.nodes.values().filter(|info| info.node.is_some()).count()
    }

    pub fn set_node(&mut self, name: &str, node: Arc<Node>) {
        self.entry(name).set(node);
    }

    pub fn remove_node(&mut self, name: &str) {
        if let Some(info) = self.nodes.get_mut(name) {
            info.node = None;
        }
        self.prune(name);
    }

    /// Counts a pod on a node, moving it if it counted elsewhere (an assumption that the watch corrects).
    pub fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        if let Some((at, before)) = self.placed.get(&pod.uid) {
            if &**at == node && before.requests == pod.requests {
                return;
            }
            let uid = pod.uid.clone();
            self.displace(&uid);
        }
        let info = self.entry(node);
        info.add(&pod);
        let name = info.name.clone();
        self.placed.insert(pod.uid.clone(), (name, pod));
    }

    /// Returns true if the pod counted anywhere.
    pub fn displace(&mut self, uid: &str) -> bool {
        let Some((node, pod)) = self.placed.remove(uid) else { return false };
        if let Some(info) = self.nodes.get_mut(&node) {
            info.remove(&pod);
        }
        self.prune(&node);
        true
    }

    pub fn is_placed(&self, uid: &str) -> bool {
        self.placed.contains_key(uid)
    }

    fn entry(&mut self, name: &str) -> &mut NodeInfo {
        self.nodes.entry(name.into()).or_insert_with(|| NodeInfo::new(name))
    }

    fn prune(&mut self, name: &str) {
        if self.nodes.get(name).is_some_and(|info| info.node.is_none() && info.pods.is_empty()) {
            self.nodes.swap_remove(name);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    pub fn node(name: &str, cpu: &str) -> Arc<Node> {
        let allocatable = json!({ "cpu": cpu, "memory": "4Gi", "pods": "10" });
        Arc::new(serde_json::from_value(json!({ "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } }, "status": { "allocatable": allocatable } })).unwrap())
    }

    pub fn pod(name: &str, cpu: &str) -> PodInfo {
        let spec = json!({ "schedulerName": "default-scheduler", "containers": [{ "name": "c", "resources": { "requests": { "cpu": cpu } } }] });
        pod_with(name, spec)
    }

    pub fn pod_with(name: &str, spec: serde_json::Value) -> PodInfo {
        let metadata = json!({ "name": name, "namespace": "default", "uid": format!("uid-{name}") });
        PodInfo::new(Arc::new(serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap()))
    }

    #[test]
    fn sums_follow_pods_as_they_come_move_and_go() {
        let mut cluster = Cluster::default();
        cluster.set_node("a", node("a", "2"));
        cluster.set_node("b", node("b", "2"));
        let one = Arc::new(pod("one", "500m"));
        let asked = |cluster: &Cluster, name: &str| cluster.nodes()[name].requested.milli_cpu;
        cluster.place(one.clone(), "a");
        cluster.place(one.clone(), "a");
        assert_eq!(asked(&cluster, "a"), 500);
        cluster.place(one, "b");
        assert_eq!((asked(&cluster, "a"), asked(&cluster, "b")), (0, 500));
        cluster.remove_node("b");
        assert_eq!(cluster.node_count(), 1);
        assert!(cluster.displace("uid-one") && !cluster.displace("uid-one"));
        assert!(!cluster.nodes().contains_key("b"), "a node that is gone is forgotten with its last pod");
    }
}
