//! AdmissionPlugins at work: their images pulled and compiled, and their status told.
//!
//! One loop watches all of them. A plugin is loaded when it is first seen and whenever its spec or its annotations change, and
//! again after a while where that failed; what its status says of it is worked out in [`status`]. Calls are made by the
//! admission chain, from the objects as the cache has them: this loop only brings the code.
//! Invariants: loads of different plugins do not wait for each other; one plugin is loaded once at a time. Writes go through
//! the API as `system:apiserver`. Credentials for registries are read when they are needed and kept nowhere.

mod status;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use kube::api::{Api, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wharf_admission::Reader;
use wharf_admission::wasm::{GVR, Host, LoadError, Loaded, Pull};
use wharf_auth::{MASTERS, User};
use wharf_registry::pull_policy;
use wharf_types::Gvr;
use wharf_types::admission::AdmissionPlugin;
use wharf_types::k8s::api::core::v1::Secret;

use crate::bootstrap::IDENTITY;
use crate::call::Cluster;
use crate::server::ApiServer;
use crate::verbs::write::whole_seconds;

const SECRETS: Gvr = Gvr {
    group: std::borrow::Cow::Borrowed(""),
    version: std::borrow::Cow::Borrowed("v1"),
    resource: std::borrow::Cow::Borrowed("secrets"),
};

/// How long a start may wait for plugins that are registered already. What takes longer is loaded while requests are served.
const RESTORE_LIMIT: Duration = Duration::from_secs(5);
/// How long to wait until a load that failed is tried again: at first, and at most.
const RETRY_MIN: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(300);

/// Loads what is registered, before anybody is answered, from images that are here already if possible.
pub async fn restore(server: &ApiServer) {
    let objects = Cluster(server).list(&GVR, None);
    let plugins = objects.iter().filter_map(|object| object.downcast_ref::<AdmissionPlugin>());
    let host = server.admission.host();
    let loads = plugins.map(|plugin| async move {
        let name = plugin.name_any();
        let secrets = secrets(server, plugin);
        if let Err(error) = host.load(&name, &plugin.spec.image, Pull::IfNotPresent, &secrets).await {
            tracing::warn!(plugin = name, %error, "an admission plugin is not ready");
        }
    });
    if tokio::time::timeout(RESTORE_LIMIT, join_all(loads)).await.is_err() {
        tracing::warn!("admission plugins take long to load: requests are served meanwhile");
    }
}

/// Keeps plugins loaded, until `cancel`.
pub async fn run(server: Arc<ApiServer>, cancel: CancellationToken) {
    let client = Client::new(server.service_for(User::new(IDENTITY, &[MASTERS])), "default");
    let host = server.admission.host().clone();
    let keeper = Keeper { api: Api::all(client), host, server, known: BTreeMap::new(), loads: JoinSet::new() };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = keeper.run() => {}
    }
}

/// What may hold credentials for the plugin's image, as it is now. What is not there is passed over, as it is for a pod.
fn secrets(server: &ApiServer, plugin: &AdmissionPlugin) -> Vec<Secret> {
    let named = plugin.spec.image_pull_secrets.iter().flatten();
    let found = named.filter_map(|secret| {
        let (namespace, name) = (secret.namespace.as_deref()?, secret.name.as_deref()?);
        let found = Cluster(server).get(&SECRETS, Some(namespace), name);
        if found.is_none() {
            tracing::warn!(plugin = plugin.name_any(), namespace, name, "an image pull secret is not there");
        }
        found?.downcast_ref::<Secret>().cloned()
    });
    found.collect()
}

/// What a load was for. Another one is another load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    uid: Option<String>,
    generation: Option<i64>,
    annotations: Option<BTreeMap<String, String>>,
}

impl Wanted {
    fn of(plugin: &AdmissionPlugin) -> Self {
        let meta = &plugin.metadata;
        Self { uid: meta.uid.clone(), generation: meta.generation, annotations: meta.annotations.clone() }
    }
}

#[derive(Default)]
struct Known {
    plugin: AdmissionPlugin,
    loading: bool,
    /// The last load that has ended.
    done: Option<(Wanted, Result<Loaded, LoadError>)>,
    failures: u32,
    retry_at: Option<Instant>,
}

impl Known {
    /// How to load the plugin now; none where there is nothing to do. An image is looked for as a pod's is, so that one which was
    /// imported by hand is not sought elsewhere; whoever annotates the plugin wants to know what the registry has.
    fn due(&self, now: Instant) -> Option<Pull> {
        if self.loading {
            return None;
        }
        match &self.done {
            None => {
                let observed = self.plugin.status.as_ref().and_then(|status| status.observed_generation);
                let seen = observed.is_some() && observed == self.plugin.metadata.generation;
                Some(if seen { Pull::IfNotPresent } else { self.policy() })
            }
            Some((wanted, _)) if wanted.annotations != self.plugin.metadata.annotations => Some(Pull::Always),
            Some((wanted, _)) if *wanted != Wanted::of(&self.plugin) => Some(self.policy()),
            Some(_) => self.retry_at.filter(|at| *at <= now).map(|_| self.policy()),
        }
    }

    fn policy(&self) -> Pull {
        match pull_policy(&self.plugin.spec.image) {
            "Always" => Pull::Always,
            _ => Pull::IfNotPresent,
        }
    }
}

type Finished = (String, Wanted, Result<Loaded, LoadError>);

struct Keeper {
    server: Arc<ApiServer>,
    host: Arc<Host>,
    api: Api<AdmissionPlugin>,
    known: BTreeMap<String, Known>,
    loads: JoinSet<Finished>,
}

