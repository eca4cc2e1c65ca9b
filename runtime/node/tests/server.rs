//! The node's server: who gets in, and what logs look like from outside.

mod common;

use common::{Bench, images, shown};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use wharf_node::{ServerOptions, ServerTls};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for `user` in `group`, and its key.
fn leaf(authority: &Authority, user: &str, group: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, user);
    params.distinguished_name.push(DnType::OrganizationName, group);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    (certificate.der().clone(), PrivateKeyDer::Pkcs8(key.serialize_der().into()))
}

struct Site {
    bench: Bench,
    ca: Authority,
    address: SocketAddr,
}

impl Site {
    async fn new() -> Self {
        let ca = authority();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (certificate, key) = leaf(&ca, "system:node:n1", "system:nodes");
        let tls = ServerTls { shown: shown(vec![certificate], key), client_ca: vec![ca.der().clone()] };
        let bench = Bench::with(images(), |options| options.server = Some(ServerOptions { listener, tls })).await;
        Self { bench, ca, address }
    }

    /// Status and body; None where the connection is refused.
    async fn get(
        &self,
        path: &str,
        client: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
    ) -> Option<(u16, String)> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let config = match client {
            Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        let stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.ok()?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        let request = http::Request::get(path).header("host", "localhost").body(Empty::<bytes::Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.ok()?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.ok()?.to_bytes();
        Some((status, String::from_utf8_lossy(&body).into_owned()))
    }

    async fn ask(&self, path: &str) -> (u16, String) {
        self.get(path, Some(leaf(&self.ca, "system:apiserver", ""))).await.expect("the API server is let in")
    }
}

#[tokio::test]
async fn only_the_api_server_and_administrators_get_in() {
    let site = Site::new().await;
    assert_eq!(site.ask("/healthz").await, (200, "ok".to_owned()));
    let admin = leaf(&site.ca, "me", "system:masters");
    assert_eq!(site.get("/healthz", Some(admin)).await.unwrap().0, 200);
    let stranger = leaf(&site.ca, "me", "system:nodes");
    for path in ["/healthz", "/pods", "/containerLogs/d/web/c", "/stats/summary", "/metrics", "/nothing"] {
        assert_eq!(site.get(path, Some(stranger_copy(&stranger))).await.unwrap().0, 403, "{path}");
    }
    assert_eq!(site.get("/healthz", None).await, None, "no certificate");
    let other = authority();
    assert_eq!(site.get("/healthz", Some(leaf(&other, "system:apiserver", ""))).await, None, "another authority");
}

fn stranger_copy(
    pair: &(CertificateDer<'static>, PrivateKeyDer<'static>),
) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    (pair.0.clone(), pair.1.clone_key())
}

#[tokio::test]
async fn logs_are_served_with_their_options() {
    let site = Site::new().await;
    let bench = &site.bench;
    bench.pod("web", json!({"containers": [{"name": "c", "image": "run"}]}));
    let pod = bench.ready("web").await;
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let log = bench.dir.path().join(format!("logs/d_web_{uid}/c/0.log"));
    std::fs::write(&log, "2026-01-01T00:00:01Z stdout F one\n2026-01-01T00:00:02Z stderr F two\n").unwrap();
    let check = async |query: &str, code: u16, expected: &str| {
        let (status, body) = site.ask(&format!("/containerLogs/d/{query}")).await;
        assert_eq!((status, body.as_str()), (code, expected), "{query}");
    };
    check("web/c", 200, "one\ntwo\n").await;
    check("web/c?tailLines=1", 200, "two\n").await;
    check("web/c?timestamps=true&limitBytes=25", 200, "2026-01-01T00:00:01Z one\n").await;
    check("web/c?sinceTime=2026-01-01T00:00:02Z", 200, "two\n").await;
    check("web/c?tailLines=-1", 400, "tailLines must be greater than or equal to 0").await;
    check("web/x", 404, "container \"x\" not found in pod \"web\"").await;
    check("no/c", 404, "pod \"no\" not found in namespace \"d\"").await;
    check("web/c?previous=true", 400, "previous terminated container \"c\" in pod \"web\" not found").await;
    let id = wharf_cri::Runtime::containers(&bench.runtime).await.unwrap()[0].id.clone();
    bench.runtime.exit(&id, 1, "");
    bench.wait("web", "restarted", |pod| common::container(pod)["restartCount"] == 1).await;
    check("web/c?previous=true", 200, "one\ntwo\n").await;
}

