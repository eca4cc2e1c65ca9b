//! Keys that an issuer publishes: its discovery document, then the key set that this names.
//!
//! Fetched at the start and when a token is signed by a key that is not known; an issuer that is down keeps nobody from
//! starting. Invariants: one fetch at a time, which everyone waits for and nobody can break off; a pause after each, so tokens
//! with made-up keys cannot wear an issuer out. Source: go-oidc's `NewProvider` and `remoteKeySet`, which have no such pause.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use serde::Deserialize;

use super::keys::KeySet;
use crate::Clock;
use crate::https::Https;

/// The pause after a fetch that brought keys.
const PAUSE_S: i64 = 5;
/// The pause after one that did not, as upstream's.
pub const RETRY: Duration = Duration::from_secs(10);

const WELL_KNOWN: &str = "/.well-known/openid-configuration";

pub struct Remote {
    issuer: String,
    /// Where the discovery document is.
    discovery: String,
    client: Https,
    clock: Clock,
    keys: ArcSwapOption<KeySet>,
    fetching: Mutex<Fetching>,
}

#[derive(Default)]
struct Fetching {
    task: Option<Shared<BoxFuture<'static, ()>>>,
    /// In seconds since the epoch.
    not_before: i64,
    /// Where the keys are, once that is known.
    keys_url: Option<String>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Remote {
    /// `discovery` is where the document is, if not below the issuer's own URL.
    pub fn new(issuer: &str, discovery: &str, client: Https, clock: Clock) -> Arc<Self> {
        let discovery = match discovery {
            "" => format!("{}{WELL_KNOWN}", issuer.trim_end_matches('/')),
            elsewhere => elsewhere.to_owned(),
        };
        let (issuer, fetching) = (issuer.to_owned(), Mutex::default());
        Arc::new(Self { issuer, discovery, client, clock, keys: ArcSwapOption::empty(), fetching })
    }

    /// True where one of the issuer's keys has signed. Asks for new keys if none that is known has.
    pub async fn verify(
        self: &Arc<Self>,
        algorithm: &str,
        id: &str,
        signed: &[u8],
        signature: &[u8],
    ) -> Result<bool, String> {
        let seen = self.keys.load_full();
        if seen.as_ref().is_some_and(|keys| keys.verify(algorithm, id, signed, signature)) {
            return Ok(true);
        }
        self.refresh(seen.as_ref()).await;
        match self.keys.load_full() {
            Some(keys) => Ok(keys.verify(algorithm, id, signed, signature)),
            None => Err("authenticator not initialized".to_owned()),
        }
    }

    /// Fetches the keys for the first time, if that has not been done. Why there are none is the error.
    pub async fn start(self: &Arc<Self>) -> Result<(), String> {
        self.refresh(None).await;
        match self.keys.load().is_some() {
            true => Ok(()),
            false => Err(self.fetching.lock().error.clone().unwrap_or_else(|| "not fetched yet".to_owned())),
        }
    }

    /// Waits for other keys than the `seen` ones, if it is time to look for them.
    async fn refresh(self: &Arc<Self>, seen: Option<&Arc<KeySet>>) {
        let task = {
            let mut fetching = self.fetching.lock();
            let now = (self.clock)().as_second();
            let held = self.keys.load_full();
            let renewed = held.as_ref().map(Arc::as_ptr) != seen.map(Arc::as_ptr);
            match &fetching.task {
                Some(task) if task.peek().is_none() => task.clone(),
                _ if renewed || now < fetching.not_before => return,
                _ => {
                    let this = self.clone();
                    let task = tokio::spawn(async move { this.fetch().await }).map(drop).boxed().shared();
                    fetching.task = Some(task.clone());
                    task
                }
            }
        };
        task.await;
    }

    async fn fetch(&self) {
        let fetched = self.fetch_keys().await;
        let mut fetching = self.fetching.lock();
        let now = (self.clock)().as_second();
        match fetched {
            Ok(keys) => {
                self.keys.store(Some(Arc::new(keys)));
                (fetching.not_before, fetching.error) = (now + PAUSE_S, None);
            }
            Err(error) => {
                tracing::error!(issuer = self.issuer, error, "fetch the issuer's keys");
                (fetching.not_before, fetching.error) = (now + RETRY.as_secs() as i64, Some(error));
            }
        }
    }

    async fn fetch_keys(&self) -> Result<KeySet, String> {
        let known = self.fetching.lock().keys_url.clone();
        let url = match known {
            Some(url) => url,
            None => self.discover().await?,
        };
        let body = self.client.get(&url, None).await?;
        let keys = KeySet::parse(&body).map_err(|why| format!("oidc: failed to decode keys: {why}"))?;
        self.fetching.lock().keys_url = Some(url);
        Ok(keys)
    }

    async fn discover(&self) -> Result<String, String> {
        let body = self.client.get(&self.discovery, None).await?;
        let found: Discovery = serde_json::from_slice(&body)
            .map_err(|error| format!("oidc: failed to decode provider discovery object: {error}"))?;
        if found.issuer != self.issuer {
            let (expected, got) = (&self.issuer, &found.issuer);
            return Err(format!(
                "oidc: issuer did not match the issuer returned by provider, expected {expected:?} got {got:?}"
            ));
        }
        Ok(found.jwks_uri)
    }
}
