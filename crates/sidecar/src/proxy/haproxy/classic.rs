//! Classic mode: a configuration file made from a template, and a reload for every change of it.
//!
//! One task does all of it, one step after the other: render, compare, write beside, verify, put in
//! place, reload. A step that fails leaves the file and HAProxy as they were, is told, and is tried
//! again. The first change is applied at once; those that follow wait for the hold-down and are then
//! applied together. A HAProxy that has died is started again.

use std::{
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use catalog::{Snapshot, Timestamp};
use rustix::process::Pid;
use tokio::{
    sync::watch,
    task::block_in_place,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    HaproxyStatus, Inputs, State,
    command::Commands,
    config_file::ConfigFile,
    instances::{Omitted, Shown},
    process::{self, Liveness},
    template::{self, Surroundings},
    without_itself,
};
use crate::{
    config::HaproxyConfig, file_stamp::FileStamp, health::orphans::Orphans, routes::Routes,
};

/// How often HAProxy's processes and the template file are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pause before a failed step is tried again; it doubles up to the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// A step of an application that failed.
#[derive(Debug)]
struct Failure {
    step: &'static str,
    error: String,
}

impl Failure {
    fn of(step: &'static str) -> impl Fn(&dyn std::fmt::Display) -> Self {
        move |error| Self {
            step,
            error: error.to_string(),
        }
    }
}

/// Keeps HAProxy running what the template makes of the newest snapshot.
pub(super) async fn run(
    config: HaproxyConfig,
    bind: IpAddr,
    mut inputs: Inputs,
    status: watch::Sender<Arc<HaproxyStatus>>,
    shutdown: CancellationToken,
) {
    let orphans = Orphans::default();
    let reaper = orphans.clone().run(shutdown.clone());
    let work = async {
        // What is said of this host from its goodbye on is nothing to reload for: HAProxy is left as it is.
        let end = shutdown.child_token();
        let goodbye = async {
            inputs.leaving.cancelled().await;
            end.cancel();
            std::future::pending::<()>().await;
        };
        let follow = async {
            let begins = end.run_until_cancelled(inputs.routes.changed()).await;
            if matches!(begins, Some(Ok(()))) {
                let worker = Worker::new(&config, bind, orphans, status);
                worker.run(inputs.snapshots, &end).await;
            }
        };
        tokio::select! {
            () = follow => {}
            () = goodbye => {}
        }
    };
    tokio::join!(reaper, work);
}

struct Worker<'a> {
    config: &'a HaproxyConfig,
    bind: IpAddr,
    commands: Commands<'a>,
    file: ConfigFile,
    status: watch::Sender<Arc<HaproxyStatus>>,
    /// What HAProxy runs, as the template gives it at no time in particular.
    applied: Option<String>,
    /// The template file that was read last.
    template: Option<FileStamp>,
    omitted: Vec<Omitted>,
    /// Processes that were told to finish.
    former: Vec<Pid>,
    pause: Duration,
}

impl<'a> Worker<'a> {
    fn new(
        config: &'a HaproxyConfig,
        bind: IpAddr,
        orphans: Orphans,
        status: watch::Sender<Arc<HaproxyStatus>>,
    ) -> Self {
        Self {
            bind,
            commands: Commands::new(config, orphans),
            file: ConfigFile::new(&config.config_file),
            status,
            applied: None,
            template: None,
            omitted: Vec::new(),
            former: Vec::new(),
            pause: RETRY.0,
            config,
        }
    }

