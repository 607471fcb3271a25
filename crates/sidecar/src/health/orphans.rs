//! The children that killed commands leave to us.
//!
//! As the first process of a container the agent inherits every process whose parent has died, and
//! nobody but the agent can take note of their end: without it each command that is killed together
//! with its children would leave zombies for ever. Only process groups of our own checks are looked
//! at, and only after their leader has been waited for. Where somebody else inherits, there is nothing
//! to do, and this finds it out with one system call per command.

use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Pid, WaitOptions, waitpgid};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Most groups that are watched. A command that leaves a process behind at every run reaches it; the
/// oldest are forgotten then.
const GROUPS_MAX: usize = 1024;

/// The groups of commands that have ended. Cheap to clone; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Orphans(Arc<Mutex<Vec<Pid>>>);

impl Orphans {
    /// The leader of this group has ended; what is left of the group may come to us.
    pub(crate) fn watch(&self, group: Pid) {
        if is_done(group) {
            return;
        }
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if groups.len() == GROUPS_MAX {
            groups.remove(0);
            tracing::debug!("commands of checks leave too many processes behind");
        }
        groups.push(group);
    }

    /// Takes note of every child that has ended, until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut ended = match signal(SignalKind::child()) {
            Ok(ended) => ended,
            Err(error) => {
                tracing::warn!(%error, "cannot notice the end of processes that checks leave behind");
                return;
            }
        };
        while let Some(Some(())) = shutdown.run_until_cancelled(ended.recv()).await {
            let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            groups.retain(|group| !is_done(*group));
        }
    }
}

/// Takes note of the ended children in a group; whether no child is left in it. As a process has its
/// children until it is waited for, and they come to us no later than then, none left is final.
fn is_done(group: Pid) -> bool {
    loop {
        match waitpgid(group, WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::time::Duration;

    use rustix::{
        io::Errno,
        process::{getpid, set_child_subreaper, test_kill_process},
    };
    use tokio::time::timeout;

    use super::*;
    use crate::health::{external, external::tests::Witness, words};

    /// Far more than the end of a killed process takes; only a failing test waits for it.
    const AMPLE: Duration = Duration::from_secs(30);

    /// Waits until a process is gone without a trace: a zombie can still be sent signals.
    async fn gone(pid: Pid, mut ended: tokio::signal::unix::Signal) {
        let reaped = async {
            while test_kill_process(pid) != Err(Errno::SRCH) {
                tokio::select! {
                    _ = ended.recv() => {}
                    // Whoever takes note of the end does so on the same signal, before or after us.
                    () = tokio::task::yield_now() => {}
                }
            }
        };
        timeout(AMPLE, reaped).await.expect("no zombie is left");
    }

    #[tokio::test]
    async fn children_of_a_killed_command_leave_no_zombies_where_we_inherit_them() {
        // Like the first process of a container.
        set_child_subreaper(Some(getpid())).unwrap();
        let orphans = Orphans::default();
        let shutdown = CancellationToken::new();
        let reaper = tokio::spawn(orphans.clone().run(shutdown.clone()));
        let witness = Witness::new();
        let line = words::split(&witness.command_line()).unwrap();
        let check = tokio::spawn({
            let orphans = orphans.clone();
            async move { external::run(&line, AMPLE, &orphans).await }
        });
        let (grandchild, fifo, _witness) = witness.born().await;
        let ended = signal(SignalKind::child()).unwrap();
        check.abort();
        external::tests::dead(fifo).await;
        gone(grandchild, ended).await;
        shutdown.cancel();
        reaper.await.unwrap();
        assert!(orphans.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_command_without_children_is_not_remembered() {
        let orphans = Orphans::default();
        let words = ["/bin/true".to_owned()];
        external::run(&words, AMPLE, &orphans).await.unwrap();
        assert!(orphans.0.lock().unwrap().is_empty());
    }
}
