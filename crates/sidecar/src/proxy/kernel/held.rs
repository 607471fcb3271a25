//! What the kernel holds: our table read back, and what it counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    time::Duration,
};

use super::{
    nft::{
        attributes::{Attributes, Parse},
        batch::kind,
        expressions::JUMP,
        socket::{Nft, NftError},
    },
    plan::{Entry, PortHeld, Set},
    ruleset::{
        CHAINS, FIRSTS, Ruleset, SERVICES, TURNS_MAPS, chain_name, chain_port, comment_count,
        read_endpoint, read_location, read_turn, turns_name,
    },
};

/// What there is in place of our table.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Nothing.
    Absent,
    /// One that has not all of what is always there, or more.
    Other(&'static str),
    /// One of ours, with these ports.
    Ours(BTreeMap<u16, PortHeld>),
}

/// `ENOENT`.
pub(super) const NO_ENTRY: i32 = 2;

/// Reads the whole table. Several looks that belong together only if the generation is the same before and
/// after.
pub(super) fn read(nft: &mut Nft, ruleset: &Ruleset) -> Result<Seen, NftError> {
    let chains = chains(nft, &ruleset.table)?;
    let Some(flags) = table_flags(nft, &ruleset.table)? else {
        return Ok(Seen::Absent);
    };
    // Dormant, or somebody else's alone.
    if flags != 0 {
        return Ok(Seen::Other("the table has flags"));
    }
    let wanted = CHAINS.iter().map(|(name, hook)| {
        let hook = hook.map(|(kind, hook, priority)| (kind.to_owned(), hook, priority, 1));
        ((*name).to_owned(), hook)
    });
    let mut ports = BTreeMap::<u16, PortHeld>::new();
    let mut bases = Vec::new();
    for (name, hook) in chains {
        match chain_port(&name) {
            Some(port) if hook.is_none() => ports.entry(port).or_default().has_chain = true,
            _ => bases.push((name, hook)),
        }
    }
    bases.sort();
    let mut wanted: Vec<(String, Option<Base>)> = wanted.collect();
    wanted.sort();
    if bases != wanted {
        return Ok(Seen::Other("its chains are others"));
    }
    if !read_rules(nft, ruleset, &mut ports)? {
        return Ok(Seen::Other("its rules are others"));
    }
    match read_sets(nft, ruleset, &mut ports) {
        Ok(()) => Ok(Seen::Ours(ports)),
        Err(error) if error.number() == Some(NO_ENTRY) => Ok(Seen::Other("a set is missing")),
        Err(error) => Err(error),
    }
}

/// Type, hook, priority and policy of a chain.
type Base = (String, u32, i32, u32);

fn table_flags(nft: &mut Nft, table: &str) -> Result<Option<u32>, NftError> {
    let tables = nft.dump(
        kind::GET_TABLE,
        |_| {},
        |found: &mut BTreeMap<String, u32>, it| {
            if let Some(name) = it.text(1) {
                found.insert(name.to_owned(), it.number(2).unwrap_or_default());
            }
        },
    )?;
    Ok(tables.get(table).copied())
}

fn chains(nft: &mut Nft, table: &str) -> Result<Vec<(String, Option<Base>)>, NftError> {
    nft.dump(
        kind::GET_CHAIN,
        |_| {},
        |found: &mut Vec<(String, Option<Base>)>, it| {
            let (Some(of), Some(name)) = (it.text(1), it.text(3)) else {
                return;
            };
            if of != table {
                return;
            }
            let base = it.within(4).map(|hook| {
                let priority = hook.number(2).unwrap_or_default().cast_signed();
                let kind = it.text(7).unwrap_or_default().to_owned();
                let policy = it.number(5).unwrap_or_default();
                (kind, hook.number(1).unwrap_or_default(), priority, policy)
            });
            found.push((name.to_owned(), base));
        },
    )
}

/// Whether the rules that are always there are as they should be; those of the ports are added to them.
pub(super) fn read_rules(
    nft: &mut Nft,
    ruleset: &Ruleset,
    ports: &mut BTreeMap<u16, PortHeld>,
) -> Result<bool, NftError> {
    let rules = nft.dump(
        kind::GET_RULE,
        |it| it.text(1, &ruleset.table),
        |found: &mut BTreeMap<String, Vec<(String, u64)>>, it| {
            let Some(chain) = it.text(2) else {
                return;
            };
            let comment = it.value(7).and_then(comment).unwrap_or_default();
            let rules = found.entry(chain.to_owned()).or_default();
            rules.push((comment, it.long(3).unwrap_or_default()));
        },
    )?;
    let mut bases = BTreeMap::<&str, Vec<String>>::new();
    for (chain, comment) in ruleset.comments() {
        bases.entry(chain).or_default().push(comment);
    }
    let mut bases_seen = 0;
    for (chain, comments) in &rules {
        if let Some(port) = chain_port(chain) {
            let held = ports.entry(port).or_default();
            if let [(comment, handle)] = &comments[..] {
                held.counts = comment_count(comment);
                held.handle = Some(*handle);
            }
        } else if bases.get(chain.as_str()).is_some_and(|wanted| {
            let found = comments.iter().map(|(comment, _)| comment);
            wanted.iter().eq(found)
        }) {
            bases_seen += 1;
        } else {
            return Ok(false);
        }
    }
    Ok(bases_seen == bases.len())
}

