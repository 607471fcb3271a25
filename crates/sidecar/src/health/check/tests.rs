//! From what owners write to checks and notices.

use std::time::Duration;

use catalog::Port;

use super::*;
use crate::{discovery::CheckSpec, health::tests::service};

const PACE: Pace = Pace {
    interval: Duration::from_secs(3),
    timeout: Duration::from_millis(2999),
    rise: 1,
    fall: 1,
};

fn planned(instance: &Instance) -> (Check, Vec<Notice>) {
    let host = Host {
        advertise_ip: "10.20.0.11".parse().unwrap(),
        default_endpoint: "/version".to_owned(),
        pace: PACE,
    };
    let plan = plan(instance, &host);
    (plan.check, plan.notices)
}

fn spec(kind: Option<&str>, args: Option<&str>) -> (Check, String) {
    let check = CheckSpec {
        kind: kind.map(str::to_owned),
        args: args.map(str::to_owned),
        ..CheckSpec::default()
    };
    let (check, notices) = planned(&Instance {
        service: service("a"),
        check,
        engine_health: None,
        listener: None,
    });
    let notices: Vec<String> = notices.iter().map(ToString::to_string).collect();
    (check, notices.join("; "))
}

fn http(url: &str) -> Check {
    Check::HttpGet {
        url: url.to_owned(),
    }
}

#[test]
fn the_words_of_owners_become_checks() {
    let url = "http://{{ host }}:{{ tcp 8080 }}/";
    assert_eq!(
        spec(Some("HttpGet"), Some(url)),
        (http("http://10.20.0.11:32768/"), String::new())
    );
    assert_eq!(
        spec(Some(" External "), Some("/bin/check -H {{ host }} 'a b'")),
        (
            Check::External {
                words: ["/bin/check", "-H", "10.20.0.11", "a b"]
                    .map(str::to_owned)
                    .into()
            },
            String::new()
        )
    );
    assert_eq!(
        spec(Some("AlwaysSuccessful"), Some("{{ anything")),
        (Check::AlwaysSuccessful, String::new())
    );
}

#[test]
fn an_unknown_word_is_http_get_with_a_warning() {
    for word in ["Ping", "httpget"] {
        let (check, notices) = spec(Some(word), Some("http://:1/"));
        assert_eq!(check, http("http://:1/"));
        for part in [
            word,
            "HttpGet",
            "External",
            "AlwaysSuccessful",
            "Tcp",
            "Grpc",
            "Docker",
        ] {
            assert!(notices.contains(part), "{notices}");
        }
    }
}

#[test]
fn a_check_that_cannot_run_says_so() {
    for (kind, args, reason) in [
        ("HttpGet", None, "HttpGet needs the URL"),
        ("HttpGet", Some(" "), "HttpGet needs the URL"),
        ("External", None, "External needs a command line"),
        (
            "External",
            Some("{{ \"\" }}"),
            "External needs a command line",
        ),
        ("External", Some("it's"), "the quote ' at character 3"),
    ] {
        let (check, notices) = spec(Some(kind), args);
        assert!(
            matches!(&check, Check::Unusable { reason: it } if it.contains(reason)),
            "{check:?}"
        );
        assert!(
            notices.contains("can never succeed") && notices.contains(reason),
            "{notices}"
        );
    }
}

#[test]
fn a_failing_template_is_used_as_it_stands() {
    let (check, notices) = spec(Some("HttpGet"), Some("http://{{ nope }}/"));
    assert_eq!(check, http("http://{{ nope }}/"));
    assert!(
        notices.contains("function \"nope\" not defined"),
        "{notices}"
    );
}

