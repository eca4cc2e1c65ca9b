//! What one step does for a Job. Pure: same inputs, same plan.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use wharf_types::k8s::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use wharf_types::k8s::api::core::v1::Pod;

use super::indexes::{self, index_of};
use super::policy::{self, Outcome};
use crate::pods;

/// Keeps a pod until it is counted.
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Pods that one step creates or deletes at most. Source: `MaxPodCreateDeletePerSync`.
const BURST: usize = 500;
/// Pods that wait to be counted at most, to bound the status. Source: `MaxUncountedPods`.
const UNCOUNTED_LIMIT: usize = 500;
/// The pause after a first pod failure, which doubles with each further one. Source: `DefaultJobPodFailureBackOff`.
const BACKOFF_FIRST: SignedDuration = SignedDuration::from_secs(10);
/// Source: `MaxJobPodFailureBackOff`.
const BACKOFF_MOST: SignedDuration = SignedDuration::from_secs(600);

const COMPLETE: &str = "Complete";
const FAILED: &str = "Failed";
const SUCCESS_CRITERIA_MET: &str = "SuccessCriteriaMet";
const FAILURE_TARGET: &str = "FailureTarget";
const SUSPENDED: &str = "Suspended";

#[derive(Debug)]
pub struct Plan {
    pub create: Vec<Option<i32>>,
    pub delete: Vec<Arc<Pod>>,
    pub status: JobStatus,
    /// Pods to let go once the status is written.
    pub release: Vec<Arc<Pod>>,
    pub requeue: Option<Duration>,
    pub notes: Vec<Note>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Note {
    Normal(&'static str, String),
    Warning(&'static str, String),
}

/// How a Job ends.
struct Verdict {
    succeeded: bool,
    reason: String,
    message: String,
}

pub fn is_finished(job: &Job) -> bool {
    finished_at(job).is_some()
}

/// When the Job ended.
pub fn finished_at(job: &Job) -> Option<Timestamp> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let ended = |condition: &&JobCondition| {
        [COMPLETE, FAILED].contains(&condition.type_.as_str()) && condition.status == "True"
    };
    let end = conditions.iter().find(ended)?;
    Some(end.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0))
}

/// `settled` means that the view has all earlier creations and deletions.
pub fn plan(job: &Job, owned: &[Arc<Pod>], settled: bool, now: Timestamp) -> Plan {
    let status = job.status.clone().unwrap_or_default();
    let tracked = |pod: &&Arc<Pod>| pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER);
    if is_finished(job) {
        let release = owned.iter().filter(tracked).cloned().collect();
        return Plan { create: Vec::new(), delete: Vec::new(), status, release, requeue: None, notes: Vec::new() };
    }
    Planner::new(job, owned, status, now).run(settled)
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
    notes: Vec<Note>,
    requeue: Option<Duration>,
}

