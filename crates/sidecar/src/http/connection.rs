//! One connection: its limits and its deadlines. What is asked and answered is none of its business.

use std::{
    convert::Infallible,
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{body::HttpBody as _, http::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
    time::Sleep,
};
use tokio_util::sync::CancellationToken;

use super::{answer::Answers, reply::Endless};

/// How long a request head may take, and how long a connection may idle between requests.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// Longest request head, and most bytes of an answer that wait in memory for one reader beyond the
/// document it is at.
const BUFFER_BYTES_MAX: usize = 16 * 1024;
/// Most header lines of a request.
const HEADERS_MAX: usize = 64;
/// Largest request body that is tolerated. No request needs one.
const BODY_BYTES_MAX: u64 = 64 * 1024;
/// A reader that takes nothing for this long is cut off.
const STALLED_AFTER: Duration = Duration::from_secs(30);

/// Answers the requests of one connection until either side ends it. `slot` is its place among the
/// connections; it gives it back when its answer has no end, since it then has one among the watchers.
pub(super) async fn serve<S>(
    stream: S,
    answers: Arc<Answers>,
    slot: Option<OwnedSemaphorePermit>,
    shutdown: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let slot = &Mutex::new(slot);
    let service = service_fn(move |request: Request<Incoming>| {
        let answers = answers.clone();
        async move {
            let (head, body) = request.into_parts();
            let announced = body.size_hint().lower();
            let answer = if announced > BODY_BYTES_MAX {
                Answers::too_large(announced, BODY_BYTES_MAX)
            } else {
                answers.answer(&head).await
            };
            if answer.extensions().get::<Endless>().is_some() {
                slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(BUFFER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        // Spelled as the original spells them, for clients that look for the exact bytes.
        .title_case_headers(true)
        .serve_connection(
            TokioIo::new(StallGuard::new(stream, STALLED_AFTER)),
            service,
        );
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "API connection ended");
    }
}

/// A stream whose writes fail once the peer has taken nothing for a while.
#[derive(Debug)]
struct StallGuard<S> {
    stream: S,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> StallGuard<S> {
    fn new(stream: S, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            stalled: None,
        }
    }

    /// Starts the clock when nothing moves and stops it when something does.
    fn timed<T>(
        &mut self,
        cx: &mut Context<'_>,
        progress: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.stalled = None;
            return progress;
        }
        let patience = self.patience;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        stalled.as_mut().poll(cx).map(|()| {
            let why = format!("the reader took nothing for {patience:?}");
            Err(io::Error::new(io::ErrorKind::TimedOut, why))
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallGuard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StallGuard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.timed(cx, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.timed(cx, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.stream).poll_flush(cx);
        self.timed(cx, progress)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.timed(cx, progress)
    }
}
