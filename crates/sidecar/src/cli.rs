//! The command line: the original's flags, and subcommands.

use std::{collections::BTreeMap, ffi::OsString, net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::{
    client::{self, EXIT_CODES_HELP},
    config::{Config, ConfigError, Flags, variables},
    simulate,
};

/// Service discovery for all Docker environments: one small binary per host, no central server.
#[derive(Debug, Parser)]
#[command(name = "sidecar", version, after_long_help = long_help())]
pub struct Cli {
    /// What to do; without a subcommand, be the agent of this host.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The agent's flags.
    #[command(flatten)]
    pub agent: AgentFlags,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// What an operator asks a running agent.
    #[command(flatten)]
    Client(client::Command),
    /// Print the effective configuration with the source of each value, and exit.
    Config {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print a new gossip key for SIDECAR_GOSSIP_KEY or SIDECAR_GOSSIP_KEY_FILE, and exit.
    Keygen {
        /// Length of the key in bytes: 16, 24 or 32 (AES-128, AES-192, AES-256).
        #[arg(long, default_value_t = 32, value_parser = parse_key_bytes)]
        bytes: usize,
    },
    /// Look at static files without an agent.
    Static {
        /// What to do with one.
        #[command(subcommand)]
        action: StaticAction,
    },
    /// Drive a HAProxy for an agent elsewhere: push its changes to `POST /update`, or follow it.
    HaproxyApi {
        /// TOML file; haproxy-api.toml if it is there.
        #[arg(short = 'f', long, value_name = "FILE")]
        config_file: Option<PathBuf>,
        /// Agent whose API is followed.
        #[arg(short = 'F', long, value_name = "HOST[:PORT]")]
        follow: Option<String>,
        /// Service that HAProxy serves, of all; may be repeated.
        #[arg(long, value_name = "NAME")]
        subscribe: Vec<String>,
    },
    /// Print a bootstrap file for an Envoy that this host's agent feeds, as JSON, and exit.
    ///
    /// `sidecar envoy-bootstrap > envoy.json && envoy -c envoy.json`
    EnvoyBootstrap {
        /// Ask for whole states instead of changes.
        #[arg(long)]
        sotw: bool,
        /// Serve Envoy's administration page there, without any protection.
        #[arg(long, value_name = "IP:PORT")]
        admin: Option<SocketAddr>,
    },
    /// Run three agents and a few sample services on this machine and show what happens.
    Demo,
    /// Run the shipped protocol and catalog code on many hosts in virtual time, and tell how fast
    /// changes spread and what that costs.
    Simulate(simulate::options::Options),
    /// The process that carries the bytes of the built-in proxy; agents start it.
    #[cfg(target_os = "linux")]
    #[command(hide = true)]
    ProxyWorker {
        /// What it is told, as JSON.
        #[arg(long)]
        settings: String,
        /// Take the ports of the worker that standard input leads to.
        #[arg(long)]
        succeed: bool,
    },
    /// A tiny web server whose health can be switched, for trying things out.
    #[command(hide = true)]
    SampleService {
        /// Address to listen on.
        #[arg(long)]
        listen: SocketAddr,
        /// What `GET /` answers.
        #[arg(long)]
        name: String,
    },
}

/// What can be done with a static file.
#[derive(Debug, Subcommand)]
pub enum StaticAction {
    /// Show what an agent here would announce and route, or the line and column of the first problem.
    ///
    /// The file is read, and routes are decided, by the agent's own code under this environment. Exits
    /// with 1 when the file is not usable.
    Check {
        /// The file; that of the configuration (STATIC_CONFIG_FILE) when left out.
        file: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Flags that override variables. They do not read variables themselves: `config` does, and knows
/// where each value came from.
#[derive(Debug, Args)]
pub struct AgentFlags {
    /// Address other hosts reach this one at.
    #[arg(short = 'a', long, value_name = "IP")]
    advertise_ip: Option<String>,
    /// Host to join; may be repeated.
    #[arg(short = 'c', long, value_name = "HOST[:PORT]")]
    cluster_ip: Vec<String>,
    /// Name of the cluster.
    #[arg(short = 'n', long, value_name = "NAME")]
    cluster_name: Option<String>,
    /// Source of services (docker, static); may be repeated.
    #[arg(short = 'd', long, value_name = "SOURCE")]
    discover: Vec<String>,
    /// Well-known address services are reached at.
    #[arg(long, value_name = "IP")]
    bind_ip: Option<String>,
    /// debug, info, warn or error.
    #[arg(short = 'l', long, value_name = "LEVEL")]
    logging_level: Option<String>,
    /// Accepted for old command lines; has no effect.
    #[arg(short = 'p', long)]
    cpuprofile: bool,
    /// Stop when the parent process ends (Linux); the demo starts its agents with it.
    #[arg(long, hide = true, global = true)]
    pub with_parent: bool,
}

impl AgentFlags {
    /// The flags given, by name.
    pub fn given(&self) -> Flags {
        let mut flags = Flags::new();
        let mut put = |name, values: Vec<String>| {
            // An empty flag leaves the variable in force, as in the original.
            if values.iter().any(|value| !value.is_empty()) {
                flags.insert(name, values);
            }
        };
        put("advertise-ip", self.advertise_ip.iter().cloned().collect());
        put("cluster-ip", self.cluster_ip.clone());
        put("cluster-name", self.cluster_name.iter().cloned().collect());
        put("discover", self.discover.clone());
        put("bind-ip", self.bind_ip.iter().cloned().collect());
        put(
            "logging-level",
            self.logging_level.iter().cloned().collect(),
        );
        flags
    }

    /// The configuration these flags and the process's environment make.
    ///
    /// # Errors
    /// All problems at once.
    pub fn resolve(&self) -> Result<Config, Vec<ConfigError>> {
        Config::resolve(&self.given(), &environment(), &hostname())
    }
}

fn long_help() -> String {
    format!("{EXIT_CODES_HELP}\n\n{}", variables::help_text())
}

/// The process's variables that are text.
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Exit code for a command line that clap does not take, or that asks for help. The agent and its old
/// subcommands end with 1, as the original does; the operator's commands with [`client::Exit::Usage`].
pub fn exit_code(error: &clap::Error, words: impl Iterator<Item = OsString>) -> i32 {
    if !error.use_stderr() {
        return 0;
    }
    let is_client = |word: &OsString| client::Command::has_subcommand(&word.to_string_lossy());
    // Flags of the agent may stand before a command.
    let mut words = words;
    if words.any(|word| is_client(&word)) {
        i32::from(client::Exit::Usage as u8)
    } else {
        1
    }
}

fn parse_key_bytes(text: &str) -> Result<usize, String> {
    match text {
        "16" => Ok(16),
        "24" => Ok(24),
        "32" => Ok(32),
        _ => Err("expected 16, 24 or 32".to_owned()),
    }
}

fn hostname() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_help_names_every_variable() {
        Cli::command().debug_assert();
        let help = Cli::command().render_long_help().to_string();
        for variable in variables::VARIABLES {
            assert!(help.contains(variable.name), "{}", variable.name);
            if let Some(flag) = variable.flag {
                assert!(help.contains(&format!("--{flag}")), "{flag}");
            }
        }
    }

    #[test]
    fn keys_are_generated_in_three_lengths() {
        for (line, expected) in [
            ("sidecar keygen", Some(32)),
            ("sidecar keygen --bytes 16", Some(16)),
            ("sidecar keygen --bytes 24", Some(24)),
            ("sidecar keygen --bytes 20", None),
        ] {
            let command = Cli::try_parse_from(line.split(' ')).ok();
            let bytes = command.and_then(|cli| match cli.command {
                Some(Command::Keygen { bytes }) => Some(bytes),
                _ => None,
            });
            assert_eq!(bytes, expected, "{line}");
        }
    }

    #[test]
    fn the_originals_flags_are_understood() {
        let line = "sidecar -a 10.0.0.1 -c a -c b:7000 -n prod -d docker -d static -l debug -p";
        let cli = Cli::parse_from(line.split(' '));
        let flags = cli.agent.given();
        assert_eq!(flags["cluster-ip"], ["a", "b:7000"]);
        assert_eq!(flags["discover"], ["docker", "static"]);
        assert!(cli.agent.cpuprofile);
    }
}
