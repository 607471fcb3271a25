//! What one change costs in a big cluster, from the catalog's snapshot to open sockets: 2,000 services
//! with five endpoints each. Prints numbers and judges nothing.
//!
//! ```text
//! cargo bench -p sidecar --bench routes_apply
//! ```
//!
//! Each change takes one instance out or puts it back. `decide` is the new routes from the new snapshot,
//! `apply` the built-in data plane's way from there until its status shows the change, all on this machine's
//! loopback interface. At the end stands what the process has grown by since the first tenth of the changes.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use catalog::{Author, Now, Port, Service, State, Status, Timestamp, Upkeep};
use sidecar::{
    proxy::builtin::{self, ListenState, PlaneStatus},
    routes::Router,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const SERVICES: usize = 2_000;
const HOSTS: usize = 5;
/// ServicePorts count up from here; on an address of their own nobody else has them.
const FIRST_PORT: usize = 20_000;
const BIND: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 88, 1, 1));

fn main() {
    let changes = std::env::var("CHANGES").map_or(20_000, |it| it.parse().unwrap());
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(measure(changes));
}

async fn measure(changes: usize) {
    let mut cluster = Cluster::new();
    let mut router = Router::default();
    let first = router.follow(cluster.state.snapshot()).clone();
    let (routes, routes_seen) = watch::channel(Arc::new(first));
    let (status_out, mut status) = watch::channel(Arc::<PlaneStatus>::default());
    let shutdown = CancellationToken::new();
    let start = Instant::now();
    let plane = tokio::spawn(builtin::run(
        builtin::Options::default(),
        BIND,
        routes_seen,
        status_out,
        shutdown.clone(),
    ));
    let all_listen = |it: &Arc<PlaneStatus>| {
        it.ports.len() == SERVICES
            && it
                .ports
                .values()
                .all(|it| it.listen == ListenState::Listening)
    };
    drop(status.wait_for(all_listen).await.unwrap());
    println!(
        "{SERVICES} services x {HOSTS} endpoints: all ports open after {:?}",
        start.elapsed()
    );

    // Touched now, so that they do not count as growth.
    let (mut decide, mut apply) = (vec![Duration::MAX; changes], vec![Duration::MAX; changes]);
    let mut settled = 0;
    for number in 0..changes {
        if number == changes / 10 {
            settled = resident_kib();
        }
        let (port, endpoints) = cluster.change(number);
        let begin = Instant::now();
        let newest = Arc::new(router.follow(cluster.state.snapshot()).clone());
        decide[number] = begin.elapsed();
        let begin = Instant::now();
        routes.send_replace(newest);
        let shown = |it: &Arc<PlaneStatus>| it.ports[&port].endpoints.len() == endpoints;
        drop(status.wait_for(shown).await.unwrap());
        apply[number] = begin.elapsed();
    }
    report("decide", &mut decide);
    report("apply", &mut apply);
    let grown = resident_kib() as f64 / settled as f64 - 1.0;
    println!("memory {settled} KiB, {:+.1} % since", grown * 100.0);
    shutdown.cancel();
    plane.await.unwrap();
}

fn report(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!(
        "{what:7} p50 {:?}, p99 {:?}, max {:?}",
        at(50),
        at(99),
        at(100)
    );
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|it| it.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

struct Cluster {
    state: State,
    now: Now,
    stamp: i128,
    alive: Vec<[bool; HOSTS]>,
}

impl Cluster {
    fn new() -> Self {
        let now = Now {
            wall: Timestamp::from_unix_nanos(1_000_000_000_000_000_000),
            monotonic: Instant::now(),
        };
        let mut cluster = Self {
            state: State::new("host0", "bench"),
            now,
            stamp: 0,
            alive: vec![[true; HOSTS]; SERVICES],
        };
        for host in 0..HOSTS {
            cluster
                .state
                .member_up(&format!("host{host}"), Upkeep::Membership, now);
            for service in 0..SERVICES {
                cluster.put(host, service, Status::Alive);
            }
        }
        cluster
    }

    fn put(&mut self, host: usize, service: usize, status: Status) {
        self.stamp += 1;
        let created = Timestamp::from_unix_nanos(999_999_999_000_000_000);
        let port = u16::try_from(FIRST_PORT + service).unwrap();
        let record = Service {
            id: format!("{service:012x}"),
            name: format!("service-{service}"),
            image: "registry/team/service:1.2.3".to_owned(),
            created,
            hostname: format!("host{host}"),
            ports: Some(vec![Port {
                kind: "tcp".to_owned(),
                port: 32_768,
                service_port: port,
                ip: format!("10.0.0.{}", host + 1),
            }]),
            updated: Timestamp::from_unix_nanos(1_000_000_000_000_000_000 + self.stamp),
            proxy_mode: "tcp".to_owned(),
            weight: None,
            status,
        };
        self.state.apply(record, Author::Own, self.now).unwrap();
    }

    /// Takes an instance out of its service, or puts it back; its port and how many there are then.
    fn change(&mut self, number: usize) -> (u16, usize) {
        let service = number.wrapping_mul(7919) % SERVICES;
        let host = number / SERVICES % (HOSTS - 1);
        let alive = !self.alive[service][host];
        self.alive[service][host] = alive;
        let status = if alive {
            Status::Alive
        } else {
            Status::Unhealthy
        };
        self.put(host, service, status);
        let endpoints = self.alive[service].iter().filter(|it| **it).count();
        (u16::try_from(FIRST_PORT + service).unwrap(), endpoints)
    }
}
