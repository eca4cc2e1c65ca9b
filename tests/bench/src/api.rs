//! Creates, reads, lists and watches of 1 KiB objects.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::StreamExt;
use futures::future::try_join_all;
use hdrhistogram::Histogram;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use serde_json::json;
use wharf_test_support::{Cluster, Options};

use crate::process;
use crate::table::Table;

/// Concurrent clients, each with a connection's worth of requests after another.
const CLIENTS: [usize; 3] = [1, 32, 128];
/// Operations of one measurement.
const OPERATIONS: usize = 4_000;
const LISTED: usize = 5_000;
const WATCHERS: usize = 1_000;
const WATCHED_WRITES: usize = 20;

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(
        json!({ "metadata": { "name": name, "labels": { "app": "bench" } }, "data": { "value": "x".repeat(900) } }),
    )
    .expect("a ConfigMap")
}

/// Runs `operation` for each number below [`OPERATIONS`] with so many at once; returns operations a second and CPU milliseconds each.
async fn load<F: Future<Output = Result<()>>>(
    pid: u32,
    clients: usize,
    operation: impl Fn(usize) -> F,
) -> Result<String> {
    let (next, begun, cpu) = (AtomicUsize::new(0), Instant::now(), process::cpu(pid)?);
    let client = || async {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= OPERATIONS {
                return anyhow::Ok(());
            }
            operation(number).await?;
        }
    };
    try_join_all((0..clients).map(|_| client())).await?;
    let (took, used) = (begun.elapsed(), process::cpu(pid)? - cpu);
    Ok(format!(
        "{:.0}/s, {:.3} ms CPU each",
        OPERATIONS as f64 / took.as_secs_f64(),
        used.as_secs_f64() * 1000.0 / OPERATIONS as f64
    ))
}

pub async fn measure(table: &mut Table) -> Result<()> {
    let cluster = Cluster::start(Options::default()).await?;
    let (pid, client) = (cluster.pid(), cluster.client.clone());
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    for clients in CLIENTS {
        let create = async |number: usize| {
            maps.create(&PostParams::default(), &config_map(&format!("c{clients}-{number}"))).await?;
            Ok(())
        };
        let budget = if clients == 128 { "≤ 0.10 ms CPU (kube-apiserver + etcd: 2.0 ms)" } else { "" };
        table.add(format!("create 1 KiB, {clients} clients, durable"), load(pid, clients, create).await?, budget);
    }
    let get = async |number: usize| {
        maps.get(&format!("c128-{number}")).await?;
        Ok(())
    };
    table.add("GET 1 KiB, 128 clients", load(pid, 128, get).await?, "≤ 0.03 ms CPU (upstream 1.04)");
    let patch = async |number: usize| {
        let patch = Patch::Merge(json!({ "data": { "number": number.to_string() } }));
        maps.patch(&format!("c32-{number}"), &PatchParams::default(), &patch).await?;
        Ok(())
    };
    table.add("merge patch, 32 clients", load(pid, 32, patch).await?, "≤ 0.15 ms CPU (upstream 3.4)");
    lists(table, pid, &client).await?;
    watches(table, pid, &client).await
}

async fn lists(table: &mut Table, pid: u32, client: &Client) -> Result<()> {
    const ROUNDS: u32 = 10;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let params = ListParams::default().limit(u32::try_from(LISTED)?);
    let (begun, cpu) = (Instant::now(), process::cpu(pid)?);
    for _ in 0..ROUNDS {
        let request = kube::core::Request::new("/api/v1/namespaces/default/configmaps").list(&params)?;
        client.request_text(request.map(Into::into)).await?;
    }
    let (took, used) = (begun.elapsed() / ROUNDS, (process::cpu(pid)? - cpu) / ROUNDS);
    let figure = format!("{:.1} ms, {:.1} ms CPU", took.as_secs_f64() * 1e3, used.as_secs_f64() * 1e3);
    table.add(format!("LIST {LISTED} objects of 1 KiB in JSON"), figure, "≤ 6 ms CPU for pods (upstream 225 ms)");
    drop(maps);
    Ok(())
}

async fn watches(table: &mut Table, pid: u32, client: &Client) -> Result<()> {
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let version = maps.list(&ListParams::default().limit(1)).await?.metadata.resource_version.unwrap_or_default();
    let params = WatchParams::default().labels("app=bench");
    let ready = Arc::new(AtomicUsize::new(0));
    let watchers = (0..WATCHERS).map(|_| {
        let (maps, version, params, ready) = (maps.clone(), version.clone(), params.clone(), ready.clone());
        tokio::spawn(async move {
            let mut events = maps.watch(&params, &version).await?.boxed();
            ready.fetch_add(1, Ordering::Relaxed);
            let mut seen = Vec::with_capacity(WATCHED_WRITES);
            while seen.len() < WATCHED_WRITES {
                match events.next().await {
                    Some(Ok(WatchEvent::Added(map))) => {
                        seen.push((map.metadata.name.unwrap_or_default(), Instant::now()))
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error.into()),
                    None => anyhow::bail!("a watch ended early"),
                }
            }
            Ok(seen)
        })
    });
    let watchers: Vec<_> = watchers.collect();
    while ready.load(Ordering::Relaxed) < WATCHERS {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (cpu, mut written) = (process::cpu(pid)?, std::collections::HashMap::new());
    for number in 0..WATCHED_WRITES {
        let name = format!("watched-{number}");
        written.insert(name.clone(), Instant::now());
        maps.create(&PostParams::default(), &config_map(&name)).await?;
    }
    let mut delays = Histogram::<u64>::new(3)?;
    for watcher in watchers {
        for (name, at) in watcher.await?? {
            if let Some(begun) = written.get(&name) {
                delays.record(u64::try_from((at - *begun).as_micros())?)?;
            }
        }
    }
    let each = (process::cpu(pid)? - cpu).as_secs_f64() * 1e6 / (WATCHERS * WATCHED_WRITES) as f64;
    let ms = |quantile: f64| delays.value_at_quantile(quantile) as f64 / 1000.0;
    let figure = format!("{each:.1} µs CPU each; p50 {:.0} ms, p99 {:.0} ms after the write began", ms(0.5), ms(0.99));
    table.add(format!("watch delivery to {WATCHERS} watchers"), figure, "≤ 2 µs CPU (upstream 57 µs)");
    Ok(())
}
