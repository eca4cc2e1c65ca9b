//! A custom resource's schema in OpenAPI documents.
//!
//! Source: `apiextensions-apiserver/pkg/controller/openapi/{builder,v2}`.

use serde_json::{Map, Value, json};
use wharf_types::Gvk;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

const EMBEDDED_API_VERSION: &str = "apiVersion defines the versioned schema of this representation of an object. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const EMBEDDED_KIND: &str = "kind is a string value representing the type of this object. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

/// `com.example.stable.v1.CronTab`
pub fn name(gvk: &Gvk) -> String {
    let mut parts: Vec<&str> = gvk.group.split('.').rev().collect();
    parts.extend([gvk.version.as_ref(), gvk.kind.as_ref()]);
    parts.join(".")
}

/// What of a version counts for its schema beside the schema itself.
pub struct Traits<'a> {
    /// Nothing is pruned: who reads version 2 must not take any field for unknown.
    pub preserve: bool,
    /// Selectable fields as selectors name them.
    pub selectable: &'a [&'a str],
}

/// The schema with what every object has, and the kind that it is of.
pub fn definition(gvk: &Gvk, schema: &Value, traits: &Traits<'_>, v2: bool) -> Value {
    let mut fields = match schema {
        Value::Object(fields) if !(v2 && (traits.preserve || is(fields, PRESERVE))) => published(fields.clone(), v2),
        // A client would refuse what no property names.
        _ => Map::from_iter([("type".to_owned(), "object".into())]),
    };
    let of = json!([{"group": gvk.group, "version": gvk.version, "kind": gvk.kind}]);
    fields.insert("x-kubernetes-group-version-kind".to_owned(), of);
    if !traits.selectable.is_empty() {
        let named: Vec<Value> = traits.selectable.iter().map(|field| json!({"fieldPath": field})).collect();
        fields.insert("x-kubernetes-selectable-fields".to_owned(), named.into());
    }
    Value::Object(fields)
}

