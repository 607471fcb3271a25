//! Every setting of a member, with its unit, default and reason. One flat value for the state
//! machine and the shell around it; the state machine never reads `bind`.
//!
//! Defaults are the LAN profile of the Go library as Go Sidecar configures it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::subnet::Subnet;
use crate::wire::{ClusterFilter, Envelope, Keyring, LABEL_BYTES_MAX};

/// Longest metadata a member may carry, in bytes. Go refuses more at the sender.
pub const META_BYTES_MAX: usize = 512;

/// Longest name of a member, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// Longest name of a cluster, in bytes. Every announcement carries it.
pub const CLUSTER_NAME_BYTES_MAX: usize = 255;

/// Bytes of a compound with the longest announcement there is as its only part, without the name of
/// the cluster: name and metadata at their limits, an IPv6 address, any incarnation and port.
const ANNOUNCEMENT_BYTES_MAX: usize = 4 + 91 + NAME_BYTES_MAX + META_BYTES_MAX;

/// Longest budget of a datagram: what UDP carries, less room for headers.
const UDP_BUFFER_SIZE_MAX: usize = 65_000;

/// Longest user message that travels by stream, in bytes.
pub const STREAM_USER_BYTES_MAX: usize = 1 << 20;

/// Which generation of peers the node writes for. It reads both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// The fork inside Go Sidecar: it does not know the state *left*, so we write it as *dead*.
    Fork,
    /// HashiCorp 0.1.6 and later: *left* is written as such.
    HashiCorp,
}

/// Settings of one member. Start from [`Config::lan`] and change what differs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Our name, unique in the cluster, 1 to 255 bytes without control characters. Identity is
    /// the name; address and port are attributes.
    pub name: String,
    /// Cluster name written into every announcement and compared byte for byte, at most 255 bytes.
    /// Default `default`.
    pub cluster_name: String,
    /// Accept announcements without a cluster name as ours, for HashiCorp peers. A *different*
    /// name is still refused. Default no.
    pub accept_missing_cluster_name: bool,
    /// Generation of peers to write for. Default [`Profile::Fork`].
    pub profile: Profile,
    /// Where the UDP socket and the TCP listener bind. Default `0.0.0.0:7946`; port 0 picks one.
    pub bind: SocketAddr,
    /// Address peers reach us at. Must be a unicast address.
    pub advertise: IpAddr,
    /// Port peers reach us at. Default: the bound port.
    pub advertise_port: Option<u16>,
    /// Opaque metadata, at most 512 bytes. Default none.
    pub meta: Bytes,
    /// Delegate protocol versions: minimum, maximum, spoken. Push/pull fails between members
    /// whose ranges do not meet; Serf agents say 2, 5, 5. Default 0, 0, 0.
    pub delegate_versions: [u8; 3],

    /// Gossip keys: with them everything is encrypted, and only what was encrypted with one of them
    /// is accepted. Shell only, like the three settings below; the state machine merely leaves room
    /// for them. Default none, as Go Sidecar knows none.
    pub keyring: Option<Keyring>,
    /// With keys: refuse plaintext. Default yes; no while a plaintext cluster is given keys.
    pub verify_incoming: bool,
    /// With keys: encrypt what is sent. Default yes; no while a plaintext cluster is given keys.
    pub verify_outgoing: bool,
    /// Label before all traffic, at most 255 bytes; members with another are not heard. Default
    /// none, all that Go Sidecar and HashiCorp before 0.3 understand.
    pub label: String,
    /// Networks that may talk to us; what comes from others is dropped unread and counted. A member
    /// outside is not heard, so it is suspected and lost. Connections we open are not touched.
    /// Shell only. Default none: everybody may.
    pub allow_from: Vec<Subnet>,

    /// Time between gossip rounds; zero turns gossip off. Default 200 ms.
    pub gossip_interval: Duration,
    /// Packets sent to each target per gossip round. Default 15.
    pub gossip_messages: usize,
    /// Members gossiped to per round. Default 3.
    pub gossip_nodes: usize,
    /// How long the dead are still gossiped to, so that they can refute, and the age at which they
    /// are forgotten. Default 30 s.
    pub gossip_to_the_dead: Duration,
    /// Transmits of a broadcast: this × ⌈log10(members + 1)⌉. Default 4.
    pub retransmit_mult: u32,
    /// Bytes per gossip interval that broadcasts may use to leave at once instead of waiting for
    /// the next round. Default 64 KiB.
    pub eager_bytes_per_interval: usize,
    /// Which members, by their metadata, understand lazy push: they are told what messages of the
    /// application there are, and fetch what they lack, instead of getting everything repeatedly.
    /// Default none, as Go knows no such thing.
    pub lazy_push: Option<fn(meta: &[u8]) -> bool>,

    /// Time between full state exchanges at up to 32 members; grows with the logarithm of the
    /// cluster. Zero turns them off. Default 20 s.
    pub push_pull_interval: Duration,
    /// Time between attempts to reach seeds and forgotten members again, ± 20 %. Zero turns
    /// them off. Default 30 s.
    pub rejoin_interval: Duration,

    /// Time between probe rounds; zero turns failure detection (and forgetting) off. Default 1 s.
    pub probe_interval: Duration,
    /// Wait for a direct ack before asking others. Keep it above the 99th percentile of round
    /// trips and below `probe_interval`. Default 500 ms.
    pub probe_timeout: Duration,
    /// Members asked to probe on our behalf. Default 3.
    pub indirect_checks: usize,
    /// As a relay, say so when a target is silent for this share of `probe_timeout`. Below 1
    /// so that the word arrives before the prober's deadline. Default 0.8.
    pub nack_fraction: f64,
    /// Try a ping by TCP beside the indirect ones. Default yes.
    pub tcp_pings: bool,
    /// Ceiling of the health score plus one: an unhealthy node probes at most this many times
    /// slower. Default 8.
    pub awareness_max_multiplier: u32,

    /// Shortest suspicion: this × log10(members) × `probe_interval`. Default 5.
    pub suspicion_mult: u32,
    /// Longest suspicion, as a multiple of the shortest. Default 6.
    pub suspicion_max_timeout_mult: u32,
    /// After this time a dead member's name may be taken over from another address. Default
    /// 30 s; zero: never. A member that left can be replaced at once.
    pub dead_node_reclaim: Duration,

    /// Packing budget of a datagram, label and encryption included, in bytes: enough for the longest
    /// announcement there may be (862 bytes and cluster name, label, encryption), at most 65 000.
    /// Default 1400.
    pub udp_buffer_size: usize,
    /// Compress datagrams that shrink, and all streams. Default yes.
    pub compression: bool,
    /// Limit for dialling, for reading and for writing a stream, each. Default 10 s.
    pub tcp_timeout: Duration,

    /// Most members held, others are refused and counted. Default 16 384.
    pub members_max: usize,
    /// Most user broadcasts queued; the most transmitted go first. Default 8192.
    pub broadcasts_max: usize,
    /// User messages waiting for the application; newer ones are dropped and counted when full.
    /// Default 1024.
    pub handoff_queue_depth: usize,
    /// Seed of all random choices. Equal seeds and equal inputs give equal behaviour.
    pub seed: u64,
}

