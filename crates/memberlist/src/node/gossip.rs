//! Sending: gossip rounds, broadcasts that ride on other messages, and broadcasts that leave at
//! once. After `gossip` in `state.go` and `sendMsg` in `net.go` of the memberlist fork.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;

use super::queue::{Priority, transmit_limit};
use super::table::Entry;
use super::{Node, STREAM_USER_BYTES_MAX, StreamRequest, Transmit, UserKey, lazy};
use crate::wire::encode_message;
use crate::wire::limits::COMPOUND_PARTS_MAX;
use crate::wire::message::{Message, MessageRef, NodeState};

/// Head of a compound: type and count.
pub(super) const COMPOUND_BYTES: usize = 2;
/// What a part of a compound costs beside its bytes.
pub(super) const PART_BYTES: usize = 2;
/// Type byte of a user message.
pub(super) const USER_TYPE_BYTES: usize = 1;

/// Live members that get an oversized broadcast by stream; push/pull brings it to the others.
const STREAM_BROADCAST_TARGETS: usize = 3;

/// Bytes of user broadcasts that may wait, together.
const USER_QUEUE_BYTES_MAX: usize = 8 << 20;

/// Broadcasts waiting to leave at once; what does not fit waits for its gossip round.
pub(super) const EAGER_MAX: usize = 1024;

/// As long as less than this part of an interval's bytes is spent, broadcasts leave to twice as many.
const CALM_SHARE: usize = 64;

/// Protocol version from which a node checks a checksum before a datagram.
const CRC_VERSION: u8 = 5;

/// Where a datagram goes, and what its receiver understands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) to: SocketAddr,
    /// It checks a checksum.
    pub(super) crc: bool,
    /// It understands lazy push.
    pub(super) kin: bool,
}

impl Node {
    /// Spreads an application message to all members: at once to a few, then by gossip until it
    /// has been transmitted often enough for the size of the cluster. A message with a `key`
    /// replaces an older one of that key which is still on its way. It joins the gossip round after
    /// the latest time the node was told, see [`Node::note_time`].
    pub fn broadcast(&mut self, key: Option<String>, payload: Bytes) {
        self.broadcast_with(key, payload, &Priority::default());
    }

    /// The same, for one of several sources, and perhaps urgent. When there is more to say than
    /// room, sources take turns and what is urgent goes first.
    pub fn broadcast_with(&mut self, key: Option<String>, payload: Bytes, priority: &Priority) {
        if payload.is_empty() {
            return;
        }
        let key = key.map_or_else(
            || {
                self.user_unnamed += 1;
                UserKey::Unnamed(self.user_unnamed)
            },
            UserKey::Named,
        );
        let brief = priority.brief.as_ref();
        let brief = brief.filter(|_| !self.user.tells_everybody(&key));
        let kin_only = brief.is_some();
        let payload = brief.cloned().unwrap_or(payload);
        let part = USER_TYPE_BYTES + payload.len();
        if COMPOUND_BYTES + PART_BYTES + part > self.packet_budget {
            self.user.remove(&key);
            self.broadcast_by_stream(&payload, kin_only);
            return;
        }
        let number = lazy::number(&payload);
        self.note_seen(number);
        let encoded = self.encode(&Message::User(payload));
        let at = if priority.urgent {
            self.eager_urgent
        } else {
            self.eager.len()
        };
        self.eager.insert(at, (encoded.clone(), kin_only));
        self.eager_urgent += usize::from(priority.urgent);
        self.bound_eager();
        self.user
            .push_in_turn(key, encoded, number, kin_only, priority);
        self.wake_gossip();
        while self.user.len() > self.config.broadcasts_max
            || self.user.bytes() > USER_QUEUE_BYTES_MAX
        {
            self.counters.broadcasts_overflowed += 1;
            self.user.drop_last();
        }
    }

    /// What does not fit waits for its gossip round.
    pub(super) fn bound_eager(&mut self) {
        self.eager.truncate(EAGER_MAX);
        self.eager_urgent = self.eager_urgent.min(self.eager.len());
    }

    fn broadcast_by_stream(&mut self, payload: &Bytes, kin_only: bool) {
        if payload.len() > STREAM_USER_BYTES_MAX {
            self.counters.broadcasts_too_long += 1;
            return;
        }
        self.counters.broadcasts_by_stream += 1;
        for target in self.sample_live(STREAM_BROADCAST_TARGETS) {
            if target.kin || !kin_only {
                self.requests.push_back(StreamRequest::User {
                    to: target.to,
                    payload: payload.clone(),
                });
            }
        }
    }

    /// A gossip round: one batch after the other, each to the same few members. Without anyone
    /// to send to nothing is taken, so that no transmit is wasted. Unlike in the Go fork, nothing
    /// is sent twice in a round: there a short queue uses up all of its transmits on the same few
    /// members at once, and the others may never hear of it.
    pub(super) fn gossip(&mut self, now: Instant) {
        self.counters.gossip_rounds += 1;
        self.eager_bytes_spent = 0;
        self.lazy.answered = 0;
        if self.membership.len() == 0 && self.user.len() == 0 {
            return;
        }
        let keep = self.config.gossip_to_the_dead;
        let us = &self.config.name;
        let chosen: Vec<&Entry> =
            self.table
                .sample(&mut self.rng, self.config.gossip_nodes, |entry| {
                    let reachable = match entry.state {
                        NodeState::Alive | NodeState::Suspect => true,
                        // It may be alive and should hear that it is thought dead.
                        NodeState::Dead => {
                            now.saturating_duration_since(entry.state_change) <= keep
                        }
                        NodeState::Left => false,
                    };
                    reachable && entry.name != *us
                });
        let all: Vec<Target> = chosen.into_iter().map(|entry| self.target(entry)).collect();
        if all.is_empty() {
            return;
        }
        if all.iter().any(|target| !target.kin) {
            for _ in 0..self.config.gossip_messages {
                self.add_broadcasts(self.packet_budget - COMPOUND_BYTES);
                if self.packet.is_empty() {
                    break;
                }
                self.send_to_all(&all);
            }
        }
        self.tell(&all);
        self.put_broadcasts_back();
    }

