//! What one step does for a CronJob. Pure: same inputs, same plan.
//!
//! Source of the behaviour: `syncCronJob` and `cleanupFinishedJobs` of `k8s.io/kubernetes/pkg/controller/cronjob`.
//! Absent: upstream's event `MissSchedule`, which it cannot come to: what is too late to start is never looked at.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use wharf_types::k8s::api::batch::v1::{CronJob, CronJobStatus, Job};
use wharf_types::k8s::api::core::v1::ObjectReference;
use wharf_types::meta::{ObjectMeta, Time};

use super::schedule::{Timetable, Zones, names_zone};
use crate::note::Note;
use crate::{job, owners};

/// When a Job was to start, by the CronJob's clock.
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
const UNSUPPORTED_ZONE: &str = "is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details";

const MISSED_MANY: &str =
    "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";

/// Finished Jobs beyond what the history keeps, oldest first.
pub fn history(cron: &CronJob, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let of = |kind: &str, limit: Option<i32>| {
        let ended = |job: &&Arc<Job>| job::end(job).is_some_and(|end| end.type_ == kind);
        let mut ended: Vec<Arc<Job>> = jobs.iter().filter(ended).cloned().collect();
        ended.sort_by(|one, two| by_start(one, two));
        let limit = limit.map_or(usize::MAX, |limit| limit.max(0) as usize);
        ended.truncate(ended.len().saturating_sub(limit));
        ended
    };
    let mut surplus = of(job::COMPLETE, cron.spec.successful_jobs_history_limit);
    surplus.extend(of(job::FAILED, cron.spec.failed_jobs_history_limit));
    surplus
}

/// Those that never started come last.
fn by_start(one: &Job, two: &Job) -> Ordering {
    let start = |job: &Job| job.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
    let (a, b) = (start(one), start(two));
    a.is_none().cmp(&b.is_none()).then(a.cmp(&b)).then_with(|| owners::name(one).cmp(owners::name(two)))
}

/// Unfinished Jobs of the CronJob that its status does not tell of.
pub fn unexpected<'a>(status: &CronJobStatus, jobs: &'a [Arc<Job>]) -> Vec<&'a Arc<Job>> {
    jobs.iter().filter(|job| job::end(job).is_none() && !is_active(status, job.metadata.uid.as_deref())).collect()
}

/// Jobs that the status tells of and that are not to be seen.
pub fn unseen(status: &CronJobStatus, jobs: &[Arc<Job>]) -> Vec<ObjectReference> {
    let seen: BTreeSet<Option<&str>> = jobs.iter().map(|job| job.metadata.uid.as_deref()).collect();
    let active = status.active.iter().flatten();
    active.filter(|active| !seen.contains(&active.uid.as_deref())).cloned().collect()
}

pub fn is_active(status: &CronJobStatus, uid: Option<&str>) -> bool {
    status.active.iter().flatten().any(|active| active.uid.as_deref() == uid)
}

pub fn forget(status: &mut CronJobStatus, uid: Option<&str>) {
    if let Some(active) = &mut status.active {
        active.retain(|active| active.uid.as_deref() != uid);
    }
    status.active.take_if(|active| active.is_empty());
}

/// Brings the status up to what has become of the Jobs.
pub fn tally(status: &mut CronJobStatus, jobs: &[Arc<Job>], missing: &[ObjectReference]) -> Vec<Note> {
    let mut notes = Vec::new();
    for job in unexpected(status, jobs) {
        let message = format!("Saw a job that the controller did not create or forgot: {}", owners::name(&**job));
        notes.push(Note::Warning("UnexpectedJob", message));
    }
    for job in jobs {
        let Some(end) = job::end(job) else { continue };
        let uid = job.metadata.uid.as_deref();
        if is_active(status, uid) {
            forget(status, uid);
            let message = format!("Saw completed job: {}, condition: {}", owners::name(&**job), end.type_);
            notes.push(Note::Normal("SawCompletedJob", message));
        }
        let completed = job.status.as_ref().and_then(|status| status.completion_time.clone());
        if end.type_ == job::COMPLETE && completed > status.last_successful_time {
            status.last_successful_time = completed;
        }
    }
    for active in missing {
        let name = active.name.as_deref().unwrap_or_default();
        notes.push(Note::Normal("MissingJob", format!("Active job went missing: {name}")));
        forget(status, active.uid.as_deref());
    }
    notes
}

/// What is to happen now, and when to look again.
#[derive(Debug, Default)]
pub struct Plan {
    pub notes: Vec<Note>,
    pub start: Option<Start>,
    pub again: Option<Duration>,
}

/// A Job that is to start.
#[derive(Debug)]
pub struct Start {
    pub at: Timestamp,
    pub job: Job,
    /// Jobs to delete before it.
    pub replace: Vec<ObjectReference>,
}

