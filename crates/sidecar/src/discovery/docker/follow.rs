//! The loop that follows an engine: subscribe, list, apply events; from the start when it breaks.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    time::Duration,
};

use rand::{TryRng, rngs::SysRng};
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    DockerConfig,
    engine::{Engine, EngineError},
    labels,
    report::{Report, wall_clock},
    stop,
    wire::{Container, EngineEvent, Listing, Meaning, Unreadable, short_id},
    withheld::{Withheld, Word},
};
use crate::{
    discovery::{EngineHealth, Instance, SourceEvent, SourceName, SourceSender},
    net::resolver::Resolver,
};

/// Longest time a lost event goes unnoticed.
const RESYNC_INTERVAL: Duration = Duration::from_secs(30);
/// Wait before the complete listing that an event nobody could read asks for; others that follow at
/// once are covered by the same listing.
const RESYNC_SOON: Duration = Duration::from_secs(1);
/// An engine that has said nothing for so long is asked for a sign of life ...
const QUIET: Duration = Duration::from_secs(5);
/// ... and counts as hanging when there is none in this time.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// After a subscription that reaches back, events may be older than the listing for so long.
const REPLAY: Duration = Duration::from_secs(10);
/// First and longest wait between attempts to reach the engine.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// An event stream that lasted this long was not refused, so the next attempt need not wait.
const STABLE_AFTER: Duration = Duration::from_secs(5);
/// The kind of check for which all that the engine's own says is wanted.
const ENGINES_CHECK: &str = "Docker";

/// Why a session with the engine ended.
#[derive(Debug, thiserror::Error)]
enum SessionEnd {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("nobody listens any more")]
    Unheard,
}

pub(super) struct Follower {
    config: DockerConfig,
    engine: Engine,
    events: SourceSender,
    report: Report,
    /// What was announced and not withdrawn, by short ID.
    known: BTreeMap<String, Instance>,
    /// What events said and listings may not know.
    withheld: Withheld,
    /// What the engine's check of a container said last, by short ID; nothing for those without one.
    health: BTreeMap<String, Option<EngineHealth>>,
    /// Containers that are announced by an address of their own, by full ID.
    networked: BTreeSet<String>,
    /// The latest event of all sessions, by the engine's clock, in nanoseconds since the epoch.
    latest_event: Option<i64>,
    /// Until when events of this session may be older than its listing.
    replay_until: Option<Instant>,
    /// When the current session had its first listing.
    listed_at: Option<Instant>,
    /// When the latest listing was made, and when the next one is due at the latest.
    latest_listing: Instant,
    resync_at: Instant,
    /// When the engine was seen last, if there has been a listing at all.
    lost_at: Option<Instant>,
}

impl Follower {
    pub(super) fn new(config: DockerConfig, resolver: Resolver, events: SourceSender) -> Self {
        let now = Instant::now();
        Self {
            engine: Engine::new(config.endpoint.clone(), resolver),
            report: Report::new(config.endpoint.clone(), config.view.clone()),
            config,
            events,
            known: BTreeMap::new(),
            withheld: Withheld::default(),
            health: BTreeMap::new(),
            networked: BTreeSet::new(),
            latest_event: None,
            replay_until: None,
            listed_at: None,
            latest_listing: now,
            resync_at: now,
            lost_at: None,
        }
    }

