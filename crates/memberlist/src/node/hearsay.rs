//! What tables of others say of members that we know otherwise: whom to ask about it, and when to
//! believe it.
//!
//! In Go every row that calls dead whom we hold alive is an accusation that we spread, and every row
//! that calls alive whom we hold dead makes us spread ours. Where two parts of a cluster find each other
//! again, that is everybody's accusation of everybody, and as many refutations. Here nobody else hears
//! of it: of each table a few are asked themselves, and only who does not answer is suspected. When
//! several of the long dead have answered, the others are taken to be back as well, as soon as a table
//! or an announcement says so. Without that they would have to refute one by one, and all of them would
//! have to hear of each.
//!
//! Who is believed to be back wrongly is found out by probing, as any other. That can only happen to
//! somebody who died while the one that says so was cut off, and while many others return.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use rand::RngExt;

use super::Node;
use super::membership::Origin;
use super::table::Entry;
use super::timers::Timer;
use crate::wire::message::{Message, NodeState, Suspect};

/// Members asked because of one table, at most, chosen at random. The next table names the others
/// again, should they still be in doubt.
const ASKED_PER_TABLE: usize = 16;

/// Accused that we wait for to answer, at most.
const WAITING_MAX: usize = 64;

/// So many long dead that return by their own word within [`RETURNS_KEPT`] vouch for the others.
const RETURNS_WANTED: usize = 3;
const RETURNS_KEPT: Duration = Duration::from_secs(10);

/// A row that contradicts what we know.
#[derive(Debug)]
struct Contradiction {
    name: String,
    /// With which incarnation it is called dead, or `None` if it is called alive and we know better.
    accused: Option<u32>,
}

/// An accusation that is believed unless the accused answers.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    incarnation: u32,
    until: Instant,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Hearsay {
    /// Contradictions in the table at hand, and those of them that were chosen.
    seen: usize,
    chosen: Vec<Contradiction>,
    waiting: BTreeMap<String, Waiting>,
    /// When the latest of the long dead returned by their own word.
    returns: VecDeque<Instant>,
}

impl Hearsay {
    /// Whether some of the accused have yet to answer.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// One of the long dead has returned by its own word.
    pub(super) fn returned(&mut self, now: Instant) {
        self.returns.push_back(now);
        if self.returns.len() > RETURNS_WANTED {
            self.returns.pop_front();
        }
    }

    fn are_returning(&self, now: Instant) -> bool {
        let first = self.returns.front();
        self.returns.len() >= RETURNS_WANTED
            && first.is_some_and(|at| now.saturating_duration_since(*at) < RETURNS_KEPT)
    }
}

impl Node {
    /// Whether somebody has been dead for longer than the dead are told of it.
    pub(super) fn is_long_dead(&self, entry: &Entry, now: Instant) -> bool {
        let keep = self.config.gossip_to_the_dead;
        entry.state == NodeState::Dead && now.saturating_duration_since(entry.state_change) > keep
    }

    /// Whether an announcement no newer than the death is believed all the same.
    pub(super) fn is_believed_back(&self, entry: &Entry, incarnation: u32, now: Instant) -> bool {
        incarnation == entry.incarnation
            && self.is_long_dead(entry, now)
            && self.hearsay.are_returning(now)
    }

    /// A table calls somebody alive whom we hold for dead, or dead (`accused`) whom we hold alive.
    pub(super) fn weigh(&mut self, name: String, accused: Option<u32>) {
        let contradiction = Contradiction { name, accused };
        let hearsay = &mut self.hearsay;
        hearsay.seen += 1;
        if hearsay.chosen.len() < ASKED_PER_TABLE {
            hearsay.chosen.push(contradiction);
            return;
        }
        // Each with the same chance, however many there are.
        let place = self.rng.random_range(0..hearsay.seen);
        if let Some(chosen) = hearsay.chosen.get_mut(place) {
            *chosen = contradiction;
        }
    }

    /// The table is merged: asks those who were chosen. While many return that was a table of
    /// somebody who does not know it yet, and if not, the next one says the same.
    pub(super) fn ask_the_contradicted(&mut self, now: Instant) {
        self.hearsay.seen = 0;
        if self.hearsay.are_returning(now) {
            self.hearsay.chosen.clear();
        }
        for Contradiction { name, accused } in std::mem::take(&mut self.hearsay.chosen) {
            match accused {
                None => self.contradict(now, &name),
                Some(incarnation) => self.ask_the_accused(now, name, incarnation),
            }
        }
    }

    fn ask_the_accused(&mut self, now: Instant, name: String, incarnation: u32) {
        let waiting = &mut self.hearsay.waiting;
        if waiting.len() >= WAITING_MAX || waiting.contains_key(&name) {
            return;
        }
        let Some(entry) = self.table.find(&name) else {
            return;
        };
        let until = now + self.config.probe_interval;
        waiting.insert(name.clone(), Waiting { incarnation, until });
        let to = entry.addr();
        let suspect = self.encode(&Message::Suspect(Suspect {
            incarnation,
            node: name,
            from: self.config.name.clone(),
        }));
        self.send(to, &[suspect], false);
        self.counters.accused_asked += 1;
        if !self.timers.is_armed(&Timer::Hearsay) {
            self.timers.arm(Timer::Hearsay, until);
        }
    }

    /// Suspects whoever was asked in vain.
    pub(super) fn believe_hearsay(&mut self, now: Instant) {
        let waiting = std::mem::take(&mut self.hearsay.waiting);
        let (unanswered, waiting): (BTreeMap<_, _>, _) =
            waiting.into_iter().partition(|(_, it)| it.until <= now);
        self.hearsay.waiting = waiting;
        let next = self.hearsay.waiting.values().map(|it| it.until).min();
        for (node, Waiting { incarnation, .. }) in unanswered {
            let entry = self.table.find(&node);
            if entry.is_some_and(|entry| entry.incarnation > incarnation) {
                self.counters.accused_answered += 1;
                continue;
            }
            let from = self.config.name.clone();
            let suspect = Suspect {
                incarnation,
                node,
                from,
            };
            self.suspect(now, suspect, Origin::Peer);
        }
        if let Some(next) = next {
            self.timers.arm(Timer::Hearsay, next);
        }
    }
}
