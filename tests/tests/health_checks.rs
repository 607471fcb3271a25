//! Health checks as users write them, against services that answer well, badly, late and not at all:
//! each test is one statement, shown by the shipped binary with a static file on one host.

#![cfg(target_os = "linux")]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use blackbox::{
    Agent, AgentBuilder, Answer as Page, GrpcHealth, Host, Json, Lab, Machine, Responder, Serving,
    Status, eventually, throughout,
};
use serde_json::{Value, json};

const HOST: &str = "one";
const INTERVAL: Duration = Duration::from_secs(3);
/// A change of health needs the next check, which is due within seconds.
const CHECKED: Duration = Duration::from_secs(15);
/// Several checks.
const WATCHED: Duration = Duration::from_secs(8);

/// What a service does with a request for a path.
type Answer = fn(&str) -> Option<String>;

/// A service that writes what it is told to, and nothing at all where it is told nothing: then it
/// holds the connection until it stops.
struct Service {
    answer: Arc<Mutex<Answer>>,
    asked: Arc<Mutex<Vec<(String, Instant)>>>,
}

impl Service {
    fn start(host: &Host, port: u16, answer: Answer) -> Self {
        let listener = host.listen((Ipv4Addr::UNSPECIFIED, port).into());
        let service = Self {
            answer: Arc::new(Mutex::new(answer)),
            asked: Arc::default(),
        };
        let (answer, asked) = (Arc::clone(&service.answer), Arc::clone(&service.asked));
        thread::spawn(move || serve(&listener, &answer, &asked));
        service
    }

    fn set(&self, answer: Answer) {
        *self.answer.lock().expect("nobody panics with it") = answer;
    }

    /// What was asked for, oldest first.
    fn asked(&self) -> Vec<String> {
        let asked = self.asked.lock().expect("nobody panics with it");
        asked.iter().map(|(path, _)| path.clone()).collect()
    }

    fn times(&self, path: &str) -> Vec<Instant> {
        let asked = self.asked.lock().expect("nobody panics with it");
        let times = asked.iter().filter(|(it, _)| it == path);
        times.map(|(_, at)| *at).collect()
    }
}

fn serve(listener: &TcpListener, answer: &Mutex<Answer>, asked: &Mutex<Vec<(String, Instant)>>) {
    let mut held: Vec<TcpStream> = Vec::new();
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let Some(path) = path_of(&stream) else {
            continue;
        };
        let asked = &mut *asked.lock().expect("nobody panics with it");
        asked.push((path.clone(), Instant::now()));
        match answer.lock().expect("nobody panics with it")(&path) {
            // A client that goes away in the middle is its own affair.
            Some(text) => drop(stream.write_all(text.as_bytes())),
            None => held.push(stream),
        }
    }
}

fn path_of(stream: &TcpStream) -> Option<String> {
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    reader.read_line(&mut request).ok()?;
    let mut header = String::from("-");
    while !header.trim_end().is_empty() {
        header.clear();
        reader.read_line(&mut header).ok()?;
    }
    Some(request.split(' ').nth(1)?.to_owned())
}

fn said(status: &str) -> Option<String> {
    Some(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n"))
}

fn fine(_: &str) -> Option<String> {
    said("200 OK")
}

fn broken(_: &str) -> Option<String> {
    said("503 Busy")
}

fn silent(_: &str) -> Option<String> {
    None
}

/// A service at TCP port 8100, service port 9500, with this check.
fn target(name: &str, check: &Value) -> Value {
    json!({
        "Service": {
            "Name": name,
            "Image": format!("lab/{name}:1.4.2"),
            "Ports": [{ "Type": "tcp", "Port": 8100, "ServicePort": 9500 }],
        },
        "Check": check,
    })
}

fn http(name: &str, url: &str) -> Value {
    target(name, &json!({ "Type": "HttpGet", "Args": url }))
}

fn external(name: &str, line: &str) -> Value {
    target(name, &json!({ "Type": "External", "Args": line }))
}

fn lab() -> Lab {
    Lab::new(Machine::Shared, &[HOST])
}

/// An agent without data planes: only its checks matter here.
fn agent<'lab>(lab: &'lab Lab, targets: &[Value]) -> AgentBuilder<'lab> {
    AgentBuilder::new(lab, 0)
        .env("SIDECAR_PROXY", "none")
        .services(targets)
}

