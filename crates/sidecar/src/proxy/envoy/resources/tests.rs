use catalog::{Author, Now, Port, Service, State, Status, Timestamp, Upkeep};
use envoy_types::pb::envoy::{
    config::{
        cluster::v3::{Cluster, cluster::ClusterDiscoveryType},
        core::v3::{
            HealthStatus, address::Address, config_source::ConfigSourceSpecifier,
            socket_address::PortSpecifier,
        },
        endpoint::v3::{ClusterLoadAssignment, LbEndpoint, lb_endpoint::HostIdentifier},
        listener::v3::{Listener, filter::ConfigType},
        route::v3::{route::Action, route_action::ClusterSpecifier},
    },
    extensions::filters::{
        http::router::v3::Router,
        network::{
            http_connection_manager::v3::{
                HttpConnectionManager, http_connection_manager::RouteSpecifier, http_filter,
            },
            tcp_proxy::v3::{TcpProxy, tcp_proxy},
        },
    },
};
use prost::{Message, Name};

use super::*;

const BIND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 168, 168));

fn instance(id: &str, name: &str, mode: &str, address: &str, service_port: u16) -> Service {
    let address: SocketAddr = address.parse().unwrap();
    let time: Timestamp = "2026-02-03T09:16:02Z".parse().unwrap();
    Service {
        id: id.to_owned(),
        name: name.to_owned(),
        image: String::new(),
        created: time,
        hostname: "far".to_owned(),
        ports: Some(vec![Port {
            kind: "tcp".to_owned(),
            port: address.port(),
            service_port,
            ip: address.ip().to_string(),
        }]),
        updated: time,
        proxy_mode: mode.to_owned(),
        status: Status::Alive,
        weight: None,
    }
}

fn snapshot(services: &[Service]) -> Arc<Snapshot> {
    let now = Now {
        wall: "2026-02-03T09:16:02Z".parse().unwrap(),
        monotonic: std::time::Instant::now(),
    };
    let mut state = State::new("here", "lab");
    state.member_up("far", Upkeep::Refresh, now);
    for service in services {
        state.apply(service.clone(), Author::Peer, now).unwrap();
    }
    Arc::new(state.snapshot().clone())
}

fn follow(composer: &mut Composer, services: &[Service]) -> bool {
    let snapshot = snapshot(services);
    composer.follow(&Arc::new(Routes::of(&snapshot)), &snapshot)
}

fn composed(services: &[Service]) -> Composer {
    let mut composer = Composer::new(BIND);
    follow(&mut composer, services);
    composer
}

fn decoded<T: Message + Name + Default>(composer: &Composer, kind: Kind, name: &str) -> T {
    assert_eq!(kind.type_url(), T::type_url());
    let resource = composer.resources().get(kind, name).expect("it is there");
    T::decode(resource.encoded.as_slice()).unwrap()
}

fn at(address: Option<&envoy_types::pb::envoy::config::core::v3::Address>) -> String {
    let Some(Address::SocketAddress(it)) = address.and_then(|it| it.address.as_ref()) else {
        panic!("no address of a socket");
    };
    let Some(PortSpecifier::PortValue(port)) = it.port_specifier else {
        panic!("no port");
    };
    assert_eq!(it.protocol, 0, "TCP");
    format!("{}:{port}", it.address)
}

fn endpoints(composer: &Composer, name: &str) -> Vec<(String, HealthStatus, Option<u32>)> {
    let assignment: ClusterLoadAssignment = decoded(composer, Kind::Endpoints, name);
    assert_eq!(assignment.cluster_name, name);
    assert_eq!(assignment.endpoints.len(), 1);
    let endpoint = |it: &LbEndpoint| {
        let Some(HostIdentifier::Endpoint(endpoint)) = &it.host_identifier else {
            panic!("no endpoint");
        };
        let weight = it.load_balancing_weight.map(|it| it.value);
        (at(endpoint.address.as_ref()), it.health_status(), weight)
    };
    assignment.endpoints[0]
        .lb_endpoints
        .iter()
        .map(endpoint)
        .collect()
}

