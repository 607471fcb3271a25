//! A real HAProxy driven by a configuration file: what it serves, what a reload costs, and what
//! becomes of it when a template, a command, the disk or HAProxy itself fails.

#![cfg(target_os = "linux")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    process::Command,
    time::{Duration, Instant},
};

use blackbox::{
    Agent, AgentBuilder, Haproxy, Lab, Machine, PROXY_IP, Responder, Route, echo, eventually,
    haproxy_status as status, haproxy_target as service, require, throughout, under_load, upgrade,
    websocket_echo,
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// An edit of the static file is seen within a second and applied within another.
const SEEN: Duration = Duration::from_secs(10);
const FILE: &str = "static-solo.json";

fn expect_state(agent: &Agent, state: &str) -> Result<Value, String> {
    let status = status(agent)?;
    if status["state"] == state {
        return Ok(status);
    }
    Err(format!("HAProxy's status is {status}"))
}

fn reloads(agent: &Agent) -> Result<u64, String> {
    status(agent)?["reloads"]
        .as_u64()
        .ok_or_else(|| "no reloads".to_owned())
}

fn answer(text: &str) -> Route {
    Route::Answer(text.to_owned())
}

/// Writes the host's static file anew.
fn announce(lab: &Lab, services: &[Value]) {
    lab.write(FILE, &Value::from(services.to_vec()).to_string());
}

fn echoes(stream: &mut TcpStream, word: &str) {
    stream
        .write_all(word.as_bytes())
        .expect("the connection takes it");
    let mut back = vec![0; word.len()];
    stream
        .read_exact(&mut back)
        .expect("the connection gives it back");
    assert_eq!(back, word.as_bytes());
}

#[test]
fn http_tcp_and_ws_services_are_served_by_a_file_that_haproxy_takes() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let haproxy = Haproxy::new(&lab, "haproxy");
    let host = lab.host(0);
    let _web = Responder::on_each(&lab, 8301);
    echo(host, (host.ip, 8302).into());
    websocket_echo(host, (host.ip, 8303).into());
    let services = [
        service("web", "http", 8301, 9701),
        service("echo", "tcp", 8302, 9702),
        service("socket", "ws", 8303, 9703),
    ];
    let agent = haproxy
        .driven_by(AgentBuilder::new(&lab, 0).services(&services))
        .start();
    eventually("HAProxy serves", SEEN, || {
        host.expect_route(9701, &answer("solo"))
    });

    let mut stream = host
        .connect((PROXY_IP, 9702).into())
        .expect("the echo is there");
    echoes(&mut stream, "bytes");
    let mut stream = host
        .connect((PROXY_IP, 9703).into())
        .expect("the socket is there");
    upgrade(&mut stream);
    echoes(&mut stream, "frames");

    let config = haproxy.config().display().to_string();
    let check = host.run(&["haproxy", "-c", "-f", &config]);
    let words = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(
        check.status.success() && !words.contains("WARNING"),
        "{words}"
    );

    let page = host
        .get((Ipv4Addr::LOCALHOST, 3212).into(), "/;csv")
        .expect("statistics");
    assert_eq!(page.header("access-control-allow-origin"), Some("*"));
    let id = agent.instances("web").expect("the API answers")[0]
        .id
        .clone();
    let line = format!("web-9701,solo-{id},");
    assert!(
        page.body.starts_with("# pxname,svname,") && page.body.contains(&line),
        "{}",
        page.body
    );
    let socket = fs::metadata(haproxy.dir().join("haproxy_stats.sock")).expect("the admin socket");
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.permissions().mode() & 0o777, 0o660);
    let shown = expect_state(&agent, "applied").expect("all is well");
    assert_eq!(
        (&shown["mode"], &shown["is_running"]),
        (&json!("classic"), &json!(true))
    );
}

