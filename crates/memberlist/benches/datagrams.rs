//! What a datagram costs: processor time and allocations to decode it, let the node handle it and encode
//! what follows, by kind. Prints numbers and judges nothing.
//!
//! ```text
//! cargo bench -p memberlist --bench datagrams
//! ```
#![allow(clippy::print_stdout, reason = "a bench prints its numbers")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use memberlist::node::{Config, Node};
use memberlist::wire::message::{
    Ack, Alive, Dead, IndirectPing, Message, Nack, Ping, RawIp, Suspect, Versions,
};
use memberlist::wire::{PacketBuilder, encode_message};

/// Other members of the cluster.
const MEMBERS: u32 = 100;
/// Datagrams measured per kind.
const DATAGRAMS: u32 = 100_000;

fn main() {
    println!("{MEMBERS} members, {DATAGRAMS} datagrams each");
    println!("kind                        bytes      ns  allocations  bytes allocated");
    measure("ping", &|at| vec![ping(at)], false);
    measure("indirect ping", &|at| vec![indirect_ping(at)], false);
    measure("ack, nobody waits", &|at| vec![ack(at)], false);
    measure("nack, nobody waits", &|at| vec![nack(at)], false);
    measure("alive, known", &|at| vec![alive(at % MEMBERS, 1)], false);
    measure(
        "alive, newer",
        &|at| vec![alive(at % MEMBERS, 2 + at)],
        false,
    );
    measure(
        "suspect, older",
        &|at| vec![suspect(at % MEMBERS, 0)],
        false,
    );
    measure("suspect, then alive", &|at| accused(at), false);
    measure(
        "dead, then alive",
        &|at| vec![dead(at), alive(at % MEMBERS, 2 + at)],
        false,
    );
    measure(
        "ping in a lively cluster",
        &|at| vec![ping(at), alive(at / 8 % MEMBERS, 2 + at / 8)],
        false,
    );
    measure("user message of 300 bytes", &|_| vec![user()], false);
    let news = |at: u32| (0..12).map(|i| alive((at + i) % MEMBERS, 2 + at)).collect();
    measure("12 newer alives", &news, false);
    measure("12 newer alives, packed", &news, true);
}

/// Datagrams come one per millisecond; the gossip rounds in between count, too.
fn measure(kind: &str, messages: &dyn Fn(u32) -> Vec<Message>, compress: bool) {
    let mut node = node();
    let now = Instant::now();
    let datagrams: Vec<Vec<u8>> = (0..DATAGRAMS)
        .map(|at| {
            let mut packet = PacketBuilder::new();
            for message in messages(at) {
                packet.push(&encode_message(&message, "default"));
            }
            packet.finish(compress, false)
        })
        .collect();
    let begin = Instant::now();
    let before = processor_time(begin);
    let info = allocation_counter::measure(|| {
        for (at, datagram) in (0_u32..).zip(&datagrams) {
            handle(
                &mut node,
                now + Duration::from_millis(u64::from(at)),
                datagram,
            );
        }
    });
    let took = processor_time(begin).saturating_sub(before);
    let each = |total: u64| total as f64 / f64::from(DATAGRAMS);
    println!(
        "{kind:26} {:6} {:7.0} {:12.1} {:16.0}",
        datagrams.first().map_or(0, Vec::len),
        took.as_nanos() as f64 / f64::from(DATAGRAMS),
        each(info.count_total),
        each(info.bytes_total),
    );
}

/// What this thread has had of the processor: what others do on the machine does not count. Wall
/// time where the system does not tell.
fn processor_time(begin: Instant) -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = told.and_then(|line| line.split(' ').next()?.parse().ok());
    nanos.map_or_else(|| begin.elapsed(), Duration::from_nanos)
}

/// One datagram in, everything that follows out.
fn handle(node: &mut Node, now: Instant, datagram: &[u8]) {
    let from = SocketAddr::from(([10, 0, 0, 1], 7946));
    node.handle_datagram(now, from, datagram);
    if node.poll_timeout().is_some_and(|at| at <= now) {
        node.handle_timeout(now);
    }
    while let Some(transmit) = node.poll_transmit() {
        std::hint::black_box(transmit);
    }
    while let Some(event) = node.poll_event() {
        std::hint::black_box(event);
    }
}

/// A node that knows all members and whose own queue is empty. It does not probe.
fn node() -> Node {
    let mut config = Config::lan("bench", IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1)));
    config.push_pull_interval = Duration::ZERO;
    config.rejoin_interval = Duration::ZERO;
    config.probe_interval = Duration::ZERO;
    let start = Instant::now() - Duration::from_secs(30);
    let mut node = match Node::new(config, start) {
        Ok(node) => node,
        Err(error) => panic!("valid settings: {error}"),
    };
    for id in 0..MEMBERS {
        let bytes = encode_message(&alive(id, 1), "default");
        handle(&mut node, start, &bytes);
    }
    // Gossip until everything has been said.
    while let Some(at) = node.poll_timeout() {
        node.handle_timeout(at);
        while node.poll_transmit().is_some() {}
        if node.membership_queue_len() == 0 {
            break;
        }
    }
    node
}

fn name(id: u32) -> String {
    format!("node-{id:03}")
}

fn addr(id: u32) -> RawIp {
    RawIp::V4([10, 0, 0, id as u8])
}

fn ping(at: u32) -> Message {
    Message::Ping(Ping {
        seq_no: at,
        node: "bench".to_owned(),
        source: None,
    })
}

fn indirect_ping(at: u32) -> Message {
    Message::IndirectPing(IndirectPing {
        seq_no: at,
        target: addr(at % MEMBERS),
        port: 7946,
        node: name(at % MEMBERS),
        nack: true,
        source: None,
    })
}

fn ack(at: u32) -> Message {
    Message::Ack(Ack {
        seq_no: at,
        payload: Bytes::new(),
    })
}

fn nack(at: u32) -> Message {
    Message::Nack(Nack { seq_no: at })
}

fn alive(id: u32, incarnation: u32) -> Message {
    Message::Alive(Alive {
        incarnation,
        node: name(id),
        addr: addr(id),
        port: 7946,
        meta: Bytes::from_static(br#"{"ClusterName":"default","State":"Running"}"#),
        versions: Versions::OURS,
    })
}

fn suspect(id: u32, incarnation: u32) -> Message {
    Message::Suspect(Suspect {
        incarnation,
        node: name(id),
        from: name(MEMBERS),
    })
}

fn accused(at: u32) -> Vec<Message> {
    vec![suspect(at % MEMBERS, 1 + at), alive(at % MEMBERS, 2 + at)]
}

fn dead(at: u32) -> Message {
    Message::Dead(Dead {
        incarnation: 1 + at,
        node: name(at % MEMBERS),
        from: name(MEMBERS),
    })
}

fn user() -> Message {
    Message::User(Bytes::from(vec![b'u'; 300]))
}
