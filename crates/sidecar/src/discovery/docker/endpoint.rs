//! Where a Docker engine listens: the text of `DOCKER_URL`, parsed once.
//!
//! Not a connection; `engine` makes those. The forms are those of the Docker command line that need
//! no other program.

use std::{fmt, path::PathBuf, str::FromStr};

/// Ports of an engine that listens on TCP when the text names none, without and with TLS.
const TCP_PORT_DEFAULT: u16 = 2375;
const TLS_PORT_DEFAULT: u16 = 2376;

/// Where a Docker engine, or something that speaks its API, listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A socket in the file system.
    Unix(PathBuf),
    /// HTTP over TCP.
    Tcp {
        /// Name or address; an IPv6 address without its brackets.
        host: String,
        /// Port, 2375 by default, and 2376 with TLS.
        port: u16,
        /// Whether the connection is encrypted, and how.
        encryption: Encryption,
    },
}

/// Whether a TCP connection to an engine is encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Encryption {
    /// It is not.
    #[default]
    None,
    /// By TLS. The engine's certificate is always verified.
    Tls {
        /// Directory with `ca.pem`, and with `cert.pem` and `key.pem` for an engine that wants to know
        /// its clients; `None` is the system's root certificates.
        certificates: Option<PathBuf>,
    },
}

/// A text that names no endpoint.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{value:?} is not a Docker endpoint: {reason}; expected unix:///var/run/docker.sock, \
     tcp://host:2375, http://host:2375 or https://host:2376"
)]
pub struct InvalidEndpoint {
    /// The text as it came.
    pub value: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Endpoint {
    /// Reads `unix:///path`, `tcp://host:port`, `http://host:port` or `https://host:port`.
    ///
    /// # Errors
    /// Any other scheme, a socket path that is not absolute, no host, a path behind the port, or a
    /// port outside 1 to 65535.
    pub fn parse(text: &str) -> Result<Self, InvalidEndpoint> {
        Self::with_encryption(text, &Encryption::None)
    }

    /// The same with an encryption for `tcp://`, and for `https://`, which has none otherwise but that
    /// by the system's root certificates.
    ///
    /// # Errors
    /// As [`Endpoint::parse`].
    pub fn with_encryption(text: &str, encryption: &Encryption) -> Result<Self, InvalidEndpoint> {
        let fail = |reason| InvalidEndpoint {
            value: text.to_owned(),
            reason,
        };
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| fail("it has no scheme"))?;
        match scheme.to_ascii_lowercase().as_str() {
            "unix" if rest.len() > 1 && rest.starts_with('/') => Ok(Self::Unix(rest.into())),
            "unix" => Err(fail("the path of the socket is not absolute")),
            scheme @ ("tcp" | "http" | "https") => {
                let encryption = match (scheme, encryption) {
                    ("http", _) => Encryption::None,
                    ("https", Encryption::None) => Encryption::Tls { certificates: None },
                    (_, given) => given.clone(),
                };
                let default = match encryption {
                    Encryption::None => TCP_PORT_DEFAULT,
                    Encryption::Tls { .. } => TLS_PORT_DEFAULT,
                };
                let (host, port) = host_and_port(rest, default).map_err(fail)?;
                Ok(Self::Tcp {
                    host: host.to_owned(),
                    port,
                    encryption,
                })
            }
            _ => Err(fail("its scheme is unknown")),
        }
    }

    /// Value of the `Host` header, which the engine ignores on a Unix socket but HTTP requires.
    pub(super) fn authority(&self) -> String {
        match self {
            Self::Unix(_) => "docker".to_owned(),
            Self::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port, .. } => format!("{host}:{port}"),
        }
    }
}

