//! Events to a thousand watchers: over HTTP/2 as client-go speaks it, a hundred watches a connection, and over HTTP/1.1, where each
//! watch has a connection of its own.
//!
//! The CPU is the server process's and includes the writes that make the events; what they cost where nobody watches is measured
//! beside. Written as fast as one client writes, several events may wait for a watcher and go out together; at a pace that leaves
//! each time to arrive, none do.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
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
/// Writes of one measurement.
const WRITES: usize = 100;
/// Between two writes of a measurement that leaves each event time to arrive.
const PACE: Duration = Duration::from_millis(50);

enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Http {
    One,
    Two,
}

pub async fn measure(table: &mut Table) -> Result<()> {
    let cluster = Cluster::start(Options::default()).await?;
    for (http, pace, what, budget) in [
        (Http::Two, None, "HTTP/2, as fast as one client writes", "≤ 2 µs CPU (upstream 57 µs)"),
        (Http::Two, Some(PACE), "HTTP/2, 20 writes a second", "≤ 2 µs CPU"),
        (Http::One, Some(PACE), "HTTP/1.1, 20 writes a second", ""),
    ] {
        let figure = deliver(&cluster, http, pace).await?;
        table.add(format!("watch delivery to {WATCHERS} watchers, {what}"), figure, budget);
    }
    Ok(())
}

async fn deliver(cluster: &Cluster, http: Http, pace: Option<Duration>) -> Result<String> {
    let pid = cluster.pid();
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client.clone());
    let prefix = |what: &str| format!("{what}-{http:?}-{}", pace.is_some()).to_lowercase();
    let before = process::cpu(pid)?;
    write(&maps, &prefix("unwatched"), pace).await?;
    let writes = process::cpu(pid)? - before;

    let version = maps.list(&ListParams::default().limit(1)).await?.metadata.resource_version.unwrap_or_default();
    let mut watchers = Vec::with_capacity(WATCHERS);
    let mut connection = None;
    for number in 0..WATCHERS {
        if http == Http::One || number % ON_ONE_CONNECTION == 0 {
            connection = Some(connect(cluster, http).await?);
        }
        let sender = connection.as_mut().context("there is a connection")?;
        let body = watch(sender, &version).await?;
        watchers.push(tokio::spawn(async move { arrivals(body).await }));
    }
    let before = process::cpu(pid)?;
    let written = write(&maps, &prefix("watched"), pace).await?;
    let mut delays = Histogram::<u64>::new(3)?;
    for watcher in watchers {
        for (name, at) in watcher.await?? {
            let begun = written.get(&name).context("a name that was written")?;
            delays.record(u64::try_from((at - *begun).as_micros())?)?;
        }
    }
    let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / (WATCHERS * WRITES) as f64;
    let (all, writes) = (each(process::cpu(pid)? - before), each(writes));
    let ms = |quantile: f64| delays.value_at_quantile(quantile) as f64 / 1000.0;
    Ok(format!(
        "{all:.1} µs CPU each, the write's {writes:.1} µs with it; p50 {:.0} ms, p99 {:.0} ms after the write began",
        ms(0.5),
        ms(0.99)
    ))
}

/// Writes new objects; returns when each write began.
async fn write(maps: &Api<ConfigMap>, prefix: &str, pace: Option<Duration>) -> Result<HashMap<String, Instant>> {
    let mut written = HashMap::new();
    for number in 0..WRITES {
        let name = format!("{prefix}-{number}");
        written.insert(name.clone(), Instant::now());
        maps.create(&PostParams::default(), &config_map(&name)).await?;
        if let Some(pace) = pace {
            tokio::time::sleep(pace).await;
        }
    }
    Ok(written)
}

async fn connect(cluster: &Cluster, http: Http) -> Result<Sender> {
    let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig())?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let mut tls = config.rustls_client_config()?;
    tls.alpn_protocols = vec![if http == Http::Two { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    let host = config.cluster_url.host().context("a host")?.to_owned();
    let port = config.cluster_url.port_u16().context("a port")?;
    let stream = TcpStream::connect((host.as_str(), port)).await?;
    stream.set_nodelay(true)?;
    let stream = TlsConnector::from(Arc::new(tls)).connect(host.try_into()?, stream).await?;
    let stream = TokioIo::new(stream);
    Ok(match http {
        Http::One => {
            let (sender, connection) = http1::handshake(stream).await?;
            tokio::spawn(connection);
            Sender::Http1(sender)
        }
        Http::Two => {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
            tokio::spawn(connection);
            Sender::Http2(sender)
        }
    })
}

async fn watch(sender: &mut Sender, version: &str) -> Result<Incoming> {
    let uri = format!(
        "https://wharf/api/v1/namespaces/default/configmaps?watch=1&labelSelector=app%3Dbench&resourceVersion={version}"
    );
    let request = Request::get(uri).header("host", "wharf").body(Empty::new())?;
    let response = match sender {
        Sender::Http1(sender) => {
            sender.ready().await?;
            sender.send_request(request).await?
        }
        Sender::Http2(sender) => {
            sender.ready().await?;
            sender.send_request(request).await?
        }
    };
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
