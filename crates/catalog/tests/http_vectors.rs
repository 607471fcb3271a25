//! The JSON edge against recordings of a Go Sidecar cluster: what it wrote is decoded, merged into a
//! state and written again, and must come out byte for byte.
//!
//! What the recording node stamped on its own account (`LastChanged`, `LastUpdated`) is taken from
//! the recording; everything else is ours. `vectors/http/README.md` says how they were made.
// The helpers of a test are part of it, though no attribute says so to the linter.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use catalog::{Author, Change, Now, Service, Snapshot, State, Status, Timestamp, Upkeep, json};
use serde_json::Value;

fn vector(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors")
        .join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn parsed(path: &str) -> Value {
    serde_json::from_str(&vector(path)).unwrap()
}

fn time(value: &Value) -> Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

/// A state that took `records` in at the time of the newest, with web-01 to web-03 as members.
fn merged(records: impl IntoIterator<Item = Service>) -> Snapshot {
    let records: Vec<Service> = records.into_iter().collect();
    let wall = records.iter().map(|record| record.updated).max().unwrap();
    let now = Now {
        wall,
        monotonic: Instant::now(),
    };
    let mut state = State::new("web-01", "lab");
    for member in ["web-01", "web-02", "web-03"] {
        state.member_up(member, Upkeep::Refresh, now);
    }
    for record in records {
        state.apply(record, Author::Peer, now).unwrap();
    }
    state.snapshot().clone()
}

fn records_of_state(document: &str) -> Vec<Service> {
    json::decode_state(document.as_bytes())
        .unwrap()
        .into_iter()
        .map(Result::unwrap)
        .collect()
}

/// Records of a document of services by name.
fn records_by_name(document: &Value) -> Vec<Service> {
    let lists = document.as_object().unwrap().values();
    let records = lists.flat_map(|list| list.as_array().unwrap());
    records
        .map(|record| json::decode_service(record.to_string().as_bytes()).unwrap())
        .collect()
}

/// Gives a snapshot the stamps that the recording node set by its own clock.
fn stamped(mut snapshot: Snapshot, document: &Value) -> Snapshot {
    snapshot.last_changed = time(&document["LastChanged"]);
    for (name, server) in document["Servers"].as_object().unwrap() {
        let host = snapshot
            .hosts
            .get_mut(name.as_str())
            .unwrap_or_else(|| panic!("host {name} is missing"));
        let host = Arc::make_mut(host);
        host.last_changed = time(&server["LastChanged"]);
        host.last_updated = time(&server["LastUpdated"]);
    }
    snapshot
}

#[test]
fn state_documents_come_out_as_recorded() {
    for file in [
        "api-state.json",
        "legacy-state.json",
        "after-kill-state.json",
        "api-watch-by_service-false.1.json",
        "api-watch-by_service-false.2.json",
    ] {
        let text = vector(&format!("http/{file}"));
        let snapshot = stamped(
            merged(records_of_state(&text)),
            &serde_json::from_str(&text).unwrap(),
        );
        assert_eq!(json::encode_state(&snapshot), text, "{file}");
        assert_eq!(
            json::encode_replica(&snapshot),
            text,
            "{file}: nothing in it is derived"
        );
    }
}

#[test]
fn last_updated_is_the_newest_record_of_the_host() {
    let text = vector("http/api-state.json");
    let snapshot = merged(records_of_state(&text));
    let document: Value = serde_json::from_str(&text).unwrap();
    for (name, server) in document["Servers"].as_object().unwrap() {
        let host = snapshot.hosts.get(name.as_str()).unwrap();
        assert_eq!(host.last_updated, time(&server["LastUpdated"]), "{name}");
    }
}

#[test]
fn watch_documents_come_out_as_recorded() {
    for file in [
        "api-watch.1.json",
        "api-watch.2.json",
        "legacy-watch.1.json",
        "legacy-watch.2.json",
    ] {
        let text = vector(&format!("http/{file}"));
        let snapshot = merged(records_by_name(&serde_json::from_str(&text).unwrap()));
        assert_eq!(json::encode_by_name(&snapshot), text, "{file}");
    }
}

#[test]
fn services_documents_come_out_as_recorded() {
    for file in ["api-services.json", "legacy-services.json"] {
        let text = vector(&format!("http/{file}"));
        let document: Value = serde_json::from_str(&text).unwrap();
        let snapshot = merged(records_by_name(&document["Services"]));
        assert_eq!(json::encode_services(&snapshot), text, "{file}");
    }
}

#[test]
fn services_after_a_host_died_come_out_as_recorded() {
    let text = vector("http/after-kill-services.json");
    let document: Value = serde_json::from_str(&text).unwrap();
    let mut snapshot = merged(records_by_name(&document["Services"]));
    let members = document["ClusterMembers"]
        .as_object()
        .unwrap()
        .keys()
        .map(|name| (Arc::from(name.as_str()), Upkeep::Refresh))
        .collect();
    snapshot.members = members;
    assert_eq!(snapshot.members.size(), 2);
    assert_eq!(json::encode_services(&snapshot), text);
}

#[test]
fn a_dead_host_reads_as_the_original_writes_it() {
    // Go Sidecar rewrites the records of a dead host; here the same document must follow from the
    // records as they were and the news of its death alone.
    let recorded = vector("http/after-kill-state.json");
    let mut records = records_of_state(&recorded);
    for record in &mut records {
        if record.hostname == "web-03" {
            record.status = Status::Alive;
        }
    }
    let wall = records.iter().map(|record| record.updated).max().unwrap();
    let now = Now {
        wall,
        monotonic: Instant::now(),
    };
    let mut state = State::new("web-01", "lab");
    for record in records {
        state.apply(record, Author::Peer, now).unwrap();
    }
    assert_eq!(state.member_down("web-03", now).len(), 2);
    let document = serde_json::from_str(&recorded).unwrap();
    let snapshot = stamped(state.snapshot().clone(), &document);
    assert_eq!(json::encode_state(&snapshot), recorded);
}

#[test]
fn one_service_comes_out_as_recorded() {
    for (file, name) in [
        ("api-services-frontend.json", "frontend"),
        ("api-services-sick.json", "sick"),
        ("after-drain-frontend.json", "frontend"),
    ] {
        let text = vector(&format!("http/{file}"));
        let mut document: Value = serde_json::from_str(&text).unwrap();
        let snapshot = merged(records_by_name(&document["Services"]));
        let ours = json::encode_service_list(&snapshot, name).unwrap();
        // The original lists instances in arbitrary order: bring the recorded ones into ours, then
        // write them with the same indentation.
        let recorded = document["Services"][name].as_array_mut().unwrap();
        let by_id: BTreeMap<String, usize> = recorded
            .iter()
            .enumerate()
            .map(|(place, record)| (record["ID"].as_str().unwrap().to_owned(), place))
            .collect();
        let blocks: Vec<&str> = text
            .split("      {\n        \"ID\"")
            .skip(1)
            .map(|block| block.split("\n      }").next().unwrap())
            .collect();
        let order = snapshot.services().map(|service| by_id[&service.id]);
        let list: Vec<String> = order
            .map(|place| format!("      {{\n        \"ID\"{}\n      }}", blocks[place]))
            .collect();
        let (head, _) = text.split_once("      {\n        \"ID\"").unwrap();
        let (_, tail) = text.rsplit_once("      }\n    ]").unwrap();
        assert_eq!(
            ours,
            format!("{head}{}\n    ]{tail}", list.join(",\n")),
            "{file}"
        );
    }
    let nobody = merged(records_of_state(&vector("http/api-state.json")));
    assert_eq!(json::encode_service_list(&nobody, "nope"), None);
}

#[test]
fn what_a_listener_is_sent_comes_out_as_recorded() {
    let text = vector("http/listener-post.json");
    let document: Value = serde_json::from_str(&text).unwrap();
    let event = &document["ChangeEvent"];
    let change = Change {
        service: Arc::new(json::decode_service(event["Service"].to_string().as_bytes()).unwrap()),
        previous: Status::from_wire(event["PreviousStatus"].as_i64().unwrap()),
        time: time(&event["Time"]),
        derived: false,
    };
    let records = records_of_state(&document["State"].to_string());
    let snapshot = stamped(merged(records), &document["State"]);
    assert_eq!(json::encode_change_event(&snapshot, &change), text);
}

/// Collects the plain text of every user message in a file of captured packets.
fn user_messages(value: &Value, found: &mut Vec<Vec<u8>>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(hex)) = map.get("plaintext_hex") {
                let bytes: Vec<u8> = (0..hex.len())
                    .step_by(2)
                    .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                    .collect();
                // Type 8 is memberlist's user message; what follows is the record.
                let (kind, record) = bytes.split_first().unwrap();
                assert_eq!(*kind, 8);
                found.push(record.to_vec());
            }
            map.values().for_each(|inner| user_messages(inner, found));
        }
        Value::Array(list) => list.iter().for_each(|inner| user_messages(inner, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn gossiped_records_come_out_as_captured() {
    for (file, status, count) in [
        ("user.json", None, 6),
        ("user_tombstone.json", Some(Status::Tombstone), 3),
        ("user_unhealthy.json", Some(Status::Unhealthy), 3),
    ] {
        let mut messages = Vec::new();
        user_messages(&parsed(&format!("sidecar/{file}")), &mut messages);
        assert_eq!(messages.len(), count, "{file}");
        for message in messages {
            let record = json::decode_service(&message).unwrap();
            assert!(
                status.is_none_or(|status| record.status == status),
                "{file}"
            );
            assert_eq!(json::encode_service(&record).as_bytes(), message, "{file}");
        }
    }
}

#[test]
fn reading_is_as_tolerant_as_go() {
    let odd = br#"{"iD":"a","NAME":"web","Hostname":"h","Updated":"2026-02-03T10:15:27.5+01:00",
        "Created":null,"Ports":[{"type":"TCP","Port":1}],"Status":9,"Extra":{"deep":[1,2.5]}}"#;
    let record = json::decode_service(odd).unwrap();
    assert_eq!((record.id.as_str(), record.name.as_str()), ("a", "web"));
    assert_eq!(record.updated.to_string(), "2026-02-03T09:15:27.5Z");
    assert_eq!(record.created, Timestamp::go_zero());
    assert_eq!(record.status, Status::Tombstone);
    assert_eq!(
        (
            record.port_list()[0].port,
            record.port_list()[0].service_port
        ),
        (1, 0)
    );
    for (bad, named) in [
        (&br#"{"ID":"a","Hostname":"h","Status":"0"}"#[..], "Status"),
        (br#"{"ID":"a","Hostname":"h","Status":0.5}"#, "Status"),
        (br#"{"ID":"a","Hostname":"h","Updated":"noon"}"#, "Updated"),
        (
            br#"{"ID":"a","Hostname":"h","Ports":[{"Port":65536}]}"#,
            "Port",
        ),
        (br#"{"ID":"a"}"#, "Hostname"),
        (br#"["ID"]"#, "Service"),
    ] {
        let error = json::decode_service(bad).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn bytes_that_are_no_utf8_read_as_the_replacement_character() {
    let record =
        json::decode_service(b"{\"ID\":\"a\",\"Name\":\"w\xff\",\"Hostname\":\"h\"}").unwrap();
    assert_eq!(record.name, "w\u{fffd}");
    let state =
        b"{\"Servers\":{\"h\":{\"Services\":{\"a\":{\"ID\":\"a\xfe\",\"Hostname\":\"h\"}}}}}";
    let records = json::decode_state(state).unwrap();
    assert_eq!(records[0].as_ref().unwrap().id, "a\u{fffd}");
}

#[test]
fn a_bad_record_does_not_hide_the_others() {
    let text = br#"{"Servers":{"h":{"Services":{"a":{"ID":"a","Hostname":"h"},"b":{"ID":7}}},
        "g":{"Services":null},"f":null}}"#;
    let records = json::decode_state(text).unwrap();
    assert_eq!(records.len(), 2);
    assert_eq!(records.iter().filter(|record| record.is_ok()).count(), 1);
    assert!(json::decode_state(b"{}").unwrap().is_empty());
    assert!(json::decode_state(b"{\"Servers\":[]}").is_err());
}

#[test]
fn texts_are_escaped_as_go_escapes_them() {
    let mut out = String::new();
    json::write_text(&mut out, "<a href=\"x\">&\u{2028}\u{1}\u{7f}\t\\é</a>");
    assert_eq!(
        out,
        "\"\\u003ca href=\\\"x\\\"\\u003e\\u0026\\u2028\\u0001\u{7f}\\t\\\\é\\u003c/a\\u003e\""
    );
}

#[test]
fn nothing_at_all_is_still_a_document() {
    let empty = Snapshot::empty("web-01", "lab");
    assert_eq!(json::encode_by_name(&empty), "{}");
    assert_eq!(
        json::encode_services(&empty),
        "{\n  \"Services\": {},\n  \"ClusterName\": \"lab\"\n}"
    );
    assert_eq!(
        json::encode_state(&empty),
        "{\"Servers\":{},\"LastChanged\":\"1970-01-01T00:00:00Z\",\"ClusterName\":\"lab\",\
         \"Hostname\":\"web-01\"}"
    );
    let mut alone = empty;
    alone
        .members
        .insert_mut("web-01".into(), Upkeep::Membership);
    assert!(
        json::encode_services(&alone)
            .contains("\"LastUpdated\": \"1970-01-01T00:00:00Z\",\n      \"ServiceCount\": 0\n")
    );
}

#[test]
fn a_record_past_its_life_is_left_out_of_the_replica() {
    let records = records_of_state(&vector("http/api-state.json"));
    let wall = records.iter().map(|record| record.updated).max().unwrap();
    let start = Instant::now();
    let mut state = State::new("web-01", "lab");
    for record in records {
        state
            .apply(
                record,
                Author::Peer,
                Now {
                    wall,
                    monotonic: start,
                },
            )
            .unwrap();
    }
    let later = Duration::from_secs(80);
    state.expire(Now {
        wall: wall.plus(later),
        monotonic: start + later,
    });
    assert!(json::encode_state(state.snapshot()).contains("\"Status\":1"));
    assert!(json::encode_replica(state.snapshot()).starts_with("{\"Servers\":{},"));
}
