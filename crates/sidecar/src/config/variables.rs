//! Every variable and flag as data: help, README and warnings about unknown names come from here.

/// One setting.
#[derive(Debug)]
pub struct Variable {
    /// Environment variable.
    pub name: &'static str,
    /// Other variables that are honoured when `name` is not set, in order.
    pub fallbacks: &'static [&'static str],
    /// Command line flag that overrides it, without dashes.
    pub flag: Option<&'static str>,
    /// Default, as it would be written; empty for "none".
    pub default: &'static str,
    /// One sentence for people.
    pub help: &'static str,
}

const fn variable(name: &'static str, default: &'static str, help: &'static str) -> Variable {
    Variable {
        name,
        fallbacks: &[],
        flag: None,
        default,
        help,
    }
}

const fn with_flag(variable: Variable, flag: &'static str) -> Variable {
    Variable {
        flag: Some(flag),
        ..variable
    }
}

const fn with_fallbacks(variable: Variable, fallbacks: &'static [&'static str]) -> Variable {
    Variable {
        fallbacks,
        ..variable
    }
}

/// All settings, in the order in which they are shown.
pub const VARIABLES: &[Variable] = &[
    with_flag(
        variable(
            "SIDECAR_SEEDS",
            "",
            "Hosts to join, by IP or name with optional port; one that answers is enough",
        ),
        "cluster-ip",
    ),
    with_flag(
        variable(
            "SIDECAR_CLUSTER_NAME",
            "default",
            "Agents with another name are refused",
        ),
        "cluster-name",
    ),
    variable(
        "SIDECAR_NODE_NAME",
        "",
        "Name of this host in the cluster; the hostname when empty or not set",
    ),
    with_flag(
        variable(
            "SIDECAR_ADVERTISE_IP",
            "",
            "Address other hosts reach this one at; first private IPv4 address when not set",
        ),
        "advertise-ip",
    ),
    variable(
        "SIDECAR_EXCLUDE_IPS",
        "192.168.168.168",
        "Addresses never chosen as advertise address by themselves",
    ),
    variable(
        "SIDECAR_BIND_PORT",
        "7946",
        "Gossip port, UDP and TCP, bound and advertised",
    ),
    variable(
        "SIDECAR_GOSSIP_BIND_IP",
        "0.0.0.0",
        "Address the gossip port is bound on",
    ),
    variable(
        "SIDECAR_GOSSIP_KEY",
        "",
        "Keys that encrypt gossip, in base64, separated by commas; the first is used to send. \
         `sidecar keygen` makes one",
    ),
    variable(
        "SIDECAR_GOSSIP_KEY_FILE",
        "",
        "File with these keys instead, one a line, read again when it changes",
    ),
    variable(
        "SIDECAR_GOSSIP_VERIFY_INCOMING",
        "true",
        "With keys, refuse gossip in plain text; false while a cluster is given keys",
    ),
    variable(
        "SIDECAR_GOSSIP_VERIFY_OUTGOING",
        "true",
        "With keys, encrypt what is sent; false while a cluster is given keys",
    ),
    variable(
        "SIDECAR_GOSSIP_LABEL",
        "",
        "Label before all gossip; hosts with another are not heard. Not known to Go Sidecar",
    ),
    variable(
        "SIDECAR_GOSSIP_ALLOW",
        "",
        "Networks (`10.0.0.0/8`) and addresses whose gossip is heard; all when empty. A host outside \
         is not heard, so it is taken for dead",
    ),
    variable(
        "SIDECAR_HTTP_BIND",
        "0.0.0.0:7777",
        "Address and port of the HTTP API and page",
    ),
    variable(
        "SIDECAR_API_TOKEN",
        "",
        "Token with which other hosts may drain and undrain (`Authorization: Bearer`); without one \
         only this host may",
    ),
    variable(
        "SIDECAR_API_TOKEN_FILE",
        "",
        "File with such tokens instead, one a line, read again when it changes",
    ),
    variable(
        "SIDECAR_API_TOKEN_READS",
        "false",
        "Other hosts need a token for everything but /health and /ready",
    ),
    variable(
        "SIDECAR_API_HOSTS",
        "",
        "Names under which this host's page and /api/v2 are asked for, beside its own and its \
         addresses, such as sidecar.example.com or *.example.com",
    ),
    variable(
        "SIDECAR_API_TLS_CERT",
        "",
        "File with the certificate of the API and those above it, in PEM: then it speaks TLS only. \
         Read again when it changes",
    ),
    variable("SIDECAR_API_TLS_KEY", "", "File with its key, in PEM"),
    variable(
        "SIDECAR_STATE_DIR",
        "/var/lib/sidecar",
        "Directory for what outlives a restart, which are drains; none when empty",
    ),
    with_flag(
        with_fallbacks(
            variable(
                "SIDECAR_BIND_IP",
                "192.168.168.168",
                "Well-known address services are reached at, added to the loopback interface when \
                 no interface has it; empty for all addresses",
            ),
            &["HAPROXY_BIND_IP", "ENVOY_BIND_IP", "BIND_IP"],
        ),
        "bind-ip",
    ),
    variable(
        "SIDECAR_PROXY",
        "builtin",
        "Data plane: builtin, kernel (nftables for services in mode tcp, builtin for the rest), \
         haproxy, envoy (one that somebody runs, fed by xDS), or none. When not set, a HAProxy that is named by \
         HAPROXY_TEMPLATE_FILE, _CONFIG_FILE, _PID_FILE, _RELOAD_COMMAND or _VERIFY_COMMAND \
         is driven",
    ),
    variable(
        "SIDECAR_PROXY_THREADS",
        "0",
        "Threads of the built-in proxy, up to 256; 0 means one for each processor",
    ),
    variable(
        "SIDECAR_PROXY_RESPONSE_TIMEOUT",
        "60s",
        "How long the built-in proxy waits for an instance to begin its answer to a request before it \
         answers 504; 0 means for ever",
    ),
    variable(
        "SIDECAR_PROXY_ACCESS_LOG",
        "",
        "File to which the built-in proxy writes each request of http and ws mode, as a line of JSON; \
         none when empty",
    ),
    variable(
        "HAPROXY_DISABLE",
        "false",
        "No data plane of our own, where SIDECAR_PROXY is not set; envoy, where a variable ENVOY_* is",
    ),
    variable(
        "SIDECAR_HAPROXY_MODE",
        "auto",
        "How HAProxy is driven: classic, by a configuration file and reloads; runtime, over \
         its admin socket; auto, classic where a template or a command is set",
    ),
    variable(
        "HAPROXY_TEMPLATE_FILE",
        "",
        "Classic: template of the configuration file, read again when it changes; the \
         built-in one when empty",
    ),
    variable(
        "HAPROXY_RELOAD_COMMAND",
        "",
        "Classic: shell command that makes HAProxy run the configuration file; when empty, \
         HAProxy is started and takes over from the one of the pid file",
    ),
    variable(
        "HAPROXY_VERIFY_COMMAND",
        "",
        "Classic: shell command that checks the configuration file before; `haproxy -c -f` \
         when empty",
    ),
    variable(
        "HAPROXY_CONFIG_FILE",
        "/etc/haproxy.cfg",
        "Classic: configuration file that is written",
    ),
    variable(
        "HAPROXY_PID_FILE",
        "/var/run/haproxy.pid",
        "Classic: file with HAProxy's process ids; the admin socket haproxy_stats.sock lies \
         beside it",
    ),
    variable("HAPROXY_USER", "haproxy", "User HAProxy runs as"),
    variable("HAPROXY_GROUP", "", "Group HAProxy runs as"),
    variable(
        "HAPROXY_USE_HOSTNAMES",
        "false",
        "Classic: name endpoints by host instead of address",
    ),
    variable(
        "SIDECAR_HAPROXY_BINARY",
        "haproxy",
        "HAProxy's program, by name or path",
    ),
    variable(
        "SIDECAR_HAPROXY_HOLD_DOWN",
        "1s",
        "Classic: least time from one reload to the next; the first change is applied at once",
    ),
    variable(
        "SIDECAR_HAPROXY_DIR",
        "/run/sidecar",
        "Runtime: directory for HAProxy's configuration and sockets",
    ),
    variable(
        "SIDECAR_HAPROXY_PORTS",
        "10000-10999",
        "Runtime: ports HAProxy listens on from its start, ranges with commas",
    ),
    variable(
        "SIDECAR_HAPROXY_POOLS",
        "512,512",
        "Runtime: how many services HAProxy is prepared for, in mode http or ws, and in mode \
         tcp",
    ),
    variable(
        "ENVOY_USE_GRPC_API",
        "true",
        "Serve xDS v3 for an Envoy on this host, whatever the data plane is",
    ),
    variable("ENVOY_GRPC_PORT", "7776", "Port of xDS, on 127.0.0.1"),
    variable(
        "ENVOY_BIND_IP",
        "",
        "Address of Envoy's listeners; that of SIDECAR_BIND_IP when empty",
    ),
    variable(
        "ENVOY_USE_HOSTNAMES",
        "false",
        "Endpoints for Envoy are at what the name of their host resolves to, instead of the address of their \
         port",
    ),
    variable(
        "SIDECAR_ENVOY_SETTINGS_FILE",
        "",
        "File with limits and timeouts of services for Envoy, as JSON, read again when it changes; none when \
         empty",
    ),
    with_flag(
        variable(
            "SIDECAR_DISCOVERY",
            "",
            "Sources of this host's services: docker, static; when not set, whichever of the two \
             is there; set but empty, none",
        ),
        "discover",
    ),
    with_fallbacks(
        variable(
            "DOCKER_URL",
            "unix:///var/run/docker.sock",
            "Docker engine: unix://PATH, tcp://HOST:PORT, http://HOST:PORT or https://HOST:PORT",
        ),
        &["DOCKER_HOST"],
    ),
    variable(
        "DOCKER_TLS_VERIFY",
        "",
        "Anything but empty: TLS to an engine at tcp://. Its certificate is always verified",
    ),
    variable(
        "DOCKER_CERT_PATH",
        "",
        "Directory with ca.pem, cert.pem and key.pem for TLS to the engine; ~/.docker when empty",
    ),
    variable(
        "SIDECAR_DOCKER_HOLD",
        "1h",
        "How long services stay when the Docker engine cannot be reached; 0 is for ever",
    ),
    variable(
        "SERVICES_NAMER",
        "docker_label",
        "Where names of services come from: docker_label, or regex for a part of the container's name",
    ),
    variable(
        "SERVICES_NAME_LABEL",
        "ServiceName",
        "Label with the name of the service, for docker_label; the image reference without it",
    ),
    variable(
        "SERVICES_NAME_MATCH",
        "",
        "For regex: what the first group finds in the container's name, which begins with a slash, \
         such as ^/(.+)(-[0-9a-z]{7,14})$",
    ),
    variable(
        "STATIC_CONFIG_FILE",
        "static.json",
        "File with services that run without Docker",
    ),
    variable(
        "LISTENERS_URLS",
        "",
        "URLs that get every change of a service by POST, with the whole state",
    ),
    variable(
        "SIDECAR_LEAVE_ON_STOP",
        "true",
        "On SIGTERM and SIGINT declare this host's services gone; false where a stopped agent is \
         started again at once and its services run on, as SIGUSR1 does in any case",
    ),
    variable(
        "SIDECAR_DEFAULT_CHECK_ENDPOINT",
        "/version",
        "Path of the health check of services that name none",
    ),
    variable(
        "SIDECAR_GOSSIP_INTERVAL",
        "200ms",
        "Time between gossip rounds",
    ),
    variable(
        "SIDECAR_GOSSIP_MESSAGES",
        "15",
        "Most packets to one host in one round; 0 means 3",
    ),
    variable(
        "SIDECAR_PUSH_PULL_INTERVAL",
        "20s",
        "Time between full exchanges with a random host; 0 means 79s",
    ),
    variable(
        "SIDECAR_HANDOFF_QUEUE_DEPTH",
        "1024",
        "Records from peers that may wait to be merged; more are dropped and counted",
    ),
    variable(
        "SIDECAR_GOSSIP_DELEGATE_VERSIONS",
        "0,0,0",
        "Application protocol announced to peers (min,max,current); 2,5,5 to meet Serf agents",
    ),
    variable(
        "SIDECAR_STATS_ADDR",
        "",
        "Statsd that gets this agent's metrics once a second, HOST:PORT, port 8125 when left out; none when empty",
    ),
    with_flag(
        variable(
            "SIDECAR_LOGGING_LEVEL",
            "info",
            "debug, info, warn or error",
        ),
        "logging-level",
    ),
    variable(
        "SIDECAR_LOGGING_FORMAT",
        "text",
        "json for JSON lines, anything else for text",
    ),
];

