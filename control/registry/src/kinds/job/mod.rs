//! Jobs: pods that run until enough of them have succeeded.
//!
//! Source: `pkg/apis/batch/v1/defaults.go`, `pkg/registry/batch/job/strategy.go`. A Job's selector is made from its UID,
//! which the verbs must have set before [`Strategy::prepare_for_create`].

mod policy;
mod update;
pub mod validation;

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::Errors;
use wharf_types::k8s::api::batch::v1::{Job, JobSpec, JobStatus};

use super::workload::{self, template_cells};
use super::{NONE, created, format_selector, name, spec_status};
use crate::podspec::defaults;
use crate::strategy::{AGE, Column, NAME, Strategy, human_duration};

#[derive(Debug)]
pub struct Jobs;

const BACKOFF_LIMIT: i32 = 6;
const COMPLETIONS_SOFT_MAX: i32 = 100_000;
const PARALLELISM_SOFT_MAX: i32 = 10_000;

pub const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
pub const LEGACY_CONTROLLER_UID: &str = "controller-uid";
pub const JOB_NAME: &str = "batch.kubernetes.io/job-name";
pub const LEGACY_JOB_NAME: &str = "job-name";

impl Strategy for Jobs {
    type Object = Job;

    fn default(&self, job: &mut Job) {
        let spec = job.spec.get_or_insert_default();
        if spec.completions.is_none() && spec.parallelism.is_none() {
            spec.completions = Some(1);
        }
        spec.parallelism.get_or_insert(1);
        let backoff = if spec.backoff_limit_per_index.is_some() { i32::MAX } else { BACKOFF_LIMIT };
        spec.backoff_limit.get_or_insert(backoff);
        spec.completion_mode.get_or_insert_with(|| "NonIndexed".to_owned());
        spec.suspend.get_or_insert(false);
        spec.manual_selector.get_or_insert(false);
        let replacement = if spec.pod_failure_policy.is_some() { "Failed" } else { "TerminatingOrFailed" };
        spec.pod_replacement_policy.get_or_insert_with(|| replacement.to_owned());
        default_template(spec);
        default_labels(job);
    }

    fn prepare_for_create(&self, job: &mut Job) {
        generate_selector(job);
        // Upstream's defaults come over what it has stored, too: a Job without labels gets the generated ones.
        default_labels(job);
        spec_status::created(job);
    }

    fn prepare_for_update(&self, job: &mut Job, old: &Job) {
        spec_status::updated(job, old);
    }

    fn prepare_for_status_update(&self, job: &mut Job, old: &Job) {
        spec_status::status_updated(job, old);
    }

    fn validate(&self, job: &Job) -> Errors {
        validation::job(job)
    }

    fn validate_update(&self, new: &Job, old: &Job) -> Errors {
        update::spec(new, old)
    }

    fn validate_status_update(&self, new: &Job, old: &Job) -> Errors {
        update::status(new, old)
    }

    fn warnings(&self, job: &Job, old: Option<&Job>) -> Vec<String> {
        let (meta, old) = (&job.metadata, old.map(|old| &old.metadata));
        let mut warnings = workload::name_warnings(meta, old);
        if !workload::is_unchanged(meta, old) {
            warnings.extend(job.spec.iter().flat_map(|spec| spec_warnings(spec, "spec")));
        }
        warnings
    }

    fn fields(&self, job: &Job) -> Vec<(&'static str, String)> {
        let succeeded = job.status.as_ref().and_then(|status| status.succeeded).unwrap_or_default();
        vec![("status.successful", succeeded.to_string())]
    }

    fn field_names(&self) -> &'static [&'static str] {
        &["status.successful"]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new("Status", "string", "Status of the job."),
            Column::new("Completions", "string", "Number of desired completions for the job."),
            Column::new("Duration", "string", "Time required to complete the job."),
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

    fn cells(&self, job: &Job, now: Timestamp) -> Vec<Value> {
        let (empty_spec, empty_status) = (JobSpec::default(), JobStatus::default());
        let spec = job.spec.as_ref().unwrap_or(&empty_spec);
        let status = job.status.as_ref().unwrap_or(&empty_status);
        let [containers, images] = template_cells(&spec.template);
        vec![
            name(&job.metadata),
            shown_status(job, status).into(),
            completions(spec, status).into(),
            duration(status, now).into(),
            created(&job.metadata, now),
            containers,
            images,
            spec.selector.as_ref().map_or_else(|| NONE.to_owned(), format_selector).into(),
        ]
    }

    /// The pods outlive the Job unless the client asks otherwise: what `batch/v1` has always done.
    fn orphans_by_default(&self) -> bool {
        true
    }
}

/// The defaults that a Job's spec has in a CronJob, too.
pub fn default_template(spec: &mut JobSpec) {
    let rules = spec.pod_failure_policy.iter_mut().flat_map(|policy| &mut policy.rules);
    for pattern in rules.flat_map(|rule| rule.on_pod_conditions.iter_mut().flatten()) {
        defaults::text(&mut pattern.status, "True");
    }
    defaults::template(&mut spec.template);
}

