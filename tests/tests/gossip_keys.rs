//! Encrypted gossip: who has the key is a member, who has another or none is not.

#![cfg(target_os = "linux")]

use std::time::Duration;

use blackbox::{Agent, AgentBuilder, Lab, Machine, eventually, sidecar};

const JOINED: Duration = Duration::from_secs(20);

/// A key of the program's own making.
fn key(lab: &Lab) -> String {
    let program = sidecar().display().to_string();
    let key = lab.host(0).said(&[&program, "keygen"]);
    key.trim().to_owned()
}

fn refused(agent: &Agent) -> f64 {
    let counts = agent.metrics("sidecar_gossip_malformed_total");
    counts.unwrap_or_default().values().sum()
}

#[test]
fn hosts_with_another_key_or_none_do_not_join() {
    let lab = Lab::new(Machine::Shared, &["one", "two", "other", "plain"]);
    let (shared, another) = (key(&lab), key(&lab));
    assert_ne!(shared, another);
    let start = |number, key: Option<&str>| {
        let agent = AgentBuilder::new(&lab, number);
        match key {
            Some(key) => agent.env("SIDECAR_GOSSIP_KEY", key),
            None => agent,
        }
        .start()
    };
    let one = start(0, Some(&shared));
    let two = start(1, Some(&shared));
    let other = start(2, Some(&another));
    let plain = start(3, None);
    for agent in [&one, &two] {
        eventually("those with the key meet", JOINED, || {
            agent.expect_members(&["one", "two"])
        });
        // The others have tried by now: both have these two as seeds.
        eventually("the others were refused", JOINED, || {
            (refused(agent) > 0.0)
                .then_some(())
                .ok_or_else(|| "nobody came".to_owned())
        });
    }
    for (agent, name) in [(&other, "other"), (&plain, "plain")] {
        agent.expect_members(&[name]).expect("it is alone");
    }
    for agent in [&one, &two] {
        agent.expect_members(&["one", "two"]).expect("nobody else");
        for secret in [&shared, &another] {
            assert_eq!(agent.mentions(secret), 0, "a key is in the log");
        }
    }
}
