//! `/api/v2/routes`: what this agent routes where, and which alive instances it leaves out, and why.
//! Every data plane of this host serves exactly this.

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

/// The document, indented.
pub(super) fn encode(routes: &Routes) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(&document(routes))
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
    let reason = match &exclusion.reason {
        ExclusionReason::PortOwnedBy(_) => "port-owned",
        ExclusionReason::UnknownMode(_) => "unknown-mode",
        ExclusionReason::ModeDiffers(_) => "mode-differs",
        ExclusionReason::NoAddress(_) => "no-address",
        ExclusionReason::NoPort => "no-port",
    };
    ExclusionForm {
        service_port: exclusion.service_port,
        service: &exclusion.service,
        hostname: &exclusion.hostname,
        id: &exclusion.id,
        reason,
        explanation: exclusion.reason.to_string(),
    }
}
