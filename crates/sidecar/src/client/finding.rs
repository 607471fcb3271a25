//! One step of an explanation or of a diagnosis: what was looked at, how it is, why, and what to do.

use serde::Serialize;

use super::{
    output::{Colour, Output},
    text::printable,
};

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mark {
    /// As it should be.
    Ok,
    /// Worth knowing, or not as good as it could be.
    Warning,
    /// Not as it should be.
    Failed,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What was looked at: a stable word, for programs.
    pub(super) step: &'static str,
    pub(super) state: Mark,
    /// How it is, in words.
    pub(super) what: String,
    /// Why it is so.
    pub(super) cause: Option<String>,
    /// What to do; a command where there is one.
    pub(super) fix: Option<String>,
}

impl Finding {
    pub(super) fn ok(step: &'static str, what: impl Into<String>) -> Self {
        Self::new(step, Mark::Ok, what)
    }

    pub(super) fn warning(step: &'static str, what: impl Into<String>) -> Self {
        Self::new(step, Mark::Warning, what)
    }

    pub(super) fn failed(step: &'static str, what: impl Into<String>) -> Self {
        Self::new(step, Mark::Failed, what)
    }

    fn new(step: &'static str, state: Mark, what: impl Into<String>) -> Self {
        Self {
            step,
            state,
            what: what.into(),
            cause: None,
            fix: None,
        }
    }

    #[must_use]
    pub(super) fn because(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    #[must_use]
    pub(super) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// `✗ port  what: cause → fix`, on one line.
    pub(super) fn line(&self, output: &Output) -> String {
        let (sign, colour) = match self.state {
            Mark::Ok => ("✓", Colour::Green),
            Mark::Warning => ("!", Colour::Yellow),
            Mark::Failed => ("✗", Colour::Red),
        };
        let mut line = format!(
            "{} {:<8} {}",
            output.paint(colour, sign),
            self.step,
            printable(&self.what)
        );
        if let Some(cause) = &self.cause {
            line.push_str(&format!(": {}", printable(cause)));
        }
        if let Some(fix) = &self.fix {
            line.push_str(&format!(" → {}", printable(fix)));
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_one_line_whatever_is_in_it() {
        let finding = Finding::failed("check", "it\nfails")
            .because("\u{1b}[2J")
            .fix("docker logs web");
        assert_eq!(
            finding.line(&Output::kept()),
            "✗ check    it\\nfails: \\u{1b}[2J → docker logs web"
        );
        let json = serde_json::to_value(&finding).unwrap();
        assert_eq!(json["state"], "failed");
        assert_eq!(Finding::ok("a", "b").line(&Output::kept()), "✓ a        b");
    }
}
