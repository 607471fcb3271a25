//! What labels come to, one container at a time.

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;
use crate::discovery::docker::wire::listing;

fn mapped(container: &Value) -> Mapped {
    let listing = listing(json!([container]).to_string().as_bytes()).unwrap();
    assert!(listing.unreadable.is_empty(), "{:?}", listing.unreadable);
    let host = Host {
        hostname: "node-a",
        advertise_ip: "10.20.0.11".parse().unwrap(),
        naming: &Naming::default(),
    };
    map(&listing.containers[0], host)
}

/// A container with these labels and these ports as (IP, private, public, type).
fn container(labels: Value, ports: &[(&str, u16, u16, &str)]) -> Value {
    let ports: Vec<_> = ports
        .iter()
        .map(|(ip, private, public, kind)| {
            json!({"IP": ip, "PrivatePort": private, "PublicPort": public, "Type": kind})
        })
        .collect();
    json!({"Id": "a1b2c3d4e5f6a7b8", "Names": ["/shop_web_1"], "Image": "acme/web:1.8.2",
           "Created": 1770110127, "Labels": labels, "Ports": ports, "State": "running"})
}

/// The mapping as one short text.
fn check(container: &Value, expect: Expect) {
    let Mapped {
        instance,
        complaints,
    } = mapped(container);
    let mut text = match instance {
        None => "nothing\n".to_owned(),
        Some(Instance { service, check, .. }) => {
            let mut text = format!("{} {:?} {}\n", service.id, service.name, service.proxy_mode);
            for port in service.port_list() {
                let Port {
                    kind,
                    port,
                    service_port,
                    ip,
                } = port;
                text += &format!("{ip}:{port}/{kind} <- {service_port}\n");
            }
            if check != CheckSpec::default() {
                text += &format!("{check:?}\n");
            }
            text
        }
    };
    for complaint in complaints {
        text += &format!("! {complaint}\n");
    }
    expect.assert_eq(&text);
}

#[test]
fn the_whole_record() {
    let it = container(json!({"ServiceName": "web"}), &[]);
    let service = mapped(&it).instance.unwrap().service;
    assert_eq!(
        service,
        Service {
            id: "a1b2c3d4e5f6".into(),
            name: "web".into(),
            image: "acme/web:1.8.2".into(),
            created: "2026-02-03T09:15:27Z".parse().unwrap(),
            hostname: "node-a".into(),
            ports: Some(vec![]),
            updated: Timestamp::EPOCH,
            proxy_mode: "http".into(),
            weight: None,
            status: Status::Unknown,
        }
    );
}

#[test]
fn a_weight_is_a_number_from_1_to_255() {
    for (label, weight, complaints) in [
        ("1", Some(1), 0),
        ("255", Some(255), 0),
        ("", None, 0),
        ("0", None, 1),
        ("256", None, 1),
        ("half", None, 1),
    ] {
        let mapped = mapped(&container(json!({ "Weight": label }), &[]));
        assert_eq!(mapped.instance.unwrap().service.weight, weight, "{label:?}");
        assert_eq!(mapped.complaints.len(), complaints, "{label:?}");
    }
}

