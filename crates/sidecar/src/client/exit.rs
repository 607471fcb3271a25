//! How a command ends: the codes for scripts, and the one line for people.

use std::{fmt, process::ExitCode};

/// Exit codes of the operator's commands. They are part of the interface; `docs/command-line.md` and
/// `--help` show them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done; the answer is yes.
    Ok = 0,
    /// The answer is no: there is no such thing, it is not routed, something is wrong with this host.
    No = 1,
    /// The command line, or a variable that belongs to it, makes no sense.
    Usage = 2,
    /// No agent answers at the address.
    Unreachable = 3,
    /// The agent refuses: no token, a wrong one, or a host name that is not its own.
    Refused = 4,
    /// The command was accepted, but not every host has confirmed that it is applied.
    Unconfirmed = 5,
}

/// The codes as `--help` shows them.
pub const EXIT_CODES_HELP: &str = "\
Exit codes of members, services, watch, drain, undrain, explain and doctor:
  0  done; the answer is yes
  1  the answer is no, or something failed
  2  the command line is not usable
  3  the agent cannot be reached
  4  the agent refuses (token, host name)
  5  accepted, but not confirmed by every host";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command could not do its work: a line for people, and the exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The code; [`Exit::Ok`] only where the reader of the output has gone.
    pub exit: Exit,
    /// One line, with the cause and what to do; `None` when there is nobody to tell.
    pub text: Option<String>,
}

impl Failure {
    pub(super) fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self {
            exit,
            text: Some(text.into()),
        }
    }

    pub(super) fn no(text: impl Into<String>) -> Self {
        Self::new(Exit::No, text)
    }

    pub(super) fn usage(text: impl Into<String>) -> Self {
        Self::new(Exit::Usage, text)
    }

    /// Who read the output has gone, as `head` does: that is their good right.
    pub(super) fn closed() -> Self {
        Self {
            exit: Exit::Ok,
            text: None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text.as_deref().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_and_docs_tell_every_code() {
        let docs = include_str!("../../../../docs/command-line.md");
        for exit in [
            Exit::Ok,
            Exit::No,
            Exit::Usage,
            Exit::Unreachable,
            Exit::Refused,
            Exit::Unconfirmed,
        ] {
            let code = exit as u8;
            assert!(EXIT_CODES_HELP.contains(&format!("\n  {code}  ")), "{code}");
            assert!(docs.contains(&format!("\n| {code} | ")), "{code}");
        }
    }
}
