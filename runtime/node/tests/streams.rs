//! exec, attach and port-forward of the node's server, as clients speak them.

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::{Bench, PATIENCE, images, shown};
use futures::{SinkExt, StreamExt};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message, http};
use wharf_node::{ServerOptions, ServerTls};

type Socket = WebSocketStream<TlsStream<TcpStream>>;

struct Site {
    bench: Bench,
    address: std::net::SocketAddr,
    tls: Arc<rustls::ClientConfig>,
}

impl Site {
    /// A node with a running pod `web`.
    async fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let leaf = |user: &str| {
            let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, user);
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &ca).unwrap().der().clone();
            (vec![certificate], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (chain, key) = leaf("system:node:n1");
        let tls = ServerTls { shown: shown(chain, key), client_ca: vec![ca.der().clone()] };
        let bench = Bench::with(images(), |options| options.server = Some(ServerOptions { listener, tls })).await;
        bench.pod("web", json!({"containers": [{"name": "c", "image": "run"}]}));
        bench.ready("web").await;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let (chain, key) = leaf("system:apiserver");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        Self { bench, address, tls: Arc::new(tls) }
    }

    async fn open(&self, path: &str, protocol: &str) -> Result<Socket, Error> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(self.tls.clone());
        let stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
        let request = http::Request::get(format!("wss://localhost{path}"))
            .header("host", "localhost")
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("sec-websocket-protocol", protocol)
            .body(())
            .unwrap();
        let opened = tokio_tungstenite::client_async(request, stream);
        tokio::time::timeout(PATIENCE, opened).await.expect("an answer in time").map(|(socket, _)| socket)
    }
}

/// Everything that the server says until it hangs up: `channel:text`, without empty ones.
async fn rest(socket: &mut Socket) -> Vec<(u8, String)> {
    let mut said = Vec::new();
    let read = async {
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Binary(bytes) = message
                && bytes.len() > 1
            {
                said.push((bytes[0], String::from_utf8(bytes[1..].to_vec()).unwrap()));
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("the end in time");
    said
}

fn binary(channel: u8, text: &[u8]) -> Message {
    Message::binary(Bytes::from([&[channel], text].concat()))
}

#[tokio::test]
async fn an_exec_speaks_on_channels_and_tells_how_it_ended() {
    let site = Site::new().await;
    let query = "input=1&output=1&error=1&command=exit&command=3";
    let mut socket = site.open(&format!("/exec/d/web/c?{query}"), "v5.channel.k8s.io").await.unwrap();
    socket.send(binary(0, b"typed")).await.unwrap();
    socket.send(binary(255, &[0])).await.unwrap();
    let said = rest(&mut socket).await;
    let (last, others) = said.split_last().unwrap();
    let out: String = others.iter().map(|(channel, text)| format!("{channel}:{text}")).collect();
    assert_eq!(out, "1:exit\n3\n1:typed");
    let status: Value = serde_json::from_str(&last.1).unwrap();
    assert_eq!((last.0, &status["reason"], &status["status"]), (3, &json!("NonZeroExitCode"), &json!("Failure")));
    assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
}

#[tokio::test]
async fn an_attach_ends_with_its_container() {
    let site = Site::new().await;
    let mut socket = site.open("/attach/d/web/c?input=1&output=1", "v4.channel.k8s.io").await.unwrap();
    socket.send(binary(0, b"hi")).await.unwrap();
    let heard = async {
        while let Some(Ok(message)) = socket.next().await {
            if message == binary(1, b"hi") {
                return;
            }
        }
        panic!("the echo did not come");
    };
    tokio::time::timeout(PATIENCE, heard).await.expect("an echo in time");
    let id = wharf_cri::Runtime::containers(&site.bench.runtime).await.unwrap()[0].id.clone();
    site.bench.runtime.exit(&id, 0, "");
    let said = rest(&mut socket).await;
    assert_eq!(said, [(3, r#"{"metadata":{},"status":"Success"}"#.to_owned())]);
}

#[tokio::test]
async fn a_websockets_ports_are_pairs_of_channels() {
    let site = Site::new().await;
    let mut socket = site.open("/portForward/d/web?port=80,1", "v4.channel.k8s.io").await.unwrap();
    socket.send(binary(0, b"ping")).await.unwrap();
    let mut said = std::collections::BTreeMap::<u8, Vec<u8>>::new();
    let read = async {
        while said.get(&0).is_none_or(|bytes| bytes.len() < 6) || said.get(&3).is_none_or(|bytes| bytes.len() < 3) {
            let Some(Ok(Message::Binary(bytes))) = socket.next().await else { panic!("the server hung up") };
            said.entry(bytes[0]).or_default().extend_from_slice(&bytes[1..]);
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("in time");
    assert_eq!(said[&0], b"\x50\0ping");
    assert_eq!((&said[&1][..], &said[&2][..]), (&b"\x50\0"[..], &b"\x01\0"[..]));
    let error = String::from_utf8_lossy(&said[&3][2..]).into_owned();
    assert!(error.starts_with("error forwarding port 1 to pod web, uid "), "{error}");
}

#[tokio::test]
async fn what_cannot_be_streamed_is_refused_before_the_upgrade() {
    let site = Site::new().await;
    for (path, protocol, code) in [
        ("/exec/d/web/c?command=x", "v4.channel.k8s.io", 400),
        ("/exec/d/no/c?command=x&output=1", "v4.channel.k8s.io", 404),
        ("/exec/d/web/no?command=x&output=1", "v4.channel.k8s.io", 500),
        ("/exec/d/web/c?command=x&output=1", "v9.channel.k8s.io", 403),
        ("/portForward/d/web", "v4.channel.k8s.io", 400),
        ("/portForward/d/web?port=x", "v4.channel.k8s.io", 400),
    ] {
        match site.open(path, protocol).await {
            Err(Error::Http(response)) => assert_eq!(response.status().as_u16(), code, "{path}"),
            other => panic!("{path}: {other:?}"),
        }
    }
}
