//! Configuration: what flags and variables say becomes values that cannot be wrong.
//!
//! [`Config::resolve`] is pure. It reports all problems at once, each naming the setting, its value
//! and what was expected, before anything is opened or bound.

mod api;
mod envoy;
mod gossip;
mod haproxy;
pub mod print;
pub mod values;
pub mod variables;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    time::Duration,
};

use memberlist::CLUSTER_NAME_BYTES_MAX;
use serde::{Deserialize, Serialize};

use crate::{
    discovery::{
        SourceName,
        docker::{Encryption, Endpoint, Naming},
    },
    net::http_client::{check_url, without_credentials},
};
pub use api::{ApiConfig, TlsFiles};
pub use envoy::EnvoyConfig;
pub use gossip::GossipSecurity;
pub use haproxy::{HaproxyConfig, HaproxyMode, HaproxyPools};
use values::{parse_bool, parse_duration, parse_int, parse_list};
use variables::{COMMAND_LINE, NOT_YET, VARIABLES, WITHOUT_EFFECT, find};

/// What is shown instead of a secret.
const HIDDEN: &str = "(hidden)";
/// Full-exchange interval that a configured 0 stands for (the original's alive lifespan less 1 s).
const PUSH_PULL_ZERO: Duration = Duration::from_secs(79);
/// Packets per round that a configured 0 stands for (the gossip library's default).
const GOSSIP_MESSAGES_ZERO: usize = 3;

/// Port of a statsd that is given without one.
const STATSD_PORT: u16 = 8125;

/// A host to join.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seed {
    /// Name or address text.
    pub host: String,
    /// Gossip port.
    pub port: u16,
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Where this host's services come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discovery {
    /// Whatever is there: an engine's socket, a static file.
    Automatic,
    /// Just these; none means a host that only consumes.
    Chosen(Vec<SourceName>),
}

/// What turns routes into traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyKind {
    /// In this process.
    Builtin,
    /// A HAProxy on this host.
    Haproxy,
    /// An Envoy that somebody runs on this host and that is fed by xDS.
    Envoy,
    /// The kernel's rules for services in mode tcp, this process for others.
    Kernel,
    /// Nothing on this host.
    None,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogFormat {
    /// `time="…" level=info msg="…"`.
    Text,
    /// One JSON object a line.
    Json,
}

/// Everything the agent needs to know before it starts. Fields carry the meaning of the variable
/// they are named after; see [`variables::VARIABLES`].
#[derive(Debug, Clone)]
pub struct Config {
    /// `SIDECAR_SEEDS`.
    pub seeds: Vec<Seed>,
    /// `SIDECAR_CLUSTER_NAME`.
    pub cluster_name: String,
    /// `SIDECAR_NODE_NAME`, or the hostname.
    pub node_name: String,
    /// `SIDECAR_ADVERTISE_IP`; `None` means choose one.
    pub advertise_ip: Option<IpAddr>,
    /// `SIDECAR_EXCLUDE_IPS`.
    pub exclude_ips: Vec<IpAddr>,
    /// `SIDECAR_GOSSIP_BIND_IP` and `SIDECAR_BIND_PORT`.
    pub gossip_bind: SocketAddr,
    /// `SIDECAR_HTTP_BIND`.
    pub http_bind: SocketAddr,
    /// `SIDECAR_API_TOKEN` and what goes with it.
    pub api: ApiConfig,
    /// `SIDECAR_STATE_DIR`; `None` is none.
    pub state_dir: Option<PathBuf>,
    /// `SIDECAR_BIND_IP`.
    pub bind_ip: IpAddr,
    /// `SIDECAR_PROXY`.
    pub proxy: ProxyKind,
    /// `SIDECAR_PROXY_THREADS`; `None` is one for each processor.
    pub proxy_threads: Option<NonZeroUsize>,
    /// `SIDECAR_PROXY_RESPONSE_TIMEOUT`; zero is none.
    pub proxy_response_timeout: Duration,
    /// `SIDECAR_PROXY_ACCESS_LOG`.
    pub proxy_access_log: Option<PathBuf>,
    /// `HAPROXY_CONFIG_FILE` and what goes with it.
    pub haproxy: HaproxyConfig,
    /// `ENVOY_USE_GRPC_API` and what goes with it.
    pub envoy: EnvoyConfig,
    /// `SIDECAR_DISCOVERY`.
    pub discovery: Discovery,
    /// `DOCKER_URL`.
    pub docker: Endpoint,
    /// `SERVICES_NAMER` and what goes with it.
    pub docker_naming: Naming,
    /// `SIDECAR_DOCKER_HOLD`; `None` is without end.
    pub docker_hold: Option<Duration>,
    /// `STATIC_CONFIG_FILE`.
    pub static_file: PathBuf,
    /// `LISTENERS_URLS`.
    pub listeners: Vec<String>,
    /// `SIDECAR_LEAVE_ON_STOP`.
    pub leave_on_stop: bool,
    /// `SIDECAR_DEFAULT_CHECK_ENDPOINT`.
    pub default_check_endpoint: String,
    /// `SIDECAR_GOSSIP_INTERVAL`.
    pub gossip_interval: Duration,
    /// `SIDECAR_GOSSIP_MESSAGES`.
    pub gossip_messages: usize,
    /// `SIDECAR_PUSH_PULL_INTERVAL`.
    pub push_pull_interval: Duration,
    /// `SIDECAR_HANDOFF_QUEUE_DEPTH`.
    pub handoff_queue_depth: usize,
    /// `SIDECAR_GOSSIP_DELEGATE_VERSIONS`.
    pub delegate_versions: [u8; 3],
    /// `SIDECAR_GOSSIP_KEY` and what goes with it.
    pub gossip_security: GossipSecurity,
    /// `SIDECAR_STATS_ADDR`: host and port.
    pub stats: Option<(String, u16)>,
    /// `SIDECAR_LOGGING_LEVEL`.
    pub log_level: tracing::Level,
    /// `SIDECAR_LOGGING_FORMAT`.
    pub log_format: LogFormat,
    /// Every setting as given and where from, for printing.
    pub settings: Vec<Setting>,
    /// What deserves a warning at start.
    pub warnings: Vec<String>,
}

