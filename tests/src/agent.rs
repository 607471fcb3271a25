//! An agent on a host, and what its neighbours and its users can see of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{Exit, Json, Lab, Process, Response, binary, host::Host, wait::eventually};

/// Where every agent serves its API.
pub const API_PORT: u16 = 7777;
/// Where every agent gossips.
pub const GOSSIP_PORT: u16 = 7946;
/// Where every host reaches every service.
pub const PROXY_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 168, 168);

/// An agent answers a moment after its start; the machine may be busy.
const START: Duration = Duration::from_secs(10);

/// The numbers of an instance's `Status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the words of the API")]
pub enum Status {
    Alive,
    Tombstone,
    Unhealthy,
    Unknown,
    Draining,
}

impl Status {
    pub(crate) fn of(number: Option<i64>) -> Self {
        match number {
            Some(0) => Self::Alive,
            Some(1) => Self::Tombstone,
            Some(2) => Self::Unhealthy,
            Some(3) => Self::Unknown,
            Some(4) => Self::Draining,
            other => panic!("no status has the number {other:?}"),
        }
    }
}

/// One instance as an agent's API lists it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instance {
    /// The host it runs on.
    pub host: String,
    /// How it is.
    pub status: Status,
    /// Its identity.
    pub id: String,
}

/// What a client meets at a service port of its own host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// Nothing offers this service: the connection is refused, or the proxy says so itself, as it does for a
    /// while after the last instance has gone.
    Closed,
    /// 200 and this body.
    Answer(String),
    /// Anything else, in words.
    Broken(String),
}

/// The proxy's own words.
fn is_told_as_gone(body: &str) -> bool {
    body.starts_with("sidecar: no instance of ") && body.ends_with(" is healthy\n")
}

impl Host {
    /// Asks for `/` at a service port, as a user of this host does.
    pub fn route(&self, service_port: u16) -> Route {
        match self.get((PROXY_IP, service_port).into(), "/") {
            Ok(Response {
                status: 200, body, ..
            }) => Route::Answer(body.trim_end().to_owned()),
            Ok(Response {
                status: 503, body, ..
            }) if is_told_as_gone(&body) => Route::Closed,
            Ok(Response { status, body, .. }) => Route::Broken(format!("{status}: {body}")),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Route::Closed,
            Err(error) => Route::Broken(error.to_string()),
        }
    }

    /// How often each answer came in so many requests.
    ///
    /// # Errors
    /// At the first request without a good answer.
    pub fn answers(
        &self,
        service_port: u16,
        requests: usize,
    ) -> Result<BTreeMap<String, usize>, String> {
        let mut counts = BTreeMap::new();
        for _ in 0..requests {
            match self.route(service_port) {
                Route::Answer(answer) => *counts.entry(answer).or_default() += 1,
                other => return Err(format!("{} at {service_port}: {other:?}", self.name)),
            }
        }
        Ok(counts)
    }

    /// Whether the service port gives `expected`.
    ///
    /// # Errors
    /// With what it gives instead.
    pub fn expect_route(&self, service_port: u16, expected: &Route) -> Result<(), String> {
        let found = self.route(service_port);
        if found == *expected {
            return Ok(());
        }
        Err(format!(
            "on {} port {service_port} is {found:?}, not {expected:?}",
            self.name
        ))
    }
}

/// An agent that is not started yet.
#[derive(Debug)]
pub struct AgentBuilder<'lab> {
    lab: &'lab Lab,
    host: Arc<Host>,
    title: String,
    command: Vec<String>,
    env: BTreeMap<String, String>,
}

