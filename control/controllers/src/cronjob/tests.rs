//! What plans say of CronJobs at times of one morning.

use std::sync::Arc;

use serde_json::{Value, json};
use wharf_types::k8s::api::batch::v1::{CronJob, CronJobStatus, Job};

use super::plan::{history, plan, started, tally, unexpected, unseen};
use super::schedule::fixtures::{cron_job, zones};
use crate::note::Note;
use crate::owners;

const MADE: &str = "2026-05-01T10:00:10Z";

/// A Job with this UID that began at a minute past ten, and has ended as `end` says.
fn job(uid: &str, minute: u32, end: Option<&str>) -> Arc<Job> {
    let at = |second: u32| format!("2026-05-01T10:{minute:02}:{second:02}Z");
    let mut status = json!({"startTime": at(0)});
    if let Some(end) = end {
        status["conditions"] = json!([{"type": end, "status": "True"}]);
        if end == "Complete" {
            status["completionTime"] = json!(at(30));
        }
    }
    let object =
        json!({"metadata": {"name": format!("tick-{uid}"), "namespace": "default", "uid": uid}, "status": status});
    Arc::new(serde_json::from_value(object).expect("a Job"))
}

fn active(uids: &[&str]) -> Value {
    uids.iter().map(|uid| json!({"name": format!("tick-{uid}"), "namespace": "default", "uid": uid})).collect()
}

fn shown(notes: &[Note]) -> String {
    let words = notes.iter().map(|note| match note {
        Note::Normal(reason, message) => format!("{reason}: {message}"),
        Note::Warning(reason, message) => format!("!{reason}: {message}"),
    });
    words.collect::<Vec<_>>().join("; ")
}

/// What happens at `now` with a schedule of five minutes.
#[track_caller]
fn check(spec: Value, status: Value, now: &str, expected: &str) {
    check_cron(&cron_job("*/5 * * * *", MADE, spec, status), now, expected);
}

#[track_caller]
fn check_cron(cron: &CronJob, now: &str, expected: &str) {
    let plan = plan(cron, &zones(), now.parse().expect("a time"));
    let mut words = vec![shown(&plan.notes)];
    words.extend(plan.start.map(|start| {
        let replaced: Vec<_> = start.replace.iter().filter_map(|job| job.name.clone()).collect();
        format!("start {} instead of [{}]", owners::name(&start.job), replaced.join(" "))
    }));
    words.extend(plan.again.map(|again| format!("again in {}s", again.as_secs())));
    words.retain(|word| !word.is_empty());
    assert_eq!(words.join("; "), expected);
}

#[test]
fn a_job_starts_when_it_is_due() {
    check(json!({}), json!({}), "2026-05-01T10:04:59Z", "again in 1s");
    check(json!({}), json!({}), "2026-05-01T10:05:00Z", "start tick-29627165 instead of []; again in 300s");
    let started = json!({"lastScheduleTime": "2026-05-01T10:05:00Z"});
    check(json!({}), started, "2026-05-01T10:05:00Z", "again in 300s");
}

#[test]
fn a_job_is_the_templates_with_its_time() {
    let cron = cron_job("*/5 * * * *", MADE, json!({"timeZone": "Europe/Berlin"}), json!({}));
    let start = plan(&cron, &zones(), "2026-05-01T10:05:00Z".parse().expect("a time")).start.expect("due");
    let job = serde_json::to_value(&start.job).expect("JSON");
    let expected = json!({
        "name": "tick-29627165", "namespace": "default", "labels": {"a": "b"},
        "annotations": {"batch.kubernetes.io/cronjob-scheduled-timestamp": "2026-05-01T12:05:00+02:00"},
        "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob", "name": "tick", "uid": "u",
            "controller": true, "blockOwnerDeletion": true}],
    });
    assert_eq!(job["metadata"], expected);
    let cron = cron_job("*/5 * * * *", MADE, json!({}), json!({}));
    let start = plan(&cron, &zones(), "2026-05-01T10:05:00Z".parse().expect("a time")).start.expect("due");
    let at = start.job.metadata.annotations.clone().expect("some").into_values().next();
    assert_eq!(at.as_deref(), Some("2026-05-01T10:05:00Z"));
    let mut status = CronJobStatus::default();
    started(&mut status, &Job { metadata: start.job.metadata, ..Job::default() }, start.at);
    let status = serde_json::to_value(status).expect("JSON");
    assert_eq!(status["lastScheduleTime"], "2026-05-01T10:05:00Z");
    assert_eq!((&status["active"][0]["kind"], &status["active"][0]["name"]), (&json!("Job"), &json!("tick-29627165")));
}

