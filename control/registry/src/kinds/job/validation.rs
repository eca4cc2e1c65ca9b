//! What a Job must hold. Source: `pkg/apis/batch/validation`.

use wharf_machinery::names;
use wharf_machinery::selector::{self, LabelSelector};
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::batch::v1::{Job, JobSpec};

use super::{CONTROLLER_UID, JOB_NAME, LEGACY_CONTROLLER_UID, LEGACY_JOB_NAME, policy};
use crate::checks;
use crate::podspec;

const INDEXED_PARALLELISM_MAX: i32 = 100_000;
const INDEXED_COMPLETIONS_MAX: i32 = 1_000_000_000;
const MANAGED_BY_MAX: usize = 63;
const REPLACEMENTS: &[&str] = &["Failed", "TerminatingOrFailed"];

pub fn job(job: &Job) -> Errors {
    let empty = JobSpec::default();
    let spec = job.spec.as_ref().unwrap_or(&empty);
    let mut errors = generated_selector(job, spec);
    errors.extend(validate_spec(spec, &Path::new("spec")));
    if is_indexed(spec)
        && let Some(completions) = spec.completions.filter(|completions| *completions > 0)
    {
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let last = format!("{name}-{}", completions - 1);
        if !names::dns1123_label(&last).is_empty() {
            let why = format!("will not able to create pod with invalid DNS label: {last}");
            errors.push(Error::invalid(&Path::new("metadata").child("name"), name, why));
        }
    }
    errors
}

pub fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

/// Where the selector is generated, nobody may have written another.
fn generated_selector(job: &Job, spec: &JobSpec) -> Errors {
    if spec.manual_selector == Some(true) || spec.selector.is_none() {
        return Vec::new();
    }
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let mut errors = Vec::new();
    if uid.is_empty() {
        errors.push(Error::required(&Path::new("metadata").child("uid"), ""));
    }
    let path = Path::new("spec").child("template").child("metadata").child("labels");
    let labels = spec.template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
    for (key, expected) in
        [(CONTROLLER_UID, uid), (LEGACY_CONTROLLER_UID, uid), (JOB_NAME, name), (LEGACY_JOB_NAME, name)]
    {
        match labels.and_then(|labels| labels.get(key)) {
            None => errors.push(Error::required(&path.key(key), format!("must be '{expected}'"))),
            Some(value) if value != expected => {
                errors.push(Error::invalid(&path.key(key), checks::json(&labels), format!("must be '{expected}'")));
            }
            Some(_) => {}
        }
    }
    let by_uid = |selector: &LabelSelector| {
        let labels = [(CONTROLLER_UID.to_owned(), uid.to_owned())].into();
        *selector == LabelSelector::from_map(&labels)
    };
    let selector = spec.selector.as_ref().map(LabelSelector::from_meta);
    if !selector.as_ref().is_some_and(by_uid) {
        let why = "`selector` not auto-generated";
        errors.push(Error::invalid(&Path::new("spec").child("selector"), checks::json(&spec.selector), why));
    }
    errors
}

fn validate_spec(spec: &JobSpec, path: &Path) -> Errors {
    let mut errors = validate_unselected(spec, path);
    errors.extend(validate_selector(spec, path));
    errors
}

/// All but the selector, which a Job that a CronJob describes does not have yet.
pub fn validate_unselected(spec: &JobSpec, path: &Path) -> Errors {
    let mut errors = numbers(spec, path);
    errors.extend(mode(spec, path));
    if let Some(manager) = &spec.managed_by {
        let path = path.child("managedBy");
        errors.extend(checks::domain_prefixed_path(manager, &path));
        if manager.len() > MANAGED_BY_MAX {
            errors.push(Error::too_long(&path, MANAGED_BY_MAX));
        }
    }
    if let Some(policy) = &spec.pod_failure_policy {
        errors.extend(policy::failure(policy, spec, &path.child("podFailurePolicy")));
    }
    if let Some(policy) = &spec.success_policy {
        errors.extend(policy::success(policy, spec, &path.child("successPolicy")));
    }
    if let Some(policy) = &spec.pod_replacement_policy {
        let path = path.child("podReplacementPolicy");
        if spec.pod_failure_policy.is_some() {
            errors.extend(checks::one_of(policy, &["Failed"], &path));
        } else {
            errors.extend(checks::one_of(policy, REPLACEMENTS, &path));
        }
    }
    errors.extend(template(spec, &path.child("template")));
    errors
}

