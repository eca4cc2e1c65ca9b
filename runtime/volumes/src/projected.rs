//! `projected`: several sources in one directory. A later source wins where two name the same path.
//!
//! Absent on purpose: serviceAccountToken (needs the TokenRequest API), clusterTrustBundle and podCertificate.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ProjectedVolumeSource, VolumeProjection};

use crate::{DEFAULT_FILE_MODE, Error, ObjectKind, ObjectRef, Setup, Volume, config_map, downward_api, secret, writer};

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
        VolumeProjection { service_account_token: Some(_), .. } => Some("projected serviceAccountToken"),
        VolumeProjection { cluster_trust_bundle: Some(_), .. } => Some("projected clusterTrustBundle"),
        VolumeProjection { pod_certificate: Some(_), .. } => Some("projected podCertificate"),
        _ => None,
    }
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
        }
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
