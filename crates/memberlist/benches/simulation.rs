//! How the protocol does, not how fast the code is: false deaths in a large lossy cluster, what
//! Lifeguard is worth, and how long a crash goes unnoticed. Prints numbers and judges nothing.
//!
//! ```text
//! cargo bench -p memberlist --bench simulation -- [losses|lifeguard|detection|pace]
//!     [--minutes N]   wall time for `losses`, default 3
//!     [--hours N]     instead: virtual time for `losses` and `pace`
//!     [--hosts N]     one size for `pace`, instead of 10 to 10,000
//! ```
#![allow(clippy::print_stdout, reason = "a bench prints its numbers")]

use std::time::{Duration, Instant};

use memberlist::node::{Config, Event};
use memberlist::sim::{Faults, HostId, Network};
use memberlist::wire::message::NodeState;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |name: &str| {
        let named = ["losses", "lifeguard", "detection", "pace"];
        arguments.iter().any(|given| given == name)
            || !arguments
                .iter()
                .any(|given| named.contains(&given.as_str()))
    };
    let number = |flag: &str| {
        let at = arguments.iter().position(|given| given == flag)?;
        arguments.get(at + 1)?.parse::<f64>().ok()
    };
    if wanted("pace") {
        pace(number("--hours"), number("--hosts"));
    }
    if wanted("detection") {
        detection();
    }
    if wanted("lifeguard") {
        lifeguard();
    }
    if wanted("losses") {
        losses(number("--minutes").unwrap_or(3.0), number("--hours"));
    }
}

fn name(id: HostId) -> String {
    format!("node-{id:04}")
}

fn cluster(seed: u64, hosts: usize, change: impl Fn(&mut Config)) -> Network {
    let mut network = Network::new(seed, Instant::now());
    network.set_recording(false);
    for id in 0..hosts {
        let mut config = Network::config(name(id), id);
        // Compressing and inflating is most of the work when a thousand hosts get to know each
        // other; it changes nothing about who hears what.
        config.compression = false;
        change(&mut config);
        if let Err(error) = network.add(config) {
            println!("settings: {error}");
        }
        if id > 0 {
            // Not all at once at one door.
            network.join(id, id / 2);
        }
        if id % 20 == 0 {
            network.run_for(Duration::from_millis(200));
        }
    }
    for _ in 0..600 {
        network.run_for(SECOND);
        if network.converged() {
            // The news of the formation is still on its way for a while.
            network.run_for(20 * SECOND);
            return network;
        }
    }
    println!("warning: {hosts} hosts have not converged");
    network
}

/// Virtual seconds per second of processor time for a quiet cluster that is there at once.
fn pace(hours: Option<f64>, hosts: Option<f64>) {
    println!("# pace of the simulator; no invariant looks on");
    let sizes = hosts.map_or_else(|| vec![10, 100, 1000, 10_000], |hosts| vec![hosts as usize]);
    for hosts in sizes {
        let begin = Instant::now();
        let mut network = acquainted(1, hosts);
        let formed = begin.elapsed();
        let begin = Instant::now();
        let before = processor_time(begin);
        let time = match hours {
            Some(hours) => MINUTE.mul_f64(60.0 * hours),
            None if hosts > 1000 => MINUTE,
            None => 5 * MINUTE,
        };
        network.run_for(time);
        let took = processor_time(begin).saturating_sub(before);
        let pace = time.as_secs_f64() / took.as_secs_f64();
        println!(
            "{hosts:6} hosts: {pace:8.1} virtual seconds per second of processor time, {:.0} in {took:.1?}, formed in \
             {formed:.1?}, {} datagrams, {} state exchanges, {} deaths, peak memory {}",
            time.as_secs_f64(),
            network.tally().delivered,
            network.tally().exchanges,
            network.tally().deaths_declared,
            peak_memory(),
        );
    }
}

/// A cluster that is there at once and exchanges states without bytes.
fn acquainted(seed: u64, hosts: usize) -> Network {
    let mut network = Network::new(seed, Instant::now());
    network.set_recording(false);
    network.set_measuring(true);
    for id in 0..hosts {
        let mut config = Network::config(name(id), id);
        config.compression = false;
        if let Err(error) = network.add(config) {
            println!("settings: {error}");
        }
    }
    network.acquaint();
    network
}

/// What this thread has had of the processor: what others do on the machine does not count. Wall
/// time where the system does not tell.
fn processor_time(begin: Instant) -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = told.and_then(|line| line.split(' ').next()?.parse().ok());
    nanos.map_or_else(|| begin.elapsed(), Duration::from_nanos)
}

/// Of this process so far, where the system tells.
fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or_else(|| "unknown".to_owned(), |size| size.trim().to_owned())
}

