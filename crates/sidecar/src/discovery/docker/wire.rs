//! The engine's JSON, as far as it is used: the container listing and the event stream.
//!
//! Not the engine's schema: only the fields read here are named, each may be absent or `null`, words
//! are kept as text, and one container that cannot be read does not hide the others. Shapes are
//! those of the Docker Engine API 1.24 to 1.51 and of Podman's compatible API.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// One container of `GET /containers/json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Container {
    /// Full ID, 64 hex digits from Docker.
    pub(super) id: String,
    /// Names with a leading slash.
    names: Option<Vec<String>>,
    image: Option<String>,
    /// Seconds since the epoch.
    pub(super) created: Option<i64>,
    labels: Option<BTreeMap<String, Option<String>>>,
    ports: Option<Vec<PublishedPort>>,
    state: Option<String>,
}

/// One port of a container; published when it has a public port.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct PublishedPort {
    #[serde(rename = "IP")]
    ip: Option<String>,
    #[serde(rename = "PrivatePort")]
    private: Option<u16>,
    #[serde(rename = "PublicPort")]
    public: Option<u16>,
    #[serde(rename = "Type")]
    kind: Option<String>,
}

impl Container {
    /// The image reference as listed.
    pub(super) fn image(&self) -> &str {
        self.image.as_deref().unwrap_or_default()
    }

    /// The name people use, without its slash; the short ID when there is none.
    pub(super) fn display_name(&self) -> &str {
        let name = self
            .names
            .iter()
            .flatten()
            .next()
            .map(|name| name.trim_start_matches('/'));
        name.filter(|name| !name.is_empty())
            .unwrap_or_else(|| short_id(&self.id))
    }

    /// A label's value; a label without one is empty.
    pub(super) fn label(&self, name: &str) -> Option<&str> {
        let value = self.labels.as_ref()?.get(name)?;
        Some(value.as_deref().unwrap_or_default())
    }

    /// All labels in order of their names.
    pub(super) fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.labels
            .iter()
            .flatten()
            .map(|(name, value)| (name.as_str(), value.as_deref().unwrap_or_default()))
    }

    /// Ports in the engine's order.
    pub(super) fn ports(&self) -> &[PublishedPort] {
        self.ports.as_deref().unwrap_or_default()
    }

    /// Whether it waits between two lives: listed, but not running and without its ports.
    pub(super) fn is_restarting(&self) -> bool {
        self.state.as_deref() == Some("restarting")
    }
}

impl PublishedPort {
    /// The port on the host; `None` when it is not published.
    pub(super) fn public(&self) -> Option<u16> {
        self.public.filter(|port| *port != 0)
    }

    /// The port inside the container.
    pub(super) fn private(&self) -> u16 {
        self.private.unwrap_or_default()
    }

    /// `tcp`, `udp`, or another protocol's word.
    pub(super) fn kind(&self) -> &str {
        self.kind.as_deref().unwrap_or_default()
    }

    /// The address it is bound to on the host, as listed.
    pub(super) fn ip(&self) -> &str {
        self.ip.as_deref().unwrap_or_default()
    }
}

/// The first 12 characters, by which people and records name a container.
pub(super) fn short_id(id: &str) -> &str {
    id.char_indices().nth(12).map_or(id, |(end, _)| &id[..end])
}

/// A listing, with what could not be read set aside.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) containers: Vec<Container>,
    pub(super) unreadable: Vec<Unreadable>,
}

/// A container whose description has another shape than expected.
#[derive(Debug)]
pub(super) struct Unreadable {
    /// Its full ID, when at least that could be read.
    pub(super) id: Option<String>,
    pub(super) reason: String,
}

/// Reads a listing.
///
/// # Errors
/// When it is no JSON array at all.
pub(super) fn listing(bytes: &[u8]) -> Result<Listing, serde_json::Error> {
    let mut listing = Listing::default();
    // An engine that marshals an empty list as null means an empty list.
    for value in serde_json::from_slice::<Option<Vec<Value>>>(bytes)?.unwrap_or_default() {
        match Container::deserialize(&value) {
            Ok(container) if container.id.is_empty() => {
                listing.unreadable.push(Unreadable {
                    id: None,
                    reason: "its Id is empty".into(),
                });
            }
            Ok(container) => listing.containers.push(container),
            Err(error) => {
                let id = value
                    .get("Id")
                    .and_then(Value::as_str)
                    .filter(|id| !id.is_empty());
                let id = id.map(str::to_owned);
                listing.unreadable.push(Unreadable {
                    id,
                    reason: error.to_string(),
                });
            }
        }
    }
    Ok(listing)
}

/// What an event means for this source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EngineEvent {
    /// A container runs now, with new ports perhaps. Holds its full ID.
    Started(String),
    /// A container runs no more. Holds its full ID.
    Ended(String),
    /// Nothing that changes what runs.
    Other,
    /// It could not be read; it may have been anything.
    Unreadable(String),
}

