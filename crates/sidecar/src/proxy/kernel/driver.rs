//! The task around the plane: shares the routes out between kernel and built-in proxy, and looks after what
//! the kernel holds.
//!
//! A ServicePort that goes to the kernel is translated first and then closed by the built-in proxy; one that
//! comes back is opened there first. So there is no moment in which nobody serves it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use catalog::{ProxyMode, Snapshot};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    listening,
    nft::socket::NftError,
    plane::{COUNT_INTERVAL, COUNTING_SHARE, Plane},
    split,
    status::{KernelState, KernelStatus},
    trouble::Trouble,
};
use crate::{
    net::netlink,
    proxy::builtin::{ListenState, PlaneStatus},
    routes::{Routes, changed_ports},
};

/// How soon what the kernel holds is looked at again.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long the built-in proxy may take to open a port before the kernel gives it up.
const HANDING_MAX: Duration = Duration::from_secs(3);
/// How often it is tried whether a kernel that cannot be used can be used now, in looks.
const RETRY_LOOKS: u32 = 30;
/// How often this host's addresses are asked for, in looks.
const ADDRESSES_LOOKS: u32 = 5;

/// What the driver is given.
#[derive(Debug)]
pub struct Inputs {
    /// The cluster.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// All routes; nothing is done before the first change, so that what the last agent did stays in force.
    pub routes: watch::Receiver<Arc<Routes>>,
    /// Those that the built-in proxy is to serve.
    pub builtin: watch::Sender<Arc<Routes>>,
    /// What it says of itself.
    pub builtin_status: watch::Receiver<Arc<PlaneStatus>>,
    /// Cancelled before `shutdown` when this host leaves the cluster: then the rules go, too.
    pub leaving: CancellationToken,
    /// Ends the driver.
    pub shutdown: CancellationToken,
}

/// What does not change.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The address services are reached at.
    pub bind: IpAddr,
    /// Port of the agent's gossip, which tells agents in one network namespace apart.
    pub gossip_port: u16,
    /// Ports that are never translated.
    pub reserved_ports: Vec<u16>,
}

/// Keeps the kernel serving the newest routes until `shutdown`.
pub async fn run(settings: Settings, mut inputs: Inputs, status: watch::Sender<Arc<KernelStatus>>) {
    let mut driver = Driver::new(&settings, status);
    tokio::select! {
        () = inputs.shutdown.cancelled() => return driver.end(inputs.leaving.is_cancelled()),
        changed = inputs.routes.changed() => if changed.is_err() { return },
    }
    driver.learn_own_addresses().await;
    let mut due = Instant::now() + LOOK_INTERVAL;
    driver.routes(&mut inputs);
    loop {
        tokio::select! {
            biased;
            () = inputs.shutdown.cancelled() => break,
            // What is said of this host from here on is its goodbye: nothing to cut connections for.
            () = inputs.leaving.cancelled() => {
                inputs.shutdown.cancelled().await;
                break;
            }
            // Everything is looked at in its time, however many changes there are.
            () = tokio::time::sleep_until(due) => {
                driver.looks = driver.looks.wrapping_add(1);
                if driver.looks.is_multiple_of(ADDRESSES_LOOKS) {
                    driver.learn_own_addresses().await;
                }
                driver.look(&mut inputs);
                due = Instant::now() + LOOK_INTERVAL;
            }
            changed = inputs.routes.changed() => {
                if changed.is_err() {
                    break;
                }
                driver.routes(&mut inputs);
            }
            changed = inputs.snapshots.changed() => {
                if changed.is_err() {
                    break;
                }
                driver.snapshot(&mut inputs);
            }
            changed = inputs.builtin_status.changed(), if driver.is_handing() => {
                if changed.is_err() {
                    break;
                }
                driver.handed(&mut inputs);
            }
        }
    }
    driver.end(inputs.leaving.is_cancelled());
}

