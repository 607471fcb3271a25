//! HTTP/2 in and out, and what becomes of its clients when a plane hands its ports over.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;

/// An endpoint that speaks HTTP/2 and says by which version it was asked, with a trailer.
async fn http2_endpoint() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request: Request<Incoming>| async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let te = head.headers.contains_key("te");
                let text = format!("{:?} {} {te} {}", head.version, head.uri, body.len());
                let mut trailers = hyper::HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                let body = Full::new(Bytes::from(text));
                let body = body.with_trailers(std::future::ready(Some(Ok(trailers))));
                Ok::<_, hyper::Error>(Response::new(body))
            });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    address
}

async fn ask_by_http2(rig: &Rig, port: u16) -> (Response<()>, String, Option<hyper::HeaderMap>) {
    let io = TokioIo::new(rig.connect(port).await);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://web/svc/Method?x")
        .header("te", "trailers")
        .body(Full::new(Bytes::from_static(b"hello")))
        .unwrap();
    let (head, body) = soon("an answer", sender.send_request(request))
        .await
        .unwrap()
        .into_parts();
    let body = soon("a body", body.collect()).await.unwrap();
    let trailers = body.trailers().cloned();
    let text = String::from_utf8(body.to_bytes().to_vec()).unwrap();
    (Response::from_parts(head, ()), text, trailers)
}

#[tokio::test]
async fn http2_goes_through_as_http2_with_trailers() {
    let mut rig = Rig::start(119, quick());
    let port = rig.http(&[http2_endpoint().await]).await;
    for _ in 0..3 {
        let (head, text, trailers) = ask_by_http2(&rig, port).await;
        assert_eq!(head.status(), 200);
        assert_eq!(text, "HTTP/2.0 http://web/svc/Method?x true 5");
        assert_eq!(trailers.unwrap()["grpc-status"], "0");
    }
    let status = rig
        .until("the counts", |it| it.ports[&port].requests_total == 3)
        .await;
    assert_eq!(
        status.ports[&port].endpoints[0].connections_total, 1,
        "one is shared"
    );
}

#[tokio::test]
async fn a_plane_that_hands_its_ports_over_sends_its_clients_to_the_next() {
    let free = TcpListener::bind("127.77.0.125:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let one = named("one").await;
    let route = Route {
        mode: ProxyMode::Http,
        ..route("web", &[one])
    };
    let (_keep, routes) = watch::channel(Arc::new(Routes {
        by_port: BTreeMap::from([(address.port(), Arc::new(route))]),
        excluded: Vec::new(),
    }));
    let (status_out, mut status) = watch::channel(Arc::<PlaneStatus>::default());
    let (successor, requests) = mpsc::channel(1);
    let succession = Succession {
        inherited: Listeners::new(),
        requests,
    };
    let options = Options {
        limits: quick(),
        ..Options::default()
    };
    let (bind, shutdown) = (address.ip(), CancellationToken::new());
    let plane = run_in_succession(options, bind, routes, status_out, shutdown, succession);
    let plane = tokio::spawn(plane);
    let listens = |it: &Arc<PlaneStatus>| {
        let mut ports = it.ports.values();
        ports.any(|it| it.listen == ListenState::Listening)
    };
    drop(soon("a listener", status.wait_for(listens)).await.unwrap());

    let mut plain = TcpStream::connect(address).await.unwrap();
    say(&mut plain, GET).await;
    read_until(&mut plain, "one").await;
    let shared = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), shared)
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get("http://web/");
    let request = request.body(Full::<Bytes>::default()).unwrap();
    let answer = soon("an answer", sender.send_request(request))
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);

    let (ports, given) = oneshot::channel();
    successor.send(ports).await.unwrap();
    assert_eq!(soon("the ports", given).await.unwrap().len(), 1);
    soon("a goodbye", connection).await.unwrap().unwrap();
    // This one may be about to ask: it is answered, and told to go.
    say(&mut plain, GET).await;
    let last = rest(&mut plain).await;
    assert!(
        last.contains("connection: close\r\n") && last.ends_with("one"),
        "{last}"
    );
    soon("the end of the plane", plane).await.unwrap();
}

#[tokio::test]
async fn http2_reaches_an_endpoint_that_speaks_http1_alone() {
    let mut rig = Rig::start(120, quick());
    let mut peer = Peer::start().await;
    let port = rig.http(&[peer.address]).await;
    let answering = tokio::spawn(async move {
        let mut asked = peer.connection().await;
        read_until(&mut asked, "PRI * HTTP/2.0").await;
        say(
            &mut asked,
            "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        )
        .await;
        let mut plain = peer.connection().await;
        let seen = read_until(&mut plain, "hello").await;
        say(&mut plain, OK).await;
        (seen, plain)
    });
    let (head, text, _) = ask_by_http2(&rig, port).await;
    assert_eq!((head.status().as_u16(), text.as_str()), (200, "ok"));
    let (seen, _plain) = answering.await.unwrap();
    assert!(
        seen.starts_with("POST /svc/Method?x HTTP/1.1\r\n"),
        "{seen}"
    );
    assert!(seen.contains("host: web\r\n"), "{seen}");
}
