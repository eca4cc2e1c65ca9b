//! PATCH: JSON patch, merge patch and strategic merge patch, on the stored object as a GET returns it; and server-side apply.
//!
//! A patch that meets another writer is applied again to what that one left. Source: `k8s.io/apiserver/pkg/endpoints/handlers/patch.go`.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, header};
use serde_json::Value;
use wharf_cache::Entry;
use wharf_machinery::apply::{Sent, go_value, text};
use wharf_machinery::{body as reader, patch, schema, strict, tree};
use wharf_types::field::{self, Path};
use wharf_types::{ApiError, Gvk};

use crate::body;
use crate::call::Call;
use crate::managed::{self, Made, Owners};
use crate::options::{FieldValidation, WriteOptions};
use crate::reply::Reply;
use crate::verbs::create::settle_namespace;
use crate::verbs::update;
use crate::verbs::write::{self, Plan, Rules};

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// Bytes of a patch that a refusal quotes.
const QUOTED_MAX: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Json,
    Merge,
    Strategic,
}

/// A patch that has been read.
pub struct Patch {
    kind: Kind,
    value: Value,
    /// As it was sent, for messages.
    text: String,
    duplicates: Vec<String>,
    /// True where the patch may be about managed fields, which otherwise need not be read.
    on_managed_fields: bool,
}

fn media_type(headers: &HeaderMap) -> &str {
    let sent = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    sent.split(';').next().unwrap_or_default().trim()
}

/// What Go's converter, which strategic merge patches go through, says of a value of the wrong type; none for what it says
/// in other words. Source: `k8s.io/apimachinery/pkg/runtime/converter.go`.
fn converter_message(why: &str) -> Option<String> {
    let (found, expected) = why.strip_prefix("invalid type: ")?.split_once(", expected ")?;
    let found = match found.split(' ').next()? {
        "string" => "string",
        "integer" => "int64",
        "floating" => "float64",
        "boolean" => "bool",
        "map" => "map",
        "sequence" => "slice",
        _ => return None,
    };
    match expected {
        "a map" => Some(format!("cannot restore map from {found}")),
        "a sequence" => Some(format!("cannot restore slice from {found}")),
        "a boolean" => convert(found, "bool"),
        "a string" => convert(found, "string"),
        "i32" => convert(found, "int32"),
        "i64" => convert(found, "int64"),
        of if of.starts_with(|first: char| first.is_ascii_uppercase()) => {
            Some(format!("cannot restore struct from: {found}"))
        }
        _ => None,
    }
}

/// Between simple types. What Go itself cannot convert at all, the converter says that it does not know.
fn convert(from: &str, to: &str) -> Option<String> {
    match (from, to) {
        ("int64", "string") | ("float64", "int32" | "int64") => Some(format!("cannot convert {from} to {to}")),
        _ => Some(format!("unrecognized type: {to}")),
    }
}

/// True for a server-side apply.
pub fn is_apply(headers: &HeaderMap) -> bool {
    media_type(headers) == APPLY
}

