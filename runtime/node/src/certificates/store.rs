//! Pairs on disk, in the kubelet's layout: `<prefix>-<date>.pem` holds a certificate and its key, `<prefix>-current.pem` is a
//! link to the one that counts.
//!
//! Invariants: only the owner may read what is here; the link names a file that is whole and on disk, at every moment. Upstream keeps
//! every pair for ever; here those that no longer count go, but for the last one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::{Error, Pair};

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
const CURRENT: &str = "current";
const UPDATED: &str = "updated";
/// Pairs that are kept: the current one, and the one before it.
const KEPT: usize = 2;

pub struct Store {
    directory: PathBuf,
    prefix: &'static str,
}

impl Store {
    /// Makes the directory where there is none, for its owner alone.
    pub fn open(directory: &Path, prefix: &'static str) -> Result<Self, Error> {
        let made = fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory);
        let made = made.and_then(|()| fs::set_permissions(directory, fs::Permissions::from_mode(DIRECTORY_MODE)));
        made.map_err(io_error("make", directory))?;
        Ok(Self { directory: directory.to_owned(), prefix })
    }

    /// Where the current pair is, for others to name.
    pub fn current_path(&self) -> PathBuf {
        self.path(CURRENT)
    }

    /// The current pair; none if there is none, or none that can be read as one.
    pub fn current(&self) -> Result<Option<Pair>, Error> {
        let path = self.current_path();
        Ok(read(&path)?.and_then(|text| split(&text)))
    }

    /// Makes this pair the current one.
    pub fn update(&self, pair: &Pair, now: Timestamp) -> Result<(), Error> {
        let file = self.path(&now.strftime("%Y-%m-%d-%H-%M-%S").to_string());
        self.write(&file, format!("{}{}", ended(&pair.certificate_pem), ended(&pair.key_pem)).as_bytes())?;
        let (current, updated) = (self.current_path(), self.path(UPDATED));
        // What is no link was put there by somebody, who would not like to lose it.
        if fs::symlink_metadata(&current).is_ok_and(|meta| !meta.is_symlink()) {
            let source = io::Error::new(io::ErrorKind::AlreadyExists, "expected a symlink, but it is a file");
            return Err(io_error("replace", &current)(source));
        }
        remove(&updated)?;
        // Relative, so that the directory can be moved.
        let name = file.file_name().unwrap_or_default();
        symlink(name, &updated).map_err(io_error("link", &updated))?;
        fs::rename(&updated, &current).map_err(io_error("rename", &updated))?;
        self.settle()?;
        self.prune()
    }

    /// A key that waits for its first certificate.
    pub fn pending_key(&self) -> Result<Option<String>, Error> {
        read(&self.pending_path())
    }

    pub fn put_pending_key(&self, pem: &str) -> Result<(), Error> {
        self.write(&self.pending_path(), pem.as_bytes())?;
        self.settle()
    }

    pub fn remove_pending_key(&self) -> Result<(), Error> {
        remove(&self.pending_path())
    }

    fn pending_path(&self) -> PathBuf {
        self.directory.join(format!("{}.key.tmp", self.prefix))
    }

    fn path(&self, qualifier: &str) -> PathBuf {
        self.directory.join(format!("{}-{qualifier}.pem", self.prefix))
    }

    /// The file is there with all its bytes, or not at all.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let mut staged = path.to_owned();
        staged.as_mut_os_string().push(".new");
        remove(&staged)?;
        let written = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&staged);
        let written = written.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
        written.and_then(|()| fs::rename(&staged, path)).map_err(io_error("write", path))
    }

    /// Names that were changed are on disk after this.
    fn settle(&self) -> Result<(), Error> {
        File::open(&self.directory).and_then(|file| file.sync_all()).map_err(io_error("sync", &self.directory))
    }

    fn prune(&self) -> Result<(), Error> {
        let kept = fs::read_link(self.current_path()).unwrap_or_default();
        let entries = fs::read_dir(&self.directory).map_err(io_error("list", &self.directory))?;
        // Dated names sort as their dates do.
        let dated = |name: &str| {
            let rest = name.strip_prefix(self.prefix).and_then(|rest| rest.strip_prefix('-'));
            rest.is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()) && rest.ends_with(".pem"))
        };
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| dated(name))
            .collect();
        names.sort_unstable_by(|a, b| b.cmp(a));
        names.retain(|name| Path::new(name) != kept);
        names.iter().skip(KEPT - 1).try_for_each(|name| remove(&self.directory.join(name)))
    }
}

