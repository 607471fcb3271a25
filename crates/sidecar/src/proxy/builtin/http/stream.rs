//! A TCP stream that counts what passes through it.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::proxy::builtin::{listener::Port, upstream::Upstream};

/// Up to so many bytes in several pieces are copied together: a head and a small body.
const GATHERED_BYTES: usize = 2048;

/// Whose bytes are counted.
#[derive(Debug)]
pub(super) enum Account {
    /// A client of this port.
    Client(Arc<Port>),
    /// This endpoint.
    Endpoint(Arc<Upstream>),
}

/// The stream.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) stream: TcpStream,
    pub(super) account: Account,
    /// What was read of it already.
    pub(super) early: Bytes,
}

impl Account {
    fn read(&self) -> &AtomicU64 {
        match self {
            Self::Client(port) => &port.counts.to_endpoints_bytes,
            Self::Endpoint(upstream) => &upstream.received_bytes,
        }
    }

    fn written(&self) -> &AtomicU64 {
        match self {
            Self::Client(port) => &port.counts.to_clients_bytes,
            Self::Endpoint(upstream) => &upstream.sent_bytes,
        }
    }
}

impl Counted {
    pub(super) fn new(stream: TcpStream, account: Account) -> Self {
        Self {
            stream,
            account,
            early: Bytes::new(),
        }
    }

    fn wrote(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let count = ready!(polled)?;
        self.account.written().fetch_add(count as u64, Relaxed);
        Poll::Ready(Ok(count))
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            let count = self.early.len().min(buffer.remaining());
            buffer.put_slice(&self.early.split_to(count));
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let count = buffer.filled().len() - before;
        self.account.read().fetch_add(count as u64, Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // The plain call costs the kernel less than gathering costs to spare a small copy.
        let length: usize = bytes.iter().map(|it| it.len()).sum();
        let stream = Pin::new(&mut self.stream);
        let polled = match bytes {
            [only] => stream.poll_write(cx, only),
            _ if length <= GATHERED_BYTES => {
                let mut gathered = [0; GATHERED_BYTES];
                let mut end = 0;
                for part in bytes {
                    gathered[end..end + part.len()].copy_from_slice(part);
                    end += part.len();
                }
                stream.poll_write(cx, &gathered[..end])
            }
            _ => stream.poll_write_vectored(cx, bytes),
        };
        self.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
