//! Audit: a record of who asked for what and how it was answered, as far as the policy wants one.
//!
//! Source: `k8s.io/apiserver/pkg/endpoints/filters/audit.go`. A [`Trail`] follows one request through its stages. Without a
//! policy there is no [`Auditor`], and a request costs one look at an empty cell.
//! Invariant: nothing of a body is looked at below the level that records it.

pub mod log;
mod policy;
mod trail;
pub mod webhook;

use std::collections::BTreeMap;
use std::sync::Arc;

use http::request::Parts;
use jiff::Timestamp;
use wharf_auth::User;

pub use self::log::{Limits, Log};
pub use self::policy::{Error as PolicyError, Level, Policy, Stage, Verdict};
pub use self::trail::Trail;
pub use self::webhook::Webhook;
use crate::request::Info;

/// Bytes of an event to a webhook that truncates. Source: `--audit-webhook-truncate-max-event-size`.
const TRUNCATED_EVENT_MAX: usize = 100 << 10;

/// Annotations that admission left for the record; an extension of a response.
#[derive(Clone, Debug)]
pub struct Annotations(pub BTreeMap<String, String>);

pub struct Auditor {
    policy: Policy,
    log: Option<Log>,
    webhook: Option<Webhook>,
    /// True where events to the webhook that are too large lose their bodies.
    truncates: bool,
}

impl Auditor {
    pub fn new(policy: Policy, log: Option<Log>, webhook: Option<Webhook>, truncates: bool) -> Self {
        Self { policy, log, webhook, truncates }
    }

    /// Begins to follow a request, if the policy wants it. `user` is none where nobody has proved who they are.
    pub fn begin(
        self: &Arc<Self>,
        id: &str,
        parts: &Parts,
        info: &Info,
        user: Option<&User>,
        now: Timestamp,
    ) -> Option<Trail> {
        let verdict = self.policy.judge(user, &info.attributes());
        (verdict.level > Level::None).then(|| Trail::new(self.clone(), verdict, id, parts, info, user, now))
    }

    fn record(&self, event: &serde_json::Value, now: Timestamp) {
        let text = event.to_string();
        if let Some(log) = &self.log {
            log.write(&text, now);
        }
        if let Some(webhook) = &self.webhook {
            match self.truncates && text.len() > TRUNCATED_EVENT_MAX {
                true => webhook.write(&truncated(event).to_string()),
                false => webhook.write(&text),
            }
        }
    }
}

/// The event without its bodies, and a note that they were there.
fn truncated(event: &serde_json::Value) -> serde_json::Value {
    let mut event = event.clone();
    if let Some(fields) = event.as_object_mut() {
        fields.remove("requestObject");
        fields.remove("responseObject");
        let annotations = fields.entry("annotations").or_insert_with(|| serde_json::json!({}));
        annotations["audit.k8s.io/truncated"] = "true".into();
    }
    event
}
