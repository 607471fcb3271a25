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
    loop {
        from.readable().await?;
        match CHUNK.with_borrow_mut(|chunk| step(from, to, chunk))? {
            Step::Nothing => {}
            Step::End => return end(to),
            Step::Moved { count, rest } => {
                write(to, &rest).await?;
                tally.add(count);
                #[cfg(target_os = "linux")]
                if count == CHUNK_BYTES && splice::carry(from, to, tally).await? == Flow::Ended {
                    return end(to);
                }
            }
        }
        // Two fast sockets are always ready: give the thread's other connections their turn.
        coop::consume_budget().await;
    }
}

enum Step {
    Nothing,
    End,
    Moved { count: usize, rest: Vec<u8> },
}

/// One read, and as much of it written as the receiver takes right now.
fn step(from: &TcpStream, to: &TcpStream, chunk: &mut [u8]) -> io::Result<Step> {
    let count = match from.try_read(chunk) {
        Ok(0) => return Ok(Step::End),
        Ok(count) => count,
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Step::Nothing),
        Err(error) => return Err(error),
    };
    let mut rest = &chunk[..count];
    while !rest.is_empty() {
        match to.try_write(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
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
pub(super) async fn write(to: &TcpStream, mut rest: &[u8]) -> io::Result<()> {
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
