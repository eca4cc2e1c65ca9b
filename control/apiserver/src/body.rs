//! From the bytes of a request to an object, with upstream's words for what is wrong with them.
//!
//! Source: `k8s.io/apiserver/pkg/endpoints/handlers/{create,rest}.go`.

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use wharf_machinery::apply::Sent;
use wharf_machinery::body::{self, EncodingKind};
use wharf_machinery::tree::Value;
use wharf_machinery::{protobuf, strict};
use wharf_registry::Row;
use wharf_types::{ApiError, BoxObject, GroupVersion, Gvk};

use crate::managed;
use crate::options::FieldValidation;
use crate::reply::Body;

/// Longest body of a request, in bytes: upstream's `MaxRequestBodyBytes`.
pub const BODY_MAX: usize = 3 * 1024 * 1024;
/// Bytes of an unreadable body that its refusal quotes.
const SUMMARY_MAX: usize = 30;
/// Most unknown or duplicate fields that a reply names; upstream stops at as many.
const STRICT_ERRORS_MAX: usize = 100;

/// What a body may be written in.
pub const READ: &[&str] = &["application/json", "application/yaml", protobuf::MEDIA_TYPE];
/// The same for kinds that protobuf does not know.
const READ_AS_TEXT: &[&str] = &["application/json", "application/yaml"];

/// Reads a whole body within the limit.
pub async fn read(mut body: Body) -> Result<Bytes, ApiError> {
    let (mut pieces, mut length) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::bad_request(format!("read the request's body: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        length += data.len();
        if length > BODY_MAX {
            return Err(ApiError::too_large(format!("Request entity too large: limit is {BODY_MAX}")));
        }
        pieces.push(data);
    }
    // Most bodies come in one piece, which is kept as it is.
    Ok(if pieces.len() == 1 { pieces.remove(0) } else { pieces.concat().into() })
}

/// An object as a client has sent it.
pub struct Decoded<T> {
    pub object: T,
    /// `unknown field "spec.x"`, `duplicate field "spec.y"`.
    pub strict: Vec<String>,
}

/// True where `Content-Type` says protobuf.
pub fn is_protobuf(headers: &HeaderMap) -> bool {
    let named = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    named.split(';').next().is_some_and(|media_type| media_type.trim() == protobuf::MEDIA_TYPE)
}

/// The textual encoding that `Content-Type` names; JSON if it names none.
pub fn encoding(headers: &HeaderMap) -> Result<EncodingKind, ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE).filter(|value| !value.is_empty()) else {
        return Ok(EncodingKind::Json);
    };
    value.to_str().ok().and_then(EncodingKind::of).ok_or_else(|| ApiError::unsupported_media_type(READ))
}

/// Reads an object of the row's kind, and what was sent of its managed fields.
pub fn object(bytes: &[u8], headers: &HeaderMap, row: &Row) -> Result<Decoded<(BoxObject, Sent)>, ApiError> {
    let mut decoded = read_as(bytes, headers, &row.gvk, |mut document, unknown| {
        let sent = managed::take_sent(&mut document)?;
        let object = row.kind.read(document, unknown).map_err(|error| error.to_string())?;
        Ok((object, sent))
    })?;
    // Fields of custom resources are told by their schema, after the whole was read.
    if !row.kind.is_custom() && !is_protobuf(headers) && encoding(headers)? == EncodingKind::Json {
        strict::sort(&mut decoded.strict, bytes);
    }
    Ok(decoded)
}

/// Reads an object of another kind than the row's: `Scale`, `Binding`, `Eviction`.
pub fn typed<T: DeserializeOwned>(bytes: &[u8], headers: &HeaderMap, kind: &Gvk) -> Result<Decoded<T>, ApiError> {
    read_as(bytes, headers, kind, |document, unknown| {
        let mut report = |path: serde_ignored::Path<'_>| unknown(path.to_string().replace(".?", ""));
        T::deserialize(serde_ignored::Deserializer::new(document, &mut report)).map_err(|error| error.to_string())
    })
}

fn read_as<T>(
    bytes: &[u8],
    headers: &HeaderMap,
    kind: &Gvk,
    decode: impl FnOnce(Value<'_>, &mut dyn FnMut(String)) -> Result<T, String>,
) -> Result<Decoded<T>, ApiError> {
    let unrecognized = |why: String| {
        let summary = summary(bytes);
        let kind = &kind.kind;
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): {why} ({summary})"
        ))
    };
    let decoded = if is_protobuf(headers) {
        if !protobuf::knows(kind) {
            return Err(ApiError::unsupported_media_type(READ_AS_TEXT));
        }
        let value = protobuf::decode_object(bytes, kind).map_err(|error| unrecognized(error.to_string()))?;
        body::Decoded { value, duplicates: Vec::new() }
    } else {
        body::decode_tree(bytes, encoding(headers)?)
            .map_err(|error| unrecognized(format!("couldn't get version/kind; {error}")))?
    };
    let body::Decoded { value, duplicates } = decoded;
    if value.as_map().is_none() {
        return Err(unrecognized("couldn't get version/kind; the body is no object".to_owned()));
    }
    let sent = SentType::of(&value);
    check_type(&sent, kind)?;
    let mut strict = duplicates;
    let object = decode(value, &mut |path| {
        if strict.len() < STRICT_ERRORS_MAX {
            strict.push(format!("unknown field {path:?}"));
        }
    });
    let object = object.map_err(|why| cannot_handle(&sent, kind, &why))?;
    Ok(Decoded { object, strict })
}

