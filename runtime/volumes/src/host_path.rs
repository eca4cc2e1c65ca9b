//! `hostPath`: a file or directory of the host, after its type was checked as upstream checks it.

use std::fs::{self, FileType};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::HostPathVolumeSource;

use crate::{Error, Setup, Volume};

pub struct HostPath {
    path: PathBuf,
    kind: String,
}

impl HostPath {
    pub fn new(source: &HostPathVolumeSource) -> Self {
        Self { path: PathBuf::from(&source.path), kind: source.type_.clone().unwrap_or_default() }
    }

    fn check(&self) -> Result<(), Error> {
        let held = fs::metadata(&self.path).ok().map(|meta| meta.file_type());
        let is = |test: fn(&FileType) -> bool, what: &str| match &held {
            Some(kind) if test(kind) => Ok(()),
            _ => Err(Error::HostPath(format!("{} is not {what}", self.path.display()))),
        };
        match self.kind.as_str() {
            "" => match held {
                Some(_) => Ok(()),
                // What a bind mount of a missing path would do.
                None => self.make_dir(),
            },
            "DirectoryOrCreate" if held.is_none() => self.make_dir(),
            "FileOrCreate" if held.is_none() => self.make_file(),
            "Directory" | "DirectoryOrCreate" => is(FileType::is_dir, "a directory"),
            "File" | "FileOrCreate" => is(FileType::is_file, "a file"),
            "Socket" => is(FileType::is_socket, "a socket file"),
            "CharDevice" => is(FileType::is_char_device, "a character device"),
            "BlockDevice" => is(FileType::is_block_device, "a block device"),
            other => Err(Error::HostPath(format!("{other} is an invalid volume type"))),
        }
    }

    fn make_dir(&self) -> Result<(), Error> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&self.path)
            .map_err(Error::io("create directory", &self.path))
    }

    fn make_file(&self) -> Result<(), Error> {
        let mut open = fs::OpenOptions::new();
        let opened = open.write(true).create_new(true).mode(0o644).open(&self.path);
        opened.map(drop).map_err(Error::io("create", &self.path))
    }
}

#[async_trait]
impl Volume for HostPath {
    fn path(&self) -> &Path {
        &self.path
    }

    async fn set_up(&self, _: Setup<'_>) -> Result<(), Error> {
        self.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: &str, name: &str, expected: Result<(), &str>) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        fs::create_dir(dir.path().join("dir")).unwrap();
        let path = dir.path().join(name);
        let source = HostPathVolumeSource { path: path.display().to_string(), type_: Some(kind.to_owned()) };
        let result = HostPath::new(&source).check().map_err(|error| error.to_string());
        match expected {
            Ok(()) => assert_eq!(result, Ok(()), "{kind} {name}"),
            Err(text) => assert!(result.clone().unwrap_err().ends_with(text), "{kind} {name}: {result:?}"),
        }
    }

    #[test]
    fn types_are_checked() {
        check("", "file", Ok(()));
        check("", "new", Ok(()));
        check("Directory", "dir", Ok(()));
        check("Directory", "file", Err("file is not a directory"));
        check("Directory", "new", Err("new is not a directory"));
        check("DirectoryOrCreate", "new", Ok(()));
        check("DirectoryOrCreate", "file", Err("file is not a directory"));
        check("File", "file", Ok(()));
        check("File", "dir", Err("dir is not a file"));
        check("FileOrCreate", "new", Ok(()));
        check("Socket", "file", Err("file is not a socket file"));
        check("CharDevice", "file", Err("file is not a character device"));
        check("Sock", "file", Err("Sock is an invalid volume type"));
    }
}