#[test]
fn a_bad_template_or_configuration_keeps_the_file_and_the_process() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let haproxy = Haproxy::new(&lab, "haproxy");
    let (host, _web) = (lab.host(0), Responder::on_each(&lab, 8311));
    let good = "{{ range $n, $l := .Services }}{{ range $p, $_ := getPorts $n }}\
                listen {{ sanitizeName $n }}\n mode {{ getMode $n }}\n bind {{ bindIP }}:{{ $p }}\n\
                {{ range $l }} server {{ .Hostname }}-{{ .ID }} {{ ipFor $p . }}:{{ portFor $p . }}\n\
                {{ end }} timeout connect 1s\n timeout client 9s\n timeout server 9s\n{{ end }}{{ end }}";
    let template = lab.write("template.cfg", good);
    let services = [service("web", "http", 8311, 9711)];
    let agent = haproxy
        .driven_by(AgentBuilder::new(&lab, 0).services(&services))
        .without("SIDECAR_HAPROXY_MODE")
        .env("HAPROXY_TEMPLATE_FILE", &template.display().to_string())
        .start();
    eventually("HAProxy serves", SEEN, || {
        host.expect_route(9711, &answer("solo"))
    });
    let (text, pids) = (haproxy.text(), haproxy.pids());
    assert!(
        text.starts_with("listen web\n mode http\n bind 192.168.168.168:9711\n"),
        "{text}"
    );

    let bad = [
        ("{{ .Nope }}", "template", "can't evaluate field Nope"),
        ("{{ if }}", "template", "1:"),
        (
            "listen x\n bind 127.0.0.1:1\n mode smtp\n",
            "verify",
            "unknown proxy mode 'smtp'",
        ),
    ];
    for (source, step, words) in bad {
        lab.write("template.cfg", source);
        let trouble = eventually("the failure is shown", SEEN, || {
            let status = expect_state(&agent, "failed")?;
            let trouble = status["trouble"].as_str().unwrap_or_default().to_owned();
            if trouble.contains(words) {
                Ok(trouble)
            } else {
                Err(trouble)
            }
        });
        assert!(trouble.starts_with(step), "{trouble}");
        let counted = agent
            .metrics("sidecar_haproxy_failures_total")
            .expect("metrics");
        let series = format!("sidecar_haproxy_failures_total{{step=\"{step}\"}}");
        assert!(counted[&series] >= 1.0, "{counted:?}");
        assert_eq!(
            (haproxy.text(), haproxy.pids()),
            (text.clone(), pids.clone())
        );
        host.expect_route(9711, &answer("solo"))
            .expect("HAProxy serves on");
        let entries = fs::read_dir(haproxy.dir())
            .expect("the directory")
            .flatten();
        let mut names: Vec<_> = entries
            .map(|it| it.file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["haproxy.cfg", "haproxy.pid"]);
    }

    lab.write("template.cfg", &good.replace("9s", "8s"));
    eventually("it is mended", SEEN, || expect_state(&agent, "applied"));
    assert!(haproxy.text().contains("timeout client 8s"));
    assert_ne!(haproxy.pids(), pids);
    host.expect_route(9711, &answer("solo"))
        .expect("HAProxy serves");
}

