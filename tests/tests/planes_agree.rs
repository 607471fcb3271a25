//! The same records lead to the same instances, whichever data plane a host runs.
//!
//! One table says what a client meets at each ServicePort: first with the elders alone, then with
//! everybody, then after changes. Each plane runs it with an agent of its own. What [`PLANES`] list as
//! `unlike` is documented of a plane, and under test as everything else is.
//!
//! Instances answer with the address at which they were reached, so the table speaks of addresses.

#![cfg(target_os = "linux")]

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use blackbox::{
    Agent, AgentBuilder, GOSSIP_PORT, Haproxy, Host, Lab, LegacyPeer, LegacyPort, Machine, Network,
    PROXY_IP, Status, Timing, eventually, haproxy_status,
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// What the table says of a step is so within that; the machine may be busy.
const SETTLED: Duration = Duration::from_secs(30);
const JOINED: Duration = Duration::from_secs(10);
/// How often all shares of a port are gone through.
const TURNS: usize = 15;
/// One after the other, an agent that starts with the first.
const STEPS: [&str; 3] = ["the elders", "everybody", "after the changes"];

/// The agent's host, one without an agent, and one with a Go Sidecar, whose records say what no file may.
const HOSTS: [&str; 3] = ["solo", "far", "legacy"];
const FILE: &str = "static-solo.json";

fn on_host(number: u8, port: u16) -> SocketAddr {
    (Ipv4Addr::new(10, 88, 0, number), port).into()
}

fn near(port: u16) -> SocketAddr {
    on_host(1, port)
}

fn far(port: u16) -> SocketAddr {
    on_host(2, port)
}

fn legacy(port: u16) -> SocketAddr {
    on_host(3, port)
}

fn far_6(port: u16) -> SocketAddr {
    (Ipv6Addr::new(0xfd00, 0x88, 0, 0, 0, 0, 0, 2), port).into()
}

fn at_proxy(port: u16) -> SocketAddr {
    (PROXY_IP, port).into()
}

/// The host of an address of the table.
fn host_of(lab: &Lab, address: SocketAddr) -> &Arc<Host> {
    let number = match address.ip() {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(ip) => ip.octets()[15],
    };
    lab.host(usize::from(number) - 1)
}

/// How a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Http,
    Tcp,
    Ws,
}

impl Mode {
    fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Ws => "ws",
        }
    }
}

/// One entry of the static file.
#[derive(Debug, Clone)]
struct Target {
    service: &'static str,
    hostname: Option<&'static str>,
    mode: &'static str,
    weight: Option<u8>,
    ports: Vec<Port>,
    is_healthy: bool,
}

#[derive(Debug, Clone)]
struct Port {
    kind: &'static str,
    /// Where somebody listens, whatever the record says.
    at: SocketAddr,
    /// The address in the record.
    ip: String,
    service_port: u16,
}

fn target(service: &'static str, mode: Mode, at: SocketAddr, service_port: u16) -> Target {
    let target = Target {
        service,
        hostname: (at.ip() == far(0).ip() || at.is_ipv6()).then_some("far"),
        mode: mode.word(),
        weight: None,
        ports: Vec::new(),
        is_healthy: true,
    };
    target.and("tcp", at, service_port)
}

impl Target {
    fn and(mut self, kind: &'static str, at: SocketAddr, service_port: u16) -> Self {
        let ip = at.ip().to_string();
        self.ports.push(Port {
            kind,
            at,
            ip,
            service_port,
        });
        self
    }

    fn kind(mut self, kind: &'static str) -> Self {
        self.ports[0].kind = kind;
        self
    }

    fn ip(mut self, ip: &str) -> Self {
        ip.clone_into(&mut self.ports[0].ip);
        self
    }

    fn mode(self, mode: &'static str) -> Self {
        Self { mode, ..self }
    }

    fn of(self, hostname: &'static str) -> Self {
        let hostname = Some(hostname);
        Self { hostname, ..self }
    }

    fn weight(self, weight: u8) -> Self {
        let weight = Some(weight);
        Self { weight, ..self }
    }

