//! Diagnoses of this machine: whatever it is like, these parts of it are made by the test.

use std::{collections::BTreeMap, net::TcpListener};

use super::*;
use crate::{
    client::scripted::{self, Script},
    config::Flags,
};

fn config(variables: &[(&str, &str)]) -> Result<Config, Vec<ConfigError>> {
    let environment: BTreeMap<String, String> = variables
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    Config::resolve(&Flags::new(), &environment, "here")
}

/// Variables of an agent that needs nothing of the machine, with these others.
fn modest(others: &[(&'static str, &str)]) -> Config {
    let mut variables = vec![
        ("SIDECAR_DISCOVERY", ""),
        ("SIDECAR_BIND_IP", "127.0.0.1"),
        ("SIDECAR_ADVERTISE_IP", "127.0.0.1"),
    ];
    variables.retain(|(name, _)| others.iter().all(|(other, _)| other != name));
    variables.extend(others);
    config(&variables).unwrap()
}

fn of<'a>(findings: &'a [Finding], step: &str) -> Vec<&'a Finding> {
    findings.iter().filter(|it| it.step == step).collect()
}

fn states(findings: &[Finding], step: &str) -> Vec<Mark> {
    of(findings, step).iter().map(|it| it.state).collect()
}

#[tokio::test]
async fn every_bad_variable_is_a_finding() {
    let bad = config(&[("SIDECAR_BIND_PORT", "0"), ("SIDECAR_HTTP_BIND", "here")]);
    let findings = look(None, bad).await.unwrap();
    assert_eq!(states(&findings, "config"), [Mark::Failed; 2]);
    assert!(findings.iter().all(|it| it.fix.is_some()));
}

#[tokio::test]
async fn a_taken_port_is_found_with_who_has_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let config = modest(&[
        ("SIDECAR_BIND_PORT", &port),
        ("SIDECAR_GOSSIP_BIND_IP", "127.0.0.1"),
        ("SIDECAR_HTTP_BIND", &format!("127.0.0.1:{port}")),
    ]);
    let findings = host::look(&config, None).await;
    for step in ["gossip", "api"] {
        let [finding] = of(&findings, step)[..] else {
            panic!("{findings:?}");
        };
        assert_eq!(finding.state, Mark::Failed);
        let cause = finding.cause.as_deref().unwrap();
        if cfg!(target_os = "linux") {
            assert!(
                cause.contains(&format!("(pid {})", std::process::id())),
                "{cause}"
            );
        }
        assert!(
            finding
                .fix
                .as_deref()
                .unwrap()
                .contains(&format!(":{port}"))
        );
    }
    // An agent that runs is expected to have it.
    let findings = host::look(&config, Some(&Default::default())).await;
    assert_eq!(states(&findings, "gossip"), [Mark::Ok]);
    assert_eq!(states(&findings, "api"), []);
}

#[tokio::test]
async fn keys_are_for_their_owner_and_never_shown() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    let key = crate::keygen::generate(32).unwrap();
    std::fs::write(&path, format!("{}\n", key.as_str())).unwrap();
    let config = modest(&[("SIDECAR_GOSSIP_KEY_FILE", path.to_str().unwrap())]);
    for (mode, state) in [(0o600, Mark::Ok), (0o640, Mark::Ok), (0o644, Mark::Failed)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let findings = host::look(&config, None).await;
        assert_eq!(states(&findings, "keys"), [state], "{mode:o}");
    }
    std::fs::write(&path, format!("{}x\n", key.as_str())).unwrap();
    let findings = host::look(&config, None).await;
    assert_eq!(states(&findings, "keys"), [Mark::Failed]);
    assert!(!format!("{findings:?}").contains(&key.as_str()[..16]));
}

#[tokio::test]
async fn programs_and_engines_that_are_not_there_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let socket = format!("unix://{}/docker.sock", dir.path().display());
    let config = modest(&[
        ("SIDECAR_PROXY", "haproxy"),
        ("SIDECAR_HAPROXY_BINARY", "/no/such/haproxy"),
        ("SIDECAR_DISCOVERY", "docker"),
        ("DOCKER_URL", &socket),
    ]);
    let findings = host::look(&config, None).await;
    assert_eq!(states(&findings, "haproxy"), [Mark::Failed]);
    let findings = sources::look(&config).await;
    let [engine] = of(&findings, "docker")[..] else {
        panic!("{findings:?}");
    };
    assert_eq!(engine.state, Mark::Failed);
    assert!(
        engine
            .fix
            .as_deref()
            .unwrap()
            .contains("systemctl start docker")
    );
}

#[tokio::test]
async fn one_seed_that_answers_is_enough() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let good = listener.local_addr().unwrap().to_string();
    let findings = seeds::look(&modest(&[("SIDECAR_SEEDS", "127.0.0.1:1")]), false).await;
    assert_eq!(states(&findings, "seeds"), [Mark::Failed]);
    let both = format!("127.0.0.1:1,{good}");
    let findings = seeds::look(&modest(&[("SIDECAR_SEEDS", &both)]), true).await;
    assert_eq!(states(&findings, "seeds"), [Mark::Warning, Mark::Ok]);
}

#[tokio::test]
async fn what_the_agent_says_is_told() {
    let overview = r#"{"hostname":"web-01","cluster_name":"lab","ready":false,"awaited":["checks"],
        "now":"2026-02-03T12:00:00Z","proxy":{"plane":"builtin","bind_ip":"192.168.168.168"},
        "trouble":["docker: no answer","port 10080 (web): in use"]}"#;
    let proxy = r#"{"ports":[{"service_port":10080,"service":"web","listening":false,
        "trouble":"address in use"},{"service_port":10081,"service":"db","listening":true}]}"#;
    let metrics = "# TYPE sidecar_clock_correction_seconds gauge\n\
        sidecar_clock_correction_seconds -400.5\n";
    let script = Script::default()
        .at("/api/v2/overview", 200, overview)
        .at("/api/v2/proxy", 200, proxy)
        .at("/metrics", 200, metrics);
    let (agent, _heads) = scripted::agent(script).await;
    let (findings, overview) = agent::look(&agent).await;
    assert!(overview.is_some());
    let lines: Vec<String> = findings.iter().map(|it| it.line(&Output::kept())).collect();
    let text = lines.join("\n");
    for part in [
        "is not ready: it waits for: checks",
        "the agent reports trouble: docker: no answer",
        "web: cannot listen at 192.168.168.168 port 10080: address in use",
        "clock is 400 s ahead of the cluster's time",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    assert!(findings.iter().all(|it| it.state == Mark::Failed), "{text}");
}
