//! `kill -9` of a process that writes under load: what it acknowledged is there, and no revision comes twice.
//!
//! The test starts the example `crash_writer`, reads what it acknowledges from its standard output, kills it after a random
//! number of acknowledgements, and opens the file.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wharf_store::{Error, Options, RedbStore, Revision, Store};

const ROUNDS: usize = 8;
/// Set it to repeat a run.
const SEED: &str = "STORE_CRASH_SEED";
const DEADLINE: Duration = Duration::from_secs(120);

/// Small, so that rounds also meet compaction.
const OPTIONS: Options = Options { history_events: 2000, history_bytes: 1 << 20, cache_bytes: 1 << 20 };

/// What a line of the writer says: a key held this value from this revision on, or was deleted at it.
#[derive(Debug)]
struct Acknowledged {
    revision: Revision,
    key: String,
    value: Option<String>,
}

fn parse(line: &str) -> Option<Acknowledged> {
    let mut words = line.split(' ');
    let revision = Revision(words.next()?.parse().ok()?);
    let (key, value, end) = (words.next()?.to_owned(), words.next()?, words.next()?);
    (end == "." && key.starts_with("/w")).then(|| Acknowledged {
        revision,
        key,
        value: (value != "-").then(|| value.to_owned()),
    })
}

fn start(file: &Path) -> (Child, Receiver<Acknowledged>) {
    // Cargo builds examples beside the tests.
    let test = std::env::current_exe().unwrap();
    let writer = test.parent().and_then(Path::parent).unwrap().join("examples/crash_writer");
    let mut child = Command::new(&writer).arg(file).stdout(Stdio::piped()).spawn().unwrap();
    let (sender, receiver) = channel();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    std::thread::spawn(move || {
        for acknowledged in lines.map_while(Result::ok).filter_map(|line| parse(&line)) {
            if sender.send(acknowledged).is_err() {
                return;
            }
        }
    });
    (child, receiver)
}

/// Kills the writer after so many acknowledgements; returns all that it gave.
fn crash(file: &Path, after: usize) -> Vec<Acknowledged> {
    let (mut child, lines) = start(file);
    let mut acknowledged: Vec<_> = (0..after).map_while(|_| lines.recv_timeout(DEADLINE).ok()).collect();
    child.kill().unwrap();
    let status = child.wait().unwrap();
    // What it had said before it died counts too.
    acknowledged.extend(lines.iter());
    assert!(acknowledged.len() >= after, "the writer stopped early: {status}");
    acknowledged
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random::<u64>);
    println!("{SEED}={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.redb");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut history = Seen::default();
    for round in 0..ROUNDS {
        let acknowledged = crash(&file, random.random_range(1..1500));
        runtime.block_on(history.check(&file, &acknowledged, round));
    }
}

#[test]
fn a_kill_while_the_file_is_being_made_leaves_one_that_opens() {
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random::<u64>);
    println!("{SEED}={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    for round in 0..ROUNDS {
        let file = folder.path().join(format!("{round}.redb"));
        let (mut child, _lines) = start(&file);
        std::thread::sleep(Duration::from_micros(random.random_range(0..20_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        RedbStore::open(&file, OPTIONS).unwrap_or_else(|error| panic!("round {round}: {error}: {error:?}"));
    }
}

/// Every event that was seen in any round.
#[derive(Default)]
struct Seen {
    latest: Revision,
    /// Every event after this one was seen in the last round.
    from: Revision,
    events: BTreeMap<Revision, (String, Option<Bytes>)>,
    state: HashMap<String, (Revision, Bytes)>,
}

impl Seen {
    async fn check(&mut self, file: &Path, acknowledged: &[Acknowledged], round: usize) {
        let store = RedbStore::open(file, OPTIONS).unwrap();
        let latest = store.revision().await.unwrap();
        let newest = acknowledged.iter().map(|one| one.revision).max().unwrap();
        assert!(latest >= newest, "round {round}: the store went back from {newest} to {latest}");
        let oldest = acknowledged.iter().map(|one| one.revision).min().unwrap();
        assert!(oldest > self.latest, "round {round}: revision {oldest} was given out twice");
        self.resume(&store, latest, round).await;
        for one in acknowledged {
            // What was compacted meanwhile can only be seen in the state, which is checked below.
            if let Some((key, value)) = self.events.get(&one.revision) {
                assert_eq!(*key, one.key, "round {round}: revision {}", one.revision);
                assert_eq!(
                    value.as_deref(),
                    one.value.as_deref().map(str::as_bytes),
                    "round {round}: revision {}",
                    one.revision
                );
            }
            let held = store.get(&one.key).await.unwrap();
            match held {
                Some(held) if held.revision == one.revision => {
                    assert_eq!(Some(&held.value[..]), one.value.as_deref().map(str::as_bytes));
                }
                Some(held) => {
                    assert!(held.revision > one.revision, "round {round}: {one:?} is lost; there is {held:?}")
                }
                None => assert!(one.value.is_none() || self.deleted_since(one), "round {round}: {one:?} is lost"),
            }
        }
        store.close().await;
    }

    /// Whether a deletion explains that the key is gone; if the events after it are gone too, nothing can be said.
    fn deleted_since(&self, one: &Acknowledged) -> bool {
        one.revision < self.from
            || self.events.range(one.revision..).any(|(_, (key, value))| *key == one.key && value.is_none())
    }

    /// Watches on from where the last round ended, or from the oldest that is kept; then the events and the state agree.
    async fn resume(&mut self, store: &RedbStore, latest: Revision, round: usize) {
        let from = match store.history("/", self.latest, 1).await {
            Ok(_) => self.latest,
            Err(Error::Compacted { oldest }) => {
                self.state.clear();
                for item in store.range("/", Some(oldest), None, usize::MAX).await.unwrap().items {
                    self.state.insert(item.key.to_string(), (item.revision, item.value));
                }
                oldest
            }
            Err(error) => panic!("round {round}: {error}"),
        };
        self.from = from;
        let mut watch = store.watch("/", from).await.unwrap();
        for expected in from.0 + 1..=latest.0 {
            let event = tokio::time::timeout(DEADLINE, watch.next()).await.unwrap().unwrap().unwrap();
            assert_eq!(event.revision, Revision(expected), "round {round}: an event is missing or came twice");
            let previous = match &event.value {
                Some(value) => self.state.insert(event.key.to_string(), (event.revision, value.clone())),
                None => self.state.remove(&*event.key),
            };
            assert_eq!(event.previous, previous, "round {round}: revision {expected}");
            self.events.insert(event.revision, (event.key.to_string(), event.value));
        }
        self.latest = latest;
        let page = store.range("/", None, None, usize::MAX).await.unwrap();
        let held: HashMap<_, _> =
            page.items.into_iter().map(|item| (item.key.to_string(), (item.revision, item.value))).collect();
        assert_eq!(held, self.state, "round {round}: the values are not what the events say");
    }
}
