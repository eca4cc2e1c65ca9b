//! API groups that another server in the cluster serves, as an `APIService` with `spec.service` says.
//!
//! Source: `k8s.io/kube-aggregator/pkg/apiserver`. A request for such a group has been authenticated and authorized here; it goes
//! on with the front proxy's certificate and the user in headers, which the other server believes because of that certificate.
//! What is served here stays here: a group and version with a row of its own is never passed on. [`availability`] judges the
//! other servers, and keeps what they say of themselves for discovery.
//! One such group is answered for in this process, [`metrics`], until its APIService names a service.
//! Absent on purpose: answering for a server that is gone.

pub mod availability;
mod headers;
mod judge;
pub mod metrics;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use hyper_rustls::FixedServerNameResolver;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::{APIService, APIServiceSpec};
use parking_lot::Mutex;
use rand::seq::IndexedRandom;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::de::DeserializeOwned;
use serde_json::Value;
use wharf_auth::User;
use wharf_types::ApiError;

use crate::connect::forward::{Backend, Trust, forward};
use crate::connect::transport::{self, HttpClient};
use crate::openapi::Converted;
use crate::reply::{self, Body};
use crate::request::{Info, Target};
use crate::server::ApiServer;

pub const GROUP: &str = "apiregistration.k8s.io";
/// Who speaks to the other servers for itself (their discovery), not for a user.
pub const IDENTITY: &str = "system:kube-aggregator";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const DEFAULT_PORT: i32 = 443;
const OPENAPI_V3: &str = "/openapi/v3";

/// The front proxy's certificate.
pub struct FrontProxy(pub Arc<dyn ResolvesClientCert>);

/// Passes requests on to other servers.
#[derive(Default)]
pub struct Aggregator {
    front_proxy: Option<FrontProxy>,
    /// Connections by APIService, and the spec that they were made for.
    clients: Mutex<BTreeMap<String, (APIServiceSpec, HttpClient)>>,
    documents: ArcSwap<Documents>,
}

/// What the other servers say of themselves, by APIService.
pub type Documents = BTreeMap<String, Document>;

/// One group and version of another server.
#[derive(Clone, Debug, Default)]
pub struct Document {
    pub group: String,
    pub version: String,
    pub group_priority: i32,
    pub version_priority: i32,
    /// Its `APIResourceList`; none while it has not answered.
    pub resources: Option<Value>,
    /// The hash of its OpenAPI v3 document, as its index has it.
    pub openapi: Option<String>,
    /// Its OpenAPI v2 document.
    pub swagger: Option<Swagger>,
    /// Version 3 made of that, where it publishes none.
    pub converted: Option<Converted>,
    pub available: bool,
}

/// An OpenAPI v2 document, under the tag that its server gave it.
#[derive(Clone, Debug)]
pub struct Swagger {
    pub document: Arc<Value>,
    pub tag: Option<String>,
}

impl Document {
    /// Where its schemas are in the index of OpenAPI v3.
    fn openapi_path(&self) -> String {
        format!("apis/{}/{}", self.group, self.version)
    }
}

/// Another server that a request goes to.
pub struct Remote {
    name: String,
    spec: APIServiceSpec,
    available: bool,
}

impl Remote {
    /// Whether it is no other server at all, but one that is built in.
    pub fn is_built_in(&self) -> bool {
        self.spec.service.is_none()
    }
}

impl Aggregator {
    pub fn new(front_proxy: Option<FrontProxy>) -> Self {
        Self { front_proxy, ..Self::default() }
    }

    pub fn documents(&self) -> Arc<Documents> {
        self.documents.load_full()
    }

    /// Where other servers' schemas are: the path in the index of OpenAPI v3, and the hash.
    pub fn schemas(&self) -> Vec<(String, String)> {
        let documents = self.documents.load();
        let known = documents.values().filter_map(|held| {
            let made = held.converted.as_ref().map(|converted| converted.hash().to_owned());
            held.openapi.clone().or(made).map(|hash| (held.openapi_path(), hash))
        });
        known.collect()
    }

