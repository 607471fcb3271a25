//! A TCP port in front of an engine's socket, which can break off in the middle of an event.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use crate::host::Host;

/// Carries what comes to its port to a socket, as long as the test runs.
#[derive(Debug, Clone)]
pub struct Relay(Arc<Orders>);

#[derive(Debug, Default)]
struct Orders {
    cut_next_event: AtomicBool,
    cuts: AtomicUsize,
}

impl Relay {
    /// Listens at `at`, in front of the socket at this path.
    ///
    /// # Panics
    /// When the address is taken.
    pub fn start(host: &Host, at: SocketAddr, socket: &str) -> Self {
        let relay = Self(Arc::default());
        let (listener, socket) = (host.listen(at), socket.to_owned());
        let orders = Arc::clone(&relay.0);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Whoever cannot be carried on sees its connection end.
                drop(carry(client, &socket, &orders));
            }
        });
        relay
    }

    /// Of the next event that the engine tells half is carried on, and then the connection ends.
    pub fn cut_next_event(&self) {
        self.0.cut_next_event.store(true, Ordering::SeqCst);
    }

    /// Events that were cut.
    pub fn cuts(&self) -> usize {
        self.0.cuts.load(Ordering::SeqCst)
    }
}

/// Both directions of a connection. Whoever ends first ends both; there is nothing to do about errors
/// but that.
fn carry(client: TcpStream, socket: &str, orders: &Arc<Orders>) -> io::Result<()> {
    let engine = UnixStream::connect(socket)?;
    let (mut from_client, mut to_engine) = (client.try_clone()?, engine.try_clone()?);
    let is_events = Arc::new(AtomicBool::new(false));
    let (asked, orders) = (Arc::clone(&is_events), Arc::clone(orders));
    thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        while let Ok(length @ 1..) = from_client.read(&mut buffer) {
            let request = &buffer[..length];
            let path = request
                .split(|byte| *byte == b' ')
                .nth(1)
                .unwrap_or_default();
            if path.windows(7).any(|part| part == b"/events") {
                asked.store(true, Ordering::SeqCst);
            }
            if to_engine.write_all(request).is_err() {
                break;
            }
        }
        let _ = to_engine.shutdown(Shutdown::Both);
    });
    let (mut from_engine, mut to_client) = (engine, client);
    thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        while let Ok(length @ 1..) = from_engine.read(&mut buffer) {
            let told = &buffer[..length];
            let is_event = is_events.load(Ordering::SeqCst)
                && told.windows(8).any(|part| part == b"\"Action\"");
            if is_event && orders.cut_next_event.swap(false, Ordering::SeqCst) {
                let _ = to_client.write_all(&told[..length / 2]);
                orders.cuts.fetch_add(1, Ordering::SeqCst);
                break;
            }
            if to_client.write_all(told).is_err() {
                break;
            }
        }
        let _ = from_engine.shutdown(Shutdown::Both);
        let _ = to_client.shutdown(Shutdown::Both);
    });
    Ok(())
}
