//! What the owner of an instance wrote about its check, made into something that can be run. Pure.
//!
//! The words are Go Sidecar's `HttpGet`, `External` and `AlwaysSuccessful`, and ours `Tcp`, `Grpc` and
//! `Docker`; any other means `HttpGet`. What cannot be run is a check that always fails and says why,
//! and what the owner should know comes back as notices.

use std::{fmt, net::IpAddr};

use catalog::{Protocol, Service};

use super::{
    arguments,
    pace::{self, BadSetting, Pace},
    words,
};
use crate::{
    discovery::{EngineHealth, Instance},
    net::{dial::Address, http_client::without_credentials},
};

/// What is to be done for an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// The kind, as owners write it.
    pub(super) kind: Kind,
    /// The check itself.
    pub(super) check: Check,
    /// How often, how long, how many.
    pub(super) pace: Pace,
    /// What the owner should know.
    pub(super) notices: Vec<Notice>,
}

impl Plan {
    /// Whether results of the one continue those of the other: the same question, put as often.
    pub(super) fn asks_like(&self, other: &Self) -> bool {
        let same = match (&self.check, &other.check) {
            (Check::Docker { .. }, Check::Docker { .. }) => true,
            (this, that) => this == that,
        };
        same && self.kind == other.kind
    }
}

/// The words for kinds of checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    HttpGet,
    External,
    AlwaysSuccessful,
    Tcp,
    Grpc,
    Docker,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::HttpGet,
        Self::External,
        Self::AlwaysSuccessful,
        Self::Tcp,
        Self::Grpc,
        Self::Docker,
    ];

    /// The word for it in labels, documents and metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::HttpGet => "HttpGet",
            Self::External => "External",
            Self::AlwaysSuccessful => "AlwaysSuccessful",
            Self::Tcp => "Tcp",
            Self::Grpc => "Grpc",
            Self::Docker => "Docker",
        }
    }
}

/// A check that is ready to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Check {
    /// Healthy while a GET of this URL ends with a status from 200 to 299.
    HttpGet {
        /// Where to ask.
        url: String,
    },
    /// Healthy while this program ends with exit status 0.
    External {
        /// The program and its arguments; never empty.
        words: Vec<String>,
    },
    /// Healthy without looking.
    AlwaysSuccessful,
    /// Healthy while this address takes connections.
    Tcp {
        /// Where to connect.
        address: Address,
    },
    /// Healthy while a server says `SERVING` by grpc.health.v1.
    Grpc {
        /// Whom to ask, and for what.
        target: GrpcTarget,
    },
    /// Healthy while the engine says so.
    Docker {
        /// What it says.
        health: EngineHealth,
    },
    /// Never healthy: what was written cannot be run.
    Unusable {
        /// What is wrong with it.
        reason: String,
    },
}

/// Whom a gRPC check asks, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GrpcTarget {
    /// Where the server is.
    pub(super) address: Address,
    /// Whether the connection is encrypted.
    pub(super) encrypted: bool,
    /// The name to ask for; empty means the server as a whole.
    pub(super) service: String,
}

impl fmt::Display for GrpcTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.encrypted { "grpcs" } else { "grpc" };
        write!(f, "{scheme}://{}/{}", self.address, self.service)
    }
}

/// The argument as evaluated, without credentials; the reason where there is no check.
impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HttpGet { url } => f.write_str(&without_credentials(url)),
            Self::External { words } => f.write_str(&words.join(" ")),
            Self::Tcp { address } => address.fmt(f),
            Self::Grpc { target } => target.fmt(f),
            Self::AlwaysSuccessful | Self::Docker { .. } => Ok(()),
            Self::Unusable { reason } => write!(f, "unusable: {reason}"),
        }
    }
}

impl Check {
    /// Whether running it again cannot end differently.
    pub(super) fn is_settled(&self) -> bool {
        matches!(
            self,
            Self::AlwaysSuccessful | Self::Docker { .. } | Self::Unusable { .. }
        )
    }
}

