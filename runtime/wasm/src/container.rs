//! One container: Created → Running → Exited, once.
//!
//! Invariants: what runs is owned by one task on the guests' threads, which records the end before anyone is told of it; a
//! stopped container has no instance, no listener and no open log. A Wasm guest cannot handle signals, so SIGTERM does to a
//! command what it does to any process that does not handle it (143, at once); an HTTP container finishes the requests on their
//! way first. Absent on purpose: restarts (a restart is a new container).

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wharf_cri::events::Hub;
use wharf_cri::streams::{CHUNKS_MAX, Streams};
use wharf_cri::{
    ContainerConfig, ContainerPort, ContainerState, ContainerStats, ContainerStatus, Error, Protocol, Result,
};

use crate::artifact::Artifact;
use crate::command::{self, EXIT_KILLED, EXIT_TERMINATED, End};
use crate::engine::Engine;
use crate::guest::{Spec, Stdio};
use crate::host::filesystem::Files;
use crate::http::{self, Signals};
use crate::image::ArtifactFile;
use crate::log::{Clock, Log, Stream};
use crate::pool::Pool;
use crate::terminal;

/// What a container that could not be started exits with, as containerd has it.
const EXIT_NOT_STARTED: i32 = 128;

/// What containers share.
#[derive(Clone)]
pub struct Context {
    pub engine: Arc<Engine>,
    pub guests: tokio::runtime::Handle,
    pub events: Arc<Hub>,
    pub clock: Clock,
}

pub struct Container {
    pub artifact: Arc<Artifact>,
    pub spec: Arc<Spec>,
    pub signals: Signals,
    log: Arc<Log>,
    files: Files,
    /// Where an HTTP component listens.
    port: u16,
    status: Mutex<ContainerStatus>,
    ended: CancellationToken,
    stdin: Mutex<Stdin>,
    context: Context,
}

/// Where a container's input comes from: none without `stdin: true`.
#[derive(Default)]
struct Stdin {
    to: Option<mpsc::Sender<Bytes>>,
    /// Taken when the container starts.
    from: Option<mpsc::Receiver<Bytes>>,
}

impl Container {
    pub fn new(
        artifact: Arc<Artifact>,
        spec: Arc<Spec>,
        log: Arc<Log>,
        files: Files,
        ports: &[ContainerPort],
        status: ContainerStatus,
        context: Context,
    ) -> Container {
        let stdin = match spec.console.stdin {
            true => {
                let (to, from) = mpsc::channel(CHUNKS_MAX);
                Stdin { to: Some(to), from: Some(from) }
            }
            false => Stdin::default(),
        };
        Container {
            artifact,
            spec,
            signals: Signals::default(),
            log,
            files,
            port: http_port(ports),
            status: Mutex::new(status),
            ended: CancellationToken::new(),
            stdin: Mutex::new(stdin),
            context,
        }
    }

    pub fn status(&self) -> ContainerStatus {
        self.status.lock().clone()
    }

    pub fn is_running(&self) -> bool {
        self.status.lock().state == ContainerState::Running
    }

    pub fn reopen_log(&self) -> std::io::Result<()> {
        self.log.reopen()
    }

    pub fn stats(&self) -> ContainerStats {
        ContainerStats { rootfs_used_bytes: self.files.used_bytes(), ..self.cpu_and_memory() }
    }

    /// What is known without a look at the disk.
    pub fn cpu_and_memory(&self) -> ContainerStats {
        let memory = self.spec.memory.used();
        ContainerStats {
            cpu_usage_core_nanos: self.spec.cpu.used_nanos(),
            memory_working_set_bytes: memory,
            memory_rss_bytes: memory,
            rootfs_used_bytes: 0,
        }
    }

    pub fn start(self: &Arc<Self>) -> Result<()> {
        {
            let mut status = self.status.lock();
            if status.state != ContainerState::Created {
                return Err(Error::Invalid(format!("container {} is not in the created state", status.id)));
            }
            status.started_at = Some((self.context.clock)());
            status.state = ContainerState::Running;
        }
        let listener = match self.listen() {
            Ok(listener) => listener,
            Err(text) => {
                self.finish(End { code: EXIT_NOT_STARTED, reason: "StartError", message: text.clone() });
                return Err(Error::Start(text));
            }
        };
        self.tell();
        let container = self.clone();
        self.context.guests.spawn(async move {
            let end = container.run(listener).await;
            container.finish(end);
        });
        Ok(())
    }

