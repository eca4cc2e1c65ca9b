//! [`WasmRuntime`]: the Runtime contract over the engine.
//!
//! Guests run on threads of their own, so that however busy they are the process around them stays responsive. Nothing here
//! survives the process: its guests end with it, and the node makes sandboxes and containers again from the API; only compiled
//! code stays on disk. Absent on purpose: host ports (the network's job).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use wharf_cri::events::Hub;
use wharf_cri::{
    Connection, ContainerConfig, ContainerId, ContainerState, ContainerStats, ContainerStatus, Error, ExecResult,
    Result, Runtime, RuntimeEvent, SandboxConfig, SandboxId, SandboxState, SandboxStatus, Streams, Version,
};
use wharf_net::Network;

use crate::artifact::{Artifact, Compiler};
use crate::command;
use crate::container::{Container, Context, argv, environment};
use crate::engine::Engine;
use crate::guest::{Console, Spec, Stdio};
use crate::host::filesystem::Files;
use crate::image::Artifacts;
use crate::limits::{Cpu, Memory};
use crate::log::{Capture, Clock, Log, Pipes};
use crate::pod::Pod;
use crate::terminal;
use crate::toolbox::{self, Program, Toolbox};

/// What exec keeps of each of a command's streams, as CRI runtimes do.
const MAX_EXEC_OUTPUT: usize = 16 << 20;

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

#[derive(Default)]
struct State {
    sandboxes: BTreeMap<SandboxId, Sandbox>,
    /// Sandboxes by pod UID and attempt.
    by_pod: BTreeMap<(String, u32), SandboxId>,
    containers: BTreeMap<ContainerId, Arc<Container>>,
}

struct Sandbox {
    status: SandboxStatus,
    pod: Arc<Pod>,
    /// Its containers, by name and attempt.
    containers: BTreeMap<(String, u32), ContainerId>,
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
        let (layout, hostname) = (config.clone(), pod_config.hostname.clone());
        let prepared = tokio::task::spawn_blocking(move || Files::prepare(root, &layout, &hostname, &pod_config.dns));
        let files = prepared.await.map_err(internal("lay out the files of a container"))?;
        let files = files.map_err(|error| Error::Create(explain(&error)))?;
        let log_path = pod_config.log_dir.join(&config.log_path);
        let log = Log::create(log_path.clone(), self.context.clock.clone());
        let log = Arc::new(log.map_err(internal("make a container's log"))?);
        let working_dir =
            if config.working_dir.is_empty() { file.working_dir.clone() } else { config.working_dir.clone() };
        let spec = Spec {
            argv: argv(&config, &file),
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

    /// The container, if a command can be run in its place.
    fn for_exec(&self, id: &ContainerId, argv: &[String]) -> Result<Arc<Container>> {
        let container = self.find(id)?;
        if !container.is_running() {
            return Err(Error::Invalid(format!("container {id} is not running")));
        }
        if argv.is_empty() {
            return Err(Error::Invalid("exec needs a command".into()));
        }
        Ok(container)
    }

    /// What a command line runs in the container's place.
    async fn program(&self, container: &Container, argv: &[String]) -> Result<Arc<Artifact>> {
        let own = container.spec.argv.first().map_or("", String::as_str);
        let is_command = !container.artifact.kind.is_http();
        match toolbox::choose(&argv[0], own, is_command, self.toolbox.is_there()) {
            Program::Own => Ok(container.artifact.clone()),
            Program::Tool => {
                let file = self.toolbox.file().await.map_err(internal("read the toolbox"))?;
                self.compiler.load(&file).await.map_err(internal("compile the toolbox"))
            }
            Program::Nothing => Err(Error::Invalid(format!("exec: {:?}: executable file not found in $PATH", argv[0]))),
        }
    }

    /// Runs a command line in the container's place. Dropping the future ends the guest.
    async fn run_beside(&self, container: Arc<Container>, argv: Vec<String>, stdio: Stdio) -> Result<command::End> {
        let engine = self.context.engine.clone();
        let artifact = self.program(&container, &argv).await?;
        let task = AbortOnDropHandle::new(self.context.guests.spawn(async move {
            let spec = &container.spec;
            let command = spec.cpu.meter(command::run(&engine, &artifact, spec, &argv, stdio));
            container.signals.kill.run_until_cancelled(command).await
        }));
        let end = task.await.map_err(internal("run a command"))?;
        Ok(end.unwrap_or_else(|| command::End::exited(command::EXIT_KILLED)))
    }
}

impl State {
    /// The sandbox, if it is ready and has no such container yet.
    fn room_for(&mut self, id: &SandboxId, name: &str, attempt: u32) -> Result<&mut Sandbox> {
        let sandbox = self.sandboxes.get_mut(id).ok_or_else(|| not_found("sandbox", id))?;
        if sandbox.status.state != SandboxState::Ready {
            return Err(Error::Create(format!("sandbox {id} is not running")));
        }
        if sandbox.containers.contains_key(&(name.to_owned(), attempt)) {
            return Err(Error::AlreadyExists(format!("container {name} attempt {attempt}")));
        }
        Ok(sandbox)
    }

