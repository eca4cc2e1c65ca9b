//! Paths that are not resources: discovery, OpenAPI, health, version, metrics.
//!
//! Who may ask has been settled before a request comes here. Documents that clients keep carry an `ETag`; a client that has the
//! same one is told 304.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use wharf_auth::token;
use wharf_types::ApiError;

use crate::aggregate::Documents;
use crate::discovery::aggregated::{self, Api};
use crate::discovery::order::Ordered;
use crate::discovery::{self, Group, legacy, remote};
use crate::health::Endpoint;
use crate::metrics;
use crate::openapi::Others;
use crate::reply::{self, Body};
use crate::server::ApiServer;
use crate::version;

const JSON: &str = "application/json";

/// Answers an authorized request for a path that names no resource; none if nothing serves the path.
pub async fn answer(server: &Arc<ApiServer>, request: &Parts) -> Result<Option<Response<Body>>, ApiError> {
    let found = get(server, request).await?;
    let readable = matches!(request.method, Method::GET | Method::HEAD);
    Ok(found.map(|response| if readable { response } else { method_not_allowed() }))
}

async fn get(server: &Arc<ApiServer>, request: &Parts) -> Result<Option<Response<Body>>, ApiError> {
    let path = request.uri.path();
    if let Some((endpoint, check)) = Endpoint::parse(path) {
        return Ok(server.health.answer(endpoint, check, request.uri.query()));
    }
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    Ok(match segments.as_slice() {
        [""] => Some(reply::raw_json(StatusCode::OK, &json!({"paths": paths(server)}))),
        ["version"] => Some(reply::raw_json(StatusCode::OK, &Ordered(&version::document()))),
        [".well-known", "openid-configuration"] => issuer(server, request),
        ["openid", "v1", "jwks"] => keys(server),
        ["metrics"] => Some(scrape(server, &request.headers).await?),
        ["openapi", rest @ ..] => {
            let aggregator = &server.aggregator;
            let (indexed, converted) = (aggregator.schemas(), aggregator.converted());
            let others = Others { indexed, converted, swaggers: aggregator.swaggers() };
            server.openapi.answer(server.table.all(), others, rest, request).await?
        }
        ["api" | "apis", rest @ ..] => {
            let (core, remotes) = (segments[0] == "api", server.aggregator.documents());
            discover(&groups(server), &remotes, core, rest, request)
        }
        _ => None,
    })
}

fn groups(server: &ApiServer) -> Vec<Group> {
    discovery::groups(&server.table.all())
}

/// `rest` is what follows `/api` or `/apis`.
fn discover(
    groups: &[Group],
    remotes: &Documents,
    core: bool,
    rest: &[&str],
    request: &Parts,
) -> Option<Response<Body>> {
    let group = |name: &str| groups.iter().find(|group| group.name == name);
    let version = |group: Option<&Group>, name: &str| {
        let mut versions = group?.versions.iter();
        versions.find(|version| version.group_version.version == name).map(legacy::resources)
    };
    let document = match (core, rest) {
        (_, []) => return Some(roots(groups, remotes, core, request)),
        (true, [name]) => version(group(""), name)?,
        (false, [name]) => remote::group(group(name), remotes, name)?,
        (false, [name, of]) => version(group(name), of)?,
        _ => return None,
    };
    Some(kept(&document, JSON, &request.headers))
}

