//! Failure detection: one probe round at a time, direct, then through others and by TCP, after
//! `probeNode` in `state.go` of hashicorp/memberlist; and our side of other members' rounds:
//! answering and relaying pings.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;

use super::membership::Origin;
use super::table::Entry;
use super::timers::Timer;
use super::{Node, RELAYS_MAX, StreamRequest};
use crate::wire::message::{
    Ack, IndirectPing, Message, Nack, NodeState, Ping, RawIp, Source, Suspect, socket_addr,
};

/// Protocol version from which a node answers pings on a stream.
const TCP_PING_VERSION: u8 = 3;
/// Protocol version from which a relay sends nacks.
const NACK_VERSION: u8 = 4;
/// Pings of a round, at most, and how many of them go before others are asked. Go sends one, so that
/// where a third of all datagrams is lost every second round asks others, and one of 25 makes a suspect
/// that everybody hears of; of ten pings and their acks all are lost in one round of a thousand. A member
/// that answers at once gets one.
const PINGS_MAX: u32 = 10;
const PINGS_ALONE: u32 = 5;
/// Suspects reminded at the same time. When more are out of reach the trouble is ours or a large one,
/// and a table full of forged members must not make us send more than a few datagrams.
const REMINDED_MAX: usize = 4;

/// The round in flight.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) seq_no: u32,
    target: String,
    addr: SocketAddr,
    /// As known when the round began: a refutation since then must win.
    incarnation: u32,
    started: Instant,
    deadline: Instant,
    pings: u32,
    indirect: bool,
    send_failed: bool,
    nacks_expected: u32,
    nacks: u32,
    answered_by_tcp: bool,
}

/// A ping we sent for somebody else.
#[derive(Debug)]
pub(super) struct Relay {
    requester: SocketAddr,
    seq_no: u32,
}

impl Node {
    /// A probe round is due. One that comes while another is running starts right after it.
    pub(super) fn probe_tick(&mut self, now: Instant) {
        if self.probe.is_some() {
            self.probe_tick_pending = true;
            return;
        }
        let keep = self.config.gossip_to_the_dead;
        let (target, reaped) = self
            .table
            .next_probe(&self.config.name, &mut self.rng, |entry| {
                !entry.is_live() && now.saturating_duration_since(entry.state_change) > keep
            });
        for entry in reaped {
            self.forget(now, &entry);
        }
        if let Some(target) = target {
            self.start_probe(now, target);
        }
    }

    pub(super) fn start_probe(&mut self, now: Instant, target: String) {
        let Some(entry) = self.table.find(&target) else {
            return;
        };
        let (addr, incarnation, state) = (entry.addr(), entry.incarnation, entry.state);
        let seq_no = self.next_seq_no();
        let deadline = now + self.awareness.scale(self.config.probe_interval);
        self.counters.probes_stretched += u64::from(self.awareness.score() > 0);
        self.timers.arm(Timer::ProbeDeadline, deadline);
        let timeout = now + self.config.probe_timeout;
        if timeout < deadline {
            self.timers.arm(Timer::ProbeTimeout, timeout);
        }
        self.probe = Some(Probe {
            seq_no,
            target: target.clone(),
            addr,
            incarnation,
            started: now,
            deadline,
            pings: 1,
            indirect: false,
            send_failed: false,
            nacks_expected: 0,
            nacks: 0,
            answered_by_tcp: false,
        });
        self.arm_ping_again(now);
        if state == NodeState::Alive {
            self.send_ping(addr, seq_no, &target);
        } else {
            self.ping_suspect(seq_no, &target);
        }
    }

