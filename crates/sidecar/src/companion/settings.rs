//! Settings of the companion: the original's TOML file, its variables and its flags. Flags stand over variables
//! over the file over defaults; what concerns HAProxy itself is read as the agent reads it.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::config::{Config, ConfigError, Flags, HaproxyConfig, parse_level};

/// The file that is read when none is named; it may be missing then.
pub const DEFAULT_FILE: &str = "haproxy-api.toml";
/// Names a file.
const FILE_VARIABLE: &str = "HAPROXY_API_CONFIG_FILE";
/// Names the agent to follow.
const FOLLOW_VARIABLE: &str = "HAPROXY_API_FOLLOW";
/// Port of an agent's API where none is named.
const API_PORT: u16 = 7777;

/// What the companion does.
#[derive(Debug)]
pub struct Settings {
    /// Where its own HTTP server listens.
    pub http_bind: SocketAddr,
    /// How much is logged.
    pub log_level: tracing::Level,
    /// The address HAProxy serves on.
    pub bind_ip: IpAddr,
    /// HAProxy.
    pub haproxy: HaproxyConfig,
    /// Where the whole state is fetched at the start and after doubts; `None` is nowhere.
    pub state_url: Option<String>,
    /// `HOST:PORT` of the agent to follow; `None` waits for what is posted.
    pub follow: Option<String>,
    /// The services HAProxy serves; none means all.
    pub subscribe: Vec<String>,
}

/// Flags of the command line.
#[derive(Debug, Default)]
pub struct Given {
    /// `--config-file`.
    pub file: Option<PathBuf>,
    /// `--follow`.
    pub follow: Option<String>,
    /// `--subscribe`.
    pub subscribe: Vec<String>,
}

/// Why the companion cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file that was named cannot be read.
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
    /// It is no such file.
    #[error("{0}: {1}")]
    Text(PathBuf, toml::de::Error),
    /// A value is of no use.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Values(Vec<ConfigError>),
}

