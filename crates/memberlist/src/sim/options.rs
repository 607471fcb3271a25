//! Which story a seed tells: settings, faults and drills, all drawn. Every kind of fault is absent
//! from about half of the runs (swarm testing): bugs that need one kind alone, or the absence of
//! another, are found too.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use rand::RngExt;
use rand_pcg::Pcg64Mcg;

use super::drills::Drill;
use super::faults::Faults;
use crate::node::{Config, Profile};

/// Kinds of trouble the nemesis may make, each on or off for a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "independent switches")]
pub struct Trouble {
    /// Partitions of any shape.
    pub partitions: bool,
    /// Single links that pass nothing, or no datagram, in one direction or both.
    pub cuts: bool,
    /// Links that lose long datagrams.
    pub mtu_holes: bool,
    /// Hosts that stop and go on.
    pub freezes: bool,
    /// Hosts that handle datagrams slowly, with a small inbox.
    pub slow_processors: bool,
    /// Hosts that crash and come back.
    pub crashes: bool,
    /// Crashed hosts come back at another address.
    pub moves: bool,
    /// Hosts that leave in good order.
    pub leaves: bool,
    /// Accusations and announcements nobody made.
    pub forgeries: bool,
}

/// Everything a run is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// Hosts of the cluster, 3 to 14.
    pub hosts: usize,
    /// Hosts of another cluster that try to join this one.
    pub foreigners: usize,
    /// How long the nemesis is at work.
    pub chaos: Duration,
    /// Mean time between its deeds.
    pub trouble_interval: Duration,
    /// What it may do.
    pub trouble: Trouble,
    /// What the network does meanwhile.
    pub faults: Faults,
    /// Largest deviation of a clock, in parts per million.
    pub clock_rate_ppm: i32,
    /// Whether hosts leave their tables out of state exchanges while they agree.
    pub brief: bool,
    /// Settings of all hosts but for name, address and seed.
    pub config: Config,
    /// What is done once all is calm.
    pub drills: Vec<Drill>,
}

impl Options {
    /// Those of a seed.
    pub fn draw(seed: u64, rng: &mut Pcg64Mcg) -> Self {
        let hosts = rng.random_range(3..=14);
        let mut options = Self {
            hosts,
            foreigners: if rng.random_bool(0.25) { 2 } else { 0 },
            chaos: Duration::from_secs(rng.random_range(20..=90)),
            trouble_interval: Duration::from_millis(rng.random_range(500..=5000)),
            trouble: Trouble::draw(rng),
            faults: draw_faults(rng),
            clock_rate_ppm: if rng.random_bool(0.5) { 10_000 } else { 0 },
            brief: rng.random_bool(0.5),
            config: draw_config(rng),
            drills: Drill::draw(seed, rng),
        };
        if seed % 2 == 1 {
            options.config.lazy_push = Some(|_| true);
        }
        options
    }

    /// Whether datagrams are damaged, so that nodes may hear what nobody said.
    pub fn damages(&self) -> bool {
        self.faults.corruption > 0.0
    }
}

impl Trouble {
    fn draw(rng: &mut Pcg64Mcg) -> Self {
        let mut toss = || rng.random_bool(0.5);
        let crashes = toss();
        Self {
            partitions: toss(),
            cuts: toss(),
            mtu_holes: toss(),
            freezes: toss(),
            slow_processors: toss(),
            crashes,
            moves: crashes && toss(),
            leaves: toss(),
            forgeries: toss(),
        }
    }
}

fn draw_faults(rng: &mut Pcg64Mcg) -> Faults {
    let millis = |rng: &mut Pcg64Mcg, from, to| Duration::from_millis(rng.random_range(from..=to));
    let share = |rng: &mut Pcg64Mcg, most: f64| {
        let some = rng.random_bool(0.5);
        if some {
            rng.random_range(0.0..most)
        } else {
            0.0
        }
    };
    let latency_min = millis(rng, 0, 5);
    let latency_mean = latency_min + millis(rng, 1, 40);
    Faults {
        latency_min,
        latency_mean,
        latency_max: latency_mean * rng.random_range(1..=20),
        loss: share(rng, 0.25),
        burst: share(rng, 0.01),
        burst_time: millis(rng, 50, 2000),
        duplication: share(rng, 0.1),
        reordering: share(rng, 0.1),
        reordering_delay: millis(rng, 10, 1500),
        corruption: if rng.random_bool(0.15) { 0.01 } else { 0.0 },
        stream_refused: share(rng, 0.3),
        stream_cut: share(rng, 0.3),
        stream_slow: share(rng, 0.3),
        stream_slow_delay: millis(rng, 500, 9000),
    }
}

fn draw_config(rng: &mut Pcg64Mcg) -> Config {
    let millis = |rng: &mut Pcg64Mcg, from, to| Duration::from_millis(rng.random_range(from..=to));
    let mut config = Config::lan("template", IpAddr::V4(Ipv4Addr::LOCALHOST));
    if rng.random_bool(0.3) {
        // As deployed.
        return config;
    }
    config.profile = if rng.random_bool(0.5) {
        Profile::Fork
    } else {
        Profile::HashiCorp
    };
    config.gossip_interval = millis(rng, 100, 400);
    config.gossip_messages = rng.random_range(1..=15);
    config.gossip_nodes = rng.random_range(2..=4);
    config.gossip_to_the_dead = millis(rng, 10_000, 30_000);
    config.retransmit_mult = rng.random_range(3..=4);
    config.push_pull_interval = millis(rng, 5_000, 30_000);
    config.rejoin_interval = millis(rng, 5_000, 30_000);
    config.probe_timeout = millis(rng, 200, 500);
    config.indirect_checks = rng.random_range(1..=3);
    config.tcp_pings = rng.random_bool(0.7);
    config.suspicion_mult = rng.random_range(3..=5);
    config.udp_buffer_size = [900, 1400, 8000][rng.random_range(0..3)];
    config.compression = rng.random_bool(0.7);
    config.dead_node_reclaim = if rng.random_bool(0.3) {
        Duration::ZERO
    } else {
        millis(rng, 5_000, 30_000)
    };
    config
}
