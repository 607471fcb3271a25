//! Every kind of bad input has its reaction and its counter, and touches no other.

use bytes::Bytes;
use memberlist::node::{Counters, Event};
use memberlist::wire::{
    Ack, IndirectPing, Message, Nack, PacketBuilder, PushNode, PushPull, RawIp, StreamMessage,
    Versions, decode_packet, encode_message, encode_stream,
};
use memberlist::{Config, Handle, NodeState};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::bench::{
    Bench, MS, accusation, address, alive, compound, filter, in_time, loopback, map, ping, start,
    until,
};

/// Row, bytes, the counter by which it shows.
fn bad_datagrams() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let message = b"\x08hi";
    let inside = |inner: &[u8]| compound(&[inner]);
    let compress = |fields: &[(&str, &[u8])]| [&[9][..], &map(fields)].concat();
    let nowhere = map(&[
        ("Addr", b"\xa4\x00\x00\x00\x00"),
        ("ClusterName", b"\xa7default"),
        ("Incarnation", b"\x01"),
        ("Node", b"\xa1n"),
        ("Vsn", b"\xa6\x01\x05\x02\x00\x00\x00"),
    ]);
    let deep = [&b"\x00\x81\xa1x"[..], &[0x91; 17]].concat();
    vec![
        ("R1 empty", vec![], "framing"),
        ("R1 checksum of nothing", vec![12, 0, 0, 0, 0], "framing"),
        ("R1 wrong checksum", vec![12, 1, 2, 3, 4, 8, 1], "framing"),
        ("R4 unknown", vec![99, 0x80], "unknown_type"),
        ("R4 misplaced", vec![6, 0x80], "unknown_type"),
        (
            "R4 checksum inside",
            inside(&[12, 0, 0, 0, 0, 8]),
            "unknown_type",
        ),
        ("R5", inside(b""), "empty_message"),
        ("R6 no count", vec![7], "compound_table"),
        ("R6 short table", vec![7, 2, 0, 1], "compound_table"),
        ("R7", vec![7, 1, 0, 9, 8], "compound_truncated"),
        (
            "R8 algorithm",
            compress(&[("Algo", b"\x01"), ("Buf", b"\xa1x")]),
            "compression",
        ),
        ("R8 no end", compress(&[("Buf", b"\xa0")]), "compression"),
        ("R9", inside(&inside(&inside(&inside(message)))), "nesting"),
        ("R10 not msgpack", vec![0, 0xc1], "msgpack"),
        ("R10 not a map", vec![0, 0xc0], "msgpack"),
        ("R10 deep", deep, "msgpack"),
        (
            "R10 beyond the end",
            b"\x00\x81\xa4Node\xdb\xff\xff\xff\xffx".to_vec(),
            "msgpack",
        ),
        ("R11", [&[4][..], &nowhere].concat(), "field"),
        (
            "R12",
            encode_message(&Message::Alive(alive(2, 1)), "other"),
            "cluster",
        ),
    ]
}

fn total(member: &Handle) -> u64 {
    member.stats().malformed.values().sum()
}

#[tokio::test]
async fn item_63_each_bad_datagram_has_its_counter_alone() {
    let (a, _events) = start(loopback("a")).await;
    let stranger = UdpSocket::bind("127.0.0.1:0").await.expect("free");
    for (row, bytes, kind) in bad_datagrams() {
        let mut expected = a.stats().malformed;
        *expected.entry(kind).or_default() += 1;
        let before = (total(&a), a.stats().node);
        stranger
            .send_to(&bytes, a.local_addr())
            .await
            .expect("sent");
        until(row, || total(&a) > before.0).await;
        assert_eq!(a.stats().malformed, expected, "{row}");
        assert_eq!(a.members().len(), 1, "{row}");
        assert_eq!(a.stats().node.conflicts, before.1.conflicts, "{row}");
    }
    // None was answered.
    let mut buffer = [0; 64];
    let answer = stranger.try_recv(&mut buffer);
    assert!(answer.is_err(), "{answer:?}");
}

