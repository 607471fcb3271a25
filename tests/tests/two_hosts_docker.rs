//! The core promise: one container start, and every host reaches the service at its service port;
//! whatever stops being healthy is gone from every host.

#![cfg(target_os = "linux")]

use std::{
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use blackbox::{
    Agent, AgentBuilder, Answer, Engine, Host, IMAGE, Lab, Machine, Responder, Route, Status,
    eventually, throughout,
};
use serde_json::{Value, json};

const SERVICE_PORT: u16 = 9500;
/// A change of health needs the next check, which is due within seconds, and then travels at once.
const CHECKED: Duration = Duration::from_secs(15);
/// A container's stop and a change of the static file are events and wait for no check.
const AT_ONCE: Duration = Duration::from_secs(5);

/// The same service from a static file: the second instance.
fn static_instance() -> Value {
    json!({
        "Service": {
            "Name": "awesome-svc",
            "Image": "lab/static:1.0",
            "Ports": [{ "Type": "tcp", "Port": 8100, "ServicePort": SERVICE_PORT }],
        },
        "Check": { "Type": "HttpGet", "Args": "http://127.0.0.1:8100/health" },
    })
}

/// Whether each host gets good answers, and from exactly these instances.
fn served_by(hosts: &[Arc<Host>], wanted: &[&str]) -> Result<(), String> {
    const REQUESTS: usize = 12;
    for host in hosts {
        let counts = host.answers(SERVICE_PORT, REQUESTS)?;
        if !counts.keys().eq(wanted.iter()) {
            return Err(format!(
                "{} is served by {counts:?}, not by {wanted:?}",
                host.name
            ));
        }
        let fair = REQUESTS / wanted.len() / 2;
        if counts.values().any(|&count| count < fair) {
            return Err(format!(
                "the requests of {} are not spread: {counts:?}",
                host.name
            ));
        }
    }
    Ok(())
}

fn all_list(agents: &[Agent], wanted: &[(&str, Status)]) -> Result<(), String> {
    agents
        .iter()
        .try_for_each(|agent| agent.expect_instances("awesome-svc", wanted))
}

fn closed(hosts: &[Arc<Host>]) -> Result<(), String> {
    hosts
        .iter()
        .try_for_each(|host| host.expect_route(SERVICE_PORT, &Route::Closed))
}

#[test]
fn two_hosts_docker() {
    let lab = Lab::new(Machine::Shared, &["dock", "file", "consumer"]);
    let hosts = lab.hosts();
    let engine = Engine::start(&lab, lab.host(0), "container\n");
    let second = Responder::start(lab.host(1), (Ipv4Addr::UNSPECIFIED, 8100).into());
    second.set("/", Answer::ok("static\n"));

    let agents = [
        AgentBuilder::new(&lab, 0)
            .env("SIDECAR_DISCOVERY", "docker")
            .env("DOCKER_URL", &engine.url())
            .start(),
        AgentBuilder::new(&lab, 1).start(),
        AgentBuilder::new(&lab, 2).start(),
    ];
    eventually("all are members", AT_ONCE, || {
        agents
            .iter()
            .try_for_each(|agent| agent.expect_members(&["dock", "file", "consumer"]))
    });
    closed(hosts).expect("nobody offers the service yet");

    engine.docker(&[
        "run",
        "--name",
        "web",
        "-l",
        "HealthCheck=HttpGet",
        "-l",
        "ServiceName=awesome-svc",
        "-l",
        "ServicePort_80=9500",
        "-l",
        "HealthCheckArgs=http://{{ host }}:{{ tcp 9500 }}/",
        "-P",
        "-d",
        IMAGE,
    ]);
    let started = Instant::now();
    eventually("the container is reached from every host", CHECKED, || {
        served_by(hosts, &["container"])
    });
    println!(
        "container reachable on every host {:?} after `docker run`",
        started.elapsed()
    );
    all_list(&agents, &[("dock", Status::Alive)]).expect("every agent lists the container");

    // A second instance on another host: clients get both.
    lab.write("static-file.json", &json!([static_instance()]).to_string());
    eventually("both instances serve every host", CHECKED, || {
        served_by(hosts, &["container", "static"])
    });

    // The second instance falls ill and recovers.
    second.set("/health", Answer::status(500));
    eventually("the ill instance leaves every route", CHECKED, || {
        served_by(hosts, &["container"])
    });
    eventually("every agent knows why", AT_ONCE, || {
        all_list(
            &agents,
            &[("dock", Status::Alive), ("file", Status::Unhealthy)],
        )
    });
    second.set("/health", Answer::ok("fine"));
    eventually("the recovered instance returns", CHECKED, || {
        served_by(hosts, &["container", "static"])
    });

    // So does the container, whose page is its health.
    engine.docker(&[
        "exec",
        "web",
        "/bin/busybox",
        "mv",
        "/www/index.html",
        "/www/away.html",
    ]);
    eventually("the ill container leaves every route", CHECKED, || {
        served_by(hosts, &["static"])
    });
    engine.docker(&[
        "exec",
        "web",
        "/bin/busybox",
        "mv",
        "/www/away.html",
        "/www/index.html",
    ]);
    eventually("the recovered container returns", CHECKED, || {
        served_by(hosts, &["container", "static"])
    });

    engine.docker(&["stop", "-t", "0", "web"]);
    eventually("the stopped container leaves every route", AT_ONCE, || {
        served_by(hosts, &["static"])
    });
    eventually("every agent lists it as gone", AT_ONCE, || {
        all_list(
            &agents,
            &[("dock", Status::Tombstone), ("file", Status::Alive)],
        )
    });

    lab.write("static-file.json", "[]");
    eventually("the port is closed when nobody is left", AT_ONCE, || {
        closed(hosts)
    });
    throughout("the port stays closed", Duration::from_secs(2), || {
        closed(hosts)
    });

    engine.docker(&["start", "web"]);
    eventually(
        "the container that is started again returns",
        CHECKED,
        || served_by(hosts, &["container"]),
    );
    all_list(
        &agents,
        &[("dock", Status::Alive), ("file", Status::Tombstone)],
    )
    .expect("every agent lists the container again");
}

#[test]
fn losing_the_engine_is_not_losing_its_containers() {
    let lab = Lab::new(Machine::Shared, &["dock", "consumer"]);
    let mut engine = Engine::start(&lab, lab.host(0), "container\n");
    // Reached without the engine: the agent must go by what it can still see, the passing check.
    let service = Responder::start(lab.host(0), (Ipv4Addr::UNSPECIFIED, 8200).into());
    service.set("/", Answer::ok("beside\n"));
    let dock = AgentBuilder::new(&lab, 0)
        .services(&[json!({
            "Service": {
                "Name": "beside",
                "Ports": [{ "Type": "tcp", "Port": 8200, "ServicePort": 9501 }],
            },
            "Check": { "Type": "HttpGet", "Args": "http://127.0.0.1:8200/health" },
        })])
        .env("SIDECAR_DISCOVERY", "docker,static")
        .env("DOCKER_URL", &engine.url())
        .start();
    let consumer = AgentBuilder::new(&lab, 1).start();
    engine.docker(&[
        "run",
        "--name",
        "web",
        "-l",
        "ServiceName=awesome-svc",
        "-l",
        "ServicePort_80=9500",
        "-l",
        "HealthCheck=AlwaysSuccessful",
        "-P",
        "-d",
        IMAGE,
    ]);
    let listed = |agent: &Agent| agent.expect_instances("awesome-svc", &[("dock", Status::Alive)]);
    eventually("both agents list the container", CHECKED, || {
        listed(&dock).and_then(|()| listed(&consumer))
    });
    engine.kill();
    throughout(
        "what the agent cannot see is not gone",
        Duration::from_secs(4),
        || {
            listed(&consumer)?;
            consumer
                .host
                .expect_route(9501, &Route::Answer("beside".to_owned()))
        },
    );
    eventually("the agent says that the engine is away", CHECKED, || {
        let said = dock.mentions("docker.sock");
        (said > 0)
            .then_some(())
            .ok_or_else(|| "no line of its log names the socket".to_owned())
    });
}
