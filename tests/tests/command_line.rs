//! The operator's commands against real agents: what they print for people and for programs, how they end, and
//! that nothing of the network reaches a terminal raw.

#![cfg(target_os = "linux")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Output,
    time::Duration,
};

use blackbox::{
    API_PORT, Agent, AgentBuilder, Answer, Engine, Exit, GOSSIP_PORT, Host, IMAGE, Lab, Machine,
    Process, Responder, Status, eventually,
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// What agents tell each other is there within a second; the machine may be busy.
const SEEN: Duration = Duration::from_secs(15);
/// A host with three others is thought dead after 5 s.
const DEAD: Duration = Duration::from_secs(30);
/// Where the services of the test answer.
const REAL_PORT: u16 = 8300;

/// A service whose health is that of a path of the responder on its host.
fn service(name: &str, service_port: u16) -> Value {
    let url = format!("http://{{{{ host }}}}:{REAL_PORT}/{name}");
    json!({
        "Service": { "Name": name, "Ports": [{ "Port": REAL_PORT, "ServicePort": service_port }] },
        "Check": { "Type": "HttpGet", "Args": url },
    })
}

/// What a command said and how it ended.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("it writes UTF-8");
        Self {
            code: output.status.code().expect("it ends by itself"),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    #[track_caller]
    fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    #[track_caller]
    fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.out.contains(part), "no {part:?} in {self:?}");
        }
        self
    }

    /// One line on standard error, and nothing else.
    #[track_caller]
    fn complains(self, parts: &[&str]) -> Self {
        assert_eq!(self.out, "", "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        for part in parts {
            assert!(self.err.contains(part), "no {part:?} in {self:?}");
        }
        self
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A command line on a host, with nothing in its environment but this.
fn command(env: &[(&str, &str)], words: &[&str]) -> Vec<String> {
    let path = std::env::var("PATH").expect("there is a search path");
    let mut command = vec![
        "env".to_owned(),
        "-i".to_owned(),
        format!("PATH={path}:/usr/sbin:/sbin"),
    ];
    command.extend(env.iter().map(|(name, value)| format!("{name}={value}")));
    command.push(blackbox::sidecar().display().to_string());
    command.extend(words.iter().map(|word| (*word).to_owned()));
    command
}

fn run(host: &Host, env: &[(&str, &str)], words: &[&str]) -> Said {
    let command = command(env, words);
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    Said::of(&host.run(&command))
}

fn sidecar(host: &Host, words: &str) -> Said {
    run(host, &[], &words.split(' ').collect::<Vec<_>>())
}

fn watching(lab: &Lab, title: &str, words: &[&str]) -> Process {
    let command = command(&[], words);
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    lab.program(0, title, &command)
}

/// The ID under which a host announces a service.
fn id_of(agent: &Agent, service: &str, host: &str) -> String {
    let instances = agent.instances(service).expect("the API answers");
    let found = instances.into_iter().find(|it| it.host == host);
    found.unwrap_or_else(|| panic!("no {service} on {host}")).id
}

/// Two hosts: alpha has web, shop, which asks for the same service port, and lame, whose check fails; beta has
/// web and db.
struct Two {
    lab: Lab,
    alpha: Agent,
    beta: Agent,
    responders: Vec<Responder>,
}

fn two() -> Two {
    let lab = Lab::new(Machine::Shared, &["alpha", "beta"]);
    let responders = Responder::on_each(&lab, REAL_PORT);
    responders[0].set("/lame", Answer::status(503));
    let alpha = AgentBuilder::new(&lab, 0)
        .services(&[
            service("web", 10080),
            service("shop", 10080),
            service("lame", 10090),
        ])
        .start();
    let beta = AgentBuilder::new(&lab, 1)
        .services(&[service("web", 10080), service("db", 10432)])
        .start();
    let both = [("alpha", Status::Alive), ("beta", Status::Alive)];
    eventually("both know everything", SEEN, || {
        for agent in [&alpha, &beta] {
            agent.expect_instances("web", &both)?;
            agent.expect_instances("shop", &[("alpha", Status::Alive)])?;
            agent.expect_instances("lame", &[("alpha", Status::Unhealthy)])?;
            agent.expect_instances("db", &[("beta", Status::Alive)])?;
            let ready = agent.api("/ready").map_err(|error| error.to_string())?;
            if ready.status != 200 {
                return Err(ready.body);
            }
        }
        Ok(())
    });
    Two {
        lab,
        alpha,
        beta,
        responders,
    }
}

#[test]
fn members_and_services_are_tables_for_people_and_documents_for_programs() {
    let it = two();
    let host = it.lab.host(0);
    let members = sidecar(host, "members").ends(0);
    let lines: Vec<&str> = members.out.lines().collect();
    assert!(
        lines[0].starts_with("HOST   STATE  KIND     ADDRESS"),
        "{members:?}"
    );
    assert!(
        lines[1].starts_with("alpha  alive  sidecar  10.88.0.1"),
        "{members:?}"
    );
    assert!(
        lines[2].starts_with("beta   alive  sidecar  10.88.0.2"),
        "{members:?}"
    );
    assert!(
        !members.out.contains('\u{1b}'),
        "there is no terminal: {members:?}"
    );
    let document = sidecar(host, "members --json").ends(0).json();
    assert_eq!(document["hosts"][1]["name"], "beta");

    let services = sidecar(host, "services").ends(0);
    let line = |name: &str| {
        let line = services.out.lines().find(|line| line.starts_with(name));
        let words = line.unwrap_or_default().split_whitespace();
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        line("web"),
        ["web", "2", "0", "0", "0", "0", "2", "10080", "http"]
    );
    assert_eq!(
        line("lame"),
        ["lame", "0", "1", "0", "0", "0", "1", "10090", "http"]
    );
    let document = sidecar(host, "services --json").ends(0).json();
    assert_eq!(document["services"].as_array().map(Vec::len), Some(4));

    // The same from anywhere, by flag or variable.
    let address = format!("10.88.0.2:{API_PORT}");
    let there = run(host, &[("SIDECAR_ADDR", &address)], &["services", "web"]).ends(0);
    for name in ["alpha", "beta"] {
        let id = id_of(&it.beta, "web", name);
        assert!(there.out.contains(&id), "{there:?}");
    }
    sidecar(
        host,
        "services web --host beta --status alive --addr 10.88.0.2",
    )
    .ends(0)
    .says(&[
        "SERVICE",
        "web",
        "beta",
        "Alive",
        "10080→10.88.0.2:8300/tcp",
    ]);
    let document = sidecar(host, "services --status unhealthy --json")
        .ends(0)
        .json();
    assert_eq!(document["instances"][0]["name"], "lame");
    sidecar(host, "services wbe")
        .ends(1)
        .complains(&["did you mean web?"]);
    sidecar(host, "services db --host alpha")
        .ends(1)
        .complains(&["no instances of \"db\" on \"alpha\""]);
}

#[test]
fn explain_walks_to_the_cause() {
    let mut it = two();
    let host = it.lab.host(0).clone();
    let web = id_of(&it.alpha, "web", "alpha");
    // Which of the two has the port is decided by age and name; here only that one has it.
    let routes = it.alpha.api("/api/v2/routes").expect("the API answers");
    let routes: Value = serde_json::from_str(&routes.body).expect("JSON");
    let owner = routes["routes"].as_array().expect("routes");
    let owner = owner
        .iter()
        .find(|it| it["service_port"] == 10080)
        .expect("a route");
    let (owner, other) = if owner["service"] == "web" {
        ("web", "shop")
    } else {
        ("shop", "web")
    };

    sidecar(&host, "explain db").ends(0).says(&[
        "db ",
        "at beta: routed on alpha",
        "✓ check    it is checked at beta → sidecar explain",
        "✓ record   it is Alive",
        "✓ host     beta at 10.88.0.2",
        "✓ route    10432 leads to 10.88.0.2:8300",
    ]);
    eventually("the proxy is seen to listen", SEEN, || {
        let said = sidecar(&host, &format!("explain {owner}"));
        let listens = "✓ proxy    the built-in proxy listens at 192.168.168.168:10080";
        let is_good = said.code == 0 && said.out.contains(listens);
        is_good.then_some(()).ok_or_else(|| format!("{said:?}"))
    });
    sidecar(&host, &format!("explain {other}")).ends(1).says(&[
        "not routed on alpha",
        &format!("✗ route    10080 does not lead to it: the ServicePort belongs to {owner}"),
        "who has it: sidecar explain 10080",
    ]);
    sidecar(&host, "explain 10080").ends(0).says(&[
        &format!("10080 leads to {owner} in mode http"),
        &format!("! excluded {other}"),
    ]);
    sidecar(&host, "explain lame").ends(1).says(&[
        "✗ check    HttpGet http://10.88.0.1:8300/lame failed",
        "503",
        "→ curl -i http://10.88.0.1:8300/lame",
        "✗ record   it is Unhealthy",
    ]);
    sidecar(&host, &format!("explain {}", &web[..web.len() - 1])).says(&[&web]);
    sidecar(&host, "explain wbe").ends(1).says(&[
        "✗ record   nobody in the cluster announces it: it may be misspelt: web → sidecar explain web",
    ]);
    sidecar(&host, "explain 8300")
        .ends(1)
        .says(&["8300 is the real port of"]);
    let document = sidecar(&host, "explain lame --json").ends(1).json();
    assert_eq!(document["routed"], false);
    assert_eq!(document["parts"][0]["steps"][0]["step"], "source");

    // Its own host knows why, and says so from here, too.
    it.responders[1].set("/db", Answer::status(500));
    let failed = &[("beta", Status::Unhealthy)];
    eventually("db fails", SEEN, || it.alpha.expect_instances("db", failed));
    let there = format!(
        "sidecar explain {} --addr 10.88.0.2:7777",
        id_of(&it.alpha, "db", "beta")
    );
    sidecar(&host, "explain db")
        .ends(1)
        .says(&["its check at beta fails", &there]);
    sidecar(&host, "explain db --addr 10.88.0.2")
        .ends(1)
        .says(&["not routed on beta", "✗ check    HttpGet", "500"]);

    it.beta.kill();
    eventually("beta is dead", DEAD, || {
        let said = sidecar(&host, "explain db");
        let parts = [
            "record   it is Tombstone",
            "its host is dead",
            "✗ host     beta",
        ];
        let is_told = said.code == 1 && parts.iter().all(|part| said.out.contains(part));
        is_told.then_some(()).ok_or_else(|| format!("{said:?}"))
    });
}

#[test]
fn drain_and_undrain_tell_who_has_confirmed() {
    let mut it = two();
    let host = it.lab.host(0).clone();
    let db = id_of(&it.alpha, "db", "beta");
    let lame = id_of(&it.alpha, "lame", "alpha");

    // By name, with everybody's word.
    let said = sidecar(&host, "drain web --timeout 10m --wait").ends(0);
    let said = said.says(&[
        "of web on alpha is Draining until ",
        "\nconfirmed by alpha, beta\n",
    ]);
    assert_eq!(said.out.lines().count(), 2, "{said:?}");
    for agent in [&it.alpha, &it.beta] {
        let drained = [("alpha", Status::Draining), ("beta", Status::Alive)];
        agent
            .expect_instances("web", &drained)
            .expect("all have confirmed");
    }
    sidecar(&host, "explain web").says(&["record   it is Draining", "sidecar undrain "]);
    let document = sidecar(&host, "undrain web --wait=10s --json")
        .ends(0)
        .json();
    assert_eq!(document["applied"]["confirmed"], json!(["alpha", "beta"]));
    assert_eq!(document["status"], "Alive");

    // By the beginning of an ID, without waiting.
    let said = sidecar(&host, &format!("drain {}", &lame[..lame.len() - 1])).ends(0);
    assert_eq!(said.out, format!("{lame} of lame on alpha is Draining\n"));
    sidecar(&host, &format!("undrain {lame}")).ends(0);

    // Of another host: the complaint has the command, which wants a token.
    let there = format!("sidecar drain {db} --addr 10.88.0.2:7777 --token-file FILE");
    sidecar(&host, "drain db")
        .ends(1)
        .complains(&["runs on beta, not on alpha", &there]);
    let words = format!("drain {db} --addr 10.88.0.2");
    sidecar(&host, &words)
        .ends(4)
        .complains(&["the agent at 10.88.0.2:7777 refuses: "]);
    sidecar(&host, "drain nothing")
        .ends(1)
        .complains(&["no instance has the ID or the name"]);
    let token = "0123456789abcdef0123456789abcdef";
    it.beta.set("SIDECAR_API_TOKEN", token);
    it.beta.restart();
    eventually("beta has its services again", SEEN, || {
        it.beta.expect_instances("db", &[("beta", Status::Alive)])
    });
    let file = it
        .lab
        .write("token", &format!("{token}\n"))
        .display()
        .to_string();
    let words = format!("drain db --addr 10.88.0.2 --token-file {file}");
    sidecar(&host, &words)
        .ends(0)
        .says(&["of db on beta is Draining"]);
    it.lab.write("token", "fedcba9876543210fedcba9876543210\n");
    let refused = sidecar(&host, &words).ends(4);
    assert!(!refused.err.contains("fedcba"), "{refused:?}");

    // Who cannot answer has not confirmed.
    it.lab.cable(1, false);
    let said = sidecar(&host, "drain web --wait=1s").ends(5);
    said.says(&[
        "is Draining",
        "confirmed by alpha",
        "not confirmed within 1s by beta",
    ]);
    it.lab.cable(1, true);
}

#[test]
fn watch_shows_changes_goes_on_after_a_restart_and_ends_cleanly() {
    let mut it = two();
    let mut people = watching(&it.lab, "watch-people", &["watch"]);
    let mut programs = watching(
        &it.lab,
        "watch-programs",
        &["watch", "--service", "db", "--json"],
    );
    // Both have to be connected before something happens.
    let wait_for = |process: &Process, what: &str| {
        eventually(what, SEEN, || {
            let log = process.log();
            log.contains(what).then_some(()).ok_or(log)
        });
    };
    let mut is_up = false;
    eventually("both see a change", SEEN, || {
        // Until they listen, changes pass them by.
        is_up = !is_up;
        let answer = if is_up {
            Answer::status(500)
        } else {
            Answer::ok("")
        };
        it.responders[1].set("/db", answer);
        let status = if is_up {
            Status::Unhealthy
        } else {
            Status::Alive
        };
        eventually("the change is known", SEEN, || {
            it.alpha.expect_instances("db", &[("beta", status)])
        });
        let logs = (people.log(), programs.log());
        let both = !logs.0.is_empty() && !logs.1.is_empty();
        both.then_some(()).ok_or_else(|| format!("{logs:?}"))
    });
    wait_for(&people, "Alive → Unhealthy");
    it.responders[1].set("/db", Answer::ok(""));
    let fine = &[("beta", Status::Alive)];
    eventually("db is fine", SEEN, || it.alpha.expect_instances("db", fine));
    wait_for(&programs, "\"Alive\"");

    it.alpha.restart();
    wait_for(&people, "is lost");
    wait_for(&people, "connected again after");
    wait_for(&people, "some changes were missed");
    it.responders[1].set("/db", Answer::status(500));
    let last = || {
        let log = people.log();
        let after = log
            .rsplit("connected again")
            .next()
            .unwrap_or_default()
            .to_owned();
        let is_there = after.contains("db") && after.contains("→ Unhealthy");
        is_there.then_some(()).ok_or(log)
    };
    eventually("the change after the restart is seen", SEEN, last);

    for process in [&mut people, &mut programs] {
        process.signal(Signal::INT);
        assert_eq!(process.ends(SEEN).0, Exit::Code(0));
    }
    for line in programs.log().lines().filter(|line| line.starts_with('{')) {
        let change: Value = serde_json::from_str(line).expect("an object a line");
        assert_eq!(change["instance"]["name"], "db");
    }
    assert!(programs.log().lines().any(|line| line.starts_with('{')));
}

#[test]
fn watch_ends_when_nobody_reads_it_any_more() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let _agent = AgentBuilder::new(&lab, 0).start();
    let program = blackbox::sidecar().display().to_string();
    // Nothing changes, so that nothing is written.
    let script = format!("{{ {program} watch; echo \"ended with $?\" >&2; }} | true");
    let mut shell = lab.program(0, "closed", &["bash", "-c", &script]);
    assert_eq!(shell.ends(SEEN).0, Exit::Code(0));
    assert_eq!(shell.log().trim(), "ended with 0");
}

