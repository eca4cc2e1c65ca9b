//! The image store: blobs by digest and an index over them, in one folder that one process owns.
//!
//! Invariants: a blob that has a name is whole and was verified; the index never names a blob that is missing; a blob that
//! nothing names is deleted, unless a pull or an upload has pinned it. Methods that touch the disk block shortly (one small
//! file); async callers wrap the larger ones ([`Store::open`], [`Store::usage`]) themselves.

mod blobs;
mod index;

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use wharf_cri::ImageStatus;

pub use blobs::{Blobs, Writer};
pub use index::{Image, Manifest, Named, Repository};

use crate::digest::Digest;
use crate::reference::Reference;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{operation} {}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("image store {} is in use by another process", .0.display())]
    InUse(PathBuf),
    #[error("read image index {}", path.display())]
    Index {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("image index {} has version {version}, which is newer than this program", path.display())]
    IndexVersion { path: PathBuf, version: u32 },
    #[error("digest mismatch: expected {expected}, got {actual}")]
    DigestMismatch { expected: Digest, actual: Digest },
    #[error("{what} is larger than {max_bytes} bytes")]
    TooLarge { what: String, max_bytes: u64 },
    #[error("blob {0} is missing")]
    MissingBlob(Digest),
}

impl Error {
    fn io(operation: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        Self::Io { operation, path: path.as_ref().to_owned(), source }
    }
}

pub type Result<T> = std::result::Result<T, Error>;

const INDEX: &str = "index.json";

/// Images and blobs in one folder.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    blobs: Blobs,
    index: Mutex<index::Index>,
    /// Blobs that are about to be named, counted. Locked after `index`.
    pins: Mutex<HashMap<Digest, usize>>,
    /// Held as long as the store is open.
    _lock: File,
}

