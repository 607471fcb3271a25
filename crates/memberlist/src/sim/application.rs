//! What runs on top of a node in the simulator: the part the application has in a real agent.

use std::time::Instant;

use bytes::Bytes;

use crate::node::{Event, Member, Node, StreamRequest};

/// An application. All times are those of its own host's clock.
pub trait Application {
    /// Takes in something the node tells. What it has to say goes into `node`; what it wants to do
    /// on connections comes back.
    fn handle_event(&mut self, now: Instant, event: Event, node: &mut Node) -> Vec<StreamRequest>;

    /// When [`Application::handle_timeout`] wants to be called.
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Lets time pass.
    fn handle_timeout(&mut self, now: Instant, node: &mut Node) -> Vec<StreamRequest> {
        let _ = (now, node);
        Vec::new()
    }

    /// What to say first in a state exchange with `peer`, as far as it is known; it may be thought to
    /// be dead.
    fn opening(&self, now: Instant, peer: Option<&Member>, join: bool) -> Bytes;

    /// What to reply to `theirs`, before it is merged.
    fn reply(&self, now: Instant, theirs: &Bytes, join: bool) -> Bytes;

    /// What to say first to `peer` when neither side shows its table, whose digest `members` is;
    /// none when tables are to be shown. When they turn out to differ, the application asks for a
    /// full exchange.
    fn brief_opening(&self, now: Instant, peer: &Member, members: u64) -> Option<Bytes> {
        let _ = (now, peer, members);
        None
    }

    /// What to reply to `theirs`, which came without a table; none to show ours all the same.
    fn brief_reply(&self, now: Instant, theirs: &Bytes, members: u64) -> Option<Bytes> {
        let _ = (now, theirs, members);
        None
    }

    /// The same application in the next life of its host, which remembers nothing.
    #[must_use]
    fn restarted(&self, now: Instant) -> Self;
}