struct Driver {
    plane: Plane,
    bind: IpAddr,
    own: BTreeSet<IpAddr>,
    /// Endpoints on this host where nobody listens.
    unlistened: BTreeSet<SocketAddr>,
    /// The routes whose endpoints were looked at.
    looked_at: Arc<Routes>,
    /// Ports that the kernel serves until the built-in proxy does, or until then.
    handing: BTreeMap<u16, Instant>,
    /// Ports of the kernel that the built-in proxy has in another mode still.
    changing: BTreeSet<u16>,
    /// Why the kernel cannot be used, and in how many looks it is tried again.
    unusable: Option<(Trouble, u32)>,
    /// Whether the kernel has ever held all it should.
    has_applied: bool,
    /// Whether the built-in proxy was told its routes.
    has_shared: bool,
    /// Looks so far.
    looks: u32,
    counted: Option<Instant>,
    count_pause: Duration,
    status: KernelStatus,
    published: watch::Sender<Arc<KernelStatus>>,
}

impl Driver {
    fn new(settings: &Settings, published: watch::Sender<Arc<KernelStatus>>) -> Self {
        let reserved = settings.reserved_ports.clone();
        let plane = Plane::new(settings.bind, settings.gossip_port, reserved);
        let status = KernelStatus {
            table: plane.table().to_owned(),
            ..KernelStatus::default()
        };
        published.send_replace(Arc::new(status.clone()));
        let unusable = split::unusable(settings.bind).map(Trouble::Bind);
        if let Some(trouble) = &unusable {
            warn!(%trouble, remedy = trouble.remedy(), "the built-in proxy serves everything");
            super::retire(settings.gossip_port);
        }
        Self {
            plane,
            bind: settings.bind,
            own: BTreeSet::new(),
            unlistened: BTreeSet::new(),
            looked_at: Arc::default(),
            handing: BTreeMap::new(),
            changing: BTreeSet::new(),
            unusable: unusable.map(|it| (it, u32::MAX)),
            has_applied: false,
            has_shared: false,
            looks: 0,
            counted: None,
            count_pause: COUNT_INTERVAL,
            status,
            published,
        }
    }

    /// Whether something waits for what the built-in proxy says.
    fn is_handing(&self) -> bool {
        !(self.handing.is_empty() && self.changing.is_empty())
    }

    async fn learn_own_addresses(&mut self) {
        match netlink::addresses().await {
            Ok(addresses) => self.own = addresses.into_iter().collect(),
            Err(error) => debug!(%error, "cannot list addresses; those of before count"),
        }
    }

    /// The routes have changed, or who may serve them.
    fn routes(&mut self, inputs: &mut Inputs) {
        self.routes_with(inputs, &BTreeSet::new());
    }

    /// The same, and the built-in proxy has opened ports, or had the time to.
    fn routes_with(&mut self, inputs: &mut Inputs, released: &BTreeSet<u16>) {
        let routes = inputs.routes.borrow_and_update().clone();
        let snapshot = inputs.snapshots.borrow_and_update().clone();
        let began = std::time::Instant::now();
        if self.unusable.is_none() {
            self.find_unlistened(&routes);
            self.follow(&routes, &snapshot, released);
            if self.plane.is_pending() {
                let outcome = self.plane.apply(&snapshot);
                self.status.last_apply = began.elapsed();
                self.status.apply_total += began.elapsed();
                self.judge(outcome);
            }
        }
        self.share_out(&routes, inputs);
        self.publish();
    }

    /// Tells the plane the routes. What goes to the built-in proxy stays as it is until that has opened it.
    fn follow(&mut self, routes: &Arc<Routes>, snapshot: &Snapshot, released: &BTreeSet<u16>) {
        self.plane
            .follow(routes, &self.unlistened, released, snapshot);
        let until = Instant::now() + HANDING_MAX;
        let kept = self.plane.kept();
        self.handing.retain(|port, _| kept.contains(port));
        for port in kept {
            self.handing.entry(*port).or_insert(until);
        }
    }

