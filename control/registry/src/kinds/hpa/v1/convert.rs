//! The same autoscaler as v1 and as v2 have it.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use wharf_types::k8s::api::autoscaling::v2;

use super::super::CPU_UTILIZATION;
use super::metric;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// An object as v1 shows it.
pub fn to_v1(object: &mut Value) {
    let metrics = list(take(object, "spec", "metrics"));
    if let Some(share) = metrics.iter().find(|metric| is_cpu(metric)).map(|metric| share_of(metric, "target"))
        && !share.is_null()
    {
        object["spec"]["targetCPUUtilizationPercentage"] = share;
    }
    let others: Vec<Value> = metrics
        .iter()
        .filter(|metric| !is_cpu(metric) || share_of(metric, "target").is_null())
        .map(|metric| metric::older(metric, "target"))
        .collect();
    annotate(object, METRICS, (!others.is_empty()).then(|| others.into()));

    let current = list(take(object, "status", "currentMetrics"));
    let mut shares = current.iter().filter(|metric| is_cpu(metric)).map(|metric| share_of(metric, "current"));
    if let Some(share) = shares.rfind(|share| !share.is_null()) {
        object["status"]["currentCPUUtilizationPercentage"] = share;
    }
    let current: Vec<Value> = current.iter().map(|metric| metric::older(metric, "current")).collect();
    annotate(object, CURRENT_METRICS, (!current.is_empty()).then(|| current.into()));

    // A number that v1 always has, and v2 when it is not zero.
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        status.entry("currentReplicas").or_insert_with(|| 0.into());
    }
    let conditions = list(take(object, "status", "conditions"));
    annotate(object, CONDITIONS, (!conditions.is_empty()).then(|| conditions.into()));

    let behavior = take(object, "spec", "behavior");
    annotate(object, BEHAVIOR, (!behavior.is_null()).then(|| recased(&behavior, upper)));
}

/// An object as it is stored.
pub fn to_v2(object: &mut Value) {
    let share = take(object, "spec", "targetCPUUtilizationPercentage");
    let mut metrics: Vec<Value> = list(annotation(object, METRICS)).iter().filter_map(metric::spec).collect();
    if !share.is_null() {
        metrics.push(cpu("target", json!({"type": "Utilization", "averageUtilization": share})));
    } else if metrics.is_empty() {
        metrics.push(cpu("target", json!({"type": "Utilization", "averageUtilization": CPU_UTILIZATION})));
    }
    object["spec"]["metrics"] = metrics.into();

    if object.pointer("/status/currentReplicas").is_some_and(|count| *count == 0) {
        take(object, "status", "currentReplicas");
    }
    let share = take(object, "status", "currentCPUUtilizationPercentage");
    // What the annotation says is said in full.
    let current: Vec<Value> = list(annotation(object, CURRENT_METRICS)).iter().filter_map(metric::status).collect();
    if !current.is_empty() {
        object["status"]["currentMetrics"] = current.into();
    } else if !share.is_null() {
        object["status"]["currentMetrics"] = json!([cpu("current", json!({"averageUtilization": share}))]);
    }
    let conditions = list(annotation(object, CONDITIONS));
    let conditions: Vec<Value> =
        conditions.into_iter().filter(shaped::<v2::HorizontalPodAutoscalerCondition>).collect();
    if !conditions.is_empty() {
        object["status"]["conditions"] = conditions.into();
    }
    let behavior = recased(&annotation(object, BEHAVIOR), lower);
    if behavior.is_object() && shaped::<v2::HorizontalPodAutoscalerBehavior>(&behavior) {
        object["spec"]["behavior"] = behavior;
    }
}

fn cpu(field: &str, value: Value) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", field: value}})
}

fn is_cpu(metric: &Value) -> bool {
    metric["type"] == "Resource" && metric["resource"]["name"] == "cpu"
}

fn share_of(metric: &Value, field: &str) -> Value {
    metric["resource"][field]["averageUtilization"].clone()
}

fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}

/// Takes a field away; null where it is not there.
fn take(object: &mut Value, parent: &str, field: &str) -> Value {
    let fields = object.get_mut(parent).and_then(Value::as_object_mut);
    fields.and_then(|fields| fields.remove(field)).unwrap_or_default()
}

fn annotate(object: &mut Value, key: &str, value: Option<Value>) {
    match value {
        Some(value) => object["metadata"]["annotations"][key] = value.to_string().into(),
        // One that the user wrote would be taken for ours.
        None => drop(annotation(object, key)),
    }
}

/// Takes an annotation and reads it; null where there is none, or no JSON in it.
fn annotation(object: &mut Value, key: &str) -> Value {
    let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return Value::Null };
    let Some(annotations) = meta.get_mut("annotations").and_then(Value::as_object_mut) else { return Value::Null };
    let text = annotations.remove(key);
    if annotations.is_empty() {
        meta.remove("annotations");
    }
    text.and_then(|text| serde_json::from_str(text.as_str()?).ok()).unwrap_or_default()
}

pub(super) fn shaped<T: DeserializeOwned>(value: &Value) -> bool {
    T::deserialize(value).is_ok()
}

/// Upstream keeps the behavior as Go writes a struct without names for JSON, and reads it in any case.
fn recased(value: &Value, case: fn(&str) -> String) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (case(name), recased(value, case)))
            .collect(),
        Value::Array(items) => items.iter().map(|item| recased(item, case)).collect(),
        value => value.clone(),
    }
}

fn upper(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn lower(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_else_goes_through_annotations_and_back() {
        let newer: Value = serde_yaml::from_str(
            "
            metadata: {name: web, annotations: {mine: x}}
            spec:
              maxReplicas: 5
              minReplicas: 1
              scaleTargetRef: {kind: Deployment, name: web}
              metrics:
              - {type: Object, object: {describedObject: {kind: K, name: n}, metric: {name: q}, target: {type: Value, value: '5'}}}
              - {type: External, external: {metric: {name: q, selector: {matchLabels: {a: b}}}, target: {type: AverageValue, averageValue: '7'}}}
              - {type: Pods, pods: {metric: {name: q}, target: {type: AverageValue, averageValue: '7'}}}
              - {type: ContainerResource, containerResource: {name: cpu, container: c, target: {type: Utilization, averageUtilization: 60}}}
              - {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}
              behavior: {scaleDown: {selectPolicy: Max, policies: [{type: Pods, value: 1, periodSeconds: 15}]}}
            status:
              desiredReplicas: 2
              conditions: [{type: AbleToScale, status: 'True'}]
              currentMetrics:
              - {type: Resource, resource: {name: cpu, current: {averageUtilization: 40, averageValue: 10m}}}
            ",
        )
        .unwrap();
        let mut older = newer.clone();
        to_v1(&mut older);
        assert_eq!(older["spec"]["targetCPUUtilizationPercentage"], 50);
        assert_eq!(
            older["status"],
            json!({"currentReplicas": 0, "desiredReplicas": 2, "currentCPUUtilizationPercentage": 40})
        );
        let annotations = &older["metadata"]["annotations"];
        assert_eq!(
            annotations[BEHAVIOR],
            r#"{"ScaleDown":{"Policies":[{"PeriodSeconds":15,"Type":"Pods","Value":1}],"SelectPolicy":"Max"}}"#
        );
        let metrics: Value = serde_json::from_str(annotations[METRICS].as_str().unwrap()).unwrap();
        assert_eq!(
            metrics[0],
            json!({"type": "Object", "object": {"target": {"kind": "K", "name": "n"}, "metricName": "q", "targetValue": "5"}})
        );
        assert_eq!(
            metrics[1],
            json!({"type": "External", "external": {"metricName": "q", "metricSelector": {"matchLabels": {"a": "b"}}, "targetAverageValue": "7"}})
        );
        to_v2(&mut older);
        assert_eq!(older, newer);
    }
}
