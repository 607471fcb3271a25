//! Failure detection: rounds, relays, suspicion, pauses.

use std::collections::BTreeMap;

use super::*;
use crate::wire::message::{Ack, IndirectPing, Nack, Ping, Source};

/// Probing alone.
fn probing() -> Bench {
    Bench::with(|config| {
        config.gossip_interval = Duration::ZERO;
        config.push_pull_interval = Duration::ZERO;
        config.rejoin_interval = Duration::ZERO;
        config.eager_bytes_per_interval = 0;
    })
}

/// Runs to the next ping and says to whom, with all that came in its datagram.
fn next_ping(bench: &mut Bench) -> (SocketAddr, u32, Vec<Message>) {
    loop {
        bench.step();
        for (to, parts) in bench.transmits() {
            if let Message::Ping(ping) = &parts[0] {
                return (to, ping.seq_no, parts);
            }
        }
    }
}

fn ack(seq_no: u32) -> Message {
    Message::Ack(Ack {
        seq_no,
        payload: Bytes::new(),
    })
}

fn ping(node: &str, source: Option<Source>) -> Message {
    Message::Ping(Ping {
        seq_no: 7,
        node: node.to_owned(),
        source,
    })
}

fn indirect(seq_no: u32, id: u8, nack: bool) -> Message {
    Message::IndirectPing(IndirectPing {
        seq_no,
        target: RawIp::from(address(id).ip()),
        port: 7946,
        node: format!("n{id}"),
        nack,
        source: None,
    })
}

#[test]
fn every_live_member_is_probed_once_per_cycle_in_changing_order() {
    let mut bench = probing();
    bench.fill(10);
    bench.receive(&dead("n4", 1, "n9"));
    bench.receive(&dead("n5", 1, "n5"));
    let mut cycle = || -> Vec<SocketAddr> {
        (0..7)
            .map(|_| {
                let (to, seq_no, _) = next_ping(&mut bench);
                bench.receive(&ack(seq_no));
                to
            })
            .collect()
    };
    let first_cycle = cycle();
    let second_cycle = cycle();
    for cycle in [&first_cycle, &second_cycle] {
        let mut probed = cycle.clone();
        probed.sort();
        assert_eq!(probed, [2, 3, 6, 7, 8, 9, 10].map(address));
    }
    assert_ne!(first_cycle, second_cycle);
}

#[test]
fn newcomers_are_spread_over_the_probe_order() {
    let mut places: BTreeMap<usize, u32> = BTreeMap::new();
    for seed in 0..400 {
        let mut bench = Bench::with(|config| config.seed = seed);
        bench.fill(5);
        let mut order = bench.node.table.in_probe_order();
        let place = order.position(|entry| entry.name == "n5");
        *places.entry(place.expect("listed")).or_default() += 1;
    }
    assert_eq!(places.len(), 5);
    assert!(
        places.values().all(|count| (50..=110).contains(count)),
        "{places:?}"
    );
}

#[test]
fn an_early_ack_ends_the_round_without_bothering_others() {
    let mut bench = probing();
    bench.fill(5);
    let (_, seq_no, _) = next_ping(&mut bench);
    bench.pass(MS * 99);
    bench.receive(&ack(seq_no));
    bench.receive(&ack(seq_no));
    bench.pass(MS * 800);
    assert_eq!((bench.transmits(), bench.requests()), (vec![], vec![]));
    assert_eq!(bench.node.counters().probes_succeeded, 1);
    assert_eq!(bench.node.counters().acks_unknown, 1, "the second");
}

/// What of all this is not a ping for `target` alone.
fn others(
    target: SocketAddr,
    sent: Vec<(SocketAddr, Vec<Message>)>,
) -> Vec<(SocketAddr, Vec<Message>)> {
    let alone = |(to, parts): &(SocketAddr, Vec<Message>)| {
        *to == target && matches!(parts[..], [Message::Ping(_)])
    };
    sent.into_iter().filter(|sent| !alone(sent)).collect()
}

