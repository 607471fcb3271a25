//! One node in a moment, bytes written by hand, and a member on loopback.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use memberlist::node::{Config, Event, Node, StreamRequest, Transmit};
use memberlist::wire::{
    Alive, ClusterFilter, Dead, Message, Ping, RawIp, Suspect, Versions, decode_packet,
    encode_message,
};
use memberlist::{Delegate, Handle};
use tokio::sync::mpsc::Receiver;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const MS: Duration = Duration::from_millis(1);

/// A node called `us` at 10.0.0.1 and the moment it is in.
pub(crate) struct Bench {
    pub(crate) node: Node,
    pub(crate) now: Instant,
}

impl Bench {
    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::lan("us", address(1).ip());
        change(&mut config);
        let now = Instant::now();
        let node = Node::new(config, now).expect("valid settings");
        Self { node, now }
    }

    /// Only what the test itself sets in motion happens.
    pub(crate) fn quiet(change: impl FnOnce(&mut Config)) -> Self {
        Self::with(|config| {
            config.gossip_interval = Duration::ZERO;
            config.probe_interval = Duration::ZERO;
            config.push_pull_interval = Duration::ZERO;
            config.rejoin_interval = Duration::ZERO;
            config.eager_bytes_per_interval = 0;
            change(config);
        })
    }

    /// As a datagram from 10.0.0.99, which must be readable.
    pub(crate) fn receive(&mut self, message: &Message) {
        self.receive_bytes(&encode_message(message, "default"));
    }

    pub(crate) fn receive_bytes(&mut self, datagram: &[u8]) {
        let errors = self.node.handle_datagram(self.now, address(99), datagram);
        assert_eq!(errors, []);
    }

    /// Introduces members `n2`, `n3`, … up to `count` entries with ourselves, and forgets the news.
    pub(crate) fn fill(&mut self, count: u8) {
        for id in 2..=count {
            self.receive(&Message::Alive(alive(id, 1)));
        }
        self.transmits();
    }

    pub(crate) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.node.poll_event()).collect()
    }

    pub(crate) fn requests(&mut self) -> Vec<StreamRequest> {
        std::iter::from_fn(|| self.node.poll_stream_request()).collect()
    }

    pub(crate) fn transmits(&mut self) -> Vec<Transmit> {
        std::iter::from_fn(|| self.node.poll_transmit()).collect()
    }

    /// Lets `time` pass, deadline by deadline.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.node.poll_timeout().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.node.handle_timeout(self.now);
        }
        self.now = end;
        self.node.note_time(end);
    }

    /// Runs to the next probe: whom, its number, and all that came in its datagram.
    pub(crate) fn next_ping(&mut self) -> (SocketAddr, u32, Vec<Message>) {
        loop {
            let next = self.node.poll_timeout().expect("something is due");
            self.now = self.now.max(next);
            self.node.handle_timeout(self.now);
            for transmit in self.transmits() {
                let parts = parts(&transmit);
                if let Message::Ping(ping) = &parts[0] {
                    return (transmit.to, ping.seq_no, parts);
                }
            }
        }
    }
}

/// The messages in a datagram of ours.
pub(crate) fn parts(transmit: &Transmit) -> Vec<Message> {
    let decoded = decode_packet(&transmit.bytes, &filter());
    assert_eq!(decoded.errors, []);
    decoded.messages
}

pub(crate) fn filter() -> ClusterFilter {
    ClusterFilter {
        name: "default".to_owned(),
        accept_missing: false,
    }
}

pub(crate) fn address(last: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), 7946)
}

pub(crate) fn alive(id: u8, incarnation: u32) -> Alive {
    Alive {
        incarnation,
        node: format!("n{id}"),
        addr: RawIp::from(address(id).ip()),
        port: 7946,
        meta: Bytes::new(),
        versions: Versions::OURS,
    }
}

pub(crate) fn ping(seq_no: u32, node: &str) -> Ping {
    Ping {
        seq_no,
        node: node.to_owned(),
        source: None,
    }
}

pub(crate) fn suspect(node: &str, incarnation: u32, from: &str) -> Message {
    Message::Suspect(Suspect {
        incarnation,
        node: node.to_owned(),
        from: from.to_owned(),
    })
}

pub(crate) fn dead(node: &str, incarnation: u32, from: &str) -> Message {
    Message::Dead(Dead {
        incarnation,
        node: node.to_owned(),
        from: from.to_owned(),
    })
}

/// A map with these fields; the values stand as msgpack.
pub(crate) fn map(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = vec![0x80 | u8::try_from(fields.len()).expect("few fields")];
    for (key, value) in fields {
        out.push(0xa0 | u8::try_from(key.len()).expect("short keys"));
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(value);
    }
    out
}

/// A compound as anybody might write it, not only as we do.
pub(crate) fn compound(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = vec![7, u8::try_from(parts.len()).expect("few parts")];
    for part in parts {
        let length = u16::try_from(part.len()).expect("short parts");
        out.extend_from_slice(&length.to_be_bytes());
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// An accusation (3 suspect, 5 dead) as a forger writes it; our own encoder refuses some.
pub(crate) fn accusation(type_id: u8, node: &str, incarnation: u32, from: &str) -> Vec<u8> {
    let text = |text: &str| {
        let length = u8::try_from(text.len()).expect("short names");
        [&[0xa0 | length], text.as_bytes()].concat()
    };
    let body = map(&[
        ("ClusterName", &text("default")),
        ("From", &text(from)),
        (
            "Incarnation",
            &[&[0xce][..], &incarnation.to_be_bytes()].concat(),
        ),
        ("Node", &text(node)),
    ]);
    [&[type_id][..], &body].concat()
}

/// Application state that is always the same.
pub(crate) struct State(pub(crate) &'static str);

impl Delegate for State {
    fn local_state(&self, _join: bool) -> Bytes {
        Bytes::from_static(self.0.as_bytes())
    }
}

/// The LAN profile at ten times the pace, on any free port of 127.0.0.1.
pub(crate) fn loopback(name: &str) -> Config {
    let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let mut config = Config::lan(name, ip);
    config.bind = SocketAddr::new(ip, 0);
    config.gossip_interval = 20 * MS;
    config.probe_interval = 100 * MS;
    config.probe_timeout = 50 * MS;
    config
}

pub(crate) async fn start(config: Config) -> (Handle, Receiver<Event>) {
    start_with(config, Arc::new(State("our state"))).await
}

pub(crate) async fn start_with(
    config: Config,
    delegate: Arc<dyn Delegate>,
) -> (Handle, Receiver<Event>) {
    memberlist::start(config, delegate)
        .await
        .expect("loopback is free")
}

/// The first event that `wanted` turns into something.
pub(crate) async fn event<T>(
    events: &mut Receiver<Event>,
    wanted: impl Fn(Event) -> Option<T>,
) -> T {
    let search = async {
        loop {
            let event = events.recv().await.expect("the member runs");
            if let Some(found) = wanted(event) {
                return found;
            }
        }
    };
    in_time("the event", search).await
}

/// Looks until it is so.
pub(crate) async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let look = async {
        while !so() {
            tokio::time::sleep(MS).await;
        }
    };
    in_time(what, look).await;
}

pub(crate) async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}
