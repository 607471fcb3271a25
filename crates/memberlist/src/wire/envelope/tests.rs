//! Label and encryption: bytes checked against another implementation, and everything refused.

use proptest::prelude::*;

use super::*;
use crate::wire::message::{Ping, StreamMessage};
use crate::wire::{ClusterFilter, StreamDecoder, StreamProgress, golden::golden};

const NONCE: Nonce = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];

/// The key of the golden bytes: 0, 1, 2, …
fn counting_key(length: u8) -> Key {
    Key::new(&(0..length).collect::<Vec<u8>>()).unwrap()
}

fn filled_key(fill: u8) -> Key {
    Key::new(&[fill; 32]).unwrap()
}

fn envelope(label: &str, keys: impl IntoIterator<Item = Key>) -> Envelope {
    Envelope {
        label: label.into(),
        keyring: Keyring::from_keys(keys).ok().map(Arc::new),
        ..Envelope::default()
    }
}

fn seal_packet(envelope: &Envelope, message: &[u8]) -> Vec<u8> {
    let sealed = envelope.seal_packet(message, || Some(NONCE)).unwrap();
    sealed.into_owned()
}

fn seal_stream(envelope: &Envelope, message: &[u8], side: StreamSide) -> Vec<u8> {
    let nonce = || Some(NONCE);
    envelope.seal_stream(message.to_vec(), side, nonce).unwrap()
}

/// An envelope of version 0 with any padding.
fn seal_padded(key: &Key, aad: &[u8], padded: &[u8]) -> Vec<u8> {
    let mut buffer = padded.to_vec();
    let tag = key.seal(&NONCE, aad, &mut buffer);
    [&[0][..], &NONCE, &buffer, &tag].concat()
}

fn filter() -> ClusterFilter {
    ClusterFilter {
        name: "default".to_owned(),
        accept_missing: false,
    }
}

/// Reads a stream in one piece and byte by byte, with the same result.
fn read(
    envelope: &Envelope,
    side: StreamSide,
    bytes: &[u8],
) -> Result<Option<StreamMessage>, WireError> {
    let decoder = || StreamDecoder::enveloped(filter(), envelope.clone(), side);
    let mut slow = decoder();
    let mut slowly = Ok(StreamProgress::NeedMore);
    for byte in bytes {
        slowly = slow.feed(&[*byte]);
        if slowly != Ok(StreamProgress::NeedMore) {
            break;
        }
    }
    let at_once = decoder().feed(bytes);
    assert_eq!(at_once, slowly);
    match at_once? {
        StreamProgress::NeedMore => Ok(None),
        StreamProgress::Complete(message) => Ok(Some(message)),
    }
}

fn ping() -> StreamMessage {
    StreamMessage::Ping(Ping {
        seq_no: 42,
        node: "node-b".into(),
        source: None,
    })
}

fn refused_packet(envelope: &Envelope, datagram: &[u8]) -> WireError {
    envelope.open_packet(datagram).unwrap_err()
}

#[test]
fn packets_are_the_golden_bytes() {
    let ping = golden("ping");
    let key = counting_key(16);
    for (label, name) in [("", "packet-sealed"), ("blue", "packet-sealed-labelled")] {
        let envelope = envelope(label, [key.clone()]);
        assert_eq!(seal_packet(&envelope, &ping), golden(name));
        assert_eq!(*envelope.open_packet(&golden(name)).unwrap(), ping);
        assert_eq!(envelope.packet_overhead(), golden(name).len() - ping.len());
    }
    let mut padded = Vec::new();
    seal(&mut padded, &key, Version::Padded, &NONCE, b"", &ping);
    assert_eq!(padded, golden("packet-sealed-padded"));
    let unlabelled = envelope("", [key]);
    assert_eq!(*unlabelled.open_packet(&padded).unwrap(), ping);

    let only_labelled = envelope("blue", []);
    assert_eq!(seal_packet(&only_labelled, &ping), golden("label"));
    assert_eq!(*only_labelled.open_packet(&golden("label")).unwrap(), ping);
    assert_eq!(only_labelled.packet_overhead(), 6);
    let plain = Envelope::default();
    assert_eq!(seal_packet(&plain, &ping), ping);
    assert_eq!(*plain.open_packet(&ping).unwrap(), ping);
    assert_eq!(plain.packet_overhead(), 0);
}

