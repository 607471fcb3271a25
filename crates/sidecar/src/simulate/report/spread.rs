//! Boils the arrivals of many changes at many hosts down to quantiles and a curve.
//!
//! Arrivals are counted in buckets, a few kilobytes a change however many hosts there are. A bucket
//! holds what is above the edge before it and at most its own edge, so a delay is never told too short.

use std::{collections::BTreeMap, time::Duration};

use thiserror::Error;

use super::{CurvePoint, Quantiles, SlowestChange, Spread};

/// Changes recorded at most, so memory is at most some 40 MB.
pub const CHANGES_MAX: usize = 4_096;

/// Width of the buckets below `LINEAR_BUCKETS` times this, in nanoseconds: 0.1 ms, as fine as a
/// network's own delay matters.
const LINEAR_NS: u64 = 100_000;
/// Buckets of equal width: up to 100 ms. From there each edge is 1 % above the one before.
const LINEAR_BUCKETS: u64 = 1_000;
/// Where buckets end, in nanoseconds: a day. Longer delays share the last one.
const LARGEST_NS: u64 = 24 * 3600 * 1_000_000_000;

/// A point of the curve is this much later than the one before the one before it, or left out.
const CURVE_STEP: f64 = 1.02;
/// Shares, in thousandths, at whose first reaching the curve always has a point.
const CURVE_MARKS: [u64; 3] = [500, 990, 999];

/// Why something could not be recorded. Nothing has changed then, and trying again does not help: the
/// simulation miscounts.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SpreadError {
    /// A change after the last that fits.
    #[error("change {0} is one too many: expected at most {CHANGES_MAX} changes")]
    TooMany(u64),
    /// A change with the number of an earlier one.
    #[error("change {0} is there already: expected each change to have a number of its own")]
    Twice(u64),
    /// A host heard of a change that was not recorded.
    #[error("change {0} was heard of but never made")]
    Unknown(u64),
    /// A host heard of a change before it was made.
    #[error("change {change} was heard of at {heard:?}, before it was made at {made:?}")]
    Early {
        /// The change.
        change: u64,
        /// When it was heard of.
        heard: Duration,
        /// When it was made.
        made: Duration,
    },
    /// More hosts heard of a change than there are.
    #[error(
        "change {change} was heard of more than {hosts} times: expected once per host to reach"
    )]
    Surplus {
        /// The change.
        change: u64,
        /// Hosts to reach.
        hosts: u32,
    },
}

/// Records when changes are made and heard of. Times are virtual, since the start of the run; arrivals
/// may come in any order.
#[derive(Debug)]
pub struct SpreadRecorder {
    hosts_to_reach: u32,
    edges_ns: Vec<u64>,
    changes: BTreeMap<u64, Change>,
}

#[derive(Debug)]
struct Change {
    at: Duration,
    heard: u32,
    last_ns: u64,
    /// Arrivals by bucket, up to the last bucket that has one.
    counts: Vec<u32>,
}

impl SpreadRecorder {
    /// For changes each of which has to reach `hosts_to_reach` hosts: usually all but its own.
    pub fn new(hosts_to_reach: u32) -> Self {
        Self {
            hosts_to_reach,
            edges_ns: edges_ns(),
            changes: BTreeMap::new(),
        }
    }

    /// `change` was made at `at`.
    ///
    /// # Errors
    ///
    /// When its number is taken or there are `CHANGES_MAX` changes.
    pub fn changed(&mut self, change: u64, at: Duration) -> Result<(), SpreadError> {
        if self.changes.contains_key(&change) {
            return Err(SpreadError::Twice(change));
        }
        if self.changes.len() >= CHANGES_MAX {
            return Err(SpreadError::TooMany(change));
        }
        self.changes.insert(
            change,
            Change {
                at,
                heard: 0,
                last_ns: 0,
                counts: Vec::new(),
            },
        );
        Ok(())
    }

    /// One more host heard of `change`, at `at`. To be called once for each host.
    ///
    /// # Errors
    ///
    /// When the change was not made, not yet made, or every host has heard.
    pub fn heard(&mut self, change: u64, at: Duration) -> Result<(), SpreadError> {
        let Some(made) = self.changes.get_mut(&change) else {
            return Err(SpreadError::Unknown(change));
        };
        let Some(delay) = at.checked_sub(made.at) else {
            return Err(SpreadError::Early {
                change,
                heard: at,
                made: made.at,
            });
        };
        if made.heard >= self.hosts_to_reach {
            return Err(SpreadError::Surplus {
                change,
                hosts: self.hosts_to_reach,
            });
        }
        let delay_ns = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        made.record(
            delay_ns,
            self.edges_ns.partition_point(|edge| *edge < delay_ns),
        );
        Ok(())
    }

