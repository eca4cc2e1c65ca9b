//! Commands that are run in a container's place: the image's own component with other arguments, or a tool.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use wharf_cri::{ContainerId, Error, ExecResult, Result, Streams};

use super::{WasmRuntime, internal};
use crate::artifact::Artifact;
use crate::command;
use crate::container::Container;
use crate::guest::Stdio;
use crate::log::{Capture, Pipes};
use crate::terminal;
use crate::toolbox::{self, Program};

/// What exec keeps of each of a command's streams, as CRI runtimes do.
const MAX_EXEC_OUTPUT: usize = 16 << 20;

impl WasmRuntime {
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

    pub(super) async fn capture_exec(
        &self,
        id: &ContainerId,
        argv: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecResult> {
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

    pub(super) async fn stream_exec(&self, id: &ContainerId, argv: Vec<String>, streams: Streams) -> Result<i32> {
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
}
