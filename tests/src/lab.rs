//! The lab itself: hosts on one bridge, a directory for what their programs write, and the end of it.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tempfile::TempDir;

use crate::{host::Host, leftovers, process::Process, tools};

/// How much of the machine a lab needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// Other labs may run at the same time.
    Shared,
    /// Nothing else may run: the test measures time.
    Alone,
}

/// Hosts that can reach one another and nothing else.
#[derive(Debug)]
pub struct Lab {
    hosts: Vec<Arc<Host>>,
    dir: TempDir,
    tag: String,
    bridge: String,
    subnet: [u8; 3],
    /// Held as long as the lab lives; see [`Machine`].
    _turn: File,
}

impl Lab {
    /// A lab in 10.88.0.0/24 with hosts of these names, the first at .1.
    ///
    /// # Panics
    /// Without root, without a program it needs, or when the system refuses.
    pub fn new(machine: Machine, names: &[&str]) -> Self {
        Self::in_subnet(machine, [10, 88, 0], names)
    }

    /// A lab with addresses of the caller's choice; labs do not see each other's.
    ///
    /// # Panics
    /// As [`Lab::new`].
    pub fn in_subnet(machine: Machine, subnet: [u8; 3], names: &[&str]) -> Self {
        static LABS: AtomicUsize = AtomicUsize::new(0);
        tools::require_root();
        for program in ["ip", "nsenter", "unshare", "setpriv"] {
            tools::require(program);
        }
        let turn = turn(machine);
        leftovers::remove();
        let tag = leftovers::tag(LABS.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::Builder::new()
            .prefix(&format!("{tag}-"))
            .tempdir()
            .expect("a directory can be made in the system's temporary directory");
        let bridge = format!("{tag}-bridge");
        tools::run(&["ip", "netns", "add", &bridge]);
        tools::run(&["ip", "-n", &bridge, "link", "add", "br0", "type", "bridge"]);
        tools::run(&["ip", "-n", &bridge, "link", "set", "br0", "up"]);
        let mut lab = Self {
            hosts: Vec::new(),
            dir,
            tag,
            bridge,
            subnet,
            _turn: turn,
        };
        for name in names {
            lab.wire(name);
        }
        lab
    }

    /// A host by its number, from 0.
    pub fn host(&self, number: usize) -> &Arc<Host> {
        &self.hosts[number]
    }

    /// All hosts.
    pub fn hosts(&self) -> &[Arc<Host>] {
        &self.hosts
    }

    /// The lab's directory; logs lie in it as `<title>.log`.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The name that everything of this lab carries.
    pub(crate) fn tag(&self) -> &str {
        &self.tag
    }

    /// Writes a file into the lab's directory.
    ///
    /// # Panics
    /// When the disk refuses.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        // Readers that watch the file see the old or the new text, never a half.
        let fresh = path.with_extension("fresh");
        fs::write(&fresh, text)
            .and_then(|()| fs::rename(&fresh, &path))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    fn wire(&mut self, name: &str) {
        let number = u8::try_from(self.hosts.len() + 1).expect("a lab has fewer than 255 hosts");
        let [a, b, c] = self.subnet;
        let ip = Ipv4Addr::new(a, b, c, number);
        let namespace = format!("{}-{number}", self.tag);
        let (port, bridge) = (format!("v{number}"), &self.bridge);
        tools::run(&["ip", "netns", "add", &namespace]);
        tools::run(&[
            "ip", "-n", bridge, "link", "add", &port, "type", "veth", "peer", "name", "eth0",
            "netns", &namespace,
        ]);
        tools::run(&[
            "ip", "-n", bridge, "link", "set", &port, "master", "br0", "up",
        ]);
        tools::run(&["ip", "-n", &namespace, "link", "set", "lo", "up"]);
        tools::run(&[
            "ip",
            "-n",
            &namespace,
            "addr",
            "add",
            &format!("{ip}/24"),
            "dev",
            "eth0",
        ]);
        tools::run(&["ip", "-n", &namespace, "link", "set", "eth0", "up"]);
        self.hosts.push(Arc::new(Host::new(name, ip, namespace)));
    }

    /// A network behind a host, as a container's is: it reaches everything through that host alone, and nobody
    /// but the host knows a way to it.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn behind(&self, number: usize) -> Arc<Host> {
        let host = self.host(number);
        let namespace = format!("{}-behind{number}", self.tag);
        let (gateway, ip) = ([172, 31, 0, 1], Ipv4Addr::new(172, 31, 0, 2));
        let gateway = Ipv4Addr::from(gateway).to_string();
        tools::run(&["ip", "netns", "add", &namespace]);
        let inner = ["ip", "-n", &namespace];
        let outer = ["ip", "-n", &host.namespace];
        let run = |at: &[&str], words: &[&str]| tools::run(&[at, words].concat());
        let pair = [
            "link", "add", "behind", "type", "veth", "peer", "name", "eth0",
        ];
        run(&outer, &[&pair[..], &["netns", &namespace]].concat());
        run(
            &outer,
            &["addr", "add", &format!("{gateway}/24"), "dev", "behind"],
        );
        run(&outer, &["link", "set", "behind", "up"]);
        run(&inner, &["link", "set", "lo", "up"]);
        run(&inner, &["addr", "add", &format!("{ip}/24"), "dev", "eth0"]);
        run(&inner, &["link", "set", "eth0", "up"]);
        run(&inner, &["route", "add", "default", "via", &gateway]);
        host.said(&["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
        Arc::new(Host::new("behind", ip, namespace))
    }

    /// Starts a program of the machine on a host; it logs to `<title>.log`.
    ///
    /// # Panics
    /// When it is not installed or cannot be started.
    pub fn program(&self, host: usize, title: &str, command: &[&str]) -> Process {
        tools::require(command[0]);
        Process::start(self.host(host), self.dir(), title, &[], command, &[])
    }

    /// Cuts a host's cable, or mends it.
    pub fn cable(&self, number: usize, up: bool) {
        let port = format!("v{}", number + 1);
        let state = if up { "up" } else { "down" };
        tools::run(&["ip", "-n", &self.bridge, "link", "set", &port, state]);
    }

    /// From now on a host does not hear this share of what others send it, in percent, by chance.
    ///
    /// A rule of the packet filter, not a queueing discipline: many kernels come without `netem`.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn lose(&self, number: usize, percent: u8) {
        let rules = format!(
            "table inet loss {{ chain input {{ type filter hook input priority 0; \
             iifname \"eth0\" numgen random mod 100 < {percent} counter drop; }}; }}"
        );
        tools::require("nft");
        let namespace = &self.host(number).namespace;
        tools::run(&["ip", "netns", "exec", namespace, "nft", &rules]);
    }

    /// A host hears everything again. How many packets it had lost.
    ///
    /// # Panics
    /// When it was not made to lose any.
    pub fn lose_no_more(&self, number: usize) -> u64 {
        tools::require("nft");
        let nft = ["ip", "netns", "exec", &self.host(number).namespace, "nft"];
        let rules = tools::run(&[&nft[..], &["list", "table", "inet", "loss"]].concat());
        tools::run(&[&nft[..], &["delete", "table", "inet", "loss"]].concat());
        let mut words = rules.split_whitespace();
        words
            .find(|word| *word == "packets")
            .and_then(|_| words.next()?.parse().ok())
            .unwrap_or_else(|| panic!("no counter in:\n{rules}"))
    }

    #[expect(
        clippy::print_stderr,
        reason = "the test's own report, caught by the test harness"
    )]
    fn print_logs(&self) {
        for entry in fs::read_dir(self.dir.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let text = fs::read(&path).unwrap_or_default();
                let text = String::from_utf8_lossy(&text);
                eprintln!("---- {}\n{text}", path.display());
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        leftovers::remove_tagged(&self.tag);
    }
}

/// Waits for this lab's turn on the machine.
fn turn(machine: Machine) -> File {
    let path = std::env::temp_dir().join("sidecar-blackbox.lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    match machine {
        Machine::Shared => file.lock_shared(),
        Machine::Alone => file.lock(),
    }
    .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    file
}
