//! What a change costs in a big catalog: applying one record and publishing the snapshot, while a
//! reader still holds the one before. Prints numbers and judges nothing.
//!
//! ```text
//! cargo bench -p catalog --bench state
//! ```
#![allow(clippy::print_stdout, reason = "a bench prints its numbers")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use catalog::{Author, Now, Port, Service, State, Status, Timestamp, Upkeep, json};

/// Records held, in hosts of as many services each.
const RECORDS: usize = 100_000;
/// Changes measured.
const CHANGES: usize = 20_000;
/// Changes of a clone measured, after the first.
const CLONE_CHANGES: usize = 100;

fn main() {
    println!(
        "{RECORDS} records, {CHANGES} changes; each applied and published while readers hold the last"
    );
    println!("services per host   median ns   p99 ns   max µs   bytes per record");
    for services in [1, 10, 100, 1000] {
        measure(services);
    }
}

fn measure(services: usize) {
    let hosts = RECORDS / services;
    let start = now(Duration::ZERO);
    let mut state = State::new("host-00000", "bench");
    let info = allocation_counter::measure(|| {
        for host in 0..hosts {
            state.member_up(&name(host), Upkeep::Membership, start);
            for id in 0..services {
                let record = record(host, id, 0, Status::Alive);
                let applied = state.apply(record, Author::Own, start);
                assert!(applied.is_ok());
            }
        }
    });
    let mut published = state.snapshot().clone();
    let mut nanos: Vec<u128> = (0..CHANGES)
        .map(|change| {
            let at = change.wrapping_mul(7919) % RECORDS;
            let (host, id) = (at / services, at % services);
            let record = record(host, id, 1 + change, Status::Unhealthy);
            let begin = Instant::now();
            let applied = state.apply(record, Author::Own, start);
            let snapshot = state.snapshot().clone();
            let took = begin.elapsed().as_nanos();
            assert!(applied.is_ok());
            // Readers let go of the old one only now.
            published = black_box(snapshot);
            took
        })
        .collect();
    drop(published);
    nanos.sort_unstable();
    println!(
        "{services:17} {:11} {:8} {:8.1} {:18}",
        nanos[CHANGES / 2],
        nanos[CHANGES * 99 / 100],
        nanos[CHANGES - 1] as f64 / 1000.0,
        info.bytes_current / RECORDS as i64,
    );
    let begin = Instant::now();
    let document = json::encode_replica(state.snapshot());
    println!(
        "                    (whole state as JSON: {:.1} MB in {:.0} ms)",
        document.len() as f64 / 1e6,
        begin.elapsed().as_secs_f64() * 1e3
    );
    measure_clones(&state, services, start);
}

/// What one more replica costs that knows the same, and what it costs it to know one thing more.
fn measure_clones(state: &State, services: usize, start: Now) {
    let mut clone = None;
    let cloned = allocation_counter::measure(|| clone = Some(state.seen_from("host-00001")));
    let Some(mut clone) = clone else { return };
    let mut change = |number: usize| {
        let at = number.wrapping_mul(7919) % RECORDS;
        let (host, id) = (at / services, at % services);
        let record = record(host, id, 1 + CHANGES + number, Status::Alive);
        let info = allocation_counter::measure(|| {
            assert!(clone.apply(record, Author::Own, start).is_ok());
        });
        info.bytes_current
    };
    let first = change(0);
    let next = (1..=CLONE_CHANGES).map(&mut change).sum::<i64>() / CLONE_CHANGES as i64;
    println!(
        "                    (a clone: {} B; its first change: {first} B, further ones: {next} B)",
        cloned.bytes_current
    );
}

fn name(host: usize) -> String {
    format!("host-{host:05}")
}

fn now(after: Duration) -> Now {
    Now {
        wall: Timestamp::EPOCH.plus(after),
        monotonic: Instant::now(),
    }
}

fn record(host: usize, id: usize, nanos: usize, status: Status) -> Service {
    Service {
        id: format!("{id:012x}"),
        name: format!("service-{:03}", id % 100),
        image: "registry.example/team/service:1.2.3".into(),
        created: Timestamp::EPOCH,
        hostname: name(host),
        ports: Some(vec![Port {
            kind: "tcp".into(),
            port: 32_768,
            service_port: 8080,
            ip: "10.20.30.40".into(),
        }]),
        updated: Timestamp::from_unix_nanos(nanos as i128),
        proxy_mode: "http".into(),
        weight: None,
        status,
    }
}
