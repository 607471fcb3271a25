//! Finding the others: joins the seeds at start, and again whenever one of them is missing from the
//! cluster, so that an agent started before its seeds or cut off for long finds its way back.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use rand::RngExt;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{config::Seed, net::resolver::Resolver};

/// First pause after an attempt that left seeds missing.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest pause while this host is alone.
const PAUSE_ALONE_MAX: Duration = Duration::from_secs(10);
/// Longest pause while other members are there and only some seed is missing.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Joins `seeds` and keeps them joined until `shutdown`. `first_attempt` runs once, after the first
/// attempt, whatever came of it.
pub async fn run(
    seeds: Vec<Seed>,
    gossip: memberlist::Handle,
    own_address: SocketAddr,
    resolver: Resolver,
    first_attempt: impl AsyncFnOnce(),
    shutdown: CancellationToken,
) {
    let mut joiner = Joiner {
        seeds,
        gossip,
        own_address,
        resolver,
        troubles: BTreeMap::new(),
    };
    joiner.attempt().await;
    first_attempt().await;
    let mut pause = PAUSE_MIN;
    while !joiner.seeds.is_empty() {
        let jitter = 0.8 + 0.4 * rand::rng().random::<f64>();
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause.mul_f64(jitter)) => {}
        }
        let complete = joiner.attempt().await;
        let alone = joiner.gossip.members().len() <= 1;
        let longest = if alone { PAUSE_ALONE_MAX } else { PAUSE_MAX };
        pause = if complete {
            longest
        } else {
            (pause * 2).min(longest)
        };
    }
}

struct Joiner {
    seeds: Vec<Seed>,
    gossip: memberlist::Handle,
    own_address: SocketAddr,
    resolver: Resolver,
    /// What was last said about each seed that fails, so that it is said once.
    troubles: BTreeMap<String, String>,
}

impl Joiner {
    /// Joins the seeds that are no members yet; true when none is missing afterwards.
    async fn attempt(&mut self) -> bool {
        let mut addresses = BTreeMap::new();
        let mut troubles = BTreeMap::new();
        for seed in &self.seeds {
            match self.resolver.lookup(&seed.host).await {
                Ok(ips) => {
                    for ip in ips {
                        addresses.insert(SocketAddr::new(ip, seed.port), seed.to_string());
                    }
                }
                Err(error) => {
                    troubles.insert(seed.to_string(), error.reason);
                }
            }
        }
        let members = self.gossip.members();
        let known: BTreeSet<SocketAddr> = members.iter().map(|member| member.addr).collect();
        addresses.retain(|address, _| !known.contains(address) && *address != self.own_address);
        if !addresses.is_empty() {
            let missing: Vec<SocketAddr> = addresses.keys().copied().collect();
            let outcome = self.gossip.join(&missing).await;
            for (address, reason) in outcome.errors {
                let seed = addresses.get(&address).cloned();
                troubles.insert(seed.unwrap_or_else(|| address.to_string()), reason);
            }
            if outcome.contacted > 0 {
                let members = self.gossip.members().len();
                info!(contacted = outcome.contacted, members, "joined the cluster");
            }
        }
        let complete = troubles.is_empty();
        self.report(troubles);
        complete
    }

    fn report(&mut self, troubles: BTreeMap<String, String>) {
        for (seed, reason) in &troubles {
            if self.troubles.get(seed) != Some(reason) {
                warn!(
                    seed,
                    reason, "seed cannot be joined; retrying in the background"
                );
            }
        }
        for seed in self
            .troubles
            .keys()
            .filter(|seed| !troubles.contains_key(*seed))
        {
            debug!(seed, "seed is fine again");
        }
        self.troubles = troubles;
    }
}
