//! VolumeAttributesClasses: what of a volume may be changed while it is in use.
//!
//! Source: `pkg/apis/storage/validation`, `pkg/registry/storage/volumeattributesclass`.

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::storage::v1::VolumeAttributesClass;

use super::storageclass::{fixed, validate_parameters, validate_provisioner};
use super::{created, name};
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct VolumeAttributesClasses;

impl Strategy for VolumeAttributesClasses {
    type Object = VolumeAttributesClass;

    fn validate(&self, class: &VolumeAttributesClass) -> Errors {
        let mut errors = validate_provisioner(&class.driver_name, &Path::new("driverName"));
        let path = Path::new("parameters");
        errors.extend(validate_parameters(class.parameters.as_ref(), &path));
        if class.parameters.as_ref().is_none_or(|parameters| parameters.is_empty()) {
            errors.push(Error::required(&path, "must contain at least one key/value pair"));
        }
        errors
    }

    fn validate_update(&self, new: &VolumeAttributesClass, old: &VolumeAttributesClass) -> Errors {
        let changed =
            [("driverName", new.driver_name != old.driver_name), ("parameters", new.parameters != old.parameters)];
        changed.into_iter().filter(|(_, changed)| *changed).map(|(field, _)| fixed(field)).collect()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] =
            &[NAME, Column::new("DriverName", "string", "Name of the CSI driver This field is immutable."), AGE];
        COLUMNS
    }

    fn cells(&self, class: &VolumeAttributesClass, now: Timestamp) -> Vec<Value> {
        vec![name(&class.metadata), class.driver_name.clone().into(), created(&class.metadata, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, check_update};

    const CLASS: &str = "{metadata: {name: gold}, driverName: csi.example.com, parameters: {iops: '5000'}}";

    #[test]
    fn a_class_has_a_driver_and_parameters() {
        check(&VolumeAttributesClasses, CLASS, &[]);
        check(
            &VolumeAttributesClasses,
            "{driverName: ''}",
            &["driverName: Required value", "parameters: Required value: must contain at least one key/value pair"],
        );
    }

    #[test]
    fn a_class_stays_what_it_is() {
        check_update(
            &VolumeAttributesClasses,
            CLASS,
            "{driverName: other, parameters: {iops: '1'}}",
            &[
                "driverName: Forbidden: updates to driverName are forbidden.",
                "parameters: Forbidden: updates to parameters are forbidden.",
            ],
        );
    }

    #[test]
    fn the_driver_is_shown() {
        check_cells(&VolumeAttributesClasses, CLASS, "gold | csi.example.com | <unknown>");
    }
}
