//! An in-memory runtime for simulated nodes and for tests of the node.
//!
//! Containers "run" by script: a table of [`Behaviour`]s by image says what each does; an image without a row runs until it is
//! stopped. One value is both [`Runtime`] and [`Images`]. Time: stamps come from the clock given, delays from tokio's timer
//! (which tests may pause). Invariant: it passes [`crate::contract::suite`].
//! Absent on purpose: logs, and any task for a container that runs until it is stopped (ten thousand of them are a
//! few megabytes).

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::events::Hub;
use crate::*;

/// What an image does when it is pulled, started and stopped.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    pub pull_delay: Duration,
    /// The pull fails with this text.
    pub pull_error: Option<String>,
    /// `create_container` fails with this text.
    pub create_error: Option<String>,
    /// `start_container` fails with this text.
    pub start_error: Option<String>,
    pub run: Run,
    pub stop: Stop,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Run {
    #[default]
    Forever,
    Exit {
        after: Duration,
        code: i32,
        /// Empty chooses `Completed` or `Error` by the code.
        reason: &'static str,
    },
}

/// What SIGTERM does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stop {
    /// Ends it at once with 143.
    #[default]
    Dies,
    /// It cleans up, then ends with this code.
    Exits { after: Duration, code: i32 },
    /// Only the kill after the grace period ends it.
    Ignores,
}

type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;
type Addresses = Arc<dyn Fn(&SandboxConfig) -> Vec<IpAddr> + Send + Sync>;

/// How a [`Fake`] is made.
pub struct Options {
    /// Behaviours by image reference, as the pod writes it.
    pub behaviours: BTreeMap<String, Behaviour>,
    pub clock: Clock,
    pub addresses: Addresses,
}

impl Options {
    /// Every image runs until it is stopped; addresses count up from 10.0.0.1.
    pub fn new(clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Options {
        let next = AtomicU32::new(u32::from(Ipv4Addr::new(10, 0, 0, 1)));
        Options {
            behaviours: BTreeMap::new(),
            clock: Arc::new(clock),
            addresses: Arc::new(move |_| vec![Ipv4Addr::from(next.fetch_add(1, Ordering::Relaxed)).into()]),
        }
    }

    pub fn image(mut self, reference: &str, behaviour: Behaviour) -> Options {
        self.behaviours.insert(reference.to_owned(), behaviour);
        self
    }
}

struct Container {
    status: ContainerStatus,
    uid: String,
    behaviour: Behaviour,
    ended: Arc<Notify>,
    timer: Option<AbortHandle>,
}

impl Drop for Container {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
        self.ended.notify_waiters();
    }
}

#[derive(Default)]
struct State {
    sandboxes: BTreeMap<SandboxId, SandboxStatus>,
    containers: BTreeMap<ContainerId, Container>,
    images: BTreeMap<String, ImageStatus>,
}

struct Inner {
    state: Mutex<State>,
    events: Hub,
    behaviours: BTreeMap<String, Behaviour>,
    clock: Clock,
    addresses: Addresses,
    next_id: AtomicU64,
}

/// Cheap to clone; clones share the state.
#[derive(Clone)]
pub struct Fake(Arc<Inner>);

impl Fake {
    pub fn new(options: Options) -> Fake {
        Fake(Arc::new(Inner {
            state: Mutex::default(),
            events: Hub::default(),
            behaviours: options.behaviours,
            clock: options.clock,
            addresses: options.addresses,
            next_id: AtomicU64::new(1),
        }))
    }

    /// Ends a running container as if its program had: what a test does to a pod from outside.
    pub fn exit(&self, id: &ContainerId, code: i32, reason: &str) {
        self.0.finish(id, code, reason);
    }

    fn behaviour(&self, reference: &str) -> Behaviour {
        self.0.behaviours.get(reference).cloned().unwrap_or_default()
    }

    fn id(&self) -> String {
        format!("{:064x}", self.0.next_id.fetch_add(1, Ordering::Relaxed))
    }
}