    async fn run(mut self, mut snapshots: watch::Receiver<Arc<Snapshot>>, end: &CancellationToken) {
        self.update(|status| status.mode = "classic");
        if self.file.restore() {
            info!("an unconfirmed configuration of a former life is taken back");
        }
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // When to apply, and not before when.
        let mut due = Some(Instant::now());
        let mut earliest = Instant::now();
        let mut seen = None;
        loop {
            let at = due.map(|due| due.max(earliest));
            tokio::select! {
                biased;
                () = end.cancelled() => return,
                () = sleep_until(at.unwrap_or(earliest)), if at.is_some() => {
                    let snapshot = snapshots.borrow_and_update().clone();
                    seen = Some(snapshot.changes);
                    let has_reloaded = self.apply(snapshot).await;
                    if has_reloaded == Some(true) {
                        earliest = Instant::now() + self.config.hold_down;
                    }
                    due = has_reloaded.is_none().then(|| Instant::now() + self.back_off());
                }
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if seen != Some(snapshots.borrow_and_update().changes) {
                        due = Some(Instant::now());
                    }
                }
                _ = looks.tick() => {
                    let is_dead = self.look() && self.applied.is_some();
                    if due.is_none() && (is_dead || self.is_template_changed()) {
                        due = Some(Instant::now());
                    }
                }
            }
        }
    }

    fn back_off(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(RETRY.1);
        pause
    }

    /// Brings HAProxy to run `snapshot`. Whether it was reloaded for that; `None` when that failed.
    async fn apply(&mut self, snapshot: Arc<Snapshot>) -> Option<bool> {
        match self.try_apply(snapshot).await {
            Ok(has_reloaded) => {
                self.pause = RETRY.0;
                let was_troubled = self.status.borrow().trouble.is_some();
                if was_troubled {
                    info!("HAProxy runs what it should again");
                }
                let is_running = self.liveness().is_running();
                self.update(|status| {
                    status.state = State::Applied;
                    status.trouble = None;
                    status.is_running = is_running;
                });
                Some(has_reloaded)
            }
            Err(Failure { step, error }) => {
                let trouble = format!("{step}: {error}");
                if self.status.borrow().trouble.as_ref() != Some(&trouble) {
                    warn!(
                        step,
                        error, "HAProxy keeps its configuration, the new one failed"
                    );
                }
                let is_running = self.liveness().is_running();
                self.update(|status| {
                    status.state = State::Failed;
                    status.trouble = Some(trouble);
                    status.is_running = is_running;
                    *status.failures.entry(step).or_default() += 1;
                });
                None
            }
        }
    }

    async fn try_apply(&mut self, snapshot: Arc<Snapshot>) -> Result<bool, Failure> {
        let routes = Routes::of(&snapshot);
        let shown = Shown::of(&snapshot, &without_itself(&routes, self.bind));
        self.report(&shown);
        let (name, source) = self.read_template()?;
        let render = |now| {
            let socket = self.config.classic_socket();
            let surroundings = Surroundings {
                bind: self.bind,
                user: &self.config.user,
                group: &self.config.group,
                use_hostnames: self.config.use_hostnames,
                stats_socket: &socket,
            };
            template::render(&name, &source, &shown, &surroundings, now)
                .map_err(|error| Failure::of("template")(&error))
        };
        let timeless = block_in_place(|| render(Timestamp::EPOCH))?;
        let is_same = self.applied.as_ref() == Some(&timeless);
        let liveness = self.liveness();
        let is_dead = self.is_dead(&liveness);
        if is_same && !is_dead {
            return Ok(false);
        }
        let text = block_in_place(|| render(SystemTime::now().into()))?;
        self.install(&text, &liveness).await?;
        self.applied = Some(timeless);
        self.former.extend(liveness.pids());
        self.update(|status| {
            status.reloads += 1;
            status.revivals += u64::from(is_same);
            let now = Timestamp::from(SystemTime::now());
            status.last_reload = Some(now.to_string());
        });
        if is_same {
            warn!("HAProxy was dead and is started again");
        } else {
            let services = shown.services.len();
            info!(services, "HAProxy runs a new configuration");
        }
        Ok(true)
    }

    /// Puts `text` in place and makes HAProxy run it, or leaves everything as it is.
    async fn install(&self, text: &str, liveness: &Liveness) -> Result<(), Failure> {
        let write = Failure::of("write");
        let hand_over = match liveness {
            Liveness::Running(_) => handed_over(&self.file.text()),
            Liveness::Dead | Liveness::Unknown => None,
        };
        block_in_place(|| self.file.write(text)).map_err(|error| write(&error))?;
        if self.commands.verifies_anywhere() {
            let verified = self.commands.verify(self.file.fresh()).await;
            verified.map_err(|error| {
                self.file.discard();
                Failure::of("verify")(&error)
            })?;
            block_in_place(|| self.file.install()).map_err(|error| write(&error))?;
        } else {
            block_in_place(|| self.file.install()).map_err(|error| write(&error))?;
            let verified = self.commands.verify(&self.config.config_file).await;
            verified.map_err(|error| {
                self.file.restore();
                Failure::of("verify")(&error)
            })?;
        }
        let reloaded = self.commands.reload(liveness.pids(), hand_over.as_deref());
        reloaded.await.map_err(|error| {
            self.file.restore();
            Failure::of("reload")(&error)
        })?;
        self.file.confirm();
        Ok(())
    }

    /// The template's name and text.
    fn read_template(&mut self) -> Result<(String, String), Failure> {
        let Some(path) = &self.config.template_file else {
            return Ok(("haproxy.cfg".to_owned(), template::BUILT_IN.to_owned()));
        };
        self.template = stamp(path);
        let text = std::fs::read(path).map_err(|error| Failure {
            step: "template",
            error: format!("cannot read {}: {error}", path.display()),
        })?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // As in Go, bytes that are no text are the template's own affair.
        let text = String::from_utf8_lossy(&text).into_owned();
        Ok((name.into_owned(), text))
    }

    fn is_template_changed(&self) -> bool {
        let path = self.config.template_file.as_ref();
        path.is_some_and(|path| stamp(path) != self.template)
    }

    fn liveness(&self) -> Liveness {
        let files = [&*self.config.config_file, &*self.config.pid_file];
        process::look(&self.config.pid_file, &self.config.binary, &files)
    }

    /// Whether HAProxy does not run although it could be known if it did. Only our own reload leaves a
    /// pid file for certain.
    fn is_dead(&self, liveness: &Liveness) -> bool {
        match liveness {
            Liveness::Running(_) => false,
            Liveness::Dead => true,
            Liveness::Unknown => cfg!(target_os = "linux") && self.config.reload_command.is_none(),
        }
    }

    /// Looks after HAProxy's processes. Whether it is dead.
    fn look(&mut self) -> bool {
        process::reap(&mut self.former);
        let liveness = self.liveness();
        let is_running = liveness.is_running();
        if self.status.borrow().is_running != is_running {
            self.update(|status| status.is_running = is_running);
        }
        self.is_dead(&liveness)
    }

    fn report(&mut self, shown: &Shown) {
        for omitted in &shown.omitted {
            if !self.omitted.contains(omitted) {
                warn!(
                    service = omitted.service,
                    instance = omitted.id,
                    host = omitted.hostname,
                    reason = %omitted.reason,
                    "instance is left out of HAProxy's configuration"
                );
            }
        }
        self.omitted.clone_from(&shown.omitted);
    }

    fn update(&self, change: impl FnOnce(&mut HaproxyStatus)) {
        self.status
            .send_modify(|status| change(Arc::make_mut(status)));
    }
}

fn stamp(path: &Path) -> Option<FileStamp> {
    std::fs::metadata(path).ok().map(|it| (&it).into())
}

/// The socket over which a HAProxy with this configuration hands its listeners to a successor.
fn handed_over(text: &str) -> Option<String> {
    let mut sockets = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["stats", "socket", path, options @ ..] = &words[..] else {
            return None;
        };
        let hands_over = options
            .windows(2)
            .any(|pair| pair == ["expose-fd", "listeners"]);
        (hands_over && path.starts_with('/')).then(|| (*path).to_owned())
    });
    sockets.find(|path| Path::new(path).exists())
}
