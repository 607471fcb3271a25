//! Brings the kernel to what is wanted: by small batches while it holds what it was told, by reading
//! everything back after doubts.
//!
//! Every change of nf_tables in a network namespace, by anybody, counts its generation up. As long as it is
//! as far as our own batches have brought it nobody else can have changed our table, and nothing needs to be
//! read.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use catalog::Snapshot;
use tracing::{info, warn};

use super::{
    held::{self, Seen},
    nft::{
        attributes::Parse,
        socket::{Nft, NftError},
    },
    plan::{Change, PortHeld, plan},
    ruleset::{self, Ruleset},
    split::{self, Left},
    status::{KernelEndpoint, KernelPort},
    target::Target,
    turns::Turns,
};
use crate::routes::{Route, Routes, changed_ports};

/// Rules of which the kernel tells the numbers one by one; of more they are read afterwards, as the words of
/// the kernel have to fit the socket.
const ECHOES_MAX: usize = 32;
/// How often everything is read again because others change nf_tables meanwhile.
const READINGS_MAX: usize = 8;

/// The routes of one bind address in the kernel of this network namespace.
#[derive(Debug)]
pub struct Plane {
    ruleset: Ruleset,
    reserved: Vec<u16>,
    nft: Option<Nft>,
    target: Target,
    /// All routes that were followed last, and who did not listen then.
    seen: Arc<Routes>,
    unlistened: BTreeSet<SocketAddr>,
    /// Those among them that the kernel serves.
    routes: BTreeMap<u16, Arc<Route>>,
    left: BTreeMap<u16, Left>,
    /// Ports that are to be served by another data plane and are not released yet.
    kept: BTreeSet<u16>,
    /// What the kernel holds, while that is known.
    held: Option<BTreeMap<u16, PortHeld>>,
    /// The generation in which it does.
    generation: u32,
    /// Whether what a former agent did was looked at.
    has_adopted: bool,
    /// Ports whose routes have changed and are not in the kernel yet.
    pending: BTreeSet<u16>,
    /// Grows with every rule: where its counting begins.
    rotation: usize,
    counts: PlaneCounts,
}

/// What a plane has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PlaneCounts {
    /// Batches of changes that the kernel took.
    pub transactions: u64,
    /// Those it did not take.
    pub failures: u64,
    /// Differences found in what it holds and set right.
    pub repairs: u64,
}

impl Plane {
    /// For services at `bind`; nothing is done yet. `reserved` ports are left alone.
    pub fn new(bind: IpAddr, gossip_port: u16, reserved: Vec<u16>) -> Self {
        Self {
            ruleset: Ruleset {
                table: ruleset::table_name(gossip_port),
                bind,
            },
            reserved,
            nft: None,
            target: Target::default(),
            seen: Arc::default(),
            unlistened: BTreeSet::new(),
            routes: BTreeMap::new(),
            left: BTreeMap::new(),
            kept: BTreeSet::new(),
            held: None,
            generation: 0,
            has_adopted: false,
            pending: BTreeSet::new(),
            rotation: 0,
            counts: PlaneCounts::default(),
        }
    }

