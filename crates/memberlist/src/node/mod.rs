//! The protocol state machine: SWIM with the Lifeguard extensions, as HashiCorp's memberlist and
//! the fork inside Go Sidecar speak it.
//!
//! A [`Node`] is pushed datagrams, messages of streams and time, and polled for what follows:
//! [`Node::poll_transmit`], [`Node::poll_stream_request`], [`Node::poll_event`] and the next
//! deadline, [`Node::poll_timeout`]. It owns no socket, reads no clock and draws all randomness from
//! its seed: equal inputs give equal outputs. Bytes of streams, deadlines of connections and the
//! application's state are the shell's business (`driver`, `sim`).
//!
//! Where the truth comes from: `state.go`, `net.go`, `suspicion.go`, `awareness.go`, `queue.go` of
//! hashicorp/memberlist. Where we deliberately do better, the comment at the spot says why.
//!
//! | module | what it decides |
//! | --- | --- |
//! | `table`, `names` | who is known, probe order, random choice |
//! | `news` | which of what is heard is known already |
//! | `membership` | what an announcement or accusation changes |
//! | `probe` | failure detection and answering for it |
//! | `suspicion`, `awareness` | how long and how hard we doubt |
//! | `gossip`, `queue` | what is sent to whom and how often |
//! | `lazy` | which messages of the application are told of, and fetched |
//! | `hearsay` | what to make of tables that contradict us |
//! | `subnet` | networks, for who may talk to us |
//! | `sync` | state exchanges, their checks, and finding lost members again |
//! | `digest` | whether two tables are the same |

mod acquaint;
mod awareness;
mod config;
mod counters;
mod digest;
mod gossip;
mod hearsay;
mod inspect;
mod lazy;
mod membership;
mod names;
mod news;
mod probe;
mod queue;
mod subnet;
mod suspicion;
mod sync;
mod table;
mod timers;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

pub(crate) use self::acquaint::{Acquaintances, Known};
pub use self::config::{
    CLUSTER_NAME_BYTES_MAX, Config, ConfigError, META_BYTES_MAX, NAME_BYTES_MAX, Profile,
    STREAM_USER_BYTES_MAX,
};
pub use self::counters::Counters;
pub use self::queue::Priority;
pub use self::subnet::{Subnet, SubnetError};
pub use self::sync::MergeError;
pub use self::table::Member;

use self::awareness::Awareness;
use self::hearsay::Hearsay;
use self::lazy::Lazy;
use self::membership::Origin;
use self::probe::{Probe, Relay};
use self::queue::TransmitQueue;
use self::sync::{Rejoin, push_pull_scale};
use self::table::{Answered, Table};
use self::timers::{Timer, Timers};
use crate::wire::message::{Dead, Message, MessageRef, Ping};
use crate::wire::{ClusterFilter, PacketBuilder, WireError, read_packet};

/// Pings we may have outstanding for others.
const RELAYS_MAX: usize = 1024;

/// Requests for a reply answered per datagram, so that one cannot make us send many.
const REQUESTS_PER_DATAGRAM_MAX: usize = 4;

/// Members told directly that we leave, besides the gossip.
const GOODBYES: usize = 8;

/// The most by which one pause may delay the detection of a failure.
const POSTPONE_MAX: Duration = Duration::from_secs(10);

/// A datagram to send, from the socket that is bound to the advertised port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Destination.
    pub to: SocketAddr,
    /// The datagram. One batch may go to several members, hence the cheap clone.
    pub bytes: Bytes,
}

/// Something that needs a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamRequest {
    /// Exchange states with a member or a seed; report back by [`Node::handle_exchange_result`].
    PushPull {
        /// Whom to dial.
        to: SocketAddr,
        /// Whether this is an explicit join.
        join: bool,
        /// Whether both tables must be shown, even if the other side understands brief exchanges.
        full: bool,
    },
    /// Ping by stream; if the matching ack comes in time, say so by [`Node::handle_tcp_ack`].
    Ping {
        /// Whom to dial.
        to: SocketAddr,
        /// What to write.
        ping: Ping,
        /// When the answer is of no use any more.
        deadline: Instant,
    },
    /// A user message too long for a datagram; nothing to report.
    User {
        /// Whom to dial.
        to: SocketAddr,
        /// The message.
        payload: Bytes,
    },
}

