//! What a running HAProxy cannot be told and has to be started with: its ports and its pools.
//!
//! Ports that another program holds are left out, because HAProxy does not start at all when it
//! cannot have one of its ports. What a layout says is what the configuration rendered from it does:
//! the two are known by one identity, which HAProxy repeats on its socket.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use super::plan::Kind;
use crate::config::{HaproxyConfig, HaproxyPools};

/// Where the statistics are, as in the original.
pub(super) const STATISTICS_PORT: u16 = 3212;
/// How the configuration is written; another number makes a running HAProxy take over the new way.
const FORMAT: u32 = 1;
/// Most connections at a time. Each takes two descriptors, so the process's limit may come first.
const CONNECTIONS_MAX: u64 = 16_384;
/// Descriptors for everything that is neither a listener nor a connection.
const DESCRIPTORS_ASIDE: u64 = 256;

/// The settings a layout was made for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Asked {
    format: u32,
    pub(super) bind: IpAddr,
    ports: Vec<RangeInclusive<u16>>,
    http: u16,
    tcp: u16,
    pub(super) user: String,
    pub(super) group: String,
}

impl Asked {
    pub(super) fn new(config: &HaproxyConfig, bind: IpAddr) -> Self {
        Self {
            format: FORMAT,
            bind,
            ports: config.ports.clone(),
            http: config.pools.http,
            tcp: config.pools.tcp,
            user: config.user.clone(),
            group: config.group.clone(),
        }
    }
}

/// What HAProxy is started with, beside what it can be told later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Layout {
    pub(super) asked: Asked,
    /// The ports it listens on.
    pub(super) open: Vec<RangeInclusive<u16>>,
    /// Pools of each kind.
    pub(super) http: u16,
    pub(super) tcp: u16,
    /// Whether it has the port of the statistics.
    pub(super) has_statistics: bool,
    /// Most connections at a time.
    pub(super) connections: u64,
}

/// Why there is no layout.
#[derive(Debug, thiserror::Error)]
pub(super) enum LayoutError {
    /// Nothing on this host has the address; the next look may find it.
    #[error("no port can be had on {0}: {1}")]
    Address(IpAddr, io::Error),
}

impl Layout {
    /// The layout for these settings, in which every port of `needed` is open that can be had, then
    /// as many of those asked for as there are descriptors for. `old` is what the HAProxy that is to
    /// be replaced has: its ports are taken by nobody else. Asks the system for each port, which
    /// takes some microseconds.
    ///
    /// # Errors
    /// When the address itself cannot be had.
    pub(super) fn decide(
        asked: Asked,
        old: Option<&Self>,
        needed: &BTreeSet<u16>,
        reserved: &[u16],
        needs: &BTreeMap<Kind, usize>,
        descriptors: u64,
    ) -> Result<Self, LayoutError> {
        // Half of them for listeners at most, so that there are some for connections.
        let budget = usize::try_from(descriptors / 2).unwrap_or(usize::MAX);
        let bind = asked.bind;
        let old = old.filter(|it| it.asked.bind == bind);
        let mut open = BTreeSet::new();
        let configured = asked.ports.iter().cloned().flatten();
        let configured = configured.filter(|port| {
            // The statistics are on all addresses, so nothing else can have that port.
            !reserved.contains(port) && *port != STATISTICS_PORT
        });
        for port in needed.iter().copied().chain(configured) {
            if open.len() >= budget {
                break;
            }
            if open.contains(&port) || old.is_some_and(|it| it.covers(port)) {
                open.insert(port);
                continue;
            }
            match probe(SocketAddr::new(bind, port)) {
                Ok(()) => drop(open.insert(port)),
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                    return Err(LayoutError::Address(bind, error));
                }
                // Taken, or not allowed to us.
                Err(_) => {}
            }
        }
        let statistics = SocketAddr::from(([0, 0, 0, 0], STATISTICS_PORT));
        let has_statistics = old.is_some_and(|it| it.has_statistics) || probe(statistics).is_ok();
        let pools = |kind, asked: u16, had: Option<u16>| {
            let needed = needs.get(&kind).copied().unwrap_or_default();
            let mut count = asked.max(had.unwrap_or_default());
            while usize::from(count) < needed && count < HaproxyPools::MAX {
                count = count.max(8).saturating_mul(2).min(HaproxyPools::MAX);
            }
            count
        };
        let left = descriptors.saturating_sub(open.len() as u64 + DESCRIPTORS_ASIDE) / 2;
        Ok(Self {
            http: pools(Kind::Http, asked.http, old.map(|it| it.http)),
            tcp: pools(Kind::Tcp, asked.tcp, old.map(|it| it.tcp)),
            open: ranges(&open),
            has_statistics,
            connections: left.clamp(64, CONNECTIONS_MAX),
            asked,
        })
    }

    /// What a HAProxy of ours may have of which nothing is known but that it is ours: all it was ever
    /// asked to have, so that nothing is taken for somebody else's.
    pub(super) fn assumed(asked: &Asked) -> Self {
        Self {
            open: asked.ports.clone(),
            http: asked.http,
            tcp: asked.tcp,
            has_statistics: true,
            connections: CONNECTIONS_MAX,
            asked: asked.clone(),
        }
    }

    /// Whether HAProxy listens on this port.
    pub(super) fn covers(&self, port: u16) -> bool {
        self.open.iter().any(|range| range.contains(&port))
    }

    /// What HAProxy says of itself when it runs this, and nothing else.
    pub(super) fn description(&self) -> String {
        // FNV-1a: it has to be the same in every build of this program.
        let text = serde_json::to_string(self).unwrap_or_default();
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("{OURS}{hash:016x}")
    }
}

