//! Which backends stand behind each service address: a table kept by watches, read at connect time.
//!
//! Invariants: only ready endpoints are picked (terminating ones where no other is left, as kube-proxy does); picking is
//! constant work and takes no lock that a writer holds across I/O. Each change touches one service, never the whole table.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::Transport;

/// `namespace/name`
pub type ServiceKey = String;

/// A service's address and port as clients dial it.
pub type Frontend = (SocketAddr, Transport);

/// The label that ties an EndpointSlice to its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What DNS needs of a service.
#[derive(Clone, Debug, Default)]
pub struct ServiceRecord {
    /// Empty for a headless service.
    pub cluster_ips: Vec<IpAddr>,
    pub external_name: Option<String>,
    /// (name, transport, port)
    pub ports: Vec<(String, Transport, u16)>,
    pub publish_not_ready: bool,
}

/// An endpoint as DNS needs it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub ip: IpAddr,
    pub hostname: Option<String>,
    pub ready: bool,
    pub serving: bool,
}

/// Backends of one service port.
#[derive(Debug, Default)]
struct Backends {
    addresses: Vec<SocketAddr>,
    /// `sessionAffinity: ClientIP`
    sticky: bool,
    turn: AtomicUsize,
}

#[derive(Default)]
struct Entry {
    service: Option<Arc<Service>>,
    /// By slice name.
    slices: BTreeMap<String, Arc<EndpointSlice>>,
    frontends: Vec<Frontend>,
}

/// The table. Cheap to share; fed by [`crate::watch`].
pub struct Services {
    entries: RwLock<HashMap<ServiceKey, Entry>>,
    frontends: RwLock<HashMap<Frontend, Arc<Backends>>>,
    /// Node ports, by number.
    node_ports: RwLock<HashMap<(u16, Transport), Arc<Backends>>>,
    /// Bumped when the set of frontends changes, for the proxy.
    changed: watch::Sender<u64>,
}

impl Default for Services {
    fn default() -> Self {
        Self {
            entries: RwLock::default(),
            frontends: RwLock::default(),
            node_ports: RwLock::default(),
            changed: watch::channel(0).0,
        }
    }
}

/// What [`Services::pick`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    Backend(SocketAddr),
    /// A service's address with nobody behind it.
    Empty,
    /// Not a service's address.
    Unknown,
}

impl Services {
    pub fn apply_service(&self, service: Arc<Service>) {
        let key = key_of(service.metadata.namespace.as_deref(), service.metadata.name.as_deref());
        self.update(key, |entry| entry.service = Some(service));
    }

    pub fn delete_service(&self, service: &Service) {
        let key = key_of(service.metadata.namespace.as_deref(), service.metadata.name.as_deref());
        self.update(key, |entry| entry.service = None);
    }

    pub fn apply_slice(&self, slice: Arc<EndpointSlice>) {
        let Some(key) = service_of(&slice) else { return };
        let name = slice.metadata.name.clone().unwrap_or_default();
        self.update(key, |entry| drop(entry.slices.insert(name, slice)));
    }

    pub fn delete_slice(&self, slice: &EndpointSlice) {
        let Some(key) = service_of(slice) else { return };
        let name = slice.metadata.name.clone().unwrap_or_default();
        self.update(key, |entry| drop(entry.slices.remove(&name)));
    }

    /// Drops services and slices that are not in these sets: after a watch has started anew.
    pub fn retain_services(&self, keep: &std::collections::HashSet<ServiceKey>) {
        let gone: Vec<ServiceKey> = {
            let entries = self.entries.read();
            entries
                .iter()
                .filter(|(key, entry)| entry.service.is_some() && !keep.contains(*key))
                .map(|(key, _)| key.clone())
                .collect()
        };
        gone.into_iter().for_each(|key| self.update(key, |entry| entry.service = None));
    }

    /// As [`Services::retain_services`], by `namespace/slice`.
    pub fn retain_slices(&self, keep: &std::collections::HashSet<String>) {
        let kept =
            |key: &str, name: &str| keep.contains(&format!("{}/{name}", key.split('/').next().unwrap_or_default()));
        let gone: Vec<(ServiceKey, String)> = {
            let entries = self.entries.read();
            let slices = entries
                .iter()
                .flat_map(|(key, entry)| entry.slices.keys().map(move |name| (key.clone(), name.clone())));
            slices.filter(|(key, name)| !kept(key, name)).collect()
        };
        gone.into_iter().for_each(|(key, name)| self.update(key, |entry| drop(entry.slices.remove(&name))));
    }

