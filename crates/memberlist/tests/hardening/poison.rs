//! Tables and announcements that lie, read well-formed: what a node believes of them, and what it
//! then says and remembers.

use std::collections::BTreeSet;

use bytes::Bytes;
use memberlist::node::{Event, StreamRequest};
use memberlist::wire::{
    ClusterFilter, Message, NodeState, PUSH_NODES_MAX, PushNode, RawIp, decode_packet,
    encode_message,
};

use crate::bench::{
    Bench, MS, accusation, address, alive, compound, dead, in_time, loopback, start, suspect, until,
};
use crate::hostile::{acked, ask, entry, exchange, failures, socket, table};

/// `name` at 10.0.0.`last`.
fn at(name: &str, last: u8, incarnation: u32) -> PushNode {
    PushNode {
        addr: RawIp::from(address(last).ip()),
        port: 7946,
        ..entry(name, incarnation)
    }
}

fn in_state(state: NodeState, node: PushNode) -> PushNode {
    PushNode { state, ..node }
}

fn merge(bench: &mut Bench, nodes: Vec<PushNode>) {
    let table = table(nodes, Bytes::new());
    let merged = bench.node.merge(bench.now, table, false);
    merged.expect("versions fit");
}

#[test]
fn r17_no_table_can_kill_us_for_good() {
    let mut bench = Bench::quiet(|_| {});
    bench.fill(3);
    bench.events();
    for state in [NodeState::Suspect, NodeState::Dead, NodeState::Left] {
        for incarnation in [u32::MAX - 1, u32::MAX, u32::MAX] {
            let us = in_state(state, at("us", 1, incarnation));
            merge(&mut bench, vec![us]);
            let member = bench.node.member("us").expect("we are always there");
            assert_eq!(
                (member.state, member.incarnation),
                (NodeState::Alive, u32::MAX)
            );
        }
    }
    assert_eq!(bench.node.counters().far_accusations, 1);
    // What is below our incarnation is old news.
    assert_eq!(bench.node.counters().refutations, 7);
    // Others are not killed by what they could not contradict.
    for state in [NodeState::Suspect, NodeState::Dead, NodeState::Left] {
        merge(&mut bench, vec![in_state(state, at("n2", 2, u32::MAX))]);
    }
    assert_eq!(bench.node.counters().irrefutable_refused, 3);
    let states: Vec<_> = bench.node.members().iter().map(|m| m.state).collect();
    assert_eq!(states, [NodeState::Alive; 3]);
    assert_eq!(bench.events(), []);
    // What is passed on stays one announcement, however often we were accused.
    assert!(bench.node.membership_queue_len() <= 3);
}

#[test]
fn r17_a_thousand_accusations_of_ourselves_make_one_announcement() {
    let mut bench = Bench::quiet(|config| config.gossip_interval = 200 * MS);
    bench.fill(4);
    bench.pass(5000 * MS);
    bench.transmits();
    for incarnation in 1..=1000 {
        let us = in_state(NodeState::Dead, at("us", 1, incarnation));
        merge(&mut bench, vec![us]);
    }
    assert_eq!(bench.node.counters().refutations, 1000);
    assert_eq!(bench.node.membership_queue_len(), 1);
    let mut datagrams = bench.transmits().len();
    bench.pass(5000 * MS);
    datagrams += bench.transmits().len();
    // Four transmits times log10 of five, to three members: no more for a thousand than for one.
    assert!((1..=12).contains(&datagrams), "{datagrams} datagrams");
}

#[test]
fn a_thousand_ghosts_are_believed_probed_and_forgotten_at_our_own_pace() {
    let mut bench = Bench::quiet(|config| {
        config.probe_interval = 100 * MS;
        config.probe_timeout = 50 * MS;
        config.gossip_interval = 1000 * MS;
        config.gossip_to_the_dead = 1000 * MS;
    });
    let ghost = |number: u32| PushNode {
        addr: RawIp::V4([10, 66, (number >> 8) as u8, number as u8]),
        ..entry(&format!("ghost-{number}"), 1)
    };
    merge(&mut bench, (0..1000).map(ghost).collect());
    assert_eq!(bench.node.members().len(), 1001);
    assert_eq!(bench.events().len(), 1001, "our own and theirs");
    let (mut seconds, mut most) = (0, 0);
    while bench.node.push_pull(false).nodes.len() > 1 {
        seconds += 1;
        assert!(seconds < 7200, "{} left", bench.node.members().len());
        bench.pass(1000 * MS);
        let sent = bench.transmits().len();
        most = most.max(sent);
        // Ten rounds of a ping, three requests and four reminders of suspects; a gossip round of 15
        // packets to 3 members.
        assert!(sent <= 10 * 8 + 15 * 3, "{sent} datagrams in a second");
        assert!(bench.requests().len() <= 10 + 1);
        assert!(bench.node.membership_queue_len() <= 1001);
    }
    assert!(most > 0);
    let left = bench.events();
    assert_eq!(left.len(), 1000);
    assert!(left.iter().all(|event| matches!(event, Event::Left(_))));
}

