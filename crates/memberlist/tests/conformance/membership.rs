//! What announcements change, and what is written of it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use memberlist::NodeState;
use memberlist::node::Profile;
use memberlist::wire::{
    Message, PushPull, RawIp, StreamDecoder, StreamMessage, StreamProgress, decode_packet,
    encode_stream,
};

use crate::bench::{Bench, MS, alive, dead, event, filter, loopback, map, start, until};

/// What a peer reads of a table.
fn written(table: PushPull) -> PushPull {
    let bytes = encode_stream(&StreamMessage::PushPull(table), "default", true);
    read(&bytes)
}

fn read(bytes: &[u8]) -> PushPull {
    match StreamDecoder::new(filter()).feed(bytes) {
        Ok(StreamProgress::Complete(StreamMessage::PushPull(table))) => table,
        other => panic!("{other:?}"),
    }
}

/// An entry of a table as anybody might write it.
fn entry(name: &str, state: &[u8], versions: Option<&[u8]>) -> Vec<u8> {
    let name = [&[0xa0 | name.len() as u8], name.as_bytes()].concat();
    let mut fields: Vec<(&str, &[u8])> = vec![
        ("Addr", b"\xa4\x0a\x00\x00\x07"),
        ("Incarnation", b"\x03"),
        ("Meta", b"\xc0"),
        ("Name", &name),
        ("Port", b"\x07"),
        ("State", state),
    ];
    fields.extend(versions.map(|versions| ("Vsn", versions)));
    map(&fields)
}

fn table(entries: &[Vec<u8>]) -> Vec<u8> {
    let head = map(&[
        ("ClusterName", b"\xa7default"),
        ("Join", b"\xc2"),
        ("Nodes", &[entries.len() as u8]),
        ("UserStateLen", b"\x00"),
    ]);
    [&[6][..], &head, &entries.concat()].concat()
}

#[test]
fn item_19_a_dead_entry_without_versions_does_not_spoil_the_exchange() {
    let mut bench = Bench::quiet(|_| {});
    let good = b"\xa6\x01\x05\x02\x00\x00\x00";
    let bytes = table(&[
        entry("gone", b"\x02", None),
        entry("good", b"\x00", Some(good)),
    ]);
    let remote = read(&bytes);
    assert_eq!(remote.nodes.len(), 1, "the other one is skipped");
    bench
        .node
        .merge(bench.now, remote, false)
        .expect("what is left fits");
    assert!(bench.node.member("good").is_some() && bench.node.member("gone").is_none());
    // With versions it counts, dead as it is.
    let bytes = table(&[entry(
        "gone",
        b"\x02",
        Some(b"\xa6\x01\x05\x02\x02\x05\x05"),
    )]);
    let refused = bench.node.merge(bench.now, read(&bytes), false);
    assert!(refused.is_err_and(|error| error.to_string().contains("gone")));
    assert_eq!(bench.node.counters().merges_refused, 1);
}

#[test]
fn item_43_a_peer_s_address_is_passed_on_in_its_own_bytes() {
    let mapped = RawIp::V16([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 2]);
    let mut bench = Bench::with(|config| config.probe_interval = Duration::ZERO);
    bench.fill(3);
    bench.pass(5000 * MS);
    bench.transmits();
    let mut announcement = alive(2, 2);
    announcement.addr = mapped;
    bench.receive(&Message::Alive(announcement.clone()));
    bench.pass(1000 * MS);
    let passed_on = bench
        .transmits()
        .iter()
        .flat_map(|sent| decode_packet(&sent.bytes, &filter()).messages)
        .filter(|message| *message == Message::Alive(announcement.clone()))
        .count();
    assert!(passed_on > 0);
    let table = written(bench.node.push_pull(false));
    let entry = table.nodes.iter().find(|node| node.name == "n2");
    assert_eq!(entry.expect("listed").addr, mapped);
}

