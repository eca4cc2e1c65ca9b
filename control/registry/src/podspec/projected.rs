//! Volumes that gather files from several sources. Source: `validateProjectedVolumeSource`.

use std::collections::BTreeSet;

use wharf_machinery::selector;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::{
    KeyToPath, ProjectedVolumeSource, ServiceAccountTokenProjection, VolumeProjection,
};

use super::volume::{downward_file, file_path, items, mode};
use crate::checks;

const TOKEN_MIN_S: i64 = 600;
const TOKEN_MAX_S: i64 = 1 << 32;

pub fn validate(source: &ProjectedVolumeSource, path: &Path) -> Errors {
    let mut errors = mode(source.default_mode, &path.child("defaultMode"));
    let mut taken = BTreeSet::new();
    for (index, projection) in source.sources.iter().flatten().enumerate() {
        let path = path.child("sources").index(index);
        errors.extend(validate_projection(projection, &path));
        for file in projected_paths(projection) {
            if !taken.insert(file.clone()) {
                errors.push(Error::invalid(&path, &file, "conflicting duplicate paths"));
            }
        }
    }
    errors
}

fn validate_projection(projection: &VolumeProjection, path: &Path) -> Errors {
    let fields = checks::json(projection);
    let sources: Vec<String> = fields.as_object().map_or_else(Vec::new, |map| map.keys().cloned().collect());
    match sources.as_slice() {
        [] => return vec![Error::required(path, "must specify a volume type")],
        [_] => {}
        [_, more @ ..] => {
            let why = "may not specify more than 1 volume type per source";
            return more.iter().map(|field| Error::forbidden(&path.child(field), why)).collect();
        }
    }
    let mut errors = Vec::new();
    if let Some(source) = &projection.secret {
        let path = path.child("secret");
        if source.name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        }
        errors.extend(items(source.items.as_deref().unwrap_or_default(), &path.child("items")));
    }
    if let Some(source) = &projection.config_map {
        let path = path.child("configMap");
        if source.name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        }
        errors.extend(items(source.items.as_deref().unwrap_or_default(), &path.child("items")));
    }
    for file in projection.downward_api.iter().flat_map(|source| source.items.iter().flatten()) {
        errors.extend(downward_file(file, &path.child("downwardAPI")));
    }
    if let Some(token) = &projection.service_account_token {
        errors.extend(service_account_token(token, &path.child("serviceAccountToken")));
    }
    if let Some(bundle) = &projection.cluster_trust_bundle {
        let path = path.child("clusterTrustBundle");
        errors.extend(file_path(&bundle.path, &path.child("path")));
        if let Some(labels) = &bundle.label_selector {
            errors.extend(selector::validate(labels, &path.child("labelSelector")));
        }
    }
    errors
}

fn projected_paths(projection: &VolumeProjection) -> Vec<String> {
    let of_keys =
        |items: &Option<Vec<KeyToPath>>| items.iter().flatten().map(|item| item.path.clone()).collect::<Vec<_>>();
    let mut paths = Vec::new();
    paths.extend(projection.secret.iter().flat_map(|source| of_keys(&source.items)));
    paths.extend(projection.config_map.iter().flat_map(|source| of_keys(&source.items)));
    let files = projection.downward_api.iter().flat_map(|source| source.items.iter().flatten());
    paths.extend(files.map(|file| file.path.clone()));
    paths.extend(projection.service_account_token.iter().map(|token| token.path.clone()));
    paths.extend(projection.cluster_trust_bundle.iter().map(|bundle| bundle.path.clone()));
    paths
}

fn service_account_token(token: &ServiceAccountTokenProjection, path: &Path) -> Errors {
    let mut errors = file_path(&token.path, &path.child("path"));
    if let Some(seconds) = token.expiration_seconds {
        let path = path.child("expirationSeconds");
        if seconds < TOKEN_MIN_S {
            errors.push(Error::invalid(&path, seconds, "may not specify a duration less than 10 minutes"));
        }
        if seconds > TOKEN_MAX_S {
            errors.push(Error::invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds"));
        }
    }
    errors
}
