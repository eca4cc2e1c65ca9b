//! Jobs each index of which has a limit of its own (`backoffLimitPerIndex`).
//!
//! A pod carries in annotations how often its index has failed before it. So the last failed pod of an index is kept, with its
//! finalizer and uncounted, until another that carries on from it is there; then nothing is lost when a step dies.
//! Source: `k8s.io/kubernetes/pkg/controller/job` (`backoff_utils.go`, `indexed_job_utils.go`).

use std::collections::BTreeSet;
use std::sync::Arc;

use wharf_types::k8s::api::batch::v1::Job;
use wharf_types::k8s::api::core::v1::Pod;

use super::super::indexes::index_of;
use super::super::policy::{self, Outcome};
use super::verdict::{FAILURE_TARGET, SUCCESS_CRITERIA_MET};
use super::{Fresh, Planner, ended_at, is_tracked};
use crate::pods;

pub const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
pub const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// How often an index has failed before a pod of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    pub counted: i32,
    /// Those that a policy leaves out.
    pub ignored: i32,
}

impl Failures {
    fn before(pod: &Pod) -> Self {
        let annotations = pod.metadata.annotations.as_ref();
        let number = |name: &str| annotations.and_then(|annotations| annotations.get(name)?.parse().ok()).unwrap_or(0);
        Self { counted: number(FAILURES), ignored: number(IGNORED_FAILURES) }
    }

    /// Before the pod that takes the place of a failed one.
    fn after(job: &Job, failed: &Pod) -> Self {
        let Self { counted, ignored } = Self::before(failed);
        match policy::outcome(job, failed) {
            Outcome::Ignore => Self { counted, ignored: ignored.saturating_add(1) },
            _ => Self { counted: counted.saturating_add(1), ignored },
        }
    }

    fn total(self) -> i32 {
        self.counted.saturating_add(self.ignored)
    }
}

impl Planner<'_> {
    pub(super) fn limit_per_index(&self) -> Option<i32> {
        self.spec.backoff_limit_per_index.filter(|_| self.is_indexed())
    }

    /// Finds the indexes that have failed, and the pods to keep.
    pub(super) fn weigh_indexes(&mut self) {
        let Some(limit) = self.limit_per_index() else { return };
        let completions = self.spec.completions.unwrap_or(0);
        let valid = |pod: &Pod| index_of(pod).filter(|index| *index < completions);
        let tracked = || self.owned.iter().filter(|pod| is_tracked(pod));
        let succeeded = tracked().filter(|pod| pods::phase(pod) == "Succeeded");
        let mut over: BTreeSet<i32> = succeeded.filter_map(|pod| valid(pod)).collect();
        let failed: Vec<(i32, Arc<Pod>)> = tracked()
            .filter(|pod| pods::phase(pod) != "Succeeded" && self.counts_as_failed(pod))
            .filter_map(|pod| Some((valid(pod)?, pod.clone())))
            .collect();
        let fail = failed.iter().filter(|(_, pod)| self.fails_index(limit, pod)).map(|(index, _)| *index);
        let fail: Vec<i32> = fail.collect();
        self.failed_indexes.extend(fail);
        let decided = [FAILURE_TARGET, SUCCESS_CRITERIA_MET].iter().any(|kind| self.condition(kind).is_some());
        if decided || self.is_ending() {
            return;
        }
        over.extend(&self.succeeded_indexes);
        over.extend(&self.failed_indexes);
        over.extend(self.active.iter().filter_map(|pod| valid(pod)));
        for (index, pod) in failed {
            let later = self.kept.get(&index).is_none_or(|kept| {
                Failures::before(kept).total() <= Failures::before(&pod).total() && ended_at(kept) <= ended_at(&pod)
            });
            if later && !over.contains(&index) && !self.is_noted(&pod) {
                self.kept.insert(index, pod);
            }
        }
    }

    fn fails_index(&self, limit: i32, pod: &Pod) -> bool {
        match policy::outcome(self.job, pod) {
            Outcome::FailIndex => true,
            Outcome::Ignore => false,
            Outcome::Count | Outcome::FailJob(_) => Failures::before(pod).counted >= limit,
        }
    }

    pub(super) fn is_kept(&self, pod: &Arc<Pod>) -> bool {
        self.kept.values().any(|kept| Arc::ptr_eq(kept, pod))
    }

    /// The Job ends: no pod waits for another any more.
    pub(super) fn count_kept(&mut self) {
        if !std::mem::take(&mut self.kept).is_empty() {
            self.done.clear();
            self.count();
        }
    }

    /// Pods for these indexes, as far as their pauses are over.
    pub(super) fn fresh(&mut self, indexes: Vec<i32>) -> Vec<Fresh> {
        if self.limit_per_index().is_none() {
            return indexes.into_iter().map(|index| Fresh { index: Some(index), failures: None }).collect();
        }
        let mut fresh = Vec::new();
        for index in indexes {
            let kept = self.kept.get(&index);
            let pause = kept.and_then(|kept| {
                let failures = Failures::before(kept).total().saturating_add(1);
                self.pause_left(usize::try_from(failures).unwrap_or(1), ended_at(kept)?)
            });
            match pause {
                Some(pause) => self.again_in(pause),
                None => {
                    let failures = kept.map_or(Failures::default(), |kept| Failures::after(self.job, kept));
                    fresh.push(Fresh { index: Some(index), failures: Some(failures) });
                }
            }
        }
        fresh
    }
}
