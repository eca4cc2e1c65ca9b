//! What reads see: writes that were acknowledged, snapshots that stay, collections that come and go.

use std::sync::Arc;
use std::time::Duration;

use crate::support::*;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use wharf_cache::{Cache, Collection, Error, Snapshot};
use wharf_store::sealed::{Identity, Rule, Sealed};
use wharf_store::{Change, MemoryStore, Options, Precondition, RedbStore, Revision, Store};

fn names(snapshot: &Snapshot) -> String {
    let names: Vec<_> =
        snapshot.objects.values().map(|entry| format!("{}@{}", &entry.key[PODS.len()..], entry.revision)).collect();
    format!("{} @{}", names.join(" "), snapshot.revision)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledged_write_is_read_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = RedbStore::open(folder.path().join("store.redb"), Options::default()).unwrap();
    let running = Arc::new(Running::on(Arc::new(store)).await);
    let writers: Vec<_> = (0..64)
        .map(|writer| {
            let running = running.clone();
            tokio::spawn(async move {
                for n in 0..20 {
                    let name = format!("w{writer}-{}", n % 3);
                    let committed = running.put(&name, "web", &n.to_string()).await;
                    let read = running.pods.get(&key(&name)).unwrap();
                    assert_eq!(read.revision, committed.revision);
                    assert!(Arc::ptr_eq(&read, &committed.entry));
                    let snapshot = running.pods.snapshot();
                    assert!(snapshot.revision >= committed.revision);
                    assert_eq!(snapshot.get(&key(&name)).unwrap().revision, committed.revision);
                    assert!(snapshot.objects.values().all(|entry| entry.revision <= snapshot.revision));
                }
                let name = format!("w{writer}-0");
                let deleted = running.delete(&name).await;
                assert_eq!(deleted.entry.revision, deleted.revision);
                assert!(running.pods.get(&key(&name)).is_none());
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(running.pods.len(), 64 * 2);
}

#[tokio::test]
async fn a_conflict_tells_what_is_there() {
    let running = Running::in_memory().await;
    let first = running.put("a", "web", "").await;
    let second = running.put("a", "db", "").await;
    let commit = |precondition| running.cache.commit("/registry/pods/default/a", precondition, pod("a", "x", ""));
    for precondition in [Precondition::Absent, Precondition::At(first.revision)] {
        match commit(precondition).await {
            Err(Error::Conflict { current: Some(current) }) => assert!(Arc::ptr_eq(&current, &second.entry)),
            other => panic!("{other:?}"),
        }
    }
    let absent = running.cache.commit(&key("b"), Precondition::Present, Change::Delete).await;
    assert!(matches!(absent, Err(Error::Conflict { current: None })), "{absent:?}");
    assert!(commit(Precondition::At(second.revision)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_update_is_lost_through_the_cache() {
    let running = Arc::new(Running::in_memory().await);
    running.put("n", "0", "").await;
    let writers: Vec<_> = (0..16)
        .map(|_| {
            let running = running.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    let mut held = running.pods.get(&key("n")).unwrap();
                    loop {
                        let count: u32 = held.indexed.labels["app"].parse().unwrap();
                        let change = pod("n", &(count + 1).to_string(), "");
                        match running.cache.commit(&key("n"), Precondition::At(held.revision), change).await {
                            Ok(_) => break,
                            Err(Error::Conflict { current: Some(current) }) => held = current,
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(running.pods.get(&key("n")).unwrap().indexed.labels["app"], "320");
}

#[tokio::test]
async fn a_snapshot_never_changes_and_an_old_one_can_be_had_again() {
    let running = Running::in_memory().await;
    running.put("b", "web", "").await;
    running.put("a", "web", "").await;
    let snapshot = running.pods.snapshot();
    running.put("a", "db", "").await;
    running.delete("b").await;
    running.put("c", "web", "").await;
    assert_eq!(names(&snapshot), "default/a@2 default/b@1 @2");
    for (at, expected) in [
        (0, " @0"),
        (1, "default/b@1 @1"),
        (2, "default/a@2 default/b@1 @2"),
        (3, "default/a@3 default/b@1 @3"),
        (4, "default/a@3 @4"),
        (5, "default/a@3 default/c@5 @5"),
    ] {
        assert_eq!(names(&running.pods.snapshot_at(Revision(at)).await.unwrap()), expected);
    }
    let future = running.pods.snapshot_at(Revision(6)).await.map(|_| ());
    assert!(matches!(future, Err(Error::Future { .. })), "{future:?}");
}

#[tokio::test]
async fn pages_come_from_the_revision_of_the_first() {
    let store = Arc::new(MemoryStore::new());
    let running = Running::on(store.clone()).await;
    for n in 0..10 {
        running.put(&format!("p{n}"), "web", "").await;
    }
    let first = running.pods.snapshot();
    running.pods.pin(&first);
    // More than the ring holds; and then the store forgets as well.
    for n in 0..5000 {
        running.put(&format!("p{}", n % 20), "db", "").await;
    }
    store.compact(running.cache.revision()).await.unwrap();
    let again = running.pods.snapshot_at(first.revision).await.unwrap();
    assert_eq!(names(&again), names(&first));
    let page: Vec<_> =
        again.select(&filter("", "app=web", ""), Some(&key("p3"))).take(2).map(|entry| entry.key.to_string()).collect();
    assert_eq!(page, [key("p4"), key("p5")]);
    assert_eq!(again.count("", Some(&key("p5"))), 4);
    let gone = running.pods.snapshot_at(Revision(9)).await.map(|_| ());
    assert!(matches!(gone, Err(Error::Expired { .. })), "{gone:?}");
}

#[tokio::test]
async fn an_old_snapshot_is_read_from_the_store_when_the_ring_has_moved_on() {
    let running = Running::in_memory().await;
    for n in 0..10 {
        running.put(&format!("p{n}"), "web", "").await;
    }
    let first = names(&running.pods.snapshot());
    for n in 0..5000 {
        running.put(&format!("p{}", n % 20), "db", "").await;
    }
    assert_eq!(names(&running.pods.snapshot_at(Revision(10)).await.unwrap()), first);
}

#[tokio::test]
async fn a_list_carries_the_newest_revision_of_all_collections() {
    let running = Running::in_memory().await;
    let nodes = running.cache.collection("/registry/minions/", Arc::new(PodIndex)).await.unwrap();
    running.put("a", "web", "").await;
    let node = running.cache.commit("/registry/minions/n1", Precondition::Absent, pod("n1", "", "")).await.unwrap();
    assert_eq!(names(&running.pods.snapshot()), "default/a@1 @2");
    assert_eq!(nodes.snapshot().revision, node.revision);
    assert_eq!(running.cache.revision(), Revision(2));
}

#[tokio::test]
async fn a_key_outside_every_collection_can_be_written() {
    let running = Running::in_memory().await;
    let committed =
        running.cache.commit("/registry/ranges/a", Precondition::Absent, Change::Put("{}".into())).await.unwrap();
    assert_eq!(committed.entry.bytes, r#"{"metadata":{"resourceVersion":"1"}}"#);
    assert_eq!(running.cache.revision(), Revision(1));
}

#[tokio::test]
async fn a_reader_can_wait_for_a_revision() {
    let running = Running::in_memory().await;
    let too_new = running.cache.wait_for(Revision(1), Duration::from_millis(1)).await;
    assert_eq!(too_new.unwrap_err().to_string(), "Too large resource version: 1, current: 0");
    let waiting = tokio::spawn({
        let cache = running.cache.clone();
        async move { cache.wait_for(Revision(1), DEADLINE).await }
    });
    running.put("a", "web", "").await;
    waiting.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_joins_at_run_time_without_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..10 {
        let store = RedbStore::open(folder.path().join(format!("{round}.redb")), Options::default()).unwrap();
        let running = Running::on(Arc::new(store)).await;
        let (cache, prefix) = (running.cache.clone(), "/registry/example.com/widgets/");
        let write = |writer: usize, cache: Arc<Cache>| async move {
            for n in 0..60 {
                // A key of its own for each, so that nothing later hides a loss; one in seven deletes the one before.
                let (delete, n) = if n % 7 == 6 { (true, n - 1) } else { (false, n) };
                let key = format!("{prefix}default/w{writer}-{n}");
                let change = if delete { Change::Delete } else { pod("w", &n.to_string(), "") };
                match cache.commit(&key, Precondition::Any, change).await {
                    Ok(_) | Err(Error::Conflict { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        };
        let writers: Vec<_> = (0..16).map(|writer| tokio::spawn(write(writer, cache.clone()))).collect();
        // In the midst of it.
        running.cache.wait_for(Revision(100), DEADLINE).await.unwrap();
        let join = |cache: Arc<Cache>| async move { cache.collection(prefix, Arc::new(PodIndex)).await.unwrap() };
        let joins: Vec<_> = (0..3).map(|_| tokio::spawn(join(cache.clone()))).collect();
        let mut joined: Vec<Arc<Collection>> = Vec::new();
        for join in joins {
            joined.push(join.await.unwrap());
        }
        assert!(joined.iter().all(|one| Arc::ptr_eq(one, &joined[0])));
        for writer in writers {
            writer.await.unwrap();
        }
        let truth = cache.store().range(prefix, None, None, usize::MAX).await.unwrap();
        let truth: Vec<_> = truth.items.iter().map(|item| (item.key.clone(), item.revision)).collect();
        let cached: Vec<_> =
            joined[0].snapshot().objects.values().map(|entry| (entry.key.clone(), entry.revision)).collect();
        assert_eq!(cached, truth);
    }
}

#[tokio::test]
async fn one_value_that_does_not_open_leaves_the_rest_within_reach() {
    let inner = Arc::new(MemoryStore::new());
    let rule = Rule { prefix: PODS.to_owned(), providers: Arc::new(vec![Box::new(Identity)]) };
    let cache = Cache::open(Arc::new(Sealed::new(inner.clone(), vec![rule]))).await.unwrap();
    let feeding = cache.clone();
    let _task = AbortOnDropHandle::new(tokio::spawn(async move { feeding.run(CancellationToken::new()).await }));
    put(&cache, "fine", "web", "n").await;
    put(&cache, "other/also-fine", "web", "n").await;
    inner.commit(&key("broken"), Precondition::Any, Change::Put("k8s:enc:lost".into())).await.unwrap();
    let is_sealed = |error: &Error| matches!(error, Error::Store(wharf_store::Error::Transform { key: at, .. }) if *at == key("broken"));
    let index = || Arc::new(PodIndex);
    assert!(cache.collection(PODS, index()).await.is_err_and(|error| is_sealed(&error)));

    let keys = cache.glimpse(PODS, index(), None).await.unwrap();
    assert_eq!(keys.read(&key("fine")).await.unwrap().expect("it is there").key.as_ref(), key("fine"));
    assert!(keys.read(&key("nowhere")).await.unwrap().is_none());
    assert!(keys.read(&key("broken")).await.is_err_and(|error| is_sealed(&error)));
    let other = cache.glimpse(PODS, index(), Some("/registry/pods/other/")).await.unwrap();
    let seen = other.snapshot();
    assert_eq!((seen.objects.len(), seen.revision), (1, cache.store().revision().await.unwrap()));
    assert!(cache.glimpse(PODS, index(), Some(PODS)).await.is_err_and(|error| is_sealed(&error)));

    // Writes are acknowledged, and a glimpse tells of its own moment.
    put(&cache, "other/more", "web", "n").await;
    assert_eq!((other.snapshot().objects.len(), other.snapshot().revision), (1, seen.revision));
    assert!(keys.read(&key("other/more")).await.unwrap().is_some());
    inner.commit(&key("broken"), Precondition::Any, Change::Delete).await.unwrap();
    let whole = cache.collection(PODS, index()).await.unwrap();
    assert_eq!(whole.len(), 3);
}
