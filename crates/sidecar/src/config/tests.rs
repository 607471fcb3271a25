use super::*;

use crate::gossip_keys::GossipKeys;

fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

pub(super) fn resolve(pairs: &[(&str, &str)]) -> Result<Config, Vec<ConfigError>> {
    Config::resolve(&Flags::new(), &environment(pairs), "box")
}

#[test]
fn defaults_are_the_originals() {
    let config = resolve(&[]).unwrap();
    assert_eq!(config.cluster_name, "default");
    assert_eq!(config.node_name, "box");
    assert_eq!(config.gossip_bind, "0.0.0.0:7946".parse().unwrap());
    assert_eq!(config.http_bind, "0.0.0.0:7777".parse().unwrap());
    assert_eq!(config.bind_ip, "192.168.168.168".parse::<IpAddr>().unwrap());
    assert_eq!(config.discovery, Discovery::Automatic);
    assert_eq!(config.push_pull_interval, Duration::from_secs(20));
    assert_eq!(
        (config.gossip_messages, config.proxy),
        (15, ProxyKind::Builtin)
    );
    assert!(config.warnings.is_empty());
    assert_eq!(config.settings.len(), VARIABLES.len());
}

#[test]
fn flags_beat_variables_and_replace_lists() {
    let flags = Flags::from([
        (
            "cluster-ip",
            vec!["10.0.0.1".to_owned(), "seed.example:7000".to_owned()],
        ),
        ("cluster-name", vec!["flagged".to_owned()]),
    ]);
    let environment = environment(&[
        ("SIDECAR_SEEDS", "10.9.9.9"),
        ("SIDECAR_CLUSTER_NAME", "variable"),
    ]);
    let config = Config::resolve(&flags, &environment, "box").unwrap();
    let seeds: Vec<String> = config.seeds.iter().map(ToString::to_string).collect();
    assert_eq!(seeds, ["10.0.0.1:7946", "seed.example:7000"]);
    assert_eq!(config.cluster_name, "flagged");
}

#[test]
fn all_problems_are_reported_at_once() {
    let errors = resolve(&[
        ("SIDECAR_PUSH_PULL_INTERVAL", "5"),
        ("SIDECAR_BIND_PORT", "seven"),
        ("SIDECAR_ADVERTISE_IP", "10.0.0.256"),
        ("SIDECAR_DISCOVERY", "docker,zookeeper"),
        ("SIDECAR_GOSSIP_INTERVAL", "0"),
        ("SIDECAR_PROXY", "nginx"),
        ("HAPROXY_BIND_IP", "here"),
    ])
    .unwrap_err();
    let named: Vec<&str> = errors.iter().map(|error| error.name.as_str()).collect();
    for name in [
        "SIDECAR_PUSH_PULL_INTERVAL",
        "SIDECAR_BIND_PORT",
        "SIDECAR_ADVERTISE_IP",
        "SIDECAR_DISCOVERY",
        "SIDECAR_GOSSIP_INTERVAL",
        "SIDECAR_PROXY",
        "HAPROXY_BIND_IP",
    ] {
        assert!(named.contains(&name), "{name} missing in {named:?}");
    }
    let text = errors
        .iter()
        .find(|it| it.name == "SIDECAR_PROXY")
        .unwrap()
        .to_string();
    assert_eq!(
        text,
        r#"SIDECAR_PROXY="nginx" is not usable: expected builtin, kernel, haproxy, envoy or none"#
    );
}

#[test]
fn bind_address_falls_back_to_the_original_names() {
    for (name, value) in [
        ("HAPROXY_BIND_IP", "10.1.1.1"),
        ("ENVOY_BIND_IP", "10.1.1.2"),
    ] {
        let config = resolve(&[(name, value), ("BIND_IP", "10.1.1.9")]).unwrap();
        assert_eq!(config.bind_ip.to_string(), value);
    }
    let config = resolve(&[("BIND_IP", "10.1.1.9")]).unwrap();
    assert_eq!(config.bind_ip.to_string(), "10.1.1.9");
    assert_eq!(config.warnings.len(), 1);
    let config = resolve(&[("HAPROXY_BIND_IP", "")]).unwrap();
    assert_eq!(config.bind_ip, IpAddr::from(Ipv4Addr::UNSPECIFIED));
}

