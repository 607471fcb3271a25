//! Little that would become much: compressed, or only declared.

use std::time::{Duration, Instant};

use bytes::Bytes;
use memberlist::Event;
use memberlist::wire::{StreamDecoder, StreamMessage, encode_stream};
use tokio::io::AsyncWriteExt;

use crate::bench::{MS, event, filter, loopback, start, until};
use crate::hostile::{
    MIB, acked, ask, bomb, connect, count, counted, exchange, exchange_head, failures, long_state,
    socket, until_end,
};

/// As many as make a test clear, and short.
const BOMBS: u8 = 60;

#[tokio::test]
async fn r08_bombs_in_datagrams_cost_what_the_cap_says_and_are_counted() {
    let (a, _events) = start(loopback("a")).await;
    let peer = socket().await;
    let bomb = bomb(41 * MIB);
    assert!(bomb.len() < 65_000, "one datagram holds it");
    let shorter = self::bomb(129 * 1024);
    let cut_off = &bomb[..bomb.len() - 1];
    let datagrams = [&bomb[..], &shorter, cut_off, &cut_off[..100]];
    for (number, datagram) in datagrams.into_iter().enumerate() {
        peer.send_to(datagram, a.local_addr()).await.expect("sent");
        acked(&peer, &a, number as u32).await;
        let kinds = a.stats();
        assert_eq!(failures(&kinds), number as u64 + 1, "{kinds:?}");
    }
    // What is cut off is so as msgpack already.
    counted("each", &a, &[("compression", 2), ("msgpack", 2)]).await;
    assert_eq!(a.stats().messages_dropped, 0);
}

