//! `configMap`: an object's keys as files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, ConfigMapProjection, ConfigMapVolumeSource};

use crate::{DEFAULT_FILE_MODE, Error, ObjectKind, ObjectRef, Setup, Source, Volume, ownership, writer};

pub struct ConfigMapVolume {
    dir: PathBuf,
    namespace: String,
    projection: ConfigMapProjection,
    default_mode: i32,
}

impl ConfigMapVolume {
    pub fn new(dir: PathBuf, namespace: &str, source: &ConfigMapVolumeSource) -> Self {
        let projection =
            ConfigMapProjection { items: source.items.clone(), name: source.name.clone(), optional: source.optional };
        let default_mode = source.default_mode.unwrap_or(DEFAULT_FILE_MODE);
        Self { dir, namespace: namespace.to_owned(), projection, default_mode }
    }
}

#[async_trait]
impl Volume for ConfigMapVolume {
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
        vec![ObjectRef::new(ObjectKind::ConfigMap, &self.namespace, &self.projection.name)]
    }
}

/// The files that a projection stands for.
pub(crate) async fn payload(
    objects: &dyn Source,
    namespace: &str,
    projection: &ConfigMapProjection,
    default_mode: i32,
) -> Result<writer::Payload, Error> {
    let optional = projection.optional.unwrap_or(false);
    match objects.config_map(namespace, &projection.name).await? {
        Some(map) => crate::pick("configmap", &data(&map), projection.items.as_ref(), default_mode, optional),
        None if optional => Ok(writer::Payload::new()),
        None => Err(Error::NotFound { kind: "configmap", name: projection.name.clone() }),
    }
}

fn data(map: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
    text.chain(binary).collect()
}
