//! From JSON values to the wire.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};

use super::decode::path;
use super::table::{Field, Kind, Label, Type, table};
use super::{Error, NESTING_MAX};

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const CHUNK: u64 = 2;

/// Writes a message; what its type has no field for is left out.
pub(super) fn message(out: &mut Vec<u8>, value: &Value, ty: &Type) -> Result<(), Error> {
    let Value::Object(object) = value else {
        return Err(Error::Value { field: ty.name.to_owned(), expected: "object" });
    };
    fields(out, object, ty, 0)
}

fn fields(out: &mut Vec<u8>, object: &Map<String, Value>, ty: &Type, depth: usize) -> Result<(), Error> {
    if depth > NESTING_MAX {
        return Err(Error::Nesting);
    }
    for field in &ty.fields {
        if field.label == Label::Inline {
            let Kind::Message(inner) = field.kind else { continue };
            let inner = table().at(inner);
            // The parent's JSON has the fields, so the parent's object is what to take them from.
            chunk(out, field.number, |out| fields(out, object, inner, depth + 1))?;
            continue;
        }
        match (field.label, object.get(field.json)) {
            (_, None | Some(Value::Null)) => {}
            (Label::Repeated, Some(Value::Array(items))) => {
                for item in items {
                    single(out, field.number, item, ty, field, depth)?;
                }
            }
            (Label::Map, Some(Value::Object(entries))) => {
                for (key, value) in entries {
                    chunk(out, field.number, |out| {
                        text(out, 1, key);
                        single(out, 2, value, ty, field, depth)
                    })?;
                }
            }
            (Label::One, Some(value)) => single(out, field.number, value, ty, field, depth)?,
            (Label::Repeated, _) => return Err(invalid(ty, field, "list")),
            _ => return Err(invalid(ty, field, "map")),
        }
    }
    Ok(())
}

/// One value under a number.
fn single(out: &mut Vec<u8>, number: u32, value: &Value, ty: &Type, field: &Field, depth: usize) -> Result<(), Error> {
    let invalid = |expected| invalid(ty, field, expected);
    match (field.kind, value) {
        (Kind::String, Value::String(value)) => text(out, number, value),
        // A null in a list or map is a zero.
        (Kind::String | Kind::Bytes, Value::Null) => text(out, number, ""),
        (Kind::String, _) => return Err(invalid("text")),
        (Kind::Bytes, Value::String(value)) => {
            let bytes = BASE64.decode(value).map_err(|_| invalid("base64"))?;
            raw(out, number, &bytes);
        }
        (Kind::Bytes, _) => return Err(invalid("base64")),
        (Kind::Json, value) => {
            let json = serde_json::to_vec(value).map_err(|_| invalid("JSON"))?;
            raw(out, number, &json);
        }
        (Kind::Bool, Value::Bool(value)) => varint_field(out, number, u64::from(*value)),
        (Kind::Bool, _) => return Err(invalid("boolean")),
        (Kind::Int32, value) => {
            let value = integer(value).and_then(|value| i32::try_from(value).ok());
            varint_field(out, number, i64::from(value.ok_or_else(|| invalid("32-bit integer"))?) as u64);
        }
        (Kind::Int64, value) => {
            varint_field(out, number, integer(value).ok_or_else(|| invalid("integer"))? as u64);
        }
        (Kind::Double, value) => {
            let value = value.as_f64().ok_or_else(|| invalid("number"))?;
            varint(out, u64::from(number) << 3 | FIXED64);
            out.extend_from_slice(&value.to_bits().to_le_bytes());
        }
        (Kind::Message(inner), value) => {
            let inner = table().at(inner);
            return match (inner.special, value) {
                (_, Value::Null) => chunk(out, number, |_| Ok(())),
                (Some(special), value) => {
                    let expanded = special.expand(value).map_err(invalid)?;
                    let Value::Object(object) = &expanded else { return Err(invalid("object")) };
                    chunk(out, number, |out| fields(out, object, inner, depth + 1))
                }
                (None, Value::Object(object)) => chunk(out, number, |out| fields(out, object, inner, depth + 1)),
                (None, _) => Err(invalid("object")),
            };
        }
    }
    Ok(())
}

fn invalid(ty: &Type, field: &Field, expected: &'static str) -> Error {
    Error::Value { field: path(ty, field), expected }
}

/// A whole number, also one that JSON has as `1.0`.
fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        let float = value.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 2f64.powi(53))?;
        Some(float as i64)
    })
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint_field(out: &mut Vec<u8>, number: u32, value: u64) {
    varint(out, u64::from(number) << 3 | VARINT);
    varint(out, value);
}

fn raw(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    varint(out, u64::from(number) << 3 | CHUNK);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn text(out: &mut Vec<u8>, number: u32, text: &str) {
    raw(out, number, text.as_bytes());
}

/// A nested message: written in place, then moved by what its length takes.
fn chunk(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>) -> Result<(), Error> {
    varint(out, u64::from(number) << 3 | CHUNK);
    let start = out.len();
    out.push(0);
    write(out)?;
    let length = out.len() - start - 1;
    if length < 0x80 {
        out[start] = length as u8;
        return Ok(());
    }
    let mut prefix = Vec::with_capacity(10);
    varint(&mut prefix, length as u64);
    out.splice(start..=start, prefix);
    Ok(())
}

/// The number of a field that the table must have.
fn number(ty: &Type, json: &str) -> Result<u32, Error> {
    ty.by_json(json).map(|field| field.number).ok_or_else(|| Error::Type(format!("{}.{json}", ty.name)))
}

pub(super) fn envelope(
    out: &mut Vec<u8>,
    ty: &Type,
    api_version: &str,
    kind: &str,
    object: &[u8],
) -> Result<(), Error> {
    let Some(Field { number: at, kind: Kind::Message(inner), .. }) = ty.by_json("typeMeta") else {
        return Err(Error::Type(ty.name.to_owned()));
    };
    let inner = table().at(*inner);
    let (version_at, kind_at) = (number(inner, "apiVersion")?, number(inner, "kind")?);
    chunk(out, *at, |out| {
        text(out, version_at, api_version);
        text(out, kind_at, kind);
        Ok(())
    })?;
    raw(out, number(ty, "raw")?, object);
    // Both mean: none, as is. Upstream writes them empty.
    text(out, number(ty, "contentEncoding")?, "");
    text(out, number(ty, "contentType")?, "");
    Ok(())
}

pub(super) fn event(out: &mut Vec<u8>, ty: &Type, event: &str, object: &[u8]) -> Result<(), Error> {
    let Some(Field { number: at, kind: Kind::Message(inner), .. }) = ty.by_json("object") else {
        return Err(Error::Type(ty.name.to_owned()));
    };
    let raw_at = number(table().at(*inner), "raw")?;
    text(out, number(ty, "type")?, event);
    chunk(out, *at, |out| {
        raw(out, raw_at, object);
        Ok(())
    })
}
