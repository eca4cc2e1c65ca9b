//! CronJobs: Jobs at times of the day.
//!
//! Source: `pkg/apis/batch/v1/defaults.go`, `pkg/apis/batch/validation`, `pkg/registry/batch/cronjob`. The syntax of schedules
//! is in [`wharf_machinery::cron`]. Time zones are those of the machine's database, as they are upstream.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;
use wharf_machinery::cron::Schedule;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::batch::v1::{CronJob, CronJobSpec, JobSpec, JobTemplateSpec};
use wharf_types::k8s::api::core::v1::PodTemplateSpec;

use super::job::{self, validation};
use super::workload::{self, template_cells};
use super::{NONE, created, format_selector, name, spec_status};
use crate::checks;
use crate::podspec::defaults::text;
use crate::strategy::{AGE, Column, NAME, Strategy, age};

#[derive(Debug)]
pub struct CronJobs;

const KEPT_SUCCESSES: i32 = 3;
const KEPT_FAILURES: i32 = 1;
/// What a Job's name may be, less the time that is appended to it.
const NAME_MAX: usize = 63 - 11;
const ZONE_PART_MAX: usize = 14;
const CONCURRENCY: &[&str] = &["Allow", "Forbid", "Replace"];

impl Strategy for CronJobs {
    type Object = CronJob;

    fn default(&self, job: &mut CronJob) {
        let spec = &mut job.spec;
        text(&mut spec.concurrency_policy, "Allow");
        spec.suspend.get_or_insert(false);
        spec.successful_jobs_history_limit.get_or_insert(KEPT_SUCCESSES);
        spec.failed_jobs_history_limit.get_or_insert(KEPT_FAILURES);
        job::default_template(spec.job_template.spec.get_or_insert_default());
    }

    fn prepare_for_create(&self, job: &mut CronJob) {
        spec_status::created(job);
    }

    fn prepare_for_update(&self, job: &mut CronJob, old: &CronJob) {
        spec_status::updated(job, old);
    }

    fn prepare_for_status_update(&self, job: &mut CronJob, old: &CronJob) {
        spec_status::status_updated(job, old);
    }

    fn validate(&self, job: &CronJob) -> Errors {
        validate_spec(&job.spec, &Path::new("spec"))
    }

    fn validate_new(&self, job: &CronJob) -> Errors {
        let path = Path::new("spec");
        let mut errors = validate_zone_in_schedule(&job.spec, false, &path.child("schedule"));
        errors.extend(validate_zone(job.spec.time_zone.as_deref(), &path.child("timeZone")));
        let name = job.metadata.name.as_deref().unwrap_or_default();
        if name.len() > NAME_MAX {
            let why = format!("must be no more than {NAME_MAX} characters");
            errors.push(Error::invalid(&Path::new("metadata").child("name"), name, why));
        }
        errors
    }

    fn validate_update(&self, new: &CronJob, old: &CronJob) -> Errors {
        let path = Path::new("spec");
        let had_zone = old.spec.schedule.contains("TZ");
        let mut errors = validate_zone_in_schedule(&new.spec, had_zone, &path.child("schedule"));
        if new.spec.time_zone != old.spec.time_zone {
            errors.extend(validate_zone(new.spec.time_zone.as_deref(), &path.child("timeZone")));
        }
        errors
    }

