//! Cluster addresses and node ports of Services.
//!
//! Seeded from the cluster's Services before the first write; from then on a number is taken before the commit that spends it
//! and given back when that commit fails or the Service goes, so no two Services ever hold the same one.
//! Source: `pkg/registry/core/service/storage/alloc.go`. One lock, never held across a wait.
//! Absent until their kinds are served: IPAddress and ServiceCIDR objects.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use rand::RngCore;
use serde_json::json;
use wharf_types::field::{Error as FieldError, Path};
use wharf_types::k8s::api::core::v1::{Service, ServiceSpec};
use wharf_types::{AnyObject, ApiError, BoxObject, Gvk};

use super::pool::Pool;
use super::{Allocate, Claim, families};

/// Upstream's default `--service-node-port-range`.
pub const NODE_PORTS: RangeInclusive<u16> = 30000..=32767;
/// What `clusterIP` says for a Service without an address.
pub const HEADLESS: &str = "None";
/// Addresses, by their place in the range, that only one Service may have.
/// They never enter the pool; the first is the network's own.
const RESERVED: &[(u32, &str, &str)] = &[(0, "", ""), (1, "default", "kubernetes"), (10, "kube-system", "kube-dns")];

/// A block of IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: u32,
    prefix: u8,
}

#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not an IPv4 range such as 127.96.0.0/12 with room for 16 addresses")]
pub struct CidrError(String);

impl std::str::FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let parsed = text.split_once('/').and_then(|(base, prefix)| {
            let (base, prefix): (Ipv4Addr, u8) = (base.parse().ok()?, prefix.parse().ok()?);
            let cidr = Self { base: u32::from(base), prefix };
            ((4..=28).contains(&prefix) && cidr.base & (cidr.size() - 1) == 0).then_some(cidr)
        });
        parsed.ok_or_else(|| CidrError(text.to_owned()))
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

impl Cidr {
    fn size(self) -> u32 {
        1 << (32 - u32::from(self.prefix))
    }

    /// The address at a place in the range; the first usable one is at 1.
    pub fn address(self, place: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.base + place % self.size())
    }

    /// The place of an address that may be handed out: not the network's nor the broadcast's.
    fn place(self, address: Ipv4Addr) -> Option<u32> {
        let place = u32::from(address).checked_sub(self.base)?;
        (place > 0 && place < self.size() - 1).then_some(place)
    }
}

/// The allocator for `v1 services`.
#[derive(Clone)]
pub struct Services {
    pools: Arc<Mutex<Pools>>,
    range: Cidr,
    ports: RangeInclusive<u16>,
}

struct Pools {
    addresses: Pool,
    ports: Pool,
    rng: Box<dyn RngCore + Send>,
}

/// Numbers of one Service: places in the two pools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Holding {
    address: Option<u32>,
    ports: BTreeSet<u32>,
}

impl Holding {
    fn minus(&self, other: &Self) -> Self {
        Self {
            address: self.address.filter(|place| other.address != Some(*place)),
            ports: self.ports.difference(&other.ports).copied().collect(),
        }
    }
}

impl Services {
    pub fn new(range: Cidr, ports: RangeInclusive<u16>, rng: Box<dyn RngCore + Send>) -> Self {
        // Upstream's bands that random choice leaves to people: 256 addresses and 128 ports at most.
        let addresses = range.size() - 1;
        let port_count = u32::from(*ports.end()) - u32::from(*ports.start()) + 1;
        let mut addresses = Pool::new(addresses, (addresses / 16).clamp(16, 256));
        for (reserved, ..) in RESERVED {
            addresses.take(*reserved);
        }
        let pools = Pools { addresses, ports: Pool::new(port_count, (port_count / 32).clamp(16, 128)), rng };
        Self { pools: Arc::new(Mutex::new(pools)), range, ports }
    }

