//! What the owner of an instance wrote about its check, made into something that can be run. Pure.
//!
//! The words are Go Sidecar's: `HttpGet`, `External`, `AlwaysSuccessful`; any other means `HttpGet`.
//! What cannot be run is a check that always fails and says why, and what the owner should know comes
//! back as notices.

use std::{fmt, net::IpAddr};

use catalog::{Protocol, Service};

use super::{arguments, words};
use crate::discovery::Instance;

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
    /// Never healthy: what was written cannot be run.
    Unusable {
        /// What is wrong with it.
        reason: String,
    },
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HttpGet { url } => write!(f, "HttpGet {url}"),
            Self::External { words } => write!(f, "External {}", words.join(" ")),
            Self::AlwaysSuccessful => f.write_str("AlwaysSuccessful"),
            Self::Unusable { reason } => write!(f, "unusable: {reason}"),
        }
    }
}

impl Check {
    /// Whether running it again cannot end differently.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self, Self::AlwaysSuccessful | Self::Unusable { .. })
    }
}

/// What the owner of an instance should know about its check.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Notice {
    /// No check is given. For information; all others are warnings.
    #[error("no health check given, using the default: {check:?}")]
    Default {
        /// The check that is used.
        check: Check,
    },
    /// The kind is none of the known ones.
    #[error(
        "health check {kind:?} is not one of HttpGet, External, AlwaysSuccessful; taking it for HttpGet"
    )]
    UnknownKind {
        /// What was written.
        kind: String,
    },
    /// Arguments without a kind.
    #[error(
        "health check arguments {args:?} are ignored because no health check is given with them"
    )]
    IgnoredArguments {
        /// What was written.
        args: String,
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
    /// The check can never succeed.
    #[error("the health check can never succeed: {reason}")]
    Unusable {
        /// What is wrong with it.
        reason: String,
    },
}

/// What checks need to know of this host.
#[derive(Debug, Clone)]
pub(super) struct Host {
    /// See [`HealthConfig::advertise_ip`](super::HealthConfig::advertise_ip).
    pub(super) advertise_ip: IpAddr,
    /// See [`HealthConfig::default_endpoint`](super::HealthConfig::default_endpoint).
    pub(super) default_endpoint: String,
}

/// Makes the check of an instance.
pub(super) fn plan(instance: &Instance, host: &Host) -> (Check, Vec<Notice>) {
    let mut notices = Vec::new();
    let service = &instance.service;
    let kind = instance
        .check
        .kind
        .as_deref()
        .map(str::trim)
        .filter(|kind| !kind.is_empty());
    let args = instance.check.args.as_deref().unwrap_or_default();
    let mut evaluated = |source: &str| {
        arguments::evaluate(source, service, host.advertise_ip).unwrap_or_else(|error| {
            notices.push(Notice::Template {
                args: source.to_owned(),
                error,
            });
            source.to_owned()
        })
    };
    let check = match kind {
        None => default_url(service, host).map_or(Check::AlwaysSuccessful, |url| Check::HttpGet {
            url: evaluated(&url),
        }),
        Some("AlwaysSuccessful") => Check::AlwaysSuccessful,
        Some("External") => external(&evaluated(args)),
        Some(_) => http_get(evaluated(args)),
    };
    match kind {
        None => {
            if !args.is_empty() {
                notices.push(Notice::IgnoredArguments {
                    args: args.to_owned(),
                });
            }
            notices.push(Notice::Default {
                check: check.clone(),
            });
        }
        Some("HttpGet" | "External" | "AlwaysSuccessful") => {}
        Some(kind) => notices.push(Notice::UnknownKind {
            kind: kind.to_owned(),
        }),
    }
    if let Check::Unusable { reason } = &check {
        notices.push(Notice::Unusable {
            reason: reason.clone(),
        });
    }
    (check, notices)
}

fn http_get(url: String) -> Check {
    if url.trim().is_empty() {
        let reason =
            "HttpGet needs the URL to ask as its arguments (HealthCheckArgs), and has none";
        return Check::Unusable {
            reason: reason.to_owned(),
        };
    }
    Check::HttpGet { url }
}

fn external(line: &str) -> Check {
    match words::split(line) {
        Ok(words) if words.is_empty() => Check::Unusable {
            reason:
                "External needs a command line as its arguments (HealthCheckArgs), and has none"
                    .to_owned(),
        },
        Ok(words) => Check::External { words },
        Err(error) => Check::Unusable {
            reason: format!("command line {line:?}: {error}"),
        },
    }
}

/// The URL of an instance's first TCP port. A port bound to one address is asked there; one bound to
/// all of them at the address this host advertises.
fn default_url(service: &Service, host: &Host) -> Option<String> {
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
    let endpoint = &host.default_endpoint;
    let slash = if endpoint.starts_with('/') { "" } else { "/" };
    Some(format!("http://{address}:{}{slash}{endpoint}", port.port))
}

fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

#[cfg(test)]
mod tests {
    use catalog::Port;

    use super::*;
    use crate::{discovery::CheckSpec, health::tests::service};

    fn planned(instance: &Instance) -> (Check, Vec<Notice>) {
        let host = Host {
            advertise_ip: "10.20.0.11".parse().unwrap(),
            default_endpoint: "/version".to_owned(),
        };
        plan(instance, &host)
    }

