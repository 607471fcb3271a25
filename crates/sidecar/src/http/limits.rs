//! How many may come at a time: who wants one answer and who watches are counted apart, so that neither
//! can shut out the other.

use rustix::process::{Resource, getrlimit};

/// Most connections at a time that do not watch; more wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 1024;
/// Most watchers at a time; more are refused.
const WATCHERS_MAX: usize = 16_384;

/// The bounds of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) connections: usize,
    pub(super) watchers: usize,
}

impl Limits {
    /// What the descriptors of this process allow.
    pub(super) fn of_this_process() -> Self {
        Self::of_descriptors(getrlimit(Resource::Nofile).current)
    }

    /// At most half of the descriptors are for watchers and a quarter for others; the rest is for gossip,
    /// checks and, where it is in this process, the proxy. `None` means that there is no limit.
    fn of_descriptors(limit: Option<u64>) -> Self {
        let limit = limit.map_or(usize::MAX, |it| usize::try_from(it).unwrap_or(usize::MAX));
        Self {
            connections: CONNECTIONS_MAX.min(limit / 4).max(1),
            watchers: WATCHERS_MAX.min(limit / 2).max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchers_never_take_all_descriptors() {
        for (descriptors, connections, watchers) in [
            (None, 1024, 16_384),
            (Some(1 << 20), 1024, 16_384),
            (Some(20_000), 1024, 10_000),
            (Some(1024), 256, 512),
            (Some(1), 1, 1),
        ] {
            let limits = Limits {
                connections,
                watchers,
            };
            assert_eq!(Limits::of_descriptors(descriptors), limits);
        }
    }
}
