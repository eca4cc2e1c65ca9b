//! Types whose JSON is not the object that their message is.

use serde_json::{Map, Value};

/// How a type's JSON differs from its message. The message is read and written by the table; this turns it about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Special {
    /// `{type, intVal, strVal}` is a number or a text.
    IntOrString,
    /// `{string}` is that text.
    Quantity,
    /// `{seconds, nanos}` is a date and time, in whole seconds.
    Time,
    /// The same in microseconds.
    MicroTime,
    /// `{raw}` is the JSON that these bytes are.
    Json,
    /// `{items}` is that list.
    Items,
    /// `{schema, jSonSchemas}` is the one or the others.
    SchemaOrArray,
    /// `{allows, schema}` is a boolean or a schema.
    SchemaOrBool,
    /// `{schema, property}` is a schema or names.
    SchemaOrNames,
}

impl Special {
    pub fn of(type_name: &str) -> Option<Self> {
        Some(match type_name.rsplit('.').next()? {
            "IntOrString" => Self::IntOrString,
            "Quantity" => Self::Quantity,
            "Time" => Self::Time,
            "MicroTime" => Self::MicroTime,
            "RawExtension" | "FieldsV1" | "JSON" => Self::Json,
            "ExtraValue" | "Verbs" => Self::Items,
            "JSONSchemaPropsOrArray" => Self::SchemaOrArray,
            "JSONSchemaPropsOrBool" => Self::SchemaOrBool,
            "JSONSchemaPropsOrStringArray" => Self::SchemaOrNames,
            _ => return None,
        })
    }

    /// From the message to JSON; absent where an empty message means that. The error says what was expected.
    pub fn collapse(self, mut message: Map<String, Value>) -> Result<Option<Value>, &'static str> {
        Ok(Some(match self {
            Self::IntOrString => match message.get("type").and_then(Value::as_i64).unwrap_or(0) {
                0 => message.remove("intVal").unwrap_or_else(|| 0.into()),
                1 => message.remove("strVal").unwrap_or_else(|| "".into()),
                _ => return Err("number or text"),
            },
            Self::Quantity => message.remove("string").unwrap_or_else(|| "0".into()),
            Self::Time | Self::MicroTime => {
                if message.is_empty() {
                    return Ok(None);
                }
                let part = |name| message.get(name).and_then(Value::as_i64).unwrap_or(0);
                let nanos = i32::try_from(part("nanos")).map_err(|_| "time")?;
                let time = jiff::Timestamp::new(part("seconds"), nanos).map_err(|_| "time")?;
                let format = if self == Self::Time { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%.6fZ" };
                time.strftime(format).to_string().into()
            }
            Self::Json => return Ok(message.remove("raw")),
            Self::Items => message.remove("items").unwrap_or_else(|| Value::Array(Vec::new())),
            Self::SchemaOrArray => {
                message.remove("jSonSchemas").or_else(|| message.remove("schema")).unwrap_or_default()
            }
            Self::SchemaOrBool => {
                message.remove("schema").or_else(|| message.remove("allows")).unwrap_or_else(|| false.into())
            }
            Self::SchemaOrNames => message.remove("property").or_else(|| message.remove("schema")).unwrap_or_default(),
        }))
    }

    /// From JSON to the message. The error says what was expected.
    pub fn expand(self, value: &Value) -> Result<Value, &'static str> {
        let fields = |fields: &[(&str, Value)]| {
            Value::Object(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
        };
        Ok(match (self, value) {
            (Self::IntOrString, Value::Number(_)) => fields(&[("type", 0.into()), ("intVal", value.clone())]),
            (Self::IntOrString, Value::String(_)) => {
                fields(&[("type", 1.into()), ("intVal", 0.into()), ("strVal", value.clone())])
            }
            (Self::IntOrString, _) => return Err("number or text"),
            (Self::Quantity, Value::String(_)) => fields(&[("string", value.clone())]),
            (Self::Quantity, Value::Number(number)) => fields(&[("string", number.to_string().into())]),
            (Self::Quantity, _) => return Err("quantity"),
            (Self::Time | Self::MicroTime, Value::String(text)) => {
                let time: jiff::Timestamp = text.parse().map_err(|_| "time")?;
                let (mut seconds, mut nanos) = (time.as_second(), time.subsec_nanosecond());
                if nanos < 0 {
                    (seconds, nanos) = (seconds - 1, nanos + 1_000_000_000);
                }
                let nanos = if self == Self::Time { 0 } else { nanos };
                fields(&[("seconds", seconds.into()), ("nanos", nanos.into())])
            }
            (Self::Time | Self::MicroTime, _) => return Err("time"),
            (Self::Json, _) => fields(&[("raw", value.clone())]),
            (Self::Items, Value::Array(_)) => fields(&[("items", value.clone())]),
            (Self::Items, _) => return Err("list"),
            (Self::SchemaOrArray, Value::Array(_)) => fields(&[("jSonSchemas", value.clone())]),
            (Self::SchemaOrNames, Value::Array(_)) => fields(&[("property", value.clone())]),
            (Self::SchemaOrBool, Value::Bool(_)) => fields(&[("allows", value.clone())]),
            (Self::SchemaOrBool, Value::Object(_)) => fields(&[("allows", true.into()), ("schema", value.clone())]),
            (Self::SchemaOrArray | Self::SchemaOrNames, Value::Object(_)) => fields(&[("schema", value.clone())]),
            (Self::SchemaOrArray | Self::SchemaOrBool | Self::SchemaOrNames, _) => return Err("schema"),
        })
    }
}