fn manager(composer: &Composer, name: &str) -> HttpConnectionManager {
    let listener: Listener = decoded(composer, Kind::Listener, name);
    let filter = &listener.filter_chains[0].filters[0];
    assert_eq!(filter.name, "envoy.filters.network.http_connection_manager");
    let Some(ConfigType::TypedConfig(config)) = &filter.config_type else {
        panic!("no typed configuration");
    };
    assert_eq!(config.type_url, HttpConnectionManager::type_url());
    HttpConnectionManager::decode(config.value.as_slice()).unwrap()
}

#[test]
fn resources_are_those_of_go_sidecar_in_every_mode() {
    let composer = composed(&[
        instance("1", "web", "http", "10.0.0.1:8001", 10001),
        instance("2", "chat", "ws", "10.0.0.1:8002", 10002),
        instance("3", "db", "tcp", "10.0.0.1:8003", 10003),
    ]);
    let cluster: Cluster = decoded(&composer, Kind::Cluster, "web:10001");
    assert_eq!(cluster.name, "web:10001");
    assert_eq!(
        cluster.cluster_discovery_type,
        Some(ClusterDiscoveryType::Type(3)),
        "EDS"
    );
    let source = cluster.eds_cluster_config.unwrap().eds_config.unwrap();
    assert!(matches!(
        source.config_source_specifier,
        Some(ConfigSourceSpecifier::Ads(_))
    ));
    assert_eq!(source.resource_api_version, 2, "V3");
    let timeout = cluster.connect_timeout.unwrap();
    assert_eq!((timeout.seconds, timeout.nanos), (0, 500_000_000));
    assert_eq!(cluster.lb_policy, 0, "round robin");
    assert!(cluster.circuit_breakers.is_none() && cluster.outlier_detection.is_none());

    let one = |port| vec![(format!("10.0.0.1:{port}"), HealthStatus::Unknown, None)];
    assert_eq!(endpoints(&composer, "web:10001"), one(8001));

    for (name, service, upgrades) in [
        ("web:10001", "web", &[][..]),
        ("chat:10002", "chat", &["websocket"][..]),
    ] {
        let listener: Listener = decoded(&composer, Kind::Listener, name);
        let port = name.rsplit_once(':').unwrap().1;
        assert_eq!(
            at(listener.address.as_ref()),
            format!("192.168.168.168:{port}")
        );
        let manager = manager(&composer, name);
        assert_eq!(manager.stat_prefix, "ingress_http");
        let router = &manager.http_filters[0];
        assert_eq!(router.name, "envoy.filters.http.router");
        let Some(http_filter::ConfigType::TypedConfig(config)) = &router.config_type else {
            panic!("the router is not typed");
        };
        assert_eq!(
            (config.type_url.clone(), config.value.len()),
            (Router::type_url(), 0)
        );
        let types: Vec<_> = manager
            .upgrade_configs
            .iter()
            .map(|it| it.upgrade_type.as_str())
            .collect();
        assert_eq!(types, upgrades);
        let Some(RouteSpecifier::RouteConfig(routes)) = manager.route_specifier else {
            panic!("no routes");
        };
        assert_eq!(routes.validate_clusters.map(|it| it.value), Some(false));
        let host = &routes.virtual_hosts[0];
        assert_eq!(
            (host.name.as_str(), host.domains.as_slice()),
            (service, &["*".to_owned()][..])
        );
        let Some(Action::Route(action)) = &host.routes[0].action else {
            panic!("no route");
        };
        assert_eq!(
            action.timeout.unwrap(),
            protobuf_zero(),
            "no timeout is 0, not nothing"
        );
        assert_eq!(
            action.cluster_specifier,
            Some(ClusterSpecifier::Cluster(name.to_owned()))
        );
    }

    let listener: Listener = decoded(&composer, Kind::Listener, "db:10003");
    let filter = &listener.filter_chains[0].filters[0];
    assert_eq!(filter.name, "envoy.filters.network.tcp_proxy");
    let Some(ConfigType::TypedConfig(config)) = &filter.config_type else {
        panic!("no typed configuration");
    };
    let proxy = TcpProxy::decode(config.value.as_slice()).unwrap();
    assert_eq!(proxy.stat_prefix, "ingress_tcp");
    let cluster = tcp_proxy::ClusterSpecifier::Cluster("db:10003".to_owned());
    assert_eq!(proxy.cluster_specifier, Some(cluster));
}

