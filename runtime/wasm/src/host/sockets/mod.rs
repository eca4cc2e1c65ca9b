//! `wasi:sockets` with a pod's addresses, 0.2 and 0.3.
//!
//! Wasmtime's implementation does the work; what stands here translates the addresses that go in (bind, connect, send) and come
//! out (local, remote, datagrams), and looks names up as the pod does. A socket that connects without being bound is bound to
//! the pod's address first, so that peers see the pod.
//! Absent on purpose: sockets over the host's stack directly: no address reaches the kernel untranslated.

mod p2;
mod p3;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::component::{HasData, Linker};
use wasmtime_wasi::sockets::WasiSocketsCtxView;
use wharf_net::{Error, Transport};

use crate::guest::Guest;
use crate::pod::Pod;

/// How long datagrams to a service stay with the backend that the first one chose, as conntrack has it.
const FLOW_TIMEOUT: Duration = Duration::from_secs(30);

/// Services that an instance's datagrams go to at a time.
const MAX_FLOWS: usize = 64;

/// Stands before Wasmtime's implementation of every interface that carries an address or a name.
pub fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    p2::add_to_linker(linker)?;
    p3::add_to_linker(linker)
}

/// Names [`View`] to the bindings.
pub struct PodSockets;

impl HasData for PodSockets {
    type Data<'a> = View<'a>;
}

/// What the host calls of this interface work on.
pub struct View<'a> {
    wasi: WasiSocketsCtxView<'a>,
    addresses: &'a mut Addresses,
}

fn view(guest: &mut Guest) -> View<'_> {
    let (wasi, addresses) = guest.sockets_and_addresses();
    View { wasi, addresses }
}

/// The addresses of one instance.
pub struct Addresses {
    pod: Arc<Pod>,
    /// What a connected socket's peer looks like to the guest where that differs from the real one, by resource.
    peers: HashMap<u32, SocketAddr>,
    flows: Flows,
}

impl Addresses {
    pub fn new(pod: Arc<Pod>) -> Addresses {
        Addresses { pod, peers: HashMap::new(), flows: Flows::default() }
    }

    pub fn pod(&self) -> Arc<Pod> {
        self.pod.clone()
    }

    fn connect(&mut self, socket: u32, transport: Transport, guest: SocketAddr) -> Result<SocketAddr, Error> {
        let real = self.pod.connect(transport, guest)?;
        self.peers.insert(socket, guest);
        Ok(real)
    }

    fn peer(&self, socket: u32, real: SocketAddr) -> SocketAddr {
        self.peers.get(&socket).copied().unwrap_or_else(|| self.pod.visible(real))
    }

    fn forget(&mut self, socket: u32) {
        self.peers.remove(&socket);
    }

    /// The real destination of a datagram.
    fn send_to(&mut self, guest: SocketAddr) -> Result<SocketAddr, Error> {
        let now = Instant::now();
        if let Some(real) = self.flows.real(guest, now) {
            return Ok(real);
        }
        let real = self.pod.connect(Transport::Udp, guest)?;
        self.flows.add(guest, real, now);
        Ok(real)
    }

    /// Whom a datagram seems to come from.
    fn received_from(&mut self, real: SocketAddr) -> SocketAddr {
        self.flows.guest(real).unwrap_or_else(|| self.pod.visible(real))
    }
}

/// Which backend stands for which service in exchanges of datagrams.
#[derive(Default)]
struct Flows(Vec<Flow>);

struct Flow {
    guest: SocketAddr,
    real: SocketAddr,
    used: Instant,
}

impl Flows {
    fn real(&mut self, guest: SocketAddr, now: Instant) -> Option<SocketAddr> {
        self.0.retain(|flow| now.saturating_duration_since(flow.used) < FLOW_TIMEOUT);
        let flow = self.0.iter_mut().find(|flow| flow.guest == guest)?;
        flow.used = now;
        Some(flow.real)
    }

    fn guest(&self, real: SocketAddr) -> Option<SocketAddr> {
        self.0.iter().find(|flow| flow.real == real).map(|flow| flow.guest)
    }

    fn add(&mut self, guest: SocketAddr, real: SocketAddr, now: Instant) {
        if self.0.len() >= MAX_FLOWS {
            self.0.sort_by_key(|flow| std::cmp::Reverse(flow.used));
            self.0.truncate(MAX_FLOWS - 1);
        }
        self.0.push(Flow { guest, real, used: now });
    }
}

/// What a guest is told when the network refuses, in the words that 0.2 and 0.3 share.
enum Refusal {
    Denied,
    Refused,
    NoSuchName,
    Other,
}

fn refusal(error: &Error) -> Refusal {
    match error {
        Error::Denied(_) => Refusal::Denied,
        Error::NoEndpoint(_) => Refusal::Refused,
        Error::NoSuchName(_) => Refusal::NoSuchName,
        Error::Exhausted { .. } | Error::Io { .. } => Refusal::Other,
    }
}

/// The longest name that is looked up: DNS knows no longer one.
const MAX_NAME_BYTES: usize = 255;

async fn lookup(pod: &Pod, name: &str) -> Result<Vec<IpAddr>, Error> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(Error::NoSuchName(name.chars().take(MAX_NAME_BYTES).collect()));
    }
    pod.lookup(name).await.inspect_err(|error| tracing::debug!(name, %error, "a guest's lookup failed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn datagrams_of_a_flow_stay_with_their_backend_until_it_is_quiet() {
        let (service, backend) = (address("10.96.0.10:53"), address("10.64.0.2:53"));
        let mut flows = Flows::default();
        let start = Instant::now();
        assert_eq!(flows.real(service, start), None);
        flows.add(service, backend, start);
        assert_eq!(flows.real(service, start + FLOW_TIMEOUT / 2), Some(backend));
        assert_eq!(flows.guest(backend), Some(service));
        assert_eq!(flows.real(service, start + FLOW_TIMEOUT), Some(backend), "each use keeps it");
        assert_eq!(flows.real(service, start + FLOW_TIMEOUT * 3), None);
    }

    #[test]
    fn the_flow_unused_longest_makes_room() {
        let mut flows = Flows::default();
        let start = Instant::now();
        let service = |n: usize| SocketAddr::from(([10, 0, 0, 1], n as u16));
        for n in 0..=MAX_FLOWS {
            flows.add(service(n), service(n), start + Duration::from_millis(n as u64));
        }
        assert_eq!(flows.0.len(), MAX_FLOWS);
        assert_eq!(flows.guest(service(0)), None);
        assert_eq!(flows.guest(service(1)), Some(service(1)));
    }
}
