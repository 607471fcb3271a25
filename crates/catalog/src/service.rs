//! One running copy of a service, as its origin announces it: the unit of gossip.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// Health of an instance. The numbers are the wire's and keep Go Sidecar's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Status {
    /// 0: healthy; the only status that is routed to.
    Alive = 0,
    /// 1: gone. Also what an unknown number on the wire means.
    Tombstone = 1,
    /// 2: its check failed.
    Unhealthy = 2,
    /// 3: not checked yet, or the check itself broke.
    Unknown = 3,
    /// 4: told to drain by its owner.
    Draining = 4,
}

impl Status {
    /// The status for a number on the wire; unknown numbers read as [`Status::Tombstone`], which
    /// is also how Go Sidecar prints them.
    pub fn from_wire(number: i64) -> Self {
        match number {
            0 => Self::Alive,
            2 => Self::Unhealthy,
            3 => Self::Unknown,
            4 => Self::Draining,
            _ => Self::Tombstone,
        }
    }

    /// The number on the wire.
    pub fn as_wire(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Alive => "Alive",
            Self::Tombstone => "Tombstone",
            Self::Unhealthy => "Unhealthy",
            Self::Unknown => "Unknown",
            Self::Draining => "Draining",
        })
    }
}

/// Transport protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Routed.
    Tcp,
    /// Recorded, not routed.
    Udp,
}

impl Protocol {
    /// `tcp` or `udp` in any case.
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Some(Self::Tcp),
            "udp" => Some(Self::Udp),
            _ => None,
        }
    }

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// One port of an instance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// `tcp`, `udp`, or whatever an old peer wrote (kept, never routed).
    pub kind: String,
    /// The real port that answers on [`Port::ip`].
    pub port: u16,
    /// The well-known port clients use; 0 means not offered through the proxy.
    pub service_port: u16,
    /// Address of the real port; empty in records of very old peers.
    pub ip: String,
}

impl Port {
    /// Transport protocol, when it is one we know.
    pub fn protocol(&self) -> Option<Protocol> {
        Protocol::parse(&self.kind)
    }
}

/// How proxies treat the traffic of a service.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum ProxyMode {
    /// HTTP/1.1; the default, also for an empty word.
    #[default]
    Http,
    /// Bytes.
    Tcp,
    /// HTTP with WebSocket upgrades.
    Ws,
}

impl ProxyMode {
    /// `http`, `tcp`, `ws`, or empty for `http`; `None` for any other word.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "http" => Some(Self::Http),
            "tcp" => Some(Self::Tcp),
            "ws" => Some(Self::Ws),
            _ => None,
        }
    }

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Ws => "ws",
        }
    }
}

/// One running copy of a service. Go Sidecar calls this a service; we call it an instance where
/// the difference matters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Service {
    /// Unique on its host: first 12 hex digits of a container ID, or a hash for static services.
    pub id: String,
    /// Name of the service.
    pub name: String,
    /// Image reference, or free text.
    pub image: String,
    /// Creation of the container.
    pub created: Timestamp,
    /// Name of the owning host, equal to that host's node name in gossip.
    pub hostname: String,
    /// Ports; `None` is the wire's `null`, which differs from an empty list only there.
    pub ports: Option<Vec<Port>>,
    /// Version stamp of this record, from its origin's clock. The newest wins.
    pub updated: Timestamp,
    /// Proxy mode as written; see [`Service::mode`].
    pub proxy_mode: String,
    /// Health as its owner knows it.
    pub status: Status,
    /// Share of the traffic beside other instances of the service, 1 to 255; see [`Service::weight`].
    /// Go Sidecar neither writes nor passes it on.
    pub weight: Option<u8>,
}

/// The weight of an instance whose owner says nothing about it.
pub const DEFAULT_WEIGHT: u8 = 100;

/// Longest text field of a record, in bytes. Go Sidecar has no limit; a longer one cannot be a
/// name, an image reference or an address.
const TEXT_BYTES_MAX: usize = 1024;
/// Most ports of one instance.
const PORTS_MAX: usize = 1024;

/// Why a record from outside is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidService {
    /// A required field is empty.
    #[error("field {field} is empty")]
    Empty {
        /// JSON name of the field.
        field: &'static str,
    },
    /// A field holds characters that could break a configuration file or a page.
    #[error("field {field} holds a control character: {value:?}")]
    ControlCharacter {
        /// JSON name of the field.
        field: &'static str,
        /// What it held.
        value: String,
    },
    /// A field is too long.
    #[error("field {field} is {length} long, more than {max}")]
    TooLong {
        /// JSON name of the field.
        field: &'static str,
        /// Its length, in bytes or items.
        length: usize,
        /// The limit.
        max: usize,
    },
}

impl Service {
    /// The ports, or an empty slice.
    pub fn port_list(&self) -> &[Port] {
        self.ports.as_deref().unwrap_or_default()
    }

    /// How proxies treat it; `None` for a word nobody knows.
    pub fn mode(&self) -> Option<ProxyMode> {
        ProxyMode::parse(&self.proxy_mode)
    }

    /// Its share of the traffic, beside the shares of other instances of the service.
    pub fn weight(&self) -> u8 {
        self.weight.unwrap_or(DEFAULT_WEIGHT)
    }

    /// Whether it is routed to.
    pub fn is_alive(&self) -> bool {
        self.status == Status::Alive
    }

    /// Whether it is gone.
    pub fn is_tombstone(&self) -> bool {
        self.status == Status::Tombstone
    }

