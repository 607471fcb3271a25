//! The answer to each question: status, headers and body, as recorded where there is a recording.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::Response,
};
use bytes::Bytes;
use catalog::{Snapshot, Timestamp, json};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use crate::routes::Routes;

use super::{
    Api, DrainOutcome, DrainRequest,
    documents::Library,
    envoy_v1, proxy_document, routes_document, servers,
    target::{Refusal, Target, resolve},
    ui,
    watch::{self, Form},
};

/// Most watchers at a time: fewer than connections, so that watchers alone cannot shut out the rest.
const WATCHERS_MAX: usize = 768;
/// How long the agent may take to accept a command.
const COMMAND_WITHIN: Duration = Duration::from_secs(5);

const JSON: &str = "application/json";
const PLAIN: &str = "text/plain; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers questions. Shared by all connections.
#[derive(Debug)]
pub(super) struct Answers {
    api: Api,
    library: Arc<Library>,
    watchers: Arc<Semaphore>,
    shutdown: CancellationToken,
}

impl Answers {
    pub(super) fn new(api: Api, shutdown: CancellationToken) -> Self {
        let library = Arc::new(Library::new(api.snapshots.clone()));
        Self {
            api,
            library,
            watchers: Arc::new(Semaphore::new(WATCHERS_MAX)),
            shutdown,
        }
    }

    /// The answer to one request, judged by its head; bodies carry nothing.
    pub(super) async fn answer(&self, head: &Parts) -> Response {
        match resolve(&head.method, head.uri.path()) {
            Ok(target) => self.answer_target(target, head).await,
            Err(Refusal::NotFound) => {
                let answer = body(StatusCode::NOT_FOUND, PLAIN, "404 page not found\n");
                with(answer, header::X_CONTENT_TYPE_OPTIONS, "nosniff")
            }
            Err(Refusal::MethodNotAllowed) => empty(StatusCode::METHOD_NOT_ALLOWED),
            Err(Refusal::Moved(path)) => moved(&match head.uri.query() {
                Some(query) => format!("{path}?{query}"),
                None => path,
            }),
        }
    }

    async fn answer_target(&self, target: Target, head: &Parts) -> Response {
        match target {
            Target::Home => home(),
            Target::Ui => page(head),
            Target::UiByName => moved("./"),
            Target::Servers => {
                let now = Timestamp::from(SystemTime::now());
                let page = servers::page(&self.library.latest().snapshot, now);
                body(StatusCode::OK, "text/html", page)
            }
            Target::Services => open(body(StatusCode::OK, JSON, self.library.latest().services())),
            Target::State => open(body(StatusCode::OK, JSON, self.library.latest().state())),
            Target::OneService { name } => open(self.one_service(&name)),
            Target::Watch => self.watch(head.uri.query().unwrap_or_default()),
            Target::Drain { id } => self.drain(id, head).await,
            Target::Preflight => open(empty(StatusCode::OK)),
            Target::UnknownExtension { cross_origin } => {
                let text = "Not Found - Invalid content type extension";
                let answer = error(StatusCode::NOT_FOUND, text);
                if cross_origin { open(answer) } else { answer }
            }
            Target::EnvoyRegistration { service } => {
                let (routes, snapshot) = self.decided();
                match envoy_v1::registration(&routes, &snapshot, &service, self.api.envoy_v1) {
                    Some(encoded) => document("registration", encoded),
                    None => error(
                        StatusCode::NOT_FOUND,
                        "Not Found - Unable to split service name and port!",
                    ),
                }
            }
            Target::EnvoyClusters => document("clusters", envoy_v1::clusters(&self.decided().0)),
            Target::EnvoyListeners => document("listeners", {
                envoy_v1::listeners(&self.decided().0, self.api.envoy_v1)
            }),
            Target::Routes => open(document("routes", {
                let routes = self.api.routes.borrow().clone();
                routes_document::encode(&routes)
            })),
            // Not for pages of other origins: it holds what services answer.
            Target::Local => document("view of this host", self.api.local.document()),
            Target::Proxy => open(document("status of the proxy", {
                let plane = self.api.plane.borrow().clone();
                proxy_document::encode(&plane)
            })),
            Target::Metrics => body(StatusCode::OK, PROMETHEUS, (self.api.metrics)()),
            Target::Health => body(StatusCode::OK, JSON, "{\"status\":\"ok\"}"),
            Target::Ready => self.ready(),
        }
    }

    /// The newest routes, and the snapshot with their instances.
    fn decided(&self) -> (Arc<Routes>, Arc<Snapshot>) {
        let routes = self.api.routes.borrow().clone();
        (routes, self.library.latest().snapshot.clone())
    }

    fn one_service(&self, name: &str) -> Response {
        match json::encode_service_list(&self.library.latest().snapshot, name) {
            Some(document) => body(StatusCode::OK, JSON, document),
            None => error(
                StatusCode::NOT_FOUND,
                &format!("no instances of {name} found"),
            ),
        }
    }

    fn watch(&self, query: &str) -> Response {
        let Ok(slot) = self.watchers.clone().try_acquire_owned() else {
            let text = format!("{WATCHERS_MAX} clients watch already; ask again later");
            return error(StatusCode::SERVICE_UNAVAILABLE, &text);
        };
        let form = Form::of_query(query);
        let stream = watch::stream(form, self.library.clone(), self.shutdown.clone(), slot);
        body(StatusCode::OK, JSON, stream)
    }

