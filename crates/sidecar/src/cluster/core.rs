//! What an agent does with everything that happens in its cluster: the replica, its exchanges with
//! others, and what is said about it in the log. Pure but for the log: events and time go in,
//! actions come out. The task around it is `registry`; the simulator runs it, too.
//!
//! Whoever calls it reads this host's own clocks; what time it is in the cluster, and what follows
//! when that turns out to be another than was thought, is settled here, before the replica sees it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use catalog::{Change, Now, Rejected, Service, Snapshot, Timestamp, Upkeep, json};
use memberlist::{Event, Priority};
use rand::{RngExt as _, SeedableRng};
use rand_pcg::Pcg64Mcg;
use tracing::{debug, info, warn};

use super::{
    catching_up::CatchingUp,
    clock::{self, ClusterClock, Offset},
    confirm::{Applied, Confirmations, Say},
    drains::Drain,
    exchange::{self, Members},
    introductions::Introductions,
    metadata::{self, Kind},
    replica::{Commanded, Effects, News, Replica},
    timings::Timings,
    update::StatusUpdate,
};
use crate::{health::LocalUpdate, throttle::Throttle};

/// The same trouble with the same peer is logged once in this time.
const COMPLAIN_EVERY: Duration = Duration::from_secs(600);

/// When so many members have come since an exchange in which both knew the same ones, this host
/// exchanges states out of turn until that is so again: gossip brings the few, but of many some may be
/// missed, by the other side as well.
const MANY: usize = 8;
/// The first time after a pause, in which most of them are heard of.
const MANY_IN: Duration = Duration::from_secs(1);
/// In a cluster of more members, whoever joins asks another than the one it joined through for what it
/// misses.
const SPARED_FROM: usize = 64;
/// Least time between exchanges of the tables of members that replies ask for, whoever sends them. A
/// little less than between exchanges out of turn.
const TABLES_EVERY: Duration = Duration::from_millis(900);
/// After a pause of so long nothing is believed any more of what others had said before it: they keep
/// tombstones for 3 h, and a part of that may have passed already.
pub const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// Two hosts with one name are worth a line more often than other trouble: services are at stake.
const COMPLAIN_OF_NAMES_EVERY: Duration = Duration::from_secs(300);

/// What follows from what happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Tell every member.
    Broadcast {
        /// A newer message of the same key replaces an older one that still waits.
        key: String,
        /// The message.
        payload: Bytes,
        /// How it competes with others.
        priority: Priority,
    },
    /// Send messages to one member by stream, if it is still one.
    Send {
        /// Its name.
        to: String,
        /// The messages.
        messages: Vec<Bytes>,
    },
    /// Exchange states with the member at this address.
    Exchange(SocketAddr),
    /// Exchange states with the member of this name, or with any.
    CatchUp(Option<String>),
    /// Exchange states with the member of this name, if it is still one, and show each other the
    /// tables of members.
    ExchangeTables {
        /// Its name.
        with: String,
    },
    /// Tell whoever wants to know that readers see something new.
    Changed(Change),
    /// Keep the drains of this host for the next agent.
    Keep(Vec<Drain>),
    /// Tell whoever has begun an inquiry what came out.
    Applied {
        /// The inquiry.
        number: u64,
        /// Who routes by the record.
        applied: Applied,
    },
}

/// Counts since start, for metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Records received from peers, by gossip or exchange.
    pub records_received: AtomicU64,
    /// Records and documents that could not be read.
    pub records_undecodable: AtomicU64,
    /// Records refused for their stamp.
    pub records_rejected: AtomicU64,
    /// Records sent, own and passed on.
    pub records_broadcast: AtomicU64,
    /// Changes that readers saw.
    pub changes: AtomicU64,
    /// News in short form about records that are not held.
    pub updates_unusable: AtomicU64,
    /// State exchanges begun here in which both knew the same.
    pub exchanges_same: AtomicU64,
    /// State exchanges begun here that found a difference.
    pub exchanges_different: AtomicU64,
    /// Reports that another live host claims this host's name.
    pub name_conflicts: AtomicU64,
    /// What is added to this host's clock, in seconds: 0 while it is near the cluster's time.
    pub clock_correction_seconds: AtomicI64,
    /// How long the writer's steps took.
    pub timings: Timings,
}