#[test]
fn what_still_runs_is_let_be_waited_for_or_replaced() {
    let now = "2026-05-01T10:05:01Z";
    let policy = |policy: &str| json!({"concurrencyPolicy": policy});
    let running = json!({"active": active(&["a", "b"])});
    let start = "start tick-29627165 instead of";
    check(policy("Allow"), running.clone(), now, &format!("{start} []; again in 299s"));
    check(policy("Replace"), running.clone(), now, &format!("{start} [tick-a tick-b]; again in 299s"));
    let waits =
        "JobAlreadyActive: Not starting job because prior execution is running and concurrency policy is Forbid";
    check(policy("Forbid"), running, now, &format!("{waits}; again in 299s"));
    let this = json!({"active": active(&["29627165"])});
    check(policy("Forbid"), this, now, "again in 299s");
}

#[test]
fn what_is_too_late_does_not_start() {
    let deadline = json!({"startingDeadlineSeconds": 60});
    check(deadline.clone(), json!({}), "2026-05-01T10:05:59Z", "start tick-29627165 instead of []; again in 241s");
    check(deadline, json!({}), "2026-05-01T10:06:00Z", "again in 240s");
}

#[test]
fn many_missed_times_are_told_of_and_the_last_is_made_up_for() {
    let many = "!TooManyMissedTimes: too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
    let expected = format!("{many}; start tick-29628605 instead of []; again in 270s");
    check(json!({}), json!({}), "2026-05-02T10:05:30Z", &expected);
}

#[test]
fn nothing_starts_and_nothing_is_waited_for_while_it_cannot_be_due() {
    let now = "2026-05-01T10:05:00Z";
    check(json!({"suspend": true}), json!({}), now, "");
    let unknown = "!UnknownTimeZone: invalid timeZone: \"Mars/Base\": unknown time zone Mars/Base";
    check(json!({"timeZone": "Mars/Base"}), json!({}), now, unknown);
    let cron = |schedule: &str| cron_job(schedule, MADE, json!({}), json!({}));
    let bad = "!UnparseableSchedule: unparseable schedule: \"* * *\" : expected exactly 5 fields, found 3: [* * *]";
    check_cron(&cron("* * *"), now, bad);
    let never =
        "!InvalidSchedule: invalid schedule: 0 0 31 2 * : time difference between two schedules is less than 1 second";
    check_cron(&cron("0 0 31 2 *"), now, never);
    let zoned = "!UnsupportedSchedule: CRON_TZ or TZ used in schedule \"TZ=UTC 0 0 * * *\" is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details; again in 50100s";
    check_cron(&cron("TZ=UTC 0 0 * * *"), now, zoned);
    let mut leaving = cron("*/5 * * * *");
    leaving.metadata.deletion_timestamp = leaving.metadata.creation_timestamp.clone();
    check_cron(&leaving, now, "");
}

#[test]
fn the_status_follows_the_jobs() {
    let status = json!({"active": active(&["a", "b", "c"]), "lastSuccessfulTime": "2026-05-01T10:00:30Z"});
    let mut status: CronJobStatus = serde_json::from_value(status).expect("a status");
    let jobs = [job("a", 1, None), job("b", 2, Some("Complete")), job("d", 3, Some("Failed")), job("e", 4, None)];
    let names = |jobs: Vec<&Arc<Job>>| jobs.iter().map(|job| owners::name(&***job).to_owned()).collect::<Vec<_>>();
    assert_eq!(names(unexpected(&status, &jobs)), ["tick-e"]);
    let missing = unseen(&status, &jobs);
    let notes = tally(&mut status, &jobs, &missing);
    assert_eq!(
        shown(&notes),
        "!UnexpectedJob: Saw a job that the controller did not create or forgot: tick-e; SawCompletedJob: Saw completed job: tick-b, condition: Complete; MissingJob: Active job went missing: tick-c"
    );
    let left = json!({"active": active(&["a"]), "lastSuccessfulTime": "2026-05-01T10:02:30Z"});
    assert_eq!(serde_json::to_value(&status).expect("JSON"), left);
    assert!(tally(&mut status, &jobs[..3], &[]).is_empty(), "what was told is not told again");
}

#[test]
fn the_history_keeps_the_last_of_each_outcome() {
    let jobs: Vec<Arc<Job>> = [("a", 5, "Complete"), ("b", 2, "Complete"), ("c", 3, "Failed"), ("d", 4, "Failed")]
        .map(|(uid, minute, end)| job(uid, minute, Some(end)))
        .into_iter()
        .chain([job("e", 1, None)])
        .collect();
    let surplus = |successes: Value, failures: Value| {
        let limits = json!({"successfulJobsHistoryLimit": successes, "failedJobsHistoryLimit": failures});
        let surplus = history(&cron_job("* * * * *", MADE, limits, json!({})), &jobs);
        surplus.iter().map(|job| owners::name(&**job).to_owned()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(surplus(json!(1), json!(1)), "tick-b tick-c");
    assert_eq!(surplus(json!(0), json!(null)), "tick-b tick-a");
    assert_eq!(surplus(json!(3), json!(0)), "tick-c tick-d");
}
