//! AdmissionReview: what is sent to a webhook, and how its answer is read.
//!
//! Source: `k8s.io/apiserver/pkg/admission/plugin/webhook/request/admissionreview.go`.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use wharf_types::meta::Status;
use wharf_types::order::{ENVELOPES, Ordered};

use super::Hook;
use crate::subject::View;

const V1: &str = "admission.k8s.io/v1";
const V1_BETA1: &str = "admission.k8s.io/v1beta1";
const KIND: &str = "AdmissionReview";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No JSON, or none of an object: what decoding says upstream.
    #[error("failed to call webhook: {0}")]
    Unreadable(String),
    #[error("received invalid webhook response: {0}")]
    Invalid(String),
    #[error("received undecodable patch in webhook response: {0}")]
    Patch(String),
}

/// One question.
pub struct Review {
    uid: String,
    version: &'static str,
    mutating: bool,
    bytes: Bytes,
}

/// The answer.
#[derive(Debug, Default)]
pub struct Response {
    pub allowed: bool,
    pub result: Option<Status>,
    /// A JSON patch with operations in it.
    pub patch: Option<Value>,
    pub audit_annotations: BTreeMap<String, String>,
    pub warnings: Vec<String>,
}

/// The document, written from what it shows without a copy of it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Question<'a> {
    kind: &'static str,
    api_version: &'static str,
    request: Asked<'a>,
}

struct Asked<'a> {
    view: &'a View,
    uid: &'a str,
}

impl Serialize for Asked<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("uid", self.uid)?;
        let said =
            Ordered::part(&self.view.request, ENVELOPES, "request").members().filter(|(field, _)| *field != "uid");
        // The objects stand before these, as they are.
        let (before, after): (Vec<_>, Vec<_>) = said.partition(|(field, _)| !matches!(*field, "dryRun" | "options"));
        before.iter().try_for_each(|(field, value)| map.serialize_entry(field, value))?;
        map.serialize_entry("object", &self.view.object)?;
        map.serialize_entry("oldObject", &self.view.old)?;
        after.iter().try_for_each(|(field, value)| map.serialize_entry(field, value))?;
        map.end()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    response: Option<Answer>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Answer {
    uid: String,
    allowed: bool,
    status: Option<Status>,
    patch: Option<String>,
    patch_type: Option<String>,
    audit_annotations: Option<BTreeMap<String, String>>,
    warnings: Option<Vec<String>>,
}

impl Review {
    pub fn new(hook: &Hook, view: &View) -> Result<Self, String> {
        let known = hook.review_versions.iter().find_map(|version| match version.as_str() {
            "v1" => Some(V1),
            "v1beta1" => Some(V1_BETA1),
            _ => None,
        });
        let version = known.ok_or("webhook does not accept known AdmissionReview versions (v1, v1beta1)")?;
        let uid = uuid::Uuid::new_v4().to_string();
        let question = Question { kind: KIND, api_version: version, request: Asked { view, uid: &uid } };
        let bytes = serde_json::to_vec(&question).map_err(|error| error.to_string())?;
        Ok(Self { uid, version, mutating: hook.mutating, bytes: bytes.into() })
    }

    pub fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    pub fn read(&self, body: &[u8]) -> Result<Response, Error> {
        let envelope: Envelope = serde_json::from_slice(body)
            .map_err(|error| Error::Unreadable(format!("couldn't get version/kind; json parse error: {error}")))?;
        let Some(answer) = envelope.response else {
            return Err(Error::Invalid("webhook response was absent".to_owned()));
        };
        let sent = answer.patch.as_deref().filter(|patch| !patch.is_empty());
        // In the older version only the patch is looked at.
        let patch = match self.version {
            V1 => {
                self.verify(&envelope.api_version, &envelope.kind, &answer)?;
                sent
            }
            _ => sent.filter(|_| self.mutating),
        };
        Ok(Response {
            allowed: answer.allowed,
            patch: patch.map(read_patch).transpose()?.flatten().filter(|_| answer.allowed),
            result: answer.status,
            audit_annotations: answer.audit_annotations.unwrap_or_default(),
            warnings: answer.warnings.unwrap_or_default(),
        })
    }

    /// What `v1` asks of an answer.
    fn verify(&self, api_version: &str, kind: &str, answer: &Answer) -> Result<(), Error> {
        let invalid = |why: String| Err(Error::Invalid(why));
        if answer.uid != self.uid {
            return invalid(format!("expected response.uid={:?}, got {:?}", self.uid, answer.uid));
        }
        if (api_version, kind) != (V1, KIND) {
            let spelled = if api_version.contains('/') { api_version.to_owned() } else { format!("/{api_version}") };
            return invalid(format!("expected webhook response of {V1}, Kind={KIND}, got {spelled}, Kind={kind}"));
        }
        let patched = answer.patch.as_ref().is_some_and(|patch| !patch.is_empty());
        match (self.mutating, patched, answer.patch_type.as_deref()) {
            (false, true, _) => invalid("validating webhook may not return response.patch".to_owned()),
            (false, false, Some(_)) => invalid("validating webhook may not return response.patchType".to_owned()),
            (true, true, None) => invalid("webhook returned response.patch but not response.patchType".to_owned()),
            (true, false, Some(_)) => invalid("webhook returned response.patchType but not response.patch".to_owned()),
            (true, true, Some("")) => invalid("webhook returned invalid response.patchType of \"\"".to_owned()),
            (true, true, Some(other)) if other != "JSONPatch" => {
                Err(Error::Invalid(format!("unsupported patch type {other:?}")))
            }
            _ => Ok(()),
        }
    }
}

/// None for a patch of nothing.
fn read_patch(text: &str) -> Result<Option<Value>, Error> {
    let bytes = STANDARD.decode(text).map_err(|error| Error::Unreadable(error.to_string()))?;
    let patch: Value = serde_json::from_slice(&bytes).map_err(|error| Error::Patch(error.to_string()))?;
    match patch.as_array() {
        Some(operations) if operations.is_empty() => Ok(None),
        Some(_) => Ok(Some(patch)),
        None => Err(Error::Patch("a patch is a list of operations".to_owned())),
    }
}
