//! How fast and how cheaply a real Envoy hears of changes: `cargo bench -p blackbox --bench envoy_updates`.
//!
//! - from a new service in the static file to the first 200 through Envoy, 100 times;
//! - bytes from the agent to Envoy for one endpoint that changes among 10,000 of 1,000 services;
//! - 1,000 streams through Envoy while services change 10,000 times;
//! - from an agent that was killed and is back to a service that is new then.

#![cfg(target_os = "linux")]
#![expect(clippy::print_stdout, reason = "printing is what a bench is for")]

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use blackbox::{
    Agent, AgentBuilder, Answer, Bootstrap, Envoy, Host, Lab, Machine, PROXY_IP, Responder, Route,
    echo, envoy_status, eventually, haproxy_target,
};
use rustix::process::Signal;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(120);
const ROUNDS: u16 = 100;
const SERVICES: u16 = 1000;
const ENDPOINTS: u16 = 10;
const STREAMS: usize = 1000;
const CHANGES: usize = 10_000;
const RELAY_PORT: u16 = 7790;

fn main() {
    new_services();
    one_endpoint();
    streams();
    restarts();
}

fn agent(lab: &Lab, targets: &[Value]) -> Agent {
    let agent = AgentBuilder::new(lab, 0).without("SIDECAR_SEEDS");
    let agent = agent.services(targets).env("SIDECAR_PROXY", "envoy");
    agent.env("SIDECAR_LOGGING_LEVEL", "warn").start()
}

fn change(lab: &Lab, agent: &mut Agent, targets: &[Value]) {
    lab.write(
        "static-solo.json",
        &Value::from(targets.to_vec()).to_string(),
    );
    agent.signal(Signal::HUP);
}

fn settled(agent: &Agent) {
    eventually("Envoy has everything", SOON, || {
        let status = envoy_status(agent)?;
        let stream = &status["streams"][0];
        (stream["settled"] == true)
            .then_some(())
            .ok_or_else(|| stream.to_string())
    });
}

fn new_services() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let host = lab.host(0);
    let web = Responder::start(host, (host.ip, 8001).into());
    web.set("/", Answer::ok("web"));
    let mut agent = agent(&lab, &[]);
    let _envoy = Envoy::start(&lab, 0, &Bootstrap::ours());
    settled(&agent);
    let answer = Route::Answer("web".to_owned());
    let mut targets = Vec::new();
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let port = 10_000 + round;
        targets.push(haproxy_target(&format!("web{round}"), "http", 8001, port));
        let start = Instant::now();
        change(&lab, &mut agent, &targets);
        while host.route(port) != answer {
            assert!(start.elapsed() < SOON, "port {port} is not served");
            thread::sleep(Duration::from_millis(1));
        }
        times.push(start.elapsed());
    }
    times.sort();
    println!(
        "new service to first 200, {ROUNDS} times: p50 {:?}, p99 {:?}, most {:?}",
        times[times.len() / 2],
        times[times.len() * 99 / 100],
        times[times.len() - 1],
    );
}

/// What stands between Envoy and the agent, and counts what Envoy is told.
fn counting_relay(host: &Arc<Host>) -> Arc<AtomicU64> {
    let count = Arc::new(AtomicU64::new(0));
    let listener: TcpListener = host.listen((Ipv4Addr::LOCALHOST, RELAY_PORT).into());
    let (host, counted) = (Arc::clone(host), Arc::clone(&count));
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let agent: SocketAddr = (Ipv4Addr::LOCALHOST, 7776).into();
            // Envoy comes again when the agent is not there yet.
            let Ok(server) = host.connect(agent) else {
                continue;
            };
            carry(&client, &server, None).expect("sockets can be duplicated");
            carry(&server, &client, Some(&counted)).expect("sockets can be duplicated");
        }
    });
    count
}

fn carry(from: &TcpStream, to: &TcpStream, count: Option<&Arc<AtomicU64>>) -> io::Result<()> {
    let (mut from, mut to, count) = (from.try_clone()?, to.try_clone()?, count.cloned());
    // A stream has to be able to wait for ever.
    from.set_read_timeout(None)?;
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if let Some(count) = &count {
                count.fetch_add(length as u64, Ordering::SeqCst);
            }
            if to.write_all(&buffer[..length]).is_err() {
                return;
            }
        }
    });
    Ok(())
}

