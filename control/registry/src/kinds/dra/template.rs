//! ResourceClaimTemplates: claims that are made for each pod.
//!
//! Source: `pkg/apis/resource/validation`, `pkg/registry/resource/resourceclaimtemplate`.

use wharf_machinery::selector;
use wharf_types::field::{Errors, Path};
use wharf_types::k8s::api::resource::v1::ResourceClaimTemplate;

use super::claim::{default_spec, validate_spec};
use crate::strategy::Strategy;
use crate::{checks, meta};

#[derive(Debug)]
pub struct ResourceClaimTemplates;

impl Strategy for ResourceClaimTemplates {
    type Object = ResourceClaimTemplate;

    fn default(&self, template: &mut ResourceClaimTemplate) {
        default_spec(&mut template.spec.spec);
    }

    fn validate(&self, template: &ResourceClaimTemplate) -> Errors {
        let path = Path::new("spec");
        let at = path.child("metadata");
        let own = template.spec.metadata.clone().unwrap_or_default();
        let mut errors = meta::validate_annotations(&own, &at.child("annotations"));
        errors.extend(selector::validate_labels(own.labels.as_ref(), &at.child("labels")));
        errors.extend(validate_spec(&template.spec.spec, &path.child("spec")));
        errors
    }

    fn validate_update(&self, new: &ResourceClaimTemplate, old: &ResourceClaimTemplate) -> Errors {
        checks::immutable(&new.spec, &old.spec, &Path::new("spec"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_update};

    const TEMPLATE: &str =
        "{metadata: {name: t}, spec: {spec: {devices: {requests: [{name: a, exactly: {deviceClassName: c}}]}}}}";

    #[test]
    fn a_template_holds_a_claim() {
        check(&ResourceClaimTemplates, TEMPLATE, &[]);
        check(
            &ResourceClaimTemplates,
            &TEMPLATE.replace("deviceClassName: c", "deviceClassName: ''"),
            &["spec.spec.devices.requests[0].exactly.deviceClassName: Required value"],
        );
    }

    #[test]
    fn a_template_stays_what_it_is() {
        check_update(
            &ResourceClaimTemplates,
            TEMPLATE,
            "{spec: {spec: {}}}",
            &["spec: Invalid value: {\"spec\":{}}: field is immutable"],
        );
    }
}
