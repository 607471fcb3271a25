//! Connections that are slow, many, misdirected or from elsewhere.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use memberlist::wire::{Message, StreamMessage, encode_message, encode_stream};
use memberlist::{Delegate, Event, Key, Keyring, NodeState};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bench::{MS, event, in_time, loopback, map, ping, start, start_with, until};
use crate::hostile::{
    acked, ask, connect, count, counted, entry, exchange, exchange_head, failures, socket,
    until_end,
};

/// Connections altogether, and from one address.
const INBOUND_MAX: u64 = 256;
const INBOUND_PER_ADDRESS_MAX: u64 = 16;

/// Writes these bytes one by one, for as long as somebody takes them.
async fn drip(stream: &mut TcpStream, bytes: &[u8]) {
    let (mut from, mut to) = stream.split();
    let write = async {
        for byte in bytes {
            if to.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(20 * MS).await;
        }
    };
    let mut reply = Vec::new();
    let cut = async {
        let _ = in_time("the cut", from.read_to_end(&mut reply)).await;
    };
    tokio::select! { () = write => {}, () = cut => {} }
}

#[tokio::test]
async fn r19_whoever_dawdles_is_cut_at_the_deadline_and_lets_go_of_everything() {
    let mut config = loopback("a");
    config.tcp_timeout = 300 * MS;
    let (a, _events) = start(config).await;
    let to = a.local_addr();
    let begun = Instant::now();
    let compressed = [&b"\x09\x81\xa3Buf\xda\xff\xff"[..], &[0; 5000]].concat();
    let entries = [
        &exchange_head(b"\x10", b"\x00")[..],
        &b"\x81\xa4Name\xa1n".repeat(999),
    ]
    .concat();
    let (silent, half, slow_head, slow_entries, slow_bomb) = tokio::join!(
        async { until_end(&mut connect(2, to).await).await },
        async {
            let mut stream = connect(3, to).await;
            stream.write_all(&[6, 0x84]).await.expect("written");
            until_end(&mut stream).await
        },
        async {
            let mut stream = connect(4, to).await;
            drip(
                &mut stream,
                b"\x06\xdf\x00\x01\x00\x00".repeat(999).as_slice(),
            )
            .await;
            Vec::new()
        },
        async {
            let mut stream = connect(5, to).await;
            stream.write_all(&entries[..40]).await.expect("written");
            drip(&mut stream, &entries[40..]).await;
            Vec::new()
        },
        async {
            let mut stream = connect(6, to).await;
            // Beyond what is opened at once.
            stream
                .write_all(&compressed[..1000])
                .await
                .expect("written");
            drip(&mut stream, &compressed[1000..]).await;
            Vec::new()
        },
    );
    assert!(begun.elapsed() >= 300 * MS);
    for reply in [silent, half, slow_head, slow_entries, slow_bomb] {
        assert_eq!(reply, b"");
    }
    until("all are counted", || a.stats().streams_failed == 5).await;
    // One of them may have been refused for what it said; the clock had the others.
    assert!(count(&a.stats(), "stream_timeout") >= 4, "{:?}", a.stats());
    assert_eq!(a.stats().streams_in, 5);
}

/// Noise of so many bytes.
struct Long(u64);

impl Delegate for Long {
    fn local_state(&self, _join: bool) -> Bytes {
        let noise = (0..self.0).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8);
        noise.collect()
    }
}

/// What is opened apart from the connection's own task is opened all the same.
#[tokio::test]
async fn long_states_are_exchanged_whatever_is_around_them() {
    for (compression, fill, label) in [
        (false, None, ""),
        (true, None, ""),
        (true, None, "blue"),
        (false, Some(1), ""),
        (true, Some(1), "blue"),
    ] {
        let config = |name| {
            let mut config = loopback(name);
            config.compression = compression;
            config.label = label.to_owned();
            config.keyring = fill
                .and_then(|fill| Key::new(&[fill; 32]).ok())
                .map(Keyring::new);
            config
        };
        let (a, mut a_events) = start_with(config("a"), Arc::new(Long(200_000))).await;
        let (b, mut b_events) = start_with(config("b"), Arc::new(Long(200_000))).await;
        let outcome = a.join(&[b.local_addr()]).await;
        assert_eq!(outcome.contacted, 1, "{outcome:?}");
        for events in [&mut a_events, &mut b_events] {
            let state = event(events, |event| match event {
                Event::RemoteState { state, .. } => Some(state),
                _ => None,
            });
            assert_eq!(state.await, Long(200_000).local_state(true));
        }
        assert_eq!((failures(&a.stats()), failures(&b.stats())), (0, 0));
    }
}

