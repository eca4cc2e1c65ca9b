//! `cargo xtask bench`: measures the release binary and prints a table beside the budgets.
//!
//! CPU figures are the server process's own, from /proc, so they hold on a machine that is busy with the load generator too.
//! Times are wall clock and move with the machine: compare ratios, or two runs on one day.

mod admission;
mod api;
mod http;
mod pods;
mod process;
mod start;
mod table;
mod watch;

use anyhow::Result;
use clap::Parser;

#[derive(Parser)]
struct Cli {
    /// Only measurements whose name contains this
    filter: Option<String>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    // The default provider of this process's TLS ends.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let wanted = |name: &str| cli.filter.as_deref().is_none_or(|filter| name.contains(filter));
    let mut table = table::Table::default();
    if wanted("start") {
        start::measure(&mut table).await?;
    }
    if wanted("api") {
        api::measure(&mut table).await?;
    }
    if wanted("admission") {
        admission::measure(&mut table).await?;
    }
    if wanted("watch") {
        watch::measure(&mut table).await?;
    }
    if wanted("pods") {
        pods::measure(&mut table).await?;
    }
    if wanted("http") {
        http::measure(&mut table).await?;
    }
    println!("{table}");
    Ok(())
}
