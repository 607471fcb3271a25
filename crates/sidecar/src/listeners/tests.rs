//! Listeners that answer as they are told to, over the loopback interface.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use catalog::{Author, Now, Service, State, Status, Timestamp, Upkeep};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

use super::*;
use crate::net::{dial::Dialer, resolver::Resolver};

const PATIENCE: Duration = Duration::from_secs(20);

/// A request as it came.
#[derive(Debug)]
struct Taken {
    line: String,
    cookie: String,
    body: serde_json::Value,
}

impl Taken {
    fn instance(&self) -> &str {
        self.body["ChangeEvent"]["Service"]["ID"].as_str().unwrap()
    }
}

/// Answers every request with the status set.
struct Receiver {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    taken: mpsc::UnboundedReceiver<Taken>,
    _task: AbortOnDropHandle<()>,
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, taken) = mpsc::unbounded_channel();
        let status = Arc::new(AtomicU16::new(200));
        let answer = status.clone();
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut reader = BufReader::new(&mut stream);
                let (mut line, mut cookie, mut length) = (String::new(), String::new(), 0);
                reader.read_line(&mut line).await.unwrap();
                loop {
                    let mut header = String::new();
                    reader.read_line(&mut header).await.unwrap();
                    let Some((name, value)) = header.trim_end().split_once(": ") else {
                        break;
                    };
                    match name {
                        "cookie" => value.clone_into(&mut cookie),
                        "content-length" => length = value.parse().unwrap(),
                        _ => {}
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).await.unwrap();
                let status = answer.load(Ordering::SeqCst);
                let said = format!(
                    "HTTP/1.1 {status} As told\r\nset-cookie: node=7; path=/\r\ncontent-length: 2\r\n\r\nok"
                );
                stream.write_all(said.as_bytes()).await.unwrap();
                let line = line.trim_end().to_owned();
                let body = serde_json::from_slice(&body).unwrap();
                if tell.send(Taken { line, cookie, body }).is_err() {
                    return;
                }
            }
        });
        Self {
            address,
            status,
            taken,
            _task: AbortOnDropHandle::new(task),
        }
    }

    fn url(&self) -> String {
        url(&self.address.ip().to_string(), self.address.port())
    }

    fn answer(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    async fn next(&mut self) -> Taken {
        let taken = timeout(PATIENCE, self.taken.recv()).await;
        taken.expect("a request comes").unwrap()
    }
}

/// The writer's side, and the task under test.
struct Bench {
    state: State,
    now: Now,
    changes: broadcast::Sender<Change>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    managed: watch::Sender<Listeners>,
    view: Arc<LocalView>,
    _task: AbortOnDropHandle<()>,
}

