//! Bodies and replies: what a verb has to say, in the representation that the client accepts.
//!
//! A stored object is not read to serve it as JSON: its bytes go out as the cache holds them.

mod pretty;

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use jiff::Timestamp;
use wharf_cache::Entry;
use wharf_machinery::{cursor, protobuf};
use wharf_registry::Row;
use wharf_store::Revision;
use wharf_types::{ApiError, order};

use crate::call::Call;
use crate::listbody::{self, ListBody};
use crate::negotiate::{self, Accepted, Encoding, Form, Meta, Place};
use crate::query::Query;
use crate::table;

use pretty::indented;
pub use pretty::{pretty, pretty_error};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The one type of body that goes in and out.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Replies of at least this many bytes are compressed for clients that can unpack them: upstream's threshold.
const GZIP_MIN: usize = 128 * 1024;
/// Bytes of all warnings of one reply together; those that do not fit are left out.
const WARNINGS_MAX: usize = 4096;
/// Bytes that a list takes beside its items.
const LIST_HEAD: usize = 256;

/// What a verb answers with.
pub enum Reply {
    /// An object of the row's kind.
    Object {
        code: StatusCode,
        bytes: Bytes,
    },
    /// Another kind's JSON, which has no Table: `Status`, `Scale`, …
    Plain {
        code: StatusCode,
        bytes: Bytes,
    },
    List(List),
    /// Already in its final form: a stream.
    Stream(Response<Body>),
}

/// Part of a collection at one revision.
pub struct List {
    pub revision: Revision,
    pub entries: Vec<Arc<Entry>>,
    pub continue_token: Option<String>,
    pub remaining: Option<usize>,
}

impl List {
    fn meta<'a>(&'a self, revision: &'a str) -> table::ListMeta<'a> {
        table::ListMeta { revision, continue_token: self.continue_token.as_deref(), remaining: self.remaining }
    }
}

impl Reply {
    pub fn plain(code: StatusCode, value: &impl serde::Serialize) -> Self {
        Reply::Plain { code, bytes: order::envelope(value).into() }
    }
}

/// A value's JSON.
pub fn encode(value: &impl serde::Serialize) -> Vec<u8> {
    // Replies are built from structs and maps with string keys only.
    serde_json::to_vec(value).expect("a reply serialises to JSON")
}

/// Who is answered, and of what kind an object is.
#[derive(Clone, Copy)]
pub struct Asker<'a> {
    pub row: &'a Row,
    pub headers: &'a HeaderMap,
    pub query: &'a Query,
    pub now: Timestamp,
    pub warnings: &'a [String],
}

impl<'a> Asker<'a> {
    fn of(call: &'a Call) -> Self {
        Self {
            row: &call.row,
            headers: &call.headers,
            query: &call.query,
            now: call.now,
            warnings: &call.notes.warnings,
        }
    }
}

/// Turns a verb's answer into what goes over the wire.
pub fn render(call: &Call, reply: Reply) -> Result<Response<Body>, ApiError> {
    render_for(Asker::of(call), reply)
}

/// As [`render`], where nothing is stored and there is no call.
pub fn render_for(asker: Asker<'_>, reply: Reply) -> Result<Response<Body>, ApiError> {
    let headers = asker.headers;
    let mut response = match reply {
        Reply::Stream(response) => response,
        Reply::Plain { code, bytes } => finish(code, bytes, negotiate::negotiate(headers, Place::Plain)?, headers)?,
        Reply::Object { code, bytes } => {
            let accepted = negotiate::negotiate(headers, Place::Whole)?;
            finish(code, shape_object(asker, bytes, accepted)?, accepted, headers)?
        }
        Reply::List(list) => {
            let accepted = negotiate::negotiate(headers, Place::Whole)?;
            match (accepted.form, accepted.encoding) {
                (Form::Object, Encoding::Json) if !accepted.pretty => plain_list(asker, list)?,
                (Form::Object | Form::PartialList, Encoding::Protobuf) => match wire_list(asker, &list, accepted)? {
                    Some(encoded) => send(StatusCode::OK, Encoding::Protobuf, encoded, headers)?,
                    None => finish(StatusCode::OK, shape_list(asker, &list, accepted)?, accepted, headers)?,
                },
                _ => finish(StatusCode::OK, shape_list(asker, &list, accepted)?, accepted, headers)?,
            }
        }
    };
    add_warnings(&mut response, asker.warnings);
    Ok(response)
}

/// An object that is not stored, as the client wants it.
pub fn written(
    headers: &HeaderMap,
    code: StatusCode,
    object: Bytes,
    warnings: &[String],
) -> Result<Response<Body>, ApiError> {
    let mut response = finish(code, object, negotiate::negotiate(headers, Place::Plain)?, headers)?;
    add_warnings(&mut response, warnings);
    Ok(response)
}

