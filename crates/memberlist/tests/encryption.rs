//! Members with keys and labels on real sockets: who hears whom, and changing keys on the way.
#![cfg(feature = "driver")]

use std::sync::Arc;

use bytes::Bytes;
use memberlist::wire::{
    Envelope, Message, Ping, StreamDecoder, StreamMessage, StreamProgress, StreamSide, WireError,
    decode_packet, encode_message,
};
use memberlist::{Config, Event, Handle, KeyringError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc::Receiver;

use self::members::{PATIENCE, config, key, nobody_left, probed, ring, see, start, until};

mod members;

const LOOPBACK: &str = "127.0.0.1";

fn keyed(name: &str, fills: &[u8]) -> Config {
    Config {
        keyring: ring(fills),
        ..config(name, LOOPBACK)
    }
}

fn labelled(name: &str, label: &str, fills: &[u8]) -> Config {
    Config {
        label: label.to_owned(),
        ..keyed(name, fills)
    }
}

async fn message(events: &mut Receiver<Event>, wanted: &Bytes) {
    let search = async {
        loop {
            match events.recv().await.expect("the member runs") {
                Event::Message(bytes) if bytes == wanted => return,
                Event::Left(member) => panic!("{} was lost", member.name),
                _ => {}
            }
        }
    };
    let found = tokio::time::timeout(PATIENCE, search).await;
    found.expect("the message comes in time");
}

fn count(handle: &Handle, kind: &str) -> u64 {
    handle.stats().malformed.get(kind).copied().unwrap_or(0)
}

#[tokio::test]
async fn members_with_a_key_find_each_other() {
    for label in ["", "blue"] {
        let (a, mut a_events) = start(labelled("a", label, &[1])).await;
        let (b, mut b_events) = start(labelled("b", label, &[1])).await;
        let outcome = a.join(&[b.local_addr()]).await;
        assert_eq!((outcome.contacted, outcome.errors), (1, Vec::new()));
        see(&[&a, &b], &["a", "b"]).await;
        probed(&[&a, &b]).await;
        // What just fits a datagram and what does not: an envelope takes 29 bytes, a label 2 more
        // than it is long.
        let overhead = 29 + if label.is_empty() { 0 } else { 6 };
        for (length, by_stream) in [(1, 0), (1395 - overhead, 0), (1396 - overhead, 1)] {
            let payload = Bytes::from(vec![b'm'; length]);
            a.broadcast(None, payload.clone());
            message(&mut b_events, &payload).await;
            assert_eq!(a.stats().node.broadcasts_by_stream, by_stream);
        }
        for handle in [&a, &b] {
            assert!(handle.stats().malformed.is_empty());
        }
        nobody_left(&mut a_events);
    }
}

#[tokio::test]
async fn nothing_leaves_in_plain_text() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("free");
    let addr = listener.local_addr().expect("bound");
    let datagrams = UdpSocket::bind(addr).await.expect("free");
    let (a, _a_events) = start(labelled("a", "blue", &[1])).await;
    let envelope = labelled("", "blue", &[1]).envelope();
    let serve = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut decoder = StreamDecoder::enveloped(
            config("", LOOPBACK).cluster_filter(),
            envelope.clone(),
            StreamSide::Dialling,
        );
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let length = stream.read(&mut buffer).await.expect("read");
            seen.extend_from_slice(&buffer[..length]);
            if let StreamProgress::Complete(message) =
                decoder.feed(&buffer[..length]).expect("readable")
            {
                return (seen, message);
            }
        }
    };
    let seeds = [addr];
    let (outcome, (seen, message)) = tokio::join!(a.join(&seeds), serve);
    assert_eq!(outcome.contacted, 0);
    assert!(matches!(message, StreamMessage::PushPull(_)));
    assert!(seen.starts_with(b"\xf4\x04blue\x0a"), "{seen:?}");
    // A ping from a member's address is answered to it; the answer is sealed.
    let ping = Message::Ping(Ping {
        seq_no: 7,
        node: "a".into(),
        source: None,
    });
    let ping = encode_message(&ping, "default");
    let sealed = envelope
        .seal_packet(&ping, || Some([3; 12]))
        .expect("sealed");
    datagrams
        .send_to(&sealed, a.local_addr())
        .await
        .expect("sent");
    let mut buffer = [0; 2048];
    let received = tokio::time::timeout(PATIENCE, datagrams.recv(&mut buffer)).await;
    let length = received.expect("an answer comes").expect("received");
    assert!(buffer.starts_with(b"\xf4\x04blue\x01"));
    let answer = envelope.open_packet(&buffer[..length]).expect("ours");
    let answer = decode_packet(&answer, &config("", LOOPBACK).cluster_filter());
    // Gossip may ride on it.
    assert!(
        matches!(&answer.messages[0], Message::Ack(ack) if ack.seq_no == 7),
        "{answer:?}"
    );
}