#[test]
fn exit_codes_and_complaints_tell_what_went_wrong() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let host = lab.host(0);
    for words in [
        "members",
        "services",
        "watch",
        "explain web",
        "drain web",
        "undrain web",
    ] {
        sidecar(host, words).ends(3).complains(&[
            "cannot reach the agent at 127.0.0.1:7777: connection refused; is it running?",
        ]);
    }
    let bind = ("SIDECAR_HTTP_BIND", "0.0.0.0:7070");
    run(host, &[bind], &["members"])
        .ends(3)
        .complains(&["127.0.0.1:7070"]);
    for words in [
        "members --bogus",
        "drain",
        "drain web --timeout soon",
        "drain web --wait=never",
        "services --status well",
        "completions tcsh",
    ] {
        let said = sidecar(host, words).ends(2);
        assert_eq!(said.out, "", "{said:?}");
    }
    sidecar(host, "members --addr a/b")
        .ends(2)
        .complains(&["--addr=\"a/b\""]);
    sidecar(host, "members --ca /no/such/file --tls")
        .ends(2)
        .complains(&["/no/such/file"]);
    // Of the agent itself, as ever.
    sidecar(host, "--bogus").ends(1);

    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 7070));
    let refusing = Responder::start(host, at);
    for (status, code) in [(403, 4), (421, 4), (401, 4), (500, 1), (404, 1), (302, 1)] {
        let body = r#"{"status":"error","message":"because \u001b[31m"}"#.to_owned();
        refusing.set("/api/v2/hosts", Answer { status, body });
        let said = sidecar(host, "members --addr 127.0.0.1:7070").ends(code);
        said.complains(&["127.0.0.1:7070", r"because \u{1b}[31m"]);
    }
    refusing.set("/api/v2/hosts", Answer::ok("[]"));
    sidecar(host, "members --addr 127.0.0.1:7070")
        .ends(1)
        .complains(&["of another version"]);
    sidecar(host, "members --addr https://127.0.0.1:7070")
        .ends(3)
        .complains(&["https://127.0.0.1:7070"]);
}

