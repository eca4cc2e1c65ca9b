//! A block of IPv4 addresses, and in which order its addresses are tried.
//!
//! Source: `NewIPAllocator`, `calculateRangeOffset` and `ipIterator` of `pkg/registry/core/service/ipallocator`.

use std::net::Ipv4Addr;

use rand::{Rng, RngCore};

/// Addresses at the beginning of a range that random choice leaves to people, at least and at most (upstream's KEP-3070).
const BAND: (u64, u64) = (16, 256);
/// Which part of a range that is, between the two.
const BAND_PART: u64 = 16;

/// A block of IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: u32,
    prefix: u8,
}

#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not an IPv4 range such as 127.96.0.0/12 with room for 16 addresses")]
pub struct CidrError(String);

/// A range that a server is started with.
impl std::str::FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let fits = |cidr: &Self| (4..=28).contains(&cidr.prefix) && u64::from(cidr.base) & (cidr.size() - 1) == 0;
        Self::block(text).filter(fits).ok_or_else(|| CidrError(text.to_owned()))
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

impl Cidr {
    /// A block of any size; none where the text is no block of IPv4.
    pub fn block(text: &str) -> Option<Self> {
        let (base, prefix) = text.split_once('/')?;
        let (base, prefix): (Ipv4Addr, u8) = (base.parse().ok()?, prefix.parse().ok()?);
        (prefix <= 32).then(|| Self { base: u32::from(base), prefix })
    }

    fn size(self) -> u64 {
        1 << (32 - u32::from(self.prefix))
    }

    /// The address at a place in the range; the first usable one is at 1.
    pub fn address(self, place: u32) -> Ipv4Addr {
        // What is left of the division is below the size, which is 2^32 at most.
        let within = (u64::from(place) % self.size()) as u32;
        Ipv4Addr::from(self.base.wrapping_add(within))
    }

    /// True for an address that may be handed out: not the network's nor the broadcast's.
    pub fn has(self, address: Ipv4Addr) -> bool {
        let place = u64::from(u32::from(address)).checked_sub(u64::from(self.base));
        place.is_some_and(|place| place > 0 && place < self.size() - 1)
    }

    /// All addresses that may be handed out, each once: after a random one and around the end, those of the band last.
    pub fn candidates(self, rng: &mut dyn RngCore) -> impl Iterator<Item = Ipv4Addr> + Send + use<> {
        let last = self.size().saturating_sub(2);
        let band = match self.size() {
            size if size <= BAND.0 => 0,
            size => (size / BAND_PART).clamp(BAND.0, BAND.1).min(last),
        };
        let places = around(band + 1, last, rng).chain(around(1, band, rng));
        places.filter_map(|place| u32::try_from(place).ok()).map(move |place| self.address(place))
    }
}

/// The numbers from `low` to `high`, both among them, beginning at a random one.
fn around(low: u64, high: u64, rng: &mut dyn RngCore) -> impl Iterator<Item = u64> + Send + use<> {
    let start = if low <= high { rng.random_range(low..=high) } else { low };
    (start..=high).chain(low..start)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn block(text: &str) -> Cidr {
        Cidr::block(text).expect("a block")
    }

    #[test]
    fn every_address_but_the_networks_and_the_broadcasts_comes_once() {
        let seed = rand::random();
        let mut rng = StdRng::seed_from_u64(seed);
        for (text, count) in [
            ("10.0.0.0/32", 0),
            ("10.0.0.0/31", 0),
            ("10.0.0.0/30", 2),
            ("10.0.0.0/28", 14),
            ("10.0.0.0/27", 30),
            ("255.255.255.0/24", 254),
        ] {
            let all: Vec<Ipv4Addr> = block(text).candidates(&mut rng).collect();
            let different: BTreeSet<Ipv4Addr> = all.iter().copied().collect();
            assert_eq!((all.len(), different.len()), (count, count), "{text} seed {seed}");
            assert!(all.iter().all(|address| block(text).has(*address)), "{text} seed {seed}: {all:?}");
        }
    }

    #[test]
    fn the_band_comes_last() {
        let seed = rand::random();
        let mut rng = StdRng::seed_from_u64(seed);
        let all: Vec<Ipv4Addr> = block("10.0.0.0/26").candidates(&mut rng).collect();
        let (first, rest) = all.split_at(62 - 16);
        assert!(first.iter().all(|address| address.octets()[3] > 16), "seed {seed}: {first:?}");
        assert!(rest.iter().all(|address| address.octets()[3] <= 16), "seed {seed}: {rest:?}");
    }

    #[test]
    fn a_servers_own_range_has_room_and_begins_where_it_says() {
        for good in ["127.96.0.0/12", "10.0.0.0/28"] {
            assert_eq!(good.parse::<Cidr>().map(|cidr| cidr.to_string()), Ok(good.to_owned()));
        }
        for bad in ["127.96.0.0/2", "10.0.0.0/29", "10.0.0.1/24", "fd00::/108", "10.0.0.0", "10.0.0.0/33"] {
            assert_eq!(bad.parse::<Cidr>(), Err(CidrError(bad.to_owned())));
        }
    }
}
