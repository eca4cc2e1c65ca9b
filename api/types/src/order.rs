//! Keys in the order in which Go's structs have their fields, for scripts that look for text in a document.
//!
//! What is read from an [`Order`] is by the name of the field that holds an object: fields of one name have one order here, whatever
//! struct they are of. Source: `k8s.io/apimachinery/pkg/apis/meta/v1`, `k8s.io/api/{admission,authentication,authorization}/v1`.
//! Absent on purpose: stored objects, which go out as they are kept.

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::{Map, Value};

/// The fields of the objects that a field holds (itself or in a list); `""` holds the document. What no line names is of [`ANY`].
pub type Order = &'static [(&'static str, &'static [&'static str])];

/// Holds what no other line of an order does.
pub const ANY: &str = "*";

/// What a server says that is no stored object: statuses, reviews, tokens, scales.
pub const ENVELOPES: Order = &[
    (
        "",
        &[
            "kind",
            "apiVersion",
            "metadata",
            "spec",
            "status",
            "message",
            "reason",
            "details",
            "code",
            "request",
            "response",
            "groupVersion",
            "resources",
            "items",
        ],
    ),
    (
        "metadata",
        &[
            "name",
            "generateName",
            "namespace",
            "selfLink",
            "uid",
            "resourceVersion",
            "generation",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "labels",
            "annotations",
            "ownerReferences",
            "finalizers",
            "managedFields",
            "continue",
            "remainingItemCount",
        ],
    ),
    // Of a Status.
    ("details", &["name", "group", "kind", "uid", "causes", "retryAfterSeconds"]),
    ("causes", &["reason", "message", "field"]),
    ("managedFields", &["manager", "operation", "apiVersion", "time", "fieldsType", "fieldsV1", "subresource"]),
    // Of reviews, tokens and scales.
    (
        "spec",
        &[
            "token",
            "audiences",
            "expirationSeconds",
            "boundObjectRef",
            "resourceAttributes",
            "nonResourceAttributes",
            "user",
            "groups",
            "group",
            "extra",
            "uid",
            "namespace",
            "replicas",
        ],
    ),
    (
        "status",
        &[
            "authenticated",
            "user",
            "userInfo",
            "audiences",
            "error",
            "token",
            "expirationTimestamp",
            "allowed",
            "denied",
            "reason",
            "resourceRules",
            "nonResourceRules",
            "incomplete",
            "evaluationError",
            "replicas",
            "selector",
        ],
    ),
    ("boundObjectRef", &["kind", "apiVersion", "name", "uid"]),
    ("user", &["username", "uid", "groups", "extra"]),
    ("userInfo", &["username", "uid", "groups", "extra"]),
    (
        "resourceAttributes",
        &["namespace", "verb", "group", "version", "resource", "subresource", "name", "fieldSelector", "labelSelector"],
    ),
    ("nonResourceAttributes", &["path", "verb"]),
    ("fieldSelector", &["rawSelector", "requirements"]),
    ("labelSelector", &["rawSelector", "requirements"]),
    ("requirements", &["key", "operator", "values"]),
    ("resourceRules", &["verbs", "apiGroups", "resources", "resourceNames"]),
    ("nonResourceRules", &["verbs", "nonResourceURLs"]),
    // Of questions about a write.
    (
        "request",
        &[
            "uid",
            "kind",
            "resource",
            "subResource",
            "requestKind",
            "requestResource",
            "requestSubResource",
            "name",
            "namespace",
            "operation",
            "userInfo",
            "object",
            "oldObject",
            "dryRun",
            "options",
        ],
    ),
    ("kind", &["group", "version", "kind"]),
    ("requestKind", &["group", "version", "kind"]),
    ("resource", &["group", "version", "resource"]),
    ("requestResource", &["group", "version", "resource"]),
    ("options", &["kind", "apiVersion"]),
    // Of `metrics.k8s.io`.
    ("resources", &["name", "singularName", "namespaced", "kind", "verbs"]),
    ("items", &["kind", "apiVersion", "metadata", "timestamp", "window", "usage", "containers"]),
    ("containers", &["name", "usage"]),
    ("columnDefinitions", &["name", "type", "format", "description", "priority"]),
    ("rows", &["cells", "conditions", "object"]),
];

