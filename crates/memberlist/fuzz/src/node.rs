//! One member, and everything that can happen to it, in an order the input chooses: datagrams of
//! members and strangers, state exchanges, time, pauses, answers to its probes, the application.
//!
//! After each operation all that came out is taken and judged, and the invariants of a member must
//! hold. The operations are in `operation`.

mod operation;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use arbitrary::Unstructured;
use bytes::Bytes;
use memberlist::node::{
    Config, Event, Member, Node, Profile, STREAM_USER_BYTES_MAX, StreamRequest, Transmit,
};
use memberlist::wire::{Message, NodeState, StreamDecoder, StreamMessage, decode_packet};

use self::operation::{Answer, Operation};
use super::{CLUSTER, fork};

/// Our own name.
const US: &str = "us";
/// Operations drawn from one input.
const OPERATIONS_MAX: usize = 100;
/// Bytes by which a datagram may pass the packing budget: a part's length and a checksum.
const BUDGET_EXCESS: usize = 7;
/// Deadlines that can come in the longest time that passes at once; more is a loop without end.
const DEADLINES_MAX: usize = 20_000;

/// Draws operations from `input` and carries them out.
pub fn run(input: &[u8]) {
    let mut source = Unstructured::new(input);
    let (Ok(switches), Ok(seed)) = (source.arbitrary(), source.arbitrary::<u8>()) else {
        return;
    };
    let mut bench = Bench::new(switches, seed.into());
    for _ in 0..OPERATIONS_MAX {
        if source.is_empty() {
            return;
        }
        let Ok(operation) = source.arbitrary() else {
            return;
        };
        bench.carry_out(operation);
    }
}

/// Settings from a byte: small bounds are met sooner, and every profile has its turn.
fn config(switches: u8, seed: u64) -> Config {
    let on = |bit: u8| switches & (1 << bit) != 0;
    let mut config = Config::lan(US, operation::address(1).ip());
    config.cluster_name = CLUSTER.to_owned();
    // Most of the time a run takes goes into rounds of gossip.
    config.gossip_interval = Duration::from_millis(700);
    config.gossip_messages = 3;
    config.seed = seed;
    config.accept_missing_cluster_name = on(0);
    config.compression = on(1);
    if on(2) {
        config.members_max = 4;
    }
    if on(3) {
        config.profile = Profile::HashiCorp;
    }
    if on(4) {
        config.udp_buffer_size = 9000;
    }
    if on(5) {
        config.broadcasts_max = 3;
    }
    if on(6) {
        config.dead_node_reclaim = Duration::ZERO;
    }
    if on(7) {
        config.meta = Bytes::from(vec![b'm'; 512]);
    }
    config
}

/// A node, the moment it is in, and what must follow from what was seen of it.
struct Bench {
    node: Node,
    now: Instant,
    leaving: bool,
    /// Members by the events so far.
    live: BTreeSet<String>,
    /// What [`Node::members`] was, and its version.
    members: Vec<Member>,
    members_version: u64,
    incarnation: u32,
    pauses: u64,
    /// The last ping that was sent, and the last state exchange that was asked for.
    pinged: Option<(SocketAddr, u32)>,
    exchange: Option<SocketAddr>,
}

impl Bench {
    fn new(switches: u8, seed: u64) -> Self {
        let now = Instant::now();
        let node = Node::new(config(switches, seed), now).expect("the settings are valid");
        let mut bench = Self {
            members_version: node.members_version(),
            members: node.members(),
            node,
            now,
            leaving: false,
            live: BTreeSet::new(),
            incarnation: 1,
            pauses: 0,
            pinged: None,
            exchange: None,
        };
        bench.settle();
        bench
    }

