//! The nouns of the Runtime contract.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use jiff::Timestamp;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SandboxId(pub String);

/// Without the `scheme://` that the API's `containerID` has in front.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(pub String);

macro_rules! display {
    ($($ty:ty),*) => { $(impl std::fmt::Display for $ty {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(&self.0) }
    })* };
}
display!(SandboxId, ContainerId);

#[derive(Clone, Debug)]
pub struct Version {
    pub name: String,
    pub version: String,
}

#[derive(Clone, Debug, Default)]
pub struct SandboxConfig {
    /// The pod.
    pub name: String,
    pub namespace: String,
    pub uid: String,
    /// Counts sandboxes of one pod, from 0.
    pub attempt: u32,
    pub hostname: String,
    /// Holds the containers' log files: `<log_dir>/<container>/<attempt>.log`.
    pub log_dir: PathBuf,
    pub dns: DnsConfig,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// `hostNetwork: true`
    pub host_network: bool,
    pub port_mappings: Vec<PortMapping>,
}

#[derive(Clone, Debug, Default)]
pub struct DnsConfig {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct PortMapping {
    pub protocol: Protocol,
    pub container_port: u16,
    /// 0 where the port is only declared.
    pub host_port: u16,
    pub host_ip: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxState {
    Ready,
    NotReady,
}

#[derive(Clone, Debug)]
pub struct SandboxStatus {
    pub id: SandboxId,
    pub config: SandboxConfig,
    pub state: SandboxState,
    pub created_at: Timestamp,
    /// The first is the pod's primary address. Empty for host network.
    pub ips: Vec<IpAddr>,
}

#[derive(Clone, Debug, Default)]
pub struct ContainerConfig {
    pub name: String,
    /// Counts starts of this container in its pod, from 0 (the API's restartCount).
    pub attempt: u32,
    /// As resolved by [`crate::Images`]: what `ImageStatus::id` says.
    pub image_id: String,
    /// As the user wrote it.
    pub image: String,
    /// Replaces the image's entrypoint; empty keeps it.
    pub command: Vec<String>,
    /// Replaces the image's command; empty keeps it.
    pub args: Vec<String>,
    /// Empty keeps the image's.
    pub working_dir: String,
    pub env: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    /// Ports that the container declares; an HTTP component listens on the first TCP one (one named `http` wins).
    pub ports: Vec<ContainerPort>,
    /// Relative to the sandbox's log directory.
    pub log_path: PathBuf,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    pub resources: Resources,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// A host file; what the container writes to its termination-message path ends up here.
    pub termination_message: Option<PathBuf>,
    pub read_only_root: bool,
}

#[derive(Clone, Debug)]
pub struct ContainerPort {
    pub name: String,
    pub port: u16,
    pub protocol: Protocol,
}

#[derive(Clone, Debug)]
pub struct Mount {
    pub container_path: String,
    /// A directory or a single file.
    pub host_path: PathBuf,
    pub read_only: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Resources {
    /// None is unlimited.
    pub memory_limit_bytes: Option<u64>,
    /// Thousandths of a core; none is unlimited.
    pub cpu_limit_millis: Option<u64>,
    pub cpu_request_millis: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerState {
    Created,
    Running,
    Exited,
    Unknown,
}

#[derive(Clone, Debug)]
pub struct ContainerStatus {
    pub id: ContainerId,
    pub sandbox: SandboxId,
    pub name: String,
    pub attempt: u32,
    pub image: String,
    pub image_id: String,
    pub state: ContainerState,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    /// 137 for a kill, 143 for a SIGTERM that ended it, as for Linux containers.
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `ContainerCannotRun`, `DeadlineExceeded` …; empty while it runs.
    pub reason: String,
    pub message: String,
    pub log_path: PathBuf,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default)]
pub struct ContainerStats {
    pub cpu_usage_core_nanos: u64,
    pub memory_working_set_bytes: u64,
    pub memory_rss_bytes: u64,
    pub rootfs_used_bytes: u64,
}

#[derive(Clone, Debug, Default)]
pub struct ExecResult {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit_code: i32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// Something about this pod (by UID) changed: a container was created, started, stopped or removed.
    Pod { uid: String },
    /// Events were dropped; look at everything.
    Resync,
}

#[derive(Clone, Debug, Default)]
pub struct RegistryAuth {
    pub username: String,
    pub password: String,
    pub identity_token: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageStatus {
    /// The digest of the config or module: what the API's `imageID` ends in (`sha256:…`).
    pub id: String,
    pub tags: Vec<String>,
    /// `repository@sha256:…`
    pub digests: Vec<String>,
    pub size_bytes: u64,
    /// True for Wasm, false for a Linux image.
    pub wasm: bool,
}
