//! Metrics that other servers have: of pods and objects by `custom.metrics.k8s.io`, of what is outside by
//! `external.metrics.k8s.io`. Values are thousandths; errors are in upstream's words.
//!
//! Source: `k8s.io/metrics/pkg/client` and `k8s.io/kubernetes/pkg/controller/podautoscaler/metrics/client.go`.

use std::fmt::Write as _;

use jiff::SignedDuration;
use kube::Client;
use serde_json::Value;
use wharf_machinery::quantity::Quantity;
use wharf_machinery::selector::LabelSelector;
use wharf_types::k8s::api::autoscaling::v2::{CrossVersionObjectReference, MetricIdentifier};

use super::measure::{Sample, Samples};
use super::target::{Targets, get};
use crate::call::{is_not_found, message};

const CUSTOM: &str = "/apis/custom.metrics.k8s.io";
const EXTERNAL: &str = "/apis/external.metrics.k8s.io/v1beta1";
/// Of the first group, the newest first.
const VERSIONS: [&str; 2] = ["v1beta2", "v1beta1"];
/// Where a value does not say over how long it was measured.
const WINDOW: SignedDuration = SignedDuration::from_mins(1);

/// What each of the selected pods has.
pub async fn of_pods(
    client: &Client,
    namespace: &str,
    selector: &str,
    metric: &MetricIdentifier,
) -> Result<Samples, String> {
    let unable = |why: String| format!("unable to get metric {}: {why}", metric.name);
    let query = query(&[("labelSelector", selector), ("metricLabelSelector", &of_metric(metric))]);
    let path = format!("namespaces/{}/pods/*/{}", segment(namespace), segment(&metric.name));
    let items = custom(client, &path, &query).await.map_err(unable)?;
    if items.is_empty() {
        return Err(unable("no metrics returned from custom metrics API".to_owned()));
    }
    Ok(items.iter().filter_map(sample).collect())
}

/// What an object has.
pub async fn of_object(
    client: &Client,
    targets: &Targets,
    namespace: &str,
    object: &CrossVersionObjectReference,
    metric: &MetricIdentifier,
) -> Result<i64, String> {
    let place = format!("{} {namespace}/{}", object.kind, object.name);
    let unable = |why: String| format!("unable to get metric {}: {why} on {place}", metric.name);
    let (space, name) = (segment(namespace), segment(&metric.name));
    let version = object.api_version.as_deref().unwrap_or("v1");
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let path = if group.is_empty() && object.kind == "Namespace" {
        // Its own namespace, whichever is named: nobody gets out of it by this.
        format!("namespaces/{space}/metrics/{name}")
    } else {
        let plural = targets.plural(version, &object.kind).await.map_err(fetched).map_err(unable)?;
        let resource = if group.is_empty() { plural } else { format!("{plural}.{group}") };
        format!("namespaces/{space}/{resource}/{}/{name}", segment(&object.name))
    };
    let query = query(&[("metricLabelSelector", &of_metric(metric))]);
    let items = custom(client, &path, &query).await.map_err(unable)?;
    let [item] = &items[..] else {
        let count = items.len();
        let why = format!("the custom metrics API server returned {count} results when we asked for exactly one");
        return Err(unable(fetched(why)));
    };
    value(item).ok_or_else(|| unable(fetched("a value that is not a quantity".to_owned())))
}

/// All values of a metric of something outside, together.
pub async fn external(client: &Client, namespace: &str, metric: &MetricIdentifier) -> Result<i64, String> {
    let selector = shown(metric);
    let unable = |why: String| format!("unable to get external metric {namespace}/{}/{selector}: {why}", metric.name);
    let query = query(&[("labelSelector", &of_metric(metric))]);
    let path = format!("{EXTERNAL}/namespaces/{}/{}{query}", segment(namespace), segment(&metric.name));
    let listed: Value = get(client, &path).await.map_err(|error| {
        let why = if is_not_found(&error) {
            format!("the server could not find the requested resource (get {}.external.metrics.k8s.io)", metric.name)
        } else {
            message(&error)
        };
        unable(format!("unable to fetch metrics from external metrics API: {why}"))
    })?;
    let items = listed["items"].as_array().map_or(&[][..], Vec::as_slice);
    if items.is_empty() {
        return Err(unable("no metrics returned from external metrics API".to_owned()));
    }
    Ok(items.iter().filter_map(value).fold(0, i64::saturating_add))
}

