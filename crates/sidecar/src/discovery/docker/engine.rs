//! A small client of the Docker Engine API: ping, list, inspect, events.
//!
//! Not a general client: four GET requests over HTTP/1.1 on a Unix or TCP socket, a new
//! connection for each, every wait and every body bounded. Paths carry the version the engine names
//! in its answer to `/_ping`, since it always accepts its own, and none when it names none. Truth:
//! the Docker Engine API reference, and what engine 20.10 answers.

use std::{fmt, io, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1,
    header::{CONTENT_LENGTH, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    endpoint::{Encryption, Endpoint},
    lines::{Line, Lines},
    tls,
    wire::{self, EngineEvent, Inspected, Listing, Meaning},
};
use crate::net::resolver::{ResolveError, Resolver};

/// Longest wait for a connection and the head of an answer, and for each next part of a listing.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest listing. A container takes one to four kilobytes.
const LISTING_BYTES_MAX: usize = 64 << 20;
/// Longest event, and longest description of one container. Both hold the container's labels.
const EVENT_BYTES_MAX: usize = 4 << 20;
const INSPECTED_BYTES_MAX: usize = 8 << 20;
/// Nanoseconds of a second.
const NANOS: i64 = 1_000_000_000;
/// Most of an error's body that is read.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Silence after which the kernel probes whether a TCP engine is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Why an engine could not be asked. Nothing was changed, trying again may help.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The name of a TCP endpoint has no address.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// No encrypted connection: certificates or keys do not fit.
    #[error("cannot encrypt the connection: {0}")]
    Tls(String),
    /// It accepted, perhaps, but did not answer in time.
    #[error("no answer within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    /// The connection failed or did not speak HTTP.
    #[error("the connection failed: {}", innermost(.0))]
    Connection(#[from] hyper::Error),
    /// It answered with an error.
    #[error("it answered {path} with {status}: {message}")]
    Status {
        /// The path asked for.
        path: String,
        /// The HTTP status.
        status: StatusCode,
        /// What it said.
        message: String,
    },
    /// It answered with something else than the API's JSON.
    #[error("its answer is not what the Docker API describes: {0}")]
    Decode(#[from] serde_json::Error),
    /// It answered with more than is read.
    #[error("its answer is longer than {0} bytes")]
    TooLong(usize),
    /// The event stream ended, as it does when the engine stops.
    #[error("it closed the event stream")]
    Closed,
}

impl EngineError {
    /// What an operator should look at.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Connect(error) => match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    "let sidecar's user read and write the socket: run it as root or in the \
                     socket's group, usually docker"
                }
                io::ErrorKind::NotFound => {
                    "is the engine running, its socket mounted into sidecar's container, and \
                     DOCKER_URL right?"
                }
                _ => "is the engine running, and DOCKER_URL right?",
            },
            Self::Resolve(_) => "is the host in DOCKER_URL right?",
            Self::Tls(_) => {
                "are ca.pem, cert.pem and key.pem in DOCKER_CERT_PATH those for this engine, and does \
                 its certificate name the host in DOCKER_URL?"
            }
            Self::Timeout(_) => "look at the engine's log: it may hang",
            Self::Status { message, .. } if message.contains("HTTPS server") => {
                "it wants TLS: set DOCKER_TLS_VERIFY and DOCKER_CERT_PATH"
            }
            Self::Status { .. } => "look at the engine's log, or at the proxy before its socket",
            Self::Connection(_) | Self::Decode(_) | Self::TooLong(_) => {
                "is it a Docker engine that DOCKER_URL names, and is DOCKER_TLS_VERIFY set where it \
                 wants TLS?"
            }
            Self::Closed => "it should be back soon",
        }
    }
}

