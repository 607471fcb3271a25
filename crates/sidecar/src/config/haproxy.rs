//! Settings of the HAProxy data plane: which of its two modes, its files, commands and pools.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use super::{Origin, ProxyKind, Reader, parse_proxy, values::parse_list};

/// Variables that mean nothing to any other data plane: who sets one has a HAProxy to drive.
const TELLING: [&str; 5] = [
    "HAPROXY_TEMPLATE_FILE",
    "HAPROXY_CONFIG_FILE",
    "HAPROXY_PID_FILE",
    "HAPROXY_RELOAD_COMMAND",
    "HAPROXY_VERIFY_COMMAND",
];

/// How HAProxy is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HaproxyMode {
    /// A configuration file made from a template, and a reload for every change of it.
    Classic,
    /// A fixed configuration, and changes over the admin socket.
    Runtime,
}

/// How many pools of servers runtime mode keeps ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HaproxyPools {
    /// For services in mode http or ws.
    pub http: u16,
    /// For services in mode tcp.
    pub tcp: u16,
}

/// Everything the HAProxy data plane needs to know. Fields carry the meaning of the variable they
/// are named after; see [`super::variables::VARIABLES`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HaproxyConfig {
    /// `SIDECAR_HAPROXY_MODE`, or what the other settings say.
    pub mode: HaproxyMode,
    /// `HAPROXY_TEMPLATE_FILE`; `None` means the built-in template.
    pub template_file: Option<PathBuf>,
    /// `HAPROXY_CONFIG_FILE`.
    pub config_file: PathBuf,
    /// `HAPROXY_PID_FILE`.
    pub pid_file: PathBuf,
    /// `HAPROXY_RELOAD_COMMAND`; `None` means our own.
    pub reload_command: Option<String>,
    /// `HAPROXY_VERIFY_COMMAND`; `None` means our own.
    pub verify_command: Option<String>,
    /// `HAPROXY_USER`; may be empty.
    pub user: String,
    /// `HAPROXY_GROUP`; may be empty.
    pub group: String,
    /// `HAPROXY_USE_HOSTNAMES`.
    pub use_hostnames: bool,
    /// `SIDECAR_HAPROXY_BINARY`.
    pub binary: String,
    /// `SIDECAR_HAPROXY_HOLD_DOWN`.
    pub hold_down: Duration,
    /// `SIDECAR_HAPROXY_DIR`.
    pub dir: PathBuf,
    /// `SIDECAR_HAPROXY_PORTS`, in the order given.
    pub ports: Vec<RangeInclusive<u16>>,
    /// `SIDECAR_HAPROXY_POOLS`.
    pub pools: HaproxyPools,
}

impl HaproxyPools {
    /// Most pools of one kind: each costs HAProxy memory from its start on.
    pub const MAX: u16 = 8192;
}

impl HaproxyConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let chosen =
            reader.parsed(
                "SIDECAR_HAPROXY_MODE",
                "auto, classic or runtime",
                |text| match text {
                    "auto" => Some(None),
                    "classic" => Some(Some(HaproxyMode::Classic)),
                    "runtime" => Some(Some(HaproxyMode::Runtime)),
                    _ => None,
                },
            );
        let given = |text: String| (!text.is_empty()).then_some(text);
        let template_file = given(reader.text("HAPROXY_TEMPLATE_FILE"));
        let reload_command = given(reader.text("HAPROXY_RELOAD_COMMAND"));
        let verify_command = given(reader.text("HAPROXY_VERIFY_COMMAND"));
        let has_own_ways =
            template_file.is_some() || reload_command.is_some() || verify_command.is_some();
        Self {
            mode: chosen.unwrap_or(if has_own_ways {
                HaproxyMode::Classic
            } else {
                HaproxyMode::Runtime
            }),
            template_file: template_file.map(PathBuf::from),
            config_file: reader.path("HAPROXY_CONFIG_FILE"),
            pid_file: reader.path("HAPROXY_PID_FILE"),
            reload_command,
            verify_command,
            user: reader.word("HAPROXY_USER"),
            group: reader.word("HAPROXY_GROUP"),
            use_hostnames: reader.switch("HAPROXY_USE_HOSTNAMES"),
            binary: reader.word("SIDECAR_HAPROXY_BINARY"),
            hold_down: reader.duration("SIDECAR_HAPROXY_HOLD_DOWN", Duration::ZERO),
            dir: reader.path("SIDECAR_HAPROXY_DIR"),
            ports: reader.parsed(
                "SIDECAR_HAPROXY_PORTS",
                "ports or ranges of ports such as 8000-11999,13000",
                parse_ranges,
            ),
            pools: reader.parsed(
                "SIDECAR_HAPROXY_POOLS",
                "two numbers from 0 to 8192, HTTP,TCP, not both 0",
                parse_pools,
            ),
        }
    }

    /// The admin socket of classic mode: beside the pid file, where the original has it.
    pub fn classic_socket(&self) -> PathBuf {
        self.pid_file.with_file_name("haproxy_stats.sock")
    }
}

