//! Which well-known port leads to which endpoints: the one place where ports, modes and collisions
//! are decided. Every data plane applies its result and decides nothing itself.

use std::{collections::BTreeMap, net::SocketAddr};

use catalog::{ProxyMode, Snapshot};

/// Everything a data plane needs to know, for one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Routes {
    /// Routes by ServicePort.
    pub by_port: BTreeMap<u16, Route>,
    /// Alive instances that are not routed although they offer a ServicePort, and why.
    pub excluded: Vec<Exclusion>,
}

/// Traffic to one ServicePort.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The service that owns the port.
    pub service: String,
    /// How to treat the traffic.
    pub mode: ProxyMode,
    /// Where it goes; never empty, ordered by host, ID and address, without duplicates.
    pub endpoints: Vec<Endpoint>,
}

/// One place to send traffic to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// The IP of its port is not an address.
    NoAddress(String),
    /// Its real port is 0.
    NoPort,
}

impl Routes {
    /// Decides the routes of a snapshot. Pure: the same snapshot gives the same routes everywhere.
    pub fn of(_snapshot: &Snapshot) -> Self {
        Self::default()
    }
}
