//! Where a container sees the pod's volumes. Source: `ValidateVolumeMounts`, `ValidateVolumeDevices`.

use std::collections::BTreeSet;

use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::{Container, VolumeMount};

use super::container::Volumes;
use super::volume::relative_path;
use crate::checks;

const PROPAGATIONS: &[&str] = &["Bidirectional", "HostToContainer", "None"];
const RECURSIVE_READ_ONLY: &[&str] = &["Disabled", "Enabled", "IfPossible"];

pub fn validate(container: &Container, volumes: &Volumes, path: &Path) -> Errors {
    let (mut errors, mut points) = (Vec::new(), BTreeSet::new());
    let devices = container.volume_devices.as_deref().unwrap_or_default();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let at = path.index(index);
        if mount.name.is_empty() {
            errors.push(Error::required(&at.child("name"), ""));
        }
        if !volumes.contains_key(mount.name.as_str()) {
            errors.push(Error::not_found(&at.child("name"), &mount.name));
        }
        if mount.mount_path.is_empty() {
            errors.push(Error::required(&at.child("mountPath"), ""));
        }
        if !points.insert(&mount.mount_path) {
            errors.push(Error::invalid(&at.child("mountPath"), &mount.mount_path, "must be unique"));
        }
        if devices.iter().any(|device| device.name == mount.name) {
            errors.push(Error::invalid(&at.child("name"), &mount.name, "must not already exist in volumeDevices"));
        }
        if devices.iter().any(|device| device.device_path == mount.mount_path) {
            let why = "must not already exist as a path in volumeDevices";
            errors.push(Error::invalid(&at.child("mountPath"), &mount.mount_path, why));
        }
        // Upstream's paths for these leave the index out.
        errors.extend(sub_paths(mount, path, &at));
        errors.extend(propagation(mount, container, path));
        if let Some(policy) = &mount.recursive_read_only {
            errors.extend(checks::one_of(policy, RECURSIVE_READ_ONLY, &at.child("recursiveReadOnly")));
            if policy != "Disabled" && mount.read_only != Some(true) {
                errors.push(Error::forbidden(
                    &at.child("recursiveReadOnly"),
                    "may only be specified when readOnly is true",
                ));
            }
        }
    }
    errors
}

fn sub_paths(mount: &VolumeMount, path: &Path, at: &Path) -> Errors {
    let filled = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
    let (plain, expanded) = (filled(&mount.sub_path), filled(&mount.sub_path_expr));
    let mut errors = Vec::new();
    if let Some(sub_path) = &plain {
        errors.extend(relative_path(sub_path, &path.child("subPath")));
    }
    if let Some(sub_path) = &expanded {
        if plain.is_some() {
            let why = "subPathExpr and subPath are mutually exclusive";
            errors.push(Error::invalid(&at.child("subPathExpr"), sub_path, why));
        }
        errors.extend(relative_path(sub_path, &path.child("subPathExpr")));
    }
    errors
}

fn propagation(mount: &VolumeMount, container: &Container, path: &Path) -> Errors {
    let Some(mode) = &mount.mount_propagation else { return Vec::new() };
    let path = path.child("mountPropagation");
    let privileged = container.security_context.as_ref().is_some_and(|context| context.privileged == Some(true));
    if mode == "Bidirectional" && !privileged {
        let why = "Bidirectional mount propagation is available only to privileged containers";
        return vec![Error::forbidden(&path, why)];
    }
    checks::one_of(mode, PROPAGATIONS, &path)
}

pub fn validate_devices(container: &Container, volumes: &Volumes, path: &Path) -> Errors {
    let (mut errors, mut names, mut paths) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for (index, device) in container.volume_devices.iter().flatten().enumerate() {
        let at = path.index(index);
        let claimed = volumes
            .get(device.name.as_str())
            .map(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some());
        if device.name.is_empty() {
            errors.push(Error::required(&at.child("name"), ""));
        } else if !names.insert(&device.name) {
            errors.push(Error::invalid(&at.child("name"), &device.name, "must be unique"));
        }
        match claimed {
            None => errors.push(Error::not_found(&at.child("name"), &device.name)),
            Some(false) => {
                let why = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.push(Error::invalid(&at.child("name"), &device.name, why));
            }
            Some(true) => {}
        }
        if device.device_path.is_empty() {
            errors.push(Error::required(&at.child("devicePath"), ""));
        } else if !paths.insert(&device.device_path) {
            errors.push(Error::invalid(&at.child("devicePath"), &device.device_path, "must be unique"));
        } else if device.device_path.split('/').any(|part| part == "..") {
            errors.push(Error::invalid(
                &at.child("devicePath"),
                &device.device_path,
                "can not contain backsteps ('..')",
            ));
        }
    }
    errors
}