#[tokio::test]
async fn item_47_leaving_takes_no_longer_than_allowed() {
    let mut patient = loopback("a");
    // Nothing is ever gossiped, so the goodbye is never used up.
    patient.gossip_interval = Duration::ZERO;
    patient.probe_interval = Duration::ZERO;
    let (a, _a_events) = start(patient).await;
    let (b, mut b_events) = start(loopback("b")).await;
    assert_eq!(a.join(&[b.local_addr()]).await.contacted, 1);
    let began = Instant::now();
    a.leave(300 * MS).await;
    let took = began.elapsed();
    assert!(
        (300 * MS..3000 * MS).contains(&took),
        "it waits for its timeout: {took:?}"
    );
    let left = |event| match event {
        memberlist::Event::Left(member) => Some(member.state),
        _ => None,
    };
    assert_eq!(
        event(&mut b_events, left).await,
        NodeState::Left,
        "those told directly know all the same"
    );
}

#[test]
fn item_48_left_is_written_for_those_who_know_it() {
    for (profile, state) in [
        (Profile::Fork, NodeState::Dead),
        (Profile::HashiCorp, NodeState::Left),
    ] {
        let mut bench = Bench::quiet(|config| config.profile = profile);
        bench.fill(3);
        bench.receive(&dead("n2", 1, "n2"));
        let table = written(bench.node.push_pull(false));
        let entry = table.nodes.iter().find(|node| node.name == "n2");
        assert_eq!(entry.expect("listed").state, state, "{profile:?}");
        // A peer that did not hear the goodbye itself: gone at once, or suspected first.
        let mut peer = Bench::quiet(|config| config.probe_interval = MS * 1000);
        peer.receive(&Message::Alive(alive(2, 1)));
        peer.node
            .merge(peer.now, table, false)
            .expect("versions fit");
        peer.pass(MS * 1000);
        let then = match state {
            NodeState::Left => NodeState::Left,
            _ => NodeState::Suspect,
        };
        let member = peer.node.member("n2").expect("known");
        assert_eq!(member.state, then, "{profile:?}");
    }
}

#[test]
fn item_48_a_state_nobody_knows_costs_only_its_entry() {
    let good = Some(&b"\xa6\x01\x05\x02\x00\x00\x00"[..]);
    let remote = read(&table(&[
        entry("odd", b"\x04", good),
        entry("good", b"\x00", good),
    ]));
    let names: Vec<&str> = remote.nodes.iter().map(|node| &*node.name).collect();
    assert_eq!(names, ["good"]);
}

#[tokio::test]
async fn item_60_metadata_and_messages_arrive_byte_for_byte() {
    let every_byte: Vec<u8> = (0..=255).collect();
    let meta = Bytes::from(every_byte.repeat(2));
    let mut config = loopback("a");
    config.meta = meta.clone();
    let (a, _a_events) = start(config).await;
    let (b, mut b_events) = start(loopback("b")).await;
    assert_eq!(a.join(&[b.local_addr()]).await.contacted, 1);
    let seen = event(&mut b_events, |event| match event {
        memberlist::Event::Joined(member) if member.name == "a" => Some(member.meta),
        _ => None,
    });
    assert_eq!(seen.await, meta);
    // One datagram and, being too long for any, one stream.
    for message in [every_byte.clone(), every_byte.repeat(8)] {
        let message = Bytes::from(message);
        a.broadcast(None, message.clone());
        event(&mut b_events, |event| {
            matches!(event, memberlist::Event::Message(bytes) if bytes == message).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn item_61_two_clusters_that_share_seeds_stay_two() {
    let cluster = |name: &str| {
        let mut config = loopback(name);
        config.cluster_name = name.to_owned();
        // An hour of trying again in a second.
        config.rejoin_interval = 10 * MS;
        config
    };
    let (red, _red_events) = start(cluster("red")).await;
    let (blue, _blue_events) = start(cluster("blue")).await;
    let seeds = [red.local_addr(), blue.local_addr()];
    for member in [&red, &blue] {
        assert_eq!(member.join(&seeds).await.contacted, 0);
    }
    for member in [&red, &blue] {
        until("a hundred attempts", || {
            assert_eq!(member.members().len(), 1);
            member.stats().malformed.get("cluster") > Some(&100)
        })
        .await;
        assert!(member.stats().node.rejoin_attempts > 50);
        assert_eq!(member.stats().node.merges, 0);
    }
}
