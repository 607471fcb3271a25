//! Everything the fuzz targets have ever found worth keeping, run again without a fuzzer: each input
//! of `fuzz/corpus` goes through the very code of its target.

#[allow(unreachable_pub, reason = "there it is a library")]
#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// Runs every input of a target; a panic tells which one it was.
fn run(target: &str, body: fn(&[u8])) {
    let directory = fuzz().join("corpus").join(target);
    let entries = fs::read_dir(&directory).expect("each target has a corpus");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("readable").path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{}", directory.display());
    for path in paths {
        let input = fs::read(&path).expect("readable");
        let outcome = std::panic::catch_unwind(|| body(&input));
        assert!(outcome.is_ok(), "{target} fails on {}", path.display());
    }
}

#[test]
fn packet() {
    run("packet", targets::packet::run);
}

#[test]
fn stream() {
    run("stream", targets::stream::run);
}

#[test]
fn node() {
    run("node", targets::node::run);
}

#[test]
fn catalog_json() {
    run("catalog_json", targets::catalog_json::run);
}

#[test]
fn template() {
    run("template", targets::template::run);
}

#[test]
fn every_target_is_run_here() {
    let names = |directory: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(fuzz().join(directory)).expect("readable");
        let paths = entries.map(|entry| entry.expect("readable").path());
        paths
            .map(|path| {
                path.file_stem()
                    .expect("a name")
                    .to_string_lossy()
                    .into_owned()
            })
            .collect()
    };
    let here = ["packet", "stream", "node", "catalog_json", "template"];
    assert_eq!(names("fuzz_targets"), here.map(String::from).into());
    assert_eq!(names("corpus"), here.map(String::from).into());
}