impl Keeper {
    async fn run(mut self) {
        let mut events = watcher(self.api.clone(), watcher::Config::default()).default_backoff().boxed();
        let mut first = BTreeMap::new();
        loop {
            let retry = self.known.values().filter_map(|known| known.retry_at).min();
            let retry = async {
                match retry {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => self.see(event, &mut first).await,
                    Some(Err(error)) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "watch admission plugins");
                    }
                    None => return,
                },
                Some(finished) = self.loads.join_next() => match finished {
                    Ok(finished) => self.finish(finished).await,
                    Err(error) => tracing::error!(%error, "the load of an admission plugin died"),
                },
                () = retry => {}
            }
            self.start_loads();
        }
    }

    async fn see(&mut self, event: watcher::Event<AdmissionPlugin>, first: &mut BTreeMap<String, AdmissionPlugin>) {
        match event {
            watcher::Event::Init => first.clear(),
            watcher::Event::InitApply(plugin) => {
                first.insert(plugin.name_any(), plugin);
            }
            watcher::Event::InitDone => {
                let gone: Vec<String> = self.known.keys().filter(|name| !first.contains_key(*name)).cloned().collect();
                gone.iter().for_each(|name| self.forget(name));
                for (name, plugin) in std::mem::take(first) {
                    self.put(&name, plugin).await;
                }
            }
            watcher::Event::Apply(plugin) => self.put(&plugin.name_any(), plugin).await,
            watcher::Event::Delete(plugin) => self.forget(&plugin.name_any()),
        }
    }

    async fn put(&mut self, name: &str, plugin: AdmissionPlugin) {
        self.known.entry(name.to_owned()).or_default().plugin = plugin;
        self.tell(name).await;
    }

    fn forget(&mut self, name: &str) {
        self.known.remove(name);
        self.host.unload(name);
    }

    fn start_loads(&mut self) {
        let now = Instant::now();
        for (name, known) in &mut self.known {
            let Some(pull) = known.due(now) else { continue };
            (known.loading, known.retry_at) = (true, None);
            let (host, name, image) = (self.host.clone(), name.clone(), known.plugin.spec.image.clone());
            let (wanted, secrets) = (Wanted::of(&known.plugin), secrets(&self.server, &known.plugin));
            self.loads.spawn(async move {
                let result = host.load(&name, &image, pull, &secrets).await;
                (name, wanted, result)
            });
        }
    }

    async fn finish(&mut self, (name, wanted, result): Finished) {
        let Some(known) = self.known.get_mut(&name) else {
            // Deleted meanwhile.
            self.host.unload(&name);
            return;
        };
        known.loading = false;
        match &result {
            Ok(loaded) => {
                tracing::info!(plugin = name, digest = loaded.digest, "an admission plugin is ready");
                known.failures = 0;
            }
            Err(error) => {
                tracing::warn!(plugin = name, %error, "an admission plugin is not ready");
                let wait = RETRY_MIN.saturating_mul(1 << known.failures.min(10)).min(RETRY_MAX);
                known.retry_at = Some(Instant::now() + wait);
                known.failures += 1;
            }
        }
        known.done = Some((wanted, result));
        self.tell(&name).await;
    }

    /// Writes the status, where the last load was for the plugin as it is.
    async fn tell(&mut self, name: &str) {
        let now = whole_seconds((self.server.clock)());
        let Some(known) = self.known.get_mut(name) else { return };
        let Some((wanted, result)) = &known.done else { return };
        if *wanted != Wanted::of(&known.plugin) {
            return;
        }
        let called = self.host.loaded(name, &known.plugin.spec.image);
        let status = status::of(&known.plugin, result, called.as_ref(), now);
        if known.plugin.status.as_ref() == Some(&status) {
            return;
        }
        let plugin = AdmissionPlugin { status: Some(status), ..known.plugin.clone() };
        match self.api.replace_status(name, &PostParams::default(), &plugin).await {
            Ok(written) => known.plugin = written,
            // Somebody else's write, which the watch will tell of.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => {
                tracing::warn!(plugin = name, error = &error as &dyn std::error::Error, "tell of an admission plugin");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn known(plugin: Value) -> Known {
        Known { plugin: serde_json::from_value(plugin).expect("a plugin"), ..Known::default() }
    }

    #[track_caller]
    fn check(known: &Known, now: Instant, expected: Option<Pull>) {
        assert_eq!(known.due(now), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_plugin_is_loaded_when_it_changes_and_when_a_retry_is_due() {
        let now = Instant::now();
        let mut new = known(json!({"metadata": {"generation": 1}, "spec": {"image": "policy"}}));
        check(&new, now, Some(Pull::Always));
        let tagged = known(json!({"metadata": {"generation": 1}, "spec": {"image": "policy:v1"}}));
        check(&tagged, now, Some(Pull::IfNotPresent));
        let settled = known(json!({"metadata": {"generation": 2}, "status": {"observedGeneration": 2}}));
        check(&settled, now, Some(Pull::IfNotPresent));
        new.loading = true;
        check(&new, now, None);
        new.loading = false;
        let failed = LoadError { stage: wharf_admission::wasm::Stage::Pull, message: "no".to_owned(), digest: None };
        new.done = Some((Wanted::of(&new.plugin), Err(failed)));
        new.retry_at = Some(now + RETRY_MIN);
        check(&new, now, None);
        check(&new, now + RETRY_MIN, Some(Pull::Always));
        new.plugin.metadata.annotations = Some([("pull".to_owned(), "again".to_owned())].into());
        check(&new, now, Some(Pull::Always));
    }
}
