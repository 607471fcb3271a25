//! Which endpoints a request is given to, one after the other, until one answers.
//!
//! A request that nothing of was sent is given to the next endpoint, each is tried once. One that was sent and
//! lost with its connection is repeated once, if that can do no harm: it is idempotent and has no body.

use std::{net::SocketAddr, sync::atomic::Ordering::Relaxed, time::Instant};

use super::answers::Trouble;
use crate::proxy::builtin::{Shared, balance::Lease, listener::Port, upstream::Upstream};

/// Why an attempt brought no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nothing was sent: the request is where it was.
    Unsent,
    /// The connection ended after something may have been sent.
    Lost,
    /// It is of no use to try again.
    Final(Trouble),
}

/// The attempts at one request.
#[derive(Debug)]
pub(super) struct Attempts<'a> {
    port: &'a Port,
    shared: &'a Shared,
    started: Instant,
    /// When the present one began.
    pub(super) now: Instant,
    /// How many there were.
    pub(super) count: usize,
    /// Endpoints that could not be reached.
    tried: Vec<SocketAddr>,
    /// The one that lost the request.
    lost: Option<SocketAddr>,
    is_second_try: bool,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(port: &'a Port, shared: &'a Shared, started: Instant) -> Self {
        Self {
            port,
            shared,
            started,
            now: started,
            count: 0,
            tried: Vec::new(),
            lost: None,
            is_second_try: false,
        }
    }

    /// The endpoint to ask now.
    ///
    /// # Errors
    /// What to tell the client when none is left, or it takes too long.
    pub(super) fn next(&mut self) -> Result<Lease, Trouble> {
        let pool = &self.port.pool;
        let lease = match self.lost {
            None => pool.pick_for_request(&self.tried, self.now),
            Some(lost) => {
                let but_lost = [self.tried.as_slice(), &[lost]].concat();
                // Its connection was lost, not necessarily the endpoint: without another it is asked again.
                let other = pool.pick_for_request(&but_lost, self.now);
                other.or_else(|| {
                    self.lost = None;
                    pool.pick_for_request(&self.tried, self.now)
                })
            }
        };
        let is_late = self.now - self.started >= self.shared.limits.connect_deadline;
        let Some(lease) = lease.filter(|_| !is_late || self.count == 0) else {
            return Err(match self.tried.len() {
                _ if self.is_second_try => Trouble::Broken,
                0 => Trouble::NoEndpoint,
                tried => Trouble::Unreachable { tried },
            });
        };
        if self.count > 0 {
            self.port.counts.retries.fetch_add(1, Relaxed);
        }
        self.count += 1;
        Ok(lease)
    }

    /// The attempt failed.
    ///
    /// # Errors
    /// What to tell the client when there is to be no other.
    pub(super) fn failed(
        &mut self,
        upstream: &Upstream,
        failure: Failure,
        is_repeatable: bool,
    ) -> Result<(), Trouble> {
        match failure {
            Failure::Unsent => self.tried.push(upstream.address),
            Failure::Lost => {
                upstream.requests.failed();
                // What else waits there is as likely lost.
                upstream.forget_idle();
                if self.is_second_try || !is_repeatable {
                    return Err(Trouble::Broken);
                }
                self.lost = Some(upstream.address);
                self.is_second_try = true;
            }
            Failure::Final(trouble) => {
                if matches!(trouble, Trouble::Broken | Trouble::Silent) {
                    upstream.requests.failed();
                }
                return Err(trouble);
            }
        }
        self.now = Instant::now();
        Ok(())
    }
}
