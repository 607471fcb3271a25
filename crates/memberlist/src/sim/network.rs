//! The hosts, what is between them, and the clock: a scheduler in one thread. Time jumps to the
//! next thing that happens, and everything that happens is drawn from one seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::HostId;
use super::application::Application;
use super::catalogue::Catalogue;
use super::checker::{Checker, Step};
use super::clock::Clock;
use super::faults::{Faults, Link, Links};
use super::host::{Delivery, HANDLED_BEFORE_TIMERS, Host, Traffic};
use super::tally::Tally;
use crate::node::{Acquaintances, Config, ConfigError, Event, Node, StreamRequest, Transmit};
use crate::wire::message::NodeState;

/// How often a condition that is waited for is looked at.
const LOOK_PERIOD: Duration = Duration::from_millis(1);

/// Datagrams that fit an ordinary host's socket buffer.
const INBOX_MAX: usize = 4096;

/// A thing on its way, ordered by when it arrives and then by when it was sent.
struct InFlight {
    at: Duration,
    number: u64,
    to: HostId,
    delivery: Delivery,
}

impl PartialEq for InFlight {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for InFlight {}

impl PartialOrd for InFlight {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for InFlight {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// The hosts, what is between them, and the clock. `A` is what runs on the hosts.
pub struct Network<A = Catalogue> {
    pub(super) now: Duration,
    start: Instant,
    pub(super) rng: Pcg64Mcg,
    pub(super) faults: Faults,
    pub(super) links: Links,
    pub(super) hosts: Vec<Host<A>>,
    by_addr: BTreeMap<SocketAddr, HostId>,
    /// Datagrams to addresses without a host that the scenario listens at.
    taps: BTreeMap<SocketAddr, Vec<(Duration, Bytes)>>,
    in_flight: BinaryHeap<Reverse<InFlight>>,
    wakeups: BTreeSet<(Duration, HostId)>,
    sent: u64,
    pub(super) tally: Tally,
    pub(super) record_events: bool,
    pub(super) measuring: bool,
    /// Whether hosts leave their tables out of exchanges while they agree.
    pub(super) brief: bool,
    trace: u64,
    pub(super) checker: Option<Box<Checker>>,
}

impl<A: Application> std::fmt::Debug for Network<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network")
            .field("elapsed", &self.elapsed())
            .field("hosts", &self.hosts.len())
            .field("tally", &self.tally())
            .finish_non_exhaustive()
    }
}

impl Network {
    /// An empty network. `start` is only an origin: virtual time has nothing to do with the clock.
    pub fn new(seed: u64, start: Instant) -> Self {
        Self::of_applications(seed, start)
    }

    /// Settings of a host that is yet to be added: the LAN profile at an address of its own.
    pub fn config(name: impl Into<String>, id: HostId) -> Config {
        let [_, _, high, low] = (id as u32 + 1).to_be_bytes();
        Config::lan(name, IpAddr::V4(Ipv4Addr::new(10, 0, high, low)))
    }
}

impl<A: Application> Network<A> {
    /// An empty network for hosts with applications of one kind.
    pub fn of_applications(seed: u64, start: Instant) -> Self {
        Self {
            now: Duration::ZERO,
            start,
            rng: Pcg64Mcg::seed_from_u64(seed),
            faults: Faults::default(),
            links: Links::default(),
            hosts: Vec::new(),
            by_addr: BTreeMap::new(),
            taps: BTreeMap::new(),
            in_flight: BinaryHeap::new(),
            wakeups: BTreeSet::new(),
            sent: 0,
            tally: Tally::default(),
            record_events: true,
            measuring: false,
            brief: false,
            trace: 0xcbf2_9ce4_8422_2325,
            checker: None,
        }
    }

    /// Starts a host.
    ///
    /// # Errors
    /// A setting out of range.
    pub fn add(&mut self, config: Config) -> Result<HostId, ConfigError> {
        let id = self.hosts.len();
        let addr = SocketAddr::new(config.advertise, config.port());
        self.by_addr.insert(addr, id);
        self.hosts.push(Host {
            config,
            addr,
            node: None,
            life: 0,
            clock: Clock::new(self.start, Duration::ZERO, 0),
            wakeup: None,
            busy_until: Duration::ZERO,
            frozen_until: Duration::ZERO,
            deaf_until: Duration::ZERO,
            handling: Duration::ZERO,
            inbox: VecDeque::new(),
            inbox_max: INBOX_MAX,
            handled_since_timers: 0,
            state: Bytes::new(),
            application: None,
            traffic: Traffic::default(),
            events: Vec::new(),
        });
        self.restart(id)?;
        Ok(id)
    }