/// Variables whose values are shown to nobody, programs that the agent starts included.
pub const SECRETS: &[&str] = &["SIDECAR_GOSSIP_KEY", "SIDECAR_API_TOKEN"];

/// Variables of the original program that need no action here, and why. They are accepted without
/// a word so that an existing environment file works as it is.
pub const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("SIDECAR_DEBUG", "the original reads it and never uses it"),
    (
        "SIDECAR_DISCOVERY_SLEEP_INTERVAL",
        "discovery follows events and never sleeps",
    ),
    (
        "ENVOY_LOGGING_LEVEL",
        "SIDECAR_LOGGING_LEVEL is that of everything",
    ),
];

/// Variables that mean something to the operator's commands alone; their help says what.
pub const COMMAND_LINE: &[&str] = &["SIDECAR_ADDR"];

/// Variables of the original whose function this version does not have: a warning says so.
pub const NOT_YET: &[&str] = &[
    "K8S_KUBE_API_IP",
    "K8S_KUBE_API_PORT",
    "K8S_NAMESPACE",
    "K8S_KUBE_TIMEOUT",
    "K8S_CREDS_PATH",
    "K8S_ANNOUNCE_ALL_NODES",
];

/// The variable of that name.
pub fn find(name: &str) -> Option<&'static Variable> {
    VARIABLES.iter().find(|variable| variable.name == name)
}

