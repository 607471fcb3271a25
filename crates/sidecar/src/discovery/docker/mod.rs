//! Containers of the local Docker engine as a source.
//!
//! Subscribes to the engine's events, then lists, then applies what happens; lists again every half
//! minute and after every reconnect, in case an event was lost. An engine that cannot be seen says
//! nothing about its containers: they stay as they were until it answers again.
//!
//! Not here: what a container's labels mean (`labels`), HTTP (`engine`), the engine's JSON (`wire`).

mod endpoint;
mod engine;
mod labels;
mod lines;
mod wire;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::IpAddr,
    time::Duration,
};

use rand::{TryRng, rngs::SysRng};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use self::{
    engine::Engine,
    wire::{Container, EngineEvent, Listing, Unreadable, short_id},
};
use super::{Instance, SourceEvent, SourceName, SourceSender};
use crate::net::resolver::Resolver;

pub use self::{
    endpoint::{Endpoint, InvalidEndpoint},
    engine::{EngineError, engine_answers},
};

/// Longest time a lost event goes unnoticed.
const RESYNC_INTERVAL: Duration = Duration::from_secs(30);
/// Wait before the complete listing that an event nobody could read asks for; others that follow at
/// once are covered by the same listing.
const RESYNC_SOON: Duration = Duration::from_secs(1);
/// First and longest wait between attempts to reach the engine.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// An event stream that lasted this long was not refused, so the next attempt need not wait.
const STABLE_AFTER: Duration = Duration::from_secs(5);
/// Causes logged for one outage.
const CAUSES_MAX: usize = 4;
/// Containers whose complaints are remembered before those that are gone are forgotten.
const COMPLAINANTS_MAX: usize = 4096;
/// Complaints logged for one container.
const COMPLAINTS_MAX: usize = 16;
/// Characters of one complaint: values of labels have no limit of their own.
const COMPLAINT_CHARS_MAX: usize = 300;

/// How containers are found and announced.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// The engine.
    pub endpoint: Endpoint,
    /// Name of this host, as records carry it.
    pub hostname: String,
    /// Address of ports that are published on all addresses.
    pub advertise_ip: IpAddr,
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

/// Why a session with the engine ended.
#[derive(Debug, thiserror::Error)]
enum SessionEnd {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("nobody listens any more")]
    Unheard,
}

struct Follower {
    config: DockerConfig,
    engine: Engine,
    events: SourceSender,
    /// What was announced and not withdrawn, by short ID.
    known: BTreeMap<String, Instance>,
    /// Complaints logged already, by short ID.
    complained: BTreeMap<String, BTreeSet<String>>,
    /// The causes logged since the engine cannot be reached; empty while it can.
    unreachable: BTreeSet<String>,
    /// When the current session had its first listing.
    listed_at: Option<Instant>,
}

// === impl Follower ===

impl Follower {
    fn new(config: DockerConfig, resolver: Resolver, events: SourceSender) -> Self {
        Self {
            engine: Engine::new(config.endpoint.clone(), resolver),
            config,
            events,
            known: BTreeMap::new(),
            complained: BTreeMap::new(),
            unreachable: BTreeSet::new(),
            listed_at: None,
        }
    }