/// One setting as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Variable.
    pub name: &'static str,
    /// Text in force.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// Where a setting's value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// A variable, by its name.
    Variable(String),
    /// A flag, by its name.
    Flag(&'static str),
}

/// One problem of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}={value:?} is not usable: expected {expected}")]
pub struct ConfigError {
    /// Variable or flag that holds the value.
    pub name: String,
    /// The value.
    pub value: String,
    /// What would have been right.
    pub expected: String,
}

/// Values of flags by flag name; a list has several.
pub type Flags = BTreeMap<&'static str, Vec<String>>;

impl Config {
    /// Puts flags over variables over defaults, and parses.
    ///
    /// `environment` holds the process's variables; `hostname` is the name of the machine.
    ///
    /// # Errors
    /// All problems at once.
    pub fn resolve(
        flags: &Flags,
        environment: &BTreeMap<String, String>,
        hostname: &str,
    ) -> Result<Self, Vec<ConfigError>> {
        let mut reader = Reader::new(flags, environment);
        let bind_port = reader.number("SIDECAR_BIND_PORT", 1..=65535);
        let bind_port = u16::try_from(bind_port).unwrap_or_default();
        let gossip_ip = reader.ip("SIDECAR_GOSSIP_BIND_IP");
        let node_name = reader.node_name(hostname);
        let mut config = Self {
            seeds: reader.list(
                "SIDECAR_SEEDS",
                "HOST, HOST:PORT, IP or [IPv6]:PORT",
                |text| parse_seed(text, bind_port),
            ),
            cluster_name: reader.cluster_name(),
            node_name: node_name.clone(),
            advertise_ip: reader.optional_ip("SIDECAR_ADVERTISE_IP"),
            exclude_ips: reader.list("SIDECAR_EXCLUDE_IPS", "IP addresses", |it| it.parse().ok()),
            gossip_bind: SocketAddr::new(gossip_ip, bind_port),
            http_bind: reader.parsed("SIDECAR_HTTP_BIND", "IP:PORT", |text| text.parse().ok()),
            api: ApiConfig::read(&mut reader, &[hostname, &node_name]),
            state_dir: reader.state_dir(),
            bind_ip: reader.parsed("SIDECAR_BIND_IP", "an IP address", |text| match text {
                "" => Some(Ipv4Addr::UNSPECIFIED.into()),
                text => text.parse().ok(),
            }),
            proxy: reader.proxy(),
            proxy_threads: {
                let number = reader.number("SIDECAR_PROXY_THREADS", 0..=256);
                usize::try_from(number).ok().and_then(NonZeroUsize::new)
            },
            proxy_response_timeout: reader
                .duration("SIDECAR_PROXY_RESPONSE_TIMEOUT", Duration::ZERO),
            proxy_access_log: reader.parsed(
                "SIDECAR_PROXY_ACCESS_LOG",
                "an absolute path of a file",
                |text| match text {
                    "" => Some(None),
                    // The process that writes it has a working directory of its own.
                    text => Some(Some(PathBuf::from(text))).filter(|_| text.starts_with('/')),
                },
            ),
            haproxy: HaproxyConfig::read(&mut reader),
            envoy: EnvoyConfig::read(&mut reader),
            discovery: reader.discovery(),
            docker: reader.docker(),
            docker_naming: reader.naming(),
            docker_hold: match reader.duration("SIDECAR_DOCKER_HOLD", Duration::ZERO) {
                Duration::ZERO => None,
                hold => Some(hold),
            },
            static_file: PathBuf::from(reader.text("STATIC_CONFIG_FILE")),
            listeners: reader.listeners(),
            leave_on_stop: reader.switch("SIDECAR_LEAVE_ON_STOP"),
            default_check_endpoint: reader.text("SIDECAR_DEFAULT_CHECK_ENDPOINT"),
            gossip_interval: reader.duration("SIDECAR_GOSSIP_INTERVAL", Duration::from_millis(1)),
            gossip_messages: match reader.number("SIDECAR_GOSSIP_MESSAGES", 0..=1000) {
                0 => GOSSIP_MESSAGES_ZERO,
                number => usize::try_from(number).unwrap_or(GOSSIP_MESSAGES_ZERO),
            },
            push_pull_interval: match reader.duration("SIDECAR_PUSH_PULL_INTERVAL", Duration::ZERO)
            {
                Duration::ZERO => PUSH_PULL_ZERO,
                interval => interval,
            },
            handoff_queue_depth: usize::try_from(
                reader.number("SIDECAR_HANDOFF_QUEUE_DEPTH", 1..=1_000_000),
            )
            .unwrap_or(1024),
            delegate_versions: reader.parsed(
                "SIDECAR_GOSSIP_DELEGATE_VERSIONS",
                "three numbers from 0 to 255: min,max,current, with min <= current <= max",
                parse_versions,
            ),
            gossip_security: GossipSecurity::read(&mut reader),
            stats: reader.parsed(
                "SIDECAR_STATS_ADDR",
                "HOST:PORT of a statsd",
                |text| match text {
                    "" => Some(None),
                    text => parse_seed(text, STATSD_PORT).map(|it| Some((it.host, it.port))),
                },
            ),
            log_level: reader.parsed(
                "SIDECAR_LOGGING_LEVEL",
                "debug, info, warn or error",
                parse_level,
            ),
            log_format: match reader.text("SIDECAR_LOGGING_FORMAT").as_str() {
                "json" => LogFormat::Json,
                _ => LogFormat::Text,
            },
            settings: Vec::new(),
            warnings: warnings(environment),
        };
        if !reader.errors.is_empty() {
            return Err(reader.errors);
        }
        config.warnings.extend(config.gossip_security.warnings());
        let mut settings = reader.settings;
        settings.sort_by_key(|setting| VARIABLES.iter().position(|it| it.name == setting.name));
        Ok(Self { settings, ..config })
    }
}

