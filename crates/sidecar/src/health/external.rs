//! Checks that are programs: run directly, without a shell, in a process group of their own.
//!
//! The group is what makes an end of it: when time is up, or when nobody wants the answer any more
//! (the future is dropped), all of the group is killed, not just the program that was started. What a
//! program leaves behind after it has ended by itself is its own affair.

use std::{io, os::fd::OwnedFd, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    net::unix::pipe,
    process::{Child, Command},
    time::timeout,
};

use super::orphans::Orphans;
use crate::config::variables::SECRETS;

/// Most of a program's output that is kept, in bytes; the rest is read and dropped.
const OUTPUT_BYTES_MAX: usize = 4 * 1024;

/// Why a program's answer is not "healthy".
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExternalError {
    /// It is not there, or may not be run.
    #[error("cannot run {program:?}: {cause}")]
    Start {
        /// The first word of the command line.
        program: String,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// It said no, by its exit status or by dying of a signal.
    #[error("{program:?} ended with {status}")]
    Failed {
        /// The first word of the command line.
        program: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The beginning of what it wrote to standard output and standard error.
        output: String,
    },
    /// It said nothing in time and was killed with all its children.
    #[error("{program:?} did not end within {limit:?} and was killed")]
    Timeout {
        /// The first word of the command line.
        program: String,
        /// The time it had.
        limit: Duration,
        /// The beginning of what it wrote to standard output and standard error.
        output: String,
    },
}

impl ExternalError {
    /// The beginning of what it wrote; empty when it wrote nothing or did not run.
    pub(crate) fn output(&self) -> &str {
        match self {
            Self::Start { .. } => "",
            Self::Failed { output, .. } | Self::Timeout { output, .. } => output,
        }
    }
}

/// Runs a program until it ends or `limit` is over; exit status 0 is success, with the beginning of
/// what it wrote. It gets this process's environment without its secrets, since what it writes is shown,
/// and an empty standard input.
pub(crate) async fn run(
    words: &[String],
    limit: Duration,
    orphans: &Orphans,
) -> Result<String, ExternalError> {
    let program = words.first().cloned().unwrap_or_default();
    let (mut group, mut output) = match start(words, orphans) {
        Ok(started) => started,
        Err(cause) => return Err(ExternalError::Start { program, cause }),
    };
    let ended = async {
        loop {
            tokio::select! {
                status = group.child.wait() => return status,
                () = output.more(), if output.is_open => {}
            }
        }
    };
    let status = timeout(limit, ended).await;
    // All that was written is in the pipe by now; its end may never come, as children can hold it.
    output.drain();
    let output = output.into_text();
    match status {
        Ok(Ok(status)) if status.success() => Ok(output),
        Ok(Ok(status)) => Err(ExternalError::Failed {
            program,
            status,
            output,
        }),
        Ok(Err(cause)) => Err(ExternalError::Start { program, cause }),
        Err(_) => Err(ExternalError::Timeout {
            program,
            limit,
            output,
        }),
    }
}

/// A running program and its children; dropping it kills them all.
struct Group {
    child: Child,
    leader: Option<Pid>,
    orphans: Orphans,
}

impl Drop for Group {
    fn drop(&mut self) {
        let Some(leader) = self.leader else { return };
        // There is an id only until the program is waited for, so it cannot be someone else's by now.
        if self.child.id().is_some()
            && let Err(error) = kill_process_group(leader, Signal::KILL)
        {
            tracing::warn!(pid = %leader, %error, "cannot kill the process group of a check");
        }
        self.orphans.watch(leader);
    }
}

fn start(words: &[String], orphans: &Orphans) -> io::Result<(Group, Output)> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the command line is empty",
        ));
    };
    // One pipe for both streams keeps their lines in order.
    let (reader, writer) = io::pipe()?;
    let output = Output::new(reader.into())?;
    // Dropped at the end of this function, and with it our ends of the pipe.
    let mut command = Command::new(program);
    command
        .args(arguments)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    for secret in SECRETS {
        command.env_remove(secret);
    }
    let child = command.spawn()?;
    let leader = child.id().and_then(|id| i32::try_from(id).ok());
    let group = Group {
        child,
        leader: leader.and_then(Pid::from_raw),
        orphans: orphans.clone(),
    };
    Ok((group, output))
}

