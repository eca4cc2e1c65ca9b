//! Plans for Jobs, in words.

use wharf_types::k8s::api::batch::v1::{
    PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule,
};
use wharf_types::k8s::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus};
use wharf_types::meta::{ObjectMeta, Time};

use super::*;
use crate::owners;
use crate::pods::fixtures::{NOW_S, PodBuilder, now, ready};

fn job(completions: Option<i32>, parallelism: i32) -> Job {
    let spec = JobSpec { completions, parallelism: Some(parallelism), backoff_limit: Some(2), ..JobSpec::default() };
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
        let indexes: Vec<String> =
            plan.create.iter().filter_map(|fresh| fresh.index).map(|index| index.to_string()).collect();
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
    words.extend(status.failed_indexes.as_ref().map(|indexes| format!("failed-indexes={indexes}")));
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

/// A Job of so many indexes, each of which may fail once.
fn patient(completions: i32) -> Job {
    with(indexed(completions, completions), |spec| {
        spec.backoff_limit = Some(i32::MAX);
        spec.backoff_limit_per_index = Some(1);
    })
}

/// Ended so long ago, with so many failures of its index before it.
fn failed_at(index: i32, name: &str, ago_s: i64, before: i32) -> Arc<Pod> {
    let mut pod = at(index, name).annotation(FAILURES, &before.to_string()).phase("Failed");
    let ended = ready(name, ago_s).0;
    pod.0.metadata.creation_timestamp = ended.metadata.creation_timestamp;
    if let (Some(status), Some(other)) = (&mut pod.0.status, ended.status) {
        status.conditions = other.conditions;
    }
    tracked(pod)
}

#[test]
fn each_index_backs_off_by_itself_and_its_last_failure_is_kept_until_it_is_replaced() {
    let others = [tracked(at(1, "b"))];
    let recent = [failed_at(0, "a", 4, 0), others[0].clone()];
    check(&patient(2), &recent, "active=1 failed-indexes= again 6s");
    let old = [failed_at(0, "a", 60, 0), others[0].clone()];
    let replaces = plan(&patient(2), &old, true, now());
    assert_eq!(shown(&replaces), "create 1[0] active=2 failed-indexes=");
    assert_eq!(replaces.create[0].failures, Some(Failures { counted: 1, ignored: 0 }));
    assert_eq!(replaces.status.uncounted_terminated_pods.unwrap_or_default().failed, None, "not counted before");
    let replaced = [old[0].clone(), others[0].clone(), tracked(at(0, "c").annotation(FAILURES, "1"))];
    check(&patient(2), &replaced, "release a active=2 failed-indexes=");
}

#[test]
fn an_index_fails_alone_and_the_job_when_nothing_else_is_left() {
    let pods = [failed_at(0, "a", 60, 1), tracked(at(1, "b"))];
    check(&patient(2), &pods, "release a active=1 failed-indexes=0");
    let over = [failed_at(0, "a", 60, 1), tracked(at(1, "b").phase("Succeeded"))];
    let expected = "release a,b succeeded=1 indexes=1 failed-indexes=0 FailureTarget(FailedIndexes)";
    check(&patient(2), &over, expected);
    let strict = with(patient(3), |spec| spec.max_failed_indexes = Some(0));
    let pods = [failed_at(0, "a", 60, 1), failed_at(1, "b", 1, 0), tracked(at(2, "c"))];
    let expected = "delete c release a,b failed-indexes=0 FailureTarget(MaxFailedIndexesExceeded)";
    check(&strict, &pods, expected);
}

#[test]
fn a_policy_may_fail_an_index_at_once_or_leave_a_failure_out() {
    let rule = |action: &str, code: i32| PodFailurePolicyRule {
        action: action.to_owned(),
        on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
            container_name: None,
            operator: "In".to_owned(),
            values: vec![code],
        }),
        on_pod_conditions: None,
    };
    let rules = vec![rule("FailIndex", 42), rule("Ignore", 7)];
    let job = with(patient(2), |spec| spec.pod_failure_policy = Some(PodFailurePolicy { rules }));
    let exited = |index: i32, name: &str, code: i32| {
        let mut pod = Arc::unwrap_or_clone(failed_at(index, name, 60, 0));
        let finished_at = pod.metadata.creation_timestamp.clone();
        let terminated =
            ContainerStateTerminated { exit_code: code, finished_at, ..ContainerStateTerminated::default() };
        let state = Some(ContainerState { terminated: Some(terminated), ..ContainerState::default() });
        let status = ContainerStatus { name: "main".to_owned(), state, ..ContainerStatus::default() };
        pod.status.get_or_insert_default().container_statuses = Some(vec![status]);
        Arc::new(pod)
    };
    let plan = plan(&job, &[exited(0, "a", 42), exited(1, "b", 7)], true, now());
    assert_eq!(shown(&plan), "create 1[1] release a active=1 failed-indexes=0");
    assert_eq!(plan.create[0].failures, Some(Failures { counted: 0, ignored: 1 }));
}
