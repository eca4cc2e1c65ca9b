//! Logs as a client gets them: over TLS from a node, which sees who asks.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use support::{Api, DEADLINE, PODS, pod};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use wharf_apiserver::{NodeClient, listen};
use wharf_auth::{Identity, Pki, ServerNames};

/// A node that answers with what it was asked, and with more once it is told to.
struct Node {
    address: SocketAddr,
    more: Arc<Notify>,
    client: NodeClient,
}

async fn node(certified_for: &str) -> Node {
    let directory = tempfile::tempdir().expect("temporary directory");
    let pki = Pki::open(directory.path(), Timestamp::now()).expect("PKI");
    let names = ServerNames::of(&[certified_for.to_owned()]);
    let leaf = pki.serving("system:node:n", &names, Timestamp::now()).expect("a node's certificate");
    let acceptor = TlsAcceptor::from(listen::tls(&pki, &leaf).expect("TLS"));
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let (address, more) = (socket.local_addr().expect("an address"), Arc::new(Notify::new()));
    let told = more.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let caller = stream.get_ref().1.peer_certificates().map_or(0, <[_]>::len);
            let told = told.clone();
            let service = hyper::service::service_fn(move |request| answer(request, caller, told.clone()));
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    Node { address, more, client: NodeClient::new(client_tls(&pki)) }
}

fn client_tls(pki: &Pki) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(pki.ca_der().expect("the authority")).expect("a root");
    let leaf = pki.client(&Identity::new("system:apiserver", &["system:masters"]), Timestamp::now()).expect("a client");
    let (chain, key) = leaf.chain().expect("a chain");
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .expect("an identity")
}

type Answer = Response<http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>>;

async fn answer(request: Request<Incoming>, caller: usize, told: Arc<Notify>) -> Result<Answer, std::io::Error> {
    let asked = request.uri().to_string();
    let waiting = asked.contains("/waiting");
    let first = if waiting {
        "container \"waiting\" in pod \"a\" is waiting to start: ContainerCreating".to_owned()
    } else {
        format!("{asked} with {caller} certificates\n")
    };
    let frames = futures::stream::unfold((0, told, first), move |(step, told, first)| async move {
        let data = match step {
            0 => first.clone(),
            1 if !waiting => {
                told.notified().await;
                "more\n".to_owned()
            }
            _ => return None,
        };
        Some((Ok(Frame::data(Bytes::from(data))), (step + 1, told, first)))
    });
    let mut response = Response::new(StreamBody::new(Box::pin(frames)).boxed_unsync());
    if waiting {
        *response.status_mut() = http::StatusCode::BAD_REQUEST;
    }
    Ok(response)
}

/// A server with a pod of two containers, bound to the node.
async fn api(node: &Node) -> Api {
    let api = Api::calling(node.client.clone()).await;
    api.post("/api/v1/namespaces", &json!({"metadata": {"name": "default"}})).await.expect(201);
    api.post("/api/v1/nodes", &json!({"metadata": {"name": "n"}})).await.expect(201);
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": node.address.port()}},
    }});
    api.patch("/api/v1/nodes/n/status", "merge", &status).await.expect(200);
    let mut two = pod("a");
    two["spec"]["containers"] = json!([{"name": "main", "image": "i"}, {"name": "waiting", "image": "i"}]);
    api.post(PODS, &two).await.expect(201);
    let binding = json!({"metadata": {"name": "a"}, "target": {"name": "n"}});
    api.post(&format!("{PODS}/a/binding"), &binding).await.expect(201);
    api
}

#[tokio::test]
async fn logs_come_as_the_node_writes_them() {
    let node = node("127.0.0.1").await;
    let api = api(&node).await;
    let path = format!("{PODS}/a/log?container=main&follow=true&tailLines=2&unknown=x");
    let response = api.send(Request::get(path).body(support::empty()).unwrap()).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/plain");
    let mut body = response.into_body();
    let mut next = async || {
        let frame = tokio::time::timeout(DEADLINE, body.frame()).await.expect("in time")?;
        let data = frame.expect("a frame").into_data().expect("data");
        Some(String::from_utf8(data.to_vec()).expect("text"))
    };
    let first = next().await.unwrap();
    assert_eq!(first, "/containerLogs/default/a/main?follow=true&tailLines=2 with 1 certificates\n");
    node.more.notify_one();
    assert_eq!(next().await.as_deref(), Some("more\n"));
    assert_eq!(next().await, None);
}

#[tokio::test]
async fn a_nodes_refusal_is_passed_on() {
    let node = node("127.0.0.1").await;
    let api = api(&node).await;
    let refused = api.get(&format!("{PODS}/a/log?container=waiting")).await;
    refused.refused(400, "BadRequest", "container \"waiting\" in pod \"a\" is waiting to start: ContainerCreating");
}

#[tokio::test]
async fn a_node_under_another_name_is_not_believed() {
    let node = node("127.0.0.2").await;
    let api = api(&node).await;
    let refused = api.get(&format!("{PODS}/a/log?container=main")).await;
    refused.refused(500, "InternalError", "call node n");
}
