//! The rules of the protocol, one node at a time: what goes in, what comes out.

mod gossiping;
mod hearsay;
mod lazy;
mod probing;
mod syncing;
mod transitions;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Config, Event, Node, StreamRequest};
use crate::wire::message::{
    Alive, Dead, Message, NodeState, PushNode, PushPull, RawIp, Suspect, Versions,
};
use crate::wire::{ClusterFilter, decode_packet, encode_message};

const MS: Duration = Duration::from_millis(1);

/// A node called `us` at 10.0.0.1 and the moment it is in.
struct Bench {
    node: Node,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::lan("us", address(1).ip());
        change(&mut config);
        let now = Instant::now();
        let mut node = Node::new(config, now).expect("valid settings");
        while node.poll_event().is_some() {}
        Self { node, now }
    }

    /// Only what the test itself sets in motion happens.
    fn quiet() -> Self {
        Self::with(|config| {
            config.gossip_interval = Duration::ZERO;
            config.probe_interval = Duration::ZERO;
            config.push_pull_interval = Duration::ZERO;
            config.rejoin_interval = Duration::ZERO;
            config.eager_bytes_per_interval = 0;
        })
    }

    /// As a datagram from 10.0.0.99.
    fn receive(&mut self, message: &Message) {
        if let Message::Suspect(Suspect { incarnation, .. })
        | Message::Dead(Dead { incarnation, .. }) = message
            && *incarnation == u32::MAX
        {
            // Our own encoder refuses to write what nobody could refute.
            self.node
                .handle_message(self.now, address(99), message.borrowed());
            return;
        }
        let bytes = encode_message(message, &self.node.config.cluster_name);
        let errors = self.node.handle_datagram(self.now, address(99), &bytes);
        assert_eq!(errors, []);
    }

    /// Introduces members `n2`, `n3`, … up to `count` entries with ourselves, and sends the news.
    fn fill(&mut self, count: u8) {
        for id in 2..=count {
            self.receive(&Message::Alive(alive(id, 1)));
        }
        self.transmits();
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.node.poll_event()).collect()
    }

    fn requests(&mut self) -> Vec<StreamRequest> {
        std::iter::from_fn(|| self.node.poll_stream_request()).collect()
    }

    /// What is sent, decoded.
    fn transmits(&mut self) -> Vec<(SocketAddr, Vec<Message>)> {
        let filter = ClusterFilter {
            name: self.node.config.cluster_name.clone(),
            accept_missing: false,
        };
        std::iter::from_fn(|| self.node.poll_transmit())
            .map(|transmit| {
                let decoded = decode_packet(&transmit.bytes, &filter);
                assert_eq!(decoded.errors, []);
                (transmit.to, decoded.messages)
            })
            .collect()
    }

    /// Jumps to the next deadline.
    fn step(&mut self) {
        let next = self.node.poll_timeout().expect("something is due");
        self.now = self.now.max(next);
        self.node.handle_timeout(self.now);
    }

    /// Lets `time` pass, deadline by deadline.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.node.poll_timeout().is_some_and(|next| next <= end) {
            self.step();
        }
        self.now = end;
        self.node.note_time(end);
    }

    fn state(&self, name: &str) -> Option<(NodeState, u32)> {
        let member = self.node.member(name)?;
        Some((member.state, member.incarnation))
    }

    /// Whether a message about the node waits to be gossiped.
    fn queued(&self, name: &str) -> bool {
        self.node.membership.contains(&name.to_owned())
    }
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), 7946)
}

fn alive(id: u8, incarnation: u32) -> Alive {
    Alive {
        incarnation,
        node: format!("n{id}"),
        addr: RawIp::from(address(id).ip()),
        port: 7946,
        meta: Bytes::new(),
        versions: Versions::OURS,
    }
}

fn suspect(node: &str, incarnation: u32, from: &str) -> Message {
    Message::Suspect(Suspect {
        incarnation,
        node: node.to_owned(),
        from: from.to_owned(),
    })
}

fn dead(node: &str, incarnation: u32, from: &str) -> Message {
    Message::Dead(Dead {
        incarnation,
        node: node.to_owned(),
        from: from.to_owned(),
    })
}

fn push_node(id: u8, incarnation: u32, state: NodeState) -> PushNode {
    let alive = alive(id, incarnation);
    PushNode {
        name: alive.node,
        addr: alive.addr,
        port: alive.port,
        meta: alive.meta,
        incarnation,
        state,
        versions: alive.versions,
    }
}

fn push_pull(nodes: Vec<PushNode>) -> PushPull {
    PushPull {
        join: false,
        nodes,
        user_state: Bytes::new(),
    }
}
