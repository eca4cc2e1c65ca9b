//! Keeps the graph: one metadata-only watch for each resource that can be listed, watched and deleted.
//!
//! Resources come and go with custom resources, so discovery is repeated; everything else is driven by the watches.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use kube::core::ApiResource;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use wharf_client::{ObjectKey, Queue, WatchBackoff, expired};

use super::graph::Graph;
use crate::discovery::{self, Found, Metadata};

/// How often discovery is repeated. Source: upstream's `garbageCollector.Sync` period.
const REDISCOVERY: Duration = Duration::from_secs(30);
/// The pause after discovery failed; at start-up the server is about to come.
const DISCOVERY_RETRY: Duration = Duration::from_millis(200);
/// Steps begin after this long even if a resource could not be listed: owners are read from the server before anything
/// is deleted. Source: upstream's `initialSyncTimeout`.
const SYNC_LIMIT: Duration = Duration::from_secs(30);
/// The pause before an owner is looked at again that is there but was not seen.
pub const UNSEEN_PAUSE: Duration = Duration::from_millis(100);
/// Resources whose objects own nothing and are owned by nothing. Source: `DefaultIgnoredResources`.
const IGNORED: [(&str, &str); 2] = [("", "events"), ("events.k8s.io", "events")];

#[derive(Clone, Debug)]
pub struct Resource {
    pub api: ApiResource,
    pub namespaced: bool,
}

/// Served resources by group and kind: an owner reference may name another version than the one that is watched.
#[derive(Default)]
pub struct Resources(RwLock<HashMap<(String, String), Resource>>);

impl Resources {
    pub fn find(&self, api_version: &str, kind: &str) -> Option<Resource> {
        let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
        self.0.read().get(&(group.to_owned(), kind.to_owned())).cloned()
    }

    fn replace(&self, found: &[Found]) {
        let by_kind = found.iter().map(|found| {
            let resource = Resource { api: found.resource.clone(), namespaced: found.namespaced() };
            ((found.resource.group.clone(), found.resource.kind.clone()), resource)
        });
        *self.0.write() = by_kind.collect();
    }
}

pub struct Monitors {
    client: Client,
    graph: Arc<Mutex<Graph>>,
    resources: Arc<Resources>,
    synced: watch::Sender<bool>,
}

impl Monitors {
    pub fn new(client: Client, graph: Arc<Mutex<Graph>>, resources: Arc<Resources>) -> Self {
        Self { client, graph, resources, synced: watch::Sender::new(false) }
    }

    /// Resolves when every resource that was found first was listed once.
    pub fn synced(&self) -> BoxFuture<'static, ()> {
        let mut synced = self.synced.subscribe();
        async move {
            if synced.wait_for(|synced| *synced).await.is_err() {
                // The monitors ended before; so will whoever waits.
                std::future::pending::<()>().await;
            }
        }
        .boxed()
    }

    /// Watches until dropped.
    pub fn run(self, queue: Queue<ObjectKey>) -> BoxFuture<'static, ()> {
        async move {
            self.graph.lock().attach(queue);
            let mut tasks = JoinSet::new();
            let mut watched: HashMap<String, (AbortHandle, watch::Receiver<bool>)> = HashMap::new();
            loop {
                let pause = match discovery::all(&self.client).await {
                    Ok(found) => {
                        self.resources.replace(&found);
                        self.adjust(&found, &mut watched, &mut tasks);
                        if !*self.synced.borrow() {
                            if tokio::time::timeout(SYNC_LIMIT, all_listed(&mut watched)).await.is_err() {
                                tracing::warn!(
                                    "not every resource could be listed in time; collecting garbage without"
                                );
                            }
                            self.synced.send_replace(true);
                        }
                        REDISCOVERY
                    }
                    Err(error) => {
                        tracing::debug!(error = &error as &dyn std::error::Error, "discover resources");
                        DISCOVERY_RETRY
                    }
                };
                tokio::time::sleep(pause).await;
            }
        }
        .boxed()
    }

    /// Starts watches of resources that are new and ends those of resources that are gone.
    fn adjust(
        &self,
        found: &[Found],
        watched: &mut HashMap<String, (AbortHandle, watch::Receiver<bool>)>,
        tasks: &mut JoinSet<()>,
    ) {
        let collectable = |found: &&Found| {
            found.can(&["list", "watch", "delete"])
                && !IGNORED.contains(&(found.resource.group.as_str(), found.resource.plural.as_str()))
        };
        let wanted: HashMap<String, &Found> = found
            .iter()
            .filter(collectable)
            .map(|found| (format!("{}/{}", found.resource.api_version, found.resource.plural), found))
            .collect();
        watched.retain(|name, (task, _)| {
            let stays = wanted.contains_key(name);
            if !stays {
                task.abort();
            }
            stays
        });
        for (name, found) in wanted {
            watched.entry(name).or_insert_with(|| {
                let (listed, is_listed) = watch::channel(false);
                let api = Api::<Metadata>::all_with(self.client.clone(), &found.resource);
                let monitor = Monitor::new(&found.resource, self.graph.clone());
                (tasks.spawn(monitor.run(api, found.resource.clone(), listed)), is_listed)
            });
        }
    }
}