#[test]
fn unrelated_variables_of_a_login_shell_do_not_count() {
    let config = resolve(&[("USER", "me"), ("DEBUG", "*"), ("URL", "x"), ("GROUP", "g")]).unwrap();
    assert!(config.warnings.is_empty());
}

#[test]
fn unknown_names_of_ours_are_warned_about() {
    let config = resolve(&[("SIDECAR_SEED", "x"), ("SIDECAR_DEBUG", "nonsense")]).unwrap();
    assert_eq!(config.warnings.len(), 1);
    assert!(config.warnings[0].contains("SIDECAR_SEED "));
}

#[test]
fn set_but_empty_discovery_is_a_consumer_and_an_empty_cluster_name_is_kept() {
    let config = resolve(&[("SIDECAR_DISCOVERY", ""), ("SIDECAR_CLUSTER_NAME", "")]).unwrap();
    assert_eq!(config.discovery, Discovery::Chosen(Vec::new()));
    assert_eq!(config.cluster_name, "");
}

#[test]
fn blank_separated_lists_work_as_in_old_compose_files() {
    let config = resolve(&[
        ("SIDECAR_DISCOVERY", "docker static"),
        ("SIDECAR_SEEDS", "a b,c"),
    ])
    .unwrap();
    let both = vec![SourceName::Docker, SourceName::Static];
    assert_eq!(config.discovery, Discovery::Chosen(both));
    assert_eq!(config.seeds.len(), 3);
}

#[test]
fn the_docker_host_variable_counts_when_the_url_is_unset_or_empty() {
    for url in [None, Some("")] {
        let mut pairs = vec![("DOCKER_HOST", "tcp://10.0.0.5:2375")];
        pairs.extend(url.map(|url| ("DOCKER_URL", url)));
        let config = resolve(&pairs).unwrap();
        assert_eq!(
            config.docker,
            Endpoint::parse("tcp://10.0.0.5:2375").unwrap()
        );
    }
}

#[test]
fn seeds_of_every_form() {
    for (text, shown) in [
        ("10.0.0.1", "10.0.0.1:7946"),
        ("10.0.0.1:1", "10.0.0.1:1"),
        ("host", "host:7946"),
        ("host.example:99", "host.example:99"),
        ("::1", "[::1]:7946"),
        ("[::1]", "[::1]:7946"),
        ("[::1]:5", "[::1]:5"),
    ] {
        assert_eq!(parse_seed(text, 7946).unwrap().to_string(), shown);
    }
    for text in ["host:port", "host:0", "a/b", ":7946", "-e;"] {
        assert!(parse_seed(text, 7946).is_none(), "{text}");
    }
}

#[test]
fn printed_configuration_names_the_source_of_each_value() {
    let lines = resolve(&[("HAPROXY_BIND_IP", "10.1.1.1")]).unwrap().lines();
    assert_eq!(lines[0].len(), 50);
    assert!(
        lines
            .iter()
            .any(|line| line == "  * SIDECAR_BIND_IP: 10.1.1.1 (environment, HAPROXY_BIND_IP)"),
        "{lines:#?}"
    );
    assert!(
        lines
            .iter()
            .any(|line| line.contains("SIDECAR_PROXY: builtin (default)"))
    );
}

#[test]
fn a_disabled_haproxy_means_another_proxy_is_in_charge() {
    let disabled = ("HAPROXY_DISABLE", "true");
    assert_eq!(resolve(&[disabled]).unwrap().proxy, ProxyKind::None);
    let config = resolve(&[disabled, ("SIDECAR_PROXY", "builtin")]).unwrap();
    assert_eq!(config.proxy, ProxyKind::Builtin);
    assert_eq!(
        resolve(&[("HAPROXY_DISABLE", "maybe")]).unwrap_err().len(),
        1
    );
}

/// 32 bytes of 1, and 16 bytes of 3.
const KEY_1: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const KEY_3: &str = "AwMDAwMDAwMDAwMDAwMDAw==";

