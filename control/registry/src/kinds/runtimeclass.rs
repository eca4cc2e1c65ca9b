//! RuntimeClasses: which runtime runs a pod, and what that costs.
//!
//! Source: `pkg/apis/node/validation`, `pkg/registry/node/runtimeclass`.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;
use wharf_machinery::selector;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::ResourceRequirements;
use wharf_types::k8s::api::node::v1::{RuntimeClass, Scheduling};

use super::{created, name};
use crate::checks;
use crate::podspec::{resources, scheduling};
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct RuntimeClasses;

impl Strategy for RuntimeClasses {
    type Object = RuntimeClass;

    fn validate(&self, class: &RuntimeClass) -> Errors {
        let mut errors = checks::dns1123_label(&class.handler, &Path::new("handler"));
        if let Some(overhead) = &class.overhead {
            let limits = ResourceRequirements { limits: overhead.pod_fixed.clone(), ..Default::default() };
            errors.extend(resources::validate(&limits, &Path::new("overhead")));
        }
        if let Some(scheduling) = &class.scheduling {
            errors.extend(validate_scheduling(scheduling, &Path::new("scheduling")));
        }
        errors
    }

    fn validate_update(&self, new: &RuntimeClass, old: &RuntimeClass) -> Errors {
        checks::immutable(&new.handler, &old.handler, &Path::new("handler"))
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, Column::new("Handler", "string", ""), AGE];
        COLUMNS
    }

    fn cells(&self, class: &RuntimeClass, now: Timestamp) -> Vec<Value> {
        vec![name(&class.metadata), class.handler.clone().into(), created(&class.metadata, now)]
    }
}

fn validate_scheduling(scheduling: &Scheduling, path: &Path) -> Errors {
    let mut errors = selector::validate_labels(scheduling.node_selector.as_ref(), &path.child("nodeSelector"));
    let (tolerations, path) = (scheduling.tolerations.as_deref().unwrap_or_default(), path.child("tolerations"));
    errors.extend(scheduling::tolerations(tolerations, &path));
    let mut seen = BTreeSet::new();
    for (index, toleration) in tolerations.iter().enumerate() {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let key = [&toleration.key, &toleration.operator, &toleration.value, &toleration.effect].map(text);
        if !seen.insert(key) {
            errors.push(Error::duplicate(&path.index(index), checks::json(toleration)));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, check_update};

    const CLASS: &str = "{metadata: {name: fast}, handler: wasm, overhead: {podFixed: {cpu: 10m}}, scheduling: {nodeSelector: {a: b}, tolerations: [{key: a}]}}";

    #[test]
    fn a_class_names_its_handler() {
        check(&RuntimeClasses, CLASS, &[]);
        check(
            &RuntimeClasses,
            &CLASS.replace("wasm", "W"),
            &[
                "handler: Invalid value: \"W\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            ],
        );
        check_update(
            &RuntimeClasses,
            CLASS,
            &CLASS.replace("wasm", "oci"),
            &["handler: Invalid value: \"oci\": field is immutable"],
        );
    }

    #[test]
    fn tolerations_are_told_once() {
        check(
            &RuntimeClasses,
            &CLASS.replace("[{key: a}]", "[{key: a}, {key: a, tolerationSeconds: 5, effect: NoExecute}, {key: a}]"),
            &["scheduling.tolerations[2]: Duplicate value: {\"key\":\"a\"}"],
        );
    }

    #[test]
    fn cells_show_the_handler() {
        check_cells(&RuntimeClasses, CLASS, "fast | wasm | <unknown>");
    }
}
