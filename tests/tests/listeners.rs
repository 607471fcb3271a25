//! Webhooks: who is named as a listener gets every change with the whole state.

#![cfg(target_os = "linux")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::Duration,
};

use blackbox::{Agent, AgentBuilder, Engine, Host, IMAGE, Lab, Machine, eventually};
use serde_json::{Value, json};

/// A start of a container, and what the engine needs for it.
const STARTED: Duration = Duration::from_secs(20);

/// A request for an event: its path, its cookie and its document.
#[derive(Debug, Clone)]
struct Event {
    path: String,
    cookie: String,
    body: Value,
}

impl Event {
    fn is_about(&self, service: &str, status: u64) -> bool {
        let change = &self.body["ChangeEvent"]["Service"];
        change["Name"] == service && change["Status"] == status
    }
}

/// A receiver that answers with the status set.
struct Hook {
    taken: Arc<Mutex<Vec<Event>>>,
    status: Arc<AtomicU16>,
}

impl Hook {
    fn start(host: &Host, port: u16) -> Self {
        let listener = host.listen((Ipv4Addr::UNSPECIFIED, port).into());
        let hook = Self {
            taken: Arc::default(),
            status: Arc::new(AtomicU16::new(200)),
        };
        let (taken, status) = (Arc::clone(&hook.taken), Arc::clone(&hook.status));
        thread::spawn(move || serve(&listener, &taken, &status));
        hook
    }

    fn answer(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    fn taken(&self) -> Vec<Event> {
        self.taken.lock().expect("nobody panics with it").clone()
    }

    fn gets(&self, service: &str, status: u64) -> Event {
        let what = format!("an event says that {service} is {status}");
        eventually(&what, STARTED, || {
            let taken = self.taken();
            let found = taken.iter().find(|it| it.is_about(service, status));
            found.cloned().ok_or_else(|| format!("{taken:?}"))
        })
    }
}

fn serve(listener: &TcpListener, taken: &Mutex<Vec<Event>>, status: &AtomicU16) {
    for mut stream in listener.incoming().flatten() {
        let Some(event) = read(&stream) else { continue };
        taken.lock().expect("nobody panics with it").push(event);
        let status = status.load(Ordering::SeqCst);
        let answer = format!("HTTP/1.1 {status} As told\r\ncontent-length: 0\r\n\r\n");
        // A client that goes away is its own affair.
        let _ = stream.write_all(answer.as_bytes());
    }
}

fn read(stream: &TcpStream) -> Option<Event> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.strip_prefix("POST ")?.split(' ').next()?.to_owned();
    let (mut cookie, mut length) = (String::new(), 0);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "cookie" => value.clone_into(&mut cookie),
            "content-length" => length = value.parse().ok()?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = serde_json::from_slice(&body).ok()?;
    Some(Event { path, cookie, body })
}

fn service(name: &str) -> Value {
    json!({
        "Service": { "Name": name, "Image": name, "Ports": [] },
        "Check": { "Type": "AlwaysSuccessful" },
    })
}

fn edit(lab: &Lab, targets: &[Value]) {
    lab.write("services.json", &Value::from(targets.to_vec()).to_string());
}

fn agent(lab: &Lab) -> AgentBuilder<'_> {
    let file = lab.dir().join("services.json");
    AgentBuilder::new(lab, 0)
        .env("SIDECAR_PROXY", "none")
        .env("STATIC_CONFIG_FILE", &file.display().to_string())
}

fn listeners(agent: &Agent) -> Value {
    let answer = agent.api("/api/v2/local").expect("the API answers");
    let local: Value = serde_json::from_str(&answer.body).expect("it is JSON");
    local["listeners"].clone()
}

