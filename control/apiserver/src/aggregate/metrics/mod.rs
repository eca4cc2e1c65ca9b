//! `metrics.k8s.io/v1beta1`: what nodes and pods use right now, for `kubectl top` and autoscalers.
//!
//! An aggregated API that is built in: its APIService has no `spec.service`, and one that is given a service (the upstream
//! metrics-server's) takes its place at once. Nothing is stored or polled: a request asks the nodes it is about, and those alone,
//! under an identity that may read nodes, pods and nodes' statistics and nothing else.
//! Source: `sigs.k8s.io/metrics-server/pkg/api`, `k8s.io/metrics/pkg/apis/metrics/v1beta1`. Absent on purpose: watches, protobuf.

mod nodes;
mod shape;

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::{APIService, APIServiceSpec};
use kube::Client;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use wharf_auth::User;
use wharf_machinery::openapi;
use wharf_types::meta::ObjectMeta;
use wharf_types::{ApiError, GroupVersion, Gvk, Gvr, order};

use super::{Document, Swagger};
use crate::negotiate::{self, Form, Place};
use crate::openapi::Converted;
use crate::query::Query;
use crate::reply::{self, Body};
use crate::request::{Info, Target, Verb};
use crate::server::ApiServer;
use nodes::Reading;

const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";
const NAME: &str = "v1beta1.metrics.k8s.io";
/// Who reads for whoever asks. Its rights are in the table of roles.
const IDENTITY: &str = "wharf:metrics";
/// Of the group and of the version in it: upstream's manifest.
const PRIORITY: i32 = 100;

/// The APIService that every cluster starts with. It carries no mark, so it is whoever's who changes it.
pub fn service() -> APIService {
    APIService {
        metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
        spec: Some(APIServiceSpec {
            group: Some(GROUP.to_owned()),
            version: Some(VERSION.to_owned()),
            group_priority_minimum: PRIORITY,
            version_priority: PRIORITY,
            ..APIServiceSpec::default()
        }),
        status: None,
    }
}

/// Whether it is this file that answers for the APIService.
pub fn answers_for(name: &str, spec: &APIServiceSpec) -> bool {
    name == NAME && spec.service.is_none()
}

/// What it says of itself, as another server would.
pub fn document(spec: &APIServiceSpec) -> Document {
    static SCHEMAS: LazyLock<(Swagger, Converted)> = LazyLock::new(|| {
        let (resources, definitions) = (resources(), shape::definitions());
        let swagger = openapi::v2(&resources, &definitions);
        let v3 = openapi::v3(&GroupVersion::new(GROUP, VERSION), &resources, &definitions);
        (Swagger { document: Arc::new(swagger), tag: None }, Converted::from_v3(&v3))
    });
    Document {
        group: GROUP.to_owned(),
        version: VERSION.to_owned(),
        group_priority: spec.group_priority_minimum,
        version_priority: spec.version_priority,
        resources: Some(listed()),
        openapi: None,
        swagger: Some(SCHEMAS.0.clone()),
        converted: Some(SCHEMAS.1.clone()),
        available: true,
    }
}

/// What there are metrics of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Nodes,
    Pods,
}

impl Of {
    const ALL: [Of; 2] = [Of::Nodes, Of::Pods];

    /// The resource, here and where the objects themselves are.
    fn resource(self) -> &'static str {
        match self {
            Of::Nodes => "nodes",
            Of::Pods => "pods",
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Of::Nodes => "NodeMetrics",
            Of::Pods => "PodMetrics",
        }
    }

    /// What upstream calls one that is not there.
    fn missing(self, name: &str) -> ApiError {
        let resource = self.kind().to_lowercase().into();
        ApiError::not_found(&Gvr { group: GROUP.into(), version: VERSION.into(), resource }, name)
    }
}

fn resources() -> Vec<openapi::Resource> {
    let resource = |of: Of| openapi::Resource {
        gvr: Gvr { group: GROUP.into(), version: VERSION.into(), resource: of.resource().into() },
        gvk: Gvk { group: GROUP.into(), version: VERSION.into(), kind: of.kind().into() },
        namespaced: of == Of::Pods,
        verbs: vec!["get", "list"],
        schema: shape::schema_name(of.kind()),
        returns_deleted: false,
        subresources: Vec::new(),
    };
    Of::ALL.map(resource).into()
}

fn listed() -> Value {
    let resources = Of::ALL.map(|of| {
        json!({ "name": of.resource(), "singularName": "", "namespaced": of == Of::Pods, "kind": of.kind(), "verbs": ["get", "list"] })
    });
    let version = format!("{GROUP}/{VERSION}");
    json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources })
}

