//! Services that a file names: what becomes of it, of edits, of mistakes in it, and of SIGHUP.

#![cfg(target_os = "linux")]

use std::{collections::BTreeMap, fs, time::Duration};

use blackbox::{
    Agent, AgentBuilder, Engine, Exit, IMAGE, Lab, Machine, Status, eventually, throughout,
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// An edit is seen within a second; the machine may be busy.
const SEEN: Duration = Duration::from_secs(5);
const FILE: &str = "static-solo.json";

fn database() -> Value {
    json!({
        "Service": {
            "Name": "orders-db", "Image": "postgres 16.2", "Hostname": "db-1", "ProxyMode": "tcp",
            "Ports": [{ "Type": "tcp", "Port": 5432, "ServicePort": 10432, "IP": "10.20.0.50" }],
        },
        "Check": { "Type": "AlwaysSuccessful" },
    })
}

fn web(name: &str) -> Value {
    json!({
        "Service": { "Name": name, "Ports": [{ "Port": 8300, "ServicePort": 9700 }] },
        "Check": { "Type": "AlwaysSuccessful" },
    })
}

fn get(agent: &Agent, path: &str) -> Result<Value, String> {
    let answer = agent.api(path).map_err(|error| error.to_string())?;
    serde_json::from_str(&answer.body).map_err(|error| format!("{path}: {error}"))
}

/// The records of an agent by name of the service; services have one each here.
fn records(agent: &Agent) -> Result<BTreeMap<String, Value>, String> {
    let document = get(agent, "/api/services.json")?;
    let services = document["Services"].as_object().cloned();
    let services = services.unwrap_or_default().into_iter();
    Ok(services
        .map(|(name, records)| (name, records[0].clone()))
        .collect())
}

fn source(agent: &Agent, state: &str, services: u64) -> Result<Value, String> {
    let shown = get(agent, "/api/v2/local")?["sources"]["static"].clone();
    if shown["state"] == state && shown["instances"] == services {
        return Ok(shown);
    }
    Err(format!("the source is {shown}"))
}

#[test]
fn a_static_file_names_services_with_defaults_and_of_other_hosts() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let targets = [database(), web("web")];
    let agent = AgentBuilder::new(&lab, 0).services(&targets).start();
    eventually("both are alive", SEEN, || {
        agent.expect_instances("orders-db", &[("db-1", Status::Alive)])?;
        agent.expect_instances("web", &[("solo", Status::Alive)])
    });
    let records = records(&agent).expect("the API answers");
    let (database, web) = (&records["orders-db"], &records["web"]);
    assert_eq!(database["Image"], "postgres 16.2");
    assert_eq!(database["ProxyMode"], "tcp");
    assert_eq!(database["Ports"][0]["IP"], "10.20.0.50");
    assert_eq!(web["ProxyMode"], "http", "a missing ProxyMode means http");
    let port = json!({ "Type": "tcp", "Port": 8300, "ServicePort": 9700, "IP": "10.88.0.1" });
    assert_eq!(web["Ports"][0], port);
}

#[test]
fn an_edit_is_applied_without_a_restart_and_changes_nobody_else() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let agent = AgentBuilder::new(&lab, 0).services(&[database()]).start();
    eventually("it is read", SEEN, || source(&agent, "following", 1));
    let before = records(&agent).expect("the API answers");
    lab.write(FILE, &json!([web("web"), database()]).to_string());
    let after = eventually("the new service is there", SEEN, || {
        agent.expect_instances("web", &[("solo", Status::Alive)])?;
        records(&agent)
    });
    assert_eq!(after["orders-db"], before["orders-db"]);
    lab.write(FILE, &json!([web("web")]).to_string());
    eventually("the old one is gone", SEEN, || {
        agent.expect_instances("orders-db", &[("db-1", Status::Tombstone)])
    });
}

#[test]
fn a_mistake_is_shown_with_line_and_column_and_takes_nothing_away() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let agent = AgentBuilder::new(&lab, 0).services(&[web("web")]).start();
    let whole = || agent.expect_instances("web", &[("solo", Status::Alive)]);
    eventually("it is read", SEEN, whole);
    lab.write(FILE, "[\n  {\"Service\": {\"Name\": \"web\"}},\n]");
    let shown = eventually("the mistake is shown", SEEN, || {
        source(&agent, "invalid", 1)
    });
    let trouble = shown["trouble"].as_str().unwrap_or_default();
    assert!(trouble.contains("line 3, column 1"), "{trouble}");
    throughout("nothing is lost", Duration::from_secs(3), whole);
    assert_eq!(agent.mentions("line 3, column 1"), 1, "it is said once");
    lab.write(FILE, &json!([web("web"), database()]).to_string());
    eventually("it is mended", SEEN, || source(&agent, "following", 2));
}

