//! Waiting: a condition, a deadline, and nothing that merely hopes.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Pause between two looks at a condition.
pub const POLL: Duration = Duration::from_millis(20);

/// Looks at a condition until it holds and returns what it gave; the error of a look says what is
/// still missing. The panic prints the last one; the lab's end adds everybody's logs to it.
///
/// # Panics
/// When the condition does not hold `within` the time given.
pub fn eventually<T>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> T {
    let start = Instant::now();
    loop {
        let missing = match look() {
            Ok(value) => return value,
            Err(missing) => missing,
        };
        assert!(
            start.elapsed() < within,
            "not within {within:?}: {what}; at the last look: {missing}"
        );
        thread::sleep(POLL);
    }
}

/// Looks at a condition again and again for the whole `period`.
///
/// # Panics
/// As soon as it does not hold.
pub fn throughout(what: &str, period: Duration, mut look: impl FnMut() -> Result<(), String>) {
    let start = Instant::now();
    while start.elapsed() < period {
        if let Err(broken) = look() {
            panic!(
                "after {:?} no longer true: {what}: {broken}",
                start.elapsed()
            );
        }
        thread::sleep(POLL);
    }
}
