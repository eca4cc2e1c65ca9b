//! The scheduler's one task: takes changes in, runs cycles, carries decisions out.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use rand::Rng;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use wharf_client::{Changed, Changes, Clock, Informers, Recorder};

use crate::cluster::Cluster;
use crate::cycle::{Unschedulable, schedule};
use crate::framework::{BindError, Change, Framework};
use crate::pod::PodInfo;
use crate::queue::Queue;

/// Decisions that are carried out at once; further cycles wait.
const MAX_BINDS: usize = 256;
/// Changes taken in between two cycles, so that neither starves the other.
const CHANGES_PER_CYCLE: usize = 64;
/// How long binds under way may take once the scheduler is told to stop.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// What a scheduler is made of.
pub struct Options {
    pub client: Client,
    pub informers: Informers,
    pub framework: Framework,
    /// Pods with this `spec.schedulerName` are ours.
    pub name: String,
    pub clock: Clock,
    pub events: Recorder,
}

pub struct Scheduler {
    client: Client,
    framework: Arc<Framework>,
    name: String,
    clock: Clock,
    events: Recorder,
    informers: Informers,
    cluster: Cluster,
    queue: Queue,
}

type Bound = (Arc<PodInfo>, Arc<str>, Result<(), BindError>);

impl Scheduler {
    pub fn new(options: Options) -> Self {
        let Options { client, informers, framework, name, clock, events } = options;
        let (cluster, queue) = (Cluster::default(), Queue::default());
        Self { client, framework: Arc::new(framework), name, clock, events, informers, cluster, queue }
    }

    /// Schedules until cancelled or the informers stop.
    pub async fn run(mut self, cancel: CancellationToken) {
        let (node_lister, pod_lister) = (self.informers.of::<Node>(), self.informers.of::<Pod>());
        tokio::select! {
            () = cancel.cancelled() => return,
            ((), ()) = async { tokio::join!(node_lister.synced(), pod_lister.synced()) } => {}
        }
        let (mut nodes, mut pods) = (node_lister.subscribe(), pod_lister.subscribe());
        let mut binds: FuturesUnordered<tokio::task::JoinHandle<Bound>> = FuturesUnordered::new();
        loop {
            self.take_in(&mut nodes, &mut pods);
            self.queue.tick(self.clock.now());
            if binds.len() < MAX_BINDS
                && let Some(pod) = self.queue.pop()
            {
                binds.extend(self.cycle(pod));
                // A long queue must not keep the other tasks of this thread waiting.
                tokio::task::consume_budget().await;
                continue;
            }
            let rest = self.rest();
            tokio::select! {
                () = cancel.cancelled() => break,
                Some(bound) = binds.next() => self.settle(bound),
                Some(changed) = nodes.next() => self.on_node(&changed),
                Some(changed) = pods.next() => self.on_pod(&changed),
                () = tokio::time::sleep(rest) => {}
                else => break,
            }
        }
        let drain = async { while binds.next().await.is_some() {} };
        if tokio::time::timeout(DRAIN_LIMIT, drain).await.is_err() {
            tracing::warn!("binds were still under way when the scheduler stopped");
        }
    }

    /// Takes in the changes that are already here, nodes first: a pod may name a node that came with it.
    fn take_in(&mut self, nodes: &mut Changes<Node>, pods: &mut Changes<Pod>) {
        for _ in 0..CHANGES_PER_CYCLE {
            let Some(changed) = nodes.try_next() else { break };
            self.on_node(&changed);
        }
        for _ in 0..CHANGES_PER_CYCLE {
            let Some(changed) = pods.try_next() else { break };
            self.on_pod(&changed);
        }
    }

    /// How long there is nothing to do unless something changes.
    fn rest(&self) -> Duration {
        let next = self.queue.next_tick().map(|at| at.duration_since(self.clock.now()));
        next.map_or(Duration::MAX / 4, |wait| Duration::try_from(wait).unwrap_or_default())
            .min(Duration::from_secs(24 * 3600))
    }

    fn on_node(&mut self, changed: &Changed<Node>) {
        let name = changed.key.name.clone();
        let change = match (&changed.old, &changed.new) {
            (_, None) => return self.cluster.remove_node(&name),
            (None, Some(new)) => Change::NodeAdded(new.clone()),
            (Some(old), Some(new)) => Change::NodeUpdated { old: old.clone(), new: new.clone() },
        };
        if let Some(node) = &changed.new {
            self.cluster.set_node(&name, node.clone());
        }
        self.queue.wake(&change, &self.framework, self.clock.now());
    }

