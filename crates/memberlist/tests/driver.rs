//! Real sockets on loopback addresses. Waiting is always for something that happens, with a
//! generous limit.
#![cfg(feature = "driver")]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use memberlist::wire::message::{Alive, Dead, Message, PushNode, PushPull, RawIp, StreamMessage};
use memberlist::wire::{
    ClusterFilter, StreamDecoder, StreamProgress, encode_message, encode_stream,
};
use memberlist::{Config, Delegate, Event, Handle, Member, NodeState, StartError, Versions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc::Receiver;

const PATIENCE: Duration = Duration::from_secs(20);

struct State(&'static str);

impl Delegate for State {
    fn local_state(&self, _join: bool) -> Bytes {
        Bytes::from_static(self.0.as_bytes())
    }
}

fn loopback(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, last])
}

/// The LAN profile at ten times the pace, on any free port.
fn config(name: &str) -> Config {
    let mut config = Config::lan(name, loopback(1));
    config.bind = SocketAddr::new(loopback(1), 0);
    config.gossip_interval = Duration::from_millis(20);
    config.probe_interval = Duration::from_millis(100);
    config.probe_timeout = Duration::from_millis(50);
    config
}

async fn start(config: Config) -> (Handle, Receiver<Event>) {
    memberlist::start(config, Arc::new(State("some state")))
        .await
        .expect("loopback is free")
}

/// The first event `wanted` turns into something.
async fn event<T>(events: &mut Receiver<Event>, wanted: impl Fn(Event) -> Option<T>) -> T {
    let search = async {
        loop {
            let event = events.recv().await.expect("the member runs");
            if let Some(found) = wanted(event) {
                return found;
            }
        }
    };
    tokio::time::timeout(PATIENCE, search)
        .await
        .expect("the event comes in time")
}

async fn sees(handle: &Handle, names: &[&str]) {
    let mut members = handle.members_changed();
    let seen = members.wait_for(|members| {
        members
            .iter()
            .map(|member| &*member.name)
            .eq(names.iter().copied())
    });
    tokio::time::timeout(PATIENCE, seen)
        .await
        .expect("the members change in time")
        .expect("the member runs");
}

fn joined(name: &'static str) -> impl Fn(Event) -> Option<()> {
    move |event| matches!(event, Event::Joined(member) if member.name == name).then_some(())
}

#[tokio::test]
async fn members_find_each_other_and_one_leaves_at_once() {
    let (a, mut a_events) = start(config("a")).await;
    let (b, mut b_events) = start(config("b")).await;
    let outcome = a.join(&[b.local_addr()]).await;
    assert_eq!((outcome.contacted, outcome.errors.len()), (1, 0));
    sees(&a, &["a", "b"]).await;
    sees(&b, &["a", "b"]).await;
    for events in [&mut a_events, &mut b_events] {
        let (state, join) = event(events, |event| match event {
            Event::RemoteState { state, join } => Some((state, join)),
            _ => None,
        })
        .await;
        assert_eq!((&state[..], join), (&b"some state"[..], true));
    }
    b.leave(PATIENCE).await;
    let gone = event(&mut a_events, |event| match event {
        Event::Left(member) => Some(member),
        _ => None,
    })
    .await;
    assert_eq!((gone.name.as_str(), gone.state), ("b", NodeState::Left));
    let addr = b.local_addr();
    b.shutdown().await;
    std::net::TcpListener::bind(addr).expect("the tcp port is free after a shutdown");
    std::net::UdpSocket::bind(addr).expect("the udp port is free after a shutdown");
}

#[tokio::test]
async fn datagrams_come_from_the_bound_address_and_one_port_serves_many_addresses() {
    let (a, _a_events) = start(config("a")).await;
    let mut other = config("b");
    other.advertise = loopback(2);
    other.bind = SocketAddr::new(loopback(2), a.local_addr().port());
    let (b, _b_events) = start(other).await;
    assert_eq!(b.join(&[a.local_addr()]).await.contacted, 1);
    sees(&a, &["a", "b"]).await;
    let b_seen = a.members().into_iter().find(|member| member.name == "b");
    assert_eq!(b_seen.expect("listed").addr, b.local_addr());
    // Only acks from and to the bound addresses make probes succeed.
    let probed = async {
        while a.stats().node.probes_succeeded < 3 || b.stats().node.probes_succeeded < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, probed)
        .await
        .expect("probes succeed");
    assert_eq!(a.stats().node.probes_failed, 0);
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let (a, _events) = start(config("a")).await;
    let mut second = config("b");
    second.bind = a.local_addr();
    let refused = memberlist::start(second, Arc::new(State(""))).await;
    let error = refused.expect_err("the port is taken");
    assert!(matches!(error, StartError::Tcp { .. }));
    assert!(
        error.to_string().contains(&a.local_addr().to_string()),
        "{error}"
    );
}