impl Bench {
    fn start(urls: Vec<String>) -> Self {
        let now = Now {
            wall: "2026-02-03T09:15:27Z".parse().unwrap(),
            monotonic: std::time::Instant::now(),
        };
        let mut state = State::new("web-01", "lab");
        state.member_up("web-01", Upkeep::Membership, now);
        let (changes, _) = broadcast::channel(256);
        let (snapshots, seen) = watch::channel(Arc::new(state.snapshot().clone()));
        let (managed, wanted) = watch::channel(Listeners::new());
        let view = Arc::<LocalView>::default();
        let settings = Settings {
            urls,
            hostname: "web-01".to_owned(),
            changes: changes.clone(),
            snapshots: seen,
            client: HttpClient::new(Dialer::new(Resolver::default())),
            view: view.clone(),
        };
        let dispatcher = Dispatcher::start(settings);
        let task: JoinHandle<()> = tokio::spawn(dispatcher.run(wanted, CancellationToken::new()));
        Self {
            state,
            now,
            changes,
            snapshots,
            managed,
            view,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// So many listeners are served.
    async fn served(&self, count: usize) {
        let served = async {
            while self.changes.receiver_count() != count || self.view.listeners().len() != count {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, served).await.expect("they are served");
    }

    fn happens(&mut self, id: &str) {
        self.now.wall = self.now.wall.plus(Duration::from_secs(1));
        let service = Service {
            id: id.to_owned(),
            name: "web".to_owned(),
            image: "acme/web".to_owned(),
            created: Timestamp::EPOCH,
            hostname: "web-01".to_owned(),
            ports: None,
            updated: self.now.wall,
            proxy_mode: "http".to_owned(),
            weight: None,
            status: Status::Alive,
        };
        let applied = self.state.apply(service, Author::Own, self.now).unwrap();
        let catalog::Applied::New(Some(change)) = applied else {
            panic!("{applied:?}")
        };
        let snapshot = Arc::new(self.state.snapshot().clone());
        self.snapshots.send_replace(snapshot);
        self.changes.send(change).unwrap();
    }

    async fn settled(&self, name: &str, is: impl Fn(&crate::local_view::ListenerView) -> bool) {
        let settled = async {
            while !self.view.listeners().get(name).is_some_and(&is) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let in_time = timeout(PATIENCE, settled).await;
        in_time.unwrap_or_else(|_| panic!("{:?}", self.view.listeners()));
    }
}

#[tokio::test]
async fn every_change_is_posted_with_the_whole_state_and_a_cookie() {
    let mut receiver = Receiver::start().await;
    let mut bench = Bench::start(vec![receiver.url()]);
    // It is served from the first moment.
    bench.happens("aaaaaaaaaaaa");
    let first = receiver.next().await;
    assert_eq!(first.line, "POST /sidecar/update HTTP/1.1");
    assert!(
        first.cookie.starts_with("sidecar-session-host=\"web-01-20")
            && first.cookie.ends_with("+0000 UTC\""),
        "{}",
        first.cookie
    );
    assert_eq!(first.body["State"]["ClusterName"], "lab");
    assert_eq!(first.body["ChangeEvent"]["PreviousStatus"], 3);
    bench.happens("bbbbbbbbbbbb");
    let second = receiver.next().await;
    assert_eq!(second.cookie, format!("{}; node=7", first.cookie));
    let services = &second.body["State"]["Servers"]["web-01"]["Services"];
    assert_eq!(services.as_object().unwrap().len(), 2);
    assert_eq!(second.instance(), "bbbbbbbbbbbb");
    let name = format!("UrlListener({})", receiver.url());
    bench
        .settled(&name, |it| it.delivered == 2 && it.trouble.is_none())
        .await;
}

#[tokio::test]
async fn what_is_not_taken_is_sent_again_whole_and_at_last_the_newest_alone() {
    let mut receiver = Receiver::start().await;
    let mut bench = Bench::start(vec![receiver.url()]);
    bench.served(1).await;
    receiver.answer(503);
    bench.happens("aaaaaaaaaaaa");
    for _ in 0..6 {
        let again = receiver.next().await;
        assert_eq!(again.instance(), "aaaaaaaaaaaa");
        assert_eq!(again.body["State"]["Hostname"], "web-01");
    }
    let name = format!("UrlListener({})", receiver.url());
    bench.settled(&name, |it| it.failed == 6).await;
    let trouble = bench.view.listeners()[&name].trouble.clone();
    assert_eq!(trouble.as_deref(), Some("it answers with status 503"));
    bench.happens("bbbbbbbbbbbb");
    bench.happens("cccccccccccc");
    receiver.answer(204);
    let newest = receiver.next().await;
    assert_eq!(newest.instance(), "cccccccccccc");
    bench
        .settled(&name, |it| (it.delivered, it.merged) == (1, 2))
        .await;
    bench.happens("dddddddddddd");
    assert_eq!(receiver.next().await.instance(), "dddddddddddd");
}

#[tokio::test]
async fn listeners_of_instances_come_and_go_and_delay_nobody() {
    let mut fixed = Receiver::start().await;
    let (mut first, mut second) = (Receiver::start().await, Receiver::start().await);
    let mut bench = Bench::start(vec![fixed.url()]);
    bench.served(1).await;
    // Nobody answers there, for 3 s at a time.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = url("127.0.0.1", silent.local_addr().unwrap().port());
    let all = [
        ("Service(web-1)".to_owned(), first.url()),
        ("Service(silent-2)".to_owned(), silent),
    ];
    bench.managed.send_replace(Listeners::from(all));
    bench.served(3).await;
    bench.happens("aaaaaaaaaaaa");
    assert_eq!(fixed.next().await.instance(), "aaaaaaaaaaaa");
    assert_eq!(first.next().await.instance(), "aaaaaaaaaaaa");
    // The same listener elsewhere.
    let moved = [("Service(web-1)".to_owned(), second.url())];
    bench.managed.send_replace(Listeners::from(moved));
    bench.served(2).await;
    bench.happens("bbbbbbbbbbbb");
    assert_eq!(second.next().await.instance(), "bbbbbbbbbbbb");
    assert_eq!(fixed.next().await.instance(), "bbbbbbbbbbbb");
    assert!(first.taken.try_recv().is_err());
}