    /// Changes one entry and rewrites that service's frontends.
    fn update(&self, key: ServiceKey, change: impl FnOnce(&mut Entry)) {
        let mut entries = self.entries.write();
        let entry = entries.entry(key.clone()).or_default();
        change(entry);
        let routes = entry.service.as_ref().map(|service| routes(service, entry.slices.values())).unwrap_or_default();
        let before = std::mem::take(&mut entry.frontends);
        entry.frontends = routes.iter().map(|route| route.frontend).collect();
        let moved = before != entry.frontends;
        if entry.service.is_none() && entry.slices.is_empty() {
            entries.remove(&key);
        }
        self.publish(before, routes);
        drop(entries);
        if moved {
            self.changed.send_modify(|count| *count += 1);
        }
    }

    fn publish(&self, before: Vec<Frontend>, routes: Vec<Route>) {
        let mut frontends = self.frontends.write();
        let mut node_ports = self.node_ports.write();
        for (address, transport) in before {
            if is_node_port(&address) {
                node_ports.remove(&(address.port(), transport))
            } else {
                frontends.remove(&(address, transport))
            };
        }
        for Route { frontend: (address, transport), backends } in routes {
            let backends = Arc::new(backends);
            if is_node_port(&address) {
                node_ports.insert((address.port(), transport), backends);
            } else {
                frontends.insert((address, transport), backends);
            }
        }
    }

    /// Chooses a backend for a connection to a service address: in turn, or by client for sticky services.
    pub fn pick(&self, client: IpAddr, address: SocketAddr, transport: Transport) -> Pick {
        let Some(backends) = self.frontends.read().get(&(address, transport)).cloned() else { return Pick::Unknown };
        backends.pick(client)
    }

    /// As [`Services::pick`], for a connection to a node port.
    pub fn pick_node_port(&self, client: IpAddr, port: u16, transport: Transport) -> Pick {
        let Some(backends) = self.node_ports.read().get(&(port, transport)).cloned() else { return Pick::Unknown };
        backends.pick(client)
    }

    /// All frontends; those of node ports have the unspecified address.
    pub fn frontends(&self) -> Vec<Frontend> {
        let unspecified = IpAddr::from([0, 0, 0, 0]);
        let node_ports = self
            .node_ports
            .read()
            .keys()
            .map(|(port, transport)| (SocketAddr::new(unspecified, *port), *transport))
            .collect::<Vec<_>>();
        self.frontends.read().keys().copied().chain(node_ports).collect()
    }

    /// Wakes when the set of frontends changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub fn record(&self, namespace: &str, name: &str) -> Option<ServiceRecord> {
        let entries = self.entries.read();
        let service = entries.get(&key_of(Some(namespace), Some(name)))?.service.clone()?;
        let spec = service.spec.as_ref()?;
        let ports = spec.ports.iter().flatten().filter_map(|port| {
            Some((
                port.name.clone().unwrap_or_default(),
                transport(port.protocol.as_deref())?,
                u16::try_from(port.port).ok()?,
            ))
        });
        Some(ServiceRecord {
            cluster_ips: cluster_ips(&service),
            external_name: spec.external_name.clone().filter(|_| spec.type_.as_deref() == Some("ExternalName")),
            ports: ports.collect(),
            publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
        })
    }

    pub fn endpoints(&self, namespace: &str, name: &str) -> Vec<Endpoint> {
        let entries = self.entries.read();
        let Some(entry) = entries.get(&key_of(Some(namespace), Some(name))) else { return Vec::new() };
        let endpoints = entry.slices.values().flat_map(|slice| slice.endpoints.iter().flatten());
        endpoints
            .flat_map(|endpoint| {
                let (ready, serving) = readiness(endpoint.conditions.as_ref());
                let hostname = endpoint.hostname.clone();
                let addresses = endpoint.addresses.iter().filter_map(|address| address.parse().ok());
                addresses.map(move |ip| Endpoint { ip, hostname: hostname.clone(), ready, serving }).collect::<Vec<_>>()
            })
            .collect()
    }
}

