//! Blocks of addresses as people write them: `10.0.0.0/8`, `fd00::/8`, or one address.

use core::net::IpAddr;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// All addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    first: IpAddr,
    prefix_len: u8,
}

/// Why a text is no block of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a block of addresses: write one as \"10.0.0.0/8\" or \"fd00::/8\", or a single address, and IPv4 as IPv4"
)]
pub struct CidrError(String);

impl Cidr {
    /// The addresses of this machine alone.
    pub fn loopback() -> Vec<Self> {
        let v4 = Self {
            first: IpAddr::from([127, 0, 0, 0]),
            prefix_len: 8,
        };
        let v6 = Self {
            first: IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
            prefix_len: 128,
        };
        vec![v4, v6]
    }

    /// Whether an address belongs to the block. An IPv4 address that comes through an IPv6 socket is an IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.first.is_ipv4()
            && masked(address, self.prefix_len) == masked(self.first, self.prefix_len)
    }
}

/// The bits of an address from the left, the rest zero. Both families are put at the left of 128 bits.
fn masked(address: IpAddr, prefix_len: u8) -> u128 {
    let bits = match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)) << 96,
        IpAddr::V6(v6) => u128::from(v6),
    };
    let shift = 128 - u32::from(prefix_len);
    u128::MAX.checked_shl(shift).unwrap_or(0) & bits
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let error = || CidrError(text.to_owned());
        let (address, prefix_len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(len)),
            None => (text, None),
        };
        let first: IpAddr = address.parse().map_err(|_| error())?;
        let most = if first.is_ipv4() { 32 } else { 128 };
        let prefix_len: u8 = match prefix_len {
            Some(len) => len.parse().map_err(|_| error())?,
            None => most,
        };
        if prefix_len > most {
            return Err(error());
        }
        // Clients are judged by their IPv4 address, however it is written. A block that holds all of these and more would
        // match none of them.
        match (first, first.to_canonical()) {
            (IpAddr::V6(_), first @ IpAddr::V4(_)) => {
                let prefix_len = prefix_len.checked_sub(96).ok_or_else(error)?;
                Ok(Self { first, prefix_len })
            }
            _ => Ok(Self { first, prefix_len }),
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix_len)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_holds_the_addresses_that_begin_alike() {
        for (block, address, inside) in [
            ("10.0.0.0/8", "10.255.1.2", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("192.168.1.7", "192.168.1.7", true),
            ("192.168.1.7", "192.168.1.6", false),
            ("0.0.0.0/0", "8.8.8.8", true),
            ("0.0.0.0/0", "fd00::1", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "::ffff:10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "11.0.0.1", false),
            ("::ffff:192.168.1.7", "192.168.1.7", true),
            ("::ffff:0:0/96", "8.8.8.8", true),
            ("172.16.0.0/12", "172.31.255.255", true),
            ("172.16.0.0/12", "172.32.0.0", false),
            ("fd00::/8", "fdff::1", true),
            ("fd00::/8", "fe00::1", false),
            ("::/0", "::1", true),
        ] {
            let parsed: Cidr = block.parse().unwrap();
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(parsed.contains(address), inside, "{block} {address}");
        }
    }

    #[test]
    fn what_is_no_block_is_refused_and_what_is_shown_is_read_back() {
        for text in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0/8",
            "host",
            "10.0.0.0/",
            "10.0.0.0/-1",
            "::ffff:10.0.0.0/8",
        ] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
        for text in ["10.0.0.0/8", "::1/128", "127.0.0.1", "::ffff:10.0.0.0/104"] {
            let block: Cidr = text.parse().unwrap();
            assert_eq!(block.to_string().parse(), Ok(block));
        }
    }
}
