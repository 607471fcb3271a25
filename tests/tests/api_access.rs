//! Who may use an agent's API from where, under which name, and how it is protected on its way.

#![cfg(target_os = "linux")]

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    time::Duration,
};

use blackbox::{
    API_PORT, Agent, AgentBuilder, Host, Lab, Machine, Status, eventually, require, sidecar,
};
use serde_json::{Value, json};

const NAMES: [&str; 2] = ["alpha", "beta"];
const SETTLED: Duration = Duration::from_secs(15);
const FILE_SEEN: Duration = Duration::from_secs(5);
const TOKEN: &str = "first-secret-0123456789";
const OTHER: &str = "other-secret-9876543210";

fn agent(lab: &Lab, env: &[(&str, &str)]) -> Agent {
    let target = json!({
        "Service": { "Name": "web", "Ports": [{ "Type": "tcp", "Port": 8300 }] },
        "Check": { "Type": "AlwaysSuccessful" },
    });
    // What a check writes is shown.
    let spy = json!({
        "Service": { "Name": "spy", "Ports": [{ "Type": "tcp", "Port": 8301 }] },
        "Check": { "Type": "External", "Args": "/bin/sh -c 'env | grep SIDECAR_; exit 1'" },
    });
    let mut builder = AgentBuilder::new(lab, 0)
        .without("SIDECAR_SEEDS")
        .without("SIDECAR_API_HOSTS")
        .env("SIDECAR_PROXY", "none")
        .services(&[target, spy]);
    for (name, value) in env {
        builder = builder.env(name, value);
    }
    builder.start()
}

fn id(agent: &Agent) -> String {
    let mut found = Vec::new();
    eventually("the service is there", SETTLED, || {
        found = agent.instances("web")?;
        agent.expect_instances("web", &[("alpha", Status::Alive)])
    });
    found[0].id.clone()
}

/// Status and body of what is answered to a request with exactly these headers.
fn ask(
    from: &Host,
    to: impl Into<SocketAddr>,
    line: &str,
    headers: &[(&str, &str)],
) -> (u16, String) {
    let mut stream = from.connect(to.into()).expect("the port is open");
    let mut request = format!("{line} HTTP/1.1\r\nConnection: close\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    let sent = stream.write_all(format!("{request}\r\n").as_bytes());
    sent.expect("it listens");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|it| it.parse().ok());
    (status.expect("a status"), body.to_owned())
}

fn message(body: &str) -> String {
    let said: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(said["status"], "error", "{body}");
    said["message"].as_str().expect("a text").to_owned()
}

fn keeps_secrets(agent: &Agent) {
    eventually("a check shows its environment", SETTLED, || {
        let (_, shown) = ask(&agent.host, agent.api_address(), "GET /api/v2/local", &[]);
        if shown.contains("SIDECAR_CLUSTER_NAME=lab") {
            return Ok(());
        }
        Err(shown)
    });
    let mut seen = agent.log();
    for path in [
        "/api/v2/local",
        "/api/v2/routes",
        "/api/v2/proxy",
        "/metrics",
        "/api/state.json",
    ] {
        let line = format!("GET {path}");
        let (status, body) = ask(&agent.host, agent.api_address(), &line, &[]);
        assert_eq!(status, 200, "{path}: {body}");
        seen += &body;
    }
    for secret in [TOKEN, OTHER, "secret"] {
        assert!(!seen.contains(secret), "{secret} is shown");
    }
}