#[test]
fn a_ping_that_may_be_lost_is_repeated_until_the_round_ends() {
    let mut bench = probing();
    bench.fill(5);
    let (target, seq_no, _) = next_ping(&mut bench);
    let again = Message::Ping(Ping {
        seq_no,
        node: format!("n{}", (2..=5).find(|id| address(*id) == target).unwrap()),
        source: None,
    });
    for _ in 1..=4 {
        bench.pass(MS * 99);
        assert_eq!(bench.transmits(), []);
        bench.pass(MS);
        assert_eq!(bench.transmits(), [(target, vec![again.clone()])]);
    }
    bench.pass(MS * 599);
    let sent = bench.transmits();
    assert_eq!(others(target, sent.clone()).len(), 3, "the relays");
    assert_eq!(sent.len(), 3 + 5);
    assert_eq!(bench.node.counters().pings_repeated, 9);
    bench.receive(&ack(seq_no));
    assert_eq!(bench.node.counters().probes_succeeded, 1);
    assert_eq!(bench.node.health_score(), 0);
}

#[test]
fn a_silent_target_is_asked_through_others_and_by_stream() {
    let mut bench = probing();
    bench.fill(9);
    let mut old = alive(3, 2);
    old.versions = Versions([1, 3, 2, 0, 0, 0]);
    bench.receive(&Message::Alive(old));
    bench.receive(&dead("n4", 1, "x"));
    let (target, seq_no, _) = next_ping(&mut bench);
    let began = bench.now;
    bench.pass(MS * 500);
    let mut relays = Vec::new();
    for (to, parts) in others(target, bench.transmits()) {
        let Message::IndirectPing(request) = &parts[0] else {
            panic!("{parts:?}")
        };
        assert_eq!((request.seq_no, request.target.ip()), (seq_no, target.ip()));
        assert_eq!(
            request.nack,
            to != address(3),
            "only from relays that know nacks"
        );
        relays.push(to);
    }
    relays.sort();
    relays.dedup();
    assert_eq!(relays.len(), 3);
    for excluded in [target, address(1), address(4)] {
        assert!(!relays.contains(&excluded), "{excluded}");
    }
    let requests = bench.requests();
    let [StreamRequest::Ping { to, ping, deadline }] = &requests[..] else {
        panic!("{requests:?}")
    };
    assert_eq!((*to, ping.seq_no), (target, seq_no));
    assert_eq!(
        *deadline,
        began + Duration::from_secs(1),
        "not later than the round"
    );
    bench.receive(&ack(seq_no));
    assert_eq!(
        bench.node.counters().probes_succeeded,
        1,
        "a relayed ack is as good"
    );
    assert_eq!(bench.node.counters().suspicions, 0);
}

/// Lets the first round of a cluster of `count` run out, with `nacks` on the way. The score after.
fn failed_round(count: u8, nacks: u32, score: u32) -> (Bench, u32) {
    let mut bench = probing();
    bench.fill(count);
    bench.node.awareness.apply(score as i32);
    let (_, seq_no, _) = next_ping(&mut bench);
    bench.pass(MS * 600);
    for _ in 0..nacks {
        bench.receive(&Message::Nack(Nack { seq_no }));
    }
    while bench.node.counters().probes_failed == 0 {
        bench.step();
    }
    let score = bench.node.health_score();
    (bench, score)
}

#[test]
fn a_failed_round_is_blamed_on_us_as_far_as_relays_are_silent() {
    // members, nacks, score before, score after
    let rows = [
        (2, 0, 0, 1),
        (9, 0, 0, 3),
        (9, 1, 0, 2),
        (9, 3, 0, 0),
        (9, 4, 0, 0),
        (3, 0, 0, 1),
        (3, 1, 0, 0),
        (9, 0, 6, 7),
    ];
    for (count, nacks, before, after) in rows {
        let (bench, score) = failed_round(count, nacks, before);
        assert_eq!(
            score, after,
            "{count} members, {nacks} nacks, from {before}"
        );
        assert_eq!(bench.node.counters().suspicions, 1);
    }
}

#[test]
fn poor_health_stretches_the_round_but_not_the_wait_for_the_first_ack() {
    let mut bench = probing();
    bench.fill(5);
    bench.node.awareness.apply(3);
    let (target, _, _) = next_ping(&mut bench);
    bench.pass(MS * 499);
    assert_eq!(others(target, bench.transmits()), []);
    bench.pass(MS);
    assert_eq!(others(target, bench.transmits()).len(), 3);
    bench.pass(MS * 3499);
    assert_eq!(bench.node.counters().probes_failed, 0);
    let sent = others(target, bench.transmits());
    assert_eq!(sent, [], "ticks during the round wait");
    bench.pass(MS);
    assert_eq!(bench.node.counters().probes_failed, 1);
    let pings = bench.transmits();
    assert_eq!(
        pings.len(),
        1,
        "and come to one round right after: {pings:?}"
    );
}

