//! A small HTTP/1.1 client for health checks and webhooks: one connection per request, a deadline over
//! all of it.
//!
//! No pool, no proxies, no HTTP/2: a check must open the connection its users would have
//! to open, and must never wait for anything but the instance. Redirects are followed as Go's client
//! does, because checks written for Go Sidecar rely on it. Connections are [`Dialer`]'s. Dropping a
//! request closes its connection.

mod target;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, StatusCode,
    body::Incoming,
    client::conn::http1,
    header::{
        AUTHORIZATION, CONNECTION, CONTENT_TYPE, COOKIE, HOST, HeaderMap, LOCATION, SET_COOKIE,
        USER_AGENT,
    },
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

use self::target::{Scheme, Target};
use super::dial::{Address, Deadline, DialError, Dialer, Late, Protocol};

pub use self::target::without_credentials;

/// Most redirects followed by one request.
pub const REDIRECTS_MAX: usize = 10;
/// Most of a body that is read, in bytes; the connection is closed on the rest.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Most of a body that is kept for messages, in bytes.
pub const BODY_START_BYTES_MAX: usize = 1024;
/// Longest head of a response, in bytes. As much as HAProxy takes by default; a connection's buffer
/// grows to it, so that it is also what a thousand checks at once hold a thousand times.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most cookies taken from an answer.
const COOKIES_MAX: usize = 32;
/// How long a body may take once the status is known: servers like to finish their sentence, but an
/// endless body must not make a good status late.
const BODY_PATIENCE: Duration = Duration::from_millis(200);
/// Whether a URL can be asked at all.
///
/// # Errors
/// What is wrong with it.
pub fn check_url(url: &str) -> Result<(), HttpError> {
    Target::parse(url).map(|_| ())
}

/// What servers see in their logs.
pub const AGENT: &str = concat!("sidecar/", env!("CARGO_PKG_VERSION"));

/// Sends requests. Cheap to clone; clones share the loaded root certificates.
#[derive(Debug, Clone)]
pub struct HttpClient {
    dialer: Dialer,
}

/// The answer after the last redirect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code, of any class.
    pub status: u16,
    /// The body's beginning, at most [`BODY_START_BYTES_MAX`]; shorter when the body is slow.
    pub body_start: Bytes,
    /// Values of `Set-Cookie`, at most [`COOKIES_MAX`]; none where a redirect was followed.
    pub cookies: Vec<String>,
}

/// What is sent beside the URL.
#[derive(Debug, Clone, Default)]
struct Content {
    /// A document makes it a POST.
    json: Option<Bytes>,
    cookie: String,
    /// A command: a POST without a document.
    command: bool,
    headers: HeaderMap,
}

/// Why there is no answer. Trying again may help with all but [`HttpError::InvalidUrl`].
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The URL cannot be asked; nothing was sent.
    #[error("{url:?} is not a usable URL: {reason}")]
    InvalidUrl {
        /// The URL as it was given, or as a redirect made it, without credentials.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no connection.
    #[error("cannot ask {url}: {cause}")]
    Dial {
        /// The URL.
        url: String,
        /// Why there is none; never [`DialError::Late`].
        #[source]
        cause: DialError,
    },
    /// The connection broke, or what came is not HTTP.
    #[error("no HTTP answer from {url}: {reason}")]
    Answer {
        /// The URL.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// One redirect too many.
    #[error("{url} redirects more than {REDIRECTS_MAX} times, lastly to {last}")]
    Redirects {
        /// The URL first asked.
        url: String,
        /// Where the last redirect pointed.
        last: String,
    },
    /// No answer in time.
    #[error("{url}: {late}")]
    Late {
        /// The URL.
        url: String,
        /// What took so long.
        #[source]
        late: Late,
    },
}

/// An answer whose body is still coming. Dropping it closes the connection.
#[derive(Debug)]
pub struct Answer {
    /// Status code, of any class.
    pub status: u16,
    /// Values of `Set-Cookie`, at most [`COOKIES_MAX`]; none where a redirect was followed.
    cookies: Vec<String>,
    url: String,
    body: Incoming,
    _connection: AbortOnDropHandle<()>,
}

impl Answer {
    /// The next piece of the body, when it comes; `None` at its end.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn next(&mut self) -> Result<Option<Bytes>, HttpError> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| HttpError::Answer {
                url: self.url.clone(),
                reason: describe(&error),
            })?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// All of the body.
    ///
    /// # Errors
    /// When not all of it comes in time, or it is longer than `bytes_max`.
    pub async fn document(
        mut self,
        bytes_max: usize,
        deadline: Deadline,
    ) -> Result<Bytes, HttpError> {
        let url = self.url.clone();
        let reading = async {
            let mut document = BytesMut::new();
            while let Some(piece) = self.next().await? {
                if document.len() + piece.len() > bytes_max {
                    return Err(HttpError::Answer {
                        url: self.url.clone(),
                        reason: format!("more than {bytes_max} bytes"),
                    });
                }
                document.extend_from_slice(&piece);
            }
            Ok(document.freeze())
        };
        let document = deadline.within("reading the answer", reading).await;
        document.map_err(|late| HttpError::Late { url, late })?
    }
}

