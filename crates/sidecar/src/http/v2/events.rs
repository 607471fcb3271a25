//! `/api/v2/events`: an endless answer of server-sent events.
//!
//! Everything told is encoded once and shared; a reader holds its place in the journal and at most
//! [`TAKEN_MAX`] references. One that reads slowly makes its connection full and is asked again when
//! there is room: it goes on from its place, or begins anew when that is forgotten.

use std::{collections::VecDeque, sync::Arc};

use axum::{
    body::Body,
    http::{StatusCode, header, request::Parts},
    response::Response,
};
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;

use super::{
    forms::text,
    journal::{Journal, Place, Topics, TrafficReader},
    query::{BadQuery, Query},
};
use crate::http::{
    documents::Library,
    endless::{self, Reader},
    reply,
};

/// Events taken from the journal at a time.
const TAKEN_MAX: usize = 16;
/// Where browsers say what they have heard last.
const LAST_EVENT_ID: &str = "last-event-id";

/// What a reader asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish {
    topics: Topics,
    last_event_id: Option<String>,
}

impl Wish {
    /// From query and headers; the header stands before the query, as browsers add it when they come
    /// again to the same URL.
    pub(super) fn of(head: &Parts) -> Result<Self, BadQuery> {
        let query = Query::of(head, &["topics", "last_event_id"])?;
        let mut topics = Topics {
            changes: true,
            hosts: true,
            traffic: false,
        };
        if let Some(words) = query.get("topics") {
            (topics.changes, topics.hosts) = (false, false);
            for word in words.split(',') {
                match word {
                    "changes" => topics.changes = true,
                    "hosts" => topics.hosts = true,
                    "traffic" => topics.traffic = true,
                    _ => return Err(BadQuery::value("topics", word, "changes, hosts, traffic")),
                }
            }
        }
        let header = head.headers.get(LAST_EVENT_ID);
        let header = header.and_then(|value| value.to_str().ok());
        Ok(Self {
            topics,
            last_event_id: header
                .or_else(|| query.get("last_event_id"))
                .map(str::to_owned),
        })
    }
}

#[derive(Serialize)]
struct HelloForm<'a> {
    epoch: &'a str,
    last: &'a str,
    version: u64,
    agent_version: &'static str,
    hostname: &'a str,
    cluster_name: &'a str,
}

/// The head of the answer; its body is [`body`].
pub(super) fn answer(body: Body) -> Response {
    let answer = reply::body(StatusCode::OK, "text/event-stream", body);
    reply::with(answer, header::CACHE_CONTROL, "no-cache")
}

/// The body; ends when the agent stops.
pub(super) fn body(
    wish: &Wish,
    journal: &Arc<Journal>,
    library: &Library,
    shutdown: CancellationToken,
    slot: OwnedSemaphorePermit,
) -> Body {
    let news = journal.subscribe();
    let asked = wish.last_event_id.as_deref();
    let resumed = asked
        .and_then(|id| journal.number(id))
        .and_then(|number| Some((number, journal.resumed(number)?)));
    let mut taken = VecDeque::new();
    let place = match resumed {
        Some((number, place)) => {
            taken.push_back(hello(journal, library, number));
            place
        }
        None => {
            let (last, place) = journal.newest();
            taken.push_back(hello(journal, library, last));
            if asked.is_some() {
                taken.push_back(journal.reset(last));
            }
            place
        }
    };
    endless::body(Listener {
        journal: journal.clone(),
        topics: wish.topics,
        place,
        taken,
        news,
        shutdown,
        _traffic: wish.topics.traffic.then(|| journal.wants_traffic()),
        _slot: slot,
    })
}

/// The first event. Its ID is the place the reader goes on from, so that one who loses the connection right
/// after it misses nothing the next time.
fn hello(journal: &Journal, library: &Library, from: u64) -> Bytes {
    let snapshot = &library.latest().snapshot;
    let data = text(&HelloForm {
        epoch: journal.epoch(),
        last: &journal.id(journal.last()),
        version: snapshot.changes,
        agent_version: super::AGENT_VERSION,
        hostname: &snapshot.hostname,
        cluster_name: &snapshot.cluster_name,
    });
    let id = journal.id(from);
    format!("id: {id}\nevent: hello\ndata: {data}\n\n").into()
}

struct Listener {
    journal: Arc<Journal>,
    topics: Topics,
    place: Place,
    /// Taken from the journal and not yet given to the connection.
    taken: VecDeque<Bytes>,
    news: watch::Receiver<u64>,
    shutdown: CancellationToken,
    _traffic: Option<TrafficReader>,
    /// The place among the watchers that this reader takes up.
    _slot: OwnedSemaphorePermit,
}

impl Reader for Listener {
    /// Waits until there is something for the reader. `None` when there never will be.
    async fn next(mut self) -> Option<(Bytes, Self)> {
        loop {
            if let Some(event) = self.taken.pop_front() {
                return Some((event, self));
            }
            // Marked before looking, so that what comes after the look wakes us again.
            self.news.mark_unchanged();
            self.taken = self.journal.next(self.topics, &mut self.place, TAKEN_MAX);
            if self.taken.is_empty() {
                tokio::select! {
                    () = self.shutdown.cancelled() => return None,
                    changed = self.news.changed() => changed.ok()?,
                }
            }
        }
    }
}
