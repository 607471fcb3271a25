//! A tiny web server for the demo and for trying things out: it says its name, and its health can
//! be switched from outside.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use anyhow::Context as _;
use axum::{
    Router,
    extract::{Query, State},
    http::StatusCode,
    routing::get,
};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct NewHealth {
    status: u16,
}

/// Serves until the process is stopped.
///
/// # Errors
/// When the address cannot be bound.
pub async fn run(listen: SocketAddr, name: String) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .with_context(|| format!("sample service cannot listen on {listen}"))?;
    let health = Arc::new(AtomicU16::new(200));
    let answer = format!("{name}\n");
    let app = Router::new()
        .route("/", get(move || async move { answer }))
        .route("/health", get(report_health).post(set_health))
        .with_state(health);
    axum::serve(listener, app).await.context("sample service")
}

async fn report_health(State(health): State<Arc<AtomicU16>>) -> StatusCode {
    StatusCode::from_u16(health.load(Ordering::Relaxed)).unwrap_or(StatusCode::OK)
}

async fn set_health(
    State(health): State<Arc<AtomicU16>>,
    Query(new): Query<NewHealth>,
) -> (StatusCode, String) {
    match StatusCode::from_u16(new.status) {
        Ok(_) => {
            health.store(new.status, Ordering::Relaxed);
            (
                StatusCode::OK,
                format!("health checks now answer {}\n", new.status),
            )
        }
        Err(_) => {
            let text = format!("status={} is not usable: expected 100 to 999\n", new.status);
            (StatusCode::BAD_REQUEST, text)
        }
    }
}
