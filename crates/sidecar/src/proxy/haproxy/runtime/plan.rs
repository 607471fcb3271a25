//! What to tell HAProxy, from what it holds and what it should hold. Pure: values in, commands out.
//!
//! A ServicePort leads to a pool (a backend that is there from the start) by an entry of one map, and
//! the pool's first letter says how its traffic is treated. Nothing but names made here reaches a
//! command: texts of the network are reduced to `a-z0-9-`, addresses are values.
//!
//! An endpoint is recognised by its name *and* its address. A server whose endpoint is still wanted
//! is never spoken of, so its connections and its place in the rotation stay as they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    str::FromStr,
};

use catalog::ProxyMode;

use super::super::template::sanitized;
use crate::routes::{Endpoint, Route, Routes};

/// The map from ServicePort to pool, as HAProxy names it: a path from its working directory.
pub(super) const MAP: &str = "current/ports.map";
/// Longest name of a server, in bytes, without the number that tells it from its namesakes.
const NAME_BYTES_MAX: usize = 120;

/// How a pool treats its traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    /// Requests, WebSockets among them.
    Http,
    /// Bytes.
    Tcp,
}

/// A backend that is there from HAProxy's start, empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Pool {
    pub(super) kind: Kind,
    pub(super) number: u16,
}

impl Pool {
    /// Every pool of a HAProxy that has so many of each kind.
    pub(super) fn all(http: u16, tcp: u16) -> impl Iterator<Item = Self> {
        let of = |kind, count| (0..count).map(move |number| Self { kind, number });
        of(Kind::Http, http).chain(of(Kind::Tcp, tcp))
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self.kind {
            Kind::Http => 'h',
            Kind::Tcp => 't',
        };
        write!(f, "{letter}{}", self.number)
    }
}

impl FromStr for Pool {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (kind, digits) = match text.split_at_checked(1) {
            Some(("h", digits)) => (Kind::Http, digits),
            Some(("t", digits)) => (Kind::Tcp, digits),
            _ => return Err(()),
        };
        let number = digits.parse().map_err(|_| ())?;
        let pool = Self { kind, number };
        // `h007` and `h+7` are somebody else's names.
        if pool.to_string() == text {
            Ok(pool)
        } else {
            Err(())
        }
    }
}

/// An endpoint as HAProxy can hold it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Target {
    /// `<Hostname>-<ID>`, reduced.
    pub(super) name: String,
    pub(super) address: SocketAddr,
    /// Of HAProxy's 256 at most.
    pub(super) weight: u8,
}

/// What a ServicePort should lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) kind: Kind,
    pub(super) targets: BTreeSet<Target>,
}

/// What HAProxy should hold, by ServicePort.
pub(super) type Wanted = BTreeMap<u16, Wish>;

/// The routes in HAProxy's terms.
pub(super) fn wanted(routes: &Routes) -> Wanted {
    let wish = |route: &Route| Wish {
        kind: match route.mode {
            ProxyMode::Http | ProxyMode::Ws => Kind::Http,
            ProxyMode::Tcp => Kind::Tcp,
        },
        targets: targets(route),
    };
    let by_port = routes.by_port.iter();
    by_port.map(|(port, route)| (*port, wish(route))).collect()
}

/// Instances that share an address are one server, with the name of the first and the largest of their
/// weights, as in the other data planes: each by itself would count the address several times.
fn targets(route: &Route) -> BTreeSet<Target> {
    let mut by_address = BTreeMap::<SocketAddr, Target>::new();
    for endpoint in &route.endpoints {
        by_address
            .entry(endpoint.address)
            .and_modify(|it| it.weight = it.weight.max(endpoint.weight))
            .or_insert_with(|| target(endpoint));
    }
    by_address.into_values().collect()
}

fn target(endpoint: &Endpoint) -> Target {
    Target {
        name: reduced(&format!("{}-{}", endpoint.hostname, endpoint.id)),
        address: endpoint.address,
        weight: endpoint.weight,
    }
}

/// The text with everything outside `a-z0-9-` turned into `-`, as the original does, and cut.
fn reduced(text: &str) -> String {
    let mut name = sanitized(text);
    name.truncate(NAME_BYTES_MAX);
    name
}

