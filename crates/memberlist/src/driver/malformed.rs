//! Bytes of peers that could not be read: all counted, few logged.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::wire::WireError;
use crate::wire::error::EncryptionProblem;

/// One log line per kind and address in this time.
const LOG_PERIOD: Duration = Duration::from_secs(60);
/// The same for keys that do not match: such a peer does not stop, and somebody has to act.
const LOG_PERIOD_OF_KEYS: Duration = Duration::from_secs(300);
/// Kinds and addresses remembered; beyond that nothing new is logged until some are old.
const REMEMBERED_MAX: usize = 1024;

/// Kind of what no key of ours opens.
const ENCRYPTION: &str = "encryption";
/// Kind of what should have been encrypted.
const PLAINTEXT: &str = "plaintext";

#[derive(Debug, Default)]
struct Seen {
    counts: BTreeMap<&'static str, u64>,
    logged: HashMap<(&'static str, IpAddr), Instant>,
}

impl Seen {
    /// Whether to log this now; if so it is remembered as logged.
    fn is_due(&mut self, kind: &'static str, peer: IpAddr, now: Instant) -> bool {
        let fresh = |kind: &str, at: &Instant| {
            let period = match kind {
                ENCRYPTION | PLAINTEXT => LOG_PERIOD_OF_KEYS,
                _ => LOG_PERIOD,
            };
            now.duration_since(*at) < period
        };
        let key = (kind, peer);
        if self.logged.get(&key).is_some_and(|at| fresh(kind, at)) {
            return false;
        }
        if self.logged.len() >= REMEMBERED_MAX {
            self.logged.retain(|(kind, _), at| fresh(kind, at));
            if self.logged.len() >= REMEMBERED_MAX {
                return false;
            }
        }
        self.logged.insert(key, now);
        true
    }
}

/// Counts by kind, and when each was last logged.
#[derive(Debug, Default)]
pub(super) struct Malformed {
    seen: Mutex<Seen>,
}

impl Malformed {
    /// Counts, and logs unless this peer's mistake of this kind was logged a short while ago.
    pub(super) fn note(&self, kind: &'static str, peer: SocketAddr, reason: &dyn Display) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen.counts.entry(kind).or_default() += 1;
        let due = seen.is_due(kind, peer.ip(), Instant::now());
        drop(seen);
        if !due {
            return;
        }
        match kind {
            ENCRYPTION => tracing::warn!(
                "{peer} does not share a gossip key with us, so neither hears the other ({reason})"
            ),
            PLAINTEXT => tracing::warn!(
                "{peer} does not encrypt its gossip, so we do not hear it ({reason})"
            ),
            _ => tracing::warn!(%peer, kind, %reason, "dropped input of a peer"),
        }
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
        WireError::Label(_) => "label",
        WireError::Encryption(EncryptionProblem::Plaintext) => PLAINTEXT,
        WireError::Encryption(_) => ENCRYPTION,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_peer_is_logged_once_in_a_while_by_kind() {
        let mut seen = Seen::default();
        let begin = Instant::now();
        let [one, other] = [1, 2].map(|last| IpAddr::from([10, 0, 0, last]));
        let mut due =
            |kind, peer, seconds| seen.is_due(kind, peer, begin + Duration::from_secs(seconds));
        assert!(due(ENCRYPTION, one, 0) && due(PLAINTEXT, one, 0) && due("msgpack", one, 0));
        assert!(due(ENCRYPTION, other, 1));
        assert!(!due(ENCRYPTION, one, 299) && !due("msgpack", one, 59));
        assert!(due(ENCRYPTION, one, 300) && due("msgpack", one, 60));
        assert!(!due(ENCRYPTION, one, 599));
    }

    #[test]
    fn a_flood_of_peers_costs_bounded_memory() {
        let mut seen = Seen::default();
        let begin = Instant::now();
        for peer in 0..5000_u32 {
            seen.is_due("msgpack", IpAddr::from(peer.to_be_bytes()), begin);
        }
        assert_eq!(seen.logged.len(), REMEMBERED_MAX);
        let later = begin + LOG_PERIOD;
        assert!(seen.is_due("msgpack", IpAddr::from([1, 1, 1, 1]), later));
    }
}
