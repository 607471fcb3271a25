//! A service with gRPC's health protocol, down to the frames of HTTP/2: what the agent asks of it is
//! read, and what it answers is decided, by code that shares nothing with the agent's.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use crate::host::Host;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `grpc.health.v1.HealthCheckResponse.ServingStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serving {
    /// 1.
    Yes,
    /// 2.
    No,
}

/// What each service says of itself, by its name; `""` is the server as a whole.
type Statuses = Arc<Mutex<BTreeMap<String, Serving>>>;

/// Answers `Check` as long as the test runs.
#[derive(Debug)]
pub struct GrpcHealth(Statuses);

impl GrpcHealth {
    /// Listens; it knows no service yet.
    ///
    /// # Panics
    /// When the address is taken.
    pub fn start(host: &Host, at: SocketAddr) -> Self {
        let listener = host.listen(at);
        let statuses = Statuses::default();
        let known = Arc::clone(&statuses);
        thread::spawn(move || accept(&listener, &known));
        Self(statuses)
    }

    /// From now on this is what a service says.
    pub fn set(&self, service: &str, serving: Serving) {
        let mut statuses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        statuses.insert(service.to_owned(), serving);
    }
}

fn accept(listener: &TcpListener, statuses: &Statuses) {
    for stream in listener.incoming().flatten() {
        let statuses = Arc::clone(statuses);
        // Clients go away when they know enough.
        thread::spawn(move || drop(serve(stream, &statuses)));
    }
}

fn serve(mut stream: TcpStream, statuses: &Statuses) -> io::Result<()> {
    let mut preface = [0; PREFACE.len()];
    stream.read_exact(&mut preface)?;
    if preface != PREFACE {
        return Err(io::Error::other("no client of HTTP/2"));
    }
    stream.write_all(&frame(SETTINGS, 0, 0, &[]))?;
    let mut bodies: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let [high, mid, low, kind, flags, id @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, high, mid, low]) as usize];
        stream.read_exact(&mut payload)?;
        let id = u32::from_be_bytes(id);
        match kind {
            SETTINGS if flags & ACK == 0 => stream.write_all(&frame(SETTINGS, ACK, 0, &[]))?,
            PING if flags & ACK == 0 => stream.write_all(&frame(PING, ACK, 0, &payload))?,
            DATA => bodies.entry(id).or_default().extend(payload),
            _ => {}
        }
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            let asked = service(&bodies.remove(&id).unwrap_or_default());
            let known = statuses.lock().unwrap_or_else(PoisonError::into_inner);
            let status = asked.and_then(|asked| known.get(&asked).copied());
            stream.write_all(&answer(id, status))?;
        }
    }
}

/// The name in an uncompressed message whose field 1 is a short string, or nothing.
fn service(body: &[u8]) -> Option<String> {
    let message = body.strip_prefix(&[0])?.get(4..)?;
    match message {
        [] => Some(String::new()),
        [0x0a, length, name @ ..] if usize::from(*length) == name.len() => {
            String::from_utf8(name.to_vec()).ok()
        }
        _ => None,
    }
}

/// A response with trailers, or only these for a service that is not known.
fn answer(id: u32, status: Option<Serving>) -> Vec<u8> {
    // `:status: 200` and `content-type` are entries 8 and 31 of the static table.
    let mut fields = vec![0x88, 0x0f, 0x10];
    put_text(&mut fields, "application/grpc");
    let Some(status) = status else {
        put_field(&mut fields, "grpc-status", "5");
        put_field(&mut fields, "grpc-message", "unknown service");
        return frame(HEADERS, END_HEADERS | END_STREAM, id, &fields);
    };
    let number = match status {
        Serving::Yes => 1,
        Serving::No => 2,
    };
    let mut trailers = Vec::new();
    put_field(&mut trailers, "grpc-status", "0");
    let parts = [
        frame(HEADERS, END_HEADERS, id, &fields),
        frame(DATA, 0, id, &[0, 0, 0, 0, 2, 0x08, number]),
        frame(HEADERS, END_HEADERS | END_STREAM, id, &trailers),
    ];
    parts.concat()
}

/// A field that enters no table.
fn put_field(fields: &mut Vec<u8>, name: &str, value: &str) {
    fields.push(0);
    put_text(fields, name);
    put_text(fields, value);
}

/// Plain, shorter than 127 bytes.
fn put_text(fields: &mut Vec<u8>, text: &str) {
    fields.push(u8::try_from(text.len()).expect("a short text"));
    fields.extend(text.as_bytes());
}

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = length.to_vec();
    frame.extend([kind, flags]);
    frame.extend(id.to_be_bytes());
    frame.extend(payload);
    frame
}
