//! What may differ between two runs of one cluster, taken out of its answers: times, identities,
//! and the orders that follow from them. What remains is compared as text, so that the order of
//! keys counts.

use blackbox::Json;
use serde_json::Value;

/// Keys whose values are times.
const TIMES: [&str; 4] = ["Created", "Updated", "LastUpdated", "LastChanged"];

/// `services.json`: the instances of each service come in the order of their stamps.
pub(crate) fn by_service(json: &Json) -> String {
    for (name, instances) in json
        .member("Services")
        .map(Json::members)
        .unwrap_or_default()
    {
        assert_ordered_by_stamp(name, instances);
    }
    masked_text(json)
}

/// `state.json`: objects are ordered by key, the services of a server by identity.
pub(crate) fn state(json: &Json) -> String {
    let servers = json
        .member("Servers")
        .map(Json::members)
        .unwrap_or_default();
    assert_ordered_by_key(servers);
    for (_, server) in servers {
        let services = server
            .member("Services")
            .map(Json::members)
            .unwrap_or_default();
        assert_ordered_by_key(services);
        for (id, record) in services {
            assert_eq!(record.member("ID").map(Json::text), Some(id.as_str()));
        }
    }
    masked_text(json)
}

/// The document with times and identities masked and instances in the order of their hosts.
pub(crate) fn masked_text(json: &Json) -> String {
    masked(json).to_string()
}

/// The text page: every line without its times and identity; hosts of the cluster sorted.
pub(crate) fn servers_page(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(masked_line).collect();
    if let Some(hosts) = lines
        .iter()
        .position(|line| line.starts_with("Cluster Hosts"))
    {
        let end = lines.len() - 1;
        lines[hosts + 1..end].sort();
    }
    lines
}

fn masked_line(line: &str) -> String {
    const INDENT: usize = 6;
    const ID: usize = 12;
    /// Fifteen columns of age, a blank, nine of status.
    const TAIL: usize = 25;
    if let Some((server, age)) = line.split_once(": (") {
        assert!(age.ends_with(" ago)"), "the age of a server: {line:?}");
        return format!("{server}: (AGE)");
    }
    let service = line.starts_with("      ") && line.len() > INDENT + ID + TAIL;
    if !service {
        return line.to_owned();
    }
    let (body, tail) = line.split_at(line.len() - TAIL);
    let (age, status) = tail.split_at(15);
    assert!(
        age.trim_end().ends_with(" ago"),
        "the age of a service: {line:?}"
    );
    let id = &body[INDENT..INDENT + ID];
    assert!(
        id.chars().all(|c| c.is_ascii_hexdigit()),
        "an identity: {line:?}"
    );
    format!("      ID{}AGE{status}", &body[INDENT + ID..])
}

fn masked(json: &Json) -> Json {
    match json {
        Json::Scalar(_) => json.clone(),
        Json::Array(elements) => {
            let mut elements: Vec<_> = elements.iter().map(masked).collect();
            // Ports have no host: their order stays.
            elements
                .sort_by_key(|record| record.member("Hostname").map(|host| host.text().to_owned()));
            Json::Array(elements)
        }
        Json::Object(members) => {
            let mut members: Vec<_> = members
                .iter()
                .map(|(key, value)| match identity(value) {
                    Some(id) if id == *key => (label(value), masked_member(key, value)),
                    _ => (key.clone(), masked_member(key, value)),
                })
                .collect();
            let keyed_by_identity = members.iter().any(|(key, _)| key.starts_with("ID of "));
            if keyed_by_identity {
                members.sort_by(|(a, _), (b, _)| a.cmp(b));
            }
            Json::Object(members)
        }
    }
}

fn masked_member(key: &str, value: &Json) -> Json {
    if TIMES.contains(&key) {
        assert!(is_time(value.text()), "{key} is no time: {value}");
        return text("TIME");
    }
    if key == "ID" {
        let id = value.text();
        assert!(
            id.len() == 12
                && id
                    .chars()
                    .all(|c| c.is_ascii_hexdigit() && !c.is_uppercase()),
            "no identity: {value}"
        );
        return text("ID");
    }
    masked(value)
}

fn text(text: &str) -> Json {
    Json::Scalar(Value::from(text))
}

fn identity(record: &Json) -> Option<&str> {
    record.member("ID").map(Json::text)
}

fn label(record: &Json) -> String {
    format!(
        "ID of {}",
        record.member("Name").map(Json::text).unwrap_or_default()
    )
}

/// RFC 3339 in UTC with at most nine digits of a second and no trailing zero.
fn is_time(text: &str) -> bool {
    let Some((seconds, fraction)) = text
        .strip_suffix('Z')
        .map(|t| t.split_once('.').unwrap_or((t, "1")))
    else {
        return false;
    };
    let shape: String = seconds
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    shape == "0000-00-00T00:00:00"
        && (1..=9).contains(&fraction.len())
        && fraction.chars().all(|c| c.is_ascii_digit())
        && !fraction.ends_with('0')
}

fn assert_ordered_by_key(members: &[(String, Json)]) {
    assert!(
        members.is_sorted_by(|(a, _), (b, _)| a < b),
        "keys are not in order: {members:?}"
    );
}

fn assert_ordered_by_stamp(name: &str, instances: &Json) {
    let stamps: Vec<_> = instances
        .elements()
        .iter()
        .map(|i| comparable(i.member("Updated").map(Json::text).unwrap_or_default()))
        .collect();
    assert!(
        stamps.is_sorted(),
        "instances of {name} are not in the order of their stamps: {stamps:?}"
    );
}

/// A stamp with all nine digits, so that its text sorts as its time does.
fn comparable(stamp: &str) -> String {
    let stamp = stamp.trim_end_matches('Z');
    let (seconds, fraction) = stamp.split_once('.').unwrap_or((stamp, ""));
    format!("{seconds}.{fraction:0<9}")
}

#[test]
fn the_recordings_themselves_are_masked_and_in_order() {
    let services = by_service(&Json::parse(&super::recording("api-services.json")));
    assert!(services.contains("\"Updated\": \"TIME\""), "{services}");
    assert!(services.contains("\"ID\": \"ID\""), "{services}");
    let state = state(&Json::parse(&super::recording("api-state.json")));
    assert!(state.contains("\"ID of third-party\": {"), "{state}");
    let page = servers_page(&super::recording("servers.txt"));
    assert!(
        page.iter()
            .any(|line| line.starts_with("      ID frontend ")),
        "{page:?}"
    );
    assert_ne!(
        masked_text(&Json::parse(r#"{"Port":1,"Type":"tcp"}"#)),
        masked_text(&Json::parse(r#"{"Type":"tcp","Port":1}"#)),
        "the order of keys counts"
    );
}
