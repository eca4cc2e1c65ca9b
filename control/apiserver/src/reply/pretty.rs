//! JSON for people to read.

use bytes::Bytes;
use http::{Response, header};
use http_body_util::BodyExt;
use wharf_types::{ApiError, order};

use super::{Body, error, full};

/// The same document on many lines, its keys in the same order. Source: Go's `json.Indent`.
pub(super) fn indented(json: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(json.len() * 2);
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b' ', 2 * depth));
    };
    let (mut depth, mut quoted, mut escaped, mut fresh) = (0_usize, false, false, false);
    for &byte in json {
        if quoted {
            out.push(byte);
            quoted = escaped || byte != b'"';
            escaped = byte == b'\\' && !escaped;
            continue;
        }
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => continue,
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if !std::mem::take(&mut fresh) {
                    line(&mut out, depth);
                }
                out.push(byte);
                continue;
            }
            _ => {}
        }
        if std::mem::take(&mut fresh) {
            line(&mut out, depth);
        }
        out.push(byte);
        match byte {
            b'{' | b'[' => (depth, fresh) = (depth + 1, true),
            b',' => line(&mut out, depth),
            b':' => out.push(b' '),
            b'"' => quoted = true,
            _ => {}
        }
    }
    out.into()
}

/// A refusal for people to read.
pub fn pretty_error(why: &ApiError) -> Response<Body> {
    let mut response = error(why);
    *response.body_mut() = full(indented(&order::envelope(&why.status())));
    response
}

/// An answer for people to read, if it is JSON.
pub async fn pretty(response: Response<Body>) -> Result<Response<Body>, ApiError> {
    let is_json =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes() == b"application/json");
    if !is_json || response.headers().contains_key(header::CONTENT_ENCODING) {
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let whole = body.collect().await.map_err(ApiError::internal)?.to_bytes();
    Ok(Response::from_parts(parts, full(indented(&whole))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pretty_document_keeps_its_order_and_its_text() {
        let check = |json: &str, expected: &str| assert_eq!(indented(json.as_bytes()), expected.as_bytes(), "{json}");
        check(r#"{"b":[1,{}],"a":"x, \"{y\\"}"#, "{\n  \"b\": [\n    1,\n    {}\n  ],\n  \"a\": \"x, \\\"{y\\\\\"\n}");
        check("[]", "[]");
        check(r#"{"a":{"b":[]}}"#, "{\n  \"a\": {\n    \"b\": []\n  }\n}");
    }
}
