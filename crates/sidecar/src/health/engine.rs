//! Sources' news in, updates for the catalog's writer out, and a task per instance in between.
//!
//! The engine alone knows and says what an instance's status is; a task only runs its check over and
//! over and reports each outcome. So a slow check delays nobody else's, and an outcome that comes after
//! its instance changed is recognised by its generation and dropped.

use std::{collections::BTreeMap, time::Duration};

use catalog::Service;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    HealthConfig, LocalUpdate,
    check::{self, Check, Host, Notice, Plan},
    inventory::{Change, Inventory},
    pace::Pace,
    probe::{Answer, Failure, Probe},
    schedule::Schedule,
    verdict::{RULE, Verdict},
};
use crate::{
    discovery::{Instance, SourceEvent, SourceName},
    local_view::{CheckEvidence, CheckView, Damped, whole_millis},
};

/// Outcomes that may wait for the engine; tasks wait beyond that.
const OUTCOMES_MAX: usize = 256;
/// Most of an instance's output that is shown, in bytes.
const SHOWN_BYTES_MAX: usize = 1024;

/// What one run of a check found.
struct Outcome {
    id: String,
    generation: u64,
    result: Result<Answer, Failure>,
    took: Duration,
}

/// An instance under observation.
struct Watched {
    service: Service,
    plan: Plan,
    verdict: Verdict,
    /// Failures since the last success, for the message at the next one.
    failures: u64,
    generation: u64,
    last: Option<CheckEvidence>,
    /// Ends, with all it has begun, when it is dropped; there is none while there is nothing to ask.
    task: Option<AbortOnDropHandle<()>>,
}

struct Engine<P> {
    config: HealthConfig,
    host: Host,
    probe: P,
    inventory: Inventory,
    watched: BTreeMap<String, Watched>,
    /// Names of listeners, by the ID of their instance.
    listeners: BTreeMap<String, String>,
    /// Instances that are kept unhealthy although they work, and until when.
    held: BTreeMap<String, Instant>,
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
    let mut engine = Engine::new(config, probe, outcomes, updates);
    let _ = shutdown
        .run_until_cancelled(engine.serve(sources, received))
        .await;
    for watched in engine.watched.into_values() {
        let Some(task) = watched.task else { continue };
        task.abort();
        // Only now are its connection closed and its processes killed. It was aborted: no result.
        let _ = task.await;
    }
}

impl<P: Probe> Engine<P> {
    fn new(
        config: HealthConfig,
        probe: P,
        outcomes: mpsc::Sender<Outcome>,
        updates: mpsc::Sender<LocalUpdate>,
    ) -> Self {
        let host = host_of(&config);
        Self {
            config,
            host,
            probe,
            inventory: Inventory::default(),
            watched: BTreeMap::new(),
            listeners: BTreeMap::new(),
            held: BTreeMap::new(),
            generation: 0,
            outcomes,
            updates,
        }
    }

    async fn serve(
        &mut self,
        mut sources: mpsc::Receiver<(SourceName, SourceEvent)>,
        mut outcomes: mpsc::Receiver<Outcome>,
    ) {
        let mut has_sources = true;
        loop {
            let release = self.held.values().min().copied();
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
                () = sleep_until(release.unwrap_or_else(Instant::now)), if release.is_some() => {
                    self.release(Instant::now())
                }
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
            Change::Present(instance) => {
                let (id, name) = (&instance.service.id, &instance.service.name);
                let url = instance.listener.clone();
                let listener = url.map(|url| (format!("Service({name}-{id})"), url));
                self.listen(id, listener);
                self.watch(instance)
            }
            Change::Gone { id } => {
                let gone = self.watched.remove(&id)?;
                self.held.remove(&id);
                self.config.view.forget_check(&id);
                self.listen(&id, None);
                tracing::info!(service = %gone.service.name, instance = %id, "instance gone");
                Some(LocalUpdate::Gone { id })
            }
            Change::Listed(source) => Some(LocalUpdate::Listed(source)),
        }
    }

    /// Tells where an instance takes events, `None` if it does not or is gone.
    fn listen(&mut self, id: &str, listener: Option<(String, String)>) {
        let before = self.listeners.remove(id);
        if let Some((name, _)) = &listener {
            self.listeners.insert(id.to_owned(), name.clone());
        }
        self.config.listeners.send_if_modified(|all| {
            let is_other = |name: &String| listener.as_ref().is_none_or(|it| it.0 != *name);
            let gone = before.filter(is_other).and_then(|name| all.remove(&name));
            let is_news = listener.is_some_and(|(name, url)| {
                let known = all.insert(name, url.clone());
                known != Some(url)
            });
            gone.is_some() || is_news
        });
    }

