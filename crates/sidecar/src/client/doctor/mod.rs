//! `sidecar doctor`: what keeps this host from working, with the cause and the remedy, with or without a
//! running agent.
//!
//! Everything is tried and nothing guessed: ports are bound, addresses looked for, the engine and the seeds asked,
//! files read by the code that the agent reads them with, privileges used in a way that changes nothing. What is
//! looked at is what an agent with this environment would need; for an agent of another host (`--addr`) only
//! what that agent itself says.

mod agent;
mod host;
mod owner;
mod seeds;
mod sources;
#[cfg(test)]
mod tests;

use clap::Args;

use super::{
    Exit, Failure,
    address::{Connection, Place},
    api::Agent,
    finding::{Finding, Mark},
    output::{Colour, Output},
};
use crate::{
    cli::{AgentFlags, environment},
    config::{Config, ConfigError},
};

/// What is asked for.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    connection: Connection,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(
    options: &Options,
    flags: &AgentFlags,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let config = flags.resolve();
    // The variable that says where the agent listens may be what is wrong: then the rest is still of use.
    let place = match (options.connection.place(&environment()), &config) {
        (Err(_), Err(_)) if options.connection.addr.is_none() => None,
        (place, _) => Some(place?),
    };
    let findings = look(place, config).await?;
    let failed = count(&findings, Mark::Failed);
    let warnings = count(&findings, Mark::Warning);
    if options.json {
        let document = serde_json::json!({
            "ok": failed == 0, "failed": failed, "warnings": warnings, "findings": findings,
        });
        output.json(&document.to_string())?;
    } else {
        let mut lines: Vec<String> = findings.iter().map(|it| it.line(output)).collect();
        lines.push(match (failed, warnings) {
            (0, 0) => output.paint(Colour::Green, "all fine"),
            (0, warnings) => format!("nothing failed, {warnings} to look at"),
            (failed, warnings) => {
                let text = format!("{failed} failed, {warnings} to look at");
                output.paint(Colour::Red, &text)
            }
        });
        output.lines(&lines)?;
    }
    Ok(if failed == 0 { Exit::Ok } else { Exit::No })
}

fn count(findings: &[Finding], mark: Mark) -> usize {
    findings.iter().filter(|it| it.state == mark).count()
}

async fn look(
    place: Option<Place>,
    config: Result<Config, Vec<ConfigError>>,
) -> Result<Vec<Finding>, Failure> {
    let is_here = place.as_ref().is_none_or(Place::is_this_host);
    let mut findings = Vec::new();
    if is_here {
        findings.extend(configuration(&config));
    }
    let overview = match place {
        None => None,
        Some(place) => {
            let agent = Agent::at(place)?;
            let (found, overview) = agent::look(&agent).await;
            findings.extend(found);
            overview
        }
    };
    let Ok(config) = config else {
        return Ok(findings);
    };
    if is_here {
        let running = overview.as_ref();
        findings.extend(host::look(&config, running).await);
        findings.extend(sources::look(&config).await);
        findings.extend(seeds::look(&config, running.is_some()).await);
    }
    Ok(findings)
}

fn configuration(config: &Result<Config, Vec<ConfigError>>) -> Vec<Finding> {
    match config {
        Ok(config) => {
            let valid = Finding::ok("config", "the configuration is usable");
            let warnings = config.warnings.iter();
            let warnings = warnings.map(|it| Finding::warning("config", it.clone()));
            std::iter::once(valid).chain(warnings).collect()
        }
        Err(errors) => errors
            .iter()
            .map(|error| {
                Finding::failed(
                    "config",
                    format!("{}={:?} is not usable", error.name, error.value),
                )
                .because(format!("expected {}", error.expected))
                .fix(format!(
                    "set {} right; what is in force: sidecar config",
                    error.name
                ))
            })
            .collect(),
    }
}