    fn ill(self) -> Self {
        let is_healthy = false;
        Self { is_healthy, ..self }
    }

    fn json(&self) -> Value {
        let port = |it: &Port| json!({ "Type": it.kind, "IP": it.ip, "Port": it.at.port(), "ServicePort": it.service_port });
        // Nobody listens at the first port of all.
        let check = if self.is_healthy {
            json!({ "Type": "AlwaysSuccessful" })
        } else {
            json!({ "Type": "Tcp", "Args": "127.0.0.1:1" })
        };
        json!({
            "Service": {
                "Name": self.service,
                "Hostname": self.hostname,
                "ProxyMode": self.mode,
                "Weight": self.weight,
                "Ports": self.ports.iter().map(port).collect::<Vec<_>>(),
            },
            "Check": check,
        })
    }
}

/// What clients meet at a ServicePort.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Meets {
    /// Nobody.
    Closed,
    /// Nobody, though there is a route.
    InVain,
    /// These and nobody else, with these shares.
    Answers(Mode, BTreeMap<SocketAddr, usize>),
}

fn answers(mode: Mode, shares: &[(SocketAddr, usize)]) -> Meets {
    Meets::Answers(mode, shares.iter().copied().collect())
}

/// What one case has in the file at one step, and what comes of it.
#[derive(Debug, Clone, Default)]
struct Step {
    targets: Vec<Target>,
    meets: BTreeMap<u16, Meets>,
    /// ServicePort, service and reason of those that are not routed.
    excluded: BTreeSet<(u16, &'static str, &'static str)>,
}

fn with<const N: usize>(targets: [&Target; N]) -> Step {
    Step {
        targets: targets.into_iter().cloned().collect(),
        ..Step::default()
    }
}

impl Step {
    fn gives(mut self, port: u16, mode: Mode, shares: &[(SocketAddr, usize)]) -> Self {
        self.meets.insert(port, answers(mode, shares));
        self
    }

    fn closed(mut self, port: u16) -> Self {
        self.meets.insert(port, Meets::Closed);
        self
    }

    fn in_vain(mut self, port: u16) -> Self {
        self.meets.insert(port, Meets::InVain);
        self
    }

    fn excludes(mut self, port: u16, service: &'static str, reason: &'static str) -> Self {
        self.excluded.insert((port, service, reason));
        self
    }
}

/// One thing that planes must agree on.
struct Case {
    what: &'static str,
    steps: [Step; 3],
}

fn case(what: &'static str, steps: [Step; 3]) -> Case {
    Case { what, steps }
}

fn always(what: &'static str, step: &Step) -> Case {
    case(what, [(); 3].map(|()| step.clone()))
}

/// The ServicePorts of a service whose younger instance has the first of them only.
const PARTLY: [u16; 2] = [10022, 10023];
/// ServicePorts of services with several instances at one address.
const SHARED: [u16; 2] = [10024, 10025];
/// A ServicePort that one instance offers at two addresses.
const DOUBLE: u16 = 10026;

fn table() -> Vec<Case> {
    [plain(), decided(), unroutable(), addresses(), changed()]
        .into_iter()
        .flatten()
        .collect()
}

/// Modes and shares.
fn plain() -> Vec<Case> {
    use Mode::{Http, Tcp, Ws};
    let mut cases = Vec::new();
    for (mode, port, name) in [
        (Http, 10001, "web"),
        (Tcp, 10002, "db"),
        (Ws, 10003, "chat"),
    ] {
        let one = with([&target(name, mode, near(8001), port)]);
        cases.push(always(
            "one instance",
            &one.gives(port, mode, &[(near(8001), 1)]),
        ));
    }
    for (mode, port, name) in [
        (Http, 10004, "webs"),
        (Tcp, 10005, "dbs"),
        (Ws, 10006, "chats"),
    ] {
        let [one, other] = [near(8004), far(8004)].map(|at| target(name, mode, at, port));
        let [light, heavy] = [10, 30];
        cases.push(case(
            "several instances by weight",
            [
                with([]).closed(port),
                with([&one.clone().weight(light), &other.clone().weight(heavy)]).gives(
                    port,
                    mode,
                    &[(near(8004), 1), (far(8004), 3)],
                ),
                with([&one.weight(heavy), &other.weight(light)]).gives(
                    port,
                    mode,
                    &[(near(8004), 3), (far(8004), 1)],
                ),
            ],
        ));
    }
    cases
}

