//! Notices nodes that have gone silent, and keeps the taints that follow from a node's conditions.
//!
//! A node lives while its Lease, or its status, changes; how long it was silent is measured by our own clock, so clocks of nodes
//! may be wrong. Evicting pods is `tainteviction`'s.
//! Absent on purpose: zones and rate limits on tainting, which protect large clusters from a partition of the control plane.
//! Source of the behaviour: `k8s.io/kubernetes/pkg/controller/nodelifecycle`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;
use wharf_client::{Action, Changed, Clock, Error, Index, Informers, Lister, ObjectKey, Reconcile, Recorder, Trigger};
use wharf_types::k8s::api::coordination::v1::Lease;
use wharf_types::k8s::api::core::v1::{Node, NodeCondition, Pod, Taint};

use crate::call::{During as _, Failed, gone_is_fine};
use crate::{batch, owners, pods};

const LEASES: &str = "kube-node-lease";
/// How long a node may be silent. Source: `--node-monitor-grace-period`.
pub const GRACE: SignedDuration = SignedDuration::from_secs(50);
/// How long a node may take until its first status. Source: `--node-startup-grace-period`.
const STARTUP_GRACE: SignedDuration = SignedDuration::from_secs(60);

pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// A taint without execution effect for each condition, and the state of the condition that causes it.
const CONDITION_TAINTS: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that only the node can know.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

pub struct NodeLifecycle {
    client: Client,
    nodes: Lister<Node>,
    leases: Lister<Lease>,
    pods_on: Index<Pod>,
    pods: Lister<Pod>,
    /// What each node last said, and when we noticed.
    heard: Mutex<HashMap<ObjectKey, (Heartbeat, Timestamp)>>,
    grace: SignedDuration,
    recorder: Recorder,
    clock: Clock,
}

/// Whatever changes when a node shows that it lives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Heartbeat {
    renewed: Option<Timestamp>,
    reported: Option<Timestamp>,
}

impl NodeLifecycle {
    pub fn new(informers: &Informers, grace: SignedDuration, recorder: Recorder, clock: Clock) -> Self {
        let pods = informers.of::<Pod>();
        Self {
            client: informers.client().clone(),
            nodes: informers.of(),
            leases: informers.of(),
            pods_on: pods_on(&pods),
            pods,
            heard: Mutex::default(),
            grace,
            recorder,
            clock,
        }
    }

    /// How long the node has been silent.
    fn silence(&self, key: &ObjectKey, node: &Node, now: Timestamp) -> SignedDuration {
        let lease = self.leases.get(&ObjectKey::new(LEASES, &key.name));
        let heartbeat = Heartbeat {
            renewed: lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref().map(|time| time.0)),
            reported: condition(node, "Ready").and_then(|ready| ready.last_heartbeat_time.as_ref()).map(|time| time.0),
        };
        let mut heard = self.heard.lock();
        let entry = heard.entry(key.clone()).or_insert_with(|| (heartbeat.clone(), now));
        if entry.0 != heartbeat {
            *entry = (heartbeat, now);
        }
        now.duration_since(entry.1)
    }

    async fn write_conditions(&self, node: &Node, conditions: &[NodeCondition]) -> Result<(), Failed> {
        let patch = Patch::Merge(json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "status": {"conditions": conditions},
        }));
        let name = owners::name(node);
        let api = Api::<Node>::all(self.client.clone());
        let written = api.patch_status(name, &PatchParams::default(), &patch).await;
        gone_is_fine(written).during("write the status of node", name).map(|_| ())
    }

    async fn write_taints(&self, node: &Node, taints: &[Taint]) -> Result<(), Failed> {
        let patch = Patch::Merge(json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": taints},
        }));
        let name = owners::name(node);
        let api = Api::<Node>::all(self.client.clone());
        let written = api.patch(name, &PatchParams::default(), &patch).await;
        gone_is_fine(written).during("taint node", name).map(|_| ())
    }

    /// Pods of a node that is not ready are not ready either, whatever they said last.
    async fn mark_unready(&self, pods: Vec<Arc<Pod>>) -> Result<(), Failed> {
        let now = self.clock.now();
        let (_, error) = batch::all(pods, async |pod: Arc<Pod>| {
            let mut conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
            for ready in conditions.iter_mut().filter(|condition| condition.type_ == "Ready") {
                ready.status = "False".to_owned();
                ready.last_transition_time = Some(pods::time(now));
            }
            let patch = Patch::Merge(json!({
                "metadata": {"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version},
                "status": {"conditions": conditions},
            }));
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let api = Api::<Pod>::namespaced(self.client.clone(), namespace);
            let written = api.patch_status(owners::name(&*pod), &PatchParams::default(), &patch).await;
            gone_is_fine(written).during("mark as not ready pod", owners::name(&*pod)).map(|_| ())
        })
        .await;
        error.map_or(Ok(()), Err)
    }
}

