//! A real Envoy that an agent feeds.

#![cfg(target_os = "linux")]

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use blackbox::{
    Agent, AgentBuilder, Answer, Bootstrap, Envoy, GOSSIP_PORT, Host, Lab, LegacyPeer, LegacyPort,
    Machine, Network, PROXY_IP, Request, Responder, Route, Status, Timing, echo, envoy_status,
    eventually, haproxy_target, sidecar, upgrade, websocket_echo,
};
use rustix::process::Signal;
use serde_json::Value;

/// The machine may be busy, and Envoy takes a second or two to start.
const SOON: Duration = Duration::from_secs(20);
const HOST: &str = "solo";
const FILE: &str = "static-solo.json";
const WEB: u16 = 10001;
const DB: u16 = 10002;
const CHAT: u16 = 10003;

fn at(host: &Host, port: u16) -> SocketAddr {
    (host.ip, port).into()
}

fn web(host: &Arc<Host>, port: u16, text: &str) -> Responder {
    let responder = Responder::start(host, at(host, port));
    responder.set("/", Answer::ok(text));
    responder
}

/// What comes back of a few bytes.
fn echoed(stream: &mut TcpStream) -> Result<(), String> {
    let said = b"are you there?";
    let mut heard = [0; 14];
    stream
        .write_all(said)
        .and_then(|()| stream.read_exact(&mut heard))
        .map_err(|error| error.to_string())?;
    (heard == *said)
        .then_some(())
        .ok_or_else(|| "something else".to_owned())
}

fn connected(host: &Host, port: u16) -> Result<TcpStream, String> {
    let stream = host.connect((PROXY_IP, port).into());
    let mut stream = stream.map_err(|error| error.to_string())?;
    echoed(&mut stream)?;
    Ok(stream)
}

/// Somebody who asks for `web` all the time.
struct Asking {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<(usize, Vec<String>)>,
}

impl Asking {
    fn start(host: &Arc<Host>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (host, stopped) = (Arc::clone(host), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let answer = Route::Answer("web".to_owned());
            let (mut asked, mut failures) = (0, Vec::new());
            while !stopped.load(Ordering::SeqCst) {
                asked += 1;
                failures.extend(host.expect_route(WEB, &answer).err());
                thread::sleep(blackbox::POLL);
            }
            (asked, failures)
        });
        Self { stop, thread }
    }

    /// How often it has asked, and what went wrong.
    fn stop(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("it does not panic")
    }
}

fn fed<'lab>(lab: &'lab Lab, targets: &[Value]) -> AgentBuilder<'lab> {
    let agent = AgentBuilder::new(lab, 0).without("SIDECAR_SEEDS");
    agent.services(targets).env("SIDECAR_PROXY", "envoy")
}

fn change(lab: &Lab, agent: &mut Agent, targets: &[Value]) {
    lab.write(FILE, &Value::from(targets.to_vec()).to_string());
    agent.signal(Signal::HUP);
}

