//! The agent's log: two shapes, four levels, a line for what an operator cares about, and no more.

#![cfg(target_os = "linux")]

use std::time::Duration;

use blackbox::{Agent, AgentBuilder, Lab, Machine, Status, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};

const SETTLED: Duration = Duration::from_secs(20);
/// Instances that come and go at once.
const MANY: usize = 500;
/// Lines that may tell of that: some by themselves, the others as a number.
const FEW: usize = 150;

fn service(number: usize) -> Value {
    json!({
        "Service": { "Name": format!("svc-{number}"), "Image": "svc:1", "Ports": [] },
        "Check": { "Type": "AlwaysSuccessful" },
    })
}

/// Waits until the agent lists so many instances as alive.
fn alive(agent: &Agent, count: usize) {
    eventually("all are alive", SETTLED, || {
        let name = "sidecar_catalog_instances{status=\"Alive\"}";
        let found = agent.metrics(name)?;
        let found = found.get(name).copied().unwrap_or_default();
        (found == count as f64)
            .then_some(())
            .ok_or_else(|| format!("{found}"))
    });
}

#[test]
fn json_is_an_object_a_line_with_the_originals_keys() {
    let lab = Lab::new(Machine::Shared, &["node-a"]);
    let mut agent = AgentBuilder::new(&lab, 0)
        .env("SIDECAR_LOGGING_FORMAT", "json")
        .services(&[service(1)])
        .start();
    alive(&agent, 1);
    let log = agent.log();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    assert!(lines.len() > 5, "{log}");
    for line in &lines {
        for key in ["level", "msg", "time"] {
            assert!(line[key].is_string(), "{line}");
        }
    }
    let told = lines.iter().find(|line| line["msg"] == "service changed");
    let told = told.expect("a change is told");
    assert_eq!(told["service"], "svc-1", "{told}");
    assert_eq!(told["host"], "node-a", "{told}");
    agent.kill();
}

#[test]
fn text_has_time_level_and_message_and_levels_leave_out_what_is_below() {
    for (level, shown, hidden) in [
        ("debug", "level=info", None),
        ("info", "level=info", Some("level=debug")),
        ("warn", "level=warning", Some("level=info")),
        ("error", "", Some("level=warning")),
    ] {
        let lab = Lab::new(Machine::Shared, &["node-a"]);
        // An unknown setting is worth a warning.
        let mut agent = AgentBuilder::new(&lab, 0)
            .env("SIDECAR_LOGGING_LEVEL", level)
            .env("SIDECAR_NO_SUCH_SETTING", "1")
            .services(&[service(1)])
            .start();
        alive(&agent, 1);
        let log = agent.log();
        assert!(log.contains(shown), "{level}: {log}");
        if let Some(hidden) = hidden {
            assert!(!log.contains(hidden), "{level}: {log}");
        }
        for line in log.lines() {
            let rest = line
                .strip_prefix("time=\"")
                .unwrap_or_else(|| panic!("{line}"));
            assert!(rest.contains("\" level="), "{line}");
            assert!(rest.contains(" msg=\""), "{line}");
        }
        agent.signal(Signal::TERM);
        agent.ends(SETTLED);
    }
}

#[test]
fn many_changes_at_once_are_few_lines() {
    let lab = Lab::new(Machine::Shared, &["node-a", "node-b"]);
    let services: Vec<Value> = (0..MANY).map(service).collect();
    let mut a = AgentBuilder::new(&lab, 0).services(&services).start();
    let mut b = AgentBuilder::new(&lab, 1).start();
    alive(&b, MANY);
    lab.write("static-node-a.json", "[]");
    a.signal(Signal::HUP);
    alive(&b, 0);
    eventually("the number of the others is told", SETTLED, || {
        [&a, &b]
            .iter()
            .all(|agent| agent.mentions("more services changed") > 0)
            .then_some(())
            .ok_or_else(|| b.log())
    });
    // Not so those that the host itself checks: what it found and what its checks say is told of each.
    let told = a.mentions("service changed");
    assert!(told < FEW, "{told} lines: {}", a.log());
    let lines = b.log().lines().count();
    assert!(lines < FEW, "{lines} lines: {}", b.log());
    // A single one is told by itself.
    lab.write("static-node-a.json", &json!([service(1)]).to_string());
    a.signal(Signal::HUP);
    eventually("one is alive again", SETTLED, || {
        b.expect_instances("svc-1", &[("node-a", Status::Alive)])
    });
    let told = |line: &str| line.contains("service changed") && line.contains("svc-1 ");
    let last = b.log();
    let last: Vec<&str> = last.lines().filter(|line| told(line)).collect();
    assert!(
        last.last().is_some_and(|line| line.contains("to=Alive")),
        "{last:?}"
    );
    a.kill();
    b.kill();
}
