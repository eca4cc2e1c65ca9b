//! From the pods bound to this node to their workers.
//!
//! One watch (`spec.nodeName=<name>`) feeds one worker for each UID. Work for an event is constant: a map look-up and word
//! to one worker. Invariants: a UID has at most one worker; a worker ends only when its pod is gone from the API and from
//! the node. Absent on purpose: anything a pod does (its worker's).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wharf_cri::{ContainerStatus, RuntimeEvent, SandboxState, SandboxStatus};

use crate::admit::Ledger;
use crate::context::Context;
use crate::events::Kind;
use crate::names;
use crate::observed::{Attempt, Observed, Sandbox};
use crate::worker::{Mailbox, Snapshot, Worker};

struct Handle {
    mailbox: Arc<Mailbox>,
    snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    key: (String, String),
}

#[derive(Default)]
struct Table {
    by_uid: HashMap<String, Handle>,
    /// Namespace and name → UID of the youngest pod that has them.
    by_name: HashMap<(String, String), String>,
}

/// The workers, for those who look pods up or wake them. Cheap to clone.
#[derive(Clone, Default)]
pub struct Pods {
    table: Arc<Mutex<Table>>,
}

impl Pods {
    pub fn len(&self) -> usize {
        self.table.lock().by_uid.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn uids(&self) -> HashSet<String> {
        self.table.lock().by_uid.keys().cloned().collect()
    }

    /// The pod as its worker last saw it, and news of it.
    pub fn find(&self, namespace: &str, name: &str) -> Option<watch::Receiver<Option<Arc<Snapshot>>>> {
        let table = self.table.lock();
        let uid = table.by_name.get(&(namespace.to_owned(), name.to_owned()))?;
        table.by_uid.get(uid).map(|handle| handle.snapshot.clone())
    }

    pub fn snapshots(&self) -> Vec<Arc<Snapshot>> {
        self.table.lock().by_uid.values().filter_map(|handle| handle.snapshot.borrow().clone()).collect()
    }

    /// A ConfigMap or Secret that the pod names has changed.
    pub fn objects_changed(&self, uid: &str) {
        if let Some(handle) = self.table.lock().by_uid.get(uid) {
            handle.mailbox.objects_changed();
        }
    }

    fn runtime_changed(&self, uid: &str) {
        if let Some(handle) = self.table.lock().by_uid.get(uid) {
            handle.mailbox.runtime_changed();
        }
    }

    fn all_changed(&self) {
        self.table.lock().by_uid.values().for_each(|handle| handle.mailbox.runtime_changed());
    }

    /// Leaves word for the pod's worker, if it has one.
    fn deliver(&self, pod: &Arc<Pod>) -> bool {
        match self.table.lock().by_uid.get(names::uid(pod)) {
            Some(handle) => {
                handle.mailbox.pod(pod.clone());
                true
            }
            None => false,
        }
    }

    fn removed(&self, uid: &str) {
        if let Some(handle) = self.table.lock().by_uid.get(uid) {
            handle.mailbox.removed();
        }
    }

    fn insert(&self, pod: &Pod, handle: Handle) {
        let mut table = self.table.lock();
        table.by_name.insert(handle.key.clone(), names::uid(pod).to_owned());
        table.by_uid.insert(names::uid(pod).to_owned(), handle);
    }

    fn forget(&self, uid: &str) {
        let mut table = self.table.lock();
        if let Some(handle) = table.by_uid.remove(uid)
            && table.by_name.get(&handle.key).is_some_and(|held| held == uid)
        {
            table.by_name.remove(&handle.key);
        }
    }
}

/// What the runtime had when the node started, by pod.
#[derive(Default)]
pub struct Leftovers {
    pods: HashMap<String, (Option<SandboxStatus>, Vec<ContainerStatus>)>,
}

impl Leftovers {
    pub async fn list(runtime: &dyn wharf_cri::Runtime) -> wharf_cri::Result<Self> {
        let mut left = Self::default();
        let mut owner = HashMap::new();
        for sandbox in runtime.sandboxes().await? {
            owner.insert(sandbox.id.clone(), sandbox.config.uid.clone());
            let entry = left.pods.entry(sandbox.config.uid.clone()).or_default();
            if entry.0.as_ref().is_none_or(|held| held.config.attempt < sandbox.config.attempt) {
                entry.0 = Some(sandbox);
            }
        }
        for container in runtime.containers().await? {
            if let Some(entry) = owner.get(&container.sandbox).and_then(|uid| left.pods.get_mut(uid)) {
                entry.1.push(container);
            }
        }
        Ok(left)
    }