/// Who does not share key and label is refused on streams and on datagrams, and counted.
#[tokio::test]
async fn strangers_are_refused_and_counted() {
    let rows = [
        (
            "another key",
            labelled("b", "", &[2]),
            "encryption",
            "encryption",
        ),
        ("no key", labelled("b", "", &[]), "plaintext", "plaintext"),
        ("a label", labelled("b", "blue", &[1]), "label", "label"),
    ];
    for (row, stranger, on_stream, on_datagram) in rows {
        let (a, mut a_events) = start(keyed("a", &[1])).await;
        let envelope = stranger.envelope();
        let (b, mut b_events) = start(stranger).await;
        let outcome = b.join(&[a.local_addr()]).await;
        assert_eq!((outcome.contacted, outcome.errors.len()), (0, 1), "{row}");
        until("the stream is counted", || count(&a, on_stream) == 1).await;
        let outcome = a.join(&[b.local_addr()]).await;
        assert_eq!((outcome.contacted, outcome.errors.len()), (0, 1), "{row}");

        let begin = count(&a, on_datagram);
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("free");
        let datagram = envelope.seal_packet(b"\x08hello", || Some([9; 12]));
        let datagram = datagram.expect("sealed");
        socket
            .send_to(&datagram, a.local_addr())
            .await
            .expect("sent");
        until("the datagram is counted", || count(&a, on_datagram) > begin).await;
        assert_eq!((a.members().len(), b.members().len()), (1, 1), "{row}");
        for events in [&mut a_events, &mut b_events] {
            while let Ok(event) = events.try_recv() {
                let own = matches!(&event, Event::Joined(member) if member.addr == a.local_addr()
                    || member.addr == b.local_addr());
                assert!(own, "{row}: {event:?}");
            }
        }
    }
}

#[tokio::test]
async fn who_has_no_key_is_told_and_counts_what_it_cannot_read() {
    let (plain, _plain_events) = start(config("plain", LOOPBACK)).await;
    let (sealed, _sealed_events) = start(keyed("sealed", &[1])).await;
    let outcome = sealed.join(&[plain.local_addr()]).await;
    assert_eq!(outcome.errors.len(), 1);
    // It is told in plain text, which it does not accept either; both sides count.
    until("counted", || count(&plain, "encryption") == 1).await;
    until("counted", || count(&sealed, "plaintext") == 1).await;
}

/// Reads the answer to `request`, until the other side closes.
async fn answer(to: &Handle, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(to.local_addr()).await.expect("accepted");
    stream.write_all(request).await.expect("written");
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    read.expect("closed in time").expect("read");
    answer
}

fn decoded(envelope: Envelope, bytes: &[u8]) -> Result<StreamProgress, WireError> {
    let filter = config("", LOOPBACK).cluster_filter();
    StreamDecoder::enveloped(filter, envelope, StreamSide::Accepting).feed(bytes)
}

