//! `sidecar simulate` as a user meets it: a table, JSON, a picture, and errors that name what is wrong.

#![cfg(target_os = "linux")]

use std::process::{Command, Output};

fn simulate(line: &str) -> Output {
    Command::new(blackbox::sidecar())
        .arg("simulate")
        .args(line.split_whitespace())
        .output()
        .expect("the binary runs")
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

#[test]
fn equal_seeds_print_equal_reports() {
    let line = "--hosts 12 --services 2 --scenario churn --rate 5 --duration 2 --json --seed";
    let report = |seed: u32| {
        let text = stdout(&simulate(&format!("{line} {seed}")));
        let mut report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        for machine in ["cpu_s", "wall_s", "peak_memory_mib"] {
            let value = report["totals"].as_object_mut().expect("totals");
            assert!(value.remove(machine).is_some(), "{machine}");
        }
        report
    };
    let one = report(7);
    assert_eq!(one, report(7));
    assert_ne!(one, report(8));
    assert_eq!(one["settings"]["hosts"], 12);
    assert_eq!(one["spread"]["missing"], 0);
    assert_eq!(one["totals"]["lost_services"], 0);
}

#[test]
fn the_table_and_the_picture_tell_the_same_story() {
    let dir = tempfile::tempdir().expect("a directory");
    let plot = dir.path().join("change.svg");
    let line = format!(
        "--hosts 9 --scenario change --duration 2 --plot {}",
        plot.display()
    );
    let table = stdout(&simulate(&line));
    assert!(table.contains("9 hosts, 10 services each"), "{table}");
    assert!(table.contains("until every host knows"), "{table}");
    let picture = std::fs::read_to_string(&plot).expect("the picture");
    assert!(picture.starts_with("<svg ") && picture.trim_end().ends_with("</svg>"));
}

#[test]
fn what_cannot_be_simulated_is_named() {
    for (line, expected) in [
        ("--hosts 1", "2..=16000"),
        ("--hosts 20000", "2..=16000"),
        ("--scenario earthquake", "earthquake"),
        ("--network carrier-pigeon", "carrier-pigeon"),
        ("--duration soon", "soon"),
        (
            "--hosts 2 --duration 1 --plot /nowhere/plot.svg",
            "/nowhere/plot.svg",
        ),
    ] {
        let output = simulate(line);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{line}");
        assert!(error.contains(expected), "{line}: {error}");
    }
}
