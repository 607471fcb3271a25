//! `sidecar haproxy-api`: HAProxy driven by an agent on the other side of HTTP, so that either can be replaced
//! alone, or so that a laptop's HAProxy follows a remote agent.
//!
//! It gets states ([`mirror`]) pushed to `POST /update` ([`api`]), as a listener of the agent, or follows the
//! agent's watch ([`source`]), and drives the same HAProxy as an agent would
//! ([`crate::proxy::haproxy`]). What was applied last stays in force until a better state is there: an agent
//! that is away, not ready or talking nonsense takes nothing out of service, and neither does the end of
//! the companion, which leaves HAProxy as it is.

mod api;
mod mirror;
pub mod settings;
mod source;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context as _;
use catalog::Snapshot;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

use self::{
    api::Api,
    mirror::{Mirror, Verdict},
    settings::Settings,
    source::Source,
};
use crate::{
    agent::{bind_ip, raise_descriptor_limit},
    net::{dial::Dialer, http_client::HttpClient, resolver::Resolver},
    proxy::haproxy::{self, HaproxyStatus, Inputs},
    routes::{Router, Routes},
    signals::Signals,
};

/// Time given to requests after the end was asked for.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Least time between two fetches that doubts have asked for.
const DOUBTS_EVERY: Duration = Duration::from_secs(5);

/// Runs until a signal ends it.
///
/// # Errors
/// When its port is taken.
pub async fn run(settings: Settings, mut signals: Signals) -> anyhow::Result<()> {
    raise_descriptor_limit();
    let listener = TcpListener::bind(settings.http_bind)
        .await
        .with_context(|| format!("cannot listen on {}", settings.http_bind))?;
    info!(address = %settings.http_bind, "listening");
    let shutdown = CancellationToken::new();
    let tasks = TaskTracker::new();

    let (changed, changes) = mpsc::channel(1);
    let (doubts, doubted) = mpsc::channel(1);
    let (status, haproxy) = watch::channel(Arc::new(HaproxyStatus::default()));
    let api = Api {
        mirror: Arc::new(Mutex::new(Mirror::new(settings.subscribe.clone()))),
        haproxy,
        changed,
        doubts: doubts.clone(),
    };
    let client = HttpClient::new(Dialer::new(Resolver::default()));
    let fetched_from = match &settings.follow {
        Some(authority) => Some(format!("http://{authority}/api/state.json")),
        None => settings.state_url.clone(),
    };
    if let Some(url) = fetched_from {
        info!(%url, "states are fetched there");
        let source = Source::new(client.clone(), &url);
        // A follower fetches at every word; who is posted to fetches at the start, and when in doubt.
        let every = match settings.follow {
            Some(_) => Duration::ZERO,
            None => DOUBTS_EVERY,
        };
        tasks.spawn(fetch(source, api.clone(), doubted, every, shutdown.clone()));
        let _ = doubts.try_send(());
    }
    if let Some(authority) = settings.follow.clone() {
        let (end, silence) = (shutdown.clone(), source::SILENCE_MAX);
        tasks.spawn(source::watch(client, authority, silence, doubts, end));
    }

    let snapshot = Arc::new(Snapshot::empty("", ""));
    let (snapshots, snapshots_seen) = watch::channel(snapshot);
    let (routes, routes_seen) = watch::channel(Arc::default());
    tasks.spawn(decide(
        api.clone(),
        changes,
        snapshots,
        routes,
        shutdown.clone(),
    ));
    let inputs = Inputs {
        snapshots: snapshots_seen,
        routes: routes_seen,
        reserved_ports: vec![settings.http_bind.port()],
        // HAProxy goes on without its companion.
        leaving: CancellationToken::new(),
    };
    let bind = bind_ip(settings.bind_ip).await;
    tasks.spawn(haproxy::run(
        settings.haproxy,
        bind,
        inputs,
        status,
        shutdown.clone(),
    ));

    let end = shutdown.clone();
    tasks.spawn(async move {
        let served =
            axum::serve(listener, api.router()).with_graceful_shutdown(end.cancelled_owned());
        // It has no error to give.
        let _ = served.await;
    });
    let (reload, _) = watch::channel(0);
    signals.stop(&reload).await;
    info!("stopping; HAProxy goes on");
    shutdown.cancel();
    tasks.close();
    let _ = tokio::time::timeout(STOP_TIMEOUT, tasks.wait()).await;
    Ok(())
}

/// Fetches the state each time somebody doubts that it is known.
async fn fetch(
    mut source: Source,
    api: Api,
    mut doubted: mpsc::Receiver<()>,
    every: Duration,
    shutdown: CancellationToken,
) {
    let work = async {
        while doubted.recv().await.is_some() {
            loop {
                let before = api.mirror().accepted();
                let document = source.insist(|| api.mirror().alive()).await;
                if api.mirror().fetched(document, before) == Verdict::Accepted {
                    break;
                }
            }
            // A full queue says the same.
            let _ = api.changed.try_send(());
            tokio::time::sleep(every).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = work => {}
    }
}

/// Makes routes of the newest state after each change; the first say that HAProxy may be touched.
async fn decide(
    api: Api,
    mut changes: mpsc::Receiver<()>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    routes: watch::Sender<Arc<Routes>>,
    shutdown: CancellationToken,
) {
    let mut router = Router::default();
    // The first routes are news even if there are none.
    let mut is_first = true;
    while let Some(Some(())) = shutdown.run_until_cancelled(changes.recv()).await {
        let Some(snapshot) = api.mirror().snapshot() else {
            continue;
        };
        let decided = router.follow(&snapshot).clone();
        snapshots.send_replace(Arc::new(snapshot));
        routes.send_if_modified(|current| {
            let differs = std::mem::take(&mut is_first) || **current != decided;
            if differs {
                *current = Arc::new(decided);
            }
            differs
        });
    }
}
