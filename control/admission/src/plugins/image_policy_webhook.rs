//! Asks one webhook, which a file names, about the images of each pod. Off by default.
//!
//! Source: `plugin/pkg/admission/imagepolicy`. The webhook is sent an `ImageReview`: the images, the namespace, and those of the
//! pod's annotations that are meant for it. An answer is kept for a while; one that cannot be had counts as the file says.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use lru::LruCache;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use wharf_auth::webhook::{Client, TIMEOUT};
use wharf_auth::{duration, tls};
use wharf_machinery::names;
use wharf_registry::Subresource;
use wharf_types::ApiError;
use wharf_types::k8s::api::core::v1::Pod;

use crate::config::Load;
use crate::{Attributes, Notes, Operation, Plugin, Reader};

const API_VERSION: &str = "imagepolicy.k8s.io/v1alpha1";
const KIND: &str = "ImageReview";
/// In the names of annotations that the webhook is shown.
const SHOWN: &str = ".image-policy.k8s.io/";
/// Before the names of what is told to the audit log.
const AUDIT: &str = "imagepolicywebhook.image-policy.k8s.io/";
const FAILED_OPEN: &str = "failed-open";
/// Answers that are kept.
const ANSWERS_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

const MINUTE: Duration = Duration::from_secs(60);
/// How long answers are kept, and the pause before the webhook is asked once more.
const ALLOW_TTL: Span =
    Span { unit: SECOND, least: SECOND, most: MINUTE.saturating_mul(30), default: MINUTE.saturating_mul(5) };
const DENY_TTL: Span = Span { default: Duration::from_secs(30), ..ALLOW_TTL };
const BACKOFF: Span = Span {
    unit: Duration::from_millis(1),
    least: Duration::from_nanos(1),
    most: MINUTE.saturating_mul(5),
    default: Duration::from_millis(500),
};
const SECOND: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct ImagePolicyWebhook(Option<Backend>);

struct Backend {
    client: Client,
    allow_ttl: Duration,
    deny_ttl: Duration,
    allows_failure: bool,
    /// By the review's spec, with the end of its time.
    answers: Mutex<LruCache<String, (Answer, Instant)>>,
}

