//! A host: one network namespace, seen from the test.

use std::{
    fs::{self, File},
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    process::Output,
    thread,
    time::Duration,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{
    events::EventStream,
    http::{Request, Response, Stream},
    tools,
};

/// How long one connection attempt or one read may take before the look at it counts as failed.
const PATIENCE: Duration = Duration::from_secs(3);

/// A host of the lab. What it opens, opens in its own network.
#[derive(Debug)]
pub struct Host {
    /// What the programs on it take for the host name.
    pub name: String,
    /// Its address on the lab's bridge.
    pub ip: Ipv4Addr,
    pub(crate) namespace: String,
    entrance: File,
}

impl Host {
    pub(crate) fn new(name: &str, ip: Ipv4Addr, namespace: String) -> Self {
        let path = format!("/run/netns/{namespace}");
        let entrance = File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        Self {
            name: name.to_owned(),
            ip,
            namespace,
            entrance,
        }
    }

    /// Does something in this host's network. A namespace belongs to a thread, so it is done in one
    /// of its own; a socket opened there stays there.
    pub fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    move_into_link_name_space(
                        self.entrance.as_fd(),
                        Some(LinkNameSpaceType::Network),
                    )
                    .unwrap_or_else(|error| panic!("cannot enter {}: {error}", self.namespace));
                    act()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// # Errors
    /// As the system says; refused is [`io::ErrorKind::ConnectionRefused`].
    pub fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let stream = self.within(|| TcpStream::connect_timeout(&to, PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// # Panics
    /// When the address is taken.
    pub fn listen(&self, at: SocketAddr) -> TcpListener {
        self.within(|| TcpListener::bind(at))
            .unwrap_or_else(|error| panic!("{} cannot listen at {at}: {error}", self.name))
    }

    /// A datagram socket at a port of the system's choice.
    ///
    /// # Panics
    /// When the system has none.
    pub fn datagrams(&self, at: SocketAddr) -> UdpSocket {
        self.within(|| UdpSocket::bind(at))
            .unwrap_or_else(|error| panic!("{} cannot bind {at}: {error}", self.name))
    }

    /// One request, one answer, one connection.
    ///
    /// # Errors
    /// When there is no connection or no complete answer.
    pub fn request(&self, to: SocketAddr, request: &Request<'_>) -> io::Result<Response> {
        Response::read(self.connect(to)?, request)
    }

    /// # Errors
    /// As [`Host::request`].
    pub fn get(&self, to: SocketAddr, path: &str) -> io::Result<Response> {
        self.request(to, &Request::get(path))
    }

    /// An answer that does not end, read document by document.
    ///
    /// # Errors
    /// When there is no connection or no answer's head.
    pub fn stream(&self, to: SocketAddr, path: &str) -> io::Result<Stream> {
        Stream::open(self.connect(to)?, path)
    }

    /// An answer that does not end, read event by event.
    ///
    /// # Errors
    /// As [`Host::stream`].
    pub fn events(
        &self,
        to: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> io::Result<EventStream> {
        EventStream::open(self.connect(to)?, path, headers)
    }

    /// A request whose answer nobody reads, as long as the connection is held.
    ///
    /// # Errors
    /// When there is no connection.
    pub fn stalled(&self, to: SocketAddr, path: &str) -> io::Result<TcpStream> {
        let mut stream = self.connect(to)?;
        Request::get(path).write(&mut stream)?;
        Ok(stream)
    }

    /// What a command of the machine writes on this host.
    ///
    /// # Errors
    /// With what it wrote to its standard error, when it fails.
    ///
    /// # Panics
    /// When it is not installed.
    pub fn try_said(&self, command: &[&str]) -> Result<String, String> {
        let output = self.run(command);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr))
        }
    }

    /// The same of one that does not fail.
    ///
    /// # Panics
    /// When it does, or is not installed.
    pub fn said(&self, command: &[&str]) -> String {
        self.try_said(command)
            .unwrap_or_else(|words| panic!("`{}` failed: {words}", command.join(" ")))
    }

    /// The processes of this host whose command line has this word, by number.
    pub fn processes(&self, word: &str) -> Vec<i32> {
        let listed = tools::output(&["ip", "netns", "pids", &self.namespace]).stdout;
        let listed = String::from_utf8_lossy(&listed).into_owned();
        let numbers = listed.split_whitespace().filter_map(|it| it.parse().ok());
        numbers
            .filter(|number: &i32| {
                let words = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
                words
                    .split(|byte| *byte == 0)
                    .any(|it| it == word.as_bytes())
            })
            .collect()
    }

    /// Runs a command on this host to its end.
    pub fn run(&self, command: &[&str]) -> Output {
        let entrance = format!("--net=/run/netns/{}", self.namespace);
        tools::require(command[0]);
        tools::output(&[&["nsenter", &entrance], command].concat())
    }
}
