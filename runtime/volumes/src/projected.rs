//! `projected`: several sources in one directory. A later source wins where two name the same path.
//!
//! A token's file is the pod's user's alone, where the pod has one user or a group (which then may read it).
//! Absent on purpose: clusterTrustBundle and podCertificate.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Pod, ProjectedVolumeSource, VolumeProjection};

use crate::tokens::Wanted;
use crate::{
    DEFAULT_FILE_MODE, Error, ObjectKind, ObjectRef, Setup, Volume, config_map, downward_api, ownership, secret, writer,
};

const PRIVATE_MODE: i32 = 0o600;

pub struct Projected {
    dir: PathBuf,
    namespace: String,
    sources: Vec<VolumeProjection>,
    default_mode: i32,
}

impl Projected {
    pub fn new(dir: PathBuf, namespace: &str, source: &ProjectedVolumeSource) -> Result<Self, Error> {
        let sources = source.sources.clone().unwrap_or_default();
        for source in &sources {
            if let Some(kind) = unsupported(source) {
                return Err(Error::Unsupported(kind));
            }
        }
        let default_mode = source.default_mode.unwrap_or(DEFAULT_FILE_MODE);
        Ok(Self { dir, namespace: namespace.to_owned(), sources, default_mode })
    }
}

fn unsupported(source: &VolumeProjection) -> Option<&'static str> {
    match source {
        VolumeProjection { cluster_trust_bundle: Some(_), .. } => Some("projected clusterTrustBundle"),
        VolumeProjection { pod_certificate: Some(_), .. } => Some("projected podCertificate"),
        _ => None,
    }
}

/// With a user or a group it is private, whatever the volume's mode; the group's right to read comes later.
fn token_file(pod: &Pod, token: String, default_mode: i32) -> writer::File {
    let user = ownership::user(pod);
    let private = user.is_some() || ownership::group(pod).is_some();
    let mode = if private { PRIVATE_MODE } else { default_mode };
    writer::File { user, ..writer::File::new(token.into_bytes(), mode) }
}

#[async_trait]
impl Volume for Projected {
    fn path(&self) -> &Path {
        &self.dir
    }

    async fn set_up(&self, setup: Setup<'_>) -> Result<(), Error> {
        let mut all = writer::Payload::new();
        for source in &self.sources {
            if let Some(projection) = &source.config_map {
                all.extend(config_map::payload(setup.objects, &self.namespace, projection, self.default_mode).await?);
            }
            if let Some(projection) = &source.secret {
                all.extend(secret::payload(setup.objects, &self.namespace, projection, self.default_mode).await?);
            }
            if let Some(projection) = &source.downward_api {
                let items = projection.items.as_deref().unwrap_or_default();
                all.extend(downward_api::payload(setup.pod, items, self.default_mode, setup.allocatable)?);
            }
            if let Some(projection) = &source.service_account_token {
                let token = setup.tokens.get(&Wanted::of(setup.pod, projection), setup.now).await?;
                all.insert(projection.path.clone(), token_file(setup.pod, token, self.default_mode));
            }
        }
        ownership::give_to_group(&mut all, setup.pod);
        writer::write(&self.dir, &all, setup.now).map(drop)
    }

    fn read_only(&self) -> bool {
        true
    }

    fn references(&self) -> Vec<ObjectRef> {
        let config_maps = self.sources.iter().filter_map(|source| source.config_map.as_ref());
        let secrets = self.sources.iter().filter_map(|source| source.secret.as_ref());
        config_maps
            .map(|projection| ObjectRef::new(ObjectKind::ConfigMap, &self.namespace, &projection.name))
            .chain(secrets.map(|projection| ObjectRef::new(ObjectKind::Secret, &self.namespace, &projection.name)))
            .collect()
    }

    fn follows_pod(&self) -> bool {
        self.sources.iter().any(|source| source.downward_api.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// `expected` is the mode, the user and the group of a token's file.
    #[track_caller]
    fn check(context: Value, expected: (u32, Option<u32>, Option<u32>)) {
        let pod = json!({"spec": {"securityContext": context, "containers": [{"name": "c"}]}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let mut payload = writer::Payload::from([("token".to_owned(), token_file(&pod, "t".to_owned(), 0o644))]);
        ownership::give_to_group(&mut payload, &pod);
        let file = &payload["token"];
        assert_eq!((file.mode, file.user, file.group), expected);
    }

    #[test]
    fn a_token_s_file_is_as_private_as_it_can_be() {
        check(json!({"runAsUser": 1000}), (0o600, Some(1000), None));
        check(json!({"fsGroup": 10000}), (0o640, None, Some(10000)));
        check(json!({"runAsUser": 1000, "fsGroup": 10000}), (0o640, Some(1000), Some(10000)));
        check(json!({}), (0o644, None, None));
    }
}
