//! `wharf server`: the control plane alone.

use anyhow::Result;
use clap::Args;

use crate::data::Data;
use crate::process;
use crate::roles::images;
use crate::roles::server::{self, ServerArgs};

#[derive(Args)]
pub struct Server {
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    server: ServerArgs,
}

impl Server {
    pub async fn run(self) -> Result<()> {
        let cancel = process::stop_on_signal()?;
        let data = self.data.open()?;
        let server = server::start(&data, &self.server, images::of_server(&data)?, cancel.clone()).await?;
        println!("export KUBECONFIG={}", server.kubeconfig.display());
        cancel.cancelled().await;
        server.stop().await;
        Ok(())
    }
}