impl<'lab> AgentBuilder<'lab> {
    /// The agent of a host, in a cluster named `lab`, seeded with the first two of the other hosts,
    /// without anything to discover.
    pub fn new(lab: &'lab Lab, host: usize) -> Self {
        let host = Arc::clone(lab.host(host));
        let seeds: Vec<_> = lab
            .hosts()
            .iter()
            .filter(|other| other.ip != host.ip)
            .take(2)
            .map(|other| other.ip.to_string())
            .collect();
        let title = format!("sidecar-{}", host.name);
        let builder = Self {
            lab,
            title,
            command: Vec::new(),
            env: BTreeMap::new(),
            host,
        };
        let ip = builder.host.ip.to_string();
        let state = lab.dir().join(format!("state-{}", builder.host.name));
        let builder = builder
            .env("SIDECAR_CLUSTER_NAME", "lab")
            .env("SIDECAR_ADVERTISE_IP", &ip)
            // As requests of the lab call every host.
            .env("SIDECAR_API_HOSTS", "lab")
            // All agents share the machine's own.
            .env("SIDECAR_STATE_DIR", &state.display().to_string())
            .services(&[]);
        if seeds.is_empty() {
            builder
        } else {
            builder.env("SIDECAR_SEEDS", &seeds.join(","))
        }
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Takes a variable out of the environment.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.env.remove(name);
        self
    }

    /// Adds words to the command line.
    #[must_use]
    pub fn args(mut self, words: &[&str]) -> Self {
        self.command
            .extend(words.iter().map(|&word| word.to_owned()));
        self
    }

    /// Gives the agent a static file with these targets.
    #[must_use]
    pub fn services(self, targets: &[Value]) -> Self {
        let name = static_file(&self.host);
        let path = self
            .lab
            .write(&name, &Value::from(targets.to_vec()).to_string());
        self.env("SIDECAR_DISCOVERY", "static")
            .env("STATIC_CONFIG_FILE", &path.display().to_string())
    }

    /// Starts it and waits until its API answers.
    ///
    /// # Panics
    /// When it ends or stays silent instead.
    pub fn start(self) -> Agent {
        let mut agent = self.launch();
        agent.wait_for_api();
        agent
    }

    /// Starts it without waiting for anything.
    pub fn launch(self) -> Agent {
        let env: Vec<_> = self.env.into_iter().collect();
        let dir = self.lab.dir().to_owned();
        let program = binary::sidecar();
        let process = spawn(&self.host, &dir, &self.title, &program, &self.command, &env);
        let (host, title, command) = (self.host, self.title, self.command);
        Agent {
            host,
            title,
            program,
            command,
            env,
            dir,
            process,
        }
    }
}

fn static_file(host: &Host) -> String {
    format!("static-{}.json", host.name)
}

fn spawn(
    host: &Host,
    dir: &Path,
    title: &str,
    program: &Path,
    words: &[String],
    env: &[(String, String)],
) -> Process {
    let program = program.display().to_string();
    let command: Vec<&str> = std::iter::once(program.as_str())
        .chain(words.iter().map(String::as_str))
        .collect();
    Process::start(host, dir, title, &[], &command, env)
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    /// Where it runs.
    pub host: Arc<Host>,
    title: String,
    program: PathBuf,
    command: Vec<String>,
    env: Vec<(String, String)>,
    dir: PathBuf,
    process: Process,
}

impl Agent {
    /// # Panics
    /// When the agent ends or stays silent.
    pub fn wait_for_api(&mut self) {
        let what = format!("the API of {} answers", self.host.name);
        eventually(&what, START, || {
            if let Some(exit) = self.process.exit() {
                panic!(
                    "the agent of {} ended with {exit:?}:\n{}",
                    self.host.name,
                    self.process.log()
                );
            }
            self.api("/api/state.json")
                .map(drop)
                .map_err(|error| error.to_string())
        });
    }

    /// Starts it again as it was, after it ended.
    ///
    /// # Panics
    /// As [`AgentBuilder::start`].
    pub fn restart(&mut self) {
        self.process.kill();
        self.process = spawn(
            &self.host,
            &self.dir,
            &self.title,
            &self.program,
            &self.command,
            &self.env,
        );
        self.wait_for_api();
    }

    /// From its next start on another program runs: a copy of the one that ran, which is another file.
    ///
    /// # Panics
    /// When it cannot be copied.
    pub fn replace_program(&mut self) {
        let copy = self.dir.join(format!("{}-replaced", self.title));
        fs::copy(&self.program, &copy)
            .unwrap_or_else(|error| panic!("{}: {error}", copy.display()));
        self.program = copy;
    }

