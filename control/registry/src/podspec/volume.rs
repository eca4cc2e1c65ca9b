//! A pod's volumes. Source: `ValidateVolumes`, `validateVolumeSource`.
//!
//! Checked in depth are the sources that a pod of any cluster uses; of those that belong to one vendor's driver only that
//! there is no second source beside them.

use std::collections::BTreeSet;

use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::{
    CSIVolumeSource, DownwardAPIVolumeFile, EphemeralVolumeSource, HostPathVolumeSource, KeyToPath, NFSVolumeSource,
    Volume,
};

use super::container::Volumes;
use super::env::{FILE_FIELDS, validate_field, validate_resource};
use super::{Owner, projected};
use crate::checks;
use crate::kinds::storageclass::validate_driver_name;
use crate::quantity;

const MODE_MAX: i32 = 0o777;
const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// Checks all volumes, and returns those that containers may mount: the good ones.
pub fn validate_all<'a>(volumes: &'a [Volume], owner: Owner, path: &Path) -> (Volumes<'a>, Errors) {
    let (mut good, mut errors, mut names) = (Volumes::new(), Vec::new(), BTreeSet::new());
    for (index, volume) in volumes.iter().enumerate() {
        let path = path.index(index);
        let mut wrong = validate_source(volume, owner, &path);
        match volume.name.as_str() {
            "" => wrong.push(Error::required(&path.child("name"), "")),
            name => wrong.extend(checks::dns1123_label(name, &path.child("name"))),
        }
        if names.contains(&volume.name) {
            wrong.push(Error::duplicate(&path.child("name"), &volume.name));
        }
        if wrong.is_empty() {
            names.insert(&volume.name);
            good.insert(&volume.name, volume);
        }
        errors.extend(wrong);
    }
    (good, errors)
}

fn validate_source(volume: &Volume, owner: Owner, path: &Path) -> Errors {
    // Every source is a field of its own beside the name.
    let fields = checks::json(volume);
    let sources: Vec<&String> =
        fields.as_object().map_or_else(Vec::new, |map| map.keys().filter(|key| *key != "name").collect());
    let Some(_) = sources.first() else { return vec![Error::required(path, "must specify a volume type")] };
    if sources.len() > 1 {
        let extra = sources[1..].iter();
        return extra
            .map(|field| Error::forbidden(&path.child(field), "may not specify more than 1 volume type"))
            .collect();
    }
    validate_files(volume, path).or_else(|| validate_storage(volume, owner, path)).unwrap_or_default()
}

/// Sources whose files come from the API.
fn validate_files(volume: &Volume, path: &Path) -> Option<Errors> {
    let mut errors = Vec::new();
    if let Some(source) = &volume.secret {
        let path = path.child("secret");
        if source.secret_name.as_deref().unwrap_or_default().is_empty() {
            errors.push(Error::required(&path.child("secretName"), ""));
        }
        errors.extend(mode(source.default_mode, &path.child("defaultMode")));
        errors.extend(items(source.items.as_deref().unwrap_or_default(), &path.child("items")));
    } else if let Some(source) = &volume.config_map {
        let path = path.child("configMap");
        if source.name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        }
        errors.extend(mode(source.default_mode, &path.child("defaultMode")));
        errors.extend(items(source.items.as_deref().unwrap_or_default(), &path.child("items")));
    } else if let Some(source) = &volume.downward_api {
        let path = path.child("downwardAPI");
        errors.extend(mode(source.default_mode, &path.child("defaultMode")));
        for file in source.items.iter().flatten() {
            // Upstream leaves the index out.
            errors.extend(downward_file(file, &path));
        }
    } else if let Some(source) = &volume.projected {
        errors.extend(projected::validate(source, &path.child("projected")));
    } else {
        return None;
    }
    Some(errors)
}

