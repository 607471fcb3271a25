//! Runtime mode: the real HAProxy, driven over its admin socket by the real agent.

#![cfg(target_os = "linux")]

use std::{
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::{Duration, Instant},
};

use blackbox::{
    Agent, AgentBuilder, Answer, Host, Lab, Machine, PROXY_IP, Responder, Route, echo, eventually,
    haproxy_status as status, haproxy_target as service, throughout, upgrade, websocket_echo,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// An edit of the file is seen within a second; the machine may be busy.
const SEEN: Duration = Duration::from_secs(10);
/// How soon what was changed by hand has to be right again.
const REPAIRED: Duration = Duration::from_secs(2);
const FILE: &str = "services.json";

/// HAProxy in its runtime directory, which ends with the test.
struct Haproxy {
    dir: PathBuf,
    _processes: blackbox::Haproxy,
}

impl Haproxy {
    fn of(lab: &Lab) -> Self {
        let processes = blackbox::Haproxy::new(lab, "run");
        Self {
            dir: processes.dir().to_owned(),
            _processes: processes,
        }
    }

    /// What HAProxy answers on its admin socket.
    fn ask(&self, command: &str) -> Result<String, String> {
        let talk = || {
            let mut stream = UnixStream::connect(self.dir.join("admin.sock"))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(format!("{command}\n").as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            io::Result::Ok(answer.trim().to_owned())
        };
        talk().map_err(|error| error.to_string())
    }

    /// The worker that serves.
    fn worker(&self) -> Result<i32, String> {
        let info = self.ask("show info")?;
        let pid = info.lines().find_map(|line| line.strip_prefix("Pid: "));
        pid.and_then(|pid| pid.parse().ok()).ok_or(info)
    }

    fn master(&self) -> Result<i32, String> {
        let text = fs::read_to_string(self.dir.join("haproxy.pid"));
        let text = text.map_err(|error| error.to_string())?;
        text.trim().parse().map_err(|_| text)
    }

    fn signal(pid: i32, signal: Signal) {
        let pid = Pid::from_raw(pid).expect("a process id");
        kill_process(pid, signal).expect("it can be signalled");
    }

    /// Whether nobody runs under the master's number any more.
    fn has_ended(pid: i32) -> Result<(), String> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        match stat.rsplit_once(") ") {
            Some((_, rest)) if !rest.starts_with('Z') => Err(format!("{pid} runs")),
            _ => Ok(()),
        }
    }
}

fn edit(lab: &Lab, services: &[Value]) {
    lab.write(FILE, &Value::from(services.to_vec()).to_string());
}

fn agent(lab: &Lab) -> AgentBuilder<'_> {
    let file = lab.dir().join(FILE);
    AgentBuilder::new(lab, 0)
        .env("SIDECAR_PROXY", "haproxy")
        .env("SIDECAR_HAPROXY_PORTS", "10000-10099")
        .env("SIDECAR_HAPROXY_POOLS", "4,4")
        .env(
            "SIDECAR_HAPROXY_DIR",
            &lab.dir().join("run").display().to_string(),
        )
        .env("STATIC_CONFIG_FILE", &file.display().to_string())
}

/// A service that answers with `name`.
fn answers(host: &std::sync::Arc<Host>, port: u16, name: &str) -> Responder {
    let responder = Responder::start(host, (Ipv4Addr::UNSPECIFIED, port).into());
    responder.set("/", Answer::ok(name));
    responder
}

fn serves(host: &Host, port: u16, name: &str) -> Result<(), String> {
    host.expect_route(port, &Route::Answer(name.to_owned()))
}

/// Refused, or reset at once.
fn is_closed(host: &Host, port: u16) -> Result<(), String> {
    let at = SocketAddr::from((PROXY_IP, port));
    let met = host.connect(at).and_then(|mut stream| {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")?;
        stream.read(&mut [0])
    });
    match met {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
        other => Err(format!("port {port} gives {other:?}")),
    }
}

fn applied(agent: &Agent) -> Result<Value, String> {
    let status = status(agent)?;
    if status["state"] == "applied" && status["trouble"].is_null() {
        return Ok(status);
    }
    Err(status.to_string())
}

fn trouble(agent: &Agent, words: &str) -> Result<(), String> {
    let status = status(agent)?;
    let trouble = status["trouble"].as_str().unwrap_or_default();
    if trouble.contains(words) {
        return Ok(());
    }
    Err(status.to_string())
}

