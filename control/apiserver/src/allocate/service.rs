//! Cluster addresses and node ports of Services.
//!
//! Both are taken before the commit that spends them and given back when that commit fails or the Service goes, so no two Services
//! ever hold the same one. Addresses are IPAddress objects ([`super::addresses`]); ports are a pool in memory, which is seeded from the
//! cluster's Services before the first write. Source: `pkg/registry/core/service/storage/alloc.go`. One lock, never held across a wait.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use rand::{Rng, RngCore};
use serde_json::json;
use wharf_types::field::{Error as FieldError, Path};
use wharf_types::k8s::api::core::v1::Service;
use wharf_types::{AnyObject, ApiError, BoxObject, Gvk};

use super::addresses::{self, Owner};
pub use super::cidr::{Cidr, CidrError};
use super::pool::Pool;
use super::shape::{allocates_ports, may_have_ports, needs_address, needs_health_port, node_ports, normalize};
use super::{Allocate, Claim, families};
use crate::server::ApiServer;

/// Upstream's default `--service-node-port-range`.
pub const NODE_PORTS: RangeInclusive<u16> = 30000..=32767;
/// What `clusterIP` says for a Service without an address.
pub const HEADLESS: &str = "None";
/// Addresses, by their place in the range that the server is started with, that only one Service may have.
const RESERVED: &[(u32, &str, &str)] = &[(1, "default", "kubernetes"), (10, "kube-system", "kube-dns")];

const TAKEN: &str = "provided IP is already allocated";
const OUTSIDE: &str = "the provided network does not match the current range";
const FULL: &str = "range is full";
const NOT_READY: &str = "allocator not ready";

/// The allocator for `v1 services`.
#[derive(Clone)]
pub struct Services {
    state: Arc<Mutex<State>>,
    range: Cidr,
    ports: RangeInclusive<u16>,
}

struct State {
    ports: Pool,
    /// What Services held before this server began: their IPAddresses may be yet to be written.
    seeded: HashSet<Ipv4Addr>,
    rng: Box<dyn RngCore + Send>,
}

/// What one Service has: an address, and places in the pool of ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Holding {
    address: Option<Ipv4Addr>,
    ports: BTreeSet<u32>,
}

impl Holding {
    fn minus(&self, other: &Self) -> Self {
        Self {
            address: self.address.filter(|address| other.address != Some(*address)),
            ports: self.ports.difference(&other.ports).copied().collect(),
        }
    }
}

impl Services {
    pub fn new(range: Cidr, ports: RangeInclusive<u16>, rng: Box<dyn RngCore + Send>) -> Self {
        let count = u32::from(*ports.end()) - u32::from(*ports.start()) + 1;
        // Upstream's band that random choice leaves to people: 128 ports at most.
        let pool = Pool::new(count, (count / 32).clamp(16, 128));
        let state = State { ports: pool, seeded: HashSet::new(), rng };
        Self { state: Arc::new(Mutex::new(state)), range, ports }
    }

