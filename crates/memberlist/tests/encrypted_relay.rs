//! What members with keys say to each other, overheard and tampered with by a relay between them.
#![cfg(feature = "driver")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use memberlist::wire::{ClusterFilter, StreamDecoder, StreamMessage, StreamProgress, StreamSide};
use memberlist::{Config, Handle};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use self::members::{config, nobody_left, probed, ring, see, start, until};

mod members;

const LOOPBACK: &str = "127.0.0.1";
/// Version, nonce and tag.
const SEALED: usize = 29;

/// Everything overheard.
#[derive(Default)]
struct Overheard {
    datagrams: Vec<Vec<u8>>,
    /// Each connection's two directions.
    streams: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Stands at an address that a member tells its peers, and passes on to it.
struct Relay {
    addr: SocketAddr,
    deaf: AtomicBool,
    overheard: Mutex<Overheard>,
}

impl Relay {
    /// A relay at a free port of loopback.
    async fn bind() -> (Arc<Self>, UdpSocket, TcpListener) {
        let tcp = TcpListener::bind((LOOPBACK, 0)).await.expect("free");
        let addr = tcp.local_addr().expect("bound");
        let udp = UdpSocket::bind(addr).await.expect("free");
        let relay = Self {
            addr,
            deaf: AtomicBool::new(false),
            overheard: Mutex::default(),
        };
        (Arc::new(relay), udp, tcp)
    }