fn becomes(agent: &Agent, service: &str, status: Status) {
    eventually(&format!("{service} is {status:?}"), CHECKED, || {
        agent.expect_instances(service, &[(HOST, status)])
    });
}

fn stays(agent: &Agent, service: &str, status: Status) {
    throughout(&format!("{service} is {status:?}"), WATCHED, || {
        agent.expect_instances(service, &[(HOST, status)])
    });
}

/// What the agent shows of the check of a service.
fn shown(agent: &Agent, service: &str) -> Json {
    let answer = agent.api("/api/v2/local").expect("the API answers");
    let document = answer.json();
    let checks = document.member("checks").expect("it shows checks");
    let named =
        |check: &&(String, Json)| check.1.member("service").map(Json::text) == Some(service);
    let found = checks.members().iter().find(named);
    found
        .unwrap_or_else(|| panic!("no check of {service}: {document}"))
        .1
        .clone()
}

/// A word of the last result of a service's check.
fn last(agent: &Agent, service: &str, key: &str) -> String {
    let shown = shown(agent, service);
    let value = shown.member("last").and_then(|last| last.member(key));
    value.map(Json::to_string).unwrap_or_default()
}

#[test]
fn http_get_is_healthy_by_200_to_299_through_redirects_and_with_an_empty_host() {
    let lab = lab();
    let answer: Answer = |path| match path {
        "/moved" => Some(
            "HTTP/1.1 302 Found\r\nlocation: /no-content\r\ncontent-length: 0\r\n\r\n".to_owned(),
        ),
        "/no-content" => said("204 No Content"),
        "/loop" => {
            Some("HTTP/1.1 301 Moved\r\nlocation: /loop\r\ncontent-length: 0\r\n\r\n".to_owned())
        }
        "/gone" => Some("HTTP/1.1 404 Gone\r\ncontent-length: 9\r\n\r\nnot here!".to_owned()),
        _ => said("200 OK"),
    };
    let service = Service::start(lab.host(0), 8100, answer);
    let url = |path: &str| format!("http://127.0.0.1:8100/{path}");
    let agent = agent(
        &lab,
        &[
            http("fine", &url("fine")),
            http("moved", &url("moved")),
            http("here", "http://:8100/here"),
            http("loop", &url("loop")),
            http("gone", &url("gone")),
            http("refused", "http://127.0.0.1:8101/"),
        ],
    )
    .start();
    for service in ["fine", "moved", "here"] {
        becomes(&agent, service, Status::Alive);
    }
    for service in ["loop", "gone", "refused"] {
        becomes(&agent, service, Status::Unhealthy);
    }
    for (service, word) in [
        ("fine", "status 200"),
        ("moved", "status 204"),
        ("loop", "redirects more than 10 times"),
        ("gone", "answers 404, not 200 to 299"),
        ("refused", "cannot connect to 127.0.0.1:8101"),
    ] {
        let summary = last(&agent, service, "summary");
        assert!(summary.contains(word), "{service}: {summary}");
    }
    assert!(last(&agent, "gone", "output").contains("not here!"));
    let asked = service.asked();
    assert!(asked.contains(&"/here".to_owned()), "{asked:?}");
}