fn published(fields: Map<String, Value>, v2: bool) -> Map<String, Value> {
    let mut schema = Value::Object(fields);
    if v2 {
        downgrade(&mut schema);
    } else {
        each(&mut schema, &mut unfold);
    }
    let mut fields = match schema {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    fields.insert("type".to_owned(), "object".into());
    let properties = fields.entry("properties").or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(properties) = properties {
        properties.insert("apiVersion".to_owned(), json!({"type": "string", "description": API_VERSION}));
        properties.insert("kind".to_owned(), json!({"type": "string", "description": KIND}));
        properties.insert("metadata".to_owned(), metadata());
    }
    let mut schema = Value::Object(fields);
    each(&mut schema, &mut |fields| embed(fields, v2));
    match schema {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn metadata() -> Value {
    json!({
        "$ref": format!("#/definitions/{META}"),
        "description": "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
    })
}

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";

fn is(fields: &Map<String, Value>, name: &str) -> bool {
    fields.get(name) == Some(&Value::Bool(true))
}

/// Calls `edit` with a schema and then with every schema inside of it.
fn each(schema: &mut Value, edit: &mut impl FnMut(&mut Map<String, Value>)) {
    let Value::Object(fields) = schema else { return };
    edit(fields);
    for name in ["items", "additionalProperties"] {
        if let Some(inner) = fields.get_mut(name) {
            each(inner, edit);
        }
    }
    if let Some(Value::Object(properties)) = fields.get_mut("properties") {
        properties.values_mut().for_each(|property| each(property, edit));
    }
}

/// Says of what may be a number or a text that it is one of these, if the schema does not.
fn unfold(fields: &mut Map<String, Value>) {
    let either = json!([{"type": "integer"}, {"type": "string"}]);
    let says = |of: Option<&Value>| of == Some(&either);
    let first = fields.get("allOf").and_then(|all| all.get(0));
    if !is(fields, "x-kubernetes-int-or-string")
        || says(fields.get("anyOf"))
        || says(first.and_then(|first| first.get("anyOf")))
    {
        return;
    }
    if !fields.contains_key("anyOf") {
        fields.insert("anyOf".to_owned(), either);
        return;
    }
    let all = fields.entry("allOf").or_insert_with(|| json!([]));
    if let Value::Array(all) = all {
        all.insert(0, json!({"anyOf": either}));
    }
}

/// Gives objects inside of an object what every object has.
fn embed(fields: &mut Map<String, Value>, v2: bool) {
    if !is(fields, "x-kubernetes-embedded-resource") || (v2 && is(fields, PRESERVE)) {
        return;
    }
    if let Value::Object(properties) = fields.entry("properties").or_insert_with(|| Value::Object(Map::new())) {
        properties.insert("apiVersion".to_owned(), json!({"type": "string", "description": EMBEDDED_API_VERSION}));
        properties.insert("kind".to_owned(), json!({"type": "string", "description": EMBEDDED_KIND}));
        properties.insert("metadata".to_owned(), metadata());
    }
    if let Value::Array(required) = fields.entry("required").or_insert_with(|| json!([])) {
        for name in ["kind", "apiVersion"] {
            if !required.iter().any(|held| held == name) {
                required.push(name.into());
            }
        }
    }
}

/// Takes out what version 2 of OpenAPI has no words for, and what kubectl would take for a refusal.
fn downgrade(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    for name in ["oneOf", "anyOf", "not", "allOf"] {
        fields.remove(name);
    }
    let takes_null =
        |schema: Option<&Value>| schema.and_then(Value::as_object).is_some_and(|fields| is(fields, "nullable"));
    let nullable: Vec<String> = match fields.get("properties") {
        Some(Value::Object(properties)) => {
            properties.keys().filter(|name| takes_null(properties.get(*name))).cloned().collect()
        }
        _ => Vec::new(),
    };
    if let Some(Value::Array(required)) = fields.get_mut("required") {
        required.retain(|name| !nullable.iter().any(|held| name == held));
    }
    if takes_null(fields.get("additionalProperties")) || fields.get("required") == Some(&json!([])) {
        fields.remove("required");
    }
    if is(fields, "nullable") {
        // A client would refuse null for any type: no type, no refusal.
        for name in ["type", "properties", "items", "nullable"] {
            fields.remove(name);
        }
    }
    if is(fields, PRESERVE) {
        for name in ["properties", "items"] {
            fields.remove(name);
        }
        if fields.get("type").is_some_and(|kind| kind == "object") {
            fields.remove("type");
        }
    }
    if fields.get("type").is_some_and(|kind| kind == "array") && !fields.contains_key("items") {
        fields.remove("type");
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

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(schema: Value, preserve: bool, v2: bool) -> Value {
        let gvk = Gvk { group: "a.b".into(), version: "v1".into(), kind: "A".into() };
        definition(&gvk, &schema, &Traits { preserve, selectable: &["spec.x"] }, v2)
    }

    #[test]
    fn version_2_says_nothing_of_what_is_not_pruned() {
        let kind = json!([{"group": "a.b", "version": "v1", "kind": "A"}]);
        let bare = json!({
            "type": "object",
            "x-kubernetes-group-version-kind": kind,
            "x-kubernetes-selectable-fields": [{"fieldPath": "spec.x"}],
        });
        let open =
            json!({"type": "object", "description": "d", PRESERVE: true, "properties": {"spec": {"type": "object"}}});
        assert_eq!(publish(open.clone(), false, true), bare);
        assert_eq!(publish(Value::Null, false, true), bare);
        assert_eq!(publish(json!({"type": "object"}), true, true), bare);
        let three = publish(open, false, false);
        assert_eq!(three["description"], "d");
        assert_eq!(three["properties"]["spec"], json!({"type": "object"}));
        assert!(three["properties"]["metadata"].is_object());
    }

    #[test]
    fn version_2_refuses_nothing_that_kubectl_would_misread() {
        let schema = json!({"type": "object", "properties": {"spec": {
            "type": "object", "required": ["a", "b"], "properties": {
                "a": {"type": "string", "nullable": true, "default": "x"},
                "b": {"type": "array", PRESERVE: true, "items": {"type": "string"}},
                "c": {"type": "object", PRESERVE: true, "properties": {"d": {"type": "string"}}},
                "e": {"anyOf": [{"required": ["x"]}], "type": "object"},
            },
        }}});
        let two = publish(schema, false, true);
        assert_eq!(
            two["properties"]["spec"],
            json!({"type": "object", "required": ["b"], "properties": {
                "a": {"default": "x"}, "b": {PRESERVE: true}, "c": {PRESERVE: true}, "e": {"type": "object"},
            }})
        );
    }

    #[test]
    fn embedded_objects_and_either_or_are_spelled_out() {
        let schema = json!({"type": "object", "properties": {
            "port": {"x-kubernetes-int-or-string": true},
            "template": {"type": "object", "x-kubernetes-embedded-resource": true},
        }});
        let three = publish(schema, false, false);
        assert_eq!(three["properties"]["port"]["anyOf"], json!([{"type": "integer"}, {"type": "string"}]));
        let template = &three["properties"]["template"];
        assert_eq!(template["required"], json!(["kind", "apiVersion"]));
        assert!(template["properties"]["metadata"]["$ref"].is_string());
    }
}