/// A connection through HAProxy to a service that echoes.
struct Held(TcpStream);

impl Held {
    fn open(host: &Host, port: u16) -> Self {
        Self::try_open(host, port).expect("it is carried")
    }

    fn try_open(host: &Host, port: u16) -> Result<Self, String> {
        let stream = host.connect((PROXY_IP, port).into());
        let mut held = Self(stream.map_err(|error| error.to_string())?);
        held.works()?;
        Ok(held)
    }

    fn works(&mut self) -> Result<(), String> {
        let mut echo = [0; 4];
        let exchange = self
            .0
            .write_all(b"ping")
            .and_then(|()| self.0.read_exact(&mut echo));
        exchange.map_err(|error| format!("the held connection: {error}"))
    }
}

/// A service that returns every byte.
fn echoes(host: &Host, port: u16) {
    echo(host, (Ipv4Addr::UNSPECIFIED, port).into());
}

/// An agent whose HAProxy serves these, `web` on 10001 among them.
fn serving(lab: &Lab, services: &[Value]) -> Agent {
    edit(lab, services);
    let agent = agent(lab).start();
    eventually("it is served", SEEN, || serves(lab.host(0), 10001, "web"));
    eventually("all of it", SEEN, || applied(&agent));
    agent
}

#[test]
fn changes_are_served_without_a_reload_and_held_connections_go_on() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let haproxy = Haproxy::of(&lab);
    let host = lab.host(0);
    let (_web, _other) = (answers(host, 8001, "web"), answers(host, 8002, "other"));
    echoes(host, 8003);
    let services = [
        service("web", "http", 8001, 10001),
        service("echo", "tcp", 8003, 10003),
    ];
    let agent = serving(&lab, &services);
    let worker = haproxy.worker().expect("it answers");
    is_closed(host, 10002).expect("nothing is there yet");
    let mut held = Held::open(host, 10003);

    edit(
        &lab,
        &[
            service("web", "http", 8001, 10001),
            service("other", "ws", 8002, 10002),
        ],
    );
    eventually("the new service is served", SEEN, || {
        serves(host, 10002, "other")
    });
    eventually("the old port is closed", SEEN, || is_closed(host, 10003));
    held.works().expect("it goes on");
    serves(host, 10001, "web").expect("who stays is served");
    let servers = haproxy.ask("show servers state t0").expect("it answers");
    assert!(
        servers.contains(" solo-"),
        "its server waits for its connection: {servers}"
    );
    drop(held);
    eventually("its server is gone with it", SEEN, || {
        let servers = haproxy.ask("show servers state t0")?;
        if servers.contains(" solo-") {
            Err(servers)
        } else {
            Ok(())
        }
    });

    assert_eq!(haproxy.worker(), Ok(worker), "the same worker serves");
    let status = eventually("all is well", SEEN, || applied(&agent));
    assert_eq!(
        (&status["reloads"], &status["revivals"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(status["repairs"], 0, "{status}");
    assert_eq!(status["is_running"], true);
    let csv = host
        .get((Ipv4Addr::LOCALHOST, 3212).into(), "/;csv")
        .expect("statistics");
    assert_eq!(csv.header("access-control-allow-origin"), Some("*"));
    assert!(csv.body.starts_with("# pxname,svname,"), "{}", csv.body);
    let metrics = agent.metrics("sidecar_haproxy_applied").expect("metrics");
    assert_eq!(metrics["sidecar_haproxy_applied"], 1.0);
}

#[test]
fn an_agent_that_is_killed_is_not_missed_and_its_successor_takes_over() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let haproxy = Haproxy::of(&lab);
    let host = lab.host(0);
    let (_web, _other) = (answers(host, 8001, "web"), answers(host, 8002, "other"));
    echoes(host, 8003);
    let services = [
        service("web", "http", 8001, 10001),
        service("echo", "tcp", 8003, 10003),
    ];
    let mut agent = serving(&lab, &services);
    let worker = haproxy.worker().expect("it answers");
    let mut held = Held::open(host, 10003);

    agent.kill();
    throughout("nobody misses it", Duration::from_secs(1), || {
        serves(host, 10001, "web")?;
        held.works()
    });
    edit(
        &lab,
        &[&services[..], &[service("other", "http", 8002, 10002)]].concat(),
    );
    agent.restart();
    eventually("the next agent drives it", SEEN, || {
        serves(host, 10001, "web").expect("it is served all the time");
        held.works().expect("and so is this");
        serves(host, 10002, "other")
    });
    assert_eq!(haproxy.worker(), Ok(worker), "it was taken over as it was");
    assert_eq!(status(&agent).expect("it answers")["reloads"], 0);

    agent.signal(Signal::USR1);
    agent.ends(SEEN);
    serves(host, 10002, "other").expect("HAProxy stays when the agent is to return");
    held.works().expect("and so does the connection");
    agent.restart();
    eventually("it is taken over again", SEEN, || applied(&agent));
    assert_eq!(haproxy.worker(), Ok(worker));

    let master = haproxy.master().expect("there is a pid file");
    agent.signal(Signal::TERM);
    agent.ends(SEEN);
    eventually("no more connections are taken", SEEN, || {
        is_closed(host, 10001)
    });
    held.works().expect("the last connection is finished");
    drop(held);
    eventually("HAProxy ends with it", SEEN, || Haproxy::has_ended(master));
}

/// The pool a port leads to, and its only server that gets connections.
fn led_to(haproxy: &Haproxy, port: u16) -> Result<(String, String), String> {
    let map = haproxy.ask("show map current/ports.map")?;
    let entry = format!(" {port} ");
    let pool = map.lines().find_map(|line| line.split_once(&entry));
    let pool = pool.ok_or(map.as_str())?.1.to_owned();
    let servers = haproxy.ask(&format!("show servers state {pool}"))?;
    // Its name is the fourth word, its administrative state the seventh.
    let mut ready = servers.lines().skip(2).filter_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        (words.get(6) == Some(&"0")).then(|| format!("{pool}/{}", words[3]))
    });
    let server = ready.next().ok_or(servers.as_str())?;
    Ok((pool, server))
}

