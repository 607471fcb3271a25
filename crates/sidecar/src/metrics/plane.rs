//! Metrics of the built-in data plane: by ServicePort, and by endpoint.

use super::{Text, label};
use crate::proxy::builtin::{
    BUCKET_BOUNDS_MICROS, EndpointStatus, ListenState, PlaneStatus, PortStatus, RequestStatus,
};

type Read = fn(&PortStatus) -> u64;
type ReadEndpoint = fn(&EndpointStatus) -> u64;

/// Adds all of them.
pub(super) fn render(plane: &PlaneStatus, text: &mut Text) {
    ports(plane, text);
    own_answers(plane, text);
    endpoints(plane, text);
    answers(plane, text);
    durations(plane, text);
    text.single(
        "sidecar_proxy_access_lines_dropped_total",
        "counter",
        "Lines of the access log that came faster than they could be written.",
        plane.access_lines_dropped,
    );
}

fn ports(plane: &PlaneStatus, text: &mut Text) {
    let families: [(&str, &str, &str, Read); 9] = [
        (
            "listening",
            "gauge",
            "Whether the ServicePort is open here.",
            |port| u64::from(port.listen == ListenState::Listening),
        ),
        ("connections_open", "gauge", "Connections open.", |port| {
            port.connections_open
        }),
        (
            "connections_total",
            "counter",
            "Connections accepted.",
            |port| port.connections_total,
        ),
        (
            "connections_unserved_total",
            "counter",
            "Connections for which no endpoint answered.",
            |port| port.connections_unserved,
        ),
        (
            "connect_failures_total",
            "counter",
            "Failed connects to endpoints.",
            |port| port.connect_failures,
        ),
        (
            "to_endpoints_bytes_total",
            "counter",
            "Bytes from clients to endpoints.",
            |port| port.to_endpoints_bytes,
        ),
        (
            "to_clients_bytes_total",
            "counter",
            "Bytes from endpoints to clients.",
            |port| port.to_clients_bytes,
        ),
        (
            "requests_total",
            "counter",
            "Requests of clients, in http and ws mode.",
            |port| port.requests_total,
        ),
        (
            "retries_total",
            "counter",
            "Times a request was given to another endpoint, or again to the same.",
            |port| port.retries_total,
        ),
    ];
    for (name, kind, help, read) in families {
        let name = format!("sidecar_proxy_{name}");
        text.family(&name, kind, help);
        for (service_port, port) in &plane.ports {
            let service = label(&port.service);
            let value = read(port);
            text.line(format_args!(
                "{name}{{service_port=\"{service_port}\",service=\"{service}\"}} {value}"
            ));
        }
    }
}

fn own_answers(plane: &PlaneStatus, text: &mut Text) {
    let name = "sidecar_proxy_own_answers_total";
    let help = "Answers that the proxy made itself, by status, since no endpoint gave one.";
    text.family(name, "counter", help);
    for (service_port, port) in &plane.ports {
        let service = label(&port.service);
        for (code, count) in &port.own_answers {
            text.line(format_args!(
                "{name}{{service_port=\"{service_port}\",service=\"{service}\",code=\"{code}\"}} {count}"
            ));
        }
    }
}

/// The labels of an endpoint.
fn labels(service_port: u16, port: &PortStatus, endpoint: &EndpointStatus) -> String {
    let (service, address) = (label(&port.service), endpoint.address);
    format!("service_port=\"{service_port}\",service=\"{service}\",endpoint=\"{address}\"")
}

/// Endpoints of all ports with their labels.
fn each(plane: &PlaneStatus) -> impl Iterator<Item = (String, &EndpointStatus)> {
    plane.ports.iter().flat_map(|(number, port)| {
        let endpoints = port.endpoints.iter();
        endpoints.map(|endpoint| (labels(*number, port, endpoint), endpoint))
    })
}

/// Endpoints in http and ws mode with their labels and what became of requests.
fn asked(plane: &PlaneStatus) -> impl Iterator<Item = (String, &RequestStatus)> {
    each(plane).filter_map(|(labels, endpoint)| Some((labels, endpoint.requests.as_ref()?)))
}

fn endpoints(plane: &PlaneStatus, text: &mut Text) {
    let families: [(&str, &str, &str, ReadEndpoint); 7] = [
        (
            "in_flight",
            "gauge",
            "Connections open, in http and ws mode requests in flight.",
            |it| it.connections_open,
        ),
        (
            "connections_total",
            "counter",
            "Connections that reached the endpoint.",
            |it| it.connections_total,
        ),
        (
            "connect_failures_total",
            "counter",
            "Connects that failed.",
            |it| it.connect_failures,
        ),
        (
            "avoided",
            "gauge",
            "Whether it is asked last because it just could not be reached.",
            |it| u64::from(it.avoided),
        ),
        (
            "ejections_total",
            "counter",
            "How often it became so.",
            |it| it.ejections,
        ),
        ("sent_bytes_total", "counter", "Bytes sent to it.", |it| {
            it.sent_bytes
        }),
        (
            "received_bytes_total",
            "counter",
            "Bytes received from it.",
            |it| it.received_bytes,
        ),
    ];
    for (name, kind, help, read) in families {
        let name = format!("sidecar_proxy_endpoint_{name}");
        text.family(&name, kind, help);
        for (labels, endpoint) in each(plane) {
            let value = read(endpoint);
            text.line(format_args!("{name}{{{labels}}} {value}"));
        }
    }
}

fn answers(plane: &PlaneStatus, text: &mut Text) {
    let name = "sidecar_proxy_endpoint_requests_total";
    let help = "Requests by the class of the answer, and those that were sent and got none.";
    text.family(name, "counter", help);
    for (labels, requests) in asked(plane) {
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        let counts = classes.iter().zip(requests.by_class);
        for (class, count) in counts.chain([(&"failed", requests.failed)]) {
            text.line(format_args!("{name}{{{labels},class=\"{class}\"}} {count}"));
        }
    }
}

fn durations(plane: &PlaneStatus, text: &mut Text) {
    let name = "sidecar_proxy_endpoint_response_seconds";
    let help = "Time from sending a request until the head of its answer came.";
    text.family(name, "histogram", help);
    for (labels, requests) in asked(plane) {
        let mut count = 0;
        for (at, in_bucket) in requests.buckets.iter().enumerate() {
            count += in_bucket;
            let bound = BUCKET_BOUNDS_MICROS.get(at);
            let bound =
                bound.map_or_else(|| "+Inf".to_owned(), |it| (*it as f64 / 1e6).to_string());
            text.line(format_args!(
                "{name}_bucket{{{labels},le=\"{bound}\"}} {count}"
            ));
        }
        let sum = requests.sum_micros as f64 / 1e6;
        text.line(format_args!("{name}_sum{{{labels}}} {sum}"));
        text.line(format_args!("{name}_count{{{labels}}} {count}"));
    }
}