    /// Sends what should not wait for the gossip round, as far as the byte budget of this
    /// interval goes. The queues are untouched: the rounds repeat it for reliability.
    pub(super) fn send_eager(&mut self) {
        if self.eager.is_empty() {
            return;
        }
        let budget = self.config.eager_bytes_per_interval;
        let sample = self.sample_live(2 * self.config.gossip_nodes);
        self.eager_urgent = 0;
        while let Some((first, kin_only)) = self.eager.pop_front() {
            let mut size = COMPOUND_BYTES + PART_BYTES + first.len();
            self.packet.push(&first);
            while let Some((next, next_kin_only)) = self.eager.front()
                && *next_kin_only == kin_only
                && size + PART_BYTES + next.len() <= self.packet_budget
                && self.packet.push(next)
            {
                size += PART_BYTES + next.len();
                self.eager.pop_front();
            }
            // Of what all relay to three, one in twenty hears nothing before the next round; of what
            // all relay to six, one in four hundred. While there is little to say that costs little.
            let calm = self.eager_bytes_spent < budget / CALM_SHARE;
            let fanout = self.config.gossip_nodes * if calm { 2 } else { 1 };
            let fitting = sample.iter().filter(|target| target.kin || !kin_only);
            let targets: Vec<Target> = fitting.take(fanout).copied().collect();
            let cost = size * targets.len();
            if sample.is_empty() || self.eager_bytes_spent + cost > budget {
                self.packet.clear();
                self.eager.clear();
                return;
            }
            self.eager_bytes_spent += cost;
            self.counters.eager_datagrams += targets.len() as u64;
            self.send_to_all(&targets);
        }
    }

    fn target(&self, entry: &Entry) -> Target {
        Target {
            to: entry.addr(),
            crc: entry.versions.protocol_max() >= CRC_VERSION,
            kin: self.understands(entry),
        }
    }

    /// Random live members.
    pub(super) fn sample_live(&mut self, count: usize) -> Vec<Target> {
        let us = &self.config.name;
        let sample = self.table.sample(&mut self.rng, count, |entry| {
            entry.is_live() && entry.name != *us
        });
        sample.into_iter().map(|entry| self.target(entry)).collect()
    }

    /// Adds broadcasts for `free` bytes to the packet; those of the protocol first.
    fn add_broadcasts(&mut self, free: usize) {
        let mut free = self.add_protocol_broadcasts(free);
        let count = COMPOUND_PARTS_MAX - self.packet.len();
        for (part, kin_only) in self.user.take(&mut free, PART_BYTES, count) {
            // Not everybody this goes to would understand that.
            if !kin_only {
                self.packet.push(part);
            }
        }
    }

    /// Adds broadcasts of the protocol alone; how many of the `free` bytes are left.
    pub(super) fn add_protocol_broadcasts(&mut self, mut free: usize) -> usize {
        let count = COMPOUND_PARTS_MAX - self.packet.len();
        for (part, _) in self.membership.take(&mut free, PART_BYTES, count) {
            self.packet.push(part);
        }
        free
    }

    /// Counts a transmit for everything taken.
    fn put_broadcasts_back(&mut self) {
        let limit = transmit_limit(self.config.retransmit_mult, self.table.len());
        self.membership.put_back(limit);
        // Whoever does not understand is among the members met in a round only now and then.
        let all = self.all_understand();
        let limit = if all { self.lazy_limit(limit) } else { limit };
        self.user.put_back(limit);
    }

    /// Sends a message, the rest of its datagram filled with broadcasts.
    pub(super) fn send_with_gossip(&mut self, to: SocketAddr, message: &MessageRef<'_>) {
        self.packet.encode(message, &self.config.cluster_name);
        let used = self.packet.bytes() + COMPOUND_BYTES;
        let free = self.packet_budget.saturating_sub(used);
        if self.all_understand() {
            self.add_protocol_broadcasts(free);
        } else {
            self.add_broadcasts(free);
        }
        self.put_broadcasts_back();
        // Go never puts a checksum here, whatever the receiver understands.
        self.send_packet(to, false);
    }

    /// Sends the packet to each of `targets` and starts a new one.
    pub(super) fn send_to_all(&mut self, targets: &[Target]) {
        let [mut plain, mut checked]: [Option<Bytes>; 2] = [None, None];
        for &Target { to, crc, .. } in targets {
            let cached = if crc { &mut checked } else { &mut plain };
            let bytes = cached
                .get_or_insert_with(|| self.packet.finish(self.config.compression, crc).into())
                .clone();
            self.transmits.push_back(Transmit { to, bytes });
        }
        self.packet.clear();
    }

    /// Sends the packet and starts a new one.
    pub(super) fn send_packet(&mut self, to: SocketAddr, crc: bool) {
        let bytes = self.packet.finish(self.config.compression, crc).into();
        self.transmits.push_back(Transmit { to, bytes });
        self.packet.clear();
    }

    /// Sends encoded messages, which the caller has counted and measured.
    pub(super) fn send(&mut self, to: SocketAddr, parts: &[Bytes], crc: bool) {
        for part in parts {
            let fits = self.packet.push(part);
            debug_assert!(fits, "parts are measured before they are packed");
        }
        self.send_packet(to, crc);
    }

    pub(super) fn encode(&self, message: &Message) -> Bytes {
        encode_message(message, &self.config.cluster_name).into()
    }
}
