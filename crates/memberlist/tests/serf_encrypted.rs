//! A real Serf agent (hashicorp/memberlist 0.2.2) with keys: we join it, both list each other
//! alive, and the keys of both change while nobody is lost.
//!
//! Needs the `serf` program, which is a Debian package of that name.
#![cfg(all(feature = "driver", target_os = "linux"))]

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use memberlist::{Config, Event, Handle, Key, Keyring};
use tokio::sync::mpsc::Receiver;

use self::members::{PATIENCE, config, key, nobody_left, probed, ring, see, start};

mod members;

const INSTALL: &str = "this test needs the serf program: apt-get install serf";

/// Keys of the tests in the text form of Serf: 32 bytes of 1, of 2, and 16 bytes of 3.
const KEY_1: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const KEY_2: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
const KEY_3_OF_16_BYTES: &str = "AwMDAwMDAwMDAwMDAwMDAw==";

/// A running Serf agent, killed when dropped.
struct Serf {
    agent: Child,
    addr: SocketAddr,
    rpc: String,
    keyring: PathBuf,
}

impl Serf {
    /// Starts one on an address of its own with the keys in a keyring file, or with a single key
    /// on its command line.
    fn start(ip: &str, name: &str, keys: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let keyring = folder.join(format!("keyring-{ip}.json"));
        let (option, value) = if keys.starts_with('[') {
            fs::write(&keyring, keys).expect("written");
            ("-keyring-file", keyring.to_str().expect("plain path"))
        } else {
            ("-encrypt", keys)
        };
        let (addr, rpc) = (format!("{ip}:7946"), format!("{ip}:7373"));
        let agent = Command::new("serf")
            .args(["agent", "-profile=local", "-log-level=debug"])
            .args(["-node", name, "-bind", &addr, "-rpc-addr", &rpc])
            .args([option, value])
            .stdout(fs::File::create(folder.join(format!("serf-{ip}.log"))).expect("created"))
            .stderr(Stdio::null())
            .spawn()
            .expect(INSTALL);
        Self {
            agent,
            addr: addr.parse().expect("an address"),
            rpc,
            keyring,
        }
    }

    /// What a command that talks to the agent prints. `None` while the agent does not answer.
    async fn ask(&self, arguments: &[&str]) -> Option<String> {
        let mut command = Command::new("serf");
        let (first, rest) = arguments.split_first().expect("a command");
        command
            .arg(first)
            .arg(format!("-rpc-addr={}", self.rpc))
            .args(rest);
        let output = tokio::task::spawn_blocking(move || command.output())
            .await
            .expect("no panic")
            .expect(INSTALL);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (!text.is_empty()).then_some(text)
    }

