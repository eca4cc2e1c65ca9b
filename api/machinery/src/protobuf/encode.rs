//! From JSON text to the wire, in one pass: fields go out in the order in which the text has them.
//!
//! Values are copied from the text as they stand; no tree is made of it, and nothing is allocated but what the output takes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::decode::path;
use super::special;
use super::table::{Field, Kind, Label, Type, table};
use super::{Error, NESTING_MAX};
use crate::cursor::{Cursor, Text};

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const CHUNK: u64 = 2;

/// Writes a message; what its type has no field for is left out.
pub(super) fn message(out: &mut Vec<u8>, json: &[u8], ty: &Type) -> Result<(), Error> {
    object(out, &mut Cursor::new(json), ty, 0)
}

/// An object's fields, one after another. Those of inline fields are kept for last, so that each is one message.
fn object(out: &mut Vec<u8>, json: &mut Cursor<'_>, ty: &Type, depth: usize) -> Result<(), Error> {
    if depth > NESTING_MAX {
        return Err(Error::Nesting);
    }
    if json.peek()? != b'{' {
        return Err(Error::Value { field: ty.name.to_owned(), expected: "object" });
    }
    json.enter_object()?;
    let (mut first, mut inline) = (true, Vec::new());
    while let Some(key) = json.key(&mut first)? {
        let key = key.read()?;
        match ty.names.find(&key) {
            None => json.value().map(|_| ())?,
            Some(known) if known.inner => inline.push((known.at, key, json.value()?)),
            Some(known) => field(out, json, ty, &ty.fields[usize::from(known.at)], depth)?,
        }
    }
    let parts: Vec<Part<'_>> = inline.iter().map(|(at, key, value)| (*at, &**key, *value)).collect();
    embedded(out, &parts, ty, depth)
}

/// A field of a message that stands in its parent's JSON: which of the parent's fields holds the message, its key and its value.
type Part<'a> = (u8, &'a [u8], &'a [u8]);