#[async_trait]
impl Reconcile for NodeLifecycle {
    fn name(&self) -> &'static str {
        "node-lifecycle"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let lease_wakes = |changed: &Changed<Lease>| {
            let key = (&*changed.key.namespace == LEASES).then(|| ObjectKey::cluster(&changed.key.name));
            key.into_iter().collect()
        };
        vec![Trigger::primary(&self.nodes), Trigger::mapped(&self.leases, lease_wakes), Trigger::reads(&self.pods)]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(node) = self.nodes.get(key) else {
            self.heard.lock().remove(key);
            return Ok(Action::done());
        };
        let now = self.clock.now();
        let silence = self.silence(key, &node, now);
        let grace = if condition(&node, "Ready").is_some() { self.grace } else { STARTUP_GRACE };
        if silence >= grace
            && let Some(conditions) = silent_conditions(&node, now)
        {
            self.recorder.normal(&*node, "NodeNotReady", format!("Node {key} status is now: NodeNotReady"));
            self.write_conditions(&node, &conditions).await?;
            // The new status wakes this again.
            return Ok(Action::done());
        }
        if let Some(taints) = taints(&node, now) {
            self.write_taints(&node, &taints).await?;
        }
        if condition(&node, "Ready").is_some_and(|ready| ready.status != "True") {
            let ready = self.pods_on.get(&key.name).into_iter().filter(|pod| pods::is_ready(pod)).collect();
            self.mark_unready(ready).await?;
        }
        let left = Duration::try_from(grace - silence).ok().filter(|left| !left.is_zero());
        Ok(left.map_or(Action::done(), Action::requeue_after))
    }
}

