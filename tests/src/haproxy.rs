//! The HAProxy that an agent drives: where its files lie, what can be seen of it, and its end.
//!
//! It is a daemon and belongs to nobody, so it is looked for by the files on its command line.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::process::{Pid, Signal, kill_process};

use serde_json::{Value, json};

use crate::{Agent, AgentBuilder, Lab, tools};

/// The files of one HAProxy in a directory of the lab. Whatever runs with them is killed when this is
/// dropped.
#[derive(Debug)]
pub struct Haproxy {
    dir: PathBuf,
}

impl Haproxy {
    /// Files in a directory of their own.
    ///
    /// # Panics
    /// When HAProxy is not installed.
    pub fn new(lab: &Lab, name: &str) -> Self {
        tools::require("haproxy");
        let dir = lab.dir().join(name);
        fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        Self { dir }
    }

    /// Where its files lie.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.join("haproxy.cfg")
    }

    /// Its pid file.
    pub fn pid_file(&self) -> PathBuf {
        self.dir.join("haproxy.pid")
    }

    /// Makes an agent drive it by its configuration file.
    pub fn driven_by<'lab>(&self, agent: AgentBuilder<'lab>) -> AgentBuilder<'lab> {
        agent
            .env("SIDECAR_PROXY", "haproxy")
            .env("SIDECAR_HAPROXY_MODE", "classic")
            .env("HAPROXY_CONFIG_FILE", &self.config().display().to_string())
            .env("HAPROXY_PID_FILE", &self.pid_file().display().to_string())
    }

    /// The text of the configuration file; empty when there is none.
    pub fn text(&self) -> String {
        fs::read_to_string(self.config()).unwrap_or_default()
    }

    /// The processes of the pid file, running or not.
    pub fn pids(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.pid_file()).unwrap_or_default();
        text.split_whitespace()
            .filter_map(|it| it.parse().ok())
            .collect()
    }

    /// All processes that run with these files.
    pub fn processes(&self) -> Vec<i32> {
        let dir = self.dir.display().to_string();
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = entries.filter_map(|it| it.file_name().to_str()?.parse().ok());
        numbers
            .filter(|number: &i32| {
                let read = |name: &str| fs::read(format!("/proc/{number}/{name}"));
                let name = read("comm").unwrap_or_default();
                let words = read("cmdline").unwrap_or_default();
                name.starts_with(b"haproxy") && String::from_utf8_lossy(&words).contains(&dir)
            })
            .collect()
    }

    /// Kills them all.
    pub fn kill(&self) {
        for pid in self.processes().into_iter().filter_map(Pid::from_raw) {
            // Losing the race to its own end is as good.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An entry of a static file that is alive from its start.
pub fn haproxy_target(name: &str, mode: &str, port: u16, service_port: u16) -> Value {
    json!({
        "Service": {
            "Name": name, "ProxyMode": mode,
            "Ports": [{ "Type": "tcp", "Port": port, "ServicePort": service_port }],
        },
        "Check": { "Type": "AlwaysSuccessful" },
    })
}

/// What an agent says of the HAProxy it drives.
///
/// # Errors
/// When it does not answer.
pub fn haproxy_status(agent: &Agent) -> Result<Value, String> {
    let answer = agent.api("/api/v2/local");
    let answer = answer.map_err(|error| error.to_string())?;
    let local: Value = serde_json::from_str(&answer.body).map_err(|error| error.to_string())?;
    Ok(local["haproxy"].clone())
}