/// Who owns a port, and in which mode.
fn decided() -> Vec<Case> {
    use Mode::{Http, Tcp};
    let (elder, younger) = (
        target("mixed", Http, far(8007), 10007),
        target("mixed", Tcp, near(8007), 10007),
    );
    let mixed = case(
        "the mode is that of the oldest",
        [
            with([&elder]).gives(10007, Http, &[(far(8007), 1)]),
            with([&younger, &elder])
                .gives(10007, Http, &[(far(8007), 1)])
                .excludes(10007, "mixed", "mode-differs"),
            with([&younger]).gives(10007, Tcp, &[(near(8007), 1)]),
        ],
    );

    let odd = target("odd", Http, far(8008), 10008);
    let (smtp, good) = (
        odd.clone().mode("smtp"),
        target("odd", Http, near(8008), 10008),
    );
    let odd = case(
        "a mode that nobody knows",
        [
            with([&smtp])
                .closed(10008)
                .excludes(10008, "odd", "unknown-mode"),
            with([&smtp, &good])
                .gives(10008, Http, &[(near(8008), 1)])
                .excludes(10008, "odd", "unknown-mode"),
            with([&odd, &good]).gives(10008, Http, &[(near(8008), 1), (far(8008), 1)]),
        ],
    );

    let owner = target("z-owner", Http, far(8009), 10009);
    let claim = target("a-claim", Tcp, near(8009), 10009).and("tcp", near(8010), 10010);
    let by_age = case(
        "a port belongs to the older of two services",
        [
            with([&owner])
                .gives(10009, Http, &[(far(8009), 1)])
                .closed(10010),
            with([&claim, &owner])
                .gives(10009, Http, &[(far(8009), 1)])
                .gives(10010, Tcp, &[(near(8010), 1)])
                .excludes(10009, "a-claim", "port-owned"),
            with([&claim]).gives(10009, Tcp, &[(near(8009), 1)]).gives(
                10010,
                Tcp,
                &[(near(8010), 1)],
            ),
        ],
    );

    let (first, second) = (
        target("name-a", Tcp, far(8011), 10011),
        target("name-b", Tcp, near(8011), 10011),
    );
    let both = with([&second, &first])
        .gives(10011, Tcp, &[(far(8011), 1)])
        .excludes(10011, "name-b", "port-owned");
    let by_name = case(
        "a port belongs to the first by name of two services of one age",
        [
            both.clone(),
            both,
            with([&second]).gives(10011, Tcp, &[(near(8011), 1)]),
        ],
    );
    vec![mixed, odd, by_age, by_name]
}

