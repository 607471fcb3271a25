//! One connection: finding an endpoint that answers, then carrying bytes until both sides are done.

use std::{
    io,
    sync::{
        Arc,
        atomic::Ordering::{Relaxed, Release},
    },
    time::{Duration, Instant},
};

use catalog::ProxyMode;
use socket2::{SockRef, TcpKeepalive};
use tokio::{net::TcpStream, sync::OwnedSemaphorePermit, time::timeout};

use super::{Shared, balance::Lease, copy, http, listener::Port};

/// Silence after which the kernel asks whether the other side is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// Time between its questions; after several without an answer (9 on Linux) the connection fails.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Begins to serve `client`, until both sides have ended, either failed, or connections are cut off.
pub(super) fn start(
    client: TcpStream,
    port: &Arc<Port>,
    shared: &Arc<Shared>,
    permit: OwnedSemaphorePermit,
) {
    port.counts.total.fetch_add(1, Relaxed);
    let open = Open::new(port.clone(), permit);
    let (port, tasks, shared) = (port.clone(), &shared.connections, shared.clone());
    // Tasks of their own kinds, each only as large as it has to be.
    match port.mode() {
        ProxyMode::Tcp => tasks.spawn(async move {
            carry(client, &port, &shared).await;
            drop(open);
        }),
        ProxyMode::Http | ProxyMode::Ws => tasks.spawn(async move {
            http::serve(client, port, shared).await;
            drop(open);
        }),
    };
}

async fn carry(client: TcpStream, port: &Port, shared: &Shared) {
    let found = tokio::select! {
        biased;
        found = connect(port, shared) => found,
        () = shared.cut_off.cancelled() => None,
    };
    let Some((endpoint, lease)) = found else {
        port.counts.unserved.fetch_add(1, Relaxed);
        reset(client);
        return;
    };
    tune(&client);
    let (up, down) = copy::tallies(port, lease.upstream());
    let ended = tokio::select! {
        biased;
        ended = copy::both_ways(&client, &endpoint, up, down) => ended,
        () = shared.cut_off.cancelled() => Err(io::Error::other("the proxy stops")),
    };
    if let Err(error) = ended {
        tracing::debug!(port = port.address.port(), endpoint = %lease.address(), %error,
            "a connection broke");
        // What broke on one side must not look complete on the other.
        reset(client);
        reset(endpoint);
    }
}

/// Connects to the first endpoint that answers, in the order of the pool; each is tried once.
async fn connect(port: &Port, shared: &Shared) -> Option<(TcpStream, Lease)> {
    let limits = &shared.limits;
    let start = Instant::now();
    let mut tried = Vec::new();
    while start.elapsed() < limits.connect_deadline {
        let lease = port.pool.pick(&tried, Instant::now())?;
        let address = lease.address();
        match dial(&lease, port, shared).await {
            Ok(endpoint) => return Some((endpoint, lease)),
            Err(_) => tried.push(address),
        }
    }
    None
}

/// Connects to one endpoint, and remembers how it went.
///
/// # Errors
/// When it refuses, or does not answer in time.
pub(super) async fn dial(lease: &Lease, port: &Port, shared: &Shared) -> io::Result<TcpStream> {
    let limits = &shared.limits;
    let patience = if lease.is_last() {
        limits.connect_timeout_last
    } else {
        limits.connect_timeout
    };
    let attempt = timeout(patience, TcpStream::connect(lease.address())).await;
    let attempt = attempt.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let stream = attempt
        .and_then(|stream| refuse_loop(stream, port))
        .inspect_err(|error| {
            tracing::debug!(port = port.address.port(), endpoint = %lease.address(), %error,
                "cannot reach an endpoint");
            port.counts.connect_failures.fetch_add(1, Relaxed);
            if !is_ours(error) {
                port.pool.failed(lease, Instant::now());
            }
        })?;
    port.pool.reached(lease);
    tune(&stream);
    Ok(stream)
}

/// Whether the failure says nothing about the endpoint: this process or host has run out of file
/// descriptors (EMFILE, ENFILE), memory, or local ports.
fn is_ours(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let ours = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::ADDRNOTAVAIL,
    ];
    Errno::from_io_error(error).is_some_and(|error| ours.contains(&error))
}

/// Refuses a connection that ends where it began. A socket that connects to a free port of its own
/// host can be given that very port as its source, and then talks to itself; and a proxy that
/// listens on all addresses can meet itself at any of them.
fn refuse_loop(stream: TcpStream, port: &Port) -> io::Result<TcpStream> {
    let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
    let to_itself = local == peer;
    let to_listener = port.address.ip().is_unspecified()
        && peer.port() == port.address.port()
        && peer.ip() == local.ip();
    if to_itself || to_listener {
        return Err(io::Error::new(
            io::ErrorKind::ConnectionRefused,
            "the connection came back to the proxy itself",
        ));
    }
    Ok(stream)
}

/// Sends small writes at once and notices dead peers. A socket too broken for its options shows
/// that with the first byte.
pub(super) fn tune(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL);
    let result = stream
        .set_nodelay(true)
        .and_then(|()| SockRef::from(stream).set_tcp_keepalive(&keepalive));
    if let Err(error) = result {
        tracing::trace!(%error, "cannot set options of a socket");
    }
}

/// Closes with a reset, which no client can take for a complete answer.
pub(super) fn reset(stream: TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::trace!(%error, "cannot reset a connection; closing it");
    }
}

/// Counts a connection as open while it lives.
#[derive(Debug)]
struct Open {
    port: Arc<Port>,
    _permit: OwnedSemaphorePermit,
}

impl Open {
    fn new(port: Arc<Port>, permit: OwnedSemaphorePermit) -> Self {
        port.counts.open.fetch_add(1, Relaxed);
        Self {
            port,
            _permit: permit,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.port.counts.open.fetch_sub(1, Release);
    }
}
