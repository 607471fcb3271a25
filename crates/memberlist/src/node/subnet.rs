//! Networks by prefix, to say who may talk to us. Text and membership only: who asks is the
//! driver's business.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// Bits before an IPv4 address where it is written as an IPv6 one.
const MAPPED_BITS: u8 = 96;

/// A network such as `10.0.0.0/8` or `fd00::/8`. An address alone is a network of one host.
///
/// IPv4 addresses and IPv6 addresses that only wrap one are the same here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// Without host bits.
    ip: IpAddr,
    prefix_bits: u8,
}

/// The text is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network: expected ADDRESS/BITS without bits set behind them, or an address")]
pub struct SubnetError(String);

impl Subnet {
    /// Whether the address is in this network.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_ipv4() == self.ip.is_ipv4() && masked(ip, self.prefix_bits) == self.ip
    }
}

/// The address with all bits after the first `prefix_bits` cleared.
fn masked(ip: IpAddr, prefix_bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            let mask = u32::MAX
                .checked_shl(32_u32.saturating_sub(prefix_bits.into()))
                .unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX
                .checked_shl(128_u32.saturating_sub(prefix_bits.into()))
                .unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

/// An IPv4 network in the clothes of an IPv6 one, undressed.
fn canonical(v6: Ipv6Addr, prefix_bits: u8) -> (IpAddr, u8) {
    match v6.to_ipv4_mapped() {
        Some(v4) if prefix_bits >= MAPPED_BITS => (v4.into(), prefix_bits - MAPPED_BITS),
        _ => (v6.into(), prefix_bits),
    }
}

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let refused = || SubnetError(text.to_owned());
        let (ip, bits) = match text.split_once('/') {
            Some((ip, bits)) => (ip, Some(bits)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| refused())?;
        let bits_max = if ip.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match bits {
            None => bits_max,
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => {
                bits.parse().map_err(|_| refused())?
            }
            Some(_) => return Err(refused()),
        };
        if prefix_bits > bits_max || masked(ip, prefix_bits) != ip {
            return Err(refused());
        }
        let (ip, prefix_bits) = match ip {
            IpAddr::V4(_) => (ip, prefix_bits),
            IpAddr::V6(v6) => canonical(v6, prefix_bits),
        };
        Ok(Self { ip, prefix_bits })
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_its_own_and_nobody_else() {
        let rows = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.0.0.0/8", "a00::1", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.2", false),
            ("10.1.2.2/31", "10.1.2.3", true),
            ("0.0.0.0/0", "255.1.2.3", true),
            ("0.0.0.0/0", "fd00::1", false),
            ("::/0", "fd00::1", true),
            ("fd00::/8", "fdff::1", true),
            ("fd00::/8", "fe80::1", false),
            ("fd00::1", "fd00::1", true),
            ("::ffff:10.0.0.0/104", "10.9.9.9", true),
            ("::ffff:10.0.0.0/104", "11.9.9.9", false),
        ];
        for (network, ip, expected) in rows {
            let network: Subnet = network.parse().unwrap();
            assert_eq!(
                network.contains(ip.parse().unwrap()),
                expected,
                "{network} {ip}"
            );
            assert_eq!(network.to_string().parse(), Ok(network));
        }
    }

    #[test]
    fn what_is_no_network_is_named() {
        for text in [
            "",
            "/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0.1/8",
            "10.0.0/8",
            "fd00::/129",
            "fd00::1/64",
            "10.0.0.0/8/8",
            "10.0.0.0/999999",
            "host",
        ] {
            let error = text.parse::<Subnet>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{text:?} is no network")),
                "{error}"
            );
        }
    }
}
