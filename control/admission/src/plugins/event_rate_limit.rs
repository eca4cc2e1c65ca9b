//! Lets in so many events a second: of the whole server, a namespace, a user, or about an object. Off by default.
//!
//! Source: `plugin/pkg/admission/eventratelimit`. Every bucket that an event falls into pays, whether or not another refuses it;
//! of several refusals the last is told. Events that are written as `events.k8s.io` are not looked at, as upstream.

use std::num::NonZeroUsize;
use std::time::Instant;

use async_trait::async_trait;
use lru::LruCache;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_yaml::Value;
use wharf_types::ApiError;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::Event;

use crate::config;
use crate::{Attributes, Notes, Operation, Plugin, Reader};

const VERSIONS: [&str; 1] = ["eventratelimit.admission.k8s.io/v1alpha1"];
const TYPES: [&str; 4] = ["Namespace", "Server", "SourceAndObject", "User"];
/// Buckets that are kept of one limit that does not say.
const CACHE_SIZE: usize = 4096;

#[derive(Default)]
pub struct EventRateLimit {
    limits: Vec<Limit>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Configuration {
    #[serde(default)]
    limits: Vec<Asked>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Asked {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    qps: i32,
    #[serde(default)]
    burst: i32,
    #[serde(default)]
    cache_size: i32,
}

struct Limit {
    kind: String,
    qps: f64,
    burst: f64,
    buckets: Mutex<LruCache<String, Bucket>>,
}

/// What is left, and when that was so.
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Configuration {
    fn validate(&self) -> Errors {
        let (path, mut errors) = (Path::new("limits"), Vec::new());
        if self.limits.is_empty() {
            errors.push(Error::invalid(&path, "[]", "must not be empty"));
        }
        for (index, limit) in self.limits.iter().enumerate() {
            let path = path.index(index);
            if !TYPES.contains(&limit.kind.as_str()) {
                errors.push(Error::not_supported(&path.child("type"), limit.kind.as_str(), &TYPES));
            }
            for (field, value) in [("burst", limit.burst), ("qps", limit.qps)] {
                if value <= 0 {
                    errors.push(Error::invalid(&path.child(field), i64::from(value), "must be positive"));
                }
            }
            if limit.kind != "Server" && limit.cache_size < 0 {
                let size = i64::from(limit.cache_size);
                errors.push(Error::invalid(&path.child("cacheSize"), size, "must not be negative"));
            }
        }
        errors
    }
}

impl Limit {
    fn new(asked: Asked) -> Self {
        let size = usize::try_from(asked.cache_size).ok().and_then(NonZeroUsize::new);
        let buckets = LruCache::new(size.or(NonZeroUsize::new(CACHE_SIZE)).unwrap_or(NonZeroUsize::MIN));
        Self {
            kind: asked.kind,
            qps: f64::from(asked.qps),
            burst: f64::from(asked.burst),
            buckets: Mutex::new(buckets),
        }
    }

    /// Whose bucket the event falls into.
    fn key(&self, write: &Attributes) -> String {
        match self.kind.as_str() {
            "Namespace" => write.namespace.clone().unwrap_or_default(),
            "User" => write.user.name.clone(),
            "SourceAndObject" => write.new_as::<Event>().map(source_and_object).unwrap_or_default(),
            _ => String::new(),
        }
    }

    /// Takes a token, if there is one.
    fn take(&self, key: &str, now: Instant) -> bool {
        let mut buckets = self.buckets.lock();
        let bucket = buckets.get_or_insert_mut(key.to_owned(), || Bucket { tokens: self.burst, at: now });
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.tokens = (bucket.tokens + passed * self.qps).min(self.burst);
        bucket.at = now;
        let pays = bucket.tokens >= 1.0;
        bucket.tokens -= if pays { 1.0 } else { 0.0 };
        pays
    }
}

fn source_and_object(event: &Event) -> String {
    let (source, object) = (event.source.clone().unwrap_or_default(), event.involved_object.clone());
    let parts =
        [source.component, source.host, object.kind, object.namespace, object.name, object.uid, object.api_version];
    parts.into_iter().flatten().collect()
}

impl EventRateLimit {
    fn check(&self, write: &Attributes, now: Instant) -> Result<(), ApiError> {
        let mut refused = None;
        for limit in &self.limits {
            let key = limit.key(write);
            if !limit.take(&key, now) {
                let why = format!("Too many requests: limit reached on type {} for key {key}", limit.kind);
                refused = Some(ApiError::new(429, "TooManyRequests", why));
            }
        }
        refused.map_or(Ok(()), Err)
    }
}

#[async_trait]
impl Plugin for EventRateLimit {
    fn name(&self) -> &'static str {
        "EventRateLimit"
    }

    fn configure(&mut self, part: Option<&Value>, _: &config::Load<'_>) -> Result<(), String> {
        let part = part.ok_or("a configuration with limits is needed")?;
        let read: Configuration = config::read(part, &VERSIONS, "Configuration")?;
        let errors: Vec<String> = read.validate().iter().map(ToString::to_string).collect();
        if !errors.is_empty() {
            return Err(super::refusals(&errors));
        }
        self.limits = read.limits.into_iter().map(Limit::new).collect();
        Ok(())
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, write: &Attributes, _: &dyn Reader, _: &mut Notes) -> Result<(), ApiError> {
        if write.row.gvk.kind != "Event" || !write.row.gvk.group.is_empty() {
            return Ok(());
        }
        self.check(write, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;
    use wharf_auth::User;

    use super::super::testing::{json, write};
    use super::*;

    fn plugin(limits: &str) -> Result<EventRateLimit, String> {
        let text =
            format!("{{apiVersion: eventratelimit.admission.k8s.io/v1alpha1, kind: Configuration, limits: {limits}}}");
        let part: Value = serde_yaml::from_str(&text).expect("YAML");
        let mut plugin = EventRateLimit::default();
        plugin.configure(Some(&part), &|_| Ok(String::new())).map(|()| plugin)
    }

    fn event(namespace: &str, about: &str) -> Attributes {
        let event: Event = json(json!({
            "metadata": {"name": "e", "namespace": namespace}, "source": {"component": "c"},
            "involvedObject": {"kind": "Pod", "name": about},
        }));
        write(Operation::Create, "events", event)
    }

    /// What is said of events that come one after the other, so many milliseconds after the first.
    #[track_caller]
    fn check(limits: &str, events: &[(u64, Attributes, Option<&str>)]) {
        let (plugin, start) = (plugin(limits).expect("a configuration"), Instant::now());
        for (index, (after_ms, event, expected)) in events.iter().enumerate() {
            let verdict = plugin.check(event, start + Duration::from_millis(*after_ms)).err();
            let got = verdict.as_ref().map(|error| (error.code, &*error.reason, error.message.as_str()));
            assert_eq!(got, expected.map(|why| (429, "TooManyRequests", why)), "event {index}");
        }
    }

    #[test]
    fn a_bucket_fills_up_again() {
        let full = Some("Too many requests: limit reached on type Server for key ");
        check(
            "[{type: Server, qps: 10, burst: 2}]",
            &[
                (0, event("a", "x"), None),
                (0, event("b", "y"), None),
                (0, event("c", "z"), full),
                (100, event("a", "x"), None),
                (120, event("a", "x"), full),
            ],
        );
    }

    #[test]
    fn each_namespace_user_and_object_has_a_bucket() {
        let full = Some("Too many requests: limit reached on type Namespace for key a");
        check(
            "[{type: Namespace, qps: 1, burst: 1}]",
            &[(0, event("a", "x"), None), (0, event("a", "y"), full), (0, event("b", "x"), None)],
        );
        let by = |user: &str| event("a", "x").by(User::new(user, &[]));
        check(
            "[{type: User, qps: 1, burst: 1}]",
            &[
                (0, by("joe"), None),
                (0, by("joe"), Some("Too many requests: limit reached on type User for key joe")),
                (0, by("ann"), None),
            ],
        );
        let full = Some("Too many requests: limit reached on type SourceAndObject for key cPodx");
        check(
            "[{type: SourceAndObject, qps: 1, burst: 1}]",
            &[(0, event("a", "x"), None), (0, event("b", "x"), full), (0, event("a", "y"), None)],
        );
    }

    #[test]
    fn every_limit_pays_and_the_last_is_told() {
        let full = Some("Too many requests: limit reached on type Namespace for key a");
        check(
            "[{type: Server, qps: 1, burst: 1}, {type: Namespace, qps: 1, burst: 1}]",
            &[
                (0, event("a", "x"), None),
                (0, event("a", "x"), full),
                (0, event("b", "x"), Some("Too many requests: limit reached on type Server for key ")),
                (0, event("b", "x"), Some("Too many requests: limit reached on type Namespace for key b")),
            ],
        );
    }

    #[test]
    fn limits_must_make_sense() {
        let why = |limits: &str| plugin(limits).err().unwrap_or_default();
        assert_eq!(why("[]"), "limits: Invalid value: \"[]\": must not be empty");
        assert_eq!(
            why("[{type: Odd, cacheSize: -1}]"),
            "[limits[0].type: Unsupported value: \"Odd\": supported values: \"Namespace\", \"Server\", \"SourceAndObject\", \"User\", limits[0].burst: Invalid value: 0: must be positive, limits[0].qps: Invalid value: 0: must be positive, limits[0].cacheSize: Invalid value: -1: must not be negative]"
        );
        assert!(why("[{type: Server, qps: 1, burst: 1, odd: 1}]").contains("unknown field `odd`"));
    }
}
