//! The built-in data plane in a process of its own, the worker, which outlives the agent: an agent that
//! is killed, restarted or replaced by a newer one breaks no connection and refuses none.
//!
//! The agent starts a worker with its own program ([`driver`]) and tells it the routes over a Unix
//! socket; the worker ([`serve`]) tells what it counts. When the agent is gone the worker goes on with
//! the last routes, and the next agent finds it by the name of its socket: an abstract one, which belongs
//! to the network namespace, as listeners do. One agent drives a worker at a time, the newest.
//!
//! A worker made of another program or with other settings is not driven but succeeded: the new worker gets
//! its listening sockets, so that no moment passes in which nobody listens, and the old one ends with its
//! last connection ([`handover`]).
//!
//! Only Linux has abstract sockets; elsewhere the data plane runs in the agent.

mod driver;
mod handover;
mod logs;
mod messages;
mod serve;
mod socket;

use std::{net::IpAddr, num::NonZeroUsize, os::unix::fs::MetadataExt as _};

use serde::{Deserialize, Serialize};

pub use self::{
    driver::{Inputs, drive, retire},
    serve::run,
};
use crate::{config::LogFormat, proxy::builtin::Options};

/// The program of this process, also when its file has been replaced meanwhile.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// What a worker is told at its start and cannot change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The address of all listeners.
    pub bind: IpAddr,
    /// Port of the agent's gossip, which tells agents in one network namespace apart.
    pub gossip_port: u16,
    /// A `tracing` level.
    pub log_level: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Threads that carry bytes; as many as there are processors when it is not given.
    #[serde(default)]
    pub threads: Option<NonZeroUsize>,
    /// What the data plane is told.
    #[serde(default)]
    pub options: Options,
}

impl Settings {
    fn level(&self) -> tracing::Level {
        self.log_level.parse().unwrap_or(tracing::Level::INFO)
    }
}

/// What program a process runs: the same file has the same length and time of change.
fn build() -> String {
    let version = env!("CARGO_PKG_VERSION");
    match std::fs::metadata(OWN_PROGRAM) {
        Ok(it) => format!("{version}/{}/{}.{}", it.len(), it.mtime(), it.mtime_nsec()),
        // Without /proc all programs of one version count as the same.
        Err(_) => version.to_owned(),
    }
}
