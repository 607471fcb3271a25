//! `/api/v2/instances/HOST/ID`: everything that is known here about one instance.

use catalog::{Protocol, Service, Snapshot};
use serde::Serialize;

use super::forms::{InstanceForm, text};
use crate::{http::routes_document, local_view::CheckView, routes::Routes};

#[derive(Serialize)]
struct Document<'a> {
    version: u64,
    instance: InstanceForm<'a>,
    /// What its check found; only the agent of its own host knows.
    check: Option<CheckView>,
    /// Whether this is the agent of its host, so that no check here means none at all.
    check_at_host: bool,
    routes: Vec<RouteForm>,
}

#[derive(Serialize)]
struct RouteForm {
    service_port: u16,
    routed: bool,
    /// One stable word; `None` when it is routed.
    reason: Option<&'static str>,
    /// The same as a sentence.
    explanation: Option<String>,
}

/// The document. `check` is asked only when the instance is of this host.
pub(super) fn encode(
    snapshot: &Snapshot,
    service: &Service,
    routes: &Routes,
    check: impl FnOnce(&str) -> Option<CheckView>,
) -> String {
    let is_own = *service.hostname == *snapshot.hostname;
    text(&Document {
        version: snapshot.changes,
        instance: service.into(),
        check: is_own.then(|| check(&service.id)).flatten(),
        check_at_host: is_own,
        routes: routes_of(service, routes),
    })
}

fn routes_of(service: &Service, routes: &Routes) -> Vec<RouteForm> {
    let ports = service.port_list().iter();
    let mut ports: Vec<u16> = ports
        .filter(|port| port.service_port > 0 && port.protocol() == Some(Protocol::Tcp))
        .map(|port| port.service_port)
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
        .into_iter()
        .map(|port| route(service, port, routes))
        .collect()
}

fn route(service: &Service, service_port: u16, routes: &Routes) -> RouteForm {
    let is_it = |hostname: &str, id: &str| hostname == service.hostname && id == service.id;
    let route = routes.by_port.get(&service_port);
    let routed = route.is_some_and(|route| {
        let mut endpoints = route.endpoints.iter();
        endpoints.any(|it| is_it(&it.hostname, &it.id))
    });
    let mut excluded = routes.excluded.iter();
    let exclusion =
        excluded.find(|it| it.service_port == service_port && is_it(&it.hostname, &it.id));
    let why = match exclusion {
        _ if routed => None,
        _ if !service.is_alive() => Some((
            "not-alive",
            format!("only alive instances are routed, it is {}", service.status),
        )),
        Some(exclusion) => Some((
            routes_document::reason(&exclusion.reason),
            exclusion.reason.to_string(),
        )),
        None => Some((
            "pending",
            "this agent has not computed routes with it yet: it may just have started".to_owned(),
        )),
    };
    RouteForm {
        service_port,
        routed,
        reason: why.as_ref().map(|(word, _)| *word),
        explanation: why.map(|(_, sentence)| sentence),
    }
}