/// What `--help` says about variables.
pub fn help_text() -> String {
    let mut out = String::from("Environment variables (a flag overrides its variable):\n");
    for variable in VARIABLES {
        let default = match variable.default {
            "" => String::new(),
            default => format!(" [default: {default}]"),
        };
        let flag = variable
            .flag
            .map_or_else(String::new, |flag| format!(" (--{flag})"));
        let also = match variable.fallbacks {
            [] => String::new(),
            names => format!(" [else: {}]", names.join(", ")),
        };
        out.push_str(&format!(
            "  {}{flag}\n          {}{default}{also}\n",
            variable.name, variable.help
        ));
    }
    out
}

/// The README's table.
pub fn markdown_table() -> String {
    let mut out = String::from("| variable | flag | default | meaning |\n|---|---|---|---|\n");
    for variable in VARIABLES {
        let flag = variable
            .flag
            .map_or_else(String::new, |flag| format!("`--{flag}`"));
        let default = match variable.default {
            "" => String::new(),
            default => format!("`{default}`"),
        };
        let also = match variable.fallbacks {
            [] => String::new(),
            names => format!(" (also read: `{}`)", names.join("`, `")),
        };
        out.push_str(&format!(
            "| `{}` | {flag} | {default} | {}{also} |\n",
            variable.name, variable.help
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The README's table is this one; `UPDATE_EXPECT=1 cargo test` writes it anew.
    #[test]
    fn the_readme_lists_every_setting() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
        let readme = std::fs::read_to_string(path).unwrap();
        let begin = readme.find("<!-- settings:").unwrap();
        let begin = begin + readme[begin..].find("-->\n").unwrap() + "-->\n".len();
        let end = readme.find("<!-- end of settings -->").unwrap();
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            let updated = format!("{}{}{}", &readme[..begin], markdown_table(), &readme[end..]);
            std::fs::write(path, updated).unwrap();
            return;
        }
        assert_eq!(
            &readme[begin..end],
            markdown_table(),
            "run with UPDATE_EXPECT=1"
        );
    }
}
