//! The sidecar agent: everything that touches the world around the pure crates.
//!
//! Read `agent` first: it assembles the process in order. The data flow is left to right, once:
//! discovery -> health -> catalog (one writer, snapshots) -> routes -> proxy, with cluster gossip
//! beside the catalog and the HTTP API reading the same snapshots.

pub mod cluster;
pub mod config;
pub mod discovery;
pub mod health;
pub mod http;
pub mod logging;
pub mod net;
pub mod proxy;
pub mod routes;
