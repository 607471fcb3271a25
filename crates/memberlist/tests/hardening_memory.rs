//! What a hundred bombs at once cost a member in memory, as the system sees it.
//!
//! A program of its own with a single test, because what is measured belongs to the whole process.
//! Wanted are at most 128 MiB for all that streams bring, whatever they inflate to. The test runs
//! itself again with an allocator that gives back at once what is freed: otherwise what it keeps for
//! later would be measured too.
#![cfg(all(feature = "driver", target_os = "linux"))]

#[allow(dead_code, reason = "shared with other programs, which use the rest")]
#[path = "conformance/bench.rs"]
mod bench;
#[allow(dead_code, reason = "shared with other programs, which use the rest")]
#[path = "hardening/hostile.rs"]
mod hostile;

use bytes::Bytes;
use memberlist::wire::{PUSH_NODES_MAX, PushNode, StreamMessage, encode_stream};
use tokio::task::JoinSet;

use crate::bench::{in_time, loopback, start, until};
use crate::hostile::{MIB, bomb, connect, count, entry, exchange, long_state, until_end};

const BUDGET: u64 = 128 * MIB;
/// For all that is not a stream: threads, sockets, buffers of what is being written.
const ELSEWHERE: u64 = 16 * MIB;

const NAME: &str = "a_hundred_bombs_at_once_stay_within_the_budget";
/// For glibc; other allocators do not read them.
const GIVE_BACK_AT_ONCE: [(&str, &str); 3] = [
    ("MALLOC_ARENA_MAX", "1"),
    ("MALLOC_MMAP_THRESHOLD_", "65536"),
    ("MALLOC_TRIM_THRESHOLD_", "65536"),
];

/// The most memory touched so far, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("readable");
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or_else(|| panic!("no VmHWM in:\n{status}")) * 1024
}

/// Forgets the most memory touched so far.
fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").expect("ours to write");
}

/// What inflates to the most that is read, to more than that, to the longest state, to the longest
/// table, and to a long message: a few kilobytes each, but for the table.
fn bombs() -> Vec<Vec<u8>> {
    let meta = Bytes::from(vec![0; 512]);
    let nodes = (0..PUSH_NODES_MAX / 8).map(|number| PushNode {
        meta: meta.clone(),
        ..entry(&number.to_string(), 1)
    });
    let message = StreamMessage::User(Bytes::from(vec![0; MIB as usize]));
    vec![
        bomb(40 * MIB - 1),
        bomb(41 * MIB),
        long_state(20 * MIB as usize),
        exchange(nodes.collect(), Bytes::new(), true),
        encode_stream(&message, "default", true),
    ]
}

#[test]
fn a_hundred_bombs_at_once_stay_within_the_budget() {
    if GIVE_BACK_AT_ONCE
        .iter()
        .any(|(name, _)| std::env::var_os(name).is_none())
    {
        let itself = std::env::current_exe().expect("known");
        let again = std::process::Command::new(itself)
            .args(["--exact", NAME, "--nocapture"])
            .envs(GIVE_BACK_AT_ONCE)
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&again.stdout) + String::from_utf8_lossy(&again.stderr);
        assert!(
            again.status.success() && said.contains("1 passed"),
            "{said}"
        );
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(throw_bombs());
}

async fn throw_bombs() {
    const BOMBS: u64 = 100;
    let mut config = loopback("a");
    config.members_max = 100;
    config.tcp_timeout = bench::PATIENCE;
    let (a, mut events) = start(config).await;
    let bombs = bombs();
    forget_peak();
    let before = peak();
    let mut storm = JoinSet::new();
    for number in 0..BOMBS {
        let bomb = bombs[number as usize % bombs.len()].clone();
        let (from, to) = (2 + (number % 20) as u8, a.local_addr());
        storm.spawn(async move {
            let mut stream = connect(from, to).await;
            // It may be refused before all is written.
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, &bomb).await;
            drop(bomb);
            until_end(&mut stream).await;
        });
    }
    // An application that keeps all it is given.
    let mut kept = Vec::new();
    let all = async {
        loop {
            tokio::select! {
                Some(event) = events.recv() => kept.push(event),
                done = storm.join_next() => match done {
                    Some(done) => done.expect("a bomb is thrown"),
                    None => return,
                },
            }
        }
    };
    in_time("the storm", all).await;
    let grown = peak() - before;
    let stats = a.stats();
    assert_eq!((stats.streams_in, stats.streams_refused), (BOMBS, 0));
    assert!(grown < BUDGET + ELSEWHERE, "{} MiB: {stats:?}", grown / MIB);
    // Not because nothing was read: some got in, and some found the budget used up.
    assert!(stats.exchanges_in > 0, "{stats:?}");
    assert!(count(&stats, "stream_budget") > 0, "{stats:?}");
    assert!(count(&stats, "compression") > 0, "{stats:?}");
    // It all comes back.
    drop(kept);
    while events.try_recv().is_ok() {}
    let again = long_state(20 * MIB as usize);
    let mut stream = connect(2, a.local_addr()).await;
    tokio::io::AsyncWriteExt::write_all(&mut stream, &again)
        .await
        .expect("written");
    assert_ne!(until_end(&mut stream).await, b"");
    until("nothing is held", || {
        a.stats().exchanges_in > stats.exchanges_in
    })
    .await;
}
