//! The answer to each question: status, headers and body, as recorded where there is a recording.

use std::{sync::Arc, time::SystemTime};

use axum::{
    http::{StatusCode, header, request::Parts},
    response::Response,
};
use catalog::{Snapshot, Timestamp, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::routes::Routes;

use super::{
    Api, commands,
    documents::{Kind, Library, OfService},
    envoy_v1,
    reply::{self, Endless, JSON, PLAIN, body, document, empty, error, moved, open, with},
    servers,
    target::{Refusal, Target, resolve},
    ui, v2,
    watch::{self, Form},
};

/// Paths below this have errors in JSON.
const V2: &str = "/api/v2/";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers questions. Shared by all connections.
#[derive(Debug)]
pub(super) struct Answers {
    api: Api,
    library: Arc<Library>,
    watchers: Arc<Semaphore>,
    watchers_max: usize,
    shutdown: CancellationToken,
}

impl Answers {
    /// Answers for at most so many watchers at a time, besides all other requests.
    pub(super) fn new(api: Api, watchers_max: usize, shutdown: CancellationToken) -> Self {
        let library = Arc::new(Library::new(api.snapshots.clone()));
        Self {
            api,
            library,
            watchers: Arc::new(Semaphore::new(watchers_max)),
            watchers_max,
            shutdown,
        }
    }

    /// The answer to one request, judged by its head; bodies carry nothing.
    pub(super) async fn answer(&self, head: &Parts) -> Response {
        let path = head.uri.path();
        match resolve(&head.method, path) {
            Ok(target) => match self.api.access.refusal(head) {
                Some(refusal) => refusal,
                None => self.answer_target(target, head).await,
            },
            Err(Refusal::NotFound) if path.starts_with(V2) => {
                let text = format!("there is no {path}; {V2}openapi.json lists what there is");
                error(StatusCode::NOT_FOUND, &text)
            }
            Err(Refusal::MethodNotAllowed) if path.starts_with(V2) => {
                let text = format!("{path} does not answer {}", head.method);
                error(StatusCode::METHOD_NOT_ALLOWED, &text)
            }
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
            Target::Ui { file } => page(file, head),
            Target::UiByName => moved("./"),
            Target::Servers => {
                let now = Timestamp::from(SystemTime::now());
                let page = servers::page(&self.library.latest().snapshot, now);
                body(StatusCode::OK, "text/html", page)
            }
            Target::Services => self.whole(Kind::Services, head).await,
            Target::State => self.whole(Kind::State, head).await,
            Target::OneService { name } => open(self.one_service(&name)),
            Target::Watch => self.watch(head.uri.query().unwrap_or_default()),
            Target::Drain {
                id,
                undrain,
                dialect,
            } => commands::answer(&self.api, id, undrain, dialect, head).await,
            Target::Preflight => open(empty(StatusCode::OK)),
            Target::UnknownExtension { cross_origin } => {
                let text = "Not Found - Invalid content type extension";
                let answer = error(StatusCode::NOT_FOUND, text);
                if cross_origin { open(answer) } else { answer }
            }
            Target::V2(question) => {
                let sources = v2::Sources {
                    api: &self.api,
                    library: &self.library,
                    watchers: &self.watchers,
                    watchers_max: self.watchers_max,
                    shutdown: &self.shutdown,
                };
                v2::answer(question, sources, head).await
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

    /// A document about everything. Compressed only for who asks for that: others get the recorded headers.
    async fn whole(&self, kind: Kind, head: &Parts) -> Response {
        let compressed = reply::takes_gzip(head);
        let (_, content, is_compressed) = self.library.get(kind, compressed).await;
        let answer = open(body(StatusCode::OK, JSON, content));
        if is_compressed {
            reply::gzipped(answer)
        } else {
            answer
        }
    }

    fn one_service(&self, name: &str) -> Response {
        let documents = self.library.latest();
        match documents.of_service(OfService::Listing, name) {
            Some(document) => body(StatusCode::OK, JSON, document),
            None => error(
                StatusCode::NOT_FOUND,
                &format!("no instances of {name} found"),
            ),
        }
    }

    fn watch(&self, query: &str) -> Response {
        let Ok(slot) = self.watchers.clone().try_acquire_owned() else {
            let text = format!(
                "{} clients watch already; ask again later",
                self.watchers_max
            );
            return error(StatusCode::SERVICE_UNAVAILABLE, &text);
        };
        let form = Form::of_query(query);
        let stream = watch::stream(form, self.library.clone(), self.shutdown.clone(), slot);
        let mut answer = body(StatusCode::OK, JSON, stream);
        answer.extensions_mut().insert(Endless);
        answer
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

fn home() -> Response {
    let text = "<a href=\"/ui/\">Moved Permanently</a>.\n\n";
    let answer = body(
        StatusCode::MOVED_PERMANENTLY,
        "text/html; charset=utf-8",
        text,
    );
    with(answer, header::LOCATION, "/ui/")
}

fn page(name: &str, head: &Parts) -> Response {
    let file = ui::file(name).unwrap_or_else(|| ui::page());
    let tag = file.tag();
    if reply::is_known(head, &tag) {
        return reply::not_modified(&tag);
    }
    let answer = body(StatusCode::OK, file.kind, file.text);
    let answer = with(answer, header::CONTENT_SECURITY_POLICY, ui::POLICY);
    let answer = with(answer, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    reply::cached(answer, &tag)
}
