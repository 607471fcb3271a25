//! Whether `CONFORMANCE.md` is true: every item is there and every test it names exists.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const TABLE: &str = include_str!("../../CONFORMANCE.md");
const ITEMS: usize = 64;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Number, requirement and evidence of each row.
fn rows() -> Vec<(usize, &'static str, &'static str)> {
    TABLE
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ");
            let number = cells.next()?.parse().ok()?;
            Some((number, cells.next()?, cells.next()?))
        })
        .collect()
}

/// What stands between backquotes and looks like `path/of/file.rs::test`.
fn tests_named(evidence: &str) -> impl Iterator<Item = (&str, &str)> {
    evidence
        .split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|quoted| quoted.split_once(".rs::"))
}

#[test]
fn the_table_has_every_item_and_each_has_a_test_or_a_reason() {
    let rows = rows();
    let numbers: Vec<usize> = rows.iter().map(|row| row.0).collect();
    assert_eq!(numbers, (1..=ITEMS).collect::<Vec<_>>());
    for (number, what, evidence) in rows {
        assert!(!what.trim().is_empty(), "item {number} says nothing");
        let open = evidence.contains("open (");
        assert!(
            open || tests_named(evidence).count() > 0,
            "item {number} has neither a test nor the reason why it is open"
        );
    }
}

/// R1 to R25, each of which has at least one test.
#[test]
fn every_reaction_has_a_test() {
    let shown: Vec<&str> = TABLE
        .lines()
        .filter(|line| line.starts_with("| R") && tests_named(line).count() > 0)
        .filter_map(|line| line.split(' ').nth(1))
        .collect();
    let all: Vec<String> = (1..=25).map(|number| format!("R{number}")).collect();
    assert_eq!(shown, all);
}

#[test]
fn every_test_that_is_named_exists() {
    let mut sources: BTreeMap<String, String> = BTreeMap::new();
    let mut named = 0;
    for (number, line) in (1..).zip(TABLE.lines()) {
        for (file, test) in tests_named(line) {
            let path = format!("{file}.rs");
            let source = sources.entry(path.clone()).or_insert_with(|| {
                let found = [
                    Path::new(env!("CARGO_MANIFEST_DIR")).join(&path),
                    workspace().join(&path),
                ];
                found
                    .iter()
                    .find_map(|path| fs::read_to_string(path).ok())
                    .unwrap_or_else(|| panic!("line {number}: there is no file {path}"))
            });
            let head = format!("fn {test}(");
            let at = source
                .find(&head)
                .unwrap_or_else(|| panic!("line {number}: {path} has no test {test}"));
            let before: Vec<&str> = source[..at].lines().rev().take(8).collect();
            assert!(
                before.iter().any(|line| line.contains("test]")) || source.contains("proptest! {"),
                "line {number}: {test} of {path} is not a test"
            );
            named += 1;
        }
    }
    assert!(named > ITEMS, "{named} tests named");
}
