//! Sources' news in, updates for the catalog's writer out, and a task per instance in between.
//!
//! The engine alone knows and says what an instance's status is; a task only runs its check over and
//! over and reports each outcome. So a slow check delays nobody else's, and an outcome that comes after
//! its instance changed is recognised by its generation and dropped.

use std::collections::BTreeMap;

use catalog::{Service, Status};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    HealthConfig, LocalUpdate,
    check::{self, Check, Host, Notice},
    inventory::{Change, Inventory},
    probe::{Failure, Probe},
    schedule::Schedule,
};
use crate::discovery::{Instance, SourceEvent, SourceName};

/// Outcomes that may wait for the engine; tasks wait beyond that.
const OUTCOMES_MAX: usize = 256;

/// What one run of a check found.
struct Outcome {
    id: String,
    generation: u64,
    result: Result<(), Failure>,
}

/// An instance under observation.
struct Watched {
    service: Service,
    check: Check,
    notices: Vec<Notice>,
    status: Status,
    checked: bool,
    /// Failures since the last success, for the message at the next one.
    failures: u64,
    generation: u64,
    /// Ends, with all it has begun, when it is dropped.
    task: AbortOnDropHandle<()>,
}

struct Engine<P> {
    config: HealthConfig,
    host: Host,
    probe: P,
    inventory: Inventory,
    watched: BTreeMap<String, Watched>,
    generation: u64,
    outcomes: mpsc::Sender<Outcome>,
    updates: mpsc::Sender<LocalUpdate>,
}

/// Runs until `shutdown`, or until nobody wants updates any more. When it returns, no check runs.
pub(super) async fn run(
    config: HealthConfig,
    probe: impl Probe,
    sources: mpsc::Receiver<(SourceName, SourceEvent)>,
    updates: mpsc::Sender<LocalUpdate>,
    shutdown: CancellationToken,
) {
    let (outcomes, received) = mpsc::channel(OUTCOMES_MAX);
    let host = Host {
        advertise_ip: config.advertise_ip,
        default_endpoint: config.default_endpoint.clone(),
    };
    let mut engine = Engine {
        config,
        host,
        probe,
        inventory: Inventory::default(),
        watched: BTreeMap::new(),
        generation: 0,
        outcomes,
        updates,
    };
    let _ = shutdown
        .run_until_cancelled(engine.serve(sources, received))
        .await;
    for watched in engine.watched.into_values() {
        watched.task.abort();
        // Only now are its connection closed and its processes killed. It was aborted: no result.
        let _ = watched.task.await;
    }
}

impl<P: Probe> Engine<P> {
    async fn serve(
        &mut self,
        mut sources: mpsc::Receiver<(SourceName, SourceEvent)>,
        mut outcomes: mpsc::Receiver<Outcome>,
    ) {
        let mut has_sources = true;
        loop {
            let updates = tokio::select! {
                event = sources.recv(), if has_sources => match event {
                    Some((source, event)) => {
                        let changes = self.inventory.apply(source, event);
                        changes.into_iter().filter_map(|change| self.follow(change)).collect()
                    }
                    // What is known goes on being checked.
                    None => {
                        has_sources = false;
                        Vec::new()
                    }
                },
                Some(outcome) = outcomes.recv() => Vec::from_iter(self.judge(outcome)),
                () = self.updates.closed() => return,
            };
            for update in updates {
                if self.updates.send(update).await.is_err() {
                    return;
                }
            }
        }
    }

    fn follow(&mut self, change: Change) -> Option<LocalUpdate> {
        match change {
            Change::Present(instance) => Some(self.watch(instance)),
            Change::Gone { id } => {
                let gone = self.watched.remove(&id)?;
                tracing::info!(service = %gone.service.name, instance = %id, "instance gone");
                Some(LocalUpdate::Gone { id })
            }
            Change::Listed(source) => Some(LocalUpdate::Listed(source)),
        }
    }