/// The certificates and the key in one text.
fn split(text: &str) -> Option<Pair> {
    let blocks = wharf_machinery::csr::blocks(text.as_bytes());
    blocks.iter().find(|block| block.label == "CERTIFICATE")?;
    let start = blocks.iter().find(|block| block.label.ends_with("PRIVATE KEY"))?;
    let at = text.find(&format!("-----BEGIN {}-----", start.label))?;
    let (certificate, key) = text.split_at(at);
    Some(Pair { certificate_pem: certificate.to_owned(), key_pem: key.to_owned() })
}

fn ended(pem: &str) -> String {
    format!("{}\n", pem.trim_end())
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", path)(error)),
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.display().to_string();
    move |source| Error::Io { operation, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_900_000_000 + second).expect("a time")
    }

    fn pair() -> Pair {
        let made = rcgen::generate_simple_self_signed(vec!["n1".to_owned()]).expect("a certificate");
        Pair { certificate_pem: made.cert.pem(), key_pem: made.signing_key.serialize_pem() }
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(directory)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
            .collect();
        names.sort_unstable();
        names
    }

    fn same(held: Option<Pair>, wanted: &Pair) {
        let held = held.expect("a pair");
        let trimmed = |text: &str| text.trim_end().replace('\r', "");
        assert_eq!(trimmed(&held.certificate_pem), trimmed(&wanted.certificate_pem));
        assert_eq!(trimmed(&held.key_pem), trimmed(&wanted.key_pem));
    }

    #[test]
    fn the_layout_is_the_kubelets_and_private() {
        let root = tempfile::tempdir().expect("temporary directory");
        let directory = root.path().join("pki");
        let store = Store::open(&directory, "kubelet-client").expect("a store");
        assert_eq!(store.current().expect("read"), None);
        let first = pair();
        store.update(&first, at(0)).expect("update");
        same(store.current().expect("read"), &first);
        assert_eq!(names(&directory), ["kubelet-client-2030-03-17-17-46-40.pem", "kubelet-client-current.pem"]);
        let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&store.current_path())), (0o700, 0o600));
    }

    #[test]
    fn a_new_pair_replaces_the_old_one_in_one_step() {
        let root = tempfile::tempdir().expect("temporary directory");
        let store = Store::open(root.path(), "kubelet-client").expect("a store");
        for second in 0..4 {
            let next = pair();
            store.update(&next, at(second)).expect("update");
            same(store.current().expect("read"), &next);
        }
        let again = pair();
        store.update(&again, at(3)).expect("twice in a second");
        same(store.current().expect("read"), &again);
        assert_eq!(names(root.path()).len(), 3, "the link, its target and the one before");
    }

    #[test]
    fn what_a_crash_left_is_no_obstacle() {
        let root = tempfile::tempdir().expect("temporary directory");
        let store = Store::open(root.path(), "kubelet-client").expect("a store");
        let first = pair();
        store.update(&first, at(0)).expect("update");
        fs::write(root.path().join("kubelet-client-2030-03-17-17-46-41.pem.new"), "half").expect("leave half a file");
        symlink("nowhere.pem", root.path().join("kubelet-client-updated.pem")).expect("leave a link");
        same(store.current().expect("read"), &first);
        let second = pair();
        store.update(&second, at(1)).expect("update");
        same(store.current().expect("read"), &second);
        fs::write(store.current_path(), "garbage").expect("spoil");
        assert_eq!(store.current().expect("read"), None, "a spoilt file is none");
    }

    #[test]
    fn a_file_that_stands_where_the_link_should_stays() {
        let root = tempfile::tempdir().expect("temporary directory");
        let store = Store::open(root.path(), "kubelet-client").expect("a store");
        fs::write(store.current_path(), "mine").expect("write");
        assert!(store.update(&pair(), at(0)).is_err());
        assert_eq!(fs::read_to_string(store.current_path()).expect("read"), "mine");
    }
}
