//! What the shell counts, and what is shown of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::malformed::Malformed;
use crate::node::{Counters, Node};

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Meter(AtomicU64);

impl Meter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Adds a time, to a meter of microseconds.
    pub(super) fn add_micros(&self, time: Duration) {
        self.add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! meters {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// The meters of the shell.
        #[derive(Debug, Default)]
        pub(super) struct Meters {
            $(pub(super) $name: Meter,)+
        }

        /// Counters (since the start) and gauges of a running member.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[$doc])+ pub $name: u64,)+
            /// Unreadable input by kind, of datagrams and streams.
            pub malformed: BTreeMap<&'static str, u64>,
            /// What the state machine has counted.
            pub node: Counters,
            /// Local health score: 0 is healthy.
            pub health_score: u32,
            /// Members alive or suspect, ourselves included.
            pub members: usize,
            /// Announcements and accusations still to be transmitted.
            pub membership_queue: usize,
            /// User broadcasts still to be transmitted.
            pub user_queue: usize,
        }

        impl Shared {
            /// A consistent enough picture.
            pub(super) fn stats(&self) -> Stats {
                let view = *self.view.lock().unwrap_or_else(PoisonError::into_inner);
                Stats {
                    $($name: self.meters.$name.read(),)+
                    malformed: self.malformed.counts(),
                    node: view.counters,
                    health_score: view.health_score,
                    members: view.members,
                    membership_queue: view.membership_queue,
                    user_queue: view.user_queue,
                }
            }
        }
    };
}

meters! {
    /// Datagrams received.
    packets_in,
    /// Datagrams dropped because their source is in no network that may talk to us.
    packets_not_allowed,
    /// Bytes of datagrams received.
    bytes_in,
    /// Datagrams sent.
    packets_out,
    /// Bytes of datagrams sent.
    bytes_out,
    /// Datagrams the system would not send.
    packets_unsent,
    /// Connections accepted.
    streams_in,
    /// Connections refused because too many are open, altogether or from one address.
    streams_refused,
    /// Connections closed because their source is in no network that may talk to us.
    streams_not_allowed,
    /// Connections opened by us.
    streams_out,
    /// Connections that ended early: unreachable, too slow, over budget or unreadable.
    streams_failed,
    /// Entries of peers' tables skipped because they were invalid.
    entries_skipped,
    /// Pings by stream meant for another node at our address, left unanswered.
    stream_pings_for_others,
    /// Bytes of connections written.
    stream_bytes_out,
    /// State exchanges completed that we began.
    exchanges_out,
    /// The time these took, in microseconds.
    exchange_micros,
    /// The time gossip rounds took, with the sending of their datagrams, in microseconds.
    gossip_micros,
    /// State exchanges completed that others began.
    exchanges_in,
    /// Messages for the application dropped because it was slow.
    messages_dropped,
    /// Remote states dropped because the application was slow.
    states_dropped,
    /// Broadcasts of the application dropped because the core was too far behind.
    broadcasts_dropped,
}

/// Copied out of the node after every turn of the core.
#[derive(Debug, Clone, Copy, Default)]
struct View {
    counters: Counters,
    health_score: u32,
    members: usize,
    membership_queue: usize,
    user_queue: usize,
}

/// What all tasks write to and [`Handle::stats`](super::Handle::stats) reads.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) meters: Meters,
    pub(super) malformed: Malformed,
    view: Mutex<View>,
}

impl Shared {
    pub(super) fn show(&self, node: &Node, members: usize) {
        let view = View {
            counters: *node.counters(),
            health_score: node.health_score(),
            members,
            membership_queue: node.membership_queue_len(),
            user_queue: node.user_queue_len(),
        };
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = view;
    }
}
