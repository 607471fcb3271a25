//! Stories drawn from seeds: a small cluster, a time of trouble, calm, and then everybody must
//! show exactly what runs. `STORY_SEEDS` (default 60) and `STORY_FIRST` (default 1) choose others.

use memberlist::sim::Faults;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::{audit::Audit, cluster::*, *};

const SECOND: Duration = Duration::from_secs(1);
/// After the last trouble, this is enough: seeds are tried every 60 s.
const CALM: Duration = Duration::from_secs(150);
/// Of so many stories that end badly everything is told.
const TOLD_IN_FULL: usize = 3;

/// What happened, so that no story is empty.
#[derive(Debug, Default)]
struct Deeds {
    flips: usize,
    replacements: usize,
    crashes: usize,
    restarts: usize,
    leaves: usize,
    partitions: usize,
    pauses: usize,
}

struct Trouble {
    cluster: Cluster,
    rng: Pcg64Mcg,
    /// Hosts that are off.
    down: Vec<HostId>,
    services: usize,
    fresh: usize,
    deeds: Deeds,
    /// What was done, and when.
    told: Vec<String>,
}

impl Trouble {
    fn new(seed: u64) -> Self {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let hosts = rng.random_range(2..=9);
        let services = rng.random_range(1..=4);
        let faults = Faults {
            latency_mean: Duration::from_millis(rng.random_range(1..=60)),
            latency_max: Duration::from_millis(400),
            loss: *pick(&mut rng, &[0.0, 0.01, 0.1, 0.3]),
            duplication: *pick(&mut rng, &[0.0, 0.1]),
            reordering: *pick(&mut rng, &[0.0, 0.1]),
            stream_refused: *pick(&mut rng, &[0.0, 0.2]),
            stream_cut: *pick(&mut rng, &[0.0, 0.2]),
            ..Faults::default()
        };
        // Up to ten years, in some of the stories.
        let skew_s: i64 = *pick(&mut rng, &[0, 0, 2, 500, 100_000, 315_000_000]);
        let skews: Vec<i128> = (0..hosts)
            .map(|_| i128::from(rng.random_range(-skew_s..=skew_s)) * 1_000_000_000)
            .collect();
        let ahead = |host: HostId| skews[host];
        let formation = Formation {
            hosts,
            apart: 0,
            services,
            seed,
            faults,
        };
        let cluster = Cluster::formed(&formation, ahead).expect("valid settings");
        Self {
            cluster,
            rng,
            down: Vec::new(),
            services,
            fresh: 0,
            deeds: Deeds::default(),
            told: vec![format!(
                "ahead by {:?} s, {faults:?}",
                skews
                    .iter()
                    .map(|ns| ns / 1_000_000_000)
                    .collect::<Vec<_>>()
            )],
        }
    }

    fn tell(&mut self, deed: &str, host: HostId) {
        let at = self.cluster.elapsed();
        self.told.push(format!("{at:.1?} {deed} {host}"));
    }

    fn running(&mut self) -> Option<HostId> {
        let up: Vec<HostId> = self.cluster.running().map(|(id, _)| id).collect();
        (!up.is_empty()).then(|| *pick(&mut self.rng, &up))
    }

