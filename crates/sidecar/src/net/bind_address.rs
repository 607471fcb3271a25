//! The address clients of this host connect to, and the address other hosts are told.
//!
//! Services are reached at `192.168.168.168:<ServicePort>` on every host: an address that routes
//! nowhere, which containers on a bridge reach through their host. It has to be on some interface;
//! this module puts it on the loopback interface when it is on none. On Linux through netlink;
//! elsewhere it only says how. Nothing is logged here, the caller tells.
//!
//! The address is never taken away again: an agent that stops cannot know who else uses it (another
//! agent, HAProxy or Envoy on this host, established connections).

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

/// What became of the wish for a bind address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindAddress {
    /// It was there already.
    Present(IpAddr),
    /// It was added to the loopback interface, and stays there when this process ends.
    Added(IpAddr),
    /// It is not there and could not be added: only clients on this host can use the services.
    Fallback {
        /// The address wished for.
        wanted: IpAddr,
        /// The loopback address of the same family, to use instead.
        used: IpAddr,
        /// Why it could not be added.
        reason: String,
        /// The command that would add it, for a user who may.
        remedy: String,
    },
}

impl BindAddress {
    /// The address to bind.
    pub fn ip(&self) -> IpAddr {
        match self {
            Self::Present(ip) | Self::Added(ip) | Self::Fallback { used: ip, .. } => *ip,
        }
    }
}

/// Makes sure that `wanted` can be bound; `0.0.0.0`, `::` and loopback addresses always can.
pub async fn ensure(wanted: IpAddr) -> BindAddress {
    if is_present(wanted).await {
        return BindAddress::Present(wanted);
    }
    match add(wanted).await {
        Ok(()) => BindAddress::Added(wanted),
        Err(reason) => BindAddress::Fallback {
            wanted,
            used: loopback(wanted),
            reason,
            remedy: remedy(wanted),
        },
    }
}

/// Whether this host has the address, without adding it.
pub async fn is_present(wanted: IpAddr) -> bool {
    is_always_there(wanted) || is_there(wanted).await
}

/// The command that adds the address, for a user who may.
pub fn command_to_add(wanted: IpAddr) -> String {
    remedy(wanted)
}

/// Whether this process could add an address, found out by trying something that changes nothing.
///
/// # Errors
/// Why it could not.
pub async fn may_add() -> Result<(), String> {
    #[cfg(target_os = "linux")]
    {
        let tried = super::netlink::may_change_addresses().await;
        tried.map_err(|error| error.to_string())
    }
    #[cfg(not(target_os = "linux"))]
    {
        Err("this system's interfaces can only be changed by its administrator".to_owned())
    }
}

/// The first private address of this host that is not excluded: in the order of the interfaces,
/// inside 10/8, 172.16/12 or 192.168/16. `None` when there is none (hosts with only public or IPv6
/// addresses are told their address).
///
/// Bind addresses belong into `exclude`: every host has the same one, and it stays on the loopback
/// interface, which comes first.
///
/// On Linux the kernel lists the addresses. Elsewhere only one is looked at: the source address for
/// the default route (a UDP socket is connected, which sends nothing).
pub async fn first_private_ipv4(exclude: &[IpAddr]) -> Option<Ipv4Addr> {
    first_private(&own_addresses().await, exclude)
}

fn first_private(addresses: &[IpAddr], exclude: &[IpAddr]) -> Option<Ipv4Addr> {
    addresses
        .iter()
        .filter(|address| !exclude.contains(address))
        .find_map(|address| match address {
            IpAddr::V4(address) if address.is_private() => Some(*address),
            _ => None,
        })
}

/// All of 127/8 is bound to Linux's loopback interface, but only 127.0.0.1 elsewhere.
fn is_always_there(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) if v4.is_loopback() => {
            cfg!(target_os = "linux") || v4 == Ipv4Addr::LOCALHOST
        }
        address => address.is_unspecified() || address.is_loopback(),
    }
}

/// Whether a socket can have the address. That is not the same as an interface having it: Linux
/// lets broadcast addresses be bound, and everything in a network namespace without addresses.
fn can_bind(address: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(address, 0)).is_ok()
}

fn loopback(wanted: IpAddr) -> IpAddr {
    match wanted {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
    }
}

