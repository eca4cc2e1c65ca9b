//! One metric in an annotation of v1, whose structs are flatter.

use serde_json::{Map, Value, json};
use wharf_types::k8s::api::autoscaling::v2;

use super::convert::shaped;

/// Where a metric says what is measured.
const SOURCES: &[&str] = &["object", "pods", "resource", "containerResource", "external"];

/// A metric as v1 names its fields, without structs below the source; `side` is `target` or `current`.
pub fn older(metric: &Value, side: &str) -> Value {
    let mut out = json!({"type": metric["type"]});
    let Some(field) = SOURCES.iter().find(|field| metric[**field].is_object()) else { return out };
    let (source, values) = (&metric[*field], &metric[*field][side]);
    let mut flat = Map::new();
    let mut put = |name: String, value: &Value| {
        if !value.is_null() {
            flat.insert(name, value.clone());
        }
    };
    put("name".to_owned(), &source["name"]);
    put("container".to_owned(), &source["container"]);
    put("target".to_owned(), &source["describedObject"]);
    put("metricName".to_owned(), &source["metric"]["name"]);
    let selector = if *field == "external" { "metricSelector" } else { "selector" };
    put(selector.to_owned(), &source["metric"]["selector"]);
    put(format!("{side}Value"), &values["value"]);
    let average = if *field == "object" { "averageValue".to_owned() } else { format!("{side}AverageValue") };
    put(average, &values["averageValue"]);
    put(format!("{side}AverageUtilization"), &values["averageUtilization"]);
    out[*field] = flat.into();
    out
}

/// A metric to keep to, as v2 has it; none of another shape.
pub fn spec(metric: &Value) -> Option<Value> {
    let metric = nested(metric, "target")?;
    shaped::<v2::MetricSpec>(&metric).then_some(metric)
}

/// A metric as it was measured.
pub fn status(metric: &Value) -> Option<Value> {
    let metric = nested(metric, "current")?;
    shaped::<v2::MetricStatus>(&metric).then_some(metric)
}

/// The way back.
fn nested(metric: &Value, side: &str) -> Option<Value> {
    let field = SOURCES.iter().find(|field| metric[**field].is_object())?;
    let source = &metric[*field];
    let mut values = Map::new();
    let average = if *field == "object" { "averageValue".to_owned() } else { format!("{side}AverageValue") };
    for (name, from) in [
        ("value", format!("{side}Value")),
        ("averageValue", average),
        ("averageUtilization", format!("{side}AverageUtilization")),
    ] {
        if !source[&from].is_null() {
            values.insert(name.to_owned(), source[&from].clone());
        }
    }
    if side == "target" {
        let kind = match () {
            () if values.contains_key("averageUtilization") => "Utilization",
            () if values.contains_key("averageValue") => "AverageValue",
            () => "Value",
        };
        // An object's plain value is always there in v1, also where only the average counts.
        if kind == "AverageValue" && values.get("value").is_some_and(|value| value == "0") {
            values.remove("value");
        }
        values.insert("type".to_owned(), kind.into());
    }
    let mut out = json!({side: values});
    let mut put = |name: &str, value: &Value| {
        if !value.is_null() {
            out[name] = value.clone();
        }
    };
    put("name", &source["name"]);
    put("container", &source["container"]);
    put("describedObject", &source["target"]);
    if !source["metricName"].is_null() {
        let mut identifier = json!({"name": source["metricName"]});
        let selector = if *field == "external" { "metricSelector" } else { "selector" };
        if source[selector].is_object() {
            identifier["selector"] = source[selector].clone();
        }
        out["metric"] = identifier;
    }
    Some(json!({"type": metric["type"], *field: out}))
}