    /// Starts to check an instance, or starts again because it changed. Until the first outcome of
    /// the new check, a changed instance is what it was: the old outcome is the best there is.
    fn watch(&mut self, instance: Instance) -> LocalUpdate {
        let (check, notices) = check::plan(&instance, &self.host);
        let service = instance.service;
        let known = self.watched.remove(&service.id);
        let told = known
            .as_ref()
            .map(|known| known.notices.as_slice())
            .unwrap_or_default();
        for notice in notices.iter().filter(|notice| !told.contains(notice)) {
            announce(&service, notice);
        }
        if known.as_ref().is_none_or(|known| known.check != check) {
            let (name, instance) = (&service.name, &service.id);
            tracing::info!(service = %name, %instance, %check, "checking instance");
        }
        self.generation += 1;
        let watched = Watched {
            task: self.start(&service.id, &check),
            check,
            notices,
            status: known.as_ref().map_or(Status::Unknown, |known| known.status),
            checked: known.as_ref().is_some_and(|known| known.checked),
            failures: known.as_ref().map_or(0, |known| known.failures),
            generation: self.generation,
            service,
        };
        let update = watched.update();
        self.watched.insert(watched.service.id.clone(), watched);
        update
    }

    /// The task of one instance: the first check at once, then by its schedule.
    fn start(&self, id: &str, check: &Check) -> AbortOnDropHandle<()> {
        let mut schedule = Schedule::new(self.config.interval, id);
        let (id, generation, check) = (id.to_owned(), self.generation, check.clone());
        let (probe, outcomes, limit) = (
            self.probe.clone(),
            self.outcomes.clone(),
            self.config.timeout,
        );
        AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                let started = Instant::now();
                let result = probe.run(&check, limit).await;
                let due = schedule.due(started, Instant::now(), result.is_ok());
                let outcome = Outcome {
                    id: id.clone(),
                    generation,
                    result,
                };
                if outcomes.send(outcome).await.is_err() || check.is_settled() {
                    return;
                }
                sleep_until(due).await;
            }
        }))
    }

    /// One failure makes an instance unhealthy, one success makes it alive, as in Go Sidecar.
    fn judge(&mut self, outcome: Outcome) -> Option<LocalUpdate> {
        let watched = self
            .watched
            .get_mut(&outcome.id)
            .filter(|watched| watched.generation == outcome.generation)?;
        let status = if outcome.result.is_ok() {
            Status::Alive
        } else {
            Status::Unhealthy
        };
        let is_news = !watched.checked || watched.status != status;
        watched.report(&outcome.result, is_news);
        watched.failures = if outcome.result.is_ok() {
            0
        } else {
            watched.failures + 1
        };
        (watched.status, watched.checked) = (status, true);
        is_news.then(|| watched.update())
    }
}

impl Watched {
    fn update(&self) -> LocalUpdate {
        let service = Service {
            status: self.status,
            ..self.service.clone()
        };
        LocalUpdate::Present {
            service,
            checked: self.checked,
        }
    }

    /// Says what happened when it is news, and whispers it when it is not.
    fn report(&self, result: &Result<(), Failure>, is_news: bool) {
        let (service, instance, failures) = (&self.service.name, &self.service.id, self.failures);
        match result {
            Ok(()) if is_news => {
                tracing::info!(%service, %instance, failures, "instance is healthy");
            }
            Ok(()) => tracing::trace!(%service, %instance, "still healthy"),
            Err(reason) if is_news => {
                tracing::warn!(%service, %instance, check = %self.check, %reason, "instance is unhealthy");
            }
            Err(reason) => {
                tracing::debug!(%service, %instance, failures, %reason, "still unhealthy");
            }
        }
    }
}

fn announce(service: &Service, notice: &Notice) {
    let (service, instance) = (&service.name, &service.id);
    match notice {
        Notice::Default { .. } => tracing::info!(%service, %instance, "{notice}"),
        _ => tracing::warn!(%service, %instance, "{notice}"),
    }
}

#[cfg(test)]
mod tests;
