//! A real Docker engine on one host of the lab, with containers that serve a page.
//!
//! It has its own data, sockets, mounts and process tree: it runs in a PID namespace, so that killing
//! its first process ends dockerd, containerd and every container with it, whatever state they are
//! in. That first process starts dockerd again when it ends, as a service manager does.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::Command,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{Lab, host::Host, process::Process, tools, wait::eventually};

/// The image [`Engine::start`] makes: `httpd` on port 80 that serves `/www`.
pub const IMAGE: &str = "lab/httpd:1.0";

/// An engine has to load no image and start no container.
const START: Duration = Duration::from_secs(30);
/// An engine that stops gives its containers ten seconds.
const STOP: Duration = Duration::from_secs(30);

/// A private mount of the control groups where the machine has none; then the engine, again and
/// again, but not while there is a file of the first name.
///
/// The ports that the engine publishes on its own choice are the system's for outgoing connections, too.
/// While the engine runs it holds those it has given out; while it is away a connection may come from one
/// of them, and then the engine that returns cannot publish it again. So they are kept apart.
const SUPERVISE: &str = r#"
echo 32768-33767 > /proc/sys/net/ipv4/ip_local_reserved_ports || exit 1
mountpoint -q /sys/fs/cgroup || cgroupfs-mount
down="$1"
shift
while :; do
    "$@"
    sleep 0.1
    while [ -e "$down" ]; do sleep 0.1; done
done
"#;

/// A running Docker engine.
#[derive(Debug)]
pub struct Engine {
    socket: PathBuf,
    /// The file that keeps it from starting again.
    down: PathBuf,
    process: Process,
}

impl Engine {
    /// Starts an engine on `host` and gives it [`IMAGE`], whose containers answer `page` at `/`.
    ///
    /// # Panics
    /// When the engine does not start, or a program is missing.
    pub fn start(lab: &Lab, host: &Host, page: &str) -> Self {
        Self::start_with(lab, host, page, &[])
    }

    /// The same with options of dockerd's.
    ///
    /// # Panics
    /// As [`Engine::start`].
    pub fn start_with(lab: &Lab, host: &Host, page: &str, options: &[&str]) -> Self {
        for program in ["docker", "dockerd", "iptables", "busybox", "tar"] {
            tools::require(program);
        }
        if !std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
            && !std::path::Path::new("/sys/fs/cgroup/devices").exists()
        {
            tools::require("cgroupfs-mount");
        }
        let dir = lab.dir().join("engine");
        fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        let socket = dir.join("docker.sock");
        let at = |name: &str| dir.join(name).display().to_string();
        let url = format!("unix://{}", socket.display());
        let down = dir.join("down");
        let down_text = down.display().to_string();
        let (data, exec, pid) = (at("data"), at("exec"), at("pid"));
        let group = format!("/{}", lab.tag());
        let mut command = vec![
            "sh",
            "-c",
            SUPERVISE,
            "sh",
            &down_text,
            "dockerd",
            "--data-root",
            &data,
            "--exec-root",
            &exec,
            "--pidfile",
            &pid,
            "--host",
            &url,
            "--storage-driver",
            storage_driver(&dir),
            "--cgroup-parent",
            &group,
        ];
        command.extend(options);
        let process = Process::start(
            host,
            lab.dir(),
            "dockerd",
            &[
                "--mount",
                "--pid",
                "--fork",
                "--kill-child=KILL",
                "--mount-proc",
            ],
            &command,
            &[],
        );
        let engine = Self {
            socket,
            down,
            process,
        };
        engine.wait();
        engine.import(lab, page);
        engine
    }

    fn wait(&self) {
        eventually("the Docker engine answers", START, || {
            let answer = self
                .command(&["version"])
                .output()
                .map_err(|error| error.to_string())?;
            let words = || String::from_utf8_lossy(&answer.stderr).into_owned();
            answer.status.success().then_some(()).ok_or_else(words)
        });
    }