/// What the owner of an instance should know about its check.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Notice {
    /// No check is given. For information; all others are warnings.
    #[error("no health check given, using the default: {kind} {check}", kind = kind.as_str())]
    Default {
        /// The kind that is used.
        kind: Kind,
        /// The check that is used.
        check: Check,
    },
    /// The kind is none of the known ones.
    #[error(
        "health check {kind:?} is not one of {}; taking it for HttpGet",
        known_kinds()
    )]
    UnknownKind {
        /// What was written.
        kind: String,
    },
    /// Arguments where none are used.
    #[error("health check arguments {args:?} are ignored because {reason}")]
    IgnoredArguments {
        /// What was written.
        args: String,
        /// Why nobody reads them.
        reason: &'static str,
    },
    /// The template of the arguments failed; its text is used as it stands.
    #[error(
        "health check arguments {args:?} are used as they stand, because the template fails: {error}"
    )]
    Template {
        /// What was written.
        args: String,
        /// Why it fails.
        error: arguments::ArgumentsError,
    },
    /// An interval, a timeout or a count that is none.
    #[error(transparent)]
    Setting(#[from] BadSetting),
    /// Interval and the like for a check that knows none.
    #[error("{what} of the health check is ignored because {kind} is not repeated", kind = kind.as_str())]
    IgnoredSetting {
        /// The settings' labels.
        what: String,
        /// The kind of check.
        kind: Kind,
    },
    /// The check can never succeed.
    #[error("the health check can never succeed: {reason}")]
    Unusable {
        /// What is wrong with it.
        reason: String,
    },
}

fn known_kinds() -> String {
    Kind::ALL.map(Kind::as_str).join(", ")
}

/// What checks need to know of this host.
#[derive(Debug, Clone)]
pub(super) struct Host {
    /// See [`HealthConfig::advertise_ip`](super::HealthConfig::advertise_ip).
    pub(super) advertise_ip: IpAddr,
    /// See [`HealthConfig::default_endpoint`](super::HealthConfig::default_endpoint).
    pub(super) default_endpoint: String,
    /// The pace of instances that say nothing about theirs.
    pub(super) pace: Pace,
}

/// Makes the check of an instance.
pub(super) fn plan(instance: &Instance, host: &Host) -> Plan {
    let mut notices = Vec::new();
    let spec = &instance.check;
    let word = spec
        .kind
        .as_deref()
        .map(str::trim)
        .filter(|word| !word.is_empty());
    let args = spec.args.as_deref().unwrap_or_default();
    let (kind, check) = match word {
        None => default_check(instance, host, &mut notices),
        Some(word) => {
            let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == word);
            if kind.is_none() {
                notices.push(Notice::UnknownKind {
                    kind: word.to_owned(),
                });
            }
            let kind = kind.unwrap_or(Kind::HttpGet);
            (kind, given_check(kind, instance, host, &mut notices))
        }
    };
    let unread = match (word, kind) {
        (None, _) => Some("no health check is given with them"),
        (Some(_), Kind::Docker) => Some("the engine runs the check of the image"),
        _ => None,
    };
    if let Some(reason) = unread.filter(|_| !args.trim().is_empty()) {
        notices.push(Notice::IgnoredArguments {
            args: without_credentials(args),
            reason,
        });
    }
    let pace = paced(kind, &check, instance, host, &mut notices);
    if word.is_none() {
        let check = check.clone();
        notices.push(Notice::Default { kind, check });
    }
    if let Check::Unusable { reason } = &check {
        notices.push(Notice::Unusable {
            reason: reason.clone(),
        });
    }
    Plan {
        kind,
        check,
        pace,
        notices,
    }
}

fn paced(
    kind: Kind,
    check: &Check,
    instance: &Instance,
    host: &Host,
    notices: &mut Vec<Notice>,
) -> Pace {
    let spec = &instance.check;
    let (pace, bad) = pace::read(spec, host.pace);
    notices.extend(bad.into_iter().map(Notice::Setting));
    if !check.is_settled() {
        return pace;
    }
    let given = [
        ("HealthCheckInterval", &spec.interval),
        ("HealthCheckTimeout", &spec.timeout),
        ("HealthCheckRise", &spec.rise),
        ("HealthCheckFall", &spec.fall),
    ];
    let what: Vec<&str> = given
        .iter()
        .filter(|(_, value)| value.is_some())
        .map(|(label, _)| *label)
        .collect();
    if !what.is_empty() && !matches!(check, Check::Unusable { .. }) {
        let what = what.join(", ");
        notices.push(Notice::IgnoredSetting { what, kind });
    }
    // There is one result, and no second one to wait for.
    Pace {
        rise: 1,
        fall: 1,
        ..pace
    }
}

fn default_check(instance: &Instance, host: &Host, notices: &mut Vec<Notice>) -> (Kind, Check) {
    let Some(authority) = default_authority(&instance.service, host) else {
        return (Kind::AlwaysSuccessful, Check::AlwaysSuccessful);
    };
    let endpoint = &host.default_endpoint;
    let slash = if endpoint.starts_with('/') { "" } else { "/" };
    let url = format!("http://{authority}{slash}{endpoint}");
    let url = evaluated(&url, &instance.service, host, notices);
    (Kind::HttpGet, Check::HttpGet { url })
}

