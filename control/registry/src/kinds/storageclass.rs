//! StorageClasses: how volumes are made on demand.
//!
//! Source: `pkg/apis/storage/validation`, `pkg/registry/storage/storageclass`, `pkg/api/storage`. What the other storage kinds
//! say in the same way stands here: parameters, drivers' names, and labels of nodes that have a newer name.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::{TopologySelectorLabelRequirement, TopologySelectorTerm};
use wharf_types::k8s::api::storage::v1::StorageClass;
use wharf_types::meta::ObjectMeta;

use super::created;
use crate::checks;
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct StorageClasses;

const RECLAIM_POLICIES: &[&str] = &["Delete", "Retain"];
const BINDING_MODES: &[&str] = &["Immediate", "WaitForFirstConsumer"];
/// Most parameters of a class.
const PARAMETERS_MAX: usize = 512;
/// Most bytes that all parameters of a class have together, keys and values.
const PARAMETERS_BYTES_MAX: usize = 256 * 1024;
/// Longest name of a CSI driver, in bytes.
const DRIVER_NAME_MAX: usize = 63;
/// Mark the class that claims get which name none.
const DEFAULT_MARKS: &[&str] =
    &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
/// Labels of nodes that have a newer name.
const OLD_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
];

impl Strategy for StorageClasses {
    type Object = StorageClass;

    fn default(&self, class: &mut StorageClass) {
        class.reclaim_policy.get_or_insert_with(|| "Delete".to_owned());
        class.volume_binding_mode.get_or_insert_with(|| "Immediate".to_owned());
    }

    fn validate(&self, class: &StorageClass) -> Errors {
        let mut errors = validate_provisioner(&class.provisioner, &Path::new("provisioner"));
        errors.extend(validate_parameters(class.parameters.as_ref(), &Path::new("parameters")));
        let policy = class.reclaim_policy.as_deref().unwrap_or_default();
        if !policy.is_empty() {
            errors.extend(checks::one_of(policy, RECLAIM_POLICIES, &Path::new("reclaimPolicy")));
        }
        let path = Path::new("volumeBindingMode");
        match &class.volume_binding_mode {
            None => errors.push(Error::required(&path, "")),
            Some(mode) => errors.extend(checks::one_of(mode, BINDING_MODES, &path)),
        }
        let topologies = class.allowed_topologies.as_deref().unwrap_or_default();
        errors.extend(validate_topologies(topologies, &Path::new("allowedTopologies")));
        errors
    }

    fn validate_update(&self, new: &StorageClass, old: &StorageClass) -> Errors {
        let changed = [
            ("parameters", new.parameters.clone().unwrap_or_default() != old.parameters.clone().unwrap_or_default()),
            ("provisioner", new.provisioner != old.provisioner),
            ("reclaimPolicy", new.reclaim_policy != old.reclaim_policy),
        ];
        let mut errors: Errors =
            changed.into_iter().filter(|(_, changed)| *changed).map(|(field, _)| fixed(field)).collect();
        let path = Path::new("volumeBindingMode");
        errors.extend(checks::immutable(&new.volume_binding_mode, &old.volume_binding_mode, &path));
        errors
    }

