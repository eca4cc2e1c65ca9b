//! What every store must do. An implementation's tests call [`suite`] with a way to make an empty store.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;

use crate::{Change, Error, Event, Key, Page, Precondition, Revision, Store, VALUE_BYTES_MAX, Versioned, Watch};

/// Long enough for any step on a machine that is busy with other things.
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs every claim on a store of its own.
pub async fn suite<F: Future<Output = Arc<dyn Store>>>(make: impl Fn() -> F) {
    revisions_count_commits(&*make().await).await;
    preconditions_are_checked_against_the_last_commit(&*make().await).await;
    sizes_are_limited(&*make().await).await;
    ranges_are_pages_in_byte_order(&*make().await).await;
    a_prefix_ends_where_it_says(&*make().await).await;
    old_revisions_can_be_read(&*make().await).await;
    pages_of_an_old_revision_do_not_change(make().await).await;
    a_watch_replays_and_follows(&*make().await).await;
    a_slow_watch_loses_nothing(make().await).await;
    compaction_forgets_history_only(&*make().await).await;
    history_is_read_in_steps(&*make().await).await;
    the_future_is_not_known(&*make().await).await;
    no_update_is_lost_between_writers(make().await).await;
    concurrent_commits_are_seen_once_in_order(make().await).await;
}

async fn put(store: &dyn Store, key: &str, value: &str) -> Revision {
    let change = Change::Put(Bytes::copy_from_slice(value.as_bytes()));
    store.commit(key, Precondition::Any, change).await.unwrap()
}

async fn delete(store: &dyn Store, key: &str) -> Revision {
    store.commit(key, Precondition::Any, Change::Delete).await.unwrap()
}

fn show(page: &Page) -> String {
    let items: Vec<String> = page.items.iter().map(show_item).collect();
    format!("{}{} @{}", items.join(" "), if page.more { " …" } else { "" }, page.revision)
}

fn show_item(item: &Versioned) -> String {
    format!("{}={}@{}", item.key, String::from_utf8_lossy(&item.value), item.revision)
}

fn show_event(event: &Event) -> String {
    let text = |value: &Bytes| String::from_utf8_lossy(value).into_owned();
    let value = event.value.as_ref().map_or("-".to_owned(), text);
    let previous = event.previous.as_ref().map(|(revision, value)| format!(" was {}@{revision}", text(value)));
    format!("{} {}={value}{}", event.revision, event.key, previous.unwrap_or_default())
}

async fn next(watch: &mut Watch) -> crate::Result<Event> {
    tokio::time::timeout(DEADLINE, watch.next()).await.expect("an event in time").expect("the watch goes on")
}

async fn check_range(
    store: &dyn Store,
    prefix: &str,
    at: Option<u64>,
    after: Option<&str>,
    limit: usize,
    expected: &str,
) {
    let page = store.range(prefix, at.map(Revision), after, limit).await.unwrap();
    assert_eq!(show(&page), expected, "range {prefix} at {at:?} after {after:?} limit {limit}");
}

async fn check_watch(watch: &mut Watch, expected: &[&str]) {
    for expected in expected {
        assert_eq!(show_event(&next(watch).await.unwrap()), *expected);
    }
}

async fn revisions_count_commits(store: &dyn Store) {
    assert_eq!(store.revision().await.unwrap(), Revision(0));
    assert_eq!(store.get("/a").await.unwrap(), None);
    assert_eq!(put(store, "/a", "1").await, Revision(1));
    assert_eq!(put(store, "/b", "2").await, Revision(2));
    assert_eq!(put(store, "/a", "3").await, Revision(3));
    assert_eq!(show_item(&store.get("/a").await.unwrap().unwrap()), "/a=3@3");
    assert_eq!(delete(store, "/a").await, Revision(4));
    assert_eq!(store.get("/a").await.unwrap(), None);
    assert_eq!(store.revision().await.unwrap(), Revision(4));
    assert!(store.size_bytes().await.unwrap() > 0);
}