/// An index of pods by node.
pub fn pods_on(pods: &Lister<Pod>) -> Index<Pod> {
    pods.index(|pod| {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        node.filter(|node| !node.is_empty()).into_iter().collect()
    })
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// The conditions of a node that is silent, if they do not say so yet.
fn silent_conditions(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let before = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let mut after = before.clone();
    for kind in REPORTED {
        match after.iter_mut().find(|condition| condition.type_ == kind) {
            Some(condition) if condition.status == "Unknown" => {}
            Some(condition) => {
                condition.status = "Unknown".to_owned();
                condition.reason = Some("NodeStatusUnknown".to_owned());
                condition.message = Some("Kubelet stopped posting node status.".to_owned());
                condition.last_transition_time = Some(pods::time(now));
            }
            None => after.push(NodeCondition {
                type_: kind.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(pods::time(now)),
            }),
        }
    }
    (after != before).then_some(after)
}

/// The taints that a node should have, if it has others.
fn taints(node: &Node, now: Timestamp) -> Option<Vec<Taint>> {
    let state = |kind: &str| condition(node, kind).map(|condition| condition.status.as_str());
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for (kind, cause, key) in CONDITION_TAINTS {
        if state(kind) == Some(cause) {
            wanted.push((key, "NoSchedule"));
            if kind == "Ready" {
                wanted.push((key, "NoExecute"));
            }
        }
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    // A node that has not said anything yet keeps what it was made with.
    let decides = |taint: &Taint| match taint.key.as_str() {
        NOT_READY | UNREACHABLE => state("Ready").is_some(),
        UNSCHEDULABLE => taint.effect == "NoSchedule",
        key => taint.effect == "NoSchedule" && CONDITION_TAINTS.iter().any(|(_, _, other)| *other == key),
    };
    let before = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let is_wanted = |taint: &Taint| wanted.contains(&(taint.key.as_str(), taint.effect.as_str()));
    let mut after: Vec<Taint> = before.iter().filter(|taint| !decides(taint) || is_wanted(taint)).cloned().collect();
    for (key, effect) in &wanted {
        if !after.iter().any(|taint| taint.key == *key && taint.effect == *effect) {
            let time_added = Some(pods::time(now));
            after.push(Taint { key: (*key).to_owned(), effect: (*effect).to_owned(), value: None, time_added });
        }
    }
    (after != before).then_some(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::fixtures::now;
    use wharf_types::k8s::api::core::v1::{NodeSpec, NodeStatus};

    /// Conditions as `Ready=True`, taints as `key:effect`.
    fn node(conditions: &str, taints: &[(&str, &str)]) -> Node {
        let conditions = conditions.split(' ').filter_map(|text| text.split_once('=')).map(|(kind, status)| {
            NodeCondition { type_: kind.to_owned(), status: status.to_owned(), ..NodeCondition::default() }
        });
        let taints = taints.iter().map(|(key, effect)| Taint {
            key: (*key).to_owned(),
            effect: (*effect).to_owned(),
            ..Taint::default()
        });
        Node {
            spec: Some(NodeSpec { taints: Some(taints.collect()), ..NodeSpec::default() }),
            status: Some(NodeStatus { conditions: Some(conditions.collect()), ..NodeStatus::default() }),
            ..Node::default()
        }
    }

    fn check(node: &Node, expected: Option<&[(&str, &str)]>) {
        let got = taints(node, now());
        let got: Option<Vec<_>> =
            got.as_ref().map(|taints| taints.iter().map(|taint| (taint.key.as_str(), taint.effect.as_str())).collect());
        assert_eq!(got.as_deref(), expected);
    }

    #[test]
    fn taints_follow_conditions_and_leave_others_alone() {
        check(&node("Ready=True", &[]), None);
        check(&node("Ready=True", &[(NOT_READY, "NoSchedule"), ("mine", "NoExecute")]), Some(&[("mine", "NoExecute")]));
        check(&node("Ready=False", &[]), Some(&[(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]));
        let before = [(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")];
        check(&node("Ready=Unknown", &before), Some(&[(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]));
        let pressure = "node.kubernetes.io/disk-pressure";
        check(&node("Ready=True DiskPressure=True", &[]), Some(&[(pressure, "NoSchedule")]));
    }

    #[test]
    fn a_new_node_keeps_its_taint_until_it_reports() {
        check(&node("", &[(NOT_READY, "NoSchedule")]), None);
    }

    #[test]
    fn a_cordoned_node_is_tainted_until_it_is_uncordoned() {
        let mut cordoned = node("Ready=True", &[]);
        cordoned.spec.get_or_insert_default().unschedulable = Some(true);
        check(&cordoned, Some(&[(UNSCHEDULABLE, "NoSchedule")]));
        check(&node("Ready=True", &[(UNSCHEDULABLE, "NoSchedule")]), Some(&[]));
    }

    #[test]
    fn a_silent_node_becomes_unknown_once() {
        let silent = node("Ready=True MemoryPressure=False", &[]);
        let conditions = silent_conditions(&silent, now()).expect("it has changed");
        let shown: Vec<_> =
            conditions.iter().map(|condition| (condition.type_.as_str(), condition.status.as_str())).collect();
        let kinds = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
        assert_eq!(shown, kinds.map(|kind| (kind, "Unknown")));
        assert_eq!(conditions[0].reason.as_deref(), Some("NodeStatusUnknown"));
        assert_eq!(conditions[2].reason.as_deref(), Some("NodeStatusNeverUpdated"));
        let noted = Node {
            status: Some(NodeStatus { conditions: Some(conditions), ..NodeStatus::default() }),
            ..Node::default()
        };
        assert_eq!(silent_conditions(&noted, now()), None);
    }
}