    /// Pings somebody who is not alive to us, and tells it so first of all: nobody else can refute.
    fn ping_suspect(&mut self, seq_no: u32, name: &str) {
        let Some(entry) = self.table.find(name) else {
            return;
        };
        let (to, incarnation) = (entry.addr(), entry.incarnation);
        let wants_crc = entry.versions.protocol_max() >= 5;
        let ping = self.bare_ping(seq_no, name);
        if incarnation == u32::MAX {
            return self.send(to, &[ping], false);
        }
        let suspect = self.encode(&Message::Suspect(Suspect {
            incarnation,
            node: name.to_owned(),
            from: self.config.name.clone(),
        }));
        self.send(to, &[ping, suspect], wants_crc);
    }

    fn bare_ping(&self, seq_no: u32, name: &str) -> Bytes {
        self.encode(&Message::Ping(Ping {
            seq_no,
            node: name.to_owned(),
            source: None,
        }))
    }

    fn arm_ping_again(&mut self, now: Instant) {
        let at = now + self.config.probe_timeout / PINGS_ALONE;
        self.timers.arm(Timer::ProbeAgain, at);
    }

    /// No ack yet, which more often than not means that a datagram was lost.
    pub(super) fn ping_again(&mut self, now: Instant) {
        let Some(probe) = &mut self.probe else {
            return;
        };
        if probe.pings >= PINGS_MAX {
            return;
        }
        probe.pings += 1;
        let (to, seq_no) = (probe.addr, probe.seq_no);
        let target = probe.target.clone();
        self.counters.pings_repeated += 1;
        self.arm_ping_again(now);
        let entry = self.table.find(&target);
        if entry.is_none_or(|entry| entry.state == NodeState::Alive) {
            // Bare: what rode on the first may have arrived.
            let ping = self.bare_ping(seq_no, &target);
            self.send(to, &[ping], false);
        } else {
            self.ping_suspect(seq_no, &target);
        }
    }

    /// A datagram could not be sent. If it was the ping of the current round, others are asked at
    /// once instead of waiting for an ack that cannot come.
    pub fn handle_send_error(&mut self, now: Instant, to: SocketAddr) {
        self.note_time(now);
        if let Some(probe) = &mut self.probe
            && probe.addr == to
            && !probe.indirect
        {
            probe.send_failed = true;
            self.probe_others(now);
        }
    }

    /// No direct ack in time: ask others, and try TCP.
    pub(super) fn probe_others(&mut self, now: Instant) {
        let Some(probe) = &mut self.probe else {
            return;
        };
        if probe.indirect || now >= probe.deadline {
            return;
        }
        probe.indirect = true;
        self.timers.cancel(&Timer::ProbeTimeout);
        let (seq_no, deadline) = (probe.seq_no, probe.deadline);
        let Some(target) = self.table.find(&probe.target) else {
            return;
        };
        let us = &self.config.name;
        let relays: Vec<(SocketAddr, bool)> = self
            .table
            .sample(&mut self.rng, self.config.indirect_checks, |entry| {
                entry.state == NodeState::Alive && entry.name != *us && entry.name != target.name
            })
            .into_iter()
            .map(|entry| (entry.addr(), entry.versions.protocol_max() >= NACK_VERSION))
            .collect();
        probe.nacks_expected = relays.iter().filter(|(_, nack)| *nack).count() as u32;
        if self.config.tcp_pings && target.versions.protocol_max() >= TCP_PING_VERSION {
            self.requests.push_back(StreamRequest::Ping {
                to: target.addr(),
                ping: Ping {
                    seq_no,
                    node: target.name.clone(),
                    source: None,
                },
                deadline,
            });
        }
        let (addr, port, name) = (target.addr, target.port, target.name.clone());
        for (relay, nack) in relays {
            let request = Message::IndirectPing(IndirectPing {
                seq_no,
                target: addr,
                port,
                node: name.as_str(),
                nack,
                source: None,
            });
            self.send_with_gossip(relay, &request);
        }
    }

    /// A ping by stream was answered correctly before its deadline. The round still waits for a
    /// datagram; only at its end does this count.
    pub fn handle_tcp_ack(&mut self, seq_no: u32) {
        if let Some(probe) = &mut self.probe
            && probe.seq_no == seq_no
        {
            probe.answered_by_tcp = true;
        }
    }

