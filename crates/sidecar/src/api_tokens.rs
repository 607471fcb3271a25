//! Tokens that let programs on other hosts use the API, and the file through which they change while
//! the agent runs.
//!
//! The file is read as a whole or not at all: while it is missing or wrong, the tokens stay. No error
//! and no log line ever repeats any part of a token.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use subtle::{Choice, ConstantTimeEq as _};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;
use zeroize::Zeroizing;

use crate::secret_file::{self, FILE_BYTES_MAX, ReadError};

/// Tokens that are good at a time: two while one is replaced, one for each program if somebody likes.
const TOKENS_MAX: usize = 16;
/// Shorter ones could be guessed.
const BYTES_MIN: usize = 16;
/// Longer ones would not fit the head of a request with others.
const BYTES_MAX: usize = 512;
/// What a token looks like, for messages.
pub const EXPECTED: &str =
    "16 to 512 letters, digits and any of -._~+/=, such as `openssl rand -hex 32` makes";

/// Where tokens come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// Nowhere: nobody on another host may change anything.
    None,
    /// The configuration itself; they never change.
    Given(Tokens),
    /// A file that is followed.
    File(PathBuf),
}

/// Tokens that are good now.
#[derive(Clone, Default)]
pub struct Tokens(Vec<Zeroizing<String>>);

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({} hidden)", self.0.len())
    }
}

impl PartialEq for Tokens {
    fn eq(&self, other: &Self) -> bool {
        let same = |(ours, theirs): (&Zeroizing<String>, &Zeroizing<String>)| {
            bool::from(ours.as_bytes().ct_eq(theirs.as_bytes()))
        };
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(same)
    }
}

impl Eq for Tokens {}

impl Tokens {
    /// One token; `None` when it is not made as tokens are.
    pub fn one(text: &str) -> Option<Self> {
        is_token(text).then(|| Self(vec![Zeroizing::new(text.to_owned())]))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this is one of them. Takes as long whichever part of it is wrong; only its length shows.
    pub fn accept(&self, given: &[u8]) -> bool {
        let same = |token: &Zeroizing<String>| token.as_bytes().ct_eq(given);
        let all = self.0.iter().map(same);
        all.fold(Choice::from(0), |any, it| any | it).into()
    }
}

/// What RFC 6750 lets a bearer token be, within our lengths.
fn is_token(text: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    (BYTES_MIN..=BYTES_MAX).contains(&text.len()) && text.bytes().all(is_good)
}

/// Why the file gives no tokens.
#[derive(Debug, thiserror::Error)]
enum TokenFileError {
    #[error("cannot read API token file {path:?}: {error}")]
    Read {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error("API token file {path:?} is larger than {FILE_BYTES_MAX} bytes")]
    TooLarge { path: PathBuf },
    #[error("API token file {path:?}, line {line}: not a token, expected {EXPECTED}")]
    Line { path: PathBuf, line: usize },
    #[error(
        "API token file {path:?} has {number} tokens: expected 1 to {TOKENS_MAX}, one in a line"
    )]
    Number { path: PathBuf, number: usize },
}

/// What a token file says: one token a line; lines that are blank or begin with `#` do not count.
fn parse_file(path: &Path, text: &str) -> Result<Tokens, TokenFileError> {
    let mut tokens = Vec::new();
    for (number, line) in secret_file::lines(text) {
        if !is_token(line) {
            return Err(TokenFileError::Line {
                path: path.to_owned(),
                line: number,
            });
        }
        tokens.push(Zeroizing::new(line.to_owned()));
    }
    if !(1..=TOKENS_MAX).contains(&tokens.len()) {
        return Err(TokenFileError::Number {
            path: path.to_owned(),
            number: tokens.len(),
        });
    }
    Ok(Tokens(tokens))
}

fn read(path: &Path, read: Result<Zeroizing<String>, ReadError>) -> Result<Tokens, TokenFileError> {
    let path_of = || path.to_owned();
    let text = read.map_err(|error| match error {
        ReadError::Io(error) => TokenFileError::Read {
            path: path_of(),
            error,
        },
        ReadError::TooLarge => TokenFileError::TooLarge { path: path_of() },
    })?;
    parse_file(path, &text)
}

/// Keeps `tokens` as the file says, until `shutdown`. Until it could be read for the first time there
/// are none, and nobody is let in by one.
pub async fn follow(
    path: PathBuf,
    tokens: watch::Sender<Arc<Tokens>>,
    shutdown: CancellationToken,
) {
    secret_file::follow(path.clone(), shutdown, |text| {
        let read = read(&path, text).map_err(|error| {
            let effect = if tokens.borrow().is_empty() {
                "other hosts are let in by no token until it can be read"
            } else {
                "the API tokens stay as they are"
            };
            format!("{error}; {effect}")
        })?;
        tokens.send_if_modified(|current| {
            let differs = **current != read;
            if differs {
                info!(tokens = read.0.len(), "API tokens changed");
                *current = Arc::new(read);
            }
            differs
        });
        Ok(())
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "0123456789abcdef";
    const OTHER: &str = "fedcba9876543210-._~+/==";

    #[test]
    fn a_token_is_accepted_as_a_whole_or_not_at_all() {
        let path = Path::new("/tokens");
        let text = format!("# rotated in May\n\n  {ONE}  \r\n{OTHER}\n");
        let tokens = parse_file(path, &text).unwrap();
        assert!(tokens.accept(ONE.as_bytes()) && tokens.accept(OTHER.as_bytes()));
        for wrong in [
            "",
            "0123456789abcdeg",
            "0123456789abcde",
            "0123456789abcdef0",
            "# rotated in May",
        ] {
            assert!(!tokens.accept(wrong.as_bytes()), "{wrong}");
        }
        assert!(!Tokens::default().accept(b""));
    }

    #[test]
    fn errors_name_file_and_line_and_no_token() {
        let path = Path::new("/tokens");
        for (text, expected) in [
            ("0123456789abcdef\nshort-secret", "line 2"),
            ("with spaces in the token", "line 1"),
            ("# none\n", "has 0 tokens"),
            (&format!("{ONE}\n").repeat(17), "has 17 tokens"),
        ] {
            let error = parse_file(path, text).unwrap_err().to_string();
            assert!(
                error.contains("/tokens") && error.contains(expected),
                "{error}"
            );
            assert!(
                !error.contains("secret") && !error.contains("0123"),
                "{error}"
            );
        }
        let shown = format!("{:?}", TokenSource::Given(Tokens::one(ONE).unwrap()));
        assert!(!shown.contains("0123"), "{shown}");
    }

    #[tokio::test]
    async fn the_file_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens");
        let (sender, mut seen) = watch::channel(Arc::new(Tokens::default()));
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(follow(path.clone(), sender, shutdown.clone()));
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write(ONE);
        let accepts =
            |token: &'static str| move |tokens: &Arc<Tokens>| tokens.accept(token.as_bytes());
        seen.wait_for(accepts(ONE)).await.unwrap();
        // What is wrong changes nothing; what comes after it does.
        write("short");
        write(OTHER);
        seen.wait_for(accepts(OTHER)).await.unwrap();
        assert!(!seen.borrow().accept(ONE.as_bytes()));
        shutdown.cancel();
        task.await.unwrap();
    }
}
