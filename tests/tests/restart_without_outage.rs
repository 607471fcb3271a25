//! Agents that are restarted while the services of their hosts run on, seen by clients of other hosts,
//! who send one request after the other, and by the restarted host itself.

#![cfg(target_os = "linux")]

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use blackbox::{
    API_PORT, Agent, AgentBuilder, Exit, Host, Lab, Machine, Responder, Route, eventually,
    throughout, under_load,
};
use rustix::process::Signal;
use serde_json::{Value, json};

const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];
/// What all hosts offer.
const SHARED: u16 = 9600;
/// What only `beta` and only `gamma` offer.
const BETAS: u16 = 9602;
const GAMMAS: u16 = 9603;
/// How long a restart takes; three hosts think a silent one dead after five seconds.
const AWAY: Duration = Duration::from_secs(2);
const SETTLED: Duration = Duration::from_secs(15);

fn targets(host: &str) -> Vec<Value> {
    let http = json!({ "Type": "HttpGet", "Args": "http://127.0.0.1:8300/health" });
    // Slower than a join, as checks may be.
    let slow = json!({ "Type": "External", "Args": "sleep 0.3" });
    let target = |name: String, service_port: u16, check: &Value| {
        json!({
            "Service": {
                "Name": name,
                "Ports": [{ "Type": "tcp", "Port": 8300, "ServicePort": service_port }],
            },
            "Check": check,
        })
    };
    let number = NAMES.iter().position(|name| *name == host);
    let number = number.expect("one of them");
    let own = SHARED + 1 + u16::try_from(number).expect("three fit");
    vec![
        target("shared".to_owned(), SHARED, &http),
        target(format!("only-{host}"), own, &slow),
    ]
}

/// How an agent is ended before it is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Signal(Signal),
    Kill,
}

struct Cluster {
    _services: Vec<Responder>,
    agents: Vec<Agent>,
}

impl Cluster {
    /// SIGTERM is no goodbye on `gamma`.
    fn start(lab: &Lab) -> Self {
        let services = Responder::on_each(lab, 8300);
        let agents = NAMES.iter().enumerate().map(|(number, name)| {
            let leaves = if *name == "gamma" { "false" } else { "true" };
            AgentBuilder::new(lab, number)
                .services(&targets(name))
                .env("SIDECAR_LEAVE_ON_STOP", leaves)
                .start()
        });
        let agents = agents.collect();
        let cluster = Self {
            _services: services,
            agents,
        };
        eventually("every host routes everything", SETTLED, || cluster.whole());
        cluster
    }

    fn whole(&self) -> Result<(), String> {
        self.agents.iter().try_for_each(|agent| {
            agent.expect_members(&NAMES)?;
            let table = table(&agent.host).ok_or("no table")?;
            if table != complete() {
                return Err(format!("{} routes {table:?}", agent.host.name));
            }
            for (port, host) in [(BETAS, "beta"), (GAMMAS, "gamma")] {
                agent
                    .host
                    .expect_route(port, &Route::Answer(host.to_owned()))?;
            }
            Ok(())
        })
    }

    fn end(&mut self, number: usize, end: End) {
        let agent = &mut self.agents[number];
        match end {
            End::Kill => agent.kill(),
            End::Signal(signal) => {
                agent.signal(signal);
                let (exit, _) = agent.ends(Duration::from_secs(8));
                assert_eq!(exit, Exit::Code(0));
            }
        }
    }

    /// Starts an agent again and waits until everything is as it was.
    fn start_again(&mut self, number: usize) {
        self.agents[number].restart();
        eventually("it is as it was", SETTLED, || self.whole());
    }
}

/// Where an agent routes, as port and host, if it answers.
fn table(host: &Host) -> Option<BTreeSet<(i64, String)>> {
    let api = (Ipv4Addr::LOCALHOST, API_PORT).into();
    let answer = host.get(api, "/api/v2/routes").ok()?;
    let routes: Value = serde_json::from_str(&answer.body).ok()?;
    let mut table = BTreeSet::new();
    for route in routes["routes"].as_array()? {
        for endpoint in route["endpoints"].as_array()? {
            let host = endpoint["hostname"].as_str()?.to_owned();
            table.insert((route["service_port"].as_i64()?, host));
        }
    }
    Some(table)
}

fn complete() -> BTreeSet<(i64, String)> {
    let shared = NAMES.map(|name| (i64::from(SHARED), name.to_owned()));
    let own = NAMES.iter().zip(1..);
    let own = own.map(|(name, number)| (i64::from(SHARED) + number, (*name).to_owned()));
    own.chain(shared).collect()
}

/// Acts while the table of a host is looked at without a pause; all tables but the empty one, which is
/// that of a closed proxy.
fn tables_seen(host: &Host, act: impl FnOnce()) -> BTreeSet<BTreeSet<(i64, String)>> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                seen.extend(table(host).filter(|table| !table.is_empty()));
            }
            seen
        });
        let acted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        done.store(true, Ordering::Relaxed);
        let seen = watcher.join().expect("the watcher does not panic");
        if let Err(panic) = acted {
            std::panic::resume_unwind(panic);
        }
        seen
    })
}

#[test]
fn a_restart_of_the_agent_does_not_drop_healthy_services_from_any_proxy() {
    let lab = Lab::new(Machine::Alone, &NAMES);
    let mut cluster = Cluster::start(&lab);
    let alpha = lab.host(0).clone();
    let changes = cluster.agents[0].mentions("service changed");
    let requests = under_load(&alpha, &[SHARED, BETAS, GAMMAS], || {
        for (number, end) in [
            (1, End::Signal(Signal::USR1)),
            (2, End::Signal(Signal::TERM)),
            (1, End::Kill),
            (2, End::Kill),
        ] {
            cluster.end(number, end);
            throughout("its services are routed while it is away", AWAY, || {
                alpha.expect_route(BETAS, &Route::Answer("beta".to_owned()))?;
                alpha.expect_route(GAMMAS, &Route::Answer("gamma".to_owned()))
            });
            cluster.start_again(number);
        }
    });
    assert!(requests > 1000, "only {requests} requests");
    assert_eq!(
        cluster.agents[0].mentions("service changed"),
        changes,
        "nothing about any service has changed"
    );
}

#[test]
fn a_restarted_host_routes_nothing_until_it_routes_everything() {
    let lab = Lab::new(Machine::Alone, &NAMES);
    let mut cluster = Cluster::start(&lab);
    let beta = lab.host(1).clone();
    for end in [
        End::Kill,
        End::Signal(Signal::USR1),
        // After a goodbye its own services are nobody's before their first checks.
        End::Signal(Signal::TERM),
    ] {
        cluster.end(1, end);
        let seen = tables_seen(&beta, || cluster.start_again(1));
        assert_eq!(seen, BTreeSet::from([complete()]), "after {end:?}");
    }
}

#[test]
fn a_goodbye_and_a_return_fail_no_request_that_others_can_answer() {
    let lab = Lab::new(Machine::Alone, &NAMES);
    let mut cluster = Cluster::start(&lab);
    let alpha = lab.host(0).clone();
    let requests = under_load(&alpha, &[SHARED], || {
        cluster.end(1, End::Signal(Signal::TERM));
        cluster.start_again(1);
    });
    assert!(requests > 100, "only {requests} requests");
}