#[test]
fn names_of_the_network_do_not_reach_the_terminal_raw() {
    let hostile = "w\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}eb";
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let host = lab.host(0);
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 7070));
    let evil = Responder::start(host, at);
    let instance = json!({ "id": hostile, "name": hostile, "hostname": hostile, "status": hostile,
        "version": hostile, "created": hostile, "updated": hostile, "mode": hostile,
        "ports": [{ "type": hostile, "port": 1, "service_port": 2, "ip": hostile }] });
    let instances = json!({ "version": 1, "instances": [instance] });
    let change = json!({ "id": "1-1", "at": hostile, "latency_ms": 1, "derived": false,
        "previous": hostile, "instance": instance });
    let overview = json!({ "hostname": hostile, "cluster_name": hostile, "ready": true, "now": hostile,
        "agent_version": hostile, "trouble": [hostile],
        "proxy": { "plane": hostile, "bind_ip": hostile } });
    let hosts = json!({ "version": 1, "hosts": [{ "name": hostile, "state": hostile, "kind": hostile,
        "address": hostile, "last_updated": hostile }] });
    let services = json!({ "version": 1, "services": [{ "name": hostile, "mode": hostile }] });
    let excluded = json!([{ "service_port": 2, "service": hostile, "hostname": hostile, "id": hostile,
        "reason": hostile, "explanation": hostile }]);
    let local = json!({
        "sources": { hostile: { "state": hostile, "trouble": hostile } },
        "remarks": [{ "source": hostile, "subject": hostile, "remarks": [hostile] }],
        "checks": { hostile: { "kind": hostile, "args": hostile, "notices": [hostile],
            "last": { "healthy": false, "summary": hostile, "output": hostile } } } });
    let proxy = json!({ "ports": [{ "service_port": 2, "service": hostile, "trouble": hostile }] });
    // As a hostile agent would write it: JSON allows all of these but the first raw.
    for (path, document) in [
        ("/api/v2/overview", &overview),
        ("/api/v2/hosts", &hosts),
        ("/api/v2/services", &services),
        ("/api/v2/instances", &instances),
        ("/api/v2/instances?service=x", &instances),
        (
            "/api/v2/routes",
            &json!({ "routes": [], "excluded": excluded }),
        ),
        ("/api/v2/local", &local),
        ("/api/v2/proxy", &proxy),
    ] {
        evil.set(path, Answer::ok(&document.to_string()));
    }
    let events = format!("event: change\nid: {hostile}\ndata: {change}\n\n");
    evil.set("/api/v2/events?topics=changes", Answer::ok(&events));
    evil.set("/metrics", Answer::ok(hostile));
    let drained = json!({ "id": hostile, "name": hostile, "hostname": hostile, "status": hostile,
        "until": hostile, "applied": { "confirmed": [hostile], "unconfirmed": [hostile] } });
    let encoded = "w%1B%5D0%3Bowned%07%C2%9B31m%E2%80%AEeb";
    let path = format!("/api/v2/instances/{encoded}/drain");
    evil.set(&path, Answer::ok(&drained.to_string()));
    let is_harmless = |text: &str| {
        let harmful = |char: char| char.is_control() && char != '\n' || char == '\u{202e}';
        assert!(!text.contains(harmful), "{text:?}");
        assert!(text.contains(r"\u{1b}]0;owned"), "{text:?}");
    };
    let address = ["--addr", "127.0.0.1:7070"];
    for words in [
        &["members"][..],
        &["services"],
        &["services", "x"],
        &["explain", hostile],
        &["explain", "2"],
        &["explain", "eb"],
        &["drain", hostile],
        &["doctor"],
    ] {
        let said = run(host, &[], &[words, &address].concat());
        is_harmless(&format!("{}{}", said.out, said.err));
    }
    for words in [&["members", "--json"][..], &["services", "--json"]] {
        let said = run(host, &[], &[words, &address].concat()).ends(0);
        let is_control = |char: char| char.is_control() && char != '\n';
        assert!(!said.out.contains(is_control), "{said:?}");
        assert!(said.json().to_string().contains("owned"), "{said:?}");
    }
    let mut watch = watching(&lab, "watch", &[&["watch"][..], &address].concat());
    eventually("the change is shown", SEEN, || {
        let log = watch.log();
        log.contains("after 1 ms").then_some(()).ok_or(log)
    });
    is_harmless(&watch.log());
    watch.signal(Signal::INT);
    assert_eq!(watch.ends(SEEN).0, Exit::Code(0));
}