#[test]
fn other_hosts_need_a_token_to_drain() {
    let lab = Lab::new(Machine::Shared, &NAMES);
    let file = lab.write("tokens", &format!("# rotated by hand\n{TOKEN}\n"));
    let agent = agent(
        &lab,
        &[("SIDECAR_API_TOKEN_FILE", &file.display().to_string())],
    );
    let (alpha, beta) = (lab.host(0), lab.host(1));
    let id = id(&agent);
    let remote = (alpha.ip, API_PORT);
    let local = (Ipv4Addr::LOCALHOST, API_PORT);
    let bearer = |token: &str| format!("Bearer {token}");
    for path in [
        format!("POST /api/v2/instances/{id}/drain"),
        format!("POST /api/v2/instances/{id}/undrain"),
        format!("POST /api/services/{id}/drain"),
        format!("POST /api/services/{id}/undrain"),
    ] {
        let (status, body) = ask(beta, remote, &path, &[]);
        assert_eq!(status, 403, "{body}");
        let words = message(&body);
        assert!(
            words.contains("SIDECAR_API_TOKEN") && words.contains("Bearer"),
            "{words}"
        );
        let (status, body) = ask(beta, remote, &path, &[("Authorization", &bearer(OTHER))]);
        assert_eq!(status, 403, "{body}");
        assert!(!body.contains(OTHER), "{body}");
        for (from, to, headers) in [
            (beta, remote, &[("Authorization", bearer(TOKEN))][..]),
            (alpha, local, &[]),
            (alpha, remote, &[]),
        ] {
            let headers: Vec<_> = headers.iter().map(|(name, it)| (*name, &**it)).collect();
            let (status, body) = ask(from, to, &path, &headers);
            assert_eq!(status, 202, "{} {path}: {body}", from.name);
        }
    }
    // Reading stays open.
    assert_eq!(ask(beta, remote, "GET /api/state.json", &[]).0, 200);

    lab.write("tokens", &format!("{OTHER}\n"));
    let path = format!("POST /api/v2/instances/{id}/drain");
    eventually("the other token is good", FILE_SEEN, || {
        let (status, body) = ask(beta, remote, &path, &[("Authorization", &bearer(OTHER))]);
        if status == 202 { Ok(()) } else { Err(body) }
    });
    let (status, _) = ask(beta, remote, &path, &[("Authorization", &bearer(TOKEN))]);
    assert_eq!(status, 403);
    assert!(agent.mentions("wrong API token") >= 1);
    keeps_secrets(&agent);
}

#[test]
fn without_a_token_only_this_host_may_drain() {
    let lab = Lab::new(Machine::Shared, &NAMES);
    let agent = agent(&lab, &[]);
    let (alpha, beta) = (lab.host(0), lab.host(1));
    let path = format!("POST /api/services/{}/drain", id(&agent));
    let (status, body) = ask(beta, (alpha.ip, API_PORT), &path, &[]);
    assert_eq!(status, 403);
    assert!(message(&body).contains("127.0.0.1"), "{body}");
    assert_eq!(
        agent.expect_instances("web", &[("alpha", Status::Alive)]),
        Ok(())
    );
    assert_eq!(
        ask(alpha, (Ipv4Addr::LOCALHOST, API_PORT), &path, &[]).0,
        202
    );
}

