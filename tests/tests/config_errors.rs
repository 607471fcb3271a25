//! Configuration that cannot work is refused as a whole, before anything is touched; configuration
//! that can is shown with where it came from.

#![cfg(target_os = "linux")]

use std::{fs, net::Ipv4Addr, time::Duration};

use blackbox::{API_PORT, AgentBuilder, Exit, GOSSIP_PORT, Lab, Machine};

const REFUSED: Duration = Duration::from_secs(5);

/// The variables that have an effect.
const VARIABLES: &[&str] = &[
    "SIDECAR_SEEDS",
    "SIDECAR_CLUSTER_NAME",
    "SIDECAR_NODE_NAME",
    "SIDECAR_ADVERTISE_IP",
    "SIDECAR_EXCLUDE_IPS",
    "SIDECAR_BIND_PORT",
    "SIDECAR_GOSSIP_BIND_IP",
    "SIDECAR_HTTP_BIND",
    "SIDECAR_BIND_IP",
    "SIDECAR_PROXY",
    "SIDECAR_DISCOVERY",
    "DOCKER_URL",
    "STATIC_CONFIG_FILE",
    "SIDECAR_DEFAULT_CHECK_ENDPOINT",
    "SIDECAR_GOSSIP_INTERVAL",
    "SIDECAR_GOSSIP_MESSAGES",
    "SIDECAR_PUSH_PULL_INTERVAL",
    "SIDECAR_HANDOFF_QUEUE_DEPTH",
    "SIDECAR_GOSSIP_DELEGATE_VERSIONS",
    "SIDECAR_LOGGING_LEVEL",
    "SIDECAR_LOGGING_FORMAT",
];

/// A command of the binary on a host of its own: how it ended and what it wrote.
fn sidecar(lab: &Lab, words: &[&str], env: &[(&str, &str)]) -> (Exit, String) {
    let mut builder = AgentBuilder::new(lab, 0).args(words);
    for (name, value) in env {
        builder = builder.env(name, value);
    }
    // The log goes on from one command to the next.
    let log = lab.dir().join("sidecar-solo.log");
    let before = fs::read_to_string(&log).unwrap_or_default().len();
    let mut process = builder.launch();
    let (exit, _) = process.ends(REFUSED);
    (exit, process.log().split_off(before))
}

#[test]
fn all_bad_values_are_reported_at_once_before_any_port_is_bound() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    // Whoever tried to bind would complain of these instead.
    let _api = lab.host(0).listen((Ipv4Addr::UNSPECIFIED, API_PORT).into());
    let _gossip = lab
        .host(0)
        .listen((Ipv4Addr::UNSPECIFIED, GOSSIP_PORT).into());
    let bad = [
        ("SIDECAR_PUSH_PULL_INTERVAL", "5parsecs", "20s"),
        ("SIDECAR_BIND_PORT", "seventy", "65535"),
        ("SIDECAR_GOSSIP_INTERVAL", "soon", "200ms"),
        ("SIDECAR_ADVERTISE_IP", "10.88.0.999", "address"),
        ("SIDECAR_PROXY", "carrier-pigeon", "builtin"),
        ("DOCKER_URL", "gopher://engine", "unix://"),
    ];
    let env: Vec<_> = bad.iter().map(|&(name, value, _)| (name, value)).collect();
    let (exit, output) = sidecar(&lab, &[], &env);
    assert_eq!(exit, Exit::Code(1), "{output}");
    for (name, value, expected) in bad {
        let line = output.lines().find(|line| line.contains(name));
        let line = line.unwrap_or_else(|| panic!("{name} is not reported:\n{output}"));
        assert!(
            line.contains(value),
            "{name} is reported without its value: {line}"
        );
        assert!(
            line.contains(expected),
            "{name} is reported without what was expected: {line}"
        );
    }
    assert!(!output.contains("in use"), "no port was tried:\n{output}");
}

#[test]
fn a_bad_word_on_the_command_line_is_named() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let (exit, output) = sidecar(&lab, &["--frobnicate"], &[]);
    assert_eq!(exit, Exit::Code(1), "{output}");
    assert!(output.contains("--frobnicate"), "{output}");
}

#[test]
fn the_effective_configuration_is_printed_with_its_sources() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let env = [
        ("SIDECAR_CLUSTER_NAME", "from-the-environment"),
        ("SIDECAR_SEEDS", "10.88.0.7,10.88.0.8:7000"),
        // A login shell's own words are not ours.
        ("USER", "somebody"),
        ("DEBUG", "*"),
        ("URL", "nonsense"),
    ];
    let (exit, output) = sidecar(&lab, &["config"], &env);
    assert_eq!(exit, Exit::Code(0), "{output}");
    for (name, value) in [
        ("SIDECAR_CLUSTER_NAME", "from-the-environment"),
        ("SIDECAR_SEEDS", "10.88.0.8:7000"),
        ("SIDECAR_BIND_PORT", "7946"),
        ("SIDECAR_BIND_IP", "192.168.168.168"),
        ("SIDECAR_HTTP_BIND", "0.0.0.0:7777"),
        ("SIDECAR_PUSH_PULL_INTERVAL", "20s"),
    ] {
        let line = output.lines().find(|line| line.contains(name));
        let line = line.unwrap_or_else(|| panic!("{name} is not printed:\n{output}"));
        assert!(line.contains(value), "{name} should be {value}: {line}");
    }
    assert!(!output.contains("somebody"), "{output}");

    // The command line beats the environment.
    let (exit, output) = sidecar(&lab, &["--cluster-name", "from-the-line", "config"], &env);
    assert_eq!(exit, Exit::Code(0), "{output}");
    assert!(
        output.contains("from-the-line") && !output.contains("from-the-environment"),
        "{output}"
    );
}

#[test]
fn help_and_configuration_list_every_variable() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    for words in ["--help", "config"] {
        let (exit, output) = sidecar(&lab, &[words], &[]);
        assert_eq!(exit, Exit::Code(0), "{output}");
        for name in VARIABLES {
            assert!(
                output.contains(name),
                "`sidecar {words}` does not mention {name}:\n{output}"
            );
        }
    }
}

#[test]
fn variables_that_do_nothing_are_pointed_out() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let env = [
        ("SIDECAR_SEED", "10.88.0.7"),
        ("LISTENERS_URLS", "http://10.88.0.7/"),
    ];
    let (exit, output) = sidecar(&lab, &["config"], &env);
    assert_eq!(exit, Exit::Code(0), "{output}");
    for (name, _) in env {
        assert!(
            output.contains(name),
            "{name} is not pointed out:\n{output}"
        );
    }
}
