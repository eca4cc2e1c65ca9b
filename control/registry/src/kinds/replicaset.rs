//! ReplicaSets: a number of equal pods.
//!
//! Source: `pkg/apis/apps/validation`, `pkg/registry/apps/replicaset`.

use jiff::Timestamp;
use serde_json::Value;
use wharf_machinery::selector::LabelSelector;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::apps::v1::{ReplicaSet, ReplicaSetSpec, ReplicaSetStatus};
use wharf_types::k8s::api::core::v1::PodTemplateSpec;

use super::workload::{self, template_cells};
use super::{created, format_selector, name, spec_status};
use crate::checks;
use crate::podspec::defaults;
use crate::strategy::{AGE, Column, NAME, Scale, Strategy};

#[derive(Debug)]
pub struct ReplicaSets;

impl Strategy for ReplicaSets {
    type Object = ReplicaSet;

    fn default(&self, set: &mut ReplicaSet) {
        let spec = set.spec.get_or_insert_default();
        spec.replicas.get_or_insert(1);
        defaults::template(spec.template.get_or_insert_default());
    }

    fn prepare_for_create(&self, set: &mut ReplicaSet) {
        spec_status::created(set);
    }

    fn prepare_for_update(&self, set: &mut ReplicaSet, old: &ReplicaSet) {
        spec_status::updated(set, old);
    }

    fn prepare_for_status_update(&self, set: &mut ReplicaSet, old: &ReplicaSet) {
        spec_status::status_updated(set, old);
    }

    fn validate(&self, set: &ReplicaSet) -> Errors {
        let Some(spec) = &set.spec else { return Vec::new() };
        let path = Path::new("spec");
        let mut errors = checks::non_negative(spec.replicas.unwrap_or_default(), &path.child("replicas"));
        errors.extend(checks::non_negative(spec.min_ready_seconds.unwrap_or_default(), &path.child("minReadySeconds")));
        // The words are upstream's, who took them from Deployment.
        errors.extend(workload::validate_selector(&spec.selector, "deployment", &path.child("selector")));
        let (template, selector) = (spec.template.as_ref(), &spec.selector);
        errors.extend(workload::validate_template(template, selector, "ReplicaSet", &path.child("template")));
        errors
    }

    fn validate_update(&self, new: &ReplicaSet, old: &ReplicaSet) -> Errors {
        let selector = |set: &ReplicaSet| set.spec.as_ref().map(|spec| spec.selector.clone());
        checks::immutable(&selector(new), &selector(old), &Path::new("spec").child("selector"))
    }

    fn validate_status_update(&self, new: &ReplicaSet, _old: &ReplicaSet) -> Errors {
        new.status.as_ref().map_or_else(Vec::new, |status| validate_status(status, &Path::new("status")))
    }

    fn warnings(&self, set: &ReplicaSet, old: Option<&ReplicaSet>) -> Vec<String> {
        let (meta, old) = (&set.metadata, old.map(|old| &old.metadata));
        let mut warnings = workload::name_warnings(meta, old);
        let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
        warnings.extend(workload::template_warnings(meta, old, template));
        warnings
    }

    fn fields(&self, set: &ReplicaSet) -> Vec<(&'static str, String)> {
        vec![("status.replicas", set.status.as_ref().map_or(0, |status| status.replicas).to_string())]
    }