#[test]
fn an_agent_that_speaks_tls_is_known_by_its_certificate_on_its_own_host() {
    let lab = Lab::new(Machine::Shared, &["solo", "other"]);
    let host = lab.host(0);
    blackbox::require("openssl");
    let [cert, key] = ["cert.pem", "key.pem"].map(|it| lab.dir().join(it).display().to_string());
    let curve = "ec_paramgen_curve:prime256v1";
    host.said(&[
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        curve,
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=elsewhere",
        "-addext",
        "subjectAltName=IP:10.88.0.1",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
        "-keyout",
        &key,
        "-out",
        &cert,
    ]);
    let _agent = AgentBuilder::new(&lab, 0)
        .env("SIDECAR_API_TLS_CERT", &cert)
        .env("SIDECAR_API_TLS_KEY", &key)
        .launch();
    let env = [("SIDECAR_API_TLS_CERT", cert.as_str())];
    eventually("it answers its own host", SEEN, || {
        let said = run(host, &env, &["members"]);
        let is_there = said.code == 0 && said.out.contains("solo");
        is_there.then_some(()).ok_or_else(|| format!("{said:?}"))
    });
    let there = ["members", "--addr", "https://10.88.0.1", "--ca", &cert];
    run(lab.host(1), &[], &there).ends(0).says(&["solo"]);
    run(lab.host(1), &[], &there[..3])
        .ends(3)
        .complains(&["cannot reach the agent at https://"]);
    sidecar(host, "members")
        .ends(1)
        .complains(&["this port speaks TLS"]);
}

