use std::time::Instant;

use catalog::{Author, Now, Port, Protocol, Service, State, Status, Timestamp};
use proptest::prelude::*;

use super::*;

/// An alive instance on `host`, created at `created` seconds, with (ServicePort, real port) pairs.
fn instance(host: &str, id: &str, name: &str, created: i128, ports: &[(u16, u16)]) -> Service {
    let port = |&(service_port, port): &(u16, u16)| Port {
        kind: "tcp".into(),
        port,
        service_port,
        ip: "10.0.0.1".into(),
    };
    Service {
        id: id.into(),
        name: name.into(),
        image: "image:1".into(),
        created: seconds(created),
        hostname: host.into(),
        ports: Some(ports.iter().map(port).collect()),
        updated: seconds(1_000),
        proxy_mode: "tcp".into(),
        weight: None,
        status: Status::Alive,
    }
}

fn seconds(seconds: i128) -> Timestamp {
    Timestamp::from_unix_nanos(seconds * 1_000_000_000)
}

fn routes<'a>(services: impl IntoIterator<Item = &'a Service>) -> Routes {
    let mut state = State::new("here", "test");
    let now = Now {
        wall: seconds(1_000),
        monotonic: Instant::now(),
    };
    for service in services {
        state.apply(service.clone(), Author::Own, now).unwrap();
    }
    Routes::of(state.snapshot())
}

fn addresses(routes: &Routes, port: u16) -> Vec<String> {
    routes.by_port[&port]
        .endpoints
        .iter()
        .map(|it| it.address.to_string())
        .collect()
}

fn reasons(routes: &Routes) -> Vec<(u16, &str, ExclusionReason)> {
    let excluded = routes.excluded.iter();
    excluded
        .map(|it| (it.service_port, it.id.as_str(), it.reason.clone()))
        .collect()
}

#[test]
fn only_alive_instances_are_routed() {
    for status in [
        Status::Tombstone,
        Status::Unhealthy,
        Status::Unknown,
        Status::Draining,
    ] {
        let alive = instance("a", "1", "web", 1, &[(80, 8001)]);
        let other = Service {
            status,
            ..instance("b", "2", "web", 1, &[(80, 8002), (81, 1)])
        };
        let routes = routes([&alive, &other]);
        assert_eq!(addresses(&routes, 80), ["10.0.0.1:8001"], "{status}");
        assert_eq!(routes.by_port.len(), 1);
        assert!(routes.excluded.is_empty());
    }
}

#[test]
fn only_tcp_ports_with_a_service_port_are_routed() {
    let mut it = instance(
        "a",
        "1",
        "web",
        1,
        &[(80, 8001), (0, 8002), (82, 8003), (83, 8004)],
    );
    let ports = it.ports.as_mut().unwrap();
    ports[2].kind = "udp".into();
    ports[3].kind = "sctp".into();
    let routes = routes([&it]);
    assert_eq!(routes.by_port.keys().collect::<Vec<_>>(), [&80]);
    assert!(routes.excluded.is_empty());
}

#[test]
fn ports_of_the_agent_itself_are_not_special() {
    let routes = routes([&instance("a", "1", "web", 1, &[(7777, 8001), (7946, 8002)])]);
    assert_eq!(routes.by_port.len(), 2);
}

#[test]
fn contested_port_belongs_to_the_service_with_the_oldest_instance() {
    let old = instance("b", "1", "old", 5, &[(80, 8001)]);
    let young = instance("a", "2", "a-young", 6, &[(80, 8002), (81, 8003)]);
    let copy = instance("a", "3", "old", 9, &[(80, 8004)]);
    let routes = routes([&young, &copy, &old]);
    assert_eq!(routes.by_port[&80].service, "old");
    assert_eq!(
        addresses(&routes, 80),
        ["10.0.0.1:8004", "10.0.0.1:8001"],
        "by host, then ID"
    );
    assert_eq!(routes.by_port[&81].service, "a-young");
    let owned = ExclusionReason::PortOwnedBy("old".into());
    assert_eq!(reasons(&routes), [(80, "2", owned)]);
}

#[test]
fn contested_port_of_equally_old_instances_belongs_to_the_first_name() {
    let b = instance("a", "1", "b", 5, &[(80, 8001)]);
    let a = instance("z", "2", "a", 5, &[(80, 8002)]);
    assert_eq!(routes([&b, &a]).by_port[&80].service, "a");
}

