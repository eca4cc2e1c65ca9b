//! [`WasmRuntime`]: the Runtime contract over the engine.
//!
//! Guests run on threads of their own, so that however busy they are the process around them stays responsive. Nothing here
//! survives the process: its guests end with it, and the node makes sandboxes and containers again from the API; only compiled
//! code stays on disk. Absent on purpose: host ports (the network's job).

mod exec;
mod sandboxes;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use wharf_cri::events::Hub;
use wharf_cri::{
    Connection, ContainerConfig, ContainerId, ContainerState, ContainerStats, ContainerStatus, Error, ExecResult,
    Result, Runtime, RuntimeEvent, SandboxConfig, SandboxId, SandboxState, SandboxStatus, Streams, Version,
};
use wharf_net::Network;

use crate::artifact::Compiler;
use crate::container::{Container, Context, argv, environment};
use crate::engine::Engine;
use crate::guest::{Console, Spec};
use crate::host::filesystem::Files;
use crate::image::Artifacts;
use crate::limits::{Cpu, Memory};
use crate::log::{Clock, Log};
use crate::pod::Pod;
use crate::toolbox::Toolbox;
use sandboxes::State;

pub struct Options {
    /// Holds `compiled/` (kept) and `containers/` (emptied at the start).
    pub data: PathBuf,
    pub network: Arc<dyn Network>,
    pub artifacts: Arc<dyn Artifacts>,
    pub clock: Clock,
    /// Threads for guests; none is one for each core.
    pub guest_threads: Option<usize>,
    /// The component that `exec` finds tools in.
    pub toolbox: Option<PathBuf>,
}

/// A dropped runtime ends its guests.
pub struct WasmRuntime {
    context: Context,
    compiler: Compiler,
    network: Arc<dyn Network>,
    artifacts: Arc<dyn Artifacts>,
    containers_dir: PathBuf,
    toolbox: Toolbox,
    state: Mutex<State>,
    /// Owned for its `Drop`.
    _guests: Guests,
}

/// The threads that guests run on.
struct Guests(Option<tokio::runtime::Runtime>);

impl Drop for Guests {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Waiting would block whoever drops us; every guest yields within a tick and is then gone.
            runtime.shutdown_background();
        }
    }
}

fn internal<E>(operation: &'static str) -> impl FnOnce(E) -> Error
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    move |source| Error::Internal { operation, source: source.into() }
}

fn not_found(what: &str, id: &impl std::fmt::Display) -> Error {
    Error::NotFound(format!("{what} {id}"))
}

