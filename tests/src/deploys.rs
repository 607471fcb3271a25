//! Instances that are replaced while clients ask for them: containers of the lab's web server on one host,
//! its agent, requests at a constant rate to the service port of that host, and what became of them.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    Agent, AgentBuilder, Engine, Exit, Failure, Lab, PROXY_IP, Report, Route, Status, Traffic,
    eventually, tools,
};

const IMAGE: &str = "lab/backend:1.0";
const SERVICE: &str = "web";
const SERVICE_PORT: u16 = 9500;
/// How long a container that is told to end serves on: the moment that hosts need to hear of it, and more.
const LINGER_MS: &str = "1000";
const STARTED: Duration = Duration::from_secs(30);
const STOPPED: Duration = Duration::from_secs(8);
/// Containers that are started or stopped at a time.
const AT_ONCE: usize = 4;
/// The engine has told a process to end when it says so; it has ended a moment later.
const KILL_FELT: Duration = Duration::from_millis(200);

/// How much is replaced in a round.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// Instances replaced by stopping one of two before the next is started.
    pub stop_first: usize,
    /// Instances replaced by starting one before the only one is stopped.
    pub start_first: usize,
    /// How many instances there are between one and one.
    pub scale: usize,
    /// Instances killed, one of two.
    pub kills: usize,
}

/// A host, its engine and its agent, with instances that come and go.
#[derive(Debug)]
pub struct Deploys<'lab> {
    engine: &'lab Engine,
    agent: Agent,
    /// Containers that serve, the oldest first.
    running: VecDeque<String>,
    number: usize,
    ended: usize,
    events: Mutex<Vec<Event>>,
    /// From when to when instances were killed.
    kills: Vec<(Instant, Instant)>,
}

#[derive(Debug, Clone)]
struct Event {
    at: Instant,
    what: String,
}

