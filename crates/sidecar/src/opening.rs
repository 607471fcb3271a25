//! When an agent that has just started begins to route.
//!
//! Before it has joined it knows this host alone, and before its checks have decided not even that;
//! a proxy that served this would send the first clients into a poorer cluster than there is, or tell
//! them that a service is not there. So there are no routes until the view is whole, or until somebody
//! has been waited for long enough. Where a proxy of its own still runs by what an earlier agent told it,
//! it is left alone meanwhile.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How long the first join may take: seeds that do not answer at all must not keep a host closed. After
/// this time it counts as tried.
pub const JOIN_WITHIN: Duration = Duration::from_secs(5);
/// How long sources and first checks may take after that: an engine that is down, or a container that
/// takes a minute to start, must not either.
const CHECKS_WITHIN: Duration = Duration::from_secs(3);

/// What an agent knows already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The parts of the start that are not done.
    pub awaited: Vec<&'static str>,
    /// Whether the first join was tried.
    pub joined: bool,
    /// Whether nobody knows of some instance of this host how it is.
    pub undecided: bool,
}

impl Progress {
    /// At the very beginning.
    pub fn none() -> Self {
        Self {
            awaited: vec!["start"],
            joined: false,
            undecided: false,
        }
    }
}

/// Cancels `open` when it is time to route, and shows in `ready` what is awaited until then, and what of
/// it is missing still.
pub async fn run(
    mut progress: watch::Receiver<Progress>,
    ready: watch::Sender<Vec<&'static str>>,
    open: CancellationToken,
    shutdown: CancellationToken,
) {
    let mut gate = Gate::default();
    loop {
        let current = progress.borrow_and_update().clone();
        let awaited = gate.look(&current, Instant::now());
        if gate.is_open && !open.is_cancelled() {
            if awaited.is_empty() {
                info!("the view is whole: routing begins");
            } else {
                warn!(?awaited, "routing begins with what is known");
            }
            open.cancel();
        }
        ready.send_if_modified(|shown| std::mem::replace(shown, awaited.clone()) != awaited);
        let deadline = gate.deadline();
        let deadline = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = progress.changed() => if changed.is_err() { return },
            () = deadline => {}
        }
    }
}

/// The decision. Pure.
#[derive(Debug, Default)]
struct Gate {
    /// Known once the join was tried.
    checks_until: Option<Instant>,
    is_open: bool,
}

impl Gate {
    /// Opens when the time has come, for good; what is still awaited.
    fn look(&mut self, progress: &Progress, now: Instant) -> Vec<&'static str> {
        if self.checks_until.is_none() && progress.joined {
            self.checks_until = Some(now + CHECKS_WITHIN);
        }
        let mut awaited = progress.awaited.clone();
        // Once there are routes, an instance that nobody knows yet is a new one.
        if progress.undecided && !self.is_open {
            awaited.push("first checks");
        }
        self.is_open |= self
            .checks_until
            .is_some_and(|until| awaited.is_empty() || now >= until);
        awaited.retain(|part| !self.is_open || *part != "first checks");
        awaited
    }

    /// When [`Gate::look`] will decide otherwise.
    fn deadline(&self) -> Option<Instant> {
        self.checks_until.filter(|_| !self.is_open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(awaited: &[&'static str], undecided: bool) -> Progress {
        Progress {
            awaited: awaited.to_vec(),
            joined: !awaited.contains(&"join") && !awaited.contains(&"start"),
            undecided,
        }
    }

    /// When the gate opens, in milliseconds, if these are the steps; and what `/ready` says then.
    fn opens(steps: &[(u64, Progress)]) -> (u64, Vec<&'static str>) {
        let start = Instant::now();
        let mut gate = Gate::default();
        let mut current = Progress::none();
        for at in 0..60_000 {
            let step = steps.iter().find(|(when, _)| *when == at);
            current = step.map_or(current, |(_, progress)| progress.clone());
            let awaited = gate.look(&current, start + Duration::from_millis(at));
            if gate.is_open {
                assert_eq!(gate.deadline(), None);
                return (at, awaited);
            }
        }
        panic!("it stays closed");
    }

    #[test]
    fn it_opens_when_the_view_is_whole() {
        let steps = [
            (1, progress(&["static file", "join"], false)),
            (20, progress(&["join"], true)),
            (30, progress(&[], true)),
            (40, progress(&[], false)),
        ];
        assert_eq!(opens(&steps), (40, vec![]));
        // Checks that were faster than the join.
        let steps = [
            (20, progress(&["join"], false)),
            (300, progress(&[], false)),
        ];
        assert_eq!(opens(&steps), (300, vec![]));
    }

    #[test]
    fn nobody_is_waited_for_without_end() {
        let no_engine = [(100, progress(&["docker listing"], false))];
        assert_eq!(opens(&no_engine), (3_100, vec!["docker listing"]));
        let starting = [(100, progress(&[], true))];
        assert_eq!(opens(&starting), (3_100, vec![]));
    }

    #[tokio::test(start_paused = true)]
    async fn it_shows_what_is_awaited_and_opens_by_itself() {
        let (progress, seen) = watch::channel(Progress::none());
        let (ready, mut shown) = watch::channel(vec!["start"]);
        let (open, shutdown) = (CancellationToken::new(), CancellationToken::new());
        let task = tokio::spawn(run(seen, ready, open.clone(), shutdown.clone()));
        let joined = Progress {
            awaited: Vec::new(),
            joined: true,
            undecided: true,
        };
        progress.send_replace(joined);
        shown.wait_for(|it| *it == ["first checks"]).await.unwrap();
        assert!(!open.is_cancelled());
        open.cancelled().await;
        shown.wait_for(Vec::is_empty).await.unwrap();
        shutdown.cancel();
        task.await.unwrap();
    }
}