impl WasmRuntime {
    pub fn new(options: Options) -> Result<WasmRuntime> {
        let engine = Engine::new().map_err(|error| internal("make the Wasm engine")(error.to_string()))?;
        let engine = Arc::new(engine);
        let compiled = options.data.join("compiled");
        let containers_dir = options.data.join("containers");
        make_private_dir(&compiled).map_err(internal("make the directory of compiled code"))?;
        match std::fs::remove_dir_all(&containers_dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(internal("empty the directory of containers")(error));
            }
            _ => {}
        }
        make_private_dir(&containers_dir).map_err(internal("make the directory of containers"))?;
        let mut threads = tokio::runtime::Builder::new_multi_thread();
        threads.thread_name("guest").enable_all();
        if let Some(count) = options.guest_threads {
            threads.worker_threads(count);
        }
        let threads = threads.build().map_err(internal("start the threads of guests"))?;
        let guests = threads.handle().clone();
        Ok(WasmRuntime {
            context: Context { engine: engine.clone(), guests, events: Arc::default(), clock: options.clock },
            compiler: Compiler::new(engine, compiled),
            network: options.network,
            artifacts: options.artifacts,
            containers_dir,
            toolbox: Toolbox::new(options.toolbox),
            state: Mutex::default(),
            _guests: Guests(Some(threads)),
        })
    }

    fn events_hub(&self) -> &Hub {
        &self.context.events
    }

    fn find(&self, id: &ContainerId) -> Result<Arc<Container>> {
        self.state.lock().containers.get(id).cloned().ok_or_else(|| not_found("container", id))
    }

    fn containers_of(&self, sandbox: &SandboxId) -> Vec<(ContainerId, Arc<Container>)> {
        let state = self.state.lock();
        let ids = state.sandboxes.get(sandbox).into_iter().flat_map(|sandbox| sandbox.containers.values());
        ids.filter_map(|id| Some((id.clone(), state.containers.get(id)?.clone()))).collect()
    }

    /// The sandbox that a container may be made in.
    fn ready_sandbox(&self, id: &SandboxId, config: &ContainerConfig) -> Result<(SandboxConfig, Arc<Pod>)> {
        let mut state = self.state.lock();
        let sandbox = state.room_for(id, &config.name, config.attempt)?;
        Ok((sandbox.status.config.clone(), sandbox.pod.clone()))
    }

    async fn make(&self, id: &ContainerId, sandbox: &SandboxId, config: ContainerConfig) -> Result<Arc<Container>> {
        let (pod_config, pod) = self.ready_sandbox(sandbox, &config)?;
        let file = self.artifacts.open(&config.image_id)?;
        let file = file.ok_or_else(|| Error::Create(format!("image {} is not present", config.image_id)))?;
        let artifact = self.compiler.load(&file).await.map_err(|error| Error::Create(explain(&error)))?;
        let root = self.containers_dir.join(&id.0).join("root");
        let (layout, words, hostname) = (config.clone(), argv(&config, &file), pod_config.hostname.clone());
        let (log_dir, words_of_spec) = (pod_config.log_dir, words.clone());
        let prepared =
            tokio::task::spawn_blocking(move || Files::prepare(root, &layout, &words, &hostname, &pod_config.dns));
        let files = prepared.await.map_err(internal("lay out the files of a container"))?;
        let files = files.map_err(|error| Error::Create(explain(&error)))?;
        let log_path = log_dir.join(&config.log_path);
        let log = Log::create(log_path.clone(), self.context.clock.clone());
        let log = Arc::new(log.map_err(internal("make a container's log"))?);
        let working_dir =
            if config.working_dir.is_empty() { file.working_dir.clone() } else { config.working_dir.clone() };
        let spec = Spec {
            argv: words_of_spec,
            env: environment(&config, &file, &pod.hostname),
            working_dir,
            preopens: files.preopens.clone(),
            console: Console { stdin: config.stdin, stdin_once: config.stdin_once, tty: config.tty },
            pod,
            memory: Arc::new(Memory::new(config.resources.memory_limit_bytes)),
            cpu: Arc::new(Cpu::new(config.resources.cpu_limit_millis, self.context.engine.pulse())),
        };
        let status = ContainerStatus {
            id: id.clone(),
            sandbox: sandbox.clone(),
            name: config.name,
            attempt: config.attempt,
            image: config.image,
            image_id: config.image_id,
            state: ContainerState::Created,
            created_at: (self.context.clock)(),
            started_at: None,
            finished_at: None,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            log_path,
            labels: config.labels,
            annotations: config.annotations,
        };
        let context = self.context.clone();
        Ok(Arc::new(Container::new(artifact, Arc::new(spec), log, files, &config.ports, status, context)))
    }

    /// Enters a container, unless its sandbox was stopped or its name taken while it was made.
    fn enter(&self, id: &ContainerId, container: Arc<Container>) -> Result<()> {
        let status = container.status();
        let mut state = self.state.lock();
        let sandbox = state.room_for(&status.sandbox, &status.name, status.attempt)?;
        sandbox.containers.insert((status.name, status.attempt), id.clone());
        state.containers.insert(id.clone(), container);
        Ok(())
    }

    async fn remove_files(&self, id: &ContainerId) -> Result<()> {
        let dir = self.containers_dir.join(&id.0);
        match tokio::fs::remove_dir_all(dir).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(internal("remove the files of a container")(error))
            }
            _ => Ok(()),
        }
    }
}

/// An error with its causes, for the pod's status.
fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn make_private_dir(path: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
}

fn new_id() -> String {
    hex::encode(rand::random::<[u8; 32]>())
}

#[async_trait]
impl Runtime for WasmRuntime {
    async fn version(&self) -> Result<Version> {
        Ok(Version { name: "wharf".into(), version: env!("CARGO_PKG_VERSION").into() })
    }