    /// Starts a crashed host anew, without any memory.
    ///
    /// # Errors
    /// A setting out of range.
    pub fn restart(&mut self, id: HostId) -> Result<(), ConfigError> {
        self.crash(id);
        let host = &mut self.hosts[id];
        let mut config = host.config.clone();
        host.life += 1;
        config.seed = (id as u64) << 32 | host.life ^ self.rng.random::<u64>();
        let now = host.clock.at(self.now);
        let node = Node::new(config, now)?;
        if let Some(checker) = &mut self.checker {
            checker.started(id, &host.config);
        }
        host.node = Some(node);
        let former = host.application.as_ref();
        host.application = former.map(|former| former.restarted(now));
        self.tally.restarts += u64::from(host.life > 1);
        self.act(id, Step::Api, |_, _| ());
        Ok(())
    }

    /// A crashed host is to come back at another address.
    pub fn move_host(&mut self, id: HostId, to: IpAddr) {
        let host = &mut self.hosts[id];
        self.by_addr.remove(&host.addr);
        host.config.advertise = to;
        host.addr = SocketAddr::new(to, host.config.port());
        self.by_addr.insert(host.addr, id);
        self.tally.moves += 1;
    }

    /// The host is gone without a word.
    pub fn crash(&mut self, id: HostId) {
        let host = &mut self.hosts[id];
        if let Some(node) = host.node.take() {
            self.tally.crashes += 1;
            self.tally.absorb(&Tally::from(node.counters()));
            if let Some(checker) = &mut self.checker {
                checker.stopped(id);
            }
        }
        host.inbox.clear();
        (host.busy_until, host.frozen_until) = (Duration::ZERO, Duration::ZERO);
        host.deaf_until = Duration::ZERO;
        self.schedule(id, None);
    }

    /// The host stops for a while and then finds everything waiting.
    pub fn pause(&mut self, id: HostId, time: Duration) {
        let until = self.now + time;
        let host = &mut self.hosts[id];
        host.busy_until = host.busy_until.max(until);
        host.frozen_until = host.frozen_until.max(until);
        self.tally.freezes += 1;
        self.reschedule(id);
    }

    /// For this long the host reads nothing while its timers go on: its input is stuck, as on a
    /// machine out of processor time for its network. What arrives waits.
    pub fn stall(&mut self, id: HostId, time: Duration) {
        let host = &mut self.hosts[id];
        host.deaf_until = host.deaf_until.max(self.now + time);
        self.reschedule(id);
    }

    /// From now on each datagram takes the host `handling`, and it keeps at most `inbox_max`.
    pub fn set_processor(&mut self, id: HostId, handling: Duration, inbox_max: usize) {
        let host = &mut self.hosts[id];
        (host.handling, host.inbox_max) = (handling, inbox_max.clamp(1, INBOX_MAX));
        self.tally.slowdowns += u64::from(!handling.is_zero());
    }

    /// An ordinary processor again.
    pub fn reset_processor(&mut self, id: HostId) {
        self.set_processor(id, Duration::ZERO, INBOX_MAX);
    }

    /// The clock of a host that is down is ahead by `offset` and fast by `rate_ppm`.
    pub fn set_clock(&mut self, id: HostId, offset: Duration, rate_ppm: i32) {
        debug_assert!(self.hosts[id].node.is_none(), "a clock never jumps");
        self.hosts[id].clock = Clock::new(self.start, offset, rate_ppm);
    }

    /// From now on only hosts of the same group reach each other. Who is named nowhere is in a
    /// group with all the others.
    pub fn partition(&mut self, groups: &[&[HostId]]) {
        let mut sides = vec![0; self.hosts.len()];
        for (side, group) in (1..).zip(groups) {
            for &id in *group {
                sides[id] = side;
            }
        }
        self.split(sides, Vec::new());
    }

    /// As [`Network::partition`], by the side of each host; the directions in `open`, from side
    /// to side, stay passable.
    pub fn split(&mut self, sides: Vec<u32>, open: Vec<(u32, u32)>) {
        self.tally.partitions += 1;
        self.links.split(sides, open);
    }

