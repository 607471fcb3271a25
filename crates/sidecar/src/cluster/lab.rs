//! A few cores that exchange messages in virtual time, for tests of what they do together: no
//! sockets, no losses, and membership is what the test says. What gossip does under faults is the
//! simulator's matter.

use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use catalog::{Now, Status, Timestamp};
use memberlist::{Event, Member, NodeState, Versions};

use super::{
    confirm::Applied,
    core::{Action, Core, Counters},
    drains::Drain,
    exchange,
    fixtures::service,
    metadata,
    replica::Replica,
};
use crate::health::LocalUpdate;

/// Virtual time goes on in such steps, and a message takes one.
const STEP: Duration = Duration::from_millis(100);
/// Each host begins an exchange so often.
const EXCHANGE_EVERY: Duration = Duration::from_secs(20);

/// How a host stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sleep {
    /// The machine is suspended, and its monotonic clock with it.
    Suspended,
    /// The process is stopped.
    Stopped,
}

/// One simulated host.
pub(super) struct Host {
    pub(super) name: String,
    pub(super) core: Core,
    pub(super) counters: Arc<Counters>,
    /// How far its wall clock is off, in seconds.
    pub(super) error: i64,
    /// How long it has been suspended, in all.
    suspended: Duration,
    asleep: Option<Sleep>,
    /// No message passes.
    pub(super) cut_off: bool,
    /// Hosts it takes for members.
    members: BTreeSet<usize>,
    exchanges: usize,
    /// What came out of inquiries.
    pub(super) applied: Vec<(u64, Applied)>,
    /// The drains that it wants kept.
    pub(super) kept: Option<Vec<Drain>>,
    /// Whether routes are made of what it knows.
    pub(super) routes: bool,
    routed: u64,
}

/// The hosts, and what is under way between them.
pub(super) struct Lab {
    pub(super) hosts: Vec<Host>,
    base: Instant,
    at: Duration,
    under_way: VecDeque<(usize, Event)>,
    /// Exchanges with anybody so far.
    caught_up: usize,
}

fn address(host: usize) -> SocketAddr {
    format!("10.0.0.{}:7946", host + 1)
        .parse()
        .expect("an address")
}

impl Lab {
    /// Hosts whose wall clocks are off by so many seconds. Each announces its own service `s`; they do
    /// not know each other.
    pub(super) fn new(errors: &[i64]) -> Self {
        let mut lab = Self {
            hosts: Vec::new(),
            base: Instant::now(),
            at: Duration::ZERO,
            under_way: VecDeque::new(),
            caught_up: 0,
        };
        for error in errors {
            lab.add(*error);
        }
        lab
    }

    /// One more host.
    pub(super) fn add(&mut self, error: i64) -> usize {
        let number = self.hosts.len();
        let name = format!("h{number}");
        let counters = Arc::new(Counters::default());
        let replica = Replica::new(&name, "c", [], self.reading(error, Duration::ZERO));
        let core = Core::new(replica, counters.clone(), number as u64);
        self.hosts.push(Host {
            name,
            core,
            counters,
            error,
            suspended: Duration::ZERO,
            asleep: None,
            cut_off: false,
            members: BTreeSet::new(),
            exchanges: 0,
            applied: Vec::new(),
            kept: None,
            routes: true,
            routed: 0,
        });
        self.announce(number, "s");
        let now = self.now(number);
        self.hosts[number].core.joined(now);
        self.carry_out(number);
        number
    }

    fn reading(&self, error: i64, suspended: Duration) -> Now {
        let wall = (1_800_000_000 + i128::from(error)) * 1_000_000_000;
        Now {
            wall: Timestamp::from_unix_nanos(wall).plus(self.at),
            monotonic: self.base + (self.at - suspended),
        }
    }

    /// What a host's own clocks show.
    fn now(&self, host: usize) -> Now {
        let host = &self.hosts[host];
        self.reading(host.error, host.suspended)
    }