/// Instances that get nothing.
fn unroutable() -> Vec<Case> {
    use Mode::{Http, Tcp};
    let (well, ill) = (
        target("sick", Tcp, near(8012), 10012),
        target("sick", Tcp, far(8012), 10012).ill(),
    );
    let one_ill = case(
        "an unhealthy instance among others",
        [
            with([&ill]).closed(10012),
            with([&well, &ill]).gives(10012, Tcp, &[(near(8012), 1)]),
            with([&ill]).closed(10012),
        ],
    );
    let alone = target("ill", Http, far(8013), 10013);
    let recovers = case(
        "an unhealthy instance alone",
        [
            with([&alone.clone().ill()]).closed(10013),
            with([&alone.clone().ill()]).closed(10013),
            with([&alone]).gives(10013, Http, &[(far(8013), 1)]),
        ],
    );
    let (here, nowhere, good) = (
        target("lost", Http, near(8014), 10014).ip("0.0.0.0"),
        target("lost", Http, near(8015), 10014).ip("nowhere"),
        target("lost", Http, far(8014), 10014),
    );
    let no_address = case(
        "an instance without an address",
        [
            with([&here, &nowhere])
                .closed(10014)
                .excludes(10014, "lost", "no-address"),
            with([&here, &nowhere, &good])
                .gives(10014, Http, &[(far(8014), 1)])
                .excludes(10014, "lost", "no-address"),
            with([&good]).gives(10014, Http, &[(far(8014), 1)]),
        ],
    );
    let good = target("portless", Tcp, near(8016), 10015);
    let of_legacy = |step: Step| {
        step.closed(10016)
            .gives(10017, Http, &[(legacy(8017), 1)])
            .excludes(10015, "portless", "no-port")
            .excludes(10016, "placeless", "no-address")
    };
    let no_port = case(
        "instances of another host, without a port and without an address",
        [
            of_legacy(with([]).closed(10015)),
            of_legacy(with([&good]).gives(10015, Tcp, &[(near(8016), 1)])),
            of_legacy(with([]).closed(10015)),
        ],
    );
    let udp = target("udp", Tcp, near(8018), 10018).kind("udp");
    let both = target("dns", Tcp, near(8018), 10019)
        .kind("udp")
        .and("tcp", near(8019), 10019);
    vec![
        one_ill,
        recovers,
        no_address,
        no_port,
        always("a UDP port", &with([&udp]).closed(10018)),
        always(
            "a UDP port beside one of TCP",
            &with([&both]).gives(10019, Tcp, &[(near(8019), 1)]),
        ),
        always("a port that nobody wants", &with([]).closed(10099)),
    ]
}

/// More or fewer addresses than instances.
fn addresses() -> Vec<Case> {
    use Mode::{Http, Tcp};
    let [one, other] = [near, far]
        .map(|host| target("pair", Http, host(8020), 10020).and("tcp", host(8021), 10021));
    let pair = always(
        "a service with two ServicePorts",
        &with([&one, &other])
            .gives(10020, Http, &[(near(8020), 1), (far(8020), 1)])
            .gives(10021, Http, &[(near(8021), 1), (far(8021), 1)]),
    );
    let whole = target("partly", Http, near(8022), PARTLY[0]).and("tcp", near(8023), PARTLY[1]);
    let part = target("partly", Http, far(8022), PARTLY[0]);
    let alone = with([&whole])
        .gives(PARTLY[0], Http, &[(near(8022), 1)])
        .gives(PARTLY[1], Http, &[(near(8023), 1)]);
    let partly = case(
        "an instance with one of its service's ServicePorts",
        [
            alone.clone(),
            with([&whole, &part])
                .gives(PARTLY[0], Http, &[(near(8022), 1), (far(8022), 1)])
                .gives(PARTLY[1], Http, &[(near(8023), 1)]),
            alone,
        ],
    );
    let double = target("double", Tcp, near(8026), DOUBLE).and("tcp", near(8027), DOUBLE);
    let double = always(
        "an instance with one ServicePort at two addresses",
        &with([&double]).gives(DOUBLE, Tcp, &[(near(8026), 1), (near(8027), 1)]),
    );
    let mut cases = vec![pair, partly, double];
    for (mode, port, name) in [(Http, SHARED[0], "twins"), (Tcp, SHARED[1], "siblings")] {
        let at = near(8024);
        let twin = target(name, mode, at, port);
        let other = target(name, mode, far(8024), port).weight(30);
        let [light, second] = [20, 10].map(|it| twin.clone().weight(it));
        let (second, heavy) = (second.of("second"), twin.of("third").weight(30));
        cases.push(case(
            "several instances at one address, which has the largest of their weights",
            [
                with([&light]).gives(port, mode, &[(at, 1)]),
                with([&light, &second, &heavy, &other]).gives(
                    port,
                    mode,
                    &[(at, 1), (far(8024), 1)],
                ),
                with([&second, &other]).gives(port, mode, &[(at, 1), (far(8024), 3)]),
            ],
        ));
    }
    for (mode, port, name) in [(Http, 10040, "loop"), (Tcp, 10041, "circle")] {
        let [good, own] = [near(8040), at_proxy(port)].map(|at| target(name, mode, at, port));
        let good_alone = [(near(8040), 1)];
        cases.push(case(
            "an instance that announces the proxy itself",
            [
                with([&good]).gives(port, mode, &good_alone),
                with([&own, &good]).gives(port, mode, &good_alone),
                with([&own]).in_vain(port),
            ],
        ));
    }
    for (mode, port, name, inner) in [(Http, 10042, "front", 10001), (Tcp, 10043, "facade", 10002)]
    {
        let other = target(name, mode, at_proxy(inner), port);
        let step = with([&other]).gives(port, mode, &[(near(8001), 1)]);
        cases.push(always(
            "an instance that is another service of the proxy",
            &step,
        ));
    }
    for (mode, port, name) in [(Http, 10027, "web-6"), (Tcp, 10028, "db-6")] {
        let (four, six) = (
            target(name, mode, far(8028), port),
            target(name, mode, far_6(8028), port),
        );
        cases.push(case(
            "addresses of IPv6",
            [
                with([&six]).gives(port, mode, &[(far_6(8028), 1)]),
                with([&six, &four]).gives(port, mode, &[(far_6(8028), 1), (far(8028), 1)]),
                with([&four]).gives(port, mode, &[(far(8028), 1)]),
            ],
        ));
    }
    cases
}

