//! PersistentVolumes: storage that there is.
//!
//! Source: `ValidatePersistentVolume` and `pkg/registry/core/persistentvolume`. Of a source that belongs to one vendor's
//! driver only its number is checked.

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::{PersistentVolume, PersistentVolumeSpec, PersistentVolumeStatus};

use super::pvc::{VOLUME_MODES, short_modes, validate_access_modes};
use super::{created, name};
use crate::checks;
use crate::podspec::{defaults, scheduling};
use crate::quantity::{self, Amount, SYNTAX};
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct PersistentVolumes;

const RECLAIM_POLICIES: &[&str] = &["Delete", "Recycle", "Retain"];
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
        volume.spec.as_ref().map_or_else(Vec::new, |spec| validate_spec(spec, &Path::new("spec")))
    }

    fn validate_update(&self, new: &PersistentVolume, old: &PersistentVolume) -> Errors {
        let empty = PersistentVolumeSpec::default();
        let (new, old) = (new.spec.as_ref().unwrap_or(&empty), old.spec.as_ref().unwrap_or(&empty));
        let path = Path::new("spec");
        let mut errors = Vec::new();
        if sources(new) != sources(old) {
            let path = path.child("persistentvolumesource");
            errors.push(Error::forbidden(&path, "spec.persistentvolumesource is immutable after creation"));
        }
        errors.extend(checks::immutable(&new.volume_mode, &old.volume_mode, &path.child("volumeMode")));
        if old.node_affinity.is_some() {
            errors.extend(checks::immutable(&new.node_affinity, &old.node_affinity, &path.child("nodeAffinity")));
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

/// The source, or sources, as the API prints them.
fn sources(spec: &PersistentVolumeSpec) -> serde_json::Map<String, Value> {
    let mut fields = checks::json(spec).as_object().cloned().unwrap_or_default();
    fields.retain(|field, _| !PLAIN_FIELDS.contains(&field.as_str()));
    fields
}

fn validate_spec(spec: &PersistentVolumeSpec, path: &Path) -> Errors {
    let mut errors =
        validate_access_modes(spec.access_modes.as_deref().unwrap_or_default(), &path.child("accessModes"));
    let at = path.child("capacity");
    let capacity = spec.capacity.clone().unwrap_or_default();
    if capacity.is_empty() {
        errors.push(Error::required(&at, ""));
    } else if !capacity.contains_key("storage") || capacity.len() > 1 {
        errors.push(Error::not_supported(&at, checks::json(&capacity), &["storage"]));
    }
    for (resource, size) in &capacity {
        match quantity::amount(size) {
            None => errors.push(Error::invalid(&at.key(resource), &size.0, SYNTAX)),
            Some(amount) if amount <= Amount::default() => {
                errors.push(Error::invalid(&at.key(resource), &size.0, "must be greater than zero"));
            }
            Some(_) => {}
        }
    }
    let policy = spec.persistent_volume_reclaim_policy.as_deref().unwrap_or_default();
    errors.extend(checks::one_of(policy, RECLAIM_POLICIES, &path.child("persistentVolumeReclaimPolicy")));
    if let Some(affinity) = &spec.node_affinity {
        let path = path.child("nodeAffinity").child("required");
        match &affinity.required {
            None => errors.push(Error::required(&path, "must specify required node constraints")),
            Some(required) => errors.extend(scheduling::node_selector(required, &path)),
        }
    }
    let sources = sources(spec);
    for field in sources.keys().skip(1) {
        errors.push(Error::forbidden(&path.child(field), "may not specify more than 1 volume type"));
    }
    if sources.is_empty() {
        errors.push(Error::required(path, "must specify a volume type"));
    }
    errors.extend(validate_source(spec, path));
    if let Some(class) = spec.storage_class_name.as_deref().filter(|class| !class.is_empty()) {
        errors.extend(checks::dns1123_subdomain(class, &path.child("storageClassName")));
    }
    if let Some(mode) = &spec.volume_mode {
        errors.extend(checks::one_of(mode, VOLUME_MODES, &path.child("volumeMode")));
    }
    errors
}

/// The sources that any cluster may have.
fn validate_source(spec: &PersistentVolumeSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let mut need = |path: Path, value: &str| {
        if value.is_empty() {
            errors.push(Error::required(&path, ""));
        }
    };
    if let Some(source) = &spec.host_path {
        need(path.child("hostPath").child("path"), &source.path);
    }
    if let Some(source) = &spec.local {
        need(path.child("local").child("path"), &source.path);
    }
    if let Some(source) = &spec.nfs {
        need(path.child("nfs").child("server"), &source.server);
        need(path.child("nfs").child("path"), &source.path);
    }
    if let Some(source) = &spec.csi {
        need(path.child("csi").child("driver"), &source.driver);
        need(path.child("csi").child("volumeHandle"), &source.volume_handle);
    }
    if spec.local.is_some() && spec.node_affinity.is_none() {
        errors.push(Error::required(&path.child("nodeAffinity"), "Local volume requires node affinity"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, check_update};

    const VOLUME: &str =
        "{metadata: {name: v}, spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}, hostPath: {path: /x}}}";

    #[test]
    fn a_volume_has_a_size_and_one_source() {
        check(&PersistentVolumes, VOLUME, &[]);
        check(
            &PersistentVolumes,
            "{}",
            &[
                "spec.accessModes: Required value: at least 1 access mode is required",
                "spec.capacity: Required value",
                "spec: Required value: must specify a volume type",
            ],
        );
        check(
            &PersistentVolumes,
            &VOLUME.replace("hostPath", "nfs: {server: s, path: /y}, hostPath"),
            &["spec.nfs: Forbidden: may not specify more than 1 volume type"],
        );
        check(
            &PersistentVolumes,
            &VOLUME.replace("hostPath", "local"),
            &["spec.nodeAffinity: Required value: Local volume requires node affinity"],
        );
    }

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
    fn volumes_show_their_claim() {
        check_cells(
            &PersistentVolumes,
            &VOLUME.replace("hostPath", "claimRef: {namespace: n, name: c}, storageClassName: fast, hostPath"),
            "v | 1Gi | RWO | Retain | Pending | n/c | fast | <unset> |  | <unknown> | Filesystem",
        );
    }
}