#[test]
fn external_is_healthy_by_exit_code_with_quotes_and_killed_with_its_children_when_late() {
    let lab = lab();
    let pids = lab.write("pids", "");
    let late = format!(
        "/bin/sh -c 'sleep 3600 & echo $! >> {}; echo waiting; wait'",
        pids.display()
    );
    let agent = agent(
        &lab,
        &[
            external("yes", "/bin/sh -c 'test \"$1\" = \"a b\"' sh 'a b'"),
            external("no", "/bin/sh -c 'echo \"all is lost\" >&2; exit 3'"),
            external("absent", "/no/such/plugin -H 127.0.0.1"),
            external("late", &late),
        ],
    )
    .start();
    becomes(&agent, "yes", Status::Alive);
    for service in ["no", "absent", "late"] {
        becomes(&agent, service, Status::Unhealthy);
    }
    for (service, key, word) in [
        ("no", "summary", "exit status: 3"),
        ("no", "output", "all is lost"),
        ("absent", "summary", "cannot run"),
        (
            "late",
            "summary",
            "did not end within 2.999s and was killed",
        ),
        ("late", "output", "waiting"),
    ] {
        let text = last(&agent, service, key);
        assert!(text.contains(word), "{service}: {text}");
    }
    // Its child sleeps no more. The command may be running again by now, with another child.
    let text = fs::read_to_string(&pids).expect("the command has said whom it started");
    let child = text
        .lines()
        .next()
        .expect("it has started somebody")
        .to_owned();
    eventually(
        "the child of the late command is gone",
        CHECKED,
        || match fs::read_to_string(format!("/proc/{child}/cmdline")) {
            Ok(line) if line.contains("3600") => Err(format!("{child} runs")),
            _ => Ok(()),
        },
    );
}

#[test]
fn always_successful_is_alive_without_any_request() {
    let lab = lab();
    let service = Service::start(lab.host(0), 8100, broken);
    let check = json!({ "Type": "AlwaysSuccessful", "Args": "http://127.0.0.1:8100/" });
    let agent = agent(&lab, &[target("sure", &check)]).start();
    becomes(&agent, "sure", Status::Alive);
    stays(&agent, "sure", Status::Alive);
    assert_eq!(service.asked(), Vec::<String>::new());
}

#[test]
fn the_default_check_asks_the_first_tcp_port_for_the_endpoint_and_without_one_nobody() {
    let lab = lab();
    let service = Service::start(lab.host(0), 8100, fine);
    let ports = |ports: Value| json!({ "Service": { "Name": "ports", "Ports": ports } });
    let tcp = ports(json!([
        { "Type": "udp", "Port": 8099 },
        { "Type": "tcp", "Port": 8100 },
        { "Type": "tcp", "Port": 8101 },
    ]));
    let mut none = ports(json!([{ "Type": "udp", "Port": 8099 }]));
    none["Service"]["Name"] = json!("portless");
    let mut agent = agent(&lab, &[tcp, none]).start();
    for service in ["ports", "portless"] {
        becomes(&agent, service, Status::Alive);
    }
    assert!(service.asked().iter().all(|path| path == "/version"));
    let kind = shown(&agent, "portless");
    assert_eq!(
        kind.member("kind").map(Json::text),
        Some("AlwaysSuccessful")
    );
    assert!(agent.mentions("no health check given, using the default") >= 2);
    agent.kill();

    let agent = AgentBuilder::new(&lab, 0)
        .env("SIDECAR_PROXY", "none")
        .services(&[target("ports", &json!({}))])
        .env("SIDECAR_DEFAULT_CHECK_ENDPOINT", "/ping")
        .start();
    becomes(&agent, "ports", Status::Alive);
    assert_eq!(service.asked().last().map(String::as_str), Some("/ping"));
}

#[test]
fn templates_know_host_ports_fields_printf_if_and_range() {
    let lab = lab();
    let service = Service::start(lab.host(0), 8100, fine);
    let templates = [
        (
            "/{{ container }}/{{ tcp 9500 }}/{{ udp 9500 }}/{{ tcp 1 }}",
            "/one/8100/-1/-1",
        ),
        (
            "/{{ .Name }}/{{ .ProxyMode }}/{{ .Version }}",
            "/t1/http/1.4.2",
        ),
        ("/{{ printf \"%05d\" (tcp 9500) }}", "/08100"),
        ("/{{ if eq .ProxyMode \"tcp\" }}a{{ else }}b{{ end }}", "/b"),
        (
            "/{{ range .Ports }}{{ .Type }}-{{ .Port }}{{ end }}",
            "/tcp-8100",
        ),
    ];
    let mut targets = Vec::new();
    for (number, (template, _)) in templates.iter().enumerate() {
        let url = format!("http://{{{{ host }}}}:{{{{ tcp 9500 }}}}{template}");
        targets.push(http(&format!("t{number}"), &url));
    }
    let agent = agent(&lab, &targets).start();
    for number in 0..templates.len() {
        becomes(&agent, &format!("t{number}"), Status::Alive);
    }
    let asked = service.asked();
    for (template, path) in templates {
        assert!(asked.contains(&path.to_owned()), "{template}: {asked:?}");
    }
}

