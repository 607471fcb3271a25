//! A real HAProxy under runtime mode, and one change of the catalog after the other, as fast as each
//! is seen in it, while connections are held. Shared by the bench and by a smaller run of it as a test.
//!
//! Of twenty changes one takes a service away and brings another one, on a port never used before
//! for as long as there are some; the others replace an endpoint of a service. Halfway the endpoint
//! of half of the held connections is taken away too: they have to go on.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use catalog::{ProxyMode, Snapshot};
use sidecar::{
    config::{HaproxyConfig, HaproxyMode, HaproxyPools},
    proxy::haproxy::{self, HaproxyStatus, Inputs, State},
    routes::{Endpoint, Route, Routes},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

const BIND: Ipv4Addr = Ipv4Addr::new(127, 77, 1, 1);
const PORT_FIRST: u16 = 21_000;
const PORT_LAST: u16 = 23_999;
/// Services at any time.
const SERVICES: u16 = 200;
/// Services that the held connections go to; they are never taken away.
const HELD_SERVICES: u16 = 20;
/// One change of so many is another service.
const CHANGES_PER_SERVICE: usize = 20;
/// How long a change may take before the run is given up.
const GIVEN_UP: Duration = Duration::from_secs(10);

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) changes: usize,
    pub(crate) idle: usize,
    pub(crate) active: usize,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Figures {
    /// From the change to HAProxy holding it, sorted.
    pub(crate) latencies: Vec<Duration>,
    /// Planned reloads, restarts, and whether another worker serves at the end.
    pub(crate) reloads: u64,
    /// Processes of this HAProxy beside master and worker.
    pub(crate) extra_processes: usize,
    /// Held connections that broke.
    pub(crate) broken: usize,
    /// The worker's memory after the first changes and at the end, in kB.
    pub(crate) memory: (u64, u64),
    /// Changes of HAProxy's state that nobody asked for.
    pub(crate) repairs: u64,
    pub(crate) took: Duration,
}

impl Figures {
    pub(crate) fn quantile(&self, quantile: f64) -> Duration {
        let index = (self.latencies.len() as f64 * quantile) as usize;
        self.latencies[index.min(self.latencies.len() - 1)]
    }
}