#[tokio::test]
async fn a_stream_whose_envelope_cannot_be_read_is_answered() {
    let refusal = |text: &str| {
        Ok(StreamProgress::Complete(StreamMessage::Error(
            text.to_owned(),
        )))
    };
    let (sealed, _sealed_events) = start(keyed("sealed", &[1])).await;
    let (plain, _plain_events) = start(config("plain", LOOPBACK)).await;
    let ours = || keyed("", &[1]).envelope();

    let ping = b"\x00\x82\xa4Node\xa0\xa5SeqNo\x2a";
    assert_eq!(
        decoded(ours(), &answer(&sealed, ping).await),
        refusal("encryption is configured but remote state is not encrypted")
    );
    let theirs = keyed("", &[2]).envelope();
    let request = theirs.seal_stream(ping.to_vec(), StreamSide::Dialling, || Some([5; 12]));
    let request = request.expect("sealed");
    assert_eq!(
        decoded(ours(), &answer(&sealed, &request).await),
        refusal("failed to decrypt remote state")
    );
    assert_eq!(
        decoded(Envelope::default(), &answer(&plain, &request).await),
        refusal("remote state is encrypted and encryption is not configured")
    );
    // A larger request than is read does not cost the answer.
    let long = theirs.seal_stream(vec![8; 200_000], StreamSide::Dialling, || Some([5; 12]));
    assert_eq!(
        decoded(ours(), &answer(&sealed, &long.expect("sealed")).await),
        refusal("failed to decrypt remote state")
    );
    // A good one is answered as ever.
    let request = ours().seal_stream(ping.to_vec(), StreamSide::Dialling, || Some([6; 12]));
    let acked = decoded(ours(), &answer(&sealed, &request.expect("sealed")).await);
    assert!(matches!(
        acked,
        Ok(StreamProgress::Complete(StreamMessage::Ack(_)))
    ));
}

#[tokio::test]
async fn keys_change_while_nobody_is_lost() {
    let (a, mut a_events) = start(keyed("a", &[1])).await;
    let (b, mut b_events) = start(keyed("b", &[1])).await;
    let (c, mut c_events) = start(keyed("c", &[1])).await;
    let all = [&a, &b, &c];
    assert_eq!(b.join(&[a.local_addr()]).await.contacted, 1);
    assert_eq!(c.join(&[a.local_addr()]).await.contacted, 1);
    see(&all, &["a", "b", "c"]).await;

    assert_eq!(a.use_key(&key(2)), Err(KeyringError::NotInstalled));
    assert_eq!(a.remove_key(&key(1)), Err(KeyringError::InUse));
    // One after the other, as an operator would, with probes between each.
    for step in ["install", "use", "remove"] {
        for handle in all {
            let changed = match step {
                "install" => handle.install_key(key(2)),
                "use" => handle.use_key(&key(2)),
                _ => handle.remove_key(&key(1)),
            };
            assert_eq!(changed, Ok(()), "{step}");
            probed(&all).await;
        }
        let news = Bytes::from(step.as_bytes());
        c.broadcast(None, news.clone());
        message(&mut a_events, &news).await;
        message(&mut b_events, &news).await;
    }
    for handle in all {
        assert_eq!(handle.keys(), [key(2)]);
        assert!(handle.stats().malformed.is_empty());
        assert_eq!(handle.members().len(), 3);
    }
    nobody_left(&mut c_events);

    // The old key is worth nothing any more.
    let (old, _old_events) = start(keyed("old", &[1])).await;
    assert_eq!(old.join(&[a.local_addr()]).await.contacted, 0);
    // All keys at once, as a file that was edited asks for.
    assert_eq!(a.replace_keyring(ring(&[3, 2]).expect("two")), Ok(()));
    assert_eq!(a.keys(), [key(3), key(2)]);
}

