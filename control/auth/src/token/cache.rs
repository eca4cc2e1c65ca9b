//! What somebody said of a token, for a while.
//!
//! Source: `k8s.io/apiserver/pkg/authentication/token/cache`. A token is asked about once, however many requests bring it at the
//! same time, and nobody who goes away breaks that off. Failures to ask are not kept. Tokens are kept as hashes.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use jiff::{SignedDuration, Timestamp};
use lru::LruCache;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::{AuthenticateError, Clock, Tokens, Whose};

/// Most tokens that are kept.
const TOKENS_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

type Answer = Result<Option<Whose>, AuthenticateError>;

pub struct CachedTokens {
    inner: Arc<dyn Tokens>,
    ttl: SignedDuration,
    clock: Clock,
    answers: Mutex<LruCache<[u8; 32], Held>>,
}

struct Held {
    answer: Shared<BoxFuture<'static, Answer>>,
    asked: Timestamp,
}

impl CachedTokens {
    /// Keeps what `inner` says for `ttl`.
    pub fn new(inner: Arc<dyn Tokens>, ttl: Duration, clock: Clock) -> Self {
        let ttl = SignedDuration::try_from(ttl).unwrap_or(SignedDuration::MAX);
        Self { inner, ttl, clock, answers: Mutex::new(LruCache::new(TOKENS_MAX)) }
    }

    fn answer(&self, token: &str, audiences: &[String]) -> Shared<BoxFuture<'static, Answer>> {
        let mut hash = Sha256::new();
        for part in audiences.iter().map(String::as_str).chain([token]) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let key: [u8; 32] = hash.finalize().into();
        let now = (self.clock)();
        let mut answers = self.answers.lock();
        if let Some(held) = answers.get(&key) {
            let counts = match held.answer.peek() {
                None => true,
                Some(Ok(_)) => now.duration_since(held.asked) < self.ttl,
                Some(Err(_)) => false,
            };
            if counts {
                return held.answer.clone();
            }
        }
        let (inner, token, audiences) = (self.inner.clone(), token.to_owned(), audiences.to_vec());
        let asking = tokio::spawn(async move { inner.authenticate_token(&token, &audiences).await });
        let broken = || Err(AuthenticateError("the question about the token was broken off".to_owned()));
        let answer = asking.map(move |ended| ended.unwrap_or_else(|_| broken())).boxed().shared();
        answers.put(key, Held { answer: answer.clone(), asked: now });
        answer
    }
}

#[async_trait]
impl Tokens for CachedTokens {
    async fn authenticate_token(&self, token: &str, audiences: &[String]) -> Answer {
        self.answer(token, audiences).await
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
                "good" => Ok(Some(Whose { user: User::new("jane", &[]), audiences: Vec::new() })),
                _ => Ok(None),
            }
        }
    }

    /// Asks for a token at some times, of which `expected` are passed on.
    async fn check(token: &str, audiences: &[&str], at: &[i64], expected: usize) {
        let (inner, now) = (Arc::new(Counted::default()), Arc::new(AtomicI64::new(0)));
        let time = now.clone();
        let clock: Clock = Arc::new(move || Timestamp::from_second(time.load(Ordering::SeqCst)).expect("a time"));
        let cached = CachedTokens::new(inner.clone(), Duration::from_secs(120), clock);
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
    async fn failures_are_shared_and_not_kept() {
        check("broken", &[], &[0], 1).await;
        check("broken", &[], &[0, 0], 2).await;
    }
}
