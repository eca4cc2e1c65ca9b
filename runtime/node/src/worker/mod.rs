//! One pod's worker: observes, plans, acts, reports, until nothing of the pod is left.
//!
//! A worker is one task. Its steps are futures that it polls itself, so a slow pull delays neither a deletion nor another
//! container. It wakes on its mailbox (a newer pod, a runtime event, a changed object), on the end of a step and on one
//! deadline: back-off, probes, activeDeadlineSeconds or the periodic look. Invariants: the latest spec wins; a step of a
//! kind runs once at a time; one status write is in flight at most; the pod is deleted from the API only after its final
//! status is there. Absent on purpose: decisions (see [`crate::plan`] and [`crate::status`]).

mod look;
mod mailbox;
mod outcomes;
mod report;
mod snapshot;
mod steps;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wharf_cri::SandboxStatus;

use crate::backoff::{Backoff, after, until};
use crate::context::Context;
use crate::names;
use crate::observed::{Attempt, Job, Observed, Volumes};
use crate::plan::{self, Plan};
use crate::probes::{Kind, Outcome, Probes};
use crate::start::Failed;

pub use mailbox::Mailbox;
pub use snapshot::Snapshot;

/// The outcome of a step.
enum Done {
    Sandbox(Box<Result<SandboxStatus, wharf_cri::Error>>),
    SandboxRemoved(Result<(), wharf_cri::Error>),
    Volumes(Result<(), (String, wharf_volumes::Error)>),
    Started(String, Box<Result<Attempt, Failed>>),
    Stopped(String),
    TornDown(Result<(), String>),
    Probed { container: String, attempt: u32, kind: Kind, outcome: Outcome },
    Written(Box<Result<Pod, kube::Error>>),
    Deleted(Result<(), kube::Error>),
    Forgotten,
}

pub struct Worker {
    ctx: Arc<Context>,
    mailbox: Arc<Mailbox>,
    snapshot: watch::Sender<Option<Arc<Snapshot>>>,
    pod: Arc<Pod>,
    seen: Observed,
    jobs: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Ends starts under way when the pod ends.
    starting: CancellationToken,
    /// No step of this kind before then.
    hold: BTreeMap<Job, Timestamp>,
    /// When this worker first saw the pod.
    since: Timestamp,
    writing: bool,
    write_failures: u32,
    write_at: Option<Timestamp>,
    /// The waiting reason that was last reported, by container.
    reported: BTreeMap<String, String>,
    volume_backoff: Option<Backoff>,
    /// An object changed during the first set-up.
    volumes_changed: bool,
    deleted: bool,
    on_end: Option<Box<dyn FnOnce() + Send>>,
}

impl Worker {
    pub fn new(
        ctx: Arc<Context>,
        mailbox: Arc<Mailbox>,
        snapshot: watch::Sender<Option<Arc<Snapshot>>>,
        pod: Arc<Pod>,
        mut seen: Observed,
    ) -> Self {
        let since = ctx.now();
        if pod.spec.as_ref().is_none_or(|spec| spec.volumes.as_ref().is_none_or(Vec::is_empty)) {
            seen.volumes = Volumes::Mounted;
        }
        Self {
            ctx,
            mailbox,
            snapshot,
            pod,
            seen,
            jobs: FuturesUnordered::new(),
            starting: CancellationToken::new(),
            hold: BTreeMap::new(),
            since,
            writing: false,
            write_failures: 0,
            write_at: None,
            reported: BTreeMap::new(),
            volume_backoff: None,
            volumes_changed: false,
            deleted: false,
            on_end: None,
        }
    }

    /// Called once, when nothing of the pod is left on the node (the API may still have it).
    pub fn on_end(mut self, call: impl FnOnce() + Send + 'static) -> Self {
        self.on_end = Some(Box::new(call));
        self
    }

    /// Until nothing of the pod is left here and in the API, or until `cancel` (then pods are left as they are).
    pub async fn run(mut self, cancel: CancellationToken) {
        self.ctx.objects.register(names::uid(&self.pod), wharf_volumes::references(&self.pod));
        self.adopt().await;
        loop {
            self.absorb().await;
            let now = self.ctx.now();
            self.exchange_tokens(now);
            let plan = plan::plan(&self.pod, &self.seen, &self.ctx.timings.restarts, now);
            if plan.ending.is_some() && self.seen.ending_since.is_none() {
                self.seen.ending_since = Some(now);
                self.starting.cancel();
            }
            let wake_at = self.act(&plan, now);
            self.publish();
            if self.seen.removed && self.seen.torn_down && self.jobs.is_empty() {
                break;
            }
            let resync = after(now, self.ctx.timings.pod_resync);
            let delay = until(wake_at.map_or(resync, |at| at.min(resync)), now);
            tokio::select! {
                () = cancel.cancelled() => break,
                () = self.mailbox.wait() => {}
                Some(done) = self.jobs.next() => self.finish(done).await,
                () = tokio::time::sleep(delay) => {
                    if wake_at.is_none_or(|at| at > resync) {
                        self.refresh().await;
                    }
                }
            }
        }
        self.ctx.objects.forget(names::uid(&self.pod));
        self.ctx.tokens.forget(names::uid(&self.pod));
    }

