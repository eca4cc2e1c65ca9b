//! Passing one request on and its answer back, upgrades included.
//!
//! Source: `UpgradeAwareHandler` (`k8s.io/apimachinery/pkg/util/proxy/upgradeaware.go`) and Go's `httputil.ReverseProxy`.
//! Invariants: credentials meant for this server stay here; headers of one hop end with it; an upgrade's two connections end
//! together. Absent on purpose: following redirects, retries.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use tokio::io::AsyncWriteExt;
use wharf_types::ApiError;

use crate::connect::rewrite::{self, Place};
use crate::connect::transport::{HttpClient, Outgoing};
use crate::listen::RemoteAddress;
use crate::node::NodeClient;
use crate::reply::{self, Body};

/// What Go leaves as it is in a path, and nothing else.
const ESCAPED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}')
    .add(b'!')
    .add(b'\'')
    .add(b'(')
    .add(b')')
    .add(b'*');
/// Headers of one connection.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "proxy-connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// What tells this server who asks.
const CREDENTIALS: &[&str] = &["authorization", "impersonate-user", "impersonate-group", "impersonate-uid"];
const IMPERSONATE_EXTRA: &str = "impersonate-extra-";
/// A websocket client's token comes as one of its protocols.
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";
const CORS: &[&str] = &[
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
];

/// Whose certificate a backend must have.
#[derive(Clone, Debug)]
pub enum Trust {
    /// No TLS.
    Plain,
    /// TLS with whatever certificate.
    Anyone,
    /// A node's, and it is shown the API server's.
    Node,
    /// As this client verifies.
    Client(Box<HttpClient>),
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub struct Backend {
    pub authority: String,
    pub trust: Trust,
    /// Not encoded; empty where the client has left the root's slash out.
    pub path: String,
    /// Paths in the answer are those of the client's view.
    pub rewrites: bool,
    /// Only upgrades are passed on.
    pub upgrade_only: bool,
    /// The backend may not send the client elsewhere.
    pub redirects: bool,
    /// Replaces the client's query.
    pub query: Option<String>,
    /// Replaces the client's `Host`.
    pub host: Option<String>,
    /// Set on the request, over what the client sent.
    pub headers: HeaderMap,
}

impl Backend {
    pub fn new(authority: String, trust: Trust) -> Self {
        Self {
            authority,
            trust,
            path: String::new(),
            rewrites: false,
            upgrade_only: false,
            redirects: true,
            query: None,
            host: None,
            headers: HeaderMap::new(),
        }
    }

    pub fn rewritten(mut self) -> Self {
        self.rewrites = true;
        self
    }
}

pub async fn forward(
    outgoing: &Outgoing,
    nodes: Option<&NodeClient>,
    backend: Backend,
    mut request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let client = match &backend.trust {
        Trust::Client(client) => (**client).clone(),
        Trust::Plain | Trust::Anyone => outgoing.client.clone(),
        Trust::Node => nodes.ok_or_else(|| ApiError::unavailable("this server calls no nodes"))?.client(),
    };
    let upgrade = is_upgrade(request.headers());
    if !upgrade && backend.upgrade_only {
        return Err(ApiError::bad_request("Upgrade request required"));
    }
    let readable = matches!(*request.method(), Method::GET | Method::HEAD);
    if !upgrade && backend.path.is_empty() && readable {
        return Ok(to_the_root(request.uri()));
    }
    let place = Place::new(request.uri(), &backend.path, host_of(&request), &backend.authority);
    let client_side = upgrade.then(|| hyper::upgrade::on(&mut request));
    let outbound = outbound(&backend, &place, upgrade, request)?;
    let answer = match client.request(outbound).await {
        Ok(answer) => answer,
        Err(error) => return Err(unreachable(&backend, &error)),
    };
    match client_side {
        Some(client_side) => join(client_side, answer).await,
        None => Ok(finish(&backend, &place, answer)),
    }
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    headers.contains_key(header::UPGRADE) && values.any(|value| value.to_ascii_lowercase().contains("upgrade"))
}

/// A page at `…/proxy` would have its relative links resolved beside it: it is at `…/proxy/`.
fn to_the_root(uri: &Uri) -> Response<Body> {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = Response::new(reply::full(bytes::Bytes::new()));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(&format!("{}/{query}", uri.path())) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// What the client calls this server.
fn host_of(request: &Request<Body>) -> String {
    let header = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    authority.or(header).unwrap_or_default().to_owned()
}

fn outbound(
    backend: &Backend,
    place: &Place,
    upgrade: bool,
    request: Request<Body>,
) -> Result<Request<Body>, ApiError> {
    let (parts, body) = request.into_parts();
    let scheme = if matches!(backend.trust, Trust::Plain) { "http" } else { "https" };
    let path = utf8_percent_encode(&backend.path, ESCAPED);
    let query = backend.query.as_deref().or(parts.uri.query()).filter(|query| !query.is_empty());
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let uri = format!("{scheme}://{}{path}{query}", backend.authority);
    let mut headers = parts.headers;
    clean(&mut headers, upgrade);
    let host = backend.host.as_deref().unwrap_or(place.host());
    if let Ok(host) = HeaderValue::from_str(host) {
        headers.insert(header::HOST, host);
    }
    if let Some(RemoteAddress(peer)) = parts.extensions.get() {
        forwarded_for(&mut headers, &peer.ip().to_string());
    }
    if backend.rewrites && !upgrade {
        place.announce(&mut headers);
    }
    headers.extend(backend.headers.clone());
    let mut outbound = Request::builder()
        .method(parts.method)
        .uri(uri)
        .body(if upgrade { reply::full(bytes::Bytes::new()) } else { body })
        .map_err(|error| ApiError::bad_request(format!("address of the backend: {error}")))?;
    *outbound.headers_mut() = headers;
    Ok(outbound)
}

/// Takes out credentials and what belongs to the client's connection.
fn clean(headers: &mut HeaderMap, upgrade: bool) {
    let kept: Vec<(&str, HeaderValue)> = ["connection", "upgrade"]
        .into_iter()
        .filter_map(|name| Some((name, headers.get(name)?.clone())))
        .filter(|_| upgrade)
        .collect();
    drop_hop(headers);
    for (name, value) in kept {
        headers.insert(HeaderName::from_static(name), value);
    }
    for name in CREDENTIALS {
        headers.remove(*name);
    }
    remove_prefixed(headers, IMPERSONATE_EXTRA);
    let protocols: Vec<String> = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|protocol| protocol.trim().to_owned())
        .collect();
    if protocols.iter().any(|protocol| protocol.starts_with(TOKEN_PROTOCOL)) {
        headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
        let rest: Vec<&str> =
            protocols.iter().map(String::as_str).filter(|protocol| !protocol.starts_with(TOKEN_PROTOCOL)).collect();
        if let Some(value) = HeaderValue::from_str(&rest.join(", ")).ok().filter(|value| !value.is_empty()) {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
        }
    }
}

pub fn remove_prefixed(headers: &mut HeaderMap, prefix: &str) {
    let found: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with(prefix)).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

fn drop_hop(headers: &mut HeaderMap) {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| !name.is_empty())
        .collect();
    for name in named.iter().map(String::as_str).chain(HOP_BY_HOP.iter().copied()) {
        headers.remove(name);
    }
}

