//! What the companion knows: the newest state it was given, and the snapshot made of it. Pure.
//!
//! A state comes by being fetched, which is how things are, or by being posted, which is how they were when it
//! was sent: posts may overtake each other, so an older one than what is known changes nothing.

use std::{collections::BTreeSet, time::Instant};

use catalog::{Author, Now, Snapshot, State, Status, Timestamp, Upkeep, json};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

/// Why a document is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum DocumentError {
    /// It is no JSON, or not of the shape.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// Its records cannot be read.
    #[error("{0}")]
    Records(#[from] json::DecodeError),
    /// None of its records can be read, though it has some.
    #[error("none of its {0} records can be read: {1}")]
    Nothing(usize, json::DecodeError),
}

/// A state document, read.
#[derive(Debug)]
pub(super) struct Document {
    text: String,
    last_changed: Timestamp,
    snapshot: Snapshot,
    /// Records that could not be read.
    pub(super) unreadable: usize,
}

/// What a listener is sent.
#[derive(Debug)]
pub(super) struct Post {
    pub(super) state: Document,
    /// The instance that changed, as it was sent.
    service: Option<Value>,
}

#[derive(Deserialize)]
struct Head {
    #[serde(rename = "LastChanged", default)]
    last_changed: String,
    #[serde(rename = "Hostname", default)]
    hostname: String,
    #[serde(rename = "ClusterName", default)]
    cluster_name: String,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "State", borrow)]
    state: &'a RawValue,
    #[serde(rename = "ChangeEvent", default)]
    event: Value,
}

/// What became of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is what is known now.
    Accepted,
    /// What is known is newer.
    Older,
}

/// The newest state, once there is one.
#[derive(Debug)]
pub(super) struct Mirror {
    subscribed: BTreeSet<String>,
    current: Option<Document>,
    last_service_changed: Value,
    accepted: u64,
}

impl Document {
    /// Reads a state document. Records that are not readable are left out.
    ///
    /// # Errors
    /// When it is none, or nothing in it is readable.
    pub(super) fn read(text: &str, now: Instant) -> Result<Self, DocumentError> {
        let head: Head = serde_json::from_str(text)?;
        let last_changed = head.last_changed.parse().unwrap_or(Timestamp::EPOCH);
        let mut state = State::new(&head.hostname, &head.cluster_name);
        let (mut readable, mut unreadable) = (0, Vec::new());
        let mut hosts = BTreeSet::new();
        for record in json::decode_state(text.as_bytes())? {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    unreadable.push(error);
                    continue;
                }
            };
            readable += 1;
            // Who is thought dead was judged by the sender, and shown as it judged. No stamp is from the
            // future.
            let now = Now {
                wall: record.updated,
                monotonic: now,
            };
            if hosts.insert(record.hostname.clone()) {
                state.member_up(&record.hostname, Upkeep::Membership, now);
            }
            // Equal records are as good.
            let _ = state.apply(record, Author::Own, now);
        }
        let count = unreadable.len();
        match unreadable.into_iter().next() {
            Some(error) if readable == 0 => Err(DocumentError::Nothing(count, error)),
            _ => Ok(Self {
                text: text.to_owned(),
                last_changed,
                snapshot: state.snapshot().clone(),
                unreadable: count,
            }),
        }
    }

    /// How many instances it would send traffic to.
    pub(super) fn alive(&self) -> usize {
        let services = self.snapshot.services();
        services.filter(|it| it.status == Status::Alive).count()
    }
}

impl Post {
    /// Reads what was posted.
    ///
    /// # Errors
    /// When it is no such thing, or its state is none.
    pub(super) fn read(text: &str, now: Instant) -> Result<Self, DocumentError> {
        let envelope: Envelope<'_> = serde_json::from_str(text)?;
        let state = Document::read(envelope.state.get(), now)?;
        let service = envelope.event.get("Service").filter(|it| it.is_object());
        Ok(Self {
            state,
            service: service.cloned(),
        })
    }
}

impl Mirror {
    pub(super) fn new(subscribed: impl IntoIterator<Item = String>) -> Self {
        Self {
            subscribed: subscribed.into_iter().collect(),
            current: None,
            last_service_changed: Value::Null,
            accepted: 0,
        }
    }

    /// Takes a fetched state, whatever its stamp: it is how things are. `before` is what
    /// [`Mirror::accepted`] was when it was asked for; of an older state than one posted since, nothing is
    /// taken.
    pub(super) fn fetched(&mut self, document: Document, before: u64) -> Verdict {
        if self.accepted != before && self.is_older(&document) {
            return Verdict::Older;
        }
        self.replace(document);
        Verdict::Accepted
    }

