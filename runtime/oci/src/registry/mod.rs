//! The embedded OCI registry: the store's blobs over the distribution protocol (OCI distribution specification 1.1).
//!
//! It keeps any OCI content, so images, charts and signatures can be pushed to it; what a pod pulls from it is not copied.
//! It has no users: it is served on loopback, by plain HTTP, to whoever may open a connection there. Blobs are shared by all
//! repositories. Absent on purpose: deleting blobs (they go with the last manifest that needs them), and the pruning of
//! manifests whose tag has moved on.

mod error;
mod manifests;
mod route;
mod uploads;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use http::{HeaderMap, HeaderName, Method, StatusCode};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use self::error::Error;
use self::route::Target;
use self::uploads::Uploads;
use crate::digest::Digest;
use crate::store::{Pin, Store};

pub use uploads::{BODY_DEADLINE, UPLOAD_IDLE, UPLOADS_MAX};

/// Blobs without a manifest that are kept for the manifest to come.
pub const LOOSE_BLOBS_MAX: usize = 1024;

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// The registry over a store.
pub struct Registry {
    store: Arc<Store>,
    uploads: Uploads,
    /// The newest blobs that a client knows to be here and may be about to name.
    loose: Mutex<VecDeque<Pin>>,
}

impl Registry {
    pub fn new(store: Arc<Store>) -> Arc<Self> {
        Arc::new(Self { store, uploads: Uploads::default(), loose: Mutex::default() })
    }

    /// The registry's paths; the caller brings the listener.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/v2", get(hello))
            .route("/v2/", get(hello))
            .route("/v2/{*path}", any(serve))
            .with_state(self.clone())
    }

    fn keep_for_now(&self, pin: Pin) {
        let mut loose = self.loose.lock();
        loose.push_back(pin);
        if loose.len() > LOOSE_BLOBS_MAX {
            loose.pop_front();
        }
    }
}

async fn hello() -> Response {
    ([(API_VERSION, "registry/2.0")], axum::Json(serde_json::json!({}))).into_response()
}

async fn serve(State(registry): State<Arc<Registry>>, request: Request) -> Response {
    let reply = registry.dispatch(request).await.unwrap_or_else(IntoResponse::into_response);
    ([(API_VERSION, "registry/2.0")], reply).into_response()
}

/// The query, decoded.
type Query = Vec<(String, String)>;

fn query(request: &Request) -> Query {
    axum::extract::Query::<Query>::try_from_uri(request.uri()).map(|query| query.0).unwrap_or_default()
}

fn find<'a>(query: &'a Query, name: &str) -> Option<&'a str> {
    query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

impl Registry {
    async fn dispatch(&self, request: Request) -> Result<Response, Error> {
        let path = request.uri().path().strip_prefix("/v2/").ok_or(Error::NoSuchPath)?;
        let target = Target::parse(request.method(), path)?;
        let method = request.method().clone();
        match (target, &method) {
            (Target::Catalog, &Method::GET) => Ok(self.catalog(&query(&request))),
            (Target::Tags { name }, &Method::GET) => self.tags(&name, &query(&request)),
            (Target::Referrers { name, digest }, &Method::GET) => self.referrers(&name, &digest, &query(&request)),
            (Target::Blob { digest, .. }, &Method::GET | &Method::HEAD) => {
                self.blob(&digest, &method, request.headers()).await
            }
            (Target::StartUpload { name }, &Method::POST) => self.start_upload(&name, request).await,
            (Target::Upload { name, id }, &Method::GET) => {
                let written = self.uploads.written(&name, &id)?;
                Ok(upload_reply(StatusCode::NO_CONTENT, &name, &id, written))
            }
            (Target::Upload { name, id }, &Method::DELETE) => {
                self.uploads.cancel(&name, &id)?;
                Ok(StatusCode::NO_CONTENT.into_response())
            }
            (Target::Upload { name, id }, &Method::PATCH) => {
                let at = chunk_start(request.headers())?;
                let written = self.uploads.append(&name, &id, at, request.into_body()).await?;
                Ok(upload_reply(StatusCode::ACCEPTED, &name, &id, written))
            }
            (Target::Upload { name, id }, &Method::PUT) => self.finish_upload(&name, &id, request).await,
            (Target::Manifest { name, reference }, &Method::GET | &Method::HEAD) => {
                self.manifest(&name, &reference, &method, request.headers())
            }
            (Target::Manifest { name, reference }, &Method::PUT) => self.put_manifest(&name, &reference, request).await,
            (Target::Manifest { name, reference }, &Method::DELETE) => self.delete_manifest(&name, &reference),
            _ => Err(Error::Unsupported),
        }
    }