/// Sources that keep bytes somewhere.
fn validate_storage(volume: &Volume, owner: Owner, path: &Path) -> Option<Errors> {
    let required =
        |path: Path, value: &str| if value.is_empty() { vec![Error::required(&path, "")] } else { Vec::new() };
    Some(if let Some(source) = &volume.empty_dir {
        let limit = source.size_limit.as_ref().map(quantity::amount);
        let bad = limit.is_some_and(|limit| limit.is_none_or(|limit| limit.is_negative()));
        let at = path.child("emptyDir").child("sizeLimit");
        if bad { vec![Error::forbidden(&at, "SizeLimit field must be a valid resource quantity")] } else { Vec::new() }
    } else if let Some(source) = &volume.host_path {
        host_path(source, &path.child("hostPath"))
    } else if let Some(source) = &volume.nfs {
        nfs(source, &path.child("nfs"))
    } else if let Some(source) = &volume.persistent_volume_claim {
        required(path.child("persistentVolumeClaim").child("claimName"), &source.claim_name)
    } else if let Some(source) = &volume.csi {
        csi(source, &path.child("csi"))
    } else if let Some(source) = &volume.ephemeral {
        ephemeral(source, &path.child("ephemeral"))
    } else if let Some(source) = &volume.image {
        let path = path.child("image");
        let reference = source.reference.as_deref().unwrap_or_default();
        let mut errors = Vec::new();
        // A template may leave it open, for a controller to fill in.
        if owner == Owner::Pod || !reference.is_empty() {
            errors.extend(super::container::image(reference, &path.child("reference")));
        }
        let policy = source.pull_policy.as_deref().unwrap_or_default();
        errors.extend(checks::required_one_of(policy, &["Always", "IfNotPresent", "Never"], &path.child("pullPolicy")));
        errors
    } else {
        return None;
    })
}

fn csi(source: &CSIVolumeSource, path: &Path) -> Errors {
    let mut errors = validate_driver_name(&source.driver, &path.child("driver"));
    if source.node_publish_secret_ref.as_ref().is_some_and(|secret| secret.name.is_empty()) {
        errors.push(Error::required(&path.child("nodePublishSecretRef").child("name"), ""));
    }
    errors
}

pub fn host_path(source: &HostPathVolumeSource, path: &Path) -> Errors {
    if source.path.is_empty() {
        return vec![Error::required(&path.child("path"), "")];
    }
    let mut errors = no_backsteps(&source.path, &path.child("path"));
    let kind = source.type_.as_deref().unwrap_or_default();
    errors.extend(checks::one_of(kind, HOST_PATH_TYPES, &path.child("type")));
    errors
}

pub fn nfs(source: &NFSVolumeSource, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if source.server.is_empty() {
        errors.push(Error::required(&path.child("server"), ""));
    }
    if source.path.is_empty() {
        errors.push(Error::required(&path.child("path"), ""));
    }
    if !source.path.starts_with('/') {
        errors.push(Error::invalid(&path.child("path"), &source.path, "must be an absolute path"));
    }
    errors
}

fn ephemeral(source: &EphemeralVolumeSource, path: &Path) -> Errors {
    let path = path.child("volumeClaimTemplate");
    match &source.volume_claim_template {
        None => vec![Error::required(&path, "")],
        Some(template) => crate::kinds::pvc::validate_spec(&template.spec, &path.child("spec")),
    }
}

pub fn downward_file(file: &DownwardAPIVolumeFile, path: &Path) -> Errors {
    let mut errors = file_path(&file.path, &path.child("path"));
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(field), other) => {
            errors.extend(validate_field(field, FILE_FIELDS, &path.child("fieldRef")));
            if other.is_some() {
                let why = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(Error::invalid(path, "resource", why));
            }
        }
        (None, Some(resource)) => errors.extend(validate_resource(resource, true, &path.child("resourceFieldRef"))),
        (None, None) => errors.push(Error::required(path, "one of fieldRef and resourceFieldRef is required")),
    }
    errors.extend(mode(file.mode, &path.child("mode")));
    errors
}

