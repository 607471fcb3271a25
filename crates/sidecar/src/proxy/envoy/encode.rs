//! The messages of single resources. They are those of Go Sidecar, so that what its users have around Envoy
//! works as it is, with what it lacked: weights where they differ, the state of draining endpoints, and no
//! "panic", in which Envoy would send traffic to these.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use catalog::ProxyMode;
use envoy_types::{
    pb::{
        envoy::{
            config::{
                cluster::v3::{
                    CircuitBreakers, Cluster, OutlierDetection,
                    circuit_breakers::Thresholds,
                    cluster::{
                        ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig,
                    },
                },
                core::v3::{
                    Address, AggregatedConfigSource, ApiVersion, ConfigSource, HealthStatus,
                    Http1ProtocolOptions, HttpProtocolOptions as CommonHttpOptions, SocketAddress,
                    address, config_source::ConfigSourceSpecifier, socket_address::PortSpecifier,
                },
                endpoint::v3::{
                    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
                    lb_endpoint::HostIdentifier,
                },
                listener::v3::{Filter, FilterChain, Listener, filter::ConfigType},
                route::v3::{
                    Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route::Action,
                    route_action::ClusterSpecifier, route_match::PathSpecifier,
                },
            },
            extensions::{
                filters::{
                    http::router::v3::Router,
                    network::{
                        http_connection_manager::v3::{
                            HttpConnectionManager, HttpFilter,
                            http_connection_manager::{RouteSpecifier, UpgradeConfig},
                            http_filter,
                        },
                        tcp_proxy::v3::{TcpProxy, tcp_proxy},
                    },
                },
                upstreams::http::v3::{
                    HttpProtocolOptions,
                    http_protocol_options::{
                        ExplicitHttpConfig, UpstreamProtocolOptions,
                        explicit_http_config::ProtocolConfig,
                    },
                },
            },
            r#type::v3::Percent,
        },
        google::protobuf,
    },
    util::pack_any,
};
use prost::Message as _;

use super::{knobs::ServiceKnobs, resources::Share};

/// What Go Sidecar gives a connection to an endpoint.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

pub(super) fn cluster(name: &str, knobs: &ServiceKnobs) -> Vec<u8> {
    let discovery = EdsClusterConfig {
        eds_config: Some(ConfigSource {
            resource_api_version: ApiVersion::V3.into(),
            config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
            ..ConfigSource::default()
        }),
        service_name: String::new(),
    };
    let options = knobs.max_requests_per_connection.map(http_options);
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(discovery),
        connect_timeout: Some(duration(knobs.connect_timeout.unwrap_or(CONNECT_TIMEOUT))),
        common_lb_config: Some(CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: 0.0 }),
            ..CommonLbConfig::default()
        }),
        circuit_breakers: circuit_breakers(knobs),
        outlier_detection: outlier_detection(knobs),
        typed_extension_protocol_options: options
            .into_iter()
            .map(|it| {
                let key = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
                (key.to_owned(), pack_any(it))
            })
            .collect(),
        ..Cluster::default()
    }
    .encode_to_vec()
}

fn http_options(max_requests: u32) -> HttpProtocolOptions {
    HttpProtocolOptions {
        common_http_protocol_options: Some(CommonHttpOptions {
            max_requests_per_connection: number(Some(max_requests)),
            ..CommonHttpOptions::default()
        }),
        // One of them has to be named; this is what Envoy speaks without options.
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(
            ExplicitHttpConfig {
                protocol_config: Some(ProtocolConfig::HttpProtocolOptions(
                    Http1ProtocolOptions::default(),
                )),
            },
        )),
        ..HttpProtocolOptions::default()
    }
}

fn circuit_breakers(knobs: &ServiceKnobs) -> Option<CircuitBreakers> {
    let limits = [
        knobs.max_connections,
        knobs.max_pending_requests,
        knobs.max_requests,
        knobs.max_retries,
    ];
    limits.iter().any(Option::is_some).then(|| {
        let [connections, pending, requests, retries] = limits.map(number);
        CircuitBreakers {
            thresholds: vec![Thresholds {
                max_connections: connections,
                max_pending_requests: pending,
                max_requests: requests,
                max_retries: retries,
                ..Thresholds::default()
            }],
            ..CircuitBreakers::default()
        }
    })
}

