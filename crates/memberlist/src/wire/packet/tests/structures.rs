//! How the structures are read: as leniently as Go, then checked.

use super::*;

#[test]
fn integers_are_taken_in_any_width_if_they_fit() {
    let port = |value: &[u8]| decode_packet(&alive_with(&[("Port", value)]), &filter(""));
    for value in [
        &b"\xd0\x07"[..],
        b"\xd1\x00\x07",
        b"\xd2\x00\x00\x00\x07",
        b"\xd3\0\0\0\0\0\0\0\x07",
        b"\xcc\x07",
        b"\xce\x00\x00\x00\x07",
        b"\xcf\0\0\0\0\0\0\0\x07",
    ] {
        let Message::Alive(alive) = &port(value).messages[0] else {
            panic!("{value:02x?}")
        };
        assert_eq!(alive.port, 7);
    }
    for value in [
        &b"\xff"[..],
        b"\xd1\xff\xff",
        b"\xce\x00\x01\x00\x00",
        b"\xca\x40\xe0\x00\x00",
        b"\xa17",
        b"\xc3",
        b"\x90",
    ] {
        let [
            WireError::Msgpack {
                problem: MsgpackProblem::Type { field, .. },
                ..
            },
        ] = &port(value).errors[..]
        else {
            panic!("{value:02x?}: {:?}", port(value));
        };
        assert_eq!(field, "Port");
    }
}

/// The lenient half of the reader: what both generations of Go's library take.
#[test]
fn structures_are_read_as_go_reads_them() {
    let expected = good(vec![ping(7)]);
    for (what, bytes) in [
        (
            "keys in any order",
            structure(0, &[("SeqNo", b"\x07"), ("Node", b"\xa6node-b")]),
        ),
        (
            "unknown key",
            structure(
                0,
                &[
                    ("Zz", b"\x81\x01\x92\x01\xc0"),
                    ("SeqNo", b"\x07"),
                    ("Node", b"\xa6node-b"),
                ],
            ),
        ),
        (
            "the last of two",
            structure(
                0,
                &[
                    ("SeqNo", b"\x09"),
                    ("SeqNo", b"\x07"),
                    ("Node", b"\xa6node-b"),
                ],
            ),
        ),
        (
            "another case",
            structure(
                0,
                &[
                    ("seqno", b"\xa1x"),
                    ("SeqNo", b"\x07"),
                    ("Node", b"\xa6node-b"),
                ],
            ),
        ),
        (
            "str8",
            structure(0, &[("SeqNo", b"\x07"), ("Node", b"\xd9\x06node-b")]),
        ),
        (
            "bin8 string",
            structure(0, &[("SeqNo", b"\x07"), ("Node", b"\xc4\x06node-b")]),
        ),
        (
            "map16",
            [
                &b"\x00\xde\x00\x02"[..],
                &structure(0, &[("SeqNo", b"\x07"), ("Node", b"\xa6node-b")])[2..],
            ]
            .concat(),
        ),
        (
            "bytes after it",
            [
                structure(0, &[("SeqNo", b"\x07"), ("Node", b"\xa6node-b")]),
                b"tail".to_vec(),
            ]
            .concat(),
        ),
    ] {
        assert_eq!(decode(&bytes), expected, "{what}");
    }
    // A missing or nil field is zero.
    let zero = Message::Ping(Ping {
        seq_no: 0,
        node: String::new(),
        source: None,
    });
    assert_eq!(
        decode(&structure(0, &[("X", b"\x01")])),
        good(vec![zero.clone()])
    );
    assert_eq!(
        decode(&structure(0, &[("Node", b"\xc0"), ("SeqNo", b"\xc0")])),
        good(vec![zero])
    );
    // Booleans also as numbers.
    for (value, nack) in [
        (&b"\xc2"[..], false),
        (b"\xc3", true),
        (b"\x00", false),
        (b"\x01", true),
        (b"\xc0", false),
    ] {
        let fields = [
            ("Nack", value),
            ("Node", b"\xa1n"),
            ("Target", b"\xa4\x01\x02\x03\x04"),
        ];
        let Message::IndirectPing(relay) = &decode(&structure(1, &fields)).messages[0] else {
            panic!()
        };
        assert_eq!(relay.nack, nack);
    }
}