#[test]
fn a_broken_template_is_used_as_it_stands_and_named() {
    let lab = lab();
    let service = Service::start(lab.host(0), 8100, fine);
    let url = "http://127.0.0.1:8100/{{ nope }}";
    let agent = agent(&lab, &[http("raw", url)]).start();
    becomes(&agent, "raw", Status::Alive);
    assert_eq!(service.asked()[0], "/%7B%7B%20nope%20%7D%7D");
    assert_eq!(agent.mentions("function \\\"nope\\\" not defined"), 1);
    let notices = shown(&agent, "raw").member("notices").map(Json::to_string);
    let notices = notices.unwrap_or_default();
    assert!(notices.contains("are used as they stand"), "{notices}");
}

#[test]
fn a_late_answer_is_unhealthy_and_a_good_one_alive_again() {
    let lab = lab();
    let service = Service::start(lab.host(0), 8100, fine);
    let agent = agent(&lab, &[http("slow", "http://127.0.0.1:8100/")]).start();
    becomes(&agent, "slow", Status::Alive);
    service.set(silent);
    becomes(&agent, "slow", Status::Unhealthy);
    let summary = last(&agent, "slow", "summary");
    let wanted = "no answer within 2.999s: still waiting for the answer";
    assert!(summary.contains(wanted), "{summary}");
    service.set(fine);
    becomes(&agent, "slow", Status::Alive);
}

#[test]
fn interval_timeout_rise_and_fall_are_the_owners() {
    let lab = lab();
    let service = Service::start(lab.host(0), 8100, fine);
    let check = |url: &str, interval: &str, timeout: &str, rise: &str, fall: &str| {
        json!({
            "Type": "HttpGet", "Args": url,
            "Interval": interval, "Timeout": timeout, "Rise": rise, "Fall": fall,
        })
    };
    let quick = check("http://:8100/quick", "200ms", "150ms", "3", "4");
    let odd = check("http://:8100/odd", "1ms", "1s", "0", "");
    let agent = agent(&lab, &[target("quick", &quick), target("odd", &odd)]).start();
    for service in ["quick", "odd"] {
        becomes(&agent, service, Status::Alive);
    }
    assert!(
        service.times("/quick").len() >= 3,
        "the third makes it alive"
    );
    let times = eventually("there were twenty checks", CHECKED, || {
        let times = service.times("/quick");
        (times.len() >= 20)
            .then_some(times.clone())
            .ok_or_else(|| format!("{times:?}"))
    });
    let between = (times[19] - times[9]) / 10;
    let wanted = Duration::from_millis(180)..Duration::from_millis(300);
    assert!(wanted.contains(&between), "{between:?}");

    let before = service.times("/quick").len();
    service.set(silent);
    becomes(&agent, "quick", Status::Unhealthy);
    let asked = service.times("/quick").len() - before;
    assert!(asked >= 4, "unhealthy after {asked} failures");
    let summary = last(&agent, "quick", "summary");
    assert!(summary.contains("no answer within 150ms"), "{summary}");

    for (label, value) in [("HealthCheckInterval", "1ms"), ("HealthCheckRise", "0")] {
        let notices = shown(&agent, "odd").member("notices").map(Json::to_string);
        let notices = notices.unwrap_or_default();
        let named = format!("({label}) \\\"{value}\\\" is not");
        assert!(notices.contains(&named), "{notices}");
        assert_eq!(agent.mentions(&format!("({label})")), 1);
    }
    let odd = shown(&agent, "odd");
    for (key, value) in [
        ("interval_ms", 3000),
        ("timeout_ms", 1000),
        ("rise", 1),
        ("fall", 1),
    ] {
        assert_eq!(odd.member(key).and_then(Json::number), Some(value), "{key}");
    }
}

