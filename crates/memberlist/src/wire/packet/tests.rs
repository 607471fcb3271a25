//! Datagrams: every rule of the containers, and what the builder refuses. The helpers are shared
//! with the modules below.

mod golden;
mod properties;
mod structures;

use super::*;
use crate::wire::{
    error::{CompressionProblem, MsgpackProblem},
    limits::NAME_BYTES_MAX,
    message::*,
};
use bytes::Bytes;

fn filter(name: &str) -> ClusterFilter {
    ClusterFilter {
        name: name.to_owned(),
        accept_missing: false,
    }
}

fn lenient(name: &str) -> ClusterFilter {
    ClusterFilter {
        name: name.to_owned(),
        accept_missing: true,
    }
}

fn ping(seq_no: u32) -> Message {
    Message::Ping(Ping {
        seq_no,
        node: "node-b".to_owned(),
        source: None,
    })
}

fn user(content: &[u8]) -> Message {
    Message::User(Bytes::copy_from_slice(content))
}

fn alive() -> Alive {
    Alive {
        incarnation: 1,
        node: "node-a".to_owned(),
        addr: RawIp::V4([10, 0, 0, 1]),
        port: 7946,
        meta: Bytes::from_static(br#"{"ClusterName":"default","State":"Running"}"#),
        versions: Versions::OURS,
    }
}

fn good(messages: Vec<Message>) -> DecodedPacket {
    DecodedPacket {
        messages,
        errors: Vec::new(),
    }
}

fn bad(error: WireError) -> DecodedPacket {
    DecodedPacket {
        messages: Vec::new(),
        errors: vec![error],
    }
}

fn decode(datagram: &[u8]) -> DecodedPacket {
    decode_packet(datagram, &filter("default"))
}

/// A compound as anybody might write it, not only as we do.
fn compound(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = vec![7, u8::try_from(parts.len()).unwrap()];
    for part in parts {
        out.extend_from_slice(&u16::try_from(part.len()).unwrap().to_be_bytes());
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

fn crc(message: &[u8]) -> Vec<u8> {
    [&[12], &crc32fast::hash(message).to_be_bytes()[..], message].concat()
}

/// A structure with these fields; the values stand as msgpack.
fn structure(type_id: u8, fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = vec![type_id, 0x80 | u8::try_from(fields.len()).unwrap()];
    for (key, value) in fields {
        out.push(0xa0 | u8::try_from(key.len()).unwrap());
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(value);
    }
    out
}

/// A good alive of no cluster, with some fields replaced or, by an empty value, left out.
fn alive_with(changes: &[(&str, &[u8])]) -> Vec<u8> {
    let mut fields: Vec<(&str, &[u8])> = vec![
        ("Addr", b"\xa4\x0a\x00\x00\x01"),
        ("Incarnation", b"\x01"),
        ("Meta", b"\xc0"),
        ("Node", b"\xa1a"),
        ("Port", b"\xcd\x1f\x0a"),
        ("Vsn", b"\xa6\x01\x05\x02\x00\x00\x00"),
    ];
    for change in changes {
        match fields.iter_mut().find(|field| field.0 == change.0) {
            Some(field) => field.1 = change.1,
            None => fields.push(*change),
        }
    }
    fields.retain(|field| !field.1.is_empty());
    structure(4, &fields)
}

fn invalid_field(packet: &DecodedPacket) -> Option<&'static str> {
    match &packet.errors[..] {
        [WireError::FieldInvalid { field, .. }] if packet.messages.is_empty() => Some(field),
        _ => None,
    }
}

#[test]
fn types_that_have_no_place_are_refused() {
    for type_id in [6, 10, 13, 14, 100, 243, 255] {
        assert_eq!(
            decode(&[type_id, 0x80]),
            bad(WireError::UnknownType { type_id })
        );
    }
    // Only the outermost may be a checksum or a label, and a checksum has five bytes.
    for type_id in [12, 244] {
        assert_eq!(
            decode(&compound(&[&[type_id, 1, 2, 3, 4, 5]])),
            bad(WireError::UnknownType { type_id })
        );
    }
    assert_eq!(
        decode(&compound(&[&crc(b"\x08hi")])),
        bad(WireError::UnknownType { type_id: 12 })
    );
    assert_eq!(
        decode(&crc(&crc(b"\x08hi"))),
        bad(WireError::UnknownType { type_id: 12 })
    );
    assert_eq!(
        decode(&[12, 1, 2, 3]),
        bad(WireError::UnknownType { type_id: 12 })
    );
}

#[test]
fn checksums_are_checked_when_present() {
    let mut datagram = crc(b"\x08hi");
    assert_eq!(decode(&datagram), good(vec![user(b"hi")]));
    datagram[6] ^= 1;
    let error = decode(&datagram).errors.remove(0);
    assert!(
        matches!(
            error,
            WireError::Framing(FramingProblem::CrcMismatch { .. })
        ),
        "{error}"
    );
    assert_eq!(
        decode(&crc(b"")),
        bad(WireError::Framing(FramingProblem::CrcEmpty))
    );
    assert_eq!(decode(b""), bad(WireError::Framing(FramingProblem::Empty)));
}

#[test]
fn compounds_of_any_count_are_read() {
    for count in [0, 1, 2, 127, 128, 255] {
        let parts: Vec<_> = (0..count).map(|index| vec![8, index as u8]).collect();
        let parts: Vec<_> = parts.iter().map(Vec::as_slice).collect();
        let expected: Vec<_> = parts.iter().map(|part| user(&part[1..])).collect();
        let mut datagram = compound(&parts);
        assert_eq!(decode(&datagram), good(expected.clone()), "{count} parts");
        datagram.extend_from_slice(b"trailing");
        assert_eq!(decode(&datagram), good(expected), "{count} parts");
    }
}

#[test]
fn truncated_compound_keeps_what_is_whole() {
    let whole = compound(&[b"\x08one", b"\x08two", b"\x08three"]);
    let packet = decode(&whole[..whole.len() - 7]);
    assert_eq!(packet.messages, [user(b"one")]);
    assert_eq!(
        packet.errors,
        [WireError::CompoundTruncated {
            lost: 2,
            missing: 1
        }]
    );
    for (datagram, parts, expected, actual) in
        [(&b"\x07"[..], 0, 1, 0), (b"\x07\x02\x00\x01\x00", 2, 5, 4)]
    {
        assert_eq!(
            decode(datagram),
            bad(WireError::CompoundTable {
                parts,
                expected,
                actual
            })
        );
    }
}

#[test]
fn bad_part_loses_only_itself() {
    let packet = decode(&compound(&[
        b"\x08one",
        b"",
        b"\x63",
        b"\x00\xc1",
        b"\x08two",
    ]));
    assert_eq!(packet.messages, [user(b"one"), user(b"two")]);
    assert!(
        matches!(
            packet.errors[..],
            [
                WireError::EmptyMessage,
                WireError::UnknownType { type_id: 0x63 },
                WireError::Msgpack {
                    structure: "ping",
                    problem: MsgpackProblem::Reserved
                }
            ]
        ),
        "{packet:?}"
    );
}

#[test]
fn three_containers_of_which_one_compression() {
    let message = b"\x08hi";
    let in_compound = |inner: &[u8]| compound(&[inner]);
    let three = compress(&in_compound(&in_compound(message)));
    assert_eq!(decode(&three), good(vec![user(b"hi")]));
    assert_eq!(decode(&crc(&three)), good(vec![user(b"hi")]));
    assert_eq!(
        decode(&in_compound(&in_compound(&in_compound(message)))),
        good(vec![user(b"hi")])
    );
    assert_eq!(decode(&in_compound(&three)), bad(WireError::Nesting));
    assert_eq!(
        decode(&compress(&compress(message))),
        bad(WireError::Nesting)
    );
    assert_eq!(
        decode(&compress(&in_compound(&compress(message)))),
        bad(WireError::Nesting)
    );
    // Side by side they are not nested.
    let twice = compound(&[&compress(message), &compress(message)]);
    assert_eq!(decode(&twice), good(vec![user(b"hi"), user(b"hi")]));
}

#[test]
fn compression_must_be_lzw_and_whole() {
    let whole = compress(b"\x08hello");
    let problem = |bytes: &[u8]| match decode(bytes).errors.remove(0) {
        WireError::Compression(problem) => problem,
        other => panic!("{other}"),
    };
    assert_eq!(
        problem(&structure(9, &[("Algo", b"\x01"), ("Buf", b"\xa1x")])),
        CompressionProblem::Algorithm(1)
    );
    assert_eq!(
        problem(&structure(9, &[("Algo", b"\x00"), ("Buf", b"\xc0")])),
        CompressionProblem::NoEnd
    );
    assert_eq!(
        problem(&structure(9, &[("Buf", b"\xa4\x00\x05\x02\x02")])),
        CompressionProblem::InvalidCode
    );
    assert!(matches!(
        decode(&whole[..whole.len() - 1]).errors[..],
        [WireError::Msgpack {
            structure: "compress",
            ..
        }]
    ));
    assert_eq!(decode(&whole), good(vec![user(b"hello")]));
}

#[test]
fn inflated_bytes_are_capped_for_the_whole_datagram() {
    let content = vec![8; DECOMPRESSED_PACKET_BYTES_MAX];
    assert_eq!(decode(&compress(&content)), good(vec![user(&content[1..])]));
    let too_large = WireError::Compression(CompressionProblem::TooLarge {
        max: DECOMPRESSED_PACKET_BYTES_MAX,
    });
    assert_eq!(
        decode(&compress(&[&content[..], b"x"].concat())),
        bad(too_large)
    );
    // A bomb after a good part takes only itself along.
    let half = compress(&content[..content.len() / 2]);
    let packet = decode(&compound(&[&half, &half, &half, b"\x08hi"]));
    assert_eq!(packet.messages.len(), 3);
    assert_eq!(packet.messages[2], user(b"hi"));
    assert_eq!(
        packet.errors,
        [WireError::Compression(CompressionProblem::TooLarge {
            max: 0
        })]
    );
}

#[test]
fn messages_of_one_datagram_are_capped() {
    let many = compound(&[&b"\x08"[..]; 200]);
    let packet = decode(&compound(&[&many, &many, &many]));
    assert_eq!(packet.messages.len(), MESSAGES_PER_PACKET_MAX);
    assert_eq!(packet.errors, [WireError::TooManyMessages]);
    // Bad ones count as well.
    let empty = compound(&[&b""[..]; 255]);
    let packet = decode(&compound(&[&empty, &empty]));
    assert_eq!(packet.errors.len(), MESSAGES_PER_PACKET_MAX + 1);
}

#[test]
fn builder_refuses_what_peers_misread() {
    let mut builder = PacketBuilder::new();
    assert!(builder.is_empty() && builder.bytes() == 0);
    assert!(!builder.push(b""));
    assert!(!builder.push(&vec![8; COMPOUND_PART_BYTES_MAX + 1]));
    assert!(builder.is_empty());
    for count in 1..=COMPOUND_PARTS_MAX {
        assert!(builder.push(b"\x08hi"));
        assert_eq!(builder.len(), count);
        let bytes = if count == 1 { 3 } else { 2 + 5 * count };
        assert_eq!(builder.bytes(), bytes);
        assert_eq!(builder.clone().finish(false, false).len(), bytes);
    }
    assert!(!builder.push(b"\x08hi"));
    assert_eq!(
        decode(&builder.finish(true, true)).messages.len(),
        COMPOUND_PARTS_MAX
    );
    assert_eq!(PacketBuilder::new().finish(true, true), b"");
}

#[test]
fn builder_sends_one_message_bare_and_compresses_only_if_shorter() {
    let packet = |message: &[u8], compress| {
        let mut builder = PacketBuilder::new();
        assert!(builder.push(message));
        builder.finish(compress, false)
    };
    assert_eq!(packet(b"\x08hi", true), b"\x08hi");
    let long = vec![8; 200];
    assert_eq!(packet(&long, false), long);
    let compressed = packet(&long, true);
    assert!(compressed[0] == 9 && compressed.len() < 200);
    assert_eq!(decode(&compressed), good(vec![user(&long[1..])]));
    // Not when it comes out even.
    let even = (1..200)
        .map(|length| vec![8; length])
        .find(|m| compress(m).len() == m.len());
    assert_eq!(packet(&even.clone().unwrap(), true), even.unwrap());
}

#[test]
#[cfg(debug_assertions)]
fn messages_that_harm_go_peers_are_not_written() {
    let accused = |from: &str| {
        Message::Dead(Dead {
            incarnation: u32::MAX,
            node: "n".to_owned(),
            from: from.to_owned(),
        })
    };
    encode_message(&accused("n"), "");
    for message in [
        accused("f"),
        Message::Alive(Alive {
            incarnation: 0,
            ..alive()
        }),
    ] {
        assert!(std::panic::catch_unwind(|| encode_message(&message, "")).is_err());
    }
}
