//! What an announcement or accusation does to the table: the rules of `aliveNode`, `suspectNode`
//! and `deadNode` in `state.go` of hashicorp/memberlist. For equal incarnations dead and left
//! beat suspect, and suspect beats alive.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::suspicion::{Span, Suspicion};
use super::table::Entry;
use super::timers::Timer;
use super::{Event, Node};
use crate::wire::encode_message;
use crate::wire::message::{
    Alive, Dead, Message, NodeState, RawIp, Suspect, Versions, socket_addr,
};

/// An accusation this far ahead of us is not the product of ordinary refutations.
const FAR_ACCUSATION: u32 = 1 << 20;

/// Announcements and accusations that wait at a time. At the usual pace that is what can be said in
/// half a second; when more is to be said of that many nodes at once, state exchanges are faster.
const ANNOUNCEMENTS_MAX: usize = 512;

/// At most one conflict event per name in this time.
const CONFLICT_PERIOD: Duration = Duration::from_secs(10);

/// Who makes us apply an accusation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A message or a state exchange.
    Peer,
    /// Our own probing, suspicion or departure.
    Ourselves,
}

/// When what is announced leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Haste {
    /// With the next gossip round.
    NextRound,
    /// At once to a few members, and with the rounds.
    AtOnce,
}

impl From<Origin> for Haste {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::Peer => Self::NextRound,
            Origin::Ourselves => Self::AtOnce,
        }
    }
}

impl Node {
    /// Inserts ourselves.
    pub(super) fn bootstrap(&mut self, now: Instant) {
        let [min, max, current] = self.config.delegate_versions;
        let mut versions = Versions::OURS;
        versions.0[3..].copy_from_slice(&[min, max, current]);
        self.incarnation = 1;
        let ourselves = Alive {
            incarnation: self.incarnation,
            node: self.config.name.clone(),
            addr: RawIp::from(self.config.advertise),
            port: self.config.port(),
            meta: self.config.meta.clone(),
            versions,
        };
        self.table.insert(Entry::new(ourselves, now), &mut self.rng);
        self.announce_ourselves(Haste::AtOnce);
        self.emit_joined(&self.config.name.clone());
    }

    /// A node says it is alive.
    pub(super) fn alive(&mut self, now: Instant, mut alive: Alive) {
        let ours = alive.node == self.config.name;
        if ours && self.leaving || alive.incarnation == 0 {
            return;
        }
        if alive.port == 0 {
            alive.port = self.config.port();
        }
        let Some(entry) = self.table.find(&alive.node) else {
            self.admit(now, alive);
            return;
        };
        let claimed = socket_addr(alive.addr, alive.port);
        let moved = entry.addr() != claimed;
        if moved && (ours || !self.may_be_replaced(now, entry)) {
            self.conflict(now, &alive);
            return;
        }
        if ours {
            self.hear_of_ourselves(&alive);
        } else if alive.incarnation <= entry.incarnation && !moved {
            if self.is_believed_back(entry, alive.incarnation, now) {
                self.counters.believed_back += 1;
                self.accept(now, alive);
                return;
            }
            self.contradict(now, &alive.node);
        } else {
            self.accept(now, alive);
        }
    }

    /// Whether an announcement from another address may take over this name.
    fn may_be_replaced(&self, now: Instant, entry: &Entry) -> bool {
        let reclaim = self.config.dead_node_reclaim;
        match entry.state {
            NodeState::Left => true,
            NodeState::Dead => !reclaim.is_zero() && now - entry.state_change >= reclaim,
            NodeState::Alive | NodeState::Suspect => false,
        }
    }

    /// Adds a node we did not know.
    fn admit(&mut self, now: Instant, alive: Alive) {
        if self.table.len() >= self.config.members_max {
            self.counters.members_refused += 1;
            return;
        }
        self.counters.announcements_applied += 1;
        let first_peer = self.table.len() == 1;
        let name = alive.node.clone();
        self.table
            .insert(Entry::new(alive.clone(), now), &mut self.rng);
        self.spread_push_pull(now);
        self.announce(&name, Message::Alive(alive), Haste::NextRound);
        self.emit_joined(&name);
        if first_peer && !self.leaving {
            // Until now there was nobody to tell.
            self.announce_ourselves(Haste::AtOnce);
        }
    }

