//! The same records lead to the same instances, whichever data plane a host runs.
//!
//! One table says what a client meets at each ServicePort: first with the elders alone, then with
//! everybody, then after changes. Each plane runs it with an agent of its own. What [`PLANES`] list as
//! `unlike` is documented of a plane, and under test as everything else is.
//!
//! Instances answer with the address at which they were reached, so the table speaks of addresses.

#![cfg(target_os = "linux")]

#[path = "planes_agree/clients.rs"]
mod clients;
#[path = "planes_agree/table.rs"]
mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use blackbox::{
    Agent, AgentBuilder, Bootstrap, Envoy, GOSSIP_PORT, Haproxy, Host, Lab, LegacyPeer, LegacyPort,
    Machine, Network, PROXY_IP, Status, Timing, envoy_status, eventually, haproxy_status,
};
use rustix::process::Signal;
use serde_json::{Value, json};

use clients::*;
use table::*;

/// What the table says of a step is so within that; the machine may be busy.
const SETTLED: Duration = Duration::from_secs(30);
const JOINED: Duration = Duration::from_secs(10);
/// How often all shares of a port are gone through.
const TURNS: usize = 15;
/// One after the other, an agent that starts with the first.
const STEPS: [&str; 3] = ["the elders", "everybody", "after the changes"];

/// What runs beside an agent.
#[expect(dead_code, reason = "kept as long as the agent runs")]
enum Companion {
    None,
    Haproxy(Haproxy),
    Envoy(Envoy),
}

/// A data plane. One more is one more entry of [`PLANES`].
struct Plane {
    name: &'static str,
    /// Makes an agent use it.
    configure: for<'lab> fn(&'lab Lab, AgentBuilder<'lab>) -> (AgentBuilder<'lab>, Companion),
    /// Whether it is this plane that carries something.
    carries: fn(&Agent) -> Result<(), String>,
    /// What it is documented to do otherwise: step, ServicePort, what is met there.
    unlike: fn() -> Vec<(usize, u16, Meets)>,
}

const PLANES: [Plane; 5] = [
    Plane {
        name: "builtin",
        configure: |_, agent| (agent.env("SIDECAR_PROXY", "builtin"), Companion::None),
        carries: |agent| {
            let listening = agent.metrics("sidecar_proxy_listening")?;
            is(listening.values().any(|it| *it > 0.0), "it listens nowhere")
        },
        unlike: Vec::new,
    },
    Plane {
        name: "kernel",
        configure: |_, agent| (agent.env("SIDECAR_PROXY", "kernel"), Companion::None),
        carries: |agent| {
            let answer = agent.api("/api/v2/local").map_err(|it| it.to_string())?;
            let local: Value = serde_json::from_str(&answer.body).map_err(|it| it.to_string())?;
            let kernel = &local["kernel"];
            // All in mode tcp but for those with addresses of IPv6.
            is(kernel["services"].as_u64() >= Some(6), &kernel.to_string())
        },
        unlike: Vec::new,
    },
    Plane {
        name: "envoy",
        configure: |lab, agent| {
            let envoy = Envoy::start(lab, 0, &Bootstrap::ours());
            let agent = agent.env("SIDECAR_PROXY", "envoy");
            (agent, Companion::Envoy(envoy))
        },
        carries: envoy_carries,
        unlike: Vec::new,
    },
    Plane {
        name: "haproxy",
        configure: |lab, agent| {
            let files = Haproxy::new(lab, "run");
            let agent = agent
                .env("SIDECAR_PROXY", "haproxy")
                .env("SIDECAR_HAPROXY_PORTS", "10000-10099")
                .env("SIDECAR_HAPROXY_POOLS", "64,64")
                .env("SIDECAR_HAPROXY_DIR", &files.dir().display().to_string());
            (agent, Companion::Haproxy(files))
        },
        carries: haproxy_carries,
        unlike: Vec::new,
    },
    Plane {
        name: "haproxy classic",
        configure: |lab, agent| {
            let files = Haproxy::new(lab, "classic");
            (files.driven_by(agent), Companion::Haproxy(files))
        },
        carries: haproxy_carries,
        // A template asks each instance for its one address at each port of its service.
        unlike: || {
            let shares = [(near(8024), 2), (far(8024), 1)];
            let several = |mode, port| (1, port, answers(mode, &shares));
            let [twins, siblings] = [
                several(Mode::Http, SHARED[0]),
                several(Mode::Tcp, SHARED[1]),
            ];
            let part = (1, PARTLY[0], answers(Mode::Http, &[(near(8022), 1)]));
            let first = |step| (step, DOUBLE, answers(Mode::Tcp, &[(near(8026), 1)]));
            vec![twins, siblings, part, first(0), first(1), first(2)]
        },
    },
];

