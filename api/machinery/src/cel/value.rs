//! Values: of CEL's own types, JSON that is read in place, and what libraries and callers bring.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::Arc;

use base64::Engine;
use kube_cel::cel;
use serde_json::Value as Json;

use super::types::{ListKind, Type, unescape};
use super::{Error, library};

#[derive(Clone)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Cow<'a, str>),
    Bytes(Arc<Vec<u8>>),
    List(Arc<Vec<Value<'a>>>),
    Map(Arc<BTreeMap<Key<'a>, Value<'a>>>),
    /// An array or object, read as it is asked for. Scalars are values of their own: see [`Value::json`].
    Json(&'a Json, &'a Type),
    Optional(Option<Box<Value<'a>>>),
    /// A type's name.
    Type(String),
    /// The caller's own.
    Object(Arc<dyn Object<'a> + 'a>),
    /// Times, durations, and what libraries make: quantities, addresses, versions.
    Library(cel::Value),
}

/// What a caller binds that is no JSON.
pub trait Object<'a>: Send + Sync {
    /// For messages and `type()`.
    fn type_name(&self) -> &str;
    /// A field; none if there is no such field.
    fn get(&self, _field: &str) -> Option<Result<Value<'a>, Error>> {
        None
    }
    /// A method.
    fn call(&self, method: &str, _arguments: &[Value<'a>]) -> Result<Value<'a>, Error> {
        Err(Error::Undeclared(method.to_owned()))
    }
}

/// What a map may be asked for. Numbers that are equal are the same key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key<'a> {
    Bool(bool),
    Int(i64),
    /// More than an `Int` can hold.
    Uint(u64),
    String(Cow<'a, str>),
}

/// The type of everything that nobody declared.
pub(super) static ANY: Type = Type::Dyn;

impl<'a> Value<'a> {
    /// JSON as a value of a type. What does not fit its type is read as JSON says.
    pub fn json(json: &'a Json, ty: &'a Type) -> Self {
        match json {
            Json::Null => Value::Null,
            Json::Bool(yes) => Value::Bool(*yes),
            Json::Number(number) => match (ty, number.as_i64()) {
                (Type::Double, _) => Value::Double(number.as_f64().unwrap_or(f64::NAN)),
                (_, Some(number)) => Value::Int(number),
                (Type::Int, None) => match number.as_f64() {
                    Some(number) if number.fract() == 0.0 && number.abs() < 9e18 => Value::Int(number as i64),
                    number => Value::Double(number.unwrap_or(f64::NAN)),
                },
                (_, None) => Value::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Self::text(text, ty),
            Json::Array(_) | Json::Object(_) => Value::Json(json, ty),
        }
    }

    fn text(text: &'a str, ty: &Type) -> Self {
        let read = match ty {
            Type::Timestamp if text.len() == "2006-01-02".len() => {
                library::call("timestamp", &[Value::from(format!("{text}T00:00:00Z"))], false)
            }
            Type::Timestamp => library::call("timestamp", &[Value::from(text)], false),
            Type::Duration => library::call("duration", &[Value::from(text)], false),
            Type::Bytes(_) => match base64::engine::general_purpose::STANDARD.decode(text) {
                Ok(bytes) => return Value::Bytes(Arc::new(bytes)),
                Err(_) => return Value::from(text),
            },
            _ => return Value::from(text),
        };
        read.unwrap_or(Value::from(text))
    }

    pub fn list(values: Vec<Value<'a>>) -> Self {
        Value::List(Arc::new(values))
    }

    pub fn object(object: impl Object<'a> + 'a) -> Self {
        Value::Object(Arc::new(object))
    }

    /// A map from names to values.
    pub fn map(entries: impl IntoIterator<Item = (&'a str, Value<'a>)>) -> Self {
        let entries = entries.into_iter().map(|(name, value)| (Key::String(name.into()), value));
        Value::Map(Arc::new(entries.collect()))
    }

    pub fn as_bool(&self) -> Option<bool> {
        if let Value::Bool(yes) = self { Some(*yes) } else { None }
    }

    pub fn as_str(&self) -> Option<&str> {
        if let Value::String(text) = self { Some(text) } else { None }
    }

    /// The type's name, as `type()` and messages have it.
    pub fn type_name(&self) -> String {
        let name = match self {
            Value::Null => "null_type",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::String(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::List(_) | Value::Json(Json::Array(_), _) => "list",
            Value::Map(_) | Value::Json(..) => "map",
            Value::Optional(_) => "optional_type",
            Value::Type(_) => "type",
            Value::Object(object) => object.type_name(),
            Value::Library(cel::Value::Timestamp(_)) => "google.protobuf.Timestamp",
            Value::Library(cel::Value::Duration(_)) => "google.protobuf.Duration",
            Value::Library(cel::Value::Opaque(opaque)) => opaque.runtime_type_name(),
            Value::Library(_) => "dyn",
        };
        name.to_owned()
    }

    /// How many elements, entries, characters or bytes.
    pub(super) fn size(&self) -> Option<usize> {
        match self {
            Value::String(text) => Some(text.chars().count()),
            Value::Bytes(bytes) => Some(bytes.len()),
            Value::List(values) => Some(values.len()),
            Value::Map(entries) => Some(entries.len()),
            Value::Json(Json::Array(values), _) => Some(values.len()),
            Value::Json(Json::Object(entries), _) => Some(entries.len()),
            _ => None,
        }
    }

    /// The elements of a list.
    pub fn elements(&self) -> Option<Vec<Value<'a>>> {
        match self {
            Value::List(values) => Some(values.to_vec()),
            Value::Json(Json::Array(values), ty) => {
                Some(values.iter().map(|value| Value::json(value, ty.element())).collect())
            }
            _ => None,
        }
    }

    /// The entries of a map, in no order that means anything.
    pub(super) fn entries(&self) -> Option<Vec<(Key<'a>, Value<'a>)>> {
        match self {
            Value::Map(entries) => Some(entries.iter().map(|(key, value)| (key.clone(), value.clone())).collect()),
            Value::Json(Json::Object(entries), ty) => {
                let entry = |(name, value): (&'a String, &'a Json)| {
                    let ty = match ty {
                        Type::Map(_, of, _) => of,
                        Type::Object(fields) => fields.fields.get(name)?,
                        _ => &ANY,
                    };
                    Some((Key::String(name.as_str().into()), Value::json(value, ty)))
                };
                Some(entries.iter().filter_map(entry).collect())
            }
            _ => None,
        }
    }

    /// The field or entry under a name, as `a.name` means it; none if there is none.
    pub(super) fn field(&self, name: &str) -> Result<Option<Value<'a>>, Error> {
        match self {
            Value::Json(Json::Object(entries), Type::Object(fields)) => {
                let name = unescape(name);
                let Some(ty) = fields.fields.get(&*name) else { return Ok(None) };
                Ok(entries.get(&*name).map(|value| Value::json(value, ty)))
            }
            Value::Json(Json::Object(entries), Type::Map(_, of, _)) => {
                Ok(entries.get(name).map(|value| Value::json(value, of)))
            }
            Value::Json(Json::Object(entries), _) => Ok(entries.get(name).map(|value| Value::json(value, &ANY))),
            Value::Map(entries) => Ok(entries.get(&Key::String(name.into())).cloned()),
            Value::Object(object) => object.get(name).transpose(),
            _ => Err(Error::NoSuchOverload),
        }
    }

    /// How the elements of a list are told apart.
    pub(super) fn list_kind(&self) -> &ListKind {
        match self {
            Value::Json(_, Type::List(_, kind, _)) => kind,
            _ => &ListKind::Atomic,
        }
    }

    /// For `ofNonZeroValue`.
    pub(super) fn is_zero(&self) -> bool {
        match self {
            Value::Null | Value::Bool(false) | Value::Int(0) | Value::Uint(0) | Value::Optional(None) => true,
            Value::Double(number) => *number == 0.0,
            Value::Library(value) => value.is_zero(),
            other => other.size() == Some(0),
        }
    }

    /// The value as JSON, where it can be: times and durations are strings, bytes are base64.
    pub fn to_json(&self) -> Result<Json, Error> {
        Ok(match self {
            Value::Null | Value::Optional(None) => Json::Null,
            Value::Bool(yes) => Json::Bool(*yes),
            Value::Int(number) => (*number).into(),
            Value::Uint(number) => (*number).into(),
            Value::Double(number) => (*number).into(),
            Value::String(text) => Json::String(text.to_string()),
            Value::Bytes(bytes) => Json::String(base64::engine::general_purpose::STANDARD.encode(&**bytes)),
            Value::List(values) => values.iter().map(Value::to_json).collect::<Result<Vec<_>, _>>()?.into(),
            Value::Map(entries) => {
                let entry = |(key, value): (&Key<'_>, &Value<'_>)| Ok((key.to_string(), value.to_json()?));
                Json::Object(entries.iter().map(entry).collect::<Result<_, Error>>()?)
            }
            Value::Json(json, _) => (*json).clone(),
            Value::Optional(Some(value)) => value.to_json()?,
            Value::Type(name) => Json::String(name.clone()),
            Value::Object(object) => return Err(Error::other(format!("{} is no JSON", object.type_name()))),
            Value::Library(value) => match library::call("string", &[Value::Library(value.clone())], false) {
                Ok(Value::String(text)) => Json::String(text.into_owned()),
                _ => return Err(Error::other(format!("{} is no JSON", self.type_name()))),
            },
        })
    }

    pub(super) fn to_key(&self) -> Option<Key<'a>> {
        Some(match self {
            Value::Bool(yes) => Key::Bool(*yes),
            Value::Int(number) => Key::Int(*number),
            Value::Uint(number) => i64::try_from(*number).map_or(Key::Uint(*number), Key::Int),
            Value::Double(number) if number.fract() == 0.0 && number.abs() < 9e18 => Key::Int(*number as i64),
            Value::String(text) => Key::String(text.clone()),
            _ => return None,
        })
    }
}

