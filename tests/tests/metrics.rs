//! What monitoring gets: metrics for Prometheus, statsd lines, health and readiness.

#![cfg(target_os = "linux")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use blackbox::{Agent, AgentBuilder, Lab, Machine, Response, Status, eventually};
use serde_json::{Value, json};

const SETTLED: Duration = Duration::from_secs(20);
/// Suspicion of one host by another, and what comes before and after.
const DEAD: Duration = Duration::from_secs(60);
const STATSD_PORT: u16 = 8125;

fn service(name: &str) -> Value {
    json!({
        "Service": { "Name": name, "Image": format!("{name}:1"), "Ports": [] },
        "Check": { "Type": "AlwaysSuccessful" },
    })
}

/// The lines of a statsd, by the name: kind and value.
#[derive(Default)]
struct Statsd {
    lines: BTreeMap<String, (String, f64)>,
    datagrams: usize,
}

impl Statsd {
    /// Reads what has come.
    fn read(&mut self, socket: &UdpSocket) {
        let mut buffer = [0; 65_536];
        while let Ok(length) = socket.recv(&mut buffer) {
            assert!(length <= 1400, "a datagram of {length} bytes");
            self.datagrams += 1;
            let text = std::str::from_utf8(&buffer[..length]).expect("lines are text");
            assert!(text.ends_with('\n'), "{text}");
            for line in text.lines() {
                let (name, rest) = line.split_once(':').expect(line);
                let mut parts = rest.split('|');
                let value = parts.next().expect(line);
                let fraction = value.split_once('.').expect(line).1;
                assert_eq!(fraction.len(), 6, "{line}");
                let kind = parts.next().expect(line);
                assert!(["ms", "c", "g"].contains(&kind), "{line}");
                if let Some(rate) = parts.next() {
                    let rate = rate.strip_prefix('@').expect(line);
                    let rate: f64 = rate.parse().expect(line);
                    assert!(rate > 0.0 && rate < 1.0 && kind == "ms", "{line}");
                }
                let value: f64 = value.parse().expect(line);
                let seen = self.lines.entry(name.to_owned()).or_default();
                *seen = (kind.to_owned(), seen.1.max(value));
            }
        }
    }

    fn lacks<'a>(&self, wanted: &[(&'a str, &str)]) -> Vec<&'a str> {
        let lacking = wanted.iter().filter(|(name, kind)| {
            let seen = self.lines.get(*name);
            seen.is_none_or(|(seen, _)| seen != kind)
        });
        lacking.map(|(name, _)| *name).collect()
    }
}

#[test]
fn statsd_gets_the_originals_names_once_a_second() {
    let lab = Lab::new(Machine::Shared, &["node-a", "node-b"]);
    let socket = lab
        .host(0)
        .datagrams((Ipv4Addr::LOCALHOST, STATSD_PORT).into());
    socket
        .set_nonblocking(true)
        .expect("a socket can be made non-blocking");
    let mut a = AgentBuilder::new(&lab, 0)
        .env("SIDECAR_STATS_ADDR", &format!("127.0.0.1:{STATSD_PORT}"))
        .services(&[service("first"), service("second")])
        .start();
    let mut b = AgentBuilder::new(&lab, 1)
        .services(&[service("third")])
        .start();
    let mut statsd = Statsd::default();
    let always = [
        ("sidecar.services_state.AddServiceEntry", "ms"),
        ("sidecar.services_state.BroadcastServices", "ms"),
        ("sidecar.services_state.SendServices", "ms"),
        ("sidecar.services_state.TombstoneOthersServices", "ms"),
        ("sidecar.delegate.NotifyMsg", "ms"),
        ("sidecar.delegate.GetBroadcasts", "ms"),
        ("sidecar.delegate.MergeRemoteState", "ms"),
        ("sidecar.memberlist.gossip", "ms"),
        ("sidecar.memberlist.probeNode", "ms"),
        ("sidecar.memberlist.pushPullNode", "ms"),
        ("sidecar.memberlist.tcp.accept", "c"),
        ("sidecar.memberlist.tcp.connect", "c"),
        ("sidecar.memberlist.tcp.sent", "c"),
        ("sidecar.memberlist.udp.sent", "c"),
        ("sidecar.memberlist.udp.received", "c"),
        ("sidecar.memberlist.msg.alive", "c"),
        ("sidecar.node-a.delegate.pendingBroadcasts", "g"),
        ("sidecar.node-a.memberlist.health.score", "g"),
        ("sidecar.node-a.runtime.num_goroutines", "g"),
        ("sidecar.node-a.runtime.alloc_bytes", "g"),
        ("sidecar.node-a.runtime.sys_bytes", "g"),
    ];
    eventually("every name comes while two agents meet", DEAD, || {
        statsd.read(&socket);
        match statsd.lacks(&always).as_slice() {
            [] => Ok(()),
            lacking => Err(format!("{lacking:?} of {:?}", statsd.lines)),
        }
    });
    let (_, resident) = &statsd.lines["sidecar.node-a.runtime.sys_bytes"];
    assert!(*resident > 1e6, "{resident}");

    lab.write("static-node-a.json", &json!([service("first")]).to_string());
    b.kill();
    let of_ends = [
        ("sidecar.services_state.BroadcastTombstones", "ms"),
        ("sidecar.memberlist.msg.suspect", "c"),
        ("sidecar.memberlist.msg.dead", "c"),
    ];
    eventually("the end of a service and of a host are told", DEAD, || {
        statsd.read(&socket);
        match statsd.lacks(&of_ends).as_slice() {
            [] => Ok(()),
            lacking => Err(format!("{lacking:?}")),
        }
    });

    // A receiver that goes away and comes back is told of once each.
    drop(socket);
    eventually("the loss of the receiver is logged", SETTLED, || {
        (a.mentions("metrics cannot be sent to statsd") == 1)
            .then_some(())
            .ok_or_else(|| "not logged".to_owned())
    });
    let socket = lab
        .host(0)
        .datagrams((Ipv4Addr::LOCALHOST, STATSD_PORT).into());
    socket
        .set_nonblocking(true)
        .expect("a socket can be made non-blocking");
    let mut again = Statsd::default();
    eventually("and its return, when lines come again", SETTLED, || {
        again.read(&socket);
        (again.datagrams > 0 && a.mentions("metrics are sent to statsd again") == 1)
            .then_some(())
            .ok_or_else(|| format!("{} datagrams", again.datagrams))
    });
    assert_eq!(a.mentions("metrics cannot be sent to statsd"), 1);
    a.kill();
}

