//! The measurements and the tables.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use blackbox::{Agent, AgentBuilder, Host, Lab, Machine, Request, Response, eventually};
use serde_json::{Value, json};

use crate::{listeners::Listeners, usage, wrk};

const CONNECTIONS: u32 = 64;
const SIZES: [usize; 3] = [30, 1_000, 10_000];
/// Instances of a service, and of a host.
const OF_SERVICE: usize = 10;
const OF_HOST: usize = 50;
const LOADED: Duration = Duration::from_secs(120);
const LISTENERS: usize = 1_000;
const CHANGES_PER_SECOND: u32 = 100;
const IDLE: usize = 9_000;
const SETTLED: Duration = Duration::from_secs(2);

fn seconds() -> u64 {
    std::env::var("API_READS_SECONDS").map_or(4, |it| it.parse().unwrap())
}

pub(crate) fn run() {
    blackbox::require("wrk");
    let parts = std::env::var("API_READS_PARTS");
    let parts = parts.unwrap_or_else(|_| "sizes,changes,memory".to_owned());
    let parts: Vec<&str> = parts.split(',').collect();
    println!(
        "wrk: 1 thread, {CONNECTIONS} connections, {} s each, on the machine's {} cores with the agent.",
        seconds(),
        thread::available_parallelism().unwrap()
    );
    println!(
        "Go Sidecar on 2 cores, services.json, for orientation: 30 services 3,300/s, p99 355 ms; 1,000 services \
         123/s, p99 193 ms; 1,300 services in a busy cluster 23/s, p99 2.6 s.\n"
    );
    if parts.contains(&"sizes") {
        sizes();
    }
    if parts.contains(&"changes") {
        changes();
    }
    if parts.contains(&"memory") {
        memory();
    }
}

fn agent(lab: &Lab, instances: usize, foreign: bool) -> Agent {
    let targets: Vec<Value> = (0..instances)
        .map(|number| {
            let mut service = json!({
                "Name": format!("service-{:04}", number / OF_SERVICE),
                "Image": format!("registry.example.com/team/service-{:04}:1.{number}", number / OF_SERVICE),
                "ProxyMode": "http",
                "Ports": [{
                    "Type": "tcp",
                    "Port": 20_000 + number % 40_000,
                    "ServicePort": 10_000 + number / OF_SERVICE,
                }],
            });
            if foreign {
                service["Hostname"] = json!(format!("host-{:03}", number / OF_HOST));
            }
            json!({ "Service": service, "Check": {"Type": "AlwaysSuccessful"} })
        })
        .collect();
    let agent = AgentBuilder::new(lab, 0)
        .services(&targets)
        .env("SIDECAR_PROXY", "none")
        .env("SIDECAR_LOGGING_LEVEL", "warn")
        .start();
    eventually("all instances are alive", LOADED, || {
        let answer = agent.api("/api/v2/overview").map_err(|it| it.to_string())?;
        let overview: Value = serde_json::from_str(&answer.body).unwrap();
        if overview["instances"]["alive"] == instances && overview["ready"] == true {
            return Ok(());
        }
        Err(overview.to_string())
    });
    agent
}

fn get(agent: &Agent, path: &str, headers: &[(&str, &str)]) -> Response {
    let request = Request {
        headers,
        ..Request::get(path)
    };
    agent.host.request(agent.api_address(), &request).unwrap()
}

struct Row {
    what: &'static str,
    path: &'static str,
    header: Option<String>,
}

fn rows(agent: &Agent) -> Vec<Row> {
    let plain = |what, path| Row {
        what,
        path,
        header: None,
    };
    let gzip = || Some("Accept-Encoding: gzip".to_owned());
    let tag = get(agent, "/api/v2/services", &[]);
    let tag = tag.header("etag").unwrap().to_owned();
    vec![
        plain("services.json", "/api/services.json"),
        Row {
            header: gzip(),
            ..plain("services.json, gzip", "/api/services.json")
        },
        plain("state.json", "/api/state.json"),
        Row {
            header: gzip(),
            ..plain("state.json, gzip", "/api/state.json")
        },
        plain("/api/v2/services", "/api/v2/services"),
        Row {
            header: Some(format!("If-None-Match: {tag}")),
            ..plain("/api/v2/services, known", "/api/v2/services")
        },
        plain("/api/v2/services/NAME", "/api/v2/services/service-0001"),
        plain("/api/services/NAME.json", "/api/services/service-0001.json"),
    ]
}

