//! PATCH: JSON patch, merge patch and strategic merge patch, on the stored object as a GET returns it.
//!
//! A patch that meets another writer is applied again to what that one left. Server-side apply is not served yet: 415.
//! Source: `k8s.io/apiserver/pkg/endpoints/handlers/patch.go`.

use bytes::Bytes;
use http::{HeaderMap, header};
use serde_json::Value;
use wharf_machinery::{body as reader, patch, schema};
use wharf_types::field::{self, Path};
use wharf_types::{ApiError, Gvk};

use crate::body;
use crate::call::Call;
use crate::options::{FieldValidation, WriteOptions};
use crate::reply::Reply;
use crate::verbs::update;
use crate::verbs::write::{self, Plan, Rules};

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

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
}

impl Patch {
    pub fn read(bytes: &[u8], headers: &HeaderMap) -> Result<Self, ApiError> {
        let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let kind = match media_type.split(';').next().unwrap_or_default().trim() {
            JSON => Kind::Json,
            MERGE => Kind::Merge,
            STRATEGIC => Kind::Strategic,
            _ => return Err(ApiError::unsupported_media_type(&[JSON, MERGE, STRATEGIC])),
        };
        let decoded = reader::decode(bytes, reader::EncodingKind::Json)
            .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(QUOTED_MAX)]).into_owned();
        Ok(Self { kind, value: decoded.value, text, duplicates: decoded.duplicates })
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
        let errors = [field::Error::invalid(&Path::new("patch"), &self.text, why)];
        ApiError::invalid(&Gvk { group: "".into(), version: "".into(), kind: "".into() }, "", &errors)
    }

    /// What unknown and duplicate fields come to, as warnings or a refusal.
    pub fn judge(&self, unknown: Vec<String>, validation: FieldValidation) -> Result<Vec<String>, ApiError> {
        let strict: Vec<String> = self.duplicates.iter().cloned().chain(unknown).collect();
        match validation {
            FieldValidation::Ignore => Ok(Vec::new()),
            FieldValidation::Strict if !strict.is_empty() => Err(self.refuse(body::strict_message(&strict))),
            _ => Ok(strict),
        }
    }
}

pub async fn patch(call: &mut Call, rules: Rules, bytes: Bytes) -> Result<Reply, ApiError> {
    let options = WriteOptions::parse(&call.query, "PatchOptions")?;
    let patch = Patch::read(&bytes, &call.headers)?;
    if patch.kind == Kind::Strategic && call.row.kind.is_custom() {
        return Err(ApiError::unsupported_media_type(&[JSON, MERGE]));
    }
    drop(bytes);
    let row = call.row.clone();
    let mut warnings = Vec::new();
    let target = Target { name: call.name.clone(), namespace: call.namespace.clone() };
    let not_found = call.not_found();
    let mut make = |entry: Option<&wharf_cache::Entry>| {
        let Some(entry) = entry else { return Err(not_found.clone()) };
        let mut document: Value = serde_json::from_slice(&entry.bytes).map_err(ApiError::internal)?;
        patch.apply(&mut document, &row.gvk)?;
        body::check_kind(&document, &row.gvk)?;
        let mut unknown = Vec::new();
        let mut object = row
            .kind
            .decode(&document, &mut |path| unknown.push(format!("unknown field {path:?}")))
            .map_err(|error| patch.refuse(error.to_string()))?;
        warnings = patch.judge(unknown, options.validation)?;
        target.check(object.meta())?;
        row.kind.default(&mut *object);
        Ok(object)
    };
    let plan = Plan { rules, dry_run: options.dry_run, whole: false };
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
