#![allow(
    clippy::unwrap_used,
    reason = "outside of test functions clippy does not see that this is a test"
)]

use std::{net::Ipv4Addr, time::Instant};

use catalog::{Author, Now, Port, Service, Snapshot, State, Status, json};
use serde_json::Value as Json;

use super::{
    super::instances::{Reason, Shown},
    *,
};
use crate::routes::Routes;

/// What Go's own text/template made of the same templates and data.
const GOLDEN: &str = include_str!("../../../../../gotemplate/tests/vectors/haproxy.json");
const BIND: Ipv4Addr = Ipv4Addr::new(192, 168, 168, 168);

fn now() -> Timestamp {
    "2026-02-03T09:15:27.123456789Z".parse().unwrap()
}

pub(crate) fn snapshot(services: impl IntoIterator<Item = Service>) -> Snapshot {
    let mut state = State::new("here", "test");
    let now = Now {
        wall: now(),
        monotonic: Instant::now(),
    };
    for service in services {
        state.apply(service, Author::Own, now).unwrap();
    }
    state.snapshot().clone()
}

fn shown(services: impl IntoIterator<Item = Service>) -> Shown {
    let snapshot = snapshot(services);
    Shown::of(&snapshot, &Routes::of(&snapshot))
}

fn surroundings() -> Surroundings<'static> {
    Surroundings {
        bind: BIND.into(),
        user: "haproxy",
        group: "",
        use_hostnames: false,
        stats_socket: Path::new("/var/run/haproxy_stats.sock"),
    }
}

pub(crate) fn service(host: &str, id: &str, name: &str, ports: &[(u16, u16)]) -> Service {
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
        created: now(),
        hostname: host.into(),
        ports: Some(ports.iter().map(port).collect()),
        updated: now(),
        proxy_mode: "http".into(),
        weight: None,
        status: Status::Alive,
    }
}

fn text(source: &str, shown: &Shown) -> String {
    render("t", source, shown, &surroundings(), now()).unwrap()
}

