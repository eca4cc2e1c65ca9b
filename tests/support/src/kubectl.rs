//! kubectl, as a user runs it.

use std::path::PathBuf;
use std::process::{Output, Stdio};

use anyhow::{Context, Result};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::Cluster;

/// What a run of kubectl left behind.
#[derive(Clone, Debug)]
pub struct Ran {
    pub stdout: String,
    pub stderr: String,
    pub ok: bool,
}

impl Ran {
    /// The standard output of a run that must have succeeded.
    #[track_caller]
    pub fn success(self) -> String {
        assert!(self.ok, "kubectl failed: {}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// The standard error of a run that must have failed.
    #[track_caller]
    pub fn failure(self) -> String {
        assert!(!self.ok, "kubectl succeeded, and should not have: {}", self.stdout);
        self.stderr
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { stdout: text(output.stdout), stderr: text(output.stderr), ok: output.status.success() }
    }
}

fn binary() -> PathBuf {
    std::env::var_os("WHARF_KUBECTL").map_or_else(|| "kubectl".into(), PathBuf::from)
}

impl Cluster {
    /// A kubectl of this cluster, for tests that keep it running.
    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments).env("KUBECONFIG", self.kubeconfig()).env("HOME", self.home()).kill_on_drop(true);
        command
    }

    pub async fn kubectl(&self, arguments: &[&str]) -> Ran {
        let output = self.kubectl_command(arguments).stdin(Stdio::null()).output().await;
        output.expect("kubectl starts").into()
    }

    /// With `input`, one YAML document, on standard input, as in `apply -f -`.
    pub async fn kubectl_with(&self, arguments: &[&str], input: &str) -> Ran {
        self.pipe(arguments, input).await.expect("kubectl runs")
    }

    async fn pipe(&self, arguments: &[&str], input: &str) -> Result<Ran> {
        let mut command = self.kubectl_command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("start kubectl")?;
        let mut stdin = child.stdin.take().context("kubectl has no standard input")?;
        // kubectl takes what begins with a brace for JSON; tests write YAML on one line.
        let document = format!("---\n{input}");
        stdin.write_all(document.as_bytes()).await.context("write kubectl's input")?;
        drop(stdin);
        Ok(child.wait_with_output().await.context("wait for kubectl")?.into())
    }
}