/// 1,000 hosts, 1 % of the datagrams lost: how many live hosts are declared dead?
fn losses(minutes: f64, hours: Option<f64>) {
    const HOSTS: usize = 1000;
    let mut network = acquainted(2, HOSTS);
    network.set_faults(Faults {
        loss: 0.01,
        ..Faults::default()
    });
    let (begin, virtual_begin) = (Instant::now(), network.elapsed());
    let before = network.tally();
    let enough = |network: &Network| match hours {
        Some(hours) => (network.elapsed() - virtual_begin).as_secs_f64() >= 3600.0 * hours,
        None => begin.elapsed().as_secs_f64() >= 60.0 * minutes,
    };
    while !enough(&network) {
        network.run_for(30 * SECOND);
    }
    let tally = network.tally();
    let hours = (network.elapsed() - virtual_begin).as_secs_f64() / 3600.0;
    println!("# {HOSTS} hosts, 1 % of the datagrams lost, {hours:.2} virtual hours");
    println!("datagrams lost        {}", tally.lost - before.lost);
    println!(
        "probe rounds          {}",
        tally.probes_succeeded - before.probes_succeeded
    );
    println!(
        "rounds without answer {}",
        tally.probes_failed - before.probes_failed
    );
    println!(
        "rows made suspect     {}",
        tally.suspicions - before.suspicions
    );
    println!(
        "refutations           {}",
        tally.refutations - before.refutations
    );
    println!(
        "false deaths          {}",
        tally.deaths_declared - before.deaths_declared
    );
}

/// A quarter of the hosts does not read for 1 to 32 seconds, again and again, after the
/// experiments of the Lifeguard paper. Every death is a false one.
fn lifeguard() {
    const HOSTS: usize = 100;
    println!("# a quarter of {HOSTS} hosts stalled, again and again, for 10 virtual minutes each");
    println!("stall    false deaths, as seen by all      of healthy hosts");
    println!("         lifeguard   without   ratio       lifeguard   without");
    let mut sums: [usize; 2] = [0; 2];
    for stall in [1, 2, 4, 8, 16, 32] {
        let (all, healthy) = stress(stall, HOSTS, |_| {});
        // The notice to suspects has no switch; health and the dynamic timeout are values.
        let (all_without, healthy_without) = stress(stall, HOSTS, |config| {
            config.awareness_max_multiplier = 1;
            config.suspicion_max_timeout_mult = 1;
        });
        let ratio = all_without as f64 / all.max(1) as f64;
        println!(
            "{stall:3} s {all:12} {all_without:9} {ratio:7.1} {healthy:15} {healthy_without:9}"
        );
        sums = [sums[0] + healthy, sums[1] + healthy_without];
    }
    let ratio = match sums {
        [0, without] => format!("{without} to none"),
        [with, without] => format!("{:.1}", without as f64 / with as f64),
    };
    println!("false deaths of healthy hosts, without lifeguard to with it: {ratio}");
}

/// Deaths seen by any host, and those of hosts that were never stalled.
fn stress(stall: u64, hosts: usize, change: impl Fn(&mut Config)) -> (usize, usize) {
    let mut network = cluster(3, hosts, change);
    network.set_recording(true);
    let end = network.elapsed() + 10 * MINUTE;
    let begin = network.elapsed();
    while network.elapsed() < end {
        for id in 0..hosts / 4 {
            network.stall(id, SECOND * stall as u32);
        }
        network.run_for(SECOND * stall as u32 + 5 * SECOND);
    }
    let mut counts = (0, 0);
    for id in 0..hosts {
        for (at, event) in network.events(id) {
            if let Event::Left(member) = event
                && member.state == NodeState::Dead
                && at > begin
            {
                let healthy = (hosts / 4..hosts).any(|id| name(id) == member.name);
                counts.0 += 1;
                counts.1 += usize::from(healthy);
            }
        }
    }
    counts
}

/// How long after a crash it is suspected first, known dead first, and known dead everywhere.
fn detection() {
    println!("# detection of a crash, seconds after it (mean over runs)");
    println!("hosts  runs  suspected  theory  dead first  theory  dead everywhere");
    for (hosts, runs) in [(10, 40), (100, 20), (1000, 10)] {
        let mut sums = [0.0; 3];
        let mut network = Network::new(0, Instant::now());
        for run in 0..runs {
            // A large cluster takes long to form: it loses one host after the other. In a small
            // one that would change its size.
            if run == 0 || hosts < 100 {
                network = cluster(100 + run, hosts, |_| {});
            }
            let victim = hosts / 2 + run as usize % (hosts / 4);
            let phase = Duration::from_millis(997 * run % 1000);
            network.run_for(20 * SECOND + phase);
            network.crash(victim);
            let begin = network.elapsed();
            let name = name(victim);
            let state = |node: &memberlist::node::Node| node.member(&name).map(|held| held.state);
            let doubted = |network: &Network| {
                network
                    .running()
                    .any(|(_, node)| state(node) != Some(NodeState::Alive))
            };
            let dead = |held: Option<NodeState>| held.is_none_or(|held| held == NodeState::Dead);
            let first = |network: &Network| network.running().any(|(_, node)| dead(state(node)));
            let everywhere =
                |network: &Network| network.running().all(|(_, node)| dead(state(node)));
            for (sum, done) in
                sums.iter_mut()
                    .zip([&doubted as &dyn Fn(&Network) -> bool, &first, &everywhere])
            {
                network.run_while_waiting(5 * MINUTE, done);
                *sum += (network.elapsed() - begin).as_secs_f64();
            }
        }
        let mean = sums.map(|sum| sum / f64::from(runs as u32));
        // Random targets find a crash after 1 / (1 - 1/e) rounds; confirmed, it then has the
        // shortest suspicion to refute.
        let theory = 1.0 / (1.0 - (-1.0_f64).exp());
        let suspicion = 5.0 * (hosts as f64).log10().max(1.0);
        println!(
            "{hosts:5} {runs:5} {:10.2} {theory:7.2} {:11.2} {:7.2} {:16.2}",
            mean[0],
            mean[1],
            theory + suspicion,
            mean[2]
        );
    }
}
