//! Drain and undrain: every host follows and says so, running connections go on, and the operator's
//! word outlives checks and agents, until it is taken back, or its time is over.

#![cfg(target_os = "linux")]

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use blackbox::{
    Agent, AgentBuilder, Answer, Exit, GOSSIP_PORT, Lab, LegacyPeer, Machine, Network, PROXY_IP,
    Request, Responder, Response, Status, Timing, echo, eventually, throughout,
};
use rustix::process::Signal;
use serde_json::{Value, json};

const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];
const WEB: u16 = 9800;
const ECHO: u16 = 9801;
const SETTLED: Duration = Duration::from_secs(15);
/// Every host knows within this, and routes by it.
const TOLD: Duration = Duration::from_secs(2);
/// A check fails and recovers in this, with time to spare.
const CHECKED: Duration = Duration::from_secs(8);

fn target(name: &str, mode: &str, port: u16, service_port: u16) -> Value {
    json!({
        "Service": {
            "Name": name,
            "ProxyMode": mode,
            "Ports": [{ "Type": "tcp", "Port": port, "ServicePort": service_port }],
        },
        "Check": { "Type": "HttpGet", "Args": "http://127.0.0.1:8300/health" },
    })
}

/// The first so many hosts, with a web service each, and an echo on the first.
struct Cluster {
    services: Vec<Responder>,
    agents: Vec<Agent>,
}

impl Cluster {
    fn start(lab: &Lab, number: usize) -> Self {
        let services = Responder::on_each(lab, 8300);
        echo(lab.host(0), (Ipv4Addr::UNSPECIFIED, 8301).into());
        let agents = (0..number).map(|host| {
            let mut targets = vec![target("web", "http", 8300, WEB)];
            if host == 0 {
                targets.push(target("echo", "tcp", 8301, ECHO));
            }
            AgentBuilder::new(lab, host).services(&targets).start()
        });
        let cluster = Self {
            agents: agents.collect(),
            services,
        };
        let all = &NAMES[..number];
        eventually("every host routes to all", SETTLED, || cluster.routes(all));
        cluster
    }

    /// Whether every host routes the web service to just these.
    fn routes(&self, hosts: &[&str]) -> Result<(), String> {
        let wanted: BTreeSet<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        self.agents.iter().try_for_each(|agent| {
            let answer = agent.api("/api/v2/routes");
            let answer = answer.map_err(|error| error.to_string())?;
            let routes: Value = serde_json::from_str(&answer.body).expect("JSON");
            let routes = routes["routes"].as_array().expect("a list");
            let web = routes.iter().find(|route| route["service_port"] == WEB);
            let endpoints = web.and_then(|route| route["endpoints"].as_array());
            let found: BTreeSet<String> = endpoints
                .into_iter()
                .flatten()
                .filter_map(|endpoint| Some(endpoint["hostname"].as_str()?.to_owned()))
                .collect();
            if found == wanted {
                return Ok(());
            }
            Err(format!("{} routes to {found:?}", agent.host.name))
        })
    }

    /// Whether every agent shows the first host's web service so.
    fn shows(&self, status: Status) -> Result<(), String> {
        self.agents.iter().try_for_each(|agent| {
            let instances = agent.instances("web")?;
            let first = instances.iter().find(|it| it.host == NAMES[0]);
            match first {
                Some(instance) if instance.status == status => Ok(()),
                other => Err(format!("{} shows {other:?}", agent.host.name)),
            }
        })
    }
}

fn id(agent: &Agent, service: &str, host: &str) -> String {
    let instances = agent.instances(service).expect("the agent answers");
    let found = instances.into_iter().find(|it| it.host == host);
    found.expect("it is there").id
}

fn post(agent: &Agent, path: &str) -> Response {
    let asked = agent
        .host
        .request(agent.api_address(), &Request::post(path));
    asked.expect("the agent answers")
}

/// Commands an instance and takes what is said about it.
fn command(agent: &Agent, id: &str, order: &str) -> Value {
    let answer = post(agent, &format!("/api/v2/instances/{id}/{order}"));
    assert_eq!(answer.status, 202, "{}", answer.body);
    serde_json::from_str(&answer.body).expect("JSON")
}

fn refusal(agent: &Agent, path: &str) -> (u16, String) {
    let answer = post(agent, path);
    let said: Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(said["status"], "error");
    let message = said["message"].as_str().expect("a text").to_owned();
    (answer.status, message)
}

