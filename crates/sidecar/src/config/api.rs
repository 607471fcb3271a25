//! Settings that say who may use the API, and how it is protected on its way.

use std::path::PathBuf;

use super::{HIDDEN, Reader};
use crate::api_tokens::{EXPECTED, TokenSource, Tokens};

/// A certificate with its key, as files of PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// `SIDECAR_API_TLS_CERT`: the certificate, and those between it and its root.
    pub certificate: PathBuf,
    /// `SIDECAR_API_TLS_KEY`.
    pub key: PathBuf,
}

/// See the variables of the same names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiConfig {
    /// `SIDECAR_API_TOKEN` or `SIDECAR_API_TOKEN_FILE`.
    pub tokens: TokenSource,
    /// `SIDECAR_API_TOKEN_READS`.
    pub token_reads: bool,
    /// `SIDECAR_API_HOSTS`, and the names that this host goes by anyway; `*.NAME` stands for all
    /// names below.
    pub names: Vec<String>,
    /// `SIDECAR_API_TLS_CERT` and `SIDECAR_API_TLS_KEY`.
    pub tls: Option<TlsFiles>,
}

impl ApiConfig {
    pub(super) fn read(reader: &mut Reader<'_>, own_names: &[&str]) -> Self {
        let tokens = reader.api_tokens();
        let token_reads = reader.switch("SIDECAR_API_TOKEN_READS");
        if token_reads && tokens == TokenSource::None {
            let expected = "false, or a token in SIDECAR_API_TOKEN or SIDECAR_API_TOKEN_FILE";
            reader.wrong("SIDECAR_API_TOKEN_READS".to_owned(), "true", expected);
        }
        let mut names = vec!["localhost".to_owned()];
        for name in own_names.iter().map(|name| name.to_lowercase()) {
            if !names.contains(&name) {
                // The second is found in the local network without a server (mDNS).
                names.extend([name.clone(), format!("{name}.local")]);
            }
        }
        let expected = "names without ports such as sidecar.example.com, or *.example.com";
        names.extend(reader.list("SIDECAR_API_HOSTS", expected, parse_name));
        Self {
            tokens,
            token_reads,
            names,
            tls: reader.tls_files(),
        }
    }
}

fn parse_name(text: &str) -> Option<String> {
    let bare = text.strip_prefix("*.").unwrap_or(text);
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let is_good = !bare.is_empty() && bare.len() <= 253 && bare.chars().all(is_name);
    is_good.then(|| text.to_lowercase())
}

impl Reader<'_> {
    /// No part of a token may get into a setting that is shown, or into an error.
    fn api_tokens(&mut self) -> TokenSource {
        let (text, given_as) = self.take("SIDECAR_API_TOKEN");
        if let Some(setting) = self.settings.last_mut()
            && !text.is_empty()
        {
            HIDDEN.clone_into(&mut setting.value);
        }
        let file = self.text("SIDECAR_API_TOKEN_FILE");
        if text.is_empty() {
            return match file.as_str() {
                "" => TokenSource::None,
                file => TokenSource::File(file.into()),
            };
        }
        if !file.is_empty() {
            let expected = "nothing while SIDECAR_API_TOKEN is set: keep one of the two";
            self.wrong("SIDECAR_API_TOKEN_FILE".to_owned(), &file, expected);
        }
        let tokens = Tokens::one(&text).unwrap_or_else(|| {
            self.wrong(given_as, HIDDEN, EXPECTED);
            Tokens::default()
        });
        TokenSource::Given(tokens)
    }

    fn tls_files(&mut self) -> Option<TlsFiles> {
        let certificate = self.text("SIDECAR_API_TLS_CERT");
        let key = self.text("SIDECAR_API_TLS_KEY");
        let (missing, given) = match (certificate.as_str(), key.as_str()) {
            ("", "") => return None,
            ("", _) => ("SIDECAR_API_TLS_CERT", "SIDECAR_API_TLS_KEY"),
            (_, "") => ("SIDECAR_API_TLS_KEY", "SIDECAR_API_TLS_CERT"),
            _ => {
                let (certificate, key) = (certificate.into(), key.into());
                return Some(TlsFiles { certificate, key });
            }
        };
        let expected = format!("a PEM file, as {given} is set: both or neither");
        self.wrong(missing.to_owned(), "", expected);
        None
    }
}
