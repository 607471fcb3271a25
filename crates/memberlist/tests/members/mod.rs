//! For the tests of encryption: members on loopback addresses, and waiting for what happens.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use memberlist::{Config, Delegate, Event, Handle, Key, Keyring};
use tokio::sync::mpsc::Receiver;

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

struct Nothing;

impl Delegate for Nothing {
    fn local_state(&self, _join: bool) -> Bytes {
        Bytes::new()
    }
}

pub(crate) fn key(fill: u8) -> Key {
    Key::new(&[fill; 32]).expect("32 bytes")
}

pub(crate) fn ring(fills: &[u8]) -> Option<Keyring> {
    Keyring::from_keys(fills.iter().map(|fill| key(*fill))).ok()
}

/// The LAN profile at a quicker pace, on any free port of `ip`.
pub(crate) fn config(name: &str, ip: &str) -> Config {
    let ip: IpAddr = ip.parse().expect("an address");
    let mut config = Config::lan(name, ip);
    config.bind = SocketAddr::new(ip, 0);
    config.gossip_interval = Duration::from_millis(20);
    config.probe_interval = Duration::from_millis(150);
    config.probe_timeout = Duration::from_millis(100);
    config
}

pub(crate) async fn start(config: Config) -> (Handle, Receiver<Event>) {
    memberlist::start(config, Arc::new(Nothing))
        .await
        .expect("loopback is free")
}

/// Waits until all see these members, in the order of their names.
pub(crate) async fn see(handles: &[&Handle], names: &[&str]) {
    for handle in handles {
        let mut members = handle.members_changed();
        let seen = members.wait_for(|members| {
            let listed = members.iter().map(|member| &*member.name);
            listed.eq(names.iter().copied())
        });
        let seen = tokio::time::timeout(PATIENCE, seen).await;
        seen.expect("the members change in time")
            .expect("the member runs");
    }
}

/// Waits for a condition that has no event.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let reached = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    let reached = tokio::time::timeout(PATIENCE, reached).await;
    reached.unwrap_or_else(|_| panic!("{what} in time"));
}

/// Waits until each has had some more of its probes answered.
pub(crate) async fn probed(handles: &[&Handle]) {
    let count = |handle: &Handle| handle.stats().node.probes_succeeded;
    let begin: Vec<u64> = handles.iter().map(|handle| count(handle)).collect();
    for (handle, begin) in handles.iter().zip(begin) {
        until("probes succeed", || count(handle) >= begin + 3).await;
    }
}

/// Fails if anybody was lost since `events` began.
pub(crate) fn nobody_left(events: &mut Receiver<Event>) {
    while let Ok(event) = events.try_recv() {
        assert!(!matches!(event, Event::Left(_)), "{event:?}");
    }
}
