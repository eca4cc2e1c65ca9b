//! Tells followers that something in a log directory changed: one inotify instance for the node.
//!
//! Linux allows a user few instances (128) but many watches, so all followers share one; a directory is watched as long as
//! somebody follows in it. Invariant: a change after [`Tail::subscribe`] is never missed (it may be told twice).

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use parking_lot::Mutex;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Followers at the same time.
const MAX_FOLLOWERS: usize = 4096;

struct Fd(Inotify);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

struct Watched {
    followers: usize,
    changes: watch::Sender<()>,
}

struct Inner {
    fd: AsyncFd<Fd>,
    watched: Mutex<HashMap<WatchDescriptor, Watched>>,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Tail {
    inner: Arc<Inner>,
    _task: Arc<Task>,
}

struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Tail {
    /// Needs a tokio runtime.
    #[expect(
        deprecated,
        reason = "the replacement is unsafe; the inotify instance owns its one descriptor for as long as it lives"
    )]
    pub fn start() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let inner = Arc::new(Inner { fd: AsyncFd::new(Fd(inotify))?, watched: Mutex::default() });
        let task = tokio::spawn(tell(inner.clone())).abort_handle();
        Ok(Self { inner, _task: Arc::new(Task(task)) })
    }

    pub fn subscribe(&self, dir: &Path) -> io::Result<Subscription> {
        let mut watched = self.inner.watched.lock();
        if watched.values().map(|watched| watched.followers).sum::<usize>() >= MAX_FOLLOWERS {
            return Err(io::Error::other(format!("more than {MAX_FOLLOWERS} logs are followed already")));
        }
        let flags = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF;
        let descriptor = self.inner.fd.get_ref().0.add_watch(dir, flags)?;
        let entry =
            watched.entry(descriptor).or_insert_with(|| Watched { followers: 0, changes: watch::Sender::new(()) });
        entry.followers += 1;
        Ok(Subscription { tail: self.clone(), descriptor, changes: entry.changes.subscribe() })
    }
}

async fn tell(inner: Arc<Inner>) {
    loop {
        let Ok(mut ready) = inner.fd.readable().await else { return };
        match inner.fd.get_ref().0.read_events() {
            Ok(events) => {
                let watched = inner.watched.lock();
                for event in events {
                    if let Some(watched) = watched.get(&event.wd) {
                        watched.changes.send_replace(());
                    }
                }
            }
            Err(Errno::EAGAIN) => ready.clear_ready(),
            Err(Errno::EINTR) => {}
            Err(error) => {
                tracing::warn!(%error, "read file events");
                return;
            }
        }
    }
}

/// Ends its watch when the last one of a directory is dropped.
pub struct Subscription {
    tail: Tail,
    descriptor: WatchDescriptor,
    changes: watch::Receiver<()>,
}

impl Subscription {
    /// Waits for a change since the last call.
    pub async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        self.changes.changed().await
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut watched = self.tail.inner.watched.lock();
        let Some(entry) = watched.get_mut(&self.descriptor) else { return };
        entry.followers -= 1;
        if entry.followers == 0 {
            watched.remove(&self.descriptor);
            // The directory may be gone already.
            let _ = self.tail.inner.fd.get_ref().0.rm_watch(self.descriptor);
        }
    }
}
