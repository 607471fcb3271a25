//! Where states are fetched: an agent's API. Knows when an agent is not worth asking yet.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::mirror::Document;
use crate::net::http_client::{HttpClient, HttpError};

/// Most time a fetch may take, as in the original.
const FETCH_WITHIN: Duration = Duration::from_secs(5);
/// Longest state: ten times that of 10,000 instances.
pub(super) const STATE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A watch that says nothing for this long is renewed, as in the original: nothing else would tell of a
/// peer that vanished without a word.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(180);
/// Pauses between attempts, the first and the longest. The original waits 5 s; a second costs nobody
/// anything and is how late an agent that is back is heard.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// How long an agent that does not tell whether it is ready is given to learn of the others after it has
/// been away. Go Sidecar tells nobody, and joins within this.
const SETTLING: Duration = Duration::from_secs(10);

/// Why there is no state.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// No answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// An answer that is none.
    #[error("{url} answers with status {status}")]
    Status { url: String, status: u16 },
    /// The agent is about to learn what runs.
    #[error("the agent is not ready: it waits for {0}")]
    NotReady(String),
    /// What it says is no state.
    #[error("what {url} says is no state: {reason}")]
    Document { url: String, reason: String },
    /// It knows less than is known here, and has just come back.
    #[error("the agent has just come back and knows {found} healthy instances, of {known} before")]
    Settling { found: usize, known: usize },
}

/// Fetches states.
#[derive(Debug)]
pub(super) struct Source {
    client: HttpClient,
    /// Of the state.
    url: String,
    /// Since when the agent answers; `None` while it does not.
    back_since: Option<Instant>,
    /// Whether it was ever away: who was there before this began has settled.
    was_away: bool,
}

impl Source {
    pub(super) fn new(client: HttpClient, url: &str) -> Self {
        Self {
            client,
            url: url.to_owned(),
            back_since: None,
            was_away: false,
        }
    }

    /// The state as the agent knows it, if it is fit to replace one with `known` healthy instances.
    pub(super) async fn fetch(&mut self, known: Option<usize>) -> Result<Document, FetchError> {
        let fetched = self.attempt(known).await;
        if let Err(FetchError::Http(_)) = fetched {
            self.back_since = None;
            self.was_away = true;
        }
        fetched
    }

    async fn attempt(&mut self, known: Option<usize>) -> Result<Document, FetchError> {
        let tells = self.is_ready().await?;
        let back_since = *self.back_since.get_or_insert_with(Instant::now);
        let url = &self.url;
        let (status, bytes) = self
            .client
            .get_document(url, STATE_BYTES_MAX, FETCH_WITHIN)
            .await?;
        if status != 200 {
            return Err(FetchError::Status {
                url: url.clone(),
                status,
            });
        }
        let document = document(&bytes).map_err(|reason| FetchError::Document {
            url: url.clone(),
            reason,
        })?;
        let (found, known) = (document.alive(), known.unwrap_or_default());
        if !tells && self.was_away && found < known && back_since.elapsed() < SETTLING {
            return Err(FetchError::Settling { found, known });
        }
        Ok(document)
    }

    /// Whether the agent tells that it is ready (`true`), or does not tell (`false`).
    async fn is_ready(&self) -> Result<bool, FetchError> {
        let Some(url) = beside(&self.url, "/ready") else {
            return Ok(false);
        };
        let answer = self.client.get(&url, FETCH_WITHIN).await?;
        let words = String::from_utf8_lossy(&answer.body_start);
        match answer.status {
            200 => Ok(true),
            503 => Err(FetchError::NotReady(words.trim().to_owned())),
            _ => Ok(false),
        }
    }

