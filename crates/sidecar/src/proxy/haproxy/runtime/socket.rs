//! Talking with HAProxy over its sockets: one line asks, an answer ends with the prompt.
//!
//! An answer is bounded in time and size, and anything that is not a whole answer is an error: what
//! HAProxy holds is read back afterwards in any case. It knows nothing of what the words mean.

use std::{io, path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

/// How long HAProxy may take for an answer, or for taking the connection.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// Longest answer, in bytes: that about 100,000 servers.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// What ends an answer of an interactive session.
const PROMPT: &[u8] = b"\n> ";

/// Why there is no answer. Whether the command was carried out is not known then.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocketError {
    /// Nobody listens there; asking again helps once somebody does.
    #[error("HAProxy's socket {0}: {1}")]
    Connect(String, io::Error),
    /// The connection broke.
    #[error("the connection to HAProxy's socket broke: {0}")]
    Broken(io::Error),
    /// It ended in the middle of an answer.
    #[error("HAProxy's answer to {0:?} ends after {1} bytes, in the middle")]
    Partial(String, usize),
    /// HAProxy is stopped or overloaded.
    #[error("HAProxy has not answered {0:?} within {PATIENCE:?}")]
    Silent(String),
    /// It does not end.
    #[error("HAProxy's answer to {0:?} is longer than {ANSWER_BYTES_MAX} bytes")]
    TooLong(String),
}

impl SocketError {
    /// Whether nobody listens at all, as opposed to somebody who answers badly.
    pub(super) fn is_absence(&self) -> bool {
        use io::ErrorKind::{ConnectionRefused, NotFound};
        matches!(self, Self::Connect(_, error) if matches!(error.kind(), ConnectionRefused | NotFound))
    }
}

/// An interactive session on the admin socket.
#[derive(Debug)]
pub(super) struct Session {
    stream: UnixStream,
}

impl Session {
    /// # Errors
    /// When nobody listens, or who does is no HAProxy.
    pub(super) async fn open(path: &Path) -> Result<Self, SocketError> {
        let stream = connect(path).await?;
        let mut session = Self { stream };
        session.ask("prompt").await?;
        Ok(session)
    }

    /// HAProxy's answer, without the blanks and line ends around it.
    ///
    /// # Errors
    /// When there is no whole answer; the session is of no use any more then.
    pub(super) async fn ask(&mut self, command: &str) -> Result<String, SocketError> {
        debug_assert!(!command.contains(['\n', ';']), "{command:?} is one command");
        exchange(&mut self.stream, command, |answer| answer.ends_with(PROMPT)).await
    }
}

/// One command to the master's socket, which ends the connection after its answer.
///
/// # Errors
/// As [`Session::ask`].
pub(super) async fn ask_master(path: &Path, command: &str) -> Result<String, SocketError> {
    let mut stream = connect(path).await?;
    exchange(&mut stream, &format!("{command}\nquit"), |_| false).await
}

async fn connect(path: &Path) -> Result<UnixStream, SocketError> {
    let named = |error| SocketError::Connect(path.display().to_string(), error);
    match timeout(PATIENCE, UnixStream::connect(path)).await {
        Ok(connected) => connected.map_err(named),
        Err(_) => Err(named(io::ErrorKind::TimedOut.into())),
    }
}

/// Asks, and reads until `is_whole` or, where that is never so, to the end.
async fn exchange(
    stream: &mut UnixStream,
    command: &str,
    is_whole: impl Fn(&[u8]) -> bool,
) -> Result<String, SocketError> {
    let ends_by_itself = is_whole(PROMPT);
    let conversation = async {
        let line = format!("{command}\n");
        let written = stream.write_all(line.as_bytes()).await;
        written.map_err(SocketError::Broken)?;
        let mut answer = Vec::with_capacity(4096);
        loop {
            let read = stream.read_buf(&mut answer).await;
            match read.map_err(SocketError::Broken)? {
                0 if ends_by_itself => {
                    return Err(SocketError::Partial(command.to_owned(), answer.len()));
                }
                0 => break,
                _ if is_whole(&answer) => {
                    answer.truncate(answer.len() - PROMPT.len());
                    break;
                }
                _ if answer.len() > ANSWER_BYTES_MAX => {
                    return Err(SocketError::TooLong(command.to_owned()));
                }
                _ => {}
            }
        }
        Ok(String::from_utf8_lossy(&answer).trim().to_owned())
    };
    match timeout(PATIENCE, conversation).await {
        Ok(answered) => answered,
        Err(_) => Err(SocketError::Silent(command.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tokio::net::UnixListener;

    use super::*;

    /// Somebody at a socket who answers each line with the next of `answers` and then hangs up.
    fn script(answers: &'static [&'static str]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for answer in answers {
                let mut line = Vec::new();
                while !line.ends_with(b"\n") {
                    stream.read_buf(&mut line).await.unwrap();
                }
                if *answer == "silence" {
                    return std::future::pending().await;
                }
                // In pieces that end where an answer could.
                for piece in answer.split_inclusive('>') {
                    stream.write_all(piece.as_bytes()).await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
        });
        (dir, path)
    }

    #[tokio::test]
    async fn answers_are_told_apart_by_the_prompt() {
        let (_dir, path) = script(&["\n> ", "a > b\nc\n\n> ", "\n> "]);
        let mut session = Session::open(&path).await.unwrap();
        assert_eq!(session.ask("show x").await.unwrap(), "a > b\nc");
        assert_eq!(session.ask("set x").await.unwrap(), "");
    }

    #[tokio::test]
    async fn half_an_answer_is_an_error() {
        let (_dir, path) = script(&["\n> ", "half an ans"]);
        let mut session = Session::open(&path).await.unwrap();
        let error = session.ask("show x").await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "HAProxy's answer to \"show x\" ends after 11 bytes, in the middle"
        );
        assert!(!error.is_absence());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_an_error_after_the_time_given() {
        let (_dir, path) = script(&["\n> ", "silence"]);
        let mut session = Session::open(&path).await.unwrap();
        let error = session.ask("show x").await.unwrap_err();
        assert!(matches!(error, SocketError::Silent(_)), "{error}");
    }

    #[tokio::test]
    async fn nobody_there_is_told_from_trouble() {
        let dir = tempfile::tempdir().unwrap();
        let error = Session::open(&dir.path().join("none")).await.unwrap_err();
        assert!(error.is_absence(), "{error}");
        let (_dir, path) = script(&[]);
        let error = Session::open(&path).await.unwrap_err();
        assert!(!error.is_absence(), "{error}");
    }

    #[tokio::test]
    async fn the_masters_answer_ends_with_the_connection() {
        let (_dir, path) = script(&["#<PID> <type>\n12 master 0\n\n"]);
        let answer = ask_master(&path, "show proc").await.unwrap();
        assert_eq!(answer, "#<PID> <type>\n12 master 0");
    }
}
