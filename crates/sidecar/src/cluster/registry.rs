//! The one writer: a task that feeds everything that happens to the core, in order, carries out what
//! it asks of gossip, and publishes snapshots.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Instant, SystemTime},
};

use catalog::{Change, Now, Snapshot};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::{
    awake::Awake,
    change_log::ChangeLog,
    confirm::Applied,
    core::{Action, Core},
    state_file::Kept,
    timings::{Timing, Timings},
};
use crate::{
    health::LocalUpdate,
    http::{DrainOrder, DrainOutcome, DrainRequest},
    opening::Progress,
};

/// Inputs applied before one snapshot is published for all of them.
const BATCH_MAX: usize = 1024;

/// What the agent tells the writer.
#[derive(Debug)]
pub enum Command {
    /// The first join was tried, or has taken too long.
    Joined,
    /// Declare own services gone and confirm.
    Farewell(oneshot::Sender<()>),
}

/// Everything that can wake the writer.
#[derive(Debug)]
enum Input {
    Local(LocalUpdate),
    Gossip(memberlist::Event),
    Drain(DrainRequest),
    Command(Command),
    Routed(u64),
    Tick,
}

/// Where the writer's inputs come from.
#[derive(Debug)]
pub struct Inputs {
    /// This host's own instances.
    pub local: mpsc::Receiver<LocalUpdate>,
    /// Members and records of the cluster.
    pub gossip: mpsc::Receiver<memberlist::Event>,
    /// Requests to drain an instance of this host, or to take that back.
    pub drain: mpsc::Receiver<DrainRequest>,
    /// The agent's own steps.
    pub commands: mpsc::Receiver<Command>,
    /// Version of the snapshot that the newest routes were made of.
    pub routed: watch::Receiver<u64>,
}

/// The writer.
#[derive(Debug)]
pub struct Registry {
    core: Core,
    gossip: memberlist::Handle,
    awake: Arc<Awake>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    progress: watch::Sender<Progress>,
    changes: broadcast::Sender<Change>,
    kept: watch::Sender<Kept>,
    /// Who waits for the outcome of an inquiry.
    inquirers: BTreeMap<u64, oneshot::Sender<Applied>>,
    /// Changes that no published snapshot has yet.
    unpublished: Vec<Change>,
    log: ChangeLog,
}

impl Registry {
    /// A writer for `core` that sends through `gossip`, tells `awake` that it lives, and publishes to
    /// the four channels: what readers see, how far the start has come, each change, and what is to be
    /// kept for the next agent.
    pub fn new(
        core: Core,
        gossip: memberlist::Handle,
        awake: Arc<Awake>,
        snapshots: watch::Sender<Arc<Snapshot>>,
        progress: watch::Sender<Progress>,
        changes: broadcast::Sender<Change>,
        kept: watch::Sender<Kept>,
    ) -> Self {
        Self {
            core,
            gossip,
            awake,
            snapshots,
            progress,
            changes,
            kept,
            inquirers: BTreeMap::new(),
            unpublished: Vec::new(),
            log: ChangeLog::default(),
        }
    }