/// The file. Unknown keys are mistakes, since none of them would have an effect.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Document {
    haproxy_api: ServerTable,
    haproxy: HaproxyTable,
    sidecar: SidecarTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ServerTable {
    bind_ip: Option<String>,
    bind_port: Option<u16>,
    logging_level: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HaproxyTable {
    bind_ip: Option<String>,
    template: Option<String>,
    config_file: Option<String>,
    pid_file: Option<String>,
    reload_cmd: Option<String>,
    verify_cmd: Option<String>,
    user: Option<String>,
    group: Option<String>,
    use_hostnames: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SidecarTable {
    state_url: Option<String>,
    subscribe: Vec<String>,
}

impl Settings {
    /// Reads the file and puts variables and flags over it.
    ///
    /// # Errors
    /// When a named file is missing, the file is not usable, or a value is not.
    pub fn read(
        given: Given,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, SettingsError> {
        let variable = |name: &str| environment.get(name).filter(|it| !it.is_empty());
        let named = given
            .file
            .or_else(|| variable(FILE_VARIABLE).map(PathBuf::from));
        let document = match named {
            Some(file) => document(&file)?,
            None => match document(Path::new(DEFAULT_FILE)) {
                Err(SettingsError::File(_, error)) if error.kind() == io::ErrorKind::NotFound => {
                    Document::default()
                }
                other => other?,
            },
        };
        let follow = given.follow.or_else(|| variable(FOLLOW_VARIABLE).cloned());
        resolve(document, follow, given.subscribe, environment)
    }
}

fn document(file: &Path) -> Result<Document, SettingsError> {
    let text = fs::read_to_string(file).map_err(|it| SettingsError::File(file.to_owned(), it))?;
    toml::from_str(&text).map_err(|it| SettingsError::Text(file.to_owned(), it))
}

fn resolve(
    document: Document,
    follow: Option<String>,
    subscribe: Vec<String>,
    environment: &BTreeMap<String, String>,
) -> Result<Settings, SettingsError> {
    let mut errors = Vec::new();
    let variable = |name: &str| environment.get(name).filter(|it| !it.is_empty()).cloned();
    let text = |name: &str, file: Option<String>| {
        variable(name).or_else(|| file.filter(|it| !it.is_empty()))
    };
    let Document {
        haproxy_api: server,
        haproxy,
        sidecar,
    } = document;

    let http_ip = parsed(
        &mut errors,
        "HAPROXY_API_HAPROXY_API_BIND_IP",
        text("HAPROXY_API_HAPROXY_API_BIND_IP", server.bind_ip),
        "an IP address",
        |it| it.parse().ok(),
    );
    let http_port = parsed(
        &mut errors,
        "HAPROXY_API_HAPROXY_API_BIND_PORT",
        text(
            "HAPROXY_API_HAPROXY_API_BIND_PORT",
            server.bind_port.map(|it| it.to_string()),
        ),
        "a port",
        |it| it.parse().ok(),
    );
    // The second name is the one the original's container knows.
    let level = text("HAPROXY_API_HAPROXY_API_LOGGING_LEVEL", None)
        .or_else(|| text("HAPROXYAPI_LOGGING_LEVEL", server.logging_level));
    let log_level = parsed(
        &mut errors,
        "HAPROXY_API_HAPROXY_API_LOGGING_LEVEL",
        level,
        "debug, info, warn or error",
        parse_level,
    );
    let follow = parsed(
        &mut errors,
        FOLLOW_VARIABLE,
        follow.filter(|it| !it.is_empty()),
        "HOST:PORT of an agent's API",
        authority,
    );

    // HAProxy's settings have names of their own in the agent, and are read under these.
    let mut agents: BTreeMap<String, String> = environment
        .iter()
        .filter(|(name, _)| name.starts_with("SIDECAR_HAPROXY_"))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let names_its_file = haproxy
        .config_file
        .as_ref()
        .is_some_and(|it| !it.is_empty())
        || variable("HAPROXY_API_HAPROXY_CONFIGFILE").is_some();
    let use_hostnames = haproxy.use_hostnames.map(|it| it.to_string());
    for (name, own, value) in [
        ("SIDECAR_BIND_IP", "BINDIP", haproxy.bind_ip),
        ("HAPROXY_TEMPLATE_FILE", "TEMPLATE", haproxy.template),
        ("HAPROXY_CONFIG_FILE", "CONFIGFILE", haproxy.config_file),
        ("HAPROXY_PID_FILE", "PIDFILE", haproxy.pid_file),
        ("HAPROXY_RELOAD_COMMAND", "RELOADCMD", haproxy.reload_cmd),
        ("HAPROXY_VERIFY_COMMAND", "VERIFYCMD", haproxy.verify_cmd),
        ("HAPROXY_USER", "USER", haproxy.user),
        ("HAPROXY_GROUP", "GROUP", haproxy.group),
        ("HAPROXY_USE_HOSTNAMES", "USEHOSTNAMES", use_hostnames),
    ] {
        if let Some(value) = text(&format!("HAPROXY_API_HAPROXY_{own}"), value) {
            agents.insert(name.to_owned(), value);
        }
    }
    // Who names a configuration file wants it written.
    if names_its_file {
        let mode = agents.entry("SIDECAR_HAPROXY_MODE".to_owned());
        mode.or_insert_with(|| "classic".to_owned());
    }
    match Config::resolve(&Flags::new(), &agents, "haproxy-api") {
        Ok(config) if errors.is_empty() => Ok(Settings {
            http_bind: SocketAddr::new(
                http_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
                http_port.unwrap_or(7778),
            ),
            log_level: log_level.unwrap_or(tracing::Level::INFO),
            bind_ip: config.bind_ip,
            haproxy: config.haproxy,
            state_url: text("HAPROXY_API_SIDECAR_STATE_URL", sidecar.state_url),
            follow,
            subscribe: if subscribe.is_empty() {
                sidecar.subscribe
            } else {
                subscribe
            },
        }),
        Ok(_) => Err(SettingsError::Values(errors)),
        Err(more) => {
            errors.extend(more);
            Err(SettingsError::Values(errors))
        }
    }
}

fn parsed<T>(
    errors: &mut Vec<ConfigError>,
    name: &str,
    text: Option<String>,
    expected: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Option<T> {
    let text = text?;
    let value = parse(&text);
    if value.is_none() {
        errors.push(ConfigError {
            name: name.to_owned(),
            value: text,
            expected: expected.to_owned(),
        });
    }
    value
}

/// What stands in a URL between the scheme and the path.
fn authority(text: &str) -> Option<String> {
    let has_port = text
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let authority = if has_port {
        text.to_owned()
    } else {
        format!("{text}:{API_PORT}")
    };
    let url = format!("http://{authority}/");
    crate::net::http_client::check_url(&url)
        .is_ok()
        .then_some(authority)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HaproxyMode;

    fn settings(file: &str, variables: &[(&str, &str)]) -> Result<Settings, String> {
        let document = toml::from_str(file).map_err(|error| error.to_string())?;
        let environment = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        resolve(document, None, Vec::new(), &environment).map_err(|error| error.to_string())
    }

    /// As the original's container ships it.
    const SHIPPED: &str = r#"
        [haproxy_api]
        bind_ip = "0.0.0.0"
        bind_port = 7778
        logging_level = "info"

        [haproxy]
        bind_ip = "192.168.168.168"
        template = "templates/haproxy.cfg"
        config_file = "/etc/haproxy.cfg"
        pid_file = "/var/run/haproxy.pid"

        [sidecar]
        state_url = "http://localhost:7777/state.json"
    "#;

    #[test]
    fn the_originals_file_means_what_it_meant() {
        let settings = settings(SHIPPED, &[]).unwrap();
        assert_eq!(settings.http_bind.to_string(), "0.0.0.0:7778");
        assert_eq!(settings.bind_ip.to_string(), "192.168.168.168");
        let haproxy = settings.haproxy;
        assert_eq!(haproxy.mode, HaproxyMode::Classic);
        assert_eq!(
            haproxy.template_file,
            Some(PathBuf::from("templates/haproxy.cfg"))
        );
        assert_eq!(haproxy.config_file, PathBuf::from("/etc/haproxy.cfg"));
        assert_eq!(
            settings.state_url.as_deref(),
            Some("http://localhost:7777/state.json")
        );
    }

    #[test]
    fn without_a_file_haproxy_is_driven_over_its_socket() {
        let settings = settings("", &[]).unwrap();
        assert_eq!(settings.haproxy.mode, HaproxyMode::Runtime);
        assert_eq!(settings.state_url, None);
    }

    #[test]
    fn variables_stand_over_the_file() {
        let settings = settings(
            SHIPPED,
            &[
                ("HAPROXY_API_HAPROXY_API_BIND_PORT", "9000"),
                ("HAPROXYAPI_LOGGING_LEVEL", "debug"),
                ("HAPROXY_API_HAPROXY_USEHOSTNAMES", "true"),
                ("HAPROXY_API_HAPROXY_CONFIGFILE", "/tmp/other.cfg"),
                ("HAPROXY_API_SIDECAR_STATE_URL", "http://a:1/state.json"),
                ("SIDECAR_SEEDS", "of no concern"),
            ],
        )
        .unwrap();
        assert_eq!(settings.http_bind.port(), 9000);
        assert_eq!(settings.log_level, tracing::Level::DEBUG);
        assert!(settings.haproxy.use_hostnames);
        assert_eq!(
            settings.haproxy.config_file,
            PathBuf::from("/tmp/other.cfg")
        );
        assert_eq!(settings.state_url.as_deref(), Some("http://a:1/state.json"));
    }

    #[test]
    fn mistakes_are_named() {
        let error = settings("[haproxy]\ntemplat = \"x\"", &[]).unwrap_err();
        assert!(error.contains("templat"), "{error}");
        let port = ("HAPROXY_API_HAPROXY_API_BIND_PORT", "x");
        let error = settings("[haproxy]\nbind_ip = \"y\"", &[port]).unwrap_err();
        assert!(error.contains("BIND_PORT=\"x\""), "{error}");
        assert!(error.contains("SIDECAR_BIND_IP=\"y\""), "{error}");
    }

    #[test]
    fn a_named_file_has_to_be_there() {
        let given = Given {
            file: Some(PathBuf::from("/nowhere/x.toml")),
            ..Given::default()
        };
        let error = Settings::read(given, &BTreeMap::new()).unwrap_err();
        assert!(
            error.to_string().starts_with("/nowhere/x.toml: "),
            "{error}"
        );
        Settings::read(Given::default(), &BTreeMap::new()).unwrap();
    }

    #[test]
    fn the_agent_to_follow_has_a_port() {
        assert_eq!(authority("host:8000").as_deref(), Some("host:8000"));
        assert_eq!(authority("host").as_deref(), Some("host:7777"));
        assert_eq!(authority("[fd00::1]:1").as_deref(), Some("[fd00::1]:1"));
        assert_eq!(authority("a b"), None);
    }
}