fn envoy_carries(agent: &Agent) -> Result<(), String> {
    let status = envoy_status(agent)?;
    let stream = &status["streams"][0];
    is(stream["settled"] == true, &status.to_string())
}

fn haproxy_carries(agent: &Agent) -> Result<(), String> {
    let status = haproxy_status(agent)?;
    is(status["state"] == "applied", &status.to_string())
}

fn is(holds: bool, otherwise: &str) -> Result<(), String> {
    holds.then_some(()).ok_or_else(|| otherwise.to_owned())
}

/// Whether the port is as the table says.
fn expect_port(host: &Host, port: u16, expected: &Meets) -> Result<(), String> {
    let mut counts = BTreeMap::<Met, usize>::new();
    let mut ask = |mode, times| {
        for _ in 0..times {
            *counts.entry(Met::at(host, port, mode)).or_default() += 1;
        }
    };
    let agrees = match expected {
        Meets::Closed | Meets::InVain => {
            ask(Mode::Http, 2);
            counts.keys().eq([&Met::Closed])
        }
        Meets::Answers(mode, shares) => {
            ask(*mode, TURNS * shares.values().sum::<usize>());
            let is_share = |(address, share): (&SocketAddr, &usize)| {
                let count = counts.get(&Met::Instance(*address)).copied();
                // As many too many or too few as another connection here and there explains.
                let wanted = TURNS * share;
                let slack = TURNS / 5;
                (wanted - slack..=wanted + slack).contains(&count.unwrap_or_default())
            };
            shares.len() == counts.len() && shares.iter().all(is_share)
        }
    };
    if !agrees {
        return Err(format!("expected {expected:?}, seen {counts:?}"));
    }
    // Who reads requests lets nothing else through.
    if let Meets::Answers(Mode::Http | Mode::Ws, _) = expected
        && let Met::Instance(address) = Met::at(host, port, Mode::Tcp)
    {
        return Err(format!("{address} gets what is no request"));
    }
    Ok(())
}

/// What an agent says that it routes.
fn routes(agent: &Agent) -> Result<Value, String> {
    let answer = agent.api("/api/v2/routes").map_err(|it| it.to_string())?;
    let mut said: Value = serde_json::from_str(&answer.body).map_err(|it| it.to_string())?;
    // How many changes there were is each agent's own.
    said["version"].take();
    Ok(said)
}

/// Whether it says that it routes what the table says.
fn expect_routes(
    routes: &Value,
    meets: &BTreeMap<u16, Meets>,
    step: usize,
    cases: &[Case],
) -> Result<(), String> {
    let list = |name: &str| routes[name].as_array().cloned().unwrap_or_default();
    let port = |it: &Value| {
        it["service_port"]
            .as_u64()
            .and_then(|it| u16::try_from(it).ok())
    };
    let routed: BTreeSet<_> = list("routes").iter().filter_map(port).collect();
    let open = meets.iter().filter(|(_, it)| **it != Meets::Closed);
    let open: BTreeSet<_> = open.map(|(port, _)| *port).collect();
    if routed != open {
        return Err(format!("routes are said to be {routed:?}, not {open:?}"));
    }
    let excluded: BTreeSet<_> = list("excluded")
        .iter()
        .map(|it| {
            let text = |name: &str| it[name].as_str().unwrap_or_default().to_owned();
            (
                port(it).unwrap_or_default(),
                text("service"),
                text("reason"),
            )
        })
        .collect();
    let wanted = cases.iter().flat_map(|it| &it.steps[step].excluded);
    let wanted: BTreeSet<_> = wanted
        .map(|(port, service, reason)| (*port, (*service).to_owned(), (*reason).to_owned()))
        .collect();
    if excluded != wanted {
        return Err(format!(
            "said to be excluded are {excluded:?}, not {wanted:?}"
        ));
    }
    Ok(())
}