    /// OpenAPI v3 documents that were made here, by their path in the index.
    pub fn converted(&self) -> BTreeMap<String, Converted> {
        let documents = self.documents.load();
        let made = documents.values().filter_map(|held| Some((held.openapi_path(), held.converted.clone()?)));
        made.collect()
    }

    /// Other servers' OpenAPI v2 documents, the most important first, each with the start of the paths that it speaks for.
    pub fn swaggers(&self) -> Vec<(String, Arc<Value>)> {
        let documents = self.documents.load();
        let mut known: Vec<&Document> = documents.values().filter(|held| held.swagger.is_some()).collect();
        known.sort_by_key(|held| {
            (Reverse(held.group_priority), &held.group, Reverse(held.version_priority), &held.version)
        });
        let known = known.into_iter().filter_map(|held| {
            let prefix = format!("/apis/{}/{}/", held.group, held.version);
            Some((prefix, held.swagger.as_ref()?.document.clone()))
        });
        known.collect()
    }

    /// The server that answers for the request's group and version, if it is not this one.
    pub fn find(&self, server: &ApiServer, info: &Info) -> Option<Remote> {
        let (group, version) = match &info.target {
            Target::Resource(resource)
                if server.table.find(&resource.group, &resource.version, &resource.resource).is_some() =>
            {
                return None;
            }
            _ => group_version(&info.path)?,
        };
        let rows = server.table.all();
        if rows.iter().any(|row| row.gvr.group == group && row.gvr.version == version) {
            return None;
        }
        let name = format!("{version}.{group}");
        let made_here = || self.documents.load().get(&name).is_some_and(|held| held.converted.is_some());
        if info.path.starts_with(OPENAPI_V3) && made_here() {
            return None;
        }
        let held: APIService = stored(server, GROUP, "apiservices", None, &name)?;
        let spec = held.spec?;
        if spec.service.is_none() && !metrics::answers_for(&name, &spec) {
            return None;
        }
        let conditions = held.status.and_then(|status| status.conditions).unwrap_or_default();
        let available = conditions.iter().any(|it| it.type_ == "Available" && it.status == "True");
        Some(Remote { name, spec, available })
    }

    /// Passes a user's request on.
    pub async fn pass(
        &self,
        server: &ApiServer,
        remote: Remote,
        parts: Parts,
        body: Body,
        user: &User,
    ) -> Result<Response<Body>, ApiError> {
        let address = endpoint(server, &remote.spec).filter(|_| remote.available);
        let Some(address) = address else { return Ok(told("service unavailable\n")) };
        let client = self.client(&remote.name, &remote.spec)?;
        let mut request = Request::from_parts(parts, body);
        headers::remove(request.headers_mut());
        let backend = Backend {
            path: crate::connect::forward::decoded(request.uri().path()),
            redirects: false,
            host: Some(address.to_string()),
            headers: headers::of(user),
            ..Backend::new(address.to_string(), Trust::Client(Box::new(client)))
        };
        match forward(&server.outgoing, None, backend, request).await {
            Err(error) if error.code >= 500 => Ok(told(&format!("error trying to reach service: {}\n", error.message))),
            answer => answer,
        }
    }

    /// Connections to an APIService's server, made once for its spec.
    fn client(&self, name: &str, spec: &APIServiceSpec) -> Result<HttpClient, ApiError> {
        let mut clients = self.clients.lock();
        if let Some((_, client)) = clients.get(name).filter(|(made_for, _)| made_for == spec) {
            return Ok(client.clone());
        }
        let client = transport::client_for(self.tls(spec)?, CONNECT_TIMEOUT, server_name(spec)?);
        clients.insert(name.to_owned(), (spec.clone(), client.clone()));
        Ok(client)
    }