    /// Takes over the routes in mode tcp that the kernel can serve. A port that has still a route, but one for
    /// another data plane, is kept as it is until it is among the `released`. Nothing is told to the kernel
    /// yet: [`Plane::apply`] does that.
    pub fn follow(
        &mut self,
        routes: &Arc<Routes>,
        unlistened: &BTreeSet<SocketAddr>,
        released: &BTreeSet<u16>,
        snapshot: &Snapshot,
    ) {
        let now = Instant::now();
        let changed = changed_ports(&self.seen.by_port, &routes.by_port);
        let mut ports: BTreeSet<u16> = changed.into_iter().map(|(port, _)| port).collect();
        ports.append(&mut self.kept);
        if *unlistened != self.unlistened {
            let differs =
                |address| unlistened.contains(address) != self.unlistened.contains(address);
            let concerned = routes
                .by_port
                .iter()
                .filter(|(_, route)| route.endpoints.iter().any(|it| differs(&it.address)));
            ports.extend(concerned.map(|(port, _)| *port));
            self.unlistened.clone_from(unlistened);
        }
        for &port in &ports {
            let route = routes.by_port.get(&port);
            self.left.remove(&port);
            let decided = match route {
                Some(route) if split::is_tcp(route) => self.endpoints(port, route),
                _ => Ok(BTreeMap::new()),
            };
            let weights = decided.unwrap_or_else(|why| {
                self.left.insert(port, why);
                BTreeMap::new()
            });
            if !weights.is_empty() {
                self.reroute(port, route, Some(Turns::new(&weights)), snapshot, now);
            } else if self.routes.contains_key(&port) {
                if route.is_some() && !released.contains(&port) {
                    self.kept.insert(port);
                } else {
                    self.reroute(port, None, None, snapshot, now);
                }
            }
        }
        self.pending.extend(self.target.expire(now));
        self.seen = routes.clone();
    }

    fn reroute(
        &mut self,
        port: u16,
        route: Option<&Arc<Route>>,
        turns: Option<Turns>,
        snapshot: &Snapshot,
        now: Instant,
    ) {
        let before = match route {
            Some(route) => self.routes.insert(port, route.clone()),
            None => self.routes.remove(&port),
        };
        let holder = |address| {
            let endpoints = &before.as_ref()?.endpoints;
            let it = endpoints.iter().find(|it| it.address == address)?;
            Some((it.hostname.clone(), it.id.clone()))
        };
        let service = route.map(|it| it.service.as_str());
        self.target
            .route(port, service, turns, holder, snapshot, now);
        self.pending.insert(port);
    }

    fn endpoints(&self, port: u16, route: &Route) -> Result<BTreeMap<SocketAddr, u8>, Left> {
        let Self {
            ruleset, reserved, ..
        } = self;
        split::endpoints(ruleset.bind, port, reserved, &self.unlistened, route)
    }

    /// Looks at what time and the cluster have done to endpoints without a route.
    pub fn recheck(&mut self, snapshot: &Snapshot) {
        let now = Instant::now();
        if self.target.has_lingering() {
            self.pending.extend(self.target.recheck(snapshot, now));
        }
        self.pending.extend(self.target.expire(now));
    }

