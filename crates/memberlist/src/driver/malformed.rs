//! Bytes of peers that could not be read: all counted, few logged.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::wire::WireError;

/// One log line per kind and address in this time.
const LOG_PERIOD: Duration = Duration::from_secs(60);
/// Kinds and addresses remembered; beyond that nothing new is logged until some are old.
const REMEMBERED_MAX: usize = 1024;

#[derive(Debug, Default)]
struct Seen {
    counts: BTreeMap<&'static str, u64>,
    logged: HashMap<(&'static str, std::net::IpAddr), Instant>,
}

/// Counts by kind, and when each was last logged.
#[derive(Debug, Default)]
pub(super) struct Malformed {
    seen: Mutex<Seen>,
}

impl Malformed {
    /// Counts, and logs unless this peer's mistake of this kind was logged a short while ago.
    pub(super) fn note(&self, kind: &'static str, peer: SocketAddr, reason: &dyn Display) {
        let now = Instant::now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen.counts.entry(kind).or_default() += 1;
        let key = (kind, peer.ip());
        let fresh = |at: &Instant| now.duration_since(*at) < LOG_PERIOD;
        if seen.logged.get(&key).is_some_and(fresh) {
            return;
        }
        if seen.logged.len() >= REMEMBERED_MAX {
            seen.logged.retain(|_, at| fresh(at));
            if seen.logged.len() >= REMEMBERED_MAX {
                return;
            }
        }
        seen.logged.insert(key, now);
        drop(seen);
        tracing::warn!(%peer, kind, %reason, "dropped input of a peer");
    }

    pub(super) fn counts(&self) -> BTreeMap<&'static str, u64> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.counts.clone()
    }
}

/// Stable name of an error, for counters.
pub(super) fn kind(error: &WireError) -> &'static str {
    match error {
        WireError::Framing(_) => "framing",
        WireError::UnknownType { .. } => "unknown_type",
        WireError::EmptyMessage => "empty_message",
        WireError::CompoundTable { .. } => "compound_table",
        WireError::CompoundTruncated { .. } => "compound_truncated",
        WireError::Compression(_) => "compression",
        WireError::Nesting => "nesting",
        WireError::Msgpack { .. } => "msgpack",
        WireError::FieldInvalid { .. } => "field",
        WireError::ClusterMismatch { .. } => "cluster",
        WireError::TooManyMessages => "too_many_messages",
        WireError::Stream(_) => "stream",
    }
}