impl Store {
    /// Opens or makes the store in `root` (`<data>/node/images`), and deletes what a crash has left behind.
    pub fn open(root: &Path) -> Result<Arc<Self>> {
        fs::create_dir_all(root).map_err(|error| Error::io("create", root, error))?;
        let lock_path = root.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(|error| Error::io("open", &lock_path, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::InUse(root.to_owned())),
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", &lock_path, error)),
        }
        let blobs = Blobs::open(root)?;
        let index = index::Index::load(&root.join(INDEX))?;
        let store =
            Self { root: root.to_owned(), blobs, index: Mutex::new(index), pins: Mutex::default(), _lock: lock };
        store.sweep()?;
        Ok(Arc::new(store))
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// The image that a reference or an id (`sha256:…`) stands for.
    pub fn resolve(&self, reference: &str) -> Option<Image> {
        if let Ok(id) = reference.parse::<Digest>() {
            return self.by_id(&id);
        }
        let reference: Reference = reference.parse().ok()?;
        let index = self.index.lock();
        let named = index.references.get(&reference.to_string()).or_else(|| {
            let digest = reference.digest.as_ref()?;
            let prefix = format!("{}:", reference.name());
            index
                .references
                .iter()
                .find(|(name, named)| name.starts_with(&prefix) && named.manifest == *digest)
                .map(|(_, named)| named)
        })?;
        index.images.get(&named.image).cloned()
    }

    pub fn by_id(&self, id: &Digest) -> Option<Image> {
        self.index.lock().images.get(id).cloned()
    }

    /// Where an image's Wasm binary is. The file stays as long as the image does.
    pub fn module_path(&self, image: &Image) -> PathBuf {
        self.blobs.path(&image.module)
    }

    pub fn images(&self) -> Vec<ImageStatus> {
        let index = self.index.lock();
        index.images.values().map(|image| status(&index, image)).collect()
    }

    pub fn status(&self, image: &Image) -> ImageStatus {
        status(&self.index.lock(), image)
    }

    /// Makes `reference` stand for `image`. Its blobs must be there and pinned.
    pub fn commit(&self, reference: &Reference, manifest: &Digest, image: Image) -> Result<()> {
        if let Some(missing) = image.blobs.iter().find(|digest| self.blobs.size(digest).is_none()) {
            return Err(Error::MissingBlob(missing.clone()));
        }
        self.change(|index| {
            index
                .references
                .insert(reference.to_string(), Named { image: image.id.clone(), manifest: manifest.clone() });
            index.images.insert(image.id.clone(), image);
            index.drop_unnamed()
        })
    }

    /// Forgets a reference, or with an id every reference to it. What nothing names any more is deleted. False where there
    /// was nothing to forget.
    pub fn remove(&self, reference: &str) -> Result<bool> {
        let id = reference.parse::<Digest>().ok();
        let name = reference.parse::<Reference>().ok().map(|reference| reference.to_string());
        let mut found = false;
        self.change(|index| {
            let before = index.references.len();
            index.references.retain(|key, named| Some(&named.image) != id.as_ref() && Some(key) != name.as_ref());
            found = index.references.len() < before;
            index.drop_unnamed()
        })?;
        Ok(found)
    }

    /// Bytes of all blobs, and the number of images.
    pub fn usage(&self) -> Result<(u64, u64)> {
        let used = self.blobs.all()?.iter().map(|(_, size)| size).sum();
        Ok((used, self.index.lock().images.len() as u64))
    }

    /// Keeps a blob from being deleted until the pin is dropped, whether or not it is there yet.
    #[must_use]
    pub fn pin(self: &Arc<Self>, digest: &Digest) -> Pin {
        *self.pins.lock().entry(digest.clone()).or_default() += 1;
        Pin { store: self.clone(), digest: digest.clone() }
    }

    /// Drops pins, and deletes those of their blobs that nothing names.
    pub fn release(&self, pins: Vec<Pin>) -> Result<()> {
        let digests: Vec<Digest> = pins.iter().map(|pin| pin.digest.clone()).collect();
        drop(pins);
        self.delete_unnamed(&self.index.lock(), digests.into_iter())
    }

    /// The manifest that a reference was last committed with.
    pub fn manifest_of(&self, reference: &Reference) -> Option<Digest> {
        self.index.lock().references.get(&reference.to_string()).map(|named| named.manifest.clone())
    }

    /// A look at one repository of the embedded registry.
    pub fn repository<T>(&self, name: &str, look: impl FnOnce(&Repository) -> T) -> Option<T> {
        self.index.lock().repositories.get(name).map(look)
    }

    pub fn repository_names(&self) -> Vec<String> {
        self.index.lock().repositories.keys().cloned().collect()
    }

    /// Changes one repository; an empty one is forgotten. Blobs of manifests that went are deleted if nothing else needs them.
    pub fn change_repository(&self, name: &str, change: impl FnOnce(&mut Repository)) -> Result<()> {
        self.change(|index| {
            let repository = index.repositories.entry(name.to_owned()).or_default();
            let before = repository.manifests.clone();
            change(repository);
            let gone = before.into_iter().filter(|(digest, _)| !repository.manifests.contains_key(digest));
            let blobs = gone.flat_map(|(digest, manifest)| manifest.children.into_iter().chain(Some(digest))).collect();
            if repository.manifests.is_empty() && repository.tags.is_empty() {
                index.repositories.remove(name);
            }
            blobs
        })
    }

    /// Changes the index on disk and in memory, and deletes those of the returned blobs that nothing names any more.
    fn change(&self, change: impl FnOnce(&mut index::Index) -> BTreeSet<Digest>) -> Result<()> {
        let mut index = self.index.lock();
        let mut changed = index.clone();
        let loose = change(&mut changed);
        if changed != *index {
            changed.save(&self.root.join(INDEX))?;
            *index = changed;
        }
        self.delete_unnamed(&index, loose.into_iter())
    }

    fn delete_unnamed(&self, index: &index::Index, candidates: impl Iterator<Item = Digest>) -> Result<()> {
        let live = index.live();
        let pins = self.pins.lock();
        for digest in candidates.filter(|digest| !live.contains(digest) && !pins.contains_key(digest)) {
            self.blobs.remove(&digest)?;
        }
        Ok(())
    }

    /// Deletes every blob that nothing names.
    fn sweep(&self) -> Result<()> {
        let index = self.index.lock();
        self.delete_unnamed(&index, self.blobs.all()?.into_iter().map(|(digest, _)| digest))
    }
}

/// The images of a store that another process may have open; what it is doing just now may not show.
pub fn peek(root: &Path) -> Result<Vec<ImageStatus>> {
    let index = index::Index::load(&root.join(INDEX))?;
    Ok(index.images.values().map(|image| status(&index, image)).collect())
}

fn status(index: &index::Index, image: &Image) -> ImageStatus {
    let (mut tags, mut digests) = (Vec::new(), BTreeSet::new());
    for (reference, named) in index.references.iter().filter(|(_, named)| named.image == image.id) {
        let name = match reference.split_once('@') {
            Some((name, _)) => name,
            None => {
                tags.push(reference.clone());
                reference.rsplit_once(':').map_or(reference.as_str(), |(name, _)| name)
            }
        };
        digests.insert(format!("{name}@{}", named.manifest));
    }
    ImageStatus {
        id: image.id.to_string(),
        tags,
        digests: digests.into_iter().collect(),
        size_bytes: image.size_bytes,
        wasm: true,
    }
}

/// Keeps one blob.
#[derive(Debug)]
pub struct Pin {
    store: Arc<Store>,
    digest: Digest,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.store.pins.lock();
        if let Some(count) = pins.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.digest);
            }
        }
    }
}

#[cfg(test)]
mod tests;