/// A partition may be long, so the dead are looked for where they were; but not all there ever were.
#[test]
fn of_a_thousand_forgotten_members_256_are_looked_for() {
    let mut bench = Bench::quiet(|config| {
        config.probe_interval = 10 * MS;
        config.gossip_to_the_dead = 10 * MS;
        config.rejoin_interval = 1000 * MS;
    });
    for number in 0..1000_u32 {
        let mut ghost = alive(2, 1);
        ghost.node = format!("ghost-{number}");
        ghost.addr = RawIp::V4([10, 66, (number >> 8) as u8, number as u8]);
        let death = dead(&ghost.node, 1, "n3");
        bench.receive(&Message::Alive(ghost));
        bench.receive(&death);
    }
    bench.pass(500 * MS);
    assert_eq!(
        bench.node.push_pull(false).nodes.len(),
        1,
        "all are forgotten"
    );
    bench.requests();
    let mut tried = BTreeSet::new();
    for _ in 0..1500 {
        bench.pass(1000 * MS);
        let requests = bench.requests();
        assert!(requests.len() <= 6, "{requests:?}");
        tried.extend(requests.into_iter().map(|request| match request {
            StreamRequest::PushPull {
                to, join: false, ..
            } => to,
            other => panic!("{other:?}"),
        }));
        bench.transmits();
    }
    assert_eq!(tried.len(), 256);
}

#[test]
fn r25_two_addresses_for_a_name_leave_the_first_and_are_reported_now_and_then() {
    let mut bench = Bench::quiet(|_| {});
    // In one table, and against what is known.
    merge(
        &mut bench,
        vec![at("n2", 2, 1), at("n2", 3, 9), at("us", 4, 9)],
    );
    let first = bench.node.member("n2").expect("known");
    assert_eq!((first.addr, first.incarnation), (address(2), 1));
    let us = bench.node.member("us").expect("known");
    assert_eq!(us.addr, address(1));
    for incarnation in 1..=1000 {
        merge(&mut bench, vec![at("n2", 5, incarnation)]);
    }
    assert_eq!(bench.node.counters().conflicts, 1002);
    let conflicts = |bench: &mut Bench| {
        let names = bench.events().into_iter().filter_map(|event| match event {
            Event::Conflict { name, .. } => Some(name),
            _ => None,
        });
        names.collect::<Vec<_>>()
    };
    assert_eq!(conflicts(&mut bench), ["n2", "us"]);
    bench.pass(9_999 * MS);
    merge(&mut bench, vec![at("n2", 5, 1)]);
    assert_eq!(conflicts(&mut bench), Vec::<String>::new());
    bench.pass(MS);
    merge(&mut bench, vec![at("n2", 5, 1), at("n2", 6, 1)]);
    assert_eq!(conflicts(&mut bench), ["n2"]);
}

/// The longest table there may be, on a real connection, to a member that takes a hundred.
#[tokio::test]
async fn r18_a_table_of_65536_fills_the_members_and_no_more() {
    let mut config = loopback("a");
    config.members_max = 100;
    // Only what is sent here is counted.
    config.probe_interval = std::time::Duration::ZERO;
    let (a, _events) = start(config).await;
    let nodes: Vec<PushNode> = (0..PUSH_NODES_MAX)
        .map(|number| entry(&number.to_string(), 1))
        .collect();
    let request = exchange(nodes, Bytes::new(), true);
    let peer = socket().await;
    let flood = async { ask(2, &a, &request).await };
    let pings = async {
        for seq_no in 0..20 {
            acked(&peer, &a, seq_no).await;
        }
    };
    let (reply, ()) = tokio::join!(in_time("the exchange", flood), pings);
    assert_ne!(reply, b"");
    let refused = PUSH_NODES_MAX as u64 - 99;
    until("the merge", || a.stats().node.members_refused == refused).await;
    let stats = a.stats();
    assert_eq!((stats.members, a.members().len()), (100, 100));
    assert_eq!((failures(&stats), stats.entries_skipped), (0, 0));
    assert!(stats.membership_queue <= 100);
    // Those who are in may still say something, and their places are free when they are gone.
    let again = exchange(vec![entry("one more", 1)], Bytes::new(), true);
    assert_ne!(ask(2, &a, &again).await, b"");
    until("one more", || a.stats().node.members_refused == refused + 1).await;
}

