//! What this process uses of the machine, where the system tells.

use std::time::Duration;

/// Memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    /// All that is held.
    pub(crate) resident: u64,
    /// The part of it that is no mapped file.
    pub(crate) anonymous: u64,
}

/// Processor time of all threads so far.
pub(crate) fn processor_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let seconds = u64::try_from(used.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(used.tv_nsec).unwrap_or(0))
}

/// The memory held now.
pub(crate) fn memory() -> Option<Memory> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = statm.split(' ').skip(1).map(str::parse::<u64>);
    let (resident, shared) = (pages.next()?.ok()?, pages.next()?.ok()?);
    let page = u64::try_from(rustix::param::page_size()).ok()?;
    Some(Memory {
        resident: resident * page,
        anonymous: resident.saturating_sub(shared) * page,
    })
}

/// The most memory held so far, in MiB.
pub(crate) fn peak_memory_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

/// Files, sockets and other things that are open.
pub(crate) fn descriptors() -> Option<u64> {
    let entries = std::fs::read_dir("/proc/self/fd").ok()?;
    // One of them is the directory itself.
    u64::try_from(entries.count().saturating_sub(1)).ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_shows() {
        let (before, open) = (memory().unwrap(), descriptors().unwrap());
        let file = std::fs::File::open("/proc/self/statm").unwrap();
        let taken = vec![1_u8; 64 << 20];
        let held = std::hint::black_box(&taken).len() as u64;
        let after = memory().unwrap();
        assert!(
            after.anonymous >= before.anonymous + held / 2,
            "{before:?} {after:?}"
        );
        assert!(after.resident >= after.anonymous);
        assert!(descriptors().unwrap() >= open.min(4), "{open}");
        assert!(peak_memory_mib().unwrap() >= 32.0);
        drop((file, taken));
        assert!(processor_time() > Duration::ZERO);
    }
}
