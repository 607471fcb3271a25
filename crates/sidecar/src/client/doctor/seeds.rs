//! The hosts this one is to join: whether their names have addresses, whether anybody answers there, and whether
//! their clocks agree with this one.

use std::time::Duration;

use jiff::Timestamp;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{
    client::{
        address::Place,
        api::Agent,
        documents::Overview,
        finding::{Finding, Mark},
    },
    config::{Config, Seed},
    net::{
        dial::{Address, Deadline, DialError, Dialer},
        resolver::Resolver,
    },
};

/// Most seeds that are asked.
const SEEDS_MAX: usize = 16;
/// Time for a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// Time for a seed's clock.
const CLOCK_WITHIN: Duration = Duration::from_secs(3);
/// Clocks of a cluster may differ by so much before anything is corrected.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(300);
/// From here on times that people compare are confusing.
const CLOCK_NOTABLE: Duration = Duration::from_secs(2);

/// One seed.
struct Looked {
    finding: Finding,
    /// How far its clock is ahead of ours, in seconds.
    ahead: Option<f64>,
}

pub(super) async fn look(config: &Config, running: bool) -> Vec<Finding> {
    if config.seeds.is_empty() {
        let what = "no seeds: this host is found by others, or stays alone (SIDECAR_SEEDS)";
        return vec![Finding::ok("seeds", what)];
    }
    let mut tasks = JoinSet::new();
    for (index, seed) in config.seeds.iter().take(SEEDS_MAX).cloned().enumerate() {
        let api_port = config.http_bind.port();
        tasks.spawn(async move { (index, look_at(seed, api_port, running).await) });
    }
    let mut looked = tasks.join_all().await;
    looked.sort_by_key(|(index, _)| *index);
    let looked: Vec<Looked> = looked.into_iter().map(|(_, it)| it).collect();
    let one_answers = looked.iter().any(|it| it.finding.state == Mark::Ok);
    let clock = clock(&looked);
    let mut findings: Vec<Finding> = looked
        .into_iter()
        .map(|it| match it.finding.state {
            // One seed is enough to join.
            Mark::Failed if one_answers => Finding {
                state: Mark::Warning,
                ..it.finding
            },
            _ => it.finding,
        })
        .collect();
    findings.extend(clock.filter(|_| !running));
    findings
}

async fn look_at(seed: Seed, api_port: u16, running: bool) -> Looked {
    let address = Address {
        host: seed.host.clone(),
        port: seed.port,
    };
    let dialer = Dialer::new(Resolver::default());
    let deadline = Deadline::after(CONNECT_WITHIN);
    let finding = match dialer.connect(&address, deadline).await {
        Ok(_) => Finding::ok("seeds", format!("{seed} answers on its gossip port")),
        Err(DialError::Resolve(error)) => {
            Finding::failed("seeds", format!("{seed} has no address"))
                .because(error.to_string())
                .fix(format!(
                    "getent hosts {}; is SIDECAR_SEEDS right?",
                    seed.host
                ))
        }
        Err(error) => Finding::failed("seeds", format!("{seed} does not answer"))
            .because(error.to_string())
            .fix(format!(
                "does an agent run there, and does a firewall let TCP and UDP pass? nc -vz {} {}",
                seed.host, seed.port
            )),
    };
    let ahead = match finding.state {
        // The agent knows better.
        Mark::Ok if !running => timeout(CLOCK_WITHIN, ahead(&seed.host, api_port))
            .await
            .ok(),
        _ => None,
    };
    Looked {
        finding,
        ahead: ahead.flatten(),
    }
}

/// How far the clock of another agent's host is ahead of ours, by its API.
async fn ahead(host: &str, api_port: u16) -> Option<f64> {
    let address = Address {
        host: host.to_owned(),
        port: api_port,
    };
    let agent = Agent::at(Place::at(address)).ok()?;
    let asked = Instant::now();
    let before = Timestamp::now();
    let overview: Overview = agent.get("/api/v2/overview").await.ok()?.read().ok()?;
    let half = asked.elapsed().as_secs_f64() / 2.0;
    let theirs: Timestamp = overview.now.parse().ok()?;
    Some(theirs.duration_since(before).as_secs_f64() - half)
}

/// What the seeds' clocks say of ours: the lower median, as in the cluster.
fn clock(looked: &[Looked]) -> Option<Finding> {
    let mut ahead: Vec<f64> = looked.iter().filter_map(|it| it.ahead).collect();
    ahead.sort_by(f64::total_cmp);
    let median = *ahead.get(ahead.len().checked_sub(1)? / 2)?;
    let (way, off) = if median < 0.0 {
        ("ahead of", -median)
    } else {
        ("behind", median)
    };
    let what = format!("this host's clock is {off:.1} s {way} the seeds' clocks");
    let fix = "timedatectl set-ntp true, or chronyc makestep";
    Some(if off >= CLOCK_TOLERANCE.as_secs_f64() {
        Finding::failed("clock", what)
            .because("it is not synchronized, or theirs are not")
            .fix(fix)
    } else if off >= CLOCK_NOTABLE.as_secs_f64() {
        Finding::warning("clock", what).fix(fix)
    } else {
        Finding::ok("clock", what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_clocks_are_judged_by_their_lower_median() {
        let state = |ahead: &[f64]| {
            let looked: Vec<Looked> = ahead
                .iter()
                .map(|ahead| Looked {
                    finding: Finding::ok("seeds", ""),
                    ahead: Some(*ahead),
                })
                .collect();
            clock(&looked).map(|it| (it.state, it.what))
        };
        assert_eq!(state(&[]), None);
        assert_eq!(state(&[0.1, 5000.0]).unwrap().0, Mark::Ok);
        let (mark, what) = state(&[-400.0, 0.0, -301.0]).unwrap();
        assert_eq!(mark, Mark::Failed);
        assert_eq!(
            what,
            "this host's clock is 301.0 s ahead of the seeds' clocks"
        );
        assert_eq!(state(&[3.0]).unwrap().0, Mark::Warning);
    }
}
