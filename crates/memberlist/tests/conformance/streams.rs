//! Connections, against a peer that is nothing but a script.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use bytes::Bytes;
use memberlist::wire::{
    Ack, Alive, ClusterFilter, Message, NodeState, PushNode, PushPull, RawIp, StreamDecoder,
    StreamMessage, StreamProgress, Versions, encode_message, encode_stream,
};
use memberlist::{Delegate, Event, Handle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

use crate::bench::{MS, event, filter, in_time, loopback, map, ping, start, start_with, until};

fn encode(message: &StreamMessage) -> Vec<u8> {
    encode_stream(message, "default", false)
}

fn read(bytes: &[u8]) -> StreamMessage {
    match StreamDecoder::new(filter()).feed(bytes) {
        Ok(StreamProgress::Complete(message)) => message,
        other => panic!("{other:?}: {bytes:02x?}"),
    }
}

fn entry(name: &str, incarnation: u32, port: u16) -> PushNode {
    PushNode {
        name: name.to_owned(),
        addr: RawIp::V4([127, 0, 0, 1]),
        port,
        meta: Bytes::new(),
        incarnation,
        state: NodeState::Alive,
        versions: Versions::OURS,
    }
}

fn table(join: bool, nodes: Vec<PushNode>, user_state: &'static str) -> StreamMessage {
    StreamMessage::PushPull(PushPull {
        join,
        nodes,
        user_state: Bytes::from_static(user_state.as_bytes()),
    })
}

/// All that comes back for a request whose sender then waits, as all requesters do. A reset counts
/// as an end: what the other side left unread makes one.
async fn answer(to: &Handle, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(to.local_addr()).await.expect("accepted");
    stream.write_all(request).await.expect("written");
    until_end(&mut stream).await
}

/// The same, but the sender ends its side after the request.
async fn answer_at_end(to: &Handle, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(to.local_addr()).await.expect("accepted");
    stream.write_all(request).await.expect("written");
    stream.shutdown().await.expect("ended");
    until_end(&mut stream).await
}

async fn until_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = in_time("the end of a stream", stream.read_to_end(&mut bytes)).await;
    bytes
}

/// One whole message of a requester.
async fn request(stream: &mut TcpStream) -> StreamMessage {
    let mut decoder = StreamDecoder::new(filter());
    let mut buffer = [0; 4096];
    loop {
        let length = in_time("a request", stream.read(&mut buffer)).await;
        let length = length.expect("readable");
        assert!(length > 0, "the end of a request");
        if let StreamProgress::Complete(message) =
            decoder.feed(&buffer[..length]).expect("well-formed")
        {
            return message;
        }
    }
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("free");
    let addr = listener.local_addr().expect("bound");
    (listener, addr)
}

/// Joins a script that answers every request with these bytes: what came of it, and the request.
async fn join_a_script(
    member: &Handle,
    reply: Vec<u8>,
) -> (memberlist::JoinOutcome, StreamMessage) {
    let (listener, addr) = listener().await;
    let script = async {
        let (mut stream, _) = listener.accept().await.expect("dialled");
        let request = request(&mut stream).await;
        stream.write_all(&reply).await.expect("written");
        // The initiator closes first.
        until_end(&mut stream).await;
        request
    };
    let seeds = [addr];
    tokio::join!(member.join(&seeds), script)
}

fn malformed(member: &Handle) -> Vec<(&'static str, u64)> {
    member.stats().malformed.into_iter().collect()
}

fn remote_state(event: Event) -> Option<(Bytes, bool)> {
    match event {
        Event::RemoteState { state, join } => Some((state, join)),
        _ => None,
    }
}

/// Remembers with which flag it was asked.
#[derive(Default)]
struct Asked(Mutex<Vec<bool>>);

impl Delegate for Asked {
    fn local_state(&self, join: bool) -> Bytes {
        self.0.lock().expect("not poisoned").push(join);
        Bytes::from_static(b"our state")
    }
}

#[tokio::test]
async fn item_15_exchanges_work_whoever_compresses() {
    for (one, other) in [(false, false), (false, true), (true, false), (true, true)] {
        let (mut a, mut b) = (loopback("a"), loopback("b"));
        (a.compression, b.compression) = (one, other);
        let ((a, mut a_events), (b, mut b_events)) = (start(a).await, start(b).await);
        assert_eq!(a.join(&[b.local_addr()]).await.contacted, 1);
        for events in [&mut a_events, &mut b_events] {
            let (state, _) = event(events, remote_state).await;
            assert_eq!(&state[..], b"our state");
        }
        until("both know both", || {
            a.members().len() == 2 && b.members().len() == 2
        })
        .await;
    }
}