async fn all_listed(watched: &mut HashMap<String, (AbortHandle, watch::Receiver<bool>)>) {
    for (_, is_listed) in watched.values_mut() {
        // A watch that ended will not list.
        let _ = is_listed.wait_for(|listed| *listed).await;
    }
}

/// The watch of one resource.
struct Monitor {
    api_version: Arc<str>,
    kind: Arc<str>,
    graph: Arc<Mutex<Graph>>,
    /// UIDs that are there, to tell after another list what went away meanwhile.
    seen: HashSet<String>,
    arriving: HashSet<String>,
}

impl Monitor {
    fn new(resource: &ApiResource, graph: Arc<Mutex<Graph>>) -> Self {
        Self {
            api_version: resource.api_version.as_str().into(),
            kind: resource.kind.as_str().into(),
            graph,
            seen: HashSet::new(),
            arriving: HashSet::new(),
        }
    }

    async fn run(mut self, api: Api<Metadata>, resource: ApiResource, listed: watch::Sender<bool>) {
        loop {
            let mut events = watch_metadata(api.clone()).boxed();
            loop {
                match events.try_next().await {
                    Ok(Some(event)) => {
                        if self.apply(event) {
                            listed.send_replace(true);
                        }
                    }
                    Ok(None) => break,
                    Err(error) if expired(&error) => break,
                    Err(error) => {
                        tracing::debug!(
                            resource = resource.plural,
                            error = &error as &dyn std::error::Error,
                            "watch metadata"
                        );
                    }
                }
            }
        }
    }

    /// True when a list is complete.
    fn apply(&mut self, event: Event<Metadata>) -> bool {
        let mut graph = self.graph.lock();
        match event {
            Event::Init => self.arriving.clear(),
            Event::InitApply(object) => {
                graph.put(&self.api_version, &self.kind, &object.metadata);
                self.arriving.extend(object.metadata.uid);
            }
            Event::InitDone => {
                let arrived = std::mem::take(&mut self.arriving);
                self.seen.difference(&arrived).for_each(|uid| graph.remove(uid));
                self.seen = arrived;
                return true;
            }
            Event::Apply(object) => {
                graph.put(&self.api_version, &self.kind, &object.metadata);
                self.seen.extend(object.metadata.uid);
            }
            Event::Delete(object) => {
                if let Some(uid) = object.metadata.uid {
                    graph.remove(&uid);
                    self.seen.remove(&uid);
                }
            }
        }
        false
    }
}

fn watch_metadata(api: Api<Metadata>) -> impl futures::Stream<Item = Result<Event<Metadata>, watcher::Error>> + Send {
    watcher(api, watcher::Config::default()).backoff(WatchBackoff::default())
}
