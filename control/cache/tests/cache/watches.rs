//! What watchers see: selections, initial events, resumption, bookmarks, ends.

use std::sync::Arc;
use std::time::Duration;

use crate::support::*;
use wharf_cache::{Error, EventType, Item, Start};
use wharf_store::{MemoryStore, Options, RedbStore, Revision, Store};

/// The same little history for every filter: what does a watcher of it see, live and in replay?
async fn check(key_prefix: &str, labels: &str, fields: &str, expected: &[&str]) {
    let running = Running::in_memory().await;
    let start = running.cache.revision();
    let mut live = running.pods.watch(Start::Now, filter(key_prefix, labels, fields)).unwrap();
    running.put("a", "web", "").await; // 1
    running.put("other/a", "web", "n2").await; // 2
    running.put("a", "web", "n1").await; // 3
    running.put("a", "db", "n1").await; // 4
    running.put("b", "db", "n2").await; // 5
    running.put("a", "web", "n2").await; // 6
    running.delete("b").await; // 7
    running.delete("a").await; // 8
    running.put("aa", "web", "").await; // 9
    check_watch(&mut live, expected).await;
    let mut replayed = running.pods.watch(Start::After(start), filter(key_prefix, labels, fields)).unwrap();
    check_watch(&mut replayed, expected).await;
    // Nothing else was on its way.
    for watch in [&mut live, &mut replayed] {
        let more = tokio::time::timeout(Duration::from_millis(1), watch.next()).await;
        assert!(more.is_err(), "{more:?}");
        assert_eq!(watch.progress(), Revision(9));
    }
}

#[tokio::test]
async fn a_watch_without_a_filter_sees_all() {
    let all = [
        "ADDED default/a web@ @1",
        "ADDED other/a web@n2 @2",
        "MODIFIED default/a web@n1 @3",
        "MODIFIED default/a db@n1 @4",
        "ADDED default/b db@n2 @5",
        "MODIFIED default/a web@n2 @6",
        "DELETED default/b db@n2 @7",
        "DELETED default/a web@n2 @8",
        "ADDED default/aa web@ @9",
    ];
    check("", "", "", &all).await;
    check(PODS, "", "", &all).await;
    check("/registry/", "", "", &all).await;
}

#[tokio::test]
async fn an_object_that_enters_or_leaves_the_selection_is_added_or_deleted() {
    check(
        "",
        "app=web",
        "",
        &[
            "ADDED default/a web@ @1",
            "ADDED other/a web@n2 @2",
            "MODIFIED default/a web@n1 @3",
            "DELETED default/a web@n1 @4",
            "ADDED default/a web@n2 @6",
            "DELETED default/a web@n2 @8",
            "ADDED default/aa web@ @9",
        ],
    )
    .await;
    check("", "app=web", "spec.nodeName=n1", &["ADDED default/a web@n1 @3", "DELETED default/a web@n1 @4"]).await;
}

#[tokio::test]
async fn a_field_that_is_a_trigger_selects_as_any_other() {
    check(
        "",
        "",
        "spec.nodeName=n1",
        &["ADDED default/a web@n1 @3", "MODIFIED default/a db@n1 @4", "DELETED default/a db@n1 @6"],
    )
    .await;
    check(
        "",
        "",
        "spec.nodeName=",
        &["ADDED default/a web@ @1", "DELETED default/a web@ @3", "ADDED default/aa web@ @9"],
    )
    .await;
    check("", "", "metadata.name=b", &["ADDED default/b db@n2 @5", "DELETED default/b db@n2 @7"]).await;
    check("", "", "metadata.name=b,spec.nodeName!=n2", &[]).await;
}

#[tokio::test]
async fn a_namespace_and_one_key_select_no_more_than_they_say() {
    check("/registry/pods/other/", "", "", &["ADDED other/a web@n2 @2"]).await;
    check("/registry/pods/oth/", "", "", &[]).await;
    let a = [
        "ADDED default/a web@ @1",
        "MODIFIED default/a web@n1 @3",
        "MODIFIED default/a db@n1 @4",
        "MODIFIED default/a web@n2 @6",
        "DELETED default/a web@n2 @8",
    ];
    check("/registry/pods/default/a", "", "", &a).await;
    check("/registry/pods/default/", "", "metadata.name=a", &a).await;
}