/// One response seen from the redirect loop.
enum Step {
    Done(Answer),
    /// Whether what was sent is to be sent again.
    Moved {
        to: String,
        again: bool,
    },
}

impl HttpClient {
    /// A client that connects through `dialer`.
    pub fn new(dialer: Dialer) -> Self {
        Self { dialer }
    }

    /// Asks for `url` (`http` or `https`), following up to [`REDIRECTS_MAX`] redirects.
    ///
    /// An empty host with a port, `http://:9090/x`, means this machine, and is told so to the
    /// server (`Host: :9090`), as Go does. All of it together takes at most `limit`.
    ///
    /// # Errors
    /// When there is no HTTP answer; any status is an answer.
    pub async fn get(&self, url: &str, limit: Duration) -> Result<Response, HttpError> {
        self.send(url, Content::default(), limit).await
    }

    /// Sends a JSON document to `url` by POST, with a `Cookie` header unless that is empty. Otherwise as
    /// [`HttpClient::get`]; redirects are followed as Go does: with 307 and 308 the document is sent
    /// again, with others the new place is asked for.
    ///
    /// # Errors
    /// When there is no HTTP answer; any status is an answer.
    pub async fn post_json(
        &self,
        url: &str,
        cookie: &str,
        document: String,
        limit: Duration,
    ) -> Result<Response, HttpError> {
        let content = Content {
            json: Some(document.into()),
            cookie: cookie.to_owned(),
            ..Content::default()
        };
        self.send(url, content, limit).await
    }

    /// Asks for `url` as [`HttpClient::get`] does, and returns when the head of the answer is there. The
    /// body may take as long as the caller likes.
    ///
    /// # Errors
    /// When there is no HTTP answer; any status is an answer.
    pub async fn open(&self, url: &str, limit: Duration) -> Result<Answer, HttpError> {
        let deadline = Deadline::after(limit);
        self.follow(url, Content::default(), deadline).await
    }

    /// Asks for `url` as [`HttpClient::get`] does, and reads all of the body.
    ///
    /// # Errors
    /// When there is no answer, or not all of it in time, or it is longer than `bytes_max`.
    pub async fn get_document(
        &self,
        url: &str,
        bytes_max: usize,
        limit: Duration,
    ) -> Result<(u16, Bytes), HttpError> {
        let deadline = Deadline::after(limit);
        let answer = self.follow(url, Content::default(), deadline).await?;
        let status = answer.status;
        Ok((status, answer.document(bytes_max, deadline).await?))
    }

    /// Asks for `url`, or with `command` sends a POST without a body there, with these headers, and returns
    /// when the head of the answer is there. No redirect is followed: what the headers hold is for this
    /// server alone.
    ///
    /// # Errors
    /// When there is no HTTP answer, or a redirect; any other status is an answer.
    pub async fn open_directly(
        &self,
        url: &str,
        command: bool,
        headers: HeaderMap,
        deadline: Deadline,
    ) -> Result<Answer, HttpError> {
        let target = Target::parse(url)?;
        let content = Content {
            command,
            headers,
            ..Content::default()
        };
        match self.exchange(&target, &content, deadline).await? {
            Step::Done(answer) => Ok(answer),
            Step::Moved { to, .. } => Err(HttpError::Answer {
                url: target.to_string(),
                reason: format!("it sends us to {:?}", without_credentials(&to)),
            }),
        }
    }

    async fn send(
        &self,
        url: &str,
        content: Content,
        limit: Duration,
    ) -> Result<Response, HttpError> {
        let deadline = Deadline::after(limit);
        let answer = self.follow(url, content, deadline).await?;
        let patience = deadline.at.min(Instant::now() + BODY_PATIENCE);
        Ok(Response {
            status: answer.status,
            cookies: answer.cookies,
            body_start: body_start(answer.body, patience).await,
        })
    }

    /// Sends the request, again for each redirect, until there is an answer that is none.
    async fn follow(
        &self,
        url: &str,
        mut content: Content,
        deadline: Deadline,
    ) -> Result<Answer, HttpError> {
        let mut target = Target::parse(url)?;
        for _ in 0..=REDIRECTS_MAX {
            match self.exchange(&target, &content, deadline).await? {
                Step::Done(answer) => return Ok(answer),
                Step::Moved { to, again } => {
                    target = target.join(&to)?;
                    content.json = content.json.filter(|_| again);
                }
            }
        }
        Err(HttpError::Redirects {
            url: without_credentials(url),
            last: target.to_string(),
        })
    }

