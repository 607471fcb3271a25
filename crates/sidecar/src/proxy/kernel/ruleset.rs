//! Our table in nf_tables: its chains, sets and rules, and changes of them as messages.
//!
//! ```text
//! prerouting, output ─▶ route: tcp to the bind address ─▶ map `services`: port ─▶ chain pPORT
//!   pPORT: counts up, looks port and turn up in a map `turnsN`, translates the destination
//!   route, for what has no chain: looks the port up in the map `first`, translates
//! postrouting: what we translated and leaves the host gets the host's address as source
//! input, forward, output ─▶ guard, for translated connections alone:
//!   new: counted in `opened`; of `live` endpoints: counted, passes; to `dead` ones: reset
//! ```
//!
//! The elements of `opened`, `live` and `dead` are ServicePort, address and port of an endpoint, as
//! conntrack has them: where the client wanted to go, and where the answers come from. So others'
//! translations are not ours by mistake. Our chains stand 10 before the usual places: a port that Docker
//! publishes on all addresses does not hide a service.
//!
//! A change of a service is one batch of elements; only where the number of its turns changes its rule is
//! replaced, too, and then the kernel walks over all chains of the table to see that no jumps go in
//! circles, and at all elements of the map that the rule uses: therefore there are several. A packet that is
//! between rule and map when a batch takes effect may miss its turn; it gets the first one, which every
//! service has. What was measured and is not done: a map of each rule's own, among whose thousands the
//! kernel looks for a free name at every change.

use std::net::{IpAddr, SocketAddr};

use super::{
    nft::{
        attributes::Attributes,
        batch::{APPEND, Batch, CREATE, ECHO, REPLACE, kind},
        expressions::{
            ACCEPT, CT_DESTINATION_PORT, CT_DIRECTION, CT_SOURCE_IPV4, CT_SOURCE_IPV6,
            CT_SOURCE_PORT, CT_STATE, CT_STATUS, DIFFERENT, EQUAL, Expressions, JUMP, META_FAMILY,
            META_INPUT_INTERFACE, META_OUTPUT_INTERFACE, META_PROTOCOL, NETWORK_HEADER, ORIGINAL,
            REGISTER, REPLY, TRANSPORT_HEADER, expression, verdict,
        },
    },
    plan::{Change, Set},
    target::DEAD_FOR_KERNEL,
    turns::FIRST,
};

/// Rules of another number are replaced as a whole.
const VERSION: u32 = 1;
/// What every comment of ours begins with.
const COMMENT: &str = "sidecar";
/// The map from ServicePort to chain.
pub(super) const SERVICES: &str = "services";
/// The map from ServicePort to the endpoint of what is not counted.
pub(super) const FIRSTS: &str = "first";
/// Maps from ServicePort and turn to endpoint, each for some of the ports.
pub(super) const TURNS_MAPS: u16 = 64;
/// Index of `lo`, in every network namespace.
const LOOPBACK: u32 = 1;
const TCP: u8 = 6;
const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// Types that `nft list` shows elements as.
const TYPE_MARK: u32 = 19;
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_PORT: u32 = 13;
const TYPE_VERDICT: u32 = 0xffff_ff00;
const TYPE_BITS: u32 = 6;

const MAP: u32 = 0x8;
const TIMEOUT: u32 = 0x10;
/// Bits of conntrack's state and status, and of TCP's flags.
const STATE_NEW: u32 = 8;
const STATUS_TRANSLATED: u32 = 1 << 5;
const FLAG_RESET: u8 = 4;

/// Where a chain is called from: type, hook and priority.
type Hook = (&'static str, u32, i32);

/// Writes the expressions of a rule.
type Fill<'a> = dyn Fn(&mut Expressions<'_, '_>) + 'a;

/// Chains that are always there.
pub(super) const CHAINS: [(&str, Option<Hook>); 8] = [
    ("route", None),
    ("guard", None),
    ("nat_prerouting", Some(("nat", 0, -110))),
    ("nat_output", Some(("nat", 3, -110))),
    ("nat_postrouting", Some(("nat", 4, 90))),
    ("input", Some(("filter", 1, -10))),
    ("forward", Some(("filter", 2, -10))),
    ("output", Some(("filter", 3, -10))),
];

impl Set {
    pub(super) const ALL: [Self; 3] = [Self::Opened, Self::Live, Self::Dead];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Live => "live",
            Self::Dead => "dead",
        }
    }
}

