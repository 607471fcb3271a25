//! The source against an engine of our own on a Unix socket, written byte by byte, so that a test
//! says exactly what comes when.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::{Mutex, mpsc},
    task::JoinHandle,
    time::timeout,
};

use super::*;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

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
    } else if path.starts_with("/v1.41/containers/json") {
        let listed = containers.lock().await.clone();
        let asked = |it: &&Value| {
            let id = it["Id"].as_str().unwrap_or("none");
            path.ends_with("/json") || path.contains(id)
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
    let attributes = json!({"ServiceName": "web", "name": "web_1"});
    let actor = json!({"ID": id, "Attributes": attributes});
    json!({"Type": "container", "Action": action, "Actor": actor, "time": 1}).to_string() + "\n"
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
}

impl Source {
    fn start(endpoint: Endpoint) -> Self {
        let (sender, events) = mpsc::channel(1);
        let shutdown = CancellationToken::new();
        let config = config(endpoint);
        let task = tokio::spawn(run(config, Resolver::default(), sender, shutdown.clone()));
        Self {
            events,
            shutdown,
            task,
        }
    }

    async fn next(&mut self) -> String {
        let event = timeout(PATIENCE, self.events.recv()).await;
        let (source, event) = event.expect("an event in time").expect("a running source");
        assert_eq!(source, SourceName::Docker);
        let instance = |instance: &Instance| {
            let service = &instance.service;
            let ports: Vec<_> = service.port_list().iter().map(|it| it.port).collect();
            format!("{} {} {ports:?}", service.id, service.name)
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
        hostname: "node-a".into(),
        advertise_ip,
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

    let (events, _receiver) = mpsc::channel(1);
    let mut follower = Follower::new(config(endpoint), Resolver::default(), events);
    // An hour of it: attempts never end, the complaint is made once.
    let hour = timeout(Duration::from_secs(3600), follower.follow()).await;
    assert!(hour.is_err(), "it gave up");
    assert_eq!(follower.unreachable.len(), 1);
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

#[test]
fn ports_in_another_order_are_the_same_ports() {
    let listing = |ports: [u16; 2]| {
        let port = |it| json!({"PrivatePort": it, "PublicPort": it, "Type": "tcp"});
        let container = json!([{"Id": A, "Ports": ports.map(port)}]);
        wire::listing(container.to_string().as_bytes())
            .unwrap()
            .containers
            .remove(0)
    };
    let (events, _receiver) = mpsc::channel(1);
    let endpoint = Endpoint::Unix("/none".into());
    let mut follower = Follower::new(config(endpoint), Resolver::default(), events);
    let first = follower.mapped(&listing([80, 443])).unwrap();
    follower
        .known
        .insert(first.service.id.clone(), first.clone());
    assert_eq!(follower.mapped(&listing([443, 80])), Some(first.clone()));
    assert_ne!(follower.mapped(&listing([443, 81])), Some(first));
}

#[test]
fn a_complaint_is_made_once_for_a_container() {
    let (events, _receiver) = mpsc::channel(1);
    let endpoint = Endpoint::Unix("/none".into());
    let mut follower = Follower::new(config(endpoint), Resolver::default(), events);
    let text = json!([{"Id": A, "Labels": {"ServicePort_81": "1", "ProxyMode": "x"}}]).to_string();
    let container = wire::listing(text.as_bytes()).unwrap().containers.remove(0);
    for _ in 0..100 {
        follower.mapped(&container);
    }
    assert_eq!(follower.complained["aaaaaaaaaaaa"].len(), 2);
    for number in 0..100 {
        follower.complain("x", "x", format!("{number}"));
    }
    assert_eq!(follower.complained["x"].len(), COMPLAINTS_MAX);
}

#[test]
fn waits_are_jittered_between_half_and_all() {
    for _ in 0..1000 {
        let delay = jittered(BACKOFF_MAX);
        assert!(
            (BACKOFF_MAX / 2..=BACKOFF_MAX).contains(&delay),
            "{delay:?}"
        );
    }
}
