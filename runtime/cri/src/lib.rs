//! The Runtime contract: what a node asks of whatever runs its pods, with CRI's semantics.
//!
//! Source of the semantics: `k8s.io/cri-api/pkg/apis/runtime/v1`. A pod is one sandbox that is made first and dies last;
//! containers come and go inside it. Every implementation passes `contract::suite`; [`fake`] is one for simulated nodes.
//! Absent on purpose: retries, restart policy, probes (the node's job).

pub mod contract;
pub mod events;
pub mod fake;
pub mod streams;
pub mod types;

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;

pub use streams::{Connection, Ends, Streams, TerminalSize, Wanted};
pub use types::*;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0} not found")]
    NotFound(String),
    #[error("{0} already exists")]
    AlreadyExists(String),
    /// The request cannot hold, whatever the state: the pod's fault, shown to its user as it stands.
    #[error("{0}")]
    Invalid(String),
    /// The container could not be created: its config or image is at fault (`CreateContainerError`).
    #[error("{0}")]
    Create(String),
    /// The container could not be started (`RunContainerError`, e.g. a port that is taken).
    #[error("{0}")]
    Start(String),
    /// An image could not be had; the node shows ErrImagePull.
    #[error("{0}")]
    ImagePull(String),
    /// The image is there but is not something this runtime can run.
    #[error("{0}")]
    ImageInspect(String),
    #[error("{0} is not supported by this runtime")]
    Unsupported(&'static str),
    #[error("{operation} timed out")]
    Timeout { operation: &'static str },
    #[error("{operation}")]
    Internal {
        operation: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

pub type Result<T> = std::result::Result<T, Error>;

/// CRI's RuntimeService.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Name and version, as the node's `containerRuntimeVersion` shows them (`wharf://0.1.0`).
    async fn version(&self) -> Result<Version>;

    /// Idempotent by [`SandboxConfig::uid`] and `attempt` while the sandbox is ready; one that was stopped `AlreadyExists`, so
    /// its pod's next sandbox is the next attempt.
    async fn run_sandbox(&self, config: SandboxConfig) -> Result<SandboxId>;
    /// Kills what still runs in the sandbox and frees its address. Idempotent.
    async fn stop_sandbox(&self, id: &SandboxId) -> Result<()>;
    /// Forgets a sandbox and its containers. Idempotent.
    async fn remove_sandbox(&self, id: &SandboxId) -> Result<()>;
    async fn sandbox(&self, id: &SandboxId) -> Result<SandboxStatus>;
    async fn sandboxes(&self) -> Result<Vec<SandboxStatus>>;

    /// The image must have been pulled. Creates, but does not start.
    async fn create_container(&self, sandbox: &SandboxId, config: ContainerConfig) -> Result<ContainerId>;
    async fn start_container(&self, id: &ContainerId) -> Result<()>;
    /// SIGTERM, then SIGKILL after `grace` (zero kills at once: 137). Returns when the container is no longer running.
    /// Idempotent; what is not known or never ran is no error.
    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<()>;
    /// Idempotent; kills a running container.
    async fn remove_container(&self, id: &ContainerId) -> Result<()>;
    async fn container(&self, id: &ContainerId) -> Result<ContainerStatus>;
    async fn containers(&self) -> Result<Vec<ContainerStatus>>;
    /// Asks the container's log writer to reopen its file after a rotation.
    async fn reopen_log(&self, id: &ContainerId) -> Result<()>;
    async fn stats(&self, id: &ContainerId) -> Result<ContainerStats>;
    /// [`Runtime::stats`] where nothing but CPU and memory is wanted; what costs more to find out may be zero.
    async fn cpu_and_memory(&self, id: &ContainerId) -> Result<ContainerStats> {
        self.stats(id).await
    }

    /// Runs a command in the container's place (its env, volumes, addresses) and waits for it.
    async fn exec_sync(&self, id: &ContainerId, command: Vec<String>, timeout: Option<Duration>) -> Result<ExecResult>;

    /// Runs a command in the container's place with these streams, and returns its exit code. Dropping the future ends it.
    async fn exec(&self, id: &ContainerId, command: Vec<String>, streams: Streams) -> Result<i32>;
    /// Connects a running container's own streams until it, or who listens, ends. The end of stdin is the container's
    /// only where it was made with `stdin_once`.
    async fn attach(&self, id: &ContainerId, streams: Streams) -> Result<()>;
    /// Connects to what listens on a port of the sandbox: on its loopback, else on its address.
    async fn port_forward(&self, sandbox: &SandboxId, port: u16) -> Result<Box<dyn Connection>>;

    /// Container life-cycle events from now on. A subscriber that lags must re-list: the stream says so with `Resync`.
    fn events(&self) -> BoxStream<'static, RuntimeEvent>;
}

/// CRI's ImageService.
#[async_trait]
pub trait Images: Send + Sync + 'static {
    /// Pulls and returns the image as resolved. `auth` is one registry's credentials, if a pull secret matched.
    async fn pull(&self, reference: &str, auth: Option<RegistryAuth>) -> Result<ImageStatus>;
    /// The image as it is in the local store, if it is.
    async fn image(&self, reference: &str) -> Result<Option<ImageStatus>>;
    async fn images(&self) -> Result<Vec<ImageStatus>>;
    async fn remove(&self, reference: &str) -> Result<()>;
    async fn usage(&self) -> Result<ImageUsage>;
}

/// Disk used by images.
#[derive(Clone, Debug, Default)]
pub struct ImageUsage {
    pub root: PathBuf,
    pub used_bytes: u64,
    pub images: u64,
}