/// A setting outside its range. Nothing was started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// `name` is empty, too long or has control characters.
    #[error("node name {0:?}: expected 1 to 255 bytes without control characters")]
    Name(String),
    /// `meta` is too long.
    #[error("metadata of {0} bytes: expected at most 512")]
    Meta(usize),
    /// `advertise` is not an address peers could send to.
    #[error("advertise address {0}: expected a unicast address peers can reach")]
    Advertise(IpAddr),
    /// `advertise_port` is zero.
    #[error("advertise port 0: expected 1 to 65535")]
    AdvertisePort,
    /// `cluster_name` is too long.
    #[error("cluster name of {0} bytes: expected at most {CLUSTER_NAME_BYTES_MAX}")]
    ClusterName(usize),
    /// `udp_buffer_size` is out of range.
    #[error(
        "udp buffer size {bytes}: expected {min} to {UDP_BUFFER_SIZE_MAX} bytes (the longest \
         announcement must fit, with cluster name, label and encryption)"
    )]
    UdpBufferSize {
        /// As configured.
        bytes: usize,
        /// Fewest that would do with the other settings.
        min: usize,
    },
    /// A multiplier, count or timeout is zero where that has no meaning.
    #[error("{0} is 0: expected at least 1")]
    Zero(&'static str),
    /// `nack_fraction` is out of range.
    #[error("nack fraction {0}: expected above 0 and at most 1")]
    NackFraction(String),
    /// `label` is too long.
    #[error("label of {0} bytes: expected at most {LABEL_BYTES_MAX}")]
    Label(usize),
    /// Delegate versions are not ordered.
    #[error("delegate versions {0:?}: expected minimum <= spoken <= maximum")]
    DelegateVersions([u8; 3]),
}

