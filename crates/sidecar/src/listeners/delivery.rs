//! Brings changes to one listener, in order, one request at a time.
//!
//! A change that is not taken is tried again: quickly at first, then at growing intervals until it is
//! taken or a newer one takes its place. Since every request carries the whole state, a listener that
//! was away is up to date with the first request that it answers.

use std::{sync::Arc, time::Duration};

use catalog::{Change, Snapshot, json};
use tokio::{
    sync::{
        broadcast::{Receiver, error::RecvError, error::TryRecvError},
        watch,
    },
    time::sleep,
};
use tracing::{info, warn};

use super::cookies::Cookies;
use crate::{
    local_view::{ListenerView, LocalView},
    net::http_client::HttpClient,
};

/// The time one request has, as in Go Sidecar.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Waits after the first failures of a change, as in Go Sidecar, which gives up after them.
const PAUSES: [Duration; 6] = [
    Duration::ZERO,
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(300),
    Duration::from_millis(400),
];
/// Then from so long doubling up to so long.
const LATER_MIN: Duration = Duration::from_secs(1);
const LATER_MAX: Duration = Duration::from_secs(30);

/// One listener.
pub(super) struct Delivery {
    pub(super) name: String,
    pub(super) url: String,
    pub(super) client: HttpClient,
    pub(super) cookies: Cookies,
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(super) view: Arc<LocalView>,
}

/// The wait after so many failures in a row.
fn pause(failures: usize) -> Duration {
    let quick = PAUSES.get(failures.saturating_sub(1)).copied();
    quick.unwrap_or_else(|| {
        let doublings = (failures - PAUSES.len() - 1).min(16);
        (LATER_MIN * (1 << doublings)).min(LATER_MAX)
    })
}

impl Drop for Delivery {
    /// Nothing is shown of it any more, wherever it was ended.
    fn drop(&mut self) {
        self.view.forget_listener(&self.name, &self.url);
    }
}

impl Delivery {
    /// Until the writer is gone.
    pub(super) async fn run(mut self, mut changes: Receiver<Change>) {
        let mut shown = ListenerView::new(&self.url);
        self.view.listener(&self.name, shown.clone());
        loop {
            let change = match changes.recv().await {
                Ok(change) => change,
                Err(RecvError::Lagged(missed)) => {
                    self.missed(&mut shown, missed);
                    continue;
                }
                Err(RecvError::Closed) => return,
            };
            self.deliver(change, &mut changes, &mut shown).await;
        }
    }

    async fn deliver(
        &mut self,
        mut change: Change,
        changes: &mut Receiver<Change>,
        shown: &mut ListenerView,
    ) {
        let mut failures = 0;
        while let Err(trouble) = self.post(&change).await {
            failures += 1;
            shown.failed += 1;
            shown.trouble = Some(trouble.clone());
            self.view.listener(&self.name, shown.clone());
            if failures == PAUSES.len() {
                warn!(
                    listener = self.name,
                    trouble,
                    "listener does not take events; the latest is tried again until it does"
                );
            }
            sleep(pause(failures)).await;
            if failures >= PAUSES.len() {
                change = self.newest(changes, shown).unwrap_or(change);
            }
        }
        if failures >= PAUSES.len() {
            info!(
                listener = self.name,
                failures, "listener takes events again"
            );
        }
        shown.delivered += 1;
        shown.trouble = None;
        self.view.listener(&self.name, shown.clone());
    }

    /// The last of the changes that have come meanwhile.
    fn newest(&self, changes: &mut Receiver<Change>, shown: &mut ListenerView) -> Option<Change> {
        let mut newest = None;
        loop {
            match changes.try_recv() {
                Ok(change) => {
                    // The one that was tried, or the one before.
                    shown.merged += 1;
                    newest = Some(change);
                }
                Err(TryRecvError::Lagged(missed)) => self.missed(shown, missed),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return newest,
            }
        }
    }

    fn missed(&self, shown: &mut ListenerView, missed: u64) {
        warn!(
            listener = self.name,
            missed, "listener is too slow: changes were merged with later ones"
        );
        shown.merged += missed;
        self.view.listener(&self.name, shown.clone());
    }

    /// One request; why it was not taken, in words.
    async fn post(&mut self, change: &Change) -> Result<(), String> {
        let snapshot = self.snapshots.borrow().clone();
        let body = json::encode_change_event(&snapshot, change);
        let cookie = self.cookies.header();
        let posted = self
            .client
            .post_json(&self.url, &cookie, body, TIMEOUT)
            .await;
        let response = posted.map_err(|error| error.to_string())?;
        for cookie in &response.cookies {
            self.cookies.keep(cookie);
        }
        if (200..=299).contains(&response.status) {
            return Ok(());
        }
        Err(format!("it answers with status {}", response.status))
    }
}
