//! What a version's schema must hold.
//!
//! Source: `ValidateCustomResourceDefinitionOpenAPISchema` upstream, `apiserver/schema/defaulting/validation.go`.

use serde_json::Value;
use wharf_machinery::structural::{self, Schema, formats, rules};
use wharf_types::field::{Error, Errors, Path};

/// Most errors that are told of one schema.
const ERRORS_MAX: usize = 200;

/// What may stand at the root where there is a status subresource.
const AT_ROOT: [&str; 22] = [
    "description",
    "type",
    "format",
    "title",
    "maximum",
    "exclusiveMaximum",
    "minimum",
    "exclusiveMinimum",
    "maxLength",
    "minLength",
    "pattern",
    "maxItems",
    "minItems",
    "uniqueItems",
    "multipleOf",
    "required",
    "items",
    "properties",
    "externalDocs",
    "example",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
];

/// The formats that the schema, or one inside of it, names and that are not looked at.
/// Source: `GetUnrecognizedFormats` of `apiserver/validation/formats.go`.
pub fn unknown_formats(schema: &Value) -> Vec<String> {
    let Value::Object(fields) = schema else { return Vec::new() };
    let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
    let format = text("format");
    let is_known = match text("type") {
        "" | "string" => formats::is_known(format),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    };
    let own = (!format.is_empty() && !is_known).then(|| format.to_owned());
    let one = ["items", "not", "additionalProperties"].into_iter().filter_map(|name| fields.get(name));
    let all = ["allOf", "anyOf", "oneOf"].into_iter().filter_map(|name| fields.get(name)?.as_array()).flatten();
    let named = ["properties", "patternProperties", "definitions"];
    let named = named.into_iter().filter_map(|name| fields.get(name)?.as_object()).flat_map(|named| named.values());
    own.into_iter().chain(one.chain(all).chain(named).flat_map(unknown_formats)).collect()
}

pub fn validate(written: &Value, has_status: bool, path: &Path) -> Errors {
    if structural::depth(written) > structural::DEPTH_MAX {
        return vec![Error::invalid(path, "", format!("is nested deeper than {} levels", structural::DEPTH_MAX))];
    }
    let mut errors = Vec::new();
    if written.get("nullable") == Some(&Value::Bool(true)) {
        let at = Path::new(&format!("{path}.nullable"));
        errors.push(Error::forbidden(&at, "nullable cannot be true at the root"));
    }
    let root = written.as_object().into_iter().flatten();
    if has_status && root.into_iter().any(|(name, _)| !AT_ROOT.contains(&name.as_str())) {
        let why = format!(
            "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
            AT_ROOT.join(" ")
        );
        errors.push(Error::invalid(path, written.clone(), why));
    }
    node(written, path, true, &mut errors);
    let broken = structural::invariants(written, path);
    let is_structural = broken.is_empty();
    errors.extend(broken);
    if errors.is_empty() && is_structural {
        let schema = Schema::new(written);
        defaults(&schema, path, true, &mut errors);
        errors.extend(rules::problems(&schema, path));
    }
    errors.truncate(ERRORS_MAX);
    errors
}

fn has(schema: &Value, name: &str) -> bool {
    match schema.get(name) {
        None | Some(Value::Null) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(values)) => !values.is_empty(),
        Some(Value::Object(fields)) => !fields.is_empty() || name == "items",
        Some(Value::Bool(yes)) => *yes,
        Some(_) => true,
    }
}

/// Words that OpenAPI has and structural schemas have not.
const NOT_SUPPORTED: [&str; 6] = ["$ref", "additionalItems", "definitions", "dependencies", "id", "patternProperties"];

fn node(schema: &Value, path: &Path, outer: bool, errors: &mut Errors) {
    for name in NOT_SUPPORTED {
        if has(schema, name) {
            errors.push(Error::forbidden(&path.child(name), format!("{name} is not supported")));
        }
    }
    let kind = schema.get("type").and_then(Value::as_str).unwrap_or_default();
    match kind {
        "null" => errors
            .push(Error::forbidden(&path.child("type"), "type cannot be set to null, use nullable as an alternative")),
        "" | "string" | "number" | "integer" | "boolean" | "array" | "object" => {}
        other => errors.push(Error::not_supported(
            &path.child("type"),
            other,
            &["array", "boolean", "integer", "number", "object", "string"],
        )),
    }
    if schema.get("items").is_some_and(Value::is_array) {
        errors.push(Error::forbidden(&path.child("items"), "items must be a schema object and not an array"));
    }
    if has(schema, "uniqueItems") {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(Error::forbidden(&path.child("uniqueItems"), why));
    }
    additional(schema, path, errors);
    extensions(schema, kind, path, errors);
    if !outer && has(schema, "default") {
        errors.push(Error::forbidden(&path.child("default"), "must be undefined to be structural"));
    }
    below(schema, path, outer, errors);
}

fn additional(schema: &Value, path: &Path, errors: &mut Errors) {
    let at = path.child("additionalProperties");
    match schema.get("additionalProperties") {
        Some(Value::Bool(false)) => {
            errors.push(Error::forbidden(&at, "additionalProperties cannot be set to false"));
        }
        Some(Value::Object(_)) if has(schema, "properties") => {
            errors.push(Error::forbidden(&at, "additionalProperties and properties are mutual exclusive"));
        }
        _ => {}
    }
}