#[cfg(target_os = "linux")]
fn remedy(wanted: IpAddr) -> String {
    let prefix_bits = if wanted.is_ipv4() { 32 } else { 128 };
    format!("ip address add {wanted}/{prefix_bits} dev lo")
}

#[cfg(not(target_os = "linux"))]
fn remedy(wanted: IpAddr) -> String {
    let (family, prefix_bits) = if wanted.is_ipv4() {
        ("inet", 32)
    } else {
        ("inet6", 128)
    };
    format!("ifconfig lo0 {family} {wanted}/{prefix_bits} alias")
}

#[cfg(target_os = "linux")]
async fn is_there(wanted: IpAddr) -> bool {
    match super::netlink::addresses().await {
        Ok(addresses) => addresses.contains(&wanted),
        Err(error) => {
            tracing::debug!(%error, "cannot list addresses; trying to bind {wanted} instead");
            can_bind(wanted)
        }
    }
}

#[cfg(not(target_os = "linux"))]
async fn is_there(wanted: IpAddr) -> bool {
    can_bind(wanted)
}

#[cfg(target_os = "linux")]
async fn add(wanted: IpAddr) -> Result<(), String> {
    super::netlink::add_to_loopback(wanted)
        .await
        .map_err(|error| error.to_string())?;
    if can_bind(wanted) {
        Ok(())
    } else {
        Err("it was added but cannot be bound".to_owned())
    }
}

#[cfg(not(target_os = "linux"))]
async fn add(_wanted: IpAddr) -> Result<(), String> {
    Err("this system's interfaces can only be changed by its administrator".to_owned())
}

#[cfg(target_os = "linux")]
async fn own_addresses() -> Vec<IpAddr> {
    match super::netlink::addresses().await {
        Ok(addresses) => addresses,
        Err(error) => {
            tracing::debug!(%error, "cannot list addresses; asking for the default route's");
            default_route_address().into_iter().collect()
        }
    }
}

#[cfg(not(target_os = "linux"))]
async fn own_addresses() -> Vec<IpAddr> {
    default_route_address().into_iter().collect()
}

/// The source address of packets that leave this host. The destination is of a block reserved for
/// documentation; connecting a UDP socket only looks up the route and sends nothing.
fn default_route_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[tokio::test]
    async fn what_every_host_has_is_present() {
        for text in ["127.0.0.1", "0.0.0.0", "::", "::1"] {
            let wanted = text.parse().unwrap();
            assert_eq!(ensure(wanted).await, BindAddress::Present(wanted));
        }
    }

    #[test]
    fn address_of_a_documentation_block_is_on_no_interface() {
        assert!(can_bind("127.0.0.1".parse().unwrap()));
        assert!(!can_bind("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn fallback_is_the_loopback_address_of_the_family_with_a_command_that_helps() {
        let v4 = "192.168.168.168".parse().unwrap();
        let v6 = "fd00::168".parse().unwrap();
        assert_eq!(
            [loopback(v4), loopback(v6)],
            *addresses(&["127.0.0.1", "::1"])
        );
        if cfg!(target_os = "linux") {
            assert_eq!(remedy(v4), "ip address add 192.168.168.168/32 dev lo");
            assert_eq!(remedy(v6), "ip address add fd00::168/128 dev lo");
        } else {
            assert_eq!(remedy(v4), "ifconfig lo0 inet 192.168.168.168/32 alias");
        }
    }

    #[test]
    fn first_private_address_in_order_that_is_not_excluded_is_advertised() {
        let own = addresses(&[
            "127.0.0.1",
            "192.168.168.168",
            "fd00::1",
            "100.64.0.1",
            "172.32.0.1",
            "172.31.255.1",
            "10.0.0.1",
        ]);
        let exclude = addresses(&["192.168.168.168"]);
        let first = |exclude: &[IpAddr]| first_private(&own, exclude).map(|it| it.to_string());
        assert_eq!(first(&exclude).as_deref(), Some("172.31.255.1"));
        assert_eq!(first(&[]).as_deref(), Some("192.168.168.168"));
        assert_eq!(
            first(&addresses(&["192.168.168.168", "172.31.255.1", "10.0.0.1"])),
            None
        );
    }
}
