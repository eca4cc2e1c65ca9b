//! Images of this process: one store and one puller, for a node's pods and for the API server's admission plugins.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::Secret;
use tokio::net::TcpListener;
use wharf_admission::wasm::{Component, Components, Pull};
use wharf_cri::Images as _;
use wharf_node::pull_secrets;
use wharf_oci::pull::{self, Puller};
use wharf_oci::reference::Reference;
use wharf_oci::store::Store;
use wharf_wasm::CodeCache;

use crate::data::DataDir;

/// A node's images, and the embedded registry's listener, which the node serves.
pub struct Images {
    pub store: Arc<Store>,
    pub puller: Arc<Puller>,
    pub registry: SocketAddr,
    pub listener: TcpListener,
    compiled: CodeCache,
}

impl Images {
    pub async fn open(data: &DataDir, registry: SocketAddr) -> Result<Self> {
        let store = Store::open(&data.images()?).context("open the image store")?;
        let listener = TcpListener::bind(registry)
            .await
            .with_context(|| format!("listen on {registry} for the image registry"))?;
        let registry = listener.local_addr().context("read the registry's address")?;
        data.note_registry(registry)?;
        let puller = Arc::new(puller(store.clone(), registry));
        Ok(Self { store, puller, registry, listener, compiled: CodeCache::new(data.compiled()?) })
    }

    /// The same images, as admission plugins.
    pub fn plugins(&self) -> Arc<dyn Components> {
        Arc::new(Plugins { store: self.store.clone(), puller: self.puller.clone(), compiled: self.compiled.clone() })
    }
}

/// Images of a control plane that has no node beside it.
pub fn of_server(data: &DataDir) -> Result<Arc<dyn Components>> {
    let store = Store::open(&data.plugins()).context("open the store of admission plugins")?;
    let puller = Arc::new(Puller::new(store.clone(), pull::Config::default()));
    Ok(Arc::new(Plugins { store, puller, compiled: CodeCache::new(data.compiled_plugins()?) }))
}

/// The embedded registry goes by every name that a user on this machine may give it.
fn puller(images: Arc<Store>, registry: SocketAddr) -> Puller {
    let names =
        [registry.to_string(), format!("localhost:{}", registry.port()), format!("127.0.0.1:{}", registry.port())];
    Puller::new(images, pull::Config { insecure_registries: Vec::new(), embedded_registries: names.to_vec() })
}

struct Plugins {
    store: Arc<Store>,
    puller: Arc<Puller>,
    compiled: CodeCache,
}

impl Plugins {
    /// Pulls as a pod would: with each credential that fits, best first, or with none where none does.
    async fn pull(&self, reference: &str, secrets: &[Secret]) -> Result<(), String> {
        let mut credentials: Vec<_> = pull_secrets::matching(secrets, reference).into_iter().map(Some).collect();
        if credentials.is_empty() {
            credentials.push(None);
        }
        let mut failures = Vec::new();
        for credential in credentials {
            match self.puller.pull(reference, credential).await {
                Ok(_) => return Ok(()),
                Err(error) => failures.push(error.to_string()),
            }
        }
        failures.dedup();
        Err(failures.join(", "))
    }
}

#[async_trait]
impl Components for Plugins {
    async fn resolve(&self, reference: &str, pull: Pull, secrets: &[Secret]) -> Result<Component, String> {
        let named: Reference = reference.parse().map_err(|error| format!("{error}"))?;
        let here = match pull {
            Pull::IfNotPresent => self.puller.image(reference).await.map_err(|error| error.to_string())?,
            Pull::Always => None,
        };
        if here.is_none() {
            self.pull(reference, secrets).await?;
        }
        let gone = || format!("image {reference:?} has gone again");
        let image = self.store.resolve(reference).ok_or_else(gone)?;
        let digest = self.store.manifest_of(&named).unwrap_or_else(|| image.id.clone());
        let path = self.store.module_path(&image);
        let bytes = tokio::fs::read(&path).await.map_err(|error| format!("read image {reference:?}: {error}"))?;
        Ok(Component { digest: digest.to_string(), bytes })
    }

    fn compiled(&self, key: &str) -> Option<PathBuf> {
        self.compiled.find(key)
    }

    fn keep_compiled(&self, key: &str, code: &[u8]) -> std::io::Result<()> {
        self.compiled.keep(key, code)
    }
}
