//! From the wire to a tree that borrows its texts.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Number;

use super::table::{Field, Kind, Label, Type, table};
use super::{Error, NESTING_MAX, VALUES_MAX};
use crate::tree::{Map, Value};

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const CHUNK: u8 = 2;
const FIXED32: u8 = 5;
/// Bytes of the longest varint.
const VARINT_MAX: usize = 10;

/// Reads a message.
pub(super) fn message<'a>(bytes: &'a [u8], ty: &'static Type) -> Result<Map<'a>, Error> {
    let mut object = Map::new();
    Decoder { values: 0 }.message(bytes, ty, &mut object, 0)?;
    Ok(object)
}

/// One field's content as it stands on the wire.
#[derive(Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Chunk(&'a [u8]),
    Fixed32,
}

impl Wire<'_> {
    fn number(self) -> u8 {
        match self {
            Wire::Varint(_) => VARINT,
            Wire::Fixed64(_) => FIXED64,
            Wire::Chunk(_) => CHUNK,
            Wire::Fixed32 => FIXED32,
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// The next field's number and content; none at the end.
    fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, Error> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).ok().filter(|&number| number > 0 && number <= i32::MAX as u32);
        let number = number.ok_or(Error::Tag(key >> 3))?;
        let wire = match (key & 7) as u8 {
            VARINT => Wire::Varint(self.varint()?),
            FIXED64 => Wire::Fixed64(u64::from_le_bytes(*self.take(8)?.first_chunk().ok_or(Error::Truncated)?)),
            CHUNK => {
                let length = usize::try_from(self.varint()?).map_err(|_| Error::Truncated)?;
                Wire::Chunk(self.take(length)?)
            }
            FIXED32 => {
                self.take(4)?;
                Wire::Fixed32
            }
            other => return Err(Error::Wire(other)),
        };
        Ok(Some((number, wire)))
    }

    fn varint(&mut self) -> Result<u64, Error> {
        let mut value = 0u64;
        for (index, &byte) in self.bytes.iter().enumerate() {
            // The tenth byte has room for one bit more.
            if index == VARINT_MAX || (index == VARINT_MAX - 1 && byte > 1) {
                return Err(Error::Varint);
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.bytes = &self.bytes[index + 1..];
                return Ok(value);
            }
        }
        Err(Error::Truncated)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or(Error::Truncated)?;
        self.bytes = rest;
        Ok(taken)
    }
}

struct Decoder {
    values: usize,
}

impl Decoder {
    /// Reads a message into what there may be of it already: a message sent in parts is merged.
    fn message<'a>(
        &mut self,
        bytes: &'a [u8],
        ty: &'static Type,
        object: &mut Map<'a>,
        depth: usize,
    ) -> Result<(), Error> {
        if depth > NESTING_MAX {
            return Err(Error::Nesting);
        }
        let (mut reader, mut maps) = (Reader { bytes }, Vec::new());
        while let Some((number, wire)) = reader.next()? {
            let Some(field) = ty.field(number) else { continue };
            self.count()?;
            match field.label {
                Label::Map => {
                    let entry = self.entry(chunk(wire, ty, field)?, ty, field, depth)?;
                    entries_of(&mut maps, field, object).push(entry);
                }
                _ => self.field(wire, ty, field, object, depth)?,
            }
        }
        for (field, entries) in maps {
            object.insert(Cow::Borrowed(field), entries.into_iter().collect());
        }
        Ok(())
    }

    fn count(&mut self) -> Result<(), Error> {
        self.values += 1;
        if self.values > VALUES_MAX { Err(Error::Values) } else { Ok(()) }
    }

    fn field<'a>(
        &mut self,
        wire: Wire<'a>,
        ty: &'static Type,
        field: &'static Field,
        object: &mut Map<'a>,
        depth: usize,
    ) -> Result<(), Error> {
        match field.label {
            Label::Inline => {
                let Kind::Message(inner) = field.kind else { return Err(wrong_wire(ty, field, wire)) };
                self.message(chunk(wire, ty, field)?, table().at(inner), object, depth + 1)
            }
            Label::One => {
                let before = object.remove(field.json);
                let value = self.value(wire, ty, field, before, depth)?;
                if let Some(value) = value.filter(|value| field.keeps_zero || !is_zero(value)) {
                    object.insert(Cow::Borrowed(field.json), value);
                }
                Ok(())
            }
            Label::Repeated | Label::Map => {
                if object.get(field.json).is_none() {
                    object.insert(Cow::Borrowed(field.json), Value::List(Vec::new()));
                }
                let Some(Value::List(list)) = object.get_mut(field.json) else {
                    return Err(wrong_wire(ty, field, wire));
                };
                // Numbers may come packed.
                if let (Wire::Chunk(bytes), Kind::Int32 | Kind::Int64 | Kind::Bool) = (wire, field.kind) {
                    let mut reader = Reader { bytes };
                    while !reader.bytes.is_empty() {
                        self.count()?;
                        let wire = Wire::Varint(reader.varint()?);
                        list.extend(self.value(wire, ty, field, None, depth)?);
                    }
                    return Ok(());
                }
                list.push(self.value(wire, ty, field, None, depth)?.unwrap_or_default());
                Ok(())
            }
        }
    }

    /// An entry of a map is a message of a key, 1, and a value, 2; either may be left out for a zero.
    fn entry<'a>(
        &mut self,
        bytes: &'a [u8],
        ty: &'static Type,
        field: &'static Field,
        depth: usize,
    ) -> Result<(Cow<'a, str>, Value<'a>), Error> {
        let (mut key, mut value) = ("", None);
        let mut reader = Reader { bytes };
        while let Some((number, wire)) = reader.next()? {
            match number {
                1 => key = text(chunk(wire, ty, field)?, ty, field)?,
                2 => value = self.value(wire, ty, field, None, depth)?,
                _ => {}
            }
        }
        let value = match value {
            Some(value) => value,
            None => match field.kind {
                Kind::Message(_) => self.value(Wire::Chunk(&[]), ty, field, None, depth)?.unwrap_or_default(),
                _ => Value::String(Cow::Borrowed("")),
            },
        };
        Ok((Cow::Borrowed(key), value))
    }

    /// One value; none where an empty message means that there is none.
    fn value<'a>(
        &mut self,
        wire: Wire<'a>,
        ty: &'static Type,
        field: &'static Field,
        before: Option<Value<'a>>,
        depth: usize,
    ) -> Result<Option<Value<'a>>, Error> {
        let invalid = |expected| Error::Value { field: path(ty, field), expected };
        Ok(Some(match (field.kind, wire) {
            (Kind::String, Wire::Chunk(bytes)) => Value::String(Cow::Borrowed(text(bytes, ty, field)?)),
            (Kind::Bytes, Wire::Chunk(bytes)) => Value::String(Cow::Owned(BASE64.encode(bytes))),
            (Kind::Json, Wire::Chunk([])) => return Ok(None),
            (Kind::Json, Wire::Chunk(bytes)) => Value::parse(bytes).map_err(|_| invalid("JSON"))?,
            (Kind::Bool, Wire::Varint(number)) => Value::Bool(number != 0),
            // Both are sign-extended to 64 bits on the wire; upstream truncates what is longer.
            (Kind::Int32, Wire::Varint(number)) => Value::Number((number as i32).into()),
            (Kind::Int64, Wire::Varint(number)) => Value::Number((number as i64).into()),
            (Kind::Double, Wire::Fixed64(bits)) => {
                Number::from_f64(f64::from_bits(bits)).map(Value::Number).ok_or_else(|| invalid("number"))?
            }
            (Kind::Message(inner), Wire::Chunk(bytes)) => {
                let inner = table().at(inner);
                let mut object = match before {
                    Some(Value::Map(object)) if inner.special.is_none() => object,
                    _ => Map::new(),
                };
                self.message(bytes, inner, &mut object, depth + 1)?;
                match inner.special {
                    Some(special) => return special.collapse(object).map_err(invalid),
                    None => Value::Map(object),
                }
            }
            _ => return Err(wrong_wire(ty, field, wire)),
        }))
    }
}

