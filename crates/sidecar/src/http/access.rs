//! Who may ask what. Pure: a request's head and the ends of its connection go in, a refusal comes out.
//!
//! What changes the state is for programs on this host, and for whoever has a token. Reading is open
//! unless somebody asks for the token there as well. A page of another origin may change nothing, and
//! no page may reach this host under a name of its own making (DNS rebinding): a browser that was told
//! that `evil.example` is 127.0.0.1 says so in `Host`.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    http::{HeaderMap, Method, StatusCode, header, request::Parts},
    response::Response,
};
use tokio::sync::watch;
use tracing::warn;

use super::reply::error;
use crate::{api_tokens::Tokens, throttle::Throttle};

/// A wrong token from one address is logged once in this time.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// Longest part of a foreign `Host` that an answer repeats.
const SHOWN_CHARS: usize = 64;

/// The two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Caller {
    /// Who asks.
    pub(super) peer: SocketAddr,
    /// Where it was taken.
    pub(super) local: SocketAddr,
}

impl Caller {
    /// Whether it is on this host: nobody else can have both ends at one address.
    fn is_here(self) -> bool {
        let peer = self.peer.ip().to_canonical();
        peer.is_loopback() || peer == self.local.ip().to_canonical()
    }
}

/// The rules.
pub struct Access {
    tokens: watch::Receiver<Arc<Tokens>>,
    has_tokens: bool,
    token_reads: bool,
    names: Vec<String>,
    complaints: Mutex<Throttle>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("token_reads", &self.token_reads)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

/// What a request wants, as far as access goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Whether the agent lives.
    Life,
    /// What Go Sidecar's clients read.
    Read,
    /// The page, and what it reads.
    Page,
    /// To change the state.
    Change,
}

impl Need {
    fn of(method: &Method, path: &str) -> Self {
        let is_read = *method == Method::GET || *method == Method::HEAD;
        match path {
            // It tells nothing but what is allowed.
            _ if *method == Method::OPTIONS => Self::Life,
            _ if !is_read => Self::Change,
            "/" | "/health" | "/ready" => Self::Life,
            "/ui" => Self::Page,
            _ if path.starts_with("/ui/") || path.starts_with("/api/v2/") => Self::Page,
            _ => Self::Read,
        }
    }
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refused {
    /// A page of another origin wants to change the state.
    Origin,
    /// It was sent to a host of another name.
    Misdirected(String),
    /// Only this host's own programs may do this, as there are no tokens.
    NotHere,
    /// No token came with it.
    NoToken,
    /// The token is wrong.
    WrongToken,
}

impl Access {
    /// `token_reads` asks other hosts for a token to read, too; `names` are those of this host,
    /// `*.NAME` for all below. `None` for tokens is none, ever.
    pub fn new(
        tokens: Option<watch::Receiver<Arc<Tokens>>>,
        token_reads: bool,
        names: Vec<String>,
    ) -> Self {
        Self {
            has_tokens: tokens.is_some(),
            tokens: tokens.unwrap_or_else(|| watch::channel(Arc::default()).1),
            token_reads,
            names,
            complaints: Mutex::new(Throttle::new(COMPLAIN_EVERY)),
        }
    }

    /// The refusal of a request, if it is refused. Who asks stands in its extensions; a request of
    /// which nobody knows where it is from is from another host.
    pub(super) fn refusal(&self, head: &Parts) -> Option<Response> {
        let caller = head.extensions.get::<Caller>().copied();
        let refused = self.decide(caller, head).err()?;
        if let (Refused::WrongToken, Some(caller)) = (&refused, caller) {
            let peer = caller.peer.ip().to_canonical();
            let mut complaints = self
                .complaints
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if complaints.allows(&peer.to_string(), Instant::now()) {
                warn!(%peer, "refused a request with a wrong API token");
            }
        }
        let status = match refused {
            Refused::Misdirected(_) => StatusCode::MISDIRECTED_REQUEST,
            _ => StatusCode::FORBIDDEN,
        };
        Some(error(status, &self.explain(&refused)))
    }

