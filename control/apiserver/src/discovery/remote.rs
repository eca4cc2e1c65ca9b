//! Groups that other servers serve, added to the documents.
//!
//! Source: `k8s.io/kube-aggregator/pkg/apiserver/{handler_apis,handler_discovery}.go`. A group and version that is served here is
//! told from its rows. Groups, and versions in them, stand in the order of their priorities, whoever serves them. A version whose
//! server does not answer is shown all the same: as stale, with what was known of it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{Group, legacy, priority};
use crate::aggregate::{Document, Documents};

/// Versions by group, in order of preference.
fn by_group(remotes: &Documents) -> BTreeMap<&str, Vec<&Document>> {
    let mut groups: BTreeMap<&str, Vec<&Document>> = BTreeMap::new();
    for document in remotes.values() {
        groups.entry(&document.group).or_default().push(document);
    }
    for versions in groups.values_mut() {
        versions
            .sort_by(|a, b| priority::by_version((&a.version, a.version_priority), (&b.version, b.version_priority)));
    }
    groups
}

/// Puts groups, which `name` tells apart, in order: of those in `local` this server serves at least a version.
fn sort_groups(groups: &mut [Value], local: &BTreeSet<String>, remotes: &Documents, name: fn(&Value) -> &Value) {
    groups.sort_by_cached_key(|group| {
        let name = name(group).as_str().unwrap_or_default().to_owned();
        let theirs = remotes.values().filter(|document| document.group == name).map(|document| document.group_priority);
        let own = local.contains(&name).then(|| priority::of_group(&name));
        (Reverse(theirs.chain(own).max()), name)
    });
}

/// Puts the versions of a group in order, whoever serves them.
fn sort_versions(versions: &mut [Value], group: &str, remote: &[&Document]) {
    let rank = |version: &str| {
        let theirs = remote.iter().find(|document| document.version == version);
        theirs.map_or_else(|| priority::of(group, version).1, |document| document.version_priority)
    };
    versions.sort_by(|a, b| {
        let name = |version: &'_ Value| version["version"].as_str().unwrap_or_default().to_owned();
        let (a, b) = (name(a), name(b));
        priority::by_version((&a, rank(&a)), (&b, rank(&b)))
    });
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
    match (local, by_group(remotes).remove(name)) {
        (Some(local), Some(versions)) => {
            let mut document = legacy::group(local);
            add_versions(&mut document, name, &versions);
            Some(document)
        }
        (Some(local), None) => Some(legacy::group(local)),
        (None, Some(versions)) => {
            let mut document = body(name, &versions);
            document["kind"] = json!("APIGroup");
            document["apiVersion"] = json!("v1");
            Some(document)
        }
        (None, None) => None,
    }
}

fn add_versions(document: &mut Value, name: &str, remote: &[&Document]) {
    let Some(listed) = document["versions"].as_array_mut() else { return };
    let new = remote.iter().filter(|new| !listed.iter().any(|held| held["version"] == new.version));
    let new: Vec<Value> = new.map(|version| shown(name, &version.version)).collect();
    listed.extend(new);
    sort_versions(listed, name, remote);
    document["preferredVersion"] = document["versions"][0].clone();
}

/// Into `/apis`.
pub fn add_groups(document: &mut Value, remotes: &Documents) {
    let Some(groups) = document["groups"].as_array_mut() else { return };
    let name = |group: &Value| group["name"].as_str().unwrap_or_default().to_owned();
    let local: BTreeSet<String> = groups.iter().map(name).collect();
    for (name, versions) in by_group(remotes) {
        match groups.iter_mut().find(|group| group["name"] == name) {
            Some(group) => add_versions(group, name, &versions),
            None => groups.push(body(name, &versions)),
        }
    }
    sort_groups(groups, &local, remotes, |group| &group["name"]);
}

/// Into the document that tells everything at once.
pub fn add_aggregated(document: &mut Value, remotes: &Documents) {
    let Some(items) = document["items"].as_array_mut() else { return };
    let name = |item: &Value| item["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let local: BTreeSet<String> = items.iter().map(name).collect();
    for (name, versions) in by_group(remotes) {
        let told: Vec<Value> = versions.iter().map(|version| aggregated(version)).collect();
        match items.iter_mut().find(|item| item["metadata"]["name"] == name) {
            Some(item) => {
                let Some(held) = item["versions"].as_array_mut() else { continue };
                let new: Vec<Value> =
                    told.into_iter().filter(|new| !held.iter().any(|held| held["version"] == new["version"])).collect();
                held.extend(new);
                sort_versions(held, name, &versions);
            }
            None => items.push(json!({"metadata": {"name": name, "creationTimestamp": null}, "versions": told})),
        }
    }
    sort_groups(items, &local, remotes, |item| &item["metadata"]["name"]);
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
            group_priority: 2000,
            version_priority: priority,
            available: resources.is_some(),
            resources,
            ..Document::default()
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
        let mut list = json!({"groups": [{"name": "apps", "versions": []}, {"name": "custom.io", "versions": []}]});
        add_groups(&mut list, &remotes());
        let names: Vec<&str> =
            list["groups"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["apps", "wardle", "custom.io"]);
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
