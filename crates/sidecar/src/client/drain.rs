//! `sidecar drain` and `sidecar undrain`: an instance of the agent's own host leaves traffic, or comes back.

use std::time::Duration;

use clap::Args;

use super::{
    Exit, Failure,
    address::Connection,
    api::{Agent, encoded},
    documents::{Applied, Commanded, Hosts, Instance, Instances, Overview},
    output::{Colour, Output},
    selection::{PREFIX_CHARS_MIN, by_id, by_name},
    text::printable,
};
use crate::config::values::{parse_duration, print_duration};

/// Longest time that is waited for hosts.
const WAIT_MAX: Duration = Duration::from_secs(300);

/// What is to be drained.
#[derive(Debug, Args)]
pub struct DrainOptions {
    /// ID of the instance or its beginning (4 characters), or the name of a service with one instance here.
    #[arg(value_name = "ID|NAME")]
    subject: String,
    /// Give it traffic again after this time; without it, when it is undrained or replaced.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
    #[command(flatten)]
    common: Common,
}

/// What is to be undrained.
#[derive(Debug, Args)]
pub struct UndrainOptions {
    /// ID of the instance or its beginning (4 characters), or the name of a service with one instance here.
    #[arg(value_name = "ID|NAME")]
    subject: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Clone, Args)]
struct Common {
    /// Wait until every host has confirmed that it acts on it, at most this long.
    #[arg(
        long, value_name = "DURATION", num_args = 0..=1, require_equals = true,
        default_missing_value = "30s", value_parser = wait
    )]
    wait: Option<Duration>,
    #[command(flatten)]
    connection: Connection,
    /// Print the API's answer.
    #[arg(long)]
    json: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|it| !it.is_zero())
        .ok_or_else(|| "expected a duration such as 30s, 10m or 1h30m".to_owned())
}

fn wait(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|it| {
        let longest = print_duration(WAIT_MAX);
        (it <= WAIT_MAX)
            .then_some(it)
            .ok_or_else(|| format!("at most {longest} can be waited for"))
    })
}

pub(super) async fn drain(options: &DrainOptions, output: &mut Output) -> Result<Exit, Failure> {
    let agent = Agent::of(&options.common.connection)?;
    let action = Action {
        word: "drain",
        subject: &options.subject,
        timeout: options.timeout,
        wait: options.common.wait,
        json: options.common.json,
    };
    action.run(&agent, output).await
}

pub(super) async fn undrain(
    options: &UndrainOptions,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let agent = Agent::of(&options.common.connection)?;
    let action = Action {
        word: "undrain",
        subject: &options.subject,
        timeout: None,
        wait: options.common.wait,
        json: options.common.json,
    };
    action.run(&agent, output).await
}

/// One command.
#[derive(Debug)]
struct Action<'a> {
    word: &'static str,
    subject: &'a str,
    timeout: Option<Duration>,
    wait: Option<Duration>,
    json: bool,
}

impl Action<'_> {
    async fn run(&self, agent: &Agent, output: &mut Output) -> Result<Exit, Failure> {
        let overview: Overview = agent.get("/api/v2/overview").await?.read()?;
        let known: Instances = agent.get("/api/v2/instances").await?.read()?;
        let id = match select(self.subject, &overview.hostname, &known.instances) {
            Ok(instance) => instance.id.clone(),
            Err(Unselected::Elsewhere(instance)) => {
                return Err(self.elsewhere(agent, instance, &overview.hostname).await);
            }
            Err(Unselected::Unclear(text)) => return Err(Failure::usage(text)),
            Err(Unselected::Unknown(text)) => return Err(Failure::no(text)),
        };
        let patience = self.wait.unwrap_or_default();
        let answer = agent.command(&self.path(&id), patience).await?;
        let answer = answer.map_err(Failure::no)?;
        let commanded: Commanded = answer.read()?;
        if self.json {
            output.json(&answer.text)?;
        } else {
            output.lines(&self.told(&commanded, output))?;
        }
        Ok(match commanded.applied {
            Some(applied) if !is_complete(&applied) => Exit::Unconfirmed,
            // Nobody can have confirmed what the agent does not tell of.
            None if self.wait.is_some() => Exit::Unconfirmed,
            _ => Exit::Ok,
        })
    }

    fn path(&self, id: &str) -> String {
        let mut query = Vec::new();
        if let Some(timeout) = self.timeout {
            query.push(format!("timeout={}", print_duration(timeout)));
        }
        if let Some(wait) = self.wait {
            query.push(format!("wait={}", print_duration(wait)));
        }
        let query = match query.as_slice() {
            [] => String::new(),
            parts => format!("?{}", parts.join("&")),
        };
        format!("/api/v2/instances/{}/{}{query}", encoded(id), self.word)
    }

    /// What was done, and who says so.
    fn told(&self, commanded: &Commanded, output: &Output) -> Vec<String> {
        let until = match &commanded.until {
            Some(until) => format!(" until {until}"),
            None => String::new(),
        };
        let mut lines = vec![printable(&format!(
            "{} of {} on {} is {}{until}",
            commanded.id, commanded.name, commanded.hostname, commanded.status
        ))];
        let Some(applied) = &commanded.applied else {
            return lines;
        };
        let hosts = |hosts: &[String]| printable_list(hosts);
        let wait = print_duration(self.wait.unwrap_or_default());
        if !applied.confirmed.is_empty() {
            let text = format!("confirmed by {}", hosts(&applied.confirmed));
            lines.push(output.paint(Colour::Green, &text));
        }
        if !applied.unconfirmed.is_empty() {
            let text = format!(
                "not confirmed within {wait} by {}",
                hosts(&applied.unconfirmed)
            );
            lines.push(output.paint(Colour::Red, &text));
        }
        if !applied.not_asked.is_empty() {
            let text = format!("cannot confirm: {}", hosts(&applied.not_asked));
            lines.push(output.paint(Colour::Yellow, &text));
        }
        lines
    }

    /// Only its own host takes a command for an instance.
    async fn elsewhere(&self, agent: &Agent, instance: &Instance, asked: &str) -> Failure {
        let (id, host) = (&instance.id, &instance.hostname);
        let what = format!("{id} of {} runs on {host}, not on {asked}", instance.name);
        let timeout = self
            .timeout
            .map(|it| format!(" --timeout {}", print_duration(it)));
        let wait = self
            .wait
            .map(|it| format!(" --wait={}", print_duration(it)));
        let command = format!(
            "sidecar {} {id}{}{}",
            self.word,
            timeout.unwrap_or_default(),
            wait.unwrap_or_default()
        );
        match address_of(agent, host).await {
            Some(address) => Failure::no(format!(
                "{what}; run `{command} --addr {} --token-file FILE`, or `{command}` there",
                agent.place.on(&address)
            )),
            None => Failure::no(format!("{what}; run `{command}` there")),
        }
    }
}