    async fn exchange(
        &self,
        target: &Target,
        content: &Content,
        deadline: Deadline,
    ) -> Result<Step, HttpError> {
        let unreached = unreached(target);
        let address = Address {
            host: target.host().to_owned(),
            port: target.port(),
        };
        let stream = self
            .dialer
            .connect(&address, deadline)
            .await
            .map_err(&unreached)?;
        match target.scheme {
            Scheme::Http => ask(stream, target, content, deadline).await,
            Scheme::Https => {
                let stream = self
                    .dialer
                    .encrypt(stream, target.host(), Protocol::Http1, deadline)
                    .await
                    .map_err(&unreached)?;
                ask(stream, target, content, deadline).await
            }
        }
    }
}

/// What became of a connection that was wanted for `target`.
fn unreached(target: &Target) -> impl Fn(DialError) -> HttpError + use<> {
    let url = target.to_string();
    move |error| match error {
        DialError::Late(late) => HttpError::Late {
            url: url.clone(),
            late,
        },
        cause => HttpError::Dial {
            url: url.clone(),
            cause,
        },
    }
}

/// Sends the request over a connection of its own and waits for the head of the answer.
async fn ask<S>(
    stream: S,
    target: &Target,
    content: &Content,
    deadline: Deadline,
) -> Result<Step, HttpError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let fail = |error: hyper::Error| HttpError::Answer {
        url: target.to_string(),
        reason: describe(&error),
    };
    let request = request(target, content)?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(fail)?;
    // The connection ends with the answer: there is nothing to keep it for, and a dropped request must
    // not go on in the background. Its errors also reach the sender.
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        let _ = connection.await;
    }));
    let response = deadline
        .within("waiting for the answer", sender.send_request(request))
        .await
        .map_err(|late| unreached(target)(late.into()))?
        .map_err(fail)?;
    if let Some(to) = redirect(&response) {
        let again = matches!(
            response.status(),
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
        );
        return Ok(Step::Moved { to, again });
    }
    let status = response.status().as_u16();
    let cookies = response.headers().get_all(SET_COOKIE).iter();
    let cookies = cookies.filter_map(|it| it.to_str().ok().map(str::to_owned));
    let cookies = cookies.take(COOKIES_MAX).collect();
    Ok(Step::Done(Answer {
        status,
        cookies,
        url: target.to_string(),
        body: response.into_body(),
        _connection: connection,
    }))
}

fn request(target: &Target, content: &Content) -> Result<Request<Full<Bytes>>, HttpError> {
    let path = target.path.as_str();
    let mut request = match content.json {
        Some(_) => Request::post(path).header(CONTENT_TYPE, "application/json"),
        None if content.command => Request::post(path),
        None => Request::get(path),
    };
    request = request
        .header(HOST, &target.authority)
        .header(USER_AGENT, AGENT)
        .header(CONNECTION, "close");
    if let Some(credentials) = target.credentials() {
        request = request.header(AUTHORIZATION, credentials);
    }
    if !content.cookie.is_empty() {
        request = request.header(COOKIE, &content.cookie);
    }
    for (name, value) in &content.headers {
        request = request.header(name, value);
    }
    request
        .body(Full::new(content.json.clone().unwrap_or_default()))
        .map_err(|error| HttpError::InvalidUrl {
            url: target.to_string(),
            reason: error.to_string(),
        })
}

/// Where the answer sends us. A redirect without a location is an answer like any other.
fn redirect(response: &hyper::Response<Incoming>) -> Option<String> {
    let moved = matches!(
        response.status(),
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    let location = response.headers().get(LOCATION).filter(|_| moved)?;
    let location = String::from_utf8_lossy(location.as_bytes())
        .trim()
        .to_owned();
    (!location.is_empty()).then_some(location)
}

/// The beginning of a body that may be endless, slow or broken: the status has been said already.
async fn body_start(mut body: Incoming, patience: Instant) -> Bytes {
    let mut start = BytesMut::new();
    let mut seen = 0;
    while seen < BODY_BYTES_MAX
        && let Ok(Some(Ok(frame))) = timeout_at(patience, body.frame()).await
    {
        let data = frame.into_data().unwrap_or_default();
        seen += data.len();
        let room = BODY_START_BYTES_MAX - start.len();
        start.extend_from_slice(&data[..data.len().min(room)]);
    }
    start.freeze()
}

/// An error with its causes: hyper's own text names only the phase.
pub fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
