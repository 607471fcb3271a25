//! What the xDS server tells of itself: values to show, nothing to act upon.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;

use super::{
    resources::{Kind, Resources},
    subscription::{Protocol, Rejection, Subscription},
};

/// Most refusals that are remembered as said in the log.
const TOLD_MAX: usize = 4096;
/// Longest words of an Envoy that are kept.
const WORDS_MAX: usize = 1024;
/// Most refused resources that are shown.
const REJECTED_MAX: usize = 1024;

/// How the xDS server is doing, as `/api/v2/local` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct EnvoyStatus {
    /// Where it listens; `None` while it cannot.
    pub listening: Option<SocketAddr>,
    /// Why it cannot listen; `None` when it does.
    pub trouble: Option<String>,
    /// Whether routes are decided; nobody is told anything before.
    pub routing: bool,
    /// Resources there are, by kind.
    pub resources: BTreeMap<&'static str, usize>,
    /// Streams, one for each Envoy.
    pub streams: Vec<StreamStatus>,
    /// Streams that were refused because there were too many.
    pub streams_refused: u64,
    /// Resources that at least one Envoy does not take, at most 1,024 of them.
    pub rejected: Vec<RejectedStatus>,
    /// Responses sent, by kind.
    pub responses: BTreeMap<&'static str, u64>,
    /// Responses taken, by kind.
    pub acks: BTreeMap<&'static str, u64>,
    /// Responses refused, by kind.
    pub nacks: BTreeMap<&'static str, u64>,
}

/// One stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StreamStatus {
    /// What the Envoy calls itself; empty when it did not say yet.
    pub node: String,
    /// `sotw` or `delta`.
    pub protocol: &'static str,
    /// Whether it has taken all there is.
    pub settled: bool,
    /// Resources it has taken, by kind.
    pub held: BTreeMap<&'static str, usize>,
    #[serde(skip)]
    rejected: Vec<Rejection>,
}

/// A resource that is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RejectedStatus {
    /// `cluster`, `endpoints` or `listener`.
    pub kind: &'static str,
    /// `<service>:<ServicePort>`.
    pub name: String,
    /// Why, in Envoy's words.
    pub words: String,
    /// The nodes that refuse it.
    pub nodes: BTreeSet<String>,
}

/// Where streams write how they are doing.
#[derive(Debug, Default)]
pub struct Board(Mutex<Content>);

#[derive(Debug, Default)]
struct Content {
    status: EnvoyStatus,
    streams: BTreeMap<u64, StreamStatus>,
    next: u64,
    told: BTreeMap<(Kind, Arc<str>), (String, String)>,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Content> {
        // Each change is complete in itself, so that a panic leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present state.
    pub fn status(&self) -> EnvoyStatus {
        let content = self.lock();
        let mut rejected = BTreeMap::new();
        for stream in content.streams.values() {
            for it in &stream.rejected {
                let entry = rejected
                    .entry((it.kind, it.name.clone()))
                    .or_insert_with(|| RejectedStatus {
                        kind: it.kind.word(),
                        name: it.name.to_string(),
                        words: it.words.clone(),
                        nodes: BTreeSet::new(),
                    });
                entry.nodes.insert(stream.node.clone());
            }
        }
        EnvoyStatus {
            streams: content.streams.values().cloned().collect(),
            rejected: rejected.into_values().take(REJECTED_MAX).collect(),
            ..content.status.clone()
        }
    }

    pub(super) fn listens(&self, at: Result<SocketAddr, String>) {
        let mut content = self.lock();
        content.status.listening = at.as_ref().ok().copied();
        content.status.trouble = at.err();
    }

    pub(super) fn serves(&self, resources: &Resources) {
        let mut content = self.lock();
        content.status.routing = true;
        content.status.resources = by_kind(|kind| resources.count(kind));
    }

    pub(super) fn refused_stream(&self) {
        self.lock().status.streams_refused += 1;
    }

    /// A stream is there; its number.
    pub(super) fn opened(&self, protocol: Protocol) -> u64 {
        let mut content = self.lock();
        let number = content.next;
        content.next += 1;
        let stream = StreamStatus {
            node: String::new(),
            protocol: match protocol {
                Protocol::Sotw => "sotw",
                Protocol::Delta => "delta",
            },
            settled: false,
            held: by_kind(|_| 0),
            rejected: Vec::new(),
        };
        content.streams.insert(number, stream);
        number
    }

    pub(super) fn closed(&self, number: u64) {
        self.lock().streams.remove(&number);
    }

    pub(super) fn named(&self, number: u64, node: &str) {
        if let Some(stream) = self.lock().streams.get_mut(&number) {
            node.clone_into(&mut stream.node);
        }
    }

    pub(super) fn told(&self, kind: Kind) {
        *self.lock().status.responses.entry(kind.word()).or_default() += 1;
    }

    pub(super) fn answered(&self, kind: Kind, taken: bool) {
        let mut content = self.lock();
        let status = &mut content.status;
        let counts = if taken {
            &mut status.acks
        } else {
            &mut status.nacks
        };
        *counts.entry(kind.word()).or_default() += 1;
    }

    pub(super) fn progressed(&self, number: u64, subscription: &Subscription) {
        let settled = subscription.is_settled();
        let held = by_kind(|kind| subscription.held(kind));
        let rejected = subscription
            .rejections()
            .take(REJECTED_MAX)
            .map(|it| Rejection {
                words: shortened(&it.words).to_owned(),
                ..it
            });
        let rejected = rejected.collect();
        if let Some(stream) = self.lock().streams.get_mut(&number) {
            (stream.settled, stream.held, stream.rejected) = (settled, held, rejected);
        }
    }

    /// Whether this is news: the same words about the same resource are said once, however many Envoys say
    /// them and however often they connect.
    pub(super) fn is_news(&self, rejection: &Rejection) -> bool {
        let mut content = self.lock();
        if content.told.len() >= TOLD_MAX {
            content.told.clear();
        }
        let words = shortened(&rejection.words).to_owned();
        let said = (rejection.version.clone(), words);
        let key = (rejection.kind, rejection.name.clone());
        content.told.insert(key, said.clone()) != Some(said)
    }
}

/// The beginning of an Envoy's words.
pub(super) fn shortened(words: &str) -> &str {
    let end = (0..=words.len().min(WORDS_MAX)).rev();
    let end = end.into_iter().find(|end| words.is_char_boundary(*end));
    &words[..end.unwrap_or_default()]
}

fn by_kind<T>(value: impl Fn(Kind) -> T) -> BTreeMap<&'static str, T> {
    Kind::ALL.map(|kind| (kind.word(), value(kind))).into()
}