/// A server as HAProxy holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    /// `None` when it is no plain address, which nothing here makes.
    pub(super) address: Option<SocketAddr>,
    pub(super) weight: u16,
    pub(super) state: ServerState,
}

/// Whether a server gets connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerState {
    /// It does.
    Ready,
    /// It gets no new ones, keeps those it has, and can be deleted when it has none.
    Maintenance,
    /// Something else, by a hand: draining, or down.
    Other,
}

/// What HAProxy holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Held {
    /// Map entries by ServicePort; more than one value only by a hand.
    pub(super) ports: BTreeMap<u16, BTreeSet<String>>,
    /// HAProxy's references to map entries that are none of ours.
    pub(super) strays: Vec<String>,
    /// Every pool it has, with the servers in it.
    pub(super) pools: BTreeMap<Pool, BTreeMap<String, Server>>,
}

/// One change, and how HAProxy is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    AddServer(Pool, String, SocketAddr, u8),
    /// What was added is in maintenance first.
    Enable(Pool, String),
    SetWeight(Pool, String, u8),
    AddPort(u16, Pool),
    SetPort(u16, Pool),
    DeletePort(u16),
    DeleteStray(String),
    /// No new connections from here on; those it has go on.
    Disable(Pool, String),
    /// Refused by HAProxy as long as the server has connections.
    DeleteServer(Pool, String),
}

impl Command {
    /// The pool whose servers it changes.
    pub(super) fn pool(&self) -> Option<Pool> {
        match self {
            Self::AddServer(pool, ..)
            | Self::Enable(pool, _)
            | Self::SetWeight(pool, ..)
            | Self::Disable(pool, _)
            | Self::DeleteServer(pool, _) => Some(*pool),
            Self::AddPort(..) | Self::SetPort(..) | Self::DeletePort(_) | Self::DeleteStray(_) => {
                None
            }
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddServer(pool, name, address, weight) => {
                write!(f, "add server {pool}/{name} {address} weight {weight}")
            }
            Self::Enable(pool, name) => write!(f, "set server {pool}/{name} state ready"),
            Self::SetWeight(pool, name, weight) => {
                write!(f, "set weight {pool}/{name} {weight}")
            }
            Self::AddPort(port, pool) => write!(f, "add map {MAP} {port} {pool}"),
            Self::SetPort(port, pool) => write!(f, "set map {MAP} {port} {pool}"),
            Self::DeletePort(port) => write!(f, "del map {MAP} {port}"),
            Self::DeleteStray(reference) => write!(f, "del map {MAP} #{reference}"),
            Self::Disable(pool, name) => write!(f, "set server {pool}/{name} state maint"),
            Self::DeleteServer(pool, name) => write!(f, "del server {pool}/{name}"),
        }
    }
}

/// What to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Plan {
    /// Brings HAProxy to what is wanted.
    pub(super) changes: Vec<Command>,
    /// Takes away what gets no connections any more; each may have to wait for the last of them.
    pub(super) cleaning: Vec<Command>,
    /// Wanted ServicePorts without a pool, for now: the changes may set some free for the next plan.
    pub(super) unplaced: BTreeMap<u16, Kind>,
}

/// How to bring HAProxy from `held` to `wanted`.
///
/// New servers are in place before a port leads to them; a port leads nowhere before its last server
/// goes. A ServicePort keeps its pool, whatever becomes of its endpoints.
pub(super) fn plan(held: &Held, wanted: &Wanted) -> Plan {
    let mut plan = Plan::default();
    let placed = place(held, wanted, &mut plan.unplaced);
    let (mut adding, mut mapping, mut removing) = (Vec::new(), Vec::new(), Vec::new());
    for (port, pool) in &placed {
        let value = pool.to_string();
        match held.ports.get(port) {
            None => mapping.push(Command::AddPort(*port, *pool)),
            Some(values) if values.iter().ne([&value]) => {
                mapping.push(Command::SetPort(*port, *pool));
            }
            Some(_) => {}
        }
    }
    for port in held.ports.keys().filter(|it| !placed.contains_key(it)) {
        mapping.push(Command::DeletePort(*port));
    }
    mapping.extend(held.strays.iter().cloned().map(Command::DeleteStray));

    let owners: BTreeMap<Pool, u16> = placed.iter().map(|(port, pool)| (*pool, *port)).collect();
    let nothing = BTreeSet::new();
    for (pool, servers) in &held.pools {
        let targets = owners.get(pool).map_or(&nothing, |it| &wanted[it].targets);
        let mut kept = BTreeSet::new();
        for target in targets {
            match find(servers, target) {
                Some((name, server)) => {
                    kept.insert(name.as_str());
                    if server.state != ServerState::Ready {
                        adding.push(Command::Enable(*pool, name.clone()));
                    }
                    if server.weight != u16::from(target.weight) {
                        adding.push(Command::SetWeight(*pool, name.clone(), target.weight));
                    }
                }
                None => add(*pool, servers, target, &mut adding),
            }
        }
        for (name, server) in servers.iter().filter(|(it, _)| !kept.contains(it.as_str())) {
            if server.state != ServerState::Maintenance {
                removing.push(Command::Disable(*pool, name.clone()));
            }
            let delete = Command::DeleteServer(*pool, name.clone());
            plan.cleaning.push(delete);
        }
    }
    plan.changes = [adding, mapping, removing].concat();
    plan
}

