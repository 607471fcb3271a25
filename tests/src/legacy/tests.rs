//! The peer against itself, and its reader against recordings of the fork and against bytes that
//! would hurt it.

use super::{
    wire::{Announcement, Exchange, Message},
    *,
};
use crate::eventually;

const CLUSTER: &str = "lab";
const SOON: Duration = Duration::from_secs(20);

fn unhex(text: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(byte).collect()
}

/// What Go Sidecar sent, in the vectors of the member's crate.
fn recorded(kind: &str) -> Vec<serde_json::Value> {
    let path = format!(
        "{}/../crates/memberlist/tests/vectors/sidecar/{kind}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut file: serde_json::Value = serde_json::from_slice(&text).expect("a file of vectors");
    match file["vectors"].take() {
        serde_json::Value::Array(vectors) => vectors,
        other => panic!("{path}: {other}"),
    }
}

#[test]
fn recordings_of_go_sidecar_are_read_and_written_byte_for_byte() {
    let kinds = [
        "ping",
        "ackResp",
        "indirectPing",
        "nackResp",
        "suspect",
        "alive",
        "alive_refute",
        "dead",
        "user",
        "user_tombstone",
        "user_unhealthy",
        "compound",
        "compound_many",
        "crc_plain",
        "uncompressed",
    ];
    for kind in kinds {
        for vector in recorded(kind) {
            let datagram = unhex(vector["hex"].as_str().expect("a datagram"));
            let messages = wire::read_datagram(&datagram, CLUSTER)
                .unwrap_or_else(|problem| panic!("{kind}: {problem}: {vector}"));
            for message in &messages {
                if let Message::User(payload) = message {
                    LegacyRecord::decode(payload).expect("a record");
                }
            }
            let parts: Vec<_> = messages.iter().map(|m| wire::encode(m, CLUSTER)).collect();
            let again = wire::datagram(&parts, datagram[0] == 12);
            assert_eq!(again, datagram, "{kind}: {vector}");
        }
    }
    for kind in ["tcp_ping", "tcp_push_pull", "tcp_push_pull_join"] {
        for vector in recorded(kind) {
            for side in ["client_hex", "server_hex"] {
                let stream = unhex(vector[side].as_str().expect("a stream"));
                for cut in [0, 1, stream.len() / 2, stream.len() - 1] {
                    let read = wire::read_stream(&stream[..cut], CLUSTER);
                    assert_eq!(read, Err(Problem::Short), "{kind}");
                }
                let message = wire::read_stream(&stream, CLUSTER)
                    .unwrap_or_else(|problem| panic!("{kind}: {problem}: {vector}"));
                if let StreamMessage::Exchange(exchange) = &message {
                    let now = Instant::now();
                    let mut catalog = catalog::Catalog::new("nobody", CLUSTER, Timing::GO, now);
                    let merged = catalog.merge_state(&exchange.user_state);
                    assert_eq!(merged, Ok(()), "{kind}");
                }
                let again = wire::stream(&message, CLUSTER);
                assert_eq!(wire::read_stream(&again, CLUSTER), Ok(message));
            }
        }
    }
}

fn alive(versions: [u8; 6], incarnation: u32) -> Message {
    Message::Alive(Announcement {
        name: "b".to_owned(),
        ip: Ipv4Addr::new(10, 0, 0, 2),
        port: 7946,
        meta: Vec::new(),
        incarnation,
        versions,
    })
}

#[test]
fn what_hurts_a_go_node_is_refused() {
    let good = wire::encode(&alive([1, 5, 2, 0, 0, 0], 1), CLUSTER);
    assert!(wire::read_datagram(&good, CLUSTER).is_ok());
    let at = good.len() - 6;
    let mut short_versions = good[..at + 3].to_vec();
    short_versions[at - 1] = 0xa3;
    let many = [&[7, 128][..], &[0, 1].repeat(128), &[8; 128]].concat();
    let accusation = Message::Dead {
        incarnation: u32::MAX,
        node: "b".to_owned(),
        from: "c".to_owned(),
    };
    let rows = [
        (
            "another cluster",
            wire::encode(&alive([1, 5, 2, 0, 0, 0], 1), "other"),
        ),
        (
            "a ghost",
            wire::encode(&alive([1, 5, 2, 0, 0, 0], 0), CLUSTER),
        ),
        ("versions of three bytes", short_versions),
        ("no refutation", wire::encode(&accusation, CLUSTER)),
        ("too many parts", many),
        ("an empty part", vec![7, 2, 0, 2, 0, 0, 8, b'x']),
        ("a part cut off", vec![7, 2, 0, 2, 0, 9, 8, b'x']),
        ("bytes after the end", [&good[..], b"x"].concat()),
        ("checksum of nothing", vec![12, 0, 0, 0, 0]),
        ("wrong checksum", vec![12, 0, 0, 0, 0, 8]),
        ("nothing", Vec::new()),
        ("a label", vec![244, 1, b'x', 8]),
        ("an unknown type", vec![99, 0x80]),
        (
            "new string forms",
            b"\x00\x82\xa4Node\xd9\x01b\xa5SeqNo\x07".to_vec(),
        ),
        ("too long", vec![8; 1408]),
    ];
    for (row, datagram) in rows {
        assert!(wire::read_datagram(&datagram, CLUSTER).is_err(), "{row}");
    }
    for (row, stream) in [
        ("encrypted", vec![10, 0, 0, 0, 1, 0]),
        ("an error reply", b"\x0d\x81\xa5Error\xa1x".to_vec()),
    ] {
        let read = wire::read_stream(&stream, CLUSTER);
        assert!(matches!(read, Err(Problem::Bad(_))), "{row}: {read:?}");
    }
}

#[test]
fn records_that_go_would_drop_are_refused() {
    let now = Instant::now();
    let good = record("a", Ipv4Addr::LOCALHOST, "1", "web", Status::Alive);
    let good = serde_json::to_string(&good).expect("JSON");
    assert!(LegacyRecord::decode(good.as_bytes()).is_ok());
    for (old, new) in [
        ("\"Status\":0", "\"Status\":\"0\""),
        ("\"Status\":0", "\"Status\":7"),
        ("\"Port\":32768", "\"Port\":1.5"),
        ("\"ID\":\"1\"", "\"ID\":\"\""),
        ("Z\"", "z\""),
        ("{", ""),
    ] {
        let bad = good.replacen(old, new, 1);
        assert_ne!(bad, good, "{old}");
        assert!(LegacyRecord::decode(bad.as_bytes()).is_err(), "{bad}");
    }
    let mut catalog = catalog::Catalog::new("b", CLUSTER, Timing::GO, now);
    assert!(catalog.merge_state(b"{}").is_err());
    assert!(catalog.merge_state(b"\x7fSerf").is_err());
}

/// A peer on a port of loopback that was free a moment ago.
fn peer(name: &str, timing: Timing) -> LegacyPeer {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback is free");
    let address = free.local_addr().expect("bound");
    drop(free);
    let name = name.to_owned();
    LegacyPeer::start(Network::Here { name, address }, CLUSTER, timing)
}

fn quick() -> Timing {
    Timing {
        second: Duration::from_millis(50),
        refresh: Duration::from_millis(500),
        lifespan: Duration::from_secs(60),
        probe: Duration::from_millis(200),
        gossip: Duration::from_millis(20),
        gossip_to_the_dead: Duration::from_secs(5),
        push_pull: Duration::from_millis(500),
    }
}

#[test]
fn peers_are_a_cluster_among_themselves() {
    let mut peers = ["a", "b", "c"].map(|name| peer(name, quick()));
    for peer in &mut peers {
        peer.offer("1", "web", Status::Alive);
    }
    for other in [1, 2] {
        peers[other].join(peers[0].address()).expect("joined");
    }
    let web = |status| [("a", status), ("b", Status::Alive), ("c", Status::Alive)];
    let whole = |peers: &[LegacyPeer; 3]| {
        peers.iter().try_for_each(|peer| {
            peer.expect_members(&["a", "b", "c"])?;
            peer.expect_instances("web", &web(Status::Alive))
        })
    };
    eventually("all know all", SOON, || whole(&peers));
    peers[0].offer("1", "web", Status::Unhealthy);
    eventually("a change is told", SOON, || {
        peers[2].expect_instances("web", &web(Status::Unhealthy))
    });
    peers[0].kill();
    eventually("a death is noticed and its services buried", SOON, || {
        peers[1..].iter().try_for_each(|peer| {
            peer.expect_members(&["b", "c"])?;
            peer.expect_instances("web", &web(Status::Tombstone))
        })
    });
    peers[0].restart();
    peers[0].offer("1", "web", Status::Alive);
    peers[0].join(peers[1].address()).expect("joined");
    eventually("it is back with its services", SOON, || whole(&peers));
    peers[0].withdraw("1");
    eventually("a service that is gone is buried", SOON, || {
        peers[1].expect_instances("web", &web(Status::Tombstone))
    });
}

#[test]
#[should_panic(expected = "could not digest this")]
fn what_cannot_be_digested_is_a_panic_of_the_script() {
    let peer = peer("a", quick());
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("free");
    socket.send_to(&[99], peer.address()).expect("sent");
    eventually("the peer fails", SOON, || -> Result<(), String> {
        peer.members();
        Err("not yet".to_owned())
    });
}

#[test]
fn an_exchange_of_nothing_is_read_back() {
    let exchange = Exchange {
        join: true,
        entries: Vec::new(),
        user_state: b"x".to_vec(),
    };
    let message = StreamMessage::Exchange(exchange);
    let stream = wire::stream(&message, CLUSTER);
    assert_eq!(wire::read_stream(&stream, CLUSTER), Ok(message));
}
