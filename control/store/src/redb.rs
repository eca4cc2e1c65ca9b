//! The durable store: one redb file, one writer thread, reads from snapshots of the file.
//!
//! Reads take a redb read transaction, which neither waits for the writer nor makes it wait, so the store keeps no image of
//! the data in memory (the watch cache is that). Watchers read the newest commits from memory and older ones from the log.
//! Invariants: an answer is sent after the sync that makes it true; the high-water mark is written in the same transaction as
//! the commits it counts, and nobody sees a revision before that; a second process that opens the file is refused.
//! Absent on purpose: shrinking the file (free pages are used again), encryption, retry after a failed write.

mod file;
mod format;
mod tail;
mod view;
mod writer;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use ::redb::{Database, ReadableDatabase};
use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use self::tail::Tail;
use self::view::View;
use self::writer::{Commit, Request, Writer};
use crate::follow::{self, Log, follow};
use crate::{Change, Error, History, Key, Page, Precondition, Result, Revision, Store, Versioned, Watch, check_size};

/// Most commits that wait for the writer; those beyond wait for room.
const QUEUE_MAX: usize = 4096;
/// Most KiB of values that wait for the writer.
const QUEUE_KIB_MAX: u32 = 64 * 1024;

/// How much is kept, and in which memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Commits that history keeps: how far back a watch can resume.
    pub history_events: u64,
    /// Bytes of commits that history keeps; whichever is reached first counts.
    pub history_bytes: u64,
    /// Pages of the file that are kept in memory.
    pub cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { history_events: 100_000, history_bytes: 64 * 1024 * 1024, cache_bytes: 16 * 1024 * 1024 }
    }
}

pub struct RedbStore {
    path: PathBuf,
    shared: Arc<Shared>,
    latest: watch::Receiver<Revision>,
    room: Semaphore,
    requests: Option<mpsc::Sender<Request>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    /// None once the store is closed; the file's lock goes with it.
    database: RwLock<Option<Database>>,
    tail: RwLock<Tail>,
}

/// Names the operation that redb failed at.
fn failed<E: Into<::redb::Error>>(operation: &'static str) -> impl FnOnce(E) -> Error {
    move |error| Error::Backend { operation, source: Box::new(error.into()) }
}

impl RedbStore {
    /// Opens the file, or makes it. Blocks while a file that was not closed cleanly is checked.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let (database, mark) = file::open(&path, options)?;
        let shared = Arc::new(Shared {
            database: RwLock::new(Some(database)),
            tail: RwLock::new(Tail::starting_at(mark.revision)),
        });
        let (latest, subscribers) = watch::channel(mark.revision);
        let (requests, queue) = mpsc::channel(QUEUE_MAX);
        let writer = Writer { shared: shared.clone(), latest, options, mark };
        let closing = shared.clone();
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                writer.run(queue);
                // Ends every read that comes after, and lets go of the file.
                *closing.database.write() = None;
            })
            .map_err(|source| Error::Backend { operation: "start the writer", source: source.into() })?;
        Ok(Self {
            path,
            shared,
            latest: subscribers,
            room: Semaphore::new(QUEUE_KIB_MAX as usize),
            requests: Some(requests),
            writer: Mutex::new(Some(thread)),
        })
    }

    /// Writes what is queued and lets go of the file. Everything asked afterwards gets [`Error::Closed`].
    pub async fn close(&self) {
        // An error means that the writer has ended already.
        let _ = self.send(Request::Close).await;
        let thread = self.writer.lock().take();
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the store's writer panicked");
            }
        }
    }

    async fn send(&self, request: Request) -> Result<()> {
        let requests = self.requests.as_ref().ok_or(Error::Closed)?;
        requests.send(request).await.map_err(|_| Error::Closed)
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.writer.lock().take() {
            // It has logged what went wrong.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn view(&self) -> Result<View> {
        let database = self.database.read();
        let database = database.as_ref().ok_or(Error::Closed)?;
        database.begin_read().map(View).map_err(failed("begin a read"))
    }
}

