//! The network of a node without privileges: everything in 127.0.0.0/8.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::addresses::{PODS, PodAddresses, Prefix, SERVICES};
use crate::names::Names;
use crate::services::{Pick, Services};
use crate::{Error, Network, PodAddress, Transport};

/// How [`Rootless`] is built.
pub struct Options {
    /// This node's part of [`PODS`].
    pub pod_cidr: Prefix,
    pub services: Arc<Services>,
    pub names: Names,
}

pub struct Rootless {
    pods: Mutex<PodAddresses>,
    services: Arc<Services>,
    names: Names,
}

impl Rootless {
    pub fn new(options: Options) -> Self {
        let Options { pod_cidr, services, names } = options;
        Self { pods: Mutex::new(PodAddresses::new(pod_cidr)), services, names }
    }
}

/// Loopback addresses that no Service takes from a pod, whatever ranges are made.
const PLAIN_LOOPBACK: Prefix = Prefix::new(Ipv4Addr::new(127, 0, 0, 0), 16);

/// What a guest means by an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Any,
    Loopback,
    Cluster,
    Outside,
}

fn meaning(address: IpAddr) -> Meaning {
    let v4 = match address {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(v6) if v6.is_unspecified() => return Meaning::Any,
        IpAddr::V6(v6) if v6.is_loopback() => return Meaning::Loopback,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => v4,
            None => return Meaning::Outside,
        },
    };
    match v4 {
        Ipv4Addr::UNSPECIFIED => Meaning::Any,
        v4 if PODS.contains(v4) || SERVICES.contains(v4) => Meaning::Cluster,
        v4 if v4.is_loopback() => Meaning::Loopback,
        _ => Meaning::Outside,
    }
}

fn is_plain(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => PLAIN_LOOPBACK.contains(v4),
        IpAddr::V6(_) => true,
    }
}

#[async_trait]
impl Network for Rootless {
    fn allocate(&self, uid: &str) -> Result<PodAddress, Error> {
        self.pods.lock().allocate(uid)
    }

    fn release(&self, uid: &str) {
        self.pods.lock().release(uid);
    }

    fn bind(&self, pod: &PodAddress, address: SocketAddr) -> Result<SocketAddr, Error> {
        match meaning(address.ip()) {
            Meaning::Any => Ok(SocketAddr::new(pod.ip, address.port())),
            Meaning::Loopback => Ok(SocketAddr::new(pod.loopback, address.port())),
            Meaning::Cluster if address.ip() == pod.ip => Ok(address),
            Meaning::Cluster | Meaning::Outside => Err(Error::Denied(address)),
        }
    }

    fn connect(&self, pod: &PodAddress, transport: Transport, address: SocketAddr) -> Result<SocketAddr, Error> {
        match meaning(address.ip()) {
            // As on Linux, connecting to the unspecified address means this host: the pod.
            Meaning::Any => Ok(SocketAddr::new(pod.loopback, address.port())),
            // Services of a further range may have any address but those that every pod calls its own.
            Meaning::Loopback if is_plain(address.ip()) => Ok(SocketAddr::new(pod.loopback, address.port())),
            meaning @ (Meaning::Loopback | Meaning::Outside) => match self.services.pick(pod.ip, address, transport) {
                Pick::Backend(backend) => Ok(backend),
                Pick::Empty => Err(Error::NoEndpoint(address)),
                Pick::Unknown if meaning == Meaning::Loopback => Ok(SocketAddr::new(pod.loopback, address.port())),
                Pick::Unknown => Ok(address),
            },
            Meaning::Cluster => match self.services.pick(pod.ip, address, transport) {
                Pick::Backend(backend) => Ok(backend),
                Pick::Empty => Err(Error::NoEndpoint(address)),
                Pick::Unknown if matches!(address.ip(), IpAddr::V4(v4) if SERVICES.contains(v4)) => {
                    Err(Error::NoEndpoint(address))
                }
                Pick::Unknown => Ok(address),
            },
        }
    }

    fn visible(&self, pod: &PodAddress, address: SocketAddr) -> SocketAddr {
        if address.ip() == pod.loopback { SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port()) } else { address }
    }

    async fn lookup(&self, name: &str, searches: &[String]) -> Result<Vec<IpAddr>, Error> {
        self.names.lookup(name, searches).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::services::tests::{service, slice};

    fn network() -> (Rootless, PodAddress) {
        let services = Arc::new(Services::default());
        services.apply_service(service(
            "web",
            json!({ "clusterIP": "127.96.0.7", "ports": [{ "name": "http", "port": 80 }] }),
        ));
        services.apply_slice(slice("web", 8080, json!([{ "addresses": ["127.64.0.9"] }])));
        for (name, ip) in [("far", "203.0.113.10"), ("near", "127.200.0.7"), ("rude", "127.0.0.1")] {
            services
                .apply_service(service(name, json!({ "clusterIP": ip, "ports": [{ "name": "http", "port": 80 }] })));
            services.apply_slice(slice(name, 8080, json!([{ "addresses": ["127.64.0.9"] }])));
        }
        let names = Names::new(services.clone(), "cluster.local");
        let network = Rootless::new(Options { pod_cidr: "127.64.0.0/20".parse().unwrap(), services, names });
        let pod = network.allocate("uid").unwrap();
        (network, pod)
    }

    /// Where a guest's connect ends: an address, or `refused`.
    fn connect(to: &str, real: &str) {
        let (network, pod) = network();
        let got = network.connect(&pod, Transport::Tcp, to.parse().unwrap());
        assert_eq!(got.map_or_else(|_| "refused".to_owned(), |address| address.to_string()), real, "{to}");
    }

    #[test]
    fn guests_reach_backends_their_own_loopback_and_the_outside() {
        connect("127.96.0.7:80", "127.64.0.9:8080");
        connect("127.96.0.7:81", "refused");
        connect("127.96.9.9:80", "refused");
        connect("127.64.0.9:8080", "127.64.0.9:8080");
        connect("127.0.0.1:7000", "127.192.0.1:7000");
        connect("93.184.216.34:80", "93.184.216.34:80");
    }

    #[test]
    fn services_of_further_ranges_are_reached() {
        connect("203.0.113.10:80", "127.64.0.9:8080");
        connect("203.0.113.10:81", "203.0.113.10:81");
        connect("127.200.0.7:80", "127.64.0.9:8080");
        connect("127.0.0.1:80", "127.192.0.1:80");
    }

    #[test]
    fn nobody_reaches_a_neighbours_loopback() {
        connect("127.192.0.9:7000", "127.192.0.1:7000");
    }

    #[test]
    fn guests_bind_their_own_addresses_only() {
        let (network, pod) = network();
        let bind = |text: &str| network.bind(&pod, text.parse().unwrap()).map(|address| address.to_string()).ok();
        assert_eq!(bind("0.0.0.0:80").as_deref(), Some("127.64.0.1:80"));
        assert_eq!(bind("127.0.0.1:80").as_deref(), Some("127.192.0.1:80"));
        assert_eq!(bind("127.64.0.1:80").as_deref(), Some("127.64.0.1:80"));
        assert_eq!(bind("127.64.0.2:80"), None);
        assert_eq!(bind("10.0.0.1:80"), None);
        assert_eq!(network.visible(&pod, "127.192.0.1:80".parse().unwrap()).to_string(), "127.0.0.1:80");
    }
}
