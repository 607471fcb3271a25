//! Which agent is asked, and with what token: flags over variables over what the agent of this host uses.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use clap::Args;

use super::Failure;
use crate::net::{dial::Address, http_client::check_url};

/// Where agents serve their API by default.
const PORT: u16 = 7777;
/// Longest token, in bytes.
const TOKEN_BYTES_MAX: usize = 4096;
/// What is read of a file with tokens.
const TOKEN_FILE_BYTES_MAX: u64 = 64 << 10;

/// Which agent to ask.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Connection {
    /// Agent to ask; that of SIDECAR_ADDR when left out, else that of this host (SIDECAR_HTTP_BIND).
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(super) addr: Option<String>,
    /// File with the token for agents of other hosts; SIDECAR_API_TOKEN or SIDECAR_API_TOKEN_FILE when left
    /// out.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Ask over TLS, as an address that begins with https:// does.
    #[arg(long)]
    tls: bool,
    /// Trust the certificate authorities in this PEM file instead of the system's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// An agent's API, and how to ask it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// `http` or `https`.
    pub(super) scheme: &'static str,
    /// Host and port.
    pub(super) address: Address,
    /// What was given to choose it; `None` for the agent of this host.
    pub(super) chosen_by: Option<&'static str>,
    /// Sent with every request.
    pub(super) token: Option<String>,
    /// Whom to trust over TLS.
    pub(super) trust: Trust,
}

/// Whom to trust over TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trust {
    /// The system's certificate authorities.
    System,
    /// Those in this file.
    Authorities(PathBuf),
    /// The agent of this host, which has the certificate in this file.
    Certificate(PathBuf),
}

/// No part of a token is ever printed.
impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place")
            .field("url", &self.url(""))
            .field("chosen_by", &self.chosen_by)
            .field("token", &self.token.as_ref().map(|_| "(hidden)"))
            .field("trust", &self.trust)
            .finish()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scheme {
            "http" => self.address.fmt(f),
            scheme => write!(f, "{scheme}://{}", self.address),
        }
    }
}

impl Place {
    /// An agent of another host, without TLS and without a token.
    pub(super) fn at(address: Address) -> Self {
        Self {
            scheme: "http",
            address,
            chosen_by: Some("--addr"),
            token: None,
            trust: Trust::System,
        }
    }

    /// The URL of a path.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address.authority())
    }

    /// Whether it is this machine, whatever the name of the agent: chosen by nobody, or a loopback address.
    pub(super) fn is_this_host(&self) -> bool {
        let is_loopback = |ip: IpAddr| ip.is_loopback();
        self.chosen_by.is_none()
            || self.address.host == "localhost"
            || self.address.host.parse().is_ok_and(is_loopback)
    }

    /// The same kind of place on another host.
    pub(super) fn on(&self, host: &str) -> Self {
        Self {
            address: Address {
                host: host.to_owned(),
                port: self.address.port,
            },
            ..self.clone()
        }
    }
}

impl Connection {
    /// The place that these flags and the variables name.
    pub(super) fn place(&self, environment: &BTreeMap<String, String>) -> Result<Place, Failure> {
        let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty());
        let given = match (&self.addr, variable("SIDECAR_ADDR")) {
            (Some(text), _) => Some(("--addr", text)),
            (None, Some(text)) => Some(("SIDECAR_ADDR", text)),
            (None, None) => None,
        };
        let own_certificate = variable("SIDECAR_API_TLS_CERT").filter(|_| given.is_none());
        let (is_tls, address) = match given {
            Some((name, text)) => chosen(name, text)?,
            None => (
                own_certificate.is_some(),
                own(variable("SIDECAR_HTTP_BIND"))?,
            ),
        };
        let is_tls = is_tls || self.tls;
        if self.ca.is_some() && !is_tls {
            return Err(Failure::usage(
                "--ca means nothing without TLS: add --tls, or https:// to the address",
            ));
        }
        Ok(Place {
            scheme: if is_tls { "https" } else { "http" },
            address,
            chosen_by: given.map(|(name, _)| name),
            token: self.token(environment, given.is_none())?,
            trust: match (&self.ca, own_certificate) {
                (Some(path), _) => Trust::Authorities(path.clone()),
                (None, Some(path)) => Trust::Certificate(path.into()),
                (None, None) => Trust::System,
            },
        })
    }

    /// The agent of this host asks its own programs for none; its file may be for its own eyes.
    fn token(
        &self,
        environment: &BTreeMap<String, String>,
        is_own: bool,
    ) -> Result<Option<String>, Failure> {
        let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty());
        if let Some(path) = &self.token_file {
            return read_token("--token-file", path).map(Some);
        }
        if is_own {
            return Ok(None);
        }
        if let Some(token) = variable("SIDECAR_API_TOKEN") {
            return usable_token("SIDECAR_API_TOKEN", token).map(Some);
        }
        variable("SIDECAR_API_TOKEN_FILE")
            .map(|path| read_token("SIDECAR_API_TOKEN_FILE", Path::new(path)))
            .transpose()
    }
}