#[tokio::test]
async fn broadcasts_arrive_short_by_datagram_and_long_by_stream() {
    let (a, _a_events) = start(config("a")).await;
    let (b, mut b_events) = start(config("b")).await;
    assert_eq!(a.join(&[b.local_addr()]).await.contacted, 1);
    sees(&a, &["a", "b"]).await;
    for length in [1, 1395, 1396, 100_000] {
        let message = Bytes::from(vec![b'm'; length]);
        a.broadcast(None, message.clone());
        event(&mut b_events, |event| {
            matches!(event, Event::Message(bytes) if bytes == message).then_some(())
        })
        .await;
    }
    assert_eq!(a.stats().node.broadcasts_by_stream, 2);
    assert_eq!(b.stats().malformed.len(), 0);
}

#[tokio::test]
async fn a_silent_member_is_declared_dead() {
    let (a, mut a_events) = start(config("a")).await;
    let (b, b_events) = start(config("b")).await;
    assert_eq!(a.join(&[b.local_addr()]).await.contacted, 1);
    event(&mut a_events, joined("b")).await;
    drop((b, b_events));
    let gone = event(&mut a_events, |event| match event {
        Event::Left(member) => Some(member),
        _ => None,
    })
    .await;
    assert_eq!((gone.name.as_str(), gone.state), ("b", NodeState::Dead));
    sees(&a, &["a"]).await;
}

#[tokio::test]
async fn a_seed_that_comes_up_later_is_found() {
    let (b, _b_events) = start(config("b")).await;
    let addr = b.local_addr();
    b.shutdown().await;
    let mut early = config("a");
    early.rejoin_interval = Duration::from_millis(50);
    let (a, _a_events) = start(early).await;
    let outcome = a.join(&[addr]).await;
    assert_eq!((outcome.contacted, outcome.errors.len()), (0, 1));
    let mut late = config("b");
    late.bind = addr;
    let (b, _b_events) = start(late).await;
    sees(&a, &["a", "b"]).await;
    sees(&b, &["a", "b"]).await;
}

#[tokio::test]
async fn a_member_does_not_join_itself() {
    let (a, _events) = start(config("a")).await;
    let outcome = a.join(&[a.local_addr()]).await;
    assert_eq!((outcome.contacted, outcome.errors.len()), (0, 1));
}

#[tokio::test]
async fn garbage_is_counted_and_harms_nobody() {
    let (a, mut a_events) = start(config("a")).await;
    let stranger = UdpSocket::bind("127.0.0.1:0")
        .await
        .expect("loopback is free");
    for garbage in [
        &b""[..],
        b"\x63",
        b"\x07\x09",
        b"\x0c\x01\x02\x03\x04\x05",
        b"\x00\xc1",
    ] {
        stranger
            .send_to(garbage, a.local_addr())
            .await
            .expect("sent");
    }
    let mut stream = TcpStream::connect(a.local_addr()).await.expect("accepted");
    stream
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .await
        .expect("written");
    // Closed without a reply; whether by end or by reset depends on what was unread.
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply).await;
    assert!(reply.is_empty());
    // Behind the garbage, something that must still work.
    stranger
        .send_to(b"\x08hello", a.local_addr())
        .await
        .expect("sent");
    event(&mut a_events, |event| {
        matches!(event, Event::Message(bytes) if bytes == "hello").then_some(())
    })
    .await;
    let counted = async {
        while a.stats().malformed.values().sum::<u64>() < 6 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, counted)
        .await
        .expect("all six are counted");
}

