//! The kernel data plane, seen by clients on a host and behind it, and by whoever looks at nf_tables.

#![cfg(target_os = "linux")]

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use blackbox::{
    Agent, AgentBuilder, Answer, Engine, Exit, Host, IMAGE, Lab, Machine, PROXY_IP, Request,
    Responder, Route, eventually, require, sidecar, throughout, under_load,
};
use rustix::process::Signal;
use serde_json::{Value, json};

const WEB: u16 = 9800;
const PAGE: u16 = 9801;
const OTHER: u16 = 9802;
const SETTLED: Duration = Duration::from_secs(15);
const STOPPED: Duration = Duration::from_secs(8);
/// What somebody changed by hand is set right within that.
const REPAIRED: Duration = Duration::from_secs(2);
const REQUESTS: usize = 400;
const TABLE: &str = "sidecar_7946";

fn target(name: &str, mode: &str, port: u16, service_port: u16, weight: u8) -> Value {
    json!({
        "Service": {
            "Name": name,
            "ProxyMode": mode,
            "Weight": weight,
            "Ports": [{ "Type": "tcp", "Port": port, "ServicePort": service_port }],
        },
        "Check": { "Type": "AlwaysSuccessful" },
    })
}

fn responder(host: &Arc<Host>, port: u16, name: &str) -> Responder {
    let responder = Responder::start(host, (Ipv4Addr::UNSPECIFIED, port).into());
    responder.set("/", Answer::ok(name));
    responder
}

fn kernel<'a>(lab: &'a Lab, host: usize, services: &[Value]) -> AgentBuilder<'a> {
    require("nft");
    AgentBuilder::new(lab, host)
        .env("SIDECAR_PROXY", "kernel")
        .services(services)
}

/// Gives a running agent other services.
fn change(lab: &Lab, agent: &mut Agent, services: &[Value]) {
    let name = format!("static-{}.json", agent.host.name);
    lab.write(&name, &Value::from(services.to_vec()).to_string());
    agent.signal(Signal::HUP);
}

/// What the agent says of the kernel's rules.
fn status(agent: &Agent) -> Result<Value, String> {
    let answer = agent.api("/api/v2/local").map_err(|it| it.to_string())?;
    let local: Value = serde_json::from_str(&answer.body).map_err(|it| it.to_string())?;
    Ok(local["kernel"].clone())
}

fn number(agent: &Agent, field: &str) -> Result<u64, String> {
    status(agent)?[field]
        .as_u64()
        .ok_or_else(|| format!("no {field}"))
}

fn is_ready(agent: &Agent) {
    eventually("the agent is ready", SETTLED, || {
        let answer = agent.api("/ready").map_err(|it| it.to_string())?;
        (answer.status == 200).then_some(()).ok_or(answer.body)
    });
}

fn table(host: &Host) -> Result<String, String> {
    host.try_said(&["nft", "-a", "list", "table", "inet", TABLE])
}

/// Whether exactly these answer.
fn served_by(host: &Host, port: u16, wanted: &[&str]) -> Result<(), String> {
    let counts = host.answers(port, wanted.len() * 8)?;
    if counts.keys().eq(wanted.iter()) {
        return Ok(());
    }
    Err(format!("{} gets {counts:?}, not {wanted:?}", host.name))
}

/// How many of so many requests get this answer.
fn share(host: &Host, port: u16, name: &str) -> usize {
    let answers = host.answers(port, REQUESTS);
    let answers = answers.expect("all requests are answered");
    answers.get(name).copied().unwrap_or_default()
}

/// A connection that stays.
#[derive(Debug)]
struct Held(TcpStream);

impl Held {
    fn open(host: &Host, port: u16) -> (Self, String) {
        let mut held = Self(host.connect((PROXY_IP, port).into()).expect("a connection"));
        let name = held.ask().expect("an answer");
        (held, name)
    }

    /// One that leads to this instance.
    fn to(host: &Host, port: u16, name: &str) -> Self {
        for _ in 0..64 {
            let (held, found) = Self::open(host, port);
            if found == name {
                return held;
            }
        }
        panic!("no connection leads to {name}");
    }

    /// One request more.
    fn ask(&mut self) -> io::Result<String> {
        self.0.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte)?;
            head.extend(byte);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let length = head.split("Content-Length: ").nth(1);
        let length = length.and_then(|it| it.split("\r\n").next()?.parse().ok());
        let mut body = vec![0; length.expect("a length")];
        self.0.read_exact(&mut body)?;
        Ok(String::from_utf8_lossy(&body).trim_end().to_owned())
    }

    fn goes_on(&mut self, name: &str) {
        assert_eq!(self.ask().expect("it goes on"), name);
    }

    fn is_cut(&mut self) {
        eventually("the connection is reset", SETTLED, || {
            match self.ask() {
                Ok(answer) => Err(format!("{answer} answers")),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
                // What was reset before is not reset again.
                Err(error) => panic!("{error:?} instead of a reset"),
            }
        });
    }
}