/// hyper says "client error" and keeps the reason behind it.
fn innermost(error: &hyper::Error) -> String {
    let mut error: &dyn std::error::Error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Asks whether an engine answers at `endpoint`, and returns the version of the API that it names.
///
/// # Errors
/// When it does not, within `timeout`, answer a ping with success.
pub async fn engine_answers(
    endpoint: &Endpoint,
    resolver: &Resolver,
    timeout: Duration,
) -> Result<Option<String>, EngineError> {
    let engine = Engine {
        timeout,
        ..Engine::new(endpoint.clone(), resolver.clone())
    };
    Ok(engine.get("/_ping").await?.version())
}

impl Answer {
    /// The version of the API that the engine names, if it is one.
    fn version(&self) -> Option<String> {
        let named = self.response.headers().get("api-version")?;
        let named = named.to_str().ok()?.trim();
        is_version(named).then(|| named.to_owned())
    }
}

/// One engine to be asked.
#[derive(Debug, Clone)]
pub(super) struct Engine {
    endpoint: Endpoint,
    resolver: Resolver,
    /// `/v1.41`, or empty.
    version_prefix: String,
    timeout: Duration,
}

/// An answer whose head has come. Dropping it ends the connection.
struct Answer {
    response: Response<Incoming>,
    connection: AbortOnDropHandle<()>,
}

impl Engine {
    pub(super) fn new(endpoint: Endpoint, resolver: Resolver) -> Self {
        Self {
            endpoint,
            resolver,
            version_prefix: String::new(),
            timeout: ANSWER_TIMEOUT,
        }
    }

    /// Asks for the version its paths should carry from now on.
    pub(super) async fn negotiate(&mut self) -> Result<(), EngineError> {
        let answer = match self.get("/_ping").await {
            Ok(answer) => answer,
            // A filter before the socket may refuse pings and allow the rest.
            Err(EngineError::Status { .. }) => {
                self.version_prefix.clear();
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let version = answer.version();
        self.version_prefix = version.map_or_else(String::new, |it| format!("/v{it}"));
        Ok(())
    }

    /// All running containers.
    pub(super) async fn list(&self) -> Result<Listing, EngineError> {
        self.listing(format!("{}/containers/json", self.version_prefix))
            .await
    }

    /// All containers, those that do not run included.
    pub(super) async fn list_all(&self) -> Result<Listing, EngineError> {
        self.listing(format!("{}/containers/json?all=1", self.version_prefix))
            .await
    }

    /// The container with this full ID, if it runs; nothing else.
    pub(super) async fn list_one(&self, id: &str) -> Result<Listing, EngineError> {
        let filter = serde_json::json!({ "id": [id] }).to_string();
        let prefix = &self.version_prefix;
        let path = format!(
            "{prefix}/containers/json?filters={}",
            percent_encoded(&filter)
        );
        let mut listing = self.listing(path).await?;
        // The filter also matches longer IDs that begin like this.
        listing.containers.retain(|it| it.id == id);
        listing.unreadable.retain(|it| it.id.as_deref() == Some(id));
        Ok(listing)
    }

    /// What happens to containers from now on, and since `since` as far as the engine remembers:
    /// nanoseconds since the epoch by its clock.
    pub(super) async fn events(&self, since: Option<i64>) -> Result<Events, EngineError> {
        let filter = r#"{"type":["container","network"],"event":["start","die","died","stop","kill","destroy","remove","pause","unpause","rename","oom","health_status","connect","disconnect"]}"#;
        let prefix = &self.version_prefix;
        let since = since.map_or_else(String::new, |at| {
            let (seconds, nanos) = (at.div_euclid(NANOS), at.rem_euclid(NANOS));
            format!("&since={seconds}.{nanos:09}")
        });
        let path = format!("{prefix}/events?filters={}{since}", percent_encoded(filter));
        let Answer {
            response,
            connection,
        } = self.get(&path).await?;
        let lines = Lines::new(EVENT_BYTES_MAX);
        Ok(Events {
            body: response.into_body(),
            lines,
            _connection: connection,
        })
    }

    /// Asks for a sign of life.
    pub(super) async fn ping(&self, limit: Duration) -> Result<(), EngineError> {
        match timeout(limit, self.get("/_ping")).await {
            // A filter before the socket may refuse pings; then it is the one that lives.
            Ok(Ok(_) | Err(EngineError::Status { .. })) => Ok(()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(EngineError::Timeout(limit)),
        }
    }

    /// More about the container with this full ID than the listing says, whether it runs or not.
    pub(super) async fn inspect(&self, id: &str) -> Result<Inspected, EngineError> {
        let prefix = &self.version_prefix;
        let path = format!("{prefix}/containers/{}/json", percent_encoded(id));
        let answer = self.get(&path).await?;
        let body = self.body(answer, INSPECTED_BYTES_MAX).await?;
        Ok(wire::inspected(&body)?)
    }

    async fn listing(&self, path: String) -> Result<Listing, EngineError> {
        let answer = self.get(&path).await?;
        Ok(wire::listing(&self.body(answer, LISTING_BYTES_MAX).await?)?)
    }

    async fn body(&self, mut answer: Answer, bytes_max: usize) -> Result<BytesMut, EngineError> {
        let mut bytes = BytesMut::new();
        let body = answer.response.body_mut();
        let elapsed = |_| EngineError::Timeout(self.timeout);
        while let Some(frame) = timeout(self.timeout, body.frame()).await.map_err(elapsed)? {
            let Ok(data) = frame?.into_data() else {
                continue;
            };
            if bytes.len() + data.len() > bytes_max {
                return Err(EngineError::TooLong(bytes_max));
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes)
    }

    /// One request up to the head of a successful answer.
    async fn get(&self, path: &str) -> Result<Answer, EngineError> {
        let elapsed = |_| EngineError::Timeout(self.timeout);
        let answer = timeout(self.timeout, self.exchange(path))
            .await
            .map_err(elapsed)??;
        let status = answer.response.status();
        if status.is_success() {
            return Ok(answer);
        }
        let message = match answer.response.headers().get(CONTENT_LENGTH) {
            Some(length) if length == "0" => String::new(),
            _ => message(
                &self
                    .body(answer, MESSAGE_BYTES_MAX)
                    .await
                    .unwrap_or_default(),
            ),
        };
        let path = path.split('?').next().unwrap_or(path).to_owned();
        Err(EngineError::Status {
            path,
            status,
            message,
        })
    }

    async fn exchange(&self, path: &str) -> Result<Answer, EngineError> {
        match &self.endpoint {
            Endpoint::Unix(socket) => {
                let stream = UnixStream::connect(socket)
                    .await
                    .map_err(EngineError::Connect)?;
                self.request(stream, path).await
            }
            Endpoint::Tcp {
                host,
                port,
                encryption,
            } => {
                let stream = self.connect_tcp(host, *port).await?;
                match encryption {
                    Encryption::None => self.request(stream, path).await,
                    Encryption::Tls { certificates } => {
                        let encrypted = tls::encrypt(stream, host, certificates.as_deref()).await;
                        self.request(encrypted.map_err(EngineError::Tls)?, path)
                            .await
                    }
                }
            }
        }
    }

    async fn connect_tcp(&self, host: &str, port: u16) -> Result<TcpStream, EngineError> {
        let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in self.resolver.lookup(host).await? {
            match TcpStream::connect((address, port)).await {
                Ok(stream) => {
                    // An engine whose host vanished would otherwise look like one without events.
                    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE);
                    let socket = socket2::SockRef::from(&stream);
                    socket
                        .set_tcp_keepalive(&keepalive)
                        .map_err(EngineError::Connect)?;
                    return Ok(stream);
                }
                Err(error) => failure = error,
            }
        }
        Err(EngineError::Connect(failure))
    }

    async fn request(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        path: &str,
    ) -> Result<Answer, EngineError> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            // Whoever reads the answer learns of a broken connection there.
            let _ = connection.await;
        }));
        let request = Request::get(path)
            .header(HOST, self.endpoint.authority())
            .header(USER_AGENT, concat!("sidecar/", env!("CARGO_PKG_VERSION")))
            .body(Empty::<Bytes>::new());
        let request = request.map_err(|error| {
            EngineError::Connect(io::Error::new(io::ErrorKind::InvalidInput, error))
        })?;
        let response = sender.send_request(request).await?;
        Ok(Answer {
            response,
            connection,
        })
    }
}

