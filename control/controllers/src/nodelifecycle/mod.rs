//! Notices nodes that have gone silent, and keeps the taints that follow from a node's conditions.
//!
//! A node lives while its Lease, or its status, changes; how long it was silent is measured by our own clock, so clocks of nodes
//! may be wrong. Evicting pods is `tainteviction`'s; which nodes may lose theirs, and how fast, is told here by a taint.
//!
//! - [`taints`]: what follows from a node's conditions, purely. [`zones`]: how fast nodes of a zone may lose their pods.
//!
//! Source of the behaviour: `k8s.io/kubernetes/pkg/controller/nodelifecycle`.

mod taints;
mod zones;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Notify;
use wharf_client::events::Severity;
use wharf_client::{
    Action, Changed, Clock, Error, FENCE_LIMIT, Fences, Index, Informers, Lister, ObjectKey, Queue, Reconcile,
    Recorder, Trigger,
};
use wharf_types::k8s::api::coordination::v1::Lease;
use wharf_types::k8s::api::core::v1::{Node, NodeCondition, ObjectReference, Pod, Taint};

use self::taints::{Eviction, condition, is_evicting, silent_conditions, taints};
use self::zones::{Fact, Leave, Shift, Zones, place};
use crate::call::{During as _, Failed, gone_is_fine};
use crate::{batch, owners, pods};

pub use self::taints::{NOT_READY, UNREACHABLE};

const LEASES: &str = "kube-node-lease";
/// How long a node may be silent. Source: `--node-monitor-grace-period`.
pub const GRACE: SignedDuration = SignedDuration::from_secs(50);
/// How long a node may take until its first status. Source: `--node-startup-grace-period`.
const STARTUP_GRACE: SignedDuration = SignedDuration::from_secs(60);

pub struct NodeLifecycle {
    client: Client,
    nodes: Lister<Node>,
    leases: Lister<Lease>,
    pods_on: Index<Pod>,
    pods: Lister<Pod>,
    /// What each node last said, and when we noticed.
    heard: Mutex<HashMap<ObjectKey, (Heartbeat, Timestamp)>>,
    zones: Mutex<Zones>,
    /// All nodes are to be looked at: what they may do has changed.
    shifted: Arc<Notify>,
    /// Own writes: a step on an older version would ask its zone twice.
    written: Fences<Node>,
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
        let (nodes, pods) = (informers.of::<Node>(), informers.of::<Pod>());
        Self {
            client: informers.client().clone(),
            written: Fences::new(nodes.clone()),
            nodes,
            leases: informers.of(),
            pods_on: pods_on(&pods),
            pods,
            heard: Mutex::default(),
            zones: Mutex::default(),
            shifted: Arc::default(),
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

    /// Takes note of all nodes when one of them has changed in what counts for its zone.
    fn survey(&self, key: &ObjectKey, node: Option<&Node>, now: Timestamp) {
        let mut zones = self.zones.lock();
        if zones.fact(key) == node.map(Fact::of).as_ref() {
            return;
        }
        let nodes: BTreeMap<ObjectKey, Fact> =
            self.nodes.list().iter().map(|node| (ObjectKey::of(&**node), Fact::of(node))).collect();
        let (shift, before) = zones.update(nodes.clone(), now);
        drop(zones);
        for (key, fact) in nodes.iter().filter(|(key, _)| !before.contains_key(*key)) {
            self.tell(key, fact, "RegisteredNode", format!("Registered Node {key} in Controller"));
        }
        for (key, fact) in before.iter().filter(|(key, _)| !nodes.contains_key(*key)) {
            self.tell(key, fact, "RemovingNode", format!("Removing Node {key} from Controller"));
        }
        if shift == Shift::Resumed {
            // All were cut off from us, and have their time again to be heard.
            self.heard.lock().values_mut().for_each(|(_, since)| *since = now);
        }
        if shift != Shift::Nothing {
            tracing::info!(?shift, "nodes are not ready, or are again");
            self.shifted.notify_one();
        }
    }

    fn tell(&self, key: &ObjectKey, fact: &Fact, reason: &'static str, event: String) {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(key.name.to_string()),
            uid: Some(fact.uid.clone()),
            ..ObjectReference::default()
        };
        self.recorder.report(about, Severity::Normal, reason, format!("Node {key} event: {event}"));
    }