impl Config {
    /// The LAN profile of Go Sidecar.
    pub fn lan(name: impl Into<String>, advertise: IpAddr) -> Self {
        Self {
            name: name.into(),
            cluster_name: "default".to_owned(),
            accept_missing_cluster_name: false,
            profile: Profile::Fork,
            bind: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 7946),
            advertise,
            advertise_port: None,
            meta: Bytes::new(),
            delegate_versions: [0; 3],
            keyring: None,
            verify_incoming: true,
            verify_outgoing: true,
            label: String::new(),
            allow_from: Vec::new(),
            gossip_interval: Duration::from_millis(200),
            gossip_messages: 15,
            gossip_nodes: 3,
            gossip_to_the_dead: Duration::from_secs(30),
            retransmit_mult: 4,
            eager_bytes_per_interval: 64 * 1024,
            lazy_push: None,
            push_pull_interval: Duration::from_secs(20),
            rejoin_interval: Duration::from_secs(30),
            probe_interval: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(500),
            indirect_checks: 3,
            nack_fraction: 0.8,
            tcp_pings: true,
            awareness_max_multiplier: 8,
            suspicion_mult: 5,
            suspicion_max_timeout_mult: 6,
            dead_node_reclaim: Duration::from_secs(30),
            udp_buffer_size: 1400,
            compression: true,
            tcp_timeout: Duration::from_secs(10),
            members_max: 16_384,
            broadcasts_max: 8192,
            handoff_queue_depth: 1024,
            seed: 0,
        }
    }

    /// Checks every range.
    ///
    /// # Errors
    /// The first setting that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.name.is_empty()
            || self.name.len() > NAME_BYTES_MAX
            || self.name.chars().any(char::is_control)
        {
            return Err(ConfigError::Name(self.name.clone()));
        }
        if self.meta.len() > META_BYTES_MAX {
            return Err(ConfigError::Meta(self.meta.len()));
        }
        if self.label.len() > LABEL_BYTES_MAX {
            return Err(ConfigError::Label(self.label.len()));
        }
        let broadcast = self.advertise == IpAddr::V4(Ipv4Addr::BROADCAST);
        if self.advertise.is_unspecified() || self.advertise.is_multicast() || broadcast {
            return Err(ConfigError::Advertise(self.advertise));
        }
        if self.advertise_port == Some(0) {
            return Err(ConfigError::AdvertisePort);
        }
        if self.cluster_name.len() > CLUSTER_NAME_BYTES_MAX {
            return Err(ConfigError::ClusterName(self.cluster_name.len()));
        }
        let (bytes, min) = (self.udp_buffer_size, self.udp_buffer_size_min());
        if !(min..=UDP_BUFFER_SIZE_MAX).contains(&bytes) {
            return Err(ConfigError::UdpBufferSize { bytes, min });
        }
        if !(self.nack_fraction > 0.0 && self.nack_fraction <= 1.0) {
            return Err(ConfigError::NackFraction(self.nack_fraction.to_string()));
        }
        let [min, max, current] = self.delegate_versions;
        if !(min <= current && current <= max) {
            return Err(ConfigError::DelegateVersions(self.delegate_versions));
        }
        let at_least_one = [
            ("retransmit_mult", self.retransmit_mult == 0),
            ("suspicion_mult", self.suspicion_mult == 0),
            (
                "suspicion_max_timeout_mult",
                self.suspicion_max_timeout_mult == 0,
            ),
            (
                "awareness_max_multiplier",
                self.awareness_max_multiplier == 0,
            ),
            ("probe_timeout", self.probe_timeout.is_zero()),
            ("tcp_timeout", self.tcp_timeout.is_zero()),
            ("members_max", self.members_max == 0),
            ("handoff_queue_depth", self.handoff_queue_depth == 0),
        ];
        match at_least_one.iter().find(|(_, zero)| *zero) {
            Some((setting, _)) => Err(ConfigError::Zero(setting)),
            None => Ok(()),
        }
    }

    /// Fewest bytes of a datagram with which every announcement can be passed on.
    fn udp_buffer_size_min(&self) -> usize {
        let overhead = self.envelope().packet_overhead();
        ANNOUNCEMENT_BYTES_MAX + self.cluster_name.len() + overhead
    }

    /// Whether what comes from this address is to be read.
    pub fn lets_in(&self, ip: IpAddr) -> bool {
        self.allow_from.is_empty() || self.allow_from.iter().any(|net| net.contains(ip))
    }

    /// Whose announcements are accepted.
    pub fn cluster_filter(&self) -> ClusterFilter {
        ClusterFilter {
            name: self.cluster_name.clone(),
            accept_missing: self.accept_missing_cluster_name,
        }
    }

    /// Label and encryption around everything we send and receive.
    pub fn envelope(&self) -> Envelope {
        Envelope {
            label: self.label.as_str().into(),
            keyring: self.keyring.clone().map(Arc::new),
            verify_incoming: self.verify_incoming,
            verify_outgoing: self.verify_outgoing,
        }
    }

    /// The port peers reach us at, and the meaning of port 0 in a peer's announcement.
    pub fn port(&self) -> u16 {
        self.advertise_port.unwrap_or_else(|| self.bind.port())
    }
}