    fn on_pod(&mut self, changed: &Changed<Pod>) {
        if let (Some(old), Some(new)) = (&changed.old, &changed.new)
            && old.metadata.uid != new.metadata.uid
        {
            self.forget(old, &changed.key);
        }
        let Some(new) = &changed.new else {
            return self.forget(changed.latest(), &changed.key);
        };
        let pod = Arc::new(PodInfo::new(new.clone()));
        if pod.finished() {
            self.forget(new, &changed.key);
        } else if !pod.node_name().is_empty() {
            let node = pod.node_name().to_owned();
            self.queue.remove(&pod.key);
            self.cluster.place(pod, &node);
        } else if pod.deleting() {
            self.queue.remove(&pod.key);
        } else if pod.scheduler_name() == self.name && !self.cluster.is_placed(&pod.uid) {
            self.queue.put(pod, &self.framework, self.clock.now());
        }
    }

    /// A pod that takes nothing from any node any more.
    fn forget(&mut self, pod: &Arc<Pod>, key: &wharf_client::ObjectKey) {
        self.queue.remove(key);
        if self.cluster.displace(pod.metadata.uid.as_deref().unwrap_or_default()) {
            self.queue.wake(&Change::PodGone(pod.clone()), &self.framework, self.clock.now());
        }
    }

    /// Decides on one pod; what is returned carries the decision out.
    fn cycle(&mut self, pod: Arc<PodInfo>) -> Option<tokio::task::JoinHandle<Bound>> {
        let mut random = |below: usize| rand::rng().random_range(0..below.max(1));
        let node = match schedule(&self.framework, &mut self.cluster, &pod, &mut random) {
            Ok(node) => node,
            Err(why) => {
                self.reject(&pod, why);
                return None;
            }
        };
        if let Err(rejection) = self.framework.reserve(&pod, &node) {
            let why = Unschedulable { message: rejection.reason, rejected_by: vec![rejection.plugin] };
            self.reject(&pod, why);
            return None;
        }
        self.cluster.place(pod.clone(), &node);
        let framework = self.framework.clone();
        Some(tokio::spawn(async move {
            let result = framework.carry_out(&pod, &node).await;
            (pod, node, result)
        }))
    }

    fn reject(&mut self, pod: &Arc<PodInfo>, why: Unschedulable) {
        tracing::debug!(pod = %pod.key, message = why.message, "unschedulable");
        self.events.warning(&*pod.pod, "FailedScheduling", why.message.clone());
        if condition_message(&pod.pod) != Some(why.message.as_str()) {
            tokio::spawn(write_condition(self.client.clone(), pod.clone(), why.message.clone(), self.clock.now()));
        }
        self.queue.unschedulable(&pod.key, why.rejected_by, self.clock.now());
    }

    fn settle(&mut self, bound: Result<Bound, tokio::task::JoinError>) {
        let (pod, node, result) = match bound {
            Ok(bound) => bound,
            Err(error) => return tracing::error!(%error, "a bind died"),
        };
        match result {
            Ok(()) => {
                let message = format!("Successfully assigned {} to {node}", pod.key);
                self.events.normal(&*pod.pod, "Scheduled", message);
                self.queue.remove(&pod.key);
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::info!(%error, cause, %node, "decision taken back");
                self.framework.unreserve(&pod, &node);
                self.cluster.displace(&pod.uid);
                if error.settled { self.queue.remove(&pod.key) } else { self.queue.failed(&pod.key, self.clock.now()) }
            }
        }
    }
}

fn condition_message(pod: &Pod) -> Option<&str> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?
        .message
        .as_deref()
}

/// Tells the user why the pod waits. A failure is logged: the next cycle tries again.
async fn write_condition(client: Client, pod: Arc<PodInfo>, message: String, now: jiff::Timestamp) {
    let pods: Api<Pod> = Api::namespaced(client, &pod.key.namespace);
    let time = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let condition = json!({ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message, "lastTransitionTime": time });
    let patch = json!({ "metadata": { "uid": pod.uid }, "status": { "conditions": [condition] } });
    if let Err(error) = pods.patch_status(&pod.key.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        tracing::debug!(pod = %pod.key, %error, "PodScheduled condition not written");
    }
}
