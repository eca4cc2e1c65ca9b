//! A runtime on a loopback network, with images made from WAT or from the guests that `cargo xtask guests` builds.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use wharf_cri::contract::{Program, Subject};
use wharf_cri::{ContainerConfig, ContainerId, ContainerStatus, Runtime, SandboxConfig, SandboxId};
use wharf_net::{Error, Network, PodAddress, Transport};
use wharf_wasm::{ArtifactFile, Artifacts, Options, WasmRuntime};

/// How long a claim may take to come true on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Pods in 127/8, each process in a range of its own so that test binaries do not meet.
#[derive(Default)]
pub struct Loopback {
    pods: Mutex<HashMap<String, PodAddress>>,
    pub services: Mutex<HashMap<SocketAddr, SocketAddr>>,
    pub names: Mutex<HashMap<String, IpAddr>>,
}

static NEXT: AtomicU32 = AtomicU32::new(1);

#[async_trait]
impl Network for Loopback {
    fn allocate(&self, uid: &str) -> Result<PodAddress, Error> {
        let fresh = || {
            let n = NEXT.fetch_add(1, Ordering::Relaxed) & 0x3ff;
            let host = ((std::process::id() & 0x7ff) << 11 | n << 1) & 0x3f_ffff;
            let ip = |top: u32| Ipv4Addr::from(127 << 24 | top << 22 | host).into();
            PodAddress { ip: ip(1), loopback: ip(2) }
        };
        Ok(*self.pods.lock().entry(uid.to_owned()).or_insert_with(fresh))
    }

    fn release(&self, uid: &str) {
        self.pods.lock().remove(uid);
    }

    fn bind(&self, pod: &PodAddress, address: SocketAddr) -> Result<SocketAddr, Error> {
        let ip = if address.ip().is_loopback() { pod.loopback } else { pod.ip };
        Ok(SocketAddr::new(ip, address.port()))
    }

    fn connect(&self, pod: &PodAddress, _: Transport, address: SocketAddr) -> Result<SocketAddr, Error> {
        if let Some(backend) = self.services.lock().get(&address) {
            return Ok(*backend);
        }
        match address.ip() {
            IpAddr::V4(ip) if ip.octets()[..2] == [127, 0] => Ok(SocketAddr::new(pod.loopback, address.port())),
            IpAddr::V4(ip) if ip.octets()[0] == 10 => Err(Error::NoEndpoint(address)),
            _ => Ok(address),
        }
    }

    fn visible(&self, pod: &PodAddress, address: SocketAddr) -> SocketAddr {
        let ip = if address.ip() == pod.loopback { Ipv4Addr::LOCALHOST.into() } else { address.ip() };
        SocketAddr::new(ip, address.port())
    }

    async fn lookup(&self, name: &str, _: &[String]) -> Result<Vec<IpAddr>, Error> {
        let found = self.names.lock().get(name).copied();
        found.map(|ip| vec![ip]).ok_or_else(|| Error::NoSuchName(name.to_owned()))
    }
}

/// Images in a directory, by the digest of their bytes.
#[derive(Default)]
pub struct Images(Mutex<HashMap<String, ArtifactFile>>);

impl Artifacts for Images {
    fn open(&self, image_id: &str) -> wharf_cri::Result<Option<ArtifactFile>> {
        Ok(self.0.lock().get(image_id).cloned())
    }
}

pub struct Bench {
    pub dir: tempfile::TempDir,
    pub network: Arc<Loopback>,
    pub images: Arc<Images>,
    pub runtime: Arc<WasmRuntime>,
}

pub fn bench() -> Bench {
    bench_with(None)
}

/// With the toolbox that `cargo xtask guests` builds.
pub fn bench_with_tools() -> Bench {
    bench_with(Some(guest_file("toolbox")))
}

fn bench_with(toolbox: Option<PathBuf>) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let (network, images) = (Arc::new(Loopback::default()), Arc::new(Images::default()));
    let runtime = Arc::new(runtime_with(dir.path(), &network, images.clone(), toolbox));
    Bench { dir, network, images, runtime }
}

pub fn runtime(dir: &Path, network: &Arc<Loopback>, artifacts: Arc<dyn Artifacts>) -> WasmRuntime {
    runtime_with(dir, network, artifacts, None)
}

pub fn runtime_with(
    dir: &Path,
    network: &Arc<Loopback>,
    artifacts: Arc<dyn Artifacts>,
    toolbox: Option<PathBuf>,
) -> WasmRuntime {
    WasmRuntime::new(Options {
        data: dir.join("data"),
        network: network.clone(),
        artifacts,
        clock: Arc::new(jiff::Timestamp::now),
        guest_threads: None,
        toolbox,
    })
    .unwrap()
}