#[test]
fn an_answer_by_stream_alone_is_a_success_worth_a_warning() {
    let mut bench = probing();
    bench.fill(5);
    let (_, seq_no, _) = next_ping(&mut bench);
    bench.pass(MS * 600);
    bench.node.handle_tcp_ack(seq_no.wrapping_add(1));
    bench.node.handle_tcp_ack(seq_no);
    bench.pass(MS * 400);
    let counters = bench.node.counters();
    assert_eq!(counters.probes_answered_by_tcp_only, 1);
    assert_eq!((counters.suspicions, bench.node.health_score()), (0, 0));
}

#[test]
fn an_unsendable_ping_goes_through_others_at_once() {
    let mut bench = probing();
    bench.fill(5);
    let (target, seq_no, _) = next_ping(&mut bench);
    bench.node.awareness.apply(2);
    bench.node.handle_send_error(bench.now, target);
    bench.node.handle_send_error(bench.now, target);
    assert_eq!(bench.transmits().len(), 3);
    bench.receive(&ack(seq_no));
    assert_eq!(
        bench.node.health_score(),
        2,
        "no credit for a path that does not work"
    );
}

#[test]
fn a_suspect_is_told_in_its_ping() {
    let mut bench = probing();
    bench.fill(2);
    bench.receive(&suspect("n2", 1, "n9"));
    let (to, _, parts) = next_ping(&mut bench);
    assert_eq!(to, address(2));
    assert_eq!(parts.len(), 2);
    assert_eq!(parts[1], suspect("n2", 1, "us"));
}

#[test]
fn whoever_could_not_reach_a_suspect_reminds_it_until_it_refutes() {
    let mut bench = Bench::quiet();
    bench.node.config.probe_interval = Duration::from_secs(1);
    bench.node.config.probe_timeout = MS * 500;
    bench.fill(3);
    bench.receive(&suspect("n3", 1, "n9"));
    bench.transmits();
    // Our own round with n2 fails; n3 is somebody else's to remind.
    bench.node.start_probe(bench.now, "n2".to_owned());
    bench.pass(MS * 1000);
    assert_eq!(bench.state("n2"), Some((NodeState::Suspect, 1)));
    bench.transmits();
    let told = |messages: &[Message]| matches!(messages, [Message::Suspect(s)] if (&*s.node, &*s.from, s.incarnation) == ("n2", "us", 1));
    for _ in 0..3 {
        bench.pass(MS * 999);
        assert_eq!(bench.transmits(), []);
        bench.pass(MS);
        let sent = bench.transmits();
        assert!(
            matches!(&sent[..], [(to, messages)] if *to == address(2) && told(messages)),
            "{sent:?}"
        );
    }
    assert_eq!(bench.node.counters().suspects_reminded, 3);
    bench.receive(&Message::Alive(alive(2, 2)));
    bench.transmits();
    bench.pass(MS * 1100);
    assert_eq!(bench.transmits(), [], "cleared");
}

#[test]
fn few_suspects_are_reminded_however_many_there_are() {
    let mut bench = Bench::with(|config| {
        config.gossip_interval = Duration::ZERO;
        config.push_pull_interval = Duration::ZERO;
        config.rejoin_interval = Duration::ZERO;
        config.eager_bytes_per_interval = 0;
        config.awareness_max_multiplier = 1;
    });
    bench.node.config.probe_interval = Duration::from_secs(1);
    bench
        .node
        .timers
        .cancel(&super::super::timers::Timer::ProbeTick);
    bench.fill(20);
    bench.transmits();
    for id in 2..=20 {
        bench.node.start_probe(bench.now, format!("n{id}"));
        bench.pass(MS * 1000);
    }
    bench.transmits();
    let before = bench.node.counters().suspects_reminded;
    bench.pass(MS * 1000);
    assert_eq!(bench.node.counters().suspects_reminded - before, 4);
}

