//! The HTTP API: what programs and people read from an agent, and the commands they can give it.
//!
//! Every answer is made from the newest immutable snapshot and written without any lock, so that a
//! slow reader costs nobody anything. Nothing here decides: routes come from [`crate::routes`],
//! records from the catalog, and commands are handed to the agent. Paths, bodies and headers follow
//! the recorded answers of Go Sidecar, whose clients are served unchanged; `/metrics`, `/health`,
//! `/ready` and `/api/v2/` are ours.
//!
//! - `target`: which question a method and a path ask
//! - `answer`: the answer to each; `reply`: what answers are put together from
//! - `v2`: what is told in words of our own
//! - `documents`: the large documents, encoded once per snapshot
//! - `watch`: the endless answer of the original; `endless`: bodies of such answers
//! - `limits`: how many may come at a time
//! - `connection`: limits and deadlines of one connection
//! - `access`: who may ask what; `tls`: encryption of connections
//! - `commands`: drain and undrain

mod access;
mod answer;
mod commands;
mod connection;
mod documents;
mod endless;
mod envoy_v1;
mod limits;
mod proxy_document;
mod reply;
pub(crate) mod routes_document;
mod servers;
mod target;
mod tls;
mod ui;
mod v2;
mod watch;

#[cfg(test)]
mod tests;

use std::{fmt, io, net::IpAddr, sync::Arc, time::Duration};

use catalog::Snapshot;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch as channel},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{local_view::LocalView, proxy::builtin::PlaneStatus, routes::Routes};
pub use access::Access;
use access::Caller;
use answer::Answers;
pub use commands::{DrainOrder, DrainOutcome, DrainRequest};
pub use envoy_v1::EnvoyV1;
use limits::Limits;
pub use tls::{Follower, Tls};
pub use v2::{CHANGES_MAX, Hosts, Journal};

/// How long open connections may take to finish once the agent stops.
const FINISH_WITHIN: Duration = Duration::from_secs(5);
/// Pause after a failed accept, so that running out of file descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A peer that vanished without a word is noticed after this much silence and three probes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// Time between two of those probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// What the API reads from, and where it hands commands to.
#[derive(Clone)]
pub struct Api {
    /// The catalog's newest snapshot.
    pub snapshots: channel::Receiver<Arc<Snapshot>>,
    /// The routes made of it.
    pub routes: channel::Receiver<Arc<Routes>>,
    /// What the built-in proxy tells; empty while there is none.
    pub plane: channel::Receiver<Arc<PlaneStatus>>,
    /// What this host sees of itself.
    pub local: Arc<LocalView>,
    /// How Envoy's first interface shows things.
    pub envoy_v1: EnvoyV1,
    /// Takes commands to drain and undrain.
    pub drain: mpsc::Sender<DrainRequest>,
    /// The newest state of the drains that is on disk.
    pub drains_written: channel::Receiver<u64>,
    /// Who may ask what.
    pub access: Arc<Access>,
    /// Where connections are to be encrypted.
    pub tls: Option<Tls>,
    /// The agent's metrics as Prometheus text; called once per scrape, must not block.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Names of the parts that are still awaited; empty means ready.
    pub ready: channel::Receiver<Vec<&'static str>>,
    /// The latest changes.
    pub journal: Arc<Journal>,
    /// Who is there.
    pub hosts: Arc<Hosts>,
    /// What carries the traffic.
    pub proxy: ProxyFacts,
    /// Whether gossip is encrypted now; must not block.
    pub encrypted: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// What was chosen for the traffic when the agent started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyFacts {
    /// `builtin`, `kernel`, `haproxy` or `none`.
    pub plane: &'static str,
    /// Where services are reached on this host; `None` without a data plane.
    pub bind_ip: Option<IpAddr>,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api")
            .field("ready", &*self.ready.borrow())
            .finish_non_exhaustive()
    }
}

/// Answers requests on `listener` until `shutdown`, then lets open connections finish for 5 s.
pub async fn serve(listener: TcpListener, api: Api, shutdown: CancellationToken) {
    let limits = Limits::of_this_process();
    let tls = api.tls.clone();
    let answers = Arc::new(Answers::new(api, limits.watchers, shutdown.clone()));
    let slots = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            // Fails only when it is closed, which nobody does.
            let slot = slots.clone().acquire_owned().await.ok();
            (slot, listener.accept().await)
        };
        let (slot, stream) = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            (slot, accepted) = accepted => match accepted {
                Ok((stream, _)) => (slot, stream),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an API connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        if let Err(error) = tune(&stream) {
            tracing::debug!(%error, "cannot set options of an API connection");
        }
        let caller = match (stream.peer_addr(), stream.local_addr()) {
            (Ok(peer), Ok(local)) => Some(Caller { peer, local }),
            // It is gone already, or counts as somebody from elsewhere.
            _ => None,
        };
        let (answers, shutdown, tls) = (answers.clone(), shutdown.clone(), tls.clone());
        connections.spawn(async move {
            match tls {
                None => connection::serve(stream, caller, answers, slot, shutdown).await,
                Some(tls) => {
                    if let Some(stream) = tls.accept(stream).await {
                        connection::serve(stream, caller, answers, slot, shutdown).await;
                    }
                }
            }
        });
    }
    drop(listener);
    let finish = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(FINISH_WITHIN, finish).await.is_err() {
        tracing::debug!(left = connections.len(), "API connections cut at shutdown");
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}