#[test]
fn a_token_can_be_asked_of_readers_and_is_never_shown() {
    let lab = Lab::new(Machine::Shared, &NAMES);
    let env = [
        ("SIDECAR_API_TOKEN", TOKEN),
        ("SIDECAR_API_TOKEN_READS", "true"),
    ];
    let agent = agent(&lab, &env);
    let (alpha, beta) = (lab.host(0), lab.host(1));
    let remote = (alpha.ip, API_PORT);
    let bearer = format!("Bearer {TOKEN}");
    for path in [
        "GET /api/state.json",
        "GET /api/services.json",
        "GET /watch",
        "GET /servers",
        "GET /metrics",
        "GET /api/v2/routes",
        "GET /ui/",
    ] {
        assert_eq!(ask(beta, remote, path, &[]).0, 403, "{path}");
        if path != "GET /watch" {
            let headers = [("Authorization", &*bearer)];
            assert_eq!(ask(beta, remote, path, &headers).0, 200, "{path}");
            let local = (Ipv4Addr::LOCALHOST, API_PORT);
            assert_eq!(ask(alpha, local, path, &[]).0, 200, "{path}");
        }
    }
    for path in ["GET /health", "GET /ready"] {
        assert_eq!(ask(beta, remote, path, &[]).0, 200, "{path}");
    }
    keeps_secrets(&agent);

    let run = |variables: &[(&str, &str)]| {
        let mut command = Command::new(sidecar());
        command.arg("config").env_clear();
        let output = command
            .envs(variables.iter().copied())
            .output()
            .expect("the program can be started");
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8(text).expect("text"),
        )
    };
    let (good, text) = run(&env);
    assert!(
        good && text.contains("SIDECAR_API_TOKEN: (hidden)"),
        "{text}"
    );
    assert!(!text.contains("secret"), "{text}");
    for (variables, words) in [
        (&[("SIDECAR_API_TOKEN", "secret")][..], "16 to 512"),
        (
            &[env[0], ("SIDECAR_API_TOKEN_FILE", "/t")],
            "keep one of the two",
        ),
        (&[env[1]], "SIDECAR_API_TOKEN_READS=\"true\""),
        (
            &[("SIDECAR_API_TLS_CERT", "/c")],
            "SIDECAR_API_TLS_KEY=\"\" is not usable: expected a PEM file",
        ),
        (&[("SIDECAR_API_HOSTS", "a:80")], "\"a:80\""),
        (&[("SIDECAR_STATE_DIR", "here")], "absolute path"),
    ] {
        let (good, text) = run(variables);
        assert!(!good && text.contains(words), "{words}: {text}");
        assert!(!text.contains("secret"), "{text}");
    }
}

/// A page that has talked a browser into taking its own name for this host's address.
#[test]
fn a_page_under_another_name_reads_and_changes_nothing() {
    let lab = Lab::new(Machine::Shared, &NAMES[..1]);
    let agent = agent(&lab, &[("SIDECAR_API_HOSTS", "*.lab.example")]);
    let alpha = lab.host(0);
    let local = (Ipv4Addr::LOCALHOST, API_PORT);
    let drain = format!("POST /api/v2/instances/{}/drain", id(&agent));
    for line in [
        &*drain,
        "GET /api/v2/routes",
        "GET /api/v2/local",
        "GET /ui/",
    ] {
        let rebound = [("Host", "evil.example:7777")];
        let (status, body) = ask(alpha, local, line, &rebound);
        assert_eq!(status, 421, "{line}");
        let words = message(&body);
        assert!(words.contains("evil.example:7777"), "{words}");
        assert!(words.contains("SIDECAR_API_HOSTS"), "{words}");
        for own in [
            "alpha",
            "alpha:7777",
            "localhost:7777",
            "127.0.0.1:7777",
            "[::1]:7777",
            "a.lab.example",
        ] {
            let (status, body) = ask(alpha, local, line, &[("Host", own)]);
            assert!(status == 200 || status == 202, "{own} {line}: {body}");
        }
    }
    // As open as it was.
    let old = [("Host", "evil.example")];
    assert_eq!(ask(alpha, local, "GET /api/state.json", &old).0, 200);
}

#[test]
fn the_api_listens_where_it_is_told() {
    let lab = Lab::new(Machine::Shared, &NAMES);
    let (alpha, beta) = (lab.host(0), lab.host(1));
    // Where the lab looks for it.
    let agent_here = agent(&lab, &[("SIDECAR_HTTP_BIND", "127.0.0.1:7777")]);
    let refused = beta.connect((alpha.ip, API_PORT).into());
    assert!(refused.is_err(), "other hosts do not reach it");
    drop(agent_here);

    let agent = agent(&lab, &[("SIDECAR_HTTP_BIND", "[::]:7777")]);
    let path = format!("POST /api/services/{}/drain", id(&agent));
    let v6: SocketAddr = "[::1]:7777".parse().expect("an address");
    assert_eq!(ask(alpha, v6, &path, &[]).0, 202);
    assert_eq!(
        ask(alpha, (Ipv4Addr::LOCALHOST, API_PORT), &path, &[]).0,
        202
    );
    assert_eq!(ask(alpha, (alpha.ip, API_PORT), &path, &[]).0, 202);
    assert_eq!(ask(beta, (alpha.ip, API_PORT), "GET /ready", &[]).0, 200);
    assert_eq!(ask(beta, (alpha.ip, API_PORT), &path, &[]).0, 403);
}