    fn one_deed(&mut self) {
        let Some(host) = self.running() else {
            return self.restart();
        };
        match self.rng.random_range(0..14) {
            0..5 => {
                let service = self.rng.random_range(0..self.services);
                self.tell("flip", host);
                self.cluster.flip(host, service, false);
                self.deeds.flips += 1;
            }
            5..8 => {
                self.tell("replace", host);
                self.fresh += 1;
                let id = instance_id(host, 0xa0_0000 + self.fresh);
                let replace = |own: &mut Vec<catalog::Service>| {
                    let first = own.remove(0);
                    own.push(catalog::Service {
                        id: id.clone(),
                        status: catalog::Status::Alive,
                        ..first
                    });
                };
                self.cluster.edit(host, &id.clone(), false, replace);
                self.deeds.replacements += 1;
            }
            8 => {
                self.tell("crash", host);
                self.cluster.crash(host);
                self.down.push(host);
                self.deeds.crashes += 1;
            }
            9..11 => self.restart(),
            11 => {
                self.tell("leave", host);
                self.cluster.leave(host);
                self.cluster.run_for(2 * SECOND);
                self.cluster.crash(host);
                self.down.push(host);
                self.deeds.leaves += 1;
            }
            12 => {
                let hosts = self.cluster.hosts();
                let sides: Vec<_> = (0..hosts).map(|_| self.rng.random_range(0..2)).collect();
                self.tell(&format!("partition {sides:?}"), host);
                self.cluster.network().split(sides, Vec::new());
                self.deeds.partitions += 1;
            }
            _ => {
                let time = *pick(&mut self.rng, &[2, 20, 4000]);
                self.tell(&format!("pause of {time} s"), host);
                self.cluster.network().pause(host, time * SECOND);
                self.deeds.pauses += 1;
            }
        }
    }

    fn restart(&mut self) {
        if let Some(host) = self.down.pop() {
            self.tell("restart", host);
            self.cluster.restart(host).expect("valid settings");
            self.deeds.restarts += 1;
        }
    }

    /// Ends all trouble, waits, and looks.
    fn end(&mut self) -> (bool, Audit) {
        self.cluster.network().repair();
        self.cluster.network().set_faults(Faults::default());
        while !self.down.is_empty() {
            self.restart();
        }
        // Longer than any pause that may still go on.
        let begin = self.cluster.elapsed();
        self.cluster.run_for(4000 * SECOND);
        while !self.cluster.agreed() && self.cluster.elapsed() < begin + 4000 * SECOND + CALM {
            self.cluster.run_for(SECOND);
        }
        (self.cluster.agreed(), self.cluster.audit())
    }
}

fn pick<'a, T>(rng: &mut Pcg64Mcg, of: &'a [T]) -> &'a T {
    &of[rng.random_range(0..of.len())]
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn after_any_trouble_everybody_shows_what_runs() {
    let mut sum = Deeds::default();
    let first = number("STORY_FIRST", 1);
    let mut bad = Vec::new();
    let mut accounts = String::new();
    for seed in first..first + number("STORY_SEEDS", 60) {
        let mut trouble = Trouble::new(seed);
        let deeds = trouble.rng.random_range(5..40);
        for _ in 0..deeds {
            trouble.one_deed();
            let pause = Duration::from_millis(*pick(&mut trouble.rng, &[10, 300, 3000, 20_000]));
            trouble.cluster.run_for(pause);
            if trouble.rng.random_bool(0.1) {
                trouble.tell("heal", 0);
                trouble.cluster.network().heal();
            }
        }
        let (agreed, audit) = trouble.end();
        if !agreed || audit != Audit::default() {
            bad.push((seed, agreed, audit));
            if bad.len() <= TOLD_IN_FULL {
                let told = trouble.told.join("\n");
                let errors = trouble.cluster.errors();
                accounts.push_str(&format!("\nSeed {seed}:\n{told}\n{errors}"));
            }
        }
        let Deeds {
            flips,
            replacements,
            crashes,
            restarts,
            leaves,
            partitions,
            pauses,
        } = trouble.deeds;
        sum.flips += flips;
        sum.replacements += replacements;
        sum.crashes += crashes;
        sum.restarts += restarts;
        sum.leaves += leaves;
        sum.partitions += partitions;
        sum.pauses += pauses;
    }
    assert_eq!(bad, [], "seed, all agree, what is wrong{accounts}");
    assert!(
        [
            sum.flips,
            sum.replacements,
            sum.crashes,
            sum.restarts,
            sum.leaves,
            sum.partitions,
            sum.pauses
        ]
        .iter()
        .all(|deeds| *deeds > 0),
        "{sum:?}"
    );
}

/// What the command line says.
fn options(line: &str) -> Options {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }
    let words = std::iter::once("simulate").chain(line.split_whitespace());
    <Line as clap::Parser>::parse_from(words).options
}

struct Nobody;

impl scenario::Listener for Nobody {
    fn at(&mut self, _act: &str, _elapsed: Duration) {}
}