/// The event stream of one connection.
pub(super) struct Events {
    body: Incoming,
    lines: Lines,
    _connection: AbortOnDropHandle<()>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    /// The next event. May be dropped while waiting and called again; nothing is lost.
    pub(super) async fn next(&mut self) -> Result<EngineEvent, EngineError> {
        loop {
            match self.lines.pop() {
                Some(Line::Whole(line)) => return Ok(wire::event(&line)),
                Some(Line::TooLong) => {
                    let reason = format!("it is longer than {EVENT_BYTES_MAX} bytes");
                    return Ok(EngineEvent {
                        meaning: Meaning::Unreadable(reason),
                        at: None,
                    });
                }
                None => {}
            }
            let frame = self.body.frame().await.ok_or(EngineError::Closed)??;
            if let Ok(data) = frame.into_data() {
                self.lines.push(&data);
            }
        }
    }
}

/// Digits, a dot, digits: what may go into a path.
fn is_version(text: &str) -> bool {
    let number = |it: &str| (1..=4).contains(&it.len()) && it.bytes().all(|b| b.is_ascii_digit());
    text.split_once('.')
        .is_some_and(|(major, minor)| number(major) && number(minor))
}

/// The `message` of an error body, or the body itself, in one readable line.
fn message(body: &[u8]) -> String {
    let value: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let said = value.as_ref().and_then(|it| it.get("message")?.as_str());
    let whole = String::from_utf8_lossy(body);
    let line = said.unwrap_or(&whole).lines().next().unwrap_or_default();
    line.chars()
        .filter(|it| !it.is_control())
        .take(200)
        .collect()
}

/// A query value: everything but RFC 3986's unreserved characters as `%XX`.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_versions_go_into_paths() {
        for it in ["1.24", "1.41", "1.5", "2.0"] {
            assert!(is_version(it), "{it}");
        }
        for it in [
            "",
            "1",
            "1.",
            ".1",
            "1.41/../x",
            "1.41 x",
            "99999.1",
            "1.2.3",
        ] {
            assert!(!is_version(it), "{it}");
        }
    }

    #[test]
    fn error_bodies_become_one_line() {
        assert_eq!(
            message(br#"{"message":"client version 1.12 is too old"}"#),
            "client version 1.12 is too old"
        );
        assert_eq!(message(b"<html>\nno</html>"), "<html>");
        assert_eq!(message(b""), "");
        assert_eq!(message("x".repeat(900).as_bytes()).len(), 200);
    }

    #[test]
    fn query_values_are_encoded() {
        assert_eq!(
            percent_encoded(r#"{"id":["a-1"]}"#),
            "%7B%22id%22%3A%5B%22a-1%22%5D%7D"
        );
    }
}
