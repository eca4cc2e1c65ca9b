//! `Table` of `meta.k8s.io`: what `kubectl get` prints, made from a strategy's columns.
//!
//! Source: `k8s.io/apiserver/pkg/endpoints/handlers/response.go`. Written straight into the reply's buffer.

use jiff::Timestamp;
use serde_json::{Value, json};
use wharf_registry::{Column, Row};
use wharf_types::ApiError;
use wharf_types::order::{ENVELOPES, Ordered};

use crate::negotiate::Meta;
use crate::query::Query;
use crate::reply;

/// What each row carries beside its cells: the parameter `includeObject`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Include {
    None,
    #[default]
    Metadata,
    Object,
}

impl Include {
    pub fn parse(query: &Query) -> Result<Self, ApiError> {
        match query.get("includeObject").unwrap_or_default() {
            "" | "Metadata" => Ok(Include::Metadata),
            "None" => Ok(Include::None),
            "Object" => Ok(Include::Object),
            other => Err(ApiError::bad_request(format!("unrecognized includeObject value: {other:?}"))),
        }
    }
}

/// A list's metadata.
#[derive(Clone, Copy, Debug, Default)]
pub struct ListMeta<'a> {
    pub revision: &'a str,
    pub continue_token: Option<&'a str>,
    pub remaining: Option<usize>,
}

/// Everything of a list up to its first item.
pub fn list_head(out: &mut Vec<u8>, kind: &str, api_version: &str, meta: &ListMeta<'_>) {
    out.extend_from_slice(format!(r#"{{"kind":"{kind}","apiVersion":"{api_version}","#).as_bytes());
    list_meta(out, meta);
    out.extend_from_slice(br#","items":["#);
}

/// Everything of a Table up to its columns.
pub fn head(out: &mut Vec<u8>, version: Meta, meta: &ListMeta<'_>) {
    out.extend_from_slice(format!(r#"{{"kind":"Table","apiVersion":"{}","#, version.api_version()).as_bytes());
    list_meta(out, meta);
}

/// `"metadata":{…}`
pub fn list_meta(out: &mut Vec<u8>, meta: &ListMeta<'_>) {
    // Revisions are digits, and tokens are base64: nothing here needs escapes. What is not stored has no revision.
    let mut text = match meta.revision {
        "" | "0" => r#""metadata":{"#.to_owned(),
        revision => format!(r#""metadata":{{"resourceVersion":"{revision}""#),
    };
    if let Some(token) = meta.continue_token {
        text += &format!(r#","continue":"{token}""#);
    }
    if let Some(remaining) = meta.remaining {
        text += &format!(r#","remainingItemCount":{remaining}"#);
    }
    text.push('}');
    out.extend_from_slice(text.as_bytes());
}

/// `,"columnDefinitions":[…]`
pub fn columns(out: &mut Vec<u8>, row: &Row) {
    let column = |column: &Column<&str>| {
        json!({
            "name": column.name,
            "type": column.kind,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        })
    };
    let columns: Value = row.kind.columns().iter().map(column).collect();
    out.extend_from_slice(br#","columnDefinitions":"#);
    let columns = Ordered::part(&columns, ENVELOPES, "columnDefinitions");
    serde_json::to_writer(out, &columns).expect("columns serialise to JSON");
}

/// `,"rows":[…]`
pub fn rows<'a>(
    out: &mut Vec<u8>,
    row: &Row,
    include: Include,
    version: Meta,
    now: Timestamp,
    objects: impl IntoIterator<Item = &'a [u8]>,
) -> Result<(), ApiError> {
    out.extend_from_slice(br#","rows":["#);
    for (index, bytes) in objects.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let cells = row.kind.cells(bytes, now).map_err(ApiError::internal)?;
        out.extend_from_slice(br#"{"cells":"#);
        serde_json::to_writer(&mut *out, &cells).map_err(ApiError::internal)?;
        match include {
            Include::None => out.extend_from_slice(br#","object":null"#),
            Include::Metadata => {
                out.extend_from_slice(br#","object":"#);
                reply::write_partial(out, version, bytes)?;
            }
            Include::Object => {
                out.extend_from_slice(br#","object":"#);
                out.extend_from_slice(bytes);
            }
        }
        out.push(b'}');
    }
    out.push(b']');
    Ok(())
}