#[test]
fn what_was_changed_by_hand_is_set_right_and_counted() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let haproxy = Haproxy::of(&lab);
    let host = lab.host(0);
    let _web = answers(host, 8001, "web");
    let agent = serving(&lab, &[service("web", "http", 8001, 10001)]);
    let mut repairs = 0;
    // POOL and SERVER stand for where the port leads to at that time.
    for by_hand in [
        "del map current/ports.map 10001",
        "set map current/ports.map 10001 h3",
        "add map current/ports.map 10044 POOL",
        "add map current/ports.map nonsense POOL",
        "set server SERVER state maint",
        "set server SERVER state drain",
        "set server SERVER addr 192.0.2.1 port 9",
        "set weight SERVER 77",
        "set server SERVER state maint;del server SERVER",
        "add server POOL/stranger 192.0.2.1:9;enable server POOL/stranger",
    ] {
        let (pool, server) = eventually("all is well", SEEN, || led_to(&haproxy, 10001));
        let by_hand = by_hand.replace("SERVER", &server).replace("POOL", &pool);
        haproxy.ask(&by_hand).expect("it answers");
        let start = Instant::now();
        repairs = eventually(&by_hand, SEEN, || {
            let metrics = agent.metrics("sidecar_haproxy_repairs_total")?;
            let count = metrics["sidecar_haproxy_repairs_total"] as u64;
            if count > repairs {
                Ok(count)
            } else {
                Err(format!("{count} repairs"))
            }
        });
        serves(host, 10001, "web").unwrap_or_else(|error| panic!("{by_hand}: {error}"));
        is_closed(host, 10044).unwrap_or_else(|error| panic!("{by_hand}: {error}"));
        let took = start.elapsed();
        assert!(took < REPAIRED, "{by_hand}: {took:?}");
    }
    eventually("nothing of it is left", SEEN, || {
        let map = haproxy.ask("show map current/ports.map")?;
        let servers = haproxy.ask("show servers state")?;
        let is_clean = map.lines().count() == 1
            && !servers.contains("stranger")
            && servers
                .lines()
                .filter(|line| line.contains(" solo-"))
                .count()
                == 1;
        if is_clean {
            Ok(())
        } else {
            Err(format!("{map}\n{servers}"))
        }
    });
}

