//! Real sockets on loopback addresses. Each test binds an address of its own, so ports chosen by
//! one cannot be taken by another.

mod http;

use std::{collections::BTreeSet, net::Ipv4Addr};

use catalog::ProxyMode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::*;
use crate::routes::Endpoint;

/// Far longer than anything here takes; reached only when something hangs.
const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("no sign of {what}"))
}

/// A running data plane and its strings.
struct Rig {
    bind: IpAddr,
    routes: watch::Sender<Arc<Routes>>,
    status: watch::Receiver<Arc<PlaneStatus>>,
    shutdown: CancellationToken,
    plane: JoinHandle<()>,
}

impl Rig {
    fn start(last: u8, limits: Limits) -> Self {
        let options = Options {
            limits,
            ..Options::default()
        };
        Self::start_with(last, options)
    }

    fn start_with(last: u8, options: Options) -> Self {
        let bind = IpAddr::V4(Ipv4Addr::new(127, 77, 0, last));
        let (routes, routes_seen) = watch::channel(Arc::default());
        let (status_out, status) = watch::channel(Arc::default());
        let shutdown = CancellationToken::new();
        let plane = tokio::spawn(run(
            options,
            bind,
            routes_seen,
            status_out,
            shutdown.clone(),
        ));
        Self {
            bind,
            routes,
            status,
            shutdown,
            plane,
        }
    }

    /// A port that is free on the address of this test.
    async fn free_port(&self) -> u16 {
        TcpListener::bind((self.bind, 0))
            .await
            .unwrap()
            .local_addr()
            .unwrap()
            .port()
    }

    fn route(&self, port: u16, endpoints: &[SocketAddr]) {
        self.route_as(ProxyMode::Tcp, port, endpoints);
    }

    fn route_as(&self, mode: ProxyMode, port: u16, endpoints: &[SocketAddr]) {
        let mut routes = Routes::clone(&self.routes.borrow());
        let route = Route {
            mode,
            ..route("web", endpoints)
        };
        routes.by_port.insert(port, Arc::new(route));
        self.routes.send_replace(Arc::new(routes));
    }

    fn unroute(&self, port: u16) {
        let mut routes = Routes::clone(&self.routes.borrow());
        routes.by_port.remove(&port);
        self.routes.send_replace(Arc::new(routes));
    }

    async fn until(&mut self, what: &str, condition: impl Fn(&PlaneStatus) -> bool) -> PlaneStatus {
        let seen = soon(what, self.status.wait_for(|status| condition(status)))
            .await
            .unwrap();
        PlaneStatus::clone(&seen)
    }

    async fn listening(&mut self, port: u16) {
        self.until("a listener", |status| {
            status
                .ports
                .get(&port)
                .is_some_and(|it| it.listen == ListenState::Listening)
        })
        .await;
    }

    /// Waits until new connections to `port` go to exactly `endpoints`.
    async fn following(&mut self, port: u16, endpoints: &[SocketAddr]) {
        let wanted: BTreeSet<_> = endpoints.iter().copied().collect();
        self.until("the new endpoints", |status| {
            let seen = status.ports.get(&port).map(|it| &it.endpoints);
            seen.is_some_and(|seen| seen.iter().map(|it| it.address).eq(wanted.iter().copied()))
        })
        .await;
    }

    async fn connect(&self, port: u16) -> TcpStream {
        soon("a connection", TcpStream::connect((self.bind, port)))
            .await
            .unwrap()
    }

    /// One whole connection: what the endpoint answers to "hello".
    async fn ask(&self, port: u16) -> String {
        let mut client = self.connect(port).await;
        client.write_all(b"hello").await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        soon("an answer", client.read_to_string(&mut answer))
            .await
            .unwrap();
        answer
    }
}

/// Counts often, so that nobody waits for it.
fn quick() -> Limits {
    Limits {
        status_interval: Duration::from_millis(10),
        ..Limits::default()
    }
}

