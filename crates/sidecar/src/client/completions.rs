//! `sidecar completions`: scripts for shells, made of the command line itself.

use clap::{Args, CommandFactory as _, ValueEnum};
use clap_complete::Shell;

use super::{Exit, Failure, output::Output};
use crate::cli::Cli;

/// What is asked for.
#[derive(Debug, Args)]
pub struct Options {
    /// The shell. For bash: `sidecar completions bash > /etc/bash_completion.d/sidecar`.
    shell: Supported,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Supported {
    Bash,
    Zsh,
    Fish,
}

pub(super) fn run(options: &Options, output: &mut Output) -> Result<Exit, Failure> {
    let shell = match options.shell {
        Supported::Bash => Shell::Bash,
        Supported::Zsh => Shell::Zsh,
        Supported::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "sidecar", &mut script);
    let script = String::from_utf8_lossy(&script);
    output.lines(&script.lines().map(str::to_owned).collect::<Vec<_>>())?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_learns_of_the_commands() {
        for shell in [Supported::Bash, Supported::Zsh, Supported::Fish] {
            let mut output = Output::kept();
            assert_eq!(run(&Options { shell }, &mut output), Ok(Exit::Ok));
            let script = output.text();
            for word in ["explain", "undrain", "token-file"] {
                assert!(script.contains(word), "{shell:?}: {word}");
            }
        }
    }
}
