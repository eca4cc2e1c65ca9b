//! A custom resource's schema in OpenAPI documents.
//!
//! Source: `apiextensions-apiserver/pkg/controller/openapi/{builder,v2}`.

use serde_json::{Map, Value, json};
use wharf_types::Gvk;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

/// `com.example.stable.v1.CronTab`
pub fn name(gvk: &Gvk) -> String {
    let mut parts: Vec<&str> = gvk.group.split('.').rev().collect();
    parts.extend([gvk.version.as_ref(), gvk.kind.as_ref()]);
    parts.join(".")
}

/// The schema with what every object has, and the kind that it is of.
pub fn definition(gvk: &Gvk, schema: &Value, v2: bool) -> Value {
    let mut schema = schema.clone();
    if v2 {
        downgrade(&mut schema);
    }
    let Value::Object(fields) = &mut schema else { return definition(gvk, &json!({"type": "object"}), v2) };
    fields.insert("type".to_owned(), "object".into());
    let bare = fields.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    let properties = fields.entry("properties").or_insert_with(|| Value::Object(Map::new()));
    if let (Value::Object(properties), false) = (properties, bare && v2) {
        properties.insert("apiVersion".to_owned(), json!({"type": "string", "description": API_VERSION}));
        properties.insert("kind".to_owned(), json!({"type": "string", "description": KIND}));
        properties.insert(
            "metadata".to_owned(),
            json!({
                "$ref": format!("#/definitions/{META}"),
                "description": "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
            }),
        );
    }
    let of = json!([{"group": gvk.group, "version": gvk.version, "kind": gvk.kind}]);
    fields.insert("x-kubernetes-group-version-kind".to_owned(), of);
    schema
}

/// Takes out what version 2 of OpenAPI has no words for.
fn downgrade(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    for name in ["default", "oneOf", "anyOf", "not", "allOf"] {
        fields.remove(name);
    }
    let is = |fields: &Map<String, Value>, name: &str| fields.get(name) == Some(&Value::Bool(true));
    if is(fields, "nullable") {
        // A client would refuse null for any type: no type, no refusal.
        for name in ["type", "properties", "items", "additionalProperties", "nullable"] {
            fields.remove(name);
        }
    }
    if is(fields, "x-kubernetes-preserve-unknown-fields") {
        for name in ["properties", "items"] {
            fields.remove(name);
        }
    }
    for name in ["items", "additionalProperties"] {
        if let Some(inner) = fields.get_mut(name) {
            downgrade(inner);
        }
    }
    if let Some(Value::Object(properties)) = fields.get_mut("properties") {
        properties.values_mut().for_each(downgrade);
    }
}
