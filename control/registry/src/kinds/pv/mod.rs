//! PersistentVolumes: storage that there is.
//!
//! Source: `ValidatePersistentVolume` and `pkg/registry/core/persistentvolume`. Of a source that belongs to one vendor's
//! driver only its number is checked.

mod validation;

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::{PersistentVolume, PersistentVolumeSpec, PersistentVolumeStatus};

use super::pvc::short_modes;
use super::{created, name};
use crate::checks;
use crate::podspec::defaults;
use crate::strategy::{AGE, Column, NAME, Strategy};

pub use validation::validate_inline;

#[derive(Debug)]
pub struct PersistentVolumes;

/// Fields of the spec that are no source.
const PLAIN_FIELDS: &[&str] = &[
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

impl Strategy for PersistentVolumes {
    type Object = PersistentVolume;

    fn default(&self, volume: &mut PersistentVolume) {
        defaults::text(&mut volume.status.get_or_insert_default().phase, "Pending");
        let spec = volume.spec.get_or_insert_default();
        defaults::text(&mut spec.persistent_volume_reclaim_policy, "Retain");
        spec.volume_mode.get_or_insert_with(|| "Filesystem".to_owned());
        if let Some(path) = &mut spec.host_path {
            path.type_.get_or_insert_default();
        }
    }

    fn prepare_for_create(&self, volume: &mut PersistentVolume) {
        volume.status = Some(PersistentVolumeStatus { phase: Some("Pending".to_owned()), ..Default::default() });
    }

    fn prepare_for_update(&self, volume: &mut PersistentVolume, old: &PersistentVolume) {
        volume.status.clone_from(&old.status);
    }

    fn prepare_for_status_update(&self, volume: &mut PersistentVolume, old: &PersistentVolume) {
        volume.spec.clone_from(&old.spec);
    }

    fn validate(&self, volume: &PersistentVolume) -> Errors {
        volume.spec.as_ref().map_or_else(Vec::new, |spec| validation::validate_spec(spec, &Path::new("spec")))
    }

    fn validate_update(&self, new: &PersistentVolume, old: &PersistentVolume) -> Errors {
        let empty = PersistentVolumeSpec::default();
        let (new, old) = (new.spec.as_ref().unwrap_or(&empty), old.spec.as_ref().unwrap_or(&empty));
        let path = Path::new("spec");
        let mut errors = Vec::new();
        if sources(&without_new_secret(new, old)) != sources(old) {
            let path = path.child("persistentvolumesource");
            errors.push(Error::forbidden(&path, "spec.persistentvolumesource is immutable after creation"));
        }
        // These two are named without `spec` upstream.
        errors.extend(checks::immutable(&new.volume_mode, &old.volume_mode, &Path::new("volumeMode")));
        if old.node_affinity.is_some() {
            errors.extend(checks::immutable(&new.node_affinity, &old.node_affinity, &Path::new("nodeAffinity")));
        }
        if old.volume_attributes_class_name.is_some() && new.volume_attributes_class_name.is_none() {
            let why = "update from non-nil value to nil is forbidden";
            errors.push(Error::forbidden(&path.child("volumeAttributesClassName"), why));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new(
                "Capacity",
                "string",
                "capacity is the description of the persistent volume's resources and capacity. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#capacity",
            ),
            Column::new(
                "Access Modes",
                "string",
                "accessModes contains all ways the volume can be mounted. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#access-modes",
            ),
            Column::new(
                "Reclaim Policy",
                "string",
                "persistentVolumeReclaimPolicy defines what happens to a persistent volume when released from its claim. Valid options are Retain (default for manually created PersistentVolumes), Delete (default for dynamically provisioned PersistentVolumes), and Recycle (deprecated). Recycle must be supported by the volume plugin underlying this PersistentVolume. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#reclaiming",
            ),
            Column::new(
                "Status",
                "string",
                "phase indicates if a volume is available, bound to a claim, or released by a claim. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#phase",
            ),
            Column::new(
                "Claim",
                "string",
                "claimRef is part of a bi-directional binding between PersistentVolume and PersistentVolumeClaim. Expected to be non-nil when bound. claim.VolumeName is the authoritative bind between PV and PVC. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#binding",
            ),
            Column::new("StorageClass", "string", "StorageClass of the pv"),
            Column::new(
                "VolumeAttributesClass",
                "string",
                "Name of VolumeAttributesClass to which this persistent volume belongs.",
            ),
            Column::new(
                "Reason",
                "string",
                "reason is a brief CamelCase string that describes any failure and is meant for machine parsing and tidy display in the CLI.",
            ),
            AGE,
            Column::wide(
                "VolumeMode",
                "string",
                "volumeMode defines if a volume is intended to be used with a formatted filesystem or to remain in raw block state. Value of Filesystem is implied when not included in spec.",
            ),
        ];
        COLUMNS
    }

    fn cells(&self, volume: &PersistentVolume, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (volume.spec.clone().unwrap_or_default(), volume.status.clone().unwrap_or_default());
        let phase = match &volume.metadata.deletion_timestamp {
            Some(_) => "Terminating".to_owned(),
            None => status.phase.unwrap_or_default(),
        };
        let claim = spec
            .claim_ref
            .map(|claim| format!("{}/{}", claim.namespace.unwrap_or_default(), claim.name.unwrap_or_default()));
        let capacity = spec.capacity.as_ref().and_then(|capacity| capacity.get("storage"));
        let unset = || "<unset>".to_owned();
        vec![
            name(&volume.metadata),
            capacity.map_or(String::new(), |capacity| capacity.0.clone()).into(),
            short_modes(spec.access_modes.as_deref().unwrap_or_default()).into(),
            spec.persistent_volume_reclaim_policy.unwrap_or_default().into(),
            phase.into(),
            claim.unwrap_or_default().into(),
            spec.storage_class_name.unwrap_or_default().into(),
            spec.volume_attributes_class_name.filter(|name| !name.is_empty()).unwrap_or_else(unset).into(),
            status.reason.unwrap_or_default().into(),
            created(&volume.metadata, now),
            spec.volume_mode.unwrap_or_else(unset).into(),
        ]
    }
}

/// The secret for growing a volume may be named later than the volume is made.
fn without_new_secret(new: &PersistentVolumeSpec, old: &PersistentVolumeSpec) -> PersistentVolumeSpec {
    let mut spec = new.clone();
    if let (Some(csi), Some(held)) = (&mut spec.csi, &old.csi)
        && held.controller_expand_secret_ref.is_none()
    {
        csi.controller_expand_secret_ref = None;
    }
    spec
}

/// The source, or sources, as the API prints them.
fn sources(spec: &PersistentVolumeSpec) -> serde_json::Map<String, Value> {
    let mut fields = checks::json(spec).as_object().cloned().unwrap_or_default();
    fields.retain(|field, _| !PLAIN_FIELDS.contains(&field.as_str()));
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_cells, check_update};

    const VOLUME: &str =
        "{metadata: {name: v}, spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}, hostPath: {path: /x}}}";

    #[test]
    fn the_source_stays() {
        check_update(
            &PersistentVolumes,
            VOLUME,
            &VOLUME.replace("/x", "/y"),
            &["spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"],
        );
    }

    #[test]
    fn the_secret_for_growth_comes_later() {
        let csi =
            |more: &str| VOLUME.replace("hostPath: {path: /x}", &format!("csi: {{driver: a, volumeHandle: b{more}}}"));
        let growing = csi(", controllerExpandSecretRef: {name: s, namespace: n}");
        check_update(&PersistentVolumes, &csi(""), &growing, &[]);
        let why = "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation";
        check_update(&PersistentVolumes, &growing, &csi(""), &[why]);
    }

    #[test]
    fn a_class_of_attributes_is_not_taken_away() {
        let with = VOLUME.replace("hostPath", "volumeAttributesClassName: gold, hostPath");
        let why = "spec.volumeAttributesClassName: Forbidden: update from non-nil value to nil is forbidden";
        check_update(&PersistentVolumes, &with, VOLUME, &[why]);
        check_update(&PersistentVolumes, VOLUME, &with, &[]);
    }

    #[test]
    fn volumes_show_their_claim() {
        check_cells(
            &PersistentVolumes,
            &VOLUME.replace("hostPath", "claimRef: {namespace: n, name: c}, storageClassName: fast, hostPath"),
            "v | 1Gi | RWO | Retain | Pending | n/c | fast | <unset> |  | <unknown> | Filesystem",
        );
    }
}
