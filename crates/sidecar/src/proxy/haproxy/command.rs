//! The commands of classic mode: one that verifies a configuration file, one that makes HAProxy run it.
//!
//! Our own run HAProxy's program directly; the user's are for a shell, as in the original. Either way
//! a command has a process group of its own, so that a HAProxy that stops its group stops nobody
//! else, and is killed with all its children when its time is over.

use std::{path::Path, time::Duration};

use rustix::process::Pid;

use crate::{
    config::HaproxyConfig,
    health::{external, orphans::Orphans},
};

/// Longest time a command may take. A configuration of ten thousand servers loads in a few seconds.
const LIMIT: Duration = Duration::from_secs(30);
/// The original's shell, and what every system has.
const SHELLS: [&str; 2] = ["/bin/bash", "/bin/sh"];

/// A command that did not do its work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}{}{output}", if output.is_empty() { "" } else { ": " })]
pub(super) struct CommandError {
    /// How it ended, with its name.
    error: String,
    /// The beginning of what it wrote.
    output: String,
}

/// Runs the commands of one configuration.
#[derive(Debug)]
pub(super) struct Commands<'a> {
    config: &'a HaproxyConfig,
    orphans: Orphans,
}

impl<'a> Commands<'a> {
    pub(super) fn new(config: &'a HaproxyConfig, orphans: Orphans) -> Self {
        Self { config, orphans }
    }

    /// Whether the verify command can be told to look at another file than the configuration file.
    pub(super) fn verifies_anywhere(&self) -> bool {
        self.config.verify_command.as_deref().is_none_or(|command| {
            let config = self.config.config_file.to_string_lossy();
            with_other_path(command, &config, "").is_some()
        })
    }

    /// Verifies `file`; a user's command that does not name the configuration file verifies what it
    /// likes.
    ///
    /// # Errors
    /// When the command fails, with its words.
    pub(super) async fn verify(&self, file: &Path) -> Result<(), CommandError> {
        let file = file.to_string_lossy();
        let Some(command) = &self.config.verify_command else {
            return self
                .run(&[&self.config.binary, "-c", "-f", &file], "HAProxy's check")
                .await;
        };
        let config = self.config.config_file.to_string_lossy();
        let other = with_other_path(command, &config, &file);
        let command = other.as_deref().unwrap_or(command);
        self.run(&[shell(), "-c", command], command).await
    }

    /// Makes HAProxy run the configuration file. `running` are its processes, which finish their
    /// connections; where they have a socket for it, they hand their listeners over.
    ///
    /// # Errors
    /// When the command fails, with its words.
    pub(super) async fn reload(
        &self,
        running: &[Pid],
        hand_over: Option<&str>,
    ) -> Result<(), CommandError> {
        if let Some(command) = &self.config.reload_command {
            return self.run(&[shell(), "-c", command], command).await;
        }
        let config = self.config.config_file.to_string_lossy();
        let pid_file = self.config.pid_file.to_string_lossy();
        let start = [&*self.config.binary, "-D", "-f", &config, "-p", &pid_file];
        let pids: Vec<String> = running.iter().map(ToString::to_string).collect();
        let mut take_over: Vec<&str> = Vec::new();
        if !pids.is_empty() {
            take_over.push("-sf");
            take_over.extend(pids.iter().map(String::as_str));
        }
        if let Some(socket) = hand_over {
            let words = [&start[..], &["-x", socket], &take_over].concat();
            match self.run(&words, "HAProxy's reload").await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::debug!(%error, "HAProxy cannot take the listeners over; it binds its own");
                }
            }
        }
        let words = [&start[..], &take_over].concat();
        self.run(&words, "HAProxy's reload").await
    }

    async fn run(&self, words: &[&str], what: &str) -> Result<(), CommandError> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        tracing::debug!(command = words.join(" "), "running");
        match external::run(&words, LIMIT, &self.orphans).await {
            Ok(_) => Ok(()),
            Err(error) => Err(CommandError {
                output: error.output().to_owned(),
                error: format!("{what:?} failed: {error}"),
            }),
        }
    }
}

fn shell() -> &'static str {
    let mut shells = SHELLS.into_iter();
    shells
        .find(|shell| Path::new(shell).exists())
        .unwrap_or(SHELLS[0])
}

/// The command with another path in place of `path`, wherever that stands as a whole; `None` where it
/// does not.
fn with_other_path(command: &str, path: &str, other: &str) -> Option<String> {
    let is_part = |c: char| c.is_alphanumeric() || "/._-".contains(c);
    let mut text = String::with_capacity(command.len());
    let mut rest = command;
    let mut found = false;
    while let Some(at) = rest.find(path) {
        let (before, after) = (&rest[..at], &rest[at + path.len()..]);
        let is_whole = !before.ends_with(is_part) && !after.starts_with(is_part);
        text.push_str(before);
        text.push_str(if is_whole { other } else { path });
        found |= is_whole;
        rest = after;
    }
    text.push_str(rest);
    found.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_path_is_exchanged() {
        let exchanged = |command| with_other_path(command, "/etc/haproxy.cfg", "/etc/new");
        assert_eq!(
            exchanged("haproxy -c -f '/etc/haproxy.cfg' && true").as_deref(),
            Some("haproxy -c -f '/etc/new' && true")
        );
        assert_eq!(
            exchanged("x /etc/haproxy.cfg.d /etc/haproxy.cfg /chroot/etc/haproxy.cfg").as_deref(),
            Some("x /etc/haproxy.cfg.d /etc/new /chroot/etc/haproxy.cfg")
        );
        assert_eq!(exchanged("docker exec lb haproxy -c -f /usr/etc/x"), None);
        assert_eq!(exchanged("check /etc/haproxy.cfg.old"), None);
    }
}
