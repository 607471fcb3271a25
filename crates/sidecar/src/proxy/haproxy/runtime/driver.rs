//! Brings HAProxy to what is wanted, one look at a time.
//!
//! What HAProxy says it holds is the truth: everything is read back after it was told, and looked at
//! again once a second. What is different then, by a hand or by a restart, is set right. What HAProxy
//! cannot be told, more ports and more pools, needs a reload; it is made with the ports handed over,
//! so that nobody is refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, TryLockError},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

use super::{
    super::status::{HaproxyStatus, State},
    boot,
    layout::{self, Asked, Layout, OURS, STATISTICS_PORT},
    plan::{self, Command, Held, Kind, Pool, Wanted},
    process::Program,
    socket::Session,
    state::{self, Outcome},
    trouble::Trouble,
};

/// How soon what HAProxy holds is looked at again.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The same when HAProxy was away.
const ABSENT_INTERVAL: Duration = Duration::from_millis(200);
/// How many looks nobody may listen at the socket of a HAProxy that lives.
const ABSENT_LOOKS_MAX: u32 = 5;
/// Least time between two planned reloads.
const RELOAD_PAUSE: Duration = Duration::from_secs(2);
/// How long a new HAProxy may take until it answers.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// A HAProxy that has run so long is started again at once when it ends.
const STEADY: Duration = Duration::from_secs(10);
/// Pauses before a start, from the second in a row on: the first, doubled up to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// How often one look plans anew: the first may set pools free for the second.
const ROUNDS_MAX: usize = 4;
/// Up to how many changed pools are read back one by one instead of all.
const POOLS_READ_SINGLY_MAX: usize = 8;
/// Most servers that are tried to be taken away at one look.
const CLEANING_MAX: usize = 500;

/// How thorough a look is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Only at what changes.
    Change,
    /// At everything.
    Whole,
}

/// What one look came to, beside trouble.
enum Pass {
    Done(Option<Trouble>),
    /// HAProxy was replaced: everything is to be looked at again.
    Again,
}

#[derive(Debug)]
pub(super) struct Driver {
    asked: Asked,
    reserved: Vec<u16>,
    program: Program,
    lock: Option<fs::File>,
    wanted: Wanted,
    /// What the worker of this process id held last.
    held: Option<(u32, Held)>,
    /// What the HAProxy that runs was started with.
    layout: Option<Layout>,
    /// Whether one has run that this agent knew: whatever is started then takes the place of a dead one.
    has_run: bool,
    /// Whether it has held what is wanted now: what differs afterwards is somebody else's doing.
    is_settled: bool,
    /// Whether the files in place are older than what it holds.
    is_stale: bool,
    absent_looks: u32,
    starts_in_a_row: u32,
    started: Option<Instant>,
    start_not_before: Option<Instant>,
    reload_not_before: Option<Instant>,
    status: HaproxyStatus,
    published: watch::Sender<Arc<HaproxyStatus>>,
}

impl Driver {
    pub(super) fn new(
        program: Program,
        asked: Asked,
        reserved: Vec<u16>,
        published: watch::Sender<Arc<HaproxyStatus>>,
    ) -> Self {
        let status = HaproxyStatus {
            mode: "runtime",
            ..HaproxyStatus::default()
        };
        published.send_replace(Arc::new(status.clone()));
        Self {
            asked,
            reserved,
            program,
            lock: None,
            wanted: Wanted::new(),
            held: None,
            layout: None,
            has_run: false,
            is_settled: false,
            is_stale: true,
            absent_looks: 0,
            starts_in_a_row: 0,
            started: None,
            start_not_before: None,
            reload_not_before: None,
            status,
            published,
        }
    }

    pub(super) fn want(&mut self, wanted: Wanted) {
        if self.wanted != wanted {
            self.wanted = wanted;
            self.is_settled = false;
            self.is_stale = true;
        }
    }

    /// Looks, acts, tells, and says when to look again.
    pub(super) async fn step(&mut self, look: Look) -> Duration {
        let mut look = look;
        let outcome = loop {
            match self.pass(look).await {
                Ok(Pass::Again) => look = Look::Whole,
                Ok(Pass::Done(trouble)) => break Ok(trouble),
                Err(trouble) => break Err(trouble),
            }
        };
        if matches!(outcome, Err(Trouble::Pausing)) && self.status.trouble.is_some() {
            // What made the pause necessary is what there is to know.
            return ABSENT_INTERVAL;
        }
        let is_absent = matches!(outcome, Err(Trouble::Unreachable(_) | Trouble::Pausing));
        self.tell(outcome);
        if is_absent {
            ABSENT_INTERVAL
        } else {
            LOOK_INTERVAL
        }
    }

