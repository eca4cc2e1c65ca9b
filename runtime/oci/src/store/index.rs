//! What the store knows beside the bytes: images, the names that stand for them, and the registry's repositories.
//!
//! One JSON file, replaced as a whole and synced at each change; it is small, and a crash leaves the old or the new one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::blobs::sync_folder;
use super::{Error, Result};
use crate::digest::Digest;
use crate::manifest::RunConfig;

/// Version of the file's form; a file of a later one is refused and not overwritten.
const VERSION: u32 = 1;

/// An image that can be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// What the Runtime contract knows it by.
    pub id: Digest,
    /// The Wasm binary itself.
    pub module: Digest,
    pub run: RunConfig,
    /// Of everything in `blobs`.
    pub size_bytes: u64,
    /// What must be kept for this image: manifest, config and module.
    pub blobs: BTreeSet<Digest>,
}

/// What a reference stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    pub image: Digest,
    /// As the registry named it; for an index, the index's.
    pub manifest: Digest,
}

/// A manifest in a repository of the embedded registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub media_type: String,
    pub size: u64,
    pub children: BTreeSet<Digest>,
    pub subject: Option<Digest>,
    pub artifact_type: Option<String>,
    pub annotations: BTreeMap<String, String>,
}

/// A repository of the embedded registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    pub tags: BTreeMap<String, Digest>,
    pub manifests: BTreeMap<Digest, Manifest>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    version: u32,
    /// By [`Image::id`].
    pub images: BTreeMap<Digest, Image>,
    /// By whole reference.
    pub references: BTreeMap<String, Named>,
    #[serde(default)]
    pub repositories: BTreeMap<String, Repository>,
}

impl Index {
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { version: VERSION, ..Self::default() });
            }
            Err(error) => return Err(Error::io("read", path, error)),
        };
        let index: Self =
            serde_json::from_slice(&bytes).map_err(|source| Error::Index { path: path.to_owned(), source })?;
        if index.version > VERSION {
            Err(Error::IndexVersion { path: path.to_owned(), version: index.version })
        } else {
            Ok(index)
        }
    }

    pub fn save(&self, path: &Path) -> Result<()> {
        let folder = path.parent().map_or_else(PathBuf::new, Path::to_owned);
        let fail = |error| Error::io("write", path, error);
        let mut file = tempfile::NamedTempFile::new_in(folder.join("tmp")).map_err(fail)?;
        serde_json::to_writer(file.as_file_mut(), self).map_err(|error| fail(error.into()))?;
        file.flush().and_then(|()| file.as_file().sync_all()).map_err(fail)?;
        file.persist(path).map_err(|error| fail(error.error))?;
        sync_folder(&folder)
    }

    /// Every blob that something needs.
    pub fn live(&self) -> BTreeSet<&Digest> {
        let images = self.images.values().flat_map(|image| &image.blobs);
        let manifests = self.repositories.values().flat_map(|repository| &repository.manifests);
        images
            .chain(manifests.flat_map(|(digest, manifest)| std::iter::once(digest).chain(&manifest.children)))
            .collect()
    }

    /// Takes out images that no reference stands for any more, and returns what they kept.
    pub fn drop_unnamed(&mut self) -> BTreeSet<Digest> {
        let named: BTreeSet<&Digest> = self.references.values().map(|named| &named.image).collect();
        let (kept, dropped): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.images).into_iter().partition(|(id, _)| named.contains(id));
        self.images = kept;
        dropped.into_values().flat_map(|image| image.blobs).collect()
    }
}
