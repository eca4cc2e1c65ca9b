//! Encryption at rest while the server runs: the plugins are asked how they are, and a changed file takes effect.
//!
//! Source: `k8s.io/apiserver/pkg/server/options/encryptionconfig/{config,controller}`. Invariants: a file that is refused, or whose
//! plugins are not well, changes nothing; values are read by the old providers until the new ones are in place.
//! Weaker than upstream: a refused file is tried again at the next look, not after a back-off of its own.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wharf_auth::Follow;
use wharf_registry::Table;
use wharf_store::Store;
use wharf_store::sealed::Sealed;

use super::metrics::ReloadMetrics;
use super::{Encryption, Error, Kms, Surroundings, read};
use crate::server::ApiServer;

/// How long the plugins of a new file may take until they are well. Source: `minKMSPluginCloseGracePeriod`.
const WELL_WITHIN: Duration = Duration::from_secs(10);

/// How long what could not be opened is left at that, if nothing is known to have changed.
const TRY_AGAIN: Duration = Duration::from_secs(10);

pub struct Encrypted {
    sealed: Sealed,
    table: Arc<Table>,
    around: Surroundings,
    plugins: ArcSwap<Vec<Arc<Kms>>>,
    /// The tasks that ask the plugins of the current file.
    asking: Mutex<JoinSet<()>>,
    /// Something may open now that did not.
    changed: Arc<Notify>,
    metrics: ReloadMetrics,
}

impl Encrypted {
    /// Seals what `inner` keeps as the file says whose text this is.
    pub fn open(
        inner: Arc<dyn Store>,
        yaml: &str,
        table: Arc<Table>,
        around: Surroundings,
        metrics: ReloadMetrics,
    ) -> Result<Arc<Self>, Error> {
        let Encryption { rules, plugins } = read(yaml, &table, &around)?;
        metrics.loaded(yaml);
        Ok(Arc::new(Self {
            sealed: Sealed::new(inner, rules),
            table,
            around,
            plugins: ArcSwap::from_pointee(plugins),
            asking: Mutex::default(),
            changed: Arc::default(),
            metrics,
        }))
    }

    /// What everything above sees.
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.sealed.clone())
    }

    pub fn metrics(&self) -> ReloadMetrics {
        self.metrics.clone()
    }

    pub fn plugins(&self) -> Arc<Vec<Arc<Kms>>> {
        self.plugins.load_full()
    }

    /// How all plugins are.
    pub fn health(&self) -> Result<(), String> {
        self.plugins.load().iter().try_for_each(|plugin| plugin.health())
    }

    /// Asks each plugin for its key before anything is read. One that is away is asked again behind, and what only it
    /// opens is not served meanwhile.
    pub async fn prime(&self, limit: Duration) {
        for plugin in self.plugins.load().iter() {
            if let Err(error) = plugin.prime(limit).await {
                tracing::error!(plugin = plugin.name(), error, "the KMS plugin is not well");
            }
        }
    }

    /// Asks the plugins how they are from now on, for as long as this lives.
    pub fn ask_plugins(&self) {
        let mut tasks = JoinSet::new();
        for plugin in self.plugins.load().iter() {
            let (plugin, changed) = (plugin.clone(), self.changed.clone());
            tasks.spawn(async move { plugin.run(&changed).await });
        }
        // Those of the file before end here.
        *self.asking.lock() = tasks;
    }

    /// Serves what could not be opened, each time that something may have changed about that, and now and then.
    pub async fn heal(&self, server: Arc<ApiServer>, cancel: CancellationToken) {
        let changed = || tokio::time::timeout(TRY_AGAIN, self.changed.notified());
        while cancel.run_until_cancelled(changed()).await.is_some() {
            server.serve_unopened().await;
        }
    }

    async fn reload(&self, text: &str) -> Result<(), String> {
        let Encryption { rules, plugins } = read(text, &self.table, &self.around).map_err(|error| error.to_string())?;
        for plugin in &plugins {
            let why = |why| format!("health check for new transformers failed: {why}");
            plugin.prime(WELL_WITHIN).await.map_err(why)?;
        }
        self.plugins.store(Arc::new(plugins));
        self.ask_plugins();
        let unopened = self.sealed.replace(rules).await.map_err(|error| error.to_string())?;
        if unopened > 0 {
            tracing::error!(values = unopened, "the new encryption configuration does not open all that is stored");
        }
        self.changed.notify_one();
        Ok(())
    }
}

#[async_trait]
impl Follow for Encrypted {
    const WHAT: &'static str = "encryption";
    const TRIES_AGAIN: bool = true;

    async fn take(&self, text: &str) -> Result<(), String> {
        let taken = self.reload(text).await;
        let now = (self.around.clock)();
        match &taken {
            Ok(()) => self.metrics.succeeded(text, now),
            Err(_) => self.metrics.failed(now),
        }
        taken
    }
}