    /// Takes over probes of containers that ran before this worker did.
    async fn adopt(&mut self) {
        let pod = self.pod.clone();
        let Some(spec) = &pod.spec else { return };
        for (_, container) in names::containers(spec) {
            let view = self.seen.view_mut(&container.name);
            if let Some(latest) = view.latest.as_ref().filter(|attempt| attempt.running()) {
                view.probes = Some(Probes::new(container, latest.started_at.unwrap_or(self.since)));
            }
        }
    }

    /// Takes what the mailbox holds.
    async fn absorb(&mut self) {
        let mail = self.mailbox.take();
        if let Some(pod) = mail.pod {
            self.take_pod(pod);
        }
        self.seen.removed |= mail.removed;
        if mail.runtime_changed {
            self.refresh().await;
        }
        if mail.objects_changed {
            self.objects_changed();
        }
    }

    fn take_pod(&mut self, pod: Arc<Pod>) {
        if revision(&pod) < revision(&self.pod) {
            return;
        }
        let relabelled = pod.metadata.labels != self.pod.metadata.labels
            || pod.metadata.annotations != self.pod.metadata.annotations;
        if relabelled && self.seen.volumes == Volumes::Mounted && follows_pod(&pod) {
            self.seen.volumes = Volumes::Stale;
        }
        if pod.metadata.finalizers != self.pod.metadata.finalizers {
            self.deleted = false;
        }
        self.pod = pod;
    }

    fn objects_changed(&mut self) {
        match self.seen.volumes {
            Volumes::Mounted => self.seen.volumes = Volumes::Stale,
            Volumes::Failed { .. } => self.seen.volumes = Volumes::Pending,
            // The set-up under way may have read what was there before.
            Volumes::Pending => self.volumes_changed = true,
            Volumes::Stale => {}
        }
        let now = self.ctx.now();
        let trouble = self.seen.containers.values_mut().filter_map(|view| view.trouble.as_mut());
        trouble
            .filter(|trouble| trouble.reason == "CreateContainerConfigError")
            .for_each(|trouble| trouble.retry_at = now);
    }

    /// Volumes with a token that is old are set up again.
    fn exchange_tokens(&mut self, now: Timestamp) {
        if self.tokens_due(now).is_some_and(|due| due <= now) {
            self.seen.volumes = Volumes::Stale;
        }
    }

    /// When one of the pod's tokens is old; none while volumes are about to be set up anyway.
    fn tokens_due(&self, now: Timestamp) -> Option<Timestamp> {
        let settled = self.seen.volumes == Volumes::Mounted && !self.seen.busy.contains(&Job::Volumes);
        settled.then(|| self.ctx.tokens.due(names::uid(&self.pod), now)).flatten()
    }

    /// Begins what the plan asks for, the probes that are due, and the status write. Returns when to look again.
    fn act(&mut self, plan: &Plan, now: Timestamp) -> Option<Timestamp> {
        let mut wakes: Vec<Timestamp> = plan.wake_at.into_iter().collect();
        for step in &plan.steps {
            match self.hold.get(&steps::job(step)).filter(|at| **at > now) {
                Some(at) => wakes.push(*at),
                None => self.begin(step, now),
            }
        }
        if plan.ending.is_none() {
            self.begin_probes(now);
            wakes.extend(self.tokens_due(now));
            wakes.extend(self.seen.containers.values().filter_map(|view| view.probes.as_ref()?.next_due()));
        }
        self.report_waiting(now);
        wakes.extend(self.write_status(now));
        wakes.into_iter().min()
    }
}

/// The resourceVersion as a number; versions of one object grow. What is no number counts as newest.
fn revision(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(u64::MAX)
}

fn follows_pod(pod: &Pod) -> bool {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    volumes.into_iter().flatten().any(|volume| {
        wharf_volumes::build(volume, "", "", std::path::Path::new("")).is_ok_and(|volume| volume.follows_pod())
    })
}
