//! Admission webhooks: who is asked, what is sent, and what an answer comes to.
//!
//! ```text
//! configurations ──(only when one changes)──► Index ──► Matcher ──► Review ──► Client ──► Verdict
//! ```
//!
//! Source: `k8s.io/apiserver/pkg/admission/plugin/webhook`. The plugins that walk the index are in `plugins`.
//! Invariants: a write that no webhook is about costs a comparison of revisions and of rules; connections are kept and shared
//! by webhooks of the same authority; a configuration counts from the moment that its write is acknowledged.

mod auth;
mod client;
mod index;
mod review;

pub use auth::credentials;
pub use client::{CallError, Clients, FindService, ServiceTarget, Target};
pub use index::{Hook, Index};
pub use review::Review;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;
use wharf_types::meta::{ListMeta, Status};
use wharf_types::{ApiError, Gvr};

use crate::hooks::{Asker, Refusal};
use crate::subject::View;
use crate::{Attributes, Notes, Reader};

/// Longest answer of a webhook, in bytes: an object of the largest size as a patch, in base64, and some more.
const RESPONSE_MAX: usize = 8 << 20;

const SERVICES: Gvr = Gvr {
    group: std::borrow::Cow::Borrowed(""),
    version: std::borrow::Cow::Borrowed("v1"),
    resource: std::borrow::Cow::Borrowed("services"),
};

#[async_trait]
impl Asker for Clients {
    type Hook = Hook;
    /// A JSON patch.
    type Change = Value;

    async fn ask(
        &self,
        hook: &Hook,
        (write, view): (&Attributes, &View),
        cluster: &dyn Reader,
        notes: &mut Notes,
    ) -> Result<Option<Value>, Refusal> {
        if write.dry_run && !matches!(hook.side_effects.as_str(), "None" | "NoneOnDryRun") {
            let why = format!("admission webhook {:?} does not support dry run", hook.name);
            return Err(Refusal::Denied(ApiError::bad_request(why)));
        }
        let review = Review::new(hook, view)
            .map_err(|why| Refusal::Failed(format!("could not create admission objects: {why}")))?;
        let body = post(hook, self, cluster, review.bytes()).await;
        let body = body.map_err(|error| Refusal::Failed(format!("failed to call webhook: {error}")))?;
        let response = review.read(&body).map_err(|error| Refusal::Failed(error.to_string()))?;
        for (key, value) in response.audit_annotations {
            notes.audit_annotations.insert(format!("{}/{key}", hook.name), value);
        }
        notes.warnings.extend(response.warnings);
        if !response.allowed {
            return Err(Refusal::Denied(denied(&hook.name, response.result.unwrap_or_default())));
        }
        Ok(response.patch)
    }

    fn failed(&self, hook: &Hook, why: &str) -> ApiError {
        ApiError::internal(format!("failed calling webhook {:?}: {why}", hook.name))
    }

    fn passed_over(&self, hook: &Hook, why: &str, place: &str, notes: &mut Notes) {
        tracing::warn!(webhook = hook.name, why, "failed calling a webhook: it is passed over");
        let kind = if hook.mutating { "mutation" } else { "validating" };
        let key = format!("failed-open.{kind}.webhook.admission.k8s.io/{place}");
        notes.audit_annotations.insert(key, hook.name.clone());
    }
}

async fn post(hook: &Hook, clients: &Clients, cluster: &dyn Reader, review: Bytes) -> Result<Bytes, CallError> {
    let query = format!("?timeout={}s", hook.timeout_s);
    let service = hook.client.service.as_ref().map(|service| ServiceTarget {
        namespace: &service.namespace,
        name: &service.name,
        port: service.port,
        path: service.path.as_deref(),
    });
    let target = Target {
        url: hook.client.url.as_deref(),
        service,
        bundle: hook.client.ca_bundle.as_ref().map_or(&[][..], |bundle| &bundle.0),
        timeout: Duration::from_secs(hook.timeout_s),
        answer_max: RESPONSE_MAX,
        query: &query,
    };
    let find = |namespace: &str, name: &str| cluster.get(&SERVICES, Some(namespace), name)?.downcast_ref().cloned();
    clients.post(&target, &find, review).await
}

/// The webhook's own status, in words that name it; whatever else it says is passed on (`ToStatusErr`).
fn denied(hook: &str, status: Status) -> ApiError {
    let by = format!("admission webhook {hook:?} denied the request");
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let reason = given(status.reason);
    let message = match given(status.message).or_else(|| reason.clone()) {
        Some(why) => format!("{by}: {why}"),
        None => format!("{by} without explanation"),
    };
    // A refusal is never told as a success.
    let code = status.code.and_then(|code| u16::try_from(code).ok()).filter(|code| *code >= 400).unwrap_or(400);
    let outcome = given(status.status).filter(|outcome| outcome != "Success" && outcome != "Failure");
    let mut error = ApiError::new(code, reason.unwrap_or_default(), message);
    error.details = status.details.map(Box::new);
    error.list_meta = Some(Box::new(status.metadata)).filter(|metadata| **metadata != ListMeta::default());
    error.outcome = outcome.map(String::into_boxed_str);
    error
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What comes of the status of a denial, as its answer is read.
    #[track_caller]
    fn check(status: Value, expected: (u16, &str, &str)) {
        let error = denied("a.example.com", serde_json::from_value(status).expect("a status"));
        assert_eq!((error.code, &*error.reason, error.message.as_str()), expected);
    }

    #[test]
    fn a_denial_names_the_webhook_and_keeps_its_words() {
        let by = "admission webhook \"a.example.com\" denied the request";
        check(json!({}), (400, "", &format!("{by} without explanation")));
        check(json!({"message": "no", "code": 403, "reason": "Forbidden"}), (403, "Forbidden", &format!("{by}: no")));
        check(json!({"message": "no", "code": 499, "reason": "Odd"}), (499, "Odd", &format!("{by}: no")));
        check(json!({"reason": "Odd", "code": 399}), (400, "Odd", &format!("{by}: Odd")));
        check(json!({"status": "Success", "code": 200}), (400, "", &format!("{by} without explanation")));
    }

    #[test]
    fn what_else_a_denial_says_is_passed_on() {
        let details = json!({"kind": "pods", "retryAfterSeconds": 7, "causes": [{"reason": "Odd", "field": "spec"}]});
        let sent = json!({
            "status": "custom", "metadata": {"continue": "c"}, "code": 429, "reason": "Mine", "message": "no", "details": details,
        });
        let mut told =
            serde_json::to_value(denied("a", serde_json::from_value(sent.clone()).expect("a status")).status());
        let told = told.as_mut().expect("JSON");
        assert_eq!(told["message"], "admission webhook \"a\" denied the request: no");
        told["message"] = json!("no");
        for field in ["status", "metadata", "code", "reason", "message", "details"] {
            assert_eq!(told[field], sent[field], "{field}");
        }
        for status in [json!("Success"), json!(""), Value::Null] {
            let error = denied("a", serde_json::from_value(json!({"status": status})).expect("a status"));
            assert_eq!(error.status().status.as_deref(), Some("Failure"), "{status}");
        }
    }
}
