//! What labels, ports and networks of containers come to in the record, the routes and the remarks.

#![cfg(target_os = "linux")]

use std::time::Duration;

use blackbox::{Agent, AgentBuilder, Engine, IMAGE, Lab, Machine, Route, eventually, throughout};
use serde_json::{Value, json};

/// A start needs the container's start, and what the engine needs for that.
const STARTED: Duration = Duration::from_secs(20);

fn run(engine: &Engine, name: &str, options: &[&str]) {
    engine.docker(&[&["run", "-d", "--name", name], options, &[IMAGE]].concat());
}

/// The records of a service, as the agent's API gives them.
fn records(agent: &Agent, service: &str) -> Result<Vec<Value>, String> {
    let answer = agent
        .api("/api/services.json")
        .map_err(|error| error.to_string())?;
    let all: Value = serde_json::from_str(&answer.body).map_err(|error| error.to_string())?;
    Ok(all["Services"][service]
        .as_array()
        .cloned()
        .unwrap_or_default())
}

/// The only record of a service, as soon as there is one.
fn record(agent: &Agent, service: &str) -> Value {
    eventually(
        &format!("there is one {service}"),
        STARTED,
        || match &records(agent, service)?[..] {
            [one] => Ok(one.clone()),
            others => Err(format!("there are {others:?}")),
        },
    )
}

/// Ports as `IP TYPE CONTAINER-PORT-OR-PUBLISHED ServicePort`, sorted.
fn ports(record: &Value) -> Vec<String> {
    let ports = record["Ports"].as_array().cloned().unwrap_or_default();
    let text = |port: &Value| {
        let (ip, kind) = (port["IP"].as_str(), port["Type"].as_str());
        let (ip, kind) = (ip.unwrap_or_default(), kind.unwrap_or_default());
        format!("{ip}:{}/{kind} <- {}", port["Port"], port["ServicePort"])
    };
    let mut ports: Vec<_> = ports.iter().map(text).collect();
    ports.sort();
    ports
}

fn local(agent: &Agent) -> Value {
    let answer = agent.api("/api/v2/local").expect("the API answers");
    serde_json::from_str(&answer.body).expect("it is JSON")
}

/// The remarks about a container, by its name.
fn remarks(agent: &Agent, container: &str) -> String {
    let remarks = local(agent)["remarks"].clone();
    let subject = format!("{container} (");
    let about = |it: &&Value| {
        let text = it["subject"].as_str().unwrap_or_default();
        text.starts_with(&subject)
    };
    let all = remarks.as_array().expect("remarks are listed");
    all.iter().filter(about).map(Value::to_string).collect()
}

#[test]
fn docker_container_with_labels_appears_named_with_its_ports_mapped() {
    let lab = Lab::new(Machine::Shared, &["dock"]);
    let engine = Engine::start(&lab, lab.host(0), "container\n");
    let host = lab.host(0).ip.to_string();
    let agent = AgentBuilder::new(&lab, 0)
        .env("SIDECAR_DISCOVERY", "docker")
        .env("DOCKER_URL", &engine.url())
        .start();

    // A random port is found through the label of the container port; wildcards of both families
    // are one port at the advertise address.
    run(
        &engine,
        "web",
        &[
            "-P",
            "-l",
            "ServiceName=web",
            "-l",
            "ServicePort_80=9500",
            "-l",
            "HealthCheck=HttpGet",
            "-l",
            "HealthCheckArgs=http://{{ host }}:{{ tcp 9500 }}/",
        ],
    );
    let web = record(&agent, "web");
    let published = engine.published_port("web");
    assert_eq!(ports(&web), [format!("{host}:{published}/tcp <- 9500")]);
    assert_eq!(web["Image"], IMAGE);
    assert_eq!(web["Hostname"], "dock");
    assert_eq!(web["ProxyMode"], "http");
    let page = Route::Answer("container".to_owned());
    eventually("it is routed to", STARTED, || {
        agent.host.expect_route(9500, &page)
    });

    // Several service ports, TCP and UDP, a specific address.
    run(
        &engine,
        "many",
        &[
            "-l",
            "ServiceName=many",
            "-l",
            "ServicePort_80=9501",
            "-l",
            "ServicePort_81=9502",
            "-l",
            "ServicePort_53=9503",
            "-l",
            "ProxyMode=tcp",
            "-l",
            "HealthCheck=AlwaysSuccessful",
            "-l",
            "HealthCheckInterval=1s",
            "-p",
            "127.0.0.1:18080:80",
            "-p",
            "18081:81",
            "-p",
            "18053:53/udp",
        ],
    );
    let many = record(&agent, "many");
    assert_eq!(
        ports(&many),
        [
            format!("{host}:18053/udp <- 9503"),
            format!("{host}:18081/tcp <- 9502"),
            "127.0.0.1:18080/tcp <- 9501".to_owned(),
        ]
    );
    assert_eq!(many["ProxyMode"], "tcp");

    // Without labels it has its image's name, is recorded and not routed to.
    run(&engine, "plain", &["-P"]);
    let plain = record(&agent, IMAGE);
    let published = engine.published_port("plain");
    assert_eq!(ports(&plain), [format!("{host}:{published}/tcp <- 0")]);

    // The word false hides; a container beside it that comes later shows that it was looked at.
    run(
        &engine,
        "hidden",
        &[
            "-P",
            "-l",
            "ServiceName=hidden",
            "-l",
            "SidecarDiscover=false",
        ],
    );
    // In the host's network, and in one of its own without any published port.
    run(
        &engine,
        "shared",
        &[
            "--network",
            "host",
            "-l",
            "ServiceName=shared",
            "-l",
            "SidecarNetwork=host",
            "-l",
            "ServicePort_80=9504",
            "-l",
            "HealthCheck=AlwaysSuccessful",
        ],
    );
    assert_eq!(
        ports(&record(&agent, "shared")),
        [format!("{host}:80/tcp <- 9504")]
    );
    eventually("the host's own port is routed to", STARTED, || {
        agent.host.expect_route(9504, &page)
    });
    engine.docker(&["network", "create", "backend"]);
    run(
        &engine,
        "inner",
        &[
            "--network",
            "backend",
            "-l",
            "ServiceName=inner",
            "-l",
            "SidecarNetwork=backend",
            "-l",
            "ServicePort_80=9505",
            "-l",
            "HealthCheck=Tcp",
        ],
    );
    let address = "{{(index .NetworkSettings.Networks \"backend\").IPAddress}}";
    let address = engine.docker(&["inspect", "-f", address, "inner"]);
    assert_eq!(
        ports(&record(&agent, "inner")),
        [format!("{address}:80/tcp <- 9505")]
    );
    eventually("the container's own port is routed to", STARTED, || {
        agent.host.expect_route(9505, &page)
    });
    assert_eq!(records(&agent, "hidden"), Ok(Vec::new()));
    assert_eq!(local(&agent)["remarks"], json!([]));
}