#[test]
fn a_drain_is_followed_everywhere_and_checks_do_not_end_it() {
    let lab = Lab::new(Machine::Shared, &NAMES);
    let cluster = Cluster::start(&lab, 3);
    let alpha = &cluster.agents[0];
    let web = id(alpha, "web", "alpha");

    let began = Instant::now();
    let said = command(alpha, &web, "drain?wait=2s");
    println!("confirmed by all {:?} after the command", began.elapsed());
    // What is confirmed is so: nothing is waited for.
    assert_eq!(cluster.routes(&["beta", "gamma"]), Ok(()));
    assert_eq!(cluster.shows(Status::Draining), Ok(()));
    assert_eq!(
        said,
        json!({
            "id": web,
            "name": "web",
            "hostname": "alpha",
            "status": "Draining",
            "until": null,
            "applied": {
                "confirmed": ["alpha", "beta", "gamma"], "unconfirmed": [], "not_asked": [],
            },
        })
    );
    for agent in &cluster.agents {
        let answers = agent.host.answers(WEB, 20).expect("the others serve");
        assert!(!answers.contains_key("alpha"), "{answers:?}");
    }

    cluster.services[0].set("/health", Answer::status(500));
    throughout("it drains while its check fails", CHECKED, || {
        cluster.shows(Status::Draining)
    });
    cluster.services[0].set("/health", Answer::ok("fine"));
    throughout("and when it has recovered", CHECKED, || {
        cluster.shows(Status::Draining)
    });

    let said = command(alpha, &web, "undrain?wait=2s");
    assert_eq!(cluster.routes(&NAMES), Ok(()));
    assert_eq!(said["status"], "Alive");
    assert_eq!(
        said["applied"]["confirmed"],
        json!(["alpha", "beta", "gamma"])
    );

    // Go's own path, without waiting.
    let old = post(alpha, &format!("/api/services/{web}/drain"));
    assert_eq!(old.status, 202);
    eventually("all follow", TOLD, || cluster.shows(Status::Draining));
    let old = post(alpha, &format!("/api/services/{web}/undrain"));
    assert_eq!(old.status, 202);
    let words = format!("Service \\\"web\\\" instance \\\"{web}\\\" set to ALIVE");
    assert!(old.body.contains(&words), "{}", old.body);
    eventually("all follow", TOLD, || cluster.shows(Status::Alive));

    let timed = command(alpha, &web, "drain?timeout=4s");
    assert!(timed["until"].is_string() && timed["applied"].is_null());
    eventually("all follow", TOLD, || cluster.routes(&["beta", "gamma"]));
    eventually("its time is over", Duration::from_secs(6), || {
        cluster.shows(Status::Alive)
    });

    let path = |id: &str, order: &str| format!("/api/v2/instances/{id}/{order}");
    let elsewhere = id(alpha, "web", "beta");
    assert_eq!(
        refusal(alpha, &path(&elsewhere, "drain")),
        (
            404,
            format!(
                "no instance \"{elsewhere}\" on this host, alpha: it is on beta; command the agent \
                 there"
            )
        )
    );
    let (status, message) = refusal(alpha, &path("nobody", "undrain"));
    assert_eq!(status, 404);
    assert!(message.contains("nor on any other"), "{message}");
    let (status, message) = refusal(alpha, &path(&web, "drain?timeout=soon"));
    assert_eq!(status, 400);
    assert!(
        message.contains("timeout=\"soon\"") && message.contains("10m"),
        "{message}"
    );
    assert_eq!(cluster.shows(Status::Alive), Ok(()), "nothing was done");
}

#[test]
fn connections_to_who_drains_go_on() {
    let lab = Lab::new(Machine::Shared, &NAMES[..2]);
    let cluster = Cluster::start(&lab, 2);
    let beta = lab.host(1);
    let mut stream = None;
    eventually("the echo is served", SETTLED, || {
        let served = beta.connect((PROXY_IP, ECHO).into());
        stream = Some(served.map_err(|error| error.to_string())?);
        Ok(())
    });
    let mut stream = stream.expect("served");
    let mut turn = |word: &[u8; 4]| {
        stream.write_all(word).expect("it is open");
        let mut said = [0; 4];
        stream.read_exact(&mut said).expect("it answers");
        assert_eq!(said, *word);
    };
    turn(b"ping");
    let alpha = &cluster.agents[0];
    let said = command(alpha, &id(alpha, "echo", "alpha"), "drain?wait=2s");
    assert_eq!(said["applied"]["confirmed"], json!(["alpha", "beta"]));
    eventually("no new connection is served", TOLD, || {
        let Ok(mut stream) = beta.connect((PROXY_IP, ECHO).into()) else {
            return Ok(());
        };
        let answered = stream
            .write_all(b"ping")
            .and_then(|()| stream.read_exact(&mut [0; 4]));
        answered.map_or(Ok(()), |()| Err("it was served".to_owned()))
    });
    turn(b"pong");
}

#[test]
fn a_host_that_does_not_answer_is_named_and_a_restart_changes_nothing() {
    let lab = Lab::new(Machine::Shared, &NAMES);
    let mut cluster = Cluster::start(&lab, 3);
    let web = id(&cluster.agents[0], "web", "alpha");
    cluster.agents[2].signal(Signal::STOP);
    let said = command(&cluster.agents[0], &web, "drain?wait=2s");
    cluster.agents[2].signal(Signal::CONT);
    assert_eq!(
        said["applied"],
        json!({ "confirmed": ["alpha", "beta"], "unconfirmed": ["gamma"], "not_asked": [] })
    );
    eventually("it follows when it can", SETTLED, || {
        cluster.routes(&["beta", "gamma"])
    });

    let alive = |cluster: &Cluster| -> usize {
        let agents = cluster.agents[1..].iter();
        let alphas = agents.map(|agent| {
            let log = agent.log();
            let lines = log.lines().filter(|line| {
                line.contains("service changed") && line.contains(&web) && line.contains("to=Alive")
            });
            lines.count()
        });
        alphas.sum()
    };
    let before = alive(&cluster);
    cluster.agents[0].kill();
    cluster.agents[0].restart();
    eventually("it drains still", SETTLED, || {
        cluster.agents[0].expect_members(&NAMES)?;
        cluster.shows(Status::Draining)
    });
    throughout("it stays so", CHECKED, || cluster.shows(Status::Draining));
    assert_eq!(
        alive(&cluster),
        before,
        "nobody has seen it alive meanwhile"
    );
}