#[derive(Deserialize)]
struct RawEvent {
    #[serde(rename = "Type")]
    kind: Option<String>,
    #[serde(rename = "Action")]
    action: Option<String>,
    #[serde(rename = "Actor")]
    actor: Option<RawActor>,
    /// What engines before API 1.22 say for `Action`.
    status: Option<String>,
    /// What engines before API 1.22 say for `Actor.ID`.
    id: Option<String>,
}

#[derive(Deserialize)]
struct RawActor {
    #[serde(rename = "ID")]
    id: Option<String>,
}

/// Reads one line of the event stream.
pub(super) fn event(line: &[u8]) -> EngineEvent {
    if line.iter().all(u8::is_ascii_whitespace) {
        return EngineEvent::Other;
    }
    let event: RawEvent = match serde_json::from_slice(line) {
        Ok(event) => event,
        Err(error) => return EngineEvent::Unreadable(error.to_string()),
    };
    if event.kind.is_some_and(|kind| kind != "container") {
        return EngineEvent::Other;
    }
    let meaning: fn(String) -> EngineEvent = match event.action.or(event.status).as_deref() {
        Some("start") => EngineEvent::Started,
        // Podman has words of its own for the end of a container.
        Some("die" | "died" | "stop" | "destroy" | "remove") => EngineEvent::Ended,
        _ => return EngineEvent::Other,
    };
    match event.actor.and_then(|actor| actor.id).or(event.id) {
        Some(id) if !id.is_empty() => meaning(id),
        _ => EngineEvent::Unreadable("it names no container".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_container_that_cannot_be_read_hides_no_other() {
        let found = listing(
            br#"[{"Id":"aa","Image":"a:1","State":"meditating"},
                 {"Id":"bb","Created":"yesterday"},
                 {"Id":"cc","Ports":null,"Labels":null,"Names":null,"New":{"x":[1]}},
                 7, {"Id":""}, {"Id":"dd","Ports":[{"PrivatePort":70000}]}]"#,
        )
        .unwrap();
        let ids: Vec<_> = found.containers.iter().map(|it| it.id.as_str()).collect();
        assert_eq!(ids, ["aa", "cc"]);
        let unreadable: Vec<_> = found.unreadable.iter().map(|it| it.id.as_deref()).collect();
        assert_eq!(unreadable, [Some("bb"), None, None, Some("dd")]);
        assert!(found.unreadable[0].reason.contains("yesterday"));
    }

    #[test]
    fn an_error_object_is_no_listing_and_null_is_an_empty_one() {
        assert!(listing(br#"{"message":"no"}"#).is_err());
        assert!(listing(b"null").unwrap().containers.is_empty());
    }

    #[test]
    fn events_of_old_and_new_engines_and_of_podman() {
        let (started, ended) = (
            EngineEvent::Started("ab".into()),
            EngineEvent::Ended("ab".into()),
        );
        for (line, expected) in [
            (
                r#"{"Type":"container","Action":"start","Actor":{"ID":"ab"}}"#,
                started.clone(),
            ),
            (
                r#"{"status":"start","id":"ab","from":"x","time":1}"#,
                started,
            ),
            (
                r#"{"Type":"container","Action":"die","Actor":{"ID":"ab"}}"#,
                ended.clone(),
            ),
            (
                r#"{"Type":"container","Action":"died","status":"died","id":"ab"}"#,
                ended.clone(),
            ),
            (
                r#"{"Type":"container","Action":"destroy","id":"ab"}"#,
                ended,
            ),
            (
                r#"{"Type":"container","Action":"pause","id":"ab"}"#,
                EngineEvent::Other,
            ),
            (
                r#"{"Type":"container","Action":"exec_die","id":"ab"}"#,
                EngineEvent::Other,
            ),
            (
                r#"{"Type":"network","Action":"destroy","Actor":{"ID":"ab"}}"#,
                EngineEvent::Other,
            ),
            ("\r", EngineEvent::Other),
            ("{}", EngineEvent::Other),
        ] {
            assert_eq!(event(line.as_bytes()), expected, "{line}");
        }
        for line in ["{", "[1", r#"{"Action":"die"}"#, r#"{"Action":7}"#, "\u{0}"] {
            assert!(
                matches!(event(line.as_bytes()), EngineEvent::Unreadable(_)),
                "{line}"
            );
        }
    }

    #[test]
    fn a_short_id_never_cuts_a_character() {
        assert_eq!(short_id("0123456789abcdef"), "0123456789ab");
        assert_eq!(short_id("01"), "01");
        assert_eq!(short_id("ééééééééééééé"), "éééééééééééé");
    }
}
