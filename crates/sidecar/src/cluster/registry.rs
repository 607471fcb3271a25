//! The one writer: a task that owns the replica, applies everything that happens to it in order,
//! sends what must be sent and publishes snapshots.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use catalog::{Now, Service, Snapshot, json};
use memberlist::Priority;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, info, warn};

use super::{
    exchange,
    introductions::Introductions,
    metadata,
    replica::{Effects, Replica},
};
use crate::{
    health::LocalUpdate,
    http::{DrainOutcome, DrainRequest},
    throttle::Throttle,
};

/// Inputs applied before one snapshot is published for all of them.
const BATCH_MAX: usize = 1024;
/// The same trouble with the same peer is logged once in this time.
const COMPLAIN_EVERY: Duration = Duration::from_secs(600);

/// What the agent tells the writer.
#[derive(Debug)]
pub enum Command {
    /// The first join was tried.
    Joined,
    /// Declare own services gone and confirm.
    Farewell(oneshot::Sender<()>),
}

/// Everything that can wake the writer.
#[derive(Debug)]
enum Input {
    Local(LocalUpdate),
    Gossip(memberlist::Event),
    Drain(DrainRequest),
    Command(Command),
    Tick,
}

/// Where the writer's inputs come from.
#[derive(Debug)]
pub struct Inputs {
    /// This host's own instances.
    pub local: mpsc::Receiver<LocalUpdate>,
    /// Members and records of the cluster.
    pub gossip: mpsc::Receiver<memberlist::Event>,
    /// Requests to drain an instance of this host.
    pub drain: mpsc::Receiver<DrainRequest>,
    /// The agent's own steps.
    pub commands: mpsc::Receiver<Command>,
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
    /// State exchanges begun here in which both knew the same.
    pub exchanges_same: AtomicU64,
    /// State exchanges begun here that found a difference.
    pub exchanges_different: AtomicU64,
}