    fn tls(&self, spec: &APIServiceSpec) -> Result<ClientConfig, ApiError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(ApiError::internal)?;
        let builder = if spec.insecure_skip_tls_verify == Some(true) {
            builder.dangerous().with_custom_certificate_verifier(transport::trusting(&provider))
        } else {
            builder.with_root_certificates(roots(spec)?)
        };
        let Some(FrontProxy(shown)) = &self.front_proxy else { return Ok(builder.with_no_client_auth()) };
        let mut config = builder.with_client_cert_resolver(shown.clone());
        // A resumed session would go on with the certificate that was shown when it began.
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

/// 503, in words: the aggregator answers in its own name, and knows no Status.
fn told(why: &str) -> Response<Body> {
    reply::bytes(StatusCode::SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", why.to_owned())
}

/// Group and version of `/apis/GROUP/VERSION…`, and of its schemas below `/openapi/v3`.
fn group_version(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix(OPENAPI_V3).unwrap_or(path);
    let mut parts = path.trim_matches('/').split('/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("apis"), Some(group), Some(version)) => Some((group, version)),
        _ => None,
    }
}

fn roots(spec: &APIServiceSpec) -> Result<RootCertStore, ApiError> {
    let mut roots = RootCertStore::empty();
    let bundle = spec.ca_bundle.as_ref().map(|bundle| bundle.0.as_slice()).unwrap_or_default();
    for certificate in CertificateDer::pem_slice_iter(bundle) {
        let certificate = certificate.map_err(|error| ApiError::internal(format!("read caBundle: {error}")))?;
        roots.add(certificate).map_err(|error| ApiError::internal(format!("use caBundle: {error}")))?;
    }
    Ok(roots)
}

/// `NAME.NAMESPACE.svc`, which the other server's certificate must name.
fn server_name(spec: &APIServiceSpec) -> Result<FixedServerNameResolver, ApiError> {
    let service = spec.service.clone().unwrap_or_default();
    let name = format!("{}.{}.svc", service.name.unwrap_or_default(), service.namespace.unwrap_or_default());
    ServerName::try_from(name).map(FixedServerNameResolver::new).map_err(ApiError::internal)
}

/// A ready endpoint of the APIService's service, chosen now.
fn endpoint(server: &ApiServer, spec: &APIServiceSpec) -> Option<SocketAddr> {
    let (service, slices) = backing(server, spec);
    judge::endpoints(spec, service.as_ref(), &slices).ok()?.choose(&mut rand::rng()).copied()
}

/// The service that an APIService names, and its endpoints.
fn backing(server: &ApiServer, spec: &APIServiceSpec) -> (Option<Service>, Vec<EndpointSlice>) {
    let reference = spec.service.clone().unwrap_or_default();
    let (name, namespace) = (reference.name.unwrap_or_default(), reference.namespace.unwrap_or_default());
    let service = stored(server, "", "services", Some(&namespace), &name);
    (service, slices(server, &namespace, &name).unwrap_or_default())
}

fn slices(server: &ApiServer, namespace: &str, service: &str) -> Option<Vec<EndpointSlice>> {
    let row = server.table.find("discovery.k8s.io", "v1", "endpointslices")?;
    let labels = wharf_machinery::selector::LabelSelector::parse(&format!("{SERVICE_LABEL}={service}")).ok()?;
    let filter = wharf_cache::Filter {
        key_prefix: format!("{}{namespace}/", row.prefix()),
        labels,
        ..wharf_cache::Filter::default()
    };
    let snapshot = server.collection(&row)?.snapshot();
    Some(snapshot.select(&filter, None).filter_map(|entry| serde_json::from_slice(&entry.bytes).ok()).collect())
}

fn stored<T: DeserializeOwned>(
    server: &ApiServer,
    group: &str,
    resource: &str,
    namespace: Option<&str>,
    name: &str,
) -> Option<T> {
    let row = server.table.find(group, "v1", resource)?;
    let entry = server.collection(&row)?.get(&row.key(namespace, name))?;
    serde_json::from_slice(&entry.bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_its_group_and_version() {
        for (path, expected) in [
            ("/apis/g.io/v1", Some(("g.io", "v1"))),
            ("/apis/g.io/v1/namespaces/a/things/b", Some(("g.io", "v1"))),
            ("/openapi/v3/apis/g.io/v1", Some(("g.io", "v1"))),
            ("/apis/g.io", None),
            ("/api/v1/pods", None),
            ("/healthz", None),
        ] {
            assert_eq!(group_version(path), expected, "{path}");
        }
    }
}