#[tokio::test]
async fn initial_events_come_first_and_end_with_a_mark() {
    let running = Running::in_memory().await;
    for n in 0..600 {
        running.put(&format!("p{n:03}"), if n % 2 == 0 { "web" } else { "db" }, "").await;
    }
    let mut watch = running.pods.watch(Start::InitialEvents, filter("", "app=web", "")).unwrap();
    running.put("p000", "web", "n1").await;
    for n in (0..600).step_by(2) {
        assert_eq!(watch.progress(), Revision(0), "a bookmark before the initial events are over");
        check_watch(&mut watch, &[&format!("ADDED default/p{n:03} web@ @{}", n + 1)]).await;
    }
    check_watch(&mut watch, &["END @600", "MODIFIED default/p000 web@n1 @601"]).await;
    let mut none = running.pods.watch(Start::InitialEvents, filter("", "app=none", "")).unwrap();
    check_watch(&mut none, &["END @601"]).await;
}

#[tokio::test]
async fn a_watch_from_a_revision_to_come_begins_there() {
    let running = Running::in_memory().await;
    let mut watch = running.pods.watch(Start::After(Revision(2)), filter("", "", "")).unwrap();
    for name in ["a", "b", "c"] {
        running.put(name, "web", "").await;
    }
    check_watch(&mut watch, &["ADDED default/c web@ @3"]).await;
}

#[tokio::test]
async fn frames_are_encoded_once_for_all_watchers() {
    let running = Running::in_memory().await;
    let mut watches: Vec<_> =
        ["", "app=web", "app=web"].map(|labels| running.pods.watch(Start::Now, filter("", labels, "")).unwrap()).into();
    running.put("a", "db", "").await;
    next_event(&mut watches[0]).await;
    running.put("a", "web", "").await;
    running.put("a", "db", "").await;
    for kinds in [
        [EventType::Modified, EventType::Added, EventType::Added],
        [EventType::Modified, EventType::Deleted, EventType::Deleted],
    ] {
        let mut frames = Vec::new();
        let mut tables = 0;
        for (watch, kind) in watches.iter_mut().zip(kinds) {
            let delivery = next_event(watch).await;
            assert_eq!(delivery.kind, kind);
            frames.push(delivery.frame());
            delivery.encoded(1, || {
                tables += 1;
                "table".into()
            });
        }
        assert_eq!(frames[1].as_ptr(), frames[2].as_ptr());
        assert_eq!(tables, 2, "once for each type");
    }
}

#[tokio::test]
async fn bookmarks_move_on_without_matching_events_and_never_past_what_waits() {
    let running = Running::in_memory().await;
    let mut idle = running.pods.watch(Start::Now, filter("", "app=none", "")).unwrap();
    let mut behind = running.pods.watch(Start::Now, filter("", "", "")).unwrap();
    // Until a watch is asked for its first item it has not looked at what there is.
    assert!(tokio::time::timeout(Duration::from_millis(1), idle.next()).await.is_err());
    assert!(tokio::time::timeout(Duration::from_millis(1), behind.next()).await.is_err());
    for name in ["a", "b", "c"] {
        running.put(name, "web", "").await;
    }
    let mut last = running.pods.watch(Start::After(Revision(2)), filter("", "", "")).unwrap();
    next_event(&mut last).await;
    while idle.progress() < Revision(3) {
        tokio::task::yield_now().await;
    }
    assert_eq!(behind.progress(), Revision(0));
    next_event(&mut behind).await;
    assert_eq!(behind.progress(), Revision(1));
    next_event(&mut behind).await;
    next_event(&mut behind).await;
    assert_eq!(behind.progress(), Revision(3));
}

#[tokio::test]
async fn a_dropped_watch_is_forgotten() {
    let running = Running::in_memory().await;
    let watches: Vec<_> = ["", "metadata.name=a", "spec.nodeName=n1"]
        .map(|fields| running.pods.watch(Start::Now, filter("", "", fields)).unwrap())
        .into();
    let one = running.pods.watch(Start::Now, filter(&key("a"), "", "")).unwrap();
    assert_eq!(running.pods.watchers(), 4);
    drop(watches);
    assert_eq!(running.pods.watchers(), 1);
    running.put("a", "web", "n1").await;
    drop(one);
    assert_eq!(running.pods.watchers(), 0);
}