#[tokio::test]
async fn item_16_the_answer_is_from_before_the_merge() {
    let (a, _events) = start(loopback("a")).await;
    let told = UdpSocket::bind("127.0.0.1:0").await.expect("free");
    let port = told.local_addr().expect("bound").port();
    let past = Alive {
        incarnation: 5,
        node: "joiner".to_owned(),
        addr: RawIp::V4([127, 0, 0, 1]),
        port,
        meta: Bytes::new(),
        versions: Versions::OURS,
    };
    let bytes = encode_message(&Message::Alive(past), "default");
    told.send_to(&bytes, a.local_addr()).await.expect("sent");
    until("the joiner's past is known", || a.members().len() == 2).await;
    // It has restarted and knows nothing of that.
    let nodes = vec![entry("joiner", 9, port), entry("another", 1, 1)];
    let reply = answer(&a, &encode(&table(true, nodes, ""))).await;
    let StreamMessage::PushPull(reply) = read(&reply) else {
        panic!("{reply:02x?}")
    };
    let incarnations: Vec<_> = reply
        .nodes
        .iter()
        .map(|node| (&*node.name, node.incarnation))
        .collect();
    assert!(incarnations.contains(&("joiner", 5)), "{incarnations:?}");
    assert_eq!(incarnations.len(), 2, "{incarnations:?}");
    until("the merge", || {
        let members = a.members();
        let joiner = members.iter().find(|member| member.name == "joiner");
        joiner.is_some_and(|joiner| joiner.incarnation == 9) && members.len() == 3
    })
    .await;
}

#[tokio::test]
async fn item_17_the_request_says_whether_it_is_a_join() {
    let asked = Arc::new(Asked::default());
    let (a, mut events) = start_with(loopback("a"), asked.clone()).await;
    for (join, state) in [(true, "one"), (false, ""), (false, "three")] {
        let reply = answer(&a, &encode(&table(join, vec![entry("b", 1, 1)], state))).await;
        let StreamMessage::PushPull(reply) = read(&reply) else {
            panic!("{reply:02x?}")
        };
        assert_eq!(reply.join, join, "echoed");
        assert_eq!(&reply.user_state[..], b"our state");
    }
    assert_eq!(event(&mut events, remote_state).await, ("one".into(), true));
    // An empty state is none.
    let next = event(&mut events, remote_state).await;
    assert_eq!(next, ("three".into(), false));

    // As the initiator we go by our own request, whatever the answer says.
    let reply = encode(&table(false, vec![entry("c", 1, 1)], "four"));
    let (outcome, request) = join_a_script(&a, reply).await;
    assert_eq!(outcome.contacted, 1, "{outcome:?}");
    assert!(matches!(request, StreamMessage::PushPull(request) if request.join));
    assert_eq!(
        event(&mut events, remote_state).await,
        ("four".into(), true)
    );
    let asked = asked.0.lock().expect("not poisoned").clone();
    assert_eq!(asked, [true, false, false, true]);
}

#[tokio::test]
async fn item_18_another_cluster_gets_no_byte_and_none_of_its_own_in() {
    let (a, mut events) = start(loopback("a")).await;
    let foreign = table(true, vec![entry("b", 1, 1)], "foreign");
    let named = encode_stream(&foreign, "other", true);
    let nameless = [
        &b"\x06"[..],
        &map(&[
            ("Join", b"\xc3"),
            ("Nodes", b"\x00"),
            ("UserStateLen", b"\x00"),
        ]),
    ]
    .concat();
    for request in [&named, &nameless] {
        assert_eq!(answer(&a, request).await, b"");
    }
    assert_eq!(malformed(&a), [("cluster", 2)]);
    // Nor when we asked.
    let (outcome, _) = join_a_script(&a, named.clone()).await;
    assert_eq!((outcome.contacted, outcome.errors.len()), (0, 1));
    assert!(outcome.errors[0].1.contains("other"), "{outcome:?}");
    assert_eq!(a.members().len(), 1);
    // The next state that comes is the first that was let in.
    answer(&a, &encode(&table(false, vec![], "ours"))).await;
    assert_eq!(
        event(&mut events, remote_state).await,
        ("ours".into(), false)
    );
}

