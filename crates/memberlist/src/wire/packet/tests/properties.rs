//! What holds for every message and for arbitrary bytes.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;

fn any_name() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9äß. -]{1,40}"
}

fn any_addr() -> impl Strategy<Value = RawIp> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(RawIp::V4),
        any::<[u8; 16]>().prop_map(RawIp::V16),
        any::<[u8; 4]>().prop_map(|v4| RawIp::V16(Ipv4Addr::from(v4).to_ipv6_mapped().octets())),
    ]
}

fn unicast() -> impl Strategy<Value = RawIp> {
    any_addr().prop_filter("unicast", |addr| {
        let ip = addr.ip();
        !ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::from([255; 4])
    })
}

fn any_bytes(max: usize) -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..=max).prop_map(Bytes::from)
}

fn any_source() -> impl Strategy<Value = Option<Source>> {
    let source = (
        any_addr(),
        1_u16..,
        prop_oneof![Just(String::new()), any_name()],
    );
    proptest::option::of(source.prop_map(|(addr, port, node)| Source { addr, port, node }))
}

fn any_versions() -> impl Strategy<Value = Versions> {
    (any::<[u8; 3]>(), any::<[u8; 3]>()).prop_map(|(mut protocol, d)| {
        protocol.sort_unstable();
        let [minimum, current, maximum] = protocol.map(|version| version.max(1));
        Versions([minimum, maximum, current, d[0], d[1], d[2]])
    })
}

fn any_message() -> impl Strategy<Value = Message> {
    let incarnation = 1..u32::MAX;
    prop_oneof![
        (any::<u32>(), any_name(), any_source()).prop_map(|(seq_no, node, source)| Message::Ping(
            Ping {
                seq_no,
                node,
                source
            }
        )),
        (
            any::<u32>(),
            any_addr(),
            any::<u16>(),
            any_name(),
            any::<bool>(),
            any_source()
        )
            .prop_map(
                |(seq_no, target, port, node, nack, source)| Message::IndirectPing(IndirectPing {
                    seq_no,
                    target,
                    port,
                    node,
                    nack,
                    source
                })
            ),
        (any::<u32>(), any_bytes(512))
            .prop_map(|(seq_no, payload)| Message::Ack(Ack { seq_no, payload })),
        (incarnation.clone(), any_name(), any_name()).prop_map(|(incarnation, node, from)| {
            Message::Suspect(Suspect {
                incarnation,
                node,
                from,
            })
        }),
        (incarnation.clone(), any_name(), any_name()).prop_map(|(incarnation, node, from)| {
            Message::Dead(Dead {
                incarnation,
                node,
                from,
            })
        }),
        (
            incarnation,
            any_name(),
            unicast(),
            any::<u16>(),
            any_bytes(512),
            any_versions()
        )
            .prop_map(
                |(incarnation, node, addr, port, meta, versions)| Message::Alive(Alive {
                    incarnation,
                    node,
                    addr,
                    port,
                    meta,
                    versions
                })
            ),
        any_bytes(3000).prop_map(Message::User),
        any::<u32>().prop_map(|seq_no| Message::Nack(Nack { seq_no })),
    ]
}

proptest! {
    #[test]
    fn what_is_packed_is_unpacked(
        messages in proptest::collection::vec(any_message(), 1..20),
        cluster in "[a-z]{0,10}",
        compress: bool,
        crc: bool,
    ) {
        let mut builder = PacketBuilder::new();
        for message in &messages {
            prop_assert!(builder.push(&encode_message(message, &cluster)));
        }
        let datagram = builder.finish(compress, crc);
        prop_assert_eq!(decode_packet(&datagram, &filter(&cluster)), good(messages));
    }

    #[test]
    fn arbitrary_bytes_never_panic(datagram in proptest::collection::vec(any::<u8>(), 0..300)) {
        decode(&datagram);
    }

    /// Arbitrary bytes behind every type, bare and inside each container.
    #[test]
    fn arbitrary_content_never_panics(
        type_id in prop_oneof![0_u8..=14, Just(244)],
        content in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let message = [&[type_id][..], &content].concat();
        for datagram in [crc(&message), compound(&[&message, &message]), compress(&message), message] {
            let packet = decode(&datagram);
            prop_assert!(packet.errors.len() <= MESSAGES_PER_PACKET_MAX + 1);
        }
    }

    /// One damaged byte in a good datagram costs at most messages, never more than there were.
    #[test]
    fn damage_never_panics_or_adds(
        messages in proptest::collection::vec(any_message(), 1..5),
        compress: bool,
        at: prop::sample::Index,
        value: u8,
    ) {
        let mut builder = PacketBuilder::new();
        for message in &messages {
            builder.push(&encode_message(message, ""));
        }
        let mut datagram = builder.finish(compress, false);
        let at = at.index(datagram.len());
        datagram[at] = value;
        let packet = decode_packet(&datagram, &filter(""));
        prop_assert!(packet.messages.len() <= MESSAGES_PER_PACKET_MAX);
        decode_packet(&datagram[..at], &filter(""));
    }
}
