//! Another server's OpenAPI v2 document, added to ours.
//!
//! Source: `kube-openapi/pkg/aggregator` (`FilterSpecByPaths`, `MergeSpecsIgnorePathConflictRenamingDefinitionsAndParameters`).
//! Of the other document only what is below its group and version is taken, with the definitions that those paths reach. A
//! path that is there already stays ours. A definition of a name that means something else here gets a name of its own.
//! Parameters that the other document shares are written out where they are used.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

const DEFINITIONS: &str = "#/definitions/";
const PARAMETERS: &str = "#/parameters/";
const GVKS: &str = "x-kubernetes-group-version-kind";

/// Adds the paths of `other` that start with `prefix`.
pub fn merge_v2(document: &mut Value, other: &Value, prefix: &str) {
    let none = Map::new();
    let own = document["paths"].as_object().unwrap_or(&none);
    let offered = other["paths"].as_object().unwrap_or(&none);
    let taken = offered.iter().filter(|(path, _)| path.starts_with(prefix) && !own.contains_key(*path));
    let mut paths: Map<String, Value> = taken.map(|(path, item)| (path.clone(), item.clone())).collect();
    for item in paths.values_mut() {
        write_out_parameters(item, &other["parameters"]);
    }
    let definitions = other["definitions"].as_object().unwrap_or(&none);
    let reached = reached(paths.values(), definitions);
    let held = document["definitions"].as_object().unwrap_or(&none);
    let names = names(&reached, definitions, held);
    for item in paths.values_mut() {
        rename(item, &names);
    }
    for name in &reached {
        let mut definition = definitions[name].clone();
        rename(&mut definition, &names);
        let name = names.get(name).unwrap_or(name);
        match document["definitions"].get_mut(name) {
            Some(held) => join_kinds(held, &definition),
            None => document["definitions"][name] = definition,
        }
    }
    if let Some(own) = document["paths"].as_object_mut() {
        own.extend(paths);
    }
}

/// The definitions that something refers to, and those that they refer to, by name.
fn reached<'a>(from: impl Iterator<Item = &'a Value>, definitions: &'a Map<String, Value>) -> BTreeSet<String> {
    let mut open: Vec<&Value> = from.collect();
    let mut found = BTreeSet::new();
    while let Some(value) = open.pop() {
        for_each_reference(value, &mut |reference| {
            let known = reference.strip_prefix(DEFINITIONS).and_then(|name| definitions.get_key_value(name));
            if let Some((_, definition)) = known.filter(|(name, _)| found.insert((*name).clone())) {
                open.push(definition);
            }
        });
    }
    found
}

fn for_each_reference<'a>(value: &'a Value, see: &mut dyn FnMut(&'a str)) {
    match value {
        Value::Object(fields) => {
            if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
                see(reference);
            }
            fields.values().for_each(|value| for_each_reference(value, see));
        }
        Value::Array(items) => items.iter().for_each(|item| for_each_reference(item, see)),
        _ => {}
    }
}

/// New names for definitions whose own are taken by something else.
fn names(
    reached: &BTreeSet<String>,
    definitions: &Map<String, Value>,
    held: &Map<String, Value>,
) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    for name in reached {
        let definition = &definitions[name];
        let differs = |name: &str| held.get(name).is_some_and(|held| !same_but_kinds(held, definition));
        if differs(name) {
            let candidates = (2..).map(|number| format!("{name}_v{number}"));
            let free = |candidate: &String| !differs(candidate) && !definitions.contains_key(candidate);
            names.extend(candidates.into_iter().find(free).map(|free| (name.clone(), free)));
        }
    }
    names
}

fn rename(value: &mut Value, names: &BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get_mut("$ref")
                && let Some(new) = reference.strip_prefix(DEFINITIONS).and_then(|name| names.get(name))
            {
                *reference = format!("{DEFINITIONS}{new}");
            }
            fields.values_mut().for_each(|value| rename(value, names));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, names)),
        _ => {}
    }
}