    /// What becomes of the node's pods, and when to ask again.
    fn eviction(&self, node: &Node, now: Timestamp) -> (Eviction, Option<Duration>) {
        let mut zones = self.zones.lock();
        if zones.stopped() {
            return (Eviction::Lifted, None);
        }
        let unready = condition(node, "Ready").is_some_and(|ready| ready.status != "True");
        if !unready || is_evicting(node) {
            return (Eviction::Kept, None);
        }
        match zones.leave(&place(node), now) {
            Leave::Now => (Eviction::Begun, None),
            Leave::In(left) => (Eviction::Kept, Some(left)),
            Leave::Never => (Eviction::Kept, None),
        }
    }

    async fn write_conditions(&self, node: &Node, conditions: &[NodeCondition]) -> Result<(), Failed> {
        let patch = Patch::Merge(json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "status": {"conditions": conditions},
        }));
        let name = owners::name(node);
        let api = Api::<Node>::all(self.client.clone());
        let written = api.patch_status(name, &PatchParams::default(), &patch).await;
        let written = gone_is_fine(written).during("write the status of node", name)?;
        written.into_iter().for_each(|written| self.written.wrote(&ObjectKey::of(node), &written));
        Ok(())
    }

    async fn write_taints(&self, node: &Node, taints: &[Taint]) -> Result<(), Failed> {
        let patch = Patch::Merge(json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": taints},
        }));
        let name = owners::name(node);
        let api = Api::<Node>::all(self.client.clone());
        let written = api.patch(name, &PatchParams::default(), &patch).await;
        let written = gone_is_fine(written).during("taint node", name)?;
        written.into_iter().for_each(|written| self.written.wrote(&ObjectKey::of(node), &written));
        Ok(())
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
        let (nodes, shifted) = (self.nodes.clone(), self.shifted.clone());
        let all_wake = move |queue: Queue<ObjectKey>| -> BoxFuture<'static, ()> {
            Box::pin(async move {
                loop {
                    shifted.notified().await;
                    nodes.list().iter().for_each(|node| queue.add(ObjectKey::of(&**node)));
                }
            })
        };
        vec![
            Trigger::primary(&self.nodes),
            Trigger::mapped(&self.leases, lease_wakes),
            Trigger::reads(&self.pods),
            Trigger::custom(Box::pin(std::future::ready(())), all_wake),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let current = self.written.open(key);
        let now = self.clock.now();
        let Some(node) = self.nodes.get(key) else {
            self.survey(key, None, now);
            self.heard.lock().remove(key);
            self.written.forget(key);
            return Ok(Action::done());
        };
        self.survey(key, Some(&node), now);
        if !current {
            return Ok(Action::requeue_after(FENCE_LIMIT));
        }
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
        let (eviction, again) = self.eviction(&node, now);
        if let Some(taints) = taints(&node, eviction, now) {
            self.write_taints(&node, &taints).await?;
        }
        if condition(&node, "Ready").is_some_and(|ready| ready.status != "True") {
            let ready = self.pods_on.get(&key.name).into_iter().filter(|pod| pods::is_ready(pod)).collect();
            self.mark_unready(ready).await?;
        }
        let left = Duration::try_from(grace - silence).ok().filter(|left| !left.is_zero());
        let again = again.map_or(Action::done(), Action::requeue_after);
        Ok(left.map_or(Action::done(), Action::requeue_after).and(again))
    }
}

/// An index of pods by node.
pub fn pods_on(pods: &Lister<Pod>) -> Index<Pod> {
    pods.index(|pod| {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        node.filter(|node| !node.is_empty()).into_iter().collect()
    })
}
