//! The table: who announces what, and what a client meets at each ServicePort then.

use super::*;

/// The agent's host, one without an agent, and one with a Go Sidecar, whose records say what no file may.
pub(super) const HOSTS: [&str; 3] = ["solo", "far", "legacy"];
pub(super) const FILE: &str = "static-solo.json";

pub(super) fn on_host(number: u8, port: u16) -> SocketAddr {
    (Ipv4Addr::new(10, 88, 0, number), port).into()
}

pub(super) fn near(port: u16) -> SocketAddr {
    on_host(1, port)
}

pub(super) fn far(port: u16) -> SocketAddr {
    on_host(2, port)
}

pub(super) fn legacy(port: u16) -> SocketAddr {
    on_host(3, port)
}

pub(super) fn far_6(port: u16) -> SocketAddr {
    (Ipv6Addr::new(0xfd00, 0x88, 0, 0, 0, 0, 0, 2), port).into()
}

pub(super) fn at_proxy(port: u16) -> SocketAddr {
    (PROXY_IP, port).into()
}

/// The host of an address of the table.
pub(super) fn host_of(lab: &Lab, address: SocketAddr) -> &Arc<Host> {
    let number = match address.ip() {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(ip) => ip.octets()[15],
    };
    lab.host(usize::from(number) - 1)
}

/// How a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Http,
    Tcp,
    Ws,
}

impl Mode {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Ws => "ws",
        }
    }
}

/// One entry of the static file.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) service: &'static str,
    pub(super) hostname: Option<&'static str>,
    pub(super) mode: &'static str,
    pub(super) weight: Option<u8>,
    pub(super) ports: Vec<Port>,
    pub(super) is_healthy: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Port {
    pub(super) kind: &'static str,
    /// Where somebody listens, whatever the record says.
    pub(super) at: SocketAddr,
    /// The address in the record.
    pub(super) ip: String,
    pub(super) service_port: u16,
}

pub(super) fn target(
    service: &'static str,
    mode: Mode,
    at: SocketAddr,
    service_port: u16,
) -> Target {
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
    pub(super) fn and(mut self, kind: &'static str, at: SocketAddr, service_port: u16) -> Self {
        let ip = at.ip().to_string();
        self.ports.push(Port {
            kind,
            at,
            ip,
            service_port,
        });
        self
    }

    pub(super) fn kind(mut self, kind: &'static str) -> Self {
        self.ports[0].kind = kind;
        self
    }

    pub(super) fn ip(mut self, ip: &str) -> Self {
        ip.clone_into(&mut self.ports[0].ip);
        self
    }

    pub(super) fn mode(self, mode: &'static str) -> Self {
        Self { mode, ..self }
    }

    pub(super) fn of(self, hostname: &'static str) -> Self {
        let hostname = Some(hostname);
        Self { hostname, ..self }
    }

    pub(super) fn weight(self, weight: u8) -> Self {
        let weight = Some(weight);
        Self { weight, ..self }
    }

    pub(super) fn ill(self) -> Self {
        let is_healthy = false;
        Self { is_healthy, ..self }
    }

    pub(super) fn json(&self) -> Value {
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
pub(super) enum Meets {
    /// Nobody.
    Closed,
    /// Nobody, though there is a route.
    InVain,
    /// These and nobody else, with these shares.
    Answers(Mode, BTreeMap<SocketAddr, usize>),
}

pub(super) fn answers(mode: Mode, shares: &[(SocketAddr, usize)]) -> Meets {
    Meets::Answers(mode, shares.iter().copied().collect())
}

/// What one case has in the file at one step, and what comes of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Step {
    pub(super) targets: Vec<Target>,
    pub(super) meets: BTreeMap<u16, Meets>,
    /// ServicePort, service and reason of those that are not routed.
    pub(super) excluded: BTreeSet<(u16, &'static str, &'static str)>,
}

pub(super) fn with<const N: usize>(targets: [&Target; N]) -> Step {
    Step {
        targets: targets.into_iter().cloned().collect(),
        ..Step::default()
    }
}

impl Step {
    pub(super) fn gives(mut self, port: u16, mode: Mode, shares: &[(SocketAddr, usize)]) -> Self {
        self.meets.insert(port, answers(mode, shares));
        self
    }

    pub(super) fn closed(mut self, port: u16) -> Self {
        self.meets.insert(port, Meets::Closed);
        self
    }

    pub(super) fn in_vain(mut self, port: u16) -> Self {
        self.meets.insert(port, Meets::InVain);
        self
    }

    pub(super) fn excludes(
        mut self,
        port: u16,
        service: &'static str,
        reason: &'static str,
    ) -> Self {
        self.excluded.insert((port, service, reason));
        self
    }
}

/// One thing that planes must agree on.
pub(super) struct Case {
    pub(super) what: &'static str,
    pub(super) steps: [Step; 3],
}

pub(super) fn case(what: &'static str, steps: [Step; 3]) -> Case {
    Case { what, steps }
}

pub(super) fn always(what: &'static str, step: &Step) -> Case {
    case(what, [(); 3].map(|()| step.clone()))
}

/// The ServicePorts of a service whose younger instance has the first of them only.
pub(super) const PARTLY: [u16; 2] = [10022, 10023];
/// ServicePorts of services with several instances at one address.
pub(super) const SHARED: [u16; 2] = [10024, 10025];
/// A ServicePort that one instance offers at two addresses.
pub(super) const DOUBLE: u16 = 10026;

pub(super) fn table() -> Vec<Case> {
    [plain(), decided(), unroutable(), addresses(), changed()]
        .into_iter()
        .flatten()
        .collect()
}

/// Modes and shares.
pub(super) fn plain() -> Vec<Case> {
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
pub(super) fn decided() -> Vec<Case> {
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
pub(super) fn unroutable() -> Vec<Case> {
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
pub(super) fn addresses() -> Vec<Case> {
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
pub(super) fn changed() -> Vec<Case> {
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
pub(super) fn announce_legacy(peer: &mut LegacyPeer) {
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
