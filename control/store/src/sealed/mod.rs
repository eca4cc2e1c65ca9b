//! Encryption at rest: a store whose values under some prefixes are sealed before another store writes them.
//!
//! The written form is upstream's (`k8s.io/apiserver/pkg/storage/value`), so an etcd that kube-apiserver has encrypted can be
//! read, and the other way round. Invariants: the first provider of a rule writes and all of them read; a value is bound to its
//! key, so one copied to another key does not open; a key that no rule covers is passed through untouched.
//! Absent on purpose: hiding keys and sizes; re-sealing by itself (a client rewrites objects, and [`Store::is_stale`] makes
//! such a write happen although nothing changes).

mod aes;
mod secretbox;

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::{Mutex, RwLock};

pub use aes::{AesCbc, AesGcm};
pub use secretbox::SecretBox;

use crate::{Change, Error, Event, History, Key, Page, Precondition, Result, Revision, Store, Versioned, Watch};

/// What the value of every provider but [`Identity`] starts with.
const MARK: &[u8] = b"k8s:enc:";

/// Values that are looked at together when the rules change.
const LOOK_PAGE: usize = 500;

/// What sealing may add to a value, in bytes: what a KMS plugin may have kept beside it, and some more.
const ADDED_MAX: usize = 36 << 10;

/// By how much a value may exceed the limit because it is sealed.
pub(crate) fn room(value: &[u8]) -> usize {
    if value.starts_with(MARK) { ADDED_MAX } else { 0 }
}

/// Fills a buffer with random bytes that nobody can guess.
pub type Random = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// One way to seal a value, under one key.
#[async_trait]
pub trait Provider: Send + Sync + 'static {
    /// What it puts before each value, with the name of its key: `k8s:enc:aesgcm:v1:key1:`.
    fn prefix(&self) -> &str;

    /// Seals a value for the store key `at`; without the prefix.
    async fn seal(&self, at: &str, plain: &[u8]) -> std::result::Result<Vec<u8>, String>;

    /// Opens what [`seal`](Self::seal) has made for the same key. True when it should be sealed anew.
    async fn open(&self, at: &str, sealed: &[u8]) -> std::result::Result<(Vec<u8>, bool), String>;
}

#[async_trait]
impl<P: Provider + ?Sized> Provider for Arc<P> {
    fn prefix(&self) -> &str {
        (**self).prefix()
    }

    async fn seal(&self, at: &str, plain: &[u8]) -> std::result::Result<Vec<u8>, String> {
        (**self).seal(at, plain).await
    }

    async fn open(&self, at: &str, sealed: &[u8]) -> std::result::Result<(Vec<u8>, bool), String> {
        (**self).open(at, sealed).await
    }
}

/// Keeps values as they are.
pub struct Identity;

#[async_trait]
impl Provider for Identity {
    fn prefix(&self) -> &str {
        ""
    }

    async fn seal(&self, _: &str, plain: &[u8]) -> std::result::Result<Vec<u8>, String> {
        Ok(plain.to_vec())
    }

    async fn open(&self, _: &str, sealed: &[u8]) -> std::result::Result<(Vec<u8>, bool), String> {
        if sealed.starts_with(MARK) {
            return Err("identity transformer tried to read encrypted data".to_owned());
        }
        Ok((sealed.to_vec(), false))
    }
}

/// Keys below a prefix, and how their values are kept.
pub struct Rule {
    /// `/registry/secrets/`
    pub prefix: String,
    /// The first one writes. Never empty.
    pub providers: Arc<Vec<Box<dyn Provider>>>,
}

/// A store over another one. Clones are the same store.
#[derive(Clone)]
pub struct Sealed(Arc<State>);

struct State {
    inner: Arc<dyn Store>,
    /// The first whose prefix fits decides.
    rules: RwLock<Arc<Vec<Rule>>>,
    /// Keys whose current value is sealed in a way that is no longer the first.
    stale: Mutex<HashSet<Key>>,
}

impl Sealed {
    pub fn new(inner: Arc<dyn Store>, rules: Vec<Rule>) -> Self {
        Self(Arc::new(State { inner, rules: RwLock::new(Arc::new(rules)), stale: Mutex::default() }))
    }

    /// Seals and opens by these rules from now on, and finds out which values they would seal in another way. Says how many they do
    /// not open.
    pub async fn replace(&self, rules: Vec<Rule>) -> Result<usize> {
        let mut prefixes: Vec<String> = rules.iter().map(|rule| rule.prefix.clone()).collect();
        let before = std::mem::replace(&mut *self.0.rules.write(), Arc::new(rules));
        prefixes.extend(before.iter().map(|rule| rule.prefix.clone()));
        prefixes.sort_unstable();
        // What stands below another prefix comes with that.
        prefixes.dedup_by(|next, kept| next.starts_with(kept.as_str()));
        let mut unopened = 0;
        for prefix in prefixes {
            unopened += self.0.look_through(&prefix).await?;
        }
        Ok(unopened)
    }
}