impl<'a> From<Key<'a>> for Value<'a> {
    fn from(key: Key<'a>) -> Self {
        match key {
            Key::Bool(yes) => Value::Bool(yes),
            Key::Int(number) => Value::Int(number),
            Key::Uint(number) => Value::Uint(number),
            Key::String(text) => Value::String(text),
        }
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Value::String(text.into())
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Value::String(text.into())
    }
}

impl From<bool> for Value<'_> {
    fn from(yes: bool) -> Self {
        Value::Bool(yes)
    }
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Value::Int(number)
    }
}

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Bool(yes) => yes.fmt(f),
            Key::Int(number) => number.fmt(f),
            Key::Uint(number) => number.fmt(f),
            Key::String(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_json() {
            Ok(json) => write!(f, "{}({json})", self.type_name()),
            Err(_) => f.write_str(&self.type_name()),
        }
    }
}

impl PartialEq for Value<'_> {
    fn eq(&self, other: &Self) -> bool {
        super::equal::equal(self, other)
    }
}

/// A double as CEL writes it.
pub(super) fn double_text(number: f64) -> String {
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    if number.is_nan() {
        return "NaN".to_owned();
    }
    let size = number.abs();
    if size != 0.0 && !(1e-4..1e21).contains(&size) {
        // Go writes an exponent with a sign and two digits.
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent: i32 = exponent.parse().unwrap_or_default();
        let mut out = digits.to_owned();
        let _ = write!(out, "e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
        return out;
    }
    number.to_string()
}