#[test]
fn r12_nothing_another_cluster_says_changes_anything() {
    let mut bench = Bench::quiet(|_| {});
    bench.fill(3);
    bench.events();
    let members = bench.node.members();
    for cluster in ["other", "", "Default", "default\0", "defaul", "default "] {
        for message in [
            Message::Alive(alive(4, 1)),
            Message::Alive(alive(2, 9)),
            suspect("n2", 9, "n3"),
            dead("n2", 9, "n3"),
            dead("n3", 9, "n3"),
            dead("us", 9, "n3"),
        ] {
            let bytes = encode_message(&message, cluster);
            let errors = bench.node.handle_datagram(bench.now, address(99), &bytes);
            assert_eq!(errors.len(), 1, "{cluster:?} {message:?}");
        }
    }
    assert_eq!(bench.node.members(), members);
    assert_eq!((bench.events(), bench.transmits()), (vec![], vec![]));
    assert_eq!(bench.node.counters().refutations, 0);
}

/// A container in a container multiplies: what is opened of one datagram has one bound for all.
#[test]
fn r09_containers_in_containers_do_not_multiply() {
    let empty = [7, 0];
    let inner = compound(&[&empty[..]; 255]);
    let outer = compound(&vec![&inner[..]; 60]);
    assert!(outer.len() < 65_000);
    let filter = ClusterFilter {
        name: String::new(),
        accept_missing: false,
    };
    let none = decode_packet(&outer, &filter);
    assert_eq!((none.messages.len(), none.errors.len()), (0, 0));

    let inner = compound(&[&b"\x08x"[..]; 255]);
    let outer = compound(&vec![&inner[..]; 60]);
    let capped = decode_packet(&outer, &filter);
    assert_eq!((capped.messages.len(), capped.errors.len()), (255, 1));

    let truncated = compound(&[&inner[..inner.len() - 1]; 60]);
    let capped = decode_packet(&truncated, &filter);
    assert_eq!((capped.messages.len(), capped.errors.len()), (254, 2));

    // A table of lengths that are all too long, and one that is cut off at each byte.
    let mut hungry = vec![7, 255];
    hungry.extend([0xff; 510]);
    assert_eq!(decode_packet(&hungry, &filter).errors.len(), 1);
    for length in 0..hungry.len() {
        let cut = decode_packet(&hungry[..length], &filter);
        assert_eq!((cut.messages.len(), cut.errors.len()), (0, 1), "{length}");
    }
}

/// A hundred thousand announcements and accusations of names that never repeat.
#[test]
fn r18_a_flood_of_news_is_held_to_the_size_of_the_table() {
    const MEMBERS_MAX: usize = 500;
    const NEWS: u32 = 100_000;
    let mut bench = Bench::quiet(|config| {
        config.members_max = MEMBERS_MAX;
        config.gossip_interval = 200 * MS;
    });
    let mut told = BTreeSet::new();
    for number in (0..NEWS).step_by(4) {
        let name = format!("ghost-{number}");
        let mut ghost = alive(2, 1);
        ghost.node.clone_from(&name);
        let datagram = compound(&[
            &accusation(3, &name, 1, "n2"),
            &encode_message(&Message::Alive(ghost), "default"),
            &accusation(3, &name, 1, "n2"),
            &accusation(5, &name, 1, "n2"),
        ]);
        bench.receive_bytes(&datagram);
        told.extend(bench.transmits().into_iter().map(|transmit| transmit.to));
        bench.events();
        assert!(bench.node.membership_queue_len() <= MEMBERS_MAX);
        if number % 4000 == 0 {
            bench.pass(200 * MS);
        }
    }
    let refused = u64::from(NEWS / 4) - (MEMBERS_MAX as u64 - 1);
    assert_eq!(bench.node.counters().members_refused, refused);
    // Nothing went to anybody but members, and to whoever they said they are.
    assert_eq!(told.into_iter().filter(|to| *to != address(2)).count(), 0);
}