fn add(counter: &AtomicU64, number: usize) {
    counter.fetch_add(u64::try_from(number).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// The writer.
#[derive(Debug)]
pub struct Registry {
    replica: Replica,
    introductions: Introductions,
    gossip: memberlist::Handle,
    snapshots: watch::Sender<Arc<Snapshot>>,
    awaited: watch::Sender<Vec<&'static str>>,
    counters: Arc<Counters>,
    complaints: Throttle,
}

impl Registry {
    /// A writer for `replica` that sends through `gossip` and publishes to the two channels: what
    /// readers see, and which parts of the start are still awaited.
    pub fn new(
        replica: Replica,
        gossip: memberlist::Handle,
        snapshots: watch::Sender<Arc<Snapshot>>,
        awaited: watch::Sender<Vec<&'static str>>,
        counters: Arc<Counters>,
    ) -> Self {
        let complaints = Throttle::new(COMPLAIN_EVERY);
        Self {
            introductions: Introductions::new(replica.hostname()),
            replica,
            gossip,
            snapshots,
            awaited,
            counters,
            complaints,
        }
    }

    /// Applies inputs until every sender of commands is gone.
    pub async fn run(mut self, mut inputs: Inputs) {
        self.publish();
        while let Some(input) = inputs.next(self.next_deadline()).await {
            self.handle(input);
            for _ in 1..BATCH_MAX {
                let Some(input) = inputs.try_next() else {
                    break;
                };
                self.handle(input);
            }
            self.publish();
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let introduction = self.introductions.next_deadline();
        let deadlines = [self.replica.next_deadline(), introduction];
        deadlines.into_iter().flatten().min()
    }

    fn handle(&mut self, input: Input) {
        let now = now();
        let effects = match input {
            Input::Local(update) => self.replica.local(update, now),
            Input::Gossip(event) => self.gossip(event, now),
            Input::Drain(request) => self.drain(request, now),
            Input::Command(Command::Joined) => self.replica.joined(now),
            Input::Command(Command::Farewell(done)) => {
                let effects = self.replica.farewell(now);
                info!(
                    services = effects.broadcasts.len(),
                    "said goodbye for own services"
                );
                // Nobody waits any more when the agent was told to exit at once.
                let _ = done.send(());
                effects
            }
            Input::Tick => {
                let with = self.introductions.take(now.monotonic, &mut rand::rng());
                if let Some(address) = with {
                    debug!(%address, "exchanging states with a new member");
                    self.gossip.exchange(address);
                }
                self.replica.tick(now)
            }
        };
        self.carry_out(effects, now);
    }

    fn drain(&mut self, request: DrainRequest, now: Now) -> Effects {
        let (found, effects) = self.replica.drain(&request.id, now);
        let outcome = match found {
            Some(name) => {
                info!(service = name, instance = request.id, "set to draining");
                DrainOutcome::Draining { name }
            }
            None => DrainOutcome::NotHere,
        };
        // A client that went away does not undo the drain.
        let _ = request.reply.send(outcome);
        effects
    }

    fn gossip(&mut self, event: memberlist::Event, now: Now) -> Effects {
        match event {
            memberlist::Event::Joined(member) => {
                info!(node = member.name, address = %member.addr, "member is up");
                self.introductions
                    .joined(&member, now.monotonic, &mut rand::rng());
                self.replica
                    .member_up(&member.name, metadata::kind(&member.meta), now)
            }
            memberlist::Event::Updated(member) => {
                debug!(node = member.name, "member changed its metadata");
                self.replica
                    .member_up(&member.name, metadata::kind(&member.meta), now)
            }
            memberlist::Event::Left(member) => {
                info!(node = member.name, state = ?member.state, "member is gone");
                self.introductions.left(&member.name);
                self.replica.member_down(&member.name, now)
            }
            memberlist::Event::Conflict {
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
            memberlist::Event::Message(payload) => self.record(&payload, now),
            memberlist::Event::RemoteState { state, join } => self.remote_state(&state, join, now),
        }
    }

    fn record(&mut self, payload: &Bytes, now: Now) -> Effects {
        if payload.is_empty() {
            return Effects::default();
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
            exchange::Message::Root(_) => Effects::default(),
            exchange::Message::Same => {
                self.introductions.exchanged();
                add(&self.counters.exchanges_same, 1);
                Effects::default()
            }
            exchange::Message::Digest { from, digest } => {
                self.introductions.exchanged();
                add(&self.counters.exchanges_different, 1);
                let offers = exchange::offers(self.replica.snapshot(), &digest);
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

    fn answer(&self, to: &str, records: &[Arc<Service>]) {
        self.send(to, exchange::answers(self.replica.hostname(), records));
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

    fn send(&self, to: &str, messages: Vec<Bytes>) {
        if messages.is_empty() {
            return;
        }
        if let Some(member) = self.gossip.member(to) {
            self.gossip.send(member.addr, messages);
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
        for record in effects.broadcasts {
            let priority = Priority {
                source: record.hostname.clone(),
                // Who is routed to what is gone loses requests; who learns late of what has come
                // only has fewer to choose from.
                urgent: !record.is_alive(),
            };
            let payload = Bytes::from(json::encode_service(&record));
            self.gossip
                .broadcast_with(Some(key(&record)), payload, priority);
        }
        for change in effects.changes {
            let service = &change.service;
            info!(
                service = service.name,
                instance = service.id,
                host = service.hostname,
                from = %change.previous,
                to = %service.status,
                "service changed"
            );
        }
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

    fn publish(&self) {
        let snapshot = self.replica.snapshot();
        self.snapshots.send_if_modified(|published| {
            let newer = published.version != snapshot.version;
            if newer {
                *published = Arc::new(snapshot.clone());
            }
            newer
        });
        let awaited = self.replica.awaited();
        self.awaited.send_if_modified(|published| {
            let differs = *published != awaited;
            if differs {
                published.clone_from(&awaited);
            }
            differs
        });
    }
}

impl Inputs {
    /// The next input, or a tick at `deadline`; `None` when the agent is gone.
    async fn next(&mut self, deadline: Option<Instant>) -> Option<Input> {
        let tick = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            command = self.commands.recv() => command.map(Input::Command),
            Some(update) = self.local.recv() => Some(Input::Local(update)),
            Some(event) = self.gossip.recv() => Some(Input::Gossip(event)),
            Some(request) = self.drain.recv() => Some(Input::Drain(request)),
            () = tick => Some(Input::Tick),
        }
    }

    /// An input that already waits.
    fn try_next(&mut self) -> Option<Input> {
        None.or_else(|| self.commands.try_recv().ok().map(Input::Command))
            .or_else(|| self.local.try_recv().ok().map(Input::Local))
            .or_else(|| self.gossip.try_recv().ok().map(Input::Gossip))
            .or_else(|| self.drain.try_recv().ok().map(Input::Drain))
    }
}

/// A newer record of the same instance replaces an older one that still waits to be sent.
fn key(record: &Service) -> String {
    format!("{}/{}", record.hostname, record.id)
}

/// Both clocks, read together.
pub fn now() -> Now {
    Now {
        wall: SystemTime::now().into(),
        monotonic: Instant::now(),
    }
}
