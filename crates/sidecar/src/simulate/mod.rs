//! `sidecar simulate`: the shipped protocol and catalog code on many hosts in virtual time, and how
//! fast changes spread there and what that costs.
//!
//! | module | what it is |
//! | --- | --- |
//! | `options` | what is to be simulated |
//! | `host`, `cluster` | hosts with services on a virtual network |
//! | `scenario` | what happens to them |
//! | `watch`, `audit` | who knows what, and whether it is true |
//! | `report` | what came of it, as data |
//! | `table`, `plot`, `progress` | the same for people |
//! | `usage` | what the simulation itself takes |

mod audit;
mod cluster;
mod host;
pub mod options;
pub mod report;
mod scenario;
pub mod table;
mod units;
mod usage;
mod watch;

use std::{
    io::{IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use memberlist::sim::HostId;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use self::{
    cluster::Cluster,
    options::{Options, word},
    report::{Report, Settings, Totals},
    scenario::{Progress, Story},
};

/// Runs it and prints what came of it.
///
/// # Errors
/// The picture or the report cannot be written, or the simulation miscounts.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let report = simulate(options, Bar)?;
    let mut out = std::io::stdout().lock();
    let text = if options.json {
        report.json()
    } else {
        table::text(&report, out.is_terminal())
    };
    out.write_all(text.as_bytes())
        .context("the report cannot be printed")?;
    Ok(())
}

struct Bar;
impl Progress for Bar {
    fn at(&mut self, _act: &str, _elapsed: Duration, _end: Duration) {}
}

/// Runs it.
fn simulate(options: &Options, progress: impl Progress) -> anyhow::Result<Report> {
    let begin = (Instant::now(), usage::processor_time());
    let hosts = options.hosts as usize;
    let services = options.services as usize;
    let faults = options.network.faults();
    let ahead = skews(options);
    let cluster = Cluster::formed(hosts, services, options.seed, faults, ahead)?;
    let (cluster, phases, traffic) = Story::new(cluster, options, progress).tell()?;
    let virtual_s = cluster.elapsed().as_secs_f64();
    let (audit, sent, tally) = (cluster.audit(), cluster.traffic(), cluster.tally());
    let spread = cluster.watch().spread()?;
    Ok(Report {
        settings: Settings {
            hosts,
            services_per_host: services,
            network: word(&options.network),
            scenario: word(&options.scenario),
            seed: options.seed,
            virtual_s,
        },
        phases,
        spread,
        traffic,
        totals: Totals {
            datagrams: sent.datagrams,
            bytes: sent.bytes(),
            streams: sent.streams,
            bytes_by_stream: sent.stream_bytes,
            mean_bytes_per_host_per_s: sent.bytes() as f64 / hosts as f64 / virtual_s,
            cpu_s: usage::processor_time()
                .saturating_sub(begin.1)
                .as_secs_f64(),
            wall_s: begin.0.elapsed().as_secs_f64(),
            peak_memory_mib: usage::peak_memory_mib(),
            false_deaths: tally.false_deaths,
            lost_services: audit.lost as u64,
            zombies: audit.zombies as u64,
        },
    })
}

/// By how many nanoseconds the clock of each host is ahead.
fn skews(options: &Options) -> impl Fn(HostId) -> i128 + use<> {
    let most = i128::from(options.clock_skew) * 1_000_000_000;
    let seed = options.seed;
    move |host| {
        let mut rng = Pcg64Mcg::seed_from_u64(seed ^ (host as u64) << 20);
        rng.random_range(-most..=most)
    }
}

#[cfg(test)]
mod tests;
