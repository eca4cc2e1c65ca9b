//! The watch cache: every object once, as the exact bytes a GET returns, and one dispatcher for all watchers.
//!
//! Fed by one `store::watch("/registry/")`. A commit through [`Cache::commit`] returns only after the cache has applied
//! it, so a read that follows an acknowledged write sees it.
//!
//! ```text
//! store ── events ──► Cache::run ──► Collection::apply (objects, ring) ──► acknowledge commits ──► Collection::dispatch
//!                                                                                                    │ matching only
//!                                    store log ──► ring ──► a Watch that starts late or lags ──►  Watch (queue)
//! ```
//!
//! Invariants: per collection, events reach each watcher once and in revision order; a snapshot never changes; a slow watcher
//! never slows a fast one (its queue fills, and it reads the ring and then the store's log at its own pace, until what it
//! needs is compacted: [`Error::Expired`]).
//! Absent on purpose: decoding for each watcher, knowledge of kinds (an [`Index`] supplies labels and fields).

mod applied;
mod cache;
mod collection;
mod entry;
mod fanout;
mod observer;
mod ring;
mod seam;
mod snapshot;
mod splice;
mod watch;

pub use cache::{Cache, Committed, ROOT};
pub use collection::Collection;
pub use entry::Entry;
pub use observer::Observer;
pub use seam::*;
pub use snapshot::Snapshot;
pub use splice::with_revision;
pub use watch::Watch;
