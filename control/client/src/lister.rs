//! The shared, read-only view of all objects of a kind.
//!
//! Written by the kind's one informer, in watch order; read by any number of users, who share the objects by `Arc`.
//! Invariants: indexes and subscribers change under the same lock as the objects, so a subscriber that starts with the present
//! objects misses nothing and sees nothing twice; a reader sees the world as of one revision, though an older one than the server's.
//! `metadata.managedFields` is dropped on the way in, and what else nobody needs: see [`wharf_types::lean`].
//! Writing an object back without it keeps what the server has.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Weak};

use kube::runtime::watcher::Event;
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::index::{Index, IndexState};
use crate::key::ObjectKey;
use crate::subscription::{self, Changes, Pending};

/// A kind that can be watched: any of k8s-openapi's.
pub trait Informed:
    kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

impl<K> Informed for K where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

/// A cheap handle on the shared view; get one from [`crate::Informers::of`].
pub struct Lister<K> {
    pub(crate) shared: Arc<Shared<K>>,
}

impl<K> Clone for Lister<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

pub(crate) struct Shared<K> {
    store: RwLock<Store<K>>,
    /// Follows `store.progress`, for those who wait.
    progress: watch::Sender<Progress>,
}

/// How far the view has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The newest resource version that was seen on an object.
    pub observed: u64,
    /// How many times the whole collection was listed; 0 before the first list is complete.
    pub lists: u64,
}

struct Store<K> {
    objects: BTreeMap<ObjectKey, Arc<K>>,
    /// The first is the index by owner's UID.
    indexes: Vec<IndexState<K>>,
    subscribers: Vec<Weak<Pending<K>>>,
    /// A list that is arriving.
    arriving: Option<BTreeMap<ObjectKey, Arc<K>>>,
    progress: Progress,
    closed: bool,
}

const OWNER_INDEX: usize = 0;

impl<K: Informed> Lister<K> {
    pub(crate) fn new() -> Self {
        let store = Store {
            objects: BTreeMap::new(),
            indexes: vec![IndexState::new(Box::new(owner_uids))],
            subscribers: Vec::new(),
            arriving: None,
            progress: Progress::default(),
            closed: false,
        };
        Self { shared: Arc::new(Shared { store: RwLock::new(store), progress: watch::Sender::default() }) }
    }

    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.shared.store.read().objects.get(key).cloned()
    }

    /// All objects, sorted by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.store.read().objects.values().cloned().collect()
    }

    /// The objects of one namespace, sorted by name.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        let first = ObjectKey::new(namespace, "");
        let store = self.shared.store.read();
        let of_namespace = store.objects.range(first..).take_while(|(key, _)| &*key.namespace == namespace);
        of_namespace.map(|(_, object)| object.clone()).collect()
    }

    /// Objects with an owner reference to this UID.
    pub fn by_owner(&self, uid: &str) -> Vec<Arc<K>> {
        self.indexed(OWNER_INDEX, uid)
    }

    pub fn len(&self) -> usize {
        self.shared.store.read().objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an index over `values_of`, which must be pure and quick: it runs under the view's lock.
    pub fn index(&self, values_of: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) -> Index<K> {
        let mut index = IndexState::new(Box::new(values_of));
        let mut store = self.shared.store.write();
        for (key, object) in &store.objects {
            index.replace(key, None, Some(object));
        }
        store.indexes.push(index);
        Index { lister: self.clone(), slot: store.indexes.len() - 1 }
    }

    pub(crate) fn indexed(&self, slot: usize, value: &str) -> Vec<Arc<K>> {
        let store = self.shared.store.read();
        let keys = store.indexes[slot].keys(value).into_iter().flatten();
        keys.filter_map(|key| store.objects.get(key).cloned()).collect()
    }

    pub(crate) fn indexed_count(&self, slot: usize, value: &str) -> usize {
        self.shared.store.read().indexes[slot].keys(value).map_or(0, |keys| keys.len())
    }

    /// Every object that is here, as new, and then each change. Ends when the informers stop.
    pub fn subscribe(&self) -> Changes<K> {
        let (writer, reader) = subscription::channel();
        let mut store = self.shared.store.write();
        if let Some(pending) = writer.upgrade() {
            for (key, object) in &store.objects {
                pending.push(key, None, Some(object));
            }
            if store.closed {
                pending.close();
            }
        }
        store.subscribers.push(writer);
        reader
    }

    /// Resolves when the first list is complete. Never resolves if the informers are stopped before that.
    pub async fn synced(&self) {
        self.wait(|progress| progress.lists > 0).await;
    }

    pub fn is_synced(&self) -> bool {
        self.progress().lists > 0
    }

    /// The newest resource version that this view has seen.
    pub fn observed(&self) -> u64 {
        self.progress().observed
    }

    /// Resolves when a write that was answered with `resource_version` shows here.
    pub async fn seen(&self, resource_version: u64) {
        let lists = self.progress().lists;
        // A list that began before the write may complete after it; the one after that cannot miss it.
        self.wait(|progress| progress.observed >= resource_version || progress.lists >= lists + 2).await;
    }

    pub(crate) fn progress(&self) -> Progress {
        self.shared.store.read().progress
    }

    async fn wait(&self, done: impl FnMut(&Progress) -> bool) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.shared.progress.subscribe().wait_for(done).await;
    }
}

