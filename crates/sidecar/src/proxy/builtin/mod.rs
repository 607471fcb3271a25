//! The built-in data plane: this process listens on every ServicePort and carries the bytes. Nothing
//! needs to be installed for it.
//!
//! It follows the newest [`Routes`] and skips those in between. A new route gets a listener, a
//! removed one loses it (clients are refused), and a changed one only gets other endpoints for its next
//! connections. An established connection is never touched by any of this: it ends when its client or its
//! endpoint ends it, or when the drain at shutdown runs out.
//!
//! In tcp mode a connection is what is balanced, tried on the next endpoint and counted. There is no idle
//! timeout, because a database connection may be silent for hours; keep-alive probes find the dead ones.
//!
//! In http and ws mode it is a request ([`http`]). An endpoint that leaves the route gets no more requests,
//! on no connection, and finishes those it has. A port whose last endpoint has left answers 503 for a minute
//! before it is closed: most often a service is being restarted.
//!
//! It decides nothing about ports, modes and owners: that is [`crate::routes`].

mod balance;
mod connection;
mod copy;
mod figures;
mod http;
mod listener;
mod signal;
#[cfg(target_os = "linux")]
mod splice;
mod status;
#[cfg(test)]
mod tests;
mod upstream;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use catalog::ProxyMode;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, Semaphore, mpsc, oneshot, watch},
    task::JoinHandle,
    time::MissedTickBehavior,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::{
    figures::{BUCKET_BOUNDS_MICROS, RequestStatus},
    status::{EndpointStatus, ListenError, ListenState, PlaneStatus, PortStatus},
};
use self::{http::AccessLog, listener::Port, signal::Signal};
use super::is_listener;
use crate::routes::{Route, Routes, changed_ports};

/// How long a port of http or ws mode answers 503 after its last endpoint has left.
const VACANT_HOLD: Duration = Duration::from_secs(60);

/// What the data plane is told at its start.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Options {
    /// Its bounds.
    pub limits: Limits,
    /// File that each request is written to, as a line of JSON; none by default.
    pub access_log: Option<PathBuf>,
}

/// Bounds of the data plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// How long an endpoint may take to accept a connection while another is left to try; 1 s.
    pub connect_timeout: Duration,
    /// The same when there is no other; 4 s, so that two lost packets (Linux sends the request for a
    /// connection again after 1 s and after 3 s) cost time and not the connection.
    pub connect_timeout_last: Duration,
    /// When no further endpoint is tried for a connection; 10 s.
    pub connect_deadline: Duration,
    /// How long connections may go on after shutdown began; 5 s.
    pub drain_deadline: Duration,
    /// Most connections at a time, over all ServicePorts; 65,536. One more per ServicePort is
    /// accepted and waits for its turn; the rest wait in the listener's backlog. Each takes two
    /// file descriptors, so the process's limit usually comes first; then accepting pauses.
    pub connections_max: usize,
    /// How long an endpoint may take to begin its answer to a request, from the last byte of the request on;
    /// 60 s, zero for ever. The answer itself may take any time.
    pub response_timeout: Duration,
    /// How long a client may take to send the head of a request, also of the next one on a kept connection;
    /// 60 s.
    pub client_timeout: Duration,
    /// How often counts are published, beside every change of a listener; 1 s.
    pub status_interval: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            connect_timeout_last: Duration::from_secs(4),
            connect_deadline: Duration::from_secs(10),
            drain_deadline: Duration::from_secs(5),
            connections_max: 65_536,
            response_timeout: Duration::from_secs(60),
            client_timeout: Duration::from_secs(60),
            status_interval: Duration::from_secs(1),
        }
    }
}

/// Serves the newest routes on `bind` until `shutdown`: then all listeners close at once, and this
/// returns when the last connection has ended, or after the drain deadline with the rest cut off.
///
/// When the sender of the routes is gone, the last ones stay in force.
pub async fn run(
    options: Options,
    bind: IpAddr,
    routes: watch::Receiver<Arc<Routes>>,
    status: watch::Sender<Arc<PlaneStatus>>,
    shutdown: CancellationToken,
) {
    // Nobody asks for the listeners.
    let (_nobody, requests) = mpsc::channel(1);
    let succession = Succession {
        inherited: Listeners::new(),
        requests,
    };
    run_in_succession(options, bind, routes, status, shutdown, succession).await;
}

/// Listening sockets by ServicePort.
pub type Listeners = BTreeMap<u16, std::net::TcpListener>;

