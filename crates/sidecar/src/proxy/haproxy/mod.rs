//! The HAProxy data plane: a HAProxy of this host serves every ServicePort, and this drives it.
//!
//! It has two modes that share nothing but their input and what they tell of themselves:
//! - `classic`: a configuration file made from a template (Go's language, the original's functions),
//!   verified, put in place and made to run by a reload;
//! - `runtime`: a fixed configuration, and changes over the admin socket.
//!
//! HAProxy is a process of its own and outlives the agent: nothing is touched before the first routes
//! are decided, and nothing is taken away when the agent ends; only where it leaves the cluster does a
//! HAProxy of runtime mode finish its connections and end too.

mod classic;
mod command;
mod config_file;
mod instances;
pub(crate) mod process;
pub mod runtime;
mod status;
mod template;

use std::{net::IpAddr, sync::Arc};

use catalog::Snapshot;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::status::{HaproxyStatus, State};
use crate::{
    config::{HaproxyConfig, HaproxyMode},
    routes::Routes,
};

/// What HAProxy is to serve.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The catalog's newest snapshot, for templates that show more than routes.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// The newest routes. The first change says that routing begins; what was there before says
    /// nothing.
    pub routes: watch::Receiver<Arc<Routes>>,
    /// Ports of this host that are no services': the agent's own.
    pub reserved_ports: Vec<u16>,
    /// Cancelled before the shutdown when the agent leaves the cluster, and not to come back soon.
    pub leaving: CancellationToken,
}

/// Keeps HAProxy serving the newest routes on `bind` until `shutdown`; HAProxy runs on after that.
pub async fn run(
    config: HaproxyConfig,
    bind: IpAddr,
    inputs: Inputs,
    status: watch::Sender<Arc<HaproxyStatus>>,
    shutdown: CancellationToken,
) {
    match config.mode {
        HaproxyMode::Classic => classic::run(config, bind, inputs, status, shutdown).await,
        HaproxyMode::Runtime => runtime::run(config, bind, inputs, status, shutdown).await,
    }
}