/// The first token of a file: there may be others, and comments.
fn read_token(name: &str, path: &Path) -> Result<String, Failure> {
    use std::io::Read as _;
    let fail = |reason: String| Failure::usage(format!("{name}: {}: {reason}", path.display()));
    let file = std::fs::File::open(path).map_err(|error| fail(error.to_string()))?;
    let mut text = String::new();
    file.take(TOKEN_FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|error| fail(error.to_string()))?;
    let mut lines = text.lines().map(str::trim);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
    usable_token(
        &format!("{name}: {}", path.display()),
        first.unwrap_or_default(),
    )
}

/// The token without blanks around it; errors repeat nothing of it.
fn usable_token(name: &str, text: &str) -> Result<String, Failure> {
    let token = text.trim();
    let expected = if token.is_empty() {
        "it is empty"
    } else if token.len() > TOKEN_BYTES_MAX {
        "it is longer than 4096 bytes"
    } else if !token.chars().all(|char| char.is_ascii_graphic()) {
        "it holds something else than printable ASCII without blanks"
    } else {
        return Ok(token.to_owned());
    };
    Err(Failure::usage(format!("{name} is no token: {expected}")))
}

/// Whether TLS is wanted, and the address, of a text such as `web-01`, `10.0.0.1:7777` or `https://web-01`.
fn chosen(name: &str, text: &str) -> Result<(bool, Address), Failure> {
    let fail = |reason: &str| {
        let expected = "expected HOST, HOST:PORT, http://HOST:PORT or https://HOST:PORT";
        Failure::usage(format!(
            "{name}={text:?} is no address of an agent: {reason}; {expected}"
        ))
    };
    let trimmed = text.trim();
    let (is_tls, rest) = match trimmed.split_once("://") {
        Some(("http", rest)) => (false, rest),
        Some(("https", rest)) => (true, rest),
        Some(_) => return Err(fail("its scheme is not http or https")),
        None => (false, trimmed),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#', '@']) {
        return Err(fail("only a host and a port can be given"));
    }
    let address = match Address::parse(rest) {
        Ok(address) => address,
        Err(_) if rest.parse::<IpAddr>().is_ok() || !rest.contains(':') && !rest.is_empty() => {
            Address {
                host: rest.to_owned(),
                port: PORT,
            }
        }
        Err(reason) => return Err(fail(&reason)),
    };
    check_url(&format!("http://{}", address.authority()))
        .map_err(|_| fail("its host is not a name or an address"))?;
    Ok((is_tls, address))
}

