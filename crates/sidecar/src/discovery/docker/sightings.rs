//! Containers as an operator looks for them, those that do not run included, and why one is not announced.
//!
//! Asked once, by a command; the source follows the engine by itself.

use std::time::Duration;

use super::{
    endpoint::Endpoint,
    engine::{Engine, EngineError},
    labels,
    names::Naming,
    wire::{Container, short_id},
};
use crate::net::resolver::Resolver;

/// A container on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// The name people use.
    pub name: String,
    /// The short ID, by which records name it, too.
    pub id: String,
    /// The name of its service.
    pub service: String,
    /// Why it is not announced, and the command that changes that; `None` for one that should be.
    pub absence: Option<(String, String)>,
}

/// All containers of the engine, in its order.
///
/// # Errors
/// When it cannot be asked, or does not answer within `timeout`.
pub async fn sightings(
    endpoint: &Endpoint,
    naming: &Naming,
    resolver: &Resolver,
    timeout: Duration,
) -> Result<Vec<Sighting>, EngineError> {
    let looking = async {
        let mut engine = Engine::new(endpoint.clone(), resolver.clone());
        engine.negotiate().await?;
        engine.list_all().await
    };
    let listing = tokio::time::timeout(timeout, looking)
        .await
        .map_err(|_| EngineError::Timeout(timeout))??;
    let containers = listing.containers.iter();
    Ok(containers.map(|it| sighting(it, naming)).collect())
}

fn sighting(container: &Container, naming: &Naming) -> Sighting {
    let name = container.display_name().to_owned();
    let absence = if labels::is_hidden(container) {
        let command = "start it without the label".to_owned();
        Some((
            "its label SidecarDiscover=false hides it".to_owned(),
            command,
        ))
    } else if container.is_paused() {
        Some(("it is paused".to_owned(), format!("docker unpause {name}")))
    } else if container.is_restarting() {
        let cause = "it keeps ending and is started again and again";
        Some((cause.to_owned(), format!("docker logs {name}")))
    } else if !container.is_running() {
        let state = container.state_for_people();
        let command = format!("docker logs {name}, docker start {name}");
        Some((format!("it does not run: {state}"), command))
    } else {
        None
    };
    Sighting {
        id: short_id(&container.id).to_owned(),
        service: naming.name(container).to_owned(),
        name,
        absence,
    }
}
