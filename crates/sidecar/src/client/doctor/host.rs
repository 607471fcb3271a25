//! What an agent needs of its host: ports, addresses, privileges, files, programs.

use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    path::Path,
    time::Duration,
};

use super::owner;
use crate::{
    agent::advertise_address,
    client::{documents::Overview, finding::Finding},
    config::{Config, ProxyKind},
    gossip_keys::{self, GossipKeys},
    net::bind_address,
};

/// Time for a program to say its version.
const PROGRAM_WITHIN: Duration = Duration::from_secs(5);

pub(super) async fn look(config: &Config, running: Option<&Overview>) -> Vec<Finding> {
    let mut findings = vec![gossip_port(config.gossip_bind, running.is_some())];
    if running.is_none() {
        findings.push(api_port(config.http_bind));
    }
    findings.push(advertised(config).await);
    findings.extend(bind_ip(config, running).await);
    #[cfg(target_os = "linux")]
    if config.proxy == ProxyKind::Kernel {
        findings.push(nf_tables());
    }
    if config.proxy == ProxyKind::Haproxy {
        findings.push(program("haproxy", &config.haproxy.binary).await);
    }
    findings.extend(keys(&config.gossip_security.keys).await);
    findings
}

fn gossip_port(address: SocketAddr, running: bool) -> Finding {
    let tried = UdpSocket::bind(address).and_then(|_| TcpListener::bind(address));
    let what = format!("gossip port {address}");
    match tried {
        Ok(_) if running => Finding::warning("gossip", format!("{what} is free"))
            .because(
                "the agent that answers has another one: its settings are not those of this shell",
            )
            .fix("ask where it runs: docker exec sidecar sidecar doctor"),
        Ok(_) => Finding::ok("gossip", format!("{what} is free")),
        Err(error) if running && error.kind() == io::ErrorKind::AddrInUse => {
            Finding::ok("gossip", format!("{what} is in use while the agent runs"))
        }
        Err(error) => taken("gossip", &what, address, &error).fix(remedy(
            &error,
            address.port(),
            "SIDECAR_BIND_PORT",
        )),
    }
}

fn api_port(address: SocketAddr) -> Finding {
    let what = format!("API port {address}");
    match TcpListener::bind(address) {
        Ok(_) => Finding::ok("api", format!("{what} is free")),
        Err(error) => taken("api", &what, address, &error).fix(remedy(
            &error,
            address.port(),
            "SIDECAR_HTTP_BIND",
        )),
    }
}

fn taken(step: &'static str, what: &str, address: SocketAddr, error: &io::Error) -> Finding {
    if error.kind() != io::ErrorKind::AddrInUse {
        return Finding::failed(step, format!("{what} cannot be had")).because(error.to_string());
    }
    let owner = owner::of(address.port());
    let owner = owner.unwrap_or_else(|| "another program, of another user or container".to_owned());
    Finding::failed(step, format!("{what} is taken")).because(format!("{owner} has it"))
}

fn remedy(error: &io::Error, port: u16, variable: &str) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("stop it, or set {variable}: ss -lntup 'sport = :{port}'")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("no interface has the address, see `ip address`; set {variable}")
        }
        _ => format!("run as root, or choose another with {variable}"),
    }
}

async fn advertised(config: &Config) -> Finding {
    match advertise_address(config).await {
        Ok(ip) if !bind_address::is_present(ip).await => Finding::warning(
            "address",
            format!("other hosts are told {ip}, which is on no interface"),
        )
        .because("it is right behind address translation only")
        .fix("ip address; set SIDECAR_ADVERTISE_IP"),
        Ok(ip) => Finding::ok("address", format!("other hosts reach this one at {ip}")),
        Err(error) => Finding::failed("address", "there is no address to tell other hosts")
            .because(error.to_string())
            .fix("set SIDECAR_ADVERTISE_IP"),
    }
}