/// Takes settings by precedence and collects what is wrong with them. A wrong value is replaced by
/// the default so that the rest can be looked at; it never leaves `resolve`.
struct Reader<'a> {
    flags: &'a Flags,
    environment: &'a BTreeMap<String, String>,
    settings: Vec<Setting>,
    errors: Vec<ConfigError>,
}

impl<'a> Reader<'a> {
    fn new(flags: &'a Flags, environment: &'a BTreeMap<String, String>) -> Self {
        Self {
            flags,
            environment,
            settings: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// The text in force, and the name under which it was given.
    fn take(&mut self, name: &'static str) -> (String, String) {
        let variable = find(name).expect("invariant: every name asked for is in the table");
        let flag = variable
            .flag
            .and_then(|flag| Some((flag, self.flags.get(flag)?)));
        let (value, given_as, origin) = if let Some((flag, values)) = flag {
            (values.join(","), format!("--{flag}"), Origin::Flag(flag))
        } else if let Some((name, value)) = self.variable(variable) {
            (value, name.to_owned(), Origin::Variable(name.to_owned()))
        } else {
            (
                variable.default.to_owned(),
                name.to_owned(),
                Origin::Default,
            )
        };
        self.settings.push(Setting {
            name,
            value: value.clone(),
            origin,
        });
        (value, given_as)
    }

    fn variable(&self, variable: &variables::Variable) -> Option<(&'static str, String)> {
        let names = std::iter::once(&variable.name).chain(variable.fallbacks);
        for name in names {
            match self.environment.get(*name) {
                // Set but empty, this one stands for the engine's own environment.
                Some(value) if value.is_empty() && *name == "DOCKER_URL" => {}
                Some(value) => return Some((name, value.clone())),
                None => {}
            }
        }
        None
    }

    fn wrong(&mut self, name: String, value: &str, expected: impl Into<String>) {
        self.errors.push(ConfigError {
            name,
            value: value.to_owned(),
            expected: expected.into(),
        });
    }

    fn text(&mut self, name: &'static str) -> String {
        self.take(name).0
    }

    fn switch(&mut self, name: &'static str) -> bool {
        self.parsed(name, "true or false", parse_bool)
    }

    fn parsed<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> T {
        let (value, given_as) = self.take(name);
        parse(&value).unwrap_or_else(|| {
            self.wrong(given_as, &value, expected);
            let default = find(name).map_or("", |variable| variable.default);
            parse(default).expect("invariant: defaults parse")
        })
    }

    fn ip(&mut self, name: &'static str) -> IpAddr {
        self.parsed(name, "an IP address", |text| text.parse().ok())
    }

    fn optional_ip(&mut self, name: &'static str) -> Option<IpAddr> {
        self.parsed(name, "an IP address of this host", |text| match text {
            "" => Some(None),
            text => text.parse().ok().map(Some),
        })
    }

    fn number(&mut self, name: &'static str, range: std::ops::RangeInclusive<u64>) -> u64 {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        self.parsed(name, &expected, |text| {
            parse_int(text).filter(|it| range.contains(it))
        })
    }

