//! Webhooks: whoever wants to hear of every change of a service gets it by POST, with the whole state.
//!
//! Listeners are named by `LISTENERS_URLS`, by the label `SidecarListener` of a container of this host,
//! or by `ListenPort` in the static file; the latter two come and go with their instances. Each has a
//! worker and a place in one bounded ring of changes, so that none delays another or the writer.

mod cookies;
mod delivery;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use catalog::{Change, Snapshot};
use tokio::sync::{broadcast, watch};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{info, warn};

use self::{cookies::Cookies, delivery::Delivery};
use crate::{
    local_view::LocalView,
    net::http_client::{HttpClient, without_credentials},
};

/// Path at which listeners of instances take events, as in Go Sidecar.
const PATH: &str = "/sidecar/update";
/// Listeners served at a time, of instances and others; more are left out and told of.
const LISTENERS_MAX: usize = 256;

/// Listeners of this host's instances: URL by name.
pub type Listeners = BTreeMap<String, String>;

/// The URL of an instance's listener at a port.
pub fn url(ip: &str, port: u16) -> String {
    if ip.contains(':') {
        format!("http://[{ip}]:{port}{PATH}")
    } else {
        format!("http://{ip}:{port}{PATH}")
    }
}

/// What listeners are told of, and where from.
#[derive(Debug)]
pub struct Settings {
    /// `LISTENERS_URLS`.
    pub urls: Vec<String>,
    /// Name of this host, part of the cookie that ties a listener's requests to one backend.
    pub hostname: String,
    /// Changes as the writer makes them; the snapshot with a change is published before it. So many wait for
    /// the slowest listener as the channel holds; when more happen it misses the oldest, never the last.
    pub changes: broadcast::Sender<Change>,
    /// The state.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Sends the requests.
    pub client: HttpClient,
    /// Where deliveries are shown.
    pub view: Arc<LocalView>,
}

/// The listeners there are, each with its worker.
#[derive(Debug)]
pub struct Dispatcher {
    settings: Settings,
    fixed: Listeners,
    workers: BTreeMap<String, Worker>,
}

impl Dispatcher {
    /// Serves the listeners of the settings; they get every change that is made from now on.
    pub fn start(settings: Settings) -> Self {
        let fixed = settings.urls.iter().map(|url| {
            let name = format!("UrlListener({})", without_credentials(url));
            (name, url.clone())
        });
        let fixed: Listeners = fixed.collect();
        let mut workers = BTreeMap::new();
        settings.update(&mut workers, fixed.clone());
        Self {
            settings,
            fixed,
            workers,
        }
    }

    /// Serves those of `managed` as well until `shutdown`. A new one gets nothing until the next change:
    /// it asks for the state when it starts.
    pub async fn run(
        mut self,
        mut managed: watch::Receiver<Listeners>,
        shutdown: CancellationToken,
    ) {
        loop {
            let mut wanted = managed.borrow_and_update().clone();
            wanted.extend(self.fixed.clone());
            self.settings.update(&mut self.workers, wanted);
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = managed.changed() => if changed.is_err() {
                    // No instance will come or go any more.
                    return shutdown.cancelled().await;
                },
            }
        }
    }
}

/// A listener that is served.
#[derive(Debug)]
struct Worker {
    url: String,
    /// Ends the worker when it is dropped.
    _task: AbortOnDropHandle<()>,
}

impl Settings {
    fn update(&self, workers: &mut BTreeMap<String, Worker>, wanted: Listeners) {
        workers.retain(|name, worker| {
            let stays = wanted.get(name) == Some(&worker.url);
            if !stays {
                info!(listener = name, "listener is gone");
            }
            stays
        });
        for (name, url) in wanted {
            if workers.contains_key(&name) {
                continue;
            }
            if workers.len() >= LISTENERS_MAX {
                warn!(
                    listener = name,
                    "listener is left out: there are {LISTENERS_MAX}"
                );
                continue;
            }
            let shown = without_credentials(&url);
            info!(listener = name, url = shown, "listener gets every change");
            let delivery = Delivery {
                name: name.clone(),
                url: url.clone(),
                client: self.client.clone(),
                cookies: Cookies::new(&self.hostname, SystemTime::now().into()),
                snapshots: self.snapshots.clone(),
                view: self.view.clone(),
            };
            let task = tokio::spawn(delivery.run(self.changes.subscribe()));
            let _task = AbortOnDropHandle::new(task);
            workers.insert(name, Worker { url, _task });
        }
    }
}