#[test]
fn port_passes_on_when_the_owner_is_no_longer_alive() {
    let old = instance("b", "1", "old", 5, &[(80, 8001)]);
    let young = instance("a", "2", "young", 6, &[(80, 8002)]);
    let gone = Service {
        status: Status::Unhealthy,
        ..old
    };
    assert_eq!(routes([&gone, &young]).by_port[&80].service, "young");
}

#[test]
fn mode_is_that_of_the_oldest_instance() {
    let young = Service {
        proxy_mode: "http".into(),
        ..instance("a", "1", "web", 9, &[(80, 1), (81, 2)])
    };
    let old = Service {
        proxy_mode: "ws".into(),
        ..instance("b", "2", "web", 1, &[(80, 3)])
    };
    let routes = routes([&young, &old]);
    assert_eq!(routes.by_port[&80].mode, ProxyMode::Ws);
    assert_eq!(addresses(&routes, 80), ["10.0.0.1:3"]);
    let differs = ExclusionReason::ModeDiffers(ProxyMode::Http);
    assert_eq!(
        reasons(&routes),
        [(80, "1", differs.clone()), (81, "1", differs)]
    );
}

#[test]
fn empty_mode_is_http_and_an_unknown_one_neither_sets_the_mode_nor_owns_a_port() {
    let odd = Service {
        proxy_mode: "grpc".into(),
        ..instance("a", "1", "web", 1, &[(80, 1)])
    };
    let plain = Service {
        proxy_mode: String::new(),
        ..instance("b", "2", "web", 2, &[(80, 2)])
    };
    let squatter = Service {
        proxy_mode: "?".into(),
        ..instance("a", "3", "odd", 0, &[(80, 3)])
    };
    let routes = routes([&odd, &plain, &squatter]);
    assert_eq!(routes.by_port[&80].mode, ProxyMode::Http);
    assert_eq!(routes.by_port[&80].service, "web");
    assert_eq!(addresses(&routes, 80), ["10.0.0.1:2"]);
    let unknown = |word: &str| ExclusionReason::UnknownMode(word.into());
    assert_eq!(
        reasons(&routes),
        [(80, "3", unknown("?")), (80, "1", unknown("grpc"))]
    );
}

#[test]
fn what_has_no_destination_is_excluded_with_the_text_it_gave() {
    for ip in [
        "",
        "localhost",
        "10.0.0",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "255.255.255.255",
    ] {
        let mut it = instance("a", "1", "web", 1, &[(80, 8001)]);
        it.ports.as_mut().unwrap()[0].ip = ip.into();
        let routes = routes([&it]);
        assert!(routes.by_port.is_empty(), "{ip:?}");
        assert_eq!(
            reasons(&routes),
            [(80, "1", ExclusionReason::NoAddress(ip.into()))]
        );
    }
    let routes = routes([&instance("a", "1", "web", 1, &[(80, 0)])]);
    assert_eq!(reasons(&routes), [(80, "1", ExclusionReason::NoPort)]);
}

#[test]
fn doubled_ports_are_merged_and_several_addresses_kept() {
    let mut it = instance(
        "a",
        "1",
        "web",
        1,
        &[(80, 8001), (80, 8001), (80, 8001), (80, 8001)],
    );
    let ports = it.ports.as_mut().unwrap();
    ports[1].ip = "fd00::1".into();
    ports[2].ip = "no address".into();
    let routes = routes([&it]);
    assert_eq!(addresses(&routes, 80), ["10.0.0.1:8001", "[fd00::1]:8001"]);
    assert!(routes.excluded.is_empty(), "it is routed after all");
}