/// Something the application wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A member is new or has come back. Our own node joins first of all.
    Joined(Member),
    /// A live member has changed its metadata.
    Updated(Member),
    /// A member is dead or has left; its `state` says which.
    Left(Member),
    /// A second node claims a name from another address and was ignored. At most once per name
    /// in ten seconds.
    Conflict {
        /// The name both claim.
        name: String,
        /// Who holds it.
        existing: SocketAddr,
        /// Who was ignored.
        claimed: SocketAddr,
    },
    /// A message of another member's application.
    Message(Bytes),
    /// The application state of another member, from a state exchange.
    RemoteState {
        /// As the other side's delegate wrote it.
        state: Bytes,
        /// Whether the exchange was an explicit join, of either side.
        join: bool,
    },
}

/// Identity of a user broadcast: messages with a key replace their predecessors.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum UserKey {
    Named(String),
    Unnamed(u64),
}

/// One member of the cluster: us. See the module documentation.
#[derive(Debug)]
pub struct Node {
    config: Config,
    filter: Arc<ClusterFilter>,
    /// Bytes of a datagram that messages may use.
    packet_budget: usize,
    rng: Pcg64Mcg,
    timers: Timers,
    started: Instant,
    /// The latest time we were told.
    clock: Instant,
    /// A past gossip tick, or the first one: whole intervals later are the others.
    gossip_phase: Instant,

    table: Table,
    /// By name; only of nodes in the table.
    answered: BTreeMap<String, Answered>,
    /// Grows whenever [`Node::members`] may have changed.
    members_version: u64,
    digest: digest::Cached,
    incarnation: u32,
    leaving: bool,

    awareness: Awareness,
    seq_no: u32,
    probe: Option<Probe>,
    probe_tick_pending: bool,
    relays: BTreeMap<u32, Relay>,

    membership: TransmitQueue<String>,
    user: TransmitQueue<UserKey>,
    user_unnamed: u64,
    /// Encoded broadcasts that should leave before the next gossip round, system ones in front.
    /// The flag: only for members that understand lazy push.
    eager: VecDeque<(Bytes, bool)>,
    /// How many of them are urgent: those in front.
    eager_urgent: usize,
    eager_bytes_spent: usize,
    /// The datagram being packed; empty in between.
    packet: PacketBuilder,

    /// Multiple of the interval for which the next state exchange was armed.
    push_pull_scale: u32,
    /// With whom the last state exchange of our choice is, for whoever asks by address.
    partner: Option<String>,
    rejoin: Rejoin,
    hearsay: Hearsay,
    lazy: Lazy,

    transmits: VecDeque<Transmit>,
    requests: VecDeque<StreamRequest>,
    events: VecDeque<Event>,
    counters: Counters,
}

impl Node {
    /// Starts a cluster of one. `config.port()` must be the port the shell has bound.
    ///
    /// # Errors
    /// A setting out of range.
    pub fn new(mut config: Config, now: Instant) -> Result<Self, ConfigError> {
        config.validate()?;
        let packet_budget = config.udp_buffer_size - config.envelope().packet_overhead();
        // No copy may outlive a key that is removed later.
        config.keyring = None;
        let mut rng = Pcg64Mcg::seed_from_u64(config.seed);
        let mut node = Self {
            filter: Arc::new(config.cluster_filter()),
            packet_budget,
            timers: Timers::default(),
            started: now,
            clock: now,
            gossip_phase: now,
            table: Table::default(),
            answered: BTreeMap::new(),
            members_version: 0,
            digest: digest::Cached::default(),
            incarnation: 0,
            leaving: false,
            awareness: Awareness::new(config.awareness_max_multiplier),
            // A random start makes blind forgery of acks harder.
            seq_no: rng.next_u32(),
            probe: None,
            probe_tick_pending: false,
            relays: BTreeMap::new(),
            membership: TransmitQueue::new(),
            user: TransmitQueue::new(),
            user_unnamed: 0,
            eager: VecDeque::new(),
            eager_urgent: 0,
            eager_bytes_spent: 0,
            packet: PacketBuilder::new(),
            push_pull_scale: 1,
            partner: None,
            rejoin: Rejoin::default(),
            hearsay: Hearsay::default(),
            lazy: Lazy::default(),
            transmits: VecDeque::new(),
            requests: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
            rng,
            config,
        };
        node.bootstrap(now);
        node.arm_periodic_timers(now);
        Ok(node)
    }

    /// Each at a random phase, so that members started together do not act together.
    fn arm_periodic_timers(&mut self, now: Instant) {
        if !self.config.probe_interval.is_zero() {
            let phase = self.random_within(self.config.probe_interval);
            self.timers.arm(Timer::ProbeTick, now + phase);
        }
        if self.gossips() {
            self.gossip_phase = now + self.random_within(self.config.gossip_interval);
            // We have announced ourselves.
            self.timers.arm(Timer::Gossip, self.gossip_phase);
        }
        if !self.config.push_pull_interval.is_zero() {
            let phase = self.random_within(self.config.push_pull_interval);
            let first = now + phase + self.push_pull_period();
            self.timers.arm(Timer::PushPull, first);
        }
        self.push_pull_scale = push_pull_scale(self.table.len());
        self.arm_rejoin(now);
    }

