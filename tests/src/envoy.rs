//! A real Envoy on a host of the lab, fed by the agent of that host.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
};

use serde_json::{Value, json};

use crate::{Agent, Host, Lab, Process, binary, tools};

/// Where Envoy's administration page is.
const ADMIN_PORT: u16 = 9901;

/// What an Envoy starts with.
#[derive(Debug, Clone)]
pub struct Bootstrap(Value);

impl Bootstrap {
    /// What `sidecar envoy-bootstrap` prints: changes.
    pub fn ours() -> Self {
        Self::printed(&[])
    }

    /// The same with whole states.
    pub fn ours_sotw() -> Self {
        Self::printed(&["--sotw"])
    }

    fn printed(words: &[&str]) -> Self {
        let admin = format!("127.0.0.1:{ADMIN_PORT}");
        let output = Command::new(binary::sidecar())
            .arg("envoy-bootstrap")
            .args(["--admin", &admin])
            .args(words)
            .env_clear()
            .env("SIDECAR_NODE_NAME", "anybody")
            .output()
            .expect("the program under test starts");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        Self(serde_json::from_slice(&output.stdout).expect("it prints JSON"))
    }

    /// As users of Go Sidecar have it: whole states, HTTP/2 by the option of old, no word about pauses.
    pub fn as_users_have_it(node: &str) -> Self {
        let ads = json!({ "ads": {}, "resource_api_version": "V3" });
        let address =
            |port: u16| json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } });
        Self(json!({
            "node": { "id": node, "cluster": "default" },
            "admin": { "address": address(ADMIN_PORT) },
            "dynamic_resources": {
                "ads_config": {
                    "api_type": "GRPC",
                    "transport_api_version": "V3",
                    "grpc_services": [{ "envoy_grpc": { "cluster_name": "xds_cluster" } }],
                },
                "cds_config": ads,
                "lds_config": ads,
            },
            "static_resources": { "clusters": [{
                "name": "xds_cluster",
                "type": "STATIC",
                "connect_timeout": "1s",
                "http2_protocol_options": {},
                "load_assignment": {
                    "cluster_name": "xds_cluster",
                    "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(7776) } }] }],
                },
            }] },
        }))
    }

    /// The agent is asked at another port.
    #[must_use]
    pub fn at_port(mut self, port: u16) -> Self {
        let endpoint = "/static_resources/clusters/0/load_assignment/endpoints/0/lb_endpoints/0";
        let endpoint = self.0.pointer_mut(endpoint).expect("one endpoint");
        endpoint["endpoint"]["address"]["socket_address"]["port_value"] = port.into();
        self
    }
}

/// A running Envoy; killed when dropped.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
}

impl Envoy {
    /// Starts one with one worker on a host.
    ///
    /// # Panics
    /// When Envoy is not installed.
    pub fn start(lab: &Lab, host: usize, bootstrap: &Bootstrap) -> Self {
        tools::require("envoy");
        let name = format!("envoy-{}.json", lab.host(host).name);
        let file = lab.write(&name, &bootstrap.0.to_string());
        let file = file.display().to_string();
        let command = [
            "envoy",
            "--disable-hot-restart",
            "--concurrency",
            "1",
            "-l",
            "info",
            "-c",
            &file,
        ];
        Self {
            process: lab.program(host, "envoy", &command),
        }
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What its administration page says.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn admin(host: &Host, path: &str) -> Result<String, String> {
        let at: SocketAddr = (Ipv4Addr::LOCALHOST, ADMIN_PORT).into();
        let answer = host.get(at, path).map_err(|error| error.to_string())?;
        Ok(answer.body)
    }

    /// One of its statistics; 0 when it has none of that name.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn statistic(host: &Host, name: &str) -> Result<u64, String> {
        let text = Self::admin(host, "/stats")?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.map_or(Ok(0), |it| it.parse().map_err(|_| it.to_owned()))
    }
}

/// What an agent says of the Envoys it feeds.
///
/// # Errors
/// When it does not answer.
pub fn envoy_status(agent: &Agent) -> Result<Value, String> {
    let answer = agent.api("/api/v2/local");
    let answer = answer.map_err(|error| error.to_string())?;
    let local: Value = serde_json::from_str(&answer.body).map_err(|error| error.to_string())?;
    Ok(local["envoy"].clone())
}