#[test]
fn explain_finds_containers_that_are_not_announced() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let host = lab.host(0);
    let engine = Engine::start(&lab, host, "page");
    let hidden = [
        "--label",
        "ServiceName=cart",
        "--label",
        "SidecarDiscover=false",
    ];
    for (name, options) in [
        ("cart-1", &hidden[..]),
        ("jobs-1", &["--label", "ServiceName=jobs"]),
    ] {
        engine.docker(&[&["run", "-d", "--name", name], options, &[IMAGE]].concat());
    }
    let url = engine.url();
    let env = [
        ("SIDECAR_DISCOVERY", "docker"),
        ("DOCKER_URL", url.as_str()),
    ];
    let _agent = AgentBuilder::new(&lab, 0)
        .env("SIDECAR_DISCOVERY", "docker")
        .env("DOCKER_URL", &url)
        .start();
    run(host, &env, &["explain", "cart"]).ends(1).says(&[
        "✗ source   container cart-1 (",
        "is not announced: its label SidecarDiscover=false hides it",
        "✗ record   nobody in the cluster announces it",
    ]);
    sidecar(host, "explain jobs")
        .ends(1)
        .says(&["✗ ports    it asks for no service port"]);
    engine.docker(&["kill", "jobs-1"]);
    eventually("the other is known to have ended", SEEN, || {
        let said = run(host, &env, &["explain", "jobs"]);
        let is_told = said.code == 1 && said.out.contains("it does not run: Exited (137)");
        is_told.then_some(()).ok_or_else(|| format!("{said:?}"))
    });
    let well = run(host, &env, &["doctor"]);
    well.says(&[&format!("✓ docker   the engine at {url} answers, API 1.")]);
}

