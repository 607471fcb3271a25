//! The server as clients see it, over real connections.

use std::collections::BTreeSet;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use tonic::transport::Channel;

use super::*;

const WITHIN: Duration = Duration::from_secs(20);

struct Server {
    address: SocketAddr,
    resources: watch::Sender<Option<Arc<Resources>>>,
    all: Resources,
    board: Arc<Board>,
    shutdown: CancellationToken,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Server {
    async fn start() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let (resources, published) = watch::channel(None);
        let (board, shutdown) = (Arc::new(Board::default()), CancellationToken::new());
        let task = run(
            address,
            "here".to_owned(),
            published,
            board.clone(),
            shutdown.clone(),
        );
        tokio::spawn(task);
        Self {
            address,
            resources,
            all: Resources::default(),
            board,
            shutdown,
        }
    }

    async fn channel(&self) -> Channel {
        let url = format!("http://{}", self.address);
        tokio::time::timeout(WITHIN, async {
            loop {
                if let Ok(channel) = Channel::from_shared(url.clone()).unwrap().connect().await {
                    return channel;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("it listens")
    }

    fn publish(&mut self, changes: &[(Kind, &str, Option<&str>)]) {
        self.all.apply(changes.iter().map(|(kind, name, content)| {
            let name: Arc<str> = Arc::from(*name);
            let resource = content.map(|it| Resource::new(&name, it.as_bytes().to_vec()));
            (*kind, name, resource)
        }));
        self.resources
            .send_replace(Some(Arc::new(self.all.clone())));
    }

    async fn until(&self, what: &str, holds: impl Fn(&super::super::EnvoyStatus) -> bool) {
        let wait = async {
            while !holds(&self.board.status()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let done = tokio::time::timeout(WITHIN, wait).await;
        done.unwrap_or_else(|_| panic!("{what}: {:?}", self.board.status()));
    }
}

/// A client that speaks delta.
struct Client {
    sender: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Client {
    async fn open(channel: Channel, node: &str) -> Result<Self, Status> {
        let (sender, requests) = mpsc::channel(16);
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        sender.send(request(Kind::Cluster, node)).await.unwrap();
        let responses = client
            .delta_aggregated_resources(ReceiverStream::new(requests))
            .await?
            .into_inner();
        Ok(Self { sender, responses })
    }

    async fn next(&mut self) -> DeltaDiscoveryResponse {
        let next = tokio::time::timeout(WITHIN, self.responses.message()).await;
        next.expect("in time").unwrap().expect("the stream goes on")
    }

    async fn say(&self, request: DeltaDiscoveryRequest) {
        self.sender.send(request).await.unwrap();
    }

    async fn answer(&self, response: &DeltaDiscoveryResponse, error: Option<&str>) {
        let answer = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: error.map(|words| rpc::Status {
                code: 3,
                message: words.to_owned(),
                ..rpc::Status::default()
            }),
            ..DeltaDiscoveryRequest::default()
        };
        self.say(answer).await;
    }
}

fn request(kind: Kind, node: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.type_url(),
        node: Some(Node {
            id: node.to_owned(),
            ..Node::default()
        }),
        ..DeltaDiscoveryRequest::default()
    }
}

fn names(response: &DeltaDiscoveryResponse) -> BTreeSet<&str> {
    response
        .resources
        .iter()
        .map(|it| it.name.as_str())
        .collect()
}

#[tokio::test]
async fn whoever_asks_is_answered_an_empty_catalogue_too_but_not_before_routing_begins() {
    let mut server = Server::start().await;
    let channel = server.channel().await;
    let mut clients = Vec::new();
    for node in ["web-01", "somebody else", ""] {
        clients.push(Client::open(channel.clone(), node).await.unwrap());
    }
    server
        .until("all are there", |it| it.streams.len() == 3)
        .await;
    assert!(server.board.status().responses.is_empty());
    server.publish(&[]);
    for client in &mut clients {
        let response = client.next().await;
        assert_eq!(
            (response.type_url.clone(), response.resources.len()),
            (Kind::Cluster.type_url(), 0)
        );
        client.answer(&response, None).await;
    }
    server
        .until("all have it", |it| it.acks.get("cluster") == Some(&3))
        .await;
    let nodes: BTreeSet<_> = server
        .board
        .status()
        .streams
        .into_iter()
        .map(|it| it.node)
        .collect();
    assert_eq!(
        nodes,
        ["", "somebody else", "web-01"].map(String::from).into()
    );
    // Who goes is not shown any more.
    clients.pop();
    server
        .until("one is gone", |it| it.streams.len() == 2)
        .await;
}

#[tokio::test]
async fn a_state_of_the_world_is_sent_again_when_its_kind_changes_and_not_otherwise() {
    let mut server = Server::start().await;
    server.publish(&[
        (Kind::Cluster, "a:1", Some("1")),
        (Kind::Listener, "a:1", Some("1")),
    ]);
    let (sender, requests) = mpsc::channel(16);
    let mut client = AggregatedDiscoveryServiceClient::new(server.channel().await);
    let ask = |kind: Kind, nonce: &str| DiscoveryRequest {
        type_url: kind.type_url(),
        response_nonce: nonce.to_owned(),
        ..DiscoveryRequest::default()
    };
    sender.send(ask(Kind::Cluster, "")).await.unwrap();
    let call = client
        .stream_aggregated_resources(ReceiverStream::new(requests))
        .await;
    let mut responses = call.unwrap().into_inner();
    let first = responses.message().await.unwrap().unwrap();
    assert_eq!(
        (first.resources.len(), first.type_url),
        (1, Kind::Cluster.type_url())
    );
    assert_eq!(first.resources[0].type_url, Kind::Cluster.type_url());
    assert_eq!(first.resources[0].value, b"1");
    sender.send(ask(Kind::Cluster, &first.nonce)).await.unwrap();
    server
        .until("it is taken", |it| it.acks.get("cluster") == Some(&1))
        .await;
    server.publish(&[(Kind::Listener, "a:1", Some("2"))]);
    server.publish(&[(Kind::Cluster, "b:2", Some("1"))]);
    let second = responses.message().await.unwrap().unwrap();
    assert_eq!(second.resources.len(), 2);
    assert_ne!(second.version_info, first.version_info);
    assert_eq!(server.board.status().responses["cluster"], 2);
}

#[tokio::test]
async fn what_an_envoy_refuses_is_shown_with_its_words_and_holds_nobody_back() {
    let mut server = Server::start().await;
    server.publish(&[
        (Kind::Cluster, "good:1", Some("1")),
        (Kind::Cluster, "bad:2", Some("1")),
        (Kind::Cluster, "fine:3", Some("1")),
    ]);
    let channel = server.channel().await;
    let mut client = Client::open(channel.clone(), "web-01").await.unwrap();
    let words = "Error adding/updating cluster(s) bad:2: not for me";
    let first = client.next().await;
    assert_eq!(first.resources.len(), 3);
    client.answer(&first, Some(words)).await;
    let second = client.next().await;
    assert_eq!(names(&second), ["fine:3", "good:1"].into());
    client.answer(&second, None).await;
    let third = client.next().await;
    assert_eq!(names(&third), ["bad:2"].into());
    client.answer(&third, Some(words)).await;
    server
        .until("it is shown", |it| !it.rejected.is_empty())
        .await;
    let status = server.board.status();
    let [rejected] = status.rejected.as_slice() else {
        panic!("{:?}", status.rejected);
    };
    assert_eq!(
        (
            rejected.kind,
            rejected.name.as_str(),
            rejected.words.as_str()
        ),
        ("cluster", "bad:2", words)
    );
    assert_eq!(rejected.nodes, ["web-01".to_owned()].into());
    assert_eq!((status.nacks["cluster"], status.acks["cluster"]), (2, 1));
    server.publish(&[(Kind::Cluster, "next:4", Some("1"))]);
    assert_eq!(names(&client.next().await), ["next:4"].into());
    drop(client);
    server
        .until("it went with its Envoy", |it| it.rejected.is_empty())
        .await;
}

#[tokio::test]
async fn a_hundred_envoys_are_fed_and_no_more_than_256() {
    let mut server = Server::start().await;
    server.publish(&[(Kind::Cluster, "a:1", Some("1"))]);
    let mut clients = Vec::new();
    for number in 0..100 {
        let mut client = Client::open(server.channel().await, &number.to_string())
            .await
            .unwrap();
        let response = client.next().await;
        client.answer(&response, None).await;
        clients.push(client);
    }
    server
        .until("all are settled", |it| {
            it.streams.iter().filter(|it| it.settled).count() == 100
        })
        .await;
    server.publish(&[(Kind::Cluster, "b:2", Some("1"))]);
    for client in &mut clients {
        let response = client.next().await;
        assert_eq!(names(&response), ["b:2"].into());
    }
    for number in 100..STREAMS_MAX {
        clients.push(
            Client::open(server.channel().await, &number.to_string())
                .await
                .unwrap(),
        );
    }
    let refused = Client::open(server.channel().await, "one too many").await;
    assert_eq!(
        refused.err().map(|it| it.code()),
        Some(tonic::Code::ResourceExhausted)
    );
    assert_eq!(server.board.status().streams_refused, 1);
}

#[tokio::test]
async fn who_does_not_answer_is_told_nothing_more_until_it_does_and_then_the_latest() {
    let mut server = Server::start().await;
    server.publish(&[(Kind::Cluster, "a:1", Some("0"))]);
    let mut client = Client::open(server.channel().await, "slow").await.unwrap();
    let first = client.next().await;
    for number in 1..=1000 {
        server.publish(&[(Kind::Cluster, "a:1", Some(&number.to_string()))]);
    }
    // Another kind is not held up.
    client.say(request(Kind::Listener, "slow")).await;
    assert_eq!(client.next().await.type_url, Kind::Listener.type_url());
    assert_eq!(server.board.status().responses["cluster"], 1);
    client.answer(&first, None).await;
    let second = client.next().await;
    assert_eq!(
        second.resources[0].resource.as_ref().unwrap().value,
        b"1000"
    );
}

#[tokio::test]
async fn a_busy_port_is_said_and_tried_again() {
    let busy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (board, shutdown) = (Arc::new(Board::default()), CancellationToken::new());
    let (_keep, published) = watch::channel(None);
    let address = busy.local_addr().unwrap();
    let task = run(
        address,
        String::new(),
        published,
        board.clone(),
        shutdown.clone(),
    );
    let task = tokio::spawn(task);
    let troubled = async {
        while board.status().trouble.is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(WITHIN, troubled)
        .await
        .expect("it is said");
    drop(busy);
    let listening = async {
        while board.status().listening.is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(WITHIN, listening)
        .await
        .expect("it is tried again");
    assert_eq!(board.status().trouble, None);
    shutdown.cancel();
    task.await.unwrap();
}