fn add(counter: &AtomicU64, number: usize) {
    counter.fetch_add(u64::try_from(number).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// See the module documentation.
#[derive(Debug)]
pub struct Core {
    replica: Replica,
    introductions: Introductions,
    catching_up: CatchingUp,
    clock: ClusterClock,
    confirmations: Confirmations,
    /// The drains that were last told to be kept.
    drains_kept: u64,
    /// This host's wall clock at the latest input, as it is.
    own_clock: Timestamp,
    /// The correction that was last said in the log, in seconds.
    correction_told: i64,
    /// Pauses since this host last knew the same as another one, in all.
    slept: Duration,
    counters: Arc<Counters>,
    complaints: Throttle,
    names: Throttle,
    tables_exchanged: Option<Instant>,
    /// Members that came since an exchange found that both sides know the same ones.
    comings: usize,
    rng: Pcg64Mcg,
    actions: Vec<Action>,
}

impl Core {
    /// Around `replica`. Equal seeds and equal inputs give equal behaviour.
    pub fn new(replica: Replica, counters: Arc<Counters>, seed: u64) -> Self {
        Self {
            introductions: Introductions::new(replica.hostname()),
            catching_up: CatchingUp::default(),
            replica,
            clock: ClusterClock::default(),
            confirmations: Confirmations::default(),
            drains_kept: 0,
            own_clock: Timestamp::EPOCH,
            correction_told: 0,
            slept: Duration::ZERO,
            counters,
            complaints: Throttle::new(COMPLAIN_EVERY),
            tables_exchanged: None,
            comings: 0,
            names: Throttle::new(COMPLAIN_OF_NAMES_EVERY),
            rng: Pcg64Mcg::seed_from_u64(seed),
            actions: Vec::new(),
        }
    }

    /// The catalog of this host.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// What readers see.
    pub fn snapshot(&self) -> &Snapshot {
        self.replica.snapshot()
    }

    /// What was counted so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What is to be done since this was asked last, in order.
    pub fn actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// When [`Core::tick`] wants to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        let deadlines = [
            self.replica.next_deadline(),
            self.introductions.next_deadline(),
            self.catching_up.next_deadline(),
            self.clock.next_deadline(),
            self.confirmations.next_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// How long the machine has been suspended since the start, in all, where the monotonic clock
    /// stands still in that time. To be told before the next input, when it has grown.
    pub fn suspended(&mut self, total: Duration) {
        self.clock.suspended(total);
    }

    /// The cluster's time, when this host's own clocks show `own`, after what follows from it.
    fn time(&mut self, own: Now) -> Now {
        self.own_clock = own.wall;
        let reading = self.clock.read(own, self.snapshot().members.size());
        let now = reading.now;
        self.report_clock(reading.moved);
        self.replica.judge_by(reading.exact);
        if reading.back || reading.moved.is_some() {
            let effects = self.replica.time_moved(reading.moved, now);
            if reading.moved.is_some() || !effects.changes.is_empty() {
                // What was forgotten, and what was refused before, comes with the next exchange.
                self.catching_up.want_anybody(now.monotonic);
            }
            self.carry_out(effects, now);
        }
        if let Some(pause) = reading.paused {
            self.woke(pause, now);
        }
        if self.clock.in_doubt() {
            self.catching_up.want_one(now.monotonic);
        }
        now
    }

    /// This process, or its machine, has stood still for so long.
    ///
    /// What others have buried and forgotten meanwhile is still alive here, and whoever heard of it
    /// from us would raise the dead; so all of it goes. Until somebody has told us anew, a round trip
    /// away, readers see this host's own services alone: who finds nothing asks again, while who is
    /// sent to where something was hours ago may find something else there.
    ///
    /// Short sleeps add up until an exchange has shown that nothing was missed.
    fn woke(&mut self, pause: Duration, now: Now) {
        self.slept += pause;
        if self.slept < SLEEP_MAX {
            return;
        }
        let words = clock::in_words(self.slept.as_secs());
        warn!("stood still for {words}; what other hosts had said is asked for again");
        self.slept = Duration::ZERO;
        let effects = self.replica.forget_others(now);
        self.catching_up.want_anybody(now.monotonic);
        self.carry_out(effects, now);
    }

    /// Says in the log what is wrong with this host's clock, when that is news.
    fn report_clock(&mut self, moved: Option<Offset>) {
        let correction = self.clock.correction();
        let shown = &self.counters.clock_correction_seconds;
        shown.store(correction, Ordering::Relaxed);
        let told = self.correction_told;
        let news = (correction == 0) != (told == 0)
            || correction.abs_diff(told) >= clock::TOLERANCE.as_secs();
        if news && correction == 0 {
            info!("this host's clock agrees with the cluster's time again");
        } else if news {
            let side = if correction < 0 { "ahead of" } else { "behind" };
            let words = clock::in_words(correction.unsigned_abs());
            warn!(
                correction_seconds = correction,
                "this host's clock is {words} {side} the cluster's time, which is used instead; set \
                 the clock right, best by NTP (chrony, systemd-timesyncd)"
            );
        } else if let Some(moved) = moved {
            let moved = moved.seconds();
            let words = clock::in_words(moved.unsigned_abs());
            let way = if moved < 0 { "back" } else { "forward" };
            warn!("this host's clock was set {way} by {words}; own services are announced anew");
        }
        if news {
            self.correction_told = correction;
        }
    }

    /// Whether this is the name of another member of our kind.
    fn is_agent(&self, name: &str) -> bool {
        let snapshot = self.snapshot();
        *snapshot.hostname != *name && snapshot.members.get(name) == Some(&Upkeep::Membership)
    }

    /// What an agent's message says of its clock, and the cluster's time afterwards.
    fn hear_clock(&mut self, head: &exchange::Head, now: Now) -> Now {
        if !self.is_agent(&head.from) {
            return now;
        }
        self.clock.heard(&head.from, head.clock, now.monotonic);
        self.time(Now {
            wall: self.own_clock,
            ..now
        })
    }

    /// Where clocks differ, two hosts that do not know the same ones may come to different times, and
    /// refuse each other's records. In a cluster whose clocks can all be known, those that are missing
    /// are asked for by name.
    fn ask_for_clocks(&mut self, now: Now) {
        let members = &self.replica.snapshot().members;
        if members.size() > clock::CLOCKS_MAX || !self.clock.disputed() {
            return;
        }
        for name in members.keys() {
            if self.is_agent(name) && !self.clock.knows(name) {
                self.catching_up.want(name, now.monotonic);
            }
        }
    }

    /// Lets time pass.
    pub fn tick(&mut self, own: Now) {
        let now = self.time(own);
        self.ask_for_clocks(now);
        let members = self.snapshot().members.size();
        let with = self
            .introductions
            .take(now.monotonic, members, &mut self.rng);
        if let Some(address) = with {
            debug!(%address, "exchanging states out of turn");
            self.actions.push(Action::Exchange(address));
        }
        if let Some(with) = self.catching_up.take(now.monotonic) {
            self.actions.push(Action::CatchUp(with));
        }
        let effects = self.replica.tick(now);
        self.carry_out(effects, now);
        self.confirm(now);
    }

    /// News from this host's own discovery and health.
    pub fn local(&mut self, update: LocalUpdate, own: Now) {
        let now = self.time(own);
        let effects = self.replica.local(update, now);
        self.carry_out(effects, now);
    }

    /// Takes an instance of this host out of traffic, for so long or until [`Core::undrain`]; `None`
    /// when no such instance is here.
    pub fn drain(&mut self, id: &str, timeout: Option<Duration>, own: Now) -> Option<Commanded> {
        let now = self.time(own);
        let (found, effects) = self.replica.drain(id, timeout, now);
        if let Some(found) = &found {
            let until = found.until.map(tracing::field::display);
            info!(
                service = found.name,
                instance = id,
                until,
                "set to draining"
            );
        }
        self.carry_out(effects, now);
        found
    }

    /// Ends a drain; `None` when no such instance is here.
    pub fn undrain(&mut self, id: &str, own: Now) -> Option<Commanded> {
        let now = self.time(own);
        let (found, effects) = self.replica.undrain(id, now);
        if let Some(found) = &found {
            info!(service = found.name, instance = id, "drains no longer");
        }
        self.carry_out(effects, now);
        found
    }

    /// Begins to ask all agents whether they route by the record of an instance of this host as it is
    /// now. What came out is an [`Action::Applied`] with this number, at the latest after `within`.
    pub fn inquire(&mut self, id: &str, within: Duration, own: Now) -> u64 {
        let now = self.time(own);
        let number = self.rng.random();
        self.confirmations
            .inquire(number, id, within, self.replica.snapshot(), now.monotonic);
        self.confirm(now);
        number
    }

    /// Routes were made of the snapshot of this version.
    pub fn routed(&mut self, version: u64, own: Now) {
        let now = self.time(own);
        self.confirmations.routed(version);
        self.confirm(now);
    }

    /// Asks and answers whatever is due about records and routes.
    fn confirm(&mut self, now: Now) {
        let replica = &self.replica;
        let settled = |id: &str| {
            let record = replica.settled_record(id)?;
            let key = (record.hostname.clone(), record.id.clone());
            Some((key, record.updated))
        };
        let held = |(host, id): &(String, String)| Some(replica.record(host, id)?.updated);
        let said = self
            .confirmations
            .look(replica.snapshot(), settled, held, now.monotonic);
        for say in said {
            let head = exchange::Head::of(self.replica.snapshot(), self.own_clock);
            let (to, message) = match say {
                Say::Ask { to, number, id } => match self.replica.settled_record(&id) {
                    Some(record) => (to, exchange::confirm(&head, number, record)),
                    None => continue,
                },
                Say::Confirm { to, number } => {
                    let message = exchange::Message::Confirmed { number };
                    (to, message.encode(&head))
                }
                Say::Over { number, applied } => {
                    self.actions.push(Action::Applied { number, applied });
                    continue;
                }
            };
            self.send(&to, vec![message]);
        }
    }

    /// The first join was tried.
    pub fn joined(&mut self, own: Now) {
        let now = self.time(own);
        let effects = self.replica.joined(now);
        self.carry_out(effects, now);
    }

    /// Declares own services gone, for good.
    pub fn farewell(&mut self, own: Now) {
        let now = self.time(own);
        let effects = self.replica.farewell(now);
        info!(
            services = effects.broadcasts.len(),
            "said goodbye for own services"
        );
        self.carry_out(effects, now);
    }

    /// Something gossip tells.
    pub fn gossip(&mut self, event: Event, own: Now) {
        let now = self.time(own);
        let effects = self.event(event, now);
        self.carry_out(effects, now);
        self.confirm(now);
    }

    fn event(&mut self, event: Event, now: Now) -> Effects {
        match event {
            Event::Joined(member) => {
                info!(node = member.name, address = %member.addr, "member is up");
                self.comings += 1;
                if self.comings == MANY {
                    self.catching_up.want_one(now.monotonic + MANY_IN);
                }
                self.introductions
                    .joined(&member, now.monotonic, &mut self.rng);
                self.catching_up.joined(&member.name, now.monotonic);
                self.replica
                    .member_up(&member.name, metadata::kind(&member.meta), now)
            }
            Event::Updated(member) => {
                debug!(node = member.name, "member changed its metadata");
                let kind = metadata::kind(&member.meta);
                if kind != Kind::Ours {
                    self.clock.left(&member.name);
                }
                self.replica.member_up(&member.name, kind, now)
            }
            Event::Left(member) => {
                info!(node = member.name, state = ?member.state, "member is gone");
                self.introductions.left(&member.name);
                self.catching_up.left(&member.name);
                self.clock.left(&member.name);
                self.replica.member_down(&member.name, now)
            }
            Event::Conflict {
                name,
                existing,
                claimed,
            } => self.name_conflict(&name, existing, claimed, now),
            Event::Message(payload) => self.record(&payload, now),
            Event::RemoteState { state, join } => self.remote_state(&state, join, now),
        }
    }

    /// Two live hosts have one name: the one that is listed, and another that is ignored.
    fn name_conflict(
        &mut self,
        name: &str,
        existing: SocketAddr,
        claimed: SocketAddr,
        now: Now,
    ) -> Effects {
        let ours = name == self.replica.hostname();
        if self.names.allows(name, now.monotonic) {
            let whose = if ours {
                "this host and another"
            } else {
                "two hosts"
            };
            warn!(
                node = name,
                %existing,
                %claimed,
                "{whose} have one name; the services of one are lost when the other ends: give each \
                 host its own SIDECAR_NODE_NAME and restart its agent"
            );
        }
        if ours {
            add(&self.counters.name_conflicts, 1);
            self.replica.rival_reported(now);
        }
        Effects::default()
    }

    fn record(&mut self, payload: &Bytes, now: Now) -> Effects {
        if payload.is_empty() {
            return Effects::default();
        }
        if StatusUpdate::is(payload) {
            return self.update(payload, now);
        }
        if exchange::Message::is(payload) {
            return self.exchange(payload, false, now);
        }
        add(&self.counters.records_received, 1);
        match json::decode_service(payload) {
            Ok(record) => self.replica.remote(record, now),
            Err(error) => {
                self.undecodable("record", &error, now);
                Effects::default()
            }
        }
    }

    /// News in short form. Without the record it is about, something was missed: its origin is asked.
    fn update(&mut self, payload: &Bytes, now: Now) -> Effects {
        add(&self.counters.records_received, 1);
        let Some(update) = StatusUpdate::decode(payload) else {
            add(&self.counters.records_undecodable, 1);
            return Effects::default();
        };
        let held = self.replica.record(&update.hostname, &update.id);
        match held.and_then(|held| update.applied_to(held)) {
            Some(record) => self.replica.remote(record, now),
            None => {
                add(&self.counters.updates_unusable, 1);
                let snapshot = self.snapshot();
                match snapshot.members.get(update.hostname.as_str()) {
                    _ if *snapshot.hostname == *update.hostname => {}
                    Some(Upkeep::Membership) => {
                        self.catching_up.want(&update.hostname, now.monotonic);
                    }
                    Some(_) => {}
                    None => self.catching_up.want_when_up(&update.hostname),
                }
                Effects::default()
            }
        }
    }

    fn remote_state(&mut self, state: &Bytes, join: bool, now: Now) -> Effects {
        if exchange::Message::is(state) {
            return self.exchange(state, join, now);
        }
        let records = match json::decode_state(state) {
            Ok(records) => self.readable(records, now),
            Err(error) => {
                self.undecodable("state", &error, now);
                return Effects::default();
            }
        };
        // Only now: what a member of another kind says is no state of records.
        self.introductions.exchanged();
        if join {
            // Clocks are still to be compared.
            self.catching_up.want_one(now.monotonic);
        }
        debug!(records = records.len(), join, "merging a peer's state");
        self.replica.exchanged(records, now).0
    }

    /// One step of an exchange with another agent of ours.
    fn exchange(&mut self, bytes: &Bytes, join: bool, now: Now) -> Effects {
        let (head, message) = match exchange::Message::decode(bytes) {
            Ok(read) => read,
            Err(error) => {
                add(&self.counters.records_undecodable, 1);
                if self.complaints.allows("exchange", now.monotonic) {
                    warn!(%error, "dropped a peer's message");
                }
                return Effects::default();
            }
        };
        if let exchange::Message::Same { members } | exchange::Message::Digest { members, .. } =
            &message
        {
            self.introductions.exchanged();
            // The second half of an exchange does not take back what the first half found.
            if *members != Members::Shown {
                self.catching_up.exchanged();
            }
        }
        if matches!(message, exchange::Message::Same { .. }) {
            // First: if the clock below brings anything to light, we do not know the same any more.
            self.slept = Duration::ZERO;
        }
        let now = self.hear_clock(&head, now);
        let from = head.from;
        match message {
            // Whoever was asked has replied already.
            exchange::Message::Root { .. } => Effects::default(),
            exchange::Message::Same { members } => {
                add(&self.counters.exchanges_same, 1);
                self.compare_tables(from, members, now);
                Effects::default()
            }
            exchange::Message::Digest { members, digest } => {
                self.compare_tables(from.clone(), members, now);
                add(&self.counters.exchanges_different, 1);
                let ours = self.replica.snapshot();
                let differing = ours.digest.differences(&digest);
                let much = differing.len() > exchange::MUCH;
                if much {
                    // Who has missed much may have met somebody who did, too.
                    self.catching_up.want_one(now.monotonic);
                }
                debug!(peer = from, differing = differing.len(), "catalogs differ");
                if much && join && ours.members.size() > SPARED_FROM {
                    // All who start turn to the same few, and any other can tell as well.
                    return Effects::default();
                }
                let messages = exchange::differing(ours, &differing, self.own_clock);
                self.send(&from, messages);
                Effects::default()
            }
            exchange::Message::Outline(outline) => {
                let messages = exchange::compared(self.snapshot(), &outline, self.own_clock);
                self.send(&from, messages);
                Effects::default()
            }
            exchange::Message::Want(hosts) => {
                let messages = exchange::wanted(self.snapshot(), hosts, self.own_clock);
                self.send(&from, messages);
                Effects::default()
            }
            exchange::Message::Offer { buckets, records } => {
                let records = self.records(&records, now);
                let (effects, better) = self.replica.offered(&buckets, records, now);
                self.answer(&from, &better);
                effects
            }
            exchange::Message::Answer { records } => {
                let records = self.records(&records, now);
                let (effects, better) = self.replica.exchanged(records, now);
                self.answer(&from, &better);
                effects
            }
            exchange::Message::Confirm { number, record } => {
                if !self.is_agent(&from) {
                    return Effects::default();
                }
                let mut records = self.records(&record, now);
                records.truncate(1);
                let Some(record) = records.pop() else {
                    return Effects::default();
                };
                let key = (record.hostname.clone(), record.id.clone());
                self.confirmations
                    .asked(&from, number, key, record.updated, now.monotonic);
                self.replica.remote(record, now)
            }
            exchange::Message::Confirmed { number } => {
                self.confirmations.confirmed(&from, number);
                Effects::default()
            }
        }
    }

    /// Follows an exchange without tables of members, when they differ, by one with them. That one
    /// does not compare them: two hosts whose tables cannot agree must not exchange for ever.
    fn compare_tables(&mut self, with: String, members: Members, now: Now) {
        let soon = self
            .tables_exchanged
            .is_some_and(|at| now.monotonic.saturating_duration_since(at) < TABLES_EVERY);
        let differ = members == Members::Differ;
        if members == Members::Same {
            self.comings = 0;
        } else if differ && self.comings >= MANY {
            self.catching_up.want_one(now.monotonic);
        }
        if differ && !soon {
            self.tables_exchanged = Some(now.monotonic);
            debug!(peer = with, "tables of members differ");
            self.actions.push(Action::ExchangeTables { with });
        }
    }

    fn answer(&mut self, to: &str, records: &[Arc<Service>]) {
        let head = exchange::Head::of(self.replica.snapshot(), self.own_clock);
        let answers = exchange::answers(&head, records);
        self.send(to, answers);
    }

    /// The readable records of a list.
    fn records(&mut self, list: &[u8], now: Now) -> Vec<Service> {
        match json::decode_records(list) {
            Ok(records) => self.readable(records, now),
            Err(error) => {
                self.undecodable("list of records", &error, now);
                Vec::new()
            }
        }
    }

    fn readable(
        &mut self,
        records: Vec<Result<Service, json::DecodeError>>,
        now: Now,
    ) -> Vec<Service> {
        add(&self.counters.records_received, records.len());
        let mut readable = Vec::with_capacity(records.len());
        for record in records {
            match record {
                Ok(record) => readable.push(record),
                Err(error) => self.undecodable("record", &error, now),
            }
        }
        readable
    }

    fn send(&mut self, to: &str, messages: Vec<Bytes>) {
        if !messages.is_empty() {
            let to = to.to_owned();
            self.actions.push(Action::Send { to, messages });
        }
    }

    fn undecodable(&mut self, what: &str, error: &json::DecodeError, now: Now) {
        add(&self.counters.records_undecodable, 1);
        // By kind: garbage differs each time, and each time would be a flood.
        let kind = match error {
            json::DecodeError::Syntax(_) => "syntax",
            json::DecodeError::Shape { field, .. } => field,
            json::DecodeError::Invalid(_) => "invalid",
        };
        let complaint = format!("{what} {kind}");
        if self.complaints.allows(&complaint, now.monotonic) {
            warn!(reason = %error, "dropped a peer's {what} that cannot be read");
        }
    }

    fn carry_out(&mut self, effects: Effects, now: Now) {
        add(&self.counters.records_broadcast, effects.broadcasts.len());
        add(&self.counters.changes, effects.changes.len());
        add(&self.counters.records_rejected, effects.rejected.len());
        for id in effects.returned {
            info!(instance = id, "drains no longer: its time is over");
        }
        if self.replica.drains_revision() != self.drains_kept {
            let (revision, drains) = self.replica.drains();
            self.drains_kept = revision;
            self.actions.push(Action::Keep(drains));
        }
        for News { record, brief } in effects.broadcasts {
            let priority = Priority {
                brief: brief.then(|| StatusUpdate::encode(&record)).flatten(),
                source: record.hostname.clone(),
                // Who is routed to what is gone loses requests; who learns late of what has come
                // only has fewer to choose from.
                urgent: !record.is_alive(),
            };
            self.actions.push(Action::Broadcast {
                key: key(&record),
                payload: json::encode_service(&record).into(),
                priority,
            });
        }
        self.actions
            .extend(effects.changes.into_iter().map(Action::Changed));
        for (record, why) in effects.rejected {
            if matches!(why, Rejected::Future(_)) {
                // Its clock or ours is wrong: which, an exchange will tell.
                if self.is_agent(&record.hostname) {
                    self.catching_up.want(&record.hostname, now.monotonic);
                }
            }
            if self
                .complaints
                .allows(&format!("stamp {}", record.hostname), now.monotonic)
            {
                warn!(host = record.hostname, instance = record.id, %why, "refused a record");
            }
        }
        for record in effects.foreign {
            if self
                .complaints
                .allows(&format!("foreign {}", record.id), now.monotonic)
            {
                warn!(
                    service = record.name,
                    instance = record.id,
                    host = record.hostname,
                    "somebody else announces a service under this host's name; if another host has \
                     it, too, give each its own SIDECAR_NODE_NAME"
                );
            }
        }
    }
}

/// A newer record of the same instance replaces an older one that still waits to be sent.
fn key(record: &Service) -> String {
    format!("{}/{}", record.hostname, record.id)
}

#[cfg(test)]
mod tests;
