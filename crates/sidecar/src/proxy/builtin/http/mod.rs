//! HTTP and WebSocket mode: requests are balanced, not connections. HTTP/1.1 and HTTP/2 without TLS, told apart
//! by their first bytes.
//!
//! What comes by HTTP/1.1 goes to endpoints by HTTP/1.1, without hyper ([`h1`]). What comes by HTTP/2 is parsed and
//! written by hyper, and goes to an endpoint by the version that it speaks ([`forward`]).

mod access;
mod answers;
mod attempts;
mod body;
mod fields;
mod forward;
pub(super) mod h1;
pub(super) mod h2;
mod headers;
pub(super) mod link;
mod progress;
mod stream;

use std::{
    future::poll_fn,
    net::{Shutdown, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::{io::AsyncReadExt as _, net::TcpStream};

pub(super) use self::access::AccessLog;
use self::{
    forward::Forwarder,
    h1::End,
    stream::{Account, Counted},
};
use super::{Shared, connection, listener::Port};

/// Longest head of a message, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Requests at a time on one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// Silence after which a client is asked by HTTP/2 whether it is still there, and how long it may take.
const PING_AFTER: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long is read on after our last word, so that it is not lost to a client that is still sending.
const LINGER: Duration = Duration::from_secs(2);
/// What a client begins with that speaks HTTP/2 (RFC 9113, 3.4); no method of HTTP/1.1 begins like it.
const PREFACE: &[u8] = b"PRI";
/// Serves a client until either side ends the connection, or connections are cut off.
pub(super) async fn serve(client: TcpStream, port: Arc<Port>, shared: Arc<Shared>) {
    let mut work = pin!(converse(client, &port, &shared));
    let mut cut_off = pin!(shared.cut_off.cancelled());
    let mut closing = pin!(shared.closing.cancelled());
    let mut is_registered = false;
    poll_fn(|cx| {
        // To be woken is asked for once; after that, to look is cheaper than to ask again.
        if !std::mem::replace(&mut is_registered, true) {
            // What is done about it is up to who waits for a request.
            let _ = closing.as_mut().poll(cx);
            if cut_off.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
        }
        if shared.cut_off.is_cancelled() {
            return Poll::Ready(());
        }
        work.as_mut().poll(cx)
    })
    .await;
}

async fn converse(mut client: TcpStream, port: &Arc<Port>, shared: &Arc<Shared>) {
    let Ok(address) = client.peer_addr() else {
        return;
    };
    connection::tune(&client);
    match h1::converse(&mut client, address, port, shared).await {
        End::Closed => {}
        End::Linger => rarely(linger(client)).await,
        End::Reset => connection::reset(client),
        End::Http2(said) => rarely(serve_http2(client, said, address, port, shared)).await,
    }
}

/// Boxed, so that what is rarely done takes no room in the future of every connection.
fn rarely<'a, T>(
    future: impl Future<Output = T> + Send + 'a,
) -> Pin<Box<dyn Future<Output = T> + Send + 'a>> {
    Box::pin(future)
}

/// Ends our half and reads what is still coming, for a while: to close before would be a reset, which can
/// destroy what the client has not read yet.
async fn linger(mut client: TcpStream) {
    if SockRef::from(&client).shutdown(Shutdown::Write).is_err() {
        return;
    }
    let mut rest = vec![0; 4096];
    let drain = async { while matches!(client.read(&mut rest).await, Ok(count) if count > 0) {} };
    // Who goes on after that has had its chance.
    let _ = tokio::time::timeout(LINGER, drain).await;
}

/// For a client that has `said` the beginning of HTTP/2.
async fn serve_http2(
    client: TcpStream,
    said: Bytes,
    address: SocketAddr,
    port: &Arc<Port>,
    shared: &Arc<Shared>,
) {
    let io = TokioIo::new(Counted {
        stream: client,
        account: Account::Client(port.clone()),
        early: said,
    });
    let forwarder = Arc::new(Forwarder::new(port.clone(), shared.clone(), address));
    let service = service_fn(|request| {
        let forwarder = forwarder.clone();
        async move { forwarder.answer(request).await }
    });
    let mut connection = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .adaptive_window(true)
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX as u32)
            .keep_alive_interval(PING_AFTER)
            .keep_alive_timeout(PING_TIMEOUT)
            .serve_connection(io, service)
    );
    // Who shares one connection for everything would stay for ever.
    let mut is_retiring = false;
    let ended = loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => break ended,
            () = shared.retiring.cancelled(), if !is_retiring => {
                is_retiring = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(port = port.address.port(), client = %address, %error,
            "a client's HTTP/2 connection broke");
    }
}