    /// Takes over a newer announcement of a node we know.
    fn accept(&mut self, now: Instant, alive: Alive) {
        let name = alive.node.clone();
        let Some(entry) = self.table.find(&name) else {
            return;
        };
        if alive.incarnation > entry.incarnation && self.is_long_dead(entry, now) {
            self.hearsay.returned(now);
        }
        let Some(entry) = self.table.find_mut(&name) else {
            return;
        };
        self.counters.announcements_applied += 1;
        let was_live = entry.is_live();
        let meta_changed = entry.meta != alive.meta;
        entry.update(&alive);
        let doubted = entry.suspicion.take().is_some();
        if entry.state != NodeState::Alive {
            entry.state = NodeState::Alive;
            entry.state_change = now;
        }
        let member = entry.member();
        if doubted {
            self.cancel_suspicion(&name);
        }
        self.announce(&name, Message::Alive(alive), Haste::NextRound);
        self.members_version += 1;
        if !was_live {
            self.events.push_back(Event::Joined(member));
        } else if meta_changed {
            self.events.push_back(Event::Updated(member));
        }
    }

    /// Someone announces us. After a restart this is how we learn that the cluster remembers a
    /// newer or different version of us.
    fn hear_of_ourselves(&mut self, alive: &Alive) {
        let Some(entry) = self.table.find(&self.config.name) else {
            return;
        };
        let same = alive.meta == entry.meta && alive.versions == entry.versions;
        if alive.incarnation > self.incarnation || alive.incarnation == self.incarnation && !same {
            self.refute(alive.incarnation);
        }
    }

    /// A node announces itself with a clock we have already seen, while we hold it suspect or
    /// worse: it has restarted and may have met nobody who told it. Repeat the accusation to it, so that
    /// it can refute.
    pub(super) fn contradict(&mut self, now: Instant, name: &str) {
        let pause = self.config.gossip_interval * 5;
        let Some(entry) = self.table.find(name) else {
            return;
        };
        if entry.state == NodeState::Alive || entry.incarnation == u32::MAX {
            return;
        }
        let answered = self.answered.entry(name.to_owned()).or_default();
        let accused_again = &mut answered.accused_again;
        if accused_again.is_some_and(|at| now - at < pause) {
            return;
        }
        *accused_again = Some(now);
        let to = entry.addr();
        let suspect = Message::Suspect(Suspect {
            incarnation: entry.incarnation,
            node: name.to_owned(),
            from: self.config.name.clone(),
        });
        let encoded = self.encode(&suspect);
        self.send(to, &[encoded], false);
        self.counters.accusations_repeated += 1;
    }

    /// Whoever accuses us hears first that we live.
    fn answer_accuser(&mut self, accuser: &str) {
        let us = &self.config.name;
        let to = self.table.find(accuser).filter(|entry| entry.name != *us);
        if let (Some(to), Some(entry)) = (to.map(Entry::addr), self.table.find(us)) {
            let alive = self.encode(&Message::Alive(entry.alive()));
            self.send(to, &[alive], false);
        }
    }

    /// Someone still accuses us of what we have refuted: the refutation has passed them by, and
    /// their suspicion runs on. Go ignores them; we tell them again, and the cluster, because an
    /// accuser we do not know can be reached only by gossip.
    fn answer_old_accusation(&mut self, now: Instant, accused: &str, accuser: &str) {
        if accused != self.config.name || accuser == accused || self.leaving {
            return;
        }
        let pause = self.config.gossip_interval * 5;
        let to = self.table.find(accuser).map(Entry::addr);
        let Some(entry) = self.table.find(accused) else {
            return;
        };
        let answered = self.answered.entry(accused.to_owned()).or_default();
        let answered = &mut answered.accused_again;
        if answered.is_some_and(|at| now - at < pause) {
            return;
        }
        *answered = Some(now);
        let alive = Message::Alive(entry.alive());
        let encoded = self.encode(&alive);
        if !self.membership.contains(&self.config.name) {
            self.membership
                .push(self.config.name.clone(), encoded.clone());
            self.wake_gossip();
        }
        if let Some(to) = to {
            self.send(to, &[encoded], false);
        }
        self.counters.old_accusations_answered += 1;
    }