/// What a second of the agent's processor time brings does not move when the machine is busy with something
/// else; what a second brings does.
fn head() {
    println!(
        "| instances | document | requests/s | per s of the agent's processor time | p50 | p99 | MB/s | bytes each |"
    );
    println!("|---|---|---|---|---|---|---|---|");
}

fn measure(host: &Host, agent: &Agent, instances: usize, row: &Row) {
    let to = agent.api_address();
    let header = row.header.as_deref();
    let before = usage::processor(agent.pid());
    let report = wrk::run_with(host, to, row.path, CONNECTIONS, seconds(), header);
    let used = usage::processor(agent.pid()) - before;
    println!(
        "| {instances} | {} | {:.0} | {:.0} | {:.2?} | {:.2?} | {:.1} | {:.0} |",
        row.what,
        report.per_second,
        report.requests / used.as_secs_f64(),
        report.p50,
        report.p99,
        report.bytes_per_second / 1e6,
        report.bytes_per_second / report.per_second
    );
}

fn sizes() {
    head();
    for instances in SIZES {
        let lab = Lab::new(Machine::Alone, &["plain"]);
        let agent = agent(&lab, instances, true);
        for row in rows(&agent) {
            measure(lab.host(0), &agent, instances, &row);
        }
    }
    println!();
}

/// Drains one instance after the other, so many a second, until it is told to stop.
fn drain_all(host: &Arc<Host>, agent: &Agent, ids: &[String], until: Instant) -> usize {
    let pause = Duration::from_secs(1) / CHANGES_PER_SECOND;
    let started = Instant::now();
    let mut done = 0_u32;
    for id in ids {
        if Instant::now() >= until {
            break;
        }
        let path = format!("/api/services/{id}/drain");
        let answer = host.request(agent.api_address(), &Request::post(&path));
        assert_eq!(answer.unwrap().status, 202);
        done += 1;
        thread::sleep((started + pause * done).saturating_duration_since(Instant::now()));
    }
    done.try_into().unwrap()
}

fn changes() {
    println!(
        "{LISTENERS} listeners at /api/v2/events, {CHANGES_PER_SECOND} changes a second, 2,000 instances:\n"
    );
    head();
    let mut told = Vec::new();
    for number in [0, 4, 5, 6] {
        let lab = Lab::new(Machine::Alone, &["plain"]);
        let agent = agent(&lab, 2_000, false);
        let instances: Value =
            serde_json::from_str(&get(&agent, "/api/v2/instances", &[]).body).unwrap();
        let instances = instances["instances"].as_array().unwrap();
        let ids: Vec<String> = instances
            .iter()
            .map(|it| it["id"].as_str().unwrap().to_owned())
            .collect();
        let listeners = Listeners::open(lab.host(0), agent.api_address(), LISTENERS);
        let row = &rows(&agent)[number];
        let until = Instant::now() + Duration::from_secs(seconds());
        let host = lab.host(0).clone();
        let drained = thread::scope(|scope| {
            let drains = scope.spawn(|| drain_all(&host, &agent, &ids, until));
            measure(lab.host(0), &agent, 2_000, row);
            drains.join().unwrap()
        });
        told.push((row.what, drained, listeners.close(drained)));
    }
    println!("\n| while asked for | changes | heard by | until heard, p50 | p99 |");
    println!("|---|---|---|---|---|");
    for (what, changes, heard) in told {
        println!(
            "| {what} | {changes} | {} listeners | {:.1?} | {:.1?} |",
            heard.listeners, heard.p50, heard.p99
        );
    }
    println!();
}

fn memory() {
    let lab = Lab::new(Machine::Alone, &["plain"]);
    let agent = agent(&lab, 30, true);
    let before = usage::resident_kib(agent.pid());
    let listeners = Listeners::open(lab.host(0), agent.api_address(), IDLE);
    thread::sleep(SETTLED);
    let after = usage::resident_kib(agent.pid());
    let each = (after.saturating_sub(before) * 1024) as f64 / IDLE as f64;
    println!(
        "{IDLE} idle listeners: {before} KiB before, {after} KiB with them, {each:.0} bytes each"
    );
    let report = wrk::run(
        lab.host(0),
        agent.api_address(),
        "/api/v2/services",
        CONNECTIONS,
        seconds(),
    );
    println!(
        "/api/v2/services of 30 instances meanwhile: {:.0}/s, p99 {:.2?}",
        report.per_second, report.p99
    );
    drop(listeners);
}
