//! The result of a simulation as plain data: how fast changes spread and what that costs.
//!
//! Not the measuring, which is the simulation's, except for the spread of changes: `SpreadRecorder`
//! boils tens of millions of arrivals down. The JSON form is part of the command's interface: fields
//! come in the order written here, times are numbers with their unit in the field's name, and what
//! did not happen is null.

mod spread;
#[cfg(test)]
pub(super) mod tests;

use std::time::Duration;

use serde::Serialize;

pub use spread::{CHANGES_MAX, SpreadError, SpreadRecorder};

/// All there is to tell about one run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// What was simulated.
    pub settings: Settings,
    /// What was waited for, in order.
    pub phases: Vec<Phase>,
    /// How changes spread; `None` when the scenario makes none.
    pub spread: Option<Spread>,
    /// Traffic over the run, in order of time.
    pub traffic: Vec<TrafficSample>,
    /// Sums over the whole run.
    pub totals: Totals,
}

impl Report {
    /// The report as indented JSON, ending in a newline. The same report gives the same bytes.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self)
            .expect("invariant: plain structs with text keys always serialize");
        text.push('\n');
        text
    }
}

/// What was simulated: together with the program's version, these reproduce the run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Settings {
    /// Hosts, each with an agent.
    pub hosts: usize,
    /// Services of each host.
    pub services_per_host: usize,
    /// The network's name and faults, for people.
    pub network: String,
    /// The scenario's name.
    pub scenario: String,
    /// Seed of everything random.
    pub seed: u64,
    /// Virtual time of the whole run, in seconds.
    pub virtual_s: f64,
}

/// Something that was waited for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Phase {
    /// What, as a person would say it.
    pub name: String,
    /// Virtual seconds until it happened; `None` when it did not within `limit_s`.
    pub outcome_s: Option<f64>,
    /// Virtual seconds it was waited for at most.
    pub limit_s: f64,
}

/// How changes spread to the hosts that had to hear of them. A pair is one change and one such host.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spread {
    /// Changes made.
    pub changes: usize,
    /// Hosts each change had to reach: all but the one where it was made.
    pub hosts_to_reach: usize,
    /// Pairs that heard within the run.
    pub heard: u64,
    /// Pairs that did not.
    pub missing: u64,
    /// From a change to a host's hearing of it, in milliseconds, over the pairs that heard; `None`
    /// when there are none. Except for the largest at most 0.1 ms (below 100 ms) or 1 % too large.
    pub quantiles_ms: Option<Quantiles>,
    /// Changes that reached every host.
    pub changes_everywhere: usize,
    /// From a change to the last host's hearing of it, in milliseconds, over the changes that reached
    /// every host; exact. `None` when there are none.
    pub everywhere_ms: Option<Quantiles>,
    /// The change that took longest to reach half of the hosts, among equals the one whose last host
    /// heard latest; `None` when no change was made.
    pub slowest_change: Option<SlowestChange>,
    /// The share of hosts that know by the time since the change, mean over changes. Starts at a share
    /// of 0, rises, and has a point where 50 %, 99 % and 99.9 % are first reached.
    pub curve: Vec<CurvePoint>,
}

/// Quantiles by nearest rank, all in the unit that the field holding them names.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quantiles {
    /// Half of the values are at most this.
    pub p50: f64,
    /// 90 % are at most this.
    pub p90: f64,
    /// 99 % are at most this.
    pub p99: f64,
    /// 99.9 % are at most this.
    pub p99_9: f64,
    /// The largest, exactly.
    pub max: f64,
}

/// One change, told apart because it was slow.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SlowestChange {
    /// Its number, as the recorder was told.
    pub change: u64,
    /// Milliseconds until half of the hosts knew; `None` when fewer ever did.
    pub p50_ms: Option<f64>,
    /// Milliseconds until the last host that heard did; `None` when nobody heard.
    pub last_ms: Option<f64>,
    /// Hosts that never heard.
    pub missing: u64,
}

/// A point of a rising curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CurvePoint {
    /// Milliseconds since the change.
    pub ms: f64,
    /// Share of hosts that know by then, 0 to 1.
    pub share: f64,
}

/// What hosts sent in the window of time that ends at `at_s`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TrafficSample {
    /// End of the window, in virtual seconds since the start of the run.
    pub at_s: f64,
    /// Bytes sent by a host per second of the window.
    pub bytes_per_host_per_s: Load,
}

/// A load, over hosts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Load {
    /// Mean over hosts.
    pub mean: f64,
    /// 99 % of hosts have at most this.
    pub p99: f64,
    /// The host with the most.
    pub max: f64,
}

impl TrafficSample {
    /// The sample of a window of length `window` that ends at `at`, from the bytes each host sent in
    /// it; `None` for no hosts or no time. Reorders `bytes_by_host`.
    pub fn of_window(at: Duration, window: Duration, bytes_by_host: &mut [u64]) -> Option<Self> {
        if window.is_zero() || bytes_by_host.is_empty() {
            return None;
        }
        let hosts = bytes_by_host.len();
        let rank = (hosts * 99).div_ceil(100);
        let (_, p99, above) = bytes_by_host.select_nth_unstable(rank - 1);
        let p99 = *p99;
        let max = above.iter().copied().max().unwrap_or(p99);
        let sum: u128 = bytes_by_host.iter().copied().map(u128::from).sum();
        let per_s = |bytes: f64| bytes / window.as_secs_f64();
        Some(Self {
            at_s: at.as_secs_f64(),
            bytes_per_host_per_s: Load {
                mean: per_s(sum as f64 / hosts as f64),
                p99: per_s(p99 as f64),
                max: per_s(max as f64),
            },
        })
    }
}

/// Sums over the whole run and all hosts. What a host sends is counted, whether or not it arrives.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Totals {
    /// Datagrams sent.
    pub datagrams: u64,
    /// Bytes sent, by datagram and by stream.
    pub bytes: u64,
    /// Streams opened.
    pub streams: u64,
    /// Bytes sent by stream; part of `bytes`.
    pub bytes_by_stream: u64,
    /// `bytes` per host and virtual second.
    pub mean_bytes_per_host_per_s: f64,
    /// Processor time the simulation took, in seconds.
    pub cpu_s: f64,
    /// Time the simulation took by the clock on the wall, in seconds.
    pub wall_s: f64,
    /// The most memory the process held, in MiB; `None` where the system does not tell.
    pub peak_memory_mib: Option<f64>,
    /// Times a host that ran was held for dead by another.
    pub false_deaths: u64,
    /// Pairs of a running service and a host that did not know it at the end.
    pub lost_services: u64,
    /// Pairs of a service that is gone and a host that still held it for alive at the end.
    pub zombies: u64,
}