fn extensions(schema: &Value, kind: &str, path: &Path, errors: &mut Errors) {
    if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        let at = path.child("x-kubernetes-preserve-unknown-fields");
        errors.push(Error::invalid(&at, false, "must be true or undefined"));
    }
    let text = |name: &str| schema.get(name).and_then(Value::as_str).unwrap_or_default();
    let map_type = text("x-kubernetes-map-type");
    if !map_type.is_empty() {
        let at = path.child("x-kubernetes-map-type");
        if !matches!(map_type, "atomic" | "granular") {
            errors.push(Error::not_supported(&at, map_type, &["atomic", "granular"]));
        }
        if kind != "object" {
            let why = "must be object if x-kubernetes-map-type is specified";
            errors.push(Error::invalid(&path.child("type"), kind, why));
        }
    }
    list_type(schema, kind, text("x-kubernetes-list-type"), path, errors);
}

fn list_type(schema: &Value, kind: &str, list_type: &str, path: &Path, errors: &mut Errors) {
    let keys: Vec<&str> = schema
        .get("x-kubernetes-list-map-keys")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let at = path.child("x-kubernetes-list-map-keys");
    if list_type.is_empty() {
        if !keys.is_empty() {
            let at = path.child("x-kubernetes-list-type");
            errors.push(Error::required(&at, "must be map if x-kubernetes-list-map-keys is non-empty"));
        }
        return;
    }
    if !matches!(list_type, "atomic" | "set" | "map") {
        let at = path.child("x-kubernetes-list-type");
        errors.push(Error::not_supported(&at, list_type, &["atomic", "set", "map"]));
    }
    if kind != "array" {
        let why = "must be array if x-kubernetes-list-type is specified";
        let at = path.child("type");
        errors.push(if kind.is_empty() { Error::required(&at, why) } else { Error::invalid(&at, kind, why) });
    }
    if list_type != "map" {
        if !keys.is_empty() {
            let why = "x-kubernetes-list-type must be map if x-kubernetes-list-map-keys is non-empty";
            errors.push(Error::invalid(&path.child("x-kubernetes-list-type"), list_type, why));
        }
        return;
    }
    if keys.is_empty() {
        errors.push(Error::required(&at, "must not be empty if x-kubernetes-list-type is map"));
    }
    let Some(items) = schema.get("items").filter(|items| items.is_object()) else {
        errors.push(Error::required(&path.child("items"), "must have a schema if x-kubernetes-list-type is map"));
        return;
    };
    if items.get("type").and_then(Value::as_str) != Some("object") {
        let held = items.get("type").and_then(Value::as_str).unwrap_or_default();
        let why = "must be object if parent array's x-kubernetes-list-type is map";
        errors.push(Error::invalid(&path.child("items").child("type"), held, why));
    }
    let required: Vec<&str> =
        items.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    for (index, key) in keys.iter().enumerate() {
        if keys[..index].contains(key) {
            errors.push(Error::duplicate(&at.index(index), *key));
        }
        let Some(property) = items.get("properties").and_then(|held| held.get(*key)) else {
            let why = "entries must all be names of item properties";
            errors.push(Error::invalid(&at.index(index), *key, why));
            continue;
        };
        let below = path.child("items").child("properties").key(key);
        if matches!(property.get("type").and_then(Value::as_str), Some("array" | "object")) {
            let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            let held = property.get("type").and_then(Value::as_str).unwrap_or_default();
            errors.push(Error::invalid(&below.child("type"), held, why));
        }
        if property.get("nullable") == Some(&Value::Bool(true)) {
            let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.push(Error::forbidden(&below.child("nullable"), why));
        }
        if !required.contains(key) && property.get("default").is_none() {
            let why =
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.push(Error::required(&below.child("default"), why));
        }
    }
}

fn below(schema: &Value, path: &Path, outer: bool, errors: &mut Errors) {
    for name in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(name).filter(|inner| inner.is_object()) {
            node(inner, &path.child(name), outer, errors);
        }
    }
    if let Some(not) = schema.get("not").filter(|inner| inner.is_object()) {
        node(not, &path.child("not"), false, errors);
    }
    for (name, inner) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        node(inner, &path.child("properties").key(name), outer, errors);
    }
    for name in ["allOf", "anyOf", "oneOf"] {
        for (index, inner) in schema.get(name).and_then(Value::as_array).into_iter().flatten().enumerate() {
            node(inner, &path.child(name).index(index), false, errors);
        }
    }
}

/// A default must be what the schema itself would let through.
fn defaults(schema: &Schema, path: &Path, root: bool, errors: &mut Errors) {
    if let Some(default) = schema.default.as_ref() {
        let at = path.child("default");
        let mut pruned = default.clone();
        if schema.embedded {
            schema.prune(&mut pruned, &mut |_| {});
        } else {
            // Only a resource keeps fields that its schema does not name.
            let mut wrapped = serde_json::json!({ "default": pruned });
            let outer = Schema { properties: [("default".to_owned(), schema.clone())].into(), ..Schema::default() };
            outer.prune(&mut wrapped, &mut |_| {});
            pruned = wrapped["default"].take();
        }
        if root {
            errors.push(Error::forbidden(&at, "must not be set at the root"));
        } else if pruned != *default {
            errors.push(Error::invalid(&at, default.clone(), "must not have unknown fields"));
        } else {
            errors.extend(schema.validate_at(default, at.as_str()));
        }
    }
    for (name, inner) in &schema.properties {
        defaults(inner, &path.child("properties").key(name), false, errors);
    }
    if let Some(items) = &schema.items {
        defaults(items, &path.child("items"), false, errors);
    }
    if let Some(structural::Additional::Schema(inner)) = &schema.additional {
        defaults(inner, &path.child("additionalProperties"), false, errors);
    }
}
