//! The companion process: the real HAProxy, driven by `sidecar haproxy-api` on another host than the agent's.

#![cfg(target_os = "linux")]

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use blackbox::{
    Agent, AgentBuilder, Answer, Exit, Haproxy, Host, Lab, Machine, Process, Request, Responder,
    Response, Route, eventually, haproxy_target, sidecar, throughout, under_load,
};
use rustix::process::Signal;
use serde_json::{Value, json};

const API: u16 = 7778;
const PORT: u16 = 10_000;
const OTHER: u16 = 10_001;
const SETTLED: Duration = Duration::from_secs(20);
const STOPPED: Duration = Duration::from_secs(8);
/// How long what is redeployed is away.
const AWAY: Duration = Duration::from_secs(2);
/// The original's pause between two reloads.
const HOLD_DOWN: &str = "SIDECAR_HAPROXY_HOLD_DOWN=2s";

/// The companion of a host, in a directory of its own.
struct Companion {
    process: Process,
    command: Vec<String>,
    number: usize,
}

impl Companion {
    fn start(lab: &Lab, number: usize, variables: &[String], words: &[&str]) -> Self {
        let mut command = vec!["env".to_owned()];
        command.extend_from_slice(variables);
        command.push(sidecar().display().to_string());
        command.push("haproxy-api".to_owned());
        command.extend(words.iter().map(|&word| word.to_owned()));
        let process = Self::spawn(lab, number, &command);
        Self {
            process,
            command,
            number,
        }
    }

    fn spawn(lab: &Lab, number: usize, command: &[String]) -> Process {
        let words: Vec<_> = command.iter().map(String::as_str).collect();
        lab.program(number, "haproxy-api", &words)
    }

    fn end(&mut self) {
        self.process.signal(Signal::TERM);
        assert_eq!(self.process.ends(STOPPED).0, Exit::Code(0));
    }

    fn start_again(&mut self, lab: &Lab) {
        self.process = Self::spawn(lab, self.number, &self.command);
    }
}

/// Variables for runtime mode in that directory.
fn runtime(dir: &Path) -> Vec<String> {
    vec![
        format!("SIDECAR_HAPROXY_DIR={}", dir.display()),
        "SIDECAR_HAPROXY_PORTS=10000-10019".to_owned(),
        "SIDECAR_HAPROXY_POOLS=4,4".to_owned(),
    ]
}

fn ask(host: &Host, request: &Request<'_>) -> Result<Response, String> {
    let api = SocketAddr::from((Ipv4Addr::LOCALHOST, API));
    host.request(api, request).map_err(|it| it.to_string())
}

fn post(host: &Host, body: &str) -> Response {
    let request = Request {
        body,
        ..Request::post("/update")
    };
    ask(host, &request).expect("the companion answers")
}

fn health(host: &Host) -> Result<(u16, Value), String> {
    let answer = ask(host, &Request::get("/health"))?;
    let body = serde_json::from_str(&answer.body).map_err(|it| it.to_string())?;
    Ok((answer.status, body))
}

fn is_healthy(host: &Host) -> Result<Value, String> {
    match health(host)? {
        (200, body) => Ok(body),
        other => Err(format!("{other:?}")),
    }
}

fn serves(host: &Host, port: u16, name: &str) -> Result<(), String> {
    host.expect_route(port, &Route::Answer(name.to_owned()))
}

/// A state with one service per (name, ServicePort, address), changed at that second.
fn state(second: u32, services: &[(&str, u16, Ipv4Addr)]) -> Value {
    let stamp = format!("2026-01-01T00:{:02}:{:02}Z", second / 60, second % 60);
    let services: serde_json::Map<String, Value> = services
        .iter()
        .enumerate()
        .map(|(number, (name, port, ip))| {
            let record = json!({
                "ID": format!("id{number}"), "Name": name, "Image": "image:1",
                "Created": "2026-01-01T00:00:00Z", "Hostname": "far",
                "Ports": [{ "Type": "tcp", "Port": 8300, "ServicePort": port, "IP": ip }],
                "Updated": stamp, "ProxyMode": "http", "Status": 0,
            });
            (format!("id{number}"), record)
        })
        .collect();
    json!({
        "Servers": { "far": { "Name": "far", "Services": services,
                              "LastUpdated": stamp, "LastChanged": stamp } },
        "LastChanged": stamp, "ClusterName": "lab", "Hostname": "far",
    })
}