/// Name of an agent's table; its gossip port tells agents of one network namespace apart.
pub(super) fn table_name(gossip_port: u16) -> String {
    format!("sidecar_{gossip_port}")
}

/// Name of a port's chain.
pub(super) fn chain_name(port: u16) -> String {
    format!("p{port}")
}

/// The port of a chain with such a name.
pub(super) fn chain_port(name: &str) -> Option<u16> {
    let port = name.strip_prefix('p')?.parse().ok()?;
    (chain_name(port) == name).then_some(port)
}

/// Name of one of the maps of turns.
pub(super) fn turns_name(number: u16) -> String {
    format!("turns{number}")
}

/// The comment at the rule that counts so many turns, and the other way round.
pub(super) fn count_comment(count: u32) -> String {
    format!("{COMMENT} {VERSION} {count}")
}

pub(super) fn comment_count(comment: &str) -> Option<u32> {
    let (_, text) = comment.rsplit_once(' ')?;
    let count = text.parse().ok()?;
    (count_comment(count) == comment).then_some(count)
}

/// A table of ours, by what does not change.
#[derive(Debug, Clone)]
pub(super) struct Ruleset {
    pub(super) table: String,
    pub(super) bind: IpAddr,
}

impl Ruleset {
    fn family(&self) -> u8 {
        if self.bind.is_ipv4() { IPV4 } else { IPV6 }
    }

    /// The register behind an address that begins in [`REGISTER`].
    fn behind_address(&self) -> u32 {
        REGISTER + if self.bind.is_ipv4() { 1 } else { 4 }
    }

    /// The rules that are always there, by chain, with their comments.
    pub(super) fn comments(&self) -> Vec<(&'static str, String)> {
        let mut comments = Vec::new();
        self.rules(&mut |chain, _| {
            let number = comments.len();
            let comment = format!("{COMMENT} {VERSION}.{number} {}", self.bind);
            comments.push((chain, comment));
        });
        comments
    }

    fn rules(&self, rule: &mut dyn FnMut(&'static str, &Fill<'_>)) {
        let family = self.family();
        let (offset, length, bind) = match self.bind {
            IpAddr::V4(ip) => (16, 4, ip.octets().to_vec()),
            IpAddr::V6(ip) => (24, 16, ip.octets().to_vec()),
        };
        let tcp = |it: &mut Expressions<'_, '_>| {
            it.meta(META_PROTOCOL).compare(EQUAL, &[TCP]);
        };
        let translated = |it: &mut Expressions<'_, '_>| {
            tcp(it);
            let bit = STATUS_TRANSLATED.to_ne_bytes();
            it.conntrack(CT_STATUS).bits(&bit, DIFFERENT);
        };
        let endpoint = |it: &mut Expressions<'_, '_>| self.endpoint(it);
        let ours = |it: &mut Expressions<'_, '_>| {
            it.meta(META_FAMILY).compare(EQUAL, &[family]);
            it.payload(NETWORK_HEADER, offset, length)
                .compare(EQUAL, &bind);
            tcp(it);
        };
        rule("route", &|it| {
            ours(it);
            it.payload(TRANSPORT_HEADER, 2, 2).verdict_of(SERVICES);
        });
        rule("route", &|it| {
            ours(it);
            it.payload(TRANSPORT_HEADER, 2, 2)
                .value_of(FIRSTS)
                .destination(family, self.behind_address());
        });
        for chain in ["nat_prerouting", "nat_output"] {
            rule(chain, &|it| {
                it.verdict(JUMP, Some("route"));
            });
        }
        rule("nat_postrouting", &|it| {
            it.meta(META_OUTPUT_INTERFACE)
                .compare(DIFFERENT, &LOOPBACK.to_ne_bytes());
            translated(it);
            endpoint(it);
            it.is_in(Set::Live.name()).masquerade();
        });
        rule("input", &|it| {
            // What comes from this host has been looked at when it left.
            it.meta(META_INPUT_INTERFACE)
                .compare(DIFFERENT, &LOOPBACK.to_ne_bytes());
            translated(it);
            it.verdict(JUMP, Some("guard"));
        });
        for chain in ["forward", "output"] {
            rule(chain, &|it| {
                translated(it);
                it.verdict(JUMP, Some("guard"));
            });
        }
        rule("guard", &|it| {
            tcp(it);
            let new = STATE_NEW.to_ne_bytes();
            it.conntrack(CT_STATE).bits(&new, DIFFERENT);
            endpoint(it);
            it.is_in(Set::Opened.name());
        });
        rule("guard", &|it| {
            tcp(it);
            endpoint(it);
            it.is_in(Set::Live.name()).verdict(ACCEPT, None);
        });
        rule("guard", &|it| {
            tcp(it);
            it.conntrack(CT_DIRECTION).compare(EQUAL, &[ORIGINAL]);
            // The client's own reset is to reach the endpoint.
            it.payload(TRANSPORT_HEADER, 13, 1)
                .bits(&[FLAG_RESET], EQUAL);
            endpoint(it);
            it.is_in(Set::Dead.name()).reset();
        });
    }

