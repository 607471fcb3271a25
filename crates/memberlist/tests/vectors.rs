//! Recorded traffic of the Go programs: it decodes to exactly what it means, and the same messages
//! are written as the same bytes.
//!
//! Bytes differ in one respect only: HashiCorp's memberlist knows no cluster name and we always
//! write one, so its alive, suspect, dead and push/pull come back longer. Of those the decoded
//! meaning is compared. Encrypted ones are opened with their key and sealed again with their nonce,
//! which gives the same bytes; what is inside is then checked like the others.

#![expect(
    clippy::unwrap_used,
    reason = "a vector of another shape must fail the test"
)]

use std::path::Path;
use std::sync::Arc;

use memberlist::wire::{
    ClusterFilter, Envelope, Key, Keyring, Message, PacketBuilder, StreamDecoder, StreamMessage,
    StreamProgress, StreamSide, WireError, decode_packet, encode_message, encode_stream,
};
use serde_json::Value;

#[path = "vectors/readable.rs"]
mod readable;

/// Name of the cluster in the recordings of the fork.
const CLUSTER: &str = "lab";

/// Compressed streams shorter than this are the same bytes as Go's. In longer ones a prefix can
/// have more than sixteen continuations, of which our encoder forgets one and so spends a code
/// more; every decoder follows. There the plain message is what must be the same.
const LZW_SAME_BYTES_MAX: usize = 1000;

/// Who sent a set of vectors, and so how to read it.
#[derive(Clone, Copy)]
struct Sender {
    folder: &'static str,
    /// It writes [`CLUSTER`] where the fork has a name, else none at all.
    names_cluster: bool,
}

impl Sender {
    const fn new(folder: &'static str, names_cluster: bool) -> Self {
        Self {
            folder,
            names_cluster,
        }
    }

    fn cluster(self) -> Option<&'static str> {
        self.names_cluster.then_some(CLUSTER)
    }

    fn filter(self) -> ClusterFilter {
        ClusterFilter {
            name: CLUSTER.to_owned(),
            accept_missing: !self.names_cluster,
        }
    }

    /// Every vector of a folder, with a name for failures and the key it was encrypted with.
    fn vectors(self) -> Vec<(String, Envelope, Value)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/vectors")
            .join(self.folder);
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        let mut vectors = Vec::new();
        for file in files {
            let content: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
            let envelope = Envelope {
                keyring: content["key_hex"].is_string().then(|| {
                    let key = Key::new(&unhex(&content["key_hex"])).unwrap();
                    Arc::new(Keyring::new(key))
                }),
                ..Envelope::default()
            };
            for vector in content["vectors"].as_array().unwrap() {
                let description = vector["description"].as_str().unwrap();
                let name = format!("{}: {description}", file.display());
                vectors.push((name, envelope.clone(), vector.clone()));
            }
        }
        vectors
    }
}

const SIDECAR: Sender = Sender::new("sidecar", true);
const FORK: Sender = Sender::new("memberlist-fork", true);
const SERF: Sender = Sender::new("serf", false);
const SERF_KEY16: Sender = Sender::new("serf-key16", false);
const SERF_KEY32: Sender = Sender::new("serf-key32", false);
const HASHICORP: Sender = Sender::new("memberlist-0.2.2", false);