impl Inner {
    fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Records that a running container ended. Does nothing to one that does not run.
    fn finish(&self, id: &ContainerId, code: i32, reason: &str) {
        let uid = {
            let mut state = self.state.lock();
            let Some(container) = state.containers.get_mut(id) else { return };
            if container.status.state != ContainerState::Running {
                return;
            }
            container.status.state = ContainerState::Exited;
            container.status.exit_code = code;
            container.status.reason = match (reason, code) {
                ("", 0) => "Completed".to_owned(),
                ("", _) => "Error".to_owned(),
                (given, _) => given.to_owned(),
            };
            container.status.finished_at = Some(self.now());
            container.timer = None;
            container.ended.notify_waiters();
            container.uid.clone()
        };
        self.events.pod(&uid);
    }
}

/// The one port of a fake's pods on which nothing listens.
pub const CLOSED_PORT: u16 = 1;
const ECHO_BYTES: usize = 4096;

/// Says on stdout what comes on stdin, to its end.
async fn echo(streams: Streams) {
    let Streams { stdin, stdout, .. } = streams;
    let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else { return };
    while let Some(chunk) = stdin.recv().await {
        if stdout.send(chunk).await.is_err() {
            return;
        }
    }
}

fn image_id(reference: &str) -> String {
    // Not a cryptographic digest: it only has to be stable and to look like one.
    let word = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, reference).hash(&mut hasher);
        hasher.finish()
    };
    format!("sha256:{:016x}{:016x}{:016x}{:016x}", word(0), word(1), word(2), word(3))
}

