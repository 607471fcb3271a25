//! Containers of the local Docker engine as a source.
//!
//! Subscribes to the engine's events, then lists, then applies what happens; lists again every half
//! minute and after every reconnect, in case an event was lost (`follow`). An engine that cannot be
//! seen says nothing about its containers: they stay as they were until it answers again, or until
//! the time for that is over. What an event says of a container is believed before a listing that may
//! be older (`withheld`).
//!
//! Not here: what a container's labels mean (`labels`), HTTP (`engine`, `tls`), the engine's JSON
//! (`wire`).

mod endpoint;
mod engine;
mod follow;
mod labels;
mod lines;
mod names;
mod report;
mod sightings;
mod stop;
mod tls;
mod wire;
mod withheld;

#[cfg(test)]
mod tests;

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use self::follow::Follower;
use super::SourceSender;
use crate::{local_view::LocalView, net::resolver::Resolver};

pub use self::{
    endpoint::{Encryption, Endpoint, InvalidEndpoint},
    engine::{EngineError, engine_answers},
    names::Naming,
    sightings::{Sighting, sightings},
};

/// How containers are found and announced.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// The engine.
    pub endpoint: Endpoint,
    /// How services get their names.
    pub naming: Naming,
    /// How long instances stay while the engine cannot be seen; `None` is without end.
    pub hold: Option<Duration>,
    /// Name of this host, as records carry it.
    pub hostname: String,
    /// Address of ports that are published on all addresses.
    pub advertise_ip: IpAddr,
    /// Where to tell how it is going.
    pub view: Arc<LocalView>,
}

/// Follows the engine until `shutdown`, or until nobody listens to `events`.
pub async fn run(
    config: DockerConfig,
    resolver: Resolver,
    events: SourceSender,
    shutdown: CancellationToken,
) {
    let mut follower = Follower::new(config, resolver, events);
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = follower.follow() => {}
    }
}
