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
    /// How many turns the rule in it counts, if that is the only one and ours.
    pub(super) counts: Option<u32>,
    /// The kernel's number of that rule, where it is known.
    pub(super) handle: Option<u64>,
    /// Where the map of ports leads from it.
    pub(super) entry: Entry,
    /// Who has which turn.
    pub(super) turns: BTreeMap<u32, SocketAddr>,
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
pub(super) enum Change {
    AddChain(u16),
    /// Puts a rule that counts so many turns in place of this one, or of whatever is in the chain.
    Count(u16, u32, Option<u64>),
    GiveTurn(u16, u32, SocketAddr),
    TakeTurn(u16, u32),
    Lead(u16),
    Unlead(u16),
    DeleteChain(u16),
    Add(Set, u16, SocketAddr),
    Delete(Set, u16, SocketAddr),
}

impl Change {
    /// Whether it is one of chains and rules. These come before all elements: with each rule that uses a map
    /// the kernel looks at all elements of it.
    pub(super) fn is_of_rules(&self) -> bool {
        matches!(self, Self::AddChain(_) | Self::Count(..))
    }
}

/// The changes of one port, and what the kernel holds of it afterwards; `None` for nothing. `first` is the
/// turn with which counting begins where it begins anew.
pub(super) fn plan(
    port: u16,
    held: Option<&PortHeld>,
    target: Option<&PortTarget>,
    first: usize,
    changes: &mut Vec<Change>,
) -> Option<PortHeld> {
    let nothing = PortHeld::default();
    let held = held.unwrap_or(&nothing);
    let turns = target.and_then(|it| it.turns.as_ref());
    // Of a single turn nothing needs to be counted.
    let count = turns.map(Turns::count).filter(|it| *it > 1);
    let is_recounted = count.is_some() && held.counts != count;
    if count.is_some() && !held.has_chain {
        changes.push(Change::AddChain(port));
    }
    if is_recounted {
        let old = held.counts.and(held.handle);
        changes.extend(count.map(|it| Change::Count(port, it, old)));
    }
    if held.entry == Entry::Foreign || count.is_none() && held.entry == Entry::Own {
        changes.push(Change::Unlead(port));
    }
    if count.is_some() && held.entry != Entry::Own {
        changes.push(Change::Lead(port));
    }
    if count.is_none() && held.has_chain {
        changes.push(Change::DeleteChain(port));
    }
    let shared = turns.map(|it| it.shared_out(&held.turns, is_recounted, first));
    let shared = shared.unwrap_or_default();
    plan_turns(port, &held.turns, &shared, changes);
    plan_sets(port, held, target, changes);
    let target = target?;
    let tracked: BTreeSet<SocketAddr> = target.tracked().collect();
    Some(PortHeld {
        has_chain: count.is_some(),
        counts: count,
        // Of a new rule the kernel tells it.
        handle: count.and(held.handle).filter(|_| !is_recounted),
        entry: count.map_or(Entry::None, |_| Entry::Own),
        turns: shared,
        opened: tracked.clone(),
        live: tracked,
        dead: target.dead.keys().map(|it| (*it, Duration::ZERO)).collect(),
    })
}

fn plan_turns(
    port: u16,
    held: &BTreeMap<u32, SocketAddr>,
    wanted: &BTreeMap<u32, SocketAddr>,
    changes: &mut Vec<Change>,
) {
    let surplus = held
        .iter()
        .filter(|(turn, it)| wanted.get(turn) != Some(it));
    changes.extend(surplus.map(|(turn, _)| Change::TakeTurn(port, *turn)));
    let missing = wanted
        .iter()
        .filter(|(turn, it)| held.get(turn) != Some(it));
    changes.extend(missing.map(|(turn, it)| Change::GiveTurn(port, *turn, *it)));
}

fn plan_sets(port: u16, held: &PortHeld, target: Option<&PortTarget>, changes: &mut Vec<Change>) {
    let tracked = || target.iter().flat_map(|it| it.tracked());
    for (set, held) in [(Set::Opened, &held.opened), (Set::Live, &held.live)] {
        let missing = tracked().filter(|it| !held.contains(it));
        changes.extend(missing.map(|it| Change::Add(set, port, it)));
        let surplus = held
            .iter()
            .filter(|it| !target.is_some_and(|t| t.is_tracked(**it)));
        changes.extend(surplus.map(|it| Change::Delete(set, port, *it)));
    }
    let is_dead = |it: &SocketAddr| target.is_some_and(|t| t.dead.contains_key(it));
    let dead = target.iter().flat_map(|it| it.dead.keys());
    let missing = dead.filter(|it| !held.dead.contains_key(it));
    changes.extend(missing.map(|it| Change::Add(Set::Dead, port, *it)));
    let surplus = held.dead.keys().filter(|it| !is_dead(it));
    changes.extend(surplus.map(|it| Change::Delete(Set::Dead, port, *it)));
}

#[cfg(test)]
mod tests;
