//! How the Go fork of memberlist behaves: its table of members, probes, suspicions, gossip. A state
//! machine without sockets; the peer around it carries bytes and time.
//!
//! Kept as it is, with its weaknesses: no state *left*, no rejoining of who was lost, acks to the
//! datagram's source, one batch of gossip for all targets of a round, application messages handed
//! over once and forgotten.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use super::{
    Timing,
    catalog::{Catalog, LegacyRecord},
    wire::{self, Announcement, Exchange, Message, StreamMessage},
};

/// What the fork says it understands and speaks; no delegate versions.
const VERSIONS: [u8; 6] = [1, 5, 2, 0, 0, 0];
const BUDGET: usize = 1400;
const GOSSIP_MESSAGES: usize = 15;
const FANOUT: usize = 3;
const SUSPICION_MULT: u32 = 5;
const SUSPICION_MAX_MULT: u32 = 6;
const RETRANSMIT_MULT: u32 = 4;

/// What the fork holds of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LegacyState {
    /// It answers.
    Alive,
    /// It has not answered; still a member.
    Suspect,
    /// It was declared dead, or left.
    Dead,
}

#[derive(Debug)]
struct Entry {
    said: Announcement,
    state: LegacyState,
    changed: Instant,
    suspicion: Option<Suspicion>,
}

impl Entry {
    fn address(&self) -> SocketAddr {
        (self.said.ip, self.said.port).into()
    }
}

#[derive(Debug)]
struct Suspicion {
    began: Instant,
    accusers: Vec<String>,
    wanted: usize,
    min: Duration,
    max: Duration,
}

impl Suspicion {
    fn ends(&self) -> Instant {
        let confirmed = self.accusers.len() - 1;
        if self.wanted == 0 {
            return self.began + self.min;
        }
        let share = (confirmed as f64 + 1.0).ln() / (self.wanted as f64 + 1.0).ln();
        let wait = self.max - (self.max - self.min).mul_f64(share.min(1.0));
        self.began + wait
    }
}

struct Broadcast {
    about: String,
    message: Vec<u8>,
    transmits: u32,
}

struct Probe {
    target: String,
    seq_no: u32,
    began: Instant,
    asked_others: bool,
    acked: bool,
}

struct Relay {
    requester: SocketAddr,
    theirs: u32,
    ours: u32,
    nack: bool,
    until: Instant,
}

/// A connection that the shell makes.
pub(super) enum Dial {
    Exchange { to: SocketAddr, join: bool },
    Ping { to: SocketAddr, message: Vec<u8> },
}

/// One member.
pub(super) struct Membership {
    name: String,
    cluster: String,
    timing: Timing,
    incarnation: u32,
    table: BTreeMap<String, Entry>,
    broadcasts: Vec<Broadcast>,
    users: Vec<Vec<u8>>,
    probe: Option<Probe>,
    relays: Vec<Relay>,
    order: Vec<String>,
    seq_no: u32,
    dice: u64,
    next_probe: Instant,
    next_gossip: Instant,
    next_exchange: Instant,
    pub(super) catalog: Catalog,
    /// Whom this member has ever declared dead or heard of as dead, in order.
    pub(super) mourned: Vec<String>,
    /// Datagrams to send.
    pub(super) out: Vec<(SocketAddr, Vec<u8>)>,
    /// Connections to make.
    pub(super) dials: Vec<Dial>,
}

impl Membership {
    pub(super) fn new(
        name: &str,
        address: (Ipv4Addr, u16),
        cluster: &str,
        timing: Timing,
        now: Instant,
    ) -> Self {
        let said = Announcement {
            name: name.to_owned(),
            ip: address.0,
            port: address.1,
            meta: format!("{{\"ClusterName\":\"{cluster}\",\"State\":\"Running\"}}").into_bytes(),
            incarnation: 1,
            versions: VERSIONS,
        };
        let mut membership = Self {
            name: name.to_owned(),
            cluster: cluster.to_owned(),
            timing,
            incarnation: 1,
            table: BTreeMap::new(),
            broadcasts: Vec::new(),
            users: Vec::new(),
            probe: None,
            relays: Vec::new(),
            order: Vec::new(),
            seq_no: 0,
            dice: u64::from(u32::from(address.0)) | 1,
            next_probe: now + timing.probe,
            next_gossip: now + timing.gossip,
            next_exchange: now + timing.push_pull,
            catalog: Catalog::new(name, cluster, timing, now),
            mourned: Vec::new(),
            out: Vec::new(),
            dials: Vec::new(),
        };
        let entry = Entry {
            said: said.clone(),
            state: LegacyState::Alive,
            changed: now,
            suspicion: None,
        };
        membership.table.insert(name.to_owned(), entry);
        membership.queue(name, &Message::Alive(said));
        membership
    }