type Entry<'a> = (Cow<'a, str>, Value<'a>);

/// The entries of a map that is being read, with those of a part of the message that was read before. They are sorted once, at its end.
fn entries_of<'m, 'a>(
    maps: &'m mut Vec<(&'static str, Vec<Entry<'a>>)>,
    field: &'static Field,
    object: &mut Map<'a>,
) -> &'m mut Vec<Entry<'a>> {
    let at = maps.iter().position(|(known, _)| *known == field.json).unwrap_or_else(|| {
        let before = match object.remove(field.json) {
            Some(Value::Map(before)) => before.into_iter().collect(),
            _ => Vec::new(),
        };
        maps.push((field.json, before));
        maps.len() - 1
    });
    &mut maps[at].1
}

fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        _ => false,
    }
}

fn chunk<'a>(wire: Wire<'a>, ty: &Type, field: &Field) -> Result<&'a [u8], Error> {
    let Wire::Chunk(bytes) = wire else { return Err(wrong_wire(ty, field, wire)) };
    Ok(bytes)
}

fn text<'a>(bytes: &'a [u8], ty: &Type, field: &Field) -> Result<&'a str, Error> {
    std::str::from_utf8(bytes).map_err(|_| Error::Utf8(path(ty, field)))
}

fn wrong_wire(ty: &Type, field: &Field, wire: Wire<'_>) -> Error {
    Error::WrongWire { field: path(ty, field), wire: wire.number() }
}

/// `PodSpec.replicas`.
pub(super) fn path(ty: &Type, field: &Field) -> String {
    format!("{}.{}", ty.name.rsplit('.').next().unwrap_or_default(), field.json)
}

/// What an object travels in, borrowed from the body.
#[derive(Debug, Default)]
pub(super) struct Envelope<'a> {
    pub api_version: &'a str,
    pub kind: &'a str,
    pub raw: &'a [u8],
}

impl<'a> Envelope<'a> {
    pub fn read(bytes: &'a [u8], ty: &Type) -> Result<Self, Error> {
        let mut envelope = Self::default();
        let mut reader = Reader { bytes };
        while let Some((number, wire)) = reader.next()? {
            let Some(field) = ty.field(number) else { continue };
            match (field.json, field.kind) {
                ("typeMeta", Kind::Message(inner)) => {
                    let (inner, mut reader) = (table().at(inner), Reader { bytes: chunk(wire, ty, field)? });
                    while let Some((number, wire)) = reader.next()? {
                        let Some(field) = inner.field(number) else { continue };
                        let text = std::str::from_utf8(chunk(wire, inner, field)?)
                            .map_err(|_| Error::Utf8(path(inner, field)))?;
                        match field.json {
                            "apiVersion" => envelope.api_version = text,
                            "kind" => envelope.kind = text,
                            _ => {}
                        }
                    }
                }
                ("raw", _) => envelope.raw = chunk(wire, ty, field)?,
                _ => {}
            }
        }
        Ok(envelope)
    }
}