fn repository(reference: &str) -> &str {
    let name = reference.split_once('@').map_or(reference, |(name, _)| name);
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

#[async_trait]
impl Runtime for Fake {
    async fn version(&self) -> Result<Version> {
        Ok(Version { name: "fake".into(), version: env!("CARGO_PKG_VERSION").into() })
    }

    async fn run_sandbox(&self, config: SandboxConfig) -> Result<SandboxId> {
        let uid = config.uid.clone();
        let id = {
            let mut state = self.0.state.lock();
            let known = state.sandboxes.values().find(|s| s.config.uid == uid && s.config.attempt == config.attempt);
            match known {
                Some(sandbox) if sandbox.state == SandboxState::Ready => return Ok(sandbox.id.clone()),
                Some(sandbox) => return Err(Error::AlreadyExists(format!("sandbox {}", sandbox.id))),
                None => {}
            }
            let id = SandboxId(self.id());
            let ips = if config.host_network { Vec::new() } else { (self.0.addresses)(&config) };
            let status =
                SandboxStatus { id: id.clone(), config, state: SandboxState::Ready, created_at: self.0.now(), ips };
            state.sandboxes.insert(id.clone(), status);
            id
        };
        self.0.events.pod(&uid);
        Ok(id)
    }

    async fn stop_sandbox(&self, id: &SandboxId) -> Result<()> {
        let (uid, running) = {
            let mut state = self.0.state.lock();
            let Some(sandbox) = state.sandboxes.get_mut(id) else { return Ok(()) };
            if sandbox.state == SandboxState::NotReady {
                return Ok(());
            }
            sandbox.state = SandboxState::NotReady;
            let uid = sandbox.config.uid.clone();
            let running: Vec<_> =
                state.containers.values().filter(|c| c.status.sandbox == *id).map(|c| c.status.id.clone()).collect();
            (uid, running)
        };
        for container in running {
            self.0.finish(&container, 137, "Error");
        }
        self.0.events.pod(&uid);
        Ok(())
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<()> {
        self.stop_sandbox(id).await?;
        let removed = {
            let mut state = self.0.state.lock();
            state.containers.retain(|_, container| container.status.sandbox != *id);
            state.sandboxes.remove(id)
        };
        if let Some(sandbox) = removed {
            self.0.events.pod(&sandbox.config.uid);
        }
        Ok(())
    }

    async fn sandbox(&self, id: &SandboxId) -> Result<SandboxStatus> {
        let state = self.0.state.lock();
        state.sandboxes.get(id).cloned().ok_or_else(|| Error::NotFound(format!("sandbox {id}")))
    }

    async fn sandboxes(&self) -> Result<Vec<SandboxStatus>> {
        Ok(self.0.state.lock().sandboxes.values().cloned().collect())
    }

    async fn create_container(&self, sandbox: &SandboxId, config: ContainerConfig) -> Result<ContainerId> {
        let behaviour = self.behaviour(&config.image);
        if let Some(text) = behaviour.create_error {
            return Err(Error::Create(text));
        }
        let (uid, id) = {
            let mut state = self.0.state.lock();
            let Some(found) = state.sandboxes.get(sandbox) else {
                return Err(Error::NotFound(format!("sandbox {sandbox}")));
            };
            if found.state != SandboxState::Ready {
                return Err(Error::Create(format!("sandbox {sandbox} is not running")));
            }
            let (uid, log_dir) = (found.config.uid.clone(), found.config.log_dir.clone());
            if !state.images.values().any(|image| image.id == config.image_id) {
                return Err(Error::Create(format!("image {} is not present", config.image_id)));
            }
            if state.containers.values().any(|c| {
                c.status.sandbox == *sandbox && c.status.name == config.name && c.status.attempt == config.attempt
            }) {
                return Err(Error::AlreadyExists(format!("container {} attempt {}", config.name, config.attempt)));
            }
            let id = ContainerId(self.id());
            let status = ContainerStatus {
                id: id.clone(),
                sandbox: sandbox.clone(),
                name: config.name,
                attempt: config.attempt,
                image: config.image,
                image_id: config.image_id,
                state: ContainerState::Created,
                created_at: self.0.now(),
                started_at: None,
                finished_at: None,
                exit_code: 0,
                reason: String::new(),
                message: String::new(),
                log_path: log_dir.join(config.log_path),
                labels: config.labels,
                annotations: config.annotations,
            };
            let behaviour = Behaviour { create_error: None, ..behaviour };
            let container = Container { status, uid: uid.clone(), behaviour, ended: Arc::default(), timer: None };
            state.containers.insert(id.clone(), container);
            (uid, id)
        };
        self.0.events.pod(&uid);
        Ok(id)
    }

    async fn start_container(&self, id: &ContainerId) -> Result<()> {
        let uid = {
            let mut state = self.0.state.lock();
            let container = state.containers.get_mut(id).ok_or_else(|| Error::NotFound(format!("container {id}")))?;
            if container.status.state != ContainerState::Created {
                return Err(Error::Invalid(format!("container {id} is not in the created state")));
            }
            if let Some(text) = &container.behaviour.start_error {
                return Err(Error::Start(text.clone()));
            }
            container.status.state = ContainerState::Running;
            container.status.started_at = Some(self.0.now());
            if let Run::Exit { after, code, reason } = container.behaviour.run.clone() {
                let (inner, id) = (Arc::downgrade(&self.0), id.clone());
                let timer = tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    if let Some(inner) = inner.upgrade() {
                        inner.finish(&id, code, reason);
                    }
                });
                container.timer = Some(timer.abort_handle());
            }
            container.uid.clone()
        };
        self.0.events.pod(&uid);
        Ok(())
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<()> {
        let (stop, ended) = {
            let state = self.0.state.lock();
            let Some(container) = state.containers.get(id) else { return Ok(()) };
            if container.status.state != ContainerState::Running {
                return Ok(());
            }
            // Owned and made under the lock, so an end between here and the await below is not missed.
            (container.behaviour.stop.clone(), container.ended.clone().notified_owned())
        };
        let (after, code) = match stop {
            _ if grace.is_zero() => (Duration::ZERO, 137),
            Stop::Dies => (Duration::ZERO, 143),
            Stop::Exits { after, code } if after <= grace => (after, code),
            Stop::Exits { .. } | Stop::Ignores => (grace, 137),
        };
        if !after.is_zero() && tokio::time::timeout(after, ended).await.is_ok() {
            return Ok(());
        }
        self.0.finish(id, code, "");
        Ok(())
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<()> {
        self.stop_container(id, Duration::ZERO).await?;
        let removed = self.0.state.lock().containers.remove(id);
        if let Some(container) = removed {
            self.0.events.pod(&container.uid);
        }
        Ok(())
    }

    async fn container(&self, id: &ContainerId) -> Result<ContainerStatus> {
        let state = self.0.state.lock();
        let found = state.containers.get(id).map(|container| container.status.clone());
        found.ok_or_else(|| Error::NotFound(format!("container {id}")))
    }

    async fn containers(&self) -> Result<Vec<ContainerStatus>> {
        Ok(self.0.state.lock().containers.values().map(|container| container.status.clone()).collect())
    }

    async fn reopen_log(&self, id: &ContainerId) -> Result<()> {
        self.container(id).await.map(|_| ())
    }

    async fn stats(&self, id: &ContainerId) -> Result<ContainerStats> {
        self.container(id).await.map(|_| ContainerStats::default())
    }

    async fn exec_sync(&self, id: &ContainerId, _: Vec<String>, _: Option<Duration>) -> Result<ExecResult> {
        let status = self.container(id).await?;
        match status.state {
            ContainerState::Running => Ok(ExecResult::default()),
            _ => Err(Error::Invalid(format!("container {id} is not running"))),
        }
    }

    /// Says its command, a word a line, then everything that it is told; `exit N` ends with that code.
    async fn exec(&self, id: &ContainerId, command: Vec<String>, streams: Streams) -> Result<i32> {
        self.exec_sync(id, command.clone(), None).await?;
        if let Some(stdout) = &streams.stdout {
            let said = command.iter().map(|word| format!("{word}\n")).collect::<String>();
            let _ = stdout.send(said.into()).await;
        }
        echo(streams).await;
        Ok(match command.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["exit", code] => code.parse().unwrap_or(1),
            _ => 0,
        })
    }

    async fn attach(&self, id: &ContainerId, streams: Streams) -> Result<()> {
        let ended = {
            let state = self.0.state.lock();
            let container = state.containers.get(id).ok_or_else(|| Error::NotFound(format!("container {id}")))?;
            if container.status.state != ContainerState::Running {
                return Err(Error::Invalid(format!("container {id} is not running")));
            }
            container.ended.clone().notified_owned()
        };
        tokio::select! {
            () = echo(streams) => {}
            () = ended => {}
        }
        Ok(())
    }

    /// A connection that says what is told to it.
    async fn port_forward(&self, sandbox: &SandboxId, port: u16) -> Result<Box<dyn Connection>> {
        if self.sandbox(sandbox).await?.state != SandboxState::Ready {
            return Err(Error::Invalid(format!("sandbox {sandbox} is not running")));
        }
        if port == CLOSED_PORT {
            return Err(Error::Invalid(format!("dial tcp4 127.0.0.1:{port}: connect: connection refused")));
        }
        let (near, far) = tokio::io::duplex(ECHO_BYTES);
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(far);
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = tokio::io::AsyncWriteExt::shutdown(&mut write).await;
        });
        Ok(Box::new(near))
    }

    fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        self.0.events.subscribe()
    }
}

