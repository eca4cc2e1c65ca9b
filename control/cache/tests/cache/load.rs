//! Watchers under load and a store that fails: each event once and in order, or a clear end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::*;
use async_trait::async_trait;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use wharf_cache::{EventType, Filter, Item, Snapshot, Start, Watch};
use wharf_store::{
    Change, Error, History, MemoryStore, Options, Page, Precondition, RedbStore, Result, Revision, Store, Versioned,
};

/// What a client that follows a watch believes there is.
#[derive(Default)]
struct Believed {
    objects: BTreeMap<String, Revision>,
    last: Revision,
}

impl Believed {
    /// Follows until the object named `end` shows up.
    async fn follow(mut self, watch: &mut Watch, mut pace: Pace, end: &str) -> Self {
        let mut initial = true;
        for n in 0.. {
            pace.pause(n).await;
            let delivery = match next(watch).await.expect("the watch goes on").expect("no error") {
                Item::InitialEventsEnd(revision) => {
                    (self.last, initial) = (revision, false);
                    continue;
                }
                Item::Event(delivery) => delivery,
            };
            let (key, revision) = (delivery.entry.key.to_string(), delivery.entry.revision);
            if !initial || self.last > Revision(0) {
                assert!(revision > self.last, "{revision} after {}", self.last);
                self.last = revision;
            }
            let known = match delivery.kind {
                EventType::Deleted => self.objects.remove(&key),
                _ => self.objects.insert(key.clone(), revision),
            };
            assert_eq!(known.is_none(), delivery.kind == EventType::Added, "{} of {key}", delivery.kind.as_str());
            if key.ends_with(end) {
                break;
            }
        }
        self
    }
}

/// How fast a watcher takes what it gets.
enum Pace {
    KeepsUp,
    /// Falls behind its queue now and then.
    Pauses,
    /// Takes a few, then nothing until the writers are done.
    Sleeps(watch::Receiver<bool>),
}

impl Pace {
    async fn pause(&mut self, item: usize) {
        match self {
            Self::Pauses if item.is_multiple_of(300) => tokio::time::sleep(Duration::from_millis(20)).await,
            Self::Sleeps(done) if item == 3 => drop(done.wait_for(|done| *done).await.unwrap()),
            _ => {}
        }
    }
}

fn truth(snapshot: &Snapshot, filter: &Filter) -> BTreeMap<String, Revision> {
    snapshot.select(filter, None).map(|entry| (entry.key.to_string(), entry.revision)).collect()
}