fn protobuf_zero() -> envoy_types::pb::google::protobuf::Duration {
    envoy_types::pb::google::protobuf::Duration {
        seconds: 0,
        nanos: 0,
    }
}

#[test]
fn weights_are_told_where_they_differ() {
    let heavy = Service {
        weight: Some(30),
        ..instance("1", "web", "http", "10.0.0.1:80", 80)
    };
    let light = Service {
        weight: Some(10),
        ..instance("2", "web", "http", "10.0.0.2:80", 80)
    };
    let composer = composed(&[heavy.clone(), light]);
    let weights: Vec<_> = endpoints(&composer, "web:80")
        .into_iter()
        .map(|it| it.2)
        .collect();
    assert_eq!(weights, [Some(30), Some(10)]);
    // Two instances behind one address are one endpoint with the larger weight.
    let twin = instance("3", "web", "http", "10.0.0.1:80", 80);
    let other = instance("4", "web", "http", "10.0.0.2:80", 80);
    let composer = composed(&[heavy, twin, other]);
    let weights: Vec<_> = endpoints(&composer, "web:80")
        .into_iter()
        .map(|it| it.2)
        .collect();
    assert_eq!(weights, [None, None]);
}

#[test]
fn draining_instances_stay_as_such_and_alone_they_have_no_listener() {
    let [stays, goes] =
        ["1", "2"].map(|id| instance(id, "web", "http", &format!("10.0.0.{id}:80"), 80));
    let mut composer = composed(&[stays.clone(), goes.clone()]);
    let drains = |service: &Service| Service {
        status: Status::Draining,
        updated: "2026-02-03T09:16:03Z".parse().unwrap(),
        ..service.clone()
    };
    assert!(follow(&mut composer, &[stays.clone(), drains(&goes)]));
    let expected = [
        ("10.0.0.1:80".to_owned(), HealthStatus::Unknown, None),
        ("10.0.0.2:80".to_owned(), HealthStatus::Draining, None),
    ];
    assert_eq!(endpoints(&composer, "web:80"), expected);
    assert!(follow(&mut composer, &[drains(&stays), drains(&goes)]));
    assert!(composer.resources().get(Kind::Listener, "web:80").is_none());
    assert!(
        endpoints(&composer, "web:80")
            .iter()
            .all(|it| it.1 == HealthStatus::Draining)
    );
    assert!(follow(&mut composer, &[]));
    for kind in Kind::ALL {
        assert_eq!(composer.resources().count(kind), 0);
    }
}

#[test]
fn a_snapshot_may_be_ahead_of_the_routes() {
    let goes = instance("1", "web", "http", "10.0.0.1:80", 80);
    let before = snapshot(std::slice::from_ref(&goes));
    let routes = Arc::new(Routes::of(&before));
    let mut composer = Composer::new(BIND);
    composer.follow(&routes, &before);
    let after = snapshot(&[Service {
        status: Status::Draining,
        ..goes
    }]);
    composer.follow(&routes, &after);
    assert_eq!(endpoints(&composer, "web:80")[0].1, HealthStatus::Draining);
}

#[test]
fn a_change_concerns_its_own_resources_alone() {
    let web = instance("1", "web", "http", "10.0.0.1:80", 80);
    let db = instance("2", "db", "tcp", "10.0.0.1:81", 81);
    let mut composer = composed(&[web.clone(), db.clone()]);
    let before = composer.resources().clone();
    assert!(
        !follow(&mut composer, &[web.clone(), db.clone()]),
        "nothing changed"
    );
    let more = instance("3", "web", "http", "10.0.0.2:80", 80);
    assert!(follow(&mut composer, &[web, db, more]));
    let after = composer.resources();
    let changed: Vec<_> = after
        .changed_since(before.number)
        .unwrap()
        .cloned()
        .collect();
    assert_eq!(changed, [(Kind::Endpoints, Arc::from("web:80"))]);
    for kind in Kind::ALL {
        let [old, new] = [&before, after].map(|it| it.get(kind, "db:81").unwrap());
        assert!(Arc::ptr_eq(old, new));
    }
    assert!(after.changed_since(after.number + 1).is_none());
}

