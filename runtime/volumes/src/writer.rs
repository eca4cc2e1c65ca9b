//! Replaces the files of a volume all at once.
//!
//! The layout is upstream's (`k8s.io/kubernetes/pkg/volume/util/atomic_writer.go`), which guests and tools know:
//! ```text
//! <dir>/..2026_01_02_03_04_05.123456789/key     the version
//! <dir>/..data -> ..2026_01_02_03_04_05.123456789
//! <dir>/key -> ..data/key                       what users see
//! ```
//! All links are relative and stay inside the directory, so they resolve below a preopened directory too.
//! Invariant: a reader sees one whole version. Nothing is written when the content is already there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;

use crate::Error;

const DATA_LINK: &str = "..data";
const NEW_DATA_LINK: &str = "..data_tmp";
/// Longest relative path of a file, as upstream's `maxPathLength`.
const MAX_PATH_BYTES: usize = 4096;
/// Longest file name, as upstream's `maxFileNameLength`.
const MAX_NAME_BYTES: usize = 255;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Whose it becomes where the node may give files away; else it stays the node's.
    pub user: Option<u32>,
    pub group: Option<u32>,
}

impl File {
    /// A file of the node's own. Of `mode` the permission bits count.
    pub fn new(data: Vec<u8>, mode: i32) -> Self {
        Self { data, mode: (mode as u32) & 0o777, user: None, group: None }
    }
}

/// Relative path → file.
pub type Payload = BTreeMap<String, File>;

/// Makes `dir` hold exactly `payload`. True when something changed.
pub fn write(dir: &Path, payload: &Payload, now: Timestamp) -> Result<bool, Error> {
    payload.keys().try_for_each(|path| check_path(path))?;
    make_dir(dir)?;
    let old = current(dir);
    if old.as_deref().is_some_and(|old| same(&dir.join(old), payload)) {
        link_user_files(dir, payload)?;
        return Ok(false);
    }
    let version = new_version(dir, now)?;
    let root = dir.join(&version);
    write_files(&root, payload)?;
    let (link, temporary) = (dir.join(DATA_LINK), dir.join(NEW_DATA_LINK));
    ignore_missing(fs::remove_file(&temporary)).map_err(Error::io("remove", &temporary))?;
    symlink(&version, &temporary).map_err(Error::io("link", &temporary))?;
    fs::rename(&temporary, &link).map_err(Error::io("rename", &temporary))?;
    link_user_files(dir, payload)?;
    remove_stale(dir, &version, payload)?;
    Ok(true)
}

pub(crate) fn make_dir(dir: &Path) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(Error::io("create directory", dir))
}

/// The version that `..data` names, if it is one of ours.
fn current(dir: &Path) -> Option<String> {
    let target = fs::read_link(dir.join(DATA_LINK)).ok()?.into_os_string().into_string().ok()?;
    (target.starts_with("..") && !target.contains('/') && target != "..").then_some(target)
}

fn check_path(path: &str) -> Result<(), Error> {
    let relative = Path::new(path);
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    let long = path.len() > MAX_PATH_BYTES || path.split('/').any(|name| name.len() > MAX_NAME_BYTES);
    if path.is_empty() || !plain || long || path.starts_with("..") || path.contains('\0') {
        return Err(Error::InvalidPath(path.to_owned()));
    }
    Ok(())
}

fn new_version(dir: &Path, now: Timestamp) -> Result<String, Error> {
    let stamp = now.strftime("..%Y_%m_%d_%H_%M_%S").to_string();
    for suffix in 0..u32::MAX {
        let name = format!("{stamp}.{:09}{suffix}", now.subsec_nanosecond());
        let path = dir.join(&name);
        match fs::create_dir(&path) {
            Ok(()) => {
                set_mode(&path, 0o755)?;
                return Ok(name);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io("create directory", &path)(error)),
        }
    }
    Err(Error::Invalid(format!("no free version name in {}", dir.display())))
}

fn write_files(root: &Path, payload: &Payload) -> Result<(), Error> {
    for (path, file) in payload {
        let target = root.join(path);
        if let Some(parent) = target.parent() {
            make_dir(parent)?;
        }
        let mut open = fs::OpenOptions::new();
        // Created private, then given its mode: a secret is never readable by others in between.
        let mut out =
            open.write(true).create_new(true).mode(0o600).open(&target).map_err(Error::io("create", &target))?;
        out.write_all(&file.data).map_err(Error::io("write", &target))?;
        give_away(&target, file)?;
        set_mode(&target, file.mode)?;
    }
    Ok(())
}

