//! Bytes under keys, with revisions: the one durable thing in a cluster.
//!
//! [`Store`] is dyn-safe and knows nothing of Kubernetes. Every implementation passes `contract::suite`.
//!
//! Invariants, for every implementation:
//! - each successful commit takes the next revision; a revision is never reused and never goes back, across crashes too;
//! - an acknowledged commit survives `kill -9` (the memory store excepted);
//! - a watcher sees every commit after its starting revision once, in order, or is told [`Error::Compacted`].
//!
//! Absent on purpose: object decoding, retries, caching.

#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod follow;
mod memory;
mod redb;
pub mod sealed;

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

pub use crate::memory::MemoryStore;
pub use crate::redb::{Options, RedbStore};

/// Largest value, in bytes: upstream's default limit of an etcd request.
pub const VALUE_BYTES_MAX: usize = 3 * 1024 * 1024 / 2;
/// Longest key, in bytes: far above what names, namespaces and groups can add up to.
pub const KEY_BYTES_MAX: usize = 2048;

/// A store revision, which is also an object's `resourceVersion`. The first commit gets 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key as Kubernetes writes it in etcd: `/registry/pods/default/web`.
pub type Key = std::sync::Arc<str>;

/// A value and the revision that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    pub key: Key,
    pub value: Bytes,
    pub revision: Revision,
}

/// What must hold for a commit to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// The key must not exist.
    Absent,
    /// The key's last revision must be this one.
    At(Revision),
    /// The key must exist, at whatever revision.
    Present,
    /// Nothing is asked.
    Any,
}

#[derive(Clone, Debug)]
pub enum Change {
    Put(Bytes),
    Delete,
}

/// One committed change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub revision: Revision,
    pub key: Key,
    /// The new value; none for a deletion.
    pub value: Option<Bytes>,
    /// What the key held before, with the revision that wrote it.
    pub previous: Option<(Revision, Bytes)>,
}

/// One page of a range.
#[derive(Clone, Debug)]
pub struct Page {
    pub items: Vec<Versioned>,
    /// The revision that the page was read at; pass it as `at` to read the next page from the same moment.
    pub revision: Revision,
    /// True when keys remain after the last item.
    pub more: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The precondition did not hold; carries what the key held, and the store's revision when it was looked at. What cannot
    /// be opened is not carried where the key should have been absent.
    #[error("precondition failed")]
    Precondition { current: Option<Versioned>, revision: Revision },
    /// The revision asked for is older than the history that is kept.
    #[error("revision is compacted; the oldest kept is {oldest}")]
    Compacted { oldest: Revision },
    /// The revision asked for has not been committed yet.
    #[error("revision is in the future; the latest is {latest}")]
    Future { latest: Revision },
    #[error("value is {size} bytes; the limit is {limit}")]
    TooLarge { size: usize, limit: usize },
    #[error("key is {size} bytes; it must have between 1 and {limit}")]
    Key { size: usize, limit: usize },
    /// Another process has the store open.
    #[error("{path} is in use by another process")]
    InUse { path: String },
    #[error("{path} has format {found}; this version reads format {supported}")]
    Format { path: String, found: u64, supported: u64 },
    #[error("store is closed")]
    Closed,
    /// A value cannot be sealed or opened, for now at least.
    #[error("unable to transform key {key:?}: {why}")]
    Transform { key: String, why: String },
    /// The disk or the network failed. Nothing is known about the commit that met it.
    #[error("{operation}")]
    Backend {
        operation: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

pub type Result<T> = std::result::Result<T, Error>;

/// Commits under a prefix, in order.
#[derive(Clone, Debug)]
pub struct History {
    pub events: Vec<Event>,
    /// Every commit under the prefix up to this revision is in `events` or came before what was asked for.
    pub through: Revision,
}

/// Commits after a revision, in order; ends after an error.
pub type Watch = BoxStream<'static, Result<Event>>;

#[async_trait]
pub trait Store: Send + Sync + 'static {
    async fn get(&self, key: &str) -> Result<Option<Versioned>>;

    /// At most `limit` keys that start with `prefix` and come after `after`, in byte order, as they were at revision
    /// `at` (now, if none).
    async fn range(&self, prefix: &str, at: Option<Revision>, after: Option<&str>, limit: usize) -> Result<Page>;

    /// Writes or deletes one key. Durable when it returns. A deletion of a missing key under [`Precondition::Any`]
    /// is an [`Error::Precondition`] with `current: None`.
    async fn commit(&self, key: &str, precondition: Precondition, change: Change) -> Result<Revision>;

    /// At most `limit` commits under `prefix` with a revision greater than `after`, from history alone.
    async fn history(&self, prefix: &str, after: Revision, limit: usize) -> Result<History>;

    /// Every commit under `prefix` with a revision greater than `after`, then those to come.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch>;

    /// Forgets history up to and including `revision`; current values stay. Afterwards `revision` is the oldest that
    /// can be read at or watched after. Forgetting what is forgotten already does nothing.
    async fn compact(&self, revision: Revision) -> Result<()>;

    /// The revision of the newest commit.
    async fn revision(&self) -> Result<Revision>;

    /// Bytes on disk (or held), for the size metric.
    async fn size_bytes(&self) -> Result<u64>;

    /// True where the key's value is kept in an outdated form, so that writing it again is worth while although it is the same.
    fn is_stale(&self, _key: &str) -> bool {
        false
    }
}

/// What every implementation asks of a key and a change before it looks at anything else.
fn check_size(key: &str, change: &Change) -> Result<()> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(Error::Key { size: key.len(), limit: KEY_BYTES_MAX });
    }
    let Change::Put(value) = change else { return Ok(()) };
    let limit = VALUE_BYTES_MAX + sealed::room(value);
    if value.len() > limit { Err(Error::TooLarge { size: value.len(), limit }) } else { Ok(()) }
}

impl Precondition {
    /// Whether a change may go ahead on a key that `current` last wrote. A deletion needs something to delete.
    fn holds(self, current: Option<Revision>, change: &Change) -> bool {
        let asked = match self {
            Self::Absent => current.is_none(),
            Self::At(revision) => current == Some(revision),
            Self::Present => current.is_some(),
            Self::Any => true,
        };
        asked && (current.is_some() || matches!(change, Change::Put(_)))
    }
}
