//! Connections to what is checked: name to address, address to TCP, TCP to TLS, under one deadline.
//!
//! No pool and no retries: a check must open the connection its users would have to open. What is
//! said over a connection is the business of `http_client` and of the other checks.

use std::{fmt, future::Future, io, net::Ipv6Addr, net::SocketAddr, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::OnceCell,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsConnector;

use super::{
    pinned::Pinned,
    resolver::{ResolveError, Resolver},
};

/// Opens connections. Cheap to clone; clones share the loaded root certificates.
#[derive(Debug, Clone)]
pub struct Dialer {
    resolver: Resolver,
    tls: Arc<OnceCell<Tls>>,
}

/// What is to be spoken over an encrypted connection, as the server is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Why there is no connection. Trying again may help.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The host has no address.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// None of the host's addresses took the connection.
    #[error("cannot connect to {address}: {cause}")]
    Connect {
        /// The last address tried.
        address: SocketAddr,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// No encrypted connection to a host that took the connection.
    #[error("no TLS with {host:?}: {reason}")]
    Tls {
        /// The name the certificate must carry.
        host: String,
        /// What TLS said.
        reason: String,
    },
    /// Not in time.
    #[error(transparent)]
    Late(#[from] Late),
}

/// The time was over before the work was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no answer within {limit:?}: still {doing}")]
pub struct Late {
    /// The time there was.
    pub limit: Duration,
    /// What took so long.
    pub doing: &'static str,
}

/// The time a check has, over all it does.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    /// The end.
    pub at: Instant,
    limit: Duration,
}

impl Deadline {
    /// From now on.
    pub fn after(limit: Duration) -> Self {
        Self {
            at: Instant::now() + limit,
            limit,
        }
    }

    /// Waits for `future` until the end.
    ///
    /// # Errors
    /// When the time is over; the error names what was being done.
    pub async fn within<T>(
        self,
        doing: &'static str,
        future: impl Future<Output = T>,
    ) -> Result<T, Late> {
        timeout_at(self.at, future)
            .await
            .map_err(|_| self.missed(doing))
    }

    fn missed(self, doing: &'static str) -> Late {
        Late {
            limit: self.limit,
            doing,
        }
    }
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// A name or an address without brackets; empty means this machine.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Address {
    /// Reads `host:port`; the host may be empty, and an IPv6 address may go without brackets.
    ///
    /// # Errors
    /// Says what is wrong with it, in words that follow the text itself.
    pub fn parse(text: &str) -> Result<Self, String> {
        match split_authority(text)? {
            (host, Some(port)) => Ok(Self { host, port }),
            (_, None) => Err("it has no port".to_owned()),
        }
    }

    /// The authority of a URL that names it; no host is `localhost`, for servers insist on one.
    pub fn authority(&self) -> String {
        if self.host.is_empty() {
            format!("localhost:{}", self.port)
        } else {
            self.to_string()
        }
    }

    fn connect_host(&self) -> &str {
        connect_host(&self.host)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Where an empty host leads: to this machine, as in Go.
fn connect_host(host: &str) -> &str {
    if host.is_empty() { "127.0.0.1" } else { host }
}

/// Host, without brackets, and port of a URL's authority.
pub(super) fn split_authority(authority: &str) -> Result<(String, Option<u16>), String> {
    if authority.is_empty() {
        return Err("it has no host and no port".to_owned());
    }
    let (host, port) = if let Some(bracketed) = authority.strip_prefix('[') {
        let (host, rest) = bracketed
            .split_once(']')
            .ok_or("the bracket before its host is not closed")?;
        host.parse::<Ipv6Addr>()
            .map_err(|_| format!("{host:?} is not an IPv6 address"))?;
        let port = rest
            .strip_prefix(':')
            .or_else(|| rest.is_empty().then_some(""));
        (
            host,
            port.ok_or_else(|| format!("{rest:?} after its host is not a port"))?,
        )
    } else {
        // Without brackets the last group of an IPv6 address looks like a port; it is one where the
        // rest is an address too.
        let is_address = |text: &str| text.parse::<Ipv6Addr>().is_ok();
        match authority.rsplit_once(':') {
            Some((host, _)) if is_address(authority) && !is_address(host) => (authority, ""),
            Some(split) => split,
            None => (authority, ""),
        }
    };
    let good = |char: char| char.is_ascii_alphanumeric() || "-_.~".contains(char);
    if !host.chars().all(good) && host.parse::<Ipv6Addr>().is_err() {
        return Err(format!("{host:?} is not a host name or an address"));
    }
    let port = match port {
        "" => None,
        digits => Some(
            digits
                .parse()
                .map_err(|_| format!("{digits:?} is not a port number"))?,
        ),
    };
    if host.is_empty() && port.is_none() {
        return Err("it has no host and no port".to_owned());
    }
    Ok((host.to_owned(), port))
}

/// The same trust, told apart by what is offered to the server.
#[derive(Debug, Clone)]
struct Tls {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

impl Tls {
    fn new(roots: RootCertStore) -> Result<Self, String> {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self::of(&config))
    }

    fn pinned(certificate: CertificateDer<'static>) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let verifier = Arc::new(Pinned::new(certificate, provider.clone()));
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(Self::of(&config))
    }

    fn of(config: &ClientConfig) -> Self {
        let offering = |protocol: &[u8]| {
            let mut config = config.clone();
            config.alpn_protocols = vec![protocol.to_vec()];
            Arc::new(config)
        };
        Self {
            http1: offering(b"http/1.1"),
            http2: offering(b"h2"),
        }
    }
}

impl Dialer {
    /// Finds hosts through `resolver`. Root certificates are read from the system at the first
    /// encrypted connection.
    pub fn new(resolver: Resolver) -> Self {
        Self {
            resolver,
            tls: Arc::default(),
        }
    }

    /// The same, trusting these roots instead of the system's.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn trusting(resolver: Resolver, roots: RootCertStore) -> Result<Self, String> {
        let tls = Arc::new(OnceCell::new_with(Some(Tls::new(roots)?)));
        Ok(Self { resolver, tls })
    }

    /// The same for the one server that has this certificate, whatever name it carries.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn pinned(
        resolver: Resolver,
        certificate: CertificateDer<'static>,
    ) -> Result<Self, String> {
        let tls = Arc::new(OnceCell::new_with(Some(Tls::pinned(certificate)?)));
        Ok(Self { resolver, tls })
    }

    /// Connects to an address of the host, and gives each a fair share of the time that is left.
    ///
    /// # Errors
    /// When the host has no address, or none of its addresses takes the connection in time.
    pub async fn connect(
        &self,
        address: &Address,
        deadline: Deadline,
    ) -> Result<TcpStream, DialError> {
        let lookup = self.resolver.lookup(address.connect_host());
        let found = deadline.within("resolving its host", lookup).await??;
        let mut failure = None;
        for (tried, ip) in found.iter().enumerate() {
            let address = SocketAddr::new(*ip, address.port);
            let left = deadline.at.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(found.len() - tried).unwrap_or(u32::MAX);
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(cause)) => failure = Some(DialError::Connect { address, cause }),
                Err(_) => failure = Some(deadline.missed("connecting").into()),
            }
        }
        // The resolver never answers with an empty list; should it, nothing was connected in time.
        Err(failure.unwrap_or_else(|| deadline.missed("resolving its host").into()))
    }

    /// Makes a connection an encrypted one. The certificate must be valid for the host's name.
    ///
    /// # Errors
    /// When there are no root certificates, or the server's certificate or TLS is not good.
    pub async fn encrypt(
        &self,
        stream: TcpStream,
        host: &str,
        protocol: Protocol,
        deadline: Deadline,
    ) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>, DialError> {
        let host = connect_host(host);
        let fail = |reason: String| DialError::Tls {
            host: host.to_owned(),
            reason,
        };
        let name =
            ServerName::try_from(host.to_owned()).map_err(|error| fail(error.to_string()))?;
        let loading = "reading the system's root certificates";
        let tls = deadline.within(loading, self.tls()).await?.map_err(fail)?;
        let config = match protocol {
            Protocol::Http1 => tls.http1,
            Protocol::Http2 => tls.http2,
        };
        let handshake = TlsConnector::from(config).connect(name, stream);
        deadline
            .within("negotiating TLS", handshake)
            .await?
            .map_err(|error| fail(error.to_string()))
    }

    async fn tls(&self) -> Result<Tls, String> {
        let load = || async {
            let roots = tokio::task::spawn_blocking(system_roots)
                .await
                .map_err(|error| format!("reading root certificates failed: {error}"))??;
            Tls::new(roots)
        };
        self.tls.get_or_try_init(load).await.cloned()
    }
}

fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found
            .errors
            .first()
            .map_or_else(String::new, |error| format!(": {error}"));
        return Err(format!(
            "this system has no root certificates{why}; set SSL_CERT_FILE"
        ));
    }
    Ok(roots)
}

#[cfg(test)]
pub(crate) mod tests {
    use rustls::{ServerConfig, pki_types::PrivateKeyDer};
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// A dialer that trusts only the root in `tests/vectors/tls`.
    pub(crate) fn trusting() -> Dialer {
        let root = include_bytes!("../../tests/vectors/tls/root.der");
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(&root[..])).unwrap();
        Dialer::trusting(Resolver::default(), roots).unwrap()
    }

    /// The server's side, with a certificate of that root for 127.0.0.1.
    pub(crate) fn acceptor(protocol: &[u8]) -> TlsAcceptor {
        let certificate = include_bytes!("../../tests/vectors/tls/localhost.der");
        let key = include_bytes!("../../tests/vectors/tls/localhost.key.der");
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from(&certificate[..])],
                PrivateKeyDer::try_from(&key[..]).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![protocol.to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }

    #[test]
    fn addresses_are_read_as_users_write_them() {
        for (text, host, port) in [
            ("10.0.0.1:80", "10.0.0.1", 80),
            (":80", "", 80),
            ("db.local:5432", "db.local", 5432),
            ("[fd00::1]:80", "fd00::1", 80),
            ("fd00::1:2:3:4:5:6:80", "fd00::1:2:3:4:5:6", 80),
        ] {
            let host = host.to_owned();
            assert_eq!(Address::parse(text), Ok(Address { host, port }), "{text}");
        }
        for (text, reason) in [
            ("", "no host and no port"),
            ("db", "it has no port"),
            ("db:", "it has no port"),
            ("10.0.0.1:-1", "\"-1\" is not a port number"),
            ("10.0.0.1:65536", "\"65536\" is not a port number"),
            ("{{ host }}:80", "not a host name"),
            ("[::1:80", "not closed"),
        ] {
            let error = Address::parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        assert_eq!(Address::parse("[::1]:80").unwrap().to_string(), "[::1]:80");
    }
}
