//! Classic mode: a configuration file made from a template, and a reload for every change of it.

use std::{net::IpAddr, sync::Arc};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{HaproxyStatus, Inputs};
use crate::config::HaproxyConfig;

/// Not there yet: says so and leaves HAProxy alone.
pub(super) async fn run(
    _config: HaproxyConfig,
    _bind: IpAddr,
    _inputs: Inputs,
    _status: watch::Sender<Arc<HaproxyStatus>>,
    shutdown: CancellationToken,
) {
    tracing::warn!("HAProxy's classic mode is not there yet: HAProxy is left alone");
    shutdown.cancelled().await;
}
