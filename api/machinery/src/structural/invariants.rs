//! What makes a schema structural.
//!
//! Source: `apiserver/schema/{validation,complete,convert}.go`. Looks at the schema as it was written, since reading it forgets
//! what does not belong there.

use serde_json::{Map, Value};
use wharf_types::field::{Error, Errors, Path};

use super::Pattern;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// What keeps a schema from being structural, sorted as upstream sorts it.
pub fn invariants(schema: &Value, path: &Path) -> Errors {
    let mut errors = Vec::new();
    structure(schema, Level::Root, path, &mut errors);
    complete(schema, schema, path, &mut errors);
    errors.sort_by_key(ToString::to_string);
    errors
}

fn text<'a>(schema: &'a Value, name: &str) -> &'a str {
    schema.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name).and_then(Value::as_bool).unwrap_or_default()
}

fn schemas<'a>(schema: &'a Value, name: &str) -> &'a [Value] {
    schema.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn fields(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema.get("properties").and_then(Value::as_object).into_iter().flatten()
}

fn inner<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    schema.get(name).filter(|inner| inner.is_object())
}

const INT_OR_STRING: &str = "x-kubernetes-int-or-string";
const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";

fn structure(schema: &Value, level: Level, path: &Path, errors: &mut Errors) {
    let kind = text(schema, "type");
    if kind == "array" && inner(schema, "items").is_none() {
        errors.push(Error::required(&path.child("items"), "must be specified"));
    }
    if let Some(items) = inner(schema, "items") {
        structure(items, Level::Item, &path.child("items"), errors);
    }
    for (name, field) in fields(schema) {
        structure(field, Level::Field, &path.child("properties").key(name), errors);
    }
    let additional = schema.get("additionalProperties").filter(|value| !value.is_null());
    if additional.is_some() && level == Level::Root {
        errors.push(Error::forbidden(&path.child("additionalProperties"), "must not be used at the root"));
    }
    if let Some(additional) = inner(schema, "additionalProperties") {
        structure(additional, Level::Field, &path.child("additionalProperties"), errors);
    }
    extensions(schema, path, errors);
    junctions(schema, is_int_or_string(schema), first_is_int_or_string(schema), level, path, errors);
    typed(schema, kind, level, path, errors);
    resource_fields(schema, level, path, errors);
}

fn extensions(schema: &Value, path: &Path, errors: &mut Errors) {
    if !flag(schema, INT_OR_STRING) {
        return;
    }
    for name in [PRESERVE, EMBEDDED] {
        if flag(schema, name) {
            let why = format!("must be false if {INT_OR_STRING} is true");
            errors.push(Error::invalid(&path.child(name), true, why));
        }
    }
}

fn typed(schema: &Value, kind: &str, level: Level, path: &Path, errors: &mut Errors) {
    let here = path.child("type");
    if flag(schema, EMBEDDED) && kind != "object" {
        let why = format!("must be object if {EMBEDDED} is true");
        errors.push(if kind.is_empty() { Error::required(&here, why) } else { Error::invalid(&here, kind, why) });
    } else if kind.is_empty() && !flag(schema, INT_OR_STRING) && !flag(schema, PRESERVE) {
        let why = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(Error::required(&here, why));
    }
    if flag(schema, EMBEDDED) && schema.get("additionalProperties").is_some_and(|value| !value.is_null()) {
        let why = format!("must not be used if {EMBEDDED} is set");
        errors.push(Error::forbidden(&path.child("additionalProperties"), why));
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        errors.push(Error::invalid(&here, kind, "must be object at the root"));
    }
}

fn resource_fields(schema: &Value, level: Level, path: &Path, errors: &mut Errors) {
    let resource = level == Level::Root || flag(schema, EMBEDDED);
    for (name, field) in fields(schema) {
        let below = path.child("properties").key(name);
        let kind = text(field, "type");
        match name.as_str() {
            "kind" | "apiVersion" if resource && kind != "string" => {
                errors.push(Error::invalid(&below.child("type"), kind, "must be string"));
            }
            "metadata" => {
                if resource && kind != "object" {
                    errors.push(Error::invalid(&below.child("type"), kind, "must be object"));
                }
                if level == Level::Root && !is_plain_metadata(field) {
                    let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
                    errors.push(Error::forbidden(&below, why));
                }
            }
            _ => {}
        }
    }
    if flag(schema, EMBEDDED) && !flag(schema, PRESERVE) && fields(schema).next().is_none() {
        let why = format!("must not be empty if {EMBEDDED} is true without {PRESERVE}");
        errors.push(Error::required(&path.child("properties"), why));
    }
}

