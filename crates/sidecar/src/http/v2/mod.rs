//! `/api/v2`: what an agent tells in words of our own. Contract: keys are added, never changed; the file
//! `openapi.json` describes all of it.
//!
//! - `documents`, `hosts`, `instance`, `overview`: the documents
//! - `journal`: the latest changes and what else is told to listeners
//! - `events`: who listens
//! - `forms`: what they are put together from

pub(super) mod documents;
mod events;
mod forms;
mod hosts;
mod instance;
mod journal;
mod overview;
mod query;
mod traffic;

use std::sync::Arc;

use axum::{
    body::Body,
    http::{Method, StatusCode, header, request::Parts},
    response::Response,
};
use bytes::Bytes;
use catalog::Status;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub(super) use self::forms::Counts;
use self::{
    events::Wish,
    query::{BadQuery, Query},
};
pub use self::{
    hosts::Hosts,
    journal::{CHANGES_MAX, Journal},
};
use super::{
    Api,
    documents::{Documents, Kind, Library, OfService},
    proxy_document, reply, routes_document,
};

/// What this agent is.
const AGENT_VERSION: &str = env!("CARGO_PKG_VERSION");
/// The description of the whole API.
pub(in crate::http) const OPENAPI: &str = include_str!("openapi.json");
/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Question {
    /// The description of the API.
    OpenApi,
    /// The agent and its cluster at a glance.
    Overview,
    /// All services, in one line each.
    Services,
    /// The instances of one service.
    Service {
        /// Its name.
        name: String,
    },
    /// Instances, all or some.
    Instances,
    /// All about one instance.
    Instance {
        /// Its host.
        hostname: String,
        /// Its ID.
        id: String,
    },
    /// Who is there.
    Hosts,
    /// What is routed where, and what is not, and why.
    Routes,
    /// What this host sees of itself.
    Local,
    /// What the built-in proxy carries.
    Proxy,
    /// The latest changes.
    Changes,
    /// What happens from now on.
    Events,
}

/// The question that the segments behind `/api/v2/` ask when they are read; `None` for an unknown path.
/// Segments are percent-encoded as they came; `decoded` undoes that.
pub(super) fn question(
    segments: &[&str],
    decoded: impl Fn(&str) -> Option<String>,
) -> Option<Question> {
    let some = |segment: &str| decoded(segment).filter(|it| !it.is_empty());
    Some(match segments {
        ["openapi.json"] => Question::OpenApi,
        ["overview"] => Question::Overview,
        ["services"] => Question::Services,
        ["services", name] => Question::Service { name: some(name)? },
        ["instances"] => Question::Instances,
        ["instances", hostname, id] => Question::Instance {
            hostname: some(hostname)?,
            id: some(id)?,
        },
        ["hosts"] => Question::Hosts,
        ["routes"] => Question::Routes,
        ["local"] => Question::Local,
        ["proxy"] => Question::Proxy,
        ["changes"] => Question::Changes,
        ["events"] => Question::Events,
        _ => return None,
    })
}

/// What answers are made from.
#[derive(Debug)]
pub(super) struct Sources<'a> {
    pub(super) api: &'a Api,
    pub(super) library: &'a Library,
    /// Places for those who listen.
    pub(super) watchers: &'a Arc<Semaphore>,
    pub(super) watchers_max: usize,
    pub(super) shutdown: &'a CancellationToken,
}

/// The answer to a question that is only read.
pub(super) async fn answer(question: Question, sources: Sources<'_>, head: &Parts) -> Response {
    let answer = match question {
        Question::OpenApi => Ok(described(head)),
        Question::Overview => Ok(sources.overview()),
        Question::Services => sources.whole(Kind::Summaries, head).await,
        Question::Service { name } => sources.service(&name, head),
        Question::Instances => sources.instances(head).await,
        Question::Instance { hostname, id } => Ok(sources.instance(&hostname, &id)),
        Question::Hosts => Ok(sources.hosts(head)),
        Question::Routes => Ok(sources.routes(head)),
        // Not for pages of other origins: it holds what services answer.
        Question::Local => Ok(reply::document(
            "view of this host",
            sources.api.local.document(),
        )),
        Question::Proxy => Ok(reply::open(reply::document("status of the proxy", {
            let plane = sources.api.plane.borrow().clone();
            proxy_document::encode(&plane)
        }))),
        Question::Changes => sources.changes(head),
        Question::Events => sources.events(head),
    };
    answer.unwrap_or_else(|bad: BadQuery| reply::error(StatusCode::BAD_REQUEST, &bad.to_string()))
}