/// Writers at full speed, and watchers of every kind and pace.
async fn check(store: Arc<dyn Store>, commits: usize) {
    let running = Arc::new(Running::on(store).await);
    let (done, sleepers) = watch::channel(false);
    let filters = || {
        [
            filter("", "", ""),
            filter("", "app=a1", ""),
            filter("", "", "spec.nodeName=n2"),
            filter("/registry/pods/ns3/", "", ""),
        ]
    };
    let mut followers = Vec::new();
    for (n, filter) in filters().into_iter().cycle().take(24).enumerate() {
        let start = if n % 2 == 0 { Start::Now } else { Start::InitialEvents };
        let mut watch = running.pods.watch(start, filter.clone()).unwrap();
        let pace = match n / 8 {
            0 => Pace::KeepsUp,
            1 => Pace::Pauses,
            _ => Pace::Sleeps(sleepers.clone()),
        };
        followers.push(tokio::spawn(async move {
            let believed = Believed::default().follow(&mut watch, pace, "/end").await;
            (filter, believed)
        }));
    }
    let writers: Vec<_> = (0..16)
        .map(|writer| {
            let running = running.clone();
            tokio::spawn(async move {
                for n in 0..commits / 16 {
                    let name = format!("ns{}/w{writer}-{}", n % 5, n % 10);
                    let change = if n % 4 == 3 {
                        Change::Delete
                    } else {
                        pod(&name, &format!("a{}", n % 3), &format!("n{}", n % 4))
                    };
                    match running.cache.commit(&key(&name), Precondition::Any, change).await {
                        Ok(_) | Err(wharf_cache::Error::Conflict { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    running.put("ns3/end", "a1", "n2").await;
    let snapshot = running.pods.snapshot();
    done.send(true).unwrap();
    for follower in &mut followers {
        let (filter, believed) = tokio::time::timeout(DEADLINE, follower).await.expect("followers end").unwrap();
        assert_eq!(believed.objects, truth(&snapshot, &filter), "{filter:?}");
    }
    assert_eq!(running.pods.watchers(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_watcher_sees_every_event_once_in_order() {
    check(Arc::new(MemoryStore::new()), 12_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_watcher_sees_every_event_once_in_order_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let store = RedbStore::open(folder.path().join("store.redb"), Options::default()).unwrap();
    check(Arc::new(store), 8_000).await;
}

/// A store whose watches can be broken, and made to say that history is gone.
struct Faulty {
    inner: MemoryStore,
    breaks: Notify,
    /// What the watches that are opened next fail with, the last first.
    refusals: Mutex<Vec<Error>>,
    opened: AtomicUsize,
}

impl Faulty {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryStore::new(),
            breaks: Notify::new(),
            refusals: Mutex::default(),
            opened: AtomicUsize::new(0),
        })
    }

    async fn fail_with(&self, refusals: Vec<Error>) {
        let expected = self.opened.load(Ordering::SeqCst) + refusals.len() + 1;
        *self.refusals.lock() = refusals;
        self.breaks.notify_waiters();
        let again = async {
            while self.opened.load(Ordering::SeqCst) < expected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(DEADLINE, again).await.expect("the cache watches again");
    }
}

fn broken() -> Error {
    Error::Backend { operation: "watch", source: "the line is cut".into() }
}

/// The stream must be able to outlive the borrow that `Store::watch` has, hence the wrapper.
struct FaultyStore(Arc<Faulty>);

#[async_trait]
impl Store for FaultyStore {
    async fn get(&self, key: &str) -> Result<Option<Versioned>> {
        self.0.inner.get(key).await
    }
    async fn range(&self, prefix: &str, at: Option<Revision>, after: Option<&str>, limit: usize) -> Result<Page> {
        self.0.inner.range(prefix, at, after, limit).await
    }
    async fn commit(&self, key: &str, precondition: Precondition, change: Change) -> Result<Revision> {
        self.0.inner.commit(key, precondition, change).await
    }
    async fn history(&self, prefix: &str, after: Revision, limit: usize) -> Result<History> {
        self.0.inner.history(prefix, after, limit).await
    }
    async fn watch(&self, prefix: &str, after: Revision) -> Result<wharf_store::Watch> {
        self.0.opened.fetch_add(1, Ordering::SeqCst);
        if let Some(error) = self.0.refusals.lock().pop() {
            return Err(error);
        }
        let inner = self.0.inner.watch(prefix, after).await?;
        let faulty = self.0.clone();
        let broken = async move {
            faulty.breaks.notified().await;
            Err(broken())
        };
        Ok(futures::stream::select(inner, futures::stream::once(broken)).boxed())
    }
    async fn compact(&self, revision: Revision) -> Result<()> {
        self.0.inner.compact(revision).await
    }
    async fn revision(&self) -> Result<Revision> {
        self.0.inner.revision().await
    }
    async fn size_bytes(&self) -> Result<u64> {
        self.0.inner.size_bytes().await
    }
}

#[tokio::test]
async fn a_broken_watch_of_the_store_is_taken_up_where_it_ended() {
    let faulty = Faulty::new();
    let running = Running::on(Arc::new(FaultyStore(faulty.clone()))).await;
    let mut watch = running.pods.watch(Start::Now, filter("", "", "")).unwrap();
    running.put("a", "web", "").await;
    faulty.fail_with(vec![broken(), broken()]).await;
    running.put("b", "web", "").await;
    check_watch(&mut watch, &["ADDED default/a web@ @1", "ADDED default/b web@ @2"]).await;
}

#[tokio::test]
async fn lost_history_means_loading_again_and_expired_watches() {
    let faulty = Faulty::new();
    let running = Running::on(Arc::new(FaultyStore(faulty.clone()))).await;
    running.put("a", "web", "").await;
    running.put("b", "web", "").await;
    let mut watch = running.pods.watch(Start::Now, filter("", "", "")).unwrap();
    running.put("c", "web", "").await;
    check_watch(&mut watch, &["ADDED default/c web@ @3"]).await;
    faulty.fail_with(vec![Error::Compacted { oldest: Revision(3) }]).await;
    check_expired(&mut watch, 3).await;
    drop(watch);
    let mut watch = running.pods.watch(Start::Now, filter("", "", "")).unwrap();
    running.delete("a").await;
    running.put("d", "web", "").await;
    check_watch(&mut watch, &["DELETED default/a web@ @4", "ADDED default/d web@ @5"]).await;
    let names: Vec<_> = running.pods.snapshot().objects.keys().map(|key| key.to_string()).collect();
    assert_eq!(names, [key("b"), key("c"), key("d")]);
}
