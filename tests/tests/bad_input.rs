//! What operators, users and the network get wrong: each mistake is named in the log, a few times
//! at most, and nothing but what depends on it suffers.

#![cfg(target_os = "linux")]

use std::{
    io::Write,
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

use blackbox::{
    API_PORT, Agent, AgentBuilder, Answer, Exit, GOSSIP_PORT, Lab, Machine, Responder, Route,
    Status, eventually, throughout,
};
use serde_json::{Value, json};

const CHECKED: Duration = Duration::from_secs(15);
const SAID: Duration = Duration::from_secs(10);
/// How long a mistake is watched for being repeated: several checks, scans and retries.
const WATCHED: Duration = Duration::from_secs(8);
/// Every repetition of a line beyond these in that time is noise.
const FEW: usize = 3;

/// The service that must not suffer, at service port 9700.
fn good() -> Value {
    target("good", 9700, "HttpGet", "http://127.0.0.1:8400/health")
}

fn target(name: &str, service_port: u16, check: &str, args: &str) -> Value {
    json!({
        "Service": {
            "Name": name,
            "Ports": [{ "Type": "tcp", "Port": 8400, "ServicePort": service_port }],
        },
        "Check": { "Type": check, "Args": args },
    })
}

fn good_responder(lab: &Lab) -> Responder {
    let service = Responder::start(lab.host(0), (Ipv4Addr::UNSPECIFIED, 8400).into());
    service.set("/", Answer::ok("good\n"));
    service
}

fn good_is_reached(agent: &Agent) -> Result<(), String> {
    agent
        .host
        .expect_route(9700, &Route::Answer("good".to_owned()))
}

/// Waits for the word, then watches that it is not said over and over while the good service is
/// reached all the time.
fn said_but_not_shouted(agent: &Agent, word: &str) {
    eventually(&format!("the log names {word:?}"), SAID, || {
        let said = agent.mentions(word) > 0;
        said.then_some(())
            .ok_or_else(|| "no line has it".to_owned())
    });
    eventually("the good service is reached", CHECKED, || {
        good_is_reached(agent)
    });
    let before = agent.mentions(word);
    throughout("the good service is reached", WATCHED, || {
        good_is_reached(agent)
    });
    let lines = agent.mentions(word);
    assert!(
        before <= 2 * FEW && lines - before <= FEW,
        "{word:?} was said {before} times at once and {} times more in {WATCHED:?}: {:#?}",
        lines - before,
        agent
            .log()
            .lines()
            .filter(|line| line.contains(word))
            .collect::<Vec<_>>()
    );
}

#[test]
fn a_broken_static_file_keeps_the_last_good_one() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let _service = good_responder(&lab);
    let agent = AgentBuilder::new(&lab, 0).services(&[good()]).start();
    eventually("the good service is reached", CHECKED, || {
        good_is_reached(&agent)
    });
    assert_eq!(
        agent.mentions("static-solo.json: "),
        0,
        "nothing to complain of yet"
    );

    lab.write("static-solo.json", "[ { \"Service\": { \"Name\": \"torn");
    // The file and the place in it.
    said_but_not_shouted(&agent, "static-solo.json");
    assert!(
        agent.log().contains("line 1"),
        "the place of the mistake is named"
    );

    let second = target("second", 9701, "HttpGet", "http://127.0.0.1:8400/health");
    lab.write("static-solo.json", &json!([good(), second]).to_string());
    eventually("the mended file is read", CHECKED, || {
        agent
            .host
            .expect_route(9701, &Route::Answer("good".to_owned()))
    });
}

#[test]
fn a_missing_static_file_is_named_and_read_when_it_appears() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let _service = good_responder(&lab);
    let path = lab.dir().join("later.json").display().to_string();
    let agent = AgentBuilder::new(&lab, 0)
        .env("STATIC_CONFIG_FILE", &path)
        .start();
    eventually("the log names the file", SAID, || {
        (agent.mentions("later.json") > 0)
            .then_some(())
            .ok_or_else(|| "no line has it".to_owned())
    });
    lab.write("later.json", &json!([good()]).to_string());
    eventually("the good service is reached", CHECKED, || {
        good_is_reached(&agent)
    });
    assert!(
        agent.mentions("later.json") <= 2 * FEW,
        "said over and over"
    );
}