/// The well-known address of services: there, or to be added.
async fn bind_ip(config: &Config, running: Option<&Overview>) -> Vec<Finding> {
    if config.proxy == ProxyKind::None {
        return vec![Finding::ok(
            "bind-ip",
            "no data plane, so no bind address is needed",
        )];
    }
    let wanted = config.bind_ip;
    let command = bind_address::command_to_add(wanted);
    let may_add = bind_address::may_add().await;
    let serves = running.and_then(|it| it.proxy.bind_ip.parse::<std::net::IpAddr>().ok());
    if let Some(serves) = serves.filter(|it| *it != wanted) {
        let what = format!("services are served at {serves}, not at {wanted}");
        let cause = "the agent could not add the address, or has other settings";
        return vec![
            Finding::failed("bind-ip", what)
                .because(cause)
                .fix(format!("{command}, then start the agent again")),
        ];
    }
    if bind_address::is_present(wanted).await {
        return vec![Finding::ok(
            "bind-ip",
            format!("{wanted} is on an interface"),
        )];
    }
    vec![match may_add {
        Ok(()) => Finding::ok(
            "bind-ip",
            format!("{wanted} is on no interface; an agent of this user adds it"),
        ),
        Err(reason) => Finding::failed(
            "bind-ip",
            format!("{wanted} is on no interface, and this user may not add it"),
        )
        .because(reason)
        .fix(format!("sudo {command}, or give the agent CAP_NET_ADMIN")),
    }]
}

#[cfg(target_os = "linux")]
fn nf_tables() -> Finding {
    match crate::proxy::kernel::is_usable() {
        Ok(()) => Finding::ok("kernel", "nf_tables can be used"),
        Err(error) => Finding::failed("kernel", "nf_tables cannot be used")
            .because(error.to_string())
            .fix("run as root or with CAP_NET_ADMIN; modprobe nf_tables; the built-in proxy serves meanwhile"),
    }
}

/// Whether a program that is to be driven is there, found out by starting it.
async fn program(step: &'static str, name: &str) -> Finding {
    let started = tokio::process::Command::new(name)
        .arg("-v")
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let what = format!("{name} cannot be started");
    match tokio::time::timeout(PROGRAM_WITHIN, started).await {
        Ok(Ok(output)) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let first = text.lines().next().unwrap_or_default().to_owned();
            Finding::ok(step, format!("{name}: {first}"))
        }
        Ok(Ok(output)) => Finding::failed(step, format!("{name} -v fails"))
            .because(output.status.to_string())
            .fix("set SIDECAR_HAPROXY_BINARY to a HAProxy"),
        Ok(Err(error)) => Finding::failed(step, what)
            .because(error.to_string())
            .fix("apt-get install haproxy, or set SIDECAR_HAPROXY_BINARY"),
        Err(_) => Finding::failed(step, what).because("it said nothing for 5 s"),
    }
}

/// The file with the gossip keys: usable, and for nobody else's eyes.
async fn keys(keys: &GossipKeys) -> Vec<Finding> {
    let GossipKeys::File(path) = keys else {
        return Vec::new();
    };
    let shown = path.display();
    if let Err(error) = gossip_keys::load(keys).await {
        return vec![
            Finding::failed("keys", "the gossip keys cannot be read")
                .because(error.to_string())
                .fix(format!(
                    "sidecar keygen > {shown}, the same file on every host"
                )),
        ];
    }
    let others = others_may(path).filter(|_| !path.starts_with("/run/secrets"));
    vec![match others {
        Some(mode) => Finding::failed("keys", format!("{shown} is open to other users"))
            .because(format!("its mode is {mode:03o}"))
            .fix(format!("chmod 600 {shown}")),
        None => Finding::ok("keys", format!("the gossip keys in {shown} can be read")),
    }]
}

/// The permissions of a file that others than its owner and group have some on. Secrets that Docker puts into a
/// container are in nobody else's sight.
fn others_may(path: &Path) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & 0o007 != 0).then_some(mode)
}
