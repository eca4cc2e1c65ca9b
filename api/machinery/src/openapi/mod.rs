//! OpenAPI documents of what a server serves: version 3 for one group version, version 2 for everything.
//!
//! Paths come from [`Resource`]s, schemas from [`crate::schema`], annotations from [`crate::patch::merge_keys`]. Both
//! documents are made from one neutral form (references into `#/definitions/`) and differ only in how they are written
//! down. A document takes milliseconds to make and megabytes to hold: the caller makes it when somebody asks, and keeps
//! the bytes. Absent on purpose: the deprecated `/watch/` paths.
//! Source: `kube-openapi/pkg/builder` and `builder3`, `apiserver/pkg/endpoints/installer.go`.

mod merge;
mod parameters;
mod paths;
mod protobuf;
mod schemas;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use wharf_types::{GroupVersion, Gvk, Gvr, KUBERNETES_VERSION};

pub use merge::merge_v2;
pub use protobuf::{V2_PROTOBUF, V2_PROTOBUF_ACCEPTED, v2_protobuf};

/// A served resource, as the documents show it.
#[derive(Clone, Debug)]
pub struct Resource {
    pub gvr: Gvr,
    pub gvk: Gvk,
    pub namespaced: bool,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`
    pub verbs: Vec<&'static str>,
    /// The schema's name, e.g. `io.k8s.api.apps.v1.Deployment`.
    pub schema: String,
    pub subresources: Vec<Subresource>,
}

/// A subresource of a [`Resource`].
#[derive(Clone, Debug)]
pub struct Subresource {
    pub name: String,
    /// `get`, `update`, `patch`, `create`, or `connect`.
    pub verbs: Vec<&'static str>,
    /// Kind and schema of what it takes and returns; none for text and streams.
    pub body: Option<(Gvk, String)>,
}

/// Schemas beside the built-in ones (of custom resources), by name; references start with `#/definitions/`.
pub type Definitions = BTreeMap<String, Value>;

/// How a document is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    V2,
    V3,
}

/// The OpenAPI v3 document of one group version.
pub fn v3(group_version: &GroupVersion, resources: &[Resource], extra: &Definitions) -> Value {
    let resources: Vec<&Resource> =
        resources.iter().filter(|resource| resource.gvr.group_version() == *group_version).collect();
    let (paths, schemas) = build(&resources, extra, Dialect::V3);
    json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "BearerToken": security() },
        },
    })
}

/// The OpenAPI v2 document of everything.
pub fn v2(resources: &[Resource], extra: &Definitions) -> Value {
    let (paths, definitions) = build(&resources.iter().collect::<Vec<_>>(), extra, Dialect::V2);
    json!({
        "swagger": "2.0",
        "info": info(),
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": { "BearerToken": security() },
        "security": [{ "BearerToken": [] }],
    })
}

/// The path of a group version's v3 document below `/openapi/v3/`: `api/v1`, `apis/apps/v1`.
pub fn v3_path(group_version: &GroupVersion) -> String {
    if group_version.group.is_empty() { format!("api/{group_version}") } else { format!("apis/{group_version}") }
}

/// The reply to `/openapi/v3`: where each document is, with the [`hash`] of its bytes.
pub fn v3_index<'a>(documents: impl IntoIterator<Item = (&'a GroupVersion, &'a str)>) -> Value {
    let paths: Map<String, Value> = documents
        .into_iter()
        .map(|(group_version, hash)| {
            let path = v3_path(group_version);
            let url = format!("/openapi/v3/{path}?hash={hash}");
            (path, json!({ "serverRelativeURL": url }))
        })
        .collect();
    json!({ "paths": paths })
}

/// Names a document's content, for ETags and the index.
pub fn hash(bytes: &[u8]) -> String {
    hex::encode_upper(Sha256::digest(bytes))
}

fn build(resources: &[&Resource], extra: &Definitions, dialect: Dialect) -> (Value, Value) {
    let mut paths = Map::new();
    for resource in resources {
        paths::add(&mut paths, resource, extra.contains_key(&resource.schema), dialect);
    }
    let mut paths = Value::Object(paths);
    let mut definitions = schemas::annotated(resources, extra);
    schemas::keep_reachable(&mut definitions, &paths, resources);
    let mut definitions: Map<String, Value> = definitions.into_iter().collect();
    if dialect == Dialect::V3 {
        schemas::add_values(&mut definitions);
    }
    let mut definitions = Value::Object(definitions);
    if dialect == Dialect::V3 {
        schemas::to_v3(&mut paths);
        schemas::to_v3(&mut definitions);
    }
    (paths, definitions)
}

fn info() -> Value {
    json!({ "title": "Kubernetes", "version": KUBERNETES_VERSION })
}

fn security() -> Value {
    json!({ "type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header" })
}

fn gvk_value(gvk: &Gvk) -> Value {
    json!({ "group": gvk.group, "version": gvk.version, "kind": gvk.kind })
}

#[cfg(test)]
mod tests;