/// Runs the table under a plane; what its agent says that it routes, step by step.
fn run(plane: &Plane, cases: &[Case]) -> Vec<Value> {
    let lab = Lab::new(Machine::Shared, &HOSTS);
    for (number, host) in lab.hosts().iter().enumerate() {
        let address = format!("fd00:88::{}/64", number + 1);
        host.said(&["ip", "address", "add", &address, "dev", "eth0", "nodad"]);
    }
    let targets = cases
        .iter()
        .flat_map(|it| &it.steps)
        .flat_map(|it| &it.targets);
    let mut listening: BTreeSet<_> = targets.flat_map(|it| &it.ports).map(|it| it.at).collect();
    listening.insert(legacy(8017));
    listening.retain(|at| at.ip() != PROXY_IP);
    for at in listening {
        answer_at(host_of(&lab, at), at);
    }
    let network = Network::Host(Arc::clone(lab.host(2)));
    let mut peer = LegacyPeer::start(network, "lab", Timing::GO);
    announce_legacy(&mut peer);

    let file = |step: usize| -> Vec<Value> {
        let targets = cases.iter().flat_map(|it| &it.steps[step].targets);
        targets.map(Target::json).collect()
    };
    let builder = AgentBuilder::new(&lab, 0)
        .without("SIDECAR_SEEDS")
        .services(&file(0));
    let (builder, _companion) = (plane.configure)(&lab, builder);
    let mut agent = builder.start();
    let seed = (lab.host(0).ip, GOSSIP_PORT).into();
    eventually("the legacy peer joins", JOINED, || peer.join(seed));

    let steps = STEPS.iter().enumerate().map(|(step, title)| {
        if step > 0 {
            lab.write(FILE, &Value::from(file(step)).to_string());
            agent.signal(Signal::HUP);
        }
        let what = format!("with {} for {title} the table is right", plane.name);
        eventually(&what, SETTLED, || {
            let said = expect_step(plane, &agent, cases, step)?;
            (plane.carries)(&agent)?;
            Ok(said)
        })
    });
    steps.collect()
}

/// Whether all is as the table says.
fn expect_step(plane: &Plane, agent: &Agent, cases: &[Case], step: usize) -> Result<Value, String> {
    let unlike = (plane.unlike)();
    let mut all = BTreeMap::new();
    for case in cases {
        for (port, expected) in &case.steps[step].meets {
            let own = unlike.iter().find(|it| (it.0, it.1) == (step, *port));
            let own = own.map_or(expected, |it| &it.2);
            expect_port(&agent.host, *port, own)
                .map_err(|error| format!("{}: port {port} ({}): {error}", plane.name, case.what))?;
            all.insert(*port, expected.clone());
        }
    }
    let said = routes(agent)?;
    expect_routes(&said, &all, step, cases).map_err(|error| format!("{}: {error}", plane.name))?;
    Ok(said)
}

#[test]
fn all_data_planes_route_the_same_records_identically() {
    let cases = table();
    let said = PLANES.map(|plane| (plane.name, run(&plane, &cases)));
    let (first, rest) = said.split_first().expect("there are planes");
    for (name, routes) in rest {
        for (step, title) in STEPS.iter().enumerate() {
            assert_eq!(
                first.1[step], routes[step],
                "{} and {name} do not say the same for {title}",
                first.0
            );
        }
    }
}
