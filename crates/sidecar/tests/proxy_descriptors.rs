//! The built-in data plane when the process has no file descriptor left. In a file of its own
//! because the limit is the whole process's.

use std::{collections::BTreeMap, fs::File, net::SocketAddr, sync::Arc, time::Duration};

use catalog::ProxyMode;
use rustix::process::{Resource, Rlimit, setrlimit};
use sidecar::{
    proxy::builtin::{self, Limits, ListenState},
    routes::{Endpoint, Route, Routes},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn without_descriptors_the_proxy_waits_and_then_serves() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = server.local_addr().unwrap();
    let free = TcpListener::bind("127.77.1.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let (routes, _keep) = routes_to(endpoint, free.port());
    let (status_out, mut status) = watch::channel(Arc::default());
    let limits = Limits {
        status_interval: Duration::from_millis(10),
        ..Limits::default()
    };
    let shutdown = CancellationToken::new();
    let options = builtin::Options {
        limits,
        ..builtin::Options::default()
    };
    let plane = builtin::run(options, free.ip(), routes, status_out, shutdown.clone());
    let plane = tokio::spawn(plane);
    let listening = status.wait_for(|it| {
        it.ports
            .get(&free.port())
            .is_some_and(|it| it.listen == ListenState::Listening)
    });
    drop(timeout(PATIENCE, listening).await.unwrap().unwrap());

    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(128),
            maximum: Some(128),
        },
    )
    .unwrap();
    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
        assert!(files.len() < 1000, "the limit does not hold");
    }
    // One for the client; the proxy finds none.
    files.pop();
    let mut client = TcpStream::connect(free).await.unwrap();
    client.write_all(b"patience").await.unwrap();
    let start = Instant::now();
    let seen = timeout(PATIENCE, status.wait_for(|it| it.accept_failures >= 5))
        .await
        .unwrap();
    let failures = seen.unwrap().accept_failures;
    let most = start.elapsed().as_millis() / 50 + 2;
    assert!(
        u128::from(failures) <= most,
        "{failures} attempts, more than {most}: it spins"
    );

    files.clear();
    let (mut served, _) = timeout(PATIENCE, server.accept()).await.unwrap().unwrap();
    let mut got = [0; 8];
    timeout(PATIENCE, served.read_exact(&mut got))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&got, b"patience");
    drop((client, served));
    shutdown.cancel();
    timeout(PATIENCE, plane).await.unwrap().unwrap();
}

fn routes_to(
    address: SocketAddr,
    port: u16,
) -> (watch::Receiver<Arc<Routes>>, watch::Sender<Arc<Routes>>) {
    let endpoint = Endpoint {
        hostname: "host".into(),
        id: "1".into(),
        address,
        weight: 100,
    };
    let route = Route {
        service: "web".into(),
        mode: ProxyMode::Tcp,
        endpoints: vec![endpoint],
    };
    let by_port = BTreeMap::from([(port, Arc::new(route))]);
    let (sender, receiver) = watch::channel(Arc::new(Routes {
        by_port,
        excluded: Vec::new(),
    }));
    (receiver, sender)
}
