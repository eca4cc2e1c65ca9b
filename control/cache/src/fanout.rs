//! Who watches a collection, and which of them an event concerns.
//!
//! A watcher is filed under the narrowest thing its filter asks for: the value of a trigger field, a key or namespace, or
//! nothing. An event looks up the values and prefixes that it has, so the watchers of others cost nothing.
//! Each watcher has a bounded queue; one whose queue is full stops being offered events and catches up by itself.
//! Nobody is woken before all have been offered what there is ([`Wakes`]): watchers that share a connection then find their
//! events together, and go out together.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Poll, Waker};

use parking_lot::Mutex;
use wharf_store::Revision;

use crate::seam::{Delivery, Event, EventType, Filter};

/// Most watchers of one collection.
pub(crate) const WATCHERS_MAX: usize = 20_000;
/// Most events that wait in a watcher's queue.
const QUEUE_MAX: usize = 256;

/// Where a watcher is filed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place {
    /// Asks for one value of a trigger field.
    Field(&'static str, String),
    /// Asks for one key, or for what is below a key that ends in `/`.
    Key(String),
    Everywhere,
}

pub(crate) struct Watcher {
    pub filter: Filter,
    place: Place,
    queue: Mutex<Queue>,
}

struct Queue {
    waiting: VecDeque<(Arc<Event>, EventType)>,
    /// Events up to this revision need not be offered: the watcher has them, or does not want them.
    through: Revision,
    /// True while the watcher reads history by itself and must not be offered anything.
    pulling: bool,
    ended: Option<End>,
    waker: Option<Waker>,
}

/// Why a watch is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The collection is no longer served.
    Removed,
    /// The collection had to be loaded again, and what happened before this revision is not known.
    Reloaded(Revision),
}

/// What a watcher finds when it looks at its queue.
pub(crate) enum Next {
    Delivery(Delivery),
    /// Read history after this revision.
    Pull(Revision),
    End(End),
}

/// Those who have something to look at, woken when this is dropped. Each is in here once: waking takes a watcher's waker.
#[derive(Default)]
pub(crate) struct Wakes(Vec<Waker>);

impl Drop for Wakes {
    fn drop(&mut self) {
        self.0.drain(..).for_each(Waker::wake);
    }
}

impl Watcher {
    fn offer(&self, event: &Arc<Event>, wakes: &mut Wakes) {
        let Some(kind) = event.kind_for(&self.filter) else { return };
        let mut queue = self.queue.lock();
        if queue.pulling || queue.ended.is_some() || event.revision <= queue.through {
            return;
        }
        if queue.waiting.len() == QUEUE_MAX {
            // All before this event is queued or did not match.
            queue.through = Revision(event.revision.0 - 1);
            queue.pulling = true;
            return;
        }
        queue.through = event.revision;
        queue.waiting.push_back((event.clone(), kind));
        wakes.0.extend(queue.waker.take());
    }

