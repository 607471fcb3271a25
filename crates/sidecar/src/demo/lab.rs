//! The demo's processes: three agents and their sample services.

use std::{
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::process::{Child, Command};

/// Agents, on 127.0.0.1 and up.
const AGENTS: u8 = 3;
const GOSSIP_PORT: u16 = 7946;
const HTTP_PORT: u16 = 7777;
/// Time the agents get to say goodbye.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);

/// A sample service: its name, ServicePort, real port and the hosts it runs on.
struct Sample {
    name: &'static str,
    service_port: u16,
    port: u16,
    hosts: &'static [u8],
}

const SAMPLES: &[Sample] = &[
    Sample {
        name: "hello",
        service_port: 9500,
        port: 18001,
        hosts: &[1, 2, 3],
    },
    Sample {
        name: "world",
        service_port: 9501,
        port: 18002,
        hosts: &[2, 3],
    },
];

/// One child process and how to start it again.
struct Process {
    title: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    child: Option<Child>,
    ended: Option<Instant>,
}

/// All of them, in a directory of their own that goes with them.
pub(super) struct Lab {
    directory: PathBuf,
    processes: Vec<Process>,
}

fn address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, host)
}

fn node_name(host: u8) -> String {
    format!("demo-{host}")
}

impl Lab {
    /// Plans the processes and writes the static files.
    pub(super) fn new() -> anyhow::Result<Self> {
        let directory = std::env::temp_dir().join(format!("sidecar-demo-{}", std::process::id()));
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let mut lab = Self {
            directory,
            processes: Vec::new(),
        };
        for sample in SAMPLES {
            for host in sample.hosts {
                lab.add_sample(sample, *host);
            }
        }
        for host in 1..=AGENTS {
            lab.add_agent(host)?;
        }
        Ok(lab)
    }

    fn add_sample(&mut self, sample: &Sample, host: u8) {
        let title = format!("{}@{}", sample.name, node_name(host));
        let arguments = [
            "sample-service",
            "--with-parent",
            "--listen",
            &SocketAddr::new(address(host).into(), sample.port).to_string(),
            "--name",
            &format!("{} from {}", sample.name, node_name(host)),
        ];
        self.add(title, &arguments, Vec::new());
    }

    fn add_agent(&mut self, host: u8) -> anyhow::Result<()> {
        let ip = address(host);
        let file = self.directory.join(format!("static-{host}.json"));
        fs::write(&file, static_file(host))
            .with_context(|| format!("cannot write {}", file.display()))?;
        let seeds: Vec<String> = (1..=AGENTS).map(|host| address(host).to_string()).collect();
        let environment = [
            ("SIDECAR_NODE_NAME", node_name(host)),
            ("SIDECAR_CLUSTER_NAME", "demo".to_owned()),
            ("SIDECAR_SEEDS", seeds.join(",")),
            ("SIDECAR_ADVERTISE_IP", ip.to_string()),
            ("SIDECAR_GOSSIP_BIND_IP", ip.to_string()),
            ("SIDECAR_BIND_PORT", GOSSIP_PORT.to_string()),
            (
                "SIDECAR_HTTP_BIND",
                SocketAddr::new(ip.into(), HTTP_PORT).to_string(),
            ),
            ("SIDECAR_BIND_IP", ip.to_string()),
            ("SIDECAR_PROXY", "builtin".to_owned()),
            // All of them would serve it at one address.
            ("ENVOY_USE_GRPC_API", "false".to_owned()),
            ("SIDECAR_DISCOVERY", "static".to_owned()),
            ("STATIC_CONFIG_FILE", file.display().to_string()),
            // The machine's own is for the agent of the machine.
            ("SIDECAR_STATE_DIR", String::new()),
        ];
        let environment = environment
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        self.add(
            format!("agent {}", node_name(host)),
            &["--with-parent"],
            environment,
        );
        Ok(())
    }

    fn add(&mut self, title: String, arguments: &[&str], environment: Vec<(String, String)>) {
        let log = self
            .directory
            .join(format!("{}.log", title.replace(' ', "-")));
        self.processes.push(Process {
            title,
            arguments: arguments
                .iter()
                .map(|&argument| argument.to_owned())
                .collect(),
            environment,
            log,
            child: None,
            ended: None,
        });
    }

    /// Makes sure that every address and port is free, so that a failure is explained here and not
    /// in three log files.
    pub(super) fn check_ports(&self) -> anyhow::Result<()> {
        for host in 1..=AGENTS {
            let ip = IpAddr::from(address(host));
            UdpSocket::bind((ip, GOSSIP_PORT))
                .map_err(|error| unusable("UDP", ip, GOSSIP_PORT, &error))?;
            let samples = SAMPLES.iter().filter(|sample| sample.hosts.contains(&host));
            let ports = [GOSSIP_PORT, HTTP_PORT]
                .into_iter()
                .chain(SAMPLES.iter().map(|sample| sample.service_port))
                .chain(samples.map(|sample| sample.port));
            for port in ports {
                TcpListener::bind((ip, port)).map_err(|error| unusable("TCP", ip, port, &error))?;
            }
        }
        Ok(())
    }

    pub(super) fn start_all(&mut self) -> anyhow::Result<()> {
        self.processes.iter_mut().try_for_each(Process::start)
    }