/// The file. What it does not know is passed over, as upstream.
#[derive(Deserialize)]
struct Configuration {
    #[serde(rename = "imagePolicy", default)]
    policy: Settings,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Settings {
    #[serde(rename = "kubeConfigFile")]
    file: String,
    #[serde(rename = "allowTTL")]
    allow_ttl: i64,
    #[serde(rename = "denyTTL")]
    deny_ttl: i64,
    #[serde(rename = "retryBackoff")]
    backoff: i64,
    #[serde(rename = "defaultAllow")]
    allows_failure: bool,
}

/// What a number in the file may come to.
struct Span {
    unit: Duration,
    least: Duration,
    most: Duration,
    default: Duration,
}

impl Span {
    /// 0 is the default, and -1 no time at all.
    fn of(&self, number: i64) -> Result<Duration, String> {
        match number {
            0 => return Ok(self.default),
            -1 => return Ok(Duration::ZERO),
            _ => {}
        }
        let times = u32::try_from(number.unsigned_abs()).unwrap_or(u32::MAX);
        let (sign, time) = (if number < 0 { "-" } else { "" }, self.unit.saturating_mul(times));
        if sign.is_empty() && time > self.least && time <= self.most {
            return Ok(time);
        }
        let (least, most) = (duration::shown(self.least), duration::shown(self.most));
        Err(format!("valid value is between {least} and {most}, got {sign}{}", duration::shown(time)))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Review {
    api_version: String,
    kind: String,
    status: Answer,
}

impl Default for Review {
    fn default() -> Self {
        Self { api_version: API_VERSION.to_owned(), kind: KIND.to_owned(), status: Answer::default() }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Answer {
    allowed: bool,
    reason: Option<String>,
    audit_annotations: Option<BTreeMap<String, String>>,
}

#[async_trait]
impl Plugin for ImagePolicyWebhook {
    fn name(&self) -> &'static str {
        "ImagePolicyWebhook"
    }

    fn configure(&mut self, part: Option<&serde_yaml::Value>, _: &Load<'_>) -> Result<(), String> {
        let part = part.ok_or("no config specified")?.clone();
        let Configuration { policy } = serde_yaml::from_value(part).map_err(|error| error.to_string())?;
        self.0 = Some(Backend::open(&policy)?);
        Ok(())
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, write: &Attributes, _: &dyn Reader, notes: &mut Notes) -> Result<(), ApiError> {
        let (Some(backend), Some(spec)) = (&self.0, asked(write)) else { return Ok(()) };
        match backend.answer(&spec).await {
            Ok(answer) => judge(&answer, notes).map_err(|why| write.forbidden(why)),
            Err(why) if backend.allows_failure => {
                tracing::warn!(why, "the image policy webhook failed: the pod is let in");
                notes.audit_annotations.insert(format!("{AUDIT}{FAILED_OPEN}"), "true".to_owned());
                Ok(())
            }
            Err(why) => Err(write.forbidden(why)),
        }
    }
}

/// The spec of the review that a write calls for, if it brings images.
fn asked(write: &Attributes) -> Option<Value> {
    let pod = write.new_as::<Pod>().filter(|_| write.about("", "pods"))?;
    let spec = pod.spec.as_ref()?;
    let images: Vec<&Option<String>> = match write.subresource {
        None => spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(|it| &it.image).collect(),
        Some(Subresource::EphemeralContainers) => {
            spec.ephemeral_containers.iter().flatten().map(|it| &it.image).collect()
        }
        Some(_) => return None,
    };
    let container = |image: &Option<String>| match image.as_deref().unwrap_or_default() {
        "" => json!({}),
        image => json!({"image": image}),
    };
    let mut review = json!({"namespace": write.namespace});
    if !images.is_empty() {
        review["containers"] = images.into_iter().map(container).collect();
    }
    let annotations = pod.metadata.annotations.iter().flatten().filter(|(name, _)| name.contains(SHOWN));
    let annotations: BTreeMap<&String, &String> = annotations.collect();
    if !annotations.is_empty() {
        review["annotations"] = json!(annotations);
    }
    Some(review)
}

/// Tells the audit log what the webhook wants told, and says why the pod is refused, if it is.
fn judge(answer: &Answer, notes: &mut Notes) -> Result<(), String> {
    for (name, value) in answer.audit_annotations.iter().flatten() {
        let key = format!("{AUDIT}{name}");
        match names::qualified_name(&key).is_empty() {
            true => drop(notes.audit_annotations.insert(key, value.clone())),
            false => tracing::warn!(key, "the image policy webhook's annotation has no valid name"),
        }
    }
    match (answer.allowed, answer.reason.as_deref().unwrap_or_default()) {
        (true, _) => Ok(()),
        (false, "") => Err("one or more images rejected by webhook backend".to_owned()),
        (false, why) => Err(format!("image policy webhook backend denied one or more images: {why}")),
    }
}

impl Backend {
    fn open(settings: &Settings) -> Result<Self, String> {
        let backoff = BACKOFF.of(settings.backoff)?;
        let (allow_ttl, deny_ttl) = (ALLOW_TTL.of(settings.allow_ttl)?, DENY_TTL.of(settings.deny_ttl)?);
        if settings.file.is_empty() {
            let why = "invalid configuration: no configuration has been provided, try setting KUBERNETES_MASTER environment variable";
            return Err(why.to_owned());
        }
        // Opening reads files; it waits for nothing.
        let opened = Client::open(Path::new(&settings.file), TIMEOUT, backoff).now_or_never();
        let client = opened.ok_or("the kubeconfig cannot be read at once")?;
        let client = client.map_err(|error| format!("{error}: {}", tls::cause(&error)))?;
        let answers = Mutex::new(LruCache::new(ANSWERS_MAX));
        Ok(Self { client, allow_ttl, deny_ttl, allows_failure: settings.allows_failure, answers })
    }

    /// What the webhook says, or has said a while ago.
    async fn answer(&self, spec: &Value) -> Result<Answer, String> {
        let key = spec.to_string();
        if let Some(known) = self.known(&key, Instant::now()) {
            return Ok(known);
        }
        let review = json!({
            "kind": KIND, "apiVersion": API_VERSION, "metadata": {}, "spec": spec, "status": {"allowed": false},
        });
        let sent = self.client.post(&review).await?;
        let Review { api_version, kind, status } =
            serde_json::from_value(sent).map_err(|error| format!("read the image policy webhook's answer: {error}"))?;
        if (api_version.as_str(), kind.as_str()) != (API_VERSION, KIND) {
            return Err(format!("no kind {kind:?} is registered for version {api_version:?} in scheme"));
        }
        self.keep(key, &status, Instant::now());
        Ok(status)
    }

    fn known(&self, key: &str, now: Instant) -> Option<Answer> {
        let mut answers = self.answers.lock();
        answers.get(key).filter(|(_, end)| now < *end).map(|(answer, _)| answer.clone())
    }

    fn keep(&self, key: String, answer: &Answer, now: Instant) {
        let ttl = if answer.allowed { self.allow_ttl } else { self.deny_ttl };
        self.answers.lock().put(key, (answer.clone(), now + ttl));
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{json as read, write};
    use super::*;

    #[test]
    fn times_have_a_default_an_off_and_bounds() {
        let check = |span: &Span, number: i64, expected: Result<Duration, &str>| {
            assert_eq!(span.of(number), expected.map_err(str::to_owned), "{number}");
        };
        check(&ALLOW_TTL, 0, Ok(Duration::from_secs(300)));
        check(&DENY_TTL, 0, Ok(Duration::from_secs(30)));
        check(&DENY_TTL, -1, Ok(Duration::ZERO));
        check(&ALLOW_TTL, 1800, Ok(Duration::from_secs(1800)));
        check(&ALLOW_TTL, 1, Err("valid value is between 1s and 30m0s, got 1s"));
        check(&ALLOW_TTL, 1801, Err("valid value is between 1s and 30m0s, got 30m1s"));
        check(&BACKOFF, 1, Ok(Duration::from_millis(1)));
        check(&BACKOFF, -2, Err("valid value is between 1ns and 5m0s, got -2ms"));
    }

    #[test]
    fn a_review_shows_images_and_the_annotations_that_are_meant_for_it() {
        let pod = || -> Pod {
            read(json!({
                "metadata": {"name": "web", "namespace": "a", "annotations": {
                    "mycluster.image-policy.k8s.io/ticket-1234": "break-glass", "other": "x",
                }},
                "spec": {
                    "containers": [{"name": "c", "image": "c:1"}], "initContainers": [{"name": "i", "image": "i:1"}],
                    "ephemeralContainers": [{"name": "e", "image": "e:1"}],
                },
            }))
        };
        let create = write(Operation::Create, "pods", pod());
        let annotations = json!({"mycluster.image-policy.k8s.io/ticket-1234": "break-glass"});
        let images = json!([{"image": "c:1"}, {"image": "i:1"}]);
        let shown = json!({"namespace": "a", "containers": images, "annotations": annotations});
        assert_eq!(asked(&create), Some(shown));
        let debug = write(Operation::Update, "pods", pod()).through(Subresource::EphemeralContainers);
        assert_eq!(asked(&debug).map(|review| review["containers"].clone()), Some(json!([{"image": "e:1"}])));
        assert_eq!(asked(&write(Operation::Update, "pods", pod()).through(Subresource::Status)), None);
    }

    #[test]
    fn annotations_are_told_under_the_plugins_name_if_they_have_one() {
        let annotations = json!({"audit-required": "yes", "not/a name": "no"});
        let answer: Answer =
            serde_json::from_value(json!({"allowed": true, "auditAnnotations": annotations})).expect("an answer");
        let mut notes = Notes::default();
        assert_eq!(judge(&answer, &mut notes), Ok(()));
        let told = json!({"imagepolicywebhook.image-policy.k8s.io/audit-required": "yes"});
        assert_eq!(json!(notes.audit_annotations), told);
    }

    #[test]
    fn a_plugin_without_a_backend_does_not_start() {
        let configure = |text: Option<&str>| {
            let part = text.map(|text| serde_yaml::from_str(text).expect("YAML"));
            ImagePolicyWebhook::default().configure(part.as_ref(), &|_| Ok(String::new())).unwrap_err()
        };
        assert_eq!(configure(None), "no config specified");
        assert!(configure(Some("imagePolicy: {}")).starts_with("invalid configuration: no configuration"));
        let missing = configure(Some("imagePolicy: {kubeConfigFile: /nowhere/kubeconfig}"));
        assert!(missing.starts_with("read the webhook's kubeconfig: "), "{missing}");
    }
}