impl Reader<'_> {
    /// The data plane. Who switched the original's HAProxy off runs another proxy on the same ports;
    /// who told it about a HAProxy wants that one to be driven.
    pub(super) fn proxy(&mut self) -> ProxyKind {
        let kind = self.parsed(
            "SIDECAR_PROXY",
            "builtin, kernel, haproxy, envoy or none",
            parse_proxy,
        );
        let index = self.settings.len() - 1;
        let is_disabled = self.switch("HAPROXY_DISABLE");
        if self.settings[index].origin != Origin::Default {
            return kind;
        }
        let telling = TELLING
            .into_iter()
            .find(|name| self.environment.get(*name).is_some_and(|it| !it.is_empty()));
        let envoy = self.told_of_envoy();
        let (kind, word, because) = match telling {
            _ if is_disabled && envoy.is_some() => {
                (ProxyKind::Envoy, "envoy", envoy.unwrap_or_default())
            }
            _ if is_disabled => (ProxyKind::None, "none", "HAPROXY_DISABLE"),
            Some(name) => (ProxyKind::Haproxy, "haproxy", name),
            None => return kind,
        };
        word.clone_into(&mut self.settings[index].value);
        self.settings[index].origin = Origin::Variable(because.to_owned());
        kind
    }

    fn path(&mut self, name: &'static str) -> PathBuf {
        let expected = "the path of a file or directory";
        PathBuf::from(self.parsed(name, expected, |text| {
            plain(text).filter(|it| !it.is_empty())
        }))
    }

    /// What stands in HAProxy's configuration or in a command: one word.
    fn word(&mut self, name: &'static str) -> String {
        let expected = "text without blanks and control characters";
        self.parsed(name, expected, |text| {
            plain(text).filter(|it| !it.contains(char::is_whitespace))
        })
    }
}

fn plain(text: &str) -> Option<String> {
    (!text.contains(char::is_control)).then(|| text.to_owned())
}

fn parse_ranges(text: &str) -> Option<Vec<RangeInclusive<u16>>> {
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
    let ranges: Vec<_> = parse_list(text)
        .iter()
        .map(|item| {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(first..=last)
        })
        .collect::<Option<_>>()?;
    (!ranges.is_empty()).then_some(ranges)
}

fn parse_pools(text: &str) -> Option<HaproxyPools> {
    let numbers: Vec<u16> = parse_list(text)
        .iter()
        .map(|item| item.parse().ok().filter(|it| *it <= HaproxyPools::MAX))
        .collect::<Option<_>>()?;
    let [http, tcp] = numbers.try_into().ok()?;
    (http > 0 || tcp > 0).then_some(HaproxyPools { http, tcp })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::resolve;

    #[test]
    fn defaults_are_the_originals_paths_and_runtime_mode() {
        let config = resolve(&[("SIDECAR_PROXY", "haproxy")]).unwrap();
        assert_eq!(config.proxy, ProxyKind::Haproxy);
        let haproxy = config.haproxy;
        assert_eq!(haproxy.mode, HaproxyMode::Runtime);
        assert_eq!(haproxy.config_file, PathBuf::from("/etc/haproxy.cfg"));
        assert_eq!(haproxy.pid_file, PathBuf::from("/var/run/haproxy.pid"));
        assert_eq!(
            haproxy.classic_socket(),
            PathBuf::from("/var/run/haproxy_stats.sock")
        );
        assert_eq!(
            (haproxy.user.as_str(), haproxy.group.as_str()),
            ("haproxy", "")
        );
        assert_eq!(haproxy.ports, [10000..=10999]);
        assert_eq!(
            haproxy.pools,
            HaproxyPools {
                http: 512,
                tcp: 512
            }
        );
    }

    #[test]
    fn a_template_or_a_command_means_classic_mode() {
        for name in [
            "HAPROXY_TEMPLATE_FILE",
            "HAPROXY_RELOAD_COMMAND",
            "HAPROXY_VERIFY_COMMAND",
        ] {
            let config = resolve(&[(name, "x"), ("SIDECAR_PROXY", "haproxy")]).unwrap();
            assert_eq!(config.haproxy.mode, HaproxyMode::Classic, "{name}");
        }
        let mode = |word| resolve(&[("SIDECAR_HAPROXY_MODE", word)]).map(|it| it.haproxy.mode);
        assert_eq!(mode("classic").unwrap(), HaproxyMode::Classic);
        assert!(mode("fast").is_err());
    }

    #[test]
    fn an_environment_of_the_original_that_drives_haproxy_goes_on_doing_so() {
        let template = ("HAPROXY_TEMPLATE_FILE", "/etc/haproxy.tmpl");
        let config = resolve(&[template]).unwrap();
        assert_eq!(config.proxy, ProxyKind::Haproxy);
        assert!(
            config
                .lines()
                .iter()
                .any(|it| it == "  * SIDECAR_PROXY: haproxy (environment, HAPROXY_TEMPLATE_FILE)")
        );
        let kind = |more| resolve(&[template, more]).unwrap().proxy;
        assert_eq!(kind(("HAPROXY_DISABLE", "true")), ProxyKind::None);
        assert_eq!(kind(("SIDECAR_PROXY", "builtin")), ProxyKind::Builtin);
    }

    #[test]
    fn ranges_and_pools_are_checked() {
        let ports = |text| resolve(&[("SIDECAR_HAPROXY_PORTS", text)]).map(|it| it.haproxy.ports);
        assert_eq!(ports("80, 8000-8010").unwrap(), [80..=80, 8000..=8010]);
        for text in ["", "0", "9-8", "1-", "65536", "x"] {
            assert!(ports(text).is_err(), "{text}");
        }
        let pools = |text| resolve(&[("SIDECAR_HAPROXY_POOLS", text)]).map(|it| it.haproxy.pools);
        assert_eq!(pools("8,0").unwrap(), HaproxyPools { http: 8, tcp: 0 });
        for text in ["", "0,0", "1", "1,2,3", "9000,1"] {
            assert!(pools(text).is_err(), "{text}");
        }
        assert!(resolve(&[("HAPROXY_USER", "a\n\tb")]).is_err());
        assert!(resolve(&[("HAPROXY_CONFIG_FILE", "")]).is_err());
    }
}
