//! What a running agent says of itself.

use crate::client::{
    Exit,
    api::Agent,
    documents::{Local, Overview, Proxy},
    finding::Finding,
};

use super::owner;

const LOG: &str = "its log says more: journalctl -u sidecar, docker logs sidecar";

/// What is found, and the agent's overview if there is an agent.
pub(super) async fn look(agent: &Agent) -> (Vec<Finding>, Option<Overview>) {
    let asked = async { agent.get("/api/v2/overview").await?.read::<Overview>() };
    let overview = match asked.await {
        Ok(overview) => overview,
        Err(failure) => {
            let text = failure.to_string();
            let (what, cause) = text.split_once(": ").unwrap_or((&text, ""));
            let finding = Finding::failed("agent", what.to_owned());
            let finding = match cause.split_once("; ") {
                Some((cause, fix)) => finding.because(cause.to_owned()).fix(fix.to_owned()),
                None => finding.because(cause.to_owned()),
            };
            // Somebody answered, so that nobody else's port is looked for.
            let answered = failure.exit != Exit::Unreachable;
            return (vec![finding], answered.then(Overview::default));
        }
    };
    let mut findings = vec![readiness(agent, &overview)];
    // Ports are told of below, with who has them.
    let is_port = |trouble: &str| trouble.starts_with("port ");
    let troubles = overview.trouble.iter().filter(|it| !is_port(it));
    findings.extend(troubles.map(|it| {
        Finding::failed("agent", "the agent reports trouble")
            .because(it.clone())
            .fix(LOG)
    }));
    findings.extend(service_ports(agent, &overview).await);
    if overview.proxy.plane == "envoy" {
        findings.push(envoy(agent).await);
    }
    findings.extend(clock(agent).await);
    (findings, Some(overview))
}

fn readiness(agent: &Agent, overview: &Overview) -> Finding {
    let (host, version, place) = (&overview.hostname, &overview.agent_version, &agent.place);
    let what = format!("the agent {version} of {host} answers at {place}");
    if overview.ready {
        return Finding::ok("agent", format!("{what} and is ready"));
    }
    Finding::failed("agent", format!("{what} and is not ready"))
        .because(format!("it waits for: {}", overview.awaited.join(", ")))
        .fix(LOG)
}

/// Ports of services that the built-in proxy cannot open.
async fn service_ports(agent: &Agent, overview: &Overview) -> Vec<Finding> {
    let asked = async { agent.get("/api/v2/proxy").await?.read::<Proxy>() };
    let proxy = match asked.await {
        Ok(proxy) => proxy,
        Err(failure) => {
            let finding = Finding::failed("services", "the proxy cannot be looked at");
            return vec![finding.because(failure.to_string())];
        }
    };
    let bind_ip = &overview.proxy.bind_ip;
    let mut findings: Vec<Finding> = proxy
        .ports
        .iter()
        .filter_map(|port| {
            let trouble = port.trouble.as_ref()?;
            let number = port.service_port;
            let what = format!("{}: cannot listen at {bind_ip} port {number}", port.service);
            let owner = match owner::of(number).filter(|_| agent.place.is_this_host()) {
                Some(owner) => format!("{trouble}, by {owner}"),
                None => trouble.clone(),
            };
            let fix = format!("stop it, or use another service port: ss -ltnp 'sport = :{number}'");
            Some(Finding::failed("services", what).because(owner).fix(fix))
        })
        .collect();
    if findings.is_empty() && !proxy.ports.is_empty() {
        let count = proxy.ports.len();
        let what = format!("all {count} service ports of the built-in proxy are open");
        findings.push(Finding::ok("services", what));
    }
    findings
}

/// Whether an Envoy serves, where one is to.
async fn envoy(agent: &Agent) -> Finding {
    let asked = async { agent.get("/api/v2/local").await?.read::<Local>() };
    let fed = match asked.await {
        Ok(local) => local.envoy.unwrap_or_default(),
        Err(failure) => {
            let finding = Finding::failed("envoy", "what Envoys are told cannot be looked at");
            return finding.because(failure.to_string());
        }
    };
    if let Some(trouble) = fed.trouble {
        return Finding::failed("envoy", "no Envoy can be told anything")
            .because(trouble)
            .fix("stop what has the port, or set ENVOY_GRPC_PORT");
    }
    if fed.streams.is_empty() {
        return Finding::failed(
            "envoy",
            "no Envoy is connected, so nobody serves the services",
        )
        .because("SIDECAR_PROXY is envoy, and an Envoy is started by somebody else")
        .fix("sidecar envoy-bootstrap > envoy.json && envoy -c envoy.json");
    }
    let count = fed.streams.len();
    match fed.rejected.first() {
        None => Finding::ok(
            "envoy",
            format!("{count} connected, and all that is told is taken"),
        ),
        Some(first) => {
            let what = format!("{} of what is told is not taken", fed.rejected.len());
            Finding::failed("envoy", what)
                .because(format!("the first is the {} {}", first.kind, first.name))
                .fix("/api/v2/local has Envoy's words; the service's labels are what to change")
        }
    }
}

/// The agent knows the cluster's clocks; what it adds to its own says how far that is off.
async fn clock(agent: &Agent) -> Vec<Finding> {
    const METRIC: &str = "sidecar_clock_correction_seconds";
    let Ok(metrics) = agent.get("/metrics").await else {
        return Vec::new();
    };
    let value = metrics.text.lines().find_map(|line| {
        let value = line.strip_prefix(METRIC)?.trim();
        value.parse::<f64>().ok()
    });
    match value {
        None => Vec::new(),
        Some(off) if off.abs() < 1.0 => vec![Finding::ok(
            "clock",
            "this host's clock is near the cluster's time, or alone",
        )],
        Some(off) => {
            let (way, off) = if off < 0.0 {
                ("ahead", -off)
            } else {
                ("behind", off)
            };
            let what = format!("this host's clock is {off:.0} s {way} of the cluster's time");
            vec![
                Finding::failed("clock", what)
                    .because("it is not synchronized; stamps are corrected meanwhile")
                    .fix("timedatectl set-ntp true, or chronyc makestep"),
            ]
        }
    }
}
