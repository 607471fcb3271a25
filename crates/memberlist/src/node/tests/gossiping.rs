//! Broadcasts, rounds, leaving and state exchanges.

use std::collections::BTreeSet;

use super::super::gossip::EAGER_MAX;
use super::super::queue::Priority;
use super::super::sync::push_pull_scale;
use super::super::timers::Timer;
use super::*;
use crate::wire::{Key, Keyring};

fn user(payload: &'static [u8]) -> Message {
    Message::User(Bytes::from_static(payload))
}

/// Gossip alone, at its usual pace.
fn gossiping() -> Bench {
    Bench::with(|config| {
        config.probe_interval = Duration::ZERO;
        config.push_pull_interval = Duration::ZERO;
        config.rejoin_interval = Duration::ZERO;
    })
}

#[test]
fn state_exchanges_get_rarer_as_the_cluster_grows() {
    let scales: Vec<u32> = [1, 32, 33, 64, 65, 128, 129, 256, 257]
        .into_iter()
        .map(push_pull_scale)
        .collect();
    assert_eq!(scales, [1, 1, 2, 2, 3, 3, 4, 4, 5]);
}

#[test]
fn a_broadcast_leaves_at_once_and_stays_for_the_rounds() {
    let mut bench = gossiping();
    bench.fill(9);
    bench.pass(Duration::from_secs(5));
    bench.transmits();
    bench.node.broadcast(None, Bytes::from_static(b"news"));
    let sent = bench.transmits();
    let targets: BTreeSet<SocketAddr> = sent.iter().map(|(to, _)| *to).collect();
    assert_eq!(targets.len(), 6, "twice three members while all is calm");
    assert!(
        sent.iter().all(|(_, parts)| parts[..] == [user(b"news")]),
        "and bare"
    );
    assert_eq!(bench.node.user_queue_len(), 1);
    // Nine members: four transmits, one per round, to three members each.
    bench.pass(Duration::from_secs(5));
    let copies = bench
        .transmits()
        .iter()
        .filter(|(_, parts)| parts.contains(&user(b"news")))
        .count();
    assert_eq!(copies, 4 * 3);
    assert_eq!(bench.node.user_queue_len(), 0);
}

#[test]
fn a_newer_broadcast_of_a_key_replaces_the_older() {
    let mut bench = gossiping();
    bench.fill(5);
    bench.transmits();
    for payload in [&b"old"[..], b"new"] {
        bench
            .node
            .broadcast(Some("key".to_owned()), Bytes::from_static(payload));
        bench.node.broadcast(None, Bytes::from_static(payload));
    }
    assert_eq!(bench.node.user_queue_len(), 3);
    bench.transmits();
    bench.pass(Duration::from_secs(5));
    let count = |sent: &[(SocketAddr, Vec<Message>)], payload| {
        let parts = sent.iter().flat_map(|(_, parts)| parts);
        parts.filter(|part| **part == user(payload)).count()
    };
    let sent = bench.transmits();
    assert_eq!(count(&sent, b"old"), 4 * 3, "the one without a key");
    assert_eq!(count(&sent, b"new"), 2 * 4 * 3);
}

#[test]
fn eager_datagrams_stop_at_the_budget_of_the_interval() {
    let mut bench = Bench::with(|config| {
        config.probe_interval = Duration::ZERO;
        config.eager_bytes_per_interval = 10_000;
    });
    bench.fill(9);
    bench.pass(Duration::from_secs(5));
    bench.transmits();
    for _ in 0..100 {
        bench.node.broadcast(None, Bytes::from(vec![b'x'; 1000]));
    }
    assert_eq!(
        bench.transmits().len(),
        9,
        "a datagram of a thousand bytes to six members, and one to three"
    );
    assert_eq!(bench.node.user_queue_len(), 100);
    bench.pass(Duration::from_millis(200));
    bench.transmits();
    bench.node.broadcast(None, Bytes::from_static(b"next"));
    assert_eq!(bench.transmits().len(), 6, "a new interval");
}

#[test]
fn accusations_do_not_pile_refutations_up() {
    let mut bench = Bench::quiet();
    for incarnation in 1..5000 {
        bench.receive(&suspect("us", incarnation, "n9"));
    }
    assert_eq!(bench.node.counters().refutations, 4999);
    assert_eq!(bench.node.eager.len(), EAGER_MAX);
    assert_eq!(bench.node.membership_queue_len(), 1);
}

