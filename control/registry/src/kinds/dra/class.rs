//! DeviceClasses: kinds of devices, and how they are set up.
//!
//! Source: `pkg/apis/resource/validation`, `pkg/registry/resource/deviceclass`.

use wharf_machinery::names;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::resource::v1::DeviceClass;

use super::{CONFIG_MAX, each, validate_config, validate_selectors};
use crate::strategy::Strategy;

#[derive(Debug)]
pub struct DeviceClasses;

impl Strategy for DeviceClasses {
    type Object = DeviceClass;

    fn prepare_for_create(&self, class: &mut DeviceClass) {
        class.metadata.generation = Some(1);
    }

    fn prepare_for_update(&self, class: &mut DeviceClass, old: &DeviceClass) {
        let changed = class.spec != old.spec;
        super::super::generation(&mut class.metadata, &old.metadata, changed);
    }

    fn validate(&self, class: &DeviceClass) -> Errors {
        let (spec, path) = (&class.spec, Path::new("spec"));
        let selectors = spec.selectors.as_deref().unwrap_or_default();
        let mut errors = validate_selectors(selectors, &path.child("selectors"));
        let configs = spec.config.as_deref().unwrap_or_default();
        errors.extend(each(configs, CONFIG_MAX, &path.child("config"), |config, path| {
            validate_config(config.opaque.as_ref(), path)
        }));
        if let Some(name) = spec.extended_resource_name.as_ref().filter(|name| !is_extended(name)) {
            let why = "must be a valid extended resource name";
            errors.push(Error::invalid(&path.child("extendedResourceName"), name, why));
        }
        errors
    }
}

/// A resource that is neither Kubernetes' own nor a quota's name for another.
fn is_extended(name: &str) -> bool {
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    !native && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells};

    #[test]
    fn a_class_selects_and_sets_up() {
        let class = "{spec: {selectors: [{cel: {expression: 'true'}}], config: [{opaque: {driver: g.example.com, parameters: {a: 1}}}], extendedResourceName: example.com/gpu}}";
        check(&DeviceClasses, class, &[]);
        check(
            &DeviceClasses,
            "{spec: {selectors: [{}], config: [{}, {opaque: {driver: a, parameters: 7}}], extendedResourceName: cpu}}",
            &[
                "spec.selectors[0].cel: Required value",
                "spec.config[0].opaque: Required value",
                "spec.config[1].opaque.parameters: Invalid value: \"<value omitted>\": must be a valid JSON object",
                "spec.extendedResourceName: Invalid value: \"cpu\": must be a valid extended resource name",
            ],
        );
    }

    #[test]
    fn a_class_shows_its_age() {
        check_cells(&DeviceClasses, "{metadata: {name: c}, spec: {}}", "c | <unknown>");
    }
}