/// Gives each wanted ServicePort a pool of its own: the one it has, else a free one. As long as
/// connections for somebody else could come to a pool, it is not free.
fn place(held: &Held, wanted: &Wanted, unplaced: &mut BTreeMap<u16, Kind>) -> BTreeMap<u16, Pool> {
    let mut taken = BTreeSet::new();
    let mut placed = BTreeMap::new();
    for (port, wish) in wanted {
        let values = held.ports.get(port).into_iter().flatten();
        let mut own = values.filter_map(|it| it.parse::<Pool>().ok());
        let fits =
            |it: &Pool| it.kind == wish.kind && held.pools.contains_key(it) && !taken.contains(it);
        if let Some(pool) = own.find(fits) {
            taken.insert(pool);
            placed.insert(*port, pool);
        }
    }
    let values = held.ports.values().flatten();
    let led_to: BTreeSet<Pool> = values.filter_map(|it| it.parse().ok()).collect();
    let is_free = |pool: &Pool| !led_to.contains(pool) && !taken.contains(pool);
    let free = held.pools.iter().filter(|(pool, _)| is_free(pool));
    let (mut empty, mut used): (Vec<_>, Vec<_>) = free.partition(|(_, servers)| servers.is_empty());
    // The first is taken from the end.
    empty.reverse();
    for (port, wish) in wanted {
        if placed.contains_key(port) {
            continue;
        }
        match choose(wish, &mut empty, &mut used) {
            Some(pool) => drop(placed.insert(*port, pool)),
            None => drop(unplaced.insert(*port, wish.kind)),
        }
    }
    placed
}

/// A free pool with its servers.
type Free<'a> = (&'a Pool, &'a BTreeMap<String, Server>);

/// Takes the best free pool: one that has the wanted servers already, whose entry in the map was lost;
/// else an empty one; else one whose servers only finish their connections.
fn choose<'a>(wish: &Wish, empty: &mut Vec<Free<'a>>, used: &mut Vec<Free<'a>>) -> Option<Pool> {
    let is_wanted = |(name, server): (&String, &Server)| {
        wish.targets
            .iter()
            .any(|target| base(name) == target.name && server.address == Some(target.address))
    };
    let rests = |server: &Server| server.state == ServerState::Maintenance;
    let of_kind = |(pool, _): &Free<'_>| pool.kind == wish.kind;
    let suits = |free: &Free<'_>, has_any: bool| {
        of_kind(free)
            && (!has_any || free.1.iter().any(|it| !rests(it.1)))
            && free.1.iter().all(|it| rests(it.1) || is_wanted(it))
    };
    let (list, index) = if let Some(index) = used.iter().position(|it| suits(it, true)) {
        (used, index)
    } else if let Some(index) = empty.iter().rposition(of_kind) {
        (empty, index)
    } else {
        let index = used.iter().position(|it| suits(it, false))?;
        (used, index)
    };
    Some(*list.remove(index).0)
}

/// The server that is this endpoint: by its address, and by its name with or without a number.
fn find<'a>(
    servers: &'a BTreeMap<String, Server>,
    target: &Target,
) -> Option<(&'a String, &'a Server)> {
    let mut found = servers
        .range(target.name.clone()..)
        .take_while(|(name, _)| name.starts_with(&target.name))
        .filter(|(name, server)| {
            base(name) == target.name && server.address == Some(target.address)
        })
        .collect::<Vec<_>>();
    found.sort_by_key(|(_, server)| server.state != ServerState::Ready);
    found.into_iter().next()
}