/// The messages of a type's inline fields, which may have inline fields themselves.
fn embedded(out: &mut Vec<u8>, parts: &[Part<'_>], ty: &Type, depth: usize) -> Result<(), Error> {
    for (holder, at) in ty.fields.iter().zip(0_u8..) {
        let (Label::Inline, Kind::Message(inner)) = (holder.label, holder.kind) else { continue };
        let inner = table().at(inner);
        chunk(out, holder.number, |out| {
            let mut deeper = Vec::new();
            for (_, key, value) in parts.iter().filter(|(holder, ..)| *holder == at) {
                match inner.names.find(key) {
                    Some(known) if known.inner => deeper.push((known.at, *key, *value)),
                    Some(known) => {
                        field(out, &mut Cursor::new(value), inner, &inner.fields[usize::from(known.at)], depth + 1)?;
                    }
                    None => {}
                }
            }
            embedded(out, &deeper, inner, depth + 1)
        })?;
    }
    Ok(())
}

fn field(out: &mut Vec<u8>, json: &mut Cursor<'_>, ty: &Type, field: &Field, depth: usize) -> Result<(), Error> {
    let next = json.peek()?;
    if next == b'n' {
        json.word()?;
        return Ok(());
    }
    let mut first = true;
    match (field.label, next) {
        (Label::Repeated, b'[') => {
            json.enter_list()?;
            while json.item(&mut first)? {
                single(out, field.number, json, ty, field, depth)?;
            }
        }
        (Label::Map, b'{') => {
            json.enter_object()?;
            while let Some(key) = json.key(&mut first)? {
                chunk(out, field.number, |out| {
                    raw(out, 1, &key.read()?);
                    single(out, 2, json, ty, field, depth)
                })?;
            }
        }
        (Label::One, _) => single(out, field.number, json, ty, field, depth)?,
        (Label::Repeated, _) => return Err(invalid(ty, field, "list")),
        _ => return Err(invalid(ty, field, "map")),
    }
    Ok(())
}

/// One value under a number.
fn single(
    out: &mut Vec<u8>,
    number: u32,
    json: &mut Cursor<'_>,
    ty: &Type,
    field: &Field,
    depth: usize,
) -> Result<(), Error> {
    let invalid = |expected| invalid(ty, field, expected);
    match (field.kind, json.peek()?) {
        (Kind::String, b'"') => text(out, number, json.string()?)?,
        // A null in a list or map is a zero.
        (Kind::String | Kind::Bytes | Kind::Message(_), b'n') => {
            json.word()?;
            raw(out, number, b"");
        }
        (Kind::String, _) => return Err(invalid("text")),
        (Kind::Bytes, b'"') => {
            let encoded = json.string()?.read()?;
            chunk(out, number, |out| BASE64.decode_vec(&encoded, out).map_err(|_| invalid("base64")))?;
        }
        (Kind::Bytes, _) => return Err(invalid("base64")),
        (Kind::Json, _) => raw(out, number, json.value()?),
        (Kind::Bool, _) => match json.value()? {
            b"true" => varint_field(out, number, 1),
            b"false" => varint_field(out, number, 0),
            _ => return Err(invalid("boolean")),
        },
        (Kind::Int32, _) => {
            let value = integer(json.value()?).and_then(|value| i32::try_from(value).ok());
            varint_field(out, number, i64::from(value.ok_or_else(|| invalid("32-bit integer"))?) as u64);
        }
        (Kind::Int64, _) => {
            let value = integer(json.value()?).ok_or_else(|| invalid("integer"))?;
            varint_field(out, number, value as u64);
        }
        (Kind::Double, _) => {
            let value: f64 = serde_json::from_slice(json.value()?).map_err(|_| invalid("number"))?;
            varint(out, u64::from(number) << 3 | FIXED64);
            out.extend_from_slice(&value.to_bits().to_le_bytes());
        }
        (Kind::Message(inner), next) => {
            let inner = table().at(inner);
            match (inner.special, next) {
                (Some(special), _) => {
                    let parts = special.expand(json.value()?).map_err(invalid)?;
                    chunk(out, number, |out| expanded(out, parts, inner, depth + 1))?;
                }
                (None, b'{') => chunk(out, number, |out| object(out, json, inner, depth + 1))?,
                (None, _) => return Err(invalid("object")),
            }
        }
    }
    Ok(())
}

/// The fields of a message that JSON has otherwise.
fn expanded(out: &mut Vec<u8>, parts: [Option<special::Part<'_>>; 3], ty: &Type, depth: usize) -> Result<(), Error> {
    if depth > NESTING_MAX {
        return Err(Error::Nesting);
    }
    for part in parts.into_iter().flatten() {
        let known = |name| ty.by_json(name).ok_or_else(|| Error::Type(format!("{}.{name}", ty.name)));
        match part {
            special::Part::Json(name, json) => field(out, &mut Cursor::new(json), ty, known(name)?, depth)?,
            special::Part::Integer(name, value) => varint_field(out, known(name)?.number, value as u64),
            special::Part::Text(name, text) => raw(out, known(name)?.number, text),
        }
    }
    Ok(())
}

fn invalid(ty: &Type, field: &Field, expected: &'static str) -> Error {
    Error::Value { field: path(ty, field), expected }
}

/// A whole number, also one that JSON has as `1.0`.
fn integer(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    text.parse().ok().or_else(|| {
        let float: f64 = serde_json::from_str(text).ok()?;
        (float.fract() == 0.0 && float.abs() < 2f64.powi(53)).then_some(float as i64)
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

fn text(out: &mut Vec<u8>, number: u32, text: Text<'_>) -> Result<(), Error> {
    raw(out, number, &text.read()?);
    Ok(())
}

/// How many bytes a length takes.
fn width(length: usize) -> usize {
    (length.max(1).ilog2() / 7 + 1) as usize
}

/// A nested message of a few bytes: written in place, then moved by what its length takes.
fn chunk(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>) -> Result<(), Error> {
    chunk_of_about(out, number, 1, write)
}

/// A nested message; nothing is moved if its length takes as many bytes as the expected one's.
fn chunk_of_about(
    out: &mut Vec<u8>,
    number: u32,
    expected: usize,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>,
) -> Result<(), Error> {
    varint(out, u64::from(number) << 3 | CHUNK);
    let (prefix, kept) = (out.len(), width(expected));
    out.resize(prefix + kept, 0);
    write(out)?;
    let mut length = out.len() - prefix - kept;
    let (start, taken) = (prefix + kept, width(length));
    if taken > kept {
        out.resize(out.len() + taken - kept, 0);
    }
    if taken != kept {
        out.copy_within(start..start + length, prefix + taken);
        out.truncate(prefix + taken + length);
    }
    for place in &mut out[prefix..prefix + taken] {
        *place = length as u8 & 0x7f | if length >= 0x80 { 0x80 } else { 0 };
        length >>= 7;
    }
    Ok(())
}

/// The number of a field that the table must have.
fn number(ty: &Type, json: &str) -> Result<u32, Error> {
    ty.by_json(json).map(|field| field.number).ok_or_else(|| Error::Type(format!("{}.{json}", ty.name)))
}

fn nested(ty: &Type, json: &str) -> Result<(u32, &'static Type), Error> {
    match ty.by_json(json) {
        Some(Field { number, kind: Kind::Message(inner), .. }) => Ok((*number, table().at(*inner))),
        _ => Err(Error::Type(format!("{}.{json}", ty.name))),
    }
}

/// An object around which `write` writes its message, of about so many bytes.
pub(super) fn envelope(
    out: &mut Vec<u8>,
    ty: &Type,
    (api_version, kind): (&str, &str),
    expected: usize,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>,
) -> Result<(), Error> {
    out.extend_from_slice(super::MAGIC);
    let (at, inner) = nested(ty, "typeMeta")?;
    chunk(out, at, |out| {
        raw(out, number(inner, "apiVersion")?, api_version.as_bytes());
        raw(out, number(inner, "kind")?, kind.as_bytes());
        Ok(())
    })?;
    chunk_of_about(out, number(ty, "raw")?, expected, write)?;
    // Both mean: none, as is. Upstream writes them empty.
    raw(out, number(ty, "contentEncoding")?, b"");
    raw(out, number(ty, "contentType")?, b"");
    Ok(())
}

/// An event of a watch, around an object that `write` writes.
pub(super) fn event(
    out: &mut Vec<u8>,
    ty: &Type,
    event: &str,
    expected: usize,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>,
) -> Result<(), Error> {
    let (at, inner) = nested(ty, "object")?;
    raw(out, number(ty, "type")?, event.as_bytes());
    let raw_at = number(inner, "raw")?;
    chunk_of_about(out, at, expected, |out| chunk_of_about(out, raw_at, expected, write))
}

/// The items of a list: the field that holds them, and what each is.
pub(super) fn items(list: &Type) -> Result<(u32, &'static Type), Error> {
    nested(list, "items")
}

/// One message under a number.
pub(super) fn item(out: &mut Vec<u8>, number: u32, json: &[u8], ty: &Type) -> Result<(), Error> {
    chunk_of_about(out, number, json.len(), |out| message(out, json, ty))
}