#[test]
fn completions_are_a_script_that_bash_takes_and_offers_commands_from() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let host = lab.host(0);
    let script = sidecar(host, "completions bash").ends(0).out;
    let path = lab.write("completions.bash", &script).display().to_string();
    host.said(&["bash", "-n", &path]);
    let ask = format!(
        "source {path} && COMP_WORDS=(sidecar und) COMP_CWORD=1 && _sidecar sidecar und sidecar && \
         echo \"${{COMPREPLY[@]}}\""
    );
    assert_eq!(host.said(&["bash", "-c", &ask]).trim(), "undrain");
    for shell in ["zsh", "fish"] {
        sidecar(host, &format!("completions {shell}"))
            .ends(0)
            .says(&["undrain"]);
    }
}

#[test]
fn config_is_there_for_programs_too() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let host = lab.host(0);
    let env = [("SIDECAR_BIND_PORT", "7000"), ("SIDECAR_ADDR", "elsewhere")];
    let document = run(host, &env, &["config", "--json"]).ends(0).json();
    assert_eq!(document["valid"], true);
    assert_eq!(document["warnings"], json!([]), "SIDECAR_ADDR is known");
    let settings = document["settings"].as_array().expect("settings");
    let port = settings.iter().find(|it| it["name"] == "SIDECAR_BIND_PORT");
    let wanted = json!({ "name": "SIDECAR_BIND_PORT", "value": "7000", "source": "environment" });
    assert_eq!(port, Some(&wanted));
    let bad = run(host, &[("SIDECAR_BIND_PORT", "no")], &["config", "--json"]).ends(1);
    assert_eq!(bad.json()["errors"][0]["name"], "SIDECAR_BIND_PORT");
}

