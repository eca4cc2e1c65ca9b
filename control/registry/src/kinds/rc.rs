//! ReplicationControllers: ReplicaSets as they were before set-based selectors.

use jiff::Timestamp;
use serde_json::Value;
use wharf_machinery::selector::LabelSelector;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerSpec, ReplicationControllerStatus,
};

use super::workload::{self, template_cells};
use super::{created, format_labels, name, spec_status};
use crate::checks;
use crate::podspec::{self, defaults};
use crate::strategy::{AGE, Column, NAME, Scale, Strategy};

#[derive(Debug)]
pub struct ReplicationControllers;

impl Strategy for ReplicationControllers {
    type Object = ReplicationController;

    fn default(&self, controller: &mut ReplicationController) {
        let spec = controller.spec.get_or_insert_default();
        spec.replicas.get_or_insert(1);
        let labels = spec.template.as_ref().and_then(|template| template.metadata.as_ref()?.labels.clone());
        if let Some(labels) = labels {
            if spec.selector.as_ref().is_none_or(|selector| selector.is_empty()) {
                spec.selector = Some(labels.clone());
            }
            if controller.metadata.labels.as_ref().is_none_or(|own| own.is_empty()) {
                controller.metadata.labels = Some(labels);
            }
        }
        if let Some(template) = &mut spec.template {
            defaults::template(template);
        }
    }

    fn prepare_for_create(&self, controller: &mut ReplicationController) {
        spec_status::created(controller);
    }

    fn prepare_for_update(&self, controller: &mut ReplicationController, old: &ReplicationController) {
        spec_status::updated(controller, old);
    }

    fn prepare_for_status_update(&self, controller: &mut ReplicationController, old: &ReplicationController) {
        spec_status::status_updated(controller, old);
    }

    fn validate(&self, controller: &ReplicationController) -> Errors {
        let Some(spec) = &controller.spec else { return Vec::new() };
        let path = Path::new("spec");
        let mut errors =
            checks::non_negative(spec.min_ready_seconds.unwrap_or_default(), &path.child("minReadySeconds"));
        let selector = spec.selector.clone().unwrap_or_default();
        if selector.is_empty() {
            errors.push(Error::required(&path.child("selector"), ""));
        }
        errors.extend(checks::non_negative(spec.replicas.unwrap_or_default(), &path.child("replicas")));
        let path = path.child("template");
        let Some(template) = &spec.template else {
            errors.push(Error::required(&path, ""));
            return errors;
        };
        errors.extend(workload::validate_match(template, &LabelSelector::from_map(&selector), &path));
        errors.extend(podspec::validate_template(template, &path));
        errors.extend(workload::validate_long_running(template, "ReplicationController", &path));
        errors
    }

    /// The pods outlive the controller unless the client asks otherwise: what this kind did before there were options.
    fn orphans_by_default(&self) -> bool {
        true
    }

    fn warnings(&self, controller: &ReplicationController, old: Option<&ReplicationController>) -> Vec<String> {
        let (meta, old) = (&controller.metadata, old.map(|old| &old.metadata));
        let mut warnings = workload::name_warnings(meta, old);
        let template = controller.spec.as_ref().and_then(|spec| spec.template.as_ref());
        warnings.extend(workload::template_warnings(meta, old, template));
        warnings
    }

    fn fields(&self, controller: &ReplicationController) -> Vec<(&'static str, String)> {
        vec![("status.replicas", controller.status.as_ref().map_or(0, |status| status.replicas).to_string())]
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
                "Replicas is the number of desired replicas. This is a pointer to distinguish between explicit zero and unspecified. Defaults to 1. More info: https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller#what-is-a-replicationcontroller",
            ),
            Column::new(
                "Current",
                "integer",
                "Replicas is the most recently observed number of replicas. More info: https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller#what-is-a-replicationcontroller",
            ),
            Column::new("Ready", "integer", "The number of ready replicas for this replication controller."),
            AGE,
            Column::wide("Containers", "string", "Names of each container in the template."),
            Column::wide("Images", "string", "Images referenced by each container in the template."),
            Column::wide(
                "Selector",
                "string",
                "Selector is a label query over pods that should match the Replicas count. If Selector is empty, it is defaulted to the labels present on the Pod template. Label keys and values that must match in order to be controlled by this replication controller, if empty defaulted to labels on Pod template. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
            ),
        ];
        COLUMNS
    }

    fn cells(&self, controller: &ReplicationController, now: Timestamp) -> Vec<Value> {
        let (empty_spec, empty_status) = (ReplicationControllerSpec::default(), ReplicationControllerStatus::default());
        let spec = controller.spec.as_ref().unwrap_or(&empty_spec);
        let status = controller.status.as_ref().unwrap_or(&empty_status);
        let [containers, images] = template_cells(spec.template.as_ref().unwrap_or(&PodTemplateSpec::default()));
        vec![
            name(&controller.metadata),
            spec.replicas.unwrap_or_default().into(),
            status.replicas.into(),
            status.ready_replicas.unwrap_or_default().into(),
            created(&controller.metadata, now),
            containers,
            images,
            format_labels(spec.selector.as_ref()).into(),
        ]
    }

    fn scale(&self, controller: &ReplicationController) -> Option<Scale> {
        let spec = controller.spec.as_ref()?;
        Some(Scale {
            spec_replicas: spec.replicas.unwrap_or_default(),
            status_replicas: controller.status.as_ref().map_or(0, |status| status.replicas),
            selector: LabelSelector::from_map(&spec.selector.clone().unwrap_or_default()).to_string(),
        })
    }

    fn set_scale(&self, controller: &mut ReplicationController, replicas: i32) {
        controller.spec.get_or_insert_default().replicas = Some(replicas);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, object};

    #[test]
    fn the_selector_comes_from_the_template() {
        let yaml = "{spec: {template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a, image: i}]}}}}";
        check(&ReplicationControllers, yaml, &[]);
        let given = object(&ReplicationControllers, yaml);
        assert_eq!(ReplicationControllers.scale(&given).unwrap().selector, "app=web");
        check(&ReplicationControllers, "{}", &["spec.selector: Required value", "spec.template: Required value"]);
    }
}
