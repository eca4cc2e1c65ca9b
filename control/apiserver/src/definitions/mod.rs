//! CustomResourceDefinitions at work: their names accepted, their resources served, their objects cleaned up.
//!
//! One loop watches all definitions and looks at each again whenever one changes: names of one depend on those of others. What a
//! definition's status should say is worked out in [`plan`]; what is served, in [`Definitions::serve`]. Rows are served before the
//! status says that they are established, so who waits for that finds them there.
//! Source: `apiextensions-apiserver/pkg/controller/{status,establish,finalizer,apiapproval}`, which are controllers in the API
//! server's process there, too. Writes go through the API as `system:apiserver`.

mod cleanup;
mod plan;
mod webhook;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt;
use kube::api::{Api, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use wharf_auth::{MASTERS, User};
use wharf_registry::custom::{self, Converter, Serving};
use wharf_registry::{Row, definitions as rules};
use wharf_types::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionSpec,
};

use crate::bootstrap::IDENTITY;
use crate::call::decode_stored;
use crate::server::ApiServer;
use crate::verbs::write::whole_seconds;

const RESOURCE: &str = "customresourcedefinitions";
const GROUP: &str = "apiextensions.k8s.io";

/// What is served of definitions, by their names.
#[derive(Default)]
pub struct Definitions {
    served: Mutex<BTreeMap<String, Served>>,
    /// Uids of those whose objects are being deleted.
    ending: Mutex<BTreeSet<String>>,
}

struct Served {
    spec: CustomResourceDefinitionSpec,
    rows: Vec<Arc<Row>>,
    /// True once the definition is being deleted: no object is created any more.
    closed: Arc<AtomicBool>,
}

impl Definitions {
    /// Serves a definition whose names are accepted, as its spec says now. Nothing happens if that is served already.
    pub async fn serve(&self, server: &ApiServer, crd: &CustomResourceDefinition) -> Result<(), wharf_cache::Error> {
        let name = crd.name_any();
        let closing = crd.metadata.deletion_timestamp.is_some();
        let old = {
            let mut served = self.served.lock();
            if let Some(held) = served.get(&name) {
                held.closed.store(closing, Ordering::Relaxed);
                if held.spec == crd.spec {
                    return Ok(());
                }
            }
            served.remove(&name).map(|held| held.rows).unwrap_or_default()
        };
        let closed = Arc::new(AtomicBool::new(closing));
        let settled = crd.resource_version().and_then(|version| version.parse().ok()).unwrap_or_default();
        let serving = Serving { settled, converter: converter(server, crd), closed: closed.clone() };
        let rows = custom::rows(crd, serving);
        let gone: Vec<Arc<Row>> = old.into_iter().filter(|held| rows.iter().all(|row| row.gvr != held.gvr)).collect();
        server.remove_rows(&gone);
        let names: Vec<_> = rows.iter().map(|row| row.gvr.clone()).collect();
        server.put_rows(rows).await?;
        let rows = names.iter().filter_map(|gvr| server.table.find(&gvr.group, &gvr.version, &gvr.resource)).collect();
        self.served.lock().insert(name, Served { spec: crd.spec.clone(), rows, closed });
        Ok(())
    }

    /// Serves a definition no more.
    pub fn withdraw(&self, server: &ApiServer, name: &str) {
        let held = self.served.lock().remove(name);
        if let Some(held) = held {
            server.remove_rows(&held.rows);
        }
    }

    /// False if the end of this definition has begun already.
    fn begin_cleanup(&self, crd: &CustomResourceDefinition) -> bool {
        self.ending.lock().insert(crd.uid().unwrap_or_default())
    }

    fn end_cleanup(&self, crd: &CustomResourceDefinition) {
        self.ending.lock().remove(&crd.uid().unwrap_or_default());
    }

    fn rows(&self, name: &str) -> Vec<Arc<Row>> {
        self.served.lock().get(name).map(|held| held.rows.clone()).unwrap_or_default()
    }
}

