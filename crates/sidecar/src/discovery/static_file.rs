//! Services that a file names: databases on this host, machines that run no sidecar.
//!
//! The file is read as a whole or not at all: while it is missing or wrong, what it last said stays.
//! It is watched by looking at it every second, which works where notifications do not: bind mounts,
//! symlink swaps, overlays; and it is read at once when somebody asks for that. The JSON's shape is in `schema`; its names and defaults are Go Sidecar's,
//! except that an absent type means `tcp`, an absent mode `http`, and that identities are stable.

mod schema;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use catalog::{Service, Timestamp};
use tokio::{
    fs::File,
    io::AsyncReadExt,
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use self::schema::{List, Target};
use super::{CheckSpec, Instance, SourceEvent, SourceName, SourceSender};
use crate::{
    file_stamp::FileStamp,
    listeners,
    local_view::{LocalView, SourceView},
};

/// How often the file is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Most of a problem that is told: it quotes values, which may be long.
const PROBLEM_CHARS_MAX: usize = 400;

/// Which file to read, and what stands where it is silent.
#[derive(Debug, Clone)]
pub struct StaticConfig {
    /// The file.
    pub path: PathBuf,
    /// Name of this host.
    pub hostname: String,
    /// Address of ports that name none.
    pub advertise_ip: IpAddr,
}

/// Why the file says nothing. What it last said stays; it is tried again when it changes.
#[derive(Debug, thiserror::Error)]
pub enum StaticError {
    /// There is no such file.
    #[error(
        "static file {path:?} does not exist; create it, or name another in STATIC_CONFIG_FILE"
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A directory or a device. Docker makes a directory of a bind mount whose file is missing.
    #[error("static file {path:?} is not a file; was it missing when a container mounted it?")]
    NoFile {
        /// The file.
        path: PathBuf,
    },
    /// It could not be read.
    #[error("cannot read static file {path:?}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        error: io::Error,
    },
    /// It is too large.
    #[error("static file {path:?} is larger than {FILE_BYTES_MAX} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is not UTF-8 text.
    #[error("static file {path:?} is not UTF-8 text from byte {offset} on")]
    NotText {
        /// The file.
        path: PathBuf,
        /// Bytes before the first that is wrong.
        offset: usize,
    },
    /// It is not JSON, or a value is not what belongs there.
    #[error("static file {path:?}, line {line}, column {column}: {problem}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line of the problem, from 1.
        line: usize,
        /// Column of the problem, from 1.
        column: usize,
        /// Place, value and what was expected.
        problem: String,
    },
}

/// Reads the text of a static file; every record is `now` created.
///
/// # Errors
/// The first problem of the text; a text with one says nothing at all.
pub fn parse(
    text: &str,
    config: &StaticConfig,
    now: Timestamp,
) -> Result<Vec<Instance>, StaticError> {
    let targets: Option<List<Target>> = serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let problem = error.to_string();
        let place = format!(" at line {line} column {column}");
        let problem = problem.strip_suffix(&place).unwrap_or(&problem);
        let problem = problem.chars().take(PROBLEM_CHARS_MAX).collect();
        StaticError::Invalid {
            path: config.path.clone(),
            line,
            column,
            problem,
        }
    })?;
    let mut ids = BTreeSet::new();
    let instance = |target: Target| {
        let mut service = target
            .service
            .record(&config.hostname, config.advertise_ip, now);
        service.id = unused_id(&service, &mut ids);
        let word = |it: String| Some(it).filter(|it| !it.is_empty());
        // It runs here, whatever host the record names.
        let port = Some(target.listen_port.0).filter(|port| *port != 0);
        let listener = port.map(|port| listeners::url(&config.advertise_ip.to_string(), port));
        let check = CheckSpec {
            kind: word(target.check.kind),
            args: word(target.check.args),
            interval: word(target.check.interval.0),
            timeout: word(target.check.timeout.0),
            rise: word(target.check.rise.0),
            fall: word(target.check.fall.0),
        };
        Instance {
            service,
            check,
            engine_health: None,
            listener,
        }
    };
    Ok(targets.map_or_else(Vec::new, |targets| {
        targets.0.into_iter().map(instance).collect()
    }))
}