#[test]
fn gossip_keys_are_read_in_order_and_never_shown() {
    let both = format!("{KEY_3},{KEY_1}");
    let config = resolve(&[("SIDECAR_GOSSIP_KEY", &both)]).unwrap();
    let GossipKeys::Given(keyring) = &config.gossip_security.keys else {
        panic!("{:?}", config.gossip_security);
    };
    let expected = [[3; 16].as_slice(), &[1; 32]].map(|it| memberlist::Key::new(it).unwrap());
    assert_eq!(keyring.keys(), expected);
    let shown = format!("{} {config:?}", config.lines().join("\n"));
    assert!(shown.contains("  * SIDECAR_GOSSIP_KEY: (hidden) (environment)"));
    assert!(!shown.contains(&KEY_1[..6]) && !shown.contains(&KEY_3[..6]));

    let file = resolve(&[("SIDECAR_GOSSIP_KEY_FILE", "/etc/keys")]).unwrap();
    let expected = GossipKeys::File("/etc/keys".into());
    assert_eq!(file.gossip_security.keys, expected);
    for none in [vec![], vec![("SIDECAR_GOSSIP_KEY", "")]] {
        let config = resolve(&none).unwrap();
        assert_eq!(config.gossip_security.keys, GossipKeys::None);
        let shown = config.lines().join("\n");
        assert!(shown.contains("  * SIDECAR_GOSSIP_KEY:  ("), "{shown}");
    }
}

#[test]
fn wrong_gossip_keys_are_named_and_not_repeated() {
    let too_short = format!("{KEY_1},AQEBAQEB");
    for (value, said) in [
        ("c2VjcmV0c2VjcmV0!", "number 1 is not base64"),
        (&too_short, "number 2 is of 6 bytes"),
        ("AQEB", "number 1 is of 3 bytes"),
        (",", "no gossip key"),
    ] {
        let errors = resolve(&[("SIDECAR_GOSSIP_KEY", value)]).unwrap_err();
        let text = format!("{} {errors:?}", errors[0]);
        assert!(text.contains(said), "{text}");
        assert!(text.contains("SIDECAR_GOSSIP_KEY=\"(hidden)\""), "{text}");
        assert!(!text.contains("c2Vj") && !text.contains("AQEB"), "{text}");
    }
    let errors = resolve(&[
        ("SIDECAR_GOSSIP_KEY", KEY_1),
        ("SIDECAR_GOSSIP_KEY_FILE", "/etc/keys"),
    ])
    .unwrap_err();
    assert_eq!((errors.len(), errors[0].value.as_str()), (1, "/etc/keys"));
    assert!(errors[0].to_string().contains("keep one of the two"));
}

#[test]
fn the_switches_of_encryption_and_the_label() {
    let security = resolve(&[]).unwrap().gossip_security;
    assert!(security.verify_incoming && security.verify_outgoing);
    assert_eq!(security.label, "");
    let config = resolve(&[
        ("SIDECAR_GOSSIP_KEY", KEY_1),
        ("SIDECAR_GOSSIP_VERIFY_INCOMING", "false"),
        ("SIDECAR_GOSSIP_LABEL", "blue"),
    ])
    .unwrap();
    let security = &config.gossip_security;
    assert!(!security.verify_incoming && security.verify_outgoing);
    assert_eq!(security.label, "blue");
    assert_eq!(config.warnings.len(), 1);
    assert!(config.warnings[0].contains("accepted from anybody"));

    let config = resolve(&[("SIDECAR_GOSSIP_VERIFY_OUTGOING", "0")]).unwrap();
    assert!(config.warnings[0].contains("means nothing without gossip keys"));
    let long = "l".repeat(256);
    for wrong in [
        ("SIDECAR_GOSSIP_LABEL", long.as_str()),
        ("SIDECAR_GOSSIP_VERIFY_INCOMING", "maybe"),
    ] {
        assert_eq!(resolve(&[wrong]).unwrap_err()[0].name, wrong.0);
    }
}

