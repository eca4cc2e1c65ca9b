//! One event to a thousand watchers, over HTTP/2 as client-go speaks it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ListParams, PostParams};
use kube::client::ConfigExt;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Config};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use wharf_test_support::{Cluster, Options};

use crate::api::config_map;
use crate::process;
use crate::table::Table;

const WATCHERS: usize = 1_000;
/// Watches on one connection; the server allows 100.
const ON_ONE_CONNECTION: usize = 100;
const WRITES: usize = 20;

type Sender = http2::SendRequest<Empty<Bytes>>;

pub async fn measure(table: &mut Table) -> Result<()> {
    let cluster = Cluster::start(Options::default()).await?;
    let pid = cluster.pid();
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client.clone());
    let version = maps.list(&ListParams::default().limit(1)).await?.metadata.resource_version.unwrap_or_default();
    let mut watchers = Vec::with_capacity(WATCHERS);
    let mut connection = None;
    for number in 0..WATCHERS {
        if number % ON_ONE_CONNECTION == 0 {
            connection = Some(connect(&cluster).await?);
        }
        let sender = connection.as_mut().context("there is a connection")?;
        let body = watch(sender, &version).await?;
        watchers.push(tokio::spawn(async move { arrivals(body).await }));
    }
    let (cpu, mut written) = (process::cpu(pid)?, HashMap::new());
    for number in 0..WRITES {
        let name = format!("watched-{number}");
        written.insert(name.clone(), Instant::now());
        maps.create(&PostParams::default(), &config_map(&name)).await?;
    }
    let mut delays = Histogram::<u64>::new(3)?;
    for watcher in watchers {
        for (name, at) in watcher.await?? {
            let begun = written.get(&name).context("a name that was written")?;
            delays.record(u64::try_from((at - *begun).as_micros())?)?;
        }
    }
    let each = (process::cpu(pid)? - cpu).as_secs_f64() * 1e6 / (WATCHERS * WRITES) as f64;
    let ms = |quantile: f64| delays.value_at_quantile(quantile) as f64 / 1000.0;
    let figure = format!("{each:.1} µs CPU each; p50 {:.0} ms, p99 {:.0} ms after the write began", ms(0.5), ms(0.99));
    table.add(format!("watch delivery to {WATCHERS} watchers"), figure, "≤ 2 µs CPU (upstream 57 µs)");
    Ok(())
}

async fn connect(cluster: &Cluster) -> Result<Sender> {
    let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig())?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let mut tls = config.rustls_client_config()?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let host = config.cluster_url.host().context("a host")?.to_owned();
    let port = config.cluster_url.port_u16().context("a port")?;
    let stream = TcpStream::connect((host.as_str(), port)).await?;
    stream.set_nodelay(true)?;
    let stream = TlsConnector::from(Arc::new(tls)).connect(host.try_into()?, stream).await?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn watch(sender: &mut Sender, version: &str) -> Result<Incoming> {
    let uri = format!(
        "https://wharf/api/v1/namespaces/default/configmaps?watch=1&labelSelector=app%3Dbench&resourceVersion={version}"
    );
    sender.ready().await?;
    let response = sender.send_request(Request::get(uri).body(Empty::new())?).await?;
    anyhow::ensure!(response.status().is_success(), "{}", response.status());
    Ok(response.into_body())
}

/// When each object came.
async fn arrivals(mut body: Incoming) -> Result<Vec<(String, Instant)>> {
    let (mut seen, mut rest) = (Vec::with_capacity(WRITES), Vec::new());
    while seen.len() < WRITES {
        let frame = body.frame().await.context("a watch ended early")??;
        rest.extend_from_slice(&frame.into_data().unwrap_or_default());
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let event: serde_json::Value = serde_json::from_slice(&line)?;
            let name = event["object"]["metadata"]["name"].as_str().context("an object with a name")?;
            seen.push((name.to_owned(), Instant::now()));
        }
    }
    Ok(seen)
}