    pub fn poll_next(&self, waker: &Waker) -> Poll<Next> {
        let mut queue = self.queue.lock();
        if let Some((event, kind)) = queue.waiting.pop_front() {
            drop(queue);
            return Poll::Ready(Next::Delivery(event.delivery(kind)));
        }
        match queue.ended {
            Some(End::Reloaded(revision)) => return Poll::Ready(Next::End(End::Reloaded(revision))),
            _ if queue.pulling => return Poll::Ready(Next::Pull(queue.through)),
            Some(end) => return Poll::Ready(Next::End(end)),
            None => {}
        }
        match &mut queue.waker {
            Some(held) => held.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        Poll::Pending
    }

    /// Notes how far the watcher has read by itself. With `live`, tries to go back to being offered events:
    /// `caught_up` looks, while nothing can be offered, whether anything was applied since.
    pub fn pulled(&self, through: Revision, caught_up: impl FnOnce() -> bool) {
        let mut queue = self.queue.lock();
        queue.through = through;
        // An event is applied before it is offered. So either `caught_up` sees it, or its offer comes after this.
        queue.pulling = !caught_up();
    }

    /// True when nothing waits and nothing has to be read.
    pub fn is_idle(&self) -> bool {
        let queue = self.queue.lock();
        queue.waiting.is_empty() && !queue.pulling && queue.ended.is_none()
    }

    fn end(&self, end: End) {
        let waker = {
            let mut queue = self.queue.lock();
            queue.ended.get_or_insert(end);
            queue.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[derive(Default)]
pub(crate) struct Watchers {
    places: HashMap<Place, Vec<Arc<Watcher>>>,
    /// How many watchers there are for each trigger field, so that fields nobody asks for are not looked up.
    fields: Vec<(&'static str, usize)>,
    /// How many are filed under a key.
    keys: usize,
    count: usize,
    /// The collection is no longer served, so a watch that begins now is over at once.
    closed: bool,
}

impl Watchers {
    pub fn len(&self) -> usize {
        self.count
    }

    /// Files a watcher, which begins by reading history after `through`.
    pub fn add(&mut self, filter: Filter, triggers: &'static [&'static str], through: Revision) -> Arc<Watcher> {
        let place = place(&filter, triggers);
        let ended = self.closed.then_some(End::Removed);
        let queue = Queue { waiting: VecDeque::new(), through, pulling: true, ended, waker: None };
        let watcher = Arc::new(Watcher { filter, place: place.clone(), queue: Mutex::new(queue) });
        match &place {
            Place::Field(field, _) => match self.fields.iter_mut().find(|(known, _)| known == field) {
                Some((_, count)) => *count += 1,
                None => self.fields.push((field, 1)),
            },
            Place::Key(_) => self.keys += 1,
            Place::Everywhere => {}
        }
        self.count += 1;
        self.places.entry(place).or_default().push(watcher.clone());
        watcher
    }

    pub fn remove(&mut self, watcher: &Arc<Watcher>) {
        let Some(filed) = self.places.get_mut(&watcher.place) else { return };
        let Some(at) = filed.iter().position(|other| Arc::ptr_eq(other, watcher)) else { return };
        filed.swap_remove(at);
        if filed.is_empty() {
            self.places.remove(&watcher.place);
        }
        match &watcher.place {
            Place::Field(field, _) => {
                self.fields.iter_mut().filter(|(known, _)| known == field).for_each(|(_, count)| *count -= 1);
                self.fields.retain(|(_, count)| *count > 0);
            }
            Place::Key(_) => self.keys -= 1,
            Place::Everywhere => {}
        }
        self.count -= 1;
    }

    /// Offers an event to every watcher that it may concern, each once: a watcher is filed in one place, and the places
    /// looked at are distinct.
    pub fn offer(&self, event: &Arc<Event>, collection: &str, wakes: &mut Wakes) {
        if self.count == 0 {
            return;
        }
        self.offer_at(&Place::Everywhere, event, wakes);
        for (field, _) in &self.fields {
            let new = value(&event.new.indexed.fields, field);
            self.offer_at(&Place::Field(field, new.to_owned()), event, wakes);
            if let Some(old) = event.old.as_ref().map(|old| value(&old.indexed.fields, field)).filter(|old| *old != new)
            {
                self.offer_at(&Place::Field(field, old.to_owned()), event, wakes);
            }
        }
        if self.keys > 0 {
            let key = &*event.new.key;
            for (at, _) in key.match_indices('/').filter(|(at, _)| *at + 1 >= collection.len()) {
                self.offer_at(&Place::Key(key[..=at].to_owned()), event, wakes);
            }
            self.offer_at(&Place::Key(key.to_owned()), event, wakes);
        }
    }

    fn offer_at(&self, place: &Place, event: &Arc<Event>, wakes: &mut Wakes) {
        for watcher in self.places.get(place).into_iter().flatten() {
            watcher.offer(event, wakes);
        }
    }

    pub fn end(&mut self, end: End) {
        self.closed |= end == End::Removed;
        self.places.values().flatten().for_each(|watcher| watcher.end(end));
    }
}

fn value<'a>(fields: &'a BTreeMap<Cow<'static, str>, String>, field: &str) -> &'a str {
    fields.get(field).map_or("", String::as_str)
}

fn place(filter: &Filter, triggers: &'static [&'static str]) -> Place {
    for field in triggers {
        if let Some(value) = filter.fields.exact(field) {
            return Place::Field(field, value.to_owned());
        }
    }
    match filter.key_prefix.as_str() {
        "" => Place::Everywhere,
        key => Place::Key(key.to_owned()),
    }
}
