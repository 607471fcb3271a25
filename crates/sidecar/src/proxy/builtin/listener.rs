//! One ServicePort: opening it, however long that takes, and accepting connections.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    os::fd::AsFd as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed},
        },
    },
    time::{Duration, Instant},
};

use catalog::ProxyMode;
use hyper::StatusCode;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::{
    EndpointStatus, ListenError, ListenState, PortStatus, Shared, balance::Pool, connection,
    is_listener,
};
use crate::routes::Route;

/// Connections the kernel completes ahead of us; it caps this at its own limit.
const BACKLOG: i32 = 1024;
/// First pause before a port is tried again; doubles with each failure.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Longest pause before a port is tried again.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Pause after a connection could not be accepted. What is missing then (file descriptors, memory)
/// is missing for the next one too, and the listener stays ready: without a pause it would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A ServicePort: what it serves now, and what is counted of it.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) address: SocketAddr,
    pub(super) pool: Pool,
    pub(super) counts: Counts,
    owner: Mutex<Owner>,
    listen: Mutex<ListenState>,
    /// What it accepts from, while it is open.
    socket: Mutex<Option<Arc<TcpListener>>>,
}

#[derive(Debug, Default)]
struct Owner {
    service: String,
    mode: ProxyMode,
    /// Endpoints that are this very listener, left out.
    own: BTreeSet<SocketAddr>,
    /// Since when there is no route.
    vacant: Option<Instant>,
}

/// Grow for as long as the listener lives.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) open: AtomicU64,
    pub(super) total: AtomicU64,
    pub(super) unserved: AtomicU64,
    pub(super) connect_failures: AtomicU64,
    pub(super) to_endpoints_bytes: AtomicU64,
    pub(super) to_clients_bytes: AtomicU64,
    /// Requests, in http and ws mode.
    pub(super) requests: AtomicU64,
    /// Times a request was given to another endpoint, or again to the same.
    pub(super) retries: AtomicU64,
    /// Answers of the proxy itself, by [`OWN_CODES`].
    own_answers: [AtomicU64; OWN_CODES.len()],
}

/// Statuses of answers that the proxy makes itself; the last stands for any other.
const OWN_CODES: [u16; 7] = [400, 405, 408, 502, 503, 504, 500];

impl Counts {
    /// The proxy answered itself.
    pub(super) fn own_answer(&self, status: StatusCode) {
        let known = OWN_CODES.iter().position(|code| *code == status.as_u16());
        self.own_answers[known.unwrap_or(OWN_CODES.len() - 1)].fetch_add(1, Relaxed);
    }
}

/// Of values that are replaced as a whole: a panic elsewhere leaves them valid.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Port {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            pool: Pool::default(),
            counts: Counts::default(),
            owner: Mutex::default(),
            listen: Mutex::default(),
            socket: Mutex::default(),
        }
    }

    /// A copy of the open socket, which another process can accept from.
    pub(super) fn duplicate(&self) -> Option<std::net::TcpListener> {
        let socket = lock(&self.socket).clone()?;
        let copy = socket.as_fd().try_clone_to_owned();
        copy.inspect_err(|error| {
            tracing::warn!(address = %self.address, %error, "cannot duplicate a listener");
        })
        .ok()
        .map(Into::into)
    }

    /// Sends the next connections along `route`. Instances that share an address are one endpoint, with the
    /// largest of their weights.
    pub(super) fn follow(&self, route: &Route) {
        let (mut own, mut weights) = (BTreeSet::new(), BTreeMap::<_, u8>::new());
        for endpoint in &route.endpoints {
            if is_listener(self.address, endpoint.address) {
                own.insert(endpoint.address);
            } else {
                let weight = weights.entry(endpoint.address).or_default();
                *weight = endpoint.weight.max(*weight);
            }
        }
        self.pool.replace(&weights);
        let mut owner = lock(&self.owner);
        if let Some(endpoint) = own.difference(&owner.own).next() {
            tracing::warn!(
                service = route.service, port = self.address.port(), %endpoint,
                "an instance announces the proxy's own address; it is left out"
            );
        }
        *owner = Owner {
            service: route.service.clone(),
            mode: route.mode,
            own,
            vacant: None,
        };
    }

    /// There is no route any more.
    pub(super) fn vacate(&self, now: Instant) {
        self.pool.replace(&BTreeMap::new());
        lock(&self.owner).vacant.get_or_insert(now);
    }

    /// Since when there is no route.
    pub(super) fn vacant_since(&self) -> Option<Instant> {
        lock(&self.owner).vacant
    }

    pub(super) fn mode(&self) -> ProxyMode {
        lock(&self.owner).mode
    }

    pub(super) fn service(&self) -> String {
        lock(&self.owner).service.clone()
    }

    /// Whether its status may be another than `known`, which it told last, though it follows the same route.
    pub(super) fn has_news(&self, known: &PortStatus) -> bool {
        let counts = &self.counts;
        let is_avoided = |endpoint: &EndpointStatus| endpoint.avoided;
        known.connections_open > 0
            || known.endpoints.iter().any(is_avoided)
            || counts.total.load(Acquire) != known.connections_total
            || counts.requests.load(Relaxed) != known.requests_total
            || *lock(&self.listen) != known.listen
    }

    pub(super) fn status(&self, now: Instant) -> PortStatus {
        let mode = self.mode();
        let is_http = mode != ProxyMode::Tcp;
        let endpoints = self.pool.view(now).into_iter().map(|view| EndpointStatus {
            address: view.endpoint.address,
            connections_open: view.endpoint.open.load(Relaxed),
            connections_total: view.endpoint.total.load(Relaxed),
            connect_failures: view.endpoint.failures.load(Relaxed),
            avoided: view.avoided,
            ejections: view.endpoint.ejections.load(Relaxed),
            sent_bytes: view.endpoint.sent_bytes.load(Relaxed),
            received_bytes: view.endpoint.received_bytes.load(Relaxed),
            requests: is_http.then(|| view.endpoint.requests.status()),
        });
        let counts = &self.counts;
        PortStatus {
            service: self.service(),
            mode,
            listen: lock(&self.listen).clone(),
            // What a connection counted is seen once its end is.
            connections_open: counts.open.load(Acquire),
            connections_total: counts.total.load(Relaxed),
            connections_unserved: counts.unserved.load(Relaxed),
            connect_failures: counts.connect_failures.load(Relaxed),
            to_endpoints_bytes: counts.to_endpoints_bytes.load(Relaxed),
            to_clients_bytes: counts.to_clients_bytes.load(Relaxed),
            requests_total: counts.requests.load(Relaxed),
            retries_total: counts.retries.load(Relaxed),
            own_answers: OWN_CODES
                .iter()
                .zip(&counts.own_answers)
                .map(|(code, count)| (*code, count.load(Relaxed)))
                .filter(|(_, count)| *count > 0)
                .collect(),
            endpoints: endpoints.collect(),
        }
    }
}

