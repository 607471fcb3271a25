//! Asks an agent: one connection per question, every wait and every body bounded, errors on one line.

use std::{io, time::Duration};

use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use serde::de::DeserializeOwned;

use super::{
    Exit, Failure,
    address::{Connection, Place, Trust},
    text::printable,
};
use crate::{
    cli::environment,
    net::{
        dial::{Deadline, DialError, Dialer},
        http_client::{Answer, HttpClient, HttpError},
        resolver::Resolver,
    },
};

/// Longest document: that of 100,000 instances is half as long.
const DOCUMENT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Time for a connection and the head of an answer; longer for commands that wait for something.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Time for a document once its head is there.
const DOCUMENT_WITHIN: Duration = Duration::from_secs(30);
/// What is read of a refusal.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// One agent to be asked.
#[derive(Debug, Clone)]
pub(super) struct Agent {
    /// Where it is.
    pub(super) place: Place,
    client: HttpClient,
}

/// What an agent answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Document {
    /// JSON, as it came.
    pub(super) text: String,
    url: String,
}

impl Document {
    /// Reads it.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_str(&self.text).map_err(|error| {
            Failure::no(format!(
                "what {} says is not what this version expects: {error}; is the agent of another \
                 version?",
                self.url
            ))
        })
    }
}

impl Agent {
    /// The agent that the flags, or the environment of this process, name.
    pub(super) fn of(connection: &Connection) -> Result<Self, Failure> {
        Self::at(connection.place(&environment())?)
    }

    pub(super) fn at(place: Place) -> Result<Self, Failure> {
        let resolver = Resolver::default();
        let dialer = match &place.trust {
            Trust::System => Ok(Dialer::new(resolver)),
            Trust::Authorities(path) => read_certificates(path)
                .and_then(roots)
                .and_then(|roots| Dialer::trusting(resolver, roots))
                .map_err(|reason| format!("--ca {}: {reason}", path.display())),
            Trust::Certificate(path) => read_certificates(path)
                .and_then(|mut all| Dialer::pinned(resolver, all.swap_remove(0)))
                .map_err(|reason| format!("SIDECAR_API_TLS_CERT={}: {reason}", path.display())),
        };
        let dialer = dialer.map_err(Failure::usage)?;
        Ok(Self {
            place,
            client: HttpClient::new(dialer),
        })
    }

    /// A document of the API.
    pub(super) async fn get(&self, path: &str) -> Result<Document, Failure> {
        match self.find(path).await? {
            Ok(document) => Ok(document),
            Err(words) => Err(Failure::no(format!("{}: {words}", self.place))),
        }
    }

    /// A document of the API; the inner error has the agent's words when there is none (404).
    pub(super) async fn find(&self, path: &str) -> Result<Result<Document, String>, Failure> {
        let answer = self
            .ask(path, false, HeaderMap::new(), ANSWER_WITHIN)
            .await?;
        self.document(path, answer).await
    }

    /// Gives a command, which may take the agent `patience` longer than a question. The inner error has the
    /// agent's words when there is nothing to command (404).
    pub(super) async fn command(
        &self,
        path: &str,
        patience: Duration,
    ) -> Result<Result<Document, String>, Failure> {
        let limit = ANSWER_WITHIN + patience;
        let answer = self.ask(path, true, HeaderMap::new(), limit).await?;
        self.document(path, answer).await
    }

    /// The events after the one with this ID, or from now on. The body goes on for ever.
    pub(super) async fn events(&self, path: &str, after: Option<&str>) -> Result<Answer, Failure> {
        let mut headers = HeaderMap::new();
        if let Some(value) = after.and_then(|id| HeaderValue::from_str(id).ok()) {
            headers.insert(HeaderName::from_static("last-event-id"), value);
        }
        let answer = self.ask(path, false, headers, ANSWER_WITHIN).await?;
        if answer.status == 200 {
            return Ok(answer);
        }
        match self.document(path, answer).await? {
            Ok(_) => Err(self.unexpected(path, "it has no events to tell")),
            Err(words) => Err(self.unexpected(path, &words)),
        }
    }

    async fn ask(
        &self,
        path: &str,
        command: bool,
        mut headers: HeaderMap,
        limit: Duration,
    ) -> Result<Answer, Failure> {
        if let Some(token) = &self.place.token {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| Failure::usage("the token cannot be sent in a header"))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let deadline = Deadline::after(limit);
        let answer = self
            .client
            .open_directly(&self.place.url(path), command, headers, deadline)
            .await;
        answer.map_err(|error| self.unreachable(&error))
    }