/// How the description of every HAProxy of ours begins.
pub(super) const OURS: &str = "sidecar-runtime-";

/// Whether a listener could have this address now.
///
/// # Errors
/// As the system says: in use when another program listens there, on this or on all addresses.
pub(super) fn probe(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // As HAProxy does it: ended connections do not count.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

/// How many descriptors a program started from here may have.
pub(super) fn descriptors() -> u64 {
    use rustix::process::{Resource, getrlimit};
    // Without a limit as much as the Linux kernel gives by default.
    getrlimit(Resource::Nofile)
        .maximum
        .unwrap_or(1 << 20)
        .min(1 << 20)
}

fn ranges(ports: &BTreeSet<u16>) -> Vec<RangeInclusive<u16>> {
    let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
    for port in ports {
        match ranges.last_mut() {
            Some(last) if last.end().checked_add(1) == Some(*port) => {
                *last = *last.start()..=*port;
            }
            _ => ranges.push(*port..=*port),
        }
    }
    ranges
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    pub(in super::super) fn asked(ports: &[RangeInclusive<u16>]) -> Asked {
        Asked {
            format: FORMAT,
            bind: Ipv4Addr::new(127, 77, 0, 1).into(),
            ports: ports.to_vec(),
            http: 2,
            tcp: 1,
            user: String::new(),
            group: String::new(),
        }
    }

    fn decide(old: Option<&Layout>, needed: &[u16], tcp: usize, descriptors: u64) -> Layout {
        let needed = needed.iter().copied().collect();
        let needs = [(Kind::Tcp, tcp)].into();
        let asked = asked(&[24_000..=24_009, 24_020..=24_020]);
        Layout::decide(asked, old, &needed, &[24_007], &needs, descriptors).unwrap()
    }

    #[test]
    fn a_port_of_another_program_is_left_out_and_the_rest_is_there() {
        let foreign = TcpListener::bind((Ipv4Addr::new(127, 77, 0, 1), 24_003)).unwrap();
        let layout = decide(None, &[24_003, 23_999], 1, 20_000);
        assert_eq!(
            layout.open,
            [
                23_999..=24_002,
                24_004..=24_006,
                24_008..=24_009,
                24_020..=24_020
            ]
        );
        assert!(layout.covers(24_002) && !layout.covers(24_003) && !layout.covers(24_007));
        drop(foreign);
        // The next one finds it free, and does not ask for the ports the old one has.
        let _own = TcpListener::bind((Ipv4Addr::new(127, 77, 0, 1), 24_005)).unwrap();
        let next = decide(Some(&layout), &[24_003], 1, 20_000);
        assert_eq!(
            next.open,
            [24_000..=24_006, 24_008..=24_009, 24_020..=24_020]
        );
        assert_ne!(next.description(), layout.description());
    }

    #[test]
    fn pools_grow_as_needed_and_never_shrink() {
        let layout = decide(None, &[], 1, 20_000);
        assert_eq!((layout.http, layout.tcp), (2, 1));
        let grown = decide(Some(&layout), &[], 40, 20_000);
        assert_eq!((grown.http, grown.tcp), (2, 64));
        assert_eq!(decide(Some(&grown), &[], 1, 20_000).tcp, 64);
        assert_eq!(decide(None, &[], 60_000, 20_000).tcp, HaproxyPools::MAX);
    }

    #[test]
    fn few_descriptors_are_shared_between_ports_and_connections() {
        let layout = decide(None, &[24_020], 1, 8);
        assert_eq!(layout.open, [24_000..=24_002, 24_020..=24_020]);
        assert_eq!(layout.connections, 64);
        assert_eq!(decide(None, &[], 1, 20_000).connections, 9_867);
    }

    #[test]
    fn an_address_of_another_host_is_an_error() {
        let asked = Asked {
            bind: Ipv4Addr::new(192, 0, 2, 1).into(),
            ..asked(&[24_000..=24_009])
        };
        let nothing = BTreeMap::new();
        let error =
            Layout::decide(asked, None, &BTreeSet::new(), &[], &nothing, 20_000).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("no port can be had on 192.0.2.1: "),
            "{error}"
        );
    }
}
