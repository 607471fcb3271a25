//! The client: one run of `wrk`, and its report in numbers.

use std::{net::SocketAddr, time::Duration};

use blackbox::Host;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Report {
    pub(crate) requests: f64,
    pub(crate) per_second: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// Heads and bodies.
    pub(crate) bytes_per_second: f64,
}

/// Requests without a pause over so many connections.
pub(crate) fn run(host: &Host, to: SocketAddr, path: &str, connections: u32, secs: u64) -> Report {
    run_with(host, to, path, connections, secs, None)
}

/// The same with a header line.
pub(crate) fn run_with(
    host: &Host,
    to: SocketAddr,
    path: &str,
    connections: u32,
    secs: u64,
    header: Option<&str>,
) -> Report {
    let header = header.map(|it| format!("--header={it}"));
    let (connections, secs) = (
        format!("--connections={connections}"),
        format!("--duration={secs}s"),
    );
    let url = format!("http://{to}{path}");
    let mut command = vec!["wrk", "--threads=1", "--latency", "--timeout=60s"];
    command.extend([connections.as_str(), secs.as_str()]);
    command.extend(header.as_deref());
    command.push(&url);
    let output = host.run(&command);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "wrk: {text}");
    // These lines are there only when there is something to say.
    assert!(
        !text.contains("Non-2xx") && !text.contains("Socket errors"),
        "requests to {to} failed: {text}"
    );
    parse(&text).unwrap_or_else(|| panic!("not a report of wrk: {text}"))
}

fn parse(text: &str) -> Option<Report> {
    let after = |name: &str| {
        let line = text.lines().find_map(|it| it.trim().strip_prefix(name));
        line.map(str::trim)
    };
    let requests = text.lines().find(|it| it.contains(" requests in "))?;
    Some(Report {
        requests: requests.split_whitespace().next()?.parse().ok()?,
        per_second: after("Requests/sec:")?.parse().ok()?,
        p50: duration(after("50%")?)?,
        p99: duration(after("99%")?)?,
        bytes_per_second: bytes(after("Transfer/sec:")?)?,
    })
}

/// `870.00B`, `1.23KB`, `1.05MB` or `1.05GB`, in steps of 1,024.
fn bytes(text: &str) -> Option<f64> {
    let units = [("GB", 30), ("MB", 20), ("KB", 10), ("B", 0)];
    units.iter().find_map(|(unit, bits)| {
        let number: f64 = text.strip_suffix(unit)?.parse().ok()?;
        Some(number * f64::from(1 << bits))
    })
}

/// `870.00us`, `1.23ms` or `1.05s`.
fn duration(text: &str) -> Option<Duration> {
    let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    units.iter().find_map(|(unit, seconds)| {
        let number: f64 = text.strip_suffix(unit)?.parse().ok()?;
        Some(Duration::from_secs_f64(number * seconds))
    })
}
