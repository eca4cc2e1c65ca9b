//! Definitions with Kubernetes' annotations, cut down to what a document refers to.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::paths::PATCH;
use super::{Definitions, Resource, gvk_value};
use crate::patch::merge_keys::{self, Topology};
use crate::schema::{self, REF_PREFIX, go};

const V3_PREFIX: &str = "#/components/schemas/";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const GVK: &str = "x-kubernetes-group-version-kind";

/// All definitions: built-in ones with annotations, lists of the served kinds, and `extra` as it stands.
pub(super) fn annotated(resources: &[&Resource], extra: &Definitions) -> BTreeMap<String, Value> {
    let mut definitions = schema::definitions();
    for (name, definition) in &mut definitions {
        annotate(name, definition);
    }
    definitions.extend(extra.iter().map(|(name, definition)| (name.clone(), definition.clone())));
    let words = "Patch is provided to give a concrete name and type to the Kubernetes PATCH request body.";
    definitions.insert(PATCH.to_owned(), json!({ "description": words, "type": "object" }));
    for resource in resources {
        if resource.verbs.contains(&"list") {
            definitions.insert(format!("{}List", resource.schema), list_of(resource));
        }
        let bodies = resource.subresources.iter().filter_map(|subresource| subresource.body.as_ref());
        for (gvk, name) in bodies.map(|(gvk, name)| (gvk, name)).chain(Some((&resource.gvk, &resource.schema))) {
            if let Some(definition) = definitions.get_mut(name) {
                definition[GVK] = json!([gvk_value(gvk)]);
            }
        }
    }
    for kind in ["Status", "DeleteOptions", "WatchEvent"] {
        if let Some(definition) = definitions.get_mut(&format!("{META}.{kind}")) {
            definition[GVK] = json!([{ "group": "", "version": "v1", "kind": kind }]);
        }
    }
    definitions
}

fn annotate(name: &str, definition: &mut Value) {
    if let Some(definition) = definition.as_object_mut() {
        let scalar = definition.remove("x-kubernetes-int-or-string").is_some();
        if scalar {
            definition.insert("type".to_owned(), "string".into());
        }
        if name == INT_OR_STRING {
            definition.insert("format".to_owned(), "int-or-string".into());
        }
        if merge_keys::is_atomic_type(name) {
            definition.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
        }
    }
    for (field, property) in definition.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        let rule = merge_keys::rule(name, field);
        let is_list = property["type"] == "array";
        let Some(property) = property.as_object_mut() else { continue };
        let mut set = |key: &str, value: Value| property.insert(key.to_owned(), value);
        match rule.map(|rule| rule.topology) {
            Some(Topology::Map(keys)) => {
                set("x-kubernetes-list-type", "map".into());
                set("x-kubernetes-list-map-keys", keys.into());
            }
            Some(Topology::Set) => {
                set("x-kubernetes-list-type", "set".into());
            }
            Some(Topology::AtomicMap) => {
                set("x-kubernetes-map-type", "atomic".into());
            }
            Some(Topology::AtomicList | Topology::Granular) | None if is_list => {
                set("x-kubernetes-list-type", "atomic".into());
            }
            Some(Topology::AtomicList | Topology::Granular) | None => {}
        }
        if let Some(rule) = rule {
            if let Some(strategy) = rule.strategy.published() {
                set("x-kubernetes-patch-strategy", strategy.into());
            }
            if !rule.merge_key.is_empty() {
                set("x-kubernetes-patch-merge-key", rule.merge_key.into());
            }
        }
    }
}

fn list_of(resource: &Resource) -> Value {
    let kind = &resource.gvk.kind;
    let mut gvk = resource.gvk.clone();
    gvk.kind = format!("{kind}List").into();
    json!({
        "description": format!("{kind}List is a list of {kind} objects."),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": { "type": "string", "description": API_VERSION },
            "items": { "type": "array", "description": "The objects.", "items": { "$ref": format!("{REF_PREFIX}{}", resource.schema) } },
            "kind": { "type": "string", "description": KIND },
            "metadata": { "$ref": format!("{REF_PREFIX}{META}.ListMeta"), "description": "Standard list metadata." },
        },
        GVK: [gvk_value(&gvk)],
    })
}

const API_VERSION: &str = "The versioned schema of this object, as GROUP/VERSION.";
const KIND: &str = "The kind of this object, in CamelCase. Cannot be updated.";