#[test]
fn users_commands_are_run_and_a_file_verified_in_place_is_taken_back() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let haproxy = Haproxy::new(&lab, "haproxy");
    let log = haproxy.dir().join("commands");
    let template = lab.write(
        "template.cfg",
        "{{ .User }} {{ .Group }} {{ bindIP }} {{ range .Services.web }}{{ ipFor \"9721\" . }} {{ end }}",
    );
    let (log, config) = (log.display(), haproxy.config());
    let config = config.display();
    let builder = haproxy
        .driven_by(AgentBuilder::new(&lab, 0).services(&[service("web", "http", 8321, 9721)]))
        .env("HAPROXY_TEMPLATE_FILE", &template.display().to_string())
        .env("HAPROXY_BIND_IP", "127.0.0.1")
        .env("HAPROXY_USER", "www")
        .env("HAPROXY_GROUP", "web")
        .env("HAPROXY_USE_HOSTNAMES", "true");
    let verify = format!("[[ -n $BASH ]] && echo verify $(cat {config}) >> {log}");
    let reload = format!("echo reload $(cat {config}) >> {log}");
    let mut agent = builder
        .env("HAPROXY_VERIFY_COMMAND", &verify)
        .env("HAPROXY_RELOAD_COMMAND", &reload)
        .start();
    let logged = || fs::read_to_string(log.to_string()).unwrap_or_default();
    let expected = "verify www web 127.0.0.1 solo\nreload www web 127.0.0.1 solo\n";
    eventually("both are run", SEEN, || {
        (logged() == expected).then_some(()).ok_or_else(logged)
    });
    // The successor was verified under another name, before it was in place.
    lab.write("template.cfg", "second {{ len .Services }}");
    eventually("both are run again", SEEN, || {
        logged()
            .ends_with("verify second 1\nreload second 1\n")
            .then_some(())
            .ok_or_else(logged)
    });
    agent.kill();

    // This one says nothing of the file, and looks at it all the same.
    let script = lab.write("verify.sh", &format!("! grep -q bad {config}\n"));
    let agent = haproxy
        .driven_by(AgentBuilder::new(&lab, 0).services(&[service("web", "http", 8321, 9721)]))
        .env("HAPROXY_TEMPLATE_FILE", &template.display().to_string())
        .env(
            "HAPROXY_VERIFY_COMMAND",
            &format!("sh {}", script.display()),
        )
        .env("HAPROXY_RELOAD_COMMAND", &reload)
        .start();
    eventually("it is applied", SEEN, || expect_state(&agent, "applied"));
    lab.write("template.cfg", "bad");
    eventually("it is refused", SEEN, || expect_state(&agent, "failed"));
    assert_eq!(haproxy.text(), "second 1");
    assert!(!logged().contains("bad"));
}

#[test]
fn a_dead_haproxy_is_started_again_and_a_stale_pid_file_harms_nobody() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let haproxy = Haproxy::new(&lab, "haproxy");
    let (host, _web) = (lab.host(0), Responder::on_each(&lab, 8331));
    // It would end at the signal that tells HAProxy to finish.
    let mut foreign = lab.program(0, "foreign", &["sleep", "1000"]);
    fs::write(haproxy.pid_file(), foreign.pid().to_string()).expect("a pid file");
    let services = [service("web", "http", 8331, 9731)];
    let agent = haproxy
        .driven_by(AgentBuilder::new(&lab, 0).services(&services))
        .start();
    eventually("HAProxy serves", SEEN, || {
        host.expect_route(9731, &answer("solo"))
    });
    assert_eq!(
        foreign.exit(),
        None,
        "a process that is no HAProxy was signalled"
    );

    let before = haproxy.pids();
    haproxy.kill();
    eventually("it is there again", SEEN, || {
        host.expect_route(9731, &answer("solo"))
    });
    assert_ne!(haproxy.pids(), before);
    let shown = eventually("that is told", SEEN, || {
        let shown = expect_state(&agent, "applied")?;
        if shown["revivals"] == 1 {
            Ok(shown)
        } else {
            Err(shown.to_string())
        }
    });
    assert_eq!(shown["is_running"], true);
    assert!(
        agent
            .log()
            .contains("HAProxy was dead and is started again")
    );
}

