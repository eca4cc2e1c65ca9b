//! Requests a second of an HTTP function through a Service, against `wasmtime serve` with the same component in the same run.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::future::join_all;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use tokio::net::TcpStream;
use tokio::process::Command;
use wharf_test_support::{Cluster, cluster, eventually};

use crate::table::Table;

const CONNECTIONS: usize = 32;
const WARM_UP: Duration = Duration::from_secs(2);
const RUN: Duration = Duration::from_secs(6);
/// Each side is measured this often, in turn, so that both meet the same noise.
const ROUNDS: usize = 3;

pub async fn measure(table: &mut Table) -> Result<()> {
    let ours = Cluster::with_images(&["hello-http"]).await;
    let app = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/hello-http/app.yaml");
    ours.kubectl(&["apply", "-f", app]).await.success();
    ours.kubectl(&["rollout", "status", "deploy/hello", "--timeout=60s"]).await.success();
    let service = Api::<Service>::default_namespaced(ours.client.clone()).get("hello").await?;
    let ip = service.spec.and_then(|spec| spec.cluster_ip).context("hello has no cluster IP")?;
    let function: SocketAddr = format!("{ip}:80").parse()?;

    let wasmtime = std::env::var_os("WHARF_WASMTIME").map(PathBuf::from).context("WHARF_WASMTIME names no wasmtime")?;
    let peer: SocketAddr = "127.0.0.1:18099".parse()?;
    let mut serve = Command::new(wasmtime);
    serve.args(["serve", "-S", "cli=y", "--addr", &peer.to_string()]).arg(cluster::guest("hello-http"));
    let _serve = serve.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn()?;
    eventually("wasmtime serve listens", || async {
        TcpStream::connect(peer).await.map_err(|error| error.to_string())
    })
    .await;

    let (mut through_service, mut bare) = (0.0, 0.0);
    for address in [function, peer] {
        load(address, WARM_UP).await?;
    }
    for _ in 0..ROUNDS {
        through_service += load(function, RUN).await?;
        bare += load(peer, RUN).await?;
    }
    let rounds = ROUNDS as f64;
    let figure =
        format!("{:.0}/s against {:.0}/s: {:.2} ×", through_service / rounds, bare / rounds, through_service / bare);
    table.add(
        format!("HTTP function through a Service, {CONNECTIONS} connections"),
        figure,
        "≥ 0.95 × bare `wasmtime serve`",
    );
    Ok(())
}

/// Requests a second over keep-alive connections.
async fn load(address: SocketAddr, time: Duration) -> Result<f64> {
    let (answered, begun) = (AtomicU64::new(0), Instant::now());
    let one = || async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        while begun.elapsed() < time {
            let request = Request::get("/").header("host", "hello").body(Empty::<Bytes>::new())?;
            // The connection's task takes up the end of the last response first.
            sender.ready().await?;
            let response = sender.send_request(request).await?;
            anyhow::ensure!(response.status().is_success(), "{}", response.status());
            response.into_body().collect().await?;
            answered.fetch_add(1, Ordering::Relaxed);
        }
        anyhow::Ok(())
    };
    for result in join_all((0..CONNECTIONS).map(|_| one())).await {
        result.with_context(|| format!("load {address}"))?;
    }
    Ok(answered.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64())
}
