//! The commands that an agent takes: an instance of its host is to take no traffic, or to come back.
//!
//! The old paths answer as Go Sidecar does; those under `/api/v2` say more, and wait if asked to until
//! the cluster has followed.

use std::time::Duration;

use axum::{
    http::{StatusCode, request::Parts},
    response::Response,
};
use catalog::{Snapshot, json};
use tokio::sync::oneshot;

use super::{
    Api,
    reply::{JSON, body, error},
};
use crate::{
    cluster::{confirm::Applied, replica::Commanded},
    config::values::parse_duration,
};

/// How long the agent may take to accept a command.
const COMMAND_WITHIN: Duration = Duration::from_secs(5);
/// How long a drain may take to be written to disk before the answer is given all the same.
const KEPT_WITHIN: Duration = Duration::from_secs(2);
/// Shortest and longest time of a drain that ends by itself.
const TIMEOUT_MIN: Duration = Duration::from_secs(1);
const TIMEOUT_MAX: Duration = Duration::from_secs(8760 * 3600);
/// Longest wait for the cluster.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// What a client's wait takes beyond the inquiry.
const WAIT_SLACK: Duration = Duration::from_secs(5);
/// Hosts named in a refusal.
const HOSTS_NAMED: usize = 3;

/// What is to become of an instance of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainOrder {
    /// It takes no traffic any more.
    Drain {
        /// Ends by itself after so long.
        timeout: Option<Duration>,
    },
    /// A drain is over.
    Undrain,
}

/// A command about one instance of this host.
#[derive(Debug)]
pub struct DrainRequest {
    /// ID of the instance.
    pub id: String,
    /// What is to become of it.
    pub order: DrainOrder,
    /// How long somebody waits for all agents to follow.
    pub wait: Option<Duration>,
    /// Takes the outcome.
    pub reply: oneshot::Sender<DrainOutcome>,
}

/// What became of a [`DrainRequest`].
#[derive(Debug)]
pub enum DrainOutcome {
    /// It is so now, or was already.
    Done {
        /// What it is from now on.
        done: Commanded,
        /// This is on disk when so much is.
        kept: u64,
        /// Who has followed, when somebody waits for it.
        applied: Option<oneshot::Receiver<Applied>>,
    },
    /// No instance of this host has the ID.
    NotHere,
}

/// How a command was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// As Go Sidecar takes it.
    Old,
    /// Under `/api/v2`.
    V2,
}

/// Carries out a command that was permitted, and answers.
pub(super) async fn answer(
    api: &Api,
    id: String,
    undrain: bool,
    dialect: Dialect,
    head: &Parts,
) -> Response {
    let asked = match dialect {
        Dialect::Old => Ok(Asked::default()),
        Dialect::V2 => Asked::of_query(head.uri.query().unwrap_or_default(), undrain),
    };
    let asked = match asked {
        Ok(asked) => asked,
        Err(text) => return error(StatusCode::BAD_REQUEST, &text),
    };
    let (reply, outcome) = oneshot::channel();
    let request = DrainRequest {
        id: id.clone(),
        order: if undrain {
            DrainOrder::Undrain
        } else {
            DrainOrder::Drain {
                timeout: asked.timeout,
            }
        },
        wait: asked.wait,
        reply,
    };
    let exchange = async {
        api.drain.send(request).await.ok()?;
        outcome.await.ok()
    };
    match tokio::time::timeout(COMMAND_WITHIN, exchange).await {
        Ok(Some(DrainOutcome::Done {
            done,
            kept,
            applied,
        })) => {
            let mut written = api.drains_written.clone();
            // Fails when the agent ends, or the disk is slow: the drain is in force in any case.
            let _ = tokio::time::timeout(KEPT_WITHIN, written.wait_for(|it| *it >= kept)).await;
            match dialect {
                Dialect::Old => old_answer(&id, &done),
                Dialect::V2 => {
                    let applied = match applied {
                        Some(applied) => followed(applied, asked.wait).await,
                        None => None,
                    };
                    body(
                        StatusCode::ACCEPTED,
                        JSON,
                        document(&id, &done, applied.as_ref()),
                    )
                }
            }
        }
        Ok(Some(DrainOutcome::NotHere)) => {
            let text = match dialect {
                Dialect::Old => format!("Not Found - Service ID \"{id}\" not found"),
                Dialect::V2 => not_here(&api.snapshots.borrow(), &id),
            };
            error(StatusCode::NOT_FOUND, &text)
        }
        Ok(None) => error(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping"),
        Err(_) => {
            let text = format!("the agent did not answer within {COMMAND_WITHIN:?}");
            error(StatusCode::SERVICE_UNAVAILABLE, &text)
        }
    }
}

async fn followed(applied: oneshot::Receiver<Applied>, wait: Option<Duration>) -> Option<Applied> {
    let within = wait.unwrap_or_default() + WAIT_SLACK;
    // Nothing comes when the agent ends meanwhile.
    tokio::time::timeout(within, applied).await.ok()?.ok()
}

fn old_answer(id: &str, done: &Commanded) -> Response {
    let (name, status) = (&done.name, done.status.to_string().to_uppercase());
    let text = format!("Service \"{name}\" instance \"{id}\" set to {status}");
    let mut document = String::from("{\"Message\":");
    json::write_text(&mut document, &text);
    document.push('}');
    body(StatusCode::ACCEPTED, JSON, json::indent(&document))
}

fn document(id: &str, done: &Commanded, applied: Option<&Applied>) -> String {
    let mut out = String::from("{\"id\":");
    json::write_text(&mut out, id);
    out.push_str(",\"name\":");
    json::write_text(&mut out, &done.name);
    out.push_str(",\"hostname\":");
    json::write_text(&mut out, &done.hostname);
    out.push_str(&format!(",\"status\":\"{}\",\"until\":", done.status));
    match done.until {
        Some(until) => out.push_str(&format!("\"{until}\"")),
        None => out.push_str("null"),
    }
    out.push_str(",\"applied\":");
    match applied {
        None => out.push_str("null"),
        Some(applied) => {
            let lists = [
                ("{\"confirmed\":[", &applied.confirmed),
                ("],\"unconfirmed\":[", &applied.unconfirmed),
                ("],\"not_asked\":[", &applied.not_asked),
            ];
            for (begin, names) in lists {
                out.push_str(begin);
                for (place, name) in names.iter().enumerate() {
                    if place > 0 {
                        out.push(',');
                    }
                    json::write_text(&mut out, name);
                }
            }
            out.push_str("]}");
        }
    }
    out.push('}');
    out
}

/// Why there is nothing to command here, and where there is.
fn not_here(snapshot: &Snapshot, id: &str) -> String {
    let us = &*snapshot.hostname;
    let elsewhere: Vec<&str> = snapshot
        .hosts
        .values()
        .filter(|host| host.service(id).is_some_and(|it| !it.is_tombstone()))
        .map(|host| &*host.name)
        .take(HOSTS_NAMED)
        .collect();
    if elsewhere.is_empty() {
        return format!("no instance \"{id}\" on this host, {us}, nor on any other");
    }
    let hosts = elsewhere.join(", ");
    format!("no instance \"{id}\" on this host, {us}: it is on {hosts}; command the agent there")
}

/// What a command says beside the instance.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    timeout: Option<Duration>,
    wait: Option<Duration>,
}

