//! `subPath`: a place inside a volume, never one outside it.
//!
//! The path is walked below a directory handle (cap-std), so neither `..` nor a symlink that a guest left can lead out of
//! the volume; what is returned holds no links. A missing directory is made, as upstream makes it.
//! Absent on purpose: protection from a guest that swaps a directory for a link between this walk and the engine's open;
//! engines open mounts below a handle of their own.

use std::path::{Component, Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::Dir;

use crate::Error;

/// The host path of `sub_path` in the volume at `volume`.
pub fn resolve(volume: &Path, sub_path: &str) -> Result<PathBuf, Error> {
    let relative = Path::new(sub_path);
    if relative.is_absolute() || relative.components().any(|part| matches!(part, Component::ParentDir)) {
        return Err(Error::InvalidPath(sub_path.to_owned()));
    }
    if relative.components().all(|part| part == Component::CurDir) {
        return Ok(volume.to_path_buf());
    }
    let root = Dir::open_ambient_dir(volume, ambient_authority()).map_err(Error::io("open volume", volume))?;
    if root.symlink_metadata(relative).is_err() {
        root.create_dir_all(relative).map_err(Error::io("create subPath directory", relative))?;
    }
    let inside = root.canonicalize(relative).map_err(Error::io("resolve subPath", relative))?;
    Ok(volume.join(inside))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn check(sub_path: &str, expected: Option<&str>) {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        fs::create_dir_all(volume.join("real/deep")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        symlink("real", volume.join("inner")).unwrap();
        symlink("../outside", volume.join("escape")).unwrap();
        symlink("/etc", volume.join("absolute")).unwrap();
        let resolved = resolve(&volume, sub_path);
        match expected {
            Some(path) => assert_eq!(resolved.unwrap(), volume.join(path), "{sub_path}"),
            None => assert!(resolved.is_err(), "{sub_path}: {resolved:?}"),
        }
    }

    #[test]
    fn sub_paths_stay_inside_the_volume() {
        check("real/deep", Some("real/deep"));
        check("inner/deep", Some("real/deep"));
        check("new/dir", Some("new/dir"));
        check(".", Some(""));
        check("../outside", None);
        check("real/../../outside", None);
        check("/etc", None);
        check("escape", None);
        check("absolute", None);
        check("absolute/passwd", None);
    }
}