#[test]
fn connections_outlive_a_reload_and_nothing_new_is_no_reload() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let haproxy = Haproxy::new(&lab, "haproxy");
    let (host, _web) = (lab.host(0), Responder::on_each(&lab, 8341));
    echo(host, (host.ip, 8342).into());
    let services = [
        service("web", "http", 8341, 9741),
        service("echo", "tcp", 8342, 9742),
    ];
    let mut agent = haproxy
        .driven_by(AgentBuilder::new(&lab, 0).services(&services))
        .start();
    eventually("HAProxy serves", SEEN, || {
        host.expect_route(9741, &answer("solo"))
    });
    let mut stream = host
        .connect((PROXY_IP, 9742).into())
        .expect("the echo is there");
    echoes(&mut stream, "before");
    let first = haproxy.pids();
    let more = service("more", "http", 8341, 9743);
    announce(&lab, &[services[0].clone(), services[1].clone(), more]);
    eventually("the new one is served", SEEN, || {
        host.expect_route(9743, &answer("solo"))
    });
    assert_ne!(haproxy.pids(), first);
    echoes(&mut stream, "after");

    let (count, text) = (reloads(&agent).expect("the API answers"), haproxy.text());
    let mut reversed = [
        service("more", "http", 8341, 9743),
        services[1].clone(),
        services[0].clone(),
    ];
    announce(&lab, &reversed);
    throughout("it is the same", Duration::from_secs(3), || {
        let now = reloads(&agent)?;
        if now == count && haproxy.text() == text {
            Ok(())
        } else {
            Err(format!("{now} reloads"))
        }
    });
    reversed.reverse();

    // An agent that ends or is replaced leaves HAProxy alone until it knows what there is.
    agent.signal(Signal::TERM);
    agent.ends(SEEN);
    assert_eq!(
        host.route(9741),
        answer("solo"),
        "HAProxy serves without an agent"
    );
    agent.restart();
    eventually("it is applied", SEEN, || expect_state(&agent, "applied"));
    assert_eq!(host.route(9743), answer("solo"));
    echoes(&mut stream, "after the agent");
}

/// A small file system at a directory, until dropped.
struct Mount(String);

impl Mount {
    fn new(dir: &str) -> Self {
        let mount = Self(dir.to_owned());
        mount.run(&["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", dir]);
        mount
    }

    fn remount(&self, option: &str) {
        self.run(&["mount", "-o", &format!("remount,{option}"), &self.0]);
    }

    fn run(&self, command: &[&str]) {
        let mut process = Command::new(require(command[0]));
        let output = process
            .args(&command[1..])
            .output()
            .expect("it can be started");
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {words}");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", &self.0]).output();
    }
}

#[test]
fn a_full_or_read_only_disk_keeps_the_last_file_and_heals() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let haproxy = Haproxy::new(&lab, "haproxy");
    let (host, _web) = (lab.host(0), Responder::on_each(&lab, 8351));
    let disk = Mount::new(&haproxy.dir().display().to_string());
    let services = |ports: &[u16]| -> Vec<Value> {
        let named = ports
            .iter()
            .map(|port| service(&format!("web-{port}"), "http", 8351, *port));
        named.collect()
    };
    let agent = haproxy
        .driven_by(AgentBuilder::new(&lab, 0).services(&services(&[9751])))
        .env(
            "HAPROXY_PID_FILE",
            &lab.dir().join("haproxy.pid").display().to_string(),
        )
        .start();
    eventually("HAProxy serves", SEEN, || {
        host.expect_route(9751, &answer("solo"))
    });
    let text = haproxy.text();

    let ballast = haproxy.dir().join("ballast");
    let mut file = fs::File::create(&ballast).expect("there is room");
    while file.write_all(&[0; 512]).is_ok() {}
    drop(file);
    announce(&lab, &services(&[9751, 9752]));
    let told = eventually("the full disk is told", SEEN, || {
        expect_state(&agent, "failed")
    });
    let trouble = told["trouble"].as_str().unwrap_or_default();
    assert!(
        trouble.contains("cannot write") && trouble.contains("No space left"),
        "{trouble}"
    );
    assert_eq!(haproxy.text(), text);
    host.expect_route(9751, &answer("solo"))
        .expect("HAProxy serves on");
    fs::remove_file(&ballast).expect("room is made");
    eventually("it heals", SEEN, || {
        host.expect_route(9752, &answer("solo"))
    });

    disk.remount("ro");
    announce(&lab, &services(&[9751, 9752, 9753]));
    eventually("the read-only disk is told", SEEN, || {
        expect_state(&agent, "failed")
    });
    host.expect_route(9752, &answer("solo"))
        .expect("HAProxy serves on");
    disk.remount("rw");
    eventually("it heals again", SEEN, || {
        host.expect_route(9753, &answer("solo"))
    });
}

