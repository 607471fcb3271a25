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

mod audit;
mod cluster;
mod host;
pub mod options;
pub mod plot;
pub mod progress;
pub mod report;
mod scenario;
pub mod table;
mod units;
mod watch;

use std::{
    io::{IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use memberlist::sim::HostId;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::usage;

use self::{
    cluster::{Cluster, Formation},
    options::{Options, word},
    progress::{Mode, Progress},
    report::{Report, Settings, Totals},
    scenario::Story,
};

/// Columns of a terminal, as most have at least.
const TERMINAL_COLUMNS: usize = 80;

/// Runs it, prints what came of it, and draws it when that is wanted.
///
/// # Errors
/// The picture or the report cannot be written, or the simulation miscounts.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let mut err = std::io::stderr();
    let mode = if err.is_terminal() {
        Mode::Terminal(TERMINAL_COLUMNS)
    } else {
        Mode::Plain
    };
    let total = options.expected_time();
    let mut teller = Teller(Progress::new(&mut err, mode, total), String::new());
    let report = simulate(options, &mut teller)?;
    teller.0.finish();
    if let Some(path) = &options.plot {
        std::fs::write(path, plot::svg(&report))
            .with_context(|| format!("the picture cannot be written to {}", path.display()))?;
    }
    let mut out = std::io::stdout().lock();
    let text = if options.json {
        report.json()
    } else {
        table::text(&report, out.is_terminal())
    };
    out.write_all(text.as_bytes())
        .context("the report cannot be printed")
}

/// Tells the progress what the story tells.
struct Teller<'a>(Progress<'a>, String);

impl scenario::Listener for Teller<'_> {
    fn at(&mut self, act: &str, elapsed: Duration) {
        if self.1 != act {
            act.clone_into(&mut self.1);
            self.0.phase(act);
        }
        self.0.advance(elapsed);
    }
}

/// Runs it.
fn simulate(options: &Options, listener: &mut impl scenario::Listener) -> anyhow::Result<Report> {
    let begin = (Instant::now(), usage::processor_time());
    let hosts = options.hosts as usize;
    let services = options.services as usize;
    let formation = Formation {
        hosts,
        apart: options.hosts_apart(),
        services,
        seed: options.seed,
        faults: options.network.faults(),
    };
    let cluster = Cluster::formed(&formation, skews(options))?;
    let (cluster, phases, traffic) = Story::new(cluster, options, listener).tell()?;
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