    pub(super) fn members(&self) -> BTreeMap<String, LegacyState> {
        let states = self.table.iter();
        states
            .map(|(name, entry)| (name.clone(), entry.state))
            .collect()
    }

    // === Input ===

    /// # Errors
    /// The fork could not digest it.
    pub(super) fn datagram(
        &mut self,
        from: SocketAddr,
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), String> {
        let messages = wire::read_datagram(bytes, &self.cluster)
            .map_err(|problem| format!("datagram of {from}: {problem}: {bytes:02x?}"))?;
        for message in messages {
            let shown = format!("{message:?}");
            self.message(from, message, now)
                .map_err(|problem| format!("datagram of {from}: {problem}: {shown}"))?;
        }
        Ok(())
    }

    fn message(&mut self, from: SocketAddr, message: Message, now: Instant) -> Result<(), String> {
        match message {
            Message::Ping { seq_no, node } => {
                // A ping for who had this address before is not answered.
                if node == self.name {
                    self.send_with_gossip(from, &Message::Ack { seq_no });
                }
            }
            Message::IndirectPing {
                seq_no,
                ip,
                port,
                node,
                nack,
            } => {
                let ours = self.next_seq_no();
                self.relays.push(Relay {
                    requester: from,
                    theirs: seq_no,
                    ours,
                    nack,
                    until: now + self.timing.probe / 2,
                });
                let ping = Message::Ping { seq_no: ours, node };
                self.send_with_gossip((ip, port).into(), &ping);
            }
            Message::Ack { seq_no } => self.acked(seq_no),
            Message::Nack { .. } => {}
            Message::Suspect {
                incarnation,
                node,
                from,
            } => self.suspect(incarnation, &node, &from, now),
            Message::Alive(said) => self.alive(said, now)?,
            Message::Dead {
                incarnation,
                node,
                from,
            } => self.dead(incarnation, &node, &from, now),
            Message::User(payload) => self.user(&payload)?,
        }
        Ok(())
    }

    fn user(&mut self, payload: &[u8]) -> Result<(), String> {
        if payload.is_empty() {
            return Ok(());
        }
        self.catalog.merge(LegacyRecord::decode(payload)?);
        Ok(())
    }

    /// An ack by datagram, or by the stream of a ping of ours.
    pub(super) fn acked(&mut self, seq_no: u32) {
        if let Some(probe) = &mut self.probe {
            probe.acked |= probe.seq_no == seq_no;
        }
        let at = self.relays.iter().position(|relay| relay.ours == seq_no);
        if let Some(relay) = at.map(|at| self.relays.remove(at)) {
            let ack = Message::Ack {
                seq_no: relay.theirs,
            };
            self.send_with_gossip(relay.requester, &ack);
        }
    }

    /// The request of a stream; what to answer, if anything.
    pub(super) fn stream(
        &mut self,
        request: StreamMessage,
        now: Instant,
    ) -> Result<Option<StreamMessage>, String> {
        match request {
            StreamMessage::Ping { seq_no, node } => {
                Ok((node == self.name).then_some(StreamMessage::Ack { seq_no }))
            }
            StreamMessage::Ack { .. } => Err("an ack that answers nothing".to_owned()),
            StreamMessage::User(payload) => self.user(&payload).map(|()| None),
            StreamMessage::Exchange(theirs) => {
                // As it is now: what they bring is merged afterwards.
                let ours = self.exchange(theirs.join);
                self.merge(theirs, now)?;
                Ok(Some(StreamMessage::Exchange(ours)))
            }
        }
    }

    /// Our side of a state exchange.
    pub(super) fn exchange(&self, join: bool) -> Exchange {
        let entries = self.table.values();
        let entries = entries.map(|entry| (entry.said.clone(), entry.state as u8));
        Exchange {
            join,
            entries: entries.collect(),
            user_state: self.catalog.state(),
        }
    }

