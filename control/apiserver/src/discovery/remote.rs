//! Groups that other servers serve, added to the documents.
//!
//! Source: `k8s.io/kube-aggregator/pkg/apiserver/{handler_apis,handler_discovery}.go`. A group and version that is served here is
//! told from its rows; another server's after those, in the order of its priorities. One that does not answer is shown by name,
//! as stale.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Group, legacy};
use crate::aggregate::{Document, Documents};

/// Groups with their versions, both in order of priority.
fn ordered(remotes: &Documents) -> Vec<(&str, Vec<&Document>)> {
    let mut groups: BTreeMap<&str, Vec<&Document>> = BTreeMap::new();
    for document in remotes.values() {
        groups.entry(&document.group).or_default().push(document);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(name, versions)| {
        (Reverse(versions.iter().map(|version| version.group_priority).max().unwrap_or_default()), *name)
    });
    for (_, versions) in &mut groups {
        versions.sort_by_key(|version| (Reverse(version.version_priority), version.version.clone()));
    }
    groups
}

fn shown(group: &str, version: &str) -> Value {
    json!({"groupVersion": format!("{group}/{version}"), "version": version})
}

fn body(name: &str, versions: &[&Document]) -> Value {
    let versions: Vec<Value> = versions.iter().map(|version| shown(name, &version.version)).collect();
    json!({"name": name, "preferredVersion": versions.first(), "versions": versions})
}

/// `/apis/GROUP`; none where nobody serves the group.
pub fn group(local: Option<&Group>, remotes: &Documents, name: &str) -> Option<Value> {
    let found = ordered(remotes).into_iter().find(|(group, _)| *group == name);
    match (local, found) {
        (Some(local), Some((_, versions))) => {
            let mut document = legacy::group(local);
            add_versions(&mut document, name, &versions);
            Some(document)
        }
        (Some(local), None) => Some(legacy::group(local)),
        (None, Some((_, versions))) => {
            let mut document = body(name, &versions);
            document["kind"] = json!("APIGroup");
            document["apiVersion"] = json!("v1");
            Some(document)
        }
        (None, None) => None,
    }
}

fn add_versions(document: &mut Value, name: &str, versions: &[&Document]) {
    let Some(listed) = document["versions"].as_array_mut() else { return };
    for version in versions {
        if !listed.iter().any(|held| held["version"] == version.version) {
            listed.push(shown(name, &version.version));
        }
    }
}

/// Into `/apis`.
pub fn add_groups(document: &mut Value, remotes: &Documents) {
    let Some(groups) = document["groups"].as_array_mut() else { return };
    for (name, versions) in ordered(remotes) {
        match groups.iter_mut().find(|group| group["name"] == name) {
            Some(group) => add_versions(group, name, &versions),
            None => groups.push(body(name, &versions)),
        }
    }
}

/// Into the document that tells everything at once.
pub fn add_aggregated(document: &mut Value, remotes: &Documents) {
    let Some(items) = document["items"].as_array_mut() else { return };
    for (name, versions) in ordered(remotes) {
        let told: Vec<Value> = versions.iter().map(|version| aggregated(version)).collect();
        match items.iter_mut().find(|item| item["metadata"]["name"] == name) {
            Some(item) => {
                let Some(held) = item["versions"].as_array_mut() else { continue };
                let new: Vec<Value> =
                    told.into_iter().filter(|new| !held.iter().any(|held| held["version"] == new["version"])).collect();
                held.extend(new);
            }
            None => items.push(json!({"metadata": {"name": name, "creationTimestamp": null}, "versions": told})),
        }
    }
}

/// A version from its server's legacy `APIResourceList`.
fn aggregated(document: &Document) -> Value {
    let none = Vec::new();
    let listed = document.resources.as_ref().and_then(|list| list["resources"].as_array()).unwrap_or(&none);
    let is_sub = |entry: &&Value| entry["name"].as_str().is_some_and(|name| name.contains('/'));
    let resources: Vec<Value> =
        listed.iter().filter(|entry| !is_sub(entry)).map(|entry| resource(document, entry, listed)).collect();
    let freshness = if document.available { "Current" } else { "Stale" };
    json!({"version": document.version, "resources": resources, "freshness": freshness})
}

fn resource(document: &Document, entry: &Value, listed: &[Value]) -> Value {
    let kind = |entry: &Value| {
        let or =
            |field: &str, own: &str| entry[field].as_str().filter(|text| !text.is_empty()).unwrap_or(own).to_owned();
        json!({"group": or("group", &document.group), "version": or("version", &document.version), "kind": entry["kind"]})
    };
    let name = entry["name"].as_str().unwrap_or_default();
    let mut out = Map::new();
    out.insert("resource".to_owned(), json!(name));
    out.insert("responseKind".to_owned(), kind(entry));
    out.insert("scope".to_owned(), json!(if entry["namespaced"] == true { "Namespaced" } else { "Cluster" }));
    out.insert("singularResource".to_owned(), entry["singularName"].clone());
    out.insert("verbs".to_owned(), entry["verbs"].clone());
    for field in ["shortNames", "categories"] {
        if entry[field].is_array() {
            out.insert(field.to_owned(), entry[field].clone());
        }
    }
    let below: Vec<Value> = listed
        .iter()
        .filter_map(|sub| {
            let (of, which) = sub["name"].as_str()?.split_once('/')?;
            (of == name).then(|| json!({"subresource": which, "responseKind": kind(sub), "verbs": sub["verbs"]}))
        })
        .collect();
    if !below.is_empty() {
        out.insert("subresources".to_owned(), Value::Array(below));
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remotes() -> Documents {
        let document = |group: &str, version: &str, priority: i32, resources: Option<Value>| Document {
            group: group.to_owned(),
            version: version.to_owned(),
            group_priority: 100,
            version_priority: priority,
            available: resources.is_some(),
            resources,
            openapi: None,
        };
        let list = json!({"resources": [
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get"]},
            {"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["update"]},
        ]});
        Documents::from([
            ("v1.wardle".to_owned(), document("wardle", "v1", 10, Some(list))),
            ("v2.wardle".to_owned(), document("wardle", "v2", 20, None)),
        ])
    }

    #[test]
    fn another_servers_group_is_listed_by_its_priorities() {
        let mut list = json!({"groups": [{"name": "apps", "versions": []}]});
        add_groups(&mut list, &remotes());
        let names: Vec<&str> =
            list["groups"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["apps", "wardle"]);
        assert_eq!(list["groups"][1]["preferredVersion"], json!({"groupVersion": "wardle/v2", "version": "v2"}));
        let one = group(None, &remotes(), "wardle").unwrap();
        assert_eq!((&one["kind"], one["versions"].as_array().unwrap().len()), (&json!("APIGroup"), 2));
        assert_eq!(group(None, &remotes(), "other"), None);
    }

    #[test]
    fn what_it_says_of_itself_is_told_in_the_newer_form() {
        let mut document = json!({"items": []});
        add_aggregated(&mut document, &remotes());
        let versions = &document["items"][0]["versions"];
        assert_eq!((&versions[0]["freshness"], &versions[0]["resources"]), (&json!("Stale"), &json!([])));
        assert_eq!(versions[1]["freshness"], "Current");
        let flunders = &versions[1]["resources"][0];
        assert_eq!(flunders["responseKind"], json!({"group": "wardle", "version": "v1", "kind": "Flunder"}));
        assert_eq!(flunders["subresources"][0]["subresource"], "status");
    }
}
