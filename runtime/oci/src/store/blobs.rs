//! Bytes on disk under the name of their digest.
//!
//! A blob is written to a temporary file, verified, synced, and only then renamed to its name: what has a name is whole.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use tempfile::TempPath;
use tokio::io::AsyncWriteExt;

use super::{Error, Result};
use crate::digest::{Digest, Hasher};

/// A folder of blobs.
#[derive(Debug)]
pub struct Blobs {
    blobs: PathBuf,
    temporary: PathBuf,
}

impl Blobs {
    /// Opens or makes the folder and removes what interrupted writes have left.
    pub fn open(root: &Path) -> Result<Self> {
        let this = Self { blobs: root.join("blobs/sha256"), temporary: root.join("tmp") };
        match fs::remove_dir_all(&this.temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("clear", &this.temporary, error));
            }
            _ => {}
        }
        for folder in [&this.blobs, &this.temporary] {
            fs::create_dir_all(folder).map_err(|error| Error::io("create", folder, error))?;
        }
        Ok(this)
    }

    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    /// None where there is no such blob.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.path(digest)).ok().map(|metadata| metadata.len())
    }

    /// A whole blob of at most `max_bytes`.
    pub fn read(&self, digest: &Digest, max_bytes: u64) -> Result<Vec<u8>> {
        let path = self.path(digest);
        let fail = |error| Error::io("read", &path, error);
        let mut bytes = Vec::new();
        File::open(&path).and_then(|file| file.take(max_bytes + 1).read_to_end(&mut bytes)).map_err(fail)?;
        if bytes.len() as u64 > max_bytes {
            Err(Error::TooLarge { what: digest.to_string(), max_bytes })
        } else {
            Ok(bytes)
        }
    }

    /// Stores bytes that are in memory.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if self.size(&digest).is_some() {
            return Ok(digest);
        }
        let fail = |error| Error::io("write", &self.temporary, error);
        let mut file = tempfile::NamedTempFile::new_in(&self.temporary).map_err(fail)?;
        file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(fail)?;
        self.name(file.into_temp_path(), &digest)?;
        Ok(digest)
    }

    /// Starts a blob that arrives in pieces, of at most `max_bytes`. Dropped before [`Writer::finish`], it leaves nothing.
    pub fn writer(&self, max_bytes: u64) -> Result<Writer> {
        let file = tempfile::NamedTempFile::new_in(&self.temporary)
            .map_err(|error| Error::io("write", &self.temporary, error))?;
        let (file, path) = file.into_parts();
        Ok(Writer { file: tokio::fs::File::from_std(file), path, hasher: Hasher::default(), written: 0, max_bytes })
    }

    /// Verifies and names what a writer has received.
    pub async fn finish(&self, mut writer: Writer, expected: Option<&Digest>) -> Result<Digest> {
        let fail = |error| Error::io("write", &self.temporary, error);
        writer.file.flush().await.map_err(fail)?;
        let digest = writer.hasher.finish();
        if let Some(expected) = expected
            && *expected != digest
        {
            return Err(Error::DigestMismatch { expected: expected.clone(), actual: digest });
        }
        writer.file.sync_all().await.map_err(fail)?;
        self.name(writer.path, &digest)?;
        Ok(digest)
    }

    fn name(&self, temporary: TempPath, digest: &Digest) -> Result<()> {
        let path = self.path(digest);
        temporary.persist(&path).map_err(|error| Error::io("rename", &path, error.error))?;
        sync_folder(&self.blobs)
    }

    /// Removing what is not there is no error.
    pub fn remove(&self, digest: &Digest) -> Result<()> {
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &path, error)),
            _ => Ok(()),
        }
    }

    pub fn all(&self) -> Result<Vec<(Digest, u64)>> {
        let fail = |error| Error::io("list", &self.blobs, error);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.blobs).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name();
            let digest = name.to_str().and_then(|hex| format!("sha256:{hex}").parse().ok());
            // A blob removed while the folder is being read has no size any more.
            if let (Some(digest), Ok(metadata)) = (digest, entry.metadata()) {
                found.push((digest, metadata.len()));
            }
        }
        Ok(found)
    }
}

/// Makes a rename survive power loss.
pub(super) fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| Error::io("sync", folder, error))
}

/// A blob being written.
#[derive(Debug)]
pub struct Writer {
    file: tokio::fs::File,
    path: TempPath,
    hasher: Hasher,
    written: u64,
    max_bytes: u64,
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hasher")
    }
}

impl Writer {
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len() as u64;
        if self.written > self.max_bytes {
            return Err(Error::TooLarge { what: "blob".to_owned(), max_bytes: self.max_bytes });
        }
        self.hasher.update(bytes);
        self.file.write_all(bytes).await.map_err(|error| Error::io("write", &self.path, error))
    }

    pub fn written(&self) -> u64 {
        self.written
    }
}