/// A document whose keys are written in an order.
#[derive(Clone, Copy)]
pub struct Ordered<'a> {
    value: &'a Value,
    order: Order,
    /// Which field holds it.
    held_by: &'a str,
}

impl<'a> Ordered<'a> {
    pub fn new(value: &'a Value, order: Order) -> Self {
        Self { value, order, held_by: "" }
    }

    /// A part of a document, as the field of that name has it.
    pub fn part(value: &'a Value, order: Order, held_by: &'a str) -> Self {
        Self { value, order, held_by }
    }

    pub fn to_json(self) -> String {
        serde_json::to_string(&self).expect("a document serialises to JSON")
    }

    /// The members of an object in order, those that are not named last; none of anything else.
    pub fn members(self) -> impl Iterator<Item = (&'a str, Ordered<'a>)> {
        let find = |holder: &str| self.order.iter().find(|(name, _)| *name == holder).map(|(_, keys)| *keys);
        let keys = find(self.held_by).or_else(|| find(ANY)).unwrap_or_default();
        let object: Option<&'a Map<String, Value>> = self.value.as_object();
        let named = keys.iter().filter_map(move |key| object?.get_key_value(*key));
        let others = object.into_iter().flatten().filter(move |(key, _)| !keys.contains(&key.as_str()));
        let order = self.order;
        named.chain(others).map(move |(key, value)| (key.as_str(), Ordered { value, order, held_by: key }))
    }
}

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.value {
            Value::Object(object) => {
                let mut out = serializer.serialize_map(Some(object.len()))?;
                for (key, value) in self.members() {
                    out.serialize_entry(key, &value)?;
                }
                out.end()
            }
            Value::Array(items) => serializer.collect_seq(items.iter().map(|value| Self { value, ..*self })),
            other => other.serialize(serializer),
        }
    }
}

/// A server's document as JSON.
pub fn envelope(document: &impl Serialize) -> Vec<u8> {
    // What is said here is made of structs and maps with string keys only.
    let value = serde_json::to_value(document).expect("a reply serialises to JSON");
    serde_json::to_vec(&Ordered::new(&value, ENVELOPES)).expect("a document serialises to JSON")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{ApiError, Gvk, field};

    fn check(document: &impl Serialize, expected: &str) {
        assert_eq!(String::from_utf8(envelope(document)).expect("text"), expected);
    }

    #[test]
    fn a_status_reads_as_go_writes_it() {
        let gvk = Gvk { group: "apps".into(), version: "v1".into(), kind: "Deployment".into() };
        let error = field::Error::required(&field::Path::new("spec"), "needed");
        check(
            &ApiError::invalid(&gvk, "web", &[error]).status(),
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Deployment.apps \"web\" is invalid: spec: Required value: needed","reason":"Invalid","details":{"name":"web","group":"apps","kind":"Deployment","causes":[{"reason":"FieldValueRequired","message":"Required value: needed","field":"spec"}]},"code":422}"#,
        );
    }

    #[test]
    fn a_review_reads_as_go_writes_it() {
        check(
            &json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {"creationTimestamp": null},
                "status": {"reason": "r", "allowed": true},
                "spec": {"user": "u", "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "n"}, "extra": {"b": ["x"], "a": ["y"]}}}),
            r#"{"kind":"SubjectAccessReview","apiVersion":"authorization.k8s.io/v1","metadata":{"creationTimestamp":null},"spec":{"resourceAttributes":{"namespace":"n","verb":"get","resource":"pods"},"user":"u","extra":{"a":["y"],"b":["x"]}},"status":{"allowed":true,"reason":"r"}}"#,
        );
    }
}