#[test]
fn clients_on_a_host_and_behind_it_are_translated_by_weight() {
    let lab = Lab::new(Machine::Shared, &["near", "far"]);
    let hosts = lab.hosts();
    let _responders = [
        responder(lab.host(0), 8300, "near"),
        responder(lab.host(1), 8300, "far"),
        responder(lab.host(0), 8301, "page"),
    ];
    let agents = [
        kernel(
            &lab,
            0,
            &[
                target("web", "tcp", 8300, WEB, 10),
                target("page", "http", 8301, PAGE, 1),
            ],
        )
        .start(),
        kernel(&lab, 1, &[target("web", "tcp", 8300, WEB, 30)]).start(),
    ];
    let behind = lab.behind(0);
    let clients = [hosts[0].clone(), hosts[1].clone(), behind];
    for client in &clients {
        eventually("both are reached", SETTLED, || {
            served_by(client, WEB, &["far", "near"])?;
            served_by(client, PAGE, &["page"])
        });
    }
    for client in &clients {
        let count = share(client, WEB, "near");
        assert!((90..=110).contains(&count), "{}: {count}", client.name);
        let closed = client.expect_route(OTHER, &Route::Closed);
        closed.expect("nobody offers that");
    }

    // Who carries what: the kernel the one, the built-in proxy the other.
    let table = table(&hosts[0]).expect("there is a table");
    assert!(table.contains(&format!("{WEB} . ")), "{table}");
    assert!(!table.contains(&format!("{PAGE} ")), "{table}");
    let listening = agents[0].metrics("sidecar_proxy_listening").unwrap();
    assert_eq!(listening.len(), 1, "{listening:?}");
    assert!(
        listening.keys().all(|it| it.contains("page")),
        "{listening:?}"
    );

    eventually("connections are counted", SETTLED, || {
        let counted = agents[0].metrics("sidecar_kernel_connections_total")?;
        let far = counted.iter().find(|(it, _)| it.contains("10.88.0.2:8300"));
        let far = far.map_or(0.0, |(_, count)| *count);
        let bytes = agents[0].metrics("sidecar_kernel_bytes_total")?;
        (far >= 580.0 && bytes.values().all(|it| *it > 10_000.0))
            .then_some(())
            .ok_or_else(|| format!("{counted:?} {bytes:?}"))
    });
}

#[test]
fn changes_fail_no_request_and_break_no_connection_but_of_the_dead() {
    let lab = Lab::new(Machine::Alone, &["solo"]);
    let host = lab.host(0).clone();
    let behind = lab.behind(0);
    let _responders = [
        responder(&host, 8300, "first"),
        responder(&host, 8301, "second"),
        responder(&host, 8302, "other"),
    ];
    let first = target("web", "tcp", 8300, WEB, 1);
    let second = target("web", "tcp", 8301, WEB, 1);
    let other = target("other", "tcp", 8302, OTHER, 1);
    let mut agent = kernel(&lab, 0, &[first.clone(), second.clone(), other.clone()]).start();
    eventually("all are there", SETTLED, || {
        served_by(&host, WEB, &["first", "second"])?;
        served_by(&host, OTHER, &["other"])
    });
    let mut of_first = [&host, &behind].map(|it| Held::to(it, WEB, "first"));
    let mut of_second = [&host, &behind].map(|it| Held::to(it, WEB, "second"));
    let mut of_other = [&host, &behind].map(|it| Held::to(it, OTHER, "other"));

    let mut drained = String::new();
    let requests = under_load(&host, &[WEB, OTHER], || {
        for weight in [3, 7, 1] {
            let heavier = target("web", "tcp", 8300, WEB, weight);
            change(&lab, &mut agent, &[heavier, second.clone(), other.clone()]);
            eventually("turns are as the weight says", SETTLED, || {
                let table = table(&host)?;
                let turns = format!("numgen inc mod {} ", weight + 1);
                table.contains(&turns).then_some(()).ok_or(table)
            });
        }
        let id = agent.instances("web").expect("it answers")[0].id.clone();
        let path = format!("/api/services/{id}/drain");
        let request = Request {
            method: "POST",
            ..Request::get(&path)
        };
        let answer = host.request(agent.api_address(), &request);
        assert_eq!(answer.expect("an answer").status, 202);
        eventually("one of them gets no more", SETTLED, || {
            let counts = host.answers(WEB, 8)?;
            (counts.len() == 1)
                .then_some(())
                .ok_or_else(|| format!("{counts:?}"))
        });
        let counts = host.answers(WEB, 1).expect("an answer");
        drained = if counts.contains_key("first") {
            "second"
        } else {
            "first"
        }
        .to_owned();
    });
    println!("{requests} requests, none failed");
    for held in &mut of_first {
        held.goes_on("first");
    }
    for held in &mut of_second {
        held.goes_on("second");
    }
    let (left, mut gone, mut staying) = if drained == "first" {
        (second, of_first, of_second)
    } else {
        (first, of_second, of_first)
    };
    // The container is gone: its records are tombstones.
    change(&lab, &mut agent, &[left, other]);
    for held in &mut gone {
        held.is_cut();
    }
    for held in staying.iter_mut().chain(&mut of_other) {
        held.ask().expect("it goes on");
    }
    assert_eq!(number(&agent, "dead_endpoints"), Ok(1));
}

