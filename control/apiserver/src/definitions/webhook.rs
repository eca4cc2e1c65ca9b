//! Conversion by webhook: `apiextensions.k8s.io/v1 ConversionReview`, and `v1beta1` for webhooks that know no other.
//!
//! Source: `apiextensions-apiserver/pkg/apiserver/conversion/webhook_converter.go`. Webhooks are called as those of admission are.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};
use wharf_admission::outgoing::{Clients, ServiceTarget, Target};
use wharf_cache::Cache;
use wharf_machinery::selector;
use wharf_registry::custom::Converter;
use wharf_registry::{ConvertError, Converted, meta};
use wharf_types::field::Path;
use wharf_types::k8s::api::core::v1::Service;
use wharf_types::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::{WebhookClientConfig, WebhookConversion};
use wharf_types::meta::ObjectMeta;

/// How long a webhook may take: upstream's default.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer, in bytes.
const ANSWER_MAX: usize = 16 * 1024 * 1024;
/// Most objects that one review carries.
const OBJECTS_MAX: usize = 500;

const GROUP: &str = "apiextensions.k8s.io";
/// Versions of reviews that are spoken.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

const KIND: &str = "ConversionReview";

/// The review that is sent, its fields in upstream's order.
#[derive(Serialize)]
struct Question<'a> {
    kind: &'static str,
    #[serde(rename = "apiVersion")]
    api_version: String,
    request: Asked<'a>,
}

#[derive(Serialize)]
struct Asked<'a> {
    uid: &'a str,
    #[serde(rename = "desiredAPIVersion")]
    desired: &'a str,
    objects: &'a [Value],
}

pub struct Webhook {
    config: WebhookClientConfig,
    /// The first of the webhook's versions that is spoken here.
    version: Option<&'static str>,
    cache: Arc<Cache>,
    clients: Clients,
}

impl Webhook {
    pub fn new(conversion: &WebhookConversion, cache: Arc<Cache>) -> Self {
        let known = |asked: &String| VERSIONS.into_iter().find(|version| version == asked);
        Self {
            config: conversion.client_config.clone().unwrap_or_default(),
            version: conversion.conversion_review_versions.iter().find_map(known),
            cache,
            clients: Clients::default(),
        }
    }

    fn find(&self, namespace: &str, name: &str) -> Option<Service> {
        let entry = self.cache.peek(&format!("/registry/services/specs/{namespace}/{name}"))?;
        serde_json::from_slice(&entry.bytes).ok()
    }

    async fn ask(&self, review: &Question<'_>) -> Result<Bytes, String> {
        let service = self.config.service.as_ref().map(|service| ServiceTarget {
            namespace: &service.namespace,
            name: &service.name,
            port: service.port,
            path: service.path.as_deref(),
        });
        let target = Target {
            url: self.config.url.as_deref(),
            service,
            bundle: self.config.ca_bundle.as_ref().map_or(&[][..], |bundle| &bundle.0),
            timeout: TIMEOUT,
            answer_max: ANSWER_MAX,
            query: "?timeout=30s",
        };
        let find = |namespace: &str, name: &str| self.find(namespace, name);
        let document = serde_json::to_vec(review).map_err(|error| error.to_string())?;
        self.clients.post(&target, &find, document.into()).await.map_err(|error| error.to_string())
    }

    async fn review(&self, objects: &[Value], api_version: &str) -> Result<Vec<Value>, String> {
        let failed = |why: String| format!("failed: {why}");
        let version = self.version.ok_or("failed: no supported conversion review versions".to_owned())?;
        let uid = uuid::Uuid::new_v4().to_string();
        let request = Asked { uid: &uid, desired: api_version, objects };
        let review = Question { kind: KIND, api_version: format!("{GROUP}/{version}"), request };
        let body = self.ask(&review).await.map_err(failed)?;
        let answer: Value = serde_json::from_slice(&body)
            .map_err(|error| failed(format!("couldn't get version/kind; json parse error: {error}")))?;
        let converted = judge(answer, version, &uid).map_err(failed)?;
        restore(converted, objects, api_version)
    }
}

/// The converted objects, if the answer is one to the request.
fn judge(mut answer: Value, version: &str, uid: &str) -> Result<Vec<Value>, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, group) = (text(&answer["kind"]), text(&answer["apiVersion"]));
    if version == "v1" && (kind != "ConversionReview" || group != format!("{GROUP}/v1")) {
        let group = if group.contains('/') { group } else { format!("/{group}") };
        return Err(format!(
            "expected webhook response of {GROUP}/v1, Kind=ConversionReview, got {group}, Kind={kind}"
        ));
    }
    let mut response = answer["response"].take();
    if response.is_null() {
        return Err("no response provided".to_owned());
    }
    if version == "v1" && response["uid"] != uid {
        return Err(format!("expected response.uid={uid:?}, got {:?}", text(&response["uid"])));
    }
    let status = text(&response["result"]["status"]);
    if status != "Success" {
        let message = text(&response["result"]["message"]);
        let plain = format!("response.result.status was '{status}', not 'Success'");
        return Err(if message.is_empty() { plain } else { message });
    }
    match response["convertedObjects"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Ok(Vec::new()),
    }
}