/// Row, bytes of a request, the counter by which it shows.
fn bad_streams() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let head = |fields: &[(&str, &[u8])]| {
        let cluster = [("ClusterName", &b"\xa7default"[..])];
        [&[6][..], &map(&[&cluster, fields].concat())].concat()
    };
    let error = encode_stream(&StreamMessage::Error("no".to_owned()), "", false);
    let ack = StreamMessage::Ack(Ack {
        seq_no: 1,
        payload: Bytes::new(),
    });
    let odd = PushNode {
        name: "odd".to_owned(),
        addr: RawIp::V4([127, 0, 0, 1]),
        port: 1,
        meta: Bytes::new(),
        incarnation: 1,
        state: NodeState::Alive,
        versions: Versions([1, 5, 2, 2, 5, 5]),
    };
    let other_versions = StreamMessage::PushPull(PushPull {
        join: false,
        nodes: vec![odd],
        user_state: Bytes::new(),
    });
    vec![
        ("R4", vec![3], "unknown_type"),
        (
            "R5",
            b"\x09\x82\xa4Algo\x00\xa3Buf\xa3\x00\x03\x02".to_vec(),
            "empty_message",
        ),
        ("R8", b"\x09\x81\xa3Buf\xa0".to_vec(), "compression"),
        ("R10", vec![6, 0xc0], "msgpack"),
        (
            "R12",
            b"\x06\x81\xabClusterName\xa5other".to_vec(),
            "cluster",
        ),
        ("R19 negative count", head(&[("Nodes", b"\xff")]), "stream"),
        (
            "R19 count beyond the limit",
            head(&[("Nodes", b"\xce\x00\x01\x00\x01")]),
            "stream",
        ),
        (
            "R19 state beyond the limit",
            head(&[("UserStateLen", b"\xce\x01\x40\x00\x01")]),
            "stream",
        ),
        (
            "R21",
            encode_stream(&other_versions, "default", false),
            "merge",
        ),
        ("R22", error, "stream_refused"),
        (
            "an answer nobody asked for",
            encode_stream(&ack, "", false),
            "stream_unexpected",
        ),
    ]
}

#[tokio::test]
async fn item_63_each_bad_stream_is_closed_with_its_counter_alone() {
    let (a, _events) = start(loopback("a")).await;
    for (row, bytes, kind) in bad_streams() {
        let mut expected = a.stats().malformed;
        *expected.entry(kind).or_default() += 1;
        let mut stream = TcpStream::connect(a.local_addr()).await.expect("accepted");
        stream.write_all(&bytes).await.expect("written");
        let mut reply = Vec::new();
        let _ = in_time(row, stream.read_to_end(&mut reply)).await;
        // Versions are judged when our side is already out; a broken envelope is answered with an
        // error.
        let answered = ["merge", "empty_message", "compression"].contains(&kind);
        assert_eq!(reply.is_empty(), !answered, "{row}");
        until(row, || a.stats().malformed == expected).await;
        assert_eq!(a.members().len(), 1, "{row}");
    }
    assert_eq!(a.stats().streams_failed, bad_streams().len() as u64);
    assert_eq!(a.stats().node.merges_refused, 1);
}

#[tokio::test]
async fn item_63_a_stream_that_does_not_end_is_cut_at_the_deadline() {
    let mut config = loopback("a");
    // Only this row waits for it: elsewhere a busy machine must not make good time look slow.
    config.tcp_timeout = 200 * MS;
    let (a, _events) = start(config).await;
    let mut stream = TcpStream::connect(a.local_addr()).await.expect("accepted");
    stream.write_all(&[6, 0x84]).await.expect("written");
    let mut reply = Vec::new();
    let _ = in_time("R19 deadline", stream.read_to_end(&mut reply)).await;
    assert!(reply.is_empty());
    let expected = [("stream_timeout", 1)].into();
    until("R19 deadline", || a.stats().malformed == expected).await;
    assert_eq!(a.stats().streams_failed, 1);
}

