//! A scripted legacy peer: how Go Sidecar, on its fork of memberlist, behaves on the wire.
//!
//! It stands in for live Go programs in tests of mixed clusters. It joins, pings, acks, relays,
//! suspects, gossips and exchanges states over real sockets; it announces records as Go Sidecar does
//! (changes five times, everything once a minute), buries those of a node that dies (ten times), and
//! refuses what a Go node could not digest: the first such thing, decoded as far as possible, is the
//! panic of the next call to the peer, or of its end.
//!
//! | module | what it is |
//! | --- | --- |
//! | `wire` | bytes of the fork: its encoder, and a reader that is stricter than the fork's |
//! | `membership` | the fork's state machine |
//! | `catalog` | Go Sidecar's records on top of it |
//! | this one | sockets, threads, and the script's side |
//!
//! It shares no code with the members under test, and none of their improvements. It is no model of
//! the fork's crashes and stalls: what would provoke them is an error.

mod catalog;
mod membership;
mod stamp;
mod wire;

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use self::{
    membership::{Dial, Membership},
    wire::{Problem, StreamMessage},
};
use crate::{
    Host,
    agent::{GOSSIP_PORT, Instance, Status},
};

pub use self::{
    catalog::{LegacyPort, LegacyRecord},
    membership::LegacyState,
};

/// How long the fork lets a stream take.
const STREAM: Duration = Duration::from_secs(10);
/// Granularity of the peer's clock.
const BEAT: Duration = Duration::from_millis(5);

/// The paces of the program. [`Timing::GO`] is the original's; a script may quicken what it would
/// have to wait for.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Between two looks of its loops, and between the copies of an announcement. 1 s.
    pub second: Duration,
    /// Announcing everything again after silence. 60 s.
    pub refresh: Duration,
    /// Age at which a record that was not refreshed is buried. 80 s.
    pub lifespan: Duration,
    /// Between probes; half of it is the wait for the first ack, five times the suspicion. 1 s.
    pub probe: Duration,
    /// Between rounds of gossip. 200 ms.
    pub gossip: Duration,
    /// How long the dead are told so, and after which they are forgotten. 30 s.
    pub gossip_to_the_dead: Duration,
    /// Between state exchanges. 20 s.
    pub push_pull: Duration,
}

impl Timing {
    /// Go Sidecar with nothing configured.
    pub const GO: Self = Self {
        second: Duration::from_secs(1),
        refresh: Duration::from_secs(60),
        lifespan: Duration::from_secs(80),
        probe: Duration::from_secs(1),
        gossip: Duration::from_millis(200),
        gossip_to_the_dead: Duration::from_secs(30),
        push_pull: Duration::from_secs(20),
    };
}

/// Where a peer opens its sockets.
#[derive(Debug, Clone)]
pub enum Network {
    /// A host of the lab.
    Host(Arc<Host>),
    /// The network of the test itself, with a name and an address for the peer.
    Here {
        /// Name of the node and of its host.
        name: String,
        /// Where it listens.
        address: SocketAddr,
    },
}

impl Network {
    fn name(&self) -> &str {
        match self {
            Self::Host(host) => &host.name,
            Self::Here { name, .. } => name,
        }
    }

    fn address(&self) -> SocketAddr {
        match self {
            Self::Host(host) => (host.ip, GOSSIP_PORT).into(),
            Self::Here { address, .. } => *address,
        }
    }

    fn open(&self) -> io::Result<(UdpSocket, TcpListener)> {
        let address = self.address();
        let open = || Ok((UdpSocket::bind(address)?, TcpListener::bind(address)?));
        match self {
            Self::Host(host) => host.within(open),
            Self::Here { .. } => open(),
        }
    }

    fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        match self {
            Self::Host(host) => host.within(|| TcpStream::connect_timeout(&to, STREAM)),
            Self::Here { .. } => TcpStream::connect_timeout(&to, STREAM),
        }
    }
}

/// What the threads of a running peer share.
struct Shared {
    network: Network,
    cluster: String,
    membership: Mutex<Membership>,
    failure: Mutex<Option<String>>,
    stop: AtomicBool,
    paused: AtomicBool,
}

