//! Starts a Job whenever a CronJob's schedule comes due, and keeps the last ones that ended.
//!
//! - [`schedule`]: when something is due, by which clock. [`plan`]: what one step does, purely.
//!
//! A Job's name is made of the time that it is for, so no time is served twice, even when a step dies between the Job and the
//! status. A step ends by waiting for the next time; nothing is polled.
//! Invariants: the status is written once, last; a Job that was started is in it, or is found under its name by the next step.
//! Source of the behaviour: `k8s.io/kubernetes/pkg/controller/cronjob`.

mod plan;
mod schedule;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};
use wharf_client::{
    Action, Changed, Clock, Error, FENCE_LIMIT, Fences, Index, Informers, Lister, ObjectKey, Queue, Reconcile,
    Recorder, Trigger,
};
use wharf_types::k8s::api::batch::v1::{CronJob, CronJobStatus, Job};
use wharf_types::k8s::api::core::v1::ObjectReference;

use self::plan::{Start, plan};
use self::schedule::Timetable;
use crate::call::{self, During as _, Failed, gone_is_fine};
use crate::owners;

pub use schedule::Zones;

pub struct CronJobs {
    client: Client,
    cron_jobs: Lister<CronJob>,
    jobs: Lister<Job>,
    /// Jobs by the key of their controller, whatever that is.
    controlled: Index<Job>,
    /// Own status writes: a step on an older version would lose the race.
    written: Fences<CronJob>,
    recorder: Recorder,
    zones: Zones,
    clock: Clock,
}

impl CronJobs {
    pub fn new(informers: &Informers, recorder: Recorder, zones: Zones, clock: Clock) -> Self {
        let (cron_jobs, jobs) = (informers.of::<CronJob>(), informers.of::<Job>());
        Self {
            client: informers.client().clone(),
            written: Fences::new(cron_jobs.clone()),
            cron_jobs,
            controlled: jobs.index(|job| controller_key(job).map(|key| key.to_string()).into_iter().collect()),
            jobs,
            recorder,
            zones,
            clock,
        }
    }

    fn api(&self, key: &ObjectKey) -> Api<Job> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    /// Deletes what the history does not keep.
    async fn clean(&self, key: &ObjectKey, cron: &CronJob, status: &mut CronJobStatus, jobs: &[Arc<Job>]) {
        for job in plan::history(cron, jobs) {
            // Told of already; the next change tries again.
            let _ = self.delete(key, cron, status, &job).await;
        }
    }

