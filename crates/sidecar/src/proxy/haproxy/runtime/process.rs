//! HAProxy as a process: its start, its planned reload, its end.
//!
//! It runs as a daemon, a master with one worker, in a session of its own: it outlives the agent, and
//! the next agent finds it by its sockets and its pid file in the runtime directory. Nothing is
//! signalled that is not known to be ours by its command line.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{process::Command, time::timeout};

use super::socket::{self, SocketError};

/// Most time a start or a check may take: with thousands of ports it is a part of a second.
const START_TIMEOUT: Duration = Duration::from_secs(20);
const PID_FILE: &str = "haproxy.pid";
const LOG_FILE: &str = "haproxy.log";
const CHECK_LOG_FILE: &str = "haproxy-check.log";
const MASTER_SOCKET: &str = "master.sock";
/// Most of HAProxy's words that are repeated, in characters.
const WORDS_MAX: usize = 400;

/// Why HAProxy does not run what it should. What ran before runs on.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProcessError {
    /// The program is not there, or the directory cannot be written.
    #[error("{0} cannot be started: {1} (apt-get install haproxy, or SIDECAR_HAPROXY_BINARY)")]
    Program(String, io::Error),
    /// It ended; its words say why.
    #[error("HAProxy does not start ({0}): {1}")]
    Ended(ExitStatus, String),
    /// It neither runs nor ends.
    #[error("HAProxy's start has not ended within {START_TIMEOUT:?}")]
    Hangs,
    /// The master does not answer.
    #[error("HAProxy's master: {0}")]
    Master(#[from] SocketError),
}

/// HAProxy's program and the directory it runs in.
#[derive(Debug, Clone)]
pub(super) struct Program {
    pub(super) binary: String,
    pub(super) dir: PathBuf,
}

impl Program {
    pub(super) fn admin_socket(&self) -> PathBuf {
        self.dir.join("admin.sock")
    }

    /// Starts a daemon from the files in place, and returns when it listens on its ports. A master of
    /// ours that is still there finishes its connections and ends.
    pub(super) async fn start(&self) -> Result<(), ProcessError> {
        let mut arguments: Vec<String> = ["-W", "-D", "-S"].map(str::to_owned).into();
        arguments.push(format!("unix@{MASTER_SOCKET},mode,600"));
        arguments.extend(["-p".to_owned(), PID_FILE.to_owned()]);
        if let Some(old) = self.master() {
            arguments.extend(["-sf".to_owned(), old.as_raw_nonzero().to_string()]);
        }
        self.run(&arguments, LOG_FILE).await
    }

    /// Whether HAProxy takes the files in place.
    pub(super) async fn check(&self) -> Result<(), ProcessError> {
        self.run(&["-c".to_owned()], CHECK_LOG_FILE).await
    }

    /// Asks the master to run the files in place with the ports it has. The worker that serves now
    /// finishes its connections; if the new one fails, it serves on.
    pub(super) async fn reload(&self) -> Result<(), ProcessError> {
        self.check().await?;
        socket::ask_master(&self.dir.join(MASTER_SOCKET), "reload").await?;
        Ok(())
    }

    /// Makes HAProxy take no more connections and end with its last one. `false` when none runs.
    pub(super) fn finish(&self) -> bool {
        self.master()
            .is_some_and(|pid| kill_process(pid, Signal::USR1).is_ok())
    }

    /// The master of ours that the pid file names, if it lives.
    pub(super) fn master(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.dir.join(PID_FILE)).ok()?;
        let number = text.lines().next()?.trim().parse().ok();
        let pid = Pid::from_raw(number.filter(|it| *it > 0)?)?;
        self.is_ours(pid).then_some(pid)
    }

    /// A number may have come to somebody else meanwhile, so what runs under it has to show our
    /// directory in its command line. The dead have none.
    fn is_ours(&self, pid: Pid) -> bool {
        let path = format!("/proc/{}/cmdline", pid.as_raw_nonzero());
        let words = fs::read(path).unwrap_or_default();
        let dir = self.dir.as_os_str().as_encoded_bytes();
        let words: Vec<_> = words.split(|byte| *byte == 0).collect();
        words
            .windows(2)
            .any(|pair| pair[0] == b"-C" && pair[1] == dir)
    }

    async fn run(&self, arguments: &[String], log: &str) -> Result<(), ProcessError> {
        let named = |error| ProcessError::Program(self.binary.clone(), error);
        // A file and no pipe: the daemon keeps it open when we are gone.
        let log = self.dir.join(log);
        let output = fs::File::create(&log).map_err(named)?;
        let also = output.try_clone().map_err(named)?;
        let mut child = Command::new(&self.binary)
            .arg("-C")
            .arg(&self.dir)
            .args(["-f", "current/haproxy.cfg"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(also)
            .spawn()
            .map_err(named)?;
        let status = match timeout(START_TIMEOUT, child.wait()).await {
            Ok(ended) => ended.map_err(named)?,
            Err(_) => {
                // It has not become a daemon, so this is all there is of it.
                child.kill().await.map_err(named)?;
                return Err(ProcessError::Hangs);
            }
        };
        if status.success() {
            return Ok(());
        }
        Err(ProcessError::Ended(status, complaints(&log)))
    }
}

/// What HAProxy calls an alert, without its time stamps and numbers.
fn complaints(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let alerts = text.lines().filter(|line| line.starts_with("[ALERT]"));
    let words: Vec<_> = alerts
        .map(|line| line.split_once(" : ").map_or(line, |(_, words)| words))
        .collect();
    words.join("; ").chars().take(WORDS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(dir: &Path, binary: &str) -> Program {
        Program {
            binary: binary.to_owned(),
            dir: dir.to_owned(),
        }
    }

    #[tokio::test]
    async fn a_missing_program_is_named_with_what_installs_it() {
        let dir = tempfile::tempdir().unwrap();
        let error = program(dir.path(), "no-such-haproxy")
            .check()
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("no-such-haproxy cannot be started: "),
            "{text}"
        );
        assert!(text.contains("apt-get install haproxy"), "{text}");
    }

    #[tokio::test]
    async fn haproxys_words_are_repeated() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("current")).unwrap();
        fs::write(
            dir.path().join("current/haproxy.cfg"),
            "global\n    nonsense here\n",
        )
        .unwrap();
        let error = program(dir.path(), "haproxy").check().await.unwrap_err();
        assert!(
            error.to_string().contains("unknown keyword 'nonsense'"),
            "{error}"
        );
    }

    #[test]
    fn another_program_under_the_number_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let program = program(dir.path(), "haproxy");
        assert_eq!(program.master(), None);
        let own = std::process::id().to_string();
        for text in ["", "0", "-1", "x", "99999999", own.as_str()] {
            fs::write(dir.path().join(PID_FILE), text).unwrap();
            assert_eq!(program.master(), None, "{text}");
            assert!(!program.finish());
        }
    }
}