/// Before the mode is set: giving a file away may clear bits.
fn give_away(target: &Path, file: &File) -> Result<(), Error> {
    if file.user.is_none() && file.group.is_none() {
        return Ok(());
    }
    match chown(target, file.user, file.group) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => other.map_err(Error::io("change the owner of", target)),
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(Error::io("set mode of", path))
}

/// The names that users see: the first part of each path.
fn user_names(payload: &Payload) -> BTreeSet<&str> {
    payload.keys().map(|path| path.split('/').next().unwrap_or(path)).collect()
}

fn link_user_files(dir: &Path, payload: &Payload) -> Result<(), Error> {
    for name in user_names(payload) {
        let (link, target) = (dir.join(name), Path::new(DATA_LINK).join(name));
        if fs::read_link(&link).is_ok_and(|held| held == target) {
            continue;
        }
        ignore_missing(fs::remove_file(&link)).map_err(Error::io("remove", &link))?;
        symlink(&target, &link).map_err(Error::io("link", &link))?;
    }
    Ok(())
}

/// Removes links whose file is gone and every version but the current one.
fn remove_stale(dir: &Path, version: &str, payload: &Payload) -> Result<(), Error> {
    let keep = user_names(payload);
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if name == version || name == DATA_LINK || keep.contains(name.as_str()) {
            continue;
        }
        let is_dir = entry.file_type().map_err(Error::io("inspect", &path))?.is_dir();
        let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        ignore_missing(removed).map_err(Error::io("remove", &path))?;
    }
    Ok(())
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn same(root: &Path, payload: &Payload) -> bool {
    let held_alike = payload.iter().all(|(path, file)| {
        let target = root.join(path);
        fs::metadata(&target).is_ok_and(|meta| meta.permissions().mode() & 0o777 == file.mode)
            && fs::read(&target).is_ok_and(|data| data == file.data)
    });
    held_alike && count_files(root) == payload.len()
}

fn count_files(root: &Path) -> usize {
    let mut pending: Vec<PathBuf> = vec![root.to_path_buf()];
    let mut count = 0;
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => pending.push(entry.path()),
                _ => count += 1,
            }
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |data: &str| File::new(data.into(), 0o640);
        files.iter().map(|(path, data)| ((*path).to_owned(), file(data))).collect()
    }

    /// Writes the versions one after the other and compares what users then see.
    fn check(versions: &[&[(&str, &str)]], visible: &[(&str, &str)]) {
        let dir = tempfile::tempdir().unwrap();
        for files in versions {
            write(dir.path(), &payload(files), Timestamp::UNIX_EPOCH).unwrap();
        }
        let mut names: Vec<String> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.starts_with(".."));
        names.sort();
        let expected: BTreeSet<&str> = visible.iter().map(|(path, _)| path.split('/').next().unwrap()).collect();
        assert_eq!(names, expected.into_iter().collect::<Vec<_>>());
        for (path, data) in visible {
            let path = dir.path().join(path);
            assert_eq!(fs::read_to_string(&path).unwrap(), *data);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        }
        let versions =
            fs::read_dir(dir.path()).unwrap().filter(|entry| entry.as_ref().unwrap().file_type().unwrap().is_dir());
        assert_eq!(versions.count(), 1, "old versions are removed");
    }

    #[test]
    fn files_appear_change_and_go() {
        check(&[&[("a", "1"), ("d/b", "2")]], &[("a", "1"), ("d/b", "2")]);
        check(&[&[("a", "1"), ("b", "2")], &[("a", "3")]], &[("a", "3")]);
        check(&[&[("a", "1")], &[]], &[]);
        check(&[&[("d/x", "1")], &[("d/y", "2")]], &[("d/y", "2")]);
    }

    #[test]
    fn the_same_content_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        assert!(write(dir.path(), &payload(&[("a", "1")]), Timestamp::UNIX_EPOCH).unwrap());
        assert!(!write(dir.path(), &payload(&[("a", "1")]), Timestamp::now()).unwrap());
        assert!(write(dir.path(), &payload(&[("a", "2")]), Timestamp::now()).unwrap());
    }

    #[test]
    fn paths_cannot_leave_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["", "/etc/passwd", "../a", "a/../../b", "..data", "..x", "a/./../../c", &"n".repeat(256)] {
            let error = write(dir.path(), &payload(&[(path, "")]), Timestamp::UNIX_EPOCH).unwrap_err();
            assert!(matches!(error, Error::InvalidPath(_)), "{path}: {error}");
        }
    }
}
