//! What the kernel data plane tells of itself: values to show, nothing to act upon.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use serde::{Serialize, Serializer};

/// How the kernel data plane is doing, as `/api/v2/local` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct KernelStatus {
    /// The table in nf_tables, of the family `inet`.
    pub table: String,
    /// Whether the kernel holds what it should.
    pub state: KernelState,
    /// What is wrong, for people; `None` when nothing is.
    pub trouble: Option<String>,
    /// The last thing that was wrong; `None` when nothing was yet.
    pub last_error: Option<String>,
    /// Services that the kernel serves.
    pub services: usize,
    /// Batches of changes that the kernel took.
    pub transactions: u64,
    /// Batches that it did not take.
    pub failures: u64,
    /// Differences found in what it holds and set right, such as changes by hand.
    pub repairs: u64,
    /// How long the last change took, from the route to the kernel's answer, in microseconds.
    #[serde(rename = "last_apply_us", serialize_with = "micros")]
    pub last_apply: Duration,
    /// The time that all changes took, in microseconds.
    #[serde(rename = "apply_us_total", serialize_with = "micros")]
    pub apply_total: Duration,
    /// Dead endpoints whose connections are cut.
    pub dead_endpoints: usize,
    /// Services in mode tcp that the built-in proxy serves nevertheless, by ServicePort, and why.
    pub left_to_builtin: Arc<BTreeMap<u16, String>>,
    /// Services that the kernel serves, by ServicePort, as of some seconds ago.
    pub ports: Arc<BTreeMap<u16, KernelPort>>,
}

fn micros<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

/// A ServicePort that the kernel serves.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct KernelPort {
    /// The service that owns it.
    pub service: String,
    /// Where its connections go and went, ordered by address.
    pub endpoints: Vec<KernelEndpoint>,
}

/// An endpoint of a ServicePort. Counts grow from when it got the port's first connection of its current
/// stay, and begin anew when the table was damaged and made again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KernelEndpoint {
    /// Where it answers.
    pub address: SocketAddr,
    /// Its share of the new connections, beside those of the others; 0 for one that gets none and whose
    /// connections go on, because it drains.
    pub turns: u64,
    /// Connections that were sent there.
    pub connections: u64,
    /// Packets in both directions.
    pub packets: u64,
    /// Their bytes, those of IP and TCP headers included.
    pub bytes: u64,
}

/// Whether the kernel holds what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelState {
    /// There are no routes yet; whatever it holds is left alone.
    #[default]
    Waiting,
    /// It does.
    Applied,
    /// It does not: it goes on with what it took last, and `trouble` says why.
    Failed,
    /// It cannot be used, `trouble` says why; the built-in proxy serves everything.
    Unusable,
}
