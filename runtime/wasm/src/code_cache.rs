//! Compiled code on disk, for the engines of this process.
//!
//! Whoever compiles names the key: it must cover what was compiled and all that went into compiling it on this machine.
//! Invariants: code is found only if its checksum holds; a write is atomic, and a file is never changed in place, so that one
//! that is mapped into memory stays what it was.
//! Absent on purpose: eviction (whoever owns the directory removes it with what was compiled).

use std::io::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// A private directory of compiled code: each piece in a file, its checksum in another beside it.
#[derive(Clone, Debug)]
pub struct CodeCache(PathBuf);

impl CodeCache {
    /// The directory must be there, and nobody else's (mode 0700).
    pub fn new(dir: PathBuf) -> Self {
        Self(dir)
    }

    fn files(&self, key: &str) -> (PathBuf, PathBuf) {
        (self.0.join(format!("{key}.cwasm")), self.0.join(format!("{key}.sha256")))
    }

    /// The file with the code of this key, if it is there, whole and unchanged.
    pub fn find(&self, key: &str) -> Option<PathBuf> {
        let (code, sum) = self.files(key);
        let expected = std::fs::read_to_string(sum).ok()?;
        let actual = std::fs::read(&code).map(|bytes| hex::encode(Sha256::digest(bytes))).ok()?;
        if actual == expected {
            return Some(code);
        }
        tracing::warn!(file = %code.display(), "compiled code is damaged and is made again");
        None
    }

    /// Keeps code under this key. The error is the disk's.
    pub fn keep(&self, key: &str, bytes: &[u8]) -> std::io::Result<()> {
        let (code, sum) = self.files(key);
        // The sum goes last: code without it is never found.
        write_atomic(&code, bytes)?;
        write_atomic(&sum, hex::encode(Sha256::digest(bytes)).as_bytes())
    }
}

fn write_atomic(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension(format!("{:016x}.tmp", rand::random::<u64>()));
    let write = || {
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().inspect_err(|_| {
        let _ = std::fs::remove_file(&temporary);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_code_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let cache = CodeCache::new(dir.path().to_owned());
        assert_eq!(cache.find("a"), None);
        cache.keep("a", b"code").unwrap();
        let file = cache.find("a").expect("kept");
        assert_eq!((std::fs::read(&file).unwrap(), cache.find("b")), (b"code".to_vec(), None));
        std::fs::write(&file, b"cod").unwrap();
        assert_eq!(cache.find("a"), None, "a torn file");
        cache.keep("a", b"code").unwrap();
        assert_eq!(cache.find("a"), Some(file));
    }
}