fn host_and_port(text: &str, default: u16) -> Result<(&str, u16), &'static str> {
    let text = text.strip_suffix('/').unwrap_or(text);
    if text.contains(['/', '?', '#', '@']) || text.contains(char::is_whitespace) {
        return Err("only host and port may follow the scheme");
    }
    let (host, port) = if let Some(bracketed) = text.strip_prefix('[') {
        let (host, rest) = bracketed
            .split_once(']')
            .ok_or("the bracket is not closed")?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err("there is no IPv6 address between the brackets");
        }
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => return Err("only host and port may follow the scheme"),
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    if host.is_empty() {
        return Err("it has no host");
    }
    let port = match port {
        None => default,
        Some(port) => port
            .parse()
            .map_err(|_| "the port is not a number from 1 to 65535")?,
    };
    if port == 0 {
        return Err("the port is not a number from 1 to 65535");
    }
    Ok((host, port))
}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp {
                encryption: Encryption::None,
                ..
            } => write!(f, "tcp://{}", self.authority()),
            Self::Tcp { .. } => write!(f, "https://{}", self.authority()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_forms_of_the_docker_command_line() {
        for (text, printed) in [
            ("unix:///var/run/docker.sock", "unix:///var/run/docker.sock"),
            ("tcp://10.0.0.1:2376", "tcp://10.0.0.1:2376"),
            ("http://engine.local:80/", "tcp://engine.local:80"),
            ("tcp://engine", "tcp://engine:2375"),
            ("TCP://[fd00::1]:2375", "tcp://[fd00::1]:2375"),
            ("tcp://[::1]", "tcp://[::1]:2375"),
        ] {
            assert_eq!(
                Endpoint::parse(text).unwrap().to_string(),
                printed,
                "{text}"
            );
        }
        assert_eq!(
            Endpoint::parse("tcp://[::1]:1").unwrap(),
            Endpoint::Tcp {
                host: "::1".into(),
                port: 1,
                encryption: Encryption::None,
            }
        );
    }

    #[test]
    fn encryption_is_for_tcp_and_https() {
        let tls = Encryption::Tls {
            certificates: Some("/certificates".into()),
        };
        for (text, given, printed, certificates) in [
            ("https://a", &Encryption::None, "https://a:2376", None),
            ("https://a:1", &tls, "https://a:1", Some("/certificates")),
            ("tcp://a", &tls, "https://a:2376", Some("/certificates")),
        ] {
            let endpoint = Endpoint::with_encryption(text, given).unwrap();
            assert_eq!(endpoint.to_string(), printed, "{text}");
            let wanted = Encryption::Tls {
                certificates: certificates.map(Into::into),
            };
            assert!(
                matches!(&endpoint, Endpoint::Tcp { encryption, .. } if *encryption == wanted),
                "{endpoint:?}"
            );
        }
        for (text, printed) in [("http://a", "tcp://a:2375"), ("unix:///a", "unix:///a")] {
            let endpoint = Endpoint::with_encryption(text, &tls).unwrap();
            assert_eq!(endpoint.to_string(), printed);
        }
    }

    #[test]
    fn says_what_is_wrong_and_what_was_expected() {
        for (text, reason) in [
            ("", "no scheme"),
            ("/var/run/docker.sock", "no scheme"),
            ("unix://", "not absolute"),
            ("unix:///", "not absolute"),
            ("unix://run/docker.sock", "not absolute"),
            ("tcp://", "no host"),
            ("tcp://:2375", "no host"),
            ("tcp://a:0", "1 to 65535"),
            ("tcp://a:65536", "1 to 65535"),
            ("tcp://a:b", "1 to 65535"),
            ("tcp://::1", "no host"),
            ("tcp://[::1", "not closed"),
            ("tcp://[a]:1", "no IPv6 address"),
            ("tcp://[::1]x", "only host and port"),
            ("tcp://a:1/v1.40", "only host and port"),
            ("ssh://a", "unknown"),
        ] {
            let error = Endpoint::parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
            assert!(error.contains(&format!("{text:?}")), "{error}");
            assert!(error.contains("unix:///var/run/docker.sock"), "{error}");
        }
    }
}
