//! PersistentVolumeClaims: what storage a pod asks for.
//!
//! Source: `ValidatePersistentVolumeClaimSpec` and `pkg/registry/core/persistentvolumeclaim`.

use std::cmp::Ordering;

use jiff::Timestamp;
use serde_json::Value;
use wharf_machinery::selector;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimStatus};
use wharf_types::k8s::apimachinery::pkg::api::resource::Quantity;

use super::{created, name};
use crate::checks;
use crate::podspec::defaults;
use crate::quantity::{self, Amount, SYNTAX};
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct PersistentVolumeClaims;

pub const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
pub const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];
const FIXED: &str =
    "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";

impl Strategy for PersistentVolumeClaims {
    type Object = PersistentVolumeClaim;

    fn default(&self, claim: &mut PersistentVolumeClaim) {
        defaults::text(&mut claim.status.get_or_insert_default().phase, "Pending");
        defaults::claim(claim.spec.get_or_insert_default());
    }

    fn prepare_for_create(&self, claim: &mut PersistentVolumeClaim) {
        claim.status = Some(PersistentVolumeClaimStatus { phase: Some("Pending".to_owned()), ..Default::default() });
    }

    fn prepare_for_update(&self, claim: &mut PersistentVolumeClaim, old: &PersistentVolumeClaim) {
        claim.status.clone_from(&old.status);
    }

    fn prepare_for_status_update(&self, claim: &mut PersistentVolumeClaim, old: &PersistentVolumeClaim) {
        claim.spec.clone_from(&old.spec);
    }

    fn validate(&self, claim: &PersistentVolumeClaim) -> Errors {
        claim.spec.as_ref().map_or_else(Vec::new, |spec| validate_spec(spec, &Path::new("spec")))
    }

    fn validate_update(&self, new: &PersistentVolumeClaim, old: &PersistentVolumeClaim) -> Errors {
        let path = Path::new("spec");
        let empty = PersistentVolumeClaimSpec::default();
        let (new_spec, old_spec) = (new.spec.as_ref().unwrap_or(&empty), old.spec.as_ref().unwrap_or(&empty));
        let mut errors = Vec::new();
        let mut munged = new_spec.clone();
        // The binder fills in a volume once.
        if old_spec.volume_name.as_deref().unwrap_or_default().is_empty() {
            munged.volume_name.clone_from(&old_spec.volume_name);
        }
        munged.volume_attributes_class_name.clone_from(&old_spec.volume_attributes_class_name);
        let bound = old.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Bound"));
        if bound {
            munged.resources.clone_from(&old_spec.resources);
            let (new_size, old_size) = (storage(new_spec), storage(old_spec));
            if let (Some(new_size), Some(old_size)) = (new_size, old_size)
                && quantity::compare(&new_size, &old_size) == Some(Ordering::Less)
            {
                let at = path.child("resources").child("requests").child("storage");
                errors.push(Error::forbidden(&at, "field can not be less than status.capacity"));
            }
        }
        if munged != *old_spec {
            errors.push(Error::forbidden(&path, FIXED));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new("Status", "string", "phase represents the current phase of PersistentVolumeClaim."),
            Column::new(
                "Volume",
                "string",
                "volumeName is the binding reference to the PersistentVolume backing this claim.",
            ),
            Column::new("Capacity", "string", "capacity represents the actual resources of the underlying volume."),
            Column::new(
                "Access Modes",
                "string",
                "accessModes contains the actual access modes the volume backing the PVC has. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#access-modes-1",
            ),
            Column::new("StorageClass", "string", "StorageClass of the pvc"),
            Column::new(
                "VolumeAttributesClass",
                "string",
                "volumeAttributesClassName may be used to set the VolumeAttributesClass used by this claim.",
            ),
            AGE,
            Column::wide(
                "VolumeMode",
                "string",
                "volumeMode defines what type of volume is required by the claim. Value of Filesystem is implied when not included in claim spec.",
            ),
        ];
        COLUMNS
    }

    fn cells(&self, claim: &PersistentVolumeClaim, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (claim.spec.clone().unwrap_or_default(), claim.status.clone().unwrap_or_default());
        let phase = match &claim.metadata.deletion_timestamp {
            Some(_) => "Terminating".to_owned(),
            None => status.phase.clone().unwrap_or_default(),
        };
        let bound = spec.volume_name.as_ref().is_some_and(|name| !name.is_empty());
        let capacity = status.capacity.as_ref().and_then(|capacity| capacity.get("storage")).filter(|_| bound);
        let modes = status.access_modes.as_deref().filter(|_| bound).unwrap_or_default();
        let unset = || "<unset>".to_owned();
        vec![
            name(&claim.metadata),
            phase.into(),
            spec.volume_name.clone().unwrap_or_default().into(),
            capacity.map_or(String::new(), |capacity| capacity.0.clone()).into(),
            short_modes(modes).into(),
            spec.storage_class_name.clone().unwrap_or_default().into(),
            spec.volume_attributes_class_name.clone().filter(|name| !name.is_empty()).unwrap_or_else(unset).into(),
            created(&claim.metadata, now),
            spec.volume_mode.clone().unwrap_or_else(unset).into(),
        ]
    }
}