    /// The round ends without an ack by datagram.
    pub(super) fn probe_deadline(&mut self, now: Instant) {
        let Some(probe) = self.probe.take() else {
            return;
        };
        self.timers.cancel(&Timer::ProbeAgain);
        self.timers.cancel(&Timer::ProbeTimeout);
        self.count_probe_time(&probe, now);
        if probe.answered_by_tcp {
            self.counters.probes_answered_by_tcp_only += 1;
            self.awareness.apply(-1);
        } else {
            self.counters.probes_failed += 1;
            let delta = match probe.nacks_expected {
                0 => 1,
                expected => expected.saturating_sub(probe.nacks) as i32,
            };
            self.awareness.apply(delta);
            let suspect = Suspect {
                incarnation: probe.incarnation,
                node: probe.target.clone(),
                from: self.config.name.clone(),
            };
            self.suspect(now, suspect, Origin::Ourselves);
            self.arm_reminder(now, probe.target);
        }
        self.resume_probing(now);
    }

    /// Nobody but the suspect can refute, and its time may run out before our probe order comes to
    /// it again: whoever could not reach it tells it once per probe interval until it is cleared
    /// or dead. An interruption shorter than that kills nobody.
    fn arm_reminder(&mut self, now: Instant, name: String) {
        let suspect = |entry: &Entry| entry.suspicion.is_some() && entry.incarnation < u32::MAX;
        let armed = self.timers.iter();
        let reminded = armed.filter(|(_, timer)| matches!(timer, Timer::Reminder(_)));
        if reminded.count() < REMINDED_MAX && self.table.find(&name).is_some_and(suspect) {
            let at = now + self.config.probe_interval;
            self.timers.arm(Timer::Reminder(name), at);
        }
    }

    pub(super) fn remind(&mut self, now: Instant, name: String) {
        if let Some(entry) = self.table.find(&name) {
            let suspect = self.encode(&Message::Suspect(Suspect {
                incarnation: entry.incarnation,
                node: name.clone(),
                from: self.config.name.clone(),
            }));
            self.send(entry.addr(), &[suspect], false);
            self.counters.suspects_reminded += 1;
            self.arm_reminder(now, name);
        }
    }

    fn count_probe_time(&mut self, probe: &Probe, now: Instant) {
        let took = now.saturating_duration_since(probe.started).as_micros();
        self.counters.probe_micros += u64::try_from(took).unwrap_or(u64::MAX);
    }

    fn resume_probing(&mut self, now: Instant) {
        if std::mem::take(&mut self.probe_tick_pending) {
            self.probe_tick(now);
        }
    }

    /// Gives up the round without a verdict.
    pub(super) fn abandon_probe(&mut self) {
        self.probe = None;
        self.probe_tick_pending = false;
        self.timers.cancel(&Timer::ProbeAgain);
        self.timers.cancel(&Timer::ProbeTimeout);
        self.timers.cancel(&Timer::ProbeDeadline);
    }

    pub(super) fn handle_ack(&mut self, now: Instant, ack: &Ack<&[u8]>) {
        if let Some(probe) = self.probe.take_if(|probe| probe.seq_no == ack.seq_no) {
            self.timers.cancel(&Timer::ProbeAgain);
            self.timers.cancel(&Timer::ProbeTimeout);
            self.timers.cancel(&Timer::ProbeDeadline);
            if !probe.send_failed {
                self.awareness.apply(-1);
            }
            self.counters.probes_succeeded += 1;
            self.count_probe_time(&probe, now);
            self.resume_probing(now);
        } else if let Some(relay) = self.relays.remove(&ack.seq_no) {
            self.timers.cancel(&Timer::RelayNack(ack.seq_no));
            self.timers.cancel(&Timer::RelayExpiry(ack.seq_no));
            self.acknowledge(relay.requester, relay.seq_no);
        } else {
            self.counters.acks_unknown += 1;
        }
    }