    fn share_out(&mut self, routes: &Routes, inputs: &Inputs) {
        let is_kernels = |port: &u16| {
            self.unusable.is_none()
                && self.plane.routes().contains_key(port)
                && !self.handing.contains_key(port)
        };
        // A port that was one for requests stays open for a while without a route, but closes at once as one for
        // connections: so the built-in proxy learns the mode first.
        let status = inputs.builtin_status.borrow().clone();
        let is_for_requests = |port: &u16| {
            let it = status.ports.get(port);
            it.is_some_and(|it| it.mode != ProxyMode::Tcp)
        };
        let kernels = routes.by_port.keys().filter(|port| is_kernels(port));
        let changing: BTreeSet<u16> = kernels
            .filter(|port| is_for_requests(port))
            .copied()
            .collect();
        let is_rest = |port: &u16| !is_kernels(port) || changing.contains(port);
        let by_port = routes.by_port.iter().filter(|(port, _)| is_rest(port));
        let rest = Routes {
            by_port: by_port.map(|(port, it)| (*port, it.clone())).collect(),
            excluded: Vec::new(),
        };
        self.changing = changing;
        inputs.builtin.send_if_modified(|current| {
            // The first is news even if it is empty: what the proxy served before is the kernel's now.
            let is_first = !std::mem::replace(&mut self.has_shared, true);
            let differs = is_first || current.by_port != rest.by_port;
            if differs {
                *current = Arc::new(rest);
            }
            differs
        });
    }

    fn snapshot(&mut self, inputs: &mut Inputs) {
        let snapshot = inputs.snapshots.borrow_and_update().clone();
        if self.unusable.is_some() {
            return;
        }
        self.plane.recheck(&snapshot);
        if self.plane.is_pending() {
            let outcome = self.plane.apply(&snapshot);
            self.judge(outcome);
            self.publish();
        }
    }

    fn handed(&mut self, inputs: &mut Inputs) {
        let status = inputs.builtin_status.borrow_and_update().clone();
        let now = Instant::now();
        let is_released = |(port, until): (&u16, &Instant)| {
            let it = status.ports.get(port);
            let is_open = it.is_some_and(|it| it.listen == ListenState::Listening);
            (is_open || now >= *until).then_some(*port)
        };
        let released: BTreeSet<u16> = self.handing.iter().filter_map(is_released).collect();
        if !released.is_empty() {
            self.routes_with(inputs, &released);
        } else if !self.changing.is_empty() {
            let routes = inputs.routes.borrow().clone();
            self.share_out(&routes, inputs);
        }
    }

    fn look(&mut self, inputs: &mut Inputs) {
        if let Some((_, looks)) = &mut self.unusable {
            *looks = looks.saturating_sub(1);
            if *looks > 0 || split::unusable(self.bind).is_some() {
                return;
            }
            self.unusable = None;
            self.routes(inputs);
            return;
        }
        let snapshot = inputs.snapshots.borrow().clone();
        self.plane.recheck(&snapshot);
        let outcome = if self.plane.is_pending() {
            self.plane.apply(&snapshot)
        } else {
            self.plane.check(&snapshot)
        };
        self.judge(outcome);
        self.handed(inputs);
        if !self.unlistened.is_empty() {
            self.find_listening();
            self.routes(inputs);
        }
        self.count();
        self.publish();
    }

    fn judge(&mut self, outcome: Result<(), NftError>) {
        let trouble = outcome.err().map(Trouble::from);
        match trouble {
            // It has never worked: somebody else has to do it.
            Some(trouble) if !self.has_applied => {
                if self.status.state != KernelState::Unusable {
                    warn!(%trouble, remedy = trouble.remedy(), "the kernel cannot be used; the built-in proxy serves everything");
                }
                self.status.last_error = Some(trouble.to_string());
                self.unusable = Some((trouble, RETRY_LOOKS));
            }
            Some(trouble) => {
                let words = trouble.to_string();
                if self.status.trouble.as_ref() != Some(&words) {
                    warn!(%trouble, remedy = trouble.remedy(), "the kernel does not take a change; it goes on with what it has");
                }
                self.status.state = KernelState::Failed;
                self.status.last_error = Some(words.clone());
                self.status.trouble = Some(words);
            }
            None => {
                self.has_applied = true;
                if self.status.trouble.take().is_some() {
                    info!("the kernel has all services again");
                }
                self.status.state = KernelState::Applied;
            }
        }
        if let Some((trouble, _)) = &self.unusable {
            self.status.state = KernelState::Unusable;
            self.status.trouble = Some(trouble.to_string());
        }
    }