    fn warnings(&self, class: &StorageClass, _old: Option<&StorageClass>) -> Vec<String> {
        let mut warnings = Vec::new();
        for (index, term) in class.allowed_topologies.iter().flatten().enumerate() {
            for (inner, requirement) in term.match_label_expressions.iter().flatten().enumerate() {
                if let Some(why) = old_label(&requirement.key) {
                    let path = Path::new("allowedTopologies").index(index).child("matchLabelExpressions").index(inner);
                    warnings.push(format!("{}: {why}", path.child("key")));
                }
            }
        }
        warnings
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new("Provisioner", "string", "provisioner indicates the type of the provisioner."),
            Column::new(
                "ReclaimPolicy",
                "string",
                "reclaimPolicy controls the reclaimPolicy for dynamically provisioned PersistentVolumes of this storage class. Defaults to Delete.",
            ),
            Column::new(
                "VolumeBindingMode",
                "string",
                "volumeBindingMode indicates how PersistentVolumeClaims should be provisioned and bound.  When unset, VolumeBindingImmediate is used. This field is only honored by servers that enable the VolumeScheduling feature.",
            ),
            Column::new(
                "AllowVolumeExpansion",
                "string",
                "allowVolumeExpansion shows whether the storage class allow volume expand.",
            ),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, class: &StorageClass, now: Timestamp) -> Vec<Value> {
        let mut shown = class.metadata.name.clone().unwrap_or_default();
        if is_default(&class.metadata, DEFAULT_MARKS) {
            shown += " (default)";
        }
        vec![
            shown.into(),
            class.provisioner.clone().into(),
            class.reclaim_policy.clone().unwrap_or_else(|| "Delete".to_owned()).into(),
            class.volume_binding_mode.clone().unwrap_or_else(|| "<unset>".to_owned()).into(),
            class.allow_volume_expansion.unwrap_or_default().into(),
            created(&class.metadata, now),
        ]
    }
}

/// What an update of a class may not do.
pub fn fixed(field: &str) -> Error {
    Error::forbidden(&Path::new(field), format!("updates to {field} are forbidden."))
}

fn is_default(meta: &ObjectMeta, marks: &[&str]) -> bool {
    let annotations = meta.annotations.as_ref();
    marks.iter().any(|mark| annotations.and_then(|annotations| annotations.get(*mark)).is_some_and(|it| it == "true"))
}

/// A provisioner's or driver's name is qualified, whatever its case.
pub fn validate_provisioner(provisioner: &str, path: &Path) -> Errors {
    if provisioner.is_empty() {
        return vec![Error::required(path, "")];
    }
    checks::qualified_name(&provisioner.to_lowercase(), path)
}

pub fn validate_parameters(parameters: Option<&BTreeMap<String, String>>, path: &Path) -> Errors {
    let Some(parameters) = parameters else { return Vec::new() };
    if parameters.len() > PARAMETERS_MAX {
        return vec![Error::too_long(path, PARAMETERS_MAX)];
    }
    let mut errors = Vec::new();
    if parameters.contains_key("") {
        errors.push(Error::invalid(path, "", "field can not be empty."));
    }
    if parameters.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > PARAMETERS_BYTES_MAX {
        errors.push(Error::too_long(path, PARAMETERS_BYTES_MAX));
    }
    errors
}

/// Source: `ValidateCSIDriverName` of `pkg/apis/core/validation`.
pub fn validate_driver_name(driver: &str, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if driver.is_empty() {
        errors.push(Error::required(path, ""));
    }
    if driver.len() > DRIVER_NAME_MAX {
        errors.push(Error::too_long(path, DRIVER_NAME_MAX));
    }
    errors.extend(checks::invalid(wharf_machinery::names::dns1123_subdomain(&driver.to_lowercase()), path, driver));
    errors
}

/// Why a label of nodes should not be used any more.
pub fn old_label(key: &str) -> Option<&'static str> {
    OLD_LABELS.iter().find(|(label, _)| *label == key).map(|(_, why)| *why)
}

type Requirements<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

/// No two terms say the same. Upstream starts its list of terms seen with an empty one for each, so that a term which asks
/// for nothing is a duplicate as often as there are terms.
fn validate_topologies(topologies: &[TopologySelectorTerm], path: &Path) -> Errors {
    let mut errors = Vec::new();
    let mut seen: Vec<Requirements<'_>> = vec![Requirements::new(); topologies.len()];
    for (index, term) in topologies.iter().enumerate() {
        let path = path.index(index).child("matchLabelExpressions");
        let mut all = Requirements::new();
        for (index, requirement) in term.match_label_expressions.iter().flatten().enumerate() {
            let path = path.index(index);
            errors.extend(validate_requirement(requirement, &path));
            let values = requirement.values.iter().map(String::as_str).collect();
            if all.insert(&requirement.key, values).is_some() {
                errors.push(Error::duplicate(&path.child("key"), &requirement.key));
            }
        }
        errors.extend(seen.iter().filter(|other| **other == all).map(|_| Error::duplicate(&path, "")));
        seen.push(all);
    }
    errors
}

