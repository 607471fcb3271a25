//! What the simulator's checkers may look at inside a node. Read only; nothing here belongs to
//! the protocol, and no shell needs it.

use std::net::SocketAddr;
use std::time::Instant;

use super::Node;
use super::timers::Timer;
use crate::wire::message::NodeState;

/// One row of the table, the dead and the left included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) name: &'a str,
    pub(crate) addr: SocketAddr,
    pub(crate) incarnation: u32,
    pub(crate) state: NodeState,
    pub(crate) state_change: Instant,
    /// When a running suspicion ends.
    pub(crate) suspected_until: Option<Instant>,
}

impl Node {
    /// The table, in no particular order.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.table.iter().map(|entry| Row {
            name: &entry.name,
            addr: entry.addr(),
            incarnation: entry.incarnation,
            state: entry.state,
            state_change: entry.state_change,
            suspected_until: entry
                .suspicion
                .as_ref()
                .map(|suspicion| suspicion.deadline()),
        })
    }

    /// Rows of the table.
    pub(crate) fn rows_len(&self) -> usize {
        self.table.len()
    }

    /// Whether [`Node::leave`] was called.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// Pings outstanding for others.
    pub(crate) fn relays_len(&self) -> usize {
        self.relays.len()
    }

    /// Armed timers that end a suspicion, and the names they are about.
    pub(crate) fn suspicion_timers(&self) -> impl Iterator<Item = (&str, Instant)> {
        self.timers.iter().filter_map(|(at, timer)| match timer {
            Timer::Suspicion(name) => Some((name.as_str(), at)),
            _ => None,
        })
    }

    /// Armed timers that end a relay.
    pub(crate) fn relay_timers_len(&self) -> usize {
        let timers = self.timers.iter();
        timers
            .filter(|(_, timer)| matches!(timer, Timer::RelayExpiry(_)))
            .count()
    }

    /// When the next gossip round is due, if there will be one.
    pub(crate) fn gossip_timer(&self) -> Option<Instant> {
        let mut timers = self.timers.iter();
        let gossip = timers.find(|(_, timer)| matches!(timer, Timer::Gossip));
        gossip.map(|(at, _)| at)
    }

    /// A timer that is armed without a reason, or is not with one.
    pub(crate) fn timer_amiss(&self) -> Option<impl std::fmt::Debug> {
        let probing = self.probe.is_some();
        // The last ping of a round is followed by none, and what was asked for ends no timer by coming.
        let timers = [
            (
                Timer::ProbeAgain,
                probing || !self.timers.is_armed(&Timer::ProbeAgain),
            ),
            (
                Timer::ProbeDeadline,
                probing == self.timers.is_armed(&Timer::ProbeDeadline),
            ),
            (
                Timer::AskAgain,
                !self.lazy.is_waiting() || self.timers.is_armed(&Timer::AskAgain),
            ),
            (
                Timer::Hearsay,
                self.hearsay.is_waiting() == self.timers.is_armed(&Timer::Hearsay),
            ),
        ];
        let amiss = timers.into_iter().find(|(_, right)| !right);
        amiss.map(|(timer, _)| timer)
    }

    /// All armed timers.
    pub(crate) fn timers_len(&self) -> usize {
        self.timers.iter().count()
    }
}