impl Shared {
    fn membership(&self) -> MutexGuard<'_, Membership> {
        self.membership
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while the script has stopped the program; false when it has ended.
    fn runs(&self) -> bool {
        while self.paused.load(Ordering::SeqCst) && !self.stop.load(Ordering::SeqCst) {
            thread::sleep(BEAT);
        }
        !self.stop.load(Ordering::SeqCst)
    }

    /// The first thing that a Go node could not digest is kept.
    fn note(&self, outcome: Result<(), String>) {
        if let Err(problem) = outcome {
            let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            failure.get_or_insert(problem);
        }
    }
}

/// A peer. Between [`LegacyPeer::kill`] and [`LegacyPeer::restart`] it is silent, its sockets closed.
#[derive(Debug)]
pub struct LegacyPeer {
    network: Network,
    cluster: String,
    timing: Timing,
    running: Option<Running>,
    /// What discovery would find; outlives the program.
    offered: BTreeMap<String, LegacyRecord>,
}

struct Running {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").finish_non_exhaustive()
    }
}

impl LegacyPeer {
    /// Starts a peer, alone so far.
    ///
    /// # Panics
    /// When its sockets cannot be opened.
    pub fn start(network: Network, cluster: &str, timing: Timing) -> Self {
        let mut peer = Self {
            network,
            cluster: cluster.to_owned(),
            timing,
            running: None,
            offered: BTreeMap::new(),
        };
        peer.restart();
        peer
    }

    /// The name of its node.
    pub fn name(&self) -> &str {
        self.network.name()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.network.address()
    }

    /// Starts the program again; it has forgotten everything, and finds the same services.
    ///
    /// # Panics
    /// When its sockets cannot be opened.
    pub fn restart(&mut self) {
        self.kill();
        let IpAddr::V4(ip) = self.address().ip() else {
            panic!("{} has no address of version 4", self.name());
        };
        let port = self.address().port();
        let now = Instant::now();
        let mut membership =
            Membership::new(self.name(), (ip, port), &self.cluster, self.timing, now);
        for record in self.offered.values() {
            membership.catalog.offer(record.clone());
        }
        let (udp, tcp) = self
            .network
            .open()
            .unwrap_or_else(|error| panic!("{} at {}: {error}", self.name(), self.address()));
        let shared = Arc::new(Shared {
            network: self.network.clone(),
            cluster: self.cluster.clone(),
            membership: Mutex::new(membership),
            failure: Mutex::new(None),
            stop: AtomicBool::new(false),
            paused: AtomicBool::new(false),
        });
        let (for_udp, for_tcp) = (Arc::clone(&shared), Arc::clone(&shared));
        let threads = vec![
            thread::spawn(move || serve_datagrams(&for_udp, &udp)),
            thread::spawn(move || serve_streams(&for_tcp, &tcp)),
        ];
        self.running = Some(Running { shared, threads });
    }

    /// Ends the program without a goodbye, as Go Sidecar always ends.
    ///
    /// # Panics
    /// When it had met what a Go node could not digest.
    pub fn kill(&mut self) {
        let Some(running) = self.running.take() else {
            return;
        };
        running.shared.stop.store(true, Ordering::SeqCst);
        for thread in running.threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
        check(&running.shared, self.name());
    }

    /// Stops the program where it is, as SIGSTOP does: what is sent to it waits in its sockets.
    pub fn pause(&self) {
        self.shared().paused.store(true, Ordering::SeqCst);
    }

    /// Lets it go on. It finds everything late, and what was sent to it meanwhile.
    pub fn resume(&self) {
        self.shared().paused.store(false, Ordering::SeqCst);
    }

    fn shared(&self) -> &Arc<Shared> {
        let running = self.running.as_ref();
        let shared = &running.expect("the script does not ask a dead peer").shared;
        check(shared, self.name());
        shared
    }

    /// Exchanges states with a seed, as the program does at its start.
    ///
    /// # Errors
    /// There is no whole answer.
    ///
    /// # Panics
    /// As every method: after anything that a Go node could not digest.
    pub fn join(&self, seed: SocketAddr) -> Result<(), String> {
        let joined = exchange(self.shared(), seed, true).map_err(|error| error.to_string());
        self.shared();
        joined
    }