#[test]
fn a_ping_is_answered_to_whom_it_may_concern() {
    let from = |last, node: &str| {
        Some(Source {
            addr: RawIp::from(address(last).ip()),
            port: 7000,
            node: node.to_owned(),
        })
    };
    let at = |last| SocketAddr::new(address(last).ip(), 7000);
    // The datagram comes from 10.0.0.99:7946; n2 is a member at 10.0.0.2:7946.
    let rows = [
        (ping("us", None), Some(address(99))),
        (ping("", None), Some(address(99))),
        (ping("someone else", None), None),
        (ping("us", from(99, "")), Some(at(99))),
        (ping("us", from(66, "n2")), Some(address(99))),
        (ping("us", from(2, "n2")), Some(address(99))),
        (
            ping(
                "us",
                Some(Source {
                    addr: RawIp::from(address(2).ip()),
                    port: 7946,
                    node: "n2".to_owned(),
                }),
            ),
            Some(address(2)),
        ),
    ];
    for (message, expected) in rows {
        let mut bench = Bench::quiet();
        bench.fill(2);
        bench.receive(&message);
        let to = bench.transmits().first().map(|(to, _)| *to);
        assert_eq!(to, expected, "{message:?}");
    }
}

#[test]
fn one_datagram_gets_four_replies() {
    let mut bench = Bench::quiet();
    let encoded = encode_message(&ping("us", None), "default");
    let mut packet = crate::wire::PacketBuilder::new();
    for _ in 0..50 {
        assert!(packet.push(&encoded));
    }
    let datagram = packet.finish(false, false);
    bench
        .node
        .handle_datagram(bench.now, address(99), &datagram);
    assert_eq!(bench.transmits().len(), 4);
    assert_eq!(bench.node.counters().requests_over_limit, 46);
}

#[test]
fn a_relay_forwards_the_ack_and_then_says_no_more() {
    let mut bench = Bench::quiet();
    bench.fill(2);
    bench.receive(&indirect(42, 2, true));
    let sent = bench.transmits();
    assert_eq!(sent[0].0, address(2));
    let Message::Ping(relayed) = &sent[0].1[0] else {
        panic!("{sent:?}")
    };
    bench.pass(MS * 399);
    bench.receive(&ack(relayed.seq_no));
    let sent = bench.transmits();
    assert_eq!((sent[0].0, &sent[0].1[0]), (address(99), &ack(42)));
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.transmits(), []);
    assert_eq!(bench.node.timers.len(), 0);
}

#[test]
fn a_relay_says_so_when_the_target_is_silent() {
    for nack in [true, false] {
        let mut bench = Bench::quiet();
        bench.fill(2);
        bench.receive(&indirect(42, 2, nack));
        let sent = bench.transmits();
        let Message::Ping(relayed) = &sent[0].1[0] else {
            panic!("{sent:?}")
        };
        let relayed = relayed.seq_no;
        bench.pass(MS * 399);
        assert_eq!(bench.transmits(), []);
        bench.pass(MS);
        let nacks: Vec<Message> = bench
            .transmits()
            .into_iter()
            .map(|(_, mut parts)| parts.remove(0))
            .collect();
        let expected = [Message::Nack(Nack { seq_no: 42 })];
        assert_eq!(nacks, expected[..usize::from(nack)]);
        bench.pass(MS * 99);
        bench.receive(&ack(relayed));
        assert_eq!(bench.transmits().len(), 1, "a late ack is still passed on");
    }
    let mut bench = Bench::quiet();
    bench.fill(2);
    bench.receive(&indirect(42, 2, false));
    let sent = bench.transmits();
    let Message::Ping(relayed) = &sent[0].1[0] else {
        panic!("{sent:?}")
    };
    let relayed = relayed.seq_no;
    bench.pass(MS * 500);
    bench.receive(&ack(relayed));
    assert_eq!(bench.transmits(), [], "but not one that is too late");
}

#[test]
fn relaying_is_for_members_and_has_a_bound() {
    let mut bench = Bench::quiet();
    bench.receive(&indirect(42, 66, true));
    let sent = bench.transmits();
    assert_eq!(sent.len(), 1);
    assert_eq!(
        (sent[0].0, &sent[0].1[0]),
        (address(99), &Message::Nack(Nack { seq_no: 42 }))
    );
    bench.fill(2);
    for seq_no in 0..1100 {
        bench.receive(&indirect(seq_no, 2, true));
    }
    assert_eq!(bench.node.relays.len(), 1024);
    assert_eq!(bench.node.counters().relays_refused, 1 + 76);
    bench.pass(Duration::from_secs(1));
    assert_eq!((bench.node.relays.len(), bench.node.timers.len()), (0, 0));
}