fn event(second: u32, services: &[(&str, u16, Ipv4Addr)]) -> String {
    let state = state(second, services);
    let service = state["Servers"]["far"]["Services"]["id0"].clone();
    json!({ "State": state,
            "ChangeEvent": { "Service": service, "PreviousStatus": 3,
                             "Time": state["LastChanged"] } })
    .to_string()
}

fn agent(lab: &Lab) -> Agent {
    AgentBuilder::new(lab, 0)
        .env("SIDECAR_PROXY", "none")
        .env("SIDECAR_LEAVE_ON_STOP", "false")
        .services(&[haproxy_target("web", "http", 8300, PORT)])
        .start()
}

#[test]
fn agent_and_companion_are_redeployed_one_after_the_other_without_a_failed_request() {
    let lab = Lab::new(Machine::Alone, &["far", "front"]);
    let files = Haproxy::new(&lab, "run");
    let _services = Responder::on_each(&lab, 8300);
    let mut agent = agent(&lab);
    let front = lab.host(1).clone();
    let follow = lab.host(0).ip.to_string();
    let mut companion = Companion::start(
        &lab,
        1,
        &runtime(files.dir()),
        &["--follow", follow.as_str()],
    );
    eventually("what the agent knows is served", SETTLED, || {
        serves(&front, PORT, "far")
    });
    let processes = files.processes();
    let requests = under_load(&front, &[PORT, PORT], || {
        for signal in [Signal::TERM, Signal::USR1] {
            let following = companion.process.mentions("msg=\"following\"");
            agent.signal(signal);
            assert_eq!(agent.ends(STOPPED).0, Exit::Code(0));
            throughout("it is served while the agent is away", AWAY, || {
                serves(&front, PORT, "far")
            });
            agent.restart();
            eventually("the companion is back at it", SETTLED, || {
                (companion.process.mentions("msg=\"following\"") > following)
                    .then_some(())
                    .ok_or_else(|| companion.process.log())
            });
        }
        companion.end();
        throughout("it is served without a companion", AWAY, || {
            serves(&front, PORT, "far")
        });
        companion.start_again(&lab);
        eventually("the companion is well", SETTLED, || is_healthy(&front));
    });
    println!("{requests} requests while agent, agent and companion were redeployed: 0 failed");
    assert!(requests > 1000, "only {requests} requests");
    assert_eq!(files.processes(), processes, "it is the same HAProxy");

    // The companion still follows.
    let both = [
        haproxy_target("web", "http", 8300, PORT),
        haproxy_target("more", "http", 8300, OTHER),
    ];
    lab.write("static-far.json", &Value::from(both.to_vec()).to_string());
    eventually("a new service is served", SETTLED, || {
        serves(&front, OTHER, "far")
    });

    // What happens to HAProxy is no concern of the cluster.
    let changes = agent.mentions("service changed");
    files.kill();
    eventually("HAProxy is back", SETTLED, || serves(&front, PORT, "far"));
    assert_eq!(agent.mentions("service changed"), changes);
}

