//! What a volume's spec must hold, of a PersistentVolume and inline in a VolumeAttachment.
//!
//! Source: `ValidatePersistentVolumeSpec` in `pkg/apis/core/validation`.

use std::collections::BTreeMap;

use serde_json::Value;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::{CSIPersistentVolumeSource, PersistentVolumeSpec, SecretReference};
use wharf_types::k8s::apimachinery::pkg::api::resource::Quantity;

use super::super::pvc::{ACCESS_MODES, VOLUME_MODES};
use super::super::storageclass::validate_driver_name;
use super::sources;
use crate::checks;
use crate::podspec::{scheduling, volume};
use crate::quantity::{self, Amount, SYNTAX};

const RECLAIM_POLICIES: &[&str] = &["Delete", "Recycle", "Retain"];
const NOT_INLINE: &str = "may not be specified in the context of inline volumes";

/// The spec of a PersistentVolume.
pub fn validate_spec(spec: &PersistentVolumeSpec, path: &Path) -> Errors {
    let mut errors = validate_modes(spec, path);
    errors.extend(validate_capacity(spec.capacity.as_ref(), &path.child("capacity")));
    let policy = spec.persistent_volume_reclaim_policy.as_deref().unwrap_or_default();
    if !policy.is_empty() {
        errors.extend(checks::one_of(policy, RECLAIM_POLICIES, &path.child("persistentVolumeReclaimPolicy")));
    }
    if let Some(affinity) = &spec.node_affinity {
        let path = path.child("nodeAffinity").child("required");
        match &affinity.required {
            None => errors.push(Error::required(&path, "must specify required node constraints")),
            Some(required) => errors.extend(scheduling::node_selector(required, &path)),
        }
    }
    errors.extend(validate_sources(spec, path));
    if policy == "Recycle" && spec.host_path.as_ref().is_some_and(|host| is_root(&host.path)) {
        let why = "may not be 'recycle' for a hostPath mount of '/'";
        errors.push(Error::forbidden(&path.child("persistentVolumeReclaimPolicy"), why));
    }
    if let Some(class) = spec.storage_class_name.as_deref().filter(|class| !class.is_empty()) {
        errors.extend(checks::dns1123_subdomain(class, &path.child("storageClassName")));
    }
    if let Some(mode) = &spec.volume_mode {
        errors.extend(checks::one_of(mode, VOLUME_MODES, &path.child("volumeMode")));
    }
    errors.extend(validate_attributes_class(spec, path));
    errors
}

/// The spec of a volume that has no object of its own: a CSI volume, and nothing that only an object can have.
pub fn validate_inline(spec: &PersistentVolumeSpec, path: &Path) -> Errors {
    let forbidden = |errors: &mut Errors, field: &str, given: bool| {
        if given {
            errors.push(Error::forbidden(&path.child(field), NOT_INLINE));
        }
    };
    let mut errors = Vec::new();
    forbidden(&mut errors, "claimRef", spec.claim_ref.is_some());
    forbidden(&mut errors, "capacity", spec.capacity.as_ref().is_some_and(|capacity| !capacity.is_empty()));
    if spec.csi.is_none() {
        errors.push(Error::required(&path.child("csi"), "has to be specified in the context of inline volumes"));
    }
    errors.extend(validate_modes(spec, path));
    let policy = spec.persistent_volume_reclaim_policy.as_deref().unwrap_or_default();
    if !matches!(policy, "" | "Retain") {
        let why = "may only be Retain in the context of inline volumes";
        errors.push(Error::forbidden(&path.child("persistentVolumeReclaimPolicy"), why));
    }
    forbidden(&mut errors, "nodeAffinity", spec.node_affinity.is_some());
    errors.extend(validate_sources(spec, path));
    forbidden(&mut errors, "storageClassName", spec.storage_class_name.as_ref().is_some_and(|name| !name.is_empty()));
    if spec.volume_mode.as_ref().is_some_and(|mode| mode != "Filesystem") {
        let why = "may not specify volumeMode other than Filesystem in the context of inline volumes";
        errors.push(Error::forbidden(&path.child("volumeMode"), why));
    }
    errors.extend(validate_attributes_class(spec, path));
    errors
}

fn validate_modes(spec: &PersistentVolumeSpec, path: &Path) -> Errors {
    let path = path.child("accessModes");
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    if modes.is_empty() {
        return vec![Error::required(&path, "")];
    }
    let mut errors: Errors = modes.iter().flat_map(|mode| checks::one_of(mode, ACCESS_MODES, &path)).collect();
    let alone = |mode: &&String| *mode == "ReadWriteOncePod";
    let shared = modes.iter().any(|mode| ACCESS_MODES.contains(&mode.as_str()) && !alone(&mode));
    if shared && modes.iter().any(|mode| alone(&mode)) {
        errors.push(Error::forbidden(&path, "may not use ReadWriteOncePod with other access modes"));
    }
    errors
}

fn validate_capacity(capacity: Option<&BTreeMap<String, Quantity>>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let empty = BTreeMap::new();
    let amounts = capacity.unwrap_or(&empty);
    if amounts.is_empty() {
        errors.push(Error::required(path, ""));
    }
    if !amounts.contains_key("storage") || amounts.len() > 1 {
        errors.push(Error::not_supported(path, capacity.map_or(Value::Null, checks::json), &["storage"]));
    }
    for (resource, size) in amounts {
        match quantity::amount(size) {
            None => errors.push(Error::invalid(&path.key(resource), &size.0, SYNTAX)),
            Some(amount) if amount <= Amount::default() => {
                errors.push(Error::invalid(&path.key(resource), &size.0, "must be greater than zero"));
            }
            Some(_) => {}
        }
    }
    errors
}

