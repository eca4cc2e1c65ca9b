//! What the engine asks of the image store.

use std::path::PathBuf;

use wharf_cri::Result;

/// A Wasm file of a local image and the defaults that its config names.
#[derive(Clone, Debug, Default)]
pub struct ArtifactFile {
    pub path: PathBuf,
    /// Of the file's bytes (`sha256:…`): the key of the compile cache.
    pub digest: String,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<(String, String)>,
    pub working_dir: String,
}

/// Where compiled code comes from: images by the id that `wharf_cri::ImageStatus::id` tells.
pub trait Artifacts: Send + Sync + 'static {
    /// None when no such image is present.
    fn open(&self, image_id: &str) -> Result<Option<ArtifactFile>>;
}

impl Artifacts for wharf_oci::Store {
    fn open(&self, image_id: &str) -> Result<Option<ArtifactFile>> {
        // What is not a digest is the id of no image.
        let Some(image) = image_id.parse().ok().and_then(|id| self.by_id(&id)) else { return Ok(None) };
        Ok(Some(ArtifactFile {
            path: self.module_path(&image),
            digest: image.module.to_string(),
            entrypoint: image.run.entrypoint,
            cmd: image.run.cmd,
            env: image.run.env,
            working_dir: image.run.working_dir,
        }))
    }
}
