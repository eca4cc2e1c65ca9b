//! Defaulting.
//!
//! Source: `apiserver/schema/defaulting/algorithm.go`.

use serde_json::Value;

use super::Schema;

impl Schema {
    /// Fills in what is missing, or null where null may not be. Idempotent.
    pub fn default_object(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for (name, schema) in &self.properties {
                    let Some(default) = &schema.default else { continue };
                    if fields.get(name).is_none_or(|value| schema.forbids(value)) {
                        fields.insert(name.clone(), default.clone());
                    }
                }
                for (name, value) in fields.iter_mut() {
                    let Some(schema) = self.field(name) else { continue };
                    schema.settle(value);
                }
            }
            Value::Array(values) => {
                if let Some(schema) = &self.items {
                    values.iter_mut().for_each(|value| schema.settle(value));
                }
            }
            _ => {}
        }
    }

    fn settle(&self, value: &mut Value) {
        if let Some(default) = self.default.as_ref().filter(|_| self.forbids(value)) {
            *value = default.clone();
        }
        self.default_object(value);
    }

    fn forbids(&self, value: &Value) -> bool {
        value.is_null() && !self.nullable
    }
}
