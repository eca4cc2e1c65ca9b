//! `wharf node`: the real node in a process of its own, which joins a cluster as it would from another machine.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::Cluster;
use crate::cluster::binary;

/// A node and its data directory. Dropping it kills the process.
pub struct JoinedNode {
    pub name: String,
    pod_cidr: String,
    directory: TempDir,
    process: Option<Child>,
}

impl JoinedNode {
    /// `number` keeps its pods apart from those of the cluster's other nodes.
    pub fn new(cluster: &Cluster, name: &str, number: u8) -> Result<Self> {
        let directory = TempDir::with_prefix("wharf-node-").context("make a directory for the node")?;
        Ok(Self { name: name.to_owned(), pod_cidr: cluster.pod_cidr(number), directory, process: None })
    }

    /// Starts the process with more arguments; it may be long before it is a member.
    pub fn start(&mut self, arguments: &[&str]) -> Result<()> {
        let log =
            std::fs::File::options().create(true).append(true).open(self.log_file()).context("open the node's log")?;
        let mut command = Command::new(binary());
        command.arg("node").arg("--data").arg(self.data()).args(["--node-name", &self.name]);
        command.args(["--kubelet-port", "0", "--registry", "127.0.0.1:0", "--no-service-proxy"]);
        command.args(["--pod-cidr", &self.pod_cidr]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        self.process = Some(command.spawn().with_context(|| format!("start {}", binary().display()))?);
        Ok(())
    }

    /// `kill -9`.
    pub async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await.expect("the node can be killed");
        }
    }

    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// What the process has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }
}

impl Drop for JoinedNode {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the node's log ends:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}
