//! Where messages end, whatever they look like and however they come.

use super::*;

/// One connection to the endpoint, on which each request gets the next answer.
async fn answering(answers: &'static [&'static str]) -> SocketAddr {
    let mut peer = Peer::start().await;
    let address = peer.address;
    tokio::spawn(async move {
        let mut endpoint = peer.connection().await;
        for answer in answers {
            read_head(&mut endpoint).await;
            say(&mut endpoint, answer).await;
        }
        // A second connection would be one too many.
        assert!(peer.connections.recv().await.is_none());
    });
    address
}

#[tokio::test]
async fn answers_without_a_body_end_with_their_heads() {
    let mut rig = Rig::start(131, quick());
    let answers = &[
        "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n\
         HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        OK,
    ];
    let port = rig.http(&[answering(answers).await]).await;
    let mut client = rig.connect(port).await;
    let mut heads = Vec::new();
    for method in ["HEAD", "GET", "GET", "GET"] {
        say(
            &mut client,
            &format!("{method} / HTTP/1.1\r\nHost: w\r\n\r\n"),
        )
        .await;
        heads.push(read_head(&mut client).await);
    }
    let starts = ["200", "304", "204", "200"].map(|it| format!("HTTP/1.1 {it}"));
    for (head, start) in heads.iter().zip(&starts) {
        assert!(
            head.starts_with(start) && head.ends_with("\r\n\r\n"),
            "{head}"
        );
    }
    for (at, length) in [(0, true), (1, true), (2, false)] {
        let has = heads[at].contains("content-length: 7\r\n");
        assert_eq!(has, length, "{}", heads[at]);
    }
    say(&mut client, GET).await;
    assert!(
        read_until(&mut client, "ok")
            .await
            .starts_with("HTTP/1.1 200")
    );
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_is_given_an_end() {
    let mut rig = Rig::start(132, quick());
    let mut peer = Peer::start().await;
    let port = rig.http(&[peer.address]).await;
    let mut client = rig.connect(port).await;
    for _ in 0..2 {
        say(&mut client, GET).await;
        let mut endpoint = peer.connection().await;
        read_head(&mut endpoint).await;
        say(&mut endpoint, "HTTP/1.1 200 OK\r\n\r\nsome").await;
        read_until(&mut client, "4\r\nsome\r\n").await;
        say(&mut endpoint, "more").await;
        drop(endpoint);
        assert_eq!(
            read_until(&mut client, "0\r\n\r\n").await,
            "4\r\nmore\r\n0\r\n\r\n"
        );
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_what_it_can_read() {
    let mut rig = Rig::start(133, quick());
    let chunks =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
    let mut peer = Peer::start().await;
    let port = rig.http(&[peer.address]).await;
    let mut client = rig.connect(port).await;
    let kept = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    say(&mut client, kept).await;
    let mut endpoint = peer.connection().await;
    let head = read_head(&mut endpoint).await;
    let host = format!("host: {}:{port}\r\n", rig.bind);
    assert!(
        head.contains(&host) && head.contains("via: 1.0 sidecar\r\n"),
        "{head}"
    );
    say(&mut endpoint, OK).await;
    let answer = read_until(&mut client, "ok").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert!(answer.contains("connection: keep-alive\r\n"), "{answer}");
    say(&mut client, kept).await;
    read_head(&mut endpoint).await;
    say(&mut endpoint, chunks).await;
    let answer = rest(&mut client).await;
    assert!(answer.ends_with("\r\n\r\nabc"), "{answer}");
    assert!(!answer.contains("transfer-encoding"), "{answer}");
}

#[tokio::test]
async fn what_an_endpoint_says_unasked_is_nobodys_answer() {
    let mut rig = Rig::start(134, quick());
    let mut peer = Peer::start().await;
    let port = rig.http(&[peer.address]).await;
    let mut client = rig.connect(port).await;
    // With the answer, and some time after it.
    for at_once in [true, false] {
        say(&mut client, GET).await;
        let mut endpoint = peer.connection().await;
        read_head(&mut endpoint).await;
        let second = OK.replace("ok", "no");
        let first = if at_once {
            OK.to_owned() + &second
        } else {
            OK.to_owned()
        };
        say(&mut endpoint, &first).await;
        assert!(read_until(&mut client, "ok").await.ends_with("ok"));
        if !at_once {
            say(&mut endpoint, &second).await;
        }
        assert_eq!(rest_or_reset(&mut endpoint).await, 0, "it is closed");
    }
}

/// How many bytes come before the end, of whatever kind.
async fn rest_or_reset(stream: &mut TcpStream) -> usize {
    let mut rest = Vec::new();
    let _ = soon("the end", stream.read_to_end(&mut rest)).await;
    rest.len()
}

#[tokio::test]
async fn a_body_that_breaks_off_or_is_none_is_the_clients_fault() {
    let mut rig = Rig::start(135, quick());
    let mut peer = Peer::start().await;
    let port = rig.http(&[peer.address]).await;
    for (framing, body) in [
        ("Transfer-Encoding: chunked", "1\r\na\r\nx\r\n"),
        (
            "Transfer-Encoding: chunked",
            "1\r\na\r\n0\r\nx: 1\n\n\r\n\r\n",
        ),
        ("Content-Length: 9", "abc"),
    ] {
        let mut client = rig.connect(port).await;
        say(
            &mut client,
            &format!("POST / HTTP/1.1\r\nHost: w\r\n{framing}\r\n\r\n"),
        )
        .await;
        let mut endpoint = peer.connection().await;
        read_head(&mut endpoint).await;
        say(&mut client, body).await;
        client.shutdown().await.unwrap();
        let answer = rest(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{body:?}: {answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        assert!(answer.ends_with("broke off\n"), "{answer}");
        let mut seen = Vec::new();
        let _ = soon("the end", endpoint.read_to_end(&mut seen)).await;
        assert!(!seen.ends_with(b"0\r\n\r\n"), "it does not look complete");
    }
    let whole = "POST / HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n";
    assert!(rig.exchange(port, whole).await.starts_with("HTTP/1.1 400"));
    assert!(peer.connections.try_recv().is_err());
}

#[tokio::test]
async fn an_answer_of_our_own_to_a_head_has_no_body() {
    let mut rig = Rig::start(136, quick());
    let (dead, _held) = dead_endpoint();
    let port = rig.http(&[dead]).await;
    let head = "HEAD / HTTP/1.1\r\nHost: w\r\n\r\n";
    let answers = rig.exchange(port, &head.repeat(2)).await;
    assert_eq!(answers.matches("HTTP/1.1 503").count(), 2, "{answers}");
    assert!(!answers.contains("sidecar: no instance"), "{answers}");
}

#[tokio::test]
async fn whatever_comes_byte_by_byte_arrives_as_if_it_came_at_once() {
    let mut rig = Rig::start(137, quick());
    let mut peer = Peer::start().await;
    let port = rig.http(&[peer.address]).await;
    let request = "POST /a HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\n\
                   3;x\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n";
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\n";
    let (mut asked, mut heard) = (Vec::new(), Vec::new());
    for size in [1, 2, 3, 7, 1000] {
        let mut client = rig.connect(port).await;
        for piece in request.as_bytes().chunks(size) {
            client.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut endpoint = peer.connection().await;
        asked.push(read_until(&mut endpoint, "x-sum: 7\r\n\r\n").await);
        for piece in answer.as_bytes().chunks(size) {
            endpoint.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        heard.push(read_until(&mut client, "0\r\n\r\n").await);
        drop(endpoint);
    }
    for list in [asked, heard] {
        assert!(list.iter().all(|it| *it == list[0]), "{list:?}");
    }
}

#[tokio::test]
async fn large_bodies_in_chunks_pass_whole_both_ways() {
    const CHUNKS: usize = 200;
    let mut rig = Rig::start(138, quick());
    let mut peer = Peer::start().await;
    let port = rig.http(&[peer.address]).await;
    let chunk = |at: usize| {
        let data = format!("{at:05}").repeat(4_000 + at);
        format!("{:x}\r\n{data}\r\n", data.len())
    };
    let body: String = (0..CHUNKS).map(chunk).collect::<String>() + "0\r\n\r\n";
    let client = rig.connect(port).await;
    let (mut from, mut to) = client.into_split();
    let text = body.clone();
    let sending = tokio::spawn(async move {
        let head = "POST / HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\n";
        to.write_all(head.as_bytes()).await.unwrap();
        to.write_all(text.as_bytes()).await.unwrap();
        to
    });
    let mut endpoint = peer.connection().await;
    let mut seen = Vec::new();
    soon("the request", endpoint.read_until_end_of(&mut seen)).await;
    let start = seen.windows(4).position(|it| it == b"\r\n\r\n").unwrap() + 4;
    assert!(seen[start..] == *body.as_bytes());
    let text = body.clone();
    let answering = tokio::spawn(async move {
        say(
            &mut endpoint,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        )
        .await;
        say(&mut endpoint, &text).await;
        endpoint
    });
    let mut heard = Vec::new();
    soon("the answer", from.read_until_end_of(&mut heard)).await;
    let start = heard.windows(4).position(|it| it == b"\r\n\r\n").unwrap() + 4;
    assert!(heard[start..] == *body.as_bytes());
    drop((sending.await.unwrap(), answering.await.unwrap()));
}

/// Reads a chunked body to its end.
trait ReadBody {
    async fn read_until_end_of(&mut self, seen: &mut Vec<u8>);
}

impl<T: tokio::io::AsyncRead + Unpin> ReadBody for T {
    async fn read_until_end_of(&mut self, seen: &mut Vec<u8>) {
        while !seen.ends_with(b"\r\n0\r\n\r\n") {
            assert!(self.read_buf(seen).await.unwrap() > 0, "it ended before");
        }
    }
}