/// What is odd about a Job's spec, in a Job or in a CronJob. Source: `pkg/api/job/warnings.go`.
pub fn spec_warnings(spec: &JobSpec, path: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    let (completions, parallelism) = (spec.completions.unwrap_or_default(), spec.parallelism.unwrap_or_default());
    if validation::is_indexed(spec) && completions > COMPLETIONS_SOFT_MAX && parallelism > PARALLELISM_SOFT_MAX {
        warnings.push("In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail".to_owned());
    }
    warnings.extend(crate::podspec::warnings::template(&spec.template, &format!("{path}.template")));
    warnings
}

/// A Job without labels has those of its pods.
fn default_labels(job: &mut Job) {
    let own = job.metadata.labels.as_ref().is_some_and(|labels| !labels.is_empty());
    let pods = job.spec.as_ref().and_then(|spec| spec.template.metadata.as_ref()?.labels.clone());
    if !own && let Some(labels) = pods {
        job.metadata.labels = Some(labels);
    }
}

/// The labels and the selector by which a Job finds its own pods and no others.
fn generate_selector(job: &mut Job) {
    let spec = job.spec.get_or_insert_default();
    if spec.manual_selector == Some(true) {
        return;
    }
    let name = job.metadata.name.clone().unwrap_or_default();
    let uid = job.metadata.uid.clone().unwrap_or_default();
    let labels = spec.template.metadata.get_or_insert_default().labels.get_or_insert_default();
    // What the user has set stays, and is for validation to refuse.
    for (key, value) in
        [(LEGACY_JOB_NAME, &name), (JOB_NAME, &name), (LEGACY_CONTROLLER_UID, &uid), (CONTROLLER_UID, &uid)]
    {
        labels.entry(key.to_owned()).or_insert_with(|| value.clone());
    }
    let selector = spec.selector.get_or_insert_default();
    selector.match_labels.get_or_insert_default().entry(CONTROLLER_UID.to_owned()).or_insert(uid);
}

fn has_condition(status: &JobStatus, kind: &str) -> bool {
    status.conditions.iter().flatten().any(|condition| condition.type_ == kind && condition.status == "True")
}

fn shown_status(job: &Job, status: &JobStatus) -> &'static str {
    let has = |kind: &str| has_condition(status, kind);
    match () {
        () if has("Complete") => "Complete",
        () if has("Failed") => "Failed",
        () if job.metadata.deletion_timestamp.is_some() => "Terminating",
        () if has("Suspended") => "Suspended",
        () if has("FailureTarget") => "FailureTarget",
        () if has("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

fn completions(spec: &JobSpec, status: &JobStatus) -> String {
    let succeeded = status.succeeded.unwrap_or_default();
    match (spec.completions, spec.parallelism.unwrap_or_default()) {
        (Some(completions), _) => format!("{succeeded}/{completions}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

fn duration(status: &JobStatus, now: Timestamp) -> String {
    let Some(start) = &status.start_time else { return String::new() };
    let end = status.completion_time.as_ref().map_or(now, |time| time.0);
    human_duration(end.as_second() - start.0.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_cells, object};

    const TASK: &str = "{metadata: {name: task, uid: u1}, spec: {template: {metadata: {labels: {app: task}}, spec: {restartPolicy: Never, containers: [{name: a, image: i}]}}}}";

    #[test]
    fn a_job_runs_one_pod_and_selects_it_by_uid() {
        let mut job = object(&Jobs, TASK);
        Jobs.prepare_for_create(&mut job);
        assert_eq!(job.metadata.labels.unwrap().into_keys().collect::<Vec<_>>(), ["app"]);
        let spec = job.spec.unwrap();
        assert_eq!((spec.parallelism, spec.completions, spec.backoff_limit), (Some(1), Some(1), Some(6)));
        assert_eq!(spec.completion_mode.as_deref(), Some("NonIndexed"));
        assert_eq!(spec.pod_replacement_policy.as_deref(), Some("TerminatingOrFailed"));
        assert_eq!(spec.selector.unwrap().match_labels.unwrap()[CONTROLLER_UID], "u1");
        let labels = spec.template.metadata.unwrap().labels.unwrap();
        let keys: Vec<&str> = labels.keys().map(String::as_str).collect();
        assert_eq!(keys, ["app", CONTROLLER_UID, JOB_NAME, LEGACY_CONTROLLER_UID, LEGACY_JOB_NAME]);
    }

    #[test]
    fn a_work_queue_has_no_completions() {
        let job = object(&Jobs, &TASK.replace("spec: {template", "spec: {parallelism: 3, template"));
        assert_eq!(job.spec.unwrap().completions, None);
    }

    #[test]
    fn cells_tell_how_far_a_job_is() {
        let running = TASK
            .replace("spec: {template", "status: {succeeded: 0, startTime: '2024-05-01T11:59:30Z'}, spec: {template");
        check_cells(&Jobs, &running, "task | Running | 0/1 | 30s | <unknown> | a | i | <none>");
        let done = TASK.replace(
            "spec: {template",
            "status: {succeeded: 1, startTime: '2024-05-01T11:00:00Z', completionTime: '2024-05-01T11:00:05Z', conditions: [{type: Complete, status: 'True'}]}, spec: {template",
        );
        check_cells(&Jobs, &done, "task | Complete | 1/1 | 5s | <unknown> | a | i | <none>");
    }
}