/// The name without the number that tells a server from its namesakes. Reduced names have no dots.
fn base(name: &str) -> &str {
    name.split_once('.').map_or(name, |(base, _)| base)
}

/// Adds a server under its endpoint's name, with a number when that is taken: by the same endpoint
/// at another address, or by one whose name came out the same.
fn add(
    pool: Pool,
    servers: &BTreeMap<String, Server>,
    target: &Target,
    commands: &mut Vec<Command>,
) {
    let is_free = |name: &String, commands: &[Command]| {
        let given = |it: &Command| matches!(it, Command::AddServer(at, other, ..) if *at == pool && other == name);
        !servers.contains_key(name) && !commands.iter().rev().any(given)
    };
    let numbered = (2u32..).map(|number| format!("{}.{number}", target.name));
    let mut names = std::iter::once(target.name.clone()).chain(numbered);
    if let Some(name) = names.find(|name| is_free(name, commands)) {
        commands.push(Command::AddServer(
            pool,
            name.clone(),
            target.address,
            target.weight,
        ));
        commands.push(Command::Enable(pool, name));
    }
}

/// What HAProxy holds when nothing stands in the way of the plan: the state it should be started
/// with. `pools` are those it will have.
pub(super) fn ideal(held: &Held, wanted: &Wanted, pools: impl Iterator<Item = Pool>) -> Held {
    let mut start = Held {
        pools: pools.map(|pool| (pool, BTreeMap::new())).collect(),
        ..Held::default()
    };
    // Ports keep their pools, and servers their names, where the new HAProxy has them too.
    for (port, values) in &held.ports {
        let has = |it: &&String| it.parse().is_ok_and(|pool| start.pools.contains_key(&pool));
        let values: BTreeSet<_> = values.iter().filter(has).cloned().collect();
        if !values.is_empty() {
            start.ports.insert(*port, values);
        }
    }
    for (pool, servers) in &mut start.pools {
        if let Some(known) = held.pools.get(pool) {
            servers.clone_from(known);
        }
    }
    // The first plan may set pools free for the second, and the third only cleans.
    for _ in 0..3 {
        let plan = plan(&start, wanted);
        for command in plan.changes.iter().chain(&plan.cleaning) {
            start.apply(command);
        }
    }
    start
}

impl Held {
    /// What a command makes of this, in a HAProxy without connections.
    pub(super) fn apply(&mut self, command: &Command) {
        let mut server = |pool: &Pool, name: &String, change: &dyn Fn(&mut Server)| {
            let servers = self.pools.get_mut(pool);
            if let Some(server) = servers.and_then(|it| it.get_mut(name)) {
                change(server);
            }
        };
        match command {
            Command::AddServer(pool, name, address, weight) => {
                if let Some(servers) = self.pools.get_mut(pool) {
                    servers.entry(name.clone()).or_insert_with(|| Server {
                        address: Some(*address),
                        weight: u16::from(*weight),
                        state: ServerState::Maintenance,
                    });
                }
            }
            Command::Enable(pool, name) => server(pool, name, &|it| it.state = ServerState::Ready),
            Command::SetWeight(pool, name, weight) => {
                server(pool, name, &|it| it.weight = u16::from(*weight));
            }
            Command::Disable(pool, name) => {
                server(pool, name, &|it| it.state = ServerState::Maintenance);
            }
            Command::AddPort(port, pool) => {
                self.ports
                    .entry(*port)
                    .or_default()
                    .insert(pool.to_string());
            }
            Command::SetPort(port, pool) => {
                if let Some(values) = self.ports.get_mut(port) {
                    *values = BTreeSet::from([pool.to_string()]);
                }
            }
            Command::DeletePort(port) => drop(self.ports.remove(port)),
            Command::DeleteStray(reference) => self.strays.retain(|it| it != reference),
            Command::DeleteServer(pool, name) => {
                if let Some(servers) = self.pools.get_mut(pool) {
                    let is_idle = |it: &Server| it.state == ServerState::Maintenance;
                    if servers.get(name).is_some_and(is_idle) {
                        servers.remove(name);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