fn route(service: &str, endpoints: &[SocketAddr]) -> Route {
    let endpoint = |(at, address): (usize, &SocketAddr)| Endpoint {
        hostname: "host".into(),
        id: at.to_string(),
        address: *address,
        weight: 100,
    };
    Route {
        service: service.into(),
        mode: ProxyMode::Tcp,
        endpoints: endpoints.iter().enumerate().map(endpoint).collect(),
    }
}

/// An endpoint that echoes until it hears the end, and only then says its name and ends too.
async fn endpoint(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reading, mut writing) = stream.split();
                tokio::io::copy(&mut reading, &mut writing).await?;
                writing.write_all(name.as_bytes()).await?;
                writing.shutdown().await
            });
        }
    });
    address
}

/// An address where nobody listens, and nobody else can: the port stays bound while the guard lives,
/// and nothing else here uses the address.
fn dead_endpoint() -> (SocketAddr, socket2::Socket) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let wanted = SocketAddr::from(([127, 77, 1, 1], 0));
    socket.bind(&wanted.into()).unwrap();
    (socket.local_addr().unwrap().as_socket().unwrap(), socket)
}

#[tokio::test]
async fn connections_one_after_the_other_alternate() {
    let mut rig = Rig::start(1, quick());
    let port = rig.free_port().await;
    let mut endpoints = [endpoint("A").await, endpoint("B").await];
    endpoints.sort();
    rig.route(port, &endpoints);
    rig.listening(port).await;
    let mut answers = Vec::new();
    for _ in 0..10 {
        answers.push(rig.ask(port).await);
    }
    assert!(
        answers.windows(2).all(|pair| pair[0] != pair[1]),
        "{answers:?}"
    );
    let all_ended = |it: &PortStatus| (it.connections_total, it.connections_open) == (10, 0);
    let status = rig
        .until("the end of all", |status| all_ended(&status.ports[&port]))
        .await;
    let it = &status.ports[&port];
    assert_eq!((it.to_endpoints_bytes, it.to_clients_bytes), (50, 60));
    assert_eq!(
        it.endpoints
            .iter()
            .map(|it| it.connections_total)
            .collect::<Vec<_>>(),
        [5, 5]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_at_once_are_spread_evenly_and_lose_no_byte() {
    let mut rig = Rig::start(2, quick());
    let port = rig.free_port().await;
    let endpoints = [endpoint("A").await, endpoint("B").await];
    rig.route(port, &endpoints);
    rig.listening(port).await;

    let mut clients = Vec::new();
    for _ in 0..200 {
        clients.push(rig.connect(port).await);
    }
    let status = rig
        .until("200 connections", |status| {
            status.ports[&port]
                .endpoints
                .iter()
                .map(|it| it.connections_total)
                .sum::<u64>()
                == 200
        })
        .await;
    let open = status.ports[&port]
        .endpoints
        .iter()
        .map(|it| it.connections_open);
    assert_eq!(open.collect::<Vec<_>>(), [100, 100]);
    assert_eq!(status.connections_open, 200);

    let mut work = JoinSet::new();
    for (number, client) in clients.into_iter().enumerate() {
        work.spawn(async move {
            let sent: Vec<u8> = (0..200_000_usize)
                .map(|at| (at * 7 + number) as u8)
                .collect();
            let mut client = client;
            let (mut reading, mut writing) = client.split();
            let mut got = Vec::new();
            let sending = async {
                writing.write_all(&sent).await?;
                writing.shutdown().await
            };
            let (_, count) = tokio::try_join!(sending, reading.read_to_end(&mut got)).unwrap();
            assert_eq!(count, sent.len() + 1);
            assert!(
                got.starts_with(&sent),
                "bytes of connection {number} arrived changed"
            );
        });
    }
    soon("all answers", work.join_all()).await;
    let status = rig
        .until("the end of all", |status| status.connections_open == 0)
        .await;
    let port = &status.ports[&port];
    let sent = port.endpoints.iter().map(|it| it.sent_bytes).sum::<u64>();
    assert_eq!((sent, port.to_endpoints_bytes), (40_000_000, 40_000_000));
    let received = port.endpoints.iter().map(|it| it.received_bytes);
    assert_eq!(received.sum::<u64>(), 200 * 200_001);
}

#[tokio::test]
async fn unreachable_endpoint_is_passed_over_and_avoided() {
    let mut rig = Rig::start(3, quick());
    let port = rig.free_port().await;
    let (dead, _held) = dead_endpoint();
    let alive = endpoint("A").await;
    rig.route(port, &[dead, alive]);
    rig.listening(port).await;
    for _ in 0..4 {
        assert_eq!(rig.ask(port).await, "helloA");
    }
    let status = rig
        .until("all counts", |status| {
            status.ports[&port].to_clients_bytes == 24
        })
        .await;
    let it = &status.ports[&port];
    assert!(
        (1..4).contains(&it.connect_failures),
        "asked last: {}",
        it.connect_failures
    );
    assert_eq!(it.connections_unserved, 0);
    let view = it.endpoints.iter().find(|it| it.address == dead).unwrap();
    assert_eq!(view.connect_failures, it.connect_failures);
}

#[tokio::test]
async fn client_is_reset_when_no_endpoint_answers() {
    let mut rig = Rig::start(4, quick());
    let port = rig.free_port().await;
    let ((one, held_one), (two, _held_two)) = (dead_endpoint(), dead_endpoint());
    rig.route(port, &[one, two]);
    rig.listening(port).await;
    let mut client = rig.connect(port).await;
    let error = soon("the end", client.read(&mut [0; 8])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let status = rig
        .until("the count", |status| {
            status.ports[&port].connections_unserved == 1
        })
        .await;
    assert_eq!(
        status.ports[&port].connect_failures, 2,
        "each endpoint was tried once"
    );

    // Nothing else is there, so an endpoint that returns serves although it is asked last.
    drop(held_one);
    let returned = TcpListener::bind(one).await.unwrap();
    let _client = rig.connect(port).await;
    soon("the connection at the endpoint", returned.accept())
        .await
        .unwrap();
}

#[tokio::test]
async fn long_connection_outlives_its_endpoint_and_its_route() {
    let mut rig = Rig::start(5, quick());
    let port = rig.free_port().await;
    let (old, new) = (endpoint("old").await, endpoint("new").await);
    rig.route(port, &[old]);
    rig.listening(port).await;
    let mut long = rig.connect(port).await;
    exchange(&mut long).await;

    rig.route(port, &[new]);
    rig.following(port, &[new]).await;
    assert_eq!(rig.ask(port).await, "hellonew");
    exchange(&mut long).await;

    rig.unroute(port);
    rig.until("the end of the route", |status| status.ports.is_empty())
        .await;
    let refused = TcpStream::connect((rig.bind, port)).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    exchange(&mut long).await;

    // The port can be had again at once, although a connection of its former life lasts.
    rig.route(port, &[new]);
    rig.listening(port).await;
    assert_eq!(rig.ask(port).await, "hellonew");
    exchange(&mut long).await;
    long.shutdown().await.unwrap();
    let mut rest = String::new();
    soon("the end", long.read_to_string(&mut rest))
        .await
        .unwrap();
    assert_eq!(rest, "old");
}

async fn exchange(stream: &mut TcpStream) {
    stream.write_all(b"ping").await.unwrap();
    let mut answer = [0; 4];
    soon("an echo", stream.read_exact(&mut answer))
        .await
        .unwrap();
    assert_eq!(&answer, b"ping");
}

#[tokio::test]
async fn each_side_can_end_its_half_alone() {
    let mut rig = Rig::start(6, quick());
    let port = rig.free_port().await;
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    rig.route(port, &[server.local_addr().unwrap()]);
    rig.listening(port).await;

    let mut client = rig.connect(port).await;
    let (mut served, _) = soon("the connection", server.accept()).await.unwrap();
    served.write_all(b"bye").await.unwrap();
    served.shutdown().await.unwrap();
    let mut got = Vec::new();
    soon("the server's end", client.read_to_end(&mut got))
        .await
        .unwrap();
    assert_eq!(got, b"bye");
    client.write_all(b"still here").await.unwrap();
    client.shutdown().await.unwrap();
    got.clear();
    soon("the client's end", served.read_to_end(&mut got))
        .await
        .unwrap();
    assert_eq!(got, b"still here");
}

#[tokio::test]
async fn broken_connection_does_not_look_complete() {
    let mut rig = Rig::start(7, quick());
    let port = rig.free_port().await;
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    rig.route(port, &[server.local_addr().unwrap()]);
    rig.listening(port).await;
    let mut client = rig.connect(port).await;
    let (mut served, _) = soon("the connection", server.accept()).await.unwrap();
    served.write_all(b"half of").await.unwrap();
    client.read_exact(&mut [0; 7]).await.unwrap();
    served.set_zero_linger().unwrap();
    drop(served);
    let error = soon("the reset", client.read(&mut [0; 8]))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn taken_port_is_reported_and_served_once_it_is_free() {
    let mut rig = Rig::start(8, quick());
    let squatter = TcpListener::bind((rig.bind, 0)).await.unwrap();
    let taken = squatter.local_addr().unwrap();
    let other = rig.free_port().await;
    let echo = endpoint("A").await;
    rig.route(taken.port(), &[echo]);
    rig.route(other, &[echo]);
    let failed = ListenState::Failed(ListenError::InUse { address: taken });
    rig.until("the report", |status| {
        status
            .ports
            .get(&taken.port())
            .is_some_and(|it| it.listen == failed)
    })
    .await;
    rig.listening(other).await;
    assert_eq!(rig.ask(other).await, "helloA", "everything else works");

    drop(squatter);
    rig.listening(taken.port()).await;
    assert_eq!(rig.ask(taken.port()).await, "helloA");
}

#[tokio::test]
async fn missing_address_is_reported_as_such() {
    let (routes, routes_seen) = watch::channel(Arc::default());
    let (status_out, mut status) = watch::channel(Arc::<PlaneStatus>::default());
    // Of a block reserved for documentation: no interface has it.
    let address = SocketAddr::from(([192, 0, 2, 1], 8080));
    let shutdown = CancellationToken::new();
    let options = Options {
        limits: quick(),
        ..Options::default()
    };
    let plane = tokio::spawn(run(
        options,
        address.ip(),
        routes_seen,
        status_out,
        shutdown.clone(),
    ));
    let by_port = BTreeMap::from([(8080, Arc::new(route("web", &[address])))]);
    routes.send_replace(Arc::new(Routes {
        by_port,
        excluded: Vec::new(),
    }));
    let failed = ListenState::Failed(ListenError::NoSuchAddress { address });
    let seen = status.wait_for(|it| it.ports.get(&8080).is_some_and(|it| it.listen == failed));
    soon("the report", seen).await.unwrap();
    shutdown.cancel();
    soon("the end", plane).await.unwrap();
}

#[tokio::test]
async fn proxy_never_connects_to_itself() {
    let mut rig = Rig::start(9, quick());
    let port = rig.free_port().await;
    let own = SocketAddr::new(rig.bind, port);
    let alive = endpoint("A").await;
    rig.route(port, &[own, alive]);
    rig.listening(port).await;
    for _ in 0..3 {
        assert_eq!(rig.ask(port).await, "helloA");
    }
    let everywhere = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    assert!(is_listener(
        everywhere(80),
        SocketAddr::from(([127, 0, 0, 9], 80))
    ));
    assert!(!is_listener(
        everywhere(80),
        SocketAddr::from(([127, 0, 0, 9], 81))
    ));
    assert!(!is_listener(
        everywhere(80),
        SocketAddr::from(([10, 0, 0, 9], 80))
    ));
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_their_turn() {
    let mut rig = Rig::start(
        10,
        Limits {
            connections_max: 2,
            ..quick()
        },
    );
    let port = rig.free_port().await;
    rig.route(port, &[endpoint("A").await]);
    rig.listening(port).await;
    let (mut one, mut two) = (rig.connect(port).await, rig.connect(port).await);
    exchange(&mut one).await;
    exchange(&mut two).await;
    let mut three = rig.connect(port).await;
    three.write_all(b"ping").await.unwrap();
    exchange(&mut one).await;
    let status = rig
        .until("two", |status| status.connections_open == 2)
        .await;
    assert_eq!(status.ports[&port].connections_total, 2);
    drop(one);
    let mut answer = [0; 4];
    soon("its turn", three.read_exact(&mut answer))
        .await
        .unwrap();
    assert_eq!(&answer, b"ping");
}

#[tokio::test]
async fn shutdown_closes_listeners_at_once_and_lets_connections_finish() {
    let mut rig = Rig::start(
        11,
        Limits {
            drain_deadline: PATIENCE,
            ..quick()
        },
    );
    let port = rig.free_port().await;
    rig.route(port, &[endpoint("A").await]);
    rig.listening(port).await;
    let mut client = rig.connect(port).await;
    exchange(&mut client).await;
    rig.shutdown.cancel();
    rig.until("closed listeners", |status| status.ports.is_empty())
        .await;
    let refused = TcpStream::connect((rig.bind, port)).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    exchange(&mut client).await;
    assert!(!rig.plane.is_finished());
    client.shutdown().await.unwrap();
    let mut rest = String::new();
    soon("the end", client.read_to_string(&mut rest))
        .await
        .unwrap();
    assert_eq!(rest, "A");
    soon("the plane's end", rig.plane).await.unwrap();
    assert_eq!(rig.status.borrow().connections_open, 0);
}

#[tokio::test]
async fn drain_ends_at_its_deadline() {
    let mut rig = Rig::start(
        12,
        Limits {
            drain_deadline: Duration::from_millis(50),
            ..quick()
        },
    );
    let port = rig.free_port().await;
    rig.route(port, &[endpoint("A").await]);
    rig.listening(port).await;
    let mut client = rig.connect(port).await;
    exchange(&mut client).await;
    rig.shutdown.cancel();
    soon("the plane's end", rig.plane).await.unwrap();
    let error = soon("the reset", client.read(&mut [0; 8]))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn routes_outlive_their_sender() {
    let mut rig = Rig::start(13, quick());
    let port = rig.free_port().await;
    rig.route(port, &[endpoint("A").await]);
    rig.listening(port).await;
    rig.routes = watch::channel(Arc::default()).0;
    assert_eq!(rig.ask(port).await, "helloA");
    rig.shutdown.cancel();
    soon("the plane's end", rig.plane).await.unwrap();
}

#[tokio::test]
async fn silent_endpoint_is_given_up_after_the_timeout_for_the_next() {
    let limits = Limits {
        connect_timeout: Duration::from_millis(20),
        ..quick()
    };
    let mut rig = Rig::start(14, limits);
    let port = rig.free_port().await;
    // A listener that accepts nothing, its backlog full: the kernel drops further requests.
    let silent = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket2::SockRef::from(&silent).listen(0).unwrap();
    let address = silent.local_addr().unwrap();
    let mut fillers = Vec::new();
    let brief = Duration::from_millis(200);
    while let Ok(filler) = tokio::time::timeout(brief, TcpStream::connect(address)).await {
        fillers.push(filler.unwrap());
        assert!(fillers.len() < 100, "the backlog has no end");
    }
    let alive = endpoint("A").await;
    rig.route(port, &[address, alive]);
    rig.listening(port).await;
    for _ in 0..2 {
        assert_eq!(rig.ask(port).await, "helloA");
    }
    rig.until("the failure", |status| {
        status.ports[&port].connect_failures == 1
    })
    .await;
}