    /// The partition is over.
    pub fn heal(&mut self) {
        self.links.join();
    }

    /// No link has any trouble left, and there is no partition.
    pub fn repair(&mut self) {
        self.links.repair();
    }

    /// Nothing passes from one host to the other for this time.
    pub fn cut(&mut self, from: HostId, to: HostId, time: Duration) {
        let until = self.now + time;
        self.link_mut(from, to).cut_until = until;
    }

    /// No datagram passes from one host to the other for this time; streams do.
    pub fn cut_datagrams(&mut self, from: HostId, to: HostId, time: Duration) {
        let until = self.now + time;
        self.link_mut(from, to).datagrams_cut_until = until;
    }

    /// From now on longer datagrams from one host to the other vanish.
    pub fn limit_datagrams(&mut self, from: HostId, to: HostId, mtu: usize) {
        self.link_mut(from, to).mtu = Some(mtu);
    }

    fn link_mut(&mut self, from: HostId, to: HostId) -> &mut Link {
        self.tally.cuts += 1;
        self.links.link_mut(from, to)
    }

    /// From now on the network behaves like this.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// Whether the events of applications are kept for [`Network::events`]. Default yes; large
    /// clusters have millions.
    pub fn set_recording(&mut self, record: bool) {
        self.record_events = record;
    }

    /// Whether state exchanges hand rows over as they are instead of writing and reading them, as
    /// long as there is no application state. Default no; for large clusters of one version and
    /// one cluster name, when what is measured is not the exchange.
    pub fn set_measuring(&mut self, measuring: bool) {
        self.measuring = measuring;
        self.brief = measuring;
    }

    /// Whether members leave their tables out of state exchanges as long as they are the same, as our
    /// own agents do. Default no, but yes while measuring.
    pub fn set_brief(&mut self, brief: bool) {
        self.brief = brief;
    }

    /// `id` exchanges states with `seed` and remembers it.
    pub fn join(&mut self, id: HostId, seed: HostId) {
        let to = self.hosts[seed].addr;
        let joined = self.act(id, Step::Api, |node, now| node.add_seeds(now, &[to]));
        if joined.is_some() {
            self.exchange(id, to, true, true);
        }
    }

    /// All running hosts know each other from now on, as if for long: a large cluster that is
    /// there at once. For measuring; nobody is told, and no invariant looks on.
    pub fn acquaint(&mut self) {
        let all: Vec<HostId> = (0..self.hosts.len()).collect();
        self.acquaint_part(&all);
    }

    /// The same among these hosts, who all take the others for dead since an hour.
    pub fn acquaint_part(&mut self, part: &[HostId]) {
        let mut inside = vec![false; self.hosts.len()];
        for &id in part {
            inside[id] = true;
        }
        let rows = self.running().filter_map(|(id, node)| {
            let row = node.introduction()?;
            Some(if inside[id] { row } else { row.buried() })
        });
        let rows = Acquaintances::new(rows.collect());
        for &id in part {
            let host = &mut self.hosts[id];
            if let Some(node) = &mut host.node {
                node.acquaint(host.clock.at(self.now), &rows);
            }
        }
    }

    /// From now on this runs on the host, and on it in later lives.
    pub fn set_application(&mut self, id: HostId, application: A) {
        self.hosts[id].application = Some(application);
        self.reschedule(id);
    }

    /// What runs on a host.
    pub fn application(&self, id: HostId) -> Option<&A> {
        self.hosts[id].application.as_ref()
    }

    /// Does something to a running application and its node; what it wants to do on connections is
    /// carried out.
    pub fn with_application(
        &mut self,
        id: HostId,
        act: impl FnOnce(&mut A, Instant, &mut Node) -> Vec<StreamRequest>,
    ) {
        let host = &mut self.hosts[id];
        let local = host.clock.at(self.now);
        let (Some(application), Some(node)) = (&mut host.application, &mut host.node) else {
            return;
        };
        node.note_time(local);
        for request in act(application, local, node) {
            self.open_stream(id, request);
        }
        self.act(id, Step::Api, |_, _| ());
    }

    /// What a host has sent so far.
    pub fn traffic(&self, id: HostId) -> Traffic {
        self.hosts[id].traffic
    }