fn given_check(kind: Kind, instance: &Instance, host: &Host, notices: &mut Vec<Notice>) -> Check {
    let service = &instance.service;
    let args = instance.check.args.as_deref().unwrap_or_default();
    let usable = match kind {
        Kind::AlwaysSuccessful => Ok(Check::AlwaysSuccessful),
        Kind::Docker => docker(instance),
        Kind::HttpGet => http_get(evaluated(args, service, host, notices)),
        Kind::External => external(&evaluated(args, service, host, notices)),
        Kind::Tcp | Kind::Grpc => {
            let text = evaluated(args, service, host, notices);
            let text = match text.trim() {
                "" => default_authority(service, host),
                text => Some(text.to_owned()),
            };
            match text {
                None => Err(format!(
                    "{} needs host:port as its arguments (HealthCheckArgs), and has none, nor has \
                     the instance a TCP port",
                    kind.as_str()
                )),
                Some(text) if kind == Kind::Tcp => tcp(&text),
                Some(text) => grpc(&text),
            }
        }
    };
    usable.unwrap_or_else(|reason| Check::Unusable { reason })
}

/// The text of a template; where it fails, the template itself.
fn evaluated(source: &str, service: &Service, host: &Host, notices: &mut Vec<Notice>) -> String {
    arguments::evaluate(source, service, host.advertise_ip).unwrap_or_else(|error| {
        notices.push(Notice::Template {
            args: without_credentials(source),
            error,
        });
        source.to_owned()
    })
}

fn http_get(url: String) -> Result<Check, String> {
    if url.trim().is_empty() {
        return Err(
            "HttpGet needs the URL to ask as its arguments (HealthCheckArgs), and has none"
                .to_owned(),
        );
    }
    Ok(Check::HttpGet { url })
}

fn external(line: &str) -> Result<Check, String> {
    match words::split(line) {
        Ok(words) if words.is_empty() => Err(
            "External needs a command line as its arguments (HealthCheckArgs), and has none"
                .to_owned(),
        ),
        Ok(words) => Ok(Check::External { words }),
        Err(error) => Err(format!("command line {line:?}: {error}")),
    }
}

/// `host:port`, or `tcp://host:port`.
fn tcp(text: &str) -> Result<Check, String> {
    let authority = text.strip_prefix("tcp://").unwrap_or(text);
    let address = Address::parse(authority)
        .map_err(|error| format!("Tcp needs host:port as its arguments, not {text:?}: {error}"))?;
    Ok(Check::Tcp { address })
}

/// `host:port/service` with `grpc://` or `http://` before it, with `grpcs://` or `https://` for TLS,
/// or with nothing; the service may be left out.
fn grpc(text: &str) -> Result<Check, String> {
    let fail = |error: String| {
        format!("Grpc needs host:port or host:port/service as its arguments, not {text:?}: {error}")
    };
    let (scheme, rest) = text.split_once("://").unwrap_or(("grpc", text));
    let encrypted = match scheme {
        "grpc" | "http" => false,
        "grpcs" | "https" => true,
        other => {
            return Err(fail(format!(
                "its scheme {other:?} is not grpc, grpcs, http or https"
            )));
        }
    };
    let (authority, service) = rest.split_once('/').unwrap_or((rest, ""));
    Ok(Check::Grpc {
        target: GrpcTarget {
            address: Address::parse(authority).map_err(fail)?,
            encrypted,
            service: service.to_owned(),
        },
    })
}

fn docker(instance: &Instance) -> Result<Check, String> {
    let health = instance.engine_health.clone().ok_or(
        "Docker means the HEALTHCHECK of the container's image, and this instance has none; give \
         the image one, or run the container with --health-cmd",
    )?;
    Ok(Check::Docker { health })
}

/// Host and port of an instance's first TCP port. A port bound to one address is asked there; one
/// bound to all of them at the address this host advertises.
fn default_authority(service: &Service, host: &Host) -> Option<String> {
    let port = service
        .port_list()
        .iter()
        .find(|port| port.protocol() == Some(Protocol::Tcp))?;
    let address = match (port.ip.as_str(), port.ip.parse::<IpAddr>()) {
        ("", _) => bracketed(host.advertise_ip),
        (_, Ok(address)) if address.is_unspecified() => bracketed(host.advertise_ip),
        (_, Ok(address)) => bracketed(address),
        (name, Err(_)) => name.to_owned(),
    };
    Some(format!("{address}:{}", port.port))
}

fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

#[cfg(test)]
mod tests;