    /// Puts the key of the sets of endpoints into the registers.
    fn endpoint(&self, it: &mut Expressions<'_, '_>) {
        let (key, length) = match self.bind {
            IpAddr::V4(_) => (CT_SOURCE_IPV4, 1),
            IpAddr::V6(_) => (CT_SOURCE_IPV6, 4),
        };
        it.tuple(CT_DESTINATION_PORT, ORIGINAL, REGISTER);
        it.tuple(key, REPLY, REGISTER + 1);
        it.tuple(CT_SOURCE_PORT, REPLY, REGISTER + 1 + length);
    }

    /// Makes the table anew, empty but for what is always there.
    pub(super) fn build(&self, batch: &mut Batch) {
        // So that there is one to delete.
        batch.add(kind::NEW_TABLE, CREATE, |it| it.text(1, &self.table));
        batch.add(kind::DELETE_TABLE, 0, |it| it.text(1, &self.table));
        batch.add(kind::NEW_TABLE, CREATE, |it| it.text(1, &self.table));
        for (name, hook) in CHAINS {
            self.add_chain(batch, name, hook);
        }
        self.add_sets(batch);
        let mut comments = self.comments().into_iter();
        self.rules(&mut |chain, fill| {
            let comment = comments.next().map(|(_, comment)| comment);
            let comment = comment.unwrap_or_default();
            self.add_rule(batch, (chain, None, false), &comment, fill);
        });
    }

    /// Takes the table away.
    pub(super) fn delete(table: &str, batch: &mut Batch) {
        batch.add(kind::DELETE_TABLE, 0, |it| it.text(1, table));
    }

    fn add_chain(&self, batch: &mut Batch, name: &str, hook: Option<Hook>) {
        batch.add(kind::NEW_CHAIN, CREATE, |it| {
            it.text(1, &self.table);
            it.text(3, name);
            if let Some((kind, hook, priority)) = hook {
                it.nested(4, |it| {
                    it.number(1, hook);
                    it.bytes(2, &priority.to_be_bytes());
                });
                it.number(5, u32::try_from(ACCEPT).unwrap_or_default());
                it.text(7, kind);
            }
        });
    }

    fn add_sets(&self, batch: &mut Batch) {
        let (address_type, address_bytes) = if self.bind.is_ipv4() {
            (TYPE_IPV4, 4)
        } else {
            (TYPE_IPV6, 16)
        };
        let key = (TYPE_PORT << TYPE_BITS | address_type) << TYPE_BITS | TYPE_PORT;
        for set in Set::ALL {
            batch.add(kind::NEW_SET, CREATE, |it| {
                it.text(1, &self.table);
                it.text(2, set.name());
                it.number(3, if set == Set::Dead { TIMEOUT } else { 0 });
                it.number(4, key);
                it.number(5, 4 + address_bytes + 4);
                it.number(10, set as u32 + 1);
                if set == Set::Dead {
                    let millis = DEAD_FOR_KERNEL.as_millis();
                    it.long(11, u64::try_from(millis).unwrap_or(u64::MAX));
                } else {
                    it.nested(17, |it| {
                        expression(it, "counter", |it| {
                            it.long(1, 0);
                            it.long(2, 0);
                        });
                    });
                }
            });
        }
        let location = (address_type << TYPE_BITS | TYPE_PORT, address_bytes + 4);
        let mut add_map = |name: &str, key: (u32, u32), number: u32| {
            batch.add(kind::NEW_SET, CREATE, |it| {
                it.text(1, &self.table);
                it.text(2, name);
                it.number(3, MAP);
                it.number(4, key.0);
                it.number(5, key.1);
                it.number(6, location.0);
                it.number(7, location.1);
                it.number(10, number);
            });
        };
        add_map(FIRSTS, (TYPE_PORT, 2), 5);
        for number in 0..TURNS_MAPS {
            let key = (TYPE_PORT << TYPE_BITS | TYPE_MARK, 8);
            add_map(&turns_name(number), key, 6 + u32::from(number));
        }
        batch.add(kind::NEW_SET, CREATE, |it| {
            it.text(1, &self.table);
            it.text(2, SERVICES);
            it.number(3, MAP);
            it.number(4, TYPE_PORT);
            it.number(5, 2);
            it.number(6, TYPE_VERDICT);
            it.number(7, 0);
            it.number(10, 4);
        });
    }

