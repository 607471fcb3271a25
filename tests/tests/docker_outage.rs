//! An engine that is restarted, frozen or gone takes nothing with it that still runs.

#![cfg(target_os = "linux")]

use std::time::{Duration, Instant};

use blackbox::{
    Agent, AgentBuilder, Engine, IMAGE, Lab, Machine, Relay, Route, Status, eventually, throughout,
};
use rustix::process::Signal;
use serde_json::Value;

const SERVICE_PORT: u16 = 9500;
/// A start needs the container's start, and what the engine needs for that.
const STARTED: Duration = Duration::from_secs(30);
/// An engine that hangs is asked for a sign of life after 5 s and has 5 s for it.
const HANGING: Duration = Duration::from_secs(15);
/// How long the engine is away where `OUTAGE_SECONDS` does not say how long.
const OUTAGE_SECONDS: u64 = 4;
/// Attempts are at most 5 s apart.
const BACK: Duration = Duration::from_secs(15);
/// Between requests that are to show that nothing has changed.
const PACE: Duration = Duration::from_millis(250);

fn outage_seconds() -> u64 {
    let seconds = std::env::var("OUTAGE_SECONDS").ok();
    seconds.map_or(OUTAGE_SECONDS, |it| {
        it.parse().expect("OUTAGE_SECONDS is a number")
    })
}

fn agents(lab: &Lab, engine: &Engine, hold: &str) -> [Agent; 2] {
    let dock = AgentBuilder::new(lab, 0)
        .env("SIDECAR_DISCOVERY", "docker")
        .env("DOCKER_URL", &engine.url())
        .env("SIDECAR_DOCKER_HOLD", hold);
    [dock.start(), AgentBuilder::new(lab, 1).start()]
}

fn serve(engine: &Engine, options: &[&str]) {
    let usual = ["run", "-d", "-P", "--name", "web", "-l", "ServiceName=web"];
    let labels = [
        "-l",
        "ServicePort_80=9500",
        "-l",
        "HealthCheck=AlwaysSuccessful",
    ];
    engine.docker(&[&usual, &labels[..], options, &[IMAGE]].concat());
}

fn served(agents: &[Agent]) -> Result<(), String> {
    let page = Route::Answer("container".to_owned());
    agents
        .iter()
        .try_for_each(|agent| agent.host.expect_route(SERVICE_PORT, &page))
}

/// For so many seconds, asked at a pace at which no port is used twice: the container's end of a
/// connection is kept for a minute, and the translation of addresses before it may reset another one
/// from the same port.
/// Returns how often it was asked.
fn goes_on_serving(what: &str, seconds: u64, agents: &[Agent]) -> u32 {
    let mut asked: Option<Instant> = None;
    let mut times = 0;
    throughout(what, Duration::from_secs(seconds), || {
        if asked.is_some_and(|at| at.elapsed() < PACE) {
            return Ok(());
        }
        asked = Some(Instant::now());
        times += 1;
        served(agents)
    });
    times
}

fn closed(agents: &[Agent]) -> Result<(), String> {
    agents
        .iter()
        .try_for_each(|agent| agent.host.expect_route(SERVICE_PORT, &Route::Closed))
}

/// Whether the agent says that about its engine, in its API and in its metrics.
fn expect_source(agent: &Agent, state: &str) -> Result<Value, String> {
    let answer = agent
        .api("/api/v2/local")
        .map_err(|error| error.to_string())?;
    let local: Value = serde_json::from_str(&answer.body).map_err(|error| error.to_string())?;
    let docker = local["sources"]["docker"].clone();
    let up = agent.metrics("sidecar_source_up")?;
    let up = up.get("sidecar_source_up{source=\"docker\"}").copied();
    let wanted = f64::from(u8::from(state == "following"));
    if docker["state"] == state && up == Some(wanted) {
        return Ok(docker);
    }
    Err(format!("{docker}, up {up:?}"))
}