/// True where the root's `metadata` says nothing but what names look like.
fn is_plain_metadata(schema: &Value) -> bool {
    let Some(held) = schema.as_object() else { return true };
    let said = |(name, value): (&String, &Value)| match name.as_str() {
        "type" | "default" => false,
        "properties" => fields(schema).any(|(name, _)| !matches!(name.as_str(), "name" | "generateName")),
        _ => !is_zero(value),
    };
    !held.iter().any(said)
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// `anyOf: [{type: integer}, {type: string}]`
fn is_int_or_string(schema: &Value) -> bool {
    let of = |value: &Value, kind: &str| {
        value.as_object().is_some_and(|held| held.len() == 1 && held.get("type").and_then(Value::as_str) == Some(kind))
    };
    matches!(schemas(schema, "anyOf"), [a, b] if of(a, "integer") && of(b, "string"))
}

fn first_is_int_or_string(schema: &Value) -> bool {
    schemas(schema, "allOf").first().is_some_and(is_int_or_string)
}

fn junctions(schema: &Value, skip_any: bool, skip_first: bool, level: Level, path: &Path, errors: &mut Errors) {
    if !skip_any {
        for (index, inner) in schemas(schema, "anyOf").iter().enumerate() {
            nested(inner, false, level, &path.child("anyOf").index(index), errors);
        }
    }
    for (index, inner) in schemas(schema, "allOf").iter().enumerate() {
        nested(inner, skip_first && index == 0, level, &path.child("allOf").index(index), errors);
    }
    for (index, inner) in schemas(schema, "oneOf").iter().enumerate() {
        nested(inner, false, level, &path.child("oneOf").index(index), errors);
    }
    if let Some(not) = inner(schema, "not") {
        nested(not, false, level, &path.child("not"), errors);
    }
    let pattern = text(schema, "pattern");
    if !pattern.is_empty() && Pattern::new(pattern).regex.is_none() {
        let why = regex::Regex::new(pattern).err().map_or("it is too large".to_owned(), |error| error.to_string());
        let why = format!("must be a valid regular expression, but isn't: {why}");
        errors.push(Error::invalid(&path.child("pattern"), pattern, why));
    }
}

/// What may not stand under a logical junction, and the word that says so.
const NOT_NESTED: [(&str, &str); 14] = [
    ("type", "must be empty to be structural"),
    ("additionalProperties", "must be undefined to be structural"),
    ("default", "must be undefined to be structural"),
    ("title", "must be empty to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    ("externalDocs", "must be undefined to be structural"),
    (PRESERVE, "must be false to be structural"),
    (EMBEDDED, "must be false to be structural"),
    (INT_OR_STRING, "must be false to be structural"),
    ("x-kubernetes-list-map-keys", "must be empty to be structural"),
    ("x-kubernetes-list-type", "must be undefined to be structural"),
    ("x-kubernetes-map-type", "must be undefined to be structural"),
    ("x-kubernetes-validations", "must be empty to be structural"),
];

fn nested(schema: &Value, skip_any: bool, level: Level, path: &Path, errors: &mut Errors) {
    junctions(schema, skip_any, false, level, path, errors);
    if let Some(items) = inner(schema, "items") {
        nested(items, false, level, &path.child("items"), errors);
    }
    for (name, field) in fields(schema) {
        nested(field, false, Level::Field, &path.child("properties").key(name), errors);
        if name == "metadata" {
            let why = "must not be specified in a nested context";
            errors.push(Error::forbidden(&path.child("properties").key(name), why));
        }
    }
    for (name, why) in NOT_NESTED {
        if schema.get(name).is_some_and(|value| !is_zero(value) || (name == "additionalProperties" && !value.is_null()))
        {
            errors.push(Error::forbidden(&path.child(name), why));
        }
    }
}

/// Every field that is checked under a junction must be specified outside of it, too.
fn complete(checks: &Value, structure: &Value, path: &Path, errors: &mut Errors) {
    for name in ["allOf", "anyOf", "oneOf"] {
        for (index, inner) in schemas(checks, name).iter().enumerate() {
            covered(inner, structure, &path.child(name).index(index), path, errors);
        }
    }
    if let Some(not) = inner(checks, "not") {
        covered(not, structure, &path.child("not"), path, errors);
    }
    if std::ptr::eq(checks, structure) {
        if let Some(items) = inner(structure, "items") {
            complete(items, items, &path.child("items"), errors);
        }
        for (name, field) in fields(structure) {
            complete(field, field, &path.child("properties").key(name), errors);
        }
        if let Some(additional) = inner(structure, "additionalProperties") {
            complete(additional, additional, &path.child("additionalProperties"), errors);
        }
    }
}

fn covered(checks: &Value, structure: &Value, at: &Path, root: &Path, errors: &mut Errors) {
    let empty = Value::Object(Map::new());
    if let Some(items) = inner(checks, "items") {
        match inner(structure, "items") {
            Some(outer) => covered(items, outer, &at.child("items"), &root.child("items"), errors),
            None => {
                let why = format!("because it is defined in {}", at.child("items"));
                errors.push(Error::required(&root.child("items"), why));
            }
        }
    }
    for (name, field) in fields(checks) {
        let (at, root) = (at.child("properties").key(name), root.child("properties").key(name));
        match structure.get("properties").and_then(|held| held.get(name)) {
            Some(outer) => covered(field, outer, &at, &root, errors),
            None => {
                errors.push(Error::required(&root, format!("because it is defined in {at}")));
                covered(field, &empty, &at, &root, &mut Vec::new());
            }
        }
    }
    complete_nested(checks, structure, at, root, errors);
}

fn complete_nested(checks: &Value, structure: &Value, at: &Path, root: &Path, errors: &mut Errors) {
    for name in ["allOf", "anyOf", "oneOf"] {
        for (index, inner) in schemas(checks, name).iter().enumerate() {
            covered(inner, structure, &at.child(name).index(index), root, errors);
        }
    }
    if let Some(not) = inner(checks, "not") {
        covered(not, structure, &at.child("not"), root, errors);
    }
}