    /// The decision.
    fn decide(&self, caller: Option<Caller>, head: &Parts) -> Result<(), Refused> {
        let need = Need::of(&head.method, head.uri.path());
        if need == Need::Life {
            return Ok(());
        }
        if need == Need::Change && crosses_origins(&head.headers) {
            return Err(Refused::Origin);
        }
        let token = bearer(&head.headers);
        let has_good_token = token.is_some_and(|token| self.tokens.borrow().accept(token));
        // No page can have a token.
        if need != Need::Read && !has_good_token {
            self.expect_own_name(&head.headers)?;
        }
        let is_asked = need == Need::Change || self.token_reads;
        let is_here = caller.is_some_and(Caller::is_here);
        match token {
            _ if !is_asked || is_here || has_good_token => Ok(()),
            _ if !self.has_tokens => Err(Refused::NotHere),
            None => Err(Refused::NoToken),
            Some(_) => Err(Refused::WrongToken),
        }
    }

    fn expect_own_name(&self, headers: &HeaderMap) -> Result<(), Refused> {
        let mut hosts = headers.get_all(header::HOST).iter();
        // Browsers always send one.
        let Some(host) = hosts.next() else {
            return Ok(());
        };
        let text = host.to_str().unwrap_or_default();
        let is_own = hosts.next().is_none() && host_name(text).is_some_and(|it| self.is_own(it));
        if is_own {
            return Ok(());
        }
        Err(Refused::Misdirected(
            text.chars().take(SHOWN_CHARS).collect(),
        ))
    }

    fn is_own(&self, host: Host<'_>) -> bool {
        let Host::Name(name) = host else { return true };
        let name = name.strip_suffix('.').unwrap_or(name).to_lowercase();
        self.names.iter().any(|own| match own.strip_prefix('*') {
            Some(below) => name.len() > below.len() && name.ends_with(below),
            None => *own == name,
        })
    }

    fn explain(&self, refused: &Refused) -> String {
        match refused {
            Refused::Origin => "a page of another origin may not change the state".to_owned(),
            Refused::Misdirected(host) => format!(
                "{host:?} is no name of this host, as far as its agent knows: ask by an IP address or \
                 as {}, or add the name to SIDECAR_API_HOSTS",
                self.names.join(", ")
            ),
            Refused::NotHere => "only programs on this host itself may do this (127.0.0.1); to let \
                others in, give the agent a token in SIDECAR_API_TOKEN or SIDECAR_API_TOKEN_FILE and \
                send it as Authorization: Bearer TOKEN"
                .to_owned(),
            Refused::NoToken => "other hosts need a token for this: send one of those in the agent's \
                SIDECAR_API_TOKEN or SIDECAR_API_TOKEN_FILE as Authorization: Bearer TOKEN, or ask on \
                the host itself (127.0.0.1)"
                .to_owned(),
            Refused::WrongToken => "the token in Authorization: Bearer is not one of this agent's \
                (SIDECAR_API_TOKEN, SIDECAR_API_TOKEN_FILE)"
                .to_owned(),
        }
    }
}

/// The token of a request.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    let is_bearer = scheme.eq_ignore_ascii_case(b"bearer ");
    is_bearer.then(|| token.trim_ascii())
}

#[derive(Debug, Clone, Copy)]
enum Host<'a> {
    Address,
    Name(&'a str),
}

/// A `Host` without its port; `None` when it is none.
fn host_name(text: &str) -> Option<Host<'_>> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (inner, port) = rest.split_once(']')?;
            inner.parse::<Ipv6Addr>().ok()?;
            (Host::Address, port)
        }
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            let is_address = host.parse::<Ipv4Addr>().is_ok();
            let name = (!host.is_empty()).then_some(Host::Name(host))?;
            (if is_address { Host::Address } else { name }, port)
        }
    };
    let is_port = match port.strip_prefix(':') {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_digit()),
        None => port.is_empty(),
    };
    is_port.then_some(host)
}

/// Whether a browser sends this on behalf of a page that did not come from here. Programs send no
/// `Origin`; what they may do is not decided by it.
fn crosses_origins(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return false;
    };
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let authority = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.split_once("://"));
    match (authority, host) {
        (Some((_, authority)), Some(host)) => !authority.eq_ignore_ascii_case(host),
        _ => true,
    }
}

#[cfg(test)]
mod tests;