#[test]
fn listeners_urls_get_a_post_for_each_change_and_the_last_state_after_an_outage() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let hook = Hook::start(lab.host(0), 9100);
    edit(&lab, &[service("first")]);
    let urls = "http://user:secret@127.0.0.1:9100/hook, http://127.0.0.1:9101/nobody";
    let agent = agent(&lab)
        .env("SIDECAR_DISCOVERY", "static")
        .env("LISTENERS_URLS", urls)
        .start();
    let event = hook.gets("first", 0);
    assert_eq!(event.path, "/hook");
    assert!(
        event.cookie.starts_with("sidecar-session-host=\"solo-20"),
        "{}",
        event.cookie
    );
    assert_eq!(event.body["State"]["Hostname"], "solo");
    let log = agent.log();
    assert!(!log.contains("secret"), "passwords are not logged: {log}");

    hook.answer(500);
    edit(&lab, &[service("first"), service("second")]);
    eventually("it is tried several times, whole", STARTED, || {
        let taken = hook.taken();
        let tries = taken.iter().filter(|it| it.is_about("second", 0));
        let tries = tries.filter(|it| it.body["State"]["Servers"]["solo"].is_object());
        (tries.count() >= 3)
            .then_some(())
            .ok_or_else(|| format!("{taken:?}"))
    });
    edit(&lab, &[service("second"), service("third")]);
    eventually("there are the new services", STARTED, || {
        agent.expect_instances("third", &[("solo", blackbox::Status::Alive)])
    });
    hook.answer(200);
    eventually("the last state arrives", STARTED, || {
        let shown = listeners(&agent);
        let shown = shown
            .as_object()
            .and_then(|all| {
                all.values()
                    .find(|it| it["url"].to_string().contains("9100"))
            })
            .cloned()
            .unwrap_or_default();
        let last = hook.taken().pop().expect("there were events");
        let services = last.body["State"]["Servers"]["solo"]["Services"].to_string();
        (shown["trouble"].is_null() && services.contains("third"))
            .then_some(())
            .ok_or_else(|| format!("{shown}, {services}"))
    });
    // The other one never answers, which is shown and delays nobody.
    let shown = listeners(&agent).to_string();
    assert!(
        shown.contains("cannot connect to 127.0.0.1:9101"),
        "{shown}"
    );
    let metrics = agent.metrics("sidecar_listener_events_total");
    let delivered = metrics.expect("the API answers");
    assert!(
        delivered
            .iter()
            .any(|(name, count)| name.contains("delivered") && *count >= 2.0),
        "{delivered:?}"
    );
}

#[test]
fn the_label_sidecar_listener_and_listen_port_listen_as_long_as_their_instances_are_there() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let engine = Engine::start(&lab, lab.host(0), "container\n");
    // The container is in the host's network, where the test answers in its place.
    let (boxed, listed) = (
        Hook::start(lab.host(0), 8100),
        Hook::start(lab.host(0), 8200),
    );
    let mut listening = service("listed");
    listening["ListenPort"] = json!(8200);
    edit(&lab, &[listening.clone()]);
    let agent = agent(&lab)
        .env("SIDECAR_DISCOVERY", "docker static")
        .env("DOCKER_URL", &engine.url())
        .start();
    let labels = [
        "ServiceName=boxed",
        "SidecarNetwork=host",
        "ServicePort_8100=9500",
        "SidecarListener=9500",
        "HealthCheck=AlwaysSuccessful",
    ];
    let labels = labels.iter().flat_map(|label| ["-l", *label]);
    let run = ["run", "-d", "--network", "host", "--name", "boxed"];
    let run: Vec<&str> = run.into_iter().chain(labels).chain([IMAGE]).collect();
    engine.docker(&run);
    eventually("both are listeners", STARTED, || {
        let names = listeners(&agent).to_string();
        let both = names.contains("Service(boxed-") && names.contains("Service(listed-");
        both.then_some(()).ok_or(names)
    });
    edit(&lab, &[listening.clone(), service("news")]);
    for hook in [&boxed, &listed] {
        assert_eq!(hook.gets("news", 0).path, "/sidecar/update");
    }
    engine.docker(&["rm", "-f", "boxed"]);
    // Its end is a change like others.
    listed.gets("boxed", 1);
    eventually("one is left", STARTED, || {
        let names = listeners(&agent).to_string();
        (!names.contains("boxed")).then_some(()).ok_or(names)
    });
    let before = boxed.taken().len();
    edit(&lab, &[listening, service("more")]);
    listed.gets("more", 0);
    edit(&lab, &[service("more")]);
    eventually("none is left", STARTED, || {
        let names = listeners(&agent);
        (names == json!({}))
            .then_some(())
            .ok_or_else(|| names.to_string())
    });
    assert_eq!(boxed.taken().len(), before);
}