#[test]
fn networks_that_may_gossip_are_a_list() {
    let config = resolve(&[]).unwrap();
    assert!(config.gossip_security.allow_from.is_empty());
    let config = resolve(&[("SIDECAR_GOSSIP_ALLOW", "10.0.0.0/8, 192.168.1.7 fd00::/8")]).unwrap();
    let networks: Vec<String> = config
        .gossip_security
        .allow_from
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(networks, ["10.0.0.0/8", "192.168.1.7/32", "fd00::/8"]);
    let errors = resolve(&[("SIDECAR_GOSSIP_ALLOW", "10.0.0.0/8,10.0.0.1/8,all")]).unwrap_err();
    let wrong: Vec<&str> = errors.iter().map(|error| &*error.value).collect();
    assert_eq!(wrong, ["10.0.0.1/8", "all"]);
    assert!(errors[0].to_string().contains("networks such as"));
}

#[test]
fn a_cluster_name_has_a_longest_length() {
    let longest = "c".repeat(255);
    let config = resolve(&[("SIDECAR_CLUSTER_NAME", &longest)]).unwrap();
    assert_eq!(config.cluster_name, longest);
    let too_long = "c".repeat(256);
    let errors = resolve(&[("SIDECAR_CLUSTER_NAME", &too_long)]).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert_eq!(
        (&*errors[0].name, &*errors[0].value, &*errors[0].expected),
        ("SIDECAR_CLUSTER_NAME", &*too_long, "at most 255 bytes")
    );
}

#[test]
fn names_of_docker_services_come_from_a_label_or_a_pattern() {
    let config = resolve(&[]).unwrap();
    assert!(matches!(&config.docker_naming, Naming::Label(label) if label == "ServiceName"));
    assert_eq!(config.docker_hold, Some(Duration::from_secs(3600)));
    let config = resolve(&[
        ("SERVICES_NAMER", "regex"),
        ("SERVICES_NAME_MATCH", "^/(.+)(-[0-9a-z]{7,14})$"),
        ("SIDECAR_DOCKER_HOLD", "0"),
    ])
    .unwrap();
    assert!(matches!(&config.docker_naming, Naming::Pattern(_)));
    assert_eq!(config.docker_hold, None);
    for (name, value, expected) in [
        ("SERVICES_NAMER", "docker", "docker_label or regex"),
        ("SERVICES_NAME_MATCH", "^/.+$", "it has no group"),
        ("SERVICES_NAME_MATCH", "^/(.+", "unclosed group"),
        ("SERVICES_NAME_LABEL", "", "the name of a label"),
    ] {
        let mut variables = vec![(name, value)];
        if name == "SERVICES_NAME_MATCH" {
            variables.push(("SERVICES_NAMER", "regex"));
        }
        let errors = resolve(&variables).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
        let text = errors[0].to_string();
        assert!(text.contains(name) && text.contains(expected), "{text}");
    }
}

#[test]
fn the_tls_variables_of_dockers_command_line() {
    let certificates = |pairs: &[(&str, &str)]| {
        let Endpoint::Tcp { encryption, .. } = resolve(pairs).unwrap().docker else {
            panic!("{pairs:?} name no TCP endpoint");
        };
        match encryption {
            Encryption::None => "plain".to_owned(),
            Encryption::Tls { certificates } => match certificates {
                None => "system".to_owned(),
                Some(path) => path.display().to_string(),
            },
        }
    };
    let host = ("DOCKER_HOST", "tcp://10.0.0.5");
    let verify = ("DOCKER_TLS_VERIFY", "1");
    let path = ("DOCKER_CERT_PATH", "/certificates");
    let home = ("HOME", "/home/me");
    assert_eq!(certificates(&[host, home]), "plain");
    assert_eq!(certificates(&[host, ("DOCKER_TLS_VERIFY", "")]), "plain");
    assert_eq!(certificates(&[host, home, verify]), "/home/me/.docker");
    assert_eq!(certificates(&[host, home, verify, path]), "/certificates");
    assert_eq!(certificates(&[host, path]), "/certificates");
    assert_eq!(certificates(&[("DOCKER_URL", "https://a")]), "system");
    assert_eq!(certificates(&[("DOCKER_URL", "http://a"), verify]), "plain");
    let socket = resolve(&[verify, path]).unwrap().docker;
    assert_eq!(socket.to_string(), "unix:///var/run/docker.sock");
}