impl Backends {
    fn pick(&self, client: IpAddr) -> Pick {
        if self.addresses.is_empty() {
            return Pick::Empty;
        }
        let turn = if self.sticky { hash(client) } else { self.turn.fetch_add(1, Ordering::Relaxed) };
        Pick::Backend(self.addresses[turn % self.addresses.len()])
    }
}

fn hash(client: IpAddr) -> usize {
    use std::hash::{Hash, Hasher};
    // Fixed keys: a client must land on the same backend each time.
    let mut hasher = std::hash::DefaultHasher::new();
    client.hash(&mut hasher);
    usize::try_from(hasher.finish() >> 33).unwrap_or_default()
}

struct Route {
    frontend: Frontend,
    backends: Backends,
}

/// Pure: a service and its slices, as what clients may dial and who answers.
fn routes<'a>(service: &Service, slices: impl Iterator<Item = &'a Arc<EndpointSlice>> + Clone) -> Vec<Route> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let sticky = spec.session_affinity.as_deref() == Some("ClientIP");
    let mut routes = Vec::new();
    for port in spec.ports.iter().flatten() {
        let Some(transport) = transport(port.protocol.as_deref()) else { continue };
        let name = port.name.as_deref().unwrap_or_default();
        let mut route = |address: IpAddr, number: i32| {
            let Ok(number) = u16::try_from(number) else { return };
            let addresses = backends(name, transport, slices.clone());
            let frontend = (SocketAddr::new(address, number), transport);
            routes.push(Route { frontend, backends: Backends { addresses, sticky, turn: AtomicUsize::new(0) } });
        };
        cluster_ips(service).into_iter().for_each(|address| route(address, port.port));
        if let Some(node_port) = port.node_port.filter(|number| *number > 0) {
            route(IpAddr::from([0, 0, 0, 0]), node_port);
        }
    }
    routes
}

fn backends<'a>(
    port: &str,
    transport: Transport,
    slices: impl Iterator<Item = &'a Arc<EndpointSlice>>,
) -> Vec<SocketAddr> {
    let (mut ready_ones, mut leaving) = (Vec::new(), Vec::new());
    for slice in slices {
        let number = slice.ports.iter().flatten().find(|candidate| {
            candidate.name.as_deref().unwrap_or_default() == port
                && self::transport(candidate.protocol.as_deref()) == Some(transport)
        });
        let Some(number) = number.and_then(|found| found.port).and_then(|number| u16::try_from(number).ok()) else {
            continue;
        };
        for endpoint in slice.endpoints.iter().flatten() {
            let (ready, serving) = readiness(endpoint.conditions.as_ref());
            // Kubernetes: all addresses of an endpoint are fungible, and consumers use the first.
            let Some(ip) = endpoint.addresses.first().and_then(|address| address.parse().ok()) else { continue };
            match (ready, serving) {
                (true, _) => ready_ones.push(SocketAddr::new(ip, number)),
                (false, true) => leaving.push(SocketAddr::new(ip, number)),
                (false, false) => {}
            }
        }
    }
    if ready_ones.is_empty() { leaving } else { ready_ones }
}

/// (ready, serving): absent conditions mean yes.
fn readiness(conditions: Option<&k8s_openapi::api::discovery::v1::EndpointConditions>) -> (bool, bool) {
    let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    let serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(ready);
    (ready, serving)
}

fn is_node_port(address: &SocketAddr) -> bool {
    address.ip().is_unspecified()
}

fn cluster_ips(service: &Service) -> Vec<IpAddr> {
    let spec = service.spec.as_ref();
    let listed = spec.and_then(|spec| spec.cluster_ips.clone()).filter(|list| !list.is_empty());
    let all = listed.or_else(|| spec.and_then(|spec| spec.cluster_ip.clone()).map(|one| vec![one])).unwrap_or_default();
    all.iter().filter_map(|address| address.parse().ok()).collect()
}

fn transport(protocol: Option<&str>) -> Option<Transport> {
    match protocol {
        None | Some("TCP") => Some(Transport::Tcp),
        Some("UDP") => Some(Transport::Udp),
        Some(_) => None,
    }
}

