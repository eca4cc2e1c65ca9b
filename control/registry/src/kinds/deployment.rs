//! Deployments: a number of equal pods, and how one revision of them gives way to the next.
//!
//! Source: `pkg/apis/apps/v1/defaults.go`, `pkg/apis/apps/validation`, `pkg/registry/apps/deployment`.

use jiff::Timestamp;
use serde_json::Value;
use wharf_machinery::selector::LabelSelector;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStatus, DeploymentStrategy, RollingUpdateDeployment,
};
use wharf_types::k8s::apimachinery::pkg::util::intstr::IntOrString;

use super::workload::{self, template_cells};
use super::{created, format_selector, name, spec_status};
use crate::checks;
use crate::podspec::defaults::{self, text};
use crate::row::Subresource;
use crate::strategy::{AGE, Column, FieldPaths, NAME, Scale, Strategy};

#[derive(Debug)]
pub struct Deployments;

const REVISION_HISTORY: i32 = 10;
const PROGRESS_DEADLINE_S: i32 = 600;
const STEP: &str = "25%";

impl Strategy for Deployments {
    type Object = Deployment;

    fn default(&self, deployment: &mut Deployment) {
        let spec = deployment.spec.get_or_insert_default();
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(REVISION_HISTORY);
        spec.progress_deadline_seconds.get_or_insert(PROGRESS_DEADLINE_S);
        let strategy = spec.strategy.get_or_insert_default();
        text(&mut strategy.type_, "RollingUpdate");
        if strategy.type_.as_deref() == Some("RollingUpdate") {
            let rolling = strategy.rolling_update.get_or_insert_default();
            rolling.max_unavailable.get_or_insert_with(|| IntOrString::String(STEP.to_owned()));
            rolling.max_surge.get_or_insert_with(|| IntOrString::String(STEP.to_owned()));
        }
        defaults::template(&mut spec.template);
    }

    fn prepare_for_create(&self, deployment: &mut Deployment) {
        spec_status::created(deployment);
    }

    fn prepare_for_update(&self, deployment: &mut Deployment, old: &Deployment) {
        // Annotations count: the controller copies them to replica sets.
        let annotated = deployment.metadata.annotations != old.metadata.annotations;
        spec_status::updated_beside(deployment, old, annotated);
    }

    fn prepare_for_status_update(&self, deployment: &mut Deployment, old: &Deployment) {
        spec_status::status_updated(deployment, old);
        deployment.metadata.labels.clone_from(&old.metadata.labels);
    }

    fn reset_fields(&self, subresource: Option<Subresource>) -> Option<FieldPaths> {
        (subresource == Some(Subresource::Status)).then_some(&[&["spec"], &["metadata", "labels"]])
    }

    fn validate(&self, deployment: &Deployment) -> Errors {
        deployment.spec.as_ref().map_or_else(Vec::new, |spec| validate_spec(spec, &Path::new("spec")))
    }

    fn validate_update(&self, new: &Deployment, old: &Deployment) -> Errors {
        let selector = |deployment: &Deployment| deployment.spec.as_ref().map(|spec| spec.selector.clone());
        checks::immutable(&selector(new), &selector(old), &Path::new("spec").child("selector"))
    }

    fn validate_status_update(&self, new: &Deployment, old: &Deployment) -> Errors {
        let empty = DeploymentStatus::default();
        let status = new.status.as_ref().unwrap_or(&empty);
        let mut errors = validate_status(status, &Path::new("status"));
        let held = old.status.as_ref().and_then(|status| status.collision_count);
        errors.extend(workload::validate_collisions(status.collision_count, held));
        errors
    }