impl Patch {
    pub fn read(bytes: &[u8], headers: &HeaderMap) -> Result<Self, ApiError> {
        let kind = match media_type(headers) {
            JSON => Kind::Json,
            MERGE => Kind::Merge,
            STRATEGIC => Kind::Strategic,
            _ => return Err(ApiError::unsupported_media_type(&[JSON, MERGE, STRATEGIC, APPLY])),
        };
        let decoded = reader::decode(bytes, reader::EncodingKind::Json)
            .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(QUOTED_MAX)]).into_owned();
        let word = b"managedFields";
        let on_managed_fields = bytes.windows(word.len()).any(|window| window == word);
        Ok(Self { kind, value: decoded.value, text, duplicates: decoded.duplicates, on_managed_fields })
    }

    pub fn apply(&self, document: &mut Value, kind: &Gvk) -> Result<(), ApiError> {
        let applied = match self.kind {
            Kind::Json => patch::json(document, &self.value),
            Kind::Merge => patch::merge(document, &self.value),
            Kind::Strategic => patch::strategic(document, &self.value, &schema::type_name(kind)),
        };
        applied.map_err(ApiError::from)
    }

    /// 422: what the patch makes of the object is no object of the kind.
    fn refuse(&self, why: String) -> ApiError {
        let shown = match self.kind {
            Kind::Strategic => go_value(&tree::Value::from(self.value.clone())),
            Kind::Json | Kind::Merge => self.text.clone(),
        };
        let errors = [field::Error::invalid(&Path::new("patch"), &shown, why)];
        ApiError::invalid(&Gvk { group: "".into(), version: "".into(), kind: "".into() }, "", &errors)
    }

    /// Why the object that the patch makes cannot be read, in upstream's words.
    fn unreadable(&self, why: &str) -> String {
        let converted = if self.kind == Kind::Strategic { converter_message(why) } else { None };
        converted.unwrap_or_else(|| why.to_owned())
    }

    /// What unknown and duplicate fields come to, as warnings or a refusal.
    pub fn judge(&self, unknown: Vec<String>, validation: FieldValidation) -> Result<Vec<String>, ApiError> {
        let prefix = if self.kind == Kind::Json { "json patch " } else { "" };
        let duplicates = self.duplicates.iter().map(|duplicate| format!("{prefix}{duplicate}"));
        let strict: Vec<String> = duplicates.chain(unknown).collect();
        match validation {
            FieldValidation::Ignore => Ok(Vec::new()),
            FieldValidation::Strict if !strict.is_empty() => Err(self.refuse(body::strict_message(&strict))),
            _ => Ok(strict),
        }
    }

    /// The object that the patch makes of what is stored, with what unknown and duplicate fields come to.
    fn object(&self, call: &Call, entry: &Entry, validation: FieldValidation) -> Result<(Made, Vec<String>), ApiError> {
        let row = &call.row;
        let stored = if self.on_managed_fields { Cow::Borrowed(&entry.bytes[..]) } else { text::split(&entry.bytes).0 };
        let mut document: Value = serde_json::from_slice(&stored).map_err(ApiError::internal)?;
        self.apply(&mut document, &row.gvk)?;
        body::check_kind(&document, &row.gvk)?;
        let mut document = tree::Value::from(document);
        let sent = match self.on_managed_fields {
            true => managed::take_sent(&mut document).map_err(|why| self.refuse(why))?,
            false => Sent::Nothing,
        };
        let mut unknown = Vec::new();
        let read = row.kind.read(document, &mut |path| unknown.push(format!("unknown field {path:?}")));
        let mut object = read.map_err(|error| self.refuse(self.unreadable(&error.to_string())))?;
        let warnings = self.judge(unknown, validation)?;
        Target::of(call).check(object.meta())?;
        row.kind.default(&mut *object);
        Ok((Made { object, owners: Owners::Sent(sent) }, warnings))
    }
}

pub async fn patch(call: &mut Call, rules: Rules, bytes: Bytes) -> Result<Reply, ApiError> {
    if is_apply(&call.headers) {
        return apply(call, rules, bytes).await;
    }
    let options = WriteOptions::parse_patch(&call.query, false)?;
    let patch = Patch::read(&bytes, &call.headers)?;
    if patch.kind == Kind::Strategic && call.row.kind.is_custom() {
        return Err(ApiError::unsupported_media_type(&[JSON, MERGE]));
    }
    drop(bytes);
    let mut warnings = Vec::new();
    let mut make = |call: &Call, entry: Option<&Entry>| {
        let (made, said) = patch.object(call, entry.ok_or_else(|| call.not_found())?, options.validation)?;
        warnings = said;
        Ok(made)
    };
    let plan = Plan { rules, dry_run: options.dry_run, whole: false, may_create: false };
    let written = write::update(call, plan, &mut make).await?;
    call.warn(warnings);
    Ok(update::reply(written))
}