#[test]
fn doctor_finds_nothing_where_all_is_well() {
    let it = two();
    let file = it.lab.dir().join("static-alpha.json").display().to_string();
    let env = [
        ("SIDECAR_CLUSTER_NAME", "lab"),
        ("SIDECAR_ADVERTISE_IP", "10.88.0.1"),
        ("SIDECAR_SEEDS", "10.88.0.2"),
        ("SIDECAR_DISCOVERY", "static"),
        ("STATIC_CONFIG_FILE", &file),
    ];
    let host = it.lab.host(0);
    let well = run(host, &env, &["doctor"]).ends(0);
    let well = well.says(&[
        "✓ config   the configuration is usable",
        "✓ agent    the agent 0.1.0 of alpha answers at 127.0.0.1:7777 and is ready",
        "✓ clock    ",
        "✓ gossip   gossip port 0.0.0.0:7946 is in use while the agent runs",
        "✓ address  other hosts reach this one at 10.88.0.1",
        "✓ bind-ip  192.168.168.168 is on an interface",
        "names 3 services",
        "✓ seeds    10.88.0.2:7946 answers on its gossip port",
        "\nall fine\n",
    ]);
    assert!(!well.out.contains('✗'), "{well:?}");
    // Of another host only what its agent says.
    let there = sidecar(host, "doctor --addr 10.88.0.2")
        .ends(0)
        .says(&["of beta answers"]);
    assert!(!there.out.contains("gossip"), "{there:?}");
    let document = run(host, &env, &["doctor", "--json"]).ends(0).json();
    assert_eq!(document["ok"], true);
    // A service port that somebody else has.
    let taken = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 10444));
    let _taken = host.listen(taken);
    it.lab.write(
        "static-alpha.json",
        &json!([service("late", 10444)]).to_string(),
    );
    eventually("the port is found taken", SEEN, || {
        let said = run(host, &env, &["doctor"]);
        let line = "✗ services late: cannot listen at 192.168.168.168 port 10444";
        let is_told = said.code == 1 && said.out.contains(line) && said.out.contains("(pid ");
        is_told.then_some(()).ok_or_else(|| format!("{said:?}"))
    });
}

