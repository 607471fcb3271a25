//! Where commands write: standard output for what was asked for, standard error for what went wrong.

use std::io::{self, IsTerminal as _, Write as _};

use super::{
    Exit, Failure,
    table::Table,
    text::{printable, printable_json},
};

/// Colours for terminals. They only repeat what words say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    Red,
    Green,
    Yellow,
}

/// Standard output, or in tests a text.
#[derive(Debug)]
pub(super) struct Output {
    /// `None` is standard output.
    kept: Option<Vec<u8>>,
    colours: bool,
}

impl Output {
    /// With colours where it is a terminal that has some and NO_COLOR is not set (<https://no-color.org>).
    pub(super) fn stdout() -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            kept: None,
            colours: io::stdout().is_terminal() && !set("NO_COLOR") && !is_dumb,
        }
    }

    #[cfg(test)]
    pub(super) fn kept() -> Self {
        Self {
            kept: Some(Vec::new()),
            colours: false,
        }
    }

    #[cfg(test)]
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.kept.clone().unwrap_or_default()).unwrap()
    }

    /// A text in colour, where there are colours. The text must be printable already.
    pub(super) fn paint(&self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Red => 31,
            Colour::Green => 32,
            Colour::Yellow => 33,
        };
        if self.colours {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }

    /// Writes lines that are printable already.
    pub(super) fn lines(&mut self, lines: &[String]) -> Result<(), Failure> {
        let mut text = lines.join("\n");
        if !lines.is_empty() {
            text.push('\n');
        }
        self.write(&text)
    }

    /// Writes a table.
    pub(super) fn table<const N: usize>(&mut self, table: &Table<N>) -> Result<(), Failure> {
        self.lines(&table.lines())
    }

    /// Writes a JSON document, or one object of many, and ends its line.
    pub(super) fn json(&mut self, document: &str) -> Result<(), Failure> {
        self.write(&format!("{}\n", printable_json(document.trim_end())))
    }

    fn write(&mut self, text: &str) -> Result<(), Failure> {
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(text.as_bytes());
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
            .map_err(|error| match error.kind() {
                io::ErrorKind::BrokenPipe => Failure::closed(),
                _ => Failure::no(format!("cannot write the output: {error}")),
            })
    }

    /// Whether whoever read the output has gone. A pipe tells so without being written to.
    pub(super) fn is_closed(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        if self.kept.is_some() {
            return false;
        }
        let stdout = io::stdout();
        let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
        let at_once = Timespec::default();
        poll(&mut polled, Some(&at_once)).is_ok() && polled[0].revents().contains(PollFlags::ERR)
    }
}

/// Says something on standard error, on one line. Nobody can be told that it cannot be written.
pub(super) fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "{}", printable(text));
}

/// Prints why a command failed, and returns its exit code.
pub(super) fn complain(failure: &Failure) -> Exit {
    if let Some(text) = &failure.text {
        let _ = writeln!(io::stderr(), "sidecar: {}", printable_line(text));
    }
    failure.exit
}

/// As [`printable`], at a length that leaves room for a cause and a remedy.
fn printable_line(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let parts = chars.chunks(200);
    parts
        .take(10)
        .map(|part| printable(&part.iter().collect::<String>()))
        .collect()
}