fn outlier_detection(knobs: &ServiceKnobs) -> Option<OutlierDetection> {
    let wanted = knobs.outlier_detection.as_ref()?;
    Some(OutlierDetection {
        consecutive_5xx: number(wanted.consecutive_5xx),
        consecutive_gateway_failure: number(wanted.consecutive_gateway_failure),
        interval: wanted.interval.map(duration),
        base_ejection_time: wanted.base_ejection_time.map(duration),
        max_ejection_percent: number(wanted.max_ejection_percent),
        ..OutlierDetection::default()
    })
}

pub(super) fn assignment(name: &str, endpoints: &BTreeMap<SocketAddr, Share>) -> Vec<u8> {
    // Equal weights are none, as Go Sidecar writes it.
    let weights: BTreeSet<u32> = endpoints.values().map(|it| it.weight).collect();
    let weight = |share: &Share| number((weights.len() > 1).then_some(share.weight));
    let endpoints = endpoints.iter().map(|(at, share)| {
        let health = if share.drains {
            HealthStatus::Draining
        } else {
            HealthStatus::Unknown
        };
        LbEndpoint {
            health_status: health.into(),
            load_balancing_weight: weight(share),
            host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
                address: Some(address(*at)),
                ..Endpoint::default()
            })),
            ..LbEndpoint::default()
        }
    });
    ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: endpoints.collect(),
            ..LocalityLbEndpoints::default()
        }],
        ..ClusterLoadAssignment::default()
    }
    .encode_to_vec()
}

pub(super) fn listener(
    name: &str,
    service: &str,
    at: SocketAddr,
    mode: ProxyMode,
    knobs: &ServiceKnobs,
) -> Vec<u8> {
    let (filter, config) = match mode {
        ProxyMode::Tcp => (
            "envoy.filters.network.tcp_proxy",
            pack_any(TcpProxy {
                stat_prefix: "ingress_tcp".to_owned(),
                cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(name.to_owned())),
                idle_timeout: knobs.idle_timeout.map(duration),
                ..TcpProxy::default()
            }),
        ),
        ProxyMode::Http | ProxyMode::Ws => (
            "envoy.filters.network.http_connection_manager",
            pack_any(connection_manager(name, service, mode, knobs)),
        ),
    };
    Listener {
        name: name.to_owned(),
        address: Some(address(at)),
        filter_chains: vec![FilterChain {
            filters: vec![Filter {
                name: filter.to_owned(),
                config_type: Some(ConfigType::TypedConfig(config)),
            }],
            ..FilterChain::default()
        }],
        ..Listener::default()
    }
    .encode_to_vec()
}

fn connection_manager(
    name: &str,
    service: &str,
    mode: ProxyMode,
    knobs: &ServiceKnobs,
) -> HttpConnectionManager {
    let action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(name.to_owned())),
        timeout: Some(duration(knobs.request_timeout.unwrap_or_default())),
        ..RouteAction::default()
    };
    let route = Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
            ..RouteMatch::default()
        }),
        action: Some(Action::Route(action)),
        ..Route::default()
    };
    // A service may be without a name, a virtual host may not.
    let host = if service.is_empty() { name } else { service };
    let routes = RouteConfiguration {
        virtual_hosts: vec![VirtualHost {
            name: host.to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![route],
            ..VirtualHost::default()
        }],
        validate_clusters: Some(protobuf::BoolValue { value: false }),
        ..RouteConfiguration::default()
    };
    let upgrade = (mode == ProxyMode::Ws).then(|| UpgradeConfig {
        upgrade_type: "websocket".to_owned(),
        ..UpgradeConfig::default()
    });
    HttpConnectionManager {
        stat_prefix: "ingress_http".to_owned(),
        http_filters: vec![HttpFilter {
            name: "envoy.filters.http.router".to_owned(),
            config_type: Some(http_filter::ConfigType::TypedConfig(pack_any(
                Router::default(),
            ))),
            ..HttpFilter::default()
        }],
        route_specifier: Some(RouteSpecifier::RouteConfig(routes)),
        upgrade_configs: upgrade.into_iter().collect(),
        stream_idle_timeout: knobs.idle_timeout.map(duration),
        ..HttpConnectionManager::default()
    }
}

fn address(at: SocketAddr) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: at.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(at.port().into())),
            ..SocketAddress::default()
        })),
    }
}

fn duration(it: Duration) -> protobuf::Duration {
    protobuf::Duration {
        seconds: i64::try_from(it.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(it.subsec_nanos()).unwrap_or_default(),
    }
}

fn number(value: Option<u32>) -> Option<protobuf::UInt32Value> {
    value.map(|value| protobuf::UInt32Value { value })
}
