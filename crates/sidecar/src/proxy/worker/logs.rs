//! Log lines of a worker on their way to the agent that drives it; the last ones wait while there is none.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait at most; of more the oldest are forgotten.
const LINES_MAX: usize = 256;

#[derive(Debug, Clone, Default)]
pub(super) struct Logs {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    lines: Mutex<VecDeque<String>>,
    news: Notify,
}

impl Logs {
    fn lines(&self) -> MutexGuard<'_, VecDeque<String>> {
        // One push or pop at a time: a panic elsewhere leaves it whole.
        let lines = self.shared.lines.lock();
        lines.unwrap_or_else(PoisonError::into_inner)
    }

    /// The oldest line, when there is one. May be given up.
    pub(super) async fn next(&self) -> String {
        loop {
            let news = self.shared.news.notified();
            if let Some(line) = self.lines().pop_front() {
                return line;
            }
            news.await;
        }
    }
}

impl io::Write for Logs {
    /// Takes one event, which is what the formatter writes at a time.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut lines = self.lines();
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(String::from_utf8_lossy(bytes).into_owned());
        drop(lines);
        self.shared.news.notify_one();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Logs {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[tokio::test]
    async fn lines_come_in_order_and_the_last_ones_wait() {
        let mut logs = Logs::default();
        let reader = logs.clone();
        let waiting = tokio::spawn(async move { reader.next().await });
        logs.write_all(b"first\n").unwrap();
        assert_eq!(waiting.await.unwrap(), "first\n");
        for number in 0..=LINES_MAX {
            logs.write_all(number.to_string().as_bytes()).unwrap();
        }
        assert_eq!(logs.next().await, "1");
    }
}