    fn add_rule(
        &self,
        batch: &mut Batch,
        (chain, old, echo): (&str, Option<u64>, bool),
        comment: &str,
        fill: &Fill<'_>,
    ) {
        let flags = old.map_or(CREATE | APPEND, |_| REPLACE);
        let flags = if echo { flags | ECHO } else { flags };
        batch.add(kind::NEW_RULE, flags, |it| {
            it.text(1, &self.table);
            it.text(2, chain);
            if let Some(old) = old {
                it.long(3, old);
            }
            it.nested(4, |it| fill(&mut Expressions(it)));
            let length = u8::try_from(comment.len() + 1).unwrap_or_default();
            let mut userdata = vec![0, length];
            userdata.extend_from_slice(comment.as_bytes());
            userdata.push(0);
            it.bytes(7, &userdata);
        });
    }

    /// Writes a change. With `echo` the kernel tells rules again, with the numbers it gives them.
    pub(super) fn write(&self, change: &Change, batch: &mut Batch, echo: bool) {
        match change {
            Change::AddChain(port) => self.add_chain(batch, &chain_name(*port), None),
            Change::Count(port, count, old) => self.count(batch, *port, *count, *old, echo),
            Change::GiveTurn(port, turn, address) => {
                let (map, key) = turn_place(*port, *turn);
                self.elements(batch, kind::NEW_ELEMENTS, &map, |it| {
                    it.nested(1, |it| it.bytes(1, &key));
                    it.nested(2, |it| it.bytes(1, &location(*address)));
                });
            }
            Change::TakeTurn(port, turn) => {
                let (map, key) = turn_place(*port, *turn);
                self.elements(batch, kind::DELETE_ELEMENTS, &map, |it| {
                    it.nested(1, |it| it.bytes(1, &key));
                });
            }
            Change::Lead(port) => self.elements(batch, kind::NEW_ELEMENTS, SERVICES, |it| {
                it.nested(1, |it| it.bytes(1, &port.to_be_bytes()));
                it.nested(2, |it| verdict(it, JUMP, Some(&chain_name(*port))));
            }),
            Change::Unlead(port) => self.elements(batch, kind::DELETE_ELEMENTS, SERVICES, |it| {
                it.nested(1, |it| it.bytes(1, &port.to_be_bytes()));
            }),
            Change::DeleteChain(port) => batch.add(kind::DELETE_CHAIN, 0, |it| {
                it.text(1, &self.table);
                it.text(3, &chain_name(*port));
            }),
            Change::Add(set, port, address) => {
                self.endpoint_element(batch, kind::NEW_ELEMENTS, *set, *port, *address);
            }
            Change::Delete(set, port, address) => {
                self.endpoint_element(batch, kind::DELETE_ELEMENTS, *set, *port, *address);
            }
        }
    }

    /// A rule that is replaced is taken better than one that is deleted before the new one is added: while a
    /// chain has a rule that uses a map, the kernel does not look at all elements of it for the next.
    fn count(&self, batch: &mut Batch, port: u16, count: u32, old: Option<u64>, echo: bool) {
        let chain = chain_name(port);
        if old.is_none() {
            batch.add(kind::DELETE_RULE, 0, |it| {
                it.text(1, &self.table);
                it.text(2, &chain);
            });
        }
        let comment = count_comment(count);
        self.add_rule(batch, (&chain, old, echo), &comment, &|it| {
            it.payload(TRANSPORT_HEADER, 2, 2)
                .count_up(count, REGISTER + 1)
                .value_of(&turns_name(port % TURNS_MAPS))
                .destination(self.family(), self.behind_address());
        });
    }

    fn endpoint_element(
        &self,
        batch: &mut Batch,
        kind: u8,
        set: Set,
        port: u16,
        address: SocketAddr,
    ) {
        self.elements(batch, kind, set.name(), |it| {
            it.nested(1, |it| it.bytes(1, &endpoint_key(port, address)));
        });
    }

