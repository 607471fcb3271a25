//! Engines behind TCP, with and without TLS, by the variables of Docker's command line.

#![cfg(target_os = "linux")]

use std::{path::Path, process::Command, time::Duration};

use blackbox::{
    Agent, AgentBuilder, Engine, IMAGE, Lab, Machine, Relay, Status, eventually, require,
};

const STARTED: Duration = Duration::from_secs(20);

fn openssl(directory: &Path, arguments: &[&str]) {
    let output = Command::new(require("openssl"))
        .args(arguments)
        .current_dir(directory)
        .output()
        .expect("openssl can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments:?}: {said}");
}

/// An authority, and what it has signed for an engine at that address and for a client.
fn certificates(directory: &Path, ip: &str) {
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ];
    let ca = [
        "req", "-x509", "-days", "2", "-subj", "/CN=lab", "-keyout", "ca.key", "-out", "ca.pem",
    ];
    openssl(directory, &[&ca[..], &key].concat());
    let san = format!("subjectAltName=IP:{ip}");
    for (name, subject, extension) in [
        ("server", "/CN=engine", san.as_str()),
        ("client", "/CN=agent", "extendedKeyUsage=clientAuth"),
    ] {
        let (private, public) = (format!("{name}.key"), format!("{name}.crt"));
        let signed = [
            "req",
            "-x509",
            "-days",
            "2",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-subj",
            subject,
            "-addext",
            extension,
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
            &private,
            "-out",
            &public,
        ];
        openssl(directory, &[&signed[..], &key].concat());
    }
    for (from, to) in [("client.crt", "cert.pem"), ("client.key", "key.pem")] {
        std::fs::copy(directory.join(from), directory.join(to)).expect("it was made");
    }
}

fn expect_found(agent: &Agent) {
    eventually("the container is found", STARTED, || {
        agent.expect_instances("web", &[("dock", Status::Alive)])
    });
}

#[test]
fn docker_url_unix_and_tcp_and_tls_variables_and_empty_for_the_environment() {
    let lab = Lab::new(Machine::Shared, &["dock"]);
    let ip = lab.host(0).ip.to_string();
    let directory = lab.dir().join("certificates");
    std::fs::create_dir(&directory).expect("the lab's directory is writable");
    certificates(&directory, &ip);
    let at = |name: &str| directory.join(name).display().to_string();
    let (plain, secret) = (format!("tcp://{ip}:2375"), format!("tcp://{ip}:2376"));
    // The plain one goes through a relay, since an engine encrypts all its TCP ports or none.
    let engine = Engine::start_with(
        &lab,
        lab.host(0),
        "container\n",
        &[
            "--host",
            &secret,
            "--tlsverify",
            "--tlscacert",
            &at("ca.pem"),
            "--tlscert",
            &at("server.crt"),
            "--tlskey",
            &at("server.key"),
        ],
    );
    let socket = engine.url().replace("unix://", "");
    Relay::start(lab.host(0), (lab.host(0).ip, 2375).into(), &socket);
    engine.docker(&[
        "run",
        "-d",
        "-P",
        "-l",
        "ServiceName=web",
        "-l",
        "HealthCheck=AlwaysSuccessful",
        IMAGE,
    ]);

    let certificates = directory.display().to_string();
    let ways: [&[(&str, &str)]; 4] = [
        &[("DOCKER_URL", &engine.url())],
        &[("DOCKER_URL", &plain)],
        &[
            ("DOCKER_URL", ""),
            ("DOCKER_HOST", &secret),
            ("DOCKER_TLS_VERIFY", "1"),
            ("DOCKER_CERT_PATH", &certificates),
        ],
        &[
            ("DOCKER_URL", &secret.replace("tcp", "https")),
            ("DOCKER_CERT_PATH", &certificates),
        ],
    ];
    for variables in ways {
        let mut builder = AgentBuilder::new(&lab, 0).env("SIDECAR_DISCOVERY", "docker");
        for (name, value) in variables {
            builder = builder.env(name, value);
        }
        let mut agent = builder.start();
        expect_found(&agent);
        agent.kill();
    }

    // Whoever talks plainly to it, or does not trust it, learns what is wrong.
    for (variables, said) in [
        (&[("DOCKER_URL", secret.as_str())][..], "DOCKER_TLS_VERIFY"),
        (
            &[("DOCKER_URL", &secret), ("DOCKER_TLS_VERIFY", "1")],
            "ca.pem: there is no such file",
        ),
    ] {
        let mut builder = AgentBuilder::new(&lab, 0).env("SIDECAR_DISCOVERY", "docker");
        for (name, value) in variables {
            builder = builder.env(name, value);
        }
        let mut agent = builder.start();
        eventually("it says what is wrong", STARTED, || {
            let local = agent
                .api("/api/v2/local")
                .map_err(|error| error.to_string())?
                .body;
            let told = local.contains("unreachable") && local.contains(said);
            told.then_some(()).ok_or(local)
        });
        agent.kill();
    }
}
