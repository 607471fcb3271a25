//! Samples of traffic, the JSON form, and a recorder held against a plain sorted list.

use expect_test::expect;
use proptest::prelude::*;

use super::*;

/// A report with every part, as a run of a thousand hosts might give.
pub(in crate::simulate) fn sample() -> Report {
    let mut recorder = SpreadRecorder::new(999);
    for change in 0..20_u64 {
        let at = Duration::from_secs(60 + change);
        recorder.changed(change, at).unwrap();
        for host in 0..999_u64 {
            // A rising curve with a tail: most hear within half a second, few after seconds.
            let place = (host as f64 + 0.5) / 999.0;
            let delay = 0.12 * (place / (1.0 - place)).powf(0.35) + 0.002 * change as f64;
            recorder
                .heard(change, at + Duration::from_secs_f64(delay))
                .unwrap();
        }
    }
    let traffic = (1..=120).map(|second| {
        let at_s = f64::from(second);
        let mean = 900.0 + 6_000.0 * (-at_s / 8.0).exp() + 150.0 * (at_s / 5.0).sin();
        TrafficSample {
            at_s,
            bytes_per_host_per_s: Load {
                mean,
                p99: mean * 2.2,
                max: mean * (3.0 + (at_s * 1.7).sin()),
            },
        }
    });
    Report {
        settings: Settings {
            hosts: 1_000,
            services_per_host: 10,
            network: "lan: 0.5 ms, 0.1 % lost".to_owned(),
            scenario: "steady change".to_owned(),
            seed: 42,
            virtual_s: 120.0,
        },
        phases: vec![
            Phase {
                name: "identical digests after contact".to_owned(),
                outcome_s: Some(12.4),
                limit_s: 60.0,
            },
            Phase {
                name: "dead host's services gone everywhere".to_owned(),
                outcome_s: None,
                limit_s: 30.0,
            },
        ],
        spread: recorder.spread(),
        traffic: traffic.collect(),
        totals: Totals {
            datagrams: 1_234_567,
            bytes: 123_456_789,
            streams: 4_321,
            bytes_by_stream: 45_678_901,
            mean_bytes_per_host_per_s: 1_028.8,
            cpu_s: 31.25,
            wall_s: 33.5,
            peak_memory_mib: Some(412.6),
            false_deaths: 0,
            lost_services: 3,
            zombies: 0,
        },
    }
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn quantiles_on_the_edges_of_buckets_are_exact() {
    let mut recorder = SpreadRecorder::new(1_000);
    recorder.changed(7, MS * 500).unwrap();
    for tenths in 1..=1_000_u32 {
        let at = MS * 500 + MS * tenths / 10;
        recorder.heard(7, at).unwrap();
    }
    let spread = recorder.spread().unwrap();
    let quantiles = Quantiles {
        p50: 50.0,
        p90: 90.0,
        p99: 99.0,
        p99_9: 99.9,
        max: 100.0,
    };
    assert_eq!(spread.quantiles_ms, Some(quantiles));
    assert_eq!((spread.heard, spread.missing), (1_000, 0));
    assert_eq!(spread.changes_everywhere, 1);
    assert_eq!(spread.everywhere_ms.unwrap().p50, 100.0);
}

#[test]
fn who_never_heard_is_missing_and_not_in_quantiles() {
    let mut recorder = SpreadRecorder::new(4);
    recorder.changed(1, MS).unwrap();
    recorder.changed(2, MS).unwrap();
    recorder.changed(3, MS).unwrap();
    for delay in [2, 3, 4, 250] {
        recorder.heard(1, MS + MS * delay).unwrap();
    }
    recorder.heard(2, MS + MS * 9).unwrap();
    let spread = recorder.spread().unwrap();
    assert_eq!((spread.changes, spread.heard, spread.missing), (3, 5, 7));
    assert_eq!(spread.changes_everywhere, 1);
    assert_eq!(spread.quantiles_ms.unwrap().p50, 4.0);
    assert_eq!(spread.everywhere_ms.unwrap().p50, 250.0);
    // Of the two that half of the hosts never heard of, the one that was told latest.
    let slowest = SlowestChange {
        change: 2,
        p50_ms: None,
        last_ms: Some(9.0),
        missing: 3,
    };
    assert_eq!(spread.slowest_change, Some(slowest));
    let ends = (spread.curve.first().unwrap(), spread.curve.last().unwrap());
    assert_eq!((ends.0.ms, ends.0.share), (1.9, 0.0));
    assert_eq!((ends.1.ms, ends.1.share), (250.0, 5.0 / 12.0));
}

#[test]
fn the_slowest_change_is_by_its_median_not_its_last_host() {
    let mut recorder = SpreadRecorder::new(2);
    for (change, delays) in [(1, [1, 90]), (2, [5, 6]), (3, [2, 3])] {
        recorder.changed(change, MS).unwrap();
        for delay in delays {
            recorder.heard(change, MS + MS * delay).unwrap();
        }
    }
    let slowest = SlowestChange {
        change: 2,
        p50_ms: Some(5.0),
        last_ms: Some(6.0),
        missing: 0,
    };
    assert_eq!(recorder.spread().unwrap().slowest_change, Some(slowest));
}

#[test]
fn nothing_recorded_is_no_spread() {
    assert_eq!(SpreadRecorder::new(5).spread(), None);
}

#[test]
fn a_change_nobody_heard_of_has_no_quantiles() {
    let mut recorder = SpreadRecorder::new(5);
    recorder.changed(1, MS).unwrap();
    let spread = recorder.spread().unwrap();
    assert_eq!((spread.heard, spread.missing), (0, 5));
    assert_eq!((spread.quantiles_ms, spread.everywhere_ms), (None, None));
    assert_eq!(spread.curve, []);
    assert_eq!(spread.slowest_change.unwrap().last_ms, None);
}

#[test]
fn a_miscount_is_an_error_and_changes_nothing() {
    let mut recorder = SpreadRecorder::new(1);
    recorder.changed(1, MS * 5).unwrap();
    assert_eq!(recorder.changed(1, MS), Err(SpreadError::Twice(1)));
    assert_eq!(recorder.heard(2, MS), Err(SpreadError::Unknown(2)));
    let early = SpreadError::Early {
        change: 1,
        heard: MS,
        made: MS * 5,
    };
    assert_eq!(recorder.heard(1, MS), Err(early));
    assert_eq!(recorder.spread().unwrap().heard, 0);
    recorder.heard(1, MS * 6).unwrap();
    let surplus = SpreadError::Surplus {
        change: 1,
        hosts: 1,
    };
    assert_eq!(recorder.heard(1, MS * 7), Err(surplus));
    let spread = recorder.spread().unwrap();
    assert_eq!((spread.heard, spread.quantiles_ms.unwrap().max), (1, 1.0));
}

#[test]
fn changes_are_bounded() {
    let mut recorder = SpreadRecorder::new(1);
    for change in 0..CHANGES_MAX as u64 {
        recorder.changed(change, MS).unwrap();
    }
    let over = CHANGES_MAX as u64;
    assert_eq!(recorder.changed(over, MS), Err(SpreadError::TooMany(over)));
}

#[test]
fn a_delay_of_any_length_is_recorded() {
    let mut recorder = SpreadRecorder::new(2);
    recorder.changed(1, Duration::ZERO).unwrap();
    recorder.heard(1, Duration::ZERO).unwrap();
    recorder.heard(1, Duration::MAX).unwrap();
    let quantiles = recorder.spread().unwrap().quantiles_ms.unwrap();
    assert_eq!(quantiles.p50, 0.1);
    assert_eq!(quantiles.max, u64::MAX as f64 / 1e6);
}

#[test]
fn a_sample_has_mean_and_nearest_rank_over_hosts() {
    let mut bytes: Vec<u64> = (1..=200).rev().collect();
    let second = Duration::from_secs(1);
    let sample = TrafficSample::of_window(second * 3, second * 2, &mut bytes).unwrap();
    let load = Load {
        mean: 50.25,
        p99: 99.0,
        max: 100.0,
    };
    assert_eq!((sample.at_s, sample.bytes_per_host_per_s), (3.0, load));
    assert_eq!(TrafficSample::of_window(second, second, &mut []), None);
    assert_eq!(
        TrafficSample::of_window(second, Duration::ZERO, &mut [1]),
        None
    );
}

#[test]
fn json_has_the_fields_in_order() {
    let mut report = sample();
    report.traffic.truncate(1);
    report.traffic[0].bytes_per_host_per_s = Load {
        mean: 1.0,
        p99: 2.5,
        max: 3.0,
    };
    let mut recorder = SpreadRecorder::new(2);
    recorder.changed(1, MS).unwrap();
    recorder.heard(1, MS * 3).unwrap();
    report.spread = recorder.spread();
    expect![[r#"
        {
          "settings": {
            "hosts": 1000,
            "services_per_host": 10,
            "network": "lan: 0.5 ms, 0.1 % lost",
            "scenario": "steady change",
            "seed": 42,
            "virtual_s": 120.0
          },
          "phases": [
            {
              "name": "identical digests after contact",
              "outcome_s": 12.4,
              "limit_s": 60.0
            },
            {
              "name": "dead host's services gone everywhere",
              "outcome_s": null,
              "limit_s": 30.0
            }
          ],
          "spread": {
            "changes": 1,
            "hosts_to_reach": 2,
            "heard": 1,
            "missing": 1,
            "quantiles_ms": {
              "p50": 2.0,
              "p90": 2.0,
              "p99": 2.0,
              "p99_9": 2.0,
              "max": 2.0
            },
            "changes_everywhere": 0,
            "everywhere_ms": null,
            "slowest_change": {
              "change": 1,
              "p50_ms": 2.0,
              "last_ms": 2.0,
              "missing": 1
            },
            "curve": [
              {
                "ms": 1.9,
                "share": 0.0
              },
              {
                "ms": 2.0,
                "share": 0.5
              }
            ]
          },
          "traffic": [
            {
              "at_s": 1.0,
              "bytes_per_host_per_s": {
                "mean": 1.0,
                "p99": 2.5,
                "max": 3.0
              }
            }
          ],
          "totals": {
            "datagrams": 1234567,
            "bytes": 123456789,
            "streams": 4321,
            "bytes_by_stream": 45678901,
            "mean_bytes_per_host_per_s": 1028.8,
            "cpu_s": 31.25,
            "wall_s": 33.5,
            "peak_memory_mib": 412.6,
            "false_deaths": 0,
            "lost_services": 3,
            "zombies": 0
          }
        }
    "#]]
    .assert_eq(&report.json());
}

proptest! {
    #[test]
    fn quantiles_are_those_of_a_sorted_list_within_a_bucket(
        delays_ns in prop::collection::vec(0_u64..20_000_000_000, 1..300),
        silent in 0_u32..50,
    ) {
        let hosts = u32::try_from(delays_ns.len()).unwrap() + silent;
        let mut recorder = SpreadRecorder::new(hosts);
        recorder.changed(0, MS).unwrap();
        for delay in &delays_ns {
            recorder.heard(0, MS + Duration::from_nanos(*delay)).unwrap();
        }
        let spread = recorder.spread().unwrap();
        let mut sorted = delays_ns;
        sorted.sort_unstable();
        let exact = |thousandths: usize| {
            sorted[(sorted.len() * thousandths).div_ceil(1_000) - 1] as f64 / 1e6
        };
        let told = spread.quantiles_ms.unwrap();
        prop_assert_eq!(told.max, exact(1_000));
        for (told, exact) in [
            (told.p50, exact(500)),
            (told.p90, exact(900)),
            (told.p99, exact(990)),
            (told.p99_9, exact(999)),
        ] {
            let coarse = if exact <= 100.0 { exact + 0.1 } else { exact * 1.01 };
            prop_assert!(told >= exact && told <= coarse + 1e-6, "{told} for {exact}");
        }
        prop_assert_eq!(spread.missing, u64::from(silent));

        let rises = |pair: &[CurvePoint]| pair[0].ms < pair[1].ms && pair[0].share < pair[1].share;
        prop_assert!(spread.curve.windows(2).all(rises), "{:?}", spread.curve);
        for point in &spread.curve {
            let known = sorted.iter().filter(|delay| **delay as f64 / 1e6 <= point.ms).count();
            prop_assert!((point.share - known as f64 / f64::from(hosts)).abs() < 1e-9);
        }
        if silent == 0 {
            for (mark, quantile) in [(0.5, told.p50), (0.99, told.p99), (0.999, told.p99_9)] {
                let reached = spread.curve.iter().find(|point| point.share >= mark);
                prop_assert_eq!(reached.unwrap().ms, quantile);
            }
        }
    }
}
