//! From one worker to the next: routes, and the sockets that listen, in batches of as many as the kernel
//! lets through at once. Done with blocking sockets: by the new worker before it does anything else, by the
//! old one on a thread of its own.

use std::{
    io::{self, IoSlice, IoSliceMut, Read as _, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::messages::{Estate, FromWorker, ToWorker, frame, frame_length};
use crate::proxy::builtin::Listeners;

/// File descriptors in one message; Linux takes 253 (SCM_MAX_FD).
const BATCH: usize = 128;
/// Most time either side waits for the other's next step.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// What a new worker begins with.
#[derive(Debug)]
pub(super) struct Inheritance {
    pub(super) control: OwnedFd,
    pub(super) estate: Estate,
    pub(super) listeners: Listeners,
}

/// Asks the worker at the other end of `stream` for everything it has; its hello has been read.
///
/// # Errors
/// When it does not answer, or not as expected.
pub(super) fn request(mut stream: &UnixStream) -> io::Result<Inheritance> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(STEP_TIMEOUT))?;
    stream.write_all(&frame(&ToWorker::HandOver)?)?;
    let estate = loop {
        let mut head = [0; 4];
        stream.read_exact(&mut head)?;
        let mut body = vec![0; frame_length(head)?];
        stream.read_exact(&mut body)?;
        // What it counted and logged meanwhile is on its way, too.
        if let FromWorker::HandOver(estate) = serde_json::from_slice(&body)? {
            break estate;
        }
    };
    let mut sockets = Vec::new();
    while sockets.len() < 1 + estate.ports.len() {
        sockets.extend(receive(stream)?);
    }
    let mut sockets = sockets.into_iter();
    let control = sockets.next().ok_or(io::ErrorKind::UnexpectedEof)?;
    let listeners = estate.ports.iter().copied().zip(sockets.map(Into::into));
    Ok(Inheritance {
        control,
        listeners: listeners.collect(),
        estate,
    })
}

/// Gives everything away.
///
/// # Errors
/// When nobody takes it.
pub(super) fn give(
    mut stream: &UnixStream,
    control: BorrowedFd<'_>,
    listeners: &Listeners,
    mut estate: Estate,
) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(STEP_TIMEOUT))?;
    estate.ports = listeners.keys().copied().collect();
    stream.write_all(&frame(&FromWorker::HandOver(estate))?)?;
    let sockets: Vec<_> = [control]
        .into_iter()
        .chain(listeners.values().map(|it| it.as_fd()))
        .collect();
    for batch in sockets.chunks(BATCH) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(batch)) {
            return Err(io::Error::other("a batch of sockets is too large"));
        }
        // Descriptors travel with at least one byte.
        let sent = sendmsg(
            stream,
            &[IoSlice::new(&[0])],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        if sent == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    Ok(())
}

/// One batch. A byte is read at a time, since descriptors belong to the byte they came with.
fn receive(stream: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut bytes = [IoSliceMut::new(&mut byte)];
    let received = recvmsg(stream, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut sockets = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(batch) = message {
            sockets.extend(batch);
        }
    }
    if received.bytes == 0 || sockets.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the sockets did not come",
        ));
    }
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn more_sockets_than_fit_into_one_message_arrive_in_order() {
        let (old, new) = UnixStream::pair().unwrap();
        let listeners: Listeners = (0..300)
            .map(|number| (number, TcpListener::bind(("127.0.0.1", 0)).unwrap()))
            .collect();
        let addresses: Vec<_> = listeners
            .values()
            .map(|it| it.local_addr().unwrap())
            .collect();
        let giver = std::thread::spawn(move || {
            let mut head = [0; 4];
            (&old).read_exact(&mut head).unwrap();
            let mut body = vec![0; frame_length(head).unwrap()];
            (&old).read_exact(&mut body).unwrap();
            // Something that was said before the request was heard.
            let line = FromWorker::Log("a line\n".to_owned());
            (&old).write_all(&frame(&line).unwrap()).unwrap();
            let control = TcpListener::bind(("127.0.0.1", 0)).unwrap();
            give(&old, control.as_fd(), &listeners, Estate::default()).unwrap();
        });
        let got = request(&new).unwrap();
        giver.join().unwrap();
        let found: Vec<_> = got
            .listeners
            .values()
            .map(|it| it.local_addr().unwrap())
            .collect();
        assert_eq!(found, addresses);
        assert!(
            addresses
                .iter()
                .all(|address| TcpStream::connect(address).is_ok()),
            "they listen on"
        );
    }

    #[test]
    fn who_hangs_up_gives_nothing() {
        let (old, new) = UnixStream::pair().unwrap();
        drop(old);
        request(&new).unwrap_err();
    }
}
