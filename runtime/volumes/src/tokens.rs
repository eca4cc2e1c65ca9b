//! Tokens of service accounts for the node's pods: asked for once, kept, and exchanged well before they end.
//!
//! Source: `pkg/kubelet/token/token_manager.go`. A token is bound to its pod, so it ends with it; it is old when four fifths of
//! its life or 24 hours have passed, a little earlier for some than for others so that a node's tokens are not all asked for
//! at once. Invariants: a token that still counts is used as long as no other is to be had; none is logged. Absent on
//! purpose: timers ([`Tokens::due`] says when to look again).

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;

use crate::Error;

/// Longest that a token is used, however long it counts.
const MAX_AGE: SignedDuration = SignedDuration::from_hours(24);
/// Up to so much earlier.
const MAX_JITTER_MS: u64 = 10_000;
/// After an exchange that failed.
const RETRY: SignedDuration = SignedDuration::from_secs(60);
/// Upstream's default for a projection that says nothing.
const DEFAULT_S: i64 = 60 * 60;

/// What is asked for, and what a token is kept under.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wanted {
    pub namespace: String,
    pub account: String,
    /// That of the API server, if empty.
    pub audience: String,
    pub seconds: i64,
    pub pod: String,
    pub uid: String,
}

impl Wanted {
    pub fn of(pod: &Pod, projection: &ServiceAccountTokenProjection) -> Self {
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
        Self {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            account: account.unwrap_or_default(),
            audience: projection.audience.clone().unwrap_or_default(),
            seconds: projection.expiration_seconds.unwrap_or(DEFAULT_S),
            pod: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
        }
    }

    fn request(&self) -> TokenRequest {
        let bound = BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(self.pod.clone()),
            uid: Some(self.uid.clone()),
        };
        let audiences = if self.audience.is_empty() { Vec::new() } else { vec![self.audience.clone()] };
        let spec = TokenRequestSpec {
            audiences: Some(audiences),
            expiration_seconds: Some(self.seconds),
            bound_object_ref: Some(bound),
        };
        TokenRequest { spec: Some(spec), ..TokenRequest::default() }
    }

    fn jitter(&self) -> SignedDuration {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        SignedDuration::from_millis((hasher.finish() % MAX_JITTER_MS) as i64)
    }
}

/// A token as it was issued. The API may give it another life than was asked for.
#[derive(Clone)]
pub struct Issued {
    pub token: String,
    pub seconds: i64,
    pub expires: Timestamp,
}

/// Who gives tokens out.
#[async_trait]
pub trait Issuer: Send + Sync + 'static {
    /// The error is the issuer's own words.
    async fn issue(&self, wanted: &Wanted) -> Result<Issued, String>;
}

#[async_trait]
impl Issuer for Client {
    async fn issue(&self, wanted: &Wanted) -> Result<Issued, String> {
        let accounts = Api::<ServiceAccount>::namespaced(self.clone(), &wanted.namespace);
        let answer = accounts.create_token_request(&wanted.account, &PostParams::default(), &wanted.request()).await;
        let answer = answer.map_err(|error| match error {
            kube::Error::Api(status) => status.message.clone(),
            other => other.to_string(),
        })?;
        let seconds = answer.spec.and_then(|spec| spec.expiration_seconds).unwrap_or(wanted.seconds);
        let status = answer.status.unwrap_or_default();
        match (status.token, status.expiration_timestamp) {
            (Some(token), Some(expires)) => Ok(Issued { token, seconds, expires: expires.0 }),
            _ => Err("the answer holds no token".to_owned()),
        }
    }
}

struct Held {
    issued: Issued,
    /// When to ask for another.
    due: Timestamp,
}

/// The tokens of a node's pods.
pub struct Tokens {
    issuer: Arc<dyn Issuer>,
    held: Mutex<HashMap<Wanted, Held>>,
}

impl Tokens {
    pub fn new(issuer: Arc<dyn Issuer>) -> Self {
        Self { issuer, held: Mutex::default() }
    }

    /// The token that is kept, or a new one if that is old.
    pub async fn get(&self, wanted: &Wanted, now: Timestamp) -> Result<String, Error> {
        let kept = self.held.lock().get(wanted).map(|held| (held.issued.clone(), held.due));
        if let Some((issued, due)) = &kept
            && !is_due(issued, *due, now)
        {
            return Ok(issued.token.clone());
        }
        match (self.issuer.issue(wanted).await, kept) {
            (Ok(issued), _) => {
                let token = issued.token.clone();
                let due = due(&issued, wanted.jitter());
                self.held.lock().insert(wanted.clone(), Held { issued, due });
                Ok(token)
            }
            (Err(why), None) => Err(Error::Token(format!("failed to fetch token: {why}"))),
            (Err(why), Some((issued, _))) if now > issued.expires => {
                Err(Error::Token(format!("token expired and refresh failed: {why}")))
            }
            (Err(why), Some((issued, _))) => {
                tracing::warn!(why, pod = wanted.pod, namespace = wanted.namespace, "exchange a service account token");
                if let Some(held) = self.held.lock().get_mut(wanted) {
                    held.due = plus(now, RETRY).min(plus(issued.expires, SignedDuration::from_secs(1)));
                }
                Ok(issued.token)
            }
        }
    }