/// A definition that several servers have may stand for other kinds in each (`DeleteOptions` does).
fn same_but_kinds(a: &Value, b: &Value) -> bool {
    let rest = |value: &Value| -> Option<Map<String, Value>> {
        let mut fields = value.as_object()?.clone();
        fields.remove(GVKS);
        Some(fields)
    };
    a == b || rest(a) == rest(b)
}

fn join_kinds(held: &mut Value, other: &Value) {
    let new = other[GVKS].as_array().cloned().unwrap_or_default();
    if let Some(kinds) = held.get_mut(GVKS).and_then(Value::as_array_mut) {
        let missing: Vec<Value> = new.into_iter().filter(|kind| !kinds.contains(kind)).collect();
        kinds.extend(missing);
    }
}

fn write_out_parameters(item: &mut Value, shared: &Value) {
    match item {
        Value::Object(fields) => {
            for (name, value) in fields {
                match (name.as_str(), &mut *value) {
                    ("parameters", Value::Array(list)) => list.iter_mut().for_each(|one| write_out(one, shared)),
                    _ => write_out_parameters(value, shared),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| write_out_parameters(item, shared)),
        _ => {}
    }
}

fn write_out(parameter: &mut Value, shared: &Value) {
    let named = parameter["$ref"].as_str().and_then(|reference| reference.strip_prefix(PARAMETERS));
    if let Some(whole) = named.and_then(|name| shared.get(name)) {
        *parameter = whole.clone();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ours() -> Value {
        json!({
            "paths": {"/apis/apps/v1/deployments": {"get": {}}},
            "definitions": {
                "Status": {"type": "object", "description": "ours"},
                "Options": {"type": "object", GVKS: [{"kind": "A"}]},
            },
        })
    }

    fn theirs() -> Value {
        let reply = |name: &str| json!({"responses": {"200": {"schema": {"$ref": format!("{DEFINITIONS}{name}")}}}});
        json!({
            "paths": {
                "/apis/wardle/v1/flunders": {
                    "get": reply("Flunder"), "delete": reply("Options"),
                    "parameters": [{"$ref": "#/parameters/pretty-1"}],
                },
                "/apis/apps/v1/deployments": {"get": reply("Unwanted")},
                "/healthz": {"get": reply("Unwanted")},
            },
            "parameters": {"pretty-1": {"name": "pretty", "in": "query"}},
            "definitions": {
                "Flunder": {"properties": {"status": {"$ref": "#/definitions/Status"}}},
                "Status": {"type": "object", "description": "theirs"},
                "Options": {"type": "object", GVKS: [{"kind": "B"}]},
                "Unwanted": {"type": "string"},
            },
        })
    }

    #[test]
    fn only_the_groups_own_paths_and_what_they_need_are_taken() {
        let mut document = ours();
        merge_v2(&mut document, &theirs(), "/apis/wardle/v1/");
        let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(names(&document["paths"]), "/apis/apps/v1/deployments /apis/wardle/v1/flunders");
        assert_eq!(document["paths"]["/apis/apps/v1/deployments"], ours()["paths"]["/apis/apps/v1/deployments"]);
        assert_eq!(
            document["paths"]["/apis/wardle/v1/flunders"]["parameters"],
            json!([{"name": "pretty", "in": "query"}])
        );
        assert_eq!(document["definitions"].get("Unwanted"), None);
    }

    #[test]
    fn a_name_that_means_something_else_is_changed() {
        let mut document = ours();
        merge_v2(&mut document, &theirs(), "/apis/wardle/v1/");
        let definitions = &document["definitions"];
        assert_eq!(definitions["Status"]["description"], "ours");
        assert_eq!(definitions["Status_v2"]["description"], "theirs");
        assert_eq!(definitions["Flunder"]["properties"]["status"]["$ref"], "#/definitions/Status_v2");
        assert_eq!(definitions["Options"][GVKS], json!([{"kind": "A"}, {"kind": "B"}]));
        let once = document.clone();
        merge_v2(&mut document, &theirs(), "/apis/wardle/v1/");
        assert_eq!(document, once, "a second time adds nothing");
    }
}
