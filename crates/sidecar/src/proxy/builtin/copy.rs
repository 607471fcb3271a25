//! Bytes from one socket to the other, both ways at once, each way ended by itself.
//!
//! A connection that waits costs no buffer: a chunk is read into a buffer of the thread and written
//! on at once; only what the receiver does not take is kept, until it does. So a slow receiver
//! slows its sender down, and 65,536 idle connections need no gigabytes. While a sender is ahead, its
//! bytes are not copied at all where the system can do without (`splice`).

use std::{
    cell::RefCell,
    io::{self, ErrorKind},
    net::Shutdown,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use socket2::SockRef;
use tokio::{net::TcpStream, task::coop};

#[cfg(target_os = "linux")]
use super::splice::{self, Flow};
use super::{listener::Port, upstream::Upstream};

/// Most bytes moved by one pair of calls: large enough that the calls cost little beside the copy,
/// small enough for a processor's cache. One per thread.
const CHUNK_BYTES: usize = 64 * 1024;

thread_local! {
    static CHUNK: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK_BYTES].into_boxed_slice());
}

/// Where the bytes of one direction are counted: of the port, and of the endpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tally<'a> {
    pub(super) port: &'a AtomicU64,
    pub(super) endpoint: &'a AtomicU64,
}

impl Tally<'_> {
    pub(super) fn add(self, count: usize) {
        self.port.fetch_add(count as u64, Relaxed);
        self.endpoint.fetch_add(count as u64, Relaxed);
    }
}

/// The tallies of a connection, to the endpoint and to the client.
pub(super) fn tallies<'a>(port: &'a Port, upstream: &'a Upstream) -> (Tally<'a>, Tally<'a>) {
    let up = Tally {
        port: &port.counts.to_endpoints_bytes,
        endpoint: &upstream.sent_bytes,
    };
    let down = Tally {
        port: &port.counts.to_clients_bytes,
        endpoint: &upstream.received_bytes,
    };
    (up, down)
}

/// Which side of a copy failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    /// It cannot be read from.
    #[error("the sender broke off: {0}")]
    From(io::Error),
    /// It cannot be written to.
    #[error("the receiver is gone: {0}")]
    To(io::Error),
}

impl From<CopyError> for io::Error {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::From(error) | CopyError::To(error) => error,
        }
    }
}

/// Copies until both sides have ended their half, or until either fails.
///
/// # Errors
/// The first failure of either direction. The other direction is then cut off in the middle.
pub(super) async fn both_ways(
    client: &TcpStream,
    endpoint: &TcpStream,
    to_endpoint: Tally<'_>,
    to_client: Tally<'_>,
) -> io::Result<()> {
    let up = one_way(client, endpoint, to_endpoint);
    let down = one_way(endpoint, client, to_client);
    tokio::try_join!(up, down).map(|((), ())| ())
}

async fn one_way(from: &TcpStream, to: &TcpStream, tally: Tally<'_>) -> io::Result<()> {
    up_to(from, to, u64::MAX, |count| tally.add(count)).await?;
    end(to)
}

/// Copies this many bytes, or fewer when the sender ends its half before. Says how many.
///
/// # Errors
/// When either side fails.
pub(super) async fn up_to(
    from: &TcpStream,
    to: &TcpStream,
    most: u64,
    moved: impl Fn(usize),
) -> Result<u64, CopyError> {
    let mut left = most;
    while left > 0 {
        from.readable().await.map_err(CopyError::From)?;
        let most_now = usize::try_from(left).map_or(CHUNK_BYTES, |it| it.min(CHUNK_BYTES));
        match CHUNK.with_borrow_mut(|chunk| step(from, to, &mut chunk[..most_now]))? {
            Step::Nothing => {}
            Step::End => break,
            Step::Moved { count, rest } => {
                write(to, &rest).await.map_err(CopyError::To)?;
                moved(count);
                left -= count as u64;
                #[cfg(target_os = "linux")]
                if count == CHUNK_BYTES
                    && splice::carry(from, to, &mut left, &moved).await? == Flow::Ended
                {
                    break;
                }
            }
        }
        // Two fast sockets are always ready: give the thread's other connections their turn.
        coop::consume_budget().await;
    }
    Ok(most - left)
}

enum Step {
    Nothing,
    End,
    Moved { count: usize, rest: Vec<u8> },
}

/// One read, and as much of it written as the receiver takes right now.
fn step(from: &TcpStream, to: &TcpStream, chunk: &mut [u8]) -> Result<Step, CopyError> {
    let count = match from.try_read(chunk) {
        Ok(0) => return Ok(Step::End),
        Ok(count) => count,
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Step::Nothing),
        Err(error) => return Err(CopyError::From(error)),
    };
    let mut rest = &chunk[..count];
    while !rest.is_empty() {
        match to.try_write(rest) {
            Ok(0) => return Err(CopyError::To(ErrorKind::WriteZero.into())),
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(CopyError::To(error)),
        }
    }
    Ok(Step::Moved {
        count,
        rest: rest.to_vec(),
    })
}

/// Writes all of it.
///
/// # Errors
/// When the receiver is gone.
async fn write(to: &TcpStream, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        to.writable().await?;
        match to.try_write(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Passes the end of one half on; the other half goes on.
fn end(to: &TcpStream) -> io::Result<()> {
    match SockRef::from(to).shutdown(Shutdown::Write) {
        // The peer is gone already: whatever matters of that shows in the other direction.
        Err(error) if error.kind() == ErrorKind::NotConnected => Ok(()),
        result => result,
    }
}
