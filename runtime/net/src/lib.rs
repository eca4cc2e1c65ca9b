//! Pod addresses, service routing and names.
//!
//! The engine asks three questions at the moment a guest binds, connects or looks up: [`Network`] answers them.
//! Rootless: pod and service addresses come from 127.0.0.0/8, where every address is local, so nothing needs privileges.
//! Invariants: an address belongs to one live sandbox at a time; a backend is chosen at connect time, from ready endpoints only.
//! Absent on purpose: packet forwarding for guests (their sockets are host calls); network policy, ingress and routed mode (later).

pub mod addresses;
pub mod dns;
pub mod names;
pub mod proxy;
pub mod rootless;
pub mod services;
pub mod watch;

use std::net::{IpAddr, SocketAddr};

use async_trait::async_trait;

/// Where a guest's sockets live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodAddress {
    /// What guest `0.0.0.0` means.
    pub ip: IpAddr,
    /// What guest `127.0.0.0/8` and `localhost` mean: private to the pod, shared by its containers.
    pub loopback: IpAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    Tcp,
    Udp,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no free pod address in {range}")]
    Exhausted { range: String },
    /// A service address without a ready endpoint: the guest sees a refused connection.
    #[error("no ready endpoint for {0}")]
    NoEndpoint(SocketAddr),
    /// The pod may not talk to this address.
    #[error("connection to {0} is not permitted")]
    Denied(SocketAddr),
    #[error("no such name: {0}")]
    NoSuchName(String),
    #[error("{operation}")]
    Io {
        operation: &'static str,
        #[source]
        source: std::io::Error,
    },
}

/// The node's network as the engine sees it.
#[async_trait]
pub trait Network: Send + Sync + 'static {
    /// Gives a sandbox its address. The same `uid` gets the same address until it is released.
    fn allocate(&self, uid: &str) -> Result<PodAddress, Error>;
    fn release(&self, uid: &str);
    /// The real address to bind for a guest's bind to `address`.
    fn bind(&self, pod: &PodAddress, address: SocketAddr) -> Result<SocketAddr, Error>;
    /// The real address to connect (or send) to for a guest's connect to `address`: a service's backend, chosen now; the
    /// pod's loopback; or the address itself.
    fn connect(&self, pod: &PodAddress, transport: Transport, address: SocketAddr) -> Result<SocketAddr, Error>;
    /// The address a guest must see for a real one (its own loopback shows as 127.0.0.1).
    fn visible(&self, pod: &PodAddress, address: SocketAddr) -> SocketAddr;
    /// Looks a name up as the pod's resolv.conf would: `searches` in order, cluster names first, then the host's resolver.
    async fn lookup(&self, name: &str, searches: &[String]) -> Result<Vec<IpAddr>, Error>;
}
