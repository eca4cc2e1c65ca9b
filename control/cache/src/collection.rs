//! One collection: the objects under a prefix, their recent events, and their watchers.
//!
//! Only the dispatcher ([`Cache::run`](crate::Cache::run)) changes a loaded collection. Locks are held for a map operation,
//! never across I/O. Order of locks: a watcher's queue, then `state`; `observers`, then `state`; `watchers` is never held with
//! `state`.

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tokio::sync::OnceCell;
use wharf_store::{Key, Revision, Store};

use crate::applied::Applied;
use crate::entry::Entry;
use crate::fanout::{End, WATCHERS_MAX, Wakes, Watcher, Watchers};
use crate::observer::{Observer, Observers};
use crate::ring::Ring;
use crate::seam::{Error, Event, EventType, Filter, Index, Start};
use crate::snapshot::{Objects, Pins, Snapshot};
use crate::watch::Watch;

/// How many objects a load reads from the store at a time.
const LOAD_PAGE: usize = 500;
/// How many events a load, or a watch that is older than the ring, reads from the store's log at a time.
pub(crate) const HISTORY_PAGE: usize = 256;
/// How often a load starts again because its revision was compacted under it.
const LOAD_TRIES: usize = 5;

pub struct Collection {
    prefix: String,
    index: Arc<dyn Index>,
    store: Arc<dyn Store>,
    applied: Arc<Applied>,
    /// False for a glimpse, which no dispatcher knows.
    fed: bool,
    loaded: OnceCell<()>,
    state: RwLock<State>,
    watchers: Mutex<Watchers>,
    observers: Observers,
    pins: Mutex<Pins>,
}

struct State {
    objects: Objects,
    ring: Ring,
    /// Every event of the collection up to here is in `objects`, and none after.
    last: Revision,
    /// While the collection is being loaded: the newest event that the dispatcher left to the load.
    loading: Option<Revision>,
}

impl Collection {
    pub(crate) fn new(prefix: String, index: Arc<dyn Index>, store: Arc<dyn Store>, applied: Arc<Applied>) -> Self {
        Self::of(prefix, index, store, applied, Some(Revision(0)))
    }

    /// A collection of its own, which no dispatcher changes.
    pub(crate) fn glimpse(prefix: String, index: Arc<dyn Index>, store: Arc<dyn Store>, applied: Arc<Applied>) -> Self {
        Self::of(prefix, index, store, applied, None)
    }

    fn of(
        prefix: String,
        index: Arc<dyn Index>,
        store: Arc<dyn Store>,
        applied: Arc<Applied>,
        loading: Option<Revision>,
    ) -> Self {
        let state = State { objects: Objects::new(), ring: Ring::default(), last: Revision(0), loading };
        Self {
            prefix,
            index,
            store,
            applied,
            fed: loading.is_some(),
            loaded: OnceCell::new(),
            state: RwLock::new(state),
            watchers: Mutex::default(),
            observers: Observers::default(),
            pins: Mutex::default(),
        }
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.state.read().objects.get(key).cloned()
    }