    async fn run_sandbox(&self, config: SandboxConfig) -> Result<SandboxId> {
        self.begin_sandbox(config).await
    }

    async fn stop_sandbox(&self, id: &SandboxId) -> Result<()> {
        self.end_sandbox(id).await
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<()> {
        self.forget_sandbox(id).await
    }

    async fn sandbox(&self, id: &SandboxId) -> Result<SandboxStatus> {
        let state = self.state.lock();
        state.sandboxes.get(id).map(|sandbox| sandbox.status.clone()).ok_or_else(|| not_found("sandbox", id))
    }

    async fn sandboxes(&self) -> Result<Vec<SandboxStatus>> {
        Ok(self.state.lock().sandboxes.values().map(|sandbox| sandbox.status.clone()).collect())
    }

    async fn create_container(&self, sandbox: &SandboxId, config: ContainerConfig) -> Result<ContainerId> {
        let id = ContainerId(new_id());
        let made = self.make(&id, sandbox, config).await;
        let entered = made.and_then(|container| {
            let uid = container.spec.pod.uid.clone();
            self.enter(&id, container).map(|()| uid)
        });
        match entered {
            Ok(uid) => {
                self.events_hub().pod(&uid);
                Ok(id)
            }
            Err(error) => {
                if let Err(left) = self.remove_files(&id).await {
                    tracing::warn!(container = %id, error = %left, "files of a container that was not made are left");
                }
                Err(error)
            }
        }
    }

    async fn start_container(&self, id: &ContainerId) -> Result<()> {
        self.find(id)?.start()
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<()> {
        if let Ok(container) = self.find(id) {
            container.stop(grace).await;
        }
        Ok(())
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<()> {
        let Ok(container) = self.find(id) else { return Ok(()) };
        container.stop(Duration::ZERO).await;
        self.remove_files(id).await?;
        if self.state.lock().forget(id, &container) {
            self.events_hub().pod(&container.spec.pod.uid);
        }
        Ok(())
    }

    async fn container(&self, id: &ContainerId) -> Result<ContainerStatus> {
        self.find(id).map(|container| container.status())
    }

    async fn containers(&self) -> Result<Vec<ContainerStatus>> {
        Ok(self.state.lock().containers.values().map(|container| container.status()).collect())
    }

    async fn reopen_log(&self, id: &ContainerId) -> Result<()> {
        self.find(id)?.reopen_log().map_err(internal("reopen a container's log"))
    }

    async fn stats(&self, id: &ContainerId) -> Result<ContainerStats> {
        let container = self.find(id)?;
        tokio::task::spawn_blocking(move || container.stats()).await.map_err(internal("read a container's statistics"))
    }

    async fn cpu_and_memory(&self, id: &ContainerId) -> Result<ContainerStats> {
        Ok(self.find(id)?.cpu_and_memory())
    }

    async fn exec_sync(&self, id: &ContainerId, argv: Vec<String>, timeout: Option<Duration>) -> Result<ExecResult> {
        self.capture_exec(id, argv, timeout).await
    }

    async fn exec(&self, id: &ContainerId, argv: Vec<String>, streams: Streams) -> Result<i32> {
        self.stream_exec(id, argv, streams).await
    }

    async fn attach(&self, id: &ContainerId, streams: Streams) -> Result<()> {
        self.find(id)?.attach(streams).await
    }

    async fn port_forward(&self, sandbox: &SandboxId, port: u16) -> Result<Box<dyn Connection>> {
        let pod = {
            let state = self.state.lock();
            let found = state.sandboxes.get(sandbox).ok_or_else(|| not_found("sandbox", sandbox))?;
            if found.status.state != SandboxState::Ready {
                return Err(Error::Invalid(format!("sandbox {sandbox} is not running")));
            }
            found.pod.clone()
        };
        let stream =
            pod.dial(port).await.map_err(|why| Error::Invalid(format!("dial tcp4 127.0.0.1:{port}: {why}")))?;
        Ok(Box::new(stream))
    }

    fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        self.events_hub().subscribe()
    }
}
