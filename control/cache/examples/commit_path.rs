//! CPU and latency of the path from a commit to its acknowledgement, and of delivery to many watchers.
//!
//! `cargo run --release -p wharf-cache --example commit_path -- [clients] [commits] [watchers]`

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use wharf_cache::{Cache, Filter, Index, Indexed, Start};
use wharf_store::{Change, Options, Precondition, RedbStore};

struct NameIndex;

impl Index for NameIndex {
    fn index(&self, _: &[u8]) -> Indexed {
        Indexed { labels: BTreeMap::new(), fields: BTreeMap::from([("metadata.name".into(), "x".to_owned())]) }
    }
}

/// User and system time of this process.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("proc is mounted");
    let after_name = stat.rsplit(')').next().expect("a name in brackets");
    let ticks: u64 = after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

struct Measured {
    wall: Duration,
    cpu: Duration,
}

impl Measured {
    fn print(&self, what: &str, count: usize) {
        let each = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
        println!(
            "{what}: {count} in {:?}; each {:.2} µs wall, {:.2} µs CPU",
            self.wall,
            each(self.wall),
            each(self.cpu)
        );
    }
}

async fn measure(work: impl Future<Output = ()>) -> Measured {
    let (wall, before) = (Instant::now(), cpu());
    work.await;
    Measured { wall: wall.elapsed(), cpu: cpu() - before }
}

async fn commits(cache: &Arc<Cache>, clients: usize, count: usize, update: bool) {
    let value = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"x"}},"data":{{"x":"{}"}}}}"#,
        "x".repeat(950)
    );
    let value = Bytes::from(value);
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let (cache, value) = (cache.clone(), value.clone());
            tokio::spawn(async move {
                for n in 0..count / clients {
                    let key = format!("/registry/configmaps/default/{client}-{n}");
                    let precondition = if update { Precondition::Present } else { Precondition::Absent };
                    cache.commit(&key, precondition, Change::Put(value.clone())).await.expect("a commit");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a client");
    }
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse().expect("a number"));
    let clients = arguments.next().unwrap_or(128);
    let count = arguments.next().unwrap_or(20_000) / clients * clients;
    let watchers = arguments.next().unwrap_or(1000);
    let folder = std::env::temp_dir().join(format!("wharf-commit-path-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let store = RedbStore::open(folder.join("store.redb"), Options::default()).expect("a store");
    let cache = Cache::open(Arc::new(store)).await.expect("a cache");
    let cancel = CancellationToken::new();
    let running = tokio::spawn({
        let (cache, cancel) = (cache.clone(), cancel.clone());
        async move { cache.run(cancel).await }
    });
    let collection = cache.collection("/registry/configmaps/", Arc::new(NameIndex)).await.expect("a collection");

    measure(commits(&cache, clients, count, false)).await.print("create", count);
    measure(commits(&cache, clients, count, true)).await.print("update", count);

    let events = 1000 / clients * clients;
    let following: Vec<_> = (0..watchers)
        .map(|_| {
            let mut watch = collection.watch(Start::Now, Filter::default()).expect("a watch");
            tokio::spawn(async move {
                for _ in 0..events {
                    let item = watch.next().await.expect("the watch goes on").expect("no error");
                    std::hint::black_box(item);
                }
            })
        })
        .collect();
    let delivery = measure(async {
        commits(&cache, clients, events, true).await;
        for watcher in following {
            watcher.await.expect("a watcher");
        }
    });
    delivery.await.print("delivery", events * watchers);
    println!("file: {} KiB", cache.store().size_bytes().await.expect("a size") / 1024);
    cancel.cancel();
    running.await.expect("the dispatcher");
    std::fs::remove_dir_all(&folder).expect("the folder goes");
}
