//! How far the cache has come, and who waits for it.
//!
//! Two marks: `applied` (reads see it) comes first and lets commits be acknowledged; `dispatched` (watchers have it in their
//! queues) follows and is what bookmarks may say. A wake-up touches only those whose revision has come.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use wharf_store::Revision;

#[derive(Default)]
pub(crate) struct Applied {
    applied: AtomicU64,
    dispatched: AtomicU64,
    waiting: Mutex<Vec<(Revision, oneshot::Sender<()>)>>,
}

impl Applied {
    pub fn applied(&self) -> Revision {
        Revision(self.applied.load(Ordering::Acquire))
    }

    pub fn dispatched(&self) -> Revision {
        Revision(self.dispatched.load(Ordering::Acquire))
    }

    pub fn advance(&self, revision: Revision) {
        self.applied.fetch_max(revision.0, Ordering::AcqRel);
        let mut waiting = self.waiting.lock();
        let mut at = 0;
        while at < waiting.len() {
            if waiting[at].0 <= revision {
                // One who stopped waiting is no error.
                let _ = waiting.swap_remove(at).1.send(());
            } else {
                at += 1;
            }
        }
    }

    pub fn advance_dispatched(&self, revision: Revision) {
        self.dispatched.fetch_max(revision.0, Ordering::AcqRel);
    }

    /// Returns once the revision is applied. Never returns if it never is: callers bring the deadline.
    pub async fn wait(&self, revision: Revision) {
        if self.applied() >= revision {
            return;
        }
        let wake = {
            let mut waiting = self.waiting.lock();
            if self.applied() >= revision {
                return;
            }
            let (wake, woken) = oneshot::channel();
            waiting.push((revision, wake));
            woken
        };
        // The sender lives in `self`, which the caller borrows.
        let _ = wake.await;
    }
}
