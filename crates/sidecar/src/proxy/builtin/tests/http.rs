//! HTTP mode against clients and endpoints that are written down byte by byte.

mod framing;
mod http2;

use tokio::sync::mpsc;

use super::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET /a HTTP/1.1\r\nHost: web\r\n\r\n";

/// An endpoint that shows what it is sent and says what it is told.
struct Peer {
    address: SocketAddr,
    connections: mpsc::Receiver<TcpStream>,
}

impl Peer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, connections) = mpsc::channel(64);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if accepted.send(stream).await.is_err() {
                    return;
                }
            }
        });
        Self {
            address,
            connections,
        }
    }

    async fn connection(&mut self) -> TcpStream {
        soon("a connection to the endpoint", self.connections.recv())
            .await
            .unwrap()
    }
}

/// Reads until `end` has come.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    soon(end, async {
        while !String::from_utf8_lossy(&text).contains(end) {
            let mut some = [0; 4096];
            let count = stream.read(&mut some).await.unwrap();
            let so_far = String::from_utf8_lossy(&text).into_owned();
            assert!(count > 0, "it ended before {end:?}: {so_far}");
            text.extend_from_slice(&some[..count]);
        }
    })
    .await;
    String::from_utf8(text).unwrap()
}

async fn read_head(stream: &mut TcpStream) -> String {
    read_until(stream, "\r\n\r\n").await
}

async fn say(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// Everything until the end of the stream.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = soon("the end", stream.read_to_end(&mut text)).await;
    read.unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&text)));
    String::from_utf8(text).unwrap()
}

impl Rig {
    /// A port in http mode that leads to these endpoints.
    async fn http(&mut self, endpoints: &[SocketAddr]) -> u16 {
        let port = self.free_port().await;
        self.route_as(ProxyMode::Http, port, endpoints);
        self.listening(port).await;
        port
    }

    /// Sends bytes and an end, and reads the answers.
    async fn exchange(&self, port: u16, text: &str) -> String {
        let mut client = self.connect(port).await;
        say(&mut client, text).await;
        client.shutdown().await.unwrap();
        rest(&mut client).await
    }
}

