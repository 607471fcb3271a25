//! Values to text.

use std::fmt::Write as _;

use crate::{Change, HostRecords, Port, Service, Snapshot};

/// Appends `text` as a JSON string, escaped as Go escapes it.
pub fn write_text(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                write_display(out, format_args!("\\u{:04x}", u32::from(character)));
            }
            _ => out.push(character),
        }
    }
    out.push('"');
}

fn write_display(out: &mut String, value: impl std::fmt::Display) {
    write!(out, "{value}").expect("invariant: writing to a String cannot fail");
}

/// Writes `key` and the colon behind it; `key` must need no escape.
fn key(out: &mut String, name: &str) {
    out.push('"');
    out.push_str(name);
    out.push_str("\":");
}

fn text_field(out: &mut String, name: &str, value: &str) {
    key(out, name);
    write_text(out, value);
    out.push(',');
}

fn display_field(out: &mut String, name: &str, value: impl std::fmt::Display) {
    key(out, name);
    write_display(out, value);
    out.push(',');
}

fn time_field(out: &mut String, name: &str, value: crate::Timestamp) {
    display_field(out, name, format_args!("\"{value}\""));
}

/// Replaces the comma behind the last field by `close`, or just appends `close`.
fn close(out: &mut String, close: char) {
    if out.ends_with(',') {
        out.pop();
    }
    out.push(close);
}

fn write_port(out: &mut String, port: &Port) {
    out.push('{');
    text_field(out, "Type", &port.kind);
    display_field(out, "Port", port.port);
    display_field(out, "ServicePort", port.service_port);
    text_field(out, "IP", &port.ip);
    close(out, '}');
}

fn write_service(out: &mut String, service: &Service) {
    out.push('{');
    text_field(out, "ID", &service.id);
    text_field(out, "Name", &service.name);
    text_field(out, "Image", &service.image);
    time_field(out, "Created", service.created);
    text_field(out, "Hostname", &service.hostname);
    key(out, "Ports");
    match &service.ports {
        None => out.push_str("null"),
        Some(ports) => {
            out.push('[');
            for port in ports {
                write_port(out, port);
                out.push(',');
            }
            close(out, ']');
        }
    }
    out.push(',');
    time_field(out, "Updated", service.updated);
    text_field(out, "ProxyMode", &service.proxy_mode);
    display_field(out, "Status", service.status.as_wire());
    if let Some(weight) = service.weight {
        display_field(out, "Weight", weight);
    }
    close(out, '}');
}

/// One record, compact: the payload of a gossip message.
pub fn encode_service(service: &Service) -> String {
    let mut out = String::with_capacity(320);
    write_service(&mut out, service);
    out
}

fn write_host(out: &mut String, host: &HostRecords, derived_too: bool) {
    out.push('{');
    text_field(out, "Name", &host.name);
    key(out, "Services");
    out.push('{');
    for (id, held) in &host.held {
        if derived_too || !held.is_derived() {
            write_text(out, id);
            out.push(':');
            write_service(out, held.shown());
            out.push(',');
        }
    }
    close(out, '}');
    out.push(',');
    time_field(out, "LastUpdated", host.last_updated);
    time_field(out, "LastChanged", host.last_changed);
    close(out, '}');
}

fn write_state(out: &mut String, snapshot: &Snapshot, derived_too: bool) {
    out.push('{');
    key(out, "Servers");
    out.push('{');
    for (name, host) in &snapshot.hosts {
        if derived_too || host.written().next().is_some() {
            write_text(out, name);
            out.push(':');
            write_host(out, host, derived_too);
            out.push(',');
        }
    }
    close(out, '}');
    out.push(',');
    time_field(out, "LastChanged", snapshot.last_changed);
    text_field(out, "ClusterName", &snapshot.cluster_name);
    text_field(out, "Hostname", &snapshot.hostname);
    close(out, '}');
}

/// The whole state as readers see it, compact: `/api/state.json`.
pub fn encode_state(snapshot: &Snapshot) -> String {
    let mut out = String::with_capacity(4096);
    write_state(&mut out, snapshot, true);
    out
}

/// The whole state as origins wrote it, compact: the application state of a push/pull. Tombstones
/// that this host merely derived are left out, so that nobody takes our conclusion for a record.
pub fn encode_replica(snapshot: &Snapshot) -> String {
    let mut out = String::with_capacity(4096);
    write_state(&mut out, snapshot, false);
    out
}

fn write_by_name(out: &mut String, snapshot: &Snapshot) {
    out.push('{');
    for (name, services) in snapshot.by_name() {
        write_text(out, name);
        out.push_str(":[");
        for service in services {
            write_service(out, service);
            out.push(',');
        }
        close(out, ']');
        out.push(',');
    }
    close(out, '}');
}

/// Services by name, bare and compact: one document of `/api/watch`.
pub fn encode_by_name(snapshot: &Snapshot) -> String {
    let mut out = String::with_capacity(4096);
    write_by_name(&mut out, snapshot);
    out
}