/// Opens the port, unless it is `inherited` open, and accepts its connections until `stop`; the port
/// is closed when this returns.
pub(super) async fn serve(
    port: Arc<Port>,
    inherited: Option<std::net::TcpListener>,
    shared: Arc<Shared>,
    stop: CancellationToken,
) {
    let work = async {
        let listener = Arc::new(open_patiently(&port, inherited, &shared).await);
        *lock(&port.socket) = Some(listener.clone());
        loop {
            accept(&listener, &port, &shared).await;
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = work => {}
    }
    *lock(&port.socket) = None;
}

/// Tries until the port is open. Each cause is logged when it first shows, and so is the success.
async fn open_patiently(
    port: &Port,
    mut inherited: Option<std::net::TcpListener>,
    shared: &Shared,
) -> TcpListener {
    let mut pause = RETRY_MIN;
    loop {
        let opened = match inherited.take() {
            Some(listener) => adopt(listener),
            None => open(port.address),
        };
        let (state, listener) = match opened {
            Ok(listener) => (ListenState::Listening, Some(listener)),
            Err(error) => (
                ListenState::Failed(ListenError::new(port.address, &error)),
                None,
            ),
        };
        let before = std::mem::replace(&mut *lock(&port.listen), state.clone());
        if before != state {
            let service = port.service();
            match &state {
                ListenState::Failed(error) => {
                    tracing::warn!(service, port = port.address.port(), "{error}; trying again");
                }
                ListenState::Listening | ListenState::Starting => {
                    tracing::info!(service, address = %port.address, "listening");
                }
            }
            shared.news.notify_one();
        }
        if let Some(listener) = listener {
            return listener;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

fn adopt(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // Otherwise connections of a former life in TIME_WAIT keep the port for a minute.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts one connection and sets it on its way. While the limit is reached it holds the one it
/// has, and accepts no other.
async fn accept(listener: &TcpListener, port: &Arc<Port>, shared: &Arc<Shared>) {
    let client = match listener.accept().await {
        Ok((client, _)) => client,
        Err(error) if is_the_clients(&error) => return,
        Err(error) => {
            shared.accept_failures.fetch_add(1, Relaxed);
            if shared.may_log_trouble(Instant::now()) {
                tracing::warn!(
                    address = %port.address, %error,
                    "cannot accept connections; pausing {} ms each time", ACCEPT_PAUSE.as_millis()
                );
            }
            tokio::time::sleep(ACCEPT_PAUSE).await;
            return;
        }
    };
    start(client, port, shared).await;
}

async fn start(client: TcpStream, port: &Arc<Port>, shared: &Arc<Shared>) {
    let permits = &shared.permits;
    let permit = if let Ok(permit) = permits.clone().try_acquire_owned() {
        permit
    } else {
        if shared.may_log_trouble(Instant::now()) {
            tracing::warn!(
                address = %port.address,
                "all {} connections of the proxy are in use; new ones wait",
                shared.limits.connections_max
            );
        }
        let Ok(permit) = permits.clone().acquire_owned().await else {
            return;
        };
        permit
    };
    connection::start(client, port, shared, permit);
}

/// The client gave up before it was accepted: no trouble of ours.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}