async fn custom(client: &Client, path: &str, query: &str) -> Result<Vec<Value>, String> {
    let version = version(client).await.map_err(fetched)?;
    let mut listed: Value =
        get(client, &format!("{CUSTOM}/{version}/{path}{query}")).await.map_err(|error| fetched(message(&error)))?;
    Ok(listed.get_mut("items").and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default())
}

fn fetched(why: String) -> String {
    format!("unable to fetch metrics from custom metrics API: {why}")
}

/// The version that the server prefers, of those that are known here.
async fn version(client: &Client) -> Result<&'static str, String> {
    let group: Value = get(client, CUSTOM).await.map_err(|error| {
        if is_not_found(&error) {
            "no custom metrics API (custom.metrics.k8s.io) registered".to_owned()
        } else {
            message(&error)
        }
    })?;
    let served = group["versions"].as_array().into_iter().flatten().map(|served| &served["version"]);
    let mut offered = std::iter::once(&group["preferredVersion"]["version"]).chain(served);
    let known = offered.find_map(|offered| VERSIONS.into_iter().find(|known| offered == known));
    known.ok_or_else(|| "no known available metric versions found".to_owned())
}

fn sample(item: &Value) -> Option<(String, Sample)> {
    let window = item["windowSeconds"].as_i64().or(item["window"].as_i64());
    let sample = Sample {
        value: value(item)?,
        at: item["timestamp"].as_str()?.parse().ok()?,
        window: window.map_or(WINDOW, SignedDuration::from_secs),
    };
    Some((item["describedObject"]["name"].as_str()?.to_owned(), sample))
}

fn value(item: &Value) -> Option<i64> {
    item["value"].as_str()?.parse::<Quantity>().ok().map(|quantity| quantity.milli_value())
}

fn of_metric(metric: &MetricIdentifier) -> String {
    metric.selector.as_ref().map(|selector| LabelSelector::from_meta(selector).to_string()).unwrap_or_default()
}

