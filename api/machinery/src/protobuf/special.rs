//! Types whose JSON is not the object that their message is.

use std::borrow::Cow;

use crate::tree::{Map, Value};

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
    pub fn collapse(self, mut message: Map<'_>) -> Result<Option<Value<'_>>, &'static str> {
        let integer = |message: &Map<'_>, name| match message.get(name) {
            Some(Value::Number(number)) => number.as_i64().unwrap_or(0),
            _ => 0,
        };
        let empty_text = || Value::String(Cow::Borrowed(""));
        Ok(Some(match self {
            Self::IntOrString => match integer(&message, "type") {
                0 => message.remove("intVal").unwrap_or_else(|| Value::Number(0.into())),
                1 => message.remove("strVal").unwrap_or_else(empty_text),
                _ => return Err("number or text"),
            },
            Self::Quantity => message.remove("string").unwrap_or(Value::String(Cow::Borrowed("0"))),
            Self::Time | Self::MicroTime => {
                if message.is_empty() {
                    return Ok(None);
                }
                let nanos = i32::try_from(integer(&message, "nanos")).map_err(|_| "time")?;
                let time = jiff::Timestamp::new(integer(&message, "seconds"), nanos).map_err(|_| "time")?;
                let format = if self == Self::Time { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%.6fZ" };
                Value::String(Cow::Owned(time.strftime(format).to_string()))
            }
            Self::Json => return Ok(message.remove("raw")),
            Self::Items => message.remove("items").unwrap_or_else(|| Value::List(Vec::new())),
            Self::SchemaOrArray => {
                message.remove("jSonSchemas").or_else(|| message.remove("schema")).unwrap_or_default()
            }
            Self::SchemaOrBool => {
                message.remove("schema").or_else(|| message.remove("allows")).unwrap_or(Value::Bool(false))
            }
            Self::SchemaOrNames => message.remove("property").or_else(|| message.remove("schema")).unwrap_or_default(),
        }))
    }

    /// From JSON to the message's fields. The error says what was expected.
    pub fn expand(self, json: &[u8]) -> Result<[Option<Part<'_>>; 3], &'static str> {
        use Part::{Integer, Json, Text};
        let one = |part| [Some(part), None, None];
        let two = |first, second| [Some(first), Some(second), None];
        let is_number = |first: &u8| *first == b'-' || first.is_ascii_digit();
        Ok(match (self, json.first().ok_or("value")?) {
            (Self::IntOrString, b'"') => {
                [Some(Integer("type", 1)), Some(Integer("intVal", 0)), Some(Json("strVal", json))]
            }
            (Self::IntOrString, first) if is_number(first) => two(Integer("type", 0), Json("intVal", json)),
            (Self::IntOrString, _) => return Err("number or text"),
            (Self::Quantity, b'"') => one(Json("string", json)),
            (Self::Quantity, first) if is_number(first) => one(Text("string", json)),
            (Self::Quantity, _) => return Err("quantity"),
            (Self::Time | Self::MicroTime, _) => {
                let text: &str = serde_json::from_slice(json).map_err(|_| "time")?;
                let time: jiff::Timestamp = text.parse().map_err(|_| "time")?;
                let (mut seconds, mut nanos) = (time.as_second(), time.subsec_nanosecond());
                if nanos < 0 {
                    (seconds, nanos) = (seconds - 1, nanos + 1_000_000_000);
                }
                let nanos = if self == Self::Time { 0 } else { nanos };
                two(Integer("seconds", seconds), Integer("nanos", nanos.into()))
            }
            (Self::Json, _) => one(Json("raw", json)),
            (Self::Items, b'[') => one(Json("items", json)),
            (Self::Items, _) => return Err("list"),
            (Self::SchemaOrArray, b'[') => one(Json("jSonSchemas", json)),
            (Self::SchemaOrNames, b'[') => one(Json("property", json)),
            (Self::SchemaOrBool, b't' | b'f') => one(Json("allows", json)),
            (Self::SchemaOrBool, b'{') => two(Json("allows", b"true"), Json("schema", json)),
            (Self::SchemaOrArray | Self::SchemaOrNames, b'{') => one(Json("schema", json)),
            (Self::SchemaOrArray | Self::SchemaOrBool | Self::SchemaOrNames, _) => return Err("schema"),
        })
    }
}

/// One field of such a message, by its name in the table.
pub(super) enum Part<'a> {
    /// What this JSON says.
    Json(&'static str, &'a [u8]),
    Integer(&'static str, i64),
    Text(&'static str, &'a [u8]),
}
