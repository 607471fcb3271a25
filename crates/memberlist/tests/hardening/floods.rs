//! Datagrams by the hundred thousand: each is counted once, nothing piles up, and who is in a hurry
//! is still heard.
//!
//! What a socket's buffer cannot hold the system drops, and nobody can count it. Where counts are
//! compared with what was sent, so much is under way at most as the smallest buffer holds.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use memberlist::wire::{Message, encode_message};
use memberlist::{Event, Handle};

use crate::bench::{loopback, ping, start, until};
use crate::hostile::{acked, count, failures, socket};

/// Datagrams under way at a time.
const WINDOW: u64 = 128;

/// A thread that sends these datagrams in turn, `count` in all, as fast as they are read.
fn flood(to: &Handle, datagrams: Vec<Vec<u8>>, count: u64) -> std::thread::JoinHandle<()> {
    let member = to.clone();
    let flood = move || {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("free");
        let before = member.stats().packets_in;
        for number in 0..count {
            while number - (member.stats().packets_in - before).min(number) >= WINDOW {
                std::thread::yield_now();
            }
            let datagram = &datagrams[number as usize % datagrams.len()];
            socket.send_to(datagram, member.local_addr()).expect("sent");
        }
    };
    std::thread::spawn(flood)
}

fn pinging(name: &str) -> Vec<u8> {
    encode_message(&Message::Ping(ping(9, name)), "default")
}

#[tokio::test]
async fn a_hundred_thousand_datagrams_are_counted_each_and_hold_up_nobody() {
    const COUNT: u64 = 100_000;
    let mut config = loopback("a");
    // It says nothing by itself.
    config.probe_interval = std::time::Duration::ZERO;
    let (a, _events) = start(config).await;
    let datagrams = vec![
        b"\x63".to_vec(),
        pinging("a"),
        b"\x07\x02\x00".to_vec(),
        pinging("b"),
    ];
    let flood = flood(&a, datagrams, COUNT);
    // Somebody else asks all the while, and is answered each time.
    let peer = socket().await;
    let mut asked = 0;
    while !flood.is_finished() {
        acked(&peer, &a, asked).await;
        asked += 1;
    }
    flood.join().expect("the flood does not fail");
    let quarter = COUNT / 4;
    until("all are answered", || {
        let stats = a.stats();
        let acks = stats.packets_out + stats.packets_unsent;
        acks == quarter + u64::from(asked) && stats.node.pings_for_others == quarter
    })
    .await;
    let stats = a.stats();
    assert_eq!(stats.packets_in, COUNT + u64::from(asked));
    assert_eq!(count(&stats, "unknown_type"), quarter);
    assert_eq!(count(&stats, "compound_table"), quarter);
    assert_eq!(failures(&stats), 2 * quarter);
    assert!(asked > 10, "{asked} acks meanwhile");
    assert_eq!((stats.membership_queue, stats.user_queue), (0, 0));
}

#[tokio::test]
async fn members_lose_nobody_in_a_flood() {
    let (a, mut a_events) = start(loopback("a")).await;
    let (b, mut b_events) = start(loopback("b")).await;
    assert_eq!(b.join(&[a.local_addr()]).await.contacted, 1);
    until("both know both", || {
        a.members().len() == 2 && b.members().len() == 2
    })
    .await;
    let flood = flood(&a, vec![b"\x63".to_vec(), pinging("a")], 30_000);
    until("the flood is over", || flood.is_finished()).await;
    flood.join().expect("the flood does not fail");
    let probed = b.stats().node.probes_succeeded;
    until("probes still work", || {
        b.stats().node.probes_succeeded > probed
    })
    .await;
    for events in [&mut a_events, &mut b_events] {
        while let Ok(event) = events.try_recv() {
            assert!(!matches!(event, Event::Left(_)), "{event:?}");
        }
    }
}

/// As fast as the system takes them, so that it drops some: what gets through is counted all the
/// same, and afterwards all is as before.
#[tokio::test]
async fn what_gets_through_of_a_torrent_is_counted_once() {
    let mut config = loopback("a");
    config.probe_interval = std::time::Duration::ZERO;
    let (a, _events) = start(config).await;
    let to: SocketAddr = a.local_addr();
    let stop = Arc::new(AtomicBool::new(false));
    let torrents: Vec<_> = (0..2)
        .map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("free");
                while !stop.load(Ordering::Relaxed) {
                    // A full buffer of the sender is no failure of the member.
                    let _ = socket.send_to(b"\x63", to);
                }
            })
        })
        .collect();
    until("enough got through", || a.stats().packets_in > 50_000).await;
    stop.store(true, Ordering::Relaxed);
    for torrent in torrents {
        torrent.join().expect("the torrent does not fail");
    }
    acked(&socket().await, &a, 1).await;
    let stats = a.stats();
    assert_eq!(failures(&stats), stats.packets_in - 1);
    assert_eq!(count(&stats, "unknown_type"), stats.packets_in - 1);
}

/// The queue for a slow application takes what it takes; each message beyond is counted.
#[tokio::test]
async fn r23_each_message_a_slow_application_loses_is_counted() {
    const COUNT: u64 = 5000;
    let mut config = loopback("a");
    config.handoff_queue_depth = 16;
    let (a, mut events) = start(config).await;
    let message = Message::User(Bytes::from_static(b"flood"));
    let flood = flood(&a, vec![encode_message(&message, "default")], COUNT);
    until("the flood is over", || flood.is_finished()).await;
    flood.join().expect("the flood does not fail");
    until("all are read", || a.stats().packets_in == COUNT).await;
    acked(&socket().await, &a, 1).await;
    // One place has the news that we are a member.
    assert_eq!(a.stats().messages_dropped, COUNT - 15);
    let mut kept = 0;
    while let Ok(event) = events.try_recv() {
        kept += u64::from(matches!(event, Event::Message(_)));
    }
    assert_eq!(kept, 15);
}