    /// The real port behind `service_port`, if one is mapped.
    pub fn port_for_service_port(&self, service_port: u16, protocol: Protocol) -> Option<&Port> {
        self.port_list()
            .iter()
            .find(|port| port.service_port == service_port && port.protocol() == Some(protocol))
    }

    /// The version part of the image reference: the tag after the last `/`, a shortened digest, or
    /// the whole reference.
    pub fn version(&self) -> &str {
        let last = self.image.rfind('/').map_or(0, |slash| slash + 1);
        if let Some(at) = self.image[last..].find('@') {
            let digest = &self.image[last + at + 1..];
            let hex = digest.find(':').map_or(0, |colon| colon + 1);
            return digest.get(hex..hex + 12).unwrap_or(digest);
        }
        self.image[last..]
            .find(':')
            .map_or(&self.image, |colon| &self.image[last + colon + 1..])
    }

    /// Whether anything but the stamp differs.
    pub fn differs_materially(&self, other: &Self) -> bool {
        self.status != other.status || !self.has_same_content(other)
    }

    /// Whether nothing but status and stamp differs.
    pub fn has_same_content(&self, other: &Self) -> bool {
        let Self {
            id,
            name,
            image,
            created,
            hostname,
            ports,
            updated: _,
            proxy_mode,
            status: _,
            weight,
        } = self;
        *id == other.id
            && *name == other.name
            && *image == other.image
            && *created == other.created
            && *hostname == other.hostname
            && *ports == other.ports
            && *proxy_mode == other.proxy_mode
            && *weight == other.weight
    }

    /// Whether this record replaces `held`: the newer stamp wins; on equal stamps a tombstone beats
    /// the rest and otherwise the greater content, so that every merge order ends the same.
    pub fn supersedes(&self, held: &Self) -> bool {
        (self.updated, self.is_tombstone(), self) > (held.updated, held.is_tombstone(), held)
    }

    /// Checks what untrusted input must satisfy before anything else looks at it.
    ///
    /// # Errors
    /// Names the first field that is empty, too long or holds a control character.
    pub fn validate(&self) -> Result<(), InvalidService> {
        for (field, value) in [("ID", &self.id), ("Hostname", &self.hostname)] {
            if value.is_empty() {
                return Err(InvalidService::Empty { field });
            }
        }
        let length = self.port_list().len();
        if length > PORTS_MAX {
            return Err(InvalidService::TooLong {
                field: "Ports",
                length,
                max: PORTS_MAX,
            });
        }
        let own = [
            ("ID", &self.id),
            ("Name", &self.name),
            ("Image", &self.image),
            ("Hostname", &self.hostname),
            ("ProxyMode", &self.proxy_mode),
        ];
        let ports = self
            .port_list()
            .iter()
            .flat_map(|port| [("Type", &port.kind), ("IP", &port.ip)]);
        for (field, value) in own.into_iter().chain(ports) {
            check_text(field, value)?;
        }
        Ok(())
    }

    /// The address of a port, when its text is one.
    pub fn address_of(port: &Port) -> Option<IpAddr> {
        port.ip.parse().ok()
    }
}

fn check_text(field: &'static str, value: &str) -> Result<(), InvalidService> {
    let length = value.len();
    if length > TEXT_BYTES_MAX {
        return Err(InvalidService::TooLong {
            field,
            length,
            max: TEXT_BYTES_MAX,
        });
    }
    if value.chars().any(char::is_control) {
        return Err(InvalidService::ControlCharacter {
            field,
            value: value.to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn service(host: &str, id: &str, updated: i128, status: Status) -> Service {
        Service {
            id: id.into(),
            name: "web".into(),
            image: "web:1.0".into(),
            created: Timestamp::EPOCH,
            hostname: host.into(),
            ports: Some(vec![Port {
                kind: "tcp".into(),
                port: 32768,
                service_port: 8080,
                ip: "10.0.0.1".into(),
            }]),
            updated: Timestamp::from_unix_nanos(updated),
            proxy_mode: "http".into(),
            weight: None,
            status,
        }
    }

    #[test]
    fn version_is_the_tag_even_behind_a_registry_port() {
        let mut it = service("a", "1", 1, Status::Alive);
        for (image, version) in [
            ("nginx:1.25", "1.25"),
            ("nginx", "nginx"),
            ("registry:5000/x:1", "1"),
            ("registry:5000/x", "registry:5000/x"),
            ("a/b@sha256:0123456789abcdef", "0123456789ab"),
        ] {
            it.image = image.into();
            assert_eq!(it.version(), version, "{image}");
        }
    }

    #[test]
    fn tombstone_beats_alive_of_same_time() {
        let alive = service("a", "1", 5, Status::Alive);
        let tombstone = service("a", "1", 5, Status::Tombstone);
        assert!(tombstone.supersedes(&alive));
        assert!(!alive.supersedes(&tombstone));
        assert!(!alive.supersedes(&alive));
    }

    #[test]
    fn control_characters_and_empty_identities_are_refused() {
        let mut it = service("a", "1", 5, Status::Alive);
        it.name = "web\n\tbind *:80".into();
        assert!(matches!(
            it.validate(),
            Err(InvalidService::ControlCharacter { field: "Name", .. })
        ));
        it.name = "web".into();
        it.id.clear();
        assert_eq!(it.validate(), Err(InvalidService::Empty { field: "ID" }));
    }
}
