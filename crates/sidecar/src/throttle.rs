//! Says the same thing once in a while instead of every time.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Keys remembered at most; beyond that the oldest is forgotten, so a flood of distinct keys costs
/// bounded memory and at worst some repeated lines.
const KEYS_MAX: usize = 1024;

/// Lets each key through once per period.
#[derive(Debug)]
pub struct Throttle {
    every: Duration,
    last: HashMap<String, Instant>,
}

impl Throttle {
    /// One pass per key and `every`.
    pub fn new(every: Duration) -> Self {
        Self {
            every,
            last: HashMap::new(),
        }
    }

    /// Whether to speak about `key` now.
    pub fn allows(&mut self, key: &str, now: Instant) -> bool {
        if self
            .last
            .get(key)
            .is_some_and(|last| now.saturating_duration_since(*last) < self.every)
        {
            return false;
        }
        if self.last.len() >= KEYS_MAX {
            let oldest = self
                .last
                .iter()
                .min_by_key(|(_, at)| **at)
                .map(|(key, _)| key.clone());
            oldest.map(|oldest| self.last.remove(&oldest));
        }
        self.last.insert(key.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_passes_once_per_period_and_memory_is_bounded() {
        let start = Instant::now();
        let mut throttle = Throttle::new(Duration::from_secs(60));
        assert!(throttle.allows("a", start));
        assert!(!throttle.allows("a", start + Duration::from_secs(59)));
        assert!(throttle.allows("b", start));
        assert!(throttle.allows("a", start + Duration::from_secs(60)));
        for key in 0..5000 {
            throttle.allows(&key.to_string(), start);
        }
        assert!(throttle.last.len() <= KEYS_MAX);
    }
}