    /// Starts to check an instance, or starts again because it changed. Until the new check has
    /// decided, a changed instance is what it was: the old results are the best there are.
    fn watch(&mut self, instance: Instance) -> Option<LocalUpdate> {
        let plan = check::plan(&instance, &self.host);
        let service = instance.service;
        let known = self.watched.remove(&service.id);
        let known = match known {
            // Something changed that its check does not depend on.
            Some(known) if known.plan == plan && known.service == service => {
                self.watched.insert(service.id.clone(), known);
                return None;
            }
            known => known,
        };
        let told = known.as_ref().map_or(&[][..], |known| &known.plan.notices);
        for notice in plan.notices.iter().filter(|it| !told.contains(it)) {
            announce(&service, notice);
        }
        let mut verdict = known
            .as_ref()
            .map_or_else(Verdict::new, |known| known.verdict.clone());
        if known
            .as_ref()
            .is_none_or(|known| !known.plan.asks_like(&plan))
        {
            let (name, instance) = (&service.name, &service.id);
            let (kind, check) = (plan.kind.as_str(), &plan.check);
            tracing::info!(service = %name, %instance, kind, %check, "checking instance");
            verdict.restart();
        }
        self.generation += 1;
        let watched = Watched {
            task: self.start(&service.id, &plan),
            plan,
            verdict,
            failures: known.as_ref().map_or(0, |known| known.failures),
            generation: self.generation,
            last: known.and_then(|known| known.last),
            service,
        };
        let update = watched.update();
        self.config.view.check(&watched.service.id, watched.view());
        self.watched.insert(watched.service.id.clone(), watched);
        Some(update)
    }

    /// The task of one instance: the first check at once, then by its schedule.
    fn start(&self, id: &str, plan: &Plan) -> Option<AbortOnDropHandle<()>> {
        if matches!(&plan.check, Check::Docker { health } if health.healthy.is_none()) {
            return None;
        }
        let mut schedule = Schedule::new(plan.pace.interval, id);
        let (id, generation, check) = (id.to_owned(), self.generation, plan.check.clone());
        let (probe, outcomes) = (self.probe.clone(), self.outcomes.clone());
        let limit = plan.pace.timeout;
        Some(AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                let started = Instant::now();
                // In a place of its own, so that the tasks of a thousand instances hold none of it
                // while they wait for the next.
                let result = Box::pin(probe.run(&check, limit)).await;
                let ended = Instant::now();
                let due = schedule.due(started, ended, result.is_ok());
                let outcome = Outcome {
                    id: id.clone(),
                    generation,
                    result,
                    took: ended - started,
                };
                if outcomes.send(outcome).await.is_err() || check.is_settled() {
                    return;
                }
                sleep_until(due).await;
            }
        })))
    }

    fn judge(&mut self, outcome: Outcome) -> Option<LocalUpdate> {
        let now = Instant::now();
        let watched = self
            .watched
            .get_mut(&outcome.id)
            .filter(|watched| watched.generation == outcome.generation)?;
        let was_held = watched.verdict.held_until().is_some();
        let healthy = outcome.result.is_ok();
        let is_news = watched.verdict.take(healthy, &watched.plan.pace, now);
        watched.report(&outcome.result, is_news);
        watched.failures = if healthy { 0 } else { watched.failures + 1 };
        let evidence = evidence(&outcome, now);
        watched.last = Some(evidence.clone());
        let (view, id) = (&self.config.view, &outcome.id);
        view.checked(id, evidence, watched.verdict.in_a_row);
        view.judged(id, watched.verdict.status, watched.damped(now));
        match watched.verdict.held_until() {
            Some(until) => {
                if !was_held {
                    watched.report_held(until - now);
                }
                self.held.insert(outcome.id, until);
            }
            None => drop(self.held.remove(&outcome.id)),
        }
        is_news.then(|| watched.update())
    }

    /// Lets those return who were held back and work.
    fn release(&mut self, now: Instant) -> Vec<LocalUpdate> {
        let mut updates = Vec::new();
        self.held.retain(|id, until| {
            if *until > now {
                return true;
            }
            let Some(watched) = self.watched.get_mut(id) else {
                return false;
            };
            if watched.verdict.settle(now) {
                let (service, instance) = (&watched.service.name, id);
                tracing::info!(%service, %instance, "instance is held back no longer");
                updates.push(watched.update());
            }
            let status = watched.verdict.status;
            self.config.view.judged(id, status, watched.damped(now));
            false
        });
        updates
    }
}

