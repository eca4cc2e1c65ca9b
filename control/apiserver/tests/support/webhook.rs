//! A webhook: a real TLS server on loopback, with an authority of its own.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use wharf_auth::{Pki, ServerNames};

/// What a webhook does with a request.
pub enum Reply {
    /// Answers the review with this response.
    Respond(Value),
    /// Answers with this whole body.
    Body(Vec<u8>),
    /// Answers with this code and header.
    Code(u16, &'static str, &'static str),
    /// Never answers.
    Silence,
    /// Breaks the connection.
    Crash,
}

pub fn allow() -> Reply {
    Reply::Respond(json!({"allowed": true}))
}

pub fn deny(message: &str) -> Reply {
    Reply::Respond(json!({"allowed": false, "status": {"message": message, "code": 403, "reason": "Forbidden"}}))
}

pub fn patch(operations: &Value) -> Reply {
    let patch = STANDARD.encode(operations.to_string());
    Reply::Respond(json!({"allowed": true, "patch": patch, "patchType": "JSONPatch"}))
}

/// Puts a key into a ConfigMap's data.
pub fn put(key: &str, value: &str) -> Reply {
    patch(&json!([{"op": "add", "path": format!("/data/{key}"), "value": value}]))
}

type Handler = dyn Fn(&Value) -> Reply + Send + Sync;

pub struct Webhook {
    pub port: u16,
    pub ca: String,
    /// The requests of all reviews so far.
    pub seen: Arc<Mutex<Vec<Value>>>,
    pub connections: Arc<AtomicUsize>,
    _pki: tempfile::TempDir,
}

impl Webhook {
    pub async fn new(handler: impl Fn(&Value) -> Reply + Send + Sync + 'static) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let directory = tempfile::tempdir().expect("temporary directory");
        let now = jiff::Timestamp::now();
        let pki = Pki::open(directory.path(), now).expect("PKI");
        let names = ["127.0.0.1", "hook.default.svc"].map(str::to_owned);
        let leaf = pki.serving("hook", &ServerNames::of(&names), now).expect("a certificate");
        let (chain, key) = leaf.chain().expect("a chain");
        let tls = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).expect("TLS");
        let (socket, acceptor) =
            (TcpListener::bind("127.0.0.1:0").await.expect("bind"), TlsAcceptor::from(Arc::new(tls)));
        let port = socket.local_addr().expect("an address").port();
        let (seen, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let (handler, reviews, counted): (Arc<Handler>, _, _) = (Arc::new(handler), seen.clone(), connections.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let (acceptor, handler, reviews) = (acceptor.clone(), handler.clone(), reviews.clone());
                let counted = counted.clone();
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    counted.fetch_add(1, Ordering::SeqCst);
                    let service = service_fn(|request| answer(request, handler.clone(), reviews.clone()));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { port, ca: STANDARD.encode(pki.ca_pem()), seen, connections, _pki: directory }
    }

    /// A webhook of a configuration, about the creation of ConfigMaps; `more` is merged into it.
    pub fn entry(&self, more: Value) -> Value {
        let mut hook = json!({
            "name": "hook.example.com",
            "clientConfig": {"url": format!("https://127.0.0.1:{}/review", self.port), "caBundle": self.ca},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "timeoutSeconds": 30,
        });
        for (field, value) in more.as_object().expect("fields") {
            hook[field] = value.clone();
        }
        hook
    }
}

pub fn configuration(name: &str, hooks: &[Value]) -> Value {
    json!({"metadata": {"name": name}, "webhooks": hooks})
}

async fn answer(
    request: Request<Incoming>,
    handler: Arc<Handler>,
    reviews: Arc<Mutex<Vec<Value>>>,
) -> Result<Response<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
    let path = request.uri().to_string();
    let body = request.into_body().collect().await?.to_bytes();
    let mut review: Value = serde_json::from_slice(&body)?;
    let uid = review["request"]["uid"].clone();
    // An ImageReview is shown as a whole.
    let reply = handler(review.get("request").unwrap_or(&review));
    review["path"] = json!(path);
    reviews.lock().push(review.clone());
    let respond = |bytes: Vec<u8>| Response::new(Full::new(Bytes::from(bytes)));
    Ok(match reply {
        Reply::Respond(mut response) => {
            if response.get("uid").is_none() {
                response["uid"] = uid;
            }
            let answer = json!({"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": response});
            respond(answer.to_string().into_bytes())
        }
        Reply::Body(bytes) => respond(bytes),
        Reply::Code(code, name, value) => {
            Response::builder().status(code).header(name, value).body(Full::new(Bytes::from_static(b"oops")))?
        }
        Reply::Silence => std::future::pending::<Result<_, Infallible>>().await?,
        Reply::Crash => return Err("the connection breaks".into()),
    })
}