#[test]
fn the_default_asks_the_first_tcp_port_where_it_is_bound() {
    let port = |kind: &str, ip: &str| Port {
        kind: kind.to_owned(),
        port: 32768,
        service_port: 0,
        ip: ip.to_owned(),
    };
    for (ports, check) in [
        (
            vec![port("tcp", "10.0.0.9")],
            http("http://10.0.0.9:32768/version"),
        ),
        (
            vec![port("tcp", "0.0.0.0")],
            http("http://10.20.0.11:32768/version"),
        ),
        (
            vec![port("tcp", "::")],
            http("http://10.20.0.11:32768/version"),
        ),
        (
            vec![port("tcp", "")],
            http("http://10.20.0.11:32768/version"),
        ),
        (
            vec![port("tcp", "fd00::1")],
            http("http://[fd00::1]:32768/version"),
        ),
        (
            vec![port("tcp", "db.local")],
            http("http://db.local:32768/version"),
        ),
        (
            vec![
                port("udp", "10.0.0.8"),
                port("tcp", "10.0.0.9"),
                port("tcp", "10.0.0.7"),
            ],
            http("http://10.0.0.9:32768/version"),
        ),
        (vec![port("udp", "10.0.0.9")], Check::AlwaysSuccessful),
        (vec![], Check::AlwaysSuccessful),
    ] {
        let mut service = service("a");
        service.ports = Some(ports);
        let instance = Instance {
            service,
            check: CheckSpec::default(),
            engine_health: None,
            listener: None,
        };
        let default = Notice::Default {
            kind: match check {
                Check::AlwaysSuccessful => Kind::AlwaysSuccessful,
                _ => Kind::HttpGet,
            },
            check: check.clone(),
        };
        assert_eq!(planned(&instance), (check, vec![default]));
    }
    // As in Go, a kind that is set but empty is none.
    assert_eq!(
        spec(Some(""), None).0,
        http("http://10.0.0.1:32768/version")
    );
    assert!(
        spec(None, Some("http://x/"))
            .1
            .contains("\"http://x/\" are ignored")
    );
}

#[test]
fn the_default_endpoint_may_be_empty_or_a_template() {
    let instance = Instance {
        service: service("a"),
        check: CheckSpec::default(),
        engine_health: None,
        listener: None,
    };
    for (endpoint, url) in [
        ("", "http://10.0.0.1:32768/"),
        ("ping", "http://10.0.0.1:32768/ping"),
        ("/{{ .Name }}", "http://10.0.0.1:32768/web"),
    ] {
        let host = Host {
            advertise_ip: "10.20.0.11".parse().unwrap(),
            default_endpoint: endpoint.to_owned(),
            pace: PACE,
        };
        assert_eq!(plan(&instance, &host).check, http(url));
    }
}

fn instance(kind: &str, args: &str) -> Instance {
    Instance {
        service: service("a"),
        check: CheckSpec {
            kind: Some(kind.to_owned()),
            args: Some(args.to_owned()),
            ..CheckSpec::default()
        },
        engine_health: None,
        listener: None,
    }
}

#[test]
fn tcp_asks_an_address_and_by_default_the_first_tcp_port() {
    for (args, address) in [
        ("{{ host }}:{{ tcp 8080 }}", "10.20.0.11:32768"),
        ("tcp://db.local:5432", "db.local:5432"),
        (":5432", ":5432"),
        (" [fd00::1]:1 ", "[fd00::1]:1"),
        ("", "10.0.0.1:32768"),
    ] {
        let (check, notices) = planned(&instance("Tcp", args));
        assert!(matches!(check, Check::Tcp { .. }), "{args}: {check:?}");
        assert_eq!((check.to_string().as_str(), notices), (address, vec![]));
    }
    for (args, reason) in [
        ("{{ host }}:{{ tcp 1 }}", "\"-1\" is not a port number"),
        ("10.0.0.1", "no port"),
        ("http://10.0.0.1:80/", "is not"),
    ] {
        let (check, notices) = spec(Some("Tcp"), Some(args));
        assert!(matches!(check, Check::Unusable { .. }), "{check:?}");
        assert!(
            notices.contains("can never succeed: Tcp needs host:port") && notices.contains(reason),
            "{notices}"
        );
    }
    let mut portless = instance("Tcp", "");
    portless.service.ports = None;
    let (check, _) = planned(&portless);
    assert!(
        matches!(&check, Check::Unusable { reason } if reason.contains("nor has the instance a TCP port")),
        "{check:?}"
    );
}