    /// Whether the kernel is to be told something.
    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty() || self.held.is_none()
    }

    /// Tells the kernel what has changed.
    ///
    /// # Errors
    /// When it does not take it. What it held before stays, and the next call begins with reading it.
    pub fn apply(&mut self, snapshot: &Snapshot) -> Result<(), NftError> {
        let outcome = self.try_apply(snapshot);
        if outcome.is_err() {
            self.counts.failures += 1;
            self.held = None;
        }
        outcome
    }

    fn try_apply(&mut self, snapshot: &Snapshot) -> Result<(), NftError> {
        let was_known = self.held.is_some();
        if was_known {
            let ports = std::mem::take(&mut self.pending);
            if self.bring(&ports).is_ok() {
                return Ok(());
            }
            // Somebody may have taken away what we were to change: look, and do it again.
            self.counts.failures += 1;
            self.held = None;
        }
        let ports = self.look(snapshot)?;
        self.bring(&ports)?;
        self.counts.repairs += u64::from(was_known);
        Ok(())
    }

    /// Reads the table, makes it anew where it is not ours. The ports that there are here or there.
    fn look(&mut self, snapshot: &Snapshot) -> Result<BTreeSet<u16>, NftError> {
        let nft = match &mut self.nft {
            Some(nft) => nft,
            none => none.insert(Nft::open()?),
        };
        let mut readings = 0;
        let seen = loop {
            let generation = nft.generation()?;
            let seen = held::read(nft, &self.ruleset)?;
            if nft.generation()? == generation {
                self.generation = generation;
                break seen;
            }
            readings += 1;
            if readings == READINGS_MAX {
                return Err(NftError::Unsteady);
            }
        };
        let held = match seen {
            Seen::Ours(ports) => {
                if !std::mem::replace(&mut self.has_adopted, true) {
                    info!(
                        table = self.ruleset.table,
                        services = ports.values().filter(|it| !it.turns.is_empty()).count(),
                        "the kernel's rules go on"
                    );
                    let tracked = held::tracked(&ports);
                    let dead = ports.iter().flat_map(|(port, held)| {
                        held.dead.iter().map(|(a, rest)| ((*port, *a), *rest))
                    });
                    let dead = dead.collect();
                    let now = Instant::now();
                    self.target.adopt(&tracked, &dead, snapshot, now);
                }
                ports
            }
            Seen::Absent | Seen::Other(_) => {
                if let Seen::Other(why) = seen {
                    warn!(
                        table = self.ruleset.table,
                        why, "the kernel's rules are made anew"
                    );
                }
                let mut batch = nft.batch();
                self.ruleset.build(&mut batch);
                nft.commit(batch)?;
                self.has_adopted = true;
                self.counts.transactions += 1;
                self.generation = self.generation.wrapping_add(1);
                BTreeMap::new()
            }
        };
        let ports = held.keys().chain(self.target.ports.keys()).copied();
        let ports = ports.collect();
        self.pending.clear();
        self.held = Some(held);
        Ok(ports)
    }

    /// Brings ports from what is held to what is wanted.
    fn bring(&mut self, ports: &BTreeSet<u16>) -> Result<Brought, NftError> {
        let (Some(nft), Some(held)) = (&mut self.nft, &mut self.held) else {
            return Ok(Brought::default());
        };
        let mut changes = Vec::new();
        for &port in ports {
            let target = self.target.ports.get(&port);
            match plan(port, held.get(&port), target, self.rotation, &mut changes) {
                Some(settled) => drop(held.insert(port, settled)),
                None => drop(held.remove(&port)),
            }
        }
        let recounted = changes.iter().filter(|it| matches!(it, Change::Count(..)));
        let recounted = recounted.count();
        self.rotation = self.rotation.wrapping_add(recounted);
        let echo = recounted <= ECHOES_MAX;
        let (of_rules, of_elements): (Vec<_>, Vec<_>) =
            changes.iter().partition(|it| it.is_of_rules());
        let mut brought = Brought {
            count: changes.len() as u64,
            batches: 0,
        };
        let mut batch = nft.batch();
        let mut hear = |rule: Parse<'_>| {
            let port = rule.text(2).and_then(ruleset::chain_port);
            if let Some(held) = port.and_then(|it| held.get_mut(&it)) {
                held.handle = rule.long(3);
            }
        };
        for change in of_rules.into_iter().chain(of_elements) {
            self.ruleset.write(change, &mut batch, echo);
            if batch.len() > nft.batch_bytes_max() {
                nft.commit_and_hear(batch, &mut hear)?;
                batch = nft.batch();
                brought.batches += 1;
            }
        }
        if !batch.is_empty() {
            nft.commit_and_hear(batch, &mut hear)?;
            brought.batches += 1;
        }
        if !echo {
            held::read_rules(nft, &self.ruleset, held)?;
        }
        self.counts.transactions += brought.batches;
        let batches = u32::try_from(brought.batches).unwrap_or_default();
        self.generation = self.generation.wrapping_add(batches);
        Ok(brought)
    }

    /// Looks whether somebody else has changed the table, and sets it right.
    ///
    /// # Errors
    /// As [`Plane::apply`].
    pub fn check(&mut self, snapshot: &Snapshot) -> Result<(), NftError> {
        let outcome = self.try_check(snapshot);
        if outcome.is_err() {
            self.counts.failures += 1;
            self.held = None;
        }
        outcome
    }

    fn try_check(&mut self, snapshot: &Snapshot) -> Result<(), NftError> {
        let (Some(nft), Some(_)) = (&mut self.nft, &self.held) else {
            return self.try_apply(snapshot);
        };
        if nft.generation()? == self.generation {
            return Ok(());
        }
        let before = self.counts.transactions;
        let pending = std::mem::take(&mut self.pending);
        let ports = self.look(snapshot)?;
        let made_anew = self.counts.transactions - before;
        let brought = self.bring(&ports)?;
        let differences = made_anew + brought.count;
        if differences > 0 && pending.is_empty() {
            self.counts.repairs += differences;
            warn!(
                table = self.ruleset.table,
                differences, "the kernel's rules were changed by others and are set right"
            );
        }
        Ok(())
    }

    /// Takes the table away; connections that there are go on.
    ///
    /// # Errors
    /// When the kernel does not.
    pub(super) fn remove(&mut self) -> Result<(), NftError> {
        self.held = None;
        let nft = match &mut self.nft {
            Some(nft) => nft,
            none => none.insert(Nft::open()?),
        };
        remove(nft, &self.ruleset.table).map(|_| ())
    }

    /// What the kernel counted, by ServicePort.
    pub(super) fn ports(&mut self) -> Result<BTreeMap<u16, KernelPort>, NftError> {
        let Some(nft) = &mut self.nft else {
            return Ok(BTreeMap::new());
        };
        let counts = held::counts(nft, &self.ruleset.table)?;
        let ports = self.target.ports.iter().filter_map(|(port, target)| {
            let mut tracked: Vec<_> = target.tracked().collect();
            tracked.sort_unstable();
            let endpoints = tracked.into_iter().map(|address| {
                let counts = counts.get(&(*port, address)).copied().unwrap_or_default();
                let turns = target.turns.as_ref();
                KernelEndpoint {
                    address,
                    turns: turns.map_or(0, |it| it.weight(address)),
                    connections: counts.connections,
                    packets: counts.packets,
                    bytes: counts.bytes,
                }
            });
            let it = KernelPort {
                service: target.service.clone(),
                endpoints: endpoints.collect(),
            };
            (!it.endpoints.is_empty()).then_some((*port, it))
        });
        Ok(ports.collect())
    }

    /// What the kernel holds, read back: ports, tracked and dead endpoints.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn size(&mut self) -> Result<[usize; 3], NftError> {
        let Some(nft) = &mut self.nft else {
            return Ok([0; 3]);
        };
        let ports = match held::read(nft, &self.ruleset)? {
            Seen::Ours(ports) => ports,
            Seen::Absent | Seen::Other(_) => BTreeMap::new(),
        };
        let routed = ports.values().filter(|it| !it.turns.is_empty());
        let live = ports.values().map(|it| it.live.len());
        let dead = ports.values().map(|it| it.dead.len());
        Ok([routed.count(), live.sum(), dead.sum()])
    }

    /// What was done so far.
    pub fn counts(&self) -> PlaneCounts {
        self.counts
    }

    /// Services the kernel serves, or is to.
    pub(super) fn routes(&self) -> &BTreeMap<u16, Arc<Route>> {
        &self.routes
    }

    /// Ports that the kernel serves only until another data plane does.
    pub(super) fn kept(&self) -> &BTreeSet<u16> {
        &self.kept
    }

    /// Why routes in mode tcp are not the kernel's.
    pub(super) fn left(&self) -> &BTreeMap<u16, Left> {
        &self.left
    }

    /// Endpoints whose connections are cut.
    pub fn dead_endpoints(&self) -> usize {
        self.target.dead_count()
    }

    pub(super) fn table(&self) -> &str {
        &self.ruleset.table
    }
}

#[derive(Debug, Default)]
struct Brought {
    count: u64,
    batches: u64,
}

/// Takes a table away; whether there was one.
pub(super) fn remove(nft: &mut Nft, table: &str) -> Result<bool, NftError> {
    let mut batch = nft.batch();
    Ruleset::delete(table, &mut batch);
    match nft.commit(batch) {
        Ok(()) => Ok(true),
        Err(error) if held::is_missing(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Longest time that is worth reading counters in, as a share of all time: a hundredth.
pub(super) const COUNTING_SHARE: u32 = 100;
/// How often counters are read at most.
pub(super) const COUNT_INTERVAL: Duration = Duration::from_secs(5);