#[test]
fn engine_restart_with_live_restore_and_a_frozen_engine_keep_services() {
    let lab = Lab::new(Machine::Shared, &["dock", "consumer"]);
    let engine = Engine::start_with(&lab, lab.host(0), "container\n", &["--live-restore"]);
    let agents = agents(&lab, &engine, "1h");
    serve(&engine, &[]);
    eventually("the container serves both hosts", STARTED, || {
        served(&agents)
    });
    expect_source(&agents[0], "following").expect("the engine is seen");

    engine.stop();
    eventually("the agent says that the engine is away", BACK, || {
        expect_source(&agents[0], "unreachable")
    });
    let seconds = outage_seconds();
    let asked = goes_on_serving("its container goes on serving", seconds, &agents);
    println!("engine away for {seconds} s: both hosts were answered {asked} times");
    let docker = expect_source(&agents[0], "unreachable").expect("it is away");
    assert_eq!(docker["instances"], 1, "{docker}");
    assert!(docker["held_until"].is_string(), "{docker}");
    assert!(
        docker["trouble"]
            .as_str()
            .is_some_and(|it| it.contains("connect")),
        "{docker}"
    );
    engine.start_again();
    let back = Instant::now();
    eventually("the agent sees it again", BACK, || {
        expect_source(&agents[0], "following")
    });
    println!("seen again {:?} after it answered", back.elapsed());
    served(&agents).expect("the container was never gone");

    engine.signal(Signal::STOP);
    eventually("the agent says that the engine hangs", HANGING, || {
        expect_source(&agents[0], "unreachable")
    });
    let docker = expect_source(&agents[0], "unreachable").expect("it hangs");
    assert!(
        docker["trouble"]
            .as_str()
            .is_some_and(|it| it.contains("no answer")),
        "{docker}"
    );
    goes_on_serving("its container goes on serving", 3, &agents);
    engine.signal(Signal::CONT);
    eventually("the agent sees it again", BACK, || {
        expect_source(&agents[0], "following")
    });
    served(&agents).expect("the container was never gone");

    // After all of this events still count.
    engine.docker(&["stop", "-t", "0", "web"]);
    eventually("a stop is noticed", Duration::from_secs(5), || {
        closed(&agents)
    });
}

#[test]
fn an_event_stream_cut_in_the_middle_of_a_message_is_resumed_and_nothing_is_missed() {
    let lab = Lab::new(Machine::Shared, &["dock"]);
    let engine = Engine::start(&lab, lab.host(0), "container\n");
    let host = lab.host(0);
    let socket = engine.url().replace("unix://", "");
    let relay = Relay::start(host, (host.ip, 2375).into(), &socket);
    let agent = AgentBuilder::new(&lab, 0)
        .env("SIDECAR_DISCOVERY", "docker")
        .env("DOCKER_URL", &format!("tcp://{}:2375", host.ip))
        .start();
    let run = |name: &str| {
        let label = format!("ServiceName={name}");
        let labels = ["-l", label.as_str(), "-l", "HealthCheck=AlwaysSuccessful"];
        let usual = ["run", "-d", "-P", "--name", name];
        engine.docker(&[&usual, &labels[..], &[IMAGE]].concat());
    };
    let alive = |name: &str| agent.expect_instances(name, &[("dock", Status::Alive)]);
    run("web");
    eventually("it is found", STARTED, || alive("web"));
    // The first event of a start is cut, and those that follow come while nobody listens.
    for (number, name) in ["one", "two", "three"].into_iter().enumerate() {
        relay.cut_next_event();
        run(name);
        eventually("it is found all the same", STARTED, || {
            alive("web").expect("nobody else is affected");
            alive(name)
        });
        assert_eq!(relay.cuts(), number + 1);
    }
    relay.cut_next_event();
    engine.docker(&["rm", "-f", "one", "two"]);
    eventually("ends are not missed either", STARTED, || {
        alive("web").expect("nobody else is affected");
        alive("three").expect("nobody else is affected");
        let gone = |name| agent.expect_instances(name, &[("dock", Status::Tombstone)]);
        gone("one").and_then(|()| gone("two"))
    });
    assert_eq!(relay.cuts(), 4);
}

#[test]
fn engine_restart_that_ends_its_containers() {
    let lab = Lab::new(Machine::Shared, &["dock", "consumer"]);
    let engine = Engine::start(&lab, lab.host(0), "container\n");
    let agents = agents(&lab, &engine, "1h");
    serve(&engine, &["--restart", "always"]);
    eventually("the container serves both hosts", STARTED, || {
        served(&agents)
    });
    engine.stop();
    eventually("its end was told before the engine's", BACK, || {
        closed(&agents)
    });
    engine.start_again();
    eventually("the container is back with the engine", STARTED, || {
        served(&agents)
    });
    expect_source(&agents[0], "following").expect("the engine is seen");
}

#[test]
fn an_engine_that_is_gone_for_longer_than_the_hold_takes_its_services_along() {
    let lab = Lab::new(Machine::Shared, &["dock", "consumer"]);
    let engine = Engine::start_with(&lab, lab.host(0), "container\n", &["--live-restore"]);
    let agents = agents(&lab, &engine, "20s");
    serve(&engine, &[]);
    eventually("the container serves both hosts", STARTED, || {
        served(&agents)
    });
    engine.stop();
    goes_on_serving("as long as set", 15, &agents);
    eventually("it counts as gone", Duration::from_secs(20), || {
        closed(&agents)
    });
    let docker = expect_source(&agents[0], "unreachable").expect("it is away");
    assert_eq!(docker["instances"], 0, "{docker}");
    engine.start_again();
    eventually("it is back with the engine", STARTED, || served(&agents));
}
