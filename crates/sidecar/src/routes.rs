//! Which well-known port leads to which endpoints: the one place where ports, modes and collisions
//! are decided. Every data plane applies its result and decides nothing itself.
//!
//! What is decided, in this order:
//! 1. Only alive instances count, and of them only TCP ports with a ServicePort: each is a claim.
//! 2. A claim that no traffic could follow (no address, no real port, a mode nobody knows) is left
//!    out. It neither owns a port nor sets a mode: it would keep others from being served.
//! 3. The mode of a service is that of its oldest instance; instances with another are left out.
//! 4. A ServicePort belongs to the service of the oldest instance that still claims it; then by name.
//!
//! Nothing depends on stamps of refreshes, on the order of arrival or on this host, so every host
//! decides the same from the same records. A real port may differ between instances, and an
//! instance may offer one ServicePort at several addresses.

pub mod report;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

use catalog::{Port, Protocol, ProxyMode, Service, Snapshot, Timestamp};
use serde::{Deserialize, Serialize};

/// Everything a data plane needs to know, for one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Routes {
    /// Routes by ServicePort.
    pub by_port: BTreeMap<u16, Route>,
    /// Alive instances that are not routed although they offer a ServicePort, and why.
    pub excluded: Vec<Exclusion>,
}

/// Traffic to one ServicePort.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The service that owns the port.
    pub service: String,
    /// How to treat the traffic.
    pub mode: ProxyMode,
    /// Where it goes; never empty, ordered by host, ID and address, without duplicates.
    pub endpoints: Vec<Endpoint>,
}

/// One place to send traffic to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// Host of the instance.
    pub hostname: String,
    /// ID of the instance.
    pub id: String,
    /// Where it answers.
    pub address: SocketAddr,
}

/// An alive instance that is left out of a route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exclusion {
    /// ServicePort it asked for.
    pub service_port: u16,
    /// Its service.
    pub service: String,
    /// Its host.
    pub hostname: String,
    /// Its ID.
    pub id: String,
    /// Why it is left out.
    pub reason: ExclusionReason,
}

/// Why an alive instance is left out of a route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExclusionReason {
    /// Another service owns the ServicePort.
    PortOwnedBy(String),
    /// Its ProxyMode is no word we know.
    UnknownMode(String),
    /// Its mode differs from the mode of the service's reference instance.
    ModeDiffers(ProxyMode),
    /// The IP of its port (the text given) is empty, not an address, or not one of a single host.
    NoAddress(String),
    /// Its real port is 0.
    NoPort,
}

/// One alive instance that offers one ServicePort at one address.
#[derive(Debug)]
struct Claim<'a> {
    service: &'a Service,
    service_port: u16,
    mode: ProxyMode,
    address: SocketAddr,
}

/// What decides between instances: the oldest, then by host and ID.
type Seniority<'a> = (Timestamp, &'a str, &'a str);

fn seniority(service: &Service) -> Seniority<'_> {
    (service.created, &service.hostname, &service.id)
}

impl fmt::Display for ExclusionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PortOwnedBy(owner) => {
                write!(
                    f,
                    "the ServicePort belongs to {owner}, which was there first"
                )
            }
            Self::UnknownMode(mode) => {
                write!(f, "its ProxyMode {mode:?} is none of http, tcp, ws")
            }
            Self::ModeDiffers(mode) => {
                let mode = mode.as_str();
                write!(f, "the service is routed as {mode}, it asks for another")
            }
            Self::NoAddress(text) => write!(f, "the IP of its port, {text:?}, is no address"),
            Self::NoPort => f.write_str("its real port is 0"),
        }
    }
}

