//! The ConfigMaps and Secrets that the node's pods name, each watched by itself.
//!
//! The kubelet's watch-based manager: the first pod that names an object starts a watch of that one object
//! (`metadata.name=<name>`), the last one to go ends it, so a node holds and may read only what its pods use. A change is
//! reported by pod UID, so that volumes follow it. An immutable object is read once.
//! Invariants: [`Source`] answers only for objects that some pod registered; an answer waits for the first list, at most
//! [`OBJECT_WAIT`]. Absent on purpose: other kinds, and any memory of objects that nobody names.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::{WatchStreamExt, watcher::watch_object};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::{Error, OBJECT_WAIT};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    ConfigMap,
    Secret,
}

impl ObjectKind {
    fn word(self) -> &'static str {
        match self {
            ObjectKind::ConfigMap => "configmap",
            ObjectKind::Secret => "secret",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    pub kind: ObjectKind,
    pub namespace: String,
    pub name: String,
}

impl ObjectRef {
    pub fn new(kind: ObjectKind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// Where volumes and environments find objects. `None` is an object that does not exist.
#[async_trait]
pub trait Source: Send + Sync {
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Arc<ConfigMap>>, Error>;
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Arc<Secret>>, Error>;
}

#[derive(Clone)]
enum Held {
    Missing,
    ConfigMap(Arc<ConfigMap>),
    Secret(Arc<Secret>),
}

struct Watched {
    pods: HashSet<String>,
    held: watch::Receiver<Option<Held>>,
    task: AbortHandle,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Default)]
struct State {
    watched: HashMap<ObjectRef, Watched>,
    by_pod: HashMap<String, BTreeSet<ObjectRef>>,
}

type OnChange = dyn Fn(&str) + Send + Sync;

/// The node's objects. Watches end when it is dropped.
pub struct Objects {
    client: Client,
    on_change: Arc<OnChange>,
    state: Arc<Mutex<State>>,
}

impl Objects {
    /// `on_change` is called with the UID of each pod that names a changed object; it must not block.
    pub fn new(client: Client, on_change: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { client, on_change: Arc::new(on_change), state: Arc::default() }
    }

    /// Says what a pod names now. Needs a tokio runtime.
    pub fn register(&self, uid: &str, names: BTreeSet<ObjectRef>) {
        let mut state = self.state.lock();
        let old = state.by_pod.get(uid).cloned().unwrap_or_default();
        for gone in old.difference(&names) {
            state.release(uid, gone);
        }
        for new in names.difference(&old) {
            let watched = state.watched.entry(new.clone()).or_insert_with(|| self.watch(new));
            watched.pods.insert(uid.to_owned());
        }
        if names.is_empty() {
            state.by_pod.remove(uid);
        } else {
            state.by_pod.insert(uid.to_owned(), names);
        }
    }

    pub fn forget(&self, uid: &str) {
        self.register(uid, BTreeSet::new());
    }

    /// How many objects are watched.
    pub fn watched(&self) -> usize {
        self.state.lock().watched.len()
    }

    fn watch(&self, object: &ObjectRef) -> Watched {
        let (sender, held) = watch::channel(None);
        let (state, on_change, object) = (Arc::downgrade(&self.state), self.on_change.clone(), object.clone());
        let (client, key) = (self.client.clone(), object.clone());
        let publish = move |new: Held| {
            let first = sender.send_replace(Some(new)).is_none();
            if first {
                return;
            }
            let Some(state) = state.upgrade() else { return };
            let pods: Vec<String> = state
                .lock()
                .watched
                .get(&key)
                .map(|watched| watched.pods.iter().cloned().collect())
                .unwrap_or_default();
            pods.iter().for_each(|uid| on_change(uid));
        };
        let task = match object.kind {
            ObjectKind::ConfigMap => tokio::spawn(follow::<ConfigMap>(client, object, publish)),
            ObjectKind::Secret => tokio::spawn(follow::<Secret>(client, object, publish)),
        };
        Watched { pods: HashSet::new(), held, task: task.abort_handle() }
    }

    async fn held(&self, object: ObjectRef) -> Result<Held, Error> {
        let receiver = self.state.lock().watched.get(&object).map(|watched| watched.held.clone());
        let not_synced = || Error::NotSynced { kind: object.kind.word(), name: object.name.clone() };
        let mut receiver = receiver.ok_or_else(not_synced)?;
        let loaded = tokio::time::timeout(OBJECT_WAIT, receiver.wait_for(Option::is_some)).await;
        match loaded {
            Ok(Ok(held)) => held.clone().ok_or_else(not_synced),
            _ => Err(not_synced()),
        }
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        self.state.lock().watched.clear();
    }
}

impl State {
    fn release(&mut self, uid: &str, object: &ObjectRef) {
        if let Some(watched) = self.watched.get_mut(object) {
            watched.pods.remove(uid);
            if watched.pods.is_empty() {
                self.watched.remove(object);
            }
        }
    }
}

trait Kind:
    kube::Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + 'static
{
    fn immutable(&self) -> bool;
    fn held(self) -> Held;
}

impl Kind for ConfigMap {
    fn immutable(&self) -> bool {
        self.immutable == Some(true)
    }
    fn held(self) -> Held {
        Held::ConfigMap(Arc::new(self))
    }
}

impl Kind for Secret {
    fn immutable(&self) -> bool {
        self.immutable == Some(true)
    }
    fn held(self) -> Held {
        Held::Secret(Arc::new(self))
    }
}

async fn follow<K: Kind>(client: Client, object: ObjectRef, publish: impl Fn(Held) + Send) {
    let api = Api::<K>::namespaced(client, &object.namespace);
    let mut stream = pin!(watch_object(api, &object.name).default_backoff());
    while let Some(next) = stream.next().await {
        match next {
            Ok(Some(found)) => {
                let immutable = found.immutable();
                publish(found.held());
                if immutable {
                    // Nothing more will come; the sender stays alive with this future.
                    return std::future::pending().await;
                }
            }
            Ok(None) => publish(Held::Missing),
            Err(error) => {
                tracing::warn!(%error, namespace = object.namespace, name = object.name, "watch {}", object.kind.word())
            }
        }
    }
}

#[async_trait]
impl Source for Objects {
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Arc<ConfigMap>>, Error> {
        match self.held(ObjectRef::new(ObjectKind::ConfigMap, namespace, name)).await? {
            Held::ConfigMap(found) => Ok(Some(found)),
            _ => Ok(None),
        }
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Arc<Secret>>, Error> {
        match self.held(ObjectRef::new(ObjectKind::Secret, namespace, name)).await? {
            Held::Secret(found) => Ok(Some(found)),
            _ => Ok(None),
        }
    }
}