#[test]
fn streams_are_the_golden_bytes() {
    let message = golden("ping");
    let key = counting_key(16);
    let both = [StreamSide::Dialling, StreamSide::Accepting];
    let unlabelled = envelope("", [key.clone()]);
    for side in both {
        assert_eq!(
            seal_stream(&unlabelled, &message, side),
            golden("stream-sealed")
        );
        for name in ["stream-sealed", "stream-sealed-padded"] {
            assert_eq!(read(&unlabelled, side, &golden(name)), Ok(Some(ping())));
        }
    }
    let header = stream_header(0x3d);
    let mut padded = header.to_vec();
    seal(
        &mut padded,
        &key,
        Version::Padded,
        &NONCE,
        &header,
        &message,
    );
    assert_eq!(padded, golden("stream-sealed-padded"));

    // Only the side that dials writes the label; both authenticate it.
    let labelled = envelope("blue", [key]);
    let reply = golden("stream-sealed-labelled");
    let request = [b"\xf4\x04blue", &reply[..]].concat();
    for (side, bytes) in [
        (StreamSide::Dialling, &request),
        (StreamSide::Accepting, &reply),
    ] {
        assert_eq!(&seal_stream(&labelled, &message, side), bytes);
        assert_eq!(read(&labelled, side, bytes), Ok(Some(ping())));
    }
}

#[test]
fn every_length_of_key_and_every_key_of_the_ring_opens() {
    let message = golden("alive");
    for length in [16, 24, 32] {
        let sealed = seal_packet(&envelope("", [counting_key(length)]), &message);
        let keys = [filled_key(1), filled_key(2), counting_key(length)];
        let ring = envelope("", keys.clone());
        assert_eq!(*ring.open_packet(&sealed).unwrap(), message);
        assert_eq!(
            refused_packet(&envelope("", keys[..2].to_vec()), &sealed),
            EncryptionProblem::NoKey { keys: 2 }.into()
        );
    }
}

/// Rows of what may stand where the label belongs.
#[test]
fn labels_are_compared() {
    let ping = golden("ping");
    let ours = |label: &str| envelope(label, []);
    let framed = |label: &[u8]| [&[244, label.len() as u8][..], label, &ping].concat();
    let other = |found: &str| {
        WireError::Label(LabelProblem::Other {
            found: found.to_owned(),
        })
    };
    let malformed = || WireError::Label(LabelProblem::Malformed);
    let rows: Vec<(&str, Vec<u8>, WireError)> = vec![
        ("", framed(b"blue"), other("\"blue\"")),
        ("blue", framed(b"green"), other("\"green\"")),
        ("blue", framed(b"blue2"), other("\"blue2\"")),
        ("blue", ping.clone(), LabelProblem::Missing.into()),
        ("blue", framed(b""), malformed()),
        ("", framed(b""), malformed()),
    ];
    for (label, bytes, expected) in rows {
        assert_eq!(refused_packet(&ours(label), &bytes), expected, "{bytes:?}");
        let read = read(&ours(label), StreamSide::Dialling, &bytes);
        assert_eq!(read, Err(expected), "{bytes:?}");
    }
    for cut in [&b"\xf4"[..], b"\xf4\x04", b"\xf4\x04blu"] {
        for label in ["", "blue"] {
            assert_eq!(refused_packet(&ours(label), cut), malformed());
            let read = read(&ours(label), StreamSide::Dialling, cut);
            let mut decoder = StreamDecoder::enveloped(filter(), ours(label), StreamSide::Dialling);
            assert_eq!(read, Ok(None), "more may come");
            decoder.feed(cut).unwrap();
            assert!(decoder.finish_at_eof().is_err());
        }
    }
    // A second label, and one before a reply, are out of place.
    let twice = [b"\xf4\x04blue", &framed(b"blue")[..]].concat();
    let inner = ours("blue");
    let inner = inner.open_packet(&twice).unwrap();
    let decoded = crate::wire::decode_packet(&inner, &filter());
    assert_eq!(decoded.errors, [LabelProblem::Second.into()]);
    for (side, bytes) in [
        (StreamSide::Dialling, &twice),
        (StreamSide::Accepting, &framed(b"blue")),
    ] {
        let read = read(&ours("blue"), side, bytes);
        assert_eq!(read, Err(LabelProblem::Second.into()));
    }
    let longest = "l".repeat(LABEL_BYTES_MAX);
    let sealed = seal_packet(&ours(&longest), &ping);
    assert_eq!(*ours(&longest).open_packet(&sealed).unwrap(), ping);
}

