//! A simulated node: the real node agent on the fake runtime, joined to a cluster over TLS with an identity of its own.
//!
//! Many of them live in one process, so a whole fleet fits a test. To the API server each is a node as any other: it registers,
//! renews its Lease, runs what is bound to it and reports. Time is shortened where upstream would have a test wait.
//! Absent on purpose: the kubelet's server, and anything a container would do but to run until it is stopped.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Taint;
use kube::Client;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wharf_cri::fake::{self, Fake};
use wharf_node::backoff::Policy;
use wharf_node::{Capacity, Node, NodeOptions, Timings};

use crate::{Cluster, DEADLINE};

/// How often a node shows that it lives; a server's grace must be several of these.
pub const LEASE_RENEWAL: Duration = Duration::from_millis(500);
/// Addresses of one node; pods of its next ones begin behind it.
const ADDRESSES: u32 = 1 << 16;

/// What a simulated node is.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Names it (`sim-7`), and gives it its addresses (10.7.0.0/16).
    pub number: u8,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub capacity: Capacity,
    pub max_pods: u32,
}

impl Spec {
    pub fn new(number: u8) -> Self {
        Self {
            number,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            capacity: Capacity::default(),
            max_pods: wharf_node::DEFAULT_MAX_PODS,
        }
    }

    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With the effect `NoSchedule`.
    pub fn taint(mut self, key: &str) -> Self {
        self.taints.push(Taint { key: key.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() });
        self
    }

    pub fn cpu_millis(mut self, cpu_millis: u64) -> Self {
        self.capacity.cpu_millis = cpu_millis;
        self
    }
}

/// A node that can be stopped and started. Dropping it stops it.
pub struct SimNode {
    pub name: String,
    spec: Spec,
    client: Client,
    runtime: Fake,
    /// Handed out so far; an address is not used twice before all have been.
    addresses: Arc<AtomicU32>,
    directory: TempDir,
    running: Option<Running>,
}

struct Running {
    cancel: CancellationToken,
    task: JoinHandle<Result<(), wharf_node::Error>>,
}

impl SimNode {
    /// Joins the cluster; the node is Ready a moment later.
    pub async fn join(cluster: &Cluster, spec: Spec) -> Result<Self> {
        let name = format!("sim-{}", spec.number);
        let client = cluster.client_as(&format!("system:node:{name}"), &["system:nodes"]).await?;
        let directory = TempDir::with_prefix("wharf-sim-").context("make a directory for the node")?;
        let addresses = Arc::new(AtomicU32::new(0));
        let runtime = runtime(spec.number, addresses.clone());
        let mut node = Self { name, spec, client, runtime, addresses, directory, running: None };
        node.start().await?;
        Ok(node)
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// The agent is gone: the API hears nothing of it, its Lease goes stale, and its containers run on.
    pub async fn stop(&mut self) {
        let Some(node) = self.running.take() else { return };
        node.cancel.cancel();
        let ended = tokio::time::timeout(DEADLINE, node.task).await.expect("a node ends when it is told to");
        ended.expect("a node does not panic").expect("a node does not fail");
    }

    /// Starts the agent again; it finds its containers as it left them.
    pub async fn start(&mut self) -> Result<()> {
        if self.running.is_some() {
            return Ok(());
        }
        let node = Node::new(self.options()).await.context("set the node up")?;
        let cancel = CancellationToken::new();
        let task = tokio::spawn(node.run(cancel.clone()));
        self.running = Some(Running { cancel, task });
        Ok(())
    }

    /// Starts the agent on a machine that lost all that ran.
    pub async fn reboot(&mut self) -> Result<()> {
        self.stop().await;
        self.runtime = runtime(self.spec.number, self.addresses.clone());
        self.start().await
    }

    fn options(&self) -> NodeOptions {
        let runtime = Arc::new(self.runtime.clone());
        let directory = self.directory.path().to_owned();
        let mut options = NodeOptions::new(&self.name, self.client.clone(), runtime.clone(), runtime, directory);
        options.labels = self.spec.labels.clone();
        options.taints = self.spec.taints.clone();
        options.capacity = self.spec.capacity;
        options.max_pods = self.spec.max_pods;
        options.pod_cidr = Some(format!("10.{}.0.0/16", self.spec.number));
        options.timings = timings();
        options
    }
}

impl Drop for SimNode {
    fn drop(&mut self) {
        if let Some(node) = &self.running {
            node.cancel.cancel();
        }
    }
}

fn runtime(number: u8, addresses: Arc<AtomicU32>) -> Fake {
    let base = u32::from(Ipv4Addr::new(10, number, 0, 0));
    // The first address and the last are no pod's.
    let next = move || base + 1 + addresses.fetch_add(1, Ordering::Relaxed) % (ADDRESSES - 2);
    let mut options = fake::Options::new(Timestamp::now);
    options.addresses = Arc::new(move |_| vec![Ipv4Addr::from(next()).into()]);
    Fake::new(options)
}

fn timings() -> Timings {
    let policy = Policy { initial: Duration::from_millis(100), max: Duration::from_secs(2) };
    Timings {
        restarts: policy,
        pulls: policy,
        volumes: policy,
        retry: Duration::from_millis(200),
        lease_renewal: LEASE_RENEWAL,
        housekeeping: Duration::from_secs(2),
        ..Timings::default()
    }
}
