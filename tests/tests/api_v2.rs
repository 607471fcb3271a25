//! What an agent tells in words of its own: the documents below `/api/v2`, and what happens, as it happens.

#![cfg(target_os = "linux")]

use std::time::{Duration, Instant};

use blackbox::{
    Agent, AgentBuilder, Event, EventStream, Lab, Machine, Request, Response, Status, eventually,
};
use serde_json::{Value, json};

const CONVERGED: Duration = Duration::from_secs(20);
const AT_ONCE: Duration = Duration::from_secs(2);
/// Suspicion in a cluster of two, and some.
const MISSED: Duration = Duration::from_secs(30);

fn target(name: &str, port: u16, service_port: u16) -> Value {
    json!({
        "Service": {
            "Name": name,
            "Image": format!("{name}:1.2"),
            "ProxyMode": "http",
            "Ports": [{"Type": "tcp", "Port": port, "ServicePort": service_port}],
        },
        "Check": {"Type": "AlwaysSuccessful"},
    })
}

/// Two hosts that know each other, each with an instance of `web`, the second with one of `db` too.
fn two_agents(lab: &Lab) -> (Agent, Agent) {
    let first = AgentBuilder::new(lab, 0)
        .services(&[target("web", 9000, 18080)])
        .env("SIDECAR_PROXY", "none")
        .start();
    let second = AgentBuilder::new(lab, 1)
        .services(&[target("web", 9000, 18080), target("db", 9001, 15432)])
        .env("SIDECAR_PROXY", "none")
        .start();
    eventually("both agents know all instances", CONVERGED, || {
        for agent in [&first, &second] {
            agent.expect_instances("web", &[("a", Status::Alive), ("b", Status::Alive)])?;
            agent.expect_instances("db", &[("b", Status::Alive)])?;
        }
        Ok(())
    });
    (first, second)
}

fn lab() -> Lab {
    Lab::new(Machine::Shared, &["a", "b"])
}

fn ask(agent: &Agent, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    let request = Request {
        method,
        headers,
        ..Request::get(path)
    };
    let answer = agent.host.request(agent.api_address(), &request);
    answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
}

