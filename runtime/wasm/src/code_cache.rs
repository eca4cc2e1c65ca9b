//! Compiled code on disk, for the engines of this process.
//!
//! Whoever compiles names the key: it must cover what was compiled and all that went into compiling it on this machine.
//! Invariants: code is found only if its checksum holds; a write is atomic, and a file is never changed in place, so that one
//! that is mapped into memory stays what it was, also when it is removed; after each write all files together are within the
//! limit, or what was used last is alone. What goes first is what was not used for the longest time, over restarts, too: a
//! use is written down as the time of the checksum's file.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

/// How much code a directory keeps, in bytes: hundreds of small guests, or some dozens with a language's runtime in them.
pub const CODE_MAX_BYTES: u64 = 2 << 30;

/// A private directory of compiled code: each piece in a file, its checksum in another beside it.
#[derive(Clone, Debug)]
pub struct CodeCache {
    dir: PathBuf,
    limit_bytes: u64,
}

/// What the directory holds of one key.
#[derive(Debug)]
struct Piece {
    files: Vec<PathBuf>,
    bytes: u64,
    used: SystemTime,
}

impl CodeCache {
    /// The directory must be there, and nobody else's (mode 0700).
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, limit_bytes: CODE_MAX_BYTES }
    }

    fn files(&self, key: &str) -> (PathBuf, PathBuf) {
        (self.dir.join(format!("{key}.cwasm")), self.dir.join(format!("{key}.sha256")))
    }

    /// The file with the code of this key, if it is there, whole and unchanged.
    pub fn find(&self, key: &str) -> Option<PathBuf> {
        self.find_at(key, SystemTime::now())
    }

    fn find_at(&self, key: &str, now: SystemTime) -> Option<PathBuf> {
        let (code, sum) = self.files(key);
        let expected = std::fs::read_to_string(&sum).ok()?;
        let actual = std::fs::read(&code).map(|bytes| hex::encode(Sha256::digest(bytes))).ok()?;
        if actual != expected {
            tracing::warn!(file = %code.display(), "compiled code is damaged and is made again");
            return None;
        }
        if let Err(error) = touch(&sum, now) {
            tracing::debug!(file = %sum.display(), %error, "the use of compiled code could not be noted");
        }
        Some(code)
    }

    /// Keeps code under this key, and lets go of what has not been used for long where there is too much. The error is the disk's,
    /// or says that nothing so large is kept.
    pub fn keep(&self, key: &str, bytes: &[u8]) -> io::Result<()> {
        self.keep_at(key, bytes, SystemTime::now())
    }

    fn keep_at(&self, key: &str, bytes: &[u8], now: SystemTime) -> io::Result<()> {
        if bytes.len() as u64 > self.limit_bytes {
            let why = format!("{} bytes of code are more than the {} that are kept", bytes.len(), self.limit_bytes);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        let (code, sum) = self.files(key);
        // The sum goes last: code without it is never found.
        write_atomic(&code, bytes)?;
        write_atomic(&sum, hex::encode(Sha256::digest(bytes)).as_bytes())?;
        touch(&sum, now)?;
        for piece in surplus(self.pieces()?, key, self.limit_bytes) {
            tracing::debug!(files = ?piece.files, "compiled code that was not used for long goes");
            piece.files.iter().try_for_each(|file| remove(file))?;
        }
        Ok(())
    }

    /// What is there, by key; what a crash has left behind counts with its key.
    fn pieces(&self) -> io::Result<BTreeMap<String, Piece>> {
        let mut pieces: BTreeMap<String, Piece> = BTreeMap::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // Somebody else may be done with a file by now.
            let (Some((key, _)), Ok(facts)) = (name.split_once('.'), entry.metadata()) else { continue };
            let fresh = || Piece { files: Vec::new(), bytes: 0, used: SystemTime::UNIX_EPOCH };
            let piece = pieces.entry(key.to_owned()).or_insert_with(fresh);
            piece.bytes += facts.len();
            // Only the sum's file tells of uses.
            if name.ends_with(".sha256") {
                piece.used = facts.modified()?;
            }
            piece.files.push(entry.path());
        }
        // Without its sum, code is not found.
        pieces
            .values_mut()
            .for_each(|piece| piece.files.sort_by_key(|file| file.extension() != Some("sha256".as_ref())));
        Ok(pieces)
    }
}