#[test]
fn an_unhealthy_instance_leaves_all_proxies_and_returns_when_it_is_healthy() {
    let lab = Lab::new(Machine::Shared, &["left", "right"]);
    let hosts = lab.hosts();
    let page = |host: &Host| format!("{}\n", host.name);
    let services: Vec<Responder> = hosts
        .iter()
        .map(|host| {
            let service = Responder::start(host, (Ipv4Addr::UNSPECIFIED, 8100).into());
            service.set("/", Page::ok(&page(host)));
            service
        })
        .collect();
    let check = json!({ "Type": "HttpGet", "Args": "http://127.0.0.1:8100/health" });
    let _agents: Vec<Agent> = (0..2)
        .map(|host| {
            AgentBuilder::new(&lab, host)
                .services(&[target("web", &check)])
                .start()
        })
        .collect();
    let served_by = |wanted: &[&str]| {
        hosts.iter().try_for_each(|host| {
            let answers = host.answers(9500, 12)?;
            let fair = answers
                .values()
                .all(|count| *count >= 12 / wanted.len() / 2);
            if fair && answers.keys().eq(wanted.iter()) {
                return Ok(());
            }
            Err(format!(
                "{} is served by {answers:?}, not by {wanted:?}",
                host.name
            ))
        })
    };
    eventually("both serve both hosts", CHECKED, || {
        served_by(&["left", "right"])
    });
    services[0].set("/health", Page::status(503));
    eventually("the healthy one serves alone", CHECKED, || {
        served_by(&["right"])
    });
    services[0].set("/health", Page::ok("well\n"));
    eventually("both serve again", CHECKED, || {
        served_by(&["left", "right"])
    });
}

#[test]
fn every_status_has_its_number_in_json_and_its_name_on_the_text_page() {
    let lab = lab();
    let _service = Service::start(lab.host(0), 8100, fine);
    let all = [
        http("alive", "http://127.0.0.1:8100/"),
        http("unhealthy", "http://127.0.0.1:8101/"),
        external("unknown", "/bin/sleep 3600"),
        http("draining", "http://127.0.0.1:8100/"),
        http("tombstone", "http://127.0.0.1:8100/"),
    ];
    let agent = agent(&lab, &all).start();
    for service in ["alive", "draining", "tombstone"] {
        becomes(&agent, service, Status::Alive);
    }
    becomes(&agent, "unhealthy", Status::Unhealthy);
    let drained = agent.instances("draining").expect("it answers")[0]
        .id
        .clone();
    let path = format!("/api/services/{drained}/drain");
    let answer = agent
        .host
        .request(agent.api_address(), &blackbox::Request::post(&path));
    assert_eq!(answer.expect("it answers").status, 202);
    becomes(&agent, "draining", Status::Draining);

    // A check that has not ended yet, and an instance that is no more.
    let mut others = all.to_vec();
    others.pop();
    others[2] = external("unknown", "/bin/sleep 3601");
    others[2]["Service"]["Ports"][0]["Port"] = json!(8102);
    lab.write("static-one.json", &Value::from(others).to_string());
    becomes(&agent, "tombstone", Status::Tombstone);
    eventually("the new instance is unknown", CHECKED, || {
        let instances = agent.instances("unknown")?;
        let is_unknown = instances.iter().any(|it| it.status == Status::Unknown);
        is_unknown
            .then_some(())
            .ok_or_else(|| format!("{instances:?}"))
    });
    let page = agent.api("/servers").expect("the page answers").body;
    for name in ["Alive", "Tombstone", "Unhealthy", "Unknown", "Draining"] {
        assert!(page.contains(name), "{name} is not on the page:\n{page}");
    }
}