    /// What a key holds: as [`get`](Self::get) has it, or, of a glimpse, as the store has it now.
    pub async fn read(&self, key: &str) -> Result<Option<Arc<Entry>>, Error> {
        if self.fed {
            return Ok(self.get(key));
        }
        let held = self.store.get(key).await?;
        Ok(held.map(|held| self.build(held.key, held.revision, &held.value)))
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn watchers(&self) -> usize {
        self.watchers.lock().len()
    }

    /// The collection as it is now.
    pub fn snapshot(&self) -> Snapshot {
        let state = self.state.read();
        Snapshot { revision: self.revision_of(&state), objects: state.objects.clone() }
    }

    /// The collection as it was. A snapshot that was [pinned](Self::pin) is found at once; others are worked out from recent
    /// events, or read from the store's history as long as it reaches.
    pub async fn snapshot_at(&self, revision: Revision) -> Result<Snapshot, Error> {
        if let Some(snapshot) = self.remembered(revision)? {
            return Ok(snapshot);
        }
        let objects = self.read_objects(Some(revision)).await.map_err(|error| expired(revision, error))?.objects;
        let snapshot = Snapshot { revision, objects };
        self.pin(&snapshot);
        Ok(snapshot)
    }

    /// Keeps a snapshot for the pages that follow a limited list's first. Bounded in number and time.
    pub fn pin(&self, snapshot: &Snapshot) {
        self.pins.lock().pin(snapshot);
    }

    /// Begins a watch. What goes wrong with its revision is told by the watch itself, as upstream does; here only a
    /// watcher too many is refused.
    pub fn watch(self: &Arc<Self>, start: Start, mut filter: Filter) -> Result<Watch, Error> {
        if filter.is_prefix() && self.prefix.starts_with(&filter.key_prefix) {
            filter.key_prefix.clear();
        }
        let (from, initial) = match start {
            Start::After(revision) => (revision, None),
            Start::Now => (self.snapshot().revision, None),
            Start::InitialEvents => {
                let snapshot = self.snapshot();
                (snapshot.revision, Some(snapshot))
            }
        };
        let watcher = {
            let mut watchers = self.watchers.lock();
            if watchers.len() >= WATCHERS_MAX {
                return Err(Error::TooManyWatchers { prefix: self.prefix.clone(), limit: WATCHERS_MAX });
            }
            watchers.add(filter, self.index.triggers(), from)
        };
        Ok(Watch::new(self.clone(), watcher, from, initial))
    }

    /// Tells `observer` of all objects now, and of every change from now on before it is acknowledged.
    pub fn observe(&self, observer: Arc<dyn Observer>) {
        self.observers.add(observer, || self.snapshot());
    }

    pub(crate) fn forget(&self, watcher: &Arc<Watcher>) {
        self.watchers.lock().remove(watcher);
    }

    pub(crate) fn end(&self, end: End) {
        self.watchers.lock().end(end);
    }

    pub(crate) fn sweep(&self) {
        self.pins.lock().sweep();
    }

    /// Up to which revision all events have been offered to watchers.
    pub(crate) fn dispatched(&self) -> Revision {
        self.applied.dispatched()
    }

    /// The newest revision that the collection accounts for: the cache's, unless the dispatcher is in the middle of a batch.
    fn revision_of(&self, state: &State) -> Revision {
        // Read under the state's lock: all that is applied up to this mark is in `objects`, unless nothing is applied to it.
        if self.fed { state.last.max(self.applied.applied()) } else { state.last }
    }

    pub fn revision(&self) -> Revision {
        self.revision_of(&self.state.read())
    }

    /// The newest revision at which one of its objects came, changed or went.
    pub fn last(&self) -> Revision {
        self.state.read().last
    }

    pub(crate) fn event_at(&self, revision: Revision) -> Option<Arc<Event>> {
        self.state.read().ring.at(revision).cloned()
    }

    /// At most `limit` recent events after a revision; none if the ring no longer has them all. With them, the revision
    /// they reach to.
    pub(crate) fn recent(&self, after: Revision, limit: usize) -> Option<(Vec<Arc<Event>>, Revision)> {
        let state = self.state.read();
        let events: Vec<_> = state.ring.since(after)?.take(limit).cloned().collect();
        let through = match events.last() {
            Some(event) if events.len() == limit => event.revision,
            _ => state.last.max(after),
        };
        Some((events, through))
    }

    /// Events from the store's log, for who needs older ones than the ring has; and the revision they reach to. None
    /// that the cache has not applied.
    pub(crate) async fn older(&self, after: Revision) -> Result<(Vec<Arc<Event>>, Revision), Error> {
        let history =
            self.store.history(&self.prefix, after, HISTORY_PAGE).await.map_err(|error| expired(after, error))?;
        let last = self.last();
        let events = history.events.into_iter().filter(|event| event.revision <= last).map(|event| self.rebuild(event));
        Ok((events.collect(), history.through.min(last).max(after)))
    }

    /// The event of a commit, read from the store's log.
    pub(crate) async fn event_of(&self, key: &str, revision: Revision) -> Result<Option<Arc<Event>>, Error> {
        let history = self.store.history(key, Revision(revision.0 - 1), 1).await?;
        Ok(history.events.into_iter().find(|event| event.revision == revision).map(|event| self.rebuild(event)))
    }

    /// An event of the store's log as the dispatcher would have made it.
    fn rebuild(&self, event: wharf_store::Event) -> Arc<Event> {
        let old = event.previous.as_ref().map(|(revision, value)| self.build(event.key.clone(), *revision, value));
        let new = self.entry(&event, old.as_deref());
        Arc::new(Event::new(event.revision, old, new, event.value.is_none()))
    }

    /// What an event leaves behind: the new object, or the old one under the revision of its deletion.
    fn entry(&self, event: &wharf_store::Event, old: Option<&Entry>) -> Arc<Entry> {
        let (stored, kind) = match (&event.value, old) {
            (Some(value), Some(_)) => (&value[..], EventType::Modified),
            (Some(value), None) => (&value[..], EventType::Added),
            (None, Some(old)) => return Arc::new(old.at(event.revision, EventType::Deleted)),
            // A store never deletes what is not there.
            (None, None) => (&b"{}"[..], EventType::Deleted),
        };
        Arc::new(Entry::new(event.key.clone(), event.revision, stored, &*self.index, kind))
    }

    /// An object as the store holds it, for when the cache no longer has that revision.
    pub(crate) fn build(&self, key: Key, revision: Revision, stored: &[u8]) -> Arc<Entry> {
        Arc::new(Entry::new(key, revision, stored, &*self.index, EventType::Modified))
    }

    /// Applies events of this collection, in order. Returns what is to be offered to watchers.
    pub(crate) fn apply(&self, events: &[wharf_store::Event]) -> Vec<Arc<Event>> {
        let mut made = Vec::with_capacity(events.len());
        for event in events {
            // Only this task changes a loaded collection, so what is read here still holds below.
            let Some(old) = self.state.write().expect(event) else { continue };
            let new = self.entry(event, old.as_deref());
            let event = Arc::new(Event::new(event.revision, old, new, event.value.is_none()));
            self.state.write().apply(event.clone());
            made.push(event);
        }
        self.observers.changed(&made);
        made
    }

    pub(crate) fn dispatch(&self, events: &[Arc<Event>]) {
        let mut wakes = Wakes::default();
        let watchers = self.watchers.lock();
        for event in events {
            watchers.offer(event, &self.prefix, &mut wakes);
        }
        // Who is woken may want to go at once.
        drop(watchers);
    }

    /// Loads the collection if that has not been done yet.
    pub(crate) async fn ready(&self) -> Result<(), Error> {
        self.loaded.get_or_try_init(|| self.load()).await.map(|_| ())
    }

    pub(crate) fn is_loaded(&self) -> bool {
        self.loaded.initialized()
    }

    /// Reads the collection again after history was lost; watchers are told that theirs is gone.
    pub(crate) async fn reload(&self) -> Result<(), Error> {
        self.state.write().loading.get_or_insert(Revision(0));
        self.load().await?;
        self.observers.loaded(|| self.snapshot());
        self.end(End::Reloaded(self.last()));
        Ok(())
    }

    /// Reads every object at one revision, then events from there on until none is left to the load.
    pub(crate) async fn load(&self) -> Result<(), Error> {
        for _ in 0..LOAD_TRIES {
            match self.try_load().await {
                Err(Error::Store(wharf_store::Error::Compacted { .. })) => continue,
                result => return result,
            }
        }
        Err(Error::Load { prefix: self.prefix.clone() })
    }

    async fn try_load(&self) -> Result<(), Error> {
        let mut state = self.read_objects(None).await?;
        while !self.take_over(&mut state) {
            let history = self.store.history(&self.prefix, state.last, HISTORY_PAGE).await?;
            for event in history.events {
                let event = self.rebuild(event);
                state.apply(event);
            }
            state.last = history.through;
        }
        Ok(())
    }

    /// Puts what was loaded in place, unless the dispatcher has come past it.
    fn take_over(&self, loaded: &mut State) -> bool {
        let mut state = self.state.write();
        if state.loading.is_some_and(|skipped| skipped > loaded.last) {
            return false;
        }
        let empty = State { objects: Objects::new(), ring: Ring::default(), last: Revision(0), loading: None };
        *state = std::mem::replace(loaded, empty);
        true
    }

    async fn read_objects(&self, at: Option<Revision>) -> Result<State, Error> {
        let (mut objects, mut at, mut after) = (Objects::new(), at, None::<Key>);
        loop {
            let page = self.store.range(&self.prefix, at, after.as_deref(), LOAD_PAGE).await?;
            at = Some(page.revision);
            after = page.items.last().map(|item| item.key.clone());
            for item in page.items {
                let entry = Entry::new(item.key.clone(), item.revision, &item.value, &*self.index, EventType::Added);
                objects.insert(item.key, Arc::new(entry));
            }
            if !page.more {
                let ring = Ring::starting_at(page.revision);
                return Ok(State { objects, ring, last: page.revision, loading: None });
            }
        }
    }

    fn remembered(&self, revision: Revision) -> Result<Option<Snapshot>, Error> {
        if let Some(snapshot) = self.pins.lock().get(revision) {
            return Ok(Some(snapshot));
        }
        let state = self.state.read();
        let current = self.revision_of(&state);
        if revision > current {
            return Err(Error::Future { asked: revision, current });
        }
        let mut objects = state.objects.clone();
        if revision < state.last {
            let Some(since) = state.ring.since(revision) else { return Ok(None) };
            for event in since.rev() {
                match &event.old {
                    Some(old) => objects.insert(old.key.clone(), old.clone()),
                    None => objects.remove(&event.new.key),
                };
            }
        }
        Ok(Some(Snapshot { revision, objects }))
    }
}

impl State {
    /// What an event's key holds, if the event is to be applied: not before the collection is loaded, nor if that brought it.
    fn expect(&mut self, event: &wharf_store::Event) -> Option<Option<Arc<Entry>>> {
        if let Some(skipped) = &mut self.loading {
            *skipped = event.revision;
            return None;
        }
        (event.revision > self.last).then(|| self.objects.get(&*event.key).cloned())
    }

    fn apply(&mut self, event: Arc<Event>) {
        if event.deleted {
            self.objects.remove(&*event.new.key);
        } else {
            self.objects.insert(event.new.key.clone(), event.new.clone());
        }
        self.last = event.revision;
        self.ring.push(event);
    }
}

/// The store's "compacted" in the words of the API.
fn expired(asked: Revision, error: impl Into<Error>) -> Error {
    match error.into() {
        Error::Store(wharf_store::Error::Compacted { oldest }) => Error::Expired { asked, oldest },
        error => error,
    }
}
