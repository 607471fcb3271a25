//! Follows the watch stream of one agent, for ever: reconnects when it breaks.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::bail;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::mpsc};

use super::observer::{Seen, Sighting};

/// Pause before a broken stream is opened again.
const RETRY: Duration = Duration::from_millis(10);
/// A document larger than this is not the demo's.
const DOCUMENT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Sends what `agent` shows, each time it changes, until nobody listens.
pub(super) async fn run(agent: usize, address: SocketAddr, sightings: mpsc::Sender<Sighting>) {
    let mut connected = false;
    loop {
        let outcome = follow(agent, address, &sightings, &mut connected).await;
        if std::mem::take(&mut connected) {
            let gone = Sighting {
                agent,
                at: Instant::now(),
                seen: None,
            };
            if sightings.send(gone).await.is_err() {
                return;
            }
        }
        if outcome.is_ok() {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// `Ok` only when nobody listens any more.
async fn follow(
    agent: usize,
    address: SocketAddr,
    sightings: &mpsc::Sender<Sighting>,
    connected: &mut bool,
) -> anyhow::Result<()> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get("/api/watch?by_service=false")
        .header("Host", address.to_string())
        .body(Empty::<Bytes>::new())?;
    let mut body = sender.send_request(request).await?.into_body();
    let mut buffer = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        buffer.extend_from_slice(&data);
        if buffer.len() > DOCUMENT_BYTES_MAX {
            bail!("document too large");
        }
        let at = Instant::now();
        let mut documents =
            serde_json::Deserializer::from_slice(&buffer).into_iter::<serde_json::Value>();
        let mut used = 0;
        let mut newest = None;
        while let Some(Ok(document)) = documents.next() {
            used = documents.byte_offset();
            newest = Some(document);
        }
        buffer.drain(..used);
        if let Some(document) = newest {
            *connected = true;
            let seen = catalog::json::decode_state(document.to_string().as_bytes())?;
            let seen: Seen = seen
                .into_iter()
                .flatten()
                .map(|service| {
                    (
                        (service.hostname, service.id),
                        (service.name, service.status),
                    )
                })
                .collect();
            if sightings
                .send(Sighting {
                    agent,
                    at,
                    seen: Some(seen),
                })
                .await
                .is_err()
            {
                return Ok(());
            }
        }
    }
    bail!("the stream ended")
}