    /// Their side.
    pub(super) fn merge(&mut self, theirs: Exchange, now: Instant) -> Result<(), String> {
        // One entry whose versions do not fit spoils the whole exchange for the fork.
        if let Some((said, _)) = theirs.entries.iter().find(|(said, _)| !fit(said.versions)) {
            return Err(format!("versions that spoil the exchange: {said:?}"));
        }
        for (said, state) in theirs.entries {
            let us = self.name.clone();
            match state {
                0 => self.alive(said, now)?,
                // Hearsay of a death is a suspicion.
                _ => self.suspect(said.incarnation, &said.name, &us, now),
            }
        }
        if theirs.user_state.is_empty() {
            return Ok(());
        }
        self.catalog.merge_state(&theirs.user_state)
    }

    // === Membership ===

    fn alive(&mut self, said: Announcement, now: Instant) -> Result<(), String> {
        let name = said.name.clone();
        if name == self.name {
            let own = &self.table[&name].said;
            if (said.ip, said.port) != (own.ip, own.port) {
                return Err(format!("our name at another address: {said:?}"));
            }
            let same = said.meta == own.meta && said.versions == own.versions;
            if said.incarnation > own.incarnation || (said.incarnation == own.incarnation && !same)
            {
                self.refute(said.incarnation);
            }
            return Ok(());
        }
        let entry = self.table.entry(name.clone()).or_insert_with(|| Entry {
            said: Announcement {
                incarnation: 0,
                ..said.clone()
            },
            state: LegacyState::Dead,
            changed: now,
            suspicion: None,
        });
        if (said.ip, said.port) != (entry.said.ip, entry.said.port) {
            return Err(format!("{name} moved from {} to {said:?}", entry.address()));
        }
        if said.incarnation <= entry.said.incarnation {
            return Ok(());
        }
        entry.said = said.clone();
        entry.suspicion = None;
        if entry.state != LegacyState::Alive {
            (entry.state, entry.changed) = (LegacyState::Alive, now);
        }
        self.queue(&name, &Message::Alive(said));
        Ok(())
    }

    fn suspect(&mut self, incarnation: u32, node: &str, from: &str, now: Instant) {
        let members = self.table.len();
        let Some(entry) = self.table.get_mut(node) else {
            return;
        };
        if incarnation < entry.said.incarnation {
            return;
        }
        let message = Message::Suspect {
            incarnation,
            node: node.to_owned(),
            from: from.to_owned(),
        };
        if let Some(suspicion) = &mut entry.suspicion {
            let known = suspicion.accusers.iter().any(|accuser| accuser == from);
            if !known && suspicion.accusers.len() <= suspicion.wanted {
                suspicion.accusers.push(from.to_owned());
                self.queue(node, &message);
            }
            return;
        }
        if entry.state != LegacyState::Alive {
            return;
        }
        if node == self.name {
            return self.refute(incarnation);
        }
        let scale = (members as f64).log10().max(1.0);
        let min = self.timing.probe.mul_f64(scale) * SUSPICION_MULT;
        let wanted = SUSPICION_MULT as usize - 2;
        entry.said.incarnation = incarnation;
        (entry.state, entry.changed) = (LegacyState::Suspect, now);
        entry.suspicion = Some(Suspicion {
            began: now,
            accusers: vec![from.to_owned()],
            wanted: if members < wanted + 2 { 0 } else { wanted },
            min,
            max: min * SUSPICION_MAX_MULT,
        });
        self.queue(node, &message);
    }

    fn dead(&mut self, incarnation: u32, node: &str, from: &str, now: Instant) {
        let Some(entry) = self.table.get_mut(node) else {
            return;
        };
        if incarnation < entry.said.incarnation {
            return;
        }
        entry.suspicion = None;
        if entry.state == LegacyState::Dead {
            return;
        }
        if node == self.name {
            return self.refute(incarnation);
        }
        entry.said.incarnation = incarnation;
        (entry.state, entry.changed) = (LegacyState::Dead, now);
        let message = Message::Dead {
            incarnation,
            node: node.to_owned(),
            from: from.to_owned(),
        };
        self.queue(node, &message);
        self.mourned.push(node.to_owned());
        self.catalog.node_left(node, now);
    }

