//! What the server serves, and an object of each.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::Http;

const SAMPLES: &str = include_str!("samples.yaml");

/// One entry of `samples.yaml`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// Of the two objects of the walk, where the kind does not take any name.
    #[serde(default)]
    pub names: Option<[String; 2]>,
    /// Without apiVersion, kind and metadata.
    #[serde(default)]
    pub object: Value,
    /// A spec that differs; a write of the status must leave the object's own alone.
    #[serde(default)]
    pub other_spec: Value,
    /// Written to a status subresource.
    #[serde(default)]
    pub status: Value,
}

/// A resource as discovery tells it.
#[derive(Clone, Debug)]
pub struct Resource {
    /// `deployments.apps`
    pub name: String,
    pub api_version: String,
    pub kind: String,
    /// Where its objects are, in the namespace `walk` if in one.
    pub path: String,
    pub verbs: BTreeSet<String>,
    pub subresources: BTreeSet<String>,
}

impl Resource {
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.contains(verb)
    }

    pub fn object(&self, sample: &Sample, name: &str, walk: &str) -> Value {
        let mut object = if sample.object.is_object() { sample.object.clone() } else { json!({}) };
        object["apiVersion"] = json!(self.api_version);
        object["kind"] = json!(self.kind);
        object["metadata"] = json!({"name": name, "labels": {"walk": walk}});
        object
    }
}

pub fn samples() -> BTreeMap<String, Sample> {
    serde_yaml::from_str(SAMPLES).expect("samples.yaml is a table of samples")
}

/// Every resource of every version that the server has.
pub async fn served(http: &Http) -> Result<Vec<Resource>> {
    let mut versions = vec![("/api/v1".to_owned(), "v1".to_owned(), String::new())];
    let groups = http.get("/apis").await?.json(200)?;
    for group in groups["groups"].as_array().context("/apis lists groups")? {
        let name = group["name"].as_str().context("a group has a name")?;
        for version in group["versions"].as_array().context("a group has versions")? {
            let version = version["groupVersion"].as_str().context("a version has a name")?;
            versions.push((format!("/apis/{version}"), version.to_owned(), format!(".{name}")));
        }
    }
    let mut served = Vec::new();
    for (root, api_version, suffix) in versions {
        let list = http.get(&root).await?.json(200)?;
        let listed = list["resources"].as_array().with_context(|| format!("{root} lists resources"))?;
        let named = |row: &Value| row["name"].as_str().unwrap_or_default().to_owned();
        for row in listed.iter().filter(|row| !named(row).contains('/')) {
            let name = named(row);
            let below = format!("{name}/");
            let subresources = listed.iter().filter_map(|other| named(other).strip_prefix(&below).map(str::to_owned));
            let namespace = if row["namespaced"] == true { "/namespaces/walk" } else { "" };
            served.push(Resource {
                name: format!("{name}{suffix}"),
                api_version: api_version.clone(),
                kind: row["kind"].as_str().context("a resource has a kind")?.to_owned(),
                path: format!("{root}{namespace}/{name}"),
                verbs: serde_json::from_value(row["verbs"].clone()).context("a resource has verbs")?,
                subresources: subresources.collect(),
            });
        }
    }
    Ok(served)
}