    /// Applies inputs until every sender of commands is gone.
    pub async fn run(mut self, mut inputs: Inputs) {
        self.publish();
        while let Some(input) = inputs.next(self.next_deadline()).await {
            self.take(input, &mut inputs);
            for _ in 1..BATCH_MAX {
                let Some(input) = inputs.try_next() else {
                    break;
                };
                self.take(input, &mut inputs);
            }
            self.publish();
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let deadlines = [self.core.next_deadline(), self.log.deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// Takes an input, and before the end of the join what that has brought: it waits in another queue,
    /// and says how this host's services were before the agent was restarted.
    fn take(&mut self, input: Input, inputs: &mut Inputs) {
        if let Input::Command(Command::Joined) = input {
            for _ in 0..inputs.gossip.len() {
                if let Ok(event) = inputs.gossip.try_recv() {
                    self.handle(Input::Gossip(event));
                }
            }
        }
        self.handle(input);
    }

    fn handle(&mut self, input: Input) {
        let now = now();
        self.core.suspended(self.awake.seen(now.monotonic));
        let timing = timing(&input);
        match input {
            Input::Local(update) => self.core.local(update, now),
            Input::Gossip(event) => self.core.gossip(event, now),
            Input::Drain(request) => self.drain(request, now),
            Input::Routed(version) => self.core.routed(version, now),
            Input::Command(Command::Joined) => self.core.joined(now),
            Input::Command(Command::Farewell(done)) => {
                self.core.farewell(now);
                self.carry_out();
                // Nobody waits any more when the agent was told to exit at once.
                let _ = done.send(());
            }
            Input::Tick => self.core.tick(now),
        }
        if let Some(timing) = timing {
            timing(&self.core.counters().timings).add(now.monotonic.elapsed());
        }
        self.carry_out();
    }

    fn drain(&mut self, request: DrainRequest, now: Now) {
        let DrainRequest {
            id,
            order,
            wait,
            reply,
        } = request;
        let found = match order {
            DrainOrder::Drain { timeout } => self.core.drain(&id, timeout, now),
            DrainOrder::Undrain => self.core.undrain(&id, now),
        };
        let Some(done) = found else {
            // Nobody waits any more when the client went away.
            let _ = reply.send(DrainOutcome::NotHere);
            return;
        };
        let applied = wait.map(|within| {
            let (inquirer, applied) = oneshot::channel();
            let number = self.core.inquire(&id, within, now);
            self.inquirers.insert(number, inquirer);
            applied
        });
        // First what is to be kept: its number is in the answer.
        self.carry_out();
        let kept = self.kept.borrow().revision;
        let outcome = DrainOutcome::Done {
            done,
            kept,
            applied,
        };
        // A client that went away does not undo the drain.
        let _ = reply.send(outcome);
    }

    fn carry_out(&mut self) {
        let started = Instant::now();
        let mut sends = false;
        for action in self.core.actions() {
            sends |= matches!(action, Action::Broadcast { .. } | Action::Send { .. });
            match action {
                Action::Broadcast {
                    key,
                    payload,
                    priority,
                } => self.gossip.broadcast_with(Some(key), payload, priority),
                Action::Send { to, messages } => {
                    if let Some(member) = self.gossip.member(&to) {
                        self.gossip.send(member.addr, messages);
                    }
                }
                Action::Exchange(with) => self.gossip.exchange(with),
                Action::CatchUp(Some(with)) => {
                    if let Some(member) = self.gossip.member(&with) {
                        self.gossip.exchange(member.addr);
                    }
                }
                Action::CatchUp(None) => self.gossip.exchange_with_any(),
                Action::ExchangeTables { with } => {
                    if let Some(member) = self.gossip.member(&with) {
                        self.gossip.exchange_tables(member.addr);
                    }
                }
                Action::Changed(change) => self.unpublished.push(change),
                Action::Keep(drains) => self.kept.send_modify(|kept| {
                    kept.revision += 1;
                    kept.drains = drains;
                }),
                Action::Applied { number, applied } => {
                    if let Some(inquirer) = self.inquirers.remove(&number) {
                        // The client may have gone away.
                        let _ = inquirer.send(applied);
                    }
                }
            }
        }
        if sends {
            let timings = &self.core.counters().timings;
            timings.send.add(started.elapsed());
        }
    }

    fn publish(&mut self) {
        let snapshot = self.core.snapshot();
        self.snapshots.send_if_modified(|published| {
            let newer = published.version != snapshot.version;
            if newer {
                *published = Arc::new(snapshot.clone());
            }
            newer
        });
        self.log.tell(&self.unpublished, Instant::now());
        for change in self.unpublished.drain(..) {
            // Nobody may listen.
            let _ = self.changes.send(change);
        }
        // After the snapshot: who sees that the start is done sees what it has brought.
        let replica = self.core.replica();
        let progress = Progress {
            awaited: replica.awaited(),
            joined: replica.has_joined(),
            undecided: replica.is_undecided(),
        };
        self.progress.send_if_modified(|published| {
            let differs = *published != progress;
            *published = progress;
            differs
        });
    }
}

impl Inputs {
    /// The next input, or a tick at `deadline`; `None` when the agent is gone.
    async fn next(&mut self, deadline: Option<Instant>) -> Option<Input> {
        let tick = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            command = self.commands.recv() => command.map(Input::Command),
            Some(update) = self.local.recv() => Some(Input::Local(update)),
            Some(event) = self.gossip.recv() => Some(Input::Gossip(event)),
            Some(request) = self.drain.recv() => Some(Input::Drain(request)),
            Ok(()) = self.routed.changed() => Some(Input::Routed(*self.routed.borrow_and_update())),
            () = tick => Some(Input::Tick),
        }
    }

    /// An input that already waits.
    fn try_next(&mut self) -> Option<Input> {
        None.or_else(|| self.commands.try_recv().ok().map(Input::Command))
            .or_else(|| self.local.try_recv().ok().map(Input::Local))
            .or_else(|| self.gossip.try_recv().ok().map(Input::Gossip))
            .or_else(|| self.drain.try_recv().ok().map(Input::Drain))
            .or_else(|| self.newly_routed())
    }

    fn newly_routed(&mut self) -> Option<Input> {
        let is_news = self.routed.has_changed().unwrap_or(false);
        is_news.then(|| Input::Routed(*self.routed.borrow_and_update()))
    }
}

/// As which step taking in this input is timed.
fn timing(input: &Input) -> Option<fn(&Timings) -> &Timing> {
    match input {
        Input::Gossip(memberlist::Event::Message(_)) => Some(|it| &it.message),
        Input::Gossip(memberlist::Event::RemoteState { .. }) => Some(|it| &it.merge),
        Input::Local(LocalUpdate::Present { .. }) => Some(|it| &it.announce),
        Input::Local(LocalUpdate::Gone { .. }) => Some(|it| &it.withdraw),
        Input::Tick => Some(|it| &it.expire),
        _ => None,
    }
}

/// Both clocks, read together.
pub fn now() -> Now {
    Now {
        wall: SystemTime::now().into(),
        monotonic: Instant::now(),
    }
}
