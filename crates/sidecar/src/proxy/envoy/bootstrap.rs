//! A file for Envoy to start with: `sidecar envoy-bootstrap`.
//!
//! What Go Sidecar's users have in theirs, and what makes Envoy come back soon after an agent was away: short
//! pauses between attempts, and pings that notice an agent that went without a word.

use std::net::SocketAddr;

use serde_json::{Value, json};

/// The name of the cluster that is the agent.
const CLUSTER: &str = "sidecar";

/// What the file says.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    /// What Envoy calls itself; for people.
    pub node: String,
    /// Name of the agents' cluster; for people.
    pub cluster_name: String,
    /// Port of xDS.
    pub port: u16,
    /// Whether whole states are asked for instead of changes.
    pub sotw: bool,
    /// Where Envoy's own administration page is; none without it.
    pub admin: Option<SocketAddr>,
}

impl Bootstrap {
    /// The file, as JSON, which Envoy reads under a name that ends with `.json` or `.yaml`.
    pub fn document(&self) -> Value {
        let api_type = if self.sotw { "GRPC" } else { "DELTA_GRPC" };
        let ads = json!({ "ads": {}, "resource_api_version": "V3" });
        let address = |at: SocketAddr| json!({ "socket_address": { "address": at.ip().to_string(), "port_value": at.port() } });
        let agent = SocketAddr::from(([127, 0, 0, 1], self.port));
        let mut document = json!({
            "node": { "id": self.node, "cluster": self.cluster_name },
            "dynamic_resources": {
                "ads_config": {
                    "api_type": api_type,
                    "transport_api_version": "V3",
                    "set_node_on_first_message_only": true,
                    "grpc_services": [{ "envoy_grpc": {
                        "cluster_name": CLUSTER,
                        "retry_policy": { "retry_back_off": {
                            "base_interval": "0.1s", "max_interval": "0.5s",
                        } },
                    } }],
                },
                "cds_config": ads,
                "lds_config": ads,
            },
            "static_resources": { "clusters": [{
                "name": CLUSTER,
                "type": "STATIC",
                "connect_timeout": "1s",
                "typed_extension_protocol_options": {
                    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                        "explicit_http_config": { "http2_protocol_options": {
                            "connection_keepalive": { "interval": "30s", "timeout": "10s" },
                        } },
                    },
                },
                "load_assignment": {
                    "cluster_name": CLUSTER,
                    "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(agent) } }] }],
                },
            }] },
        });
        if let Some(admin) = self.admin {
            document["admin"] = json!({ "address": address(admin) });
        }
        document
    }
}