/// How one plane follows another without a moment in which nobody listens.
#[derive(Debug)]
pub struct Succession {
    /// Sockets that listen on the bind address already. Those without a route in the first routes are
    /// closed then.
    pub inherited: Listeners,
    /// Who wants to be next. The first gets all sockets; this plane accepts no more, and ends with the
    /// last of its connections, however long that takes.
    pub requests: mpsc::Receiver<oneshot::Sender<Listeners>>,
}

/// [`run`], as one of several planes that serve the same ports one after the other.
pub async fn run_in_succession(
    options: Options,
    bind: IpAddr,
    mut routes: watch::Receiver<Arc<Routes>>,
    status: watch::Sender<Arc<PlaneStatus>>,
    shutdown: CancellationToken,
    mut succession: Succession,
) {
    let limits = options.limits;
    let mut plane = Plane {
        bind,
        shared: Arc::new(Shared::new(&options)),
        routes: Arc::default(),
        ports: BTreeMap::new(),
        inherited: succession.inherited,
    };
    let mut ticks = tokio::time::interval(limits.status_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut source_lives = true;
    loop {
        let wanted = routes.borrow_and_update().clone();
        let rerouted = plane.reconcile(&wanted).await;
        plane.publish_some(&status, &rerouted);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return plane.stop(&status).await,
                Some(successor) = succession.requests.recv() => {
                    return plane.hand_over(successor, &status, &shutdown).await;
                }
                changed = routes.changed(), if source_lives => {
                    source_lives = changed.is_ok();
                    break;
                }
                () = plane.shared.news.notified() => plane.publish(&status),
                _ = ticks.tick() => {
                    plane.tidy(Instant::now()).await;
                    plane.publish(&status);
                }
            }
        }
    }
}

/// What all listeners and connections share.
#[derive(Debug)]
struct Shared {
    limits: Limits,
    permits: Arc<Semaphore>,
    connections: TaskTracker,
    /// Ends established connections.
    cut_off: Signal,
    /// Clients of http and ws mode are to come again on another connection: another plane serves the ports.
    retiring: Signal,
    /// The same, and who waits for its next request is not waited for.
    closing: Signal,
    access_log: Option<AccessLog>,
    /// A listener changed its state.
    news: Notify,
    accept_failures: AtomicU64,
    /// When trouble with accepting was logged last: it comes with every connection or not at all.
    trouble_logged: Mutex<Option<Instant>>,
}

impl Shared {
    fn new(options: &Options) -> Self {
        let limits = options.limits;
        let open = |path: &PathBuf| {
            AccessLog::open(path)
                .inspect_err(|error| {
                    tracing::warn!(path = %path.display(), %error, "there is no access log");
                })
                .ok()
        };
        Self {
            limits,
            retiring: Signal::default(),
            closing: Signal::default(),
            access_log: options.access_log.as_ref().and_then(open),
            permits: Arc::new(Semaphore::new(limits.connections_max)),
            connections: TaskTracker::new(),
            cut_off: Signal::default(),
            news: Notify::new(),
            accept_failures: AtomicU64::new(0),
            trouble_logged: Mutex::new(None),
        }
    }

    /// Whether trouble with accepting may be logged now: once in ten seconds.
    fn may_log_trouble(&self, now: Instant) -> bool {
        const PAUSE: Duration = Duration::from_secs(10);
        let mut logged = self
            .trouble_logged
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let may = logged.is_none_or(|last| now.saturating_duration_since(last) >= PAUSE);
        if may {
            *logged = Some(now);
        }
        may
    }
}

#[derive(Debug)]
struct Plane {
    bind: IpAddr,
    shared: Arc<Shared>,
    /// What it follows.
    routes: Arc<Routes>,
    ports: BTreeMap<u16, Running>,
    /// Open sockets that no route has asked for yet.
    inherited: Listeners,
}

