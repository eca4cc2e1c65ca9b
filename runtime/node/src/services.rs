//! The variables that tell a container where services are (`KUBERNETES_SERVICE_HOST` …).
//!
//! One watch of all Services for the node. Source: `k8s.io/kubernetes/pkg/kubelet/envvars`. Invariant: no container is given
//! an environment before the first list is in.

use std::collections::BTreeMap;
use std::pin::pin;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Service, ServicePort};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The namespace of the API's own service, which every pod hears of.
const MASTER_NAMESPACE: &str = "default";
const MASTER_SERVICE: &str = "kubernetes";

/// What the variables need of a Service.
#[derive(Clone, Debug)]
struct Entry {
    ip: String,
    ports: Vec<ServicePort>,
}

type Names = BTreeMap<String, Entry>;

pub struct Services {
    held: Mutex<BTreeMap<String, Names>>,
    synced: watch::Sender<bool>,
}

impl Default for Services {
    fn default() -> Self {
        Self { held: Mutex::default(), synced: watch::Sender::new(false) }
    }
}

impl Services {
    /// Follows the API until `cancel`.
    pub async fn run(&self, client: Client, cancel: CancellationToken) {
        let stream = watcher::watcher(Api::<Service>::all(client), watcher::Config::default()).default_backoff();
        let mut stream = pin!(stream);
        let mut listed = BTreeMap::new();
        while let Some(Some(event)) = cancel.run_until_cancelled(stream.next()).await {
            match event {
                Ok(Event::Init) => listed = BTreeMap::new(),
                Ok(Event::InitApply(service)) => apply(&mut listed, &service),
                Ok(Event::InitDone) => {
                    *self.held.lock() = std::mem::take(&mut listed);
                    self.synced.send_replace(true);
                }
                Ok(Event::Apply(service)) => apply(&mut self.held.lock(), &service),
                Ok(Event::Delete(service)) => remove(&mut self.held.lock(), &service),
                Err(error) => tracing::warn!(%error, "watch services"),
            }
        }
    }

    pub async fn wait_synced(&self) {
        // The sender lives in self, so this cannot fail.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// The variables for a pod of `namespace`; with `links`, of all its services, else of the API's alone.
    pub fn env(&self, namespace: &str, links: bool) -> Vec<(String, String)> {
        let held = self.held.lock();
        let mut chosen: BTreeMap<&str, &Entry> = BTreeMap::new();
        if let Some((name, entry)) = held.get(MASTER_NAMESPACE).and_then(|names| names.get_key_value(MASTER_SERVICE)) {
            chosen.insert(name, entry);
        }
        for (name, entry) in held.get(namespace).into_iter().flatten().filter(|_| links) {
            chosen.insert(name, entry);
        }
        chosen.into_iter().flat_map(|(name, entry)| variables(name, entry)).collect()
    }
}

fn apply(held: &mut BTreeMap<String, Names>, service: &Service) {
    remove(held, service);
    let Some(spec) = &service.spec else { return };
    let ip = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None");
    let (Some(ip), Some(name)) = (ip, &service.metadata.name) else { return };
    let entry = Entry { ip: ip.to_owned(), ports: spec.ports.clone().unwrap_or_default() };
    held.entry(service.metadata.namespace.clone().unwrap_or_default()).or_default().insert(name.clone(), entry);
}

fn remove(held: &mut BTreeMap<String, Names>, service: &Service) {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    if let (Some(names), Some(name)) = (held.get_mut(namespace), &service.metadata.name) {
        names.remove(name);
    }
}

fn variables(name: &str, entry: &Entry) -> Vec<(String, String)> {
    let upper = |text: &str| text.replace('-', "_").to_uppercase();
    let (prefix, Some(first)) = (upper(name), entry.ports.first()) else { return Vec::new() };
    let mut env = vec![
        (format!("{prefix}_SERVICE_HOST"), entry.ip.clone()),
        (format!("{prefix}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in &entry.ports {
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            env.push((format!("{prefix}_SERVICE_PORT_{}", upper(port_name)), port.port.to_string()));
        }
    }
    let host = if entry.ip.contains(':') { format!("[{}]", entry.ip) } else { entry.ip.clone() };
    for (index, port) in entry.ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
        let port_prefix = format!("{prefix}_PORT_{}_{protocol}", port.port);
        if index == 0 {
            env.push((format!("{prefix}_PORT"), url.clone()));
        }
        env.push((port_prefix.clone(), url));
        env.push((format!("{port_prefix}_PROTO"), protocol.to_lowercase()));
        env.push((format!("{port_prefix}_PORT"), port.port.to_string()));
        env.push((format!("{port_prefix}_ADDR"), entry.ip.clone()));
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn services() -> Services {
        let services = Services::default();
        for value in [
            json!({"metadata": {"name": "kubernetes", "namespace": "default"}, "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]}}),
            json!({"metadata": {"name": "my-db", "namespace": "shop"}, "spec": {"clusterIP": "10.96.0.2", "ports": [{"port": 5432}]}}),
            json!({"metadata": {"name": "headless", "namespace": "shop"}, "spec": {"clusterIP": "None", "ports": [{"port": 1}]}}),
        ] {
            apply(&mut services.held.lock(), &serde_json::from_value(value).unwrap());
        }
        services
    }

    fn check(namespace: &str, links: bool, expected: &[(&str, &str)]) {
        let env: BTreeMap<String, String> = services().env(namespace, links).into_iter().collect();
        for (name, value) in expected {
            assert_eq!(env.get(*name).map(String::as_str), (!value.is_empty()).then_some(*value), "{name}");
        }
    }

    #[test]
    fn every_pod_hears_of_the_api() {
        check(
            "x",
            false,
            &[
                ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
                ("KUBERNETES_SERVICE_PORT", "443"),
                ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
                ("KUBERNETES_PORT", "tcp://10.96.0.1:443"),
                ("KUBERNETES_PORT_443_TCP_ADDR", "10.96.0.1"),
            ],
        );
    }

    #[test]
    fn links_name_the_services_of_the_namespace() {
        check(
            "shop",
            true,
            &[
                ("MY_DB_SERVICE_HOST", "10.96.0.2"),
                ("MY_DB_PORT_5432_TCP", "tcp://10.96.0.2:5432"),
                ("HEADLESS_SERVICE_HOST", ""),
            ],
        );
        check("shop", false, &[("MY_DB_SERVICE_HOST", "")]);
        check("other", true, &[("MY_DB_SERVICE_HOST", "")]);
    }
}
