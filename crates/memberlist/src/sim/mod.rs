//! A virtual network and clock that drive many nodes in one thread, from one seed.
//!
//! Datagrams are real bytes and pass the real codec. Streams are carried as whole messages: a
//! state exchange keeps its order (the responder answers before it merges), but connections,
//! buffers and deadlines of the real shell are not modelled. Time jumps to the next thing that
//! happens; a minute of a small cluster takes milliseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::node::{Config, ConfigError, Event, Node, StreamRequest, Transmit};
use crate::wire::message::{NodeState, PushPull};

/// What the network does to datagrams. Streams suffer latency and partitions alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    /// Shortest one-way delay.
    pub latency_min: Duration,
    /// Longest one-way delay.
    pub latency_max: Duration,
    /// Share of datagrams lost, 0 to 1.
    pub loss: f64,
    /// Share of datagrams delivered twice, 0 to 1.
    pub duplication: f64,
}

impl Default for Faults {
    /// A quiet local network.
    fn default() -> Self {
        Self {
            latency_min: Duration::from_micros(200),
            latency_max: Duration::from_millis(2),
            loss: 0.0,
            duplication: 0.0,
        }
    }
}

/// How often a condition that is waited for is looked at.
const LOOK_PERIOD: Duration = Duration::from_millis(1);

/// What the network has done, to show that a scenario was not vacuous.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams that arrived.
    pub delivered: u64,
    /// Datagrams lost by chance.
    pub lost: u64,
    /// Datagrams and streams that met a partition or a host that is down.
    pub blocked: u64,
    /// State exchanges completed.
    pub exchanges: u64,
    /// Datagrams with anything a node could not read. Always zero among our own nodes.
    pub unreadable: u64,
}

/// Number of a host, in the order of [`Network::add`].
pub type HostId = usize;

struct Host {
    config: Config,
    addr: SocketAddr,
    /// `None` while crashed.
    node: Option<Node>,
    wakeup: Option<Instant>,
    /// Until then it neither reads nor acts; what arrives waits in its socket.
    paused_until: Option<Instant>,
    group: usize,
    restarts: u64,
    state: Bytes,
    events: Vec<(Instant, Event)>,
}

enum Delivery {
    Datagram {
        from: SocketAddr,
        to: HostId,
        bytes: Bytes,
    },
    /// The request of a state exchange arrives.
    Request {
        from: HostId,
        to: HostId,
        request: PushPull,
    },
    /// Its answer comes back.
    Reply {
        from: SocketAddr,
        to: HostId,
        reply: PushPull,
        join: bool,
    },
    /// Nobody answered.
    NoReply {
        from: SocketAddr,
        to: HostId,
    },
    TcpAck {
        to: HostId,
        seq_no: u32,
    },
    User {
        to: HostId,
        payload: Bytes,
    },
}

impl Delivery {
    fn to(&self) -> HostId {
        match self {
            Self::Datagram { to, .. }
            | Self::Request { to, .. }
            | Self::Reply { to, .. }
            | Self::NoReply { to, .. }
            | Self::TcpAck { to, .. }
            | Self::User { to, .. } => *to,
        }
    }
}

/// The hosts, what is between them, and the clock.
pub struct Network {
    now: Instant,
    started: Instant,
    rng: Pcg64Mcg,
    faults: Faults,
    hosts: Vec<Host>,
    by_addr: BTreeMap<SocketAddr, HostId>,
    in_flight: BTreeMap<(Instant, u64), Delivery>,
    wakeups: BTreeSet<(Instant, HostId)>,
    sent: u64,
    traffic: Traffic,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network")
            .field("elapsed", &self.elapsed())
            .field("hosts", &self.hosts.len())
            .field("traffic", &self.traffic)
            .finish_non_exhaustive()
    }
}

impl Network {
    /// An empty network. `start` is only an origin: virtual time has nothing to do with the clock.
    pub fn new(seed: u64, start: Instant) -> Self {
        Self {
            now: start,
            started: start,
            rng: Pcg64Mcg::seed_from_u64(seed),
            faults: Faults::default(),
            hosts: Vec::new(),
            by_addr: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            wakeups: BTreeSet::new(),
            sent: 0,
            traffic: Traffic::default(),
        }
    }

    /// Settings of a host that is yet to be added: the LAN profile at an address of its own.
    pub fn config(name: impl Into<String>, id: HostId) -> Config {
        let [_, _, high, low] = (id as u32 + 1).to_be_bytes();
        Config::lan(name, IpAddr::V4(Ipv4Addr::new(10, 0, high, low)))
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
            wakeup: None,
            paused_until: None,
            group: 0,
            restarts: 0,
            state: Bytes::new(),
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
        let mut config = self.hosts[id].config.clone();
        self.hosts[id].restarts += 1;
        config.seed = (id as u64) << 32 | self.hosts[id].restarts ^ self.rng.random::<u64>();
        self.hosts[id].node = Some(Node::new(config, self.now)?);
        self.settle(id);
        Ok(())
    }

    /// The host is gone without a word.
    pub fn crash(&mut self, id: HostId) {
        self.hosts[id].node = None;
        self.schedule(id, None);
    }