/// Services by name with the cluster's members, indented: `/api/services.json`.
pub fn encode_services(snapshot: &Snapshot) -> String {
    let mut out = String::with_capacity(4096);
    out.push('{');
    key(&mut out, "Services");
    write_by_name(&mut out, snapshot);
    out.push(',');
    if !snapshot.members.is_empty() {
        key(&mut out, "ClusterMembers");
        out.push('{');
        for name in snapshot.members.keys() {
            let host = snapshot.hosts.get(name);
            write_text(&mut out, name);
            out.push_str(":{");
            text_field(&mut out, "Name", name);
            let updated = host.map_or(crate::Timestamp::EPOCH, |host| host.last_updated);
            time_field(&mut out, "LastUpdated", updated);
            let count = host.map_or(0, |host| host.services().len());
            display_field(&mut out, "ServiceCount", count);
            close(&mut out, '}');
            out.push(',');
        }
        close(&mut out, '}');
        out.push(',');
    }
    text_field(&mut out, "ClusterName", &snapshot.cluster_name);
    close(&mut out, '}');
    indent(&out)
}

/// The instances of one service, indented: `/api/services/NAME.json`. `None` when there are none.
pub fn encode_service_list(snapshot: &Snapshot, name: &str) -> Option<String> {
    let mut out = String::with_capacity(1024);
    out.push('{');
    key(&mut out, "Services");
    out.push('{');
    write_text(&mut out, name);
    out.push_str(":[");
    let before = out.len();
    for service in snapshot.services().filter(|service| service.name == name) {
        write_service(&mut out, service);
        out.push(',');
    }
    if out.len() == before {
        return None;
    }
    close(&mut out, ']');
    out.push_str("},");
    text_field(&mut out, "ClusterName", &snapshot.cluster_name);
    close(&mut out, '}');
    Some(indent(&out))
}

/// What a listener is sent: the whole state and the change that caused it, compact.
pub fn encode_change_event(snapshot: &Snapshot, change: &Change) -> String {
    let mut out = String::with_capacity(4096);
    out.push('{');
    key(&mut out, "State");
    write_state(&mut out, snapshot, true);
    out.push(',');
    key(&mut out, "ChangeEvent");
    out.push('{');
    key(&mut out, "Service");
    write_service(&mut out, &change.service);
    out.push(',');
    display_field(&mut out, "PreviousStatus", change.previous.as_wire());
    time_field(&mut out, "Time", change.time);
    close(&mut out, '}');
    close(&mut out, '}');
    out
}

/// Indents compact JSON by two spaces a level, as Go's `json.MarshalIndent` does: empty objects and
/// arrays stay on one line.
pub fn indent(compact: &str) -> String {
    let mut out = String::with_capacity(compact.len() * 2);
    let bytes = compact.as_bytes();
    let mut depth = 0_usize;
    let mut previous = b' ';
    let mut at = 0;
    // By runs: texts are most of a document, and nothing in them is looked at twice.
    while let Some(&byte) = bytes.get(at) {
        let opened = matches!(previous, b'{' | b'[');
        let opens = matches!(byte, b'{' | b'[');
        let closes = matches!(byte, b'}' | b']');
        if closes {
            depth = depth.saturating_sub(1);
        }
        if opened != closes {
            new_line(&mut out, depth);
        }
        if opens {
            depth += 1;
        }
        previous = byte;
        let end = at + run(&bytes[at..]);
        out.push_str(&compact[at..end]);
        at = end;
        match byte {
            b',' => new_line(&mut out, depth),
            b':' => out.push(' '),
            _ => {}
        }
    }
    out
}

/// The length of what begins here and stays together: a text, a number or word, or one sign.
fn run(bytes: &[u8]) -> usize {
    let is_sign = |byte: &u8| matches!(byte, b'{' | b'}' | b'[' | b']' | b',' | b':' | b'"');
    let Some((first, rest)) = bytes.split_first() else {
        return 0;
    };
    if *first != b'"' {
        let is_over = || rest.iter().position(is_sign).unwrap_or(rest.len());
        return if is_sign(first) { 1 } else { 1 + is_over() };
    }
    let mut at = 0;
    while let Some(step) = rest[at..]
        .iter()
        .position(|byte| matches!(byte, b'"' | b'\\'))
    {
        at += step;
        if rest[at] == b'"' {
            return at + 2;
        }
        // With what it escapes.
        at = (at + 2).min(rest.len());
    }
    bytes.len()
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    for _ in 0..depth {
        out.push_str("  ");
    }
}

#[cfg(test)]
mod tests {
    use super::indent;

    #[test]
    fn signs_in_texts_are_left_alone() {
        let compact = "{\"a\\\\\":[\"{,:}\\\"[\",-1.5e3,null],\"ü\\u003c\":{},\"b\":[]}";
        let indented = "{\n  \"a\\\\\": [\n    \"{,:}\\\"[\",\n    -1.5e3,\n    null\n  ],\n  \"ü\\u003c\": {},\n  \"b\": []\n}";
        assert_eq!(indent(compact), indented);
        // What is no JSON is no reason to fall over.
        for broken in ["", "\"", "\"\\", "\"ü\\ü", "}]", "{\"a", "\\\"", "ü"] {
            indent(broken);
        }
    }
}