/// What a body says it is.
struct SentType {
    api_version: String,
    kind: String,
}

impl SentType {
    fn of(value: &Value<'_>) -> Self {
        let text = |field| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self { api_version: text("apiVersion"), kind: text("kind") }
    }
}

/// Refuses a body that says it is of another kind. One that says nothing is what the path says.
pub fn check_kind(value: &serde_json::Value, expected: &Gvk) -> Result<(), ApiError> {
    let text = |field| value.get(field).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    check_type(&SentType { api_version: text("apiVersion"), kind: text("kind") }, expected)
}

fn check_type(sent: &SentType, expected: &Gvk) -> Result<(), ApiError> {
    let SentType { api_version, kind } = sent;
    if !kind.is_empty() && *kind != expected.kind {
        let why = format!(
            "converting ({}.{kind}) to ({}.{}): unknown conversion",
            GroupVersion::parse(api_version).version,
            expected.version,
            expected.kind
        );
        return Err(cannot_handle(sent, expected, &why));
    }
    let expected_version = expected.group_version().to_string();
    if !api_version.is_empty() && *api_version != expected_version {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({expected_version})"
        )));
    }
    Ok(())
}

fn cannot_handle(sent: &SentType, expected: &Gvk, why: &str) -> ApiError {
    let kind = if sent.kind.is_empty() { &*expected.kind } else { &sent.kind };
    let api_version = match sent.api_version.as_str() {
        "" => expected.group_version(),
        api_version => GroupVersion::parse(api_version),
    };
    let version = api_version.version;
    ApiError::bad_request(format!("{kind} in version {version:?} cannot be handled as a {}: {why}", expected.kind))
}

/// What becomes of unknown and duplicate fields: nothing, warnings, or a refusal.
pub fn judge(strict: Vec<String>, validation: FieldValidation, kind: &Gvk) -> Result<Vec<String>, ApiError> {
    match validation {
        _ if strict.is_empty() => Ok(strict),
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Warn => Ok(strict),
        FieldValidation::Strict => Err(ApiError::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {}",
            kind.kind,
            kind.version,
            kind.kind,
            strict_message(&strict)
        ))),
    }
}

pub fn strict_message(strict: &[String]) -> String {
    format!("strict decoding error: {}", strict.join(", "))
}

/// The start of a body: text if it looks like JSON, else in hexadecimal.
fn summary(bytes: &[u8]) -> String {
    let (start, more) = (&bytes[..bytes.len().min(SUMMARY_MAX)], bytes.len() > SUMMARY_MAX);
    let shown = match bytes.first() {
        None => return "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(start).into_owned(),
        Some(_) => hex::encode(start),
    };
    if more { format!("{shown} ...") } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expected: Result<&[&str], &str>) {
        let rows = wharf_registry::builtin::rows();
        let row = rows.iter().find(|row| row.gvr.resource == "configmaps").expect("configmaps are built in");
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
        match (object(body.as_bytes(), &headers, row), expected) {
            (Ok(mut decoded), Ok(strict)) => {
                // Their order is that of the reader's map.
                decoded.strict.sort_unstable();
                assert_eq!(decoded.strict, strict, "{body}");
            }
            (Err(error), Err(message)) => assert!(error.message.starts_with(message), "{body}: {}", error.message),
            (Ok(_), Err(message)) => panic!("{body} is taken; expected {message}"),
            (Err(error), Ok(_)) => panic!("{body}: {}", error.message),
        }
    }

    #[test]
    fn bodies_are_read_or_refused_in_upstreams_words() {
        check(r#"{"metadata":{"name":"a"}}"#, Ok(&[]));
        check(r#"{"apiVersion":"v1","kind":"ConfigMap","data":{"a":"b"}}"#, Ok(&[]));
        check(
            r#"{"sped":1,"metadata":{"nam":1}}"#,
            Ok(&[r#"unknown field "metadata.nam""#, r#"unknown field "sped""#]),
        );
        check(
            "",
            Err(
                "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: ",
            ),
        );
        check("[]", Err("the object provided is unrecognized (must be of type ConfigMap)"));
        check(
            r#"{"kind":"Secret","apiVersion":"v1"}"#,
            Err(
                "Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (v1.ConfigMap): unknown conversion",
            ),
        );
        check(
            r#"{"kind":"ConfigMap","apiVersion":"v2"}"#,
            Err("the API version in the data (v2) does not match the expected API version (v1)"),
        );
        check(r#"{"data":{"a":1}}"#, Err("ConfigMap in version \"v1\" cannot be handled as a ConfigMap: "));
    }
}
