//! What one step does for a Job. Pure: same inputs, same plan.
//!
//! - [`count`]: pods that ended become numbers. [`verdict`]: whether and how the Job ends. [`manage`]: which pods to make and
//!   which to delete. [`per_index`]: Jobs each index of which has a limit of its own.

mod count;
mod manage;
mod per_index;
#[cfg(test)]
mod tests;
mod verdict;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use wharf_types::k8s::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use wharf_types::k8s::api::core::v1::Pod;

use super::indexes;
use crate::note::Note;
use crate::pods;

pub use per_index::{FAILURES, Failures, IGNORED_FAILURES};

/// Keeps a pod until it is counted.
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
pub const COMPLETE: &str = "Complete";
pub const FAILED: &str = "Failed";

#[derive(Debug)]
pub struct Plan {
    pub create: Vec<Fresh>,
    pub delete: Vec<Arc<Pod>>,
    pub status: JobStatus,
    /// Pods to let go once the status is written.
    pub release: Vec<Arc<Pod>>,
    pub requeue: Option<Duration>,
    pub notes: Vec<Note>,
}

/// A pod to make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fresh {
    pub index: Option<i32>,
    /// How often its index has failed, where each has a limit of its own.
    pub failures: Option<Failures>,
}

pub fn is_finished(job: &Job) -> bool {
    finished_at(job).is_some()
}

/// The condition that says that the Job has ended: [`COMPLETE`] or [`FAILED`].
pub fn end(job: &Job) -> Option<&JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let ended = |condition: &&JobCondition| {
        [COMPLETE, FAILED].contains(&condition.type_.as_str()) && condition.status == "True"
    };
    conditions.iter().find(ended)
}

/// When the Job ended.
pub fn finished_at(job: &Job) -> Option<Timestamp> {
    Some(end(job)?.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0))
}

/// `settled` means that the view has all earlier creations and deletions.
pub fn plan(job: &Job, owned: &[Arc<Pod>], settled: bool, now: Timestamp) -> Plan {
    let status = job.status.clone().unwrap_or_default();
    if is_finished(job) {
        let release = owned.iter().filter(|pod| is_tracked(pod)).cloned().collect();
        return Plan { create: Vec::new(), delete: Vec::new(), status, release, requeue: None, notes: Vec::new() };
    }
    Planner::new(job, owned, status, now).run(settled)
}

fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

struct Planner<'a> {
    job: &'a Job,
    spec: JobSpec,
    now: Timestamp,
    active: Vec<Arc<Pod>>,
    terminating: usize,
    /// Pods with the finalizer that have finished.
    done: Vec<Arc<Pod>>,
    owned: &'a [Arc<Pod>],
    status: JobStatus,
    succeeded_indexes: BTreeSet<i32>,
    failed_indexes: BTreeSet<i32>,
    /// By index, the failed pod that is kept uncounted until another takes its place.
    kept: HashMap<i32, Arc<Pod>>,
    notes: Vec<Note>,
    requeue: Option<Duration>,
}

impl<'a> Planner<'a> {
    fn new(job: &'a Job, owned: &'a [Arc<Pod>], status: JobStatus, now: Timestamp) -> Self {
        let spec = job.spec.clone().unwrap_or_default();
        let active = owned.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
        let terminating = owned.iter().filter(|pod| pods::is_terminating(pod)).count();
        let set =
            |text: &Option<String>| indexes::parse(text.as_deref().unwrap_or_default(), spec.completions.unwrap_or(0));
        let (succeeded_indexes, failed_indexes) = (set(&status.completed_indexes), set(&status.failed_indexes));
        Self {
            job,
            now,
            active,
            terminating,
            done: Vec::new(),
            owned,
            status,
            succeeded_indexes,
            failed_indexes,
            kept: HashMap::new(),
            notes: Vec::new(),
            requeue: None,
            spec,
        }
    }

    fn run(mut self, settled: bool) -> Plan {
        let suspended = self.spec.suspend.unwrap_or(false);
        let deleted = self.job.metadata.deletion_timestamp.is_some();
        if self.status.start_time.is_none() && !suspended {
            self.status.start_time = Some(pods::time(self.now));
        }
        self.weigh_indexes();
        let fail_job = self.count();
        let verdict = self.verdict(fail_job, suspended);
        if verdict.is_some() {
            self.count_kept();
        }
        let (mut create, mut delete) = (Vec::new(), Vec::new());
        if verdict.is_some() {
            delete = self.active.clone();
        } else if settled && !deleted {
            (create, delete) = self.manage(suspended);
        }
        self.settle_counters();
        let active = self.active.len() + create.len() - delete.len();
        let ready = self.active.iter().filter(|pod| pods::is_ready(pod) && !is_in(&delete, pod)).count();
        self.status.active = Some(active as i32).filter(|active| *active != 0);
        self.status.ready = Some(ready as i32);
        self.status.terminating = Some((self.terminating + delete.len()) as i32);
        match verdict {
            Some(verdict) => self.conclude(verdict, active == 0 && self.terminating + delete.len() == 0),
            None => self.note_suspension(suspended),
        }
        if self.is_indexed() {
            self.status.completed_indexes =
                Some(indexes::format(&self.succeeded_indexes)).filter(|text| !text.is_empty());
            if self.limit_per_index().is_some() {
                self.status.failed_indexes = Some(indexes::format(&self.failed_indexes));
            }
        }
        Plan { create, delete, release: self.done, status: self.status, requeue: self.requeue, notes: self.notes }
    }

    fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    fn replaces_only_failed(&self) -> bool {
        self.spec.pod_replacement_policy.as_deref() == Some("Failed") || self.spec.pod_failure_policy.is_some()
    }

    fn is_ending(&self) -> bool {
        self.job.metadata.deletion_timestamp.is_some()
    }
}

fn is_in(pods: &[Arc<Pod>], pod: &Arc<Pod>) -> bool {
    pods.iter().any(|other| Arc::ptr_eq(other, pod))
}

/// Source: `getFinishedTime`.
fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let terminated =
        status.container_statuses.iter().flatten().filter_map(|status| status.state.as_ref()?.terminated.as_ref());
    let last = terminated.filter_map(|terminated| terminated.finished_at.as_ref()).map(|time| time.0).max();
    let unready =
        || pods::condition(pod, "Ready").and_then(|ready| ready.last_transition_time.as_ref()).map(|time| time.0);
    last.or_else(unready)
        .or_else(|| pod.metadata.deletion_timestamp.as_ref().map(|time| time.0))
        .or_else(|| pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
}
