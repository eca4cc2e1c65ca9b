//! The dispatcher: one stream of commits in, every collection kept current, commits acknowledged, watchers fed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;
use wharf_store::{Change, Key, Precondition, Revision, Store, Versioned};

use crate::applied::Applied;
use crate::collection::Collection;
use crate::entry::Entry;
use crate::fanout::End;
use crate::seam::{Error, EventType, Index, Indexed};

/// What every key of the API server starts with.
pub const ROOT: &str = "/registry/";

/// Most commits that are applied before those who wait for them are woken.
const BATCH: usize = 512;
/// How often an event may be offered to a watcher before other tasks get their turn.
const OFFERS_MAX: usize = 4096;
/// How long a commit waits for the cache to apply it.
const APPLY_DEADLINE: Duration = Duration::from_secs(30);
/// How long the dispatcher waits before it asks a store that failed again: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// How often snapshots that are kept for continue tokens age.
const SWEEP: Duration = Duration::from_secs(60);

/// Every object of the cluster, and its watchers.
pub struct Cache {
    store: Arc<dyn Store>,
    collections: RwLock<HashMap<String, Arc<Collection>>>,
    applied: Arc<Applied>,
    /// True while the store's watch is open.
    feeding: AtomicBool,
}

/// A commit that the cache has applied.
#[derive(Clone, Debug)]
pub struct Committed {
    pub revision: Revision,
    /// The object as a GET returned it right after the commit; after a deletion, its last state under the deletion's revision.
    pub entry: Arc<Entry>,
}

impl Cache {
    /// An empty cache over a store. Nothing is acknowledged before [`run`](Self::run) runs.
    pub async fn open(store: Arc<dyn Store>) -> Result<Arc<Self>, Error> {
        let applied = Arc::new(Applied::default());
        let revision = store.revision().await?;
        applied.advance(revision);
        applied.advance_dispatched(revision);
        Ok(Arc::new(Self { store, collections: RwLock::default(), applied, feeding: AtomicBool::new(false) }))
    }

