//! What the fields may hold. A message that fails here is well-formed and still of no use, or of
//! a use only to an attacker.

use std::net::Ipv4Addr;

use super::{
    super::{
        ClusterFilter,
        error::{StreamProblem, WireError, quote},
        limits::{META_BYTES_MAX, NAME_BYTES_MAX},
        message::{RawIp, Source, Versions},
    },
    Result,
};

/// Builds the error of a field that was read but may not hold what it holds.
pub(super) fn invalid(
    structure: &'static str,
    field: &'static str,
    value: impl Into<String>,
    expected: &'static str,
) -> WireError {
    WireError::FieldInvalid {
        structure,
        field,
        value: value.into(),
        expected,
    }
}

/// A name that must be there.
pub(super) fn name<'a>(
    structure: &'static str,
    field: &'static str,
    text: &'a str,
) -> Result<&'a str> {
    if text.is_empty() {
        return Err(invalid(structure, field, "empty", "a name"));
    }
    name_or_empty(structure, field, text)
}

pub(super) fn name_or_empty<'a>(
    structure: &'static str,
    field: &'static str,
    text: &'a str,
) -> Result<&'a str> {
    if text.len() > NAME_BYTES_MAX {
        return Err(invalid(
            structure,
            field,
            quote(text.as_bytes()),
            "at most 255 bytes",
        ));
    }
    if text.chars().any(char::is_control) {
        let expected = "a name without control characters";
        return Err(invalid(structure, field, quote(text.as_bytes()), expected));
    }
    Ok(text)
}

pub(super) fn raw_ip(structure: &'static str, field: &'static str, bytes: &[u8]) -> Result<RawIp> {
    RawIp::from_bytes(bytes).ok_or_else(|| {
        invalid(
            structure,
            field,
            format!("{} bytes long", bytes.len()),
            "4 or 16 bytes",
        )
    })
}

/// An address a node can have.
pub(super) fn node_addr(structure: &'static str, bytes: &[u8]) -> Result<RawIp> {
    let addr = raw_ip(structure, "Addr", bytes)?;
    let ip = addr.ip();
    if ip.is_unspecified() || ip.is_multicast() || ip == Ipv4Addr::BROADCAST {
        return Err(invalid(
            structure,
            "Addr",
            ip.to_string(),
            "a unicast address",
        ));
    }
    Ok(addr)
}

pub(super) fn bytes_up_to<'a>(
    structure: &'static str,
    field: &'static str,
    bytes: &'a [u8],
    (max, expected): (usize, &'static str),
) -> Result<&'a [u8]> {
    if bytes.len() > max {
        let value = format!("{} bytes long", bytes.len());
        return Err(invalid(structure, field, value, expected));
    }
    Ok(bytes)
}

pub(super) fn meta<'a>(structure: &'static str, bytes: &'a [u8]) -> Result<&'a [u8]> {
    bytes_up_to(
        structure,
        "Meta",
        bytes,
        (META_BYTES_MAX, "at most 512 bytes"),
    )
}

pub(super) fn versions(structure: &'static str, bytes: &[u8]) -> Result<Versions> {
    let Some(&six) = bytes.first_chunk::<6>() else {
        let value = format!("{} bytes long", bytes.len());
        return Err(invalid(structure, "Vsn", value, "6 bytes"));
    };
    let [minimum, maximum, current, ..] = six;
    if minimum == 0 || minimum > current || current > maximum {
        let expected = "1 <= minimum <= current <= maximum protocol version";
        return Err(invalid(structure, "Vsn", format!("{six:?}"), expected));
    }
    Ok(Versions(six))
}

/// Where the requester wants its ack, when it gave an address and a port. Anything less is as
/// good as nothing: the ack then goes where the datagram came from.
pub(super) fn source<'a>(
    structure: &'static str,
    addr: &[u8],
    port: u16,
    node: &'a str,
) -> Result<Option<Source<&'a str>>> {
    let node = name_or_empty(structure, "SourceNode", node)?;
    Ok(RawIp::from_bytes(addr)
        .filter(|_| port != 0)
        .map(|addr| Source { addr, port, node }))
}

pub(super) fn check_cluster(
    structure: &'static str,
    found: Option<&[u8]>,
    filter: &ClusterFilter,
) -> Result<()> {
    if filter.accepts(found) {
        return Ok(());
    }
    let found = found.map_or_else(|| "no name".to_owned(), quote);
    Err(WireError::ClusterMismatch { structure, found })
}

pub(super) fn alive_incarnation(structure: &'static str, incarnation: u32) -> Result<u32> {
    if incarnation == 0 {
        return Err(invalid(
            structure,
            "Incarnation",
            "0",
            "at least 1 for a live node",
        ));
    }
    Ok(incarnation)
}

/// A declared count or length, when it lies between 0 and `max`.
pub(in crate::wire) fn length(field: &'static str, value: i64, max: usize) -> Result<usize> {
    usize::try_from(value)
        .ok()
        .filter(|length| *length <= max)
        .ok_or(WireError::Stream(StreamProblem::Length {
            field,
            value,
            max,
        }))
}
