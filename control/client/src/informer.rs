//! One watch for each kind in a process, however many components read it.
//!
//! kube's watcher is the state machine below (list in pages, watch with bookmarks, resume, list again after 410); this file owns
//! the tasks, backs off when the server fails, and starts over when the version to resume from is refused outright.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::lister::{Informed, Lister};

/// First and longest pause of a watch that fails. The first is short: at start-up the server is about to come.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_MOST: Duration = Duration::from_secs(10);

/// Starts watches when they are first asked for and shares them. Cheap to clone; the watches stop with [`Informers::stop`]
/// or with the last clone.
#[derive(Clone)]
pub struct Informers {
    inner: Arc<Inner>,
    /// Whom the holder of this clone acts as.
    client: Client,
}

/// A kind's type and a field selector.
type Watched = (TypeId, &'static str);

struct Inner {
    client: Client,
    kinds: Mutex<HashMap<Watched, Box<dyn Any + Send + Sync>>>,
    tasks: TaskTracker,
    cancel: CancellationToken,
    _cancel_on_drop: DropGuard,
}

impl Informers {
    pub fn new(client: Client) -> Self {
        let cancel = CancellationToken::new();
        let inner = Inner {
            client: client.clone(),
            kinds: Mutex::default(),
            tasks: TaskTracker::new(),
            _cancel_on_drop: cancel.clone().drop_guard(),
            cancel,
        };
        Self { inner: Arc::new(inner), client }
    }

    /// The same watches, for somebody who acts with a client of their own.
    pub fn acting_as(&self, client: Client) -> Self {
        Self { inner: self.inner.clone(), client }
    }

    /// The shared view of all objects of `K`, in every namespace. Must be called inside a tokio runtime.
    pub fn of<K: Informed>(&self) -> Lister<K> {
        self.selected("")
    }

    /// The shared view of those objects of `K` that a field selector chooses: of a kind whose objects are many, large and mostly
    /// nobody's business here. An empty selector chooses all. Must be called inside a tokio runtime.
    pub fn selected<K: Informed>(&self, fields: &'static str) -> Lister<K> {
        let mut kinds = self.inner.kinds.lock();
        let key = (TypeId::of::<K>(), fields);
        if let Some(lister) = kinds.get(&key).and_then(|lister| lister.downcast_ref::<Lister<K>>()) {
            return lister.clone();
        }
        let lister = Lister::<K>::new();
        kinds.insert(key, Box::new(lister.clone()));
        let api = Api::all(self.inner.client.clone());
        let config =
            watcher::Config { field_selector: (!fields.is_empty()).then(|| fields.to_owned()), ..Default::default() };
        self.inner.tasks.spawn(run(api, config, lister.clone(), self.inner.cancel.clone()));
        lister
    }

    /// What to act with: the client under the watches, unless [`Informers::acting_as`] has said otherwise.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Ends all watches and waits until they have. Views keep what they hold.
    pub async fn stop(&self) {
        self.inner.cancel.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

async fn run<K: Informed>(api: Api<K>, config: watcher::Config, lister: Lister<K>, cancel: CancellationToken) {
    // Back-off lives across restarts of the state machine.
    while !cancel.is_cancelled() {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = follow(api.clone(), config.clone(), &lister) => {}
        }
    }
    lister.shared.close();
}

/// Follows one run of the state machine until it must be started over.
async fn follow<K: Informed>(api: Api<K>, config: watcher::Config, lister: &Lister<K>) {
    let mut events = watcher(api, config).backoff(WatchBackoff::default()).boxed();
    loop {
        match events.try_next().await {
            Ok(Some(event)) => lister.shared.apply(event),
            Ok(None) => return,
            Err(error) if expired(&error) => {
                tracing::debug!(kind = %K::kind(&()), "the version to watch from is gone: list again");
                return;
            }
            Err(error) => {
                tracing::warn!(kind = %K::kind(&()), error = &error as &dyn std::error::Error, "watch");
            }
        }
    }
}

/// The server refused the request itself with 410. kube's state machine lists again when 410 comes inside the
/// stream, but would ask for the same version forever when it is the answer to the request.
pub fn expired(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 410)
}

/// Doubles from [`BACKOFF_FIRST`] to [`BACKOFF_MOST`], with up to half as much again at random; starts over after a success.
#[derive(Default)]
pub struct WatchBackoff {
    failures: u32,
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = BACKOFF_FIRST.saturating_mul(1 << self.failures.min(16)).min(BACKOFF_MOST);
        self.failures += 1;
        Some(pause.mul_f64(1.0 + rand::random::<f64>() / 2.0))
    }
}

impl Backoff for WatchBackoff {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_start_over_after_a_success() {
        let mut backoff = WatchBackoff::default();
        let first = backoff.next().expect("endless");
        assert!(first >= BACKOFF_FIRST && first <= BACKOFF_FIRST * 2);
        let last = (0..100).filter_map(|_| backoff.next()).last().expect("endless");
        assert!(last >= BACKOFF_MOST && last <= BACKOFF_MOST * 2);
        backoff.reset();
        assert!(backoff.next().expect("endless") <= BACKOFF_FIRST * 2);
    }
}
