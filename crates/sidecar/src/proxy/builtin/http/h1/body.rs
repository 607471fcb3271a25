//! Bodies on their way, in either direction: nothing is kept of them but what is on its way.

use std::{
    future::poll_fn,
    io::{self, ErrorKind},
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    task::{Poll, ready},
};

use tokio::{
    io::AsyncWrite as _,
    net::tcp::{ReadHalf, WriteHalf},
};

use super::{
    super::progress::Progress,
    buffer::{BUFFER_BYTES, Inbox},
    chunks::{BadChunk, Chunks, Form, write_size},
    head::Framing,
};
use crate::proxy::builtin::copy::{self, CopyError};

/// A body that is read from one connection and written to another.
#[derive(Debug)]
pub(super) struct Transfer {
    left: Left,
    form: Form,
    /// Bytes of data so far, without what says where they end.
    pub(super) data_bytes: u64,
}

#[derive(Debug)]
enum Left {
    Nothing,
    Length(u64),
    Chunks(Chunks),
    UntilEnd,
}

/// Why a body did not pass.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("its sender broke off: {0}")]
    Sender(io::Error),
    #[error("its sender does not say where it ends: {0}")]
    Malformed(#[from] BadChunk),
    #[error("its receiver is gone: {0}")]
    Receiver(io::Error),
}

impl From<CopyError> for Broken {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::From(error) => Self::Sender(error),
            CopyError::To(error) => Self::Receiver(error),
        }
    }
}

/// Where is counted what is read and what is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counters<'a> {
    pub(super) read: &'a AtomicU64,
    pub(super) written: &'a AtomicU64,
    pub(super) progress: Option<&'a Progress>,
}

impl Transfer {
    pub(super) fn new(framing: Framing, form: Form) -> Self {
        let left = match framing {
            Framing::Empty => Left::Nothing,
            Framing::Length(length) => Left::Length(length),
            Framing::Chunked => Left::Chunks(Chunks::default()),
            Framing::UntilEnd => Left::UntilEnd,
        };
        Self {
            left,
            form,
            data_bytes: 0,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.left, Left::Nothing)
    }

    /// Moves what has come of it to `out`.
    ///
    /// # Errors
    /// When what has come is not a body.
    pub(super) fn advance(&mut self, inbox: &mut Inbox, out: &mut Vec<u8>) -> Result<(), BadChunk> {
        let bytes = inbox.bytes();
        match &mut self.left {
            Left::Nothing => {}
            Left::Length(left) => {
                let count = usize::try_from(*left).map_or(bytes.len(), |it| it.min(bytes.len()));
                out.extend_from_slice(&bytes[..count]);
                inbox.consume(count);
                self.moved(count as u64);
            }
            Left::Chunks(chunks) => {
                let count = chunks.advance(bytes, self.form, out)?;
                self.data_bytes = chunks.data_bytes;
                if chunks.is_over() {
                    self.left = Left::Nothing;
                }
                inbox.consume(count);
            }
            Left::UntilEnd => {
                let count = bytes.len();
                if count > 0 && self.form != Form::Plain {
                    write_size(out, count as u64);
                    out.extend_from_slice(bytes);
                    out.extend_from_slice(b"\r\n");
                } else {
                    out.extend_from_slice(bytes);
                }
                inbox.consume(count);
                self.data_bytes += count as u64;
            }
        }
        Ok(())
    }

    fn moved(&mut self, count: u64) {
        self.data_bytes += count;
        if let Left::Length(left) = &mut self.left {
            *left -= count;
            if *left == 0 {
                self.left = Left::Nothing;
            }
        }
    }

    /// The sender has ended its half: whether that is the end of the body.
    fn end(&mut self, out: &mut Vec<u8>) -> bool {
        if !matches!(self.left, Left::UntilEnd) {
            return false;
        }
        if self.form != Form::Plain {
            out.extend_from_slice(b"0\r\n\r\n");
        }
        self.left = Left::Nothing;
        true
    }

    /// How much may be moved without a look at it, if that is worth it.
    fn unseen(&self) -> Option<u64> {
        match self.left {
            Left::Length(left) if left >= BUFFER_BYTES as u64 => Some(left),
            Left::UntilEnd if self.form == Form::Plain => Some(u64::MAX),
            _ => None,
        }
    }
}

/// Carries a body to its end, after what is in `out`.
///
/// # Errors
/// When it breaks off.
pub(super) async fn carry(
    transfer: &mut Transfer,
    inbox: &mut Inbox,
    from: &mut ReadHalf<'_>,
    to: &mut WriteHalf<'_>,
    out: &mut Vec<u8>,
    counters: Counters<'_>,
) -> Result<(), Broken> {
    loop {
        write(to, out, counters.written)
            .await
            .map_err(Broken::Receiver)?;
        out.clear();
        if transfer.is_over() {
            return Ok(());
        }
        if let Some(most) = transfer.unseen().filter(|_| inbox.is_empty()) {
            let moved = |count: usize| {
                counters.read.fetch_add(count as u64, Relaxed);
                counters.written.fetch_add(count as u64, Relaxed);
                if let Some(progress) = counters.progress {
                    progress.moved();
                }
            };
            let (from, to) = ((*from).as_ref(), (*to).as_ref());
            let count = copy::up_to(from, to, most, moved).await?;
            transfer.moved(count);
            if count < most && !transfer.end(out) {
                return Err(Broken::Sender(ErrorKind::UnexpectedEof.into()));
            }
            continue;
        }
        let read = poll_fn(|cx| inbox.poll_fill(cx, from)).await;
        let count = read.map_err(Broken::Sender)?;
        if count == 0 && !transfer.end(out) {
            return Err(Broken::Sender(ErrorKind::UnexpectedEof.into()));
        }
        counters.read.fetch_add(count as u64, Relaxed);
        if let Some(progress) = counters.progress {
            progress.moved();
        }
        transfer.advance(inbox, out)?;
    }
}

/// Writes all of it.
///
/// # Errors
/// When the receiver is gone.
pub(super) async fn write(
    to: &mut WriteHalf<'_>,
    mut bytes: &[u8],
    counter: &AtomicU64,
) -> io::Result<()> {
    poll_fn(|cx| {
        while !bytes.is_empty() {
            let count = ready!(Pin::new(&mut *to).poll_write(cx, bytes))?;
            if count == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            counter.fetch_add(count as u64, Relaxed);
            bytes = &bytes[count..];
        }
        Poll::Ready(Ok(()))
    })
    .await
}