    fn duration(&mut self, name: &'static str, least: Duration) -> Duration {
        let expected = if least.is_zero() {
            "a duration such as 20s, 1m30s or 0"
        } else {
            "a duration of at least 1ms such as 200ms or 1s"
        };
        self.parsed(name, expected, |text| {
            parse_duration(text).filter(|it| *it >= least)
        })
    }

    fn list<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Vec<T> {
        let (value, given_as) = self.take(name);
        let mut items = Vec::new();
        for item in parse_list(&value) {
            match parse(&item) {
                Some(parsed) => items.push(parsed),
                None => self.wrong(given_as.clone(), &item, expected),
            }
        }
        items
    }

    /// Passwords in them are not printed.
    fn listeners(&mut self) -> Vec<String> {
        let expected = "URLs such as http://HOST:PORT/PATH";
        let usable = |url: &str| check_url(url).is_ok().then(|| url.to_owned());
        let urls = self.list("LISTENERS_URLS", expected, usable);
        if let Some(setting) = self.settings.last_mut() {
            let shown = parse_list(&setting.value).into_iter();
            let shown: Vec<String> = shown.map(|url| without_credentials(&url)).collect();
            setting.value = shown.join(" ");
        }
        urls
    }

    fn discovery(&mut self) -> Discovery {
        let expected = "docker or static";
        let mut chosen = self.list("SIDECAR_DISCOVERY", expected, |word| match word {
            "docker" => Some(SourceName::Docker),
            "static" => Some(SourceName::Static),
            _ => None,
        });
        chosen.dedup();
        match self.settings.last() {
            Some(Setting {
                origin: Origin::Default,
                ..
            }) => Discovery::Automatic,
            _ => Discovery::Chosen(chosen),
        }
    }

    /// The engine, with the variables of Docker's command line.
    fn docker(&mut self) -> Endpoint {
        let verify = !self.text("DOCKER_TLS_VERIFY").is_empty();
        let given = self.text("DOCKER_CERT_PATH");
        let home = self.environment.get("HOME").filter(|it| !it.is_empty());
        let certificates = match (given.as_str(), home) {
            ("", None) => None,
            ("", Some(home)) => Some(PathBuf::from(home).join(".docker")),
            (given, _) => Some(PathBuf::from(given)),
        };
        // An https address alone says nothing of files: then the system's certificates count.
        let encryption = if verify || !given.is_empty() {
            Encryption::Tls { certificates }
        } else {
            Encryption::None
        };
        self.parsed(
            "DOCKER_URL",
            "unix://PATH, tcp://HOST:PORT, http://HOST:PORT or https://HOST:PORT",
            |text| Endpoint::with_encryption(text, &encryption).ok(),
        )
    }

