//! Log lines on standard error, in the two shapes of the original: logfmt text, or JSON objects
//! with `level`, `msg` and `time`.

use std::{
    fmt::{self, Write as _},
    time::SystemTime,
};

use catalog::Timestamp;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter, format::Writer},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::config::LogFormat;

/// Installs the process's log output, standard error. Only the first call counts.
pub fn start(level: Level, format: LogFormat) {
    start_with(level, format, std::io::stderr);
}

/// Installs another log output, which is given one line at a time. Only the first call counts.
pub fn start_with(
    level: Level,
    format: LogFormat,
    output: impl for<'a> MakeWriter<'a> + Send + Sync + 'static,
) {
    // Libraries speak up only when something is wrong; their debug output is not the operator's.
    let filter = Targets::new()
        .with_default(LevelFilter::from_level(level.min(Level::WARN)))
        .with_target("sidecar", level)
        .with_target("memberlist", level);
    let lines = tracing_subscriber::fmt::layer()
        .event_format(Lines {
            json: format == LogFormat::Json,
        })
        .with_writer(output);
    let started = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init();
    if started.is_err() {
        tracing::debug!("log output was already set up");
    }
}

struct Lines {
    json: bool,
}

/// The fields of one event, the message apart from the rest.
#[derive(Default)]
struct Fields {
    message: String,
    rest: Vec<(&'static str, String)>,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

impl Fields {
    fn put(&mut self, field: &Field, value: String) {
        if field.name() == "message" {
            self.message = value;
        } else {
            self.rest.push((field.name(), value));
        }
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        let time = Timestamp::from(SystemTime::now());
        let line = if self.json {
            json_line(&time.to_string(), level, &fields)
        } else {
            text_line(&time.to_string(), level, &fields)
        };
        writer.write_str(&line)
    }
}

fn text_line(time: &str, level: &str, fields: &Fields) -> String {
    let mut line = format!("time=\"{time}\" level={level} msg={:?}", fields.message);
    for (name, value) in &fields.rest {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._/:@,+[]".contains(c);
        let written = if !value.is_empty() && value.chars().all(plain) {
            write!(line, " {name}={value}")
        } else {
            write!(line, " {name}={value:?}")
        };
        written.expect("invariant: writing to a String cannot fail");
    }
    line.push('\n');
    line
}

fn json_line(time: &str, level: &str, fields: &Fields) -> String {
    let mut line = String::from("{\"level\":");
    let mut pairs = vec![("level", level), ("msg", &fields.message), ("time", time)];
    pairs.extend(
        fields
            .rest
            .iter()
            .map(|(name, value)| (*name, value.as_str())),
    );
    for (index, (name, value)) in pairs.iter().enumerate() {
        if index > 0 {
            line.push(',');
            catalog::json::write_text(&mut line, name);
            line.push(':');
        }
        catalog::json::write_text(&mut line, value);
    }
    line.push_str("}\n");
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Fields {
        Fields {
            message: "joined \"x\"".to_owned(),
            rest: vec![
                ("peer", "10.0.0.1:7946".to_owned()),
                ("why", "no answer".to_owned()),
            ],
        }
    }

    #[test]
    fn text_is_logfmt() {
        assert_eq!(
            text_line("2026-01-01T00:00:00Z", "info", &fields()),
            "time=\"2026-01-01T00:00:00Z\" level=info msg=\"joined \\\"x\\\"\" \
             peer=10.0.0.1:7946 why=\"no answer\"\n"
        );
    }

    #[test]
    fn json_is_one_object_a_line() {
        let line = json_line("2026-01-01T00:00:00Z", "warning", &fields());
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["level"], "warning");
        assert_eq!(value["msg"], "joined \"x\"");
        assert_eq!(value["why"], "no answer");
        assert_eq!(line.lines().count(), 1);
    }
}
