//! The client against servers that answer well, badly, late, for ever and not at all. Each server
//! here is a listener on an ephemeral port of the loopback interface, with a script per connection.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc,
};

use super::*;
use crate::net::{dial, resolver::Resolver};

/// Far more than any answer here takes; only a failing test waits for it.
const AMPLE: Duration = Duration::from_secs(30);

/// Answers connections with the given texts in order, the last one for ever; yields request heads.
async fn serve(answers: Vec<Vec<u8>>) -> (u16, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (heads, received) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for turn in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = answers[turn.min(answers.len() - 1)].clone();
            let _ = heads.send(read_head(&mut stream).await);
            let _ = stream.write_all(&answer).await;
            let _ = stream.shutdown().await;
        }
    });
    (port, received)
}

async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

fn client() -> HttpClient {
    HttpClient::new(Dialer::new(Resolver::default()))
}

fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into()
}

async fn status_of(answer: Vec<u8>) -> Result<u16, String> {
    let (port, _heads) = serve(vec![answer]).await;
    let url = format!("http://127.0.0.1:{port}/x");
    client()
        .get(&url, AMPLE)
        .await
        .map(|it| it.status)
        .map_err(|error| error.to_string())
}

#[tokio::test]
async fn every_status_is_an_answer() {
    for (text, status) in [
        ("200 OK", 200),
        ("204 No Content", 204),
        ("500 Broken", 500),
    ] {
        assert_eq!(status_of(answer(text, "", "")).await, Ok(status));
    }
    assert_eq!(
        status_of(b"HTTP/1.0 404 Gone\r\n\r\nold".to_vec()).await,
        Ok(404)
    );
    assert_eq!(status_of(answer("302 No Location", "", "")).await, Ok(302));
    assert_eq!(
        status_of(answer("304 Same", "location: /x\r\n", "")).await,
        Ok(304)
    );
}

#[tokio::test]
async fn the_request_is_what_servers_expect() {
    let (port, mut heads) = serve(vec![answer("200 OK", "", "fine")]).await;
    let response = client()
        .get(&format!("http://a:b@127.0.0.1:{port}/x?y=1#z"), AMPLE)
        .await
        .unwrap();
    assert_eq!(&response.body_start[..], b"fine");
    let head = heads.recv().await.unwrap().to_ascii_lowercase();
    let version = env!("CARGO_PKG_VERSION");
    for line in [
        "get /x?y=1 http/1.1\r\n".to_owned(),
        format!("\r\nhost: 127.0.0.1:{port}\r\n"),
        format!("\r\nuser-agent: sidecar/{version}\r\n"),
        "\r\nconnection: close\r\n".to_owned(),
        "\r\nauthorization: basic ytpi\r\n".to_owned(),
    ] {
        assert!(head.contains(&line), "{line:?} in {head:?}");
    }
}

#[tokio::test]
async fn an_empty_host_is_this_machine() {
    let (port, mut heads) = serve(vec![answer("200 OK", "", "")]).await;
    let response = client()
        .get(&format!("http://:{port}/x"), AMPLE)
        .await
        .unwrap();
    assert_eq!(response.status, 200);
    let head = heads.recv().await.unwrap().to_ascii_lowercase();
    assert!(head.contains(&format!("\r\nhost: :{port}\r\n")), "{head:?}");
}

#[tokio::test]
async fn redirects_are_followed_also_relative_ones() {
    let (other, mut other_heads) = serve(vec![answer("200 OK", "", "")]).await;
    let away = format!("location: http://127.0.0.1:{other}/away\r\n");
    let (port, mut heads) = serve(vec![
        answer("302 Found", "location: d\r\n", "see there"),
        answer("307 Temporary", "location: ../e?f\r\n", ""),
        answer("308 Permanent", &away, ""),
    ])
    .await;
    let response = client()
        .get(&format!("http://127.0.0.1:{port}/a/b/c"), AMPLE)
        .await
        .unwrap();
    assert_eq!(response.status, 200);
    for path in ["/a/b/c", "/a/b/d", "/a/e?f"] {
        assert!(
            heads
                .recv()
                .await
                .unwrap()
                .starts_with(&format!("GET {path} "))
        );
    }
    assert!(other_heads.recv().await.unwrap().starts_with("GET /away "));
}

#[tokio::test]
async fn redirect_loops_end() {
    let (port, mut heads) = serve(vec![answer("301 Moved", "location: /loop\r\n", "")]).await;
    let url = format!("http://127.0.0.1:{port}/");
    let error = client().get(&url, AMPLE).await.unwrap_err();
    assert!(
        matches!(&error, HttpError::Redirects { url: first, .. } if *first == url),
        "{error}"
    );
    let mut requests = 0;
    while heads.try_recv().is_ok() {
        requests += 1;
    }
    assert_eq!(requests, 1 + REDIRECTS_MAX);
}

