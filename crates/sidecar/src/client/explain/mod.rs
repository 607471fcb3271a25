//! `sidecar explain`: why something is routed on the agent's host, or why not. Walks from the container to the
//! client: source, check, record, host, ports, route, data plane, one line for each.
//!
//! `world` has what an agent knows, `instance` and `port` walk through it, `unknown` helps who misspelt
//! something. All but the fetching is pure.

mod instance;
mod port;
#[cfg(test)]
mod tests;
mod unknown;
mod world;

use clap::Args;
use serde::Serialize;

use self::world::World;
use super::{
    Exit, Failure,
    address::Connection,
    api::Agent,
    documents::Instance,
    finding::{Finding, Mark},
    output::{Colour, Output},
    selection::{by_id, by_name},
    text::printable,
};
use crate::{
    cli::AgentFlags,
    discovery::docker::{Sighting, sightings},
    net::resolver::Resolver,
};

/// Most instances of one service that are explained; of more only the number is told.
const INSTANCES_MAX: usize = 50;

/// Time for the engine to list its containers.
const ENGINE_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);

/// What is to be explained.
#[derive(Debug, Args)]
pub struct Options {
    /// Name of a service, ID of an instance or its beginning (4 characters), or a service port.
    #[arg(value_name = "NAME|ID|PORT")]
    subject: String,
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
    let agent = Agent::of(&options.connection)?;
    let mut world = World::fetch(&agent).await?;
    let is_there = |it: &&Instance| !it.is_gone();
    let is_missed = !meant(&options.subject, &world).iter().any(is_there);
    if is_missed && agent.place.is_this_host() {
        world.containers = containers(flags).await;
    }
    let explanation = explain(&options.subject, &world);
    if options.json {
        let document =
            serde_json::to_string(&explanation).map_err(|error| Failure::no(error.to_string()))?;
        output.json(&document)?;
    } else {
        output.lines(&explanation.lines(output))?;
    }
    Ok(if explanation.routed {
        Exit::Ok
    } else {
        Exit::No
    })
}

/// The containers of this host, as far as its engine can be asked: that it cannot is told by the agent.
async fn containers(flags: &AgentFlags) -> Vec<Sighting> {
    let Ok(config) = flags.resolve() else {
        return Vec::new();
    };
    let (endpoint, naming) = (&config.docker, &config.docker_naming);
    sightings(endpoint, naming, &Resolver::default(), ENGINE_WITHIN)
        .await
        .unwrap_or_default()
}

/// Why something is routed on a host or not.
#[derive(Debug, Serialize)]
struct Explanation {
    /// The word that was asked about.
    subject: String,
    /// The host whose routes these are.
    host: String,
    /// Whether traffic reaches it: the port, or at least one of the instances.
    routed: bool,
    parts: Vec<Part>,
}

/// One instance, or one port.
#[derive(Debug, Serialize)]
struct Part {
    title: String,
    routed: bool,
    steps: Vec<Finding>,
}

impl Part {
    /// A part whose steps decide: it is routed where none has failed.
    fn of(title: String, steps: Vec<Finding>) -> Self {
        Self {
            title,
            routed: steps.iter().all(|step| step.state != Mark::Failed),
            steps,
        }
    }
}

impl Explanation {
    fn lines(&self, output: &Output) -> Vec<String> {
        let mut lines = Vec::new();
        for part in &self.parts {
            let verdict = if part.routed {
                output.paint(Colour::Green, "routed")
            } else {
                output.paint(Colour::Red, "not routed")
            };
            lines.push(format!(
                "{}: {verdict} on {}",
                printable(&part.title),
                printable(&self.host)
            ));
            let steps = part.steps.iter();
            lines.extend(steps.map(|step| format!("  {}", step.line(output))));
        }
        lines
    }
}

/// Finds what the word means and walks through it. Names go before ports, ports before beginnings of IDs.
fn explain(subject: &str, world: &World) -> Explanation {
    let found = meant(subject, world);
    let parts = match (found.as_slice(), port_of(subject)) {
        ([], Some(port)) => port::explain(port, world),
        ([], None) => vec![unknown::explain(subject, world)],
        (found, _) => instances(found, world),
    };
    Explanation {
        subject: subject.to_owned(),
        host: world.overview.hostname.clone(),
        routed: parts.iter().any(|part| part.routed),
        parts,
    }
}

/// The instances that the word means.
fn meant<'a>(subject: &str, world: &'a World) -> Vec<&'a Instance> {
    let all = &world.instances;
    let exact: Vec<_> = all.iter().filter(|it| it.id == subject).collect();
    if !exact.is_empty() {
        return exact;
    }
    let named = by_name(subject, all);
    if !named.is_empty() || port_of(subject).is_some() {
        return named;
    }
    by_id(subject, all)
}

fn port_of(subject: &str) -> Option<u16> {
    subject.parse().ok().filter(|port| *port != 0)
}

fn instances(found: &[&Instance], world: &World) -> Vec<Part> {
    let mut parts: Vec<Part> = found
        .iter()
        .take(INSTANCES_MAX)
        .map(|it| instance::explain(it, world))
        .collect();
    if let Some(more) = found.len().checked_sub(INSTANCES_MAX).filter(|it| *it > 0) {
        let step = Finding::warning("more", format!("{more} instances are not explained"))
            .fix("name one by its ID: sidecar services NAME");
        parts.push(Part {
            title: format!("{more} more"),
            routed: false,
            steps: vec![step],
        });
    }
    parts
}
