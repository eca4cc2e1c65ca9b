//! A sandbox as its guests see it: addresses, hostname and names.
//!
//! Guest `0.0.0.0` is the pod's address and guest `127.0.0.0/8` a loopback private to the pod; a service's backend is chosen
//! when a guest connects. All of it is decided by [`Network`]; this file adds what the pod knows of itself.
//! Absent on purpose: any state of the network (an address belongs to the sandbox record).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::net::TcpStream;

use wharf_net::{Error, Network, PodAddress, Transport};

use crate::host::outgoing::Client;

/// How long a forwarded connection to a port of the pod may take to come about.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

pub struct Pod {
    pub uid: String,
    pub hostname: String,
    pub searches: Vec<String>,
    address: PodAddress,
    host_network: bool,
    network: Arc<dyn Network>,
    /// Connections for outgoing HTTP, made when a guest first sends a request.
    client: OnceLock<Client>,
}

impl Pod {
    pub fn new(
        uid: String,
        hostname: String,
        searches: Vec<String>,
        address: PodAddress,
        network: Arc<dyn Network>,
    ) -> Pod {
        Pod { uid, hostname, searches, address, host_network: false, network, client: OnceLock::new() }
    }

    /// A pod with `hostNetwork`: its sockets are the host's.
    pub fn on_host(uid: String, hostname: String, searches: Vec<String>, network: Arc<dyn Network>) -> Pod {
        let address = PodAddress { ip: Ipv4Addr::UNSPECIFIED.into(), loopback: Ipv4Addr::LOCALHOST.into() };
        Pod { host_network: true, ..Pod::new(uid, hostname, searches, address, network) }
    }

    /// None for a pod on the host's network.
    pub fn ip(&self) -> Option<IpAddr> {
        (!self.host_network).then_some(self.address.ip)
    }

    pub fn client(self: &Arc<Self>) -> &Client {
        self.client.get_or_init(|| Client::new(Arc::downgrade(self)))
    }

    /// The real address for a guest's bind.
    pub fn bind(&self, address: SocketAddr) -> Result<SocketAddr, Error> {
        if self.host_network { Ok(address) } else { self.network.bind(&self.address, address) }
    }

    /// The real address for a guest's connect.
    pub fn connect(&self, transport: Transport, address: SocketAddr) -> Result<SocketAddr, Error> {
        self.network.connect(&self.address, transport, address)
    }

    /// What an unbound socket is bound to before it connects to `real`, so that the peer sees the pod; none leaves the choice to
    /// the kernel, as it must be where the pod's address is a loopback address that cannot reach `real`.
    pub fn source(&self, real: SocketAddr) -> Option<SocketAddr> {
        let own = if real.ip() == self.address.loopback { self.address.loopback } else { self.address.ip };
        let reaches = !own.is_loopback() || real.ip().is_loopback();
        (!self.host_network && reaches && own.is_ipv4() == real.is_ipv4()).then_some(SocketAddr::new(own, 0))
    }

    /// A connection from outside to what listens in the pod: on its loopback, else on its address.
    pub async fn dial(&self, port: u16) -> Result<TcpStream, String> {
        let mut why = "connect: connection refused".to_owned();
        let loopback = Some(self.address.loopback);
        for ip in loopback.into_iter().chain(self.ip()) {
            match tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect((ip, port))).await {
                Ok(Ok(stream)) => {
                    // Without it the client's small writes would wait for each other.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
                Ok(Err(error)) => why = format!("connect: {error}"),
                Err(_) => why = "i/o timeout".to_owned(),
            }
        }
        Err(why)
    }

    /// What a guest sees for a real address.
    pub fn visible(&self, address: SocketAddr) -> SocketAddr {
        if self.host_network { address } else { self.network.visible(&self.address, address) }
    }

    /// Addresses of a name: what `/etc/hosts` of the pod would say, then the network's answer.
    pub async fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, Error> {
        if let Ok(ip) = name.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(vec![ip]);
        }
        let plain = name.strip_suffix('.').unwrap_or(name);
        if plain.eq_ignore_ascii_case("localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into()]);
        }
        if let Some(ip) = self.ip().filter(|_| plain.eq_ignore_ascii_case(&self.hostname)) {
            return Ok(vec![ip]);
        }
        self.network.lookup(name, &self.searches).await
    }
}