    /// Adds what the runtime still has of a pod to what its status says.
    fn merge(&mut self, uid: &str, seen: &mut Observed, scheme: &str) {
        let Some((sandbox, mut containers)) = self.pods.remove(uid) else { return };
        if let Some(sandbox) = sandbox {
            let ready = sandbox.state == SandboxState::Ready;
            seen.next_sandbox = sandbox.config.attempt + 1;
            seen.sandbox = Some(Sandbox { id: sandbox.id, attempt: sandbox.config.attempt, ready, ips: sandbox.ips });
        }
        containers.sort_by_key(|container| container.attempt);
        let mut fresh: BTreeMap<String, (Option<Attempt>, Option<Attempt>)> = BTreeMap::new();
        for status in containers {
            let (name, image_id) = (status.name.clone(), status.image_id.clone());
            let runs = fresh.entry(name).or_default();
            runs.1 = runs.0.replace(Attempt::from_runtime(status, scheme, image_id));
        }
        for (name, (mut latest, previous)) in fresh {
            let view = seen.view_mut(&name);
            // The API shows the image's full name; the runtime has its ID.
            if let (Some(latest), Some(held)) = (latest.as_mut(), view.latest.as_ref())
                && latest.shown_id == held.shown_id
            {
                latest.image_id.clone_from(&held.image_id);
            }
            view.previous = previous.or_else(|| view.previous.take());
            view.latest = latest;
        }
    }
}

/// Keeps the workers.
pub struct Dispatcher {
    pub ctx: Arc<Context>,
    pub pods: Pods,
    pub ledger: Arc<Ledger>,
    pub node: String,
    pub leftovers: Leftovers,
    /// Becomes true with the first list.
    pub synced: watch::Sender<bool>,
}

impl Dispatcher {
    /// Until `cancel`; then waits for the workers to notice it.
    pub async fn run(mut self, cancel: CancellationToken) {
        let workers = TaskTracker::new();
        let config = watcher::Config::default().fields(&format!("spec.nodeName={}", self.node));
        let stream = watcher::watcher(Api::<Pod>::all(self.ctx.client.clone()), config).default_backoff();
        let mut stream = pin!(stream);
        let mut events = self.ctx.runtime.events();
        let mut listed = HashSet::new();
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                Some(event) = events.next() => match event {
                    RuntimeEvent::Pod { uid } => self.pods.runtime_changed(&uid),
                    RuntimeEvent::Resync => self.pods.all_changed(),
                },
                event = stream.next() => match event {
                    Some(event) => self.pod_event(event, &mut listed, &workers, &cancel),
                    None => break,
                },
            }
        }
        workers.close();
        workers.wait().await;
    }

    fn pod_event(
        &mut self,
        event: Result<Event<Pod>, watcher::Error>,
        listed: &mut HashSet<String>,
        workers: &TaskTracker,
        cancel: &CancellationToken,
    ) {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(pod)) => {
                listed.insert(names::uid(&pod).to_owned());
                self.apply(pod, workers, cancel);
            }
            Ok(Event::InitDone) => {
                for gone in self.pods.uids().difference(listed) {
                    self.pods.removed(gone);
                }
                listed.clear();
                self.synced.send_replace(true);
            }
            Ok(Event::Apply(pod)) => self.apply(pod, workers, cancel),
            Ok(Event::Delete(pod)) => self.pods.removed(names::uid(&pod)),
            Err(error) => tracing::warn!(%error, "watch pods"),
        }
    }

    fn apply(&mut self, mut pod: Pod, workers: &TaskTracker, cancel: &CancellationToken) {
        wharf_types::lean(&mut pod, |pod| &mut pod.metadata);
        let pod = Arc::new(pod);
        if !self.pods.deliver(&pod) {
            self.begin(pod, workers, cancel);
        }
    }

    fn begin(&mut self, pod: Arc<Pod>, workers: &TaskTracker, cancel: &CancellationToken) {
        let uid = names::uid(&pod).to_owned();
        let mut seen = Observed::recover(&pod, self.ctx.now());
        self.leftovers.merge(&uid, &mut seen, &self.ctx.scheme);
        let status = pod.status.as_ref();
        let over = status.is_some_and(|status| matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")));
        let started = status.is_some_and(|status| status.start_time.is_some());
        // A pod that is on its way out, or over, takes no room that it has not taken before.
        if !over && pod.metadata.deletion_timestamp.is_none() {
            seen.rejected = self.ledger.admit(&pod, started).err();
        }
        if let Some(rejection) = &seen.rejected {
            self.ctx.events.pod(&pod, None, Kind::Warning, event_reason(&rejection.reason), rejection.message.clone());
        }
        let mailbox = Arc::new(Mailbox::default());
        let (sender, snapshot) = watch::channel(None);
        let key = (names::namespace(&pod).to_owned(), names::name(&pod).to_owned());
        self.pods.insert(&pod, Handle { mailbox: mailbox.clone(), snapshot, key });
        let log_dir = self.ctx.log_dir(&pod);
        let worker =
            Worker::new(self.ctx.clone(), mailbox, sender, pod, seen).on_end(release(self.ledger.clone(), uid.clone()));
        let (pods, cancel) = (self.pods.clone(), cancel.clone());
        workers.spawn(async move {
            worker.run(cancel.clone()).await;
            if !cancel.is_cancelled() {
                let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(log_dir));
                let _ = removed.await;
            }
            pods.forget(&uid);
        });
    }
}

/// A pod that runs no more gives its room back, however long the API keeps it.
fn release(ledger: Arc<Ledger>, uid: String) -> impl FnOnce() + Send {
    move || ledger.release(&uid)
}

/// Event reasons are constants.
fn event_reason(reason: &str) -> &'static str {
    match reason {
        "OutOfcpu" => "OutOfcpu",
        "OutOfmemory" => "OutOfmemory",
        "OutOfpods" => "OutOfpods",
        "NodeAffinity" => "NodeAffinity",
        "NodePorts" => "NodePorts",
        "TaintToleration" => "TaintToleration",
        _ => "FailedAdmission",
    }
}
