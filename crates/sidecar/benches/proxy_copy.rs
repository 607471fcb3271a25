//! Wall-clock speed of the built-in proxy as ratios to a direct connection and, where the `haproxy`
//! program is installed, to HAProxy in tcp mode: all measured in this run, on loopback, taking
//! turns. Run with `cargo bench -p sidecar --bench proxy_copy`.
//!
//! What is measured: whole connections (connect, 64 bytes there and back, close) by 16 clients at
//! once, round trips of 64 bytes on one open connection, and bulk download on one connection, in bytes
//! per second and per second of the proxy's processor time.
//! Clients, endpoint and proxy share the machine's processors, so the ratios understate a proxy
//! that has some of its own.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use catalog::ProxyMode;
use sidecar::{
    proxy::builtin::{self, ListenState},
    routes::{Endpoint, Route, Routes},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::watch,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

const ROUNDS: usize = 5;
const CONNECTIONS: usize = 4_000;
const CLIENTS: usize = 16;
const ROUND_TRIPS: usize = 20_000;
const BULK_BYTES: u64 = 1 << 30;
const SMALL: usize = 64;
const PROXY_THREADS: &str = "proxy";

fn main() {
    // Three runtimes, so that the proxy does not ride on the threads of its client.
    let runtime = |name: &str| {
        tokio::runtime::Builder::new_multi_thread()
            .thread_name(name)
            .enable_all()
            .build()
            .unwrap()
    };
    let (clients, endpoints) = (runtime("clients"), runtime("endpoints"));
    let proxy = runtime(PROXY_THREADS);
    let endpoint = endpoints.block_on(serve());
    let mut ways = vec![("direct", endpoint)];
    let shutdown = CancellationToken::new();
    ways.push(("builtin", start_builtin(&proxy, endpoint, &shutdown)));
    let haproxy = Haproxy::start(&clients, endpoint);
    match &haproxy {
        Some(haproxy) => ways.push(("haproxy", haproxy.address)),
        None => println!("haproxy is not installed: no peer beside the direct connection"),
    }

    report("connections/s", &ways, |address| {
        clients.block_on(connections(address))
    });
    report("round trips/s", &ways, |address| {
        clients.block_on(round_trips(address))
    });
    report("download MB/s", &ways, |address| {
        clients.block_on(download(address))
    });
    if let Some(haproxy) = &haproxy {
        let per_second = |time: &dyn Fn() -> Duration, address| {
            let before = time();
            clients.block_on(download(address));
            BULK_BYTES as f64 / 1e6 / (time() - before).as_secs_f64()
        };
        let ways = [&ways[1..2], &ways[2..3]].concat();
        report("MB/CPU second", &ways, |address| {
            if address == haproxy.address {
                per_second(&|| haproxy.processor_time(), address)
            } else {
                per_second(&own_threads_time, address)
            }
        });
    }
    shutdown.cancel();
}

/// The median of several rounds for each way, the ways taking turns.
fn report(what: &str, ways: &[(&str, SocketAddr)], measure: impl Fn(SocketAddr) -> f64) {
    let mut results = vec![Vec::new(); ways.len()];
    for _ in 0..ROUNDS {
        for (result, (_, address)) in results.iter_mut().zip(ways) {
            result.push(measure(*address));
        }
    }
    let medians: Vec<f64> = results
        .iter_mut()
        .map(|result| {
            result.sort_by(f64::total_cmp);
            result[ROUNDS / 2]
        })
        .collect();
    for ((name, _), median) in ways.iter().zip(&medians) {
        println!(
            "{what:14} {name:8} {median:12.0}   {:5.2} of {}",
            median / medians[0],
            ways[0].0
        );
    }
    if let [.., builtin, haproxy] = medians[..] {
        println!("{what:14} builtin is {:.2} of haproxy", builtin / haproxy);
    }
}

/// An endpoint: the first byte of a connection says whether it echoes or sends in bulk.
async fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    address
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    if stream.read_u8().await? == b'e' {
        let (mut reading, mut writing) = stream.split();
        tokio::io::copy(&mut reading, &mut writing).await?;
        return writing.shutdown().await;
    }
    let block = vec![7; 256 * 1024];
    let mut left = BULK_BYTES;
    while left > 0 {
        stream.write_all(&block).await?;
        left -= block.len() as u64;
    }
    stream.shutdown().await
}

async fn open(address: SocketAddr, kind: u8) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_u8(kind).await.unwrap();
    stream
}