/// `/api` and `/apis`, in the form that the client asks for.
fn roots(groups: &[Group], remotes: &Documents, core: bool, request: &Parts) -> Response<Body> {
    let accept = request.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut response = match Api::accepted(accept) {
        Some(api) => {
            let mut document = aggregated::list(groups, core, api);
            if !core {
                remote::add_aggregated(&mut document, remotes);
            }
            kept(&document, api.content_type(), &request.headers)
        }
        None if core => reply::json(StatusCode::OK, &Ordered(&legacy::core(groups, address(request)))),
        None => {
            let mut document = legacy::list(groups);
            remote::add_groups(&mut document, remotes);
            reply::json(StatusCode::OK, &Ordered(&document))
        }
    };
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// What the client calls this server.
fn address(request: &Parts) -> &str {
    let host = request.headers.get(header::HOST).and_then(|value| value.to_str().ok());
    request.uri.authority().map(http::uri::Authority::as_str).or(host).unwrap_or_default()
}

/// A document under its `ETag`. Discovery is small (tens of kilobytes), so it goes out as it is.
fn kept(document: &Value, content_type: &'static str, headers: &HeaderMap) -> Response<Body> {
    let bytes = reply::encode(&Ordered(document));
    let hash = hex::encode_upper(Sha256::digest(&bytes));
    unchanged(&hash, headers).unwrap_or_else(|| {
        let mut response = reply::bytes(StatusCode::OK, content_type, bytes);
        response.headers_mut().insert(header::ETAG, entity_tag(&hash));
        response
    })
}

/// 304 for a client that has the document of this hash.
pub fn unchanged(hash: &str, headers: &HeaderMap) -> Option<Response<Body>> {
    let etag = entity_tag(hash);
    let held = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = held.flat_map(|value| value.split(',')).map(|tag| tag.trim().trim_start_matches("W/"));
    tags.any(|tag| tag == "*" || tag.as_bytes() == etag.as_bytes()).then(|| {
        let mut response = Response::new(reply::full(Bytes::new()));
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response.headers_mut().insert(header::ETAG, etag);
        response
    })
}

/// The `ETag` of a hash in hexadecimal.
pub fn entity_tag(hash: &str) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{hash}\"")).expect("a hexadecimal hash is a header value")
}

/// True for a client that takes gzip.
pub fn reads_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let codings = accepted.flat_map(|value| value.split(','));
    codings.map(|coding| coding.split(';').next().unwrap_or_default().trim()).any(|coding| coding == "gzip")
}

/// `/`: all paths, sorted.
fn paths(server: &ApiServer) -> Vec<String> {
    let fixed =
        ["/api", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"];
    let issued: &[&str] = match server.token_key {
        Some(_) => &["/.well-known/openid-configuration", "/openid/v1/jwks"],
        None => &[],
    };
    let mut paths: Vec<String> = fixed.iter().chain(issued).map(|path| (*path).to_owned()).collect();
    for group in groups(server) {
        if !group.name.is_empty() {
            paths.push(format!("/apis/{}", group.name));
        }
        let root = if group.name.is_empty() { "/api" } else { "/apis" };
        paths.extend(group.versions.iter().map(|version| format!("{root}/{}", version.group_version)));
    }
    paths.sort_unstable();
    paths
}

async fn scrape(server: &ApiServer, headers: &HeaderMap) -> Result<Response<Body>, ApiError> {
    let observed = server.observe().await;
    let text = server.metrics.render(&observed).map_err(|_| ApiError::internal("metrics could not be encoded"))?;
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let open = accept.contains("application/openmetrics-text");
    Ok(reply::bytes(StatusCode::OK, if open { metrics::OPENMETRICS } else { metrics::PLAIN }, text))
}

/// Who issues the tokens of service accounts, for those who verify them (OpenID Connect Discovery 1.0).
fn issuer(server: &ApiServer, request: &Parts) -> Option<Response<Body>> {
    server.token_key.as_ref()?;
    let keys = format!("https://{}/openid/v1/jwks", address(request));
    Some(public(reply::json(StatusCode::OK, &token::configuration(&keys))))
}

/// The public keys that those tokens are verified with.
fn keys(server: &ApiServer) -> Option<Response<Body>> {
    let set = server.token_key.as_ref()?.public_set().to_string();
    Some(public(reply::bytes(StatusCode::OK, "application/jwk-set+json", set)))
}

fn public(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    response
}

fn method_not_allowed() -> Response<Body> {
    let mut response =
        reply::bytes(StatusCode::METHOD_NOT_ALLOWED, "text/plain; charset=utf-8", "405: Method Not Allowed");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}