    /// Repeats `fetch` until there is a state.
    pub(super) async fn insist(&mut self, known: impl Fn() -> Option<usize>) -> Document {
        let mut pause = PAUSES.0;
        let mut told = String::new();
        loop {
            match self.fetch(known()).await {
                Ok(document) => return document,
                Err(error) => {
                    let text = error.to_string();
                    if text != told {
                        warn!("no state yet, what was known stays in force: {text}");
                        told = text;
                    }
                    if matches!(error, FetchError::NotReady(_) | FetchError::Settling { .. }) {
                        pause = PAUSES.0;
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}

fn document(bytes: &Bytes) -> Result<Document, String> {
    let text = String::from_utf8_lossy(bytes);
    let document = Document::read(&text, Instant::now()).map_err(|error| error.to_string())?;
    if document.unreadable > 0 {
        warn!(
            records = document.unreadable,
            "left out what cannot be read"
        );
    }
    Ok(document)
}

/// Another path of the same server.
fn beside(url: &str, path: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    Some(format!("{scheme}://{authority}{path}"))
}

/// Watches an agent and reports, through `news`, that something has changed there: at the beginning of each
/// watch and with everything it says. Never gives up.
pub(super) async fn watch(
    client: HttpClient,
    authority: String,
    silence_max: Duration,
    news: mpsc::Sender<()>,
    shutdown: CancellationToken,
) {
    let url = format!("http://{authority}/watch");
    let mut pause = PAUSES.0;
    let mut told = String::new();
    let work = async {
        loop {
            let trouble = match client.open(&url, FETCH_WITHIN).await {
                Ok(answer) if answer.status != 200 => format!("status {}", answer.status),
                Ok(mut answer) => {
                    info!(%url, "following");
                    pause = PAUSES.0;
                    told.clear();
                    loop {
                        // A full queue says it already.
                        let _ = news.try_send(());
                        match timeout(silence_max, answer.next()).await {
                            Ok(Ok(Some(_))) => {}
                            Ok(Ok(None)) => break "it was ended".to_owned(),
                            Ok(Err(error)) => break error.to_string(),
                            Err(_) => break format!("silent for {silence_max:?}"),
                        }
                    }
                }
                Err(error) => error.to_string(),
            };
            if trouble != told {
                warn!(%url, "the watch is over, trying again: {trouble}");
                told = trouble;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = work => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::net::{dial::Dialer, resolver::Resolver};

    fn client() -> HttpClient {
        HttpClient::new(Dialer::new(Resolver::default()))
    }

    #[test]
    fn readiness_is_asked_of_the_same_server() {
        let ready = |url| beside(url, "/ready");
        assert_eq!(
            ready("http://a:7777/state.json?x=1").as_deref(),
            Some("http://a:7777/ready")
        );
        assert_eq!(
            ready("https://[::1]").as_deref(),
            Some("https://[::1]/ready")
        );
        assert_eq!(ready("a:7777"), None);
    }

    /// A watch that goes silent is opened anew, and every opening is news.
    #[tokio::test]
    async fn a_silent_watch_is_renewed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let (news, mut heard) = mpsc::channel(1);
        let shutdown = CancellationToken::new();
        let silence = Duration::from_millis(50);
        let watching = tokio::spawn(watch(client(), authority, silence, news, shutdown.clone()));
        let mut held = Vec::new();
        for _ in 0..3 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let count = stream.read(&mut request).await.unwrap();
            assert!(request[..count].starts_with(b"GET /watch "));
            let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n";
            stream.write_all(head).await.unwrap();
            heard.recv().await.unwrap();
            // Not closed: only the silence ends it.
            held.push(stream);
        }
        shutdown.cancel();
        watching.await.unwrap();
    }

    /// Answers requests with these statuses and bodies, one connection each.
    async fn server(answers: Vec<(u16, String)>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/state.json", listener.local_addr().unwrap());
        tokio::spawn(async move {
            for (status, body) in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await.unwrap();
                let answer = format!(
                    "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        url
    }

    const EMPTY: &str = r#"{"Servers":{},"LastChanged":"2026-01-01T00:00:00Z"}"#;

    #[tokio::test]
    async fn an_agent_that_is_not_ready_is_not_believed() {
        let url = server(vec![
            (503, "join".to_owned()),
            (200, "ready".to_owned()),
            (200, EMPTY.to_owned()),
        ])
        .await;
        let mut source = Source::new(client(), &url);
        let error = source.fetch(Some(3)).await.unwrap_err();
        assert!(matches!(error, FetchError::NotReady(words) if words == "join"));
        assert_eq!(source.fetch(Some(3)).await.unwrap().alive(), 0);
    }

    #[tokio::test]
    async fn who_does_not_tell_is_given_time_to_settle_after_it_was_away() {
        let no_such_path = (404, String::new());
        let state = (200, EMPTY.to_owned());
        let url = server(vec![
            no_such_path.clone(),
            state.clone(),
            no_such_path.clone(),
            state,
        ])
        .await;
        let mut source = Source::new(client(), &url);
        assert!(source.fetch(Some(3)).await.is_ok(), "it was there before");
        source.was_away = true;
        source.back_since = None;
        let error = source.fetch(Some(3)).await.unwrap_err();
        assert!(matches!(error, FetchError::Settling { found: 0, known: 3 }));
        // Nobody answers any more.
        assert!(matches!(source.fetch(None).await, Err(FetchError::Http(_))));
        assert_eq!(source.back_since, None);
    }
}
