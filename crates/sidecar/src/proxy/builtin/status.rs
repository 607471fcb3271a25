//! What the built-in data plane tells of itself: values to show, nothing to act upon.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use catalog::ProxyMode;
use serde::{Deserialize, Serialize};

use super::figures::RequestStatus;

/// State of the whole data plane. Counts grow from the start of the listener they belong to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlaneStatus {
    /// By ServicePort.
    pub ports: BTreeMap<u16, Arc<PortStatus>>,
    /// Connections open now, those of removed routes included.
    pub connections_open: usize,
    /// Most connections open at a time; more wait to be accepted.
    pub connections_max: usize,
    /// How often a connection could not be accepted, for example because the process had no file
    /// descriptor left.
    pub accept_failures: u64,
    /// Lines of the access log that were dropped, since they came faster than they could be written.
    pub access_lines_dropped: u64,
}

/// State of one ServicePort.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    /// The service that owns it.
    pub service: String,
    /// Its mode.
    pub mode: ProxyMode,
    /// Whether clients can connect.
    pub listen: ListenState,
    /// Connections open now.
    pub connections_open: u64,
    /// Connections accepted.
    pub connections_total: u64,
    /// Connections closed because no endpoint could be reached.
    pub connections_unserved: u64,
    /// Attempts to reach an endpoint that failed; one connection may try several endpoints.
    pub connect_failures: u64,
    /// Bytes from clients to endpoints.
    pub to_endpoints_bytes: u64,
    /// Bytes from endpoints to clients.
    pub to_clients_bytes: u64,
    /// Requests, in http and ws mode.
    #[serde(default)]
    pub requests_total: u64,
    /// How often a request was given to another endpoint, or again to the same.
    #[serde(default)]
    pub retries_total: u64,
    /// Answers that the proxy made itself, by status.
    #[serde(default)]
    pub own_answers: BTreeMap<u16, u64>,
    /// Where its connections go, ordered by address.
    pub endpoints: Vec<EndpointStatus>,
}

/// State of one endpoint of a ServicePort.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// Where it answers.
    pub address: SocketAddr,
    /// Connections open now, those being opened included; in http and ws mode requests in flight.
    pub connections_open: u64,
    /// Connections that reached it.
    pub connections_total: u64,
    /// Attempts that did not.
    pub connect_failures: u64,
    /// Whether it is asked last because it just could not be reached.
    pub avoided: bool,
    /// How often it became so.
    #[serde(default)]
    pub ejections: u64,
    /// Bytes sent to it.
    #[serde(default)]
    pub sent_bytes: u64,
    /// Bytes received from it.
    #[serde(default)]
    pub received_bytes: u64,
    /// What became of requests; `None` in tcp mode.
    #[serde(default)]
    pub requests: Option<RequestStatus>,
}

/// Whether a ServicePort can be connected to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ListenState {
    /// Not tried yet.
    #[default]
    Starting,
    /// It can.
    Listening,
    /// It cannot, and is tried again and again.
    Failed(ListenError),
}

/// Why a ServicePort cannot be listened on. Trying again helps once the cause is gone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ListenError {
    /// The address and port are taken.
    #[error(
        "cannot listen on {address}: another program listens there, or on this port of all \
         addresses; stop it, or give the service another ServicePort"
    )]
    InUse {
        /// What was wanted.
        address: SocketAddr,
    },
    /// This process may not.
    #[error(
        "cannot listen on {address}: not permitted; ports below 1024 need root or the capability \
         NET_BIND_SERVICE"
    )]
    NotPermitted {
        /// What was wanted.
        address: SocketAddr,
    },
    /// No interface of this host has the address.
    #[error("cannot listen on {address}: no interface of this host has the address {}", address.ip())]
    NoSuchAddress {
        /// What was wanted.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("cannot listen on {address}: {reason}")]
    Other {
        /// What was wanted.
        address: SocketAddr,
        /// What the system said.
        reason: String,
    },
}

impl ListenError {
    pub(super) fn new(address: SocketAddr, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        match error.kind() {
            ErrorKind::AddrInUse => Self::InUse { address },
            ErrorKind::PermissionDenied => Self::NotPermitted { address },
            ErrorKind::AddrNotAvailable => Self::NoSuchAddress { address },
            _ => Self::Other {
                address,
                reason: error.to_string(),
            },
        }
    }

    /// The address that could not be listened on.
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::InUse { address }
            | Self::NotPermitted { address }
            | Self::NoSuchAddress { address }
            | Self::Other { address, .. } => *address,
        }
    }
}
