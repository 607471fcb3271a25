//! The source against an engine of our own on a Unix socket, written byte by byte, so that a test
//! says exactly what comes when.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::{Mutex, mpsc},
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{engine::Engine, *};
use crate::discovery::{Instance, SourceEvent, SourceName};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

const A: &str = "aaaaaaaaaaaa0000000000000000000000000000000000000000000000000000";
const B: &str = "bbbbbbbbbbbb0000000000000000000000000000000000000000000000000000";

/// What the engine runs, as it lists it.
type Containers = Arc<Mutex<Vec<Value>>>;

struct FakeEngine {
    containers: Containers,
    /// The event connections, in the order they were opened.
    streams: mpsc::Receiver<UnixStream>,
    /// Request lines, in order.
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
    directory: tempfile::TempDir,
}

impl FakeEngine {
    fn start(containers: Vec<Value>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let containers: Containers = Arc::new(Mutex::new(containers));
        let requests = Arc::default();
        let (task, streams) = Self::serve(&directory, &containers, &requests);
        Self {
            containers,
            streams,
            requests,
            task,
            directory,
        }
    }

    fn serve(
        directory: &tempfile::TempDir,
        containers: &Containers,
        requests: &Arc<Mutex<Vec<String>>>,
    ) -> (JoinHandle<()>, mpsc::Receiver<UnixStream>) {
        let listener = UnixListener::bind(directory.path().join("docker.sock")).unwrap();
        let (sender, streams) = mpsc::channel(8);
        let (containers, requests) = (Arc::clone(containers), Arc::clone(requests));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                answer(stream, &containers, &requests, &sender).await;
            }
        });
        (task, streams)
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::Unix(self.directory.path().join("docker.sock"))
    }

    /// Stops listening, as an engine does that ends.
    async fn stop(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
        std::fs::remove_file(self.directory.path().join("docker.sock")).unwrap();
    }

    fn start_again(&mut self) {
        (self.task, self.streams) = Self::serve(&self.directory, &self.containers, &self.requests);
    }

    async fn event_stream(&mut self) -> UnixStream {
        let stream = timeout(PATIENCE, self.streams.recv()).await;
        stream
            .expect("a subscription in time")
            .expect("a running engine")
    }
}

impl Drop for FakeEngine {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers one request. Event connections get their head and are handed to the test.
async fn answer(
    mut stream: UnixStream,
    containers: &Containers,
    requests: &Mutex<Vec<String>>,
    streams: &mpsc::Sender<UnixStream>,
) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else {
            return;
        };
        request.push(byte);
    }
    let request = String::from_utf8(request).unwrap();
    let line = request.lines().next().unwrap().to_owned();
    requests.lock().await.push(line.clone());
    let path = line.split(' ').nth(1).unwrap();
    if path == "/_ping" {
        let head = "HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\nOK";
        stream.write_all(head.as_bytes()).await.unwrap();
    } else if path.starts_with("/v1.41/events?filters=%7B") {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
                    Transfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        streams.send(stream).await.unwrap();
    } else if let Some(id) = path
        .strip_prefix("/v1.41/containers/")
        .and_then(|it| it.strip_suffix("/json"))
    {
        let listed = containers.lock().await.clone();
        let found = listed.iter().find(|it| it["Id"] == id);
        let body = found
            .map_or_else(|| json!({}), |it| it["Inspected"].clone())
            .to_string();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        stream
            .write_all(format!("{head}{body}").as_bytes())
            .await
            .unwrap();
    } else if path.starts_with("/v1.41/containers/json") {
        let listed = containers.lock().await.clone();
        let asked = |it: &&Value| {
            let id = it["Id"].as_str().unwrap_or("none");
            path.ends_with("/json") || path.ends_with("?all=1") || path.contains(id)
        };
        let body = Value::from_iter(listed.iter().filter(asked).cloned()).to_string();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        stream
            .write_all(format!("{head}{body}").as_bytes())
            .await
            .unwrap();
    } else {
        let head = "HTTP/1.1 404 Not Found\r\nContent-Length: 26\r\n\r\n";
        let body = r#"{"message":"page not found"}"#;
        stream
            .write_all(format!("{head}{body}").as_bytes())
            .await
            .unwrap();
    }
}