    /// Waits until it lists these members as alive, and no others in any state.
    async fn lists(&self, names: &[&str]) {
        let search = async {
            loop {
                let members = self.ask(&["members"]).await.unwrap_or_default();
                let alive = |name: &&str| {
                    members.lines().any(|line| {
                        let mut words = line.split_whitespace();
                        words.next() == Some(*name) && words.any(|word| word == "alive")
                    })
                };
                if members.lines().count() == names.len() && names.iter().all(alive) {
                    return;
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, search).await;
        found.unwrap_or_else(|_| panic!("{} lists {names:?} in time", self.rpc));
    }

    /// Changes the keys. Serf asks all members by a query of its own, which we do not know, so
    /// success is told by the file in which it keeps its keys.
    async fn change_keys(&self, option: &str, expected: &[&str]) {
        // It reports that we did not answer; and it is busy until it has waited for us.
        let _ = self.ask(&["keys", option]).await;
        let quoted: Vec<String> = expected.iter().map(|key| format!("{key:?}")).collect();
        let search = async {
            loop {
                let content = fs::read_to_string(&self.keyring).unwrap_or_default();
                let content: String = content.split_whitespace().collect();
                if content == format!("[{}]", quoted.join(",")) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, search).await;
        found.unwrap_or_else(|_| panic!("{option} takes effect in time"));
    }
}

impl Drop for Serf {
    fn drop(&mut self) {
        // It may have ended already; in a test there is nobody to tell.
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

fn ours(name: &str, ip: &str, keyring: Option<Keyring>) -> Config {
    Config {
        keyring,
        accept_missing_cluster_name: true,
        delegate_versions: [2, 5, 5],
        ..config(name, ip)
    }
}

/// Joins the agent, which may still be starting.
async fn join(handle: &Handle, serf: &Serf) {
    let joining = async { while handle.join(&[serf.addr]).await.contacted == 0 {} };
    let joined = tokio::time::timeout(PATIENCE, joining).await;
    joined.unwrap_or_else(|_| panic!("{} is joined in time", serf.addr));
}

fn nobody_was_lost_or_unreadable(handle: &Handle, events: &mut Receiver<Event>) {
    nobody_left(events);
    let malformed = handle.stats().malformed;
    // Dialling too early is no mistake of the agent's.
    assert!(malformed.is_empty(), "{malformed:?}");
}

#[tokio::test]
async fn an_agent_with_a_key_of_either_length_and_we_list_each_other() {
    let short = Key::new(&[3; 16]).expect("16 bytes");
    for (text, keyring, ip) in [
        (KEY_1, ring(&[1]), "127.0.0.60"),
        (KEY_3_OF_16_BYTES, Some(Keyring::new(short)), "127.0.0.61"),
    ] {
        let serf = Serf::start(ip, "serf", text);
        let (a, mut events) = start(ours("a", ip, keyring)).await;
        join(&a, &serf).await;
        see(&[&a], &["a", "serf"]).await;
        serf.lists(&["a", "serf"]).await;
        probed(&[&a]).await;
        nobody_was_lost_or_unreadable(&a, &mut events);
    }
}

#[tokio::test]
async fn an_agent_with_another_key_or_none_is_not_joined() {
    let serf = Serf::start("127.0.0.62", "serf", KEY_1);
    let (a, _a_events) = start(ours("a", "127.0.0.62", ring(&[1]))).await;
    join(&a, &serf).await;
    for keyring in [ring(&[2]), None] {
        let (stranger, _events) = start(ours("stranger", "127.0.0.62", keyring)).await;
        let outcome = stranger.join(&[serf.addr]).await;
        assert_eq!((outcome.contacted, outcome.errors.len()), (0, 1));
        let outcome = a.join(&[stranger.local_addr()]).await;
        assert_eq!((outcome.contacted, outcome.errors.len()), (0, 1));
    }
    serf.lists(&["a", "serf"]).await;
    see(&[&a], &["a", "serf"]).await;
}

#[tokio::test]
async fn keys_of_an_agent_and_ours_change_while_nobody_is_lost() {
    let keys = format!("[{KEY_1:?}]");
    let serf = Serf::start("127.0.0.63", "serf", &keys);
    let (a, mut a_events) = start(ours("a", "127.0.0.63", ring(&[1]))).await;
    let (b, mut b_events) = start(ours("b", "127.0.0.64", ring(&[1]))).await;
    join(&a, &serf).await;
    join(&b, &serf).await;
    let all = [&a, &b];
    let names = ["a", "b", "serf"];
    see(&all, &names).await;
    serf.lists(&names).await;

    for handle in all {
        handle.install_key(key(2)).expect("installed");
    }
    serf.change_keys(&format!("-install={KEY_2}"), &[KEY_1, KEY_2])
        .await;
    probed(&all).await;
    a.use_key(&key(2)).expect("used");
    probed(&all).await;
    serf.change_keys(&format!("-use={KEY_2}"), &[KEY_2, KEY_1])
        .await;
    probed(&all).await;
    b.use_key(&key(2)).expect("used");
    probed(&all).await;
    serf.change_keys(&format!("-remove={KEY_1}"), &[KEY_2])
        .await;
    for handle in all {
        handle.remove_key(&key(1)).expect("removed");
        assert_eq!(handle.keys(), [key(2)]);
    }
    probed(&all).await;
    see(&all, &names).await;
    serf.lists(&names).await;
    nobody_was_lost_or_unreadable(&a, &mut a_events);
    nobody_was_lost_or_unreadable(&b, &mut b_events);
    // What serf has seen in the meantime: nobody failed, nobody came back.
    let log =
        fs::read_to_string(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("serf-127.0.0.63.log"))
            .expect("a log");
    assert!(log.contains("EventMemberJoin: b"), "{log}");
    assert!(!log.contains("EventMemberFailed"), "{log}");
}
