//! Envoy as a data plane: somebody runs it on this host, and it is fed by xDS v3 over one stream, state of the
//! world or delta, as Go Sidecar does it.
//!
//! - `resources`: routes become clusters, endpoints and listeners, `encode` has their contents, `draining` what
//!   routes do not have, `knobs` what the owner of this host adds;
//! - `subscription`: what is told on a stream, and when; all these are pure, but for the file of `knobs`;
//! - `hostnames`: addresses of hosts by their names;
//! - `server`: gRPC around it; `status`: what it tells of itself; `bootstrap`: a file for Envoy to start with.
//!
//! Truth: Envoy's "xDS REST and gRPC protocol"; measured with Envoy 1.40.

pub mod bootstrap;
mod draining;
mod encode;
mod hostnames;
pub mod knobs;
pub mod resources;
mod server;
mod status;
pub mod subscription;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use catalog::Snapshot;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::debug;

pub use self::status::{Board, EnvoyStatus, RejectedStatus, StreamStatus};
use self::{
    hostnames::{FRESH_FOR, Hosts},
    knobs::Knobs,
    resources::{Composer, Kind},
};
use crate::{net::resolver::Resolver, routes::Routes};

/// What the xDS server is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of this agent's host; every Envoy is served, whatever it calls itself.
    pub node: String,
    /// Port on 127.0.0.1.
    pub port: u16,
    /// Address of the listeners.
    pub bind: IpAddr,
    /// Whether endpoints are at what their hosts' names resolve to, and what resolves these.
    pub hostnames: Option<Resolver>,
    /// File with settings of services.
    pub settings_file: Option<PathBuf>,
}

/// What Envoy is to serve.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The catalog's newest snapshot, for instances that drain.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// The newest routes. The first change says that routing begins; nobody is told anything before, so that
    /// an Envoy goes on with what an earlier agent told it.
    pub routes: watch::Receiver<Arc<Routes>>,
}

/// Serves xDS until `shutdown`.
pub async fn run(
    settings: Settings,
    mut inputs: Inputs,
    board: Arc<Board>,
    shutdown: CancellationToken,
) {
    let (publish, published) = watch::channel(None);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, settings.port));
    let node = settings.node.clone();
    let server = server::run(address, node, published, board.clone(), shutdown.clone());
    let (knobs_sender, mut knobs) = watch::channel(Arc::new(Knobs::default()));
    let follow_file = async {
        match &settings.settings_file {
            Some(file) => knobs::watch(file, knobs_sender, shutdown.clone()).await,
            None => std::future::pending().await,
        }
    };
    let compose = async {
        if inputs.routes.changed().await.is_err() {
            return;
        }
        let mut composer = Composer::new(settings.bind);
        let mut hosts = settings.hostnames.clone().map(Hosts::new);
        let mut is_first = true;
        loop {
            let knobs_now = knobs.borrow_and_update().clone();
            let mut differs = composer.set_knobs_if_others(&knobs_now);
            // The routes first: the snapshot is then at least as new.
            let routes = inputs.routes.borrow_and_update().clone();
            let snapshot = inputs.snapshots.borrow_and_update().clone();
            differs |= composer.follow(&routes, &snapshot);
            if let Some(hosts) = &mut hosts {
                hosts.want(&composer.hostnames());
                hosts.settle().await;
                differs |= composer.set_hosts(Arc::new(hosts.addresses()));
            }
            if differs || std::mem::take(&mut is_first) {
                let resources = composer.resources().clone();
                debug!(
                    number = resources.number,
                    clusters = resources.count(Kind::Cluster),
                    listeners = resources.count(Kind::Listener),
                    "resources for Envoy"
                );
                board.serves(&resources);
                publish.send_replace(Some(Arc::new(resources)));
            }
            tokio::select! {
                changed = inputs.routes.changed() => if changed.is_err() { return },
                changed = inputs.snapshots.changed() => if changed.is_err() { return },
                Ok(()) = knobs.changed() => {}
                () = next_answer(&mut hosts) => {}
            }
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = async { tokio::join!(server, compose, follow_file); } => {}
    }
}

/// Waits for an address, or until addresses are old.
async fn next_answer(hosts: &mut Option<Hosts>) {
    match hosts {
        Some(hosts) => tokio::select! {
            () = hosts.next() => {}
            () = tokio::time::sleep(FRESH_FOR) => {}
        },
        None => std::future::pending().await,
    }
}