    async fn blob(&self, digest: &Digest, method: &Method, headers: &HeaderMap) -> Result<Response, Error> {
        let pin = self.store.pin(digest);
        let size = self.store.blobs().size(digest).ok_or(Error::BlobUnknown)?;
        let base = Response::builder()
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(ACCEPT_RANGES, "bytes")
            .header(CONTENT_DIGEST, digest.as_str());
        let internal = |error: http::Error| Error::Internal(error.into());
        if method == Method::HEAD {
            // A client that asks first will not upload it, but name it in a manifest.
            self.keep_for_now(pin);
            return base.header(CONTENT_LENGTH, size).body(Body::empty()).map_err(internal);
        }
        let (status, range) = match headers.get(RANGE).and_then(|range| range.to_str().ok()) {
            None => (StatusCode::OK, 0..size),
            Some(range) => match byte_range(range, size) {
                Some(range) => (StatusCode::PARTIAL_CONTENT, range),
                None => {
                    let unsatisfiable = [(CONTENT_RANGE, format!("bytes */{size}"))];
                    return Ok((StatusCode::RANGE_NOT_SATISFIABLE, unsatisfiable).into_response());
                }
            },
        };
        let mut file = tokio::fs::File::open(self.store.blobs().path(digest)).await.map_err(|_| Error::BlobUnknown)?;
        file.seek(std::io::SeekFrom::Start(range.start)).await.map_err(|error| Error::Internal(error.into()))?;
        let length = range.end - range.start;
        let mut reply = base.status(status).header(CONTENT_LENGTH, length);
        if status == StatusCode::PARTIAL_CONTENT {
            reply = reply.header(CONTENT_RANGE, format!("bytes {}-{}/{size}", range.start, range.end - 1));
        }
        reply.body(Body::from_stream(ReaderStream::new(file.take(length)))).map_err(internal)
    }

    async fn start_upload(&self, name: &str, request: Request) -> Result<Response, Error> {
        let query = query(&request);
        if let Some(digest) = find(&query, "mount").and_then(|digest| digest.parse::<Digest>().ok()) {
            let pin = self.store.pin(&digest);
            if self.store.blobs().size(&digest).is_some() {
                self.keep_for_now(pin);
                return Ok(created(name, &digest));
            }
        }
        let id = self.uploads.start(&self.store, name)?.to_string();
        match find(&query, "digest") {
            Some(_) => self.finish_upload(name, &id, request).await,
            None => Ok(upload_reply(StatusCode::ACCEPTED, name, &id, 0)),
        }
    }

    async fn finish_upload(&self, name: &str, id: &str, request: Request) -> Result<Response, Error> {
        let query = query(&request);
        let digest = find(&query, "digest").ok_or_else(|| Error::DigestInvalid("there is no digest".to_owned()))?;
        let digest: Digest =
            digest.parse().map_err(|error: crate::digest::ParseError| Error::DigestInvalid(error.to_string()))?;
        let at = chunk_start(request.headers())?;
        let pin = self.uploads.finish(&self.store, (name, id), at, request.into_body(), &digest).await?;
        self.keep_for_now(pin);
        Ok(created(name, &digest))
    }
}

fn created(name: &str, digest: &Digest) -> Response {
    let headers = [(LOCATION, format!("/v2/{name}/blobs/{digest}")), (CONTENT_DIGEST, digest.to_string())];
    (StatusCode::CREATED, headers).into_response()
}

fn upload_reply(status: StatusCode, name: &str, id: &str, written: u64) -> Response {
    let headers = [
        (LOCATION, format!("/v2/{name}/blobs/uploads/{id}")),
        (RANGE, format!("0-{}", written.saturating_sub(1))),
        (UPLOAD_ID, id.to_owned()),
    ];
    (status, headers).into_response()
}

/// Where a chunk begins, if it says: `Content-Range: 100-199`.
fn chunk_start(headers: &HeaderMap) -> Result<Option<u64>, Error> {
    let Some(range) = headers.get(CONTENT_RANGE) else { return Ok(None) };
    let start =
        range.to_str().ok().map(|range| range.trim_start_matches("bytes ")).and_then(|range| range.split('-').next());
    start
        .and_then(|start| start.parse().ok())
        .map(Some)
        .ok_or_else(|| Error::UploadInvalid("bad Content-Range".to_owned()))
}

/// One range of a blob: `bytes=100-199`, `bytes=100-`, `bytes=-100`. None where it holds nothing.
fn byte_range(range: &str, size: u64) -> Option<Range<u64>> {
    let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (from.is_empty(), to.is_empty()) {
        (false, true) => from.parse().ok()?..size,
        (false, false) => from.parse().ok()?..to.parse::<u64>().ok()?.checked_add(1)?.min(size),
        (true, false) => size.saturating_sub(to.parse().ok()?)..size,
        (true, true) => return None,
    };
    (range.start < range.end).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_clipped() {
        for (text, expected) in [
            ("bytes=0-3", Some(0..4)),
            ("bytes=8-99", Some(8..10)),
            ("bytes=4-", Some(4..10)),
            ("bytes=-3", Some(7..10)),
            ("bytes=10-", None),
            ("bytes=5-4", None),
            ("bytes=-", None),
            ("bytes=0-18446744073709551615", None),
            ("lines=1-2", None),
        ] {
            assert_eq!(byte_range(text, 10), expected, "{text}");
        }
    }
}