    fn field_names(&self) -> &'static [&'static str] {
        &["status.replicas"]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new(
                "Desired",
                "integer",
                "Replicas is the number of desired pods. This is a pointer to distinguish between explicit zero and unspecified. Defaults to 1. More info: https://kubernetes.io/docs/concepts/workloads/controllers/replicaset",
            ),
            Column::new(
                "Current",
                "integer",
                "Replicas is the most recently observed number of non-terminating pods. More info: https://kubernetes.io/docs/concepts/workloads/controllers/replicaset",
            ),
            Column::new(
                "Ready",
                "integer",
                "The number of non-terminating pods targeted by this ReplicaSet with a Ready Condition.",
            ),
            AGE,
            Column::wide("Containers", "string", "Names of each container in the template."),
            Column::wide("Images", "string", "Images referenced by each container in the template."),
            Column::wide(
                "Selector",
                "string",
                "Selector is a label query over pods that should match the replica count. Label keys and values that must match in order to be controlled by this replica set. It must match the pod template's labels. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
            ),
        ];
        COLUMNS
    }

    fn cells(&self, set: &ReplicaSet, now: Timestamp) -> Vec<Value> {
        let (empty_spec, empty_status) = (ReplicaSetSpec::default(), ReplicaSetStatus::default());
        let spec = set.spec.as_ref().unwrap_or(&empty_spec);
        let status = set.status.as_ref().unwrap_or(&empty_status);
        let [containers, images] = template_cells(spec.template.as_ref().unwrap_or(&PodTemplateSpec::default()));
        vec![
            name(&set.metadata),
            spec.replicas.unwrap_or_default().into(),
            status.replicas.into(),
            status.ready_replicas.unwrap_or_default().into(),
            created(&set.metadata, now),
            containers,
            images,
            format_selector(&spec.selector).into(),
        ]
    }

    fn scale(&self, set: &ReplicaSet) -> Option<Scale> {
        let spec = set.spec.as_ref()?;
        Some(Scale {
            spec_replicas: spec.replicas.unwrap_or_default(),
            status_replicas: set.status.as_ref().map_or(0, |status| status.replicas),
            selector: LabelSelector::from_meta(&spec.selector).to_string(),
        })
    }

    fn set_scale(&self, set: &mut ReplicaSet, replicas: i32) {
        set.spec.get_or_insert_default().replicas = Some(replicas);
    }
}

fn validate_status(status: &ReplicaSetStatus, path: &Path) -> Errors {
    let value = |field: Option<i32>| field.unwrap_or_default();
    let (labeled, ready) = (value(status.fully_labeled_replicas), value(status.ready_replicas));
    let (replicas, available) = (status.replicas, value(status.available_replicas));
    let mut errors = Vec::new();
    for (field, count) in [
        ("replicas", replicas),
        ("fullyLabeledReplicas", labeled),
        ("readyReplicas", ready),
        ("availableReplicas", available),
    ] {
        errors.extend(checks::non_negative(count, &path.child(field)));
    }
    errors.extend(checks::non_negative(
        status.observed_generation.unwrap_or_default(),
        &path.child("observedGeneration"),
    ));
    for (field, count) in
        [("fullyLabeledReplicas", labeled), ("readyReplicas", ready), ("availableReplicas", available)]
    {
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
    use crate::testing::{check, check_cells, check_update};

    const WEB: &str = "{metadata: {name: web}, spec: {replicas: 2, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a, image: i}]}}}, status: {replicas: 2, readyReplicas: 1}}";

    #[test]
    fn a_template_must_keep_running() {
        check(&ReplicaSets, WEB, &[]);
        check(
            &ReplicaSets,
            &WEB.replace("spec: {containers", "spec: {restartPolicy: Never, activeDeadlineSeconds: 5, containers"),
            &[
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
                "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported",
            ],
        );
    }

    #[test]
    fn a_selector_is_required() {
        check(
            &ReplicaSets,
            &WEB.replace("selector: {matchLabels: {app: web}}", "selector: {}"),
            &[
                "spec.selector: Required value",
                "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
            ],
        );
        check_update(
            &ReplicaSets,
            WEB,
            &WEB.replace("matchLabels: {app: web}", "matchLabels: {app: web, b: c}"),
            &["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"web\",\"b\":\"c\"}}: field is immutable"],
        );
    }

    #[test]
    fn cells_show_counts() {
        check_cells(&ReplicaSets, WEB, "web | 2 | 2 | 1 | <unknown> | a | i | app=web");
    }
}