    /// A service of this host is found well.
    pub(super) fn announce(&mut self, host: usize, id: &str) {
        let name = self.hosts[host].name.clone();
        let service = service(&name, id, 0, Status::Alive);
        self.local(
            host,
            LocalUpdate::Present {
                service,
                checked: true,
            },
        );
    }

    /// A service of this host is gone.
    pub(super) fn stop(&mut self, host: usize, id: &str) {
        self.local(host, LocalUpdate::Gone { id: id.to_owned() });
    }

    fn local(&mut self, host: usize, update: LocalUpdate) {
        let now = self.now(host);
        self.hosts[host].core.local(update, now);
        self.carry_out(host);
    }

    fn member(&self, host: usize) -> Member {
        Member {
            name: self.hosts[host].name.clone(),
            addr: address(host),
            meta: metadata::write("c").expect("it is short").into(),
            incarnation: 1,
            state: NodeState::Alive,
            versions: Versions::OURS,
        }
    }

    /// Gossip tells these two of each other.
    pub(super) fn meet(&mut self, one: usize, other: usize) {
        for (host, peer) in [(one, other), (other, one)] {
            if self.hosts[host].members.insert(peer) {
                let joined = Event::Joined(self.member(peer));
                self.deliver(host, joined);
            }
        }
    }

    /// `host` joins everybody that `through` knows, by an exchange with it.
    pub(super) fn join(&mut self, host: usize, through: usize) {
        let mut known = self.hosts[through].members.clone();
        known.insert(through);
        for peer in known {
            self.meet(host, peer);
        }
        let clock = |host| self.now(host).wall;
        let [greets, replies] = [host, through].map(|host| self.hosts[host].core.snapshot());
        let greeting = exchange::greeting(greets, clock(host));
        let reply = exchange::reply(replies, &greeting, clock(through));
        for (to, state) in [(through, greeting), (host, reply)] {
            self.under_way
                .push_back((to, Event::RemoteState { state, join: true }));
        }
    }

    /// The others declare a host dead; it knows nothing of that.
    pub(super) fn bury(&mut self, host: usize) {
        for other in 0..self.hosts.len() {
            if other != host && self.hosts[other].members.remove(&host) {
                let left = Event::Left(self.member(host));
                self.deliver(other, left);
            }
        }
    }

    /// The machine stands still until [`Lab::wake`].
    pub(super) fn sleep(&mut self, host: usize, how: Sleep) {
        self.hosts[host].asleep = Some(how);
    }

    /// It goes on, and the others hear that it lives.
    pub(super) fn wake(&mut self, host: usize) {
        self.hosts[host].asleep = None;
        for peer in self.hosts[host].members.clone() {
            self.meet(host, peer);
        }
    }

    /// Somebody commands a host.
    pub(super) fn command<T>(&mut self, host: usize, act: impl FnOnce(&mut Core, Now) -> T) -> T {
        let now = self.now(host);
        let done = act(&mut self.hosts[host].core, now);
        self.carry_out(host);
        done
    }

    /// Gossip brings a message.
    pub(super) fn hear(&mut self, host: usize, message: Bytes) {
        self.deliver(host, Event::Message(message));
    }

    fn deliver(&mut self, to: usize, event: Event) {
        if self.hosts[to].asleep.is_some() {
            return;
        }
        let now = self.now(to);
        let host = &mut self.hosts[to];
        host.core.suspended(host.suspended);
        host.core.gossip(event, now);
        self.carry_out(to);
    }