impl<K: Informed> Shared<K> {
    /// Takes one step of the watch.
    pub(crate) fn apply(&self, event: Event<K>) {
        let mut store = self.store.write();
        let mut version = 0;
        let mut listed = false;
        match event {
            Event::Init => store.arriving = Some(BTreeMap::new()),
            Event::InitApply(object) => {
                version = version_of(&object);
                let (key, object) = strip(object);
                store.arriving.get_or_insert_default().insert(key, object);
            }
            Event::InitDone => {
                let arrived = store.arriving.take().unwrap_or_default();
                store.replace_all(arrived);
                listed = true;
            }
            Event::Apply(object) => {
                version = version_of(&object);
                let (key, object) = strip(object);
                store.put(key, Some(object));
            }
            Event::Delete(object) => {
                version = version_of(&object);
                store.put(ObjectKey::of(&object), None);
            }
        }
        // Objects of an arriving list are not visible before its end, so neither is their version.
        let arriving = store.arriving.is_some();
        if listed {
            version = store.objects.values().map(|object| version_of(&**object)).max().unwrap_or_default();
        }
        if arriving {
            return;
        }
        store.progress.observed = store.progress.observed.max(version);
        store.progress.lists += u64::from(listed);
        let progress = store.progress;
        drop(store);
        self.progress.send_if_modified(|shown| std::mem::replace(shown, progress) != progress);
    }

    pub(crate) fn close(&self) {
        let mut store = self.store.write();
        store.closed = true;
        for subscriber in store.subscribers.drain(..).filter_map(|subscriber| subscriber.upgrade()) {
            subscriber.close();
        }
    }
}

impl<K: Informed> Store<K> {
    fn replace_all(&mut self, arrived: BTreeMap<ObjectKey, Arc<K>>) {
        let gone: Vec<ObjectKey> = self.objects.keys().filter(|key| !arrived.contains_key(key)).cloned().collect();
        for key in gone {
            self.put(key, None);
        }
        for (key, object) in arrived {
            let known = self.objects.get(&key).is_some_and(|old| {
                old.meta().resource_version == object.meta().resource_version && old.meta().uid == object.meta().uid
            });
            if !known {
                self.put(key, Some(object));
            }
        }
    }

    fn put(&mut self, key: ObjectKey, new: Option<Arc<K>>) {
        let old = match &new {
            Some(new) => self.objects.insert(key.clone(), new.clone()),
            None => self.objects.remove(&key),
        };
        if old.is_none() && new.is_none() {
            return;
        }
        for index in &mut self.indexes {
            index.replace(&key, old.as_deref(), new.as_deref());
        }
        self.subscribers.retain(|subscriber| {
            let Some(pending) = subscriber.upgrade() else { return false };
            pending.push(&key, old.as_ref(), new.as_ref());
            true
        });
    }
}

fn strip<K: Informed>(mut object: K) -> (ObjectKey, Arc<K>) {
    wharf_types::lean(&mut object, K::meta_mut);
    (ObjectKey::of(&object), Arc::new(object))
}

