//! Envoy's first interface, REST with JSON of its own kind: kept for those who still poll it. Made of the same
//! routes as everything else, ordered by name.

use std::{net::IpAddr, sync::Arc};

use catalog::{ProxyMode, Snapshot, Timestamp};
use serde_json::{Value, json};

use crate::routes::{Route, Routes};

type Encoded = Result<String, serde_json::Error>;

/// How things are shown there. Go Sidecar takes it from the settings of HAProxy.
#[derive(Debug, Clone, Copy)]
pub struct EnvoyV1 {
    /// Address of the listeners.
    pub bind: IpAddr,
    /// Whether instances are named by their host instead of an address.
    pub use_hostnames: bool,
}

/// The instances of a service at a ServicePort, `None` when that is not what `service` names. One that nobody
/// offers has none.
pub(super) fn registration(
    routes: &Routes,
    snapshot: &Snapshot,
    service: &str,
    how: EnvoyV1,
) -> Option<Encoded> {
    let (name, port) = service.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let route = routes.by_port.get(&port).filter(|it| it.service == name);
    let mut endpoints: Vec<_> = route.into_iter().flat_map(|it| &it.endpoints).collect();
    // One entry for each instance, as ever.
    endpoints.dedup_by(|a, b| (&a.hostname, &a.id) == (&b.hostname, &b.id));
    let hosts = endpoints.into_iter().map(|endpoint| {
        let record = snapshot.service(&endpoint.hostname, &endpoint.id);
        let address = if how.use_hostnames {
            endpoint.hostname.clone()
        } else {
            endpoint.address.ip().to_string()
        };
        json!({
            "ip_address": address,
            "last_check_in": record.map_or_else(String::new, |it| printed(it.updated)),
            "port": endpoint.address.port(),
            "revision": record.map_or("", |it| it.version()),
            "service": service,
            "service_repo_name": record.map_or("", |it| it.image.as_str()),
            "tags": {},
        })
    });
    let hosts: Vec<Value> = hosts.collect();
    let document = json!({ "env": &*snapshot.cluster_name, "hosts": hosts, "service": service });
    Some(serde_json::to_string(&document))
}

/// All services at their ServicePorts.
pub(super) fn clusters(routes: &Routes) -> Encoded {
    let clusters = named(routes).into_iter().map(|(name, _, _)| {
        json!({
            "name": name, "type": "sds", "connect_timeout_ms": 500, "lb_type": "round_robin",
            "service_name": name,
        })
    });
    serde_json::to_string(&json!({ "clusters": clusters.collect::<Vec<_>>() }))
}

/// Where services are reached. Everything but mode http is TCP, also ws, as this interface knows no upgrades.
pub(super) fn listeners(routes: &Routes, how: EnvoyV1) -> Encoded {
    let listeners = named(routes).into_iter().map(|(name, port, route)| {
        let filter = match route.mode {
            ProxyMode::Http => json!({
                "name": "envoy.http_connection_manager",
                "config": {
                    "codec_type": "auto",
                    "stat_prefix": "ingress_http",
                    "route_config": { "virtual_hosts": [{
                        "name": route.service,
                        "domains": ["*"],
                        "routes": [{ "timeout_ms": 0, "prefix": "/", "host_rewrite": "", "cluster": name }],
                    }] },
                    "filters": [{ "name": "router", "config": {} }],
                },
            }),
            ProxyMode::Tcp | ProxyMode::Ws => json!({
                "name": "envoy.tcp_proxy",
                "config": {
                    "stat_prefix": "ingress_tcp",
                    "route_config": { "routes": [{ "cluster": name }] },
                },
            }),
        };
        let address = std::net::SocketAddr::new(how.bind, port);
        json!({ "name": name, "address": format!("tcp://{address}"), "filters": [filter] })
    });
    serde_json::to_string(&json!({ "listeners": listeners.collect::<Vec<_>>() }))
}

fn named(routes: &Routes) -> Vec<(String, u16, &Arc<Route>)> {
    let by_port = routes.by_port.iter();
    let mut named: Vec<_> = by_port
        .map(|(port, route)| (format!("{}:{port}", route.service), *port, route))
        .collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    named
}

/// A time as Go prints it: `2026-02-03 09:16:02.418230911 +0000 UTC`.
fn printed(time: Timestamp) -> String {
    let text = time.to_string();
    let text = text.trim_end_matches('Z').replacen('T', " ", 1);
    format!("{text} +0000 UTC")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::http::tests::{recorded_state, vector};

    const HOW: EnvoyV1 = EnvoyV1 {
        bind: IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 168, 168)),
        use_hostnames: false,
    };

    fn recorded(file: &str) -> Value {
        serde_json::from_str(&vector(file)).unwrap()
    }

    /// What is recorded is in no order, and has the UDP port of `dns` as if it were TCP.
    fn as_set(document: &Value, list: &str) -> BTreeSet<String> {
        let entries = document[list].as_array().unwrap().iter();
        entries
            .map(|entry| {
                let mut entry = entry.clone();
                // It tells of a moment that no recorded state is of.
                if let Some(entry) = entry.as_object_mut() {
                    entry.remove("last_check_in");
                }
                entry.to_string()
            })
            .collect()
    }

    fn parsed(document: Encoded) -> Value {
        serde_json::from_str(&document.unwrap()).unwrap()
    }

    #[test]
    fn documents_are_those_of_go_sidecar() {
        let snapshot = recorded_state("api-state.json");
        let routes = Routes::of(&snapshot);
        for file in ["v1-clusters.json", "v1-clusters-node.json"] {
            let expected = as_set(&recorded(file), "clusters");
            assert_eq!(as_set(&parsed(clusters(&routes)), "clusters"), expected);
        }
        let found = parsed(listeners(&routes, HOW));
        let expected = as_set(&recorded("v1-listeners.json"), "listeners");
        assert_eq!(as_set(&found, "listeners"), expected);
        for (service, file) in [
            ("frontend:8080", "v1-registration-frontend.json"),
            ("sick:8091", "v1-registration-sick.json"),
            ("nope:1", "err-registration-unknown.json"),
        ] {
            let found = parsed(registration(&routes, &snapshot, service, HOW).unwrap());
            let expected = recorded(file);
            assert_eq!(as_set(&found, "hosts"), as_set(&expected, "hosts"));
            for field in ["env", "service"] {
                assert_eq!(found[field], expected[field]);
            }
        }
        for service in ["frontend", "frontend:", "frontend:http"] {
            let found = registration(&routes, &snapshot, service, HOW);
            assert!(found.is_none(), "{service}");
        }
    }

    #[test]
    fn instances_may_be_named_by_host_and_times_are_as_go_prints_them() {
        let snapshot = recorded_state("api-state.json");
        let routes = Routes::of(&snapshot);
        let how = EnvoyV1 {
            use_hostnames: true,
            ..HOW
        };
        let found = parsed(registration(&routes, &snapshot, "chat:8090", how).unwrap());
        assert_eq!(found["hosts"][0]["ip_address"], "web-02");
        let time: Timestamp = "2026-02-03T09:16:02.41823Z".parse().unwrap();
        assert_eq!(printed(time), "2026-02-03 09:16:02.41823 +0000 UTC");
        let empty = parsed(clusters(&Routes::default()));
        assert_eq!(empty, json!({ "clusters": [] }));
    }
}
