//! What time it is in the cluster. Pure: readings of this host's clocks and samples of others' go in,
//! the time to stamp and judge records by comes out.
//!
//! Records are ordered by their origins' stamps, so a host whose wall clock is wrong would be silenced
//! or refuse everybody. Exchanges carry the wall clocks of both sides, and the *cluster's time* is the
//! lower median of all clocks known, our own included: of two hosts the one that is ahead yields, of
//! more the majority wins, and whoever knows the same clocks comes to the same time. While our own
//! clock is near that, our own stamps are taken from it as it is; beyond, it is corrected. What others
//! have stamped is judged by the cluster's time to the second, so that what one host believes no other
//! refuses. The clock of the machine itself is never touched.
//!
//! Samples are kept against the steady clock of this host, so that a step of its own wall clock is
//! known as such at once, without anybody's help.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use catalog::{Now, Timestamp};

/// A clock that is off by less is taken as it is. Half of what stamps may lie in the future, so that
/// two hosts that are off in opposite directions still believe each other.
pub const TOLERANCE: Duration = Duration::from_secs(5 * 60);
/// Clocks of others kept at most; the one heard longest ago goes first.
pub const CLOCKS_MAX: usize = 64;
/// So many clocks, our own included, or those of all agents if they are fewer, are asked for before
/// anything is corrected.
const QUORUM: usize = 5;
/// How long they are waited for; then those known decide.
const PATIENCE: Duration = Duration::from_secs(10);
/// The clocks are read at least this often, so that a longer pause is noticed.
const READ_EVERY: Duration = Duration::from_secs(60);
/// Between two readings lies a pause of this process or its machine if they are further apart.
const PAUSE_MIN: Duration = Duration::from_secs(120);
/// After a pause, messages may have waited for so long that what they say of clocks is outdated: none
/// are believed for this time.
const DEAF_AFTER_PAUSE: Duration = Duration::from_secs(30);

/// A difference of clocks, in nanoseconds.
type Nanos = i128;

const TOLERANCE_NANOS: Nanos = TOLERANCE.as_nanos().cast_signed();

/// By less the cluster's time may go back without anything being forgotten: so much may a message be
/// late.
const JITTER: Nanos = 5_000_000_000;

/// What a reading of the clocks tells.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// The time, within [`TOLERANCE`] of the cluster's.
    pub now: Now,
    /// From `now` to the cluster's time, by which stamps of others are judged.
    pub exact: Offset,
    /// Whether the cluster's time, as it is seen here, has gone back since the last reading, or this
    /// is the first one.
    pub back: bool,
    /// How far `now` has moved against the steady clock since the last move. `None` when that is
    /// within [`TOLERANCE`].
    pub moved: Option<Offset>,
    /// How long nothing was read before, when that was unusually long.
    pub paused: Option<Duration>,
}

/// From one scale of time to another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offset(Nanos);

impl Offset {
    /// The same moment on the other scale.
    #[must_use]
    pub fn translate(self, time: Timestamp) -> Timestamp {
        Timestamp::from_unix_nanos(time.as_unix_nanos().saturating_add(self.0))
    }

    /// In seconds, rounded towards zero; negative when the other scale is behind.
    pub fn seconds(self) -> i64 {
        seconds(self.0)
    }
}

/// See the module documentation.
#[derive(Debug, Default)]
pub struct ClusterClock {
    /// By name: the peer's wall clock when our steady clock was at zero.
    peers: BTreeMap<String, Sample>,
    /// What is added to our wall clock.
    correction: Nanos,
    /// Since when clocks are known to differ while too few are known to tell which is wrong.
    doubted: Option<Duration>,
    /// Our own clock when it was last compared with others.
    compared: Nanos,
    steady: Steady,
    /// The cluster's time when the steady clock was at zero, if others agree on one.
    median: Option<Nanos>,
    /// The time when the steady clock was at zero, as of the last move.
    reference: Option<Nanos>,
    /// The same of the exact time, as of the last reading.
    judged: Option<Nanos>,
    deaf_until: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    zero: Nanos,
    heard: Duration,
}

/// A clock that nobody sets and that runs on while the machine sleeps; from zero.
#[derive(Debug, Default)]
struct Steady {
    base: Option<Instant>,
    suspended: Duration,
    last: Duration,
}

impl Steady {
    fn at(&self, now: Instant) -> Duration {
        let base = self.base.unwrap_or(now);
        now.saturating_duration_since(base) + self.suspended
    }
}

impl ClusterClock {
    /// How long the machine has been suspended since the start, in all: the monotonic clock stood
    /// still in that time.
    pub fn suspended(&mut self, total: Duration) {
        self.steady.suspended = self.steady.suspended.max(total);
    }

    /// A peer's wall clock showed `theirs` just now.
    pub fn heard(&mut self, peer: &str, theirs: Timestamp, now: Instant) {
        let heard = self.steady.at(now);
        if heard < self.deaf_until {
            return;
        }
        let zero = theirs.as_unix_nanos() - nanos(heard);
        self.peers.insert(peer.to_owned(), Sample { zero, heard });
        if self.peers.len() > CLOCKS_MAX {
            let oldest = self.peers.iter().min_by_key(|(_, sample)| sample.heard);
            let oldest = oldest.map(|(name, _)| name.clone());
            oldest.map(|name| self.peers.remove(&name));
        }
    }

