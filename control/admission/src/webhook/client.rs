//! Calls to webhooks over connections that are kept: of admission, and of conversion.
//!
//! One client for each authority bundle and credential, made when it is first needed; a Service is called at its cluster address
//! under the name `name.namespace.svc`. HTTP/1.1 on purpose, as upstream: connections over HTTP/2 would pin all requests to one
//! backend (kubernetes/kubernetes#75791). Redirects are answers that make no sense here. Source:
//! `k8s.io/apiserver/pkg/util/webhook/client.go`. Absent on purpose: retries.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use wharf_auth::tls;
use wharf_types::k8s::api::core::v1::Service;
use wharf_types::meta::Status;

use super::auth::{Credential, Credentials};

/// Authority bundles whose connections are kept; the rest are made anew.
const BUNDLES_MAX: usize = 256;
/// Idle connections that are kept for each webhook.
const IDLE_MAX: usize = 25;
/// How long they are kept, which is shorter than servers wait.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// Bytes of an error's body that go into a message.
const QUOTED_MAX: usize = 2048;
/// The port of a webhook that does not say.
const PORT: i32 = 443;

#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("{0}")]
    Address(String),
    /// In Go's words, which name the method and the URL.
    #[error("Post {url:?}: {why}")]
    Transport { url: String, why: String },
    #[error("{0}")]
    Answer(String),
}

/// Whom to call: a URL, or a Service.
#[derive(Clone, Copy, Debug)]
pub struct Target<'t> {
    pub url: Option<&'t str>,
    pub service: Option<ServiceTarget<'t>>,
    /// Whom to trust, as PEM; empty is the system's authorities.
    pub bundle: &'t [u8],
    pub timeout: Duration,
    /// Longest answer, in bytes.
    pub answer_max: usize,
    /// What follows the address: `?timeout=10s`.
    pub query: &'t str,
}

#[derive(Clone, Copy, Debug)]
pub struct ServiceTarget<'t> {
    pub namespace: &'t str,
    pub name: &'t str,
    pub port: Option<i32>,
    pub path: Option<&'t str>,
}

/// Finds a Service by its namespace and name.
pub type FindService<'f> = dyn Fn(&str, &str) -> Option<Service> + Send + Sync + 'f;

type Https = Client<HttpsConnector<HttpConnector<Addresses>>, Full<Bytes>>;
type Held = HashMap<(Vec<u8>, Option<Credential>), Https>;

/// Connections to webhooks.
#[derive(Default)]
pub struct Clients {
    held: Mutex<Held>,
    addresses: Addresses,
    credentials: Credentials,
}

impl Clients {
    /// Connections under these credentials.
    pub fn new(credentials: Credentials) -> Self {
        Self { credentials, ..Self::default() }
    }

