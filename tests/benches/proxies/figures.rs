//! The rounds, the tables and the ratios.

use std::{collections::BTreeMap, time::Duration};

use blackbox::{Lab, Machine};

use crate::{
    idle, usage,
    ways::{self, Way},
    wrk,
};

/// The hosts: one where the kernel translates nothing, one where it does. A table of translations anywhere
/// on a host makes the kernel follow every connection of it.
const PLAIN: usize = 0;
const TRANSLATING: usize = 1;
const SMALL_CONNECTIONS: u32 = 64;
const LARGE_CONNECTIONS: u32 = 16;
const LARGE_MB: f64 = blackbox::backend::LARGE_BYTES as f64 / 1e6;

/// What is measured of a way in a round, and then the medians of it.
#[derive(Debug, Clone, Copy)]
struct Figures {
    per_second: f64,
    p50: f64,
    p99: f64,
    /// Seconds of processor time for a request: the proxy's, if it has a process, and everybody's.
    proxy: Option<f64>,
    everybody: f64,
}

impl Figures {
    fn median(of: &[Self]) -> Self {
        let middle = |what: &dyn Fn(&Self) -> f64| {
            let mut values: Vec<f64> = of.iter().map(what).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        Self {
            per_second: middle(&|it| it.per_second),
            p50: middle(&|it| it.p50),
            p99: middle(&|it| it.p99),
            proxy: of[0]
                .proxy
                .map(|_| middle(&|it| it.proxy.unwrap_or_default())),
            everybody: middle(&|it| it.everybody),
        }
    }
}

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |it| it.parse().unwrap())
}

pub(crate) fn run() {
    let parts = std::env::var("PROXIES_PARTS").unwrap_or_else(|_| "small,large,memory".to_owned());
    let parts: Vec<&str> = parts.split(',').collect();
    if parts.contains(&"small") || parts.contains(&"large") {
        let lab = Lab::new(Machine::Alone, &["plain", "translating"]);
        let backends = [PLAIN, TRANSLATING].map(|host| ways::backend(&lab, host));
        let backends = backends.each_ref().map(|it| it.pid());
        let (_nat, kernel) = ways::kernel(&lab, TRANSLATING);
        let (_agent, builtin) = ways::builtin(&lab, PLAIN);
        let (_haproxy, haproxy) = ways::haproxy(&lab, PLAIN);
        let envoy = ways::envoy(&lab, PLAIN);
        let mut ways = vec![ways::direct(&lab, PLAIN), kernel];
        ways.extend(builtin);
        ways.extend(haproxy);
        ways.extend(envoy.iter().map(|(_, way)| way.clone()));
        if parts.contains(&"small") {
            small(&lab, &backends, &ways);
        }
        if parts.contains(&"large") {
            large(&lab, &backends, &ways);
        }
    }
    if parts.contains(&"memory") {
        idle::run();
    }
}

fn small(lab: &Lab, backends: &[u32], ways: &[Way]) {
    let ways: Vec<Way> = ways
        .iter()
        .filter(|it| it.name != "haproxy splice")
        .cloned()
        .collect();
    let all = rounds(lab, backends, &ways, "/", SMALL_CONNECTIONS);
    println!("\nA body of 6 bytes over {SMALL_CONNECTIONS} connections, keep-alive:\n");
    println!(
        "| way | requests/s | p50 | p99 | requests/CPU s of proxy | of client, proxy and backend |"
    );
    println!("|---|---|---|---|---|---|");
    for (way, figures) in ways.iter().zip(&all) {
        let proxy = figures
            .proxy
            .map_or_else(|| "–".to_owned(), |it| format!("{:.0}", 1.0 / it));
        println!(
            "| {} | {:.0} | {:.2} ms | {:.2} ms | {proxy} | {:.0} |",
            way.name,
            figures.per_second,
            figures.p50 * 1e3,
            figures.p99 * 1e3,
            1.0 / figures.everybody,
        );
    }
    let all: BTreeMap<&str, Figures> = ways.iter().map(|it| it.name).zip(all).collect();
    println!("\n| ratio | requests/s | requests/CPU s of proxy | of all | p99 | wanted |");
    println!("|---|---|---|---|---|---|");
    let kernel = ways[1].name;
    for (one, other, wanted) in [
        (kernel, "direct", 0.8),
        (kernel, "haproxy tcp", 1.5),
        ("builtin tcp", "haproxy tcp", 1.0),
        ("builtin http", "haproxy http", 1.0),
        ("builtin http", "envoy http", 2.5),
    ] {
        let Some((a, b)) = all.get(one).zip(all.get(other)) else {
            continue;
        };
        let proxy = a.proxy.zip(b.proxy);
        let proxy = proxy.map_or_else(|| "–".to_owned(), |(a, b)| format!("{:.2}", b / a));
        println!(
            "| {one} : {other} | {:.2} | {proxy} | {:.2} | {:.2} | ≥ {wanted} |",
            a.per_second / b.per_second,
            b.everybody / a.everybody,
            a.p99 / b.p99,
        );
    }
}

