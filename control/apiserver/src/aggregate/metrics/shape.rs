//! Metrics as objects, as a Table, and their schemas.
//!
//! Source: `k8s.io/metrics/pkg/apis/metrics/v1beta1/types.go`, `metrics-server/pkg/api/{node,pod,table}.go`.

use jiff::Timestamp;
use serde_json::{Value, json};
use wharf_machinery::openapi::Definitions;

use super::nodes::{Cpu, Memory, Reading};
use super::{GROUP, SlimMeta, VERSION};

const META: &str = "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const QUANTITY: &str = "#/definitions/io.k8s.apimachinery.pkg.api.resource.Quantity";
const TIME: &str = "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.Time";
/// How far apart upstream's kubelet takes its samples, where a node does not say.
const WINDOW: &str = "10s";
/// What there is a column for, in the order of the names.
const RESOURCES: [&str; 2] = ["cpu", "memory"];

/// None where the node has not measured itself yet.
pub fn node(meta: &SlimMeta, reading: &Reading, now: Timestamp) -> Option<Value> {
    let (usage, at, window) = usage(reading.node.cpu.as_ref(), reading.node.memory.as_ref())?;
    let mut object = object("NodeMetrics", meta, now, at, &window);
    object["usage"] = usage;
    Some(object)
}

/// None where one of its containers has not been measured, or none runs.
pub fn pod(meta: &SlimMeta, reading: &Reading, now: Timestamp) -> Option<Value> {
    let is_it = |name: &str, namespace: &str| name == meta.name && namespace == meta.namespace;
    let stats = reading.pods.iter().find(|pod| is_it(&pod.pod_ref.name, &pod.pod_ref.namespace))?;
    let (mut containers, mut latest) = (Vec::new(), None);
    for container in &stats.containers {
        let (usage, at, window) = usage(container.cpu.as_ref(), container.memory.as_ref())?;
        containers.push(json!({ "name": container.name, "usage": usage }));
        latest = latest.max(Some((at, window)));
    }
    let (at, window) = latest?;
    let mut object = object("PodMetrics", meta, now, at, &window);
    object["containers"] = containers.into();
    Some(object)
}

fn object(kind: &str, meta: &SlimMeta, now: Timestamp, at: Timestamp, window: &str) -> Value {
    let mut metadata = json!({ "name": meta.name, "creationTimestamp": seconds(now) });
    if !meta.namespace.is_empty() {
        metadata["namespace"] = meta.namespace.clone().into();
    }
    if meta.labels.as_object().is_some_and(|labels| !labels.is_empty()) {
        metadata["labels"] = meta.labels.clone();
    }
    json!({
        "kind": kind, "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": metadata,
        "timestamp": seconds(at), "window": window,
    })
}

fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Quantities, when they were read, and over how long.
fn usage(cpu: Option<&Cpu>, memory: Option<&Memory>) -> Option<(Value, Timestamp, String)> {
    let cpu = cpu?;
    let usage = json!({ "cpu": decimal(cpu.usage_nano_cores?), "memory": binary(memory?.working_set_bytes?) });
    Some((usage, cpu.time, cpu.window.clone().unwrap_or_else(|| WINDOW.to_owned())))
}

/// Billionths as a canonical quantity.
fn decimal(nanos: u64) -> String {
    let (mut number, mut suffix) = (nanos, "n");
    for next in ["u", "m", ""] {
        if number % 1000 != 0 {
            break;
        }
        (number, suffix) = (number / 1000, next);
    }
    if number == 0 { "0".to_owned() } else { format!("{number}{suffix}") }
}

fn binary(bytes: u64) -> String {
    let (mut number, mut suffix) = (bytes, "");
    for next in ["Ki", "Mi", "Gi", "Ti"] {
        if number % 1024 != 0 || number == 0 {
            break;
        }
        (number, suffix) = (number / 1024, next);
    }
    format!("{number}{suffix}")
}

