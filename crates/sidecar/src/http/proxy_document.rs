//! `/api/v2/proxy`: what the built-in data plane carries, by ServicePort and endpoint.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::proxy::builtin::{
    BUCKET_BOUNDS_MICROS, EndpointStatus, ListenState, PlaneStatus, PortStatus, RequestStatus,
};

#[derive(Serialize)]
struct Document<'a> {
    connections_open: usize,
    connections_max: usize,
    accept_failures: u64,
    access_lines_dropped: u64,
    ports: Vec<PortForm<'a>>,
}

#[derive(Serialize)]
struct PortForm<'a> {
    service_port: u16,
    service: &'a str,
    mode: &'static str,
    listening: bool,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
    connections_open: u64,
    connections_total: u64,
    connections_unserved: u64,
    connect_failures: u64,
    to_endpoints_bytes: u64,
    to_clients_bytes: u64,
    requests_total: u64,
    retries_total: u64,
    /// By status.
    own_answers: &'a BTreeMap<u16, u64>,
    endpoints: Vec<EndpointForm>,
}

#[derive(Serialize)]
struct EndpointForm {
    address: String,
    /// Connections, in http and ws mode requests.
    in_flight: u64,
    connections_total: u64,
    connect_failures: u64,
    avoided: bool,
    ejections: u64,
    sent_bytes: u64,
    received_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    requests: Option<RequestsForm>,
}

#[derive(Serialize)]
struct RequestsForm {
    by_class: BTreeMap<&'static str, u64>,
    failed: u64,
    mean_ms: Option<f64>,
    /// Upper bounds: of the buckets that hold them.
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
}

/// The document, indented.
pub(super) fn encode(plane: &PlaneStatus) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(&Document {
        connections_open: plane.connections_open,
        connections_max: plane.connections_max,
        accept_failures: plane.accept_failures,
        access_lines_dropped: plane.access_lines_dropped,
        ports: plane
            .ports
            .iter()
            .map(|(number, it)| port(*number, it))
            .collect(),
    })
}

fn port(service_port: u16, port: &PortStatus) -> PortForm<'_> {
    let trouble = match &port.listen {
        ListenState::Failed(error) => Some(error.to_string()),
        ListenState::Starting | ListenState::Listening => None,
    };
    PortForm {
        service_port,
        service: &port.service,
        mode: port.mode.as_str(),
        listening: port.listen == ListenState::Listening,
        trouble,
        connections_open: port.connections_open,
        connections_total: port.connections_total,
        connections_unserved: port.connections_unserved,
        connect_failures: port.connect_failures,
        to_endpoints_bytes: port.to_endpoints_bytes,
        to_clients_bytes: port.to_clients_bytes,
        requests_total: port.requests_total,
        retries_total: port.retries_total,
        own_answers: &port.own_answers,
        endpoints: port.endpoints.iter().map(endpoint).collect(),
    }
}

fn endpoint(endpoint: &EndpointStatus) -> EndpointForm {
    EndpointForm {
        address: endpoint.address.to_string(),
        in_flight: endpoint.connections_open,
        connections_total: endpoint.connections_total,
        connect_failures: endpoint.connect_failures,
        avoided: endpoint.avoided,
        ejections: endpoint.ejections,
        sent_bytes: endpoint.sent_bytes,
        received_bytes: endpoint.received_bytes,
        requests: endpoint.requests.as_ref().map(requests),
    }
}

fn requests(requests: &RequestStatus) -> RequestsForm {
    let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"];
    let count: u64 = requests.buckets.iter().sum();
    let mean = requests.sum_micros as f64 / 1e3 / count as f64;
    RequestsForm {
        by_class: classes.into_iter().zip(requests.by_class).collect(),
        failed: requests.failed,
        mean_ms: (count > 0).then_some((mean * 1e3).round() / 1e3),
        p50_ms: quantile(&requests.buckets, 0.5),
        p99_ms: quantile(&requests.buckets, 0.99),
    }
}

/// The bound below which this part of all answers took; `None` without answers, or beyond the last bound.
fn quantile(buckets: &[u64], part: f64) -> Option<f64> {
    let count: u64 = buckets.iter().sum();
    let wanted = (count as f64 * part).ceil() as u64;
    let mut seen = 0;
    let at = buckets.iter().position(|in_bucket| {
        seen += in_bucket;
        seen >= wanted && count > 0
    })?;
    let bound = BUCKET_BOUNDS_MICROS.get(at)?;
    Some(*bound as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_the_bounds_of_their_buckets() {
        let mut buckets = [0; BUCKET_BOUNDS_MICROS.len() + 1];
        assert_eq!(quantile(&buckets, 0.5), None);
        buckets[1] = 98;
        buckets[4] = 1;
        buckets[BUCKET_BOUNDS_MICROS.len()] = 1;
        assert_eq!(quantile(&buckets, 0.5), Some(1.0));
        assert_eq!(quantile(&buckets, 0.99), Some(10.0));
        assert_eq!(quantile(&buckets, 1.0), None);
    }
}
