//! A real Docker engine on one host of the lab, with containers that serve a page.
//!
//! It has its own data, sockets, mounts and process tree: `dockerd` runs as the first process of a
//! PID namespace, so that killing it ends containerd and every container with it, whatever state
//! they are in.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use crate::{Lab, host::Host, process::Process, tools, wait::eventually};

/// The image [`Engine::start`] makes: `httpd` on port 80 that serves `/www`.
pub const IMAGE: &str = "lab/httpd:1.0";

/// An engine has to load no image and start no container.
const START: Duration = Duration::from_secs(30);

/// A private mount of the control groups where the machine has none; then the engine.
const WITH_CGROUPS: &str = r#"
mountpoint -q /sys/fs/cgroup || cgroupfs-mount
exec "$@"
"#;

/// A running Docker engine.
#[derive(Debug)]
pub struct Engine {
    socket: PathBuf,
    process: Process,
}

impl Engine {
    /// Starts an engine on `host` and gives it [`IMAGE`], whose containers answer `page` at `/`.
    ///
    /// # Panics
    /// When the engine does not start, or a program is missing.
    pub fn start(lab: &Lab, host: &Host, page: &str) -> Self {
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
            &[
                "sh",
                "-c",
                WITH_CGROUPS,
                "sh",
                "dockerd",
                "--data-root",
                &at("data"),
                "--exec-root",
                &at("exec"),
                "--pidfile",
                &at("pid"),
                "--host",
                &url,
                "--storage-driver",
                storage_driver(&dir),
                "--cgroup-parent",
                &format!("/{}", lab.tag()),
            ],
            &[],
        );
        let engine = Self { socket, process };
        eventually("the Docker engine answers", START, || {
            let answer = engine
                .command(&["version"])
                .output()
                .map_err(|error| error.to_string())?;
            let words = || String::from_utf8_lossy(&answer.stderr).into_owned();
            answer.status.success().then_some(()).ok_or_else(words)
        });
        engine.import(lab, page);
        engine
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