fn large(lab: &Lab, backends: &[u32], ways: &[Way]) {
    let all = rounds(lab, backends, ways, "/large", LARGE_CONNECTIONS);
    println!("\nBodies of 1 MiB over {LARGE_CONNECTIONS} connections:\n");
    println!("| way | MB/s | MB/CPU s of proxy | of client, proxy and backend |");
    println!("|---|---|---|---|");
    for (way, figures) in ways.iter().zip(&all) {
        let proxy = figures
            .proxy
            .map_or_else(|| "–".to_owned(), |it| format!("{:.0}", LARGE_MB / it));
        println!(
            "| {} | {:.0} | {proxy} | {:.0} |",
            way.name,
            figures.per_second * LARGE_MB,
            LARGE_MB / figures.everybody,
        );
    }
    let all: BTreeMap<&str, Figures> = ways.iter().map(|it| it.name).zip(all).collect();
    println!("\n| ratio | MB/s | MB/CPU s of proxy | wanted |\n|---|---|---|---|");
    for (one, other) in [
        ("builtin tcp", "haproxy tcp"),
        ("builtin tcp", "haproxy splice"),
        ("builtin http", "haproxy http"),
        ("builtin http", "envoy http"),
    ] {
        let Some((a, b)) = all.get(one).zip(all.get(other)) else {
            continue;
        };
        let proxy = b.proxy.unwrap_or_default() / a.proxy.unwrap_or_default();
        println!(
            "| {one} : {other} | {:.2} | {proxy:.2} | ≥ 1 |",
            a.per_second / b.per_second
        );
    }
}

/// The medians for each way, the ways taking turns.
fn rounds(lab: &Lab, backends: &[u32], ways: &[Way], path: &str, connections: u32) -> Vec<Figures> {
    let (rounds, seconds) = (number("PROXIES_ROUNDS", 5), number("PROXIES_SECONDS", 4));
    let mut taken = vec![Vec::new(); ways.len()];
    for way in ways {
        // What is filled once and grown once is not what is measured.
        wrk::run(lab.host(way.host), way.at, path, connections, 1);
    }
    for _ in 0..rounds {
        for (taken, way) in taken.iter_mut().zip(ways) {
            let used = || {
                let proxy = way.proxy.map(usage::processor).unwrap_or_default();
                let others = usage::ended_children() + usage::processor(backends[way.host]);
                [proxy, others]
            };
            let before = used();
            let report = wrk::run(lab.host(way.host), way.at, path, connections, seconds);
            let after = used();
            let each = |time: Duration| time.as_secs_f64() / report.requests;
            let proxy = each(after[0] - before[0]);
            taken.push(Figures {
                per_second: report.per_second,
                p50: report.p50.as_secs_f64(),
                p99: report.p99.as_secs_f64(),
                proxy: way.proxy.map(|_| proxy),
                everybody: proxy + each(after[1] - before[1]),
            });
        }
    }
    taken.iter().map(|it| Figures::median(it)).collect()
}
