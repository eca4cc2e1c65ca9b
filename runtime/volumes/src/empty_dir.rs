//! `emptyDir`: a directory that lives as long as its pod.
//!
//! Absent on purpose: `medium: Memory` is kept on disk (guests' memory is what is scarce on a dense node).

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::EmptyDirVolumeSource;

use crate::{Error, Setup, Volume, resources};

pub struct EmptyDir {
    dir: PathBuf,
    size_limit_bytes: Option<u64>,
}

impl EmptyDir {
    pub fn new(dir: PathBuf, source: &EmptyDirVolumeSource) -> Result<Self, Error> {
        let limit = source.size_limit.as_ref().map(|limit| {
            resources::value(limit).ok_or_else(|| Error::Invalid(format!("sizeLimit {:?} is not a quantity", limit.0)))
        });
        let size_limit_bytes =
            limit.transpose()?.and_then(|bytes| u64::try_from(bytes).ok()).filter(|bytes| *bytes > 0);
        Ok(Self { dir, size_limit_bytes })
    }
}

#[async_trait]
impl Volume for EmptyDir {
    fn path(&self) -> &Path {
        &self.dir
    }

    async fn set_up(&self, _: Setup<'_>) -> Result<(), Error> {
        crate::writer::make_dir(&self.dir)?;
        // As upstream: any user of any container of the pod may write.
        std::fs::set_permissions(&self.dir, std::fs::Permissions::from_mode(0o777))
            .map_err(Error::io("set mode of", &self.dir))
    }

    fn size_limit_bytes(&self) -> Option<u64> {
        self.size_limit_bytes
    }
}