#[tokio::test]
async fn a_follower_is_told_of_the_end() {
    let site = Site::new().await;
    let bench = &site.bench;
    bench.pod("once", json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "run"}]}));
    let pod = bench.ready("once").await;
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let log = bench.dir.path().join(format!("logs/d_once_{uid}/c/0.log"));
    std::fs::write(&log, "2026-01-01T00:00:01Z stdout F one\n").unwrap();
    let follow = site.ask("/containerLogs/d/once/c?follow=true");
    let end = async {
        let id = wharf_cri::Runtime::containers(&bench.runtime).await.unwrap()[0].id.clone();
        bench.runtime.exit(&id, 0, "");
    };
    let ((status, body), ()) = tokio::join!(follow, end);
    assert_eq!((status, body.as_str()), (200, "one\n"));
}

#[tokio::test]
async fn pods_stats_and_metrics_are_served() {
    let site = Site::new().await;
    site.bench.pod("web", json!({"containers": [{"name": "c", "image": "run"}]}));
    site.bench.ready("web").await;
    let (_, pods) = site.ask("/pods").await;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&pods).unwrap()["items"][0]["metadata"]["name"], "web");
    let (_, stats) = site.ask("/stats/summary").await;
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    let container = &stats["pods"][0]["containers"][0];
    assert_eq!(container["name"], "c");
    // A rate needs two readings, which the first who asks waits for.
    assert!(container["cpu"]["usageNanoCores"].is_u64() && container["cpu"]["window"].is_string(), "{container}");
    assert!(stats["node"]["memory"]["workingSetBytes"].as_u64().unwrap() > 0 && stats["node"]["fs"].is_object());
    let (_, short) = site.ask("/stats/summary?only_cpu_and_memory=true").await;
    let short: serde_json::Value = serde_json::from_str(&short).unwrap();
    assert!(short["node"].get("fs").is_none() && short["pods"][0]["containers"][0].get("rootfs").is_none());
    let (_, resources) = site.ask("/metrics/resource").await;
    let line = "container_memory_working_set_bytes{container=\"c\",namespace=\"d\",pod=\"web\"} ";
    assert!(resources.contains(line) && resources.contains("\nresource_scrape_error 0\n"), "{resources}");
    let (_, metrics) = site.ask("/metrics").await;
    assert!(metrics.contains("kubelet_running_containers{container_state=\"running\"} 1"), "{metrics}");
}

#[tokio::test]
async fn an_object_is_watched_once_and_as_long_as_a_pod_names_it() {
    let site = Site::new().await;
    let bench = &site.bench;
    bench.api.create("configmaps", json!({"metadata": {"name": "conf", "namespace": "d"}, "data": {"k": "v"}}));
    let from = json!([{"configMapRef": {"name": "conf"}}]);
    for name in ["a", "b"] {
        bench.pod(name, json!({"containers": [{"name": "c", "image": "run", "envFrom": from}]}));
        bench.ready(name).await;
    }
    let watched = async |count: usize| {
        let line = format!("wharf_node_watched_objects {count}\n");
        common::until(&line, async || site.ask("/metrics").await.1.contains(&line).then_some(())).await;
    };
    watched(1).await;
    for (name, left) in [("a", 1), ("b", 0)] {
        bench.delete(name).await;
        bench.gone(name).await;
        watched(left).await;
    }
}