    /// A member is gone; its clock does not count any more.
    pub fn left(&mut self, peer: &str) {
        self.peers.remove(peer);
    }

    /// Whether this peer's clock is known.
    pub fn knows(&self, peer: &str) -> bool {
        self.peers.contains_key(peer)
    }

    /// Whether clocks differ and more of them should be asked for.
    pub fn in_doubt(&self) -> bool {
        self.doubted
            .is_some_and(|since| self.steady.last < since + PATIENCE)
    }

    /// Whether the clocks known differ by so much that every single one may decide.
    pub fn disputed(&self) -> bool {
        let clocks = || self.peers.values().map(|sample| sample.zero);
        let spread = clocks().max().zip(clocks().min());
        self.correction != 0 || spread.is_some_and(|(max, min)| max - min >= TOLERANCE_NANOS)
    }

    /// What is added to this host's wall clock, in seconds, rounded towards zero.
    pub fn correction(&self) -> i64 {
        seconds(self.correction)
    }

    /// When [`ClusterClock::read`] wants to be called again, after the first time.
    pub fn next_deadline(&self) -> Option<Instant> {
        let mut next = self.steady.last + READ_EVERY;
        if let Some(doubted) = self.doubted.filter(|_| self.in_doubt()) {
            next = next.min(doubted + PATIENCE);
        }
        let base = self.steady.base?;
        Some(base + next.saturating_sub(self.steady.suspended))
    }

    /// Reads this host's own clocks. `agents` of our kind are members, this one included.
    pub fn read(&mut self, own: Now, agents: usize) -> Reading {
        self.steady.base.get_or_insert(own.monotonic);
        let at = self.steady.at(own.monotonic);
        let pause = at.saturating_sub(self.steady.last);
        self.steady.last = self.steady.last.max(at);
        let paused = (pause >= PAUSE_MIN).then_some(pause);
        if paused.is_some() {
            self.deaf_until = at + DEAF_AFTER_PAUSE;
        }
        let zero = own.wall.as_unix_nanos() - nanos(at);
        self.correct(zero, at, agents);

        let cluster = zero.saturating_add(self.correction);
        let reference = *self.reference.get_or_insert(cluster);
        let moved = cluster.saturating_sub(reference);
        let moved = (moved.abs() >= TOLERANCE_NANOS).then_some(Offset(moved));
        if moved.is_some() {
            self.reference = Some(cluster);
        }
        let exact = self.median.unwrap_or(cluster);
        let judged = self.judged.unwrap_or(exact);
        // Before the first reading nobody has judged what is held already.
        let back = self.judged.is_none() || exact.saturating_add(JITTER) < judged;
        // What is believed once is not lost to jitter, and jitter does not add up.
        self.judged = Some(if back { exact } else { exact.max(judged) });
        let wall = Timestamp::from_unix_nanos(cluster.saturating_add(nanos(at)));
        let monotonic = own.monotonic;
        Reading {
            now: Now { wall, monotonic },
            exact: Offset(exact - cluster),
            back,
            moved,
            paused,
        }
    }

    /// Brings the correction up to date with the clocks known; `own` is ours.
    fn correct(&mut self, own: Nanos, at: Duration, agents: usize) {
        if self.peers.is_empty() {
            // Alone, the time agreed on last goes on, unless somebody has set our clock.
            self.doubted = None;
            self.median = None;
            if (own - self.compared).abs() >= TOLERANCE_NANOS {
                self.correction = 0;
            }
            return;
        }
        let mut clocks: Vec<Nanos> = self.peers.values().map(|sample| sample.zero).collect();
        let current = own.saturating_add(self.correction);
        let far = |clock: &Nanos| (clock - current).abs() >= TOLERANCE_NANOS;
        let disputed = clocks.iter().any(far) && clocks.len() + 1 < agents.min(QUORUM);
        if !disputed {
            self.doubted = None;
        } else if at < *self.doubted.get_or_insert(at) + PATIENCE {
            return;
        }
        clocks.push(own);
        let median = lower_median(&mut clocks);
        self.compared = own;
        self.median = Some(median);
        let off = median - own;
        // Who is corrected stays so for a while, so that a clock at the edge does not flutter.
        let tolerated = match self.correction {
            0 => TOLERANCE_NANOS,
            _ => TOLERANCE_NANOS / 2,
        };
        self.correction = if off.abs() < tolerated { 0 } else { off };
    }
}

/// The middle one, and the lower of two.
fn lower_median(clocks: &mut [Nanos]) -> Nanos {
    let middle = clocks.len().saturating_sub(1) / 2;
    *clocks.select_nth_unstable(middle).1
}

fn nanos(duration: Duration) -> Nanos {
    duration.as_nanos().cast_signed()
}

fn seconds(nanos: Nanos) -> i64 {
    i64::try_from(nanos / 1_000_000_000).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX })
}

/// So many seconds in the unit that fits.
pub fn in_words(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [
        (365 * 86_400, "years"),
        (86_400, "days"),
        (3_600, "hours"),
        (60, "minutes"),
    ];
    let fits = UNITS.iter().find(|(unit, _)| seconds >= 2 * unit);
    fits.map_or_else(
        || format!("{seconds} seconds"),
        |(unit, word)| format!("{}.{} {word}", seconds / unit, seconds % unit * 10 / unit),
    )
}

#[cfg(test)]
mod tests;