#[test]
fn connections_to_the_dead_are_cut_and_those_who_return_are_served() {
    let lab = Lab::new(Machine::Shared, &["near", "far"]);
    let _responder = responder(lab.host(1), 8300, "far");
    let near = kernel(&lab, 0, &[]).start();
    let web = target("web", "tcp", 8300, WEB, 1);
    let mut far = kernel(&lab, 1, std::slice::from_ref(&web)).start();
    let clients = [lab.host(0).clone(), lab.behind(0)];
    eventually("the service is reached", SETTLED, || {
        clients
            .iter()
            .try_for_each(|it| served_by(it, WEB, &["far"]))
    });
    let mut held = clients.each_ref().map(|it| Held::to(it, WEB, "far"));
    change(&lab, &mut far, &[]);
    for held in &mut held {
        held.is_cut();
    }
    eventually("the port is closed", SETTLED, || {
        clients
            .iter()
            .try_for_each(|it| it.expect_route(WEB, &Route::Closed))
    });
    assert_eq!(number(&near, "dead_endpoints"), Ok(1));

    change(&lab, &mut far, &[web]);
    eventually("the service is back", SETTLED, || {
        clients
            .iter()
            .try_for_each(|it| served_by(it, WEB, &["far"]))
    });
    let mut held = clients.each_ref().map(|it| Held::to(it, WEB, "far"));
    eventually("nobody counts as dead", SETTLED, || {
        let dead = number(&near, "dead_endpoints")?;
        (dead == 0).then_some(()).ok_or_else(|| dead.to_string())
    });
    // A host that dies says nothing of its services.
    lab.cable(1, false);
    eventually("the host counts as dead", SETTLED, || {
        let dead = number(&near, "dead_endpoints")?;
        (dead == 1).then_some(()).ok_or_else(|| dead.to_string())
    });
    for held in &mut held {
        held.is_cut();
    }
}