    fn warnings(&self, deployment: &Deployment, old: Option<&Deployment>) -> Vec<String> {
        let (meta, old) = (&deployment.metadata, old.map(|old| &old.metadata));
        let mut warnings = workload::name_warnings(meta, old);
        let template = deployment.spec.as_ref().map(|spec| &spec.template);
        warnings.extend(workload::template_warnings(meta, old, template));
        warnings
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new("Ready", "string", "Number of the pod with ready state"),
            Column::new(
                "Up-to-date",
                "string",
                "Total number of non-terminating pods targeted by this deployment that have the desired template spec.",
            ),
            Column::new(
                "Available",
                "string",
                "Total number of available non-terminating pods (ready for at least minReadySeconds) targeted by this deployment.",
            ),
            AGE,
            Column::wide("Containers", "string", "Names of each container in the template."),
            Column::wide("Images", "string", "Images referenced by each container in the template."),
            Column::wide(
                "Selector",
                "string",
                "Label selector for pods. Existing ReplicaSets whose pods are selected by this will be the ones affected by this deployment. It must match the pod template's labels.",
            ),
        ];
        COLUMNS
    }

    fn cells(&self, deployment: &Deployment, now: Timestamp) -> Vec<Value> {
        let (empty_spec, empty_status) = (DeploymentSpec::default(), DeploymentStatus::default());
        let spec = deployment.spec.as_ref().unwrap_or(&empty_spec);
        let status = deployment.status.as_ref().unwrap_or(&empty_status);
        let [containers, images] = template_cells(&spec.template);
        let ready = format!("{}/{}", status.ready_replicas.unwrap_or_default(), spec.replicas.unwrap_or_default());
        vec![
            name(&deployment.metadata),
            ready.into(),
            status.updated_replicas.unwrap_or_default().into(),
            status.available_replicas.unwrap_or_default().into(),
            created(&deployment.metadata, now),
            containers,
            images,
            format_selector(&spec.selector).into(),
        ]
    }

    fn scale(&self, deployment: &Deployment) -> Option<Scale> {
        let spec = deployment.spec.as_ref()?;
        Some(Scale {
            spec_replicas: spec.replicas.unwrap_or_default(),
            status_replicas: deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or_default(),
            selector: LabelSelector::from_meta(&spec.selector).to_string(),
        })
    }

    fn set_scale(&self, deployment: &mut Deployment, replicas: i32) {
        deployment.spec.get_or_insert_default().replicas = Some(replicas);
    }
}

fn validate_spec(spec: &DeploymentSpec, path: &Path) -> Errors {
    let mut errors = checks::non_negative(spec.replicas.unwrap_or_default(), &path.child("replicas"));
    errors.extend(workload::validate_selector(&spec.selector, "deployment", &path.child("selector")));
    let (template, selector) = (Some(&spec.template), &spec.selector);
    errors.extend(workload::validate_template(template, selector, "ReplicaSet", &path.child("template")));
    let empty = DeploymentStrategy::default();
    errors.extend(validate_strategy(spec.strategy.as_ref().unwrap_or(&empty), &path.child("strategy")));
    let min_ready = spec.min_ready_seconds.unwrap_or_default();
    errors.extend(checks::non_negative(min_ready, &path.child("minReadySeconds")));
    let history = spec.revision_history_limit.unwrap_or_default();
    errors.extend(checks::non_negative(history, &path.child("revisionHistoryLimit")));
    if let Some(deadline) = spec.progress_deadline_seconds {
        let path = path.child("progressDeadlineSeconds");
        errors.extend(checks::non_negative(deadline, &path));
        if deadline <= min_ready {
            errors.push(Error::invalid(&path, deadline, "must be greater than minReadySeconds"));
        }
    }
    errors
}

fn validate_strategy(strategy: &DeploymentStrategy, path: &Path) -> Errors {
    match (strategy.type_.as_deref().unwrap_or_default(), &strategy.rolling_update) {
        ("Recreate", None) => Vec::new(),
        ("Recreate", Some(_)) => {
            let why = "may not be specified when strategy `type` is 'Recreate'";
            vec![Error::forbidden(&path.child("rollingUpdate"), why)]
        }
        ("RollingUpdate", None) => {
            vec![Error::required(&path.child("rollingUpdate"), "this should be defaulted and never be nil")]
        }
        ("RollingUpdate", Some(rolling)) => validate_rolling(rolling, &path.child("rollingUpdate")),
        _ => vec![Error::not_supported(path, checks::json(strategy), &["Recreate", "RollingUpdate"])],
    }
}

fn validate_rolling(rolling: &RollingUpdateDeployment, path: &Path) -> Errors {
    let zero = IntOrString::Int(0);
    let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&zero);
    let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
    let path_unavailable = path.child("maxUnavailable");
    let mut errors = checks::count_or_percent(unavailable, &path_unavailable);
    errors.extend(checks::count_or_percent(surge, &path.child("maxSurge")));
    if checks::is_zero(unavailable) && checks::is_zero(surge) {
        errors.push(Error::invalid(&path_unavailable, checks::json(unavailable), "may not be 0 when `maxSurge` is 0"));
    }
    errors.extend(checks::at_most_all(unavailable, &path_unavailable));
    errors
}