#[test]
fn the_label_is_authenticated() {
    let key = counting_key(16);
    let sealed = golden("packet-sealed-labelled");
    let relabelled = [b"\xf4\x03red", &sealed[6..]].concat();
    for (label, bytes) in [("", &sealed[6..]), ("red", &relabelled)] {
        let problem = EncryptionProblem::NoKey { keys: 1 };
        let refused = refused_packet(&envelope(label, [key.clone()]), bytes);
        assert_eq!(refused, problem.into());
    }
}

#[test]
fn short_and_strange_envelopes_are_refused() {
    let keyed = envelope("", [counting_key(16)]);
    for (name, least) in [("packet-sealed", 29), ("packet-sealed-padded", 45)] {
        let sealed = golden(name);
        for length in 1..sealed.len() {
            let expected = if length < least {
                EncryptionProblem::TooShort {
                    actual: length,
                    expected: least,
                }
            } else {
                EncryptionProblem::NoKey { keys: 1 }
            };
            assert_eq!(refused_packet(&keyed, &sealed[..length]), expected.into());
        }
    }
    let mut sealed = golden("packet-sealed");
    for version in 2..=255 {
        sealed[0] = version;
        let expected = match version {
            244 => LabelProblem::Malformed.into(),
            2..=12 => EncryptionProblem::Plaintext.into(),
            _ => EncryptionProblem::Version(version).into(),
        };
        // The first nonce byte is 0, which is no length of a label.
        assert_eq!(refused_packet(&keyed, &sealed), expected);
    }
}

#[test]
fn every_wrong_padding_is_refused() {
    let key = counting_key(16);
    let keyed = envelope("", [key.clone()]);
    let open = |padded: &[u8]| {
        let sealed = seal_padded(&key, b"", padded);
        keyed.open_packet(&sealed).map(Cow::into_owned)
    };
    for padding in 0..=255_u8 {
        let mut block = vec![9; 16];
        block.extend([padding; 16]);
        match padding {
            1..=15 => {
                let kept = 32 - usize::from(padding);
                assert_eq!(open(&block).unwrap(), block[..kept]);
            }
            16 => assert_eq!(open(&block).unwrap(), [9; 16]),
            _ => assert_eq!(open(&block), Err(EncryptionProblem::Padding.into())),
        }
        // Bytes that are not all the same.
        for wrong in 1..usize::from(padding.min(16)) {
            let mut block = block.clone();
            let at = block.len() - 1 - wrong;
            block[at] ^= 1;
            assert_eq!(open(&block), Err(EncryptionProblem::Padding.into()));
        }
    }
    assert_eq!(open(&[16; 16]), Err(EncryptionProblem::Empty.into()));
    // Authentic nonsense is no plaintext even where plaintext is welcome.
    let lenient = Envelope {
        verify_incoming: false,
        ..keyed.clone()
    };
    let sealed = seal_padded(&key, b"", &[0; 16]);
    let refused = refused_packet(&lenient, &sealed);
    assert_eq!(refused, EncryptionProblem::Padding.into());
}

#[test]
fn an_authentic_nothing_is_refused() {
    let key = counting_key(16);
    let keyed = envelope("", [key.clone()]);
    let tag = key.seal(&NONCE, b"", &mut []);
    let sealed = [&[1][..], &NONCE, &tag].concat();
    let expected = WireError::from(EncryptionProblem::Empty);
    assert_eq!(refused_packet(&keyed, &sealed), expected);
    let header = stream_header(29);
    let tag = key.seal(&NONCE, &header, &mut []);
    let sealed = [&header[..], &[1], &NONCE, &tag].concat();
    assert_eq!(read(&keyed, StreamSide::Dialling, &sealed), Err(expected));
}