impl<'lab> Deploys<'lab> {
    /// `backend` is the program that the containers run; two of them serve when this returns.
    ///
    /// # Panics
    /// When they do not.
    pub fn start(lab: &Lab, engine: &'lab Engine, agent: AgentBuilder<'_>, backend: &Path) -> Self {
        import(lab, engine, backend);
        let agent = agent
            .env("SIDECAR_DISCOVERY", "docker")
            .env("DOCKER_URL", &engine.url())
            .start();
        let mut deploys = Self {
            engine,
            agent,
            running: VecDeque::new(),
            number: 0,
            ended: 0,
            events: Mutex::default(),
            kills: Vec::new(),
        };
        deploys.scale(2);
        deploys.is_ready();
        eventually("they are reached", STARTED, || {
            match deploys.agent.host.route(SERVICE_PORT) {
                Route::Answer(_) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        deploys
    }

    /// Clients of the service.
    pub fn traffic(&self, per_second: u32) -> Traffic {
        let at = (PROXY_IP, SERVICE_PORT).into();
        Traffic::start(&self.agent.host, at, per_second)
    }

    /// How many instances have ended so far.
    pub fn ended(&self) -> usize {
        self.ended
    }

    /// Every kind of deploy once or more; begins and ends with two instances.
    ///
    /// # Panics
    /// When a container or the agent does not do what it is told to.
    pub fn round(&mut self, round: Round) {
        for _ in 0..round.stop_first {
            self.scale(1);
            self.scale(2);
        }
        self.scale(1);
        for _ in 0..round.start_first {
            self.scale(2);
            self.scale(1);
        }
        self.restart_agent();
        self.scale(round.scale);
        self.scale(1);
        self.scale(2);
        for _ in 0..round.kills {
            self.kill_one();
            self.scale(2);
        }
    }

    fn event(&self, what: String) {
        let at = Instant::now();
        let event = Event { at, what };
        self.events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(event);
    }

    /// Starts or stops instances until there are so many.
    fn scale(&mut self, to: usize) {
        let begin = self.number;
        self.number += to.saturating_sub(self.running.len());
        let new: Vec<_> = (begin..self.number).map(|it| format!("web-{it}")).collect();
        let surplus = self.running.len().saturating_sub(to);
        let old: Vec<_> = self.running.drain(..surplus).collect();
        self.ended += old.len();
        each(&new, |name| self.run(name));
        each(&old, |name| self.stop(name));
        self.running.extend(new);
    }

    /// Starts a container and waits until the agent knows that it is well.
    fn run(&self, name: &str) {
        self.event(format!("start of {name}"));
        let id = self.engine.docker(&[
            "run",
            "-d",
            "--rm",
            "-P",
            "--name",
            name,
            "-l",
            &format!("ServiceName={SERVICE}"),
            "-l",
            &format!("ServicePort_80={SERVICE_PORT}"),
            "-l",
            "HealthCheck=HttpGet",
            "-l",
            &format!("HealthCheckArgs=http://{{{{ host }}}}:{{{{ tcp {SERVICE_PORT} }}}}/"),
            IMAGE,
            "/lab-backend",
            "0.0.0.0:80",
            name,
            LINGER_MS,
        ]);
        eventually(&format!("{name} is well"), STARTED, || {
            let found = self.agent.instances(SERVICE)?;
            let well = |it: &crate::Instance| it.status == Status::Alive && id.starts_with(&it.id);
            found
                .iter()
                .any(well)
                .then_some(())
                .ok_or_else(|| format!("{found:?}"))
        });
        self.event(format!("{name} is well"));
    }

    fn stop(&self, name: &str) {
        self.event(format!("stop of {name}"));
        self.engine.docker(&["stop", name]);
        self.event(format!("end of {name}"));
    }

    fn kill_one(&mut self) {
        let name = self.running.pop_front().expect("one runs");
        self.ended += 1;
        self.event(format!("kill of {name}"));
        let begun = Instant::now();
        self.engine.docker(&["kill", &name]);
        self.kills.push((begun, Instant::now() + KILL_FELT));
    }

    fn restart_agent(&mut self) {
        self.event("restart of the agent".to_owned());
        self.agent.signal(Signal::USR1);
        let (exit, _) = self.agent.ends(STOPPED);
        assert_eq!(exit, Exit::Code(0));
        self.agent.restart();
        self.is_ready();
        self.event("the agent is ready".to_owned());
    }

    fn is_ready(&self) {
        eventually("the agent is ready", STARTED, || {
            let answer = self.agent.api("/ready").map_err(|it| it.to_string())?;
            (answer.status == 200).then_some(()).ok_or(answer.body)
        });
    }

    /// The failures that a deploy may not have: all but those of requests that may not be repeated and
    /// were on their way when an instance was killed.
    pub fn inexcusable<'a>(&self, report: &'a Report) -> Vec<&'a Failure> {
        let excused = |failure: &Failure| {
            let felt = |(begun, over): &(_, _)| failure.failed >= *begun && failure.sent <= *over;
            !failure.idempotent && self.kills.iter().any(felt)
        };
        report.failures.iter().filter(|it| !excused(it)).collect()
    }

    /// What became of the requests, in words.
    pub fn summary(&self, report: &Report) -> String {
        let mut text = format!(
            "{} requests while {} instances ended: {} failed, {} of them inexcusably\n\
             {} instances answered; p50 {:?}, p99 {:?}, p99.9 {:?}, longest {:?}; sent late by {:?} at most; \
             {} kept connections found closed\n",
            report.requests,
            self.ended,
            report.failed,
            self.inexcusable(report).len(),
            report.answers.len(),
            report.time(0.5),
            report.time(0.99),
            report.time(0.999),
            report.time(1.0),
            report.late,
            report.reopened,
        );
        let mut kinds = BTreeMap::<_, usize>::new();
        for failure in &report.failures {
            let connection = if failure.kept { "kept" } else { "new" };
            let kind = format!("{} ({connection}): {}", failure.request, failure.error);
            *kinds.entry(kind).or_default() += 1;
        }
        for (kind, count) in kinds {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{count:6} × {kind}");
        }
        text
    }

    /// The failures one by one, each with the event next to it.
    pub fn details(&self, failures: &[&Failure]) -> String {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        for failure in failures {
            let distance = |event: &&Event| {
                let before = failure.failed.saturating_duration_since(event.at);
                before.max(event.at.saturating_duration_since(failure.failed))
            };
            let event = events.iter().min_by_key(distance);
            let near = event.map_or_else(String::new, |event| {
                let word = if event.at <= failure.failed {
                    "after"
                } else {
                    "before"
                };
                format!("{:?} {word} {}", distance(&event), event.what)
            });
            let _ = writeln!(
                text,
                "{near}: {} (under way for {:?}, {}): {}",
                failure.request,
                failure.failed - failure.sent,
                if failure.kept { "kept" } else { "new" },
                failure.error
            );
        }
        text
    }
}

/// An image of the web server and what it needs of the system: it is linked as every program of a debug
/// build is.
fn import(lab: &Lab, engine: &Engine, program: &Path) {
    let root = lab.dir().join("backend-image");
    let copy = |from: &Path, to: &Path| {
        fs::create_dir_all(to.parent().expect("it lies in a directory"))
            .and_then(|()| fs::copy(from, to))
            .unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    };
    copy(program, &root.join("lab-backend"));
    let needed = tools::run(&["ldd", &program.display().to_string()]);
    for library in needed.split_whitespace().filter(|it| it.starts_with('/')) {
        copy(Path::new(library), &root.join(&library[1..]));
    }
    let tar = lab.dir().join("backend.tar");
    let (root, tar) = (root.display().to_string(), tar.display().to_string());
    tools::run(&["tar", "-C", &root, "-cf", &tar, "."]);
    engine.docker(&["import", "--change", "EXPOSE 80", &tar, IMAGE]);
}

/// Does something for each name, a few at a time.
fn each(names: &[String], act: impl Fn(&str) + Sync) {
    for names in names.chunks(AT_ONCE) {
        thread::scope(|scope| {
            for name in names {
                scope.spawn(|| act(name));
            }
        });
    }
}