    /// Two addresses claim one name. Who comes second learns it from any table; nobody passes on its
    /// claim, so the one that has the name learns it from us, if at all.
    fn conflict(&mut self, now: Instant, alive: &Alive) {
        self.counters.conflicts += 1;
        let Some(entry) = self.table.find(&alive.node) else {
            return;
        };
        let answered = self.answered.entry(alive.node.clone()).or_default();
        let conflict_reported = &mut answered.conflict_reported;
        if conflict_reported.is_some_and(|at| now - at < CONFLICT_PERIOD) {
            return;
        }
        *conflict_reported = Some(now);
        let existing = entry.addr();
        let listens = entry.is_live() && alive.node != self.config.name;
        self.events.push_back(Event::Conflict {
            name: alive.node.clone(),
            existing,
            claimed: socket_addr(alive.addr, alive.port),
        });
        if listens {
            let claim = self.encode(&Message::Alive(alive.clone()));
            self.send(existing, &[claim], false);
        }
    }

    /// Someone suspects a node.
    pub(super) fn suspect(&mut self, now: Instant, suspect: Suspect, origin: Origin) {
        if self.irrefutable(suspect.incarnation, &suspect.node, origin) {
            return;
        }
        let members = self.table.len();
        let Some(entry) = self.table.find_mut(&suspect.node) else {
            return;
        };
        if suspect.incarnation < entry.incarnation {
            return self.answer_old_accusation(now, &suspect.node, &suspect.from);
        }
        let timer = Timer::Suspicion(suspect.node.clone());
        if let Some(suspicion) = &mut entry.suspicion {
            if suspicion.confirm(&suspect.from, now) {
                self.timers.arm(timer, suspicion.deadline());
                let name = suspect.node.clone();
                self.announce(&name, Message::Suspect(suspect), origin.into());
            }
            return;
        }
        if entry.state != NodeState::Alive {
            return;
        }
        if suspect.node == self.config.name {
            self.refute(suspect.incarnation);
            self.answer_accuser(&suspect.from);
            return;
        }
        let span = Span::new(
            self.config.suspicion_mult,
            self.config.suspicion_max_timeout_mult,
            members,
            self.config.probe_interval,
        );
        let suspicion = Suspicion::new(span, &suspect.from, now);
        self.timers.arm(timer, suspicion.deadline());
        entry.suspicion = Some(Box::new(suspicion));
        entry.incarnation = suspect.incarnation;
        entry.state = NodeState::Suspect;
        entry.state_change = now;
        self.members_version += 1;
        self.counters.suspicions += 1;
        let name = suspect.node.clone();
        self.announce(&name, Message::Suspect(suspect), origin.into());
    }

    fn cancel_suspicion(&mut self, name: &str) {
        self.timers.cancel(&Timer::Suspicion(name.to_owned()));
        self.timers.cancel(&Timer::Reminder(name.to_owned()));
    }

