//! A server that answers questions as it is told, for tests.

use std::collections::BTreeMap;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc,
};

use super::{address::Connection, api::Agent};

/// What is answered: by path, without the query, or one answer to everything.
#[derive(Debug, Clone, Default)]
pub(super) struct Script {
    by_path: BTreeMap<String, String>,
    otherwise: Option<String>,
}

impl Script {
    /// The same bytes to everything.
    pub(super) fn raw(answer: &str) -> Self {
        Self {
            otherwise: Some(answer.to_owned()),
            ..Self::default()
        }
    }

    pub(super) fn status(status: u16, body: &str) -> Self {
        Self::raw(&answer(status, body))
    }

    pub(super) fn json(body: &str) -> Self {
        Self::status(200, body)
    }

    /// The document at this path.
    #[must_use]
    pub(super) fn at(mut self, path: &str, status: u16, body: &str) -> Self {
        self.by_path.insert(path.to_owned(), answer(status, body));
        self
    }
}

fn answer(status: u16, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}")
}

/// An agent that is such a server, and the heads of the requests it gets. What the script does not know is
/// answered as an agent answers an unknown instance.
pub(super) async fn agent(script: Script) -> (Agent, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let http_bind = listener.local_addr().unwrap().to_string();
    let (heads, received) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            let head = String::from_utf8(head).unwrap();
            let path = head.split([' ', '?']).nth(1).unwrap_or_default();
            let unknown = answer(404, r#"{"message":"not known","status":"error"}"#);
            let text = script.by_path.get(path).or(script.otherwise.as_ref());
            let text = text.unwrap_or(&unknown).clone();
            let _ = heads.send(head);
            let _ = stream.write_all(text.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    let variables = BTreeMap::from([("SIDECAR_HTTP_BIND".to_owned(), http_bind)]);
    let place = Connection::default().place(&variables).unwrap();
    (Agent::at(place).unwrap(), received)
}