    /// Does something to a running node.
    pub fn with<T>(&mut self, id: HostId, act: impl FnOnce(&mut Node, Instant) -> T) -> Option<T> {
        self.act(id, Step::Api, act)
    }

    /// The application state the host hands out in exchanges.
    pub fn set_state(&mut self, id: HostId, state: impl Into<Bytes>) {
        self.hosts[id].state = state.into();
    }

    /// A datagram that no node has sent arrives at a host after the usual delay.
    pub fn forge(&mut self, from: SocketAddr, to: HostId, bytes: Bytes) {
        self.tally.forged += 1;
        let delay = self.faults.delay(&mut self.rng);
        self.enqueue(delay, to, Delivery::Datagram { from, bytes });
    }

    /// Listens at an address without a host.
    pub fn tap(&mut self, addr: SocketAddr) {
        self.taps.insert(addr, Vec::new());
    }

    /// What has come to an address that is listened at, and when.
    pub fn tapped(&self, addr: SocketAddr) -> &[(Duration, Bytes)] {
        self.taps.get(&addr).map_or(&[], Vec::as_slice)
    }

    /// The node of a host that is up.
    pub fn node(&self, id: HostId) -> Option<&Node> {
        self.hosts[id].node.as_ref()
    }

    /// Hosts there are, up or down.
    pub fn hosts_len(&self) -> usize {
        self.hosts.len()
    }

    /// Where a host is.
    pub fn addr(&self, id: HostId) -> SocketAddr {
        self.hosts[id].addr
    }

    /// Everything the application of a host was told, with the time since the start.
    pub fn events(&self, id: HostId) -> impl Iterator<Item = (Duration, &Event)> {
        let events = self.hosts[id].events.iter();
        events.map(|(at, event)| (*at, event))
    }

    /// Everything that has happened so far.
    pub fn tally(&self) -> Tally {
        let mut tally = self.tally;
        for (_, node) in self.running() {
            tally.absorb(&Tally::from(node.counters()));
        }
        tally
    }

    /// A number that stands for every datagram and every wake-up so far, their order and times.
    pub fn trace_hash(&self) -> u64 {
        self.trace
    }

    /// Virtual time since the start.
    pub fn elapsed(&self) -> Duration {
        self.now
    }

    /// Hosts that are up.
    pub fn running(&self) -> impl Iterator<Item = (HostId, &Node)> {
        let hosts = self.hosts.iter().enumerate();
        hosts.filter_map(|(id, host)| Some((id, host.node.as_ref()?)))
    }

    /// Whether all running hosts agree that exactly they are alive, at the same incarnations.
    pub fn converged(&self) -> bool {
        let running: BTreeMap<&str, &Node> = self
            .running()
            .map(|(_, node)| (node.config().name.as_str(), node))
            .collect();
        let Some(first) = running.values().next().map(|node| node.members()) else {
            return true;
        };
        let all_alive = first.iter().all(|member| member.state == NodeState::Alive);
        all_alive
            && first.len() == running.len()
            && first
                .iter()
                .all(|member| running.contains_key(member.name.as_str()))
            && running.values().all(|node| node.members() == first)
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        self.run_until(until, LOOK_PERIOD, |_| false);
    }

    /// Lets time pass until `done`, for `time` at most. How long it took, if it was done.
    pub fn run_while_waiting(
        &mut self,
        time: Duration,
        done: impl FnMut(&Self) -> bool,
    ) -> Option<Duration> {
        let begin = self.now;
        self.run_until(begin + time, LOOK_PERIOD, done)
            .then(|| self.now - begin)
    }

