//! Which program has a port, as far as this user may see. Linux; elsewhere nobody is found.

/// Most processes that are looked into.
#[cfg(target_os = "linux")]
const PROCESSES_MAX: usize = 32_768;

/// `nginx (pid 12)`, of whoever listens at the TCP port or has the UDP port.
#[cfg(target_os = "linux")]
pub(super) fn of(port: u16) -> Option<String> {
    let mut sockets = Vec::new();
    for (table, is_tcp) in [
        ("tcp", true),
        ("tcp6", true),
        ("udp", false),
        ("udp6", false),
    ] {
        let text = std::fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        sockets.extend(inodes(&text, port, is_tcp));
    }
    if sockets.is_empty() {
        return None;
    }
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let processes = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    processes.take(PROCESSES_MAX).find_map(|pid| {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
        let mut targets = descriptors.filter_map(|it| std::fs::read_link(it.path()).ok());
        targets.find(|target| {
            let target = target.to_string_lossy();
            sockets
                .iter()
                .any(|inode| *target == format!("socket:[{inode}]"))
        })?;
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Some(format!("{} (pid {pid})", name.trim()))
    })
}

#[cfg(not(target_os = "linux"))]
pub(super) fn of(_port: u16) -> Option<String> {
    None
}

/// The inodes of the sockets in a table of `/proc/net` that have the port: column 2 is the local address, 4 the
/// state (`0A` listens), 10 the inode.
#[cfg(target_os = "linux")]
fn inodes(table: &str, port: u16, listening_only: bool) -> Vec<u64> {
    let suffix = format!(":{port:04X}");
    let lines = table.lines().skip(1);
    lines
        .filter_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let (local, state, inode) = (columns.get(1)?, columns.get(3)?, columns.get(9)?);
            let is_it = local.ends_with(&suffix) && (!listening_only || *state == "0A");
            is_it.then(|| inode.parse().ok())?
        })
        .collect()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_who_listens_has_a_tcp_port() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0\n   \
            1: 0100007F:1F90 0100007F:1234 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0\n";
        assert_eq!(inodes(table, 8080, true), [4711]);
        assert_eq!(inodes(table, 8080, false), [4711, 4712]);
        assert_eq!(inodes(table, 8081, true), [0; 0]);
    }

    #[test]
    fn this_process_is_found_by_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let owner = of(listener.local_addr().unwrap().port()).unwrap();
        assert!(
            owner.ends_with(&format!("(pid {})", std::process::id())),
            "{owner}"
        );
    }
}