/// Answers an authorized request.
pub async fn answer(
    server: &Arc<ApiServer>,
    parts: &Parts,
    query: &Query,
    info: &Info,
) -> Result<Response<Body>, ApiError> {
    let Target::Resource(resource) = &info.target else {
        let own = info.path.trim_end_matches('/') == format!("/apis/{GROUP}/{VERSION}");
        return match own && info.verb == Verb::Get {
            true => render(parts, &listed(), Place::Plain),
            false => Err(ApiError::no_such_path()),
        };
    };
    let of = Of::ALL.into_iter().find(|of| of.resource() == resource.resource);
    let namespaced = resource.namespace.is_some();
    let of = of.filter(|of| resource.subresource.is_none() && (*of == Of::Pods || !namespaced));
    let of = of.ok_or_else(ApiError::no_such_path)?;
    let reader = Reader { server, client: client(server) };
    match info.verb {
        Verb::Get if resource.named => {
            let name = resource.name.as_deref().unwrap_or_default();
            let one = reader.one(of, resource.namespace.as_deref(), name).await?;
            finish(parts, of, one)
        }
        Verb::List => {
            let all = reader.all(of, resource.namespace.as_deref(), query).await?;
            let version = format!("{GROUP}/{VERSION}");
            let list =
                json!({ "kind": format!("{}List", of.kind()), "apiVersion": version, "metadata": {}, "items": all });
            finish(parts, of, list)
        }
        Verb::Watch => {
            let text = format!("watch is not supported on resources of kind \"{}.{GROUP}\"", resource.resource);
            Err(ApiError::new(405, "MethodNotAllowed", text))
        }
        _ => {
            let text = "the server does not allow this method on the requested resource";
            Err(ApiError::new(405, "MethodNotAllowed", text))
        }
    }
}

/// An object or a list, or the Table that was asked for instead.
fn finish(parts: &Parts, of: Of, value: Value) -> Result<Response<Body>, ApiError> {
    let accepted = negotiate::negotiate(&parts.headers, Place::Whole)?;
    match accepted.form {
        Form::Table => {
            let mut table = shape::table(of == Of::Pods, &value);
            table["apiVersion"] = accepted.meta.api_version().into();
            render(parts, &table, Place::Whole)
        }
        _ => render(parts, &value, Place::Whole),
    }
}

fn render(parts: &Parts, value: &Value, place: Place) -> Result<Response<Body>, ApiError> {
    let accepted = negotiate::negotiate(&parts.headers, place)?;
    reply::finish(StatusCode::OK, Bytes::from(order::envelope(value)), accepted, &parts.headers)
}

fn client(server: &Arc<ApiServer>) -> Client {
    Client::new(server.service_for(identity()), "default")
}

fn identity() -> User {
    User::new(IDENTITY, &["system:authenticated"])
}

/// A pod or node, as far as it matters here.
#[derive(Clone, Debug, Deserialize)]
struct Slim {
    metadata: SlimMeta,
    #[serde(default)]
    spec: SlimSpec,
}

#[derive(Clone, Debug, Deserialize)]
struct SlimMeta {
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    labels: Value,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimSpec {
    node_name: Option<String>,
}

#[derive(Deserialize)]
struct SlimList {
    items: Vec<Slim>,
}

/// Reads as [`IDENTITY`].
struct Reader<'a> {
    server: &'a Arc<ApiServer>,
    client: Client,
}

impl Reader<'_> {
    async fn one(&self, of: Of, namespace: Option<&str>, name: &str) -> Result<Value, ApiError> {
        let path = format!("{}/{name}", path(of, namespace));
        let object: Slim = match self.get(&path).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                let gvr = Gvr { group: "".into(), version: "v1".into(), resource: of.resource().into() };
                return Err(ApiError::not_found(&gvr, name));
            }
            other => other.map_err(ApiError::internal)?,
        };
        let full = namespace.map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"));
        let mut found = self.measured(of, vec![object]).await;
        found.pop().ok_or_else(|| of.missing(&full))
    }

    async fn all(&self, of: Of, namespace: Option<&str>, query: &Query) -> Result<Vec<Value>, ApiError> {
        let path = format!("{}?{}", path(of, namespace), selectors(query));
        let listed: SlimList = match self.get(&path).await {
            Err(kube::Error::Api(status)) if status.code == 400 => return Err(ApiError::bad_request(status.message)),
            other => other.map_err(ApiError::internal)?,
        };
        let mut objects = listed.items;
        objects
            .sort_by(|a, b| (&a.metadata.namespace, &a.metadata.name).cmp(&(&b.metadata.namespace, &b.metadata.name)));
        Ok(self.measured(of, objects).await)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, kube::Error> {
        let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
        self.client.request(request).await
    }

    /// The metrics of those that have any.
    async fn measured(&self, of: Of, objects: Vec<Slim>) -> Vec<Value> {
        let node = |object: &Slim| match of {
            Of::Nodes => Some(object.metadata.name.clone()),
            Of::Pods => object.spec.node_name.clone().filter(|name| !name.is_empty()),
        };
        let readings = nodes::read(self.server, &self.client, objects.iter().filter_map(node).collect()).await;
        let now = (self.server.clock)();
        let measured = objects.iter().filter_map(|object| {
            let reading: &Reading = readings.get(&node(object)?)?;
            match of {
                Of::Nodes => shape::node(&object.metadata, reading, now),
                Of::Pods => shape::pod(&object.metadata, reading, now),
            }
        });
        measured.collect()
    }
}

/// The selectors of a query, as they are passed on.
fn selectors(query: &Query) -> String {
    let mut kept = form_urlencoded::Serializer::new(String::new());
    for selector in ["labelSelector", "fieldSelector"] {
        if let Some(text) = query.get(selector).filter(|text| !text.is_empty()) {
            kept.append_pair(selector, text);
        }
    }
    kept.finish()
}

fn path(of: Of, namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) => format!("/api/v1/namespaces/{namespace}/{}", of.resource()),
        None => format!("/api/v1/{}", of.resource()),
    }
}
