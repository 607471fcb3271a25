//! Streams: Go's bytes, every cut of them, and what is refused. The helpers are shared with the
//! modules below.

mod limits;
mod properties;

use super::*;
use crate::wire::{
    error::{CompressionProblem, MsgpackProblem},
    golden::golden,
    limits::*,
    message::*,
};

fn filter(name: &str) -> ClusterFilter {
    ClusterFilter {
        name: name.to_owned(),
        accept_missing: false,
    }
}

/// Feeds the whole stream at once and expects the message, then byte by byte and expects that it
/// is complete exactly at the last one.
fn decode(stream: &[u8], filter: &ClusterFilter) -> StreamMessage {
    let Ok(StreamProgress::Complete(message)) = StreamDecoder::new(filter.clone()).feed(stream)
    else {
        panic!("not complete: {stream:02x?}");
    };
    let mut decoder = StreamDecoder::new(filter.clone());
    for (index, byte) in stream.iter().enumerate() {
        match decoder.feed(&[*byte]).unwrap() {
            StreamProgress::NeedMore => {
                assert!(index + 1 < stream.len(), "all bytes and no message");
                let available = index + 1;
                let truncated = WireError::Stream(StreamProblem::Truncated { available });
                assert_eq!(decoder.finish_at_eof(), Err(truncated));
            }
            StreamProgress::Complete(again) => {
                assert_eq!((index + 1, &again), (stream.len(), &message));
            }
        }
    }
    assert_eq!(decoder.finish_at_eof(), Ok(()));
    message
}

/// The error of a stream, however it is cut.
fn refused(stream: &[u8]) -> WireError {
    let error = StreamDecoder::new(filter("")).feed(stream).unwrap_err();
    let mut decoder = StreamDecoder::new(filter(""));
    let again = stream.iter().find_map(|byte| decoder.feed(&[*byte]).err());
    assert_eq!(again, Some(error.clone()));
    error
}