/// The Table of an object or of a list.
pub fn table(pods: bool, value: &Value) -> Value {
    let one = std::slice::from_ref(value);
    let items = value["items"].as_array().map_or(one, Vec::as_slice);
    let mut columns = vec![
        json!({ "name": "Name", "type": "string", "format": "name", "description": "Name of the resource", "priority": 0 }),
    ];
    let quantity =
        |name: &str| json!({ "name": name, "type": "string", "format": "quantity", "description": "", "priority": 0 });
    columns.extend(RESOURCES.map(quantity));
    columns.push(json!({ "name": "Window", "type": "string", "format": "duration", "description": "", "priority": 0 }));
    let row = |item: &Value| {
        let mut cells = vec![item["metadata"]["name"].clone()];
        cells.extend(RESOURCES.map(|resource| match pods {
            true => sum(item, resource).into(),
            false => item["usage"][resource].clone(),
        }));
        cells.push(item["window"].clone());
        let mut partial = json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1" });
        partial["metadata"] = item["metadata"].clone();
        json!({ "cells": cells, "object": partial })
    };
    let rows: Vec<Value> = items.iter().map(row).collect();
    json!({ "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "columnDefinitions": columns, "rows": rows })
}

/// A pod uses what its containers use.
fn sum(pod: &Value, resource: &str) -> String {
    let texts = pod["containers"].as_array().into_iter().flatten().filter_map(|it| it["usage"][resource].as_str());
    let cores = |text: &str| resource == "cpu" && text.bytes().all(|byte| byte.is_ascii_digit());
    let sum = texts.map(|text| if cores(text) { amount(text) * 1_000_000_000 } else { amount(text) }).sum();
    if resource == "cpu" { decimal(sum) } else { binary(sum) }
}

/// What [`decimal`] or [`binary`] was made of.
fn amount(text: &str) -> u64 {
    let (number, suffix) = text.split_at(text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = number.parse().unwrap_or(0);
    match suffix {
        "u" => number * 1000,
        "m" => number * 1_000_000,
        "Ki" => number << 10,
        "Mi" => number << 20,
        "Gi" => number << 30,
        "Ti" => number << 40,
        _ => number,
    }
}

pub fn schema_name(kind: &str) -> String {
    format!("io.k8s.metrics.pkg.apis.metrics.v1beta1.{kind}")
}

pub fn definitions() -> Definitions {
    let list = "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md";
    let api_version = json!({ "type": "string", "description": format!("APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: {list}#resources") });
    let kind = json!({ "type": "string", "description": format!("Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: {list}#types-kinds") });
    let metadata =
        json!({ "$ref": META, "description": format!("Standard object's metadata. More info: {list}#metadata") });
    let timestamp = json!({ "$ref": TIME, "description": "The following fields define time interval from which metrics were collected from the interval [Timestamp-Window, Timestamp]." });
    let window = json!({ "type": "string", "description": "How long before the timestamp metrics were collected." });
    let usage = json!({ "type": "object", "description": "The memory usage is the memory working set.", "additionalProperties": { "$ref": QUANTITY } });
    let container = schema_name("ContainerMetrics");
    let containers = json!({ "type": "array", "description": "Metrics for all containers are collected within the same time window.", "x-kubernetes-list-type": "atomic", "items": { "$ref": format!("#/definitions/{container}") } });
    let whole = |words: &str, own: (&str, &Value)| {
        json!({
            "type": "object",
            "description": words,
            "required": ["timestamp", "window", own.0],
            "properties": {
                "apiVersion": api_version, "kind": kind, "metadata": metadata, "timestamp": timestamp, "window": window,
                own.0: own.1,
            },
        })
    };
    Definitions::from([
        (schema_name("NodeMetrics"), whole("NodeMetrics sets resource usage metrics of a node.", ("usage", &usage))),
        (
            schema_name("PodMetrics"),
            whole("PodMetrics sets resource usage metrics of a pod.", ("containers", &containers)),
        ),
        (
            container,
            json!({
                "type": "object",
                "description": "ContainerMetrics sets resource usage metrics of a container.",
                "required": ["name", "usage"],
                "properties": {
                    "name": { "type": "string", "description": "Container name corresponding to the one from pod.spec.containers." },
                    "usage": usage,
                },
            }),
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading() -> Reading {
        let container = |name: &str, nanos: u64, bytes: u64| json!({"name": name, "cpu": {"time": "2026-01-01T00:00:10.5Z", "usageNanoCores": nanos, "window": "15.5s"}, "memory": {"workingSetBytes": bytes}});
        let reading = json!({
            "node": {"cpu": {"time": "2026-01-01T00:00:10Z", "usageNanoCores": 2_000_000_000_u64}, "memory": {"workingSetBytes": 1 << 30}},
            "pods": [
                {"podRef": {"name": "web", "namespace": "d"}, "containers": [container("a", 1_500, 2048), container("b", 500, 1024)]},
                {"podRef": {"name": "new", "namespace": "d"}, "containers": [{"name": "c", "cpu": {"time": "2026-01-01T00:00:10Z"}}]},
                {"podRef": {"name": "idle", "namespace": "d"}},
            ],
        });
        serde_json::from_value(reading).expect("a summary")
    }

    fn meta(name: &str, namespace: &str) -> SlimMeta {
        SlimMeta { name: name.to_owned(), namespace: namespace.to_owned(), labels: json!({"app": name}) }
    }

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn a_pods_containers_are_told_one_by_one_and_summed_in_a_table() {
        let web = pod(&meta("web", "d"), &reading(), NOW).expect("metrics");
        assert_eq!(web["containers"][0], json!({"name": "a", "usage": {"cpu": "1500n", "memory": "2Ki"}}));
        assert_eq!((&web["timestamp"], &web["window"]), (&json!("2026-01-01T00:00:10Z"), &json!("15.5s")));
        assert_eq!(web["metadata"]["labels"], json!({"app": "web"}));
        let table = table(true, &json!({"items": [web]}));
        assert_eq!(table["rows"][0]["cells"], json!(["web", "2u", "3Ki", "15.5s"]));
        let names: Vec<&Value> =
            table["columnDefinitions"].as_array().expect("columns").iter().map(|it| &it["name"]).collect();
        assert_eq!(names, ["Name", "cpu", "memory", "Window"]);
    }

    #[test]
    fn what_has_not_been_measured_has_no_metrics() {
        for name in ["new", "idle", "gone"] {
            assert_eq!(pod(&meta(name, "d"), &reading(), NOW), None, "{name}");
        }
        assert_eq!(pod(&meta("web", "other"), &reading(), NOW), None);
    }

    #[test]
    fn a_node_is_told_of_as_a_whole() {
        let node = node(&meta("n", ""), &reading(), NOW).expect("metrics");
        assert_eq!(node["usage"], json!({"cpu": "2", "memory": "1Gi"}));
        assert_eq!((&node["window"], node["metadata"].get("namespace")), (&json!("10s"), None));
    }

    #[test]
    fn quantities_are_canonical() {
        for (nanos, expected) in
            [(0, "0"), (1, "1n"), (2_500_000, "2500u"), (250_000_000, "250m"), (3_000_000_000, "3")]
        {
            assert_eq!(decimal(nanos), expected);
        }
        for (bytes, expected) in [(0, "0"), (1, "1"), (1536, "1536"), (3 << 20, "3Mi")] {
            assert_eq!(binary(bytes), expected);
        }
    }
}
