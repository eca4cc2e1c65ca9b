//! A real TLS server on loopback, with an authority of its own, whose answers a test chooses.

#![allow(dead_code, reason = "each suite uses a part of it")]

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use wharf_auth::{Clock, Pki, ServerNames};

/// What the server does with a request.
pub enum Reply {
    Code(u16, String),
    /// Never answers.
    Silence,
    /// Breaks the connection.
    Crash,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub headers: HeaderMap,
    pub body: String,
}

pub fn ok(body: impl ToString) -> Reply {
    Reply::Code(200, body.to_string())
}

type Handler = dyn Fn(&Seen) -> Reply + Send + Sync;

pub struct Server {
    pub url: String,
    pub ca: String,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    pub directory: tempfile::TempDir,
}

impl Server {
    pub async fn new(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let directory = tempfile::tempdir().expect("temporary directory");
        let now = Timestamp::now();
        let pki = Pki::open(&directory.path().join("pki"), now).expect("PKI");
        let leaf = pki.serving("server", &ServerNames::of(&["127.0.0.1".to_owned()]), now).expect("a certificate");
        let (chain, key) = leaf.chain().expect("a chain");
        let tls = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).expect("TLS");
        let (socket, acceptor) =
            (TcpListener::bind("127.0.0.1:0").await.expect("bind"), TlsAcceptor::from(Arc::new(tls)));
        let url = format!("https://{}", socket.local_addr().expect("an address"));
        let (handler, seen): (Arc<Handler>, _) = (Arc::new(handler), Arc::new(Mutex::new(Vec::new())));
        let requests = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let (acceptor, handler, requests) = (acceptor.clone(), handler.clone(), requests.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(|request| answer(request, handler.clone(), requests.clone()));
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { url, ca: pki.ca_pem(), seen, directory }
    }

    /// How often a path has been asked for.
    pub fn asked(&self, path: &str) -> usize {
        self.seen.lock().iter().filter(|seen| seen.path == path).count()
    }

    /// A kubeconfig that leads to a path of the server.
    pub fn kubeconfig(&self, path: &str) -> std::path::PathBuf {
        let file = self.directory.path().join("kubeconfig");
        let ca = self.directory.path().join("ca.pem");
        std::fs::write(&ca, &self.ca).expect("write the authority");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             clusters: [{{name: s, cluster: {{server: '{}{path}', certificate-authority: '{}'}}}}]\n\
             users: [{{name: u, user: {{token: secret}}}}]\ncontexts: [{{name: c, context: {{cluster: s, user: u}}}}]\n",
            self.url,
            ca.display()
        );
        std::fs::write(&file, text).expect("write the kubeconfig");
        file
    }
}

async fn answer(
    request: Request<Incoming>,
    handler: Arc<Handler>,
    requests: Arc<Mutex<Vec<Seen>>>,
) -> Result<Response<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
    let (parts, body) = request.into_parts();
    let body = String::from_utf8_lossy(&body.collect().await?.to_bytes()).into_owned();
    let seen = Seen { path: parts.uri.to_string(), headers: parts.headers, body };
    let reply = handler(&seen);
    requests.lock().push(seen);
    match reply {
        Reply::Code(code, body) => {
            Ok(Response::builder().status(code).header("content-type", "application/json").body(Full::from(body))?)
        }
        Reply::Silence => std::future::pending::<Result<_, Infallible>>().await.map_err(Into::into),
        Reply::Crash => Err("the connection breaks".into()),
    }
}

/// A clock that a test moves.
#[derive(Clone)]
pub struct Hands(Arc<AtomicI64>);

pub const START: i64 = 1_900_000_000;

impl Default for Hands {
    fn default() -> Self {
        Self(Arc::new(AtomicI64::new(START)))
    }
}

impl Hands {
    pub fn clock(&self) -> Clock {
        let at = self.0.clone();
        Arc::new(move || Timestamp::from_second(at.load(Ordering::SeqCst)).expect("a time"))
    }

    pub fn forward(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}
