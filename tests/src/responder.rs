//! A service whose answers the test decides: a health endpoint that fails on command, and tells how
//! often and when it was asked.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use crate::{host::Host, lab::Lab};

/// What a path answers.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Answer {
    /// 200 with a body.
    pub fn ok(body: &str) -> Self {
        Self {
            status: 200,
            body: body.to_owned(),
        }
    }

    /// A status without words.
    pub fn status(status: u16) -> Self {
        Self {
            status,
            body: format!("{status}\n"),
        }
    }
}

#[derive(Debug, Default)]
struct Script {
    answers: HashMap<String, Answer>,
    asked: HashMap<String, Vec<Instant>>,
    closed: bool,
}

/// A listening service on a host. Paths without a set answer give 200 and the path.
#[derive(Debug)]
pub struct Responder {
    /// Where it listens.
    pub at: SocketAddr,
    script: Arc<Mutex<Script>>,
    host: Arc<Host>,
}

impl Responder {
    /// # Panics
    /// When the address is taken.
    pub fn start(host: &Arc<Host>, at: SocketAddr) -> Self {
        let listener = host.listen(at);
        let script = Arc::new(Mutex::new(Script::default()));
        let shared = Arc::clone(&script);
        thread::spawn(move || serve(&listener, &shared));
        Self {
            at,
            script,
            host: Arc::clone(host),
        }
    }

    /// One on each host of a lab, which answers `/` with the host's name.
    ///
    /// # Panics
    /// When the port is taken.
    pub fn on_each(lab: &Lab, port: u16) -> Vec<Self> {
        let services = lab.hosts().iter().map(|host| {
            let service = Self::start(host, (Ipv4Addr::UNSPECIFIED, port).into());
            service.set("/", Answer::ok(&host.name));
            service
        });
        services.collect()
    }

    /// From now on `path` answers so.
    pub fn set(&self, path: &str, answer: Answer) {
        lock(&self.script).answers.insert(path.to_owned(), answer);
    }

    /// When `path` was asked for, oldest first.
    pub fn asked(&self, path: &str) -> Vec<Instant> {
        lock(&self.script)
            .asked
            .get(path)
            .cloned()
            .unwrap_or_default()
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        lock(&self.script).closed = true;
        // One more connection lets the waiting thread see it.
        let _ = self.host.connect(self.at);
    }
}

fn lock(script: &Mutex<Script>) -> MutexGuard<'_, Script> {
    script.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(listener: &TcpListener, script: &Arc<Mutex<Script>>) {
    for stream in listener.incoming() {
        if lock(script).closed {
            return;
        }
        let (Ok(stream), script) = (stream, Arc::clone(script)) else {
            continue;
        };
        thread::spawn(move || {
            // A client that goes away in the middle is its own affair.
            let _ = answer(stream, &script);
        });
    }
}

fn answer(mut stream: TcpStream, script: &Mutex<Script>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut header = String::from("-");
        while !header.trim_end().is_empty() {
            header.clear();
            if reader.read_line(&mut header)? == 0 {
                return Ok(());
            }
        }
        let path = request.split(' ').nth(1).unwrap_or("/").to_owned();
        let answer = {
            let mut script = lock(script);
            script
                .asked
                .entry(path.clone())
                .or_default()
                .push(Instant::now());
            script
                .answers
                .get(&path)
                .cloned()
                .unwrap_or_else(|| Answer::ok(&format!("{path}\n")))
        };
        let text = format!(
            "HTTP/1.1 {} X\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{}",
            answer.status,
            answer.body.len(),
            answer.body
        );
        stream.write_all(text.as_bytes())?;
    }
}