#[tokio::test]
async fn r19_whoever_does_not_read_our_answer_is_cut_at_the_deadline() {
    let mut config = loopback("a");
    config.tcp_timeout = 500 * MS;
    config.compression = false;
    // More than the buffers between us hold.
    let (a, _events) = start_with(config, Arc::new(Long(16 << 20))).await;
    let mut stream = connect(2, a.local_addr()).await;
    let request = exchange(vec![entry("ghost", 1)], Bytes::new(), false);
    stream.write_all(&request).await.expect("written");
    counted("it is cut", &a, &[("stream_timeout", 1)]).await;
    // Who did not hear us out is not heard either.
    assert_eq!((a.members().len(), a.stats().exchanges_in), (1, 0));
}

#[tokio::test]
async fn r20_one_connection_more_than_there_may_be_is_closed_at_once() {
    let mut config = loopback("a");
    // They stay until the test is over.
    config.tcp_timeout = Duration::from_secs(60);
    let (a, _events) = start(config).await;
    let mut open = Vec::new();
    for number in 0..INBOUND_MAX {
        let from = 2 + (number / INBOUND_PER_ADDRESS_MAX) as u8;
        open.push(connect(from, a.local_addr()).await);
    }
    until("all are in", || a.stats().streams_in == INBOUND_MAX).await;
    assert_eq!(a.stats().streams_refused, 0);
    // An address of its own does not help.
    assert_eq!(ask(200, &a, b"").await, b"");
    assert_eq!(
        (a.stats().streams_refused, a.stats().streams_in),
        (1, INBOUND_MAX)
    );
    // Datagrams have nothing to do with it.
    acked(&socket().await, &a, 1).await;
    open.pop();
    let ping = encode_stream(&StreamMessage::Ping(ping(7, "a")), "", false);
    let served = async { while ask(200, &a, &ping).await.is_empty() {} };
    in_time("room again", served).await;
    assert_eq!(a.stats().streams_failed, 0);
}

#[tokio::test]
async fn r20_a_storm_of_connections_leaves_no_trace() {
    let (a, _events) = start(loopback("a")).await;
    let ping = encode_stream(&StreamMessage::Ping(ping(7, "a")), "", false);
    let mut asked = 0_u64;
    for round in 0..20 {
        let mut storm = tokio::task::JoinSet::new();
        for number in 0..40_u8 {
            let (to, ping) = (a.local_addr(), ping.clone());
            asked += 1;
            storm.spawn(async move {
                let mut stream = connect(2 + number % 2, to).await;
                if (round + number) % 3 > 0 {
                    // Both ends may have closed it already.
                    let _ = stream
                        .write_all(&ping[..usize::from(number) % ping.len()])
                        .await;
                    let _ = stream.shutdown().await;
                }
            });
        }
        while storm.join_next().await.is_some() {}
    }
    until("all have come in or been refused", || {
        let stats = a.stats();
        stats.streams_in + stats.streams_refused == asked
    })
    .await;
    let served = async { while ask(2, &a, &ping).await.is_empty() {} };
    in_time("the places are free", served).await;
}

#[tokio::test]
async fn r13_a_ping_by_stream_for_another_name_is_counted_and_not_answered() {
    let (a, _events) = start(loopback("a")).await;
    for compress in [false, true] {
        let ping = encode_stream(&StreamMessage::Ping(ping(7, "b")), "", compress);
        assert_eq!(ask(2, &a, &ping).await, b"");
    }
    until("both", || a.stats().stream_pings_for_others == 2).await;
    let stats = a.stats();
    assert_eq!((failures(&stats), stats.node.pings_for_others), (0, 0));
}

