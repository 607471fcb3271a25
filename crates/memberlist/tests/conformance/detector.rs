//! Failure detection: whom we ask and how.

use std::time::Duration;

use memberlist::node::StreamRequest;
use memberlist::wire::{Message, Versions};

use crate::bench::{Bench, MS, alive, parts};

fn probing(change: impl FnOnce(&mut memberlist::Config)) -> Bench {
    Bench::with(|config| {
        config.gossip_interval = Duration::ZERO;
        config.push_pull_interval = Duration::ZERO;
        config.rejoin_interval = Duration::ZERO;
        config.eager_bytes_per_interval = 0;
        change(config);
    })
}

#[test]
fn item_28_as_many_relays_as_there_are_but_three() {
    for members in 2..=6 {
        let mut bench = probing(|_| {});
        bench.fill(members);
        let (target, _, _) = bench.next_ping();
        bench.pass(MS * 500);
        let mut relays: Vec<_> = bench
            .transmits()
            .iter()
            .filter(|sent| matches!(parts(sent)[0], Message::IndirectPing(_)))
            .map(|sent| sent.to)
            .collect();
        relays.sort();
        relays.dedup();
        assert_eq!(relays.len(), usize::from(members - 2).min(3), "{members}");
        assert!(!relays.contains(&target));
    }
}

#[test]
fn item_29_a_ping_by_stream_is_for_those_who_know_it_and_can_be_turned_off() {
    // What the target understands, whether the setting is on, whether it is pinged by stream.
    for (understands, wanted, pinged) in [(2, true, false), (3, true, true), (3, false, false)] {
        let mut bench = probing(|config| config.tcp_pings = wanted);
        let mut target = alive(2, 1);
        target.versions = Versions([1, understands, 2, 0, 0, 0]);
        bench.receive(&Message::Alive(target));
        bench.next_ping();
        bench.pass(MS * 500);
        let requests = bench.requests();
        let by_stream = requests
            .iter()
            .any(|request| matches!(request, StreamRequest::Ping { .. }));
        assert_eq!(by_stream, pinged, "understands {understands}, {wanted}");
    }
}
