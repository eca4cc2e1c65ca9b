//! The types that the API server and the cache meet at.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use wharf_machinery::selector::{FieldSelector, LabelSelector};
use wharf_store::Revision;

use crate::entry::Entry;

/// What selectors look at, extracted once for each commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexed {
    pub labels: BTreeMap<String, String>,
    /// Selectable fields, `metadata.name` and `metadata.namespace` among them.
    pub fields: BTreeMap<Cow<'static, str>, String>,
}

/// Extracts what selectors need from an object's bytes. One per collection; supplied by the resource table's row.
pub trait Index: Send + Sync {
    /// `bytes` is the stored value. What cannot be read is left out.
    fn index(&self, bytes: &[u8]) -> Indexed;

    /// Fields that many watchers ask to equal one value: an event costs only the watchers of the values it has or had.
    fn triggers(&self) -> &'static [&'static str] {
        &["spec.nodeName", "metadata.name"]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    Added,
    Modified,
    Deleted,
}

impl EventType {
    /// What a change is to a watcher, by whether the object was in its selection before and is now.
    pub fn of(before: bool, now: bool) -> Option<Self> {
        match (before, now) {
            (false, true) => Some(Self::Added),
            (true, true) => Some(Self::Modified),
            (true, false) => Some(Self::Deleted),
            (false, false) => None,
        }
    }

    /// As a watch frame spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One change to one object, shared by everyone who sees it.
#[derive(Debug)]
pub struct Event {
    pub revision: Revision,
    /// None for a creation.
    pub old: Option<Arc<Entry>>,
    /// For a deletion: the last state, carrying the revision of the deletion.
    pub new: Arc<Entry>,
    pub deleted: bool,
    /// For an update: the old object at this revision, for watchers whose selection it left.
    left: OnceLock<Arc<Entry>>,
    /// What was encoded so far, by type and format.
    encoded: Mutex<Vec<(EventType, u16, Bytes)>>,
    /// The object in other versions than the stored one, by slot and type.
    shown: Mutex<Vec<(EventType, u8, Arc<Entry>)>>,
}

/// The format of [`Delivery::frame`] among what an event has encoded.
const JSON: u8 = 0;
/// How many formats each version has.
const FORMATS: u16 = 256;

impl Event {
    pub(crate) fn new(revision: Revision, old: Option<Arc<Entry>>, new: Arc<Entry>, deleted: bool) -> Self {
        Self { revision, old, new, deleted, left: OnceLock::new(), encoded: Mutex::default(), shown: Mutex::default() }
    }

    /// What a watcher with this filter sees of the change, as upstream's cacher decides it.
    pub(crate) fn kind_for(&self, filter: &Filter) -> Option<EventType> {
        if !filter.covers(&self.new.key) {
            return None;
        }
        let now = !self.deleted && filter.selects(&self.new.indexed);
        let before = self.old.as_ref().is_some_and(|old| filter.selects(&old.indexed));
        EventType::of(before, now)
    }

    pub(crate) fn delivery(self: &Arc<Self>, kind: EventType) -> Delivery {
        let entry = match (&self.old, kind, self.deleted) {
            (Some(old), EventType::Deleted, false) => {
                self.left.get_or_init(|| Arc::new(old.at(self.revision, EventType::Deleted)))
            }
            _ => &self.new,
        };
        Delivery { kind, entry: entry.clone(), event: Some(self.clone()), slot: 0 }
    }

    fn encoded(&self, kind: EventType, format: u16, make: impl FnOnce() -> Bytes) -> Bytes {
        let mut encoded = self.encoded.lock();
        if let Some((.., bytes)) = encoded.iter().find(|(k, f, _)| (*k, *f) == (kind, format)) {
            return bytes.clone();
        }
        let bytes = make();
        encoded.push((kind, format, bytes.clone()));
        bytes
    }

    /// Bytes held for this event alone, for the ring's bound.
    pub(crate) fn weight(&self) -> usize {
        self.new.weight() + self.old.as_ref().map_or(0, |old| old.weight())
    }
}

/// What a list or watch is narrowed to.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Full store keys. Ending in `/` (a namespace's), everything below it; otherwise exactly that key (a single
    /// object's); empty for the whole collection.
    pub key_prefix: String,
    pub labels: LabelSelector,
    pub fields: FieldSelector,
}

impl Filter {
    pub fn matches(&self, entry: &Entry) -> bool {
        self.covers(&entry.key) && self.selects(&entry.indexed)
    }

    pub(crate) fn covers(&self, key: &str) -> bool {
        if self.is_prefix() { key.starts_with(&self.key_prefix) } else { key == self.key_prefix }
    }