fn asked(agent: &Agent, path: &str) -> Result<Response, String> {
    agent.api(path).map_err(|error| error.to_string())
}

/// The families of an exposition, by name: their type. Checks the grammar of each line.
fn families(text: &str) -> BTreeMap<String, String> {
    let mut families = BTreeMap::new();
    let mut helped = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect(line);
            assert!(!help.is_empty() && helped.insert(name), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect(line);
            assert!(helped.contains(name), "no help before {line}");
            let earlier = families.insert(name.to_owned(), kind.to_owned());
            assert_eq!(earlier, None, "{name} twice");
        } else {
            let (series, value) = line.rsplit_once(' ').expect(line);
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let name = series.split('{').next().expect(line);
            let histogram = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix))
                .filter(|it| families.get(*it).is_some_and(|kind| kind == "histogram"));
            let family = histogram.unwrap_or(name);
            let kind = families.get(family).expect(line);
            let counts = name.ends_with("_total");
            assert_eq!(counts, kind == "counter", "{line} is a {kind}");
        }
    }
    families
}

#[test]
fn prometheus_health_and_readiness() {
    let lab = Lab::new(Machine::Shared, &["node-a"]);
    let mut agent = AgentBuilder::new(&lab, 0)
        .services(&[service("first"), service("second")])
        .start();
    let health = asked(&agent, "/health").expect("an agent that runs is healthy");
    assert_eq!(
        (health.status, health.body.as_str()),
        (200, "{\"status\":\"ok\"}")
    );
    eventually("the agent is ready", SETTLED, || {
        let ready = asked(&agent, "/ready")?;
        (ready.status == 200).then_some(()).ok_or(ready.body)
    });
    eventually("both services are alive", SETTLED, || {
        agent.expect_instances("first", &[("node-a", Status::Alive)])?;
        agent.expect_instances("second", &[("node-a", Status::Alive)])
    });
    let scrape = asked(&agent, "/metrics").expect("metrics are answered");
    assert_eq!(scrape.status, 200);
    let kind = scrape.header("content-type").unwrap_or_default();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    let families = families(&scrape.body);
    assert!(families.len() > 60, "{families:?}");
    let alive = agent
        .metrics("sidecar_catalog_instances{status=\"Alive\"}")
        .expect("metrics are answered");
    assert_eq!(alive.values().copied().collect::<Vec<_>>(), [2.0]);
    for (name, least) in [
        ("sidecar_ready", 1.0),
        ("process_resident_memory_bytes", 1e6),
        ("process_open_fds", 5.0),
        ("process_cpu_seconds_total", 0.001),
        ("process_start_time_seconds", 1.7e9),
        ("sidecar_writer_steps_total{step=\"announce\"}", 2.0),
    ] {
        let found = agent.metrics(name).expect("metrics are answered");
        let value = found.get(name).copied().unwrap_or_default();
        assert!(value >= least, "{name} is {value}");
    }
    agent.kill();
}

#[test]
fn who_waits_names_what_it_waits_for() {
    let lab = Lab::new(Machine::Shared, &["node-a"]);
    // An engine that is not there is awaited for a while; the agent serves without it.
    let mut agent = AgentBuilder::new(&lab, 0)
        .env("SIDECAR_DISCOVERY", "docker")
        .env("DOCKER_URL", "unix:///nonexistent/docker.sock")
        .start();
    let waiting = eventually("readiness is asked for", SETTLED, || {
        asked(&agent, "/ready")
    });
    assert_eq!(waiting.status, 503, "{}", waiting.body);
    let words = waiting.json();
    assert_eq!(
        words.member("status").map(blackbox::Json::text),
        Some("waiting")
    );
    let awaited = words.member("awaited").map(blackbox::Json::elements);
    let awaited: Vec<&str> = awaited
        .unwrap_or_default()
        .iter()
        .map(|it| it.text())
        .collect();
    assert!(
        awaited.iter().any(|it| it.contains("docker")),
        "{awaited:?}"
    );
    let ready = agent
        .metrics("sidecar_ready")
        .expect("metrics are answered");
    assert_eq!(ready["sidecar_ready"], 0.0);
    agent.kill();
}