#[test]
fn names_modes_and_checks() {
    check(
        &container(json!({}), &[]),
        expect![[r#"
            a1b2c3d4e5f6 "acme/web:1.8.2" http
        "#]],
    );
    check(
        &container(json!({"ServiceName": "", "ProxyMode": ""}), &[]),
        expect![[r#"
            a1b2c3d4e5f6 "" http
            ! label ServiceName is empty, so the service has no name
        "#]],
    );
    check(
        &container(
            json!({"ProxyMode": "ws", "HealthCheck": "HttpGet",
                   "HealthCheckArgs": "http://{{ host }}:{{ tcp 10110 }}/"}),
            &[],
        ),
        expect![[r#"
            a1b2c3d4e5f6 "acme/web:1.8.2" ws
            CheckSpec { kind: Some("HttpGet"), args: Some("http://{{ host }}:{{ tcp 10110 }}/"), interval: None, timeout: None, rise: None, fall: None }
        "#]],
    );
    check(
        &container(
            json!({"ProxyMode": "HTTP", "HealthCheck": "", "HealthCheckArgs": null}),
            &[],
        ),
        expect![[r#"
            a1b2c3d4e5f6 "acme/web:1.8.2" HTTP
            ! label ProxyMode="HTTP" is not one of http, tcp, ws; proxies leave it out
        "#]],
    );
}

#[test]
fn only_the_exact_word_false_hides_a_container() {
    for (word, found) in [("false", false), ("False", true), ("no", true), ("", true)] {
        let it = mapped(&container(json!({ "SidecarDiscover": word }), &[]));
        assert_eq!(it.instance.is_some(), found, "{word:?}");
    }
}

#[test]
fn wildcards_of_any_spelling_become_the_advertise_address_and_merge() {
    check(
        &container(
            json!({"ServicePort_80": "10100"}),
            &[
                ("0.0.0.0", 80, 32768, "tcp"),
                ("::", 80, 32768, "tcp"),
                ("[::]", 80, 32768, "tcp"),
                ("0:0:0:0:0:0:0:0", 80, 32768, "tcp"),
                ("", 80, 32768, "tcp"),
                ("::ffff:0.0.0.0", 80, 32768, "tcp"),
            ],
        ),
        expect![[r#"
            a1b2c3d4e5f6 "acme/web:1.8.2" http
            10.20.0.11:32768/tcp <- 10100
        "#]],
    );
}

#[test]
fn ports_keep_the_order_and_differ_by_type_number_and_address() {
    check(
        &container(
            json!({"ServicePort_53": "10053"}),
            &[
                ("0.0.0.0", 53, 32768, "udp"),
                ("0.0.0.0", 53, 32768, "tcp"),
                ("127.0.0.1", 53, 8053, "tcp"),
                ("0.0.0.0", 53, 8053, "tcp"),
                ("10.20.0.11", 53, 8053, "tcp"),
                ("fd00::1", 80, 8053, "tcp"),
                ("0.0.0.0", 9899, 9899, "sctp"),
                ("", 443, 0, "tcp"),
            ],
        ),
        expect![[r#"
            a1b2c3d4e5f6 "acme/web:1.8.2" http
            10.20.0.11:32768/udp <- 10053
            10.20.0.11:32768/tcp <- 10053
            127.0.0.1:8053/tcp <- 10053
            10.20.0.11:8053/tcp <- 10053
            fd00::1:8053/tcp <- 0
        "#]],
    );
}

#[test]
fn service_port_labels_that_cannot_work_are_complained_about_once() {
    check(
        &container(
            json!({"ServicePort_80": "ten", "ServicePort_81": "10081", "ServicePort_82": "70000",
                   "ServicePort_83": "-1", "ServicePort_84": "0", "ServicePort_web": "1",
                   "ServicePort_080": "1", "ServicePort_": "1"}),
            &[
                ("0.0.0.0", 80, 32768, "tcp"),
                ("::", 80, 32768, "tcp"),
                ("", 81, 0, "tcp"),
                ("", 82, 32770, "tcp"),
                ("", 83, 32771, "tcp"),
                ("", 84, 32772, "tcp"),
            ],
        ),
        expect![[r#"
            a1b2c3d4e5f6 "acme/web:1.8.2" http
            10.20.0.11:32768/tcp <- 0
            10.20.0.11:32770/tcp <- 0
            10.20.0.11:32771/tcp <- 0
            10.20.0.11:32772/tcp <- 0
            ! label ServicePort_80="ten" is not a port from 0 to 65535 and is ignored
            ! label ServicePort_82="70000" is not a port from 0 to 65535 and is ignored
            ! label ServicePort_83="-1" is not a port from 0 to 65535 and is ignored
            ! label ServicePort_ matches nothing: "" is not a container port from 1 to 65535
            ! label ServicePort_080 matches nothing: "080" is not a container port from 1 to 65535
            ! label ServicePort_81 matches nothing: container port 81 is not published; publish it with -p 81; published are 80, 82, 83, 84
            ! label ServicePort_web matches nothing: "web" is not a container port from 1 to 65535
        "#]],
    );
}

#[test]
fn a_description_that_could_break_others_is_left_out() {
    check(
        &container(json!({"ServiceName": "web\n\tbind *:80"}), &[]),
        expect![[r#"
            nothing
            ! it is left out: field Name holds a control character: "web\n\tbind *:80"
        "#]],
    );
}

#[test]
fn a_container_between_two_lives_is_not_there() {
    let mut it = container(json!({}), &[]);
    it["State"] = json!("restarting");
    assert_eq!(mapped(&it).instance, None);
    it["State"] = json!("meditating");
    assert!(mapped(&it).instance.is_some());
}

#[test]
fn an_empty_description_maps_and_times_out_of_range_are_clamped() {
    let it = mapped(&json!({"Id": "x"})).instance.unwrap().service;
    assert_eq!(
        (it.id.as_str(), it.name.as_str(), it.created),
        ("x", "", Timestamp::EPOCH)
    );
    assert!(
        mapped(&json!({"Id": "x", "Created": i64::MAX}))
            .instance
            .is_some()
    );
}

#[test]
fn settings_of_checks_and_values_that_are_too_much() {
    check(
        &container(
            json!({"HealthCheckInterval": "3s", "HealthCheckTimeout": "500ms", "HealthCheckRise": "2",
                   "HealthCheckFall": "3", "HealthCheckArgs": "x".repeat(1 << 20),
                   "HealthCheck": "Http\0Get"}),
            &[],
        ),
        expect![[r#"
            a1b2c3d4e5f6 "acme/web:1.8.2" http
            CheckSpec { kind: None, args: None, interval: Some("3s"), timeout: Some("500ms"), rise: Some("2"), fall: Some("3") }
            ! label HealthCheck holds a NUL and is ignored
            ! label HealthCheckArgs is 1048576 bytes long and is ignored; at most 8192 are read
        "#]],
    );
}

#[test]
fn hostile_names_are_left_out_with_a_reason() {
    for (labels, reason) in [
        (json!({"ServiceName": "x".repeat(1 << 20)}), "1048576"),
        (json!({"ServiceName": "a\nb"}), "control character"),
        (json!({"ServiceName": "a\0b"}), "control character"),
        (json!({"ServiceName": "<script>"}), "'<'"),
        (json!({"ServiceName": "{{ host }}"}), "'{'"),
        (json!({"ServiceName": "web\" onload=\""}), "'\"'"),
        (json!({"ProxyMode": "<b>"}), "'<'"),
        (json!({"ProxyMode": "x".repeat(1 << 20)}), "1048576"),
    ] {
        let it = mapped(&container(labels, &[]));
        assert_eq!(it.instance, None, "{reason}");
        let complaint = it.complaints[0].to_string();
        assert!(complaint.starts_with("it is left out"), "{complaint}");
        assert!(complaint.contains(reason), "{reason}");
    }
}

#[test]
fn a_thousand_odd_labels_are_complained_about_in_bounded_number() {
    let labels: serde_json::Map<String, Value> = (0..1000)
        .map(|number| (format!("ServicePort_x{number}"), json!("1")))
        .collect();
    let it = mapped(&container(Value::Object(labels), &[]));
    assert_eq!(it.complaints.len(), COMPLAINTS_MAX);
    assert!(it.instance.is_some());
}

#[test]
fn labels_that_mean_nothing_and_what_was_meant() {
    check(
        &container(
            json!({"HealtCheck": "HttpGet", "servicename": "web", "ServicePort80": "1",
                   "SidecarDiscover": "False", "SidecarListener": "10110", "com.acme.team": "x"}),
            &[],
        ),
        expect![[r#"
            a1b2c3d4e5f6 "acme/web:1.8.2" http
            ! label SidecarDiscover="False" hides nothing; only the word false does
            ! label SidecarListener="10110" is without effect: no ServicePort label of this container leads a TCP port to it
            ! label HealtCheck means nothing; did you mean HealthCheck?
            ! label ServicePort80 means nothing; did you mean ServicePort_80?
            ! label servicename means nothing; did you mean ServiceName?
        "#]],
    );
    for (value, reason) in [("x", "not a port"), ("10101", "no ServicePort label")] {
        let labels = json!({"ServicePort_80": "10100", "SidecarListener": value});
        let it = mapped(&container(labels, &[("0.0.0.0", 80, 32768, "tcp")]));
        let complaint = it.complaints[0].to_string();
        assert!(complaint.contains(reason), "{complaint}");
    }
    let labels = json!({"ServicePort_80": "10100", "SidecarListener": "10100"});
    for (ip, url) in [
        ("0.0.0.0", "http://10.20.0.11:32768/sidecar/update"),
        ("127.0.0.1", "http://127.0.0.1:32768/sidecar/update"),
        ("fd00::1", "http://[fd00::1]:32768/sidecar/update"),
    ] {
        let it = mapped(&container(labels.clone(), &[(ip, 80, 32768, "tcp")]));
        assert!(it.complaints.is_empty());
        assert_eq!(it.instance.unwrap().listener.as_deref(), Some(url));
    }
}

/// The container in these networks.
fn in_networks(mut container: Value, networks: &[(&str, &str)]) -> Value {
    let attached = networks
        .iter()
        .map(|(name, ip)| ((*name).to_owned(), json!({"IPAddress": ip})));
    container["NetworkSettings"] = json!({"Networks": attached.collect::<serde_json::Map<_, _>>()});
    container
}

#[test]
fn a_container_in_the_hosts_network_is_announced_with_the_ports_its_labels_name() {
    let labels = json!({"SidecarNetwork": "host", "ServicePort_8080": "10100"});
    check(
        &in_networks(container(labels, &[]), &[("host", "")]),
        expect![[r#"
            a1b2c3d4e5f6 "acme/web:1.8.2" http
            10.20.0.11:8080/tcp <- 10100
        "#]],
    );
    // Without the label nothing is announced, and the owner learns of it.
    check(
        &in_networks(
            container(json!({"ServicePort_8080": "10100"}), &[]),
            &[("host", "")],
        ),
        expect![[r#"
            a1b2c3d4e5f6 "acme/web:1.8.2" http
            ! label ServicePort_8080 matches nothing: container port 8080 is not published; the container shares the host's network; add the label SidecarNetwork=host
        "#]],
    );
}

#[test]
fn a_container_in_a_user_network_is_announced_by_its_own_address() {
    let networks = [("back", "172.20.0.5"), ("front", "172.21.0.5")];
    let labels = json!({"SidecarNetwork": "back", "ServicePort_80": "10100",
                        "ServicePort_53": "10053", "ServicePort_9000": "10900"});
    let ports = [
        ("", 53, 0, "udp"),
        ("0.0.0.0", 80, 32768, "tcp"),
        ("::", 80, 32768, "tcp"),
    ];
    check(
        &in_networks(container(labels, &ports), &networks),
        expect![[r#"
            a1b2c3d4e5f6 "acme/web:1.8.2" http
            172.20.0.5:53/udp <- 10053
            172.20.0.5:80/tcp <- 10100
            172.20.0.5:9000/tcp <- 10900
        "#]],
    );
    let labels = json!({"SidecarNetwork": "backend", "ServicePort_80": "10100"});
    check(
        &in_networks(container(labels, &ports), &networks),
        expect![[r#"
            a1b2c3d4e5f6 "acme/web:1.8.2" http
            10.20.0.11:32768/tcp <- 10100
            ! label SidecarNetwork="backend" matches nothing: the container has no address in a network of that name; it is in back, front
        "#]],
    );
}