#[test]
fn sighup_reads_the_file_and_never_ends_the_agent() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let builder = AgentBuilder::new(&lab, 0).services(&[web("web")]);
    let mut agent = builder.launch();
    eventually("its first line is there", SEEN, || {
        let said = !agent.log().is_empty();
        said.then_some(()).ok_or_else(|| "nothing yet".to_owned())
    });
    // From then on, through all of the start.
    eventually("it is up", SEEN, || {
        agent.signal(Signal::HUP);
        agent.expect_instances("web", &[("solo", Status::Alive)])
    });
    // Now each is answered by one reading, although nothing has changed.
    let before = agent.mentions("static file read");
    agent.signal(Signal::HUP);
    eventually("it is read again", SEEN, || {
        let read = agent.mentions("static file read");
        (read > before)
            .then_some(())
            .ok_or_else(|| format!("{read} times"))
    });
    assert_eq!(agent.exit(), None);
}

#[test]
fn a_wrong_static_file_does_not_stop_other_discovery() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let engine = Engine::start(&lab, lab.host(0), "container\n");
    let wrong = lab.write("wrong.json", "[{]").display().to_string();
    for sources in ["static docker", "docker static"] {
        let mut agent = AgentBuilder::new(&lab, 0)
            .env("SIDECAR_DISCOVERY", sources)
            .env("STATIC_CONFIG_FILE", &wrong)
            .env("DOCKER_URL", &engine.url())
            .start();
        eventually("the file is wrong, the engine is followed", SEEN, || {
            source(&agent, "invalid", 0)?;
            let awaited = get(&agent, "/ready")?;
            let engine_listed = awaited["awaited"] == json!(["static file"]);
            engine_listed
                .then_some(())
                .ok_or_else(|| format!("{awaited}"))
        });
        agent.kill();
    }
}

#[test]
fn docker_and_a_static_file_are_followed_together_named_in_any_order() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let engine = Engine::start(&lab, lab.host(0), "container\n");
    let labels = [
        "-l",
        "ServiceName=boxed",
        "-l",
        "HealthCheck=AlwaysSuccessful",
    ];
    engine.docker(&[&["run", "-d"], &labels[..], &[IMAGE]].concat());
    let file = lab.write("both.json", &json!([database()]).to_string());
    for sources in ["static docker", "docker,static"] {
        let agent = AgentBuilder::new(&lab, 0)
            .env("SIDECAR_DISCOVERY", sources)
            .env("STATIC_CONFIG_FILE", &file.display().to_string())
            .env("DOCKER_URL", &engine.url());
        let mut agent = agent.start();
        eventually(&format!("both are found by {sources:?}"), SEEN, || {
            agent.expect_instances("orders-db", &[("db-1", Status::Alive)])?;
            agent.expect_instances("boxed", &[("solo", Status::Alive)])
        });
        agent.kill();
    }
}

#[test]
fn a_file_is_checked_before_it_is_put_in_place() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let good = lab.write("good.json", &json!([database()]).to_string());
    let bad = lab.write("bad.json", "[\n  {\"Service\": {\"Name\": 7}}\n]");
    let log = lab.dir().join("sidecar-solo.log");
    let check = |words: &[&str]| {
        // The log goes on from one command to the next.
        let before = fs::read_to_string(&log).unwrap_or_default().len();
        let words = [&["static", "check"], words].concat();
        let mut process = AgentBuilder::new(&lab, 0).args(&words).launch();
        let (exit, _) = process.ends(SEEN);
        (exit, process.log().split_off(before))
    };
    let path = |path: &std::path::Path| path.display().to_string();
    let (exit, shown) = check(&[&path(&good)]);
    assert_eq!(exit, Exit::Code(0), "{shown}");
    assert!(
        shown.contains("10432  orders-db  tcp   10.20.0.50:5432"),
        "{shown}"
    );
    let (exit, shown) = check(&[&path(&good), "--json"]);
    assert_eq!(exit, Exit::Code(0), "{shown}");
    let document: Value = serde_json::from_str(&shown).expect("JSON and nothing else");
    assert_eq!(document["routing"]["routes"][0]["service_port"], 10432);
    let (exit, shown) = check(&[&path(&bad)]);
    assert_eq!(exit, Exit::Code(1), "{shown}");
    assert!(shown.contains("line 2, column 24"), "{shown}");
    let (exit, _) = check(&[&path(&lab.dir().join("absent.json"))]);
    assert_eq!(exit, Exit::Code(1));
}
