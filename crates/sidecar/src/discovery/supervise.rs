//! Starts the sources: those that were chosen, or whichever are there, now or later.

use std::{collections::BTreeSet, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    Settings, SourceName, SourceSender,
    docker::{self, DockerConfig, Endpoint},
    static_file::{self, StaticConfig},
};
use crate::{config::Config, net::resolver::Resolver};

/// How long an engine may take to answer before it counts as absent.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often absent sources are looked for again.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The sources that are there now: an engine that answers, a static file that exists.
pub async fn present(config: &Config, resolver: &Resolver) -> Vec<SourceName> {
    let mut present = Vec::new();
    if engine_is_there(&config.docker, resolver).await {
        present.push(SourceName::Docker);
    }
    if config.static_file.exists() {
        present.push(SourceName::Static);
    }
    present
}

/// Runs `sources`, and with `automatic` also those that appear later, until `shutdown`.
pub async fn run(
    settings: Settings,
    sources: Vec<SourceName>,
    automatic: bool,
    resolver: Resolver,
    found: SourceSender,
    shutdown: CancellationToken,
) {
    let mut tasks = tokio::task::JoinSet::new();
    let mut missing = BTreeSet::from([SourceName::Docker, SourceName::Static]);
    for source in sources {
        missing.remove(&source);
        start(&mut tasks, source, &settings, &resolver, &found, &shutdown);
    }
    let mut reload = settings.reload.clone();
    let mut may_be_asked = true;
    while automatic && !missing.is_empty() {
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
            asked = reload.changed(), if may_be_asked => may_be_asked = asked.is_ok(),
        }
        for source in missing.clone() {
            let there = match source {
                SourceName::Docker => engine_is_there(&settings.docker, &resolver).await,
                SourceName::Static => settings.static_file.exists(),
            };
            if there {
                missing.remove(&source);
                info!(?source, "a source of services has appeared");
                start(&mut tasks, source, &settings, &resolver, &found, &shutdown);
            }
        }
    }
    while tasks.join_next().await.is_some() {}
}

fn start(
    tasks: &mut tokio::task::JoinSet<()>,
    source: SourceName,
    settings: &Settings,
    resolver: &Resolver,
    found: &SourceSender,
    shutdown: &CancellationToken,
) {
    match source {
        SourceName::Docker => {
            let config = DockerConfig {
                endpoint: settings.docker.clone(),
                naming: settings.docker_naming.clone(),
                hold: settings.docker_hold,
                view: settings.view.clone(),
                hostname: settings.hostname.clone(),
                advertise_ip: settings.advertise_ip,
            };
            tasks.spawn(docker::run(
                config,
                resolver.clone(),
                found.clone(),
                shutdown.clone(),
            ));
        }
        SourceName::Static => {
            let config = StaticConfig {
                path: settings.static_file.clone(),
                hostname: settings.hostname.clone(),
                advertise_ip: settings.advertise_ip,
            };
            tasks.spawn(static_file::run(
                config,
                settings.view.clone(),
                settings.reload.clone(),
                found.clone(),
                shutdown.clone(),
            ));
        }
    }
}

async fn engine_is_there(endpoint: &Endpoint, resolver: &Resolver) -> bool {
    if let Endpoint::Unix(path) = endpoint
        && !path.exists()
    {
        return false;
    }
    docker::engine_answers(endpoint, resolver, ENGINE_TIMEOUT)
        .await
        .is_ok()
}
