//! `wharf up`: the control plane and a node in one process.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::task::JoinSet;
use wharf_auth::User;
use wharf_auth::pki::Identity;

use crate::data::Data;
use crate::process;
use crate::roles::images::Images;
use crate::roles::node::{self, Joined, NodeArgs};
use crate::roles::server::{self, ServerArgs};

/// How long the node may take until it is Ready; it goes on trying after the warning.
const READY_LIMIT: Duration = Duration::from_secs(30);

#[derive(Args)]
pub struct Up {
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    node: NodeArgs,
}

impl Up {
    pub async fn run(self) -> Result<()> {
        let begun = Instant::now();
        let cancel = process::stop_on_signal()?;
        let data = self.data.open()?;
        let images = Images::open(&data, self.node.registry).await?;
        let server = server::start(&data, &self.server, images.plugins(), cancel.clone()).await?;

        let name = self.node.name()?;
        let now = jiff::Timestamp::now();
        let mut renewals = JoinSet::new();
        let (serving, renewal) = self.node.serving(server.pki.clone(), now)?;
        renewal.spawn(&mut renewals, &cancel);
        let joined = Joined {
            client: server.client(User::new(&Identity::node(&name).user, &[wharf_auth::NODES])),
            router: server.client(User::new("system:kube-proxy", &[])),
            serving,
            authorities: vec![server.pki.ca_der()?],
            cluster_dns: Some(server.dns_ip),
        };
        let node = node::start(&data, &self.node, joined, images, cancel.clone()).await?;

        let admin = server.client(User::new("system:admin", &[wharf_auth::MASTERS]));
        tokio::select! {
            () = cancel.cancelled() => {}
            ready = tokio::time::timeout(READY_LIMIT, ready(admin, &name)) => match ready {
                Ok(ready) => {
                    ready?;
                    greet(&server, &node, begun.elapsed());
                }
                Err(_) => tracing::warn!(node = name, "not Ready yet; see `kubectl describe node`"),
            }
        }
        cancel.cancelled().await;
        node.stop().await;
        server.stop().await;
        Ok(())
    }
}

/// Waits until the node says that it is Ready.
async fn ready(client: kube::Client, name: &str) -> Result<()> {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut nodes =
        std::pin::pin!(watcher(Api::<Node>::all(client), config).default_backoff().applied_objects().boxed());
    while let Some(node) = nodes.try_next().await.context("watch the node")? {
        let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
        if conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True") {
            return Ok(());
        }
    }
    anyhow::bail!("the watch of the node ended")
}

/// The only thing on standard output: a shell can take it in.
fn greet(server: &server::Running, node: &node::Running, took: Duration) {
    println!("# Ready in {} ms. API server {}, registry {}.", took.as_millis(), server.url, node.registry);
    println!("export KUBECONFIG={}", server.kubeconfig.display());
}