#[test]
fn rules_outlive_an_agent_that_does_not_leave() {
    let lab = Lab::new(Machine::Alone, &["solo"]);
    let host = lab.host(0).clone();
    let _responders = [
        responder(&host, 8300, "web"),
        responder(&host, 8301, "page"),
    ];
    let services = [
        target("web", "tcp", 8300, WEB, 1),
        target("page", "http", 8301, PAGE, 1),
    ];
    let mut agent = kernel(&lab, 0, &services).start();
    eventually("both are reached", SETTLED, || {
        served_by(&host, WEB, &["web"])?;
        served_by(&host, PAGE, &["page"])
    });
    is_ready(&agent);
    // Handles tell rules and chains from others that look the same; counters differ.
    let rules = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|it| it.contains("# handle"));
        lines.map(str::to_owned).collect()
    };
    let before = rules(&table(&host).expect("there is a table"));
    let mut held = Held::to(&host, WEB, "web");
    let requests = under_load(&host, &[WEB, PAGE], || {
        for signal in [None, Some(Signal::USR1), None] {
            match signal {
                None => agent.kill(),
                Some(signal) => {
                    agent.signal(signal);
                    assert_eq!(agent.ends(STOPPED).0, Exit::Code(0));
                }
            }
            throughout("the service is reached", Duration::from_secs(1), || {
                served_by(&host, WEB, &["web"])
            });
            agent.restart();
            is_ready(&agent);
            eventually("the rules are taken over", SETTLED, || {
                let state = status(&agent)?["state"].clone();
                (state == "applied")
                    .then_some(())
                    .ok_or_else(|| state.to_string())
            });
        }
    });
    println!("{requests} requests, none failed");
    held.goes_on("web");
    assert_eq!(rules(&table(&host).expect("there is a table")), before);
    assert_eq!(number(&agent, "transactions"), Ok(0));

    // Another data plane takes the rules away, and the goodbye does, too.
    agent.kill();
    agent.set("SIDECAR_PROXY", "builtin");
    agent.restart();
    eventually("the built-in proxy serves", SETTLED, || {
        served_by(&host, WEB, &["web"])?;
        let listening = agent.metrics("sidecar_proxy_listening")?;
        (listening.len() == 2)
            .then_some(())
            .ok_or_else(|| format!("{listening:?}"))
    });
    assert!(table(&host).is_err());
    agent.kill();
    agent.set("SIDECAR_PROXY", "kernel");
    agent.restart();
    let requests = under_load(&host, &[WEB, PAGE], || {
        eventually("the kernel serves again", SETTLED, || {
            let listening = agent.metrics("sidecar_proxy_listening")?;
            (listening.len() == 1)
                .then_some(())
                .ok_or_else(|| format!("{listening:?}"))
        });
        // From one data plane to the other and back.
        for (mode, count) in [("http", 2), ("tcp", 1)] {
            let web = target("web", mode, 8300, WEB, 1);
            change(&lab, &mut agent, &[web, services[1].clone()]);
            eventually("the other data plane serves", SETTLED, || {
                let listening = agent.metrics("sidecar_proxy_listening")?;
                let in_kernel = number(&agent, "services")?;
                (listening.len() == count && in_kernel == 2 - count as u64)
                    .then_some(())
                    .ok_or_else(|| format!("{listening:?} {in_kernel}"))
            });
        }
    });
    println!("{requests} requests from plane to plane, none failed");
    agent.signal(Signal::TERM);
    assert_eq!(agent.ends(STOPPED).0, Exit::Code(0));
    assert!(table(&host).is_err());
    host.expect_route(WEB, &Route::Closed)
        .expect("nobody serves");
}

#[test]
fn what_is_changed_by_hand_is_set_right() {
    let lab = Lab::new(Machine::Alone, &["solo"]);
    let host = lab.host(0).clone();
    let _responders = [
        responder(&host, 8300, "first"),
        responder(&host, 8301, "second"),
    ];
    let services = [8300, 8301].map(|port| target("web", "tcp", port, WEB, 1));
    let agent = kernel(&lab, 0, &services).start();
    eventually("both are reached", SETTLED, || {
        served_by(&host, WEB, &["first", "second"])
    });
    is_ready(&agent);
    let mut held = Held::to(&host, WEB, "second");
    let own = format!("inet {TABLE}");
    for command in [
        format!("flush table {own}"),
        "flush ruleset".to_owned(),
        format!("delete table {own}"),
        format!("flush map {own} first"),
        format!("flush map {own} turns{}", WEB % 64),
        format!("flush map {own} services"),
        format!("flush set {own} live"),
        format!("flush chain {own} p{WEB}"),
        format!("add rule {own} p{WEB} drop"),
        format!("insert rule {own} route drop"),
        format!("insert rule {own} guard drop"),
        format!("add chain {own} mine"),
        format!("add element {own} dead {{ {WEB} . {} . 8301 }}", host.ip),
        format!("add table {own} {{ flags dormant; }}"),
    ] {
        host.said(&["nft", "add", "table", "ip", "others"]);
        let before = number(&agent, "repairs").expect("it answers");
        host.said(&["nft", &command]);
        eventually(&format!("after `{command}`"), REPAIRED, || {
            let repairs = number(&agent, "repairs")?;
            (repairs > before)
                .then_some(())
                .ok_or_else(|| "no repair".to_owned())
        });
        served_by(&host, WEB, &["first", "second"]).expect(&command);
        held.goes_on("second");
        let others = host.try_said(&["nft", "list", "table", "ip", "others"]);
        assert_eq!(others.is_ok(), command != "flush ruleset", "{command}");
    }
    // What others do with tables of their own is no reason to do anything.
    let before = number(&agent, "transactions");
    let generation = |_: usize| host.said(&["nft", "add", "table", "ip", "theirs"]);
    (0..20).map(generation).for_each(drop);
    throughout("nothing is done", Duration::from_secs(2), || {
        let now = number(&agent, "transactions");
        (now == before)
            .then_some(())
            .ok_or_else(|| format!("{now:?}"))
    });
}

