//! `/api/v2/routes`: what this agent routes where, and which alive instances it leaves out, and why.
//! Every data plane of this host serves exactly this.

use std::net::IpAddr;

use serde::Serialize;

use crate::routes::{Exclusion, ExclusionReason, Routes};

#[derive(Serialize)]
struct Document<'a> {
    routes: Vec<RouteForm<'a>>,
    excluded: Vec<ExclusionForm<'a>>,
}

#[derive(Serialize)]
struct RouteForm<'a> {
    service_port: u16,
    service: &'a str,
    mode: &'static str,
    endpoints: Vec<EndpointForm<'a>>,
}

#[derive(Serialize)]
struct EndpointForm<'a> {
    hostname: &'a str,
    id: &'a str,
    address: String,
    weight: u8,
}

#[derive(Serialize)]
struct ExclusionForm<'a> {
    service_port: u16,
    service: &'a str,
    hostname: &'a str,
    id: &'a str,
    /// One stable word, for programs.
    reason: &'static str,
    /// A sentence, for people.
    explanation: String,
}

/// The document of an agent that has made these routes of a snapshot with so many changes at least, and
/// serves them at an address; indented.
pub(super) fn encode(
    routes: &Routes,
    version: u64,
    bind_ip: Option<IpAddr>,
) -> Result<String, serde_json::Error> {
    #[derive(Serialize)]
    struct Served<D> {
        version: u64,
        bind_ip: Option<IpAddr>,
        #[serde(flatten)]
        routes: D,
    }
    serde_json::to_string_pretty(&Served {
        version,
        bind_ip,
        routes: document(routes),
    })
}

/// The document, as something to serialize.
pub(crate) fn document(routes: &Routes) -> impl Serialize + '_ {
    Document {
        routes: routes
            .by_port
            .iter()
            .map(|(port, route)| RouteForm {
                service_port: *port,
                service: &route.service,
                mode: route.mode.as_str(),
                endpoints: route
                    .endpoints
                    .iter()
                    .map(|endpoint| EndpointForm {
                        hostname: &endpoint.hostname,
                        id: &endpoint.id,
                        address: endpoint.address.to_string(),
                        weight: endpoint.weight,
                    })
                    .collect(),
            })
            .collect(),
        excluded: routes.excluded.iter().map(exclusion).collect(),
    }
}

fn exclusion(exclusion: &Exclusion) -> ExclusionForm<'_> {
    ExclusionForm {
        service_port: exclusion.service_port,
        service: &exclusion.service,
        hostname: &exclusion.hostname,
        id: &exclusion.id,
        reason: reason(&exclusion.reason),
        explanation: exclusion.reason.to_string(),
    }
}

/// The word for a reason.
pub(super) fn reason(reason: &ExclusionReason) -> &'static str {
    match reason {
        ExclusionReason::PortOwnedBy(_) => "port-owned",
        ExclusionReason::UnknownMode(_) => "unknown-mode",
        ExclusionReason::ModeDiffers(_) => "mode-differs",
        ExclusionReason::NoAddress(_) => "no-address",
        ExclusionReason::NoPort => "no-port",
    }
}