#[test]
fn plaintext_passes_only_where_it_may() {
    let strict = envelope("", [counting_key(16)]);
    let lenient = Envelope {
        verify_incoming: false,
        ..strict.clone()
    };
    for name in ["ping", "ping-with-source", "indirect-ping", "alive", "crc"] {
        let plain = golden(name);
        let expected = WireError::from(EncryptionProblem::Plaintext);
        assert_eq!(refused_packet(&strict, &plain), expected, "{name}");
        assert_eq!(*lenient.open_packet(&plain).unwrap(), plain, "{name}");
    }
    let sealed = golden("packet-sealed");
    assert_eq!(*lenient.open_packet(&sealed).unwrap(), golden("ping"));
    let side = StreamSide::Dialling;
    let plain = golden("ping");
    let expected = Err(EncryptionProblem::Plaintext.into());
    assert_eq!(read(&strict, side, &plain), expected);
    for bytes in [plain, golden("stream-sealed")] {
        assert_eq!(read(&lenient, side, &bytes), Ok(Some(ping())));
    }
    assert_eq!(*strict.open_packet(b"").unwrap(), *b"");
}

#[test]
fn envelopes_are_refused_where_there_is_no_key() {
    let plain = Envelope::default();
    let expected = WireError::from(EncryptionProblem::NotConfigured);
    for name in ["packet-sealed", "packet-sealed-padded"] {
        assert_eq!(refused_packet(&plain, &golden(name)), expected);
    }
    let sealed = golden("stream-sealed");
    let read = read(&plain, StreamSide::Dialling, &sealed);
    assert_eq!(read, Err(expected));
    for name in ["ping", "ping-large-number", "indirect-ping"] {
        assert_eq!(*plain.open_packet(&golden(name)).unwrap(), golden(name));
    }
}

#[test]
fn outgoing_traffic_is_plain_while_that_is_switched_off() {
    let envelope = Envelope {
        verify_outgoing: false,
        ..envelope("", [counting_key(16)])
    };
    let message = golden("ping");
    assert_eq!(seal_packet(&envelope, &message), message);
    let side = StreamSide::Dialling;
    assert_eq!(seal_stream(&envelope, &message, side), message);
    // The room is kept all the same, so that the switch changes no budget.
    assert_eq!(envelope.packet_overhead(), ENVELOPE_BYTES);
}

#[test]
fn nothing_is_sent_without_a_nonce_or_beyond_what_peers_take() {
    let keyed = envelope("", [counting_key(16)]);
    let none = || None;
    assert_eq!(keyed.seal_packet(b"m", none), Err(SealError::NoNonce));
    let side = StreamSide::Dialling;
    let sealed = keyed.seal_stream(b"m".to_vec(), side, none);
    assert_eq!(sealed, Err(SealError::NoNonce));
    let longest = SEALED_STREAM_BYTES_MAX - ENVELOPE_BYTES;
    let nonce = || Some(NONCE);
    assert!(keyed.seal_stream(vec![8; longest], side, nonce).is_ok());
    let bytes = SEALED_STREAM_BYTES_MAX + 1;
    let sealed = keyed.seal_stream(vec![8; longest + 1], side, nonce);
    assert_eq!(sealed, Err(SealError::TooLarge { bytes }));
}

#[test]
fn declared_lengths_are_checked_before_anything_is_read() {
    let keyed = envelope("", [counting_key(16)]);
    let head = |length: u32| {
        let mut decoder = StreamDecoder::enveloped(filter(), keyed.clone(), StreamSide::Dialling);
        decoder.feed(&stream_header(length))
    };
    for (length, accepted) in [
        (0, false),
        (28, false),
        (29, true),
        (SEALED_STREAM_BYTES_MAX as u32, true),
        (SEALED_STREAM_BYTES_MAX as u32 + 1, false),
        (u32::MAX, false),
    ] {
        match head(length) {
            Ok(StreamProgress::NeedMore) => assert!(accepted, "{length}"),
            Err(WireError::Encryption(
                EncryptionProblem::TooShort { .. } | EncryptionProblem::TooLarge { .. },
            )) => assert!(!accepted, "{length}"),
            other => panic!("{length}: {other:?}"),
        }
    }
}

#[test]
fn what_is_inside_a_stream_must_be_whole_and_not_sealed_again() {
    let keyed = envelope("", [counting_key(16)]);
    let side = StreamSide::Dialling;
    let message = golden("ping");
    let cut = seal_stream(&keyed, &message[..message.len() - 1], side);
    assert!(matches!(
        read(&keyed, side, &cut),
        Err(WireError::Stream(_))
    ));
    let twice = seal_stream(&keyed, &golden("stream-sealed"), side);
    let refused = read(&keyed, side, &twice);
    assert_eq!(refused, Err(WireError::UnknownType { type_id: 10 }));
}