#[test]
fn a_haproxy_that_ends_or_cannot_be_reached_comes_back_with_all_it_served() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let haproxy = Haproxy::of(&lab);
    let host = lab.host(0);
    let _web = answers(host, 8001, "web");
    echoes(host, 8003);
    let services = [
        service("web", "http", 8001, 10001),
        service("echo", "tcp", 8003, 10003),
    ];
    let mut agent = serving(&lab, &services);

    for find in [Haproxy::worker, Haproxy::master] {
        let pid = find(&haproxy);
        let worker = haproxy.worker();
        Haproxy::signal(pid.expect("it runs"), Signal::KILL);
        eventually("another one runs", SEEN, || {
            let now = haproxy.worker()?;
            if Ok(now) == worker {
                Err("the same".to_owned())
            } else {
                serves(host, 10001, "web")
            }
        });
        eventually("all is well again", SEEN, || applied(&agent));
    }
    // A new HAProxy serves from its files a moment before its start is over and counted.
    eventually("both revivals are counted", SEEN, || {
        let revivals = status(&agent)?["revivals"].as_u64();
        (revivals >= Some(2))
            .then_some(())
            .ok_or_else(|| format!("{revivals:?}"))
    });

    // Its sockets are gone: it is replaced, and finishes what it has.
    let mut held = Held::open(host, 10003);
    let worker = haproxy.worker();
    for name in ["admin.sock", "master.sock"] {
        fs::remove_file(haproxy.dir.join(name)).expect("it is there");
    }
    eventually("one with sockets runs", SEEN, || {
        serves(host, 10001, "web").expect("all the time");
        held.works().expect("all the time");
        let now = haproxy.worker()?;
        if Ok(now) == worker {
            Err("the same".to_owned())
        } else {
            applied(&agent)
        }
    });
    held.works().expect("the old one finishes it");

    // It is started from its files while no agent is there.
    agent.kill();
    let (master, worker) = (haproxy.master().expect("it runs"), haproxy.worker());
    Haproxy::signal(master, Signal::KILL);
    eventually("it has ended", SEEN, || is_closed(host, 10001));
    let dir = haproxy.dir.display().to_string();
    let start = [
        "haproxy",
        "-W",
        "-D",
        "-C",
        &dir,
        "-f",
        "current/haproxy.cfg",
        "-p",
        "haproxy.pid",
        "-S",
        "unix@master.sock",
    ];
    assert!(host.run(&start).status.success());
    serves(host, 10001, "web").expect("the last good state is served");
    let by_hand = haproxy.worker();
    assert_ne!(by_hand, worker);
    agent.restart();
    eventually("it is taken over", SEEN, || applied(&agent));
    assert_eq!(haproxy.worker(), by_hand);

    // It does not answer, but serves again as soon as it can.
    let worker = by_hand.expect("it runs");
    Haproxy::signal(worker, Signal::STOP);
    eventually("that is shown", SEEN, || {
        trouble(&agent, "has not answered")
    });
    Haproxy::signal(worker, Signal::CONT);
    eventually("and over", SEEN, || applied(&agent));
    assert_eq!(haproxy.worker(), Ok(worker), "it was left alone");
}

#[test]
fn more_ports_and_pools_come_by_one_reload_that_breaks_nothing() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let _haproxy = Haproxy::of(&lab);
    let host = lab.host(0);
    let _web = answers(host, 8001, "web");
    echoes(host, 8003);
    let foreign = host.listen((Ipv4Addr::UNSPECIFIED, 10050).into());
    let base = [
        service("web", "http", 8001, 10001),
        service("echo", "tcp", 8003, 10003),
    ];
    let agent = serving(&lab, &base);
    let mut held = Held::open(host, 10003);
    let reloads = |count: u64| {
        eventually("the reloads are counted", SEEN, || {
            let status = applied(&agent)?;
            assert!(status["reloads"].as_u64() <= Some(count), "{status}");
            if status["reloads"] == count {
                Ok(())
            } else {
                Err(status.to_string())
            }
        });
    };
    reloads(1);

    edit(
        &lab,
        &[&base[..], &[service("outside", "http", 8001, 12000)]].concat(),
    );
    eventually("a port outside the range is opened", SEEN, || {
        serves(host, 10001, "web").expect("nobody is refused meanwhile");
        held.works().expect("and nothing breaks");
        serves(host, 12000, "web")
    });
    reloads(2);

    let many: Vec<_> = (10020..10032)
        .map(|port| service(&format!("many-{port}"), "tcp", 8003, port))
        .collect();
    edit(&lab, &[&base[..], &many[..]].concat());
    eventually("there are pools for all", SEEN, || {
        serves(host, 10001, "web").expect("nobody is refused meanwhile");
        held.works().expect("and nothing breaks");
        (10020..10032).try_for_each(|port| Held::try_open(host, port).map(drop))
    });
    reloads(3);

    // The port that is somebody else's is asked for; the rest goes on.
    edit(
        &lab,
        &[&base[..], &[service("late", "http", 8001, 10050)]].concat(),
    );
    eventually("it is named", SEEN, || {
        trouble(&agent, "ServicePorts 10050 cannot be opened")
    });
    serves(host, 10001, "web").expect("the rest is served");
    drop(foreign);
    eventually("it is served when it is free", SEEN, || {
        serves(host, 10050, "web")
    });
    eventually("all is well", SEEN, || applied(&agent));
    held.works().expect("nothing broke");
}