    /// False when the filter names one key.
    pub(crate) fn is_prefix(&self) -> bool {
        self.key_prefix.is_empty() || self.key_prefix.ends_with('/')
    }

    fn selects(&self, indexed: &Indexed) -> bool {
        (self.labels.is_everything() || self.labels.matches(&indexed.labels))
            && (self.fields.is_everything() || self.fields.matches(&indexed.fields))
    }
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the first event after this revision.
    After(Revision),
    /// With the first event after the moment of the call.
    Now,
    /// With every object as ADDED, then [`Item::InitialEventsEnd`], then what follows.
    InitialEvents,
}

/// What a [`Watch`](crate::Watch) yields.
#[derive(Clone, Debug)]
pub enum Item {
    Event(Delivery),
    /// The objects that existed at this revision have all been delivered.
    InitialEventsEnd(Revision),
}

/// What a watcher receives.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub kind: EventType,
    /// The object as this watcher must see it (for an object that left the selection: the old one at the new revision).
    pub entry: Arc<Entry>,
    /// None among the initial events.
    event: Option<Arc<Event>>,
    /// 0 for the stored version.
    slot: u8,
}

impl Delivery {
    /// One of a watch's initial events.
    pub(crate) fn initial(entry: Arc<Entry>) -> Self {
        Self { kind: EventType::Added, entry, event: None, slot: 0 }
    }

    /// `{"type":"ADDED","object":{…}}\n`: encoded at most once for an event, and shared by all its watchers.
    pub fn frame(&self) -> Bytes {
        if let Some(frame) = self.entry.frame(self.kind) {
            return frame;
        }
        self.encoded(JSON, || self.entry.encode_frame(self.kind))
    }

    /// The same change as another type of event, for who finds by more than the filter what it is to a watcher. An initial event
    /// stays what it is.
    pub fn turned(&self, kind: EventType) -> Delivery {
        match &self.event {
            Some(event) if kind != self.kind => event.delivery(kind),
            _ => self.clone(),
        }
    }

    /// The revision at which what is delivered was written: of a deletion, that of the object's last state.
    pub fn written_at(&self) -> Revision {
        let old = self.event.as_ref().and_then(|event| event.old.as_ref()).filter(|_| self.kind == EventType::Deleted);
        old.map_or(self.entry.revision, |old| old.revision)
    }

    /// The delivery in another version, if one of its watchers has made it already.
    pub fn shown(&self, slot: u8) -> Option<Delivery> {
        let shown = self.event.as_ref()?.shown.lock();
        let (.., entry) = shown.iter().find(|(kind, held, _)| (*kind, *held) == (self.kind, slot))?;
        Some(Delivery { entry: entry.clone(), slot, ..self.clone() })
    }

    /// The delivery in another version, whose bytes and index these are. All watchers of the version share it.
    pub fn show(&self, slot: u8, bytes: &[u8], indexed: Indexed) -> Delivery {
        let entry = Arc::new(self.entry.shown_as(bytes, indexed, self.kind));
        if let Some(event) = &self.event {
            event.shown.lock().push((self.kind, slot, entry.clone()));
        }
        Delivery { entry, slot, ..self.clone() }
    }

    /// The delivery in some other form (a Table, protobuf), made at most once for an event and type. The caller gives
    /// each form a `format` of its own, above 0.
    pub fn encoded(&self, format: u8, make: impl FnOnce() -> Bytes) -> Bytes {
        match &self.event {
            Some(event) => event.encoded(self.kind, u16::from(self.slot) * FORMATS + u16::from(format), make),
            None => make(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The precondition of a commit did not hold. The cache has caught up with what made it fail.
    #[error("precondition failed")]
    Conflict { current: Option<Arc<Entry>> },
    #[error("too old resource version: {asked} ({oldest})")]
    Expired { asked: Revision, oldest: Revision },
    #[error("Too large resource version: {asked}, current: {current}")]
    Future { asked: Revision, current: Revision },
    #[error("too many watchers of {prefix}: the limit is {limit}")]
    TooManyWatchers { prefix: String, limit: usize },
    /// The commit stands, but the cache has not seen it in time.
    #[error("committed at revision {revision}, which the cache has not applied in time")]
    Stalled { revision: Revision },
    #[error("{prefix} is being loaded again and again: history is compacted faster than it can be read")]
    Load { prefix: String },
    #[error(transparent)]
    Store(wharf_store::Error),
}

impl From<wharf_store::Error> for Error {
    fn from(error: wharf_store::Error) -> Self {
        Self::Store(error)
    }
}
