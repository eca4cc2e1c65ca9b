//! A collection as it was at one revision: O(1) to take, never changes.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;
use wharf_store::{Key, Revision};

use crate::entry::Entry;
use crate::seam::Filter;

pub(crate) type Objects = OrdMap<Key, Arc<Entry>>;

#[derive(Clone)]
pub struct Snapshot {
    /// What a list's `metadata.resourceVersion` says: the newest revision that the snapshot accounts for, of any object.
    pub revision: Revision,
    pub objects: Objects,
}

impl Snapshot {
    /// In key order, the entries whose keys start with `prefix` and come after `after`.
    pub fn range<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> impl Iterator<Item = &'a Arc<Entry>> {
        range(&self.objects, prefix, after)
    }

    /// In key order, the entries that the filter selects and whose keys come after `after`.
    pub fn select<'a>(&'a self, filter: &'a Filter, after: Option<&'a str>) -> impl Iterator<Item = &'a Arc<Entry>> {
        range(&self.objects, &filter.key_prefix, after).filter(|entry| filter.matches(entry))
    }

    /// How many entries' keys start with `prefix` and come after `after`: a list's `remainingItemCount`.
    pub fn count(&self, prefix: &str, after: Option<&str>) -> usize {
        if prefix.is_empty() && after.is_none() { self.objects.len() } else { self.range(prefix, after).count() }
    }

    pub fn get(&self, key: &str) -> Option<&Arc<Entry>> {
        self.objects.get(key)
    }
}

pub(crate) fn range<'a>(
    objects: &'a Objects,
    prefix: &'a str,
    after: Option<&'a str>,
) -> impl Iterator<Item = &'a Arc<Entry>> + use<'a> {
    let from = match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    };
    objects
        .range::<_, str>((from, Bound::Unbounded))
        .take_while(move |(key, _)| key.starts_with(prefix))
        .map(|(_, entry)| entry)
}

/// Most snapshots that a collection keeps for continue tokens.
const PINS_MAX: usize = 16;
/// How many sweeps a pinned snapshot outlives without being asked for.
const PIN_SWEEPS: u32 = 5;

/// Snapshots that clients are paging through.
#[derive(Default)]
pub(crate) struct Pins {
    held: VecDeque<(Snapshot, u32)>,
}

impl Pins {
    pub fn pin(&mut self, snapshot: &Snapshot) {
        if self.get(snapshot.revision).is_some() {
            return;
        }
        if self.held.len() == PINS_MAX {
            self.held.pop_front();
        }
        self.held.push_back((snapshot.clone(), PIN_SWEEPS));
    }

    /// The snapshot pinned at exactly this revision; asking for it keeps it.
    pub fn get(&mut self, revision: Revision) -> Option<Snapshot> {
        let at = self.held.iter().position(|(snapshot, _)| snapshot.revision == revision)?;
        let (snapshot, _) = self.held.remove(at)?;
        self.held.push_back((snapshot.clone(), PIN_SWEEPS));
        Some(snapshot)
    }

    /// Ages every pin by one and lets the oldest go.
    pub fn sweep(&mut self) {
        self.held.retain_mut(|(_, left)| {
            *left -= 1;
            *left > 0
        });
    }
}
