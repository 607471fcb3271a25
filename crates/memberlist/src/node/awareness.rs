//! Local health of Lifeguard: a score that slows our own probing while we seem to be the problem.

use std::time::Duration;

/// A score in `0..max`. Higher is worse.
#[derive(Debug, Clone, Copy)]
pub(super) struct Awareness {
    score: u32,
    max: u32,
}

impl Awareness {
    /// `max` is the ceiling plus one, at least 1.
    pub(super) fn new(max: u32) -> Self {
        Self { score: 0, max }
    }

    pub(super) fn apply(&mut self, delta: i32) {
        self.score = self.score.saturating_add_signed(delta).min(self.max - 1);
    }

    pub(super) fn score(self) -> u32 {
        self.score
    }

    /// The probe interval stretched by the score.
    pub(super) fn scale(self, interval: Duration) -> Duration {
        interval.saturating_mul(self.score + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn score_is_clamped_at_both_ends() {
        let mut awareness = Awareness::new(8);
        let scores: Vec<u32> = [0, -1, -10, 1, -1, 10, -1]
            .into_iter()
            .map(|delta| {
                awareness.apply(delta);
                awareness.score()
            })
            .collect();
        assert_eq!(scores, [0, 0, 0, 1, 0, 7, 6]);
        assert_eq!(
            awareness.scale(Duration::from_secs(1)),
            Duration::from_secs(7)
        );
    }
}