    /// The engine's socket as the agent's `DOCKER_URL` names it.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Runs `docker` with these arguments and returns what it printed, without the line's end.
    ///
    /// # Panics
    /// When it fails, with its words.
    pub fn docker(&self, arguments: &[&str]) -> String {
        let output = self
            .command(arguments)
            .output()
            .expect("docker can be started");
        assert!(
            output.status.success(),
            "docker {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned()
    }

    /// The port of this host that `docker run -P` gave to a container's port 80.
    ///
    /// # Panics
    /// When the container has none.
    pub fn published_port(&self, container: &str) -> u16 {
        let text = self.docker(&["port", container, "80/tcp"]);
        text.lines()
            .next()
            .and_then(|line| line.rsplit(':').next()?.parse().ok())
            .unwrap_or_else(|| panic!("{container} has no published port: {text:?}"))
    }

    /// Makes a container as the API describes it, for what the command line cannot say, and starts it.
    ///
    /// # Panics
    /// When the engine refuses.
    pub fn run_described(&self, name: &str, description: &Value) {
        let body = description.to_string();
        let request = format!(
            "POST /containers/create?name={name} HTTP/1.0\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut answer = String::new();
        let mut stream = UnixStream::connect(&self.socket).expect("the engine listens");
        stream
            .write_all(request.as_bytes())
            .and_then(|()| stream.read_to_string(&mut answer))
            .unwrap_or_else(|error| panic!("creating {name}: {error}"));
        assert!(answer.contains(" 201 "), "creating {name}: {answer}");
        self.docker(&["start", name]);
    }

    /// Ends dockerd in the usual way and keeps it from starting again. Its containers end too, unless
    /// it runs with `--live-restore`.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(&self) {
        fs::write(&self.down, "").expect("the lab's directory is writable");
        let daemon = self.daemon().expect("dockerd runs");
        self.signal(Signal::TERM);
        eventually("dockerd ends", STOP, || match self.daemon() {
            Some(pid) if pid == daemon => Err("it runs".to_owned()),
            _ => Ok(()),
        });
    }

    /// Lets it start again.
    ///
    /// # Panics
    /// When it does not.
    pub fn start_again(&self) {
        fs::remove_file(&self.down).expect("it was stopped before");
        self.wait();
    }

    /// Sends dockerd a signal: `STOP` freezes it and `CONT` ends that.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&self, signal: Signal) {
        let pid = self.daemon().expect("dockerd runs");
        kill_process(pid, signal).unwrap_or_else(|error| panic!("signal to dockerd: {error}"));
    }

    /// The dockerd among the descendants of the first process.
    fn daemon(&self) -> Option<Pid> {
        let mut parents = BTreeMap::new();
        let mut daemons = Vec::new();
        for entry in fs::read_dir("/proc").ok()?.flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
                continue;
            };
            // "PID (COMMAND) STATE PARENT …"; whoever has ended meanwhile has none.
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let Some((command, rest)) = stat.rsplit_once(')') else {
                continue;
            };
            let mut words = rest.split_whitespace();
            let (state, parent) = (words.next(), words.next());
            if command.ends_with("(dockerd") && state != Some("Z") {
                daemons.push(pid);
            }
            parents.insert(pid, parent?.parse::<i32>().ok()?);
        }
        let first = i32::try_from(self.process.pid()).expect("Linux has no larger ones");
        let is_ours = |&pid: &i32| {
            let line = std::iter::successors(Some(pid), |pid| parents.get(pid).copied());
            line.take(parents.len()).any(|pid| pid == first)
        };
        daemons.into_iter().find(is_ours).and_then(Pid::from_raw)
    }

    /// Ends the engine and its containers the hard way.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(tools::require("docker"));
        command.env("DOCKER_HOST", self.url()).args(arguments);
        command
    }

    fn import(&self, lab: &Lab, page: &str) {
        let root = lab.dir().join("image");
        fs::create_dir_all(root.join("www")).expect("the lab's directory is writable");
        fs::create_dir_all(root.join("bin")).expect("the lab's directory is writable");
        fs::copy(tools::require("busybox"), root.join("bin/busybox")).expect("busybox is readable");
        fs::write(root.join("www/index.html"), page).expect("the lab's directory is writable");
        // For the commands of health checks.
        std::os::unix::fs::symlink("busybox", root.join("bin/sh")).expect("it is writable");
        let tar = lab.dir().join("image.tar");
        let (root, tar) = (root.display().to_string(), tar.display().to_string());
        tools::run(&["tar", "-C", &root, "-cf", &tar, "."]);
        self.docker(&[
            "import",
            "--change",
            "EXPOSE 80",
            "--change",
            r#"CMD ["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www"]"#,
            &tar,
            IMAGE,
        ]);
    }
}

/// An overlay cannot lie on an overlay, which is what a container's own file system usually is.
fn storage_driver(dir: &std::path::Path) -> &'static str {
    let dir = dir.display().to_string();
    let kind = tools::run(&["stat", "--file-system", "--format", "%T", &dir]);
    if kind.trim() == "overlayfs" {
        "vfs"
    } else {
        "overlay2"
    }
}
