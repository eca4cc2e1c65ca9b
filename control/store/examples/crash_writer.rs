//! Writes to a store for ever and says on standard output what was acknowledged: the process that `tests/crash.rs` kills.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use wharf_store::{Change, Error, Options, Precondition, RedbStore, Store};

const WRITERS: usize = 32;
const KEYS_EACH: usize = 20;
/// Small, so that rounds also meet compaction.
const OPTIONS: Options = Options { history_events: 2000, history_bytes: 1 << 20, cache_bytes: 1 << 20 };

#[tokio::main(worker_threads = 2)]
async fn main() {
    let file = std::env::args_os().nth(1).expect("usage: crash_writer FILE");
    let store = Arc::new(RedbStore::open(Path::new(&file), OPTIONS).expect("the store opens"));
    for writer in 0..WRITERS {
        tokio::spawn(write_forever(store.clone(), writer));
    }
    std::future::pending::<()>().await;
}

async fn write_forever(store: Arc<RedbStore>, writer: usize) {
    for n in 0usize.. {
        let key = format!("/w{writer}/{}", n % KEYS_EACH);
        // One in five is a deletion, if there is something to delete.
        let value = (n % 5 != 4).then(|| format!("{writer}-{n}-{}", "x".repeat(n % 700)));
        let change = value.clone().map_or(Change::Delete, |value| Change::Put(value.into()));
        match store.commit(&key, Precondition::Any, change).await {
            Ok(revision) => {
                let value = value.as_deref().unwrap_or("-");
                // One write call a line: a kill leaves whole lines, or one that is cut short and not counted.
                let line = format!("\n{revision} {key} {value} .\n");
                std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
            }
            Err(Error::Precondition { current: None, .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}