fn shape_object(asker: Asker<'_>, bytes: Bytes, accepted: Accepted) -> Result<Bytes, ApiError> {
    match accepted.form {
        Form::Object => Ok(bytes),
        Form::Partial => {
            let mut out = Vec::new();
            write_partial(&mut out, accepted.meta, &bytes)?;
            Ok(out.into())
        }
        Form::Table => {
            let include = table::Include::parse(asker.query)?;
            let object = asker.row.kind.decode_stored(&bytes).map_err(ApiError::internal)?;
            let mut out = Vec::new();
            let revision = object.meta().resource_version.clone().unwrap_or_default();
            table::head(&mut out, accepted.meta, &table::ListMeta { revision: &revision, ..Default::default() });
            table::columns(&mut out, asker.row);
            table::rows(&mut out, asker.row, include, accepted.meta, asker.now, [&bytes[..]])?;
            out.push(b'}');
            Ok(out.into())
        }
        Form::PartialList => Err(misfit("PartialObjectMetadataList", "not a list", asker.row, "")),
    }
}

/// 406 for a form that the result does not have. Upstream shows its own type.
fn misfit(asked: &str, is: &str, row: &Row, suffix: &str) -> ApiError {
    let why = format!(
        "you requested {asked}, but the requested object is {is} (*{}.{}{suffix})",
        row.gvr.version, row.gvk.kind
    );
    ApiError::new(406, "NotAcceptable", why)
}

fn shape_list(asker: Asker<'_>, list: &List, accepted: Accepted) -> Result<Bytes, ApiError> {
    let revision = list.revision.to_string();
    let meta = list.meta(&revision);
    let items: usize = list.entries.iter().map(|entry| entry.bytes.len() + 1).sum();
    let mut out = Vec::with_capacity(items + LIST_HEAD);
    match accepted.form {
        Form::Object => {
            let api_version = asker.row.gvk.group_version().to_string();
            table::list_head(&mut out, &asker.row.list_kind, &api_version, &meta);
            let own = type_fields(asker.row);
            join(&mut out, &list.entries, |out, entry| {
                listbody::item(own.as_bytes(), &entry.bytes).into_iter().for_each(|part| out.extend_from_slice(part));
                Ok(())
            })?;
            out.extend_from_slice(b"]}");
        }
        Form::PartialList => {
            table::list_head(&mut out, "PartialObjectMetadataList", accepted.meta.api_version(), &meta);
            join(&mut out, &list.entries, |out, entry| write_partial(out, accepted.meta, &entry.bytes))?;
            out.extend_from_slice(b"]}");
        }
        Form::Table => {
            let include = table::Include::parse(asker.query)?;
            table::head(&mut out, accepted.meta, &meta);
            table::columns(&mut out, asker.row);
            let objects = list.entries.iter().map(|entry| &entry.bytes[..]);
            table::rows(&mut out, asker.row, include, accepted.meta, asker.now, objects)?;
            out.push(b'}');
        }
        Form::Partial => return Err(misfit("PartialObjectMetadata", "a list", asker.row, "List")),
    }
    Ok(out.into())
}

/// A list in protobuf, each item straight from what the cache holds; none where protobuf does not know its kind.
fn wire_list(asker: Asker<'_>, list: &List, accepted: Accepted) -> Result<Option<Bytes>, ApiError> {
    let revision = list.revision.to_string();
    let meta = list.meta(&revision);
    let mut metadata = b"{".to_vec();
    table::list_meta(&mut metadata, &meta);
    metadata.push(b'}');
    let api_version = asker.row.gvk.group_version().to_string();
    let kind = match accepted.form {
        Form::PartialList => (accepted.meta.api_version(), "PartialObjectMetadataList"),
        _ => (api_version.as_str(), &*asker.row.list_kind),
    };
    let items = list.entries.iter().map(|entry| &entry.bytes[..]);
    let expected = items.clone().map(<[u8]>::len).sum::<usize>() + LIST_HEAD;
    known(protobuf::encode_list(kind, &metadata, items, expected))
}

/// Objects as they are, in JSON: no reply is larger, and none needs less.
fn plain_list(asker: Asker<'_>, list: List) -> Result<Response<Body>, ApiError> {
    let mut head = Vec::with_capacity(LIST_HEAD);
    let revision = list.revision.to_string();
    let meta = list.meta(&revision);
    table::list_head(&mut head, &asker.row.list_kind, &asker.row.gvk.group_version().to_string(), &meta);
    let body = ListBody::new(head, type_fields(asker.row), list.entries);
    let mut response = if body.length() >= GZIP_MIN as u64 && negotiate::accepts_gzip(asker.headers) {
        let whole = body.now();
        packed(StatusCode::OK, Encoding::Json, &whole)?
    } else {
        let mut response = Response::new(body.map_err(|never| match never {}).boxed_unsync());
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(Encoding::Json.content_type()));
        response
    };
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    Ok(response)
}

/// A compressed reply.
fn packed(code: StatusCode, encoding: Encoding, body: &[u8]) -> Result<Response<Body>, ApiError> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::new(1));
    let packed = encoder.write_all(body).and_then(|()| encoder.finish()).map_err(ApiError::internal)?;
    let mut response = bytes(code, encoding.content_type(), packed);
    response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    Ok(response)
}