    fn warnings(&self, job: &CronJob, old: Option<&CronJob>) -> Vec<String> {
        let (meta, old_meta) = (&job.metadata, old.map(|old| &old.metadata));
        let mut warnings = workload::name_warnings(meta, old_meta);
        if !workload::is_unchanged(meta, old_meta) {
            let spec = job.spec.job_template.spec.iter();
            warnings.extend(spec.flat_map(|spec| job::spec_warnings(spec, "spec.jobTemplate.spec")));
        }
        if old.is_some() && job.spec.schedule.contains("TZ") {
            warnings.push("cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details".to_owned());
        }
        warnings
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new("Schedule", "string", "The schedule in Cron format, see https://en.wikipedia.org/wiki/Cron."),
            Column::new(
                "Timezone",
                "string",
                "The time zone name for the given schedule, see https://en.wikipedia.org/wiki/List_of_tz_database_time_zones. If not specified, this will default to the time zone of the kube-controller-manager process. The set of valid time zone names and the time zone offset is loaded from the system-wide time zone database by the API server during CronJob validation and the controller manager during execution. If no system-wide time zone database can be found a bundled version of the database is used instead. If the time zone name becomes invalid during the lifetime of a CronJob or due to a change in host configuration, the controller will stop creating new new Jobs and will create a system event with the reason UnknownTimeZone. More information can be found in https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/#time-zones",
            ),
            Column::new(
                "Suspend",
                "boolean",
                "This flag tells the controller to suspend subsequent executions, it does not apply to already started executions.  Defaults to false.",
            ),
            Column::new("Active", "integer", "A list of pointers to currently running jobs."),
            Column::new(
                "Last Schedule",
                "string",
                "Information when was the last time the job was successfully scheduled.",
            ),
            AGE,
            Column::wide("Containers", "string", "Names of each container in the template."),
            Column::wide("Images", "string", "Images referenced by each container in the template."),
            Column::wide(
                "Selector",
                "string",
                "A label query over pods that should match the pod count. Normally, the system sets this field for you. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
            ),
        ];
        COLUMNS
    }

    fn cells(&self, job: &CronJob, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (&job.spec, job.status.clone().unwrap_or_default());
        let job_spec = spec.job_template.spec.as_ref();
        let [containers, images] = template_cells(job_spec.map_or(&PodTemplateSpec::default(), |spec| &spec.template));
        let last = status.last_schedule_time.map(|time| age(Some(time.0), now));
        let suspend = match spec.suspend {
            None => "<unset>",
            Some(true) => "True",
            Some(false) => "False",
        };
        let selector = job_spec.and_then(|spec| spec.selector.as_ref());
        vec![
            name(&job.metadata),
            spec.schedule.clone().into(),
            spec.time_zone.as_deref().unwrap_or(NONE).into(),
            suspend.into(),
            status.active.map_or(0, |active| active.len()).into(),
            last.unwrap_or_else(|| NONE.to_owned()).into(),
            created(&job.metadata, now),
            containers,
            images,
            selector.map_or_else(|| NONE.to_owned(), format_selector).into(),
        ]
    }
}

fn validate_spec(spec: &CronJobSpec, path: &Path) -> Errors {
    let at = path.child("schedule");
    let mut errors = match spec.schedule.as_str() {
        "" => vec![Error::required(&at, "")],
        schedule => {
            let wrong = Schedule::parse(schedule, load_zone).err();
            wrong.map(|why| Error::invalid(&at, schedule, why)).into_iter().collect()
        }
    };
    let deadline = spec.starting_deadline_seconds.unwrap_or_default();
    errors.extend(checks::non_negative(deadline, &path.child("startingDeadlineSeconds")));
    let concurrency = spec.concurrency_policy.as_deref().unwrap_or_default();
    errors.extend(checks::required_one_of(concurrency, CONCURRENCY, &path.child("concurrencyPolicy")));
    errors.extend(validate_job(&spec.job_template, &path.child("jobTemplate").child("spec")));
    for (field, limit) in [
        ("successfulJobsHistoryLimit", spec.successful_jobs_history_limit),
        ("failedJobsHistoryLimit", spec.failed_jobs_history_limit),
    ] {
        errors.extend(checks::non_negative(limit.unwrap_or_default(), &path.child(field)));
    }
    errors
}

/// The Job that is to be made, whose selector is generated then.
fn validate_job(template: &JobTemplateSpec, path: &Path) -> Errors {
    let empty = JobSpec::default();
    let spec = template.spec.as_ref().unwrap_or(&empty);
    let mut errors = validation::validate_unselected(spec, path);
    if let Some(selector) = &spec.selector {
        let why = "`selector` will be auto-generated";
        errors.push(Error::invalid(&path.child("selector"), checks::json(selector), why));
    }
    if spec.manual_selector == Some(true) {
        errors.push(Error::not_supported(&path.child("manualSelector"), true, &["nil", "false"]));
    }
    errors
}

/// A schedule names no zone, but one that always did may go on.
fn validate_zone_in_schedule(spec: &CronJobSpec, allowed: bool, path: &Path) -> Errors {
    let schedule = &spec.schedule;
    let why = match (schedule.contains("TZ"), allowed) {
        (true, false) => "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        (true, true) if spec.time_zone.is_some() => "cannot use both timeZone field and TZ or CRON_TZ in schedule",
        _ => return Vec::new(),
    };
    vec![Error::invalid(path, schedule, why)]
}

fn validate_zone(zone: Option<&str>, path: &Path) -> Errors {
    let Some(zone) = zone else { return Vec::new() };
    if zone.is_empty() {
        return vec![Error::invalid(path, zone, "timeZone must be nil or non-empty string")];
    }
    if !zone.split('/').all(is_zone_part) {
        return vec![Error::invalid(path, zone, format!("unknown time zone {zone}"))];
    }
    let mut errors = Vec::new();
    if zone.eq_ignore_ascii_case("local") {
        let why = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.push(Error::invalid(path, zone, why));
    }
    errors.extend(load_zone(zone).err().map(|why| Error::invalid(path, zone, why)));
    errors
}

/// Source: https://data.iana.org/time-zones/theory.html#naming
fn is_zone_part(part: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b".-_+".contains(&byte);
    !matches!(part, "" | "." | "..") && part.len() <= ZONE_PART_MAX && !part.starts_with('-') && part.bytes().all(legal)
}

