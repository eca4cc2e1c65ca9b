//! Who is told of each change before it is acknowledged.
//!
//! A watcher hears of a commit soon after it; an observer before its author does, so what it decides by is as fresh as a read.
//! It runs on the dispatcher's task: it must be quick, and must not wait.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::seam::Event;
use crate::snapshot::Snapshot;

pub trait Observer: Send + Sync + 'static {
    /// All objects there are: first, and again where history was lost.
    fn loaded(&self, objects: &Snapshot);
    /// One change. It may be told of a change that `loaded` has shown already.
    fn changed(&self, event: &Event);
}

#[derive(Default)]
pub(crate) struct Observers(Mutex<Vec<Arc<dyn Observer>>>);

impl Observers {
    /// Adds one and shows it what there is, between two changes.
    pub fn add(&self, observer: Arc<dyn Observer>, objects: impl FnOnce() -> Snapshot) {
        let mut observers = self.0.lock();
        observer.loaded(&objects());
        observers.push(observer);
    }

    pub fn loaded(&self, objects: impl FnOnce() -> Snapshot) {
        let observers = self.0.lock();
        if !observers.is_empty() {
            let objects = objects();
            observers.iter().for_each(|observer| observer.loaded(&objects));
        }
    }

    pub fn changed(&self, events: &[Arc<Event>]) {
        for observer in self.0.lock().iter() {
            events.iter().for_each(|event| observer.changed(event));
        }
    }
}
