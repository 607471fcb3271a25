//! The API as its clients see it: a real server on a loopback port against recorded answers, and one
//! connection at a time on virtual clocks for what takes time.

mod commanding;
mod described;
mod events;
mod recorded;
mod v2;
mod watching;

use std::{fs, path::PathBuf, sync::Arc};

use axum::http::{Request, request::Parts};
use catalog::{
    Author, Change, Now, Port, Service, Snapshot, State, Status, Timestamp, Upkeep, json,
};
use memberlist::Member;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{broadcast, mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{answer::Answers, *};

/// A recorded body. The recordings lie with the catalog's tests, which prove its JSON by them.
pub(super) fn vector(file: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../catalog/tests/vectors/http");
    let path = root.join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn merged(records: Vec<Service>) -> Snapshot {
    let wall = records.iter().map(|record| record.updated).max().unwrap();
    let now = Now {
        wall,
        monotonic: std::time::Instant::now(),
    };
    let mut state = State::new("web-01", "lab");
    for member in ["web-01", "web-02", "web-03"] {
        state.member_up(member, Upkeep::Refresh, now);
    }
    for record in records {
        state.apply(record, Author::Peer, now).unwrap();
    }
    state.snapshot().clone()
}

/// The snapshot a recorded state document was written from.
pub(super) fn recorded_state(file: &str) -> Snapshot {
    let text = vector(file);
    let records = json::decode_state(text.as_bytes()).unwrap();
    let mut snapshot = merged(records.into_iter().map(Result::unwrap).collect());
    let document: Value = serde_json::from_str(&text).unwrap();
    let time = |value: &Value| value.as_str().unwrap().parse::<Timestamp>().unwrap();
    snapshot.last_changed = time(&document["LastChanged"]);
    for (name, server) in document["Servers"].as_object().unwrap() {
        let host = Arc::make_mut(snapshot.hosts.get_mut(name.as_str()).unwrap());
        host.last_changed = time(&server["LastChanged"]);
        host.last_updated = time(&server["LastUpdated"]);
    }
    snapshot
}

/// The snapshot a recorded document of services was written from.
fn recorded_services(file: &str) -> Snapshot {
    let document: Value = serde_json::from_str(&vector(file)).unwrap();
    let lists = document["Services"].as_object().unwrap().values();
    let records = lists.flat_map(|list| list.as_array().unwrap());
    let records =
        records.map(|record| json::decode_service(record.to_string().as_bytes()).unwrap());
    let mut snapshot = merged(records.collect());
    if let Some(members) = document["ClusterMembers"].as_object() {
        snapshot.members = members
            .keys()
            .map(|name| (Arc::from(name.as_str()), Upkeep::Refresh))
            .collect();
    }
    snapshot
}

/// Watchers that answers have room for.
const WATCHERS: usize = 8;

/// The agent's side of an [`Api`].
struct Agent {
    snapshots: watch::Sender<Arc<Snapshot>>,
    routes: watch::Sender<Arc<Routes>>,
    ready: watch::Sender<Vec<&'static str>>,
    drains: mpsc::Receiver<DrainRequest>,
    members: watch::Sender<Arc<Vec<Member>>>,
    plane: watch::Sender<Arc<PlaneStatus>>,
    local: Arc<LocalView>,
    changes: broadcast::Sender<Change>,
    journal: Arc<Journal>,
}

impl Agent {
    fn publish(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut snapshot = Snapshot::clone(&self.snapshots.borrow());
        snapshot.version += 1;
        change(&mut snapshot);
        self.snapshots.send_replace(Arc::new(snapshot));
    }

    /// A change that readers must see; `name` is how they tell it from others.
    fn publish_change(&self, name: &str) {
        self.publish(|snapshot| {
            snapshot.changes += 1;
            snapshot.cluster_name = name.into();
        });
    }

    /// A change of an instance, as the writer tells it once the snapshot is published.
    fn tell(&self, service: Service, previous: Status) {
        self.publish(|snapshot| snapshot.changes += 1);
        let change = Change {
            time: service.updated,
            service: Arc::new(service),
            previous,
            derived: false,
        };
        // Fails when the journal has ended, which the test will see.
        let _ = self.changes.send(change);
    }
}

/// An instance that was stamped at second `updated` of 2026-02-03 09:15.
fn instance(hostname: &str, id: &str, status: Status, updated: u8) -> Service {
    let time = format!("2026-02-03T09:15:{updated:02}Z").parse().unwrap();
    Service {
        id: id.into(),
        name: "web".into(),
        image: "registry:5000/web:1.2".into(),
        created: time,
        hostname: hostname.into(),
        ports: Some(vec![Port {
            kind: "tcp".into(),
            port: 32_768,
            service_port: 8080,
            ip: "10.0.0.1".into(),
        }]),
        updated: time,
        proxy_mode: "http".into(),
        weight: None,
        status,
    }
}

fn api(snapshot: Snapshot) -> (Api, Agent) {
    let (snapshots, snapshots_seen) = watch::channel(Arc::new(snapshot));
    let (routes, routes_seen) = watch::channel(Arc::default());
    let (ready, ready_seen) = watch::channel(Vec::new());
    let (members, members_seen) = watch::channel(Arc::default());
    let (plane, plane_seen) = watch::channel(Arc::default());
    let (drain, drains) = mpsc::channel(4);
    let hosts = Arc::new(Hosts::new(snapshots_seen.clone(), members_seen));
    let journal = Arc::new(Journal::starting_now());
    let (changes, news) = broadcast::channel(8);
    tokio::spawn(journal.clone().run(
        news,
        hosts.clone(),
        plane_seen.clone(),
        CancellationToken::new(),
    ));
    let local: Arc<LocalView> = Arc::default();
    let api = Api {
        snapshots: snapshots_seen,
        routes: routes_seen,
        plane: plane_seen,
        local: local.clone(),
        envoy_v1: EnvoyV1 {
            bind: "192.168.168.168".parse().unwrap(),
            use_hostnames: false,
        },
        drain,
        drains_written: channel::channel(u64::MAX).1,
        access: Arc::new(Access::new(None, false, vec!["web-01".to_owned()])),
        tls: None,
        metrics: Arc::new(|| "sidecar_up 1\n".to_owned()),
        ready: ready_seen,
        journal: journal.clone(),
        hosts,
        proxy: ProxyFacts {
            plane: "builtin",
            bind_ip: Some([192, 168, 168, 168].into()),
        },
        encrypted: Arc::new(|| true),
    };
    (
        api,
        Agent {
            snapshots,
            routes,
            ready,
            drains,
            members,
            plane,
            local,
            changes,
            journal,
        },
    )
}

fn answers(snapshot: Snapshot) -> (Arc<Answers>, Agent) {
    let (api, agent) = api(snapshot);
    let answers = Answers::new(api, WATCHERS, CancellationToken::new());
    (Arc::new(answers), agent)
}

fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut head = request.body(()).unwrap().into_parts().0;
    let here = (std::net::Ipv4Addr::LOCALHOST, 7777).into();
    head.extensions.insert(Caller {
        peer: here,
        local: here,
    });
    head
}

/// A running server.
struct Server {
    address: std::net::SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
    agent: Agent,
}

impl Server {
    async fn start(snapshot: Snapshot) -> Self {
        let (api, agent) = api(snapshot);
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))
            .await
            .unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve(listener, api, stop.clone()));
        Self {
            address,
            stop,
            task,
            agent,
        }
    }

    async fn connect(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    /// Asks once and returns head lines and body.
    async fn ask(&self, request_line: &str, headers: &str) -> (Vec<String>, String) {
        let request = format!(
            "{request_line} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}\r\n",
            self.address
        );
        let mut stream = self.connect(&request).await;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (
            head.split("\r\n").map(str::to_owned).collect(),
            body.to_owned(),
        )
    }
}

async fn body_text(answer: axum::response::Response) -> String {
    let bytes = axum::body::to_bytes(answer.into_body(), 1 << 20)
        .await
        .unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}
