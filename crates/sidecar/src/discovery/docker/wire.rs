//! The engine's JSON, as far as it is used: containers, one by one and listed, and events.
//!
//! Not the engine's schema: only the fields read here are named, each may be absent or `null`, words
//! are kept as text, and one container that cannot be read does not hide the others. Shapes are
//! those of the Docker Engine API 1.24 to 1.51 and of Podman's compatible API.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::stop;
use crate::discovery::EngineHealth;

/// Most of what the engine's check said that is kept.
const HEALTH_OUTPUT_CHARS_MAX: usize = 512;

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
    /// For people: `Up 3 minutes (healthy)`.
    status: Option<String>,
    network_settings: Option<NetworkSettings>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    networks: Option<BTreeMap<String, Option<Attachment>>>,
}

/// A container's place in a network.
#[derive(Debug, Clone, Deserialize)]
struct Attachment {
    #[serde(rename = "IPAddress")]
    ipv4: Option<String>,
    #[serde(rename = "GlobalIPv6Address")]
    ipv6: Option<String>,
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

    /// Its name with the leading slash, as patterns of names are written for; empty without one.
    pub(super) fn full_name(&self) -> &str {
        let mut names = self.names.iter().flatten();
        names.next().map_or("", String::as_str)
    }

    /// Whether it waits between two lives: listed, but not running and without its ports.
    pub(super) fn is_restarting(&self) -> bool {
        self.state.as_deref() == Some("restarting")
    }

    /// Whether it is frozen: it has its ports and answers nobody.
    pub(super) fn is_paused(&self) -> bool {
        self.state.as_deref() == Some("paused")
    }

    /// Whether it runs; an engine that does not say lists none that do not.
    pub(super) fn is_running(&self) -> bool {
        self.state.as_deref().is_none_or(|state| state == "running")
    }

    /// `Exited (1) 3 minutes ago`, or at least `exited`.
    pub(super) fn state_for_people(&self) -> &str {
        let words = self.status.as_deref().filter(|it| !it.is_empty());
        words.or(self.state.as_deref()).unwrap_or("unknown")
    }

    /// The same container without its state: an event has said that it is over.
    pub(super) fn resumed(&self) -> Self {
        Self {
            state: None,
            ..self.clone()
        }
    }

    /// What the engine's own check says: `None` without one, and nothing inside while it starts.
    /// Podman's listings do not say it of any container.
    pub(super) fn health(&self) -> Option<Option<bool>> {
        let (_, note) = self.status.as_deref()?.rsplit_once('(')?;
        match note {
            "healthy)" => Some(Some(true)),
            "unhealthy)" => Some(Some(false)),
            "health: starting)" | "starting)" => Some(None),
            _ => None,
        }
    }

    /// The networks it is in, by name; `None` for those in which it has no address of its own.
    pub(super) fn networks(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let networks = self.network_settings.iter();
        let networks = networks.flat_map(|it| it.networks.iter().flatten());
        networks.map(|(name, attachment)| {
            let addresses = attachment.iter().flat_map(|it| [&it.ipv4, &it.ipv6]);
            let mut addresses = addresses.flatten().map(String::as_str);
            (name.as_str(), addresses.find(|it| !it.is_empty()))
        })
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

/// An event of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EngineEvent {
    /// What it means for this source.
    pub(super) meaning: Meaning,
    /// When it happened by the engine's clock, in nanoseconds since the epoch.
    pub(super) at: Option<i64>,
}

/// What an event means for this source. Texts without a name are full IDs of containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A container runs now, with new ports perhaps.
    Started(String),
    /// A container runs no more.
    Ended(String),
    /// A container was sent a signal, which may end it.
    Signalled {
        /// Its full ID.
        id: String,
        /// The signal, when it is said.
        signal: Option<u8>,
    },
    /// A container is frozen.
    Paused(String),
    /// It is frozen no more.
    Resumed(String),
    /// It has another name.
    Renamed(String),
    /// The engine's check of it came to another result.
    Health(String),
    /// It was taken into a network or out of one.
    Network(String),
    /// A process of it was killed for want of memory, not the first one necessarily.
    OutOfMemory(String),
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
    #[serde(rename = "timeNano")]
    at: Option<i64>,
    /// What engines before API 1.22 say for `Action`.
    status: Option<String>,
    /// What engines before API 1.22 say for `Actor.ID`.
    id: Option<String>,
}

