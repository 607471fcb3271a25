//! Which routes are the kernel's. What it cannot do is left to the built-in proxy, and why.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use catalog::ProxyMode;

use crate::routes::Route;

/// Why a route in tcp mode is not the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(super) enum Left {
    /// NAT does not lead from one family to the other.
    #[error("an endpoint is of another address family than the bind address")]
    Family,
    /// Packets to such an address do not leave or enter a host.
    #[error("an endpoint has a loopback or link-local address")]
    Scope,
    /// What is translated once is not translated again.
    #[error("an endpoint is another service of this proxy")]
    Chained,
    /// The agent's own ports have to stay reachable.
    #[error("the ServicePort is one of the agent's own")]
    Reserved,
    /// Mostly one that Docker publishes without its userland proxy: its own translation would not see what
    /// was translated already.
    #[error(
        "nobody is seen to accept connections at an endpoint on this host, so that others may translate it"
    )]
    Unlistened,
}

/// Why the kernel can serve nothing at this bind address; `None` if it can.
pub(super) fn unusable(bind: IpAddr) -> Option<&'static str> {
    if bind.is_unspecified() {
        return Some(
            "services are reached at all addresses, and would hide other ports of this host",
        );
    }
    bind.is_loopback().then_some(
        "services are reached at a loopback address, from which no packet leaves the host",
    )
}

/// Where the kernel sends the connections of a route, with weights. Instances that share an address are one
/// endpoint with the largest of their weights; one that announces the proxy itself is left out.
///
/// # Errors
/// Why it cannot.
pub(super) fn endpoints(
    bind: IpAddr,
    port: u16,
    reserved: &[u16],
    unlistened: &BTreeSet<SocketAddr>,
    route: &Route,
) -> Result<BTreeMap<SocketAddr, u8>, Left> {
    if reserved.contains(&port) {
        return Err(Left::Reserved);
    }
    let mut weights = BTreeMap::<_, u8>::new();
    for endpoint in &route.endpoints {
        let address = endpoint.address;
        if address == SocketAddr::new(bind, port) {
            continue;
        }
        if address.ip() == bind {
            return Err(Left::Chained);
        }
        if address.is_ipv4() != bind.is_ipv4() {
            return Err(Left::Family);
        }
        if is_scoped(address.ip()) {
            return Err(Left::Scope);
        }
        if unlistened.contains(&address) {
            return Err(Left::Unlistened);
        }
        let weight = weights.entry(address).or_default();
        *weight = endpoint.weight.max(*weight);
    }
    if weights.is_empty() {
        return Err(Left::Chained);
    }
    Ok(weights)
}

fn is_scoped(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified(),
    }
}

/// Whether a route is for the kernel at all.
pub(super) fn is_tcp(route: &Route) -> bool {
    route.mode == ProxyMode::Tcp
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::Endpoint;

    fn route(addresses: &[(&str, u8)]) -> Route {
        Route {
            service: "db".to_owned(),
            mode: ProxyMode::Tcp,
            endpoints: addresses
                .iter()
                .map(|(address, weight)| Endpoint {
                    hostname: "a".to_owned(),
                    id: "1".to_owned(),
                    address: address.parse().unwrap(),
                    weight: *weight,
                })
                .collect(),
        }
    }

    fn decide(bind: &str, addresses: &[(&str, u8)]) -> Result<usize, Left> {
        let unlistened = BTreeSet::from(["10.0.0.9:80".parse().unwrap()]);
        let bind = bind.parse().unwrap();
        endpoints(bind, 10_000, &[7777], &unlistened, &route(addresses)).map(|it| it.len())
    }

    #[test]
    fn kernel_takes_what_one_translation_can_reach() {
        let v4 = "192.168.168.168";
        assert_eq!(decide(v4, &[("10.0.0.1:80", 1), ("10.0.0.2:80", 3)]), Ok(2));
        assert_eq!(decide("fd00::168", &[("[fd00::1]:80", 1)]), Ok(1));
        // Two instances behind one address, and one that announces the proxy.
        let twice = [
            ("10.0.0.1:80", 1),
            ("10.0.0.1:80", 3),
            ("192.168.168.168:10000", 1),
        ];
        assert_eq!(decide(v4, &twice), Ok(1));
        for (address, left) in [
            ("[fd00::1]:80", Left::Family),
            ("127.0.0.1:80", Left::Scope),
            ("169.254.1.1:80", Left::Scope),
            ("192.168.168.168:10001", Left::Chained),
            ("192.168.168.168:10000", Left::Chained),
            ("10.0.0.9:80", Left::Unlistened),
        ] {
            assert_eq!(decide(v4, &[(address, 1)]), Err(left), "{address}");
        }
        let none = BTreeSet::new();
        let fine = route(&[("10.0.0.1:80", 1)]);
        let own = endpoints(v4.parse().unwrap(), 7777, &[7777], &none, &fine);
        assert_eq!(own, Err(Left::Reserved));
    }

    #[test]
    fn kernel_needs_a_bind_address_of_its_own() {
        let is_usable = |bind: &str| unusable(bind.parse().unwrap()).is_none();
        assert!(is_usable("192.168.168.168") && is_usable("fd00::168"));
        for bind in ["0.0.0.0", "::", "127.0.0.1", "::1"] {
            assert!(!is_usable(bind), "{bind}");
        }
    }
}
