//! What nodes say of themselves: `/stats/summary` of the kubelet.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use http_body_util::{BodyExt, Limited};
use jiff::Timestamp;
use kube::{Api, Client};
use serde::Deserialize;
use wharf_auth::{Attributes, Decision};
use wharf_types::k8s::api::core::v1::Node;

use super::identity;
use crate::server::ApiServer;

/// Nodes that are asked at the same time for one request.
const ASKED_MAX: usize = 16;
/// How long one may take to answer: it may have to wait for a second reading.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest summary that is read.
const SUMMARY_MAX: usize = 64 << 20;
const SUMMARY: &str = "/stats/summary?only_cpu_and_memory=true";

/// One node's summary.
#[derive(Debug, Deserialize)]
pub struct Reading {
    pub node: NodeStats,
    #[serde(default)]
    pub pods: Vec<PodStats>,
}

#[derive(Debug, Deserialize)]
pub struct NodeStats {
    pub cpu: Option<Cpu>,
    pub memory: Option<Memory>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStats {
    pub pod_ref: PodRef,
    #[serde(default)]
    pub containers: Vec<ContainerStats>,
}

#[derive(Debug, Deserialize)]
pub struct PodRef {
    pub name: String,
    pub namespace: String,
}

#[derive(Debug, Deserialize)]
pub struct ContainerStats {
    pub name: String,
    pub cpu: Option<Cpu>,
    pub memory: Option<Memory>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cpu {
    pub time: Timestamp,
    pub usage_nano_cores: Option<u64>,
    /// Over how long; upstream's kubelet does not say.
    pub window: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    pub working_set_bytes: Option<u64>,
}

/// The readings of those nodes that answer in time, by name.
pub async fn read(server: &Arc<ApiServer>, client: &Client, names: BTreeSet<String>) -> HashMap<String, Reading> {
    let asked = stream::iter(names).map(async |name| {
        let reading = tokio::time::timeout(ANSWER_TIMEOUT, ask(server, client, &name)).await;
        match reading.unwrap_or_else(|_| Err("it did not answer in time".to_owned())) {
            Ok(reading) => Some((name, reading)),
            Err(why) => {
                tracing::warn!(node = name, why, "read a node's statistics");
                None
            }
        }
    });
    asked.buffer_unordered(ASKED_MAX).filter_map(async |reading| reading).collect().await
}

async fn ask(server: &Arc<ApiServer>, client: &Client, name: &str) -> Result<Reading, String> {
    let nodes = server.nodes.as_ref().ok_or("this server calls no nodes")?;
    // What the kubelet would ask, if it let others in than this server.
    let wanted = Attributes {
        verb: "get".to_owned(),
        resource_request: true,
        version: "v1".to_owned(),
        resource: "nodes".to_owned(),
        subresource: "stats".to_owned(),
        name: name.to_owned(),
        ..Attributes::default()
    };
    if !matches!(server.authorizer.authorize(&identity(), &wanted).await, Decision::Allow(_)) {
        return Err(format!("{} may not get nodes/stats", identity().name));
    }
    let node = Api::<Node>::all(client.clone()).get(name).await.map_err(|error| error.to_string())?;
    let response = nodes.get(&node, SUMMARY).await.map_err(|error| error.message)?;
    let body = Limited::new(response.into_body(), SUMMARY_MAX).collect().await.map_err(|error| error.to_string())?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| error.to_string())
}