    /// Feeds the cache until cancelled, or until the store is closed; then every watch ends.
    pub async fn run(&self, cancel: CancellationToken) {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.feed() => {}
            () = self.sweep() => {}
        }
        self.feeding.store(false, Ordering::Relaxed);
        self.collections().iter().for_each(|collection| collection.end(End::Removed));
    }

    /// True while commits come in from the store, for health checks.
    pub fn is_feeding(&self) -> bool {
        self.feeding.load(Ordering::Relaxed)
    }

    /// The revision that reads see.
    pub fn revision(&self) -> Revision {
        self.applied.applied()
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Waits until reads see a revision that a client asks for ("not older than").
    pub async fn wait_for(&self, revision: Revision, deadline: Duration) -> Result<(), Error> {
        if self.revision() >= revision {
            return Ok(());
        }
        let waited = tokio::time::timeout(deadline, self.applied.wait(revision)).await;
        waited.map_err(|_| Error::Future { asked: revision, current: self.revision() })
    }

    /// The collection under a prefix that ends in `/`; loaded from the store the first time. Asking again returns the same
    /// one, with the index it was made with.
    pub async fn collection(&self, prefix: &str, index: Arc<dyn Index>) -> Result<Arc<Collection>, Error> {
        debug_assert!(prefix.starts_with(ROOT) && prefix.ends_with('/'), "{prefix}");
        let known = self.collections.read().get(prefix).cloned();
        let collection = known.unwrap_or_else(|| {
            let mut collections = self.collections.write();
            let made = || Arc::new(Collection::new(prefix.to_owned(), index, self.store.clone(), self.applied.clone()));
            collections.entry(prefix.to_owned()).or_insert_with(made).clone()
        });
        collection.ready().await?;
        Ok(collection)
    }

    /// A part of a collection that cannot be loaded as a whole, for one request: what is `below` a prefix now, or, without one,
    /// nothing but keys that are [read](Collection::read) one by one. Later commits do not come to it.
    pub async fn glimpse(
        &self,
        prefix: &str,
        index: Arc<dyn Index>,
        below: Option<&str>,
    ) -> Result<Arc<Collection>, Error> {
        let scope = below.unwrap_or(prefix).to_owned();
        let glimpse = Collection::glimpse(scope, index, self.store.clone(), self.applied.clone());
        if below.is_some() {
            glimpse.load().await?;
        }
        Ok(Arc::new(glimpse))
    }

    /// What is served now, for metrics.
    pub fn collections(&self) -> Vec<Arc<Collection>> {
        self.collections.read().values().cloned().collect()
    }

    /// What a key of a served collection holds.
    pub fn peek(&self, key: &str) -> Option<Arc<Entry>> {
        self.find(key)?.get(key)
    }

    /// Stops serving a collection; its watches end. The store keeps its objects.
    pub fn remove_collection(&self, prefix: &str) {
        let removed = self.collections.write().remove(prefix);
        if let Some(collection) = removed {
            collection.end(End::Removed);
        }
    }

    /// Writes or deletes one key: durable, and seen by reads, when it returns. `key` starts with [`ROOT`].
    pub async fn commit(&self, key: &str, precondition: Precondition, change: Change) -> Result<Committed, Error> {
        debug_assert!(key.starts_with(ROOT), "{key}");
        let value = match &change {
            Change::Put(value) => Some(value.clone()),
            Change::Delete => None,
        };
        match self.store.commit(key, precondition, change).await {
            Ok(revision) => {
                self.settle(revision).await?;
                Ok(Committed { revision, entry: self.committed(key, revision, value).await })
            }
            Err(wharf_store::Error::Precondition { current, revision }) => {
                self.settle(revision).await?;
                Err(Error::Conflict { current: current.map(|current| self.current(current)) })
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn settle(&self, revision: Revision) -> Result<(), Error> {
        if self.revision() >= revision {
            return Ok(());
        }
        let waited = tokio::time::timeout(APPLY_DEADLINE, self.applied.wait(revision)).await;
        waited.map_err(|_| Error::Stalled { revision })
    }

    /// The object that a commit wrote. The ring nearly always still has it; a collection loaded since then does not.
    async fn committed(&self, key: &str, revision: Revision, value: Option<Bytes>) -> Arc<Entry> {
        let stored = value.as_deref().unwrap_or(b"{}");
        let Some(collection) = self.find(key) else {
            return Arc::new(Entry::new(Key::from(key), revision, stored, &Unindexed, EventType::Modified));
        };
        if let Some(event) = collection.event_at(revision) {
            return event.new.clone();
        }
        match collection.event_of(key, revision).await {
            Ok(Some(event)) => event.new.clone(),
            _ => collection.build(Key::from(key), revision, stored),
        }
    }

    /// What a store says a key holds, as an entry; the cache's own if it is the same.
    fn current(&self, held: Versioned) -> Arc<Entry> {
        let Some(collection) = self.find(&held.key) else {
            return Arc::new(Entry::new(held.key, held.revision, &held.value, &Unindexed, EventType::Modified));
        };
        match collection.get(&held.key) {
            Some(entry) if entry.revision == held.revision => entry,
            _ => collection.build(held.key, held.revision, &held.value),
        }
    }

    /// The collection that a key belongs to: the one with the longest prefix.
    fn find(&self, key: &str) -> Option<Arc<Collection>> {
        let collections = self.collections.read();
        key.rmatch_indices('/').find_map(|(at, _)| collections.get(&key[..=at])).cloned()
    }

    async fn sweep(&self) {
        let mut ticks = tokio::time::interval(SWEEP);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.collections().iter().for_each(|collection| collection.sweep());
        }
    }

    async fn feed(&self) {
        let mut wait = RETRY.0;
        loop {
            let before = self.revision();
            let ended = self.follow().await;
            self.feeding.store(false, Ordering::Relaxed);
            let error = match ended {
                wharf_store::Error::Closed => return,
                wharf_store::Error::Compacted { oldest } => {
                    tracing::warn!(
                        at = before.0,
                        oldest = oldest.0,
                        "the watch cache fell behind the store's history: loading all again"
                    );
                    self.reload().await.err()
                }
                error => Some(error.into()),
            };
            if self.revision() > before {
                wait = RETRY.0;
            }
            if let Some(error) = error {
                tracing::warn!(error = &error as &dyn std::error::Error, retry_in = ?wait, "the watch cache lost the store");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY.1);
            }
        }
    }

    /// Applies commits as they come, until the store's watch fails.
    async fn follow(&self) -> wharf_store::Error {
        let mut watch = match self.store.watch(ROOT, self.revision()).await {
            Ok(watch) => watch,
            Err(error) => return error,
        };
        self.feeding.store(true, Ordering::Relaxed);
        loop {
            let mut events = Vec::new();
            let ended = gather(&mut watch, &mut events).await;
            self.apply(events).await;
            if let Err(error) = ended {
                return error;
            }
        }
    }

    /// Applies a batch: first to what reads see, then acknowledges, then tells watchers.
    async fn apply(&self, events: Vec<wharf_store::Event>) {
        let Some(newest) = events.last().map(|event| event.revision) else { return };
        let mut parts: Vec<(Arc<Collection>, Vec<wharf_store::Event>)> = Vec::new();
        for event in events {
            let Some(collection) = self.find(&event.key) else { continue };
            match parts.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &collection)) {
                Some((_, part)) => part.push(event),
                None => parts.push((collection, vec![event])),
            }
        }
        let made: Vec<_> = parts.iter().map(|(collection, events)| (collection, collection.apply(events))).collect();
        self.applied.advance(newest);
        for (collection, events) in made {
            for part in events.chunks((OFFERS_MAX / collection.watchers().max(1)).max(1)) {
                collection.dispatch(part);
                tokio::task::yield_now().await;
            }
        }
        self.applied.advance_dispatched(newest);
    }

    /// Reads everything again after history was lost.
    async fn reload(&self) -> Result<(), Error> {
        let revision = self.store.revision().await?;
        for collection in self.collections() {
            match collection.reload().await {
                // One that could never be loaded is loaded when it can be; it does not hold up the others.
                Err(Error::Store(wharf_store::Error::Transform { key, why })) if !collection.is_loaded() => {
                    tracing::warn!(key, why, "what is stored cannot be opened");
                }
                reloaded => reloaded?,
            }
        }
        self.applied.advance(revision);
        self.applied.advance_dispatched(revision);
        Ok(())
    }
}

/// For keys outside every collection.
struct Unindexed;

impl Index for Unindexed {
    fn index(&self, _: &[u8]) -> Indexed {
        Indexed::default()
    }
}
/// Waits for an event and takes the others that are there with it: `ready_chunks` would make room for a full batch each time.
async fn gather(watch: &mut wharf_store::Watch, events: &mut Vec<wharf_store::Event>) -> wharf_store::Result<()> {
    let mut next = watch.next().await;
    loop {
        events.push(next.ok_or(wharf_store::Error::Closed)??);
        if events.len() == BATCH {
            return Ok(());
        }
        next = match watch.next().now_or_never() {
            Some(next) => next,
            None => return Ok(()),
        };
    }
}