#[tokio::test]
async fn r11_invalid_entries_of_a_table_are_skipped_and_counted() {
    let (a, _events) = start(loopback("a")).await;
    let fields = |name: &[u8], meta: &[u8], state: &[u8]| {
        map(&[
            ("Addr", b"\xa4\x7f\x00\x00\x01"),
            ("Incarnation", b"\x01"),
            ("Meta", meta),
            ("Name", name),
            ("Port", b"\x01"),
            ("State", state),
            ("Vsn", b"\xa6\x01\x05\x02\x00\x00\x00"),
        ])
    };
    let text = |length: u16| {
        let head = [&[0xda][..], &length.to_be_bytes()].concat();
        [head, vec![b'x'; length.into()]].concat()
    };
    let entries = [
        fields(b"\xa4good", &text(512), b"\x00"),
        fields(b"\xa3bad", &text(513), b"\x00"),
        fields(b"\xa3bad", &text(60_000), b"\x00"),
        fields(&text(256), b"\xc0", b"\x00"),
        fields(b"\xa0", b"\xc0", b"\x00"),
        fields(b"\xa2a\n", b"\xc0", b"\x00"),
        fields(b"\xa3bad", b"\xc0", b"\x09"),
        fields(b"\xa3bad", b"\xc0", b"\xff"),
        fields(&text(255), b"\xc0", b"\x00"),
    ];
    let request = [
        &exchange_head(&[entries.len() as u8], b"\x00")[..],
        &entries.concat(),
    ]
    .concat();
    for round in 1..=2 {
        assert_ne!(ask(2, &a, &request).await, b"");
        until("seven", || a.stats().entries_skipped == 7 * round).await;
    }
    let longest = "x".repeat(255);
    until("the good ones are in", || {
        let members = a.members();
        let names: Vec<&str> = members.iter().map(|member| &*member.name).collect();
        names == ["a", "good", &*longest]
    })
    .await;
    let good = &a.members()[1];
    assert_eq!((good.meta.len(), good.state), (512, NodeState::Alive));
    assert_eq!((failures(&a.stats()), a.stats().node.merges), (0, 2));
}

#[tokio::test]
async fn r24_who_is_in_no_network_of_ours_is_not_heard() {
    let mut config = loopback("a");
    config.allow_from = vec!["127.0.0.1".parse().expect("an address")];
    let (a, mut events) = start(config).await;
    let stranger = tokio::net::UdpSocket::bind("127.0.0.2:0")
        .await
        .expect("free");
    let message = encode_message(&Message::User(Bytes::from_static(b"strange")), "default");
    let garbage = b"\x63".to_vec();
    let ping_us = encode_message(&Message::Ping(ping(7, "a")), "default");
    for datagram in [&message, &garbage, &ping_us] {
        stranger
            .send_to(datagram, a.local_addr())
            .await
            .expect("sent");
    }
    let request = exchange(
        vec![entry("ghost", 1)],
        Bytes::from_static(b"strange"),
        false,
    );
    let by_stream = encode_stream(
        &StreamMessage::User(Bytes::from_static(b"strange")),
        "",
        false,
    );
    for request in [&request, &by_stream] {
        assert_eq!(ask(2, &a, request).await, b"");
    }
    until("five", || {
        let stats = a.stats();
        (stats.packets_not_allowed, stats.streams_not_allowed) == (3, 2)
    })
    .await;
    let stats = a.stats();
    assert_eq!(
        (failures(&stats), stats.streams_in, stats.exchanges_in),
        (0, 0, 0)
    );
    // Those who may are heard as ever, and theirs is the first message.
    let (b, _b_events) = start(loopback("b")).await;
    assert_eq!(b.join(&[a.local_addr()]).await.contacted, 1);
    until("both know both", || {
        a.members().len() == 2 && b.members().len() == 2
    })
    .await;
    b.broadcast(None, Bytes::from_static(b"familiar"));
    let first = event(&mut events, |event| match event {
        Event::Message(bytes) => Some(bytes),
        _ => None,
    });
    assert_eq!(first.await, "familiar");
    let mut answer = [0; 64];
    assert!(stranger.try_recv(&mut answer).is_err(), "{answer:?}");
}