/// Runs it in a directory of its own on `127.77.1.1`.
pub(crate) async fn run(size: Size) -> Figures {
    let dir = tempfile::tempdir().unwrap();
    let echo = echo().await;
    let mut services = Services::new(echo);
    let (routes, seen) = watch::channel(Arc::new(Routes::default()));
    let (status, told) = watch::channel(Arc::new(HaproxyStatus::default()));
    let (shutdown, leaving) = (CancellationToken::new(), CancellationToken::new());
    let empty = Snapshot::empty("bench", "bench");
    let inputs = Inputs {
        snapshots: watch::channel(Arc::new(empty)).1,
        routes: seen,
        reserved_ports: Vec::new(),
        leaving: leaving.clone(),
    };
    let bind = IpAddr::from(BIND);
    let plane = haproxy::run(config(dir.path()), bind, inputs, status, shutdown.clone());
    let plane = tokio::spawn(plane);
    routes.send_replace(services.routes());
    wait(&told, |it| it.state == State::Applied).await;

    let mut admin = Admin::open(dir.path()).await;
    let worker = admin.worker().await;
    let held = Held::open(size).await;
    let mut latencies = Vec::with_capacity(size.changes);
    let mut memory = (0, 0);
    let start = Instant::now();
    for change in 0..size.changes {
        if change == size.changes / 20 {
            memory.0 = resident_kb(worker);
        }
        if change == size.changes / 2 {
            services.take_endpoints_of_held();
        }
        let (routed, words) = services.change(change);
        let sent = Instant::now();
        routes.send_replace(routed);
        admin.wait_for(&words).await;
        latencies.push(sent.elapsed());
    }
    let took = start.elapsed();
    memory.1 = resident_kb(worker);
    let broken = held.broken().await;
    let last = told.borrow().clone();
    let is_another = u64::from(admin.worker().await != worker);
    let extra_processes = processes(dir.path()) - 2;
    // A session keeps HAProxy from ending.
    drop(admin);
    leaving.cancel();
    shutdown.cancel();
    plane.await.unwrap();
    let end = Instant::now();
    while processes(dir.path()) > 0 {
        assert!(end.elapsed() < GIVEN_UP, "HAProxy has not ended");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    latencies.sort();
    Figures {
        latencies,
        reloads: last.reloads - 1 + last.revivals + is_another,
        extra_processes,
        broken,
        memory,
        repairs: last.repairs,
        took,
    }
}

fn config(dir: &Path) -> HaproxyConfig {
    HaproxyConfig {
        mode: HaproxyMode::Runtime,
        template_file: None,
        config_file: dir.join("unused.cfg"),
        pid_file: dir.join("unused.pid"),
        reload_command: None,
        verify_command: None,
        user: String::new(),
        group: String::new(),
        use_hostnames: false,
        binary: "haproxy".to_owned(),
        hold_down: Duration::ZERO,
        dir: dir.to_owned(),
        ports: vec![PORT_FIRST..=PORT_LAST],
        pools: HaproxyPools {
            http: 256,
            tcp: 256,
        },
    }
}

/// The services of the cluster, by port.
struct Services {
    by_port: BTreeMap<u16, Arc<Route>>,
    /// Ports of those that may go, the oldest first.
    passing: std::collections::VecDeque<u16>,
    next_port: u16,
}

impl Services {
    fn new(echo: SocketAddr) -> Self {
        let mut services = Self {
            by_port: BTreeMap::new(),
            passing: (PORT_FIRST + HELD_SERVICES..PORT_FIRST + SERVICES).collect(),
            next_port: PORT_FIRST + SERVICES,
        };
        for port in PORT_FIRST..PORT_FIRST + SERVICES {
            let is_held = port < PORT_FIRST + HELD_SERVICES;
            let address = if is_held { echo } else { nowhere(0) };
            services.add(port, is_held, endpoint("steady", address));
        }
        services
    }

    fn add(&mut self, port: u16, is_tcp: bool, endpoint: Endpoint) {
        let route = Route {
            service: format!("service-{port}"),
            mode: if is_tcp || port.is_multiple_of(4) {
                ProxyMode::Tcp
            } else {
                ProxyMode::Http
            },
            endpoints: vec![endpoint],
        };
        self.by_port.insert(port, Arc::new(route));
    }

    /// The next routes, and what `show servers state` and `show map` say when they are in force.
    fn change(&mut self, number: usize) -> (Arc<Routes>, [String; 2]) {
        let address = nowhere(number + 1);
        let ip = address.ip();
        let port = if number.is_multiple_of(CHANGES_PER_SERVICE) {
            let old = self.passing.pop_front().unwrap();
            self.by_port.remove(&old);
            let port = self.next_port;
            self.next_port = if port == PORT_LAST {
                PORT_FIRST + SERVICES
            } else {
                port + 1
            };
            self.passing.push_back(port);
            self.add(port, false, endpoint("steady", address));
            port
        } else {
            let index = number * 7919 % self.by_port.len();
            let (port, route) = self.by_port.iter_mut().nth(index).unwrap();
            let route = Arc::make_mut(route);
            route.endpoints.truncate(1);
            route.endpoints.push(endpoint("passing", address));
            *port
        };
        // Operational state 2 is running, administrative state 0 nothing in its way.
        let words = [format!(" {ip} 2 0 "), format!(" {port} ")];
        (self.routes(), words)
    }

    fn take_endpoints_of_held(&mut self) {
        for port in PORT_FIRST..PORT_FIRST + HELD_SERVICES / 2 {
            if let Some(route) = self.by_port.get_mut(&port) {
                Arc::make_mut(route).endpoints = vec![endpoint("heir", nowhere(0))];
            }
        }
    }

    fn routes(&self) -> Arc<Routes> {
        Arc::new(Routes {
            by_port: self.by_port.clone(),
            excluded: Vec::new(),
        })
    }
}

fn endpoint(id: &str, address: SocketAddr) -> Endpoint {
    Endpoint {
        hostname: "node".to_owned(),
        id: id.to_owned(),
        address,
        weight: 100,
    }
}

/// An address of its own for each number, where nobody listens.
fn nowhere(number: usize) -> SocketAddr {
    let [.., high, low] = number.to_be_bytes();
    SocketAddr::from(([127, 80, high, low], 9))
}

async fn echo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                // It ends with its connection.
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    address
}