fn validate_status(status: &DeploymentStatus, path: &Path) -> Errors {
    let value = |field: Option<i32>| field.unwrap_or_default();
    let mut errors =
        checks::non_negative(status.observed_generation.unwrap_or_default(), &path.child("observedGeneration"));
    let (replicas, updated) = (value(status.replicas), value(status.updated_replicas));
    let (ready, available) = (value(status.ready_replicas), value(status.available_replicas));
    for (field, count) in [
        ("replicas", replicas),
        ("updatedReplicas", updated),
        ("readyReplicas", ready),
        ("availableReplicas", available),
        ("unavailableReplicas", value(status.unavailable_replicas)),
        ("collisionCount", value(status.collision_count)),
    ] {
        errors.extend(checks::non_negative(count, &path.child(field)));
    }
    for (field, count) in [("updatedReplicas", updated), ("readyReplicas", ready), ("availableReplicas", available)] {
        if count > replicas {
            errors.push(Error::invalid(&path.child(field), count, "cannot be greater than status.replicas"));
        }
    }
    if available > ready {
        errors.push(Error::invalid(
            &path.child("availableReplicas"),
            available,
            "cannot be greater than readyReplicas",
        ));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, check_update, object};

    fn web(extra: &str) -> String {
        format!(
            "{{metadata: {{name: web, generation: 1}}, spec: {{selector: {{matchLabels: {{app: web}}}}, template: {{metadata: {{labels: {{app: web}}}}, spec: {{containers: [{{name: a, image: i}}]}}}}{extra}}}}}"
        )
    }

    #[test]
    fn a_deployment_rolls_by_quarters() {
        let spec = object(&Deployments, &web("")).spec.unwrap();
        let given = (spec.replicas, spec.revision_history_limit, spec.progress_deadline_seconds);
        assert_eq!(given, (Some(1), Some(10), Some(600)));
        let strategy = checks::json(&spec.strategy);
        assert_eq!(
            strategy.to_string(),
            r#"{"rollingUpdate":{"maxSurge":"25%","maxUnavailable":"25%"},"type":"RollingUpdate"}"#
        );
        assert_eq!(spec.template.spec.unwrap().enable_service_links, None, "templates keep this open");
    }

    #[test]
    fn rules_of_the_spec() {
        check(&Deployments, &web(""), &[]);
        check(
            &Deployments,
            &web(", replicas: -1"),
            &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
        );
        check(
            &Deployments,
            &web(", strategy: {type: Recreate, rollingUpdate: {}}"),
            &["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"],
        );
        check(
            &Deployments,
            &web(", strategy: {type: Fast}"),
            &[
                "spec.strategy: Unsupported value: {\"type\":\"Fast\"}: supported values: \"Recreate\", \"RollingUpdate\"",
            ],
        );
        check(
            &Deployments,
            &web(", strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 0%}}"),
            &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0"],
        );
        check(
            &Deployments,
            &web(", strategy: {rollingUpdate: {maxUnavailable: 150%}}"),
            &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"150%\": must not be greater than 100%"],
        );
        check(
            &Deployments,
            &web(", minReadySeconds: 600"),
            &["spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds"],
        );
    }

    #[test]
    fn the_selector_is_fixed_and_must_match() {
        let other = web("").replace("matchLabels: {app: web}", "matchLabels: {app: other}");
        check(
            &Deployments,
            &other,
            &[
                "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
            ],
        );
        check_update(
            &Deployments,
            &web(""),
            &other,
            &["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"other\"}}: field is immutable"],
        );
    }

    #[test]
    fn generation_counts_changes_of_the_spec() {
        let old = object(&Deployments, &web(""));
        let mut same = old.clone();
        Deployments.prepare_for_update(&mut same, &old);
        assert_eq!(same.metadata.generation, Some(1));
        let mut scaled = old.clone();
        Deployments.set_scale(&mut scaled, 3);
        Deployments.prepare_for_update(&mut scaled, &old);
        assert_eq!(scaled.metadata.generation, Some(2));
        assert_eq!(
            Deployments.scale(&scaled).unwrap(),
            Scale { spec_replicas: 3, status_replicas: 0, selector: "app=web".to_owned() }
        );
    }

    #[test]
    fn cells_show_progress() {
        let yaml = web(", replicas: 3").replace(
            "spec: {selector",
            "status: {replicas: 3, readyReplicas: 2, updatedReplicas: 3, availableReplicas: 1}, spec: {selector",
        );
        check_cells(&Deployments, &yaml, "web | 2/3 | 3 | 1 | <unknown> | a | i | app=web");
    }
}
