//! The document that tells everything at once (`apidiscovery.k8s.io`), which kubectl and client-go ask for first.

use serde_json::{Map, Value, json};
use wharf_registry::Row;
use wharf_types::Gvk;

use super::{Group, Version, kind, subresources, verbs};

/// The version of the document's own API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    V2,
    V2Beta1,
}

impl Api {
    pub fn content_type(self) -> &'static str {
        match self {
            Api::V2 => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            Api::V2Beta1 => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Api::V2 => "v2",
            Api::V2Beta1 => "v2beta1",
        }
    }

    /// The first aggregated form that an `Accept` header asks for before it asks for plain JSON.
    pub fn accepted(accept: &str) -> Option<Self> {
        for clause in accept.split(',') {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            if !matches!(media, "application/json" | "application/*" | "*/*") {
                continue;
            }
            let (mut group, mut version, mut kind) = ("", "", "");
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                match name.trim() {
                    "g" => group = value.trim(),
                    "v" => version = value.trim(),
                    "as" => kind = value.trim(),
                    _ => {}
                }
            }
            match (group, version, kind) {
                ("apidiscovery.k8s.io", "v2", "APIGroupDiscoveryList") => return Some(Api::V2),
                ("apidiscovery.k8s.io", "v2beta1", "APIGroupDiscoveryList") => return Some(Api::V2Beta1),
                ("", "", "") => return None,
                _ => {}
            }
        }
        None
    }
}

/// For `/api` the core group, for `/apis` all others.
pub fn list(groups: &[Group], core: bool, api: Api) -> Value {
    let items: Vec<Value> = groups.iter().filter(|group| group.name.is_empty() == core).map(group).collect();
    let api_version = format!("apidiscovery.k8s.io/{}", api.name());
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": api_version, "metadata": {}, "items": items})
}

fn group(group: &Group) -> Value {
    let mut metadata = Map::new();
    if !group.name.is_empty() {
        metadata.insert("name".to_owned(), json!(group.name));
    }
    metadata.insert("creationTimestamp".to_owned(), Value::Null);
    json!({"metadata": metadata, "versions": group.versions.iter().map(version).collect::<Vec<_>>()})
}

fn version(version: &Version) -> Value {
    let resources: Vec<Value> = version.rows.iter().map(|row| resource(row)).collect();
    json!({"version": version.group_version.version, "resources": resources, "freshness": "Current"})
}

fn resource(row: &Row) -> Value {
    let mut entry = json!({
        "resource": row.gvr.resource,
        "responseKind": shown(&row.gvk),
        "scope": if row.namespaced() { "Namespaced" } else { "Cluster" },
        "singularResource": row.singular,
        "verbs": verbs(row, None),
    });
    if !row.short_names.is_empty() {
        entry["shortNames"] = json!(row.short_names);
    }
    if !row.categories.is_empty() {
        entry["categories"] = json!(row.categories);
    }
    let below: Vec<Value> = subresources(row)
        .into_iter()
        .map(|which| {
            let verbs = verbs(row, Some(which));
            json!({"subresource": which.name(), "responseKind": shown(&kind(row, which)), "verbs": verbs})
        })
        .collect();
    if !below.is_empty() {
        entry["subresources"] = json!(below);
    }
    entry
}

fn shown(gvk: &Gvk) -> Value {
    json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind})
}

#[cfg(test)]
mod tests {
    use super::super::groups;
    use super::*;
    use std::sync::Arc;

    #[test]
    fn accept_chooses_the_form() {
        let (v2, beta) = (Api::V2.content_type(), Api::V2Beta1.content_type());
        for (accept, expected) in [
            (format!("{v2},{beta},application/json"), Some(Api::V2)),
            (format!("{beta},application/json"), Some(Api::V2Beta1)),
            (v2.replace(';', "; "), Some(Api::V2)),
            ("application/json".to_owned(), None),
            ("*/*".to_owned(), None),
            (String::new(), None),
            (format!("application/json,{v2}"), None),
            (format!("application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList,{v2}"), Some(Api::V2)),
        ] {
            assert_eq!(Api::accepted(&accept), expected, "{accept}");
        }
    }

    #[test]
    fn core_and_named_groups_are_told_apart() {
        let rows: Vec<Arc<Row>> = wharf_registry::builtin::rows().into_iter().map(Arc::new).collect();
        let groups = groups(&rows);
        let core = list(&groups, true, Api::V2);
        assert_eq!(core["apiVersion"], "apidiscovery.k8s.io/v2");
        assert_eq!(core["items"].as_array().map(Vec::len), Some(1));
        assert_eq!(core["items"][0]["metadata"], json!({"creationTimestamp": null}));
        let named = list(&groups, false, Api::V2Beta1);
        assert_eq!(named["items"][0]["metadata"]["name"], "apiregistration.k8s.io");
        assert_eq!(named["items"][1]["metadata"]["name"], "apps");
        let resources = named["items"][1]["versions"][0]["resources"].as_array().expect("resources");
        let deployments = resources.iter().find(|entry| entry["resource"] == "deployments").expect("deployments");
        assert_eq!(deployments["responseKind"], json!({"group": "apps", "version": "v1", "kind": "Deployment"}));
        assert_eq!(
            deployments["subresources"][0],
            json!({
                "subresource": "scale",
                "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"},
                "verbs": ["get", "patch", "update"],
            })
        );
    }
}
