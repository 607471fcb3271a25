//! The program under test.

use std::{path::PathBuf, process::Command, sync::OnceLock};

/// The `sidecar` binary: `SIDECAR_BIN` if that is set, else the one of this workspace, built now in
/// the profile of the running test so that it is never older than the sources.
///
/// # Panics
/// When it does not build.
pub fn sidecar() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY
        .get_or_init(|| match std::env::var_os("SIDECAR_BIN") {
            Some(path) => {
                let path = PathBuf::from(path);
                path.canonicalize().unwrap_or_else(|error| {
                    panic!("SIDECAR_BIN={} is not a program: {error}", path.display())
                })
            }
            None => build(),
        })
        .clone()
}

/// `target/<profile>/deps/<test>` is where cargo puts the running test.
fn build() -> PathBuf {
    let test = std::env::current_exe().expect("the running program has a path");
    let profile_dir = test
        .ancestors()
        .nth(2)
        .expect("tests lie two levels below their profile");
    let target_dir = profile_dir
        .parent()
        .expect("a profile lies below the target directory");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args([
            "build",
            "--quiet",
            "--package",
            "sidecar",
            "--bin",
            "sidecar",
            "--target-dir",
        ])
        .arg(target_dir)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    if profile_dir.ends_with("release") {
        command.arg("--release");
    }
    let output = command
        .output()
        .expect("cargo, which runs this test, can be started");
    assert!(
        output.status.success(),
        "the program under test does not build:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    profile_dir.join("sidecar")
}
