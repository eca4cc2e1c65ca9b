//! What a container may open: a private root, and the pod's mounts in it.
//!
//! Each container has a root directory of its own, with `/tmp`, `/dev`, `/etc/hostname`, `/etc/resolv.conf` and `/proc/1/cmdline`
//! (what `ps` shows), which goes when it is removed. A directory that is mounted is opened in its place; WASI never resolves a path out of an opened directory.
//! A single file is put into the root: linked if the guest may write it, else copied (as a bind mount, it does not follow a
//! later rename over the source). Absent on purpose: device files, and the mount of a file inside a mounted directory.

use std::io;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use wharf_cri::{ContainerConfig, DnsConfig, Mount};

use crate::guest::Preopen;

/// Where a container's last words are read from unless a mount says otherwise.
const TERMINATION_PATH: &str = "/dev/termination-log";

/// How much of them is kept.
const MAX_TERMINATION_BYTES: u64 = 4096;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("mount path {0:?} must be absolute and must not contain '..'")]
    Path(String),
    #[error("mount of a file at {file}, inside the volume mounted at {volume}, is not supported")]
    FileInVolume { file: String, volume: String },
    #[error("mount {path}")]
    Mount {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("make the root of a container")]
    Root(#[from] io::Error),
}

/// The files of one container.
pub struct Files {
    root: PathBuf,
    pub preopens: Vec<Preopen>,
    /// The path, below the root, of the file whose content is the termination message, and where that goes.
    termination: Option<(PathBuf, PathBuf)>,
}

impl Files {
    /// Lays the files out below `root`, for a container whose program is started with `argv`.
    pub fn prepare(
        root: PathBuf,
        config: &ContainerConfig,
        argv: &[String],
        hostname: &str,
        dns: &DnsConfig,
    ) -> Result<Files, Error> {
        let termination = termination(config)?;
        make_root(&root, argv, hostname, dns)?;
        let mut volumes = Vec::new();
        let mut files = Vec::new();
        for mount in config.mounts.iter().filter(|mount| Some(&mount.host_path) != config.termination_message.as_ref())
        {
            let path = relative(&mount.container_path)?;
            let is_dir = std::fs::metadata(&mount.host_path)
                .map_err(|source| Error::Mount { path: mount.container_path.clone(), source })?
                .is_dir();
            if is_dir { volumes.push((path, mount)) } else { files.push((path, mount)) }
        }
        let mut preopens = vec![Preopen { host: root.clone(), guest: "/".into(), read_only: config.read_only_root }];
        for (path, mount) in &volumes {
            make_dir(&root, path, mount)?;
            let guest = format!("/{}", path.display());
            preopens.push(Preopen { host: mount.host_path.clone(), guest, read_only: mount.read_only });
        }
        let mut written = Vec::new();
        for (path, mount) in &files {
            if let Some((volume, _)) = volumes.iter().find(|(volume, _)| path.starts_with(volume)) {
                let volume = format!("/{}", volume.display());
                return Err(Error::FileInVolume { file: mount.container_path.clone(), volume });
            }
            place(&root.join(path), mount)
                .map_err(|source| Error::Mount { path: mount.container_path.clone(), source })?;
            written.extend((!mount.read_only).then_some(path.as_path()));
        }
        written.extend(termination.as_ref().map(|(path, _)| path.as_path()));
        if config.read_only_root {
            for dir in written.iter().filter_map(|path| path.parent()) {
                let (host, guest) = (root.join(dir), format!("/{}", dir.display()));
                if !preopens.iter().any(|preopen| preopen.guest == guest) {
                    std::fs::create_dir_all(&host)?;
                    preopens.push(Preopen { host, guest, read_only: false });
                }
            }
        }
        Ok(Files { root, preopens, termination })
    }

    /// Copies what the container left as its last words to where the node looks for them. Follows no link out of the root.
    pub fn collect_termination_message(&self) -> io::Result<()> {
        let Some((path, to)) = &self.termination else { return Ok(()) };
        let root = Dir::open_ambient_dir(&self.root, ambient_authority())?;
        let file = match root.open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        // A directory has no last words. (A guest can make nothing else that is not a file.)
        if !file.metadata()?.is_file() {
            return Ok(());
        }
        let mut message = Vec::new();
        file.take(MAX_TERMINATION_BYTES).read_to_end(&mut message)?;
        if message.is_empty() { Ok(()) } else { std::fs::write(to, message) }
    }

    /// Bytes that the container wrote outside its volumes.
    pub fn used_bytes(&self) -> u64 {
        fn walk(dir: &Path) -> u64 {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            entries
                .map(|entry| match entry.metadata() {
                    Ok(metadata) if metadata.is_dir() => walk(&entry.path()),
                    Ok(metadata) => metadata.len(),
                    Err(_) => 0,
                })
                .sum()
        }
        walk(&self.root)
    }
}

fn termination(config: &ContainerConfig) -> Result<Option<(PathBuf, PathBuf)>, Error> {
    let Some(to) = &config.termination_message else { return Ok(None) };
    let mount = config.mounts.iter().find(|mount| mount.host_path == *to);
    let path = relative(mount.map_or(TERMINATION_PATH, |mount| &mount.container_path))?;
    Ok(Some((path, to.clone())))
}

/// A container path below the root.
fn relative(path: &str) -> Result<PathBuf, Error> {
    let wrong = || Error::Path(path.to_owned());
    let mut parts = Path::new(path).components();
    if parts.next() != Some(Component::RootDir) {
        return Err(wrong());
    }
    let relative: PathBuf = parts
        .map(|part| match part {
            Component::Normal(name) => Ok(name),
            _ => Err(wrong()),
        })
        .collect::<Result<_, _>>()?;
    if relative.as_os_str().is_empty() { Err(wrong()) } else { Ok(relative) }
}