    async fn drain(&self, id: String, head: &Parts) -> Response {
        if crosses_origins(head) {
            let text = "a page of another origin may not change the state";
            return error(StatusCode::FORBIDDEN, text);
        }
        let (reply, outcome) = oneshot::channel();
        let request = DrainRequest {
            id: id.clone(),
            reply,
        };
        let exchange = async {
            self.api.drain.send(request).await.ok()?;
            outcome.await.ok()
        };
        match tokio::time::timeout(COMMAND_WITHIN, exchange).await {
            Ok(Some(DrainOutcome::Draining { name })) => {
                let text = format!("Service \"{name}\" instance \"{id}\" set to DRAINING");
                let mut document = String::from("{\"Message\":");
                json::write_text(&mut document, &text);
                document.push('}');
                body(StatusCode::ACCEPTED, JSON, json::indent(&document))
            }
            Ok(Some(DrainOutcome::NotHere)) => {
                let text = format!("Not Found - Service ID \"{id}\" not found");
                error(StatusCode::NOT_FOUND, &text)
            }
            Ok(None) => error(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping"),
            Err(_) => {
                let text = format!("the agent did not answer within {COMMAND_WITHIN:?}");
                error(StatusCode::SERVICE_UNAVAILABLE, &text)
            }
        }
    }

    fn ready(&self) -> Response {
        let awaited = self.api.ready.borrow().clone();
        if awaited.is_empty() {
            return body(StatusCode::OK, JSON, "{\"status\":\"ready\"}");
        }
        let mut document = String::from("{\"status\":\"waiting\",\"awaited\":[");
        for (place, part) in awaited.iter().enumerate() {
            if place > 0 {
                document.push(',');
            }
            json::write_text(&mut document, part);
        }
        document.push_str("]}");
        body(StatusCode::SERVICE_UNAVAILABLE, JSON, document)
    }

    /// The answer to a request that announces more of a body than is tolerated.
    pub(super) fn too_large(announced: u64, max: u64) -> Response {
        let text = format!("the request has a body of {announced} bytes, more than {max}");
        with(
            error(StatusCode::PAYLOAD_TOO_LARGE, &text),
            header::CONNECTION,
            "close",
        )
    }
}

/// A document of ours, or that there was a defect.
fn document(name: &str, encoded: Result<String, serde_json::Error>) -> Response {
    match encoded {
        Ok(document) => body(StatusCode::OK, JSON, document),
        Err(error_) => {
            tracing::error!(error = %error_, "cannot encode the {name}");
            error(StatusCode::INTERNAL_SERVER_ERROR, "Internal server error")
        }
    }
}

/// Whether a browser sends this on behalf of a page that did not come from here. Programs send no
/// `Origin`; what they may do is not decided by it.
fn crosses_origins(head: &Parts) -> bool {
    let Some(origin) = head.headers.get(header::ORIGIN) else {
        return false;
    };
    let host = head
        .headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let authority = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.split_once("://"));
    match (authority, host) {
        (Some((_, authority)), Some(host)) => !authority.eq_ignore_ascii_case(host),
        _ => true,
    }
}

fn home() -> Response {
    let text = "<a href=\"/ui/\">Moved Permanently</a>.\n\n";
    let answer = body(
        StatusCode::MOVED_PERMANENTLY,
        "text/html; charset=utf-8",
        text,
    );
    with(answer, header::LOCATION, "/ui/")
}

fn page(head: &Parts) -> Response {
    let tag = ui::TAG.as_str();
    let known = head.headers.get_all(header::IF_NONE_MATCH).iter();
    let known = known
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','));
    let answer = if known
        .map(|known| known.trim().trim_start_matches("W/"))
        .any(|it| it == tag)
    {
        empty(StatusCode::NOT_MODIFIED)
    } else {
        let answer = body(StatusCode::OK, "text/html; charset=utf-8", ui::PAGE);
        let answer = with(answer, header::CONTENT_SECURITY_POLICY, ui::POLICY);
        with(answer, header::X_CONTENT_TYPE_OPTIONS, "nosniff")
    };
    with(
        with(answer, header::ETAG, tag),
        header::CACHE_CONTROL,
        "no-cache",
    )
}

fn moved(location: &str) -> Response {
    with(
        empty(StatusCode::MOVED_PERMANENTLY),
        header::LOCATION,
        location,
    )
}

/// Opens an answer to pages of other origins.
fn open(answer: Response) -> Response {
    let answer = with(answer, header::ACCESS_CONTROL_ALLOW_METHODS, "GET");
    with(answer, header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")
}

/// An error as the original words it.
fn error(status: StatusCode, message: &str) -> Response {
    let mut document = String::from("{\"message\":");
    json::write_text(&mut document, message);
    document.push_str(",\"status\":\"error\"}");
    body(status, JSON, document)
}

fn empty(status: StatusCode) -> Response {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = status;
    answer
}

fn body(status: StatusCode, kind: &'static str, content: impl Into<Body>) -> Response {
    let mut answer = Response::new(content.into());
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// Adds a header; a value that cannot be one (it came from a request) is left out.
fn with(mut answer: Response, name: HeaderName, value: &str) -> Response {
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::copy_from_slice(value.as_bytes())) {
        answer.headers_mut().insert(name, value);
    }
    answer
}