    /// An instance of this host is found, or its health is another now.
    pub fn offer(&mut self, id: &str, service: &str, status: Status) {
        self.offer_with(id, service, status, |_| {});
    }

    /// The same of one whose record is not as Docker discovery makes it.
    pub fn offer_with(
        &mut self,
        id: &str,
        service: &str,
        status: Status,
        change: impl FnOnce(&mut LegacyRecord),
    ) {
        let IpAddr::V4(ip) = self.address().ip() else {
            panic!("{} has no address of version 4", self.name());
        };
        let mut record = record(self.name(), ip, id, service, status);
        change(&mut record);
        self.offered.insert(id.to_owned(), record.clone());
        self.shared().membership().catalog.offer(record);
    }

    /// An instance of this host is found no longer.
    pub fn withdraw(&mut self, id: &str) {
        self.offered.remove(id);
        self.shared().membership().catalog.withdraw(id);
    }

    /// Everybody in its table.
    pub fn members(&self) -> BTreeMap<String, LegacyState> {
        self.shared().membership().members()
    }

    /// Whom it has taken for dead since its start, in order; who returned and died again twice.
    pub fn mourned(&self) -> Vec<String> {
        self.shared().membership().mourned.clone()
    }

    /// Whether exactly these are members in its eyes, suspects included.
    ///
    /// # Errors
    /// With those that are instead.
    pub fn expect_members(&self, names: &[&str]) -> Result<(), String> {
        let mut members = self.members();
        members.retain(|_, state| *state != LegacyState::Dead);
        let found: Vec<&str> = members.keys().map(String::as_str).collect();
        let mut wanted = names.to_vec();
        wanted.sort_unstable();
        if found == wanted {
            return Ok(());
        }
        Err(format!("{} lists {found:?}, not {wanted:?}", self.name()))
    }

    /// Its record of an instance.
    pub fn record(&self, host: &str, id: &str) -> Option<LegacyRecord> {
        let membership = self.shared().membership();
        let mut records = membership.catalog.records();
        records
            .find(|record| record.hostname == host && record.id == id)
            .cloned()
    }

    /// The instances it lists of a service, sorted by host.
    pub fn instances(&self, service: &str) -> Vec<Instance> {
        let membership = self.shared().membership();
        let records = membership.catalog.records();
        let mut instances: Vec<Instance> = records
            .filter(|record| record.name == service)
            .map(|record| Instance {
                host: record.hostname.clone(),
                status: Status::of(Some(record.status)),
                id: record.id.clone(),
            })
            .collect();
        instances.sort();
        instances
    }

    /// Whether the instances of a service are exactly these.
    ///
    /// # Errors
    /// With those it lists instead.
    pub fn expect_instances(&self, service: &str, wanted: &[(&str, Status)]) -> Result<(), String> {
        let found = self.instances(service);
        let mut found: Vec<_> = found.iter().map(|i| (i.host.as_str(), i.status)).collect();
        let mut wanted = wanted.to_vec();
        found.sort();
        wanted.sort();
        if found == wanted {
            return Ok(());
        }
        Err(format!(
            "{} lists {found:?} of {service}, not {wanted:?}",
            self.name()
        ))
    }
}

impl Drop for LegacyPeer {
    fn drop(&mut self) {
        if thread::panicking() {
            // The sockets go with the threads; there is another failure to report already.
            if let Some(running) = &self.running {
                running.shared.stop.store(true, Ordering::SeqCst);
            }
            return;
        }
        self.kill();
    }
}

fn check(shared: &Shared, name: &str) {
    let failure = shared
        .failure
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if let Some(problem) = &*failure {
        panic!("the Go program on {name} could not digest this: {problem}");
    }
}

/// A record as Docker discovery of the program makes it.
fn record(host: &str, ip: Ipv4Addr, id: &str, service: &str, status: Status) -> LegacyRecord {
    let now = stamp::format(catalog::nanos_now());
    LegacyRecord {
        id: id.to_owned(),
        name: service.to_owned(),
        image: format!("lab/{service}:1.0.0"),
        created: now.clone(),
        hostname: host.to_owned(),
        ports: Some(vec![LegacyPort {
            kind: "tcp".to_owned(),
            port: 32_768,
            service_port: 0,
            ip: ip.to_string(),
        }]),
        updated: now,
        proxy_mode: "http".to_owned(),
        status: status as i64,
    }
}