fn unhex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    let byte = |index| u8::from_str_radix(&text[index..index + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

/// The messages in a tree of layers, in order.
fn leaves(decoded: &Value) -> Vec<Value> {
    if let Some(parts) = decoded["parts"].as_array() {
        return parts.iter().flat_map(leaves).collect();
    }
    if decoded["layer"].is_string() {
        leaves(&decoded["inner"])
    } else {
        vec![decoded.clone()]
    }
}

/// Whether the sender had compression on; the recorded programs have.
fn compresses(name: &str) -> bool {
    !name.contains("compression false")
}

fn check_datagram(sender: Sender, name: &str, envelope: &Envelope, vector: &Value) {
    let (datagram, decoded) = (unhex(&vector["hex"]), &vector["decoded"]);
    if decoded["layer"] == "encrypted" {
        let plain = envelope.open_packet(&datagram).unwrap();
        assert_eq!(*plain, unhex(&decoded["plaintext_hex"]), "{name}");
        let nonce = || unhex(&decoded["nonce"]).try_into().ok();
        assert_eq!(
            *envelope.seal_packet(&plain, nonce).unwrap(),
            datagram,
            "{name}"
        );
        let without_key = decode_packet(&datagram, &sender.filter());
        assert_eq!(without_key.messages, [], "{name}");
        return check_plain_datagram(sender, name, &plain, &decoded["inner"]);
    }
    check_plain_datagram(sender, name, &datagram, decoded);
}

fn check_plain_datagram(sender: Sender, name: &str, datagram: &[u8], decoded: &Value) {
    let packet = decode_packet(datagram, &sender.filter());
    assert_eq!(packet.errors, [], "{name}");
    let found: Vec<_> = packet
        .messages
        .iter()
        .map(|m| readable::message(m, sender.cluster()))
        .collect();
    assert_eq!(found, leaves(decoded), "{name}");

    let mut builder = PacketBuilder::new();
    for message in &packet.messages {
        assert!(builder.push(&encode_message(message, CLUSTER)), "{name}");
    }
    let again = builder.finish(compresses(name), decoded["layer"] == "hasCrc");
    let named = packet.messages.iter().filter(|message| {
        matches!(
            message,
            Message::Alive(_) | Message::Suspect(_) | Message::Dead(_)
        )
    });
    if sender.names_cluster || named.clone().count() == 0 {
        assert_eq!(again, datagram, "{name}");
    } else {
        assert_eq!(decode_packet(&again, &sender.filter()), packet, "{name}");
    }

    // For another cluster just the named ones are lost.
    let other = ClusterFilter {
        name: "other".to_owned(),
        accept_missing: false,
    };
    let refused = decode_packet(datagram, &other);
    assert_eq!(refused.errors.len(), named.clone().count(), "{name}");
    assert!(
        refused
            .errors
            .iter()
            .all(|e| matches!(e, WireError::ClusterMismatch { .. })),
        "{name}"
    );
    assert_eq!(
        refused.messages.len() + refused.errors.len(),
        packet.messages.len(),
        "{name}"
    );
}

fn check_stream(
    sender: Sender,
    name: &str,
    envelope: &Envelope,
    side: StreamSide,
    bytes: &[u8],
    decoded: &Value,
) {
    if decoded["layer"] != "encrypted" {
        return check_plain_stream(sender, name, bytes, decoded);
    }
    let plain = unhex(&decoded["plaintext_hex"]);
    let nonce = || unhex(&decoded["nonce"]).try_into().ok();
    let again = envelope.seal_stream(plain.clone(), side, nonce);
    assert_eq!(again.unwrap(), bytes, "{name}");
    check_plain_stream(sender, name, &plain, &decoded["inner"]);

    let expected = StreamDecoder::new(sender.filter()).feed(&plain).unwrap();
    let mut decoder = StreamDecoder::enveloped(sender.filter(), envelope.clone(), side);
    let (last, before) = bytes.split_last().unwrap();
    for byte in before {
        let progress = decoder.feed(&[*byte]);
        assert_eq!(progress, Ok(StreamProgress::NeedMore), "{name}");
    }
    assert_eq!(decoder.feed(&[*last]), Ok(expected), "{name}");
    let mut without_key = StreamDecoder::new(sender.filter());
    assert!(without_key.feed(bytes).is_err(), "{name}");
}

fn check_plain_stream(sender: Sender, name: &str, bytes: &[u8], decoded: &Value) {
    let mut decoder = StreamDecoder::new(sender.filter());
    let Ok(StreamProgress::Complete(message)) = decoder.feed(bytes) else {
        panic!("{name}: not complete");
    };
    assert_eq!(decoder.skipped_entries(), 0, "{name}");
    let compressed = decoded["layer"] == "compress";
    assert_eq!(compressed, compresses(name), "{name}");
    let expected = if compressed {
        &decoded["inner"]
    } else {
        decoded
    };
    assert_eq!(
        &readable::stream_message(&message, sender.cluster()),
        expected,
        "{name}"
    );

    let mut decoder = StreamDecoder::new(sender.filter());
    let (last, before) = bytes.split_last().unwrap();
    for byte in before {
        assert_eq!(
            decoder.feed(&[*byte]),
            Ok(StreamProgress::NeedMore),
            "{name}"
        );
        assert!(decoder.finish_at_eof().is_err(), "{name}");
    }
    assert_eq!(
        decoder.feed(&[*last]),
        Ok(StreamProgress::Complete(message.clone())),
        "{name}"
    );

    let again = encode_stream(&message, CLUSTER, compressed);
    if sender.names_cluster || !matches!(message, StreamMessage::PushPull(_)) {
        let plain = encode_stream(&message, CLUSTER, false);
        let recorded = if compressed {
            &unhex(&decoded["plaintext_hex"])
        } else {
            bytes
        };
        assert_eq!(plain, recorded, "{name}");
        if bytes.len() < LZW_SAME_BYTES_MAX {
            assert_eq!(again, bytes, "{name}");
        }
    }
    let progress = StreamDecoder::new(sender.filter()).feed(&again);
    assert_eq!(progress, Ok(StreamProgress::Complete(message)), "{name}");
}

/// Checks a folder; tells how many datagrams and how many sides of connections it held.
fn check(sender: Sender) -> (usize, usize) {
    let (mut datagrams, mut streams) = (0, 0);
    for (name, envelope, vector) in sender.vectors() {
        let decoded = &vector["decoded"];
        if vector["client_hex"].is_string() {
            for (which, side) in [
                ("client", StreamSide::Dialling),
                ("server", StreamSide::Accepting),
            ] {
                let name = format!("{name} ({which})");
                let bytes = unhex(&vector[format!("{which}_hex")]);
                check_stream(sender, &name, &envelope, side, &bytes, &decoded[which]);
                streams += 1;
            }
        } else if name.contains(": TCP,") {
            let (side, bytes) = (StreamSide::Dialling, unhex(&vector["hex"]));
            check_stream(sender, &name, &envelope, side, &bytes, decoded);
            streams += 1;
        } else {
            check_datagram(sender, &name, &envelope, &vector);
            datagrams += 1;
        }
    }
    (datagrams, streams)
}

#[test]
fn go_sidecar_is_read_and_written_byte_for_byte() {
    assert_eq!(check(SIDECAR), (108, 18));
}

#[test]
fn the_fork_is_read_and_written_byte_for_byte() {
    assert_eq!(check(FORK), (30, 18));
}

#[test]
fn serf_is_read_and_written_but_for_the_cluster_name() {
    assert_eq!(check(SERF), (108, 18));
}

#[test]
fn hashicorp_memberlist_is_read_and_written_but_for_the_cluster_name() {
    assert_eq!(check(HASHICORP), (30, 18));
}

#[test]
fn encrypted_serf_is_read_and_written_but_for_the_cluster_name() {
    assert_eq!(check(SERF_KEY16), (116, 18));
    assert_eq!(check(SERF_KEY32), (112, 18));
}
