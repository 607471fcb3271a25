//! The worker's control socket: its name, who may be at its other end, and finding it.

use std::{io, os::fd::OwnedFd, os::unix::net::UnixStream};

use socket2::{Domain, SockAddr, Socket, Type};

/// Agents that may wait to be heard: one after the other, rarely two.
const BACKLOG: i32 = 8;

/// Why the control socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocketError {
    /// Nobody listens there.
    #[error("no process of the proxy runs")]
    Nobody,
    /// Another user's process does.
    #[error("the control socket of the proxy, @{name}, belongs to user {user}, not to this one")]
    Foreign { name: String, user: u32 },
    /// Anything else.
    #[error("the control socket of the proxy, @{name}: {error}")]
    Other { name: String, error: io::Error },
}

/// Its name: abstract, so it is private to the network namespace and gone with its listener.
pub(super) fn name(gossip_port: u16) -> String {
    format!("sidecar-proxy-{gossip_port}")
}

fn address(name: &str) -> io::Result<SockAddr> {
    SockAddr::unix(format!("\0{name}"))
}

/// Connects to the worker that runs.
pub(super) fn connect(name: &str) -> Result<UnixStream, SocketError> {
    let other = |error: io::Error| match error.kind() {
        io::ErrorKind::ConnectionRefused => SocketError::Nobody,
        _ => SocketError::Other {
            name: name.to_owned(),
            error,
        },
    };
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(other)?;
    // A full backlog is an error and not a reason to stand still.
    socket.set_nonblocking(true).map_err(other)?;
    socket
        .connect(&address(name).map_err(other)?)
        .map_err(other)?;
    let stream = UnixStream::from(OwnedFd::from(socket));
    match peer(&stream).map_err(other)? {
        user if is_trusted(user) => Ok(stream),
        user => Err(SocketError::Foreign {
            name: name.to_owned(),
            user,
        }),
    }
}

/// Opens the socket that a new worker is to listen on.
pub(super) fn listen(name: &str) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&address(name)?)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The user at the other end.
pub(super) fn peer(stream: &UnixStream) -> io::Result<u32> {
    let credentials = rustix::net::sockopt::socket_peercred(stream)?;
    Ok(credentials.uid.as_raw())
}

/// Any process can connect to an abstract socket, so each end asks who the other is: this user, or root.
pub(super) fn is_trusted(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_found_by_its_name_while_it_lives_and_knows_its_peer() {
        let name = format!("sidecar-test-{}", std::process::id());
        assert!(matches!(connect(&name), Err(SocketError::Nobody)));
        let listener = listen(&name).unwrap();
        let stream = connect(&name).unwrap();
        assert!(is_trusted(peer(&stream).unwrap()));
        assert_eq!(listen(&name).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop((listener, stream));
        assert!(matches!(connect(&name), Err(SocketError::Nobody)));
    }

    #[test]
    fn other_users_are_not_trusted() {
        assert!(is_trusted(0));
        assert!(!is_trusted(4_000_000));
    }
}