/// A configuration to apply.
pub struct Config<'b> {
    pub document: tree::Value<'b>,
    /// What is wrong with fields that come twice.
    twice: Option<String>,
}

impl<'b> Config<'b> {
    /// YAML, of which JSON is a part; one document.
    pub fn read(bytes: &'b [u8]) -> Result<Self, ApiError> {
        let bad = |why: String| ApiError::bad_request(format!("error decoding YAML: {why}"));
        // Most clients send JSON, which the JSON reader reads many times faster.
        let decoded = reader::decode_tree(bytes, reader::EncodingKind::Json)
            .or_else(|_| reader::decode_tree(bytes, reader::EncodingKind::Yaml))
            .map_err(|error| bad(error.to_string()))?;
        match decoded.value {
            tree::Value::Map(_) | tree::Value::Null => {}
            _ => return Err(bad("error unmarshaling JSON: a configuration is an object".to_owned())),
        }
        // Told as of YAML, whichever it was read as.
        let twice = if decoded.duplicates.is_empty() { None } else { strict::yaml_duplicates(bytes) };
        Ok(Self { document: decoded.value, twice })
    }

    /// What duplicate fields come to. Fields that the kind does not have are refused by the merge, whatever is asked.
    pub fn judge(&self, validation: FieldValidation) -> Result<Vec<String>, ApiError> {
        match (&self.twice, validation) {
            (None, _) | (_, FieldValidation::Ignore) => Ok(Vec::new()),
            (Some(why), FieldValidation::Strict) => {
                Err(ApiError::bad_request(format!("error strict decoding YAML: {why}")))
            }
            (Some(why), FieldValidation::Warn) => Ok(vec![why.clone()]),
        }
    }
}

/// Server-side apply: the configuration is merged into the object, which is made if it is not there.
async fn apply(call: &mut Call, rules: Rules, bytes: Bytes) -> Result<Reply, ApiError> {
    let options = WriteOptions::parse_patch(&call.query, true)?;
    let config = Config::read(&bytes)?;
    let mut warnings = Vec::new();
    let mut make = |call: &Call, entry: Option<&Entry>| {
        let (mut object, managed) = managed::apply(call, entry, &config.document, options.force)?;
        warnings = config.judge(options.validation)?;
        let meta = object.meta_mut();
        if entry.is_none()
            && let Some(uid) = meta.uid.as_deref().filter(|uid| !uid.is_empty())
        {
            let why =
                format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
            return Err(ApiError::conflict(call.gvr(), &call.name, why));
        }
        settle_namespace(call.namespace.as_deref(), meta)?;
        update::check_name(call, meta)?;
        call.row.kind.default(&mut *object);
        Ok(Made { object, owners: Owners::Settled(managed) })
    };
    let plan = Plan { rules, dry_run: options.dry_run, whole: false, may_create: true };
    let written = write::update(call, plan, &mut make).await?;
    call.warn(warnings);
    Ok(update::reply(written))
}

/// A patch moves no object to another name.
struct Target {
    name: String,
    namespace: Option<String>,
}

impl Target {
    fn of(call: &Call) -> Self {
        Self { name: call.name.clone(), namespace: call.namespace.clone() }
    }

    fn check(&self, meta: &wharf_types::meta::ObjectMeta) -> Result<(), ApiError> {
        let (name, namespace) = (meta.name.as_deref().unwrap_or_default(), meta.namespace.as_deref());
        if name != self.name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                self.name
            )));
        }
        match (&self.namespace, namespace) {
            (Some(expected), Some(own)) if own != expected => Err(ApiError::bad_request(format!(
                "the namespace of the object ({own}) does not match the namespace on the request ({expected})"
            ))),
            _ => Ok(()),
        }
    }
}