#[test]
fn a_companion_with_the_originals_file_fetches_at_the_start_and_takes_what_is_not_older() {
    let lab = Lab::new(Machine::Shared, &["far", "front"]);
    let files = Haproxy::new(&lab, "classic");
    let _services = Responder::on_each(&lab, 8300);
    let front = lab.host(1).clone();
    let (near, far) = (front.ip, lab.host(0).ip);
    let agent = Responder::start(lab.host(0), (Ipv4Addr::UNSPECIFIED, 7777).into());
    let at_start = state(10, &[("web", PORT, far)]).to_string();
    agent.set("/state.json", Answer::ok(&at_start));
    let file = lab.write(
        "haproxy-api.toml",
        &format!(
            "[haproxy_api]\nbind_ip = \"127.0.0.1\"\nbind_port = {API}\n\
             [haproxy]\nbind_ip = \"192.168.168.168\"\nconfig_file = \"{}\"\npid_file = \"{}\"\n\
             [sidecar]\nstate_url = \"http://{far}:7777/state.json\"\n",
            files.config().display(),
            files.pid_file().display()
        ),
    );
    let file = file.display().to_string();
    let companion = Companion::start(&lab, 1, &[HOLD_DOWN.to_owned()], &["-f", &file]);
    eventually("the fetched state is served", SETTLED, || {
        serves(&front, PORT, "far")
    });
    eventually("it is well", SETTLED, || is_healthy(&front));
    let known = ask(&front, &Request::get("/state")).expect("an answer");
    assert_eq!(known.body, at_start);

    // Newer and as old: in force.
    let answer = post(&front, &event(11, &[("web", PORT, near)]));
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    eventually("the newer state is served", SETTLED, || {
        serves(&front, PORT, "front")
    });
    post(&front, &event(11, &[("web", PORT, far)]));
    eventually("of equal stamps the last counts", SETTLED, || {
        serves(&front, PORT, "far")
    });
    let body = is_healthy(&front).expect("it is well");
    assert_eq!(body["message"], "Healthy!");
    assert_eq!(body["last_changed"], "2026-01-01T00:00:11Z");
    assert_eq!(body["last_service_changed"]["Name"], "web");

    // Between two reloads lies the hold-down, and only the last state counts.
    let reloads = || {
        companion
            .process
            .mentions("HAProxy runs a new configuration")
    };
    let (before, begin) = (reloads(), Instant::now());
    for second in 12..32 {
        let ip = if second % 2 == 0 { near } else { far };
        post(&front, &event(second, &[("web", PORT, ip)]));
    }
    post(
        &front,
        &event(32, &[("web", PORT, near), ("more", OTHER, near)]),
    );
    eventually("the last state is served", SETTLED, || {
        serves(&front, PORT, "front").and_then(|()| serves(&front, OTHER, "front"))
    });
    let most = begin.elapsed().as_secs() / 2 + 2;
    let made = (reloads() - before) as u64;
    assert!(made <= most, "{made} reloads in {:?}", begin.elapsed());

    // Older: taken note of, and the whole state is fetched, since something may have been missed.
    let known = ask(&front, &Request::get("/state"))
        .expect("an answer")
        .body;
    agent.set("/state.json", Answer::ok(&known));
    let fetched = agent.asked("/state.json").len();
    assert_eq!(post(&front, &event(9, &[("web", PORT, far)])).status, 200);
    let now = ask(&front, &Request::get("/state"))
        .expect("an answer")
        .body;
    assert_eq!(now, known);
    eventually("it is fetched", SETTLED, || {
        let now = agent.asked("/state.json").len();
        (now > fetched).then_some(()).ok_or_else(|| now.to_string())
    });
    serves(&front, PORT, "front").expect("it is as it was");

    for nonsense in ["", "{}", "[]", "{\"State\":{\"Servers\":3}}"] {
        let answer = post(&front, nonsense);
        assert_eq!(answer.status, 500, "{nonsense}");
        let body: Value = serde_json::from_str(&answer.body).expect("JSON");
        assert!(body["errors"][0].is_string(), "{body}");
    }
    serves(&front, OTHER, "front").expect("nonsense changes nothing");
}

#[test]
fn health_tells_that_haproxy_is_gone_or_refuses_its_configuration() {
    let lab = Lab::new(Machine::Shared, &["front"]);
    let files = Haproxy::new(&lab, "classic");
    let _services = Responder::on_each(&lab, 8300);
    let front = lab.host(0).clone();
    let (broken, down) = (lab.dir().join("broken"), lab.dir().join("down"));
    let (config, pid) = (files.config(), files.pid_file());
    let variables = [
        format!("HAPROXY_API_HAPROXY_CONFIGFILE={}", config.display()),
        format!("HAPROXY_API_HAPROXY_PIDFILE={}", pid.display()),
        format!(
            "HAPROXY_API_HAPROXY_VERIFYCMD=test ! -e {} && haproxy -c -f {}",
            broken.display(),
            config.display()
        ),
        format!(
            "HAPROXY_API_HAPROXY_RELOADCMD=test ! -e {} && haproxy -D -f {} -p {}",
            down.display(),
            config.display(),
            pid.display()
        ),
        "SIDECAR_HAPROXY_HOLD_DOWN=0s".to_owned(),
    ];
    let _companion = Companion::start(&lab, 0, &variables, &[]);
    let errors = |expected: &str| {
        let (status, body) = health(&front)?;
        let errors = body["errors"].as_array().cloned().unwrap_or_default();
        (status == 500 && errors.iter().any(|it| it == expected))
            .then_some(())
            .ok_or_else(|| format!("{status} {body}"))
    };
    eventually("nothing runs yet", SETTLED, || {
        errors("No HAproxy running!")
    });
    let none = ask(&front, &Request::get("/state")).expect("an answer");
    assert_eq!(
        (none.status, none.body.as_str()),
        (500, "{\"errors\":[\"No currently stored state\"]}")
    );

    post(&front, &event(1, &[("web", PORT, front.ip)]));
    eventually("it is served", SETTLED, || serves(&front, PORT, "front"));
    eventually("it is well", SETTLED, || is_healthy(&front));

    fs::write(&broken, "").expect("it can be written");
    post(&front, &event(2, &[("web", OTHER, front.ip)]));
    eventually("the configuration is refused", SETTLED, || {
        errors("Last attempted HAproxy config write failed!")
    });
    serves(&front, PORT, "front").expect("the old one serves on");
    fs::remove_file(&broken).expect("it can be removed");
    eventually("the newer one is served", SETTLED, || {
        serves(&front, OTHER, "front")
    });
    eventually("it is well again", SETTLED, || is_healthy(&front));

    fs::write(&down, "").expect("it can be written");
    files.kill();
    eventually("nothing runs", SETTLED, || errors("No HAproxy running!"));
    fs::remove_file(&down).expect("it can be removed");
    eventually("it runs again", SETTLED, || {
        is_healthy(&front).and_then(|_| serves(&front, OTHER, "front"))
    });
}