/// What only changes.
fn changed() -> Vec<Case> {
    use Mode::{Http, Tcp, Ws};
    let mut cases = Vec::new();
    for (port, name, from, to) in [
        (10030, "to-tcp", Http, Tcp),
        (10031, "to-http", Tcp, Http),
        (10032, "from-ws", Ws, Tcp),
    ] {
        let at = near(8030);
        let before = with([&target(name, from, at, port)]).gives(port, from, &[(at, 1)]);
        let after = with([&target(name, to, at, port)]).gives(port, to, &[(at, 1)]);
        cases.push(case("another mode", [before.clone(), before, after]));
    }
    for (port, name, mode) in [
        (10033, "no-web", Http),
        (10034, "no-db", Tcp),
        (10035, "no-chat", Ws),
    ] {
        let at = far(8033);
        let before = with([&target(name, mode, at, port)]).gives(port, mode, &[(at, 1)]);
        cases.push(case(
            "a service that ends",
            [before.clone(), before, with([]).closed(port)],
        ));
    }
    for (port, name, mode) in [(10036, "new-webs", Http), (10037, "new-dbs", Tcp)] {
        let [old, staying, new] =
            [near(8036), far(8036), near(8037)].map(|at| (at, target(name, mode, at, port)));
        let before = with([&old.1, &staying.1]).gives(port, mode, &[(old.0, 1), (staying.0, 1)]);
        let after = with([&staying.1, &new.1]).gives(port, mode, &[(staying.0, 1), (new.0, 1)]);
        cases.push(case(
            "one instance goes, another comes",
            [before.clone(), before, after],
        ));
    }
    let at =
        |port| with([&target("mover", Tcp, near(8038), port)]).gives(port, Tcp, &[(near(8038), 1)]);
    let before = at(10038).closed(10039);
    cases.push(case(
        "another ServicePort",
        [before.clone(), before, at(10039).closed(10038)],
    ));
    cases
}

/// What the legacy host announces from the beginning.
fn announce_legacy(peer: &mut LegacyPeer) {
    for (id, service, mode, at, service_port) in [
        ("3f2a9c0d77e1", "portless", "tcp", Some(legacy(0)), 10015),
        ("3f2a9c0d77e2", "placeless", "http", None, 10016),
        ("3f2a9c0d77e3", "faraway", "http", Some(legacy(8017)), 10017),
    ] {
        peer.offer_with(id, service, Status::Alive, |record| {
            mode.clone_into(&mut record.proxy_mode);
            record.ports = Some(vec![LegacyPort {
                kind: "tcp".to_owned(),
                port: at.map_or(8017, |at| at.port().into()),
                service_port,
                ip: at.map_or_else(String::new, |at| at.ip().to_string()),
            }]);
        });
    }
}

