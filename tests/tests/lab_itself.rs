//! The lab's own parts, each shown to work before anything is concluded from it.

#![cfg(target_os = "linux")]

use std::{net::Ipv4Addr, time::Duration};

use blackbox::{Answer, Engine, Exit, Lab, Machine, Responder, eventually};

#[test]
fn hosts_reach_one_another_and_have_names_and_loopbacks_of_their_own() {
    let lab = Lab::new(Machine::Shared, &["alpha", "beta"]);
    let (alpha, beta) = (lab.host(0), lab.host(1));
    let service = Responder::start(alpha, (Ipv4Addr::UNSPECIFIED, 8000).into());
    service.set("/", Answer::ok("here"));
    let answer = beta
        .get((alpha.ip, 8000).into(), "/")
        .expect("beta reaches alpha");
    assert_eq!((answer.status, answer.body.as_str()), (200, "here"));
    let refused = beta
        .get((Ipv4Addr::LOCALHOST, 8000).into(), "/")
        .expect_err("another loopback");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(service.asked("/").len(), 1);

    lab.cable(1, false);
    assert!(
        beta.get((alpha.ip, 8000).into(), "/").is_err(),
        "the cable is cut"
    );
    lab.cable(1, true);
    eventually("the cable is mended", Duration::from_secs(10), || {
        beta.get((alpha.ip, 8000).into(), "/")
            .map(drop)
            .map_err(|error| error.to_string())
    });
}

#[test]
fn a_container_of_the_engine_is_reached_from_another_host() {
    let lab = Lab::new(Machine::Shared, &["alpha", "beta"]);
    let (alpha, beta) = (lab.host(0), lab.host(1));
    let engine = Engine::start(&lab, alpha, "a container\n");
    engine.docker(&["run", "--name", "web", "-P", "-d", blackbox::IMAGE]);
    let at = (alpha.ip, engine.published_port("web")).into();
    let answer = eventually("the container answers", Duration::from_secs(10), || {
        beta.get(at, "/").map_err(|error| error.to_string())
    });
    assert_eq!(answer.body, "a container\n");
    engine.docker(&["stop", "-t", "0", "web"]);
    assert!(
        beta.get(at, "/").is_err(),
        "a stopped container does not answer"
    );
}

#[test]
fn programs_run_under_the_name_of_their_host_and_end_with_the_lab() {
    let lab = Lab::new(Machine::Shared, &["alpha"]);
    let mut hostname = lab.program(0, "hostname", &["busybox", "hostname"]);
    let (exit, _) = hostname.ends(Duration::from_secs(5));
    assert_eq!((exit, hostname.log().as_str()), (Exit::Code(0), "alpha\n"));

    let mut peer = lab.program(
        0,
        "serf",
        &["serf", "agent", "-node=alpha", "-bind=10.88.0.1:7946"],
    );
    eventually("serf lists itself", Duration::from_secs(10), || {
        let output = lab.host(0).run(&["serf", "members"]);
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        words.contains("10.88.0.1:7946").then_some(()).ok_or(words)
    });
    peer.kill();
    assert_eq!(peer.exit(), Some(Exit::Signal(9)));
}
