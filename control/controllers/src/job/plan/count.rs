//! Pods that ended become numbers in the status, each once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use wharf_types::k8s::api::batch::v1::UncountedTerminatedPods;
use wharf_types::k8s::api::core::v1::Pod;

use super::super::indexes::index_of;
use super::super::policy::{self, Outcome};
use super::{Planner, is_tracked};
use crate::pods;

/// Pods that wait to be counted at most, to bound the status. Source: `MaxUncountedPods`.
const UNCOUNTED_LIMIT: usize = 500;

impl Planner<'_> {
    fn uncounted(&mut self) -> &mut UncountedTerminatedPods {
        self.status.uncounted_terminated_pods.get_or_insert_default()
    }

    /// Notes finished pods that are not noted yet. Returns why the whole Job fails, if a pod says so.
    pub(super) fn count(&mut self) -> Option<String> {
        let mut fail_job = None;
        let finished: Vec<Arc<Pod>> = self
            .owned
            .iter()
            .filter(|pod| is_tracked(pod))
            .filter(|pod| pods::phase(pod) == "Succeeded" || self.counts_as_failed(pod))
            .cloned()
            .collect();
        for pod in finished {
            if self.is_kept(&pod) {
                fail_job = fail_job.or(self.fails_job(&pod));
                continue;
            }
            let noted = self.is_noted(&pod);
            if !noted && self.uncounted_total() >= UNCOUNTED_LIMIT {
                // The rest is noted by a later step.
                self.requeue = Some(Duration::from_secs(1));
                break;
            }
            if !noted {
                let uid = pod.metadata.uid.clone().unwrap_or_default();
                fail_job = fail_job.or(self.note(&pod, uid));
            }
            self.done.push(pod);
        }
        fail_job
    }

    /// It waits in the status to be counted.
    pub(super) fn is_noted(&self, pod: &Pod) -> bool {
        let uncounted = self.status.uncounted_terminated_pods.iter();
        let mut noted = uncounted.flat_map(|uncounted| [&uncounted.succeeded, &uncounted.failed]).flatten().flatten();
        noted.any(|uid| Some(uid) == pod.metadata.uid.as_ref())
    }

    /// Notes how a pod ended. Returns why that fails the whole Job, if it does.
    fn note(&mut self, pod: &Pod, uid: String) -> Option<String> {
        if pods::phase(pod) == "Succeeded" {
            self.note_success(pod, uid);
            return None;
        }
        if policy::outcome(self.job, pod) != Outcome::Ignore {
            self.uncounted().failed.get_or_insert_default().push(uid);
        }
        self.fails_job(pod)
    }

    pub(super) fn uncounted_total(&self) -> usize {
        let uncounted = self.status.uncounted_terminated_pods.as_ref();
        uncounted
            .map_or(0, |uncounted| [&uncounted.succeeded, &uncounted.failed].into_iter().flatten().map(Vec::len).sum())
    }

    /// An index is noted at once: noting it twice changes nothing.
    fn note_success(&mut self, pod: &Pod, uid: String) {
        if !self.is_indexed() {
            return self.uncounted().succeeded.get_or_insert_default().push(uid);
        }
        let limit = self.spec.completions.unwrap_or(0);
        self.succeeded_indexes.extend(index_of(pod).filter(|index| *index < limit));
    }

    /// A pod that was deleted may never say how it ended. With a failure policy, or where only failed pods are replaced, its
    /// end is waited for.
    pub(super) fn counts_as_failed(&self, pod: &Pod) -> bool {
        let waits = self.spec.pod_failure_policy.is_some() || self.replaces_only_failed();
        pods::phase(pod) == "Failed" || (pod.metadata.deletion_timestamp.is_some() && (!waits || self.is_ending()))
    }

    /// Adds noted pods to the counters that have lost their finalizer, or are gone.
    pub(super) fn settle_counters(&mut self) {
        let tracked: HashMap<&str, bool> =
            self.owned.iter().map(|pod| (pod.metadata.uid.as_deref().unwrap_or_default(), is_tracked(pod))).collect();
        let uncounted = self.status.uncounted_terminated_pods.get_or_insert_default();
        let settle = |uids: &mut Option<Vec<String>>| {
            let before = uids.as_ref().map_or(0, Vec::len);
            if let Some(uids) = uids.as_mut() {
                uids.retain(|uid| tracked.get(uid.as_str()).copied().unwrap_or(false));
            }
            let after = uids.as_ref().map_or(0, Vec::len);
            uids.take_if(|uids| uids.is_empty());
            (before - after) as i32
        };
        let (succeeded, failed) = (settle(&mut uncounted.succeeded), settle(&mut uncounted.failed));
        let plus = |count: Option<i32>, more: i32| Some(count.unwrap_or(0) + more).filter(|count| *count != 0);
        self.status.failed = plus(self.status.failed, failed);
        self.status.succeeded = if self.is_indexed() {
            plus(None, self.succeeded_indexes.len() as i32)
        } else {
            plus(self.status.succeeded, succeeded)
        };
    }

    pub(super) fn succeeded(&self) -> i32 {
        if self.is_indexed() {
            return self.succeeded_indexes.len() as i32;
        }
        let uncounted =
            self.status.uncounted_terminated_pods.as_ref().and_then(|uncounted| uncounted.succeeded.as_ref());
        self.status.succeeded.unwrap_or(0) + uncounted.map_or(0, Vec::len) as i32
    }

    pub(super) fn failed(&self) -> i32 {
        let uncounted = self.status.uncounted_terminated_pods.as_ref().and_then(|uncounted| uncounted.failed.as_ref());
        let kept = self.kept.values().filter(|pod| policy::outcome(self.job, pod) != Outcome::Ignore).count();
        self.status.failed.unwrap_or(0) + (uncounted.map_or(0, Vec::len) + kept) as i32
    }

    /// Why this pod fails the whole Job, if it does.
    fn fails_job(&self, pod: &Pod) -> Option<String> {
        match policy::outcome(self.job, pod) {
            Outcome::FailJob(message) => Some(message),
            Outcome::Count | Outcome::FailIndex | Outcome::Ignore => None,
        }
    }
}