    /// Notices children that ended, starts them again after `restart_after`; returns lines to show.
    pub(super) fn look_after(&mut self, restart_after: Duration) -> anyhow::Result<Vec<String>> {
        let mut lines = Vec::new();
        for process in &mut self.processes {
            let ended = match &mut process.child {
                Some(child) => child.try_wait()?,
                None => None,
            };
            if let Some(status) = ended {
                process.child = None;
                process.ended = Some(Instant::now());
                lines.push(format!(
                    "{} ended ({status}); it is started again in {} s",
                    process.title,
                    restart_after.as_secs()
                ));
            }
            if process
                .ended
                .is_some_and(|ended| ended.elapsed() >= restart_after)
            {
                process.start()?;
                lines.push(format!(
                    "{} started again, pid {}",
                    process.title,
                    process.pid()
                ));
            }
        }
        Ok(lines)
    }

    /// What to open and what to try.
    pub(super) fn introduction(&self) -> String {
        let pid = |title: &str| {
            let process = self.processes.iter().find(|process| process.title == title);
            process.map_or(0, Process::pid)
        };
        format!(
            "Three agents are one cluster on this machine: {agents}.\n\
             Every agent finds its host's services, checks them, tells the others, and routes\n\
             its own address to all healthy instances.\n\
             \n\
             Open\n  \
               http://127.0.0.1:{HTTP_PORT}/                     the cluster as one agent sees it\n\
             Try, in another terminal\n  \
               curl http://127.0.0.1:9500/                a service, from any host, on its port\n  \
               curl http://127.0.0.3:9501/                the same from another host's address\n  \
               curl -X POST 'http://127.0.0.2:18001/health?status=500'   make a check fail (200: well again)\n  \
               kill {hello}                                 stop a sample service\n  \
               kill -9 {agent}                              kill an agent: its services leave the routes\n\
             Logs are in {directory}. Ctrl-C ends everything.\n",
            agents = (1..=AGENTS)
                .map(|host| format!("{} on {}", node_name(host), address(host)))
                .collect::<Vec<_>>()
                .join(", "),
            hello = pid("hello@demo-1"),
            agent = pid("agent demo-3"),
            directory = self.directory.display(),
        )
    }

    pub(super) fn agent_names(&self) -> Vec<String> {
        (1..=AGENTS)
            .map(|host| format!("agent {}", node_name(host)))
            .collect()
    }

    pub(super) fn api_addresses(&self) -> Vec<SocketAddr> {
        (1..=AGENTS)
            .map(|host| SocketAddr::new(address(host).into(), HTTP_PORT))
            .collect()
    }

    /// Ends all children, agents first so that they say goodbye, and removes the directory.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        for process in &mut self.processes {
            process.terminate();
        }
        for process in &mut self.processes {
            let Some(child) = &mut process.child else {
                continue;
            };
            if tokio::time::timeout(STOP_TIMEOUT, child.wait())
                .await
                .is_err()
            {
                child
                    .kill()
                    .await
                    .with_context(|| format!("cannot stop {}", process.title))?;
            }
        }
        fs::remove_dir_all(&self.directory)
            .with_context(|| format!("cannot remove {}", self.directory.display()))
    }
}

impl Process {
    fn start(&mut self) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot write {}", self.log.display()))?;
        let binary = std::env::current_exe().context("cannot find this binary")?;
        let mut command = Command::new(binary);
        // A group of its own: Ctrl-C reaches the demo, which stops its children in order.
        command
            .args(&self.arguments)
            .process_group(0)
            .kill_on_drop(true);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SIDECAR_") {
                command.env_remove(name);
            }
        }
        command.envs(self.environment.iter().cloned());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", self.title))?;
        self.child = Some(child);
        self.ended = None;
        Ok(())
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().and_then(Child::id).unwrap_or(0)
    }

    fn terminate(&self) {
        let pid = self
            .child
            .as_ref()
            .and_then(Child::id)
            .and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            // A child that has just ended by itself is as good as terminated.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }
}

fn unusable(kind: &str, ip: IpAddr, port: u16, error: &std::io::Error) -> anyhow::Error {
    if error.kind() == std::io::ErrorKind::AddrNotAvailable {
        return anyhow::anyhow!(
            "this machine has no address {ip}; add it with: sudo ifconfig lo0 alias {ip}"
        );
    }
    anyhow::anyhow!(
        "the demo needs {kind} port {port} on {ip}: {error}; is an agent, or another demo, running \
         here?"
    )
}

/// The services of one host, in the original's schema.
fn static_file(host: u8) -> String {
    let targets: Vec<serde_json::Value> = SAMPLES
        .iter()
        .filter(|sample| sample.hosts.contains(&host))
        .map(|sample| {
            serde_json::json!({
                "Service": {
                    "Name": sample.name,
                    "Image": format!("demo/{}:1.0", sample.name),
                    "ProxyMode": "http",
                    "Ports": [{
                        "Type": "tcp",
                        "Port": sample.port,
                        "ServicePort": sample.service_port,
                    }],
                },
                "Check": {
                    "Type": "HttpGet",
                    "Args": format!("http://{{{{ host }}}}:{{{{ tcp {} }}}}/health", sample.service_port),
                },
            })
        })
        .collect();
    serde_json::Value::Array(targets).to_string()
}