    /// Takes what the cluster's Services hold. Called before the first write.
    pub fn seed<'a>(&self, services: impl IntoIterator<Item = &'a Service>) {
        let mut pools = self.pools.lock();
        for service in services {
            let holding = self.holding(service);
            let twice = holding.address.is_some_and(|place| !pools.addresses.take(place))
                | (holding.ports.iter().filter(|place| !pools.ports.take(**place)).count() > 0);
            if twice {
                let (namespace, name) = (&service.metadata.namespace, &service.metadata.name);
                tracing::error!(
                    ?namespace,
                    ?name,
                    "this Service holds an address or a port that another one holds too"
                );
            }
        }
    }

    /// Addresses and ports that are taken, for metrics; reserved addresses do not count.
    pub fn taken(&self) -> (usize, usize) {
        let pools = self.pools.lock();
        (pools.addresses.taken() - RESERVED.len(), pools.ports.taken())
    }

    fn place_of(&self, address: &str) -> Option<u32> {
        address.parse().ok().and_then(|address| self.range.place(address))
    }

    fn port_place(&self, port: i32) -> Option<u32> {
        let port = u16::try_from(port).ok().filter(|port| self.ports.contains(port))?;
        Some(u32::from(port - self.ports.start()))
    }

    fn port_at(&self, place: u32) -> i32 {
        i32::from(*self.ports.start()) + place as i32
    }

    /// What a Service that is stored holds.
    fn holding(&self, service: &Service) -> Holding {
        let Some(spec) = service.spec.as_ref() else { return Holding::default() };
        let address = spec.cluster_ip.as_deref().filter(|_| needs_address(spec));
        let ports = node_ports(spec).filter(|_| may_have_ports(spec));
        Holding {
            address: address.and_then(|address| self.place_of(address)).filter(|place| reserved_for(*place).is_none()),
            ports: ports.filter_map(|port| self.port_place(port)).collect(),
        }
    }

    fn fill(&self, service: &mut Service, old: Option<&Service>, taken: &mut Taken) -> Result<(), ApiError> {
        let invalid = |service: &Service, errors: Vec<FieldError>| {
            ApiError::invalid(&Gvk::of::<Service>(), service.metadata.name.as_deref().unwrap_or_default(), &errors)
        };
        let old_spec = old.and_then(|old| old.spec.as_ref());
        let Some(spec) = service.spec.as_mut() else { return Ok(()) };
        normalize(spec, old_spec);
        let errors = families::fill(spec, old_spec);
        if !errors.is_empty() {
            return Err(invalid(service, errors));
        }
        let held = old.map(|old| self.holding(old)).unwrap_or_default();
        self.fill_address(service, &held, taken).and_then(|()| self.fill_ports(service, &held, taken)).map_err(
            |refusal| match refusal {
                Refusal::Field(error) => invalid(service, vec![error]),
                Refusal::Full(message) => ApiError::internal(message),
            },
        )
    }

    fn fill_address(&self, service: &mut Service, held: &Holding, taken: &mut Taken) -> Result<(), Refusal> {
        let meta = &service.metadata;
        let owner = (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
        let Some(spec) = service.spec.as_mut().filter(|spec| needs_address(spec)) else { return Ok(()) };
        let mut pools = self.pools.lock();
        let place = match spec.cluster_ip.as_deref().filter(|address| !address.is_empty()) {
            Some(HEADLESS) => return Ok(()),
            Some(address) => {
                let refuse = |why: String| {
                    let detail = format!("failed to allocate IP {address}: {why}");
                    let value = json!(spec.cluster_ips.clone().unwrap_or_default());
                    Refusal::Field(FieldError::invalid(&Path::new("spec").child("clusterIPs"), value, detail))
                };
                // What is no address at all is left to validation.
                let Ok(ip) = address.parse::<IpAddr>() else { return Ok(()) };
                let Some(place) = self.place_of(address) else {
                    let range = self.range;
                    return Err(refuse(format!(
                        "the provided IP ({ip}) is not in the valid range. The range of valid IPs is {range}"
                    )));
                };
                if held.address == Some(place) {
                    return Ok(());
                }
                let reserved = reserved_for(place);
                if reserved == Some((owner.0.as_str(), owner.1.as_str())) {
                    return Ok(());
                }
                if reserved.is_some() || !pools.addresses.take(place) {
                    return Err(refuse("provided IP is already allocated".to_owned()));
                }
                place
            }
            None => {
                let Pools { addresses, rng, .. } = &mut *pools;
                let free = addresses.take_any(rng.as_mut());
                free.ok_or_else(|| Refusal::Full("failed to allocate a serviceIP: range is full".to_owned()))?
            }
        };
        taken.new.address = Some(place);
        let address = self.range.address(place).to_string();
        spec.cluster_ip = Some(address.clone());
        spec.cluster_ips = Some(vec![address]);
        Ok(())
    }

    fn fill_ports(&self, service: &mut Service, held: &Holding, taken: &mut Taken) -> Result<(), Refusal> {
        let Some(spec) = service.spec.as_mut().filter(|spec| may_have_ports(spec)) else { return Ok(()) };
        let automatic = allocates_ports(spec);
        let mut pools = self.pools.lock();
        let path = Path::new("spec").child("ports");
        for (index, port) in spec.ports.iter_mut().flatten().enumerate() {
            if let Some(given) = port.node_port.filter(|given| *given != 0) {
                let path = path.index(index).child("nodePort");
                self.take_port(&mut pools, given, held, taken)
                    .map_err(|why| Refusal::Field(FieldError::invalid(&path, given, why)))?;
            }
        }
        let health = needs_health_port(spec);
        if let Some(given) = spec.health_check_node_port.filter(|given| health && *given != 0) {
            let path = Path::new("spec").child("healthCheckNodePort");
            self.take_port(&mut pools, given, held, taken)
                .map_err(|why| Refusal::Field(FieldError::invalid(&path, given, why)))?;
        }
        let unset = |port: &Option<i32>| port.is_none_or(|port| port == 0);
        let missing = spec.ports.iter_mut().flatten().map(|port| &mut port.node_port).filter(|_| automatic);
        for slot in missing.chain(health.then_some(&mut spec.health_check_node_port)).filter(|slot| unset(slot)) {
            let Pools { ports, rng, .. } = &mut *pools;
            let free = ports.take_any(rng.as_mut());
            let place = free.ok_or_else(|| Refusal::Full("failed to allocate a nodePort: range is full".to_owned()))?;
            taken.new.ports.insert(place);
            *slot = Some(self.port_at(place));
        }
        Ok(())
    }

    /// Takes a port that the user has chosen. Two ports of one Service may share it (with different protocols).
    fn take_port(&self, pools: &mut Pools, port: i32, held: &Holding, taken: &mut Taken) -> Result<(), String> {
        let Some(place) = self.port_place(port) else {
            let (first, last) = (self.ports.start(), self.ports.end());
            return Err(format!("provided port is not in the valid range. The range of valid ports is {first}-{last}"));
        };
        if held.ports.contains(&place) || taken.new.ports.contains(&place) {
            return Ok(());
        }
        if !pools.ports.take(place) {
            return Err("provided port is already allocated".to_owned());
        }
        taken.new.ports.insert(place);
        Ok(())
    }
}

