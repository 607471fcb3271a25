//! The gRPC service around [`Subscription`]: one task for each stream, and nothing decided here.

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use envoy_types::pb::{
    envoy::{
        config::core::v3::{ControlPlane, Node},
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
            Resource as DeltaResource,
            aggregated_discovery_service_server::{
                AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
            },
        },
    },
    google::{protobuf::Any, rpc},
};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request as Call, Response as Answer, Status, Streaming,
    codegen::tokio_stream::{Stream, wrappers::ReceiverStream},
    transport::{Server, server::TcpIncoming},
};
use tracing::{debug, info, warn};

use super::{
    resources::{Kind, Resource, Resources},
    status::{Board, shortened},
    subscription::{Outcome, Protocol, Request, Response, Subscription},
};

/// Most streams at a time; each Envoy has one.
const STREAMS_MAX: usize = 256;
/// Most streams of one connection: Envoy opens one, and one anew.
const CONNECTION_STREAMS_MAX: u32 = 16;
/// Largest request: the names and versions of 100,000 services.
const REQUEST_BYTES_MAX: usize = 32 << 20;
/// Responses that wait to be sent. Of each kind one is outstanding, so that there is always room.
const QUEUE_DEPTH: usize = 8;
/// A peer that vanished without a word is noticed after this much silence and this much waiting.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Pause before a busy port is tried again.
const BIND_RETRY: Duration = Duration::from_secs(5);
/// How long connections may take to end once the agent stops.
const FINISH_WITHIN: Duration = Duration::from_secs(1);

/// What streams share. `None` until routing begins.
pub(super) type Published = watch::Receiver<Option<Arc<Resources>>>;

/// Serves xDS at `address` until `shutdown`. A busy port is said once and tried again.
pub(super) async fn run(
    address: SocketAddr,
    node: String,
    resources: Published,
    board: Arc<Board>,
    shutdown: CancellationToken,
) {
    let mut told = false;
    while !shutdown.is_cancelled() {
        let error = match TcpListener::bind(address).await {
            Ok(listener) => {
                info!(%address, "xDS for Envoy is up");
                board.listens(Ok(address));
                let service = Service {
                    node: node.clone(),
                    resources: resources.clone(),
                    board: board.clone(),
                    streams: Arc::new(Semaphore::new(STREAMS_MAX)),
                    shutdown: shutdown.clone(),
                };
                match serve(listener, service, &shutdown).await {
                    Ok(()) => return,
                    Err(error) => error.to_string(),
                }
            }
            Err(error) => error.to_string(),
        };
        board.listens(Err(error.clone()));
        if !std::mem::replace(&mut told, true) {
            warn!(
                %address, error,
                "xDS for Envoy cannot listen; everything else works, and it will be tried again \
                 (ENVOY_GRPC_PORT chooses another port, ENVOY_USE_GRPC_API=false none)"
            );
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(BIND_RETRY) => {}
        }
    }
}

async fn serve(
    listener: TcpListener,
    service: Service,
    shutdown: &CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let service =
        AggregatedDiscoveryServiceServer::new(service).max_decoding_message_size(REQUEST_BYTES_MAX);
    let server = Server::builder()
        .max_concurrent_streams(CONNECTION_STREAMS_MAX)
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, shutdown.cancelled());
    let overdue = async {
        shutdown.cancelled().await;
        tokio::time::sleep(FINISH_WITHIN).await;
    };
    tokio::select! {
        served = server => served,
        () = overdue => Ok(()),
    }
}

#[derive(Debug)]
struct Service {
    node: String,
    resources: Published,
    board: Arc<Board>,
    streams: Arc<Semaphore>,
    shutdown: CancellationToken,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        call: Call<Streaming<DiscoveryRequest>>,
    ) -> Result<Answer<Self::StreamAggregatedResourcesStream>, Status> {
        self.open(call.into_inner())
    }

    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn delta_aggregated_resources(
        &self,
        call: Call<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Answer<Self::DeltaAggregatedResourcesStream>, Status> {
        self.open(call.into_inner())
    }
}

impl Service {
    fn open<Q: Asked>(
        &self,
        requests: Streaming<Q>,
    ) -> Result<Answer<Responses<Q::Response>>, Status> {
        let Ok(slot) = self.streams.clone().try_acquire_owned() else {
            self.board.refused_stream();
            return Err(Status::resource_exhausted(format!(
                "{STREAMS_MAX} streams are open already"
            )));
        };
        let (sender, responses) = mpsc::channel(QUEUE_DEPTH);
        let conversation = Conversation {
            number: self.board.opened(Q::PROTOCOL),
            node: self.node.clone(),
            board: self.board.clone(),
            subscription: Subscription::new(Q::PROTOCOL),
            resources: self.resources.clone(),
            _slot: slot,
        };
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = conversation.run(requests, sender) => {}
            }
        });
        Ok(Answer::new(Box::pin(ReceiverStream::new(responses))))
    }
}