fn described(head: &Parts) -> Response {
    let tag = tag_of(OPENAPI.as_bytes());
    if reply::is_known(head, &tag) {
        return reply::not_modified(&tag);
    }
    reply::cached(reply::body(StatusCode::OK, reply::JSON, OPENAPI), &tag)
}

/// An entity tag of the content itself, FNV-1a: for what is small, or not made of a snapshot alone.
fn tag_of(content: &[u8]) -> String {
    let hash = content
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("\"{hash:016x}\"")
}

fn json(content: impl Into<Body>) -> Response {
    reply::body(StatusCode::OK, reply::JSON, content)
}

impl Sources<'_> {
    /// The entity tag of what is made of a snapshot. Of its publication, not of its changes: refreshes
    /// change stamps in documents, though nothing that matters.
    fn tag(&self, documents: &Documents) -> String {
        let epoch = self.api.journal.epoch();
        format!("\"{epoch}-{}\"", documents.snapshot.version)
    }

    fn overview(&self) -> Response {
        let documents = self.library.latest();
        let content = overview::encode(self.api, &documents.snapshot, documents.counts());
        reply::with(json(content), header::CACHE_CONTROL, "no-cache")
    }

    /// A document about everything.
    async fn whole(&self, kind: Kind, head: &Parts) -> Result<Response, BadQuery> {
        Query::of(head, &[])?;
        Ok(self.whole_of(kind, head).await)
    }

    async fn whole_of(&self, kind: Kind, head: &Parts) -> Response {
        let tag = self.tag(&self.library.latest());
        if reply::is_known(head, &tag) {
            return reply::not_modified(&tag);
        }
        let (documents, content, is_compressed) =
            self.library.get(kind, reply::takes_gzip(head)).await;
        let answer = reply::cached(json(content), &self.tag(&documents));
        if is_compressed {
            reply::gzipped(answer)
        } else {
            reply::with(answer, header::VARY, "Accept-Encoding")
        }
    }

    fn service(&self, name: &str, head: &Parts) -> Result<Response, BadQuery> {
        Query::of(head, &[])?;
        let documents = self.library.latest();
        let Some(content) = documents.of_service(OfService::Instances, name) else {
            let text = format!("no instances of {name} found");
            return Ok(reply::error(StatusCode::NOT_FOUND, &text));
        };
        let tag = self.tag(&documents);
        if reply::is_known(head, &tag) {
            return Ok(reply::not_modified(&tag));
        }
        Ok(reply::cached(json(content), &tag))
    }

    async fn instances(&self, head: &Parts) -> Result<Response, BadQuery> {
        let query = Query::of(head, &["service", "host", "status"])?;
        let (service, host) = (query.get("service"), query.get("host"));
        let status = query.get("status").map(status).transpose()?;
        if service.is_none() && host.is_none() && status.is_none() {
            return Ok(self.whole_of(Kind::Instances, head).await);
        }
        let documents = self.library.latest();
        let tag = self.tag(&documents);
        if reply::is_known(head, &tag) {
            return Ok(reply::not_modified(&tag));
        }
        let content = documents::some_instances(&documents.snapshot, |it| {
            service.is_none_or(|service| it.name == service)
                && host.is_none_or(|host| it.hostname == host)
                && status.is_none_or(|status| it.status == status)
        });
        Ok(reply::cached(json(content), &tag))
    }

    fn instance(&self, hostname: &str, id: &str) -> Response {
        let documents = self.library.latest();
        let snapshot = &documents.snapshot;
        let Some(service) = snapshot.service(hostname, id) else {
            let text = format!("no instance {id} of host {hostname} is known");
            return reply::error(StatusCode::NOT_FOUND, &text);
        };
        let routes = self.api.routes.borrow().clone();
        let content =
            instance::encode(snapshot, service, &routes, |id| self.api.local.check_of(id));
        // The evidence of a check is another with each check.
        reply::with(json(content), header::CACHE_CONTROL, "no-cache")
    }

    fn hosts(&self, head: &Parts) -> Response {
        let hosts = self.api.hosts.document();
        let list = String::from_utf8_lossy(&hosts.list);
        let content = format!("{{\"version\":{},\"hosts\":{list}}}", hosts.version);
        tagged(content, head)
    }

    fn routes(&self, head: &Parts) -> Response {
        // Before the routes: a version that is a moment too old is harmless, one that is too new is not.
        let version = self.library.latest().snapshot.changes;
        let routes = self.api.routes.borrow().clone();
        match routes_document::encode(&routes, version, self.api.proxy.bind_ip) {
            Ok(content) => reply::open(tagged(content, head)),
            Err(error) => reply::document("routes", Err::<Body, _>(error)),
        }
    }

    fn changes(&self, head: &Parts) -> Result<Response, BadQuery> {
        let query = Query::of(head, &["since"])?;
        let journal = &self.api.journal;
        let since = match query.get("since") {
            Some(id) if !is_id(id) => {
                let expected = "the id of a change, such as 62fb1a04d8f2e-17";
                return Err(BadQuery::value("since", id, expected));
            }
            Some(id) => journal.number(id),
            None => Some(0),
        };
        let excerpt = journal.excerpt(since);
        let first = match excerpt.first {
            Some(number) => format!("\"{}\"", journal.id(number)),
            None => "null".to_owned(),
        };
        let last = journal.id(excerpt.last);
        let mut content = format!(
            "{{\"first\":{first},\"last\":\"{last}\",\"complete\":{},\"changes\":[",
            excerpt.is_complete
        )
        .into_bytes();
        for (place, change) in excerpt.changes.iter().enumerate() {
            if place > 0 {
                content.push(b',');
            }
            content.extend_from_slice(change);
        }
        content.extend_from_slice(b"]}");
        let answer = json(Bytes::from(content));
        Ok(reply::with(answer, header::CACHE_CONTROL, "no-cache"))
    }

    fn events(&self, head: &Parts) -> Result<Response, BadQuery> {
        let wish = Wish::of(head)?;
        if head.method == Method::HEAD {
            return Ok(events::answer(Body::empty()));
        }
        let Ok(slot) = self.watchers.clone().try_acquire_owned() else {
            let text = format!(
                "{} clients watch already; ask again later",
                self.watchers_max
            );
            return Ok(reply::error(StatusCode::SERVICE_UNAVAILABLE, &text));
        };
        let journal = &self.api.journal;
        let body = events::body(&wish, journal, self.library, self.shutdown.clone(), slot);
        let mut answer = events::answer(body);
        answer.extensions_mut().insert(reply::Endless);
        Ok(answer)
    }
}

/// With an entity tag of the content itself.
fn tagged(content: String, head: &Parts) -> Response {
    let tag = tag_of(content.as_bytes());
    if reply::is_known(head, &tag) {
        return reply::not_modified(&tag);
    }
    reply::cached(json(content), &tag)
}

/// Whether this may be the identity of a change, of whichever epoch.
fn is_id(text: &str) -> bool {
    text.rsplit_once('-').is_some_and(|(epoch, number)| {
        let is_hex = |epoch: &str| epoch.bytes().all(|byte| byte.is_ascii_hexdigit());
        !epoch.is_empty() && is_hex(epoch) && number.parse::<u64>().is_ok()
    })
}

/// A status by its word in any case.
fn status(word: &str) -> Result<Status, BadQuery> {
    let all = [
        Status::Alive,
        Status::Tombstone,
        Status::Unhealthy,
        Status::Unknown,
        Status::Draining,
    ];
    all.into_iter()
        .find(|status| status.to_string().eq_ignore_ascii_case(word))
        .ok_or_else(|| {
            let expected = "Alive, Tombstone, Unhealthy, Unknown, Draining";
            BadQuery::value("status", word, expected)
        })
}