#[tokio::test]
async fn a_slow_application_loses_messages_but_no_membership_and_no_acks() {
    let mut small = config("a");
    small.handoff_queue_depth = 4;
    let (a, mut a_events) = start(small).await;
    let stranger = UdpSocket::bind("127.0.0.1:0")
        .await
        .expect("loopback is free");
    // Nobody reads `a_events` for now.
    let flooded = async {
        while a.stats().messages_dropped == 0 {
            stranger
                .send_to(b"\x08flood", a.local_addr())
                .await
                .expect("sent");
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, flooded)
        .await
        .expect("the queue runs over");
    let (b, _b_events) = start(config("b")).await;
    assert_eq!(b.join(&[a.local_addr()]).await.contacted, 1);
    let answered = async {
        while b.stats().node.probes_succeeded < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, answered)
        .await
        .expect("acks do not wait");
    assert_eq!(b.stats().node.probes_failed, 0);
    event(&mut a_events, joined("b")).await;
}

#[tokio::test]
async fn a_slow_stream_is_cut_and_holds_nobody_up() {
    let mut impatient = config("a");
    impatient.tcp_timeout = Duration::from_millis(300);
    let (a, _a_events) = start(impatient).await;
    let begin = Instant::now();
    let mut slow = TcpStream::connect(a.local_addr()).await.expect("accepted");
    slow.write_all(&[6, 0x84]).await.expect("written");
    let (b, _b_events) = start(config("b")).await;
    assert_eq!(b.join(&[a.local_addr()]).await.contacted, 1);
    // Both an end and a reset are fine: the point is that it comes.
    let cut = tokio::time::timeout(PATIENCE, slow.read(&mut [0; 16])).await;
    assert!(matches!(cut, Ok(Ok(0) | Err(_))), "{cut:?}");
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert_eq!(a.stats().malformed.get("stream_timeout"), Some(&1));
}

#[tokio::test]
async fn one_address_gets_sixteen_connections() {
    let (a, _a_events) = start(config("a")).await;
    let mut open = Vec::new();
    for _ in 0..16 {
        open.push(TcpStream::connect(a.local_addr()).await.expect("connected"));
    }
    let mut refused = TcpStream::connect(a.local_addr()).await.expect("connected");
    let closed = tokio::time::timeout(PATIENCE, refused.read(&mut [0; 16])).await;
    assert!(matches!(closed, Ok(Ok(0) | Err(_))), "{closed:?}");
    assert_eq!(a.stats().streams_refused, 1);
    drop(open);
    let (b, _b_events) = start(config("b")).await;
    let let_in = async { while b.join(&[a.local_addr()]).await.contacted == 0 {} };
    tokio::time::timeout(PATIENCE, let_in)
        .await
        .expect("the places are free again");
}

#[tokio::test]
async fn different_clusters_stay_apart() {
    let (a, _a_events) = start(config("a")).await;
    let mut other = config("b");
    other.cluster_name = "other".to_owned();
    let (b, _b_events) = start(other).await;
    let outcome = b.join(&[a.local_addr()]).await;
    assert_eq!((outcome.contacted, outcome.errors.len()), (0, 1));
    assert_eq!((a.members().len(), b.members().len()), (1, 1));
    assert_eq!(a.stats().malformed.get("cluster"), Some(&1));
}

/// Shows no table to whom it has met, and says which digest it was given.
struct Brief;

fn with_digest(what: &str, members: u64) -> Bytes {
    format!("{what} {members:016x}").into()
}

impl Delegate for Brief {
    fn local_state(&self, _join: bool) -> Bytes {
        Bytes::from_static(b"everything")
    }

    fn brief_opening(&self, peer: &Member, members: u64) -> Option<Bytes> {
        peer.name
            .starts_with("brief")
            .then(|| with_digest("opening", members))
    }

    fn brief_reply(&self, theirs: &Bytes, members: u64) -> Option<Bytes> {
        theirs
            .starts_with(b"opening")
            .then(|| with_digest("reply", members))
    }
}

async fn start_brief(name: &str) -> (Handle, Receiver<Event>) {
    let mut config = config(name);
    // Nobody is doubted meanwhile.
    config.probe_interval = Duration::ZERO;
    memberlist::start(config, Arc::new(Brief))
        .await
        .expect("loopback is free")
}

/// Both sides of an exchange that `a` begins with a scripted member at `listener`.
async fn scripted(listener: &TcpListener, reply: &StreamMessage) -> PushPull {
    let (mut stream, _) = listener.accept().await.expect("dialled");
    let mut decoder = StreamDecoder::new(ClusterFilter {
        name: "default".to_owned(),
        accept_missing: false,
    });
    let mut buffer = [0; 4096];
    let request = loop {
        let length = stream.read(&mut buffer).await.expect("readable");
        assert_ne!(length, 0, "cut off");
        if let StreamProgress::Complete(StreamMessage::PushPull(request)) =
            decoder.feed(&buffer[..length]).expect("well formed")
        {
            break request;
        }
    };
    let reply = encode_stream(reply, "default", false);
    stream.write_all(&reply).await.expect("writable");
    request
}

fn state_only(state: &'static str) -> StreamMessage {
    StreamMessage::PushPull(PushPull {
        join: false,
        nodes: Vec::new(),
        user_state: Bytes::from_static(state.as_bytes()),
    })
}

fn a_state(event: Event) -> Option<Bytes> {
    match event {
        Event::RemoteState { state, .. } => Some(state),
        _ => None,
    }
}

#[tokio::test]
async fn tables_are_left_out_where_both_sides_say_so() {
    let (a, mut a_events) = start_brief("brief-a").await;
    let (b, mut b_events) = start_brief("brief-b").await;
    assert_eq!(a.join(&[b.local_addr()]).await.contacted, 1);
    sees(&a, &["brief-a", "brief-b"]).await;
    sees(&b, &["brief-a", "brief-b"]).await;
    for events in [&mut a_events, &mut b_events] {
        assert_eq!(
            event(events, a_state).await,
            "everything",
            "a join is whole"
        );
    }
    a.exchange(b.local_addr());
    let opening = event(&mut b_events, a_state).await;
    let reply = event(&mut a_events, a_state).await;
    let digest = opening.strip_prefix(b"opening ").expect("brief");
    assert_eq!(reply.strip_prefix(b"reply "), Some(digest), "they agree");
    a.exchange_tables(b.local_addr());
    for events in [&mut a_events, &mut b_events] {
        assert_eq!(event(events, a_state).await, "everything");
    }
    assert_eq!(a.stats().malformed.len() + b.stats().malformed.len(), 0);
}

#[tokio::test]
async fn an_exchange_without_tables_has_none_on_the_wire() {
    let (a, mut a_events) = start_brief("a").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("free");
    let addr = listener.local_addr().expect("bound");
    for (name, brief) in [("brief", true), ("other", false)] {
        let met = Message::Alive(Alive {
            incarnation: 1,
            node: name.to_owned(),
            addr: RawIp::from(addr.ip()),
            port: addr.port(),
            meta: Bytes::new(),
            versions: Versions::OURS,
        });
        let gone = Message::Dead(Dead {
            incarnation: 1,
            node: name.to_owned(),
            from: name.to_owned(),
        });
        let stranger = UdpSocket::bind("127.0.0.1:0").await.expect("free");
        let say = async |message: &Message| {
            let bytes = encode_message(message, "default");
            let sent = stranger.send_to(&bytes, a.local_addr()).await;
            assert_eq!(sent.expect("sent"), bytes.len());
        };
        say(&met).await;
        sees(&a, &["a", name]).await;
        a.exchange(addr);
        let request = scripted(&listener, &state_only("reply")).await;
        assert_eq!(request.nodes.is_empty(), brief, "{name}");
        assert_eq!(request.user_state.starts_with(b"opening "), brief);
        assert_eq!(event(&mut a_events, a_state).await, "reply");
        a.exchange_tables(addr);
        let request = scripted(&listener, &state_only("reply")).await;
        assert!(!request.nodes.is_empty(), "{name}");
        assert_eq!(request.user_state, "everything");
        say(&gone).await;
        sees(&a, &["a"]).await;
    }
}

#[tokio::test]
async fn only_who_asks_without_a_table_is_answered_without() {
    let (a, _events) = start_brief("a").await;
    let ours = PushNode {
        name: "b".to_owned(),
        addr: RawIp::from(loopback(9)),
        port: 9,
        meta: Bytes::new(),
        incarnation: 1,
        state: NodeState::Alive,
        versions: Versions::OURS,
    };
    let ask = async |nodes: Vec<PushNode>, join: bool, state: &'static str| {
        let mut stream = TcpStream::connect(a.local_addr()).await.expect("accepted");
        let request = StreamMessage::PushPull(PushPull {
            join,
            nodes,
            user_state: Bytes::from_static(state.as_bytes()),
        });
        let request = encode_stream(&request, "default", false);
        stream.write_all(&request).await.expect("writable");
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).await.expect("readable");
        let mut decoder = StreamDecoder::new(ClusterFilter {
            name: "default".to_owned(),
            accept_missing: false,
        });
        match decoder.feed(&reply) {
            Ok(StreamProgress::Complete(StreamMessage::PushPull(reply))) => {
                (reply.nodes.is_empty(), reply.user_state)
            }
            other => panic!("{other:?}"),
        }
    };
    let whole = (false, Bytes::from_static(b"everything"));
    assert_eq!(ask(vec![ours.clone()], false, "opening").await, whole);
    assert_eq!(ask(vec![], true, "opening").await, whole);
    assert_eq!(ask(vec![], false, "anything").await, whole);
    let (brief, state) = ask(vec![], false, "opening").await;
    assert!(brief && state.starts_with(b"reply "), "{state:?}");
}