/// The ID of a record: the same after every restart, and when other entries come and go. Entries
/// alike in everything that counts are told apart by their order.
fn unused_id(service: &Service, ids: &mut BTreeSet<String>) -> String {
    let mut copy = 0_u64;
    loop {
        let id = stable_id(service, copy);
        if ids.insert(id.clone()) {
            return id;
        }
        copy += 1;
    }
}

/// 12 hex digits: FNV-1a (64 bits, folded to 48) over host, name, image, ports and `copy`, each text
/// followed by a byte that no text holds. Part of what peers see: changing it renames every static
/// service of a cluster.
fn stable_id(service: &Service, copy: u64) -> String {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut hash = OFFSET_BASIS;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
        }
    };
    for text in [&service.hostname, &service.name, &service.image] {
        add(text.as_bytes());
        add(&[0xff]);
    }
    for port in service.port_list() {
        add(port.kind.as_bytes());
        add(&[0xff]);
        add(&port.port.to_be_bytes());
        add(&port.service_port.to_be_bytes());
        add(port.ip.as_bytes());
        add(&[0xff]);
    }
    add(&copy.to_be_bytes());
    format!("{:012x}", (hash >> 48) ^ (hash & 0xffff_ffff_ffff))
}

/// Reads the file once, as the agent does.
///
/// # Errors
/// When it cannot be read, or the first problem of its text.
pub async fn read(config: &StaticConfig) -> Result<Vec<Instance>, StaticError> {
    let bytes = bytes_of(&config.path).await?;
    parse_bytes(&bytes, config)
}

async fn bytes_of(path: &Path) -> Result<Vec<u8>, StaticError> {
    metadata_of(path).await?;
    let mut bytes = Vec::new();
    let file = File::open(path)
        .await
        .map_err(|error| failed(path, error))?;
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .await
        .map_err(|error| failed(path, error))?;
    Ok(bytes)
}

async fn metadata_of(path: &Path) -> Result<std::fs::Metadata, StaticError> {
    let metadata = tokio::fs::metadata(path).await;
    let metadata = metadata.map_err(|error| failed(path, error))?;
    if metadata.is_file() {
        return Ok(metadata);
    }
    Err(StaticError::NoFile {
        path: path.to_owned(),
    })
}

fn failed(path: &Path, error: io::Error) -> StaticError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => StaticError::Missing { path },
        _ => StaticError::Read { path, error },
    }
}

fn parse_bytes(bytes: &[u8], config: &StaticConfig) -> Result<Vec<Instance>, StaticError> {
    let path = &config.path;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(StaticError::TooLarge { path: path.clone() });
    }
    let text = str::from_utf8(bytes).map_err(|error| StaticError::NotText {
        path: path.clone(),
        offset: error.valid_up_to(),
    })?;
    parse(text, config, SystemTime::now().into())
}

/// Follows the file until `shutdown`, or until nobody listens to `events`. It is read again whenever
/// `reload` changes, whether or not it looks changed; how it is doing is told to `view`.
pub async fn run(
    config: StaticConfig,
    view: Arc<LocalView>,
    reload: watch::Receiver<u64>,
    events: SourceSender,
    shutdown: CancellationToken,
) {
    let mut watcher = Watcher {
        config,
        view,
        events,
        stamp: None,
        held: BTreeMap::new(),
        complaint: None,
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = watcher.watch(reload) => {}
    }
}

struct Watcher {
    config: StaticConfig,
    view: Arc<LocalView>,
    events: SourceSender,
    /// What the file looked like before it was last read to its end.
    stamp: Option<FileStamp>,
    /// What it last said, by ID.
    held: BTreeMap<String, Instance>,
    /// The error told last, while it lasts.
    complaint: Option<String>,
}

