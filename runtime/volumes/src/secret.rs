//! `secret`: an object's keys as files.
//!
//! The files have the modes that the pod asks for (0644 by default, as upstream); the node's data directory is private,
//! so other users of the host cannot reach them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{SecretProjection, SecretVolumeSource};

use crate::{DEFAULT_FILE_MODE, Error, ObjectKind, ObjectRef, Setup, Source, Volume, ownership, writer};

pub struct SecretVolume {
    dir: PathBuf,
    namespace: String,
    projection: SecretProjection,
    default_mode: i32,
}

impl SecretVolume {
    pub fn new(dir: PathBuf, namespace: &str, source: &SecretVolumeSource) -> Self {
        let projection = SecretProjection {
            items: source.items.clone(),
            name: source.secret_name.clone().unwrap_or_default(),
            optional: source.optional,
        };
        let default_mode = source.default_mode.unwrap_or(DEFAULT_FILE_MODE);
        Self { dir, namespace: namespace.to_owned(), projection, default_mode }
    }
}

#[async_trait]
impl Volume for SecretVolume {
    fn path(&self) -> &Path {
        &self.dir
    }

    async fn set_up(&self, setup: Setup<'_>) -> Result<(), Error> {
        let mut payload = payload(setup.objects, &self.namespace, &self.projection, self.default_mode).await?;
        ownership::give_to_group(&mut payload, setup.pod);
        writer::write(&self.dir, &payload, setup.now).map(drop)
    }

    fn read_only(&self) -> bool {
        true
    }

    fn references(&self) -> Vec<ObjectRef> {
        vec![ObjectRef::new(ObjectKind::Secret, &self.namespace, &self.projection.name)]
    }
}

/// The files that a projection stands for.
pub(crate) async fn payload(
    objects: &dyn Source,
    namespace: &str,
    projection: &SecretProjection,
    default_mode: i32,
) -> Result<writer::Payload, Error> {
    let optional = projection.optional.unwrap_or(false);
    match objects.secret(namespace, &projection.name).await? {
        Some(secret) => {
            let data: BTreeMap<String, Vec<u8>> =
                secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect();
            crate::pick("secret", &data, projection.items.as_ref(), default_mode, optional)
        }
        None if optional => Ok(writer::Payload::new()),
        None => Err(Error::NotFound { kind: "secret", name: projection.name.clone() }),
    }
}
