//! `wharf kubeconfig`: credentials for somebody else.

use anyhow::{Context, Result};
use clap::Args;
use wharf_auth::kubeconfig;
use wharf_auth::pki::{Identity, Pki};

use crate::data::Data;

/// What the entry is called whose user the token decides.
const BEARER: &str = "bearer";

#[derive(Args)]
pub struct Kubeconfig {
    #[command(flatten)]
    data: Data,
    /// The user, e.g. `system:node:edge-1`; left out, the admin
    #[arg(long)]
    user: Option<String>,
    /// The user's groups, e.g. `system:nodes`
    #[arg(long, requires = "user")]
    group: Vec<String>,
    /// A bearer token in place of a certificate, e.g. a bootstrap token for nodes to join with
    #[arg(long, conflicts_with = "user")]
    token: Option<String>,
    /// The API server's URL as the user reaches it
    #[arg(long, default_value = "https://127.0.0.1:6443")]
    server: String,
}

impl Kubeconfig {
    pub fn run(self) -> Result<()> {
        let now = jiff::Timestamp::now();
        let pki = Pki::open(&self.data.open()?.pki(), now).context("open the cluster's authority")?;
        if let Some(token) = &self.token {
            print!("{}", kubeconfig::Kubeconfig::by_token(&self.server, &pki.ca_pem(), BEARER, token).to_yaml()?);
            return Ok(());
        }
        let groups: Vec<&str> = self.group.iter().map(String::as_str).collect();
        let identity = self.user.map_or_else(Identity::admin, |user| Identity::new(&user, &groups));
        print!("{}", kubeconfig::Kubeconfig::issue(&pki, &self.server, &identity, now)?.to_yaml()?);
        Ok(())
    }
}
