//! `docs/metrics.md` lists what an agent shows, no more and no less.

use std::fmt::Write as _;

use catalog::{ProxyMode, Status};

use super::*;
use crate::{
    discovery::SourceName,
    local_view::{CheckEvidence, CheckView, ListenerView},
    proxy::{
        builtin::{BUCKET_BOUNDS_MICROS, EndpointStatus, ListenState, PortStatus, RequestStatus},
        haproxy::HaproxyStatus,
        kernel::{KernelEndpoint, KernelPort, KernelStatus},
    },
};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");

/// A view of a host on which everything there can be is there.
fn view() -> LocalView {
    let view = LocalView::default();
    let source = SourceView {
        state: "following",
        since: String::new(),
        trouble: None,
        instances: 1,
        held_until: None,
    };
    view.source(SourceName::Docker, source);
    let check = CheckView {
        service: "web".into(),
        kind: "Tcp",
        args: String::new(),
        notices: Vec::new(),
        interval_ms: 3000,
        timeout_ms: 2999,
        rise: 1,
        fall: 1,
        status: Status::Alive,
        in_a_row: 1,
        last: None,
        damped: None,
    };
    view.check("a", check);
    let evidence = CheckEvidence {
        healthy: true,
        at: String::new(),
        ended: tokio::time::Instant::now(),
        took: Duration::from_millis(1),
        summary: String::new(),
        output: String::new(),
    };
    view.checked("a", evidence, 1);
    view.listener("UrlListener(http://a)", ListenerView::new("http://a"));
    let haproxy = HaproxyStatus {
        is_running: Some(true),
        failures: [("verify", 1)].into(),
        ..HaproxyStatus::default()
    };
    view.show_haproxy(watch::channel(Arc::new(haproxy)).1);
    let endpoint = KernelEndpoint {
        address: "10.0.0.1:80".parse().unwrap(),
        turns: 1,
        connections: 1,
        packets: 1,
        bytes: 1,
    };
    let port = KernelPort {
        service: "db".into(),
        endpoints: vec![endpoint],
    };
    let kernel = KernelStatus {
        ports: Arc::new([(5432, port)].into()),
        ..KernelStatus::default()
    };
    view.show_kernel(watch::channel(Arc::new(kernel)).1);
    view.show_envoy(Arc::default());
    view
}

/// A data plane with one endpoint that had a request.
fn plane() -> PlaneStatus {
    let requests = RequestStatus {
        buckets: [1; BUCKET_BOUNDS_MICROS.len() + 1],
        ..RequestStatus::default()
    };
    let endpoint = EndpointStatus {
        address: "10.0.0.1:80".parse().unwrap(),
        connections_open: 0,
        connections_total: 1,
        connect_failures: 0,
        avoided: false,
        ejections: 0,
        sent_bytes: 1,
        received_bytes: 1,
        requests: Some(requests),
    };
    let port = PortStatus {
        service: "web".into(),
        mode: ProxyMode::Http,
        listen: ListenState::Listening,
        connections_open: 0,
        connections_total: 1,
        connections_unserved: 0,
        connect_failures: 0,
        to_endpoints_bytes: 1,
        to_clients_bytes: 1,
        requests_total: 1,
        retries_total: 0,
        own_answers: [(503, 1)].into(),
        endpoints: vec![endpoint],
    };
    PlaneStatus {
        ports: [(8080, Arc::new(port))].into(),
        ..PlaneStatus::default()
    }
}

/// One row for each family: name with labels, type, what it says of itself.
fn table(text: &str) -> String {
    let mut table = String::from("| name | type | meaning |\n|---|---|---|\n");
    let mut families: Vec<(&str, &str, &str)> = Vec::new();
    for line in text.lines() {
        if let Some(line) = line.strip_prefix("# HELP ") {
            let (name, help) = line.split_once(' ').unwrap();
            families.push((name, "", help));
        } else if let Some(line) = line.strip_prefix("# TYPE ") {
            let (name, kind) = line.split_once(' ').unwrap();
            let family = families.last_mut().unwrap();
            assert_eq!(family.0, name);
            family.1 = kind;
        }
    }
    families.sort_unstable();
    for (name, kind, help) in families {
        // A histogram's samples have longer names.
        let sample = text.lines().find_map(|line| {
            let (labels, _) = line.strip_prefix(name)?.rsplit_once(' ')?;
            let labels = labels.strip_prefix("_bucket").unwrap_or(labels);
            (labels.is_empty() || labels.starts_with('{')).then_some(labels)
        });
        let sample = sample.unwrap_or_else(|| panic!("{name} has no sample"));
        let labels: Vec<&str> = sample
            .split([',', '{', '}'])
            .filter_map(|label| Some(label.split_once('=')?.0))
            .filter(|label| *label != "le")
            .collect();
        let labels = match labels.as_slice() {
            [] => String::new(),
            labels => format!("{{{}}}", labels.join(",")),
        };
        writeln!(table, "| `{name}{labels}` | {kind} | {help} |").unwrap();
    }
    table
}

#[tokio::test]
async fn every_metric_is_documented_with_its_type() {
    let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let config = memberlist::Config {
        bind: SocketAddr::new(ip, 0),
        ..memberlist::Config::lan("a", ip)
    };
    let (gossip, _events) = memberlist::start(config, Arc::new(NoState)).await.unwrap();
    // One kind of what can be malformed, so that the family has a sample.
    let address = gossip.local_addr();
    let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    datagrams.send_to(b"\xff", address).await.unwrap();
    let shown = async {
        while gossip.stats().malformed.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, shown).await.unwrap();
    let metrics = Metrics {
        snapshot: watch::channel(Arc::new(Snapshot::empty("a", "default"))).1,
        gossip,
        counters: Arc::default(),
        plane: watch::channel(Arc::new(plane())).1,
        view: Arc::new(view()),
        ready: watch::channel(Vec::new()).1,
        started: SystemTime::now(),
    };
    let text = metrics.render();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let value = line.rsplit_once(' ').unwrap().1;
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    let table = table(&text);
    let page = std::fs::read_to_string(PATH).unwrap();
    let begin = page.find("<!-- metrics:").unwrap();
    let begin = begin + page[begin..].find("-->\n").unwrap() + "-->\n".len();
    let end = page.find("<!-- end of metrics -->").unwrap();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let updated = format!("{}{table}{}", &page[..begin], &page[end..]);
        std::fs::write(PATH, updated).unwrap();
        return;
    }
    assert_eq!(&page[begin..end], table, "run with UPDATE_EXPECT=1");
}
