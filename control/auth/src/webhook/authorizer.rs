//! Rights that somebody else knows: each question is sent to a server as a `SubjectAccessReview`.
//!
//! Source: `plugin/pkg/authorizer/webhook`. An answer is kept for its time; a question with long names is not kept, so nobody
//! can fill the memory with them.

use std::num::NonZeroUsize;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use lru::LruCache;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::client::Client;
use super::conditions::{Conditions, requirements};
use crate::{Attributes, Authorizer, Clock, Decision, User};

/// Most answers that are kept. Source: `NewLRUExpireCache(8192)`.
const ANSWERS_MAX: NonZeroUsize = NonZeroUsize::new(8192).unwrap();
/// Bytes that a client may choose of a question that is kept. Source: `maxControlledAttrCacheSize`.
const KEPT_MAX: usize = 10_000;

/// What a webhook that fails means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailurePolicy {
    /// The next authorizer is asked.
    NoOpinion,
    Deny,
}

pub struct Options {
    pub client: Client,
    /// `v1` or `v1beta1`.
    pub version: String,
    /// How long answers are kept; none where they are not.
    pub authorized_ttl: Option<Duration>,
    pub unauthorized_ttl: Option<Duration>,
    pub failure_policy: FailurePolicy,
    pub conditions: Conditions,
    pub clock: Clock,
}

pub struct Webhook {
    options: Options,
    answers: Mutex<LruCache<[u8; 32], (Answer, Timestamp)>>,
}

#[derive(Deserialize)]
struct Review {
    #[serde(default)]
    status: Answer,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    allowed: bool,
    denied: bool,
    reason: String,
}

impl Webhook {
    pub fn new(options: Options) -> Self {
        Self { options, answers: Mutex::new(LruCache::new(ANSWERS_MAX)) }
    }

    async fn ask(&self, spec: Value, attributes: &Attributes) -> Result<Answer, String> {
        let Options { client, version, authorized_ttl, unauthorized_ttl, clock, .. } = &self.options;
        let key: [u8; 32] = Sha256::digest(spec.to_string()).into();
        let now = clock();
        if let Some((answer, until)) = self.answers.lock().get(&key)
            && now < *until
        {
            return Ok(answer.clone());
        }
        let review = json!({
            "apiVersion": format!("authorization.k8s.io/{version}"),
            "kind": "SubjectAccessReview",
            "metadata": {},
            "spec": spec,
            "status": {"allowed": false},
        });
        let sent = client.post(&review).await?;
        let Review { status } =
            serde_json::from_value(sent).map_err(|error| format!("read the webhook's answer: {error}"))?;
        let ttl = if status.allowed { authorized_ttl } else { unauthorized_ttl };
        let ttl = ttl.and_then(|ttl| SignedDuration::try_from(ttl).ok());
        if let Some(until) = ttl.and_then(|ttl| now.checked_add(ttl).ok())
            && chosen(attributes) < KEPT_MAX
        {
            self.answers.lock().put(key, (status.clone(), until));
        }
        Ok(status)
    }

    fn failed(&self, why: String) -> Decision {
        Decision::Failed { denied: self.options.failure_policy == FailurePolicy::Deny, why }
    }
}

#[async_trait]
impl Authorizer for Webhook {
    async fn authorize(&self, user: &User, attributes: &Attributes) -> Decision {
        match self.options.conditions.hold(user, attributes) {
            Ok(true) => {}
            Ok(false) => return Decision::NoOpinion(String::new()),
            Err(why) => return self.failed(why),
        }
        match self.ask(spec(user, attributes, &self.options.version), attributes).await {
            Err(why) => {
                tracing::error!(error = why, "ask the authorization webhook");
                self.failed(why)
            }
            Ok(Answer { allowed: true, denied: true, .. }) => Decision::Failed {
                denied: true,
                why: "webhook subject access review returned both allow and deny response".to_owned(),
            },
            Ok(Answer { denied: true, reason, .. }) => Decision::Deny(reason),
            Ok(Answer { allowed: true, reason, .. }) => Decision::Allow(reason),
            Ok(Answer { reason, .. }) => Decision::NoOpinion(reason),
        }
    }

    fn lists_rules(&self) -> Result<(), &'static str> {
        Err("webhook authorizer does not support user rule resolution")
    }
}

/// Bytes of what the client chooses.
fn chosen(asked: &Attributes) -> usize {
    let Attributes { namespace, verb, group, version, resource, subresource, name, path, .. } = asked;
    [namespace, verb, group, version, resource, subresource, name, path].iter().map(|text| text.len()).sum()
}

/// The review's spec, without what is empty.
fn spec(user: &User, asked: &Attributes, version: &str) -> Value {
    let filled = |fields: &[(&str, &String)]| -> Map<String, Value> {
        let filled = fields.iter().filter(|(_, text)| !text.is_empty());
        filled.map(|(name, text)| ((*name).to_owned(), text.as_str().into())).collect()
    };
    let mut spec = filled(&[("user", &user.name), ("uid", &user.uid)]);
    // The older version calls them by one name.
    let groups = if version == "v1beta1" { "group" } else { "groups" };
    if !user.groups.is_empty() {
        spec.insert(groups.to_owned(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        spec.insert("extra".to_owned(), json!(user.extra));
    }
    if !asked.resource_request {
        let path = filled(&[("path", &asked.path), ("verb", &asked.verb)]);
        spec.insert("nonResourceAttributes".to_owned(), path.into());
        return spec.into();
    }
    let mut resource = filled(&[
        ("namespace", &asked.namespace),
        ("verb", &asked.verb),
        ("group", &asked.group),
        ("version", &asked.version),
        ("resource", &asked.resource),
        ("subresource", &asked.subresource),
        ("name", &asked.name),
    ]);
    for (name, held) in [("fieldSelector", &asked.field_selector), ("labelSelector", &asked.label_selector)] {
        if !held.is_empty() {
            resource.insert(name.to_owned(), json!({"requirements": requirements(held)}));
        }
    }
    spec.insert("resourceAttributes".to_owned(), resource.into());
    spec.into()
}