fn serve_datagrams(shared: &Arc<Shared>, socket: &UdpSocket) {
    let beat = socket.set_read_timeout(Some(BEAT));
    beat.expect("a socket has a timeout");
    let mut buffer = vec![0; 65_536];
    while shared.runs() {
        let received = socket.recv_from(&mut buffer);
        let now = Instant::now();
        let mut membership = shared.membership();
        // An error is no news, or that an earlier datagram met nobody.
        if let Ok((length, from)) = received {
            shared.note(membership.datagram(from, &buffer[..length], now));
        }
        membership.tick(now);
        let out = std::mem::take(&mut membership.out);
        let dials = std::mem::take(&mut membership.dials);
        drop(membership);
        for (to, datagram) in out {
            // What does not arrive is what the protocol is made for.
            let _ = socket.send_to(&datagram, to);
        }
        for dial in dials {
            let shared = Arc::clone(shared);
            thread::spawn(move || carry_out(&shared, dial));
        }
    }
}

fn carry_out(shared: &Shared, dial: Dial) {
    // A partner that is not there is no mistake of anybody's.
    match dial {
        Dial::Exchange { to, join } => drop(exchange(shared, to, join)),
        Dial::Ping { to, message } => {
            if let Ok(StreamMessage::Ack { seq_no }) = ask(shared, to, &message) {
                shared.membership().acked(seq_no);
            }
        }
    }
}

fn exchange(shared: &Shared, to: SocketAddr, join: bool) -> io::Result<()> {
    let ours = shared.membership().exchange(join);
    let ours = wire::stream(&StreamMessage::Exchange(ours), &shared.cluster);
    match ask(shared, to, &ours)? {
        StreamMessage::Exchange(theirs) => {
            let merged = shared.membership().merge(theirs, Instant::now());
            shared.note(merged.map_err(|problem| format!("state of {to}: {problem}")));
            Ok(())
        }
        other => {
            shared.note(Err(format!("{to} answers a state by {other:?}")));
            Err(ErrorKind::InvalidData.into())
        }
    }
}

/// One request, one answer, one connection.
fn ask(shared: &Shared, to: SocketAddr, request: &[u8]) -> io::Result<StreamMessage> {
    let mut stream = shared.network.connect(to)?;
    stream.write_all(request)?;
    read(shared, &mut stream)
}

fn read(shared: &Shared, stream: &mut TcpStream) -> io::Result<StreamMessage> {
    stream.set_read_timeout(Some(STREAM))?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 16_384];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        bytes.extend(&buffer[..length]);
        match wire::read_stream(&bytes, &shared.cluster) {
            Ok(message) => return Ok(message),
            Err(Problem::Short) => {}
            Err(problem) => {
                let peer = stream.peer_addr()?;
                shared.note(Err(format!("stream of {peer}: {problem}: {bytes:02x?}")));
                return Err(ErrorKind::InvalidData.into());
            }
        }
    }
}

fn serve_streams(shared: &Arc<Shared>, listener: &TcpListener) {
    let nonblocking = listener.set_nonblocking(true);
    nonblocking.expect("a listener need not block");
    while shared.runs() {
        match listener.accept() {
            Ok((stream, _)) => {
                let shared = Arc::clone(shared);
                // A partner that goes away in the middle is no mistake of anybody's.
                thread::spawn(move || drop(serve_stream(&shared, stream)));
            }
            Err(_) => thread::sleep(BEAT),
        }
    }
}

fn serve_stream(shared: &Shared, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let request = read(shared, &mut stream)?;
    let shown = format!("{request:?}");
    let answer = shared.membership().stream(request, Instant::now());
    match answer {
        Ok(Some(answer)) => {
            stream.write_all(&wire::stream(&answer, &shared.cluster))?;
            // Who asked closes first.
            let mut rest = [0; 1];
            stream.read(&mut rest).map(drop)
        }
        Ok(None) => Ok(()),
        Err(problem) => {
            shared.note(Err(format!("{problem}: {shown}")));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