#[test]
fn confirmations_shorten_the_suspicion_and_are_passed_on_once() {
    let mut bench = Bench::quiet();
    bench.node.config.probe_interval = Duration::from_secs(1);
    bench.fill(10);
    let began = bench.now;
    // accuser, deadline in ms, passed on
    let rows = [
        ("a", 30_000, true),
        ("a", 30_000, false),
        ("b", 17_500, true),
        ("b", 17_500, false),
        ("c", 10_187, true),
        ("d", 5_000, true),
        ("e", 5_000, false),
    ];
    for (from, deadline, passed_on) in rows {
        bench.node.membership.remove(&"n2".to_owned());
        bench.receive(&suspect("n2", 1, from));
        assert_eq!(
            bench.node.poll_timeout(),
            Some(began + MS * deadline),
            "{from}"
        );
        assert_eq!(bench.queued("n2"), passed_on, "{from}");
    }
    bench.events();
    bench.pass(MS * 5000);
    assert_eq!(bench.state("n2"), Some((NodeState::Dead, 1)));
    assert!(matches!(&bench.events()[..], [Event::Left(m)] if m.state == NodeState::Dead));
}

#[test]
fn late_confirmations_end_the_suspicion_and_are_no_pause_of_ours() {
    let mut bench = Bench::quiet();
    bench.node.config.probe_interval = Duration::from_secs(1);
    bench.fill(10);
    bench.receive(&suspect("n2", 1, "a"));
    bench.pass(Duration::from_secs(20));
    bench.events();
    for from in ["b", "c", "d"] {
        bench.receive(&suspect("n2", 1, from));
    }
    assert_eq!(
        bench.node.poll_timeout(),
        Some(bench.now),
        "with these it would have been over long ago"
    );
    bench.step();
    assert_eq!(bench.state("n2"), Some((NodeState::Dead, 1)));
    assert_eq!(bench.node.counters().late_wakeups, 0);
    assert_eq!(bench.node.health_score(), 0);
}

#[test]
fn a_refutation_takes_the_timer_along() {
    let mut bench = Bench::quiet();
    bench.node.config.probe_interval = Duration::from_secs(1);
    bench.fill(3);
    bench.receive(&suspect("n2", 1, "a"));
    bench.pass(MS * 4000);
    bench.receive(&Message::Alive(alive(2, 2)));
    assert_eq!(bench.node.timers.len(), 0);
    bench.receive(&suspect("n2", 2, "a"));
    bench.pass(MS * 4999);
    assert_eq!(
        bench.state("n2"),
        Some((NodeState::Suspect, 2)),
        "a new timer, from its start"
    );
    bench.pass(MS);
    assert_eq!(bench.state("n2"), Some((NodeState::Dead, 2)));
}

#[test]
fn after_a_pause_nobody_is_judged_by_the_silence() {
    let mut bench = probing();
    bench.fill(3);
    bench.receive(&suspect("n2", 1, "a"));
    next_ping(&mut bench);
    // Stopped for twenty seconds, with a round in flight and a suspicion of five.
    bench.now += Duration::from_secs(20);
    bench.node.handle_timeout(bench.now);
    assert_eq!(bench.state("n2"), Some((NodeState::Suspect, 1)));
    assert_eq!(bench.node.counters().probes_failed, 0);
    assert_eq!(bench.node.counters().late_wakeups, 1);
    assert_eq!(bench.node.health_score(), 1);
    let woke = bench.now;
    while bench.state("n2") == Some((NodeState::Suspect, 1)) {
        bench.step();
        for (_, parts) in bench.transmits() {
            if let Message::Ping(ping) = &parts[0]
                && ping.node == "n3"
            {
                bench.receive(&ack(ping.seq_no));
            }
        }
    }
    assert_eq!(
        bench.now - woke,
        Duration::from_secs(10),
        "delayed, but not forgotten"
    );
}

#[test]
fn the_dead_are_forgotten_after_a_while_at_the_end_of_a_cycle() {
    let mut bench = probing();
    bench.fill(4);
    bench.receive(&dead("n2", 1, "n9"));
    let died = bench.now;
    while bench.state("n2").is_some() {
        let (_, seq_no, _) = next_ping(&mut bench);
        bench.receive(&ack(seq_no));
    }
    let kept = bench.now - died;
    let bounds = Duration::from_secs(30)..Duration::from_secs(36);
    assert!(bounds.contains(&kept), "{kept:?}");
}
