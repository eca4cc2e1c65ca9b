//! From `wharf up` to a Ready node, and what an idle cluster weighs.

use std::time::{Duration, Instant};

use anyhow::Result;
use wharf_test_support::{Cluster, Options};

use crate::process;
use crate::table::Table;

const STARTS: usize = 5;
/// How long a cluster is left alone before it counts as idle.
const IDLE_AFTER: Duration = Duration::from_secs(5);

pub async fn measure(table: &mut Table) -> Result<()> {
    let mut cluster = Cluster::start(Options::default()).await?;
    let mut warm = Vec::new();
    for _ in 0..STARTS {
        cluster.kill().await;
        let begun = Instant::now();
        cluster.restart().await?;
        warm.push(begun.elapsed());
    }
    warm.sort();
    table.add(
        "`wharf up`, warm disk, until the node is Ready",
        format!("{} ms (median of {STARTS})", warm[STARTS / 2].as_millis()),
        "< 1 s",
    );

    tokio::time::sleep(IDLE_AFTER).await;
    let before = process::cpu(cluster.pid())?;
    tokio::time::sleep(IDLE_AFTER).await;
    let busy = process::cpu(cluster.pid())? - before;
    let bytes = process::resident_bytes(cluster.pid())?;
    table.add("idle memory, whole single-node cluster", format!("{:.0} MB", bytes as f64 / 1e6), "< 100 MB");
    table.add("idle CPU", format!("{:.1} % of a core", 100.0 * busy.as_secs_f64() / IDLE_AFTER.as_secs_f64()), "");
    Ok(())
}