fn certificate(directory: &Path, subject: &str) {
    let output = Command::new(require("openssl"))
        .args(["req", "-x509", "-days", "2", "-nodes", "-newkey", "ec"])
        .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-subj", subject, "-addext", "subjectAltName=DNS:alpha"])
        .args(["-keyout", "api.key", "-out", "api.pem"])
        .current_dir(directory)
        .output()
        .expect("openssl can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// What a client that trusts the certificate gets, with what it says about the connection.
fn over_tls(host: &Host, directory: &Path) -> Result<String, String> {
    let trusted = directory.join("api.pem");
    let command = format!(
        "(printf 'GET /api/v2/routes HTTP/1.1\\r\\nHost: alpha\\r\\nConnection: close\\r\\n\\r\\n'; \
         sleep 1) | openssl s_client -connect 127.0.0.1:{API_PORT} -servername alpha \
         -verify_hostname alpha -verify_return_error -CAfile {} 2>&1",
        trusted.display()
    );
    host.try_said(&["sh", "-c", &command])
}

#[test]
fn the_api_speaks_tls() {
    let lab = Lab::new(Machine::Shared, &NAMES[..1]);
    let directory = lab.dir();
    let (file, key) = (directory.join("api.pem"), directory.join("api.key"));
    // Not there yet: nobody is answered, and everything else works.
    let agent = {
        let (file, key) = (file.display().to_string(), key.display().to_string());
        let env = [
            ("SIDECAR_API_TLS_CERT", &*file),
            ("SIDECAR_API_TLS_KEY", &*key),
        ];
        let mut builder = AgentBuilder::new(&lab, 0).env("SIDECAR_PROXY", "none");
        for (name, value) in env {
            builder = builder.env(name, value);
        }
        builder.launch()
    };
    let alpha = lab.host(0);
    eventually("the missing file is named", SETTLED, || {
        let named = agent
            .log()
            .lines()
            .any(|line| line.contains("TLS for the API") && line.contains("api.pem"));
        if named { Ok(()) } else { Err(agent.log()) }
    });
    let served = |subject: &str| {
        let said = over_tls(alpha, directory)?;
        if said.contains(subject) && said.contains("HTTP/1.1 200 OK") {
            return Ok(());
        }
        Err(said)
    };
    certificate(directory, "/CN=one");
    eventually("it speaks TLS", FILE_SEEN, || {
        served("CN = one").or_else(|_| served("CN=one"))
    });
    // A renewed certificate needs no restart, and a broken one changes nothing.
    certificate(directory, "/CN=two");
    eventually("the renewed one is used", FILE_SEEN, || {
        served("CN = two").or_else(|_| served("CN=two"))
    });
    let good = std::fs::read(&file).expect("it is there");
    std::fs::write(&file, "no certificate").expect("it can be written");
    eventually("the broken one is named", FILE_SEEN, || {
        let named = agent.mentions("no certificate in it");
        if named == 1 { Ok(()) } else { Err(agent.log()) }
    });
    let broken = directory.join("broken.pem");
    std::fs::rename(&file, &broken).expect("the same directory");
    std::fs::write(&file, good).expect("it can be written");
    eventually("it still serves", FILE_SEEN, || {
        served("CN = two").or_else(|_| served("CN=two"))
    });

    let (status, body) = ask(alpha, (Ipv4Addr::LOCALHOST, API_PORT), "GET /health", &[]);
    assert_eq!(status, 400);
    assert!(message(&body).contains("https://"), "{body}");
}