pub(crate) fn key_of(namespace: Option<&str>, name: Option<&str>) -> ServiceKey {
    format!("{}/{}", namespace.unwrap_or_default(), name.unwrap_or_default())
}

fn service_of(slice: &EndpointSlice) -> Option<ServiceKey> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(key_of(slice.metadata.namespace.as_deref(), Some(name)))
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub fn service(name: &str, spec: Value) -> Arc<Service> {
        Arc::new(
            serde_json::from_value(json!({ "metadata": { "name": name, "namespace": "default" }, "spec": spec }))
                .unwrap(),
        )
    }

    pub fn slice(service: &str, port: u16, endpoints: Value) -> Arc<EndpointSlice> {
        let metadata =
            json!({ "name": format!("{service}-1"), "namespace": "default", "labels": { SERVICE_NAME: service } });
        let ports = json!([{ "name": "http", "port": port, "protocol": "TCP" }]);
        let value = json!({ "metadata": metadata, "addressType": "IPv4", "ports": ports, "endpoints": endpoints });
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn web() -> Services {
        let services = Services::default();
        services.apply_service(service(
            "web",
            json!({ "clusterIP": "127.96.0.7", "ports": [{ "name": "http", "port": 80, "nodePort": 30080 }] }),
        ));
        services
    }

    fn pick(services: &Services) -> Pick {
        services.pick([127, 0, 0, 1].into(), "127.96.0.7:80".parse().unwrap(), Transport::Tcp)
    }

    #[test]
    fn connections_go_to_ready_endpoints_in_turn() {
        let services = web();
        assert_eq!(pick(&services), Pick::Empty);
        services.apply_slice(slice(
            "web",
            8080,
            json!([
                { "addresses": ["127.64.0.1"] },
                { "addresses": ["127.64.0.2"], "conditions": { "ready": false } },
                { "addresses": ["127.64.0.3"], "conditions": { "ready": true } },
            ]),
        ));
        let picked: Vec<Pick> = (0..4).map(|_| pick(&services)).collect();
        let at = |text: &str| Pick::Backend(text.parse().unwrap());
        assert_eq!(
            picked,
            [at("127.64.0.1:8080"), at("127.64.0.3:8080"), at("127.64.0.1:8080"), at("127.64.0.3:8080")]
        );
        assert_eq!(services.pick_node_port([127, 0, 0, 1].into(), 30080, Transport::Tcp), at("127.64.0.1:8080"));
    }

    #[test]
    fn leaving_endpoints_serve_when_no_other_is_left() {
        let services = web();
        services.apply_slice(slice("web", 8080, json!([{ "addresses": ["127.64.0.1"], "conditions": { "ready": false, "serving": true, "terminating": true } }])));
        assert_eq!(pick(&services), Pick::Backend("127.64.0.1:8080".parse().unwrap()));
    }

    #[test]
    fn a_deleted_service_is_unknown_and_its_listeners_are_told() {
        let services = web();
        let mut changes = services.changes();
        changes.mark_unchanged();
        services.delete_service(&service("web", json!({})));
        assert_eq!(pick(&services), Pick::Unknown);
        assert!(changes.has_changed().unwrap());
        assert!(services.frontends().is_empty());
    }

    #[test]
    fn sticky_services_keep_a_client_on_one_backend() {
        let services = Services::default();
        services.apply_service(service("web", json!({ "clusterIP": "127.96.0.7", "sessionAffinity": "ClientIP", "ports": [{ "name": "http", "port": 80 }] })));
        services.apply_slice(slice(
            "web",
            80,
            json!([{ "addresses": ["127.64.0.1"] }, { "addresses": ["127.64.0.2"] }]),
        ));
        let first = pick(&services);
        assert!((0..10).all(|_| pick(&services) == first));
    }

    #[test]
    fn what_a_new_watch_does_not_list_is_dropped() {
        let services = web();
        services.apply_slice(slice("web", 8080, json!([{ "addresses": ["127.64.0.1"] }])));
        services.retain_slices(&Default::default());
        assert_eq!(pick(&services), Pick::Empty);
        services.retain_services(&Default::default());
        assert_eq!(pick(&services), Pick::Unknown);
    }
}
