//! What a watch sends: each event in the form and encoding that was asked for.
//!
//! Forms other than the cache's own are made once for each event, and shared by all who ask for them.

use std::sync::Arc;

use bytes::Bytes;
use wharf_cache::Delivery;
use wharf_machinery::protobuf;
use wharf_registry::Row;
use wharf_store::Revision;
use wharf_types::{ApiError, order};

use crate::call::Call;
use crate::negotiate::{Accepted, Encoding, Meta};
use crate::reply;
use crate::server::Clock;
use crate::table::{self, Include};

/// What each object is sent as.
pub enum Shape {
    Object,
    Partial,
    /// The first Table carries the columns, the others none.
    Table {
        include: Include,
        started: bool,
    },
}

pub struct Frames {
    row: Arc<Row>,
    clock: Clock,
    shape: Shape,
    /// In which version metadata and Tables are written.
    meta: Meta,
    /// Frames are protobuf: objects as they are, or their metadata.
    protobuf: bool,
}

impl Frames {
    pub fn new(call: &Call, shape: Shape, accepted: &Accepted) -> Self {
        let known = matches!(shape, Shape::Partial) || protobuf::knows(&call.row.gvk);
        let (row, clock) = (call.row.clone(), call.server.clock.clone());
        let protobuf = accepted.encoding == Encoding::Protobuf && known;
        Self { row, clock, shape, meta: accepted.meta, protobuf }
    }

    pub fn row(&self) -> &Arc<Row> {
        &self.row
    }

    pub fn content_type(&self) -> &'static str {
        if self.protobuf { protobuf::STREAM_MEDIA_TYPE } else { "application/json" }
    }

    pub fn frame(&mut self, delivery: &Delivery) -> Bytes {
        let (kind, object, meta) = (delivery.kind.as_str(), &delivery.entry.bytes, self.meta);
        match &mut self.shape {
            Shape::Object if self.protobuf => delivery.encoded(FORMAT_PROTOBUF, || wire_frame(kind, object, None)),
            Shape::Object => delivery.frame(),
            Shape::Partial if self.protobuf => delivery.encoded(in_version(FORMAT_PARTIAL_PROTOBUF, meta), || {
                wire_frame(kind, object, Some((meta.api_version(), "PartialObjectMetadata")))
            }),
            Shape::Partial => delivery.encoded(in_version(FORMAT_PARTIAL, meta), || {
                wrap(kind, |out| reply::write_partial(out, meta, object))
            }),
            Shape::Table { include, started } => {
                let (include, first) = (*include, !std::mem::replace(started, true));
                let now = (self.clock)();
                let form = TableForm { include, first, meta };
                let make = || table_frame(kind, &self.row, form, now, object, delivery.entry.revision);
                if first { make() } else { delivery.encoded(in_version(format_of(include), meta), make) }
            }
        }
    }

    /// An object of nothing but its metadata, in the watch's form; as a Table a row for it, with all that says of the bookmark.
    pub fn bookmark(&mut self, revision: Revision, initial_end: bool) -> Bytes {
        let annotations = if initial_end { r#","annotations":{"k8s.io/initial-events-end":"true"}"# } else { "" };
        let (kind, api_version) = match self.shape {
            Shape::Partial => ("PartialObjectMetadata".to_owned(), self.meta.api_version().to_owned()),
            Shape::Object | Shape::Table { .. } => {
                (self.row.gvk.kind.to_string(), self.row.gvk.group_version().to_string())
            }
        };
        let object = format!(
            r#"{{"kind":"{kind}","apiVersion":"{api_version}","metadata":{{"resourceVersion":"{revision}"{annotations}}}}}"#
        );
        match &mut self.shape {
            Shape::Object | Shape::Partial if self.protobuf => wire_frame("BOOKMARK", object.as_bytes(), None),
            Shape::Object | Shape::Partial => format!("{{\"type\":\"BOOKMARK\",\"object\":{object}}}\n").into(),
            Shape::Table { include, started } => {
                let first = !std::mem::replace(started, true);
                // Who leaves objects out is still told where the initial events end.
                let include = if initial_end && *include == Include::None { Include::Metadata } else { *include };
                let form = TableForm { include, first, meta: self.meta };
                table_frame("BOOKMARK", &self.row, form, (self.clock)(), object.as_bytes(), revision)
            }
        }
    }

    pub fn error(&self, error: &ApiError) -> Bytes {
        match self.protobuf {
            true => wire_frame("ERROR", &status(error), None),
            false => error_frame(error),
        }
    }
}

/// Forms of a frame beside the object's own, as [`Delivery::encoded`] tells them apart.
const FORMAT_PARTIAL: u8 = 1;
const FORMAT_PROTOBUF: u8 = 5;
const FORMAT_PARTIAL_PROTOBUF: u8 = 6;

/// Formats of the older version of `meta.k8s.io` come after those of the newer.
const FORMATS_OF_BETA: u8 = 16;

fn in_version(format: u8, meta: Meta) -> u8 {
    match meta {
        Meta::V1 => format,
        Meta::V1beta1 => FORMATS_OF_BETA + format,
    }
}

fn format_of(include: Include) -> u8 {
    match include {
        Include::None => 2,
        Include::Metadata => 3,
        Include::Object => 4,
    }
}

/// A frame of protobuf; that of an error where the object cannot be written.
fn wire_frame(kind: &str, object: &[u8], shown: Option<(&str, &str)>) -> Bytes {
    let encoded = protobuf::frame(kind, object, shown).or_else(|error| {
        let status = status(&ApiError::internal(error));
        protobuf::frame("ERROR", &status, None)
    });
    encoded.unwrap_or_default().into()
}

/// How a change is shown as a Table.
#[derive(Clone, Copy)]
struct TableForm {
    include: Include,
    /// With columns.
    first: bool,
    meta: Meta,
}

fn table_frame(
    kind: &str,
    row: &Row,
    TableForm { include, first, meta }: TableForm,
    now: jiff::Timestamp,
    object: &[u8],
    revision: Revision,
) -> Bytes {
    wrap(kind, |out| {
        table::head(out, meta, &table::ListMeta { revision: &revision.to_string(), ..Default::default() });
        if first {
            table::columns(out, row);
        } else {
            out.extend_from_slice(br#","columnDefinitions":null"#);
        }
        table::rows(out, row, include, meta, now, [object])?;
        out.push(b'}');
        Ok(())
    })
}

/// `{"type":…,"object":…}\n`; an ERROR event where the object cannot be written.
fn wrap(kind: &str, object: impl FnOnce(&mut Vec<u8>) -> Result<(), ApiError>) -> Bytes {
    let mut out = format!(r#"{{"type":"{kind}","object":"#).into_bytes();
    match object(&mut out) {
        Ok(()) => {
            out.extend_from_slice(b"}\n");
            out.into()
        }
        Err(error) => error_frame(&error),
    }
}

fn error_frame(error: &ApiError) -> Bytes {
    let mut out = br#"{"type":"ERROR","object":"#.to_vec();
    out.extend_from_slice(&status(error));
    out.extend_from_slice(b"}\n");
    out.into()
}

fn status(error: &ApiError) -> Vec<u8> {
    order::envelope(&error.status())
}
