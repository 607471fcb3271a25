//! Go's bytes, read and written.

use super::*;
use crate::wire::golden::golden;

/// Bytes checked against the Go encoders, one message each, and whether they are just what we
/// write ourselves for the cluster "default".
#[test]
fn messages_are_go_s_byte_for_byte() {
    let source = || {
        Some(Source {
            addr: RawIp::V4([10, 0, 0, 1]),
            port: 7946,
            node: "node-a".into(),
        })
    };
    let relay = |source| {
        Message::IndirectPing(IndirectPing {
            seq_no: 300,
            target: RawIp::V4([10, 0, 0, 2]),
            port: 7946,
            node: "node-b".to_owned(),
            nack: true,
            source,
        })
    };
    let node_b = || "node-b".to_owned();
    let suspect = Suspect {
        incarnation: 3,
        node: node_b(),
        from: "node-a".to_owned(),
    };
    let dead = |from: &str| Dead {
        incarnation: 3,
        node: node_b(),
        from: from.to_owned(),
    };
    let mut mapped = [0; 16];
    mapped[10..].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 1]);
    let no_meta = Alive {
        meta: Bytes::new(),
        ..alive()
    };
    let cases = [
        ("ping", true, ping(42)),
        ("ping-large-number", true, ping(0xdead_beef)),
        (
            "ping-with-source",
            true,
            Message::Ping(Ping {
                seq_no: 42,
                node: node_b(),
                source: source(),
            }),
        ),
        ("indirect-ping", true, relay(None)),
        ("indirect-ping-with-source", true, relay(source())),
        (
            "ack",
            true,
            Message::Ack(Ack {
                seq_no: 42,
                payload: Bytes::new(),
            }),
        ),
        (
            "ack-with-payload",
            true,
            Message::Ack(Ack {
                seq_no: 42,
                payload: Bytes::from_static(&[1, 2, 3]),
            }),
        ),
        ("nack", true, Message::Nack(Nack { seq_no: 42 })),
        ("suspect", true, Message::Suspect(suspect.clone())),
        (
            "suspect-without-cluster",
            false,
            Message::Suspect(suspect.clone()),
        ),
        ("dead", true, Message::Dead(dead("node-a"))),
        ("dead-leave-of-the-fork", true, Message::Dead(dead(""))),
        ("alive", true, Message::Alive(alive())),
        ("alive-nil-meta", true, Message::Alive(no_meta.clone())),
        (
            "alive-without-cluster",
            false,
            Message::Alive(no_meta.clone()),
        ),
        (
            "alive-v4-mapped-empty-meta",
            false,
            Message::Alive(Alive {
                addr: RawIp::V16(mapped),
                ..no_meta
            }),
        ),
    ];
    for (name, ours, message) in cases {
        let bytes = golden(name);
        assert_eq!(
            decode_packet(&bytes, &lenient("default")),
            good(vec![message.clone()]),
            "{name}"
        );
        let encoded = encode_message(&message, "default");
        assert_eq!(encoded == bytes, ours, "{name}");
        assert_eq!(decode(&encoded), good(vec![message]), "{name}");
    }
}

#[test]
fn containers_are_go_s_byte_for_byte() {
    let suspect = Message::Suspect(Suspect {
        incarnation: 3,
        node: "node-b".to_owned(),
        from: "node-a".to_owned(),
    });
    for (name, messages, crc) in [
        ("crc", vec![ping(42)], true),
        (
            "compound-of-user-messages",
            vec![user(b"hi"), user(b"you")],
            false,
        ),
        (
            "compound-of-ping-and-suspect",
            vec![ping(42), suspect],
            false,
        ),
    ] {
        let mut builder = PacketBuilder::new();
        for message in &messages {
            assert!(builder.push(&encode_message(message, "default")));
        }
        assert_eq!(builder.finish(false, crc), golden(name), "{name}");
        assert_eq!(decode(&golden(name)), good(messages), "{name}");
    }
    let ack = golden("ack");
    for (name, inner) in [
        ("compress-40-a", &[b'a'; 40][..]),
        ("compress-one-a", b"a"),
        ("stream-compressed-ack", &ack),
    ] {
        assert_eq!(compress(inner), golden(name), "{name}");
    }
    for (name, error) in [
        ("compress-40-a", WireError::UnknownType { type_id: b'a' }),
        ("compress-nothing", WireError::EmptyMessage),
        ("label", WireError::Label(LabelProblem::Second)),
    ] {
        assert_eq!(decode(&golden(name)), bad(error), "{name}");
    }
}

#[test]
fn keys_are_written_in_order() {
    let source = Some(Source {
        addr: RawIp::V4([1; 4]),
        port: 1,
        node: "s".to_owned(),
    });
    for message in [
        Message::Ping(Ping {
            seq_no: 1,
            node: "n".to_owned(),
            source: source.clone(),
        }),
        Message::IndirectPing(IndirectPing {
            seq_no: 1,
            target: RawIp::V4([1; 4]),
            port: 1,
            node: "n".to_owned(),
            nack: false,
            source,
        }),
        Message::Ack(Ack {
            seq_no: 1,
            payload: Bytes::new(),
        }),
        Message::Suspect(Suspect {
            incarnation: 1,
            node: "n".to_owned(),
            from: "f".to_owned(),
        }),
        Message::Alive(alive()),
    ] {
        let bytes = encode_message(&message, "c");
        let mut fields = crate::wire::msgpack::Fields::open(&bytes[1..]).unwrap();
        let keys: Vec<_> = std::iter::from_fn(|| fields.next().unwrap())
            .map(|field| field.0)
            .collect();
        assert!(keys.len() > 1 && keys.is_sorted(), "{message:?}");
    }
}
