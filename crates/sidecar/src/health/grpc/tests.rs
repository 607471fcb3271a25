//! The question against scripted gRPC servers on the loopback interface: good ones, broken ones, and
//! such that never answer.

use std::{convert::Infallible, net::Ipv4Addr, time::Duration};

use http_body_util::StreamBody;
use hyper::{Response, body::Frame, server::conn::http2 as server, service::service_fn};
use tokio::{net::TcpListener, sync::mpsc};

use super::*;
use crate::net::{
    dial::{Address, tests as dial},
    resolver::Resolver,
};

/// Far more than any answer here takes; only a failing test waits for it.
const AMPLE: Duration = Duration::from_secs(30);

/// What a server answers: status, headers, data frames, trailers.
#[derive(Clone, Default)]
struct Script {
    status: u16,
    headers: Vec<(&'static str, &'static str)>,
    data: Vec<Vec<u8>>,
    trailers: Vec<(&'static str, &'static str)>,
}

/// A good answer with these bytes as its message.
fn answering(message: &[u8]) -> Script {
    let length = u8::try_from(message.len()).unwrap();
    Script {
        status: 200,
        headers: vec![("content-type", "application/grpc+proto")],
        data: vec![[&[0, 0, 0, 0, length], message].concat()],
        trailers: vec![("grpc-status", "0")],
    }
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let pairs = pairs.iter().map(|(name, value)| {
        let name = hyper::header::HeaderName::from_static(name);
        (name, hyper::header::HeaderValue::from_static(value))
    });
    pairs.collect()
}

/// What a server was asked: the path, the headers, the body.
type Asked = (String, HeaderMap, Bytes);

async fn serve_on<S>(stream: S, script: Script, asked: mpsc::UnboundedSender<Asked>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let answer = service_fn(move |request: Request<Incoming>| {
        let (script, asked) = (script.clone(), asked.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let _ = asked.send((head.uri.to_string(), head.headers, body));
            let data = script.data.into_iter().map(|it| Frame::data(it.into()));
            let trailers = headers(&script.trailers);
            let last = (!trailers.is_empty()).then(|| Frame::trailers(trailers));
            let frames = data.chain(last).map(Ok::<Frame<Bytes>, Infallible>);
            let body = StreamBody::new(futures_util::stream::iter(Vec::from_iter(frames)));
            let mut response = Response::new(body);
            *response.status_mut() = script.status.try_into().unwrap();
            *response.headers_mut() = headers(&script.headers);
            Ok::<_, Infallible>(response)
        }
    });
    let _ = server::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

/// Answers every call of one plain connection by `script`.
async fn serve(script: Script) -> (GrpcTarget, mpsc::UnboundedReceiver<Asked>) {
    let (asked, received) = mpsc::unbounded_channel();
    let (listener, target) = listen().await;
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        serve_on(stream, script, asked).await;
    });
    (target, received)
}

async fn listen() -> (TcpListener, GrpcTarget) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = Address::parse(&listener.local_addr().unwrap().to_string()).unwrap();
    let target = GrpcTarget {
        address,
        encrypted: false,
        service: String::new(),
    };
    (listener, target)
}

async fn outcome(target: &GrpcTarget) -> Result<(), String> {
    let dialer = Dialer::new(Resolver::default());
    ask(&dialer, target, Deadline::after(AMPLE))
        .await
        .map_err(|error| error.to_string())
}

async fn outcome_of(script: Script) -> Result<(), String> {
    let (target, _asked) = serve(script).await;
    outcome(&target).await
}

#[tokio::test]
async fn a_server_that_says_serving_is_well() {
    let (mut target, mut asked) = serve(answering(&[8, 1])).await;
    target.service = "my.Service".to_owned();
    assert_eq!(outcome(&target).await, Ok(()));
    let (uri, headers, body) = asked.recv().await.unwrap();
    let wanted = format!("http://{}/grpc.health.v1.Health/Check", target.address);
    assert_eq!(uri, wanted);
    assert_eq!(headers[CONTENT_TYPE], "application/grpc");
    assert_eq!(headers[TE], "trailers");
    assert_eq!(&body[..], b"\0\0\0\0\x0c\x0a\x0amy.Service");
}

#[tokio::test]
async fn the_server_as_a_whole_is_asked_by_an_empty_message() {
    let (target, mut asked) = serve(answering(&[8, 1])).await;
    assert_eq!(outcome(&target).await, Ok(()));
    assert_eq!(&asked.recv().await.unwrap().2[..], b"\0\0\0\0\0");
}

#[tokio::test]
async fn every_other_status_is_not_well() {
    for (message, word) in [
        (&[][..], "UNKNOWN"),
        (&[8, 0], "UNKNOWN"),
        (&[8, 2], "NOT_SERVING"),
        (&[8, 3], "SERVICE_UNKNOWN"),
        (&[8, 77], "a status that the protocol does not know"),
        (&[8, 1, 8, 2], "NOT_SERVING"),
    ] {
        let error = outcome_of(answering(message)).await.unwrap_err();
        assert_eq!(error, format!("it says {word}, not SERVING"));
    }
}

