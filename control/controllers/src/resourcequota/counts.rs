//! How many objects of a resource each namespace holds, for the resources that some quota counts and no others.
//!
//! One metadata-only watch for each; it starts when a quota names the resource and ends when the last such quota goes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use kube::core::ApiResource;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::task::{AbortHandle, JoinSet};
use wharf_client::{Index, Lister, ObjectKey, Queue, Trigger, WatchBackoff, expired};
use wharf_types::k8s::api::core::v1::ResourceQuota;

use super::counted_names;
use crate::discovery::{self, Metadata};

/// The pause until a resource that a quota counts, and that is not served, is looked for again.
const REDISCOVERY: Duration = Duration::from_secs(10);

/// By `resource.group`: the names of the objects in each namespace. A resource is here once it was listed.
type Held = Arc<Mutex<HashMap<String, HashMap<String, HashSet<String>>>>>;

#[derive(Clone)]
pub struct Counts {
    client: Client,
    quotas: Lister<ResourceQuota>,
    by_name: Index<ResourceQuota>,
    held: Held,
}

impl Counts {
    pub fn new(client: Client, quotas: Lister<ResourceQuota>, by_name: Index<ResourceQuota>) -> Self {
        Self { client, quotas, by_name, held: Held::default() }
    }

    /// None until the resource was listed.
    pub fn get(&self, group: &str, resource: &str, namespace: &str) -> Option<usize> {
        let held = self.held.lock();
        let namespaces = held.get(&format!("{resource}.{group}"))?;
        Some(namespaces.get(namespace).map_or(0, HashSet::len))
    }

    /// Keeps the watches, and wakes the quotas that a change concerns.
    pub fn trigger(&self) -> Trigger {
        let counts = self.clone();
        let synced = self.quotas.clone();
        Trigger::custom(async move { synced.synced().await }.boxed(), move |queue| counts.run(queue).boxed())
    }

    async fn run(self, queue: Queue<ObjectKey>) {
        let mut changes = self.quotas.subscribe();
        let mut tasks = JoinSet::new();
        let mut watched: HashMap<String, AbortHandle> = HashMap::new();
        loop {
            let is_complete = self.adjust(&queue, &mut watched, &mut tasks).await;
            let wake = async {
                let first = changes.next().await;
                while changes.try_next().is_some() {}
                first.is_some()
            };
            tokio::select! {
                more = wake => if !more { return },
                () = tokio::time::sleep(REDISCOVERY), if !is_complete => {}
            }
        }
    }

    /// Starts and ends watches as the quotas want them; false where a resource is not served.
    async fn adjust(
        &self,
        queue: &Queue<ObjectKey>,
        watched: &mut HashMap<String, AbortHandle>,
        tasks: &mut JoinSet<()>,
    ) -> bool {
        let wanted: HashSet<String> = self.quotas.list().iter().flat_map(|quota| counted_names(quota)).collect();
        watched.retain(|name, task| {
            let stays = wanted.contains(name);
            if !stays {
                task.abort();
                self.held.lock().remove(name);
            }
            stays
        });
        if wanted.iter().all(|name| watched.contains_key(name)) {
            return true;
        }
        let found = match discovery::all(&self.client).await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "discover resources to count");
                return false;
            }
        };
        for found in found.iter().filter(|found| found.namespaced() && found.can(&["list", "watch"])) {
            let name = format!("{}.{}", found.resource.plural, found.resource.group);
            if wanted.contains(&name) && !watched.contains_key(&name) {
                let task = tasks.spawn(self.clone().watch(found.resource.clone(), name.clone(), queue.clone()));
                watched.insert(name, task);
            }
        }
        wanted.iter().all(|name| watched.contains_key(name))
    }

    async fn watch(self, resource: ApiResource, name: String, queue: Queue<ObjectKey>) {
        let api = Api::<Metadata>::all_with(self.client.clone(), &resource);
        loop {
            let events = watcher(api.clone(), watcher::Config::default()).backoff(WatchBackoff::default());
            let mut events = events.boxed();
            let mut arriving: HashMap<String, HashSet<String>> = HashMap::new();
            loop {
                match events.try_next().await {
                    Ok(Some(event)) => {
                        for namespace in self.apply(&name, event, &mut arriving) {
                            let concerned = self.by_name.get(&name).into_iter();
                            let concerned = concerned.map(|quota| ObjectKey::of(&*quota));
                            concerned.filter(|key| *key.namespace == *namespace).for_each(|key| queue.add(key));
                        }
                    }
                    Ok(None) => break,
                    Err(error) if expired(&error) => break,
                    Err(error) => {
                        tracing::debug!(name, error = &error as &dyn std::error::Error, "watch what is counted");
                    }
                }
            }
        }
    }

    /// Takes one step of the watch; returns the namespaces whose count may have changed.
    fn apply(
        &self,
        name: &str,
        event: Event<Metadata>,
        arriving: &mut HashMap<String, HashSet<String>>,
    ) -> Vec<String> {
        let place = |object: Metadata| {
            (object.metadata.namespace.unwrap_or_default(), object.metadata.name.unwrap_or_default())
        };
        let mut held = self.held.lock();
        match event {
            Event::Init => {
                arriving.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                let (namespace, object) = place(object);
                arriving.entry(namespace).or_default().insert(object);
                Vec::new()
            }
            Event::InitDone => {
                held.insert(name.to_owned(), std::mem::take(arriving));
                drop(held);
                self.by_name.get(name).iter().filter_map(|quota| quota.metadata.namespace.clone()).collect()
            }
            Event::Apply(object) => {
                let (namespace, object) = place(object);
                let is_new =
                    held.entry(name.to_owned()).or_default().entry(namespace.clone()).or_default().insert(object);
                is_new.then_some(namespace).into_iter().collect()
            }
            Event::Delete(object) => {
                let (namespace, object) = place(object);
                let Some(namespaces) = held.get_mut(name) else { return Vec::new() };
                let Some(names) = namespaces.get_mut(&namespace) else { return Vec::new() };
                let is_gone = names.remove(&object);
                if names.is_empty() {
                    namespaces.remove(&namespace);
                }
                is_gone.then_some(namespace).into_iter().collect()
            }
        }
    }
}