    fn carry_out(&mut self, operation: Operation) {
        match operation {
            Operation::Datagram { from, bytes } => self.receive(from, &bytes),
            Operation::Say { from, said, wrap } => {
                let datagram = operation::datagram(&said, wrap, &self.node);
                self.receive(from, &datagram);
            }
            Operation::Merge { join, known, state } => {
                let table = operation::table(join, &known, state, &self.node);
                self.check_our_side(join);
                // Whether versions fit is up to the input.
                let _ = self.node.merge(self.now, table, join);
            }
            Operation::Pass { time } => {
                self.pass(Duration::from_millis(u64::from(time).pow(2) / 2));
            }
            Operation::Step => {
                self.now = self.node.poll_timeout().expect("timers are armed");
                self.node.handle_timeout(self.now);
            }
            Operation::Pause { seconds } => self.pause(Duration::from_secs(seconds.into())),
            Operation::Answer(answer) => self.answer(answer),
            Operation::Exchanged { merged } => {
                if let Some(to) = self.exchange.take() {
                    self.node.handle_exchange_result(to, merged);
                }
            }
            Operation::Broadcast { key, length } => {
                let payload = Bytes::from(vec![b'b'; length.into()]);
                self.node.note_time(self.now);
                self.node.broadcast(key.map(|key| key.to_string()), payload);
            }
            Operation::Seed { at } => {
                self.node.add_seeds(self.now, &[operation::address(at)]);
            }
            Operation::Leave => {
                self.leaving = true;
                self.node.leave(self.now);
            }
        }
        self.settle();
    }

    /// A datagram comes in; what goes out because of it has a bound.
    fn receive(&mut self, from: u8, datagram: &[u8]) {
        let from = operation::address(from);
        let _ = self.node.handle_datagram(self.now, from, datagram);
        let config = self.node.config();
        let datagrams_max = 4 + self.members.len() + config.gossip_nodes;
        let bytes_max = datagrams_max * (config.udp_buffer_size + BUDGET_EXCESS)
            + config.eager_bytes_per_interval;
        assert!(self.settle() <= bytes_max);
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..DEADLINES_MAX {
            let next = self.node.poll_timeout().expect("timers are armed");
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            self.node.handle_timeout(self.now);
            self.settle();
        }
        panic!("deadlines without end");
    }

    fn pause(&mut self, time: Duration) {
        let late = self.node.counters().late_wakeups;
        self.now += time;
        self.node.handle_timeout(self.now);
        self.pauses += self.node.counters().late_wakeups - late;
    }

    fn answer(&mut self, answer: Answer) {
        let Some((from, seq_no)) = self.pinged else {
            return;
        };
        match answer {
            Answer::Unsent => self.node.handle_send_error(self.now, from),
            Answer::Stream => self.node.handle_tcp_ack(seq_no),
            Answer::Ack | Answer::Nack => {
                let datagram = operation::reply(answer == Answer::Ack, seq_no);
                let _ = self.node.handle_datagram(self.now, from, &datagram);
            }
        }
    }

    /// Takes what comes out and checks everything. Returns the bytes of the datagrams sent.
    fn settle(&mut self) -> usize {
        let mut bytes = 0;
        while let Some(transmit) = self.node.poll_transmit() {
            bytes += transmit.bytes.len();
            self.check_transmit(&transmit);
        }
        let mut requests = 0;
        while let Some(request) = self.node.poll_stream_request() {
            requests += 1;
            match request {
                StreamRequest::PushPull { to, .. } => self.exchange = Some(to),
                StreamRequest::Ping { ping, .. } => assert_ne!(ping.node, US),
                StreamRequest::User { payload, .. } => {
                    assert!(payload.len() <= STREAM_USER_BYTES_MAX);
                }
            }
        }
        assert!(requests <= 16, "{requests} requests at once");
        while let Some(event) = self.node.poll_event() {
            self.follow(event);
        }
        self.check_members();
        self.check_ourselves();
        self.check_bounds();
        bytes
    }

    /// Members come, change and go in this order only.
    fn follow(&mut self, event: Event) {
        match event {
            Event::Joined(member) => assert!(self.live.insert(member.name), "joined twice"),
            Event::Updated(member) => assert!(self.live.contains(&member.name)),
            Event::Left(member) => {
                assert!(matches!(member.state, NodeState::Dead | NodeState::Left));
                assert!(self.live.remove(&member.name), "left twice");
            }
            Event::Conflict {
                existing, claimed, ..
            } => assert_ne!(existing, claimed),
            Event::Message(_) | Event::RemoteState { .. } => {}
        }
    }