    fn overheard<T>(&self, look: impl FnOnce(&mut Overheard) -> T) -> T {
        look(
            &mut self
                .overheard
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Datagrams between `to` and whoever else sends any; lost while the relay is deaf.
    async fn datagrams(self: Arc<Self>, socket: UdpSocket, to: SocketAddr) {
        let mut buffer = vec![0; 65_536];
        let mut other = None;
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let datagram = &buffer[..length];
            self.overheard(|overheard| overheard.datagrams.push(datagram.to_vec()));
            if from != to {
                other = Some(from);
            }
            let target = if from == to { other } else { Some(to) };
            if let Some(target) = target
                && !self.deaf.load(Ordering::SeqCst)
            {
                // A lost datagram is nothing to a member.
                let _ = socket.send_to(datagram, target).await;
            }
        }
    }

    async fn streams(self: Arc<Self>, listener: TcpListener, to: SocketAddr) {
        while let Ok((client, _)) = listener.accept().await {
            let relay = self.clone();
            tokio::spawn(async move {
                let Ok(server) = TcpStream::connect(to).await else {
                    return;
                };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let both = tokio::join!(copy(from_client, to_server), copy(from_server, to_client));
                relay.overheard(|overheard| overheard.streams.push(both));
            });
        }
    }
}

/// Copies to the end, and says what.
async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> Vec<u8> {
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(length) = from.read(&mut buffer).await {
        if length == 0 || to.write_all(&buffer[..length]).await.is_err() {
            break;
        }
        all.extend_from_slice(&buffer[..length]);
    }
    // The other side may be gone already.
    let _ = to.shutdown().await;
    all
}

/// With time for a ping by stream through the relay, also on a busy machine.
fn keyed(name: &str, label: &str) -> Config {
    Config {
        keyring: ring(&[1]),
        label: label.to_owned(),
        probe_interval: Duration::from_millis(500),
        ..config(name, LOOPBACK)
    }
}

/// Two members, the second of which is reached through the relay.
struct Pair {
    a: Handle,
    b: Handle,
    a_events: tokio::sync::mpsc::Receiver<memberlist::Event>,
    _b_events: tokio::sync::mpsc::Receiver<memberlist::Event>,
    relay: Arc<Relay>,
}

async fn pair(label: &str) -> Pair {
    let (relay, udp, tcp) = Relay::bind().await;
    let (a, a_events) = start(keyed("a", label)).await;
    let behind = Config {
        advertise_port: Some(relay.addr.port()),
        ..keyed("b", label)
    };
    let (b, b_events) = start(behind).await;
    tokio::spawn(relay.clone().datagrams(udp, b.local_addr()));
    tokio::spawn(relay.clone().streams(tcp, b.local_addr()));
    let joined = a.join(&[relay.addr]).await;
    assert_eq!(joined.contacted, 1, "{joined:?}");
    see(&[&a, &b], &["a", "b"]).await;
    Pair {
        a,
        b,
        a_events,
        _b_events: b_events,
        relay,
    }
}

fn by_stream_only(handle: &Handle) -> u64 {
    handle.stats().node.probes_answered_by_tcp_only
}

#[tokio::test]
async fn a_sealed_ping_by_stream_is_an_answer_as_long_as_the_keys_fit() {
    for label in ["", "blue"] {
        let mut pair = pair(label).await;
        probed(&[&pair.a, &pair.b]).await;
        pair.relay.deaf.store(true, Ordering::SeqCst);
        let begin = by_stream_only(&pair.a);
        until("answered by stream alone", || {
            by_stream_only(&pair.a) > begin + 3
        })
        .await;
        nobody_left(&mut pair.a_events);
        // What was said on those streams was sealed.
        let pings = pair.relay.overheard(|overheard| {
            let label = label.to_owned();
            let sealed = move |stream: &[u8], header: &[u8]| {
                stream.is_empty() || stream.starts_with(&[header, b"\x0a"].concat())
            };
            let header = match label.as_str() {
                "" => Vec::new(),
                label => [b"\xf4\x04", label.as_bytes()].concat(),
            };
            for (request, answer) in &overheard.streams {
                assert!(sealed(request, &header), "{request:02x?}");
                assert!(sealed(answer, b""), "{answer:02x?}");
            }
            overheard.streams.len()
        });
        assert!(pings > 3, "{pings} streams");

        // With another key it is none: the same silence is a suspicion now.
        pair.b
            .replace_keyring(ring(&[2]).expect("a key"))
            .expect("it has keys");
        let begin = pair.a.stats().node.suspicions;
        until("suspected", || pair.a.stats().node.suspicions > begin).await;
    }
}

#[tokio::test]
async fn what_members_with_a_key_send_is_neither_labelled_nor_padded_nor_empty() {
    let pair = pair("").await;
    // Of every length that padding could make a difference to.
    for length in 0..64 {
        pair.a.broadcast(None, Bytes::from(vec![b'x'; length]));
        pair.b.broadcast(None, Bytes::from(vec![b'y'; length]));
    }
    probed(&[&pair.a, &pair.b]).await;
    pair.relay.deaf.store(true, Ordering::SeqCst);
    until("a ping by stream", || by_stream_only(&pair.a) > 0).await;
    until("a state and a ping were exchanged", || {
        pair.relay
            .overheard(|overheard| overheard.streams.len() > 1)
    })
    .await;

    let envelope = keyed("", "").envelope();
    let datagrams = pair
        .relay
        .overheard(|overheard| std::mem::take(&mut overheard.datagrams));
    assert!(datagrams.len() > 10, "{} datagrams", datagrams.len());
    for datagram in datagrams {
        // Version 1 and never 0, which is padded; nor 244, which begins a label.
        assert_eq!(datagram[0], 1, "N9, N10: {datagram:02x?}");
        let plain = envelope.open_packet(&datagram).expect("ours");
        assert!(!plain.is_empty(), "N1");
        assert_eq!(datagram.len(), plain.len() + SEALED, "N10");
        assert!(datagram.len() <= 1407, "N11: {}", datagram.len());
    }
    let streams = pair
        .relay
        .overheard(|overheard| std::mem::take(&mut overheard.streams));
    for (request, answer) in streams {
        for (bytes, side) in [
            (request, StreamSide::Dialling),
            (answer, StreamSide::Accepting),
        ] {
            // Who dialled may have given up before anything was said.
            let Some((head, _)) = bytes.split_at_checked(6) else {
                assert!(bytes.is_empty(), "{bytes:02x?}");
                continue;
            };
            assert_eq!((head[0], head[5]), (10, 1), "N9, N10: {bytes:02x?}");
            let mut decoder = StreamDecoder::enveloped(filter(), envelope.clone(), side);
            let read = decoder.feed(&bytes);
            let whole = matches!(
                read,
                Ok(StreamProgress::Complete(
                    StreamMessage::PushPull(_) | StreamMessage::Ping(_) | StreamMessage::Ack(_)
                ))
            );
            assert!(whole, "{read:?}");
        }
    }
}

fn filter() -> ClusterFilter {
    config("", LOOPBACK).cluster_filter()
}
