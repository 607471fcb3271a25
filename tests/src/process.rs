//! A program that runs on a host and does not outlive the test.

use std::{
    fs::{self, File},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{host::Host, tools, wait::eventually};

/// Gives the new program its host name, then becomes it.
const SET_HOSTNAME: &str = r#"echo "$1" > /proc/sys/kernel/hostname && shift && exec "$@""#;

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// A running program; killed when dropped, and by the system when the test dies.
///
/// The system ties it to the thread that started it: keep that thread as long as the program.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    title: String,
}

impl Process {
    /// Starts `command` on `host`, with nothing but `env` and a search path in its environment, in
    /// `dir`, its output appended to `dir/<title>.log`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub(crate) fn start(
        host: &Host,
        dir: &Path,
        title: &str,
        wrap: &[&str],
        command: &[&str],
        env: &[(String, String)],
    ) -> Self {
        for tool in ["unshare", "setpriv"] {
            tools::require(tool);
        }
        let log = dir.join(format!("{title}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let also = file
            .try_clone()
            .expect("a file descriptor can be duplicated");
        let entrance = format!("--net=/run/netns/{}", host.namespace);
        let child = Command::new(tools::require("nsenter"))
            .args([
                entrance.as_str(),
                "setpriv",
                "--pdeathsig",
                "KILL",
                "unshare",
                "--uts",
            ])
            .args(wrap)
            .args(["sh", "-c", SET_HOSTNAME, "sh", &host.name])
            .args(command)
            .env_clear()
            .env("PATH", tools::search_path())
            .env("HOME", dir)
            .envs(env.iter().map(|(name, value)| (name, value)))
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(also)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {title}: {error}"));
        Self {
            child,
            log,
            title: title.to_owned(),
        }
    }

    /// Its process id. All that wraps a program on its way here becomes it, one after the other.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The processor time it has used so far, its own and the system's for it.
    ///
    /// # Panics
    /// When it has ended.
    pub fn processor_time(&self) -> Duration {
        let path = format!("/proc/{}/stat", self.pid());
        let stat = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        // Both stand 11 words behind the state, which follows the command in brackets.
        let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let ticks: u64 = rest
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|word| word.parse::<u64>().ok())
            .sum();
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }

    /// Everything it wrote, over all its lives with this title.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// How often `word` stands in the log.
    pub fn mentions(&self, word: &str) -> usize {
        self.log()
            .lines()
            .filter(|line| line.contains(word))
            .count()
    }

    /// How it ended, if it has.
    pub fn exit(&mut self) -> Option<Exit> {
        let status = self
            .child
            .try_wait()
            .expect("a child can be asked for its state")?;
        Some(match status.code() {
            Some(code) => Exit::Code(code),
            None => Exit::Signal(status.signal().unwrap_or_default()),
        })
    }

    /// Waits for its end and returns how and after how long it came.
    ///
    /// # Panics
    /// When it runs on.
    pub fn ends(&mut self, within: Duration) -> (Exit, Duration) {
        let start = Instant::now();
        let what = format!("{} ends", self.title);
        let exit = eventually(&what, within, || {
            self.exit().ok_or_else(|| "it runs".to_owned())
        });
        (exit, start.elapsed())
    }

    /// # Panics
    /// When it has ended already.
    pub fn signal(&mut self, signal: Signal) {
        assert_eq!(
            self.exit(),
            None,
            "{} ended before it was sent {signal:?}",
            self.title
        );
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap_or_else(|error| panic!("kill {}: {error}", self.title));
    }

    /// Ends it the hard way, as a power cut would.
    pub fn kill(&mut self) {
        // An error says that it ended by itself; then there is only its state to fetch.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