/// The bounded output of a program.
struct Output {
    pipe: pipe::Receiver,
    kept: Vec<u8>,
    is_open: bool,
}

impl Output {
    fn new(reader: OwnedFd) -> io::Result<Self> {
        let pipe = pipe::Receiver::from_owned_fd(reader)?;
        Ok(Self {
            pipe,
            kept: Vec::new(),
            is_open: true,
        })
    }

    /// Waits for output and takes it.
    async fn more(&mut self) {
        match self.pipe.readable().await {
            Ok(()) => self.drain(),
            Err(_) => self.is_open = false,
        }
    }

    /// Takes what is there, up to a bound: a program that never stops writing must not hold us.
    fn drain(&mut self) {
        let mut buffer = [0; 4096];
        for _ in 0..64 {
            match self.pipe.try_read(&mut buffer) {
                Ok(0) => self.is_open = false,
                Ok(count) => {
                    let room = OUTPUT_BYTES_MAX - self.kept.len();
                    self.kept.extend_from_slice(&buffer[..count.min(room)]);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => self.is_open = false,
            }
            return;
        }
    }

    fn into_text(self) -> String {
        String::from_utf8_lossy(&self.kept).trim_end().to_owned()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{io::BufRead as _, path::Path};

    use rustix::process::test_kill_process;

    use super::*;

    /// Far more than any program here takes; only a failing test waits for it.
    const AMPLE: Duration = Duration::from_secs(30);

    async fn outcome(line: &str) -> Result<(), String> {
        let words = super::super::words::split(line).unwrap();
        let output = run(&words, AMPLE, &Orphans::default()).await;
        output
            .map(drop)
            .map_err(|error| format!("{error}: {:?}", error.output()))
    }

    /// The other end of a process that a check has started.
    ///
    /// The process is told to hold a FIFO open and to write its id there: the id proves that it
    /// lived, the end of the FIFO that it and all who share it are dead. Neither needs waiting.
    pub(in crate::health) struct Witness {
        directory: tempfile::TempDir,
    }

    impl Witness {
        pub(in crate::health) fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let fifo = directory.path().join("fifo");
            let made = std::process::Command::new("mkfifo")
                .arg(&fifo)
                .status()
                .unwrap();
            assert!(made.success());
            Self { directory }
        }

        /// A command line whose grandchild holds the FIFO and lives for an hour.
        pub(in crate::health) fn command_line(&self) -> String {
            let fifo = Path::new(self.directory.path()).join("fifo");
            format!(
                "/bin/sh -c 'echo before; sh -c \"echo \\$\\$; exec sleep 3600\" > {} & wait'",
                fifo.display()
            )
        }

        /// Waits until the grandchild lives.
        pub(in crate::health) async fn born(self) -> (Pid, io::BufReader<std::fs::File>, Self) {
            tokio::task::spawn_blocking(move || {
                let fifo = std::fs::File::open(self.directory.path().join("fifo")).unwrap();
                let mut fifo = io::BufReader::new(fifo);
                let mut line = String::new();
                fifo.read_line(&mut line).unwrap();
                let pid = Pid::from_raw(line.trim().parse().unwrap()).unwrap();
                test_kill_process(pid).unwrap();
                (pid, fifo, self)
            })
            .await
            .unwrap()
        }
    }

    /// Waits until nobody holds the FIFO any more.
    pub(in crate::health) async fn dead(mut fifo: io::BufReader<std::fs::File>) {
        let rest = tokio::task::spawn_blocking(move || {
            let mut rest = String::new();
            io::Read::read_to_string(&mut fifo, &mut rest).map(|_| rest)
        });
        assert_eq!(rest.await.unwrap().unwrap(), "");
    }

    #[tokio::test]
    async fn the_exit_status_decides() {
        assert_eq!(outcome("/bin/sh -c 'exit 0'").await, Ok(()));
        assert_eq!(outcome("true").await, Ok(()));
        let error = outcome("/bin/sh -c 'echo out; echo err >&2; echo out; exit 2'").await;
        let error = error.unwrap_err();
        assert!(error.contains("exit status: 2"), "{error}");
        assert!(error.contains("\"out\\nerr\\nout\""), "{error}");
        let error = outcome("/bin/sh -c 'kill -9 $$'").await.unwrap_err();
        assert!(error.contains("signal: 9"), "{error}");
    }

    #[tokio::test]
    async fn arguments_arrive_as_they_were_quoted() {
        let test = "/bin/sh -c 'test \"$1\" = \"a  b\" && test \"$2\" = \"\" && test $# = 2' sh";
        assert_eq!(outcome(&format!("{test} \"a  b\" ''")).await, Ok(()));
        assert!(outcome(&format!("{test} a  b ''")).await.is_err());
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let error = outcome("/no/such/check -v").await.unwrap_err();
        assert!(
            error.starts_with("cannot run \"/no/such/check\""),
            "{error}"
        );
        assert!(run(&[], AMPLE, &Orphans::default()).await.is_err());
    }

    #[tokio::test]
    async fn standard_input_is_empty_and_not_ours() {
        assert_eq!(outcome("/bin/sh -c 'test -z \"$(cat)\"'").await, Ok(()));
    }

    #[tokio::test]
    async fn output_is_bounded_and_never_blocks_the_program() {
        let line = "/bin/sh -c 'head -c 1000000 /dev/zero | tr \"\\\\0\" x; exit 1'";
        let words = super::super::words::split(line).unwrap();
        let Err(ExternalError::Failed { output, .. }) =
            run(&words, AMPLE, &Orphans::default()).await
        else {
            panic!("it fails");
        };
        assert_eq!(output, "x".repeat(OUTPUT_BYTES_MAX));
    }

    #[tokio::test]
    async fn a_child_that_keeps_the_output_open_delays_nothing() {
        let witness = Witness::new();
        let fifo = witness.directory.path().join("fifo");
        // The grandchild has standard output from us and ends when the test lets go of the FIFO.
        let line = format!("/bin/sh -c 'cat {} & exit 3'", fifo.display());
        let error = outcome(&line).await.unwrap_err();
        assert!(error.contains("exit status: 3"), "{error}");
        let release = tokio::task::spawn_blocking(move || std::fs::File::create(fifo).map(drop));
        release.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_timeout_kills_grandchildren_too() {
        let witness = Witness::new();
        let words = super::super::words::split(&witness.command_line()).unwrap();
        let check = tokio::spawn(async move { run(&words, AMPLE, &Orphans::default()).await });
        let (_, fifo, _witness) = witness.born().await;
        tokio::time::pause();
        tokio::time::advance(AMPLE).await;
        let outcome = check.await.unwrap();
        let error = outcome.unwrap_err();
        assert!(matches!(error, ExternalError::Timeout { .. }), "{error}");
        assert!(error.output().contains("before"), "{error}");
        dead(fifo).await;
    }

    #[tokio::test]
    async fn a_check_that_is_dropped_kills_grandchildren_too() {
        let witness = Witness::new();
        let words = super::super::words::split(&witness.command_line()).unwrap();
        let check = tokio::spawn(async move { run(&words, AMPLE, &Orphans::default()).await });
        let (_, fifo, _witness) = witness.born().await;
        check.abort();
        dead(fifo).await;
    }
}
