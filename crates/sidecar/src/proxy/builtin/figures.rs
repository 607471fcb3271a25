//! What is counted of requests: answers by class, failures, how long answers took.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// Upper bounds of the histogram's buckets, in microseconds: from what a cache in memory takes to what
/// nobody waits for. The last bucket has none.
pub const BUCKET_BOUNDS_MICROS: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// Requests to one endpoint. Grows for as long as the endpoint is known.
#[derive(Debug, Default)]
pub(super) struct RequestFigures {
    classes: [AtomicU64; 5],
    failed: AtomicU64,
    buckets: [AtomicU64; BUCKET_BOUNDS_MICROS.len() + 1],
    sum_micros: AtomicU64,
}

/// The same at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RequestStatus {
    /// Answers by the first digit of their status: 1xx to 5xx.
    pub by_class: [u64; 5],
    /// Requests that were sent, or begun to be, and got no answer.
    pub failed: u64,
    /// Answers by how long their head took, from the choice of the endpoint on: one number for each of
    /// [`BUCKET_BOUNDS_MICROS`] and one for all beyond; not cumulative.
    pub buckets: [u64; BUCKET_BOUNDS_MICROS.len() + 1],
    /// All these times together, in microseconds.
    pub sum_micros: u64,
}

impl RequestFigures {
    /// An answer's head came.
    pub(super) fn answered(&self, status: u16, after: Duration) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        let micros = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKET_BOUNDS_MICROS.partition_point(|bound| *bound < micros);
        self.classes[class].fetch_add(1, Relaxed);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_micros.fetch_add(micros, Relaxed);
    }

    /// No answer came.
    pub(super) fn failed(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    pub(super) fn status(&self) -> RequestStatus {
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        RequestStatus {
            by_class: self.classes.each_ref().map(read),
            failed: read(&self.failed),
            buckets: self.buckets.each_ref().map(read),
            sum_micros: read(&self.sum_micros),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_class_and_time() {
        let figures = RequestFigures::default();
        figures.answered(200, Duration::from_micros(500));
        figures.answered(204, Duration::from_micros(501));
        figures.answered(503, Duration::from_secs(60));
        figures.failed();
        let status = figures.status();
        assert_eq!(status.by_class, [0, 2, 0, 0, 1]);
        assert_eq!(status.failed, 1);
        assert_eq!((status.buckets[0], status.buckets[1]), (1, 1));
        assert_eq!(status.buckets.last(), Some(&1), "beyond the last bound");
        assert_eq!(status.sum_micros, 60_001_001);
    }
}
