//! TLS in front of the API: a certificate and its key in files, read again when they change.
//!
//! A pair that cannot be used changes nothing: renewed files are often written one after the other, and
//! the next look finds both. Without any pair yet nobody is answered; plain text would be worse.

use std::{path::Path, sync::Arc, time::Duration};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{config::TlsFiles, file_stamp::FileStamp};

/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Longest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// How long a handshake may take.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// First byte of a handshake.
const HANDSHAKE: u8 = 22;
/// What somebody is told who does not begin one.
const PLAIN_REFUSED: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n\
    Connection: close\r\nContent-Length: 88\r\n\r\n\
    {\"message\":\"this port speaks TLS: ask for https:// instead of http://\",\"status\":\"error\"}";

/// Makes accepted connections encrypted ones.
#[derive(Debug, Clone)]
pub struct Tls {
    config: watch::Receiver<Option<Arc<ServerConfig>>>,
}

impl Tls {
    /// With the pair that the other half reads.
    pub fn new() -> (Self, Follower) {
        let (sender, config) = watch::channel(None);
        (Self { config }, Follower { sender })
    }

    /// The encrypted connection; `None` when the other side does not take part.
    pub(super) async fn accept(&self, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        let config = self.config.borrow().clone()?;
        let handshake = async {
            let mut first = [0];
            if stream.peek(&mut first).await.ok()? == 1 && first[0] != HANDSHAKE {
                let mut stream = stream;
                // What is left unread would take the answer with it when the connection closes.
                let _ = stream.read(&mut [0; 4096]).await;
                // Who is gone does not need to know.
                let _ = stream.write_all(PLAIN_REFUSED).await;
                let _ = stream.shutdown().await;
                return None;
            }
            match TlsAcceptor::from(config).accept(stream).await {
                Ok(stream) => Some(stream),
                Err(error) => {
                    debug!(%error, "no TLS with a client of the API");
                    None
                }
            }
        };
        tokio::time::timeout(HANDSHAKE_WITHIN, handshake)
            .await
            .ok()?
    }
}

/// Where a pair is put when it was read.
#[derive(Debug)]
pub struct Follower {
    sender: watch::Sender<Option<Arc<ServerConfig>>>,
}

impl Follower {
    /// Reads the files now, when they change, and when `reload` says so, until `shutdown`.
    pub async fn follow(
        self,
        files: TlsFiles,
        mut reload: watch::Receiver<u64>,
        shutdown: CancellationToken,
    ) {
        let mut stamps = None;
        let mut complaint: Option<String> = None;
        let mut ticks = interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Ok(()) = reload.changed() => stamps = None,
                _ = ticks.tick() => {}
            }
            let wanted = files.clone();
            let before = stamps;
            let look = tokio::task::spawn_blocking(move || {
                // Taken before the reading: a change during it is seen at the next look.
                let found = (stamp(&wanted.certificate), stamp(&wanted.key));
                let is_known = before == Some(found);
                (found, (!is_known).then(|| load(&wanted)))
            });
            let Ok((found, loaded)) = look.await else {
                continue;
            };
            stamps = Some(found);
            match loaded {
                None => {}
                Some(Ok(config)) => {
                    let is_first = self.sender.borrow().is_none();
                    self.sender.send_replace(Some(Arc::new(config)));
                    complaint = None;
                    let certificate = files.certificate.display();
                    if is_first {
                        info!(%certificate, "the API speaks TLS");
                    } else {
                        info!(%certificate, "the API's certificate was read again");
                    }
                }
                Some(Err(error)) if complaint.as_ref() == Some(&error) => {}
                Some(Err(error)) => {
                    let effect = if self.sender.borrow().is_some() {
                        "the certificate read before stays in use"
                    } else {
                        "the API answers nobody until it can be read; everything else works"
                    };
                    warn!("TLS for the API: {error}; {effect}");
                    complaint = Some(error);
                }
            }
        }
    }
}

fn stamp(path: &Path) -> Option<FileStamp> {
    std::fs::metadata(path).ok().as_ref().map(FileStamp::from)
}

/// What the files say.
///
/// # Errors
/// Which file is wrong and why. Nothing of a key is repeated.
fn load(files: &TlsFiles) -> Result<ServerConfig, String> {
    let (certificate, key) = (&files.certificate, &files.key);
    let text = read(certificate)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|error| format!("{}: {error}", certificate.display()))?;
    if chain.is_empty() {
        return Err(format!("{}: no certificate in it", certificate.display()));
    }
    let text = zeroize::Zeroizing::new(read(key)?);
    // The error could repeat something of a key; this one says what was looked for.
    let parsed = PrivateKeyDer::from_pem_slice(&text)
        .map_err(|_| format!("{}: no private key in it", key.display()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, parsed)
        .map_err(|error| {
            let (certificate, key) = (certificate.display(), key.display());
            format!("{certificate} with {key}: {error}")
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let fail = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = std::fs::File::open(path).map_err(fail)?;
    let mut content = Vec::new();
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut content)
        .map_err(fail)?;
    Ok(content)
}
