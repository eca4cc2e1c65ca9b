//! Kubernetes' protobuf: objects of built-in kinds from JSON text to the wire, and from there to a tree, driven by one table.
//!
//! The table ([`table`]) has each type's fields with number, name in JSON and kind of value; it is generated from crates and
//! checked in. Nothing here knows a kind. An object travels in an envelope, `k8s\0` and a `runtime.Unknown` with its type.
//!
//! Invariants: what is decoded is what upstream's own JSON would say, but for zeros of fields that are pointers in Go
//! ([`crate::schema::go`] knows these); bytes that are no message give an error, never a panic, and cost no more than a bounded multiple
//! of their length. Unknown fields are skipped. Absent on purpose: groups, custom resources, Tables.

mod decode;
mod encode;
mod names;
mod special;
mod table;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use wharf_types::{GroupVersion, Gvk};

use crate::cursor::{Cursor, Malformed};
use crate::schema;
use crate::tree::{Map, Value};

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
const META_BETA: &str = "apimachinery.pkg.apis.meta.v1beta1.";
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
    #[error("proto: read an object's JSON")]
    Json(#[from] Malformed),
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
        if !META_KINDS.contains(&kind.kind.as_ref()) {
            return None;
        }
        // The list of v1beta1 numbers its fields otherwise; the rest is the same.
        let beta = (kind.version == "v1beta1").then(|| table.named(&format!("{META_BETA}{}", kind.kind))).flatten();
        beta.or_else(|| table.named(&format!("{META}{}", kind.kind)))
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
pub fn decode<'a>(bytes: &'a [u8], type_name: &str) -> Result<Value<'a>, Error> {
    decode::message(bytes, named(type_name)?).map(Value::Map)
}

/// Writes a message of a type.
pub fn encode(json: &[u8], type_name: &str) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    encode::message(&mut out, json, named(type_name)?)?;
    Ok(out)
}

/// Reads an object in its envelope. `assumed` is its kind where the envelope names none.
pub fn decode_object<'a>(bytes: &'a [u8], assumed: &Gvk) -> Result<Value<'a>, Error> {
    let envelope = decode::Envelope::read(bytes.strip_prefix(MAGIC).ok_or(Error::Magic)?, named(ENVELOPE)?)?;
    let (api_version, kind) = match (envelope.api_version, envelope.kind) {
        ("", "") => (Cow::Owned(assumed.group_version().to_string()), Cow::Owned(assumed.kind.to_string())),
        (api_version, kind) => (Cow::Borrowed(api_version), Cow::Borrowed(kind)),
    };
    let mut object: Map<'a> = decode::message(envelope.raw, kind_of(&api_version, &kind)?)?;
    object.insert(Cow::Borrowed("apiVersion"), Value::String(api_version));
    object.insert(Cow::Borrowed("kind"), Value::String(kind));
    Ok(Value::Map(object))
}

/// What an envelope says its object is: `apiVersion` and `kind`.
pub fn type_meta(bytes: &[u8]) -> Result<(&str, &str), Error> {
    let envelope = decode::Envelope::read(bytes.strip_prefix(MAGIC).ok_or(Error::Magic)?, named(ENVELOPE)?)?;
    Ok((envelope.api_version, envelope.kind))
}

/// Writes an object, whose JSON says itself what it is, in its envelope.
pub fn encode_object(json: &[u8]) -> Result<Vec<u8>, Error> {
    let (api_version, kind) = said(json)?;
    let mut out = Vec::with_capacity(json.len());
    put(&mut out, json, &api_version, &kind)?;
    Ok(out)
}

/// Writes what a kind has of an object's fields: of any object its metadata, as `PartialObjectMetadata`.
pub fn encode_as(json: &[u8], api_version: &str, kind: &str) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(json.len());
    put(&mut out, json, api_version, kind)?;
    Ok(out)
}

fn put(out: &mut Vec<u8>, json: &[u8], api_version: &str, kind: &str) -> Result<(), Error> {
    let ty = kind_of(api_version, kind)?;
    encode::envelope(out, named(ENVELOPE)?, (api_version, kind), json.len(), |out| encode::message(out, json, ty))
}

/// What an object's JSON says it is: `apiVersion` and `kind`, each empty where it does not.
fn said(json: &[u8]) -> Result<(Cow<'_, str>, Cow<'_, str>), Error> {
    let (mut api_version, mut kind) = (None, None);
    let (mut cursor, mut first) = (Cursor::new(json), true);
    cursor.enter_object()?;
    while let Some(key) = cursor.key(&mut first)? {
        let said = match &*key.read()? {
            b"apiVersion" => &mut api_version,
            b"kind" => &mut kind,
            _ => {
                cursor.value()?;
                continue;
            }
        };
        *said = serde_json::from_slice::<Cow<'_, str>>(cursor.value()?).ok();
        if api_version.is_some() && kind.is_some() {
            break;
        }
    }
    Ok((api_version.unwrap_or_default(), kind.unwrap_or_default()))
}

/// A list in its envelope. `items` are objects of the list's kind, or, for a `PartialObjectMetadataList`, of any; `expected` is about how
/// many bytes it will have.
pub fn encode_list<'a>(
    (api_version, kind): (&str, &str),
    metadata: &[u8],
    items: impl IntoIterator<Item = &'a [u8]>,
    expected: usize,
) -> Result<Vec<u8>, Error> {
    let ty = kind_of(api_version, kind)?;
    let (number, item) = encode::items(ty)?;
    let mut out = Vec::with_capacity(expected);
    encode::envelope(&mut out, named(ENVELOPE)?, (api_version, kind), expected, |out| {
        encode::message(out, metadata, ty)?;
        items.into_iter().try_for_each(|json| encode::item(out, number, json, item))
    })?;
    Ok(out)
}

/// Writes an event of a watch as a frame: its length in four bytes, then the event around the object of this JSON. `shown` is what it
/// is shown as, where that is not what it says; see [`encode_as`].
pub fn frame(event: &str, json: &[u8], shown: Option<(&str, &str)>) -> Result<Vec<u8>, Error> {
    let (api_version, kind) = match shown {
        Some((api_version, kind)) => (api_version.into(), kind.into()),
        None => said(json)?,
    };
    let mut out = Vec::with_capacity(json.len());
    out.extend_from_slice(&[0; 4]);
    encode::event(&mut out, named(WATCH_EVENT)?, event, json.len(), |out| put(out, json, &api_version, &kind))?;
    let too_long = |_| Error::Value { field: "WatchEvent".to_owned(), expected: "length of a frame" };
    let length = u32::try_from(out.len() - 4).map_err(too_long)?;
    out[..4].copy_from_slice(&length.to_be_bytes());
    Ok(out)
}
