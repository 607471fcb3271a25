//! A service that sends back what it gets.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
};

use crate::Host;

/// What a WebSocket server answers to [`UPGRADE`]; the key and the answer to it are RFC 6455's example.
const UPGRADED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                        Connection: Upgrade\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
/// What a WebSocket client begins with.
const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Returns every byte of every connection, for ever.
///
/// # Panics
/// When the address is taken.
pub fn echo(host: &Host, at: SocketAddr) {
    serve(host, at, "");
}

/// The same after the upgrade to a WebSocket.
///
/// # Panics
/// When the address is taken.
pub fn websocket_echo(host: &Host, at: SocketAddr) {
    serve(host, at, UPGRADED);
}

fn serve(host: &Host, at: SocketAddr, greeting: &'static str) {
    let listener = host.listen(at);
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut buffer = [0; 1024];
                if !greeting.is_empty() {
                    // The request of an upgrade, which fits one read here.
                    let _ = stream.read(&mut buffer);
                    let _ = stream.write_all(greeting.as_bytes());
                }
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..count]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// Makes a WebSocket of a connection.
///
/// # Panics
/// When the other side does not.
pub fn upgrade(stream: &mut TcpStream) {
    let sent = stream.write_all(UPGRADE.as_bytes());
    sent.expect("the request is taken");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("the head of an answer");
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
}
