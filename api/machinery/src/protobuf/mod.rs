//! Kubernetes' protobuf: objects of built-in kinds between the wire and JSON values, driven by one table.
//!
//! The table ([`table`]) has each type's fields with number, name in JSON and kind of value; it is generated from crates and
//! checked in. Nothing here knows a kind. An object travels in an envelope, `k8s\0` and a `runtime.Unknown` with its type.
//!
//! Invariants: what is decoded is what upstream's own JSON would say, but for zeros of fields that are pointers in Go
//! ([`crate::schema::go`] knows these); bytes that are no message give an error, never a panic, and cost no more than a bounded multiple
//! of their length. Unknown fields are skipped. Absent on purpose: groups, custom resources, Tables.

mod decode;
mod encode;
mod special;
mod table;

#[cfg(test)]
mod tests;

use serde_json::{Map, Value};
use wharf_types::{GroupVersion, Gvk};

use crate::schema;

pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// What a watch's frames are announced as.
pub const STREAM_MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf;stream=watch";
/// What an object's bytes start with.
pub const MAGIC: &[u8] = b"k8s\0";
/// Deepest nesting of messages, either way: what JSON bodies may have.
pub const NESTING_MAX: usize = 128;
/// Most values (scalars, lists, messages) that one body may hold.
pub const VALUES_MAX: usize = 1 << 20;

const META: &str = "apimachinery.pkg.apis.meta.v1.";
/// Kinds of machinery that belong to every API group.
const META_KINDS: &[&str] = &["DeleteOptions", "PartialObjectMetadata", "PartialObjectMetadataList", "Status"];
const ENVELOPE: &str = "apimachinery.pkg.runtime.Unknown";
const WATCH_EVENT: &str = "apimachinery.pkg.apis.meta.v1.WatchEvent";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("provided data does not appear to be a protobuf message, expected prefix {MAGIC:?}")]
    Magic,
    #[error("proto: unexpected EOF")]
    Truncated,
    #[error("proto: integer overflow")]
    Varint,
    #[error("proto: illegal tag {0}")]
    Tag(u64),
    #[error("proto: illegal wireType {0}")]
    Wire(u8),
    #[error("proto: wrong wireType = {wire} for field {field}")]
    WrongWire { field: String, wire: u8 },
    #[error("proto: field {0} is no valid UTF-8")]
    Utf8(String),
    #[error("proto: messages are nested deeper than {NESTING_MAX}")]
    Nesting,
    #[error("proto: the message holds more than {VALUES_MAX} values")]
    Values,
    #[error("proto: field {field} holds no valid {expected}")]
    Value { field: String, expected: &'static str },
    #[error("no kind {kind:?} of {api_version:?} is known in protobuf")]
    Kind { api_version: String, kind: String },
    #[error("no type {0:?} is known in protobuf")]
    Type(String),
}

/// True where objects of the kind can be written and read.
pub fn knows(kind: &Gvk) -> bool {
    type_of(kind).is_some()
}

fn type_of(kind: &Gvk) -> Option<&'static table::Type> {
    let by_package = schema::type_name(kind);
    let table = table::table();
    let of_group = by_package.strip_prefix("io.k8s.").and_then(|name| table.named(name));
    of_group.or_else(|| {
        let meta = META_KINDS.contains(&kind.kind.as_ref());
        meta.then(|| table.named(&format!("{META}{}", kind.kind))).flatten()
    })
}

fn named(type_name: &str) -> Result<&'static table::Type, Error> {
    let short = type_name.strip_prefix("io.k8s.").unwrap_or(type_name);
    table::table().named(short).ok_or_else(|| Error::Type(type_name.to_owned()))
}

fn kind_of(api_version: &str, kind: &str) -> Result<&'static table::Type, Error> {
    let GroupVersion { group, version } = GroupVersion::parse(api_version);
    type_of(&Gvk { group, version, kind: kind.to_owned().into() })
        .ok_or_else(|| Error::Kind { api_version: api_version.to_owned(), kind: kind.to_owned() })
}

/// Reads a message of a type, named as schemas name it.
pub fn decode(bytes: &[u8], type_name: &str) -> Result<Value, Error> {
    decode::message(bytes, named(type_name)?).map(Value::Object)
}

/// Writes a message of a type.
pub fn encode(value: &Value, type_name: &str) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    encode::message(&mut out, value, named(type_name)?)?;
    Ok(out)
}

/// Reads an object in its envelope. `assumed` is its kind where the envelope names none.
pub fn decode_object(bytes: &[u8], assumed: &Gvk) -> Result<Value, Error> {
    let envelope = decode::Envelope::read(bytes.strip_prefix(MAGIC).ok_or(Error::Magic)?, named(ENVELOPE)?)?;
    let (api_version, kind) = match (envelope.api_version, envelope.kind) {
        ("", "") => (assumed.group_version().to_string(), assumed.kind.as_ref()),
        (api_version, kind) => (api_version.to_owned(), kind),
    };
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), api_version.as_str().into());
    object.insert("kind".to_owned(), kind.into());
    object.append(&mut decode::message(envelope.raw, kind_of(&api_version, kind)?)?);
    Ok(Value::Object(object))
}

/// What an envelope says its object is: `apiVersion` and `kind`.
pub fn type_meta(bytes: &[u8]) -> Result<(&str, &str), Error> {
    let envelope = decode::Envelope::read(bytes.strip_prefix(MAGIC).ok_or(Error::Magic)?, named(ENVELOPE)?)?;
    Ok((envelope.api_version, envelope.kind))
}

/// Writes an object, which says itself what it is, in its envelope.
pub fn encode_object(object: &Value) -> Result<Vec<u8>, Error> {
    let text = |field| object.get(field).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let mut raw = Vec::new();
    encode::message(&mut raw, object, kind_of(api_version, kind)?)?;
    let mut out = MAGIC.to_vec();
    encode::envelope(&mut out, named(ENVELOPE)?, api_version, kind, &raw)?;
    Ok(out)
}

/// Writes an event of a watch as a frame: its length in four bytes, then the event around an encoded object.
pub fn frame(event: &str, object: &[u8]) -> Result<Vec<u8>, Error> {
    let mut out = vec![0; 4];
    encode::event(&mut out, named(WATCH_EVENT)?, event, object)?;
    let too_long = |_| Error::Value { field: "WatchEvent".to_owned(), expected: "length of a frame" };
    let length = u32::try_from(out.len() - 4).map_err(too_long)?;
    out[..4].copy_from_slice(&length.to_be_bytes());
    Ok(out)
}
