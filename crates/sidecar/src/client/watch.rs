//! `sidecar watch`: every change as it happens, over connections that may break.

use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, timeout};

use super::{
    Exit, Failure,
    address::Connection,
    api::Agent,
    documents::Change,
    events::{Event, Events},
    output::{Colour, Output, tell},
    text::{millis, printable, to_millis},
};

/// Agents say something at least every 15 s; after three of these silences the connection counts as lost.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// Pauses between attempts to connect again, the first and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How often is looked whether somebody still reads the output.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Widths of the columns of service, instance and host: later lines are not known yet.
const WIDTHS: [usize; 3] = [20, 14, 16];

/// What is asked for.
#[derive(Debug, Args)]
pub struct Options {
    /// Show changes of this service only.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    #[command(flatten)]
    connection: Connection,
    /// Print the API's changes, one object a line.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(options: &Options, output: &mut Output) -> Result<Exit, Failure> {
    let agent = Agent::of(&options.connection)?;
    let mut watcher = Watcher {
        agent,
        service: options.service.clone(),
        json: options.json,
        last_id: None,
    };
    tokio::select! {
        outcome = watcher.watch(output) => outcome,
        interrupted = tokio::signal::ctrl_c() => match interrupted {
            Ok(()) => Ok(Exit::Ok),
            Err(error) => Err(Failure::no(format!("cannot hear signals: {error}"))),
        }
    }
}

#[derive(Debug)]
struct Watcher {
    agent: Agent,
    service: Option<String>,
    json: bool,
    /// Of the last event seen; what comes after it is asked for.
    last_id: Option<String>,
}

impl Watcher {
    /// Ends when nobody reads the output any more, or when the first connection cannot be had.
    async fn watch(&mut self, output: &mut Output) -> Result<Exit, Failure> {
        let mut events = self.open().await?;
        let mut lost = None;
        let mut pause = PAUSES.0;
        loop {
            if let Some(since) = lost.take() {
                let away = Instant::now().duration_since(since);
                tell(&format!(
                    "connected again after {}",
                    millis(away.as_secs_f64() * 1000.0)
                ));
            }
            let trouble = self.follow(&mut events, output, &mut pause).await?;
            let since = *lost.insert(Instant::now());
            tell(&format!(
                "the connection to {} is lost: {trouble}; trying again",
                self.agent.place
            ));
            let mut told = String::new();
            events = loop {
                if wait(pause, output).await {
                    return Ok(Exit::Ok);
                }
                pause = (pause * 2).min(PAUSES.1);
                match self.open().await {
                    Ok(events) => break events,
                    // Who may not watch any more will not be let in by asking again.
                    Err(failure) if failure.exit == Exit::Refused => return Err(failure),
                    Err(failure) => {
                        let text = failure.to_string();
                        if text != told {
                            tell(&text);
                            told = text;
                        }
                    }
                }
            };
            lost = Some(since);
        }
    }

    async fn open(&self) -> Result<crate::net::http_client::Answer, Failure> {
        let path = "/api/v2/events?topics=changes";
        self.agent.events(path, self.last_id.as_deref()).await
    }

    /// Shows what comes until the connection breaks, and says why it did.
    async fn follow(
        &mut self,
        answer: &mut crate::net::http_client::Answer,
        output: &mut Output,
        pause: &mut Duration,
    ) -> Result<String, Failure> {
        let mut events = Events::default();
        let mut heard = Instant::now();
        loop {
            let piece = match timeout(LOOK_EVERY, answer.next()).await {
                Ok(Ok(Some(piece))) => piece,
                Ok(Ok(None)) => return Ok("the agent ended it".to_owned()),
                Ok(Err(error)) => return Ok(error.to_string()),
                Err(_) if output.is_closed() => return Err(Failure::closed()),
                Err(_) if heard.elapsed() > SILENCE_MAX => {
                    return Ok(format!("silent for {} s", SILENCE_MAX.as_secs()));
                }
                Err(_) => continue,
            };
            heard = Instant::now();
            *pause = PAUSES.0;
            match events.take(&piece) {
                Ok(events) => {
                    for event in events {
                        self.show(&event, output)?;
                    }
                }
                Err(error) => return Ok(error.to_string()),
            }
        }
    }

