//! Whether and how a Job ends, and what its conditions say of it.

use std::time::Duration;

use jiff::SignedDuration;
use wharf_types::k8s::api::batch::v1::JobCondition;

use super::super::policy;
use super::{COMPLETE, FAILED, Planner};
use crate::note::Note;
use crate::pods;

pub const SUCCESS_CRITERIA_MET: &str = "SuccessCriteriaMet";
pub const FAILURE_TARGET: &str = "FailureTarget";
const SUSPENDED: &str = "Suspended";

const BACKOFF_LIMIT_EXCEEDED: &str = "BackoffLimitExceeded";
/// Why a Job may fail.
const FAILURES: [&str; 5] =
    [BACKOFF_LIMIT_EXCEEDED, "DeadlineExceeded", "PodFailurePolicy", "MaxFailedIndexesExceeded", "FailedIndexes"];

/// How a Job ends.
pub struct Verdict {
    succeeded: bool,
    reason: String,
    message: String,
}

impl Planner<'_> {
    pub(super) fn condition(&self, kind: &str) -> Option<&JobCondition> {
        self.status.conditions.iter().flatten().find(|condition| condition.type_ == kind && condition.status == "True")
    }

    /// How the Job ends, if that is decided.
    pub(super) fn verdict(&mut self, fail_job: Option<String>, suspended: bool) -> Option<Verdict> {
        for (kind, succeeded) in [(FAILURE_TARGET, false), (SUCCESS_CRITERIA_MET, true)] {
            if let Some(decided) = self.condition(kind) {
                let reason = decided.reason.clone().unwrap_or_default();
                return Some(Verdict { succeeded, reason, message: decided.message.clone().unwrap_or_default() });
            }
        }
        let fail = |reason: &str, message: &str| {
            Some(Verdict { succeeded: false, reason: reason.to_owned(), message: message.to_owned() })
        };
        if let Some(message) = fail_job {
            return fail("PodFailurePolicy", &message);
        }
        if self.is_past_backoff_limit() {
            return fail(BACKOFF_LIMIT_EXCEEDED, "Job has reached the specified backoff limit");
        }
        if self.is_past_deadline(suspended) {
            return fail("DeadlineExceeded", "Job was active longer than specified deadline");
        }
        let failed_indexes = self.failed_indexes.len();
        if self.spec.max_failed_indexes.is_some_and(|most| failed_indexes as i64 > i64::from(most)) {
            return fail("MaxFailedIndexesExceeded", "Job has exceeded the specified maximal number of failed indexes");
        }
        let over = (failed_indexes + self.succeeded_indexes.len()) as i64;
        if failed_indexes > 0 && over >= i64::from(self.spec.completions.unwrap_or(0)) {
            return fail("FailedIndexes", "Job has failed indexes");
        }
        let succeed =
            |reason: &str, message: String| Some(Verdict { succeeded: true, reason: reason.to_owned(), message });
        if let Some(rule) = policy::success_rule(self.job, &self.succeeded_indexes).filter(|_| self.is_indexed()) {
            return succeed("SuccessPolicy", format!("Matched rules at index {rule}"));
        }
        let complete = match self.spec.completions {
            // A work queue: its pods know when it is empty, and the first success tells.
            None => self.succeeded() > 0 && self.active.is_empty(),
            Some(completions) => self.succeeded() >= completions && self.active.is_empty(),
        };
        if complete {
            succeed("CompletionsReached", "Reached expected number of succeeded pods".to_owned())
        } else {
            None
        }
    }

    fn is_past_backoff_limit(&self) -> bool {
        let limit = self.spec.backoff_limit.unwrap_or(6);
        if self.failed() > limit {
            return true;
        }
        let restart_policy = self.spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
        if restart_policy != Some("OnFailure") {
            return false;
        }
        // Containers that restart in place count as failures too.
        let statuses = self
            .active
            .iter()
            .filter_map(|pod| pod.status.as_ref())
            .flat_map(|status| status.init_container_statuses.iter().chain(&status.container_statuses).flatten());
        let restarts: i32 = statuses.map(|status| status.restart_count).sum();
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    fn is_past_deadline(&mut self, suspended: bool) -> bool {
        let (Some(deadline_s), Some(start), false) =
            (self.spec.active_deadline_seconds, self.status.start_time.as_ref(), suspended)
        else {
            return false;
        };
        let left = (start.0 + SignedDuration::from_secs(deadline_s)).duration_since(self.now);
        match Duration::try_from(left) {
            Ok(left) if !left.is_zero() => {
                self.again_in(left);
                false
            }
            _ => true,
        }
    }

    /// Notes the decision at once, and the end when no pod is left to count.
    pub(super) fn conclude(&mut self, verdict: Verdict, no_pods_left: bool) {
        let Verdict { succeeded, reason, message } = verdict;
        let (interim, last) = if succeeded { (SUCCESS_CRITERIA_MET, COMPLETE) } else { (FAILURE_TARGET, FAILED) };
        self.set(interim, "True", &reason, &message);
        let all_counted = self.uncounted_total() == 0 && self.done.is_empty();
        if !(all_counted && no_pods_left) {
            return;
        }
        self.set(last, "True", &reason, &message);
        if succeeded {
            self.status.completion_time = Some(pods::time(self.now));
            self.notes.push(Note::Normal("Completed", "Job completed".to_owned()));
        } else {
            let reason = FAILURES.into_iter().find(|known| *known == reason).unwrap_or(BACKOFF_LIMIT_EXCEEDED);
            self.notes.push(Note::Warning(reason, message));
        }
    }

    pub(super) fn note_suspension(&mut self, suspended: bool) {
        let is_noted = self.condition(SUSPENDED).is_some();
        if suspended && !is_noted {
            self.set(SUSPENDED, "True", "JobSuspended", "Job suspended");
            self.status.start_time = None;
            self.notes.push(Note::Normal("Suspended", "Job suspended".to_owned()));
        } else if !suspended && is_noted {
            self.set(SUSPENDED, "False", "JobResumed", "Job resumed");
            // The deadline counts from here.
            self.status.start_time = Some(pods::time(self.now));
            self.notes.push(Note::Normal("Resumed", "Job resumed".to_owned()));
        }
    }

    fn set(&mut self, kind: &str, state: &str, reason: &str, message: &str) {
        let conditions = self.status.conditions.get_or_insert_default();
        if conditions.iter().any(|condition| condition.type_ == kind && condition.status == state) {
            return;
        }
        conditions.retain(|condition| condition.type_ != kind);
        conditions.push(JobCondition {
            type_: kind.to_owned(),
            status: state.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_probe_time: Some(pods::time(self.now)),
            last_transition_time: Some(pods::time(self.now)),
        });
    }
}
