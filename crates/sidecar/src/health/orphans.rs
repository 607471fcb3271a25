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
pub(super) struct Orphans(Arc<Mutex<Vec<Pid>>>);

impl Orphans {
    /// The leader of this group has ended; what is left of the group may come to us.
    pub(super) fn watch(&self, group: Pid) {
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
    pub(super) async fn run(self, shutdown: CancellationToken) {
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
