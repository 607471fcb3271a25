//! What a datagram of ours holds.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use memberlist::wire::{IndirectPing, Message, Nack, RawIp, Versions};

use crate::bench::{Bench, MS, address, alive, parts, ping, suspect};

/// Gossip rounds alone, once the first news have been told.
fn gossiping(members: u8, change: impl FnOnce(&mut memberlist::Config)) -> Bench {
    let mut bench = Bench::with(|config| {
        config.probe_interval = Duration::ZERO;
        config.push_pull_interval = Duration::ZERO;
        config.rejoin_interval = Duration::ZERO;
        config.eager_bytes_per_interval = 0;
        config.compression = false;
        change(config);
    });
    bench.fill(members);
    bench.pass(MS * 5000);
    bench.transmits();
    bench
}

#[test]
fn item_10_a_packet_of_ours_has_at_most_127_parts() {
    let mut bench = gossiping(2, |_| {});
    for number in 0..300_u16 {
        let payload = Bytes::copy_from_slice(&number.to_be_bytes());
        bench.node.broadcast(None, payload);
    }
    bench.pass(MS * 200);
    let mut seen = BTreeSet::new();
    let sent = bench.transmits();
    for transmit in &sent {
        let parts = parts(transmit);
        assert!(parts.len() <= 127, "{}", parts.len());
        seen.extend(parts.iter().map(|part| format!("{part:?}")));
    }
    assert_eq!(
        (sent.len(), seen.len()),
        (3, 300),
        "the count ends a packet, not its length, and nothing is lost by that"
    );
}

#[test]
fn item_51_no_packet_is_longer_than_the_budget_and_seven() {
    for budget in [1000, 1400, 9000] {
        let mut bench = gossiping(9, |config| {
            config.udp_buffer_size = budget;
            config.probe_interval = MS * 1000;
            config.eager_bytes_per_interval = 64 * 1024;
        });
        let mut longest = 0;
        for length in 1..=budget {
            bench.node.broadcast(None, Bytes::from(vec![b'x'; length]));
            if length % 64 == 0 {
                let request = Message::Ping(ping(7, "us"));
                bench.receive(&request);
                bench.pass(MS * 250);
                let sent = bench.transmits();
                longest = sent.iter().map(|t| t.bytes.len()).fold(longest, usize::max);
            }
        }
        assert!(
            (budget - 8..=budget + 7).contains(&longest),
            "{longest} of {budget}"
        );
    }
}

#[test]
fn item_52_a_checksum_is_for_those_known_to_check_it() {
    let mut bench = gossiping(2, |_| {});
    let mut old = alive(3, 1);
    old.versions = Versions([1, 4, 2, 0, 0, 0]);
    bench.receive(&Message::Alive(old));
    bench.pass(MS * 5000);
    bench.transmits();
    bench.node.broadcast(None, Bytes::from_static(b"news"));
    bench.pass(MS * 200);
    let mut heads: Vec<_> = bench
        .transmits()
        .iter()
        .map(|sent| (sent.to, sent.bytes[0]))
        .collect();
    heads.sort();
    assert_eq!(heads, [(address(2), 12), (address(3), 8)]);
    // Never on an answer: whoever asks may be anybody.
    bench.receive(&Message::Ping(ping(7, "us")));
    assert_ne!(bench.transmits()[0].bytes[0], 12);
}

#[test]
fn item_53_a_round_sends_the_same_to_all_its_targets_within_its_count() {
    let mut bench = gossiping(9, |config| config.gossip_messages = 4);
    for _ in 0..30 {
        bench.node.broadcast(None, Bytes::from(vec![b'x'; 1000]));
    }
    bench.pass(MS * 200);
    let sent = bench.transmits();
    let targets: BTreeSet<_> = sent.iter().map(|transmit| transmit.to).collect();
    assert_eq!(
        (sent.len(), targets.len()),
        (12, 3),
        "four to each of three"
    );
    for round in sent.chunks(3) {
        assert!(
            round
                .iter()
                .all(|transmit| transmit.bytes == round[0].bytes)
        );
        let to: BTreeSet<_> = round.iter().map(|transmit| transmit.to).collect();
        assert_eq!(to, targets);
    }
}

#[test]
fn item_54_everything_but_a_word_to_a_suspect_takes_broadcasts_along() {
    let news = Message::User(Bytes::from_static(b"news"));
    let with_news = |change: fn(&mut memberlist::Config)| {
        let mut bench = Bench::quiet(change);
        bench.fill(3);
        bench.node.broadcast(None, Bytes::from_static(b"news"));
        bench
    };
    let relay = |seq_no, nack| {
        Message::IndirectPing(IndirectPing {
            seq_no,
            target: RawIp::from(address(2).ip()),
            port: 7946,
            node: "n2".to_owned(),
            nack,
            source: None,
        })
    };
    let take = |bench: &mut Bench| parts(&bench.transmits()[0]);

    // An ack.
    let mut bench = with_news(|_| {});
    bench.receive(&Message::Ping(ping(7, "us")));
    let sent = take(&mut bench);
    assert!(matches!(sent[0], Message::Ack(_)) && sent.contains(&news));
    // A relayed ping, the ack that is passed on, and a nack.
    bench.receive(&relay(8, true));
    let sent = take(&mut bench);
    let Message::Ping(relayed) = &sent[0] else {
        panic!("{sent:?}")
    };
    assert!(sent.contains(&news));
    bench.receive(&Message::Ack(memberlist::wire::Ack {
        seq_no: relayed.seq_no,
        payload: Bytes::new(),
    }));
    let sent = take(&mut bench);
    assert!(matches!(&sent[0], Message::Ack(ack) if ack.seq_no == 8) && sent.contains(&news));
    let mut bench = with_news(|_| {});
    bench.receive(&relay(9, true));
    bench.transmits();
    bench.pass(MS * 400);
    let sent = take(&mut bench);
    assert!(sent[0] == Message::Nack(Nack { seq_no: 9 }) && sent.contains(&news));
    // Our own ping, and then the requests to others.
    let probing = |config: &mut memberlist::Config| config.probe_interval = MS * 1000;
    let mut bench = with_news(probing);
    let (_, _, sent) = bench.next_ping();
    assert!(sent.contains(&news));
    bench.pass(MS * 500);
    let requests = bench.transmits().into_iter().map(|sent| parts(&sent));
    let mut requests = requests.filter(|sent| matches!(sent[0], Message::IndirectPing(_)));
    assert!(requests.next().is_some_and(|sent| sent.contains(&news)));
    // A suspect is told that it is one, and nothing else.
    let mut bench = Bench::quiet(probing);
    bench.fill(2);
    bench.receive(&suspect("n2", 1, "n9"));
    bench.node.broadcast(None, Bytes::from_static(b"news"));
    let (_, _, sent) = bench.next_ping();
    assert_eq!(sent[1..], [suspect("n2", 1, "us")]);
}
