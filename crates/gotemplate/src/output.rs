//! Text that grows up to a limit: a template's output, and every string made on the way.

/// A string that stops growing at its limit and remembers that it did.
#[derive(Debug)]
pub(crate) struct Output {
    text: String,
    limit_bytes: usize,
    overflowed: bool,
}

impl Output {
    pub(crate) fn new(limit_bytes: usize) -> Self {
        Self {
            text: String::new(),
            limit_bytes,
            overflowed: false,
        }
    }

    pub(crate) fn push_str(&mut self, text: &str) {
        if self.overflowed || text.len() > self.limit_bytes - self.text.len() {
            self.overflowed = true;
        } else {
            self.text.push_str(text);
        }
    }

    pub(crate) fn push(&mut self, c: char) {
        self.push_str(c.encode_utf8(&mut [0; 4]));
    }

    /// `count` times `c`.
    pub(crate) fn repeat(&mut self, c: char, count: usize) {
        if count.saturating_mul(c.len_utf8()) > self.limit_bytes - self.text.len() {
            self.overflowed = true;
        } else if !self.overflowed {
            self.text.extend(std::iter::repeat_n(c, count));
        }
    }

    /// Something did not fit; what is here is incomplete.
    pub(crate) fn overflowed(&self) -> bool {
        self.overflowed
    }

    pub(crate) fn into_text(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_dropped_and_remembered() {
        let mut output = Output::new(4);
        output.push_str("abc");
        output.push('é');
        assert!(output.overflowed());
        output.push('d');
        assert_eq!(output.into_text(), "abc");

        let mut output = Output::new(4);
        output.repeat('x', 4);
        assert!(!output.overflowed());
        output.repeat('x', usize::MAX);
        assert!(output.overflowed());
    }
}