fn converter(server: &ApiServer, crd: &CustomResourceDefinition) -> Option<Arc<dyn Converter>> {
    let conversion = crd.spec.conversion.as_ref().filter(|conversion| conversion.strategy == "Webhook")?;
    Some(Arc::new(webhook::Webhook::new(conversion.webhook.as_ref()?, server.cache.clone())))
}

/// Serves what the store says is established, before anybody is answered.
pub async fn restore(server: &ApiServer) -> Result<(), wharf_cache::Error> {
    let Some(row) = server.table.find(GROUP, "v1", RESOURCE) else { return Ok(()) };
    let Some(collection) = server.collection(&row) else { return Ok(()) };
    let entries: Vec<_> = collection.snapshot().range("", None).cloned().collect();
    for entry in entries {
        let Ok(object) = decode_stored(&row, &entry) else { continue };
        let Some(crd) = object.downcast_ref::<CustomResourceDefinition>() else { continue };
        if rules::has_condition(crd, "Established") {
            server.definitions.serve(server, crd).await?;
        }
    }
    Ok(())
}

/// Keeps definitions as they should be, until `cancel`.
pub async fn run(server: Arc<ApiServer>, cancel: CancellationToken) {
    let client = Client::new(server.service_for(User::new(IDENTITY, &[MASTERS])), "default");
    let keeper = Keeper { api: Api::all(client.clone()), client, server, known: BTreeMap::new() };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = keeper.run() => {}
    }
}

struct Keeper {
    server: Arc<ApiServer>,
    client: Client,
    api: Api<CustomResourceDefinition>,
    known: BTreeMap<String, CustomResourceDefinition>,
}

impl Keeper {
    async fn run(mut self) {
        let mut events = watcher(self.api.clone(), watcher::Config::default()).default_backoff().boxed();
        let mut first = BTreeMap::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => first.clear(),
                Ok(watcher::Event::InitApply(crd)) => {
                    first.insert(crd.name_any(), crd);
                }
                Ok(watcher::Event::InitDone) => {
                    let gone: Vec<String> =
                        self.known.keys().filter(|name| !first.contains_key(*name)).cloned().collect();
                    gone.iter().for_each(|name| self.server.definitions.withdraw(&self.server, name));
                    self.known = std::mem::take(&mut first);
                }
                Ok(watcher::Event::Apply(crd)) => {
                    self.known.insert(crd.name_any(), crd);
                }
                Ok(watcher::Event::Delete(crd)) => {
                    self.known.remove(&crd.name_any());
                    self.server.definitions.withdraw(&self.server, &crd.name_any());
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "watch custom resource definitions");
                    continue;
                }
            }
            self.look_at_all().await;
        }
    }

    /// Looks at every definition, the oldest first: who came first keeps a name.
    async fn look_at_all(&mut self) {
        let mut names: Vec<String> = self.known.keys().cloned().collect();
        names.sort_by_key(|name| self.known[name].metadata.creation_timestamp.as_ref().map(|time| time.0));
        for name in names {
            if let Err(error) = self.look_at(&name).await {
                tracing::warn!(name, error = &*error, "keep a custom resource definition");
            }
        }
    }

    async fn look_at(&mut self, name: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let Some(crd) = self.known.get(name) else { return Ok(()) };
        let others = self.known.values().filter(|other| other.name_any() != name);
        let wanted = plan::status(crd, others, whole_seconds((self.server.clock)()));
        if rules::has_condition(&wanted, "Established") {
            self.server.definitions.serve(&self.server, &wanted).await?;
        }
        if wanted.status != crd.status {
            let written = self.api.replace_status(name, &PostParams::default(), &wanted).await;
            match written {
                Ok(written) => {
                    self.known.insert(name.to_owned(), written);
                }
                // Somebody else's write, which the watch will tell of.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        let crd = self.known[name].clone();
        if crd.metadata.deletion_timestamp.is_some() && crd.finalizers().iter().any(|held| held == rules::CLEANUP) {
            let rows = self.server.definitions.rows(name);
            cleanup::start(&self.server, &self.client, &self.api, crd, rows);
        }
        Ok(())
    }
}
