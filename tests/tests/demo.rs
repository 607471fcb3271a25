//! `sidecar demo`: what the README promises for the first two minutes, on a host of its own.

#![cfg(target_os = "linux")]

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use blackbox::{AgentBuilder, Exit, Host, Lab, Machine, Request, eventually};
use rustix::process::Signal;

const STARTED: Duration = Duration::from_secs(20);
const CHECKED: Duration = Duration::from_secs(10);

fn on_demo_host(number: u8, port: u16) -> SocketAddr {
    (Ipv4Addr::new(127, 0, 0, number), port).into()
}

/// Whether a service port of one demo host is answered by exactly these.
fn answered_by(host: &Host, at: SocketAddr, wanted: &[&str]) -> Result<(), String> {
    let mut found = BTreeSet::new();
    for _ in 0..9 {
        found.insert(
            host.get(at, "/")
                .map_err(|error| format!("{at}: {error}"))?
                .body,
        );
    }
    if found
        .iter()
        .map(|answer| answer.trim_end())
        .eq(wanted.iter().copied())
    {
        return Ok(());
    }
    Err(format!("{at} is answered by {found:?}, not by {wanted:?}"))
}

#[test]
fn the_demo_shows_changes_and_stops_without_a_trace() {
    let lab = Lab::new(Machine::Shared, &["laptop"]);
    let host = lab.host(0);
    let mut demo = AgentBuilder::new(&lab, 0).args(&["demo"]).launch();
    let everybody = [
        "hello from demo-1",
        "hello from demo-2",
        "hello from demo-3",
    ];
    for number in 1..=3 {
        eventually("every agent routes to all samples", STARTED, || {
            answered_by(host, on_demo_host(number, 9500), &everybody)
        });
    }

    let switch = Request::post("/health?status=500");
    let answer = host
        .request(on_demo_host(2, 18001), &switch)
        .expect("the sample answers");
    assert!((200..300).contains(&answer.status), "{answer:?}");
    for number in 1..=3 {
        eventually("the ill sample leaves every route", CHECKED, || {
            answered_by(
                host,
                on_demo_host(number, 9500),
                &[everybody[0], everybody[2]],
            )
        });
    }
    eventually("the change is one line", CHECKED, || {
        let line = demo.log().lines().any(|line| {
            ["hello on demo-2", "Unhealthy", "on all 3 agents"]
                .iter()
                .all(|w| line.contains(w))
        });
        line.then_some(()).ok_or_else(|| "no such line".to_owned())
    });

    demo.signal(Signal::INT);
    let (exit, _) = demo.ends(Duration::from_secs(15));
    assert_eq!(exit, Exit::Code(0));
    for at in [
        on_demo_host(1, 7777),
        on_demo_host(2, 9500),
        on_demo_host(3, 18001),
    ] {
        assert!(
            host.get(at, "/").is_err(),
            "{at} still answers after the demo's end"
        );
    }
}
