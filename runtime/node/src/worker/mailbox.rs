//! Where the node leaves word for a worker: the latest pod, and what has changed since it last looked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::sync::Notify;

const REMOVED: u8 = 1;
const RUNTIME: u8 = 2;
const OBJECTS: u8 = 4;

/// The latest pod replaces an earlier one.
#[derive(Debug, Default)]
pub struct Mailbox {
    pod: Mutex<Option<Arc<Pod>>>,
    flags: AtomicU8,
    notify: Notify,
}

/// What a mailbox held.
pub struct Mail {
    pub pod: Option<Arc<Pod>>,
    /// The API no longer has the pod.
    pub removed: bool,
    pub runtime_changed: bool,
    pub objects_changed: bool,
}

impl Mailbox {
    pub fn pod(&self, pod: Arc<Pod>) {
        *self.pod.lock() = Some(pod);
        self.notify.notify_one();
    }

    /// The API no longer has the pod.
    pub fn removed(&self) {
        self.flag(REMOVED);
    }

    /// The runtime says that something of the pod changed.
    pub fn runtime_changed(&self) {
        self.flag(RUNTIME);
    }

    /// A ConfigMap or Secret that the pod names changed.
    pub fn objects_changed(&self) {
        self.flag(OBJECTS);
    }

    fn flag(&self, flag: u8) {
        self.flags.fetch_or(flag, Ordering::AcqRel);
        self.notify.notify_one();
    }

    /// Takes all there is.
    pub fn take(&self) -> Mail {
        let flags = self.flags.swap(0, Ordering::AcqRel);
        Mail {
            pod: self.pod.lock().take(),
            removed: flags & REMOVED != 0,
            runtime_changed: flags & RUNTIME != 0,
            objects_changed: flags & OBJECTS != 0,
        }
    }

    /// Returns when something was left since the last time.
    pub async fn wait(&self) {
        self.notify.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_pod_replaces_an_earlier_one_and_flags_are_taken_once() {
        let mailbox = Mailbox::default();
        let named = |name: &str| {
            let mut pod = Pod::default();
            pod.metadata.name = Some(name.to_owned());
            Arc::new(pod)
        };
        mailbox.pod(named("a"));
        mailbox.pod(named("b"));
        mailbox.runtime_changed();
        let mail = mailbox.take();
        assert_eq!(mail.pod.unwrap().metadata.name.as_deref(), Some("b"));
        assert!(mail.runtime_changed && !mail.objects_changed && !mail.removed);
        let mail = mailbox.take();
        assert!(mail.pod.is_none() && !mail.runtime_changed);
    }
}