#[tokio::test]
async fn fields_of_a_later_protocol_are_skipped() {
    let message = [
        0x10, 0x96, 0x01, 0x19, 1, 2, 3, 4, 5, 6, 7, 8, 0x22, 2, 9, 9, 0x2d, 1, 2, 3, 4, 8, 1,
    ];
    assert_eq!(outcome_of(answering(&message)).await, Ok(()));
}

#[tokio::test]
async fn an_answer_in_pieces_is_one_answer() {
    let script = Script {
        data: vec![vec![0, 0], vec![0, 0, 2, 8], vec![], vec![1]],
        ..answering(&[])
    };
    assert_eq!(outcome_of(script).await, Ok(()));
}

#[tokio::test]
async fn errors_of_the_call_are_named() {
    for (status, name) in [
        ("12", "12 UNIMPLEMENTED (it has no grpc.health.v1.Health)"),
        ("5", "5 NOT_FOUND (it knows no such service)"),
        ("99", "99"),
    ] {
        // Alone among the headers, and after an answer.
        let alone = Script {
            status: 200,
            headers: vec![
                ("content-type", "application/grpc"),
                ("grpc-status", status),
                ("grpc-message", "no such thing"),
            ],
            ..Script::default()
        };
        let after = Script {
            trailers: vec![("grpc-status", status), ("grpc-message", "no such thing")],
            ..answering(&[8, 1])
        };
        for script in [alone, after] {
            let error = outcome_of(script).await.unwrap_err();
            let wanted = format!("it answers with gRPC status {name}: \"no such thing\"");
            assert_eq!(error, wanted);
        }
    }
}

#[tokio::test]
async fn what_is_no_grpc_is_an_error() {
    let good = answering(&[8, 1]);
    let data = |data: &[u8]| Script {
        data: vec![data.to_vec()],
        ..good.clone()
    };
    for (script, reason) in [
        (
            Script {
                status: 404,
                ..good.clone()
            },
            "HTTP status 404",
        ),
        (
            Script {
                headers: vec![("content-type", "text/html")],
                ..good.clone()
            },
            "text/html",
        ),
        (
            Script {
                trailers: vec![],
                ..good.clone()
            },
            "without a gRPC status",
        ),
        (data(&[0, 0, 0]), "shorter than a gRPC message"),
        (data(&[1, 0, 0, 0, 2, 8, 1]), "compressed"),
        (data(&[0, 0, 0, 0, 9, 8, 1]), "not exactly one gRPC message"),
        (data(&[0, 0, 0, 0, 1, 8]), "no HealthCheckResponse"),
        (data(&[0, 0, 0, 0, 2, 10, 9]), "no HealthCheckResponse"),
        (data(&[0; 5000]), "longer than 4096 bytes"),
    ] {
        let error = outcome_of(script).await.unwrap_err();
        assert!(
            error.starts_with("no gRPC answer: ") && error.contains(reason),
            "{error} is not about {reason}"
        );
    }
}

#[tokio::test]
async fn a_server_of_another_protocol_is_an_error() {
    let (listener, target) = listen().await;
    let other = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut stream, answer)
            .await
            .unwrap();
        stream
    };
    let (outcome, _stream) = tokio::join!(outcome(&target), other);
    let error = outcome.unwrap_err();
    assert!(error.starts_with("no gRPC answer: "), "{error}");
}

#[tokio::test]
async fn a_silent_server_is_given_up_in_time() {
    let (listener, target) = listen().await;
    let asking = tokio::spawn(async move { outcome(&target).await });
    let (mut stream, _) = listener.accept().await.unwrap();
    // The client's preface: it has all it needs but an answer.
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut [0; 24])
        .await
        .unwrap();
    tokio::time::pause();
    tokio::time::advance(AMPLE).await;
    let error = asking.await.unwrap().unwrap_err();
    assert!(error.contains("no answer within 30s"), "{error}");
}

#[tokio::test]
async fn an_encrypted_server_is_verified() {
    let serve = async || {
        let (listener, target) = listen().await;
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(stream) = dial::acceptor(b"h2").accept(stream).await {
                serve_on(stream, answering(&[8, 1]), mpsc::unbounded_channel().0).await;
            }
        });
        GrpcTarget {
            encrypted: true,
            ..target
        }
    };
    let outcome = async |dialer: Dialer, target: GrpcTarget| {
        ask(&dialer, &target, Deadline::after(AMPLE))
            .await
            .map_err(|error| error.to_string())
    };
    assert_eq!(outcome(dial::trusting(), serve().await).await, Ok(()));
    // The certificate does not carry this name.
    let mut target = serve().await;
    target.address.host = "localhost".to_owned();
    let error = outcome(dial::trusting(), target).await.unwrap_err();
    assert!(error.starts_with("no TLS with \"localhost\""), "{error}");
}

proptest::proptest! {
    #[test]
    fn no_answer_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..40)) {
        let _ = serving_status(&bytes);
        let length = u8::try_from(bytes.len()).unwrap();
        let _ = serving_status(&[&[0, 0, 0, 0, length][..], &bytes].concat());
    }
}