/// One stream, from its first request to its end.
struct Conversation {
    number: u64,
    /// This agent's.
    node: String,
    board: Arc<Board>,
    subscription: Subscription,
    resources: Published,
    _slot: OwnedSemaphorePermit,
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.board.closed(self.number);
    }
}

impl Conversation {
    async fn run<Q: Asked>(
        mut self,
        mut requests: Streaming<Q>,
        sender: mpsc::Sender<Result<Q::Response, Status>>,
    ) {
        self.resources.mark_changed();
        loop {
            while let Some(response) = self.subscription.poll(Instant::now().into_std()) {
                self.board.told(response.kind);
                let response = Q::response(response, &self.node);
                if sender.try_send(Ok(response)).is_err() {
                    return;
                }
            }
            self.board.progressed(self.number, &self.subscription);
            let deadline = self.subscription.deadline().map(Instant::from_std);
            tokio::select! {
                () = sender.closed() => return,
                changed = self.resources.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let newest = self.resources.borrow_and_update().clone();
                    if let Some(newest) = newest {
                        self.subscription.update(&newest);
                    }
                }
                request = requests.message() => match request {
                    Ok(Some(request)) => self.take(request),
                    Ok(None) => return,
                    Err(error) => {
                        debug!(%error, "an Envoy's stream is over");
                        return;
                    }
                },
                () = sleep_until(deadline) => {}
            }
        }
    }

    fn take<Q: Asked>(&mut self, request: Q) {
        if let Some(node) = request.node() {
            debug!(node = node.id, "an Envoy speaks");
            self.board.named(self.number, shortened(&node.id));
        }
        let Some(kind) = Kind::of_type_url(request.type_url()) else {
            debug!(
                kind = request.type_url(),
                "an Envoy asks for what is not served"
            );
            return;
        };
        let now = Instant::now().into_std();
        let Outcome {
            acked,
            nacked,
            rejected,
        } = self.subscription.request(kind, request.into_request(), now);
        if acked || nacked {
            self.board.answered(kind, acked);
        }
        if let Some(rejection) = rejected
            && self.board.is_news(&rejection)
        {
            warn!(
                kind = kind.word(),
                resource = &*rejection.name,
                reason = shortened(&rejection.words),
                "Envoy does not take a resource; it goes without until the resource changes, others are \
                 not concerned"
            );
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// What both ways of asking have in common.
trait Asked: Send + 'static {
    const PROTOCOL: Protocol;
    type Response: Send + 'static;

    fn node(&self) -> Option<&Node>;
    fn type_url(&self) -> &str;
    fn into_request(self) -> Request;
    fn response(response: Response, node: &str) -> Self::Response;
}

fn control_plane(node: &str) -> Option<ControlPlane> {
    Some(ControlPlane {
        identifier: node.to_owned(),
    })
}

fn any(kind: Kind, resource: &Resource) -> Any {
    Any {
        type_url: kind.type_url(),
        value: resource.encoded.clone(),
    }
}

fn words(error: Option<rpc::Status>) -> Option<String> {
    error.map(|error| error.message)
}

impl Asked for DiscoveryRequest {
    const PROTOCOL: Protocol = Protocol::Sotw;
    type Response = DiscoveryResponse;

    fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    fn type_url(&self) -> &str {
        &self.type_url
    }

    fn into_request(self) -> Request {
        Request {
            nonce: self.response_nonce,
            error: words(self.error_detail),
            names: self.resource_names,
            ..Request::default()
        }
    }

    fn response(response: Response, node: &str) -> DiscoveryResponse {
        let resources = response.resources.iter();
        DiscoveryResponse {
            version_info: response.version,
            resources: resources.map(|it| any(response.kind, it)).collect(),
            type_url: response.kind.type_url(),
            nonce: response.nonce,
            control_plane: control_plane(node),
            ..DiscoveryResponse::default()
        }
    }
}

impl Asked for DeltaDiscoveryRequest {
    const PROTOCOL: Protocol = Protocol::Delta;
    type Response = DeltaDiscoveryResponse;

    fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    fn type_url(&self) -> &str {
        &self.type_url
    }

    fn into_request(self) -> Request {
        Request {
            nonce: self.response_nonce,
            error: words(self.error_detail),
            names: self.resource_names_subscribe,
            unsubscribe: self.resource_names_unsubscribe,
            initial: self.initial_resource_versions.into_iter().collect(),
        }
    }

    fn response(response: Response, node: &str) -> DeltaDiscoveryResponse {
        let resources = response.resources.iter().map(|it| DeltaResource {
            name: it.name.to_string(),
            version: it.version.clone(),
            resource: Some(any(response.kind, it)),
            ..DeltaResource::default()
        });
        DeltaDiscoveryResponse {
            resources: resources.collect(),
            removed_resources: response.removed.iter().map(ToString::to_string).collect(),
            type_url: response.kind.type_url(),
            nonce: response.nonce,
            control_plane: control_plane(node),
            ..DeltaDiscoveryResponse::default()
        }
    }
}

#[cfg(test)]
mod tests;
