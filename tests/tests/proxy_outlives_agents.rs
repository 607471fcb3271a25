//! The built-in proxy goes on when the agent of its host does not, seen by clients of that host.

#![cfg(target_os = "linux")]

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    time::{Duration, Instant},
};

use blackbox::{
    Agent, AgentBuilder, Exit, Host, Lab, Machine, PROXY_IP, Responder, Route, echo, eventually,
    throughout, under_load,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const WEB: u16 = 9700;
const ECHO: u16 = 9701;
const WEB_PORT: u16 = 8300;
const ECHO_PORT: u16 = 8301;
const SETTLED: Duration = Duration::from_secs(15);
const STOPPED: Duration = Duration::from_secs(8);
/// How long an agent is away.
const AWAY: Duration = Duration::from_secs(2);

fn target(name: &str, mode: &str, port: u16, service_port: u16) -> Value {
    json!({
        "Service": {
            "Name": name,
            "ProxyMode": mode,
            "Ports": [{ "Type": "tcp", "Port": port, "ServicePort": service_port }],
        },
        "Check": { "Type": "AlwaysSuccessful" },
    })
}

fn web() -> Route {
    Route::Answer("solo".to_owned())
}

fn workers(host: &Host) -> Vec<i32> {
    host.processes("proxy-worker")
}

/// One host with a web service and an echo, and its agent.
struct Rig {
    _services: Vec<Responder>,
    agent: Agent,
}

impl Rig {
    fn start(lab: &Lab) -> Self {
        let services = Responder::on_each(lab, WEB_PORT);
        echo(lab.host(0), (Ipv4Addr::UNSPECIFIED, ECHO_PORT).into());
        let agent = AgentBuilder::new(lab, 0)
            .services(&[
                target("web", "http", WEB_PORT, WEB),
                target("echo", "tcp", ECHO_PORT, ECHO),
            ])
            .start();
        let rig = Self {
            _services: services,
            agent,
        };
        rig.serves();
        rig
    }

    fn host(&self) -> &Host {
        &self.agent.host
    }

    fn serves(&self) {
        eventually("both services are reached", SETTLED, || {
            self.host().expect_route(WEB, &web())?;
            self.host()
                .connect((PROXY_IP, ECHO).into())
                .map(drop)
                .map_err(|error| error.to_string())
        });
        self.is_ready();
    }

    fn is_ready(&self) {
        eventually("the agent is ready", SETTLED, || {
            let answer = self.agent.api("/ready").map_err(|it| it.to_string())?;
            (answer.status == 200).then_some(()).ok_or(answer.body)
        });
    }

    fn end(&mut self, signal: Option<Signal>) {
        match signal {
            None => self.agent.kill(),
            Some(signal) => {
                self.agent.signal(signal);
                let (exit, _) = self.agent.ends(STOPPED);
                assert_eq!(exit, Exit::Code(0), "{signal:?}");
            }
        }
    }
}

fn exchange(stream: &mut TcpStream) {
    stream.write_all(b"still there?").expect("it can be sent");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("it comes back");
    assert_eq!(&answer, b"still there?");
}

#[test]
fn an_agent_that_is_killed_or_restarted_fails_no_request_and_breaks_no_connection_of_its_host() {
    let lab = Lab::new(Machine::Alone, &["solo"]);
    let mut rig = Rig::start(&lab);
    let host = lab.host(0).clone();
    let mut held = host.connect((PROXY_IP, ECHO).into()).expect("a connection");
    let worker = workers(&host);
    assert_eq!(worker.len(), 1, "{worker:?}");
    let requests = under_load(&host, &[WEB, WEB], || {
        for signal in [None, Some(Signal::USR1), None] {
            rig.end(signal);
            throughout("the proxy goes on", AWAY, || host.expect_route(WEB, &web()));
            exchange(&mut held);
            rig.agent.restart();
            rig.is_ready();
            exchange(&mut held);
        }
    });
    println!("{requests} requests while the agent was restarted three times: 0 failed");
    assert!(requests > 1000, "only {requests} requests");
    assert_eq!(workers(&host), worker, "it is the same proxy all the time");
    let metrics = rig.agent.metrics("sidecar_proxy_connections_total");
    let metrics = metrics.expect("what it counted is shown by the new agent");
    assert!(metrics.values().sum::<f64>() > 1000.0, "{metrics:?}");
}

#[test]
fn another_program_takes_the_ports_over_and_the_old_one_ends_with_its_last_connection() {
    let lab = Lab::new(Machine::Alone, &["solo"]);
    let mut rig = Rig::start(&lab);
    let host = lab.host(0).clone();
    let mut held = host.connect((PROXY_IP, ECHO).into()).expect("a connection");
    let old = workers(&host);
    let requests = under_load(&host, &[WEB, WEB], || {
        rig.agent.replace_program();
        rig.end(Some(Signal::USR1));
        rig.agent.restart();
        rig.is_ready();
        eventually("a second proxy is there", SETTLED, || {
            let now = workers(&host);
            (now.len() == 2)
                .then_some(())
                .ok_or_else(|| format!("{now:?}"))
        });
        host.expect_route(WEB, &web()).expect("the new one serves");
        exchange(&mut held);
    });
    println!("{requests} requests while the program was replaced: 0 failed");
    drop(held);
    eventually("the old one ends", SETTLED, || {
        let now = workers(&host);
        (now.len() == 1 && now != old)
            .then_some(())
            .ok_or_else(|| format!("{now:?}, before {old:?}"))
    });
    host.expect_route(WEB, &web()).expect("the new one serves");
}

#[test]
fn after_a_goodbye_there_is_no_proxy_either() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let mut rig = Rig::start(&lab);
    rig.end(Some(Signal::TERM));
    assert_eq!(rig.host().route(WEB), Route::Closed);
    eventually("no process of it is left", SETTLED, || {
        let left = workers(rig.host());
        left.is_empty()
            .then_some(())
            .ok_or_else(|| format!("{left:?}"))
    });
}