impl State {
    fn providers(&self, key: &str) -> Option<Arc<Vec<Box<dyn Provider>>>> {
        let rules = self.rules.read();
        let rule = rules.iter().find(|rule| key.starts_with(&rule.prefix))?;
        Some(rule.providers.clone())
    }

    /// Notes how all values below a prefix are sealed; says how many do not open.
    async fn look_through(&self, prefix: &str) -> Result<usize> {
        let (mut after, mut unopened) = (None::<Key>, 0);
        loop {
            let page = self.inner.range(prefix, None, after.as_deref(), LOOK_PAGE).await?;
            after = page.items.last().map(|item| item.key.clone());
            for item in page.items {
                if self.open_current(item).await.is_err() {
                    unopened += 1;
                }
            }
            if !page.more {
                return Ok(unopened);
            }
        }
    }

    async fn seal(&self, key: &str, plain: Bytes) -> Result<Bytes> {
        let Some(providers) = self.providers(key) else { return Ok(plain) };
        let Some(first) = providers.first() else { return Ok(plain) };
        let sealed = first.seal(key, &plain).await.map_err(|why| failed(key, why))?;
        Ok([first.prefix().as_bytes(), &sealed].concat().into())
    }

    /// The plain value, and whether it should be sealed anew.
    async fn open(&self, key: &str, sealed: Bytes) -> Result<(Bytes, bool)> {
        let Some(providers) = self.providers(key) else { return Ok((sealed, false)) };
        let mut why = "no matching prefix found".to_owned();
        for (place, provider) in providers.iter().enumerate() {
            let Some(rest) = sealed.strip_prefix(provider.prefix().as_bytes()) else { continue };
            match provider.open(key, rest).await {
                Ok((plain, stale)) => return Ok((plain.into(), stale || place > 0)),
                Err(error) => why = error,
            }
        }
        Err(failed(key, why))
    }

    /// Opens what a key holds now.
    async fn open_current(&self, item: Versioned) -> Result<Versioned> {
        let (value, stale) = self.open(&item.key, item.value).await?;
        self.note(&item.key, stale);
        Ok(Versioned { value, ..item })
    }

    fn note(&self, key: &Key, stale: bool) {
        if stale {
            self.stale.lock().insert(key.clone());
        } else {
            self.fresh(key);
        }
    }

    /// What the key holds is sealed as it should be.
    fn fresh(&self, key: &str) {
        self.stale.lock().remove(key);
    }

    /// Opens a commit of the past. A key that has been given up since makes what it sealed unreadable, which is as if it
    /// were compacted: who asks has to list again.
    async fn open_event(&self, event: Event) -> Result<Event> {
        let Event { revision, key, value, previous } = event;
        let gone = |error| {
            tracing::warn!(%key, %revision, error = &error as &dyn std::error::Error, "history is sealed with a lost key");
            Error::Compacted { oldest: revision }
        };
        let value = match value {
            Some(value) => Some(self.open(&key, value).await.map_err(gone)?),
            None => None,
        };
        let previous = match previous {
            Some((at, value)) => Some((at, self.open(&key, value).await.map_err(gone)?.0)),
            None => None,
        };
        Ok(Event { revision, value: value.map(|(value, _)| value), previous, key })
    }
}

fn failed(key: &str, why: String) -> Error {
    Error::Transform { key: key.to_owned(), why }
}

#[async_trait]
impl Store for Sealed {
    async fn get(&self, key: &str) -> Result<Option<Versioned>> {
        match self.0.inner.get(key).await? {
            Some(item) => self.0.open_current(item).await.map(Some),
            None => Ok(None),
        }
    }

    async fn range(&self, prefix: &str, at: Option<Revision>, after: Option<&str>, limit: usize) -> Result<Page> {
        let Page { items, revision, more } = self.0.inner.range(prefix, at, after, limit).await?;
        let mut opened = Vec::with_capacity(items.len());
        for item in items {
            opened.push(self.0.open_current(item).await?);
        }
        Ok(Page { items: opened, revision, more })
    }