    fn refute(&mut self, accused: u32) {
        self.incarnation = (self.incarnation + 1).max(accused + 1);
        let us = self.name.clone();
        let Some(entry) = self.table.get_mut(&us) else {
            return;
        };
        entry.said.incarnation = self.incarnation;
        let said = entry.said.clone();
        self.queue(&us, &Message::Alive(said));
    }

    // === Time ===

    pub(super) fn tick(&mut self, now: Instant) {
        self.relays_tick(now);
        self.suspicions_tick(now);
        self.probe_tick(now);
        self.catalog.tick(now);
        self.users.splice(0..0, self.catalog.take_outbox());
        if now >= self.next_gossip {
            self.next_gossip = now + self.timing.gossip;
            self.gossip(now);
        }
        if now >= self.next_exchange {
            self.next_exchange = now + self.timing.push_pull;
            let partner = self.pick(1, |entry| entry.state == LegacyState::Alive);
            let dials = partner
                .into_iter()
                .map(|to| Dial::Exchange { to, join: false });
            self.dials.extend(dials);
        }
    }

    fn relays_tick(&mut self, now: Instant) {
        let (late, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.relays)
            .into_iter()
            .partition(|relay| relay.until <= now);
        self.relays = waiting;
        for relay in late.into_iter().filter(|relay| relay.nack) {
            let nack = Message::Nack {
                seq_no: relay.theirs,
            };
            self.send_with_gossip(relay.requester, &nack);
        }
    }

    fn suspicions_tick(&mut self, now: Instant) {
        let over = |entry: &Entry| entry.suspicion.as_ref().is_some_and(|s| s.ends() <= now);
        let over: Vec<(String, u32)> = self
            .table
            .iter()
            .filter(|(_, entry)| over(entry))
            .map(|(name, entry)| (name.clone(), entry.said.incarnation))
            .collect();
        let us = self.name.clone();
        for (name, incarnation) in over {
            self.dead(incarnation, &name, &us, now);
        }
    }

    fn probe_tick(&mut self, now: Instant) {
        if let Some(probe) = &self.probe {
            let waited = now.duration_since(probe.began);
            if probe.acked || waited >= self.timing.probe {
                let probe = self.probe.take().expect("just seen");
                let held = self.table.get(&probe.target);
                if let Some(incarnation) = held.map(|entry| entry.said.incarnation)
                    && !probe.acked
                {
                    let us = self.name.clone();
                    self.suspect(incarnation, &probe.target, &us, now);
                }
            } else if waited >= self.timing.probe / 2 && !probe.asked_others {
                self.ask_others();
            }
        }
        if now < self.next_probe || self.probe.is_some() {
            return;
        }
        self.next_probe = now + self.timing.probe;
        let Some(target) = self.next_target(now) else {
            return;
        };
        let seq_no = self.next_seq_no();
        let entry = &self.table[&target];
        let (to, state, incarnation) = (entry.address(), entry.state, entry.said.incarnation);
        let ping = Message::Ping {
            seq_no,
            node: target.clone(),
        };
        if state == LegacyState::Alive {
            self.send_with_gossip(to, &ping);
        } else {
            // The accused gets its chance to refute.
            let suspect = Message::Suspect {
                incarnation,
                node: target.clone(),
                from: self.name.clone(),
            };
            let parts = [ping, suspect].map(|message| wire::encode(&message, &self.cluster));
            self.out.push((to, wire::datagram(&parts, true)));
        }
        self.probe = Some(Probe {
            target,
            seq_no,
            began: now,
            asked_others: false,
            acked: false,
        });
    }

    fn ask_others(&mut self) {
        let Some(probe) = &mut self.probe else { return };
        probe.asked_others = true;
        let (target, seq_no) = (probe.target.clone(), probe.seq_no);
        let Some(said) = self.table.get(&target).map(|entry| entry.said.clone()) else {
            return;
        };
        let relays = self.pick(FANOUT, |entry| {
            entry.state == LegacyState::Alive && entry.said.name != target
        });
        let request = Message::IndirectPing {
            seq_no,
            ip: said.ip,
            port: said.port,
            node: target.clone(),
            nack: true,
        };
        for relay in relays {
            self.send_with_gossip(relay, &request);
        }
        let ping = StreamMessage::Ping {
            seq_no,
            node: target,
        };
        self.dials.push(Dial::Ping {
            to: (said.ip, said.port).into(),
            message: wire::stream(&ping, &self.cluster),
        });
    }

