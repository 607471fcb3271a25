//! What an agent's API can be asked: `cargo bench -p blackbox --bench api_reads`.
//!
//! One agent, one client program (`wrk`, one thread, 64 connections) on the same machine. What is printed:
//!
//! - requests per second, latency (p50 and p99) and bytes per second of four documents with 30, 1,000 and
//!   10,000 instances; also compressed, and where the reader has the document already;
//! - the same while 1,000 listen to the events and 100 changes a second happen, and how long a change takes
//!   from the command to a listener;
//! - memory for each idle listener.
//!
//! `API_READS_PARTS=sizes,changes,memory` and `API_READS_SECONDS=4` for one measurement are what is done unless the
//! environment says otherwise.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[cfg(target_os = "linux")]
#[path = "api_reads/figures.rs"]
mod figures;
#[cfg(target_os = "linux")]
#[path = "api_reads/listeners.rs"]
mod listeners;
#[cfg(target_os = "linux")]
#[path = "proxies/usage.rs"]
#[allow(
    dead_code,
    reason = "shared with another bench, which needs more of it"
)]
mod usage;
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