/// Few values, so that collisions of every kind are frequent.
fn any_service() -> impl Strategy<Value = Service> {
    let port = (
        prop::sample::select(vec!["tcp", "udp", "TCP", ""]),
        prop::sample::select(vec![0_u16, 80, 8080, 65535]),
        prop::sample::select(vec![0_u16, 80, 81]),
        prop::sample::select(vec!["10.0.0.1", "10.0.0.2", "fd00::1", "", "0.0.0.0", "x"]),
    );
    let port = port.prop_map(|(kind, port, service_port, ip)| Port {
        kind: kind.into(),
        port,
        service_port,
        ip: ip.into(),
    });
    let status = prop::sample::select(vec![0_i64, 0, 0, 1, 2, 3, 4]).prop_map(Status::from_wire);
    let mode = prop::sample::select(vec!["", "http", "tcp", "ws", "grpc"]);
    let ports = prop::option::of(prop::collection::vec(port, 0..4));
    (
        "[ab]",
        "[123]",
        "[xyz]?",
        0..4_i128,
        ports,
        990..1_000_i128,
        mode,
        status,
    )
        .prop_map(
            |(hostname, id, name, created, ports, updated, mode, status)| Service {
                id,
                name,
                image: "image:1".into(),
                created: seconds(created),
                hostname,
                ports,
                updated: seconds(updated),
                proxy_mode: mode.into(),
                weight: None,
                status,
            },
        )
}

proptest! {
    #[test]
    fn order_of_arrival_does_not_matter(
        (services, shuffled) in prop::collection::vec(any_service(), 0..12)
            .prop_flat_map(|it| (Just(it.clone()), Just(it).prop_shuffle()))
    ) {
        prop_assert_eq!(routes(&services), routes(&shuffled));
    }

    #[test]
    fn what_was_followed_before_does_not_matter(
        services in prop::collection::vec(any_service(), 0..30),
        steps in prop::collection::vec(0..6_usize, 0..8),
    ) {
        let mut state = State::new("here", "test");
        let now = Now { wall: seconds(1_000), monotonic: Instant::now() };
        let mut router = Router::default();
        let mut services = services.into_iter().enumerate();
        for step in steps {
            for (number, mut service) in services.by_ref().take(step) {
                // Each is newer than what it replaces.
                service.updated = seconds(900 + number as i128);
                state.apply(service, Author::Own, now).unwrap();
            }
            prop_assert_eq!(router.follow(state.snapshot()), &Routes::of(state.snapshot()));
        }
        let empty = Snapshot::empty("here", "test");
        prop_assert_eq!(router.follow(&empty), &Routes::default());
    }

    #[test]
    fn routes_keep_their_promises(services in prop::collection::vec(any_service(), 0..12)) {
        let mut state = State::new("here", "test");
        let now = Now { wall: seconds(1_000), monotonic: Instant::now() };
        for service in services {
            state.apply(service, Author::Own, now).unwrap();
        }
        let snapshot = state.snapshot();
        let routes = Routes::of(snapshot);
        for (service_port, route) in &routes.by_port {
            prop_assert!(*service_port != 0 && !route.endpoints.is_empty());
            prop_assert!(route.endpoints.is_sorted());
            for pair in route.endpoints.windows(2) {
                prop_assert!(pair[0] != pair[1], "doubled {:?}", pair[0]);
            }
            for endpoint in &route.endpoints {
                let service = snapshot.service(&endpoint.hostname, &endpoint.id).unwrap();
                prop_assert!(service.is_alive());
                prop_assert_eq!(&service.name, &route.service);
                prop_assert_eq!(service.mode(), Some(route.mode));
                let offered = service.port_list().iter().any(|port| {
                    port.service_port == *service_port
                        && port.protocol() == Some(Protocol::Tcp)
                        && port.port == endpoint.address.port()
                        && Service::address_of(port) == Some(endpoint.address.ip())
                });
                prop_assert!(offered, "{endpoint:?} is not among {service:?}");
            }
        }
        // Every alive instance is, for each TCP ServicePort it offers, either routed or excluded.
        for service in snapshot.services().filter(|it| it.is_alive()) {
            for port in service.port_list() {
                if port.service_port == 0 || port.protocol() != Some(Protocol::Tcp) {
                    continue;
                }
                let route = routes.by_port.get(&port.service_port);
                let routed = route.is_some_and(|route| route.endpoints.iter().any(|it| {
                    it.hostname == service.hostname && it.id == service.id
                }));
                let excluded = routes.excluded.iter().any(|it| {
                    it.service_port == port.service_port
                        && it.hostname == service.hostname
                        && it.id == service.id
                });
                prop_assert!(routed != excluded, "{service:?}: routed {routed}, excluded {excluded}");
            }
        }
    }
}