    /// Everybody in turn, in another order each time; at the turn the long dead are forgotten.
    fn next_target(&mut self, now: Instant) -> Option<String> {
        if self.order.is_empty() {
            let to_the_dead = self.timing.gossip_to_the_dead;
            self.table.retain(|_, entry| {
                entry.state != LegacyState::Dead || now.duration_since(entry.changed) <= to_the_dead
            });
            let us = &self.name;
            let mut order: Vec<String> = self.table.keys().filter(|n| *n != us).cloned().collect();
            for last in (1..order.len()).rev() {
                order.swap(last, self.roll(last + 1));
            }
            self.order = order;
        }
        while let Some(name) = self.order.pop() {
            let entry = self.table.get(&name);
            if entry.is_some_and(|entry| entry.state != LegacyState::Dead) {
                return Some(name);
            }
        }
        None
    }

    // === Gossip ===

    fn gossip(&mut self, now: Instant) {
        let to_the_dead = self.timing.gossip_to_the_dead;
        let targets = self.pick(FANOUT, |entry| {
            entry.state != LegacyState::Dead || now.duration_since(entry.changed) <= to_the_dead
        });
        for _ in 0..GOSSIP_MESSAGES {
            let batch = self.batch(BUDGET - 2);
            if batch.is_empty() {
                return;
            }
            let datagram = wire::datagram(&batch, true);
            self.out
                .extend(targets.iter().map(|to| (*to, datagram.clone())));
        }
    }

    /// Messages for one datagram: the protocol's own first, then as many of the application's as
    /// fit, in order; those are forgotten.
    fn batch(&mut self, budget: usize) -> Vec<Vec<u8>> {
        let digits = (self.table.len() as f64 + 1.0).log10().ceil() as u32;
        let (mut used, mut batch) = (0, Vec::new());
        self.broadcasts.sort_by_key(|broadcast| broadcast.transmits);
        for broadcast in &mut self.broadcasts {
            if batch.len() < 127 && used + 2 + broadcast.message.len() <= budget {
                used += 2 + broadcast.message.len();
                batch.push(broadcast.message.clone());
                broadcast.transmits += 1;
            }
        }
        self.broadcasts
            .retain(|broadcast| broadcast.transmits < RETRANSMIT_MULT * digits);
        let fitting = self.users.iter().take_while(|payload| {
            used += 3 + payload.len();
            used <= budget
        });
        let fitting = fitting.count().min(127 - batch.len());
        let users = self.users.drain(..fitting);
        batch.extend(users.map(|payload| wire::encode(&Message::User(payload), "")));
        batch
    }

    fn send_with_gossip(&mut self, to: SocketAddr, message: &Message) {
        let primary = wire::encode(message, &self.cluster);
        let rest = self.batch(BUDGET - 2 - primary.len());
        let parts = [vec![primary], rest].concat();
        self.out.push((to, wire::datagram(&parts, false)));
    }

    fn queue(&mut self, about: &str, message: &Message) {
        self.broadcasts.retain(|broadcast| broadcast.about != about);
        self.broadcasts.push(Broadcast {
            about: about.to_owned(),
            message: wire::encode(message, &self.cluster),
            transmits: 0,
        });
    }

    // === Chance ===

    fn pick(&mut self, count: usize, wanted: impl Fn(&Entry) -> bool) -> Vec<SocketAddr> {
        let others = self.table.values();
        let others = others.filter(|entry| entry.said.name != self.name && wanted(entry));
        let mut others: Vec<SocketAddr> = others.map(Entry::address).collect();
        let mut picked = Vec::new();
        while picked.len() < count && !others.is_empty() {
            let at = self.roll(others.len());
            picked.push(others.swap_remove(at));
        }
        picked
    }

    fn roll(&mut self, sides: usize) -> usize {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        (self.dice % sides as u64) as usize
    }

    fn next_seq_no(&mut self) -> u32 {
        self.seq_no += 1;
        self.seq_no
    }
}

/// Whether what a member speaks is among what it, and a fork of this kind, understands.
fn fit([min, max, spoken, d_min, d_max, d_spoken]: [u8; 6]) -> bool {
    let [our_min, our_max, _, our_d_min, our_d_max, _] = VERSIONS;
    (min.max(our_min)..=max.min(our_max)).contains(&spoken)
        && (d_min.max(our_d_min)..=d_max.min(our_d_max)).contains(&d_spoken)
}
