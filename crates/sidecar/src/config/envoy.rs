//! Settings of xDS for Envoy.

use std::{net::IpAddr, path::PathBuf};

use super::{Reader, values::parse_bool};

/// Variables that say that there is an Envoy: who sets one runs it on this host.
const TELLING: [&str; 4] = [
    "ENVOY_USE_GRPC_API",
    "ENVOY_GRPC_PORT",
    "ENVOY_BIND_IP",
    "ENVOY_USE_HOSTNAMES",
];

/// What Envoy is told, and where. Fields carry the meaning of the variable they are named after; see
/// [`super::variables::VARIABLES`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvoyConfig {
    /// `ENVOY_USE_GRPC_API`.
    pub use_grpc_api: bool,
    /// `ENVOY_GRPC_PORT`.
    pub grpc_port: u16,
    /// `ENVOY_BIND_IP`; `None` is that of all planes.
    pub bind_ip: Option<IpAddr>,
    /// `ENVOY_USE_HOSTNAMES`.
    pub use_hostnames: bool,
    /// `SIDECAR_ENVOY_SETTINGS_FILE`.
    pub settings_file: Option<PathBuf>,
}

impl EnvoyConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let port = reader.number("ENVOY_GRPC_PORT", 1..=65535);
        Self {
            use_grpc_api: reader.switch("ENVOY_USE_GRPC_API"),
            grpc_port: u16::try_from(port).unwrap_or_default(),
            bind_ip: reader.optional_ip("ENVOY_BIND_IP"),
            use_hostnames: reader.switch("ENVOY_USE_HOSTNAMES"),
            settings_file: match reader.text("SIDECAR_ENVOY_SETTINGS_FILE") {
                text if text.is_empty() => None,
                text => Some(text.into()),
            },
        }
    }
}

impl Reader<'_> {
    /// The variable by which the original's user has said that there is an Envoy.
    pub(super) fn told_of_envoy(&self) -> Option<&'static str> {
        let given = |name: &str| self.environment.get(name).filter(|it| !it.is_empty());
        if given("ENVOY_USE_GRPC_API").and_then(|it| parse_bool(it)) == Some(false) {
            return None;
        }
        TELLING.into_iter().find(|name| given(name).is_some())
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{ProxyKind, tests::resolve};

    #[test]
    fn defaults_are_the_originals() {
        let envoy = resolve(&[]).unwrap().envoy;
        assert!(envoy.use_grpc_api && !envoy.use_hostnames);
        assert_eq!((envoy.grpc_port, envoy.bind_ip), (7776, None));
        assert_eq!(envoy.settings_file, None);
    }

    #[test]
    fn an_environment_of_the_original_with_envoy_instead_of_haproxy_goes_on_so() {
        let disabled = ("HAPROXY_DISABLE", "true");
        let kind = |more: &[(&str, &str)]| {
            let all: Vec<_> = [disabled].iter().chain(more).copied().collect();
            resolve(&all).unwrap().proxy
        };
        assert_eq!(kind(&[]), ProxyKind::None);
        assert_eq!(kind(&[("ENVOY_BIND_IP", "10.0.0.1")]), ProxyKind::Envoy);
        assert_eq!(kind(&[("ENVOY_USE_GRPC_API", "false")]), ProxyKind::None);
        assert_eq!(
            kind(&[("ENVOY_GRPC_PORT", "7000"), ("SIDECAR_PROXY", "none")]),
            ProxyKind::None
        );
        let config = resolve(&[
            ("HAPROXY_BIND_IP", "10.0.0.1"),
            ("ENVOY_BIND_IP", "10.0.0.2"),
        ]);
        let config = config.unwrap();
        assert_eq!(config.bind_ip.to_string(), "10.0.0.1");
        assert_eq!(config.envoy.bind_ip, "10.0.0.2".parse().ok());
        for (name, value) in [("ENVOY_GRPC_PORT", "0"), ("ENVOY_BIND_IP", "here")] {
            assert!(resolve(&[(name, value)]).is_err(), "{name}={value}");
        }
    }
}