/// What came back, if it changes nothing that it may not, with the metadata that was sent but for labels and annotations.
fn restore(converted: Vec<Value>, sent: &[Value], api_version: &str) -> Result<Vec<Value>, String> {
    if converted.len() != sent.len() {
        return Err(format!("returned {} objects, expected {}", converted.len(), sent.len()));
    }
    let each = converted.into_iter().zip(sent).enumerate();
    each.map(|(index, (mut object, sent))| {
        let held = object["apiVersion"].as_str().unwrap_or_default();
        if held != api_version {
            let why = format!("invalid groupVersion (expected {api_version}, received {held})");
            return Err(format!("returned invalid converted object at index {index}: {why}"));
        }
        let invalid = |why: String| format!("returned invalid converted object at index {index}: {why}");
        same_object(&object, sent).map_err(invalid)?;
        let metadata = metadata(&object, sent)
            .map_err(|why| format!("returned invalid metadata in object at index {index}: {why}"))?;
        object["metadata"] = Value::Object(metadata);
        Ok(object)
    })
    .collect()
}

/// Source: `validateConvertedObject`.
fn same_object(object: &Value, sent: &Value) -> Result<(), String> {
    for (name, path) in
        [("kind", "/kind"), ("name", "/metadata/name"), ("namespace", "/metadata/namespace"), ("UID", "/metadata/uid")]
    {
        let text = |value: &Value| value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (expected, got) = (text(sent), text(object));
        if expected != got {
            return Err(format!("must have the same {name}: {expected} != {got}"));
        }
    }
    Ok(())
}

/// A webhook may change labels and annotations; the rest of the metadata is what it was. Source: `restoreObjectMeta`.
fn metadata(object: &Value, sent: &Value) -> Result<Map<String, Value>, String> {
    let answered = object.get("metadata").ok_or("missing metadata in converted object")?;
    let answered = answered
        .as_object()
        .ok_or_else(|| format!("invalid metadata of type {} in converted object", go_type(answered)))?;
    let mut metadata = sent["metadata"].as_object().cloned().unwrap_or_default();
    for field in ["labels", "annotations"] {
        let Some(held) = answered.get(field).filter(|held| !held.is_null()) else {
            metadata.remove(field);
            continue;
        };
        let held = held
            .as_object()
            .ok_or_else(|| format!("invalid metadata.{field} of type {} in converted object", go_type(held)))?;
        if let Some((key, value)) = held.iter().find(|(_, value)| !value.is_string()) {
            let kind = go_type(value);
            return Err(format!("metadata.{field}[{key}] must be a string, but is {kind} in converted object"));
        }
        if metadata.get(field).and_then(Value::as_object) != Some(held) {
            check_map(field, held)?;
        }
        metadata.insert(field.to_owned(), Value::Object(held.clone()));
    }
    Ok(metadata)
}

fn check_map(field: &str, held: &Map<String, Value>) -> Result<(), String> {
    let texts = held.iter().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
    let (texts, path) = (Some(texts.collect()), Path::new("metadata").child(field));
    let errors = match field {
        "labels" => selector::validate_labels(texts.as_ref(), &path),
        _ => meta::validate_annotations(&ObjectMeta { annotations: texts, ..ObjectMeta::default() }, &path),
    };
    match errors.iter().map(ToString::to_string).collect::<Vec<_>>().as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

/// How Go names the type of a value.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

impl Converter for Webhook {
    fn convert<'a>(&'a self, objects: Vec<Value>, api_version: &'a str) -> Converted<'a, Vec<Value>> {
        Box::pin(async move {
            let mut converted = Vec::with_capacity(objects.len());
            for part in objects.chunks(OBJECTS_MAX) {
                let of = |field: &str| part[0][field].as_str().unwrap_or_default();
                let subject = format!("{}, Kind={}", of("apiVersion"), of("kind"));
                let made = self.review(part, api_version).await;
                converted.extend(made.map_err(|why| ConvertError(format!("conversion webhook for {subject} {why}")))?);
            }
            Ok(converted)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(response: Value, expected: Result<Value, &str>) {
        let sent = [
            json!({"apiVersion": "a/v1", "kind": "C", "metadata": {"name": "n", "uid": "u", "resourceVersion": "4", "labels": {"a": "b"}}}),
        ];
        let answer = json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": response});
        let made = judge(answer, "v1", "id").map_err(|why| format!("failed: {why}"));
        let got = made.and_then(|made| restore(made, &sent, "a/v2")).map(|mut objects| objects.remove(0));
        assert_eq!(got, expected.map_err(ToOwned::to_owned));
    }

    #[test]
    fn answers_are_taken_or_refused_in_upstreams_words() {
        let object = json!({"apiVersion": "a/v2", "kind": "C", "metadata": {"name": "n", "uid": "u", "labels": {"x": "y"}}, "spec": 1});
        let success = json!({"status": "Success"});
        check(
            json!({"uid": "id", "result": success, "convertedObjects": [object]}),
            Ok(
                json!({"apiVersion": "a/v2", "kind": "C", "metadata": {"name": "n", "uid": "u", "resourceVersion": "4", "labels": {"x": "y"}}, "spec": 1}),
            ),
        );
        check(json!({"uid": "other", "result": success}), Err("failed: expected response.uid=\"id\", got \"other\""));
        check(json!({"uid": "id", "result": {"status": "Failed", "message": "no"}}), Err("failed: no"));
        check(json!({"uid": "id", "result": success, "convertedObjects": []}), Err("returned 0 objects, expected 1"));
        let mut moved = object.clone();
        moved["metadata"]["name"] = "m".into();
        check(
            json!({"uid": "id", "result": success, "convertedObjects": [moved]}),
            Err("returned invalid converted object at index 0: must have the same name: n != m"),
        );
        let mut old = object;
        old["apiVersion"] = "a/v1".into();
        check(
            json!({"uid": "id", "result": success, "convertedObjects": [old]}),
            Err("returned invalid converted object at index 0: invalid groupVersion (expected a/v2, received a/v1)"),
        );
    }
}
