//! The address plan of a rootless cluster, and who on this node holds which address.
//!
//! Every address is in 127.0.0.0/8, where all are local. A pod has two: its own, and one that only its own guests are led to
//! when they say 127.0.0.1. Invariant: an address has one holder, and a freed one is reused last.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use crate::{Error, PodAddress};

/// An IPv4 prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    network: u32,
    bits: u8,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not an IPv4 prefix such as 127.64.0.0/20")]
pub struct PrefixError(String);

impl Prefix {
    pub const fn new(address: Ipv4Addr, bits: u8) -> Self {
        let mask = if bits == 0 { 0 } else { u32::MAX << (32 - bits) };
        Self { network: address.to_bits() & mask, bits }
    }

    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.size() > u64::from(address.to_bits().wrapping_sub(self.network))
    }

    pub fn size(&self) -> u64 {
        1 << (32 - self.bits)
    }

    /// The address at an offset from the start.
    pub fn at(&self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network + offset)
    }
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.network), self.bits)
    }
}

impl std::str::FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let parse = || {
            let (address, bits) = text.split_once('/')?;
            Some((address.parse().ok()?, bits.parse().ok().filter(|bits| *bits <= 32)?))
        };
        let (address, bits) = parse().ok_or_else(|| PrefixError(text.to_owned()))?;
        Ok(Self::new(address, bits))
    }
}

/// All pods of a rootless cluster.
pub const PODS: Prefix = Prefix::new(Ipv4Addr::new(127, 64, 0, 0), 12);
/// All services.
pub const SERVICES: Prefix = Prefix::new(Ipv4Addr::new(127, 96, 0, 0), 12);
/// The bit that turns a pod's address into its loopback's: the top one of the second octet.
const LOOPBACK_BIT: u32 = 1 << 23;

pub fn loopback_of(ip: Ipv4Addr) -> Ipv4Addr {
    Ipv4Addr::from_bits(ip.to_bits() | LOOPBACK_BIT)
}

/// The addresses of one node's pods.
pub struct PodAddresses {
    range: Prefix,
    by_uid: HashMap<String, Ipv4Addr>,
    held: std::collections::HashSet<Ipv4Addr>,
    /// The offset tried next; walks round the range so that a freed address rests.
    next: u32,
}

impl PodAddresses {
    pub fn new(range: Prefix) -> Self {
        Self { range, by_uid: HashMap::new(), held: Default::default(), next: 1 }
    }

    /// The first and last address of the range stay free, as network and broadcast do.
    pub fn allocate(&mut self, uid: &str) -> Result<PodAddress, Error> {
        if let Some(ip) = self.by_uid.get(uid) {
            return Ok(address(*ip));
        }
        let last = u32::try_from(self.range.size() - 1).unwrap_or(u32::MAX);
        for _ in 0..last {
            let offset = self.next;
            self.next = if offset + 1 >= last { 1 } else { offset + 1 };
            let ip = self.range.at(offset);
            if self.held.insert(ip) {
                self.by_uid.insert(uid.to_owned(), ip);
                return Ok(address(ip));
            }
        }
        Err(Error::Exhausted { range: self.range.to_string() })
    }

    pub fn release(&mut self, uid: &str) {
        if let Some(ip) = self.by_uid.remove(uid) {
            self.held.remove(&ip);
        }
    }
}

fn address(ip: Ipv4Addr) -> PodAddress {
    PodAddress { ip: IpAddr::V4(ip), loopback: IpAddr::V4(loopback_of(ip)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_holder_and_a_freed_one_is_reused_last() {
        let mut pods = PodAddresses::new("127.64.16.0/29".parse().unwrap());
        let given: Vec<IpAddr> =
            ["a", "b", "c", "d", "e", "f"].iter().map(|uid| pods.allocate(uid).unwrap().ip).collect();
        assert_eq!(given.iter().collect::<std::collections::HashSet<_>>().len(), 6);
        assert!(matches!(pods.allocate("g"), Err(Error::Exhausted { .. })));
        assert_eq!(pods.allocate("a").unwrap().ip, given[0], "the same pod keeps its address");
        pods.release("b");
        assert_eq!(pods.allocate("g").unwrap().ip, given[1]);
    }

    #[test]
    fn loopbacks_lie_outside_pods_and_services() {
        let IpAddr::V4(loopback) = address(PODS.at(5)).loopback else { panic!("rootless is IPv4") };
        assert_eq!(loopback, Ipv4Addr::new(127, 192, 0, 5));
        assert!(!PODS.contains(loopback) && !SERVICES.contains(loopback));
        assert!("127.0.0.0/33".parse::<Prefix>().is_err());
    }
}