/// Whether a Job is to start. `cron` has its status as of now.
pub fn plan(cron: &CronJob, zones: &Zones, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if cron.metadata.deletion_timestamp.is_none()
        && let Err(note) = plan.decide(cron, zones, now)
    {
        plan.notes.push(note);
    }
    plan
}

impl Plan {
    /// The error says why there is no next time to wait for, until the object changes.
    fn decide(&mut self, cron: &CronJob, zones: &Zones, now: Timestamp) -> Result<(), Note> {
        let zone = zone(cron, zones)?;
        let schedule = &cron.spec.schedule;
        if cron.spec.suspend == Some(true) {
            return Ok(());
        }
        if names_zone(cron) {
            let message = format!("CRON_TZ or TZ used in schedule {schedule:?} {UNSUPPORTED_ZONE}");
            self.notes.push(Note::Warning("UnsupportedSchedule", message));
        }
        let table = Timetable::of(cron, zones).map_err(|why| {
            Note::Warning("UnparseableSchedule", format!("unparseable schedule: {schedule:?} : {why}"))
        })?;
        let due = table
            .due(cron, now, true)
            .map_err(|why| Note::Warning("InvalidSchedule", format!("invalid schedule: {schedule} : {why}")))?;
        self.again = table.wait(cron, now);
        let Some(at) = due.latest else { return Ok(()) };
        if due.missed_many() {
            self.notes.push(Note::Warning("TooManyMissedTimes", MISSED_MANY.to_owned()));
        }
        match obstacle(cron, at) {
            Some(note) => self.notes.extend(note),
            None => self.start = Some(start(cron, at, &zone)),
        }
        Ok(())
    }
}

/// Whose clock Jobs tell of. Source: `time.LoadLocation` of no name is UTC.
fn zone(cron: &CronJob, zones: &Zones) -> Result<TimeZone, Note> {
    let name = cron.spec.time_zone.as_deref().unwrap_or_default();
    let unknown = |why| Note::Warning("UnknownTimeZone", format!("invalid timeZone: {name:?}: {why}"));
    zones.load(name).map_err(unknown)
}

/// Why what is due does not start, perhaps with a report of it.
fn obstacle(cron: &CronJob, at: Timestamp) -> Option<Option<Note>> {
    let status = cron.status.as_ref();
    let active = status.and_then(|status| status.active.as_deref()).unwrap_or_default();
    let name = job_name(cron, at);
    let last = status.and_then(|status| status.last_schedule_time.as_ref()).map(|time| time.0);
    if last == Some(at) || active.iter().any(|active| active.name.as_deref() == Some(name.as_str())) {
        return Some(None);
    }
    if concurrency(cron) == "Forbid" && !active.is_empty() {
        let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
        return Some(Some(Note::Normal("JobAlreadyActive", message.to_owned())));
    }
    None
}

fn concurrency(cron: &CronJob) -> &str {
    cron.spec.concurrency_policy.as_deref().unwrap_or_default()
}

/// The same for the same time, so that no time is served twice. The smallest step of a schedule is a minute.
fn job_name(cron: &CronJob, at: Timestamp) -> String {
    format!("{}-{}", owners::name(cron), at.as_second().div_euclid(60))
}

fn start(cron: &CronJob, at: Timestamp, zone: &TimeZone) -> Start {
    let active = cron.status.as_ref().and_then(|status| status.active.clone()).unwrap_or_default();
    let replace = if concurrency(cron) == "Replace" { active } else { Vec::new() };
    Start { at, job: job_of(cron, at, zone), replace }
}

fn job_of(cron: &CronJob, at: Timestamp, zone: &TimeZone) -> Job {
    let template = &cron.spec.job_template;
    let of_template = template.metadata.as_ref();
    let mut annotations = of_template.and_then(|meta| meta.annotations.clone()).unwrap_or_default();
    annotations.insert(SCHEDULED_AT.to_owned(), rfc3339(at, zone));
    let metadata = ObjectMeta {
        name: Some(job_name(cron, at)),
        namespace: cron.metadata.namespace.clone(),
        labels: of_template.and_then(|meta| meta.labels.clone()),
        annotations: Some(annotations),
        owner_references: Some(vec![owners::controller_ref(cron)]),
        ..ObjectMeta::default()
    };
    Job { metadata, spec: template.spec.clone(), status: None }
}

/// As Go writes it: no offset is `Z`, in any zone.
fn rfc3339(at: Timestamp, zone: &TimeZone) -> String {
    let offset = if zone.to_offset(at).seconds() == 0 { "Z" } else { "%:z" };
    at.to_zoned(zone.clone()).strftime(&format!("%Y-%m-%dT%H:%M:%S{offset}")).to_string()
}

/// The status once this Job was made for this time.
pub fn started(status: &mut CronJobStatus, job: &Job, at: Timestamp) {
    status.active.get_or_insert_default().push(kube::Resource::object_ref(job, &()));
    status.last_schedule_time = Some(Time(at));
}