    /// Posts a document and returns the body of the answer.
    pub async fn post(&self, target: &Target<'_>, find: &FindService<'_>, document: Bytes) -> Result<Bytes, CallError> {
        let url = self.url(target, find)?;
        let fail = |why: String| CallError::Transport { url: url.to_string(), why };
        let credential = self.credentials.of(url.host().unwrap_or_default(), url.port_u16().unwrap_or(443));
        let client = self.client(target.bundle, credential).map_err(CallError::Address)?;
        let mut request = Request::post(&url)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, */*")
            .header(header::USER_AGENT, "kube-apiserver-admission");
        if let Some(value) = credential.map(Credential::header).transpose().map_err(CallError::Address)?.flatten() {
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(Full::new(document)).map_err(|error| CallError::Address(error.to_string()))?;
        let exchange = async {
            let response = client.request(request).await.map_err(|error| fail(tls::cause(&error)))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), target.answer_max).collect().await;
            let body = body.map_err(|error| match error.downcast_ref::<http_body_util::LengthLimitError>() {
                Some(_) => CallError::Answer(format!("the answer is longer than {} bytes", target.answer_max)),
                None => CallError::Answer(format!("unexpected error when reading response body: {error}")),
            })?;
            Ok((status, body.to_bytes()))
        };
        let answered = tokio::time::timeout(target.timeout, exchange).await;
        let (status, body) = answered.unwrap_or_else(|_| Err(fail("context deadline exceeded".to_owned())))?;
        if status.is_success() { Ok(body) } else { Err(CallError::Answer(refusal(status, &body))) }
    }

    fn url(&self, target: &Target<'_>, find: &FindService<'_>) -> Result<Uri, CallError> {
        let base = match (target.service, target.url) {
            (Some(service), _) => {
                let address = resolve(service, find);
                let host = format!("{}.{}.svc", service.name, service.namespace);
                let path = service.path.unwrap_or_default().trim_start_matches('/');
                let url = format!("https://{host}:{}/{path}", service.port.unwrap_or(PORT));
                let fail = |why| CallError::Transport { url: format!("{url}{}", target.query), why };
                self.addresses.set(&host, address.map_err(fail)?);
                url
            }
            (None, Some(url)) => url.to_owned(),
            (None, None) => {
                return Err(CallError::Address("webhook configuration must have either service or URL".to_owned()));
            }
        };
        let text = format!("{base}{}", target.query);
        text.parse().map_err(|error| CallError::Address(format!("Unparsable webhook URL: {error}")))
    }

    fn client(&self, bundle: &[u8], credential: Option<&Credential>) -> Result<Https, String> {
        // A token goes with each request; only a certificate belongs to the connection.
        let credential = credential.filter(|credential| credential.has_certificate());
        let key = (bundle.to_vec(), credential.cloned());
        let mut clients = self.held.lock();
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let mut connector = HttpConnector::new_with_resolver(self.addresses.clone());
        connector.enforce_http(false);
        connector.set_nodelay(true);
        let tls = tls::config_as(bundle, credential.and_then(Credential::certificate))?;
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(IDLE_MAX)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_timer(TokioTimer::new())
            .build(connector);
        if clients.len() >= BUNDLES_MAX {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }
}

/// A Service's address as the server reaches it. Source: `pkg/util/proxy.ResolveCluster` of the aggregator.
fn resolve(target: ServiceTarget<'_>, find: &FindService<'_>) -> Result<IpAddr, String> {
    let (name, port) = (target.name, target.port.unwrap_or(PORT));
    let service = find(target.namespace, name).ok_or(format!("service {name:?} not found"))?;
    let spec = service.spec.unwrap_or_default();
    if !spec.ports.iter().flatten().any(|held| held.port == port) {
        return Err(format!("no service port {port} found for service {name:?}"));
    }
    let address = spec.cluster_ip.as_deref().unwrap_or_default();
    match address.parse() {
        Ok(address) => Ok(address),
        Err(_) if address == "None" => Err(format!("cannot route to service with ClusterIP {address:?}")),
        Err(_) => Err(format!("service {name:?} has no cluster address")),
    }
}

/// Where the names of Services lead; other names are asked of the system.
#[derive(Clone, Default)]
struct Addresses(Arc<ArcSwap<HashMap<String, IpAddr>>>);

impl Addresses {
    fn set(&self, host: &str, address: IpAddr) {
        if self.0.load().get(host) == Some(&address) {
            return;
        }
        self.0.rcu(|held| {
            let mut addresses = HashMap::clone(held);
            addresses.insert(host.to_owned(), address);
            addresses
        });
    }
}

impl tower::Service<Name> for Addresses {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = std::io::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let known = self.0.load().get(name.as_str()).copied();
        Box::pin(async move {
            let found: Vec<SocketAddr> = match known {
                Some(address) => vec![SocketAddr::new(address, 0)],
                None => tokio::net::lookup_host((name.as_str(), 0)).await?.collect(),
            };
            Ok(found.into_iter())
        })
    }
}

/// What client-go makes of an answer that is no success: the server's own Status, or words for the code.
fn refusal(status: StatusCode, body: &[u8]) -> String {
    if let Ok(sent) = serde_json::from_slice::<Status>(body)
        && sent.status.as_deref() == Some("Failure")
        && let Some(message) = sent.message
    {
        return message;
    }
    let quoted = String::from_utf8_lossy(&body[..body.len().min(QUOTED_MAX)]).trim().to_owned();
    match status.as_u16() {
        400 => "the server rejected our request for an unknown reason".to_owned(),
        401 => "the server has asked for the client to provide credentials".to_owned(),
        403 if !quoted.is_empty() => quoted,
        403 => "unknown".to_owned(),
        404 => "the server could not find the requested resource".to_owned(),
        405 => "the server does not allow this method on the requested resource".to_owned(),
        429 => "the server has received too many requests and has asked us to try again later".to_owned(),
        503 => "the server is currently unable to handle the request".to_owned(),
        504 => {
            "the server was unable to return a response in the time allotted, but may still be processing the request"
                .to_owned()
        }
        code if code >= 500 => format!("an error on the server ({quoted:?}) has prevented the request from succeeding"),
        code => format!("the server responded with the status code {code} but did not return more information"),
    }
}
