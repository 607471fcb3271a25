//! Text to values, as tolerant as Go's decoder and no more.

use serde_json::{Map, Value};

use crate::{InvalidService, Port, Service, Status, Timestamp};

/// Why a record or state document was refused.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON.
    #[error("not JSON: {0}")]
    Syntax(#[from] serde_json::Error),
    /// JSON of another shape.
    #[error("field {field} is {found}, expected {expected}")]
    Shape {
        /// JSON name of the field.
        field: &'static str,
        /// The value, cut to a readable length.
        found: String,
        /// What belongs there.
        expected: &'static str,
    },
    /// A record that fails validation.
    #[error(transparent)]
    Invalid(#[from] InvalidService),
}

/// Reads one record.
///
/// # Errors
/// When the text is no JSON object, a field has another type, or validation fails.
pub fn decode_service(bytes: &[u8]) -> Result<Service, DecodeError> {
    service(&value(bytes)?)
}

/// Reads the records of a state document. Only the records count; the document's own names, stamps
/// and map keys do not. A record that is bad is returned as its error and does not hide the others.
///
/// # Errors
/// When the document itself is no JSON object of servers.
pub fn decode_state(bytes: &[u8]) -> Result<Vec<Result<Service, DecodeError>>, DecodeError> {
    let document = value(bytes)?;
    let Some(servers) = lookup(object("state", &document)?, "Servers") else {
        return Ok(Vec::new());
    };
    let mut records = Vec::new();
    for server in object("Servers", servers)?.values() {
        let services = server
            .as_object()
            .and_then(|server| lookup(server, "Services"));
        let Some(services) = services.and_then(Value::as_object) else {
            continue;
        };
        records.extend(services.values().map(service));
    }
    Ok(records)
}

/// Reads a list of records. A record that is bad is returned as its error and does not hide the
/// others.
///
/// # Errors
/// When the text is no JSON array.
pub fn decode_records(bytes: &[u8]) -> Result<Vec<Result<Service, DecodeError>>, DecodeError> {
    match value(bytes)? {
        Value::Array(records) => Ok(records.iter().map(service).collect()),
        other => Err(shape("records", &other, "an array")),
    }
}

/// Bytes that are no UTF-8 become U+FFFD, as in Go: one peer's odd label must not make a whole state
/// document unreadable.
fn value(bytes: &[u8]) -> Result<Value, DecodeError> {
    Ok(serde_json::from_str(&String::from_utf8_lossy(bytes))?)
}

/// A field by exact name, else by name without regard to case; `null` counts as absent.
fn lookup<'a>(map: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    map.get(name)
        .or_else(|| {
            map.iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value)
        })
        .filter(|value| !value.is_null())
}

fn object<'a>(
    field: &'static str,
    value: &'a Value,
) -> Result<&'a Map<String, Value>, DecodeError> {
    value
        .as_object()
        .ok_or_else(|| shape(field, value, "an object"))
}

fn shape(field: &'static str, value: &Value, expected: &'static str) -> DecodeError {
    let mut found = value.to_string();
    if let Some((end, _)) = found.char_indices().nth(60) {
        found.truncate(end);
        found.push('…');
    }
    DecodeError::Shape {
        field,
        found,
        expected,
    }
}

fn text(map: &Map<String, Value>, field: &'static str) -> Result<String, DecodeError> {
    match lookup(map, field) {
        None => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(shape(field, other, "a string")),
    }
}

fn whole(map: &Map<String, Value>, field: &'static str) -> Result<i64, DecodeError> {
    match lookup(map, field) {
        None => Ok(0),
        Some(value) => value
            .as_i64()
            .ok_or_else(|| shape(field, value, "a whole number")),
    }
}

fn port_number(map: &Map<String, Value>, field: &'static str) -> Result<u16, DecodeError> {
    let number = whole(map, field)?;
    u16::try_from(number).map_err(|_| shape(field, &number.into(), "a port from 0 to 65535"))
}

fn time(map: &Map<String, Value>, field: &'static str) -> Result<Timestamp, DecodeError> {
    let Some(value) = lookup(map, field) else {
        return Ok(Timestamp::go_zero());
    };
    let parsed = value.as_str().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| shape(field, value, "an RFC 3339 time"))
}

fn service(value: &Value) -> Result<Service, DecodeError> {
    let map = object("Service", value)?;
    let ports = match lookup(map, "Ports") {
        None => None,
        Some(Value::Array(ports)) => Some(ports.iter().map(port).collect::<Result<Vec<_>, _>>()?),
        Some(other) => return Err(shape("Ports", other, "an array")),
    };
    let service = Service {
        id: text(map, "ID")?,
        name: text(map, "Name")?,
        image: text(map, "Image")?,
        created: time(map, "Created")?,
        hostname: text(map, "Hostname")?,
        ports,
        updated: time(map, "Updated")?,
        proxy_mode: text(map, "ProxyMode")?,
        status: Status::from_wire(whole(map, "Status")?),
        weight: weight(map),
    };
    service.validate()?;
    Ok(service)
}

/// A weight nobody can follow counts as none: the record is worth more than its share of the traffic.
fn weight(map: &Map<String, Value>) -> Option<u8> {
    let number = lookup(map, "Weight")?.as_u64()?;
    u8::try_from(number).ok().filter(|it| *it > 0)
}

fn port(value: &Value) -> Result<Port, DecodeError> {
    let map = object("Port", value)?;
    Ok(Port {
        kind: text(map, "Type")?,
        port: port_number(map, "Port")?,
        service_port: port_number(map, "ServicePort")?,
        ip: text(map, "IP")?,
    })
}