#[tokio::test]
async fn without_keys_none_can_be_installed() {
    let (a, _events) = start(config("a", LOOPBACK)).await;
    assert_eq!(a.install_key(key(1)), Err(KeyringError::NotEncrypted));
    assert!(a.keys().is_empty());
}

/// The stages of giving keys to a plaintext cluster, one restarted member at a time: members hear
/// each other within a stage and across two that follow each other.
#[tokio::test]
async fn a_plaintext_cluster_is_given_keys_while_it_runs() {
    let stage = |name: &str, fills: &[u8], verify_incoming, verify_outgoing| Config {
        verify_incoming,
        verify_outgoing,
        ..keyed(name, fills)
    };
    let stages = |name: &str| {
        [
            stage(name, &[], true, true),
            stage(name, &[1], false, false),
            stage(name, &[1], false, true),
            stage(name, &[1], true, true),
        ]
    };
    for (from, to) in [(0, 1), (1, 2), (2, 3)] {
        let (a, mut a_events) = start(stages("a")[from].clone()).await;
        let (b, mut b_events) = start(stages("b")[to].clone()).await;
        let (c, mut c_events) = start(stages("c")[to].clone()).await;
        assert_eq!(b.join(&[a.local_addr()]).await.contacted, 1, "{from} {to}");
        assert_eq!(a.join(&[c.local_addr()]).await.contacted, 1, "{from} {to}");
        see(&[&a, &b, &c], &["a", "b", "c"]).await;
        probed(&[&a, &b, &c]).await;
        for (sender, events) in [(&a, &mut b_events), (&c, &mut a_events)] {
            let news = Bytes::from(format!("from {:?}", sender.local_addr()));
            sender.broadcast(None, news.clone());
            message(events, &news).await;
        }
        for events in [&mut a_events, &mut b_events, &mut c_events] {
            nobody_left(events);
        }
        for handle in [&a, &b, &c] {
            assert!(handle.stats().malformed.is_empty(), "{from} {to}");
        }
    }
    // A stage that is left out shows.
    for (from, to) in [(0, 2), (0, 3), (1, 3)] {
        let (a, _a_events) = start(stages("a")[from].clone()).await;
        let (b, _b_events) = start(stages("b")[to].clone()).await;
        assert_eq!(b.join(&[a.local_addr()]).await.contacted, 0, "{from} {to}");
    }
}

#[tokio::test]
async fn members_of_version_6_find_each_other_with_and_without_a_key() {
    for fills in [&[][..], &[1]] {
        let member = |name| Config {
            keyring: ring(fills),
            ..config(name, "::1")
        };
        let (a, mut a_events) = start(member("a")).await;
        let (b, mut b_events) = start(member("b")).await;
        assert!(a.local_addr().is_ipv6() && a.local_addr() != b.local_addr());
        let seed = a.local_addr().to_string();
        assert!(seed.starts_with("[::1]:"), "{seed}");
        let seed = seed.parse().expect("an address");
        assert_eq!(b.join(&[seed]).await.contacted, 1);
        see(&[&a, &b], &["a", "b"]).await;
        probed(&[&a, &b]).await;
        let listed = b.members().into_iter().find(|member| member.name == "a");
        assert_eq!(listed.expect("listed").addr, a.local_addr());
        nobody_left(&mut a_events);
        nobody_left(&mut b_events);
    }
}

#[tokio::test]
async fn keys_of_a_running_member_are_not_printed() {
    let secret = b"sixteen letters!";
    let key = memberlist::Key::new(secret).expect("16 bytes");
    let config = Config {
        keyring: Some(memberlist::Keyring::new(key)),
        ..config("a", LOOPBACK)
    };
    let mut printed = format!("{config:?}");
    let (a, _events) = start(config).await;
    printed += &format!("{a:?} {:?} {:?}", a.keys(), Arc::new(a.clone()));
    assert!(!printed.contains("sixteen") && !printed.contains("115, 105"));
    assert!(printed.contains("hidden"));
}