    fn tell(&mut self, outcome: Result<Option<Trouble>, Trouble>) {
        let (state, trouble) = match outcome {
            Ok(trouble) => (State::Applied, trouble),
            Err(trouble) => {
                // What it holds is not known any more.
                if !matches!(trouble, Trouble::Ports(_) | Trouble::Pools { .. }) {
                    self.held = None;
                }
                (State::Failed, Some(trouble))
            }
        };
        if let Some(trouble) = &trouble {
            *self.status.failures.entry(trouble.step()).or_default() += 1;
        }
        let words = trouble.map(|it| it.to_string());
        match &words {
            Some(words) if self.status.trouble.as_ref() != Some(words) => {
                warn!(trouble = %words, "HAProxy does not serve everything as it should");
            }
            None if self.status.trouble.is_some() => info!("HAProxy serves everything again"),
            _ => {}
        }
        self.status.state = state;
        self.status.trouble = words;
        self.published.send_if_modified(|shown| {
            let differs = **shown != self.status;
            if differs {
                *shown = Arc::new(self.status.clone());
            }
            differs
        });
    }

    async fn pass(&mut self, look: Look) -> Result<Pass, Trouble> {
        self.lock()?;
        let admin = self.program.admin_socket();
        let mut session = match Session::open(&admin).await {
            Ok(session) => session,
            Err(error) if error.is_absence() => {
                self.held = None;
                if self.layout.is_some() && self.program.master().is_some() {
                    self.absent_looks += 1;
                    if self.absent_looks <= ABSENT_LOOKS_MAX {
                        return Err(Trouble::Unreachable(error));
                    }
                }
                self.start().await?;
                return Ok(Pass::Again);
            }
            Err(error) => return Err(error.into()),
        };
        self.absent_looks = 0;
        self.status.is_running = Some(true);
        let identity = state::identity(&mut session).await?;
        let layout = match self.layout.take() {
            Some(layout) if layout.description() == identity.description => layout,
            _ => match self.adopt(&identity, &mut session).await? {
                Some(layout) => layout,
                None => return Ok(Pass::Again),
            },
        };
        self.layout = Some(layout);
        self.has_run = true;
        let known = self.held.take().filter(|(pid, _)| *pid == identity.pid);
        let was_known = known.is_some();
        let mut held = match known {
            Some((_, held)) if look == Look::Change => held,
            _ => state::read(&mut session).await?,
        };
        let by_others = look == Look::Whole && was_known && self.is_settled;
        let unplaced = self.bring(&mut session, &mut held, look, by_others).await?;
        self.held = Some((identity.pid, held));
        self.is_settled = true;
        let saved = match look {
            Look::Whole => self.save(),
            Look::Change => Ok(()),
        };
        if self.widen(unplaced).await? {
            return Ok(Pass::Again);
        }
        Ok(Pass::Done(saved.err()))
    }

    /// One agent at a time: two would undo each other's work.
    fn lock(&mut self) -> Result<(), Trouble> {
        if self.lock.is_some() {
            return Ok(());
        }
        let dir = &self.program.dir;
        boot::create(dir)?;
        let path = dir.join("lock");
        let file = fs::File::create(&path).map_err(boot::at(&path))?;
        match file.try_lock() {
            Ok(()) => self.lock = Some(file),
            Err(TryLockError::WouldBlock) => {
                return Err(Trouble::Locked(dir.display().to_string()));
            }
            Err(TryLockError::Error(error)) => return Err(boot::at(&path)(error).into()),
        }
        Ok(())
    }

    /// Takes over a HAProxy that was not started here, or was restarted by others. `None` when it had
    /// to be replaced because the settings are others.
    async fn adopt(
        &mut self,
        identity: &state::Identity,
        session: &mut Session,
    ) -> Result<Option<Layout>, Trouble> {
        if !identity.description.starts_with(OURS) {
            let socket = self.program.admin_socket().display().to_string();
            return Err(Trouble::Foreign(socket, identity.description.clone()));
        }
        let layout = boot::read_layout(&self.program.dir)
            .filter(|layout| layout.description() == identity.description);
        match layout {
            Some(layout) if layout.asked == self.asked => {
                info!(
                    pid = identity.pid,
                    "HAProxy runs and is taken over as it is"
                );
                Ok(Some(layout))
            }
            layout => {
                info!(pid = identity.pid, "HAProxy runs with other settings");
                let held = state::read(session).await?;
                let old = layout.unwrap_or_else(|| Layout::assumed(&self.asked));
                let next = self.decide(Some(&old)).await?;
                self.replace(&old, next, &held).await?;
                Ok(None)
            }
        }
    }

