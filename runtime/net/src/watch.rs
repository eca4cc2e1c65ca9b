//! Keeps [`Services`] like the cluster's Services and EndpointSlices.

use std::collections::HashSet;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::services::{Services, key_of};

/// Watches until the future is dropped. Failures are retried with back-off.
pub async fn run(client: Client, services: Arc<Services>) {
    let on_service = |change: Change<Service>| match change {
        Change::Apply(service) => services.apply_service(Arc::new(service)),
        Change::Delete(service) => services.delete_service(&service),
        Change::Retain(keys) => services.retain_services(&keys),
    };
    let on_slice = |change: Change<EndpointSlice>| match change {
        Change::Apply(slice) => services.apply_slice(Arc::new(slice)),
        Change::Delete(slice) => services.delete_slice(&slice),
        Change::Retain(keys) => services.retain_slices(&keys),
    };
    tokio::join!(follow(Api::all(client.clone()), on_service), follow(Api::all(client), on_slice));
}

enum Change<K> {
    Apply(K),
    Delete(K),
    /// The keys of all objects there are, after a fresh list.
    Retain(HashSet<String>),
}

async fn follow<K>(api: Api<K>, mut on: impl FnMut(Change<K>))
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut seen = HashSet::new();
    loop {
        let mut events = pin!(watcher(api.clone(), watcher::Config::default()).default_backoff());
        loop {
            match events.try_next().await {
                Ok(Some(Event::Init)) => seen.clear(),
                Ok(Some(Event::InitApply(object))) => {
                    seen.insert(key_of(object.namespace().as_deref(), Some(&object.name_any())));
                    on(Change::Apply(object));
                }
                Ok(Some(Event::InitDone)) => on(Change::Retain(std::mem::take(&mut seen))),
                Ok(Some(Event::Apply(object))) => on(Change::Apply(object)),
                Ok(Some(Event::Delete(object))) => on(Change::Delete(object)),
                Ok(None) => return,
                Err(error) if expired(&error) => break,
                Err(error) => tracing::debug!(%error, "watch of services or endpoints failed; retrying"),
            }
        }
    }
}

/// The version to resume from is gone. A watcher would ask for it for ever when the request itself is refused: start anew.
fn expired(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 410)
}