    /// When one of the pod's tokens must be exchanged; in the past if that is now.
    pub fn due(&self, uid: &str, now: Timestamp) -> Option<Timestamp> {
        let held = self.held.lock();
        let of_pod = held.iter().filter(|(wanted, _)| wanted.uid == uid);
        of_pod.map(|(_, held)| if is_due(&held.issued, held.due, now) { now } else { held.due }).min()
    }

    /// Drops what is kept for a pod that is gone.
    pub fn forget(&self, uid: &str) {
        self.held.lock().retain(|wanted, _| wanted.uid != uid);
    }
}

/// When a token is old.
fn due(issued: &Issued, jitter: SignedDuration) -> Timestamp {
    let fifth = SignedDuration::from_secs(issued.seconds * 20 / 100);
    let by_life = minus(issued.expires, fifth);
    let by_age = plus(issued_at(issued), MAX_AGE);
    minus(by_life.min(by_age), jitter)
}

/// True too where the token comes from the future: the clock was set back, and nothing says for how long the token counts.
fn is_due(issued: &Issued, due: Timestamp, now: Timestamp) -> bool {
    now >= due || now < issued_at(issued)
}

fn issued_at(issued: &Issued) -> Timestamp {
    minus(issued.expires, SignedDuration::from_secs(issued.seconds))
}

fn plus(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

fn minus(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_sub(by).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_S: i64 = 1_900_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(START_S + second).unwrap()
    }

    /// Numbers its tokens; refuses while it is told to. Its clock is set by the test.
    #[derive(Default)]
    struct Fake(Mutex<(u32, bool, i64)>);

    #[async_trait]
    impl Issuer for Fake {
        async fn issue(&self, wanted: &Wanted) -> Result<Issued, String> {
            let mut state = self.0.lock();
            if state.1 {
                return Err("no".to_owned());
            }
            state.0 += 1;
            Ok(Issued { token: state.0.to_string(), seconds: wanted.seconds, expires: at(state.2 + wanted.seconds) })
        }
    }

    fn wanted(seconds: i64) -> Wanted {
        let text = str::to_owned;
        Wanted {
            namespace: text("a"),
            account: text("bot"),
            audience: text(""),
            seconds,
            pod: text("web"),
            uid: text("1"),
        }
    }

    /// Asks at each second in turn; `!` in front of the answer means that the issuer refuses. The seconds are those of a
    /// token without jitter: 10 seconds before them it is still good.
    async fn check(seconds: i64, asked: &[(i64, &str)]) {
        let fake = Arc::new(Fake::default());
        let tokens = Tokens::new(fake.clone());
        for (second, expected) in asked {
            (fake.0.lock().1, fake.0.lock().2) = (expected.starts_with('!'), *second);
            let got = tokens.get(&wanted(seconds), at(*second)).await.unwrap_or_else(|error| error.to_string());
            assert_eq!(got, expected.trim_start_matches('!'), "at {second} s");
        }
    }

    #[tokio::test]
    async fn a_token_is_kept_for_four_fifths_of_its_life() {
        check(3600, &[(0, "1"), (2869, "1"), (2881, "2"), (5000, "2"), (5762, "3")]).await;
    }

    #[tokio::test]
    async fn a_long_token_is_kept_for_a_day() {
        let day = 24 * 60 * 60;
        check(365 * day, &[(0, "1"), (day - 11, "1"), (day + 1, "2")]).await;
    }

    #[tokio::test]
    async fn an_old_token_serves_until_it_ends_if_there_is_no_other() {
        let gone = "!token expired and refresh failed: no";
        check(3600, &[(0, "1"), (2900, "!1"), (3599, "!1"), (3602, gone), (3603, "2")]).await;
        check(3600, &[(0, "!failed to fetch token: no"), (1, "1")]).await;
    }

    #[tokio::test]
    async fn a_token_from_the_future_is_exchanged() {
        check(3600, &[(5000, "1"), (4000, "2")]).await;
    }

    #[tokio::test]
    async fn it_tells_when_to_look_again_and_forgets_with_the_pod() {
        let tokens = Tokens::new(Arc::new(Fake::default()));
        assert_eq!(tokens.due("1", at(0)), None);
        tokens.get(&wanted(3600), at(0)).await.unwrap();
        let due = tokens.due("1", at(0)).expect("a token is kept");
        assert!(at(2870) < due && due <= at(2880), "{due}");
        assert_eq!(tokens.due("1", at(3000)), Some(at(3000)), "it is due");
        tokens.forget("1");
        assert_eq!(tokens.due("1", at(0)), None);
    }
}