#[tokio::test]
async fn a_redirect_to_another_protocol_is_an_error_that_names_it() {
    let error = status_of(answer("302 Found", "location: ftp://x/\r\n", ""))
        .await
        .unwrap_err();
    assert!(error.contains("ftp://x/"), "{error}");
}

#[tokio::test]
async fn what_is_no_http_is_an_error() {
    for garbage in [
        &b"220 mail.example ESMTP\r\n"[..],
        b"\x16\x03\x01\0\0",
        b"",
        b"HTTP/1.1 2",
    ] {
        let error = status_of(garbage.to_vec()).await.unwrap_err();
        assert!(
            error.starts_with("no HTTP answer from http://127.0.0.1:"),
            "{error}"
        );
    }
    let mut endless = b"HTTP/1.1 200 OK\r\n".to_vec();
    endless.extend(b"x-more: and more\r\n".repeat(2 * HEAD_BYTES_MAX / 18));
    assert!(
        status_of(endless)
            .await
            .unwrap_err()
            .starts_with("no HTTP answer")
    );
}

#[tokio::test]
async fn a_silent_server_is_given_up_in_time() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let request = tokio::spawn(async move { client().get(&url, AMPLE).await });
    let (mut stream, _) = listener.accept().await.unwrap();
    read_head(&mut stream).await;
    tokio::time::pause();
    tokio::time::advance(AMPLE).await;
    let error = request.await.unwrap().unwrap_err();
    assert!(
        matches!(
            error,
            HttpError::Late {
                late: Late {
                    doing: "waiting for the answer",
                    limit: AMPLE,
                },
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_refused_connection_names_the_address() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = client()
        .get(&format!("http://{address}/x"), AMPLE)
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&format!("cannot connect to {address}")),
        "{error}"
    );
}

#[tokio::test]
async fn a_huge_or_endless_body_delays_nothing() {
    let huge = "x".repeat(8 * BODY_BYTES_MAX);
    let (port, _heads) = serve(vec![answer("200 OK", "", &huge)]).await;
    let response = client()
        .get(&format!("http://127.0.0.1:{port}/"), AMPLE)
        .await
        .unwrap();
    assert_eq!(
        (response.status, response.body_start.len()),
        (200, BODY_START_BYTES_MAX)
    );

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let client = client();
    let request = client.get(&url, AMPLE);
    let endless = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\n\r\nand then")
            .await
            .unwrap();
        // The client hangs up, we do not.
        stream.read_u8().await.unwrap_err()
    };
    let (response, _) = tokio::join!(request, endless);
    assert_eq!(&response.unwrap().body_start[..], b"and then");
}

#[tokio::test]
async fn a_dropped_request_closes_its_connection() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let request = tokio::spawn(async move { client().get(&url, AMPLE).await });
    let (mut stream, _) = listener.accept().await.unwrap();
    assert!(read_head(&mut stream).await.ends_with("\r\n\r\n"));
    request.abort();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn an_unknown_host_is_an_error_that_names_it() {
    let error = client()
        .get("http://no.such.host.invalid/", AMPLE)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("no.such.host.invalid"),
        "{error}"
    );
}

fn trusting_client() -> HttpClient {
    HttpClient::new(dial::tests::trusting())
}

/// Answers one TLS connection with 200, under a certificate for 127.0.0.1.
async fn serve_tls() -> SocketAddr {
    let acceptor = dial::tests::acceptor(b"http/1.1");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        if let Ok(mut stream) = acceptor.accept(stream).await {
            read_head(&mut stream).await;
            let _ = stream.write_all(&answer("200 OK", "", "")).await;
        }
    });
    address
}

#[tokio::test]
async fn https_is_spoken_and_certificates_are_verified() {
    let url = format!("https://{}/", serve_tls().await);
    assert_eq!(
        trusting_client().get(&url, AMPLE).await.unwrap().status,
        200
    );

    // The same server under a name its certificate does not carry.
    let url = format!("https://localhost:{}/", serve_tls().await.port());
    let error = trusting_client().get(&url, AMPLE).await.unwrap_err();
    assert!(
        matches!(&error, HttpError::Dial { cause: DialError::Tls { host, .. }, .. } if host == "localhost"),
        "{error}"
    );

    // A server that does not speak TLS.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let client = trusting_client();
    let plain = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream
            .write_all(&answer("400 Bad Request", "", ""))
            .await
            .unwrap();
        stream
    };
    let (outcome, _stream) = tokio::join!(client.get(&url, AMPLE), plain);
    let error = outcome.unwrap_err();
    assert!(
        matches!(
            error,
            HttpError::Dial {
                cause: DialError::Tls { .. },
                ..
            }
        ),
        "{error}"
    );
}
