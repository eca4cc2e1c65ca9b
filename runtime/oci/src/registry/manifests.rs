//! Manifests, tags and referrers.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, LINK, LOCATION};
use http::{HeaderMap, HeaderName, Method, StatusCode};
use serde_json::json;

use super::error::Error;
use super::route::ManifestName;
use super::{CONTENT_DIGEST, Query, Registry, find};
use crate::digest::Digest;
use crate::manifest::{Document, MANIFEST_MAX_BYTES, OCI_INDEX, OCI_MANIFEST};
use crate::store::{Manifest, Repository};

const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
/// Most names in one page of a list.
const PAGE_MAX: usize = 1000;

impl Registry {
    pub(super) fn manifest(
        &self,
        name: &str,
        reference: &ManifestName,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<Response, Error> {
        let (digest, manifest) = self.look_up(name, reference)?;
        if !accepts(headers, &manifest.media_type) {
            return Err(Error::ManifestUnknown(format!(
                "it is {}, which the client does not accept",
                manifest.media_type
            )));
        }
        let reply = Response::builder()
            .header(CONTENT_TYPE, &manifest.media_type)
            .header(CONTENT_LENGTH, manifest.size)
            .header(CONTENT_DIGEST, digest.as_str());
        let body = match *method {
            Method::HEAD => Body::empty(),
            _ => self.store.blobs().read(&digest, MANIFEST_MAX_BYTES as u64)?.into(),
        };
        reply.body(body).map_err(|error| Error::Internal(error.into()))
    }

    fn look_up(&self, name: &str, reference: &ManifestName) -> Result<(Digest, Manifest), Error> {
        let found = self.store.repository(name, |repository| {
            let digest = resolve(repository, reference)?;
            repository.manifests.get(&digest).cloned().map(|manifest| (digest, manifest))
        });
        found.ok_or(Error::NameUnknown)?.ok_or_else(|| {
            Error::ManifestUnknown(match reference {
                ManifestName::Tag(tag) => format!("{name}:{tag}"),
                ManifestName::Digest(digest) => format!("{name}@{digest}"),
            })
        })
    }

    pub(super) async fn put_manifest(
        &self,
        name: &str,
        reference: &ManifestName,
        request: Request,
    ) -> Result<Response, Error> {
        let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = to_bytes(request.into_body(), MANIFEST_MAX_BYTES).await.map_err(|_| Error::TooLarge("manifest"))?;
        let document = Document::parse(&body).map_err(|error| Error::ManifestInvalid(error.to_string()))?;
        let media_type = media_type(&document, content_type)?;
        let digest = Digest::of(&body);
        if let ManifestName::Digest(expected) = reference
            && *expected != digest
        {
            return Err(Error::DigestInvalid(format!("digest mismatch: expected {expected}, got {digest}")));
        }
        let mut pins = vec![self.store.pin(&digest)];
        for child in document.children() {
            pins.push(self.store.pin(&child.digest));
            if self.store.blobs().size(&child.digest).is_none() {
                return Err(Error::ManifestBlobUnknown(child.digest.to_string()));
            }
        }
        let manifest = Manifest {
            media_type,
            size: body.len() as u64,
            children: document.children().map(|child| child.digest.clone()).collect(),
            subject: document.subject.as_ref().map(|subject| subject.digest.clone()),
            artifact_type: document.artifact_type.or_else(|| document.config.map(|config| config.media_type)),
            annotations: document.annotations,
        };
        let subject = manifest.subject.clone();
        let (store, repository, tag) = (self.store.clone(), name.to_owned(), tag_of(reference));
        let stored = tokio::task::spawn_blocking(move || {
            let digest = store.blobs().put(&body)?;
            store.change_repository(&repository, |repository| {
                if let Some(tag) = tag {
                    repository.tags.insert(tag, digest.clone());
                }
                repository.manifests.insert(digest.clone(), manifest);
            })?;
            drop(pins);
            Ok::<_, crate::store::Error>(digest)
        });
        let digest = stored.await.map_err(|error| Error::Internal(error.into()))??;
        let headers = [(LOCATION, format!("/v2/{name}/manifests/{digest}")), (CONTENT_DIGEST, digest.to_string())];
        let mut reply = (StatusCode::CREATED, headers).into_response();
        if let Some(subject) = subject.and_then(|subject| subject.as_str().parse().ok()) {
            reply.headers_mut().insert(SUBJECT, subject);
        }
        Ok(reply)
    }

    pub(super) fn delete_manifest(&self, name: &str, reference: &ManifestName) -> Result<Response, Error> {
        let (digest, _) = self.look_up(name, reference)?;
        self.store.change_repository(name, |repository| match reference {
            ManifestName::Tag(tag) => {
                repository.tags.remove(tag);
            }
            ManifestName::Digest(_) => {
                repository.tags.retain(|_, tagged| *tagged != digest);
                repository.manifests.remove(&digest);
            }
        })?;
        Ok(StatusCode::ACCEPTED.into_response())
    }

    pub(super) fn tags(&self, name: &str, query: &Query) -> Result<Response, Error> {
        let tags = self.store.repository(name, |repository| repository.tags.keys().cloned().collect::<Vec<_>>());
        let (page, next) = page(tags.ok_or(Error::NameUnknown)?, query);
        Ok(with_link(Json(json!({ "name": name, "tags": page })), next, &format!("/v2/{name}/tags/list"), query))
    }

    pub(super) fn catalog(&self, query: &Query) -> Response {
        let (page, next) = page(self.store.repository_names(), query);
        with_link(Json(json!({ "repositories": page })), next, "/v2/_catalog", query)
    }

    /// Manifests whose subject is `digest`; of a stranger, none.
    pub(super) fn referrers(&self, name: &str, digest: &Digest, query: &Query) -> Result<Response, Error> {
        let wanted = find(query, "artifactType");
        let describe = |repository: &Repository| {
            let referring = repository.manifests.iter().filter(|(_, manifest)| {
                manifest.subject.as_ref() == Some(digest)
                    && wanted.is_none_or(|wanted| manifest.artifact_type.as_deref() == Some(wanted))
            });
            referring.map(|(digest, manifest)| descriptor(digest, manifest)).collect::<Vec<_>>()
        };
        let manifests = self.store.repository(name, describe).unwrap_or_default();
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
        let mut reply = ([(CONTENT_TYPE, OCI_INDEX)], index.to_string()).into_response();
        if wanted.is_some() {
            reply.headers_mut().insert(FILTERS_APPLIED, http::HeaderValue::from_static("artifactType"));
        }
        Ok(reply)
    }
}

fn tag_of(reference: &ManifestName) -> Option<String> {
    match reference {
        ManifestName::Tag(tag) => Some(tag.clone()),
        ManifestName::Digest(_) => None,
    }
}

fn resolve(repository: &Repository, reference: &ManifestName) -> Option<Digest> {
    match reference {
        ManifestName::Tag(tag) => repository.tags.get(tag).cloned(),
        ManifestName::Digest(digest) => Some(digest.clone()),
    }
}

fn descriptor(digest: &Digest, manifest: &Manifest) -> serde_json::Value {
    let mut descriptor = json!({ "mediaType": manifest.media_type, "digest": digest, "size": manifest.size });
    if let Some(artifact_type) = &manifest.artifact_type {
        descriptor["artifactType"] = artifact_type.as_str().into();
    }
    if manifest.annotations != BTreeMap::new() {
        descriptor["annotations"] = json!(manifest.annotations);
    }
    descriptor
}

/// The manifest's own media type, which the header must agree with.
fn media_type(document: &Document, content_type: Option<String>) -> Result<String, Error> {
    let header = content_type.filter(|header| !header.is_empty());
    match (&document.media_type, header) {
        (Some(own), Some(header)) if *own != header => {
            Err(Error::ManifestInvalid(format!("its mediaType is {own}, but Content-Type is {header}")))
        }
        (Some(own), _) => Ok(own.clone()),
        (None, Some(header)) => Ok(header),
        (None, None) => Ok(if document.is_index() { OCI_INDEX } else { OCI_MANIFEST }.to_owned()),
    }
}

fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let mut ranges = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .peekable();
    ranges.peek().is_none()
        || ranges.any(|range| matches!(range.split(';').next().map(str::trim), Some(accepted) if accepted == media_type || accepted == "*/*" || accepted == "application/*"))
}

fn page_size(query: &Query) -> usize {
    find(query, "n").and_then(|n| n.parse::<usize>().ok()).unwrap_or(PAGE_MAX).min(PAGE_MAX)
}

/// The part of a sorted list that `n` and `last` ask for, and the name to go on after.
fn page(names: Vec<String>, query: &Query) -> (Vec<String>, Option<String>) {
    let most = page_size(query);
    let last = find(query, "last").unwrap_or_default();
    let mut rest: Vec<String> = names.into_iter().filter(|name| name.as_str() > last).collect();
    let more = rest.len() > most;
    rest.truncate(most);
    let next = rest.last().filter(|_| more).cloned();
    (rest, next)
}

fn with_link(body: impl IntoResponse, next: Option<String>, path: &str, query: &Query) -> Response {
    let mut reply = body.into_response();
    // Names and tags need no escaping in a URL.
    if let Some(link) =
        next.and_then(|last| format!("<{path}?n={}&last={last}>; rel=\"next\"", page_size(query)).parse().ok())
    {
        reply.headers_mut().insert(LINK, link);
    }
    reply
}