/// Where the agent of this host is asked from this host.
fn own(http_bind: Option<&String>) -> Result<Address, Failure> {
    let bound = match http_bind {
        None => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT),
        Some(text) => text.parse().map_err(|_| {
            let why = "expected IP:PORT; or name the agent with --addr";
            Failure::usage(format!("SIDECAR_HTTP_BIND={text:?} is not usable: {why}"))
        })?,
    };
    let ip: IpAddr = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Ok(Address {
        host: ip.to_string(),
        port: bound.port(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(addr: Option<&str>, variables: &[(&str, &str)]) -> Result<String, String> {
        let connection = Connection {
            addr: addr.map(str::to_owned),
            ..Connection::default()
        };
        let variables = variables
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()));
        let place = connection.place(&variables.collect());
        place.map(|it| it.url("")).map_err(|it| it.to_string())
    }

    #[test]
    fn the_agent_of_this_host_is_asked_where_it_listens() {
        for (bind, url) in [
            ("", "http://127.0.0.1:7777"),
            ("0.0.0.0:8080", "http://127.0.0.1:8080"),
            ("[::]:8080", "http://[::1]:8080"),
            ("10.0.0.1:1", "http://10.0.0.1:1"),
        ] {
            assert_eq!(
                place(None, &[("SIDECAR_HTTP_BIND", bind)]),
                Ok(url.to_owned())
            );
        }
        let error = place(None, &[("SIDECAR_HTTP_BIND", "here")]).unwrap_err();
        assert!(error.contains("SIDECAR_HTTP_BIND=\"here\""), "{error}");
    }

    #[test]
    fn a_flag_goes_before_a_variable_and_a_port_may_be_left_out() {
        let variables = [("SIDECAR_ADDR", "b"), ("SIDECAR_HTTP_BIND", "0.0.0.0:1")];
        assert_eq!(place(Some("a"), &variables), Ok("http://a:7777".to_owned()));
        assert_eq!(place(None, &variables), Ok("http://b:7777".to_owned()));
        for (text, url) in [
            ("10.0.0.1:80", "http://10.0.0.1:80"),
            ("[fd00::1]:80", "http://[fd00::1]:80"),
            ("fd00::1", "http://[fd00::1]:7777"),
            ("http://a/", "http://a:7777"),
            ("https://a:8443", "https://a:8443"),
        ] {
            assert_eq!(place(Some(text), &[]), Ok(url.to_owned()), "{text}");
        }
        for text in ["", "ftp://a", "a:b", "a/b", "user@a", "a b", "http://a?x"] {
            let error = place(Some(text), &[]).unwrap_err();
            assert!(error.contains(&format!("--addr={text:?}")), "{error}");
        }
    }

    #[test]
    fn an_agent_of_this_host_that_speaks_tls_is_known_by_its_certificate() {
        let environment =
            BTreeMap::from([("SIDECAR_API_TLS_CERT".to_owned(), "/a.pem".to_owned())]);
        let place = Connection::default().place(&environment).unwrap();
        assert_eq!(place.url(""), "https://127.0.0.1:7777");
        assert_eq!(place.trust, Trust::Certificate("/a.pem".into()));
        let other = Connection {
            addr: Some("https://web-02".to_owned()),
            ..Connection::default()
        };
        assert_eq!(other.place(&environment).unwrap().trust, Trust::System);
    }

    #[test]
    fn a_token_is_read_from_the_first_place_that_has_one_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "# one, and the one before\n of-the-file \nolder\n").unwrap();
        let variables = |list: &[(&str, &str)]| {
            let list = list
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()));
            list.collect::<BTreeMap<_, _>>()
        };
        let path = file.to_str().unwrap();
        let both = variables(&[
            ("SIDECAR_API_TOKEN", "of-the-variable"),
            ("SIDECAR_API_TOKEN_FILE", path),
        ]);
        let token = |connection: &Connection, variables: &BTreeMap<_, _>| {
            let place = connection.place(variables).unwrap();
            assert!(!format!("{place:?}{place}").contains("of-the"), "{place:?}");
            place.token
        };
        // The agent of this host needs none.
        assert_eq!(token(&Connection::default(), &both), None);
        let plain = Connection {
            addr: Some("web-02".to_owned()),
            ..Connection::default()
        };
        assert_eq!(token(&plain, &both).as_deref(), Some("of-the-variable"));
        let by_file = variables(&[("SIDECAR_API_TOKEN_FILE", path)]);
        assert_eq!(token(&plain, &by_file).as_deref(), Some("of-the-file"));
        let by_flag = Connection {
            token_file: Some(file),
            ..Connection::default()
        };
        assert_eq!(token(&by_flag, &both).as_deref(), Some("of-the-file"));
        assert_eq!(token(&plain, &variables(&[])), None);
        let error = plain
            .place(&variables(&[("SIDECAR_API_TOKEN", "s3cret\nline")]))
            .unwrap_err();
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}
