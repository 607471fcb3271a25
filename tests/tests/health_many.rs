//! A thousand checks at once: all are made, and memory stays where it is.

#![cfg(target_os = "linux")]

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use blackbox::{Agent, AgentBuilder, Lab, Machine, eventually, throughout};
use serde_json::json;

const CHECKS: usize = 1000;
/// Ten times what the agent reads of a body.
const BODY_BYTES: usize = 640 * 1024;
const READY: Duration = Duration::from_secs(90);
/// Rounds of checks that fill what is filled only once: pools, arenas, buffers.
const WARM_ROUNDS: usize = 4;
/// Rounds that must not add to it.
const ROUNDS: usize = 6;
/// What the allocator may keep more of after one round than after another, in KiB. A leak of one
/// body per check would be 64,000 a round.
const NOISE_KIB: u64 = 6 * 1024;

/// Answers every connection with a body that is far too long; counts them.
fn serve(listener: &TcpListener, answered: &AtomicUsize) {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY_BYTES}\r\n\r\n");
    let body = vec![b'x'; BODY_BYTES];
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let mut request = [0; 512];
        if stream.read(&mut request).is_ok() {
            // The agent hangs up in the middle.
            let _ = stream.write_all(head.as_bytes());
            let _ = stream.write_all(&body);
            answered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Resident memory of the agent in KiB, and the most it ever was.
fn memory(agent: &Agent) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).expect("it runs");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
        number
            .and_then(|it| it.parse().ok())
            .expect("a number of KiB")
    };
    (field("VmRSS:"), field("VmHWM:"))
}

fn alive(agent: &Agent) -> Result<(), String> {
    let series = "sidecar_checks{kind=\"HttpGet\",status=\"Alive\"}";
    let found = agent.metrics("sidecar_checks")?;
    let wanted = f64::from(u16::try_from(CHECKS).expect("a thousand"));
    if found.get(series) == Some(&wanted) {
        return Ok(());
    }
    Err(format!("{found:?}"))
}

#[test]
fn a_thousand_checks_at_once_hold_memory_flat() {
    let lab = Lab::new(Machine::Alone, &["one"]);
    let answered = Arc::new(AtomicUsize::new(0));
    let listener = lab.host(0).listen((Ipv4Addr::LOCALHOST, 8100).into());
    let counter = Arc::clone(&answered);
    thread::spawn(move || serve(&listener, &counter));
    let targets: Vec<_> = (0..CHECKS)
        .map(|number| {
            json!({
                "Service": {
                    "Name": format!("s{number}"),
                    "Ports": [{ "Type": "tcp", "Port": 10_000 + number }],
                },
                "Check": { "Type": "HttpGet", "Args": "http://127.0.0.1:8100/" },
            })
        })
        .collect();
    let agent = AgentBuilder::new(&lab, 0)
        .env("SIDECAR_PROXY", "none")
        .services(&targets)
        .start();
    eventually("all are alive", READY, || alive(&agent));
    let rounds = |count: usize| {
        let wanted = answered.load(Ordering::Relaxed) + count * CHECKS;
        eventually("rounds of checks", READY, || {
            let done = answered.load(Ordering::Relaxed);
            (done >= wanted)
                .then_some(())
                .ok_or_else(|| format!("{done} of {wanted}"))
        });
    };
    rounds(WARM_ROUNDS);
    let (warm, _) = memory(&agent);
    rounds(ROUNDS);
    let (after, most) = memory(&agent);
    println!(
        "{CHECKS} checks with bodies of {} KiB: {warm} KiB warm, {after} KiB after {ROUNDS} rounds \
         more, {most} KiB at most",
        BODY_BYTES / 1024
    );
    assert!(
        after <= warm + NOISE_KIB,
        "it grew from {warm} to {after} KiB"
    );
    throughout("all are alive", Duration::from_secs(1), || alive(&agent));
}