#[async_trait]
impl Log for Shared {
    async fn history(&self, prefix: &str, after: Revision, limit: usize) -> Result<History> {
        if let Some(history) = self.tail.read().history(prefix, after, limit) {
            return Ok(history);
        }
        let (view, prefix) = (self.view()?, prefix.to_owned());
        blocking(move || view.history(&prefix, after, limit)).await
    }
}

/// Runs a read that may take long where it keeps nobody waiting.
async fn blocking<T: Send + 'static>(read: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let read = tokio::task::spawn_blocking(read).await;
    read.unwrap_or_else(|source| Err(Error::Backend { operation: "read", source: source.into() }))
}

#[async_trait]
impl Store for RedbStore {
    async fn get(&self, key: &str) -> Result<Option<Versioned>> {
        self.shared.view()?.get(key)
    }

    async fn range(&self, prefix: &str, at: Option<Revision>, after: Option<&str>, limit: usize) -> Result<Page> {
        let view = self.shared.view()?;
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        blocking(move || view.range(&prefix, at, after.as_deref(), limit)).await
    }

    async fn commit(&self, key: &str, precondition: Precondition, change: Change) -> Result<Revision> {
        check_size(key, &change)?;
        let kib = match &change {
            Change::Put(value) => value.len().div_ceil(1024) as u32,
            Change::Delete => 0,
        };
        let _room = self.room.acquire_many(kib).await.map_err(|_| Error::Closed)?;
        let (reply, answer) = oneshot::channel();
        self.send(Request::Commit(Commit { key: Key::from(key), precondition, change, reply })).await?;
        answer.await.unwrap_or(Err(Error::Closed))
    }

    async fn history(&self, prefix: &str, after: Revision, limit: usize) -> Result<History> {
        let latest = *self.latest.borrow();
        if after > latest {
            return Err(Error::Future { latest });
        }
        Log::history(&*self.shared, prefix, after, limit).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch> {
        let first = Store::history(self, prefix, after, follow::FIRST).await?;
        Ok(follow(self.shared.clone(), self.latest.clone(), prefix, after, first))
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Compact { revision, reply }).await?;
        answer.await.unwrap_or(Err(Error::Closed))
    }

    async fn revision(&self) -> Result<Revision> {
        Ok(*self.latest.borrow())
    }

    async fn size_bytes(&self) -> Result<u64> {
        let found = fs::metadata(&self.path);
        Ok(found.map_err(|source| Error::Backend { operation: "measure the file", source: source.into() })?.len())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use bytes::Bytes;
    use futures::StreamExt;

    use super::format::{FORMAT_KEY, META};
    use super::*;

    fn open(folder: &tempfile::TempDir, options: Options) -> RedbStore {
        RedbStore::open(folder.path().join("store.redb"), options).unwrap()
    }

    async fn put(store: &RedbStore, key: &str, value: &'static str) -> Revision {
        store.commit(key, Precondition::Any, Change::Put(Bytes::from_static(value.as_bytes()))).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_redb_store_keeps_the_contract() {
        let folder = tempfile::tempdir().unwrap();
        let count = std::sync::atomic::AtomicUsize::new(0);
        let make = || async {
            let n = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let path = folder.path().join(format!("{n}.redb"));
            Arc::new(RedbStore::open(path, Options::default()).unwrap()) as Arc<dyn Store>
        };
        crate::contract::suite(make).await;
    }

    #[tokio::test]
    async fn everything_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder, Options::default());
        put(&store, "/a", "1").await;
        put(&store, "/a", "2").await;
        put(&store, "/b", "1").await;
        store.commit("/b", Precondition::Any, Change::Delete).await.unwrap();
        store.compact(Revision(1)).await.unwrap();
        drop(store);
        let store = open(&folder, Options::default());
        assert_eq!(store.revision().await.unwrap(), Revision(4));
        assert_eq!(&store.get("/a").await.unwrap().unwrap().value[..], b"2");
        let mut watch = store.watch("/", Revision(1)).await.unwrap();
        for revision in [2, 3, 4] {
            assert_eq!(watch.next().await.unwrap().unwrap().revision, Revision(revision));
        }
        assert!(matches!(store.history("/", Revision(0), 1).await, Err(Error::Compacted { oldest: Revision(1) })));
        assert_eq!(put(&store, "/c", "1").await, Revision(5));
    }