#[test]
fn three_hundred_quick_events_lock_nothing_and_the_last_state_is_applied() {
    let lab = Lab::new(Machine::Shared, &["far", "front"]);
    let files = Haproxy::new(&lab, "run");
    let _services = Responder::on_each(&lab, 8300);
    let front = lab.host(1).clone();
    let (near, far) = (front.ip, lab.host(0).ip);
    let _companion = Companion::start(&lab, 1, &runtime(files.dir()), &["--subscribe", "web"]);
    eventually("it listens", SETTLED, || health(&front));
    for number in 1..=300_u32 {
        let ip = if number == 300 { near } else { far };
        let services = [("web", PORT, ip), ("other", OTHER, near)];
        let answer = post(&front, &event(number, &services));
        assert_eq!(answer.status, 200, "event {number}: {}", answer.body);
    }
    eventually("the last state is served", SETTLED, || {
        serves(&front, PORT, "front")
    });
    throughout("and stays", Duration::from_secs(1), || {
        serves(&front, PORT, "front")
    });
    is_healthy(&front).expect("it is well");
    serves(&front, OTHER, "front").expect_err("only what is subscribed to is served");
}

/// Names as no static file or label may have them, but any record of the network.
const MALICIOUS: [&str; 5] = [
    "evil\n    server x 203.0.113.9:80",
    "evil; shutdown frontend ports",
    "<script>203.0.113.9</script>",
    "%[env(PATH)] ${PATH}",
    "two words \\ \"203.0.113.9",
];

#[test]
fn malicious_names_get_into_no_configuration_and_no_socket_command() {
    let lab = Lab::new(Machine::Shared, &["runtime", "classic"]);
    let _services = Responder::on_each(&lab, 8300);
    for (number, name) in ["runtime", "classic"].into_iter().enumerate() {
        let files = Haproxy::new(&lab, name);
        let host = lab.host(number).clone();
        let mut variables = runtime(files.dir());
        if name == "classic" {
            let (config, pid) = (files.config(), files.pid_file());
            variables = vec![
                format!("HAPROXY_API_HAPROXY_CONFIGFILE={}", config.display()),
                format!("HAPROXY_API_HAPROXY_PIDFILE={}", pid.display()),
            ];
        }
        let _companion = Companion::start(&lab, number, &variables, &[]);
        eventually("it listens", SETTLED, || health(&host));
        let mut services = vec![("web", PORT, host.ip)];
        services.extend(
            MALICIOUS
                .iter()
                .zip(OTHER..)
                .map(|(it, port)| (*it, port, host.ip)),
        );
        let answer = post(&host, &event(1, &services));
        assert_eq!(answer.status, 200, "{}", answer.body);
        eventually("the honest one is served", SETTLED, || {
            serves(&host, PORT, name)
        });
        eventually("HAProxy took it all", SETTLED, || is_healthy(&host));
        let written = |dir: &Path| {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            let texts = entries.filter_map(|it| fs::read_to_string(it.path()).ok());
            texts.collect::<String>()
        };
        let text = written(files.dir()) + &written(&files.dir().join("current"));
        assert!(text.contains("frontend"), "{name}: {text}");
        for word in [
            "server x",
            "203.0.113.9",
            "; shutdown",
            "<script",
            "env(",
            "${",
        ] {
            assert!(!text.contains(word), "{name}: {word} stands in {text}");
        }
    }
}