#[test]
fn a_hundred_changes_in_a_second_are_a_few_reloads_and_the_last_one_counts() {
    let lab = Lab::new(Machine::Alone, &["solo"]);
    let haproxy = Haproxy::new(&lab, "haproxy");
    let (host, _web) = (lab.host(0).clone(), Responder::on_each(&lab, 8341));
    let steady = service("web", "http", 8341, 9741);
    let mut agent = haproxy
        .driven_by(AgentBuilder::new(&lab, 0).services(std::slice::from_ref(&steady)))
        .start();
    eventually("HAProxy serves", SEEN, || {
        host.expect_route(9741, &answer("solo"))
    });
    let before = reloads(&agent).expect("the API answers");
    let seen = agent.mentions("static file read");
    let (begin, pace) = (Instant::now(), Duration::from_millis(10));
    for number in 1..=100_u16 {
        let port = 9800 + number;
        announce(&lab, &[steady.clone(), service("it", "http", 8341, port)]);
        // The file is read at once, so each is a change of its own.
        agent.signal(Signal::HUP);
        let due = begin + pace * u32::from(number);
        eventually("it is time for the next", SEEN, || {
            (Instant::now() >= due)
                .then_some(())
                .ok_or_else(|| "it is early".to_owned())
        });
    }
    let took = begin.elapsed();
    eventually("the last change is served", SEEN, || {
        host.expect_route(9900, &answer("solo"))
    });
    let read = agent.mentions("static file read") - seen;
    let made = reloads(&agent).expect("the API answers") - before;
    println!("{read} readings of 100 changes in {took:?} made {made} reloads");
    assert!(read > 20, "only {read} changes were seen");
    let most = begin.elapsed().as_secs() + 2;
    assert!(made <= most, "{made} reloads of at most {most}");
    host.expect_route(9899, &Route::Closed)
        .expect("none but the last is there");
}

#[test]
fn no_request_fails_while_haproxy_is_reloaded_twenty_five_times_under_load() {
    let lab = Lab::new(Machine::Alone, &["solo"]);
    let haproxy = Haproxy::new(&lab, "haproxy");
    let (host, _web) = (lab.host(0).clone(), Responder::on_each(&lab, 8341));
    let steady = service("web", "http", 8341, 9741);
    let mut agent = haproxy
        .driven_by(AgentBuilder::new(&lab, 0).services(std::slice::from_ref(&steady)))
        .env("SIDECAR_HAPROXY_HOLD_DOWN", "0s")
        .start();
    eventually("HAProxy serves", SEEN, || {
        host.expect_route(9741, &answer("solo"))
    });
    let before = reloads(&agent).expect("the API answers");
    let requests = under_load(&host, &[9741, 9741], || {
        for number in 1..=25_u16 {
            let more = service("more", "http", 8341, 9800 + number);
            announce(&lab, &[steady.clone(), more]);
            agent.signal(Signal::HUP);
            eventually("it is reloaded", SEEN, || {
                let made = reloads(&agent)? - before;
                (made >= u64::from(number))
                    .then_some(())
                    .ok_or_else(|| format!("{made} reloads"))
            });
        }
    });
    let made = reloads(&agent).expect("the API answers") - before;
    println!("{requests} requests through {made} reloads: 0 failed");
    assert!(
        requests > 1000 && made >= 25,
        "{requests} requests, {made} reloads"
    );
}