    async fn commit(&self, key: &str, precondition: Precondition, change: Change) -> Result<Revision> {
        crate::check_size(key, &change)?;
        let change = match change {
            Change::Put(plain) => Change::Put(self.0.seal(key, plain).await?),
            Change::Delete => Change::Delete,
        };
        match self.0.inner.commit(key, precondition, change).await {
            Ok(revision) => {
                self.0.fresh(key);
                Ok(revision)
            }
            Err(Error::Precondition { current: Some(current), revision }) => {
                let current = match self.0.open_current(current).await {
                    Ok(current) => Some(current),
                    // That there is something is answer enough.
                    Err(_) if precondition == Precondition::Absent => None,
                    Err(error) => return Err(error),
                };
                Err(Error::Precondition { current, revision })
            }
            Err(error) => Err(error),
        }
    }

    async fn history(&self, prefix: &str, after: Revision, limit: usize) -> Result<History> {
        let History { events, through } = self.0.inner.history(prefix, after, limit).await?;
        let mut opened = Vec::with_capacity(events.len());
        for event in events {
            opened.push(self.0.open_event(event).await?);
        }
        Ok(History { events: opened, through })
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch> {
        let events = self.0.inner.watch(prefix, after).await?;
        let state = self.0.clone();
        let opened = events.then(move |event| {
            let state = state.clone();
            async move { state.open_event(event?).await }
        });
        Ok(opened.boxed())
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.0.inner.compact(revision).await
    }

    async fn revision(&self) -> Result<Revision> {
        self.0.inner.revision().await
    }

    async fn size_bytes(&self) -> Result<u64> {
        self.0.inner.size_bytes().await
    }

    fn is_stale(&self, key: &str) -> bool {
        self.0.stale.lock().contains(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStore;

    const KEY: &str = "/registry/secrets/a/b";

    /// Random enough for a test, and never the same twice.
    fn counting() -> Random {
        let next = Mutex::new(0_u8);
        Arc::new(move |buffer: &mut [u8]| {
            let mut next = next.lock();
            *next = next.wrapping_add(1);
            buffer.fill(*next);
        })
    }

    fn gcm(name: &str, secret: u8) -> Box<dyn Provider> {
        Box::new(AesGcm::new(name, &[secret; 32], counting()).unwrap())
    }

    fn over(inner: &Arc<MemoryStore>, providers: Vec<Box<dyn Provider>>) -> Sealed {
        let rule = Rule { prefix: "/registry/secrets/".to_owned(), providers: Arc::new(providers) };
        Sealed::new(inner.clone(), vec![rule])
    }

    async fn put(store: &dyn Store, key: &str, value: &'static str) -> Revision {
        store.commit(key, Precondition::Any, Change::Put(value.into())).await.unwrap()
    }

    async fn raw(inner: &MemoryStore, key: &str) -> String {
        String::from_utf8_lossy(&inner.get(key).await.unwrap().unwrap().value).into_owned()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_sealed_store_keeps_the_contract() {
        crate::contract::suite(|| async {
            let rule = Rule { prefix: "/".to_owned(), providers: Arc::new(vec![gcm("one", 1), Box::new(Identity)]) };
            Arc::new(Sealed::new(Arc::new(MemoryStore::new()), vec![rule])) as Arc<dyn Store>
        })
        .await;
    }

    #[tokio::test]
    async fn each_provider_reads_what_it_wrote_and_shows_nothing() {
        let providers: Vec<Box<dyn Provider>> = vec![
            gcm("k", 1),
            Box::new(AesGcm::new("k", &[2; 16], counting()).unwrap()),
            Box::new(AesCbc::new("k", &[3; 32], counting()).unwrap()),
            Box::new(SecretBox::new("k", &[4; 32], counting()).unwrap()),
        ];
        for provider in providers {
            let prefix = provider.prefix().to_owned();
            let inner = Arc::new(MemoryStore::new());
            let sealed = over(&inner, vec![provider]);
            put(&sealed, KEY, "hunter2").await;
            let written = raw(&inner, KEY).await;
            assert!(written.starts_with(&prefix) && !written.contains("hunter2"), "{written}");
            assert_eq!(sealed.get(KEY).await.unwrap().unwrap().value, "hunter2", "{prefix}");
            put(&sealed, "/registry/configmaps/a/b", "plain").await;
            assert_eq!(raw(&inner, "/registry/configmaps/a/b").await, "plain");
        }
    }

    #[tokio::test]
    async fn a_value_opens_under_its_own_key_only_and_not_when_changed() {
        let inner = Arc::new(MemoryStore::new());
        let sealed = over(&inner, vec![gcm("k", 1)]);
        put(&sealed, KEY, "hunter2").await;
        let written = inner.get(KEY).await.unwrap().unwrap().value;
        let elsewhere = "/registry/secrets/a/c";
        inner.commit(elsewhere, Precondition::Any, Change::Put(written.clone())).await.unwrap();
        assert!(matches!(sealed.get(elsewhere).await, Err(Error::Transform { .. })));
        let mut broken = written.to_vec();
        *broken.last_mut().unwrap() ^= 1;
        inner.commit(KEY, Precondition::Any, Change::Put(broken.into())).await.unwrap();
        assert!(matches!(sealed.get(KEY).await, Err(Error::Transform { .. })));
    }

    #[tokio::test]
    async fn nothing_is_created_over_a_value_that_does_not_open() {
        let inner = Arc::new(MemoryStore::new());
        let sealed = over(&inner, vec![gcm("k", 1)]);
        put(&*inner, KEY, "k8s:enc:aesgcm:v1:k:damaged").await;
        let create = sealed.commit(KEY, Precondition::Absent, Change::Put("new".into())).await;
        assert!(matches!(create, Err(Error::Precondition { current: None, .. })), "{create:?}");
        let replace = sealed.commit(KEY, Precondition::At(Revision(9)), Change::Put("new".into())).await;
        assert!(matches!(replace, Err(Error::Transform { .. })), "{replace:?}");
        assert_eq!(raw(&inner, KEY).await, "k8s:enc:aesgcm:v1:k:damaged");
    }

    #[tokio::test]
    async fn keys_rotate_and_what_is_sealed_with_an_old_one_is_known() {
        let inner = Arc::new(MemoryStore::new());
        put(&over(&inner, vec![Box::new(Identity)]), KEY, "a").await;
        let first = over(&inner, vec![gcm("one", 1), Box::new(Identity)]);
        assert_eq!(first.get(KEY).await.unwrap().unwrap().value, "a");
        assert!(first.is_stale(KEY));
        put(&first, KEY, "a").await;
        assert!(!first.is_stale(KEY));

        let second = over(&inner, vec![gcm("two", 2), gcm("one", 1)]);
        assert_eq!(second.get(KEY).await.unwrap().unwrap().value, "a");
        assert!(second.is_stale(KEY));
        put(&second, KEY, "a").await;
        assert!(!second.is_stale(KEY) && raw(&inner, KEY).await.starts_with("k8s:enc:aesgcm:v1:two:"));

        let last = over(&inner, vec![gcm("two", 2)]);
        assert_eq!(last.get(KEY).await.unwrap().unwrap().value, "a");
        // What the first key sealed is history that nobody can read: it counts as compacted.
        assert!(matches!(last.history("/registry/", Revision(0), 10).await, Err(Error::Compacted { .. })));
    }

    #[tokio::test]
    async fn identity_alone_refuses_sealed_values() {
        let inner = Arc::new(MemoryStore::new());
        put(&over(&inner, vec![gcm("one", 1)]), KEY, "a").await;
        let error = over(&inner, vec![Box::new(Identity)]).get(KEY).await.unwrap_err();
        let why = "identity transformer tried to read encrypted data";
        assert_eq!(error.to_string(), format!("unable to transform key {KEY:?}: {why}"));
    }

    #[tokio::test]
    async fn rules_change_under_a_store_that_is_in_use() {
        let (inner, other) = (Arc::new(MemoryStore::new()), "/registry/configmaps/a/b");
        let store = over(&inner, vec![gcm("one", 1)]);
        let used = store.clone();
        put(&used, KEY, "a").await;
        put(&used, other, "plain").await;
        let rule = |prefix: &str, providers| Rule { prefix: prefix.to_owned(), providers: Arc::new(providers) };
        let both = vec![
            rule("/registry/secrets/", vec![gcm("two", 2), gcm("one", 1)]),
            rule("/registry/configmaps/", vec![gcm("two", 2), Box::new(Identity)]),
        ];
        assert_eq!(store.replace(both).await.unwrap(), 0);
        for key in [KEY, other] {
            assert!(used.is_stale(key), "{key} is to be sealed with the second key");
            let plain = used.get(key).await.unwrap().unwrap().value;
            used.commit(key, Precondition::Any, Change::Put(plain)).await.unwrap();
            assert!(!used.is_stale(key) && raw(&inner, key).await.starts_with("k8s:enc:aesgcm:v1:two:"));
        }
        let unable = vec![rule("/registry/", vec![gcm("three", 3), Box::new(Identity)])];
        assert_eq!(store.replace(unable).await.unwrap(), 2, "two values are sealed with a key that is gone");
        assert!(matches!(used.get(KEY).await, Err(Error::Transform { .. })));
        assert_eq!(store.replace(vec![rule("/registry/", vec![gcm("two", 2)])]).await.unwrap(), 0);
        assert_eq!(used.get(KEY).await.unwrap().unwrap().value, "a");
    }
}
