//! How often an instance is checked, how long a check may take, and how many results make a change.
//! Pure. What an owner wrote wins over the agent's settings, unless it makes no sense.

use std::{ops::RangeInclusive, time::Duration};

use crate::{
    config::values::{parse_duration, print_duration},
    discovery::CheckSpec,
};

/// From one check to the next. Shorter is load without use, longer is no check.
const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
/// The time of one check.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(300);
/// Results in a row.
const COUNT: RangeInclusive<u32> = 1..=100;

/// Most of a value that is repeated, in characters.
const VALUE_CHARS_MAX: usize = 64;

/// The pace of one instance's checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    /// From the beginning of one check to that of the next.
    pub(super) interval: Duration,
    /// The time a check has.
    pub(super) timeout: Duration,
    /// Successes in a row that make it alive; at least 1.
    pub(super) rise: u32,
    /// Failures in a row that make it unhealthy; at least 1.
    pub(super) fall: u32,
}

/// A setting that makes no sense and is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} ({label}) {value:?} is not {expected}; using {instead}")]
pub(super) struct BadSetting {
    what: &'static str,
    label: &'static str,
    value: String,
    expected: String,
    instead: String,
}

/// What the owner of an instance wrote, and `agent` where that is nothing or nonsense.
pub(super) fn read(spec: &CheckSpec, agent: Pace) -> (Pace, Vec<BadSetting>) {
    let mut bad = Vec::new();
    let mut duration =
        |what, label, text: Option<&String>, range: RangeInclusive<Duration>, agent| {
            let parse = |text: &str| parse_duration(text).filter(|it| range.contains(it));
            setting(text, parse).unwrap_or_else(|value| {
                let [least, most] = [range.start(), range.end()].map(|it| print_duration(*it));
                bad.push(BadSetting {
                    what,
                    label,
                    value,
                    expected: format!("a duration from {least} to {most} such as \"3s\""),
                    instead: print_duration(agent),
                });
                None
            })
        };
    let interval = duration(
        "health check interval",
        "HealthCheckInterval",
        spec.interval.as_ref(),
        INTERVAL,
        agent.interval,
    );
    let timeout = duration(
        "health check timeout",
        "HealthCheckTimeout",
        spec.timeout.as_ref(),
        TIMEOUT,
        agent.timeout,
    );
    let mut count = |what, label, text: Option<&String>, agent: u32| {
        let parse = |text: &str| text.parse().ok().filter(|it| COUNT.contains(it));
        setting(text, parse).unwrap_or_else(|value| {
            bad.push(BadSetting {
                what,
                label,
                value,
                expected: format!("a whole number from {} to {}", COUNT.start(), COUNT.end()),
                instead: agent.to_string(),
            });
            None
        })
    };
    let rise = count(
        "number of successes",
        "HealthCheckRise",
        spec.rise.as_ref(),
        agent.rise,
    );
    let fall = count(
        "number of failures",
        "HealthCheckFall",
        spec.fall.as_ref(),
        agent.fall,
    );
    let pace = Pace {
        interval: interval.unwrap_or(agent.interval),
        timeout: timeout.unwrap_or(agent.timeout),
        rise: rise.unwrap_or(agent.rise),
        fall: fall.unwrap_or(agent.fall),
    };
    (pace, bad)
}

/// A value, none where nothing is written, and what is written where that is no value.
fn setting<T>(
    text: Option<&String>,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, String> {
    match text.map(|text| text.trim()) {
        None | Some("") => Ok(None),
        Some(text) => parse(text)
            .map(Some)
            .ok_or_else(|| text.chars().take(VALUE_CHARS_MAX).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENT: Pace = Pace {
        interval: Duration::from_secs(3),
        timeout: Duration::from_millis(2999),
        rise: 1,
        fall: 1,
    };

    fn spec(interval: &str, timeout: &str, rise: &str, fall: &str) -> CheckSpec {
        CheckSpec {
            interval: Some(interval.to_owned()),
            timeout: Some(timeout.to_owned()),
            rise: Some(rise.to_owned()),
            fall: Some(fall.to_owned()),
            ..CheckSpec::default()
        }
    }

    #[test]
    fn what_is_written_wins_over_the_agents() {
        assert_eq!(read(&CheckSpec::default(), AGENT), (AGENT, Vec::new()));
        assert_eq!(read(&spec("", " ", "", ""), AGENT), (AGENT, Vec::new()));
        let pace = Pace {
            interval: Duration::from_secs(90),
            timeout: Duration::from_millis(500),
            rise: 3,
            fall: 100,
        };
        assert_eq!(
            read(&spec("1m30s", "500ms", " 3", "100"), AGENT),
            (pace, Vec::new())
        );
    }

    #[test]
    fn nonsense_is_named_and_the_agents_is_used() {
        for (spec, label, value, instead) in [
            (spec("3", "", "", ""), "HealthCheckInterval", "\"3\"", "3s"),
            (
                spec("99ms", "", "", ""),
                "HealthCheckInterval",
                "\"99ms\"",
                "3s",
            ),
            (
                spec("61m", "", "", ""),
                "HealthCheckInterval",
                "\"61m\"",
                "3s",
            ),
            (
                spec("", "0", "", ""),
                "HealthCheckTimeout",
                "\"0\"",
                "2.999s",
            ),
            (
                spec("", "-1s", "", ""),
                "HealthCheckTimeout",
                "\"-1s\"",
                "2.999s",
            ),
            (
                spec("", "6m", "", ""),
                "HealthCheckTimeout",
                "\"6m\"",
                "2.999s",
            ),
            (spec("", "", "0", ""), "HealthCheckRise", "\"0\"", "1"),
            (spec("", "", "two", ""), "HealthCheckRise", "\"two\"", "1"),
            (spec("", "", "", "101"), "HealthCheckFall", "\"101\"", "1"),
            (spec("", "", "", "1.5"), "HealthCheckFall", "\"1.5\"", "1"),
        ] {
            let (pace, bad) = read(&spec, AGENT);
            assert_eq!(pace, AGENT);
            let [bad] = &bad[..] else {
                panic!("one is bad: {bad:?}")
            };
            let text = bad.to_string();
            assert!(
                text.contains(&format!("({label}) {value} is not "))
                    && text.ends_with(&format!("; using {instead}")),
                "{text}"
            );
        }
        let (_, bad) = read(&spec("soon", "", "", ""), AGENT);
        assert_eq!(
            bad[0].to_string(),
            "health check interval (HealthCheckInterval) \"soon\" is not a duration from 100ms to \
             1h0m0s such as \"3s\"; using 3s"
        );
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        assert_eq!(read(&spec("a", "b", "c", "d"), AGENT).1.len(), 4);
    }
}