#[test]
fn doctor_names_cause_and_fix_of_what_is_wrong() {
    let lab = Lab::new(Machine::Shared, &["solo", "seed"]);
    let host = lab.host(0);
    let file = lab.write("bad.json", "[\n  {\"Service\": {\"Name\": \"web\"}},\n]");
    let file = file.display().to_string();
    let keys = lab.write("keys", "not a key\n").display().to_string();
    let _gossip = host.listen((Ipv4Addr::UNSPECIFIED, GOSSIP_PORT).into());
    let env = [
        ("SIDECAR_ADVERTISE_IP", "10.88.0.1"),
        ("SIDECAR_SEEDS", "10.88.0.2,10.88.0.2:7000"),
        ("SIDECAR_DISCOVERY", "docker,static"),
        ("DOCKER_URL", "unix:///no/such/docker.sock"),
        ("STATIC_CONFIG_FILE", &file),
        ("SIDECAR_GOSSIP_KEY_FILE", &keys),
        ("SIDECAR_PROXY", "haproxy"),
        ("SIDECAR_HAPROXY_BINARY", "/no/such/haproxy"),
    ];
    let said = run(host, &env, &["doctor"]).ends(1).says(&[
        "✗ agent    cannot reach the agent at 127.0.0.1:7777: connection refused → is it running?",
        "✗ gossip   gossip port 0.0.0.0:7946 is taken: ",
        "(pid ",
        "→ stop it, or set SIDECAR_BIND_PORT: ss -lntup 'sport = :7946'",
        "✓ api      API port 0.0.0.0:7777 is free",
        "✗ docker   the engine at unix:///no/such/docker.sock cannot be asked: cannot connect",
        "→ systemctl start docker",
        "line 3, column 1",
        "→ sidecar static check",
        "✗ seeds    10.88.0.2:7946 does not answer",
        "✗ seeds    10.88.0.2:7000 does not answer",
        "✗ haproxy  /no/such/haproxy cannot be started",
        "✗ keys     the gossip keys cannot be read",
        "failed,",
    ]);
    for line in said.out.lines().filter(|line| line.starts_with('✗')) {
        assert!(
            line.contains(": ") && line.contains(" → "),
            "no cause and fix: {line}"
        );
    }
    let document = run(host, &env, &["doctor", "--json"]).ends(1).json();
    assert_eq!(document["ok"], false);
    // Without privileges the bind address cannot be added, and that is tried.
    let path = blackbox::sidecar().display().to_string();
    let unprivileged = [
        "setpriv",
        "--bounding-set",
        "-all",
        "--inh-caps",
        "-all",
        &path,
        "doctor",
    ];
    let said = Said::of(&host.run(&unprivileged));
    let said =
        said.says(&["✗ bind-ip  192.168.168.168 is on no interface, and this user may not add it"]);
    assert_eq!(said.code, 1);
    let bad = run(host, &[("SIDECAR_HTTP_BIND", "here")], &["doctor"]).ends(1);
    bad.says(&["✗ config   SIDECAR_HTTP_BIND=\"here\" is not usable: expected IP:PORT"]);
}
