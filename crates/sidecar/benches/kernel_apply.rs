//! How fast the kernel data plane applies a change, and that nothing grows: 2,000 services with 5 endpoints
//! each, 100,000 changes of one endpoint of one service. As root, in a network namespace of its own:
//! `unshare -n cargo bench -p sidecar --bench kernel_apply`. A number behind `--` is the number of changes.
#![cfg_attr(not(target_os = "linux"), allow(unused))]
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() {
    linux::main();
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        collections::BTreeSet,
        net::SocketAddr,
        sync::Arc,
        time::{Duration, Instant},
    };

    use catalog::{ProxyMode, Snapshot};
    use sidecar::{
        proxy::kernel::Plane,
        routes::{Endpoint, Route, Routes},
    };

    const SERVICES: u16 = 2_000;
    const ENDPOINTS: u8 = 5;
    const FIRST_PORT: u16 = 10_000;
    const GOSSIP_PORT: u16 = 7946;

    pub(super) fn main() {
        let changes = std::env::args().find_map(|word| word.parse().ok());
        let changes: u32 = changes.unwrap_or(100_000);
        let snapshot = Snapshot::empty("here", "bench");
        let mut plane = Plane::new([192, 168, 168, 168].into(), GOSSIP_PORT, Vec::new());
        let mut routes = Routes::default();
        for service in 0..SERVICES {
            let endpoints = (0..ENDPOINTS).map(|it| endpoint(service, it, 0)).collect();
            routes
                .by_port
                .insert(FIRST_PORT + service, Arc::new(route(service, endpoints)));
        }
        let began = Instant::now();
        plane.follow(
            &Arc::new(routes.clone()),
            &BTreeSet::new(),
            &BTreeSet::new(),
            &snapshot,
        );
        plane
            .apply(&snapshot)
            .expect("root, in a network namespace");
        println!(
            "{SERVICES} services, {ENDPOINTS} endpoints each, in {:.1?}",
            began.elapsed()
        );
        let began = Instant::now();
        let seen = size(&mut plane);
        println!("read back in {:.1?}", began.elapsed());
        // Their pages count from the beginning.
        let figures = || {
            let mut figures = vec![Duration::MAX; usize::try_from(changes).unwrap()];
            figures.clear();
            figures
        };
        let (mut whole, mut at_quarter) = (figures(), None);
        let (mut to_kernel, mut busy) = (figures(), figures());
        let before = Memory::now();
        println!("before: {seen}, {before}");

        for change in 0..changes {
            let service = u16::try_from(change.wrapping_mul(7919) % u32::from(SERVICES)).unwrap();
            let port = FIRST_PORT + service;
            let mut changed = Route::clone(&routes.by_port[&port]);
            match change % 4 {
                // Instances come, go, are replaced, and get another weight.
                0 => changed.endpoints.push(endpoint(service, 9, change)),
                1 => {
                    changed.endpoints.pop();
                }
                2 => changed.endpoints[0] = endpoint(service, 8, change),
                _ => changed.endpoints[1].weight = 1 + u8::try_from(change / 4 % 3).unwrap(),
            }
            while changed.endpoints.len() < usize::from(ENDPOINTS) {
                changed.endpoints.push(endpoint(service, 7, change));
            }
            changed.endpoints.truncate(usize::from(ENDPOINTS) + 1);
            routes.by_port.insert(port, Arc::new(changed));
            let newest = Arc::new(routes.clone());
            let began = Instant::now();
            plane.follow(&newest, &BTreeSet::new(), &BTreeSet::new(), &snapshot);
            let (followed, processor) = (Instant::now(), processor_time());
            plane.apply(&snapshot).unwrap();
            whole.push(began.elapsed());
            to_kernel.push(followed.elapsed());
            busy.push(processor_time().saturating_sub(processor));
            if change == changes / 4 {
                at_quarter = Some(Memory::now());
            }
        }
        quantiles("from the routes to the kernel's answer", whole);
        quantiles("of these in the kernel and on the way there", to_kernel);
        quantiles(
            "processor time of that, which others on the machine do not add to",
            busy,
        );
        let seen = size(&mut plane);
        if let Some(quarter) = at_quarter {
            println!("after a quarter: {quarter}");
        }
        println!("after {changes} changes: {seen}, {}", Memory::now());
        let counts = plane.counts();
        println!("{counts:?}, dead endpoints {}", plane.dead_endpoints());
    }

    fn endpoint(service: u16, number: u8, change: u32) -> Endpoint {
        let [_, a, b, c] = change.to_be_bytes();
        let ip = if number < ENDPOINTS {
            [
                10,
                number,
                service.to_be_bytes()[0],
                service.to_be_bytes()[1],
            ]
        } else {
            [11 + a, b, c, number]
        };
        Endpoint {
            hostname: "there".to_owned(),
            id: format!("{service}-{number}-{change}"),
            address: SocketAddr::from((ip, 8080)),
            weight: 1,
        }
    }

    fn route(service: u16, endpoints: Vec<Endpoint>) -> Route {
        Route {
            service: format!("service-{service}"),
            mode: ProxyMode::Tcp,
            endpoints,
        }
    }

    /// Chains, rules and elements in the kernel, as it tells them.
    fn size(plane: &mut Plane) -> String {
        let size = plane.size().unwrap();
        let [ports, live, dead] = size;
        format!("{ports} ports with chain and rule, {live} tracked and {dead} dead endpoints")
    }

    fn quantiles(what: &str, mut times: Vec<Duration>) {
        times.sort_unstable();
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        println!(
            "{what}: p50 {:.3?}, p99 {:.3?}, worst {:.1?}",
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }

    fn processor_time() -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::try_from(time).unwrap_or_default()
    }

    /// Of this process and of the kernel's own objects, in kB.
    struct Memory {
        process: u64,
        slab: u64,
    }

    impl Memory {
        fn now() -> Self {
            let read = |file: &str, name: &str| {
                let text = std::fs::read_to_string(file).unwrap();
                let line = text.lines().find(|it| it.starts_with(name)).unwrap();
                line.split_whitespace().nth(1).unwrap().parse().unwrap()
            };
            Self {
                process: read("/proc/self/status", "VmRSS:"),
                slab: read("/proc/meminfo", "SUnreclaim:"),
            }
        }
    }

    impl std::fmt::Display for Memory {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            let Self { process, slab } = self;
            write!(
                f,
                "process {process} kB, unreclaimable slab of the machine {slab} kB"
            )
        }
    }
}
