//! A cache over a store, with pods whose spec is a node's name.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use wharf_cache::{Cache, Collection, Committed, Delivery, Error, Filter, Index, Indexed, Item, Watch};
use wharf_machinery::selector::{FieldSelector, LabelSelector};
use wharf_store::{Change, MemoryStore, Precondition, Revision, Store};

pub const PODS: &str = "/registry/pods/";
/// Long enough for any step on a machine that is busy with other things.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Labels, name, namespace and `spec.nodeName`.
pub struct PodIndex;

impl Index for PodIndex {
    fn index(&self, bytes: &[u8]) -> Indexed {
        let object: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
        let labels = labels.into_iter().flatten();
        Indexed {
            labels: labels.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect(),
            fields: BTreeMap::from([
                ("metadata.name".into(), text("/metadata/name")),
                ("metadata.namespace".into(), text("/metadata/namespace")),
                ("spec.nodeName".into(), text("/spec/nodeName")),
            ]),
        }
    }
}

/// A running cache; it stops with this.
pub struct Running {
    pub cache: Arc<Cache>,
    pub pods: Arc<Collection>,
    _task: AbortOnDropHandle<()>,
}

impl Running {
    pub async fn on(store: Arc<dyn Store>) -> Self {
        let cache = Cache::open(store).await.unwrap();
        let task = tokio::spawn({
            let cache = cache.clone();
            async move { cache.run(CancellationToken::new()).await }
        });
        let pods = cache.collection(PODS, Arc::new(PodIndex)).await.unwrap();
        Self { cache, pods, _task: AbortOnDropHandle::new(task) }
    }

    pub async fn in_memory() -> Self {
        Self::on(Arc::new(MemoryStore::new())).await
    }

    /// Writes a pod whatever is there.
    pub async fn put(&self, name: &str, app: &str, node: &str) -> Committed {
        put(&self.cache, name, app, node).await
    }

    pub async fn delete(&self, name: &str) -> Committed {
        self.cache.commit(&key(name), Precondition::Present, Change::Delete).await.unwrap()
    }
}

pub async fn put(cache: &Cache, name: &str, app: &str, node: &str) -> Committed {
    cache.commit(&key(name), Precondition::Any, pod(name, app, node)).await.unwrap()
}

/// `namespace/name`, in the namespace `default` if none is given.
pub fn key(name: &str) -> String {
    if name.contains('/') { format!("{PODS}{name}") } else { format!("{PODS}default/{name}") }
}

pub fn pod(name: &str, app: &str, node: &str) -> Change {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    let metadata = json!({"name": name, "namespace": namespace, "labels": {"app": app}});
    // As the encoder of the API server orders it.
    let text = format!(r#"{{"apiVersion":"v1","kind":"Pod","metadata":{metadata},"spec":{{"nodeName":"{node}"}}}}"#);
    Change::Put(text.into())
}

pub fn filter(key_prefix: &str, labels: &str, fields: &str) -> Filter {
    Filter {
        key_prefix: key_prefix.to_owned(),
        labels: LabelSelector::parse(labels).unwrap(),
        fields: FieldSelector::parse(fields).unwrap(),
    }
}

pub async fn next(watch: &mut Watch) -> Option<Result<Item, Error>> {
    tokio::time::timeout(DEADLINE, watch.next()).await.expect("an item in time")
}

pub async fn next_event(watch: &mut Watch) -> Delivery {
    match next(watch).await {
        Some(Ok(Item::Event(delivery))) => delivery,
        other => panic!("not an event: {other:?}"),
    }
}

/// `ADDED default/a app@node @3`, checked against the frame.
pub fn show(item: &Item) -> String {
    let delivery = match item {
        Item::InitialEventsEnd(revision) => return format!("END @{revision}"),
        Item::Event(delivery) => delivery,
    };
    let frame = delivery.frame();
    let frame: Value = serde_json::from_slice(frame.strip_suffix(b"\n").expect("a line")).expect("a frame is JSON");
    let object: Value = serde_json::from_slice(&delivery.entry.bytes).expect("an object is JSON");
    assert_eq!(frame["type"], delivery.kind.as_str());
    assert_eq!(frame["object"], object);
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or("?").to_owned();
    assert_eq!(text("/metadata/resourceVersion"), delivery.entry.revision.to_string());
    format!(
        "{} {}/{} {}@{} @{}",
        delivery.kind.as_str(),
        text("/metadata/namespace"),
        text("/metadata/name"),
        text("/metadata/labels/app"),
        text("/spec/nodeName"),
        delivery.entry.revision
    )
}

/// The next items are these, and only then the pod that marks the end.
pub async fn check_watch(watch: &mut Watch, expected: &[&str]) {
    for expected in expected {
        match next(watch).await {
            Some(Ok(item)) => assert_eq!(show(&item), *expected),
            other => panic!("{other:?} instead of {expected}"),
        }
    }
}

pub async fn check_expired(watch: &mut Watch, asked: u64) {
    match next(watch).await {
        Some(Err(Error::Expired { asked: found, .. })) => assert_eq!(found, Revision(asked)),
        other => panic!("not expired: {other:?}"),
    }
    assert!(next(watch).await.is_none());
}
