//! Many containers at once: none is missed, none is left over, and what that takes. Prints its figures.

#![cfg(target_os = "linux")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use blackbox::{
    Agent, AgentBuilder, Answer, Engine, IMAGE, Lab, Machine, Responder, Route, eventually,
};
use serde_json::Value;

const CONTAINERS: usize = 200;
/// Containers are started one after the other, so that the figure is about the agent and not about the
/// processor that several starts share, and removed by so many at a time.
const REMOVERS: usize = 4;
/// A machine of two cores starts a few a second.
const STARTED: Duration = Duration::from_secs(30);
/// What is removed is gone from every host by then.
const GHOSTS_UNTIL: Duration = Duration::from_secs(5);
/// A container's end, and the time in which no other host sends it anything any more: p99.
const ENDS: usize = 25;
const WITHDRAWN_P99: Duration = Duration::from_millis(300);
/// Time over which an idle agent's processor time is measured.
const IDLE: Duration = Duration::from_secs(12);

/// The status and the stamp of each record of the churning services, by ID.
fn records(agent: &Agent) -> Result<BTreeMap<String, (i64, Duration)>, String> {
    let answer = agent
        .api("/api/services.json")
        .map_err(|error| error.to_string())?;
    let all: Value = serde_json::from_str(&answer.body).map_err(|error| error.to_string())?;
    let services = all["Services"].as_object().cloned().unwrap_or_default();
    let lists = services
        .into_iter()
        .filter(|(name, _)| name.starts_with("churn-"));
    let instances = lists.flat_map(|(_, list)| list.as_array().cloned().unwrap_or_default());
    instances
        .map(|instance| {
            let text = |key: &str| instance[key].as_str().unwrap_or_default().to_owned();
            let status = instance["Status"].as_i64().unwrap_or(-1);
            Ok((text("ID"), (status, since_epoch(&text("Updated"))?)))
        })
        .collect()
}

/// `2026-02-03T09:15:29.123456789Z` as the time since the epoch.
fn since_epoch(text: &str) -> Result<Duration, String> {
    let fail = || format!("not a time of this century: {text:?}");
    let number = |range: std::ops::Range<usize>| -> Result<u64, String> {
        let digits = text.get(range).ok_or_else(fail)?;
        digits.parse().map_err(|_| fail())
    };
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let leap = |year: u64| u64::from(year.is_multiple_of(4));
    let february = 28 + leap(year);
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let years: u64 = (1970..year).map(|year| 365 + leap(year)).sum();
    let before: u64 = months
        .iter()
        .take(usize::try_from(month).unwrap_or(1) - 1)
        .sum();
    let days = years + before + day - 1;
    let seconds = ((days * 24 + number(11..13)?) * 60 + number(14..16)?) * 60 + number(17..19)?;
    let fraction = text.get(19..).unwrap_or_default().trim_end_matches('Z');
    let fraction: f64 = format!("0{fraction}").parse().map_err(|_| fail())?;
    Ok(Duration::from_secs(seconds) + Duration::from_secs_f64(fraction))
}

/// When each container had this event, by ID as records carry it: the first time.
fn events(log: &str, action: &str) -> BTreeMap<String, Duration> {
    let mut found = BTreeMap::new();
    for line in log.lines() {
        let event: Value = serde_json::from_str(line).unwrap_or_default();
        if event["Action"] == action
            && let (Some(id), Some(at)) =
                (event["Actor"]["ID"].as_str(), event["timeNano"].as_u64())
        {
            let id = id.get(..12).unwrap_or(id).to_owned();
            found.entry(id).or_insert_with(|| Duration::from_nanos(at));
        }
    }
    found
}

/// Median, p99 and the longest, in words.
#[expect(clippy::print_stdout, reason = "the figures are what the test is for")]
fn figures(what: &str, mut times: Vec<Duration>) -> Duration {
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    let (median, p99, longest) = (at(50), at(99), at(100));
    let count = times.len();
    println!("{what}: p50 {median:?}, p99 {p99:?}, longest {longest:?} of {count}");
    p99
}

/// Does something for each number, a few at a time.
fn each(workers: usize, act: impl Fn(usize) + Sync) {
    thread::scope(|scope| {
        for worker in 0..workers {
            let act = &act;
            scope.spawn(move || (worker..CONTAINERS).step_by(workers).for_each(act));
        }
    });
}

