//! Printer columns of a custom resource.
//!
//! Source: `registry/customresource/tableconvertor/tableconvertor.go`.

use jiff::Timestamp;
use serde_json::Value;
use wharf_machinery::jsonpath::JsonPath;
use wharf_types::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceColumnDefinition;

use super::object::CustomObject;
use crate::strategy::{AGE, Column, NAME, age};

pub struct Printer {
    columns: Vec<Own>,
}

struct Own {
    name: String,
    kind: String,
    format: String,
    description: String,
    priority: i32,
    path: Option<JsonPath>,
}

impl Printer {
    pub fn new(columns: &[CustomResourceColumnDefinition]) -> Self {
        let own = |column: &CustomResourceColumnDefinition| Own {
            name: column.name.clone(),
            kind: column.type_.clone(),
            format: column.format.clone().unwrap_or_default(),
            description: column.description.clone().unwrap_or_else(|| {
                format!("Custom resource definition column (in JSONPath format): {}", column.json_path)
            }),
            priority: column.priority.unwrap_or_default(),
            path: JsonPath::parse(&column.json_path).ok(),
        };
        let mut columns: Vec<Own> = columns.iter().map(own).collect();
        if columns.is_empty() {
            columns.push(Own {
                name: AGE.name.to_owned(),
                kind: "date".to_owned(),
                format: String::new(),
                description: AGE.description.to_owned(),
                priority: 0,
                path: JsonPath::parse(".metadata.creationTimestamp").ok(),
            });
        }
        Self { columns }
    }

    pub fn columns(&self) -> Vec<Column<&str>> {
        let own = self.columns.iter().map(|column| Column {
            name: column.name.as_str(),
            kind: column.kind.as_str(),
            format: column.format.as_str(),
            description: column.description.as_str(),
            priority: column.priority,
        });
        std::iter::once(NAME).chain(own).collect()
    }

    pub fn cells(&self, object: &CustomObject, now: Timestamp) -> Vec<Value> {
        let value = object.to_value();
        let own = self.columns.iter().map(|column| {
            let found = column.path.as_ref().map(|path| path.find(&value)).unwrap_or_default();
            cell(&column.kind, &found, now)
        });
        std::iter::once(object.metadata.name.clone().unwrap_or_default().into()).chain(own).collect()
    }
}

fn cell(kind: &str, found: &[&Value], now: Timestamp) -> Value {
    let Some(first) = found.first() else { return Value::Null };
    match kind {
        "string" => {
            let shown: Vec<String> = found.iter().map(|value| text(value)).collect();
            shown.join(" ").into()
        }
        "integer" => match first {
            Value::Number(number) if number.is_f64() => number.as_f64().map(|number| number as i64).into(),
            Value::Number(_) => (*first).clone(),
            _ => Value::Null,
        },
        "number" if first.is_number() => (*first).clone(),
        "boolean" if first.is_boolean() => (*first).clone(),
        "date" => match first.as_str() {
            Some(text) => text.parse::<Timestamp>().map_or("<invalid>".into(), |since| age(Some(since), now).into()),
            None => Value::Null,
        },
        _ => Value::Null,
    }
}

/// As `kubectl -o jsonpath` prints it.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".to_owned(),
        value => value.to_string(),
    }
}