async fn preconditions_are_checked_against_the_last_commit(store: &dyn Store) {
    use Precondition::{Absent, Any, At, Present};
    let value = || Change::Put(Bytes::from_static(b"x"));
    // On a key that is not there; each that fails leaves everything as it was.
    for (precondition, change) in [
        (Present, value()),
        (At(Revision(1)), value()),
        (Any, Change::Delete),
        (Absent, Change::Delete),
        (Present, Change::Delete),
    ] {
        match store.commit("/a", precondition, change).await {
            Err(Error::Precondition { current: None, .. }) => {}
            other => panic!("{precondition:?} on an absent key: {other:?}"),
        }
    }
    assert_eq!(store.commit("/a", Absent, value()).await.unwrap(), Revision(1));
    for (precondition, change) in [(Absent, value()), (At(Revision(9)), value()), (At(Revision(9)), Change::Delete)] {
        match store.commit("/a", precondition, change).await {
            Err(Error::Precondition { current: Some(current), revision }) => {
                assert_eq!(show_item(&current), "/a=x@1");
                assert_eq!(revision, Revision(1));
            }
            other => panic!("{precondition:?} on a present key: {other:?}"),
        }
    }
    assert_eq!(store.commit("/a", At(Revision(1)), value()).await.unwrap(), Revision(2));
    assert_eq!(store.commit("/a", Present, value()).await.unwrap(), Revision(3));
    assert_eq!(store.commit("/a", At(Revision(3)), Change::Delete).await.unwrap(), Revision(4));
    assert_eq!(store.commit("/a", Absent, value()).await.unwrap(), Revision(5));
}

async fn sizes_are_limited(store: &dyn Store) {
    let commit = |size: usize| store.commit("/a", Precondition::Any, Change::Put(vec![b'x'; size].into()));
    assert!(matches!(commit(VALUE_BYTES_MAX + 1).await, Err(Error::TooLarge { .. })));
    assert_eq!(commit(VALUE_BYTES_MAX).await.unwrap(), Revision(1));
    assert_eq!(store.get("/a").await.unwrap().unwrap().value.len(), VALUE_BYTES_MAX);
    assert_eq!(commit(0).await.unwrap(), Revision(2));
    assert_eq!(store.get("/a").await.unwrap().unwrap().value.len(), 0);
    let put = |key: String| async move { store.commit(&key, Precondition::Any, Change::Put(Bytes::new())).await };
    assert!(matches!(put(String::new()).await, Err(Error::Key { .. })));
    assert!(matches!(put("k".repeat(crate::KEY_BYTES_MAX + 1)).await, Err(Error::Key { .. })));
    assert_eq!(put("k".repeat(crate::KEY_BYTES_MAX)).await.unwrap(), Revision(3));
}

async fn ranges_are_pages_in_byte_order(store: &dyn Store) {
    for key in ["/r/b", "/r/a", "/r/c", "/q/z", "/s/a"] {
        put(store, key, "v").await;
    }
    check_range(store, "/r/", None, None, 9, "/r/a=v@2 /r/b=v@1 /r/c=v@3 @5").await;
    check_range(store, "/r/", None, None, 3, "/r/a=v@2 /r/b=v@1 /r/c=v@3 @5").await;
    check_range(store, "/r/", None, None, 2, "/r/a=v@2 /r/b=v@1 … @5").await;
    check_range(store, "/r/", None, Some("/r/a"), 1, "/r/b=v@1 … @5").await;
    check_range(store, "/r/", None, Some("/r/aa"), 9, "/r/b=v@1 /r/c=v@3 @5").await;
    check_range(store, "/r/", None, Some("/r/c"), 9, " @5").await;
    check_range(store, "/r/", None, Some("/a"), 1, "/r/a=v@2 … @5").await;
    check_range(store, "/none/", None, None, 9, " @5").await;
}

async fn a_prefix_ends_where_it_says(store: &dyn Store) {
    let mut pods = store.watch("/registry/pods/", Revision(0)).await.unwrap();
    for key in
        ["/registry/pods", "/registry/pods/a/b", "/registry/podsx/a", "/registry/pods0", "/registry/pods/\u{10ffff}"]
    {
        put(store, key, "v").await;
    }
    check_range(store, "/registry/pods/", None, None, 9, "/registry/pods/a/b=v@2 /registry/pods/\u{10ffff}=v@5 @5")
        .await;
    check_watch(&mut pods, &["2 /registry/pods/a/b=v", "5 /registry/pods/\u{10ffff}=v"]).await;
}