#[async_trait]
impl Images for Fake {
    async fn pull(&self, reference: &str, _: Option<RegistryAuth>) -> Result<ImageStatus> {
        let behaviour = self.behaviour(reference);
        if !behaviour.pull_delay.is_zero() {
            tokio::time::sleep(behaviour.pull_delay).await;
        }
        if let Some(text) = behaviour.pull_error {
            return Err(Error::ImagePull(text));
        }
        let id = image_id(reference);
        let status = ImageStatus {
            tags: if reference.contains('@') { Vec::new() } else { vec![reference.to_owned()] },
            digests: vec![format!("{}@{id}", repository(reference))],
            id,
            size_bytes: 1,
            wasm: true,
        };
        self.0.state.lock().images.insert(reference.to_owned(), status.clone());
        Ok(status)
    }

    async fn image(&self, reference: &str) -> Result<Option<ImageStatus>> {
        let state = self.0.state.lock();
        Ok(state.images.get(reference).or_else(|| state.images.values().find(|image| image.id == reference)).cloned())
    }

    async fn images(&self) -> Result<Vec<ImageStatus>> {
        Ok(self.0.state.lock().images.values().cloned().collect())
    }

    async fn remove(&self, reference: &str) -> Result<()> {
        self.0.state.lock().images.retain(|name, image| name != reference && image.id != reference);
        Ok(())
    }

