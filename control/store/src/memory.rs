//! The store for tests: everything in memory, with the same history, compaction and watches as the durable one.
//!
//! Absent on purpose: durability and a bound on history (call [`Store::compact`]).

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::follow::{self, Log, follow};
use crate::{
    Change, Error, Event, History, Key, Page, Precondition, Result, Revision, Store, Versioned, Watch, check_size,
};

#[derive(Clone)]
pub struct MemoryStore {
    state: Arc<RwLock<State>>,
    latest: Arc<watch::Sender<Revision>>,
}

#[derive(Default)]
struct State {
    current: BTreeMap<Key, (Revision, Bytes)>,
    /// Commits with revisions from `compacted + 1` to `revision`, without holes.
    log: VecDeque<Event>,
    revision: Revision,
    compacted: Revision,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self { state: Arc::default(), latest: Arc::new(watch::Sender::new(Revision(0))) }
    }
}

impl MemoryStore {
    pub fn new() -> Self {
        Self::default()
    }
}

impl State {
    fn commit(&mut self, key: &str, precondition: Precondition, change: Change) -> Result<Revision> {
        let held = self.current.get_key_value(key);
        if !precondition.holds(held.map(|(_, (revision, _))| *revision), &change) {
            let current = held.map(|(key, value)| versioned(key, value));
            return Err(Error::Precondition { current, revision: self.revision });
        }
        let key = held.map_or_else(|| Key::from(key), |(key, _)| key.clone());
        self.revision = Revision(self.revision.0 + 1);
        let (value, previous) = match change {
            Change::Put(value) => (Some(value.clone()), self.current.insert(key.clone(), (self.revision, value))),
            Change::Delete => (None, self.current.remove(&key)),
        };
        self.log.push_back(Event { revision: self.revision, key, value, previous });
        Ok(self.revision)
    }

    /// The commits after a revision.
    fn since(&self, after: Revision) -> Result<impl Iterator<Item = &Event>> {
        self.within(after)?;
        Ok(self.log.iter().skip((after.0 - self.compacted.0) as usize))
    }

    fn within(&self, revision: Revision) -> Result<()> {
        if revision < self.compacted {
            Err(Error::Compacted { oldest: self.compacted })
        } else if revision > self.revision {
            Err(Error::Future { latest: self.revision })
        } else {
            Ok(())
        }
    }

    /// What the keys under `prefix` held at `at`, as far as it differs from now.
    fn undo(&self, prefix: &str, at: Revision) -> Result<BTreeMap<&Key, Option<&(Revision, Bytes)>>> {
        let mut then = BTreeMap::new();
        for event in self.since(at)?.filter(|event| event.key.starts_with(prefix)) {
            then.entry(&event.key).or_insert(event.previous.as_ref());
        }
        Ok(then)
    }

    fn range(&self, prefix: &str, at: Revision, after: Option<&str>, limit: usize) -> Result<Page> {
        let mut then = self.undo(prefix, at)?;
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        for (key, value) in self.current.range::<str, _>((from, Bound::Unbounded)) {
            if !key.starts_with(prefix) {
                break;
            }
            then.entry(key).or_insert(Some(value));
        }
        let mut found = then
            .into_iter()
            .filter(|(key, _)| after.is_none_or(|after| &***key > after))
            .filter_map(|(key, value)| Some(versioned(key, value?)));
        let items = found.by_ref().take(limit).collect();
        Ok(Page { items, revision: at, more: found.next().is_some() })
    }

    fn history(&self, prefix: &str, after: Revision, limit: usize) -> Result<History> {
        let mut history = History { events: Vec::new(), through: after };
        for event in self.since(after)? {
            if history.events.len() == limit {
                return Ok(history);
            }
            if event.key.starts_with(prefix) {
                history.events.push(event.clone());
            }
            history.through = event.revision;
        }
        Ok(history)
    }
}

fn versioned(key: &Key, (revision, value): &(Revision, Bytes)) -> Versioned {
    Versioned { key: key.clone(), value: value.clone(), revision: *revision }
}

#[async_trait]
impl Log for RwLock<State> {
    async fn history(&self, prefix: &str, after: Revision, limit: usize) -> Result<History> {
        self.read().history(prefix, after, limit)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &str) -> Result<Option<Versioned>> {
        Ok(self.state.read().current.get_key_value(key).map(|(key, value)| versioned(key, value)))
    }

    async fn range(&self, prefix: &str, at: Option<Revision>, after: Option<&str>, limit: usize) -> Result<Page> {
        let state = self.state.read();
        state.range(prefix, at.unwrap_or(state.revision), after, limit)
    }

    async fn commit(&self, key: &str, precondition: Precondition, change: Change) -> Result<Revision> {
        check_size(key, &change)?;
        let mut state = self.state.write();
        let revision = state.commit(key, precondition, change)?;
        self.latest.send_replace(revision);
        Ok(revision)
    }

    async fn history(&self, prefix: &str, after: Revision, limit: usize) -> Result<History> {
        self.state.read().history(prefix, after, limit)
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch> {
        let first = self.state.read().history(prefix, after, follow::FIRST)?;
        Ok(follow(self.state.clone(), self.latest.subscribe(), prefix, after, first))
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        let mut state = self.state.write();
        if revision > state.revision {
            return Err(Error::Future { latest: state.revision });
        }
        if revision > state.compacted {
            let forgotten = (revision.0 - state.compacted.0) as usize;
            state.log.drain(..forgotten);
            state.compacted = revision;
        }
        Ok(())
    }

    async fn revision(&self) -> Result<Revision> {
        Ok(self.state.read().revision)
    }

    async fn size_bytes(&self) -> Result<u64> {
        let state = self.state.read();
        let current: usize = state.current.iter().map(|(key, (_, value))| key.len() + value.len()).sum();
        let log: usize =
            state.log.iter().map(|event| event.key.len() + event.value.as_ref().map_or(0, Bytes::len)).sum();
        Ok((current + log) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_memory_store_keeps_the_contract() {
        crate::contract::suite(|| async { Arc::new(MemoryStore::new()) as Arc<dyn Store> }).await;
    }
}
