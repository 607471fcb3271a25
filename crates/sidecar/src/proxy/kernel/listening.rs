//! Where somebody accepts connections on this host, asked of the kernel (sock_diag(7)) and of `/proc`.
//!
//! An endpoint on this host where nobody does is mostly a port that Docker publishes by translation alone
//! (`userland-proxy: false`); newer engines listen there nevertheless, to keep the port, and accept nothing.
//! After our translation Docker's is not asked any more, so such an endpoint is reached only by a
//! connection that this host itself makes: that of the built-in proxy. Where processes cannot be seen, as
//! from a container without `--pid host`, nobody is seen to accept: slower, but right.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
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

/// Keeps ports that it publishes by listening there.
const KEEPER: &str = "dockerd";

/// All listening TCP sockets: addresses and inodes.
#[derive(Debug, Default)]
struct Listening(BTreeMap<SocketAddr, u32>);

/// Those of these addresses of the host where nobody is seen to accept connections.
///
/// # Errors
/// When the kernel cannot be asked.
pub(super) fn unaccepted(mut addresses: BTreeSet<SocketAddr>) -> io::Result<BTreeSet<SocketAddr>> {
    let listening = Listening::now()?;
    let inodes = addresses.iter().filter_map(|it| listening.inode(*it));
    let accepted = accepted(inodes.collect());
    let is_accepted = |it: &SocketAddr| {
        listening
            .inode(*it)
            .is_some_and(|it| accepted.contains(&it))
    };
    addresses.retain(|it| !is_accepted(it));
    Ok(addresses)
}

impl Listening {
    fn now() -> io::Result<Self> {
        let mut found = BTreeMap::new();
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        for family in FAMILIES {
            ask(&socket, family, &mut found)?;
        }
        Ok(Self(found))
    }

    /// The socket that a connection to this address of the host finds.
    fn inode(&self, address: SocketAddr) -> Option<u32> {
        let v4: IpAddr = [0; 4].into();
        let v6: IpAddr = [0; 16].into();
        let at = |ip: IpAddr| self.0.get(&SocketAddr::new(ip, address.port())).copied();
        at(address.ip()).or_else(|| at(v4)).or_else(|| at(v6))
    }
}

/// Those of these sockets that a process has which is not only there to keep ports.
fn accepted(mut wanted: BTreeSet<u32>) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if wanted.is_empty() {
            break;
        }
        let path = process.path();
        let is_process = process.file_name().to_string_lossy().parse::<u32>().is_ok();
        if !is_process || fs::read_to_string(path.join("comm")).is_ok_and(|it| it.trim() == KEEPER)
        {
            continue;
        }
        for descriptor in fs::read_dir(path.join("fd"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let inode = fs::read_link(descriptor.path()).ok().and_then(|it| {
                let name = it.to_str()?.strip_prefix("socket:[")?;
                name.strip_suffix(']')?.parse().ok()
            });
            if let Some(inode) = inode
                && wanted.remove(&inode)
            {
                found.insert(inode);
            }
        }
    }
    found
}

fn ask(socket: &Socket, family: u8, found: &mut BTreeMap<SocketAddr, u32>) -> io::Result<()> {
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
                _ => found.extend(listener(body)),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        }
    }
}

/// Of an answer: family, three bytes, the two ports, the two addresses, interface, cookie, four numbers, the
/// inode.
fn listener(answer: &[u8]) -> Option<(SocketAddr, u32)> {
    let port = u16::from_be_bytes([*answer.get(4)?, *answer.get(5)?]);
    let ip: IpAddr = if answer.first() == Some(&FAMILIES[0]) {
        <[u8; 4]>::try_from(answer.get(8..12)?).ok()?.into()
    } else {
        <[u8; 16]>::try_from(answer.get(8..24)?).ok()?.into()
    };
    let inode = u32::from_ne_bytes(answer.get(68..72)?.try_into().ok()?);
    Some((SocketAddr::new(ip, port), inode))
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
            let is_accepted = |ip| unaccepted([at(ip)].into()).unwrap().is_empty();
            assert!(is_accepted(found));
            assert_eq!(is_accepted(other), found == other);
            drop(listener);
            assert!(!is_accepted(found));
        }
    }
}