type Count = fn(&mut Counters);

/// What the node itself counts: row, how it is set up, the datagram, the counter, replies.
#[expect(clippy::type_complexity, reason = "the rows of one table")]
fn bad_behaviour() -> Vec<(&'static str, fn(&mut Config), Vec<u8>, Count, usize)> {
    let normal: fn(&mut Config) = |_| {};
    let encode = |message: &Message| encode_message(message, "default");
    let many = {
        let mut packet = PacketBuilder::new();
        for seq_no in 0..5 {
            assert!(packet.push(&encode(&Message::Ping(ping(seq_no, "us")))));
        }
        packet.finish(false, false)
    };
    let mut moved = alive(2, 9);
    moved.addr = RawIp::V4([10, 0, 0, 77]);
    let relay = IndirectPing {
        seq_no: 1,
        target: RawIp::V4([10, 9, 9, 9]),
        port: 7946,
        node: "nobody".to_owned(),
        nack: true,
        source: None,
    };
    let ack = Ack {
        seq_no: 1,
        payload: Bytes::new(),
    };
    vec![
        (
            "R13",
            normal,
            encode(&Message::Ping(ping(1, "n2"))),
            |counters| counters.pings_for_others += 1,
            0,
        ),
        ("R14", normal, many, |c| c.requests_over_limit += 1, 4),
        (
            "R15 ack",
            normal,
            encode(&Message::Ack(ack)),
            |c| c.acks_unknown += 1,
            0,
        ),
        (
            "R15 nack",
            normal,
            encode(&Message::Nack(Nack { seq_no: 1 })),
            |c| c.acks_unknown += 1,
            0,
        ),
        (
            "R16",
            normal,
            encode(&Message::IndirectPing(relay)),
            |c| c.relays_refused += 1,
            1,
        ),
        (
            "R17 suspect",
            normal,
            accusation(3, "n2", u32::MAX, "n3"),
            |c| c.irrefutable_refused += 1,
            0,
        ),
        (
            "R17 dead",
            normal,
            accusation(5, "n2", u32::MAX, "n3"),
            |c| c.irrefutable_refused += 1,
            0,
        ),
        (
            "R18",
            |config| config.members_max = 2,
            encode(&Message::Alive(alive(3, 1))),
            |c| c.members_refused += 1,
            0,
        ),
        (
            "R25",
            normal,
            encode(&Message::Alive(moved)),
            |c| c.conflicts += 1,
            // To the one that has the name.
            1,
        ),
    ]
}

#[test]
fn item_63_each_bad_behaviour_has_its_counter_alone() {
    for (row, setup, datagram, count, replies) in bad_behaviour() {
        let mut bench = Bench::quiet(setup);
        bench.fill(2);
        bench.events();
        let mut expected = *bench.node.counters();
        count(&mut expected);
        let members = bench.node.members();
        bench.receive_bytes(&datagram);
        assert_eq!(*bench.node.counters(), expected, "{row}");
        assert_eq!(bench.node.members(), members, "{row}");
        let sent = bench.transmits();
        assert_eq!(sent.len(), replies, "{row}");
        let to = address(if row == "R25" { 2 } else { 99 });
        assert!(sent.iter().all(|sent| sent.to == to), "{row}");
        let events = bench.events();
        let reported = matches!(events[..], [Event::Conflict { .. }]);
        assert_eq!(
            (events.len(), reported),
            if row == "R25" { (1, true) } else { (0, false) }
        );
    }
}

#[test]
fn item_63_a_bad_part_takes_no_good_one_along() {
    let good = encode_message(&Message::User(Bytes::from_static(b"good")), "default");
    for (row, bytes, _) in bad_datagrams() {
        // Those that can only stand outermost are others inside.
        if row.starts_with("R1 ") {
            continue;
        }
        let decoded = decode_packet(&compound(&[&good, &bytes, &good]), &filter());
        assert_eq!(
            (decoded.messages.len(), decoded.errors.len()),
            (2, 1),
            "{row}"
        );
    }
}