    async fn delete(
        &self,
        key: &ObjectKey,
        cron: &CronJob,
        status: &mut CronJobStatus,
        job: &Job,
    ) -> Result<(), kube::Error> {
        let name = owners::name(job);
        let preconditions = Preconditions { uid: job.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
        match gone_is_fine(self.api(key).delete(name, &params).await) {
            Ok(deleted) => {
                plan::forget(status, job.metadata.uid.as_deref());
                if deleted.is_some() {
                    self.recorder.normal(cron, "SuccessfulDelete", format!("Deleted job {name}"));
                }
                Ok(())
            }
            Err(error) => {
                self.recorder.warning(cron, "FailedDelete", format!("Deleted job: {}", call::message(&error)));
                Err(error)
            }
        }
    }

    /// Whether the server has a newer status that tells of a Job that ours does not.
    async fn is_behind(&self, key: &ObjectKey, status: &CronJobStatus, jobs: &[Arc<Job>]) -> Result<bool, Failed> {
        let unexpected = plan::unexpected(status, jobs);
        if unexpected.is_empty() {
            return Ok(false);
        }
        let api = Api::<CronJob>::namespaced(self.client.clone(), &key.namespace);
        let live = api.get(&key.name).await.during("read cron job", key)?.status.unwrap_or_default();
        Ok(unexpected.iter().any(|job| plan::is_active(&live, job.metadata.uid.as_deref())))
    }

    /// Active Jobs that are in fact gone; a slow watch may only not show them yet.
    async fn missing(
        &self,
        key: &ObjectKey,
        status: &CronJobStatus,
        jobs: &[Arc<Job>],
    ) -> Result<Vec<ObjectReference>, Failed> {
        let mut missing = Vec::new();
        for active in plan::unseen(status, jobs) {
            let name = active.name.as_deref().unwrap_or_default();
            if self.api(key).get_metadata_opt(name).await.during("read job", name)?.is_none() {
                missing.push(active);
            }
        }
        Ok(missing)
    }

    /// Makes the Job, after those that it replaces are deleted. None if it is another's, or nothing can be made.
    async fn start(
        &self,
        key: &ObjectKey,
        cron: &CronJob,
        status: &mut CronJobStatus,
        start: &Start,
    ) -> Result<Option<Job>, Failed> {
        for active in &start.replace {
            let name = active.name.as_deref().unwrap_or_default();
            let job = self.api(key).get(name).await.inspect_err(|error| {
                self.recorder.warning(cron, "FailedGet", format!("Get job: {}", call::message(error)));
            });
            let job = job.during("read job", name)?;
            self.delete(key, cron, status, &job).await.during("replace job", name)?;
        }
        let name = owners::name(&start.job);
        match self.api(key).create(&PostParams::default(), &start.job).await {
            Ok(job) => {
                self.recorder.normal(cron, "SuccessfulCreate", format!("Created job {name}"));
                Ok(Some(job))
            }
            Err(error) if call::is_namespace_terminating(&error) => Ok(None),
            Err(error) if call::is_already_exists(&error) => {
                // Ours, if a step died before it wrote the status.
                let job = self.api(key).get(name).await.during("read job", name)?;
                let owned = owners::is_controlled_by(&job.metadata, cron.metadata.uid.as_deref().unwrap_or_default());
                Ok(Some(job).filter(|job| owned && !plan::is_active(status, job.metadata.uid.as_deref())))
            }
            Err(error) => {
                let message = format!("Error creating job: {}", call::message(&error));
                self.recorder.warning(cron, "FailedCreate", message);
                Err(Failed::new("create job", name, error))
            }
        }
    }

    async fn write_status(&self, key: &ObjectKey, cron: &CronJob, status: CronJobStatus) -> Result<(), Failed> {
        if cron.status.clone().unwrap_or_default() == status {
            return Ok(());
        }
        let api = Api::<CronJob>::namespaced(self.client.clone(), &key.namespace);
        let updated = CronJob { status: Some(status), ..cron.clone() };
        let written = api.replace_status(&key.name, &PostParams::default(), &updated).await;
        if let Some(written) = gone_is_fine(written).during("write the status of cron job", key)? {
            self.written.wrote(key, &written);
        }
        Ok(())
    }

    /// Jobs counted, the due one started, and the status to write, also after a failure.
    async fn step(&self, key: &ObjectKey, cron: &mut CronJob, jobs: &[Arc<Job>]) -> Result<Action, Failed> {
        let mut status = cron.status.take().unwrap_or_default();
        let missing = self.missing(key, &status, jobs).await;
        let notes = plan::tally(&mut status, jobs, missing.as_deref().unwrap_or_default());
        notes.iter().for_each(|note| note.tell(&self.recorder, &*cron));
        cron.status = Some(status);
        missing?;
        let plan = plan(cron, &self.zones, self.clock.now());
        plan.notes.iter().for_each(|note| note.tell(&self.recorder, &*cron));
        let mut again = plan.again;
        if let Some(start) = &plan.start {
            let mut status = cron.status.take().unwrap_or_default();
            let made = self.start(key, cron, &mut status, start).await;
            if let Ok(Some(job)) = &made {
                plan::started(&mut status, job, start.at);
            }
            cron.status = Some(status);
            made?;
            again = Timetable::of(cron, &self.zones).ok().and_then(|table| table.wait(cron, self.clock.now()));
        }
        Ok(again.map_or(Action::done(), Action::requeue_after))
    }
}

#[async_trait]
impl Reconcile for CronJobs {
    fn name(&self) -> &'static str {
        "cronjob"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let (recorder, zones, clock) = (self.recorder.clone(), self.zones.clone(), self.clock.clone());
        let wake = move |changed: &Changed<CronJob>, queue: &Queue<ObjectKey>| match rescheduled(changed) {
            None => queue.add(changed.key.clone()),
            Some(cron) => match Timetable::of(cron, &zones) {
                // What the new schedule would have started in the past is not made up for.
                Ok(table) => {
                    let wait = table.wait(cron, clock.now());
                    wait.into_iter().for_each(|wait| queue.add_after(changed.key.clone(), wait));
                }
                Err(_) => {
                    let message = format!("unparseable schedule for cronjob: {}", cron.spec.schedule);
                    recorder.warning(cron, "UnParseableCronJobSchedule", message);
                }
            },
        };
        vec![Trigger::each(&self.cron_jobs, wake), Trigger::owned::<Job, CronJob>(&self.jobs)]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let current = self.written.open(key);
        let Some(cron) = self.cron_jobs.get(key) else {
            self.written.forget(key);
            return Ok(Action::done());
        };
        if !current {
            return Ok(Action::requeue_after(FENCE_LIMIT));
        }
        let jobs = self.controlled.get(&key.to_string());
        let mut status = cron.status.clone().unwrap_or_default();
        if self.is_behind(key, &status, &jobs).await? {
            // The newer status wakes this again.
            return Ok(Action::requeue_after(FENCE_LIMIT));
        }
        self.clean(key, &cron, &mut status, &jobs).await;
        let mut updated = CronJob { status: Some(status), ..CronJob::clone(&cron) };
        let done = self.step(key, &mut updated, &jobs).await;
        self.write_status(key, &cron, updated.status.unwrap_or_default()).await?;
        Ok(done?)
    }
}

/// The CronJob as it is now, if its schedule has changed.
fn rescheduled(changed: &Changed<CronJob>) -> Option<&CronJob> {
    let (old, new) = (changed.old.as_deref()?, changed.new.as_deref()?);
    let times = |cron: &CronJob| (cron.spec.schedule.clone(), cron.spec.time_zone.clone());
    (times(old) != times(new)).then_some(new)
}

fn controller_key(job: &Job) -> Option<ObjectKey> {
    let controller = owners::controller_of(&job.metadata)?;
    Some(ObjectKey::new(job.metadata.namespace.as_deref().unwrap_or_default(), &controller.name))
}