    fn spec(kind: Option<&str>, args: Option<&str>) -> (Check, String) {
        let check = CheckSpec {
            kind: kind.map(str::to_owned),
            args: args.map(str::to_owned),
            ..CheckSpec::default()
        };
        let (check, notices) = planned(&Instance {
            service: service("a"),
            check,
            engine_health: None,
        });
        let notices: Vec<String> = notices.iter().map(ToString::to_string).collect();
        (check, notices.join("; "))
    }

    fn http(url: &str) -> Check {
        Check::HttpGet {
            url: url.to_owned(),
        }
    }

    #[test]
    fn the_words_of_owners_become_checks() {
        let url = "http://{{ host }}:{{ tcp 8080 }}/";
        assert_eq!(
            spec(Some("HttpGet"), Some(url)),
            (http("http://10.20.0.11:32768/"), String::new())
        );
        assert_eq!(
            spec(Some(" External "), Some("/bin/check -H {{ host }} 'a b'")),
            (
                Check::External {
                    words: ["/bin/check", "-H", "10.20.0.11", "a b"]
                        .map(str::to_owned)
                        .into()
                },
                String::new()
            )
        );
        assert_eq!(
            spec(Some("AlwaysSuccessful"), Some("{{ anything")),
            (Check::AlwaysSuccessful, String::new())
        );
    }

    #[test]
    fn an_unknown_word_is_http_get_with_a_warning() {
        for word in ["Ping", "httpget"] {
            let (check, notices) = spec(Some(word), Some("http://:1/"));
            assert_eq!(check, http("http://:1/"));
            for part in [word, "HttpGet", "External", "AlwaysSuccessful"] {
                assert!(notices.contains(part), "{notices}");
            }
        }
    }

    #[test]
    fn a_check_that_cannot_run_says_so() {
        for (kind, args, reason) in [
            ("HttpGet", None, "HttpGet needs the URL"),
            ("HttpGet", Some(" "), "HttpGet needs the URL"),
            ("External", None, "External needs a command line"),
            (
                "External",
                Some("{{ \"\" }}"),
                "External needs a command line",
            ),
            ("External", Some("it's"), "the quote ' at character 3"),
        ] {
            let (check, notices) = spec(Some(kind), args);
            assert!(
                matches!(&check, Check::Unusable { reason: it } if it.contains(reason)),
                "{check:?}"
            );
            assert!(
                notices.contains("can never succeed") && notices.contains(reason),
                "{notices}"
            );
        }
    }

    #[test]
    fn a_failing_template_is_used_as_it_stands() {
        let (check, notices) = spec(Some("HttpGet"), Some("http://{{ nope }}/"));
        assert_eq!(check, http("http://{{ nope }}/"));
        assert!(
            notices.contains("function \"nope\" not defined"),
            "{notices}"
        );
    }

    #[test]
    fn the_default_asks_the_first_tcp_port_where_it_is_bound() {
        let port = |kind: &str, ip: &str| Port {
            kind: kind.to_owned(),
            port: 32768,
            service_port: 0,
            ip: ip.to_owned(),
        };
        for (ports, check) in [
            (
                vec![port("tcp", "10.0.0.9")],
                http("http://10.0.0.9:32768/version"),
            ),
            (
                vec![port("tcp", "0.0.0.0")],
                http("http://10.20.0.11:32768/version"),
            ),
            (
                vec![port("tcp", "::")],
                http("http://10.20.0.11:32768/version"),
            ),
            (
                vec![port("tcp", "")],
                http("http://10.20.0.11:32768/version"),
            ),
            (
                vec![port("tcp", "fd00::1")],
                http("http://[fd00::1]:32768/version"),
            ),
            (
                vec![port("tcp", "db.local")],
                http("http://db.local:32768/version"),
            ),
            (
                vec![
                    port("udp", "10.0.0.8"),
                    port("tcp", "10.0.0.9"),
                    port("tcp", "10.0.0.7"),
                ],
                http("http://10.0.0.9:32768/version"),
            ),
            (vec![port("udp", "10.0.0.9")], Check::AlwaysSuccessful),
            (vec![], Check::AlwaysSuccessful),
        ] {
            let mut service = service("a");
            service.ports = Some(ports);
            let instance = Instance {
                service,
                check: CheckSpec::default(),
                engine_health: None,
            };
            let default = Notice::Default {
                check: check.clone(),
            };
            assert_eq!(planned(&instance), (check, vec![default]));
        }
        // As in Go, a kind that is set but empty is none.
        assert_eq!(
            spec(Some(""), None).0,
            http("http://10.0.0.1:32768/version")
        );
        assert!(
            spec(None, Some("http://x/"))
                .1
                .contains("\"http://x/\" are ignored")
        );
    }

    #[test]
    fn the_default_endpoint_may_be_empty_or_a_template() {
        let instance = Instance {
            service: service("a"),
            check: CheckSpec::default(),
            engine_health: None,
        };
        for (endpoint, url) in [
            ("", "http://10.0.0.1:32768/"),
            ("ping", "http://10.0.0.1:32768/ping"),
            ("/{{ .Name }}", "http://10.0.0.1:32768/web"),
        ] {
            let host = Host {
                advertise_ip: "10.20.0.11".parse().unwrap(),
                default_endpoint: endpoint.to_owned(),
            };
            assert_eq!(plan(&instance, &host).0, http(url));
        }
    }
}