    async fn usage(&self) -> Result<ImageUsage> {
        let images = self.0.state.lock().images.len() as u64;
        Ok(ImageUsage { root: PathBuf::from("/"), used_bytes: images, images })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{Program, Subject, suite};

    fn fake(options: Options) -> Fake {
        Fake::new(options)
    }

    async fn run(fake: &Fake, image: &str) -> Result<ContainerId> {
        let image_id = fake.pull(image, None).await?.id;
        let sandbox = fake.run_sandbox(SandboxConfig { uid: image.into(), ..Default::default() }).await?;
        let config = ContainerConfig { name: "c".into(), image: image.into(), image_id, ..Default::default() };
        let id = fake.create_container(&sandbox, config).await?;
        fake.start_container(&id).await.map(|()| id)
    }

    #[tokio::test]
    async fn it_passes_the_contract() {
        suite(|| async {
            let exits =
                |code| Behaviour { run: Run::Exit { after: Duration::ZERO, code, reason: "" }, ..Default::default() };
            let fake = fake(Options::new(Timestamp::now).image("exit-0", exits(0)).image("exit-3", exits(3)));
            let mut programs = Vec::new();
            for image in ["forever", "exit-0", "exit-3"] {
                programs.push(Program { image: image.into(), image_id: fake.pull(image, None).await.unwrap().id });
            }
            let [forever, exits_0, exits_3] = programs.try_into().unwrap();
            Subject {
                runtime: Arc::new(fake),
                forever,
                exits_0,
                exits_3,
                log_root: PathBuf::from("/nonexistent"),
                keep: Box::new(()),
            }
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_that_ignores_sigterm_is_killed_after_the_grace_period() {
        let fake =
            fake(Options::new(Timestamp::now).image("deaf", Behaviour { stop: Stop::Ignores, ..Default::default() }));
        let id = run(&fake, "deaf").await.unwrap();
        let before = tokio::time::Instant::now();
        fake.stop_container(&id, Duration::from_secs(30)).await.unwrap();
        assert_eq!(before.elapsed(), Duration::from_secs(30));
        assert_eq!(fake.container(&id).await.unwrap().exit_code, 137);
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_that_cleans_up_in_time_ends_with_its_own_code() {
        let stop = Stop::Exits { after: Duration::from_secs(2), code: 0 };
        let fake = fake(Options::new(Timestamp::now).image("polite", Behaviour { stop, ..Default::default() }));
        let id = run(&fake, "polite").await.unwrap();
        fake.stop_container(&id, Duration::from_secs(30)).await.unwrap();
        let status = fake.container(&id).await.unwrap();
        assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
    }

    #[tokio::test]
    async fn scripted_failures_carry_their_text() {
        let row = |pull: Option<&str>, create: Option<&str>, start: Option<&str>| Behaviour {
            pull_error: pull.map(str::to_owned),
            create_error: create.map(str::to_owned),
            start_error: start.map(str::to_owned),
            ..Default::default()
        };
        let fake = fake(
            Options::new(Timestamp::now)
                .image("no-pull", row(Some("manifest unknown"), None, None))
                .image("no-create", row(None, Some("bad config"), None))
                .image("no-start", row(None, None, Some("port taken"))),
        );
        for (image, text) in [("no-pull", "manifest unknown"), ("no-create", "bad config"), ("no-start", "port taken")]
        {
            assert_eq!(run(&fake, image).await.unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn a_reference_names_its_repository() {
        for (reference, expected) in
            [("a", "a"), ("a:v1", "a"), ("h:5000/a", "h:5000/a"), ("h:5000/a:v1", "h:5000/a"), ("h/a@sha256:0", "h/a")]
        {
            assert_eq!(repository(reference), expected);
        }
    }
}