/// What has to go for the rest to fit, the least recently used first; never what is kept just now.
fn surplus(mut pieces: BTreeMap<String, Piece>, kept: &str, limit_bytes: u64) -> Vec<Piece> {
    let mut total: u64 = pieces.values().map(|piece| piece.bytes).sum();
    pieces.remove(kept);
    let mut oldest: Vec<Piece> = pieces.into_values().collect();
    oldest.sort_by_key(|piece| piece.used);
    let goes = |piece: &Piece| {
        let over = total > limit_bytes;
        total -= if over { piece.bytes } else { 0 };
        over
    };
    let count = oldest.iter().map(goes).take_while(|goes| *goes).count();
    oldest.truncate(count);
    oldest
}

fn touch(file: &Path, now: SystemTime) -> io::Result<()> {
    std::fs::File::options().write(true).open(file)?.set_modified(now)
}

/// Removes a file that somebody else may have removed.
fn remove(file: &Path) -> io::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
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
    use std::time::Duration;

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

    /// A directory with room for three pieces of 1,000 bytes and their sums.
    struct Small(tempfile::TempDir, CodeCache);

    impl Small {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let cache = CodeCache { dir: dir.path().to_owned(), limit_bytes: 3 * (1000 + 64) };
            Self(dir, cache)
        }

        fn at(second: u64) -> SystemTime {
            SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000 + second)
        }

        fn keep(&self, second: u64, key: &str) {
            self.1.keep_at(key, &[0; 1000], Self::at(second)).unwrap();
        }

        #[track_caller]
        fn check_names(&self, expected: &[&str]) {
            assert_eq!(self.1.pieces().unwrap().into_keys().collect::<Vec<_>>(), expected);
        }

        #[track_caller]
        fn check(&self, expected: &[&str]) {
            self.check_names(expected);
            let found = expected.iter().filter(|key| self.1.files(key).1.exists() && self.1.files(key).0.exists());
            assert_eq!(found.count(), expected.len());
        }
    }

    #[test]
    fn what_was_not_used_for_the_longest_time_goes_first() {
        let small = Small::new();
        for (second, key) in ["a", "b", "c"].into_iter().enumerate() {
            small.keep(second as u64, key);
        }
        small.check(&["a", "b", "c"]);
        assert!(small.1.find_at("a", Small::at(10)).is_some(), "a use");
        small.keep(11, "d");
        small.check(&["a", "c", "d"]);
        small.keep(12, "c");
        small.keep(13, "e");
        small.check(&["c", "d", "e"]);
    }

    #[test]
    fn what_is_mapped_stays_what_it_was() {
        let small = Small::new();
        small.keep(0, "a");
        let open = std::fs::File::open(small.1.files("a").0).unwrap();
        (1..4).for_each(|second| small.keep(second, &format!("b{second}")));
        small.check(&["b1", "b2", "b3"]);
        assert_eq!(open.metadata().unwrap().len(), 1000);
    }

    #[test]
    fn what_a_crash_left_behind_goes_with_the_rest_and_nothing_too_large_is_kept() {
        let small = Small::new();
        std::fs::write(small.0.path().join("gone.0123456789abcdef.tmp"), [0; 1000]).unwrap();
        std::fs::write(small.0.path().join("half.cwasm"), [0; 1000]).unwrap();
        small.keep(0, "a");
        small.check_names(&["a", "gone", "half"]);
        small.keep(1, "b");
        small.keep(2, "c");
        small.check(&["a", "b", "c"]);
        let refused = small.1.keep_at("d", &[0; 4000], Small::at(3)).unwrap_err();
        assert_eq!(refused.to_string(), "4000 bytes of code are more than the 3192 that are kept");
        small.check(&["a", "b", "c"]);
    }
}