    /// The host stops for a while and then finds everything waiting.
    pub fn pause(&mut self, id: HostId, time: Duration) {
        let until = self.now + time;
        self.hosts[id].paused_until = Some(until);
        self.schedule(id, Some(until));
    }

    /// From now on only hosts of the same group reach each other. Who is named nowhere is in a
    /// group with all the others.
    pub fn partition(&mut self, groups: &[&[HostId]]) {
        self.heal();
        for (number, group) in groups.iter().enumerate() {
            for &id in *group {
                self.hosts[id].group = number + 1;
            }
        }
    }

    /// Everyone reaches everyone.
    pub fn heal(&mut self) {
        for host in &mut self.hosts {
            host.group = 0;
        }
    }

    /// From now on the network behaves like this.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// `id` exchanges states with `seed` and remembers it.
    pub fn join(&mut self, id: HostId, seed: HostId) {
        let to = self.hosts[seed].addr;
        if let Some(node) = &mut self.hosts[id].node {
            node.add_seeds(self.now, &[to]);
            self.exchange(id, to, true);
        }
        self.settle(id);
    }

    /// Does something to a running node.
    pub fn with<T>(&mut self, id: HostId, act: impl FnOnce(&mut Node, Instant) -> T) -> Option<T> {
        let now = self.now;
        let result = self.hosts[id].node.as_mut().map(|node| act(node, now));
        self.settle(id);
        result
    }

    /// The application state the host hands out in exchanges.
    pub fn set_state(&mut self, id: HostId, state: impl Into<Bytes>) {
        self.hosts[id].state = state.into();
    }

    /// The node of a host that is up.
    pub fn node(&self, id: HostId) -> Option<&Node> {
        self.hosts[id].node.as_ref()
    }

    /// Where a host is.
    pub fn addr(&self, id: HostId) -> SocketAddr {
        self.hosts[id].addr
    }

    /// Everything the application of a host was told, with the time since the start.
    pub fn events(&self, id: HostId) -> impl Iterator<Item = (Duration, &Event)> {
        let events = self.hosts[id].events.iter();
        events.map(|(at, event)| (*at - self.started, event))
    }

    /// What the network has done so far.
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Virtual time since the start.
    pub fn elapsed(&self) -> Duration {
        self.now - self.started
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
        self.run_until(until, |_| false);
    }

    /// Lets time pass until `done`, for `time` at most. How long it took, if it was done.
    pub fn run_while_waiting(
        &mut self,
        time: Duration,
        done: impl FnMut(&Self) -> bool,
    ) -> Option<Duration> {
        let begin = self.now;
        self.run_until(begin + time, done).then(|| self.now - begin)
    }

    fn run_until(&mut self, until: Instant, mut done: impl FnMut(&Self) -> bool) -> bool {
        let mut looked = None;
        loop {
            let arrival = self.in_flight.first_key_value().map(|((at, _), _)| *at);
            let wakeup = self.wakeups.first().map(|(at, _)| *at);
            // What has arrived is read before timers fire, as the real shell does it.
            let (next, arrives) = match (arrival, wakeup) {
                (Some(arrival), Some(wakeup)) => (arrival.min(wakeup), arrival <= wakeup),
                (Some(arrival), None) => (arrival, true),
                (None, Some(wakeup)) => (wakeup, false),
                (None, None) => (until, false),
            };
            if looked.is_none_or(|at| next >= at + LOOK_PERIOD) || next >= until {
                if done(self) {
                    return true;
                }
                looked = Some(self.now.max(next));
            }
            if next >= until {
                self.now = until;
                return false;
            }
            self.now = self.now.max(next);
            if arrives {
                if let Some((_, delivery)) = self.in_flight.pop_first() {
                    self.deliver(delivery);
                }
            } else if let Some((_, id)) = self.wakeups.pop_first() {
                self.wake(id);
            }
        }
    }

    fn wake(&mut self, id: HostId) {
        let now = self.now;
        let host = &mut self.hosts[id];
        host.wakeup = None;
        host.paused_until = host.paused_until.filter(|until| *until > now);
        if host.paused_until.is_none()
            && let Some(node) = &mut host.node
        {
            node.handle_timeout(now);
        }
        self.settle(id);
    }