async fn old_revisions_can_be_read(store: &dyn Store) {
    put(store, "/r/a", "1").await;
    put(store, "/r/b", "1").await;
    put(store, "/r/a", "2").await;
    delete(store, "/r/b").await;
    put(store, "/r/c", "1").await;
    put(store, "/r/b", "2").await;
    put(store, "/q/a", "1").await;
    for (at, expected) in [
        (0, " @0"),
        (1, "/r/a=1@1 @1"),
        (2, "/r/a=1@1 /r/b=1@2 @2"),
        (3, "/r/a=2@3 /r/b=1@2 @3"),
        (4, "/r/a=2@3 @4"),
        (5, "/r/a=2@3 /r/c=1@5 @5"),
        (6, "/r/a=2@3 /r/b=2@6 /r/c=1@5 @6"),
        (7, "/r/a=2@3 /r/b=2@6 /r/c=1@5 @7"),
    ] {
        check_range(store, "/r/", Some(at), None, 9, expected).await;
    }
    check_range(store, "/r/", Some(3), None, 1, "/r/a=2@3 … @3").await;
    check_range(store, "/r/", Some(3), Some("/r/a"), 1, "/r/b=1@2 @3").await;
}

async fn pages_of_an_old_revision_do_not_change(store: Arc<dyn Store>) {
    const KEYS: usize = 60;
    for n in 0..KEYS {
        put(&*store, &format!("/r/{n:03}"), "old").await;
    }
    let writing = tokio::spawn({
        let store = store.clone();
        async move {
            for n in 0..KEYS {
                match n % 3 {
                    0 => drop(put(&*store, &format!("/r/{n:03}"), "new").await),
                    1 => drop(delete(&*store, &format!("/r/{n:03}")).await),
                    _ => drop(put(&*store, &format!("/r/{n:03}x"), "new").await),
                }
            }
        }
    });
    let (mut after, mut seen) = (None::<Key>, 0);
    loop {
        let page = store.range("/r/", Some(Revision(KEYS as u64)), after.as_deref(), 7).await.unwrap();
        for item in &page.items {
            assert_eq!(show_item(item), format!("/r/{seen:03}=old@{}", seen + 1));
            seen += 1;
        }
        after = page.items.last().map(|item| item.key.clone());
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, KEYS);
    writing.await.unwrap();
}

async fn a_watch_replays_and_follows(store: &dyn Store) {
    put(store, "/r/a", "1").await;
    put(store, "/r/a", "2").await;
    put(store, "/q/a", "1").await;
    delete(store, "/r/a").await;
    let mut all = store.watch("/r/", Revision(0)).await.unwrap();
    check_watch(&mut all, &["1 /r/a=1", "2 /r/a=2 was 1@1", "4 /r/a=- was 2@2"]).await;
    let mut late = store.watch("/r/", Revision(1)).await.unwrap();
    let mut live = store.watch("/r/", Revision(4)).await.unwrap();
    put(store, "/q/a", "2").await;
    put(store, "/r/a", "3").await;
    check_watch(&mut late, &["2 /r/a=2 was 1@1", "4 /r/a=- was 2@2", "6 /r/a=3"]).await;
    check_watch(&mut live, &["6 /r/a=3"]).await;
    check_watch(&mut all, &["6 /r/a=3"]).await;
    put(store, "/r/a", "4").await;
    check_watch(&mut live, &["7 /r/a=4 was 3@6"]).await;
}