/// What `sidecar doctor` finds.
fn examined(host: &Host) -> String {
    let program = sidecar().display().to_string();
    let output = host.run(&[&program, "doctor"]);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn services_of_every_mode_are_reached_whichever_bootstrap_envoy_has() {
    for (bootstrap, protocol) in [
        (Bootstrap::ours(), "delta"),
        (Bootstrap::ours_sotw(), "sotw"),
        (Bootstrap::as_users_have_it(HOST), "sotw"),
    ] {
        let lab = Lab::new(Machine::Shared, &[HOST]);
        let host = lab.host(0);
        let _web = web(host, 8001, "web");
        let _late = web(host, 8004, "late");
        echo(host, at(host, 8002));
        websocket_echo(host, at(host, 8003));
        let targets = [
            haproxy_target("web", "http", 8001, WEB),
            haproxy_target("db", "tcp", 8002, DB),
            haproxy_target("chat", "ws", 8003, CHAT),
        ];
        // With nothing to serve Envoy is up at once, and does not wait 15 s for a first word.
        let mut agent = fed(&lab, &[]).start();
        let told = examined(host);
        assert!(told.contains("no Envoy is connected"), "{told}");
        let envoy = Envoy::start(&lab, 0, &bootstrap);
        eventually("Envoy is up", Duration::from_secs(10), || {
            let state = Envoy::admin(host, "/ready")?;
            state.starts_with("LIVE").then_some(()).ok_or(state)
        });
        change(&lab, &mut agent, &targets);
        let answer = Route::Answer("web".to_owned());
        eventually("http is reached", SOON, || host.expect_route(WEB, &answer));
        eventually("tcp is reached", SOON, || connected(host, DB).map(drop));
        let mut chat = eventually("ws is reached", SOON, || {
            host.connect((PROXY_IP, CHAT).into())
                .map_err(|error| error.to_string())
        });
        upgrade(&mut chat);
        echoed(&mut chat).expect("a WebSocket carries bytes");

        let mut stream = connected(host, DB).expect("tcp is reached");
        let late = haproxy_target("late", "http", 8004, 10004);
        change(
            &lab,
            &mut agent,
            &[targets[1].clone(), targets[2].clone(), late],
        );
        let answer = Route::Answer("late".to_owned());
        eventually("a new service is reached", SOON, || {
            host.expect_route(10004, &answer)
        });
        eventually("one that is gone is not", SOON, || {
            host.expect_route(WEB, &Route::Closed)
        });
        echoed(&mut stream).expect("changes of others do not concern a connection");
        echoed(&mut chat).expect("changes of others do not concern a WebSocket");

        let status = envoy_status(&agent).expect("it answers");
        assert_eq!(status["streams"][0]["protocol"], protocol, "{status}");
        assert_eq!(status["nacks"], serde_json::json!({}), "{}", envoy.log());
        let late = Envoy::statistic(host, "cluster_manager.warming_clusters");
        assert_eq!(late, Ok(0));
        let told = examined(host);
        assert!(told.contains("1 connected"), "{told}");
    }
}

#[test]
fn envoy_goes_on_while_its_agent_is_away_and_hears_of_it_when_it_is_back() {
    let lab = Lab::new(Machine::Shared, &[HOST]);
    let host = lab.host(0);
    let _web = web(host, 8001, "web");
    let _late = web(host, 8004, "late");
    let targets = [haproxy_target("web", "http", 8001, WEB)];
    let mut agent = fed(&lab, &targets).start();
    let _envoy = Envoy::start(&lab, 0, &Bootstrap::ours());
    let answer = Route::Answer("web".to_owned());
    eventually("the service is reached", SOON, || {
        host.expect_route(WEB, &answer)
    });
    let updates = || Envoy::statistic(host, "cluster_manager.cluster_modified");
    let before = updates().expect("it answers");

    let asking = Asking::start(host);
    agent.kill();
    let late = haproxy_target("late", "http", 8004, 10004);
    lab.write(
        FILE,
        &Value::from(vec![targets[0].clone(), late]).to_string(),
    );
    agent.restart();
    let answer = Route::Answer("late".to_owned());
    eventually("Envoy hears of what is new", SOON, || {
        host.expect_route(10004, &answer)
    });
    let (asked, failures) = asking.stop();
    assert!(asked > 0 && failures.is_empty(), "{failures:?} of {asked}");
    assert_eq!(updates(), Ok(before), "what did not change was told again");
    assert_eq!(
        Envoy::statistic(host, "cluster_manager.warming_clusters"),
        Ok(0)
    );
}

#[test]
fn a_poisoned_record_costs_its_own_service_alone() {
    let lab = Lab::new(Machine::Shared, &[HOST, "legacy"]);
    let host = lab.host(0);
    let legacy = lab.host(1);
    let _web = web(host, 8001, "web");
    let _odd = web(legacy, 8005, "odd");
    // Somebody has a port that a service wants.
    let _squatter = host.listen((std::net::Ipv4Addr::UNSPECIFIED, 10077).into());
    let mut peer = LegacyPeer::start(Network::Host(Arc::clone(legacy)), "lab", Timing::GO);
    let odd = "we\"ird'{}<script>$(id) %n ../ü\u{202e}:80,web:10001";
    for (id, service, mode, service_port) in [
        ("3f2a9c0d77e1", "badmode", "smtp", 10005),
        ("3f2a9c0d77e2", "squatted", "http", 10077),
        ("3f2a9c0d77e3", odd, "http", 10006),
        ("3f2a9c0d77e4", "far", "http", 10007),
    ] {
        peer.offer_with(id, service, Status::Alive, |record| {
            mode.clone_into(&mut record.proxy_mode);
            record.ports = Some(vec![LegacyPort {
                kind: "tcp".to_owned(),
                port: 8005,
                service_port,
                ip: legacy.ip.to_string(),
            }]);
        });
    }
    let agent = fed(&lab, &[haproxy_target("web", "http", 8001, WEB)]).start();
    let envoy = Envoy::start(&lab, 0, &Bootstrap::ours());
    eventually("the legacy peer joins", SOON, || {
        peer.join((host.ip, GOSSIP_PORT).into())
    });
    for (port, text) in [(WEB, "web"), (10006, "odd"), (10007, "odd")] {
        let answer = Route::Answer(text.to_owned());
        eventually("good services are reached", SOON, || {
            host.expect_route(port, &answer)
        });
    }
    eventually("a service without a known mode is not", SOON, || {
        host.expect_route(10005, &Route::Closed)
    });
    let status = eventually("what Envoy refuses is shown", SOON, || {
        let status = envoy_status(&agent)?;
        let rejected = &status["rejected"];
        (rejected[0]["name"] == "squatted:10077" && status["streams"][0]["settled"] == true)
            .then(|| status.clone())
            .ok_or_else(|| status.to_string())
    });
    assert_eq!(
        status["rejected"].as_array().map(Vec::len),
        Some(1),
        "{status}"
    );
    let words = status["rejected"][0]["words"].as_str().unwrap_or_default();
    assert!(words.contains("10077"), "{words}");
    let told = examined(host);
    assert!(told.contains("listener squatted:10077"), "{told}");
    let metrics = agent.metrics("sidecar_envoy_rejected").expect("it answers");
    assert_eq!(metrics["sidecar_envoy_rejected{kind=\"listener\"}"], 1.0);
    assert_eq!(
        agent.mentions("Envoy does not take a resource"),
        1,
        "{}",
        envoy.log()
    );
}

#[test]
fn an_instance_that_drains_keeps_its_connections_and_gets_no_new_ones() {
    let lab = Lab::new(Machine::Shared, &[HOST]);
    let host = lab.host(0);
    for port in [8002, 8003] {
        echo(host, at(host, port));
    }
    let mut other = haproxy_target("db", "tcp", 8003, DB);
    other["Service"]["Hostname"] = "elsewhere".into();
    let agent = fed(&lab, &[haproxy_target("db", "tcp", 8002, DB), other]).start();
    let _envoy = Envoy::start(&lab, 0, &Bootstrap::ours());
    eventually("the service is reached", SOON, || {
        connected(host, DB).map(drop)
    });
    let mut streams: Vec<_> = (0..10)
        .map(|_| connected(host, DB).expect("it is reached"))
        .collect();
    let instances = agent.instances("db").expect("it answers");
    let own = instances
        .iter()
        .find(|it| it.host == HOST)
        .expect("it is listed");
    let path = format!("/api/services/{}/drain", own.id);
    let answer = host
        .request(agent.api_address(), &Request::post(&path))
        .expect("it answers");
    assert_eq!(answer.status, 202);
    let endpoint = format!("db:{DB}::{}:8002::", host.ip);
    let field = |name: &str| -> Result<String, String> {
        let clusters = Envoy::admin(host, "/clusters")?;
        let prefix = format!("{endpoint}{name}::");
        let value = clusters.lines().find_map(|line| line.strip_prefix(&prefix));
        value.map(str::to_owned).ok_or(clusters)
    };
    eventually("Envoy knows that it drains", SOON, || {
        let flags = field("health_flags")?;
        flags.contains("eds").then_some(()).ok_or(flags)
    });
    let before = field("cx_total").expect("it is there");
    streams.extend((0..10).map(|_| connected(host, DB).expect("it is reached")));
    assert_eq!(field("cx_total"), Ok(before), "it gets no new connections");
    for stream in &mut streams {
        echoed(stream).expect("it keeps those it has");
    }
}

#[test]
fn settings_of_services_reach_envoy_and_are_read_again() {
    let lab = Lab::new(Machine::Shared, &[HOST]);
    let host = lab.host(0);
    let _web = web(host, 8001, "web");
    echo(host, at(host, 8002));
    let targets = [
        haproxy_target("web", "http", 8001, WEB),
        haproxy_target("db", "tcp", 8002, DB),
    ];
    let all = |connections: u32| {
        serde_json::json!({ "*": {
            "connect_timeout": "1s", "request_timeout": "30s", "idle_timeout": "10m",
            "max_connections": connections, "max_pending_requests": 5, "max_requests": 6,
            "max_retries": 2, "max_requests_per_connection": 100,
            "outlier_detection": {
                "consecutive_5xx": 5, "consecutive_gateway_failure": 4, "interval": "10s",
                "base_ejection_time": "30s", "max_ejection_percent": 50,
            },
        } })
    };
    let file = lab.write("settings.json", &all(7001).to_string());
    let file = file.display().to_string();
    let agent = fed(&lab, &targets).env("SIDECAR_ENVOY_SETTINGS_FILE", &file);
    let agent = agent.start();
    let _envoy = Envoy::start(&lab, 0, &Bootstrap::ours());
    let answer = Route::Answer("web".to_owned());
    for connections in [7001, 7002] {
        lab.write("settings.json", &all(connections).to_string());
        eventually("Envoy has the settings", SOON, || {
            let clusters = Envoy::admin(host, "/clusters")?;
            let is_so = |service: &str, port: u16| {
                let line =
                    format!("{service}:{port}::default_priority::max_connections::{connections}");
                clusters.contains(&line)
            };
            (is_so("web", WEB) && is_so("db", DB))
                .then_some(())
                .ok_or_else(|| clusters.clone())
        });
        eventually("http is reached", SOON, || host.expect_route(WEB, &answer));
        eventually("tcp is reached", SOON, || connected(host, DB).map(drop));
    }
    let status = envoy_status(&agent).expect("it answers");
    assert_eq!(status["nacks"], serde_json::json!({}), "{status}");
}

#[test]
fn envoy_is_served_where_the_environment_says_and_not_at_all_when_it_says_so() {
    let lab = Lab::new(Machine::Shared, &[HOST]);
    let host = lab.host(0);
    let _web = web(host, 8001, "web");
    let targets = [haproxy_target("web", "http", 8001, WEB)];
    let bind = "192.168.168.170";
    let agent = AgentBuilder::new(&lab, 0)
        .without("SIDECAR_SEEDS")
        .services(&targets)
        .env("HAPROXY_DISABLE", "true")
        .env("ENVOY_GRPC_PORT", "7790")
        .env("ENVOY_BIND_IP", bind)
        .env("ENVOY_USE_HOSTNAMES", "true")
        .start();
    let _envoy = Envoy::start(&lab, 0, &Bootstrap::as_users_have_it(HOST).at_port(7790));
    let address: SocketAddr = format!("{bind}:{WEB}").parse().expect("an address");
    eventually("the service is reached at Envoy's address", SOON, || {
        let answer = host.get(address, "/").map_err(|error| error.to_string())?;
        (answer.body.trim_end() == "web")
            .then_some(())
            .ok_or(answer.body)
    });
    let is_closed = |port: u16| {
        host.connect((std::net::Ipv4Addr::LOCALHOST, port).into())
            .is_err()
    };
    assert!(is_closed(7776) && !is_closed(7790));
    drop(agent);

    let agent = fed(&lab, &targets)
        .env("ENVOY_USE_GRPC_API", "false")
        .start();
    assert!(is_closed(7776));
    assert_eq!(envoy_status(&agent), Ok(Value::Null));
}