impl<'a> Planner<'a> {
    fn new(job: &'a Job, owned: &'a [Arc<Pod>], status: JobStatus, now: Timestamp) -> Self {
        let spec = job.spec.clone().unwrap_or_default();
        let active = owned.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
        let terminating = owned.iter().filter(|pod| pods::is_terminating(pod)).count();
        let succeeded_indexes =
            indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), spec.completions.unwrap_or(0));
        Self {
            job,
            now,
            active,
            terminating,
            done: Vec::new(),
            owned,
            status,
            succeeded_indexes,
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
        let fail_job = self.count();
        let verdict = self.verdict(fail_job, suspended);
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
        }
        Plan { create, delete, release: self.done, status: self.status, requeue: self.requeue, notes: self.notes }
    }

    fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    fn uncounted(&mut self) -> &mut UncountedTerminatedPods {
        self.status.uncounted_terminated_pods.get_or_insert_default()
    }

    /// Notes finished pods that are not noted yet. Returns why the whole Job fails, if a pod says so.
    fn count(&mut self) -> Option<String> {
        let mut fail_job = None;
        let finished: Vec<Arc<Pod>> = self
            .owned
            .iter()
            .filter(|pod| pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER))
            .filter(|pod| pods::phase(pod) == "Succeeded" || self.counts_as_failed(pod))
            .cloned()
            .collect();
        for pod in finished {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            let noted = {
                let uncounted = self.uncounted();
                [&uncounted.succeeded, &uncounted.failed].into_iter().flatten().flatten().any(|other| *other == uid)
            };
            if !noted && self.uncounted_total() >= UNCOUNTED_LIMIT {
                // The rest is noted by a later step.
                self.requeue = Some(Duration::from_secs(1));
                break;
            }
            if !noted {
                fail_job = fail_job.or(self.note(&pod, uid));
            }
            self.done.push(pod);
        }
        fail_job
    }

    /// Notes how a pod ended. Returns why that fails the whole Job, if it does.
    fn note(&mut self, pod: &Pod, uid: String) -> Option<String> {
        if pods::phase(pod) == "Succeeded" {
            self.note_success(pod, uid);
            return None;
        }
        let outcome = policy::outcome(self.job, pod);
        if outcome != Outcome::Ignore {
            self.uncounted().failed.get_or_insert_default().push(uid);
        }
        match outcome {
            Outcome::FailJob(message) => Some(message),
            Outcome::Count | Outcome::Ignore => None,
        }
    }

    fn uncounted_total(&self) -> usize {
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
    fn counts_as_failed(&self, pod: &Pod) -> bool {
        let waits = self.spec.pod_failure_policy.is_some() || self.replaces_only_failed();
        pods::phase(pod) == "Failed" || (pod.metadata.deletion_timestamp.is_some() && (!waits || self.is_ending()))
    }

    fn replaces_only_failed(&self) -> bool {
        self.spec.pod_replacement_policy.as_deref() == Some("Failed") || self.spec.pod_failure_policy.is_some()
    }

    fn is_ending(&self) -> bool {
        self.job.metadata.deletion_timestamp.is_some()
    }

    /// Adds noted pods to the counters that have lost their finalizer, or are gone.
    fn settle_counters(&mut self) {
        let tracked: HashMap<&str, bool> = self
            .owned
            .iter()
            .map(|pod| {
                let tracked = pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER);
                (pod.metadata.uid.as_deref().unwrap_or_default(), tracked)
            })
            .collect();
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

    fn succeeded(&self) -> i32 {
        if self.is_indexed() {
            return self.succeeded_indexes.len() as i32;
        }
        let uncounted =
            self.status.uncounted_terminated_pods.as_ref().and_then(|uncounted| uncounted.succeeded.as_ref());
        self.status.succeeded.unwrap_or(0) + uncounted.map_or(0, Vec::len) as i32
    }

    fn failed(&self) -> i32 {
        let uncounted = self.status.uncounted_terminated_pods.as_ref().and_then(|uncounted| uncounted.failed.as_ref());
        self.status.failed.unwrap_or(0) + uncounted.map_or(0, Vec::len) as i32
    }

    fn condition(&self, kind: &str) -> Option<&JobCondition> {
        self.status.conditions.iter().flatten().find(|condition| condition.type_ == kind && condition.status == "True")
    }

    /// How the Job ends, if that is decided.
    fn verdict(&mut self, fail_job: Option<String>, suspended: bool) -> Option<Verdict> {
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
            return fail("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        if self.is_past_deadline(suspended) {
            return fail("DeadlineExceeded", "Job was active longer than specified deadline");
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
                self.requeue = Some(self.requeue.map_or(left, |requeue| requeue.min(left)));
                false
            }
            _ => true,
        }
    }

    /// Which pods to create, by index where the Job has such, and which to delete; never both in one step.
    fn manage(&mut self, suspended: bool) -> (Vec<Option<i32>>, Vec<Arc<Pod>>) {
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
        if let Some(pause) = self.backoff() {
            self.requeue = Some(self.requeue.map_or(pause, |requeue| requeue.min(pause)));
            return (Vec::new(), Vec::new());
        }
        let create = if self.is_indexed() {
            self.pending_indexes().take(missing).map(Some).collect()
        } else {
            vec![None; missing]
        };
        (create, Vec::new())
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
        let mut taken = self.succeeded_indexes.clone();
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
        let pause = BACKOFF_FIRST.saturating_mul(1 << (failures - 1).min(16)).min(BACKOFF_MOST);
        Duration::try_from((*last + pause).duration_since(self.now)).ok().filter(|left| !left.is_zero())
    }

    /// Notes the decision at once, and the end when no pod is left to count.
    fn conclude(&mut self, verdict: Verdict, no_pods_left: bool) {
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
            let reason = match reason.as_str() {
                "DeadlineExceeded" => "DeadlineExceeded",
                "PodFailurePolicy" => "PodFailurePolicy",
                _ => "BackoffLimitExceeded",
            };
            self.notes.push(Note::Warning(reason, message));
        }
    }

    fn note_suspension(&mut self, suspended: bool) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owners;
    use crate::pods::fixtures::{NOW_S, PodBuilder, now, ready};
    use wharf_types::meta::{ObjectMeta, Time};

    fn job(completions: Option<i32>, parallelism: i32) -> Job {
        let spec =
            JobSpec { completions, parallelism: Some(parallelism), backoff_limit: Some(2), ..JobSpec::default() };
        let metadata = ObjectMeta { name: Some("job".to_owned()), ..ObjectMeta::default() };
        let start = Time(Timestamp::from_second(NOW_S - 100).expect("in range"));
        let status = JobStatus { start_time: Some(start), ..JobStatus::default() };
        Job { metadata, spec: Some(spec), status: Some(status) }
    }

    fn with(mut job: Job, change: impl FnOnce(&mut JobSpec)) -> Job {
        change(job.spec.get_or_insert_default());
        job
    }

    fn indexed(completions: i32, parallelism: i32) -> Job {
        with(job(Some(completions), parallelism), |spec| spec.completion_mode = Some("Indexed".to_owned()))
    }

    fn tracked(pod: PodBuilder) -> Arc<Pod> {
        let mut pod = pod.0;
        pod.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
        Arc::new(pod)
    }

    fn at(index: i32, name: &str) -> PodBuilder {
        ready(name, 60).annotation(indexes::INDEX, &index.to_string())
    }

    fn shown(plan: &Plan) -> String {
        let names =
            |pods: &[Arc<Pod>]| pods.iter().map(|pod| owners::name(&**pod).to_owned()).collect::<Vec<_>>().join(",");
        let status = &plan.status;
        let mut words = Vec::new();
        if !plan.create.is_empty() {
            let indexes: Vec<String> = plan.create.iter().flatten().map(ToString::to_string).collect();
            words.push(format!(
                "create {}{}",
                plan.create.len(),
                if indexes.is_empty() { String::new() } else { format!("[{}]", indexes.join(",")) }
            ));
        }
        for (verb, pods) in [("delete", &plan.delete), ("release", &plan.release)] {
            if !pods.is_empty() {
                words.push(format!("{verb} {}", names(pods)));
            }
        }
        for (name, count) in [("active", status.active), ("succeeded", status.succeeded), ("failed", status.failed)] {
            words.extend(count.map(|count| format!("{name}={count}")));
        }
        words.extend(status.completed_indexes.as_ref().map(|indexes| format!("indexes={indexes}")));
        let conditions = status.conditions.iter().flatten().filter(|condition| condition.status == "True");
        words.extend(
            conditions.map(|condition| format!("{}({})", condition.type_, condition.reason.as_deref().unwrap_or(""))),
        );
        words.extend(plan.requeue.map(|requeue| format!("again {}s", requeue.as_secs())));
        words.join(" ")
    }

    fn check(job: &Job, pods: &[Arc<Pod>], expected: &str) {
        assert_eq!(shown(&plan(job, pods, true, now())), expected);
    }

    #[test]
    fn pods_run_up_to_parallelism_and_what_is_left_to_do() {
        check(&job(Some(5), 2), &[], "create 2 active=2");
        check(&job(Some(1), 2), &[], "create 1 active=1");
        check(&job(Some(5), 2), &[tracked(ready("a", 9))], "create 1 active=2");
        check(&job(Some(5), 1), &[tracked(ready("a", 9)), tracked(ready("b", 900))], "delete a active=1");
        check(&job(None, 3), &[], "create 3 active=3");
    }

    #[test]
    fn a_finished_pod_is_noted_released_and_then_counted_once() {
        let mut job = job(Some(2), 1);
        let pod = ready("a", 9).phase("Succeeded");
        let first = plan(&job, &[tracked(ready("a", 9).phase("Succeeded"))], true, now());
        assert_eq!(shown(&first), "create 1 release a active=1");
        let uncounted = first.status.uncounted_terminated_pods.clone().unwrap_or_default();
        assert_eq!(uncounted.succeeded, Some(vec!["uid-a".to_owned()]));
        job.status = Some(first.status);
        check(&job, &[tracked(ready("a", 9).phase("Succeeded")), tracked(ready("b", 1))], "release a active=1");
        let second = plan(&job, &[pod.arc(), tracked(ready("b", 1))], true, now());
        assert_eq!(shown(&second), "active=1 succeeded=1");
        job.status = Some(second.status);
        check(&job, &[ready("a", 9).phase("Succeeded").arc(), tracked(ready("b", 1))], "active=1 succeeded=1");
    }

    #[test]
    fn a_job_completes_when_its_pods_are_counted() {
        let mut job = job(Some(1), 1);
        let first = plan(&job, &[tracked(ready("a", 9).phase("Succeeded"))], true, now());
        assert_eq!(shown(&first), "release a SuccessCriteriaMet(CompletionsReached)");
        job.status = Some(first.status);
        let done = plan(&job, &[ready("a", 9).phase("Succeeded").arc()], true, now());
        assert_eq!(shown(&done), "succeeded=1 SuccessCriteriaMet(CompletionsReached) Complete(CompletionsReached)");
        assert!(done.status.completion_time.is_some());
        assert_eq!(done.notes, [Note::Normal("Completed", "Job completed".to_owned())]);
    }

    #[test]
    fn failures_back_off_and_then_end_the_job() {
        let failed = |name: &str, ago_s: i64| ready(name, ago_s).phase("Failed");
        check(&job(Some(1), 1), &[failed("a", 4).arc()], "again 6s");
        check(&job(Some(1), 1), &[failed("a", 60).arc(), failed("b", 4).arc()], "again 16s");
        check(&job(Some(1), 1), &[failed("a", 60).arc()], "create 1 active=1");
        let mut exhausted = job(Some(2), 2);
        exhausted.status.get_or_insert_default().failed = Some(2);
        let pods = [tracked(failed("a", 1)), tracked(ready("b", 9))];
        check(&exhausted, &pods, "delete b release a failed=2 FailureTarget(BackoffLimitExceeded)");
    }

    #[test]
    fn a_deadline_ends_the_job() {
        let late = |deadline_s| with(job(Some(1), 1), |spec| spec.active_deadline_seconds = Some(deadline_s));
        check(&late(130), &[tracked(ready("a", 9))], "active=1 again 30s");
        check(&late(90), &[tracked(ready("a", 9))], "delete a FailureTarget(DeadlineExceeded)");
        check(&late(90), &[], "FailureTarget(DeadlineExceeded) Failed(DeadlineExceeded)");
    }

    #[test]
    fn a_suspended_job_has_no_pods() {
        let job = with(job(Some(1), 1), |spec| spec.suspend = Some(true));
        let plan = plan(&job, &[tracked(ready("a", 9))], true, now());
        assert_eq!(shown(&plan), "delete a Suspended(JobSuspended)");
        assert_eq!(plan.status.start_time, None);
    }

    #[test]
    fn indexed_jobs_run_each_index_once() {
        check(&indexed(4, 2), &[], "create 2[0,1] active=2");
        let pods = [tracked(at(0, "a").phase("Succeeded")), tracked(at(2, "c"))];
        check(&indexed(4, 2), &pods, "create 1[1] release a active=2 succeeded=1 indexes=0");
        let twice = [tracked(at(1, "a")), tracked(at(1, "b")), tracked(at(9, "c"))];
        check(&indexed(4, 4), &twice, "delete c,a active=1");
    }

    #[test]
    fn deleted_pods_count_as_failed_unless_a_policy_waits_for_their_end() {
        let leaving = [tracked(ready("a", 9).terminating())];
        check(&job(Some(1), 1), &leaving, "create 1 release a active=1");
        let waits = with(job(Some(1), 1), |spec| spec.pod_replacement_policy = Some("Failed".to_owned()));
        check(&waits, &leaving, "");
    }
}