impl Asked {
    /// Everything unknown is refused: a drain without the end that somebody mistyped would last for ever.
    fn of_query(query: &str, undrain: bool) -> Result<Self, String> {
        let mut asked = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (place, range) = match name {
                "timeout" if !undrain => (&mut asked.timeout, TIMEOUT_MIN..=TIMEOUT_MAX),
                "wait" => (&mut asked.wait, Duration::ZERO..=WAIT_MAX),
                _ => {
                    let known = if undrain { "wait" } else { "timeout and wait" };
                    return Err(format!("no parameter {name:?}: expected {known}"));
                }
            };
            if place.is_some() {
                return Err(format!("the parameter {name} is given twice"));
            }
            let duration = parse_duration(value).filter(|it| range.contains(it));
            *place = Some(duration.ok_or_else(|| {
                let (example, range) = match name {
                    "timeout" => ("10m or 1h30m", "from 1s to 8760h"),
                    _ => ("30s", "up to 5m"),
                };
                format!(
                    "{name}={value:?} is not usable: expected a duration such as {example}, {range}"
                )
            })?);
        }
        Ok(asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_understood_or_refused_by_name() {
        let asked = Asked::of_query("timeout=1h30m&wait=30s", false).unwrap();
        assert_eq!(asked.timeout, Some(Duration::from_secs(5400)));
        assert_eq!(asked.wait, Some(Duration::from_secs(30)));
        assert_eq!(Asked::of_query("", true), Ok(Asked::default()));
        let none = Asked::of_query("wait=0", true).unwrap();
        assert_eq!(none.wait, Some(Duration::ZERO));
        for (query, undrain, expected) in [
            ("timeout=soon", false, "timeout=\"soon\" is not usable"),
            ("timeout=10", false, "a duration such as 10m or 1h30m"),
            ("timeout=", false, "timeout=\"\""),
            ("timeout=0", false, "from 1s to 8760h"),
            ("timeout=10000h", false, "from 1s to 8760h"),
            ("wait=1h", false, "wait=\"1h\" is not usable"),
            ("wait=-1s", false, "up to 5m"),
            ("timeuot=10m", false, "no parameter \"timeuot\""),
            ("timeout=10m", true, "expected wait"),
            ("wait=1s&wait=2s", false, "twice"),
        ] {
            let refused = Asked::of_query(query, undrain).unwrap_err();
            assert!(refused.contains(expected), "{query}: {refused}");
        }
    }
}