/// Where `cargo xtask guests` puts a guest.
pub fn guest_file(name: &str) -> PathBuf {
    let dir = std::env::var_os("WHARF_GUESTS").map(PathBuf::from);
    let dir = dir.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests"));
    dir.join(format!("{name}.wasm"))
}

impl Bench {
    /// An image of these bytes.
    pub fn image(&self, name: &str, bytes: &[u8]) -> Program {
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(bytes)));
        let path = self.dir.path().join(format!("{}.wasm", digest.replace(':', "-")));
        std::fs::write(&path, bytes).unwrap();
        let file = ArtifactFile { path, digest: digest.clone(), ..Default::default() };
        self.images.0.lock().insert(digest.clone(), file);
        Program { image: format!("test/{name}:v1"), image_id: digest }
    }

    pub fn wat(&self, name: &str, text: &str) -> Program {
        self.image(name, &wat::parse_str(text).unwrap())
    }

    /// An image of a guest that `cargo xtask guests` has built.
    pub fn guest(&self, name: &str) -> Program {
        let path = guest_file(name);
        let bytes = std::fs::read(&path)
            .unwrap_or_else(|error| panic!("{}: {error}; run `cargo xtask guests`", path.display()));
        self.image(name, &bytes)
    }

    pub async fn sandbox(&self, name: &str) -> SandboxId {
        let config = SandboxConfig {
            name: name.into(),
            uid: format!("uid-{name}"),
            hostname: name.into(),
            log_dir: self.dir.path().join("logs").join(name),
            ..Default::default()
        };
        self.runtime.run_sandbox(config).await.unwrap()
    }

    pub async fn ip(&self, sandbox: &SandboxId) -> IpAddr {
        self.runtime.sandbox(sandbox).await.unwrap().ips[0]
    }

    /// Creates and starts a container.
    pub async fn start(&self, sandbox: &SandboxId, config: ContainerConfig) -> wharf_cri::Result<ContainerId> {
        let id = self.runtime.create_container(sandbox, config).await?;
        self.runtime.start_container(&id).await.map(|()| id)
    }

    /// Runs a container in a pod of its own to its end, and returns that and its log without time stamps.
    pub async fn run(&self, config: ContainerConfig) -> (ContainerStatus, String) {
        let sandbox = self.sandbox(&format!("run-{}", NEXT.fetch_add(1, Ordering::Relaxed))).await;
        let id = self.start(&sandbox, config).await.unwrap();
        let status = self.exited(&id).await;
        let log = self.log(&id).await;
        (status, log)
    }

    pub async fn exited(&self, id: &ContainerId) -> ContainerStatus {
        let subject = Subject {
            runtime: self.runtime.clone(),
            forever: Program { image: String::new(), image_id: String::new() },
            exits_0: Program { image: String::new(), image_id: String::new() },
            exits_3: Program { image: String::new(), image_id: String::new() },
            log_root: PathBuf::new(),
            keep: Box::new(()),
        };
        subject.exited(id).await
    }

    /// A container's log without its time stamps.
    pub async fn log(&self, id: &ContainerId) -> String {
        let path = self.runtime.container(id).await.unwrap().log_path;
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap().1).fold(String::new(), |all, line| all + line + "\n")
    }

    /// Waits until the container's log says this.
    pub async fn logged(&self, id: &ContainerId, text: &str) {
        let wait = async {
            while !self.log(id).await.contains(text) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("the log says {text:?}"));
    }
}

pub fn config(program: &Program) -> ContainerConfig {
    ContainerConfig {
        name: "main".into(),
        image: program.image.clone(),
        image_id: program.image_id.clone(),
        log_path: "main/0.log".into(),
        ..Default::default()
    }
}

pub fn with_args(program: &Program, args: &[&str]) -> ContainerConfig {
    ContainerConfig { args: args.iter().map(|arg| (*arg).to_owned()).collect(), ..config(program) }
}

/// `_start` of a WASI 0.1 module around this body, with the usual imports and a memory of one page.
pub fn module(body: &str) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            {body})"#
    )
}

pub fn looping() -> String {
    module(r#"(func (export "_start") (loop $again (br $again)))"#)
}

pub fn exiting(code: i32) -> String {
    module(&format!(r#"(func (export "_start") (call $exit (i32.const {code})))"#))
}
