//! Lists that are sets or maps hold nothing twice.
//!
//! Source: `apiserver/schema/listtype/validation.go`.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use wharf_types::field::{Error, Errors, Path};

use super::{ListType, Schema};

impl Schema {
    /// What stands twice in sets and maps.
    pub fn validate_lists(&self, value: &Value, path: &Path) -> Errors {
        let mut errors = Vec::new();
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let path = if self.properties.contains_key(name) { path.child(name) } else { path.key(name) };
                    errors.extend(self.field(name).into_iter().flat_map(|schema| schema.validate_lists(value, &path)));
                }
            }
            Value::Array(values) => {
                errors.extend(self.duplicates(values, path));
                for (index, value) in values.iter().enumerate() {
                    let path = path.index(index);
                    errors.extend(self.items.iter().flat_map(|schema| schema.validate_lists(value, &path)));
                }
            }
            _ => {}
        }
        errors
    }

    fn duplicates(&self, values: &[Value], path: &Path) -> Errors {
        let mut seen = BTreeSet::new();
        let mut errors = Vec::new();
        for (index, value) in values.iter().enumerate() {
            let key = match self.list_type {
                ListType::Atomic => return errors,
                ListType::Set => value.clone(),
                ListType::Map => Value::Object(self.keys_of(value)),
            };
            // Two whole numbers are one, however they are written.
            if !seen.insert(normal(&key).to_string()) {
                errors.push(Error::duplicate(&path.index(index), key));
            }
        }
        errors
    }

    /// What tells the elements of a map apart; a key that is left out has its default.
    pub(crate) fn keys_of(&self, value: &Value) -> Map<String, Value> {
        let default = |name: &str| self.items.as_ref()?.properties.get(name)?.default.as_ref();
        let key = |name: &String| Some((name.clone(), value.get(name).or_else(|| default(name))?.clone()));
        self.list_map_keys.iter().filter_map(key).collect()
    }
}

fn normal(value: &Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(float) if !number.is_i64() && !number.is_u64() && float.fract() == 0.0 && float.abs() < 9e15 => {
                (float as i64).into()
            }
            _ => value.clone(),
        },
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), normal(value))).collect(),
        Value::Array(values) => values.iter().map(normal).collect(),
        value => value.clone(),
    }
}