    /// How many states were taken so far.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted
    }

    fn replace(&mut self, document: Document) {
        self.accepted += 1;
        self.current = Some(document);
    }

    fn is_older(&self, document: &Document) -> bool {
        let current = self.current.as_ref();
        current.is_some_and(|it| document.last_changed < it.last_changed)
    }

    /// Takes a posted state unless it is older. Of equal stamps the later post counts: several changes may
    /// share one.
    pub(super) fn post(&mut self, post: Post) -> Verdict {
        if self.is_older(&post.state) {
            return Verdict::Older;
        }
        if let Some(service) = post.service {
            self.last_service_changed = service;
        }
        self.replace(post.state);
        Verdict::Accepted
    }

    /// How many instances the current state has that take traffic.
    pub(super) fn alive(&self) -> Option<usize> {
        self.current.as_ref().map(Document::alive)
    }

    /// What HAProxy is to serve, when anything is known: subscribed services, numbered anew each time.
    pub(super) fn snapshot(&self) -> Option<Snapshot> {
        let mut snapshot = self.current.as_ref()?.snapshot.clone();
        if !self.subscribed.is_empty() {
            let mut state = State::new(&snapshot.hostname, &snapshot.cluster_name);
            for service in snapshot.services() {
                if self.subscribed.contains(&service.name) {
                    let now = Now {
                        wall: service.updated,
                        monotonic: Instant::now(),
                    };
                    state.member_up(&service.hostname, Upkeep::Membership, now);
                    let _ = state.apply((**service).clone(), Author::Own, now);
                }
            }
            snapshot = state.snapshot().clone();
        }
        snapshot.version = self.accepted;
        snapshot.changes = self.accepted;
        Some(snapshot)
    }

    /// The current state as it came, when there is one.
    pub(super) fn document(&self) -> Option<&str> {
        self.current.as_ref().map(|it| it.text.as_str())
    }

    /// The stamp of the current state, or of the beginning of time.
    pub(super) fn last_changed(&self) -> Timestamp {
        let current = self.current.as_ref();
        current.map_or(Timestamp::EPOCH, |it| it.last_changed)
    }

    /// The instance that the last accepted post was about.
    pub(super) fn last_service_changed(&self) -> &Value {
        &self.last_service_changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::Routes;

    /// What Go Sidecar sent to a listener.
    const RECORDED: &str = include_str!("../../../catalog/tests/vectors/http/listener-post.json");

    fn state(second: u32, names: &[&str]) -> String {
        let services: Vec<String> = names
            .iter()
            .enumerate()
            .map(|(number, name)| {
                format!(
                    r#""id{number}":{{"ID":"id{number}","Name":"{name}","Image":"i",
                    "Created":"2026-01-01T00:00:00Z","Hostname":"h",
                    "Ports":[{{"Type":"tcp","Port":8080,"ServicePort":{port},"IP":"10.0.0.1"}}],
                    "Updated":"2026-01-01T00:00:{second:02}Z","ProxyMode":"http","Status":0}}"#,
                    port = 9000 + number,
                )
            })
            .collect();
        format!(
            r#"{{"Servers":{{"h":{{"Name":"h","Services":{{{}}}}}}},
            "LastChanged":"2026-01-01T00:00:{second:02}Z","ClusterName":"c","Hostname":"h"}}"#,
            services.join(",")
        )
    }

    fn post(second: u32, names: &[&str]) -> Post {
        let state = state(second, names);
        let text = format!(
            r#"{{"State":{state},"ChangeEvent":{{"Service":{{"Name":"x{second}"}},"PreviousStatus":0}}}}"#
        );
        Post::read(&text, Instant::now()).unwrap()
    }

    fn served(mirror: &Mirror) -> Vec<String> {
        let snapshot = mirror.snapshot().unwrap();
        let routes = Routes::of(&snapshot);
        routes
            .by_port
            .values()
            .map(|it| it.service.clone())
            .collect()
    }

    #[test]
    fn what_go_sidecar_posts_is_understood() {
        let post = Post::read(RECORDED, Instant::now()).unwrap();
        assert_eq!(post.state.unreadable, 0);
        let mut mirror = Mirror::new([]);
        assert_eq!(mirror.post(post), Verdict::Accepted);
        assert!(mirror.alive().unwrap() > 3);
        assert!(!served(&mirror).is_empty());
        assert!(mirror.last_service_changed()["Name"].is_string());
    }

    #[test]
    fn older_posts_change_nothing_and_equal_ones_do() {
        let mut mirror = Mirror::new([]);
        assert_eq!(mirror.snapshot().map(|it| it.version), None);
        assert_eq!(mirror.post(post(5, &["a"])), Verdict::Accepted);
        assert_eq!(mirror.post(post(4, &["b"])), Verdict::Older);
        assert_eq!(served(&mirror), ["a"]);
        assert_eq!(mirror.last_service_changed()["Name"], "x5");
        assert_eq!(mirror.post(post(5, &["c"])), Verdict::Accepted);
        assert_eq!(served(&mirror), ["c"]);
        // What is fetched is how things are, also when a clock went back.
        let fetched = |second| Document::read(&state(second, &["d"]), Instant::now()).unwrap();
        let before = mirror.accepted();
        assert_eq!(mirror.fetched(fetched(3), before), Verdict::Accepted);
        assert_eq!(served(&mirror), ["d"]);
        assert_eq!(mirror.snapshot().unwrap().changes, 3);
        // But not when something newer was posted after it was asked for.
        assert_eq!(mirror.post(post(4, &["e"])), Verdict::Accepted);
        assert_eq!(mirror.fetched(fetched(3), before + 1), Verdict::Older);
        assert_eq!(served(&mirror), ["e"]);
    }

    #[test]
    fn only_subscribed_services_are_served() {
        let mut mirror = Mirror::new(["b".to_owned()]);
        mirror.post(post(1, &["a", "b", "c"]));
        assert_eq!(served(&mirror), ["b"]);
        assert_eq!(mirror.alive(), Some(3));
    }

    #[test]
    fn what_is_no_state_is_an_error_and_bad_records_do_not_hide_others() {
        let now = Instant::now();
        for text in ["", "[]", "{}", "{\"State\":null}", "{\"State\":3}"] {
            assert!(Post::read(text, now).is_err(), "{text:?}");
        }
        let text = state(1, &["a", "b"]).replace("\"Name\":\"b\"", "\"Name\":7");
        assert_eq!(Document::read(&text, now).unwrap().unreadable, 1);
        let text = text.replace("\"Name\":\"a\"", "\"Name\":7");
        assert!(Document::read(&text, now).is_err());
    }
}