    /// Sessions one after the other; ends when nobody listens.
    pub(super) async fn follow(&mut self) {
        let mut backoff = BACKOFF_MIN;
        loop {
            let Err(end) = self.session().await;
            let SessionEnd::Engine(error) = end else {
                return;
            };
            let now = Instant::now();
            let listed_at = self.listed_at.take();
            if listed_at.is_some_and(|at| at.elapsed() >= STABLE_AFTER) {
                backoff = BACKOFF_MIN;
            }
            let lost_at = *self.lost_at.get_or_insert(now);
            let is_hanging = matches!(error, EngineError::Timeout(_));
            // A stream that ended is tried again before anyone is told: engines restart, and
            // filters before their sockets cut idle streams.
            if listed_at.is_some() && !is_hanging {
                tracing::debug!(endpoint = %self.config.endpoint, %error, "docker session ended");
            } else {
                let left = self
                    .config
                    .hold
                    .map(|hold| hold.saturating_sub(now - lost_at));
                self.report.unreachable(&error, self.known.len(), left);
            }
            if self.config.hold.is_some_and(|hold| now - lost_at >= hold)
                && self.give_up().await.is_err()
            {
                return;
            }
            sleep(self.pause(backoff, lost_at)).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// The wait before the next attempt, not beyond the end of the hold.
    fn pause(&self, backoff: Duration, lost_at: Instant) -> Duration {
        let pause = jittered(backoff);
        let held = self.config.hold.filter(|_| !self.known.is_empty());
        let left = held.map(|hold| hold.saturating_sub(lost_at.elapsed()));
        left.map_or(pause, |left| pause.min(left.max(BACKOFF_MIN)))
    }

    /// What has not been seen for too long counts as gone.
    async fn give_up(&mut self) -> Result<(), SessionEnd> {
        if self.known.is_empty() {
            return Ok(());
        }
        self.report.given_up(self.known.len());
        for id in std::mem::take(&mut self.known).into_keys() {
            self.send(SourceEvent::Delete { id }).await?;
        }
        Ok(())
    }

    /// From the subscription to the failure that ends it.
    async fn session(&mut self) -> Result<Infallible, SessionEnd> {
        self.engine.negotiate().await?;
        let since = self.latest_event.map(|at| at.saturating_add(1));
        let mut stream = self.engine.events(since).await?;
        self.resync().await?;
        self.lost_at = None;
        self.report.reachable(self.known.len());
        self.listed_at = Some(Instant::now());
        self.replay_until = since.map(|_| Instant::now() + REPLAY);
        let mut seen_at = Instant::now();
        loop {
            tokio::select! {
                event = stream.next() => self.apply(event?).await?,
                () = sleep_until(self.listing_due()) => self.resync().await?,
                () = sleep_until(seen_at + QUIET) => self.engine.ping(PING_TIMEOUT).await?,
            }
            seen_at = Instant::now();
        }
    }

    /// When the next listing is due: regularly, and when one knows more than events have said.
    fn listing_due(&self) -> Instant {
        let wanted = self.withheld.next_deadline();
        let soon = wanted.map(|at| at.max(self.latest_listing + RESYNC_SOON));
        soon.map_or(self.resync_at, |soon| soon.min(self.resync_at))
    }

    fn resync_soon(&mut self) {
        self.resync_at = self.resync_at.min(Instant::now() + RESYNC_SOON);
    }

    async fn apply(&mut self, event: EngineEvent) -> Result<(), SessionEnd> {
        self.latest_event = self.latest_event.max(event.at);
        let now = Instant::now();
        match event.meaning {
            Meaning::Started(id) => {
                self.withheld.starts(short_id(&id));
                self.health.remove(short_id(&id));
                self.refresh(&id).await?;
            }
            Meaning::Ended(id) => {
                if self.outlived(&id, event.at).await {
                    return Ok(());
                }
                self.withheld.say(short_id(&id), Word::Ended, now);
                self.delete(short_id(&id)).await?;
                self.report.forget(short_id(&id));
            }
            Meaning::Signalled { id, signal } => self.signalled(&id, signal, event.at).await?,
            // Replayed, it may be frozen no more: the next listing says so.
            Meaning::Paused(_) | Meaning::Resumed(_) if self.is_replay() => self.resync_soon(),
            Meaning::Paused(id) => {
                self.withheld.say(short_id(&id), Word::Paused, now);
                self.delete(short_id(&id)).await?;
            }
            Meaning::Resumed(id) => {
                self.withheld.say(short_id(&id), Word::Resumed, now);
                self.refresh(&id).await?;
            }
            Meaning::Renamed(id) => {
                self.refresh(&id).await?;
                self.resync_soon();
            }
            Meaning::Health(id) => {
                self.health.remove(short_id(&id));
                self.refresh(&id).await?;
            }
            Meaning::Network(id) => {
                if self.networked.contains(&id) {
                    self.resync_soon();
                }
            }
            Meaning::OutOfMemory(id) => {
                let known = self.known.get(short_id(&id));
                let service = known.map_or("", |it| &it.service.name);
                tracing::warn!(
                    service,
                    instance = short_id(&id),
                    "a process of the container was killed because the container has no memory left"
                );
            }
            Meaning::Other => {}
            Meaning::Unreadable(reason) => {
                tracing::debug!(%reason, "unreadable docker event");
                self.resync_soon();
            }
        }
        Ok(())
    }

    fn is_replay(&self) -> bool {
        let until = self.replay_until;
        until.is_some_and(|until| Instant::now() < until)
    }

    /// Whether a replayed event is from a life before the one that the container lives now.
    async fn outlived(&self, id: &str, at: Option<i64>) -> bool {
        if !self.is_replay() || !self.known.contains_key(short_id(id)) {
            return false;
        }
        let Ok(container) = self.engine.inspect(id).await else {
            return false;
        };
        container
            .running_since
            .is_some_and(|since| Some(since) > at)
    }

    /// A signal that ends a container takes it out of service before it has ended.
    async fn signalled(
        &mut self,
        id: &str,
        signal: Option<u8>,
        at: Option<i64>,
    ) -> Result<(), SessionEnd> {
        let short = short_id(id);
        let Some(signal) = signal.filter(|_| self.known.contains_key(short)) else {
            return Ok(());
        };
        if self.outlived(id, at).await {
            return Ok(());
        }
        let now = Instant::now();
        if stop::always_ends(signal) {
            self.withheld.leaves(short, now + stop::usual_grace());
            self.delete(short).await?;
        }
        // Only now is there time to ask for more.
        let container = match self.engine.inspect(id).await {
            Ok(container) => container,
            Err(error) => {
                tracing::debug!(container = short, %error, "cannot look at a signalled container");
                return Ok(());
            }
        };
        if !stop::always_ends(signal) && container.stop_signal != Some(signal) {
            return Ok(());
        }
        self.withheld.leaves(short, now + stop::grace(&container));
        self.delete(short).await?;
        // For what is shown of it.
        self.refresh(id).await
    }

    /// Announces a complete listing. Nothing is said before all of it has come.
    async fn resync(&mut self) -> Result<(), SessionEnd> {
        // What is wanted while this listing is made is wanted from the next.
        self.resync_at = Instant::now() + RESYNC_INTERVAL;
        let Listing {
            containers,
            unreadable,
        } = self.engine.list().await?;
        self.latest_listing = Instant::now();
        let unread = unreadable.iter().filter_map(|it| it.id.as_deref());
        let listed = containers.iter().map(|it| it.id.as_str()).chain(unread);
        let listed: BTreeSet<&str> = listed.map(short_id).collect();
        for id in self.withheld.listed(&listed, self.latest_listing) {
            tracing::warn!(
                instance = %id,
                "the container was told to end but runs on; it is announced again"
            );
        }
        self.report.keep(&listed);
        // Where only a closer look tells the health, an event may have been missed.
        let unsaid = containers.iter().filter(|it| it.health().is_none());
        let unsaid: BTreeSet<&str> = unsaid.map(|it| short_id(&it.id)).collect();
        self.health
            .retain(|id, _| listed.contains(id.as_str()) && !unsaid.contains(id.as_str()));
        self.networked.retain(|id| listed.contains(short_id(id)));
        let mut found = BTreeMap::new();
        for container in &containers {
            if let Some(instance) = self.mapped(container).await {
                found.insert(instance.service.id.clone(), instance);
            }
        }
        for skipped in unreadable {
            // It is there all the same: what was known of it stays.
            if let Some(instance) = self.skipped(&skipped) {
                found.insert(instance.service.id.clone(), instance);
            }
        }
        self.send(SourceEvent::Init).await?;
        for instance in found.values() {
            self.send(SourceEvent::InitApply(instance.clone())).await?;
        }
        self.send(SourceEvent::InitDone).await?;
        self.known = found;
        self.report.instances(self.known.len());
        Ok(())
    }

    /// Announces one container as the engine describes it now, or asks for a listing when it does
    /// not.
    async fn refresh(&mut self, id: &str) -> Result<(), SessionEnd> {
        let listing = match self.engine.list_one(id).await {
            Ok(listing) => listing,
            Err(error) => {
                tracing::debug!(container = short_id(id), %error, "cannot look at a container");
                self.resync_soon();
                return Ok(());
            }
        };
        if let Some(skipped) = listing.unreadable.first() {
            self.skipped(skipped);
            return Ok(());
        }
        let instance = match listing.containers.first() {
            Some(container) => self.mapped(container).await,
            None => None,
        };
        let Some(instance) = instance else {
            // It ended before we looked, or it is not to be discovered.
            return self.delete(short_id(id)).await;
        };
        let known = &mut self.known;
        known.insert(instance.service.id.clone(), instance.clone());
        self.report.instances(known.len());
        self.send(SourceEvent::Apply(instance)).await
    }

    async fn delete(&mut self, id: &str) -> Result<(), SessionEnd> {
        if self.known.remove(id).is_none() {
            return Ok(());
        }
        self.report.instances(self.known.len());
        self.send(SourceEvent::Delete { id: id.to_owned() }).await
    }

    async fn send(&self, event: SourceEvent) -> Result<(), SessionEnd> {
        self.events
            .send((SourceName::Docker, event))
            .await
            .map_err(|_| SessionEnd::Unheard)
    }

    /// The instance a container is, with complaints about it reported.
    async fn mapped(&mut self, container: &Container) -> Option<Instance> {
        let id = short_id(&container.id);
        let word = self.withheld.word(id, Instant::now());
        let resumed;
        let container = match word {
            Some(Word::Resumed) => {
                resumed = container.resumed();
                &resumed
            }
            Some(Word::Ended) => return None,
            _ => container,
        };
        if labels::follows_networks(container) {
            self.networked.insert(container.id.clone());
        }
        let config = &self.config;
        let host = labels::Host {
            hostname: &config.hostname,
            advertise_ip: config.advertise_ip,
            naming: &config.naming,
        };
        let mapped = labels::map(container, host);
        let state = match word {
            Some(Word::Leaving) => Some(self.leaving(id)),
            Some(Word::Paused) => Some(PAUSED.to_owned()),
            _ => container.is_paused().then(|| PAUSED.to_owned()),
        };
        let withheld = matches!(word, Some(Word::Leaving | Word::Paused));
        let complaints = mapped.complaints.iter().map(ToString::to_string).collect();
        self.report.container(container, complaints, state);
        let mut instance = mapped.instance.filter(|_| !withheld)?;
        if instance.check.kind.as_deref().map(str::trim) == Some(ENGINES_CHECK) {
            let listed = instance.engine_health.take();
            instance.engine_health = self.health_of(&container.id, listed).await;
        }
        if let Some(known) = self.known.get(id) {
            keep_port_order(&mut instance, known);
        }
        Some(instance)
    }

    fn leaving(&self, id: &str) -> String {
        let until = self.withheld.until(id);
        let now = Instant::now();
        let left = until.map_or(Duration::ZERO, |it| it.saturating_duration_since(now));
        format!(
            "it was told to end and gets no new connections; should it run on, it is announced \
             again at {}, for nobody tells of a longer grace than its own (`docker stop -t`)",
            wall_clock(left)
        )
    }

    /// What the engine's check of a container says and said. Listings tell the result alone, and
    /// Podman's not even that; the engine is asked for the rest once for each result.
    async fn health_of(&mut self, id: &str, listed: Option<EngineHealth>) -> Option<EngineHealth> {
        let short = short_id(id);
        let is_starting = listed.as_ref().is_some_and(|it| it.healthy.is_none());
        if !is_starting && !self.health.contains_key(short) {
            match self.engine.inspect(id).await {
                Ok(container) => {
                    self.health.insert(short.to_owned(), container.health);
                }
                Err(error) => {
                    tracing::debug!(container = short, %error, "cannot look at a container");
                }
            }
        }
        let looked = self.health.get(short).cloned();
        match (listed, looked) {
            (Some(listed), looked) => Some(EngineHealth {
                output: looked.flatten().map_or_else(String::new, |it| it.output),
                ..listed
            }),
            (None, Some(looked)) => looked,
            // Nobody knows, so what was known stays.
            (None, None) => {
                let known = self.known.get(short);
                let known = known.map(|it| it.engine_health.clone());
                known.unwrap_or_else(|| Some(EngineHealth::default()))
            }
        }
    }

    /// Reports a container that was skipped, and answers what is known of it from before.
    fn skipped(&mut self, skipped: &Unreadable) -> Option<Instance> {
        let id = skipped.id.as_deref().map_or("", short_id);
        let reason = format!(
            "it is skipped, its description cannot be read: {}",
            skipped.reason
        );
        let name = if id.is_empty() { "a container" } else { id };
        self.report.subject(id.to_owned(), name, vec![reason], None);
        let known = self.known.get(id).cloned();
        known.filter(|_| self.withheld.word(id, Instant::now()).is_none())
    }
}

/// What is said of a container that is frozen.
const PAUSED: &str = "it is paused, so it is not announced";

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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::discovery::docker::{names::Naming, wire};

    #[test]
    fn ports_in_another_order_are_the_same_ports() {
        let instance = |ports: [u16; 2]| {
            let port = |it| json!({"PrivatePort": it, "PublicPort": it, "Type": "tcp"});
            let text = json!([{"Id": "aaaaaaaaaaaa", "Ports": ports.map(port)}]).to_string();
            let listing = wire::listing(text.as_bytes()).unwrap();
            let host = labels::Host {
                hostname: "node-a",
                advertise_ip: "10.20.0.11".parse().unwrap(),
                naming: &Naming::default(),
            };
            labels::map(&listing.containers[0], host).instance.unwrap()
        };
        let first = instance([80, 443]);
        let mut swapped = instance([443, 80]);
        keep_port_order(&mut swapped, &first);
        assert_eq!(swapped, first);
        let mut other = instance([443, 81]);
        keep_port_order(&mut other, &first);
        assert_eq!(other, instance([443, 81]));
    }

    #[test]
    fn waits_are_jittered_between_half_and_all() {
        for _ in 0..1000 {
            let delay = jittered(BACKOFF_MAX);
            assert!(
                (BACKOFF_MAX / 2..=BACKOFF_MAX).contains(&delay),
                "{delay:?}"
            );
        }
    }
}