    /// Learns what the cluster's Services hold. Called before the first write.
    pub fn seed<'a>(&self, services: impl IntoIterator<Item = &'a Service>) {
        let mut state = self.state.lock();
        for service in services {
            let holding = self.holding(service);
            let twice = holding.address.is_some_and(|address| !state.seeded.insert(address))
                | (holding.ports.iter().filter(|place| !state.ports.take(**place)).count() > 0);
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

    /// Node ports that are taken.
    pub fn ports_taken(&self) -> usize {
        self.state.lock().ports.taken()
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
            address: address.and_then(|address| address.parse().ok()),
            ports: ports.filter_map(|port| self.port_place(port)).collect(),
        }
    }

    async fn fill(&self, service: &mut Service, old: Option<&Service>, taken: &mut Taken) -> Result<(), ApiError> {
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
        let filled = match self.fill_address(service, &held, taken).await {
            Ok(()) => self.fill_ports(service, &held, taken),
            refused => refused,
        };
        filled.map_err(|refusal| match refusal {
            Refusal::Field(error) => invalid(service, vec![error]),
            Refusal::Full(message) => ApiError::internal(message),
        })
    }

    async fn fill_address(&self, service: &mut Service, held: &Holding, taken: &mut Taken) -> Result<(), Refusal> {
        let meta = &service.metadata;
        let (namespace, name) = (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
        let owner = Owner { namespace, name };
        let Some(spec) = service.spec.as_mut().filter(|spec| needs_address(spec)) else { return Ok(()) };
        let asked = spec.cluster_ip.as_deref().filter(|address| !address.is_empty());
        let address = match asked {
            Some(HEADLESS) => return Ok(()),
            Some(text) => {
                // What is no address at all is left to validation.
                let Ok(ip) = text.parse::<IpAddr>() else { return Ok(()) };
                if held.address.is_some_and(|held| ip == held) {
                    return Ok(());
                }
                self.take(ip, &owner, taken).await.map_err(|why| {
                    let detail = format!("failed to allocate IP {text}: {why}");
                    let value = json!(spec.cluster_ips.clone().unwrap_or_default());
                    Refusal::Field(FieldError::invalid(&Path::new("spec").child("clusterIPs"), value, detail))
                })?
            }
            None => {
                let free = self.take_any(&owner, taken).await;
                free.map_err(|why| Refusal::Full(format!("failed to allocate a serviceIP: {why}")))?
            }
        };
        let address = address.to_string();
        spec.cluster_ip = Some(address.clone());
        spec.cluster_ips = Some(vec![address]);
        Ok(())
    }

    /// Takes an address that somebody has asked for. As upstream, a dry run only asks for a range that has it.
    async fn take(&self, ip: IpAddr, owner: &Owner, taken: &mut Taken) -> Result<Ipv4Addr, String> {
        let IpAddr::V4(address) = ip else { return Err(OUTSIDE.to_owned()) };
        if !addresses::open(&taken.server).iter().any(|range| range.has(address)) {
            return Err(OUTSIDE.to_owned());
        }
        if taken.dry_run {
            return Ok(address);
        }
        if self.is_taken(address, owner, &taken.server) || !addresses::write(&taken.server, address, owner).await? {
            return Err(TAKEN.to_owned());
        }
        taken.new.address = Some(address);
        Ok(address)
    }

    /// Takes any free address, of the ranges in turn. A dry run shows the network's own, as upstream's does.
    async fn take_any(&self, owner: &Owner, taken: &mut Taken) -> Result<Ipv4Addr, String> {
        let mut ranges = addresses::open(&taken.server);
        if taken.dry_run {
            return ranges.first().map(|range| range.address(0)).ok_or_else(|| NOT_READY.to_owned());
        }
        let candidates: Vec<_> = {
            let mut state = self.state.lock();
            let rng = &mut state.rng;
            let first = if ranges.is_empty() { 0 } else { rng.random_range(0..ranges.len()) };
            ranges.rotate_left(first);
            ranges.into_iter().map(|range| range.candidates(rng.as_mut())).collect()
        };
        for address in candidates.into_iter().flatten() {
            if self.is_taken(address, owner, &taken.server) {
                continue;
            }
            // Somebody else may be faster: then it is the next one's turn.
            if addresses::write(&taken.server, address, owner).await? {
                taken.new.address = Some(address);
                return Ok(address);
            }
        }
        Err(FULL.to_owned())
    }

    fn is_taken(&self, address: Ipv4Addr, owner: &Owner, server: &ApiServer) -> bool {
        let reserved = RESERVED.iter().find(|(place, ..)| self.range.address(*place) == address);
        reserved.is_some_and(|(_, namespace, name)| (*namespace, *name) != (&*owner.namespace, &*owner.name))
            || self.state.lock().seeded.contains(&address)
            || addresses::is_written(server, address)
    }

    fn fill_ports(&self, service: &mut Service, held: &Holding, taken: &mut Taken) -> Result<(), Refusal> {
        let Some(spec) = service.spec.as_mut().filter(|spec| may_have_ports(spec)) else { return Ok(()) };
        let automatic = allocates_ports(spec);
        let mut state = self.state.lock();
        let path = Path::new("spec").child("ports");
        for (index, port) in spec.ports.iter_mut().flatten().enumerate() {
            if let Some(given) = port.node_port.filter(|given| *given != 0) {
                let path = path.index(index).child("nodePort");
                self.take_port(&mut state, given, held, taken)
                    .map_err(|why| Refusal::Field(FieldError::invalid(&path, given, why)))?;
            }
        }
        let health = needs_health_port(spec);
        if let Some(given) = spec.health_check_node_port.filter(|given| health && *given != 0) {
            let path = Path::new("spec").child("healthCheckNodePort");
            self.take_port(&mut state, given, held, taken)
                .map_err(|why| Refusal::Field(FieldError::invalid(&path, given, why)))?;
        }
        let unset = |port: &Option<i32>| port.is_none_or(|port| port == 0);
        let missing = spec.ports.iter_mut().flatten().map(|port| &mut port.node_port).filter(|_| automatic);
        for slot in missing.chain(health.then_some(&mut spec.health_check_node_port)).filter(|slot| unset(slot)) {
            let State { ports, rng, .. } = &mut *state;
            let free = ports.take_any(rng.as_mut());
            let place = free.ok_or_else(|| Refusal::Full("failed to allocate a nodePort: range is full".to_owned()))?;
            taken.new.ports.insert(place);
            *slot = Some(self.port_at(place));
        }
        Ok(())
    }

    /// Takes a port that the user has chosen. Two ports of one Service may share it (with different protocols).
    fn take_port(&self, state: &mut State, port: i32, held: &Holding, taken: &mut Taken) -> Result<(), String> {
        let Some(place) = self.port_place(port) else {
            let (first, last) = (self.ports.start(), self.ports.end());
            return Err(format!("provided port is not in the valid range. The range of valid ports is {first}-{last}"));
        };
        if held.ports.contains(&place) || taken.new.ports.contains(&place) {
            return Ok(());
        }
        if !state.ports.take(place) {
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
        server: &Arc<ApiServer>,
        object: &mut dyn AnyObject,
        old: Option<&dyn AnyObject>,
        dry_run: bool,
    ) -> Result<Box<dyn Claim>, ApiError> {
        let (server, state) = (server.clone(), self.state.clone());
        let (new, gone) = (Holding::default(), Holding::default());
        let mut taken = Box::new(Taken { server, state, new, gone, dry_run });
        let Some(service) = object.downcast_mut::<Service>() else { return Ok(taken) };
        let old = old.and_then(|old| old.downcast_ref::<Service>());
        if let Err(refused) = self.fill(service, old, &mut taken).await {
            taken.give_back().await;
            return Err(refused);
        }
        if let Some(old) = old {
            taken.gone = self.holding(old).minus(&self.holding(service));
        }
        Ok(taken)
    }

    async fn release(&self, server: &Arc<ApiServer>, object: &dyn AnyObject) {
        if let Some(service) = object.downcast_ref::<Service>() {
            let_go(server, &self.state, self.holding(service)).await;
        }
    }
}

enum Refusal {
    Field(FieldError),
    Full(String),
}

/// What a write has taken, and what it lets go once it is committed.
struct Taken {
    server: Arc<ApiServer>,
    state: Arc<Mutex<State>>,
    new: Holding,
    gone: Holding,
    dry_run: bool,
}

#[async_trait]
impl Claim for Taken {
    async fn keep(mut self: Box<Self>) {
        let new = std::mem::take(&mut self.new);
        let ended = if self.dry_run { new } else { std::mem::take(&mut self.gone) };
        let_go(&self.server, &self.state, ended).await;
    }

    async fn give_back(mut self: Box<Self>) {
        let new = std::mem::take(&mut self.new);
        let_go(&self.server, &self.state, new).await;
    }
}

/// A write that panicked gives its ports back; its address is found by [`super::repair`].
impl Drop for Taken {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        self.new.ports.iter().for_each(|place| state.ports.give_back(*place));
    }
}

async fn let_go(server: &Arc<ApiServer>, state: &Mutex<State>, holding: Holding) {
    {
        let mut state = state.lock();
        holding.ports.iter().for_each(|place| state.ports.give_back(*place));
        if let Some(address) = &holding.address {
            state.seeded.remove(address);
        }
    }
    if let Some(address) = holding.address {
        addresses::strike(server, address).await;
    }
}
