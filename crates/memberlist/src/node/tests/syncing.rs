//! State exchanges: when they come.

use super::super::Known;
use super::*;

/// Exchanges states and does nothing else of its own accord.
fn exchanging(seed: u64) -> Bench {
    Bench::with(|config| {
        config.gossip_interval = Duration::ZERO;
        config.probe_interval = Duration::ZERO;
        config.rejoin_interval = Duration::ZERO;
        config.eager_bytes_per_interval = 0;
        config.seed = seed;
    })
}

/// When the next exchange comes, in intervals.
fn first_exchange(bench: &Bench) -> f64 {
    let at = bench.node.poll_timeout().expect("an exchange is due");
    let interval = bench.node.config.push_pull_interval;
    (at - bench.now).as_secs_f64() / interval.as_secs_f64()
}

/// Whether so many moments are those of members that exchange states independently.
fn assert_spread(mut moments: Vec<f64>, period: f64) {
    moments.sort_by(f64::total_cmp);
    for (at, moment) in moments.iter().enumerate() {
        let expected = period * at as f64 / moments.len() as f64;
        assert!(
            (moment - expected).abs() < period / 5.0,
            "exchange {at} of {} comes after {moment:.2} intervals of {period}: {moments:?}",
            moments.len()
        );
    }
}

#[test]
fn a_cluster_that_is_there_at_once_spreads_its_exchanges_over_the_period() {
    let mut other = exchanging(0);
    other.fill(200);
    let rows: Vec<Known> = other.node.known();
    let first = |seed| {
        let mut bench = exchanging(seed);
        bench.node.acquaint(bench.now, &rows);
        first_exchange(&bench)
    };
    assert_spread((1..=64).map(first).collect(), 4.0);
}

#[test]
fn a_cluster_that_grows_spreads_its_exchanges_over_the_longer_period() {
    let first = |seed| {
        let mut bench = exchanging(seed);
        bench.fill(200);
        first_exchange(&bench)
    };
    assert_spread((1..=64).map(first).collect(), 4.0);
}

#[test]
fn growth_without_a_longer_period_leaves_the_next_exchange_where_it_is() {
    let mut bench = exchanging(7);
    bench.fill(33);
    let next = bench.node.poll_timeout();
    bench.fill(64);
    assert_eq!(bench.node.poll_timeout(), next);
    bench.fill(65);
    assert_ne!(bench.node.poll_timeout(), next);
}
