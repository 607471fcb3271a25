//! Runtime mode: a fixed configuration, and changes over the admin socket.

#[allow(dead_code)]
mod plan;
#[allow(dead_code)]
mod socket;
#[allow(dead_code)]
mod state;

use std::{net::IpAddr, sync::Arc};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{HaproxyStatus, Inputs};
use crate::config::HaproxyConfig;

/// Not there yet: says so and leaves HAProxy alone.
pub async fn run(
    _config: HaproxyConfig,
    _bind: IpAddr,
    _inputs: Inputs,
    _status: watch::Sender<Arc<HaproxyStatus>>,
    shutdown: CancellationToken,
) {
    tracing::warn!("HAProxy's runtime mode is not there yet: HAProxy is left alone");
    shutdown.cancelled().await;
}