#[test]
fn tcp_is_healthy_while_the_port_takes_connections() {
    let lab = lab();
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 8100));
    let listener = lab.host(0).listen(at);
    let check = json!({ "Type": "Tcp", "Args": "127.0.0.1:{{ tcp 9500 }}" });
    let agent = agent(&lab, &[target("port", &check)]).start();
    becomes(&agent, "port", Status::Alive);
    drop(listener);
    becomes(&agent, "port", Status::Unhealthy);
    assert!(last(&agent, "port", "summary").contains("cannot connect to 127.0.0.1:8100"));
    let _listener = lab.host(0).listen(at);
    becomes(&agent, "port", Status::Alive);
}

#[test]
fn grpc_is_healthy_while_the_service_says_that_it_serves() {
    let lab = lab();
    let at = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8100));
    let health = GrpcHealth::start(lab.host(0), at);
    health.set("", Serving::Yes);
    health.set("orders.v1.Orders", Serving::No);
    let named = |name: &str| json!({ "Type": "Grpc", "Args": format!("127.0.0.1:8100/{name}") });
    let targets = [
        // Without arguments the server as a whole is asked, at the first TCP port.
        target("server", &json!({ "Type": "Grpc" })),
        target("orders", &named("orders.v1.Orders")),
        target("unknown", &named("users.v1.Users")),
    ];
    let agent = agent(&lab, &targets).start();
    becomes(&agent, "server", Status::Alive);
    becomes(&agent, "orders", Status::Unhealthy);
    becomes(&agent, "unknown", Status::Unhealthy);
    let said = last(&agent, "orders", "summary");
    assert!(said.contains("NOT_SERVING"), "{said}");
    let said = last(&agent, "unknown", "summary");
    assert!(said.contains("NOT_FOUND"), "{said}");
    health.set("orders.v1.Orders", Serving::Yes);
    health.set("", Serving::No);
    becomes(&agent, "orders", Status::Alive);
    becomes(&agent, "server", Status::Unhealthy);
}

#[test]
fn an_instance_that_keeps_falling_is_held_back_and_says_until_when() {
    let lab = lab();
    let service = Service::start(lab.host(0), 8100, fine);
    let agent = agent(&lab, &[http("nervous", "http://127.0.0.1:8100/")]).start();
    for _ in 0..3 {
        becomes(&agent, "nervous", Status::Alive);
        service.set(broken);
        becomes(&agent, "nervous", Status::Unhealthy);
        service.set(fine);
    }
    let until = eventually("it is held back", CHECKED, || {
        let shown = shown(&agent, "nervous");
        let until = shown
            .member("damped")
            .and_then(|damped| damped.member("until"));
        until
            .map(|it| it.text().to_owned())
            .ok_or_else(|| shown.to_string())
    });
    assert!(until.ends_with('Z'), "{until}");
    stays(&agent, "nervous", Status::Unhealthy);
    assert_eq!(agent.mentions("instance works again, but is held back"), 1);
    eventually("it is released", Duration::from_secs(60), || {
        agent.expect_instances("nervous", &[(HOST, Status::Alive)])
    });
}

#[test]
fn checks_run_at_once_and_then_every_three_seconds() {
    let lab = lab();
    let service = Service::start(lab.host(0), 8100, fine);
    let agent = agent(&lab, &[http("steady", "http://127.0.0.1:8100/s")]).start();
    becomes(&agent, "steady", Status::Alive);
    let times = eventually("there were four checks", CHECKED, || {
        let times = service.times("/s");
        (times.len() >= 4)
            .then_some(times.clone())
            .ok_or_else(|| format!("{times:?}"))
    });
    // The first wait is what spreads checks: a part of the interval.
    assert!(times[1] - times[0] < INTERVAL + Duration::from_millis(500));
    for pair in times[1..].windows(2) {
        let off = (pair[1] - pair[0]).abs_diff(INTERVAL);
        assert!(off < Duration::from_millis(500), "{off:?} off the interval");
    }
}
