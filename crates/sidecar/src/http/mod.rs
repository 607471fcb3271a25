//! The HTTP API: what programs and people read from an agent, and the one command they can give it.
//!
//! Every answer is made from the newest immutable snapshot and written without any lock, so that a
//! slow reader costs nobody anything. Nothing here decides: routes come from [`crate::routes`],
//! records from the catalog, and a drain is handed to the agent. Paths, bodies and headers follow
//! the recorded answers of Go Sidecar, whose clients are served unchanged; `/metrics`, `/health`,
//! `/ready` and `/api/v2/` are ours.
//!
//! - `target`: which question a method and a path ask
//! - `answer`: the answer to each
//! - `documents`: the large documents, encoded once per snapshot
//! - `watch`: the endless answer
//! - `connection`: limits and deadlines of one connection

mod answer;
mod connection;
mod documents;
mod envoy_v1;
mod proxy_document;
pub(crate) mod routes_document;
mod servers;
mod target;
mod ui;
mod watch;

#[cfg(test)]
mod tests;

use std::{fmt, io, sync::Arc, time::Duration};

use catalog::Snapshot;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, oneshot, watch as channel},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{local_view::LocalView, proxy::builtin::PlaneStatus, routes::Routes};
use answer::Answers;
pub use envoy_v1::EnvoyV1;

/// Most connections at a time; more wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 1024;
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
    /// Takes drain commands.
    pub drain: mpsc::Sender<DrainRequest>,
    /// The agent's metrics as Prometheus text; called once per scrape, must not block.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Names of the parts that are still awaited; empty means ready.
    pub ready: channel::Receiver<Vec<&'static str>>,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api")
            .field("ready", &*self.ready.borrow())
            .finish_non_exhaustive()
    }
}

/// The command to drain one instance of this host.
#[derive(Debug)]
pub struct DrainRequest {
    /// ID of the instance.
    pub id: String,
    /// Takes the outcome.
    pub reply: oneshot::Sender<DrainOutcome>,
}

/// What became of a [`DrainRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DrainOutcome {
    /// It drains now, or did already.
    Draining {
        /// Name of its service.
        name: String,
    },
    /// No instance of this host has the ID.
    NotHere,
}

/// Answers requests on `listener` until `shutdown`, then lets open connections finish for 5 s.
pub async fn serve(listener: TcpListener, api: Api, shutdown: CancellationToken) {
    let answers = Arc::new(Answers::new(api, shutdown.clone()));
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await;
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
        let (answers, shutdown) = (answers.clone(), shutdown.clone());
        connections.spawn(async move {
            let _slot = slot;
            connection::serve(stream, answers, shutdown).await;
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
