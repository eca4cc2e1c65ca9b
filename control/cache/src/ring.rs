//! A collection's recent events, bounded by count and bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use wharf_store::Revision;

use crate::seam::Event;

/// Most events that a collection keeps in memory. Who needs older ones reads the store's log.
const EVENTS_MAX: usize = 4096;
/// Most bytes of objects that those events may hold on to.
const BYTES_MAX: usize = 8 * 1024 * 1024;

#[derive(Default)]
pub(crate) struct Ring {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// Every event with a revision above this is here.
    floor: Revision,
}

impl Ring {
    pub fn starting_at(floor: Revision) -> Self {
        Self { floor, ..Self::default() }
    }

    pub fn push(&mut self, event: Arc<Event>) {
        self.bytes += event.weight();
        self.events.push_back(event);
        while self.events.len() > EVENTS_MAX || (self.bytes > BYTES_MAX && self.events.len() > 1) {
            let oldest = self.events.pop_front().expect("longer than a limit above 0");
            self.bytes -= oldest.weight();
            self.floor = oldest.revision;
        }
    }

    /// The events after a revision, oldest first; none if some of them are gone.
    pub fn since(&self, after: Revision) -> Option<impl DoubleEndedIterator<Item = &Arc<Event>> + ExactSizeIterator> {
        let from = self.events.partition_point(|event| event.revision <= after);
        (after >= self.floor).then(|| self.events.range(from..))
    }

    pub fn at(&self, revision: Revision) -> Option<&Arc<Event>> {
        let at = self.events.binary_search_by_key(&revision, |event| event.revision).ok()?;
        self.events.get(at)
    }
}
