//! What heads of requests and of answers have in common: what their fields say about the message and the
//! connection, and how a field is written. Pure.
//!
//! httparse reads heads. A head is never passed on as it came: it is written anew from what was understood, so
//! that the next reader can understand nothing else. RFC 9112 sections 5 and 6.

use hyper::StatusCode;

use super::super::{
    HEAD_BYTES_MAX,
    fields::{Field, has_word, words},
};

/// Longest lists of what concerns the connection, in bytes: every field is looked for in them.
const CONNECTION_BYTES_MAX: usize = 4096;
/// Most fields of a head.
pub(super) const FIELDS_MAX: usize = 100;

/// Why a head is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Reject {
    #[error("the head is malformed: {0}")]
    Malformed(httparse::Error),
    #[error("the target is none of HTTP")]
    Target,
    #[error("the length of the body is not a number, or there are several")]
    Length,
    #[error("the coding of the body is not `chunked` alone, or HTTP is older than codings")]
    Coding,
    #[error("the head is longer than {HEAD_BYTES_MAX} bytes, or has more than {FIELDS_MAX} fields")]
    TooLarge,
    #[error("the first line of the head is longer than {HEAD_BYTES_MAX} bytes")]
    LineTooLong,
}

impl Reject {
    /// What a client is told.
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::LineTooLong => StatusCode::URI_TOO_LONG,
            Self::Malformed(_) | Self::Target | Self::Length | Self::Coding => {
                StatusCode::BAD_REQUEST
            }
        }
    }
}

impl From<httparse::Error> for Reject {
    fn from(error: httparse::Error) -> Self {
        match error {
            httparse::Error::TooManyHeaders => Self::TooLarge,
            error => Self::Malformed(error),
        }
    }
}

/// Of a head that has not come to its end: whether it may still come.
///
/// # Errors
/// When it is too long already.
pub(super) fn check_part(bytes: &[u8]) -> Result<(), Reject> {
    if bytes.len() <= HEAD_BYTES_MAX {
        return Ok(());
    }
    Err(if bytes.contains(&b'\n') {
        Reject::TooLarge
    } else {
        Reject::LineTooLong
    })
}

/// Whether a head may end in what came after the first `known` bytes: before, to read it again is of no use,
/// and for who sends a byte at a time it would be much work.
pub(super) fn may_end(bytes: &[u8], known: usize) -> bool {
    let lines = bytes[known.saturating_sub(3)..].split(|it| *it == b'\n');
    // The first may have begun before, and the last has not ended.
    let mut lines = lines.skip(1).peekable();
    while let Some(line) = lines.next() {
        if lines.peek().is_some() && (line.is_empty() || line == b"\r") {
            return true;
        }
    }
    false
}

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Empty,
    Length(u64),
    Chunked,
    /// It ends with the connection.
    UntilEnd,
}

/// What the fields of a head say.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    /// What each field is.
    pub(super) kinds: [Field; FIELDS_MAX],
    pub(super) length: Option<u64>,
    pub(super) is_chunked: bool,
    /// Connection says that this message is the last.
    pub(super) closes: bool,
    /// It says that it is not.
    pub(super) keeps: bool,
    /// It names Upgrade.
    pub(super) names_upgrade: bool,
    /// It names fields.
    names_others: bool,
    /// A protocol that is asked for or agreed to, the first.
    pub(super) upgrade: Option<&'a [u8]>,
    pub(super) host: Option<&'a [u8]>,
    pub(super) has_many_hosts: bool,
    pub(super) expects_continue: bool,
    pub(super) takes_trailers: bool,
    pub(super) has_forwarded_proto: bool,
}

impl<'a> Facts<'a> {
    /// # Errors
    /// When it cannot be said for sure where the message ends.
    pub(super) fn gather(fields: &[httparse::Header<'a>], is_1_1: bool) -> Result<Self, Reject> {
        let mut facts = Self {
            kinds: [Field::Other; FIELDS_MAX],
            length: None,
            is_chunked: false,
            closes: false,
            keeps: false,
            names_upgrade: false,
            names_others: false,
            upgrade: None,
            host: None,
            has_many_hosts: false,
            expects_continue: false,
            takes_trailers: false,
            has_forwarded_proto: false,
        };
        let mut connection_bytes = 0;
        for (field, kind) in fields.iter().zip(&mut facts.kinds) {
            *kind = Field::of(field.name.as_bytes());
            let value = field.value;
            match *kind {
                Field::ContentLength => {
                    let length = number(value).ok_or(Reject::Length)?;
                    if facts.length.is_some_and(|it| it != length) {
                        return Err(Reject::Length);
                    }
                    facts.length = Some(length);
                }
                Field::TransferEncoding => {
                    // Any other coding, and this one twice, would have to be undone here.
                    if facts.is_chunked || !is_1_1 || !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(Reject::Coding);
                    }
                    facts.is_chunked = true;
                }
                Field::Connection => {
                    connection_bytes += value.len();
                    if connection_bytes > CONNECTION_BYTES_MAX {
                        return Err(Reject::TooLarge);
                    }
                    for word in words(value) {
                        if word.eq_ignore_ascii_case(b"close") {
                            facts.closes = true;
                        } else if word.eq_ignore_ascii_case(b"keep-alive") {
                            facts.keeps = true;
                        } else if word.eq_ignore_ascii_case(b"upgrade") {
                            facts.names_upgrade = true;
                        } else {
                            facts.names_others = true;
                        }
                    }
                }
                Field::Upgrade => drop(facts.upgrade.get_or_insert(value)),
                Field::Host => {
                    facts.has_many_hosts |= facts.host.is_some();
                    facts.host = Some(value);
                }
                Field::Expect => {
                    facts.expects_continue |= value.eq_ignore_ascii_case(b"100-continue");
                }
                Field::Te => facts.takes_trailers |= has_word(value, b"trailers"),
                Field::ForwardedProto => facts.has_forwarded_proto = true,
                _ => {}
            }
        }
        Ok(facts)
    }

    /// Whether a field is to be passed on: not one that is written anew, nor one of this connection.
    pub(super) fn passes(&self, fields: &[httparse::Header<'_>], at: usize) -> bool {
        let kind = self.kinds[at];
        let is_written_anew = matches!(kind, Field::ContentLength | Field::Via);
        if is_written_anew || kind.is_hop_by_hop() {
            return false;
        }
        if !self.names_others || kind.is_kept() {
            return true;
        }
        let name = fields[at].name.as_bytes();
        let mut connections = fields
            .iter()
            .zip(&self.kinds)
            .filter(|(_, kind)| **kind == Field::Connection);
        !connections.any(|(connection, _)| has_word(connection.value, name))
    }

    /// Writes a list anew that is on any number of lines, with one more member.
    pub(super) fn write_list(
        &self,
        kind: Field,
        name: &str,
        fields: &[httparse::Header<'_>],
        out: &mut Vec<u8>,
        write_last: impl FnOnce(&mut Vec<u8>),
    ) {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        for (field, known) in fields.iter().zip(&self.kinds) {
            if *known == kind && !field.value.is_empty() {
                out.extend_from_slice(field.value);
                out.extend_from_slice(b", ");
            }
        }
        write_last(out);
        out.extend_from_slice(b"\r\n");
    }
}

/// Digits and nothing else.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Writes a field, its name in lower case as in all later versions of HTTP.
pub(super) fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    let start = out.len();
    out.extend_from_slice(name.as_bytes());
    out[start..].make_ascii_lowercase();
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes a number in decimal.
pub(super) fn write_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}