fn validate_requirement(requirement: &TopologySelectorLabelRequirement, path: &Path) -> Errors {
    let (mut errors, mut seen) = (Vec::new(), BTreeSet::new());
    let at = path.child("values");
    if requirement.values.is_empty() {
        errors.push(Error::required(&at, ""));
    }
    for (index, value) in requirement.values.iter().enumerate() {
        if !seen.insert(value) {
            errors.push(Error::duplicate(&at.index(index), value));
        }
    }
    errors.extend(checks::qualified_name(&requirement.key, &path.child("key")));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, check_starts, check_update, object};

    const CLASS: &str = "{metadata: {name: fast}, provisioner: example.com/Disks, parameters: {type: ssd}}";

    #[test]
    fn a_class_names_its_provisioner() {
        check(&StorageClasses, CLASS, &[]);
        check(
            &StorageClasses,
            "{provisioner: '', reclaimPolicy: Recycle, volumeBindingMode: Never, parameters: {'': x}}",
            &[
                "provisioner: Required value",
                "parameters: Invalid value: \"\": field can not be empty.",
                "reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\"",
                "volumeBindingMode: Unsupported value: \"Never\": supported values: \"Immediate\", \"WaitForFirstConsumer\"",
            ],
        );
        check_starts(&StorageClasses, "{provisioner: 'a b'}", &["provisioner: Invalid value: \"a b\": name part must"]);
    }

    #[test]
    fn terms_of_a_topology_differ() {
        let with = |terms: &str| CLASS.replace("parameters", &format!("allowedTopologies: [{terms}], parameters"));
        let term = "{matchLabelExpressions: [{key: zone, values: [a, b]}]}";
        check(&StorageClasses, &with(term), &[]);
        check(
            &StorageClasses,
            &with(&format!(
                "{term}, {term}, {{matchLabelExpressions: [{{key: zone, values: [a, a]}}, {{key: zone, values: []}}]}}"
            )),
            &[
                "allowedTopologies[1].matchLabelExpressions: Duplicate value: \"\"",
                "allowedTopologies[2].matchLabelExpressions[0].values[1]: Duplicate value: \"a\"",
                "allowedTopologies[2].matchLabelExpressions[1].values: Required value",
                "allowedTopologies[2].matchLabelExpressions[1].key: Duplicate value: \"zone\"",
            ],
        );
    }

    #[test]
    fn only_expansion_and_mounts_may_change() {
        check_update(
            &StorageClasses,
            CLASS,
            &CLASS.replace("parameters", "allowVolumeExpansion: true, parameters"),
            &[],
        );
        check_update(
            &StorageClasses,
            CLASS,
            "{provisioner: other, reclaimPolicy: Retain, volumeBindingMode: WaitForFirstConsumer}",
            &[
                "parameters: Forbidden: updates to parameters are forbidden.",
                "provisioner: Forbidden: updates to provisioner are forbidden.",
                "reclaimPolicy: Forbidden: updates to reclaimPolicy are forbidden.",
                "volumeBindingMode: Invalid value: \"WaitForFirstConsumer\": field is immutable",
            ],
        );
    }

    #[test]
    fn old_labels_are_told() {
        let class = "{provisioner: a, allowedTopologies: [{matchLabelExpressions: [{key: failure-domain.beta.kubernetes.io/zone, values: [a]}]}]}";
        assert_eq!(
            StorageClasses.warnings(&object(&StorageClasses, class), None),
            [
                "allowedTopologies[0].matchLabelExpressions[0].key: deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"
            ]
        );
    }

    #[test]
    fn the_default_class_is_marked() {
        check_cells(&StorageClasses, CLASS, "fast | example.com/Disks | Delete | Immediate | false | <unknown>");
        let default = CLASS
            .replace("name: fast", "name: fast, annotations: {storageclass.kubernetes.io/is-default-class: 'true'}");
        check_cells(
            &StorageClasses,
            &default,
            "fast (default) | example.com/Disks | Delete | Immediate | false | <unknown>",
        );
    }
}