fn node(name: &str) -> PushNode {
    PushNode {
        name: name.to_owned(),
        addr: RawIp::V4([10, 0, 0, 1]),
        port: 7946,
        meta: Bytes::from_static(br#"{"ClusterName":"default","State":"Running"}"#),
        incarnation: 1,
        state: NodeState::Alive,
        versions: Versions::OURS,
    }
}

fn table(nodes: Vec<PushNode>, user_state: &'static [u8]) -> PushPull {
    PushPull {
        join: true,
        nodes,
        user_state: Bytes::from_static(user_state),
    }
}

/// A push/pull of no cluster whose head has these values, as msgpack, and nothing after it.
fn head(nodes: &[u8], user_state_bytes: &[u8]) -> Vec<u8> {
    [
        b"\x06\x83\xa4Join\xc2\xa5Nodes",
        nodes,
        b"\xacUserStateLen",
        user_state_bytes,
    ]
    .concat()
}

/// The entry of node "a", with one field replaced.
fn entry(field: &str, value: &[u8]) -> Vec<u8> {
    let mut fields: Vec<(&str, &[u8])> = vec![
        ("Addr", b"\xa4\x0a\x00\x00\x01"),
        ("Incarnation", b"\x01"),
        ("Meta", b"\xc0"),
        ("Name", b"\xa1a"),
        ("Port", b"\x07"),
        ("State", b"\x00"),
        ("Vsn", b"\xa6\x01\x05\x02\x00\x00\x00"),
    ];
    fields
        .iter_mut()
        .filter(|known| known.0 == field)
        .for_each(|known| known.1 = value);
    let mut out = vec![0x87];
    for (key, value) in fields {
        out.push(0xa0 | u8::try_from(key.len()).unwrap());
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(value);
    }
    out
}

/// Bytes checked against the Go encoders, and whether they are compressed.
#[test]
fn messages_are_go_s_byte_for_byte() {
    let json = concat!(
        r#"{"Servers":{},"LastChanged":"1970-01-01T00:00:00Z","#,
        r#""ClusterName":"default","Hostname":"node-a"}"#
    );
    let reply = PushNode {
        addr: RawIp::V4([127, 0, 0, 1]),
        port: 7960,
        ..node("f1")
    };
    let push_pull =
        |node, state: &'static str| StreamMessage::PushPull(table(vec![node], state.as_bytes()));
    let ping = Ping {
        seq_no: 42,
        node: "node-b".to_owned(),
        source: None,
    };
    let ack = Ack {
        seq_no: 42,
        payload: Bytes::new(),
    };
    for (name, compress, message) in [
        ("stream-push-pull", false, push_pull(node("node-a"), json)),
        (
            "stream-push-pull-captured",
            false,
            push_pull(reply, "STATE"),
        ),
        (
            "stream-user",
            false,
            StreamMessage::User(Bytes::from_static(b"hello")),
        ),
        (
            "stream-error",
            false,
            StreamMessage::Error("boom".to_owned()),
        ),
        ("ping", false, StreamMessage::Ping(ping)),
        ("stream-compressed-ack", true, StreamMessage::Ack(ack)),
    ] {
        assert_eq!(decode(&golden(name), &filter("default")), message, "{name}");
        assert_eq!(
            encode_stream(&message, "default", compress),
            golden(name),
            "{name}"
        );
    }
}

/// Heads and entries alone, also with the signed integers newer peers write.
#[test]
fn parts_of_messages_are_go_s() {
    let header = |join, nodes, user_state_bytes| body::PushPullHeader {
        join,
        nodes,
        user_state_bytes,
    };
    for (expected, bytes) in [
        (header(true, 1, 200), "push-pull-header"),
        (header(true, 1, 200), "push-pull-header-signed"),
        (header(false, 130, 70_000), "push-pull-header-signed-large"),
    ] {
        let lenient = ClusterFilter {
            accept_missing: true,
            ..filter("default")
        };
        assert_eq!(
            body::decode_push_pull_header(&golden(bytes), &lenient),
            Ok(expected)
        );
    }
    let bytes = golden("push-node");
    assert_eq!(body::decode_push_node(&bytes), Ok(node("node-a")));
    assert_eq!(
        body::decode_user_header(&golden("user-header-signed")),
        Ok(200)
    );
}

#[test]
fn each_state_is_written_as_its_number() {
    let states = [
        NodeState::Alive,
        NodeState::Suspect,
        NodeState::Dead,
        NodeState::Left,
    ];
    for (number, state) in (0..).zip(states) {
        let node = PushNode { state, ..node("n") };
        let written = encode_stream(&StreamMessage::PushPull(table(vec![node], b"")), "", false);
        let StreamMessage::PushPull(read) = decode(&written, &filter("")) else {
            panic!()
        };
        assert_eq!(read.nodes[0].state, state);
        let stream = [head(b"\x01", b"\x00"), entry("State", &[number])].concat();
        let StreamMessage::PushPull(read) = decode(&stream, &filter("")) else {
            panic!()
        };
        assert_eq!(read.nodes[0].state, state);
    }
}

#[test]
fn bytes_after_the_message_are_ignored() {
    let message = StreamMessage::User(Bytes::from_static(b"hello"));
    for compress in [false, true] {
        let mut stream = encode_stream(&message, "", compress);
        stream.extend_from_slice(b"trailing");
        let mut decoder = StreamDecoder::new(filter(""));
        assert_eq!(
            decoder.feed(&stream),
            Ok(StreamProgress::Complete(message.clone()))
        );
        let ended = Err(WireError::Stream(StreamProblem::Ended));
        assert_eq!(decoder.feed(b"more"), ended);
    }
}

#[test]
fn nothing_at_all_is_no_error() {
    let mut decoder = StreamDecoder::new(filter(""));
    assert_eq!(decoder.finish_at_eof(), Ok(()));
    assert_eq!(decoder.feed(b""), Ok(StreamProgress::NeedMore));
    assert_eq!(decoder.finish_at_eof(), Ok(()));
}

#[test]
fn types_that_have_no_place_are_refused_at_the_first_byte() {
    for type_id in [1, 3, 4, 5, 7, 11, 12, 14, 255] {
        assert_eq!(refused(&[type_id]), WireError::UnknownType { type_id });
        assert_eq!(
            refused(&packet::compress(&[type_id])),
            WireError::UnknownType { type_id }
        );
    }
    assert_eq!(
        refused(&[244, 0]),
        WireError::Label(LabelProblem::Malformed)
    );
    let twice = packet::compress(&packet::compress(b"\x0d\x81\xa5Error\xa0"));
    assert_eq!(refused(&twice), WireError::Nesting);
    assert_eq!(
        refused(&golden("compress-nothing")),
        WireError::EmptyMessage
    );
}

#[test]
fn structures_must_be_maps_or_nothing_more_is_awaited() {
    for type_id in [0, 2, 6, 8, 9, 13] {
        // A string of 4 GiB to come, an array, nil.
        for head in [&b"\xdb\xff\xff\xff\xff"[..], b"\x92", b"\xc0"] {
            assert!(matches!(
                refused(&[&[type_id], head].concat()),
                WireError::Msgpack { problem: MsgpackProblem::NotAMap(found), .. } if found == head[0]
            ));
        }
    }
}

#[test]
fn truncated_inside_the_compression_is_an_error() {
    let message = StreamMessage::PushPull(table(vec![node("a"), node("b")], b"some state"));
    let plain = encode_stream(&message, "", false);
    for cut in 1..plain.len() {
        let error = StreamDecoder::new(filter(""))
            .feed(&packet::compress(&plain[..cut]))
            .unwrap_err();
        assert!(
            matches!(error, WireError::Stream(StreamProblem::Truncated { available }) if available == cut)
                || matches!(
                    error,
                    WireError::Stream(StreamProblem::Length { field: "Nodes", .. })
                ),
            "{cut}: {error}"
        );
    }
    let whole = packet::compress(&[&plain[..], b"trailing"].concat());
    assert_eq!(decode(&whole, &filter("")), message);
}

#[test]
fn other_cluster_is_refused_at_the_head() {
    let push_pull = |nodes| {
        let message = StreamMessage::PushPull(table(nodes, b"state"));
        encode_stream(&message, "other", false)
    };
    let (one, two) = (
        push_pull(vec![node("a")]),
        push_pull(vec![node("a"), node("a")]),
    );
    let head_end = one.len() - (two.len() - one.len()) - b"state".len();
    let mut decoder = StreamDecoder::new(filter("lab"));
    assert_eq!(
        decoder.feed(&one[..head_end - 1]),
        Ok(StreamProgress::NeedMore)
    );
    let error = decoder.feed(&one[head_end - 1..head_end]).unwrap_err();
    let found = "\"other\"".to_owned();
    assert_eq!(
        error,
        WireError::ClusterMismatch {
            structure: "pushPullHeader",
            found
        }
    );
    // No name at all.
    let bare = head(b"\x00", b"\x00");
    let error = StreamDecoder::new(filter("lab")).feed(&bare).unwrap_err();
    assert!(matches!(error, WireError::ClusterMismatch { .. }));
    let lenient = ClusterFilter {
        accept_missing: true,
        ..filter("lab")
    };
    assert!(matches!(
        decode(&bare, &lenient),
        StreamMessage::PushPull(_)
    ));
    // Pings pass whatever the cluster.
    let ping = StreamMessage::Ping(Ping {
        seq_no: 1,
        node: "a".to_owned(),
        source: None,
    });
    assert_eq!(
        decode(&encode_stream(&ping, "other", true), &filter("lab")),
        ping
    );
}

#[test]
fn bad_entries_are_skipped_one_by_one() {
    for (field, value) in [
        ("Addr", &b"\xa4\x00\x00\x00\x00"[..]),
        ("Addr", b"\xa3\x01\x02\x03"),
        ("Incarnation", b"\x00"),
        ("Incarnation", b"\xa1x"),
        ("Name", b"\xa0"),
        ("Name", b"\xa1\xff"),
        ("Name", b"\x92\x01\x02"),
        ("State", b"\x04"),
        ("State", b"\xff"),
        ("Vsn", b"\xc0"),
        ("Vsn", b"\xa3\x01\x05\x02"),
    ] {
        let good = entry("", b"");
        let bad = entry(field, value);
        let plain = [
            head(b"\x04", b"\x02"),
            good.clone(),
            bad,
            b"\x80".to_vec(),
            good,
            b"ok".to_vec(),
        ]
        .concat();
        for stream in [packet::compress(&plain), plain] {
            let mut decoder = StreamDecoder::new(filter(""));
            let Ok(StreamProgress::Complete(StreamMessage::PushPull(table))) =
                decoder.feed(&stream)
            else {
                panic!("{field} {value:02x?}");
            };
            assert_eq!(
                (table.nodes.len(), &table.user_state[..]),
                (2, &b"ok"[..]),
                "{field} {value:02x?}"
            );
            assert_eq!(decoder.skipped_entries(), 2);
            assert!(
                decoder
                    .first_skipped_entry()
                    .unwrap()
                    .to_string()
                    .contains(field)
            );
        }
    }
}

#[test]
fn entry_that_cannot_be_skipped_ends_the_stream() {
    let broken = [head(b"\x02", b"\x00"), b"\x81\xa4Name\xc1".to_vec()].concat();
    assert!(matches!(
        refused(&broken),
        WireError::Msgpack {
            structure: "pushNodeState",
            ..
        }
    ));
    let deep = [
        head(b"\x02", b"\x00"),
        b"\x81\xa1x".to_vec(),
        vec![0x91; 17],
    ]
    .concat();
    assert!(matches!(
        refused(&deep),
        WireError::Msgpack {
            problem: MsgpackProblem::TooDeep,
            ..
        }
    ));
}

#[test]
fn error_text_is_capped_and_printable() {
    let text = "no\x1b[2Jkey\n";
    let stream = encode_stream(&StreamMessage::Error(text.to_owned()), "", true);
    assert_eq!(
        decode(&stream, &filter("")),
        StreamMessage::Error("no [2Jkey ".to_owned())
    );
    let longest = StreamMessage::Error("x".repeat(ERROR_TEXT_BYTES_MAX));
    assert_eq!(
        decode(&encode_stream(&longest, "", false), &filter("")),
        longest
    );
    let longer = StreamMessage::Error("x".repeat(ERROR_TEXT_BYTES_MAX + 1));
    let error = refused(&encode_stream(&longer, "", false));
    assert!(
        matches!(error, WireError::FieldInvalid { field: "Error", .. }),
        "{error}"
    );
}

#[test]
fn empty_user_message_is_a_message() {
    let empty = StreamMessage::User(Bytes::new());
    assert_eq!(decode(&encode_stream(&empty, "", true), &filter("")), empty);
}