async fn a_slow_watch_loses_nothing(store: Arc<dyn Store>) {
    // More than any buffer of recent commits holds.
    const COMMITS: u64 = 6000;
    let mut slow = store.watch("/", Revision(0)).await.unwrap();
    let writers = (0..50).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for _ in 0..COMMITS / 50 {
                put(&*store, &format!("/{writer}"), "v").await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    for expected in 1..=COMMITS {
        assert_eq!(next(&mut slow).await.unwrap().revision, Revision(expected));
    }
}

async fn compaction_forgets_history_only(store: &dyn Store) {
    put(store, "/r/a", "1").await;
    put(store, "/r/b", "1").await;
    put(store, "/r/a", "2").await;
    delete(store, "/r/b").await;
    put(store, "/r/a", "3").await;
    store.compact(Revision(3)).await.unwrap();
    store.compact(Revision(2)).await.unwrap();
    for at in [0, 2] {
        let range = store.range("/r/", Some(Revision(at)), None, 9).await.map(|page| show(&page));
        assert!(matches!(range, Err(Error::Compacted { oldest: Revision(3) })), "range at {at}: {range:?}");
        let history = store.history("/r/", Revision(at), 9).await;
        assert!(matches!(history, Err(Error::Compacted { oldest: Revision(3) })), "history after {at}: {history:?}");
        let watch = match store.watch("/r/", Revision(at)).await {
            Ok(mut watch) => next(&mut watch).await.map(drop),
            Err(error) => Err(error),
        };
        assert!(matches!(watch, Err(Error::Compacted { oldest: Revision(3) })), "watch after {at}: {watch:?}");
    }
    // The oldest that is kept is whole: its values and what later commits replaced.
    check_range(store, "/r/", Some(3), None, 9, "/r/a=2@3 /r/b=1@2 @3").await;
    let mut watch = store.watch("/r/", Revision(3)).await.unwrap();
    check_watch(&mut watch, &["4 /r/b=- was 1@2", "5 /r/a=3 was 2@3"]).await;
    store.compact(Revision(5)).await.unwrap();
    check_range(store, "/r/", None, None, 9, "/r/a=3@5 @5").await;
    put(store, "/r/a", "4").await;
    put(store, "/r/b", "2").await;
    check_watch(&mut watch, &["6 /r/a=4 was 3@5", "7 /r/b=2"]).await;
    check_range(store, "/r/", Some(5), None, 9, "/r/a=3@5 @5").await;
    let future = store.compact(Revision(8)).await;
    assert!(matches!(future, Err(Error::Future { latest: Revision(7) })), "{future:?}");
}

async fn history_is_read_in_steps(store: &dyn Store) {
    for n in 0..5 {
        put(store, if n % 2 == 0 { "/r/a" } else { "/q/a" }, "v").await;
    }
    let (mut through, mut seen) = (Revision(0), Vec::new());
    while through < Revision(5) {
        let history = store.history("/r/", through, 1).await.unwrap();
        assert!(history.through > through && history.events.len() <= 1);
        seen.extend(history.events.iter().map(|event| event.revision.0));
        through = history.through;
    }
    assert_eq!(seen, [1, 3, 5]);
    let rest = store.history("/r/", Revision(5), 1).await.unwrap();
    assert!(rest.events.is_empty() && rest.through == Revision(5));
}

async fn the_future_is_not_known(store: &dyn Store) {
    put(store, "/a", "1").await;
    let range = store.range("/", Some(Revision(2)), None, 9).await.map(|page| show(&page));
    assert!(matches!(range, Err(Error::Future { latest: Revision(1) })), "{range:?}");
    let watch = store.watch("/", Revision(2)).await.map(drop);
    assert!(matches!(watch, Err(Error::Future { latest: Revision(1) })), "{watch:?}");
    let history = store.history("/", Revision(2), 1).await;
    assert!(matches!(history, Err(Error::Future { latest: Revision(1) })), "{history:?}");
}

async fn no_update_is_lost_between_writers(store: Arc<dyn Store>) {
    const WRITERS: u64 = 16;
    const ROUNDS: u64 = 20;
    put(&*store, "/n", "0").await;
    let writers = (0..WRITERS).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            for _ in 0..ROUNDS {
                let mut held = store.get("/n").await.unwrap().unwrap();
                loop {
                    let count: u64 = std::str::from_utf8(&held.value).unwrap().parse().unwrap();
                    let change = Change::Put((count + 1).to_string().into());
                    match store.commit("/n", Precondition::At(held.revision), change).await {
                        Ok(_) => break,
                        Err(Error::Precondition { current: Some(current), .. }) => held = current,
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let end = show_item(&store.get("/n").await.unwrap().unwrap());
    assert_eq!(end, format!("/n={}@{}", WRITERS * ROUNDS, WRITERS * ROUNDS + 1));
}

async fn concurrent_commits_are_seen_once_in_order(store: Arc<dyn Store>) {
    const WRITERS: usize = 32;
    const EACH: usize = 40;
    let mut watch = store.watch("/", Revision(0)).await.unwrap();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for n in 0..EACH {
                    let key = format!("/{writer}/{n}");
                    acknowledged.push((put(&*store, &key, "v").await, key));
                }
                acknowledged
            })
        })
        .collect();
    let mut seen = BTreeMap::new();
    for expected in 1..=(WRITERS * EACH) as u64 {
        let event = next(&mut watch).await.unwrap();
        assert_eq!(event.revision, Revision(expected));
        seen.insert(event.revision, event.key.to_string());
    }
    let mut acknowledged = BTreeMap::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    assert_eq!(acknowledged, seen);
}