#[derive(Debug)]
struct Running {
    port: Arc<Port>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Plane {
    /// Follows new routes; the ports they change.
    async fn reconcile(&mut self, routes: &Arc<Routes>) -> Vec<u16> {
        let mut inherited = std::mem::take(&mut self.inherited);
        let before = std::mem::replace(&mut self.routes, routes.clone());
        let changes = changed_ports(&before.by_port, &routes.by_port);
        let mut gone = Vec::new();
        for (number, _) in changes.iter().filter(|(_, route)| route.is_none()) {
            let Some(running) = self.ports.get(number) else {
                continue;
            };
            running.port.vacate(Instant::now());
            if running.port.mode() == ProxyMode::Tcp {
                gone.extend(self.ports.remove(number));
            }
        }
        close(gone).await;
        for (number, route) in &changes {
            let Some(route) = route else { continue };
            if let Some(running) = self.ports.get(number) {
                running.port.follow(route);
            } else {
                let socket = inherited.remove(number);
                self.ports
                    .insert(*number, self.start(*number, route, socket));
            }
        }
        changes.into_iter().map(|(number, _)| number).collect()
    }

    /// Closes ports that have been without a route for long, and connections to endpoints that are of no more
    /// use.
    async fn tidy(&mut self, now: Instant) {
        let is_over = |port: &Port| {
            let since = port.vacant_since();
            since.is_some_and(|since| now.saturating_duration_since(since) >= VACANT_HOLD)
        };
        let over = self.ports.iter().filter(|(_, it)| is_over(&it.port));
        let over: Vec<u16> = over.map(|(number, _)| *number).collect();
        let over = over.iter().filter_map(|number| self.ports.remove(number));
        close(over.collect()).await;
        for running in self.ports.values() {
            running.port.pool.sweep(now);
        }
    }

    fn start(
        &self,
        number: u16,
        route: &Route,
        inherited: Option<std::net::TcpListener>,
    ) -> Running {
        let port = Arc::new(Port::new(SocketAddr::new(self.bind, number)));
        port.follow(route);
        let stop = CancellationToken::new();
        let task = listener::serve(port.clone(), inherited, self.shared.clone(), stop.clone());
        Running {
            port,
            stop,
            task: tokio::spawn(task),
        }
    }

    /// Tells how all ports are.
    fn publish(&self, status: &watch::Sender<Arc<PlaneStatus>>) {
        let known = status.borrow().clone();
        let is_as_known = |number: &u16, running: &Running| {
            let known = known.ports.get(number);
            known.is_some_and(|known| !running.port.has_news(known))
        };
        let present = self.ports.iter();
        let news = present.filter(|(number, running)| !is_as_known(number, running));
        let gone = known.ports.keys();
        let gone = gone.filter(|number| !self.ports.contains_key(number));
        let numbers: Vec<u16> = news
            .map(|(number, _)| number)
            .chain(gone)
            .copied()
            .collect();
        self.publish_some(status, &numbers);
    }

    /// Tells how these ports are, and all there is to tell of the plane.
    fn publish_some(&self, status: &watch::Sender<Arc<PlaneStatus>>, numbers: &[u16]) {
        let now = Instant::now();
        let limits = &self.shared.limits;
        let mut ports = status.borrow().ports.clone();
        for number in numbers {
            match self.ports.get(number) {
                Some(running) => drop(ports.insert(*number, Arc::new(running.port.status(now)))),
                None => drop(ports.remove(number)),
            }
        }
        let new = PlaneStatus {
            ports,
            connections_open: limits.connections_max - self.shared.permits.available_permits(),
            connections_max: limits.connections_max,
            accept_failures: self.shared.accept_failures.load(Relaxed),
            access_lines_dropped: self
                .shared
                .access_log
                .as_ref()
                .map_or(0, AccessLog::dropped),
        };
        status.send_if_modified(|old| {
            let differs = **old != new;
            if differs {
                *old = Arc::new(new);
            }
            differs
        });
    }

    async fn hand_over(
        mut self,
        successor: oneshot::Sender<Listeners>,
        status: &watch::Sender<Arc<PlaneStatus>>,
        shutdown: &CancellationToken,
    ) {
        let running = std::mem::take(&mut self.ports);
        let copies = running
            .iter()
            .filter_map(|(&number, it)| Some((number, it.port.duplicate()?)))
            .collect();
        close(running.into_values().collect()).await;
        // When nobody is there to take them any more, clients are refused until somebody listens.
        let _ = successor.send(copies);
        self.publish(status);
        let shared = self.shared.clone();
        shared.retiring.cancel();
        shared.connections.close();
        tokio::select! {
            () = shared.connections.wait() => {}
            () = shutdown.cancelled() => self.stop(status).await,
        }
    }

    async fn stop(mut self, status: &watch::Sender<Arc<PlaneStatus>>) {
        close(std::mem::take(&mut self.ports).into_values().collect()).await;
        self.publish(status);
        let shared = &self.shared;
        shared.retiring.cancel();
        shared.closing.cancel();
        shared.connections.close();
        let drained =
            tokio::time::timeout(shared.limits.drain_deadline, shared.connections.wait()).await;
        if drained.is_err() {
            tracing::info!(
                connections = shared.connections.len(),
                "cutting off proxy connections that outlived the drain"
            );
            shared.cut_off.cancel();
            shared.connections.wait().await;
        }
        self.publish(status);
    }
}

/// Closes listeners and returns when their ports are free again, so that a route that returns can
/// have its port.
async fn close(listeners: Vec<Running>) {
    for running in &listeners {
        running.stop.cancel();
    }
    for running in listeners {
        if let Err(error) = running.task.await {
            tracing::error!(%error, "a proxy listener ended in a panic");
        }
    }
}
