//! What a killed run leaves behind, and its removal.
//!
//! Everything the lab makes outside its own process carries a tag `bb<process>x<number>`. Processes
//! die with the test by themselves, but not those that outlive the program that started them;
//! namespaces, control groups and directories do not either, so the next lab removes those whose
//! process is gone.

use std::{fs, path::Path};

use rustix::process::{Pid, Signal, kill_process};

use crate::tools;

const PREFIX: &str = "bb";

pub(crate) fn tag(number: usize) -> String {
    format!("{PREFIX}{}x{number}", std::process::id())
}

/// Removes what is left of runs that are over.
pub(crate) fn remove() {
    for tag in names("/run/netns").chain(names(&std::env::temp_dir())) {
        if let Some(process) = owner(&tag)
            && !Path::new(&format!("/proc/{process}")).exists()
        {
            remove_tagged(tag.split('-').next().unwrap_or(&tag));
        }
    }
}

/// Removes the namespaces, control groups and directories of one lab.
pub(crate) fn remove_tagged(tag: &str) {
    for namespace in names("/run/netns").filter(|name| belongs(name, tag)) {
        end_processes(&namespace);
        // Losing this race to another cleaner is as good as winning it.
        tools::output(&["ip", "netns", "delete", &namespace]);
    }
    let root = Path::new("/sys/fs/cgroup");
    remove_groups(&root.join(tag));
    for hierarchy in names(root) {
        remove_groups(&root.join(hierarchy).join(tag));
    }
    for dir in names(&std::env::temp_dir()).filter(|name| belongs(name, tag)) {
        // An engine's mounts may vanish a moment after its processes; the next run comes again.
        let _ = fs::remove_dir_all(std::env::temp_dir().join(dir));
    }
}

/// Programs that outlive those that started them, as proxies outlive agents.
fn end_processes(namespace: &str) {
    let listed = tools::output(&["ip", "netns", "pids", namespace]).stdout;
    for number in String::from_utf8_lossy(&listed).split_whitespace() {
        if let Some(pid) = number.parse().ok().and_then(Pid::from_raw) {
            // It may have ended meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

fn belongs(name: &str, tag: &str) -> bool {
    name.strip_prefix(tag)
        .is_some_and(|rest| rest.starts_with('-'))
}

fn owner(name: &str) -> Option<u32> {
    let (process, _) = name.strip_prefix(PREFIX)?.split_once('x')?;
    process.parse().ok()
}

fn names(dir: impl AsRef<Path>) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// Control groups are removed from the leaves up and hold no files of their own.
fn remove_groups(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
}