/// An endpoint that answers every request with its name, on kept connections.
async fn named(name: &'static str) -> SocketAddr {
    let mut peer = Peer::start().await;
    let address = peer.address;
    tokio::spawn(async move {
        while let Some(mut stream) = peer.connections.recv().await {
            tokio::spawn(async move {
                let mut some = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut some).await {
                    let requests = some[..count].windows(4).filter(|it| *it == b"\r\n\r\n");
                    for _ in requests {
                        let length = name.len();
                        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                        say(&mut stream, &(head + name)).await;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn requests_of_one_connection_are_spread_and_connections_to_endpoints_kept() {
    let mut rig = Rig::start(101, quick());
    let port = rig.http(&[named("one").await, named("two").await]).await;
    let mut client = rig.connect(port).await;
    let mut names = Vec::new();
    for _ in 0..6 {
        say(&mut client, GET).await;
        let mut answer = read_head(&mut client).await;
        if answer.ends_with("\r\n\r\n") {
            answer += &read_until(&mut client, "o").await;
        }
        names.push(answer.contains("one"));
    }
    assert_eq!(names.iter().filter(|it| **it).count(), 3, "{names:?}");
    let status = rig
        .until("the counts", |it| it.ports[&port].requests_total == 6)
        .await;
    let endpoints = &status.ports[&port].endpoints;
    for endpoint in endpoints {
        assert_eq!(endpoint.connections_total, 1);
        let requests = endpoint.requests.as_ref().unwrap();
        assert_eq!((requests.by_class[1], requests.failed), (3, 0));
        assert!(endpoint.sent_bytes > 0 && endpoint.received_bytes > 0);
    }
}

#[tokio::test]
async fn the_endpoint_sees_who_asks_and_the_client_who_answered() {
    let mut rig = Rig::start(102, quick());
    let mut peer = Peer::start().await;
    let port = rig.http(&[peer.address]).await;
    let mut client = rig.connect(port).await;
    let local = client.local_addr().unwrap().ip();
    say(
        &mut client,
        "GET /a?b HTTP/1.1\r\nHost: web\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n",
    )
    .await;
    let mut endpoint = peer.connection().await;
    let head = read_head(&mut endpoint).await;
    assert!(head.starts_with("GET /a?b HTTP/1.1\r\n"), "{head}");
    assert!(
        head.contains(&format!("x-forwarded-for: {local}\r\n")),
        "{head}"
    );
    assert!(head.contains("via: 1.1 sidecar\r\n"), "{head}");
    assert!(!head.contains("x-hop"), "{head}");
    say(&mut endpoint, OK).await;
    let answer = read_until(&mut client, "ok").await;
    assert!(answer.contains("via: 1.1 sidecar\r\n"), "{answer}");
}

#[tokio::test]
async fn a_repeatable_request_that_is_lost_is_asked_again_elsewhere() {
    let mut rig = Rig::start(103, quick());
    let mut peer = Peer::start().await;
    let port = rig.http(&[peer.address]).await;
    let mut client = rig.connect(port).await;
    say(&mut client, GET).await;
    let mut first = peer.connection().await;
    read_head(&mut first).await;
    say(&mut first, OK).await;
    read_until(&mut client, "ok").await;
    // The kept connection is lost with the next request; the only endpoint is asked on a new one.
    say(&mut client, GET).await;
    read_head(&mut first).await;
    drop(first);
    let mut second = peer.connection().await;
    assert!(read_head(&mut second).await.starts_with("GET /a "));
    say(&mut second, OK).await;
    assert!(
        read_until(&mut client, "ok")
            .await
            .starts_with("HTTP/1.1 200")
    );
    let status = rig
        .until("the counts", |it| it.ports[&port].retries_total == 1)
        .await;
    assert_eq!(
        status.ports[&port].endpoints[0].ejections, 0,
        "it closed what was idle"
    );
}

#[tokio::test]
async fn a_request_that_may_have_had_an_effect_is_not_repeated() {
    let mut rig = Rig::start(104, quick());
    let mut peer = Peer::start().await;
    let other = named("other").await;
    let port = rig.http(&[peer.address]).await;
    let mut client = rig.connect(port).await;
    say(
        &mut client,
        "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 2\r\n\r\nhi",
    )
    .await;
    let mut endpoint = peer.connection().await;
    read_until(&mut endpoint, "hi").await;
    rig.route_as(ProxyMode::Http, port, &[peer.address, other]);
    rig.following(port, &[peer.address, other]).await;
    drop(endpoint);
    let answer = read_head(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert!(
        answer.contains("proxy-status: sidecar; error=connection_terminated"),
        "{answer}"
    );
    let status = rig
        .until("the count", |it| {
            it.ports[&port].own_answers.get(&502) == Some(&1)
        })
        .await;
    assert_eq!(status.ports[&port].retries_total, 0);
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_passed_over_and_avoided_at_once() {
    let mut rig = Rig::start(105, quick());
    let (dead, _held) = dead_endpoint();
    let port = rig.http(&[dead, named("live").await]).await;
    for _ in 0..20 {
        let answer = rig.exchange(port, GET).await;
        assert!(answer.ends_with("live"), "{answer}");
    }
    let status = rig
        .until("the counts", |it| it.ports[&port].requests_total == 20)
        .await;
    let endpoints = &status.ports[&port].endpoints;
    let dead = endpoints.iter().find(|it| it.address == dead).unwrap();
    assert!((1..=3).contains(&dead.connect_failures), "{dead:?}");
    assert!(dead.ejections >= 1);
    let post = "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 0\r\n\r\n";
    assert!(
        rig.exchange(port, post).await.ends_with("live"),
        "nothing was sent before"
    );
}

#[tokio::test]
async fn without_an_endpoint_the_answer_is_503_and_says_why() {
    let mut rig = Rig::start(106, quick());
    let (dead, _held) = dead_endpoint();
    let port = rig.http(&[dead]).await;
    let answer = rig.exchange(port, GET).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
    assert!(
        answer.ends_with("no instance of web can be reached, 1 tried\n"),
        "{answer}"
    );
    rig.unroute(port);
    rig.until("no endpoint", |it| it.ports[&port].endpoints.is_empty())
        .await;
    let answer = rig.exchange(port, GET).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(
        answer.ends_with("no instance of web is healthy\n"),
        "{answer}"
    );
    let back = named("back").await;
    rig.route_as(ProxyMode::Http, port, &[back]);
    rig.following(port, &[back]).await;
    assert!(rig.exchange(port, GET).await.ends_with("back"));
}

#[tokio::test]
async fn silence_is_504_and_nonsense_502() {
    let limits = Limits {
        response_timeout: Duration::from_millis(200),
        ..quick()
    };
    let mut rig = Rig::start(107, limits);
    let mut peer = Peer::start().await;
    let port = rig.http(&[peer.address]).await;
    let mut client = rig.connect(port).await;
    say(&mut client, GET).await;
    let silent = peer.connection().await;
    let answer = read_until(&mut client, "in time\n").await;
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    drop(silent);
    for nonsense in [
        "SSH-2.0-x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ] {
        say(&mut client, GET).await;
        let mut endpoint = peer.connection().await;
        read_head(&mut endpoint).await;
        say(&mut endpoint, nonsense).await;
        let answer = read_until(&mut client, "answered\n").await;
        assert!(answer.starts_with("HTTP/1.1 502"), "{nonsense:?}: {answer}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_complete() {
    let mut rig = Rig::start(108, quick());
    for head in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        let mut peer = Peer::start().await;
        let port = rig.http(&[peer.address]).await;
        let mut client = rig.connect(port).await;
        say(&mut client, GET).await;
        let mut endpoint = peer.connection().await;
        read_head(&mut endpoint).await;
        say(
            &mut endpoint,
            &format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\nabc"),
        )
        .await;
        read_until(&mut client, "abc").await;
        drop(endpoint);
        let mut more = Vec::new();
        let ended = soon("the end", client.read_to_end(&mut more)).await;
        assert!(
            ended.is_err() || !more.ends_with(b"0\r\n\r\n"),
            "{head}: {more:?}"
        );
        assert!(
            ended.is_err(),
            "{head}: a reset cannot be taken for the end"
        );
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let mut rig = Rig::start(109, quick());
    let port = rig.http(&[named("one").await]).await;
    let answers = rig.exchange(port, &GET.repeat(5)).await;
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 5, "{answers}");
}

#[tokio::test]
async fn who_has_said_everything_still_hears_the_answer() {
    let mut rig = Rig::start(110, quick());
    let mut peer = Peer::start().await;
    let port = rig.http(&[peer.address]).await;
    let mut client = rig.connect(port).await;
    say(&mut client, GET).await;
    client.shutdown().await.unwrap();
    let mut endpoint = peer.connection().await;
    read_head(&mut endpoint).await;
    say(&mut endpoint, "HTTP/1.0 200 OK\r\n\r\nuntil the end").await;
    drop(endpoint);
    let answer = rest(&mut client).await;
    assert!(answer.contains("until the end"), "{answer}");
}

#[tokio::test]
async fn an_early_answer_arrives_although_the_client_is_still_sending() {
    let mut rig = Rig::start(111, quick());
    let mut peer = Peer::start().await;
    let port = rig.http(&[peer.address]).await;
    let client = rig.connect(port).await;
    let (mut from, mut to) = client.into_split();
    let sending = tokio::spawn(async move {
        let head = "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 50000000\r\n\r\n";
        to.write_all(head.as_bytes()).await.unwrap();
        // It may be told to stop at any time.
        while to.write_all(&[b'x'; 65536]).await.is_ok() {}
    });
    let mut endpoint = peer.connection().await;
    read_head(&mut endpoint).await;
    say(
        &mut endpoint,
        "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig",
    )
    .await;
    endpoint.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let mut some = [0; 1024];
    soon("the answer", async {
        while !answer.ends_with(b"big") {
            let count = from.read(&mut some).await.unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&some[..count]);
        }
    })
    .await;
    assert!(answer.starts_with(b"HTTP/1.1 413"));
    drop((endpoint, from));
    soon("the end of the upload", sending).await.unwrap();
}

#[tokio::test]
async fn bodies_are_streamed_in_chunks_with_trailers_and_without_extensions() {
    let mut rig = Rig::start(112, quick());
    let mut peer = Peer::start().await;
    let port = rig.http(&[peer.address]).await;
    let mut client = rig.connect(port).await;
    say(
        &mut client,
        "POST / HTTP/1.1\r\nHost: web\r\nTE: trailers\r\nTrailer: x-sum\r\n\
         Transfer-Encoding: chunked\r\n\r\n3;ext=\"a\"\r\nabc\r\n",
    )
    .await;
    let mut endpoint = peer.connection().await;
    let begun = read_until(&mut endpoint, "abc\r\n").await;
    assert!(begun.contains("transfer-encoding: chunked\r\n"), "{begun}");
    assert!(!begun.contains("ext="), "{begun}");
    say(&mut client, "0\r\nx-sum: 7\r\n\r\n").await;
    let end = read_until(&mut endpoint, "x-sum: 7\r\n\r\n").await;
    assert!(end.contains("0\r\n"), "{end}");
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-end\r\n\r\n";
    say(&mut endpoint, &format!("{head}2\r\nde\r\n")).await;
    read_until(&mut client, "de\r\n").await;
    say(&mut endpoint, "0\r\nx-end: 8\r\n\r\n").await;
    read_until(&mut client, "x-end: 8\r\n\r\n").await;
}

#[tokio::test]
async fn a_client_that_waits_for_leave_to_send_gets_it() {
    let mut rig = Rig::start(113, quick());
    let mut peer = Peer::start().await;
    let port = rig.http(&[peer.address]).await;
    let mut client = rig.connect(port).await;
    say(
        &mut client,
        "PUT / HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
    )
    .await;
    assert!(read_head(&mut client).await.starts_with("HTTP/1.1 100"));
    say(&mut client, "hi").await;
    let mut endpoint = peer.connection().await;
    read_until(&mut endpoint, "hi").await;
    say(&mut endpoint, OK).await;
    assert!(read_until(&mut client, "ok").await.contains(" 200 "));
}

#[tokio::test]
async fn an_upgraded_connection_carries_bytes_both_ways_in_either_mode() {
    let mut rig = Rig::start(114, quick());
    for mode in [ProxyMode::Ws, ProxyMode::Http] {
        let mut peer = Peer::start().await;
        let port = rig.free_port().await;
        rig.route_as(mode, port, &[peer.address]);
        rig.listening(port).await;
        let mut client = rig.connect(port).await;
        let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        // The client does not wait for the agreement.
        say(
            &mut client,
            &format!("GET /w HTTP/1.1\r\nHost: web\r\n{upgrade}early"),
        )
        .await;
        let mut endpoint = peer.connection().await;
        let head = read_head(&mut endpoint).await;
        assert!(head.contains("upgrade: websocket\r\n"), "{head}");
        say(
            &mut endpoint,
            &format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}greeting"),
        )
        .await;
        let answer = read_until(&mut client, "greeting").await;
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        read_until(&mut endpoint, "early").await;
        say(&mut client, "ping").await;
        read_until(&mut endpoint, "ping").await;
        say(&mut endpoint, "pong").await;
        read_until(&mut client, "pong").await;
        // Nothing that happens to the route touches it, and each side ends its half alone.
        rig.unroute(port);
        rig.until("no endpoint", |it| it.ports[&port].endpoints.is_empty())
            .await;
        client.shutdown().await.unwrap();
        assert_eq!(rest(&mut endpoint).await, "");
        say(&mut endpoint, "last").await;
        drop(endpoint);
        assert_eq!(rest(&mut client).await, "last");
    }
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_answer() {
    let mut rig = Rig::start(115, quick());
    let port = rig.http(&[named("no").await]).await;
    let text = "GET / HTTP/1.1\r\nHost: web\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let answers = rig.exchange(port, &(text.to_owned() + GET)).await;
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "{answers}");
}

#[tokio::test]
async fn requests_that_two_readers_could_read_differently_never_reach_an_endpoint() {
    let mut rig = Rig::start(116, quick());
    let mut peer = Peer::start().await;
    let port = rig.http(&[peer.address]).await;
    let long = "x".repeat(70_000);
    let many: String = (0..200).map(|at| format!("x-{at}: 1\r\n")).collect();
    for (what, text, status) in [
        (
            "two lengths",
            "POST / HTTP/1.1\r\nHost: w\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"
                .to_owned(),
            "400",
        ),
        (
            "a length with a sign",
            "POST / HTTP/1.1\r\nHost: w\r\nContent-Length: +1\r\n\r\na".to_owned(),
            "400",
        ),
        (
            "another coding",
            "POST / HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: gzip\r\n\r\n".to_owned(),
            "400",
        ),
        (
            "chunked, not last",
            "POST / HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"
                .to_owned(),
            "400",
        ),
        (
            "a coding in 1.0",
            "POST / HTTP/1.0\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
            "400",
        ),
        (
            "a folded line",
            "GET / HTTP/1.1\r\nHost: w\r\nX: a\r\n b\r\n\r\n".to_owned(),
            "400",
        ),
        (
            "a space before the colon",
            "GET / HTTP/1.1\r\nHost : w\r\n\r\n".to_owned(),
            "400",
        ),
        (
            "a zero byte",
            "GET / HTTP/1.1\r\nHost: w\r\nX: a\0b\r\n\r\n".to_owned(),
            "400",
        ),
        (
            "a bare return",
            "GET / HTTP/1.1\r\nHost: w\r\nX: a\rb\r\n\r\n".to_owned(),
            "400",
        ),
        (
            "two hosts",
            "GET / HTTP/1.1\r\nHost: w\r\nHost: v\r\n\r\n".to_owned(),
            "400",
        ),
        ("no host", "GET / HTTP/1.1\r\n\r\n".to_owned(), "400"),
        (
            "a tunnel",
            "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n".to_owned(),
            "405",
        ),
        (
            "a long field",
            format!("GET / HTTP/1.1\r\nHost: w\r\nX: {long}\r\n\r\n"),
            "431",
        ),
        (
            "many fields",
            format!("GET / HTTP/1.1\r\nHost: w\r\n{many}\r\n"),
            "431",
        ),
        (
            "nonsense",
            "\x16\x03\x01\x02\x00\x01\r\n\r\n".to_owned(),
            "400",
        ),
    ] {
        let answer = rig.exchange(port, &text).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{what}: {answer:?}"
        );
    }
    // Both a length and chunks: the length is forgotten, as the standard has it, and the endpoint sees one.
    let mut client = rig.connect(port).await;
    let both =
        "POST / HTTP/1.1\r\nHost: w\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n";
    say(&mut client, &format!("{both}3\r\nabc\r\n0\r\n\r\n")).await;
    let mut endpoint = peer.connection().await;
    let seen = read_until(&mut endpoint, "0\r\n\r\n").await;
    assert!(!seen.to_lowercase().contains("content-length"), "{seen}");
    assert!(
        peer.connections.try_recv().is_err(),
        "only the last one came through"
    );
}

#[tokio::test]
async fn an_endpoint_that_leaves_finishes_what_it_has_and_gets_nothing_more() {
    let mut rig = Rig::start(117, quick());
    let mut leaving = Peer::start().await;
    let port = rig.http(&[leaving.address]).await;
    let mut busy = rig.connect(port).await;
    let mut idle = rig.connect(port).await;
    say(&mut idle, GET).await;
    let mut kept = leaving.connection().await;
    read_head(&mut kept).await;
    say(&mut busy, GET).await;
    let mut running = leaving.connection().await;
    read_head(&mut running).await;
    say(&mut kept, OK).await;
    read_until(&mut idle, "ok").await;

    let staying = named("stays").await;
    rig.route_as(ProxyMode::Http, port, &[staying]);
    rig.following(port, &[staying]).await;
    assert_eq!(rest(&mut kept).await, "", "what waited is closed at once");
    say(&mut idle, GET).await;
    read_until(&mut idle, "stays").await;
    say(&mut running, OK).await;
    read_until(&mut busy, "ok").await;
    assert_eq!(rest(&mut running).await, "", "it is not kept");
    say(&mut busy, GET).await;
    read_until(&mut busy, "stays").await;
}

/// Writes so many bytes, each one foreseeable.
async fn write_body(to: &mut (impl tokio::io::AsyncWrite + Unpin), bytes: usize) {
    let body: Vec<u8> = (0..BLOCK).map(|at| (at / 7) as u8).collect();
    for _ in 0..bytes / BLOCK {
        to.write_all(&body).await.unwrap();
    }
}

/// Reads and checks them; every now and then the reader is slow.
async fn read_body(from: &mut (impl tokio::io::AsyncRead + Unpin), bytes: usize) {
    let mut some = vec![0; 100_000];
    let (mut count, mut reads) = (0, 0);
    while count < bytes {
        let wanted = some.len().min(bytes - count);
        let read = from.read(&mut some[..wanted]).await.unwrap();
        assert!(read > 0, "it ended after {count} bytes");
        for (at, byte) in some[..read].iter().enumerate() {
            assert_eq!(
                *byte,
                ((count + at) % BLOCK / 7) as u8,
                "byte {}",
                count + at
            );
        }
        (count, reads) = (count + read, reads + 1);
        if reads % 100 == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

const BLOCK: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_a_hundred_mebibytes_pass_whole_both_ways_to_slow_readers() {
    const BYTES: usize = 100 * BLOCK;
    let mut rig = Rig::start(118, quick());
    let mut peer = Peer::start().await;
    let port = rig.http(&[peer.address]).await;
    let mut client = rig.connect(port).await;
    say(
        &mut client,
        &format!("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: {BYTES}\r\n\r\n"),
    )
    .await;
    let endpoint = tokio::spawn(async move {
        let mut endpoint = peer.connection().await;
        // The head ends where the body begins: byte by byte, so as not to take any of it.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(endpoint.read_u8().await.unwrap());
        }
        read_body(&mut endpoint, BYTES).await;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n");
        say(&mut endpoint, &head).await;
        write_body(&mut endpoint, BYTES).await;
        endpoint
    });
    write_body(&mut client, BYTES).await;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 200"));
    read_body(&mut client, BYTES).await;
    drop(endpoint.await.unwrap());
}

#[tokio::test]
async fn a_client_may_pause_anywhere_and_its_requests_stay_whole() {
    const PAUSE: Duration = Duration::from_millis(600);
    let mut rig = Rig::start(122, quick());
    let mut peer = Peer::start().await;
    let port = rig.http(&[peer.address]).await;
    let mut client = rig.connect(port).await;
    for _ in 0..2 {
        // Pauses are what is tried here: after them the client has been put aside.
        tokio::time::sleep(PAUSE).await;
        say(&mut client, "POST /a HTTP/1.1\r\nHo").await;
        tokio::time::sleep(PAUSE).await;
        say(&mut client, "st: web\r\nContent-Length: 6\r\n\r\nabc").await;
        let mut endpoint = peer.connection().await;
        read_until(&mut endpoint, "abc").await;
        tokio::time::sleep(PAUSE).await;
        say(&mut client, "def").await;
        read_until(&mut endpoint, "def").await;
        tokio::time::sleep(PAUSE).await;
        say(
            &mut endpoint,
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok",
        )
        .await;
        tokio::time::sleep(PAUSE).await;
        say(&mut endpoint, "ok").await;
        read_until(&mut client, "okok").await;
    }
}

#[tokio::test]
async fn a_body_nobody_reads_is_never_taken_for_a_request() {
    let mut rig = Rig::start(123, quick());
    let mut peer = Peer::start().await;
    let port = rig.http(&[peer.address]).await;
    let mut client = rig.connect(port).await;
    let head = "POST /a HTTP/1.1\r\nHost: web\r\nContent-Length: 9999\r\n\r\n";
    say(&mut client, head).await;
    let mut endpoint = peer.connection().await;
    read_head(&mut endpoint).await;
    say(&mut endpoint, OK).await;
    endpoint.shutdown().await.unwrap();
    read_until(&mut client, "ok").await;
    // What comes is the body, whatever it looks like, also after a pause.
    for _ in 0..3 {
        let _ = client
            .write_all(b"GET /smuggled HTTP/1.1\r\nHost: web\r\n\r\n")
            .await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let mut more = Vec::new();
    let _ = soon("the end", client.read_to_end(&mut more)).await;
    assert!(more.is_empty(), "{}", String::from_utf8_lossy(&more));
    assert!(peer.connections.try_recv().is_err());
}

#[tokio::test]
async fn a_client_that_does_not_go_on_is_sent_away() {
    let limits = Limits {
        client_timeout: Duration::from_millis(400),
        ..quick()
    };
    let mut rig = Rig::start(124, limits);
    let port = rig.http(&[named("one").await]).await;
    let mut slow = rig.connect(port).await;
    say(&mut slow, "GET / HTTP/1.1\r\nHost:").await;
    let mut silent = rig.connect(port).await;
    let mut kept = rig.connect(port).await;
    say(&mut kept, GET).await;
    read_until(&mut kept, "one").await;
    assert!(rest(&mut slow).await.starts_with("HTTP/1.1 408"));
    assert_eq!(rest(&mut silent).await, "");
    assert_eq!(rest(&mut kept).await, "");
}

#[tokio::test]
async fn each_request_is_written_to_the_access_log() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let mut rig = Rig::start_with(
        121,
        Options {
            limits: quick(),
            access_log: Some(path.clone()),
        },
    );
    let port = rig.http(&[named("one").await]).await;
    rig.exchange(port, GET).await;
    let line = soon("a line", async {
        loop {
            let text = tokio::fs::read_to_string(&path).await.unwrap();
            if let Some((line, _)) = text.split_once('\n') {
                return serde_json::from_str::<serde_json::Value>(line).unwrap();
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(
        (&line["service"], &line["method"]),
        (&"web".into(), &"GET".into())
    );
    assert_eq!(
        (&line["path"], &line["status"]),
        (&"/a".into(), &200.into())
    );
    assert_eq!(
        (&line["response_bytes"], &line["complete"]),
        (&3.into(), &true.into())
    );
    assert_eq!(line["attempts"], 1);
}

#[tokio::test]
async fn nothing_but_its_socket_is_kept_of_a_quiet_client() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let port = Arc::new(Port::new(address));
    port.follow(&route("web", &[named("one").await]));
    let shared = Arc::new(Shared::new(&Options::default()));
    let mut client = TcpStream::connect(address).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let serving = super::super::http::serve(accepted, port.clone(), shared);
    let size = size_of_val(&serving);
    assert!(size <= 1024, "what waits with it has {size} bytes");
    let serving = tokio::spawn(serving);
    let lent = super::super::http::h1::lent;
    for _ in 0..2 {
        // Everything here is done by one thread, which has lent a buffer for what is not whole.
        say(&mut client, "GET /a HTTP/1.1\r\n").await;
        soon("the beginning", async {
            while lent() == 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        say(&mut client, "Host: web\r\n\r\n").await;
        read_until(&mut client, "one").await;
        soon("all buffers", async {
            while lent() != 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    drop(client);
    soon("the end", serving).await.unwrap();
}
