//! The sidecar agent: everything that touches the world around the pure crates.
//!
//! Read `agent` first: it assembles the process in order. The data flow is left to right, once:
//! discovery -> health -> registry (one writer, snapshots) -> routes -> proxy, with cluster gossip
//! beside the registry and the HTTP API reading the same snapshots.

pub mod agent;
pub mod api_tokens;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod companion;
pub mod config;
pub mod demo;
pub mod discovery;
mod file_stamp;
pub mod gossip_keys;
pub mod health;
pub mod http;
pub mod keygen;
pub mod listeners;
pub mod local_view;
pub mod logging;
pub mod metrics;
pub mod net;
pub mod opening;
pub mod proxy;
pub mod routes;
pub mod sample_service;
mod secret_file;
pub mod signals;
pub mod simulate;
pub mod static_check;
mod template_record;
pub mod throttle;
mod usage;