    pub(super) fn handle_nack(&mut self, nack: Nack) {
        match &mut self.probe {
            Some(probe) if probe.seq_no == nack.seq_no => {
                probe.nacks = (probe.nacks + 1).min(probe.nacks_expected);
            }
            _ => self.counters.acks_unknown += 1,
        }
    }

    pub(super) fn handle_ping(&mut self, from: SocketAddr, ping: &Ping<&str>) {
        // An address may have a new owner; do not let it vouch for the old one.
        if !ping.node.is_empty() && ping.node != self.config.name {
            self.counters.pings_for_others += 1;
            return;
        }
        self.acknowledge(self.reply_to(from, ping.source.as_ref()), ping.seq_no);
    }

    pub(super) fn handle_indirect_ping(
        &mut self,
        now: Instant,
        from: SocketAddr,
        request: &IndirectPing<&str>,
    ) {
        if self.relays.len() >= RELAYS_MAX {
            self.counters.relays_refused += 1;
            return;
        }
        let requester = self.reply_to(from, request.source.as_ref());
        let target = self.relay_target(request.target, request.port);
        let known = match self.table.find(request.node) {
            Some(entry) if entry.addr() == target => true,
            _ => self.table.knows_addr(target),
        };
        if !known {
            // Otherwise anyone could have us send datagrams to anywhere.
            self.counters.relays_refused += 1;
            if request.nack {
                self.send_nack(requester, request.seq_no);
            }
            return;
        }
        let seq_no = self.next_seq_no();
        self.relays.insert(
            seq_no,
            Relay {
                requester,
                seq_no: request.seq_no,
            },
        );
        let timeout = self.config.probe_timeout;
        if request.nack {
            let nack_at = now + timeout.mul_f64(self.config.nack_fraction);
            self.timers.arm(Timer::RelayNack(seq_no), nack_at);
        }
        self.timers.arm(Timer::RelayExpiry(seq_no), now + timeout);
        self.send_ping(target, seq_no, request.node);
    }

    fn send_ping(&mut self, to: SocketAddr, seq_no: u32, node: &str) {
        let ping = Message::Ping(Ping {
            seq_no,
            node,
            source: None,
        });
        self.send_with_gossip(to, &ping);
    }

    fn relay_target(&self, addr: RawIp, port: u16) -> SocketAddr {
        let port = if port == 0 { self.config.port() } else { port };
        socket_addr(addr, port)
    }

    pub(super) fn relay_nack(&mut self, seq_no: u32) {
        if let Some(relay) = self.relays.get(&seq_no) {
            self.send_nack(relay.requester, relay.seq_no);
        }
    }

    pub(super) fn relay_expired(&mut self, seq_no: u32) {
        self.relays.remove(&seq_no);
    }

    /// Where a reply goes: the source of the datagram, unless the sender names the address under
    /// which we know it. Anything else would let an attacker aim our replies at a victim.
    fn reply_to(&self, from: SocketAddr, source: Option<&Source<&str>>) -> SocketAddr {
        let Some(source) = source.filter(|source| source.port != 0) else {
            return from;
        };
        let named = socket_addr(source.addr, source.port);
        let is_member = self
            .table
            .find(source.node)
            .is_some_and(|entry| entry.is_live() && entry.addr() == named);
        if named.ip() == from.ip() || is_member {
            named
        } else {
            from
        }
    }

    fn acknowledge(&mut self, to: SocketAddr, seq_no: u32) {
        let ack = Message::Ack(Ack {
            seq_no,
            payload: &[][..],
        });
        self.send_with_gossip(to, &ack);
    }

    fn send_nack(&mut self, to: SocketAddr, seq_no: u32) {
        self.send_with_gossip(to, &Message::Nack(Nack { seq_no }));
    }

    fn next_seq_no(&mut self) -> u32 {
        self.seq_no = self.seq_no.wrapping_add(1);
        self.seq_no
    }
}