/// Nobody can be asked what an agent of before was told.
#[test]
fn a_drain_outlives_a_lone_agent_with_its_end() {
    let lab = Lab::new(Machine::Shared, &NAMES[..1]);
    let mut cluster = Cluster::start(&lab, 1);
    let web = id(&cluster.agents[0], "web", "alpha");
    let echo = id(&cluster.agents[0], "echo", "alpha");
    command(&cluster.agents[0], &echo, "drain");
    let drained = Instant::now();
    command(&cluster.agents[0], &web, "drain?timeout=12s");
    let shows = |agent: &Agent, service: &str, status| {
        agent.expect_instances(service, &[("alpha", status)])
    };
    cluster.agents[0].kill();
    cluster.agents[0].restart();
    eventually("both drain still", SETTLED, || {
        shows(&cluster.agents[0], "echo", Status::Draining)?;
        shows(&cluster.agents[0], "web", Status::Draining)
    });
    assert!(drained.elapsed() < Duration::from_secs(12));
    eventually("the end of the one comes", SETTLED, || {
        shows(&cluster.agents[0], "web", Status::Alive)
    });
    assert!(drained.elapsed() >= Duration::from_secs(12));
    // A goodbye does not take the operator's word back either.
    cluster.agents[0].signal(Signal::TERM);
    let (exit, _) = cluster.agents[0].ends(Duration::from_secs(8));
    assert_eq!(exit, Exit::Code(0));
    cluster.agents[0].restart();
    eventually("the other drains on", SETTLED, || {
        shows(&cluster.agents[0], "web", Status::Alive)?;
        shows(&cluster.agents[0], "echo", Status::Draining)
    });
    command(&cluster.agents[0], &echo, "undrain");
    cluster.agents[0].kill();
    cluster.agents[0].restart();
    eventually("that it is over is remembered, too", SETTLED, || {
        shows(&cluster.agents[0], "echo", Status::Alive)
    });
}

#[test]
fn go_sidecars_follow_a_drain_and_an_undrain() {
    const LEGACY: usize = 2;
    let lab = Lab::new(Machine::Shared, &["alpha", "beta", "legacy"]);
    let cluster = Cluster::start(&lab, 2);
    let timing = Timing {
        push_pull: Duration::from_secs(3),
        refresh: Duration::from_secs(4),
        ..Timing::GO
    };
    let network = Network::Host(Arc::clone(lab.host(LEGACY)));
    let legacy = LegacyPeer::start(network, "lab", timing);
    let seed = (lab.host(1).ip, GOSSIP_PORT).into();
    eventually("the legacy peer joins", SETTLED, || legacy.join(seed));
    let web = id(&cluster.agents[0], "web", "alpha");
    let all = |status: Status| {
        for agent in &cluster.agents {
            agent.expect_members(&["alpha", "beta", "legacy"])?;
        }
        legacy.expect_instances("web", &[("alpha", status), ("beta", Status::Alive)])?;
        cluster.shows(status)
    };
    eventually("all know all", SETTLED, || all(Status::Alive));

    let said = command(&cluster.agents[0], &web, "drain?wait=2s");
    assert_eq!(said["applied"]["confirmed"], json!(["alpha", "beta"]));
    assert_eq!(said["applied"]["not_asked"], json!(["legacy"]));
    eventually("the legacy peer follows", TOLD, || all(Status::Draining));
    let said = command(&cluster.agents[0], &web, "undrain?wait=2s");
    assert_eq!(said["status"], "Alive");
    assert_eq!(said["applied"]["confirmed"], json!(["alpha", "beta"]));
    let began = Instant::now();
    eventually("and takes it back", TOLD, || all(Status::Alive));
    println!(
        "Go has it back {:?} after the confirmation",
        began.elapsed()
    );

    // It misses the first of the two steps.
    command(&cluster.agents[0], &web, "drain?wait=2s");
    eventually("the legacy peer follows", TOLD, || all(Status::Draining));
    lab.cable(LEGACY, false);
    command(&cluster.agents[0], &web, "undrain?wait=2s");
    lab.cable(LEGACY, true);
    eventually("and takes it back all the same", SETTLED, || {
        all(Status::Alive)
    });
    throughout("for good", CHECKED, || all(Status::Alive));
    for agent in &cluster.agents {
        assert_eq!(agent.mentions("somebody else announces"), 0);
        assert_eq!(agent.mentions("panicked"), 0);
    }
}
