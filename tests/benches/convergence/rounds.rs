//! The rounds of the convergence bench and the table they end in.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use blackbox::{
    Agent, AgentBuilder, Answer, Engine, Host, IMAGE, Lab, Machine, Responder, Route, Status,
    eventually,
};
use serde_json::{Value, json};

const ROUNDS: usize = 30;
/// Fine enough beside the milliseconds that are measured.
const PAUSE: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(30);

const CONTAINER_PORT: u16 = 9500;
const CHECKED_PORT: u16 = 9501;
/// A port known before the container starts, so that its first answer can be waited for.
const PUBLISHED_PORT: u16 = 18080;

pub(crate) fn run() {
    let lab = Lab::new(Machine::Alone, &["dock", "file", "consumer"]);
    let engine = Engine::start(&lab, lab.host(0), "container\n");
    let service = Responder::start(lab.host(1), (Ipv4Addr::UNSPECIFIED, 8100).into());
    service.set("/", Answer::ok("static\n"));
    let agents = [
        AgentBuilder::new(&lab, 0)
            .env("SIDECAR_DISCOVERY", "docker")
            .env("DOCKER_URL", &engine.url())
            .start(),
        AgentBuilder::new(&lab, 1).services(&[checked(0)]).start(),
        AgentBuilder::new(&lab, 2).start(),
    ];
    eventually("all are members", PATIENCE, || {
        agents
            .iter()
            .try_for_each(|agent| agent.expect_members(&["dock", "file", "consumer"]))
    });

    let mut table = Table::default();
    containers(&lab, &engine, &mut table);
    health(&lab, &agents[1], &service, &mut table);
    table.print();
}

/// A container starts and is killed: from the moment it answers on its own host to the first answer
/// at the service port of another, and from its last answer to closed ports everywhere. All sides
/// are watched from before the start: when the client of the engine returns is not the moment.
fn containers(lab: &Lab, engine: &Engine, table: &mut Table) {
    engine.docker(&[
        "create",
        "--name",
        "web",
        "-l",
        "ServiceName=container",
        "-l",
        "ServicePort_80=9500",
        "-l",
        "HealthCheck=HttpGet",
        "-l",
        "HealthCheckArgs=http://{{ host }}:{{ tcp 9500 }}/",
        "-p",
        &format!("{PUBLISHED_PORT}:80"),
        IMAGE,
    ]);
    let (dock, consumer) = (lab.host(0), lab.host(2));
    let at = SocketAddr::from((dock.ip, PUBLISHED_PORT));
    let answers = || dock.get(at, "/").is_ok_and(|answer| answer.status == 200);
    for _ in 0..ROUNDS {
        let (own, elsewhere) = thread::scope(|scope| {
            let own = scope.spawn(|| until(answers));
            let elsewhere = scope.spawn(|| until(|| open(consumer, CONTAINER_PORT)));
            engine.docker(&["start", "web"]);
            (joined(own), joined(elsewhere))
        });
        table.add(
            "container answers -> first answer on another host",
            elsewhere,
            own,
        );
        until(|| lab.hosts().iter().all(|host| open(host, CONTAINER_PORT)));
        let (own, everywhere) = thread::scope(|scope| {
            let own = scope.spawn(|| until(|| !answers()));
            let everywhere = scope.spawn(|| until(|| closed(lab.hosts(), CONTAINER_PORT)));
            engine.docker(&["kill", "web"]);
            (joined(own), joined(everywhere))
        });
        table.add(
            "container stops answering -> port closed on all hosts",
            everywhere,
            own,
        );
    }
}

fn joined<T>(watcher: thread::ScopedJoinHandle<'_, T>) -> T {
    watcher.join().expect("watching does not panic")
}

/// A check fails and passes again, as its owner's API says and as all hosts route.
fn health(lab: &Lab, owner: &Agent, service: &Responder, table: &mut Table) {
    for round in 0..ROUNDS {
        let before = ids(owner);
        let targets = json!([checked(round + 1)]);
        lab.write("static-file.json", &targets.to_string());
        until(|| ids(owner).is_disjoint(&before) && !ids(owner).is_empty());
        until(|| lab.hosts().iter().all(|host| open(host, CHECKED_PORT)));
        service.set("/health", Answer::status(500));
        let flipped = Instant::now();
        let (checked, noticed, withdrawn) =
            turn(lab, owner, service, flipped, Status::Unhealthy, |host| {
                host.route(CHECKED_PORT) == Route::Closed
            });
        table.add(
            "check flips to failing -> route gone on all hosts",
            withdrawn,
            flipped,
        );
        table.add(
            "failing answer given -> route gone on all hosts",
            withdrawn,
            checked,
        );
        table.add(
            "owner's API says unhealthy -> route gone on all hosts",
            withdrawn,
            noticed,
        );

        service.set("/health", Answer::ok("fine"));
        let flipped = Instant::now();
        let (checked, _, offered) = turn(lab, owner, service, flipped, Status::Alive, |host| {
            open(host, CHECKED_PORT)
        });
        table.add(
            "passing answer given -> route back on all hosts",
            offered,
            checked,
        );
    }
}

