//! The effective configuration for people, in the original's shape plus the source of each value.

use serde_json::{Value, json};

use super::{Config, ConfigError, Origin, Setting};

/// Columns of the title and of the closing line.
const WIDTH: usize = 50;

impl Config {
    /// One line per item, as logged at start and printed by `sidecar config`.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("{:-<WIDTH$}", "Sidecar ")];
        for setting in &self.settings {
            let origin = origin(setting);
            lines.push(format!(
                "  * {}: {} ({origin})",
                setting.name, setting.value
            ));
        }
        lines.push("-".repeat(WIDTH));
        lines
    }
}

fn origin(setting: &Setting) -> String {
    match &setting.origin {
        Origin::Default => "default".to_owned(),
        Origin::Variable(name) if *name == setting.name => "environment".to_owned(),
        Origin::Variable(name) => format!("environment, {name}"),
        Origin::Flag(flag) => format!("--{flag}"),
    }
}

/// The same for programs: `valid`, and with it every setting with its source and the warnings, or all errors.
///
/// # Errors
/// None that a configuration could cause: encoding plain values does not fail.
pub fn json(outcome: &Result<Config, Vec<ConfigError>>) -> Result<String, serde_json::Error> {
    let document = match outcome {
        Ok(config) => {
            let settings = config.settings.iter().map(|setting| {
                json!({ "name": setting.name, "value": setting.value, "source": origin(setting) })
            });
            let settings: Vec<Value> = settings.collect();
            json!({ "valid": true, "settings": settings, "warnings": config.warnings })
        }
        Err(errors) => {
            let errors = errors.iter().map(|error| {
                let (name, value, expected) = (&error.name, &error.value, &error.expected);
                json!({ "name": name, "value": value, "expected": expected })
            });
            let errors: Vec<Value> = errors.collect();
            json!({ "valid": false, "errors": errors })
        }
    };
    serde_json::to_string_pretty(&document)
}