fn one_endpoint() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let host = lab.host(0);
    let target = |service: u16, endpoint: u16| {
        let name = format!("service{service}");
        haproxy_target(&name, "http", 20_000 + endpoint, 10_000 + service)
    };
    let pairs = (0..SERVICES).flat_map(|service| (0..ENDPOINTS).map(move |it| (service, it)));
    let mut targets: Vec<_> = pairs.map(|(service, it)| target(service, it)).collect();
    let mut agent = agent(&lab, &targets);
    let count = counting_relay(host);
    let _envoy = Envoy::start(&lab, 0, &Bootstrap::ours().at_port(RELAY_PORT));
    eventually("Envoy has everything", SOON, || {
        let held = envoy_status(&agent)?["streams"][0]["held"]["listener"].clone();
        (held == u64::from(SERVICES))
            .then_some(())
            .ok_or_else(|| held.to_string())
    });
    settled(&agent);
    println!(
        "all of {SERVICES} services with {ENDPOINTS} endpoints each: {} bytes",
        count.load(Ordering::SeqCst)
    );
    for round in 0..3 {
        let acks = |agent: &Agent| -> Result<u64, String> {
            let status = envoy_status(agent)?;
            Ok(status["acks"]["endpoints"].as_u64().unwrap_or_default())
        };
        let before = (
            count.load(Ordering::SeqCst),
            acks(&agent).expect("it answers"),
        );
        targets[0] = target(0, 100 + round);
        change(&lab, &mut agent, &targets);
        eventually("the change is taken", SOON, || {
            let acks = acks(&agent)?;
            (acks > before.1)
                .then_some(())
                .ok_or_else(|| acks.to_string())
        });
        let bytes = count.load(Ordering::SeqCst) - before.0;
        println!("one endpoint changed: {bytes} bytes");
    }
}

fn streams() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let host = lab.host(0);
    echo(host, (host.ip, 8002).into());
    let stays = haproxy_target("db", "tcp", 8002, 10_002);
    let mut agent = agent(&lab, std::slice::from_ref(&stays));
    let _envoy = Envoy::start(&lab, 0, &Bootstrap::ours());
    settled(&agent);
    let mut streams: Vec<TcpStream> = (0..STREAMS)
        .map(|_| {
            eventually("a stream is open", SOON, || {
                let stream = host.connect((PROXY_IP, 10_002).into());
                let mut stream = stream.map_err(|error| error.to_string())?;
                alive(&mut stream).map_err(|error| error.to_string())?;
                Ok(stream)
            })
        })
        .collect();
    // Each round changes the endpoint of 100 services.
    let start = Instant::now();
    for round in 0..CHANGES / 100 {
        let port = 20_000 + u16::try_from(round).expect("few rounds");
        let others =
            (0..100).map(|it| haproxy_target(&format!("other{it}"), "http", port, 11_000 + it));
        let targets: Vec<_> = std::iter::once(stays.clone()).chain(others).collect();
        let before = changes(&agent).expect("it answers");
        change(&lab, &mut agent, &targets);
        eventually("the changes are made", SOON, || {
            let made = changes(&agent)? - before;
            (made >= 100.0)
                .then_some(())
                .ok_or_else(|| made.to_string())
        });
        settled(&agent);
    }
    let took = start.elapsed();
    let survivors = streams.iter_mut().filter_map(|it| alive(it).ok()).count();
    println!("{survivors} of {STREAMS} streams survive {CHANGES} changes of others in {took:?}");
}

fn changes(agent: &Agent) -> Result<f64, String> {
    let metrics = agent.metrics("sidecar_changes_total")?;
    Ok(metrics.values().sum())
}

/// How soon Envoy hears what is new from an agent that was killed, from when the agent's API answers on.
fn restarts() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let host = lab.host(0);
    let web = Responder::start(host, (host.ip, 8001).into());
    web.set("/", Answer::ok("web"));
    let mut targets = vec![haproxy_target("web", "http", 8001, 10_000)];
    let mut agent = agent(&lab, &targets);
    let _envoy = Envoy::start(&lab, 0, &Bootstrap::ours());
    settled(&agent);
    let answer = Route::Answer("web".to_owned());
    let mut times = Vec::new();
    for round in 1..=10_u16 {
        agent.kill();
        let port = 10_000 + round;
        targets.push(haproxy_target(&format!("web{round}"), "http", 8001, port));
        let text = Value::from(targets.clone()).to_string();
        lab.write("static-solo.json", &text);
        agent.restart();
        let start = Instant::now();
        while host.route(port) != answer {
            assert!(start.elapsed() < SOON, "port {port} is not served");
            let warming = Envoy::statistic(host, "cluster_manager.warming_clusters");
            assert!(
                warming.is_ok_and(|it| it <= 1),
                "more than what is new is warming"
            );
            thread::sleep(Duration::from_millis(1));
        }
        times.push(start.elapsed());
    }
    times.sort();
    println!(
        "agent back to a new service's first 200, {} times: most {:?}",
        times.len(),
        times[times.len() - 1]
    );
}

fn alive(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])
}