/// A data plane. One more is one more entry of [`PLANES`].
struct Plane {
    name: &'static str,
    /// Makes an agent use it.
    configure: for<'lab> fn(&'lab Lab, AgentBuilder<'lab>) -> (AgentBuilder<'lab>, Option<Haproxy>),
    /// Whether it is this plane that carries something.
    carries: fn(&Agent) -> Result<(), String>,
    /// What it is documented to do otherwise: step, ServicePort, what is met there.
    unlike: fn() -> Vec<(usize, u16, Meets)>,
}

const PLANES: [Plane; 4] = [
    Plane {
        name: "builtin",
        configure: |_, agent| (agent.env("SIDECAR_PROXY", "builtin"), None),
        carries: |agent| {
            let listening = agent.metrics("sidecar_proxy_listening")?;
            is(listening.values().any(|it| *it > 0.0), "it listens nowhere")
        },
        unlike: Vec::new,
    },
    Plane {
        name: "kernel",
        configure: |_, agent| (agent.env("SIDECAR_PROXY", "kernel"), None),
        carries: |agent| {
            let answer = agent.api("/api/v2/local").map_err(|it| it.to_string())?;
            let local: Value = serde_json::from_str(&answer.body).map_err(|it| it.to_string())?;
            let kernel = &local["kernel"];
            // All in mode tcp but for those with addresses of IPv6.
            is(kernel["services"].as_u64() >= Some(6), &kernel.to_string())
        },
        unlike: Vec::new,
    },
    Plane {
        name: "haproxy",
        configure: |lab, agent| {
            let files = Haproxy::new(lab, "run");
            let agent = agent
                .env("SIDECAR_PROXY", "haproxy")
                .env("SIDECAR_HAPROXY_PORTS", "10000-10099")
                .env("SIDECAR_HAPROXY_POOLS", "64,64")
                .env("SIDECAR_HAPROXY_DIR", &files.dir().display().to_string());
            (agent, Some(files))
        },
        carries: haproxy_carries,
        unlike: Vec::new,
    },
    Plane {
        name: "haproxy classic",
        configure: |lab, agent| {
            let files = Haproxy::new(lab, "classic");
            (files.driven_by(agent), Some(files))
        },
        carries: haproxy_carries,
        // A template asks each instance for its one address at each port of its service.
        unlike: || {
            let shares = [(near(8024), 2), (far(8024), 1)];
            let several = |mode, port| (1, port, answers(mode, &shares));
            let [twins, siblings] = [
                several(Mode::Http, SHARED[0]),
                several(Mode::Tcp, SHARED[1]),
            ];
            let part = (1, PARTLY[0], answers(Mode::Http, &[(near(8022), 1)]));
            let first = |step| (step, DOUBLE, answers(Mode::Tcp, &[(near(8026), 1)]));
            vec![twins, siblings, part, first(0), first(1), first(2)]
        },
    },
];

fn haproxy_carries(agent: &Agent) -> Result<(), String> {
    let status = haproxy_status(agent)?;
    is(status["state"] == "applied", &status.to_string())
}

fn is(holds: bool, otherwise: &str) -> Result<(), String> {
    holds.then_some(()).ok_or_else(|| otherwise.to_owned())
}

/// What a client meets once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Met {
    /// Refused, or reset at once, or told so by the proxy.
    Closed,
    Instance(SocketAddr),
    /// Anything else, in words.
    Broken(String),
}

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n";
const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: lab\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// What a WebSocket server answers; RFC 6455's example.
const UPGRADED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                        Connection: Upgrade\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
/// No request at all, so that nobody who reads requests passes it on.
const BYTES: &str = "who is there?\r\n\r\n";

impl Met {
    fn at(host: &Host, port: u16, mode: Mode) -> Self {
        let (said, status) = match mode {
            Mode::Http => (REQUEST, "HTTP/1.1 200 "),
            Mode::Tcp => (BYTES, ""),
            Mode::Ws => (UPGRADE, "HTTP/1.1 101 "),
        };
        let answer = match talk(host, port, said, mode == Mode::Ws) {
            Ok(answer) => answer,
            Err(error) if is_closed(&error) => return Self::Closed,
            Err(error) => return Self::Broken(error.to_string()),
        };
        if answer.contains("\r\n\r\nsidecar: no instance of ") {
            return Self::Closed;
        }
        let last_line = answer.trim_end().rsplit('\n').next();
        match last_line.and_then(|it| it.parse().ok()) {
            Some(address) if answer.starts_with(status) => Self::Instance(address),
            _ => Self::Broken(answer),
        }
    }
}

fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset};
    [BrokenPipe, ConnectionRefused, ConnectionReset].contains(&error.kind())
}

/// All that is answered; what was upgraded is asked once more.
fn talk(host: &Host, port: u16, said: &str, upgraded: bool) -> io::Result<String> {
    let mut stream = host.connect((PROXY_IP, port).into())?;
    stream.write_all(said.as_bytes())?;
    let mut answer = Vec::new();
    if upgraded {
        answer = head(&mut stream)?;
        if answer.starts_with(b"HTTP/1.1 101 ") {
            stream.write_all(BYTES.as_bytes())?;
        }
    }
    stream.read_to_end(&mut answer)?;
    String::from_utf8(answer).map_err(io::Error::other)
}

/// All until an empty line.
fn head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    Ok(head)
}

/// Answers with the address that was asked, in whichever way it was.
fn answer_at(host: &Host, at: SocketAddr) {
    let listener = host.listen(at);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away in the middle is its own affair.
            thread::spawn(move || drop(answer(stream)));
        }
    });
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let address = format!("{}\n", stream.local_addr()?);
    let asked = String::from_utf8_lossy(&head(&mut stream)?).to_ascii_lowercase();
    if asked.contains("upgrade: websocket") {
        stream.write_all(UPGRADED.as_bytes())?;
        head(&mut stream)?;
    } else if asked.starts_with("get ") {
        let length = address.len();
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes())?;
    }
    stream.write_all(address.as_bytes())
}

/// Whether the port is as the table says.
fn expect_port(host: &Host, port: u16, expected: &Meets) -> Result<(), String> {
    let mut counts = BTreeMap::<Met, usize>::new();
    let mut ask = |mode, times| {
        for _ in 0..times {
            *counts.entry(Met::at(host, port, mode)).or_default() += 1;
        }
    };
    let agrees = match expected {
        Meets::Closed | Meets::InVain => {
            ask(Mode::Http, 2);
            counts.keys().eq([&Met::Closed])
        }
        Meets::Answers(mode, shares) => {
            ask(*mode, TURNS * shares.values().sum::<usize>());
            let is_share = |(address, share): (&SocketAddr, &usize)| {
                let count = counts.get(&Met::Instance(*address)).copied();
                // As many too many or too few as another connection here and there explains.
                let wanted = TURNS * share;
                let slack = TURNS / 5;
                (wanted - slack..=wanted + slack).contains(&count.unwrap_or_default())
            };
            shares.len() == counts.len() && shares.iter().all(is_share)
        }
    };
    if !agrees {
        return Err(format!("expected {expected:?}, seen {counts:?}"));
    }
    // Who reads requests lets nothing else through.
    if let Meets::Answers(Mode::Http | Mode::Ws, _) = expected
        && let Met::Instance(address) = Met::at(host, port, Mode::Tcp)
    {
        return Err(format!("{address} gets what is no request"));
    }
    Ok(())
}

/// What an agent says that it routes.
fn routes(agent: &Agent) -> Result<Value, String> {
    let answer = agent.api("/api/v2/routes").map_err(|it| it.to_string())?;
    serde_json::from_str(&answer.body).map_err(|it| it.to_string())
}