fn owner_uids<K: Informed>(object: &K) -> Vec<String> {
    object.meta().owner_references.iter().flatten().map(|owner| owner.uid.clone()).collect()
}

/// Resource versions are integers and compare as such, here and, since v1.35, upstream by promise.
pub(crate) fn version_of(object: &impl kube::Resource) -> u64 {
    object.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_types::k8s::api::core::v1::ConfigMap;
    use wharf_types::meta::{ObjectMeta, OwnerReference};

    fn config_map(name: &str, version: u64, owner: &str) -> ConfigMap {
        let owner = OwnerReference { uid: owner.to_owned(), ..OwnerReference::default() };
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(name[..1].to_owned()),
                resource_version: Some(version.to_string()),
                owner_references: Some(vec![owner]),
                ..ObjectMeta::default()
            },
            ..ConfigMap::default()
        }
    }

    fn lister(events: impl IntoIterator<Item = Event<ConfigMap>>) -> Lister<ConfigMap> {
        let lister = Lister::new();
        events.into_iter().for_each(|event| lister.shared.apply(event));
        lister
    }

    fn check(objects: &[Arc<ConfigMap>], expected: &str) {
        let names: Vec<&str> = objects.iter().filter_map(|object| object.metadata.name.as_deref()).collect();
        assert_eq!(names.join(" "), expected);
    }

    #[test]
    fn a_list_shows_when_it_is_complete_and_drops_what_it_lacks() {
        let lister = lister([Event::Init, Event::InitApply(config_map("a1", 5, "x"))]);
        check(&lister.list(), "");
        assert_eq!((lister.is_synced(), lister.observed()), (false, 0));
        lister.shared.apply(Event::InitDone);
        check(&lister.list(), "a1");
        assert_eq!((lister.is_synced(), lister.observed()), (true, 5));
        for event in [Event::Init, Event::InitApply(config_map("b1", 7, "x")), Event::InitDone] {
            lister.shared.apply(event);
        }
        check(&lister.list(), "b1");
    }

    #[test]
    fn indexes_follow_changes() {
        let lister = lister([Event::Apply(config_map("a1", 1, "x")), Event::Apply(config_map("b1", 2, "y"))]);
        let by_initial = lister.index(|object| vec![object.metadata.name.clone().unwrap_or_default()[..1].to_owned()]);
        check(&lister.by_owner("x"), "a1");
        lister.shared.apply(Event::Apply(config_map("a1", 3, "y")));
        lister.shared.apply(Event::Apply(config_map("a2", 4, "y")));
        check(&lister.by_owner("x"), "");
        check(&lister.by_owner("y"), "a1 a2 b1");
        check(&by_initial.get("a"), "a1 a2");
        check(&lister.list_in("a"), "a1 a2");
        lister.shared.apply(Event::Delete(config_map("a1", 5, "y")));
        check(&by_initial.get("a"), "a2");
        assert_eq!(by_initial.count("b"), 1);
    }

    #[tokio::test]
    async fn a_subscriber_starts_with_what_is_here() {
        let lister = lister([Event::Apply(config_map("a1", 1, "x"))]);
        let mut changes = lister.subscribe();
        lister.shared.apply(Event::Delete(config_map("b1", 2, "x")));
        lister.shared.apply(Event::Apply(config_map("c1", 3, "x")));
        assert_eq!(changes.next().await.map(|changed| changed.key), Some(ObjectKey::new("a", "a1")));
        assert_eq!(changes.next().await.map(|changed| changed.key), Some(ObjectKey::new("c", "c1")));
        lister.shared.close();
        assert!(changes.next().await.is_none());
    }

    #[tokio::test]
    async fn a_write_counts_as_seen_when_its_version_or_a_second_list_arrives() {
        let lister = lister([Event::Apply(config_map("a1", 1, "x"))]);
        lister.seen(1).await;
        let waiting = tokio::spawn({
            let lister = lister.clone();
            async move { lister.seen(100).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        for event in [Event::Init, Event::InitDone, Event::Init, Event::InitDone] {
            lister.shared.apply(event);
        }
        waiting.await.expect("seen");
    }
}