    /// As [`Network::run_while_waiting`], looking only once per `period`.
    pub(super) fn run_until(
        &mut self,
        until: Duration,
        period: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> bool {
        let mut looked = None;
        loop {
            let arrival = self.in_flight.peek().map(|Reverse(first)| first.at);
            let wakeup = self.wakeups.first().map(|(at, _)| *at);
            // What has arrived is read before timers fire, as the real shell does it.
            let (next, arrives) = match (arrival, wakeup) {
                (Some(arrival), Some(wakeup)) => (arrival.min(wakeup), arrival <= wakeup),
                (Some(arrival), None) => (arrival, true),
                (None, Some(wakeup)) => (wakeup, false),
                (None, None) => (until, false),
            };
            if looked.is_none_or(|at| next >= at + period) || next >= until {
                if done(self) {
                    return true;
                }
                looked = Some(self.now.max(next));
            }
            let failed = self
                .checker
                .as_ref()
                .is_some_and(|checker| checker.failed());
            if next >= until || failed {
                self.now = until;
                return false;
            }
            self.now = self.now.max(next);
            if arrives {
                if let Some(Reverse(arrived)) = self.in_flight.pop() {
                    self.arrive(arrived.to, arrived.delivery);
                }
            } else if let Some((_, id)) = self.wakeups.pop_first() {
                self.hosts[id].wakeup = None;
                self.run_host(id);
            }
        }
    }

    /// Something reaches a host's socket.
    fn arrive(&mut self, id: HostId, delivery: Delivery) {
        let host = &mut self.hosts[id];
        if host.node.is_none() {
            self.tally.blocked += 1;
        } else if host.inbox.len() >= host.inbox_max
            && matches!(delivery, Delivery::Datagram { .. })
        {
            self.tally.lost_to_inbox += 1;
        } else {
            host.inbox.push_back(delivery);
            self.run_host(id);
        }
    }

    /// Reads what is waiting, then lets timers fire, as far as the processor gets.
    fn run_host(&mut self, id: HostId) {
        loop {
            let now = self.now;
            let host = &mut self.hosts[id];
            if host.busy_until > now || host.node.is_none() {
                break;
            }
            let local = host.clock.at(now);
            let due = host.deadline().is_some_and(|deadline| deadline <= local);
            let timers_first = due && host.handled_since_timers >= HANDLED_BEFORE_TIMERS;
            let reads = !timers_first && host.deaf_until <= now;
            if reads && let Some(delivery) = host.inbox.pop_front() {
                host.busy_until = now + host.handling;
                host.handled_since_timers += usize::from(!host.handling.is_zero());
                self.deliver(id, delivery);
            } else if due {
                host.handled_since_timers = 0;
                self.note(&[3, id as u64]);
                self.act(id, Step::Timeout, Node::handle_timeout);
                self.run_application(id);
            } else {
                break;
            }
        }
        self.reschedule(id);
    }

    /// Lets time pass for the application of a host.
    fn run_application(&mut self, id: HostId) {
        let host = &mut self.hosts[id];
        let local = host.clock.at(self.now);
        let deadline = host.application.as_ref().and_then(A::poll_timeout);
        if deadline.is_some_and(|deadline| deadline <= local) {
            self.with_application(id, |application, now, node| {
                application.handle_timeout(now, node)
            });
        }
    }

    fn deliver(&mut self, id: HostId, delivery: Delivery) {
        match delivery {
            Delivery::Datagram { from, bytes } => {
                self.tally.delivered += 1;
                self.note(&[1, id as u64, u64::from(crc32fast::hash(&bytes))]);
                let step = Step::Datagram { from };
                let errors = self.act(id, step, |node, now| {
                    node.handle_datagram(now, from, &bytes)
                });
                self.tally.unreadable += u64::from(errors.is_some_and(|list| !list.is_empty()));
            }
            stream => {
                self.note(&[2, id as u64]);
                self.deliver_stream(id, stream);
            }
        }
    }

    /// Does something to a running node and carries out what follows from it.
    pub(super) fn act<T>(
        &mut self,
        id: HostId,
        step: Step,
        act: impl FnOnce(&mut Node, Instant) -> T,
    ) -> Option<T> {
        let host = &mut self.hosts[id];
        let local = host.clock.at(self.now);
        let node = host.node.as_mut()?;
        if let Some(checker) = &mut self.checker {
            checker.begin(id, node);
        }
        node.note_time(local);
        let result = act(node, local);
        self.settle(id, step);
        if let Some(checker) = &mut self.checker
            && let Some(node) = &self.hosts[id].node
        {
            checker.end(id, node, local, self.now, step, &mut self.tally);
        }
        self.reschedule(id);
        Some(result)
    }

    /// Carries out what the node of a host wants done.
    fn settle(&mut self, id: HostId, step: Step) {
        loop {
            let Some(node) = &mut self.hosts[id].node else {
                return;
            };
            if let Some(transmit) = node.poll_transmit() {
                if let Some(checker) = &mut self.checker {
                    checker.transmit(id, node, &transmit, self.now, step, &mut self.tally);
                }
                self.send(id, transmit);
            } else if let Some(request) = node.poll_stream_request() {
                self.open_stream(id, request);
            } else if let Some(event) = node.poll_event() {
                if let Some(checker) = &mut self.checker {
                    let false_death = checker.event(id, &event, self.now);
                    self.tally.false_deaths += u64::from(false_death);
                }
                let wanted = self.hosts[id].tell(self.now, event, self.record_events);
                for request in wanted {
                    self.open_stream(id, request);
                }
            } else {
                return;
            }
        }
    }

    /// When to look at a host again: when its processor is free, or its next deadline.
    fn reschedule(&mut self, id: HostId) {
        let host = &self.hosts[id];
        let at = host.node.as_ref().and_then(|_| {
            let deadline = host.deadline().map(|local| host.clock.when(local));
            let timers = deadline.map(|at| at.max(host.busy_until));
            let reading = host.busy_until.max(host.deaf_until);
            if host.inbox.is_empty() || timers.is_some_and(|at| at <= reading) {
                timers
            } else {
                Some(reading)
            }
        });
        self.schedule(id, at.map(|at| at.max(self.now)));
    }

    fn schedule(&mut self, id: HostId, at: Option<Duration>) {
        if self.hosts[id].wakeup == at {
            return;
        }
        if let Some(old) = self.hosts[id].wakeup.take() {
            self.wakeups.remove(&(old, id));
        }
        if let Some(at) = at {
            self.wakeups.insert((at, id));
            self.hosts[id].wakeup = Some(at);
        }
    }

    pub(super) fn enqueue(&mut self, delay: Duration, to: HostId, delivery: Delivery) {
        self.sent += 1;
        self.in_flight.push(Reverse(InFlight {
            at: self.now + delay,
            number: self.sent,
            to,
            delivery,
        }));
    }

    fn send(&mut self, id: HostId, transmit: Transmit) {
        let Transmit { to, bytes } = transmit;
        self.hosts[id].traffic.datagram(bytes.len());
        self.note(&[4, id as u64, u64::from(crc32fast::hash(&bytes))]);
        let Some(&peer) = self.by_addr.get(&to) else {
            match self.taps.get_mut(&to) {
                Some(heard) => heard.push((self.now, bytes)),
                None => self.tally.astray += 1,
            }
            return;
        };
        if !self.survives(id, peer, bytes.len()) {
            return;
        }
        let faults = self.faults;
        let from = self.hosts[id].addr;
        let duplicated = self.rng.random_bool(faults.duplication);
        self.tally.duplicated += u64::from(duplicated);
        for _ in 0..1 + u32::from(duplicated) {
            let mut delay = faults.delay(&mut self.rng);
            if self.rng.random_bool(faults.reordering) {
                self.tally.reordered += 1;
                delay += faults.reordering_delay;
            }
            let mut bytes = bytes.clone();
            if self.rng.random_bool(faults.corruption) {
                self.tally.damaged += 1;
                bytes = Faults::damage(&bytes, &mut self.rng);
            }
            self.enqueue(delay, peer, Delivery::Datagram { from, bytes });
        }
    }

    /// Whether a datagram gets onto its link and over it.
    fn survives(&mut self, from: HostId, to: HostId, length: usize) -> bool {
        let link = self.links.link(from, to);
        let cut = !self.links.passes(from, to, self.now) || link.datagrams_cut_until > self.now;
        if cut {
            self.tally.blocked += 1;
        } else if link.mtu.is_some_and(|mtu| length > mtu) {
            self.tally.lost_to_mtu += 1;
        } else if link.burst_until > self.now || self.rng.random_bool(self.faults.burst) {
            if link.burst_until <= self.now {
                self.links.link_mut(from, to).burst_until = self.now + self.faults.burst_time;
            }
            self.tally.lost_in_burst += 1;
        } else if self.rng.random_bool(self.faults.loss) {
            self.tally.lost += 1;
        } else {
            return true;
        }
        false
    }

    /// The host at an address.
    pub(super) fn host_at(&self, addr: SocketAddr) -> Option<HostId> {
        self.by_addr.get(&addr).copied()
    }

    /// Takes something into the trace.
    pub(super) fn note(&mut self, words: &[u64]) {
        let now = self.now.as_nanos() as u64;
        for word in words.iter().chain([&now]) {
            self.trace = (self.trace ^ word)
                .wrapping_mul(0x0100_0000_01b3)
                .rotate_left(23);
        }
    }
}
