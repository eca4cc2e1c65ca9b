//! Keys in the order in which Go's structs have their fields, for scripts that look for text in a document.
//!
//! Source: the structs of `k8s.io/apimachinery/pkg/apis/meta/v1`, `k8s.io/api/apidiscovery/v2` and `k8s.io/apimachinery/pkg/version`.

use serde::ser::{Serialize, Serializer};
use serde_json::Value;
use wharf_types::order::{self, ANY, Order};

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

/// How discovery and `/version` are written.
const DISCOVERY: Order = &[("", DOCUMENT), (ANY, WITHIN)];

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        order::Ordered::new(self.0, DISCOVERY).serialize(serializer)
    }
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
