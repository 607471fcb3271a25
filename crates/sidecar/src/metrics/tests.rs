//! What hostile or broken peers do shows at the next scrape.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use memberlist::wire::{Ping, StreamMessage, encode_stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};

use super::*;

mod reference;

const PATIENCE: Duration = Duration::from_secs(20);

struct NoState;

impl memberlist::Delegate for NoState {
    fn local_state(&self, _join: bool) -> Bytes {
        Bytes::new()
    }
}

/// Sends a request from this address of the loopback and waits for the end of the connection.
async fn ask(from: Ipv4Addr, to: SocketAddr, request: &[u8]) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from.into(), 0)).unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    // Who is not let in may not get that far.
    let _ = stream.write_all(request).await;
    let mut reply = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut reply)).await;
    // By an end or a reset: what was left unread makes the difference.
    drop(ended.expect("the connection ends"));
}

#[tokio::test]
async fn what_is_refused_of_peers_is_shown() {
    let (known, stranger) = (Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2));
    let ip = IpAddr::V4(known);
    let config = memberlist::Config {
        bind: SocketAddr::new(ip, 0),
        allow_from: vec!["127.0.0.1".parse().unwrap()],
        ..memberlist::Config::lan("a", ip)
    };
    let (gossip, _events) = memberlist::start(config, Arc::new(NoState)).await.unwrap();
    let metrics = Metrics {
        snapshot: watch::channel(Arc::new(Snapshot::empty("a", "default"))).1,
        gossip: gossip.clone(),
        counters: Arc::default(),
        plane: watch::channel(Arc::default()).1,
        view: Arc::default(),
        ready: watch::channel(Vec::new()).1,
        started: SystemTime::now(),
    };
    let to = gossip.local_addr();
    let ping = StreamMessage::Ping(Ping {
        seq_no: 1,
        node: "b".to_owned(),
        source: None,
    });
    let ping = encode_stream(&ping, "", false);
    ask(known, to, &ping).await;
    let nameless = b"\x06\x83\xabClusterName\xa7default\xa5Nodes\x01\xacUserStateLen\x00\
        \x81\xa4Name\xa0";
    ask(known, to, nameless).await;
    ask(stranger, to, &ping).await;
    let datagrams = UdpSocket::bind((stranger, 0)).await.unwrap();
    datagrams.send_to(b"\x08hello", to).await.unwrap();
    let all_shown = async {
        loop {
            let text = metrics.render();
            let shown = |line: &str| text.lines().any(|it| it == line);
            if shown("sidecar_gossip_pings_for_others_total 1")
                && shown("sidecar_gossip_entries_skipped_total 1")
                && shown("sidecar_gossip_streams_not_allowed_total 1")
                && shown("sidecar_gossip_packets_not_allowed_total 1")
            {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, all_shown).await;
    assert!(waited.is_ok(), "{}", metrics.render());
}

#[tokio::test]
async fn sources_are_shown_with_their_state() {
    let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let config = memberlist::Config {
        bind: SocketAddr::new(ip, 0),
        ..memberlist::Config::lan("a", ip)
    };
    let (gossip, _events) = memberlist::start(config, Arc::new(NoState)).await.unwrap();
    let view: Arc<LocalView> = Arc::default();
    let metrics = Metrics {
        snapshot: watch::channel(Arc::new(Snapshot::empty("a", "default"))).1,
        gossip,
        counters: Arc::default(),
        plane: watch::channel(Arc::default()).1,
        view: Arc::clone(&view),
        ready: watch::channel(Vec::new()).1,
        started: SystemTime::now(),
    };
    for (state, up) in [("listing", 0), ("following", 1), ("unreachable", 0)] {
        let source = SourceView {
            state,
            since: String::new(),
            trouble: None,
            instances: 7,
            held_until: None,
        };
        view.source(crate::discovery::SourceName::Docker, source);
        let text = metrics.render();
        let line = format!("sidecar_source_up{{source=\"docker\"}} {up}\n");
        assert!(text.contains(&line), "{state}: {text}");
        assert!(text.contains("sidecar_source_instances{source=\"docker\"} 7\n"));
        assert!(text.contains("sidecar_source_remarks{source=\"docker\"} 0\n"));
    }
}