#[test]
fn grpc_asks_a_server_or_one_of_its_services() {
    for (args, target) in [
        ("{{ host }}:{{ tcp 8080 }}", "grpc://10.20.0.11:32768/"),
        ("10.0.0.1:9/my.Service", "grpc://10.0.0.1:9/my.Service"),
        ("http://:9/a/b", "grpc://:9/a/b"),
        ("https://web:9", "grpcs://web:9/"),
        ("grpcs://web:9/x", "grpcs://web:9/x"),
        ("", "grpc://10.0.0.1:32768/"),
    ] {
        let (check, notices) = planned(&instance("Grpc", args));
        assert!(matches!(check, Check::Grpc { .. }), "{args}: {check:?}");
        assert_eq!((check.to_string().as_str(), notices), (target, vec![]));
    }
    for (args, reason) in [
        ("ftp://web:9", "\"ftp\" is not grpc"),
        ("web", "no port"),
        ("web:x/y", "\"x\" is not a port number"),
    ] {
        let (_, notices) = spec(Some("Grpc"), Some(args));
        assert!(notices.contains(reason), "{notices}");
    }
}

#[test]
fn docker_is_what_the_engine_says() {
    let health = EngineHealth {
        healthy: Some(true),
        output: "fine".to_owned(),
    };
    let mut instance = instance("Docker", "");
    instance.engine_health = Some(health.clone());
    assert_eq!(planned(&instance), (Check::Docker { health }, vec![]));

    instance.engine_health = None;
    let (check, notices) = planned(&instance);
    assert!(matches!(check, Check::Unusable { .. }), "{check:?}");
    let notice = notices[0].to_string();
    assert!(
        notice.contains("Docker means the HEALTHCHECK")
            && notice.contains("this instance has none"),
        "{notice}"
    );
}

#[test]
fn what_a_check_does_not_use_is_told() {
    let mut instance = instance("Docker", "/bin/true");
    instance.engine_health = Some(EngineHealth {
        healthy: None,
        output: String::new(),
    });
    instance.check.interval = Some("5s".to_owned());
    instance.check.fall = Some("3".to_owned());
    let notices: Vec<String> = planned(&instance).1.iter().map(Notice::to_string).collect();
    assert_eq!(
        notices,
        [
            "health check arguments \"/bin/true\" are ignored because the engine runs the check of \
             the image",
            "HealthCheckInterval, HealthCheckFall of the health check is ignored because Docker is \
             not repeated",
        ]
    );
}

#[test]
fn what_is_asked_once_is_decided_by_one_result() {
    let mut instance = instance("AlwaysSuccessful", "");
    (instance.check.rise, instance.check.fall) = (Some("9".to_owned()), Some("9".to_owned()));
    let host = Host {
        advertise_ip: "10.20.0.11".parse().unwrap(),
        default_endpoint: String::new(),
        pace: PACE,
    };
    assert_eq!(plan(&instance, &host).pace, PACE);
}

#[test]
fn a_bad_setting_is_told_and_the_others_are_used() {
    let mut instance = instance("HttpGet", "http://:1/");
    instance.check.interval = Some("soon".to_owned());
    instance.check.rise = Some("2".to_owned());
    let host = Host {
        advertise_ip: "10.20.0.11".parse().unwrap(),
        default_endpoint: String::new(),
        pace: PACE,
    };
    let plan = plan(&instance, &host);
    assert_eq!(plan.pace, Pace { rise: 2, ..PACE });
    assert!(
        matches!(&plan.notices[..], [Notice::Setting(_)]),
        "{:?}",
        plan.notices
    );
}

#[test]
fn passwords_in_urls_are_not_shown() {
    let (check, _) = spec(Some("HttpGet"), Some("http://me:secret@web:1/x@y"));
    assert_eq!(check.to_string(), "http://…@web:1/x@y");
    for kind in [None, Some("HttpGet"), Some("Ping")] {
        let (_, notices) = spec(kind, Some("http://me:secret@{{ nope }}:1/"));
        assert!(
            notices.contains("…@{{ nope }}") && !notices.contains("secret"),
            "{notices}"
        );
    }
}
