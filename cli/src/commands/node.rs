//! `wharf node`: a node that joins a cluster, by a bootstrap token or with a kubeconfig of its own.
//!
//! What it has after joining (`node/kubeconfig`, and certificates under `node/pki`) is what it starts with the next time.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use tokio::task::JoinSet;
use wharf_auth::pki::Pki;

use crate::data::Data;
use crate::process;
use crate::roles::images::Images;
use crate::roles::join::{Ask, Member};
use crate::roles::node::{self, Joined, NodeArgs};

#[derive(Args)]
pub struct Node {
    #[command(flatten)]
    data: Data,
    /// Who this node is to the API server; written after joining by a bootstrap kubeconfig [default: node/kubeconfig in the data directory]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Credentials to ask for this node's first certificate with, where it has none (`wharf kubeconfig --token`)
    #[arg(long, value_name = "FILE")]
    bootstrap_kubeconfig: Option<PathBuf>,
    /// The cluster's `pki` directory, to sign the certificate that the node serves with; without it, the cluster is asked, and
    /// somebody must approve that
    #[arg(long, value_name = "DIRECTORY")]
    pki: Option<PathBuf>,
    /// Exchange the certificate that the node speaks with before it ends
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    rotate_certificates: bool,
    #[command(flatten)]
    node: NodeArgs,
}

impl Node {
    pub async fn run(self) -> Result<()> {
        let cancel = process::stop_on_signal()?;
        let data = self.data.open()?;
        let (name, directory) = (self.node.name()?, data.node()?);
        let (kubeconfig, certificates) = (directory.join("kubeconfig"), directory.join("pki"));
        let ask = Ask {
            kubeconfig: self.kubeconfig.as_deref().unwrap_or(&kubeconfig),
            bootstrap: self.bootstrap_kubeconfig.as_deref(),
            certificates: &certificates,
            node: &name,
            rotate: self.rotate_certificates,
        };
        let mut tasks = JoinSet::new();
        let Some(member) = cancel.run_until_cancelled(Member::join(ask, &mut tasks, &cancel)).await else {
            return Ok(());
        };
        let member = member?;
        let serving = match &self.pki {
            Some(pki) => {
                let now = jiff::Timestamp::now();
                let pki = Arc::new(Pki::open(pki, now).context("open the cluster's authority")?);
                let (serving, renewal) = self.node.serving(pki, now)?;
                renewal.spawn(&mut tasks, &cancel);
                serving
            }
            None => member.serving(&certificates, &name, &[self.node.address], &mut tasks, &cancel)?,
        };
        let Member { client, authorities, .. } = member;
        let router = client.clone();
        let joined = Joined { client, router, serving, authorities, cluster_dns: None };
        let images = Images::open(&data, self.node.registry).await?;
        let node = node::start(&data, &self.node, joined, images, cancel.clone()).await?;
        cancel.cancelled().await;
        node.stop().await;
        Ok(())
    }
}
