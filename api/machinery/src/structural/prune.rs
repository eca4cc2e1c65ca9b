//! Pruning: what a schema does not name goes.
//!
//! Source: `apiserver/schema/pruning` and `apiserver/schema/defaulting/prune.go`.

use serde_json::{Map, Value};

use super::{Additional, Schema};

/// What every resource has, whatever its schema says.
const RESOURCE_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

impl Schema {
    /// Takes unknown fields out of an object; `unknown` is called with the path of each (`spec.list[0].foo`).
    pub fn prune(&self, object: &mut Value, unknown: &mut dyn FnMut(String)) {
        prune(object, self, true, "", unknown);
    }

    /// Takes out nulls where none may be and no default takes their place.
    pub fn prune_nulls(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.retain(|name, value| {
                    let forbidden = |schema: &Schema| value.is_null() && !schema.nullable && schema.default.is_none();
                    !self.field(name).is_some_and(forbidden)
                });
                for (name, value) in fields {
                    if let Some(schema) = self.field(name) {
                        schema.prune_nulls(value);
                    }
                }
            }
            Value::Array(values) => {
                if let Some(schema) = &self.items {
                    values.iter_mut().for_each(|value| schema.prune_nulls(value));
                }
            }
            _ => {}
        }
    }
}

fn prune(value: &mut Value, schema: &Schema, resource: bool, path: &str, unknown: &mut dyn FnMut(String)) {
    let resource = resource || schema.embedded;
    match value {
        Value::Object(fields) => prune_fields(fields, schema, resource, path, unknown),
        Value::Array(values) => {
            let Some(items) = schema.items.as_deref() else {
                // Without a schema for its elements an array keeps them if it keeps what it does not know.
                if !schema.preserve_unknown {
                    let none = Schema::default();
                    for (index, value) in values.iter_mut().enumerate() {
                        prune(value, &none, false, &format!("{path}[{index}]"), unknown);
                    }
                }
                return;
            };
            for (index, value) in values.iter_mut().enumerate() {
                prune(value, items, false, &format!("{path}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}

fn prune_fields(
    fields: &mut Map<String, Value>,
    schema: &Schema,
    resource: bool,
    path: &str,
    unknown: &mut dyn FnMut(String),
) {
    let at = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    fields.retain(|name, value| {
        if resource && RESOURCE_FIELDS.contains(&name.as_str()) {
            return true;
        }
        if let Some(schema) = schema.field(name) {
            prune(value, schema, false, &at(name), unknown);
            return true;
        }
        let kept = schema.preserve_unknown || matches!(schema.additional, Some(Additional::Any));
        if !kept {
            unknown(at(name));
        }
        kept
    });
}
