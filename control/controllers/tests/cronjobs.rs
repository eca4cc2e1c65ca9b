//! CronJobs against the real API server, with a clock that the tests put forward.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use support::{Cluster, create, end, template};
use wharf_client::Clock;
use wharf_types::k8s::api::batch::v1::{CronJob, CronJobStatus, Job};
use wharf_types::k8s::api::core::v1::{Event, Pod};

/// The real time and what was added to it.
#[derive(Clone, Default)]
struct Ahead(Arc<AtomicI64>);

impl Ahead {
    fn now(&self) -> Timestamp {
        Timestamp::now() + SignedDuration::from_secs(self.0.load(Ordering::Relaxed))
    }

    /// A cluster that goes by this clock.
    async fn cluster(&self) -> Cluster {
        let clock = self.clone();
        let cluster = Cluster::with(|options| {
            options.clock = Clock::new(move || clock.now());
            // The node of these tests is silent.
            options.node_grace = SignedDuration::from_hours(1000);
        })
        .await;
        cluster.run_node(true);
        cluster
    }

    /// Puts the clock forward, and has the CronJob looked at, which otherwise waits in real time.
    async fn pass(&self, cluster: &Cluster, name: &str, seconds: i64) {
        let total = self.0.fetch_add(seconds, Ordering::Relaxed) + seconds;
        let touch = Patch::Merge(json!({"metadata": {"annotations": {"touched": total.to_string()}}}));
        cluster.api::<CronJob>().patch(name, &PatchParams::default(), &touch).await.expect("touched");
    }
}

fn cron_job(schedule: &str, mut spec: Value) -> Value {
    let mut pods = template("tick", "v1");
    pods["spec"]["restartPolicy"] = json!("Never");
    spec["schedule"] = json!(schedule);
    spec["jobTemplate"] = json!({"metadata": {"labels": {"made": "in-time"}}, "spec": {"template": pods}});
    json!({"metadata": {"name": "tick"}, "spec": spec})
}

fn status(cron: &CronJob) -> CronJobStatus {
    cron.status.clone().unwrap_or_default()
}

fn active(cron: &CronJob) -> Vec<String> {
    status(cron).active.iter().flatten().filter_map(|job| job.name.clone()).collect()
}

fn name(job: &Job) -> String {
    job.metadata.name.clone().unwrap_or_default()
}