/// There is one source; of those that any cluster may have, what is in it.
fn validate_sources(spec: &PersistentVolumeSpec, path: &Path) -> Errors {
    let sources = sources(spec);
    let Some(first) = sources.keys().next() else {
        return vec![Error::required(path, "must specify a volume type")];
    };
    let mut errors = Vec::new();
    match first.as_str() {
        "hostPath" => {
            errors.extend(spec.host_path.iter().flat_map(|it| volume::host_path(it, &path.child("hostPath"))))
        }
        "nfs" => errors.extend(spec.nfs.iter().flat_map(|it| volume::nfs(it, &path.child("nfs")))),
        "csi" => errors.extend(spec.csi.iter().flat_map(|it| validate_csi(it, &path.child("csi")))),
        "local" => {
            let at = path.child("local").child("path");
            match spec.local.as_ref().map(|local| local.path.as_str()).unwrap_or_default() {
                "" => errors.push(Error::required(&at, "")),
                local => errors.extend(volume::no_backsteps(local, &at)),
            }
            if spec.node_affinity.is_none() {
                errors.push(Error::required(&path.child("nodeAffinity"), "Local volume requires node affinity"));
            }
        }
        _ => {}
    }
    for field in sources.keys().skip(1) {
        errors.push(Error::forbidden(&path.child(field), "may not specify more than 1 volume type"));
    }
    errors
}

fn validate_csi(source: &CSIPersistentVolumeSource, path: &Path) -> Errors {
    let mut errors = validate_driver_name(&source.driver, &path.child("driver"));
    if source.volume_handle.is_empty() {
        errors.push(Error::required(&path.child("volumeHandle"), ""));
    }
    for (secret, field) in [
        (&source.controller_publish_secret_ref, "controllerPublishSecretRef"),
        (&source.controller_expand_secret_ref, "controllerExpandSecretRef"),
        (&source.node_publish_secret_ref, "nodePublishSecretRef"),
        (&source.node_expand_secret_ref, "nodeExpandSecretRef"),
    ] {
        errors.extend(secret.iter().flat_map(|secret| validate_secret(secret, &path.child(field))));
    }
    errors
}

fn validate_secret(secret: &SecretReference, path: &Path) -> Errors {
    let mut errors = Vec::new();
    match secret.name.as_deref().unwrap_or_default() {
        "" => errors.push(Error::required(&path.child("name"), "")),
        name => errors.extend(checks::dns1123_subdomain(name, &path.child("name"))),
    }
    match secret.namespace.as_deref().unwrap_or_default() {
        "" => errors.push(Error::required(&path.child("namespace"), "")),
        namespace => errors.extend(checks::dns1123_label(namespace, &path.child("namespace"))),
    }
    errors
}

fn validate_attributes_class(spec: &PersistentVolumeSpec, path: &Path) -> Errors {
    let Some(class) = &spec.volume_attributes_class_name else { return Vec::new() };
    let at = path.child("volumeAttributesClassName");
    let mut errors = match class.as_str() {
        "" => vec![Error::required(&at, "an empty string is disallowed")],
        class => checks::dns1123_subdomain(class, &at),
    };
    if spec.csi.is_none() {
        let why = "has to be specified when using volumeAttributesClassName";
        errors.push(Error::required(&path.child("csi"), why));
    }
    errors
}

/// `/`, `//`, `/a/..`
fn is_root(path: &str) -> bool {
    let mut depth = 0_usize;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => depth = depth.saturating_sub(1),
            _ => depth += 1,
        }
    }
    path.starts_with('/') && depth == 0
}

#[cfg(test)]
mod tests {
    use super::super::PersistentVolumes;
    use crate::testing::{check, check_starts};

    const VOLUME: &str =
        "{metadata: {name: v}, spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}, hostPath: {path: /x}}}";

    #[test]
    fn a_volume_has_a_size_and_one_source() {
        check(&PersistentVolumes, VOLUME, &[]);
        check(
            &PersistentVolumes,
            "{}",
            &[
                "spec.accessModes: Required value",
                "spec.capacity: Required value",
                "spec.capacity: Unsupported value: null: supported values: \"storage\"",
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
        check(
            &PersistentVolumes,
            &VOLUME.replace("hostPath: {path: /x}", "persistentVolumeReclaimPolicy: Recycle, hostPath: {path: //}"),
            &["spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'"],
        );
    }

    #[test]
    fn a_csi_volume_names_driver_handle_and_secrets() {
        let csi = |csi: &str| VOLUME.replace("hostPath: {path: /x}", &format!("csi: {csi}"));
        check_starts(
            &PersistentVolumes,
            &csi("{driver: '', volumeHandle: '', nodePublishSecretRef: {name: s}}"),
            &[
                "spec.csi.driver: Required value",
                "spec.csi.driver: Invalid value: \"\"",
                "spec.csi.volumeHandle: Required value",
                "spec.csi.nodePublishSecretRef.namespace: Required value",
            ],
        );
    }

    #[test]
    fn a_class_of_attributes_is_for_csi() {
        check(
            &PersistentVolumes,
            &VOLUME.replace("hostPath", "volumeAttributesClassName: '', hostPath"),
            &[
                "spec.volumeAttributesClassName: Required value: an empty string is disallowed",
                "spec.csi: Required value: has to be specified when using volumeAttributesClassName",
            ],
        );
    }
}