/// How the bytes of the row's objects start, for lists whose items do not repeat it. Those of custom resources do: their lists have
/// no type that would say it, so nothing that an object starts with is named here.
fn type_fields(row: &Row) -> String {
    if row.kind.is_custom() {
        return "\0".to_owned();
    }
    format!(r#"{{"apiVersion":"{}","kind":"{}","#, row.gvk.group_version(), row.gvk.kind)
}

fn join<T>(
    out: &mut Vec<u8>,
    items: &[T],
    mut write: impl FnMut(&mut Vec<u8>, &T) -> Result<(), ApiError>,
) -> Result<(), ApiError> {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, item)?;
    }
    Ok(())
}

/// The object's metadata as `PartialObjectMetadata`.
pub fn write_partial(out: &mut Vec<u8>, version: Meta, object: &[u8]) -> Result<(), ApiError> {
    let metadata = cursor::field(object, "metadata").map_err(ApiError::internal)?.unwrap_or(b"{}");
    out.extend_from_slice(br#"{"kind":"PartialObjectMetadata","apiVersion":""#);
    out.extend_from_slice(version.api_version().as_bytes());
    out.extend_from_slice(br#"","metadata":"#);
    out.extend_from_slice(metadata);
    out.push(b'}');
    Ok(())
}

/// Encodes and, where it pays, compresses.
pub(crate) fn finish(
    code: StatusCode,
    json: Bytes,
    accepted: Accepted,
    headers: &HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let mut encoding = accepted.encoding;
    let body = match encoding {
        Encoding::Json if accepted.pretty => indented(&json),
        Encoding::Json => json,
        Encoding::Yaml => yaml(&json)?,
        Encoding::Protobuf => match as_protobuf(&json)? {
            Some(encoded) => encoded,
            None => {
                encoding = Encoding::Json;
                json
            }
        },
    };
    send(code, encoding, body, headers)
}

/// Compresses where it pays.
fn send(code: StatusCode, encoding: Encoding, body: Bytes, headers: &HeaderMap) -> Result<Response<Body>, ApiError> {
    let zip = body.len() >= GZIP_MIN && negotiate::accepts_gzip(headers);
    let mut response = if zip { packed(code, encoding, &body)? } else { bytes(code, encoding.content_type(), body) };
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    Ok(response)
}

fn yaml(json: &[u8]) -> Result<Bytes, ApiError> {
    let value: serde_json::Value = serde_json::from_slice(json).map_err(ApiError::internal)?;
    Ok(serde_yaml::to_string(&value).map_err(ApiError::internal)?.into())
}

/// An object or list in protobuf; none where protobuf does not know its kind, which then stays JSON.
fn as_protobuf(json: &[u8]) -> Result<Option<Bytes>, ApiError> {
    known(protobuf::encode_object(json))
}

fn known(encoded: Result<Vec<u8>, protobuf::Error>) -> Result<Option<Bytes>, ApiError> {
    match encoded {
        Ok(encoded) => Ok(Some(encoded.into())),
        Err(protobuf::Error::Kind { .. }) => Ok(None),
        Err(error) => Err(ApiError::internal(error)),
    }
}

/// A refusal, with what was to be warned of before it came to that.
pub fn refuse(call: &Call, why: &ApiError) -> Response<Body> {
    let mut response = error(why);
    let accepted = negotiate::negotiate(&call.headers, Place::Plain);
    if accepted.is_ok_and(|accepted| accepted.encoding == Encoding::Protobuf)
        && let Ok(Some(encoded)) = as_protobuf(&order::envelope(&why.status()))
    {
        *response.body_mut() = full(encoded);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(protobuf::MEDIA_TYPE));
    }
    add_warnings(&mut response, &call.notes.warnings);
    response
}

/// `Warning: 299 - "…"`, once each.
pub fn add_warnings(response: &mut Response<Body>, warnings: &[impl AsRef<str>]) {
    let (mut seen, mut room) = (std::collections::BTreeSet::new(), WARNINGS_MAX);
    for warning in warnings.iter().map(AsRef::as_ref) {
        if warning.len() > room || !seen.insert(warning) {
            continue;
        }
        let clean: String = warning.chars().filter(|c| !c.is_control()).collect();
        let quoted = clean.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            room -= warning.len();
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

/// A body that is there as a whole.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A reply of these bytes.
pub fn bytes(code: StatusCode, content_type: &'static str, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A value as JSON.
pub fn json(code: StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    bytes(code, "application/json", encode(value))
}

/// What is no API object, as JSON that people read. Source: `handlers/responsewriters.WriteRawJSON`.
pub fn raw_json(code: StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    bytes(code, "application/json", serde_json::to_vec_pretty(value).unwrap_or_default())
}

/// A refusal as a `Status`.
pub fn error(error: &ApiError) -> Response<Body> {
    let code = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = bytes(code, "application/json", order::envelope(&error.status()));
    if let Some(seconds) = error.details.as_ref().and_then(|details| details.retry_after_seconds) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
