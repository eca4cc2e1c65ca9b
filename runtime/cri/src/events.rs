//! Fans container life-cycle events out to subscribers.
//!
//! Invariant: a subscriber sees every event sent after it subscribed, in order, or a `Resync` in place of those it missed.
//! Absent on purpose: history. A subscriber lists after it subscribes.

use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

use crate::RuntimeEvent;

/// Events a subscriber may lag behind before it is told to list again.
pub const MAX_LAG: usize = 1024;

#[derive(Debug)]
pub struct Hub {
    sender: broadcast::Sender<RuntimeEvent>,
}

impl Default for Hub {
    fn default() -> Hub {
        Hub { sender: broadcast::channel(MAX_LAG).0 }
    }
}

impl Hub {
    /// Says that something about the pod with this UID changed.
    pub fn pod(&self, uid: &str) {
        if self.sender.receiver_count() > 0 {
            // A send fails only when the last receiver has just gone: nobody is left to tell.
            let _ = self.sender.send(RuntimeEvent::Pod { uid: uid.to_owned() });
        }
    }

    pub fn subscribe(&self) -> BoxStream<'static, RuntimeEvent> {
        BroadcastStream::new(self.sender.subscribe()).map(|event| event.unwrap_or(RuntimeEvent::Resync)).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_subscriber_that_lags_is_told_to_resync() {
        let hub = Hub::default();
        let mut events = hub.subscribe();
        for n in 0..=MAX_LAG {
            hub.pod(&n.to_string());
        }
        assert_eq!(events.next().await, Some(RuntimeEvent::Resync));
        assert_eq!(events.next().await, Some(RuntimeEvent::Pod { uid: "1".into() }));
    }
}