    async fn document(
        &self,
        path: &str,
        answer: Answer,
    ) -> Result<Result<Document, String>, Failure> {
        let status = answer.status;
        let (bytes_max, deadline) = match status {
            200..=299 => (DOCUMENT_BYTES_MAX, Deadline::after(DOCUMENT_WITHIN)),
            _ => (REFUSAL_BYTES_MAX, Deadline::after(ANSWER_WITHIN)),
        };
        let body = answer.document(bytes_max, deadline).await;
        let body = body.map_err(|error| self.unreachable(&error))?;
        let text = String::from_utf8_lossy(&body).into_owned();
        match status {
            200..=299 => Ok(Ok(Document {
                text,
                url: self.place.url(path),
            })),
            404 => match message(&text) {
                Some(words) => Ok(Err(words)),
                None => Err(self.unexpected(
                    path,
                    "it knows no such path; is it an agent, and of this version?",
                )),
            },
            401 | 403 | 421 => {
                let words = message(&text).unwrap_or_else(|| format!("status {status}"));
                let text = format!("the agent at {} refuses: {words}", self.place);
                Err(Failure::new(Exit::Refused, text))
            }
            status => {
                let words = message(&text).unwrap_or_else(|| "no reason given".to_owned());
                Err(self.unexpected(path, &format!("status {status}: {words}")))
            }
        }
    }

    fn unexpected(&self, path: &str, words: &str) -> Failure {
        let path = path.split('?').next().unwrap_or(path);
        Failure::no(format!(
            "the agent at {} cannot answer {path}: {words}",
            self.place
        ))
    }

    /// Names the address, the cause and what to look at.
    fn unreachable(&self, error: &HttpError) -> Failure {
        let (cause, remedy) = match error {
            HttpError::Dial {
                cause: DialError::Connect { cause, .. },
                ..
            } if cause.kind() == io::ErrorKind::ConnectionRefused => (
                "connection refused".to_owned(),
                match self.place.chosen_by {
                    None => "is it running? start it, or name another with --addr HOST[:PORT]",
                    Some(_) => "is it running there, and its API reachable (SIDECAR_HTTP_BIND)?",
                },
            ),
            HttpError::Dial { cause, .. } => (
                match cause {
                    DialError::Connect { cause, .. } => cause.to_string(),
                    other => other.to_string(),
                },
                match cause {
                    DialError::Tls { .. } => {
                        "does it speak TLS there? --ca FILE names its certificate authority"
                    }
                    _ => "is the address right?",
                },
            ),
            HttpError::Late { late, .. } => (
                late.to_string(),
                "does a firewall drop packets, or is the host overloaded?",
            ),
            HttpError::Answer { reason, .. } => (
                format!("no HTTP answer ({reason})"),
                "is it an agent's API, and without TLS?",
            ),
            other => (other.to_string(), "is the address right?"),
        };
        let remedy = match error {
            HttpError::Answer { .. } if self.place.url("").starts_with("https") => {
                "is it an agent's API?"
            }
            _ => remedy,
        };
        let text = format!(
            "cannot reach the agent at {}: {cause}; {remedy}",
            self.place
        );
        Failure::new(Exit::Unreachable, text)
    }
}

/// What an error document says, fit for a line.
fn message(document: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(document).ok()?;
    Some(printable(value.get("message")?.as_str()?))
}

/// The certificates of a PEM file, at least one.
fn read_certificates(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())?;
    let certificates: Result<Vec<_>, _> = certificates.collect();
    let certificates = certificates.map_err(|error| error.to_string())?;
    if certificates.is_empty() {
        return Err("no certificate in it".to_owned());
    }
    Ok(certificates)
}

fn roots(certificates: Vec<CertificateDer<'static>>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    Ok(roots)
}