/// What `/api/v2/local` will say of an instance when it is found.
pub(super) fn preview(config: &HealthConfig, instance: &Instance) -> CheckView {
    let watched = Watched {
        service: instance.service.clone(),
        plan: check::plan(instance, &host_of(config)),
        verdict: Verdict::new(),
        failures: 0,
        generation: 0,
        last: None,
        task: None,
    };
    watched.view()
}

fn host_of(config: &HealthConfig) -> Host {
    Host {
        advertise_ip: config.advertise_ip,
        default_endpoint: config.default_endpoint.clone(),
        // One failure makes an instance unhealthy, one success makes it alive, as in Go Sidecar.
        pace: Pace {
            interval: config.interval,
            timeout: config.timeout,
            rise: 1,
            fall: 1,
        },
    }
}

impl Watched {
    fn update(&self) -> LocalUpdate {
        let service = Service {
            status: self.verdict.status,
            ..self.service.clone()
        };
        LocalUpdate::Present {
            service,
            checked: self.verdict.is_decided(),
        }
    }

    /// All that is known of its check, before the next result.
    fn view(&self) -> CheckView {
        let pace = &self.plan.pace;
        let interval = if self.plan.check.is_settled() {
            Duration::ZERO
        } else {
            pace.interval
        };
        CheckView {
            service: self.service.name.clone(),
            kind: self.plan.kind.as_str(),
            args: self.plan.check.to_string(),
            notices: self.plan.notices.iter().map(Notice::to_string).collect(),
            interval_ms: whole_millis(interval),
            timeout_ms: whole_millis(pace.timeout),
            rise: pace.rise,
            fall: pace.fall,
            status: self.verdict.status,
            in_a_row: self.verdict.in_a_row,
            last: self.last.clone(),
            damped: self.damped(Instant::now()),
        }
    }

    fn damped(&self, now: Instant) -> Option<Damped> {
        let left = self.verdict.held_until()?.saturating_duration_since(now);
        Some(Damped {
            rule: RULE.to_owned(),
            until: wall_clock(left),
        })
    }

    /// Says what happened when it is news, and whispers it when it is not.
    fn report(&self, result: &Result<Answer, Failure>, is_news: bool) {
        let (service, instance, failures) = (&self.service.name, &self.service.id, self.failures);
        let (kind, check) = (self.plan.kind.as_str(), &self.plan.check);
        match result {
            Ok(_) if is_news => {
                tracing::info!(%service, %instance, failures, "instance is healthy");
            }
            Ok(_) => tracing::trace!(%service, %instance, "still healthy"),
            Err(reason) if is_news => {
                let output = reason.output();
                tracing::warn!(
                    %service, %instance, kind, %check, %reason, output, "instance is unhealthy"
                );
            }
            Err(reason) => {
                let output = reason.output();
                tracing::debug!(%service, %instance, failures, %reason, output, "check failed");
            }
        }
    }

    fn report_held(&self, left: Duration) {
        let (service, instance) = (&self.service.name, &self.service.id);
        tracing::warn!(
            %service, %instance, rule = RULE, until = wall_clock(left),
            "instance works again, but is held back because it keeps failing"
        );
    }
}

fn evidence(outcome: &Outcome, now: Instant) -> CheckEvidence {
    let (summary, output) = match &outcome.result {
        Ok(answer) => (answer.summary.clone(), answer.output.as_str()),
        Err(failure) => (failure.to_string(), failure.output()),
    };
    CheckEvidence {
        healthy: outcome.result.is_ok(),
        at: wall_clock(Duration::ZERO),
        ended: now,
        took: outcome.took,
        summary,
        output: beginning(output).to_owned(),
    }
}

fn beginning(text: &str) -> &str {
    let bounds = text.char_indices().map(|(at, char)| at + char.len_utf8());
    let end = bounds.take_while(|end| *end <= SHOWN_BYTES_MAX).last();
    &text[..end.unwrap_or(0)]
}

/// The time in so long, RFC 3339.
fn wall_clock(from_now: Duration) -> String {
    let now = jiff::Timestamp::now();
    // A time that no calendar holds is not reached by adding minutes.
    format!("{:.3}", now.checked_add(from_now).unwrap_or(now))
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