#[test]
fn an_unknown_check_type_is_named() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let _service = good_responder(&lab);
    let odd = target("odd", 9701, "Frobnicate", "http://127.0.0.1:8400/health");
    let agent = AgentBuilder::new(&lab, 0).services(&[odd, good()]).start();
    said_but_not_shouted(&agent, "Frobnicate");
    // The original takes any unknown word for an HTTP check, and users rely on it.
    eventually("the service is checked all the same", CHECKED, || {
        agent.expect_instances("odd", &[("solo", Status::Alive)])
    });
}

#[test]
fn a_bad_template_is_named_and_harms_its_own_service_only() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let _service = good_responder(&lab);
    let odd = target("odd", 9701, "HttpGet", "http://{{ nonesuch 1 }}:8400/");
    let agent = AgentBuilder::new(&lab, 0).services(&[odd, good()]).start();
    said_but_not_shouted(&agent, "nonesuch");
    agent
        .expect_instances("odd", &[("solo", Status::Unhealthy)])
        .expect("it cannot be checked");
    agent
        .host
        .expect_route(9701, &Route::Closed)
        .expect("what is not healthy is not offered");
}

#[test]
fn an_unreachable_engine_is_named_and_the_static_file_works_on() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let _service = good_responder(&lab);
    let agent = AgentBuilder::new(&lab, 0)
        .services(&[good()])
        .env("SIDECAR_DISCOVERY", "docker static")
        .env("DOCKER_URL", "unix:///nonexistent/engine.sock")
        .start();
    said_but_not_shouted(&agent, "/nonexistent/engine.sock");
}

#[test]
fn a_seed_that_does_not_resolve_is_named_and_retried() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let _service = good_responder(&lab);
    let agent = AgentBuilder::new(&lab, 0)
        .services(&[good()])
        .env("SIDECAR_SEEDS", "nowhere.invalid,10.88.0.77")
        .start();
    said_but_not_shouted(&agent, "nowhere.invalid");
}

#[test]
fn an_agent_joins_a_seed_that_starts_later() {
    let lab = Lab::new(Machine::Shared, &["early", "late"]);
    let early = AgentBuilder::new(&lab, 0).start();
    eventually("the log names the seed", SAID, || {
        let said = early.mentions(&lab.host(1).ip.to_string()) > 0;
        said.then_some(())
            .ok_or_else(|| "no line has it".to_owned())
    });
    let late = AgentBuilder::new(&lab, 1).without("SIDECAR_SEEDS").start();
    eventually("both are members", Duration::from_secs(40), || {
        [&early, &late]
            .into_iter()
            .try_for_each(|agent| agent.expect_members(&["early", "late"]))
    });
}

#[test]
fn a_taken_gossip_port_is_named_and_ends_the_start() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let _taken = lab
        .host(0)
        .listen((Ipv4Addr::UNSPECIFIED, GOSSIP_PORT).into());
    let mut agent = AgentBuilder::new(&lab, 0).launch();
    let (exit, _) = agent.ends(SAID);
    let log = agent.log();
    assert_eq!(exit, Exit::Code(1), "{log}");
    let named = |line: &str| line.contains("7946") && line.contains("in use");
    assert!(
        log.lines().any(named),
        "no line says that the port is in use:\n{log}"
    );
}

#[test]
fn a_taken_api_port_is_named_and_taken_over_when_it_is_free() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let _service = good_responder(&lab);
    let taken = lab.host(0).listen((Ipv4Addr::UNSPECIFIED, API_PORT).into());
    let mut agent = AgentBuilder::new(&lab, 0).services(&[good()]).launch();
    // Not the bare number: it may as well stand in a time stamp or a process ID.
    said_but_not_shouted(&agent, &format!("0.0.0.0:{API_PORT}"));
    assert!(agent.mentions("in use") > 0, "the reason is named");
    drop(taken);
    agent.wait_for_api();
}