fn forwarded_for(headers: &mut HeaderMap, peer: &str) {
    let earlier: Vec<&str> =
        headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok()).collect();
    let all = earlier.into_iter().chain([peer]).collect::<Vec<_>>().join(", ");
    if let Ok(value) = HeaderValue::from_str(&all) {
        headers.insert("x-forwarded-for", value);
    }
}

fn finish(backend: &Backend, place: &Place, answer: Response<Incoming>) -> Response<Body> {
    let redirect = answer.status().is_redirection() && answer.headers().contains_key(header::LOCATION);
    if redirect && !backend.redirects {
        let text = "the backend attempted to redirect this request, which is not permitted";
        return reply::bytes(StatusCode::BAD_GATEWAY, "text/plain; charset=utf-8", text);
    }
    let (mut parts, body) = answer.into_parts();
    drop_hop(&mut parts.headers);
    parts.extensions = http::Extensions::new();
    parts.version = http::Version::HTTP_11;
    let body = body.map_err(Into::into).boxed_unsync();
    if !backend.rewrites {
        return Response::from_parts(parts, body);
    }
    for name in CORS {
        parts.headers.remove(*name);
    }
    rewrite::answer(place, Response::from_parts(parts, body))
}

/// Connects the two ends of an upgrade, or passes on why the backend would not.
async fn join(client: hyper::upgrade::OnUpgrade, mut answer: Response<Incoming>) -> Result<Response<Body>, ApiError> {
    let code = answer.status();
    if code != StatusCode::SWITCHING_PROTOCOLS {
        if code.as_u16() < 400 {
            return Err(ApiError::internal(format!("invalid upgrade response: status code {}", code.as_u16())));
        }
        let (mut parts, body) = answer.into_parts();
        drop_hop(&mut parts.headers);
        return Ok(Response::from_parts(parts, body.map_err(Into::into).boxed_unsync()));
    }
    let backend = hyper::upgrade::on(&mut answer);
    let mut response = Response::new(reply::full(bytes::Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = answer.headers().clone();
    // It owns both connections and ends with either.
    tokio::spawn(async move {
        match tokio::try_join!(client, backend) {
            Ok((client, backend)) => pipe(TokioIo::new(client), TokioIo::new(backend)).await,
            Err(error) => tracing::debug!(%error, "upgrade a proxied connection"),
        }
    });
    Ok(response)
}

/// Copies both ways until either end is done; what it had sent by then is delivered.
async fn pipe<A, B>(a: A, b: B)
where
    A: tokio::io::AsyncRead + tokio::io::AsyncWrite,
    B: tokio::io::AsyncRead + tokio::io::AsyncWrite,
{
    let ((mut from_a, mut to_a), (mut from_b, mut to_b)) = (tokio::io::split(a), tokio::io::split(b));
    let ended = tokio::select! {
        ended = tokio::io::copy(&mut from_a, &mut to_b) => ended,
        ended = tokio::io::copy(&mut from_b, &mut to_a) => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a proxied connection broke");
    }
    // The other side learns of the end whether or not this succeeds.
    let _ = tokio::join!(to_a.shutdown(), to_b.shutdown());
}

/// What an error comes down to.
pub fn cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause
}

fn unreachable(backend: &Backend, error: &hyper_util::client::legacy::Error) -> ApiError {
    let cause = cause(error);
    let refused = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    let why = match refused {
        Some(std::io::ErrorKind::ConnectionRefused) => {
            format!("dial tcp {}: connect: connection refused", backend.authority)
        }
        _ if error.is_connect() => format!("dial tcp {}: {cause}", backend.authority),
        _ => cause.to_string(),
    };
    if backend.rewrites {
        return ApiError::unavailable(format!("error trying to reach service: {why}"));
    }
    ApiError::internal(format!("error dialing backend: {why}"))
}

/// A path of the client's as Go decodes it.
pub fn decoded(path: &str) -> String {
    percent_decode_str(path).decode_utf8_lossy().into_owned()
}

/// A path as Go writes it.
pub fn encoded(path: &str) -> String {
    utf8_percent_encode(path, ESCAPED).to_string()
}
