//! What an autoscaler reads and writes beside itself: the scale of its target, and what its pods use.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use kube::Client;
use parking_lot::Mutex;
use serde_json::{Value, json};
use wharf_machinery::quantity::Quantity;
use wharf_types::k8s::api::autoscaling::v2::CrossVersionObjectReference;

use super::measure::{Sample, Samples};
use crate::call::message;

/// Kinds whose resource's name is remembered.
const KINDS_MAX: usize = 256;

/// The `scale` subresource of a target.
#[derive(Clone, Debug)]
pub struct Scale {
    path: String,
    object: Value,
    /// Wanted.
    pub replicas: i32,
    /// There are.
    pub current: i32,
    /// Of the target's pods, as a query has it.
    pub selector: String,
}

/// Finds targets of any kind that has a scale.
pub struct Targets {
    client: Client,
    /// Resources by API version and kind, as discovery has told them.
    resources: Mutex<HashMap<(String, String), String>>,
}

impl Targets {
    pub fn new(client: Client) -> Self {
        Self { client, resources: Mutex::default() }
    }

    /// The error is in words.
    pub async fn scale(&self, namespace: &str, target: &CrossVersionObjectReference) -> Result<Scale, String> {
        let version = target.api_version.as_deref().unwrap_or("v1");
        let resource = self.plural(version, &target.kind).await?;
        let path = format!("{}/namespaces/{namespace}/{resource}/{}/scale", root(version), target.name);
        let object: Value = get(&self.client, &path).await.map_err(|error| message(&error))?;
        let number =
            |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).and_then(|it| i32::try_from(it).ok());
        let selector = object.pointer("/status/selector").and_then(Value::as_str).unwrap_or_default().to_owned();
        let (replicas, current) = (number("/spec/replicas").unwrap_or(0), number("/status/replicas").unwrap_or(0));
        Ok(Scale { path, replicas, current, selector, object })
    }

    pub async fn set(&self, scale: &Scale, replicas: i32) -> Result<(), kube::Error> {
        let mut wanted = scale.object.clone();
        wanted["spec"] = json!({ "replicas": replicas });
        let request = http::Request::put(&scale.path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(wanted.to_string().into_bytes())
            .map_err(kube::Error::HttpError)?;
        self.client.request::<Value>(request).await.map(drop)
    }

    /// The plural of a kind. The error is in words.
    pub async fn plural(&self, version: &str, kind: &str) -> Result<String, String> {
        let key = (version.to_owned(), kind.to_owned());
        if let Some(known) = self.resources.lock().get(&key) {
            return Ok(known.clone());
        }
        let missing = || {
            format!(
                "no matches for kind {kind:?} in group {:?}",
                version.split_once('/').map_or("", |(group, _)| group)
            )
        };
        let listed: Value = get(&self.client, &root(version)).await.map_err(|_| missing())?;
        let resources = listed["resources"].as_array().into_iter().flatten();
        let found = resources
            .filter(|resource| resource["kind"] == kind)
            .filter_map(|resource| resource["name"].as_str())
            .find(|name| !name.contains('/'));
        let found = found.ok_or_else(missing)?.to_owned();
        let mut known = self.resources.lock();
        if known.len() == KINDS_MAX {
            known.clear();
        }
        known.insert(key, found.clone());
        Ok(found)
    }
}

fn root(version: &str) -> String {
    if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") }
}

pub async fn get(client: &Client, path: &str) -> Result<Value, kube::Error> {
    let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
    client.request(request).await
}

/// What pods use of a resource, by `metrics.k8s.io`; of one container where it is named. The error is in upstream's words.
pub async fn samples(
    client: &Client,
    namespace: &str,
    selector: &str,
    resource: &str,
    container: Option<&str>,
) -> Result<Samples, String> {
    let query: String = form_urlencoded::Serializer::new(String::new()).append_pair("labelSelector", selector).finish();
    let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods?{query}");
    let listed = get(client, &path).await;
    let listed = listed.map_err(|error| {
        format!(
            "unable to get metrics for resource {resource}: unable to fetch metrics from resource metrics API: {}",
            message(&error)
        )
    })?;
    let items = listed["items"].as_array().map_or(&[][..], Vec::as_slice);
    if items.is_empty() {
        return Err(format!(
            "unable to get metrics for resource {resource}: no metrics returned from resource metrics API"
        ));
    }
    Ok(items.iter().filter_map(|item| sample(item, resource, container)).collect())
}

/// None where one of the containers has no such metric.
fn sample(item: &Value, resource: &str, container: Option<&str>) -> Option<(String, Sample)> {
    let containers = item["containers"].as_array()?.iter();
    let chosen = containers.filter(|it| container.is_none_or(|name| it["name"] == name));
    let values: Vec<i64> = chosen
        .map(|it| it["usage"][resource].as_str()?.parse::<Quantity>().ok().map(|quantity| quantity.milli_value()))
        .collect::<Option<_>>()?;
    if values.is_empty() {
        return None;
    }
    let at: Timestamp = item["timestamp"].as_str()?.parse().ok()?;
    let window: SignedDuration = item["window"].as_str().and_then(|text| text.parse().ok()).unwrap_or_default();
    let name = item["metadata"]["name"].as_str()?.to_owned();
    Some((name, Sample { value: values.iter().sum(), at, window }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_containers_are_summed() {
        let item = json!({"metadata": {"name": "web"}, "timestamp": "2026-01-01T00:00:00Z", "window": "15.5s", "containers": [
            {"name": "a", "usage": {"cpu": "150m", "memory": "1Mi"}}, {"name": "b", "usage": {"cpu": "50000000n"}}]});
        let (name, found) = sample(&item, "cpu", None).expect("a sample");
        assert_eq!((name.as_str(), found.value, found.window), ("web", 200, SignedDuration::from_millis(15_500)));
        assert_eq!(sample(&item, "cpu", Some("a")).map(|(_, found)| found.value), Some(150));
        assert_eq!(sample(&item, "memory", None), None, "one container has none");
        assert_eq!(sample(&item, "cpu", Some("c")), None);
    }
}
