//! From what the kernel holds of a port, and what is wanted of it, to changes. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use super::{target::PortTarget, turns::Turns};

/// What the kernel holds of a ServicePort.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PortHeld {
    /// Whether it has a chain.
    pub(super) has_chain: bool,
    /// Whose turns the rule in it gives, if that is the only one and ours.
    pub(super) fingerprint: Option<u64>,
    /// Where the map of ports leads from it.
    pub(super) entry: Entry,
    /// Endpoints whose new connections are counted.
    pub(super) opened: BTreeSet<SocketAddr>,
    /// Endpoints whose packets are counted and pass.
    pub(super) live: BTreeSet<SocketAddr>,
    /// Endpoints whose connections are cut, and for how long yet.
    pub(super) dead: BTreeMap<SocketAddr, Duration>,
}

/// Where the map of ports leads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Entry {
    /// Nowhere.
    #[default]
    None,
    /// To the chain of the port.
    Own,
    /// Elsewhere.
    Foreign,
}

/// A set of endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Set {
    Opened,
    Live,
    Dead,
}

/// One change of what the kernel holds. They come in the order in which it takes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change<'a> {
    AddChain(u16),
    /// Puts these turns in place of whatever is in the chain.
    Fill(u16, &'a Turns),
    Lead(u16),
    Unlead(u16),
    DeleteChain(u16),
    Add(Set, u16, SocketAddr),
    Delete(Set, u16, SocketAddr),
}

/// The changes of one port.
pub(super) fn plan<'a>(
    port: u16,
    held: Option<&PortHeld>,
    target: Option<&'a PortTarget>,
    changes: &mut Vec<Change<'a>>,
) {
    let nothing = PortHeld::default();
    let held = held.unwrap_or(&nothing);
    let turns = target.and_then(|it| it.turns.as_ref());
    if let Some(turns) = turns {
        if !held.has_chain {
            changes.push(Change::AddChain(port));
        }
        if held.fingerprint != Some(turns.fingerprint()) {
            changes.push(Change::Fill(port, turns));
        }
    }
    if held.entry == Entry::Foreign || turns.is_none() && held.entry == Entry::Own {
        changes.push(Change::Unlead(port));
    }
    if turns.is_some() && held.entry != Entry::Own {
        changes.push(Change::Lead(port));
    }
    if turns.is_none() && held.has_chain {
        changes.push(Change::DeleteChain(port));
    }
    let tracked = || target.iter().flat_map(|it| it.tracked());
    for (set, held) in [(Set::Opened, &held.opened), (Set::Live, &held.live)] {
        let missing = tracked().filter(|it| !held.contains(it));
        changes.extend(missing.map(|it| Change::Add(set, port, it)));
        let surplus = held.iter().filter(|it| !target.is_some_and(|t| t.is_tracked(**it)));
        changes.extend(surplus.map(|it| Change::Delete(set, port, *it)));
    }
    let is_dead = |it: &SocketAddr| target.is_some_and(|t| t.dead.contains_key(it));
    let dead = target.iter().flat_map(|it| it.dead.keys());
    let missing = dead.filter(|it| !held.dead.contains_key(it));
    changes.extend(missing.map(|it| Change::Add(Set::Dead, port, *it)));
    let surplus = held.dead.keys().filter(|it| !is_dead(it));
    changes.extend(surplus.map(|it| Change::Delete(Set::Dead, port, *it)));
}

/// What the kernel holds of a port after the changes; `None` for nothing.
pub(super) fn settled(target: Option<&PortTarget>) -> Option<PortHeld> {
    let target = target?;
    let tracked: BTreeSet<SocketAddr> = target.tracked().collect();
    let is_routed = target.turns.is_some();
    Some(PortHeld {
        has_chain: is_routed,
        fingerprint: target.turns.as_ref().map(Turns::fingerprint),
        entry: if is_routed { Entry::Own } else { Entry::None },
        opened: tracked.clone(),
        live: tracked,
        dead: target.dead.keys().map(|it| (*it, Duration::ZERO)).collect(),
    })
}

#[cfg(test)]
mod tests;