#[async_trait]
impl Allocate for Services {
    fn seed(&self, objects: &[BoxObject]) {
        Services::seed(self, objects.iter().filter_map(|object| object.downcast_ref()));
    }

    async fn begin(
        &self,
        object: &mut dyn AnyObject,
        old: Option<&dyn AnyObject>,
        dry_run: bool,
    ) -> Result<Box<dyn Claim>, ApiError> {
        let mut taken = Taken { pools: self.pools.clone(), new: Holding::default(), gone: Holding::default(), dry_run };
        let Some(service) = object.downcast_mut::<Service>() else { return Ok(Box::new(taken)) };
        let old = old.and_then(|old| old.downcast_ref::<Service>());
        self.fill(service, old, &mut taken)?;
        if let Some(old) = old {
            taken.gone = self.holding(old).minus(&self.holding(service));
        }
        Ok(Box::new(taken))
    }

    fn release(&self, object: &dyn AnyObject) {
        if let Some(service) = object.downcast_ref::<Service>() {
            give_back(&self.pools, &self.holding(service));
        }
    }
}

enum Refusal {
    Field(FieldError),
    Full(String),
}

/// What a write has taken, and what it lets go once it is committed.
struct Taken {
    pools: Arc<Mutex<Pools>>,
    new: Holding,
    gone: Holding,
    dry_run: bool,
}

impl Claim for Taken {
    fn keep(mut self: Box<Self>) {
        if !self.dry_run {
            self.new = std::mem::take(&mut self.gone);
        }
    }
}

/// Gives back what was taken; after [`Claim::keep`] that is what the write let go.
impl Drop for Taken {
    fn drop(&mut self) {
        give_back(&self.pools, &self.new);
    }
}

fn give_back(pools: &Mutex<Pools>, holding: &Holding) {
    let mut pools = pools.lock();
    if let Some(place) = holding.address {
        pools.addresses.give_back(place);
    }
    for place in &holding.ports {
        pools.ports.give_back(*place);
    }
}

/// Namespace and name of the one Service that may have the address.
fn reserved_for(place: u32) -> Option<(&'static str, &'static str)> {
    RESERVED.iter().find(|(reserved, ..)| *reserved == place).map(|(_, namespace, name)| (*namespace, *name))
}