    /// Tells HAProxy what is to change until nothing is, and reads it back. Returns what found no
    /// pool.
    async fn bring(
        &mut self,
        session: &mut Session,
        held: &mut Held,
        look: Look,
        by_others: bool,
    ) -> Result<BTreeMap<u16, Kind>, Trouble> {
        let mut refusal = None;
        let mut touched = BTreeSet::new();
        for round in 0..ROUNDS_MAX {
            let plan = plan::plan(held, &self.wanted);
            if plan.changes.is_empty() {
                self.clean(session, held, &plan.cleaning, look, &touched)
                    .await?;
                return Ok(plan.unplaced);
            }
            if by_others && round == 0 {
                self.status.repairs += plan.changes.len() as u64;
                warn!(
                    differences = plan.changes.len(),
                    first = %plan.changes[0],
                    "HAProxy was changed by others and is set right"
                );
            }
            self.is_stale = true;
            for command in &plan.changes {
                let answer = session.ask(&command.to_string()).await?;
                if let Outcome::Refused(words) = state::outcome(command, &answer) {
                    refusal = Some(format!(
                        "{command:?}: {words:?}",
                        command = command.to_string()
                    ));
                }
                touched.extend(command.pool());
            }
            if touched.len() > POOLS_READ_SINGLY_MAX || refusal.is_some() {
                *held = state::read(session).await?;
            } else {
                state::read_part(session, held, &touched).await?;
            }
        }
        let words = refusal.unwrap_or_else(|| "all changes, though it said so".to_owned());
        Err(Trouble::Refused(words))
    }

    /// Takes away servers that get no connections any more, where the last has ended.
    async fn clean(
        &mut self,
        session: &mut Session,
        held: &mut Held,
        cleaning: &[Command],
        look: Look,
        touched: &BTreeSet<Pool>,
    ) -> Result<(), Trouble> {
        let is_due = |command: &&Command| {
            look == Look::Whole || command.pool().is_some_and(|pool| touched.contains(&pool))
        };
        for command in cleaning.iter().filter(is_due).take(CLEANING_MAX) {
            let answer = session.ask(&command.to_string()).await?;
            match state::outcome(command, &answer) {
                Outcome::Done => held.apply(command),
                Outcome::Busy => {}
                Outcome::Refused(words) => {
                    return Err(Trouble::Refused(format!("\"{command}\": {words:?}")));
                }
            }
        }
        Ok(())
    }

    /// Keeps the files HAProxy would start from at what it holds now.
    fn save(&mut self) -> Result<(), Trouble> {
        let (Some(layout), Some((_, held)), true) = (&self.layout, &self.held, self.is_stale)
        else {
            return Ok(());
        };
        let pools = Pool::all(layout.http, layout.tcp);
        boot::write(
            &self.program.dir,
            layout,
            &plan::ideal(held, &self.wanted, pools),
        )?;
        self.is_stale = false;
        Ok(())
    }

    /// Sees that every wanted port is listened on and has a pool, by a reload where one helps; `true`
    /// after that.
    async fn widen(&mut self, unplaced: BTreeMap<u16, Kind>) -> Result<bool, Trouble> {
        let Some(layout) = self.layout.clone() else {
            return Ok(false);
        };
        let missing: Vec<u16> = self
            .wanted
            .keys()
            .copied()
            .filter(|it| !layout.covers(*it))
            .collect();
        if missing.is_empty() && unplaced.is_empty() {
            return Ok(false);
        }
        let next = self.decide(Some(&layout)).await?;
        let opens = missing.iter().any(|port| next.covers(*port));
        let grows = (next.http, next.tcp) != (layout.http, layout.tcp);
        let is_due = self.reload_not_before.is_none_or(|it| it <= Instant::now());
        if (opens || grows)
            && is_due
            && let Some((_, held)) = self.held.take()
        {
            info!(ports = ?missing, pools = unplaced.len(), "HAProxy needs more ports or pools");
            self.replace(&layout, next, &held).await?;
            return Ok(true);
        }
        if unplaced.is_empty() {
            return Err(Trouble::Ports(missing));
        }
        let hint = if grows {
            "; more of them come with the next reload"
        } else {
            ", and there cannot be more (see SIDECAR_HAPROXY_POOLS)"
        };
        let ports = unplaced.into_keys().collect();
        Err(Trouble::Pools { ports, hint })
    }