#[test]
fn users_templates_give_what_they_gave_with_go() {
    let file: Json = serde_json::from_str(GOLDEN).unwrap();
    let record = |name: &str| json::decode_service(file[name].to_string().as_bytes()).unwrap();
    let shown = shown([record("service"), record("service2"), record("service3")]);
    let cases = file["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 27);
    for case in cases {
        let source = case["template"].as_str().unwrap();
        let result = render("t", source, &shown, &surroundings(), now());
        match case["error"].as_str() {
            None => {
                let expected = case["output"].as_str().unwrap_or_default();
                assert_eq!(result.as_deref(), Ok(expected), "{source}");
            }
            // Words are ours; the phase, the line and the column are Go's.
            Some(error) => {
                let place = |text: &str| text.split(' ').take(3).collect::<Vec<_>>().join(" ");
                let found = result.unwrap_err().to_string();
                assert_eq!(place(&found), place(error), "{source}: {found}");
            }
        }
    }
}

#[test]
fn an_instance_is_shown_when_it_serves_the_ports_of_the_oldest() {
    let old = service("b", "1", "web", &[(8080, 1), (9000, 2)]);
    let young = |id: &str, ports: &[(u16, u16)]| Service {
        created: now().next(),
        ..service("a", id, "web", ports)
    };
    let shown = shown([
        old,
        young("beginning", &[(8080, 3)]),
        young("doubled", &[(8080, 4), (8080, 5)]),
        young("longer", &[(8080, 6), (9000, 7), (9001, 8)]),
        young("other order", &[(9000, 9), (8080, 10)]),
    ]);
    let listed = "{{ range .Services.web }}{{ .ID }} {{ end }}{{ getPorts \"web\" }}";
    assert_eq!(text(listed, &shown), "other-order 1 map[8080:10 9000:9]");
    let omitted: Vec<_> = shown.omitted.iter().map(|it| it.id.as_str()).collect();
    assert_eq!(omitted, ["beginning", "doubled", "longer"]);
    let reason = Reason::PortsDiffer {
        has: vec![8080],
        service_has: vec![8080, 9000],
    };
    assert_eq!(shown.omitted[0].reason, reason);
}

#[test]
fn a_service_without_service_ports_is_listed_and_has_none() {
    let shown = shown([service("a", "1", "batch", &[(0, 31000)])]);
    let source = "{{ len .Services }} {{ getPorts \"batch\" }} {{ getMode \"batch\" }}";
    assert_eq!(text(source, &shown), "1 map[] http");
}

#[test]
fn modes_come_from_alive_instances_and_ws_is_http() {
    let with = |id: &str, name: &str, mode: &str, status| Service {
        proxy_mode: mode.into(),
        status,
        ..service("a", id, name, &[(1, 1)])
    };
    let shown = shown([
        with("1", "ws", "ws", Status::Alive),
        with("2", "ws", "tcp", Status::Tombstone),
        with("3", "odd", "smtp\u{2028}", Status::Alive),
    ]);
    let source = "{{ getMode \"ws\" }} {{ len .Services }} {{ getMode \"odd\" }}";
    assert_eq!(text(source, &shown), "http 1 http");
    assert!(matches!(shown.omitted[0].reason, Reason::UnknownMode(_)));
}

#[test]
fn text_from_the_network_stays_one_word_in_users_templates() {
    let mut evil = service(
        "node a 1.2.3.4:80 # x",
        "id\"'\\$",
        "web {if TRUE}\u{2028}",
        &[(1, 1)],
    );
    evil.image = "image\\ \"$HOME\" #".into();
    let ports = evil.ports.as_mut().unwrap();
    ports.push(Port {
        kind: "udp all".into(),
        port: 1,
        service_port: 2,
        ip: "1.2.3.4 check".into(),
    });
    let shown = shown([evil]);
    let source = "{{ range $n, $l := .Services }}{{ $n }}\n{{ range $l }}\
                  {{ .Name }} {{ .Hostname }} {{ .ID }} {{ .Image }} {{ ipFor \"2\" . }} \
                  {{ range .Ports }}{{ .Type }},{{ .IP }} {{ end }}{{ end }}{{ end }}";
    assert_eq!(
        text(source, &shown),
        "web-{if-TRUE}-\nweb-{if-TRUE}- node-a-1.2.3.4:80---x id---- image----HOME--- \
         node-a-1.2.3.4:80---x tcp,10.0.0.1 udp-all, "
    );
}

#[test]
fn two_that_would_share_a_name_are_not_both_shown() {
    let shown = shown([
        service("a", "b-c", "web", &[(1, 1)]),
        service("a-b", "c", "web", &[(1, 2)]),
        service("a", "1", "x y", &[(2, 2)]),
        service("a", "2", "x-y", &[(3, 3)]),
    ]);
    let source = "{{ range .Services }}{{ range . }}{{ .Hostname }}-{{ .ID }} {{ end }}{{ end }}";
    assert_eq!(text(source, &shown), "a-b-c a-1 ");
    assert_eq!(shown.omitted[0].reason, Reason::SameName("a-b-c".into()));
    assert_eq!(shown.omitted[1].reason, Reason::SameService("x-y".into()));
}

#[test]
fn host_names_stand_for_addresses_where_they_are_wanted() {
    let shown = shown([
        service("node-a.lan", "1", "web", &[(1, 8001)]),
        service("not:a:host", "2", "web", &[(1, 8002)]),
    ]);
    let surroundings = Surroundings {
        use_hostnames: true,
        ..surroundings()
    };
    let source = "{{ range .Services.web }}{{ ipFor \"1\" . }}:{{ portFor \"1\" . }} {{ end }}";
    let text = render("t", source, &shown, &surroundings, now()).unwrap();
    assert_eq!(text, "node-a.lan:8001 10.0.0.1:8002 ");
}

#[test]
fn the_built_in_template_has_what_the_originals_had() {
    let shown = shown([
        service("node-a", "a1b2c3d4e5f6", "Team/web", &[(10100, 32790)]),
        service("node-b", "b1b2c3d4e5f6", "Team/web", &[(10100, 31000)]),
    ]);
    let text = text(BUILT_IN, &shown);
    let proxy = "\
frontend -eam-web-10100
    mode http
    bind 192.168.168.168:10100
    default_backend -eam-web-10100

backend -eam-web-10100
    mode http
    server node-a-a1b2c3d4e5f6 10.0.0.1:32790 weight 100 cookie node-a-32790
    server node-b-b1b2c3d4e5f6 10.0.0.1:31000 weight 100 cookie node-b-31000
";
    assert!(text.contains(proxy), "{text}");
    let head = "    daemon\n    user haproxy\n    maxconn 4096\n";
    assert!(text.contains(head), "{text}");
    assert!(text.contains("/var/run/haproxy_stats.sock mode 660 level admin"));
}

#[test]
fn the_order_of_arrival_changes_nothing() {
    let services: Vec<_> = ["c", "a", "b"]
        .iter()
        .flat_map(|host| {
            [
                service(host, "1", "x", &[(1, 1)]),
                service(host, "2", "y", &[(2, 2)]),
            ]
        })
        .collect();
    let reversed = services.iter().rev().cloned();
    assert_eq!(
        text(BUILT_IN, &shown(reversed)),
        text(BUILT_IN, &shown(services.clone()))
    );
}
