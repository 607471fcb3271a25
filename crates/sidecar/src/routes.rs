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
mod router;

pub use router::{Router, addresses_of};

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::Arc};

use catalog::{ProxyMode, Snapshot};
use serde::{Deserialize, Serialize};

/// Everything a data plane needs to know, for one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Routes {
    /// Routes by ServicePort. Consecutive routes share those that did not change.
    pub by_port: BTreeMap<u16, Arc<Route>>,
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
    /// Its share of the traffic beside the others of the route, 1 to 255.
    pub weight: u8,
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

/// What changed on the way from one map by ServicePort to another: what there is now, or `None` for what is
/// gone. What both maps share is not looked into.
pub fn changed_ports<'a, T: Eq>(
    old: &'a BTreeMap<u16, Arc<T>>,
    new: &'a BTreeMap<u16, Arc<T>>,
) -> Vec<(u16, Option<&'a Arc<T>>)> {
    catalog::paired(old.iter(), new.iter(), |a, b| a.0.cmp(b.0))
        .filter_map(|pair| match pair {
            (Some((_, old)), Some((_, new))) if old == new => None,
            (_, Some((port, new))) => Some((*port, Some(new))),
            (Some((port, _)), None) => Some((*port, None)),
            (None, None) => None,
        })
        .collect()
}

impl Routes {
    /// Decides the routes of a snapshot. Pure: the same snapshot gives the same routes everywhere.
    pub fn of(snapshot: &Snapshot) -> Self {
        let mut router = Router::default();
        router.follow(snapshot);
        router.routes
    }
}

#[cfg(test)]
mod tests;
