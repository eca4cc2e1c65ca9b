//! `wharf node`: a node that joins a cluster with a kubeconfig of its own (`wharf kubeconfig --user system:node:NAME --group system:nodes`).

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use wharf_auth::pki::{Pki, ServerNames};

use crate::data::Data;
use crate::process;
use crate::roles::images::Images;
use crate::roles::node::{self, Joined, NodeArgs};

#[derive(Args)]
pub struct Node {
    #[command(flatten)]
    data: Data,
    /// Who this node is to the API server
    #[arg(long)]
    kubeconfig: PathBuf,
    /// The cluster's `pki` directory, to sign the certificate that the node serves with
    #[arg(long)]
    pki: PathBuf,
    #[command(flatten)]
    node: NodeArgs,
}

impl Node {
    pub async fn run(self) -> Result<()> {
        let cancel = process::stop_on_signal()?;
        let data = self.data.open()?;
        let now = jiff::Timestamp::now();
        let pki = Pki::open(&self.pki, now).context("open the cluster's authority")?;
        let name = self.node.name()?;
        let names = ServerNames::of(&[name.clone(), self.node.address.to_string()]);
        let serving =
            pki.serving(&format!("system:node:{name}"), &names, now).context("issue the node's certificate")?;
        let client = wharf_client::transport::from_kubeconfig(&self.kubeconfig).await?;
        let joined = Joined { client, serving, ca: pki.ca_der()?, cluster_dns: None };
        let images = Images::open(&data, self.node.registry).await?;
        let node = node::start(&data, &self.node, joined, images, cancel.clone()).await?;
        cancel.cancelled().await;
        node.stop().await;
        Ok(())
    }
}
