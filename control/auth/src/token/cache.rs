//! What somebody said of a token, for a while.
//!
//! Source: `k8s.io/apiserver/pkg/authentication/token/cache`. A token is asked about once, however many requests bring it at the
//! same time, and nobody who goes away breaks that off. Failures to ask are not kept. Tokens are kept as hashes. What is said of a token
//! while it is kept is what was true when it was looked into: what it names may have gone since.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use jiff::{SignedDuration, Timestamp};
use lru::LruCache;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::TokenMetrics;
use super::metrics::Status;
use crate::{AuthenticateError, Clock, Tokens, Whose};

/// Most tokens that are kept: upstream advertises 10,000 namespaces, and has room for three times as many.
const TOKENS_MAX: usize = 32 * 1024;
/// How long a token that holds is kept: upstream's `TokenSuccessCacheTTL`. One that does not is looked into each time.
pub const SUCCESS_TTL: Duration = Duration::from_secs(10);

type Key = [u8; 32];
type Answer = Result<Option<Whose>, AuthenticateError>;

pub struct CachedTokens {
    inner: Arc<dyn Tokens>,
    success: SignedDuration,
    failure: SignedDuration,
    metrics: TokenMetrics,
    clock: Clock,
    answers: Mutex<LruCache<Key, Held>>,
}

struct Held {
    answer: Shared<BoxFuture<'static, Answer>>,
    asked: Timestamp,
}

impl CachedTokens {
    /// Keeps what `inner` says for so long, where it knows the token and where it does not.
    pub fn new(inner: Arc<dyn Tokens>, (success, failure): (Duration, Duration), clock: Clock) -> Self {
        let [success, failure] =
            [success, failure].map(|ttl| SignedDuration::try_from(ttl).unwrap_or(SignedDuration::MAX));
        let answers = Mutex::new(LruCache::unbounded());
        Self { inner, success, failure, metrics: TokenMetrics::default(), clock, answers }
    }

    /// Counts here.
    #[must_use]
    pub fn counting(self, metrics: TokenMetrics) -> Self {
        Self { metrics, ..self }
    }

    fn ttl(&self, answer: &Answer) -> SignedDuration {
        match answer {
            Ok(Some(_)) => self.success,
            Ok(None) => self.failure,
            Err(_) => SignedDuration::ZERO,
        }
    }

    fn answer(&self, token: &str, audiences: &[String]) -> (Key, Shared<BoxFuture<'static, Answer>>) {
        let mut hash = Sha256::new();
        for part in audiences.iter().map(String::as_str).chain([token]) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let key: Key = hash.finalize().into();
        let now = (self.clock)();
        let mut answers = self.answers.lock();
        if let Some(held) = answers.get(&key) {
            let counts = match held.answer.peek() {
                None => true,
                Some(answer) => now.duration_since(held.asked) < self.ttl(answer),
            };
            if counts {
                let status = if held.answer.peek().is_some() { "hit" } else { "miss" };
                self.metrics.requests.get_or_create(&Status { status }).inc();
                return (key, held.answer.clone());
            }
        }
        self.metrics.requests.get_or_create(&Status { status: "miss" }).inc();
        let (inner, token, audiences) = (self.inner.clone(), token.to_owned(), audiences.to_vec());
        let metrics = self.metrics.clone();
        let asking = tokio::spawn(async move {
            let active = metrics.active.get_or_create_owned(&Status { status: "in_flight" });
            active.inc();
            let answer = inner.authenticate_token(&token, &audiences).await;
            active.dec();
            let status = if answer.is_ok() { "ok" } else { "error" };
            metrics.fetches.get_or_create(&Status { status }).inc();
            answer
        });
        let broken = || Err(AuthenticateError("the question about the token was broken off".to_owned()));
        let answer = asking.map(move |ended| ended.unwrap_or_else(|_| broken())).boxed().shared();
        answers.put(key, Held { answer: answer.clone(), asked: now });
        while answers.len() > TOKENS_MAX {
            answers.pop_lru();
        }
        (key, answer)
    }
}

#[async_trait]
impl Tokens for CachedTokens {
    async fn authenticate_token(&self, token: &str, audiences: &[String]) -> Answer {
        let (key, answer) = self.answer(token, audiences);
        let answer = answer.await;
        // What is not kept takes no room from what is.
        if self.ttl(&answer).is_zero() {
            self.answers.lock().pop(&key);
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

    use super::*;
    use crate::User;

    /// Knows `good`, breaks at `broken`, and counts.
    #[derive(Default)]
    struct Counted(AtomicUsize);

    #[async_trait]
    impl Tokens for Counted {
        async fn authenticate_token(&self, token: &str, _: &[String]) -> Answer {
            self.0.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            match token {
                "broken" => Err(AuthenticateError("it broke".to_owned())),
                "good" => Ok(Some(Whose::new(User::new("jane", &[]), Vec::new()))),
                _ => Ok(None),
            }
        }
    }

    const BOTH: (Duration, Duration) = (Duration::from_secs(120), Duration::from_secs(120));

    /// Asks for a token at some times, of which `expected` are passed on.
    async fn check(token: &str, audiences: &[&str], at: &[i64], expected: usize) {
        check_keeping(BOTH, token, audiences, at, expected).await;
    }

    async fn check_keeping(ttl: (Duration, Duration), token: &str, audiences: &[&str], at: &[i64], expected: usize) {
        let (inner, now) = (Arc::new(Counted::default()), Arc::new(AtomicI64::new(0)));
        let time = now.clone();
        let clock: Clock = Arc::new(move || Timestamp::from_second(time.load(Ordering::SeqCst)).expect("a time"));
        let cached = CachedTokens::new(inner.clone(), ttl, clock);
        for (place, second) in at.iter().enumerate() {
            now.store(*second, Ordering::SeqCst);
            let audience = audiences.get(place).map(|audience| (*audience).to_owned());
            let (first, second) =
                (audience.iter().cloned().collect::<Vec<_>>(), audience.into_iter().collect::<Vec<_>>());
            let both =
                tokio::join!(cached.authenticate_token(token, &first), cached.authenticate_token(token, &second));
            assert_eq!(both.0.is_ok(), token != "broken");
            assert_eq!(both.1.is_ok(), token != "broken");
        }
        assert_eq!(inner.0.load(Ordering::SeqCst), expected, "{token} {audiences:?} {at:?}");
    }

    #[tokio::test]
    async fn an_answer_counts_for_its_time() {
        check("good", &[], &[0, 1, 119], 1).await;
        check("good", &[], &[0, 120, 121], 2).await;
        check("bad", &[], &[0, 119, 120], 2).await;
        check("good", &["a", "b", "a"], &[0, 0, 0], 2).await;
    }

    #[tokio::test]
    async fn tokens_that_do_not_hold_may_be_kept_for_another_time_or_not_at_all() {
        let apart = (Duration::from_secs(120), Duration::from_secs(10));
        check_keeping(apart, "good", &[], &[0, 119], 1).await;
        check_keeping(apart, "bad", &[], &[0, 9, 10], 2).await;
        check_keeping((SUCCESS_TTL, Duration::ZERO), "bad", &[], &[0, 0], 2).await;
        check_keeping((SUCCESS_TTL, Duration::ZERO), "good", &[], &[0, 9, 10], 2).await;
    }

    #[tokio::test]
    async fn failures_are_shared_and_not_kept() {
        check("broken", &[], &[0], 1).await;
        check("broken", &[], &[0, 0], 2).await;
    }
}