/// The comment in a rule's userdata: a kind, a length, a text.
fn comment(userdata: &[u8]) -> Option<String> {
    let (&[0, length], text) = userdata.split_first_chunk::<2>()? else {
        return None;
    };
    let text = text.get(..usize::from(length))?;
    let text = text.strip_suffix(&[0]).unwrap_or(text);
    Some(String::from_utf8_lossy(text).into_owned())
}

fn read_sets(
    nft: &mut Nft,
    ruleset: &Ruleset,
    ports: &mut BTreeMap<u16, PortHeld>,
) -> Result<(), NftError> {
    let entries = elements(nft, &ruleset.table, SERVICES, |found: &mut Vec<_>, it| {
        let key = it.within(1).and_then(|it| it.value(1));
        let Some(&[high, low]) = key else {
            return;
        };
        let verdict = it.within(2).and_then(|it| it.within(2));
        let code = verdict.as_ref().and_then(|it| it.number(1));
        let chain = verdict.and_then(|it| it.text(2));
        found.push((
            u16::from_be_bytes([high, low]),
            code == Some(JUMP.cast_unsigned()),
            chain.unwrap_or_default().to_owned(),
        ));
    })?;
    for (port, goes, chain) in entries {
        let is_own = goes && chain == chain_name(port);
        ports.entry(port).or_default().entry = if is_own { Entry::Own } else { Entry::Foreign };
    }
    let maps = (0..TURNS_MAPS).map(turns_name);
    for map in maps.chain([FIRSTS.to_owned()]) {
        let turns = elements(nft, &ruleset.table, &map, |found: &mut Vec<_>, it| {
            let key = it.within(1).and_then(|it| it.value(1));
            let value = it.within(2).and_then(|it| it.value(1));
            let turn = key.and_then(read_turn);
            found.extend(turn.zip(value.and_then(read_location)));
        })?;
        for ((port, turn), address) in turns {
            ports.entry(port).or_default().turns.insert(turn, address);
        }
    }
    for set in Set::ALL {
        let endpoints = elements(nft, &ruleset.table, set.name(), |found: &mut Vec<_>, it| {
            let remaining = Duration::from_millis(it.long(5).unwrap_or_default());
            found.extend(endpoint(&it).map(|it| (it, remaining)));
        })?;
        for ((port, address), remaining) in endpoints {
            let held = ports.entry(port).or_default();
            match set {
                Set::Opened => drop(held.opened.insert(address)),
                Set::Live => drop(held.live.insert(address)),
                Set::Dead => drop(held.dead.insert(address, remaining)),
            }
        }
    }
    Ok(())
}

fn endpoint(element: &Parse<'_>) -> Option<(u16, SocketAddr)> {
    read_endpoint(element.within(1)?.value(1)?)
}

fn elements<T: Default>(
    nft: &mut Nft,
    table: &str,
    set: &str,
    mut take: impl FnMut(&mut T, Parse<'_>),
) -> Result<T, NftError> {
    let question = |it: &mut Attributes<'_>| {
        it.text(1, table);
        it.text(2, set);
    };
    nft.dump(kind::GET_ELEMENTS, question, |found, it| {
        for (_, element) in it.within(3).into_iter().flatten() {
            take(found, Parse::new(element));
        }
    })
}

/// What the kernel counted of an endpoint since it is tracked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) connections: u64,
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

/// By ServicePort and endpoint.
pub(super) fn counts(
    nft: &mut Nft,
    table: &str,
) -> Result<BTreeMap<(u16, SocketAddr), Counts>, NftError> {
    let mut all = BTreeMap::<_, Counts>::new();
    for set in [Set::Opened, Set::Live] {
        let counted = elements(nft, table, set.name(), |found: &mut Vec<_>, it| {
            let counter = it.within(7).and_then(|it| it.within(2));
            if let (Some(endpoint), Some(counter)) = (endpoint(&it), counter) {
                let bytes = counter.long(1).unwrap_or_default();
                found.push((endpoint, bytes, counter.long(2).unwrap_or_default()));
            }
        })?;
        for (endpoint, bytes, packets) in counted {
            let counts = all.entry(endpoint).or_default();
            if set == Set::Opened {
                counts.connections = packets;
            } else {
                (counts.packets, counts.bytes) = (packets, bytes);
            }
        }
    }
    Ok(all)
}

/// The endpoints of all ports, as a flat set.
pub(super) fn tracked(ports: &BTreeMap<u16, PortHeld>) -> BTreeSet<(u16, SocketAddr)> {
    let ports = ports.iter();
    ports
        .flat_map(|(port, held)| held.live.iter().map(|it| (*port, *it)))
        .collect()
}

/// Whether what was to be taken away is not there.
pub(super) fn is_missing(error: &NftError) -> bool {
    error.number() == Some(NO_ENTRY)
        || matches!(error, NftError::Answer(it) if it.kind() == io::ErrorKind::NotFound)
}
