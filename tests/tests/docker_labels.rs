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

fn lab() -> Lab {
    Lab::new(Machine::Shared, &["dock"])
}

/// An engine whose containers answer requests, and an agent that follows it.
fn dock(lab: &Lab) -> (Engine, Agent) {
    let engine = Engine::start(lab, lab.host(0), "container\n");
    let agent = AgentBuilder::new(lab, 0)
        .env("SIDECAR_DISCOVERY", "docker")
        .env("DOCKER_URL", &engine.url())
        .start();
    (engine, agent)
}

fn labels<'a>(labels: &[&'a str]) -> Vec<&'a str> {
    labels.iter().flat_map(|label| ["-l", *label]).collect()
}

fn routed(agent: &Agent, port: u16) {
    let page = Route::Answer("container".to_owned());
    eventually("it is routed to", STARTED, || {
        agent.host.expect_route(port, &page)
    });
}

const WELL: &str = "HealthCheck=AlwaysSuccessful";

#[test]
fn docker_container_with_labels_appears_named_with_its_ports_mapped() {
    let lab = lab();
    let (engine, agent) = dock(&lab);
    let labels = labels(&[
        "ServiceName=web",
        "ServicePort_80=9500",
        "HealthCheck=HttpGet",
        "HealthCheckArgs=http://{{ host }}:{{ tcp 9500 }}/",
    ]);
    run(&engine, "web", &[&labels[..], &["-p", "18080:80"]].concat());
    let web = record(&agent, "web");
    let host = lab.host(0).ip;
    assert_eq!(ports(&web), [format!("{host}:18080/tcp <- 9500")]);
    assert_eq!(web["Image"], IMAGE);
    assert_eq!(web["Hostname"], "dock");
    assert_eq!(web["ProxyMode"], "http");
    routed(&agent, 9500);
}

#[test]
fn a_random_published_port_is_found_through_the_label_of_the_container_port() {
    let lab = lab();
    let (engine, agent) = dock(&lab);
    let labels = labels(&["ServiceName=web", "ServicePort_80=9500", WELL]);
    run(&engine, "web", &[&labels[..], &["-P"]].concat());
    let published = engine.published_port("web");
    let host = lab.host(0).ip;
    assert_eq!(
        ports(&record(&agent, "web")),
        [format!("{host}:{published}/tcp <- 9500")]
    );
    routed(&agent, 9500);
}

#[test]
fn several_service_ports_tcp_and_udp_and_specific_addresses_are_recorded() {
    let lab = lab();
    let (engine, agent) = dock(&lab);
    let labels = labels(&[
        "ServiceName=many",
        "ServicePort_80=9501",
        "ServicePort_81=9502",
        "ServicePort_53=9503",
        "ProxyMode=tcp",
        WELL,
    ]);
    // Wildcards of both families are one port, at the advertise address.
    let published = ["127.0.0.1:18080:80", "18081:81", "18053:53/udp"];
    let published = published.iter().flat_map(|port| ["-p", *port]);
    let options: Vec<&str> = labels.into_iter().chain(published).collect();
    run(&engine, "many", &options);
    let many = record(&agent, "many");
    let host = lab.host(0).ip;
    assert_eq!(
        ports(&many),
        [
            format!("{host}:18053/udp <- 9503"),
            format!("{host}:18081/tcp <- 9502"),
            "127.0.0.1:18080/tcp <- 9501".to_owned(),
        ]
    );
    assert_eq!(many["ProxyMode"], "tcp");
    // A route for each TCP port: at one answers the container, at the other nobody in it.
    routed(&agent, 9501);
    let routes = agent.api("/api/v2/routes").expect("the API answers").body;
    assert!(
        routes.contains("9502") && !routes.contains("9503"),
        "{routes}"
    );
}

#[test]
fn an_unlabelled_container_has_its_images_name_and_no_service_port_and_is_not_routed() {
    let lab = lab();
    let (engine, agent) = dock(&lab);
    run(&engine, "plain", &["-P"]);
    let published = engine.published_port("plain");
    let host = lab.host(0).ip;
    assert_eq!(
        ports(&record(&agent, IMAGE)),
        [format!("{host}:{published}/tcp <- 0")]
    );
    let routes = agent.api("/api/v2/routes").expect("the API answers").body;
    assert!(!routes.contains(IMAGE), "{routes}");
}

#[test]
fn sidecar_discover_false_is_skipped() {
    let lab = lab();
    let (engine, agent) = dock(&lab);
    let hidden = labels(&["ServiceName=hidden", "SidecarDiscover=false"]);
    run(&engine, "hidden", &hidden);
    // One that came later is there: so the other was looked at.
    run(&engine, "later", &labels(&["ServiceName=later", WELL]));
    record(&agent, "later");
    assert_eq!(records(&agent, "hidden"), Ok(Vec::new()));
    assert_eq!(local(&agent)["remarks"], json!([]));
}

#[test]
fn containers_in_the_hosts_network_or_one_of_their_own_need_no_published_port() {
    let lab = lab();
    let (engine, agent) = dock(&lab);
    let shared = labels(&[
        "ServiceName=shared",
        "SidecarNetwork=host",
        "ServicePort_80=9504",
        WELL,
    ]);
    run(
        &engine,
        "shared",
        &[&["--network", "host"], &shared[..]].concat(),
    );
    let host = lab.host(0).ip;
    assert_eq!(
        ports(&record(&agent, "shared")),
        [format!("{host}:80/tcp <- 9504")]
    );
    routed(&agent, 9504);
    engine.docker(&["network", "create", "backend"]);
    let inner = labels(&[
        "ServiceName=inner",
        "SidecarNetwork=backend",
        "ServicePort_80=9505",
        "HealthCheck=Tcp",
    ]);
    run(
        &engine,
        "inner",
        &[&["--network", "backend"], &inner[..]].concat(),
    );
    let address = "{{(index .NetworkSettings.Networks \"backend\").IPAddress}}";
    let address = engine.docker(&["inspect", "-f", address, "inner"]);
    assert_eq!(
        ports(&record(&agent, "inner")),
        [format!("{address}:80/tcp <- 9505")]
    );
    routed(&agent, 9505);
}

#[test]
fn labels_that_match_nothing_and_hostile_ones_are_remarked_on_and_harm_nobody() {
    let lab = lab();
    let (engine, agent) = dock(&lab);
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
    let texts = ["/servers", "/metrics", "/services.json", "/state.json"].map(|path| {
        let answer = agent.api(path).expect("the API answers");
        assert_eq!(answer.status, 200, "{path}");
        answer.body
    });
    for text in texts.iter().chain([&services]) {
        for part in ["<script", "bind *", "backend x", "xxxx"] {
            assert!(!text.contains(part), "{text}");
        }
    }
    // The page itself is the same for everybody: what it shows it asks for.
    let ui = agent.api("/ui/").expect("the API answers");
    assert_eq!(ui.status, 200);
    for part in ["alert(1)", "bind *", "backend x"] {
        assert!(!ui.body.contains(part), "{part}");
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