    #[tokio::test]
    async fn a_compacted_deletion_does_not_give_its_revision_back() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder, Options::default());
        put(&store, "/a", "1").await;
        store.commit("/a", Precondition::Any, Change::Delete).await.unwrap();
        store.compact(Revision(2)).await.unwrap();
        drop(store);
        let store = open(&folder, Options::default());
        assert_eq!(put(&store, "/a", "2").await, Revision(3));
    }

    #[tokio::test]
    async fn a_second_opener_is_told_that_the_file_is_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder, Options::default());
        let path = folder.path().join("store.redb");
        let second = RedbStore::open(&path, Options::default()).map(drop).unwrap_err();
        assert_eq!(second.to_string(), format!("{} is in use by another process", path.display()));
        // A watch that is still held does not hold the file.
        let mut watch = store.watch("/", Revision(0)).await.unwrap();
        store.close().await;
        assert!(matches!(watch.next().await, Some(Err(Error::Closed))));
        assert!(watch.next().await.is_none());
        RedbStore::open(&path, Options::default()).unwrap();
        assert!(matches!(store.get("/a").await, Err(Error::Closed)));
        let commit = store.commit("/a", Precondition::Any, Change::Put(Bytes::new())).await;
        assert!(matches!(commit, Err(Error::Closed)), "{commit:?}");
    }

    #[test]
    fn only_the_owner_reads_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        for _ in 0..2 {
            drop(open(&folder, Options::default()));
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_of_something_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("store.redb"), b"not a store").unwrap();
        let error = RedbStore::open(folder.path().join("store.redb"), Options::default()).map(drop).unwrap_err();
        assert!(matches!(error, Error::Backend { operation: "open the store", .. }), "{error:?}");
    }

    #[test]
    fn a_file_of_another_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let database = Database::create(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(META).unwrap().insert(FORMAT_KEY, 99).unwrap();
        transaction.commit().unwrap();
        drop(database);
        let error = RedbStore::open(&path, Options::default()).map(drop).unwrap_err();
        assert_eq!(error.to_string(), format!("{} has format 99; this version reads format 1", path.display()));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn history_and_file_stay_bounded() {
        const VALUE: &str = "v";
        let folder = tempfile::tempdir().unwrap();
        let options = Options { history_events: 100, ..Options::default() };
        let store = Arc::new(open(&folder, options));
        let mut sizes = Vec::new();
        for round in 0..4 {
            let writers: Vec<_> = (0..50)
                .map(|writer| {
                    let store = store.clone();
                    tokio::spawn(async move {
                        for n in 0..20 {
                            let key = format!("/{}", (writer + n) % 10);
                            put(&store, &key, VALUE).await;
                        }
                    })
                })
                .collect();
            for writer in writers {
                writer.await.unwrap();
            }
            let latest = store.revision().await.unwrap();
            assert_eq!(latest, Revision((round + 1) * 1000));
            let history = store.history("/", Revision(latest.0 - 100), 200).await.unwrap();
            assert_eq!(history.events.len(), 100);
            let gone = store.history("/", Revision(latest.0 - 1000), 1).await;
            assert!(matches!(gone, Err(Error::Compacted { .. })), "{gone:?}");
            sizes.push(store.size_bytes().await.unwrap());
        }
        assert!(sizes[3] < 2 * sizes[1], "the file grew with history: {sizes:?}");
        assert_eq!(store.range("/", None, None, 99).await.unwrap().items.len(), 10);
    }

    #[tokio::test]
    async fn history_is_bounded_in_bytes_too() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { history_bytes: 10_000, ..Options::default() };
        let store = open(&folder, options);
        for _ in 0..40 {
            store.commit("/a", Precondition::Any, Change::Put(vec![b'x'; 1000].into())).await.unwrap();
        }
        let Err(Error::Compacted { oldest }) = store.history("/", Revision(0), 1).await else {
            panic!("nothing was forgotten")
        };
        assert!((25..40).contains(&oldest.0), "{oldest}");
    }
}