#[tokio::test]
async fn a_removed_collection_ends_its_watches_after_the_last_event() {
    let running = Running::in_memory().await;
    let mut watch = running.pods.watch(Start::Now, filter("", "", "")).unwrap();
    running.put("a", "web", "").await;
    running.cache.remove_collection(PODS);
    check_watch(&mut watch, &["ADDED default/a web@ @1"]).await;
    assert!(next(&mut watch).await.is_none());
    // One who still holds the collection is not left waiting for events that do not come.
    let mut late = running.pods.watch(Start::Now, filter("", "", "")).unwrap();
    assert!(next(&mut late).await.is_none());
    // What is written meanwhile is there when the collection comes back.
    running.put("b", "web", "").await;
    let again = running.cache.collection(PODS, Arc::new(PodIndex)).await.unwrap();
    assert_eq!(again.len(), 2);
}

#[tokio::test]
async fn a_watch_resumes_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Arc::new(RedbStore::open(folder.path().join("store.redb"), Options::default()).unwrap());
    let store = open();
    let running = Running::on(store.clone()).await;
    for n in 0..1000 {
        running.put(&format!("p{}", n % 10), if n % 3 == 0 { "web" } else { "db" }, "n1").await;
    }
    running.delete("p3").await;
    drop(running);
    store.close().await;
    let running = Running::on(open()).await;
    assert_eq!(running.cache.revision(), Revision(1001));
    let mut watch = running.pods.watch(Start::After(Revision(994)), filter("", "app=web", "")).unwrap();
    running.put("p5", "web", "n1").await;
    check_watch(
        &mut watch,
        &[
            "DELETED default/p4 web@n1 @995",
            "ADDED default/p6 web@n1 @997",
            "DELETED default/p7 web@n1 @998",
            "ADDED default/p9 web@n1 @1000",
            "DELETED default/p3 web@n1 @1001",
            "ADDED default/p5 web@n1 @1002",
        ],
    )
    .await;
    let mut all = running.pods.watch(Start::After(Revision(0)), filter("", "", "")).unwrap();
    for expected in 1..=1002 {
        assert_eq!(next_event(&mut all).await.entry.revision, Revision(expected));
    }
}

#[tokio::test]
async fn a_revision_that_is_compacted_is_expired() {
    let store = Arc::new(MemoryStore::new());
    let first = Running::on(store.clone()).await;
    for name in ["a", "b", "c"] {
        first.put(name, "web", "").await;
    }
    drop(first);
    store.compact(Revision(2)).await.unwrap();
    let running = Running::on(store).await;
    let mut gone = running.pods.watch(Start::After(Revision(1)), filter("", "", "")).unwrap();
    check_expired(&mut gone, 1).await;
    let mut kept = running.pods.watch(Start::After(Revision(2)), filter("", "", "")).unwrap();
    check_watch(&mut kept, &["ADDED default/c web@ @3"]).await;
    assert!(matches!(running.pods.snapshot_at(Revision(1)).await, Err(Error::Expired { .. })));
    assert_eq!(running.pods.snapshot_at(Revision(2)).await.unwrap().objects.len(), 2);
}

#[tokio::test]
async fn next_can_be_cancelled_at_any_time() {
    let running = Running::in_memory().await;
    let mut watch = running.pods.watch(Start::InitialEvents, filter("", "", "")).unwrap();
    let mut seen = Vec::new();
    for n in 0..50 {
        running.put(&format!("p{n}"), "web", "").await;
        // Give it up wherever it waits.
        while let Ok(Some(item)) = tokio::time::timeout(Duration::ZERO, watch.next()).await {
            seen.extend(event_revision(item.unwrap()));
        }
    }
    while seen.len() < 50 {
        seen.extend(event_revision(next(&mut watch).await.unwrap().unwrap()));
    }
    assert_eq!(seen, (1..=50).collect::<Vec<_>>());
}

fn event_revision(item: Item) -> Option<u64> {
    match item {
        Item::Event(delivery) => Some(delivery.entry.revision.0),
        Item::InitialEventsEnd(_) => None,
    }
}
