//! Bands of seeds through the simulator. Each seed is a whole story, see `memberlist::sim`.
//!
//! | variable | effect |
//! | --- | --- |
//! | `SIM_SEEDS` | number of seeds in the band, default 90 |
//! | `SIM_FIRST` | first seed of the band, default 0 |
//! | `SIM_ALL` | go on after a failure, to see all of them |
//! | `SIM_SEED` | the seed that `replay` tells in full |

use std::time::Instant;

use memberlist::sim::{Drill, Report, Scenario, Tally};

/// Seeds of the band that every test run goes through.
const BAND: u64 = 90;
/// From this many seeds on, a kind of trouble that never came up is a fault of the band.
const BAND_MIN: u64 = 36;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn complain(report: &Report) -> String {
    let Report {
        seed, violation, ..
    } = report;
    format!(
        "seed {seed}: {violation:?}\nreplay: SIM_SEED={seed} cargo test -p memberlist --test \
         simulation replay -- --nocapture"
    )
}

#[test]
fn band() {
    let first = number("SIM_FIRST").unwrap_or(0);
    let seeds = number("SIM_SEEDS").unwrap_or(BAND);
    let begin = Instant::now();
    let mut total = Tally::default();
    let mut virtual_seconds = 0.0;
    let mut failures = Vec::new();
    for seed in first..first + seeds {
        let report = Scenario::new(seed).run();
        if let Some(violation) = &report.violation {
            // One line for machines, then the one for people.
            println!(
                "SIM-VIOLATION seeds={} invariant={}",
                seed - first + 1,
                violation.invariant
            );
            failures.push(complain(&report));
            if number("SIM_ALL").is_none() {
                break;
            }
        }
        total.absorb(&report.tally);
        virtual_seconds += report.elapsed.as_secs_f64();
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let wall = begin.elapsed().as_secs_f64();
    println!("{seeds} seeds, {virtual_seconds:.0} virtual seconds in {wall:.1}");
    for (name, count) in total.rows() {
        println!("{name:>30} {count}");
    }
    if seeds >= BAND_MIN {
        let vacuous: Vec<&str> = total
            .rows()
            .into_iter()
            .filter(|(_, count)| *count == 0)
            .map(|(name, _)| name)
            .collect();
        if !vacuous.is_empty() {
            println!("SIM-VIOLATION seeds={seeds} invariant=non-vacuity: {vacuous:?}");
            panic!("the band never saw {vacuous:?}");
        }
    }
}

#[test]
fn replay() {
    let seed = number("SIM_SEED").unwrap_or(1);
    let report = Scenario::new(seed).run();
    println!("{:#?}", report.options);
    for line in &report.log {
        println!("{line}");
    }
    for (name, count) in report.tally.rows() {
        println!("{name:>30} {count}");
    }
    println!("trace {:016x}", report.trace_hash);
    assert!(report.violation.is_none(), "{}", complain(&report));
}

#[test]
fn a_seed_told_twice_is_the_same_story() {
    for seed in [2, 5] {
        let [one, two] = [Scenario::new(seed), Scenario::new(seed)].map(Scenario::run);
        assert_eq!(one.trace_hash, two.trace_hash, "seed {seed}");
        assert_eq!((one.tally, one.log), (two.tally, two.log));
    }
    assert_ne!(
        Scenario::new(2).run().trace_hash,
        Scenario::new(3).run().trace_hash
    );
}

#[test]
fn every_drill_comes_up_in_a_band() {
    let mut drills: Vec<Drill> = (0..Drill::ALL.len() as u64)
        .flat_map(|seed| Scenario::new(seed).options().drills.clone())
        .collect();
    drills.sort_by_key(|drill| format!("{drill:?}"));
    drills.dedup();
    assert_eq!(drills.len(), Drill::ALL.len());
}
