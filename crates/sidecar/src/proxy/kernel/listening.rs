//! Where somebody listens on this host, asked of the kernel (sock_diag(7)).
//!
//! An endpoint on this host where nobody listens is mostly a port that Docker publishes by translation
//! alone (`userland-proxy: false`). After our translation Docker's is not asked any more, so such an endpoint
//! is reached only by a connection that this host itself makes: that of the built-in proxy.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
};

use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST` and `_DUMP`.
const FLAGS: u16 = 0x301;
const FAMILIES: [u8; 2] = [2, 10];
const TCP: u8 = 6;
const LISTEN: u32 = 1 << 10;
const HEAD_BYTES: usize = 16;
const RECEIVE_BYTES: usize = 64 * 1024;

/// The addresses of all listening TCP sockets.
#[derive(Debug, Default)]
pub(super) struct Listening(BTreeSet<SocketAddr>);

impl Listening {
    /// Asks the kernel.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub(super) fn now() -> io::Result<Self> {
        let mut found = BTreeSet::new();
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        for family in FAMILIES {
            ask(&socket, family, &mut found)?;
        }
        Ok(Self(found))
    }

    /// Whether a connection to this address of the host finds somebody.
    pub(super) fn has(&self, address: SocketAddr) -> bool {
        let v4: IpAddr = [0; 4].into();
        let v6: IpAddr = [0; 16].into();
        [address.ip(), v4, v6]
            .iter()
            .any(|ip| self.0.contains(&SocketAddr::new(*ip, address.port())))
    }
}

fn ask(socket: &Socket, family: u8, found: &mut BTreeSet<SocketAddr>) -> io::Result<()> {
    let mut question = vec![0; HEAD_BYTES + 56];
    let length = u32::try_from(question.len()).unwrap_or_default();
    question[..4].copy_from_slice(&length.to_ne_bytes());
    question[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    question[6..8].copy_from_slice(&FLAGS.to_ne_bytes());
    question[HEAD_BYTES] = family;
    question[HEAD_BYTES + 1] = TCP;
    question[HEAD_BYTES + 4..HEAD_BYTES + 8].copy_from_slice(&LISTEN.to_ne_bytes());
    socket.send(&question, 0)?;
    let mut buffer = Vec::with_capacity(RECEIVE_BYTES);
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0)?;
        let mut rest = &buffer[..];
        while let Some(head) = rest.first_chunk::<HEAD_BYTES>() {
            let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]);
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let Some(body) = rest.get(HEAD_BYTES..length) else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            match u16::from_ne_bytes([head[4], head[5]]) {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => return Err(io::ErrorKind::Unsupported.into()),
                _ => found.extend(address(body)),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        }
    }
}

/// Of an answer: family, three bytes, the two ports, the two addresses.
fn address(answer: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes([*answer.get(4)?, *answer.get(5)?]);
    let ip: IpAddr = if answer.first() == Some(&FAMILIES[0]) {
        <[u8; 4]>::try_from(answer.get(8..12)?).ok()?.into()
    } else {
        <[u8; 16]>::try_from(answer.get(8..24)?).ok()?.into()
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_is_found_at_its_address_and_nowhere_else() {
        for (bound, found, other) in [
            ("127.0.0.1:0", "127.0.0.1", "127.0.0.2"),
            ("0.0.0.0:0", "127.0.0.2", "127.0.0.2"),
        ] {
            let listener = TcpListener::bind(bound).unwrap();
            let port = listener.local_addr().unwrap().port();
            let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), port);
            let listening = Listening::now().unwrap();
            assert!(listening.has(at(found)));
            assert_eq!(listening.has(at(other)), found == other);
            drop(listener);
            assert!(!Listening::now().unwrap().has(at(found)));
        }
    }
}