pub fn items(items: &[KeyToPath], path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let path = path.index(index);
        if item.key.is_empty() {
            errors.push(Error::required(&path.child("key"), ""));
        }
        errors.extend(file_path(&item.path, &path.child("path")));
        errors.extend(mode(item.mode, &path.child("mode")));
    }
    errors
}

pub fn mode(mode: Option<i32>, path: &Path) -> Errors {
    match mode {
        Some(mode) if !(0..=MODE_MAX).contains(&mode) => {
            vec![Error::invalid(path, mode, "must be a number between 0 and 0777 (octal), both inclusive")]
        }
        _ => Vec::new(),
    }
}

/// Where a file goes inside its volume. Names that start with two dots are the volume's own.
pub fn file_path(target: &str, path: &Path) -> Errors {
    if target.is_empty() {
        return vec![Error::required(path, "")];
    }
    let mut errors = relative_path(target, path);
    if target.starts_with("..") && !target.starts_with("../") && target != ".." {
        errors.push(Error::invalid(path, target, "must not start with '..'"));
    }
    errors
}

/// A path that stays below where it starts.
pub fn relative_path(target: &str, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if target.starts_with('/') {
        errors.push(Error::invalid(path, target, "must be a relative path"));
    }
    errors.extend(no_backsteps(target, path));
    errors
}

pub fn no_backsteps(target: &str, path: &Path) -> Errors {
    if target.split('/').any(|part| part == "..") {
        vec![Error::invalid(path, target, "must not contain '..'")]
    } else {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::podspec::defaults;
    use wharf_types::k8s::api::core::v1::PodSpec;

    #[track_caller]
    fn check(volumes: &str, expected: &[&str]) {
        let mut spec: PodSpec = serde_yaml::from_str(&format!("{{containers: [], volumes: {volumes}}}")).unwrap();
        defaults::pod(&mut spec);
        let (good, errors) = validate_all(spec.volumes.as_deref().unwrap(), Owner::Pod, &Path::new("v"));
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors, expected);
        assert_eq!(errors.is_empty(), good.len() == spec.volumes.unwrap().len());
    }

    #[test]
    fn a_volume_has_one_name_and_one_source() {
        check("[{name: a}, {name: b, configMap: {name: c, items: [{key: k, path: p/q}]}}]", &[]);
        check("[{name: a}, {name: a}]", &["v[1].name: Duplicate value: \"a\""]);
        check(
            "[{name: a, emptyDir: {}, hostPath: {path: /x}}]",
            &["v[0].hostPath: Forbidden: may not specify more than 1 volume type"],
        );
        check("[{name: a, secret: {}}]", &["v[0].secret.secretName: Required value"]);
    }

    #[test]
    fn files_stay_inside_their_volume() {
        check(
            "[{name: a, configMap: {name: c, defaultMode: 512, items: [{key: k, path: /p}, {key: '', path: a/../b}]}}]",
            &[
                "v[0].configMap.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
                "v[0].configMap.items[0].path: Invalid value: \"/p\": must be a relative path",
                "v[0].configMap.items[1].key: Required value",
                "v[0].configMap.items[1].path: Invalid value: \"a/../b\": must not contain '..'",
            ],
        );
        check(
            "[{name: a, downwardAPI: {items: [{path: x}]}}]",
            &["v[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required"],
        );
        check(
            "[{name: a, hostPath: {path: /a/../b, type: Odd}}]",
            &[
                "v[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
                "v[0].hostPath.type: Unsupported value: \"Odd\": supported values: \"\", \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\"",
            ],
        );
    }

    #[test]
    fn projections_do_not_overlap() {
        check(
            "[{name: a, projected: {sources: [{serviceAccountToken: {path: token}}, {downwardAPI: {items: [{path: token, fieldRef: {fieldPath: metadata.name}}]}}]}}]",
            &["v[0].projected.sources[1]: Invalid value: \"token\": conflicting duplicate paths"],
        );
        check(
            "[{name: a, projected: {sources: [{serviceAccountToken: {path: t, expirationSeconds: 5}}]}}]",
            &[
                "v[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes",
            ],
        );
    }
}