fn kind(spec: &ServiceSpec) -> &str {
    spec.type_.as_deref().unwrap_or("ClusterIP")
}

fn needs_address(spec: &ServiceSpec) -> bool {
    matches!(kind(spec), "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn may_have_ports(spec: &ServiceSpec) -> bool {
    matches!(kind(spec), "NodePort" | "LoadBalancer")
}

/// True when ports that the user left out are chosen.
fn allocates_ports(spec: &ServiceSpec) -> bool {
    kind(spec) == "NodePort" || kind(spec) == "LoadBalancer" && spec.allocate_load_balancer_node_ports != Some(false)
}

fn needs_health_port(spec: &ServiceSpec) -> bool {
    kind(spec) == "LoadBalancer" && spec.external_traffic_policy.as_deref() == Some("Local")
}

/// Node ports of a Service, that of its health check among them.
fn node_ports(spec: &ServiceSpec) -> impl Iterator<Item = i32> {
    let ports = spec.ports.iter().flatten().filter_map(|port| port.node_port);
    ports.chain(spec.health_check_node_port).filter(|port| *port != 0)
}

/// Makes `clusterIP` and `clusterIPs` agree, carries over what an update left out, and drops what its type has no use for.
/// Source: `NormalizeClusterIPs`, `patchAllocatedValues`, `dropTypeDependentFields`.
fn normalize(spec: &mut ServiceSpec, old: Option<&ServiceSpec>) {
    let set = |address: &Option<String>| address.as_ref().is_some_and(|address| !address.is_empty());
    let none = |addresses: &Option<Vec<String>>| addresses.as_ref().is_none_or(Vec::is_empty);
    match old {
        None if set(&spec.cluster_ip) && none(&spec.cluster_ips) => {
            spec.cluster_ips = spec.cluster_ip.clone().map(|ip| vec![ip])
        }
        None => {}
        Some(old) => {
            if needs_address(old) && needs_address(spec) && !set(&spec.cluster_ip) && none(&spec.cluster_ips) {
                spec.cluster_ip = old.cluster_ip.clone();
                spec.cluster_ips = old.cluster_ips.clone();
            }
            // A client that knows only one of the two fields means both.
            let unchanged = spec.cluster_ips == old.cluster_ips;
            if spec.cluster_ip != old.cluster_ip && (unchanged || none(&spec.cluster_ips)) {
                spec.cluster_ips = spec.cluster_ip.clone().filter(|ip| !ip.is_empty()).map(|ip| vec![ip]);
            } else if none(&spec.cluster_ips) && set(&spec.cluster_ip) {
                spec.cluster_ips = old.cluster_ips.clone();
            }
            carry_ports(spec, old);
            drop_stale(spec, old);
        }
    }
}

/// Ports keep their node port by name, unless another port of the Service has claimed it.
fn carry_ports(spec: &mut ServiceSpec, old: &ServiceSpec) {
    if !(may_have_ports(old) && may_have_ports(spec)) {
        return;
    }
    let mut used: BTreeSet<i32> = node_ports(spec).collect();
    for port in spec.ports.iter_mut().flatten().filter(|port| port.node_port.is_none_or(|port| port == 0)) {
        let before = old.ports.iter().flatten().find(|before| before.name == port.name);
        if let Some(before) =
            before.and_then(|before| before.node_port).filter(|before| *before != 0 && used.insert(*before))
        {
            port.node_port = Some(before);
        }
    }
    if needs_health_port(old) && needs_health_port(spec) && spec.health_check_node_port.is_none_or(|port| port == 0) {
        spec.health_check_node_port = old.health_check_node_port;
    }
}

/// A change of type sheds what the old type had and the user did not touch.
fn drop_stale(spec: &mut ServiceSpec, old: &ServiceSpec) {
    if needs_address(old) && !needs_address(spec) && spec.cluster_ips == old.cluster_ips {
        spec.cluster_ip = None;
        spec.cluster_ips = None;
    }
    if may_have_ports(old) && !may_have_ports(spec) {
        let before: BTreeSet<i32> = node_ports(old).collect();
        for port in spec.ports.iter_mut().flatten() {
            port.node_port = port.node_port.filter(|port| !before.contains(port));
        }
    }
    if needs_health_port(old) && !needs_health_port(spec) && spec.health_check_node_port == old.health_check_node_port {
        spec.health_check_node_port = None;
    }
}