fn get(agent: &Agent, path: &str) -> Value {
    let answer = ask(agent, "GET", path, &[]);
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn listen(agent: &Agent, query: &str, last: Option<&str>) -> EventStream {
    let path = format!("/api/v2/events{query}");
    let headers = last.map(|id| ("Last-Event-ID", id));
    let stream = agent
        .host
        .events(agent.api_address(), &path, headers.as_slice());
    let mut stream = stream.unwrap_or_else(|error| panic!("GET {path}: {error}"));
    assert_eq!(stream.status, 200, "{path}");
    let hello = stream.next(AT_ONCE);
    assert_eq!(hello.name, "hello");
    stream
}

fn next(stream: &mut EventStream, name: &str, within: Duration) -> Event {
    let since = Instant::now();
    loop {
        let event = stream.next(within);
        if event.name == name {
            return event;
        }
        assert!(since.elapsed() < within, "no {name} within {within:?}");
    }
}

/// Waits until host `b` is told to be in the last of these states, and in no others before. Who has just come
/// may hear of a moment ago first.
fn await_state(stream: &mut EventStream, states: &[&str], within: Duration) {
    let last = states.last().copied();
    let mut state = Value::Null;
    while state.as_str() != last {
        state = next(stream, "hosts", within).json()[1]["state"].clone();
        assert!(
            state.is_null() || states.iter().any(|it| state == **it),
            "{state} is none of {states:?}"
        );
    }
}

/// Drains the instance of `web` on the agent's own host.
fn drain(agent: &Agent) -> String {
    let path = format!("/api/v2/instances?service=web&host={}", agent.host.name);
    let id = get(agent, &path)["instances"][0]["id"]
        .as_str()
        .expect("an instance has an id")
        .to_owned();
    let answer = ask(agent, "POST", &format!("/api/services/{id}/drain"), &[]);
    assert_eq!(answer.status, 202, "{}", answer.body);
    id
}

#[test]
fn documents_tell_the_same_on_every_host() {
    let lab = lab();
    let (first, second) = two_agents(&lab);
    for agent in [&first, &second] {
        let services = get(agent, "/api/v2/services");
        let names: Vec<_> = services["services"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|it| (it["name"].clone(), it["instances"]["alive"].clone()))
            .collect();
        assert_eq!(names, [(json!("db"), json!(1)), (json!("web"), json!(2))]);
        let all = get(agent, "/api/v2/instances");
        assert_eq!(all["instances"].as_array().map(Vec::len), Some(3));
        let hosts = get(agent, "/api/v2/hosts");
        for (number, name) in ["a", "b"].iter().enumerate() {
            let host = &hosts["hosts"][number];
            assert_eq!(
                (&host["name"], &host["state"]),
                (&json!(name), &json!("alive"))
            );
            assert_eq!(host["kind"], "sidecar");
            assert_eq!(host["own"], *name == agent.host.name);
        }
    }
    let instances = |path: &str| get(&first, path)["instances"].clone();
    let of_b = instances("/api/v2/instances?host=b");
    assert_eq!(of_b.as_array().map(Vec::len), Some(2));
    assert_eq!(instances("/api/v2/instances?status=draining"), json!([]));
    let db = &instances("/api/v2/services/db")[0];
    assert_eq!(
        (&db["version"], &db["status"]),
        (&json!("1.2"), &json!("Alive"))
    );

    // What its check found is known on its own host alone.
    let path = format!("/api/v2/instances/b/{}", db["id"].as_str().expect("an id"));
    let here = get(&second, &path);
    assert_eq!(here["check"]["kind"], "AlwaysSuccessful");
    assert_eq!(here["check_at_host"], true);
    let elsewhere = get(&first, &path);
    assert_eq!(elsewhere["check"], Value::Null);
    assert_eq!(elsewhere["check_at_host"], false);
    assert_eq!(elsewhere["routes"][0]["routed"], true);

    let overview = get(&first, "/api/v2/overview");
    assert_eq!(overview["hosts"]["alive"], 2);
    assert_eq!(overview["ready"], true);
    assert_eq!(overview["proxy"]["plane"], "none");
    assert_eq!(overview["sources"]["static"]["state"], "following");
    let routes = get(&first, "/api/v2/routes");
    assert_eq!(routes["version"], overview["version"]);
    assert_eq!(get(&first, "/api/v2/openapi.json")["openapi"], "3.1.0");

    for (path, status, text) in [
        ("services/nobody", 404, "no instances of nobody found"),
        (
            "instances/a/nothing",
            404,
            "no instance nothing of host a is known",
        ),
        ("nothing", 404, "there is no /api/v2/nothing"),
        ("instances?hots=a", 400, "unknown parameter \"hots\""),
        ("changes?since=x", 400, "since=\"x\" means nothing"),
    ] {
        let answer = ask(&first, "GET", &format!("/api/v2/{path}"), &[]);
        assert_eq!(answer.status, status, "{path}");
        let document: Value = serde_json::from_str(&answer.body).expect("errors are JSON");
        assert_eq!(document["status"], "error");
        let message = document["message"].as_str().expect("errors have words");
        assert!(message.starts_with(text), "{path}: {message}");
    }
    let refused = ask(&first, "POST", "/api/v2/services", &[]);
    assert_eq!(refused.status, 405);
}

#[test]
fn a_document_is_sent_again_only_after_a_change() {
    let lab = lab();
    let (first, _second) = two_agents(&lab);
    for path in [
        "/api/v2/services",
        "/api/v2/instances",
        "/api/v2/services/web",
    ] {
        let answer = ask(&first, "GET", path, &[]);
        let tag = answer.header("etag").expect("a tag").to_owned();
        let head = ask(&first, "HEAD", path, &[]);
        assert_eq!(
            (head.status, head.header("etag")),
            (200, Some(tag.as_str()))
        );
        assert_eq!(
            head.header("content-length"),
            answer.header("content-length")
        );
        let again = ask(&first, "GET", path, &[("If-None-Match", &tag)]);
        assert_eq!((again.status, again.body.as_str()), (304, ""), "{path}");
    }
    let tag = ask(&first, "GET", "/api/v2/services", &[]);
    let tag = tag.header("etag").expect("a tag").to_owned();
    drain(&first);
    eventually("the change is in the document", AT_ONCE, || {
        let answer = ask(
            &first,
            "GET",
            "/api/v2/services",
            &[("If-None-Match", &tag)],
        );
        match answer.status {
            200 if answer.body.contains("\"draining\":1") => Ok(()),
            status => Err(format!("{status}: {}", answer.body)),
        }
    });
}

#[test]
fn what_happens_is_told_as_it_happens_and_nothing_is_missed() {
    let lab = lab();
    let (first, second) = two_agents(&lab);
    let mut stream = listen(&first, "", None);
    await_state(&mut stream, &["alive"], AT_ONCE);
    let before = get(&first, "/api/v2/changes")["last"].clone();

    // A change of another host, with the time it took to get here.
    let id = drain(&second);
    let change = next(&mut stream, "change", AT_ONCE);
    let told = change.json();
    assert_eq!(told["id"], change.id);
    assert_eq!(
        (&told["previous"], &told["derived"]),
        (&json!("Alive"), &json!(false))
    );
    assert_eq!(told["instance"]["id"], id);
    assert_eq!(told["instance"]["status"], "Draining");
    let latency = told["latency_ms"].as_f64().expect("a latency");
    assert!((0.0..2_000.0).contains(&latency), "{latency} ms");
    // The documents are as new as the change.
    let query = "/api/v2/instances?status=Draining";
    assert_eq!(get(&first, query)["instances"][0]["id"], id);
    let since = before.as_str().expect("an id");
    let changes = get(&first, &format!("/api/v2/changes?since={since}"));
    assert_eq!(
        (&changes["complete"], &changes["changes"]),
        (&json!(true), &json!([told]))
    );

    // Who was away hears what it has missed.
    drop(stream);
    let own = drain(&first);
    eventually("the change is written down", AT_ONCE, || {
        let changes = get(&first, &format!("/api/v2/changes?since={}", change.id));
        match changes["changes"].as_array().map(Vec::len) {
            Some(1) => Ok(()),
            _ => Err(changes.to_string()),
        }
    });
    let mut again = listen(&first, "?topics=changes", Some(&change.id));
    let missed = next(&mut again, "change", AT_ONCE);
    assert_eq!(missed.json()["instance"]["id"], own);

    // Who names what this agent does not know begins anew.
    let mut other = listen(&first, "?topics=changes", Some("62fb1a04d8f2e-17"));
    let reset = other.next(AT_ONCE);
    assert_eq!((reset.name.as_str(), reset.id), ("reset", missed.id));
}

#[test]
fn the_death_of_a_host_is_told_as_a_conclusion() {
    let lab = lab();
    let (first, mut second) = two_agents(&lab);
    let mut hosts = listen(&first, "?topics=hosts", None);
    let mut changes = listen(&first, "?topics=changes", None);
    second.kill();
    await_state(&mut hosts, &["alive", "suspect", "dead"], MISSED);
    for _ in 0..2 {
        let change = next(&mut changes, "change", MISSED).json();
        assert_eq!(change["instance"]["status"], "Tombstone");
        assert_eq!(change["instance"]["hostname"], "b");
        assert_eq!(
            (&change["derived"], &change["latency_ms"]),
            (&json!(true), &Value::Null)
        );
    }
    let host = get(&first, "/api/v2/hosts")["hosts"][1].clone();
    assert_eq!(host["instances"]["tombstone"], 2);
    assert_eq!(host["kind"], "sidecar");

    // It comes back as another epoch of its own: who listened there begins anew.
    second.restart();
    let mut told = listen(&second, "?topics=changes", Some("62fb1a04d8f2e-17"));
    assert_eq!(told.next(AT_ONCE).name, "reset");
    await_state(&mut hosts, &["dead", "alive"], MISSED);
}

#[test]
fn deprecated_paths_answer_the_same() {
    let lab = lab();
    let (first, _second) = two_agents(&lab);
    for path in [
        "/services.json",
        "/state.json",
        "/services.xml",
        "/state.xml",
    ] {
        let old = ask(&first, "GET", path, &[]);
        let new = ask(&first, "GET", &format!("/api{path}"), &[]);
        assert_eq!((old.status, &old.body), (new.status, &new.body), "{path}");
        let without_date = |answer: &Response| -> Vec<(String, String)> {
            let headers = answer.headers.iter();
            headers
                .filter(|(name, _)| name != "Date")
                .cloned()
                .collect()
        };
        assert_eq!(without_date(&old), without_date(&new), "{path}");
    }
}

#[test]
fn clients_that_take_nothing_harm_nobody() {
    let lab = lab();
    let (first, second) = two_agents(&lab);
    // More of them than ordinary connections are allowed; none of them reads.
    let paths = [
        "/api/v2/events",
        "/api/watch",
        "/api/watch?by_service=false",
    ];
    let stalled: Vec<_> = (0..1200)
        .map(|number| {
            let path = paths[number % paths.len()];
            first.host.stalled(first.api_address(), path)
        })
        .collect::<Result<_, _>>()
        .expect("all of them can connect");
    let mut stream = listen(&first, "?topics=changes", None);
    // The p99 of an ordinary request does not notice them, nor the rhythm of gossip, 200 ms.
    let mut taken: Vec<Duration> = (0..300)
        .map(|_| {
            let since = Instant::now();
            get(&first, "/api/v2/services");
            since.elapsed()
        })
        .collect();
    taken.sort_unstable();
    let p99 = taken[297];
    assert!(p99 < Duration::from_millis(100), "p99 {p99:?}");
    drain(&second);
    let change = next(&mut stream, "change", AT_ONCE).json();
    assert_eq!(change["instance"]["status"], "Draining");
    drop(stalled);
}

/// The 99th of a hundred parts of requests for one document takes no longer than this, whatever gossip does.
#[test]
fn answers_do_not_wait_for_gossip() {
    let lab = lab();
    let mut p99s = Vec::new();
    for interval in ["100ms", "2s"] {
        let agent = AgentBuilder::new(&lab, 0)
            .services(&[target("web", 9000, 18080)])
            .env("SIDECAR_PROXY", "none")
            .env("SIDECAR_GOSSIP_INTERVAL", interval)
            .start();
        let mut taken: Vec<Duration> = (0..300)
            .map(|_| {
                let since = Instant::now();
                get(&agent, "/api/v2/services");
                ask(&agent, "GET", "/api/services.json", &[]);
                since.elapsed()
            })
            .collect();
        taken.sort_unstable();
        p99s.push((interval, taken[297]));
    }
    for (interval, p99) in &p99s {
        assert!(
            *p99 < Duration::from_millis(100),
            "p99 {p99:?} with {interval} between two rounds of gossip"
        );
    }
}