#[test]
fn only_envelopes_are_answered_and_only_with_our_own_words() {
    let replied = [
        EncryptionProblem::NotConfigured.into(),
        EncryptionProblem::Plaintext.into(),
        EncryptionProblem::NoKey { keys: 3 }.into(),
        EncryptionProblem::TooLarge { bytes: 1 << 30 }.into(),
        WireError::EmptyMessage,
    ];
    for error in replied {
        let reply = error.reply().unwrap_or_else(|| panic!("{error:?}"));
        assert!(!reply.contains(char::is_numeric), "{reply}");
    }
    for error in [
        WireError::UnknownType { type_id: 99 },
        WireError::Nesting,
        LabelProblem::Missing.into(),
    ] {
        assert_eq!(error.reply(), None, "{error:?}");
    }
}

fn messages() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 1..600)
}

fn keys() -> impl Strategy<Value = Key> {
    let lengths = prop_oneof![Just(16), Just(24), Just(32)];
    lengths
        .prop_flat_map(|length| prop::collection::vec(any::<u8>(), length))
        .prop_map(|bytes| Key::new(&bytes).unwrap())
}

proptest! {
    #[test]
    fn sealed_packets_open_again(
        message in messages(),
        key in keys(),
        nonce: Nonce,
        label in "[a-z]{0,20}",
        padded: bool,
    ) {
        let keyed = envelope(&label, [filled_key(1), key.clone()]);
        let sealed = if padded {
            let mut sealed = keyed.label_header().unwrap_or_default();
            let aad = label.as_bytes();
            seal(&mut sealed, &key, Version::Padded, &nonce, aad, &message);
            sealed
        } else {
            let sender = envelope(&label, [key]);
            sender.seal_packet(&message, || Some(nonce)).unwrap().into_owned()
        };
        prop_assert_eq!(&*keyed.open_packet(&sealed).unwrap(), &message[..]);
    }

    #[test]
    fn any_changed_byte_is_refused(
        message in prop::collection::vec(any::<u8>(), 1..80),
        key in keys(),
        nonce: Nonce,
        label in "[a-z]{0,5}",
        change in 1..=255_u8,
    ) {
        let keyed = envelope(&label, [key]);
        let sealed = keyed.seal_packet(&message, || Some(nonce)).unwrap().into_owned();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= change;
            prop_assert!(keyed.open_packet(&changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn any_changed_byte_of_a_stream_is_refused(
        nonce: Nonce,
        label in "[a-z]{0,5}",
        change in 1..=255_u8,
        side in prop_oneof![Just(StreamSide::Dialling), Just(StreamSide::Accepting)],
    ) {
        let keyed = envelope(&label, [counting_key(24)]);
        let sealed = keyed.seal_stream(golden("ping"), side, || Some(nonce)).unwrap();
        prop_assert_eq!(read(&keyed, side, &sealed), Ok(Some(ping())));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= change;
            // A longer declared length waits for bytes that do not come.
            prop_assert!(!matches!(read(&keyed, side, &changed), Ok(Some(_))), "byte {at}");
        }
    }

    #[test]
    fn arbitrary_bytes_never_open_and_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        first in prop_oneof![Just(0_u8), Just(1), Just(10), Just(244), any::<u8>()],
        label in prop_oneof![Just(""), Just("blue")],
        verify_incoming: bool,
    ) {
        let bytes = [&[first][..], &bytes].concat();
        let keyed = Envelope { verify_incoming, ..envelope(label, [counting_key(16)]) };
        let opened = keyed.open_packet(&bytes);
        prop_assert!(opened.is_err() || !verify_incoming);
        for side in [StreamSide::Dialling, StreamSide::Accepting] {
            let read = read(&keyed, side, &bytes);
            prop_assert!(!verify_incoming || !matches!(read, Ok(Some(_))));
        }
        let plain = Envelope { label: label.into(), ..Envelope::default() };
        let _ = (plain.open_packet(&bytes), read(&plain, StreamSide::Dialling, &bytes));
    }
}