/// As Go prints a pointer to a selector.
pub fn shown(metric: &MetricIdentifier) -> String {
    let Some(selector) = &metric.selector else { return "nil".to_owned() };
    let mut labels = String::new();
    for (key, value) in selector.match_labels.iter().flatten() {
        let _ = write!(labels, "{key}: {value},");
    }
    let mut expressions = String::new();
    for it in selector.match_expressions.iter().flatten() {
        let values = it.values.as_deref().unwrap_or_default().join(" ");
        let _ = write!(
            expressions,
            "LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},",
            it.key, it.operator
        );
    }
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

/// A query of those that say something, with its mark.
fn query(pairs: &[(&str, &str)]) -> String {
    let said = pairs.iter().filter(|(_, value)| !value.is_empty());
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(said).finish();
    if query.is_empty() { query } else { format!("?{query}") }
}

/// A part of a path, with what could be taken for anything else written out.
fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response, StatusCode};
    use kube::client::Body;
    use serde_json::json;
    use wharf_client::transport;

    use super::*;

    /// A client of a server that has these answers, by path and query.
    fn client(answers: &'static [(&'static str, &'static str)]) -> Client {
        transport::from_service(tower::service_fn(move |request: Request<Body>| {
            let asked = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
            let found = answers.iter().find(|(path, _)| *path == asked);
            let missing = json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound",
                "message": format!("nothing at {asked}")});
            let body = found.map_or(missing.to_string(), |(_, body)| (*body).to_owned());
            let mut response = Response::new(http_body_util::Full::new(bytes::Bytes::from(body)));
            *response.status_mut() = if found.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
            std::future::ready(Ok::<_, Infallible>(response))
        }))
    }

    fn metric(selector: Value) -> MetricIdentifier {
        serde_json::from_value(json!({"name": "hits", "selector": selector})).expect("a metric")
    }

    const GROUP: (&str, &str) = (
        CUSTOM,
        r#"{"versions": [{"version": "v1beta2"}, {"version": "v1beta1"}], "preferredVersion": {"version": "v1beta1"}}"#,
    );

    #[tokio::test]
    async fn pods_are_asked_for_together_in_the_preferred_version() {
        let client = client(&[
            GROUP,
            (
                "/apis/custom.metrics.k8s.io/v1beta1/namespaces/shop/pods/*/hits?labelSelector=app%3Dweb&metricLabelSelector=verb%3DGET",
                r#"{"items": [{"describedObject": {"name": "a"}, "timestamp": "2026-01-01T00:00:00Z", "window": 30, "value": "1500m"},
                    {"describedObject": {"name": "b"}, "timestamp": "2026-01-01T00:00:00Z", "value": "2"}]}"#,
            ),
        ]);
        let metric = metric(json!({"matchLabels": {"verb": "GET"}}));
        let samples = of_pods(&client, "shop", "app=web", &metric).await.expect("metrics");
        let shown: Vec<_> = samples.iter().map(|(name, it)| (name.as_str(), it.value, it.window.as_secs())).collect();
        assert_eq!(shown, [("a", 1500, 30), ("b", 2000, 60)]);
    }

    #[tokio::test]
    async fn an_object_is_asked_for_by_its_resource_and_group() {
        let client = client(&[
            GROUP,
            ("/apis/networking.k8s.io/v1", r#"{"resources": [{"name": "ingresses", "kind": "Ingress"}]}"#),
            (
                "/apis/custom.metrics.k8s.io/v1beta1/namespaces/shop/ingresses.networking.k8s.io/main/hits",
                r#"{"items": [{"value": "2k"}]}"#,
            ),
            ("/apis/custom.metrics.k8s.io/v1beta1/namespaces/shop/metrics/hits", r#"{"items": []}"#),
        ]);
        let targets = Targets::new(client.clone());
        let object = |version: &str, kind: &str| CrossVersionObjectReference {
            api_version: Some(version.to_owned()),
            kind: kind.to_owned(),
            name: "main".to_owned(),
        };
        let metric = metric(Value::Null);
        let ingress = object("networking.k8s.io/v1", "Ingress");
        assert_eq!(of_object(&client, &targets, "shop", &ingress, &metric).await, Ok(2_000_000));
        let namespace = of_object(&client, &targets, "shop", &object("v1", "Namespace"), &metric).await;
        let why = "unable to get metric hits: unable to fetch metrics from custom metrics API: the custom metrics API server returned 0 results when we asked for exactly one on Namespace shop/main";
        assert_eq!(namespace, Err(why.to_owned()));
    }

    #[tokio::test]
    async fn values_from_outside_are_summed() {
        let client = client(&[(
            "/apis/external.metrics.k8s.io/v1beta1/namespaces/shop/hits?labelSelector=queue%3Dmail",
            r#"{"items": [{"value": "3"}, {"value": "500m"}]}"#,
        )]);
        let mail = metric(json!({"matchLabels": {"queue": "mail"}}));
        assert_eq!(external(&client, "shop", &mail).await, Ok(3500));
        let why = "unable to get external metric shop/hits/nil: unable to fetch metrics from external metrics API: the server could not find the requested resource (get hits.external.metrics.k8s.io)";
        assert_eq!(external(&client, "shop", &metric(Value::Null)).await, Err(why.to_owned()));
    }

    #[tokio::test]
    async fn a_cluster_without_such_metrics_says_so() {
        let none = of_pods(&client(&[]), "shop", "app=web", &metric(Value::Null)).await;
        let why = "unable to get metric hits: unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered";
        assert_eq!(none, Err(why.to_owned()));
    }

    #[test]
    fn selectors_are_shown_as_go_prints_them() {
        let metric = metric(
            json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "In", "values": ["d", "e"]}]}),
        );
        let expected = "&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:c,Operator:In,Values:[d e],},},}";
        assert_eq!(shown(&metric), expected);
    }
}