#[test]
fn a_round_sends_everything_once_within_its_datagrams() {
    let mut bench = Bench::with(|config| {
        config.probe_interval = Duration::ZERO;
        config.push_pull_interval = Duration::ZERO;
        config.eager_bytes_per_interval = 0;
        config.gossip_messages = 4;
        config.compression = false;
    });
    bench.fill(3);
    bench.pass(Duration::from_secs(10));
    bench.transmits();
    for number in 0..40_u32 {
        let payload = Bytes::from(format!("{number:0>300}"));
        bench.node.broadcast(Some(number.to_string()), payload);
    }
    bench.receive(&Message::Alive(alive(4, 1)));
    bench.pass(Duration::from_millis(200));
    let sizes: Vec<usize> = {
        let mut sizes = Vec::new();
        let mut parts = Vec::new();
        while let Some(transmit) = bench.node.poll_transmit() {
            sizes.push(transmit.bytes.len());
            let decoded = decode_packet(&transmit.bytes, &bench.node.filter);
            assert_eq!(decoded.errors, []);
            if transmit.to == address(2) {
                parts.extend(decoded.messages);
            }
        }
        assert!(
            matches!(parts[0], Message::Alive(_)),
            "the protocol's own first"
        );
        let users = parts.iter().filter(|part| matches!(part, Message::User(_)));
        let different: BTreeSet<String> = users.clone().map(|part| format!("{part:?}")).collect();
        assert_eq!(different.len(), users.count(), "nothing twice");
        assert!(different.len() >= 4 * 4 - 1);
        sizes
    };
    assert_eq!(sizes.len(), 4 * 3);
    assert!(sizes.iter().all(|size| *size <= 1400 + 7), "{sizes:?}");
}

#[test]
fn label_and_encryption_have_room_in_every_datagram() {
    let overhead = 29 + 2 + 4;
    let mut bench = Bench::with(|config| {
        config.keyring = Key::new(&[1; 16]).ok().map(Keyring::new);
        config.label = "blue".to_owned();
        config.compression = false;
    });
    bench.fill(6);
    for number in 0..200_u32 {
        let payload = Bytes::from(format!("{number:0>100}"));
        bench.node.broadcast(Some(number.to_string()), payload);
    }
    bench.pass(Duration::from_secs(3));
    let sizes: Vec<usize> = std::iter::from_fn(|| bench.node.poll_transmit())
        .map(|transmit| transmit.bytes.len() + overhead)
        .collect();
    assert!(sizes.iter().all(|size| *size <= 1400 + 7), "{sizes:?}");
    assert!(sizes.iter().any(|size| *size > 1300), "the room is used");

    // The longest that fits, and one that does not.
    for (length, by_stream) in [(1395 - overhead, 0), (1396 - overhead, 1)] {
        let payload = Bytes::from(vec![b'm'; length]);
        bench.node.broadcast(None, payload);
        assert_eq!(bench.node.counters.broadcasts_by_stream, by_stream);
    }
}

#[test]
fn without_anyone_to_tell_no_transmit_is_wasted() {
    let mut bench = gossiping();
    bench.node.broadcast(None, Bytes::from_static(b"news"));
    bench.pass(Duration::from_secs(10));
    assert_eq!(bench.transmits(), []);
    assert_eq!((bench.node.user_queue_len(), bench.queued("us")), (1, true));
}

#[test]
fn who_has_nothing_to_say_is_not_woken() {
    let mut bench = gossiping();
    bench.fill(9);
    assert!(bench.node.poll_timeout().is_some());
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.node.membership_queue_len(), 0);
    assert_eq!(bench.node.poll_timeout(), None);
    bench.receive(&suspect("n2", 1, "n9"));
    let rounds = bench.node.timers.iter();
    let rounds = rounds.filter(|(_, timer)| **timer == Timer::Gossip).count();
    assert_eq!(rounds, 1);
}

#[test]
fn rounds_keep_their_phase_over_a_silence() {
    let mut bench = gossiping();
    bench.fill(9);
    let first = bench.node.poll_timeout().expect("we are announced");
    let interval = bench.node.config.gossip_interval;
    for (millis, silence) in [(5_000, 37), (1, 3_600_000), (199, 1000), (0, 4321)] {
        bench.pass(Duration::from_secs(5) + MS * silence + MS * millis);
        assert_eq!(bench.node.poll_timeout(), None, "silent");
        bench.node.broadcast(None, Bytes::from_static(b"news"));
        let next = bench.node.poll_timeout().expect("something is queued");
        assert!(next > bench.now && next <= bench.now + interval);
        assert_eq!((next - first).as_nanos() % interval.as_nanos(), 0);
    }
}