    fn show(&mut self, event: &Event, output: &mut Output) -> Result<(), Failure> {
        if !event.id.is_empty() {
            self.last_id = Some(event.id.clone());
        }
        match event.name.as_str() {
            "reset" => {
                tell(
                    "some changes were missed: the agent started anew, or there were too many at once",
                );
                Ok(())
            }
            "change" => {
                let change: Change = match serde_json::from_str(&event.data) {
                    Ok(change) => change,
                    Err(error) => {
                        tell(&format!("a change cannot be read: {error}"));
                        return Ok(());
                    }
                };
                let wanted = self.service.as_ref();
                if wanted.is_some_and(|name| *name != change.instance.name) {
                    return Ok(());
                }
                if self.json {
                    // Line ends in it can only stand between the parts of the document.
                    output.json(&event.data.replace(['\n', '\r'], " "))
                } else {
                    output.lines(&[line(&change, output)])
                }
            }
            _ => Ok(()),
        }
    }
}

/// Waits; whether the reader of the output has gone meanwhile.
async fn wait(pause: Duration, output: &Output) -> bool {
    let until = Instant::now() + pause;
    loop {
        if output.is_closed() {
            return true;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        tokio::time::sleep(left.min(LOOK_EVERY)).await;
    }
}

/// Time, service, instance, host, what it was and is, and how long the news took.
fn line(change: &Change, output: &Output) -> String {
    let instance = &change.instance;
    let cells = [&instance.name, &instance.id, &instance.hostname].map(|cell| printable(cell));
    let cells = cells.iter().zip(WIDTHS);
    let cells: Vec<String> = cells
        .map(|(cell, width)| format!("{cell:width$}"))
        .collect();
    let status = printable(&instance.status);
    let colour = match status.as_str() {
        "Alive" => Colour::Green,
        "Unhealthy" | "Tombstone" => Colour::Red,
        _ => Colour::Yellow,
    };
    let previous = change
        .previous
        .as_deref()
        .map_or_else(|| "new".to_owned(), printable);
    let taken = match change.latency_ms {
        Some(latency) => format!("after {}", millis(latency.max(0.0))),
        None if change.derived => "concluded here".to_owned(),
        None => String::new(),
    };
    let at = printable(&to_millis(&change.at));
    let status = output.paint(colour, &status);
    format!("{at}  {}  {previous} → {status}  {taken}", cells.join("  "))
        .trim_end()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::client::scripted::{self, Script};

    const CHANGES: &str = "id: 1f-4\nevent: hello\ndata: {}\n\n\
        id: 1f-5\nevent: change\ndata: {\"id\":\"1f-5\",\"at\":\"2026-02-03T12:00:00.123456Z\",\
        \"latency_ms\":12,\"derived\":false,\"previous\":\"Unknown\",\"instance\":{\"id\":\"0123456789ab\",\
        \"name\":\"web\",\"hostname\":\"web-01\",\"status\":\"Alive\"}}\n\n\
        id: 1f-6\nevent: change\ndata: {\"id\":\"1f-6\",\"at\":\"2026-02-03T12:00:01Z\",\
        \"latency_ms\":null,\"derived\":true,\"previous\":null,\"instance\":{\"id\":\"x\\u001b[2J\",\
        \"name\":\"db\",\"hostname\":\"web-02\",\"status\":\"Tombstone\"}}\n\n";

    async fn watcher(json: bool, service: Option<&str>) -> (Watcher, Output, String) {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n{CHANGES}");
        let (agent, mut heads) = scripted::agent(Script::raw(&answer)).await;
        let mut watcher = Watcher {
            agent,
            service: service.map(str::to_owned),
            json,
            last_id: None,
        };
        let mut output = Output::kept();
        let mut answer = watcher.open().await.unwrap();
        let trouble = watcher
            .follow(&mut answer, &mut output, &mut PAUSES.0.clone())
            .await;
        assert_eq!(trouble, Ok("the agent ended it".to_owned()));
        drop(answer);
        heads.recv().await.unwrap();
        let _ = watcher.open().await.unwrap();
        (watcher, output, heads.recv().await.unwrap())
    }

    #[tokio::test]
    async fn changes_are_lines_and_the_next_connection_goes_on_after_the_last() {
        let (_, output, head) = watcher(false, None).await;
        assert!(head.contains("last-event-id: 1f-6\r\n"), "{head}");
        expect![[r#"
            2026-02-03T12:00:00.123Z  web                   0123456789ab    web-01            Unknown → Alive  after 12 ms
            2026-02-03T12:00:01.000Z  db                    x\u{1b}[2J      web-02            new → Tombstone  concluded here
        "#]].assert_eq(&output.text());
    }

    #[tokio::test]
    async fn one_service_can_be_watched_and_programs_get_an_object_a_line() {
        let (_, output, _) = watcher(true, Some("web")).await;
        let text = output.text();
        let lines: Vec<&str> = text.lines().collect();
        let [line] = lines.as_slice() else {
            panic!("{text}");
        };
        let change: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(change["instance"]["name"], "web");
    }
}
