//! Writes, reads and lists, by many clients at once.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Result;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use wharf_test_support::{Cluster, Options};

use crate::process;
use crate::table::Table;

/// Concurrent clients, each with a connection's worth of requests after another.
const CLIENTS: [usize; 3] = [1, 32, 128];
/// Operations of one measurement.
const OPERATIONS: usize = 4_000;
const LISTED: usize = 5_000;

pub fn config_map(name: &str) -> ConfigMap {
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
    for clients in CLIENTS {
        writes(table, pid, &client, clients).await?;
    }
    lists(table, pid, &client).await
}

/// Each kind of write, and GET, by so many clients at once.
async fn writes(table: &mut Table, pid: u32, client: &Client, clients: usize) -> Result<()> {
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let name = |number: usize| format!("c{clients}-{number}");
    let create = async |number: usize| {
        maps.create(&PostParams::default(), &config_map(&name(number))).await?;
        Ok(())
    };
    let budget = if clients == 128 { "≤ 0.10 ms CPU (kube-apiserver + etcd: 2.0 ms)" } else { "" };
    table.add(format!("create 1 KiB, {clients} clients, durable"), load(pid, clients, create).await?, budget);
    let get = async |number: usize| {
        maps.get(&name(number)).await?;
        Ok(())
    };
    let budget = if clients == 128 { "≤ 0.03 ms CPU (upstream 1.04)" } else { "" };
    table.add(format!("GET 1 KiB, {clients} clients"), load(pid, clients, get).await?, budget);
    let update = async |number: usize| {
        let mut map = config_map(&name(number));
        map.annotations_mut().insert("round".to_owned(), "update".to_owned());
        maps.replace(&name(number), &PostParams::default(), &map).await?;
        Ok(())
    };
    table.add(format!("update 1 KiB, {clients} clients"), load(pid, clients, update).await?, "");
    let budget = if clients == 32 { "≤ 0.15 ms CPU (upstream 3.4)" } else { "" };
    let patch = async |number: usize| {
        let patch = Patch::Merge(json!({ "data": { "number": number.to_string() } }));
        maps.patch(&name(number), &PatchParams::default(), &patch).await?;
        Ok(())
    };
    table.add(format!("merge patch, {clients} clients"), load(pid, clients, patch).await?, budget);
    let apply = async |number: usize| {
        let mut map = json!(config_map(&name(number)));
        map["data"]["applied"] = json!(number.to_string());
        let (params, patch) = (PatchParams::apply("bench").force(), Patch::Apply(map));
        maps.patch(&name(number), &params, &patch).await?;
        Ok(())
    };
    table.add(format!("apply, {clients} clients"), load(pid, clients, apply).await?, budget);
    Ok(())
}

async fn lists(table: &mut Table, pid: u32, client: &Client) -> Result<()> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let before = process::resident_bytes(pid)?;
    let create = async |number: usize| {
        let group = if number.is_multiple_of(100) { "few" } else { "many" };
        let pod = json!({
            "metadata": { "name": format!("p{number}"), "labels": { "app": "bench", "group": group } },
            "spec": { "schedulerName": "nobody", "containers": [{ "name": "main", "image": "none:v1" }] },
        });
        pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
        anyhow::Ok(())
    };
    let next = AtomicUsize::new(0);
    let writers = (0..32).map(|_| async {
        while let number @ 0..LISTED = next.fetch_add(1, Ordering::Relaxed) {
            create(number).await?;
        }
        anyhow::Ok(())
    });
    try_join_all(writers).await?;
    let each = process::resident_bytes(pid)?.saturating_sub(before) * 10_000 / LISTED as u64;
    table.add("memory for 10,000 pods that nothing runs", format!("{} MB", each >> 20), "");
    let json = "application/json";
    let table_form = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let protobuf = "application/vnd.kubernetes.protobuf";
    let few = "&labelSelector=group%3Dfew";
    for (what, accept, coding, query, budget) in [
        ("in JSON", json, "identity", "", "≤ 6 ms CPU (upstream 225 ms)"),
        ("in JSON, compressed", json, "gzip", "", ""),
        ("in protobuf", protobuf, "identity", "", ""),
        ("in protobuf, compressed", protobuf, "gzip", "", ""),
        ("as a Table", table_form, "identity", "", ""),
        ("in JSON, of which 50 are selected", json, "identity", few, ""),
    ] {
        let figure = list(pid, client, accept, coding, query).await?;
        table.add(format!("LIST {LISTED} pods {what}"), figure, budget);
    }
    Ok(())
}

async fn list(pid: u32, client: &Client, accept: &str, coding: &str, query: &str) -> Result<String> {
    const ROUNDS: u32 = 10;
    let uri = format!("/api/v1/namespaces/default/pods?limit=0{query}");
    let (begun, cpu) = (Instant::now(), process::cpu(pid)?);
    for _ in 0..ROUNDS {
        let request = http::Request::get(&uri).header("accept", accept).header("accept-encoding", coding);
        let request = request.body(kube::client::Body::empty())?;
        let body = client.send(request).await?.into_body();
        http_body_util::BodyExt::collect(body).await?;
    }
    let (took, used) = (begun.elapsed() / ROUNDS, (process::cpu(pid)? - cpu) / ROUNDS);
    Ok(format!("{:.1} ms, {:.1} ms CPU", took.as_secs_f64() * 1e3, used.as_secs_f64() * 1e3))
}