    fn naming(&mut self) -> Naming {
        let by_pattern = self.parsed(
            "SERVICES_NAMER",
            "docker_label or regex",
            |word| match word {
                "docker_label" => Some(false),
                "regex" => Some(true),
                _ => None,
            },
        );
        let (label, given_as) = self.take("SERVICES_NAME_LABEL");
        if label.is_empty() {
            self.wrong(given_as, &label, "the name of a label");
        }
        let (pattern, given_as) = self.take("SERVICES_NAME_MATCH");
        if !by_pattern {
            return Naming::Label(label);
        }
        Naming::pattern(&pattern).unwrap_or_else(|reason| {
            let expected = format!(
                "a regular expression with a group, such as ^/(.+)(-[0-9a-z]{{7,14}})$: {reason}"
            );
            self.wrong(given_as, &pattern, expected);
            Naming::default()
        })
    }

    fn state_dir(&mut self) -> Option<PathBuf> {
        let expected = "an absolute path of a directory, or nothing";
        self.parsed("SIDECAR_STATE_DIR", expected, |text| match text {
            "" => Some(None),
            text => Some(Some(PathBuf::from(text))).filter(|_| text.starts_with('/')),
        })
    }

    fn cluster_name(&mut self) -> String {
        let expected = format!("at most {CLUSTER_NAME_BYTES_MAX} bytes");
        self.parsed("SIDECAR_CLUSTER_NAME", &expected, |text| {
            (text.len() <= CLUSTER_NAME_BYTES_MAX).then(|| text.to_owned())
        })
    }

    fn node_name(&mut self, hostname: &str) -> String {
        let (value, given_as) = self.take("SIDECAR_NODE_NAME");
        let name = if value.is_empty() { hostname } else { &value };
        if name.is_empty() || name.len() > 255 || name.chars().any(char::is_control) {
            self.wrong(
                given_as,
                name,
                "a name of 1 to 255 bytes without control characters",
            );
        }
        if let Some(setting) = self.settings.last_mut() {
            setting.value = name.to_owned();
        }
        name.to_owned()
    }
}

fn parse_seed(text: &str, default_port: u16) -> Option<Seed> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(Seed {
            host: address.ip().to_string(),
            port: address.port(),
        });
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|it| it.strip_suffix(']'))
        .unwrap_or(text);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Some(Seed {
            host: ip.to_string(),
            port: default_port,
        });
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0)?),
        None => (text, default_port),
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    (!host.is_empty() && host.len() <= 253 && host.chars().all(is_name)).then(|| Seed {
        host: host.to_owned(),
        port,
    })
}

fn parse_proxy(text: &str) -> Option<ProxyKind> {
    match text {
        "builtin" => Some(ProxyKind::Builtin),
        "haproxy" => Some(ProxyKind::Haproxy),
        "envoy" => Some(ProxyKind::Envoy),
        "kernel" => Some(ProxyKind::Kernel),
        "none" => Some(ProxyKind::None),
        _ => None,
    }
}

fn parse_versions(text: &str) -> Option<[u8; 3]> {
    let numbers: Vec<u8> = parse_list(text)
        .iter()
        .map(|item| item.parse().ok())
        .collect::<Option<_>>()?;
    let versions: [u8; 3] = numbers.try_into().ok()?;
    let [min, max, current] = versions;
    (min <= current && current <= max).then_some(versions)
}

/// The original's levels, and the other names its log library knows.
pub(crate) fn parse_level(text: &str) -> Option<tracing::Level> {
    match text.to_ascii_lowercase().as_str() {
        "trace" => Some(tracing::Level::TRACE),
        "debug" => Some(tracing::Level::DEBUG),
        "info" => Some(tracing::Level::INFO),
        "warn" | "warning" => Some(tracing::Level::WARN),
        "error" | "fatal" | "panic" => Some(tracing::Level::ERROR),
        _ => None,
    }
}

fn warnings(environment: &BTreeMap<String, String>) -> Vec<String> {
    let mut warnings = Vec::new();
    for name in environment.keys() {
        if NOT_YET.contains(&name.as_str()) {
            warnings.push(format!(
                "{name} is set, but this version does not act on it"
            ));
        } else if name.starts_with("SIDECAR_")
            && !VARIABLES.iter().any(|variable| variable.name == name)
            && !WITHOUT_EFFECT.iter().any(|(known, _)| known == name)
            && !COMMAND_LINE.contains(&name.as_str())
        {
            warnings.push(format!(
                "{name} is set, but no setting has that name; see --help"
            ));
        }
    }
    if environment.contains_key("BIND_IP")
        && !["SIDECAR_BIND_IP", "HAPROXY_BIND_IP", "ENVOY_BIND_IP"]
            .iter()
            .any(|name| environment.contains_key(*name))
    {
        warnings.push("BIND_IP is honoured for old files; write SIDECAR_BIND_IP".to_owned());
    }
    warnings
}

#[cfg(test)]
mod tests;