#[test]
fn a_proxy_that_is_killed_is_replaced_at_once() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let rig = Rig::start(&lab);
    let host = lab.host(0);
    let worker = Pid::from_raw(workers(host)[0]).expect("a process");
    kill_process(worker, Signal::KILL).expect("it can be killed");
    let killed = Instant::now();
    eventually("there is another", SETTLED, || {
        host.expect_route(WEB, &web())
    });
    println!("killed proxy served again after {:?}", killed.elapsed());
    assert_eq!(rig.agent.mentions("the process of the proxy is gone"), 1);
}

#[test]
fn an_agent_without_the_proxy_ends_the_one_that_was_left() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let mut rig = Rig::start(&lab);
    rig.end(None);
    rig.host().expect_route(WEB, &web()).expect("it goes on");
    rig.agent.set("SIDECAR_PROXY", "none");
    rig.agent.restart();
    eventually("it is gone", SETTLED, || {
        rig.host().expect_route(WEB, &Route::Closed)
    });
}

#[test]
fn what_another_user_left_in_its_place_is_not_trusted_and_the_agent_serves_by_itself() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let squatter = "import os, socket\n\
                    os.setuid(65534)\n\
                    listener = socket.socket(socket.AF_UNIX)\n\
                    listener.bind('\\0sidecar-proxy-7946')\n\
                    listener.listen()\n\
                    print('listening', flush=True)\n\
                    while True: listener.accept()\n";
    let squatter = lab.program(0, "squatter", &["python3", "-c", squatter]);
    eventually("it sits there", SETTLED, || {
        (squatter.mentions("listening") == 1)
            .then_some(())
            .ok_or_else(|| squatter.log())
    });
    let rig = Rig::start(&lab);
    assert_eq!(rig.agent.mentions("belongs to user 65534"), 1);
    assert_eq!(workers(rig.host()), Vec::<i32>::new());
}
