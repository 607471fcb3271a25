//! The HAProxy processes of a pid file: which of its numbers are HAProxy's still.
//!
//! A pid file outlives its process, and numbers are given again: nobody is signalled, or taken for a
//! running HAProxy, who does not carry HAProxy's name and one of our files on his command line. That
//! can be read on Linux alone; elsewhere nothing is known, so nobody is signalled.

use std::path::Path;

use rustix::process::{Pid, WaitOptions, waitpid};

/// Most bytes of a pid file that are read; master-worker mode writes a line per process.
const PID_FILE_BYTES_MAX: usize = 64 * 1024;

/// What a pid file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Liveness {
    /// These processes run.
    Running(Vec<Pid>),
    /// None of those it names.
    Dead,
    /// There is no pid file, or this system does not tell.
    Unknown,
}

impl Liveness {
    /// The processes that run.
    pub(crate) fn pids(&self) -> &[Pid] {
        match self {
            Self::Running(pids) => pids,
            Self::Dead | Self::Unknown => &[],
        }
    }

    /// For people; `None` when it cannot be known.
    pub(crate) fn is_running(&self) -> Option<bool> {
        match self {
            Self::Running(_) => Some(true),
            Self::Dead => Some(false),
            Self::Unknown => None,
        }
    }
}

/// Looks at the processes of a pid file. `files` are those that a HAProxy of ours has one of on its
/// command line.
pub(crate) fn look(pid_file: &Path, binary: &str, files: &[&Path]) -> Liveness {
    let Ok(text) = std::fs::read(pid_file) else {
        return Liveness::Unknown;
    };
    if cfg!(not(target_os = "linux")) {
        return Liveness::Unknown;
    }
    let text = String::from_utf8_lossy(&text[..text.len().min(PID_FILE_BYTES_MAX)]).into_owned();
    let numbers = text.split_whitespace().filter_map(|it| it.parse().ok());
    let numbers = numbers.filter(|number: &i32| *number > 0);
    let pids: Vec<Pid> = numbers
        .filter_map(Pid::from_raw)
        .filter(|pid| is_ours(*pid, binary, files))
        .collect();
    if pids.is_empty() {
        Liveness::Dead
    } else {
        Liveness::Running(pids)
    }
}

fn is_ours(pid: Pid, binary: &str, files: &[&Path]) -> bool {
    let proc = Path::new("/proc").join(pid.to_string());
    let Ok(stat) = std::fs::read_to_string(proc.join("stat")) else {
        return false;
    };
    // `pid (name) state ...`; a name may hold anything.
    let Some((name, state)) = stat
        .split_once(" (")
        .and_then(|(_, rest)| rest.rsplit_once(") "))
    else {
        return false;
    };
    if state.starts_with(['Z', 'X']) {
        // The first process of a container inherits every HAProxy; others are refused here.
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        return false;
    }
    let binary = Path::new(binary).file_name().unwrap_or_default();
    // The kernel keeps 15 bytes of a name.
    let binary = binary.as_encoded_bytes();
    if name.as_bytes() != &binary[..binary.len().min(15)] {
        return false;
    }
    let arguments = std::fs::read(proc.join("cmdline")).unwrap_or_default();
    let mut arguments = arguments.split(|byte| *byte == 0);
    arguments.any(|it| {
        files
            .iter()
            .any(|file| file.as_os_str().as_encoded_bytes() == it)
    })
}

/// Takes note of the end of processes that have finished, where they are ours to wait for, and keeps
/// the others.
pub(crate) fn reap(former: &mut Vec<Pid>) {
    former.retain(|pid| matches!(waitpid(Some(*pid), WaitOptions::NOHANG), Ok(None)));
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(
        clippy::unwrap_used,
        reason = "outside of test functions clippy does not see that this is a test"
    )]

    use std::{
        io::{BufRead as _, BufReader},
        os::unix::fs::PermissionsExt as _,
        process::{Child, Command, Stdio},
    };

    use super::*;

    /// A program with HAProxy's name, and the processes started from it.
    struct Stage {
        dir: tempfile::TempDir,
        children: Vec<Child>,
    }

    impl Stage {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let script = dir.path().join("haproxy");
            std::fs::write(&script, "#!/bin/sh\necho up\nread word\n").unwrap();
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(script, mode).unwrap();
            let children = Vec::new();
            Self { dir, children }
        }

        fn start(&mut self, program: &str, arguments: &[&str]) -> u32 {
            let mut child = Command::new(program)
                .args(arguments)
                .current_dir(&self.dir)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = String::new();
            let out = child.stdout.take().unwrap();
            BufReader::new(out).read_line(&mut line).unwrap();
            let id = child.id();
            self.children.push(child);
            id
        }

        fn look(&self, pids: &str) -> Liveness {
            let file = self.dir.path().join("pid");
            std::fs::write(&file, pids).unwrap();
            look(&file, "haproxy", &[Path::new("/etc/a.cfg")])
        }
    }

    impl Drop for Stage {
        fn drop(&mut self) {
            for child in &mut self.children {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }

    #[test]
    fn only_haproxy_with_our_file_counts_as_running() {
        let mut stage = Stage::new();
        let program = stage.dir.path().join("haproxy");
        let program = program.to_str().unwrap().to_owned();
        let ours = stage.start(&program, &["-f", "/etc/a.cfg"]);
        let other_file = stage.start(&program, &["-f", "/etc/b.cfg"]);
        let foreign = stage.start("sh", &["-c", "echo up; read word", "/etc/a.cfg"]);
        let all = format!("{foreign}\n{other_file} {ours}\n0 -1 x 99999999999\n");
        let ours = Pid::from_raw(i32::try_from(ours).unwrap()).unwrap();
        assert_eq!(stage.look(&all), Liveness::Running(vec![ours]));
        assert_eq!(stage.look(&format!("{foreign}")), Liveness::Dead);
        assert_eq!(stage.look(""), Liveness::Dead);
        let nowhere = look(Path::new("/nonexistent/pid"), "haproxy", &[]);
        assert_eq!(nowhere, Liveness::Unknown);
    }

    #[test]
    fn a_zombie_does_not_run() {
        let mut stage = Stage::new();
        let program = stage.dir.path().join("haproxy");
        let program = program.to_str().unwrap().to_owned();
        let id = stage.start(&program, &["/etc/a.cfg"]);
        let child = stage.children.last_mut().unwrap();
        let options =
            rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        child.kill().unwrap();
        let pid = Pid::from_child(child);
        rustix::process::waitid(rustix::process::WaitId::Pid(pid), options).unwrap();
        assert_eq!(stage.look(&id.to_string()), Liveness::Dead);
    }
}