    /// The listener of an HTTP component; none for a command.
    fn listen(&self) -> std::result::Result<Option<TcpListener>, String> {
        if !self.artifact.kind.is_http() {
            return Ok(None);
        }
        let pod = &self.spec.pod;
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.port));
        let shown = pod.ip().map_or(any, |ip| (ip, self.port).into());
        let real = pod.bind(any).map_err(|error| format!("listen tcp {shown}: {error}"))?;
        // The listener belongs to the reactor of the guests' threads.
        let _guests = self.context.guests.enter();
        http::listen(real, shown).map(Some)
    }

    async fn run(self: &Arc<Self>, listener: Option<TcpListener>) -> End {
        let engine = &self.context.engine;
        if let Some(listener) = listener {
            let (artifact, spec, log) = (self.artifact.clone(), self.spec.clone(), self.log.clone());
            let pool = Pool::new(engine.clone(), artifact, spec, log, self.signals.kill.clone());
            return http::serve(listener, pool, self.signals.clone()).await;
        }
        let stdin = self.stdin.lock().from.take();
        let stdio = Stdio { stdin, output: self.log.clone(), tty: self.spec.console.tty };
        let command = command::run(engine, &self.artifact, &self.spec, &self.spec.argv, stdio);
        tokio::select! {
            biased;
            () = self.signals.kill.cancelled() => End::exited(EXIT_KILLED),
            () = self.signals.terminate.cancelled() => End::exited(EXIT_TERMINATED),
            end = self.spec.cpu.meter(command) => end,
        }
    }

    fn finish(&self, end: End) {
        if !end.message.is_empty() {
            self.log.note(&end.message);
        }
        self.log.rest();
        self.stdin.lock().to = None;
        if let Err(error) = self.files.collect_termination_message() {
            tracing::warn!(%error, "termination message is lost");
        }
        {
            let mut status = self.status.lock();
            status.state = ContainerState::Exited;
            status.finished_at = Some((self.context.clock)());
            status.exit_code = end.code;
            status.reason = end.reason.to_owned();
            status.message = end.message;
        }
        self.log.detach();
        self.ended.cancel();
        self.tell();
    }

    /// Connects a client to the container's streams, until the container ends.
    pub async fn attach(&self, streams: Streams) -> Result<()> {
        let Streams { stdin, stdout, stderr, .. } = streams;
        let terminal = self.spec.console.tty;
        {
            // Under the lock that an end takes, so that no stream is left to one that has ended.
            let status = self.status.lock();
            if status.state != ContainerState::Running {
                return Err(Error::Invalid(format!("container {} is not running", status.id)));
            }
            if let Some(stdout) = &stdout {
                self.log.attach(Stream::Stdout, stdout.clone(), terminal);
            }
            if let Some(to) = if terminal { stdout.clone() } else { stderr } {
                self.log.attach(Stream::Stderr, to, terminal);
            }
        }
        let stdin = match stdin {
            Some(keys) if terminal => Some(terminal::run(keys, stdout, self.signals.terminate.clone())),
            stdin => stdin.inspect(|_| drop(stdout)),
        };
        tokio::select! {
            () = self.ended.cancelled() => {}
            () = self.feed(stdin) => self.ended.cancelled().await,
        }
        Ok(())
    }

    /// Passes a client's input on to its end.
    async fn feed(&self, stdin: Option<mpsc::Receiver<Bytes>>) {
        let (Some(mut from), Some(to)) = (stdin, self.stdin.lock().to.clone()) else { return };
        while let Some(chunk) = from.recv().await {
            if to.send(chunk).await.is_err() {
                return;
            }
        }
        if self.spec.console.stdin_once {
            self.stdin.lock().to = None;
        }
    }

    /// Asks it to end, insists after `grace`, and returns when it has.
    pub async fn stop(&self, grace: Duration) {
        if !self.is_running() {
            return;
        }
        if grace.is_zero() {
            self.signals.kill.cancel();
        } else {
            self.signals.terminate.cancel();
            if tokio::time::timeout(grace, self.ended.cancelled()).await.is_err() {
                self.signals.kill.cancel();
            }
        }
        self.ended.cancelled().await;
    }

    fn tell(&self) {
        self.context.events.pod(&self.spec.pod.uid);
    }
}

