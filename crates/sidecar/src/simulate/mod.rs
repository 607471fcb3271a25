//! `sidecar simulate`: the shipped protocol and catalog code with many hosts in virtual time.
//!
//! | module | what it is |
//! | --- | --- |
//! | `options` | what is to be simulated |
//! | `host`, `cluster` | hosts with services on a virtual network |
//! | `scenario` | what happens to them |
//! | `watch`, `audit` | who knows what, and whether it is true |
//! | `report` | what came of it |

mod audit;
mod cluster;
mod host;
pub mod options;
mod report;
mod scenario;
mod watch;

use std::time::{Duration, Instant};

use memberlist::sim::HostId;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use self::{
    cluster::Cluster,
    options::Options,
    scenario::{Progress, Story},
};

struct Quiet(Instant, u64);
impl Progress for Quiet {
    fn at(&mut self, act: &str, elapsed: Duration, _end: Duration) {
        let s = elapsed.as_secs() / 5;
        if s != self.1 {
            self.1 = s;
            eprintln!(
                "{act} {:.1} virtual, {:.1} wall",
                elapsed.as_secs_f64(),
                self.0.elapsed().as_secs_f64()
            );
        }
    }
}

/// Runs it.
///
/// # Errors
/// x
pub fn run(options: &Options) -> anyhow::Result<()> {
    let skew = i128::from(options.clock_skew) * 1_000_000_000;
    let seed = options.seed;
    let ahead = move |host: HostId| {
        let mut rng = Pcg64Mcg::seed_from_u64(seed ^ (host as u64) << 20);
        if skew == 0 {
            0
        } else {
            rng.random_range(-skew..=skew)
        }
    };
    let b = Instant::now();
    let cluster = Cluster::formed(
        options.hosts as usize,
        options.services as usize,
        seed,
        options.network.faults(),
        ahead,
    )?;
    eprintln!("formed in {:.1?}", b.elapsed());
    let (cluster, phases, traffic) =
        Story::new(cluster, options, Quiet(Instant::now(), 99)).tell()?;
    for p in phases {
        println!("{}: {:?} of {}", p.name, p.outcome_s, p.limit_s);
    }
    for t in traffic.iter().rev().take(12).rev() {
        println!(
            "{:.1}: mean {:.0} p99 {:.0} max {:.0}",
            t.at_s,
            t.mean_bytes_per_host_per_s,
            t.p99_bytes_per_host_per_s,
            t.max_bytes_per_host_per_s
        );
    }
    println!("{}", cluster.summary());
    println!("{:?}", cluster.audit());
    println!("{:?}", cluster.tally());
    Ok(())
}

#[cfg(test)]
mod tests;