impl Routes {
    /// Decides the routes of a snapshot. Pure: the same snapshot gives the same routes everywhere.
    pub fn of(snapshot: &Snapshot) -> Self {
        let mut excluded = Vec::new();
        let mut claims = routable_claims(snapshot, &mut excluded);

        let modes = modes(&claims);
        claims.retain(|claim| {
            let mode = modes.get(claim.service.name.as_str()).copied();
            if mode != Some(claim.mode) {
                let reason = ExclusionReason::ModeDiffers(claim.mode);
                excluded.push(exclusion(claim.service, claim.service_port, reason));
            }
            mode == Some(claim.mode)
        });

        let owners = owners(&claims);
        let mut by_port: BTreeMap<u16, Route> = BTreeMap::new();
        for claim in &claims {
            let Some(owner) = owners.get(&claim.service_port) else {
                continue;
            };
            if *owner != claim.service.name {
                let reason = ExclusionReason::PortOwnedBy((*owner).to_owned());
                excluded.push(exclusion(claim.service, claim.service_port, reason));
                continue;
            }
            let route = by_port.entry(claim.service_port).or_insert_with(|| Route {
                service: claim.service.name.clone(),
                mode: claim.mode,
                endpoints: Vec::new(),
            });
            route.endpoints.push(Endpoint {
                hostname: claim.service.hostname.clone(),
                id: claim.service.id.clone(),
                address: claim.address,
            });
        }
        for route in by_port.values_mut() {
            route.endpoints.sort();
            route.endpoints.dedup();
        }
        excluded.sort();
        excluded.dedup();
        Self { by_port, excluded }
    }
}

/// All claims traffic could follow. An instance is reported as excluded from a ServicePort only
/// when none of its ports can serve it.
fn routable_claims<'a>(snapshot: &'a Snapshot, excluded: &mut Vec<Exclusion>) -> Vec<Claim<'a>> {
    let mut claims = Vec::new();
    for service in snapshot.services().filter(|service| service.is_alive()) {
        let mut served = BTreeSet::new();
        let mut refused = Vec::new();
        for port in service.port_list() {
            if port.service_port == 0 || port.protocol() != Some(Protocol::Tcp) {
                continue;
            }
            match destination(service, port) {
                Ok((mode, address)) => {
                    let service_port = port.service_port;
                    served.insert(service_port);
                    claims.push(Claim {
                        service,
                        service_port,
                        mode,
                        address,
                    });
                }
                Err(reason) => refused.push((port.service_port, reason)),
            }
        }
        refused.retain(|(service_port, _)| !served.contains(service_port));
        let refused = refused.into_iter();
        excluded.extend(refused.map(|(port, reason)| exclusion(service, port, reason)));
    }
    claims
}

fn destination(service: &Service, port: &Port) -> Result<(ProxyMode, SocketAddr), ExclusionReason> {
    let Some(mode) = service.mode() else {
        return Err(ExclusionReason::UnknownMode(service.proxy_mode.clone()));
    };
    let no_address = || ExclusionReason::NoAddress(port.ip.clone());
    let ip = Service::address_of(port)
        .filter(names_one_host)
        .ok_or_else(no_address)?;
    if port.port == 0 {
        return Err(ExclusionReason::NoPort);
    }
    Ok((mode, SocketAddr::new(ip, port.port)))
}

/// `0.0.0.0` and `::` in somebody's record would mean *this* host to a connecting socket; nobody
/// accepts TCP connections on a group address.
fn names_one_host(ip: &IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !(ip.is_unspecified() || ip.is_multicast() || broadcast)
}

/// The mode of each service: that of its oldest instance.
fn modes<'a>(claims: &[Claim<'a>]) -> BTreeMap<&'a str, ProxyMode> {
    let mut references: BTreeMap<&str, (Seniority<'_>, ProxyMode)> = BTreeMap::new();
    for claim in claims {
        let candidate = (seniority(claim.service), claim.mode);
        let reference = references.entry(&claim.service.name).or_insert(candidate);
        *reference = candidate.min(*reference);
    }
    references
        .into_iter()
        .map(|(name, (_, mode))| (name, mode))
        .collect()
}

/// The service that owns each ServicePort: that of the oldest instance claiming it, then by name.
fn owners<'a>(claims: &[Claim<'a>]) -> BTreeMap<u16, &'a str> {
    let mut owners: BTreeMap<u16, (Timestamp, &str)> = BTreeMap::new();
    for claim in claims {
        let candidate = (claim.service.created, claim.service.name.as_str());
        let owner = owners.entry(claim.service_port).or_insert(candidate);
        *owner = candidate.min(*owner);
    }
    owners
        .into_iter()
        .map(|(port, (_, name))| (port, name))
        .collect()
}

fn exclusion(service: &Service, service_port: u16, reason: ExclusionReason) -> Exclusion {
    Exclusion {
        service_port,
        service: service.name.clone(),
        hostname: service.hostname.clone(),
        id: service.id.clone(),
        reason,
    }
}

#[cfg(test)]
mod tests;