impl Watcher {
    async fn watch(&mut self, mut reload: watch::Receiver<u64>) {
        self.tell("listing", None);
        let mut ticks = interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut may_be_asked = true;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                asked = reload.changed(), if may_be_asked => {
                    may_be_asked = asked.is_ok();
                    // Told again even if it is the same: whoever asks wants to see an answer.
                    (self.stamp, self.complaint) = (None, None);
                }
            }
            let instances = match self.look().await {
                Ok(None) => continue,
                Ok(Some(instances)) => instances,
                Err(error) => {
                    self.complain(&error);
                    continue;
                }
            };
            if self.announce(instances).await.is_err() {
                return;
            }
        }
    }

    /// What the file says, if it may have changed.
    async fn look(&mut self) -> Result<Option<Vec<Instance>>, StaticError> {
        let path = &self.config.path;
        let previous = self.stamp.take();
        let stamp = FileStamp::from(&metadata_of(path).await?);
        if previous == Some(stamp) {
            self.stamp = previous;
            return Ok(None);
        }
        let bytes = bytes_of(path).await?;
        // Taken before the reading: a change during it is seen at the next look.
        self.stamp = Some(stamp);
        parse_bytes(&bytes, &self.config).map(Some)
    }

    /// Sends what the file says now. An error means that nobody listens.
    async fn announce(&mut self, instances: Vec<Instance>) -> Result<(), ()> {
        let mut now = BTreeMap::new();
        for mut instance in instances {
            if let Some(known) = self.held.get(&instance.service.id) {
                instance.service.created = known.service.created;
            }
            now.insert(instance.service.id.clone(), instance);
        }
        self.send(SourceEvent::Init).await?;
        for instance in now.values() {
            self.send(SourceEvent::InitApply(instance.clone())).await?;
        }
        self.send(SourceEvent::InitDone).await?;
        let added = now.keys().filter(|id| !self.held.contains_key(*id)).count();
        let removed = self.held.keys().filter(|id| !now.contains_key(*id)).count();
        let changed = now
            .iter()
            .filter(|(id, it)| self.held.get(*id).is_some_and(|held| held != *it));
        tracing::info!(
            path = %self.config.path.display(),
            services = now.len(),
            added,
            removed,
            changed = changed.count(),
            "static file read",
        );
        let mut remarks = Vec::new();
        for instance in now.values() {
            let is_news = self.held.get(&instance.service.id) != Some(instance);
            for remark in remarks_on(&instance.service) {
                if is_news {
                    tracing::warn!(service = instance.service.name, "{remark}");
                }
                remarks.push(remark);
            }
        }
        self.view
            .remark(SourceName::Static, &self.subject(), remarks);
        self.held = now;
        self.complaint = None;
        self.tell("following", None);
        Ok(())
    }

    async fn send(&self, event: SourceEvent) -> Result<(), ()> {
        self.events
            .send((SourceName::Static, event))
            .await
            .map_err(|_| ())
    }

    /// Tells of an error unless it is the one told last.
    fn complain(&mut self, error: &StaticError) {
        let complaint = error.to_string();
        if self.complaint.as_ref() == Some(&complaint) {
            return;
        }
        let held = self.held.len();
        if let StaticError::Missing { .. } = error {
            tracing::warn!(
                "{complaint}; watching for it, its {held} known services stay as they are"
            );
        } else {
            tracing::error!("{complaint}; its {held} known services stay as they are");
        }
        let state = match error {
            StaticError::Missing { .. } | StaticError::NoFile { .. } | StaticError::Read { .. } => {
                "unreachable"
            }
            StaticError::TooLarge { .. }
            | StaticError::NotText { .. }
            | StaticError::Invalid { .. } => "invalid",
        };
        self.tell(state, Some(complaint.clone()));
        self.complaint = Some(complaint);
    }

    fn tell(&self, state: &'static str, trouble: Option<String>) {
        let view = SourceView {
            state,
            since: Timestamp::from(SystemTime::now()).to_string(),
            trouble,
            instances: self.held.len(),
            held_until: None,
        };
        self.view.source(SourceName::Static, view);
    }

    fn subject(&self) -> String {
        self.config.path.display().to_string()
    }
}

/// What the owner of a service should know about it: Go Sidecar takes any text for a mode or an
/// address, so do we, but proxies can do nothing with it.
pub fn remarks_on(service: &Service) -> Vec<String> {
    let Service {
        name, proxy_mode, ..
    } = service;
    let mut remarks = Vec::new();
    if service.mode().is_none() {
        remarks.push(format!(
            "static service {name:?}: ProxyMode {proxy_mode:?} is not one of http, tcp, ws; proxies \
             leave it out"
        ));
    }
    let ports = service.port_list().iter();
    for port in ports.filter(|port| Service::address_of(port).is_none()) {
        remarks.push(format!(
            "static service {name:?}: IP {:?} of port {} is not an address; proxies leave it out",
            port.ip, port.port,
        ));
    }
    remarks
}