    /// Someone declares a node dead, or a node says goodbye.
    pub(super) fn dead(&mut self, now: Instant, dead: Dead, origin: Origin) {
        if self.irrefutable(dead.incarnation, &dead.node, origin) {
            return;
        }
        let Some(entry) = self.table.find_mut(&dead.node) else {
            return;
        };
        if dead.incarnation < entry.incarnation {
            return self.answer_old_accusation(now, &dead.node, &dead.from);
        }
        if !entry.is_live() {
            return;
        }
        let ours = dead.node == self.config.name;
        if ours && !self.leaving {
            self.refute(dead.incarnation);
            self.answer_accuser(&dead.from);
            return;
        }
        let doubted = entry.suspicion.take().is_some();
        let leaves = dead.from == dead.node;
        entry.incarnation = dead.incarnation;
        entry.state = if leaves {
            NodeState::Left
        } else {
            NodeState::Dead
        };
        entry.state_change = now;
        let member = entry.member();
        self.counters.deaths_applied += 1;
        if doubted {
            self.cancel_suspicion(&dead.node);
        }
        self.members_version += 1;
        let name = dead.node.clone();
        // A goodbye comes from one place and is to be everywhere before the requests are that the
        // member no longer serves. Deaths are found out by many at the same time anyway.
        let haste = if leaves { Haste::AtOnce } else { origin.into() };
        self.announce(&name, Message::Dead(dead), haste);
        self.events.push_back(Event::Left(member));
    }

    /// An accusation of another node at the highest incarnation could never be refuted. Ours, from
    /// our own probing, are applied but kept to ourselves.
    fn irrefutable(&mut self, incarnation: u32, name: &str, origin: Origin) -> bool {
        let refused = incarnation == u32::MAX && name != self.config.name && origin == Origin::Peer;
        self.counters.irrefutable_refused += u64::from(refused);
        refused
    }

    /// The suspicion of this node has run out.
    pub(super) fn suspicion_expired(&mut self, now: Instant, name: &str) {
        let Some(entry) = self.table.find(name) else {
            return;
        };
        if entry.state != NodeState::Suspect {
            return;
        }
        let confirmed = entry.suspicion.as_ref().is_none_or(|it| it.is_confirmed());
        let dead = Dead {
            incarnation: entry.incarnation,
            node: name.to_owned(),
            from: self.config.name.clone(),
        };
        self.counters.deaths_declared += 1;
        self.counters.deaths_unconfirmed += u64::from(!confirmed);
        self.dead(now, dead, Origin::Ourselves);
    }

    /// Says that we live, louder than the accusation.
    fn refute(&mut self, accused: u32) {
        if accused.saturating_sub(self.incarnation) > FAR_ACCUSATION {
            self.counters.far_accusations += 1;
        }
        // Saturates: a wrapped clock could never assert itself again.
        self.incarnation = self.incarnation.max(accused).saturating_add(1);
        self.counters.refutations += 1;
        self.awareness.apply(1);
        self.members_version += 1;
        self.announce_ourselves(Haste::AtOnce);
    }

    /// Queues our own announcement.
    pub(super) fn announce_ourselves(&mut self, haste: Haste) {
        let incarnation = self.incarnation;
        let name = self.config.name.clone();
        let Some(entry) = self.table.find_mut(&name) else {
            return;
        };
        entry.incarnation = incarnation;
        let alive = entry.alive();
        self.announce(&name, Message::Alive(alive), haste);
    }

    /// Queues a message about a node; an older one about it is dropped.
    fn announce(&mut self, name: &str, message: Message, haste: Haste) {
        if let Message::Suspect(Suspect { incarnation, .. })
        | Message::Dead(Dead { incarnation, .. }) = &message
            && *incarnation == u32::MAX
        {
            return;
        }
        // It may wait for long, so without room to grow.
        let encoded: Bytes = encode_message(&message, &self.config.cluster_name)
            .into_boxed_slice()
            .into();
        if haste == Haste::AtOnce {
            self.eager.push_front((encoded.clone(), false));
            self.eager_urgent += 1;
            self.bound_eager();
        }
        self.membership.push(name.to_owned(), encoded);
        if self.membership.len() > ANNOUNCEMENTS_MAX {
            let us = &self.config.name;
            self.membership.drop_last_where(|name| name != us);
            self.counters.announcements_overflowed += 1;
        }
        self.wake_gossip();
    }

    fn emit_joined(&mut self, name: &str) {
        self.members_version += 1;
        if let Some(entry) = self.table.find(name) {
            self.events.push_back(Event::Joined(entry.member()));
        }
    }
}