    fn carry_out(&mut self, from: usize) {
        let cut_off = self.hosts[from].cut_off;
        for action in self.hosts[from].core.actions() {
            match action {
                _ if cut_off => {}
                Action::Broadcast {
                    payload, priority, ..
                } => {
                    let payload = priority.brief.unwrap_or(payload);
                    for to in self.hosts[from].members.clone() {
                        let message = Event::Message(payload.clone());
                        self.under_way.push_back((to, message));
                    }
                }
                Action::Send { to, messages } => {
                    let members = self.hosts[from].members.iter();
                    let to = members.copied().find(|host| self.hosts[*host].name == to);
                    let Some(to) = to else { continue };
                    let messages = messages.into_iter().map(|it| (to, Event::Message(it)));
                    self.under_way.extend(messages);
                }
                Action::Exchange(with) => {
                    // Members of other kinds have no address here.
                    let to = (0..self.hosts.len()).find(|host| address(*host) == with);
                    if let Some(to) = to {
                        self.exchange(from, to);
                    }
                }
                Action::CatchUp(with) => {
                    let members = &self.hosts[from].members;
                    let to = match with {
                        Some(name) => members
                            .iter()
                            .copied()
                            .find(|host| self.hosts[*host].name == name),
                        // Another one each time.
                        None => {
                            self.caught_up += 1;
                            let others: Vec<usize> =
                                members.iter().copied().filter(|it| *it != from).collect();
                            let at = self.caught_up % others.len().max(1);
                            others.get(at).copied()
                        }
                    };
                    if let Some(to) = to {
                        self.exchange(from, to);
                    }
                }
                Action::Applied { number, applied } => {
                    self.hosts[from].applied.push((number, applied));
                }
                Action::Keep(drains) => self.hosts[from].kept = Some(drains),
                Action::ExchangeTables { .. } | Action::Changed(_) => {}
            }
        }
    }

    fn exchange(&mut self, from: usize, to: usize) {
        if self.hosts[to].asleep.is_some() || self.hosts[from].cut_off || self.hosts[to].cut_off {
            return;
        }
        let clock = |host| self.now(host).wall;
        let opening = exchange::opening(self.hosts[from].core.snapshot(), clock(from), None);
        let reply = exchange::reply(self.hosts[to].core.snapshot(), &opening, clock(to));
        for (to, state) in [(to, opening), (from, reply)] {
            let event = Event::RemoteState { state, join: false };
            self.under_way.push_back((to, event));
        }
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.at + time;
        while self.at < end {
            self.at += STEP;
            for (to, event) in std::mem::take(&mut self.under_way) {
                if !self.hosts[to].cut_off {
                    self.deliver(to, event);
                }
            }
            for number in 0..self.hosts.len() {
                self.step(number);
            }
            assert!(self.under_way.len() < 10_000, "it never ends");
        }
    }

    fn step(&mut self, number: usize) {
        let now = self.now(number);
        let at = self.at;
        let host = &mut self.hosts[number];
        if let Some(sleep) = host.asleep {
            if sleep == Sleep::Suspended {
                host.suspended += STEP;
            }
            return;
        }
        let version = host.core.snapshot().version;
        if host.routes && host.routed != version {
            host.routed = version;
            host.core.suspended(host.suspended);
            host.core.routed(version, now);
            self.carry_out(number);
        }
        let host = &mut self.hosts[number];
        if host
            .core
            .next_deadline()
            .is_some_and(|due| due <= now.monotonic)
        {
            host.core.suspended(host.suspended);
            host.core.tick(now);
            self.carry_out(number);
        }
        let offset = Duration::from_secs(7) * u32::try_from(number).expect("few hosts");
        let due = (at + offset).as_millis() % EXCHANGE_EVERY.as_millis() < STEP.as_millis();
        let host = &mut self.hosts[number];
        if due && !host.members.is_empty() {
            host.exchanges += 1;
            let with = host.members.iter().nth(host.exchanges % host.members.len());
            let with = *with.expect("less than there are");
            self.exchange(number, with);
        }
    }

    /// The live services that a host sees, as `host/id`.
    pub(super) fn seen_by(&self, host: usize) -> Vec<String> {
        let services = self.hosts[host].core.snapshot().services();
        let alive = services.filter(|service| service.status == Status::Alive);
        let seen = alive.map(|service| format!("{}/{}", service.hostname, service.id));
        seen.collect()
    }

    /// Whether everybody sees just these.
    pub(super) fn expect(&self, expected: &[&str]) {
        for host in 0..self.hosts.len() {
            let name = &self.hosts[host].name;
            assert_eq!(self.seen_by(host), expected, "seen by {name}");
        }
    }
}