fn container(id: &str, name: &str, public_port: u16) -> Value {
    json!({
        "Id": id, "Names": [format!("/{name}_1")], "Image": "acme/web:1", "Created": 1_770_110_127,
        "Labels": {"ServiceName": name, "ServicePort_80": "10100"}, "State": "running",
        "Ports": [
            {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": public_port, "Type": "tcp"},
            {"IP": "::", "PrivatePort": 80, "PublicPort": public_port, "Type": "tcp"},
        ],
    })
}

fn event(action: &str, id: &str) -> String {
    event_at(action, id, 1_000)
}

fn event_at(action: &str, id: &str, nanos: i64) -> String {
    let attributes = json!({"ServiceName": "web", "name": "web_1"});
    let actor = json!({"ID": id, "Attributes": attributes});
    json!({"Type": "container", "Action": action, "Actor": actor, "timeNano": nanos}).to_string()
        + "\n"
}

fn kill(signal: u8, id: &str) -> String {
    let actor = json!({"ID": id, "Attributes": {"signal": signal.to_string()}});
    json!({"Type": "container", "Action": "kill", "Actor": actor, "timeNano": 1_000}).to_string()
        + "\n"
}

/// Sends each piece as a chunk of its own.
async fn send(stream: &mut UnixStream, pieces: &[&str]) {
    for piece in pieces {
        let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
        stream.write_all(chunk.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
    }
}

/// The running source and what it says.
struct Source {
    events: mpsc::Receiver<(SourceName, SourceEvent)>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
    view: Arc<LocalView>,
}

impl Source {
    fn start(endpoint: Endpoint) -> Self {
        Self::with(config(endpoint))
    }

    fn with(config: DockerConfig) -> Self {
        let (sender, events) = mpsc::channel(1);
        let shutdown = CancellationToken::new();
        let view = Arc::clone(&config.view);
        let task = tokio::spawn(run(config, Resolver::default(), sender, shutdown.clone()));
        Self {
            events,
            shutdown,
            task,
            view,
        }
    }

    /// What `/api/v2/local` shows.
    fn shown(&self) -> Value {
        serde_json::from_str(&self.view.document().unwrap()).unwrap()
    }

    async fn silence(&mut self, period: Duration) {
        let silence = timeout(period, self.events.recv()).await;
        assert!(silence.is_err(), "{silence:?}");
    }

    async fn next(&mut self) -> String {
        let event = timeout(PATIENCE, self.events.recv()).await;
        let (source, event) = event.expect("an event in time").expect("a running source");
        assert_eq!(source, SourceName::Docker);
        let instance = |instance: &Instance| {
            let service = &instance.service;
            let ports: Vec<_> = service.port_list().iter().map(|it| it.port).collect();
            let health = instance.engine_health.as_ref();
            let health =
                health.map_or_else(String::new, |it| format!(" {:?} {}", it.healthy, it.output));
            format!("{} {} {ports:?}{health}", service.id, service.name)
        };
        match event {
            SourceEvent::Init => "init".into(),
            SourceEvent::InitApply(it) => format!("listed {}", instance(&it)),
            SourceEvent::InitDone => "done".into(),
            SourceEvent::Apply(it) => format!("apply {}", instance(&it)),
            SourceEvent::Delete { id } => format!("delete {id}"),
        }
    }

    /// A complete listing.
    async fn listing(&mut self) -> Vec<String> {
        assert_eq!(self.next().await, "init");
        let mut listed = Vec::new();
        loop {
            let next = self.next().await;
            if next == "done" {
                return listed;
            }
            listed.push(next);
        }
    }
}

fn config(endpoint: Endpoint) -> DockerConfig {
    let advertise_ip = "10.20.0.11".parse().unwrap();
    DockerConfig {
        endpoint,
        naming: Naming::default(),
        hold: None,
        hostname: "node-a".into(),
        advertise_ip,
        view: Arc::default(),
    }
}

#[tokio::test]
async fn lists_then_follows_starts_and_ends() {
    let mut engine = FakeEngine::start(vec![container(A, "web", 32768)]);
    let mut source = Source::start(engine.endpoint());
    assert_eq!(source.listing().await, ["listed aaaaaaaaaaaa web [32768]"]);
    let mut stream = engine.event_stream().await;

    engine
        .containers
        .lock()
        .await
        .push(container(B, "db", 32769));
    send(&mut stream, &[&event("create", B), &event("start", B)]).await;
    assert_eq!(source.next().await, "apply bbbbbbbbbbbb db [32769]");

    engine.containers.lock().await.remove(0);
    // `stop` and `destroy` repeat what `die` said; strangers' ends say nothing.
    let ends = [
        event("die", "cc"),
        event("die", A),
        event("stop", A),
        event("destroy", A),
    ];
    send(&mut stream, &ends.each_ref().map(String::as_str)).await;
    assert_eq!(source.next().await, "delete aaaaaaaaaaaa");

    // A restart with another port, and a start whose container is gone when it is looked at.
    engine.containers.lock().await[0] = container(B, "db", 40000);
    send(
        &mut stream,
        &[&event("start", A), &event("die", B), &event("start", B)],
    )
    .await;
    assert_eq!(source.next().await, "delete bbbbbbbbbbbb");
    assert_eq!(source.next().await, "apply bbbbbbbbbbbb db [40000]");

    let requests = engine.requests.lock().await.clone();
    let place = |what: &str| requests.iter().position(|it| it.contains(what)).unwrap();
    assert!(place("/events") < place("/containers/json"), "{requests:?}");
}

#[tokio::test]
async fn events_may_be_cut_anywhere() {
    let mut engine = FakeEngine::start(vec![container(A, "web", 32768)]);
    let mut source = Source::start(engine.endpoint());
    source.listing().await;
    let mut stream = engine.event_stream().await;
    let text = format!(
        "\n{}\r\n{}{}",
        event("pause", A),
        event("die", A),
        event("start", A)
    );
    let pieces: Vec<String> = text
        .as_bytes()
        .chunks(7)
        .map(|it| String::from_utf8(it.to_vec()).unwrap())
        .collect();
    send(
        &mut stream,
        &pieces.iter().map(String::as_str).collect::<Vec<_>>(),
    )
    .await;
    assert_eq!(source.next().await, "delete aaaaaaaaaaaa");
    assert_eq!(source.next().await, "apply aaaaaaaaaaaa web [32768]");
}

#[tokio::test]
async fn an_event_that_cannot_be_read_asks_for_a_listing() {
    let mut engine = FakeEngine::start(vec![container(A, "web", 32768)]);
    let mut source = Source::start(engine.endpoint());
    source.listing().await;
    let mut stream = engine.event_stream().await;
    engine.containers.lock().await.clear();
    send(&mut stream, &["{\"Type\":\"cont\n", "?\n"]).await;
    assert_eq!(source.listing().await, [""; 0]);
}

#[tokio::test]
async fn an_engine_that_ends_takes_nothing_with_it_and_is_listed_when_it_is_back() {
    let mut engine = FakeEngine::start(vec![container(A, "web", 32768)]);
    let mut source = Source::start(engine.endpoint());
    source.listing().await;
    let stream = engine.event_stream().await;
    engine.stop().await;
    drop(stream);
    let silence = timeout(Duration::from_millis(500), source.events.recv()).await;
    assert!(silence.is_err(), "{silence:?}");

    *engine.containers.lock().await = vec![container(B, "db", 32769)];
    engine.start_again();
    assert_eq!(source.listing().await, ["listed bbbbbbbbbbbb db [32769]"]);
    let mut stream = engine.event_stream().await;
    send(&mut stream, &[&event("die", B)]).await;
    assert_eq!(source.next().await, "delete bbbbbbbbbbbb");
}

#[tokio::test]
async fn a_container_that_cannot_be_read_hides_no_other_and_keeps_what_was_known_of_it() {
    let bad = |id: &str| json!({"Id": id, "Names": ["/odd"], "Created": "yesterday"});
    let containers = vec![bad(B), container(A, "web", 32768)];
    let mut engine = FakeEngine::start(containers);
    let mut source = Source::start(engine.endpoint());
    assert_eq!(source.listing().await, ["listed aaaaaaaaaaaa web [32768]"]);
    let mut stream = engine.event_stream().await;
    *engine.containers.lock().await = vec![bad(A), container(B, "db", 1)];
    send(&mut stream, &["?\n"]).await;
    assert_eq!(
        source.listing().await,
        [
            "listed aaaaaaaaaaaa web [32768]",
            "listed bbbbbbbbbbbb db [1]"
        ]
    );
}

#[tokio::test]
async fn a_hidden_container_is_never_announced() {
    let mut hidden = container(A, "web", 32768);
    hidden["Labels"]["SidecarDiscover"] = json!("false");
    let mut engine = FakeEngine::start(vec![hidden.clone()]);
    let mut source = Source::start(engine.endpoint());
    assert_eq!(source.listing().await, [""; 0]);
    let mut stream = engine.event_stream().await;
    engine.containers.lock().await.push(container(B, "db", 1));
    send(
        &mut stream,
        &[&event("start", A), &event("die", A), &event("start", B)],
    )
    .await;
    assert_eq!(source.next().await, "apply bbbbbbbbbbbb db [1]");
}

#[tokio::test]
async fn who_looks_for_a_container_is_told_why_it_is_not_announced() {
    let mut hidden = container(A, "web", 32768);
    hidden["Labels"]["SidecarDiscover"] = json!("false");
    let with = |state: &str, status: &str| {
        let mut container = container(B, "db", 1);
        container["Names"] = json!(["/db-1"]);
        container["State"] = json!(state);
        container["Status"] = json!(status);
        container
    };
    let engine = FakeEngine::start(vec![
        hidden,
        with("running", "Up 3 minutes"),
        with("exited", "Exited (1) 3 minutes ago"),
        with("paused", "Up 3 minutes (Paused)"),
        with("restarting", "Restarting (1) 2 seconds ago"),
    ]);
    let (naming, resolver) = (Naming::default(), Resolver::default());
    let seen = sightings(&engine.endpoint(), &naming, &resolver, PATIENCE).await;
    let seen: Vec<_> = seen
        .unwrap()
        .into_iter()
        .map(|it| {
            (
                it.service,
                it.absence.map(|it| format!("{}: {}", it.0, it.1)),
            )
        })
        .collect();
    let absence = |number: usize| seen[number].1.clone().unwrap_or_default();
    assert_eq!(seen[0].0, "web");
    assert!(absence(0).contains("SidecarDiscover=false"));
    assert_eq!(seen[1], ("db".to_owned(), None));
    let exited = "it does not run: Exited (1) 3 minutes ago: docker logs db-1, docker start db-1";
    assert_eq!(absence(2), exited);
    assert_eq!(absence(3), "it is paused: docker unpause db-1");
    assert!(absence(4).ends_with("docker logs db-1"));
    let requests = engine.requests.lock().await;
    assert!(requests[1].starts_with("GET /v1.41/containers/json?all=1 "));
}

#[tokio::test]
async fn it_ends_with_the_shutdown_and_when_nobody_listens() {
    let engine = FakeEngine::start(vec![container(A, "web", 32768)]);
    let source = Source::start(engine.endpoint());
    source.shutdown.cancel();
    timeout(PATIENCE, source.task).await.unwrap().unwrap();
    let source = Source::start(engine.endpoint());
    drop(source.events);
    timeout(PATIENCE, source.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn whether_an_engine_answers() {
    let engine = FakeEngine::start(vec![]);
    let resolver = Resolver::default();
    engine_answers(&engine.endpoint(), &resolver, PATIENCE)
        .await
        .unwrap();

    let missing = Endpoint::Unix(engine.directory.path().join("none.sock"));
    let error = engine_answers(&missing, &resolver, PATIENCE)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, EngineError::Connect(it) if it.kind() == std::io::ErrorKind::NotFound)
    );
    assert!(error.hint().contains("DOCKER_URL"));

    let forbidding = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = forbidding.local_addr().unwrap().port();
    let answer = tokio::spawn(async move {
        let (mut stream, _) = forbidding.accept().await.unwrap();
        let mut request = [0; 1024];
        let length = stream.read(&mut request).await.unwrap();
        let body = "{\"message\":\"not for you\"}\n";
        let head = format!(
            "HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream
            .write_all(format!("{head}{body}").as_bytes())
            .await
            .unwrap();
        String::from_utf8_lossy(&request[..length]).into_owned()
    });
    let endpoint = Endpoint::Tcp {
        host: "127.0.0.1".into(),
        port,
        encryption: Encryption::None,
    };
    let error = engine_answers(&endpoint, &resolver, PATIENCE)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "it answered /_ping with 403 Forbidden: not for you"
    );
    let request = answer.await.unwrap();
    assert!(
        request.contains(&format!("host: 127.0.0.1:{port}\r\n")),
        "{request}"
    );
}

#[tokio::test]
async fn stop_takes_it_out_of_service_while_its_grace_period_runs() {
    let mut engine = FakeEngine::start(vec![container(A, "web", 32768)]);
    let mut source = Source::start(engine.endpoint());
    source.listing().await;
    let mut stream = engine.event_stream().await;
    send(&mut stream, &[&kill(15, A)]).await;
    assert_eq!(source.next().await, "delete aaaaaaaaaaaa");
    // It is still listed, and a listing that somebody asks for does not bring it back.
    send(&mut stream, &["?\n"]).await;
    assert_eq!(source.listing().await, [""; 0]);
    let remark = source.shown()["remarks"][0].clone();
    assert_eq!(remark["subject"], "web_1 (aaaaaaaaaaaa)");
    assert!(
        remark["remarks"][0]
            .as_str()
            .unwrap()
            .starts_with("it was told to end")
    );
    // A restart begins anew, with another port.
    engine.containers.lock().await[0] = container(A, "web", 40000);
    send(&mut stream, &[&event("die", A), &event("start", A)]).await;
    assert_eq!(source.next().await, "apply aaaaaaaaaaaa web [40000]");
}

#[tokio::test]
async fn signals_that_end_nothing_change_nothing_unless_they_are_the_stop_signal() {
    let mut graceful = container(B, "db", 32769);
    graceful["Inspected"] = json!({"Config": {"StopSignal": "SIGWINCH"}});
    let mut engine = FakeEngine::start(vec![container(A, "web", 32768), graceful]);
    let mut source = Source::start(engine.endpoint());
    source.listing().await;
    let mut stream = engine.event_stream().await;
    // HUP, USR1 and WINCH for one, and then WINCH for the other.
    let signals = [kill(1, A), kill(10, A), kill(28, A), kill(28, B)];
    send(&mut stream, &signals.each_ref().map(String::as_str)).await;
    assert_eq!(source.next().await, "delete bbbbbbbbbbbb");
}

#[tokio::test(start_paused = true)]
async fn a_signal_that_does_not_stop_it_does_not_remove_it_for_ever() {
    let mut patient = container(A, "web", 32768);
    patient["Inspected"] = json!({"Config": {"StopTimeout": 60}});
    let mut engine = FakeEngine::start(vec![patient]);
    let mut source = Source::start(engine.endpoint());
    source.listing().await;
    let mut stream = engine.event_stream().await;
    let started = Instant::now();
    send(&mut stream, &[&kill(15, A)]).await;
    assert_eq!(source.next().await, "delete aaaaaaaaaaaa");
    while source.listing().await.is_empty() {}
    let grace = started.elapsed().as_secs();
    assert!((65..=67).contains(&grace), "{grace} s");
    assert!(source.shown()["remarks"].as_array().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_listing_older_than_an_end_brings_nothing_back() {
    let mut engine = FakeEngine::start(vec![container(A, "web", 32768)]);
    let mut source = Source::start(engine.endpoint());
    source.listing().await;
    let mut stream = engine.event_stream().await;
    // The engine lists it still when it has told of its end.
    send(&mut stream, &[&event("die", A), "?\n"]).await;
    assert_eq!(source.next().await, "delete aaaaaaaaaaaa");
    assert_eq!(source.listing().await, [""; 0]);
    // That it does so after a while means that it runs.
    assert_eq!(source.listing().await, ["listed aaaaaaaaaaaa web [32768]"]);
}

#[tokio::test]
async fn paused_and_renamed() {
    let mut engine = FakeEngine::start(vec![container(A, "web", 32768)]);
    let naming = Naming::pattern("^/(.+)_1$").unwrap();
    let mut source = Source::with(DockerConfig {
        naming,
        ..config(engine.endpoint())
    });
    source.listing().await;
    let mut stream = engine.event_stream().await;
    send(&mut stream, &[&event("pause", A)]).await;
    assert_eq!(source.next().await, "delete aaaaaaaaaaaa");
    // The listing may not know yet that it runs again.
    engine.containers.lock().await[0]["State"] = json!("paused");
    send(&mut stream, &[&event("unpause", A)]).await;
    assert_eq!(source.next().await, "apply aaaaaaaaaaaa web [32768]");
    engine.containers.lock().await[0] = container(A, "shop", 32768);
    send(&mut stream, &[&event("rename", A)]).await;
    assert_eq!(source.next().await, "apply aaaaaaaaaaaa shop [32768]");
}

#[tokio::test]
async fn the_engines_check_comes_with_its_output() {
    let checked = |status: &str, output: &str| {
        let mut it = container(A, "web", 32768);
        it["Labels"]["HealthCheck"] = json!("Docker");
        it["Status"] = json!(format!("Up 3 seconds ({status})"));
        let health = json!({"Status": status, "Log": [{"Output": output}]});
        it["Inspected"] = json!({"State": {"Health": health}});
        it
    };
    let mut engine = FakeEngine::start(vec![checked("health: starting", "")]);
    let mut source = Source::start(engine.endpoint());
    assert_eq!(
        source.listing().await,
        ["listed aaaaaaaaaaaa web [32768] None "]
    );
    let mut stream = engine.event_stream().await;
    for (status, output, told) in [
        ("healthy", "fine", "Some(true) fine"),
        ("unhealthy", "refused", "Some(false) refused"),
    ] {
        engine.containers.lock().await[0] = checked(status, output);
        send(
            &mut stream,
            &[&event(&format!("health_status: {status}"), A)],
        )
        .await;
        let told = format!("apply aaaaaaaaaaaa web [32768] {told}");
        assert_eq!(source.next().await, told);
    }
}

#[tokio::test]
async fn the_health_of_podmans_containers_is_asked_of_each_as_no_listing_says_it() {
    let checked = |id: &str, name: &str, status: &str, output: &str| {
        let mut it = container(id, name, 32768);
        it["Labels"]["HealthCheck"] = json!("Docker");
        it["Status"] = json!("Up 3 seconds");
        let health = json!({"Status": status, "FailingStreak": 0, "Log": [{"Output": output}]});
        it["Inspected"] = json!({"State": {"Running": true, "Health": health}});
        it
    };
    let unchecked = checked(B, "db", "", "");
    let mut engine = FakeEngine::start(vec![checked(A, "web", "starting", ""), unchecked]);
    let mut source = Source::start(engine.endpoint());
    assert_eq!(
        source.listing().await,
        [
            "listed aaaaaaaaaaaa web [32768] None ",
            "listed bbbbbbbbbbbb db [32768]"
        ]
    );
    let mut stream = engine.event_stream().await;
    for (status, output, told) in [
        ("healthy", "fine", "Some(true) fine"),
        ("unhealthy", "refused", "Some(false) refused"),
    ] {
        engine.containers.lock().await[0] = checked(A, "web", status, output);
        send(&mut stream, &[&event("health_status", A)]).await;
        let told = format!("apply aaaaaaaaaaaa web [32768] {told}");
        assert_eq!(source.next().await, told);
    }
    // An event that was missed is made up for by the next listing.
    engine.containers.lock().await[0] = checked(A, "web", "healthy", "fine again");
    send(&mut stream, &["{\n"]).await;
    assert_eq!(
        source.listing().await,
        [
            "listed aaaaaaaaaaaa web [32768] Some(true) fine again",
            "listed bbbbbbbbbbbb db [32768]"
        ]
    );
    // Where the engine does not answer the question, what was known stays.
    engine.containers.lock().await[0]["Inspected"] = json!([]);
    send(&mut stream, &["{\n"]).await;
    assert_eq!(
        source.listing().await[0],
        "listed aaaaaaaaaaaa web [32768] Some(true) fine again"
    );
}

#[tokio::test]
async fn a_stream_cut_in_the_middle_of_a_message_is_resumed_where_it_broke() {
    let mut engine = FakeEngine::start(vec![container(A, "web", 1), container(B, "db", 2)]);
    let mut source = Source::start(engine.endpoint());
    source.listing().await;
    let mut stream = engine.event_stream().await;
    let started = event_at("start", A, 1_700_000_000_000_000_007);
    let lost = event_at("die", B, 1_700_000_000_000_000_008);
    send(&mut stream, &[&started, &lost[..lost.len() / 2]]).await;
    assert_eq!(source.next().await, "apply aaaaaaaaaaaa web [1]");
    engine.containers.lock().await.pop();
    drop(stream);
    assert_eq!(source.listing().await, ["listed aaaaaaaaaaaa web [1]"]);
    let mut stream = engine.event_stream().await;
    let requests = engine.requests.lock().await.clone();
    let resumed = "&since=1700000000.000000008 ";
    assert!(
        requests.iter().any(|it| it.contains(resumed)),
        "{requests:?}"
    );
    // What is told again of a life that is over changes nothing; what is newer does.
    engine.containers.lock().await[0]["Inspected"] = json!({"State":
        {"Running": true, "StartedAt": "2023-11-14T22:13:20.000000500Z"}});
    let old = event_at("die", A, 1_700_000_000_000_000_400);
    let new = event_at("die", A, 1_700_000_000_000_000_600);
    send(&mut stream, &[&old]).await;
    source.silence(Duration::from_millis(300)).await;
    send(&mut stream, &[&new]).await;
    assert_eq!(source.next().await, "delete aaaaaaaaaaaa");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_seen_stays_for_the_time_that_is_set() {
    let mut engine = FakeEngine::start(vec![container(A, "web", 32768)]);
    let mut source = Source::with(DockerConfig {
        hold: Some(Duration::from_secs(120)),
        ..config(engine.endpoint())
    });
    source.listing().await;
    drop(engine.event_stream().await);
    engine.stop().await;
    source.silence(Duration::from_secs(110)).await;
    let docker = source.shown()["sources"]["docker"].clone();
    assert_eq!(
        (&docker["state"], &docker["instances"]),
        (&json!("unreachable"), &json!(1))
    );
    assert!(docker["held_until"].is_string(), "{docker}");
    assert_eq!(source.next().await, "delete aaaaaaaaaaaa");
    engine.start_again();
    assert_eq!(source.listing().await, ["listed aaaaaaaaaaaa web [32768]"]);
    assert_eq!(source.shown()["sources"]["docker"]["state"], "following");
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_falls_silent_is_asked_for_a_sign_of_life() {
    let mut engine = FakeEngine::start(vec![container(A, "web", 32768)]);
    let mut source = Source::start(engine.endpoint());
    source.listing().await;
    let _stream = engine.event_stream().await;
    // It accepts still, and never answers again: the task hangs before its next request.
    let containers = Arc::clone(&engine.containers);
    let _frozen = containers.lock().await;
    engine.task.abort();
    let listener = UnixListener::bind(engine.directory.path().join("frozen.sock")).unwrap();
    let (frozen, socket) = ("frozen.sock", "docker.sock");
    std::fs::rename(
        engine.directory.path().join(frozen),
        engine.directory.path().join(socket),
    )
    .unwrap();
    source.silence(Duration::from_secs(11)).await;
    let docker = source.shown()["sources"]["docker"].clone();
    assert_eq!(docker["state"], "unreachable", "{docker}");
    assert_eq!(docker["instances"], 1);
    drop(listener);
}

/// Time is paused: the clock jumps to the next deadline whenever nothing else can happen.
#[tokio::test(start_paused = true)]
async fn an_engine_that_accepts_and_never_answers_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("docker.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let endpoint = Endpoint::Unix(path);
    let started = Instant::now();
    let error = engine_answers(&endpoint, &Resolver::default(), Duration::from_secs(3)).await;
    assert!(matches!(error, Err(EngineError::Timeout(_))), "{error:?}");
    assert!(started.elapsed() >= Duration::from_secs(3));
    assert!(started.elapsed() < Duration::from_secs(4));

    // An hour of it: attempts never end.
    let mut source = Source::start(endpoint);
    let hour = timeout(Duration::from_secs(3600), source.events.recv()).await;
    assert!(hour.is_err(), "it said something: {hour:?}");
    let docker = source.shown()["sources"]["docker"].clone();
    assert_eq!(docker["state"], "unreachable");
    assert!(
        docker["trouble"]
            .as_str()
            .unwrap()
            .contains("no answer within 10 s"),
        "{docker}"
    );
    assert_eq!(docker["held_until"], Value::Null);
    drop(listener);
}

#[tokio::test(start_paused = true)]
async fn a_listing_is_bounded_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("docker.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let engine = Engine::new(Endpoint::Unix(path), Resolver::default());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[";
        stream.write_all(head).await.unwrap();
        std::future::pending::<()>().await;
    });
    assert!(matches!(engine.list().await, Err(EngineError::Timeout(_))));
    server.abort();
}