/// The strict half.
#[test]
fn structures_of_another_shape_are_refused() {
    let problem = |bytes: &[u8]| match &decode(bytes).errors[..] {
        [WireError::Msgpack { problem, .. }] => problem.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(problem(b"\x00\xc0"), MsgpackProblem::NotAMap(0xc0));
    assert_eq!(
        problem(b"\x00\x92\x07\xa6node-b"),
        MsgpackProblem::NotAMap(0x92)
    );
    assert_eq!(problem(b"\x00\x80"), MsgpackProblem::EmptyMap);
    assert!(matches!(problem(b"\x00"), MsgpackProblem::Truncated { .. }));
    assert!(matches!(
        problem(b"\x00\x81\xa4Node\xdb\xff\xff\xff\xffab"),
        MsgpackProblem::Truncated { .. }
    ));
    for (field, value) in [
        ("Node", &b"\xa2\xff\xfe"[..]),
        ("Node", b"\x05"),
        ("SeqNo", b"\xa15"),
        ("SeqNo", b"\xca\0\0\0\0"),
        ("SourceAddr", b"\x92\x01\x02"),
    ] {
        let MsgpackProblem::Type { field: named, .. } = problem(&structure(0, &[(field, value)]))
        else {
            panic!()
        };
        assert_eq!(named, field);
    }
    let deep = [&[0x91; 17][..], b"\x01"].concat();
    assert_eq!(
        problem(&structure(0, &[("Zz", &deep)])),
        MsgpackProblem::TooDeep
    );
}

#[test]
fn fields_are_checked() {
    let long_name = [&b"\xda\x01\x00"[..], &[b'n'; 256]].concat();
    let long_meta = [&b"\xda\x02\x01"[..], &[0; 513]].concat();
    for (field, value) in [
        ("Addr", &b""[..]),
        ("Addr", b"\xc0"),
        ("Addr", b"\xa3\x0a\x00\x00"),
        ("Addr", b"\xa4\x00\x00\x00\x00"),
        ("Addr", b"\xa4\xff\xff\xff\xff"),
        ("Addr", b"\xa4\xe0\x00\x00\x01"),
        (
            "Addr",
            b"\xb0\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
        ),
        (
            "Addr",
            b"\xb0\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x00\x00\x00\x00",
        ),
        (
            "Addr",
            b"\xb0\xff\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01",
        ),
        ("Incarnation", b"\x00"),
        ("Incarnation", b""),
        ("Meta", &long_meta),
        ("Node", b"\xa0"),
        ("Node", b""),
        ("Node", &long_name),
        ("Node", b"\xa3a\nb"),
        ("Node", b"\xa3a\x1bb"),
        ("Vsn", b""),
        ("Vsn", b"\xa5\x01\x05\x02\x00\x00"),
        ("Vsn", b"\xa6\x00\x05\x02\x00\x00\x00"),
        ("Vsn", b"\xa6\x03\x05\x02\x00\x00\x00"),
        ("Vsn", b"\xa6\x01\x02\x03\x00\x00\x00"),
    ] {
        let packet = decode_packet(&alive_with(&[(field, value)]), &filter(""));
        assert_eq!(
            invalid_field(&packet),
            Some(field),
            "{field} {value:02x?}: {packet:?}"
        );
    }
    for (field, value) in [
        ("Port", &b""[..]),
        ("Meta", &[&b"\xda\x02\x00"[..], &[0; 512]].concat()),
        (
            "Node",
            &[&b"\xda\x00\xff"[..], &[b'n'; NAME_BYTES_MAX]].concat(),
        ),
        ("Vsn", b"\xa7\x01\x05\x02\x00\x00\x00\x09"),
        (
            "Addr",
            b"\xb0\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01",
        ),
    ] {
        let packet = decode_packet(&alive_with(&[(field, value)]), &filter(""));
        assert_eq!(packet.messages.len(), 1, "{field} {value:02x?}: {packet:?}");
    }
}

#[test]
fn names_in_every_message_are_checked() {
    let long = [&b"\xda\x01\x00"[..], &[b'n'; 256]].concat();
    let payload = [&b"\xda\x02\x01"[..], &[0; 513]].concat();
    let target: &[u8] = b"\xa4\x01\x02\x03\x04";
    for (type_id, field, fields) in [
        (0, "Node", &[("Node", &long[..])][..]),
        (
            0,
            "SourceNode",
            &[("Node", b"\xa1n"), ("SourceNode", &long)],
        ),
        (1, "Node", &[("Target", target)]),
        (1, "Target", &[("Node", b"\xa1n")]),
        (
            1,
            "Target",
            &[("Node", b"\xa1n"), ("Target", b"\xa2\x01\x02")],
        ),
        (2, "Payload", &[("Payload", &payload)]),
        (3, "Node", &[("From", b"\xa1f")]),
        (3, "From", &[("Node", b"\xa1n"), ("From", &long)]),
        (5, "Node", &[("From", b"\xa1f")]),
        (5, "From", &[("Node", b"\xa1n"), ("From", b"\xa1\x07")]),
    ] {
        let packet = decode_packet(&structure(type_id, fields), &filter(""));
        assert_eq!(
            invalid_field(&packet),
            Some(field),
            "type {type_id}: {packet:?}"
        );
    }
}

#[test]
fn half_a_source_is_none() {
    let with = |addr: &[u8], port: &[u8]| {
        let fields = [
            ("Node", &b"\xa1n"[..]),
            ("SourceAddr", addr),
            ("SourcePort", port),
        ];
        match decode(&structure(0, &fields)).messages.pop() {
            Some(Message::Ping(ping)) => ping.source,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(with(b"\xc0", b"\x07"), None);
    assert_eq!(with(b"\xa3\x01\x02\x03", b"\x07"), None);
    assert_eq!(with(b"\xa4\x01\x02\x03\x04", b"\x00"), None);
    let addr = RawIp::V4([1, 2, 3, 4]);
    assert_eq!(
        with(b"\xa4\x01\x02\x03\x04", b"\x07"),
        Some(Source {
            addr,
            port: 7,
            node: String::new()
        })
    );
}

#[test]
fn cluster_names_are_compared_byte_for_byte() {
    let message = |name: Option<&str>| match name {
        Some(name) => encode_message(&Message::Alive(alive()), name),
        None => alive_with(&[]),
    };
    for (name, filter, accepted) in [
        (Some("lab"), filter("lab"), true),
        (Some("lab"), filter("Lab"), false),
        (Some("lab"), filter(""), false),
        (Some(""), filter("lab"), false),
        (Some(""), filter(""), true),
        (None, filter("lab"), false),
        (None, filter(""), true),
        (None, lenient("lab"), true),
        (Some("lab"), lenient("lab"), true),
        (Some("other"), lenient("lab"), false),
        (Some(""), lenient("lab"), false),
    ] {
        let packet = decode_packet(&message(name), &filter);
        assert_eq!(
            packet.messages.len(),
            usize::from(accepted),
            "{name:?} {filter:?}"
        );
        let refused = matches!(
            packet.errors[..],
            [WireError::ClusterMismatch {
                structure: "alive",
                ..
            }]
        );
        assert_eq!(refused, !accepted, "{name:?} {filter:?}: {packet:?}");
    }
    // Suspect and dead are checked like alive; the rest has no name.
    let accusation = Suspect {
        incarnation: 3,
        node: "n".to_owned(),
        from: "f".to_owned(),
    };
    let dead = Dead {
        incarnation: 3,
        node: "n".to_owned(),
        from: "f".to_owned(),
    };
    for message in [Message::Suspect(accusation), Message::Dead(dead)] {
        let packet = decode_packet(&encode_message(&message, "other"), &filter("lab"));
        assert!(
            matches!(packet.errors[..], [WireError::ClusterMismatch { .. }]),
            "{packet:?}"
        );
    }
    for message in [ping(1), user(b"x"), Message::Nack(Nack { seq_no: 1 })] {
        assert_eq!(
            decode_packet(&encode_message(&message, "other"), &filter("lab")),
            good(vec![message])
        );
    }
}
