//! `downwardAPI`: facts about the pod as files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, DownwardAPIVolumeSource, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::{DEFAULT_FILE_MODE, Error, Setup, Volume, fields, ownership, resources, writer};

pub struct DownwardApi {
    dir: PathBuf,
    items: Vec<DownwardAPIVolumeFile>,
    default_mode: i32,
}

impl DownwardApi {
    pub fn new(dir: PathBuf, source: &DownwardAPIVolumeSource) -> Self {
        let items = source.items.clone().unwrap_or_default();
        Self { dir, items, default_mode: source.default_mode.unwrap_or(DEFAULT_FILE_MODE) }
    }
}

#[async_trait]
impl Volume for DownwardApi {
    fn path(&self) -> &Path {
        &self.dir
    }

    async fn set_up(&self, setup: Setup<'_>) -> Result<(), Error> {
        let mut payload = payload(setup.pod, &self.items, self.default_mode, setup.allocatable)?;
        ownership::give_to_group(&mut payload, setup.pod);
        writer::write(&self.dir, &payload, setup.now).map(drop)
    }

    fn read_only(&self) -> bool {
        true
    }

    fn follows_pod(&self) -> bool {
        true
    }
}

/// The files that the items stand for.
pub(crate) fn payload(
    pod: &Pod,
    items: &[DownwardAPIVolumeFile],
    default_mode: i32,
    allocatable: &BTreeMap<String, Quantity>,
) -> Result<writer::Payload, Error> {
    let mut payload = writer::Payload::new();
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => {
                fields::field(pod, &field.field_path).map_err(|error| Error::Invalid(error.to_string()))?
            }
            (None, Some(field)) => {
                let name = field.container_name.as_deref().unwrap_or_default();
                let container = crate::containers(pod)
                    .find(|container| container.name == name)
                    .ok_or_else(|| Error::Invalid(format!("container {name} not found")))?;
                resources::field(container, field, allocatable).map_err(Error::Invalid)?
            }
            (None, None) => {
                return Err(Error::Invalid(format!("item {:?} has neither fieldRef nor resourceFieldRef", item.path)));
            }
        };
        let mode = item.mode.unwrap_or(default_mode);
        payload.insert(item.path.clone(), writer::File::new(text.into_bytes(), mode));
    }
    Ok(payload)
}
