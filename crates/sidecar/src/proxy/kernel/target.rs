//! What the kernel should hold: for each ServicePort where new connections go, and what is to become of
//! those that endpoints have which get no new ones.
//!
//! An endpoint that has left its route *lingers* while an instance that is alive or draining is at its
//! address: its connections go on. Else it is *dead*, and they are cut, until somebody is back at the address
//! or for [`DEAD_FOR`]. **Invariant:** pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use catalog::{Service, Snapshot, Status};

use super::turns::Turns;

/// How long connections to a dead endpoint are cut. A client that was silent for longer meets whatever is
/// there then, which in all likelihood does not know the connection either.
pub(super) const DEAD_FOR: Duration = Duration::from_secs(23 * 3600);
/// How long the kernel does it without an agent: longer, so that it never forgets first.
pub(super) const DEAD_FOR_KERNEL: Duration = Duration::from_secs(24 * 3600);
/// Most endpoints whose connections are cut; the oldest goes first.
pub(super) const DEAD_MAX: usize = 8192;

/// An instance: its host and its ID.
type Holder = (String, String);

/// What is wanted of one ServicePort.
#[derive(Debug, Default)]
pub(super) struct PortTarget {
    /// The service, or the last one.
    pub(super) service: String,
    /// `None`: it takes no connections here.
    pub(super) turns: Option<Turns>,
    lingering: BTreeMap<SocketAddr, Holder>,
    /// With the number in [`Target::dead`].
    pub(super) dead: BTreeMap<SocketAddr, u64>,
}

impl PortTarget {
    /// Endpoints whose connections are counted and go on.
    pub(super) fn tracked(&self) -> impl Iterator<Item = SocketAddr> {
        let serving = self.turns.iter().flat_map(Turns::addresses);
        serving.chain(self.lingering.keys().copied())
    }

    pub(super) fn is_tracked(&self, address: SocketAddr) -> bool {
        self.serves(address) || self.lingering.contains_key(&address)
    }

    fn serves(&self, address: SocketAddr) -> bool {
        self.turns.as_ref().is_some_and(|it| it.has(address))
    }

    fn is_empty(&self) -> bool {
        self.turns.is_none() && self.lingering.is_empty() && self.dead.is_empty()
    }
}

/// What is wanted of all.
#[derive(Debug, Default)]
pub(super) struct Target {
    pub(super) ports: BTreeMap<u16, PortTarget>,
    /// Ports with lingering endpoints.
    lingering: BTreeSet<u16>,
    /// In the order in which they died, with the time when they may be forgotten.
    dead: BTreeMap<u64, (u16, SocketAddr, Instant)>,
    next: u64,
}

impl Target {
    /// Endpoints whose connections are cut.
    pub(super) fn dead_count(&self) -> usize {
        self.dead.len()
    }

    /// Whether something depends on snapshots alone.
    pub(super) fn has_lingering(&self) -> bool {
        !self.lingering.is_empty()
    }

    /// From now on new connections to this port go there, or nowhere. `holder` says which instance is at an
    /// address according to the route of before.
    pub(super) fn route(
        &mut self,
        port: u16,
        service: Option<&str>,
        turns: Option<Turns>,
        holder: impl Fn(SocketAddr) -> Option<Holder>,
        snapshot: &Snapshot,
        now: Instant,
    ) {
        let it = self.ports.entry(port).or_default();
        let before: Vec<SocketAddr> = it.turns.iter().flat_map(Turns::addresses).collect();
        if let Some(service) = service {
            service.clone_into(&mut it.service);
        }
        it.turns = turns;
        let serving: Vec<SocketAddr> = it.turns.iter().flat_map(Turns::addresses).collect();
        for address in serving {
            it.lingering.remove(&address);
            if let Some(number) = it.dead.remove(&address) {
                self.dead.remove(&number);
            }
        }
        let left = before.into_iter().filter(|address| !it.serves(*address));
        for address in left.collect::<Vec<_>>() {
            match holder(address).filter(|holder| holds(snapshot, holder, address)) {
                Some(holder) => self.linger(port, address, holder),
                None => self.condemn(port, address, now + DEAD_FOR),
            }
        }
        self.tidy(port);
    }

