//! Address blocks, as validation asks of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address and how many of its first bits count: `10.1.2.3/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    pub address: IpAddr,
    pub bits: u8,
}

impl Block {
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        let block = Self { address: address.parse().ok()?, bits: bits.parse().ok()? };
        (block.bits <= block.width()).then_some(block)
    }

    /// How many bits an address has.
    pub fn width(self) -> u8 {
        if self.address.is_ipv4() { 32 } else { 128 }
    }

    /// The first address of the block.
    pub fn first(self) -> IpAddr {
        let cut = u32::from(self.width() - self.bits);
        match self.address {
            IpAddr::V4(v4) => Ipv4Addr::from_bits((u64::from(v4.to_bits()) >> cut << cut) as u32).into(),
            IpAddr::V6(v6) => {
                Ipv6Addr::from_bits(v6.to_bits().checked_shr(cut).unwrap_or(0).checked_shl(cut).unwrap_or(0)).into()
            }
        }
    }

    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && Self { address, ..self }.first() == self.first()
    }
}

impl std::fmt::Display for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_begin_at_their_first_address() {
        for (text, first) in [
            ("10.1.2.3/8", "10.0.0.0"),
            ("10.1.2.3/0", "0.0.0.0"),
            ("10.1.2.3/32", "10.1.2.3"),
            ("2001:db8::1/32", "2001:db8::"),
            ("2001:db8::1/0", "::"),
        ] {
            assert_eq!(Block::parse(text).unwrap().first().to_string(), first, "{text}");
        }
        for bad in ["10.1.2.3", "10.1.2.3/33", "::/129", "a/8", "10.1.2/8"] {
            assert_eq!(Block::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn families_do_not_mix() {
        let block = Block::parse("10.0.0.0/8").unwrap();
        assert!(block.contains("10.9.9.9".parse().unwrap()) && !block.contains("11.0.0.0".parse().unwrap()));
        assert!(!block.contains("::".parse().unwrap()));
    }
}