#[test]
fn the_byte_budget_is_renewed_after_a_silence() {
    let mut bench = gossiping();
    bench.fill(9);
    bench.pass(Duration::from_secs(5));
    bench.transmits();
    let budget = bench.node.config.eager_bytes_per_interval;
    for _ in 0..1000 {
        bench.node.broadcast(None, Bytes::from(vec![b'x'; 1000]));
        bench.transmits();
    }
    assert!(bench.node.eager_bytes_spent + 4 * 1000 > budget, "spent");
    bench.pass(Duration::from_secs(60));
    bench.transmits();
    assert_eq!(bench.node.poll_timeout(), None, "silent");
    bench.node.broadcast(None, Bytes::from_static(b"news"));
    assert_eq!(bench.transmits().len(), 6);
}

#[test]
fn a_round_armed_by_an_old_clock_is_no_pause_of_ours() {
    let mut bench = gossiping();
    bench.fill(9);
    bench.pass(Duration::from_secs(5));
    // Nothing wakes us for an hour, and then something comes without the time.
    bench.now += Duration::from_secs(3600);
    bench.node.broadcast(None, Bytes::from_static(b"news"));
    bench.step();
    assert_eq!(bench.node.counters().late_wakeups, 0);
    assert_eq!(bench.node.health_score(), 0);
}

#[test]
fn the_dead_are_told_for_a_while_and_the_left_never() {
    let mut bench = gossiping();
    bench.receive(&Message::Alive(alive(2, 1)));
    bench.receive(&Message::Alive(alive(3, 1)));
    bench.receive(&dead("n2", 1, "n9"));
    bench.receive(&dead("n3", 1, "n3"));
    bench.transmits();
    bench.pass(Duration::from_secs(29));
    let to: BTreeSet<SocketAddr> = bench.transmits().iter().map(|(to, _)| *to).collect();
    assert_eq!(to, BTreeSet::from([address(2)]));
    bench.pass(Duration::from_secs(2));
    bench.node.broadcast(None, Bytes::from_static(b"news"));
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.transmits(), []);
}

#[test]
fn broadcasts_ride_on_acks() {
    let mut bench = Bench::quiet();
    bench.fill(2);
    bench.node.broadcast(None, Bytes::from_static(b"news"));
    bench.transmits();
    let ping = crate::wire::message::Ping {
        seq_no: 7,
        node: "us".to_owned(),
        source: None,
    };
    bench.receive(&Message::Ping(ping));
    let sent = bench.transmits();
    let [(to, parts)] = &sent[..] else {
        panic!("one datagram: {sent:?}")
    };
    assert_eq!(*to, address(99));
    assert!(matches!(&parts[0], Message::Ack(ack) if ack.seq_no == 7));
    assert!(parts.contains(&user(b"news")) && parts.len() > 2);
    assert!(
        !matches!(parts[1], Message::User(_)),
        "the protocol's own first"
    );
}

#[test]
fn the_longest_broadcast_for_a_datagram_is_the_budget_less_five() {
    for (length, by_stream) in [(1395, 0), (1396, 1), ((1 << 20) + 1, 0)] {
        let mut bench = Bench::quiet();
        bench.fill(3);
        bench.node.broadcast(None, Bytes::from(vec![0; length]));
        assert_eq!(
            bench.node.counters().broadcasts_by_stream,
            by_stream,
            "{length}"
        );
        assert_eq!(
            bench.requests().len() as u64,
            2 * by_stream,
            "to both members"
        );
        let queued = usize::from(length == 1395);
        assert_eq!(bench.node.user_queue_len(), queued, "{length}");
    }
    let mut bench = Bench::quiet();
    bench
        .node
        .broadcast(None, Bytes::from(vec![0; (1 << 20) + 1]));
    assert_eq!(bench.node.counters().broadcasts_too_long, 1);
}

#[test]
fn leaving_says_goodbye_and_waits_for_it_to_spread() {
    let mut bench = gossiping();
    bench.fill(6);
    bench.pass(Duration::from_secs(5));
    bench.transmits();
    bench.events();
    bench.node.leave(bench.now);
    bench.node.leave(bench.now);
    let goodbye = dead("us", 1, "us");
    let sent = bench.transmits();
    let told: BTreeSet<SocketAddr> = sent
        .iter()
        .filter(|(_, parts)| parts.contains(&goodbye))
        .map(|(to, _)| *to)
        .collect();
    assert_eq!(told.len(), 5, "everybody, in so small a cluster");
    assert!(bench.node.leave_pending());
    assert!(matches!(&bench.events()[..], [Event::Left(us)] if us.state == NodeState::Left));
    let rounds = (0..20).position(|_| {
        bench.pass(Duration::from_millis(200));
        !bench.node.leave_pending()
    });
    assert_eq!(rounds, Some(3), "four transmits");
    // Until the shutdown we still answer.
    let ping = crate::wire::message::Ping {
        seq_no: 7,
        node: "us".to_owned(),
        source: None,
    };
    bench.transmits();
    bench.receive(&Message::Ping(ping));
    assert_eq!(bench.transmits().len(), 1);
}

