//! Bytes from one socket to the other without a copy: the kernel passes its own pages on, through a pipe.
//!
//! Worth it where much flows without a pause. A pipe takes two file descriptors, so a connection borrows
//! one for as long as its sender is ahead, and gives it back empty.

use std::{
    io::{self, ErrorKind},
    os::fd::OwnedFd,
    sync::{Mutex, PoisonError},
};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::{io::Interest, net::TcpStream, task::coop};

use super::copy::CopyError;

/// Bytes a pipe may hold: four times Linux's default, so that a pair of calls moves more.
const PIPE_BYTES: usize = 256 * 1024;
/// Pipes that are kept for the next use; each takes two file descriptors.
const IDLE_MAX: usize = 32;

static IDLE: Mutex<Vec<Pipe>> = Mutex::new(Vec::new());

/// How it went on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// The sender has ended its half.
    Ended,
    /// The sender has nothing to send right now, what was wanted was carried, or there is no pipe.
    Paused,
}

/// An empty pipe.
#[derive(Debug)]
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    bytes: usize,
}

/// Carries bytes as long as there are any, and `left` of them at most.
///
/// # Errors
/// When one side fails.
pub(super) async fn carry(
    from: &TcpStream,
    to: &TcpStream,
    left: &mut u64,
    moved: impl Fn(usize),
) -> Result<Flow, CopyError> {
    // Without descriptors, copying still works.
    let Ok(pipe) = Pipe::borrow() else {
        return Ok(Flow::Paused);
    };
    while *left > 0 {
        let count = match pipe.fill(from, *left) {
            Ok(0) => {
                pipe.give_back();
                return Ok(Flow::Ended);
            }
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(CopyError::From(error)),
        };
        pipe.empty(to, count).await.map_err(CopyError::To)?;
        moved(count);
        *left -= count as u64;
        coop::consume_budget().await;
    }
    pipe.give_back();
    Ok(Flow::Paused)
}

impl Pipe {
    fn borrow() -> io::Result<Self> {
        let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(Self::new, Ok)
    }

    fn new() -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Refused when the user has many pipes; then it is smaller.
        let bytes = fcntl_setpipe_size(&writer, PIPE_BYTES).unwrap_or(64 * 1024);
        Ok(Self {
            reader,
            writer,
            bytes,
        })
    }

    fn give_back(self) {
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(self);
        }
    }

    fn fill(&self, from: &TcpStream, most: u64) -> io::Result<usize> {
        let most = usize::try_from(most).map_or(self.bytes, |it| it.min(self.bytes));
        from.try_io(Interest::READABLE, || {
            Ok(splice(from, None, &self.writer, None, most, flags())?)
        })
    }

    async fn empty(&self, to: &TcpStream, mut count: usize) -> io::Result<()> {
        while count > 0 {
            let written = to
                .async_io(Interest::WRITABLE, || {
                    Ok(splice(&self.reader, None, to, None, count, flags())?)
                })
                .await?;
            if written == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
            count -= written;
        }
        Ok(())
    }
}

fn flags() -> SpliceFlags {
    SpliceFlags::MOVE | SpliceFlags::NONBLOCK
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    /// All bytes, in order, with a receiver that is slower than the sender, and the end of the half.
    #[tokio::test]
    async fn every_byte_arrives_in_order_and_so_does_the_end() {
        const BYTES: usize = 5_000_000;
        let (mut sender, from) = pair().await;
        let (to, mut receiver) = pair().await;
        let sent: Vec<u8> = (0..BYTES).map(|at| (at * 7 + at / 251) as u8).collect();
        let expected = sent.clone();
        let sending = tokio::spawn(async move {
            sender.write_all(&sent).await.unwrap();
        });
        let receiving = tokio::spawn(async move {
            let mut got = Vec::new();
            receiver.read_to_end(&mut got).await.unwrap();
            got
        });
        let carried = AtomicU64::new(0);
        let moved = |count: usize| {
            carried.fetch_add(count as u64, Relaxed);
        };
        let mut left = u64::MAX;
        while carry(&from, &to, &mut left, moved).await.unwrap() == Flow::Paused {
            from.readable().await.unwrap();
        }
        sending.await.unwrap();
        drop(to);
        assert!(receiving.await.unwrap() == expected);
        assert_eq!(u64::MAX - left, BYTES as u64);
        assert_eq!(carried.into_inner(), BYTES as u64);
    }

    #[tokio::test]
    async fn a_receiver_that_is_gone_is_an_error() {
        let (mut sender, from) = pair().await;
        let (to, receiver) = pair().await;
        socket2::SockRef::from(&receiver)
            .set_linger(Some(std::time::Duration::ZERO))
            .unwrap();
        drop(receiver);
        to.readable().await.unwrap();
        sender.write_all(&[1; 1000]).await.unwrap();
        from.readable().await.unwrap();
        let carried = carry(&from, &to, &mut 1000, |_| ()).await;
        assert!(matches!(carried, Err(CopyError::To(_))), "{carried:?}");
    }
}