/// Where other hosts reach this one, as the agent knows it.
async fn address_of(agent: &Agent, host: &str) -> Option<String> {
    let hosts: Hosts = agent.get("/api/v2/hosts").await.ok()?.read().ok()?;
    let found = hosts.hosts.into_iter().find(|it| it.name == host)?;
    // Only an address: this becomes part of a command that people paste.
    let address = found.address?;
    let ip = address.parse::<std::net::IpAddr>().ok();
    let ip = ip.or_else(|| Some(address.parse::<std::net::SocketAddr>().ok()?.ip()))?;
    Some(ip.to_string())
}

fn printable_list(hosts: &[String]) -> String {
    let hosts: Vec<String> = hosts.iter().map(|host| printable(host)).collect();
    hosts.join(", ")
}

fn is_complete(applied: &Applied) -> bool {
    applied.unconfirmed.is_empty() && applied.not_asked.is_empty()
}

/// Why no instance is selected.
#[derive(Debug, PartialEq, Eq)]
enum Unselected<'a> {
    /// It is one of another host.
    Elsewhere(&'a Instance),
    /// It could be several.
    Unclear(String),
    /// There is none.
    Unknown(String),
}

/// The one instance of `host` that a word means.
fn select<'a>(
    word: &str,
    host: &str,
    instances: &'a [Instance],
) -> Result<&'a Instance, Unselected<'a>> {
    let exact: Vec<_> = instances.iter().filter(|it| it.id == word).collect();
    let named: Vec<_> = by_name(word, instances)
        .into_iter()
        .filter(|it| !it.is_gone())
        .collect();
    let found = if !exact.is_empty() {
        exact
    } else if !named.is_empty() {
        named
    } else {
        by_id(word, instances)
    };
    let here: Vec<&Instance> = found
        .iter()
        .filter(|it| it.hostname == host)
        .copied()
        .collect();
    let candidates = if here.is_empty() { &found } else { &here };
    match candidates.as_slice() {
        [] => {
            let mut text = format!("no instance has the ID or the name {word:?}");
            if word.chars().count() < PREFIX_CHARS_MIN {
                text.push_str("; the beginning of an ID takes 4 characters");
            }
            Err(Unselected::Unknown(text))
        }
        [one] if one.hostname == host => Ok(one),
        [one] => Err(Unselected::Elsewhere(one)),
        several => {
            let list = several.iter().take(8);
            let list = list.map(|it| format!("{} ({} on {})", it.id, it.name, it.hostname));
            let list: Vec<String> = list.collect();
            Err(Unselected::Unclear(format!(
                "{word:?} means {} instances; name one by its ID: {}",
                several.len(),
                list.join(", ")
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::scripted::{self, Script};

    const INSTANCES: &str = r#"{"version":7,"instances":[
        {"id":"aaaa1111","name":"web","hostname":"web-01","status":"Alive"},
        {"id":"aaaa2222","name":"web","hostname":"web-02","status":"Alive"},
        {"id":"bbbb1111","name":"db","hostname":"web-01","status":"Alive"},
        {"id":"bbbb2222","name":"db","hostname":"web-01","status":"Alive"},
        {"id":"cccc1111","name":"cart","hostname":"web-02","status":"Alive"},
        {"id":"dddd1111","name":"old","hostname":"web-01","status":"Tombstone"}]}"#;
    const OVERVIEW: &str = r#"{"hostname":"web-01","cluster_name":"lab","ready":true,
        "now":"2026-02-03T12:00:00Z"}"#;
    const HOSTS: &str = r#"{"version":7,"hosts":[
        {"name":"web-02","address":"10.0.0.2","state":"alive"}]}"#;

    fn script(answer: &str) -> Script {
        Script::default()
            .at("/api/v2/overview", 200, OVERVIEW)
            .at("/api/v2/instances", 200, INSTANCES)
            .at("/api/v2/hosts", 200, HOSTS)
            .at("/api/v2/instances/aaaa1111/drain", 202, answer)
            .at("/api/v2/instances/aaaa1111/undrain", 202, answer)
    }

    fn answer(applied: &str) -> String {
        format!(
            r#"{{"id":"aaaa1111","name":"web","hostname":"web-01","status":"Draining",
                "until":"2026-02-03T12:10:00Z","applied":{applied}}}"#
        )
    }

    fn action(subject: &str, wait: Option<Duration>) -> Action<'_> {
        Action {
            word: "drain",
            subject,
            timeout: Some(Duration::from_secs(600)),
            wait,
            json: false,
        }
    }

    const WAIT: Option<Duration> = Some(Duration::from_secs(30));

    #[tokio::test]
    async fn what_was_confirmed_and_by_whom_is_told_and_decides_the_code() {
        for (applied, wait, exit, lines) in [
            ("null", None, Exit::Ok, ""),
            (
                r#"{"confirmed":["web-01","web-02"],"unconfirmed":[],"not_asked":[]}"#,
                WAIT,
                Exit::Ok,
                "confirmed by web-01, web-02\n",
            ),
            (
                r#"{"confirmed":["web-01"],"unconfirmed":["web-02","x\u001b[1m"],"not_asked":["go"]}"#,
                WAIT,
                Exit::Unconfirmed,
                "confirmed by web-01\nnot confirmed within 30s by web-02, x\\u{1b}[1m\n\
                 cannot confirm: go\n",
            ),
            ("null", WAIT, Exit::Unconfirmed, ""),
        ] {
            let (agent, mut heads) = scripted::agent(script(&answer(applied))).await;
            let mut output = Output::kept();
            let found = action("web", wait).run(&agent, &mut output).await;
            assert_eq!(found, Ok(exit), "{applied}");
            let first = "aaaa1111 of web on web-01 is Draining until 2026-02-03T12:10:00Z\n";
            assert_eq!(output.text(), format!("{first}{lines}"));
            let mut last = String::new();
            while let Ok(head) = heads.try_recv() {
                last = head;
            }
            let waits = if wait.is_some() { "&wait=30s" } else { "" };
            let line =
                format!("POST /api/v2/instances/aaaa1111/drain?timeout=10m0s{waits} HTTP/1.1\r\n");
            assert!(last.starts_with(&line), "{last}");
        }
    }

    #[tokio::test]
    async fn an_instance_of_another_host_is_answered_with_the_command_for_it() {
        let (agent, _heads) = scripted::agent(script("{}")).await;
        let mut output = Output::kept();
        let failure = action("cart", WAIT)
            .run(&agent, &mut output)
            .await
            .unwrap_err();
        let port = agent.place.address.port;
        assert_eq!(
            failure,
            Failure::no(format!(
                "cccc1111 of cart runs on web-02, not on web-01; run `sidecar drain cccc1111 \
                 --timeout 10m0s --wait=30s --addr 10.0.0.2:{port} --token-file FILE`, or `sidecar \
                 drain cccc1111 --timeout 10m0s --wait=30s` there"
            ))
        );
    }

    #[test]
    fn a_word_selects_exactly_one_instance_of_the_host() {
        let known: Instances = serde_json::from_str(INSTANCES).unwrap();
        let select = |word| select(word, "web-01", &known.instances);
        for word in ["aaaa1111", "aaaa1", "web"] {
            assert_eq!(select(word).unwrap().id, "aaaa1111", "{word}");
        }
        // The beginning of two, of which one is here.
        assert_eq!(select("aaaa").unwrap().id, "aaaa1111");
        assert!(matches!(select("aaaa2"), Err(Unselected::Elsewhere(it)) if it.id == "aaaa2222"));
        for word in ["db", "bbbb"] {
            let Err(Unselected::Unclear(text)) = select(word) else {
                panic!("{word} is clear");
            };
            assert!(text.contains("bbbb1111 (db on web-01), bbbb2222"), "{text}");
        }
        for word in ["aaa", "nothing", "old"] {
            assert!(
                matches!(select(word), Err(Unselected::Unknown(_))),
                "{word}"
            );
        }
    }

    #[test]
    fn durations_are_checked_before_anything_is_asked() {
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        for text in ["", "0", "-1s", "ten"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(wait("11m").unwrap_err().contains("5m0s"));
    }
}
