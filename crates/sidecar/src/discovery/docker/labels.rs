//! From a listed container to an instance: names, ports and checks as its labels say. Pure.
//!
//! Not the reading of the listing (`wire`), nor the judgement of checks (`health`). The rules are
//! those of Go Sidecar's labels, with these differences: every spelling of a wildcard address is
//! one, ports that come twice are merged, and labels that cannot work are complained about.

use std::net::IpAddr;

use catalog::{InvalidService, Port, Protocol, ProxyMode, Service, Status, Timestamp};

use super::wire::{Container, PublishedPort, short_id};
use crate::discovery::{CheckSpec, Instance};

const NAME: &str = "ServiceName";
const SERVICE_PORT: &str = "ServicePort_";
const CHECK_KIND: &str = "HealthCheck";
const CHECK_ARGS: &str = "HealthCheckArgs";
const PROXY_MODE: &str = "ProxyMode";
const DISCOVER: &str = "SidecarDiscover";

/// What a container is to this host's account.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mapped {
    /// `None` when its owner hid it, it is between two lives, or its description is refused.
    pub(super) instance: Option<Instance>,
    /// What its owner should know.
    pub(super) complaints: Vec<Complaint>,
}

/// Something about a container's labels that its owner surely did not mean.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Complaint {
    /// The label counts as absent.
    #[error("label {label}={value:?} is not a port from 0 to 65535 and is ignored")]
    ServicePortValue { label: String, value: String },
    /// The label is without effect.
    #[error("label {label} matches nothing: {suffix:?} is not a container port from 1 to 65535")]
    ServicePortName { label: String, suffix: String },
    /// The label is without effect.
    #[error(
        "label {label} matches nothing: container port {port} is not published; publish it with \
         -p or -P"
    )]
    ServicePortUnpublished { label: String, port: u16 },
    /// The record keeps the word; proxies leave the service out.
    #[error("label ProxyMode={value:?} is not one of http, tcp, ws; proxies leave it out")]
    ProxyMode { value: String },
    /// The record has an empty name; nothing can route to it.
    #[error("label ServiceName is empty, so the service has no name")]
    EmptyName,
    /// The container is left out.
    #[error("it is left out: {0}")]
    Refused(#[from] InvalidService),
}

/// Maps one container as `hostname` announces it.
pub(super) fn map(container: &Container, hostname: &str, advertise_ip: IpAddr) -> Mapped {
    let mut complaints = Vec::new();
    if container.is_restarting() || container.label(DISCOVER) == Some("false") {
        return Mapped {
            instance: None,
            complaints,
        };
    }
    let service = Service {
        id: short_id(&container.id).to_owned(),
        name: container
            .label(NAME)
            .unwrap_or_else(|| container.image())
            .to_owned(),
        image: container.image().to_owned(),
        created: created(container),
        hostname: hostname.to_owned(),
        ports: Some(ports(container, advertise_ip, &mut complaints)),
        updated: Timestamp::EPOCH,
        proxy_mode: proxy_mode(container, &mut complaints),
        status: Status::Unknown,
    };
    if container.label(NAME) == Some("") {
        complaints.push(Complaint::EmptyName);
    }
    unmatched_labels(container, &mut complaints);
    if let Err(error) = service.validate() {
        complaints.push(error.into());
        return Mapped {
            instance: None,
            complaints,
        };
    }
    let word = |label| {
        container
            .label(label)
            .filter(|it| !it.is_empty())
            .map(str::to_owned)
    };
    let check = CheckSpec {
        kind: word(CHECK_KIND),
        args: word(CHECK_ARGS),
        ..CheckSpec::default()
    };
    Mapped {
        instance: Some(Instance {
            service,
            check,
            engine_health: None,
        }),
        complaints,
    }
}

fn created(container: &Container) -> Timestamp {
    Timestamp::from_unix_nanos(i128::from(container.created.unwrap_or_default()) * 1_000_000_000)
}

fn proxy_mode(container: &Container, complaints: &mut Vec<Complaint>) -> String {
    let value = container.label(PROXY_MODE).unwrap_or_default();
    if let Some(mode) = ProxyMode::parse(value) {
        return mode.as_str().to_owned();
    }
    complaints.push(Complaint::ProxyMode {
        value: value.to_owned(),
    });
    value.to_owned()
}

/// Published TCP and UDP ports in the engine's order, each once.
fn ports(
    container: &Container,
    advertise_ip: IpAddr,
    complaints: &mut Vec<Complaint>,
) -> Vec<Port> {
    let mut ports: Vec<Port> = Vec::new();
    for listed in container.ports() {
        let (Some(port), Some(protocol)) = (listed.public(), Protocol::parse(listed.kind())) else {
            continue;
        };
        let port = Port {
            kind: protocol.as_str().to_owned(),
            port,
            service_port: service_port(container, listed, complaints),
            ip: bind_ip(listed.ip(), advertise_ip),
        };
        // Engines list one publication once for IPv4 and once for IPv6.
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    ports
}

/// The port clients use, by the label of the container port; 0 when there is none.
fn service_port(
    container: &Container,
    listed: &PublishedPort,
    complaints: &mut Vec<Complaint>,
) -> u16 {
    let label = format!("{SERVICE_PORT}{}", listed.private());
    let Some(value) = container.label(&label) else {
        return 0;
    };
    value.parse().unwrap_or_else(|_| {
        let complaint = Complaint::ServicePortValue {
            label,
            value: value.to_owned(),
        };
        if !complaints.contains(&complaint) {
            complaints.push(complaint);
        }
        0
    })
}

/// Where a published port answers: a wildcard of any spelling is the advertise address.
fn bind_ip(listed: &str, advertise_ip: IpAddr) -> String {
    let bare = listed
        .strip_prefix('[')
        .and_then(|it| it.strip_suffix(']'))
        .unwrap_or(listed);
    let wildcard = bare.is_empty()
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_unspecified());
    if wildcard {
        advertise_ip.to_string()
    } else {
        bare.to_owned()
    }
}

fn unmatched_labels(container: &Container, complaints: &mut Vec<Complaint>) {
    for (label, _) in container.labels() {
        let Some(suffix) = label.strip_prefix(SERVICE_PORT) else {
            continue;
        };
        let label = label.to_owned();
        // The suffix is compared as text with a printed port, so `080` or `+80` never match.
        match suffix
            .parse::<u16>()
            .ok()
            .filter(|port| *port != 0 && port.to_string() == suffix)
        {
            None => {
                complaints.push(Complaint::ServicePortName {
                    label,
                    suffix: suffix.to_owned(),
                });
            }
            Some(port) => {
                let published = |it: &PublishedPort| {
                    it.private() == port
                        && it.public().is_some()
                        && Protocol::parse(it.kind()).is_some()
                };
                if !container.ports().iter().any(published) {
                    complaints.push(Complaint::ServicePortUnpublished { label, port });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    use super::*;
    use crate::discovery::docker::wire::listing;

    fn mapped(container: &Value) -> Mapped {
        let listing = listing(json!([container]).to_string().as_bytes()).unwrap();
        assert!(listing.unreadable.is_empty(), "{:?}", listing.unreadable);
        map(
            &listing.containers[0],
            "node-a",
            "10.20.0.11".parse().unwrap(),
        )
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
                let mut text =
                    format!("{} {:?} {}\n", service.id, service.name, service.proxy_mode);
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
                status: Status::Unknown,
            }
        );
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
                ! label ServicePort_81 matches nothing: container port 81 is not published; publish it with -p or -P
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
}