#[test]
fn labels_that_match_nothing_and_hostile_ones_are_remarked_on_and_harm_nobody() {
    let lab = Lab::new(Machine::Shared, &["dock"]);
    let engine = Engine::start(&lab, lab.host(0), "container\n");
    let agent = AgentBuilder::new(&lab, 0)
        .env("SIDECAR_DISCOVERY", "docker")
        .env("DOCKER_URL", &engine.url())
        .start();
    run(
        &engine,
        "good",
        &[
            "-P",
            "-l",
            "ServiceName=good",
            "-l",
            "ServicePort_80=9500",
            "-l",
            "HealthCheck=AlwaysSuccessful",
        ],
    );
    let page = Route::Answer("container".to_owned());
    eventually("it is routed to", STARTED, || {
        agent.host.expect_route(9500, &page)
    });

    run(
        &engine,
        "slips",
        &[
            "-P",
            "-l",
            "ServiceName=slips",
            "-l",
            "ServicePort_81=9501",
            "-l",
            "HealtCheck=HttpGet",
        ],
    );
    eventually("slips are remarked on", STARTED, || {
        let said = remarks(&agent, "slips");
        let wanted = [
            "ServicePort_81",
            "not published",
            "HealtCheck",
            "did you mean HealthCheck?",
        ];
        wanted
            .iter()
            .all(|it| said.contains(it))
            .then_some(())
            .ok_or(said)
    });
    assert!(
        agent.mentions("did you mean HealthCheck?") == 1,
        "{}",
        agent.log()
    );

    let hostile = [
        (
            "long",
            json!({"ServiceName": "x".repeat(1 << 20)}),
            "1048576",
        ),
        (
            "newline",
            json!({"ServiceName": "web\n    bind *:80"}),
            "control character",
        ),
        (
            "nul",
            json!({"ServiceName": "web\u{0}"}),
            "control character",
        ),
        (
            "html",
            json!({"ServiceName": "<script>alert(1)</script>"}),
            "holds '<'",
        ),
        (
            "haproxy",
            json!({"ServiceName": "web\" } backend x { #"}),
            "which no name needs",
        ),
        (
            "mode",
            json!({"ProxyMode": "tcp\n    bind *:80"}),
            "control character",
        ),
        (
            "args",
            json!({"HealthCheckArgs": "x".repeat(1 << 20)}),
            "at most 8192",
        ),
    ];
    for (name, labels, _) in &hostile {
        engine.run_described(name, &json!({"Image": IMAGE, "Labels": labels}));
    }
    // A template without an end of its own.
    let bomb =
        "{{ define \"a\" }}{{ template \"a\" }}{{ template \"a\" }}{{ end }}{{ template \"a\" }}";
    let labels = json!({"ServiceName": "bomb", "HealthCheck": "HttpGet", "HealthCheckArgs": bomb});
    engine.run_described("bomb", &json!({"Image": IMAGE, "Labels": labels}));
    for (name, _, reason) in &hostile {
        eventually(&format!("{name} is remarked on"), STARTED, || {
            let said = remarks(&agent, name);
            said.contains(reason).then_some(()).ok_or(said)
        });
    }
    eventually("the bomb is told of with its check", STARTED, || {
        let checks = local(&agent)["checks"].to_string();
        checks.contains("template").then_some(()).ok_or(checks)
    });
    let services = agent
        .api("/api/services.json")
        .expect("the API answers")
        .body;
    for part in ["script", "bind", "xxxx"] {
        assert!(!services.contains(part), "{services}");
    }
    throughout("nobody else is affected", Duration::from_secs(3), || {
        agent.host.expect_route(9500, &page)
    });
    // What comes after all of this is found as before, and what ends is gone.
    run(
        &engine,
        "later",
        &[
            "-P",
            "-l",
            "ServiceName=later",
            "-l",
            "HealthCheck=AlwaysSuccessful",
        ],
    );
    record(&agent, "later");
    engine.docker(&["rm", "-f", "long", "slips"]);
    eventually("remarks go with their containers", STARTED, || {
        let said = remarks(&agent, "long") + &remarks(&agent, "slips");
        said.is_empty().then_some(()).ok_or(said)
    });
}
