//! The newest commits, kept in memory so that watchers who keep up never touch the file.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::{Event, History, Revision};

const EVENTS_MAX: usize = 4096;
const BYTES_MAX: usize = 4 * 1024 * 1024;

pub struct Tail {
    /// Without holes: revisions from `floor + 1`.
    events: VecDeque<Event>,
    bytes: usize,
    floor: Revision,
}

impl Tail {
    pub fn starting_at(floor: Revision) -> Self {
        Self { events: VecDeque::new(), bytes: 0, floor }
    }

    pub fn push(&mut self, event: Event) {
        self.bytes += weight(&event);
        self.events.push_back(event);
        while self.events.len() > EVENTS_MAX || (self.bytes > BYTES_MAX && self.events.len() > 1) {
            self.pop();
        }
    }

    /// Lets go of what the log has forgotten, so that both tell the same.
    pub fn forget(&mut self, compacted: Revision) {
        while self.floor < compacted && !self.events.is_empty() {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some(oldest) = self.events.pop_front() {
            self.bytes -= weight(&oldest);
            self.floor = oldest.revision;
        }
    }

    /// As `Store::history`; none if it takes the log to tell.
    pub fn history(&self, prefix: &str, after: Revision, limit: usize) -> Option<History> {
        let skip = after.0.checked_sub(self.floor.0)? as usize;
        let mut history = History { events: Vec::new(), through: after };
        for event in self.events.iter().skip(skip) {
            if history.events.len() == limit {
                break;
            }
            if event.key.starts_with(prefix) {
                history.events.push(event.clone());
            }
            history.through = event.revision;
        }
        Some(history)
    }
}

fn weight(event: &Event) -> usize {
    let previous = event.previous.as_ref().map_or(0, |(_, value)| value.len());
    event.key.len() + event.value.as_ref().map_or(0, Bytes::len) + previous
}
