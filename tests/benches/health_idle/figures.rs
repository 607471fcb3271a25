//! The figures of the bench and how they are taken.

use std::{
    fs,
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use blackbox::{Agent, AgentBuilder, Answer, Lab, Machine, Responder, eventually};
use serde_json::{Value, json};

const COUNTS: [u16; 3] = [0, 200, 1000];
/// The first rounds are not spread yet, and fill what is filled once.
const SETTLED: Duration = Duration::from_secs(10);
const MEASURED: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(60);

#[expect(clippy::print_stdout, reason = "the table is what the bench is for")]
pub(crate) fn run() {
    let lab = Lab::new(Machine::Alone, &["one"]);
    let service = Responder::start(lab.host(0), (Ipv4Addr::LOCALHOST, 8100).into());
    service.set("/health", Answer::ok("fine"));
    println!("| checks every 3 s | processor | per check | memory |");
    println!("|---|---|---|---|");
    for count in COUNTS {
        let mut agent = AgentBuilder::new(&lab, 0)
            .env("SIDECAR_PROXY", "none")
            .services(&targets(count))
            .start();
        eventually("all are alive", PATIENCE, || alive(&agent, count));
        thread::sleep(SETTLED);
        let (before, start) = (checks(&agent), Instant::now());
        let spent = processor(&agent);
        thread::sleep(MEASURED);
        let spent = processor(&agent) - spent;
        let elapsed = start.elapsed();
        let checks = checks(&agent) - before;
        let share = spent.as_secs_f64() / elapsed.as_secs_f64() * 100.0;
        let each = if checks == 0.0 {
            "-".to_owned()
        } else {
            format!("{:.0} µs", spent.as_secs_f64() / checks * 1e6)
        };
        println!(
            "| {count} | {share:.2} % | {each} | {} KiB |",
            memory_kib(&agent)
        );
        agent.kill();
    }
}

fn targets(count: u16) -> Vec<Value> {
    let target = |number: u16| {
        json!({
            "Service": {
                "Name": format!("s{number}"),
                "Ports": [{ "Type": "tcp", "Port": 10_000 + number }],
            },
            "Check": { "Type": "HttpGet", "Args": "http://127.0.0.1:8100/health" },
        })
    };
    (0..count).map(target).collect()
}

fn alive(agent: &Agent, count: u16) -> Result<(), String> {
    let found = agent.metrics("sidecar_checks")?;
    let alive = found.get("sidecar_checks{kind=\"HttpGet\",status=\"Alive\"}");
    if alive.copied().unwrap_or(0.0) == f64::from(count) {
        return Ok(());
    }
    Err(format!("{found:?}"))
}

/// Results so far.
fn checks(agent: &Agent) -> f64 {
    let found = agent.metrics("sidecar_check_results_total");
    found.expect("the agent answers").values().sum()
}

/// The processor time that the agent has spent.
fn processor(agent: &Agent) -> Duration {
    // In nanoseconds, over all its threads: the ticks of `stat` are too coarse for an idle program.
    let tasks = fs::read_dir(format!("/proc/{}/task", agent.pid())).expect("it runs");
    let spent = tasks.flatten().filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(spent.sum())
}

fn memory_kib(agent: &Agent) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    number
        .and_then(|it| it.parse().ok())
        .expect("a number of KiB")
}