    fn random_within(&mut self, interval: Duration) -> Duration {
        interval.mul_f64(self.rng.random::<f64>())
    }

    // === What goes in ===

    /// Tells the time to a node that is about to be told something without a time.
    pub fn note_time(&mut self, now: Instant) {
        self.clock = self.clock.max(now);
    }

    /// Processes a datagram. What could not be read is returned for the shell to count and log;
    /// the rest of the datagram has been processed.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
    ) -> Vec<WireError> {
        self.note_time(now);
        let filter = self.filter.clone();
        let mut requests = 0;
        read_packet(datagram, &filter, |message| {
            if matches!(message, Message::Ping(_) | Message::IndirectPing(_)) {
                requests += 1;
                if requests > REQUESTS_PER_DATAGRAM_MAX {
                    self.counters.requests_over_limit += 1;
                    return;
                }
            }
            self.handle_message(now, from, message);
        })
    }

    fn handle_message(&mut self, now: Instant, from: SocketAddr, message: MessageRef<'_>) {
        if self.is_known(&message) {
            self.count_heard(&message);
            return;
        }
        match message {
            Message::Ping(ping) => self.handle_ping(from, &ping),
            Message::IndirectPing(request) => self.handle_indirect_ping(now, from, &request),
            Message::Ack(ack) => self.handle_ack(now, &ack),
            Message::Nack(nack) => self.handle_nack(nack),
            Message::Suspect(suspect) => self.suspect(now, suspect.into_owned(), Origin::Peer),
            Message::Alive(alive) => self.alive(now, alive.into_owned()),
            Message::Dead(dead) => self.dead(now, dead.into_owned(), Origin::Peer),
            Message::User(content) => self.deliver(now, from, content),
        }
    }

    /// Fires what is due. The shell must first have delivered every datagram and stream message
    /// it has already received: after a pause the refutations are in there.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.note_time(now);
        if let Some(due) = self.timers.next_but(&Timer::Gossip) {
            let late = now.saturating_duration_since(due);
            if late > self.config.probe_interval.max(Duration::from_secs(1)) {
                self.recover_from_pause(now, late);
            }
        }
        while let Some((timer, due)) = self.timers.pop_due(now) {
            self.fire(now, timer, due);
        }
    }

    fn fire(&mut self, now: Instant, timer: Timer, due: Instant) {
        match timer {
            Timer::ProbeAgain => self.ping_again(now),
            Timer::ProbeTimeout => self.probe_others(now),
            Timer::ProbeDeadline => self.probe_deadline(now),
            Timer::ProbeTick => {
                self.arm_next(now, due, Timer::ProbeTick, self.config.probe_interval);
                self.probe_tick(now);
            }
            Timer::RelayNack(seq_no) => self.relay_nack(seq_no),
            Timer::RelayExpiry(seq_no) => self.relay_expired(seq_no),
            Timer::Suspicion(name) => self.suspicion_expired(now, &name),
            Timer::Reminder(name) => self.remind(now, name),
            Timer::Gossip => {
                self.gossip_phase = due;
                if self.has_broadcasts() {
                    // Once more after the last of it, for the byte budget of the interval.
                    self.arm_gossip();
                }
                self.gossip(now);
            }
            Timer::Hearsay => self.believe_hearsay(now),
            Timer::AskAgain => self.ask_again(now),
            Timer::PushPull => {
                self.push_pull_scale = push_pull_scale(self.table.len());
                self.arm_next(now, due, Timer::PushPull, self.push_pull_period());
                self.push_pull_tick(now);
            }
            Timer::Rejoin => self.rejoin_tick(now),
        }
    }

    /// Periodic timers keep their pace, but do not catch up after a pause.
    fn arm_next(&mut self, now: Instant, due: Instant, timer: Timer, interval: Duration) {
        let next = due + interval;
        let next = if next <= now { now + interval } else { next };
        self.timers.arm(timer, next);
    }

    /// Whether there are gossip rounds at all.
    fn gossips(&self) -> bool {
        !self.config.gossip_interval.is_zero() && self.config.gossip_nodes > 0
    }

    /// Whether a gossip round would have something to send.
    fn has_broadcasts(&self) -> bool {
        self.membership.len() + self.user.len() > 0
    }

    /// Something is queued: it leaves with the next gossip tick. While nothing is queued there are
    /// no ticks, and when they are taken up again they keep their phase.
    fn wake_gossip(&mut self) {
        if self.gossips() && !self.timers.is_armed(&Timer::Gossip) {
            self.arm_gossip();
        }
    }

    fn arm_gossip(&mut self) {
        let interval = self.config.gossip_interval;
        let passed = self.clock.saturating_duration_since(self.gossip_phase);
        let into_interval = passed.as_nanos() % interval.as_nanos().max(1);
        let whole = passed.saturating_sub(Duration::from_nanos(into_interval as u64));
        let next = self.gossip_phase + whole + interval;
        self.timers.arm(Timer::Gossip, next);
    }

    /// We were stopped or starved. Whoever seems silent may just not have been heard: no verdicts
    /// from before the pause, and suspects get the time back (up to a bound).
    fn recover_from_pause(&mut self, now: Instant, late: Duration) {
        self.counters.late_wakeups += 1;
        if self.probe.is_some() {
            self.abandon_probe();
        }
        self.awareness.apply(1);
        let grace = late.min(POSTPONE_MAX);
        for entry in self.table.iter_mut() {
            if let Some(suspicion) = &mut entry.suspicion {
                let overdue = now.saturating_duration_since(suspicion.deadline());
                suspicion.postpone(overdue + grace);
                let deadline = suspicion.deadline();
                let timer = Timer::Suspicion(entry.name.clone());
                self.timers.arm(timer, deadline);
            }
        }
    }

    /// Says goodbye: peers see us leave at once instead of suspecting us. There is no way back.
    /// Keep driving the node until [`Node::leave_pending`] is false or patience runs out.
    pub fn leave(&mut self, now: Instant) {
        self.note_time(now);
        if self.leaving {
            return;
        }
        self.leaving = true;
        let goodbye = Dead {
            incarnation: self.incarnation,
            node: self.config.name.clone(),
            from: self.config.name.clone(),
        };
        let encoded = self.encode(&Message::Dead(goodbye.clone()));
        self.dead(now, goodbye, Origin::Ourselves);
        for target in self.sample_live(GOODBYES) {
            self.send(target.to, std::slice::from_ref(&encoded), target.crc);
        }
    }

    /// Whether our goodbye has still to be passed on to somebody.
    pub fn leave_pending(&self) -> bool {
        self.leaving
            && self.membership.contains(&self.config.name)
            && self.table.iter().any(table::Entry::is_live)
    }

    // === What comes out ===

    /// The next datagram to send. Poll until `None` after every input; inputs that arrive
    /// together should be handed in together, then their broadcasts share datagrams.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        if self.transmits.is_empty() {
            self.send_eager();
        }
        self.transmits.pop_front()
    }

    /// The next thing to do on a connection.
    pub fn poll_stream_request(&mut self) -> Option<StreamRequest> {
        self.requests.pop_front()
    }

    /// The next thing the application should hear.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Node::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    // === What can be looked at ===

    /// Our own settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Everyone alive or suspect, ourselves included, ordered by name.
    pub fn members(&self) -> Vec<Member> {
        let live = self.table.iter().filter(|entry| entry.is_live());
        let mut members: Vec<Member> = live.map(table::Entry::member).collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        members
    }

    /// Grows whenever [`Node::members`] may have changed.
    pub fn members_version(&self) -> u64 {
        self.members_version
    }

    /// What we believe about a node, dead ones included until they are forgotten.
    pub fn member(&self, name: &str) -> Option<Member> {
        self.table.find(name).map(table::Entry::member)
    }

    /// The live node at an address.
    pub fn member_at(&self, addr: SocketAddr) -> Option<Member> {
        let partner = self
            .partner
            .as_deref()
            .and_then(|name| self.table.find(name));
        if let Some(partner) = partner.filter(|entry| entry.is_live() && entry.addr() == addr) {
            return Some(partner.member());
        }
        let mut entries = self.table.iter();
        let at = entries.find(|entry| entry.is_live() && entry.addr() == addr);
        at.map(table::Entry::member)
    }

    /// What we believe about the node at an address: the live one, or else one that was there.
    pub fn known_at(&self, addr: SocketAddr) -> Option<Member> {
        self.member_at(addr).or_else(|| {
            let mut entries = self.table.iter();
            let at = entries.find(|entry| entry.addr() == addr);
            at.map(table::Entry::member)
        })
    }

    /// What has happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Local health score: 0 is healthy.
    pub fn health_score(&self) -> u32 {
        self.awareness.score()
    }

    /// Announcements and accusations still to be transmitted.
    pub fn membership_queue_len(&self) -> usize {
        self.membership.len()
    }

    /// User broadcasts still to be transmitted.
    pub fn user_queue_len(&self) -> usize {
        self.user.len()
    }
}
