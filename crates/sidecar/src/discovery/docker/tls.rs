//! Encryption of a connection to an engine, with the files that Docker's command line uses.
//!
//! Not the certificates of health checks (`net::dial`): an engine has an authority of its own. The
//! files are read for each connection, so renewed ones count at once.

use std::{io, path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Longest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Makes a connection an encrypted one. The engine's certificate must be valid for `host`.
///
/// # Errors
/// What is wrong with the files, or with the engine's certificate.
pub(super) async fn encrypt(
    stream: TcpStream,
    host: &str,
    certificates: Option<&Path>,
) -> Result<TlsStream<TcpStream>, String> {
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let directory = certificates.map(Path::to_owned);
    // Reading files may take as long as disks do.
    let config = tokio::task::spawn_blocking(move || config(directory.as_deref()))
        .await
        .map_err(|error| error.to_string())??;
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| error.to_string())
}

fn config(directory: Option<&Path>) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let Some(directory) = directory else {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(builder.with_root_certificates(roots).with_no_client_auth());
    };
    let mut roots = RootCertStore::empty();
    let ca = directory.join("ca.pem");
    for certificate in read_certificates(&ca)?.ok_or_else(|| missing(&ca))? {
        let added = roots.add(certificate);
        added.map_err(|error| format!("{}: {error}", ca.display()))?;
    }
    let builder = builder.with_root_certificates(roots);
    let (cert, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    match (read_certificates(&cert)?, read(&key)?) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (None, Some(_)) => Err(missing(&cert)),
        (Some(_), None) => Err(missing(&key)),
        (Some(chain), Some(text)) => {
            // The error may not repeat anything of a key; this one says what it looked for.
            let parsed = PrivateKeyDer::from_pem_slice(&text);
            let parsed = parsed.map_err(|_| format!("{}: no private key in it", key.display()))?;
            builder
                .with_client_auth_cert(chain, parsed)
                .map_err(|error| format!("{}: {error}", cert.display()))
        }
    }
}

fn missing(path: &Path) -> String {
    format!("{}: there is no such file", path.display())
}

fn read_certificates(path: &Path) -> Result<Option<Vec<CertificateDer<'static>>>, String> {
    let Some(text) = read(path)? else {
        return Ok(None);
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(certificates) if certificates.is_empty() => {
            Err(format!("{}: no certificate in it", path.display()))
        }
        Ok(certificates) => Ok(Some(certificates)),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// A file's content; `None` when there is none.
fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    use io::Read as _;
    let fail = |error: io::Error| format!("{}: {error}", path.display());
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let mut content = Vec::new();
    let mut file = file.take(FILE_BYTES_MAX);
    file.read_to_end(&mut content).map_err(fail)?;
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::net::dial::tests::acceptor;

    fn pem(label: &str, der: &[u8]) -> String {
        let text = data_encoding::BASE64.encode(der);
        format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
    }

    /// Connects to a server with a certificate of the test root, and hears what it says.
    async fn connect(directory: &Path) -> Result<String, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            // Who does not trust it hangs up.
            if let Ok(mut stream) = acceptor(b"http/1.1").accept(stream).await {
                stream.write_all(b"hello").await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        let stream = TcpStream::connect(address).await.unwrap();
        let mut stream = encrypt(stream, "127.0.0.1", Some(directory)).await?;
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        server.await.unwrap();
        Ok(said)
    }

    #[tokio::test]
    async fn the_files_of_the_command_line_decide_whom_to_trust() {
        let root = include_bytes!("../../../tests/vectors/tls/root.der");
        let other = include_bytes!("../../../tests/vectors/tls/localhost.der");
        let key = include_bytes!("../../../tests/vectors/tls/localhost.key.der");
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text);

        let error = connect(directory.path()).await.unwrap_err();
        assert!(error.ends_with("ca.pem: there is no such file"), "{error}");
        write("ca.pem", "nothing").unwrap();
        let error = connect(directory.path()).await.unwrap_err();
        assert!(error.ends_with("ca.pem: no certificate in it"), "{error}");
        write("ca.pem", &pem("CERTIFICATE", root)).unwrap();
        assert_eq!(connect(directory.path()).await.unwrap(), "hello");

        write("cert.pem", &pem("CERTIFICATE", other)).unwrap();
        let error = connect(directory.path()).await.unwrap_err();
        assert!(error.ends_with("key.pem: there is no such file"), "{error}");
        write("key.pem", "secret").unwrap();
        let error = connect(directory.path()).await.unwrap_err();
        assert!(error.ends_with("key.pem: no private key in it"), "{error}");
        write("key.pem", &pem("PRIVATE KEY", key)).unwrap();
        assert_eq!(connect(directory.path()).await.unwrap(), "hello");

        // An authority that has not signed the server's certificate.
        write("ca.pem", &pem("CERTIFICATE", other)).unwrap();
        assert!(connect(directory.path()).await.is_err());
    }
}