#[tokio::test]
async fn item_20_less_than_declared_is_nothing() {
    let (a, _events) = start(loopback("a")).await;
    let whole = encode(&table(false, vec![entry("b", 1, 1)], "some state"));
    for cut in [whole.len() - 1, whole.len() - 10, 30, 2] {
        assert_eq!(answer_at_end(&a, &whole[..cut]).await, b"", "{cut}");
    }
    until("each is counted", || malformed(&a) == [("stream", 4)]).await;
    assert_eq!(a.members().len(), 1);
    assert_eq!(a.stats().node.merges, 0);
}

/// Lets nobody go on until told to.
#[derive(Default)]
struct Gate {
    waiting: AtomicUsize,
    open: Mutex<bool>,
    opened: Condvar,
}

impl Delegate for Gate {
    fn local_state(&self, _join: bool) -> Bytes {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let open = self.open.lock().expect("not poisoned");
        drop(self.opened.wait_while(open, |open| !*open));
        Bytes::new()
    }
}

/// Opens the gate when dropped.
struct Opener(Arc<Gate>);

impl Drop for Opener {
    fn drop(&mut self) {
        if let Ok(mut open) = self.0.open.lock() {
            *open = true;
        }
        self.0.opened.notify_all();
    }
}

#[tokio::test]
async fn item_21_the_33rd_exchange_at_a_time_is_closed_unanswered() {
    let gate = Arc::new(Gate::default());
    // Also when the test fails: nothing ends before those who wait.
    let opener = Opener(gate.clone());
    let (a, _events) = start_with(loopback("a"), gate.clone()).await;
    let request = encode(&table(false, vec![], ""));
    // One address alone may not have so many connections.
    let open = async |from: u8| {
        let socket = TcpSocket::new_v4().expect("available");
        let from = SocketAddr::new(IpAddr::from([127, 0, 0, from]), 0);
        socket.bind(from).expect("a loopback address");
        let mut stream = socket.connect(a.local_addr()).await.expect("accepted");
        stream.write_all(&request).await.expect("written");
        stream
    };
    let mut streams = Vec::new();
    for number in 0..32 {
        streams.push(open(2 + number / 12).await);
    }
    until("thirty-two are under way", || {
        gate.waiting.load(Ordering::SeqCst) == 32
    })
    .await;
    let mut last = open(9).await;
    assert_eq!(until_end(&mut last).await, b"");
    assert_eq!(malformed(&a), [("stream_busy", 1)]);
    drop(opener);
    for stream in &mut streams {
        let reply = until_end(stream).await;
        assert!(matches!(read(&reply), StreamMessage::PushPull(_)));
    }
    let mut next = open(9).await;
    let reply = until_end(&mut next).await;
    assert!(
        matches!(read(&reply), StreamMessage::PushPull(_)),
        "room again"
    );
}

#[tokio::test]
async fn item_22_a_ping_by_stream_is_answered_for_our_name_and_for_none() {
    for compression in [false, true] {
        let mut config = loopback("a");
        config.compression = compression;
        let (a, _events) = start(config).await;
        for (name, answered) in [("a", true), ("", true), ("b", false)] {
            for compressed in [false, true] {
                let request = StreamMessage::Ping(ping(42, name));
                // Whatever the cluster.
                let request = encode_stream(&request, "other", compressed);
                let reply = answer(&a, &request).await;
                let expected = StreamMessage::Ack(Ack {
                    seq_no: 42,
                    payload: Bytes::new(),
                });
                let expected = encode_stream(&expected, "", compression);
                let expected = if answered { &expected[..] } else { b"" };
                assert_eq!(reply, expected, "{name:?}");
            }
        }
        assert_eq!(malformed(&a), []);
    }
}

#[tokio::test]
async fn item_22_only_the_right_number_by_stream_counts_as_an_answer() {
    for right in [true, false] {
        let mut config = loopback("a");
        config.probe_interval = 500 * MS;
        let (a, _events) = start(config).await;
        // Datagrams reach it and stay unread.
        let (listener, addr) = listener().await;
        let _silent = UdpSocket::bind(addr).await.expect("free");
        let script = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("dialled");
                let StreamMessage::Ping(ping) = request(&mut stream).await else {
                    continue;
                };
                let seq_no = ping.seq_no.wrapping_add(u32::from(!right));
                let payload = Bytes::new();
                let ack = encode(&StreamMessage::Ack(Ack { seq_no, payload }));
                stream.write_all(&ack).await.expect("written");
                until_end(&mut stream).await;
            }
        });
        answer(
            &a,
            &encode(&table(false, vec![entry("b", 1, addr.port())], "")),
        )
        .await;
        until("a round ends", || {
            let node = a.stats().node;
            node.probes_failed + node.probes_answered_by_tcp_only > 0
        })
        .await;
        let node = a.stats().node;
        assert_eq!(node.probes_answered_by_tcp_only > 0, right);
        assert_eq!(node.suspicions > 0, !right);
        script.abort();
    }
}