/// A text as a segment of a path or a value of a query.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
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
    use crate::client::scripted::{self, Script};

    #[tokio::test]
    async fn questions_and_commands_carry_the_token() {
        let (mut agent, mut heads) = scripted::agent(Script::json("{}")).await;
        agent.place.token = Some("s3cret".to_owned());
        agent.get("/api/v2/hosts").await.unwrap();
        let head = heads.recv().await.unwrap();
        assert!(head.starts_with("GET /api/v2/hosts HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("authorization: Bearer s3cret\r\n"), "{head}");
        let path = "/api/v2/instances/x/drain";
        agent.command(path, Duration::ZERO).await.unwrap().unwrap();
        let head = heads.recv().await.unwrap();
        assert!(
            head.starts_with("POST /api/v2/instances/x/drain HTTP/1.1\r\n"),
            "{head}"
        );
        assert!(head.contains("authorization: Bearer s3cret\r\n"), "{head}");
    }

    #[tokio::test]
    async fn refusals_are_told_apart_and_repeat_the_agents_words_harmlessly() {
        let refusal =
            |status| Script::status(status, r#"{"message":"no \u001b[31m","status":"error"}"#);
        for (status, exit) in [(401, 4), (403, 4), (421, 4), (500, 1), (404, 1)] {
            let (agent, _heads) = scripted::agent(refusal(status)).await;
            let failure = agent.get("/x").await.unwrap_err();
            assert_eq!(failure.exit as u8, exit, "{failure}");
            let text = failure.to_string();
            assert!(text.contains(r"no \u{1b}[31m"), "{text}");
            assert!(text.contains(&agent.place.to_string()), "{text}");
        }
        let (agent, _heads) = scripted::agent(Script::status(404, "404 page not found\n")).await;
        let failure = agent.find("/x").await.unwrap_err();
        assert!(failure.to_string().contains("no such path"), "{failure}");
    }

    #[tokio::test]
    async fn what_cannot_be_reached_is_named_with_cause_and_remedy() {
        let (agent, _heads) = scripted::agent(Script::json("{}")).await;
        let mut place = agent.place.clone();
        // A port that nobody can listen at.
        place.address.port = 1;
        let nobody = Agent::at(place);
        let failure = nobody.unwrap().get("/x").await.unwrap_err();
        assert_eq!(failure.exit, Exit::Unreachable);
        assert_eq!(
            failure.to_string(),
            "cannot reach the agent at 127.0.0.1:1: connection refused; is it running? start it, or \
             name another with --addr HOST[:PORT]"
        );
        let (agent, _heads) = scripted::agent(Script::raw("220 mail.example ESMTP\r\n")).await;
        let failure = agent.get("/x").await.unwrap_err();
        assert_eq!(failure.exit, Exit::Unreachable);
        assert!(
            failure.to_string().contains("is it an agent's API"),
            "{failure}"
        );
    }

    #[tokio::test]
    async fn a_token_is_not_carried_to_where_a_redirect_points() {
        let (mut agent, mut heads) = scripted::agent(Script::raw(
            "HTTP/1.1 307 X\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n",
        ))
        .await;
        agent.place.token = Some("s3cret".to_owned());
        let failure = agent.command("/x", Duration::ZERO).await.unwrap_err();
        assert!(failure.to_string().contains("it sends us to"), "{failure}");
        heads.recv().await.unwrap();
        assert!(heads.try_recv().is_err(), "nothing else was asked");
    }

    #[tokio::test]
    async fn over_tls_the_named_authority_is_trusted_and_no_other() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let root = include_bytes!("../../tests/vectors/tls/root.der");
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.pem");
        let pem = data_encoding::BASE64.encode(root);
        let pem = format!("-----BEGIN CERTIFICATE-----\n{pem}\n-----END CERTIFICATE-----\n");
        std::fs::write(&ca, pem).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let acceptor = crate::net::dial::tests::acceptor(b"http/1.1");
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
                let _ = stream.write_all(answer).await;
                let _ = stream.shutdown().await;
            }
        });
        let mut place = Place::at(crate::net::dial::Address {
            host: "127.0.0.1".to_owned(),
            port,
        });
        place.scheme = "https";
        place.trust = Trust::Authorities(ca.clone());
        let agent = Agent::at(place.clone()).unwrap();
        assert_eq!(agent.get("/x").await.unwrap().text, "{}");
        place.trust = Trust::System;
        let failure = Agent::at(place.clone())
            .unwrap()
            .get("/x")
            .await
            .unwrap_err();
        assert_eq!(failure.exit, Exit::Unreachable);
        // By the certificate itself, its name does not matter; another one is not enough.
        let leaf = include_bytes!("../../tests/vectors/tls/localhost.der");
        for (certificate, is_good) in [(&leaf[..], true), (&root[..], false)] {
            let pem = data_encoding::BASE64.encode(certificate);
            let pem = format!("-----BEGIN CERTIFICATE-----\n{pem}\n-----END CERTIFICATE-----\n");
            std::fs::write(&ca, pem).unwrap();
            place.trust = Trust::Certificate(ca.clone());
            let answer = Agent::at(place.clone()).unwrap().get("/x").await;
            assert_eq!(answer.is_ok(), is_good, "{answer:?}");
        }
        std::fs::write(&ca, "nothing").unwrap();
        place.trust = Trust::Authorities(ca);
        let failure = Agent::at(place).unwrap_err();
        assert!(
            failure.to_string().contains("no certificate in it"),
            "{failure}"
        );
    }

    #[test]
    fn segments_are_encoded() {
        assert_eq!(encoded("a/b c%ü-1.x"), "a%2Fb%20c%25%C3%BC-1.x");
    }
}