#[derive(Deserialize)]
struct RawActor {
    #[serde(rename = "ID")]
    id: Option<String>,
    #[serde(rename = "Attributes")]
    attributes: Option<BTreeMap<String, Value>>,
}

impl RawActor {
    fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.as_ref()?.get(name)?.as_str()
    }
}

/// Reads one line of the event stream.
pub(super) fn event(line: &[u8]) -> EngineEvent {
    if line.iter().all(u8::is_ascii_whitespace) {
        let meaning = Meaning::Other;
        return EngineEvent { meaning, at: None };
    }
    match serde_json::from_slice::<RawEvent>(line) {
        Ok(event) => EngineEvent {
            at: event.at,
            meaning: meaning(event),
        },
        Err(error) => EngineEvent {
            meaning: Meaning::Unreadable(error.to_string()),
            at: None,
        },
    }
}

fn meaning(event: RawEvent) -> Meaning {
    let action = event.action.or(event.status).unwrap_or_default();
    let actor = event.actor.as_ref();
    let of: fn(String) -> Meaning = match (event.kind.as_deref(), action.as_str()) {
        (Some("network"), "connect" | "disconnect") => {
            let container = actor.and_then(|it| it.attribute("container"));
            return container.map_or(Meaning::Other, |id| Meaning::Network(id.to_owned()));
        }
        (Some(kind), _) if kind != "container" => return Meaning::Other,
        (_, "start") => Meaning::Started,
        // Podman has words of its own for the end of a container.
        (_, "die" | "died" | "stop" | "destroy" | "remove") => Meaning::Ended,
        (_, "pause") => Meaning::Paused,
        (_, "unpause") => Meaning::Resumed,
        (_, "rename") => Meaning::Renamed,
        (_, "oom") => Meaning::OutOfMemory,
        (_, "kill") => {
            let signal = actor.and_then(|it| stop::signal(it.attribute("signal")?));
            return match actor.and_then(|it| it.id.clone()).or(event.id) {
                Some(id) if !id.is_empty() => Meaning::Signalled { id, signal },
                _ => Meaning::Unreadable("it names no container".into()),
            };
        }
        (_, action) if action.starts_with("health_status") => Meaning::Health,
        _ => return Meaning::Other,
    };
    match event.actor.and_then(|actor| actor.id).or(event.id) {
        Some(id) if !id.is_empty() => of(id),
        _ => Meaning::Unreadable("it names no container".into()),
    }
}

