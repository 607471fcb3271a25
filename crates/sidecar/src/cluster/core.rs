//! What an agent does with everything that happens in its cluster: the replica, its exchanges with
//! others, and what is said about it in the log. Pure but for the log: events and time go in,
//! actions come out. The task around it is `registry`; the simulator runs it, too.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use catalog::{Change, Now, Service, Snapshot, json};
use memberlist::{Event, Priority};
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;
use tracing::{debug, info, warn};

use super::{
    catching_up::CatchingUp,
    exchange,
    introductions::Introductions,
    metadata,
    replica::{Effects, News, Replica},
    update::StatusUpdate,
};
use crate::{health::LocalUpdate, throttle::Throttle};

/// The same trouble with the same peer is logged once in this time.
const COMPLAIN_EVERY: Duration = Duration::from_secs(600);

/// Buckets in which an exchange finds a difference that is more than the changes of the moment.
const MUCH: usize = 8;
/// Least time between exchanges of the tables of members that replies ask for, whoever sends them.
const TABLES_EVERY: Duration = Duration::from_secs(1);

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
    counters: Arc<Counters>,
    complaints: Throttle,
    tables_exchanged: Option<Instant>,
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
            counters,
            complaints: Throttle::new(COMPLAIN_EVERY),
            tables_exchanged: None,
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
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Now) {
        let members = self.snapshot().members.size();
        let with = self
            .introductions
            .take(now.monotonic, members, &mut self.rng);
        if let Some(address) = with {
            debug!(%address, "exchanging states with a new member");
            self.actions.push(Action::Exchange(address));
        }
        if let Some(with) = self.catching_up.take(now.monotonic) {
            self.actions.push(Action::CatchUp(with));
        }
        let effects = self.replica.tick(now);
        self.carry_out(effects, now);
    }

    /// News from this host's own discovery and health.
    pub fn local(&mut self, update: LocalUpdate, now: Now) {
        let effects = self.replica.local(update, now);
        self.carry_out(effects, now);
    }

    /// Marks an instance of this host as draining; its service's name, or `None` when no such
    /// instance is here.
    pub fn drain(&mut self, id: &str, now: Now) -> Option<String> {
        let (found, effects) = self.replica.drain(id, now);
        if let Some(name) = &found {
            info!(service = name, instance = id, "set to draining");
        }
        self.carry_out(effects, now);
        found
    }

    /// The first join was tried.
    pub fn joined(&mut self, now: Now) {
        let effects = self.replica.joined(now);
        self.carry_out(effects, now);
    }

    /// Declares own services gone, for good.
    pub fn farewell(&mut self, now: Now) {
        let effects = self.replica.farewell(now);
        info!(
            services = effects.broadcasts.len(),
            "said goodbye for own services"
        );
        self.carry_out(effects, now);
    }

    /// Something gossip tells.
    pub fn gossip(&mut self, event: Event, now: Now) {
        let effects = self.event(event, now);
        self.carry_out(effects, now);
    }

    fn event(&mut self, event: Event, now: Now) -> Effects {
        match event {
            Event::Joined(member) => {
                info!(node = member.name, address = %member.addr, "member is up");
                self.introductions
                    .joined(&member, now.monotonic, &mut self.rng);
                self.replica
                    .member_up(&member.name, metadata::kind(&member.meta), now)
            }
            Event::Updated(member) => {
                debug!(node = member.name, "member changed its metadata");
                self.replica
                    .member_up(&member.name, metadata::kind(&member.meta), now)
            }
            Event::Left(member) => {
                info!(node = member.name, state = ?member.state, "member is gone");
                self.introductions.left(&member.name);
                self.replica.member_down(&member.name, now)
            }
            Event::Conflict {
                name,
                existing,
                claimed,
            } => {
                if self
                    .complaints
                    .allows(&format!("conflict {name}"), now.monotonic)
                {
                    warn!(
                        node = name,
                        %existing,
                        %claimed,
                        "two hosts claim one name; give each its own SIDECAR_NODE_NAME"
                    );
                }
                Effects::default()
            }
            Event::Message(payload) => self.record(&payload, now),
            Event::RemoteState { state, join } => self.remote_state(&state, join, now),
        }
    }

    fn record(&mut self, payload: &Bytes, now: Now) -> Effects {
        if payload.is_empty() {
            return Effects::default();
        }
        if StatusUpdate::is(payload) {
            return self.update(payload, now);
        }
        if exchange::Message::is(payload) {
            return self.exchange(payload, now);
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
                self.catching_up.ask(Some(update.hostname), now.monotonic);
                Effects::default()
            }
        }
    }

    fn remote_state(&mut self, state: &Bytes, join: bool, now: Now) -> Effects {
        if exchange::Message::is(state) {
            return self.exchange(state, now);
        }
        self.introductions.exchanged();
        let records = match json::decode_state(state) {
            Ok(records) => self.readable(records, now),
            Err(error) => {
                self.undecodable("state", &error, now);
                return Effects::default();
            }
        };
        debug!(records = records.len(), join, "merging a peer's state");
        self.replica.exchanged(records, now).0
    }

    /// One step of an exchange with another agent of ours.
    fn exchange(&mut self, bytes: &Bytes, now: Now) -> Effects {
        let message = match exchange::Message::decode(bytes) {
            Ok(message) => message,
            Err(error) => {
                add(&self.counters.records_undecodable, 1);
                if self.complaints.allows("exchange", now.monotonic) {
                    warn!(%error, "dropped a peer's message");
                }
                return Effects::default();
            }
        };
        match message {
            // Whoever was asked has replied already.
            exchange::Message::Root { .. } => Effects::default(),
            exchange::Message::Same {
                from,
                members_differ,
            } => {
                self.introductions.exchanged();
                add(&self.counters.exchanges_same, 1);
                self.compare_tables(from, members_differ, now);
                Effects::default()
            }
            exchange::Message::Digest {
                from,
                members_differ,
                digest,
            } => {
                self.introductions.exchanged();
                self.compare_tables(from.clone(), members_differ, now);
                add(&self.counters.exchanges_different, 1);
                let ours = self.replica.snapshot();
                if ours.digest.differences(&digest).len() > MUCH {
                    // Who has missed much may have met somebody who did, too.
                    self.catching_up.ask(None, now.monotonic);
                }
                let offers = exchange::offers(ours, &digest);
                debug!(peer = from, offers = offers.len(), "catalogs differ");
                self.send(&from, offers);
                Effects::default()
            }
            exchange::Message::Offer {
                from,
                buckets,
                records,
            } => {
                let records = self.records(&records, now);
                let (effects, better) = self.replica.offered(&buckets, records, now);
                self.answer(&from, &better);
                effects
            }
            exchange::Message::Answer { from, records } => {
                let records = self.records(&records, now);
                let (effects, better) = self.replica.exchanged(records, now);
                self.answer(&from, &better);
                effects
            }
        }
    }

    /// Follows an exchange without tables of members, when they differ, by one with them. That one
    /// does not compare them: two hosts whose tables cannot agree must not exchange for ever.
    fn compare_tables(&mut self, with: String, differ: bool, now: Now) {
        let soon = self
            .tables_exchanged
            .is_some_and(|at| now.monotonic.saturating_duration_since(at) < TABLES_EVERY);
        if differ && !soon {
            self.tables_exchanged = Some(now.monotonic);
            debug!(peer = with, "tables of members differ");
            self.actions.push(Action::ExchangeTables { with });
        }
    }

    fn answer(&mut self, to: &str, records: &[Arc<Service>]) {
        let answers = exchange::answers(self.replica.hostname(), records);
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
        for News { record, brief } in effects.broadcasts {
            let priority = Priority {
                source: record.hostname.clone(),
                // Who is routed to what is gone loses requests; who learns late of what has come
                // only has fewer to choose from.
                urgent: !record.is_alive(),
            };
            let short = brief.then(|| StatusUpdate::encode(&record)).flatten();
            let payload = short.unwrap_or_else(|| json::encode_service(&record).into());
            self.actions.push(Action::Broadcast {
                key: key(&record),
                payload,
                priority,
            });
        }
        self.actions
            .extend(effects.changes.into_iter().map(Action::Changed));
        for (record, why) in effects.rejected {
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
                    "somebody else announces a service under this host's name; is the name used \
                     twice?"
                );
            }
        }
    }
}

/// A newer record of the same instance replaces an older one that still waits to be sent.
fn key(record: &Service) -> String {
    format!("{}/{}", record.hostname, record.id)
}