#[test]
fn without_the_privilege_the_built_in_proxy_serves_everything() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let host = lab.host(0).clone();
    let _responder = responder(&host, 8300, "web");
    host.said(&["ip", "address", "add", "192.168.168.168/32", "dev", "lo"]);
    let file = lab.write(
        "services.json",
        &json!([target("web", "tcp", 8300, WEB, 1)]).to_string(),
    );
    let file = format!("STATIC_CONFIG_FILE={}", file.display());
    let advertise = format!("SIDECAR_ADVERTISE_IP={}", host.ip);
    let program = sidecar().display().to_string();
    let mut command = vec!["setpriv", "--bounding-set", "-net_admin", "--", "env"];
    command.extend([
        "SIDECAR_PROXY=kernel",
        "SIDECAR_DISCOVERY=static",
        &file,
        &advertise,
    ]);
    command.push(&program);
    let agent = lab.program(0, "unprivileged", &command);
    eventually("the service is reached", SETTLED, || {
        served_by(&host, WEB, &["web"])
    });
    assert_eq!(agent.mentions("NET_ADMIN"), 1, "{}", agent.log());
    assert!(table(&host).is_err());
}

#[test]
fn other_address_families_and_bind_addresses_are_served_by_whoever_can() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let host = lab.host(0).clone();
    let _responder = Responder::start(&host, "[::]:8300".parse().unwrap());
    host.said(&[
        "ip",
        "address",
        "add",
        "fd00:88::1/64",
        "dev",
        "eth0",
        "nodad",
    ]);
    for (bind, advertise, by_kernel) in [
        ("fd00::168", "fd00:88::1", 1),
        ("192.168.168.168", "fd00:88::1", 0),
        ("0.0.0.0", "10.88.0.1", 0),
    ] {
        let mut agent = kernel(&lab, 0, &[target("web", "tcp", 8300, WEB, 1)])
            .env("SIDECAR_BIND_IP", bind)
            .env("SIDECAR_ADVERTISE_IP", advertise)
            .env("SIDECAR_GOSSIP_BIND_IP", "::")
            .start();
        let at: SocketAddr = (bind.parse::<std::net::IpAddr>().unwrap(), WEB).into();
        eventually("the service is reached", SETTLED, || {
            let answer = host.get(at, "/").map_err(|it| it.to_string())?;
            let services = number(&agent, "services")?;
            (answer.status == 200 && services == by_kernel)
                .then_some(())
                .ok_or_else(|| format!("{} {services}", answer.status))
        });
        agent.signal(Signal::TERM);
        agent.ends(STOPPED);
    }
}

fn run_container(engine: &Engine, name: &str, labels: &[&str]) {
    let mut command = vec![
        "run",
        "--name",
        name,
        "-P",
        "-d",
        "-l",
        "HealthCheck=AlwaysSuccessful",
    ];
    command.extend(labels.iter().flat_map(|it| ["-l", it]));
    command.push(IMAGE);
    engine.docker(&command);
}

/// A container that others publish is reached from the host and from another container.
fn a_published_port_is_reached(options: &[&str], by_kernel: u64) {
    let lab = Lab::new(Machine::Shared, &["dock"]);
    let host = lab.host(0).clone();
    let engine = Engine::start_with(&lab, &host, "container\n", options);
    let agent = AgentBuilder::new(&lab, 0)
        .env("SIDECAR_PROXY", "kernel")
        .env("SIDECAR_DISCOVERY", "docker")
        .env("DOCKER_URL", &engine.url())
        .start();
    let labels = ["ServiceName=web", "ServicePort_80=9800", "ProxyMode=tcp"];
    run_container(&engine, "web", &labels);
    run_container(&engine, "client", &["SidecarDiscover=false"]);
    eventually("the host reaches it", SETTLED, || {
        served_by(&host, WEB, &["container"])?;
        let services = number(&agent, "services")?;
        (services == by_kernel)
            .then_some(())
            .ok_or_else(|| services.to_string())
    });
    let url = format!("http://{PROXY_IP}:{WEB}/");
    for client in ["client", "web"] {
        let answer = engine.docker(&["exec", client, "/bin/busybox", "wget", "-qO-", &url]);
        assert_eq!(answer, "container", "{client}");
    }
}

#[test]
fn a_port_that_docker_publishes_is_translated() {
    a_published_port_is_reached(&[], 1);
}

#[test]
fn a_port_that_docker_only_translates_is_left_to_the_built_in_proxy() {
    a_published_port_is_reached(&["--userland-proxy=false"], 0);
}