    fn elements(
        &self,
        batch: &mut Batch,
        kind: u8,
        set: &str,
        element: impl FnOnce(&mut Attributes<'_>),
    ) {
        let flags = if kind == kind::NEW_ELEMENTS {
            CREATE
        } else {
            0
        };
        batch.add(kind, flags, |it| {
            it.text(1, &self.table);
            it.text(2, set);
            it.nested(3, |it| it.nested(1, element));
        });
    }
}

/// Map and key of a turn.
fn turn_place(port: u16, turn: u32) -> (String, Vec<u8>) {
    if turn == FIRST {
        (FIRSTS.to_owned(), port.to_be_bytes().to_vec())
    } else {
        (turns_name(port % TURNS_MAPS), turn_key(port, turn))
    }
}

fn turn_key(port: u16, turn: u32) -> Vec<u8> {
    let mut bytes = port.to_be_bytes().to_vec();
    bytes.extend([0; 2]);
    bytes.extend(turn.to_ne_bytes());
    bytes
}

/// What such a key says.
pub(super) fn read_turn(key: &[u8]) -> Option<(u16, u32)> {
    let &[high, low, ref rest @ ..] = key else {
        return None;
    };
    let turn = match rest {
        [] => return Some((u16::from_be_bytes([high, low]), FIRST)),
        [_, _, turn @ ..] => turn,
        [_] => return None,
    };
    let turn = <[u8; 4]>::try_from(turn).ok()?;
    Some((u16::from_be_bytes([high, low]), u32::from_ne_bytes(turn)))
}

/// What such a value says.
pub(super) fn read_location(bytes: &[u8]) -> Option<SocketAddr> {
    let (address, last) = bytes.split_last_chunk::<4>()?;
    let ip: IpAddr = match address.len() {
        4 => <[u8; 4]>::try_from(address).ok()?.into(),
        16 => <[u8; 16]>::try_from(address).ok()?.into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes([last[0], last[1]])))
}

/// Address and port, as they lie in registers.
fn location(address: SocketAddr) -> Vec<u8> {
    let mut bytes = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    bytes.extend(address.port().to_be_bytes());
    bytes.extend([0; 2]);
    bytes
}

fn endpoint_key(port: u16, address: SocketAddr) -> Vec<u8> {
    let mut bytes = port.to_be_bytes().to_vec();
    bytes.extend([0; 2]);
    bytes.extend(location(address));
    bytes
}

/// What such a key says.
pub(super) fn read_endpoint(key: &[u8]) -> Option<(u16, SocketAddr)> {
    let (port, rest) = key.split_first_chunk::<4>()?;
    let port = u16::from_be_bytes([port[0], port[1]]);
    Some((port, read_location(rest)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_names_say_what_they_were_made_of() {
        for text in ["10.0.0.1:8080", "[fd00::1]:65535"] {
            let address: SocketAddr = text.parse().unwrap();
            let key = endpoint_key(10_000, address);
            assert_eq!(read_endpoint(&key), Some((10_000, address)));
            assert_eq!(read_endpoint(&key[..key.len() - 1]), None);
        }
        assert_eq!(chain_port("p10000"), Some(10_000));
        for name in ["p", "p010000", "p65536", "q1", "p+1"] {
            assert_eq!(chain_port(name), None, "{name}");
        }
        let comment = count_comment(31);
        assert_eq!(comment, "sidecar 1 31");
        assert_eq!(comment_count(&comment), Some(31));
        for other in ["sidecar 2 31", "sidecar 1 031", "31"] {
            assert_eq!(comment_count(other), None, "{other}");
        }
        for turn in [7, FIRST] {
            let (_, key) = turn_place(10_000, turn);
            assert_eq!(read_turn(&key), Some((10_000, turn)));
        }
    }

    #[test]
    fn every_rule_has_a_comment_of_its_own_that_names_the_bind_address() {
        let ruleset = |bind: &str| Ruleset {
            table: table_name(7946),
            bind: bind.parse().unwrap(),
        };
        let mut v4 = ruleset("192.168.168.168").comments();
        let v6 = ruleset("fd00::168").comments();
        assert!(v4.iter().zip(&v6).all(|(a, b)| a.0 == b.0 && a.1 != b.1));
        assert!(v4.iter().all(|(_, it)| it.len() < 128));
        let count = v4.len();
        v4.sort();
        v4.dedup();
        assert_eq!(v4.len(), count);
    }
}
