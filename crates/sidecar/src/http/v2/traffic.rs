//! What the data plane carries, as numbers that grow: readers make rates of two of them.

use std::{net::SocketAddr, time::SystemTime};

use catalog::Timestamp;
use serde::Serialize;

use super::forms::{text, time};
use crate::proxy::builtin::{EndpointStatus, PlaneStatus};

#[derive(Serialize)]
struct Traffic {
    #[serde(serialize_with = "time")]
    at: Timestamp,
    ports: Vec<PortForm>,
}

#[derive(Serialize)]
struct PortForm {
    service_port: u16,
    requests_total: u64,
    connections_open: u64,
    connections_total: u64,
    sum_ms: f64,
    endpoints: Vec<EndpointForm>,
}

#[derive(Serialize)]
struct EndpointForm {
    address: SocketAddr,
    requests_total: u64,
    in_flight: u64,
    failed: u64,
    sum_ms: f64,
    avoided: bool,
}

/// The traffic so far, as JSON.
pub(super) fn encode(plane: &PlaneStatus) -> String {
    let ports = plane.ports.iter().map(|(service_port, port)| {
        let endpoints: Vec<_> = port.endpoints.iter().map(endpoint).collect();
        PortForm {
            service_port: *service_port,
            requests_total: port.requests_total,
            connections_open: port.connections_open,
            connections_total: port.connections_total,
            sum_ms: endpoints.iter().map(|it| it.sum_ms).sum(),
            endpoints,
        }
    });
    text(&Traffic {
        at: SystemTime::now().into(),
        ports: ports.collect(),
    })
}

/// In mode tcp a connection is what a request is elsewhere, and takes no time that could be told.
fn endpoint(endpoint: &EndpointStatus) -> EndpointForm {
    let requests = endpoint.requests.as_ref();
    EndpointForm {
        address: endpoint.address,
        requests_total: requests.map_or(endpoint.connections_total, |it| it.buckets.iter().sum()),
        in_flight: endpoint.connections_open,
        failed: requests.map_or(endpoint.connect_failures, |it| it.failed),
        sum_ms: requests.map_or(0.0, |it| it.sum_micros as f64 / 1e3),
        avoided: endpoint.avoided,
    }
}
