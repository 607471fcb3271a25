//! What runs on this host. Every source speaks the same vocabulary; none knows of another.

pub mod docker;
pub mod static_file;
mod supervise;

pub use supervise::{present, run};

use catalog::Service;

/// Where an instance was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceName {
    /// The Docker engine's API.
    Docker,
    /// The static file.
    Static,
}

impl SourceName {
    /// The word for it in variables and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Static => "static",
        }
    }
}

/// An instance as its source describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Identity, ports and mode. Status is [`catalog::Status::Unknown`] and `updated` is
    /// [`catalog::Timestamp::EPOCH`]: health and the catalog's writer fill them.
    pub service: Service,
    /// How to tell whether it works, as its owner wrote it.
    pub check: CheckSpec,
    /// What the engine's own check of it says; `None` where there is none.
    pub engine_health: Option<EngineHealth>,
    /// URL at which it wants to hear of every change in the cluster.
    pub listener: Option<String>,
}

/// The result of the check that an image brings along and the engine runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EngineHealth {
    /// Whether it works; `None` while it starts and nothing is known yet.
    pub healthy: Option<bool>,
    /// The beginning of what the check said last; empty when that is unknown.
    pub output: String,
}

/// A health check as written in labels or in the static file, not interpreted yet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckSpec {
    /// `HttpGet`, `External`, `AlwaysSuccessful` and others; `None` means the default check.
    pub kind: Option<String>,
    /// Template of the check's argument.
    pub args: Option<String>,
    /// From one check to the next, a duration such as `3s`; `None` means the agent's.
    pub interval: Option<String>,
    /// The time a check has, a duration; `None` means the agent's.
    pub timeout: Option<String>,
    /// Successes in a row after which it counts as alive; `None` means the agent's.
    pub rise: Option<String>,
    /// Failures in a row after which it counts as unhealthy; `None` means the agent's.
    pub fall: Option<String>,
}

/// One step in a source's account of the world.
///
/// `Init`, any number of `InitApply`, `InitDone` is a complete listing: what it does not name is
/// gone once it is done, and not before. `Apply` and `Delete` are changes in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceEvent {
    /// A complete listing begins.
    Init,
    /// One instance of the listing.
    InitApply(Instance),
    /// The listing is complete.
    InitDone,
    /// An instance appeared or changed.
    Apply(Instance),
    /// An instance is gone.
    Delete {
        /// Its [`Service::id`].
        id: String,
    },
}

/// Where sources send their account; bounded, sources wait when health is behind.
pub type SourceSender = tokio::sync::mpsc::Sender<(SourceName, SourceEvent)>;

/// What the sources need to know of this host.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the Docker engine answers.
    pub docker: docker::Endpoint,
    /// How containers' services get their names.
    pub docker_naming: docker::Naming,
    /// How long containers stay while the engine cannot be seen; `None` is without end.
    pub docker_hold: Option<std::time::Duration>,
    /// The static file.
    pub static_file: std::path::PathBuf,
    /// Name of this host in records.
    pub hostname: String,
    /// Address of this host in records.
    pub advertise_ip: std::net::IpAddr,
    /// Where the sources tell how they are doing.
    pub view: std::sync::Arc<crate::local_view::LocalView>,
    /// Changes when somebody wants files to be read again at once.
    pub reload: tokio::sync::watch::Receiver<u64>,
}
