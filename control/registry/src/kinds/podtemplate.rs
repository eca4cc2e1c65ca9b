//! PodTemplates: a pod's description, kept for later.

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::{Errors, Path};
use wharf_types::k8s::api::core::v1::{PodTemplate, PodTemplateSpec};

use super::workload::template_cells;
use super::{created, format_labels, name};
use crate::podspec::{self, defaults};
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct PodTemplates;

impl Strategy for PodTemplates {
    type Object = PodTemplate;

    fn default(&self, object: &mut PodTemplate) {
        defaults::template(object.template.get_or_insert_default());
    }

    fn prepare_for_create(&self, object: &mut PodTemplate) {
        object.metadata.generation = Some(1);
    }

    fn prepare_for_update(&self, object: &mut PodTemplate, old: &PodTemplate) {
        let changed = object.template != old.template;
        super::generation(&mut object.metadata, &old.metadata, changed);
    }

    fn validate(&self, object: &PodTemplate) -> Errors {
        let empty = PodTemplateSpec::default();
        podspec::validate_template(object.template.as_ref().unwrap_or(&empty), &Path::new("template"))
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new("Containers", "string", "Names of each container in the template."),
            Column::new("Images", "string", "Images referenced by each container in the template."),
            Column::new("Pod Labels", "string", "The labels for the pod template."),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, object: &PodTemplate, now: Timestamp) -> Vec<Value> {
        let template = object.template.clone().unwrap_or_default();
        let [containers, images] = template_cells(&template);
        let labels = template.metadata.and_then(|meta| meta.labels);
        let labels = format_labels(labels.as_ref());
        vec![name(&object.metadata), containers, images, labels.into(), created(&object.metadata, now)]
    }
}
