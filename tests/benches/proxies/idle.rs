//! Memory of a proxy whose clients are there and say nothing.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use blackbox::{Host, Lab, Machine};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    usage,
    ways::{self, Way},
};

const WANTED: u64 = 10_000;
/// Files that a proxy needs beside the two for each connection.
const SPARE_FILES: u64 = 600;
/// Connections that were opened to see whether the proxy serves.
const FORMER_FILES: usize = 8;
/// A proxy may keep less for clients that have been silent for a while.
const QUIET: Duration = Duration::from_secs(8);
const SETTLED: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(30);

/// What the clients have done before they are silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clients {
    Connected,
    Served,
}

pub(crate) fn run() {
    let connections = connections();
    println!("\nResident memory with {connections} idle connections, each line a fresh process:\n");
    println!("| proxy | clients | before | with them | for each | {QUIET:?} later | for each |");
    println!("|---|---|---|---|---|---|---|");
    for clients in [Clients::Connected, Clients::Served] {
        for mode in [0, 1] {
            with_lab(|lab| {
                let (_agent, ways) = ways::builtin(lab, 0);
                measure(lab.host(0), &ways[mode], clients, connections);
            });
            with_lab(|lab| {
                let (_process, ways) = ways::haproxy(lab, 0);
                measure(lab.host(0), &ways[mode], clients, connections);
            });
        }
        with_lab(|lab| {
            if let Some((_process, way)) = ways::envoy(lab, 0) {
                measure(lab.host(0), &way, clients, connections);
            }
        });
    }
}

fn with_lab(act: impl FnOnce(&Lab)) {
    let lab = Lab::new(Machine::Alone, &["plain"]);
    let _backend = ways::backend(&lab, 0);
    act(&lab);
}

/// As many as the limit of open files lets a proxy have that needs two for each. It is as high as it can be
/// made for everything that is started from here.
fn connections() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = 2 * WANTED + SPARE_FILES;
    if limit.maximum.is_some_and(|it| it < wanted) {
        let higher = Rlimit {
            current: Some(wanted),
            maximum: Some(wanted),
        };
        // Not everybody may; then it is as it is.
        let _ = setrlimit(Resource::Nofile, higher);
    }
    limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let possible = (limit.maximum.unwrap_or(u64::MAX) - SPARE_FILES) / 2;
    if possible < WANTED {
        println!(
            "no process may have more than {} open files",
            limit.maximum.unwrap_or_default()
        );
    }
    usize::try_from(possible.min(WANTED)).unwrap()
}

fn measure(host: &Host, way: &Way, clients: Clients, count: usize) {
    let proxy = way.proxy.unwrap();
    let before = usage::resident_kib(proxy);
    let files = usage::open_files(proxy);
    let held: io::Result<Vec<TcpStream>> =
        host.within(|| (0..count).map(|_| connect(way.at, clients)).collect());
    let held = held.unwrap();
    // A few of those that were open before may be closed by now.
    let all_there = || usage::open_files(proxy) + FORMER_FILES >= files + count;
    let after = settled(proxy, all_there);
    std::thread::sleep(QUIET);
    let later = usage::resident_kib(proxy);
    let each = |memory: u64| memory.saturating_sub(before) as f64 / held.len() as f64;
    println!(
        "| {} | {} | {before} KiB | {after} KiB | {:.2} KiB | {later} KiB | {:.2} KiB |",
        way.name,
        match clients {
            Clients::Connected => "sent nothing",
            Clients::Served => "had one answer",
        },
        each(after),
        each(later),
    );
}

fn connect(to: SocketAddr, clients: Clients) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(to)?;
    if clients == Clients::Served {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: it\r\n\r\n")?;
        let mut answer = Vec::new();
        // The body is six bytes long, the last of which is the only line's end after the head.
        while !answer.ends_with(b"hello\n") {
            let mut piece = [0; 1024];
            let count = stream.read(&mut piece)?;
            assert_ne!(count, 0, "the answer ends early");
            answer.extend_from_slice(&piece[..count]);
        }
    }
    Ok(stream)
}

/// The memory once all are there and it does not grow any more.
fn settled(proxy: u32, all_there: impl Fn() -> bool) -> u64 {
    let start = Instant::now();
    loop {
        let memory = usage::resident_kib(proxy);
        std::thread::sleep(SETTLED);
        if all_there() && usage::resident_kib(proxy) <= memory {
            return memory;
        }
        assert!(start.elapsed() < PATIENCE, "not all connections arrive");
    }
}