    /// From its next start on a variable is set.
    pub fn set(&mut self, name: &str, value: &str) {
        self.env.retain(|(it, _)| it != name);
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// # Panics
    /// When it has ended.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for its end; see [`Process::ends`].
    pub fn ends(&mut self, within: Duration) -> (Exit, Duration) {
        self.process.ends(within)
    }

    /// How it ended, if it has.
    pub fn exit(&mut self) -> Option<Exit> {
        self.process.exit()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The processor time it has used so far.
    ///
    /// # Panics
    /// When it has ended.
    pub fn processor_time(&self) -> Duration {
        self.process.processor_time()
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// How many lines of its log have this word.
    pub fn mentions(&self, word: &str) -> usize {
        self.process.mentions(word)
    }

    /// Where its API is.
    pub fn api_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, API_PORT).into()
    }

    /// `GET path` of its API, asked on its own host.
    ///
    /// # Errors
    /// As [`Host::get`].
    pub fn api(&self, path: &str) -> io::Result<Response> {
        self.host.get(self.api_address(), path)
    }

    /// The hosts that it takes for members of the cluster.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn members(&self) -> Result<BTreeSet<String>, String> {
        let answer = self
            .api("/api/services.json")
            .map_err(|error| error.to_string())?
            .json();
        let members = answer
            .member("ClusterMembers")
            .map(Json::members)
            .unwrap_or_default();
        Ok(members.iter().map(|(name, _)| name.clone()).collect())
    }

    /// Whether it lists exactly these members.
    ///
    /// # Errors
    /// With those it lists instead.
    pub fn expect_members(&self, names: &[&str]) -> Result<(), String> {
        let found = self.members()?;
        let wanted: BTreeSet<_> = names.iter().map(|&name| name.to_owned()).collect();
        if found == wanted {
            return Ok(());
        }
        Err(format!(
            "{} lists {found:?}, not {wanted:?}",
            self.host.name
        ))
    }

    /// Its metrics whose name begins so, with their labels, and their values.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metrics(&self, name: &str) -> Result<BTreeMap<String, f64>, String> {
        let answer = self.api("/metrics").map_err(|error| error.to_string())?;
        let lines = answer.body.lines().filter(|line| line.starts_with(name));
        lines
            .map(|line| {
                let (series, value) = line.rsplit_once(' ').ok_or(line)?;
                let value = value.parse().map_err(|_| line)?;
                Ok((series.to_owned(), value))
            })
            .collect::<Result<_, &str>>()
            .map_err(|line| format!("{}: not a metric: {line}", self.host.name))
    }

    /// The instances it lists of a service, sorted by host.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn instances(&self, service: &str) -> Result<Vec<Instance>, String> {
        let path = format!("/api/services/{service}.json");
        let answer = self.api(&path).map_err(|error| error.to_string())?;
        if answer.status == 404 {
            return Ok(Vec::new());
        }
        let json = answer.json();
        let list = json
            .member("Services")
            .and_then(|services| services.member(service));
        let field = |instance: &Json, key: &str| instance.member(key).map(|v| v.text().to_owned());
        let mut instances: Vec<_> = list
            .map(Json::elements)
            .unwrap_or_default()
            .iter()
            .map(|instance| Instance {
                host: field(instance, "Hostname").unwrap_or_default(),
                status: Status::of(instance.member("Status").and_then(Json::number)),
                id: field(instance, "ID").unwrap_or_default(),
            })
            .collect();
        instances.sort();
        Ok(instances)
    }

    /// Whether the instances of a service are exactly these; hosts without any may be left out, and
    /// so may tombstones of hosts that are named with another status too.
    ///
    /// # Errors
    /// With those it lists instead.
    pub fn expect_instances(&self, service: &str, wanted: &[(&str, Status)]) -> Result<(), String> {
        let found = self.instances(service)?;
        let mut found: Vec<_> = found.iter().map(|i| (i.host.as_str(), i.status)).collect();
        let mut wanted = wanted.to_vec();
        found.sort();
        wanted.sort();
        if found == wanted {
            return Ok(());
        }
        Err(format!(
            "{} lists {found:?} of {service}, not {wanted:?}",
            self.host.name
        ))
    }
}