/// The report, but for what depends on the machine.
fn report(line: &str) -> Report {
    let mut report = simulate(&options(line), &mut Nobody).expect("it can be simulated");
    report.totals.cpu_s = 0.0;
    report.totals.wall_s = 0.0;
    report.totals.peak_memory_mib = None;
    report
}

#[test]
fn every_scenario_ends_well_on_every_network() {
    for network in ["lan", "wan", "lossy", "partition"] {
        for scenario in [
            "idle --duration 5",
            "change --duration 3",
            "churn --duration 4 --rate 10",
            "deploy --duration 5",
            "join",
            "rack --duration 60",
            "restart --duration 5",
            "partition --duration 60",
            "reunion",
        ] {
            let line = format!("--hosts 20 --services 2 --network {network} --scenario {scenario}");
            let report = report(&line);
            for phase in &report.phases {
                assert!(phase.outcome_s.is_some(), "{line}: {phase:?}");
            }
            if let Some(spread) = &report.spread {
                assert!(
                    spread.changes > 0 && spread.missing == 0,
                    "{line}: {spread:?}"
                );
            }
            let totals = &report.totals;
            assert!(totals.datagrams > 0 && totals.bytes > totals.datagrams * 28);
            // A partition may just have begun.
            if network != "partition" {
                assert_eq!((totals.lost_services, totals.zombies), (0, 0), "{line}");
            }
        }
    }
}

#[test]
fn equal_seeds_give_equal_reports() {
    let line = "--hosts 12 --services 3 --scenario rack --network lossy --duration 30 --seed";
    let one = report(&format!("{line} 5"));
    assert_eq!(one, report(&format!("{line} 5")));
    assert_ne!(one.totals, report(&format!("{line} 6")).totals);
    let read: serde_json::Value = serde_json::from_str(&one.json()).expect("JSON");
    assert_eq!(read["settings"]["hosts"], 12);
    assert!(plot::svg(&one).starts_with("<svg "));
}

/// What an idle host sends does not depend on how much it holds.
#[test]
fn idle_hosts_send_the_same_with_few_services_and_with_many() {
    let rate = |services: usize| {
        let line = format!("--hosts 30 --services {services} --scenario idle --duration 120");
        report(&line).totals.mean_bytes_per_host_per_s
    };
    let (few, many) = (rate(10), rate(100));
    assert!(
        (0.95..=1.05).contains(&(many / few)),
        "{few} and {many} bytes a second"
    );
}

/// A host that brings a thousand services does not delay the single change of another one.
#[test]
fn a_burst_does_not_delay_the_change_of_another_host() {
    let formation = Formation {
        hosts: 30,
        apart: 0,
        services: 2,
        seed: 1,
        faults: Faults::default(),
    };
    let mut cluster = Cluster::formed(&formation, |_| 0).expect("valid settings");
    cluster.run_for(SECOND);
    cluster.edit(3, "", false, |own| {
        let first = own[0].clone();
        own.extend((0..1000).map(|at| catalog::Service {
            id: instance_id(3, 1000 + at),
            ..first.clone()
        }));
    });
    cluster.flip(7, 0, true);
    // A round is 200 ms.
    cluster.run_for(Duration::from_millis(210));
    assert_eq!(
        cluster.watch().pending(),
        0,
        "everybody knows of the change"
    );
    let begin = cluster.elapsed();
    while !cluster.agreed() {
        cluster.run_for(Duration::from_millis(10));
        assert!(
            cluster.elapsed() - begin < 20 * SECOND,
            "the burst arrives as well"
        );
    }
}

#[test]
fn equal_seeds_tell_equal_stories() {
    let tell = |seed| {
        let mut trouble = Trouble::new(seed);
        for _ in 0..20 {
            trouble.one_deed();
            trouble.cluster.run_for(SECOND);
        }
        (
            trouble.cluster.network().trace_hash(),
            trouble.cluster.account(),
        )
    };
    assert_eq!(tell(3), tell(3));
    assert_ne!(tell(3).0, tell(4).0);
}