    /// Sessions one after the other; ends when nobody listens.
    async fn follow(&mut self) {
        let mut backoff = BACKOFF_MIN;
        loop {
            let Err(end) = self.session().await;
            let SessionEnd::Engine(error) = end else {
                return;
            };
            let listed_at = self.listed_at.take();
            if listed_at.is_some_and(|at| at.elapsed() >= STABLE_AFTER) {
                backoff = BACKOFF_MIN;
            }
            // A stream that ended is tried again before anyone is told: engines restart, and
            // filters before their sockets cut idle streams.
            match listed_at {
                Some(_) => {
                    tracing::debug!(endpoint = %self.config.endpoint, %error, "docker session ended");
                }
                None => self.report_unreachable(&error),
            }
            sleep(jittered(backoff)).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// From the subscription to the failure that ends it.
    async fn session(&mut self) -> Result<Infallible, SessionEnd> {
        self.engine.negotiate().await?;
        let mut stream = self.engine.events().await?;
        self.resync().await?;
        self.report_reachable();
        self.listed_at = Some(Instant::now());
        let mut resync_at = Instant::now() + RESYNC_INTERVAL;
        loop {
            let event = tokio::select! {
                event = stream.next() => event?,
                () = sleep_until(resync_at) => {
                    self.resync().await?;
                    resync_at = Instant::now() + RESYNC_INTERVAL;
                    continue;
                }
            };
            match event {
                EngineEvent::Started(id) => {
                    if let Err(error) = self.refresh(&id).await? {
                        tracing::debug!(container = short_id(&id), %error, "cannot look at a started container");
                        resync_at = resync_at.min(Instant::now() + RESYNC_SOON);
                    }
                }
                EngineEvent::Ended(id) => self.delete(short_id(&id)).await?,
                EngineEvent::Other => {}
                EngineEvent::Unreadable(reason) => {
                    tracing::debug!(%reason, "unreadable docker event");
                    resync_at = resync_at.min(Instant::now() + RESYNC_SOON);
                }
            }
        }
    }

    /// Announces a complete listing. Nothing is said before all of it has come.
    async fn resync(&mut self) -> Result<(), SessionEnd> {
        let Listing {
            containers,
            unreadable,
        } = self.engine.list().await?;
        let mut found = BTreeMap::new();
        for container in &containers {
            if let Some(instance) = self.mapped(container) {
                found.insert(instance.service.id.clone(), instance);
            }
        }
        for skipped in unreadable {
            // It is there all the same: what was known of it stays.
            if let Some(instance) = self.skipped(&skipped) {
                found.insert(instance.service.id.clone(), instance);
            }
        }
        if self.complained.len() > COMPLAINANTS_MAX {
            let listed: BTreeSet<_> = containers.iter().map(|it| short_id(&it.id)).collect();
            self.complained.retain(|id, _| listed.contains(id.as_str()));
        }
        self.send(SourceEvent::Init).await?;
        for instance in found.values() {
            self.send(SourceEvent::InitApply(instance.clone())).await?;
        }
        self.send(SourceEvent::InitDone).await?;
        self.known = found;
        Ok(())
    }

    /// Announces one container as the engine describes it now. The inner error means that nothing is
    /// known about it and a listing is needed.
    async fn refresh(&mut self, id: &str) -> Result<Result<(), EngineError>, SessionEnd> {
        let listing = match self.engine.list_one(id).await {
            Ok(listing) => listing,
            Err(error) => return Ok(Err(error)),
        };
        if let Some(skipped) = listing.unreadable.first() {
            self.skipped(skipped);
            return Ok(Ok(()));
        }
        match listing
            .containers
            .first()
            .and_then(|container| self.mapped(container))
        {
            Some(instance) => {
                self.known
                    .insert(instance.service.id.clone(), instance.clone());
                self.send(SourceEvent::Apply(instance)).await?;
            }
            // It ended before we looked, or it is not to be discovered.
            None => self.delete(short_id(id)).await?,
        }
        Ok(Ok(()))
    }

    async fn delete(&mut self, id: &str) -> Result<(), SessionEnd> {
        match self.known.remove(id) {
            Some(_) => self.send(SourceEvent::Delete { id: id.to_owned() }).await,
            None => Ok(()),
        }
    }

    async fn send(&self, event: SourceEvent) -> Result<(), SessionEnd> {
        self.events
            .send((SourceName::Docker, event))
            .await
            .map_err(|_| SessionEnd::Unheard)
    }

    /// The instance a container is, with complaints about it logged.
    fn mapped(&mut self, container: &Container) -> Option<Instance> {
        let mapped = labels::map(container, &self.config.hostname, self.config.advertise_ip);
        for complaint in mapped.complaints {
            self.complain(
                short_id(&container.id),
                container.display_name(),
                complaint.to_string(),
            );
        }
        let mut instance = mapped.instance?;
        if let Some(known) = self.known.get(&instance.service.id) {
            keep_port_order(&mut instance, known);
        }
        Some(instance)
    }

    /// Logs a container that was skipped, and answers what is known of it from before.
    fn skipped(&mut self, skipped: &Unreadable) -> Option<Instance> {
        let id = skipped.id.as_deref().map_or("", short_id);
        let reason = format!(
            "it is skipped, its description cannot be read: {}",
            skipped.reason
        );
        self.complain(id, id, reason);
        self.known.get(id).cloned()
    }

    /// Logs a complaint unless it was logged before.
    fn complain(&mut self, id: &str, name: &str, complaint: String) {
        let logged = self.complained.entry(id.to_owned()).or_default();
        if logged.len() >= COMPLAINTS_MAX || logged.contains(&complaint) {
            return;
        }
        let shown: String = complaint.chars().take(COMPLAINT_CHARS_MAX).collect();
        tracing::warn!(
            container = name,
            instance = id,
            "container {name:?}: {shown}"
        );
        logged.insert(complaint);
    }

    /// Says once that and why the engine cannot be reached, and once more for each new cause.
    fn report_unreachable(&mut self, error: &EngineError) {
        let cause = error.to_string();
        if self.unreachable.len() >= CAUSES_MAX || self.unreachable.contains(&cause) {
            return;
        }
        tracing::warn!(
            endpoint = %self.config.endpoint,
            "docker engine unreachable: {cause}; {}; its {} known instances stay as they are",
            error.hint(),
            self.known.len(),
        );
        self.unreachable.insert(cause);
    }

    fn report_reachable(&mut self) {
        let (endpoint, instances) = (&self.config.endpoint, self.known.len());
        if !std::mem::take(&mut self.unreachable).is_empty() {
            tracing::info!(%endpoint, instances, "docker engine reachable again");
        } else {
            tracing::debug!(%endpoint, instances, "docker containers listed");
        }
    }
}

/// Engines list a container's ports in an order of their own that may differ after each change of
/// its state; the record shall not change for that.
fn keep_port_order(instance: &mut Instance, known: &Instance) {
    let sorted = |it: &Instance| {
        let mut ports = it.service.ports.clone();
        ports.iter_mut().for_each(|ports| ports.sort());
        ports
    };
    if sorted(instance) == sorted(known) {
        instance.service.ports.clone_from(&known.service.ports);
    }
}

/// Between half of it and all of it, so that hosts do not knock in step after an upgrade of all.
fn jittered(delay: Duration) -> Duration {
    // Without randomness from the kernel there is no jitter, which is harmless.
    let random = SysRng.try_next_u32().unwrap_or(u32::MAX);
    delay.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX))
}
