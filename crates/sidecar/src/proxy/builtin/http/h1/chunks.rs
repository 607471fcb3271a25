//! A chunked body as it passes: read strictly, written anew. Pure.
//!
//! Sizes and line ends are checked and said again in the one way there is, extensions are dropped, trailers are
//! read as fields and those that are written are none that could change what the message is. So whoever reads
//! what was written sees the end where this one saw it. RFC 9112 section 7.1.

use std::io::Write as _;

use super::super::fields::Field;

/// Longest extensions of all chunks of a body together, and longest trailers, in bytes.
const EXTENSIONS_MAX: usize = 16 * 1024;
const TRAILERS_MAX: usize = 16 * 1024;
/// Most trailer fields.
const TRAILER_FIELDS_MAX: usize = 100;

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// In chunks, with trailers if the receiver may get some.
    Chunks { with_trailers: bool },
    /// As it is, for a receiver that knows its end by other means.
    Plain,
}

/// What was read is not a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadChunk {
    #[error("the size of a chunk is not a hexadecimal number")]
    Size,
    #[error("the size of a chunk is larger than any body can be")]
    SizeTooLarge,
    #[error("a chunk does not end where its size says")]
    End,
    #[error("the extensions of chunks are longer than {EXTENSIONS_MAX} bytes")]
    Extensions,
    #[error("the trailers are malformed or longer than {TRAILERS_MAX} bytes")]
    Trailers,
}

/// How far a body was read.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    state: State,
    extensions: usize,
    trailers: Vec<u8>,
    /// Bytes of data so far.
    pub(super) data_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// Before the first digit of a size.
    #[default]
    Start,
    Size(u64),
    /// Blanks between a size and what follows it.
    AfterSize(u64),
    Extension(u64),
    /// After the return of a line with a size.
    SizeEnd(u64),
    Data(u64),
    DataReturn,
    DataEnd,
    Trailers,
    Over,
}

impl Chunks {
    pub(super) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Takes what belongs to the body, and writes it to `out`. Says how many bytes that were: all, unless the
    /// body is over before.
    ///
    /// # Errors
    /// When it is not a chunked body. What was written until then is the beginning of one.
    pub(super) fn advance(
        &mut self,
        input: &[u8],
        form: Form,
        out: &mut Vec<u8>,
    ) -> Result<usize, BadChunk> {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            if let State::Data(left) = self.state {
                let count =
                    usize::try_from(left).map_or(input.len() - at, |it| it.min(input.len() - at));
                out.extend_from_slice(&input[at..at + count]);
                self.data_bytes += count as u64;
                at += count;
                self.state = match left - count as u64 {
                    0 => State::DataReturn,
                    left => State::Data(left),
                };
                continue;
            }
            if self.is_over() {
                break;
            }
            at += 1;
            self.state = self.step(byte, form, out)?;
        }
        Ok(at)
    }

    fn step(&mut self, byte: u8, form: Form, out: &mut Vec<u8>) -> Result<State, BadChunk> {
        Ok(match self.state {
            State::Start => State::Size(digit(byte).ok_or(BadChunk::Size)?),
            State::Size(size) => match (digit(byte), byte) {
                (Some(digit), _) if size >> 60 == 0 => State::Size(size << 4 | digit),
                (Some(_), _) => return Err(BadChunk::SizeTooLarge),
                (None, b' ' | b'\t') => State::AfterSize(size),
                (None, b';') => State::Extension(size),
                (None, b'\r') => State::SizeEnd(size),
                (None, _) => return Err(BadChunk::Size),
            },
            State::AfterSize(size) => match byte {
                b' ' | b'\t' => {
                    self.count_extension()?;
                    State::AfterSize(size)
                }
                b';' => State::Extension(size),
                b'\r' => State::SizeEnd(size),
                _ => return Err(BadChunk::Size),
            },
            State::Extension(size) => match byte {
                b'\r' => State::SizeEnd(size),
                b'\n' => return Err(BadChunk::Size),
                _ => {
                    self.count_extension()?;
                    State::Extension(size)
                }
            },
            State::SizeEnd(size) => match (byte, size) {
                (b'\n', 0) => State::Trailers,
                (b'\n', _) => {
                    if form != Form::Plain {
                        write_size(out, size);
                    }
                    State::Data(size)
                }
                _ => return Err(BadChunk::Size),
            },
            State::DataReturn if byte == b'\r' => State::DataEnd,
            State::DataEnd if byte == b'\n' => {
                if form != Form::Plain {
                    out.extend_from_slice(b"\r\n");
                }
                State::Start
            }
            State::DataReturn | State::DataEnd => return Err(BadChunk::End),
            State::Trailers => {
                self.trailers.push(byte);
                if self.trailers.len() > TRAILERS_MAX {
                    return Err(BadChunk::Trailers);
                }
                if self.trailers == b"\r\n" || self.trailers.ends_with(b"\r\n\r\n") {
                    self.end(form, out)?;
                    State::Over
                } else {
                    State::Trailers
                }
            }
            // Neither is asked for a step.
            State::Data(_) | State::Over => self.state,
        })
    }

    fn count_extension(&mut self) -> Result<(), BadChunk> {
        self.extensions += 1;
        if self.extensions > EXTENSIONS_MAX {
            return Err(BadChunk::Extensions);
        }
        Ok(())
    }

    /// The last chunk and the trailers are there.
    fn end(&mut self, form: Form, out: &mut Vec<u8>) -> Result<(), BadChunk> {
        let trailers = std::mem::take(&mut self.trailers);
        let mut room = [httparse::EMPTY_HEADER; TRAILER_FIELDS_MAX];
        let fields = match httparse::parse_headers(&trailers, &mut room) {
            // An end before the end would be a line that is ended by other means than return and feed.
            Ok(httparse::Status::Complete((length, fields))) if length == trailers.len() => fields,
            _ => return Err(BadChunk::Trailers),
        };
        let Form::Chunks { with_trailers } = form else {
            return Ok(());
        };
        out.extend_from_slice(b"0\r\n");
        for field in fields
            .iter()
            .filter(|it| with_trailers && may_trail(it.name))
        {
            super::head::write_field(out, field.name, field.value);
        }
        out.extend_from_slice(b"\r\n");
        Ok(())
    }
}

/// Writes what stands before the data of a chunk.
pub(super) fn write_size(out: &mut Vec<u8>, size: u64) {
    // A vector takes everything.
    let _ = write!(out, "{size:x}\r\n");
}

fn digit(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

/// Whether a field may stand in the trailers: none that says how a message is read, where it goes, or who sends
/// it (RFC 9110, 6.5.1).
fn may_trail(name: &str) -> bool {
    const ALSO_NOT: [&str; 6] = [
        "cache-control",
        "content-encoding",
        "content-range",
        "content-type",
        "max-forwards",
        "set-cookie",
    ];
    let field = Field::of(name.as_bytes());
    let is_known = field.is_hop_by_hop() || field.is_kept() || field == Field::Expect;
    !is_known && !ALSO_NOT.iter().any(|it| it.eq_ignore_ascii_case(name))
}