#[test]
fn leaving_alone_is_over_at_once() {
    let mut bench = Bench::new();
    bench.node.leave(bench.now);
    assert!(!bench.node.leave_pending());
}

#[test]
fn seeds_are_tried_again_until_one_answers() {
    let mut bench = Bench::with(|config| {
        config.probe_interval = Duration::ZERO;
        config.push_pull_interval = Duration::ZERO;
    });
    bench.node.add_seeds(bench.now, &[address(2), address(1)]);
    bench.pass(Duration::from_secs(3));
    let seed = StreamRequest::PushPull {
        to: address(2),
        join: true,
        full: true,
    };
    assert_eq!(bench.requests(), [seed], "not ourselves");
    bench.pass(Duration::from_secs(300));
    let attempts = bench.requests().len();
    assert!(
        (8..=20).contains(&attempts),
        "about every thirty seconds: {attempts}"
    );
    bench.receive(&Message::Alive(alive(2, 1)));
    bench.pass(Duration::from_secs(300));
    assert_eq!(bench.requests(), [], "the seed is a member now");
}

#[test]
fn a_forgotten_member_is_looked_for() {
    let mut bench = Bench::with(|config| config.push_pull_interval = Duration::ZERO);
    bench.fill(3);
    bench.receive(&dead("n2", 1, "n9"));
    bench.receive(&dead("n3", 1, "n3"));
    bench.pass(Duration::from_secs(120));
    assert_eq!(
        (bench.state("n2"), bench.state("n3")),
        (None, None),
        "reaped"
    );
    let wanted = StreamRequest::PushPull {
        to: address(2),
        join: false,
        full: true,
    };
    let requests = bench.requests();
    assert!(!requests.is_empty());
    assert!(
        requests.iter().all(|request| *request == wanted),
        "not the one that left"
    );
}

#[test]
fn a_burst_of_one_source_delays_another_s_change_by_a_round_at_most() {
    let mut bench = Bench::with(|config| {
        config.probe_interval = Duration::ZERO;
        config.push_pull_interval = Duration::ZERO;
        config.rejoin_interval = Duration::ZERO;
        // Nothing leaves ahead of its round.
        config.eager_bytes_per_interval = 0;
    });
    bench.fill(5);
    bench.pass(Duration::from_secs(5));
    bench.transmits();
    let say = |bench: &mut Bench, source: &str, number: usize, urgent: bool| {
        let priority = Priority {
            source: source.to_owned(),
            urgent,
            brief: None,
        };
        let text = format!("{source} {number} {}", "x".repeat(280));
        let key = format!("{source} {number}");
        bench
            .node
            .broadcast_with(Some(key), Bytes::from(text), &priority);
    };
    for number in 0..1000 {
        say(&mut bench, "burst", number, number % 2 == 0);
    }
    say(&mut bench, "other", 0, false);
    bench.pass(bench.node.config.gossip_interval);
    let heard: Vec<Bytes> = bench
        .transmits()
        .into_iter()
        .flat_map(|(_, messages)| messages)
        .filter_map(|message| match message {
            Message::User(bytes) => Some(bytes),
            _ => None,
        })
        .collect();
    assert!(heard.len() < 1000, "a round has no room for all of it");
    assert!(heard.iter().any(|text| text.starts_with(b"other 0")));
    let first = heard.iter().filter(|text| text.starts_with(b"burst"));
    let numbers = first.map(|text| {
        let text = String::from_utf8_lossy(text);
        let number = text.split(' ').nth(1).map(str::parse::<usize>);
        number.expect("a number").expect("a number")
    });
    let odd = numbers.filter(|number| number % 2 == 1).count();
    assert!(
        odd * 2 <= heard.len() + 2,
        "urgent ones take turns with the others or lead"
    );
}

#[test]
fn of_too_many_announcements_ours_is_kept() {
    let mut bench = Bench::quiet();
    for number in 0..3000 {
        bench.receive(&Message::Alive(Alive {
            node: format!("m{number}"),
            ..alive(7, 1)
        }));
    }
    let counters = bench.node.counters();
    let queued = bench.node.membership_queue_len() as u64;
    assert_eq!(queued + counters.announcements_overflowed, 3001);
    assert!(queued < 1500);
    assert!(bench.node.membership.contains(&"us".to_owned()));
    assert_eq!(bench.node.members().len(), 3001, "all the same");
}