#[test]
fn versions_are_hashes_of_contents() {
    let web = instance("1", "web", "http", "10.0.0.1:80", 80);
    let other = instance("2", "web", "http", "10.0.0.2:80", 80);
    let one = composed(&[web.clone(), other.clone()]);
    let mut two = composed(&[other]);
    let version = |it: &Composer| {
        it.resources()
            .get(Kind::Endpoints, "web:80")
            .unwrap()
            .version
            .clone()
    };
    assert_ne!(version(&one), version(&two));
    follow(
        &mut two,
        &[web, instance("2", "web", "http", "10.0.0.2:80", 80)],
    );
    assert_eq!(version(&one), version(&two));
}

#[test]
fn names_of_hosts_give_addresses_where_they_resolve() {
    let mut composer = composed(&[instance("1", "web", "http", "10.0.0.1:80", 80)]);
    assert_eq!(composer.hostnames(), BTreeSet::from(["far"]));
    let hosts = BTreeMap::from([("far".to_owned(), "10.9.9.9".parse().unwrap())]);
    assert!(composer.set_hosts(Arc::new(hosts)));
    assert_eq!(endpoints(&composer, "web:80")[0].0, "10.9.9.9:80");
    assert!(composer.set_hosts(Arc::default()));
    assert_eq!(endpoints(&composer, "web:80")[0].0, "10.0.0.1:80");
}

#[test]
fn settings_change_the_cluster_and_the_listener_of_their_service() {
    let mut composer = composed(&[
        instance("1", "web", "http", "10.0.0.1:80", 80),
        instance("2", "db", "tcp", "10.0.0.1:81", 81),
    ]);
    let before = composer.resources().clone();
    let knobs = Knobs::parse(
        r#"{"web": {"connect_timeout": "2s", "request_timeout": "30s", "max_connections": 7,
            "max_requests_per_connection": 100, "outlier_detection": {"consecutive_5xx": 3}}}"#,
    );
    assert!(composer.set_knobs_if_others(&Arc::new(knobs.unwrap())));
    let changed: BTreeSet<_> = composer
        .resources()
        .changed_since(before.number)
        .unwrap()
        .cloned()
        .collect();
    let web: Arc<str> = Arc::from("web:80");
    assert_eq!(
        changed,
        BTreeSet::from([(Kind::Cluster, web.clone()), (Kind::Listener, web)])
    );
    let cluster: Cluster = decoded(&composer, Kind::Cluster, "web:80");
    assert_eq!(cluster.connect_timeout.unwrap().seconds, 2);
    let limits = &cluster.circuit_breakers.unwrap().thresholds[0];
    assert_eq!(limits.max_connections.map(|it| it.value), Some(7));
    assert_eq!(limits.max_requests, None);
    assert_eq!(
        cluster
            .outlier_detection
            .unwrap()
            .consecutive_5xx
            .map(|it| it.value),
        Some(3)
    );
    assert_eq!(cluster.typed_extension_protocol_options.len(), 1);
    let Some(RouteSpecifier::RouteConfig(routes)) = manager(&composer, "web:80").route_specifier
    else {
        panic!("no routes");
    };
    let Some(Action::Route(action)) = &routes.virtual_hosts[0].routes[0].action else {
        panic!("no route");
    };
    assert_eq!(action.timeout.unwrap().seconds, 30);
}

#[test]
fn an_instance_that_announces_the_listener_itself_is_left_out() {
    let own = instance("1", "loop", "tcp", "192.168.168.168:80", 80);
    let composer = composed(std::slice::from_ref(&own));
    assert_eq!(composer.resources().count(Kind::Listener), 0);
    let composer = composed(&[own, instance("2", "loop", "tcp", "10.0.0.1:80", 80)]);
    assert_eq!(endpoints(&composer, "loop:80").len(), 1);
}