async fn connections(address: SocketAddr) -> f64 {
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(async move {
            for _ in 0..CONNECTIONS / CLIENTS {
                let mut stream = open(address, b'e').await;
                stream.write_all(&[1; SMALL]).await.unwrap();
                stream.shutdown().await.unwrap();
                let mut got = Vec::with_capacity(SMALL);
                stream.read_to_end(&mut got).await.unwrap();
                assert_eq!(got.len(), SMALL);
            }
        });
    }
    clients.join_all().await;
    CONNECTIONS as f64 / start.elapsed().as_secs_f64()
}

async fn round_trips(address: SocketAddr) -> f64 {
    let mut stream = open(address, b'e').await;
    let mut got = [0; SMALL];
    let start = Instant::now();
    for _ in 0..ROUND_TRIPS {
        stream.write_all(&[1; SMALL]).await.unwrap();
        stream.read_exact(&mut got).await.unwrap();
    }
    ROUND_TRIPS as f64 / start.elapsed().as_secs_f64()
}

async fn download(address: SocketAddr) -> f64 {
    let mut stream = open(address, b'b').await;
    let mut block = vec![0; 256 * 1024];
    let mut got = 0;
    let start = Instant::now();
    loop {
        match stream.read(&mut block).await.unwrap() {
            0 => break,
            count => got += count as u64,
        }
    }
    assert_eq!(got, BULK_BYTES);
    got as f64 / 1e6 / start.elapsed().as_secs_f64()
}

/// An address of 127.88/16 with a port nobody has there.
fn free_address(last: u8) -> SocketAddr {
    let wanted = SocketAddr::from(([127, 88, 0, last], 0));
    std::net::TcpListener::bind(wanted)
        .unwrap()
        .local_addr()
        .unwrap()
}

fn start_builtin(runtime: &Runtime, to: SocketAddr, shutdown: &CancellationToken) -> SocketAddr {
    let address = free_address(1);
    let endpoint = Endpoint {
        hostname: "host".into(),
        id: "1".into(),
        address: to,
        weight: 100,
    };
    let route = Route {
        service: "it".into(),
        mode: ProxyMode::Tcp,
        endpoints: vec![endpoint],
    };
    let by_port = BTreeMap::from([(address.port(), Arc::new(route))]);
    let (_, routes) = watch::channel(Arc::new(Routes {
        by_port,
        excluded: Vec::new(),
    }));
    let (status_out, mut status) = watch::channel(Arc::default());
    runtime.spawn(builtin::run(
        builtin::Options::default(),
        address.ip(),
        routes,
        status_out,
        shutdown.clone(),
    ));
    runtime.block_on(async {
        let listening = status.wait_for(|it: &Arc<builtin::PlaneStatus>| {
            it.ports
                .values()
                .any(|it| it.listen == ListenState::Listening)
        });
        drop(
            tokio::time::timeout(Duration::from_secs(10), listening)
                .await
                .unwrap()
                .unwrap(),
        );
    });
    address
}

/// The processor time of this process's proxy threads so far.
fn own_threads_time() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    threads
        .map(|it| it.unwrap().path())
        .filter(|it| std::fs::read_to_string(it.join("comm")).unwrap().trim() == PROXY_THREADS)
        .map(|it| processor_time(&it.join("stat")))
        .sum()
}

fn processor_time(stat: &Path) -> Duration {
    let text = std::fs::read_to_string(stat).unwrap();
    let rest = text.rsplit_once(") ").unwrap().1;
    let words = rest.split_whitespace().skip(11).take(2);
    let ticks: u64 = words.map(|it| it.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

/// A HAProxy of this run; ends with it.
struct Haproxy {
    address: SocketAddr,
    child: Child,
    _directory: tempfile::TempDir,
}

impl Haproxy {
    fn start(runtime: &Runtime, to: SocketAddr) -> Option<Self> {
        let address = free_address(2);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("haproxy.cfg");
        let config = format!(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n\
             frontend it\n  bind {address}\n  default_backend it\n\
             backend it\n  balance leastconn\n  server it {to}\n"
        );
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new("haproxy");
        command
            .arg("-db")
            .arg("-f")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().ok()?;
        let this = Self {
            address,
            child,
            _directory: directory,
        };
        runtime.block_on(async {
            let deadline = Instant::now() + Duration::from_secs(10);
            while TcpStream::connect(address).await.is_err() {
                assert!(Instant::now() < deadline, "haproxy does not listen");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Some(this)
    }
}

impl Haproxy {
    fn processor_time(&self) -> Duration {
        processor_time(Path::new(&format!("/proc/{}/stat", self.child.id())))
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        // It may have ended by itself; there is nothing left to do then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
