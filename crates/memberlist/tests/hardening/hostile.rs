//! What a hostile peer has at hand: connections from many addresses, bytes nobody else would write,
//! and bombs made without ever holding what they inflate to.

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;
use memberlist::wire::{
    Message, NodeState, PushNode, PushPull, RawIp, StreamMessage, Versions, decode_packet,
    encode_message, encode_stream,
};
use memberlist::{Handle, Stats};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use crate::bench::{filter, in_time, map, ping, until};

pub(crate) const MIB: u64 = 1024 * 1024;

/// An open connection from 127.0.0.`from`. One address alone may not have so many.
pub(crate) async fn connect(from: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("available");
    let from = SocketAddr::new(IpAddr::from([127, 0, 0, from]), 0);
    socket.bind(from).expect("a loopback address");
    socket.connect(to).await.expect("the system accepts")
}

/// Writes a request and gives all that comes back. A reset counts as an end.
pub(crate) async fn ask(from: u8, to: &Handle, request: &[u8]) -> Vec<u8> {
    let mut stream = connect(from, to.local_addr()).await;
    // Who is not let in may not get so far.
    let _ = stream.write_all(request).await;
    until_end(&mut stream).await
}

pub(crate) async fn until_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = in_time("the end of a stream", stream.read_to_end(&mut bytes)).await;
    bytes
}

/// Pings by datagram and waits for the ack, which it must get: when it came.
pub(crate) async fn acked(socket: &UdpSocket, to: &Handle, seq_no: u32) -> Instant {
    let request = encode_message(&Message::Ping(ping(seq_no, "a")), "default");
    socket
        .send_to(&request, to.local_addr())
        .await
        .expect("sent");
    let mut buffer = [0; 4096];
    let answer = async {
        loop {
            let length = socket.recv(&mut buffer).await.expect("received");
            // Gossip may ride on it.
            let first = decode_packet(&buffer[..length], &filter()).messages;
            if matches!(first.first(), Some(Message::Ack(ack)) if ack.seq_no == seq_no) {
                return Instant::now();
            }
        }
    };
    in_time("an ack", answer).await
}

pub(crate) async fn socket() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").await.expect("free")
}

pub(crate) fn count(stats: &Stats, kind: &str) -> u64 {
    stats.malformed.get(kind).copied().unwrap_or(0)
}

pub(crate) fn failures(stats: &Stats) -> u64 {
    stats.malformed.values().sum()
}

/// Waits until this has been counted as bad input, and nothing else.
pub(crate) async fn counted(what: &str, member: &Handle, expected: &[(&'static str, u64)]) {
    let so = || member.stats().malformed.into_iter().eq(expected.to_vec());
    until(&format!("{what}: {expected:?}"), so).await;
}

pub(crate) fn entry(name: &str, incarnation: u32) -> PushNode {
    PushNode {
        name: name.to_owned(),
        addr: RawIp::V4([127, 0, 0, 1]),
        port: 1,
        meta: Bytes::new(),
        incarnation,
        state: NodeState::Alive,
        versions: Versions::OURS,
    }
}

pub(crate) fn table(nodes: Vec<PushNode>, user_state: Bytes) -> PushPull {
    PushPull {
        join: false,
        nodes,
        user_state,
    }
}

/// A state exchange as it goes over the wire.
pub(crate) fn exchange(nodes: Vec<PushNode>, user_state: Bytes, compress: bool) -> Vec<u8> {
    let table = StreamMessage::PushPull(table(nodes, user_state));
    encode_stream(&table, "default", compress)
}

/// A state of so many bytes, in an exchange that is short on the wire.
pub(crate) fn long_state(bytes: usize) -> Vec<u8> {
    exchange(Vec::new(), Bytes::from(vec![0; bytes]), true)
}

/// The head of a state exchange with fields that stand as msgpack.
pub(crate) fn exchange_head(nodes: &[u8], user_state: &[u8]) -> Vec<u8> {
    let head = map(&[
        ("ClusterName", b"\xa7default"),
        ("Nodes", nodes),
        ("UserStateLen", user_state),
    ]);
    [&[6][..], &head].concat()
}

/// A compressed message of so many bytes 8, which is the type of a message for the application.
pub(crate) fn bomb(inflated: u64) -> Vec<u8> {
    let mut lzw = Vec::new();
    let mut encoder = weezl::encode::Encoder::new(weezl::BitOrder::Lsb, 8);
    let content = std::io::repeat(8).take(inflated);
    encoder
        .into_stream(&mut lzw)
        .encode_all(std::io::BufReader::new(content))
        .status
        .expect("encodable");
    let length = u32::try_from(lzw.len()).expect("a few hundred kilobytes");
    let head = [&b"\x09\x81\xa3Buf\xdb"[..], &length.to_be_bytes()].concat();
    [head, lzw].concat()
}
