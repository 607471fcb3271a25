//! The files HAProxy starts from: its configuration with the present servers, and the map of ports.
//!
//! They are the last good state: whoever starts HAProxy again while no agent is there gets what was
//! served last. All of them change at once, by the exchange of one symbolic link, and HAProxy's
//! working directory is theirs, so no path of this host stands in them.
//!
//! Only names made by [`super::plan`], typed addresses, numbers and the operator's own words for user
//! and group get into them.

use std::{
    fmt::{self, Write as _},
    fs, io,
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use super::{
    layout::{Layout, STATISTICS_PORT},
    plan::{Held, Kind, MAP, ServerState},
};

/// The link to the directory that counts.
const CURRENT: &str = "current";
const GENERATIONS: [&str; 2] = ["boot-a", "boot-b"];
const CONFIG: &str = "haproxy.cfg";
const MAP_FILE: &str = "ports.map";
const LAYOUT: &str = "layout.json";

/// A file or directory that cannot be used, in the system's words.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", .path.display())]
pub(super) struct FileError {
    path: PathBuf,
    error: io::Error,
}

/// Attaches the path.
pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> FileError {
    move |error| FileError {
        path: path.to_owned(),
        error,
    }
}

/// Makes the directory, for us alone: who may write here decides what HAProxy runs.
pub(super) fn create(dir: &Path) -> Result<(), FileError> {
    let mut builder = fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .map_err(at(dir))
}

/// Puts the files in place of those there are.
pub(super) fn write(dir: &Path, layout: &Layout, state: &Held) -> Result<(), FileError> {
    let link = dir.join(CURRENT);
    let now = fs::read_link(&link).unwrap_or_default();
    let next = GENERATIONS[usize::from(now == Path::new(GENERATIONS[0]))];
    let into = dir.join(next);
    create(&into)?;
    let json = serde_json::to_string(layout).map_err(io::Error::from);
    for (name, text) in [
        (CONFIG, config(layout, state)),
        (MAP_FILE, map(state)),
        (LAYOUT, json.map_err(at(&into))?),
    ] {
        let path = into.join(name);
        fs::write(&path, text).map_err(at(&path))?;
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(&path, mode).map_err(at(&path))?;
    }
    let fresh = dir.join("current.new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&fresh)(error)),
        _ => {}
    }
    symlink(next, &fresh).map_err(at(&fresh))?;
    fs::rename(&fresh, &link).map_err(at(&link))
}

/// The layout of the files in place; `None` when there are none, or none that can be read.
pub(super) fn read_layout(dir: &Path) -> Option<Layout> {
    let text = fs::read(dir.join(CURRENT).join(LAYOUT)).ok()?;
    serde_json::from_slice(&text).ok()
}

fn map(state: &Held) -> String {
    let mut text = String::new();
    for (port, values) in &state.ports {
        for value in values {
            line(&mut text, format_args!("{port} {value}"));
        }
    }
    text
}

fn line(text: &mut String, words: fmt::Arguments<'_>) {
    // Writing into a string cannot fail.
    let _ = writeln!(text, "{words}");
}

fn config(layout: &Layout, state: &Held) -> String {
    let mut text = String::from(
        "# Made by sidecar, which writes it anew with every change: do not edit.\n\
         # HAProxy starts with this; after that it is told over admin.sock.\n\n",
    );
    global(&mut text, layout);
    frontend(&mut text, layout);
    if layout.has_statistics {
        statistics(&mut text);
    }
    for (kind, mode) in [(Kind::Http, "http"), (Kind::Tcp, "tcp")] {
        // A silent WebSocket or database connection is as good as any; keep-alive finds the dead.
        line(
            &mut text,
            format_args!(
                "\ndefaults {mode}-pools\n    mode {mode}\n    log global\n    retries 3\n    \
                 timeout connect 5s\n    timeout client 1m\n    timeout server 1m\n    \
                 timeout tunnel 24h\n    option redispatch\n    option srvtcpka\n    \
                 balance roundrobin"
            ),
        );
        pools(&mut text, kind, state);
    }
    text
}

fn global(text: &mut String, layout: &Layout) {
    line(text, format_args!("global"));
    line(
        text,
        format_args!("    description {}", layout.description()),
    );
    for (word, name) in [("user", &layout.asked.user), ("group", &layout.asked.group)] {
        // Only root can become somebody else.
        if !name.is_empty() && rustix::process::geteuid().is_root() {
            line(text, format_args!("    {word} \"{}\"", quoted(name)));
        }
    }
    line(text, format_args!("    maxconn {}", layout.connections));
    text.push_str(
        "    log 127.0.0.1 local0\n    log 127.0.0.1 local1 notice\n    \
         stats socket unix@admin.sock mode 660 level admin expose-fd listeners\n    \
         stats timeout 1m\n\n",
    );
}

/// One frontend for all ports: the map says where each leads, and whether at all.
fn frontend(text: &mut String, layout: &Layout) {
    text.push_str("frontend sidecar\n    mode tcp\n");
    for range in &layout.open {
        let (first, last) = (range.start(), range.end());
        match layout.asked.bind {
            IpAddr::V4(ip) => line(text, format_args!("    bind {ip}:{first}-{last}")),
            IpAddr::V6(ip) => line(text, format_args!("    bind [{ip}]:{first}-{last}")),
        }
    }
    line(
        text,
        format_args!(
            "    log global\n    option dontlognull\n    option clitcpka\n    timeout client 1m\n    \
             tcp-request connection reject unless {{ dst_port,map({MAP}) -m found }}\n    \
             tcp-request content switch-mode http if {{ dst_port,map({MAP}) -m beg h }}\n    \
             use_backend %[dst_port,map({MAP})]"
        ),
    );
}

fn statistics(text: &mut String) {
    line(
        text,
        format_args!(
            "\nfrontend stats\n    mode http\n    bind 0.0.0.0:{STATISTICS_PORT}\n    \
             timeout client 1m\n    stats enable\n    stats uri /\n    stats refresh 5s\n    \
             http-after-response set-header Access-Control-Allow-Origin \"*\""
        ),
    );
}

fn pools(text: &mut String, kind: Kind, state: &Held) {
    for (pool, servers) in state.pools.iter().filter(|(pool, _)| pool.kind == kind) {
        line(text, format_args!("backend {pool}"));
        for (name, server) in servers {
            let Some(address) = server
                .address
                .filter(|_| server.state == ServerState::Ready)
            else {
                continue;
            };
            let weight = server.weight;
            line(
                text,
                format_args!("    server {name} {address} weight {weight}"),
            );
        }
    }
}

/// For HAProxy's double quotes; the settings let no blanks and control characters through.
fn quoted(word: &str) -> String {
    let mut text = String::with_capacity(word.len());
    for character in word.chars() {
        if matches!(character, '"' | '\\' | '$') {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, process::Command};

    use super::{super::plan, *};
    use crate::proxy::haproxy::runtime::layout::tests::asked;

    fn layout() -> Layout {
        Layout {
            asked: asked(&[24_100..=24_110]),
            open: vec![24_100..=24_104, 24_106..=24_106],
            http: 2,
            tcp: 1,
            has_statistics: true,
            connections: 100,
        }
    }

    fn state() -> Held {
        let target = |name: &str, address: &str| plan::Target {
            name: name.to_owned(),
            address: address.parse().unwrap(),
            weight: 100,
        };
        let wish = |kind, targets: &[plan::Target]| plan::Wish {
            kind,
            targets: targets.iter().cloned().collect(),
        };
        let wanted = BTreeMap::from([
            (
                24_100,
                wish(
                    Kind::Http,
                    &[target("a-1", "10.0.0.1:80"), target("a-1", "[fd00::1]:80")],
                ),
            ),
            (24_101, wish(Kind::Tcp, &[target("b-2", "10.0.0.2:5432")])),
        ]);
        plan::ideal(&Held::default(), &wanted, plan::Pool::all(2, 1))
    }

    #[test]
    fn the_files_hold_ports_pools_and_present_servers() {
        let text = config(&layout(), &state());
        for words in [
            "    bind 127.77.0.1:24100-24104\n    bind 127.77.0.1:24106-24106\n",
            "backend h0\n    server a-1 10.0.0.1:80 weight 100\n    server a-1.2 [fd00::1]:80 weight 100\nbackend h1\n",
            "backend t0\n    server b-2 10.0.0.2:5432 weight 100\n",
            &format!("    description {}\n", layout().description()),
        ] {
            assert!(text.contains(words), "{words}\n{text}");
        }
        assert!(!text.contains("user"), "{text}");
        assert_eq!(map(&state()), "24100 h0\n24101 t0\n");
    }

    #[test]
    fn haproxy_takes_them() {
        let dir = tempfile::tempdir().unwrap();
        let mut layout = layout();
        layout.asked.bind = "::1".parse().unwrap();
        layout.has_statistics = false;
        write(dir.path(), &layout, &state()).unwrap();
        let check = Command::new("haproxy")
            .args(["-c", "-C"])
            .arg(dir.path())
            .args(["-f", "current/haproxy.cfg"])
            .output()
            .expect("this test is made of HAProxy: apt-get install -y haproxy");
        let said = String::from_utf8_lossy(&check.stderr).into_owned();
        assert!(check.status.success(), "{said}");
        assert!(!said.contains("WARNING"), "{said}");
    }

    #[test]
    fn all_files_change_at_once_and_are_read_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_layout(dir.path()), None);
        let mut layout = layout();
        write(dir.path(), &layout, &Held::default()).unwrap();
        let before = fs::read_link(dir.path().join(CURRENT)).unwrap();
        layout.tcp = 9;
        write(dir.path(), &layout, &state()).unwrap();
        assert_eq!(read_layout(dir.path()), Some(layout));
        // What was there is still whole: HAProxy may be reading it.
        let old = dir.path().join(before);
        assert!(
            fs::read_to_string(old.join(CONFIG))
                .unwrap()
                .contains("frontend sidecar")
        );
        assert_eq!(fs::read_to_string(old.join(MAP_FILE)).unwrap(), "");
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = write(&file, &layout(), &Held::default()).unwrap_err();
        assert!(error.to_string().contains("/file/boot-a: "), "{error}");
    }

    #[test]
    fn operators_words_stay_words() {
        assert_eq!(quoted(r#"a"b\c$d"#), r#"a\"b\\c\$d"#);
    }
}