    fn check_transmit(&mut self, transmit: &Transmit) {
        let config = self.node.config();
        assert!(transmit.bytes.len() <= config.udp_buffer_size + BUDGET_EXCESS);
        assert_ne!(transmit.to.port(), 0);
        if let Err(problem) = fork::check_datagram(&transmit.bytes, CLUSTER) {
            panic!("the fork would not take {:?}: {problem}", transmit.bytes);
        }
        let decoded = decode_packet(&transmit.bytes, &config.cluster_filter());
        assert_eq!(decoded.errors, []);
        for message in &decoded.messages {
            match message {
                Message::Ping(ping) => self.pinged = Some((transmit.to, ping.seq_no)),
                Message::Suspect(suspect) => {
                    assert_ne!(suspect.node, US);
                    assert_ne!(suspect.incarnation, 0);
                }
                Message::Dead(dead) => {
                    assert!(dead.node != US || self.leaving && dead.from == US);
                    assert_ne!(dead.incarnation, 0);
                }
                Message::Alive(alive) if alive.node == US => {
                    assert_eq!(alive.addr.ip(), config.advertise);
                }
                _ => {}
            }
        }
    }

    fn check_members(&mut self) {
        let members = self.node.members();
        assert!(members.is_sorted_by(|a, b| a.name < b.name));
        assert!(members.len() <= self.node.config().members_max);
        assert!(members.iter().map(|member| &member.name).eq(&self.live));
        let version = self.node.members_version();
        assert!(version >= self.members_version);
        if members != self.members {
            assert!(version > self.members_version, "changed without a sign");
        }
        (self.members, self.members_version) = (members, version);
    }

    /// We are alive until we leave, and our clock never goes back.
    fn check_ourselves(&mut self) {
        let Some(ourselves) = self.node.member(US) else {
            assert!(self.leaving);
            return;
        };
        let expected = if self.leaving {
            NodeState::Left
        } else {
            NodeState::Alive
        };
        assert_eq!(ourselves.state, expected);
        assert!(ourselves.incarnation >= self.incarnation);
        assert_eq!(ourselves.addr.ip(), self.node.config().advertise);
        self.incarnation = ourselves.incarnation;
    }

    fn check_bounds(&self) {
        let (node, config) = (&self.node, self.node.config());
        assert!(node.membership_queue_len() <= config.members_max);
        assert!(node.user_queue_len() <= config.broadcasts_max);
        assert!(node.health_score() < config.awareness_max_multiplier);
        let late = node.counters().late_wakeups;
        assert_eq!(late, self.pauses, "there was no pause");
        let next = node.poll_timeout().expect("timers are armed");
        let queued = node.membership_queue_len() + node.user_queue_len() > 0;
        let longest = if queued {
            config.gossip_interval
        } else {
            config.probe_interval
        };
        assert!(next <= self.now + longest);
    }

    /// Our side of a state exchange is one that every peer can read.
    fn check_our_side(&self, join: bool) {
        let mut ours = self.node.push_pull(join);
        assert!(ours.nodes.iter().all(|node| node.incarnation > 0));
        let filter = self.node.config().cluster_filter();
        for node in &mut ours.nodes {
            if node.state == NodeState::Left {
                // The fork has no such state; only peers of the other generation are told.
                assert_eq!(self.node.config().profile, Profile::HashiCorp);
                node.state = NodeState::Dead;
            }
        }
        let message = StreamMessage::PushPull(ours);
        let stream = memberlist::wire::encode_stream(&message, CLUSTER, false);
        if let Err(problem) = fork::check_stream(&stream, CLUSTER) {
            panic!("the fork would not take {message:?}: {problem}");
        }
        let mut decoder = StreamDecoder::new(filter);
        assert!(decoder.feed(&stream).is_ok());
        assert_eq!(decoder.skipped_entries(), 0);
    }
}