#[test]
fn docker_200_containers_started_and_removed_none_missed_and_no_ghosts() {
    let lab = Lab::new(Machine::Alone, &["dock", "consumer"]);
    let engine = Engine::start(&lab, lab.host(0), "container\n");
    let page = Responder::start(lab.host(0), (Ipv4Addr::LOCALHOST, 8100).into());
    page.set("/", Answer::ok("fine\n"));
    let dock = AgentBuilder::new(&lab, 0)
        .env("SIDECAR_DISCOVERY", "docker")
        .env("DOCKER_URL", &engine.url())
        .start();
    let consumer = AgentBuilder::new(&lab, 1).start();
    eventually("both are members", STARTED, || {
        consumer.expect_members(&["dock", "consumer"])
    });
    let follow = [
        "docker",
        "-H",
        &engine.url(),
        "events",
        "--format",
        "{{json .}}",
    ];
    let followed = lab.program(0, "events", &follow);

    let begun = Instant::now();
    each(1, |number| {
        let (name, label) = (format!("c{number}"), format!("ServiceName=churn-{number}"));
        engine.docker(&[
            "run",
            "-d",
            "--network",
            "none",
            "--name",
            &name,
            "-l",
            &label,
            "-l",
            "HealthCheck=HttpGet",
            "-l",
            "HealthCheckArgs=http://127.0.0.1:8100/",
            IMAGE,
        ]);
    });
    let started = begun.elapsed();
    let alive = eventually("all of them are alive on the other host", STARTED, || {
        let records = records(&consumer)?;
        let alive = records.values().filter(|(status, _)| *status == 0).count();
        (alive == CONTAINERS)
            .then_some(records)
            .ok_or_else(|| format!("{alive} are alive"))
    });
    // Stamps of healthy records: the check that has passed is in them.
    let starts = events(&followed.log(), "start");
    assert_eq!(
        starts.keys().collect::<BTreeSet<_>>(),
        alive.keys().collect()
    );
    let times: Vec<Duration> = alive
        .iter()
        .map(|(id, (_, at))| at.saturating_sub(starts[id]))
        .collect();
    let share = times.iter().sum::<Duration>().as_secs_f64() / started.as_secs_f64() * 100.0;
    figures("start event to healthy record announced", times);
    println!("as a share of the time that a start takes: {share:.1} %");

    let (before, since) = (dock.processor_time(), Instant::now());
    let checks = dock
        .metrics("sidecar_check_results_total")
        .expect("the API answers");
    thread::sleep(IDLE);
    let used = dock.processor_time() - before;
    let share = used.as_secs_f64() / since.elapsed().as_secs_f64() * 100.0;
    let done = dock
        .metrics("sidecar_check_results_total")
        .expect("the API answers");
    let done = done.values().sum::<f64>() - checks.values().sum::<f64>();
    println!(
        "idle with {CONTAINERS} containers: {share:.2} % of a core, {done} checks in {IDLE:?}"
    );

    let begun = Instant::now();
    each(REMOVERS, |number| {
        engine.docker(&["rm", "-f", &format!("c{number}")]);
    });
    println!(
        "{CONTAINERS} started in {started:?}, removed in {:?}",
        begun.elapsed()
    );
    let gone = eventually("none is left over", GHOSTS_UNTIL, || {
        let records = records(&consumer)?;
        let left = records.values().filter(|(status, _)| *status != 1).count();
        (left == 0)
            .then_some(records)
            .ok_or_else(|| format!("{left} are left"))
    });
    assert_eq!(gone.len(), CONTAINERS, "each has its tombstone");
    let kills = events(&followed.log(), "kill");
    let times = gone
        .iter()
        .map(|(id, (_, at))| at.saturating_sub(kills[id]));
    figures("kill event to tombstone announced", times.collect());
}

#[test]
fn a_container_that_dies_is_withdrawn_from_another_host_at_once() {
    let lab = Lab::new(Machine::Alone, &["dock", "consumer"]);
    let engine = Engine::start(&lab, lab.host(0), "container\n");
    let dock = AgentBuilder::new(&lab, 0)
        .env("SIDECAR_DISCOVERY", "docker")
        .env("DOCKER_URL", &engine.url())
        .start();
    let consumer = AgentBuilder::new(&lab, 1).start();
    eventually("both are members", STARTED, || {
        dock.expect_members(&["dock", "consumer"])
    });
    // It ends by itself when it is told to by a file, so nothing announces its end before.
    let ends = "busybox rm -f /end; busybox httpd -f -p 80 -h /www & \
                while ! busybox test -e /end; do busybox usleep 20000; done";
    engine.docker(&[
        "run",
        "-d",
        "-P",
        "--name",
        "web",
        "-e",
        "PATH=/bin",
        "-l",
        "ServiceName=web",
        "-l",
        "ServicePort_80=9500",
        "-l",
        "HealthCheck=AlwaysSuccessful",
        IMAGE,
        "/bin/sh",
        "-c",
        ends,
    ]);
    let page = Route::Answer("container".to_owned());
    let mut times = Vec::new();
    for _ in 0..ENDS {
        eventually("it is served on the other host", STARTED, || {
            consumer.host.expect_route(9500, &page)
        });
        // Not waited for: it would end with the container, sometimes before it is done.
        engine.docker(&["exec", "-d", "web", "/bin/busybox", "touch", "/end"]);
        eventually("the other host withdraws it", STARTED, || {
            consumer.host.expect_route(9500, &Route::Closed)
        });
        let closed = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let finished = engine.docker(&["inspect", "-f", "{{.State.FinishedAt}}", "web"]);
        let died = since_epoch(&finished).expect("the engine says when it ended");
        times.push(closed.saturating_sub(died));
        engine.docker(&["start", "web"]);
    }
    let p99 = figures(
        "end of a container to its route withdrawn on another host",
        times,
    );
    assert!(
        p99 <= WITHDRAWN_P99,
        "{p99:?} is more than {WITHDRAWN_P99:?}"
    );
}
