//! The operator's commands: they ask a running agent over its API and print what it says, as tables for
//! people or as JSON for programs.
//!
//! One file per command. Each fetches documents (`api`, `documents`), makes text of them in a pure function
//! and writes it once. Nothing that comes from the network reaches a terminal with control characters in it:
//! `text::printable` is the only way out.

mod address;
mod api;
mod completions;
mod doctor;
mod documents;
mod drain;
mod events;
mod exit;
mod explain;
mod finding;
mod members;
mod output;
#[cfg(test)]
mod scripted;
mod selection;
mod services;
mod table;
mod text;
mod watch;

use clap::Subcommand;

use crate::cli::AgentFlags;
use output::Output;

pub use exit::{EXIT_CODES_HELP, Exit, Failure};

/// What an operator can ask for.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the hosts of the cluster: how they are, when they were last heard, what they run.
    Members(members::Options),
    /// Show services by health, or the instances of one.
    Services(services::Options),
    /// Show every change of an instance as it happens, until interrupted.
    Watch(watch::Options),
    /// Take an instance out of traffic without stopping it.
    Drain(drain::DrainOptions),
    /// Give a drained instance traffic again.
    Undrain(drain::UndrainOptions),
    /// Tell why something is routed on the agent's host, or why not.
    Explain(explain::Options),
    /// Look for what keeps this host from working, with or without a running agent.
    Doctor(doctor::Options),
    /// Print a script that completes this command line in a shell.
    Completions(completions::Options),
}

/// Runs a command to its end and returns the process's exit code. Errors are printed, one line each.
pub fn run(command: &Command, agent: &AgentFlags) -> Exit {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return output::complain(&Failure::no(format!("no runtime: {error}"))),
    };
    let mut output = Output::stdout();
    let outcome = runtime.block_on(dispatch(command, agent, &mut output));
    // A name server that does not answer must not hold up the exit.
    runtime.shutdown_background();
    outcome.unwrap_or_else(|failure| output::complain(&failure))
}

async fn dispatch(
    command: &Command,
    agent: &AgentFlags,
    output: &mut Output,
) -> Result<Exit, Failure> {
    match command {
        Command::Members(options) => members::run(options, output).await,
        Command::Services(options) => services::run(options, output).await,
        Command::Watch(options) => watch::run(options, output).await,
        Command::Drain(options) => drain::drain(options, output).await,
        Command::Undrain(options) => drain::undrain(options, output).await,
        Command::Explain(options) => explain::run(options, agent, output).await,
        Command::Doctor(options) => doctor::run(options, agent, output).await,
        Command::Completions(options) => completions::run(options, output),
    }
}
