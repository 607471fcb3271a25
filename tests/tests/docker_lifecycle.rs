//! A container's life as all hosts see it: stopped, signalled, restarted, paused, renamed, ill.

#![cfg(target_os = "linux")]

use std::{
    thread,
    time::{Duration, Instant},
};

use blackbox::{
    Agent, AgentBuilder, Engine, IMAGE, Lab, Machine, Route, Status, eventually, throughout,
};
use serde_json::Value;

const SERVICE_PORT: u16 = 9500;
/// A start needs the container's start, and what the engine needs for that.
const STARTED: Duration = Duration::from_secs(20);
/// Everything that an event says is known everywhere before anybody could count to three.
const AT_ONCE: Duration = Duration::from_secs(2);
/// The engine's grace period and the agent's margin: then a container that goes on is back.
const SURVIVED: Duration = Duration::from_secs(25);

/// An engine host and a consumer.
fn pair(lab: &Lab, engine: &Engine, variables: &[(&str, &str)]) -> [Agent; 2] {
    let mut dock = AgentBuilder::new(lab, 0)
        .env("SIDECAR_DISCOVERY", "docker")
        .env("DOCKER_URL", &engine.url());
    for (name, value) in variables {
        dock = dock.env(name, value);
    }
    [dock.start(), AgentBuilder::new(lab, 1).start()]
}

/// Starts a container that serves the page and is healthy without being asked.
fn serve(engine: &Engine, name: &str, options: &[&str], command: &[&str]) {
    let usual = [
        "run",
        "-d",
        "-P",
        "--name",
        name,
        "-l",
        "ServiceName=web",
        "-l",
        "ServicePort_80=9500",
        "-l",
        "HealthCheck=AlwaysSuccessful",
    ];
    engine.docker(&[&usual, options, &[IMAGE], command].concat());
}

fn served(agents: &[Agent]) -> Result<(), String> {
    let page = Route::Answer("container".to_owned());
    agents
        .iter()
        .try_for_each(|agent| agent.host.expect_route(SERVICE_PORT, &page))
}

fn closed(agents: &[Agent]) -> Result<(), String> {
    agents
        .iter()
        .try_for_each(|agent| agent.host.expect_route(SERVICE_PORT, &Route::Closed))
}

/// What `/api/v2/local` says.
fn local(agent: &Agent) -> Value {
    let answer = agent.api("/api/v2/local").expect("the API answers");
    serde_json::from_str(&answer.body).expect("it is JSON")
}

fn runs(engine: &Engine, container: &str) -> bool {
    engine.docker(&["inspect", "-f", "{{.State.Running}}", container]) == "true"
}

#[test]
fn container_stop_removes_its_service_everywhere_while_its_grace_period_runs() {
    let lab = Lab::new(Machine::Shared, &["dock", "consumer"]);
    let engine = Engine::start(&lab, lab.host(0), "container\n");
    let agents = pair(&lab, &engine, &[]);
    // It finishes what it has begun, as a program should: three seconds of it.
    let graceful =
        "trap 'busybox sleep 3; exit 0' TERM; busybox httpd -f -p 80 -h /www & wait; wait";
    let environment = ["-e", "PATH=/bin"];
    serve(&engine, "web", &environment, &["/bin/sh", "-c", graceful]);
    eventually("the container serves both hosts", STARTED, || {
        served(&agents)
    });

    thread::scope(|scope| {
        let stop = scope.spawn(|| engine.docker(&["stop", "-t", "10", "web"]));
        let begun = Instant::now();
        eventually("it gets no new connections anywhere", AT_ONCE, || {
            closed(&agents)
        });
        println!(
            "withdrawn on both hosts {:?} after `docker stop` began",
            begun.elapsed()
        );
        assert!(runs(&engine, "web"), "it had ended before it was withdrawn");
        let remark = local(&agents[0])["remarks"][0].clone();
        assert!(
            remark["subject"]
                .as_str()
                .is_some_and(|it| it.starts_with("web (")),
            "{remark}"
        );
        assert!(
            remark["remarks"][0]
                .as_str()
                .is_some_and(|it| it.starts_with("it was told to end")),
            "{remark}"
        );
        throughout("it stays so to its end", Duration::from_secs(1), || {
            closed(&agents)
        });
        stop.join().expect("docker stop ends");
    });
    assert!(!runs(&engine, "web"));
    throughout("and after it", Duration::from_secs(3), || closed(&agents));
    let gone = local(&agents[0]);
    assert_eq!(gone["remarks"], Value::Array(Vec::new()), "{gone}");
    assert_eq!(gone["sources"]["docker"]["instances"], 0, "{gone}");
}