    fn publish(&mut self) {
        let counts = self.plane.counts();
        self.status.transactions = counts.transactions;
        self.status.failures = counts.failures;
        self.status.repairs = counts.repairs;
        self.status.dead_endpoints = self.plane.dead_endpoints();
        if let Some((trouble, _)) = &self.unusable {
            self.status.state = KernelState::Unusable;
            self.status.trouble = Some(trouble.to_string());
            self.status.services = 0;
            self.status.ports = Arc::default();
        } else {
            self.status.services = self.plane.routes().len();
        }
        let left = self.plane.left().iter();
        let left: BTreeMap<u16, String> =
            left.map(|(port, why)| (*port, why.to_string())).collect();
        if left != *self.status.left_to_builtin {
            self.status.left_to_builtin = Arc::new(left);
        }
        self.published.send_if_modified(|shown| {
            let differs = **shown != self.status;
            if differs {
                *shown = Arc::new(self.status.clone());
            }
            differs
        });
    }

    /// Reads the kernel's counters, now and then.
    fn count(&mut self) {
        if self.unusable.is_some()
            || self
                .counted
                .is_some_and(|it| it.elapsed() < self.count_pause)
        {
            return;
        }
        let began = Instant::now();
        match self.plane.ports() {
            Ok(ports) => self.status.ports = Arc::new(ports),
            Err(error) => debug!(%error, "the kernel's counters cannot be read"),
        }
        self.count_pause = COUNT_INTERVAL.max(began.elapsed() * COUNTING_SHARE);
        self.counted = Some(Instant::now());
    }

    /// Looks whether somebody listens at endpoints of this host that are new.
    fn find_unlistened(&mut self, routes: &Arc<Routes>) {
        let changed = changed_ports(&self.looked_at.by_port, &routes.by_port);
        let changed = changed.into_iter().filter_map(|(port, route)| {
            let before = self.looked_at.by_port.get(&port);
            Some((before.map_or(&[][..], |it| &it.endpoints), route?))
        });
        let is_local = |it: &SocketAddr| self.own.contains(&it.ip()) && it.ip() != self.bind;
        let mut new: BTreeSet<SocketAddr> = BTreeSet::new();
        for (before, route) in changed.filter(|(_, route)| split::is_tcp(route)) {
            let addresses = route.endpoints.iter().map(|it| it.address);
            new.extend(addresses.filter(|address| {
                is_local(address) && before.iter().all(|it| it.address != *address)
            }));
        }
        if !new.is_empty() {
            new.append(&mut self.unlistened);
            self.unlistened = unlistened(new);
        }
        self.looked_at = routes.clone();
    }

    /// Looks again at those where nobody did.
    fn find_listening(&mut self) {
        let routes = self.looked_at.by_port.values();
        let endpoints = routes.flat_map(|it| it.endpoints.iter().map(|it| it.address));
        let unlistened_before = &self.unlistened;
        let still = endpoints.filter(|it| unlistened_before.contains(it));
        self.unlistened = unlistened(still.collect());
    }

    fn end(mut self, leaving: bool) {
        if !leaving || self.unusable.is_some() {
            return;
        }
        match self.plane.remove() {
            Ok(()) => info!(
                table = self.plane.table(),
                "the kernel's rules are taken away"
            ),
            Err(error) => warn!(%error, table = self.plane.table(), "the kernel's rules stay"),
        }
    }
}

/// Those of these addresses of the host where nobody accepts connections.
fn unlistened(addresses: BTreeSet<SocketAddr>) -> BTreeSet<SocketAddr> {
    listening::unaccepted(addresses).unwrap_or_else(|error| {
        debug!(%error, "cannot list listening sockets; all count as accepting");
        BTreeSet::new()
    })
}