/// What `GET /containers/ID/json` says beyond the listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Inspected {
    /// Since when it runs by the engine's clock, in nanoseconds since the epoch; `None` when it
    /// does not run.
    pub(super) running_since: Option<i64>,
    /// The signal by which the engine asks it to end, when it is not the usual one.
    pub(super) stop_signal: Option<u8>,
    /// The time it has for that, in seconds, when it is not the usual one; negative without limit.
    pub(super) stop_timeout: Option<i64>,
    /// What the engine's check of it says, if it has one.
    pub(super) health: Option<EngineHealth>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawInspected {
    state: Option<RawState>,
    config: Option<RawConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawState {
    running: Option<bool>,
    started_at: Option<String>,
    health: Option<RawHealth>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawHealth {
    status: Option<String>,
    log: Option<Vec<RawHealthResult>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawHealthResult {
    output: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawConfig {
    /// A number or a name.
    stop_signal: Option<Value>,
    stop_timeout: Option<i64>,
}

/// Reads the description of one container.
///
/// # Errors
/// When it has another shape.
pub(super) fn inspected(bytes: &[u8]) -> Result<Inspected, serde_json::Error> {
    let raw: RawInspected = serde_json::from_slice(bytes)?;
    let state = raw.state.as_ref();
    let is_running = state.is_some_and(|it| it.running == Some(true));
    let started = state.and_then(|it| it.started_at.as_deref());
    let started = started.and_then(|it| it.parse::<jiff::Timestamp>().ok());
    let started = started.and_then(|it| i64::try_from(it.as_nanosecond()).ok());
    let stop_signal = raw.config.as_ref().and_then(|it| it.stop_signal.as_ref());
    Ok(Inspected {
        running_since: started.filter(|_| is_running),
        stop_signal: stop_signal.and_then(|it| match it {
            Value::String(text) => stop::signal(text),
            other => stop::signal(&other.to_string()),
        }),
        stop_timeout: raw.config.and_then(|it| it.stop_timeout),
        health: raw.state.and_then(|it| it.health?.read()),
    })
}

impl RawHealth {
    /// Podman describes the health of every container, with an empty status where nothing checks it.
    fn read(self) -> Option<EngineHealth> {
        let healthy = match self.status.as_deref() {
            Some("healthy") => Some(true),
            Some("unhealthy") => Some(false),
            Some("starting") => None,
            _ => return None,
        };
        let output = self.log.and_then(|mut it| it.pop()?.output);
        let output = output.unwrap_or_default();
        let output = output.trim().chars().take(HEALTH_OUTPUT_CHARS_MAX);
        Some(EngineHealth {
            healthy,
            output: output.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
        let id = || "ab".to_owned();
        for (line, expected) in [
            (
                r#"{"Type":"container","Action":"start","Actor":{"ID":"ab"}}"#,
                Meaning::Started(id()),
            ),
            (
                r#"{"status":"start","id":"ab","from":"x","time":1}"#,
                Meaning::Started(id()),
            ),
            (
                r#"{"Type":"container","Action":"die","Actor":{"ID":"ab"}}"#,
                Meaning::Ended(id()),
            ),
            (
                r#"{"Type":"container","Action":"died","status":"died","id":"ab"}"#,
                Meaning::Ended(id()),
            ),
            (
                r#"{"Type":"container","Action":"remove","Actor":{"ID":"ab"}}"#,
                Meaning::Ended(id()),
            ),
            (
                r#"{"Type":"container","Action":"health_status","Actor":{"ID":"ab"}}"#,
                Meaning::Health(id()),
            ),
            (
                r#"{"Type":"container","Action":"cleanup","Actor":{"ID":"ab"}}"#,
                Meaning::Other,
            ),
            (
                r#"{"Type":"container","Action":"init","Actor":{"ID":"ab"}}"#,
                Meaning::Other,
            ),
            (
                r#"{"Type":"container","Action":"destroy","id":"ab"}"#,
                Meaning::Ended(id()),
            ),
            (
                r#"{"Type":"container","Action":"pause","id":"ab"}"#,
                Meaning::Paused(id()),
            ),
            (
                r#"{"Type":"container","Action":"unpause","id":"ab"}"#,
                Meaning::Resumed(id()),
            ),
            (
                r#"{"Type":"container","Action":"rename","Actor":{"ID":"ab"}}"#,
                Meaning::Renamed(id()),
            ),
            (
                r#"{"Type":"container","Action":"oom","Actor":{"ID":"ab"}}"#,
                Meaning::OutOfMemory(id()),
            ),
            (
                r#"{"Type":"container","Action":"health_status: unhealthy","Actor":{"ID":"ab"}}"#,
                Meaning::Health(id()),
            ),
            (
                r#"{"Action":"kill","Actor":{"ID":"ab","Attributes":{"signal":"15"}}}"#,
                Meaning::Signalled {
                    id: id(),
                    signal: Some(15),
                },
            ),
            (
                r#"{"Action":"kill","id":"ab"}"#,
                Meaning::Signalled {
                    id: id(),
                    signal: None,
                },
            ),
            (
                r#"{"Type":"network","Action":"connect","Actor":{"ID":"n","Attributes":{"container":"ab"}}}"#,
                Meaning::Network(id()),
            ),
            (
                r#"{"Type":"container","Action":"exec_die","id":"ab"}"#,
                Meaning::Other,
            ),
            (
                r#"{"Type":"network","Action":"destroy","Actor":{"ID":"ab"}}"#,
                Meaning::Other,
            ),
            ("\r", Meaning::Other),
            ("{}", Meaning::Other),
        ] {
            assert_eq!(event(line.as_bytes()).meaning, expected, "{line}");
        }
        let stamped = event(br#"{"Action":"start","id":"ab","timeNano":7}"#);
        assert_eq!(stamped.at, Some(7));
        for line in [
            "{",
            "[1",
            r#"{"Action":"die"}"#,
            r#"{"Action":"kill"}"#,
            r#"{"Action":7}"#,
            "\u{0}",
        ] {
            assert!(
                matches!(event(line.as_bytes()).meaning, Meaning::Unreadable(_)),
                "{line}"
            );
        }
    }

    #[test]
    fn what_the_engines_check_says() {
        for (status, health) in [
            ("Up 3 seconds", None),
            ("Up 3 seconds (healthy)", Some(Some(true))),
            ("Up 2 hours (unhealthy)", Some(Some(false))),
            ("Up Less than a second (health: starting)", Some(None)),
            ("Up 2 minutes (Paused)", None),
            ("Exited (0) 3 seconds ago", None),
        ] {
            let text = serde_json::json!([{"Id": "aa", "Status": status}]).to_string();
            let found = listing(text.as_bytes()).unwrap();
            assert_eq!(found.containers[0].health(), health, "{status}");
        }
    }

    #[test]
    fn a_container_described_in_full_and_with_nothing() {
        let found = inspected(
            br#"{"State":{"Running":true,"StartedAt":"1970-01-01T00:00:01.000000005Z",
                 "Health":{"Status":"unhealthy","Log":[{"Output":"old"},{"Output":" refused\n"}]}},
                 "Config":{"StopSignal":"SIGQUIT","StopTimeout":30}}"#,
        );
        let full = Inspected {
            running_since: Some(1_000_000_005),
            stop_signal: Some(3),
            stop_timeout: Some(30),
            health: Some(EngineHealth {
                healthy: Some(false),
                output: "refused".into(),
            }),
        };
        assert_eq!(found.unwrap(), full);
        assert_eq!(inspected(b"{}").unwrap(), Inspected::default());
        let ended = br#"{"State":{"Running":false,"StartedAt":"1970-01-01T00:00:01Z"},"Config":{"StopSignal":9}}"#;
        let ended = inspected(ended).unwrap();
        assert_eq!((ended.running_since, ended.stop_signal), (None, Some(9)));
        assert!(inspected(b"[]").is_err());
    }

    #[test]
    fn health_as_containers_of_docker_and_podman_describe_it() {
        for (health, expected) in [
            (json!(null), None),
            (
                json!({"Status": "starting", "FailingStreak": 0, "Log": []}),
                Some((None, "")),
            ),
            (
                json!({"Status": "healthy", "Log": [{"ExitCode": 0, "Output": "fine\n"}]}),
                Some((Some(true), "fine")),
            ),
            (
                json!({"Status": "unhealthy", "Log": null}),
                Some((Some(false), "")),
            ),
            (json!({"Status": "none", "Log": []}), None),
            // Podman without a check.
            (json!({"Status": "", "FailingStreak": 0, "Log": null}), None),
        ] {
            let text = json!({"State": {"Running": true, "Health": health}}).to_string();
            let found = inspected(text.as_bytes()).unwrap().health;
            let found = found.as_ref().map(|it| (it.healthy, it.output.as_str()));
            assert_eq!(found, expected, "{text}");
        }
    }

    /// As Podman 4.3.1 lists a container with one port at a wildcard and one at an address.
    #[test]
    fn a_container_as_podman_lists_it() {
        let found = listing(
            br#"[{"Id":"fea6fea0885ceb35","Names":["/portx"],"Image":"localhost/lab/httpd:1.0",
                 "Created":1795449946,"Ports":[{"PrivatePort":81,"PublicPort":18081,"Type":"tcp"},
                 {"IP":"127.0.0.1","PrivatePort":80,"PublicPort":18080,"Type":"tcp"}],
                 "Labels":{"ServiceName":"portx"},"State":"running","Status":"Up 3 seconds",
                 "NetworkSettings":{"Networks":{"podman":{"IPAMConfig":null,"Links":null,
                 "Aliases":["fea6fea0885c"],"IPAddress":"10.88.0.2","GlobalIPv6Address":""}}},
                 "Mounts":[],"Name":"","Config":null,"NetworkingConfig":null,"Platform":null}]"#,
        );
        let found = found.unwrap();
        assert!(found.unreadable.is_empty(), "{found:?}");
        let container = &found.containers[0];
        let ports = container.ports().iter();
        let ports: Vec<_> = ports.map(|it| (it.ip(), it.public())).collect();
        assert_eq!(ports, [("", Some(18081)), ("127.0.0.1", Some(18080))]);
        assert_eq!(container.display_name(), "portx");
        assert_eq!(container.label("ServiceName"), Some("portx"));
        assert_eq!(container.health(), None);
        let networks: Vec<_> = container.networks().collect();
        assert_eq!(networks, [("podman", Some("10.88.0.2"))]);
    }

    #[test]
    fn a_short_id_never_cuts_a_character() {
        assert_eq!(short_id("0123456789abcdef"), "0123456789ab");
        assert_eq!(short_id("01"), "01");
        assert_eq!(short_id("ééééééééééééé"), "éééééééééééé");
    }
}
