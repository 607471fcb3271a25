//! Opening the sockets: UDP and TCP on one port.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

use super::StartError;

/// Bytes of socket buffer asked for, halved until the system agrees.
const SOCKET_BUFFER_BYTES: usize = 2 << 20;
/// Below this the default of the system will be no worse.
const SOCKET_BUFFER_BYTES_MIN: usize = 64 << 10;
/// Connections the system may queue for us.
const BACKLOG: u32 = 256;
/// Attempts to find a port that is free for both.
const PORT_ATTEMPTS: usize = 16;

/// Both sockets on `addr`; with port 0 on any port that is free for both.
pub(super) fn bind(addr: SocketAddr) -> Result<(UdpSocket, TcpListener), StartError> {
    let mut attempt = 1;
    loop {
        let tcp = listen(addr).map_err(|source| StartError::Tcp { addr, source })?;
        let bound = tcp
            .local_addr()
            .map_err(|source| StartError::Tcp { addr, source })?;
        match bind_udp(bound) {
            Ok(udp) => return Ok((udp, tcp)),
            Err(_) if addr.port() == 0 && attempt < PORT_ATTEMPTS => attempt += 1,
            Err(source) => {
                return Err(StartError::Udp {
                    addr: bound,
                    source,
                });
            }
        }
    }
}

fn new_tcp(addr: SocketAddr) -> io::Result<TcpSocket> {
    if addr.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = new_tcp(addr)?;
    // A restart must not wait for the connections of the last run to time out.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

fn bind_udp(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(addr)?;
    socket.set_nonblocking(true)?;
    let buffers = socket2::SockRef::from(&socket);
    ask_for_buffer(|bytes| buffers.set_recv_buffer_size(bytes));
    ask_for_buffer(|bytes| buffers.set_send_buffer_size(bytes));
    UdpSocket::from_std(socket)
}

fn ask_for_buffer(set: impl Fn(usize) -> io::Result<()>) {
    let mut bytes = SOCKET_BUFFER_BYTES;
    while bytes >= SOCKET_BUFFER_BYTES_MIN && set(bytes).is_err() {
        bytes /= 2;
    }
}

/// A connection from the address we are bound to, so that peers see the member they know.
pub(super) async fn dial(bind: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = new_tcp(to)?;
    if !bind.ip().is_unspecified() && bind.is_ipv4() == to.is_ipv4() {
        socket.bind(SocketAddr::new(bind.ip(), 0))?;
    }
    socket.connect(to).await
}