#[test]
fn two_services_on_one_service_port_have_one_owner() {
    let lab = Lab::new(Machine::Shared, &["solo", "other"]);
    let _service = good_responder(&lab);
    let squatter = Responder::start(lab.host(1), (Ipv4Addr::UNSPECIFIED, 8400).into());
    squatter.set("/", Answer::ok("squatter\n"));
    let agent = AgentBuilder::new(&lab, 0).services(&[good()]).start();
    eventually("the good service is reached", CHECKED, || {
        good_is_reached(&agent)
    });
    let claim = target("squatter", 9700, "HttpGet", "http://127.0.0.1:8400/health");
    let other = AgentBuilder::new(&lab, 1).services(&[claim]).start();
    eventually("both services are known", CHECKED, || {
        [&agent, &other].into_iter().try_for_each(|agent| {
            agent.expect_instances("good", &[("solo", Status::Alive)])?;
            agent.expect_instances("squatter", &[("other", Status::Alive)])
        })
    });
    for agent in [&agent, &other] {
        eventually("the log names both and the port", SAID, || {
            let log = agent.log();
            let names = |line: &str| {
                ["good", "squatter", "9700"]
                    .iter()
                    .all(|w| line.contains(w))
            };
            log.lines()
                .any(names)
                .then_some(())
                .ok_or_else(|| "no line does".to_owned())
        });
    }
    // The elder keeps the port, on every host, for as long as it lives.
    eventually("the other host routes to the elder", SAID, || {
        good_is_reached(&other)
    });
    throughout("the elder keeps the port", WATCHED, || {
        good_is_reached(&agent).and_then(|()| good_is_reached(&other))
    });
    let claims = agent
        .log()
        .lines()
        .filter(|l| l.contains("squatter") && l.contains("9700"))
        .count();
    assert!(claims <= 2 * FEW, "said {claims} times");
}

/// Numbers without a pattern, the same in every run.
struct Noise(u64);

impl Noise {
    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.byte()).collect()
    }

    fn byte(&mut self) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.to_le_bytes()[3]
    }
}

/// What the gossip port may be sent by a scanner, an old peer or an attacker: each kind of message
/// with nonsense behind it, and lengths that promise too much.
fn garbage(noise: &mut Noise, kind: u8) -> Vec<u8> {
    let length = usize::from(noise.byte()) * 5;
    let mut bytes = vec![kind];
    bytes.extend(noise.bytes(length));
    bytes
}

fn send_and_forget(mut stream: TcpStream, bytes: &[u8]) {
    // The other side may close as soon as it has seen enough.
    let _ = stream.write_all(bytes);
}

#[test]
fn garbage_at_the_gossip_port_is_dropped_quietly() {
    let lab = Lab::new(Machine::Shared, &["solo", "peer", "stranger"]);
    let _service = good_responder(&lab);
    let solo = AgentBuilder::new(&lab, 0).services(&[good()]).start();
    let peer = AgentBuilder::new(&lab, 1)
        .env("SIDECAR_SEEDS", &lab.host(0).ip.to_string())
        .start();
    eventually("both route to the good service", CHECKED, || {
        good_is_reached(&solo).and_then(|()| good_is_reached(&peer))
    });
    let lines = solo.log().lines().count();

    let stranger = lab.host(2);
    let target = (lab.host(0).ip, GOSSIP_PORT).into();
    let socket = stranger.datagrams((stranger.ip, 0).into());
    let mut noise = Noise(0x5eed);
    let mut kind = 0_u8;
    throughout(
        "the good service is reached while garbage comes in",
        WATCHED,
        || {
            for _ in 0..50 {
                kind = kind.wrapping_add(1);
                let datagram = garbage(&mut noise, kind % 16);
                socket
                    .send_to(&datagram, target)
                    .map_err(|error| error.to_string())?;
            }
            let bytes = garbage(&mut noise, kind % 16);
            stranger
                .connect(target)
                .map(|s| send_and_forget(s, &bytes))
                .map_err(|e| e.to_string())?;
            good_is_reached(&solo)?;
            good_is_reached(&peer)
        },
    );
    // A frame that promises four gigabytes, and a connection that never says a word.
    let silent = stranger
        .connect(target)
        .expect("the gossip port accepts connections");
    let greedy = stranger
        .connect(target)
        .expect("the gossip port accepts connections");
    send_and_forget(greedy, &[6, 0xff, 0xff, 0xff, 0xff, 0xff]);
    eventually("both are still members, and only they", CHECKED, || {
        [&solo, &peer]
            .into_iter()
            .try_for_each(|agent| agent.expect_members(&["solo", "peer"]))
    });
    drop(silent);
    let said = solo.log().lines().count() - lines;
    assert!(
        said <= 50,
        "thousands of bad messages are worth a few lines, not {said}"
    );
    assert_eq!(solo.mentions("panicked"), 0);
}