fn storage(spec: &PersistentVolumeClaimSpec) -> Option<Quantity> {
    spec.resources.as_ref()?.requests.as_ref()?.get("storage").cloned()
}

/// `RWO,ROX,RWX,RWOP`
pub fn short_modes(modes: &[String]) -> String {
    let table =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let held = table.iter().filter(|(mode, _)| modes.iter().any(|held| held == mode));
    held.map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

pub fn validate_access_modes(modes: &[String], path: &Path) -> Errors {
    if modes.is_empty() {
        return vec![Error::required(path, "at least 1 access mode is required")];
    }
    let mut errors: Errors = modes.iter().flat_map(|mode| checks::one_of(mode, ACCESS_MODES, path)).collect();
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        let why = "may not use ReadWriteOncePod with other access modes";
        errors.push(Error::forbidden(path, why));
    }
    errors
}

/// Checks a claim's spec, of a claim or of an ephemeral volume's template.
pub fn validate_spec(spec: &PersistentVolumeClaimSpec, path: &Path) -> Errors {
    let mut errors =
        validate_access_modes(spec.access_modes.as_deref().unwrap_or_default(), &path.child("accessModes"));
    if let Some(labels) = &spec.selector {
        errors.extend(selector::validate(labels, &path.child("selector")));
    }
    let at = path.child("resources").key("storage");
    match storage(spec) {
        None => errors.push(Error::required(&at, "")),
        Some(size) => match quantity::amount(&size) {
            None => errors.push(Error::invalid(&at, &size.0, SYNTAX)),
            Some(amount) if amount <= Amount::default() => {
                errors.push(Error::invalid(&at, &size.0, "must be greater than zero"));
            }
            Some(_) => {}
        },
    }
    if let Some(class) = spec.storage_class_name.as_deref().filter(|class| !class.is_empty()) {
        errors.extend(checks::dns1123_subdomain(class, &path.child("storageClassName")));
    }
    if let Some(mode) = &spec.volume_mode {
        errors.extend(checks::one_of(mode, VOLUME_MODES, &path.child("volumeMode")));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, check_update};

    const CLAIM: &str =
        "{metadata: {name: c}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}";

    #[test]
    fn a_claim_asks_for_a_mode_and_a_size() {
        check(&PersistentVolumeClaims, CLAIM, &[]);
        check(
            &PersistentVolumeClaims,
            "{}",
            &[
                "spec.accessModes: Required value: at least 1 access mode is required",
                "spec.resources[storage]: Required value",
            ],
        );
        check(
            &PersistentVolumeClaims,
            &CLAIM.replace("ReadWriteOnce", "Own").replace("1Gi", "'0'"),
            &[
                "spec.accessModes: Unsupported value: \"Own\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
                "spec.resources[storage]: Invalid value: \"0\": must be greater than zero",
            ],
        );
    }

    #[test]
    fn only_a_bound_claim_grows() {
        check_update(
            &PersistentVolumeClaims,
            CLAIM,
            &CLAIM.replace("1Gi", "2Gi"),
            &[&format!("spec: Forbidden: {FIXED}")],
        );
        let bound = CLAIM.replace("spec: {", "status: {phase: Bound}, spec: {");
        check_update(&PersistentVolumeClaims, &bound, &CLAIM.replace("1Gi", "2Gi"), &[]);
        check_update(
            &PersistentVolumeClaims,
            &bound,
            &CLAIM.replace("1Gi", "1Mi"),
            &["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"],
        );
    }

    #[test]
    fn claims_show_what_they_got() {
        check_cells(&PersistentVolumeClaims, CLAIM, "c | Pending |  |  |  |  | <unset> | <unknown> | Filesystem");
        let bound = CLAIM.replace(
            "spec: {",
            "status: {phase: Bound, capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce]}, spec: {volumeName: v, ",
        );
        check_cells(&PersistentVolumeClaims, &bound, "c | Bound | v | 1Gi | RWO |  | <unset> | <unknown> | Filesystem");
    }
}
