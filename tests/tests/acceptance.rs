//! Whether `ACCEPTANCE.md` is true: every statement is there and every test it names exists.

use std::{fs, path::Path};

const TABLE: &str = include_str!("../ACCEPTANCE.md");

/// Number and evidence of each row.
fn rows() -> Vec<(u32, &'static str)> {
    let rows = TABLE.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ");
        let number = cells.next()?.parse().ok()?;
        Some((number, cells.nth(1)?))
    });
    rows.collect()
}

#[test]
fn every_statement_has_a_test_that_exists() {
    let rows = rows();
    let numbers: Vec<u32> = rows.iter().map(|row| row.0).collect();
    let wanted = (21..=37).chain(42..=95);
    assert_eq!(numbers, wanted.collect::<Vec<_>>());
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (number, evidence) in rows {
        let named: Vec<&str> = evidence.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "row {number} names no test");
        for name in named {
            let (file, test) = name.split_once("::").expect("file::test");
            // Where a path is given, it is one of the project.
            let file = match file.contains('/') {
                true => project.join(file),
                false => tests.join(file),
            };
            let source = fs::read_to_string(file).unwrap_or_default();
            let forms = [
                format!("#[test]\nfn {test}() {{"),
                format!("#[test]\n    fn {test}() {{"),
                format!("#[tokio::test]\nasync fn {test}() {{"),
            ];
            assert!(
                forms.iter().any(|form| source.contains(form)),
                "row {number}: there is no {name}"
            );
        }
    }
}