#[tokio::test]
async fn item_23_a_message_by_stream_is_delivered_whole_or_not_at_all() {
    let (a, mut events) = start(loopback("a")).await;
    let user = |content: &'static [u8]| encode(&StreamMessage::User(Bytes::from_static(content)));
    let long = [
        &b"\x08"[..],
        &map(&[("UserMsgLen", b"\xce\x00\x10\x00\x01")]),
    ]
    .concat();
    let short = user(b"short");
    for request in [&user(b"")[..], &long, &short[..short.len() - 1]] {
        assert_eq!(answer_at_end(&a, request).await, b"");
    }
    until("two were wrong", || malformed(&a) == [("stream", 2)]).await;
    assert_eq!(answer(&a, &user(b"good")).await, b"", "there is no reply");
    let message = event(&mut events, |event| match event {
        Event::Message(bytes) => Some(bytes),
        _ => None,
    });
    assert_eq!(message.await, "good", "the first and only one");
}

#[tokio::test]
async fn item_24_what_peers_say_when_they_refuse_is_passed_on() {
    let (a, _events) = start(loopback("a")).await;
    let reply = encode_stream(&StreamMessage::Error("no \x1bkey".to_owned()), "", true);
    let (outcome, _) = join_a_script(&a, reply).await;
    assert_eq!(outcome.contacted, 0);
    let text = &outcome.errors[0].1;
    assert!(
        text.contains("no  key"),
        "without control characters: {text}"
    );
    assert_eq!(malformed(&a), [("stream_refused", 1)]);
}

#[tokio::test]
async fn item_24_nothing_and_what_nobody_knows_get_no_word() {
    let (a, _events) = start(loopback("a")).await;
    assert_eq!(answer_at_end(&a, b"").await, b"");
    assert_eq!(answer(&a, b"\x63").await, b"");
    until("only one of the two is worth counting", || {
        malformed(&a) == [("unknown_type", 1)]
    })
    .await;
    assert_eq!(a.stats().streams_in, 2);
}

#[tokio::test]
async fn item_21_a_slow_sender_is_cut_at_the_deadline_however_busy_it_looks() {
    let mut config = loopback("a");
    config.tcp_timeout = 400 * MS;
    let (a, _events) = start(config).await;
    let began = Instant::now();
    let mut stream = TcpStream::connect(a.local_addr()).await.expect("accepted");
    let (mut from, mut to) = stream.split();
    // A byte now and then, for ever.
    let drip = async {
        let bytes = [
            &[6][..],
            &[0xdf, 0, 1, 0, 0],
            &[0xa1, b'x', 0xc0].repeat(9999),
        ]
        .concat()
        .into_iter();
        for byte in bytes {
            if to.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(20 * MS).await;
        }
    };
    let mut reply = Vec::new();
    let cut = async {
        let _ = in_time("the cut", from.read_to_end(&mut reply)).await;
    };
    tokio::select! { () = drip => {}, () = cut => {} }
    let took = began.elapsed();
    assert!((400 * MS..4000 * MS).contains(&took), "{took:?}");
    until("it is counted", || malformed(&a) == [("stream_timeout", 1)]).await;
}

#[tokio::test]
async fn item_15_a_table_from_a_nameless_cluster_is_let_in_where_wanted() {
    let mut config = loopback("a");
    config.accept_missing_cluster_name = true;
    let (a, mut events) = start(config).await;
    // As HashiCorp's library writes it, with signed integers.
    let head = map(&[
        ("Join", b"\xc2"),
        ("Nodes", b"\x00"),
        ("UserStateLen", b"\xd1\x00\x05"),
    ]);
    let reply = answer(&a, &[&b"\x06"[..], &head, b"state"].concat()).await;
    let ours = ClusterFilter {
        name: "default".to_owned(),
        accept_missing: false,
    };
    assert!(matches!(
        StreamDecoder::new(ours).feed(&reply),
        Ok(StreamProgress::Complete(StreamMessage::PushPull(_)))
    ));
    assert_eq!(
        event(&mut events, remote_state).await,
        ("state".into(), false)
    );
}