/// Drops definitions that neither the paths nor what they refer to mention.
pub(super) fn keep_reachable(definitions: &mut BTreeMap<String, Value>, paths: &Value, resources: &[&Resource]) {
    let mut waiting = BTreeSet::new();
    collect(paths, &mut waiting);
    if resources.iter().any(|resource| resource.verbs.contains(&"watch")) {
        waiting.insert(format!("{META}.WatchEvent"));
    }
    let mut reached = BTreeSet::new();
    while let Some(name) = waiting.pop_first() {
        if let Some(definition) = definitions.get(&name)
            && reached.insert(name)
        {
            let mut named = BTreeSet::new();
            collect(definition, &mut named);
            waiting.extend(named.difference(&reached).cloned());
        }
    }
    definitions.retain(|name, _| reached.contains(name));
}

/// Gathers the names of all references in `value`.
fn collect(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str).and_then(|name| name.strip_prefix(REF_PREFIX)) {
                names.insert(name.to_owned());
            }
            map.values().for_each(|value| collect(value, names));
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, names)),
        _ => {}
    }
}

/// Adds what only version 3 says of built-in types: defaults and the choices of enums.
pub(super) fn add_values(definitions: &mut Map<String, Value>) {
    let is_struct = |(name, definition): (&String, &Value)| definition["properties"].is_object().then(|| name.clone());
    let structs: BTreeSet<String> = definitions.iter().filter_map(is_struct).collect();
    for (name, definition) in definitions.iter_mut().filter(|(name, _)| schema::types().knows(name)) {
        let required = definition["required"].as_array().cloned().unwrap_or_default();
        for (field, property) in definition.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
            let said = go::field(name, field);
            let default = match said.default {
                Some(json) => serde_json::from_str(json).ok(),
                None if said.always => Some(json!({})),
                None => zero(property, &structs)
                    .filter(|zero| !zero.is_object() && required.iter().any(|name| name == field)),
            };
            if let Some(default) = default {
                property["default"] = default;
            }
            let choices: Vec<&str> = said.choices().collect();
            if !choices.is_empty() {
                let one = if property["type"] == "array" { &mut property["items"] } else { &mut *property };
                one["enum"] = choices.into();
            }
            add_inner_defaults(property, &structs);
        }
    }
}

/// Items of lists and values of maps are no pointers: their default is their zero.
fn add_inner_defaults(property: &mut Value, structs: &BTreeSet<String>) {
    for inside in ["items", "additionalProperties"] {
        let Some(inner) = property.get_mut(inside).filter(|inner| inner.is_object()) else { continue };
        add_inner_defaults(inner, structs);
        if let Some(default) = zero(inner, structs) {
            inner["default"] = default;
        }
    }
}

/// The zero of a struct or plain scalar; none for what reads and writes itself in Go, whose zero is null.
fn zero(schema: &Value, structs: &BTreeSet<String>) -> Option<Value> {
    if let Some(target) = schema["$ref"].as_str() {
        return structs.contains(target.strip_prefix(REF_PREFIX)?).then(|| json!({}));
    }
    match schema["type"].as_str()? {
        "string" if schema.get("format").is_none() => Some(json!("")),
        "integer" | "number" => Some(json!(0)),
        "boolean" => Some(json!(false)),
        _ => None,
    }
}

/// Writes a neutral form down as v3: references point elsewhere and stand alone, and scalars of two types say so.
pub(super) fn to_v3(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(to_v3),
        Value::Object(map) => {
            for (name, value) in map.iter_mut() {
                match name.as_str() {
                    INT_OR_STRING => two_types(value, "integer", "string"),
                    QUANTITY => two_types(value, "string", "number"),
                    _ => to_v3(value),
                }
            }
            if let Some(Value::String(reference)) = map.get("$ref") {
                let reference = reference.replacen(REF_PREFIX, V3_PREFIX, 1);
                map.remove("$ref");
                if map.is_empty() {
                    map.insert("$ref".to_owned(), reference.into());
                } else {
                    map.insert("allOf".to_owned(), json!([{ "$ref": reference }]));
                }
            }
        }
        _ => {}
    }
}

fn two_types(definition: &mut Value, one: &str, other: &str) {
    let Some(definition) = definition.as_object_mut() else { return };
    let definition: &mut Map<String, Value> = definition;
    definition.remove("type");
    definition.insert("oneOf".to_owned(), json!([{ "type": one }, { "type": other }]));
}