fn load_zone(zone: &str) -> Result<(), String> {
    // A schedule may say `Local`, whichever that is.
    wharf_machinery::zone::load(zone, jiff::tz::db(), &TimeZone::UTC).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, check_new, check_update, object};

    fn nightly(extra: &str) -> String {
        format!(
            "{{metadata: {{name: nightly, generation: 1}}, spec: {{schedule: '0 3 * * *', jobTemplate: {{spec: {{template: {{spec: {{restartPolicy: Never, containers: [{{name: a, image: i}}]}}}}}}}}{extra}}}}}"
        )
    }

    #[test]
    fn a_cron_job_keeps_a_few_jobs() {
        let spec = object(&CronJobs, &nightly("")).spec;
        assert_eq!((spec.successful_jobs_history_limit, spec.failed_jobs_history_limit), (Some(3), Some(1)));
        assert_eq!((spec.concurrency_policy.as_deref(), spec.suspend), (Some("Allow"), Some(false)));
        let job = spec.job_template.spec.unwrap();
        assert_eq!((job.completions, job.parallelism), (None, None), "the Job gets these when it is made");
        assert_eq!(job.template.spec.unwrap().dns_policy.as_deref(), Some("ClusterFirst"));
    }

    #[test]
    fn rules_of_the_spec() {
        check(&CronJobs, &nightly(""), &[]);
        check(
            &CronJobs,
            &nightly(", concurrencyPolicy: Maybe, startingDeadlineSeconds: -1").replace("0 3 * * *", "0 3 * *"),
            &[
                "spec.schedule: Invalid value: \"0 3 * *\": expected exactly 5 fields, found 4: [0 3 * *]",
                "spec.startingDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0",
                "spec.concurrencyPolicy: Unsupported value: \"Maybe\": supported values: \"Allow\", \"Forbid\", \"Replace\"",
            ],
        );
        check(
            &CronJobs,
            &nightly("")
                .replace("{spec: {template", "{spec: {manualSelector: true, selector: {matchLabels: {a: b}}, template"),
            &[
                "spec.jobTemplate.spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\"}}: `selector` will be auto-generated",
                "spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: \"nil\", \"false\"",
            ],
        );
        check(
            &CronJobs,
            &nightly("").replace("restartPolicy: Never", "restartPolicy: Always"),
            &[
                "spec.jobTemplate.spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
            ],
        );
    }

    #[test]
    fn a_new_one_is_named_short_and_has_its_zone_in_the_field() {
        check_new(&CronJobs, &nightly(", timeZone: Europe/Berlin"), &[]);
        check_new(
            &CronJobs,
            &nightly(", timeZone: Mars/Base").replace("0 3", "TZ=UTC 0 3"),
            &[
                "spec.schedule: Invalid value: \"TZ=UTC 0 3 * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
                "spec.timeZone: Invalid value: \"Mars/Base\": unknown time zone Mars/Base",
            ],
        );
        check_new(
            &CronJobs,
            &nightly(", timeZone: ''"),
            &["spec.timeZone: Invalid value: \"\": timeZone must be nil or non-empty string"],
        );
        check_new(
            &CronJobs,
            &nightly(", timeZone: Local"),
            &[
                "spec.timeZone: Invalid value: \"Local\": timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
            ],
        );
        let long = "n".repeat(53);
        check_new(
            &CronJobs,
            &nightly("").replace("name: nightly", &format!("name: {long}")),
            &[&format!("metadata.name: Invalid value: \"{long}\": must be no more than 52 characters")],
        );
    }

    #[test]
    fn an_old_zone_in_the_schedule_may_stay() {
        let zoned = nightly("").replace("0 3", "TZ=UTC 0 3");
        check_update(&CronJobs, &zoned, &zoned.replace("0 3", "0 4"), &[]);
        check_update(
            &CronJobs,
            &zoned,
            &nightly(", timeZone: UTC").replace("0 3", "TZ=UTC 0 3"),
            &[
                "spec.schedule: Invalid value: \"TZ=UTC 0 3 * * *\": cannot use both timeZone field and TZ or CRON_TZ in schedule",
            ],
        );
    }

    #[test]
    fn cells_tell_when_it_ran() {
        check_cells(
            &CronJobs,
            &nightly(""),
            "nightly | 0 3 * * * | <none> | False | 0 | <none> | <unknown> | a | i | <none>",
        );
        let ran = nightly(", timeZone: UTC").replace(
            "spec: {schedule",
            "status: {active: [{name: j}], lastScheduleTime: '2024-05-01T11:59:00Z'}, spec: {schedule",
        );
        check_cells(&CronJobs, &ran, "nightly | 0 3 * * * | UTC | False | 1 | 60s | <unknown> | a | i | <none>");
    }
}