    async fn decide(&self, old: Option<&Layout>) -> Result<Layout, Trouble> {
        let (asked, old, reserved) = (self.asked.clone(), old.cloned(), self.reserved.clone());
        let needed: BTreeSet<u16> = self.wanted.keys().copied().collect();
        let mut needs = BTreeMap::new();
        for wish in self.wanted.values() {
            *needs.entry(wish.kind).or_default() += 1;
        }
        let deciding = tokio::task::spawn_blocking(move || {
            let descriptors = layout::descriptors();
            Layout::decide(asked, old.as_ref(), &needed, &reserved, &needs, descriptors)
        });
        match deciding.await {
            Ok(layout) => Ok(layout?),
            Err(error) => Err(Trouble::Late(error.to_string())),
        }
    }

    /// A planned reload: a worker with this layout and all that is held takes over the ports.
    async fn replace(&mut self, old: &Layout, layout: Layout, held: &Held) -> Result<(), Trouble> {
        self.reload_not_before = Some(Instant::now() + RELOAD_PAUSE);
        let state = plan::ideal(held, &self.wanted, Pool::all(layout.http, layout.tcp));
        boot::write(&self.program.dir, &layout, &state)?;
        let reloaded = async {
            self.program.reload().await?;
            self.answers(&layout).await
        };
        if let Err(trouble) = reloaded.await {
            // Who starts HAProxy from the files gets what is known to work.
            let state = plan::ideal(held, &self.wanted, Pool::all(old.http, old.tcp));
            boot::write(&self.program.dir, old, &state)?;
            return Err(trouble);
        }
        self.runs(layout);
        info!("HAProxy was reloaded, with its ports handed over");
        Ok(())
    }

    /// Starts HAProxy with all that is wanted.
    async fn start(&mut self) -> Result<(), Trouble> {
        self.status.is_running = Some(self.program.master().is_some());
        let now = Instant::now();
        if self
            .started
            .is_some_and(|it| now.duration_since(it) > STEADY)
        {
            self.starts_in_a_row = 0;
            self.start_not_before = None;
        }
        if let Some(due) = self.start_not_before
            && now < due
        {
            return Err(Trouble::Pausing);
        }
        if self.starts_in_a_row > 0 || self.started.is_some() {
            let exponent = self.starts_in_a_row.min(8);
            let pause = PAUSE_MAX.min(PAUSE_FIRST * 2_u32.pow(exponent));
            self.start_not_before = Some(now + pause.mul_f64(rand::random_range(0.75..1.25)));
        }
        self.starts_in_a_row += 1;
        self.layout = None;
        // What is still there takes part in its replacement: its ports are not somebody else's.
        let old = boot::read_layout(&self.program.dir);
        let old = old.filter(|_| self.program.master().is_some());
        let mut layout = self.decide(old.as_ref()).await?;
        let pools = Pool::all(layout.http, layout.tcp);
        let state = plan::ideal(&Held::default(), &self.wanted, pools);
        if let Err(error) = boot::write(&self.program.dir, &layout, &state) {
            // What was good last is better than nothing.
            layout = boot::read_layout(&self.program.dir).ok_or(error)?;
        }
        self.program.start().await?;
        self.answers(&layout).await?;
        self.started = Some(Instant::now());
        self.absent_looks = 0;
        let is_revival = self.has_run;
        self.runs(layout);
        if is_revival {
            self.status.revivals += 1;
            warn!("HAProxy had ended and was started again");
        } else {
            info!("HAProxy was started");
        }
        Ok(())
    }

    fn runs(&mut self, layout: Layout) {
        self.held = None;
        self.is_settled = false;
        if !layout.has_statistics {
            warn!(
                port = STATISTICS_PORT,
                "no statistics page: another program has its port"
            );
        }
        self.layout = Some(layout);
        self.has_run = true;
        self.status.reloads += 1;
        self.status.last_reload = Some(jiff::Timestamp::now().to_string());
    }

    /// Waits until the HAProxy with this layout answers.
    async fn answers(&self, layout: &Layout) -> Result<(), Trouble> {
        let description = layout.description();
        let admin = self.program.admin_socket();
        let mut last = String::new();
        let looking = async {
            loop {
                last = match Session::open(&admin).await {
                    Ok(mut session) => match state::identity(&mut session).await {
                        Ok(identity) if identity.description == description => return,
                        Ok(_) => "another one answers".to_owned(),
                        Err(error) => error.to_string(),
                    },
                    Err(error) => error.to_string(),
                };
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let looked = tokio::time::timeout(ANSWERS_WITHIN, looking).await;
        looked.map_err(|_| Trouble::Late(last))
    }

    /// The end of the agent: HAProxy runs on as it is, or finishes its connections.
    pub(super) fn end(&mut self, is_leaving: bool) {
        if self.lock.is_none() {
            return;
        }
        if let Err(error) = self.save() {
            warn!(%error, "HAProxy's files are older than what it serves");
        }
        if is_leaving && self.program.finish() {
            info!("HAProxy takes no more connections and ends with its last one");
        }
    }
}
