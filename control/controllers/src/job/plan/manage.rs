//! Which pods to make and which to delete.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use wharf_types::k8s::api::core::v1::Pod;

use super::super::indexes::index_of;
use super::super::policy::{self, Outcome};
use super::{Fresh, Planner, ended_at, is_in};
use crate::pods;

/// Pods that one step creates or deletes at most. Source: `MaxPodCreateDeletePerSync`.
const BURST: usize = 500;
/// The pause after a first pod failure, which doubles with each further one. Source: `DefaultJobPodFailureBackOff`.
const BACKOFF_FIRST: SignedDuration = SignedDuration::from_secs(10);
/// Source: `MaxJobPodFailureBackOff`.
const BACKOFF_MOST: SignedDuration = SignedDuration::from_secs(600);

impl Planner<'_> {
    /// Which pods to create, by index where the Job has such, and which to delete; never both in one step.
    pub(super) fn manage(&mut self, suspended: bool) -> (Vec<Fresh>, Vec<Arc<Pod>>) {
        let parallelism = self.spec.parallelism.unwrap_or(1).max(0);
        let wanted = match self.spec.completions {
            _ if suspended => 0,
            None if self.succeeded() > 0 => self.active.len() as i32,
            None => parallelism,
            Some(completions) => (completions - self.succeeded()).clamp(0, parallelism),
        } as usize;
        let surplus = self.surplus(self.active.len().saturating_sub(wanted));
        if !surplus.is_empty() {
            return (Vec::new(), surplus);
        }
        let waiting_for = if self.replaces_only_failed() { self.terminating } else { 0 };
        let missing = wanted.saturating_sub(self.active.len() + waiting_for).min(BURST);
        if missing == 0 {
            return (Vec::new(), Vec::new());
        }
        if let Some(pause) = self.backoff().filter(|_| self.limit_per_index().is_none()) {
            self.again_in(pause);
            return (Vec::new(), Vec::new());
        }
        if !self.is_indexed() {
            return (vec![Fresh::default(); missing], Vec::new());
        }
        let pending: Vec<i32> = self.pending_indexes().take(missing).collect();
        (self.fresh(pending), Vec::new())
    }

    pub(super) fn again_in(&mut self, pause: Duration) {
        self.requeue = Some(self.requeue.map_or(pause, |requeue| requeue.min(pause)));
    }

    /// Pods beyond what is wanted, least useful first; of an indexed Job also those whose index is taken or out of range.
    fn surplus(&self, count: usize) -> Vec<Arc<Pod>> {
        let mut ranked: Vec<Arc<Pod>> = self.active.clone();
        ranked.sort_by(|one, two| {
            let rank = |pod: &Arc<Pod>| pods::Ranked { pod: pod.clone(), on_node: 0 };
            pods::deletion_order(&rank(one), &rank(two), self.now)
        });
        let mut misplaced = Vec::new();
        if self.is_indexed() {
            let limit = self.spec.completions.unwrap_or(0);
            let mut taken = self.succeeded_indexes.clone();
            // The most useful pod keeps an index, so it is looked at first.
            for pod in ranked.iter().rev() {
                let fits = index_of(pod).is_some_and(|index| index < limit && taken.insert(index));
                if !fits {
                    misplaced.push(pod.clone());
                }
            }
        }
        let more = count.saturating_sub(misplaced.len());
        ranked.retain(|pod| !is_in(&misplaced, pod));
        misplaced.into_iter().chain(ranked.into_iter().take(more)).take(BURST).collect()
    }

    fn pending_indexes(&self) -> impl Iterator<Item = i32> {
        let mut taken: BTreeSet<i32> = self.succeeded_indexes.union(&self.failed_indexes).copied().collect();
        taken.extend(self.active.iter().filter_map(|pod| index_of(pod)));
        if self.replaces_only_failed() {
            let terminating = self.owned.iter().filter(|pod| pods::is_terminating(pod));
            taken.extend(terminating.filter_map(|pod| index_of(pod)));
        }
        (0..self.spec.completions.unwrap_or(0)).filter(move |index| !taken.contains(index))
    }

    /// How long to wait after the failures since the last success.
    fn backoff(&self) -> Option<Duration> {
        let mut ends: Vec<(Timestamp, bool)> = self
            .owned
            .iter()
            .filter(|pod| pods::is_terminal(pod))
            .filter(|pod| pods::phase(pod) == "Succeeded" || policy::outcome(self.job, pod) != Outcome::Ignore)
            .filter_map(|pod| Some((ended_at(pod)?, pods::phase(pod) == "Failed")))
            .collect();
        ends.sort_unstable();
        let failures = ends.iter().rev().take_while(|(_, failed)| *failed).count();
        let (last, _) = ends.last().filter(|_| failures > 0)?;
        self.pause_left(failures, *last)
    }

    /// What is left of the pause after so many failures, of which the last was at this time.
    pub(super) fn pause_left(&self, failures: usize, last: Timestamp) -> Option<Duration> {
        let doublings = failures.checked_sub(1)?.min(16);
        let pause = BACKOFF_FIRST.saturating_mul(1 << doublings).min(BACKOFF_MOST);
        Duration::try_from((last + pause).duration_since(self.now)).ok().filter(|left| !left.is_zero())
    }
}
