//! Keys in the order in which Go's structs have their fields, for scripts that look for text in a document.
//!
//! Source: the structs of `k8s.io/apimachinery/pkg/apis/meta/v1`, `k8s.io/api/apidiscovery/v2` and `k8s.io/apimachinery/pkg/version`.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

/// A document whose keys are written in order: those of [`DOCUMENT`] at the top, those of [`WITHIN`] below it.
pub struct Ordered<'a>(pub &'a Value);

const DOCUMENT: &[&str] = &[
    "kind",
    "apiVersion",
    "metadata",
    "groupVersion",
    "name",
    "versions",
    "preferredVersion",
    "serverAddressByClientCIDRs",
    // Of `/version`.
    "major",
    "minor",
    "emulationMajor",
    "emulationMinor",
    "minCompatibilityMajor",
    "minCompatibilityMinor",
    "gitVersion",
    "gitCommit",
    "gitTreeState",
    "buildDate",
    "goVersion",
    "compiler",
    "platform",
];

const WITHIN: &[&str] = &[
    "metadata",
    "name",
    "creationTimestamp",
    "clientCIDR",
    "serverAddress",
    "resource",
    "subresource",
    "responseKind",
    "scope",
    "singularResource",
    "singularName",
    "namespaced",
    "groupVersion",
    "group",
    "version",
    "kind",
    "verbs",
    "shortNames",
    "categories",
    "subresources",
    "storageVersionHash",
    "versions",
    "preferredVersion",
    "resources",
    "freshness",
];

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Keyed { value: self.0, order: DOCUMENT }.serialize(serializer)
    }
}

struct Keyed<'a> {
    value: &'a Value,
    order: &'static [&'static str],
}

impl Serialize for Keyed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.value {
            Value::Object(object) => members(object, self.order, serializer),
            Value::Array(items) => serializer.collect_seq(items.iter().map(|value| Keyed { value, order: WITHIN })),
            other => other.serialize(serializer),
        }
    }
}

/// Keys that no order names come last.
fn members<S: Serializer>(object: &Map<String, Value>, order: &[&str], serializer: S) -> Result<S::Ok, S::Error> {
    let mut out = serializer.serialize_map(Some(object.len()))?;
    let named = order.iter().filter_map(|key| object.get_key_value(*key));
    let others = object.iter().filter(|(key, _)| !order.contains(&key.as_str()));
    for (key, value) in named.chain(others) {
        out.serialize_entry(key, &Keyed { value, order: WITHIN })?;
    }
    out.end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(document: &Value, expected: &str) {
        assert_eq!(serde_json::to_string(&Ordered(document)).expect("JSON"), expected);
    }

    #[test]
    fn documents_read_as_go_writes_them() {
        check(
            &json!({"resources": [{"kind": "Pod", "name": "pods", "verbs": ["get"], "singularName": "pod", "namespaced": true}],
                "groupVersion": "v1", "kind": "APIResourceList"}),
            r#"{"kind":"APIResourceList","groupVersion":"v1","resources":[{"name":"pods","singularName":"pod","namespaced":true,"kind":"Pod","verbs":["get"]}]}"#,
        );
        check(
            &json!({"apiVersion": "v1", "kind": "APIGroup", "name": "apps",
                "preferredVersion": {"version": "v1", "groupVersion": "apps/v1"}, "versions": []}),
            r#"{"kind":"APIGroup","apiVersion":"v1","name":"apps","versions":[],"preferredVersion":{"groupVersion":"apps/v1","version":"v1"}}"#,
        );
        check(
            &json!({"items": [{"versions": [{"freshness": "Current", "version": "v1", "resources": []}], "metadata": {"name": "apps"}}]}),
            r#"{"items":[{"metadata":{"name":"apps"},"versions":[{"version":"v1","resources":[],"freshness":"Current"}]}]}"#,
        );
    }
}