/// Ends the one pod that runs.
async fn finish(cluster: &Cluster) {
    let runs = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
    let pods = cluster.wait::<Pod>("a pod that runs", move |pods| pods.iter().any(|pod| runs(pod))).await;
    let pod = pods.into_iter().find(|pod| runs(pod)).expect("it runs");
    end(&cluster.client, &pod, "Succeeded").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_start_in_time_are_counted_and_the_last_are_kept() {
    let clock = Ahead::default();
    let cluster = clock.cluster().await;
    let spec = json!({"successfulJobsHistoryLimit": 1});
    create(&cluster.api::<CronJob>(), cron_job("0 * * * *", spec)).await;
    let mut first = String::new();
    for round in 0..2 {
        clock.pass(&cluster, "tick", 3600).await;
        let cron = cluster.wait_one::<CronJob>("tick", "an active job", |cron| active(cron).len() == 1).await;
        let running = active(&cron).remove(0);
        assert_ne!(running, first);
        let job = cluster.api::<Job>().get(&running).await.expect("the job");
        assert_eq!(
            job.metadata.labels.as_ref().and_then(|labels| labels.get("made")).map(String::as_str),
            Some("in-time")
        );
        let scheduled = status(&cron).last_schedule_time.expect("a time").0;
        let annotations = job.metadata.annotations.clone().unwrap_or_default();
        assert_eq!(annotations["batch.kubernetes.io/cronjob-scheduled-timestamp"], scheduled.to_string());
        assert_eq!(
            (scheduled.as_second() % 3600, format!("tick-{}", scheduled.as_second() / 60)),
            (0, running.clone())
        );
        finish(&cluster).await;
        cluster.wait_one::<CronJob>("tick", "none active", |cron| active(cron).is_empty()).await;
        if round == 0 {
            first = running;
        }
    }
    let gone = first.clone();
    let jobs = cluster.wait::<Job>("one job left", move |jobs| jobs.len() == 1 && name(&jobs[0]) != gone).await;
    let completed = jobs[0].status.as_ref().and_then(|status| status.completion_time.clone());
    assert!(completed.is_some());
    cluster
        .wait_one::<CronJob>("tick", "the last success", move |cron| status(cron).last_successful_time == completed)
        .await;

    let written: Vec<_> =
        cluster.written().into_iter().filter(|(user, ..)| user.ends_with(":cronjob-controller")).collect();
    for (verb, resource) in [("create", "jobs"), ("delete", "jobs"), ("update", "cronjobs/status")] {
        assert!(written.iter().any(|(_, did, to)| did == verb && to == resource), "{verb} {resource}: {written:?}");
    }
    cluster.api::<CronJob>().delete("tick", &DeleteParams::default()).await.expect("deleted");
    cluster.wait::<Pod>("no pods", |pods| pods.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_is_replaced_or_forbids_the_next() {
    let clock = Ahead::default();
    let cluster = clock.cluster().await;
    create(&cluster.api::<CronJob>(), cron_job("0 * * * *", json!({"concurrencyPolicy": "Replace"}))).await;
    clock.pass(&cluster, "tick", 3600).await;
    let first = active(&*cluster.wait_one::<CronJob>("tick", "a job", |cron| active(cron).len() == 1).await);
    clock.pass(&cluster, "tick", 3600).await;
    let before = first.clone();
    let replaced = move |cron: &CronJob| active(cron).len() == 1 && active(cron) != before;
    let second = active(&*cluster.wait_one::<CronJob>("tick", "another job", replaced).await);
    let before = first.clone();
    cluster.wait::<Job>("the first job gone", move |jobs| jobs.iter().all(|job| name(job) != before[0])).await;

    let forbid = Patch::Merge(json!({"spec": {"concurrencyPolicy": "Forbid"}}));
    cluster.api::<CronJob>().patch("tick", &PatchParams::default(), &forbid).await.expect("changed");
    clock.pass(&cluster, "tick", 3600).await;
    let refused =
        |events: &[Arc<Event>]| events.iter().any(|event| event.reason.as_deref() == Some("JobAlreadyActive"));
    cluster.wait::<Event>("a report", refused).await;
    let jobs: Vec<String> = cluster.wait::<Job>("jobs", |_| true).await.iter().map(|job| name(job)).collect();
    assert_eq!(jobs, second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_was_started_before_the_status_was_written_is_found_again() {
    let clock = Ahead::default();
    let cluster = clock.cluster().await;
    let cron: CronJob = create(&cluster.api(), cron_job("0 * * * *", json!({"suspend": true}))).await;
    clock.pass(&cluster, "tick", 3600).await;
    let hours = clock.now().as_second() / 3600;
    let mut pods = template("tick", "v1");
    pods["spec"]["restartPolicy"] = json!("Never");
    let owner = json!({"apiVersion": "batch/v1", "kind": "CronJob", "name": "tick", "uid": cron.metadata.uid, "controller": true});
    let job = json!({
        "metadata": {"name": format!("tick-{}", hours * 60), "ownerReferences": [owner]},
        "spec": {"template": pods},
    });
    let job: Job = create(&cluster.api(), job).await;
    let unexpected =
        |events: &[Arc<Event>]| events.iter().any(|event| event.reason.as_deref() == Some("UnexpectedJob"));
    cluster.wait::<Event>("a report", unexpected).await;

    let go_on = Patch::Merge(json!({"spec": {"suspend": false}}));
    cluster.api::<CronJob>().patch("tick", &PatchParams::default(), &go_on).await.expect("resumed");
    let cron = cluster.wait_one::<CronJob>("tick", "the job", |cron| active(cron).len() == 1).await;
    assert_eq!(active(&cron), [name(&job)]);
    assert_eq!(status(&cron).last_schedule_time.map(|time| time.0.as_second()), Some(hours * 3600));

    cluster.api::<Job>().delete(&name(&job), &DeleteParams::background()).await.expect("deleted");
    cluster.wait_one::<CronJob>("tick", "no job", |cron| active(cron).is_empty()).await;
    cluster
        .wait::<Event>("a report", |events| events.iter().any(|event| event.reason.as_deref() == Some("MissingJob")))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_schedule_does_not_make_up_for_what_it_would_have_started() {
    let clock = Ahead::default();
    let cluster = clock.cluster().await;
    create(&cluster.api::<CronJob>(), cron_job("0 0 29 2 *", json!({}))).await;
    starts(&cluster, &clock, "before").await;
    let hourly = Patch::Merge(json!({"spec": {"schedule": "0 * * * *"}}));
    cluster.api::<CronJob>().patch("tick", &PatchParams::default(), &hourly).await.expect("changed");
    starts(&cluster, &clock, "after").await;
    let jobs: Vec<String> = cluster.wait::<Job>("jobs", |_| true).await.iter().map(|job| name(job)).collect();
    assert!(!jobs.iter().any(|name| name.starts_with("tick-")), "{jobs:?}");
}

/// Another CronJob comes due and starts: there was time for all before it.
async fn starts(cluster: &Cluster, clock: &Ahead, called: &str) {
    let mut other = cron_job("0 * * * *", json!({}));
    other["metadata"]["name"] = json!(called);
    create(&cluster.api::<CronJob>(), other).await;
    clock.pass(cluster, called, 3600).await;
    cluster.wait_one::<CronJob>(called, "its job", |cron| active(cron).len() == 1).await;
}