    fn deliver(&mut self, delivery: Delivery) {
        let id = delivery.to();
        if let Some(until) = self.hosts[id]
            .paused_until
            .filter(|until| *until > self.now)
        {
            self.enqueue(until, delivery);
            return;
        }
        let (now, state) = (self.now, self.hosts[id].state.clone());
        let Some(node) = &mut self.hosts[id].node else {
            self.traffic.blocked += 1;
            return;
        };
        match delivery {
            Delivery::Datagram { from, bytes, .. } => {
                self.traffic.delivered += 1;
                let errors = node.handle_datagram(now, from, &bytes);
                self.traffic.unreadable += u64::from(!errors.is_empty());
            }
            Delivery::Request { from, to, request } => {
                let join = request.join;
                let mut reply = node.push_pull(join);
                reply.user_state = state;
                // A refused merge is invisible to the other side, as on a real connection.
                let _ = node.merge(now, request, join);
                let delay = self.stream_delay();
                let answerer = self.hosts[to].addr;
                self.enqueue(
                    now + delay,
                    Delivery::Reply {
                        from: answerer,
                        to: from,
                        reply,
                        join,
                    },
                );
            }
            Delivery::Reply {
                from, reply, join, ..
            } => {
                let merged = node.merge(now, reply, join).is_ok();
                node.handle_exchange_result(from, merged);
                self.traffic.exchanges += u64::from(merged);
            }
            Delivery::NoReply { from, .. } => node.handle_exchange_result(from, false),
            Delivery::TcpAck { seq_no, .. } => node.handle_tcp_ack(seq_no),
            Delivery::User { payload, .. } => {
                let event = Event::Message(payload);
                self.hosts[id].events.push((now, event));
            }
        }
        self.settle(id);
    }

    /// Carries out what the node of a host wants done.
    fn settle(&mut self, id: HostId) {
        loop {
            let Some(node) = &mut self.hosts[id].node else {
                return;
            };
            if let Some(transmit) = node.poll_transmit() {
                self.send(id, transmit);
            } else if let Some(request) = node.poll_stream_request() {
                self.open_stream(id, request);
            } else if let Some(event) = node.poll_event() {
                self.hosts[id].events.push((self.now, event));
            } else {
                let deadline = node.poll_timeout();
                let paused = self.hosts[id].paused_until;
                self.schedule(id, paused.or(deadline));
                return;
            }
        }
    }

    fn schedule(&mut self, id: HostId, at: Option<Instant>) {
        if let Some(old) = self.hosts[id].wakeup.take() {
            self.wakeups.remove(&(old, id));
        }
        if let Some(at) = at {
            self.wakeups.insert((at, id));
            self.hosts[id].wakeup = Some(at);
        }
    }

    fn enqueue(&mut self, at: Instant, delivery: Delivery) {
        self.sent += 1;
        self.in_flight.insert((at, self.sent), delivery);
    }

    fn send(&mut self, id: HostId, transmit: Transmit) {
        let Some(to) = self.reachable(id, transmit.to) else {
            self.traffic.blocked += 1;
            return;
        };
        if self.rng.random_bool(self.faults.loss) {
            self.traffic.lost += 1;
            return;
        }
        let copies = 1 + u32::from(self.rng.random_bool(self.faults.duplication));
        for _ in 0..copies {
            let delay = self.delay();
            self.enqueue(
                self.now + delay,
                Delivery::Datagram {
                    from: self.hosts[id].addr,
                    to,
                    bytes: transmit.bytes.clone(),
                },
            );
        }
    }

    fn open_stream(&mut self, id: HostId, request: StreamRequest) {
        match request {
            StreamRequest::PushPull { to, join } => self.exchange(id, to, join),
            StreamRequest::Ping { to, ping, deadline } => {
                let round_trip = self.stream_delay() + self.delay();
                if self.answering(id, to).is_some() && self.now + round_trip < deadline {
                    let ack = Delivery::TcpAck {
                        to: id,
                        seq_no: ping.seq_no,
                    };
                    self.enqueue(self.now + round_trip, ack);
                }
            }
            StreamRequest::User { to, payload } => {
                if let Some(peer) = self.answering(id, to) {
                    let delay = self.stream_delay();
                    let message = Delivery::User { to: peer, payload };
                    self.enqueue(self.now + delay, message);
                }
            }
        }
    }

    fn exchange(&mut self, id: HostId, to: SocketAddr, join: bool) {
        let state = self.hosts[id].state.clone();
        let Some(node) = &mut self.hosts[id].node else {
            return;
        };
        let mut request = node.push_pull(join);
        request.user_state = state;
        let patience = self.hosts[id].config.tcp_timeout;
        let (at, delivery) = match self.answering(id, to) {
            Some(peer) => (
                self.now + self.stream_delay(),
                Delivery::Request {
                    from: id,
                    to: peer,
                    request,
                },
            ),
            None => (self.now + patience, Delivery::NoReply { from: to, to: id }),
        };
        self.enqueue(at, delivery);
    }

    /// The host at `to`, if the network lets `from` through.
    fn reachable(&self, from: HostId, to: SocketAddr) -> Option<HostId> {
        let &to = self.by_addr.get(&to)?;
        (self.hosts[from].group == self.hosts[to].group).then_some(to)
    }

    /// The host at `to`, if a connection would be accepted.
    fn answering(&mut self, from: HostId, to: SocketAddr) -> Option<HostId> {
        let peer = self
            .reachable(from, to)
            .filter(|peer| self.hosts[*peer].node.is_some());
        self.traffic.blocked += u64::from(peer.is_none());
        peer
    }

    fn delay(&mut self) -> Duration {
        let Faults {
            latency_min,
            latency_max,
            ..
        } = self.faults;
        latency_min + (latency_max - latency_min).mul_f64(self.rng.random::<f64>())
    }

    /// Handshake and first bytes.
    fn stream_delay(&mut self) -> Duration {
        self.delay() + self.delay() + self.delay()
    }
}