#[test]
fn only_one_agent_drives_and_an_unusable_directory_is_named() {
    let lab = Lab::new(Machine::Shared, &["solo", "other"]);
    let _haproxy = Haproxy::of(&lab);
    let host = lab.host(0);
    let _web = answers(host, 8001, "web");
    edit(&lab, &[service("web", "http", 8001, 10001)]);
    let first = agent(&lab).start();
    eventually("it is served", SEEN, || serves(host, 10001, "web"));
    let run = lab.dir().join("run").display().to_string();
    let second = AgentBuilder::new(&lab, 1)
        .env("SIDECAR_PROXY", "haproxy")
        .env("SIDECAR_HAPROXY_DIR", &run)
        .start();
    eventually("the second says so", SEEN, || {
        trouble(&second, "another agent drives")
    });
    eventually("the first goes on", SEEN, || applied(&first));
    drop(second);

    let file = lab.write("file", "").join("run").display().to_string();
    let third = AgentBuilder::new(&lab, 1)
        .env("SIDECAR_PROXY", "haproxy")
        .env("SIDECAR_HAPROXY_DIR", &file)
        .start();
    eventually("the directory is named", SEEN, || trouble(&third, &file));
    drop(third);

    let own = lab.dir().join("own").display().to_string();
    let fourth = AgentBuilder::new(&lab, 1)
        .env("SIDECAR_PROXY", "haproxy")
        .env("SIDECAR_HAPROXY_DIR", &own)
        .env("SIDECAR_HAPROXY_BINARY", "no-such-haproxy")
        .start();
    let words = "no-such-haproxy cannot be started";
    eventually("the program is named", SEEN, || trouble(&fourth, words));
}

#[test]
fn websockets_are_carried_over_ipv6() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let _haproxy = Haproxy::of(&lab);
    let host = lab.host(0);
    websocket_echo(host, (Ipv6Addr::LOCALHOST, 8001).into());
    let mut socket = service("socket", "ws", 8001, 10001);
    socket["Service"]["Ports"][0]["IP"] = json!("::1");
    edit(&lab, &[socket]);
    let agent = agent(&lab).env("SIDECAR_BIND_IP", "::1").start();
    eventually("it is applied", SEEN, || applied(&agent));
    let stream = host.connect((Ipv6Addr::LOCALHOST, 10001).into());
    let mut stream = stream.expect("it is taken");
    upgrade(&mut stream);
    Held(stream).works().expect("frames go both ways");
}

#[test]
fn files_that_cannot_be_written_are_named_and_stop_nothing() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let haproxy = Haproxy::of(&lab);
    let host = lab.host(0);
    let _web = answers(host, 8001, "web");
    let agent = serving(&lab, &[service("web", "http", 8001, 10001)]);

    // Both places of the files: whichever is next.
    let blocked = ["boot-a", "boot-b"].map(|name| haproxy.dir.join(name));
    for path in &blocked {
        // It is there or not yet.
        let _ = fs::remove_dir_all(path);
        fs::write(path, "").expect("it is in the way");
    }
    edit(&lab, &[service("web", "http", 8001, 10002)]);
    eventually("it is named", SEEN, || trouble(&agent, "/boot-"));
    serves(host, 10002, "web").expect("what is new is served all the same");
    is_closed(host, 10001).expect("what is old is not");
    assert_eq!(status(&agent).expect("it answers")["state"], "applied");
    for path in &blocked {
        fs::remove_file(path).expect("it is there");
    }
    eventually("it is mended", SEEN, || applied(&agent));
    let map = fs::read_to_string(haproxy.dir.join("current/ports.map"));
    assert_eq!(
        map.expect("it is there").trim().split(' ').next(),
        Some("10002")
    );
}
