//! One watcher's stream: the past first, then what comes.
//!
//! Four sources, in this order, each read only as far as the next does not reach: the initial snapshot, the store's log, the
//! ring, the queue that the dispatcher fills. A watcher whose queue overflowed goes back to the ring or the log.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::future::BoxFuture;
use wharf_store::{Key, Revision};

use crate::collection::{Collection, HISTORY_PAGE};
use crate::entry::Entry;
use crate::fanout::{End, Next, Watcher};
use crate::seam::{Delivery, Error, Event, Item};
use crate::snapshot::{self, Objects, Snapshot};

/// How many initial events are prepared at a time.
const INITIAL_BATCH: usize = 256;

/// Events of a collection, in order, each once. Dropping it ends it.
pub struct Watch {
    collection: Arc<Collection>,
    watcher: Arc<Watcher>,
    initial: Option<Initial>,
    /// False until the initial events have all been returned.
    begun: bool,
    /// Read from history, not yet asked for.
    ready: VecDeque<Item>,
    /// All up to this revision has been returned.
    returned: Revision,
    /// Where `returned` gets to with the last of `ready`.
    reached: Revision,
    /// The store's log is being read.
    reading: Option<BoxFuture<'static, Result<History, Error>>>,
    over: bool,
}

/// Events, and the revision that they reach to.
type History = (Vec<Arc<Event>>, Revision);

/// The rest of the initial events.
struct Initial {
    objects: Objects,
    after: Option<Key>,
    revision: Revision,
}

impl Watch {
    pub(crate) fn new(
        collection: Arc<Collection>,
        watcher: Arc<Watcher>,
        from: Revision,
        initial: Option<Snapshot>,
    ) -> Self {
        let begun = initial.is_none();
        let returned = if begun { from } else { Revision(0) };
        let initial = initial.map(|Snapshot { revision, objects }| Initial { objects, after: None, revision });
        let ready = VecDeque::new();
        Self { collection, watcher, initial, begun, ready, returned, reached: returned, reading: None, over: false }
    }

    /// The next item; none when the collection is no longer served. After an error there is none either.
    /// [`Error::Expired`] means that history does not reach back far enough: the client must list again.
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Item, Error>> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// See [`next`](Self::next).
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Item, Error>>> {
        while !self.over {
            if let Some(item) = self.ready.pop_front() {
                self.note(&item);
                return Poll::Ready(Some(Ok(item)));
            }
            if self.initial.is_some() {
                self.prepare_initial();
                continue;
            }
            if let Some(reading) = &mut self.reading {
                let read = ready!(reading.as_mut().poll(context));
                self.reading = None;
                match read {
                    Ok(history) => self.take_in(history),
                    Err(error) => return self.fail(error),
                }
                continue;
            }
            match ready!(self.watcher.poll_next(context.waker())) {
                Next::Delivery(delivery) => {
                    self.returned = delivery.entry.revision;
                    return Poll::Ready(Some(Ok(Item::Event(delivery))));
                }
                Next::Pull(after) => self.pull(after),
                Next::End(End::Removed) => self.over = true,
                Next::End(End::Reloaded(oldest)) => {
                    return self.fail(Error::Expired { asked: self.returned, oldest });
                }
            }
        }
        Poll::Ready(None)
    }

    fn fail(&mut self, error: Error) -> Poll<Option<Result<Item, Error>>> {
        self.over = true;
        Poll::Ready(Some(Err(error)))
    }

    /// What a bookmark may say now: every matching event up to this revision has been returned by [`next`](Self::next).
    /// Never goes back; 0 until the initial events are over.
    pub fn progress(&mut self) -> Revision {
        // Read before the queue is looked at: all up to here has been offered.
        let dispatched = self.collection.dispatched();
        if self.begun && self.ready.is_empty() && self.watcher.is_idle() {
            self.returned = self.returned.max(self.reached).max(dispatched);
        }
        self.returned
    }

    fn note(&mut self, item: &Item) {
        match item {
            Item::InitialEventsEnd(revision) => {
                self.returned = *revision;
                self.begun = true;
            }
            // An initial event carries the revision of its object, not one that the watch has come to.
            Item::Event(_) if !self.begun => {}
            Item::Event(delivery) => self.returned = delivery.entry.revision,
        }
    }

    fn prepare_initial(&mut self) {
        let Some(initial) = &mut self.initial else { return };
        let filter = &self.watcher.filter;
        let entries = snapshot::range(&initial.objects, &filter.key_prefix, initial.after.as_deref());
        let batch: Vec<&Arc<Entry>> = entries.take(INITIAL_BATCH).collect();
        let added = batch.iter().filter(|entry| filter.matches(entry));
        self.ready.extend(added.map(|entry| Item::Event(Delivery::initial((*entry).clone()))));
        let after = batch.last().map(|entry| entry.key.clone());
        if batch.len() < INITIAL_BATCH {
            self.ready.push_back(Item::InitialEventsEnd(initial.revision));
            self.reached = initial.revision;
            self.initial = None;
        } else {
            initial.after = after;
        }
    }

    /// Reads some of what came after a revision, from the ring if it reaches back so far, otherwise from the store's log.
    fn pull(&mut self, after: Revision) {
        match self.collection.recent(after, HISTORY_PAGE) {
            Some(recent) => self.take_in(recent),
            None => {
                let collection = self.collection.clone();
                self.reading = Some(Box::pin(async move { collection.older(after).await }));
            }
        }
    }

    fn take_in(&mut self, (events, through): History) {
        let filter = &self.watcher.filter;
        let seen = events.iter().filter_map(|event| Some(event.delivery(event.kind_for(filter)?)));
        self.ready.extend(seen.map(Item::Event));
        self.reached = through;
        self.watcher.pulled(through, || self.collection.last() <= through);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.collection.forget(&self.watcher);
    }
}
