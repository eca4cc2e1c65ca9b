//! OpenAPI documents of what a server serves: version 3 for one group version, version 2 for everything.
//!
//! Paths come from [`Resource`]s, schemas from [`crate::schema`], annotations from [`crate::patch::merge_keys`]. Both
//! documents are made from one neutral form (references into `#/definitions/`) and differ only in how they are written
//! down. A document takes milliseconds to make and megabytes to hold: the caller makes it when somebody asks, and keeps
//! the bytes. [`convert`] makes version 3 of a version 2 document that another server wrote.
//! Source: `kube-openapi/pkg/builder` and `builder3`, `apiserver/pkg/endpoints/installer.go`.

pub mod convert;
mod corrections;
mod merge;
mod operations;
mod parameters;
mod paths;
mod protobuf;
mod schemas;

use std::collections::{BTreeMap, BTreeSet};

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
    /// Whether a delete answers with the object rather than with a Status.
    pub returns_deleted: bool,
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
    let mut paths = Map::new();
    if resources.iter().any(|resource| !extra.contains_key(&resource.schema)) {
        paths.extend([paths::resources_of(&group_version.group, &group_version.version, Dialect::V3)]);
    }
    v3_of(paths, &resources, extra, Some(group_version))
}

/// The OpenAPI v3 documents that are of no group version, by their path below `/openapi/v3/`: `api`, `apis/apps`, `version`.
pub fn v3_others(resources: &[Resource], extra: &Definitions) -> Vec<(String, Value)> {
    let about = groups(resources, extra).into_iter().map(|group| paths::about_group(&group, Dialect::V3));
    let about = about.chain(paths::about_server(Dialect::V3));
    let document = |(path, item): (String, Value)| {
        (path.trim_matches('/').to_owned(), v3_of(Map::from_iter([(path, item)]), &[], extra, None))
    };
    about.map(document).collect()
}

fn v3_of(paths: Map<String, Value>, resources: &[&Resource], extra: &Definitions, of: Option<&GroupVersion>) -> Value {
    let (mut paths, mut schemas) = build(paths, resources, extra, Dialect::V3);
    if let Some(of) = of {
        schemas::narrow_kinds(&mut schemas, of);
    }
    schemas::add_defaults(&mut schemas);
    let mut schemas = Value::Object(schemas);
    schemas::to_v3(&mut paths);
    schemas::to_v3(&mut schemas);
    let mut components = json!({ "securitySchemes": { "BearerToken": security() } });
    if schemas.as_object().is_some_and(|schemas| !schemas.is_empty()) {
        components["schemas"] = schemas;
    }
    json!({ "openapi": "3.0.0", "info": info(), "paths": paths, "components": components })
}

/// The OpenAPI v2 document of everything.
pub fn v2(resources: &[Resource], extra: &Definitions) -> Value {
    let mut paths = Map::from_iter(paths::about_server(Dialect::V2));
    paths.extend(groups(resources, extra).into_iter().map(|group| paths::about_group(&group, Dialect::V2)));
    let built_in = resources.iter().filter(|resource| !extra.contains_key(&resource.schema));
    let versions: BTreeSet<_> = built_in.map(|resource| (&resource.gvr.group, &resource.gvr.version)).collect();
    paths.extend(versions.into_iter().map(|(group, version)| paths::resources_of(group, version, Dialect::V2)));
    let (mut paths, definitions) = build(paths, &resources.iter().collect::<Vec<_>>(), extra, Dialect::V2);
    let parameters = parameters::share(&mut paths);
    json!({
        "swagger": "2.0",
        "info": info(),
        "paths": paths,
        "definitions": definitions,
        "parameters": parameters,
        "securityDefinitions": { "BearerToken": security() },
        "security": [{ "BearerToken": [] }],
    })
}

/// The groups with names that have built-in kinds.
fn groups(resources: &[Resource], extra: &Definitions) -> BTreeSet<String> {
    let built_in = resources.iter().filter(|resource| !extra.contains_key(&resource.schema));
    built_in.map(|resource| resource.gvr.group.to_string()).filter(|group| !group.is_empty()).collect()
}

/// The path of a group version's v3 document below `/openapi/v3/`: `api/v1`, `apis/apps/v1`.
pub fn v3_path(group_version: &GroupVersion) -> String {
    if group_version.group.is_empty() { format!("api/{group_version}") } else { format!("apis/{group_version}") }
}

/// The reply to `/openapi/v3`: where each document is, by path, with the [`hash`] of its bytes.
pub fn v3_index<'a>(documents: impl IntoIterator<Item = (&'a str, &'a str)>) -> Value {
    let paths: Map<String, Value> = documents
        .into_iter()
        .map(|(path, hash)| {
            let url = format!("/openapi/v3/{path}?hash={hash}");
            (path.to_owned(), json!({ "serverRelativeURL": url }))
        })
        .collect();
    json!({ "paths": paths })
}

/// Names a document's content, for ETags and the index.
pub fn hash(bytes: &[u8]) -> String {
    hex::encode_upper(Sha256::digest(bytes))
}

/// Adds the paths of `resources`, and makes the definitions that all paths need.
fn build(
    mut paths: Map<String, Value>,
    resources: &[&Resource],
    extra: &Definitions,
    dialect: Dialect,
) -> (Value, Map<String, Value>) {
    for resource in resources {
        paths::add(&mut paths, resource, extra.contains_key(&resource.schema), dialect);
    }
    let paths = Value::Object(paths);
    let mut definitions = schemas::annotated(resources, extra);
    schemas::keep_reachable(&mut definitions, &paths);
    (paths, definitions.into_iter().collect())
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