#[test]
fn a_signal_that_does_not_stop_a_container_does_not_remove_it_for_ever() {
    let lab = Lab::new(Machine::Shared, &["dock", "consumer"]);
    let engine = Engine::start(&lab, lab.host(0), "container\n");
    let agents = pair(&lab, &engine, &[]);
    // As the first process of its container, httpd does not hear signals it has no handler for.
    serve(&engine, "web", &[], &[]);
    eventually("the container serves both hosts", STARTED, || {
        served(&agents)
    });

    for signal in ["HUP", "USR1", "WINCH"] {
        engine.docker(&["kill", "-s", signal, "web"]);
    }
    throughout(
        "signals that stop nothing change nothing",
        Duration::from_secs(1),
        || served(&agents),
    );
    engine.docker(&["kill", "-s", "TERM", "web"]);
    eventually("a signal to end withdraws it", AT_ONCE, || closed(&agents));
    assert!(runs(&engine, "web"), "it has no handler for TERM");
    eventually("it runs on, so it is back", SURVIVED, || served(&agents));
}

#[test]
fn restarted_with_another_port_paused_and_killed() {
    let lab = Lab::new(Machine::Shared, &["dock", "consumer"]);
    let engine = Engine::start(&lab, lab.host(0), "container\n");
    let agents = pair(&lab, &engine, &[]);
    serve(
        &engine,
        "web",
        &[
            "-l",
            "HealthCheck=HttpGet",
            "-l",
            "HealthCheckArgs=http://{{ host }}:{{ tcp 9500 }}/",
        ],
        &[],
    );
    eventually("the container serves both hosts", STARTED, || {
        served(&agents)
    });
    let before = engine.published_port("web");

    // While it is down somebody takes its port, so it must get another.
    engine.docker(&["stop", "-t", "0", "web"]);
    let taken = lab
        .host(0)
        .listen((std::net::Ipv4Addr::UNSPECIFIED, before).into());
    engine.docker(&["start", "web"]);
    let after = engine.published_port("web");
    assert_ne!(before, after);
    eventually("the new port is routed to", STARTED, || served(&agents));
    let checks = local(&agents[0])["checks"].clone();
    let args: Vec<_> = checks
        .as_object()
        .expect("checks are listed")
        .values()
        .map(|check| check["args"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(args, [format!("http://{}:{after}/", lab.host(0).ip)]);
    drop(taken);

    engine.docker(&["restart", "-t", "0", "web"]);
    eventually("a restart brings it back", STARTED, || served(&agents));

    engine.docker(&["pause", "web"]);
    eventually("paused, it gets no connections", AT_ONCE, || {
        closed(&agents)
    });
    throughout("as long as it is", Duration::from_secs(3), || {
        closed(&agents)
    });
    engine.docker(&["unpause", "web"]);
    eventually("it goes on", STARTED, || served(&agents));

    engine.docker(&["kill", "web"]);
    eventually("killed, it is gone", AT_ONCE, || closed(&agents));
    throughout("and stays so", Duration::from_secs(3), || closed(&agents));
}

#[test]
fn a_container_without_memory_left_is_withdrawn_told_of_and_back_when_it_is_restarted() {
    let lab = Lab::new(Machine::Shared, &["dock", "consumer"]);
    let engine = Engine::start(&lab, lab.host(0), "container\n");
    let agents = pair(&lab, &engine, &[]);
    assert_eq!(
        engine.docker(&["info", "-f", "{{.MemoryLimit}}"]),
        "true",
        "this test needs the control group `memory`: see /proc/cgroups"
    );
    // When there is a file of this name, the first process wants 256 MiB, of which it gets 16.
    let hungry = "busybox rm -f /eat; busybox httpd -p 80 -h /www; \
                  while ! busybox test -e /eat; do busybox usleep 20000; done; \
                  x=0123456789abcdef; i=0; while [ $i -lt 24 ]; do x=$x$x; i=$((i + 1)); done";
    let options = ["-e", "PATH=/bin", "-m", "16m", "--memory-swap", "16m"];
    serve(&engine, "web", &options, &["/bin/sh", "-c", hungry]);
    eventually("the container serves both hosts", STARTED, || {
        served(&agents)
    });
    engine.docker(&["exec", "-d", "web", "/bin/busybox", "touch", "/eat"]);
    eventually("killed, it is gone", STARTED, || closed(&agents));
    let ended = "{{.State.OOMKilled}} {{.State.ExitCode}}";
    assert_eq!(engine.docker(&["inspect", "-f", ended, "web"]), "true 137");
    // The engine tells of each attempt.
    eventually("the log says why", AT_ONCE, || {
        let said = agents[0].mentions("the container has no memory left");
        (said > 0).then_some(()).ok_or_else(|| agents[0].log())
    });
    engine.docker(&["start", "web"]);
    eventually("started again, it is back", STARTED, || served(&agents));
}

#[test]
fn regex_namer_and_a_rename() {
    let lab = Lab::new(Machine::Shared, &["dock", "consumer"]);
    let engine = Engine::start(&lab, lab.host(0), "container\n");
    let agents = pair(
        &lab,
        &engine,
        &[
            ("SERVICES_NAMER", "regex"),
            ("SERVICES_NAME_MATCH", "^/(.+)(-[0-9a-z]{7,14})$"),
        ],
    );
    serve(&engine, "checkout-7d9f1c2ab3", &[], &[]);
    let alive = [("dock", Status::Alive)];
    let listed = |service: &str| {
        agents
            .iter()
            .try_for_each(|agent| agent.expect_instances(service, &alive))
    };
    eventually("it has the name in its name", STARTED, || {
        listed("checkout")
    });
    engine.docker(&["rename", "checkout-7d9f1c2ab3", "basket-7d9f1c2ab3"]);
    eventually("it has its new name", AT_ONCE, || listed("basket"));
    engine.docker(&["rename", "basket-7d9f1c2ab3", "basket"]);
    eventually("what does not match has its image's", AT_ONCE, || {
        let answer = agents[1].api("/api/services.json");
        let answer = answer.map_err(|error| error.to_string())?.json();
        let services = answer.member("Services");
        let found = services.and_then(|it| it.member("lab/httpd:1.0"));
        found.map(drop).ok_or_else(|| answer.compact())
    });
}

#[test]
fn docker_healthcheck_is_usable() {
    let lab = Lab::new(Machine::Shared, &["dock", "consumer"]);
    let engine = Engine::start(&lab, lab.host(0), "container\n");
    let agents = pair(&lab, &engine, &[]);
    serve(
        &engine,
        "web",
        &[
            "-l",
            "HealthCheck=Docker",
            "--health-cmd",
            "/bin/busybox ls /www/index.html",
            "--health-interval",
            "500ms",
            "--health-retries",
            "2",
        ],
        &[],
    );
    eventually("the engine finds it healthy", STARTED, || served(&agents));
    let shop = |from: &str, to: &str| {
        engine.docker(&["exec", "web", "/bin/busybox", "mv", from, to]);
    };
    shop("/www/index.html", "/www/away.html");
    eventually("the engine finds it ill", STARTED, || closed(&agents));
    for agent in &agents {
        agent
            .expect_instances("web", &[("dock", Status::Unhealthy)])
            .expect("it is there and ill");
    }
    eventually("what the check said is shown", AT_ONCE, || {
        let checks = local(&agents[0])["checks"].to_string();
        let said = checks.contains("\"kind\":\"Docker\"") && checks.contains("No such file");
        said.then_some(()).ok_or(checks)
    });
    shop("/www/away.html", "/www/index.html");
    eventually("the engine finds it well again", STARTED, || {
        served(&agents)
    });
}