/// Connections through HAProxy.
struct Held {
    idle: Vec<TcpStream>,
    active: JoinSet<bool>,
    stop: CancellationToken,
    broken: Arc<AtomicUsize>,
}

impl Held {
    async fn open(size: Size) -> Self {
        let mut held = Self {
            idle: Vec::new(),
            active: JoinSet::new(),
            stop: CancellationToken::new(),
            broken: Arc::default(),
        };
        for number in 0..size.idle + size.active {
            let port = PORT_FIRST + (number % usize::from(HELD_SERVICES)) as u16;
            let mut stream = TcpStream::connect((BIND, port)).await.unwrap();
            assert!(ping(&mut stream).await, "a new connection is carried");
            if number < size.idle {
                held.idle.push(stream);
                continue;
            }
            let stop = held.stop.clone();
            held.active.spawn(async move {
                while !stop.is_cancelled() {
                    if !ping(&mut stream).await {
                        return false;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                true
            });
        }
        held
    }

    async fn broken(mut self) -> usize {
        self.stop.cancel();
        while let Some(is_whole) = self.active.join_next().await {
            if !is_whole.unwrap() {
                self.broken.fetch_add(1, Relaxed);
            }
        }
        for stream in &mut self.idle {
            if !ping(stream).await {
                self.broken.fetch_add(1, Relaxed);
            }
        }
        self.broken.load(Relaxed)
    }
}

async fn ping(stream: &mut TcpStream) -> bool {
    let mut echo = [0; 8];
    let exchange = async {
        stream.write_all(b"held on.").await?;
        stream.read_exact(&mut echo).await
    };
    matches!(tokio::time::timeout(GIVEN_UP, exchange).await, Ok(Ok(_)))
}

/// HAProxy's own word, asked beside the plane under test.
struct Admin(UnixStream);

impl Admin {
    async fn open(dir: &Path) -> Self {
        let stream = UnixStream::connect(dir.join("admin.sock")).await.unwrap();
        let mut admin = Self(stream);
        admin.ask("prompt").await;
        admin
    }

    async fn ask(&mut self, command: &str) -> String {
        let line = format!("{command}\n");
        self.0.write_all(line.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\n> ") {
            let count = self.0.read_buf(&mut answer).await.unwrap();
            assert!(count > 0, "HAProxy hung up");
        }
        String::from_utf8(answer).unwrap()
    }

    async fn worker(&mut self) -> u32 {
        let info = self.ask("show info").await;
        let pid = info.lines().find_map(|line| line.strip_prefix("Pid: "));
        pid.unwrap().parse().unwrap()
    }

    async fn wait_for(&mut self, [server, port]: &[String; 2]) {
        let start = Instant::now();
        loop {
            let has_server = self.ask("show servers state").await.contains(server);
            if has_server && self.ask("show map current/ports.map").await.contains(port) {
                return;
            }
            assert!(
                start.elapsed() < GIVEN_UP,
                "{server} at {port} has not come"
            );
        }
    }
}

async fn wait(told: &watch::Receiver<Arc<HaproxyStatus>>, is_so: impl Fn(&HaproxyStatus) -> bool) {
    let mut told = told.clone();
    let waited = tokio::time::timeout(GIVEN_UP, told.wait_for(|it| is_so(it))).await;
    let has_come = waited.is_ok_and(|it| it.is_ok());
    assert!(has_come, "{:?}", told.borrow());
}

fn resident_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kb = line.unwrap().trim().trim_end_matches(" kB");
    kb.parse().unwrap()
}

/// Processes with this directory in their command line.
fn processes(dir: &Path) -> usize {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let commands = all.filter_map(|it| fs::read(it.path().join("cmdline")).ok());
    let dir = dir.as_os_str().as_encoded_bytes();
    let has_it = |command: &Vec<u8>| command.split(|byte| *byte == 0).any(|word| word == dir);
    commands.filter(has_it).count()
}