fn make_root(root: &Path, argv: &[String], hostname: &str, dns: &DnsConfig) -> io::Result<()> {
    for dir in ["tmp", "dev", "etc", "proc/1"] {
        std::fs::create_dir_all(root.join(dir))?;
    }
    let command_line: String = argv.iter().map(|word| format!("{word}\0")).collect();
    std::fs::write(root.join("proc/1/cmdline"), command_line)?;
    std::fs::write(root.join("etc/hostname"), format!("{hostname}\n"))?;
    std::fs::write(root.join("etc/resolv.conf"), resolv_conf(dns))
}

fn resolv_conf(dns: &DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    text
}

/// The place where a volume appears, so that listing its parent shows it.
fn make_dir(root: &Path, path: &Path, mount: &Mount) -> Result<(), Error> {
    std::fs::create_dir_all(root.join(path))
        .map_err(|source| Error::Mount { path: mount.container_path.clone(), source })
}

fn place(at: &Path, mount: &Mount) -> io::Result<()> {
    if let Some(parent) = at.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::remove_file(at) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if mount.read_only {
        std::fs::copy(&mount.host_path, at)?;
        let mut permissions = std::fs::metadata(at)?.permissions();
        permissions.set_readonly(true);
        std::fs::set_permissions(at, permissions)
    } else {
        // Through any link, so that it is the file itself which is shared.
        std::fs::hard_link(std::fs::canonicalize(&mount.host_path)?, at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        dir: tempfile::TempDir,
        config: ContainerConfig,
    }

    impl Bench {
        fn new() -> Bench {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join("volume")).unwrap();
            std::fs::write(dir.path().join("file"), "content").unwrap();
            Bench { dir, config: ContainerConfig::default() }
        }

        fn mount(mut self, at: &str, host: &str, read_only: bool) -> Bench {
            let host_path = self.dir.path().join(host);
            self.config.mounts.push(Mount { container_path: at.into(), host_path, read_only });
            self
        }

        fn prepare(&self) -> Result<Files, Error> {
            let argv = ["show".to_owned(), "a b".to_owned()];
            Files::prepare(self.dir.path().join("root"), &self.config, &argv, "web-0", &DnsConfig::default())
        }

        fn check_error(&self, expected: &str) {
            assert_eq!(self.prepare().err().expect("it is refused").to_string(), expected);
        }

        fn root(&self, path: &str) -> PathBuf {
            self.dir.path().join("root").join(path)
        }
    }

    #[test]
    fn directories_are_opened_in_place_with_the_permissions_asked_for() {
        let bench = Bench::new().mount("/data", "volume", true);
        let files = bench.prepare().unwrap();
        let opened: Vec<_> = files.preopens.iter().map(|p| (p.guest.as_str(), p.read_only)).collect();
        assert_eq!(opened, [("/", false), ("/data", true)]);
        assert!(bench.root("data").is_dir());
        assert_eq!(std::fs::read_to_string(bench.root("etc/hostname")).unwrap(), "web-0\n");
        assert_eq!(std::fs::read(bench.root("proc/1/cmdline")).unwrap(), b"show\0a b\0");
    }

    #[test]
    fn a_writable_file_is_shared_and_a_read_only_one_is_not() {
        let bench = Bench::new().mount("/etc/shared", "file", false).mount("/etc/copy", "file", true);
        bench.prepare().unwrap();
        std::fs::write(bench.root("etc/shared"), "changed").unwrap();
        assert_eq!(std::fs::read_to_string(bench.dir.path().join("file")).unwrap(), "changed");
        assert_eq!(std::fs::read_to_string(bench.root("etc/copy")).unwrap(), "content");
    }

    #[test]
    fn what_cannot_be_mounted_is_named() {
        let bench = Bench::new().mount("/a/../b", "volume", false);
        bench.check_error("mount path \"/a/../b\" must be absolute and must not contain '..'");
        Bench::new()
            .mount("/v", "volume", false)
            .mount("/v/f", "file", false)
            .check_error("mount of a file at /v/f, inside the volume mounted at /v, is not supported");
        Bench::new().mount("/v", "absent", false).check_error("mount /v");
    }

    #[test]
    fn last_words_are_collected_even_with_a_read_only_root() {
        let mut bench = Bench::new();
        bench.config.read_only_root = true;
        bench.config.termination_message = Some(bench.dir.path().join("message"));
        let files = bench.prepare().unwrap();
        assert!(files.preopens.iter().any(|p| p.guest == "/dev" && !p.read_only));
        files.collect_termination_message().expect("nothing said is no error");
        std::fs::write(bench.root("dev/termination-log"), "x".repeat(5000)).unwrap();
        files.collect_termination_message().unwrap();
        assert_eq!(std::fs::read(bench.dir.path().join("message")).unwrap().len() as u64, MAX_TERMINATION_BYTES);
    }

    #[test]
    fn a_link_out_of_the_root_is_not_followed() {
        let mut bench = Bench::new();
        bench.config.termination_message = Some(bench.dir.path().join("message"));
        let files = bench.prepare().unwrap();
        std::os::unix::fs::symlink("../../file", bench.root("dev/termination-log")).unwrap();
        assert!(files.collect_termination_message().is_err());
        assert!(!bench.dir.path().join("message").exists());
    }
}
