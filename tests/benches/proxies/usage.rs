//! What processes use, as the system counts it.

use std::{fs, time::Duration};

use rustix::{
    process::Pid,
    thread::{CpuSet, sched_setaffinity},
};

/// The processor time that a process and its threads have used so far.
pub(crate) fn processor(pid: u32) -> Duration {
    ticks(&format!("/proc/{pid}/stat"), 11)
}

/// The same of this program's children that have ended.
pub(crate) fn ended_children() -> Duration {
    ticks("/proc/self/stat", 13)
}

/// Two numbers behind the state, which follows the command in brackets.
fn ticks(path: &str, skip: usize) -> Duration {
    let stat = fs::read_to_string(path).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    let words = rest.split_whitespace().skip(skip).take(2);
    let ticks: u64 = words.map(|it| it.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

pub(crate) fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:"));
    let number = line.and_then(|it| it.trim().strip_suffix(" kB"));
    number.unwrap().parse().unwrap()
}

pub(crate) fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Ties all threads of a process to the first core.
pub(crate) fn pin(pid: u32) {
    let mut cores = CpuSet::new();
    cores.set(0);
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let number = task.unwrap().file_name().to_string_lossy().parse().unwrap();
        sched_setaffinity(Pid::from_raw(number), &cores).unwrap();
    }
}