/// The checked service, in every round another instance of it: one that kept falling would be held
/// back.
fn checked(round: usize) -> Value {
    json!({
        "Service": {
            "Name": "checked",
            "Ports": [
                { "Type": "tcp", "Port": 8100, "ServicePort": CHECKED_PORT },
                { "Type": "udp", "Port": 20_000 + round },
            ],
        },
        "Check": { "Type": "HttpGet", "Args": "http://127.0.0.1:8100/health" },
    })
}

/// The living instances of the checked service.
fn ids(owner: &Agent) -> BTreeSet<String> {
    let instances = owner.instances("checked").unwrap_or_default();
    let alive = instances
        .into_iter()
        .filter(|it| it.status == Status::Alive);
    alive.map(|it| it.id).collect()
}

/// When the first check after the flip came, when the owner's API had the status, and when the
/// condition held on the last of all hosts.
fn turn(
    lab: &Lab,
    owner: &Agent,
    service: &Responder,
    flipped: Instant,
    status: Status,
    holds: impl Fn(&Host) -> bool + Sync,
) -> (Instant, Instant, Instant) {
    thread::scope(|scope| {
        let noticed = scope.spawn(|| {
            until(|| {
                // The instances of earlier rounds are tombstones.
                let instances = owner.instances("checked").unwrap_or_default();
                instances.iter().any(|instance| instance.status == status)
            })
        });
        let everywhere: Vec<_> = lab
            .hosts()
            .iter()
            .map(|host| scope.spawn(|| until(|| holds(host))))
            .collect();
        let everywhere = everywhere
            .into_iter()
            .map(|at| at.join().expect("watching does not panic"));
        let last = everywhere.max().expect("a lab has hosts");
        let noticed = noticed.join().expect("watching does not panic");
        let checks = service.asked("/health");
        let checked = checks
            .into_iter()
            .find(|&at| at > flipped)
            .expect("a check came before the change");
        (checked, noticed, last)
    })
}

fn open(host: &Host, service_port: u16) -> bool {
    matches!(host.route(service_port), Route::Answer(_))
}

fn closed(hosts: &[Arc<Host>], service_port: u16) -> bool {
    hosts
        .iter()
        .all(|host| host.route(service_port) == Route::Closed)
}

/// The moment at which the condition was first seen to hold.
fn until(holds: impl Fn() -> bool) -> Instant {
    let start = Instant::now();
    loop {
        if holds() {
            return Instant::now();
        }
        assert!(
            start.elapsed() < PATIENCE,
            "the lab does not get there in {PATIENCE:?}"
        );
        thread::sleep(PAUSE);
    }
}

/// Times in the order in which their kinds were first seen.
#[derive(Default)]
struct Table(Vec<(&'static str, Vec<Duration>)>);

impl Table {
    /// Two watchers may see one moment in the wrong order: that counts as no time at all.
    fn add(&mut self, what: &'static str, then: Instant, since: Instant) {
        let time = then.saturating_duration_since(since);
        match self.0.iter_mut().find(|(name, _)| *name == what) {
            Some((_, times)) => times.push(time),
            None => self.0.push((what, vec![time])),
        }
    }

    #[expect(clippy::print_stdout, reason = "a bench prints its figures")]
    fn print(mut self) {
        println!(
            "{:<56} {:>6} {:>9} {:>9} {:>9}",
            "", "rounds", "p50 ms", "p99 ms", "max ms"
        );
        for (what, times) in &mut self.0 {
            times.sort();
            let at = |percent: usize| {
                let rank = (times.len() * percent).div_ceil(100).max(1);
                times[rank - 1].as_secs_f64() * 1000.0
            };
            println!(
                "{what:<56} {:>6} {:>9.1} {:>9.1} {:>9.1}",
                times.len(),
                at(50),
                at(99),
                at(100)
            );
        }
    }
}