/// The port that an HTTP component serves: the TCP one named `http`, else the first TCP one.
fn http_port(ports: &[ContainerPort]) -> u16 {
    let tcp = || ports.iter().filter(|port| port.protocol == Protocol::Tcp);
    let named = tcp().find(|port| port.name == "http");
    named.or_else(|| tcp().next()).map_or(http::DEFAULT_PORT, |port| port.port)
}

/// Command line: the pod's `command` replaces the image's entrypoint (and its defaults), `args` replace the image's command. An
/// image without an entrypoint is started under the name of its module.
pub fn argv(config: &ContainerConfig, file: &ArtifactFile) -> Vec<String> {
    let mut argv = match (&config.command, &file.entrypoint) {
        (command, _) if !command.is_empty() => command.clone(),
        (_, entrypoint) if !entrypoint.is_empty() => entrypoint.clone(),
        _ => vec![module_name(&config.image)],
    };
    if !config.args.is_empty() {
        argv.extend_from_slice(&config.args);
    } else if config.command.is_empty() {
        argv.extend_from_slice(&file.cmd);
    }
    argv
}

/// `registry:5000/team/hello:v1` is `hello.wasm`.
fn module_name(image: &str) -> String {
    let name = image.split('@').next().unwrap_or_default();
    let name = name.rsplit('/').next().unwrap_or_default();
    let name = name.split(':').next().unwrap_or_default();
    if name.ends_with(".wasm") { name.to_owned() } else { format!("{name}.wasm") }
}

/// The image's environment under the pod's, and the hostname if nobody set it.
pub fn environment(config: &ContainerConfig, file: &ArtifactFile, hostname: &str) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = Vec::with_capacity(config.env.len() + file.env.len() + 1);
    let given = [("HOSTNAME".to_owned(), hostname.to_owned())];
    for (name, value) in given.iter().chain(&file.env).chain(&config.env) {
        match env.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => known.clone_from(value),
            None => env.push((name.clone(), value.clone())),
        }
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn check(command: &str, args: &str, entrypoint: &str, cmd: &str, expected: &str) {
        let config = ContainerConfig {
            command: words(command),
            args: words(args),
            image: "registry:5000/team/hello:v1".into(),
            ..Default::default()
        };
        let file = ArtifactFile { entrypoint: words(entrypoint), cmd: words(cmd), ..Default::default() };
        assert_eq!(argv(&config, &file).join(" "), expected);
    }

    #[test]
    fn command_lines_are_made_as_for_linux_images() {
        check("", "", "", "", "hello.wasm");
        check("", "", "", "serve", "hello.wasm serve");
        check("", "a b", "", "serve", "hello.wasm a b");
        check("", "", "/app.wasm", "serve", "/app.wasm serve");
        check("run", "", "/app.wasm", "serve", "run");
        check("run", "a", "/app.wasm", "serve", "run a");
    }

    #[test]
    fn the_pods_environment_wins() {
        let env = |text: &str| {
            words(text).iter().map(|w| w.split_once('=').unwrap()).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
        };
        let config = ContainerConfig { env: env("A=pod C=pod"), ..Default::default() };
        let file = ArtifactFile { env: env("A=image B=image"), ..Default::default() };
        let all: Vec<String> =
            environment(&config, &file, "web-0").into_iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(all.join(" "), "HOSTNAME=web-0 A=pod B=image C=pod");
    }

    #[test]
    fn the_port_named_http_wins() {
        let port = |name: &str, port, protocol| ContainerPort { name: name.into(), port, protocol };
        assert_eq!(http_port(&[]), http::DEFAULT_PORT);
        assert_eq!(
            http_port(&[port("dns", 53, Protocol::Udp), port("a", 81, Protocol::Tcp), port("b", 82, Protocol::Tcp)]),
            81
        );
        assert_eq!(http_port(&[port("a", 81, Protocol::Tcp), port("http", 82, Protocol::Tcp)]), 82);
    }
}