    /// The spread of what was recorded so far; `None` when no change was.
    pub fn spread(&self) -> Option<Spread> {
        if self.changes.is_empty() {
            return None;
        }
        let all = self.all();
        let pairs = u64::from(self.hosts_to_reach) * self.changes.len() as u64;
        let mut everywhere_ns: Vec<u64> = (self.changes.values())
            .filter(|change| change.heard == self.hosts_to_reach)
            .map(|change| change.last_ns)
            .collect();
        everywhere_ns.sort_unstable();
        Some(Spread {
            changes: self.changes.len(),
            hosts_to_reach: self.hosts_to_reach as usize,
            heard: all.heard,
            missing: pairs - all.heard,
            quantiles_ms: quantiles(all.heard, all.last_ns, |rank| {
                self.upper_ns(rank, all.counts.iter().copied(), all.last_ns)
            }),
            changes_everywhere: everywhere_ns.len(),
            everywhere_ms: quantiles(
                everywhere_ns.len() as u64,
                everywhere_ns.last().copied().unwrap_or(0),
                |rank| everywhere_ns[rank as usize - 1],
            ),
            slowest_change: self.slowest(),
            curve: self.curve(&all, pairs),
        })
    }

    fn all(&self) -> All {
        let mut all = All {
            heard: 0,
            last_ns: 0,
            counts: vec![0; self.edges_ns.len()],
        };
        for change in self.changes.values() {
            all.heard += u64::from(change.heard);
            all.last_ns = all.last_ns.max(change.last_ns);
            for (sum, count) in all.counts.iter_mut().zip(&change.counts) {
                *sum += u64::from(*count);
            }
        }
        all
    }

    /// The edge at or below which `rank` arrivals are. The last arrival is known exactly and nothing
    /// is later.
    fn upper_ns(&self, rank: u64, counts: impl Iterator<Item = u64>, last_ns: u64) -> u64 {
        let mut seen = 0;
        for (edge_ns, count) in self.edges_ns.iter().zip(counts) {
            seen += count;
            if seen >= rank {
                return last_ns.min(*edge_ns);
            }
        }
        last_ns
    }

    fn slowest(&self) -> Option<SlowestChange> {
        let half = u64::from(self.hosts_to_reach.div_ceil(2));
        let half_ns = |change: &Change| {
            (u64::from(change.heard) >= half).then(|| {
                let counts = change.counts.iter().copied().map(u64::from);
                self.upper_ns(half, counts, change.last_ns)
            })
        };
        let (number, change, half_ns) = (self.changes.iter())
            .map(|(number, change)| (number, change, half_ns(change)))
            .max_by_key(|(_, change, half_ns)| (half_ns.unwrap_or(u64::MAX), change.last_ns))?;
        Some(SlowestChange {
            change: *number,
            p50_ms: half_ns.map(ms),
            last_ms: (change.heard > 0).then(|| ms(change.last_ns)),
            missing: u64::from(self.hosts_to_reach - change.heard),
        })
    }

    fn curve(&self, all: &All, pairs: u64) -> Vec<CurvePoint> {
        let mut points: Vec<CurvePoint> = Vec::new();
        let mut known = 0;
        let mut last_is_mark = true;
        for (bucket, count) in all
            .counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
        {
            if points.is_empty() {
                let before_ns = bucket
                    .checked_sub(1)
                    .map_or(0, |before| self.edges_ns[before]);
                points.push(CurvePoint {
                    ms: ms(before_ns),
                    share: 0.0,
                });
            }
            let is_mark = CURVE_MARKS.iter().any(|mark| {
                let enough = (mark * pairs).div_ceil(1_000);
                known < enough && known + count >= enough
            });
            known += count;
            let point = CurvePoint {
                ms: ms(all.last_ns.min(self.edges_ns[bucket])),
                share: known as f64 / pairs as f64,
            };
            match points.as_mut_slice() {
                [.., before, last] if !last_is_mark && point.ms < before.ms * CURVE_STEP => {
                    *last = point;
                }
                _ => points.push(point),
            }
            last_is_mark = is_mark;
        }
        points
    }
}

impl Change {
    fn record(&mut self, delay_ns: u64, bucket: usize) {
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.heard += 1;
        self.last_ns = self.last_ns.max(delay_ns);
    }
}

/// Arrivals of all changes together.
struct All {
    heard: u64,
    last_ns: u64,
    counts: Vec<u64>,
}

/// The upper edge of each bucket; the last has none.
fn edges_ns() -> Vec<u64> {
    let mut edges: Vec<u64> = (1..=LINEAR_BUCKETS).map(|n| n * LINEAR_NS).collect();
    let mut edge = LINEAR_BUCKETS * LINEAR_NS;
    while edge < LARGEST_NS {
        edge += edge / 100;
        edges.push(edge);
    }
    edges.push(u64::MAX);
    edges
}

/// Quantiles of `count` values by nearest rank, in milliseconds, where `of_rank` knows the value of
/// each rank from 1 in nanoseconds.
fn quantiles(count: u64, max_ns: u64, of_rank: impl Fn(u64) -> u64) -> Option<Quantiles> {
    let at = |thousandths: u64| ms(of_rank((count * thousandths).div_ceil(1_000)));
    (count > 0).then(|| Quantiles {
        p50: at(500),
        p90: at(900),
        p99: at(990),
        p99_9: at(999),
        max: ms(max_ns),
    })
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}