/// Whether it says that it routes what the table says.
fn expect_routes(
    routes: &Value,
    meets: &BTreeMap<u16, Meets>,
    step: usize,
    cases: &[Case],
) -> Result<(), String> {
    let list = |name: &str| routes[name].as_array().cloned().unwrap_or_default();
    let port = |it: &Value| {
        it["service_port"]
            .as_u64()
            .and_then(|it| u16::try_from(it).ok())
    };
    let routed: BTreeSet<_> = list("routes").iter().filter_map(port).collect();
    let open = meets.iter().filter(|(_, it)| **it != Meets::Closed);
    let open: BTreeSet<_> = open.map(|(port, _)| *port).collect();
    if routed != open {
        return Err(format!("routes are said to be {routed:?}, not {open:?}"));
    }
    let excluded: BTreeSet<_> = list("excluded")
        .iter()
        .map(|it| {
            let text = |name: &str| it[name].as_str().unwrap_or_default().to_owned();
            (
                port(it).unwrap_or_default(),
                text("service"),
                text("reason"),
            )
        })
        .collect();
    let wanted = cases.iter().flat_map(|it| &it.steps[step].excluded);
    let wanted: BTreeSet<_> = wanted
        .map(|(port, service, reason)| (*port, (*service).to_owned(), (*reason).to_owned()))
        .collect();
    if excluded != wanted {
        return Err(format!(
            "said to be excluded are {excluded:?}, not {wanted:?}"
        ));
    }
    Ok(())
}

/// Runs the table under a plane; what its agent says that it routes, step by step.
fn run(plane: &Plane, cases: &[Case]) -> Vec<Value> {
    let lab = Lab::new(Machine::Shared, &HOSTS);
    for (number, host) in lab.hosts().iter().enumerate() {
        let address = format!("fd00:88::{}/64", number + 1);
        host.said(&["ip", "address", "add", &address, "dev", "eth0", "nodad"]);
    }
    let targets = cases
        .iter()
        .flat_map(|it| &it.steps)
        .flat_map(|it| &it.targets);
    let mut listening: BTreeSet<_> = targets.flat_map(|it| &it.ports).map(|it| it.at).collect();
    listening.insert(legacy(8017));
    listening.retain(|at| at.ip() != PROXY_IP);
    for at in listening {
        answer_at(host_of(&lab, at), at);
    }
    let network = Network::Host(Arc::clone(lab.host(2)));
    let mut peer = LegacyPeer::start(network, "lab", Timing::GO);
    announce_legacy(&mut peer);

    let file = |step: usize| -> Vec<Value> {
        let targets = cases.iter().flat_map(|it| &it.steps[step].targets);
        targets.map(Target::json).collect()
    };
    let builder = AgentBuilder::new(&lab, 0)
        .without("SIDECAR_SEEDS")
        .services(&file(0));
    let (builder, _files) = (plane.configure)(&lab, builder);
    let mut agent = builder.start();
    let seed = (lab.host(0).ip, GOSSIP_PORT).into();
    eventually("the legacy peer joins", JOINED, || peer.join(seed));

    let steps = STEPS.iter().enumerate().map(|(step, title)| {
        if step > 0 {
            lab.write(FILE, &Value::from(file(step)).to_string());
            agent.signal(Signal::HUP);
        }
        let what = format!("with {} for {title} the table is right", plane.name);
        eventually(&what, SETTLED, || {
            let said = expect_step(plane, &agent, cases, step)?;
            (plane.carries)(&agent)?;
            Ok(said)
        })
    });
    steps.collect()
}

/// Whether all is as the table says.
fn expect_step(plane: &Plane, agent: &Agent, cases: &[Case], step: usize) -> Result<Value, String> {
    let unlike = (plane.unlike)();
    let mut all = BTreeMap::new();
    for case in cases {
        for (port, expected) in &case.steps[step].meets {
            let own = unlike.iter().find(|it| (it.0, it.1) == (step, *port));
            let own = own.map_or(expected, |it| &it.2);
            expect_port(&agent.host, *port, own)
                .map_err(|error| format!("{}: port {port} ({}): {error}", plane.name, case.what))?;
            all.insert(*port, expected.clone());
        }
    }
    let said = routes(agent)?;
    expect_routes(&said, &all, step, cases).map_err(|error| format!("{}: {error}", plane.name))?;
    Ok(said)
}

#[test]
fn all_data_planes_route_the_same_records_identically() {
    let cases = table();
    let said = PLANES.map(|plane| (plane.name, run(&plane, &cases)));
    let (first, rest) = said.split_first().expect("there are planes");
    for (name, routes) in rest {
        for (step, title) in STEPS.iter().enumerate() {
            assert_eq!(
                first.1[step], routes[step],
                "{} and {name} do not say the same for {title}",
                first.0
            );
        }
    }
}
