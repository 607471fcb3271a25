//! What must never leave a node whatever comes in, read by a strict reader of the fork's format.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use memberlist::NodeState;
use memberlist::wire::{
    Message, PushNode, PushPull, RawIp, StreamMessage, Versions, encode_message, encode_stream,
};
use proptest::prelude::*;

use crate::bench::{Bench, accusation, address, alive, ping};

const BUDGET: usize = 1400;

#[derive(Debug, PartialEq)]
enum Value {
    Nil,
    Bool,
    Unsigned(u64),
    Raw(Vec<u8>),
}

impl Value {
    fn raw(&self) -> &[u8] {
        match self {
            Self::Raw(bytes) => bytes,
            Self::Nil => &[],
            other => panic!("{other:?} is not a string"),
        }
    }

    fn unsigned(&self) -> u64 {
        match self {
            Self::Unsigned(value) => *value,
            other => panic!("{other:?} is not a number"),
        }
    }
}

/// Takes `count` bytes off the front.
fn take<'a>(input: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(count);
    *input = rest;
    taken
}

fn big_endian(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// One value in one of the few forms that every generation of Go's library reads alike.
fn value(input: &mut &[u8]) -> Value {
    let head = take(input, 1)[0];
    let sized = |input: &mut &[u8], bytes: usize| {
        let length = big_endian(take(input, bytes)) as usize;
        Value::Raw(take(input, length).to_vec())
    };
    match head {
        0..=0x7f => Value::Unsigned(head.into()),
        0xa0..=0xbf => Value::Raw(take(input, usize::from(head & 31)).to_vec()),
        0xc0 => Value::Nil,
        0xc2 | 0xc3 => Value::Bool,
        0xcc..=0xcf => Value::Unsigned(big_endian(take(input, 1 << (head - 0xcc)))),
        0xda => sized(input, 2),
        0xdb => sized(input, 4),
        other => panic!("{other:#x} is not what old libraries read"),
    }
}

/// A structure: a small map with keys in ascending order.
fn structure(input: &mut &[u8]) -> BTreeMap<String, Value> {
    let head = take(input, 1)[0];
    assert!((0x81..=0x8f).contains(&head), "{head:#x} is not a map");
    let mut fields = BTreeMap::new();
    for _ in 0..head & 15 {
        let key = String::from_utf8(value(input).raw().to_vec()).expect("a field's name");
        if let Some((last, _)) = fields.last_key_value() {
            assert!(*last < key, "{key} after {last}");
        }
        fields.insert(key, value(input));
    }
    fields
}

fn check_node(fields: &BTreeMap<String, Value>, sixteen: bool) {
    assert_eq!(fields["Vsn"].raw().len(), 6, "N4");
    assert!(fields["Meta"].raw().len() <= 512, "N11");
    let length = fields["Addr"].raw().len();
    assert_eq!(length, if sixteen { 16 } else { 4 }, "N8");
}

/// The members whose addresses were told in sixteen bytes have even numbers.
fn is_told_in_sixteen(name: &[u8]) -> bool {
    name != b"us" && name.last().is_some_and(|digit| digit % 2 == 0)
}

fn check_message(mut message: &[u8]) {
    let type_id = take(&mut message, 1)[0];
    if type_id == 8 {
        return;
    }
    assert!(
        matches!(type_id, 0..=5 | 11),
        "type {type_id} in a datagram"
    );
    let fields = structure(&mut message);
    assert_eq!(message, b"", "bytes after the structure");
    match type_id {
        3 | 5 => {
            let (node, from) = (fields["Node"].raw(), fields["From"].raw());
            let incarnation = fields["Incarnation"].unsigned();
            assert!(incarnation < u64::from(u32::MAX) || node == from, "N7");
            assert_eq!(fields["ClusterName"].raw(), b"default");
        }
        4 => {
            check_node(&fields, is_told_in_sixteen(fields["Node"].raw()));
            assert!(fields["Incarnation"].unsigned() > 0, "N7");
            assert_eq!(fields["ClusterName"].raw(), b"default");
        }
        _ => assert!(fields.contains_key("SeqNo")),
    }
}

fn check_datagram(datagram: &[u8]) {
    assert!(datagram.len() <= BUDGET + 7, "N11: {}", datagram.len());
    let mut packet = datagram;
    if datagram[0] == 12 {
        let checksum = big_endian(&datagram[1..5]);
        packet = &datagram[5..];
        assert!(!packet.is_empty(), "N1");
        assert_eq!(checksum, u64::from(crc32fast::hash(packet)));
    }
    assert_ne!(packet[0], 244, "N9");
    if packet[0] != 7 {
        return check_message(packet);
    }
    // As the fork computes it, in eight bits.
    let table = packet[1].wrapping_mul(2);
    assert!((2..=127).contains(&packet[1]), "N2: {} parts", packet[1]);
    let (lengths, mut parts) = packet[2..].split_at(table.into());
    for length in lengths.chunks(2) {
        let length = big_endian(length) as usize;
        assert!(length > 0, "N1");
        check_message(take(&mut parts, length));
    }
    assert_eq!(parts, b"", "bytes after the last part");
}

fn check_stream(mut stream: &[u8], entries: usize) {
    assert_eq!(take(&mut stream, 1), [6]);
    let header = structure(&mut stream);
    assert_eq!(header["Nodes"].unsigned(), entries as u64, "N5");
    assert_eq!(header["UserStateLen"].unsigned(), 0, "N5");
    for _ in 0..entries {
        let fields = structure(&mut stream);
        check_node(&fields, is_told_in_sixteen(fields["Name"].raw()));
        let state = fields["State"].unsigned();
        assert!(state <= 2, "the fork knows no other state");
        let incarnation = fields["Incarnation"].unsigned();
        assert!(incarnation > 0 || state != 0, "N7");
        assert!(incarnation < u64::from(u32::MAX) || state == 0, "N7");
    }
    assert_eq!(stream, b"");
}

#[derive(Debug, Clone)]
enum Happens {
    Alive(u8, u32),
    Accused(bool, u8, u32, u8),
    Pinged,
    AskedToRelay(u8),
    Merge(u8, u32, NodeState),
    Broadcast(usize),
    Unsendable(u8),
    Pass(u64),
    Leave,
}

fn happens() -> impl Strategy<Value = Happens> {
    let id = 1..8_u8;
    let incarnation = || prop_oneof![1..6_u32, Just(u32::MAX - 1), Just(u32::MAX)];
    let state = prop_oneof![
        Just(NodeState::Alive),
        Just(NodeState::Suspect),
        Just(NodeState::Dead),
        Just(NodeState::Left)
    ];
    prop_oneof![
        8 => (id.clone(), incarnation()).prop_map(|(id, i)| Happens::Alive(id, i)),
        6 => (any::<bool>(), id.clone(), incarnation(), id.clone())
            .prop_map(|(dead, id, i, from)| Happens::Accused(dead, id, i, from)),
        2 => Just(Happens::Pinged),
        2 => id.clone().prop_map(Happens::AskedToRelay),
        3 => (id.clone(), incarnation(), state).prop_map(|(id, i, s)| Happens::Merge(id, i, s)),
        4 => (0..3000_usize).prop_map(Happens::Broadcast),
        1 => id.prop_map(Happens::Unsendable),
        8 => (1..4000_u64).prop_map(Happens::Pass),
        1 => Just(Happens::Leave),
    ]
}

/// Number 1 is us, at our own address.
fn name(id: u8) -> String {
    match id {
        1 => "us".to_owned(),
        _ => format!("n{id}"),
    }
}

/// Even ones are told in sixteen bytes, as a Go node bound to the wildcard does it.
fn raw(id: u8) -> RawIp {
    match address(id).ip() {
        std::net::IpAddr::V4(v4) if id.is_multiple_of(2) => {
            RawIp::V16(v4.to_ipv6_mapped().octets())
        }
        ip => RawIp::from(ip),
    }
}

fn apply(bench: &mut Bench, what: Happens) {
    match what {
        Happens::Alive(id, incarnation) => {
            let mut alive = alive(id, incarnation);
            (alive.node, alive.addr) = (name(id), raw(id));
            bench.receive(&Message::Alive(alive));
        }
        Happens::Accused(dead, id, incarnation, from) => {
            let type_id = if dead { 5 } else { 3 };
            let bytes = accusation(type_id, &name(id), incarnation, &name(from));
            bench.receive_bytes(&bytes);
        }
        Happens::Pinged => bench.receive(&Message::Ping(ping(1, "us"))),
        Happens::AskedToRelay(id) => {
            bench.receive(&Message::IndirectPing(memberlist::wire::IndirectPing {
                seq_no: 9,
                target: raw(id),
                port: 7946,
                node: name(id),
                nack: true,
                source: None,
            }));
        }
        Happens::Merge(id, incarnation, state) => {
            let node = PushNode {
                name: name(id),
                addr: raw(id),
                port: 7946,
                meta: Bytes::new(),
                incarnation,
                state,
                versions: Versions::OURS,
            };
            let remote = PushPull {
                join: false,
                nodes: vec![node],
                user_state: Bytes::new(),
            };
            bench
                .node
                .merge(bench.now, remote, false)
                .expect("versions fit");
        }
        Happens::Broadcast(length) => {
            bench.node.broadcast(None, Bytes::from(vec![b'x'; length]));
        }
        Happens::Unsendable(id) => bench.node.handle_send_error(bench.now, address(id)),
        Happens::Pass(ms) => bench.pass(Duration::from_millis(ms)),
        Happens::Leave => bench.node.leave(bench.now),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn item_64_nothing_that_harms_go_peers_leaves_a_node(
        seed: u64,
        story in proptest::collection::vec(happens(), 1..120),
    ) {
        let mut bench = Bench::with(|config| {
            config.seed = seed;
            config.compression = false;
        });
        for what in story {
            apply(&mut bench, what);
            for transmit in bench.transmits() {
                check_datagram(&transmit.bytes);
            }
            bench.requests();
            bench.events();
            let table = bench.node.push_pull(false);
            let entries = table.nodes.len();
            check_stream(&encode_stream(&StreamMessage::PushPull(table), "default", false), entries);
        }
    }
}

#[test]
fn item_64_the_strict_reader_is_strict() {
    let good = encode_message(&Message::Alive(alive(3, 1)), "default");
    check_datagram(&good);
    let refused = |datagram: Vec<u8>| {
        let hook = std::panic::catch_unwind(|| check_datagram(&datagram));
        assert!(hook.is_err(), "{datagram:02x?}");
    };
    refused([&[7, 2, 0, 0, 0, 2], &b"\x08x"[..]].concat());
    refused([&[7, 1, 0, 2], &b"\x08x"[..]].concat());
    refused([&[7, 128], &[0, 1].repeat(128)[..], &[8; 128]].concat());
    refused(vec![12, 0, 0, 0, 0]);
    refused(accusation(5, "n2", u32::MAX, "n3"));
    refused([&good[..], b"x"].concat());
    refused(vec![0x63, 0x80]);
}
