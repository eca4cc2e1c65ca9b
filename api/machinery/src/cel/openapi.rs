//! Types of kinds, from the schemas that an API server publishes (`/openapi/v3`).
//!
//! Source: `SchemaDeclType` in `k8s.io/apiserver/pkg/cel/common`. References are followed; a schema inside itself, or one that
//! does not say what it is, may be anything.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::types::{Fields, ListKind, Type};

const REFERENCE: &str = "#/components/schemas/";

/// The type of a kind's objects, by the schemas of a document of OpenAPI v3; none where they do not have the kind.
pub fn type_of_kind(document: &Json, group: &str, version: &str, kind: &str) -> Option<Type> {
    let schemas = document["components"]["schemas"].as_object()?;
    let is_it = |gvk: &Json| gvk["group"] == group && gvk["version"] == version && gvk["kind"] == kind;
    let has =
        |schema: &&Json| schema["x-kubernetes-group-version-kind"].as_array().is_some_and(|all| all.iter().any(is_it));
    let schema = schemas.values().find(has)?;
    Reader { schemas, open: Vec::new() }.read(schema, kind, true)
}

struct Reader<'d> {
    schemas: &'d Map<String, Json>,
    /// References that are being followed.
    open: Vec<&'d str>,
}

impl<'d> Reader<'d> {
    /// `name` is the type's in messages; `root` is true of whole objects, which all have a name and a kind.
    fn read(&mut self, schema: &'d Json, name: &str, root: bool) -> Option<Type> {
        // A reference with a description beside it stands alone in an `allOf`.
        let reference = schema["$ref"].as_str().or_else(|| match schema["allOf"].as_array()?.as_slice() {
            [one] => one["$ref"].as_str(),
            _ => None,
        });
        if let Some(reference) = reference.and_then(|reference| reference.strip_prefix(REFERENCE)) {
            if self.open.contains(&reference) {
                return Some(Type::Dyn);
            }
            let target = self.schemas.get(reference)?;
            self.open.push(reference);
            let found = self.read(target, name, root);
            self.open.pop();
            return found;
        }
        let format = schema["format"].as_str().unwrap_or_default();
        if schema["x-kubernetes-int-or-string"] == true || format == "int-or-string" {
            return Some(Type::Dyn);
        }
        let size = |field: &str| schema[field].as_u64();
        Some(match schema["type"].as_str().unwrap_or_default() {
            "array" => {
                let items = self.read(schema.get("items")?, name, embedded(&schema["items"]))?;
                Type::List(Arc::new(items), ListKind::Atomic, size("maxItems"))
            }
            "object" => match schema.get("additionalProperties").filter(|values| values.is_object()) {
                Some(values) => {
                    let values = self.read(values, name, embedded(values))?;
                    Type::Map(Arc::new(Type::STRING), Arc::new(values), size("maxProperties"))
                }
                None => Type::Object(Arc::new(self.fields(schema, name, root))),
            },
            "string" => match format {
                "byte" => Type::Bytes(size("maxLength")),
                "duration" => Type::Duration,
                "date" | "date-time" => Type::Timestamp,
                _ => Type::String(size("maxLength")),
            },
            "boolean" => Type::Bool,
            "number" => Type::Double,
            "integer" => Type::Int,
            _ => Type::Dyn,
        })
    }

    fn fields(&mut self, schema: &'d Json, name: &str, root: bool) -> Fields {
        let mut fields = BTreeMap::new();
        for (field, below) in schema["properties"].as_object().into_iter().flatten() {
            let ty = self.read(below, &format!("{name}.{field}"), embedded(below));
            fields.extend(ty.map(|ty| (field.clone(), ty)));
        }
        if root {
            let named = [("name", Type::STRING), ("generateName", Type::STRING)];
            fields.entry("apiVersion".to_owned()).or_insert(Type::STRING);
            fields.entry("kind".to_owned()).or_insert(Type::STRING);
            fields.entry("metadata".to_owned()).or_insert_with(|| Type::object(&format!("{name}.metadata"), named));
        }
        Fields { name: name.to_owned(), fields }
    }
}

fn embedded(schema: &Json) -> bool {
    schema["x-kubernetes-embedded-resource"] == true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cel::Env;

    /// The first line of what is wrong with an expression about a thing.
    #[track_caller]
    fn check(expression: &str, expected: Option<&str>) {
        let document = json!({"components": {"schemas": {
            "Thing": {
                "type": "object",
                "x-kubernetes-group-version-kind": [{"group": "g", "version": "v1", "kind": "Thing"}],
                "properties": {
                    "spec": {"description": "what is asked for", "allOf": [{"$ref": "#/components/schemas/Spec"}]},
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                },
            },
            "Spec": {
                "type": "object",
                "properties": {
                    "replicas": {"type": "integer", "format": "int32"},
                    "port": {"type": "string", "format": "int-or-string"},
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                    "parts": {"type": "array", "items": {"$ref": "#/components/schemas/Spec"}},
                    "since": {"type": "string", "format": "date-time"},
                },
            },
        }}});
        let ty = type_of_kind(&document, "g", "v1", "Thing").expect("a type");
        assert_eq!(type_of_kind(&document, "g", "v2", "Thing"), None);
        let error = Env::default().variable("object", ty).compile(expression).err();
        let error = error.map(|error| error.to_string());
        assert_eq!(error.as_deref().and_then(|text| text.lines().next()), expected, "{expression}");
    }

    #[test]
    fn fields_are_of_the_types_that_the_schemas_say() {
        check("object.spec.replicas > 1 && object.metadata.name == 'a' && object.kind == 'Thing'", None);
        check("object.spec.port == 'http' || object.spec.port == 80", None);
        check("object.spec.labels['a'].startsWith('b') && object.spec.since < timestamp('2026-01-01T00:00:00Z')", None);
        check("object.spec.parts.all(part, part.anything > 1)", None);
        check(
            "object.spec.replicas > '1'",
            Some("ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'"),
        );
        check("object.spec.replica > 1", Some("ERROR: <input>:1:12: undefined field 'replica'"));
        check(
            "object.spec.labels['a'] > 1",
            Some("ERROR: <input>:1:25: found no matching overload for '_>_' applied to '(string, int)'"),
        );
    }
}
