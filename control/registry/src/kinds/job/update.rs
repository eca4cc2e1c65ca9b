//! What of a Job may change. Source: `ValidateJobUpdate`, `ValidateJobUpdateStatus`.

use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::batch::v1::{Job, JobSpec, JobStatus};
use wharf_types::k8s::api::core::v1::PodTemplateSpec;

use super::has_condition;
use super::validation::is_indexed;
use crate::checks;

pub fn spec(new: &Job, old: &Job) -> Errors {
    let empty = JobSpec::default();
    let (spec, old_spec) = (new.spec.as_ref().unwrap_or(&empty), old.spec.as_ref().unwrap_or(&empty));
    let path = Path::new("spec");
    let mut errors = fixed_completions(spec, old_spec, &path.child("completions"));
    errors.extend(checks::immutable(&spec.selector, &old_spec.selector, &path.child("selector")));
    errors.extend(fixed_template(spec, old, old_spec, &path.child("template")));
    let (mode, old_mode) = (&spec.completion_mode, &old_spec.completion_mode);
    errors.extend(checks::immutable(mode, old_mode, &path.child("completionMode")));
    let (policy, old_policy) = (&spec.pod_failure_policy, &old_spec.pod_failure_policy);
    errors.extend(checks::immutable(policy, old_policy, &path.child("podFailurePolicy")));
    let (limit, old_limit) = (&spec.backoff_limit_per_index, &old_spec.backoff_limit_per_index);
    errors.extend(checks::immutable(limit, old_limit, &path.child("backoffLimitPerIndex")));
    errors.extend(checks::immutable(&spec.managed_by, &old_spec.managed_by, &path.child("managedBy")));
    errors.extend(checks::immutable(&spec.success_policy, &old_spec.success_policy, &path.child("successPolicy")));
    errors
}

pub fn status(new: &Job, old: &Job) -> Errors {
    let empty = JobStatus::default();
    let (status, old) = (new.status.as_ref().unwrap_or(&empty), old.status.as_ref().unwrap_or(&empty));
    let path = Path::new("status");
    let mut errors = Vec::new();
    for (field, count) in [
        ("active", status.active),
        ("succeeded", status.succeeded),
        ("failed", status.failed),
        ("ready", status.ready),
        ("terminating", status.terminating),
    ] {
        errors.extend(checks::non_negative(count.unwrap_or_default(), &path.child(field)));
    }
    for (kind, other) in [("Complete", "Failed"), ("Failed", "Complete")] {
        if has_condition(old, kind) && !has_condition(status, kind) {
            let why = format!("cannot disable the terminal {kind}=True condition");
            errors.push(Error::invalid(&path.child("conditions"), checks::json(&status.conditions), why));
        } else if has_condition(status, kind) && has_condition(status, other) && kind == "Complete" {
            let why = "cannot set Complete=True and Failed=true conditions";
            errors.push(Error::invalid(&path.child("conditions"), checks::json(&status.conditions), why));
        }
    }
    if has_condition(status, "Complete") && status.completion_time.is_none() {
        errors.push(Error::required(&path.child("completionTime"), "completionTime is required for Complete jobs"));
    }
    if !has_condition(status, "Complete") && status.completion_time.is_some() {
        let why = "cannot set completionTime when there is no Complete=True condition";
        errors.push(Error::invalid(&path.child("completionTime"), checks::json(&status.completion_time), why));
    }
    errors
}

/// An Indexed Job may grow or shrink, together with its parallelism.
fn fixed_completions(spec: &JobSpec, old: &JobSpec, path: &Path) -> Errors {
    if spec.completions == old.completions {
        return Vec::new();
    }
    match spec.completions {
        None => checks::immutable(&spec.completions, &old.completions, path),
        Some(_) if !is_indexed(spec) => checks::immutable(&spec.completions, &old.completions, path),
        Some(completions) if Some(completions) != spec.parallelism => {
            let why = "can only be modified in tandem with spec.parallelism";
            vec![Error::invalid(path, completions, why)]
        }
        Some(_) => Vec::new(),
    }
}

/// Before a suspended Job has started, a queueing system may still direct where its pods go.
fn fixed_template(spec: &JobSpec, old_job: &Job, old: &JobSpec, path: &Path) -> Errors {
    let suspended = old.suspend == Some(true);
    let started = old_job.status.as_ref().is_some_and(|status| status.start_time.is_some());
    let mut expected: PodTemplateSpec = old.template.clone();
    if suspended && !started {
        copy_directives(&mut expected, &spec.template);
    }
    checks::immutable(&spec.template, &expected, path)
}

fn copy_directives(into: &mut PodTemplateSpec, from: &PodTemplateSpec) {
    if let (Some(into), Some(from)) = (&mut into.spec, &from.spec) {
        if let (Some(affinity), Some(new)) = (&mut into.affinity, &from.affinity) {
            affinity.node_affinity.clone_from(&new.node_affinity);
        } else {
            into.affinity.clone_from(&from.affinity);
        }
        into.node_selector.clone_from(&from.node_selector);
        into.tolerations.clone_from(&from.tolerations);
        into.scheduling_gates.clone_from(&from.scheduling_gates);
    }
    if let (Some(into), Some(from)) = (&mut into.metadata, &from.metadata) {
        into.annotations.clone_from(&from.annotations);
        into.labels.clone_from(&from.labels);
    }
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

    #[track_caller]
    fn check_update(old: &str, new: &str, expected: &[&str]) {
        let [mut old, mut new] = [old, new].map(|yaml| object(&Jobs, yaml));
        Jobs.prepare_for_create(&mut old);
        Jobs.prepare_for_create(&mut new);
        let errors: Vec<String> = Jobs.validate_update(&new, &old).iter().map(ToString::to_string).collect();
        assert_eq!(errors.len(), expected.len(), "{errors:#?}");
        assert!(errors.iter().zip(expected).all(|(error, start)| error.starts_with(start)), "{errors:#?}");
    }

    #[test]
    fn the_template_is_fixed_until_a_suspended_job_starts() {
        let moved = task("").replace("restartPolicy", "nodeSelector: {a: b}, restartPolicy");
        check_update(&task(""), &moved, &["spec.template: Invalid value: {"]);
        check_update(&task(", suspend: true"), &moved, &[]);
        check_update(&task(""), &task(", completions: 2"), &["spec.completions: Invalid value: 2: field is immutable"]);
        let grow = |count: i32| task(&format!(", completionMode: Indexed, completions: {count}, parallelism: {count}"));
        check_update(&grow(2), &grow(3), &[]);
    }
}
