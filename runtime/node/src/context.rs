//! What every pod worker shares: the node's clients, settings and limits.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{Api, Client};
use tokio::sync::Semaphore;
use wharf_cri::{DnsConfig, Runtime};
use wharf_volumes::{Objects, Tokens};

use crate::events::Recorder;
use crate::images::Puller;
use crate::options::Timings;
use crate::services::Services;
use crate::status::NodeFacts;
use crate::{Clock, names};

/// Status writes and deletions at the same time, over all pods.
pub const MAX_API_WRITES: usize = 32;

pub struct Context {
    pub client: Client,
    pub runtime: Arc<dyn Runtime>,
    pub puller: Puller,
    pub objects: Arc<Objects>,
    pub tokens: Tokens,
    pub services: Arc<Services>,
    pub events: Recorder,
    pub clock: Clock,
    pub timings: Timings,
    pub facts: NodeFacts,
    /// In front of container IDs: `wharf` in `wharf://…`.
    pub scheme: String,
    pub data_dir: PathBuf,
    pub allocatable: BTreeMap<String, Quantity>,
    pub cluster_dns: Vec<String>,
    pub cluster_domain: String,
    pub host_dns: DnsConfig,
    pub api_writes: Semaphore,
}

impl Context {
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }

    pub fn pods(&self, pod: &Pod) -> Api<Pod> {
        Api::namespaced(self.client.clone(), names::namespace(pod))
    }

    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        wharf_volumes::pod_dir(&self.data_dir, uid)
    }

    pub fn log_dir(&self, pod: &Pod) -> PathBuf {
        let name = format!("{}_{}_{}", names::namespace(pod), names::name(pod), names::uid(pod));
        self.data_dir.join("logs").join(name)
    }

    /// Where a run's termination message is written.
    pub fn termination_file(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.pod_dir(uid).join("containers").join(container).join(attempt.to_string())
    }
}
