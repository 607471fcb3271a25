//! The companion's own HTTP server: the original's three routes and its words.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State as Shared},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tracing::debug;

use super::{
    mirror::{Mirror, Post, Verdict},
    source::STATE_BYTES_MAX,
};
use crate::proxy::haproxy::{HaproxyStatus, State};

/// What requests read and change.
#[derive(Debug, Clone)]
pub(super) struct Api {
    pub(super) mirror: Arc<Mutex<Mirror>>,
    pub(super) haproxy: watch::Receiver<Arc<HaproxyStatus>>,
    /// Told that the mirror has changed.
    pub(super) changed: mpsc::Sender<()>,
    /// Told that the mirror may have missed something.
    pub(super) doubts: mpsc::Sender<()>,
}

impl Api {
    pub(super) fn mirror(&self) -> MutexGuard<'_, Mirror> {
        // Documents are replaced as a whole.
        self.mirror.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its routes.
    pub(super) fn router(self) -> Router {
        Router::new()
            .route("/update", post(update))
            .route("/health", get(health))
            .route("/state", get(state))
            .layer(DefaultBodyLimit::max(STATE_BYTES_MAX))
            .with_state(self)
    }
}

async fn update(Shared(api): Shared<Api>, body: Bytes) -> Response {
    // A document of many megabytes takes a while to read.
    let read = tokio::task::spawn_blocking(move || {
        Post::read(&String::from_utf8_lossy(&body), Instant::now())
    });
    let post = match read.await {
        Ok(Ok(post)) => post,
        Ok(Err(error)) => return errors(&[error.to_string()]),
        Err(error) => return errors(&[error.to_string()]),
    };
    let verdict = api.mirror().post(post);
    // Full queues say the same already.
    let _ = match verdict {
        Verdict::Accepted => api.changed.try_send(()),
        Verdict::Older => {
            debug!("a posted state is older than what is known");
            api.doubts.try_send(())
        }
    };
    ([(header::CONTENT_TYPE, "application/json")], "").into_response()
}

async fn health(Shared(api): Shared<Api>) -> Response {
    let haproxy = api.haproxy.borrow().clone();
    let mut troubles = Vec::new();
    if haproxy.is_running == Some(false) || haproxy.state == State::Waiting {
        troubles.push("No HAproxy running!".to_owned());
    }
    if haproxy.state == State::Failed {
        troubles.push("Last attempted HAproxy config write failed!".to_owned());
    }
    if !troubles.is_empty() {
        return errors(&troubles);
    }
    let mirror = api.mirror();
    answer(
        StatusCode::OK,
        &json!({
            "message": "Healthy!",
            "last_changed": mirror.last_changed().to_string(),
            "last_service_changed": mirror.last_service_changed(),
        }),
    )
}

async fn state(Shared(api): Shared<Api>) -> Response {
    let document = api.mirror().document().map(str::to_owned);
    match document {
        Some(document) => ([(header::CONTENT_TYPE, "application/json")], document).into_response(),
        None => errors(&["No currently stored state".to_owned()]),
    }
}

fn errors(errors: &[String]) -> Response {
    answer(
        StatusCode::INTERNAL_SERVER_ERROR,
        &json!({ "errors": errors }),
    )
}

fn answer(status: StatusCode, document: &Value) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (status, headers, document.to_string()).into_response()
}