fn numbers(spec: &JobSpec, path: &Path) -> Errors {
    let counts = [
        ("parallelism", spec.parallelism),
        ("completions", spec.completions),
        ("backoffLimit", spec.backoff_limit),
        ("ttlSecondsAfterFinished", spec.ttl_seconds_after_finished),
        ("backoffLimitPerIndex", spec.backoff_limit_per_index),
        ("maxFailedIndexes", spec.max_failed_indexes),
    ];
    let mut errors: Errors = counts
        .iter()
        .flat_map(|(field, count)| checks::non_negative(count.unwrap_or_default(), &path.child(field)))
        .collect();
    errors.extend(checks::non_negative(
        spec.active_deadline_seconds.unwrap_or_default(),
        &path.child("activeDeadlineSeconds"),
    ));
    if spec.max_failed_indexes.is_some() && spec.backoff_limit_per_index.is_none() {
        errors.push(Error::required(&path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"));
    }
    errors
}

fn mode(spec: &JobSpec, path: &Path) -> Errors {
    let modes = &["Indexed", "NonIndexed"];
    let mode = spec.completion_mode.iter();
    let mut errors: Errors = mode.flat_map(|mode| checks::one_of(mode, modes, &path.child("completionMode"))).collect();
    if is_indexed(spec) {
        match spec.completions {
            None => errors.push(Error::required(&path.child("completions"), "when completion mode is Indexed")),
            Some(count) if count > INDEXED_COMPLETIONS_MAX => {
                let why =
                    format!("must be less than or equal to {INDEXED_COMPLETIONS_MAX} when completion mode is Indexed");
                errors.push(Error::invalid(&path.child("completions"), count, why));
            }
            Some(_) => {}
        }
        if let Some(count) = spec.parallelism.filter(|count| *count > INDEXED_PARALLELISM_MAX) {
            let why =
                format!("must be less than or equal to {INDEXED_PARALLELISM_MAX} when completion mode is Indexed");
            errors.push(Error::invalid(&path.child("parallelism"), count, why));
        }
    } else {
        for (field, value) in
            [("backoffLimitPerIndex", spec.backoff_limit_per_index), ("maxFailedIndexes", spec.max_failed_indexes)]
        {
            if let Some(value) = value {
                errors.push(Error::invalid(&path.child(field), value, "requires indexed completion mode"));
            }
        }
    }
    errors
}

fn template(spec: &JobSpec, path: &Path) -> Errors {
    let mut errors = podspec::validate_template(&spec.template, path);
    let policy = spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or_default();
    let path = path.child("spec").child("restartPolicy");
    match policy {
        "Always" | "" => errors.push(Error::required(&path, "valid values: \"OnFailure\", \"Never\"")),
        policy => errors.extend(checks::one_of(policy, &["OnFailure", "Never"], &path)),
    }
    if spec.pod_failure_policy.is_some() && policy != "Never" {
        errors.push(Error::invalid(&path, policy, "only \"Never\" is supported when podFailurePolicy is specified"));
    }
    errors
}

fn validate_selector(spec: &JobSpec, path: &Path) -> Errors {
    let Some(selector) = &spec.selector else { return vec![Error::required(&path.child("selector"), "")] };
    let mut errors = selector::validate(selector, &path.child("selector"));
    let labels = spec.template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
    if !LabelSelector::from_meta(selector).matches(&labels.cloned().unwrap_or_default()) {
        let why = "`selector` does not match template `labels`";
        let path = path.child("template").child("metadata").child("labels");
        errors.push(Error::invalid(&path, checks::json(&labels), why));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::super::Jobs;
    use crate::Strategy;
    use crate::testing::object;

    fn task(extra: &str) -> String {
        format!(
            "{{metadata: {{name: task, uid: u1}}, spec: {{template: {{spec: {{restartPolicy: Never, containers: [{{name: a, image: i}}]}}}}{extra}}}}}"
        )
    }

    /// Validates after the selector has been generated, as a create does.
    #[track_caller]
    fn check(yaml: &str, expected: &[&str]) {
        let mut job = object(&Jobs, yaml);
        Jobs.prepare_for_create(&mut job);
        let errors: Vec<String> = Jobs.validate(&job).iter().map(ToString::to_string).collect();
        assert_eq!(errors, expected);
    }

    #[test]
    fn a_job_must_end() {
        check(&task(""), &[]);
        check(
            &task("").replace("restartPolicy: Never, ", ""),
            &["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""],
        );
        check(
            &task(", parallelism: -1, backoffLimit: -2"),
            &[
                "spec.parallelism: Invalid value: -1: must be greater than or equal to 0",
                "spec.backoffLimit: Invalid value: -2: must be greater than or equal to 0",
            ],
        );
    }

    #[test]
    fn modes_are_known_and_indexed_jobs_are_counted() {
        check(
            &task(", completionMode: Odd"),
            &["spec.completionMode: Unsupported value: \"Odd\": supported values: \"Indexed\", \"NonIndexed\""],
        );
        check(
            &task(", completionMode: Indexed, parallelism: 2"),
            &["spec.completions: Required value: when completion mode is Indexed"],
        );
        check(
            &task(", backoffLimitPerIndex: 1"),
            &["spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode"],
        );
    }

    #[test]
    fn a_selector_of_ones_own_needs_the_flag() {
        check(
            &task(", selector: {matchLabels: {a: b}}"),
            &[
                "spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\",\"batch.kubernetes.io/controller-uid\":\"u1\"}}: `selector` not auto-generated",
                "spec.template.metadata.labels: Invalid value: {\"batch.kubernetes.io/controller-uid\":\"u1\",\"batch.kubernetes.io/job-name\":\"task\",\"controller-uid\":\"u1\",\"job-name\":\"task\"}: `selector` does not match template `labels`",
            ],
        );
    }

    #[test]
    fn failure_rules_name_codes_or_conditions() {
        let policy = ", podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {operator: In, values: [0]}}, {action: Ignore}]}";
        check(
            &task(policy),
            &[
                "spec.podFailurePolicy.rules[0].onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator",
                "spec.podFailurePolicy.rules[1]: Invalid value: {\"action\":\"Ignore\"}: specifying one of OnExitCodes and OnPodConditions is required",
            ],
        );
    }
}
