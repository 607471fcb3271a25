//! Bytes as they come in, lines as they go out, each of bounded length. Pure.

use bytes::{Buf, BytesMut};

/// Splits a stream at line feeds.
#[derive(Debug)]
pub(super) struct Lines {
    buffer: BytesMut,
    /// How much of the buffer is known to hold no line feed.
    scanned: usize,
    /// Whether the rest of an overlong line is being thrown away.
    skipping: bool,
    bytes_max: usize,
}

/// One line of the stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A line without its line feed.
    Whole(BytesMut),
    /// A line longer than allowed; its bytes are gone.
    TooLong,
}

impl Lines {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            scanned: 0,
            skipping: false,
            bytes_max,
        }
    }

    /// Takes in what came. Lines should be popped before more is pushed.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete line.
    pub(super) fn pop(&mut self) -> Option<Line> {
        loop {
            let Some(at) = self.buffer[self.scanned..]
                .iter()
                .position(|it| *it == b'\n')
            else {
                self.scanned = self.buffer.len();
                let too_long = self.scanned > self.bytes_max;
                if too_long || self.skipping {
                    self.buffer.clear();
                    self.scanned = 0;
                }
                let first = too_long && !self.skipping;
                self.skipping |= too_long;
                return first.then_some(Line::TooLong);
            };
            let line = self.buffer.split_to(self.scanned + at);
            self.buffer.advance(1);
            self.scanned = 0;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            return Some(if line.len() > self.bytes_max {
                Line::TooLong
            } else {
                Line::Whole(line)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(text: &[u8], cuts: &[usize], bytes_max: usize) -> Vec<Line> {
        let mut lines = Lines::new(bytes_max);
        let mut found = Vec::new();
        let mut rest = text;
        for cut in cuts {
            let (piece, after) = rest.split_at(*cut.min(&rest.len()));
            rest = after;
            lines.push(piece);
            found.extend(std::iter::from_fn(|| lines.pop()));
        }
        lines.push(rest);
        found.extend(std::iter::from_fn(|| lines.pop()));
        found
    }

    proptest! {
        #[test]
        fn where_the_stream_is_cut_does_not_matter(
            text in "[a-c\n]{0,60}",
            cuts in prop::collection::vec(0..9_usize, 0..12),
        ) {
            let whole: Vec<_> = text
                .split_inclusive('\n')
                .filter_map(|line| line.strip_suffix('\n'))
                .map(|line| match line.len() {
                    0..=5 => Line::Whole(line.as_bytes().into()),
                    _ => Line::TooLong,
                })
                .collect();
            let mut found = split(text.as_bytes(), &cuts, 5);
            // A tail that is too long already is reported before its line feed comes.
            if text.rsplit('\n').next().is_some_and(|tail| tail.len() > 5) {
                prop_assert_eq!(found.pop(), Some(Line::TooLong));
            }
            prop_assert_eq!(found, whole);
        }
    }

    #[test]
    fn an_endless_line_holds_no_memory() {
        let mut lines = Lines::new(10);
        lines.push(&[b'x'; 11]);
        assert_eq!(lines.pop(), Some(Line::TooLong));
        for _ in 0..1000 {
            lines.push(&[b'x'; 11]);
            assert_eq!(lines.pop(), None);
            assert!(lines.buffer.is_empty());
        }
        lines.push(b"x\nok\n");
        assert_eq!(lines.pop(), Some(Line::Whole(b"ok"[..].into())));
    }
}
