//! `sidecar demo`: three real agents and a few sample services on this machine, and one line for
//! every change with the time it took to reach every agent.
//!
//! Needs no root and no Docker: the agents live on 127.0.0.1, .2 and .3 and announce services from
//! static files. Everything is this same binary, run as child processes that end with the demo.

mod follow;
mod lab;
mod observer;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::mpsc;

use lab::Lab;
use observer::{Observer, Sighting};

/// Something the demo shows that was stopped is started again after this time.
const RESTART_AFTER: Duration = Duration::from_secs(10);
/// How often the children are looked after.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Runs the demo until Ctrl-C.
///
/// # Errors
/// When an address is missing or a port taken, or a child cannot be started.
pub async fn run() -> anyhow::Result<()> {
    let mut lab = Lab::new()?;
    lab.check_ports()?;
    lab.start_all()?;
    say(&lab.introduction());

    let started = Instant::now();
    let (sightings, mut inbox) = mpsc::channel(1024);
    for (agent, address) in lab.api_addresses().into_iter().enumerate() {
        tokio::spawn(follow::run(agent, address, sightings.clone()));
    }
    let mut observer = Observer::new(lab.agent_names());
    let mut look = tokio::time::interval(LOOK_EVERY);
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    loop {
        let lines = tokio::select! {
            result = &mut interrupt => {
                result.context("cannot listen for Ctrl-C")?;
                break;
            }
            Some(Sighting { agent, at, seen }) = inbox.recv() => observer.sighting(agent, at, seen),
            _ = look.tick() => lab.look_after(RESTART_AFTER)?,
        };
        for line in lines {
            say(&format!(
                "{:>8.3} s  {line}",
                started.elapsed().as_secs_f64()
            ));
        }
    }
    say("\nstopping");
    lab.stop().await
}

#[expect(clippy::print_stdout, reason = "the demo talks to a person")]
fn say(text: &str) {
    println!("{text}");
}
