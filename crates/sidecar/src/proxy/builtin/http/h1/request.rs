//! A client's request: read, and written anew for an endpoint. Pure.
//!
//! RFC 9112 section 3.2 (targets), RFC 9110 sections 7.6 and 7.8.

use std::{mem::MaybeUninit, net::SocketAddr};

use hyper::Uri;

use super::{
    super::{
        fields::{Field, VIA_1_0, VIA_1_1, is_idempotent},
        headers::{Refusal, Target},
    },
    head::{FIELDS_MAX, Facts, Framing, Reject, check_part, write_field, write_number},
};

/// What is to be known of a request while it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) framing: Framing,
    pub(super) is_1_1: bool,
    pub(super) is_head: bool,
    pub(super) is_idempotent: bool,
    /// The client may send another after it.
    pub(super) keeps_alive: bool,
    pub(super) asks_upgrade: bool,
    pub(super) expects_continue: bool,
    /// The client understands trailers.
    pub(super) takes_trailers: bool,
    /// Nobody should forward it.
    pub(super) refusal: Option<Refusal>,
}

/// The first line, for who writes it down.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    pub(super) method: &'a str,
    pub(super) target: &'a str,
    pub(super) is_1_1: bool,
}

/// Reads a head, and writes what an endpoint is to get to `out`. `None` while its end has not come; otherwise its
/// length, and what it is. `client` is an address as text, `server` is where the client believes to be.
///
/// # Errors
/// When it is none.
pub(super) fn read(
    bytes: &[u8],
    client: &[u8],
    server: SocketAddr,
    out: &mut Vec<u8>,
    note: impl FnOnce(Line<'_>),
) -> Result<Option<(usize, Request)>, Reject> {
    let mut room = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut head = httparse::Request::new(&mut []);
    let length = match head.parse_with_uninit_headers(bytes, &mut room)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => {
            check_part(bytes)?;
            return Ok(None);
        }
    };
    check_part(&bytes[..length])?;
    let (Some(method), Some(target), Some(minor)) = (head.method, head.path, head.version) else {
        return Ok(None);
    };
    let is_1_1 = minor == 1;
    let facts = Facts::gather(head.headers, is_1_1)?;
    let aimed = if is_plain(target) {
        None
    } else {
        Some(target.parse::<Uri>().map_err(|_| Reject::Target)?)
    };
    note(Line {
        method,
        target,
        is_1_1,
    });
    let framing = match facts.length {
        _ if facts.is_chunked => Framing::Chunked,
        None | Some(0) => Framing::Empty,
        Some(length) => Framing::Length(length),
    };
    // HTTP/2 without its preface was abolished (RFC 9113, 3.1): such a wish is one of this hop and dropped.
    let names_protocol = facts
        .upgrade
        .is_some_and(|it| !it.eq_ignore_ascii_case(b"h2c"));
    let mut request = Request {
        framing,
        is_1_1,
        is_head: method == "HEAD",
        is_idempotent: is_idempotent(method),
        // Who gave two lengths may have meant the other one (RFC 9112, 6.3).
        keeps_alive: !facts.closes
            && (is_1_1 || facts.keeps)
            && !(facts.is_chunked && facts.length.is_some()),
        asks_upgrade: is_1_1 && names_protocol && facts.names_upgrade,
        expects_continue: is_1_1 && facts.expects_continue,
        takes_trailers: facts.takes_trailers,
        refusal: None,
    };
    match aim(method, target, aimed.as_ref(), &facts, is_1_1) {
        Ok(target) => {
            let from_to = (client, server);
            write(
                method,
                &target,
                head.headers,
                &facts,
                &request,
                from_to,
                out,
            );
        }
        Err(refusal) => request.refusal = Some(refusal),
    }
    Ok(Some((length, request)))
}

/// Whether a target is a path of nothing but what needs no second look.
fn is_plain(target: &str) -> bool {
    let is_plain =
        |byte: &u8| byte.is_ascii_alphanumeric() || b"/?&=._-~%+:,;@!$'()*".contains(byte);
    target.starts_with('/') && target.as_bytes().iter().all(is_plain)
}

/// What the endpoint is asked for. `uri` is the target where that is not plainly a path.
fn aim<'a>(
    method: &str,
    target: &'a str,
    uri: Option<&'a Uri>,
    facts: &Facts<'_>,
    is_1_1: bool,
) -> Result<Target<'a>, Refusal> {
    if method == "CONNECT" {
        return Err(Refusal::Connect);
    }
    if facts.has_many_hosts {
        return Err(Refusal::ManyHosts);
    }
    let path_alone = || Target {
        path: target,
        authority: None,
    };
    let target = uri.map_or_else(
        || Ok(path_alone()),
        |uri| Target::of(uri, method == "OPTIONS"),
    )?;
    if facts.host.is_none() && target.authority.is_none() && is_1_1 {
        return Err(Refusal::NoHost);
    }
    Ok(target)
}

fn write(
    method: &str,
    target: &Target<'_>,
    fields: &[httparse::Header<'_>],
    facts: &Facts<'_>,
    request: &Request,
    (client, server): (&[u8], SocketAddr),
    out: &mut Vec<u8>,
) {
    for part in [method, " ", target.path, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    // What a target names counts more than what the field says (RFC 9112, 3.2.2).
    if let Some(host) = target.authority {
        write_field(out, "host", host.as_bytes());
    } else if facts.host.is_none() {
        write_field(out, "host", server.to_string().as_bytes());
    }
    for (at, field) in fields.iter().enumerate() {
        let is_written_anew = match facts.kinds[at] {
            Field::Host => target.authority.is_some(),
            Field::ForwardedFor => true,
            _ => false,
        };
        if !is_written_anew && facts.passes(fields, at) {
            write_field(out, field.name, field.value);
        }
    }
    if facts.takes_trailers {
        out.extend_from_slice(b"te: trailers\r\n");
    }
    if request.asks_upgrade {
        out.extend_from_slice(b"connection: upgrade\r\n");
        for (field, kind) in fields.iter().zip(&facts.kinds) {
            if *kind == Field::Upgrade {
                write_field(out, field.name, field.value);
            }
        }
    }
    let add_client = |out: &mut Vec<u8>| out.extend_from_slice(client);
    facts.write_list(
        Field::ForwardedFor,
        "x-forwarded-for",
        fields,
        out,
        add_client,
    );
    if !facts.has_forwarded_proto {
        out.extend_from_slice(b"x-forwarded-proto: http\r\n");
    }
    let via = if request.is_1_1 { VIA_1_1 } else { VIA_1_0 };
    let sign = |out: &mut Vec<u8>| out.extend_from_slice(via.as_bytes());
    facts.write_list(Field::Via, "via", fields, out, sign);
    if facts.is_chunked {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    } else if let Some(length) = facts.length {
        out.extend_from_slice(b"content-length: ");
        write_number(out, length);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}
