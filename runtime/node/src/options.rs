//! What a node is made from.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use kube::Client;
use rustls::pki_types::CertificateDer;
use rustls::server::ResolvesServerCert;
use tokio::net::TcpListener;
use wharf_cri::{Images, Runtime};

use crate::Clock;
use crate::backoff::{self, Policy};

/// The kubelet's default; a Wasm node takes far more.
pub const DEFAULT_MAX_PODS: u32 = 110;

pub struct NodeOptions {
    pub name: String,
    /// With the identity `system:node:<name>` in `system:nodes`.
    pub client: Client,
    pub runtime: Arc<dyn Runtime>,
    pub images: Arc<dyn Images>,
    /// The node's own directory; `pods/` and `logs/` are made in it.
    pub data_dir: PathBuf,
    pub clock: Clock,
    pub max_pods: u32,
    pub capacity: Capacity,
    /// Beside the well-known ones.
    pub labels: BTreeMap<String, String>,
    /// Set when the node registers for the first time.
    pub taints: Vec<Taint>,
    /// Where the node's pods get their addresses from.
    pub pod_cidr: Option<String>,
    /// The node's own addresses; the first is shown as the pods' host IP.
    pub addresses: Vec<IpAddr>,
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    /// None serves nothing (simulated nodes).
    pub server: Option<ServerOptions>,
    pub timings: Timings,
}

impl NodeOptions {
    /// A node with the kubelet's defaults and nothing to serve.
    pub fn new(
        name: &str,
        client: Client,
        runtime: Arc<dyn Runtime>,
        images: Arc<dyn Images>,
        data_dir: PathBuf,
    ) -> Self {
        Self {
            name: name.to_owned(),
            client,
            runtime,
            images,
            data_dir,
            clock: Arc::new(jiff::Timestamp::now),
            max_pods: DEFAULT_MAX_PODS,
            capacity: Capacity::default(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            pod_cidr: None,
            addresses: vec![IpAddr::from([127, 0, 0, 1])],
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            server: None,
            timings: Timings::default(),
        }
    }
}

/// What the host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    pub ephemeral_storage_bytes: u64,
}

impl Default for Capacity {
    /// Enough for any test.
    fn default() -> Self {
        Self { cpu_millis: 4000, memory_bytes: 8 << 30, ephemeral_storage_bytes: 64 << 30 }
    }
}

impl Capacity {
    /// Processors, memory and the size of the file system that holds `data_dir`.
    pub fn detect(data_dir: &std::path::Path) -> Self {
        let fallback = Self::default();
        let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64);
        let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total_kib = info
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        let disk = nix::sys::statvfs::statvfs(data_dir).map(|stat| stat.blocks() * stat.fragment_size());
        Self {
            cpu_millis: cpus * 1000,
            memory_bytes: total_kib.map_or(fallback.memory_bytes, |kib| kib * 1024),
            ephemeral_storage_bytes: disk.unwrap_or(fallback.ephemeral_storage_bytes),
        }
    }
}

/// The :10250 server.
pub struct ServerOptions {
    pub listener: TcpListener,
    pub tls: ServerTls,
}

pub struct ServerTls {
    /// What is served with; it may change, and until there is any, handshakes fail.
    pub shown: Arc<dyn ResolvesServerCert>,
    /// Clients must show a certificate of this authority.
    pub client_ca: Vec<CertificateDer<'static>>,
}

/// Periods and delays; the defaults are upstream's. Tests shorten them.
#[derive(Clone, Debug)]
pub struct Timings {
    pub restarts: Policy,
    pub pulls: Policy,
    pub volumes: Policy,
    /// After an error of a step that has no policy of its own.
    pub retry: Duration,
    pub lease_renewal: Duration,
    pub node_status: Duration,
    /// Each pod is looked at this often although nothing happened.
    pub pod_resync: Duration,
    /// A pod that is on its way is not written as Pending for so long.
    pub settle: Duration,
    pub housekeeping: Duration,
    pub log_rotation: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            restarts: backoff::KUBELET,
            pulls: backoff::KUBELET,
            volumes: backoff::VOLUMES,
            retry: Duration::from_secs(10),
            lease_renewal: Duration::from_secs(10),
            node_status: Duration::from_secs(300),
            pod_resync: Duration::from_secs(300),
            settle: Duration::from_millis(100),
            housekeeping: Duration::from_secs(60),
            log_rotation: Duration::from_secs(10),
        }
    }
}
