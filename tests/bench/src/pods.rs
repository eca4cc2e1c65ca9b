//! How fast pods become Ready, and what they weigh.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use hdrhistogram::Histogram;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use wharf_test_support::{Cluster, Options};

use crate::process;
use crate::table::Table;

const SINGLES: usize = 100;
/// Replicas of the fleet, and what it grows to.
const FLEET: i32 = 1_000;
const CROWD: i32 = 10_000;
const FLEET_LIMIT: Duration = Duration::from_secs(300);

fn spec() -> Value {
    json!({ "terminationGracePeriodSeconds": 0, "containers": [{ "name": "hello", "image": "hello-http:v1", "ports": [{ "name": "http", "containerPort": 8080 }] }] })
}

pub async fn measure(table: &mut Table) -> Result<()> {
    let arguments = ["--max-pods", "11000"].map(str::to_owned).to_vec();
    let cluster = Cluster::start(Options { images: vec!["hello-http"], arguments, ..Options::default() }).await?;
    singles(table, &cluster).await?;
    fleet(table, &cluster).await
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Creates pods one after another, each timed from its POST to the watch event that says Ready.
async fn singles(table: &mut Table, cluster: &Cluster) -> Result<()> {
    let pods: Api<Pod> = Api::default_namespaced(cluster.client.clone());
    let mut events = pods.watch(&WatchParams::default(), "0").await?.boxed();
    let mut delays = Histogram::<u64>::new(3)?;
    // The first one compiles the component.
    for number in 0..=SINGLES {
        let name = format!("single-{number}");
        let pod: Pod = serde_json::from_value(json!({ "metadata": { "name": name }, "spec": spec() }))?;
        let begun = Instant::now();
        pods.create(&PostParams::default(), &pod).await?;
        loop {
            let event = events.next().await.context("the watch ended")??;
            if let WatchEvent::Modified(pod) = event
                && pod.name_any() == name
                && is_ready(&pod)
            {
                break;
            }
        }
        if number > 0 {
            delays.record(u64::try_from(begun.elapsed().as_micros())?)?;
        }
    }
    let ms = |quantile: f64| delays.value_at_quantile(quantile) as f64 / 1000.0;
    let figure = format!("p50 {:.1} ms, p99 {:.1} ms", ms(0.5), ms(0.99));
    table.add("apply → Ready, Wasm pod, image compiled", figure, "p50 < 25 ms, p99 < 100 ms");
    Ok(())
}

async fn fleet(table: &mut Table, cluster: &Cluster) -> Result<()> {
    let deployments: Api<Deployment> = Api::default_namespaced(cluster.client.clone());
    let labels = json!({ "app": "fleet" });
    let deployment = json!({
        "metadata": { "name": "fleet" },
        "spec": { "replicas": 0, "selector": { "matchLabels": labels }, "template": { "metadata": { "labels": labels }, "spec": spec() } },
    });
    deployments.create(&PostParams::default(), &serde_json::from_value(deployment)?).await?;
    let before = process::resident_bytes(cluster.pid())?;
    let figure = scale(cluster, &deployments, FLEET).await?;
    table.add(format!("Deployment 0 → {FLEET} Ready Wasm pods"), figure, "< 5 s on 2 cores");
    weigh(table, cluster, before, FLEET, "")?;
    let figure = scale(cluster, &deployments, CROWD).await?;
    table.add(format!("Deployment {FLEET} → {CROWD} Ready Wasm pods"), figure, "");
    weigh(table, cluster, before, CROWD, "< 150 kB")
}

/// Sets the fleet's replicas and waits until they are Ready; returns how long that took.
async fn scale(cluster: &Cluster, deployments: &Api<Deployment>, replicas: i32) -> Result<String> {
    let (cpu, begun) = (process::cpu(cluster.pid())?, Instant::now());
    let patch = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
    deployments.patch("fleet", &PatchParams::default(), &patch).await?;
    let mut events = deployments.watch(&WatchParams::default().fields("metadata.name=fleet"), "0").await?.boxed();
    let ready = async {
        while let Some(event) = events.next().await {
            if let WatchEvent::Added(deployment) | WatchEvent::Modified(deployment) = event?
                && deployment.status.and_then(|status| status.ready_replicas) == Some(replicas)
            {
                return anyhow::Ok(true);
            }
        }
        Ok(false)
    };
    ensure!(
        tokio::time::timeout(FLEET_LIMIT, ready).await.context("the fleet did not become Ready")??,
        "the watch ended"
    );
    let (took, used) = (begun.elapsed(), process::cpu(cluster.pid())? - cpu);
    Ok(format!("{:.1} s, {:.1} s CPU", took.as_secs_f64(), used.as_secs_f64()))
}

/// What a pod of the fleet weighs: all that the process has taken since there was none, shared out.
fn weigh(table: &mut Table, cluster: &Cluster, before: u64, pods: i32, budget: &'static str) -> Result<()> {
    let each = process::resident_bytes(cluster.pid())?.saturating_sub(before) / u64::from(pods.unsigned_abs());
    table.add(format!("memory for each of {pods} live Wasm pods, all told"), format!("{} kB", each / 1000), budget);
    Ok(())
}