    fn forget(&mut self, id: &ContainerId, container: &Container) -> bool {
        let status = container.status();
        if let Some(sandbox) = self.sandboxes.get_mut(&status.sandbox) {
            sandbox.containers.remove(&(status.name, status.attempt));
        }
        self.containers.remove(id).is_some()
    }

    /// Whether any sandbox of the pod is still in use.
    fn in_use(&self, uid: &str) -> bool {
        let of_pod = self.by_pod.range((uid.to_owned(), 0)..=(uid.to_owned(), u32::MAX));
        of_pod.filter_map(|(_, id)| self.sandboxes.get(id)).any(|sandbox| sandbox.status.state == SandboxState::Ready)
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
        let uid = config.uid.clone();
        let id = {
            let mut state = self.state.lock();
            let key = (uid.clone(), config.attempt);
            match state.by_pod.get(&key).and_then(|id| state.sandboxes.get(id)).map(|sandbox| &sandbox.status) {
                Some(status) if status.state == SandboxState::Ready => return Ok(status.id.clone()),
                Some(status) => return Err(Error::AlreadyExists(format!("sandbox {}", status.id))),
                None => {}
            }
            let (hostname, searches, network) =
                (config.hostname.clone(), config.dns.searches.clone(), self.network.clone());
            let pod = if config.host_network {
                Pod::on_host(uid.clone(), hostname, searches, network)
            } else {
                let address = self.network.allocate(&uid).map_err(internal("allocate a pod address"))?;
                Pod::new(uid.clone(), hostname, searches, address, network)
            };
            let id = SandboxId(new_id());
            let status = SandboxStatus {
                id: id.clone(),
                config,
                state: SandboxState::Ready,
                created_at: (self.context.clock)(),
                ips: pod.ip().into_iter().collect(),
            };
            state.by_pod.insert(key, id.clone());
            let sandbox = Sandbox { status, pod: Arc::new(pod), containers: BTreeMap::new() };
            state.sandboxes.insert(id.clone(), sandbox);
            id
        };
        self.events_hub().pod(&uid);
        Ok(id)
    }

    async fn stop_sandbox(&self, id: &SandboxId) -> Result<()> {
        let uid = {
            let mut state = self.state.lock();
            let Some(sandbox) = state.sandboxes.get_mut(id) else { return Ok(()) };
            if sandbox.status.state == SandboxState::NotReady {
                return Ok(());
            }
            sandbox.status.state = SandboxState::NotReady;
            sandbox.status.config.uid.clone()
        };
        let containers = self.containers_of(id);
        join_all(containers.iter().map(|(_, container)| container.stop(Duration::ZERO))).await;
        {
            let state = self.state.lock();
            // The pod's next sandbox may have been given the same address already.
            if !state.in_use(&uid) {
                self.network.release(&uid);
            }
        }
        self.events_hub().pod(&uid);
        Ok(())
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<()> {
        self.stop_sandbox(id).await?;
        for (container, _) in self.containers_of(id) {
            self.remove_container(&container).await?;
        }
        let removed = {
            let mut state = self.state.lock();
            let removed = state.sandboxes.remove(id);
            if let Some(sandbox) = &removed {
                state.by_pod.remove(&(sandbox.status.config.uid.clone(), sandbox.status.config.attempt));
            }
            removed
        };
        if let Some(sandbox) = removed {
            self.events_hub().pod(&sandbox.status.config.uid);
        }
        Ok(())
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
        let container = self.for_exec(id, &argv)?;
        let capture = Arc::new(Capture::new(MAX_EXEC_OUTPUT));
        let run = self.run_beside(container, argv, Stdio::output(capture.clone()));
        let end = match timeout.filter(|timeout| !timeout.is_zero()) {
            Some(limit) => tokio::time::timeout(limit, run).await.map_err(|_| Error::Timeout { operation: "exec" })?,
            None => run.await,
        }?;
        let (stdout, mut stderr) = capture.take();
        stderr.extend_from_slice(end.message.as_bytes());
        Ok(ExecResult { stdout, stderr, exit_code: end.code })
    }

    async fn exec(&self, id: &ContainerId, argv: Vec<String>, streams: Streams) -> Result<i32> {
        let container = self.for_exec(id, &argv)?;
        let Streams { stdin, stdout, stderr, tty, .. } = streams;
        let interrupt = CancellationToken::new();
        let stdin = match stdin {
            Some(keys) if tty => Some(terminal::run(keys, stdout.clone(), interrupt.clone())),
            stdin => stdin,
        };
        let last_words = if tty { stdout.clone() } else { stderr.clone() };
        let output = Arc::new(Pipes { stdout, stderr, terminal: tty });
        let run = self.run_beside(container, argv, Stdio { stdin, output, tty });
        let end = tokio::select! {
            end = run => end?,
            () = interrupt.cancelled() => command::End::exited(command::EXIT_INTERRUPTED),
        };
        if let Some(to) = last_words.filter(|_| !end.message.is_empty()) {
            let _ = to.send(format!("{}\n", end.message).into()).await;
        }
        Ok(end.code)
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
