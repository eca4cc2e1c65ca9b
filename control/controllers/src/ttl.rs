//! Deletes finished Jobs after their `ttlSecondsAfterFinished`.
//!
//! Source of the behaviour: `k8s.io/kubernetes/pkg/controller/ttlafterfinished`.

use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client};
use wharf_client::{Action, Clock, Error, Informers, Lister, ObjectKey, Reconcile, Trigger};
use wharf_types::k8s::api::batch::v1::Job;

use crate::call::{During as _, gone_is_fine};
use crate::job;

pub struct TtlAfterFinished {
    client: Client,
    jobs: Lister<Job>,
    clock: Clock,
}

impl TtlAfterFinished {
    pub fn new(informers: &Informers, clock: Clock) -> Self {
        Self { client: informers.client().clone(), jobs: informers.of(), clock }
    }
}

#[async_trait]
impl Reconcile for TtlAfterFinished {
    fn name(&self) -> &'static str {
        "ttl-after-finished"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::primary(&self.jobs)]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(job) = self.jobs.get(key) else { return Ok(Action::done()) };
        let Some(left) = left(&job, self.clock.now()) else { return Ok(Action::done()) };
        if !left.is_zero() {
            return Ok(Action::requeue_after(left));
        }
        // The version too: the TTL may have been raised since.
        let preconditions =
            Preconditions { uid: job.metadata.uid.clone(), resource_version: job.metadata.resource_version.clone() };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::foreground() };
        let api = Api::<Job>::namespaced(self.client.clone(), &key.namespace);
        gone_is_fine(api.delete(&key.name, &params).await).during("delete finished job", key)?;
        Ok(Action::done())
    }
}

/// How long the Job still has; none if it stays.
fn left(job: &Job, now: Timestamp) -> Option<Duration> {
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let ttl = SignedDuration::from_secs(job.spec.as_ref()?.ttl_seconds_after_finished?.into());
    let due = job::finished_at(job)? + ttl;
    Some(Duration::try_from(due.duration_since(now)).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::fixtures::{NOW_S, now};
    use wharf_types::k8s::api::batch::v1::{JobCondition, JobSpec, JobStatus};
    use wharf_types::meta::Time;

    fn check(ttl_s: Option<i32>, finished_ago_s: Option<i64>, expected_s: Option<u64>) {
        let condition = finished_ago_s.map(|ago_s| JobCondition {
            type_: "Complete".to_owned(),
            status: "True".to_owned(),
            last_transition_time: Some(Time(Timestamp::from_second(NOW_S - ago_s).expect("in range"))),
            ..JobCondition::default()
        });
        let job = Job {
            spec: Some(JobSpec { ttl_seconds_after_finished: ttl_s, ..JobSpec::default() }),
            status: Some(JobStatus { conditions: Some(condition.into_iter().collect()), ..JobStatus::default() }),
            ..Job::default()
        };
        assert_eq!(left(&job, now()).map(|left| left.as_secs()), expected_s);
    }

    #[test]
    fn only_finished_jobs_with_a_ttl_go() {
        check(None, Some(5), None);
        check(Some(60), None, None);
        check(Some(60), Some(5), Some(55));
        check(Some(60), Some(90), Some(0));
        check(Some(0), Some(0), Some(0));
    }
}
