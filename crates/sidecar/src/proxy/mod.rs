//! Data planes: routes to traffic.

pub mod builtin;
pub mod envoy;
pub mod haproxy;
pub mod kernel;
#[cfg(target_os = "linux")]
pub mod worker;

use std::net::{IpAddr, SocketAddr};

/// Whether `endpoint` is the listener itself: connecting to it would accept, connect, accept, …
/// until nothing is left.
fn is_listener(listener: SocketAddr, endpoint: SocketAddr) -> bool {
    let same_host =
        |ip: IpAddr| ip == listener.ip() || (listener.ip().is_unspecified() && ip.is_loopback());
    endpoint.port() == listener.port() && same_host(endpoint.ip())
}
