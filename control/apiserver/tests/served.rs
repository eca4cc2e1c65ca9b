//! What is served, held against what upstream serves: `served.txt`.

mod support;

use std::collections::BTreeSet;

use serde_json::Value;
use support::Api;

const TABLE: &str = include_str!("served.txt");
const ALL: &str = "create,delete,deletecollection,get,list,patch,update,watch";
const VIEW: &str = "get,patch,update";

/// A line of the table as discovery would tell it: verbs in full.
fn expected() -> Vec<String> {
    let mut version = "";
    let mut lines = Vec::new();
    let told = TABLE.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#']));
    for line in told.filter(|line| !line.starts_with("omitted ")) {
        let words: Vec<&str> = line.split(' ').map(in_full).collect();
        match words.as_slice() {
            [one] => version = one,
            words => lines.push(format!("{version} {}", words.join(" "))),
        }
    }
    lines
}

fn in_full(word: &str) -> &str {
    match word {
        "*" => ALL,
        "=" => VIEW,
        word => word,
    }
}

fn omitted() -> impl Iterator<Item = &'static str> {
    TABLE.lines().filter_map(|line| line.strip_prefix("omitted ")?.split(' ').next())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> String {
    let items: Vec<&str> = value.as_array().into_iter().flatten().map(text).collect();
    if items.is_empty() { "-".to_owned() } else { items.join(",") }
}

/// A group of kinds that upstream has not.
fn is_own(group: &str) -> bool {
    group.ends_with(".wharf.dev")
}

fn scope(namespaced: bool) -> &'static str {
    if namespaced { "N" } else { "C" }
}

fn root(version: &str) -> &'static str {
    if version == "v1" { "/api" } else { "/apis" }
}

/// An entry of an `APIResourceList` as a line; `hashed` tells whether the table has its hash.
fn line(version: &str, entry: &Value, hashed: impl Fn(&str) -> bool) -> String {
    let (name, kind, verbs) = (text(&entry["name"]), text(&entry["kind"]), list(&entry["verbs"]));
    if name.contains('/') {
        let of = match (text(&entry["group"]), text(&entry["version"])) {
            ("", "") => String::new(),
            (group, version) => format!("{group}/{version}."),
        };
        // A subresource of the core group tells its own group as well.
        return format!("{version} {name} {of}{kind} {verbs}");
    }
    let scope = scope(entry["namespaced"] == true);
    let (short, categories) = (list(&entry["shortNames"]), list(&entry["categories"]));
    let singular = text(&entry["singularName"]);
    let line = format!("{version} {name} {kind} {scope} {singular} {short} {categories} {verbs}");
    let hash = text(&entry["storageVersionHash"]);
    let with = format!("{line} {hash}");
    if hashed(&with) { with } else { line }
}

#[tokio::test]
async fn the_legacy_documents_are_upstreams() {
    let api = Api::new().await;
    let expected = expected();
    let known: BTreeSet<&str> = expected.iter().map(String::as_str).collect();
    let mut versions = vec!["v1".to_owned()];
    let groups = api.get("/apis").await.expect(200);
    let groups = groups["groups"].as_array().expect("groups");
    for group in groups.iter().filter(|group| !is_own(text(&group["name"]))) {
        let told = group["versions"].as_array().expect("versions").iter();
        versions.extend(told.map(|version| text(&version["groupVersion"]).to_owned()));
        assert_eq!(group["preferredVersion"], group["versions"][0]);
    }
    let mut served = Vec::new();
    for version in &versions {
        let document = api.get(&format!("{}/{version}", root(version))).await.expect(200);
        let entries = document["resources"].as_array().expect("resources");
        served.extend(entries.iter().map(|entry| line(version, entry, |with| known.contains(with))));
    }
    assert_eq!(served, expected, "in upstream's order, too");
}

#[tokio::test]
async fn the_aggregated_document_says_the_same() {
    let api = Api::new().await;
    let mut served = Vec::new();
    for path in ["/api", "/apis"] {
        let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let document = api.get_as(path, accept).await.expect(200);
        for group in document["items"].as_array().expect("groups") {
            let name = text(&group["metadata"]["name"]);
            if is_own(name) {
                continue;
            }
            for version in group["versions"].as_array().expect("versions") {
                let of = format!("{name}/{}", text(&version["version"]));
                let of = of.trim_start_matches('/');
                assert_eq!(version["freshness"], "Current", "{of}");
                let resources = version["resources"].as_array().expect("resources");
                resources.iter().for_each(|resource| add_aggregated(&mut served, of, resource));
            }
        }
    }
    let without_hash = |line: &String| line.trim_end_matches(|c| c != ' ').trim_end().to_owned();
    let expected: Vec<String> =
        expected().iter().map(|line| if line.ends_with('=') { without_hash(line) } else { line.clone() }).collect();
    assert_eq!(served, expected);
}

fn add_aggregated(served: &mut Vec<String>, of: &str, resource: &Value) {
    let name = text(&resource["resource"]);
    let kind = &resource["responseKind"];
    let scope = scope(resource["scope"] == "Namespaced");
    let (short, categories) = (list(&resource["shortNames"]), list(&resource["categories"]));
    let (singular, verbs) = (text(&resource["singularResource"]), list(&resource["verbs"]));
    served.push(format!("{of} {name} {} {scope} {singular} {short} {categories} {verbs}", text(&kind["kind"])));
    for sub in resource["subresources"].as_array().into_iter().flatten() {
        let kind = &sub["responseKind"];
        let version = format!("{}/{}", text(&kind["group"]), text(&kind["version"]));
        let version = version.trim_start_matches('/');
        let foreign = if version == of { String::new() } else { format!("{version}.") };
        let (which, verbs) = (text(&sub["subresource"]), list(&sub["verbs"]));
        served.push(format!("{of} {name}/{which} {foreign}{} {verbs}", text(&kind["kind"])));
    }
}

#[tokio::test]
async fn what_is_left_out_is_not_served() {
    let api = Api::new().await;
    for version in omitted() {
        assert_eq!(api.get(&format!("/apis/{version}")).await.code, 404, "{version}");
    }
    assert_eq!(omitted().count(), 14);
}
