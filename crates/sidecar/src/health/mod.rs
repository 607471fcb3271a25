//! Whether what was found works.
//!
//! Sources say what is on this host (`inventory`), owners say how to tell whether it works (`check`,
//! with `arguments`, `words` and `pace`), one task per instance asks (`probe`, with `external`, `grpc`
//! and `orphans`) when it is due (`schedule`), `verdict` says what the results make of it, and
//! `engine` tells the catalog's writer what changed. What the cluster makes of a
//! status, and draining, are not decided here.

mod arguments;
mod check;
mod engine;
pub(crate) mod external;
mod grpc;
mod inventory;
pub(crate) mod orphans;
mod pace;
mod probe;
mod schedule;
mod verdict;
mod words;

use std::{net::IpAddr, sync::Arc, time::Duration};

use catalog::Service;
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use self::{orphans::Orphans, probe::Prober};
use crate::{
    discovery::{Instance, SourceEvent, SourceName},
    listeners::Listeners,
    local_view::{CheckView, LocalView},
    net::{dial::Dialer, resolver::Resolver},
};

/// What this host knows of its own instances, for the catalog's writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalUpdate {
    /// An instance is there, new, changed, or with a new check result.
    Present {
        /// The instance; its status is what the check says (`Unknown` before the first result),
        /// its `updated` is meaningless.
        service: Service,
        /// Whether its checks have decided on its status since it was found; one result is enough
        /// unless its owner asked for more. Until then the writer keeps the status the cluster last
        /// knew.
        checked: bool,
    },
    /// An instance is gone.
    Gone {
        /// Its [`Service::id`].
        id: String,
    },
    /// A source finished its first complete listing: what the cluster holds of this host beyond
    /// what was found is from a former life.
    Listed(SourceName),
}

/// How instances are checked.
#[derive(Debug, Clone)]
pub struct HealthConfig {
    /// What `{{ host }}` means, and where ports that are bound to all addresses are asked.
    pub advertise_ip: IpAddr,
    /// Path that is asked for when an instance has no check of its own; Go Sidecar's is `/version`.
    /// Empty means `/`.
    pub default_endpoint: String,
    /// From one check of an instance to its next, unless its owner says otherwise; 3 s in Go Sidecar.
    /// New instances that do not work yet are asked more often. Shorter finds failures sooner, for
    /// more requests.
    pub interval: Duration,
    /// The time a check has, with all its redirects, unless its owner says otherwise; 2.999 s in Go
    /// Sidecar. With more than the interval a hanging instance is found later than it could be.
    pub timeout: Duration,
    /// Where the evidence of checks is shown.
    pub view: Arc<LocalView>,
    /// Where the listeners of instances are told.
    pub listeners: watch::Sender<Listeners>,
}

/// Checks what `sources` find until `shutdown`, or until nobody receives `updates`.
///
/// An instance is announced unchecked as soon as it is found, and after that whenever its record or
/// its status changes. When this returns, no check runs any more, and no process of one.
pub async fn run(
    config: HealthConfig,
    resolver: Resolver,
    sources: mpsc::Receiver<(SourceName, SourceEvent)>,
    updates: mpsc::Sender<LocalUpdate>,
    shutdown: CancellationToken,
) {
    let orphans = Orphans::default();
    let probe = Prober::new(Dialer::new(resolver), orphans.clone());
    let _orphans = AbortOnDropHandle::new(tokio::spawn(orphans.run(shutdown.clone())));
    engine::run(config, probe, sources, updates, shutdown).await;
}

/// How an instance would be checked, without checking it.
pub fn preview(config: &HealthConfig, instance: &Instance) -> CheckView {
    engine::preview(config, instance)
}

#[cfg(test)]
mod tests {
    use catalog::{Port, Status, Timestamp};

    use super::*;

    /// An instance of `web` with service port 8080 behind 10.0.0.1:32768.
    pub(super) fn service(id: &str) -> Service {
        Service {
            id: id.to_owned(),
            name: "web".to_owned(),
            image: "web:1.0".to_owned(),
            created: Timestamp::EPOCH,
            hostname: "node-a".to_owned(),
            ports: Some(vec![Port {
                kind: "tcp".to_owned(),
                port: 32768,
                service_port: 8080,
                ip: "10.0.0.1".to_owned(),
            }]),
            updated: Timestamp::EPOCH,
            proxy_mode: "http".to_owned(),
            weight: None,
            status: Status::Unknown,
        }
    }
}