/// Before, a connection opened what came compressed on its own task, on a thread that was to answer
/// pings.
#[tokio::test]
async fn r08_bombs_on_streams_do_not_hold_up_acks() {
    let (a, _events) = start(loopback("a")).await;
    let peer = socket().await;
    let bomb = bomb(41 * MIB);
    // How long one takes here and now.
    let begun = Instant::now();
    assert!(StreamDecoder::new(filter()).feed(&bomb).is_err());
    let one = begun.elapsed();
    let (last, head) = bomb.split_last().expect("it is long");
    let mut streams = Vec::new();
    for number in 0..BOMBS {
        let mut stream = connect(2 + number, a.local_addr()).await;
        stream.write_all(head).await.expect("written");
        streams.push(stream);
    }
    until("all are read", || a.stats().streams_in == BOMBS.into()).await;
    acked(&peer, &a, 0).await;
    // All at once: nothing else runs on this thread until the last is complete.
    for stream in &streams {
        assert_eq!(stream.try_write(&[*last]).expect("written"), 1);
    }
    let (mut slowest, mut seq_no) = (Duration::ZERO, 0);
    while count(&a.stats(), "compression") < BOMBS.into() {
        let sent = Instant::now();
        seq_no += 1;
        slowest = slowest.max(acked(&peer, &a, seq_no).await - sent);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let allowed = one * BOMBS.into() * 2 / 5;
    assert!(slowest < allowed, "{slowest:?} of {allowed:?}");
    counted("each", &a, &[("compression", BOMBS.into())]).await;
    assert_eq!(a.stats().streams_failed, u64::from(BOMBS));
}

/// What is compressed counts as long as it has become, and as long as the application has it.
#[tokio::test]
async fn r19_states_the_application_holds_are_charged_inflated() {
    let (a, mut events) = start(loopback("a")).await;
    let state = long_state(20 * MIB as usize);
    assert!(state.len() < 40_000, "{} bytes", state.len());
    let next = |event| match event {
        Event::RemoteState { state, .. } => Some(state),
        _ => None,
    };
    // Of 128 MiB 80 are for opening messages; two states fit into the rest.
    let mut held = Vec::new();
    for from in [2, 3] {
        ask(from, &a, &state).await;
        held.push(event(&mut events, next).await);
    }
    assert_eq!(ask(4, &a, &state).await, b"");
    counted("the third", &a, &[("stream_budget", 1)]).await;
    drop(held.pop());
    assert_ne!(ask(5, &a, &state).await, b"", "room again");
    held.push(event(&mut events, next).await);
    // A part of it is enough to keep it.
    let parts: Vec<Bytes> = held.iter().map(|state| state.slice(..1)).collect();
    drop(held);
    assert_eq!(ask(6, &a, &state).await, b"");
    drop(parts);
    assert_ne!(ask(7, &a, &state).await, b"");
    counted("no more", &a, &[("stream_budget", 2)]).await;
}

/// A thousand may wait for a slow application: without a charge that would be a gigabyte.
#[tokio::test]
async fn r23_long_messages_that_wait_are_charged_inflated() {
    let (a, mut events) = start(loopback("a")).await;
    let message = StreamMessage::User(Bytes::from(vec![0; MIB as usize]));
    let message = encode_stream(&message, "default", true);
    assert!(message.len() < 4000);
    // Nobody reads them for now.
    let mut sent = 0;
    while failures(&a.stats()) == 0 {
        sent += 1;
        assert!(sent < 60, "{:?}", a.stats());
        ask(2, &a, &message).await;
    }
    counted("the last", &a, &[("stream_budget", 1)]).await;
    assert!(sent > 40, "{sent}");
    for _ in 1..sent {
        event(&mut events, |event| match event {
            Event::Message(bytes) => (bytes.len() as u64 == MIB).then_some(()),
            _ => None,
        })
        .await;
    }
    ask(2, &a, &message).await;
    counted("there is room again", &a, &[("stream_budget", 1)]).await;
}

#[tokio::test]
async fn r10_declared_gigabytes_are_refused_before_they_are_waited_for() {
    let (a, _events) = start(loopback("a")).await;
    let huge = |form: u8| [form, 0xff, 0xff, 0xff, 0xff];
    let entry = |value: &[u8]| {
        let head = exchange_head(b"\x01", b"\x00");
        [&head[..], b"\x81\xa4Meta", value].concat()
    };
    let rows = [
        (
            "name of a ping",
            [&b"\x00\x81\xa4Node"[..], &huge(0xdb)].concat(),
        ),
        (
            "bytes of a ping",
            [&b"\x00\x81\xa4Node"[..], &huge(0xc6)].concat(),
        ),
        (
            "unknown field",
            [&b"\x00\x81\xa1x"[..], &huge(0xc9), b"x"].concat(),
        ),
        (
            "compressed",
            [&b"\x09\x81\xa3Buf"[..], &huge(0xdb)].concat(),
        ),
        (
            "text of an error",
            [&b"\x0d\x81\xa5Error"[..], &huge(0xdb)].concat(),
        ),
        ("entries", exchange_head(&huge(0xce), b"\x00")),
        ("state", exchange_head(b"\x00", &huge(0xce))),
        ("entry", entry(&huge(0xdb))),
        (
            "message",
            [&b"\x08\x81\xaaUserMsgLen"[..], &huge(0xce)].concat(),
        ),
    ];
    for (number, (row, bytes)) in rows.iter().enumerate() {
        // The sender keeps its side open: there is more to come, it says.
        let mut stream = connect(2, a.local_addr()).await;
        stream.write_all(bytes).await.expect("written");
        assert_eq!(until_end(&mut stream).await, b"", "{row}");
        until(row, || failures(&a.stats()) == number as u64 + 1).await;
        assert_eq!(count(&a.stats(), "stream_timeout"), 0, "{row}");
    }
    // Nothing is left of them: all there is can be held.
    assert_ne!(
        ask(
            3,
            &a,
            &exchange(Vec::new(), Bytes::from(vec![1; MIB as usize]), false)
        )
        .await,
        b""
    );
}

/// So many values may still come, one byte each: nothing tells before the deadline that they do not.
#[tokio::test]
async fn r10_declared_counts_of_values_are_waited_for_without_any_memory() {
    let mut config = loopback("a");
    config.tcp_timeout = 1000 * MS;
    let (a, _events) = start(config).await;
    let mut declared = Vec::new();
    for form in [0xdd, 0xdf] {
        for length in [1_u32 << 31, u32::MAX] {
            let huge = [&[form][..], &length.to_be_bytes()].concat();
            declared.push([&b"\x00\x81\xa1x"[..], &huge].concat());
            declared.push([&b"\x09\x81\xa1x"[..], &huge].concat());
            declared.push([&b"\x00"[..], &huge].concat());
        }
    }
    // An array is no structure, which is seen at once.
    let at_once = 2;
    let mut streams = Vec::new();
    for bytes in &declared {
        let mut stream = connect(2, a.local_addr()).await;
        stream.write_all(bytes).await.expect("written");
        streams.push(stream);
    }
    // While they wait there is room for others.
    let state = exchange(Vec::new(), Bytes::from(vec![1; MIB as usize]), false);
    assert_ne!(ask(3, &a, &state).await, b"");
    for stream in &mut streams {
        assert_eq!(until_end(stream).await, b"");
    }
    let cut = declared.len() as u64 - at_once;
    counted("all", &a, &[("msgpack", at_once), ("stream_timeout", cut)]).await;
}