    /// Takes over what an agent before had to do with endpoints that have no route now.
    pub(super) fn adopt(
        &mut self,
        tracked: &BTreeSet<(u16, SocketAddr)>,
        dead: &BTreeMap<(u16, SocketAddr), Duration>,
        snapshot: &Snapshot,
        now: Instant,
    ) {
        let holders = holders(snapshot);
        // In the order in which they are to be forgotten.
        let mut dead: Vec<_> = dead
            .iter()
            .map(|(it, remaining)| (*remaining, *it))
            .collect();
        dead.sort_unstable();
        for (remaining, (port, address)) in dead {
            let known = self.ports.get(&port);
            let is_tracked = known.is_some_and(|it| it.is_tracked(address));
            if is_tracked || tracked.contains(&(port, address)) {
                continue;
            }
            let earlier = DEAD_FOR_KERNEL.saturating_sub(DEAD_FOR);
            self.condemn(port, address, now + remaining.saturating_sub(earlier));
        }
        for &(port, address) in tracked {
            let known = self.ports.get(&port);
            if known.is_some_and(|it| it.is_tracked(address)) {
                continue;
            }
            match holders.get(&address) {
                Some(holder) => self.linger(port, address, holder.clone()),
                None => self.condemn(port, address, now + DEAD_FOR),
            }
        }
    }

    /// Looks whether lingering endpoints still live. The ports where one does not.
    pub(super) fn recheck(&mut self, snapshot: &Snapshot, now: Instant) -> BTreeSet<u16> {
        let mut touched = BTreeSet::new();
        for port in self.lingering.clone() {
            let Some(it) = self.ports.get(&port) else {
                continue;
            };
            let gone = it
                .lingering
                .iter()
                .filter(|(a, h)| !holds(snapshot, h, **a));
            for address in gone.map(|(address, _)| *address).collect::<Vec<_>>() {
                touched.insert(port);
                self.condemn(port, address, now + DEAD_FOR);
            }
            self.tidy(port);
        }
        touched
    }

    /// Forgets the dead whose time has come. The ports that had some.
    pub(super) fn expire(&mut self, now: Instant) -> BTreeSet<u16> {
        let mut touched = BTreeSet::new();
        while let Some((&number, &(port, _, until))) = self.dead.first_key_value()
            && (until <= now || self.dead.len() > DEAD_MAX)
        {
            self.forget(number);
            touched.insert(port);
        }
        touched
    }

    fn linger(&mut self, port: u16, address: SocketAddr, holder: Holder) {
        let it = self.ports.entry(port).or_default();
        it.lingering.insert(address, holder);
        self.lingering.insert(port);
    }

    fn condemn(&mut self, port: u16, address: SocketAddr, until: Instant) {
        let it = self.ports.entry(port).or_default();
        it.lingering.remove(&address);
        let number = self.next;
        self.next += 1;
        if let Some(older) = it.dead.insert(address, number) {
            self.dead.remove(&older);
        }
        self.dead.insert(number, (port, address, until));
    }

    fn forget(&mut self, number: u64) {
        if let Some((port, address, _)) = self.dead.remove(&number) {
            if let Some(it) = self.ports.get_mut(&port) {
                it.dead.remove(&address);
            }
            self.tidy(port);
        }
    }

    fn tidy(&mut self, port: u16) {
        let Some(it) = self.ports.get(&port) else {
            return;
        };
        if it.lingering.is_empty() {
            self.lingering.remove(&port);
        }
        if it.is_empty() {
            self.ports.remove(&port);
        }
    }
}

fn is_there(service: &Service) -> bool {
    matches!(service.status, Status::Alive | Status::Draining)
}

fn addresses(service: &Service) -> impl Iterator<Item = SocketAddr> {
    service.port_list().iter().filter_map(|port| {
        let ip: IpAddr = Service::address_of(port)?;
        Some(SocketAddr::new(ip, port.port))
    })
}

fn holds(snapshot: &Snapshot, (hostname, id): &Holder, address: SocketAddr) -> bool {
    let service = snapshot.service(hostname, id);
    service.is_some_and(|it| is_there(it) && addresses(it).any(|a| a == address))
}

/// Which instance is at each address.
fn holders(snapshot: &Snapshot) -> BTreeMap<SocketAddr, Holder> {
    let there = snapshot.services().filter(|it| is_there(it));
    there
        .flat_map(|it| addresses(it).map(|address| (address, (it.hostname.clone(), it.id.clone()))))
        .collect()
}

#[cfg(test)]
mod tests;
