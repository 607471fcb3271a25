//! An endpoint's answer: read, and written anew for the client. Pure.
//!
//! RFC 9112 section 6.3 (the end of a body), RFC 9110 section 15.2 (interim answers).

use std::mem::MaybeUninit;

use super::{
    super::fields::{Field, VIA_1_0, VIA_1_1},
    chunks::Form,
    head::{FIELDS_MAX, Facts, Framing, Reject, check_part, write_field, write_number},
    request::Request,
};

/// What is to be known of an answer while it passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: u16,
    /// How its body comes, and how it goes.
    pub(super) framing: Framing,
    pub(super) form: Form,
    /// The endpoint's connection can be asked again.
    pub(super) keeps_link: bool,
    /// The client's connection goes on.
    pub(super) keeps_client: bool,
}

/// What an endpoint said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// The answer is still to come.
    Interim,
    Response(Response),
}

/// Reads a head, and writes what the client is to get in place of what is in `out`. `None` while its end has not
/// come; otherwise its length, and what it is. The client is told that this is the last answer if it `is_last`.
///
/// # Errors
/// When it is none; `out` is as it was.
pub(super) fn read(
    bytes: &[u8],
    request: &Request,
    is_last: bool,
    out: &mut Vec<u8>,
) -> Result<Option<(usize, Heard)>, Reject> {
    let mut room = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut head = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut head, bytes, &mut room)?;
    let length = match parsed {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => {
            check_part(bytes)?;
            return Ok(None);
        }
    };
    check_part(&bytes[..length])?;
    let (Some(status), Some(minor)) = (head.code, head.version) else {
        return Ok(None);
    };
    let is_1_1 = minor == 1;
    let facts = Facts::gather(head.headers, is_1_1)?;
    if status / 100 == 1 && status != 101 {
        return Ok(Some((length, Heard::Interim)));
    }
    if !(101..=999).contains(&status) {
        return Err(Reject::Malformed(httparse::Error::Status));
    }
    let framing = match facts.length {
        _ if request.is_head || matches!(status, 101 | 204 | 304) => Framing::Empty,
        _ if facts.is_chunked => Framing::Chunked,
        Some(0) => Framing::Empty,
        Some(length) => Framing::Length(length),
        None => Framing::UntilEnd,
    };
    let is_measured = matches!(framing, Framing::Empty | Framing::Length(_));
    let form = if is_measured || !request.is_1_1 {
        Form::Plain
    } else {
        let with_trailers = request.takes_trailers;
        Form::Chunks { with_trailers }
    };
    // Who gave two lengths may have meant the other one.
    let is_sure = !(facts.is_chunked && facts.length.is_some());
    let response = Response {
        status,
        framing,
        form,
        keeps_link: !facts.closes
            && (is_1_1 || facts.keeps)
            && framing != Framing::UntilEnd
            && is_sure,
        keeps_client: !is_last && request.keeps_alive && (is_measured || form != Form::Plain),
    };
    out.clear();
    write(
        (status, head.reason.unwrap_or_default()),
        head.headers,
        &facts,
        request,
        &response,
        is_1_1,
        out,
    );
    Ok(Some((length, Heard::Response(response))))
}

fn write(
    (status, reason): (u16, &str),
    fields: &[httparse::Header<'_>],
    facts: &Facts<'_>,
    request: &Request,
    response: &Response,
    is_1_1: bool,
    out: &mut Vec<u8>,
) {
    write_status_line(out, request.is_1_1, status, reason);
    for (at, field) in fields.iter().enumerate() {
        if facts.passes(fields, at) {
            write_field(out, field.name, field.value);
        }
    }
    let via = if is_1_1 { VIA_1_1 } else { VIA_1_0 };
    let sign = |out: &mut Vec<u8>| out.extend_from_slice(via.as_bytes());
    facts.write_list(Field::Via, "via", fields, out, sign);
    if status == 101 {
        out.extend_from_slice(b"connection: upgrade\r\n");
        for (field, kind) in fields.iter().zip(&facts.kinds) {
            if *kind == Field::Upgrade {
                write_field(out, field.name, field.value);
            }
        }
    } else if let Some(word) = connection_word(request, response.keeps_client) {
        write_field(out, "connection", word.as_bytes());
    }
    match (response.framing, facts.length) {
        (Framing::Chunked | Framing::UntilEnd, _) => {
            if response.form != Form::Plain {
                out.extend_from_slice(b"transfer-encoding: chunked\r\n");
            }
        }
        // The length of what the answer to another method would have is worth to be known.
        (Framing::Empty | Framing::Length(_), Some(length)) if !matches!(status, 101 | 204) => {
            out.extend_from_slice(b"content-length: ");
            write_number(out, length);
            out.extend_from_slice(b"\r\n");
        }
        (Framing::Empty | Framing::Length(_), _) => {}
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the first line of an answer, in the version of the client.
pub(super) fn write_status_line(out: &mut Vec<u8>, is_1_1: bool, status: u16, reason: &str) {
    let version: &[u8] = if is_1_1 { b"HTTP/1.1 " } else { b"HTTP/1.0 " };
    out.extend_from_slice(version);
    write_number(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(reason.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// What a client is told about its connection where that is not what its version of HTTP takes for granted.
pub(super) fn connection_word(request: &Request, keeps_client: bool) -> Option<&'static str> {
    match (request.is_1_1, keeps_client) {
        (true, false) => Some("close"),
        (false, true) => Some("keep-alive"),
        _ => None,
    }
}
